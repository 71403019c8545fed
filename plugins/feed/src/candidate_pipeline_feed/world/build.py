"""Writes worlds as data directories, the bundled one among them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from candidate_pipeline_feed.datadir import DataDirectory, DatasetInfo, Value, bundled_world
from candidate_pipeline_feed.world.generate import World, generate

BUNDLED_SEED: Final = 20
BUNDLED_USERS: Final = 1200
BUNDLED_POSTS: Final = 3000
BUNDLED_IMPRESSIONS_PER_USER: Final = 75.0

WORLD_OVERRIDES: Final[Mapping[str, Value]] = {}
"""Settings for pipelines over a world: none, since its posts are as young as a real feed's."""


def build_world(
    out: str | Path,
    seed: int = BUNDLED_SEED,
    users: int = BUNDLED_USERS,
    posts: int = BUNDLED_POSTS,
    impressions_per_user: float = BUNDLED_IMPRESSIONS_PER_USER,
) -> World:
    """Generate a world and write it as a data directory; the defaults give the bundled one.

    The same arguments give the same bytes on one machine. Models in the directory are left alone.

    Raises:
        ValueError: A world of that size makes no sense.
        OSError: The directory cannot be written.
    """
    world = generate(seed, users, posts, impressions_per_user)
    info = DatasetInfo(
        f"a small social world (seed {seed})", world.now, {"viewer": world.default_viewer}, WORLD_OVERRIDES
    )
    DataDirectory(Path(out)).write(world.tables, info)
    return world


def rebuild_bundled() -> Path:
    """Build the bundled world again, in place, and say where."""
    path = bundled_world()
    build_world(path)
    return path
