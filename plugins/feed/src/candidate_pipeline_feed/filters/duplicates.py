"""Duplicates: several posts that show the same original."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates, Row
from candidate_pipeline.components import Context
from candidate_pipeline.keys import ITEM_ID, Key
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import REPOST_OF


def original_ids(candidates: Candidates) -> NDArray[np.int64]:
    """The post that each row shows: a repost's original, else the post itself; int64 `[n]`. Reads `REPOST_OF`."""
    return np.where(candidates.valid(REPOST_OF), candidates[REPOST_OF], candidates[ITEM_ID])


@attrs.frozen
class DropDuplicates:
    """Keeps the first of the posts that show the same original, in the table's order.

    After the duplicate and repost filters of the x-algorithm, May 2026 release: the original and its reposts are
    alike, and the first one wins. Rows of one item were merged before, with what every source knew of it.
    """

    listwise: ClassVar[bool] = True
    reads: ClassVar[tuple[Key, ...]] = (ITEM_ID, REPOST_OF)

    def keep(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.bool_]:
        """Which rows to keep, bool `[n]`."""
        _, first = np.unique(original_ids(candidates), return_index=True)
        kept = np.zeros(len(candidates), np.bool_)
        kept[first] = True
        return kept

    def reason(self, query: Query, row: Row) -> str:
        """Which post shows the same and came first."""
        originals, ids = original_ids(row.candidates), row.candidates[ITEM_ID]
        original, item = originals[row.at], ids[row.at]
        first = ids[np.flatnonzero(originals == original)[0]]
        if first == item:
            return "the same post came before, from another source or twice from one"
        if item == original:
            return f"post {first}, a repost of it, came before it"
        return f"a repost of post {original}, " + (
            "which came before it" if first == original else f"as is post {first}, which came before it"
        )
