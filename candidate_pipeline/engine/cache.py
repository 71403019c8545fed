"""What `run.cache` keeps: rows of hydrators, whole answers of sources and query hydrators.

An entry fetched by a request whose clock was t counts for requests whose clocks are at t or later, by less than its
time to live: a replay never sees what its request could not have seen. What is being fetched is waited for, not
fetched again. Failures are not kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import attrs
import numpy as np

from candidate_pipeline.cells import FAILED, NO_WRITER, NULL, VALID, Cells
from candidate_pipeline.engine.cache_keys import freeze, row_keys
from candidate_pipeline.engine.flights import Flight, Flights
from candidate_pipeline.engine.row_store import CacheCounters, RowStore, has_valid
from candidate_pipeline.errors import ContractError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from candidate_pipeline.keys import Column

__all__ = ["CacheCounters", "Found", "RowAnswer", "RowCache", "ValueCache", "freeze", "row_keys"]

T = TypeVar("T")

#: Where an answer came from: the cache, the request's own fetch, or another request's.
Found: TypeAlias = Literal["hit", "miss", "joined"]
Table: TypeAlias = "Mapping[Column[Any], Cells]"


def _join_ms(ttl_ms: int, negative_ttl_ms: int) -> int:
    """How much later than a flight a request may be to join it: by no more than any entry it may bring counts for.

    Negative entries that are not kept at all set no limit, or nobody could ever wait for anybody.
    """
    return min(ttl_ms, negative_ttl_ms) if negative_ttl_ms else ttl_ms


@attrs.frozen(eq=False)
class _Entry:
    value: Any
    born: int
    life: int
    order: int


class ValueCache:
    """Keeps whole answers: those of a source or a query hydrator.

    Args:
        ttl_ms: How long an entry counts.
        negative_ttl_ms: How long a negative entry counts; 0: it is not kept.
        max_items: Entries kept; the least recently used go first.
    """

    def __init__(self, *, ttl_ms: int, negative_ttl_ms: int, max_items: int) -> None:
        self.counters = CacheCounters()
        self._ttl_ms = ttl_ms
        self._negative_ttl_ms = negative_ttl_ms
        self._max_items = max_items
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()  # least recently used first
        self._flights: Flights[Any] = Flights(_join_ms(ttl_ms, negative_ttl_ms))

    def __len__(self) -> int:
        return len(self._entries)

    async def get(
        self, key: Hashable, now_ms: int, fetch: Callable[[], Awaitable[T]], *, negative: Callable[[T], bool]
    ) -> tuple[T, Found]:
        """The answer for a key, from the cache or fetched.

        Args:
            key: What the answer depends on.
            now_ms: The request's clock.
            fetch: Finds the answer; runs in a task of its own, and is cancelled when nobody waits for it any more.
            negative: Whether an answer says that there is nothing.

        Raises:
            CandidatePipelineError: What this request waited for was cancelled by `close`, or by itself.
            BaseException: Whatever `fetch` raised, for every request that waited for it.
        """
        entry = self._entries.get(key)
        if entry is not None:
            age = now_ms - entry.born
            if 0 <= age < entry.life:
                self._entries.move_to_end(key)
                self.counters.hits += 1
                return entry.value, "hit"
            if age >= entry.life:
                del self._entries[key]
                self.counters.expired += 1

        async def work(flight: Flight[Any]) -> T:
            value = await fetch()
            self._keep(key, _Entry(value, now_ms, self._life(negative(value)), flight.order))
            return value

        found: Found = "joined"
        flight = self._flights.joinable(key, now_ms)
        if flight is None:
            found = "miss"
            flight = self._flights.start({key: 0}, now_ms, work)
            self.counters.misses += 1
        else:
            self.counters.joined += 1
        await self._flights.land([flight])
        error = flight.error()
        if error is not None:
            raise error
        value: T = flight.task.result()
        return value, found

    @property
    def flying(self) -> int:
        """Fetches that have not ended, those that nobody waits for any more among them."""
        return len(self._flights)

    async def close(self, grace: float | None = None) -> int:
        """Cancel what is being fetched, wait until it has ended, and forget all entries.

        Args:
            grace: Seconds to wait at most.

        Returns:
            How many fetches ignore their cancellation and still run.
        """
        stuck = await self._flights.close(grace)
        self._entries.clear()
        return stuck

    def _life(self, negative: bool) -> int:
        return self._negative_ttl_ms if negative else self._ttl_ms

    def _keep(self, key: Hashable, entry: _Entry) -> None:
        old = self._entries.get(key)
        if entry.life <= 0 or (old is not None and old.order > entry.order):
            return  # what an earlier fetch found never replaces what a later one found
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_items:
            self._entries.popitem(last=False)
            self.counters.evictions += 1


@attrs.frozen(eq=False)
class RowAnswer:
    """What `RowCache.get` found for `n` rows.

    Args:
        cells: Every column of the cache; cells that could not be had are failed.
        failed: `bool[n]`, the rows with failed cells; `None` when there are none.
        errors: Why fetches failed, the request's own and those it joined.
        hits: Rows answered from the cache.
        misses: Rows that the request fetched itself, those with equal keys counted one by one.
        joined: Rows that another request was fetching.
        missed: Whether the request's own `fetch` ran.
    """

    cells: Table
    failed: NDArray[np.bool_] | None
    errors: tuple[BaseException, ...]
    hits: int
    misses: int
    joined: int
    missed: bool


@attrs.define(eq=False)
class _Rows:
    """Rows of a request that one flight answers, and where their answers stand in the flight's table."""

    rows: list[int] = attrs.field(factory=list)
    at: list[int] = attrs.field(factory=list)

    def add(self, row: int, at: int) -> None:
        self.rows.append(row)
        self.at.append(at)


