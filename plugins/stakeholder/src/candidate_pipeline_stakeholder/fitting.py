"""Learning utility weights from pairs, to convergence, with what the pairs cannot tell said in words.

The objective is the weighted mean of a loss over pairs, plus `l2`·‖w‖², plus a Gaussian prior's log-density over the
total weight where one is asked for. By default there is neither: plain maximum likelihood from w = 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.constrained import hinged, spread_out
from candidate_pipeline_stakeholder.existence import certainly_exists, separating
from candidate_pipeline_stakeholder.identifiability import Identifiability, Moments, identify
from candidate_pipeline_stakeholder.information import Errors, covariance_of, sealed
from candidate_pipeline_stakeholder.losses import BradleyTerry, Comparisons, Constrained, Loss
from candidate_pipeline_stakeholder.minimise import Objective, Solution, minimise, round_coordinates
from candidate_pipeline_stakeholder.pairs import LARGEST, Floats, Pairs
from candidate_pipeline_stakeholder.penalised import Penalised

TOLERANCE: Final = 1e-8
STEEPEST: Final = 36.0
"""Δ beyond which a pair of a loss that is not convex counts as run away: σ is 1 there but for rounding."""


def _numbers(value: ArrayLike) -> Floats:
    return sealed(np.asarray(value, np.float64))


@attrs.frozen(eq=False)
class Prior:
    """A Gaussian prior on the weights, independent between features. Used only where it is asked for.

    Args:
        mean: One value, or one a feature.
        precision: 1/variance, 0 (nothing known) or more: one value, or one a feature. It counts against all pairs
            together, as in Bayes' rule: with many pairs its influence vanishes, unlike that of `l2`.
    """

    mean: Floats = attrs.field(converter=_numbers)
    precision: Floats = attrs.field(converter=_numbers)

    def __attrs_post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("precision", self.precision)):
            if values.ndim > 1 or not np.isfinite(values).all() or (np.abs(values) > LARGEST).any():
                raise DataError(f"prior: wanted finite numbers, one or one a feature, as {name}, found {values}")
        if (self.precision < 0).any():
            raise DataError(f"prior: wanted precisions of 0 or more, found {self.precision.min()}")

    def of(self, count: int) -> tuple[Floats, Floats]:
        """Mean and precision [count]."""
        for name, values in (("mean", self.mean), ("precision", self.precision)):
            if values.ndim and len(values) != count:
                raise DataError(f"prior: wanted one {name} or {count}, one a feature, found {len(values)}")
        return np.broadcast_to(self.mean, (count,)), np.broadcast_to(self.precision, (count,))


@attrs.frozen(eq=False)
class Fit:
    """What was learned from pairs.

    Args:
        features: Names of the k features.
        weights: float64 [k]. Where the pairs leave directions undetermined, those of the smallest Euclidean norm. Where
            `separable`, where the search was running away to, of length one: only its direction means anything.
        loss: What was minimised.
        objective: Its minimum, penalties included; NaN where `separable`.
        gradient_norm: The largest absolute entry of the objective's gradient at the weights; at a kink, of the smallest
            subgradient; where `separable`, of the last point before the search was given up.
        iterations: Steps of the optimiser.
        converged: Whether the gradient is within `tolerance`, in units of the weights (times the largest root mean
            square of a feature's differences, where that is over 1) and of standardised weights; never where
            `separable`.
        separable: Whether there is no optimum: the pairs contradict some direction nowhere.
        convex: Whether a converged fit is the global optimum; otherwise it is one stationary point.
        l2: The ridge it was fitted with.
        prior: The prior, or `None`.
        pairs: How many pairs.
        total_weight: The sum of their weights.
        tolerance: What was asked for.
        covariance: float64 [k, k] of the weights (of the smallest-norm ones); NaN where there is none.
        errors: What the covariance is: the inverse of the observed information, or the sandwich.
        standard_errors: float64 [k], roots of its diagonal; NaN for weights that the pairs do not determine.
        identifiability: What the pairs can tell at all.
        notes: What else to know, in sentences.
    """

    features: tuple[str, ...]
    weights: Floats
    loss: Loss
    objective: float
    gradient_norm: float
    iterations: int
    converged: bool
    separable: bool
    convex: bool
    l2: float
    prior: Prior | None
    pairs: int
    total_weight: float
    tolerance: float
    covariance: Floats
    errors: Errors
    standard_errors: Floats
    identifiability: Identifiability
    notes: tuple[str, ...] = ()

    def weight(self, feature: str) -> float:
        """The weight of one feature.

        Raises:
            DataError: There is no such feature.
        """
        if feature not in self.features:
            raise DataError(f"fit: no feature {feature!r} here, only {', '.join(self.features) or 'none'}")
        return float(self.weights[self.features.index(feature)])

    def probability(self, left: ArrayLike, right: ArrayLike) -> Floats:
        """σ(w·left - w·right): how likely the left item of each pair is preferred, [n] of two [n, k]."""
        from scipy.special import expit

        return np.asarray(expit((np.asarray(left, np.float64) - np.asarray(right, np.float64)) @ self.weights))

    def in_words(self) -> tuple[str, ...]:
        """How it went, in sentences: first whether the weights can be used."""
        said = []
        if self.separable:
            said.append(
                f"these {self.pairs:,} pairs contradict one direction of the weights nowhere, so no finite weights are "
                "the most likely ones. Fit with a ridge (`l2=0.001`, on the command line `--l2 0.001`), or with more "
                "pairs, some of which contradict it. Given is a direction of length one"
            )
        elif self.converged:
            said.append(f"converged: gradient norm {self.gradient_norm:.1e} after {self.iterations} iterations")
        else:
            said.append(
                f"not converged: gradient norm {self.gradient_norm:.1e} after {self.iterations} iterations, "
                f"wanted {self.tolerance:.0e}"
            )
        return (*said, *self.notes, *self.identifiability.in_words())

    def as_dict(self) -> dict[str, Any]:
        """For JSON and TOML; what is not a number is `None`."""
        known = not self.separable
        return {
            "loss": self.loss.name,
            "pairs": self.pairs,
            "total_weight": self.total_weight,
            "l2": self.l2,
            "prior": None
            if self.prior is None
            else {"mean": self.prior.mean.tolist(), "precision": self.prior.precision.tolist()},
            "objective": self.objective if math.isfinite(self.objective) else None,
            "gradient_norm": self.gradient_norm if math.isfinite(self.gradient_norm) else None,
            "tolerance": self.tolerance,
            "iterations": self.iterations,
            "converged": self.converged,
            "separable": self.separable,
            "convex": self.convex,
            "errors": self.errors,
            "weights": dict(zip(self.features, self.weights.tolist(), strict=True)),
            "standard_errors": {
                name: value if known and math.isfinite(value) else None
                for name, value in zip(self.features, self.standard_errors.tolist(), strict=True)
            },
            "identifiability": self.identifiability.as_dict(),
            "words": list(self.in_words()),
        }


def fit(
    pairs: Pairs,
    *,
    loss: Loss | None = None,
    l2: float = 0.0,
    prior: Prior | None = None,
    start: ArrayLike | None = None,
    tolerance: float = TOLERANCE,
    max_iterations: int = 500,
    errors: Errors | None = None,
) -> Fit:
    """Learn weights from pairs.

    Args:
        pairs: Decided ones; ties have a model of their own (`fit_ties`).
        loss: What to minimise; Bradley–Terry if not given.
        l2: The ridge: `l2`·‖w‖² is added to the mean loss.
        prior: A Gaussian prior, only if given.
        start: float64 [k] to start from, only if given; zero otherwise. It does not change the answer of a convex loss.
        tolerance: The largest entry of the gradient to accept.
        max_iterations: Steps at most.
        errors: How standard errors are taken: `"information"`, the inverse of the observed information (weights of
            pairs are counts), for the likelihood of Bradley–Terry by default; `"sandwich"` (Huber, 1967; White, 1982),
            which holds for other losses and where weights of pairs are importances rather than counts, for all other
            losses by default; `"none"`.

    Raises:
        DataError: There are no pairs, there are ties, a number is out of range, or the loss does not fit the features.
    """
    return _fit(
        Comparisons.of(pairs), float(pairs.weight.sum()), loss, l2, prior, start, tolerance, max_iterations, errors
    )


def fit_differences(
    differences: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    features: Iterable[str] | None = None,
    loss: Loss | None = None,
    l2: float = 0.0,
    prior: Prior | None = None,
    start: ArrayLike | None = None,
    tolerance: float = TOLERANCE,
    max_iterations: int = 500,
    errors: Errors | None = None,
) -> Fit:
    """Learn weights from differences alone, float64 [n, k], preferred minus other; all else as in `fit`.

    Raises:
        DataError: As `fit`, or the loss needs both items of a pair.
    """
    try:
        array = np.ascontiguousarray(differences, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"fit: wanted differences as numbers, one row a pair: {error}") from error
    if array.ndim != 2 or not len(array):
        raise DataError(f"fit: wanted differences [n, k] of at least one pair, found shape {array.shape}")
    if not np.isfinite(array).all() or float(np.abs(array).max(initial=0.0)) > 2 * LARGEST:
        row = int(np.argwhere(~(np.abs(array) <= 2 * LARGEST))[0][0])
        raise DataError(f"fit: wanted finite differences of at most {2 * LARGEST:g}, found {array[row]} in row {row}")
    weights = np.ones(len(array)) if weight is None else np.asarray(weight, np.float64)
    if weights.shape != (len(array),) or not ((weights > 0) & (weights <= LARGEST)).all():
        raise DataError(f"fit: wanted {len(array)} weights over 0 and at most {LARGEST:g}, one a pair")
    names = tuple(f"x{place}" for place in range(array.shape[1])) if features is None else tuple(features)
    if len(names) != array.shape[1] or len(set(names)) != len(names):
        raise DataError(f"fit: wanted {array.shape[1]} different names of features, found {', '.join(names) or 'none'}")
    total = float(weights.sum())
    data = Comparisons(names, array, weights / total)
    return _fit(data, total, loss, l2, prior, start, tolerance, max_iterations, errors)


def checked(l2: float, tolerance: float, max_iterations: int, start: ArrayLike | None, count: int) -> Floats:
    """The start, with every setting within its range."""
    if not (math.isfinite(l2) and 0 <= l2 <= LARGEST):
        raise DataError(f"fit: wanted an l2 of 0 or more, found {l2}")
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise DataError(f"fit: wanted a tolerance over 0, found {tolerance}")
    if max_iterations < 1:
        raise DataError(f"fit: wanted at least one iteration, found {max_iterations}")
    if start is None:
        return np.zeros(count)
    first = np.array(start, np.float64)
    if first.shape != (count,) or not np.isfinite(first).all() or (np.abs(first) > LARGEST).any():
        raise DataError(f"fit: wanted {count} finite weights to start from, found {start}")
    return first


@attrs.frozen(eq=False)
class _Problem:
    """An objective with what is known of it before any search.

    Args:
        objective: The loss on its data, with ridge and prior.
        moments: Of the differences.
        transform: [k, r], round coordinates that leave out what the objective does not depend on.
        null: [k, k - r], a basis of what is left out.
        held: [k], whether ridge or prior keep a weight from growing.
        tolerance: As asked for.
        max_iterations: As asked for.
    """

    objective: Penalised
    moments: Moments
    transform: Floats
    null: Floats
    held: NDArray[np.bool_]
    tolerance: float
    max_iterations: int

    @classmethod
    def of(cls, objective: Penalised, tolerance: float, max_iterations: int) -> _Problem:
        data = objective.data
        moments = Moments.of(data.features, data.differences, data.weight)
        curvature = objective.loss.curvature(data, moments.gram) + np.diag(2 * objective.l2 + objective.precision)
        transform, null = round_coordinates(curvature, moments.scale)
        held = 2 * objective.l2 + objective.precision > 0
        return cls(objective, moments, transform, null, held, tolerance, max_iterations)

    def done(self, gradient: Floats) -> bool:
        """Whether a gradient is small: in units of the weights and of standardised weights."""
        scale = self.moments.scale
        largest = max(1.0, float(scale.max(initial=1.0)))
        plain = float(np.abs(gradient).max(initial=0.0)) <= self.tolerance * largest
        return plain and float(np.abs(gradient / scale).max(initial=0.0)) <= self.tolerance

    def minimise(self, objective: Objective, start: Floats) -> Solution:
        """The smallest weights among the best."""
        found = minimise(objective, start, self.transform, done=self.done, max_iterations=self.max_iterations)
        weights = found.weights - self.null @ (self.null.T @ found.weights)
        known = self.transform.any(axis=1)
        return attrs.evolve(found, weights=np.where(known, weights, 0.0))

    def plain(self, start: Floats) -> Solution:
        """The minimum of Bradley–Terry with the same ridge and prior."""
        return self.minimise(attrs.evolve(self.objective, loss=BradleyTerry()), start)

    def exists(self, solution: Solution) -> tuple[Floats | None, bool]:
        """A direction along which the loss falls for ever, if there is one; and whether it decides every pair.

        A linear program only where the cheap proof that there is none fails.
        """
        data, moments = self.objective.data, self.moments
        free = ~self.held
        if not free.any() or not moments.known.any():
            return None, False
        rows, block = data.differences[:, free], np.ix_(free, free)
        slopes = self.objective.loss.slopes(solution.weights, data)
        if certainly_exists(rows, moments.gram[block], moments.scale[free], solution.gradient[free], slopes):
            return None, False
        hinges = self.objective.loss.hinges(data) if isinstance(self.objective.loss, Constrained) else []
        if hinges or self.held.any():
            bounds = np.array([[-1.0, 0.0 if place in hinges else 1.0] for place in np.flatnonzero(free)])
            found = separating(rows, np.diag(1.0 / moments.scale[free]), None, bounds)
        else:
            found = separating(rows, self.transform, solution.weights)
        if found is None:
            return None, False
        direction = np.zeros(len(free))
        direction[free] = found
        return direction, bool((rows @ found > 0).all())


def _fit(
    data: Comparisons,
    total: float,
    loss: Loss | None,
    l2: float,
    prior: Prior | None,
    start: ArrayLike | None,
    tolerance: float,
    max_iterations: int,
    errors: Errors | None,
) -> Fit:
    loss = BradleyTerry() if loss is None else loss
    count = len(data.features)
    first = checked(l2, tolerance, max_iterations, start, count)
    loss.check(data)
    mean, precision = (np.zeros(count), np.zeros(count)) if prior is None else prior.of(count)
    problem = _Problem.of(Penalised(loss, data, float(l2), mean, precision / total), tolerance, max_iterations)
    solution, reference, notes, sound = _solved(problem, first)
    direction, decided = (None, False) if reference is None else problem.exists(reference)
    separable = direction is not None
    if separable:
        notes.append(
            "the pairs are separable: a direction puts every preferred item ahead"
            if decided
            else "the pairs are quasi-separable: a direction puts some preferred items ahead and the others level"
        )
    converged = problem.done(solution.gradient) and sound and not separable
    weights = solution.weights if direction is None else direction
    kind: Errors = errors or ("information" if loss.likelihood else "sandwich")
    covariance, standard = np.full((count, count), np.nan), np.full(count, np.nan)
    if converged and kind != "none":
        covariance, standard = covariance_of(problem.objective, total, solution, problem.transform, problem.null, kind)
    return Fit(
        features=data.features,
        weights=sealed(weights),
        loss=loss,
        objective=math.nan if separable else solution.value,
        gradient_norm=float(np.abs(solution.gradient).max(initial=0.0)),
        iterations=solution.iterations,
        converged=converged,
        separable=separable,
        convex=loss.convex,
        l2=float(l2),
        prior=prior,
        pairs=len(data),
        total_weight=total,
        tolerance=tolerance,
        covariance=sealed(covariance),
        errors=kind,
        standard_errors=sealed(standard),
        identifiability=identify(problem.moments),
        notes=tuple(notes),
    )


def _solved(problem: _Problem, first: Floats) -> tuple[Solution, Solution | None, list[str], bool]:
    """Minimise in the way the loss asks for.

    Returns:
        The point; the one whose slopes show whether there is a minimum, if any does; sentences; and whether the point
        is what it should be.
    """
    objective = problem.objective
    loss, data = objective.loss, objective.data
    if isinstance(loss, Constrained) and not loss.plain:
        plain = problem.plain(first)
        smooth = attrs.evolve(objective, loss=BradleyTerry())
        if loss.penalty == "negatives":
            found = hinged(smooth, loss, plain, problem.moments.scale, problem.tolerance, problem.max_iterations)
            return found, plain, [], True
        if problem.exists(plain)[0] is not None:
            return plain, plain, [], False
        found, tried = spread_out(
            objective, smooth, loss, plain, problem.transform, problem.null, problem.max_iterations
        )
        said = (
            f"the penalty on the spread is not convex: the best of {tried} searches, maybe not of all, is given"
            if tried
            else "the plain optimum has the spread asked for, so it is the global optimum with the penalty, too"
        )
        return found, plain, [said], True
    found = problem.minimise(objective, first)
    if loss.convex:
        return found, found, [], True
    other = problem.minimise(objective, problem.plain(first).weights)
    if other.value < found.value - 1e-12:
        found = other
    notes = [
        f"{loss.name} is not convex: the better of two searches, from the start and from the plain optimum, is given, "
        "which may not be the best there is"
    ]
    sound = True
    if not problem.held.all() and float(np.abs(data.differences @ found.weights).max()) > STEEPEST:
        sound = False
        notes.append(
            "utilities grew until nothing changed any more, which may be no optimum at all: fit with a ridge (l2)"
        )
    inner = problem.transform.T @ found.hessian @ problem.transform
    if len(inner) and float(np.linalg.eigvalsh((inner + inner.T) / 2)[0]) < -1e-9:
        sound = False
        notes.append("the search ended at a saddle, which is no minimum: start elsewhere")
    return found, None, notes, sound
