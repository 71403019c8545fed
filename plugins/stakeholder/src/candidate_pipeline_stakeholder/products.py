"""Products of many rows with few columns, a few hundred rows at a time.

The parts are small enough for the processor's cache and for BLAS to use one thread. On an idle machine this costs next
to nothing; on a busy one the threads of such thin products wait for each other far longer than they compute. And sums
do not depend on how many threads there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from candidate_pipeline_stakeholder.pairs import Floats

VECTOR: Final = 9_000
"""Entries of a matrix up to which OpenBLAS multiplies a vector with it in one thread."""
SQUARE: Final = 250_000
"""Multiplications up to which it multiplies two matrices in one thread."""


def _parts(rows: int, columns: int) -> Iterator[slice]:
    step = max(64, min(VECTOR // max(columns, 1), SQUARE // max(columns, 1) ** 2))
    return (slice(start, start + step) for start in range(0, rows, step))


def utilities_of(rows: Floats, weights: Floats) -> Floats:
    """rows·weights: [n] of [n, k] and [k]."""
    found = np.empty(len(rows))
    for part in _parts(*rows.shape):
        np.dot(rows[part], weights, out=found[part])
    return found


def weighted_sum(weight: Floats, rows: Floats) -> Floats:
    """Σ weightᵢ·rowᵢ: [k] of [n] and [n, k]."""
    total = np.zeros(rows.shape[1])
    for part in _parts(*rows.shape):
        total += weight[part] @ rows[part]
    return total


def weighted_squares(rows: Floats, weight: Floats) -> Floats:
    """Σ weightᵢ·rowᵢ·rowᵢᵀ: [k, k] of [n, k] and [n]."""
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for part in _parts(*rows.shape):
        total += (rows[part] * weight[part, None]).T @ rows[part]
    return total
