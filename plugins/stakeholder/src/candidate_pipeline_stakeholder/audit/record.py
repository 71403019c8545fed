"""What an audit found: one record a part, plain numbers only, so that equal inputs and seeds give equal records.

Units. "Raw" utilities are w . p. A "share" is a utility as a share of its attainable range: 0 is the worst slate of the
size that the requests' rows allow for this stakeholder, 1 its best, averaged over requests before dividing. Shares need
no unit and do not depend on the scale or origin of a utility, so stakeholders can be set side by side; raw utilities of
different stakeholders must not be compared, nor their differences.

Every mean over requests counts each request the same. `Estimate` holds a figure and its interval at 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from candidate_pipeline_stakeholder.audit.estimates import Estimate, plain
from candidate_pipeline_stakeholder.audit.record_weights import (
    Misspecification,
    Needed,
    Recovery,
    RecoveryPoint,
    Sensitivity,
    WeightChange,
)

__all__ = [
    "AlignedPair",
    "Alignment",
    "Audit",
    "Condition",
    "Cosines",
    "DisagreeingPair",
    "Disagreement",
    "Frontier",
    "FrontierPoint",
    "LabelAgreement",
    "LeftOut",
    "Misspecification",
    "Needed",
    "PartName",
    "Recovery",
    "RecoveryPoint",
    "Regret",
    "RegretPoint",
    "Sensitivity",
    "StakeholderSummary",
    "UtilitiesPart",
    "Verdict",
    "WeightChange",
]

Verdict = Literal["helps", "harms", "cannot tell", "none"]
PartName = Literal["utilities", "cosines", "disagreement", "alignment", "sensitivity", "recovery", "frontier", "regret"]


@attrs.frozen
class StakeholderSummary:
    """One stakeholder on this pool.

    Args:
        name: The stakeholder.
        mix: Its mixing weight, absolute values summing to 1 over stakeholders.
        weights: Its weight of each feature of the pool.
        missing: Features that it weighs and the pool lacks.
        norm: Euclidean norm of the weights.
        mean: Raw utility of a row of the pool, on average.
        sd: Standard deviation over all rows.
        within_sd: The same among the rows of one request.
        worst: Raw utility of a row in the worst slate, the mean over requests.
        best: The same in the best slate.
        share: What the audited mix gives it, as a share of that range; no value where the range is nothing.
        served: What the served rows gave it, where the pool knows them.
    """

    name: str
    mix: float
    weights: Mapping[str, float]
    missing: tuple[str, ...]
    norm: float
    mean: float
    sd: float
    within_sd: float
    worst: float
    best: float
    share: Estimate
    served: Estimate | None


@attrs.frozen
class UtilitiesPart:
    """The stakeholders and what the audited mix gives each."""

    stakeholders: tuple[StakeholderSummary, ...]
    words: tuple[str, ...]


@attrs.frozen
class Cosines:
    """Cosines of the weight vectors; they do not know how the features vary in the pool.

    Args:
        names: Stakeholders.
        matrix: [s][s]; `None` where a vector is zero.
        words: In sentences.
    """

    names: tuple[str, ...]
    matrix: tuple[tuple[float | None, ...], ...]
    words: tuple[str, ...]


@attrs.frozen
class DisagreeingPair:
    """How often two stakeholders order two items of one request differently.

    Args:
        one: A stakeholder.
        other: Another.
        share: Share of the pairs on which both have a preference.
        tied: Share of all pairs on which at least one of them has none.
        predicted: arccos(covariance cosine within requests) / pi, which is exact where utilities are jointly normal
            (Sheppard, 1899). `None` where the cosine is not defined.
        pooled: The share among pairs from anywhere in the pool.
        pooled_predicted: Its prediction, from the pooled cosine.
    """

    one: str
    other: str
    share: Estimate
    tied: float | None
    predicted: float | None
    pooled: Estimate
    pooled_predicted: float | None


@attrs.frozen
class LabelAgreement:
    """How often a utility orders a stakeholder's given pairs as that stakeholder did.

    Args:
        labels: Whose pairs.
        utility: Whose utility.
        pairs: How many pairs are decided (no ties).
        agree: Weighted share of them ordered alike; equal utilities count half. Wilson interval with
            the effective number of pairs.
    """

    labels: str
    utility: str
    pairs: int
    agree: Estimate


@attrs.frozen
class Disagreement:
    """Disagreement of every two stakeholders.

    Args:
        names: Stakeholders.
        pairs: Every two of them, in their order.
        labels: Agreement with given pairs; empty where none were given.
        counted: How many item pairs within requests were compared.
        every: Whether these are all there are; else rows were sampled.
        bootstrap: What was resampled for the intervals: "requests" or "rows".
        words: In sentences.
    """

    names: tuple[str, ...]
    pairs: tuple[DisagreeingPair, ...]
    labels: tuple[LabelAgreement, ...]
    counted: int
    every: bool
    bootstrap: str
    words: tuple[str, ...]


@attrs.frozen
class AlignedPair:
    """What selecting by `target`'s utility does to `other`, said before anything is trained.

    Rows drawn with probability softmax(s * u_target) change the expected u_other by Cov(u_target, u_other) per unit of
    s at s = 0, exactly; see `candidate_pipeline_stakeholder.audit.alignment`.

    Args:
        target: Whose utility selects.
        other: Who is affected.
        weight_cosine: Cosine of the raw weights.
        covariance: w_t' S w_o, S the covariance within requests; raw units of both.
        cosine: Its cosine: the change of u_other, in its standard deviations within requests, per unit of sharpness
            where u_target has standard deviation 1.
        pooled_covariance: With the covariance over all rows.
        pooled_cosine: Its cosine.
        certainty: Share of bootstrap draws in which the cosine (within requests) has the sign it has here.
        verdict: "helps" or "harms" where the whole interval is on that side of 0; "none" where nothing varies.
        soft_shift: Change of u_other, in its standard deviations, from no selection to a softmax about as sharp as the
            slate (its perplexity equals the slate's size).
        soft_slope: The derivative there, same unit as `cosine`.
        top_shift: Measured: mean of u_other over the rows `target` ranks first, less its mean over the request, in
            standard deviations.
    """

    target: str
    other: str
    weight_cosine: float | None
    covariance: float
    cosine: Estimate
    pooled_covariance: float
    pooled_cosine: Estimate
    certainty: float | None
    verdict: Verdict
    soft_shift: float | None
    soft_slope: float | None
    top_shift: Estimate


@attrs.frozen
class Alignment:
    """Alignment of every ordered pair of stakeholders.

    Args:
        names: Stakeholders.
        pairs: Every ordered pair of two different ones.
        size: Rows of a slate.
        strong: Smallest |cosine| from which a direction is checked.
        checked: How many pairs are at least that strong.
        agree: In how many of them the measured shift of the slate has the predicted sign.
        bootstrap: What was resampled: "requests" or "rows".
        draws: How often.
        words: In sentences.
    """

    names: tuple[str, ...]
    pairs: tuple[AlignedPair, ...]
    size: int
    strong: float
    checked: int
    agree: int
    bootstrap: str
    draws: int
    words: tuple[str, ...]


@attrs.frozen
class FrontierPoint:
    """What slates of one mix and diversity knob give.

    Args:
        mix: Mixing weight of each stakeholder, absolute values summing to 1; `None` for what was served.
        delta: Diversity knob, 0 to 1; `None` for what was served.
        raw: Each stakeholder's utility of a row, raw, mean over requests.
        share: The same as shares of attainable ranges; no value where the range is nothing.
        groups: Distinct groups in a slate, mean over requests; `None` without groups.
        entropy: Entropy of a slate's groups over the largest it could have given the request's groups, 0 to 1.
        authors: Distinct authors in a slate; `None` where authors are unknown.
        pareto: Whether no other point of its sweep is at least as good for every stakeholder and in distinct groups,
            and better somewhere.
        chosen: Whether it is the audited mix and knob.
    """

    mix: tuple[float, ...] | None
    delta: float | None
    raw: tuple[float, ...]
    share: tuple[Estimate, ...]
    groups: Estimate | None
    entropy: float | None
    authors: float | None
    pareto: bool
    chosen: bool


@attrs.frozen
class Frontier:
    """What could be had instead of the audited mix.

    Args:
        names: Stakeholders.
        size: Rows of a slate.
        delta_points: The audited mix over the diversity knob, ascending; one point where there is nothing to diversify.
        mix_points: Other mixes without the knob: a grid over the simplex for two or three stakeholders; beyond that,
            each stakeholder's weight from 0 to 1 with the others in proportion. Empty for one stakeholder.
        mix_sweep: Which of these: "simplex", "one at a time" or "".
        served: What the served rows gave; `None` where the pool does not know them.
        chosen: The audited point, also in `delta_points`.
        reasons: What could not be done and why.
        words: In sentences.
    """

    names: tuple[str, ...]
    size: int
    delta_points: tuple[FrontierPoint, ...]
    mix_points: tuple[FrontierPoint, ...]
    mix_sweep: str
    served: FrontierPoint | None
    chosen: FrontierPoint
    reasons: tuple[str, ...]
    words: tuple[str, ...]


Condition = Literal[
    "true utility",
    "pairs",
    "zero pairs",
    "wrong pairs",
    "no model",
    "untrained zero start",
    "untrained signed start",
    "pairs from the signed start",
]


@attrs.frozen
class RegretPoint:
    """One way to stand in for a stakeholder that was left out.

    Args:
        condition: What takes its place in the mix. "true utility": its own, as given. "pairs": fitted from zero on
            that many of its pairs. "zero pairs": nothing; the mix without it. "wrong pairs": fitted on as many pairs of
            another stakeholder, the mean over the others. "no model": nobody is scored; rows in random order, and the
            diversity knob goes round the groups. "untrained zero start" and "untrained signed start": the vectors that
            fits could begin at, unfitted. "pairs from the signed start": fitted on its pairs, beginning there.
        pairs: How many pairs.
        regret: (its best point of the full set - its mean over the points) / its range over the full set.
        at_mix: The same at the audited knob alone.
    """

    condition: Condition
    pairs: int
    regret: Estimate
    at_mix: Estimate


@attrs.frozen
class LeftOut:
    """What leaving one stakeholder out costs it.

    Args:
        name: The stakeholder.
        best: Its raw utility at its best point of the full set.
        worst: At its worst.
        points: Every condition, all on the same mixing weights and knobs.
        closed: For each number of pairs, the share of the gap between "zero pairs" and "true utility" that they close;
            no value where there is no gap.
        closed_wrong: The same for pairs of other stakeholders.
    """

    name: str
    best: float
    worst: float
    points: tuple[RegretPoint, ...]
    closed: Mapping[int, Estimate]
    closed_wrong: Mapping[int, Estimate]


@attrs.frozen
class Regret:
    """Regret of leaving each stakeholder out, in one unit and on equal point sets.

    Args:
        names: Stakeholders.
        stakeholders: One each, those whose utility varies.
        deltas: Knobs of the point set; the same for every condition.
        full_points: How many points the full set has.
        mix: Mixing weights used.
        sizes: Numbers of hidden pairs.
        seeds: How many; intervals resample seeds and requests.
        noise: Temperature of the choices behind the pairs, in standard deviations of the utility's differences.
        size: Rows of a slate.
        words: In sentences.
    """

    names: tuple[str, ...]
    stakeholders: tuple[LeftOut, ...]
    deltas: tuple[float, ...]
    full_points: int
    mix: tuple[float, ...]
    sizes: tuple[int, ...]
    seeds: int
    noise: float
    size: int
    words: tuple[str, ...]


@attrs.frozen
class Audit:
    """All parts.

    Args:
        config: What it was run with: sizes of the pool, mix, seeds, draws.
        utilities: The stakeholders.
        cosines: Of their weights.
        disagreement: About pairs of items.
        alignment: The predicted directions.
        sensitivity: To the weights.
        recovery: From pairs.
        frontier: Mixes and diversity.
        regret: Of leaving one out.
        reasons: Why a part is `None`, by its name.
        warnings: What a reader must know before reading on.
    """

    config: Mapping[str, Any]
    utilities: UtilitiesPart | None = None
    cosines: Cosines | None = None
    disagreement: Disagreement | None = None
    alignment: Alignment | None = None
    sensitivity: Sensitivity | None = None
    recovery: Recovery | None = None
    frontier: Frontier | None = None
    regret: Regret | None = None
    reasons: Mapping[str, str] = attrs.field(factory=dict)
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without NaN."""
        made: dict[str, Any] = plain(self)
        return made
