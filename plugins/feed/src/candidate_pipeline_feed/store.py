"""The resource that holds a data directory's tables, indexed for requests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.options import DataDir, Doc
from candidate_pipeline_feed.datadir import bundled_world
from candidate_pipeline_feed.engagements import Engagements, gather
from candidate_pipeline_feed.records import Tables
from candidate_pipeline_feed.schema import EDGE_CODE
from candidate_pipeline_feed.tables import read_tables

Int64 = NDArray[np.int64]


@attrs.frozen(eq=False)
class _Lookup:
    """Rows of a table by id."""

    ids: Int64
    rows: NDArray[np.intp]

    @classmethod
    def of(cls, ids: Int64) -> _Lookup:
        order = np.argsort(ids, kind="stable")
        return cls(ids[order], order)

    def __call__(self, wanted: Int64) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """The row of each id (0 where there is none), and whether there is one."""
        if not len(self.ids):
            return np.zeros(len(wanted), np.intp), np.zeros(len(wanted), np.bool_)
        at = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
        found = self.ids[at] == wanted
        return np.where(found, self.rows[at], 0), found


@attrs.frozen(eq=False)
class _Grouped:
    """Values grouped by a key, found by binary search."""

    keys: Int64
    order: NDArray[np.intp]

    @classmethod
    def of(cls, keys: Int64) -> _Grouped:
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], order)

    def __call__(self, key: int) -> NDArray[np.intp]:
        """The rows that have a key, in their order."""
        start, stop = np.searchsorted(self.keys, [key, key + 1])
        return self.order[start:stop]


@attrs.define(eq=False)
class FeedTables:
    """The four tables of a data directory, shared by the components of an application.

    Args:
        path: The data directory.
    """

    path: Annotated[DataDir, Doc("The data directory with the four tables.")] = attrs.field(factory=bundled_world)
    _tables: Tables | None = attrs.field(default=None, init=False)
    _items: _Lookup = attrs.field(init=False)
    _users: _Lookup = attrs.field(init=False)
    _events: Engagements = attrs.field(init=False)
    _events_of: _Grouped = attrs.field(init=False)
    _edges_from: dict[str, _Grouped] = attrs.field(init=False)
    _edges_to: dict[str, _Grouped] = attrs.field(init=False)
    _edge_rows: dict[str, NDArray[np.intp]] = attrs.field(init=False)

    @classmethod
    def of(cls, tables: Tables, path: Path) -> Self:
        """An open resource over tables in memory.

        Args:
            tables: The tables.
            path: The directory that models are looked for under.
        """
        resource = cls(path)
        resource._index(tables)
        return resource

    def open(self) -> None:
        """Read and index the tables.

        Raises:
            DataError: A table is missing or wrong.
        """
        if self._tables is None:
            self._index(read_tables(self.path))

    def close(self) -> None:
        """Let go of the tables."""
        self._tables = None

    def _index(self, tables: Tables) -> None:
        self._tables = tables
        self._items = _Lookup.of(tables.items.item_id)
        self._users = _Lookup.of(tables.users.user_id)
        self._events = gather(tables.events)
        self._events_of = _Grouped.of(self._events.user_id)
        self._edge_rows = {kind: np.flatnonzero(tables.edges.kind == code) for kind, code in EDGE_CODE.items()}
        self._edges_from = {kind: _Grouped.of(tables.edges.src[rows]) for kind, rows in self._edge_rows.items()}
        self._edges_to = {kind: _Grouped.of(tables.edges.dst[rows]) for kind, rows in self._edge_rows.items()}

    @property
    def tables(self) -> Tables:
        """The tables.

        Raises:
            MisconfigurationError: The resource is not open.
        """
        if self._tables is None:
            raise MisconfigurationError("the feed tables are not open")
        return self._tables

    @property
    def events(self) -> Engagements:
        """All events, multi-hot, ordered by time."""
        return self._events

    @property
    def models(self) -> Path:
        """The directory that holds trained models."""
        return self.path / "models"

    def item_rows(self, ids: Int64) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """The row of the items table for each id (0 where there is none), and whether there is one; `[n]` each."""
        return self._items(ids)

    def user_rows(self, ids: Int64) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """The row of the users table for each id (0 where there is none), and whether there is one; `[n]` each."""
        return self._users(ids)

    def edges_of(self, user_id: int, kind: str, before_ms: int | None = None) -> Int64:
        """Whom a person follows, blocks, mutes or subscribes to, int64, sorted.

        Args:
            user_id: The person.
            kind: The relation.
            before_ms: Leave out relations made at or after this time (those without a time always count).
        """
        rows = self._edge_rows[kind][self._edges_from[kind](user_id)]
        return np.unique(self.tables.edges.dst[self._made_before(rows, before_ms)])

    def edges_to(self, user_id: int, kind: str, before_ms: int | None = None) -> Int64:
        """Who follows, blocks, mutes or subscribes to a person, int64, sorted; arguments as for `edges_of`."""
        rows = self._edge_rows[kind][self._edges_to[kind](user_id)]
        return np.unique(self.tables.edges.src[self._made_before(rows, before_ms)])

    def follower_counts(self, user_ids: Int64, before_ms: int) -> Int64:
        """How many follow each person before a time, counted from the edges, int64 `[n]`.

        Args:
            user_ids: The persons, int64 `[n]`.
            before_ms: Leave out follows made at or after this time (those without a time always count).
        """
        grouped, edges = self._edges_to["follow"], self.tables.edges
        rows = self._edge_rows["follow"][grouped.order]
        counted = ~edges.is_valid("created_at")[rows] | (edges.created_at[rows] < before_ms)
        before: Int64 = np.concatenate([np.zeros(1, np.int64), np.cumsum(counted)])
        starts, stops = np.searchsorted(grouped.keys, user_ids), np.searchsorted(grouped.keys, user_ids, "right")
        return np.subtract(before[stops], before[starts])

    def _made_before(self, rows: NDArray[np.intp], before_ms: int | None) -> NDArray[np.intp]:
        if before_ms is None or not len(rows):
            return rows
        edges = self.tables.edges
        return rows[~edges.is_valid("created_at")[rows] | (edges.created_at[rows] < before_ms)]

    def events_of(self, user_id: int, before_ms: int) -> Engagements:
        """A person's events strictly before a time, oldest first."""
        rows = self._events_of(user_id)
        rows = rows[: int(np.searchsorted(self._events.time[rows], before_ms))]
        return self._events.take(rows)
