"""How far a result may lie from the published implementation's.

float32 differs by the order of summation only. bfloat16 is compared with the float32 results, since the published code
itself, compiled, is that far from its own uncompiled results; int8 likewise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from phoenix_recsys.backend import Precision

LOGIT_F32 = 1e-4
UNIT_F32 = 5e-6
LOGIT_BF16_MAX = 0.6
LOGIT_BF16_MEAN = 0.03
UNIT_BF16 = 0.03

SIGMOID_SLOPE = 0.25
"""A difference in logits shrinks at least by this much in probabilities."""


@attrs.frozen
class LogitLimits:
    """How far logits may lie from the float32 ones.

    Attributes:
        largest: the largest absolute difference.
        mean: the mean absolute difference, or None for no limit of its own.
    """

    largest: float
    mean: float | None = None


LOGITS: Final[Mapping[Precision, LogitLimits]] = {
    "float32": LogitLimits(LOGIT_F32),
    "bfloat16": LogitLimits(LOGIT_BF16_MAX, LOGIT_BF16_MEAN),
    "int8": LogitLimits(1.0, 0.08),
}
"""By the precision that a backend computes in."""
