"""The command `candidate-pipeline evaluate`."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from candidate_pipeline.cli.setup import print_json, quiet_logs
from candidate_pipeline.errors import RequestError
from candidate_pipeline.options import parse_duration
from candidate_pipeline.registry import installed
from candidate_pipeline_feed.evaluation.experiment import Settings, evaluate_pipeline
from candidate_pipeline_feed.evaluation.report import Report, print_report

WIDTH: Final = 132
"""Columns that the tables need; where standard output is no terminal, this is its width."""


class SplitChoice(StrEnum):
    """How targets are held out."""

    leave_last_out = "leave-last-out"
    time = "time"


class Format(StrEnum):
    """How the result is printed."""

    table = "table"
    json = "json"


def evaluate(
    data: Annotated[Path | None, typer.Option(help="The data directory. Default: the bundled world.")] = None,
    config: Annotated[Path, typer.Option(help="The spec.")] = Path("pipelines.toml"),
    pipeline: Annotated[str, typer.Option(help="The pipeline's name in the spec.")] = "for_you",
    split: Annotated[
        SplitChoice, typer.Option(help="Each person's last favourite, or what follows a moment of time.")
    ] = SplitChoice.leave_last_out,
    validation: Annotated[
        bool, typer.Option("--validation", help="Hold out the second last favourite (or cut earlier).")
    ] = False,
    users: Annotated[int | None, typer.Option(min=1, help="Evaluate that many people, drawn by the seed.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The source of all draws.")] = 0,
    recent_window: Annotated[
        str | None,
        typer.Option(help="What recent popularity counts: 30d (default; an eighth of the time span of short data)."),
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Override a value of the spec: components.age.max_age=7d.")
    ] = None,
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
    out: Annotated[Path | None, typer.Option(help="The results file. Default: results/DATA-PIPELINE-SPLIT.json.")] = (
        None
    ),
) -> None:
    """Measure a pipeline, its parts and plain baselines on held-out favourites.

    For each person the pipeline runs at the time of the target and knows only what came strictly before. The split is
    the one that `phoenix train` leaves out; models trained on another one are refused. Ctrl-C stops early and reports
    what is done.
    """
    quiet_logs()
    window = None if recent_window is None else parse_duration(recent_window)
    if recent_window is not None and not window:
        raise RequestError(f"--recent-window: wanted a duration such as 30d or 6h, found {recent_window!r}")
    settings = Settings(
        pipeline=pipeline,
        config=config,
        data=data,
        split=split.value,
        validation=validation,
        users=users,
        seed=seed,
        recent_window=window,
        sets=tuple(sets or ()),
    )
    with _Steps() as steps:
        report = evaluate_pipeline(settings, installed(), steps)
    file = default_file(report) if out is None else out
    try:
        report.write(file)
    except OSError as error:
        raise RequestError(f"--out {file}: the results cannot be written: {error}") from error
    if output is Format.json:
        print_json(report.as_dict())
    else:
        console = Console(highlight=False)
        print_report(console if console.is_terminal else Console(highlight=False, width=WIDTH), report)
        Console(stderr=True, highlight=False).print(f"wrote {file}", markup=False)
    if not report.about["evaluated"]["complete"]:
        raise typer.Exit(130)


def default_file(report: Report) -> Path:
    """Where results go: `results/DATA-PIPELINE-SPLIT.json` under the current directory."""
    about = report.about
    parts = [about["data"]["name"], about["pipeline"], about["split"]["name"]]
    if about["split"]["held_out"] != "test":
        parts.append(about["split"]["held_out"])
    if not about["evaluated"]["complete"]:
        parts.append("partial")  # so that it does not replace the results of a whole run
    return Path("results") / (re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-") + ".json")


class _Steps:
    """A progress bar on standard error for each step."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Steps:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show how far a step is."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done, total=total)
