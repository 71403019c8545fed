"""`candidate-pipeline run`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from candidate_pipeline.app import load
from candidate_pipeline.cli.inputs import parse_inputs
from candidate_pipeline.cli.render import print_explanation, print_outcome, print_reports
from candidate_pipeline.cli.setup import console, print_json, quiet_logs
from candidate_pipeline.components import ReportValue
from candidate_pipeline.errors import RequestError
from candidate_pipeline.explain import Explanation
from candidate_pipeline.outcome import Outcome
from candidate_pipeline.what_if.capture import Captures


class Format(StrEnum):
    """How a result is printed."""

    table = "table"
    json = "json"


class TraceSchema(StrEnum):
    """How a trace is written as JSON."""

    own = "own"
    upstream = "upstream"


def run(
    ctx: typer.Context,
    pipeline: Annotated[str, typer.Argument(help="The pipeline's name in the spec.")],
    config: Annotated[Path, typer.Option(help="The spec.")] = Path("pipelines.toml"),
    data: Annotated[Path | None, typer.Option(help="The data directory. Default: the bundled world.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Override a value: components.age.max_age=7d.")
    ] = None,
    now: Annotated[str | None, typer.Option(help="The request's clock, RFC 3339. Default: the data's.")] = None,
    seed: Annotated[int, typer.Option(help="The source of all randomness.")] = 0,
    explain: Annotated[list[str] | None, typer.Option(help="Explain an item, by id or text id.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many rows to print.")] = 20,
    repeat: Annotated[
        int, typer.Option(min=1, help="Serve the request so many times and print the last answer and all times.")
    ] = 1,
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
    capture: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Record the request in this folder, for `replay`.")
    ] = None,
    trace: Annotated[
        TraceSchema, typer.Option(help="How JSON tells what happened: upstream is the published PipelineTrace.")
    ] = TraceSchema.own,
) -> None:
    """Run a pipeline and print its ranked rows, what each component did and what resources say about themselves.

    The pipeline's inputs are options too: `candidate-pipeline run for_you --viewer 42`. One that is a table is
    written `--mix user=0.5,society=0.5`, or as JSON.
    """
    quiet_logs()
    with _loading(output, f"loading {pipeline}"):
        captures = None if capture is None else Captures(capture)
        app = load(config, data=data, sets=sets or (), only=[pipeline], captures=captures)
        target = app[pipeline]
        inputs = parse_inputs(ctx.args, target)
        clock = _clock(now)
        app.__enter__()
    try:
        with _loading(output, f"running {pipeline}"):
            outcome = target.run_sync(now=clock, seed=seed, capture=capture is not None, **inputs)
            times = [outcome.elapsed_ms]
            while len(times) < repeat:
                outcome = target.run_sync(now=outcome.query.now, seed=seed, **inputs)
                times.append(outcome.elapsed_ms)
        reports = app.reports()
        recorded = None if app.captures is None else app.captures.last
    finally:
        app.__exit__(None, None, None)
    explanations = []
    for item in explain or ():
        try:
            explanations.append(outcome.explain(item))
        except KeyError as error:
            raise RequestError(error.args[0]) from None
    if output is Format.json:
        result = {**outcome.to_dict(), "runs_ms": [round(time, 3) for time in times], "reports": reports}
        if trace is TraceSchema.upstream:
            result["trace"] = outcome.trace.as_upstream()
        if capture is not None:
            result["capture"] = None if recorded is None else str(recorded)
        if explain:
            result["explanations"] = [explanation.as_dict() for explanation in explanations]
        print_json(result)
    else:
        _print(outcome, explanations, times, reports, limit)
        if recorded is not None:
            console().print(f"recorded in {recorded}", markup=False)
    if capture is not None and recorded is None:
        raise RequestError(f"the request was answered, but not recorded in {capture}: the warning above says why")


def _print(
    outcome: Outcome,
    explanations: Sequence[Explanation],
    times: Sequence[float],
    reports: Mapping[str, Mapping[str, ReportValue]],
    limit: int,
) -> None:
    repeat = len(times)
    if not explanations:
        print_outcome(console(), outcome, limit)
        print_reports(console(), reports)
    if repeat > 1:
        console().print(f"served {repeat} times: {', '.join(f'{time:.0f}' for time in times)} ms")
    for explanation in explanations:
        print_explanation(console(), explanation)


# Options that are not the command's own are the pipeline's inputs.
run.context_settings = {"allow_extra_args": True, "ignore_unknown_options": True}  # type: ignore[attr-defined]  # read by LazyCommand


class _loading:  # noqa: N801 - used like a function
    """A spinner on standard error while something takes time."""

    def __init__(self, output: Format, text: str) -> None:
        from rich.console import Console

        self._status = Console(stderr=True, quiet=output is Format.json).status(text)

    def __enter__(self) -> None:
        self._status.start()

    def __exit__(self, *_: object) -> None:
        self._status.stop()


def _clock(text: str | None) -> dt.datetime | None:
    if text is None:
        return None
    try:
        clock = dt.datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(f"--now: wanted a time such as 2026-05-01T12:00:00Z, found {text!r}") from None
    return clock if clock.tzinfo is not None else clock.replace(tzinfo=dt.UTC)
