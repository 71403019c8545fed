"""The command `candidate-pipeline stakeholder compare`."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from candidate_pipeline import Capture, Captures, load
from candidate_pipeline.app import Pipeline
from candidate_pipeline.cli.setup import print_json, quiet_logs
from candidate_pipeline.errors import CaptureError, DataError
from candidate_pipeline.what_if.capture import capture_paths
from candidate_pipeline_stakeholder.terminal import Format, Steps, output_console

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from candidate_pipeline_stakeholder.comparing import Comparison

MAX_CAPTURES: Final = 2000


def compare(
    mix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME:]A=1,B=.5",
            help="A mix of stakeholders, several times; the others are compared with the first. Default: the spec's, "
            "then each stakeholder alone.",
        ),
    ] = None,
    config: Annotated[Path, typer.Option(help="The spec.")] = Path("pipelines.toml"),
    data: Annotated[Path | None, typer.Option(help="The data directory. Default: the bundled world.")] = None,
    pipeline: Annotated[str, typer.Option(help="The pipeline, where no captures are given.")] = "for_you",
    captures: Annotated[
        Path | None, typer.Option(help="Recorded requests: a folder, or one file. Default: some are made.")
    ] = None,
    viewers: Annotated[int, typer.Option(min=1, max=MAX_CAPTURES, help="For so many people, drawn by the seed.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="The source of all draws.")] = 0,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Override a value of the spec: components.age.max_age=7d.")
    ] = None,
    scorer: Annotated[
        str | None, typer.Option(help="The stakeholder scorer's name, where the pipeline has several.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="How many items to draw of the request that changes most.")] = 3,
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
) -> None:
    """Rank requests under several mixes: what moved, who gained, who paid, and whom the responses expose.

    Requests are recorded, then replayed under each mix, so that nothing but the mix differs.
    """
    from candidate_pipeline_stakeholder.compare_table import print_comparison
    from candidate_pipeline_stakeholder.comparing import check_mixes, stakeholder_scorer
    from candidate_pipeline_stakeholder.comparing import compare as run_comparison
    from candidate_pipeline_stakeholder.viewers import draw_viewers

    quiet_logs()
    asked = parse_mixes(mix) if mix else None
    with tempfile.TemporaryDirectory() as work, Steps() as steps:
        requests = None if captures is None else _read(captures)
        # All mistakes are told before anything runs, for they are cheaper then.
        app = load(config, data=data, sets=sets or (), only=())
        _, component = stakeholder_scorer(app, requests[0].pipeline if requests else pipeline, scorer)
        mixes = default_mixes(component.mix, component.names) if asked is None else asked
        check_mixes(component, mixes)
        if requests is None:
            kept = Captures(Path(work), max_pending=viewers)
            recording = load(config, data=data, sets=sets or (), only=[pipeline], captures=kept)
            people = draw_viewers(recording, data, viewers, seed)
            with recording:
                record(recording[pipeline], people, seed, steps)
            requests = _read(Path(work))

        async def ranked() -> Comparison:
            async with app:
                return await run_comparison(
                    app, requests, mixes, scorer=scorer, progress=lambda done: steps("ranking", done, len(requests))
                )

        result = asyncio.run(ranked())
    if output is Format.json:
        print_json(result.as_dict())
    else:
        print_comparison(output_console(), result, limit)


def parse_mixes(texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Mixes by name from `user=1,society=.5` or `mine: user=1,society=.5`.

    Raises:
        DataError: A text is no mix, or two have one name.
    """
    from candidate_pipeline_stakeholder.mixing import parse_mix

    found: dict[str, dict[str, float]] = {}
    for text in texts:
        name, colon, rest = text.partition(":")
        called = name.strip() if colon else text.strip()
        if called in found:
            raise DataError(f"--mix: {called!r} is given twice; give each mix a name: --mix 'other: user=1'")
        found[called] = parse_mix(rest if colon else text)
    return found


def default_mixes(mix: Mapping[str, float], names: Sequence[str]) -> dict[str, Mapping[str, float]]:
    """The mix of the spec, then each stakeholder alone."""
    return {"as configured": mix} | {f"{name} alone": {name: 1.0} for name in names}


def record(pipeline: Pipeline, people: NDArray[np.int64], seed: int, progress: Callable[[str, int, int], None]) -> None:
    """Make one request for each of some people, recorded where the open application of the pipeline records."""
    from candidate_pipeline_feed.evaluation.runs import viewer_input

    name = viewer_input(pipeline)
    for done, person in enumerate(people):
        progress("recording", done, len(people))
        inputs: dict[str, Any] = {name: int(person)}
        pipeline.run_sync(seed=seed, request_id=f"viewer-{person}", capture=True, **inputs)
    progress("recording", len(people), len(people))


def _read(place: Path) -> list[Capture]:
    paths = capture_paths(place)
    if not paths:
        raise CaptureError(f"{place}: no captures; record some with Captures(folder), or run --capture")
    if len(paths) > MAX_CAPTURES:
        raise DataError(f"{place}: wanted at most {MAX_CAPTURES} captures, found {len(paths)}")
    return [Capture.read(path) for path in paths]
