"""A report before it is shown: findings, sections, tables and figures, the same for the terminal and for the page."""

from __future__ import annotations

import html as markup
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import attrs

TINY: Final = 0.001
HIDDEN: Final = frozenset({"Cc", "Cf", "Cs"})
"""Kinds of characters that no text shows: controls, marks of formatting, halves of surrogate pairs."""
Tone = Literal["plain", "good", "bad", "strong", "faint"]
"""What a cell says beside its text. The text says it too: no reader depends on colour."""


@attrs.frozen
class Cell:
    """A text in a table.

    Args:
        text: What it says.
        tone: How it is meant.
    """

    text: str
    tone: Tone = "plain"


@attrs.frozen
class Table:
    """Numbers as texts.

    Args:
        title: What they are.
        columns: The headings, with units.
        align: One letter a column: `l` for texts, `r` for numbers.
        rows: As many cells as there are columns each.
        note: What one must know to read it.
        shown: How many rows a terminal shows, and a page shows unfolded.
    """

    title: str
    columns: tuple[str, ...]
    align: str
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    shown: int = 12

    def __attrs_post_init__(self) -> None:
        wide = len(self.columns)
        if len(self.align) != wide or any(len(row) != wide for row in self.rows):
            raise ValueError(f"table {self.title!r}: wanted {wide} letters and cells a row")


def table(
    title: str,
    columns: Mapping[str, str] | Sequence[tuple[str, str]],
    rows: Iterable[Iterable[str | Cell]],
    *,
    note: str = "",
    shown: int = 12,
) -> Table:
    """A table.

    Args:
        title: What it shows.
        columns: Headings, each with `l` or `r`; in pairs where two headings may be the same.
        rows: Texts, or cells.
        note: What one must know to read it.
        shown: How many rows a terminal shows.
    """
    cells = tuple(tuple(each if isinstance(each, Cell) else Cell(each) for each in row) for row in rows)
    pairs = list(columns.items()) if isinstance(columns, Mapping) else columns
    headings, align = tuple(heading for heading, _ in pairs), "".join(letter for _, letter in pairs)
    return Table(title, headings, align, cells, note, shown)


@attrs.frozen(eq=False)
class Figure:
    """A plot, drawn when a page wants it.

    Args:
        key: Its name in the page: letters, digits and hyphens.
        title: What it shows.
        description: What is in it, for who does not see it.
        caption: What to see in it.
        control: What it is to be compared with.
        draw: Draws it: an `<svg>` element, given the key, the title and the description.
    """

    key: str
    title: str
    description: str
    caption: str
    control: str
    draw: Callable[[str, str, str], str]


@attrs.frozen
class Missing:
    """In place of a part that could not be made.

    Args:
        reason: Why, and what would make it.
    """

    reason: str


@attrs.frozen
class Text:
    """A paragraph.

    Args:
        words: What it says.
    """

    words: str


Part = Table | Figure | Missing | Text


@attrs.frozen(eq=False)
class Section:
    """One question and its answer.

    Args:
        key: Its name in the page.
        title: The question's subject.
        lead: The answer, in sentences.
        parts: What shows it.
    """

    key: str
    title: str
    lead: tuple[str, ...]
    parts: tuple[Part, ...]


@attrs.frozen(eq=False)
class Document:
    """A report.

    Args:
        title: What was audited.
        about: How, in a line.
        findings: What came out, in sentences, the most important first.
        warnings: What a reader must know before reading on.
        sections: What they rest on.
        provenance: What it was made with: plain data.
    """

    title: str
    about: str
    findings: tuple[str, ...]
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]
    provenance: Mapping[str, Any]


def escaped(text: str) -> str:
    """Text between tags or in quotes; what HTML has no place for, or what turns text round, becomes a mark."""
    return markup.escape(
        "".join(each if each in "\n\t" or unicodedata.category(each) not in HIDDEN else "\ufffd" for each in text)
    )


def number(value: float, digits: int = 2, sign: bool = False, tiny: bool = True) -> str:
    """A figure for a table: `.83`, `−.31`, `12`, and a dash where there is none.

    Args:
        value: The figure; NaN where there is none.
        digits: Decimals below 10; larger figures get fewer.
        sign: Whether positive figures have a sign as well.
        tiny: Whether what rounds to 0 is told from 0.
    """
    if math.isnan(value):
        return "–"
    size = abs(value)
    mark = "−" if value < 0 else "+" if sign else ""
    if math.isinf(value):
        return f"{mark}∞"
    if size >= 10_000:
        return f"{mark}{size:,.0f}"
    text = f"{size:.{digits if size < 10 else max(0, digits - (2 if size >= 100 else 1))}f}"
    if float(text) == 0:
        if size == 0 or not tiny:
            return "0"
        text = f"{size:.1g}" if size >= TINY else f"<{TINY}"
        mark = mark if size >= TINY or value > 0 else ">−"
        text = text if mark != ">−" else str(TINY)
    return mark + text.replace("0.", ".", 1) if text.lstrip("<").startswith("0.") else mark + text


def share(value: float, decimals: int | None = None) -> str:
    """A share in percent: `23%`, `4.1%`, `99.6%`, and a dash where there is none.

    Args:
        value: The share; NaN where there is none.
        decimals: Of the percentage; `None`: as many as `share_decimals` says.
    """
    if math.isnan(value):
        return "–"
    text = f"{abs(100 * value):,.{share_decimals(value) if decimals is None else decimals}f}"
    return ("−" if value < 0 and float(text.replace(",", "")) else "") + text + "%"


def share_decimals(*values: float) -> int:
    """Decimals that shares in one cell get: 1 where all are close to none, or one is close to all, else 0."""
    sizes = [abs(value) for value in values]
    small = 0 < max(sizes) < 0.0995
    return int(small or (max(sizes) <= 1 and any(0.99 <= size < 0.9995 for size in sizes)))


def listed(names: Iterable[str], last: str = "and") -> str:
    """Names in a sentence: `a`, `a and b`, `a, b and c`."""
    *others, final = [*names] or [""]
    return f"{', '.join(others)} {last} {final}" if others else final


def short(name: str, limit: int) -> str:
    """A name on one line, its middle left out where it is longer than `limit` characters."""
    printable = "".join(each if each.isprintable() else " " for each in name)
    shown = " ".join(printable.split()) or "(no name)"
    if len(shown) <= limit:
        return shown
    tail = (limit - 1) // 2
    return f"{shown[: limit - 1 - tail].rstrip()}…{shown[-tail:].lstrip()}"


def plural(count: int, one: str, many: str = "") -> str:
    """A count with its noun: `1 request`, `3,000 requests`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
