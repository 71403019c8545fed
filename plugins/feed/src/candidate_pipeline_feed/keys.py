"""The keys that feed components exchange: what is known of the viewer, and of each post."""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.keys import SCORE, Column, QueryFeature
from candidate_pipeline_feed.actions import PREDICTABLE


@attrs.frozen(eq=False)
class History:
    """What a viewer did before the request, oldest first, strictly earlier than the request's clock.

    Args:
        item_ids: int64 [S].
        author_ids: int64 [S].
        times: Milliseconds since 1970-01-01 UTC, int64 [S].
        actions: 1 where an action was taken, float32 [S, len(labels)].
        labels: Names of the columns of `actions`.
        dwell_seconds: Seconds on screen, 0 where unknown, float32 [S].
    """

    item_ids: NDArray[np.int64]
    author_ids: NDArray[np.int64]
    times: NDArray[np.int64]
    actions: NDArray[np.float32]
    labels: tuple[str, ...]
    dwell_seconds: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.item_ids)


# The viewer.
VIEWER_ID: Final = QueryFeature("feed.viewer_id", int, doc="Whose feed it is; a user_id of the users table.")
HISTORY: Final = QueryFeature("feed.history", History, doc="What the viewer did before the request.")
SEEN_IDS: Final = QueryFeature(
    "feed.seen_ids", np.ndarray, doc="Posts the viewer was shown or acted on before the request, int64, sorted."
)
FOLLOWS: Final = QueryFeature("feed.follows", np.ndarray, doc="Authors the viewer follows, int64, sorted.")
FOLLOWED_BY: Final = QueryFeature("feed.followed_by", np.ndarray, doc="Who follows the viewer, int64, sorted.")
BLOCKS: Final = QueryFeature("feed.blocks", np.ndarray, doc="Authors the viewer blocks, int64, sorted.")
BLOCKED_BY: Final = QueryFeature("feed.blocked_by", np.ndarray, doc="Authors who block the viewer, int64, sorted.")
MUTES: Final = QueryFeature("feed.mutes", np.ndarray, doc="Authors the viewer mutes, int64, sorted.")
SUBSCRIPTIONS: Final = QueryFeature(
    "feed.subscriptions", np.ndarray, doc="Authors the viewer subscribes to, int64, sorted."
)
MUTED_KEYWORDS: Final = QueryFeature(
    "feed.muted_keywords", tuple, doc="Words and phrases the viewer does not want to read."
)
VIEWER_FOLLOWERS: Final = QueryFeature(
    "feed.viewer_followers", int, default=-1, doc="How many follow the viewer; -1 where nobody knows.", unit="people"
)
VIEWER_SINCE: Final = QueryFeature(
    "feed.viewer_since",
    int,
    default=-1,
    doc="When the viewer's account was opened; -1 where nobody knows.",
    unit="ms since 1970-01-01 UTC",
)
REQUESTED_TOPICS: Final = QueryFeature(
    "feed.requested_topics", tuple, default=(), doc="Topics that the request asks for; none: no topic request."
)

# The post.
AUTHOR_ID: Final = Column("feed.author_id", np.int64, doc="Who posted it (for a repost, who reposted).")
CREATED_AT: Final = Column("feed.created_at", np.int64, doc="When it was posted.", unit="ms since 1970-01-01 UTC")
TEXT: Final = Column("feed.text", np.object_, doc="What it says; for a repost, what the original says.")
TOPIC: Final = Column("feed.topic", np.object_, doc="What it is about, one label.")
LANGUAGE: Final = Column("feed.language", np.object_, doc="Language of the text, a BCP 47 tag.")
REPLY_TO: Final = Column("feed.reply_to", np.int64, doc="The post it answers; null: not a reply.")
ANCESTORS: Final = Column(
    "feed.ancestors", np.object_, doc="A reply's parent and, if another, its conversation's first post: a tuple of ids."
)
CONVERSATION_ID: Final = Column("feed.conversation_id", np.int64, doc="First post of its conversation.")
REPOST_OF: Final = Column("feed.repost_of", np.int64, doc="The original it passes on; null: not a repost.")
REPOST_AUTHOR_ID: Final = Column("feed.repost_author_id", np.int64, doc="Who posted the original of a repost.")
QUOTE_OF: Final = Column("feed.quote_of", np.int64, doc="The post it quotes; null: quotes none.")
QUOTE_AUTHOR_ID: Final = Column("feed.quote_author_id", np.int64, doc="Who posted the quoted post.")
VIDEO_DURATION_MS: Final = Column(
    "feed.video_duration_ms", np.int64, doc="Length of its (for a repost, the original's) video; null: none.", unit="ms"
)
SUBSCRIBER_ONLY: Final = Column("feed.subscriber_only", np.bool_, doc="Only for the author's subscribers.")
AUTHOR_NAME: Final = Column("feed.author_name", np.object_, doc="Display name of the author.")
AUTHOR_HANDLE: Final = Column("feed.author_handle", np.object_, doc="Handle of the author, without the @.")
AUTHOR_FOLLOWERS: Final = Column("feed.author_followers", np.int64, doc="How many follow the author.", unit="people")
IN_NETWORK: Final = Column(
    "feed.in_network", np.bool_, doc="Whether the viewer wrote it or follows its author; null: unknown."
)
MUTUAL_FOLLOW: Final = Column(
    "feed.mutual_follow", np.bool_, doc="Whether the viewer and its author follow each other; null: unknown."
)
VIEW_COUNT: Final = Column("feed.view_count", np.int64, doc="How often it was shown to anybody.", unit="views")
SEMANTIC_ID: Final = Column(
    "feed.semantic_id",
    np.int64,
    width=3,
    doc="Codes of its content, coarse to fine, each below 2^20; -1 where a level has none.",
)

