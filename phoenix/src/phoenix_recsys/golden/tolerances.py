"""How far a result may lie from the published implementation's.

float32 differs by the order of summation only. bfloat16 is compared with the float32 results, since the published code
itself, compiled, is that far from its own uncompiled results.
"""

from __future__ import annotations

LOGIT_F32 = 1e-4
UNIT_F32 = 5e-6
LOGIT_BF16_MAX = 0.6
LOGIT_BF16_MEAN = 0.03
UNIT_BF16 = 0.03

SIGMOID_SLOPE = 0.25
"""A difference in logits shrinks at least by this much in probabilities."""
