"""Preferences with ties: Davidson's model (1970), fitted jointly with its tie parameter.

With Δ = w·left - w·right and ν > 0,

    P(left preferred) = e^(Δ/2) / (e^(Δ/2) + e^(-Δ/2) + ν),    P(tie) = ν / (e^(Δ/2) + e^(-Δ/2) + ν),

so that two items of equal utility tie with probability ν/(2 + ν), and given that there is no tie the preference is
Bradley–Terry's. In (w, log ν) the negative log-likelihood is convex: what is converged to is the global optimum.
"""

from __future__ import annotations

import math
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import ArrayLike

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.existence import certainly_exists, separating
from candidate_pipeline_stakeholder.fitting import TOLERANCE, checked, fit
from candidate_pipeline_stakeholder.identifiability import Identifiability, Moments, identify, undetermined
from candidate_pipeline_stakeholder.information import sealed
from candidate_pipeline_stakeholder.minimise import minimise, round_coordinates
from candidate_pipeline_stakeholder.pairs import Floats, Pairs
from candidate_pipeline_stakeholder.products import utilities_of, weighted_squares, weighted_sum

TIE: Final = "log ν"
"""The name of the tie parameter beside the features'."""


@attrs.frozen(eq=False)
class TiesFit:
    """What was learned from pairs with ties.

    Args:
        features: Names of the k features.
        weights: float64 [k]; of length one, a mere direction, where `separable`.
        nu: The tie parameter, 0 where no pair is a tie.
        standard_errors: float64 [k], from the inverse of the observed information; NaN for what the pairs do not
            determine.
        nu_error: The standard error of `nu` (by the delta method from that of log ν); NaN where there is none.
        covariance: float64 [k + 1, k + 1], of the weights and log ν.
        objective: The minimum of the mean negative log-likelihood plus l2·‖w‖²; NaN where `separable`.
        gradient_norm: The largest absolute entry of its gradient.
        iterations: Steps of the optimiser.
        converged: Whether the gradient is within the tolerance.
        separable: Whether there is no optimum without a ridge.
        l2: The ridge, on the weights only.
        pairs: How many pairs.
        ties: How many of them are ties.
        identifiability: What the pairs can tell.
    """

    features: tuple[str, ...]
    weights: Floats
    nu: float
    standard_errors: Floats
    nu_error: float
    covariance: Floats
    objective: float
    gradient_norm: float
    iterations: int
    converged: bool
    separable: bool
    l2: float
    pairs: int
    ties: int
    identifiability: Identifiability

    def probabilities(self, left: ArrayLike, right: ArrayLike) -> Floats:
        """Of each pair (two [n, k]): left preferred, a tie, right preferred; [n, 3], rows summing to one."""
        half = (np.asarray(left, np.float64) - np.asarray(right, np.float64)) @ self.weights / 2
        with np.errstate(divide="ignore"):
            return _softmax(half, float(np.log(self.nu)))[:, [0, 2, 1]]

    def in_words(self) -> tuple[str, ...]:
        """How it went, in sentences."""
        if self.separable:
            said = (
                "these pairs contradict one direction of the weights nowhere, so no finite weights are the most likely "
                "ones: fit with a ridge (`l2=0.001`) or with more pairs"
            )
        else:
            state = "converged" if self.converged else "not converged"
            said = f"{state}: gradient norm {self.gradient_norm:.1e} after {self.iterations} iterations"
        even = self.nu / (2 + self.nu)
        share = (
            f"{self.ties:,} of {self.pairs:,} pairs are ties; items of equal utility tie with probability {even:.2f}"
        )
        return (said, share, *self.identifiability.in_words())

    def as_dict(self) -> dict[str, Any]:
        """For JSON and TOML; what is not a number is `None`."""
        errors = [value if math.isfinite(value) else None for value in self.standard_errors.tolist()]
        return {
            "model": "Davidson",
            "pairs": self.pairs,
            "ties": self.ties,
            "nu": self.nu,
            "nu_error": self.nu_error if math.isfinite(self.nu_error) else None,
            "weights": dict(zip(self.features, self.weights.tolist(), strict=True)),
            "standard_errors": dict(zip(self.features, errors, strict=True)),
            "objective": self.objective if math.isfinite(self.objective) else None,
            "gradient_norm": self.gradient_norm,
            "iterations": self.iterations,
            "converged": self.converged,
            "separable": self.separable,
            "l2": self.l2,
            "identifiability": self.identifiability.as_dict(),
            "words": list(self.in_words()),
        }


