"""Multiplying scores so that a penalty lowers every score."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.components import Context

Negative: TypeAlias = Literal["divide", "multiply"]
"""What a factor does to a negative score.

"divide": divides it, so that a factor below 1 lowers every score and one above 1 raises it, without a jump at 0.
"multiply": multiplies it as well, as published (x-algorithm, May 2026 release), which raises negative scores.
"""


def rule_for(negative: Negative | None, ctx: Context) -> Negative:
    """The rule that was asked for; where none was, "divide", or "multiply" under upstream semantics."""
    if negative is not None:
        return negative
    return "multiply" if ctx.semantics == "upstream" else "divide"


def effective(scores: NDArray[np.float32], factors: NDArray[np.float64], negative: Negative) -> NDArray[np.float64]:
    """What each score is to be multiplied with, float64 `[n]`: 1 for scores that are not finite.

    Args:
        scores: float32 `[n]`.
        factors: float64 `[n]`, not negative. The inverse of 0 is taken for the largest finite float32.
        negative: What to do with negative scores.
    """
    if negative == "divide":
        largest = float(np.finfo(np.float32).max)
        factors = np.where(scores < 0, 1 / np.maximum(factors, 1 / largest), factors)
    return np.where(np.isfinite(scores), factors, 1.0)


def multiplied(scores: NDArray[np.float32], factors: NDArray[np.float64]) -> NDArray[np.float32]:
    """Scores times factors, float32 `[n]`; what is too large for float32 becomes infinite."""
    with np.errstate(over="ignore"):
        return (scores.astype(np.float64) * factors).astype(np.float32)
