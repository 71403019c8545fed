"""Posts that the viewer has seen."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates, Row
from candidate_pipeline.components import Context
from candidate_pipeline.keys import ITEM_ID, Key
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import REPLY_TO, REPOST_OF, SEEN_IDS
from candidate_pipeline_feed.membership import member


@attrs.frozen
class AlreadySeen:
    """Drops a post if the viewer has seen it, the original that it reposts, or the post that it answers.

    After the previously-seen filter of the x-algorithm releases of 2026, with the exact list of seen posts in the
    place of Bloom filters.
    """

    reads: ClassVar[tuple[Key, ...]] = (ITEM_ID, REPOST_OF, REPLY_TO, SEEN_IDS)

    def keep(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.bool_]:
        """Which rows to keep, bool `[n]`."""
        seen_ids = query[SEEN_IDS]
        seen = member(candidates[ITEM_ID], seen_ids)
        for related in (REPOST_OF, REPLY_TO):
            seen |= candidates.valid(related) & member(candidates[related], seen_ids)
        return ~seen

    def reason(self, query: Query, row: Row) -> str:
        """What of it was seen."""
        related = {
            "seen before": row[ITEM_ID],
            "it reposts post {}, which was seen before": row[REPOST_OF],
            "it answers post {}, which was seen before": row[REPLY_TO],
        }
        said = (words.format(post) for words, post in related.items() if post in query[SEEN_IDS])
        return next(said)
