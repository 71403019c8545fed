"""The batcher on an event loop: in virtual time."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import attrs
import pytest

from candidate_pipeline.testing import run_in_virtual_time
from phoenix_recsys.batching import (
    Batcher,
    BatchMetrics,
    BatchOptions,
    Closed,
    Expired,
    Refused,
    WrongResultsError,
)


@attrs.define(eq=False)
class Device:
    """Doubles numbers, one call at a time, in a given time; refuses poison.

    Attributes:
        seconds: how long a call takes.
        poison: numbers that make a call fail.
        calls: when each call began, and its numbers.
    """

    seconds: float = 1.0
    poison: frozenset[int] = frozenset()
    calls: list[tuple[float, list[int]]] = attrs.field(factory=list)
    busy: bool = False

    async def run(self, numbers: Sequence[int]) -> list[int]:
        """A call."""
        assert not self.busy
        self.busy = True
        self.calls.append((asyncio.get_running_loop().time(), list(numbers)))
        try:
            await asyncio.sleep(self.seconds)
            if found := self.poison.intersection(numbers):
                raise ValueError(f"poison {sorted(found)}")
            return [2 * number for number in numbers]
        finally:
            self.busy = False


def virtually(
    device: Device, test: Callable[[Batcher[int, int]], Coroutine[Any, Any, None]], **options: Any
) -> BatchMetrics:
    """Run a test on an open batcher in virtual time; nothing may be left afterwards."""

    async def main() -> BatchMetrics:
        async with Batcher[int, int](
            device.run, BatchOptions(**{"max_size": 4, "max_wait": 0.5, **options})
        ) as batcher:
            await test(batcher)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        got = batcher.metrics()
        ended = got.done + got.expired + got.refused + got.failed + got.cancelled
        assert (got.submitted, got.waiting, got.running) == (ended, 0, 0)
        return got

    return run_in_virtual_time(main())


async def outcomes(*waits: Awaitable[int]) -> list[Any]:
    """Results, and errors as their classes."""
    got = await asyncio.gather(*waits, return_exceptions=True)
    return [type(one) if isinstance(one, BaseException) else one for one in got]


def test_requests_share_a_call_and_get_their_own_results() -> None:
    """What arrives within the wait of the first runs in one call, and results go by position."""
    device = Device()

    async def late(batcher: Batcher[int, int]) -> int:
        await asyncio.sleep(0.4)
        return await batcher.submit(3)

    async def test(batcher: Batcher[int, int]) -> None:
        assert await outcomes(batcher.submit(1), batcher.submit(2), late(batcher)) == [2, 4, 6]

    got = virtually(device, test)
    assert device.calls == [(0.5, [1, 2, 3])]
    assert (got.done, got.batches, got.mean_fill, got.max_wait_seen) == (3, 1, 0.75, 0.5)
    assert got.seconds_per_unit == pytest.approx(1 / 3)


def test_a_full_batch_starts_at_once_and_the_next_gathers_meanwhile() -> None:
    """No wait for more than fits; what arrives during a call starts when it ends."""
    device = Device()

    async def test(batcher: Batcher[int, int]) -> None:
        assert await outcomes(*map(batcher.submit, range(6))) == [0, 2, 4, 6, 8, 10]

    virtually(device, test)
    assert device.calls == [(0, [0, 1, 2, 3]), (1, [4, 5])]


def test_no_wait_still_merges_what_is_there() -> None:
    """At max_wait 0 requests of one turn of the loop share a call."""
    device = Device()

    async def test(batcher: Batcher[int, int]) -> None:
        await outcomes(*map(batcher.submit, range(3)))

    virtually(device, test, max_wait=0)
    assert device.calls == [(0, [0, 1, 2])]


def test_keys_take_turns() -> None:
    """A viewer with many requests does not hold up another's only one."""
    device = Device()

    async def test(batcher: Batcher[int, int]) -> None:
        many = [batcher.submit(number, key="many") for number in range(6)]
        await outcomes(*many, batcher.submit(100, key="one"))

    virtually(device, test, max_size=2)
    assert [call for _, call in device.calls] == [[0, 100], [1, 2], [3, 4], [5]]


def test_a_request_expires_at_its_deadline_and_never_runs() -> None:
    """While the device is busy, a deadline is answered when it passes, not when the call ends."""
    device = Device(seconds=10)

    async def test(batcher: Batcher[int, int]) -> None:
        first = asyncio.ensure_future(batcher.submit(1))
        await asyncio.sleep(1)
        with pytest.raises(Expired, match=r"after 2\.000 s in the queue"):
            await batcher.submit(2, deadline=batcher.time() + 2)
        assert batcher.time() == pytest.approx(3)
        with pytest.raises(Expired, match="before the request was submitted"):
            await batcher.submit(2, deadline=3)
        assert await first == 2

    got = virtually(device, test)
    assert got.expired == 2
    assert [call for _, call in device.calls] == [[1]]


