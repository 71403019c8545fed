"""The command `phoenix quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from candidate_pipeline.errors import DataError

SUFFIX: Final = "-int8"
_SOURCE_HELP: Final = "One model's directory; default: retrieval and ranker of the data directory."
_TARGET_HELP: Final = "Where its int8 version goes; default: SOURCE with -int8 behind its name."
_DATA_HELP: Final = "The data directory whose models are quantised; default: the bundled world, which needs --out."
_OUT_HELP: Final = "Where ranker-int8 and retrieval-int8 go; default: models/ of the data directory."


def quantize(
    source: Annotated[Path | None, typer.Argument(metavar="SOURCE", help=_SOURCE_HELP)] = None,
    target: Annotated[Path | None, typer.Argument(metavar="TARGET", help=_TARGET_HELP)] = None,
    data: Annotated[Path | None, typer.Option("--data", metavar="DIR", help=_DATA_HELP)] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help=_OUT_HELP)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace older int8 versions.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the result once more and compare its checksums.")
    ] = False,
) -> None:
    """Write the int8 version of trained models: about a quarter of the bytes, mapped from the disk when served.

    Each appears whole or not at all. Give the new directory to a model's option `path` to serve it.
    """
    from phoenix_recsys.errors import PhoenixError
    from phoenix_recsys.quantize import INTERRUPTED, quantize_with_progress

    console = Console(stderr=True)
    for model, place in _models(source, target, data, out):
        try:
            quantize_with_progress(model, place, console, overwrite=overwrite, verify=verify)
        except (PhoenixError, OSError) as error:
            raise DataError(str(error)) from error
        except KeyboardInterrupt:
            console.print(f"\nInterrupted; {place} was not written.", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(INTERRUPTED) from None
        Console().print(f"Wrote {place}", markup=False, highlight=False, soft_wrap=True)


def _models(source: Path | None, target: Path | None, data: Path | None, out: Path | None) -> list[tuple[Path, Path]]:
    """Which models to quantise, and where each goes."""
    from candidate_pipeline_feed.datadir import DataDirectory, bundled_world

    if source is not None:
        if data is not None or out is not None:
            raise DataError("give either SOURCE (and TARGET), or --data (and --out), not both")
        named = source if source.name else source.resolve()
        return [(source, named.with_name(f"{named.name}{SUFFIX}") if target is None else target)]
    directory = bundled_world() if data is None else data
    if out is None and directory.resolve() == bundled_world().resolve():
        raise DataError(
            "the bundled world is part of the installed package, so nothing is written there by default. "
            "Give --data DIR, or --out DIR"
        )
    found = DataDirectory(directory)
    models = [path for path in (found.retrieval_model, found.ranker_model) if path.is_dir()]
    if not models:
        raise DataError(
            f"{found.models}: wanted trained models, found none. "
            f"Train them with: candidate-pipeline phoenix train --data {directory}"
        )
    places = found.models if out is None else out
    return [(path, places / f"{path.name}{SUFFIX}") for path in models]
