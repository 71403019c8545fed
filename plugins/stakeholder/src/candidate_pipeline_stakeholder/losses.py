"""What a fit minimises: Bradley–Terry, its margin, calibrated and constrained forms, each with exact derivatives.

With p⁺ and p⁻ the features of the preferred and the other item and Δ = w·(p⁺ - p⁻), all are weighted means over pairs:

* Bradley–Terry (1952): log(1 + e^-Δ), the negative log-likelihood of P(left preferred) = σ(w·left - w·right).
* margin: τ·softplus((m - Δ)/τ), the smooth form of the hinge max(0, m - Δ), to which it tends as τ goes to 0.
* calibrated: Bradley–Terry + λ·[mean (σ(w·p⁺) - e⁺)² + mean (σ(w·p⁻) - e⁻)²], which ties the utility's level, not only
  its differences, to a target e of each item.
* constrained: Bradley–Terry + c·penalty(w), with the penalty mean_N max(0, w_j + b) over the negative features N, or
  max(0, s - std(w)).

Bradley–Terry, margin and constrained "negatives" are convex: what `fit` converges to is the global optimum. Calibrated
and constrained "spread" are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, Protocol, runtime_checkable

import attrs
import numpy as np
from attrs import validators

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.pairs import Floats, Pairs
from candidate_pipeline_stakeholder.products import utilities_of, weighted_squares, weighted_sum

POSITIVE: Final = ("favorite", "repost", "follow_author", "share", "reply")
NEGATIVE: Final = ("block_author", "mute_author", "report", "not_interested")


def _names(given: Iterable[str]) -> tuple[str, ...]:
    return tuple(given)


@attrs.frozen(eq=False)
class Comparisons:
    """Decided pairs as a loss sees them.

    Args:
        features: Names of the k features.
        differences: float64 [n, k], the preferred item minus the other.
        weight: float64 [n], summing to one.
        preferred: float64 [n, k], or `None` where only differences are known.
        other: float64 [n, k], likewise.
    """

    features: tuple[str, ...]
    differences: Floats
    weight: Floats
    preferred: Floats | None = None
    other: Floats | None = None

    @classmethod
    def of(cls, pairs: Pairs) -> Comparisons:
        """From a table without ties.

        Raises:
            DataError: There are ties, or no pairs.
        """
        if not len(pairs):
            raise DataError("fit: wanted at least one pair that is no tie, found none")
        preferred, other = pairs.sides()
        return cls(pairs.features, preferred - other, pairs.weight / pairs.weight.sum(), preferred, other)

    def __len__(self) -> int:
        return len(self.weight)

    def sides(self, why: str) -> tuple[Floats, Floats]:
        """Both items of each pair.

        Raises:
            DataError: Only differences are known.
        """
        if self.preferred is None or self.other is None:
            raise DataError(
                f"{why} needs both items of each pair, found differences only: use `fit` on a table of pairs"
            )
        return self.preferred, self.other

    def places(self, names: Sequence[str], why: str) -> list[int]:
        """Where some features stand.

        Raises:
            DataError: One is not among them.
        """
        missing = [name for name in names if name not in self.features]
        if missing or not names:
            raise DataError(
                f"{why}: wanted features among {', '.join(self.features) or 'none'}, "
                f"found {', '.join(missing) or 'no name at all'}"
            )
        return [self.features.index(name) for name in names]


@runtime_checkable
class Loss(Protocol):
    """What `fit` can minimise. All values are of weights float64 [k]; derivatives are exact."""

    @property
    def name(self) -> str:
        """The name with its settings, for reports."""
        ...

    @property
    def convex(self) -> bool:
        """Whether every local minimum is the global one."""
        ...

    @property
    def likelihood(self) -> bool:
        """Whether it is a negative log-likelihood, so that its curvature is information."""
        ...

    def check(self, data: Comparisons) -> None:
        """Raise `DataError` if the loss cannot be used with these features."""
        ...

    def value_and_gradient(self, weights: Floats, data: Comparisons) -> tuple[float, Floats]:
        """The loss, and its gradient [k] (at a kink the element of the subdifferential that the class names)."""
        ...

    def hessian(self, weights: Floats, data: Comparisons) -> Floats:
        """Second derivatives [k, k] where there are any; kinks have none and count as flat."""
        ...

    def curvature(self, data: Comparisons, gram: Floats) -> Floats:
        """Typical second derivatives [k, k], none negative, flat where the pairs are; `gram` is the mean of d dᵀ."""
        ...

    def scores(self, weights: Floats, data: Comparisons) -> Floats:
        """The gradient of each pair's own loss, unweighted: [n, k]; without penalties on the weights alone."""
        ...

    def slopes(self, weights: Floats, data: Comparisons) -> Floats:
        """How fast each pair's loss falls as its Δ grows: [n], over 0. Its reach shows whether an optimum exists."""
        ...


