"""Utilities learned from pairs that stakeholders would state about the rows of a pool.

Every fit begins at zero and runs to convergence without a penalty (`candidate_pipeline_stakeholder.fitting.fit`), so
what comes out is in the pairs and not in where the fit began. Pairs that contradict some direction nowhere have no most
likely weights; they alone are fitted with a small ridge on standardised features, and counted as separable.
"""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np

from candidate_pipeline_stakeholder.audit.slates import Floats, Scene
from candidate_pipeline_stakeholder.fitting import fit_differences
from candidate_pipeline_stakeholder.generating import Noise, generate
from candidate_pipeline_stakeholder.utilities import NEGATIVE_ACTIONS, POSITIVE

RIDGE: Final = 1e-3
"""On the mean loss, of weights of features scaled to unit root mean square; for separable pairs only."""


@attrs.frozen(eq=False)
class Questions:
    """Pairs of rows within requests that a stakeholder was asked about, before any answer.

    Args:
        left: Features of one side, float64 [n, k].
        right: Of the other.
        utility_left: What the stakeholder makes of it, float64 [n].
        utility_right: Of the other.
        spread: Root mean square of the differences of its utility.
        seed: Of the draws.
    """

    left: Floats
    right: Floats
    utility_left: Floats
    utility_right: Floats
    spread: float
    seed: int

    @classmethod
    def draw(cls, scene: Scene, who: int, count: int, seed: int) -> Questions:
        """Draw pairs for one stakeholder."""
        pairs = generate(scene.given.only([scene.names[who]]), scene.pool, count, seed=seed)
        one, other = pairs.left @ scene.weights[who], pairs.right @ scene.weights[who]
        return cls(pairs.left, pairs.right, one, other, float(np.sqrt(np.mean((one - other) ** 2))), seed)

    def answered(self, temperature: float, flips: float) -> tuple[Floats, float]:
        """Preferred minus other, float64 [n, k], and the share of answers that contradict the utility.

        Args:
            temperature: Of the choices, in units of `spread`; 0: always the better one.
            flips: Share of answers then turned round.
        """
        sharpness = 1.0 / (temperature * self.spread) if temperature > 0 and self.spread > 0 else None
        noise = Noise(sharpness=sharpness, flip=flips)
        outcome = noise.outcomes(self.utility_left, self.utility_right, self.seed).astype(np.float64)
        wrong = outcome * (self.utility_left - self.utility_right) < 0
        return (self.left - self.right) * outcome[:, None], float(wrong.mean())


def learn(differences: Floats, start: Floats | None = None) -> tuple[Floats, bool]:
    """Weights from differences, float64 [k], and whether a ridge was needed because the pairs are separable.

    Args:
        differences: Preferred minus other, [n, k].
        start: Where the fit begins; `None`: zero.
    """
    found = fit_differences(differences, start=start, errors="none")
    if not found.separable:
        return np.array(found.weights), False
    scale = np.sqrt(np.mean(differences**2, axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    begin = None if start is None else start * scale
    ridged = fit_differences(differences / scale, l2=RIDGE, start=begin, errors="none")
    return np.asarray(ridged.weights / scale, np.float64), True


def signs(features: tuple[str, ...]) -> Floats | None:
    """+1 for positive actions, -1 for negative ones, 0 for others, float64 [k]; `None` where there is neither."""
    found = np.array([float(name in POSITIVE) - float(name in NEGATIVE_ACTIONS) for name in features])
    return found if found.any() else None


def alpha(weights: Floats, features: tuple[str, ...]) -> float | None:
    """-mean(weights of negative actions) / mean(weights of positive ones), the price of a negative action.

    `None` where one kind is missing or the positive ones weigh nothing.
    """
    positive = [column for column, name in enumerate(features) if name in POSITIVE]
    negative = [column for column, name in enumerate(features) if name in NEGATIVE_ACTIONS]
    if not positive or not negative:
        return None
    below = float(weights[positive].mean())
    return -float(weights[negative].mean()) / below if below != 0 else None
