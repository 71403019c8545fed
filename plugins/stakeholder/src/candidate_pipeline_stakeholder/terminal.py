"""What the commands share: reading what options say, progress, standard output, and where files may go."""

from __future__ import annotations

import datetime as dt
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from candidate_pipeline.cli.setup import console
from candidate_pipeline.errors import RequestError
from candidate_pipeline.options import parse_duration
from candidate_pipeline_stakeholder.collecting import Track, pool_from_captures
from candidate_pipeline_stakeholder.pool import Pool

WIDTH: Final = 132
"""Columns that the tables need; where standard output is no terminal, this is its width."""


class Format(StrEnum):
    """How the result is printed."""

    table = "table"
    json = "json"


def output_console() -> Console:
    """Standard output, wide enough for the tables."""
    shown = console()
    return shown if shown.is_terminal else Console(highlight=False, width=WIDTH)


class Steps:
    """A bar on standard error for each step, and a moving one until the first begins; nothing where that is a file."""

    def __init__(self) -> None:
        shown = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal)
        self._opening = self._progress.add_task("opening", total=None)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show how far a step is."""
        self._progress.update(self._opening, visible=False)
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done, total=total)

    def track(self, what: str, items: Iterable[Any], total: int | None = None) -> Iterator[Any]:
        """Go through items, showing how far: a `Track`."""
        items = list(items) if total is None else items
        count = len(items) if isinstance(items, list) else int(total or 0)
        self(what, 0, count)
        for done, item in enumerate(items, start=1):
            yield item
            self(what, done, count)


class Finished:
    """A `Track` that knows whether the loop came to its end or was interrupted.

    Args:
        track: Shows how far it is.
    """

    def __init__(self, track: Track) -> None:
        self._track = track
        self.finished = False

    def __call__(self, what: str, items: Iterable[Any], total: int | None = None) -> Iterable[Any]:
        """Go through items."""
        self.finished = False
        yield from self._track(what, items, total)
        self.finished = True


def names_of(text: str | None) -> tuple[str, ...] | None:
    """`"a, b"` as `("a", "b")`, and `None` as `None`."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def moment_of(option: str, text: str | None) -> dt.datetime | None:
    """A time such as 2026-05-01 or 2026-05-01T12:00:00Z; without a zone it is UTC.

    Raises:
        RequestError: It is none.
    """
    if text is None:
        return None
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(f"{option}: wanted a time such as 2026-05-01T12:00:00Z, found {text!r}") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=dt.UTC)


def duration_of(option: str, text: str) -> dt.timedelta:
    """A duration such as 10m.

    Raises:
        RequestError: It is none.
    """
    found = parse_duration(text)
    if not found:
        raise RequestError(f"{option}: wanted a duration such as 10m or 6h, found {text!r}")
    return found


def check_free(option: str, path: Path, force: bool) -> None:
    """Refuse, before the work, to write over a file unless that was asked for, and where nothing can be written.

    Raises:
        RequestError: There is something, or no file can be put there.
    """
    check_place(option, path)
    if path.exists() and not force:
        raise RequestError(f"{option} {path}: there is a file already; --force replaces it")


def check_place(option: str, path: Path) -> None:
    """Make sure before the work that a file can be put there after it; its folder is made if need be.

    Raises:
        RequestError: It cannot.
    """
    if path.is_dir():
        raise RequestError(f"{option} {path}: wanted a file to write, found a folder")
    with writing(option, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"the folder {path.parent} takes no new files")


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Tell an error of the system as one of the option that named the file.

    Raises:
        RequestError: What is done inside fails for the file system's reasons.
    """
    try:
        yield
    except OSError as error:
        raise RequestError(f"{option} {path}: cannot be written: {error.strerror or error}") from error


def read_pool(place: Path) -> Pool:
    """A pool: of a folder of captures, of one capture, or of a file that `Pool.write` wrote.

    Raises:
        DataError: It is none of these.
    """
    return Pool.read(place) if place.suffix == ".parquet" else pool_from_captures(place)
