"""What the tests of the engine's caches share: a column, a fetch that counts, and a strict way to run."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from candidate_pipeline.cells import FAILED, Cells
from candidate_pipeline.engine.cache import RowAnswer
from candidate_pipeline.keys import Column
from candidate_pipeline.testing import run_in_virtual_time

NUMBER = Column("toy.number", np.int64, default=-1)
#: Keys of rows, of which `None` is not cached.
KEYS = st.lists(st.none() | st.integers(0, 7), max_size=8)

Fetch = Callable[[NDArray[np.intp]], Awaitable[Mapping[Column[Any], Cells]]]


def run(coroutine: Coroutine[Any, Any, Any], *, collect: bool = True) -> Any:
    """Run in virtual time; nothing may be reported to the loop as unhandled, and no task may be left."""
    reports: list[dict[str, Any]] = []

    async def watched() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, report: reports.append(report))
        result = await coroutine
        if collect:  # an exception that nobody retrieved is reported when its task is collected
            gc.collect()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    result = run_in_virtual_time(watched())
    assert reports == []
    return result


def counting(delay: float = 0.0, fail: Exception | None = None) -> tuple[Fetch, list[list[int]]]:
    """A fetch of NUMBER that takes its time and answers with row numbers, and a list of what it was asked."""
    asked: list[list[int]] = []

    async def fetch(rows: NDArray[np.intp]) -> dict[Column[Any], Cells]:
        asked.append(rows.tolist())
        await asyncio.sleep(delay)
        if fail is not None:
            raise fail
        return {NUMBER: Cells(rows.astype(np.int64), None, 3)}

    return fetch, asked


def numbers(answer: RowAnswer) -> list[int | None]:
    """The NUMBER of each row, `None` where it failed."""
    cells = answer.cells[NUMBER]
    return [
        None if state == FAILED else value
        for state, value in zip(cells.states().tolist(), cells.values.tolist(), strict=True)
    ]
