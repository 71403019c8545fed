"""Figures with intervals, and plain data of records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL: Final = 0.95
"""Share of bootstrap draws inside an interval."""


@attrs.frozen
class Estimate:
    """A figure with an interval.

    Args:
        value: The figure; `None` where it is not defined (a cosine with a constant utility).
        low: Lower end of the interval; `None` where there is none to give (one request and one row).
        high: Upper end.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, value: Any, draws: ArrayLike | None = None, units: int | None = None) -> Estimate:
        """A figure with a percentile interval of draws that are defined (Efron and Tibshirani, 1993).

        Args:
            value: The figure; what is not finite is not defined.
            draws: Of the bootstrap.
            units: How many things were resampled, where they are few: see `tail`.
        """
        found = number(value)
        if found is None or draws is None:
            return cls(found)
        made = np.asarray(draws, np.float64).ravel()
        made = made[np.isfinite(made)]
        if not len(made):
            return cls(found)
        outside = tail(units)
        low, high = np.quantile(made, [outside, 1 - outside])
        return cls(found, float(low), float(high))


def tail(units: int | None = None) -> float:
    """The share of draws below a percentile interval at `LEVEL`, and above it.

    Draws from n things spread too little, by sqrt((n - 1) / n), and as if their spread were known. Both are made good
    by the percentile Phi(-t sqrt(n / (n - 1))), with Student's t of n - 1 degrees of freedom in the place of the normal
    quantile (the expanded percentile interval; Hesterberg, 2015).

    Args:
        units: n; `None`: so many that it does not matter.
    """
    from scipy.special import ndtr, stdtrit

    if units is None:
        return (1 - LEVEL) / 2
    if units < 2:
        return 0.0
    return float(ndtr(-stdtrit(units - 1, (1 + LEVEL) / 2) * math.sqrt(units / (units - 1))))


def number(value: Any) -> float | None:
    """A finite float, or `None`."""
    found = float(value) if value is not None else math.nan
    return found if math.isfinite(found) else None


def resampling(count: int, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Weights of a bootstrap over `count` things, [draws, count]: the share of draws that each got; rows sum to 1."""
    weights = rng.multinomial(count, np.full(count, 1.0 / count), size=draws)
    return np.asarray(weights / count, np.float64)


def plain(value: Any) -> Any:
    """Data that `json.dumps(..., allow_nan=False)` takes: records as dicts, arrays as lists, NaN as `None`."""
    if attrs.has(type(value)):
        return {field.name: plain(getattr(value, field.name)) for field in attrs.fields(type(value))}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return number(value)
    if value is None or isinstance(value, str):
        return value
    return str(value)
