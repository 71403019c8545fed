"""The threads of blocking components: a pool for each, so that one that hangs takes no other down with it.

A thread cannot be interrupted. A call that the engine stops waiting for is abandoned: it keeps its thread until it
ends by itself, and a component all of whose threads are held that way is refused at once (a bulkhead in the sense of
M. Nygard, "Release It!", 2nd ed. 2018, chapter 5).
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import attrs


class FullError(Exception):
    """A call was refused because abandoned calls hold all threads; the message says so."""


class Job:
    """One call in a thread.

    Attributes:
        future: What the call returns or raises, for the event loop. Cancelling it abandons the call.
    """

    future: asyncio.Future[Any]

    def __init__(self, bulkhead: Bulkhead, function: Callable[..., Any], args: Sequence[Any]) -> None:
        """`Bulkhead.submit` makes it."""
        self._bulkhead = bulkhead
        self._context = contextvars.copy_context()
        self._call: tuple[Callable[..., Any], Sequence[Any]] | None = (function, args)
        # Guarded by the bulkhead's lock.
        self._phase: Literal["queued", "running", "over"] = "queued"
        self._abandoned = False

    def abandon(self) -> None:
        """Stop waiting: a call that has not started never will, one that runs is counted until it ends.

        Call it from the event loop. It may be called more than once, and after the end.
        """
        self._bulkhead._abandon(self)
        if not self.future.cancel() and not self.future.cancelled():
            self.future.exception()  # nobody else will look, and asyncio would complain of that

    def _ended(self, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            self._bulkhead._abandon(self)


@attrs.frozen
class ThreadCounts:
    """The calls of one blocking component.

    Args:
        queued: Calls that wait for a thread.
        running: Calls in a thread, abandoned ones included.
        abandoned: Abandoned calls that still hold a thread.
        abandoned_total: Calls abandoned while they held a thread, since the start.
    """

    queued: int = 0
    running: int = 0
    abandoned: int = 0
    abandoned_total: int = 0


class Bulkhead:
    """A bounded pool of threads for one blocking component. The threads are made when they are needed.

    The interpreter waits at its exit for calls that still run, abandoned ones too.

    Args:
        name: The component's name; threads are called `candidate-pipeline <name>_<number>`.
        threads: How many calls may run at once.
    """

    def __init__(self, name: str, threads: int) -> None:
        """Start without threads."""
        self.name = name
        self.threads = threads
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._queued = self._running = self._abandoned = self._abandoned_total = 0

    @property
    def counts(self) -> ThreadCounts:
        """The counters at this moment."""
        with self._lock:
            return ThreadCounts(self._queued, self._running, self._abandoned, self._abandoned_total)

    def submit(self, loop: asyncio.AbstractEventLoop, function: Callable[..., Any], args: Sequence[Any]) -> Job:
        """Run `function(*args)` in a thread, or queue it while all threads are busy.

        The function sees the caller's context variables; what it sets there stays in the thread.

        Args:
            loop: The running event loop.
            function: A plain function.
            args: Its arguments.

        Raises:
            FullError: Abandoned calls hold all threads.
            RuntimeError: The bulkhead is closed.
        """
        job = Job(self, function, args)
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the threads of {self.name} are closed")
            if self._abandoned >= self.threads:
                raise FullError(self._full())
            if self._executor is None:
                prefix = f"candidate-pipeline {self.name}"
                self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix=prefix)
            executor = self._executor
            self._queued += 1
        try:
            # Through the loop, because a virtual clock must know that a thread works.
            job.future = loop.run_in_executor(executor, self._work, job)
        except BaseException:  # for instance, no thread can be started
            self._abandon(job)
            raise
        job.future.add_done_callback(job._ended)
        return job

    def close(self) -> None:
        """Take no more calls, cancel the queued ones, and leave the running ones to end by themselves."""
        with self._lock:
            self._closed = True
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    def _full(self) -> str:
        if self.threads == 1:
            return f"its only thread is held by a call that outlived its timeout (abandoned {self._abandoned})"
        return (
            f"all {self.threads} threads are held by calls that outlived their timeouts (abandoned {self._abandoned})"
        )

    def _work(self, job: Job) -> Any:
        with self._lock:
            call, job._call = job._call, None  # the arguments may be large
            if job._abandoned or call is None:
                return None
            job._phase = "running"
            self._queued -= 1
            self._running += 1
        function, args = call
        try:
            return job._context.run(function, *args)
        except StopIteration as error:  # a future cannot hold one, and its waiter would wait for ever
            raise RuntimeError("StopIteration left the component") from error
        finally:
            with self._lock:
                job._phase = "over"
                self._running -= 1
                self._abandoned -= job._abandoned

    def _abandon(self, job: Job) -> None:
        with self._lock:
            if job._abandoned or job._phase == "over":
                return
            job._abandoned = True
            if job._phase == "running":
                self._abandoned += 1
                self._abandoned_total += 1
            else:
                self._queued -= 1
                job._call = None  # the arguments may be large
