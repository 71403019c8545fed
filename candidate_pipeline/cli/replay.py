"""`candidate-pipeline replay`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import attrs
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from candidate_pipeline.app import App, load
from candidate_pipeline.cli.pictures_diff import print_diffs, shown_texts
from candidate_pipeline.cli.pictures_swap import print_swap
from candidate_pipeline.cli.run import Format
from candidate_pipeline.cli.setup import console, print_json, quiet_logs
from candidate_pipeline.errors import CaptureError, MisconfigurationError, RequestError
from candidate_pipeline.what_if.answers import Live
from candidate_pipeline.what_if.capture import Capture, capture_paths
from candidate_pipeline.what_if.diff import Diff, diff
from candidate_pipeline.what_if.ranking import Ranking
from candidate_pipeline.what_if.replay import Replayed, Replayer
from candidate_pipeline.what_if.replay import replay as replay_capture
from candidate_pipeline.what_if.summary import ReplaySummary
from candidate_pipeline.what_if.swap import SwapResult, smallest_swap

#: Exit statuses: a request failed, and a mistake in what was given.
_FAILED: Final = 1
_MISTAKE: Final = 2
_INTERRUPTED: Final = 130


class LiveMode(StrEnum):
    """What becomes of components that the capture has no fitting answer of."""

    never = "never"
    changed = "changed"
    recorded = "recorded"


@attrs.frozen
class _Result:
    """One replayed capture."""

    path: Path
    capture: Capture
    outcome: Replayed
    difference: Diff
    identical: bool

    def as_dict(self) -> dict[str, Any]:
        return {
            "capture": str(self.path),
            "pipeline": self.capture.pipeline,
            "request_id": self.capture.request_id,
            "identical": self.identical,
            "live": list(self.outcome.live),
            "reused": list(self.outcome.reused),
            "notes": list(self.outcome.notes),
            "diff": self.difference.as_dict(),
        }


@attrs.define
class _Results:
    """What came of all captures so far."""

    done: list[_Result] = attrs.field(factory=list)
    refused: dict[str, str] = attrs.field(factory=dict)
    failed: dict[str, str] = attrs.field(factory=dict)
    interrupted: bool = False

    @property
    def status(self) -> int:
        if self.interrupted:
            return _INTERRUPTED
        if self.refused:
            return _MISTAKE
        return _FAILED if self.failed else 0


def replay(
    captures: Annotated[list[Path], typer.Argument(metavar="CAPTURE...", help="Captures, or folders of captures.")],
    config: Annotated[Path, typer.Option(help="The spec to rank by.")] = Path("pipelines.toml"),
    data: Annotated[Path | None, typer.Option(help="The data directory. Default: the bundled world.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Override a value: components.weighted.weights.reply=10.")
    ] = None,
    reuse: Annotated[
        list[str] | None,
        typer.Option(metavar="SCORER", help="Use a scorer's recorded columns instead of running it; repeatable."),
    ] = None,
    live: Annotated[
        LiveMode,
        typer.Option(
            help="What of query hydrators, sources and hydrators runs: none (else an error); those that changed, or "
            "are asked something else; or none, for what is recorded under their names counts."
        ),
    ] = LiveMode.changed,
    top: Annotated[int | None, typer.Option(min=1, help="Compare so many rows of the responses. Default: all.")] = None,
    swap: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Find the smallest change of one number after which two items swap."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many items or requests to print.")] = 20,
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
) -> None:
    """Rank captured requests again, by another spec or with other values, and show what moved and why.

    Query hydrators, sources and hydrators give the answers that were recorded; filters, scorers and selectors run. Of
    one capture every change is drawn with the terms behind it, of more a summary. Exit status 2 if a capture cannot be
    read, 1 if a request failed.
    """
    quiet_logs()
    paths = _paths(captures)
    app = load(config, data=data, sets=sets or (), only=())
    with app:
        if swap is not None:
            _swap(app, paths, swap, reuse or (), live.value, output, limit)
            return
        results = _replayed(app, paths, reuse or (), live.value, top, output)
    if output is Format.json:
        summary = ReplaySummary.of([each.difference for each in results.done])
        print_json(
            {
                "captures": [each.as_dict() for each in results.done],
                "refused": results.refused,
                "failed": results.failed,
                "interrupted": results.interrupted,
                "summary": summary.as_dict(),
            }
        )
    else:
        _print(console(), results, limit)
    if results.status:
        raise typer.Exit(results.status)


def _paths(given: Sequence[Path]) -> list[Path]:
    try:
        paths = [path for each in given for path in capture_paths(each)]
    except CaptureError as error:
        raise MisconfigurationError(str(error)) from error
    if not paths:
        raise MisconfigurationError(f"no captures in {', '.join(map(str, given))}; run ... --capture DIR makes some")
    return list(dict.fromkeys(paths))


def _replayed(
    app: App, paths: Sequence[Path], reuse: Sequence[str], live: Live, top: int | None, output: Format
) -> _Results:
    """Replay all captures, as far as one is let."""
    from rich.progress import Progress

    results = _Results()
    quiet = output is Format.json or len(paths) == 1
    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as progress:
        task = progress.add_task("replaying", total=len(paths))
        try:
            for path in paths:
                _replay_one(app, path, reuse, live, top, results)
                progress.advance(task)
        except KeyboardInterrupt:
            results.interrupted = True
    return results


def _replay_one(app: App, path: Path, reuse: Sequence[str], live: Live, top: int | None, results: _Results) -> None:
    try:
        capture = Capture.read(path)
        outcome: Replayed = app.run_coroutine(replay_capture(app, capture, reuse=reuse, live=live))
    except CaptureError as error:
        results.refused[str(path)] = str(error).removeprefix(f"{path}: ")
        return
    except RequestError as error:
        results.failed[str(path)] = str(error)
        return
    after = Ranking.of(outcome)
    difference = diff(capture.ranking, after, top)
    results.done.append(_Result(path, capture, outcome, difference, capture.ranking.identical(after)))


def _print(out: Console, results: _Results, limit: int) -> None:
    done = results.done
    if done:
        print_diffs(
            out,
            [each.difference for each in done],
            limit=limit,
            texts=[shown_texts(each.outcome) for each in done],
            title=f"replay of {done[0].capture.request_id}" if len(done) == 1 else "replay",
        )
        if len(done) == 1 and done[0].identical:
            out.print("the replay is the recorded ranking, to the last bit")
        if len(done) > 1 and (same := sum(each.identical for each in done)):
            out.print(f"{same} of {len(done)} replays are the recorded rankings, to the last bit")
        if len(done) > 1:
            _print_summary(out, ReplaySummary.of([each.difference for each in done]))
    live = dict.fromkeys(name for each in done for name in each.outcome.live)
    if live:
        out.print(f"ran live, for the captures have no fitting answer of theirs: {', '.join(live)}", style="yellow")
    for note in dict.fromkeys(note for each in done for note in each.outcome.notes):
        out.print(note, style="yellow", markup=False)
    for what, errors in (("cannot be replayed", results.refused), ("the request failed", results.failed)):
        for path, error in errors.items():
            out.print(f"{path}: {what}: {error}", style="red", markup=False)
    if results.interrupted:
        out.print(f"interrupted after {len(done)} captures", style="red")


def _print_summary(out: Console, summary: ReplaySummary) -> None:
    """Print what the drawing of many differences leaves out: the items that moved in most of them."""
    if summary.rescored:
        out.print(f"{summary.rescored} responses are the same with other scores")
    if not summary.items:
        return
    table = Table(title="most often moved", title_justify="left")
    for name in ("item", "requests", "came in", "fell out", "furthest"):
        table.add_column(name, justify="left" if name == "item" else "right")
    for item in summary.items:
        table.add_row(
            escape(item.name), str(item.requests), str(item.added), str(item.dropped), str(item.largest_move or "-")
        )
    out.print(table)


def _swap(
    app: App,
    paths: Sequence[Path],
    items: tuple[str, str],
    reuse: Sequence[str],
    live: Live,
    output: Format,
    limit: int,
) -> None:
    """Find and print the smallest change that swaps two items of one request."""
    if len(paths) != 1:
        raise MisconfigurationError(f"--swap: wanted one capture, found {len(paths)}")
    from rich.progress import Progress

    try:
        replayer = Replayer(app, Capture.read(paths[0]), reuse=reuse, live=live)
    except CaptureError as error:
        raise MisconfigurationError(str(error)) from error
    first, second = items
    with Progress(console=Console(stderr=True), transient=True, disable=output is Format.json) as progress:
        task = progress.add_task("searching", total=None)

        found: list[SwapResult] = []

        def told(result: SwapResult, count: int, total: int) -> None:
            found[:] = [result]
            progress.update(task, completed=count, total=total)

        status = 0
        quiet_logs(logging.ERROR)  # that a value is refused is part of the search
        try:
            found[:] = [app.run_coroutine(smallest_swap(replayer, first, second, progress=told))]
        except CaptureError as error:
            raise MisconfigurationError(str(error)) from error
        except KeyboardInterrupt:  # what was found up to then is worth printing
            if not found:
                raise
            status = _INTERRUPTED
        finally:
            quiet_logs()
    if output is Format.json:
        print_json(found[0].as_dict())
    else:
        print_swap(console(), found[0], limit=limit)
    if status:
        raise typer.Exit(status)
