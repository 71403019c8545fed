"""Preferences from several raters of unequal reliability: Crowd-BT (Chen, Bennett, Collins-Thompson and Horvitz, 2013).

Rater r says what Bradley–Terry would with probability η_r, and the opposite otherwise:

    P(the item r chose was preferred) = η_r·σ(Δ) + (1 - η_r)·σ(-Δ),    Δ = w·chosen - w·other,

so η is 1 for a rater whose only noise is that of the model, .5 for one who tosses a coin, and 0 for one who says the
opposite. The likelihood is not convex, and turning all weights and all η round (w to -w, η to 1 - η) leaves it as it
is: of the two, the one in which η is over .5 on the mean of all judgements is given.
"""

from __future__ import annotations

import math
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.fitting import STEEPEST, TOLERANCE, checked
from candidate_pipeline_stakeholder.identifiability import Identifiability, Moments, identify, undetermined
from candidate_pipeline_stakeholder.information import sealed
from candidate_pipeline_stakeholder.losses import BradleyTerry, Comparisons, logistic
from candidate_pipeline_stakeholder.minimise import minimise, round_coordinates
from candidate_pipeline_stakeholder.pairs import LARGEST, Floats, Pairs
from candidate_pipeline_stakeholder.penalised import Penalised
from candidate_pipeline_stakeholder.products import utilities_of, weighted_squares, weighted_sum

UNKNOWN: Final = "(unknown)"
"""The rater of pairs whose rater is not known; all of them count as one."""
SURE: Final = 3.841
"""A likelihood ratio (twice its logarithm) that a rater who tosses a coin exceeds once in 20 times (Wilks, 1938)."""
EXPECTATIONS: Final = 30
"""Steps of expectation and maximisation before the joint search."""
CLOSEST: Final = 1e-9
"""How near 0 and 1 a reliability may come under a prior, whose density is 0 there."""
NEAR: Final = 1e-6
"""So near a bound, and pushed towards it, a reliability is at it."""


@attrs.frozen(eq=False)
class RatersFit:
    """What was learned from raters of unequal reliability.

    Args:
        features: Names of the k features.
        weights: float64 [k].
        standard_errors: float64 [k], from the inverse of the joint observed information; NaN for what is not
            determined.
        covariance: float64 [k, k].
        raters: Names of the raters.
        reliability: float64 [R], η of each.
        reliability_errors: float64 [R], their standard errors; NaN where η is at 0 or 1, where curvature says nothing.
        evidence: float64 [R], against each being a coin: twice the logarithm of how much likelier η makes the rater's
            judgements than one of .5 does, the weights held.
        judgements: int64 [R], how many pairs each judged.
        objective: The minimum found of the mean negative log-likelihood, ridge and prior included.
        gradient_norm: The largest entry of the gradient, projected where an η is at its bound.
        iterations: Steps of both phases.
        converged: Whether that is within the tolerance and utilities stayed finite.
        l2: The ridge on the weights.
        prior: Of each η, Beta(a, b); `None` for none.
        pairs: How many pairs.
        identifiability: What the pairs can tell about the weights.
        notes: What else to know.
    """

    features: tuple[str, ...]
    weights: Floats
    standard_errors: Floats
    covariance: Floats
    raters: tuple[str, ...]
    reliability: Floats
    reliability_errors: Floats
    evidence: Floats
    judgements: NDArray[np.int64]
    objective: float
    gradient_norm: float
    iterations: int
    converged: bool
    l2: float
    prior: tuple[float, float] | None
    pairs: int
    identifiability: Identifiability
    notes: tuple[str, ...] = ()

    def in_words(self) -> tuple[str, ...]:
        """How it went, and which raters stand out: whose η differs from .5 by more than a coin's would (`SURE`)."""
        state = "converged" if self.converged else "not converged"
        said = [f"{state}: gradient norm {self.gradient_norm:.1e} after {self.iterations} iterations"]
        sure = self.evidence > SURE
        for what, chosen in (
            ("contradict the others", sure & (self.reliability < 0.5)),
            ("cannot be told from a coin", ~sure),
        ):
            names = [
                f"{name} ({eta:.2f})"
                for name, eta, is_so in zip(self.raters, self.reliability, chosen, strict=True)
                if is_so
            ]
            if names:
                more = f" and {len(names) - 8} more" if len(names) > 8 else ""
                said.append(f"raters who {what}: {', '.join(names[:8])}{more}")
        return (*said, *self.notes, *self.identifiability.in_words())

    def as_dict(self) -> dict[str, Any]:
        """For JSON and TOML; what is not a number is `None`."""

        def numbers(values: Floats) -> list[float | None]:
            return [value if math.isfinite(value) else None for value in values.tolist()]

        return {
            "model": "Crowd-BT",
            "pairs": self.pairs,
            "weights": dict(zip(self.features, self.weights.tolist(), strict=True)),
            "standard_errors": dict(zip(self.features, numbers(self.standard_errors), strict=True)),
            "reliability": dict(zip(self.raters, self.reliability.tolist(), strict=True)),
            "reliability_errors": dict(zip(self.raters, numbers(self.reliability_errors), strict=True)),
            "judgements": dict(zip(self.raters, self.judgements.tolist(), strict=True)),
            "objective": self.objective,
            "gradient_norm": self.gradient_norm,
            "iterations": self.iterations,
            "converged": self.converged,
            "l2": self.l2,
            "prior": None if self.prior is None else list(self.prior),
            "identifiability": self.identifiability.as_dict(),
            "words": list(self.in_words()),
        }


