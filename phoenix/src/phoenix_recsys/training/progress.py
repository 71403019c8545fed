"""A progress bar for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from phoenix_recsys.training.trainer import Progress as Report


@contextmanager
def progress_bars(console: Console | None = None) -> Iterator[Report]:
    """One bar per stage, on standard error by default, with the loss smoothed over about fifty steps."""
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    smooth: dict[str, float] = {}
    with Progress(*columns, console=console or Console(stderr=True)) as bars:

        def report(stage: str, step: int, total: int, loss: float) -> None:
            smooth[stage] = smooth.get(stage, loss) * 0.98 + loss * 0.02
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, loss=loss)
            bars.update(tasks[stage], completed=step, loss=smooth[stage])

        yield report
