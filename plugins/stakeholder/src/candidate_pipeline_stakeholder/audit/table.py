"""A report in the terminal."""

from __future__ import annotations

from typing import Final, Literal

import attrs
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text as RichText

from candidate_pipeline_stakeholder.audit.document import Cell, Document, Missing, Section, Table, Text, Tone, listed

SENTENCES: Final = 6
"""A section's first sentences; the others are in the page."""
ELSEWHERE: Final = "in the page (--html) and in the JSON (--json)"
GAP: Final = 2
"""Between columns."""
LONGEST: Final = 14
"""A longer text may be broken over lines."""
INTERVAL: Final = " [95%]"
STYLES: Final[dict[Tone, str]] = {
    "plain": "",
    "good": "green",
    "bad": "red",
    "strong": "bold",
    "faint": "dim",
}


def print_document(console: Console, document: Document) -> None:
    """Print the findings, then each section's answer and tables; figures are for the page.

    Args:
        console: Where to; everything fits its width.
        document: What to print.
    """
    console.print(RichText(document.title, style="bold"))
    console.print(RichText(document.about, style="dim"))
    for at, finding in enumerate(document.findings, start=1):
        _print_point(console, f"{at}.", finding)
    for warning in document.warnings:
        console.print(RichText(f"note: {warning}", style="yellow"))
    for section in document.sections:
        _print_section(console, section)


def _print_section(console: Console, section: Section) -> None:
    console.print()
    console.rule(RichText(section.title, style="bold"), align="left", characters="─", style="dim")
    for sentence in section.lead[:SENTENCES]:
        _print_point(console, "·" if len(section.lead) > 1 else "", sentence)
    if len(section.lead) > SENTENCES:
        console.print(RichText(f"and {len(section.lead) - SENTENCES:,} more {ELSEWHERE}", style="dim"))
    for part in section.parts:
        if isinstance(part, Table):
            console.print()
            _print_table(console, part)
        elif isinstance(part, Missing):
            console.print(RichText(f"not done: {part.reason}", style="yellow"))
        elif isinstance(part, Text):
            console.print(RichText(part.words))


def _print_point(console: Console, mark: str, sentence: str) -> None:
    """Print a sentence behind its mark, its further lines below its first word."""
    line = RichTable.grid(padding=(0, 1, 0, 0))
    if mark:
        line.add_column(justify="right", no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(*([mark] if mark else []), RichText(sentence))
    console.print(line)


def _print_table(console: Console, table: Table) -> None:
    fitted, left_out = fit_table(table, console.width)
    drawn = RichTable(
        title=RichText(table.title, style="bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, GAP, 0, 0),
        header_style="dim",
        show_edge=False,
    )
    for at, (heading, letter) in enumerate(zip(fitted.columns, fitted.align, strict=True)):
        justify: Literal["left", "right"] = "right" if letter == "r" else "left"
        drawn.add_column(RichText(heading), justify=justify, overflow="fold", min_width=_least(fitted, at))
    for row in fitted.rows:
        drawn.add_row(*(RichText(cell.text, style=STYLES[cell.tone]) for cell in row))
    console.print(drawn)
    rest = len(table.rows) - table.shown
    notes = [f"and {rest:,} more {ELSEWHERE}"] if rest > 0 else []
    notes += [f"too narrow for {left_out}, which are {ELSEWHERE}"] if left_out else []
    for note in (*notes, table.note):
        if note:
            console.print(Padding(RichText(note, style="dim"), (0, 0, 0, 2)))


def fit_table(table: Table, width: int) -> tuple[Table, str]:
    """The shown rows of a table as they fit a width: without intervals, then without columns at the end, if need be.

    Args:
        table: The table.
        width: Columns of the terminal.

    Returns:
        The table, and what was left out in words, or "".
    """
    fitted = attrs.evolve(table, rows=table.rows[: table.shown])
    if _width(fitted) <= width:
        return fitted, ""
    rows = tuple(tuple(_without_interval(cell) for cell in row) for row in fitted.rows)
    headings = tuple(heading.replace(INTERVAL, "") for heading in fitted.columns)
    fitted = attrs.evolve(fitted, rows=rows, columns=headings)
    names: list[str] = []
    while _width(fitted) > width and len(fitted.columns) > 2:
        names.insert(0, fitted.columns[-1] or "its last column")
        fitted = attrs.evolve(
            fitted,
            columns=fitted.columns[:-1],
            align=fitted.align[:-1],
            rows=tuple(row[:-1] for row in fitted.rows),
        )
    return fitted, f"intervals and {listed(names)}" if names else "intervals"


def _without_interval(cell: Cell) -> Cell:
    text, bracket, rest = cell.text.partition(" [")
    return attrs.evolve(cell, text=text) if bracket and rest.endswith("]") else cell


def _width(table: Table) -> int:
    return sum(_least(table, at) + GAP for at in range(len(table.columns))) - GAP


def _least(table: Table, at: int) -> int:
    """The width of a column: numbers and short texts are never broken over lines."""
    words = max(cell_len(word) for word in table.columns[at].split() or [""])
    cells = [cell_len(row[at].text) for row in table.rows]
    if table.align[at] != "r":
        return max([words, min(max(cells, default=0), LONGEST)])
    return max([words, *cells])
