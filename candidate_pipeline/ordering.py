"""The one order of candidates by score."""

from __future__ import annotations

import functools
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.cells import VALID, Cells
from candidate_pipeline.keys import SCORE

#: Keys after that of minus infinity, whose bits are 0x7F800000.
_UNSCORED: Final = 0x7F800001
_LAST: Final = 0x7F800002


def rank_order(candidates: Candidates, semantics: Literal["strict", "upstream"] = "strict") -> NDArray[np.intp]:
    """All rows, best first, as indices `intp[n]`.

    A total order: scored rows by descending score (infinities included), then rows without a score, then rows whose
    score is NaN; rows that tie keep the table's order, which is sources in declaration order and each source's own.

    Args:
        candidates: The table.
        semantics: `"upstream"` sorts as the May 2026 release of the x-algorithm does: stable and descending, where a
            missing score is minus infinity, and a NaN compares as equal to everything. That is no order among rows
            where one is NaN: the result is then what Python's sort makes of it.
    """
    if SCORE not in candidates:
        return np.arange(len(candidates))
    return order_of(candidates.cells(SCORE), semantics)


def order_of(scores: Cells, semantics: Literal["strict", "upstream"] = "strict") -> NDArray[np.intp]:
    """The order of `rank_order` for score cells, `intp[n]`."""
    if semantics == "upstream":
        return _upstream_order(scores)
    falling = _falling(scores.values)
    falling[np.isnan(scores.values)] = _LAST
    if scores.state is not None:
        falling[scores.state != VALID] = _UNSCORED
    return _stable_order(falling)


def _upstream_order(scores: Cells) -> NDArray[np.intp]:
    values = scores.values if scores.state is None else np.where(scores.state == VALID, scores.values, -np.inf)
    if not np.isnan(values).any():
        return _stable_order(_falling(values))
    plain = values.tolist()

    def compare(left: int, right: int) -> int:
        return int(plain[left] < plain[right]) - int(plain[left] > plain[right])

    return np.array(sorted(range(len(plain)), key=functools.cmp_to_key(compare)), np.intp)


def _falling(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Integers that rise as the scores fall: the bits of `-score`, of which the sign is turned into a complement."""
    bits = np.subtract(0.0, values, dtype=np.float32).view(np.int32)  # 0 - x, for -0.0 is no less than 0.0
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _stable_order(keys: NDArray[np.int32]) -> NDArray[np.intp]:
    """The rows by rising key, ties in the table's order.

    With the row in the lower half of each number no two are equal, so numpy's fast sort, which is not stable, will do.
    """
    packed = (keys.astype(np.int64) << 32) + np.arange(len(keys))
    packed.sort()
    return packed & 0xFFFFFFFF


def ranks_of(scores: Cells, semantics: Literal["strict", "upstream"] = "strict") -> NDArray[np.intp]:
    """Each row's rank from 1 in the order of `order_of`, `intp[n]`."""
    order = order_of(scores, semantics)
    ranks = np.empty(len(order), np.intp)
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks
