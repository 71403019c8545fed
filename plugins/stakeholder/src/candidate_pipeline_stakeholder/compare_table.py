"""Prints a comparison of mixes."""

from __future__ import annotations

from math import isnan
from typing import Final

from rich.console import Console
from rich.table import Table

from candidate_pipeline.cli.pictures_diff import print_diffs
from candidate_pipeline_feed.evaluation.bootstrap import Interval
from candidate_pipeline_stakeholder.audit.document import plural
from candidate_pipeline_stakeholder.audit.wording import some
from candidate_pipeline_stakeholder.comparing import PER_REQUEST, POOLED, Comparison, Mixed

ENDS: Final = 0.0005
"""Numbers below it are printed as 0."""
MOST_NAMED: Final = 6
"""Stakeholders who are named in a sentence; tables have all."""


def print_comparison(console: Console, comparison: Comparison, limit: int = 8) -> None:
    """Who gets what under each mix, whom the responses expose, and what moved.

    Args:
        console: Where to.
        comparison: The comparison.
        limit: How many items are drawn of the request that changes most, for each mix; 0: none.
    """
    console.print(
        f"{comparison.pipeline}: {plural(comparison.requests, 'request')} of {comparison.candidates:.0f} scored "
        f"candidates and {comparison.size:.0f} rows on average; the mix of {comparison.scorer} varies, nothing else",
        markup=False,
        soft_wrap=True,
    )
    first = comparison.rows[0]
    names = list(first.shares)
    title = "What each stakeholder gets: 0 the worst possible response, 1 the best"
    if len(names) > len(comparison.rows):  # many stakeholders stand below each other, for a terminal is long, not wide
        table = Table("stakeholder", *(row.name for row in comparison.rows), title=title, title_justify="left")
        for name in names:
            table.add_row(name, *(_cell(row.shares.get(name)) for row in comparison.rows))
    else:
        table = Table("mix", *names, title=title, title_justify="left")
        for row in comparison.rows:
            table.add_row(row.name, *(_cell(row.shares.get(name)) for name in names))
    console.print(table)
    for row in comparison.rows[1:]:
        if row.mix is None:
            continue
        console.print(f"  {sentence(row, first.name)}", markup=False, soft_wrap=True)
    for title, wanted in (("Single responses", PER_REQUEST), ("How evenly all responses show authors", POOLED)):
        measures = [name for name in wanted if any(name in row.exposure for row in comparison.rows)]
        if measures:
            table = Table("mix", *measures, title=title, title_justify="left")
            for row in comparison.rows:
                table.add_row(row.name, *(_cell(row.exposure.get(name)) for name in measures))
            console.print(table)
    title = f"What moved, against {first.name}"
    table = Table("mix", "responses changed", "overlap", "tau", "rbo", title=title, title_justify="left")
    for row in comparison.rows:
        if row.changed is not None:
            figures = ("-" if figure is None else f"{figure:.3f}" for figure in (row.overlap, row.tau, row.rbo))
            table.add_row(row.name, f"{row.changed} of {comparison.requests}", *figures)
    console.print(table)
    console.print(
        "Intervals: 95 %, over requests. Distinct authors and topics are shares of the rows; topic entropy is in nats. "
        "Author Gini, coverage and entropy are of all responses together, over the authors who were among the "
        "candidates; Gini 0: all are shown alike. recorded: the responses as they were given; random: rows drawn with "
        "equal chances.",
        style="dim",
        soft_wrap=True,
    )
    for note in comparison.notes:
        console.print(f"note: {note}", style="yellow", markup=False, soft_wrap=True)
    if limit:
        _items(console, comparison, limit)


def sentence(row: Mixed, first: str) -> str:
    """Who gained and who paid, in words: `society alone: society gains +.31; user pays -.12`."""
    if all(isnan(gain.low) for gain in row.gains.values()):
        ordered = sorted(row.gains, key=lambda name: -abs(row.gains[name].mean))
        parts = [f"{name} {_signed(row.gains[name])}" for name in ordered[:MOST_NAMED]]
        return f"{row.name} against {first}: " + ("; ".join(parts) or "nobody's share is known")
    parts = []
    for names, does in ((row.gained(), "gain"), (row.paid(), "pay")):
        parts += [f"{name} {does}s {_signed(row.gains[name])}" for name in names[:MOST_NAMED]]
        if len(names) > MOST_NAMED:
            parts.append(f"{len(names) - MOST_NAMED} more {does} less than that")
    even = [name for name, gain in row.gains.items() if not gain.sign]
    if even:
        parts.append(f"{some(even, MOST_NAMED)}: no change shown")
    return f"{row.name} against {first}: " + "; ".join(parts)


def _items(console: Console, comparison: Comparison, limit: int) -> None:
    for name, diffs in comparison.changes.items():
        changed = [(diff.rbo, at) for at, diff in enumerate(diffs) if not diff.is_empty]
        if changed:
            at = min(changed)[1]
            title = f"{name}: request {diffs[at].request_id}, which changes most"
            print_diffs(console, [diffs[at]], limit=limit, texts=[comparison.texts[at]], title=title)


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    if isnan(interval.low):
        return _number(interval.mean)
    return f"{_number(interval.mean)} [{_number(interval.low)}, {_number(interval.high)}]"


def _number(figure: float) -> str:
    """Three decimals without a leading zero: `.956`, `-.031`."""
    text = f"{0.0 if abs(figure) < ENDS else figure:.3f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _signed(interval: Interval) -> str:
    return ("" if interval.mean < 0 else "+") + _cell(interval)
