"""A loss on its pairs with a ridge and a Gaussian prior: what a fit minimises."""

from __future__ import annotations

import attrs
import numpy as np

from candidate_pipeline_stakeholder.losses import Comparisons, Loss
from candidate_pipeline_stakeholder.pairs import Floats


@attrs.frozen(eq=False)
class Penalised:
    """The weighted mean loss + l2·‖w‖² + ½ Σ precision_j (w_j - mean_j)².

    Args:
        loss: The loss.
        data: The pairs.
        l2: The ridge.
        mean: float64 [k].
        precision: float64 [k], of the prior over the total weight of the pairs.
    """

    loss: Loss
    data: Comparisons
    l2: float
    mean: Floats
    precision: Floats

    def value_and_gradient(self, weights: Floats) -> tuple[float, Floats]:
        """Of the whole."""
        value, gradient = self.loss.value_and_gradient(weights, self.data)
        off = weights - self.mean
        value += self.l2 * float(weights @ weights) + 0.5 * float(off @ (self.precision * off))
        return value, gradient + 2 * self.l2 * weights + self.precision * off

    def hessian(self, weights: Floats) -> Floats:
        """Of the whole."""
        return self.loss.hessian(weights, self.data) + np.diag(2 * self.l2 + self.precision)
