"""Posts by the people a viewer follows."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import attrs
import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.keys import ITEM_ID, Key
from candidate_pipeline.options import Doc
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import (
    ANCESTORS,
    AUTHOR_ID,
    CONVERSATION_ID,
    CREATED_AT,
    FOLLOWS,
    REPLY_TO,
    REPOST_AUTHOR_ID,
    REPOST_OF,
    SEEN_IDS,
    VIEWER_ID,
)
from candidate_pipeline_thunder.posts import Posts
from candidate_pipeline_thunder.store import PostStore


@attrs.frozen
class ThunderSource:
    """Recent posts of followed authors, the newest first.

    The viewer's own posts are not asked for. A viewer who follows nobody gets none; where the follow list failed,
    reading it raises, so that the source fails instead of answering with nothing.
    """

    store: PostStore
    max_results: Annotated[int, Ge(1), Doc("At most so many posts.", unit="posts")] = 1200
    exclude_seen: Annotated[bool, Doc("Leave out posts that the viewer has seen before the limits count.")] = True
    videos_only: Annotated[bool, Doc("Only posts with video.")] = False

    writes = (
        AUTHOR_ID,
        CREATED_AT,
        REPLY_TO,
        ANCESTORS,
        CONVERSATION_ID,
        REPOST_OF,
        REPOST_AUTHOR_ID,
    )

    @property
    def reads(self) -> Collection[Key]:
        """The viewer, the follow list and, if asked for, what was seen."""
        return (VIEWER_ID, FOLLOWS, SEEN_IDS) if self.exclude_seen else (VIEWER_ID, FOLLOWS)

    def fetch(self, query: Query, ctx: Context) -> Candidates:
        """The posts and what the store knows of them."""
        found = self.store.recent(
            query[VIEWER_ID],
            query[FOLLOWS],
            query.now_ms,
            exclude=query[SEEN_IDS] if self.exclude_seen else None,
            videos_only=self.videos_only,
            max_results=self.max_results,
        )
        posts = found.posts
        # Unless it is a reply, a post that names no conversation begins its own.
        own = np.where(posts.is_reply, 0, posts.item_id)
        conversation = np.where(posts.conversation_id != 0, posts.conversation_id, own)
        return Candidates.of(
            ITEM_ID(posts.item_id),
            AUTHOR_ID(posts.author_id, valid=posts.author_id != 0),
            CREATED_AT(posts.created_at),
            REPLY_TO(posts.reply_to, valid=posts.is_reply),
            ANCESTORS(_ancestors(posts), valid=posts.is_reply),
            CONVERSATION_ID(conversation, valid=conversation != 0),
            REPOST_OF(posts.repost_of, valid=posts.is_repost),
            REPOST_AUTHOR_ID(found.repost_author, valid=posts.is_repost & (found.repost_author != 0)),
        )


def _ancestors(posts: Posts) -> NDArray[np.object_]:
    """Of each reply the post it answers and, if another, its conversation's first post, as a tuple of ids."""
    ancestors = np.empty(len(posts), np.object_)
    for row in np.flatnonzero(posts.is_reply).tolist():
        parent, root = int(posts.reply_to[row]), int(posts.conversation_id[row])
        ancestors[row] = (parent, root) if root not in {0, parent} else (parent,)
    return ancestors
