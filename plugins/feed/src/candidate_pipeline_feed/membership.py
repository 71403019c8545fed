"""Membership of ids in the sorted lists that queries carry."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def member(ids: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which ids stand in a list, by binary search.

    Args:
        ids: int64 `[n]`.
        among: int64, sorted.

    Returns:
        bool `[n]`.
    """
    if not len(among):
        return np.zeros(len(ids), np.bool_)
    at = np.minimum(np.searchsorted(among, ids), len(among) - 1)
    return np.equal(among[at], ids)