@attrs.frozen(eq=False)
class CrowdBradleyTerry:
    """The mean negative log-likelihood with a ridge and a Beta prior, of (w, η) as one vector [k + R].

    Args:
        differences: float64 [n, k], the chosen item minus the other.
        weight: float64 [n], summing to one.
        rater: int64 [n], places of raters.
        count: R.
        l2: The ridge on w.
        prior: (a - 1)/W and (b - 1)/W of Beta(a, b), W the total weight of the pairs.
    """

    differences: Floats
    weight: Floats
    rater: NDArray[np.int64]
    count: int
    l2: float = 0.0
    prior: tuple[float, float] = (0.0, 0.0)

    def split(self, point: Floats) -> tuple[Floats, Floats]:
        """Weights [k] and reliabilities [R]."""
        return point[: -self.count], point[-self.count :]

    def _parts(self, point: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """η and σ(Δ) of each pair, σ's slope, and the likelihood; the last two never 0 where they are not."""
        weights, eta = self.split(point)
        delta = utilities_of(self.differences, weights)
        sigma, opposite = logistic(delta)[1], logistic(-delta)[1]
        eta_of = eta[self.rater]
        likelihood = eta_of * sigma + (1 - eta_of) * opposite
        return eta_of, sigma, sigma * opposite, np.maximum(likelihood, np.finfo(float).tiny)

    def per_rater(self, values: Floats) -> Floats:
        """Weighted sums over each rater's pairs."""
        return np.asarray(np.bincount(self.rater, self.weight * values, self.count), np.float64)

    def value_and_gradient(self, point: Floats) -> tuple[float, Floats]:
        """Exact."""
        weights, eta = self.split(point)
        eta_of, sigma, slope, likelihood = self._parts(point)
        value = -float(self.weight @ np.log(likelihood)) + self.l2 * float(weights @ weights)
        in_w = -weighted_sum(self.weight * (2 * eta_of - 1) * slope / likelihood, self.differences)
        in_w += 2 * self.l2 * weights
        in_eta = -self.per_rater((2 * sigma - 1) / likelihood)
        for share, part, sign in ((self.prior[0], eta, 1), (self.prior[1], 1 - eta, -1)):
            if share:
                value -= share * float(np.log(part).sum())
                in_eta = in_eta - sign * share / part
        return value, np.concatenate([in_w, in_eta])

    def blocks(self, point: Floats) -> tuple[Floats, Floats, Floats]:
        """Exact second derivatives: of w [k, k], mixed [k, R], and of η, where no two meet [R]."""
        eta = self.split(point)[1]
        eta_of, sigma, slope, likelihood = self._parts(point)
        in_delta = (2 * eta_of - 1) * slope / likelihood
        in_eta = (2 * sigma - 1) / likelihood
        curve = in_delta**2 - (2 * eta_of - 1) * slope * (1 - 2 * sigma) / likelihood
        mixed = in_delta * in_eta - 2 * slope / likelihood
        of_w = weighted_squares(self.differences, self.weight * curve)
        of_w += 2 * self.l2 * np.eye(len(of_w))
        both = np.array([self.per_rater(mixed * column) for column in self.differences.T]).reshape(-1, self.count)
        of_eta = self.per_rater(in_eta**2)
        for share, part in ((self.prior[0], eta), (self.prior[1], 1 - eta)):
            if share:
                of_eta = of_eta + share / part**2
        return of_w, both, of_eta

    def over_a_coin(self, point: Floats) -> Floats:
        """How much likelier each rater's judgements are than a coin's, for which Δ does not matter: logarithms [R]."""
        return self.per_rater(np.log(2 * self._parts(point)[3]))

    def expected(self, weights: Floats, eta: Floats) -> Floats:
        """How likely each judgement is what the rater would have said unturned: the expectation step, [n]."""
        eta_of, sigma, _, likelihood = self._parts(np.concatenate([weights, eta]))
        return eta_of * sigma / likelihood


def fit_raters(
    pairs: Pairs,
    *,
    l2: float = 0.0,
    prior: tuple[float, float] | None = None,
    start: ArrayLike | None = None,
    tolerance: float = TOLERANCE,
    max_iterations: int = 500,
) -> RatersFit:
    """Learn weights and each rater's reliability together.

    Args:
        pairs: Decided ones. Those whose rater is unknown count as one rater's.
        l2: A ridge on the weights.
        prior: Beta(a, b) on every η with a, b ≥ 1, only if given; (2, 1.2), say, for raters of whom most are good and
            few judged much.
        start: float64 [k] weights to start from, only if given; else those of plain Bradley–Terry.
        tolerance: The largest entry of the projected gradient to accept.
        max_iterations: Steps at most.

    Raises:
        DataError: There are no pairs or there are ties, no rater is known, or a number is out of range.
    """
    count = len(pairs.features)
    first = checked(l2, tolerance, max_iterations, start, count)
    if prior is not None and not all(math.isfinite(each) and 1 <= each <= LARGEST for each in prior):
        raise DataError(f"fit: wanted a prior Beta(a, b) with a and b of 1 or more, found {prior}")
    data = Comparisons.of(pairs)
    if not (pairs.rater >= 0).any():
        raise DataError(
            "fit: wanted pairs whose raters are known, found none: use `fit`, or give `rater` to `Pairs.of`"
        )
    present, rater = np.unique(pairs.rater, return_inverse=True)
    names = tuple(UNKNOWN if code < 0 else pairs.raters[code] for code in present)
    total = float(pairs.weight.sum())
    shares = (0.0, 0.0) if prior is None else ((prior[0] - 1) / total, (prior[1] - 1) / total)
    objective = CrowdBradleyTerry(
        data.differences, data.weight, rater.astype(np.int64), len(present), float(l2), shares
    )
    moments = Moments.of(data.features, data.differences, data.weight)
    transform, null = round_coordinates(moments.gram / 4 + 2 * l2 * np.eye(count), moments.scale)
    limits = (0.0, 1.0) if prior is None else (CLOSEST, 1 - CLOSEST)
    if start is None:
        # a faint ridge, for the start only: separable pairs have no plain optimum
        ridge = Penalised(BradleyTerry(), data, max(float(l2), 1e-6), np.zeros(count), np.zeros(count))
        plain = minimise(ridge, np.zeros(count), transform, done=lambda _: False, max_iterations=max_iterations)
        first = plain.weights
    point = _expectations(objective, first, transform, limits)
    point, steps = _joint(objective, point, transform, moments.scale, limits, tolerance, max_iterations)
    weights, eta = objective.split(point)
    if float(data.weight @ eta[objective.rater]) < 0.5 and (prior is None or prior[0] == prior[1]):
        weights, eta = -weights, 1 - eta
    weights = weights - null @ (null.T @ weights)
    point = np.concatenate([weights, eta])
    value, gradient = objective.value_and_gradient(point)
    projected = _projected(gradient, eta, limits)
    scale = moments.scale
    small = float(np.abs(projected).max()) <= tolerance * max(1.0, float(scale.max(initial=1.0)))
    small = small and float(np.abs(projected[:count] / scale).max(initial=0.0)) <= tolerance
    notes = [
        "the likelihood is not convex: this is the optimum that plain Bradley–Terry leads to, which may not be the best"
    ]
    steep = l2 == 0 and float(np.abs(data.differences @ weights).max(initial=0.0)) > STEEPEST
    if steep:
        notes.append("utilities grew until nothing changed any more, so there may be no optimum: fit with a ridge (l2)")
    covariance, standard, errors = _errors(
        objective, point, transform, null, scale, limits, total, usable=small and not steep
    )
    return RatersFit(
        features=data.features,
        weights=sealed(weights),
        standard_errors=sealed(standard),
        covariance=sealed(covariance),
        raters=names,
        reliability=sealed(eta),
        reliability_errors=sealed(errors),
        evidence=sealed(2 * total * objective.over_a_coin(point)),
        judgements=np.bincount(rater, minlength=len(present)).astype(np.int64),
        objective=value,
        gradient_norm=float(np.abs(projected).max()),
        iterations=steps,
        converged=small and not steep,
        l2=float(l2),
        prior=prior,
        pairs=len(pairs),
        identifiability=identify(moments),
        notes=tuple(notes),
    )


def _expectations(
    objective: CrowdBradleyTerry, weights: Floats, transform: Floats, limits: tuple[float, float]
) -> Floats:
    """Expectation and maximisation, one Newton step of the weights each: into the right valley, not to its bottom."""
    total = objective.per_rater(np.ones(len(objective.rater)))
    eta = np.full(objective.count, 0.8)
    rows = objective.differences
    for _ in range(EXPECTATIONS):
        honest = objective.expected(weights, eta)
        above, below = objective.prior
        eta = np.clip((objective.per_rater(honest) + above) / (total + above + below), *limits)
        now = utilities_of(rows, weights)
        softplus, sigma = logistic(now)
        gradient = weighted_sum(objective.weight * (sigma - honest), rows) + 2 * objective.l2 * weights
        gradient = transform.T @ gradient
        curve = weighted_squares(rows, objective.weight * sigma * (1 - sigma))
        curve = transform.T @ (curve + 2 * objective.l2 * np.eye(len(weights))) @ transform
        step = np.linalg.lstsq(curve + 1e-9 * np.eye(len(curve)), -gradient, rcond=None)[0]
        before = float(objective.weight @ (softplus - honest * now)) + objective.l2 * float(weights @ weights)
        for halving in range(20):
            nearer = weights + transform @ step / 2**halving
            utility = utilities_of(rows, nearer)
            after = float(objective.weight @ (logistic(utility)[0] - honest * utility))
            if after + objective.l2 * float(nearer @ nearer) <= before:
                weights = nearer
                break
    return np.concatenate([weights, eta])


def _projected(gradient: Floats, eta: Floats, limits: tuple[float, float]) -> Floats:
    """The gradient without what pushes an η out of its bounds."""
    found = gradient.copy()
    of_eta = found[-len(eta) :]
    of_eta[((eta <= limits[0]) & (of_eta > 0)) | ((eta >= limits[1]) & (of_eta < 0))] = 0.0
    return found


def _joint(
    objective: CrowdBradleyTerry,
    point: Floats,
    transform: Floats,
    scale: Floats,
    limits: tuple[float, float],
    tolerance: float,
    max_iterations: int,
) -> tuple[Floats, int]:
    """L-BFGS-B in round coordinates, then Newton's steps among the η that are not at their bounds."""
    from scipy.optimize import minimize

    width = transform.shape[1]
    share = np.sqrt(np.maximum(objective.per_rater(np.ones(len(objective.rater))), 1e-12))

    def value_and_gradient(inner: Floats) -> tuple[float, Floats]:
        outer = np.concatenate([transform @ inner[:width], inner[width:] / share])
        value, gradient = objective.value_and_gradient(outer)
        weights, eta = objective.split(gradient)
        return value, np.concatenate([transform.T @ weights, eta / share])

    weights, eta = objective.split(point)
    inner = np.concatenate([np.linalg.lstsq(transform, weights, rcond=None)[0], eta * share])
    bounds = [(None, None)] * width + [(limits[0] * each, limits[1] * each) for each in share]
    result: Any = minimize(
        value_and_gradient,
        inner,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": max_iterations, "maxfun": 4 * max_iterations, "gtol": 1e-7, "ftol": 1e-14, "maxcor": 20},
    )
    found = np.asarray(result.x, np.float64)
    weights, eta = transform @ found[:width], np.clip(found[width:] / share, *limits)
    push = objective.value_and_gradient(np.concatenate([weights, eta]))[1][-objective.count :]
    eta = np.where((eta < limits[0] + NEAR) & (push > 0), limits[0], eta)
    eta = np.where((eta > limits[1] - NEAR) & (push < 0), limits[1], eta)
    point, steps = np.concatenate([weights, eta]), EXPECTATIONS + int(result.nit)
    value, gradient = objective.value_and_gradient(point)
    for _ in range(30):
        eta = objective.split(point)[1]
        rest = _projected(gradient, eta, limits)
        size = float(np.abs(rest[: -objective.count] / scale).max(initial=0.0)) + float(
            np.abs(rest[-objective.count :]).max()
        )
        if size <= 1e-3 * tolerance:
            break
        free = (eta > limits[0]) & (eta < limits[1]) | (rest[-objective.count :] != 0)
        step = _newton(objective.blocks(point), rest, transform, free)
        if step is None:
            break
        moved = False
        for halving in range(12):
            nearer = point + step / 2**halving
            nearer[-objective.count :] = np.clip(nearer[-objective.count :], *limits)
            next_value, next_gradient = objective.value_and_gradient(nearer)
            next_rest = _projected(next_gradient, objective.split(nearer)[1], limits)
            next_size = float(np.abs(next_rest[: -objective.count] / scale).max(initial=0.0))
            next_size += float(np.abs(next_rest[-objective.count :]).max())
            if next_value <= value + 1e-13 * max(1.0, abs(value)) and next_size < size:
                moved = True
                break
        if not moved:
            break
        point, value, gradient = nearer, next_value, next_gradient
        steps += 1
    return point, steps


def _newton(
    blocks: tuple[Floats, Floats, Floats], gradient: Floats, transform: Floats, free: NDArray[np.bool_]
) -> Floats | None:
    """Newton's step through the Schur complement of the η, or `None` where the curvature is not positive."""
    of_w, both, of_eta = blocks
    count = len(of_eta)
    inner, mixed = transform.T @ of_w @ transform, (transform.T @ both)[:, free]
    curve = of_eta[free]
    if (curve <= 0).any():
        return None
    schur = inner - (mixed / curve) @ mixed.T
    in_z, in_eta = transform.T @ gradient[:-count], gradient[-count:][free]
    try:
        root = np.linalg.cholesky((schur + schur.T) / 2)
    except np.linalg.LinAlgError:
        return None
    step_z = -np.linalg.solve(root.T, np.linalg.solve(root, in_z - (mixed / curve) @ in_eta))
    step = np.zeros(len(gradient))
    step[:-count] = transform @ step_z
    step[-count:][free] = -(in_eta + mixed.T @ step_z) / curve
    return step


def _errors(
    objective: CrowdBradleyTerry,
    point: Floats,
    transform: Floats,
    null: Floats,
    scale: Floats,
    limits: tuple[float, float],
    total: float,
    *,
    usable: bool,
) -> tuple[Floats, Floats, Floats]:
    """Covariance and standard errors of the weights and standard errors of the η that are not at their bounds."""
    weights, eta = objective.split(point)
    count = len(weights)
    covariance, standard = np.full((count, count), np.nan), np.full(count, np.nan)
    errors = np.full(len(eta), np.nan)
    of_w, both, of_eta = objective.blocks(point)
    free = (eta > limits[0]) & (eta < limits[1])
    curve = of_eta[free]
    if not usable or (curve <= 0).any():
        return covariance, standard, errors
    mixed = (transform.T @ both)[:, free]
    schur = transform.T @ of_w @ transform - (mixed / curve) @ mixed.T
    values, vectors = np.linalg.eigh((schur + schur.T) / 2)
    if len(values) and values[0] <= 1e-12 * values[-1]:
        return covariance, standard, errors
    inverse = (vectors / values) @ vectors.T
    projection = np.eye(count) - null @ null.T
    covariance = projection @ transform @ inverse @ transform.T @ projection / total
    roots = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    standard = np.where(undetermined(null, scale), np.nan, roots)
    share = mixed / curve
    errors[free] = np.sqrt(np.maximum((1 / curve + np.einsum("zr,zy,yr->r", share, inverse, share)) / total, 0.0))
    return covariance, standard, errors
