"""How many pairs it takes to learn a utility."""

from __future__ import annotations

from typing import Final

import numpy as np

from candidate_pipeline_stakeholder.audit.document import (
    Cell,
    Figure,
    Part,
    Section,
    Table,
    number,
    plural,
    share,
    short,
    table,
)
from candidate_pipeline_stakeholder.audit.record import (
    Audit,
    Needed,
    Recovery,
    RecoveryPoint,
)
from candidate_pipeline_stakeholder.audit.wording import (
    ends,
    interval,
    missing,
    plain,
    some,
    tidy,
    value,
)

MOST_LINES: Final = 8
APART: Final = 0.8
"""A cosine of recovered and true weights below which a recovered utility has other weights."""


def recovery_section(audit: Audit) -> Section:
    """How many pairs bring each utility back."""
    title = "How many pairs it takes to learn a utility"
    part = audit.recovery
    if part is None:
        return Section("recovery", title, (), (missing(audit, "recovery"),))
    noises = part.noises if len(part.noises) < 3 else (part.noises[0], part.noises[-1])
    figures = [_recovery_figure(part, at, noise) for at, noise in enumerate(noises) if part.points]
    parts: tuple[Part, ...] = (*figures, *_needed(part), _points_table(part)) if part.points else ()
    return Section("recovery", title, (*tidy(part.words), *unidentified(part)), parts)


def unidentified(part: Recovery) -> tuple[str, ...]:
    """Whose utility comes back although its weights do not, in a sentence."""
    most = max(part.sizes, default=0)
    level = part.noises[0] if part.noises else (0.0, 0.0)
    here = [each for each in part.points if each.pairs == most and (each.noise, each.flips) == level]
    found = [each for each in here if value(each.utility_correlation) >= part.wanted and value(each.cosine) < APART]
    if not found:
        return ()
    lowest = min(found, key=lambda each: value(each.cosine))
    return (
        f"What comes back of {some([each.stakeholder for each in found])} is the utility of these candidates, not its "
        f"weights: at {most:,} pairs their cosine is {plain(lowest.cosine)} ({short(lowest.stakeholder, 32)}), because "
        "features that hardly vary here leave no trace. Do not carry such weights to another pool.",
    )


def noise_text(noise: float, flips: float) -> str:
    """A noise level in words."""
    drawn = "choices without noise" if noise == 0 else f"choices with noise {number(noise)}"
    return drawn if flips == 0 else f"{drawn}, {share(flips)} of labels flipped"


def _recovery_figure(part: Recovery, at: int, level: tuple[float, float]) -> Figure:
    names = part.names[:MOST_LINES]
    here = [each for each in part.points if (each.noise, each.flips) == level]

    def of(name: str) -> list[RecoveryPoint]:
        return sorted((each for each in here if each.stakeholder == name), key=lambda each: each.pairs)

    def draw(key: str, title: str, description: str) -> str:
        from candidate_pipeline_stakeholder.audit.plots import Line, curves

        lines = []
        for name in names:
            found = of(name)
            low, high = (
                np.array(each) for each in zip(*(ends(each.utility_correlation) for each in found), strict=True)
            )
            middle = np.array([value(each.utility_correlation) for each in found])
            lines.append(Line(name, np.array([each.pairs for each in found], np.float64), middle, low, high))
        everywhere = [each.utility_correlation for each in part.points]  # one scale for all noise levels
        least = min((end for each in everywhere for end in (each.value, each.low) if end is not None), default=0.0)
        return curves(
            lines,
            x="pairs",
            y="correlation with the true utility",
            key=key,
            title=title,
            description=description,
            reference=(part.wanted, f"counts as recovered: {number(part.wanted)}"),
            log=True,
            limits=(min(0.0, least) if least < 0.3 else max(0.0, np.floor(least * 10) / 10 - 0.02), 1.02),
            ticks=part.sizes,
        )

    told = "; ".join(
        f"{name}: " + ", ".join(f"{each.pairs} pairs {plain(each.utility_correlation)}" for each in of(name))
        for name in names
    )
    left = len(part.names) - len(names)
    errors = [each.errors for each in here]
    wrong = f" {share(float(np.mean(errors)))} of the labels contradict the utility." if errors else ""
    return Figure(
        f"recovery-{at}",
        f"Recovered from pairs: {noise_text(*level)}",
        f"Correlation of the recovered with the true utility by number of pairs. {told}.",
        "A curve near 1 early means that few pairs tell what the stakeholder wants."
        + wrong
        + (f" {left} more stakeholders are in the table." if left else ""),
        f"Fitted from zero to convergence, so nothing comes from where the fit began. Band: 95% over "
        f"{plural(part.seeds, 'seed')}.",
        draw,
    )


def _needed(part: Recovery) -> tuple[Table, ...]:
    if not part.needed:
        return ()
    levels = list(dict.fromkeys((each.noise, each.flips) for each in part.needed))
    by_name: dict[str, dict[tuple[float, float], Needed]] = {}
    for each in part.needed:
        by_name.setdefault(each.stakeholder, {})[each.noise, each.flips] = each
    most = max(part.sizes)

    def cell(each: Needed | None) -> Cell:
        if each is None:
            return Cell("–", "faint")
        return Cell(f"over {most:,}", "bad") if each.pairs is None else Cell(f"{each.pairs:,}")

    return (
        table(
            "Pairs needed",
            {"stakeholder": "l"} | {noise_text(*level): "r" for level in levels},
            ((Cell(name, "strong"), *(cell(found.get(level)) for level in levels)) for name, found in by_name.items()),
            note=f"The smallest number tried from which on the correlation with the true utility stays at "
            f"{number(part.wanted)} or above.",
        ),
    )


def _points_table(part: Recovery) -> Table:
    def alpha(each: RecoveryPoint) -> str:
        if each.alpha is None:
            return "–"
        true = part.true_alpha.get(each.stakeholder)
        return plain(each.alpha) if true is None else f"{plain(each.alpha)} of {number(true)}"

    return table(
        "Recovery",
        {
            "stakeholder": "l",
            "noise": "r",
            "flips": "r",
            "pairs": "r",
            "correlation [95%]": "r",
            "cosine": "r",
            "Spearman": "r",
            "α": "r",
            "penalty": "r",
        },
        (
            (
                Cell(each.stakeholder, "strong"),
                number(each.noise),
                share(each.flips),
                f"{each.pairs:,}",
                interval(each.utility_correlation, 3),
                plain(each.cosine, 3),
                plain(each.spearman, 3),
                alpha(each),
                share(each.separable),
            )
            for each in part.points
        ),
        note="noise: of choices, in standard deviations of the utility's differences. flips: labels turned round. "
        "correlation: of true and recovered utilities within requests. α: price of a negative action against a "
        "positive one. penalty: share of fits that have no solution without one. Control: every fit starts from zero.",
        shown=8,
    )
