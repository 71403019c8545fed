"""How much of the slates, and of what stakeholders get, hangs on the exact weights.

Weights are changed, utilities standardised anew as the score does, slates selected anew, and the new slates judged by
the weights as given. Perturbed vectors are rescaled so that their utility varies over the pool as much as the given
one: a longer vector would otherwise look more harmful, and a shorter one more harmless, than its direction is. No noise
at all (sigma 0) goes the same way as any other amount, so its result is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from candidate_pipeline_stakeholder.audit.alignment import ROUNDING
from candidate_pipeline_stakeholder.audit.estimates import Estimate, resampling, tail
from candidate_pipeline_stakeholder.audit.record_weights import Misspecification, Sensitivity, WeightChange
from candidate_pipeline_stakeholder.audit.slates import Floats, NotPossibleError, Scene

FACTORS: Final = (0.0, 0.5, 0.8, 1.25, 2.0)
SIGMAS: Final = (0.0, 0.1, 0.2, 0.3, 0.5)
RANKED_PAIRS: Final = 200
"""Pairs of rows of a request on which rankings are compared."""


def sensitivity(
    scene: Scene,
    *,
    factors: Sequence[float] = FACTORS,
    sigmas: Sequence[float] = SIGMAS,
    perturbations: int = 20,
    draws: int = 200,
    seed: int = 0,
) -> Sensitivity:
    """Change each weight alone, then all at once.

    Args:
        scene: The requests.
        factors: What single weights are multiplied by.
        sigmas: Sizes of the simultaneous noise.
        perturbations: Draws of that noise for each size; intervals of these figures resample them.
        draws: Bootstrap draws; the single changes' intervals resample requests.
        seed: For all of them.

    Raises:
        NotPossibleError: No request has two rows, or no stakeholder of the mix has a weight.
    """
    if scene.counts.max() < 2:
        raise NotPossibleError("no request has two rows: there is nothing to select from")
    changes = [
        (who, feature)
        for who in np.flatnonzero(scene.mix)
        for feature in np.flatnonzero(scene.weights[who] * scene.varies)
    ]
    if not changes:
        raise NotPossibleError("no stakeholder of the mix has a weight for a feature that varies in this pool")
    rng = np.random.default_rng([seed, 4])
    judge = _Judge(scene, rng)
    own = scene.standardised(scene.weights)
    resample = resampling(scene.requests, draws, rng) if scene.requests > 1 else None
    single = []
    for who in np.flatnonzero(scene.mix):
        rest = np.tensordot(np.delete(scene.mix, who), np.delete(own, who, axis=0), axes=1)
        cases = [(feature, factor) for one, feature in changes if one == who for factor in factors]
        for part in scene.chunks(len(cases)):
            weights = np.repeat(scene.weights[None, who], len(cases[part]), axis=0)
            for row, (feature, factor) in enumerate(cases[part]):
                weights[row, feature] *= factor
            weights = matched(weights, scene.weights[who], scene.moments.covariance)
            overlap, tau, change = judge.judge(rest + scene.mix[who] * scene.standardised(weights))
            overlaps, taus = _estimates(overlap[..., None], resample), _estimates(tau[..., None], resample)
            changed = _estimates(change, resample)
            single += [
                WeightChange(
                    stakeholder=scene.names[who],
                    feature=scene.features[feature],
                    weight=float(scene.weights[who, feature]),
                    factor=float(factor),
                    overlap=overlaps[row][0],
                    tau=taus[row][0],
                    change=changed[row],
                )
                for row, (feature, factor) in enumerate(cases[part])
            ]
    simultaneous = tuple(
        _misspecification(scene, judge, float(sigma), perturbations, resampling(perturbations, draws, rng), seed)
        for sigma in sorted(sigmas)
    )
    return Sensitivity(
        names=scene.names,
        factors=tuple(float(factor) for factor in factors),
        single=tuple(single),
        simultaneous=simultaneous,
        match="pool sd",
        size=scene.size,
        words=_words(scene, single, simultaneous),
    )


def matched(weights: Floats, given: Floats, covariance: Floats) -> Floats:
    """Weights [..., k] rescaled so that their utility has the standard deviation over the pool that `given` [k] has.

    A vector whose utility does not vary stays as it is.
    """
    spread = np.abs(np.diag(covariance))
    have = np.einsum("...i,ij,...j->...", weights, covariance, weights, optimize=True)
    have = np.where(have > ROUNDING * (weights**2 @ spread), have, 0.0)
    want = given @ covariance @ given
    ratio = np.sqrt(np.divide(want, have, out=np.ones_like(have), where=have > 0))
    return np.asarray(weights * ratio[..., None], np.float64)


class _Judge:
    """Compares the slates of scores with the ones of the given weights."""

    def __init__(self, scene: Scene, rng: np.random.Generator) -> None:
        self.scene = scene
        score = scene.score(scene.mix[None])[0]
        self.slates = scene.top(score)
        self.share = scene.shares(scene.slate_means(self.slates[None])[0])
        self.left, self.right = _ranked_pairs(scene, rng)
        before = self._signs(score)
        self.signs = before
        self.strict = np.abs(before).sum(axis=-1)

    def _signs(self, scores: Floats) -> Floats:
        rows = np.arange(self.scene.requests)[:, None]
        return np.sign(scores[..., rows, self.left] - scores[..., rows, self.right])

    def judge(self, scores: Floats) -> tuple[Floats, Floats, Floats]:
        """Overlap [c, r], tau [c, r] (NaN where all rows tie) and change of shares [c, r, s] of scores [c, r, m]."""
        chosen = self.scene.top(scores)
        overlap = (chosen & self.slates).sum(axis=-1) / self.scene.sizes
        with np.errstate(invalid="ignore", divide="ignore"):
            tau = (self._signs(scores) * self.signs).sum(axis=-1) / self.strict
        return overlap, tau, self.scene.shares(self.scene.slate_means(chosen)) - self.share


def _ranked_pairs(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two rows of each request, `RANKED_PAIRS` times, intp [r, pairs]; a lone row is paired with itself."""
    counts = scene.counts.astype(np.intp)[:, None]
    left = (rng.random((scene.requests, RANKED_PAIRS)) * counts).astype(np.intp)
    step = 1 + (rng.random((scene.requests, RANKED_PAIRS)) * np.maximum(counts - 1, 1)).astype(np.intp)
    return left, (left + step) % counts


def _estimates(values: Floats, resample: Floats | None) -> list[tuple[Estimate, ...]]:
    """Means over requests of [c, r, x] with intervals, x estimates for each of c; undefined requests are left out."""
    there = np.isfinite(values)
    filled = np.where(there, values, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(axis=1) / there.sum(axis=1)
        if resample is None:
            return [tuple(Estimate.of(value) for value in row) for row in mean]
        # The weights' rows sum to 1, so the undefined requests' part is divided out.
        drawn = np.tensordot(resample, filled, axes=(1, 1)) / np.tensordot(resample, there.astype(float), axes=(1, 1))
    whole, outside = np.where(np.isfinite(mean), mean, 0.0), tail(resample.shape[1])
    low, high = np.quantile(np.where(np.isfinite(drawn), drawn, whole), [outside, 1 - outside], axis=0)
    return [
        tuple(
            Estimate(float(value), float(least), float(most)) if np.isfinite(value) else Estimate(None)
            for value, least, most in zip(*row, strict=True)
        )
        for row in zip(mean, low, high, strict=True)
    ]


def _misspecification(
    scene: Scene, judge: _Judge, sigma: float, count: int, resample: Floats, seed: int
) -> Misspecification:
    # The same normal draws for every sigma, so that sizes are compared on equal directions.
    rng = np.random.default_rng([seed, 5])
    noise = rng.normal(size=(count, *scene.weights.shape))
    weights = scene.weights * (1.0 + sigma * noise)
    covariance = scene.moments.covariance
    for who in range(len(scene.names)):
        weights[:, who] = matched(weights[:, who], scene.weights[who], covariance)
    used = scene.mix != 0
    length = np.linalg.norm(weights, axis=-1) * np.linalg.norm(scene.weights, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.einsum("dsk,sk->ds", weights, scene.weights) / length
        ratio = scene.moments.sd(weights) / scene.moments.sd(scene.weights)
    # Steps of one draw each hold as many utilities as there are stakeholders.
    found: list[tuple[Floats, Floats, Floats]] = []
    for draw in range(count):
        score = np.tensordot(scene.mix, scene.standardised(weights[draw]), axes=1)
        found.append(judge.judge(score[None]))
    overlap = np.array([np.nanmean(one[0]) for one in found])
    tau = np.array([np.nanmean(one[1]) if np.isfinite(one[1]).any() else np.nan for one in found])
    change = np.array([one[2][0].mean(axis=0) for one in found])

    def estimate(values: Floats) -> Estimate:
        return Estimate.of(values.mean(), resample @ values, count)

    return Misspecification(
        sigma=sigma,
        draws=count,
        cosine=estimate(_over(cosine[:, used])),
        norm_ratio=estimate(_over(ratio[:, used])),
        overlap=estimate(overlap),
        tau=estimate(tau),
        change=tuple(estimate(change[:, who]) for who in range(len(scene.names))),
    )


def _over(values: Floats) -> Floats:
    """Mean over stakeholders, those left out for whom it is not defined."""
    there = np.isfinite(values)
    return np.asarray(
        np.divide(
            np.where(there, values, 0.0).sum(axis=1),
            there.sum(axis=1),
            out=np.full(len(values), np.nan),
            where=there.any(axis=1),
        )
    )


def _words(scene: Scene, single: Sequence[WeightChange], simultaneous: Sequence[Misspecification]) -> tuple[str, ...]:
    told = []
    changed = [change for change in single if change.factor != 1 and change.overlap.value is not None]
    if changed:
        worst = min(changed, key=lambda change: change.overlap.value or 0.0)
        told.append(
            f"Of single weights, {worst.stakeholder}'s {worst.feature} times {worst.factor:g} changes most: "
            f"{100 * (1 - (worst.overlap.value or 0.0)):.0f} % of the slate's rows are others."
        )
    told += [
        f"With every weight off by a factor 1 + N(0, {each.sigma:g}), rescaled to the same spread, "
        f"{100 * each.overlap.value:.0f} % of the slate's rows stay."
        for each in simultaneous
        if each.overlap.value is not None and each.sigma in {0.0, simultaneous[-1].sigma}
    ]
    idle = [name for name, part in zip(scene.names, scene.mix, strict=True) if part == 0]
    if idle:
        told.append(f"Not in the mix, so its weights change nothing: {', '.join(idle)}.")
    return tuple(told)
