"""The batcher with real threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import threading
from collections import Counter
from collections.abc import Sequence

import pytest

from phoenix_recsys.batching import Batcher, BatchMetrics, BatchOptions, Closed, Expired, Refused


def test_use_out_of_place_is_told() -> None:
    """Not open, opened twice, on the wrong loop or in a thread that would wait for itself: an error says so."""
    found: list[BaseException | None] = []

    async def elsewhere(batcher: Batcher[int, int]) -> None:
        await batcher.submit(1)

    def run(numbers: Sequence[int]) -> Sequence[int]:
        try:
            batcher.submit_sync(1)
        except RuntimeError as error:
            found.append(error)
        return numbers

    batcher = Batcher[int, int](run, BatchOptions(max_size=2))

    async def main() -> None:
        await batcher.close()
        with pytest.raises(RuntimeError, match="not open"):
            await batcher.submit(1)
        async with batcher:
            with pytest.raises(RuntimeError, match="opens once"):
                await batcher.open()
            with pytest.raises(RuntimeError, match="use submit"):
                batcher.submit_sync(1)
            with pytest.raises(RuntimeError, match="use submit_sync"):
                await asyncio.to_thread(asyncio.run, elsewhere(batcher))
            await batcher.submit(1)

    asyncio.run(main())
    assert "use submit" in str(found[0])


def test_a_loop_that_ends_without_closing_leaves_no_thread_waiting() -> None:
    """Where the loop cancels the batcher's call at its end, callers in other threads get an error."""

    async def run(numbers: Sequence[int]) -> Sequence[int]:
        await asyncio.sleep(1000)
        return numbers

    async def main() -> tuple[Batcher[int, int], concurrent.futures.Future[int]]:
        batcher = Batcher[int, int](run, BatchOptions(max_size=2, max_wait=0))
        await batcher.open()
        future = await asyncio.to_thread(batcher.submit_future, 1)
        await asyncio.sleep(0.02)
        return batcher, future

    batcher, future = asyncio.run(main())
    assert isinstance(future.exception(timeout=0), Closed)
    with pytest.raises(Closed):
        batcher.submit_future(1)


def test_many_threads_and_tasks_get_their_own_answers() -> None:
    """Thousands of submissions with deadlines and cancellations each end once, on one worker thread, in order."""
    threads, each = 8, 500
    workers: set[int] = set()
    overlaps, active = 0, threading.Lock()

    def run(numbers: Sequence[int]) -> list[int]:
        nonlocal overlaps
        overlaps += not active.acquire(blocking=False)
        workers.add(threading.get_ident())
        active.release()
        if 13 in numbers:
            raise ValueError("thirteen")
        return [2 * number for number in numbers]

    def client(batcher: Batcher[int, int], seed: int) -> Counter[str]:
        rng, ends = random.Random(seed), Counter[str]()  # noqa: S311  # no secret
        for number in range(seed * each, (seed + 1) * each):
            cost, kind = rng.randint(1, 3), rng.random()
            if kind < 0.1:
                future = batcher.submit_future(number, cost=cost, key=seed)
                ends["cancelled" if future.cancel() else "kept"] += 1
                continue
            deadline = batcher.time() + rng.random() * 0.02 if kind < 0.4 else None
            try:
                assert batcher.submit_sync(number, cost=cost, key=seed, deadline=deadline) == 2 * number
                ends["done"] += 1
            except (Expired, Refused, ValueError) as error:
                ends[type(error).__name__] += 1
        return ends

    async def main() -> tuple[Counter[str], BatchMetrics]:
        options = BatchOptions(max_size=16, max_wait=0.001, split_on_error=True, max_queue=400)
        async with Batcher[int, int](run, options) as batcher:
            with concurrent.futures.ThreadPoolExecutor(threads) as pool:
                loop = asyncio.get_running_loop()
                clients = [loop.run_in_executor(pool, client, batcher, seed) for seed in range(threads)]
                own = await asyncio.gather(
                    *(batcher.submit(10_000 + number) for number in range(60)), return_exceptions=True
                )
                ends = sum(await asyncio.gather(*clients), Counter[str]())
        assert own == [2 * (10_000 + number) for number in range(60)]
        return ends, batcher.metrics()

    ends, got = asyncio.run(main())
    assert sum(ends.values()) == threads * each
    assert got.submitted == threads * each + 60
    assert got.submitted == got.done + got.expired + got.refused + got.failed + got.cancelled
    assert (got.expired, got.refused) == (ends["Expired"], ends["Refused"])
    # A future cancelled just as its batch ends may still be counted by the end that its request had.
    assert ends["done"] + 60 <= got.done <= ends["done"] + 60 + ends["cancelled"] + ends["kept"]
    assert got.failed <= 1
    assert (len(workers), overlaps) == (1, 0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("phoenix-batcher")]


def test_a_running_call_is_waited_for_and_its_thread_ends() -> None:
    """Closing answers the callers of a long call in time, and returns when the call has ended."""
    proceed = threading.Event()
    ended = []

    def run(numbers: Sequence[int]) -> Sequence[int]:
        proceed.wait()
        ended.append(True)
        return numbers

    async def main() -> None:
        batcher = Batcher[int, int](run, BatchOptions(max_size=1))
        await batcher.open()
        task = asyncio.ensure_future(batcher.submit(1))
        await asyncio.sleep(0.01)
        closing = asyncio.ensure_future(batcher.close(0.01))
        with pytest.raises(Closed):
            await task
        assert not ended
        proceed.set()
        await closing
        assert ended
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("phoenix-batcher")]

    asyncio.run(main())


def test_another_thread_can_take_a_request_back() -> None:
    """A future that is cancelled while its request waits takes it out of the queue."""
    calls: list[list[int]] = []

    def run(numbers: Sequence[int]) -> Sequence[int]:
        calls.append(list(numbers))
        return numbers

    async def main() -> None:
        async with Batcher[int, int](run, BatchOptions(max_size=2, max_wait=60)) as batcher:
            gone = await asyncio.to_thread(batcher.submit_future, 1)
            await asyncio.sleep(0)
            assert await asyncio.to_thread(gone.cancel)
            # These two fill a batch, unless the one that is gone still takes a place.
            pair = [asyncio.to_thread(batcher.submit_sync, number) for number in (2, 3)]
            assert await asyncio.gather(*pair) == [2, 3]
            assert batcher.metrics().cancelled == 1

    asyncio.run(main())
    assert [sorted(call) for call in calls] == [[2, 3]]
