"""Pairs whose weights are known, for the tests of fitting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from candidate_pipeline_stakeholder.losses import NEGATIVE, POSITIVE
from candidate_pipeline_stakeholder.pairs import Pairs

ACTIONS: Final = (*POSITIVE, *NEGATIVE)
#: Hypothesis with few examples and no clock: the machines that run this are shared.
FEW: Final = settings(max_examples=25, deadline=None)


def judged(
    seed: int,
    count: int,
    weights: Sequence[float] | NDArray[np.float64],
    *,
    features: Sequence[str] | None = None,
    nu: float = 0.0,
    **columns: Any,
) -> Pairs:
    """Pairs of uniform features judged as Davidson's model says: Bradley–Terry where nu is 0."""
    rng = np.random.default_rng(seed)
    true = np.asarray(weights, np.float64)
    left, right = rng.uniform(size=(2, count, len(true)))
    half = (left - right) @ true / 2
    parts = np.exp(np.stack([half, -half, np.full(count, math.log(nu) if nu else -np.inf)], axis=1))
    ends = np.cumsum(parts / parts.sum(axis=1, keepdims=True), axis=1)
    drawn = rng.random(count)
    outcome = np.where(drawn < ends[:, 0], 1, np.where(drawn < ends[:, 1], -1, 0))
    names = tuple(f"f{place}" for place in range(len(true))) if features is None else features
    return Pairs.of(names, left, right, outcome, **columns)


@st.composite
def preferences(draw: st.DrawFn, *, least: int = 40, most: int = 120, features: int = 4) -> Pairs:
    """Noisy preferences with weights of their own, which contradict each other enough to have an optimum."""
    seed = draw(st.integers(0, 2**32 - 1))
    count, width = draw(st.integers(least, most)), draw(st.integers(1, features))
    rng = np.random.default_rng(seed)
    pairs = judged(seed, count, rng.normal(size=width), weight=rng.uniform(0.5, 2, count))
    # the two judgements of one pair of items by two people: no direction suits both
    both = pairs.take(np.arange(2 * width))
    other = both.swapped()
    reversed_ = Pairs.of(pairs.features, other.left, other.right, both.outcome, weight=both.weight)
    return Pairs.concat([pairs, reversed_])
