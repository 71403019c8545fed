"""Figures as SVG for a page: the same bytes for the same numbers, colours that the page sets, nothing to load."""

from __future__ import annotations

import html
import io
import itertools
import re
import warnings
from collections.abc import Sequence
from typing import Any, Final, Literal
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from candidate_pipeline_stakeholder.audit.document import escaped, short

INK: Final = "#010101"
"""Text and axes. A stand-in: the page's style says what colour it is, by light or dark."""
FAINT: Final = "#010102"
"""Grids and reference lines."""
PAPER: Final = "#010103"
"""What is behind the figure."""
SERIES: Final = tuple(f"#01020{digit}" for digit in range(8))
"""Colours of series in the order that they are used."""
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
Stroke = Literal["", "-", "--", "-.", ":"]
LINES: Final[tuple[Stroke, ...]] = ("-", "--", "-.", ":", "-", "--", "-.", ":")
"""Series differ by marker and line as well, so that no figure depends on colour."""

VARIABLES: Final = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    PAPER: "var(--paper)",
    **{colour: f"var(--series-{at})" for at, colour in enumerate(SERIES)},
}
"""The page's variable for each stand-in."""

WIDTH: Final = 5.8
"""Inches, with text of 10 points: readable as wide as a telephone and as half a desk's screen."""
SALT: Final = "candidate-pipeline"
STYLE: Final[Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and written in any script
    "svg.hashsalt": SALT,
    "text.parse_math": False,  # a name may hold a dollar sign
    "axes.unicode_minus": True,
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that what is measured is the same everywhere
    "font.size": 10.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.fontsize": 9.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "path.simplify": False,
}
_LEFT_OUT: Final = frozenset({"metadata", "style"})
_NAMED: Final = frozenset({"path", "clipPath"})
"""Elements that others refer to; the rest needs no id."""


def style() -> Any:
    """The settings that a figure is made and drawn under, as a context."""
    return mpl.rc_context(STYLE)


def figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure.

    Args:
        height: Inches.
        width: Inches.
    """
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(made)
    return made


def to_svg(made: Figure, key: str, title: str, description: str) -> str:
    """A figure as an `<svg>` element for the middle of a page.

    Args:
        made: The figure.
        key: Its name in the page, which every id in it begins with. Letters, digits and hyphens.
        title: What it shows, in a few words, for who does not see it.
        description: What is to be seen in it, in a sentence or two.
    """
    file = io.StringIO()
    with warnings.catch_warnings():
        # Names may be in scripts that the measuring font lacks; the page's fonts draw them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        made.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(file.getvalue())  # noqa: S314 - what was just drawn, nobody else's
    size = root.get("viewBox", "0 0 1 1")
    head = (
        f'<svg role="img" aria-labelledby="{key}-title {key}-desc" viewBox="{size}">'
        f'<title id="{key}-title">{escaped(title)}</title><desc id="{key}-desc">{escaped(description)}</desc>'
    )
    return head + "".join(_element(each, key) for each in root) + "</svg>\n"


def _element(element: Element, key: str) -> str:
    """An element as it stands in a page: without name spaces and metadata, its ids below `key`."""
    tag = _local(element.tag)
    names = {_local(name): value for name, value in element.items()}
    if tag not in _NAMED:
        names.pop("id", None)
    inside = "".join(_element(each, key) for each in element)
    if tag in _LEFT_OUT or (tag == "defs" and not inside):
        return ""
    attributes = "".join(f' {name}="{html.escape(_attribute(name, value, key))}"' for name, value in names.items())
    text = html.escape(element.text or "", quote=False) if tag == "text" else ""
    return f"<{tag}{attributes}>{text}{inside}</{tag}>"


def _attribute(name: str, value: str, key: str) -> str:
    if name == "id":
        return f"{key}-{value}"
    if name == "href":
        return f"#{key}-{value.removeprefix('#')}"
    if name == "d":
        return re.sub(r"\s+", " ", value).strip()
    value = value.replace("url(#", f"url(#{key}-")
    if name == "style":
        value = re.sub(r"font-family: [^;]*;? ?", "", value)  # the page's
        for stand_in, variable in VARIABLES.items():
            value = value.replace(stand_in, variable)
    return value


def _local(name: str) -> str:
    """A name without its name space."""
    return name.rpartition("}")[2]


def label(name: str, limit: int = 22) -> str:
    """A name for an axis or a legend: short, on one line, and never taken for a private one.

    Args:
        name: Any text.
        limit: The longest it may be, in characters.
    """
    shown = short(name, limit)
    return f"\u200b{shown}" if shown.startswith("_") else shown  # a legend leaves out names that begin with _


def labels(names: Sequence[str], limit: int = 22) -> list[str]:
    """Names for an axis, numbered where shortening made two different ones the same."""
    shown = [label(name, limit) for name in names]
    meant: dict[str, set[str]] = {}
    for name, each in zip(names, shown, strict=True):
        meant.setdefault(each, set()).add(name)
    return [f"{each} ({at + 1})" if len(meant[each]) > 1 else each for at, each in enumerate(shown)]


def grid(axes: Axes, axis: str = "both") -> None:
    """Draw a grid behind the data."""
    axes.set_axisbelow(True)
    axes.grid(True, axis=axis)  # type: ignore[arg-type]  # a literal in the stubs


def colour(at: int) -> str:
    """The colour of a series."""
    return SERIES[at % len(SERIES)]


def marked(name: str, tint: str, mark: str, line: Stroke, hollow: bool = False) -> Line2D:
    """An entry of a legend: a marker on a line."""
    face = PAPER if hollow else tint
    return Line2D([], [], color=tint, marker=mark, markerfacecolor=face, linestyle=line, label=label(name, 44))


def series_entry(name: str, at: int) -> Line2D:
    """An entry of a legend: what the colour and marker of a series mean."""
    return Line2D([], [], color=colour(at), marker=MARKERS[at % len(MARKERS)], linestyle="", label=label(name, 34))


def legend(made: Any, handles: Sequence[Line2D]) -> None:
    """Below the axes, where it hides nothing."""
    if not handles:
        return
    texts = [len(str(handle.get_label())) + 7 for handle in handles]  # with the mark before it
    columns = next(
        count for count in range(len(texts), 0, -1) if count == 1 or _legend_width(texts, count) <= WIDTH * 13
    )
    made.legend(handles=list(handles), loc="outside lower left", ncols=columns, handlelength=2.0, columnspacing=1.4)


def _legend_width(texts: Sequence[int], columns: int) -> int:
    """The width in characters of a legend, which is filled column by column."""
    least, longer = divmod(len(texts), columns)
    starts = np.cumsum([0] + [least + (at < longer) for at in range(columns)])
    return sum(max(texts[start:end]) for start, end in itertools.pairwise(starts.tolist()) if end > start)
