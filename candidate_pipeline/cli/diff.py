"""`candidate-pipeline diff`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import attrs
import typer
from rich.console import Console

from candidate_pipeline.app import App, load
from candidate_pipeline.cli.pictures_diff import print_diffs, shown_texts
from candidate_pipeline.cli.replay import LiveMode
from candidate_pipeline.cli.run import Format
from candidate_pipeline.cli.setup import console, print_json, quiet_logs
from candidate_pipeline.errors import CaptureError, MisconfigurationError, RequestError
from candidate_pipeline.what_if.answers import Live
from candidate_pipeline.what_if.capture import Capture, capture_paths
from candidate_pipeline.what_if.diff import Diff
from candidate_pipeline.what_if.diff import diff as compare
from candidate_pipeline.what_if.ranking import Ranking
from candidate_pipeline.what_if.replay import Replayer


def diff(
    before: Annotated[Path, typer.Argument(help="A spec.", show_default=False)],
    captures: Annotated[Path, typer.Option(help="Recorded requests: a folder, or one file.", show_default=False)],
    after: Annotated[Path | None, typer.Argument(help="Another spec. Default: the first one.")] = None,
    data: Annotated[Path | None, typer.Option(help="The data directory. Default: the bundled world.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Override a value of the second spec: components.x.weight=2.")
    ] = None,
    reuse: Annotated[
        list[str] | None,
        typer.Option(metavar="SCORER", help="Use a scorer's recorded columns instead of running it; repeatable."),
    ] = None,
    live: Annotated[
        LiveMode,
        typer.Option(help="What of query hydrators, sources and hydrators runs where no recorded answer fits."),
    ] = LiveMode.changed,
    top: Annotated[int | None, typer.Option(min=1, help="Compare so many rows of the responses. Default: all.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many items, or requests, to draw.")] = 20,
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
) -> None:
    """Rank recorded requests under two specs and show what moved, and which terms moved it.

    `candidate-pipeline diff old.toml new.toml --captures captures`, or with one spec and what `--set` changes of it.
    """
    quiet_logs()
    if after is None and not sets:
        raise MisconfigurationError("nothing to compare with: name a second spec, or change the first with --set")
    other = before if after is None else after
    with Console(stderr=True, quiet=output is Format.json).status("ranking the captures again"):
        paths = capture_paths(captures)
        if not paths:
            raise CaptureError(f"{captures}: no captures; record some with Captures(folder), or run --capture")
        one = load(before, data=data, only=())
        two = load(other, data=data, sets=sets or (), only=())
        answers = asyncio.run(_compared(one, two, paths, _Way(tuple(reuse or ()), live.value, top)))
    diffs = [answer.diff for answer in answers if answer.diff is not None]
    failures = [answer for answer in answers if answer.diff is None]
    title = f"before: {before}; after: {other}" + "".join(f" --set {each}" for each in sets or ())
    if output is Format.json:
        result = [
            {"capture": str(answer.path), "request_id": answer.request_id, "error": answer.error}
            if answer.diff is None
            else {"capture": str(answer.path), **answer.diff.as_dict()}
            for answer in answers
        ]
        print_json({"before": str(before), "after": str(other), "sets": sets or [], "requests": result})
    elif diffs:
        texts = [answer.texts for answer in answers if answer.diff is not None]
        print_diffs(console(), diffs, limit=limit, texts=texts, title=title)
        anew = dict.fromkeys(name for answer in answers for name in answer.live)
        if anew:
            console().print(f"ran live, for the captures have no fitting answer of theirs: {', '.join(anew)}")
    if failures:
        first = failures[0]
        raise RequestError(
            f"{len(failures)} of {len(answers)} captures could not be ranked again; {first.path}: {first.error}"
        )


@attrs.frozen
class _Answer:
    """What came of one capture."""

    path: Path
    request_id: str | None = None
    diff: Diff | None = None
    texts: dict[int, str] = attrs.field(factory=dict)
    live: tuple[str, ...] = ()
    error: str = ""


@attrs.frozen
class _Way:
    """How captures are replayed and compared."""

    reuse: tuple[str, ...]
    live: Live
    top: int | None


async def _compared(one: App, two: App, paths: Sequence[Path], way: _Way) -> list[_Answer]:
    async with one, two:
        return [await _answer(one, two, path, way) for path in paths]


async def _answer(one: App, two: App, path: Path, way: _Way) -> _Answer:
    """What came of a capture; one that cannot be read or ranked does not keep the others from being compared."""
    request_id = None
    try:
        capture = Capture.read(path)
        request_id = capture.request_id
        left = await Replayer(one, capture, reuse=way.reuse, live=way.live).run()
        right = await Replayer(two, capture, reuse=way.reuse, live=way.live).run()
    except (CaptureError, RequestError) as error:
        return _Answer(path, request_id, error=str(error).removeprefix(f"{path}: "))
    return _Answer(
        path,
        request_id,
        compare(Ranking.of(left), Ranking.of(right), way.top),
        shown_texts(left) | shown_texts(right),
        (*left.live, *right.live),
    )
