"""The command `candidate-pipeline stakeholder pairs`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.table import Table

from candidate_pipeline.cli.setup import print_json, quiet_logs
from candidate_pipeline.errors import DataError, RequestError
from candidate_pipeline_stakeholder.encounters import Rules
from candidate_pipeline_stakeholder.pairs import NO_TIME, Pairs
from candidate_pipeline_stakeholder.terminal import (
    Finished,
    Format,
    Steps,
    check_free,
    duration_of,
    moment_of,
    names_of,
    output_console,
    read_pool,
    writing,
)
from candidate_pipeline_stakeholder.utilities import (
    NEGATIVE_ACTIONS,
    POSITIVE,
    Utilities,
    declared,
    stakeholder_problem,
)

LABEL: Final = "label"
ACTIONS: Final = "actions"


class Origin(StrEnum):
    """Where preferences come from."""

    events = "events"
    utilities = "utilities"


def pairs(
    out: Annotated[Path, typer.Option("--out", help="The file to write, Parquet.")],
    origin: Annotated[
        Origin, typer.Option("--from", help="What people did, or what stakeholders of given utilities would say.")
    ] = Origin.events,
    data: Annotated[Path | None, typer.Option(help="The data directory. Default: the bundled world.")] = None,
    config: Annotated[Path, typer.Option(help="The spec.")] = Path("pipelines.toml"),
    pipeline: Annotated[str, typer.Option(help="The pipeline whose ranker describes the posts.")] = "for_you",
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Override a value of the spec: components.age.max_age=7d.")
    ] = None,
    count: Annotated[int, typer.Option("--pairs", min=1, help="Pairs (of each stakeholder) at most.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="The source of all draws.")] = 0,
    features: Annotated[
        str | None, typer.Option(help="Predicted actions to take: favorite,reply. Default: all probabilities.")
    ] = None,
    stakeholder: Annotated[str, typer.Option(help="From events: whose preferences these are called.")] = "user",
    positive: Annotated[
        str | None, typer.Option(help=f"From events: what says more of this. Default: {','.join(POSITIVE)}.")
    ] = None,
    negative: Annotated[
        str | None, typer.Option(help=f"From events: what says less of this. Default: {','.join(NEGATIVE_ACTIONS)}.")
    ] = None,
    impressions: Annotated[
        bool, typer.Option(help="From events: whether a post that was only shown counts as passed over.")
    ] = True,
    window: Annotated[str, typer.Option(help="From events: how far apart two compared posts may be met.")] = "10m",
    min_history: Annotated[
        int, typer.Option(min=0, help="From events: how many events a person must have before.")
    ] = 1,
    per_window: Annotated[int, typer.Option(min=1, help="From events: pairs of one sitting at most.")] = 8,
    since: Annotated[str | None, typer.Option(help="From events: from this time on. Default: all.")] = None,
    until: Annotated[str | None, typer.Option(help="From events: before this time. Default: all.")] = None,
    utilities: Annotated[
        str,
        typer.Option(
            metavar="FILE|label|actions",
            help="From utilities: a utilities file, or a family of declared ones (user, platform, society).",
        ),
    ] = LABEL,
    only: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="From utilities: of these stakeholders. Default: of all.")
    ] = None,
    pool: Annotated[
        Path | None,
        typer.Option(help="From utilities: captures, or a pool as Parquet. Default: the pipeline runs."),
    ] = None,
    viewers: Annotated[int, typer.Option(min=1, help="From utilities: for so many people, drawn by the seed.")] = 20,
    added: Annotated[float, typer.Option(min=0, help="From utilities: normal noise on the difference.")] = 0.0,
    tie: Annotated[
        float | None, typer.Option(min=0, help="From utilities: differences up to this are ties. Default: no ties.")
    ] = None,
    sharpness: Annotated[
        float | None,
        typer.Option(min=0, help="From utilities: steepness of a Bradley-Terry judge. Default: the better one."),
    ] = None,
    flip: Annotated[float, typer.Option(min=0, max=1, help="From utilities: share of wrong labels.")] = 0.0,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
) -> None:
    """Make a table of preferences: of two posts, which one somebody prefers.

    From events: of two posts that a person met in one sitting, one with a positive action is preferred to one with a
    negative action, or to one that was only shown. Each is described by what the ranker would have predicted for that
    person then, from what came strictly before. From utilities: pairs of a pool's posts, judged by declared or learned
    utilities, with noise. Ctrl-C stops early and writes what is done.
    """
    from candidate_pipeline_stakeholder.pairs_file import write_pairs

    quiet_logs()
    check_free("--out", out, force)
    if told := stakeholder_problem(stakeholder):
        raise RequestError(f"--stakeholder: {told}")
    wanted = names_of(features)
    if origin is Origin.events:
        rules = Rules(
            positive=names_of(positive) or POSITIVE,
            negative=NEGATIVE_ACTIONS if negative is None else names_of(negative) or (),
            impressions=impressions,
            window=duration_of("--window", window),
            min_history=min_history,
            per_window=per_window,
            since=moment_of("--since", since),
            until=moment_of("--until", until),
        )
        made, about, complete = _from_events(
            rules, data, config, pipeline, tuple(sets or ()), count, wanted, stakeholder, seed
        )
    else:
        from candidate_pipeline_stakeholder.generating import Noise

        noise = Noise(added=added, tie=tie, sharpness=sharpness, flip=flip)
        made, about, complete = _from_utilities(
            _utilities(utilities, names_of(only)),
            noise,
            pool,
            data,
            config,
            pipeline,
            sets or [],
            viewers,
            count,
            wanted,
            seed,
        )
    with writing("--out", out):
        write_pairs(out, made)
    _print(out, made, about, complete, output)
    if not complete:
        raise typer.Exit(130)


def _from_events(
    rules: Rules,
    data: Path | None,
    config: Path,
    pipeline: str,
    sets: tuple[str, ...],
    count: int,
    features: tuple[str, ...] | None,
    stakeholder: str,
    seed: int,
) -> tuple[Pairs, dict[str, Any], bool]:
    from candidate_pipeline.registry import installed
    from candidate_pipeline_stakeholder.logged import Settings, pairs_from_events

    with Steps() as steps:
        found = pairs_from_events(
            Settings(data, config, pipeline, sets),
            installed(),
            rules=rules,
            limit=count,
            features=features,
            stakeholder=stakeholder,
            seed=seed,
            track=steps.track,
        )
    about = {
        "from": "events",
        "requests": found.requests,
        "windows_with_a_preference": found.windows,
        "people": len(found.pairs.raters),
        "over_a_negative_action": found.over_negative,
        "over_an_impression_only": len(found.pairs) - found.over_negative,
        "left_out_without_predictions": found.left_out,
        "notes": [f"{often} requests: {trouble}" for trouble, often in found.troubles.most_common()],
    }
    return found.pairs, about, found.complete


def _utilities(named: str, only: tuple[str, ...] | None) -> Utilities:
    """A family of declared utilities or those of a file, of some stakeholders or all."""
    found = declared(named) if named in {LABEL, ACTIONS} else Utilities.read(named)
    return found.only(only) if only else found


def _from_utilities(
    utilities: Utilities,
    noise: Any,
    place: Path | None,
    data: Path | None,
    config: Path,
    pipeline: str,
    sets: list[str],
    viewers: int,
    count: int,
    features: tuple[str, ...] | None,
    seed: int,
) -> tuple[Pairs, dict[str, Any], bool]:
    from candidate_pipeline_stakeholder.generating import Noise, generate

    finished = True
    if place is not None:
        pool = read_pool(place)
        if missing := [name for name in features or () if name not in pool.features]:
            raise DataError(f"--pool {place}: it has no {', '.join(missing)}, only {', '.join(pool.features)}")
        pool = pool if features is None else pool.select(features)
    else:
        from candidate_pipeline import load
        from candidate_pipeline.registry import installed
        from candidate_pipeline_stakeholder.collecting import collect
        from candidate_pipeline_stakeholder.viewers import draw_viewers

        app = load(config, data=data, sets=sets, only=[pipeline], registry=installed())
        people = draw_viewers(app, data, viewers, seed)
        with app, Steps() as steps:
            seen = Finished(steps.track)
            pool = collect(app[pipeline], people.tolist(), seed, features=features, track=seen)
        finished = seen.finished
    made = generate(utilities, pool, count, noise=noise, seed=seed)
    notes = []
    for name, row in zip(utilities.names, utilities.weights, strict=True):
        lost = [
            each for each, weight in zip(utilities.features, row, strict=True) if weight and each not in pool.features
        ]
        if lost:
            notes.append(f"{name} also values {', '.join(lost)}, which nothing predicts here: left out")
    if noise == Noise():
        notes.append(
            "answers without noise contradict nothing, so there are no most likely weights: learn with --l2 0.001"
        )
    about = {
        "from": "utilities",
        "requests": pool.request_count,
        "items": len(pool),
        "notes": notes,
    }
    return made, about, finished


def _print(out: Path, made: Pairs, about: dict[str, Any], complete: bool, output: Format) -> None:
    times = made.time[made.time != NO_TIME]
    counts = {
        name: {
            "pairs": int(np.count_nonzero(made.stakeholder == number)),
            "ties": int(np.count_nonzero((made.stakeholder == number) & (made.outcome == 0))),
        }
        for number, name in enumerate(made.stakeholders)
    }
    if output is Format.json:
        first, last = (
            (str(np.datetime64(int(at), "ms")) + "Z" for at in (times.min(), times.max())) if len(times) else ("", "")
        )
        spans = {"first": first, "last": last} if len(times) else None
        print_json(
            {
                "out": str(out),
                **about,
                "complete": complete,
                "features": list(made.features),
                "stakeholders": counts,
                "time": spans,
            }
        )
        return
    shown = output_console()
    table = Table("stakeholder", box=None, pad_edge=False)
    table.add_column("pairs", justify="right")
    table.add_column("ties", justify="right")
    for name, row in counts.items():
        table.add_row(name, f"{row['pairs']:,}", f"{row['ties']:,}")
    shown.print(table)
    told = {key: value for key, value in about.items() if key not in {"from", "notes"}}
    lines = [f"{key.replace('_', ' ')}: {value:,}" for key, value in told.items()]
    lines.append(f"features: {', '.join(made.features)}")
    if not complete:
        lines.append("interrupted: this is what was done until then")
    lines += [f"note: {line}" for line in about["notes"]]
    lines += [f"wrote {out}", f"Next: candidate-pipeline stakeholder learn {out}"]
    for line in lines:
        shown.print(line, markup=False, soft_wrap=True)
