"""Merges concurrent requests into batches for a device that is best used by one large call at a time."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

import attrs

from phoenix_recsys.batch_options import (
    BatcherError,
    BatchMetrics,
    BatchOptions,
    Closed,
    Expired,
    Refused,
    WrongResultsError,
)
from phoenix_recsys.batch_queue import BatchQueue, Ticket

__all__ = [
    "BatchMetrics",
    "BatchOptions",
    "Batcher",
    "BatcherError",
    "Closed",
    "Expired",
    "Refused",
    "WrongResultsError",
]

Request = TypeVar("Request")
Result = TypeVar("Result")


@attrs.frozen(eq=False)
class _Job(Generic[Request, Result]):
    """A request and the future that its caller waits for: asyncio's on the loop, concurrent's in another thread."""

    request: Request
    future: asyncio.Future[Result] | concurrent.futures.Future[Result]

    def succeed(self, result: Result) -> None:
        if self._open():
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        if self._open():
            self.future.set_exception(error)

    def _open(self) -> bool:
        if isinstance(self.future, concurrent.futures.Future):
            # From here on the caller's thread cannot cancel it any more.
            return self.future.set_running_or_notify_cancel()
        return not self.future.done()


@attrs.frozen(eq=False)
class _Posted(Generic[Request, Result]):
    """A submission of another thread, on its way to the loop."""

    job: _Job[Request, Result]
    cost: int
    key: Hashable
    deadline: float | None


class Batcher(Generic[Request, Result]):
    """Merges concurrent requests of different callers into one call of ``run_batch``.

    One call runs at a time. Who runs when, and who is turned away, is decided by
    :class:`~phoenix_recsys.batch_queue.BatchQueue`. Requests submitted in the same turn of the event loop share a
    batch even at ``max_wait = 0``.

    Use it as ``async with Batcher(run_batch, BatchOptions(max_size=32)) as batcher``, once; it belongs to the event
    loop on which it was opened.

    Args:
        run_batch: maps requests to as many results, in the same order. A plain function runs in a thread of its own,
            always the same one; an async function runs on the event loop.
        options: sizes, times, and what to do on errors.
    """

    def __init__(
        self,
        run_batch: Callable[[Sequence[Request]], Sequence[Result] | Awaitable[Sequence[Result]]],
        options: BatchOptions,
    ) -> None:
        self.options = options
        self._run_batch = run_batch
        self._is_async = inspect.iscoroutinefunction(run_batch) or inspect.iscoroutinefunction(
            getattr(run_batch, "__call__", None)  # noqa: B004  # not whether it is callable, but which kind
        )
        self._queue: BatchQueue[_Job[Request, Result]] = BatchQueue(options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._executor: concurrent.futures.ThreadPoolExecutor | None = None
        self._batch: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pump_is_due = False
        self._closing = False
        self._drained = asyncio.Event()
        self._closed = asyncio.Event()
        self._loop_thread = self._worker_thread = 0
        self._lock = threading.Lock()  # guards the two below
        self._accepting = False
        self._inbox: deque[_Posted[Request, Result]] = deque()

    async def open(self) -> None:
        """Start to accept requests, on the running event loop.

        Raises:
            RuntimeError: if it was opened before.
        """
        if self._loop is not None:
            raise RuntimeError("a Batcher opens once; make a new one")
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        if not self._is_async:
            self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="phoenix-batcher")
        with self._lock:
            self._accepting = True

    async def __aenter__(self) -> Batcher[Request, Result]:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def time(self) -> float:
        """Seconds on the clock of deadlines, the event loop's; callable from any thread."""
        return self._opened().time()

    def metrics(self) -> BatchMetrics:
        """Counts and summaries so far; consistent with each other when read on the event loop's thread."""
        return self._queue.metrics()

    async def submit(
        self, request: Request, *, deadline: float | None = None, cost: int = 1, key: Hashable | None = None
    ) -> Result:
        """Run a request in a batch with others. A caller who is cancelled takes it back.

        Args:
            request: passed to ``run_batch``.
            deadline: the time of :meth:`time` at which the request is worth nothing any more.
            cost: its size in the units of the options.
            key: whose turn it takes, for instance a viewer or tenant; requests without a key share one turn.

        Raises:
            Refused: if the estimated wait exceeds the deadline, or the queue is full.
            Closed: if the batcher is closed, or is before there is a result.
            Expired: if the deadline passes before the request is started.
            WrongResultsError: if ``run_batch`` returned too few or too many results.
            RuntimeError: on another event loop than the batcher's.
            Exception: what ``run_batch`` raised.
        """
        loop = self._opened()
        if asyncio.get_running_loop() is not loop:
            raise RuntimeError("submit wants the event loop on which the Batcher was opened; use submit_sync elsewhere")
        if not self._accepting:
            raise Closed("the batcher is closed")
        job = _Job[Request, Result](request, loop.create_future())
        ticket = self._queue.offer(job, loop.time(), cost=cost, key=key, deadline=deadline)
        self._wake()
        try:
            return await cast("asyncio.Future[Result]", job.future)
        except asyncio.CancelledError:
            self._take_back(ticket)
            raise

    def submit_sync(
        self, request: Request, *, deadline: float | None = None, cost: int = 1, key: Hashable | None = None
    ) -> Result:
        """As :meth:`submit`, for threads other than the event loop's; blocks until there is a result.

        Raises:
            RuntimeError: on the event loop's own thread, or within ``run_batch``, where it would wait for itself.
        """
        if threading.get_ident() in {self._loop_thread, self._worker_thread}:
            raise RuntimeError("submit_sync blocks, and would wait for its own thread here; use submit")
        future = self.submit_future(request, deadline=deadline, cost=cost, key=key)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # an interrupt of the wait; without effect on a future that has ended
            raise

    def submit_future(
        self, request: Request, *, deadline: float | None = None, cost: int = 1, key: Hashable | None = None
    ) -> concurrent.futures.Future[Result]:
        """As :meth:`submit_sync`, without waiting; every error but a closed batcher arrives in the future."""
        loop = self._opened()
        future: concurrent.futures.Future[Result] = concurrent.futures.Future()
        posted = _Posted(_Job[Request, Result](request, future), cost, key, deadline)
        with self._lock:
            if not self._accepting:
                raise Closed("the batcher is closed")
            self._inbox.append(posted)
            # Within the lock: the loop cannot be closed before the batcher is.
            if len(self._inbox) == 1:
                loop.call_soon_threadsafe(self._receive)
        return future

    async def close(self, drain_seconds: float = 5.0) -> None:
        """Accept nothing more, run what waits, and after a time fail what is left with `Closed`.

        Returns when nothing of the batcher runs any more. A plain ``run_batch`` cannot be interrupted: its callers
        get their error in time, but a call that is running then is waited for. Closing again does nothing.

        Args:
            drain_seconds: how long to go on running what was accepted.
        """
        if self._loop is None:
            return
        if self._closing:
            await self._closed.wait()
            return
        self._closing = True
        with self._lock:
            self._accepting = False
        self._receive()
        self._queue.draining = True
        self._wake()
        try:
            async with asyncio.timeout(drain_seconds):
                await self._drained.wait()
        except TimeoutError:
            pass
        finally:
            self._fail_all("the batcher closed before the request had a result")
            self._set_timer(None)
            try:
                if (batch := self._batch) is not None:
                    if self._is_async:
                        batch.cancel()
                    await asyncio.wait({batch})
            finally:
                if self._executor is not None:
                    # Idle by now, unless this wait was itself cancelled: then its thread ends with its call.
                    self._executor.shutdown(wait=batch is None or batch.done())
                self._closed.set()

    def _opened(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("the Batcher is not open; use it within `async with`, or await open() first")
        return self._loop

    def _receive(self) -> None:
        """Queue what other threads have submitted."""
        with self._lock:
            arrived, self._inbox = self._inbox, deque()
        now = self._opened().time()
        for posted in arrived:
            job = posted.job
            try:
                ticket = self._queue.offer(job, now, cost=posted.cost, key=posted.key, deadline=posted.deadline)
            except Exception as error:  # belongs to the caller in the other thread
                job.fail(error)
            else:
                if isinstance(job.future, concurrent.futures.Future):
                    job.future.add_done_callback(functools.partial(self._done_elsewhere, ticket))
        self._wake()

    def _done_elsewhere(self, ticket: Ticket[_Job[Request, Result]], future: concurrent.futures.Future[Result]) -> None:
        if future.cancelled():
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the queue with it
                self._opened().call_soon_threadsafe(self._take_back, ticket)

    def _take_back(self, ticket: Ticket[_Job[Request, Result]]) -> None:
        if self._queue.cancel(ticket):
            self._wake()

    def _wake(self) -> None:
        """Look at the queue in the next turn of the loop, when all that is ready to submit has done so."""
        if not self._pump_is_due:
            self._pump_is_due = True
            self._opened().call_soon(self._pump)

    def _pump(self) -> None:
        """Do what is due now, and see to being called when something is again."""
        loop = self._opened()
        self._pump_is_due = False
        now = loop.time()
        step = self._queue.advance(now)
        for ticket in step.expired:
            ticket.item.fail(Expired(f"the deadline passed after {now - ticket.arrived:.3f} s in the queue"))
        if step.batch:
            self._batch = loop.create_task(self._run(step.batch), name="phoenix-batch")
            self._batch.add_done_callback(self._after_batch)
        self._set_timer(self._queue.next_event())
        if self._queue.draining and self._queue.idle:
            self._drained.set()

    def _set_timer(self, when: float | None) -> None:
        # A timer that is early only finds nothing to do and sets the next: cheaper than one for each request.
        if self._timer is not None:
            if when is not None and self._timer.when() <= when:
                return
            self._timer.cancel()
            self._timer = None
        if when is not None:
            self._timer = self._opened().call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._wake()

    async def _run(self, batch: Sequence[Ticket[_Job[Request, Result]]]) -> None:
        """Run a batch, in halves where it fails and that is wanted, and settle all its requests."""
        parts = deque([batch])
        further_calls = 4 * (len(batch) - 1).bit_length() if self.options.split_on_error else 0
        while parts:
            part = [ticket for ticket in parts.popleft() if ticket.state == "running"]
            if not part:
                continue
            outcome = await self._call(part)
            if not isinstance(outcome, Exception):
                for ticket, result in zip(part, outcome, strict=True):
                    if self._queue.settle(ticket, "done"):
                        ticket.item.succeed(result)
            elif len(part) > 1 and further_calls >= 2 and not isinstance(outcome, WrongResultsError):
                further_calls -= 2
                middle = len(part) // 2
                parts.extend((part[:middle], part[middle:]))
            else:
                for ticket in part:
                    if self._queue.settle(ticket, "failed"):
                        ticket.item.fail(outcome)

    def _after_batch(self, task: asyncio.Task[None]) -> None:
        # Only close() and the end of the loop cancel the task, maybe before its first step, and only an interrupt
        # makes it raise. There is no further batch then, and nobody may be left waiting.
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            with self._lock:
                self._accepting = False
            why = "" if error is None else f" by {error!r}"
            self._fail_all(f"the batcher was stopped{why} before the request had a result")
        self._queue.finish()
        self._batch = None
        self._wake()

    async def _call(self, part: Sequence[Ticket[_Job[Request, Result]]]) -> Sequence[Result] | Exception:
        """Call ``run_batch`` once: results, one for each, or the error that all these requests get."""
        loop = self._opened()
        requests = [ticket.item.request for ticket in part]
        began = loop.time()
        try:
            if self._executor is not None:
                outcome = await loop.run_in_executor(self._executor, self._call_here, requests)
            else:
                pending = cast("Awaitable[Sequence[Result]]", self._run_batch(requests))
                outcome = _checked(await pending, len(requests))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            outcome = _plain(error)
        except Exception as error:  # whatever run_batch raises belongs to its requests
            outcome = _plain(error)
        if not isinstance(outcome, Exception):
            size = sum(ticket.cost for ticket in part)
            self._queue.timing.observe(self.options.padded(size), loop.time() - began)
        return outcome

    def _call_here(self, requests: Sequence[Request]) -> Sequence[Result] | Exception:
        """In the worker thread. Errors are returned: not every exception can pass through a future."""
        self._worker_thread = threading.get_ident()
        try:
            return _checked(cast("Sequence[Result]", self._run_batch(requests)), len(requests))
        except BaseException as error:  # a thread of ours has nobody else to tell
            return _plain(error)

    def _fail_all(self, message: str) -> None:
        with self._lock:
            posted, self._inbox = self._inbox, deque()
        for job in (*(post.job for post in posted), *(ticket.item for ticket in self._queue.fail_all())):
            job.fail(Closed(message))


def _checked(results: Sequence[Any], wanted: int) -> list[Any]:
    try:
        found = len(results)
    except TypeError:
        raise WrongResultsError(
            f"run_batch must return a sequence of {wanted} results, one for each request, found a "
            f"{type(results).__name__}"
        ) from None
    if found != wanted:
        raise WrongResultsError(f"run_batch must return {wanted} results, one for each request, found {found}")
    return list(results)


def _plain(error: BaseException) -> Exception:
    """The error itself, or wrapped where a future would refuse it or its caller would take it for its own."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError(f"run_batch ended with {error!r}")
    wrapped.__cause__ = error
    return wrapped
