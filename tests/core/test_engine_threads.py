"""The threads of blocking components."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from toys import LONG

from candidate_pipeline.engine.threads import Bulkhead, FullError, Job, ThreadCounts
from candidate_pipeline.testing import VirtualTimeLoop, run_in_virtual_time

COLOUR = contextvars.ContextVar("COLOUR", default="grey")


class Gate:
    """A function that holds its thread until it is let go."""

    def __init__(self) -> None:
        """Start held."""
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, value: int = 0) -> int:
        """Wait, and return the argument."""
        self.entered.release()
        assert self.go.wait(LONG)
        return value


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that is open when the test ends."""
    gate = Gate()
    yield gate
    gate.go.set()


@pytest.fixture
def complaints(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Collects what threads raise and what asyncio and concurrent.futures log, and expects nothing of it."""
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    with caplog.at_level(logging.WARNING):
        yield raised
        gc.collect()
    assert raised == []
    assert caplog.records == []


def submit(bulkhead: Bulkhead, function: Callable[..., Any], *args: Any) -> Job:
    """Submit to the running loop."""
    return bulkhead.submit(asyncio.get_running_loop(), function, args)


async def started(bulkhead: Bulkhead, gate: Gate, value: int = 0) -> Job:
    """A call that holds a thread."""
    job = submit(bulkhead, gate, value)
    assert gate.entered.acquire(timeout=LONG)
    return job


def quiet(bulkhead: Bulkhead) -> None:
    """Wait until no thread works; for use outside the loop."""
    for thread in threading.enumerate():
        if thread.name.startswith(f"candidate-pipeline {bulkhead.name}_"):
            thread.join(LONG)


def test_returns_and_raises_what_the_function_does() -> None:
    """The future holds the result or the error, and the function runs in a thread named after its component."""

    async def main() -> None:
        bulkhead = Bulkhead("ranker", 2)
        assert await submit(bulkhead, divmod, 7, 2).future == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await submit(bulkhead, divmod, 7, 0).future
        name = await submit(bulkhead, lambda: threading.current_thread().name).future
        assert name.startswith("candidate-pipeline ranker")
        assert bulkhead.counts == ThreadCounts()
        bulkhead.close()

    run_in_virtual_time(main())


def test_stop_iteration_becomes_an_error() -> None:
    """`StopIteration`, which a future cannot carry, does not leave its waiter waiting."""

    async def main() -> None:
        bulkhead = Bulkhead("ranker", 1)
        with pytest.raises(RuntimeError, match=r"^StopIteration left the component$") as caught:
            await submit(bulkhead, next, iter(())).future
        assert isinstance(caught.value.__cause__, StopIteration)
        bulkhead.close()

    run_in_virtual_time(main())


def test_context_variables_go_in_and_do_not_come_out() -> None:
    """A thread sees the caller's context variables as they were at the call, and cannot change them."""

    def paint() -> str:
        seen = COLOUR.get()
        COLOUR.set("black")
        return seen

    async def main() -> None:
        bulkhead = Bulkhead("ranker", 1)
        COLOUR.set("red")
        first = submit(bulkhead, paint)
        COLOUR.set("blue")
        assert [await first.future, await submit(bulkhead, paint).future, COLOUR.get()] == ["red", "blue", "blue"]
        bulkhead.close()

    run_in_virtual_time(main())


def test_no_thread_before_the_first_call() -> None:
    """Threads are made when they are needed; closing without any is nothing special."""
    bulkhead = Bulkhead("idle one", 4)
    assert not [thread for thread in threading.enumerate() if "idle one" in thread.name]
    bulkhead.close()
    bulkhead.close()


def test_calls_queue_while_threads_are_busy(gate: Gate) -> None:
    """No more calls run than there are threads; the others wait for their turn."""

    async def main() -> None:
        bulkhead = Bulkhead("ranker", 2)
        jobs = [await started(bulkhead, gate, 1), await started(bulkhead, gate, 2), submit(bulkhead, gate, 3)]
        assert bulkhead.counts == ThreadCounts(queued=1, running=2)
        gate.go.set()
        assert [await job.future for job in jobs] == [1, 2, 3]
        assert bulkhead.counts == ThreadCounts()
        bulkhead.close()

    run_in_virtual_time(main())


def test_clock_stands_still_while_a_thread_works(gate: Gate) -> None:
    """A virtual clock sees the thread, until nobody waits for it any longer."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        bulkhead = Bulkhead("ranker", 1)
        job = await started(bulkhead, gate)
        threading.Timer(0.05, gate.go.set).start()
        await asyncio.wait({job.future}, timeout=3600)
        assert job.future.done()
        assert loop.time() == 0
        gate.go.clear()
        held = await started(bulkhead, gate)
        held.abandon()
        await asyncio.sleep(3600)
        assert loop.time() == 3600
        assert bulkhead.counts.abandoned == 1
        bulkhead.close()

    run_in_virtual_time(main())


def test_abandoned_call_keeps_its_thread_until_it_ends(gate: Gate, complaints: list[Any]) -> None:
    """Its future is cancelled at once, it is counted while it runs, and its thread then serves others."""

    async def main() -> None:
        bulkhead = Bulkhead("ranker", 2)
        job = await started(bulkhead, gate)
        job.abandon()
        job.abandon()
        assert job.future.cancelled()
        assert bulkhead.counts == ThreadCounts(running=1, abandoned=1, abandoned_total=1)
        assert await submit(bulkhead, abs, -1).future == 1
        gate.go.set()
        assert [await submit(bulkhead, abs, -value).future for value in range(50)] == list(range(50))
        bulkhead.close()
        await asyncio.to_thread(quiet, bulkhead)
        assert bulkhead.counts == ThreadCounts(abandoned_total=1)

    run_in_virtual_time(main())


def test_cancelling_the_waiter_abandons_the_call(gate: Gate) -> None:
    """A task that is cancelled while it waits for the future need not say that nobody waits any longer."""

    async def main() -> None:
        bulkhead = Bulkhead("ranker", 1)
        job = await started(bulkhead, gate)
        job.future.cancel()
        await asyncio.sleep(0)
        assert bulkhead.counts == ThreadCounts(running=1, abandoned=1, abandoned_total=1)
        job.abandon()
        assert bulkhead.counts.abandoned_total == 1
        bulkhead.close()

    run_in_virtual_time(main())


def test_abandoned_call_that_has_not_started_never_does(gate: Gate) -> None:
    """It leaves the queue, holds no thread and is not counted as one that does."""
    ran: list[int] = []

    async def main() -> None:
        bulkhead = Bulkhead("ranker", 1)
        first = await started(bulkhead, gate)
        queued = submit(bulkhead, ran.append, 1)
        queued.abandon()
        # Before the loop runs again, a thread may reach what it has abandoned.
        gate.go.set()
        last = submit(bulkhead, ran.append, 2)
        await asyncio.wait({first.future, last.future})
        assert queued.future.cancelled()
        assert bulkhead.counts == ThreadCounts()
        bulkhead.close()

    run_in_virtual_time(main())
    assert ran == [2]


@pytest.mark.parametrize(
    ("threads", "message"),
    [
        (1, "its only thread is held by a call that outlived its timeout (abandoned 1)"),
        (3, "all 3 threads are held by calls that outlived their timeouts (abandoned 3)"),
    ],
)
def test_refused_when_abandoned_calls_hold_all_threads(gate: Gate, threads: int, message: str) -> None:
    """A call is refused at once, with the reason, until a thread comes free."""

    async def main() -> None:
        bulkhead = Bulkhead("ranker", threads)
        jobs = [await started(bulkhead, gate) for _ in range(threads)]
        waiting = submit(bulkhead, abs, -3)  # live calls hold the threads: it may wait
        for job in jobs:
            job.abandon()
        with pytest.raises(FullError) as caught:
            submit(bulkhead, abs, -4)
        assert str(caught.value) == message
        assert bulkhead.counts == ThreadCounts(1, threads, threads, threads)
        gate.go.set()
        assert await waiting.future == 3
        bulkhead.close()
        await asyncio.to_thread(quiet, bulkhead)
        assert bulkhead.counts == ThreadCounts(abandoned_total=threads)

    run_in_virtual_time(main())


def test_one_live_call_lets_others_queue(gate: Gate) -> None:
    """While a thread is held by a call that somebody waits for, others may wait behind it."""

    async def main() -> None:
        bulkhead = Bulkhead("ranker", 2)
        lost, live = await started(bulkhead, gate), await started(bulkhead, gate, 5)
        lost.abandon()
        behind = submit(bulkhead, abs, -6)
        gate.go.set()
        assert [await live.future, await behind.future] == [5, 6]
        bulkhead.close()

    run_in_virtual_time(main())


def test_error_of_an_abandoned_call_is_nobodys(gate: Gate, complaints: list[Any]) -> None:
    """What it raises, before or after it is abandoned, is neither raised again nor complained of."""

    def fail() -> None:
        gate()
        raise ValueError("too late")

    async def main() -> None:
        bulkhead = Bulkhead("ranker", 1)
        early = submit(bulkhead, divmod, 1, 0)
        await asyncio.wait({early.future})
        early.abandon()
        late = submit(bulkhead, fail)
        assert gate.entered.acquire(timeout=LONG)
        late.abandon()
        gate.go.set()
        bulkhead.close()
        await asyncio.to_thread(quiet, bulkhead)

    run_in_virtual_time(main())


@pytest.mark.parametrize("error", [None, ValueError("too late")])
def test_abandoned_call_may_end_after_the_loop(
    gate: Gate, complaints: list[Any], capfd: pytest.CaptureFixture[str], error: Exception | None
) -> None:
    """A call that ends when its event loop is closed disturbs nobody."""
    bulkhead = Bulkhead("ranker", 1)

    def work() -> None:
        gate()
        if error is not None:
            raise error

    async def main() -> None:
        job = submit(bulkhead, work)
        assert gate.entered.acquire(timeout=LONG)
        job.abandon()

    loop = VirtualTimeLoop()
    loop.run_until_complete(main())
    bulkhead.close()
    loop.close()
    gate.go.set()
    quiet(bulkhead)
    assert bulkhead.counts == ThreadCounts(abandoned_total=1)
    assert capfd.readouterr() == ("", "")


def test_close_cancels_what_is_queued(gate: Gate) -> None:
    """Running calls end by themselves, queued ones are cancelled, and new ones are refused."""

    async def main() -> None:
        bulkhead = Bulkhead("ranker", 1)
        first, queued = await started(bulkhead, gate, 7), submit(bulkhead, abs, -1)
        bulkhead.close()
        with pytest.raises(asyncio.CancelledError):
            await queued.future
        with pytest.raises(RuntimeError, match=r"^the threads of ranker are closed$"):
            submit(bulkhead, abs, -1)
        gate.go.set()
        assert await first.future == 7
        assert bulkhead.counts == ThreadCounts()

    run_in_virtual_time(main())


def test_counts_are_right_after_a_storm(complaints: list[Any]) -> None:
    """Whatever races between threads and abandonment, every call is counted out again."""

    async def main() -> None:
        bulkhead = Bulkhead("ranker", 4)
        for round_ in range(60):
            count = 20 if bulkhead.counts.abandoned < 4 else 0
            jobs = [submit(bulkhead, sum, range(round_ * 50)) for _ in range(count)]
            for at, job in enumerate(jobs):
                if at % 3 == round_ % 3:
                    job.abandon()
            await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
        bulkhead.close()
        await asyncio.to_thread(quiet, bulkhead)
        counts = bulkhead.counts
        assert (counts.queued, counts.running, counts.abandoned) == (0, 0, 0)

    run_in_virtual_time(main())
