"""Where a hydrator's cache keeps its rows: an array a column, and a dictionary from keys to places in them."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np

from candidate_pipeline.cells import FAILED, NULL, VALID, Cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from candidate_pipeline.keys import Column

#: Places made at first; doubled as they fill.
_FIRST: Final = 256


@attrs.define
class CacheCounters:
    """What a cache did since it was made, in rows for hydrators and in calls for others.

    Args:
        hits: Answered from the cache.
        misses: Fetched.
        joined: Answered by what another request was fetching.
        evictions: Entries dropped for lack of room, or because their labels are no longer those of the column.
        expired: Entries dropped because a request found them too old.
    """

    hits: int = 0
    misses: int = 0
    joined: int = 0
    evictions: int = 0
    expired: int = 0


@attrs.define(eq=False)
class _Shelf:
    """One column's cells, by place."""

    column: Column[Any]
    values: NDArray[Any]
    state: NDArray[np.uint8]
    labels: tuple[str, ...] = ()

    @classmethod
    def of(cls, column: Column[Any], places: int) -> _Shelf:
        return cls(column, column.blank(places), np.full(places, NULL, np.uint8))

    def take(self, slots: NDArray[np.intp], writer: int) -> Cells:
        state = self.state[slots]
        return Cells(self.values[slots], None if (state == VALID).all() else state, writer, self.labels)

    def put(self, slots: NDArray[np.intp], cells: Cells, rows: NDArray[np.intp]) -> None:
        if cells.labels == self.labels:
            self.values[slots] = cells.values[rows]
        else:  # these cells are all null: see RowStore._relabel
            self.values[slots] = self.column.blank(len(slots), self.labels)
        self.state[slots] = VALID if cells.state is None else cells.state[rows]

    def grow(self, places: int) -> None:
        more = places - len(self.state)
        self.values = np.concatenate([self.values, self.column.blank(more, self.labels)])
        self.state = np.concatenate([self.state, np.full(more, NULL, np.uint8)])

    def clear(self, slots: list[int]) -> None:
        self.state[slots] = NULL
        if self.values.dtype == np.object_:
            self.values[slots] = None  # let go of the objects