def test_a_near_deadline_starts_a_batch_early() -> None:
    """A deadline before the end of the wait is met, with the margin in hand."""
    device = Device()

    async def test(batcher: Batcher[int, int]) -> None:
        assert await outcomes(batcher.submit(1), batcher.submit(2, deadline=10)) == [2, 4]

    virtually(device, test, max_wait=100, margin=3)
    assert device.calls == [(7, [1, 2])]


def test_what_cannot_be_in_time_is_refused_at_once() -> None:
    """A deadline sooner than the estimated wait is told the estimate without waiting; nobody is when idle."""
    device = Device(seconds=4)

    async def test(batcher: Batcher[int, int]) -> None:
        await outcomes(*map(batcher.submit, range(4)))
        running = [asyncio.ensure_future(batcher.submit(number, deadline=100)) for number in range(8)]
        await asyncio.sleep(1)
        with pytest.raises(Refused, match=r"estimated wait of 7\.000 s exceeds the deadline, 6\.000 s away") as refused:
            await batcher.submit(9, deadline=batcher.time() + 6)
        assert refused.value.estimate == pytest.approx(7)
        assert batcher.time() == pytest.approx(5)
        in_time = batcher.submit(10, deadline=batcher.time() + 8)
        assert await outcomes(*running, in_time) == [*range(0, 16, 2), 20]
        assert await batcher.submit(11, deadline=batcher.time() + 0.6) == 22

    assert virtually(device, test, margin=0).refused == 1


def test_a_full_queue_refuses() -> None:
    """Cost beyond max_queue is turned away; an oversized request alone runs alone."""
    device = Device()

    async def test(batcher: Batcher[int, int]) -> None:
        running = asyncio.ensure_future(batcher.submit(0, cost=50))
        await asyncio.sleep(0.1)
        waiting = asyncio.ensure_future(batcher.submit(1, cost=6))
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="queue is full: 6 units wait, the request has 3, and max_queue is 8"):
            await batcher.submit(2, cost=3)
        assert await outcomes(running, waiting) == [0, 2]

    assert virtually(device, test, max_queue=8).mean_fill == 1
    assert [call for _, call in device.calls] == [[0], [1]]


def test_a_cancelled_request_leaves_and_others_stay() -> None:
    """Waiting, it is not run; running, its result is dropped."""
    device = Device()

    async def test(batcher: Batcher[int, int]) -> None:
        running, gone, stays = (asyncio.ensure_future(batcher.submit(number)) for number in range(3))
        await asyncio.sleep(0.1)
        gone.cancel()
        await asyncio.sleep(0.5)
        running.cancel()
        assert await outcomes(running, gone, stays) == [asyncio.CancelledError, asyncio.CancelledError, 4]

    got = virtually(device, test)
    assert (got.cancelled, got.done) == (2, 1)
    assert device.calls == [(0.5, [0, 2])]


def test_an_error_fails_its_batch_only() -> None:
    """All requests of the failed call get what it raised; the next call runs."""
    device = Device(poison=frozenset({2}))

    async def test(batcher: Batcher[int, int]) -> None:
        assert await outcomes(*map(batcher.submit, range(5))) == [ValueError] * 4 + [8]

    assert virtually(device, test).failed == 4


def test_a_split_lets_poison_fail_alone() -> None:
    """Halves are run again until only the poisonous request fails."""
    device = Device(poison=frozenset({5}))

    async def test(batcher: Batcher[int, int]) -> None:
        assert await outcomes(*map(batcher.submit, range(8))) == [0, 2, 4, 6, 8, ValueError, 12, 14]

    got = virtually(device, test, max_size=8, split_on_error=True)
    assert (got.failed, got.done, got.batches) == (1, 7, 1)
    assert len(device.calls) == 7


def test_splitting_is_bounded() -> None:
    """A device that is broken altogether is not called once for each request."""
    device = Device(poison=frozenset(range(64)))

    async def test(batcher: Batcher[int, int]) -> None:
        assert await outcomes(*map(batcher.submit, range(64))) == [ValueError] * 64

    virtually(device, test, max_size=64, split_on_error=True)
    assert len(device.calls) == 1 + 4 * 6


def test_requests_given_up_are_not_retried() -> None:
    """A half leaves out what was cancelled during the call that failed."""
    device = Device(poison=frozenset({1}))

    async def test(batcher: Batcher[int, int]) -> None:
        tasks = [asyncio.ensure_future(batcher.submit(number)) for number in range(4)]
        await asyncio.sleep(0.5)
        tasks[2].cancel()
        tasks[3].cancel()
        await outcomes(*tasks)

    virtually(device, test, split_on_error=True)
    assert [call for _, call in device.calls] == [[0, 1, 2, 3], [0, 1], [0], [1]]


