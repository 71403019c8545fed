"""What selecting by one stakeholder's utility does to another, said before anything is trained.

Let rows be drawn with probability softmax(s * w_t . p) within a request. Differentiating the expectation,

    d/ds E_s[w_o . p] = Cov_s(w_t . p, w_o . p),    which at s = 0 is w_t' S w_o

with S the covariance of the features among the request's rows. So the sign of w_t' S w_o is the direction in which the
other stakeholder moves when the target's utility begins to select: an identity, not a finding, for small s. It is
Goodhart's law with a direction (Goodhart, 1975; Manheim and Garrabrant, 2018): a measure that is made a target carries
along whatever it covaries with in the pool, and more training data for the target make the selection more like it.
Whether the direction also holds for a hard slate is not an identity; it is measured here, as `top_shift`.

Raw weights alone do not tell: features that never vary in the pool, or that vary together, count differently. Hence the
cosine is taken in the geometry of the covariance, where it is the correlation of the two utilities and does not depend
on the length of either vector.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from candidate_pipeline_stakeholder.audit.estimates import Estimate, number, resampling
from candidate_pipeline_stakeholder.audit.record import AlignedPair, Alignment, Cosines, Verdict
from candidate_pipeline_stakeholder.audit.slates import CONSTANT, Floats, NotPossibleError, Scene

MIN_REQUESTS: Final = 10
"""From so many requests on, intervals resample requests; below, the rows within each."""
STRONG: Final = 0.2
ROUNDING: Final = 1e-13
"""A variance computed from a covariance matrix is rounding below this share of its terms."""
SHARPEST: Final = 1e3
"""Upper end of the search for a sharpness, per standard deviation: a softmax that is a maximum."""


def cosine_matrix(weights: ArrayLike, covariance: ArrayLike | None = None) -> Floats:
    """Cosines w_i' S w_j / sqrt(w_i' S w_i * w_j' S w_j) of weight vectors.

    Args:
        weights: float64 [s, k].
        covariance: S, float64 [k, k]; `None`: the identity, which gives plain cosines.

    Returns:
        float64 [s, s], NaN where a vector has length 0 (a utility that does not vary).
    """
    vectors = np.asarray(weights, np.float64)
    if covariance is None:
        return cosines_of_products(vectors @ vectors.T)
    spread = np.asarray(covariance, np.float64)
    floor = ROUNDING * (vectors**2 @ np.abs(np.diag(spread)))  # what rounding leaves of a variance that is 0
    return cosines_of_products(vectors @ spread @ vectors.T, floor)


def cosines_of_products(gram: Floats, floor: Floats | float = 0.0) -> Floats:
    """Cosines from products [..., s, s], NaN where a square is at most `floor`."""
    squares = np.diagonal(gram, axis1=-2, axis2=-1)
    length = np.sqrt(np.where(squares > floor, squares, np.nan))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.clip(gram / (length[..., :, None] * length[..., None, :]), -1.0, 1.0), np.float64)


def within_covariances(scene: Scene) -> Floats:
    """Population covariance of the utilities among the rows of each request, float64 [r, s, s]."""
    centre = scene.utilities.sum(axis=1) / scene.counts[:, None]
    off = np.where(scene.there[..., None], scene.utilities - centre[:, None, :], 0.0)
    found = off.swapaxes(1, 2) @ off / scene.counts[:, None, None]
    small = np.diagonal(found, axis1=1, axis2=2) <= (CONSTANT * scene.scale) ** 2
    return np.where(small[:, :, None] | small[:, None, :], 0.0, found)


def pooled_covariance(scene: Scene) -> Floats:
    """Population covariance of the utilities over all rows, w_i' S w_j, float64 [s, s]."""
    off = scene.utilities[scene.there] - scene.weights @ scene.moments.mean
    return np.asarray(off.T @ off / len(off), np.float64)


def cosines(scene: Scene) -> Cosines:
    """Cosines of the given weights over the pool's features."""
    found = cosine_matrix(scene.weights)
    words = []
    for one in range(len(scene.names)):
        for other in range(one + 1, len(scene.names)):
            value = number(found[one, other])
            if value is not None and abs(value) > 0.999:
                same = "the same" if value > 0 else "opposite"
                words.append(f"{scene.names[one]} and {scene.names[other]} weigh everything in {same} proportions.")
    for name, vector in zip(scene.names, scene.weights, strict=True):
        if not vector.any():
            words.append(f"{name} weighs no feature of this pool.")
    return Cosines(scene.names, tuple(tuple(number(value) for value in row) for row in found), tuple(words))


def alignment(scene: Scene, *, draws: int = 400, seed: int = 0, strong: float = STRONG) -> Alignment:
    """Predicted direction for every ordered pair of stakeholders, with intervals, and what slates measured.

    Args:
        scene: The requests.
        draws: Bootstrap draws.
        seed: For them.
        strong: |cosine| from which the prediction is checked against the slates.

    Raises:
        NotPossibleError: There is one stakeholder only, or no request has two rows.
    """
    if len(scene.names) < 2:
        raise NotPossibleError("one stakeholder only: there is nobody to be aligned with")
    if scene.counts.max() < 2:
        raise NotPossibleError("no request has two rows: there is nothing to select from")
    rng = np.random.default_rng([seed, 1])
    each = within_covariances(scene)
    gram = each.mean(axis=0)
    cosine = cosines_of_products(gram)
    pooled = pooled_covariance(scene)
    pooled_cosine = cosines_of_products(pooled, _floor(scene))
    by_request = scene.requests >= MIN_REQUESTS
    if by_request:
        weights = resampling(scene.requests, draws, rng)
        drawn = cosines_of_products(np.tensordot(weights, each, axes=1))
        drawn_pooled = _pooled_draws(scene, weights)
    else:
        drawn, drawn_pooled = _row_draws(scene, draws, rng)
        weights = None
    units = scene.requests if by_request else None
    sd = np.sqrt(np.diagonal(gram))
    shift, top_draws = _top_shift(scene, sd, weights)
    soft_shift, soft_slope = _softmax(scene, sd)
    pairs = []
    for target in range(len(scene.names)):
        for other in range(len(scene.names)):
            if target == other:
                continue
            at = (target, other)
            found = Estimate.of(cosine[at], drawn[:, target, other], units)
            pairs.append(
                AlignedPair(
                    target=scene.names[target],
                    other=scene.names[other],
                    weight_cosine=number(cosine_matrix(scene.weights)[at]),
                    covariance=float(gram[at]),
                    cosine=found,
                    pooled_covariance=float(pooled[at]),
                    pooled_cosine=Estimate.of(pooled_cosine[at], drawn_pooled[:, target, other], units),
                    certainty=_certainty(cosine[at], drawn[:, target, other]),
                    verdict=_verdict(found),
                    soft_shift=number(soft_shift[at]),
                    soft_slope=number(soft_slope[at]),
                    top_shift=Estimate.of(shift[at], None if top_draws is None else top_draws[:, target, other], units),
                )
            )
    checked = [pair for pair in pairs if pair.cosine.value is not None and abs(pair.cosine.value) >= strong]
    agree = sum((pair.top_shift.value or 0.0) * (pair.cosine.value or 0.0) > 0 for pair in checked)
    return Alignment(
        names=scene.names,
        pairs=tuple(pairs),
        size=scene.size,
        strong=strong,
        checked=len(checked),
        agree=agree,
        bootstrap="requests" if by_request else "rows",
        draws=draws,
        words=_words(pairs, scene.size, strong, len(checked), agree),
    )


def _pooled_draws(scene: Scene, weights: Floats) -> Floats:
    """Pooled cosines with requests resampled, [draws, s, s]."""
    # Centred first, so that a mean far from 0 does not eat the digits of the covariance.
    off = np.where(scene.there[..., None], scene.utilities - scene.weights @ scene.moments.mean, 0.0)
    counts = weights @ scene.counts
    mean = weights @ off.sum(axis=1) / counts[:, None]
    second = np.tensordot(weights, off.swapaxes(1, 2) @ off, axes=1) / counts[:, None, None]
    return cosines_of_products(second - mean[:, :, None] * mean[:, None, :], _floor(scene))


def _floor(scene: Scene) -> Floats:
    return np.asarray((CONSTANT * scene.scale.max(axis=0)) ** 2, np.float64)


def _row_draws(scene: Scene, draws: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Cosines within requests and pooled with the rows of each request resampled, two [draws, s, s]."""
    count = len(scene.names)
    within = np.zeros((draws, count, count))
    first = np.zeros((draws, count))
    second = np.zeros((draws, count, count))
    for request in range(scene.requests):
        own = scene.utilities[request, scene.there[request]] - scene.weights @ scene.moments.mean
        weights = resampling(len(own), draws, rng)
        products = (own[:, :, None] * own[:, None, :]).reshape(len(own), -1)
        mean = weights @ own
        square = (weights @ products).reshape(draws, count, count)
        within += (square - mean[:, :, None] * mean[:, None, :]) / scene.requests
        share = scene.counts[request] / scene.counts.sum()
        first += share * mean
        second += share * square
    floor = _floor(scene)
    return cosines_of_products(within, floor), cosines_of_products(
        second - first[:, :, None] * first[:, None, :], floor
    )


def _top_shift(scene: Scene, sd: Floats, weights: Floats | None) -> tuple[Floats, Floats | None]:
    """Mean of each utility in each one's slate less its mean, in standard deviations, [s, s]; with draws."""
    slates = scene.slate_means(scene.top(np.moveaxis(scene.utilities, 2, 0)))
    centre = scene.utilities.sum(axis=1) / scene.counts[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(sd > 0, (slates - centre) / sd, np.nan)
        # A target that does not vary selects nothing.
        each = np.where(sd[:, None, None] > 0, each, np.nan)
    drawn = None if weights is None else np.einsum("br,tro->bto", weights, each)
    return each.mean(axis=1), drawn


def _softmax(scene: Scene, sd: Floats) -> tuple[Floats, Floats]:
    """Shift and slope, [s, s], at the sharpness where a softmax of the target is as sharp as the slate."""
    count = len(scene.names)
    shift, slope = np.full((count, count), np.nan), np.full((count, count), np.nan)
    centre = scene.utilities.sum(axis=1) / scene.counts[:, None]
    for target in range(count):
        if not sd[target] > 0:
            continue
        scaled = np.where(scene.there, scene.utilities[:, :, target] / sd[target], -np.inf)
        scaled -= scaled.max(axis=1, keepdims=True)
        sharpness = matching_sharpness(scaled, scene.sizes)
        chance = _chances(scaled, sharpness)
        mean = np.einsum("rm,rms->rs", chance, scene.utilities)
        finite = np.where(scene.there, scaled, 0.0)
        moved = np.einsum("rm,rms->rs", chance * finite, scene.utilities)
        slope[target] = (moved - (chance * finite).sum(axis=1)[:, None] * mean).mean(axis=0)
        shift[target] = (mean - centre).mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sd > 0, shift / sd, np.nan), np.where(sd > 0, slope / sd, np.nan)


def _chances(scaled: Floats, sharpness: Floats) -> Floats:
    """Softmax within requests; `scaled` has its largest at 0 and -inf in padding."""
    with np.errstate(invalid="ignore"):
        power = np.exp(np.where(np.isneginf(scaled), -np.inf, sharpness[:, None] * scaled))
    return np.asarray(power / power.sum(axis=1, keepdims=True), np.float64)


def matching_sharpness(scaled: ArrayLike, sizes: ArrayLike) -> NDArray[np.float64]:
    """Sharpness s per request at which softmax(s * utility) has the perplexity of a slate, float64 [r].

    Perplexity falls as s grows, so bisection finds it; where ties keep it above the size, the result is the largest s
    tried.

    Args:
        scaled: Utilities less their largest, -inf in padding, [r, m].
        sizes: Wanted perplexity, [r].
    """
    given, wanted = np.asarray(scaled, np.float64), np.log(np.asarray(sizes, np.float64))
    low, high = np.zeros(len(given)), np.full(len(given), SHARPEST)
    for _ in range(60):
        middle = (low + high) / 2
        chance = _chances(given, middle)
        entropy = -(chance * np.log(np.where(chance > 0, chance, 1.0))).sum(axis=1)
        dull = entropy > wanted * (1 + 1e-12)
        low, high = np.where(dull, middle, low), np.where(dull, high, middle)
    return np.asarray(low, np.float64)


def _certainty(value: float, drawn: Floats) -> float | None:
    made = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not len(made) or value == 0:
        return None
    return float((np.sign(made) == np.sign(value)).mean())


def _verdict(found: Estimate) -> Verdict:
    if found.value is None:
        return "none"
    if found.low is None or found.high is None or found.low <= 0 <= found.high:
        return "cannot tell"
    return "helps" if found.low > 0 else "harms"


def _words(pairs: list[AlignedPair], size: int, strong: float, checked: int, agree: int) -> tuple[str, ...]:
    told = []
    for pair in pairs:
        # The covariance is symmetric, so one sentence serves both directions.
        twin = next(each for each in pairs if (each.target, each.other) == (pair.other, pair.target))
        if pairs.index(twin) < pairs.index(pair):
            continue
        value = pair.cosine.value
        if value is None:
            told.append(
                f"{pair.target} and {pair.other}: one of the two does not vary within requests, so neither moves."
            )
            continue
        interval = "" if pair.cosine.low is None else f" [{pair.cosine.low:+.2f}, {pair.cosine.high:+.2f}]"
        what = {"helps": "raises", "harms": "lowers"}.get(pair.verdict)
        found = f"covariance cosine {value:+.2f}{interval}"
        if what is None:
            told.append(f"{pair.target} and {pair.other}: selecting by one may raise or lower the other ({found}).")
        else:
            told.append(
                f"{pair.target} and {pair.other}: selecting more sharply by one's utility, as more data about it do, "
                f"{what} the other at first ({found})."
            )
    if checked:
        told.append(
            f"Of {checked} ordered pairs with a covariance cosine of at least {strong:g} in size, the slate of {size} "
            f"moved the other stakeholder as predicted in {agree}."
        )
    return tuple(told)