def _softmax(half: Floats, log_nu: float) -> Floats:
    """P of left, right and a tie, [n, 3], from half the differences of utility."""
    top = np.maximum(np.abs(half), log_nu)
    parts = np.exp(np.stack([half - top, -half - top, np.full_like(half, log_nu) - top], axis=1))
    return np.asarray(parts / parts.sum(axis=1, keepdims=True))


@attrs.frozen(eq=False)
class Davidson:
    """The mean negative log-likelihood plus a ridge, of (w, log ν) as one vector [k + 1].

    Args:
        half: float64 [n, k], half of left minus right.
        outcome: float64 [n] of +1, -1 and 0.
        weight: float64 [n], summing to one.
        l2: The ridge on w.
    """

    half: Floats
    outcome: Floats
    weight: Floats
    l2: float = 0.0

    def value_and_gradient(self, point: Floats) -> tuple[float, Floats]:
        """Exact."""
        weights, log_nu = point[:-1], float(point[-1])
        half = utilities_of(self.half, weights)
        top = np.maximum(np.abs(half), log_nu)
        total = np.log(np.exp(half - top) + np.exp(-half - top) + np.exp(log_nu - top)) + top
        tie = self.outcome == 0
        chosen = np.where(tie, log_nu, self.outcome * half)
        left, right, tied = _softmax(half, log_nu).T
        gradient = np.append(
            weighted_sum(self.weight * (left - right - self.outcome), self.half) + 2 * self.l2 * weights,
            self.weight @ (tied - tie),
        )
        return float(self.weight @ (total - chosen)) + self.l2 * float(weights @ weights), gradient

    def hessian(self, point: Floats) -> Floats:
        """Exact: the covariance of the three outcomes' (±½d, or the tie) under the model."""
        left, right, tied = _softmax(utilities_of(self.half, point[:-1]), float(point[-1])).T
        mean = left - right
        hessian = np.empty((len(point), len(point)))
        hessian[:-1, :-1] = weighted_squares(self.half, self.weight * (left + right - mean**2))
        hessian[:-1, :-1] += 2 * self.l2 * np.eye(len(point) - 1)
        hessian[:-1, -1] = hessian[-1, :-1] = -weighted_sum(self.weight * mean * tied, self.half)
        hessian[-1, -1] = float(self.weight @ (tied * (1 - tied)))
        return hessian

    def rows(self, point: Floats) -> tuple[Floats, Floats, Floats]:
        """Of each outcome that did not happen: a row [k + 1] along which what did grows, its slope and its weight."""
        half, outcome = self.half, self.outcome[:, None]
        left, right, tied = _softmax(half @ point[:-1], float(point[-1])).T
        tie = outcome[:, 0] == 0
        ones = np.ones((len(half), 1))
        first = np.where(tie[:, None], np.hstack([-half, ones]), np.hstack([2 * outcome * half, 0 * ones]))
        second = np.where(tie[:, None], np.hstack([half, ones]), np.hstack([outcome * half, -ones]))
        other = np.where(outcome[:, 0] > 0, right, left)
        slopes = np.concatenate([np.where(tie, left, other), np.where(tie, right, tied)])
        return np.vstack([first, second]), slopes, np.concatenate([self.weight, self.weight])