#: Some rows of a request, ascending, and their cells.
_Part: TypeAlias = "tuple[NDArray[np.intp], Table]"


class RowCache:
    """Keeps a hydrator's answers, row by row.

    Args:
        columns: The columns that the hydrator writes.
        ttl_ms: How long an entry counts.
        negative_ttl_ms: How long an entry counts whose every cell is null; 0: it is not kept.
        max_items: Entries kept; the least recently used go first.
        writer: The writer that all returned cells name.
    """

    def __init__(
        self,
        columns: Sequence[Column[Any]],
        *,
        ttl_ms: int,
        negative_ttl_ms: int,
        max_items: int,
        writer: int = NO_WRITER,
    ) -> None:
        self.counters = CacheCounters()
        self._columns = tuple(columns)
        self._writer = writer
        self._store = RowStore(
            columns,
            ttl_ms=ttl_ms,
            negative_ttl_ms=negative_ttl_ms,
            max_items=max_items,
            counters=self.counters,
            writer=writer,
        )
        self._flights: Flights[Table] = Flights(_join_ms(ttl_ms, negative_ttl_ms))

    def __len__(self) -> int:
        return len(self._store)

    async def get(
        self,
        keys: Sequence[Hashable | None],
        now_ms: int,
        fetch: Callable[[NDArray[np.intp]], Awaitable[Table]],
    ) -> RowAnswer:
        """The cells of rows, from the cache or fetched.

        Args:
            keys: What each row's answer depends on; `None`: the row is fetched, and neither kept nor shared.
            now_ms: The request's clock.
            fetch: Called at most once, with the ascending indices of rows; returns their cells, in that order. A
                column that it leaves out is null. It runs in a task of its own, and is cancelled when nobody waits
                for it any more.
        """
        slots, fresh = self._store.find(keys, now_ms)
        rows = len(keys)
        if fresh.all():
            self.counters.hits += rows
            return RowAnswer(self._store.take(slots), None, (), rows, 0, 0, missed=False)
        hit_rows = np.flatnonzero(fresh)
        # Taken now: while this request waits, the places may be given to others.
        parts: list[_Part] = [(hit_rows, self._store.take(slots[hit_rows]))] if hit_rows.size else []

        wanted, own = self._share_out(keys, np.flatnonzero(~fresh).tolist(), now_ms)
        misses = len(own.rows)
        joined = rows - hit_rows.size - misses
        self.counters.hits += hit_rows.size
        self.counters.misses += misses
        self.counters.joined += joined
        if own.rows:
            wanted[self._start(keys, own, now_ms, fetch)] = own
        await self._flights.land(list(wanted))

        errors: list[BaseException] = []
        for flight in sorted(wanted, key=lambda flight: flight.order):  # later parts know a column's labels better
            error = flight.error()
            if error is None:
                parts.append(_part(wanted[flight], flight.task.result()))
            else:
                errors.append(error)
        cells = self._assembled(rows, parts, errors)
        failed = _failed(cells, rows)
        return RowAnswer(cells, failed, tuple(errors), int(hit_rows.size), misses, joined, missed=bool(own.rows))

    @property
    def flying(self) -> int:
        """Fetches that have not ended, those that nobody waits for any more among them."""
        return len(self._flights)

    async def close(self, grace: float | None = None) -> int:
        """Cancel what is being fetched, wait until it has ended, and forget all entries.

        Args:
            grace: Seconds to wait at most.

        Returns:
            How many fetches ignore their cancellation and still run.
        """
        stuck = await self._flights.close(grace)
        self._store.clear()
        return stuck

    def _share_out(
        self, keys: Sequence[Hashable | None], missing: list[int], now_ms: int
    ) -> tuple[dict[Flight[Table], _Rows], _Rows]:
        """Which missing rows others are fetching, and which are left to this request."""
        theirs: dict[Flight[Table], _Rows] = {}
        if self._flights.idle and len({keys[row] for row in missing}) == len(missing):
            return {}, _Rows(missing, list(range(len(missing))))
        own = _Rows()
        first: dict[Hashable, int] = {}
        fetched = 0
        for row in missing:
            key = keys[row]
            flight = self._flights.joinable(key, now_ms)
            if flight is not None:
                theirs.setdefault(flight, _Rows()).add(row, flight.places[key])
                continue
            at = fetched if key is None else first.setdefault(key, fetched)
            own.add(row, at)
            fetched += at == fetched
        return theirs, own

    def _start(
        self,
        keys: Sequence[Hashable | None],
        own: _Rows,
        now_ms: int,
        fetch: Callable[[NDArray[np.intp]], Awaitable[Table]],
    ) -> Flight[Table]:
        first = np.unique(np.array(own.at, np.intp), return_index=True)[1]
        rows = np.array(own.rows, np.intp)[first]
        places = {key: at for at, row in enumerate(rows.tolist()) if (key := keys[row]) is not None}

        async def work(flight: Flight[Table]) -> Table:
            found = await fetch(rows)
            cells = {column: self._own(column, found.get(column), len(rows)) for column in self._columns}
            self._store.put(flight.places, cells, now_ms, flight.order)
            return cells

        return self._flights.start(places, now_ms, work)

    def _own(self, column: Column[Any], cells: Cells | None, rows: int) -> Cells:
        """A fetched column as an answer's; nulls, if the fetch left it out.

        Raises:
            ContractError: It has the wrong number of rows.
        """
        if cells is None:
            return Cells(column.blank(rows), np.full(rows, NULL, np.uint8), self._writer)
        if len(cells.values) != rows:
            raise ContractError(f"{column.name}: wanted cells for {rows} rows, found {len(cells.values)}")
        return attrs.evolve(cells, writer=self._writer)

    def _assembled(self, rows: int, parts: list[_Part], errors: list[BaseException]) -> Table:
        if len(parts) == 1 and len(parts[0][0]) == rows:
            return parts[0][1]
        return {
            column: self._merged(column, rows, [(index, part[column]) for index, part in parts], errors)
            for column in self._columns
        }

    def _merged(
        self,
        column: Column[Any],
        rows: int,
        parts: list[tuple[NDArray[np.intp], Cells]],
        errors: list[BaseException],
    ) -> Cells:
        """One column of parts that were found at different times, earliest first; rows that none has are failed."""
        known = [cells.labels for _, cells in parts if has_valid(cells)] or [cells.labels for _, cells in parts]
        labels = known[-1] if known else ()
        values = column.blank(rows, labels)
        state = np.full(rows, FAILED, np.uint8)
        for index, cells in parts:
            found = cells.states()
            if cells.labels == labels:
                values[index] = cells.values
            elif has_valid(cells):
                errors.append(
                    ContractError(
                        f"{column.name}: rows found earlier have the labels {cells.labels}, later ones {labels}; "
                        "the earlier ones are outdated, and are left out of this answer"
                    )
                )
                found = np.where(found == VALID, np.uint8(FAILED), found)
            state[index] = found
        return Cells(values, None if (state == VALID).all() else state, self._writer, labels)


def _part(wanted: _Rows, table: Table) -> _Part:
    at = np.array(wanted.at, np.intp)
    rows = np.array(wanted.rows, np.intp)
    whole = all(len(cells.values) == len(at) for cells in table.values()) and (at == np.arange(len(at))).all()
    return rows, table if whole else {column: cells.take(at) for column, cells in table.items()}


def _failed(cells: Table, rows: int) -> NDArray[np.bool_] | None:
    failed = np.zeros(rows, np.bool_)
    for column in cells.values():
        if column.state is not None:
            failed |= column.state == FAILED
    return failed if failed.any() else None
