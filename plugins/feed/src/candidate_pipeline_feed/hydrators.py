"""Hydrators: what the tables know of posts and their authors, and how the viewer relates to them."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.keys import ITEM_ID, Column, Key
from candidate_pipeline.patches import ColumnUpdate, Patch, patch
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import (
    ANCESTORS,
    AUTHOR_FOLLOWERS,
    AUTHOR_HANDLE,
    AUTHOR_ID,
    AUTHOR_NAME,
    CONVERSATION_ID,
    CREATED_AT,
    FOLLOWED_BY,
    FOLLOWS,
    IN_NETWORK,
    LANGUAGE,
    MUTUAL_FOLLOW,
    QUOTE_AUTHOR_ID,
    QUOTE_OF,
    REPLY_TO,
    REPOST_AUTHOR_ID,
    REPOST_OF,
    SUBSCRIBER_ONLY,
    TEXT,
    TOPIC,
    VIDEO_DURATION_MS,
    VIEWER_ID,
)
from candidate_pipeline_feed.lookups import Found, items_of, users_of
from candidate_pipeline_feed.membership import member
from candidate_pipeline_feed.store import FeedTables


@attrs.frozen
class Items:
    """What the items table knows of each post.

    A repost shows its original: text, topic, language, video and the post it quotes are the original's where the
    table has it. Author, time, reply and conversation are the repost's own. A post that the table does not know gets
    null cells, and so does a value that the table does not have. After the core data, quote, video and subscription
    hydrators of the x-algorithm releases of January and May 2026; there they run side by side and cannot see each
    other's output, so the video of a repost was looked for under the repost's id.

    Args:
        data: The tables.
    """

    data: FeedTables

    reads: ClassVar[tuple[Key, ...]] = (ITEM_ID,)
    writes: ClassVar[tuple[Key, ...]] = (
        AUTHOR_ID,
        CREATED_AT,
        TEXT,
        TOPIC,
        LANGUAGE,
        REPLY_TO,
        ANCESTORS,
        CONVERSATION_ID,
        REPOST_OF,
        REPOST_AUTHOR_ID,
        QUOTE_OF,
        QUOTE_AUTHOR_ID,
        VIDEO_DURATION_MS,
        SUBSCRIBER_ONLY,
    )

    def hydrate(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Look the posts up, and the posts that they repost and quote."""
        own = items_of(self.data, candidates[ITEM_ID])
        original = items_of(self.data, *own.cells("repost_of"))
        shown = original.otherwise(own)
        quoted = items_of(self.data, *shown.cells("quote_of"))
        return patch(
            _column(AUTHOR_ID, own, "author_id"),
            _column(CREATED_AT, own, "created_at"),
            _column(TEXT, shown, "text"),
            _column(TOPIC, shown, "topic"),
            _column(LANGUAGE, shown, "language"),
            _column(REPLY_TO, own, "reply_to"),
            _ancestors(own),
            _conversation(own, candidates[ITEM_ID]),
            _column(REPOST_OF, own, "repost_of"),
            _column(REPOST_AUTHOR_ID, original, "author_id"),
            _column(QUOTE_OF, shown, "quote_of"),
            _column(QUOTE_AUTHOR_ID, quoted, "author_id"),
            _column(VIDEO_DURATION_MS, shown, "video_duration_ms"),
            SUBSCRIBER_ONLY(own.cells("subscriber_only")[0] | original.cells("subscriber_only")[0], valid=own.found),
        )


@attrs.frozen
class Authors:
    """Name, handle and followers of each post's author.

    Followers that the users table does not say are counted from the follow edges made before the request.

    Args:
        data: The tables.
    """

    data: FeedTables

    reads: ClassVar[tuple[Key, ...]] = (AUTHOR_ID,)
    writes: ClassVar[tuple[Key, ...]] = (AUTHOR_NAME, AUTHOR_HANDLE, AUTHOR_FOLLOWERS)

    def hydrate(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Look the authors up."""
        ids = candidates[AUTHOR_ID]
        authors = users_of(self.data, ids, candidates.valid(AUTHOR_ID))
        followers, said = authors.cells("followers_count")
        count = authors.found & ~said
        if count.any():
            followers = np.where(count, self.data.follower_counts(ids, query.now_ms), followers)
        return patch(
            _column(AUTHOR_NAME, authors, "name"),
            _column(AUTHOR_HANDLE, authors, "handle"),
            AUTHOR_FOLLOWERS(followers, valid=authors.found),
        )


@attrs.frozen
class InNetwork:
    """Whether the viewer wrote a post or follows its author, and whether the two follow each other.

    After the in-network hydrator of the x-algorithm releases of January and May 2026. Unknown (null) where the author
    is; where the list of follows failed, the cells fail too, so that nothing is taken for out of network by mistake.
    """

    reads: ClassVar[tuple[Key, ...]] = (VIEWER_ID, FOLLOWS, FOLLOWED_BY, AUTHOR_ID)
    writes: ClassVar[tuple[Key, ...]] = (IN_NETWORK, MUTUAL_FOLLOW)

    def hydrate(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Compare each author with the viewer's lists."""
        authors, known = candidates[AUTHOR_ID], candidates.valid(AUTHOR_ID)
        follows = member(authors, query[FOLLOWS])
        return patch(
            IN_NETWORK(follows | (authors == query[VIEWER_ID]), valid=known),
            MUTUAL_FOLLOW(follows & member(authors, query[FOLLOWED_BY]), valid=known),
        )


def _column(column: Column[Any], found: Found, name: str) -> ColumnUpdate:
    values, valid = found.cells(name)
    return column(values, valid=valid)


def _ancestors(own: Found) -> ColumnUpdate:
    parents, replies = own.cells("reply_to")
    roots, rooted = own.cells("conversation_id")
    further = rooted & (roots != parents)
    ancestors: NDArray[np.object_] = np.full(len(parents), None, dtype=np.object_)
    for row in np.flatnonzero(replies).tolist():
        parent = int(parents[row])
        ancestors[row] = (parent, int(roots[row])) if further[row] else (parent,)
    return ANCESTORS(ancestors, valid=replies)


def _conversation(own: Found, ids: NDArray[np.int64]) -> ColumnUpdate:
    """A post without a conversation of its own begins one."""
    roots, rooted = own.cells("conversation_id")
    return CONVERSATION_ID(np.where(rooted, roots, ids), valid=own.found)
