"""The four tables in memory: read-only numpy columns with validity.

Ids and timestamps are int64 (a timestamp is milliseconds since 1970-01-01 UTC), texts are object arrays with
None for null, word lists are object arrays of tuples, choices are int16 indices. A null number or timestamp
holds 0: ask `is_valid` before trusting a column that may be null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_feed.schema import EDGES, EVENTS, ITEMS, USERS, ColumnSpec, TableSpec

Int64 = NDArray[np.int64]
Objects = NDArray[np.object_]
Mask = NDArray[np.bool_]

NUMPY_DTYPE: dict[str, np.dtype[Any]] = {
    "int64": np.dtype(np.int64),
    "timestamp": np.dtype(np.int64),
    "float32": np.dtype(np.float32),
    "bool": np.dtype(np.bool_),
    "text": np.dtype(object),
    "text list": np.dtype(object),
    "choice": np.dtype(np.int16),
}
"""How each column type is held in memory."""


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def null_column(spec: ColumnSpec, rows: int) -> tuple[NDArray[Any], Mask]:
    """A column of nulls: values shape [rows] and an all-false mask."""
    values = np.zeros(rows, dtype=NUMPY_DTYPE[spec.type])
    if spec.type == "text":
        values.fill(None)
    elif spec.type == "text list":
        values.fill(())
    return values, np.zeros(rows, dtype=np.bool_)


def _choice_codes(spec: ColumnSpec, data: Sequence[Any] | NDArray[Any]) -> NDArray[np.int16]:
    codes = {name: code for code, name in enumerate(spec.choices)}
    return np.array([codes.get(value, -1) if isinstance(value, str) else value for value in data], np.int16)


def as_column(spec: ColumnSpec, data: Sequence[Any] | NDArray[Any]) -> tuple[NDArray[Any], Mask]:
    """Values and validity of a column given as an array, a masked array, or a sequence with None for null."""
    dtype = NUMPY_DTYPE[spec.type]
    if dtype.kind == "O":
        values = np.empty(len(data), dtype=object)
        listed = spec.type == "text list"
        for row, value in enumerate(data):
            values[row] = tuple(value or ()) if listed else value
        return values, np.array([value is not None for value in data], dtype=np.bool_)
    if isinstance(data, np.ma.MaskedArray):
        valid = ~np.ma.getmaskarray(data)
        return np.asarray(data.filled(0)).astype(dtype), valid
    if isinstance(data, np.ndarray) and data.dtype != object:
        if data.dtype.kind == "M":
            data = data.astype("datetime64[ms]").astype(np.int64)
        return data.astype(dtype), np.ones(len(data), dtype=np.bool_)
    valid = np.array([value is not None for value in data], dtype=np.bool_)
    filled = [0 if value is None else value for value in data]
    values = _choice_codes(spec, filled) if spec.type == "choice" else np.array(filled, dtype=dtype)
    return values, valid


@attrs.frozen(eq=False, repr=False)
class _Table:
    """What the four tables share."""

    spec: ClassVar[TableSpec]

    valid: Mapping[str, Mask] = attrs.field(kw_only=True, factory=dict)
    """Validity of the columns that hold a null; columns without one are left out."""

    @classmethod
    def build(cls, **columns: Sequence[Any] | NDArray[Any]) -> Self:
        """A table from columns given by name.

        Args:
            **columns: Arrays, masked arrays, or sequences with None for null; a choice as its name or its
                index. Columns that are not required may be left out and are then null.

        Raises:
            TypeError: A required column is missing, or one is unknown.
            ValueError: Columns differ in length.
        """
        known = {column.name for column in cls.spec.columns}
        if unknown := sorted(set(columns) - known):
            raise TypeError(f"{cls.spec.name} has no column {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        lengths = {name: len(data) for name, data in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{cls.spec.name}: columns differ in length: {lengths}")
        rows = next(iter(lengths.values()), 0)
        parts: dict[str, tuple[NDArray[Any], Mask]] = {}
        for column in cls.spec.columns:
            if column.name in columns:
                parts[column.name] = as_column(column, columns[column.name])
            elif column.required:
                raise TypeError(f"{cls.spec.name} needs a column {column.name}")
            else:
                parts[column.name] = null_column(column, rows)
        return cls.from_parts(parts)

    @classmethod
    def from_parts(cls, parts: Mapping[str, tuple[NDArray[Any], Mask]]) -> Self:
        """A table from values and validity of every column; arrays become read-only views."""
        values = {name: _frozen(data) for name, (data, _valid) in parts.items()}
        valid = {name: _frozen(mask) for name, (_data, mask) in parts.items() if not mask.all()}
        return cls(valid=valid, **values)

    def __len__(self) -> int:
        return len(getattr(self, self.spec.columns[0].name))

    def __repr__(self) -> str:
        return f"<{self.spec.name}: {len(self)} rows>"

    def column(self, name: str) -> NDArray[Any]:
        """The values of a column by name, shape [rows]."""
        self.spec.column(name)
        values: NDArray[Any] = getattr(self, name)
        return values

    def is_valid(self, name: str) -> Mask:
        """Which rows of a column are not null, bool [rows]."""
        mask = self.valid.get(name)
        return np.ones(len(self), dtype=np.bool_) if mask is None else mask

    def take(self, rows: NDArray[Any]) -> Self:
        """The rows given by index or by mask, in that order."""
        return self.from_parts(
            {
                column.name: (self.column(column.name)[rows], self.is_valid(column.name)[rows])
                for column in self.spec.columns
            }
        )

    def equals(self, other: object) -> bool:
        """Whether both hold the same values and nulls."""
        if not isinstance(other, _Table) or self.spec is not other.spec or len(self) != len(other):
            return False
        for column in self.spec.columns:
            mask = self.is_valid(column.name)
            if not np.array_equal(mask, other.is_valid(column.name)):
                return False
            if not np.array_equal(self.column(column.name)[mask], other.column(column.name)[mask]):
                return False
        return True


@attrs.frozen(eq=False, repr=False)
class Users(_Table):
    """The users table; its columns are described in `candidate_pipeline_feed.schema.USERS`."""

    spec: ClassVar[TableSpec] = USERS

    user_id: Int64
    name: Objects
    handle: Objects
    language: Objects
    followers_count: Int64
    created_at: Int64
    muted_keywords: Objects


@attrs.frozen(eq=False, repr=False)
class Items(_Table):
    """The items table; its columns are described in `candidate_pipeline_feed.schema.ITEMS`."""

    spec: ClassVar[TableSpec] = ITEMS

    item_id: Int64
    author_id: Int64
    created_at: Int64
    text: Objects
    topic: Objects
    reply_to: Int64
    conversation_id: Int64
    repost_of: Int64
    quote_of: Int64
    video_duration_ms: Int64
    language: Objects
    subscriber_only: Mask


@attrs.frozen(eq=False, repr=False)
class Edges(_Table):
    """The edges table; its columns are described in `candidate_pipeline_feed.schema.EDGES`."""

    spec: ClassVar[TableSpec] = EDGES

    src: Int64
    dst: Int64
    kind: NDArray[np.int16]
    created_at: Int64


@attrs.frozen(eq=False, repr=False)
class Events(_Table):
    """The events table; its columns are described in `candidate_pipeline_feed.schema.EVENTS`."""

    spec: ClassVar[TableSpec] = EVENTS

    user_id: Int64
    item_id: Int64
    time: Int64
    action: NDArray[np.int16]
    value: NDArray[np.float32]


@attrs.frozen(eq=False)
class Tables:
    """The four tables of a data directory.

    Args:
        users: Persons and channels.
        items: Posts.
        edges: Relations between persons.
        events: What persons did with posts.
        ignored: Columns found in the files that the format does not know, by table.
    """

    users: Users
    items: Items
    edges: Edges
    events: Events
    ignored: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)

    def equals(self, other: object) -> bool:
        """Whether both hold the same rows in the same order."""
        return isinstance(other, Tables) and all(
            table.equals(theirs) for table, theirs in zip(self.all(), other.all(), strict=True)
        )

    def all(self) -> tuple[Users, Items, Edges, Events]:
        """The four, in the order of the format."""
        return self.users, self.items, self.edges, self.events
