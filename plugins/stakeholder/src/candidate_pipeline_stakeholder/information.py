"""How sure the weights are, from one fit: the observed information and the sandwich."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from candidate_pipeline_stakeholder.identifiability import undetermined
from candidate_pipeline_stakeholder.losses import Constrained
from candidate_pipeline_stakeholder.minimise import Solution, round_coordinates
from candidate_pipeline_stakeholder.pairs import Floats
from candidate_pipeline_stakeholder.penalised import Penalised
from candidate_pipeline_stakeholder.products import weighted_squares

Errors: TypeAlias = Literal["information", "sandwich", "none"]


def sealed(values: Floats) -> Floats:
    """A copy nobody can write to."""
    values = np.array(values, np.float64)
    values.setflags(write=False)
    return values


def covariance_of(
    objective: Penalised, total: float, solution: Solution, transform: Floats, null: Floats, kind: Errors
) -> tuple[Floats, Floats]:
    """Covariance [k, k] and standard errors [k] of converged weights.

    `"information"`: H⁻¹/W, with H the Hessian of the mean objective at the weights and W the total weight of the pairs.
    A pair of weight 2 is two pairs. With a ridge or a prior H includes it, and the covariance is that of the posterior
    in Laplace's approximation.

    `"sandwich"`: H⁻¹ (Σ vᵢ² sᵢ sᵢᵀ) H⁻¹, with vᵢ the weights over their sum and sᵢ the gradient of a pair's own loss
    (Huber, 1967; White, 1982). Each row is one observation whatever its weight, so a pair of weight 2 is one pair that
    matters twice.

    Along directions the objective does not depend on, the covariance is that of the smallest weights, which do not move
    there, and the standard error of every weight with a part in one is NaN. So is that of a weight at a kink, which
    other pairs would leave where it is; and all are where a spread is at or inside its bound.
    """
    loss, data = objective.loss, objective.data
    count = len(data.features)
    covariance, standard = np.full((count, count), np.nan), np.full(count, np.nan)
    free = np.ones(count, bool)
    if isinstance(loss, Constrained) and not loss.plain:
        if loss.penalty == "spread" and float(solution.weights.std()) <= loss.bound * (1 + 1e-9):
            return covariance, standard
        hinges = loss.hinges(data)
        free[hinges] = solution.weights[hinges] != -loss.bound
    places = np.flatnonzero(free)
    if len(places) < count:
        scale = np.sqrt(np.maximum(np.diag(solution.hessian)[places], 0.0))
        transform, null = round_coordinates(solution.hessian[np.ix_(places, places)], np.where(scale > 0, scale, 1.0))
    inner = transform.T @ solution.hessian[np.ix_(places, places)] @ transform
    inverse = transform @ np.linalg.pinv((inner + inner.T) / 2, hermitian=True) @ transform.T
    projection = np.eye(len(places)) - null @ null.T
    inverse = projection @ inverse @ projection
    if kind == "sandwich":
        spread = weighted_squares(loss.scores(solution.weights, data)[:, places], data.weight**2)
        inverse = inverse @ spread @ inverse
    else:
        inverse = inverse / total
    covariance[np.ix_(places, places)] = (inverse + inverse.T) / 2
    size = np.sqrt(np.maximum(np.diag(solution.hessian)[places], 0.0))
    unknown = undetermined(null, np.where(size > 0, size, 1.0))
    standard[places] = np.where(unknown, np.nan, np.sqrt(np.maximum(np.diag(inverse), 0.0)))
    return covariance, standard
