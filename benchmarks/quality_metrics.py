"""How alike two rankings of one list are, and what a ranking is worth: measures of `ranker_quality.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_feed.evaluation.metrics import metric_table, rank_among

Float64 = NDArray[np.float64]
Index = NDArray[np.intp]


def top_overlap(first: Index, second: Index, count: int = 3) -> float:
    """Share of the best `count` rows of one order that are among the best of the other, in 0 … 1.

    Args:
        first: Rows, best first.
        second: The same rows in another order.
        count: How many; of a shorter list all.
    """
    size = min(count, len(first))
    return len(set(first[:size].tolist()) & set(second[:size].tolist())) / size if size else 1.0


def kendall_tau(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Kendall's tau-b of two scores of the same rows, over the whole list, in O(n log² n).

    (C − D) / sqrt((P − X)(P − Y)), with P pairs, C of them in the same order by both scores, D in opposite order, and
    X and Y tied by the first and by the second (Kendall 1945; counting as Knight 1966).

    Args:
        first: [n], no NaN.
        second: [n], no NaN.

    Returns:
        −1 … 1; NaN where a score is constant or there is but one row.
    """
    x, y = (np.unique(scores, return_inverse=True)[1].reshape(-1) for scores in (first, second))
    order = np.lexsort((y, x))
    pairs = _pairs(np.array([len(x)]))
    tied_x, tied_y = _pairs(np.bincount(x)), _pairs(np.bincount(y))
    tied_both = _pairs(np.unique(x * (len(y) + 1) + y, return_counts=True)[1])
    # Among rows that tie in x the order is by y, so that these are no inversions.
    discordant = inversions(y[order])
    agreement = pairs - tied_x - tied_y + tied_both - 2 * discordant
    scale = float(pairs - tied_x) * float(pairs - tied_y)
    return agreement / scale**0.5 if scale > 0 else float("nan")


def inversions(values: NDArray[np.intp]) -> int:
    """How many pairs stand in falling order; equal values are none.

    From the highest bit down: rows that agree in all higher bits stand together, in their own order, and a 1 before a
    0 among them is an inversion that this bit decides.

    Args:
        values: Not negative, [n].
    """
    rows, found = np.asarray(values, np.int64), 0
    for bit in range(int(rows.max(initial=0)).bit_length() - 1, -1, -1):
        high, ones = rows >> (bit + 1), (rows >> bit) & 1
        before = np.cumsum(ones) - ones
        starts = np.flatnonzero(np.diff(high, prepend=-1))
        in_group = before - np.repeat(before[starts], np.diff(np.append(starts, len(rows))))
        found += int(in_group[ones == 0].sum())
        rows = rows[np.argsort(rows >> bit, kind="stable")]
    return found


def worth(scores: NDArray[Any], target: int) -> tuple[float, float]:
    """NDCG@10 and AUC of the one row that was to be found; ties count half.

    With a single target at rank r of n, AUC is the share of other rows that it beats, (n − r) / (n − 1).
    """
    count = len(scores)
    rank = rank_among(scores, target, np.ones(count, np.bool_))
    return float(metric_table(np.array([rank]))[0, 0]), (count - rank) / max(count - 1, 1)


def _pairs(sizes: NDArray[np.integer[Any]]) -> int:
    wide = sizes.astype(np.int64)
    return int((wide * (wide - 1) // 2).sum())
