"""Single flight: what one request is fetching, others wait for instead of fetching it again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import attrs

from candidate_pipeline.errors import CandidatePipelineError

R = TypeVar("R")


@attrs.define(eq=False)
class Flight(Generic[R]):
    """One fetch under way, in a task of its own, so that it outlives the request that started it.

    Args:
        now_ms: The clock of the request that started it.
        order: Counts the flights of a cache: a later one knows better.
        places: The keys it fetches, and where each stands in its answer.
    """

    now_ms: int
    order: int
    places: Mapping[Hashable, int]
    waiters: int = 0
    task: asyncio.Task[R] = attrs.field(init=False, repr=False)

    def error(self) -> BaseException | None:
        """Why a flight that has ended gives no answer, if so. A cancelled one does not cancel those who waited."""
        if self.task.cancelled():
            return CandidatePipelineError("what this request was waiting for in a cache was cancelled before it came")
        return self.task.exception()


class Flights(Generic[R]):
    """The flights of one cache. For one event loop; there is nothing to lock."""

    def __init__(self, join_ms: int) -> None:
        """Make none yet.

        Args:
            join_ms: A request joins a flight whose clock is not ahead of its own and less than this behind it.
        """
        self._join_ms = join_ms
        self._by_key: dict[Hashable, Flight[R]] = {}
        self._tasks: set[asyncio.Task[R]] = set()
        self._started = 0

    @property
    def idle(self) -> bool:
        """Whether no key is being fetched."""
        return not self._by_key

    def joinable(self, key: Hashable, now_ms: int) -> Flight[R] | None:
        """The flight that is fetching `key` for requests at this time, if there is one."""
        flight = self._by_key.get(key)
        return flight if flight is not None and 0 <= now_ms - flight.now_ms < self._join_ms else None

    def start(
        self, places: Mapping[Hashable, int], now_ms: int, work: Callable[[Flight[R]], Awaitable[R]]
    ) -> Flight[R]:
        """Start fetching keys. The caller goes on to `land` without giving up control in between."""
        flight: Flight[R] = Flight(now_ms, self._started, places)
        self._started += 1
        flight.task = asyncio.get_running_loop().create_task(self._fly(flight, work), name="cache flight")
        self._tasks.add(flight.task)
        flight.task.add_done_callback(self._ended)
        self._by_key.update(dict.fromkeys(places, flight))
        return flight

    async def land(self, flights: Sequence[Flight[R]]) -> None:
        """Wait until flights have ended, however they end; those that nobody waits for any more are cancelled."""
        for flight in flights:
            flight.waiters += 1
        try:
            await asyncio.wait([flight.task for flight in flights])
        finally:
            for flight in flights:
                flight.waiters -= 1
                if not flight.waiters and not flight.task.done():
                    self._forget(flight)
                    flight.task.cancel()

    def __len__(self) -> int:
        return len(self._tasks)

    async def close(self, grace: float | None) -> int:
        """Cancel all flights and wait until their tasks have ended, at most `grace` seconds; how many have not."""
        self._by_key.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        return len((await asyncio.wait(tasks, timeout=grace))[1]) if tasks else 0

    async def _fly(self, flight: Flight[R], work: Callable[[Flight[R]], Awaitable[R]]) -> R:
        try:
            return await work(flight)
        finally:
            self._forget(flight)  # before anybody can join an answer that has already come, or failed

    def _forget(self, flight: Flight[R]) -> None:
        for key in flight.places:
            if self._by_key.get(key) is flight:
                del self._by_key[key]

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it when nobody is left to hear of it
