"""The query hydrator for the viewer's relations to other people."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np

from candidate_pipeline.components import Context
from candidate_pipeline.keys import Key
from candidate_pipeline.patches import QueryPatch, query_patch
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import (
    BLOCKED_BY,
    BLOCKS,
    FOLLOWED_BY,
    FOLLOWS,
    MUTED_KEYWORDS,
    MUTES,
    SUBSCRIPTIONS,
    VIEWER_ID,
)
from candidate_pipeline_feed.lookups import users_of
from candidate_pipeline_feed.store import FeedTables


@attrs.frozen
class SocialGraph:
    """Whom the viewer follows, blocks, mutes and subscribes to, who follows or blocks them, and their muted keywords.

    Relations made at or after the request's clock do not count; those without a time always do. All lists come from
    one place here, so they are given together or fail together: a filter that needs one of them then fails closed.
    A viewer who is not in the tables has no relations (`feed.viewer` is what refuses such a request).

    Args:
        data: The tables.
    """

    data: FeedTables

    reads: ClassVar[tuple[Key, ...]] = (VIEWER_ID,)
    writes: ClassVar[tuple[Key, ...]] = (
        FOLLOWS,
        FOLLOWED_BY,
        BLOCKS,
        BLOCKED_BY,
        MUTES,
        SUBSCRIPTIONS,
        MUTED_KEYWORDS,
    )

    def hydrate(self, query: Query, ctx: Context) -> QueryPatch:
        """Look the relations up: sorted int64 arrays, and a tuple of keywords."""
        viewer, now = query[VIEWER_ID], query.now_ms
        return query_patch(
            FOLLOWS(self.data.edges_of(viewer, "follow", now)),
            FOLLOWED_BY(self.data.edges_to(viewer, "follow", now)),
            BLOCKS(self.data.edges_of(viewer, "block", now)),
            BLOCKED_BY(self.data.edges_to(viewer, "block", now)),
            MUTES(self.data.edges_of(viewer, "mute", now)),
            SUBSCRIPTIONS(self.data.edges_of(viewer, "subscribe", now)),
            MUTED_KEYWORDS(self._keywords(viewer)),
        )

    def _keywords(self, viewer: int) -> tuple[str, ...]:
        words, found = users_of(self.data, np.array([viewer], np.int64)).cells("muted_keywords")
        return tuple(words[0]) if found[0] else ()