class RowStore:
    """Entries of one cell a column; when they are too many, the least recently used make room."""

    def __init__(
        self,
        columns: Sequence[Column[Any]],
        *,
        ttl_ms: int,
        negative_ttl_ms: int,
        max_items: int,
        counters: CacheCounters,
        writer: int,
    ) -> None:
        """Make an empty one; see `RowCache` for the arguments."""
        self._ttl_ms = ttl_ms
        self._negative_ttl_ms = negative_ttl_ms
        self._max_items = max_items
        self._counters = counters
        self._writer = writer
        self._slots: OrderedDict[Hashable, int] = OrderedDict()  # least recently used first
        self._free: list[int] = []
        self._used = 0
        places = min(_FIRST, max_items)
        self._shelves = [_Shelf.of(column, places) for column in columns]
        self._born = np.zeros(places, np.int64)
        self._life = np.zeros(places, np.int64)
        self._order = np.zeros(places, np.int64)
        self._labels_order = -1

    def __len__(self) -> int:
        return len(self._slots)

    def find(self, keys: Sequence[Hashable | None], now_ms: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Look up keys, and count those found as used.

        Returns:
            `intp[n]` places for `take`, and `bool[n]` telling which of them count at this time.
        """
        slots = np.fromiter(map(self._slots.get, keys, repeat(-1)), np.intp, len(keys))
        age = now_ms - self._born[slots]
        young = age < self._life[slots]
        fresh = (age >= 0) & young & (slots >= 0)
        if fresh.all():
            deque(map(self._slots.move_to_end, keys), maxlen=0)
        else:
            deque(map(self._slots.move_to_end, [keys[row] for row in np.flatnonzero(fresh).tolist()]), maxlen=0)
            self._drop({keys[row] for row in np.flatnonzero(~young & (slots >= 0)).tolist()})
        return slots, fresh

    def take(self, slots: NDArray[np.intp]) -> dict[Column[Any], Cells]:
        """The cells at some places, copied."""
        return {shelf.column: shelf.take(slots, self._writer) for shelf in self._shelves}

    def put(self, places: Mapping[Hashable, int], cells: Mapping[Column[Any], Cells], now_ms: int, order: int) -> None:
        """Keep the rows of a fetched table that may be kept.

        Args:
            places: Keys, and the rows that hold their answers.
            cells: The table; every column of the store is in it.
            now_ms: The clock of the request that fetched it.
            order: Counts fetches; what an earlier one found never replaces what a later one found.
        """
        if not places or not self._relabel(cells, order):
            return
        states = [cells[shelf.column].state for shelf in self._shelves]
        life = self._lives(states, 1 + max(places.values()))
        kept = life.tolist()
        chosen = [(key, row) for key, row in places.items() if kept[row] > 0][-self._max_items :]
        slots, rows = self._places(chosen, order)
        if not slots.size:
            return
        for shelf in self._shelves:
            shelf.put(slots, cells[shelf.column], rows)
        self._born[slots] = now_ms
        self._life[slots] = life[rows]
        self._order[slots] = order

    def clear(self) -> None:
        """Drop all entries."""
        slots = list(self._slots.values())
        self._slots.clear()
        self._free += slots
        for shelf in self._shelves:
            shelf.clear(slots)

    def _lives(self, states: list[NDArray[np.uint8] | None], rows: int) -> NDArray[np.int64]:
        """How long each row counts, `int64[rows]`: 0 where it is not kept."""
        known = [state[:rows] for state in states if state is not None]
        life = np.full(rows, self._ttl_ms, np.int64)
        if len(known) == len(states):
            life[np.logical_and.reduce([state == NULL for state in known])] = self._negative_ttl_ms
        for state in known:
            life[state == FAILED] = 0
        return life

    def _places(self, chosen: list[tuple[Hashable, int]], order: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """A place for each key, and the row to put there; keys that a later fetch has filled already have none.

        There are no more keys than places, so that a key never takes the place of one before it.
        """
        slots: list[int] = []
        rows: list[int] = []
        for key, row in chosen:
            slot = self._slots.get(key)
            if slot is None:
                slot = self._slots[key] = self._new_place()
            elif self._order[slot] > order:
                continue
            else:
                self._slots.move_to_end(key)
            slots.append(slot)
            rows.append(row)
        if self._used > len(self._order):
            self._grow()
        return np.array(slots, np.intp), np.array(rows, np.intp)

    def _new_place(self) -> int:
        if self._free:
            return self._free.pop()
        if self._used < self._max_items:
            self._used += 1
            return self._used - 1
        self._counters.evictions += 1
        return self._slots.popitem(last=False)[1]

    def _grow(self) -> None:
        places = min(self._max_items, max(2 * len(self._order), self._used))
        more = np.zeros(places - len(self._order), np.int64)
        for shelf in self._shelves:
            shelf.grow(places)
        self._born = np.concatenate([self._born, more])
        self._life = np.concatenate([self._life, more])
        self._order = np.concatenate([self._order, more])

    def _drop(self, keys: set[Hashable | None]) -> None:
        """Drop entries that are too old."""
        if not keys:
            return
        slots = [self._slots.pop(key) for key in keys]
        self._counters.expired += len(slots)
        self._free += slots
        for shelf in self._shelves:
            shelf.clear(slots)

    def _relabel(self, cells: Mapping[Column[Any], Cells], order: int) -> bool:
        """Follow the labels of a newly fetched table; false if its labels are outdated themselves.

        A column has one set of labels at a time. Entries whose cells have others are dropped; cells that are all null
        have no labels to speak of.
        """
        changed = [shelf for shelf in self._shelves if cells[shelf.column].labels != shelf.labels]
        changed = [shelf for shelf in changed if not shelf.labels or has_valid(cells[shelf.column])]
        if not changed:
            return True
        if order < self._labels_order:
            return False
        if any((shelf.state == VALID).any() for shelf in changed):
            self._counters.evictions += len(self._slots)
            self.clear()
        for shelf in changed:
            shelf.labels = cells[shelf.column].labels
            shelf.values = shelf.column.blank(len(shelf.state), shelf.labels)
        self._labels_order = order
        return True


def has_valid(cells: Cells) -> bool:
    """Whether any cell holds a value."""
    return bool(len(cells.values)) and (cells.state is None or bool((cells.state == VALID).any()))
