"""The store of recent posts: built from the items table, then fed with posts and removals as they come."""

from __future__ import annotations

import datetime as dt
import threading
from typing import Annotated

import attrs
import numpy as np
from annotated_types import Ge, Gt

from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.options import Doc
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_thunder.posts import Int64, Posts
from candidate_pipeline_thunder.timelines import Limits, Moment, Rows, Timelines

_MILLISECOND = dt.timedelta(milliseconds=1)


@attrs.frozen(eq=False)
class Recent:
    """What the store returns for a request: posts, and what it knows around them.

    Args:
        posts: The posts, the newest first.
        repost_author: Who posted the original of each repost, 0 unknown, int64 [n].
    """

    posts: Posts
    repost_author: Int64

    def __len__(self) -> int:
        return len(self.posts)


@attrs.define(eq=False)
class PostStore:
    """Recent posts in memory, by author.

    The request's clock decides what is visible: posts made at or before it and no older than `retention`. Posts that
    are dated later wait in the store until a request's clock reaches them.

    Reading takes no lock: a change builds new queues and puts them in place of the old ones in one step. A change
    sorts the whole store (about a second for a million posts), so changes belong in batches.
    """

    data: FeedTables
    retention: Annotated[dt.timedelta, Gt(dt.timedelta(0)), Doc("Older posts are not returned.")] = dt.timedelta(
        hours=48
    )
    max_originals: Annotated[int, Ge(1), Doc("Originals of one author in a request.", unit="posts")] = 50
    max_secondary: Annotated[int, Ge(1), Doc("Replies and reposts of one author in a request.", unit="posts")] = 30
    max_videos: Annotated[int, Ge(1), Doc("Videos of one author in a request for videos.", unit="posts")] = 100
    scan_limit: Annotated[int, Ge(1), Doc("Posts of one queue that a request looks at.", unit="posts")] = 500
    min_video: Annotated[dt.timedelta, Ge(dt.timedelta(0)), Doc("A shorter video does not make a post a video.")] = (
        dt.timedelta(seconds=5)
    )
    _timelines: Timelines | None = attrs.field(default=None, init=False, repr=False)
    _removed: dict[int, int] = attrs.field(factory=dict, init=False, repr=False)
    _change: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def open(self) -> None:
        """Build the queues from the items table."""
        posts = Posts.from_items(self.data.tables.items, self.min_video // _MILLISECOND)
        with self._change:
            self._removed = {}
            self._timelines = Timelines.build(posts)

    def close(self) -> None:
        """Let go of the posts."""
        self._timelines = None

    def __len__(self) -> int:
        """How many posts are in the store, visible or not."""
        return len(self._current().posts)

    def _current(self) -> Timelines:
        if self._timelines is None:
            raise MisconfigurationError("the post store is not open")
        return self._timelines

    def recent(
        self,
        viewer: int,
        follows: Int64,
        now_ms: int,
        *,
        exclude: Int64 | None = None,
        videos_only: bool = False,
        max_results: int = 1200,
    ) -> Recent:
        """The recent posts of the people somebody follows, the newest first, those of one time by falling id.

        Args:
            viewer: Who asks.
            follows: Whom the viewer follows, int64 [k], in any order.
            now_ms: The request's clock, milliseconds since 1970-01-01 UTC.
            exclude: Posts to leave out, by their own id.
            videos_only: Only posts with video.
            max_results: At most so many posts.

        Raises:
            MisconfigurationError: The store is not open.
        """
        timelines = self._current()
        rows: Rows = timelines.collect(
            viewer,
            np.asarray(follows, np.int64),
            Moment(now_ms - self.retention // _MILLISECOND, now_ms),
            Limits(self.max_originals, self.max_secondary, self.max_videos, self.scan_limit),
            exclude=np.empty(0, np.int64) if exclude is None else np.asarray(exclude, np.int64),
            videos_only=videos_only,
            max_results=max_results,
        )
        return Recent(timelines.posts.take(rows), timelines.repost_author[rows])

    def insert(self, posts: Posts) -> int:
        """Add posts; one whose id is there already replaces it, one that was removed stays away.

        Args:
            posts: The posts; of rows with one id the last counts.

        Returns:
            How many rows were taken.
        """
        with self._change:
            gone = np.fromiter(self._removed, np.int64, len(self._removed))
            welcome = posts.take(~np.isin(posts.item_id, gone))
            self._timelines = Timelines.build(self._current().posts.joined(welcome))
        return len(welcome)

    def remove(self, item_ids: Int64, at_ms: int) -> int:
        """Remove posts at once, whatever clock later requests have.

        The ids stay remembered, so that a post whose removal arrives before the post itself does not come back;
        `trim` forgets them once the retention has passed.

        Args:
            item_ids: The posts, in the store or not.
            at_ms: When they were removed, milliseconds since 1970-01-01 UTC.

        Returns:
            How many posts left the store.
        """
        with self._change:
            timelines = self._current()
            for item in np.asarray(item_ids, np.int64).tolist():
                self._removed[item] = max(at_ms, self._removed.get(item, at_ms))
            leaving = np.isin(timelines.posts.item_id, np.asarray(item_ids, np.int64))
            if leaving.any():
                self._timelines = Timelines.build(timelines.posts.take(~leaving))
        return int(leaving.sum())

    def trim(self, now_ms: int) -> int:
        """Forget posts and removals that are older than the retention.

        Args:
            now_ms: The time, milliseconds since 1970-01-01 UTC; requests with an earlier clock find fewer posts.

        Returns:
            How many posts left the store.
        """
        oldest = now_ms - self.retention // _MILLISECOND
        with self._change:
            timelines = self._current()
            self._removed = {item: at for item, at in self._removed.items() if at >= oldest}
            leaving = timelines.posts.created_at < oldest
            if leaving.any():
                self._timelines = Timelines.build(timelines.posts.take(~leaving))
        return int(leaving.sum())
