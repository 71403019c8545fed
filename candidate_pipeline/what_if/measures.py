"""How alike two ranked lists are."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def overlap(one: Sequence[Hashable], other: Sequence[Hashable]) -> float:
    """The part of the longer list that is in both, whatever the order, 0 to 1; of two empty lists 1."""
    longer = max(len(one), len(other))
    return len(set(one) & set(other)) / longer if longer else 1.0


def kendall_tau_b(x: ArrayLike, y: ArrayLike) -> float | None:
    """Kendall's rank correlation of two paired samples, -1 to 1, corrected for ties.

    Source: Kendall, "The treatment of ties in ranking problems", Biometrika 33 (1945). It takes time and memory
    quadratic in the number of pairs.

    Args:
        x: The first of each pair, `[n]`.
        y: The second, `[n]`.

    Returns:
        The coefficient; `None` where it is undefined: for fewer than two pairs, or where one sample is all ties.

    Raises:
        ValueError: The samples are not of one length.
    """
    first, second = np.asarray(x), np.asarray(y)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"wanted two samples of one length, found shapes {first.shape} and {second.shape}")
    above = np.triu_indices(len(first), 1)
    dx = np.sign(first[:, None].astype(np.float64) - first)[above]
    dy = np.sign(second[:, None].astype(np.float64) - second)[above]
    untied = float(np.count_nonzero(dx)) * float(np.count_nonzero(dy))
    return float(np.sum(dx * dy) / np.sqrt(untied)) if untied else None


def rank_biased_overlap(one: Sequence[Hashable], other: Sequence[Hashable], p: float = 0.9) -> float:
    """How alike two lists are from the top, 0 to 1, where each place counts `p` times the one above it.

    The extrapolated form for lists of any length (equation 32 of Webber, Moffat and Zobel, "A similarity measure for
    indefinite rankings", ACM TOIS 28:4, 2010): what was not seen is taken to agree as what was. Of two empty lists it
    is 1, of an empty and another one 0.

    Args:
        one: A list without repeats, best first.
        other: Another one.
        p: How patient the reader is, above 0 and below 1; with .9 the first ten places weigh 86 percent.

    Raises:
        ValueError: `p` is not between 0 and 1, or a list repeats itself.
    """
    if not 0 < p < 1:
        raise ValueError(f"p: wanted a number above 0 and below 1, found {p}")
    short, long = sorted((one, other), key=len)
    if len(set(short)) < len(short) or len(set(long)) < len(long):
        raise ValueError("a ranked list holds nothing twice")
    if not short:
        return 0.0 if long else 1.0
    s, length = len(short), len(long)
    seen_short: set[Hashable] = set()
    seen_long: set[Hashable] = set()
    common, agreed, at_s, total = 0, 0.0, 0, 0.0
    for depth, (left, right) in enumerate(itertools.zip_longest(short, long), 1):
        if depth <= s:
            seen_short.add(left)
        seen_long.add(right)
        common += int(right in seen_short) + int(depth <= s and left != right and left in seen_long)
        if depth == s:
            at_s = common
        agreed = common / depth if depth <= s else (common + at_s * (depth - s) / s) / depth
        total += agreed * p**depth
    return min(total * (1 - p) / p + ((common - at_s) / length + at_s / s) * p**length, 1.0)
