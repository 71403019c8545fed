"""Outcomes and explanations in the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from candidate_pipeline.engine.shown import shown_rows
from candidate_pipeline.explain import Explanation
from candidate_pipeline.outcome import Outcome

#: How many labels of a labelled column a table shows.
TOP_LABELS = 3


def print_outcome(console: Console, outcome: Outcome, limit: int) -> None:
    """Print the ranked rows, then the funnel."""
    rows = shown_rows(outcome)
    query = outcome.query
    inputs = ", ".join(f"{name} {query[key]}" for name, key in outcome.plan.inputs.items() if key in query)
    table = Table(title=f"{outcome.plan.name}: {inputs} at {query.now:%Y-%m-%d %H:%M %Z}", title_justify="left")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("item", justify="right", no_wrap=True)
    table.add_column(", ".join(_heading(column.name) for column in outcome.plan.show) or "row", overflow="fold")
    table.add_column("sources", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    for row in rows[:limit]:
        score = "-" if row["score"] is None else f"{row['score']:.4g}"
        shown = _shown(row["columns"])
        table.add_row(str(row["rank"]), str(row["item_id"]), shown, ", ".join(row["sources"]), score, end_section=True)
    console.print(table)
    if len(rows) > limit:
        console.print(f"and {len(rows) - limit} more (--limit)")
    print_funnel(console, outcome)
    if outcome.why_short():
        console.print(f"[bold]{escape(outcome.why_short())}[/bold]")


def _heading(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ")


def _shown(columns: dict[str, Any]) -> str:
    """The first shown column on a line of its own, the others below it."""
    first, *others = [(name, cell_text(value)) for name, value in columns.items()] or [("", "")]
    rest = " · ".join(
        f"{_heading(name)}: {text}" if text in {"-", "yes", "no", "failed"} else text for name, text in others
    )
    return f"{first[1]}\n[dim]{rest}[/dim]" if rest else first[1]


def print_funnel(console: Console, outcome: Outcome) -> None:
    """Print what each component did: rows in and out, time, and what went wrong."""
    table = Table(title=f"funnel ({outcome.elapsed_ms:.0f} ms)", title_justify="left")
    for name, justify in (("stage", "left"), ("component", "left"), ("in", "right"), ("out", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # the literals are rich's
    table.add_column("ms", justify="right")
    table.add_column("", overflow="fold")
    stage = ""
    for entry in outcome.trace:
        said = {"ok": "", "skipped": f"[red]skipped: {escape(entry.error)}[/red]"}.get(
            entry.status, f"[yellow]{entry.by} took over: {escape(entry.error)}[/yellow]"
        )
        counts = ["" if entry.stage in {"query_hydrators", "sources"} else str(entry.rows_in)]
        counts.append("" if entry.stage == "query_hydrators" else str(entry.rows_out))
        note = f"{said} {escape(entry.note)}".strip()
        table.add_row(
            entry.stage if entry.stage != stage else "", entry.component, *counts, f"{entry.elapsed_ms:.1f}", note
        )
        stage = entry.stage
    console.print(table)


def print_explanation(console: Console, explanation: Explanation) -> None:
    """Print why an item is where it is, then its columns."""
    console.print(escape(str(explanation)))
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
