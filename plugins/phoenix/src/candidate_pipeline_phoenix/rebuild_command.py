"""The command `phoenix rebuild-bundled`: the world that ships with the feed plugin, and the models trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def rebuild_bundled(
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where it goes; default: in place, for a checkout.")
    ] = None,
) -> None:
    """Generate the bundled world again and train its models; on the same machine the files come out the same."""
    from candidate_pipeline_feed.datadir import bundled_world
    from candidate_pipeline_feed.world import build_world
    from candidate_pipeline_phoenix.train_command import train

    directory = bundled_world() if out is None else out
    build_world(directory)
    train(data=directory, out=directory / "models", preset="world", resume=False, half=True)
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    Console().print(f"{directory}: {size / 2**20:.1f} MiB in all", markup=False, highlight=False, soft_wrap=True)