def fit_ties(
    pairs: Pairs,
    *,
    l2: float = 0.0,
    start: ArrayLike | None = None,
    tolerance: float = TOLERANCE,
    max_iterations: int = 500,
) -> TiesFit:
    """Learn weights and how often people see no difference.

    Args:
        pairs: With ties or without; without any, ν is 0 and the weights are those of `fit`.
        l2: A ridge on the weights (not on log ν).
        start: float64 [k] weights to start from, only if given.
        tolerance: The largest entry of the gradient to accept.
        max_iterations: Steps at most.

    Raises:
        DataError: There are no pairs, all are ties, or a number is out of range.
    """
    count = len(pairs.features)
    first = checked(l2, tolerance, max_iterations, start, count)
    ties = int((pairs.outcome == 0).sum())
    if ties == len(pairs):
        raise DataError(
            f"fit: all {ties} pairs are ties, which say nothing about what is preferred: wanted some that prefer a side"
            if ties
            else "fit: wanted at least one pair, found none"
        )
    if not ties:
        plain = fit(pairs, l2=l2, start=start, tolerance=tolerance, max_iterations=max_iterations)
        covariance = np.full((count + 1, count + 1), np.nan)
        covariance[:-1, :-1] = plain.covariance
        same = {
            name: getattr(plain, name)
            for name in (
                "features",
                "weights",
                "standard_errors",
                "objective",
                "gradient_norm",
                "iterations",
                "converged",
            )
        }
        return TiesFit(
            **same,
            separable=plain.separable,
            l2=plain.l2,
            pairs=plain.pairs,
            identifiability=plain.identifiability,
            nu=0.0,
            nu_error=math.nan,
            covariance=sealed(covariance),
            ties=0,
        )
    total = float(pairs.weight.sum())
    half, weight = (pairs.left - pairs.right) / 2, pairs.weight / total
    objective = Davidson(half, pairs.outcome.astype(np.float64), weight, float(l2))
    moments = Moments.of(pairs.features, 2 * half, weight)
    curvature = np.zeros((count + 1, count + 1))
    curvature[:-1, :-1] = moments.gram / 4 + 2 * l2 * np.eye(count)
    curvature[-1, -1] = 0.25
    scale = np.append(moments.scale, 1.0)
    transform, null = round_coordinates(curvature, scale)
    largest = max(1.0, float(scale.max()))

    def done(gradient: Floats) -> bool:
        return bool(np.abs(gradient).max() <= tolerance * largest and np.abs(gradient / scale).max() <= tolerance)

    tied = float(weight[pairs.outcome == 0].sum())
    guess = np.append(first, math.log(2 * tied / (1 - tied)))
    solution = minimise(objective, guess, transform, done=done, max_iterations=max_iterations)
    point = solution.weights - null @ (null.T @ solution.weights)
    separable = l2 == 0 and _separable(objective, point, solution.gradient, transform)
    converged = done(solution.gradient) and not separable
    covariance, standard, nu_error = np.full((count + 1, count + 1), np.nan), np.full(count, np.nan), math.nan
    if converged:
        inner = transform.T @ solution.hessian @ transform
        inverse = transform @ np.linalg.pinv((inner + inner.T) / 2, hermitian=True) @ transform.T / total
        projection = np.eye(count + 1) - null @ null.T
        covariance = projection @ inverse @ projection
        roots = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        standard = np.where(undetermined(null, scale), np.nan, roots)[:-1]
        nu_error = float(roots[-1] * math.exp(point[-1]))
    weights = point[:-1]
    if separable and weights.any():
        weights = weights / float(np.linalg.norm(weights))
    return TiesFit(
        features=pairs.features,
        weights=sealed(weights),
        nu=math.exp(min(float(point[-1]), 700.0)),
        standard_errors=sealed(standard),
        nu_error=nu_error,
        covariance=sealed(covariance),
        objective=math.nan if separable else solution.value,
        gradient_norm=float(np.abs(solution.gradient).max()),
        iterations=solution.iterations,
        converged=converged,
        separable=separable,
        l2=float(l2),
        pairs=len(pairs),
        ties=ties,
        identifiability=identify(moments),
    )


def _separable(objective: Davidson, point: Floats, gradient: Floats, transform: Floats) -> bool:
    """Whether some direction of (w, log ν) makes nothing that was seen less likely, and something more."""
    rows, slopes, weight = objective.rows(point)
    gram = weighted_squares(rows, weight)
    scale = np.sqrt(np.diag(gram))
    scale = np.where(scale > 0, scale, 1.0)
    if certainly_exists(rows, gram, scale, gradient, slopes):
        return False
    return separating(rows, transform, point) is not None
