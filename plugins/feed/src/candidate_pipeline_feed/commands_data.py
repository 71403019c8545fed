"""The commands `data fetch`, `data world` and `data check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.datadir import DataDirectory, clock
from candidate_pipeline_feed.records import Tables
from candidate_pipeline_feed.world.build import (
    BUNDLED_IMPRESSIONS_PER_USER,
    BUNDLED_POSTS,
    BUNDLED_SEED,
    BUNDLED_USERS,
)
from candidate_pipeline_feed.world.generate import MIN_POSTS, MIN_USERS

DATASETS: Final = ("ml-100k",)


def fetch(
    dataset: Annotated[str, typer.Argument(help="The data set to fetch: ml-100k.")] = "ml-100k",
    from_dir: Annotated[
        Path | None, typer.Option("--from", help="A local copy of its files; nothing is downloaded then.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The data directory to make.")] = Path("data/ml-100k"),
    force: Annotated[
        bool, typer.Option("--force", help="Replace a data directory that is there, models included.")
    ] = False,
) -> None:
    """Fetch a public data set, check its files, and write it as a data directory."""
    if dataset not in DATASETS:
        raise DataError(f"{dataset}: no such data set; there is {', '.join(DATASETS)}")
    from candidate_pipeline_feed.movielens import fetch_ml_100k

    console = Console()
    fetched = fetch_ml_100k(out, from_dir, force=force, say=lambda line: _say(console, line))
    _print_counts(console, fetched.tables)
    _say(console, f"Wrote {_relative(fetched.path)}")
    _say(console, f"Next: candidate-pipeline phoenix train --data {_relative(fetched.path)}")


def world(
    out: Annotated[Path, typer.Option("--out", help="The data directory to make.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of everything in it.")] = BUNDLED_SEED,
    users: Annotated[int, typer.Option("--users", min=MIN_USERS, help="How many people.")] = BUNDLED_USERS,
    posts: Annotated[int, typer.Option("--posts", min=MIN_POSTS, help="How many posts.")] = BUNDLED_POSTS,
    impressions: Annotated[
        float, typer.Option("--impressions", min=1.0, help="How many posts a person sees, on average.")
    ] = BUNDLED_IMPRESSIONS_PER_USER,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a data directory that is there, models included.")
    ] = False,
) -> None:
    """Generate a small social world and write it as a data directory; the defaults give the one that ships."""
    from candidate_pipeline_feed.atomic import placed_directory
    from candidate_pipeline_feed.world.build import build_world

    if impressions > posts:
        raise DataError(f"--impressions: wanted at most the number of posts, {posts}, found {impressions:g}")
    console = Console()
    with placed_directory(out, force) as made, console.status("Generating the world"):
        built = build_world(made, seed, users, posts, impressions)
    _print_counts(console, built.tables)
    _say(console, f"Wrote {_relative(out)}; its clock says {built.now:%Y-%m-%d %H:%M} UTC")


def check(
    directory: Annotated[Path, typer.Argument(help="The data directory to check.", metavar="DIR")],
) -> None:
    """Check a data directory: its tables, its dataset.toml, and that the two fit together."""
    data = DataDirectory(directory)
    console = Console()
    errors: list[str] = []
    tables = info = None
    try:
        tables = data.tables()
        _print_counts(console, tables)
    except DataError as error:
        errors.append(str(error))
    try:
        info = data.info()
    except DataError as error:
        errors.append(str(error))
    if tables is not None and info is not None:
        viewer = info.defaults.get("viewer")
        if viewer is not None and viewer not in tables.users.user_id:
            errors.append(f"{data.dataset_file}: default_viewer: the users table has no user {viewer!r}")
        try:
            now = clock(info, tables)
            late = int((tables.events.time > now.timestamp() * 1000).sum())
            _say(console, f"{info.name}: clock {now:%Y-%m-%d %H:%M:%S} UTC, default viewer {viewer}")
            if late:
                _say(console, f"Note: {late:,} events lie after the clock; requests do not see them")
        except DataError as error:
            errors.append(str(error))
    if errors:
        raise DataError("\n".join(errors))
    _say(console, f"{directory}: everything is as it should be")


def _say(console: Console, line: str) -> None:
    """Print a line as it is: names and paths are nobody's markup, and a path is not cut in two."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_counts(console: Console, tables: Tables) -> None:
    shown = Table("table", box=None, pad_edge=False)
    shown.add_column("rows", justify="right")
    shown.add_column("columns without a value")
    shown.add_column("columns ignored")
    for table in tables.all():
        spec = table.spec
        empty = [c.name for c in spec.columns if len(table) and not table.is_valid(c.name).any()]
        shown.add_row(spec.name, f"{len(table):,}", ", ".join(empty), ", ".join(tables.ignored.get(spec.name, ())))
    console.print(shown)


def _relative(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
