"""How sure the weights are, without a formula: fit again and again to pairs drawn from the pairs (Efron, 1979)."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.fitting import TOLERANCE, Fit, Prior, fit
from candidate_pipeline_stakeholder.information import sealed
from candidate_pipeline_stakeholder.losses import BradleyTerry, Comparisons, Loss, Margin, logistic
from candidate_pipeline_stakeholder.minimise import round_coordinates
from candidate_pipeline_stakeholder.pairs import Floats, Pairs
from candidate_pipeline_stakeholder.products import SQUARE, weighted_squares

Unit: TypeAlias = Literal["pair", "rater"]

TOGETHER: Final = 25
"""Draws that are fitted at once."""
STEPS: Final = 40
NEARLY_SURE: Final = 12.0
"""A pair of a draw with a larger Δ than this may be a sign that the draw has no optimum: it is fitted on its own."""


@attrs.frozen(eq=False)
class Bootstrap:
    """Weights of many draws.

    Args:
        features: Names of the k features.
        estimate: float64 [k], the weights of all pairs.
        weights: float64 [draws, k]; NaN in the rows of draws that have no optimum.
        unit: What was drawn.
        seed: What the draws came from; the first of more draws are the same.
    """

    features: tuple[str, ...]
    estimate: Floats
    weights: Floats
    unit: Unit
    seed: int

    @property
    def failed(self) -> int:
        """How many draws have no optimum, or leave open what all pairs determine; intervals without them are narrow."""
        return int(np.isnan(self.weights).any(axis=1).sum())

    @property
    def sound(self) -> Floats:
        """The other draws: float64 [draws - failed, k]."""
        return self.weights[~np.isnan(self.weights).any(axis=1)]

    @property
    def standard_errors(self) -> Floats:
        """float64 [k], standard deviations over draws; NaN from less than two."""
        sound = self.sound
        return np.asarray(sound.std(axis=0, ddof=1)) if len(sound) > 1 else np.full(len(self.features), np.nan)

    def interval(
        self, level: float = 0.95, method: Literal["percentile", "basic"] = "percentile"
    ) -> tuple[Floats, Floats]:
        """Lower and upper ends, float64 [k] each.

        Args:
            level: The share of draws within, between 0 and 1.
            method: `"percentile"`, the draws' own quantiles; `"basic"`, those reflected in the estimate.

        Raises:
            DataError: The level is not between 0 and 1, or less than half of the draws have an optimum.
        """
        if not 0 < level < 1:
            raise DataError(f"bootstrap: wanted a level between 0 and 1, found {level}")
        if 2 * self.failed > len(self.weights) or not len(self.weights):
            raise DataError(
                f"bootstrap: {self.failed} of {len(self.weights)} draws have no optimum, which leaves no interval: "
                "fit with a ridge (`l2=0.001`) or with more pairs"
            )
        low, high = np.quantile(self.sound, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return (2 * self.estimate - high, 2 * self.estimate - low) if method == "basic" else (low, high)

    def as_dict(self, level: float = 0.95) -> dict[str, Any]:
        """For JSON and TOML."""
        found: dict[str, Any] = {
            "draws": len(self.weights),
            "failed": self.failed,
            "unit": self.unit,
            "seed": self.seed,
            "level": level,
        }
        if 2 * self.failed > len(self.weights):
            return {**found, "intervals": None}
        ends = zip(*self.interval(level), strict=True)
        return {
            **found,
            "intervals": {
                name: [float(low), float(high)] for name, (low, high) in zip(self.features, ends, strict=True)
            },
        }


def bootstrap(
    pairs: Pairs,
    *,
    draws: int = 200,
    seed: int = 0,
    unit: Unit = "pair",
    loss: Loss | None = None,
    l2: float = 0.0,
    prior: Prior | None = None,
    tolerance: float = TOLERANCE,
) -> Bootstrap:
    """Fit to `draws` samples of the pairs, drawn with replacement, each as many as there are.

    Bradley–Terry and margin losses are fitted many draws at once by Newton's method; other losses one by one. Every
    draw starts from the fit to all pairs, which changes nothing for a convex loss.

    Args:
        pairs: Decided ones. A pair is drawn as one whatever its weight, and keeps it.
        draws: How many.
        seed: The same seed gives the same bits.
        unit: `"pair"`, or `"rater"`: raters are drawn with all their pairs, for judgements of one rater depend on each
            other.
        loss: As in `fit`.
        l2: As in `fit`.
        prior: As in `fit`.
        tolerance: As in `fit`.

    Raises:
        DataError: As `fit`, the pairs have no optimum, or raters are to be drawn and not all are known.
    """
    loss = BradleyTerry() if loss is None else loss
    if draws < 1:
        raise DataError(f"bootstrap: wanted at least one draw, found {draws}")
    if unit == "rater" and (pairs.rater < 0).any():
        raise DataError("bootstrap: wanted a rater for every pair to draw raters, found pairs without")
    whole = fit(pairs, loss=loss, l2=l2, prior=prior, tolerance=tolerance, errors="none")
    if not whole.converged:
        raise DataError(f"bootstrap: the pairs themselves cannot be fitted: {whole.in_words()[0]}")
    rng = np.random.default_rng(seed)
    together = isinstance(loss, BradleyTerry | Margin)
    found = np.empty((draws, len(pairs.features)))
    for first in range(0, draws, TOGETHER):
        block = slice(first, min(first + TOGETHER, draws))
        counts = np.stack([_drawn(pairs, unit, rng) for _ in range(block.stop - first)])
        if together:
            found[block] = _together(pairs, counts, whole)
        else:
            found[block] = [_alone(pairs, each, whole) for each in counts]
    return Bootstrap(pairs.features, whole.weights, sealed(found), unit, seed)


def _drawn(pairs: Pairs, unit: Unit, rng: np.random.Generator) -> NDArray[np.float64]:
    """How often each pair is in a draw: [n]."""
    if unit == "pair":
        return np.bincount(rng.integers(0, len(pairs), len(pairs)), minlength=len(pairs)).astype(np.float64)
    present, codes = np.unique(pairs.rater, return_inverse=True)
    times = np.bincount(rng.integers(0, len(present), len(present)), minlength=len(present))
    return np.asarray(times[codes], np.float64)


def _alone(pairs: Pairs, counts: Floats, whole: Fit) -> Floats:
    """The weights of one draw, NaN where it has no optimum or leaves open what all pairs determine."""
    drawn = np.flatnonzero(counts)
    sample = pairs.take(drawn)
    sample = attrs.evolve(sample, weight=sealed(sample.weight * counts[drawn]))
    again = fit(
        sample,
        loss=whole.loss,
        l2=whole.l2,
        prior=whole.prior,
        start=whole.weights,
        tolerance=whole.tolerance,
        errors="none",
    )
    penalised = whole.l2 > 0 or (whole.prior is not None and bool((whole.prior.precision > 0).all()))
    determined = penalised or again.identifiability.rank == whole.identifiability.rank
    return again.weights if again.converged and determined else np.full(len(pairs.features), np.nan)


def _together(pairs: Pairs, counts: Floats, whole: Fit) -> Floats:
    """The weights of several draws, [b, k]: Newton's method on all at once, one by one where that is not safe."""
    data = Comparisons.of(pairs)
    count = len(data.features)
    loss = whole.loss
    margin, temperature = (loss.margin, loss.temperature) if isinstance(loss, Margin) else (0.0, 1.0)
    share = counts * pairs.weight
    total = share.sum(axis=1)
    share /= total[:, None]
    mean, precision = (np.zeros(count), np.zeros(count)) if whole.prior is None else whole.prior.of(count)
    gram = weighted_squares(data.differences, data.weight)
    scale = np.sqrt(np.diag(gram))
    scale = np.where(scale > 0, scale, 1.0)
    ridge = 2 * whole.l2 + precision / whole.total_weight
    transform, null = round_coordinates(gram / (4 * temperature) + np.diag(ridge), scale)
    rows = data.differences @ transform
    width = rows.shape[1]
    if not width:
        return np.zeros((len(counts), count))
    height = max(64, SQUARE // (len(counts) * width))
    penalty = 2 * whole.l2 + precision / total[:, None]

    def derivatives(z: Floats) -> tuple[Floats, Floats, Floats]:
        """Values [b], gradients [b, r] and second derivatives [b, r, r] at [b, r]."""
        weights = z @ transform.T
        off = weights - mean
        value = whole.l2 * (weights**2).sum(axis=1) + 0.5 * ((precision / total[:, None]) * off**2).sum(axis=1)
        gradient = (2 * whole.l2 * weights + (precision / total[:, None]) * off) @ transform
        hessian = np.zeros((len(z), width, width))
        for start in range(0, len(rows), height):
            part, weight = rows[start : start + height], share[:, start : start + height]
            softplus, sigma = logistic((margin - z @ part.T) / temperature)
            value += temperature * np.einsum("bn,bn->b", weight, softplus)
            gradient -= (weight * sigma) @ part
            curve = weight * sigma * (1 - sigma) / temperature
            for column in range(width):
                hessian[:, column, column:] += curve @ (part[:, column:] * part[:, column, None])
        hessian = hessian + np.triu(hessian, 1).swapaxes(1, 2)
        return value, gradient, hessian + np.einsum("kr,bk,ks->brs", transform, penalty, transform)

    z = np.tile(np.linalg.lstsq(transform, whole.weights, rcond=None)[0], (len(counts), 1))
    sound = np.ones(len(counts), bool)
    value, gradient, hessian = derivatives(z)
    for _ in range(STEPS):
        open_ = np.abs(gradient).max(axis=1, initial=0.0) > 1e-11
        if not (open_ & sound).any():
            break
        spectrum = np.linalg.eigvalsh(hessian)
        sound &= spectrum[:, 0] > 1e-9 * np.maximum(spectrum[:, -1], 1e-300)
        safe = np.where(sound[:, None, None], hessian, np.eye(width))
        step = np.where((sound & open_)[:, None], np.linalg.solve(safe, -gradient[..., None])[..., 0], 0.0)
        for _ in range(20):
            nearer = derivatives(z + step)
            worse = nearer[0] > value + 1e-14 * np.maximum(1.0, np.abs(value))
            if not (worse & sound).any():
                break
            step[worse] /= 2
        z = z + step
        value, gradient, hessian = nearer
    sound &= np.abs(gradient).max(axis=1, initial=0.0) <= 1e-9
    steep = NEARLY_SURE * temperature + abs(margin)
    for start in range(0, len(rows), height):
        part = slice(start, start + height)
        sound &= ~((share[:, part] > 0) & (np.abs(z @ rows[part].T) > steep)).any(axis=1)
    found = z @ transform.T
    found -= (found @ null) @ null.T
    for place in np.flatnonzero(~sound):
        found[place] = _alone(pairs, counts[place], whole)
    return found
