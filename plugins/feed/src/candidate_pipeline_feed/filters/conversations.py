"""One post a conversation."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates, Row
from candidate_pipeline.components import Context
from candidate_pipeline.keys import ITEM_ID, SCORE, Key
from candidate_pipeline.ordering import rank_order
from candidate_pipeline.query import Query
from candidate_pipeline_feed.filters.duplicates import original_ids
from candidate_pipeline_feed.keys import ANCESTORS, REPOST_OF


@attrs.frozen
class DedupConversation:
    """Keeps the best post of each conversation; it stands after selection.

    A conversation is named by the smallest id among a post's ancestors, or, without ancestors, by the post itself (for
    a repost, by its original). After the conversation filter of the x-algorithm releases of 2026, with one total order
    where theirs takes a missing score for 0 and lets NaN stand: the best is the one that `rank_order` puts first, of
    equals the earlier row. Rows keep their places; upstream moves the winner to the place of the first, which is the
    same place in a list that is sorted by score.
    """

    listwise: ClassVar[bool] = True
    reads: ClassVar[tuple[Key, ...]] = (ITEM_ID, ANCESTORS, REPOST_OF, SCORE)

    def keep(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.bool_]:
        """Which rows to keep, bool `[n]`."""
        conversations = _conversations(candidates)
        order = rank_order(candidates)
        _, best = np.unique(conversations[order], return_index=True)
        kept = np.zeros(len(candidates), np.bool_)
        kept[order[best]] = True
        return kept

    def reason(self, query: Query, row: Row) -> str:
        """Which post of the conversation is better."""
        candidates = row.candidates
        conversations = _conversations(candidates)
        conversation = conversations[row.at]
        order = rank_order(candidates)
        best = order[conversations[order] == conversation][0]
        return f"post {candidates[ITEM_ID][best]} of the same conversation ({conversation}) ranked higher"


def _conversations(candidates: Candidates) -> NDArray[np.int64]:
    """The conversation of each post, int64 `[n]`."""
    conversations = original_ids(candidates)
    for row in np.flatnonzero(candidates.valid(ANCESTORS)).tolist():
        if candidates[ANCESTORS][row]:
            conversations[row] = min(candidates[ANCESTORS][row])
    return conversations
