"""Plots of points in the plane: the frontier between two stakeholders, and predictions against measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from candidate_pipeline_stakeholder.audit.document import number
from candidate_pipeline_stakeholder.audit.svg import (
    INK,
    LINES,
    MARKERS,
    PAPER,
    colour,
    figure,
    grid,
    label,
    legend,
    marked,
    style,
    to_svg,
)

Float64 = NDArray[np.float64]

MOST_TEXTS: Final = 6
"""With more points than this, their names would hide each other."""
LETTER: Final = 0.0135
"""About the width of a letter of a point's name, as a part of the axes'."""
MARK: Final = 0.025
"""Half the height of such a name, and of a mark, as a part of the axes'."""
STEPS: Final = tuple(sorted(range(-30, 31), key=lambda step: (abs(step), step)))
"""How many of these up a name may stand, nearest first."""


@attrs.frozen(eq=False)
class Cloud:
    """Points of one sweep in the plane of two utilities.

    Args:
        name: The sweep.
        points: float64 [m, 2].
        best: Which of them no other one beats, bool [m].
        path: Whether they follow a knob, and are joined in its order.
    """

    name: str
    points: Float64
    best: NDArray[np.bool_]
    path: bool = False


def plane(
    clouds: Sequence[Cloud],
    *,
    x: str,
    y: str,
    chosen: tuple[float, float],
    others: Sequence[tuple[str, float, float]] = (),
    key: str,
    title: str,
    description: str,
) -> str:
    """Points in the plane of two stakeholders' utilities.

    Args:
        clouds: The points by sweep.
        x: Whose utility runs along, with the unit.
        y: Whose utility runs upwards, with the unit.
        chosen: The point in use.
        others: Controls: a name and a place each.
        key: Its name in the page.
        title: What it shows.
        description: What is in it.
    """
    with style():
        made = figure(4.1)
        axes = made.subplots()
        grid(axes)
        handles = []
        for at, cloud in enumerate(clouds):
            tint, mark = colour(at), MARKERS[at]
            if cloud.path:
                axes.plot(*cloud.points.T, color=tint, linewidth=1.0, linestyle=LINES[at], zorder=1)
            for kept, face, depth in ((~cloud.best, PAPER, 2), (cloud.best, tint, 3)):
                axes.plot(
                    *cloud.points[kept].T, color=tint, marker=mark, markerfacecolor=face, linestyle="", zorder=depth
                )
            handles.append(marked(cloud.name, tint, mark, LINES[at] if cloud.path else ""))
        axes.plot(*chosen, color=colour(2), marker="*", markersize=16, markeredgecolor=INK, linestyle="", zorder=5)
        star = marked("in use", colour(2), "*", "")
        star.set(markersize=11, markeredgecolor=INK)
        handles.append(star)
        for name, along, up in others:
            axes.plot(along, up, color=INK, marker="^", markerfacecolor=PAPER, markersize=8, linestyle="", zorder=4)
            handles.append(marked(f"control: {name}", INK, "^", "", hollow=True))
        if any((~cloud.best).any() for cloud in clouds):
            handles.append(marked("hollow: another is better", INK, "o", "", hollow=True))
        axes.margins(0.08)
        axes.set(xlabel=x, ylabel=y)
        legend(made, handles)
        return to_svg(made, key, title, description)


