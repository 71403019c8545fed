"""Whether a stakeholder's utility can be learned back from pairs of this pool, and from how many.

What can be learned depends on the pool: weights of features that hardly vary, or that vary together, need many pairs,
and some never come back. So besides the cosine of the weights, which counts every feature the same, the correlation of
the recovered and the true utility among the rows of a request is given: what a ranking needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from candidate_pipeline_stakeholder.audit.alignment import ROUNDING, within_covariances
from candidate_pipeline_stakeholder.audit.estimates import Estimate, resampling
from candidate_pipeline_stakeholder.audit.learning import Questions, alpha, learn
from candidate_pipeline_stakeholder.audit.record_weights import Needed, Recovery, RecoveryPoint
from candidate_pipeline_stakeholder.audit.slates import Floats, NotPossibleError, Scene

SIZES: Final = (25, 50, 100, 250, 500, 1000, 2000, 5000)
NOISES: Final = ((0.25, 0.0), (0.25, 0.2), (1.0, 0.0))
"""(temperature, flips): a sure judge, one whose every fifth answer is turned round, an unsure one."""
WANTED: Final = 0.95
MAX_ROWS: Final = 2000
"""Rows whose ranks are compared."""


def recovery(
    scene: Scene,
    *,
    sizes: Sequence[int] = SIZES,
    noises: Sequence[tuple[float, float]] = NOISES,
    seeds: int = 10,
    seed: int = 0,
    draws: int = 400,
    wanted: float = WANTED,
    progress: Callable[[int, int], None] | None = None,
) -> Recovery:
    """Generate pairs from each utility, fit, compare.

    Args:
        scene: The requests.
        sizes: Numbers of pairs; smaller sets are the beginnings of larger ones.
        noises: (temperature in standard deviations of the utility's differences, share of labels turned round).
        seeds: How many sets of pairs.
        seed: Of the first; the others follow.
        draws: Bootstrap draws over seeds.
        wanted: The utility correlation that counts as recovered.
        progress: Called with how many sets are done, and of how many.

    Raises:
        NotPossibleError: No request has two rows, or no utility varies within requests.
    """
    if scene.counts.max() < 2:
        raise NotPossibleError("no request has two rows: there are no pairs to ask about")
    varying = np.flatnonzero(np.diagonal(within_covariances(scene).mean(axis=0)) > 0)
    if not len(varying):
        raise NotPossibleError("no stakeholder's utility varies within requests: every pair would be a tie")
    sizes = sorted(set(sizes))
    compare = _Comparison(scene, np.random.default_rng([seed, 6]))
    shape = (len(varying), len(noises), len(sizes), seeds)
    cosine, correlation, spearman, alphas = (np.full(shape, np.nan) for _ in range(4))
    errors, separable = np.zeros(shape), np.zeros(shape)
    for place, who in enumerate(varying):
        for turn in range(seeds):
            questions = Questions.draw(scene, int(who), sizes[-1], seed + turn)
            for level, (temperature, flips) in enumerate(noises):
                differences, wrong = questions.answered(temperature, flips)
                errors[place, level, :, turn] = wrong
                for at, size in enumerate(sizes):
                    weights, ridged = learn(differences[:size])
                    here = place, level, at, turn
                    cosine[here], correlation[here], spearman[here] = compare(weights, int(who))
                    found = alpha(weights, scene.features)
                    alphas[here] = np.nan if found is None else found
                    separable[here] = ridged
            if progress is not None:
                progress(place * seeds + turn + 1, len(varying) * seeds)
    resample = resampling(seeds, draws, np.random.default_rng([seed, 7]))
    true_alpha = {scene.names[who]: alpha(scene.weights[who], scene.features) for who in varying}
    points, needed = [], []
    for place, who in enumerate(varying):
        name = scene.names[who]
        for level, (temperature, flips) in enumerate(noises):
            points += [
                RecoveryPoint(
                    stakeholder=name,
                    pairs=size,
                    noise=float(temperature),
                    flips=float(flips),
                    errors=float(errors[place, level, at].mean()),
                    cosine=_over_seeds(cosine[place, level, at], resample),
                    utility_correlation=_over_seeds(correlation[place, level, at], resample),
                    spearman=_over_seeds(spearman[place, level, at], resample),
                    alpha=None if true_alpha[name] is None else _over_seeds(alphas[place, level, at], resample),
                    separable=float(separable[place, level, at].mean()),
                )
                for at, size in enumerate(sizes)
            ]
            reached = correlation[place, level].mean(axis=1) >= wanted
            enough = [size for at, size in enumerate(sizes) if reached[at:].all()]
            needed.append(Needed(name, float(temperature), float(flips), enough[0] if enough else None))
    return Recovery(
        names=tuple(scene.names[who] for who in varying),
        sizes=tuple(sizes),
        noises=tuple((float(temperature), float(flips)) for temperature, flips in noises),
        seeds=seeds,
        wanted=wanted,
        true_alpha=true_alpha,
        points=tuple(points),
        needed=tuple(needed),
        words=_words(needed, sizes[-1], wanted),
    )


def _over_seeds(values: Floats, resample: Floats) -> Estimate:
    if not np.isfinite(values).all():
        return Estimate(None)
    return Estimate.of(values.mean(), resample @ values if len(values) > 1 else None, len(values))


class _Comparison:
    """Compares recovered weights with given ones."""

    def __init__(self, scene: Scene, rng: np.random.Generator) -> None:
        from scipy.stats import rankdata

        self.weights = scene.weights
        self.covariance = scene.pool.moments(within=True).covariance
        rows = scene.pool.values
        if len(rows) > MAX_ROWS:
            rows = rows[np.sort(rng.choice(len(rows), MAX_ROWS, replace=False))]
        self.rows = rows
        # Rounded beside the largest, whatever the unit: what differs by rounding only has one rank.
        utilities = [rows @ weights for weights in scene.weights]
        largest = [np.abs(utility).max() or 1.0 for utility in utilities]
        self.ranks = np.array(
            [rankdata(np.round(one / size, 12)) for one, size in zip(utilities, largest, strict=True)]
        )

    def __call__(self, found: Floats, who: int) -> tuple[float, float, float]:
        """Cosine, utility correlation and Spearman's rank correlation; a vector without length counts 0."""
        from scipy.stats import rankdata

        true = self.weights[who]
        length = np.linalg.norm(found) * np.linalg.norm(true)
        cosine = found @ true / length if length > 0 else 0.0
        spread = found @ self.covariance @ found
        floor = ROUNDING * (found**2 @ np.diag(self.covariance))
        correlation = 0.0
        if spread > floor:
            correlation = found @ self.covariance @ true / np.sqrt(spread * (true @ self.covariance @ true))
        ranks, own = rankdata(self.rows @ found), self.ranks[who]
        spearman = float(np.corrcoef(ranks, own)[0, 1]) if np.ptp(ranks) > 0 and np.ptp(own) > 0 else 0.0
        return float(cosine), float(np.clip(correlation, -1.0, 1.0)), spearman


def _words(needed: Sequence[Needed], largest: int, wanted: float) -> tuple[str, ...]:
    told = []
    for temperature, flips in dict.fromkeys((each.noise, each.flips) for each in needed):
        turned = f" and {100 * flips:.0f} % of labels turned round" if flips else ""
        found = [
            f"{each.stakeholder} {f'more than {largest:,}' if each.pairs is None else f'{each.pairs:,}'}"
            for each in needed
            if (each.noise, each.flips) == (temperature, flips)
        ]
        told.append(
            f"Pairs needed for a utility correlation of {wanted:g} with choices of noise {temperature:g}{turned}: "
            f"{', '.join(found)}."
        )
    return tuple(told)
