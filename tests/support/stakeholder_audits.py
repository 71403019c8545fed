"""Audits made of drawn numbers: every part filled, any names, no fitting."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from candidate_pipeline_stakeholder.audit.estimates import Estimate
from candidate_pipeline_stakeholder.audit.record import (
    AlignedPair,
    Alignment,
    Audit,
    Condition,
    Cosines,
    DisagreeingPair,
    Disagreement,
    Frontier,
    FrontierPoint,
    LabelAgreement,
    LeftOut,
    Misspecification,
    Needed,
    Recovery,
    RecoveryPoint,
    Regret,
    RegretPoint,
    Sensitivity,
    StakeholderSummary,
    UtilitiesPart,
    Verdict,
    WeightChange,
)

CONDITIONS: tuple[tuple[Condition, int], ...] = (
    ("true utility", 0),
    ("pairs", 25),
    ("pairs", 100),
    ("zero pairs", 0),
    ("wrong pairs", 25),
    ("wrong pairs", 100),
    ("no model", 0),
    ("untrained zero start", 0),
    ("untrained signed start", 0),
    ("pairs from the signed start", 25),
)


def made_audit(
    names: Sequence[str] = ("user", "platform", "society"),
    features: Sequence[str] = ("favorite", "reply", "block_author"),
    *,
    groups: Sequence[str] = ("sports", "news"),
    seed: int = 0,
) -> Audit:
    """An audit whose numbers are drawn.

    Args:
        names: The stakeholders.
        features: What they weigh.
        groups: What diversity spreads over; none: no groups.
        seed: The source of the draws.
    """
    rng = np.random.default_rng(seed)
    names = tuple(names)
    count = len(names)

    def near(low: float = 0.0, high: float = 1.0, width: float = 0.05) -> Estimate:
        middle = float(rng.uniform(low, high))
        return Estimate(middle, middle - width, middle + width)

    weights = rng.normal(size=(count, len(features)))
    mix = rng.dirichlet(np.ones(count))
    cosines = np.atleast_2d(np.corrcoef(rng.normal(size=(count, 6))))
    pooled = np.clip(cosines + rng.normal(0, 0.2, cosines.shape), -1, 1)
    pooled = (pooled + pooled.T) / 2
    pairs = [(one, other) for one in range(count) for other in range(count) if one < other]
    summaries = tuple(
        StakeholderSummary(
            name, float(mix[at]), dict(zip(features, weights[at].tolist(), strict=True)), (), 1.0, 0.1, 0.3, 0.2,
            0.0, 1.0, near(), near(),
        )
        for at, name in enumerate(names)
    )  # fmt: skip
    aligned = []
    for one in range(count):
        for other in range(count):
            if one == other:
                continue
            cosine = float(pooled[one, other])
            verdict: Verdict = "helps" if cosine > 0.15 else "harms" if cosine < -0.15 else "cannot tell"
            shift = cosine * 1.5 + float(rng.normal(0, 0.2))
            aligned.append(
                AlignedPair(
                    names[one], names[other], float(cosines[one, other]), cosine * 0.1,
                    Estimate(cosine, cosine - 0.15, cosine + 0.15), cosine * 0.1, Estimate(cosine * 0.9), 0.99, verdict,
                    shift * 0.8, cosine, Estimate(shift, shift - 0.2, shift + 0.2),
                )
            )  # fmt: skip
    strong = [pair for pair in aligned if abs(pair.cosine.value or 0) >= 0.2]
    deltas = np.linspace(0, 1, 11)

    def point(delta: float, mixed: Sequence[float], chosen: bool, pareto: bool) -> FrontierPoint:
        share = tuple(
            Estimate(v, v - 0.03, v + 0.03) for v in (0.9 * np.array(mixed) ** 0.3 * (1 - 0.6 * delta**2)).tolist()
        )
        return FrontierPoint(
            tuple(mixed), delta, tuple(e.value or 0.0 for e in share), share, near(2, 5) if groups else None,
            0.4 + 0.5 * delta if groups else None, 8.0, pareto, chosen,
        )  # fmt: skip

    knob = tuple(point(float(d), mix.tolist(), bool(at == 2), at < 8) for at, d in enumerate(deltas))
    others = tuple(point(0.0, rng.dirichlet(np.ones(count)).tolist(), False, bool(at % 3)) for at in range(20))
    left_out = tuple(
        LeftOut(
            name, 1.0, 0.0, tuple(RegretPoint(what, size, near(), near()) for what, size in CONDITIONS),
            {25: near(), 100: near()}, {25: near(-0.1, 0.1), 100: near(-0.1, 0.1)},
        )
        for name in names
    )  # fmt: skip
    noises = ((0.0, 0.0), (0.5, 0.0), (0.5, 0.2))
    sizes = (25, 50, 100, 250, 500)

    def recovered(name: str, size: int, noise: float, flips: float) -> RecoveryPoint:
        value = 1 - (1 + noise + flips) * 6 / (size + 8)
        estimate = Estimate(value, value - 0.06, min(1.0, value + 0.04))
        return RecoveryPoint(name, size, noise, flips, flips, estimate, estimate, estimate, Estimate(1.1), 0.1)

    return Audit(
        config={"rows": 1234, "requests": 5, "size": 10, "mix": dict(zip(names, mix.tolist(), strict=True))},
        utilities=UtilitiesPart(summaries, ("Every stakeholder gets something.",)),
        cosines=Cosines(names, tuple(tuple(row) for row in cosines.tolist()), ("Cosines were taken.",)),
        disagreement=Disagreement(
            names,
            tuple(DisagreeingPair(names[a], names[b], near(), 0.01, 0.3, near(), 0.3) for a, b in pairs),
            (LabelAgreement(names[0], names[0], 900, near(0.6, 0.9)),),
            45_000,
            False,
            "requests",
            ("They disagree at times.",),
        ),
        alignment=Alignment(
            names, tuple(aligned), 10, 0.2, len(strong), max(0, len(strong) - 1), "requests", 400,
            ("Some are aligned.",),
        ),
        sensitivity=Sensitivity(
            names,
            (0.5, 2.0),
            tuple(
                WeightChange(
                    name, feature, float(weights[at, column]), factor, near(0.5, 0.95), near(0.5, 1.0),
                    tuple(near(-0.1, 0.1, 0.02) for _ in names),
                )
                for at, name in enumerate(names)
                for column, feature in enumerate(features)
                for factor in (0.5, 2.0)
            ),
            tuple(
                Misspecification(
                    sigma, 20, Estimate(1 - sigma / 4), Estimate(1.0), near(0.6, 0.8), near(0.6, 0.8),
                    tuple(Estimate(-sigma * 0.1 * at, -sigma * 0.12 * at - 0.01, 0.01) for at in range(count)),
                )
                for sigma in (0.0, 0.1, 0.3, 0.5)
            ),
            "pool sd",
            10,
            ("Little hangs on any one weight.",),
        ),
        recovery=Recovery(
            names, sizes, noises, 5, 0.95, dict.fromkeys(names, 1.0),
            tuple(recovered(name, size, *noise) for name in names for noise in noises for size in sizes),
            tuple(
                Needed(name, *noise, 100 if at % 2 == 0 else None) for at, name in enumerate(names) for noise in noises
            ),
            ("A few hundred pairs do.",),
        ),
        frontier=Frontier(
            names, 10, knob, others if count > 1 else (), "simplex" if count in {2, 3} else "one at a time",
            attrs.evolve(point(0.0, mix.tolist(), False, False), mix=None, delta=None), knob[2], (),
            ("Diversity costs something.",),
        ),
        regret=Regret(
            names, left_out, tuple(deltas.tolist()), 231, tuple(mix.tolist()), (25, 100), 5, 0.5, 10,
            ("Being left out costs something.",),
        ),
        warnings=("These numbers are drawn.",),
    )  # fmt: skip
