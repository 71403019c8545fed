"""Outcomes and explanations in the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from candidate_pipeline.cli.inputs import parse_table
from candidate_pipeline.cli.pictures_explain import draw_explanation
from candidate_pipeline.cli.pictures_run import print_funnel, print_waterfall
from candidate_pipeline.components import ReportValue
from candidate_pipeline.engine.shown import shown_rows
from candidate_pipeline.explain import Explanation
from candidate_pipeline.keys import Column
from candidate_pipeline.outcome import Outcome

#: How many labels of a labelled column a table shows.
TOP_LABELS = 3


def _given(value: object) -> str:
    """An input as the command line takes it."""
    if not isinstance(value, dict):
        return str(value)
    text = ",".join(f"{name}={part}" for name, part in value.items())
    try:
        plain = parse_table(text) == value
    except ValueError:
        plain = False
    return text if plain else json.dumps(value, ensure_ascii=False, default=str)


def print_outcome(console: Console, outcome: Outcome, limit: int) -> None:
    """Print the ranked rows, then the pictures: the funnel of candidates and the waterfall of component times."""
    rows = shown_rows(outcome)
    query = outcome.query
    inputs = ", ".join(f"{name} {_given(query[key])}" for name, key in outcome.plan.inputs.items() if key in query)
    title = f"{outcome.plan.name}: {inputs} at {query.now:%Y-%m-%d %H:%M %Z}"
    table = Table(title=escape(title), title_justify="left")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("item", justify="right", no_wrap=True)
    headings = {column.name: _heading(column) for column in outcome.plan.show}
    table.add_column(", ".join(headings.values()) or "row", overflow="fold")
    table.add_column("sources", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    for row in rows[:limit]:
        shown = _shown(row["columns"], headings)
        sources, score = ", ".join(row["sources"]), cell_text(row["score"])
        table.add_row(str(row["rank"]), str(row["item_id"]), shown, sources, score, end_section=True)
    console.print(table)
    if len(rows) > limit:
        console.print(f"and {len(rows) - limit} more (--limit)")
    print_funnel(console, outcome)
    if outcome.why_short():
        console.print(f"[bold]{escape(outcome.why_short())}[/bold]")
    print_waterfall(console, outcome)


def _heading(column: Column[Any]) -> str:
    """The last word of a column's name; of a family's member that of the family too."""
    parts = column.name.split(".")[-1 if column.family is None else -2 :]
    return " ".join(parts).replace("_", " ")


def _shown(columns: Mapping[str, Any], headings: Mapping[str, str]) -> str:
    """The first shown column on a line of its own, the others below it."""
    first, *others = [(name, cell_text(value)) for name, value in columns.items()] or [("", "")]
    rest = " · ".join(
        f"{headings[name]}: {text}" if text in {"-", "yes", "no", "failed"} else text for name, text in others
    )
    return f"{first[1]}\n[dim]{rest}[/dim]" if rest else first[1]


def print_reports(console: Console, reports: Mapping[str, Mapping[str, ReportValue]]) -> None:
    """Print what resources and components say about themselves, if any does."""
    if not reports:
        return
    console.print()
    table = Table(title="reports", title_justify="left")
    table.add_column("name", no_wrap=True)
    table.add_column("says", overflow="fold")
    for name, report in reports.items():
        said = ", ".join(_said(key, value) for key, value in report.items())
        table.add_row(escape(name), f"[red]{said}[/red]" if "report_failed" in report else said)
    console.print(table)


def _said(name: str, value: ReportValue) -> str:
    """A value of a report with its name, in the unit that the name's last word says."""
    words, _, unit = name.rpartition("_")
    if words and isinstance(value, int | float) and unit in {"bytes", "ms", "rate"}:
        if unit == "rate":
            return f"{_words(name)} {value:.0%}"
        shown = f"{cell_text(value)} ms" if unit == "ms" else _size(value)
        return f"{_words(words)} {shown}"
    return f"{_words(name)} {cell_text(value)}"


def _words(name: str) -> str:
    return escape(name.replace("_", " "))


def _size(count: float) -> str:
    """Bytes in the largest binary unit that leaves at least one of it."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB"):
        if count < 1024:
            break
        count, unit = count / 1024, larger
    return f"{count:.4g} {unit}"


def print_explanation(console: Console, explanation: Explanation) -> None:
    """Draw why an item is where it is, then print its columns."""
    draw_explanation(console, explanation)
    table = Table(title="columns", title_justify="left")
    for name in ("column", "value", "written by"):
        table.add_column(name, overflow="fold")
    for cell in explanation.cells:
        value = cell.state if cell.state != "valid" else cell_text(cell.value)
        table.add_row(cell.column, value, cell.writer)
    console.print(table)


def cell_text(value: Any) -> str:
    """A cell as a table shows it; of a labelled cell the largest labels."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        top = sorted(value.items(), key=lambda pair: -abs(pair[1]))[:TOP_LABELS]
        return ", ".join(f"{name} {amount:.2g}" for name, amount in top if amount)
    if isinstance(value, list):
        return f"vector of {len(value)}"
    return escape(" ".join(str(value).split()))