# What models predict and scorers make of it.
PREDICTIONS: Final = Column(
    "feed.predictions",
    np.float32,
    labels=PREDICTABLE,
    doc="Predicted probability of each action (seconds for the continuous ones). A label that is not given is a head "
    "the model does not have.",
)
WEIGHTED_SCORE: Final = Column(
    "feed.weighted_score", np.float32, doc="Weighted sum of the predictions with its offset, before later scorers."
)
WEIGHTED_TERMS: Final = Column(
    "feed.weighted_terms",
    np.float32,
    labels=(*PREDICTABLE, "offset"),
    terms_of=SCORE,
    doc="Weight times prediction, and what the offset for negatives adds; they sum to the weighted score.",
)
DIVERSITY_FACTOR: Final = Column(
    "feed.diversity_factor",
    np.float32,
    terms_of=SCORE,
    factor=True,
    doc="What author diversity multiplied the score with.",
)
OUT_OF_NETWORK_FACTOR: Final = Column(
    "feed.out_of_network_factor",
    np.float32,
    terms_of=SCORE,
    factor=True,
    doc="What the out-of-network scorer multiplied the score with.",
)
COLD_START_TERMS: Final = Column(
    "feed.cold_start_raise",
    np.float32,
    terms_of=SCORE,
    doc="What the cold start added to the score of a post that few have seen.",
)
MPN_TERMS: Final = Column(
    "feed.mpn_change",
    np.float32,
    terms_of=SCORE,
    doc="What multiplying the weighted sum added to the score, mostly below 0.",
)
MPN_MULTIPLIER: Final = Column(
    "feed.mpn_multiplier",
    np.float32,
    doc="What the weighted sum was multiplied with; 1 where it is negative.",
)
DWELL_REGRET_SECONDS: Final = Column(
    "feed.dwell_regret_seconds",
    np.float32,
    terms_of=SCORE,
    doc="Expected time on screen that the dwell-regret score starts from.",
    unit="s",
)
DWELL_REGRET_FACTORS: Final = Column(
    "feed.dwell_regret_factor",
    np.float32,
    labels=("engagement", "regret"),
    terms_of=SCORE,
    factor=True,
    doc="What engagement (0 to 2) and regret (0 to 1) multiplied the seconds with.",
)

# Where a post stood among the others before diversity.
SEMANTIC_LEVELS: Final = ("level_1", "level_2", "level_3")
SLATE_POOL_RANK: Final = Column("feed.slate_pool_rank", np.int32, doc="Its place by score, from 0.", unit="places")
SLATE_AUTHOR_RANK: Final = Column(
    "feed.slate_author_rank", np.int32, doc="How many posts by its author stand above it.", unit="posts"
)
SLATE_AUTHOR_GAP: Final = Column(
    "feed.slate_author_gap",
    np.int32,
    doc="How many places above the nearest post by its author stands; null: none is above.",
    unit="places",
)
SLATE_SCORE: Final = Column("feed.slate_score", np.float32, doc="Its score before diversity.")
SLATE_SEMANTIC_COUNTS: Final = Column(
    "feed.slate_semantic_counts",
    np.int32,
    labels=SEMANTIC_LEVELS,
    doc="How many posts above share the first codes of its semantic id; -1 where it has no code of the level.",
    unit="posts",
)
SLATE_SEMANTIC_GAPS: Final = Column(
    "feed.slate_semantic_gaps",
    np.int32,
    labels=SEMANTIC_LEVELS,
    doc="How many places above the nearest such post stands; -1 where none is above.",
    unit="places",
)