FLAT: Final = 300.0
"""|z| from which on σ counts as level (e^-300 from 0 or 1): smaller numbers would slow every product down a
hundredfold."""


def logistic(z: Floats) -> tuple[Floats, Floats]:
    """softplus(z) = log(1 + e^z) and σ(z), neither overflowing for any finite z."""
    small = np.exp(-np.minimum(np.abs(z), FLAT))
    sigma = np.where(z >= 0, 1.0, small) / (1.0 + small)
    return np.maximum(z, 0.0) + np.log1p(small), sigma


@attrs.frozen
class _Smooth:
    """τ·softplus((m - Δ)/τ), of which Bradley–Terry is m = 0, τ = 1."""

    @property
    def convex(self) -> bool:
        """It is convex in Δ, and Δ is linear in the weights."""
        return True

    @property
    def _shape(self) -> tuple[float, float]:
        return 0.0, 1.0

    def check(self, data: Comparisons) -> None:
        """Any features will do."""

    def _z(self, weights: Floats, data: Comparisons) -> Floats:
        margin, temperature = self._shape
        z = utilities_of(data.differences, weights)
        np.subtract(margin, z, out=z)
        z /= temperature
        return z

    def value_and_gradient(self, weights: Floats, data: Comparisons) -> tuple[float, Floats]:
        """The weighted mean and its gradient."""
        softplus, sigma = logistic(self._z(weights, data))
        sigma *= data.weight
        return float(data.weight @ softplus) * self._shape[1], -weighted_sum(sigma, data.differences)

    def hessian(self, weights: Floats, data: Comparisons) -> Floats:
        """The weighted mean of σ(1 - σ)/τ · d dᵀ."""
        sigma = logistic(self._z(weights, data))[1]
        curve = data.weight * sigma * (1.0 - sigma) / self._shape[1]
        return weighted_squares(data.differences, curve)

    def curvature(self, data: Comparisons, gram: Floats) -> Floats:
        """At Δ = m: the mean of d dᵀ over 4τ."""
        return gram / (4 * self._shape[1])

    def slopes(self, weights: Floats, data: Comparisons) -> Floats:
        """σ((m - Δ)/τ)."""
        return logistic(self._z(weights, data))[1]

    def scores(self, weights: Floats, data: Comparisons) -> Floats:
        """-σ((m - Δ)/τ)·d a pair."""
        return -self.slopes(weights, data)[:, None] * data.differences


@attrs.frozen
class BradleyTerry(_Smooth):
    """log(1 + e^-Δ): the maximum-likelihood loss of Bradley and Terry (1952), logistic regression on differences."""

    @property
    def name(self) -> str:
        """Its name."""
        return "Bradley–Terry"

    @property
    def likelihood(self) -> bool:
        """It is one."""
        return True


@attrs.frozen
class Margin(_Smooth):
    """τ·softplus((m - Δ)/τ): asks a preferred item to be ahead by a margin.

    Args:
        margin: m, in units of utility.
        temperature: τ over 0, how softly; at 1 with a margin of 0 it is Bradley–Terry.
    """

    margin: float = attrs.field(converter=float)
    temperature: float = attrs.field(default=0.1, converter=float, validator=validators.gt(0))

    def __attrs_post_init__(self) -> None:
        if not np.isfinite([self.margin, self.temperature]).all():
            raise ValueError(f"Margin: wanted finite numbers, found {self.margin} and {self.temperature}")

    @property
    def _shape(self) -> tuple[float, float]:
        return self.margin, self.temperature

    @property
    def name(self) -> str:
        """Its name with margin and temperature."""
        return f"margin {self.margin:g} (temperature {self.temperature:g})"

    @property
    def likelihood(self) -> bool:
        """It is none (but for m = 0, τ = 1)."""
        return False


