"""What an audit found about the weights themselves: how much hangs on them, and whether pairs give them back.

Units are those of `candidate_pipeline_stakeholder.audit.record`.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from candidate_pipeline_stakeholder.audit.estimates import Estimate


@attrs.frozen
class WeightChange:
    """One weight multiplied by a factor, and slates selected anew.

    Args:
        stakeholder: Whose weight.
        feature: Which.
        weight: Its value.
        factor: What it was multiplied by.
        overlap: Share of the slate's rows that stay.
        tau: Kendall's tau between the rankings before and after, over sampled pairs of rows.
        change: Change of each stakeholder's share, judged by the weights as given, in the order of `names`.
    """

    stakeholder: str
    feature: str
    weight: float
    factor: float
    overlap: Estimate
    tau: Estimate
    change: tuple[Estimate, ...]


@attrs.frozen
class Misspecification:
    """All weights multiplied by 1 + N(0, sigma) at once, and slates selected anew.

    Args:
        sigma: Size of the noise; 0 is run like the others, as a control.
        draws: How many perturbations.
        cosine: Of the perturbed and the given weights, mean over stakeholders and draws.
        norm_ratio: Standard deviation of a perturbed utility over the pool by that of the given one; 1 by the matching.
        overlap: Share of the slate's rows that stay.
        tau: Kendall's tau of the rankings.
        change: Change of each stakeholder's share, judged by the weights as given.
    """

    sigma: float
    draws: int
    cosine: Estimate
    norm_ratio: Estimate
    overlap: Estimate
    tau: Estimate
    change: tuple[Estimate, ...]


@attrs.frozen
class Sensitivity:
    """How much hangs on the exact weights.

    Args:
        names: Stakeholders.
        factors: What single weights are multiplied by.
        single: Every non-zero weight times every factor.
        simultaneous: One a sigma, ascending.
        match: What perturbed weights were rescaled to: "pool sd".
        size: Rows of a slate.
        words: In sentences.
    """

    names: tuple[str, ...]
    factors: tuple[float, ...]
    single: tuple[WeightChange, ...]
    simultaneous: tuple[Misspecification, ...]
    match: str
    size: int
    words: tuple[str, ...]


@attrs.frozen
class RecoveryPoint:
    """How well weights come back from pairs of this pool.

    Args:
        stakeholder: Whose utility generated the pairs and is to be recovered.
        pairs: How many.
        noise: Temperature of the choices, in standard deviations of the utility's differences.
        flips: Share of labels then turned round.
        errors: Share of labels that contradict the utility.
        cosine: Of recovered and true weights.
        utility_correlation: Correlation of recovered and true utilities within requests (covariance cosine): features
            that never vary here do not count.
        spearman: Rank correlation of recovered and true utilities over rows.
        alpha: Recovered -mean(weights of negative actions) / mean(weights of positive actions); `None` without both.
        separable: Share of the fits whose pairs are separable, so that a penalty was needed.
    """

    stakeholder: str
    pairs: int
    noise: float
    flips: float
    errors: float
    cosine: Estimate
    utility_correlation: Estimate
    spearman: Estimate
    alpha: Estimate | None
    separable: float


@attrs.frozen
class Needed:
    """How many pairs a stakeholder needs at a noise level.

    Args:
        stakeholder: Whose.
        noise: Temperature.
        flips: Share of labels turned round.
        pairs: The smallest size tried from which on the mean utility correlation stays at `Recovery.wanted` or above;
            `None`: more than were tried.
    """

    stakeholder: str
    noise: float
    flips: float
    pairs: int | None


@attrs.frozen
class Recovery:
    """Recovery of each utility from pairs of this pool, fitted from zero to convergence.

    Args:
        names: Stakeholders with a utility that varies.
        sizes: Numbers of pairs tried.
        noises: (temperature, flips) tried.
        seeds: How many seeds; intervals are a bootstrap over them.
        wanted: The utility correlation that counts as recovered.
        true_alpha: Of each stakeholder's given weights, where it has both kinds of action.
        points: Every stakeholder, noise and size.
        needed: Every stakeholder and noise.
        words: In sentences.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    noises: tuple[tuple[float, float], ...]
    seeds: int
    wanted: float
    true_alpha: Mapping[str, float | None]
    points: tuple[RecoveryPoint, ...]
    needed: tuple[Needed, ...]
    words: tuple[str, ...]
