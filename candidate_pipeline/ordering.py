"""The one order of candidates by score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.cells import VALID, Cells
from candidate_pipeline.keys import SCORE


def rank_order(candidates: Candidates) -> NDArray[np.intp]:
    """All rows, best first, as indices `intp[n]`.

    A total order: scored rows by descending score (infinities included), then rows without a score, then rows whose
    score is NaN; rows that tie keep the table's order, which is sources in declaration order and each source's own.
    """
    if SCORE not in candidates:
        return np.arange(len(candidates))
    return order_of(candidates.cells(SCORE))


def order_of(scores: Cells) -> NDArray[np.intp]:
    """The order of `rank_order` for score cells, `intp[n]`."""
    values = scores.values
    group = np.zeros(len(values), np.int8)
    if scores.state is not None:
        group[scores.state != VALID] = 1
    group[np.isnan(values) & (group == 0)] = 2
    return np.lexsort((np.where(group == 0, -values, 0), group))


def ranks_of(scores: Cells) -> NDArray[np.intp]:
    """Each row's rank from 1 in the order of `order_of`, `intp[n]`."""
    order = order_of(scores)
    ranks = np.empty(len(order), np.intp)
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks
