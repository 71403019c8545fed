"""How often two stakeholders order two items differently.

The share is counted over pairs of items of one request, on which both have a preference, every request counting the
same. For utilities that are jointly normal over the pool it is arccos(r) / pi, r their correlation (Sheppard, 1899):
how far the count is from that says how far the pool is from normal, not that either is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_stakeholder.audit.alignment import (
    MIN_REQUESTS,
    cosines_of_products,
    pooled_covariance,
    within_covariances,
)
from candidate_pipeline_stakeholder.audit.estimates import Estimate, number, resampling
from candidate_pipeline_stakeholder.audit.record import DisagreeingPair, Disagreement, LabelAgreement
from candidate_pipeline_stakeholder.audit.slates import CONSTANT, Floats, NotPossibleError, Scene
from candidate_pipeline_stakeholder.pairs import Pairs

MAX_CELLS: Final = 4_000_000
"""Pairs of rows compared at most, over all requests."""
MAX_ROWS: Final = 1000
"""Rows of one request compared at most."""
HALF: Final = 0.5
"""The share of pairs that utilities order differently which have nothing to do with each other."""


def disagreement(
    scene: Scene, *, pairs: Pairs | None = None, draws: int = 400, seed: int = 0, max_cells: int = MAX_CELLS
) -> Disagreement:
    """Count disagreement of every two stakeholders; with given pairs, also how well each utility agrees with them.

    Args:
        scene: The requests.
        pairs: Preferences as they were collected; their features are taken by name.
        draws: Bootstrap draws.
        seed: For them and for samples of rows.
        max_cells: Pairs of rows compared at most.

    Raises:
        NotPossibleError: There is one stakeholder only and no pairs, or no request has two rows.
    """
    labels = () if pairs is None else label_agreement(scene, pairs)
    if len(scene.names) < 2 and not labels:
        raise NotPossibleError("one stakeholder only: there is nobody to disagree with")
    if scene.counts.max() < 2:
        raise NotPossibleError("no request has two rows: there is nothing to order")
    rng = np.random.default_rng([seed, 2])
    limit = int(np.clip(np.sqrt(max_cells / scene.requests), 2, MAX_ROWS))
    rows = [np.flatnonzero(there) for there in scene.there]
    sample = [_sample(at, limit, rng) for at in rows]
    every = all(len(few) == len(all_) for few, all_ in zip(sample, rows, strict=True))
    by_request = scene.requests >= MIN_REQUESTS
    share, tied, drawn = _rates(
        [scene.utilities[request, at] for request, at in enumerate(sample)],
        scene.scale,
        draws if not by_request else 0,
        rng,
    )
    if by_request:
        drawn = _request_draws(share, resampling(scene.requests, draws, rng))
    flat = scene.utilities[scene.there]
    pooled, _, pooled_drawn = _rates(
        [flat[_sample(np.arange(len(flat)), MAX_ROWS, rng)]], scene.scale.max(axis=0)[None], draws, rng
    )
    predicted = np.arccos(cosines_of_products(within_covariances(scene).mean(axis=0))) / np.pi
    pooled_predicted = np.arccos(cosines_of_products(pooled_covariance(scene))) / np.pi
    found = []
    for one in range(len(scene.names)):
        for other in range(one + 1, len(scene.names)):
            at = (one, other)
            value = _mean(share[:, one, other])
            found.append(
                DisagreeingPair(
                    one=scene.names[one],
                    other=scene.names[other],
                    share=Estimate.of(value, drawn[:, one, other], scene.requests if by_request else None),
                    tied=number(_mean(tied[:, one, other])),
                    predicted=number(predicted[at]),
                    pooled=Estimate.of(pooled[0][at], pooled_drawn[:, one, other]),
                    pooled_predicted=number(pooled_predicted[at]),
                )
            )
    counted = sum(len(at) * (len(at) - 1) // 2 for at in sample)
    return Disagreement(
        names=scene.names,
        pairs=tuple(found),
        labels=labels,
        counted=counted,
        every=every,
        bootstrap="requests" if by_request else "rows",
        words=_words(found, labels),
    )


def _sample(rows: NDArray[np.intp], limit: int, rng: np.random.Generator) -> NDArray[np.intp]:
    return rows if len(rows) <= limit else np.sort(rng.choice(rows, limit, replace=False))


def _mean(values: Floats) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _signs(utilities: Floats, scale: Floats) -> NDArray[np.float32]:
    """Sign of every difference, [s, n, n]; differences that are rounding are 0."""
    values = utilities.T
    off = values[:, :, None] - values[:, None, :]
    return np.asarray(np.sign(np.where(np.abs(off) <= CONSTANT * scale[:, None, None], 0.0, off)), np.float32)


def _rates(
    utilities: Sequence[Floats], scale: Floats, draws: int, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Shares of opposed and of tied pairs in each request, two [r, s, s]; draws of rows of the mean, [draws, s, s]."""
    count = utilities[0].shape[1]
    share, tied = np.full((len(utilities), count, count), np.nan), np.full((len(utilities), count, count), np.nan)
    sums, defined = np.zeros((draws, count, count)), np.zeros((draws, count, count))
    for request, own in enumerate(utilities):
        if len(own) < 2:
            continue
        signs = _signs(own, scale[request])
        flat = signs.reshape(count, -1)
        strict = np.abs(flat)
        both = np.asarray(strict @ strict.T, np.float64)
        opposed = (both - flat @ flat.T) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            share[request] = np.where(both > 0, opposed / both, np.nan)
        tied[request] = 1.0 - both / (len(own) * (len(own) - 1))
        if not draws:
            continue
        times = np.asarray(resampling(len(own), draws, rng) * len(own), np.float32)
        for one in range(count):
            for other in range(one + 1, count):
                product = signs[one] * signs[other]
                less = ((times @ product) * times).sum(axis=1, dtype=np.float64)
                pairs = ((times @ np.abs(product)) * times).sum(axis=1, dtype=np.float64)
                there = pairs > 0
                rate = np.divide((pairs - less) / 2, pairs, out=np.zeros(draws), where=there)
                sums[:, one, other] += rate
                defined[:, one, other] += there
    with np.errstate(invalid="ignore", divide="ignore"):
        return share, tied, np.where(defined > 0, sums / defined, np.nan)


def _request_draws(share: Floats, weights: Floats) -> Floats:
    """Mean share with requests resampled; a request without a defined share counts nothing, [draws, s, s]."""
    there = np.isfinite(share)
    total = np.tensordot(weights, there.astype(np.float64), axes=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        made = np.tensordot(weights, np.where(there, share, 0.0), axes=1) / total
    return np.asarray(made, np.float64)


def label_agreement(scene: Scene, pairs: Pairs) -> tuple[LabelAgreement, ...]:
    """How often each utility orders each stakeholder's decided pairs as they were labelled."""
    weights = np.zeros((len(scene.names), len(pairs.features)))
    for column, name in enumerate(pairs.features):
        if name in scene.features:
            weights[:, column] = scene.weights[:, scene.features.index(name)]
    found = []
    for label in pairs.stakeholders:
        own = pairs.of_stakeholder(label).decided()
        if not len(own):
            continue
        preferred, other = own.sides()
        margin = preferred @ weights.T - other @ weights.T
        floor = CONSTANT * (np.maximum(np.abs(preferred), np.abs(other)) @ np.abs(weights).T)
        right = np.where(np.abs(margin) <= floor, 0.5, (margin > 0).astype(np.float64))
        value = own.weight @ right / own.weight.sum()
        effective = own.weight.sum() ** 2 / (own.weight @ own.weight)  # Kish (1965)
        found += [
            LabelAgreement(label, name, len(own), _wilson(float(value[at]), float(effective)))
            for at, name in enumerate(scene.names)
        ]
    return tuple(found)


def _wilson(value: float, count: float) -> Estimate:
    """A share with the interval of Wilson (1927) at 95 %."""
    square = 1.959963984540054**2 / count
    centre, half = value + square / 2, np.sqrt(square * value * (1 - value) + square**2 / 4)
    low, high = (centre - half) / (1 + square), (centre + half) / (1 + square)
    return Estimate(value, float(np.clip(low, 0.0, value)), float(np.clip(high, value, 1.0)))


def _words(found: Sequence[DisagreeingPair], labels: Sequence[LabelAgreement]) -> tuple[str, ...]:
    ordered = sorted(
        (pair for pair in found if pair.share.value is not None), key=lambda pair: -(pair.share.value or 0)
    )
    told = [
        f"{pair.one} and {pair.other} disagree most: they order {100 * (pair.share.value or 0):.0f} % of the item "
        "pairs within requests differently."
        for pair in ordered[:1]
    ]
    told += [
        f"{pair.one} and {pair.other} order {100 * (pair.share.value or 0):.0f} % of the pairs differently, though "
        f"their cosine through the pool says {100 * (pair.predicted or 0):.0f} % of jointly normal utilities: "
        "they agree on items that are far apart, which make the cosine, more than on the rest."
        if pair.predicted is not None and pair.predicted < HALF
        else f"{pair.one} and {pair.other} order only {100 * (pair.share.value or 0):.0f} % of the pairs differently, "
        f"though their cosine through the pool says {100 * (pair.predicted or 0):.0f} % of jointly normal utilities: "
        "they disagree on items that are far apart, which make the cosine, more than on the rest."
        for pair in ordered
        if _contrary(pair)
    ]
    told += [
        f"{pair.one} and {pair.other}: there is no item pair within a request on which both have a preference."
        for pair in found
        if pair.share.value is None
    ]
    told += [
        f"{label.labels}'s utility orders only {100 * label.agree.value:.0f} % of its own pairs as they were labelled."
        for label in labels
        if label.labels == label.utility and label.agree.value is not None and label.agree.value < 0.6
    ]
    return tuple(told)


def _contrary(pair: DisagreeingPair) -> bool:
    """Whether the share, with its whole interval, is on the other side of a half than the cosine says."""
    low, high = pair.share.low, pair.share.high
    if pair.predicted is None or low is None or high is None:
        return False
    return pair.predicted < HALF < low or high < HALF < pair.predicted
