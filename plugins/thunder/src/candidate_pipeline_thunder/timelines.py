"""Queues of posts by author, newest first, and the collection of a viewer's posts from them.

The rules and their order follow Thunder of the x-algorithm releases of January and May 2026. Different on purpose:
posts of the request's very millisecond are visible, removed posts use up nothing of the scan limit, and the order of
posts of one time is fixed.
"""

from __future__ import annotations

from typing import Self

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_thunder.posts import Int64, Mask, Posts

Rows = NDArray[np.intp]


@attrs.frozen
class Limits:
    """How much of an author's queues one request takes.

    Args:
        originals: Posts that are neither replies nor reposts.
        secondary: Replies and reposts.
        videos: Posts with video, where only those are wanted.
        scan: Posts of a queue that are looked at, excluded ones not counted.
    """

    originals: int = 50
    secondary: int = 30
    videos: int = 100
    scan: int = 500


@attrs.frozen
class Moment:
    """The span of time in which posts are visible, in milliseconds since 1970-01-01 UTC.

    Both ends count: a post made at `now` is visible, and so is one exactly as old as the retention.
    """

    oldest: int
    now: int


@attrs.frozen(eq=False)
class Queues:
    """Rows of posts grouped by author, the newest first, those of one time by falling id (compressed rows).

    Args:
        rows: Rows of the posts, intp [m]: author by author.
        authors: The authors that have any, int64 [a], rising.
        starts: Where each author's rows begin, intp [a + 1].
        newest_first: Complements (`~`) of the creation times of `rows`, so that they rise in a queue, int64 [m].
    """

    rows: Rows
    authors: Int64
    starts: Rows
    newest_first: Int64

    @classmethod
    def of(cls, posts: Posts, rows: Rows) -> Self:
        """Queues of the given rows of posts."""
        # ~x falls as x rises and, unlike -x, is defined for every int64.
        author, newest_first = posts.author_id[rows], ~posts.created_at[rows]
        order = np.lexsort((~posts.item_id[rows], newest_first, author))
        authors, counts = np.unique(author, return_counts=True)
        starts = np.zeros(len(authors) + 1, np.intp)
        np.cumsum(counts, out=starts[1:])
        return cls(rows[order], authors, starts, newest_first[order])

    def places(self, authors: Int64) -> Rows:
        """Places of the authors that have a queue; the others are left out."""
        if not len(self.authors):
            return np.empty(0, np.intp)
        at = np.minimum(np.searchsorted(self.authors, authors), len(self.authors) - 1)
        found: Rows = at[self.authors[at] == authors]
        return found

    def window(self, places: Rows, moment: Moment) -> tuple[Rows, Rows]:
        """Where the visible posts of the queues at `places` begin and end in `rows`, intp [k] each."""
        low, high = self.starts[places], self.starts[places + 1]
        return self._bisect(low, high, ~moment.now), self._bisect(low, high, ~moment.oldest + 1)

    def _bisect(self, low: Rows, high: Rows, value: int) -> Rows:
        """First position of each span that holds `value` or more; all spans are halved at once."""
        low, high = low.copy(), high.copy()
        while (open_ := low < high).any():
            middle = (low + high) // 2
            less = open_ & (self.newest_first[np.minimum(middle, len(self.newest_first) - 1)] < value)
            low = np.where(less, middle + 1, low)
            high = np.where(open_ & ~less, middle, high)
        return low


@attrs.frozen(eq=False)
class _Request:
    """What one collection is about: `shut` marks excluded posts, `shut_authors` are theirs, rising."""

    viewer: int
    follows: Int64
    moment: Moment
    scan: int
    shut: Mask
    shut_authors: Int64

    def excluded_of(self, authors: Int64) -> Rows:
        """How many posts of each author are excluded, intp [k]."""
        first = np.searchsorted(self.shut_authors, authors, "left")
        return np.searchsorted(self.shut_authors, authors, "right") - first


@attrs.frozen(eq=False)
class Timelines:
    """Posts and their queues at one moment of the store's life; never changed, so readers need no lock.

    Args:
        posts: The posts, in the order of `item_id`.
        originals: Queues of originals.
        secondary: Queues of replies and reposts.
        videos: Queues of posts with video: own ones, and reposts of posts in the store that are no reply and have
            one. Replies are never among them.
        parent: Row of the post that each answers, -1 where there is none in the store, intp [n].
        reply_to_author: Who posted what each answers, 0 unknown, int64 [n].
        repost_author: Who posted what each passes on, 0 unknown, int64 [n].
    """

    posts: Posts
    originals: Queues
    secondary: Queues
    videos: Queues
    parent: Rows
    reply_to_author: Int64
    repost_author: Int64

    @classmethod
    def build(cls, posts: Posts) -> Self:
        """Queues over posts; of rows with one id the last counts. Sorts everything once."""
        _, backwards = np.unique(posts.item_id[::-1], return_index=True)
        posts = posts.take(len(posts) - 1 - backwards)
        parent = row_of(posts.item_id, posts.reply_to)
        source = row_of(posts.item_id, posts.repost_of)
        video = posts.has_video.copy()
        passed_on = source >= 0
        video[passed_on] |= posts.has_video[source[passed_on]] & ~posts.is_reply[source[passed_on]]
        return cls(
            posts,
            Queues.of(posts, np.flatnonzero(posts.is_original)),
            Queues.of(posts, np.flatnonzero(~posts.is_original)),
            Queues.of(posts, np.flatnonzero(video & ~posts.is_reply)),
            parent,
            _known(posts.reply_to_author, posts.author_id, parent),
            _known(posts.repost_author, posts.author_id, source),
        )

    def collect(
        self,
        viewer: int,
        follows: Int64,
        moment: Moment,
        limits: Limits,
        *,
        exclude: Int64,
        videos_only: bool,
        max_results: int,
    ) -> Rows:
        """Rows of the posts for a viewer, the newest first, those of one time by falling id.

        Args:
            viewer: For whom; reposts of the viewer's own posts are left out.
            follows: The authors to collect from.
            moment: What is visible.
            limits: How much of each queue is taken.
            exclude: Posts to leave out, by their own id.
            videos_only: Take the video queues instead of the others, without the rules on replies.
            max_results: At most so many.
        """
        found = row_of(self.posts.item_id, np.unique(exclude))
        found = found[found >= 0]
        shut = np.zeros(len(self.posts), np.bool_)
        shut[found] = True
        request = _Request(viewer, np.unique(follows), moment, limits.scan, shut, np.sort(self.posts.author_id[found]))
        if videos_only:
            rows = self._pass(request, self.videos, limits.videos)
        else:
            first = self._pass(request, self.originals, limits.originals)
            then = self._pass(request, self.secondary, limits.secondary, reply_rules=True)
            rows = np.concatenate([first, then])
        order = np.lexsort((~self.posts.item_id[rows], ~self.posts.created_at[rows]))
        newest: Rows = rows[order[:max_results]]
        return newest

    def _pass(self, request: _Request, queues: Queues, most: int, *, reply_rules: bool = False) -> Rows:
        """The first `most` acceptable posts of every followed author's queue."""
        places = queues.places(request.follows)
        begin, end = queues.window(places, request.moment)
        excluded = request.excluded_of(queues.authors[places])
        # The first `scan` posts that are not excluded lie within the first `scan` + the author's excluded ones.
        rows, owner = _spans(begin, np.minimum(end - begin, request.scan + excluded))
        rows = queues.rows[rows]
        open_ = ~request.shut[rows]
        rows, owner = rows[open_], owner[open_]
        seen = _rank(owner) < request.scan
        rows, owner = rows[seen], owner[seen]
        good = (self.repost_author[rows] != request.viewer) | (self.posts.repost_of[rows] == 0)
        if reply_rules:
            good &= self._fits(rows, request.follows, request.moment)
        rows, owner = rows[good], owner[good]
        first: Rows = rows[_rank(owner) < most]
        return first

    def _fits(self, rows: Rows, follows: Int64, moment: Moment) -> Mask:
        """The rules on replies: which of the rows may be shown, bool [k].

        A reply needs the post it answers in sight. That post is an original, or it answers the conversation's first
        post directly and the viewer follows who wrote it.
        """
        posts = self.posts
        parent = self.parent[rows]
        created = posts.created_at[parent]
        in_sight = (parent >= 0) & (created <= moment.now) & (created >= moment.oldest)
        conversation = posts.conversation_id[rows]
        near_root = (conversation != 0) & (posts.reply_to[parent] == conversation)
        followed = np.isin(self.reply_to_author[rows], follows)
        fits: Mask = ~posts.is_reply[rows] | (in_sight & (posts.is_original[parent] | (near_root & followed)))
        return fits


def row_of(ids: Int64, wanted: Int64) -> Rows:
    """The position of each wanted id in rising `ids`, -1 where it is not among them (0 never is), intp [k]."""
    if not len(ids):
        return np.full(len(wanted), -1, np.intp)
    at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where((ids[at] == wanted) & (wanted != 0), at, -1)


def _known(given: Int64, authors: Int64, rows: Rows) -> Int64:
    """The given authors, and where they are 0 those of the posts at `rows` (-1: none)."""
    return np.where((given == 0) & (rows >= 0), authors[rows] if len(authors) else 0, given)


def _spans(begin: Rows, length: Rows) -> tuple[Rows, Rows]:
    """The positions of all spans, one after another, and which span each belongs to."""
    owner = np.repeat(np.arange(len(begin)), length)
    before = np.cumsum(length) - length
    return np.arange(len(owner)) - before[owner] + begin[owner], owner


def _rank(owner: Rows) -> Rows:
    """Place of each element among those of its owner, from 0; equal owners stand together."""
    places = np.arange(len(owner))
    first = np.concatenate([[True], owner[1:] != owner[:-1]]) if len(owner) else np.empty(0, np.bool_)
    return places - np.maximum.accumulate(np.where(first, places, 0))
