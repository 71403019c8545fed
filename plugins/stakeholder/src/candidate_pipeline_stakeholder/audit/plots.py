"""The plots of the report. Each takes numbers and names, and returns an `<svg>` element."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import attrs
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from candidate_pipeline_stakeholder.audit.document import number
from candidate_pipeline_stakeholder.audit.svg import (
    INK,
    LINES,
    MARKERS,
    PAPER,
    Stroke,
    colour,
    figure,
    grid,
    label,
    labels,
    legend,
    series_entry,
    style,
    to_svg,
)

Float64 = NDArray[np.float64]

DIVERGING: Final = LinearSegmentedColormap.from_list(
    "diverging", ["#b35806", "#f1a340", "#f7f7f7", "#67a9cf", "#2166ac"]
)
"""Orange against blue: told apart with every common colour blindness, and by lightness towards the ends."""
MOST_LETTERS: Final = 26
"""With longer names in all, those below a heat map are turned."""
MOST_CELLS: Final = 10
"""With more stakeholders, the cells of a heat map are too small for figures."""


@attrs.frozen(eq=False)
class Line:
    """A series over the values of a knob.

    Args:
        name: Whose.
        x: Where, float64 [m].
        y: What, float64 [m].
        low: Lower ends of the intervals, or `None`.
        high: Upper ends, or `None`.
        control: Whether it is what the others are compared with: drawn thin and dotted in the colour of the text.
    """

    name: str
    x: Float64
    y: Float64
    low: Float64 | None = None
    high: Float64 | None = None
    control: bool = False


@attrs.frozen(eq=False)
class Bar:
    """A value with its interval on a line of its own.

    Args:
        name: What it belongs to.
        value: The value; NaN where there is none.
        low: Lower end of its interval, NaN without one.
        high: Upper end.
        control: Whether it is a control, drawn hollow.
        series: Which colour.
        beside: Its own control, drawn hollow below it: a value and the ends of its interval, NaN where there is none.
    """

    name: str
    value: float
    low: float = float("nan")
    high: float = float("nan")
    control: bool = False
    series: int = 0
    beside: tuple[float, float, float] | None = None


def heat_maps(
    names: Sequence[str], maps: Sequence[tuple[str, Float64]], *, key: str, title: str, description: str
) -> str:
    """Square tables of cosines from -1 to 1, beside each other while there is room.

    Args:
        names: The stakeholders, S of them.
        maps: A heading and float64 [S, S] each.
        key: Its name in the page.
        title: What it shows.
        description: What is in it.
    """
    count = len(names)
    shown = labels(names, 14 if count > 4 else 12)
    beside = count <= 5
    with style():
        side = 2.75 if beside else min(5.4, 1.6 + 0.42 * count)
        made = figure(side + 0.2 if beside else len(maps) * (side + 0.15))
        shape = (1, len(maps)) if beside else (len(maps), 1)
        for axes, (heading, values) in zip(np.ravel(made.subplots(*shape)), maps, strict=True):
            _heat_map(axes, shown, values)
            axes.set_title(heading)
        if beside:
            for axes in made.axes[1:]:
                axes.set_yticklabels([])
        return to_svg(made, key, title, description)


def _heat_map(axes: Axes, names: Sequence[str], values: Float64) -> None:
    count = len(names)
    for row in range(count):
        for column in range(count):
            value = float(values[row, column])
            known = np.isfinite(value)
            fill = to_hex(DIVERGING((np.clip(value, -1, 1) + 1) / 2)) if known else "none"
            axes.fill(
                [column, column + 1, column + 1, column],
                [row, row, row + 1, row + 1],
                facecolor=fill,
                edgecolor=PAPER,
                linewidth=1.0,
            )
            if count <= MOST_CELLS:
                dark = known and abs(value) > 0.75
                tint = INK if not known else "#ffffff" if dark else "#1c2024"
                size = 9.0 if count <= 6 else 7.5
                axes.text(column + 0.5, row + 0.5, number(value), ha="center", va="center", color=tint, fontsize=size)
    axes.set(xlim=(0, count), ylim=(count, 0), aspect="equal")
    turned = {"rotation": 90} if sum(map(len, names)) > MOST_LETTERS else {}
    axes.set_xticks(np.arange(count) + 0.5, names, **turned)  # type: ignore[arg-type]  # text properties
    axes.set_yticks(np.arange(count) + 0.5, names)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def bars(
    rows: Sequence[Bar],
    *,
    unit: str,
    key: str,
    title: str,
    description: str,
    reference: tuple[float, str] | None = None,
    series: Sequence[str] = (),
    clip: bool = False,
) -> str:
    """Values with intervals, one below the other, the first at the top.

    Args:
        rows: The values.
        unit: What they are, with the unit.
        key: Its name in the page.
        title: What it shows.
        description: What is in it.
        reference: A value to compare with, and its name.
        series: What the colours mean, where there are several.
        clip: Whether the axis may end before a control that is far from everything else, whose value is then written
            at its end.
    """
    with style():
        controls = [row for row in rows if row.control or row.beside is not None]
        extra = 0.75 + (0.3 if reference or series or controls else 0)
        doubled = any(row.beside is not None for row in rows)
        made = figure(extra + (0.42 if doubled else 0.27) * max(len(rows), 2))
        axes = made.subplots()
        grid(axes, "x")
        end = _far(rows) if clip else math.inf
        for at, row in enumerate(rows):
            if row.control and row.value > end:
                text = f"{number(row.value)} →"
                axes.text(0.995, at, text, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=8.5)
                continue
            _bar(axes, at - (0.14 if doubled else 0), row)
            if row.beside is not None:
                _bar(axes, at + 0.2, Bar("", *row.beside, control=True))
        axes.set_yticks(range(len(rows)), labels([row.name for row in rows], 34))
        axes.set(ylim=(len(rows) - 0.4, -0.6))
        axes.set_xlabel(unit, loc="right")  # where there is room, however long the names are
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.axvline(0.0, color=INK, linewidth=0.8)
        handles = [series_entry(name, at) for at, name in enumerate(series) if name]
        if controls:
            handles.append(Line2D([], [], color=INK, marker="o", markerfacecolor=PAPER, linestyle="", label="control"))
        if reference is not None:
            value, name = reference
            axes.axvline(value, color=INK, linewidth=1.0, linestyle=":")
            handles.append(Line2D([], [], color=INK, linewidth=1.0, linestyle=":", label=label(name, 60)))
        legend(made, handles)
        return to_svg(made, key, title, description)


def _far(rows: Sequence[Bar]) -> float:
    """Where an axis may end that leaves out controls far from everything else."""
    ends = sorted(row.high if np.isfinite(row.high) else row.value for row in rows if np.isfinite(row.value))
    usual = max((row.value for row in rows if np.isfinite(row.value) and not row.control), default=0.0)
    kept = [end for end in ends if end <= 3 * max(usual, 1e-9)]
    return math.inf if not kept or len(kept) == len(ends) else kept[-1]


def _bar(axes: Axes, at: float, row: Bar) -> None:
    tint = INK if row.control else colour(row.series)
    if not np.isfinite(row.value):
        if row.control:
            return
        axes.text(0.01, at, "not known", transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
        return
    if np.isfinite(row.low) and np.isfinite(row.high):
        axes.plot([row.low, row.high], [at, at], color=tint, linewidth=1.4, solid_capstyle="butt")
    elif not row.control:
        axes.plot([0, row.value], [at, at], color=tint, linewidth=5.0, solid_capstyle="butt")
    marker = MARKERS[row.series % len(MARKERS)]
    face = PAPER if row.control else tint
    axes.plot([row.value], [at], marker=marker, color=tint, markerfacecolor=face, linestyle="")


def curves(
    lines: Sequence[Line],
    *,
    x: str,
    y: str,
    key: str,
    title: str,
    description: str,
    chosen: tuple[float, str] | None = None,
    reference: tuple[float, str] | None = None,
    log: bool = False,
    limits: tuple[float | None, float | None] = (None, None),
    ticks: Sequence[float] | None = None,
) -> str:
    """Series over the values of a knob, with their intervals.

    Args:
        lines: The series.
        x: What runs along, with the unit.
        y: What is shown, with the unit.
        key: Its name in the page.
        title: What it shows.
        description: What is in it.
        chosen: A value of the knob to mark, and its name.
        reference: A level to compare with, and its name.
        log: Whether the knob runs in factors.
        limits: Lower and upper end of the vertical axis, where they are to be fixed.
        ticks: Values of the knob to name.
    """
    with style():
        made = figure(3.5 + 0.17 * max(0, len(lines) - 4))
        axes = made.subplots()
        grid(axes)
        handles = []
        drawn = 0
        for line in lines:
            tint = INK if line.control else colour(drawn)
            mark = "" if line.control else MARKERS[drawn % len(MARKERS)]
            dash: Stroke = ":" if line.control else LINES[drawn % len(LINES)]
            drawn += not line.control
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=tint, alpha=0.16, linewidth=0)
            every = max(1, len(line.x) // 12)
            axes.plot(line.x, line.y, color=tint, marker=mark or None, linestyle=dash, markevery=every)
            handles.append(Line2D([], [], color=tint, marker=mark or None, linestyle=dash, label=label(line.name, 34)))
        if log:
            axes.set_xscale("log")
            axes.minorticks_off()
        if ticks is not None:
            axes.set_xticks(list(ticks), [f"{tick:,g}" for tick in ticks])
        if reference is not None:
            axes.axhline(reference[0], color=INK, linewidth=1.0, linestyle=(0, (1, 2)))
            handles.append(
                Line2D([], [], color=INK, linewidth=1.0, linestyle=(0, (1, 2)), label=label(reference[1], 60))
            )
        if chosen is not None:
            axes.axvline(chosen[0], color=INK, linewidth=1.2)
            handles.append(Line2D([], [], color=INK, linewidth=1.2, label=label(chosen[1], 60)))
        axes.set(xlabel=x, ylabel=y, ylim=limits)
        legend(made, handles)
        return to_svg(made, key, title, description)
