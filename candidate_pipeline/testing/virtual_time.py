"""An event loop whose clock jumps to the next timer instead of waiting for it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: How long to look for a thread's result before looking again, in real seconds.
_POLL: Final = 0.05
#: The shortest step of the virtual clock, in seconds; longer than the resolution of a loop's clock.
_TICK: Final = 2e-9


class _JumpingSelector(selectors.DefaultSelector):
    """Passes on what has happened; where the loop would sleep, moves its clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.busy_threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        # While a thread works, its result decides what comes next, and time stands still.
        events = super().select(_POLL if self.busy_threads else 0)
        if not events and not self.busy_threads:
            self.now += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that starts at time 0 and never waits: sleeping for an hour takes no time.

    Work in threads runs for real, and the clock stands still meanwhile.
    """

    def __init__(self) -> None:
        """Start at time 0."""
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.now

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:  # type: ignore[override]  # the stub is generic in a way that cannot be repeated
        """As the base class, at the next tick at the earliest if that is still to come.

        A loop runs timers that are due within its clock's resolution, and this clock moves only from timer to timer:
        one that is nearer than that would fire without a move, and whoever sleeps until then would do so for ever.
        """
        now = self.time()
        return super().call_at(max(when, now + _TICK) if when > now else when, callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]  # the stub is generic in a way that cannot be repeated
        """As the base class; the clock stands still until the work is done."""
        future: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        self._jumping.busy_threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._jumping.busy_threads -= 1


def run_in_virtual_time(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a fresh `VirtualTimeLoop` and return its result."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(coroutine)
