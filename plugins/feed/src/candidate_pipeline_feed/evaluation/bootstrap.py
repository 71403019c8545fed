"""Percentile bootstrap over people (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

People are drawn with replacement, each with all of their targets, because targets of one person resemble each other.
All figures of one evaluation share the draws, so that the difference of two is an interval of paired differences.
"""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

DRAWS: Final = 2000
LEVEL: Final = 0.95


@attrs.frozen
class Interval:
    """A mean over targets and its percentile interval over people."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 if the whole interval lies above 0, -1 if below, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    def as_dict(self) -> dict[str, float]:
        """The figures as plain data."""
        return attrs.asdict(self)


class Bootstrap:
    """Draws of people, shared by every figure of one evaluation.

    Args:
        users: Whose each target is, int64 [n].
        seed: The source of the draws.
        draws: How many.

    Raises:
        ValueError: There is no target.
    """

    def __init__(self, users: NDArray[np.int64], seed: int = 0, draws: int = DRAWS) -> None:
        if not len(users):
            raise ValueError("a bootstrap needs at least one target, found none")
        distinct, self._person = np.unique(users, return_inverse=True)
        self._people = len(distinct)
        self._targets = np.bincount(self._person, minlength=self._people).astype(np.float64)
        rng = np.random.default_rng([seed, len(users), self._people])
        chances = np.full(self._people, 1.0 / self._people)
        self._counts = rng.multinomial(self._people, chances, size=draws).astype(np.float64)
        self._total = self._counts @ self._targets

    def means(self, values: Float64) -> Float64:
        """The mean over targets in each draw, float64 [draws].

        Args:
            values: One value a target, float64 [n].
        """
        sums = np.bincount(self._person, weights=values, minlength=self._people)
        return np.asarray(self._counts @ sums / self._total, np.float64)

    def interval(self, values: Float64) -> Interval:
        """The mean over targets with its interval; for a paired difference, give the differences.

        Args:
            values: One value a target, float64 [n].
        """
        tail = (1.0 - LEVEL) / 2.0
        low, high = np.quantile(self.means(values), [tail, 1.0 - tail])
        return Interval(float(np.mean(values)), float(low), float(high))
