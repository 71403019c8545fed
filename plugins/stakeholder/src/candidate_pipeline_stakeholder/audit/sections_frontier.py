"""What other mixes and more diversity would give."""

from __future__ import annotations

from typing import Final

import numpy as np

from candidate_pipeline_stakeholder.audit.document import (
    Cell,
    Figure,
    Part,
    Section,
    Table,
    Text,
    Tone,
    number,
    share,
    short,
    table,
)
from candidate_pipeline_stakeholder.audit.record import Audit, Frontier, FrontierPoint
from candidate_pipeline_stakeholder.audit.wording import (
    ends,
    missing,
    mix_text,
    percent,
    plain,
    tidy,
    value,
)

MOST_LINES: Final = 7


def frontier_section(audit: Audit) -> Section:
    """What other mixes and knobs give."""
    title = "What could be had instead"
    part = audit.frontier
    if part is None:
        return Section("frontier", title, (), (missing(audit, "frontier"),))
    parts: list[Part] = [Text(reason) for reason in part.reasons]
    if len(part.delta_points) > 1:
        parts.append(_knob_figure(part))
    pair = _opposed(audit, part)
    if pair is not None:
        parts.append(_plane_figure(part, *pair))
    parts.append(_points(part, "Over the diversity knob", part.delta_points, knob=True))
    if part.mix_points:
        parts.append(_points(part, _sweep_title(part), part.mix_points, knob=False))
    return Section("frontier", title, tidy(part.words), tuple(parts))


def _sweep_title(part: Frontier) -> str:
    return "Other mixes" if part.mix_sweep == "simplex" else "Other mixes, one stakeholder's weight at a time"


def _opposed(audit: Audit, part: Frontier) -> tuple[int, int] | None:
    """The two stakeholders that are least aligned: where a choice between them costs most."""
    if len(part.names) < 2 or len(part.delta_points) + len(part.mix_points) < 2:
        return None
    place = {name: at for at, name in enumerate(part.names)}
    pairs = [
        (value(each.cosine), place[each.target], place[each.other])
        for each in (audit.alignment.pairs if audit.alignment else ())
        if each.target in place and each.other in place and each.cosine.value is not None
    ]
    if not pairs:
        return 0, 1
    _, one, other = min(pairs)
    return min(one, other), max(one, other)


def _knob_figure(part: Frontier) -> Figure:
    names = part.names[:MOST_LINES]
    points = part.delta_points
    knobs = np.array([value(each.delta) for each in points])

    def draw(key: str, title: str, description: str) -> str:
        from candidate_pipeline_stakeholder.audit.plots import Line, curves

        lines = []
        for at, name in enumerate(names):
            found = [each.share[at] for each in points]
            low, high = (np.array(each) for each in zip(*(ends(each) for each in found), strict=True))
            lines.append(Line(name, knobs, np.array([value(each) for each in found]), low, high))
        spread = np.array([value(each.entropy) for each in points])
        if np.isfinite(spread).any():
            lines.append(Line("evenness of groups", knobs, spread, control=True))
        chosen = value(part.chosen.delta)
        mark = (chosen, f"in use: {number(chosen)}") if chosen == chosen else None  # noqa: PLR0124 - NaN
        return curves(
            lines,
            x="diversity knob δ (0 none, 1 nothing else)",
            y="share of the attainable range",
            key=key,
            title=title,
            description=description,
            chosen=mark,
        )

    first, last = points[0], points[-1]
    told = "; ".join(
        f"{name} from {share(value(first.share[at]))} to {share(value(last.share[at]))}"
        for at, name in enumerate(names)
    )
    left = len(part.names) - len(names)
    return Figure(
        "knob",
        "What diversity costs whom",
        f"Share of each stakeholder's attainable range over the diversity knob: {told}.",
        "A curve that falls is what that stakeholder pays for more groups in the slate."
        + (f" {left} more stakeholders are in the JSON." if left else ""),
        "Control: the dotted curve is how evenly the slate's groups are spread (entropy, 0 to 1): what the knob buys. "
        "Where it stays level, the price buys nothing.",
        draw,
    )


def _plane_figure(part: Frontier, one: int, other: int) -> Figure:
    names = part.names[one], part.names[other]

    def at(point: FrontierPoint) -> tuple[float, float]:
        return value(point.share[one]), value(point.share[other])

    def draw(key: str, title: str, description: str) -> str:
        from candidate_pipeline_stakeholder.audit.planes import Cloud, plane

        clouds = [
            Cloud(
                "other mixes", np.array([at(each) for each in part.mix_points]).reshape(-1, 2), _best(part.mix_points)
            ),
            Cloud(
                "this mix over the diversity knob",
                np.array([at(each) for each in part.delta_points]).reshape(-1, 2),
                _best(part.delta_points),
                path=True,
            ),
        ]
        served = [] if part.served is None else [("as served", *at(part.served))]
        return plane(
            [each for each in clouds if len(each.points)],
            x=f"{short(names[0], 22)}, share of its range",
            y=f"{short(names[1], 22)}, share of its range",
            chosen=at(part.chosen),
            others=served,
            key=key,
            title=title,
            description=description,
        )

    here = at(part.chosen)
    also = len(part.names) > 2
    return Figure(
        "frontier-plane",
        f"The frontier between {names[0]} and {names[1]}",
        f"Points by the shares of {names[0]} and {names[1]}. In use: {share(here[0])} and {share(here[1])}.",
        "Up and to the right is better for both. The star is the audited mix; filled points are those that no other "
        "point of their sweep beats"
        + (", for all stakeholders and groups together, not only these two, the least aligned." if also else "."),
        "Control: the hollow triangle is what was served, without the audited mix." if part.served is not None else "",
        draw,
    )


def _best(points: tuple[FrontierPoint, ...]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array([each.pareto for each in points], np.bool_)


def _points(part: Frontier, title: str, points: tuple[FrontierPoint, ...], knob: bool) -> Table:
    names = part.names[:5]
    extra = [("as served", part.served)] if part.served is not None else []
    rows = [(number(value(each.delta)) if knob else _mix(part, each), each) for each in points] + extra

    def row(label: str, each: FrontierPoint) -> tuple[str | Cell, ...]:
        tone: Tone = "strong" if each.chosen else "plain"
        mark = Cell("in use", "strong") if each.chosen else Cell("yes" if each.pareto else "no", "plain")
        return (
            Cell(label, tone),
            *(
                Cell(percent(each.share[at]) if knob else share(value(each.share[at])), tone)
                for at in range(len(names))
            ),
            plain(each.groups),
            plain(each.entropy),
            plain(each.authors, 1),
            mark if each is not part.served else Cell("–", "faint"),
        )

    return table(
        title,
        [
            ("δ" if knob else "mix", "l"),
            *((name, "r") for name in names),
            *(("groups", "r"), ("evenness", "r"), ("authors", "r"), ("unbeaten", "l")),
        ],
        (row(label, each) for label, each in rows),
        note=f"Shares of attainable ranges over slates of {part.size}. groups, authors: distinct ones in a slate. "
        "unbeaten: no other point of the sweep is as good for all and in groups, and better in one of these."
        + (
            f" {len(part.names) - len(names)} more stakeholders are in the JSON."
            if len(part.names) > len(names)
            else ""
        ),
        shown=12 if knob else 8,
    )


def _mix(part: Frontier, point: FrontierPoint) -> str:
    return mix_text(dict(zip(part.names, point.mix or (), strict=False)))
