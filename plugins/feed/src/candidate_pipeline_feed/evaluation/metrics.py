"""Ranks and what is made of them: NDCG@10, Recall@10, Recall@200 and MRR.

A target is one item, so of a ranking only the target's rank counts: with it at rank r, Recall@k is 1 for r <= k,
NDCG@k is 1 / log2(1 + r) for r <= k, and MRR averages 1 / r over whole rankings; everything else is 0. Where a person
has several targets (the time split), each is a ranking of its own, made from what came strictly before it.

Items of equal score rank in random order, so the target gets the rank to be expected then: each item that ties with
it counts half. Without this, a constant score would look perfect or useless depending on the order of the items.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

METRICS: Final[tuple[str, ...]] = ("NDCG@10", "Recall@10", "Recall@200", "MRR")
"""The columns of `metric_table`."""

NOT_FOUND: Final = float("inf")
"""The rank of a target that a ranking does not hold; every metric of it is 0."""


def rank_among(scores: NDArray[Any], target: int, among: NDArray[np.bool_]) -> float:
    """The expected rank, from 1, of one item among those allowed; NaN scores rank last.

    Args:
        scores: [n].
        target: Index of the item.
        among: Which items take part, bool [n].

    Returns:
        The rank; `NOT_FOUND` if the item itself does not take part.
    """
    if not among[target]:
        return NOT_FOUND
    values = np.nan_to_num(np.asarray(scores, np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)[among]
    own = np.nan_to_num(np.float64(scores[target]), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    return 1.0 + float((values > own).sum()) + 0.5 * float((values == own).sum() - 1)


def rank_in_list(item_ids: NDArray[np.int64], scores: NDArray[Any], target: int) -> float:
    """The expected rank, from 1, of an item in a list as served, best first.

    Neighbours of equal score (or both without one: NaN) are taken to stand in random order.

    Args:
        item_ids: int64 [n], best first.
        scores: [n], in the same order; need not fall.
        target: The item's id.
    """
    found = np.flatnonzero(item_ids == target)
    if not len(found):
        return NOT_FOUND
    at = int(found[0])
    values = np.asarray(scores, np.float64)
    same = (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
    breaks = np.flatnonzero(~same) + 1  # where a group of ties begins
    group = int(np.searchsorted(breaks, at, "right"))
    start = int(breaks[group - 1]) if group else 0
    stop = int(breaks[group]) if group < len(breaks) else len(values)
    return 1.0 + start + 0.5 * (stop - start - 1)


def metric_table(ranks: NDArray[Any]) -> Float64:
    """The metrics of each rank, float64 [n, len(METRICS)]."""
    rank = np.asarray(ranks, np.float64)
    at_10 = rank <= 10
    return np.stack([at_10 / np.log2(1.0 + rank), at_10, rank <= 200, 1.0 / rank], axis=1).astype(np.float64)
