"""What an evaluation found: rows with intervals, paired differences, and what beats the pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from candidate_pipeline_feed.evaluation.bootstrap import Bootstrap, Interval
from candidate_pipeline_feed.evaluation.metrics import METRICS, NOT_FOUND, metric_table
from candidate_pipeline_feed.evaluation.runs import (
    PIPELINE,
    RANKER,
    RANKER_RETRIEVED,
    RETRIEVAL,
    RETRIEVAL_POPULARITY,
)

Float64 = NDArray[np.float64]

OTHER_PAIRS: Final[tuple[tuple[str, str], ...]] = (
    (RANKER, "popularity"),
    (RANKER_RETRIEVED, "popularity"),
    (RANKER_RETRIEVED, RETRIEVAL),
    (RETRIEVAL, "popularity"),
    (RETRIEVAL, "EASE with decay"),
    (RETRIEVAL_POPULARITY, "popularity"),
    (RETRIEVAL_POPULARITY, "EASE with decay"),
)
"""Paired differences that are shown beside the pipeline's with every other row."""


@attrs.frozen
class Row:
    """One ranking method.

    Args:
        name: What it is.
        kind: "pipeline" (it or a part of it) or "baseline".
        metrics: Mean and interval by metric.
        found: Share of targets that its ranking holds at all.
    """

    name: str
    kind: str
    metrics: Mapping[str, Interval]
    found: float


@attrs.frozen
class Difference:
    """One method minus another, for the same targets.

    Args:
        first: A row's name.
        second: The name of the row that is subtracted.
        metrics: Mean difference and interval by metric.
    """

    first: str
    second: str
    metrics: Mapping[str, Interval]


@attrs.frozen
class Report:
    """An evaluation.

    Args:
        about: What was evaluated, on what and with what, as plain data.
        rows: The methods.
        differences: Paired differences.
        notes: What the reader has to know, such as components that failed.
    """

    about: Mapping[str, Any]
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    def better_than_pipeline(self, metric: str) -> tuple[list[str], list[str]]:
        """The rows that beat the pipeline, and those that are level with it, by the sign of the paired interval."""
        ahead = [entry for entry in self.differences if entry.first == PIPELINE]
        beats = [entry.second for entry in ahead if entry.metrics[metric].sign < 0]
        return beats, [entry.second for entry in ahead if entry.metrics[metric].sign == 0]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        verdict = {metric: self.better_than_pipeline(metric) for metric in METRICS}
        return {
            **self.about,
            "rows": [attrs.asdict(row) for row in self.rows],
            "differences": [attrs.asdict(difference) for difference in self.differences],
            "beats_the_pipeline": {metric: beats for metric, (beats, _level) in verdict.items()},
            "level_with_the_pipeline": {metric: level for metric, (_beats, level) in verdict.items()},
            "notes": list(self.notes),
        }

    def write(self, file: Path) -> None:
        """Write the report as JSON.

        Raises:
            OSError: The file cannot be written.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def build_report(
    parts: Mapping[str, Float64],
    baselines: Mapping[str, Float64],
    users: NDArray[np.int64],
    *,
    seed: int,
    about: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> Report:
    """Turn ranks into a report.

    Args:
        parts: Ranks of the targets by method, for the pipeline and its parts, float64 [n] each.
        baselines: The same for baselines.
        users: Whose each target is, int64 [n].
        seed: The source of the bootstrap's draws.
        about: What was evaluated.
        notes: What the reader has to know.
    """
    bootstrap = Bootstrap(users, seed)
    tables = {name: metric_table(ranks) for name, ranks in (*parts.items(), *baselines.items())}

    def intervals(values: Float64) -> dict[str, Interval]:
        return {metric: bootstrap.interval(values[:, at]) for at, metric in enumerate(METRICS)}

    rows = tuple(
        Row(name, kind, intervals(tables[name]), float(np.mean(ranks < NOT_FOUND)))
        for kind, group in (("pipeline", parts), ("baseline", baselines))
        for name, ranks in group.items()
    )
    pairs = [(PIPELINE, name) for name in (*baselines, *parts) if name != PIPELINE]
    pairs += [pair for pair in OTHER_PAIRS if pair[0] in tables and pair[1] in tables]
    differences = tuple(Difference(first, second, intervals(tables[first] - tables[second])) for first, second in pairs)
    return Report(about, rows, differences, tuple(notes))


def print_report(console: Console, report: Report) -> None:
    """Print a report as tables."""
    table = Table(title=str(report.about.get("title", "")), title_justify="left", expand=False)
    table.add_column("method")
    for metric in METRICS:
        table.add_column(metric, justify="right", no_wrap=True)
    kind = report.rows[0].kind if report.rows else ""
    for row in report.rows:
        if row.kind != kind:
            table.add_section()
            kind = row.kind
        style = "bold" if row.name == PIPELINE else ""
        table.add_row(row.name, *(_figure(row.metrics[metric]) for metric in METRICS), style=style)
    console.print(table)

    shown = METRICS[:3]
    table = Table(title="paired differences", title_justify="left", expand=False)
    table.add_column("difference")
    for metric in shown:
        table.add_column(metric, justify="right", no_wrap=True)
    for entry in report.differences:
        table.add_row(f"{entry.first} − {entry.second}", *(_signed(entry.metrics[metric]) for metric in shown))
    console.print(table)
    for metric in METRICS[:2]:
        beats, level = report.better_than_pipeline(metric)
        line = f"{metric}: above the pipeline: {', '.join(beats) or 'nothing'}; level: {', '.join(level) or 'nothing'}"
        console.print(Text(line))
    console.print(Text("[…]: 95% bootstrap intervals over people; above or level: by the paired interval."))
    for note in report.notes:
        console.print(Text(f"note: {note}", style="yellow"))


def _number(value: float, sign: str = "") -> str:
    """A figure to four places without its leading zero: `.0468`, `+.0605`."""
    text = f"{value:{sign}.4f}"
    return text.replace("0.", ".", 1) if abs(value) < 0.99995 else text


def _figure(interval: Interval) -> str:
    return f"{_number(interval.mean)} [{_number(interval.low)}, {_number(interval.high)}]"


def _signed(interval: Interval) -> str:
    mean, low, high = (_number(value, "+") for value in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"
