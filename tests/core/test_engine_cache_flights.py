"""Single flight in the framework's cache: who waits for whose fetch, and what becomes of it."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

import numpy as np
import pytest
from cache_toys import KEYS, NUMBER, counting, numbers, run
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from candidate_pipeline.cells import Cells
from candidate_pipeline.engine.cache import RowCache, ValueCache
from candidate_pipeline.errors import CandidatePipelineError
from candidate_pipeline.keys import Column


def row_cache(*, ttl: int = 10, room: int = 100) -> RowCache:
    """A cache of NUMBER."""
    return RowCache([NUMBER], ttl_ms=ttl, negative_ttl_ms=ttl, max_items=room)


def test_a_key_is_fetched_once_within_and_among_requests() -> None:
    """Equal keys of a request are fetched once, and keys that another request is fetching not at all."""

    async def body() -> None:
        cache = row_cache()
        slow, asked_slow = counting(5)
        quick, asked_quick = counting(1)
        first = asyncio.create_task(cache.get([1, 2, 1, None, None], 0, slow))
        await asyncio.sleep(1)
        second = await cache.get([2, 3, 3, 1], 3, quick)
        assert numbers(await first) == [0, 1, 0, 3, 4]
        assert asked_slow == [[0, 1, 3, 4]]
        assert asked_quick == [[1]]
        assert numbers(second) == [1, 1, 1, 0]
        assert (second.hits, second.misses, second.joined, second.missed) == (0, 2, 2, True)
        assert (cache.counters.misses, cache.counters.joined) == (7, 2)
        third = await cache.get([1, 2, 3], 9, quick)
        assert (numbers(third), third.hits, third.missed) == ([0, 1, 1], 3, False)

    run(body())


@pytest.mark.parametrize(("now", "joins"), [(99, False), (100, True), (109, True), (110, False)])
def test_only_a_flight_that_the_clock_allows_is_joined(now: int, joins: bool) -> None:
    """A request joins a flight under the rule for entries: neither from its future nor as old as the ttl."""

    async def body() -> None:
        cache = row_cache(ttl=10)
        fetch, asked = counting(1)
        first = asyncio.create_task(cache.get([1], 100, fetch))
        await asyncio.sleep(0)
        answer = await cache.get([1], now, fetch)
        await first
        assert (answer.joined, len(asked)) == ((1, 1) if joins else (0, 2))

    run(body())


def test_a_shorter_negative_ttl_bounds_joining() -> None:
    """What may turn out to be a negative entry is joined only as long as that entry would count."""

    async def body() -> None:
        for negative, joined in ((5, 0), (6, 1), (0, 1)):
            cache = ValueCache(ttl_ms=10, negative_ttl_ms=negative, max_items=5)

            async def fetch() -> None:
                await asyncio.sleep(1)

            await asyncio.gather(
                *(cache.get("key", now, fetch, negative=lambda value: value is None) for now in (0, 5))
            )
            assert cache.counters.joined == joined

    run(body())


def test_an_earlier_fetch_does_not_replace_what_a_later_one_found() -> None:
    """An answer that took long is not kept over the newer one that overtook it."""

    async def body() -> None:
        cache = row_cache(ttl=10)
        values = ValueCache(ttl_ms=10, negative_ttl_ms=10, max_items=10)

        async def value(seconds: float) -> float:
            await asyncio.sleep(seconds)
            return seconds

        async def both(now: int, seconds: float) -> None:
            await asyncio.gather(
                cache.get([None, 1] if seconds > 1 else [1], now, counting(seconds)[0]),
                values.get(1, now, lambda: value(seconds), negative=lambda _: False),
            )

        await asyncio.gather(both(0, 9), both(50, 1))
        assert numbers(await cache.get([1], 51, counting()[0])) == [0]
        assert await values.get(1, 51, lambda: value(0), negative=lambda _: False) == (1, "hit")
        assert cache.counters.hits == 1

    run(body())


def test_an_overtaken_flight_takes_its_own_keys_only() -> None:
    """When a flight ends, the one that has replaced it for a key can still be joined."""

    async def body() -> None:
        cache = row_cache(ttl=10)
        tasks = []
        for now, seconds in ((0, 2), (50, 5)):
            tasks.append(asyncio.create_task(cache.get([1], now, counting(seconds)[0])))
            await asyncio.sleep(0.1)
        await tasks[0]
        fetch, asked = counting()
        assert (await cache.get([1], 51, fetch)).joined == 1
        assert asked == []
        await tasks[1]

    run(body())


def test_a_cancelled_leader_leaves_its_flight_to_those_who_joined() -> None:
    """Cancelling the request that started a fetch does not fail another that waits for it."""

    async def body() -> None:
        cache = row_cache()
        fetch, asked = counting(5)
        leader = asyncio.create_task(cache.get([1, 2], 0, fetch))
        await asyncio.sleep(1)
        follower = asyncio.create_task(cache.get([2], 1, fetch))
        await asyncio.sleep(1)
        leader.cancel()
        answer = await follower
        assert leader.cancelled()
        assert numbers(answer) == [1]
        assert asked == [[0, 1]]
        assert (await cache.get([1, 2], 2, fetch)).hits == 2

    run(body())


def test_a_flight_is_cancelled_with_its_last_waiter() -> None:
    """When nobody waits any more the fetch is cancelled, nothing is kept, and the next request fetches anew."""

    async def body() -> None:
        cache = row_cache()
        ended: list[str] = []

        async def fetch(rows: NDArray[np.intp]) -> dict[Column[Any], Cells]:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                ended.append("cancelled")
                await asyncio.sleep(3)  # cleaning up takes a while
                raise
            return {}

        tasks = [asyncio.create_task(cache.get([1], 0, fetch)) for _ in range(3)]
        await asyncio.sleep(1)
        assert cache.flying == 1
        for task in tasks[:2]:
            task.cancel()
        await asyncio.sleep(1)
        assert ended == []
        tasks[2].cancel()
        await asyncio.sleep(1)
        assert ended == ["cancelled"]
        assert cache.flying == 1  # still cleaning up, but nobody joins it
        quick, asked = counting()
        assert (await cache.get([1], 0, quick)).missed
        assert asked == [[0]]
        await asyncio.sleep(5)
        assert cache.flying == 0
        assert len(cache) == 1

    run(body())


def test_a_failed_fetch_fails_every_waiter_and_is_not_kept() -> None:
    """Rows of a failed fetch are failed, with the error, for all who waited; other rows keep their values."""

    async def body() -> None:
        cache = row_cache()
        good, _ = counting()
        bad, asked = counting(1, fail=OSError("gone"))
        await cache.get([1, 2], 0, good)
        one, two = await asyncio.gather(cache.get([1, 3, 2], 1, bad), cache.get([3, 2], 1, bad))
        assert numbers(one) == [0, None, 1]
        assert numbers(two) == [None, 1]
        for answer in (one, two):
            assert [str(error) for error in answer.errors] == ["gone"]
            assert answer.failed is not None
        assert two.failed is not None
        assert two.failed.tolist() == [True, False]
        assert asked == [[1]]
        assert numbers(await cache.get([3], 1, good)) == [0]

    run(body())


def test_a_failed_value_is_raised_for_every_waiter() -> None:
    """A source's error reaches all who waited for it, and the next request tries again."""

    async def body() -> None:
        cache = ValueCache(ttl_ms=10, negative_ttl_ms=10, max_items=10)

        async def bad() -> int:
            await asyncio.sleep(1)
            raise OSError("gone")

        async def good() -> int:
            return 5

        def get(fetch: Callable[[], Awaitable[int]]) -> Coroutine[Any, Any, Any]:
            return cache.get("key", 0, fetch, negative=lambda _: False)

        results = await asyncio.gather(get(bad), get(bad), return_exceptions=True)
        assert [str(result) for result in results] == ["gone", "gone"]
        assert await get(good) == (5, "miss")
        assert await get(bad) == (5, "hit")
        assert (cache.counters.hits, cache.counters.misses, cache.counters.joined) == (1, 2, 1)

    run(body())