def scatter(
    predicted: Float64,
    measured: Float64,
    control: Float64,
    *,
    names: tuple[str, str],
    texts: Sequence[str],
    x: str,
    y: str,
    band: float,
    key: str,
    title: str,
    description: str,
) -> str:
    """Predictions from -1 to 1 against what was measured; the quarters of equal sign are shaded.

    Args:
        predicted: float64 [m].
        measured: float64 [m], NaN where it is not known.
        control: Another prediction of the same, float64 [m].
        names: What the two predictions are.
        texts: What each point is, shown while they are few; empty where another point says it.
        x: What runs along.
        y: What runs upwards, with the unit.
        band: Predictions closer to 0 than this are too weak to be judged.
        key: Its name in the page.
        title: What it shows.
        description: What is in it.
    """
    with style():
        made = figure(3.9)
        axes = made.subplots()
        left, right = _reach(np.append(predicted, control), band * 1.5)
        low, high = _reach(measured, 0.1)
        for across, up in ((left, low), (right, high)):
            axes.fill_between([0, across], 0, up, color=colour(0), alpha=0.10, linewidth=0)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.axvline(0, color=INK, linewidth=0.8)
        for edge in (-band, band):
            axes.axvline(edge, color=INK, linewidth=0.8, linestyle=":")
        axes.plot(control, measured, color=INK, marker="x", linestyle="", markersize=5, zorder=2)
        axes.plot(predicted, measured, color=colour(0), marker="o", linestyle="", zorder=3)
        if sum(map(bool, texts)) <= MOST_TEXTS:
            places = np.column_stack([predicted, control, measured])
            _name_points(axes, texts, places, box=(left, right, low, high))
        axes.set(xlim=(left, right), ylim=(low, high), xlabel=x, ylabel=y)
        strong = Line2D([], [], color=INK, linewidth=0.8, linestyle=":", label=f"strong: beyond ±{number(band)}")
        legend(made, [marked(names[0], colour(0), "o", ""), marked(names[1], INK, "x", ""), strong])
        return to_svg(made, key, title, description)


def _reach(values: Float64, least: float) -> tuple[float, float]:
    """Ends of an axis around 0 with room for all values."""
    known = values[np.isfinite(values)]
    low, high = min(-least, *known, 0.0), max(least, *known, 0.0)
    room = 0.12 * (high - low)
    return low - room, high + room


def _name_points(axes: Axes, texts: Sequence[str], places: Float64, box: tuple[float, float, float, float]) -> None:
    """Write names near points, inside the axes, where they hide no mark and no other name if there is such a place.

    Args:
        axes: Where.
        texts: The names; none where it is empty.
        places: Predicted, control and measured of each point, [m, 3].
        box: Left, right, lower and upper end of the axes.
    """
    left, right, low, high = box
    scale = np.array([right - left, high - low])
    seen = places[np.isfinite(places[:, 2])]
    marks = np.vstack([seen[:, [0, 2]], seen[:, [1, 2]]])
    marks = (marks[np.isfinite(marks).all(axis=1)] - [left, low]) / scale
    hidden = np.hstack([marks - MARK, marks + MARK])  # rectangles in parts of the axes: left, lower, right, upper end
    for at, text in enumerate(texts):
        if not text or not np.isfinite(places[at, 2]):
            continue
        shown = label(text, 30)
        point = (places[at, [0, 2]] - [left, low]) / scale
        width = LETTER * len(shown)
        starts = np.append(point[0] + 2 * MARK, point[0] - 2 * MARK - width - MARK * np.arange(40))
        spots = np.array([(x, point[1] + MARK * step) for step in STEPS for x in starts])
        inside = (spots[:, 0] > MARK / 2) & (spots[:, 0] + width < 1) & (np.abs(spots[:, 1] - 0.5) < 0.5 - MARK)
        spots = spots[inside]
        if not len(spots):
            continue
        ends = np.column_stack([spots[:, 0], spots[:, 1] - MARK, spots[:, 0] + width, spots[:, 1] + MARK])
        over = (ends[:, None, :2] < hidden[None, :, 2:]).all(axis=2) & (ends[:, None, 2:] > hidden[None, :, :2]).all(
            axis=2
        )
        away = np.abs(spots - point) @ [1.0, 2.0]
        best = int(np.argmin(over.sum(axis=1) * 10.0 + away))
        hidden = np.vstack([hidden, ends[best]])
        start = spots[best, 0] + (width if spots[best, 0] < point[0] else 0.0)
        axes.annotate(
            shown,
            (places[at, 0], places[at, 2]),
            xytext=(left + start * scale[0], low + spots[best, 1] * scale[1]),
            ha="right" if spots[best, 0] < point[0] else "left",
            va="center",
            fontsize=8.0,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.5, "shrinkA": 0.0, "shrinkB": 3.0},
        )