@pytest.mark.parametrize(
    ("results", "message"),
    [([], "2 results, one for each request, found 0"), ((1, 2, 3), "found 3"), (None, "found a NoneType")],
)
@pytest.mark.parametrize("threaded", [False, True])
def test_wrong_results_are_told(results: Any, message: str, threaded: bool) -> None:
    """Too few, too many or no sequence of results fails the whole batch, and is not retried."""
    calls = []

    def run(requests: Sequence[int]) -> Any:
        calls.append(requests)
        return results

    async def run_async(requests: Sequence[int]) -> Any:
        return run(requests)

    async def main() -> None:
        options = BatchOptions(max_size=2, split_on_error=True)
        async with Batcher[int, int](run if threaded else run_async, options) as batcher:
            got = await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)
        assert [type(one) for one in got] == [WrongResultsError] * 2
        assert message in str(got[0])

    run_in_virtual_time(main())
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("error", "threaded"),
    [
        (StopIteration("s"), True),
        (SystemExit(3), True),  # on the event loop, an exit is the loop's
        (asyncio.CancelledError(), True),
        (asyncio.CancelledError(), False),
        (KeyError("k"), True),
        (KeyError("k"), False),
    ],
)
def test_any_exception_reaches_the_requests(error: BaseException, threaded: bool) -> None:
    """What no future may carry arrives wrapped, with the cause; the batcher goes on."""
    fail = True

    def run(requests: Sequence[int]) -> Sequence[int]:
        if fail:
            raise error
        return requests

    async def run_async(requests: Sequence[int]) -> Sequence[int]:
        return run(requests)

    async def main() -> None:
        nonlocal fail
        async with Batcher[int, int](run if threaded else run_async, BatchOptions(max_size=2)) as batcher:
            with pytest.raises(KeyError if isinstance(error, KeyError) else RuntimeError):
                await batcher.submit(1)
            fail = False
            assert await batcher.submit(1) == 1

    run_in_virtual_time(main())


def test_closing_drains_without_waiting_for_more() -> None:
    """What was accepted runs at once; what comes later is turned away."""
    device = Device()

    async def test(batcher: Batcher[int, int]) -> None:
        tasks = [asyncio.ensure_future(batcher.submit(number)) for number in range(6)]
        await asyncio.sleep(0.1)
        closing = [asyncio.ensure_future(batcher.close()) for _ in range(2)]
        await asyncio.sleep(0.1)
        with pytest.raises(Closed, match="is closed"):
            await batcher.submit(7)
        with pytest.raises(Closed):
            batcher.submit_future(7)
        assert await outcomes(*tasks) == [0, 2, 4, 6, 8, 10]
        await asyncio.gather(*closing)
        assert batcher.time() == pytest.approx(2)

    assert virtually(device, test, max_wait=100).submitted == 6


@pytest.mark.parametrize("drain", [0, 0.3])
def test_closing_fails_what_is_left(drain: float) -> None:
    """After the time to drain, what waits and what runs gets an error, and the call is cancelled."""
    device = Device(seconds=1000)

    async def test(batcher: Batcher[int, int]) -> None:
        tasks = [asyncio.ensure_future(batcher.submit(number)) for number in range(6)]
        await asyncio.sleep(0.1 if drain else 0)
        await batcher.close(drain)
        assert await outcomes(*tasks) == [Closed] * 6
        assert batcher.time() < 1
        assert not device.busy

    assert virtually(device, test).failed == 6


def test_a_cancelled_close_still_answers_everyone() -> None:
    """Whoever is impatient with closing leaves nobody waiting."""
    device = Device(seconds=1000)

    async def test(batcher: Batcher[int, int]) -> None:
        tasks = [asyncio.ensure_future(batcher.submit(number)) for number in range(6)]
        await asyncio.sleep(0.1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await batcher.close(500)
        assert await outcomes(*tasks) == [Closed] * 6

    virtually(device, test)


def test_requests_and_results_are_let_go() -> None:
    """A batcher keeps nothing of the requests that ended, whichever way."""

    class Thing:
        pass

    kept: list[weakref.ref[Thing]] = []

    def thing() -> Thing:
        made = Thing()
        kept.append(weakref.ref(made))
        return made

    async def run(things: Sequence[Thing]) -> list[Thing]:
        await asyncio.sleep(1)
        return [thing() for _ in things]

    async def main() -> None:
        async with Batcher[Thing, Thing](run, BatchOptions(max_size=4, max_queue=100)) as batcher:
            far = batcher.time() + 1e9
            tasks = [asyncio.ensure_future(batcher.submit(thing(), deadline=far)) for _ in range(40)]
            late = [asyncio.ensure_future(batcher.submit(thing(), deadline=3)) for _ in range(2)]
            await asyncio.sleep(1.5)
            tasks[-1].cancel()
            await asyncio.gather(*tasks, *late, return_exceptions=True)
            assert batcher.metrics().cancelled == 1
            del tasks, late
            await asyncio.sleep(5)
            gc.collect()
            assert len(kept) > 60
            assert not [ref for ref in kept if ref() is not None]

    run_in_virtual_time(main())
