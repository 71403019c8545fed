"""What leaving a stakeholder out costs it, and what brings it back."""

from __future__ import annotations

from typing import Final

from candidate_pipeline_stakeholder.audit.document import (
    Cell,
    Figure,
    Section,
    Table,
    table,
)
from candidate_pipeline_stakeholder.audit.record import Audit, LeftOut, Regret, RegretPoint
from candidate_pipeline_stakeholder.audit.wording import (
    CONTROLS,
    condition,
    ends,
    interval,
    missing,
    percent,
    plain,
    tidy,
    value,
)

MOST_FIGURES: Final = 4
"""Stakeholders whose regret is drawn; the table has all."""


def regret_section(audit: Audit) -> Section:
    """What it costs a stakeholder to be left out, and what brings it back."""
    title = "What leaving a stakeholder out costs it"
    part = audit.regret
    if part is None:
        return Section("regret", title, (), (missing(audit, "regret"),))
    ordered = sorted(part.stakeholders, key=lambda each: -(-1.0 if (cost := cost_of(each)) is None else cost))
    figures = [_regret_figure(part, each, at) for at, each in enumerate(ordered[:MOST_FIGURES])]
    closing = (_closed(part),) if any(each.closed for each in part.stakeholders) else ()
    parts = (*figures, *closing, _regrets(part)) if part.stakeholders else ()
    return Section("regret", title, tidy(part.words), parts)


def cost_of(each: LeftOut) -> float | None:
    """What being left out costs: the regret with nothing in the stakeholder's place less that with its own utility."""
    found = {point.condition: point.regret.value for point in each.points}
    out, own = found.get("zero pairs"), found.get("true utility")
    return None if out is None or own is None else out - own


def _regret_figure(part: Regret, left_out: LeftOut, at: int) -> Figure:
    def draw(key: str, title: str, description: str) -> str:
        from candidate_pipeline_stakeholder.audit.plots import Bar, bars

        rows = [
            Bar(condition(each), value(each.regret), *ends(each.regret), control=each.condition in CONTROLS)
            for each in left_out.points
        ]
        return bars(
            rows,
            unit="regret, as a share of its range (0: none)",
            key=key,
            title=title,
            description=description,
            reference=_zero_pairs(left_out),
            clip=True,
        )

    told = "; ".join(f"{condition(each)} {plain(each.regret)}" for each in left_out.points)
    return Figure(
        f"regret-{at}",
        f"Without {left_out.name}: regret by what stands in for it",
        f"Regret of {left_out.name} with its interval. {told}.",
        f"Further left is better for {left_out.name}. Its pairs are worth something only as far as they are left "
        "of the dotted line and of the hollow marks.",
        f"Controls, hollow: every mark on the same {len(part.deltas)} knobs and the same weights; the dotted line is "
        "nothing in its place.",
        draw,
    )


def _zero_pairs(left_out: LeftOut) -> tuple[float, str] | None:
    for each in left_out.points:
        if each.condition == "zero pairs" and each.regret.value is not None:
            return each.regret.value, "nothing in its place"
    return None


def _closed(part: Regret) -> Table:
    sizes = sorted({size for each in part.stakeholders for size in each.closed})

    def cells(each: LeftOut) -> list[Cell]:
        found = [side.get(size) for size in sizes for side in (each.closed, each.closed_wrong)]
        return [Cell("–", "faint") if one is None or one.value is None else Cell(percent(one)) for one in found]

    columns = {"left out": "l"}
    for size in sizes:
        columns |= {f"{size:,} of its pairs": "r", f"{size:,} of others": "r"}
    return table(
        "How much of the gap pairs close",
        columns,
        ((Cell(each.name, "strong"), *cells(each)) for each in part.stakeholders),
        note="The gap is from nothing in its place (0%) to its own utility (100%). Control: as many pairs of other "
        "stakeholders. A dash: there is no gap to close.",
    )


def _regrets(part: Regret) -> Table:
    def row(each: LeftOut, point: RegretPoint) -> tuple[str | Cell, ...]:
        control = point.condition in CONTROLS
        return (
            Cell(each.name, "strong"),
            Cell(condition(point), "faint" if control else "plain"),
            Cell("control" if control else "", "faint"),
            interval(point.regret),
            interval(point.at_mix),
        )

    return table(
        "Regret",
        {"left out": "l", "in its place": "l", "": "l", "regret [95%]": "r", "at this knob [95%]": "r"},
        (row(each, point) for each in part.stakeholders for point in each.points),
        note=f"(its best point − its mean over the points) / its range, over {part.full_points} points; every "
        f"condition on the same {len(part.deltas)} knobs, slates of {part.size}. Intervals over "
        f"{part.seeds} seeds and requests.",
        shown=30,
    )
