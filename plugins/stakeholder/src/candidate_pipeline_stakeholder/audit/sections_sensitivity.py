"""What one weight changes, and what all of them being wrong at once changes."""

from __future__ import annotations

from typing import Final

import numpy as np

from candidate_pipeline_stakeholder.audit.document import (
    Cell,
    Figure,
    Section,
    Table,
    listed,
    number,
    plural,
    share,
    table,
)
from candidate_pipeline_stakeholder.audit.estimates import Estimate
from candidate_pipeline_stakeholder.audit.record import (
    Audit,
    Sensitivity,
    WeightChange,
)
from candidate_pipeline_stakeholder.audit.wording import (
    ends,
    missing,
    percentages,
    plain,
    tidy,
    tone_of,
    value,
)

MOST_WEIGHTS: Final = 12
MOST_LINES: Final = 8


def sensitivity_section(audit: Audit) -> Section:
    """What one weight, or all of them at once, change."""
    title = "How much hangs on the exact weights"
    part = audit.sensitivity
    if part is None:
        return Section("sensitivity", title, (), (missing(audit, "sensitivity"),))
    parts = []
    if part.single:
        parts.append(_single_figure(part))
    if len(part.simultaneous) > 1:
        parts.append(_noise_figure(part))
    return Section(
        "sensitivity", title, tidy(part.words), (*parts, *([_single(part)] if part.single else ()), _noise(part))
    )


def _replaced_share(overlap: Estimate) -> str:
    low, high = ends(overlap)
    return percentages(1 - value(overlap), 1 - high, 1 - low)


def _replaced(change: WeightChange) -> float:
    return 1 - value(change.overlap)


def _largest(part: Sensitivity) -> list[WeightChange]:
    """The change that replaces most rows, of each weight; largest first."""
    best: dict[tuple[str, str], WeightChange] = {}
    for change in part.single:
        key = (change.stakeholder, change.feature)
        if key not in best or _replaced(change) > _replaced(best[key]):
            best[key] = change
    return sorted(best.values(), key=lambda each: -_replaced(each) if _replaced(each) == _replaced(each) else 1.0)


def _single_figure(part: Sensitivity) -> Figure:
    order = _largest(part)
    shown = order[:MOST_WEIGHTS]
    noisy = part.simultaneous[-1] if part.simultaneous else None

    def draw(key: str, title: str, description: str) -> str:
        from candidate_pipeline_stakeholder.audit.plots import Bar, bars

        names = list(part.names)
        rows = []
        for each in shown:
            low, high = ends(each.overlap)
            name = f"{each.feature} ×{each.factor:g}"
            at = names.index(each.stakeholder) if each.stakeholder in names else 0
            rows.append(Bar(name, 100 * _replaced(each), 100 * (1 - high), 100 * (1 - low), series=at))
        reference = None
        if noisy is not None:
            level = 100 * (1 - value(noisy.overlap))
            reference = (level, f"control: all weights at once, σ {number(noisy.sigma)}")
        whose = [name if any(each.stakeholder == name for each in shown) else "" for name in names]
        return bars(
            rows,
            unit=f"rows of the top {part.size} that are replaced, %",
            key=key,
            title=title,
            description=description,
            reference=reference,
            series=whose,
        )

    told = "; ".join(
        f"{each.stakeholder} {each.feature} times {each.factor:g} {share(_replaced(each))}" for each in shown
    )
    return Figure(
        "sensitivity-bars",
        "Single weights that change most",
        f"Share of the slate's rows that one changed weight replaces: {told}.",
        f"Each line is one weight, multiplied by the factor of {listed(f'{f:g}' for f in part.factors)} that replaces "
        f"most rows of the top {part.size}. Weights that are not here matter less.",
        "Control: the dotted line is all weights disturbed at once, rescaled to the spread they had, so that size "
        "alone changes nothing."
        if noisy is not None
        else "",
        draw,
    )


def _noise_figure(part: Sensitivity) -> Figure:
    names = part.names[:MOST_LINES]

    def draw(key: str, title: str, description: str) -> str:
        from candidate_pipeline_stakeholder.audit.plots import Line, curves

        sigma = np.array([each.sigma for each in part.simultaneous])
        lines = []
        for at, name in enumerate(names):
            found = [each.change[at] for each in part.simultaneous]
            low, high = (100 * np.array(each) for each in zip(*(ends(change) for change in found), strict=True))
            lines.append(Line(name, sigma, 100 * np.array([value(each) for each in found]), low, high))
        return curves(
            lines,
            x="σ of the noise on every weight (a share of it)",
            y="change of share, points of range",
            key=key,
            title=title,
            description=description,
            reference=(0.0, "no change"),
            ticks=[float(each) for each in sigma],
        )

    last = part.simultaneous[-1]
    told = "; ".join(f"{name} {plain(change, sign=True)}" for name, change in zip(names, last.change, strict=False))
    left = len(part.names) - len(names)
    return Figure(
        "noise",
        "All weights wrong at once",
        f"Change of each stakeholder's share against the noise on all weights. At σ {number(last.sigma)}: {told}.",
        "How much of its attainable range each stakeholder loses or gains when every weight is off by that much, "
        "judged by the weights as given." + (f" {left} more stakeholders are in the JSON." if left else ""),
        "Control: σ 0 is run like the others, and disturbed weights are rescaled to the spread in the pool that they "
        "had, so that a change is one of direction.",
        draw,
    )


def _single(part: Sensitivity) -> Table:
    names = part.names[:5]
    return table(
        "Single weights",
        {"stakeholder": "l", "weight": "l", "is": "r", "times": "r", "rows replaced": "r", "tau": "r"}
        | {f"Δ {name}": "r" for name in names},
        (
            (
                Cell(each.stakeholder, "strong"),
                each.feature,
                number(each.weight),
                f"{each.factor:g}",
                share(_replaced(each)),
                plain(each.tau),
                *(_points(value(change)) for change in each.change[: len(names)]),
            )
            for each in _largest(part)
        ),
        note="tau: Kendall's, of the rankings before and after. Δ: change of a stakeholder's share in points of its "
        "range. Of each weight only the factor that replaces most rows; the JSON has all.",
        shown=8,
    )


def _points(change: float) -> Cell:
    """A change of a share in points of the range."""
    if change != change:  # noqa: PLR0124 - NaN
        return Cell("–", "faint")
    return Cell(number(100 * change, 1, sign=True, tiny=False), tone_of(change, 0.005))


def _noise(part: Sensitivity) -> Table:
    names = part.names[:5]
    draws = max((each.draws for each in part.simultaneous), default=0)
    return table(
        "All weights at once",
        {"σ": "l", "cosine": "r", "spread ratio": "r", "rows replaced [95%]": "r", "tau": "r"}
        | {f"Δ {name}": "r" for name in names},
        (
            (
                f"{each.sigma:g}",
                plain(each.cosine),
                plain(each.norm_ratio),
                _replaced_share(each.overlap),
                plain(each.tau),
                *(_points(value(change)) for change in each.change[: len(names)]),
            )
            for each in part.simultaneous
        ),
        note=f"Every weight times 1 + N(0, σ), {plural(draws, 'draw')}; rescaled to the same {part.match}. "
        "σ 0 is the control. Δ in points of a stakeholder's range.",
    )