_PLAIN: Final = BradleyTerry()


def _strength(instance: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not (np.isfinite(value) and value >= 0):
        raise ValueError(f"{type(instance).__name__}: wanted a {attribute.name} of 0 or more, found {value}")


@attrs.frozen
class Calibrated:
    """Bradley–Terry + λ·[mean (σ(w·p⁺) - e⁺)² + mean (σ(w·p⁻) - e⁻)²], e = clip(mean of p over POSITIVE + shift, 0, 1).

    Not convex: squares of a sigmoid bend both ways. `fit` finds a stationary point of negligible gradient, from zero
    and from the plain optimum, and keeps the better; nothing guarantees that none is better still.

    Args:
        strength: λ, 0 or more.
        positive: The features whose mean makes the target.
        shift: What is added to the mean.
    """

    strength: float = attrs.field(converter=float, validator=_strength)
    positive: tuple[str, ...] = attrs.field(default=POSITIVE, converter=_names)
    shift: float = attrs.field(default=0.3, converter=float)

    @property
    def name(self) -> str:
        """Its name with the strength."""
        return f"calibrated {self.strength:g}"

    @property
    def convex(self) -> bool:
        """Only without any strength."""
        return self.strength == 0

    @property
    def likelihood(self) -> bool:
        """Only without any strength."""
        return self.strength == 0

    def check(self, data: Comparisons) -> None:
        """It needs both items, and the features its target is made of.

        Raises:
            DataError: Something of that is missing.
        """
        data.sides("the calibrated loss")
        data.places(self.positive, "the calibrated loss's target")

    def targets(self, values: Floats, data: Comparisons) -> Floats:
        """Of items described by `values` [n, k], what σ(w·p) should be: [n]."""
        places = data.places(self.positive, "the calibrated loss's target")
        return np.asarray(np.clip(values[:, places].mean(axis=1) + self.shift, 0.0, 1.0))

    def _sides(self, weights: Floats, data: Comparisons) -> list[tuple[Floats, Floats, Floats]]:
        """Of each side: its features, σ(w·p), and how far that is from its target."""
        found = []
        for values in data.sides("the calibrated loss"):
            sigma = logistic(utilities_of(values, weights))[1]
            found.append((values, sigma, sigma - self.targets(values, data)))
        return found

    def value_and_gradient(self, weights: Floats, data: Comparisons) -> tuple[float, Floats]:
        """The sum and its gradient."""
        value, gradient = _PLAIN.value_and_gradient(weights, data)
        for values, sigma, error in self._sides(weights, data):
            value += self.strength * float(data.weight @ error**2)
            inner = 2.0 * error * sigma * (1.0 - sigma)
            gradient = gradient + self.strength * weighted_sum(data.weight * inner, values)
        return value, gradient

    def hessian(self, weights: Floats, data: Comparisons) -> Floats:
        """Exact, so it may have negative eigenvalues."""
        hessian = _PLAIN.hessian(weights, data)
        for values, sigma, error in self._sides(weights, data):
            bend = sigma * (1.0 - sigma)
            curve = 2.0 * (bend**2 + error * bend * (1.0 - 2.0 * sigma))
            hessian = hessian + self.strength * weighted_squares(values, data.weight * curve)
        return hessian

    def curvature(self, data: Comparisons, gram: Floats) -> Floats:
        """At w = 0, without what the distance to the targets bends."""
        curvature = gram / 4
        for values in data.sides("the calibrated loss") if self.strength > 0 else ():
            curvature = curvature + self.strength / 8 * weighted_squares(values, data.weight)
        return np.asarray(curvature)

    def slopes(self, weights: Floats, data: Comparisons) -> Floats:
        """Of the Bradley–Terry part."""
        return _PLAIN.slopes(weights, data)

    def scores(self, weights: Floats, data: Comparisons) -> Floats:
        """Of the whole loss of each pair."""
        scores = _PLAIN.scores(weights, data)
        for values, sigma, error in self._sides(weights, data):
            scores = scores + self.strength * (2.0 * error * sigma * (1.0 - sigma))[:, None] * values
        return scores


@attrs.frozen
class Constrained:
    """Bradley–Terry + c·penalty(w).

    Args:
        strength: c, 0 or more.
        penalty: `"negatives"`: mean over the negative features of max(0, w_j + bound), for people who must not be shown
            what they reject; convex with a kink at w_j = -bound. `"spread"`: max(0, bound - std(w)), against utilities
            that tell nothing apart; not convex, with a kink at std(w) = bound and a cusp where all weights are equal.
            `"none"`: Bradley–Terry itself.
        negative: The features that "negatives" is about.
        bound: .1 for "negatives", .3 for "spread", if not given.

    Gradients at kinks, each an element of the subdifferential: a negative feature at the kink and a spread at its bound
    count as fulfilled (0). Where all weights are equal, at w = 0 above all, the spread's gradient is 0 (std has a
    minimum there).
    """

    strength: float = attrs.field(converter=float, validator=_strength)
    penalty: Literal["negatives", "spread", "none"] = attrs.field(
        default="negatives", validator=validators.in_(("negatives", "spread", "none"))
    )
    negative: tuple[str, ...] = attrs.field(default=NEGATIVE, converter=_names)
    bound: float = attrs.field(converter=float, validator=_strength)

    @bound.default
    def _bound(self) -> float:
        return 0.3 if self.penalty == "spread" else 0.1

    @property
    def name(self) -> str:
        """Its name with penalty and strength."""
        return f"constrained by {self.penalty}, {self.strength:g}"

    @property
    def plain(self) -> bool:
        """Whether no penalty is left."""
        return self.penalty == "none" or self.strength == 0

    @property
    def convex(self) -> bool:
        """All but the penalty on the spread."""
        return self.plain or self.penalty == "negatives"

    @property
    def likelihood(self) -> bool:
        """Only without a penalty."""
        return self.plain

    def check(self, data: Comparisons) -> None:
        """Its negative features must be there.

        Raises:
            DataError: One is not.
        """
        if self.penalty == "negatives":
            data.places(self.negative, "the constrained loss's negative features")

    def hinges(self, data: Comparisons) -> list[int]:
        """The places of the features that pay strength/len(hinges) for each unit above -bound."""
        return [] if self.plain or self.penalty != "negatives" else data.places(self.negative, "the constrained loss")

    def spread_gradient(self, weights: Floats) -> Floats:
        """The gradient of std(w) (population form): (w - mean)/(k·std), and 0 where all weights are equal."""
        spread = float(weights.std())
        if spread <= np.finfo(float).eps * float(np.abs(weights).max(initial=0.0)):
            return np.zeros_like(weights)
        return np.asarray((weights - weights.mean()) / (len(weights) * spread))

    def value_and_gradient(self, weights: Floats, data: Comparisons) -> tuple[float, Floats]:
        """The sum and its gradient."""
        value, gradient = _PLAIN.value_and_gradient(weights, data)
        hinges = self.hinges(data)
        if hinges:
            price = self.strength / len(hinges)
            excess = weights[hinges] + self.bound
            value += price * float(np.maximum(excess, 0.0).sum())
            gradient[hinges] += price * (excess > 0)
        elif not self.plain and weights.std() < self.bound:
            value += self.strength * (self.bound - float(weights.std()))
            gradient = gradient - self.strength * self.spread_gradient(weights)
        return value, gradient

    def hessian(self, weights: Floats, data: Comparisons) -> Floats:
        """Exact off the kinks: Bradley–Terry's, and inside the bound of the spread that of -c·std(w)."""
        hessian = _PLAIN.hessian(weights, data)
        spread = float(weights.std())
        if not self.plain and self.penalty == "spread" and spread < self.bound:
            slope = self.spread_gradient(weights)
            if slope.any():
                count = len(weights)
                centring = np.eye(count) - 1.0 / count
                hessian = hessian - self.strength * (centring / count - np.outer(slope, slope)) / spread
        return hessian

    def curvature(self, data: Comparisons, gram: Floats) -> Floats:
        """Of the Bradley–Terry part."""
        return gram / 4

    def slopes(self, weights: Floats, data: Comparisons) -> Floats:
        """Of the Bradley–Terry part."""
        return _PLAIN.slopes(weights, data)

    def scores(self, weights: Floats, data: Comparisons) -> Floats:
        """Of the Bradley–Terry part."""
        return _PLAIN.scores(weights, data)
