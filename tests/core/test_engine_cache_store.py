"""The framework's cache: entries by the request's clock, single flight, and the keys that answers are filed under."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from cache_toys import KEYS, NUMBER, Fetch, counting, numbers, run
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from candidate_pipeline.cells import FAILED, NULL, VALID, Cells
from candidate_pipeline.engine.cache import RowCache, ValueCache
from candidate_pipeline.errors import ContractError
from candidate_pipeline.keys import Column

TEXT = Column("toy.text", np.object_)
ODDS = Column("toy.odds", np.float32, labels=("a", "b", "c"))
PLACE = Column("toy.place", np.float64, width=3)

Row = tuple[str, int]
STATES = {"full": (VALID, VALID, VALID), "half": (VALID, NULL, NULL), "null": (NULL,) * 3, "failed": (FAILED,) * 3}


def cells_of(rows: Sequence[Row], labels: tuple[str, ...] = ("a", "b")) -> dict[Column[Any], Cells]:
    """Cells of three columns for rows of a kind of state and a number that every value is made of."""
    states = [np.array([STATES[kind][at] for kind, _ in rows], np.uint8) for at in range(3)]
    values: list[NDArray[Any]] = [NUMBER.blank(len(rows)), TEXT.blank(len(rows)), ODDS.blank(len(rows), labels)]
    for row, (_, number) in enumerate(rows):
        for state, column, value in zip(states, values, (number, f"text {number}", number / 8), strict=True):
            if state[row] == VALID:
                column[row] = value
    return {
        NUMBER: Cells(values[0], states[0], 7),
        TEXT: Cells(values[1], states[1], 7),
        ODDS: Cells(values[2], states[2], 7, labels),
    }


def shown(cells: Mapping[Column[Any], Cells]) -> dict[str, list[Any]]:
    """States, values and labels as something to compare."""
    return {
        column.name: [given.labels, *zip(given.states().tolist(), given.values.tolist(), strict=True)]
        for column, given in cells.items()
    }


def row_cache(
    columns: Sequence[Column[Any]] = (NUMBER, TEXT, ODDS), *, ttl: int = 10, negative: int = 10, room: int = 100
) -> RowCache:
    """A cache of rows."""
    return RowCache(columns, ttl_ms=ttl, negative_ttl_ms=negative, max_items=room, writer=7)


class NaiveRows:
    """The same cache as a list of entries, least recently used first."""

    def __init__(self, ttl: int, negative: int, room: int) -> None:
        self.ttl, self.negative, self.room = ttl, negative, room
        self.entries: dict[Hashable, tuple[int, int, Row]] = {}
        self.labels: tuple[str, ...] = ()
        self.evictions = self.expired = 0

    def find(self, keys: Sequence[Hashable], now: int) -> tuple[dict[int, Row], list[int]]:
        """The rows found, and the first rows of the keys that are not."""
        hits: dict[int, Row] = {}
        missing: dict[Hashable, int] = {}
        old = set()
        for row, key in enumerate(keys):
            if key in self.entries:
                born, life, answer = self.entries[key]
                if 0 <= now - born < life:
                    hits[row] = answer
                    self.entries[key] = self.entries.pop(key)
                    continue
                if now - born >= life:
                    old.add(key)
            missing.setdefault(("uncacheable", row) if key is None else key, row)
        for key in old:
            del self.entries[key]
        self.expired += len(old)
        return hits, list(missing.values())

    def put(self, found: Mapping[Hashable, Row], others: Sequence[Row], labels: tuple[str, ...], now: int) -> None:
        """Keep what was fetched; `others` are rows that are not kept."""
        if not found:
            return
        has_labels = any(kind == "full" for kind, _ in [*found.values(), *others])
        if labels != self.labels and (has_labels or not self.labels):
            if any(kind == "full" for _, _, (kind, _) in self.entries.values()):
                self.evictions += len(self.entries)
                self.entries.clear()
            self.labels = labels
        lives = {"full": self.ttl, "half": self.ttl, "null": self.negative, "failed": 0}
        kept = [(key, (now, lives[row[0]], row)) for key, row in found.items() if lives[row[0]]][-self.room :]
        for key, entry in kept:
            known = self.entries.pop(key, None)
            if known is None and len(self.entries) == self.room:
                del self.entries[next(iter(self.entries))]
                self.evictions += 1
            self.entries[key] = entry


CALLS = st.tuples(
    KEYS,
    st.integers(0, 9),
    st.lists(st.sampled_from(sorted(STATES)), min_size=1, max_size=5),
    st.sampled_from([("a", "b"), ("a", "b"), ("c",)]),
)


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(CALLS, max_size=12),
    ttl=st.integers(1, 20),
    negative=st.integers(0, 20),
    room=st.sampled_from([1, 2, 3, 5, 100]),
)
def test_rows_agree_with_a_naive_cache(calls: list[Any], ttl: int, negative: int, room: int) -> None:
    """Values, states, counters, evictions and what is fetched are those of a naive cache, whatever the clocks do."""
    naive = NaiveRows(ttl, negative, room)

    async def body() -> None:
        cache = row_cache(ttl=ttl, negative=negative, room=room)
        for number, (keys, now, kinds, labels) in enumerate(calls):
            hits, missing = naive.find(keys, now)
            fresh = {row: (kinds[row % len(kinds)], 100 * number + row) for row in missing}
            asked: list[list[int]] = []

            async def fetch(
                rows: NDArray[np.intp], fresh: dict[int, Row] = fresh, labels: Any = labels, asked: Any = asked
            ) -> dict[Column[Any], Cells]:
                asked.append(rows.tolist())
                return cells_of([fresh[row] for row in rows.tolist()], labels)

            known_labels = naive.labels
            answer = await cache.get(keys, now, fetch)
            naive.put(
                {keys[row]: found for row, found in fresh.items() if keys[row] is not None},
                [found for row, found in fresh.items() if keys[row] is None],
                labels,
                now,
            )
            assert asked == ([missing] if missing else [])
            assert answer.missed == bool(missing)
            assert (answer.hits, answer.misses, answer.joined) == (len(hits), len(keys) - len(hits), 0)
            first = {keys[row]: row for row in missing}
            rows = [hits.get(row) or fresh[row if key is None else first[key]] for row, key in enumerate(keys)]
            new = any(kind == "full" for kind, _ in fresh.values())
            old = any(kind == "full" for kind, _ in hits.values())
            want = cells_of(rows, labels if new or (missing and not old) else known_labels)
            if new and old and labels != known_labels:  # the hits' labels turned out to be outdated
                assert [type(error) for error in answer.errors] == [ContractError]
                full = [row for row in hits if hits[row][0] == "full"]
                assert (answer.cells[ODDS].states()[full] == FAILED).all()
                rows = [row if at not in full else ("half", row[1]) for at, row in enumerate(rows)]
                assert answer.cells[ODDS].values.tolist() == cells_of(rows, labels)[ODDS].values.tolist()
                del want[ODDS]
            else:
                assert answer.errors == ()
            found = shown(answer.cells)
            assert {name: found[name] for name in shown(want)} == shown(want)
            failed = np.logical_or.reduce([cells.states() == FAILED for cells in answer.cells.values()])
            assert failed.tolist() == ([False] * len(keys) if answer.failed is None else answer.failed.tolist())
            assert len(cache) == len(naive.entries) <= room
            assert (cache.counters.evictions, cache.counters.expired) == (naive.evictions, naive.expired)

    run(body())


VALUES = st.tuples(st.integers(0, 4), st.integers(0, 9), st.booleans())


@settings(max_examples=40, deadline=None)
@given(st.lists(VALUES, max_size=25), st.integers(1, 20), st.integers(0, 20), st.integers(1, 4))
def test_values_agree_with_a_naive_cache(calls: list[Any], ttl: int, negative: int, room: int) -> None:
    """Whole answers are hit, expire and are evicted as in a naive cache."""

    async def body() -> None:
        cache = ValueCache(ttl_ms=ttl, negative_ttl_ms=negative, max_items=room)
        entries: dict[int, tuple[int, int, int]] = {}
        evictions = expired = 0
        for number, (key, now, nothing) in enumerate(calls):
            age = now - entries[key][0] if key in entries else -1
            hit = key in entries and 0 <= age < entries[key][1]
            if not hit and key in entries and age >= 0:
                del entries[key]
                expired += 1
            value = entries[key][2] if hit else -number - 1 if nothing else number
            if hit:
                entries[key] = entries.pop(key)
            elif negative or not nothing:
                entries.pop(key, None)
                entries[key] = (now, negative if nothing else ttl, value)
                if len(entries) > room:
                    del entries[next(iter(entries))]
                    evictions += 1

            async def fetch(value: int = value) -> int:
                return value

            answer = await cache.get(key, now, fetch, negative=lambda value: value < 0)
            assert answer == (value, "hit" if hit else "miss")
            assert len(cache) == len(entries)
            assert (cache.counters.evictions, cache.counters.expired) == (evictions, expired)

    run(body())


def test_a_hit_equals_the_miss() -> None:
    """Vectors, text, labels, states and writer come from the cache as they came from the fetch."""

    async def body() -> None:
        cache = row_cache([NUMBER, TEXT, ODDS, PLACE])
        kinds = ["full", "half", "null", "full"]
        fetched = cells_of([(kind, 3 * at) for at, kind in enumerate(kinds)], ("c", "a"))
        fetched[PLACE] = Cells(np.arange(12.0).reshape(4, 3), None, 7)

        async def fetch(rows: NDArray[np.intp]) -> dict[Column[Any], Cells]:
            return {column: cells.take(rows) for column, cells in fetched.items()}

        keys = ["w", "x", "y", "z"]
        miss = await cache.get(keys, 0, fetch)
        hit = await cache.get(keys, 5, fetch)
        assert (miss.hits, hit.hits) == (0, 4)
        assert shown(miss.cells) == shown(hit.cells) == shown(fetched)
        assert {cells.writer for cells in hit.cells.values()} == {7}
        assert [cells.values.dtype for cells in hit.cells.values()] == [np.int64, object, np.float32, np.float64]
        backwards = await cache.get(keys[::-1], 5, fetch)
        assert shown(backwards.cells) == shown(
            {column: cells.take(np.arange(4)[::-1]) for column, cells in fetched.items()}
        )

    run(body())


def test_an_answer_does_not_change_when_its_entries_are_replaced() -> None:
    """Cells that were handed out are copies: what the cache stores later does not show in them."""

    async def body() -> None:
        cache = row_cache([NUMBER], room=1)
        await cache.get([1], 0, counting()[0])
        waiting = asyncio.create_task(cache.get([1, 5, 6], 0, counting(5)[0]))  # row 0 is a hit
        held = await cache.get([1], 0, counting()[0])
        await cache.get([None, None, None, 2], 0, counting()[0])  # takes the place of 1
        assert numbers(held) == [0]
        assert numbers(await waiting) == [0, 1, 2]

    run(body())


def test_a_column_that_the_fetch_leaves_out_is_null() -> None:
    """Columns missing from a fetched table are null, now and from the cache; all of them make a negative entry."""

    async def body() -> None:
        cache = row_cache(negative=2)

        async def nothing(rows: NDArray[np.intp]) -> dict[Column[Any], Cells]:
            return {}

        for now, hits in ((0, 0), (1, 2), (2, 0)):
            answer = await cache.get([1, 2], now, nothing)
            assert answer.hits == hits
            assert all((cells.states() == NULL).all() for cells in answer.cells.values())
            assert answer.cells[NUMBER].values.tolist() == [-1, -1]

        async def odds(rows: NDArray[np.intp]) -> dict[Column[Any], Cells]:
            return cells_of([("full", 1)] * len(rows), ("c",))

        both = await cache.get([1, 3], 3, odds)  # nulls have no labels to contradict those of others
        assert (both.hits, both.errors) == (1, ())
        assert both.cells[ODDS].labels == ("c",)
        assert both.cells[ODDS].states().tolist() == [NULL, VALID]

    run(body())


def test_cells_of_the_wrong_length_fail_the_rows() -> None:
    """A fetch that answers for another number of rows is an error, and nothing of it is kept."""

    async def body() -> None:
        cache = row_cache([NUMBER])

        async def short(rows: NDArray[np.intp]) -> dict[Column[Any], Cells]:
            return {NUMBER: Cells(np.zeros(1, np.int64), None, 3)}

        answer = await cache.get([1, 2], 0, short)
        assert [str(error) for error in answer.errors] == ["toy.number: wanted cells for 2 rows, found 1"]
        assert len(cache) == 0

    run(body())


def test_the_least_recently_used_row_makes_room() -> None:
    """A hit, in a request of hits alone or not, and a fetch of a known key keep an entry from being evicted."""

    async def body() -> None:
        async def kept(*requests: tuple[list[int], int]) -> list[int]:
            cache = row_cache([NUMBER], ttl=1000, room=3)
            for keys, now in [([1, 2, 3], 50), *requests, ([4], 1000)]:
                await cache.get(keys, now, counting()[0])
            fetch, asked = counting()
            await cache.get(range(5), 1000, fetch)
            return [key for key in range(5) if key not in asked[0]]

        assert await kept() == [2, 3, 4]
        assert await kept(([1], 60)) == [1, 3, 4]
        assert await kept(([2, 1, 1], 60), ([2, 1], 70)) == [1, 2, 4]
        assert await kept(([1], 10)) == [1, 3, 4]  # before its time, so fetched again

    run(body())


def test_the_least_recently_used_value_makes_room() -> None:
    """A hit keeps an answer from being evicted."""

    async def body() -> None:
        cache = ValueCache(ttl_ms=10, negative_ttl_ms=10, max_items=2)

        async def found(key: int) -> str:
            return (await cache.get(key, 0, lambda: asyncio.sleep(0), negative=lambda _: False))[1]

        assert [await found(key) for key in (1, 2, 1, 3, 1, 2)] == ["miss", "miss", "hit", "miss", "hit", "miss"]

    run(body())


def test_outdated_labels_do_not_return() -> None:
    """A fetch that was overtaken by one with other labels is not kept, and its rows are left out beside newer ones."""

    async def body() -> None:
        cache = row_cache([ODDS])

        def odds(label: str, seconds: float) -> Fetch:
            async def fetch(rows: NDArray[np.intp]) -> dict[Column[Any], Cells]:
                await asyncio.sleep(seconds)
                return {ODDS: Cells(np.ones((len(rows), 1), np.float32), None, 7, (label,))}

            return fetch

        old = asyncio.create_task(cache.get([1], 0, odds("a", 5)))
        await asyncio.sleep(1)
        new = asyncio.create_task(cache.get([2], 0, odds("b", 1)))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(cache.get(keys, 0, odds("c", 0))) for keys in ([2, 1], [1, 2])]
        assert ((await old).cells[ODDS].labels, (await new).cells[ODDS].labels) == (("a",), ("b",))
        for task, states in zip(waiting, ([VALID, FAILED], [FAILED, VALID]), strict=True):
            both = await task
            assert both.cells[ODDS].labels == ("b",)
            assert both.cells[ODDS].states().tolist() == states
            assert both.failed is not None
            assert both.failed.tolist() == [state == FAILED for state in states]
            assert isinstance(both.errors[0], ContractError)
            assert "have the labels ('a',), later ones ('b',)" in str(both.errors[0])
        assert (await cache.get([2], 0, odds("b", 0))).hits == 1
        assert (await cache.get([1], 0, odds("b", 0))).hits == 0

    run(body())


def test_new_labels_drop_only_entries_that_have_others() -> None:
    """Entries of nulls stay when the labels change, whatever cells there were before they expired."""

    async def body() -> None:
        cache = row_cache()

        async def get(keys: list[int], now: int, kinds: list[str], label: str) -> int:
            async def fetch(rows: NDArray[np.intp]) -> dict[Column[Any], Cells]:
                return cells_of([(kinds[row], 1) for row in rows], (label,))

            return (await cache.get(keys, now, fetch)).hits

        await get([1, 2], 0, ["full", "full"], "a")
        await get([1, 2], 10, ["failed", "null"], "a")
        await get([3], 10, ["full"], "b")
        assert (await get([2, 3], 11, [], "b"), cache.counters.evictions) == (2, 0)
        await get([4], 11, ["full"], "a")
        assert (len(cache), cache.counters.evictions) == (1, 2)

    run(body())