def test_a_failure_that_nobody_waits_for_is_not_reported() -> None:
    """A fetch that answers its cancellation with an error leaves no warning behind."""

    async def body() -> None:
        cache = row_cache()

        async def fetch(rows: NDArray[np.intp]) -> dict[Column[Any], Cells]:
            try:
                await asyncio.sleep(100)
            finally:
                raise OSError("no clean end")

        task = asyncio.create_task(cache.get([1], 0, fetch))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(1)
        assert task.cancelled()

    run(body())


def test_close_ends_all_flights_without_cancelling_requests() -> None:
    """After `close` no fetch is left, and those who waited get an error of the cache's, not a cancellation."""

    async def body() -> None:
        cache, values = row_cache(), ValueCache(ttl_ms=10, negative_ttl_ms=10, max_items=10)
        await cache.get([9], 0, counting()[0])
        rows = asyncio.create_task(cache.get([1, 9], 0, counting(100)[0]))
        value = asyncio.create_task(values.get(1, 0, lambda: asyncio.sleep(100), negative=lambda _: False))
        await asyncio.sleep(1)
        assert (await cache.close(), await values.close()) == (0, 0)
        answer = await rows
        assert numbers(answer) == [None, 0]
        assert isinstance(answer.errors[0], CandidatePipelineError)
        with pytest.raises(CandidatePipelineError, match="cancelled"):
            await value
        assert (cache.flying, values.flying, len(cache), len(values)) == (0, 0, 0, 0)

    run(body())


