"""The command `phoenix train`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import attrs
import typer
from rich.console import Console

from candidate_pipeline.errors import DataError

if TYPE_CHECKING:
    from candidate_pipeline_feed.evaluation.splits import Split
    from candidate_pipeline_feed.store import FeedTables
    from phoenix_recsys.training import Recipe

EVERYTHING: Final = "none"
"""The name of the split that holds nothing out."""
_OURS: Final = frozenset({"retrieval", "ranker", "retrieval-int8", "ranker-int8", "training.json", "checkpoints"})
_DATA_HELP: Final = "The data directory to learn from; default: the bundled world, which needs --out."
_OUT_HELP: Final = "Where the models go; default: models/ of the data directory."


def train(
    data: Annotated[Path | None, typer.Option("--data", metavar="DIR", help=_DATA_HELP)] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help=_OUT_HELP)] = None,
    split: Annotated[
        str,
        typer.Option("--split", help="What is held out for `evaluate`: leave-last-out, time, or none for nothing."),
    ] = "leave-last-out",
    validation: Annotated[
        bool, typer.Option("--validation", help="Hold out an earlier part, to choose settings by.")
    ] = False,
    preset: Annotated[
        str, typer.Option("--preset", help="Settings of the training: ml-100k, world, or auto to go by the data.")
    ] = "auto",
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Passes over the data, instead of the preset's.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on where an interrupted run of this training stopped.")
    ] = True,
    half: Annotated[bool, typer.Option("--half", help="Store embedding tables as float16, in half the space.")] = False,
) -> None:
    """Train retrieval and the ranker on a data directory.

    Both models are replaced together when everything has worked; an interrupted run leaves the old ones in place.
    """
    from candidate_pipeline_feed.datadir import DataDirectory, bundled_world
    from candidate_pipeline_feed.evaluation.splits import TRAINING_FILE, make_split
    from candidate_pipeline_feed.store import FeedTables

    directory = bundled_world() if data is None else data
    if out is None and directory.resolve() == bundled_world().resolve():
        raise DataError(
            "the bundled world is part of the installed package, so its models are not written there by default. "
            "Give --data DIR (make one with `candidate-pipeline data fetch` or `data world`), or --out DIR"
        )
    models = directory / "models" if out is None else out
    _check_destination(models)
    console = Console(stderr=True)
    tables = FeedTables(directory)
    tables.open()
    held_out = None if split == EVERYTHING else make_split(tables.events, split, validation=validation)
    name = DataDirectory(directory).info().name
    console.print(f"{name}: {'everything, nothing is held out' if held_out is None else held_out.info}", markup=False)

    work = models.with_name(f".{models.name}.training")
    record = _train(tables, held_out, work, recipe_for(tables, preset, epochs, seed), resume, half, console)
    kept = _without_timings(record) | {
        "dataset": name,
        "split": None if held_out is None else held_out.info.as_dict(),
    }
    (work / TRAINING_FILE).write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    _place(work, models)
    for stage in ("retrieval", "ranker"):
        losses = record[stage]["losses"]
        console.print(f"{stage}: loss {losses[0]:.4f} → {losses[-1]:.4f} in {record[stage]['seconds']:.0f} s")
    console.print(f"heads: {', '.join(record['served_heads'])}", markup=False)
    Console().print(f"Wrote {models}", markup=False, highlight=False, soft_wrap=True)


def recipe_for(data: FeedTables, preset: str, epochs: int | None, seed: int) -> Recipe:
    """The settings of a preset; "auto" takes the one for logged impressions where the data has any.

    Raises:
        DataError: There is no such preset.
    """
    from phoenix_recsys.training import recipe as recipes

    presets = {found.name: found for found in vars(recipes).values() if isinstance(found, recipes.Recipe)}
    if preset == "auto":
        logged = not data.events.actions.any(axis=1).all()
        preset = "world" if logged and "world" in presets else "ml-100k"
    if preset not in presets:
        raise DataError(f"--preset: there is no {preset!r}; there are auto, {', '.join(presets)}")
    recipe = attrs.evolve(presets[preset], seed=seed)
    if epochs is None:
        return recipe
    return attrs.evolve(
        recipe,
        retrieval=attrs.evolve(recipe.retrieval, epochs=epochs),
        ranker=attrs.evolve(recipe.ranker, epochs=epochs),
    )


def _train(
    tables: FeedTables,
    split: Split | None,
    work: Path,
    recipe: Recipe,
    resume: bool,
    half: bool,
    console: Console,
) -> dict[str, Any]:
    from candidate_pipeline_phoenix.interactions import training_interactions
    from phoenix_recsys.errors import PhoenixError
    from phoenix_recsys.training import TrainingInterrupted, train_phoenix

    try:
        report = train_phoenix(
            training_interactions(tables, split),
            work,
            recipe,
            resume=resume,
            console=console,
            table_dtype="float16" if half else "float32",
        )
    except PhoenixError as error:
        raise DataError(
            f"{error} (`--no-resume` starts over)" if (work / "checkpoints").exists() else str(error)
        ) from error
    except TrainingInterrupted as stopped:
        console.print(f"\n{stopped}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    return dict(report.record)


def _without_timings(record: dict[str, Any]) -> dict[str, Any]:
    """A record that is the same whenever the training is: how long it took, and in how many goes, is left out."""
    timings = {"seconds", "resumed_at"}
    return {
        key: _without_timings(value) if isinstance(value, dict) else value
        for key, value in record.items()
        if key not in timings
    }


def _check_destination(models: Path) -> None:
    if models.is_symlink() or (models.exists() and not models.is_dir()):
        raise DataError(f"{models}: wanted a directory for models, found something else; choose another with --out")
    others = sorted({entry.name for entry in models.iterdir()} - _OURS) if models.is_dir() else []
    if others:
        raise DataError(
            f"{models}: holds {others[0]}, which is no part of the models, and the directory is replaced as a whole; "
            "choose another with --out"
        )


def _place(made: Path, models: Path) -> None:
    """Put a finished directory in the place of the old one, which comes back if that fails."""
    old = models.with_name(f".{models.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if models.exists():
        models.rename(old)
    try:
        made.rename(models)
    except BaseException:
        if old.exists():
            old.rename(models)
        raise
    shutil.rmtree(old, ignore_errors=True)
