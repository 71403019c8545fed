"""Work that may be asked for again while it is under way: it is done once more after that, for all who asked."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

import attrs

T = TypeVar("T")


@attrs.define(eq=False)
class _Round(Generic[T]):
    """One attempt, and how many wait for its answer.

    Args:
        answer: What came of it.
        waiters: How many wait; an earlier round that gave way to this one counts once.
        heir: The round whose answer this one gets, if it gave way.
    """

    answer: asyncio.Future[T]
    waiters: int = 0
    heir: _Round[T] | None = None


class Attempts(Generic[T]):
    """Makes attempts one after the other. For one event loop.

    Args:
        work: Makes one attempt. When it is cancelled, the next one does not wait until it has cleaned up.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._now: _Round[T] | None = None
        self._next: _Round[T] | None = None
        self._task: asyncio.Task[T] | None = None
        self._tasks: set[asyncio.Task[T]] = set()
        self._closed: BaseException | None = None

    async def ask(self, *, supersede: bool = False) -> T:
        """The result of an attempt that begins after this call; an attempt that nobody waits for any more is cancelled.

        Args:
            supersede: Give up the attempt under way; who waits for that one gets the result of this one too.

        Raises:
            CancelledError: The caller was cancelled.
            BaseException: What the attempt raised, or the error of `close`.
        """
        if self._closed is not None:  # a look at files may end, and ask, after all was cancelled
            raise self._closed
        if self._next is None:
            self._next = _Round(asyncio.get_running_loop().create_future())
            self._next.answer.add_done_callback(_look)
        mine = self._next
        mine.waiters += 1
        if supersede and self._now is not None and self._task is not None and not self._task.done():
            self._now.heir = mine
            mine.waiters += 1
            mine.answer.add_done_callback(functools.partial(_inherit, self._now.answer))
            self._task.cancel()
            self._now = None
        if self._now is None:
            self._begin()
        try:
            return await asyncio.shield(mine.answer)
        finally:
            self._leave(mine)

    async def close(self, error: BaseException, *, hurry: bool = False) -> None:
        """Cancel all attempts and wait until they have cleaned up; there will be no more.

        Args:
            error: What those get who wait for results, or ask for one later.
            hurry: Cancel those once more that were cancelled already.
        """
        self._closed = error
        for each in (self._next, self._now):
            if each is not None and not each.answer.done():
                each.answer.set_exception(error)
        self._next = self._now = None
        for task in self._tasks:
            if hurry or not task.cancelling():
                task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    def _begin(self) -> None:
        self._now, self._next = self._next, None
        if self._now is None:
            return
        self._task = asyncio.get_running_loop().create_task(self._work(), name="attempt")
        self._tasks.add(self._task)
        self._task.add_done_callback(functools.partial(self._ended, self._now))

    def _ended(self, round_: _Round[T], task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        _look(task)
        if self._now is round_:
            _inherit(round_.answer, task)
            self._begin()

    def _leave(self, round_: _Round[T]) -> None:
        round_.waiters -= 1
        if round_.waiters or round_.answer.done():
            return
        if round_.heir is not None:
            self._leave(round_.heir)
        elif round_ is self._next:
            self._next = None
        elif round_ is self._now and self._task is not None:
            self._task.cancel()
            self._begin()


def _inherit(answer: asyncio.Future[T], source: asyncio.Future[T]) -> None:
    """Settle one future as another was."""
    if answer.done():
        return
    if source.cancelled():
        answer.cancel()
    elif (error := source.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(source.result())


def _look(future: asyncio.Future[Any]) -> None:
    """Look at the exception, lest asyncio complain that nobody did."""
    if not future.cancelled():
        future.exception()