def test_close_counts_fetches_that_ignore_it() -> None:
    """With a limit, `close` returns although a fetch swallows its cancellation, and says that there is one."""

    async def body() -> None:
        cache = row_cache()

        async def deaf(rows: NDArray[np.intp]) -> dict[Column[Any], Cells]:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                await asyncio.sleep(100)
            return {}

        waiter = asyncio.create_task(cache.get([1], 0, deaf))
        await asyncio.sleep(1)
        assert await cache.close(grace=1.0) == 1
        await waiter

    run(body())


class Request(NamedTuple):
    """One request of the test below."""

    start: int
    clock: int
    keys: list[int | None]
    delay: int
    fails: bool
    patience: int


@settings(max_examples=150, deadline=None)
@given(
    requests=st.lists(
        st.builds(
            Request,
            st.integers(0, 10),
            st.integers(0, 12),
            KEYS,
            st.integers(0, 6),
            st.sampled_from([False, False, True]),
            st.sampled_from([2, 4, 100]),
        ),
        max_size=10,
    ),
    ttl=st.integers(1, 12),
    room=st.sampled_from([1, 3, 100]),
    one_clock=st.booleans(),
)
def test_concurrent_requests_get_what_their_clock_allows(
    requests: list[Request], ttl: int, room: int, one_clock: bool
) -> None:
    """Each row is the key's own, from an allowed moment; with one clock no key is fetched twice at a time."""

    async def body() -> None:
        cache = row_cache(ttl=ttl, room=room)
        fetching: collections.Counter[int] = collections.Counter()

        async def serve(request: Request) -> None:
            await asyncio.sleep(request.start)
            clock = 0 if one_clock else request.clock

            async def fetch(rows: NDArray[np.intp]) -> dict[Column[Any], Cells]:
                mine = [key for row in rows if (key := request.keys[row]) is not None]
                fetching.update(mine)
                if one_clock:
                    assert max(fetching.values(), default=0) <= 1
                try:
                    await asyncio.sleep(request.delay)
                finally:
                    fetching.subtract(mine)
                if request.fails:
                    raise OSError("gone")
                found = [1000 * (-1 if (key := request.keys[row]) is None else key) + clock for row in rows]
                return {NUMBER: Cells(np.array(found, np.int64), None, 3)}

            try:
                async with asyncio.timeout(request.patience):
                    answer = await cache.get(request.keys, clock, fetch)
            except TimeoutError:
                return
            assert all(isinstance(error, OSError) for error in answer.errors)
            assert (answer.failed is not None) == bool(answer.errors)
            for key, number in zip(request.keys, numbers(answer), strict=True):
                if number is not None:
                    assert number // 1000 == (-1 if key is None else key)
                    assert 0 <= clock - number % 1000 < ttl

        await asyncio.gather(*map(serve, requests))
        await asyncio.sleep(0)
        assert cache.flying == 0
        assert len(cache) <= room

    run(body(), collect=False)
