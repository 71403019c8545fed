"""Columns of a capture: cells as arrays and back, and digests of what a component was asked.

Two questions to a component are the same if it was given the same values of what it declares to read. A capture keeps
a digest of each question's query features and one of each row, so that a replay can tell whether an answer still fits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.cells import FAILED, NO_WRITER, VALID, Cells
from candidate_pipeline.errors import CaptureError
from candidate_pipeline.keys import ITEM_ID, Column, QueryFeature
from candidate_pipeline.patches import ColumnUpdate
from candidate_pipeline.query import Query
from candidate_pipeline.what_if.archive import Arrays
from candidate_pipeline.what_if.codec import decode, encode, member

#: Odd constants of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)


def encode_values(values: NDArray[Any], arrays: Arrays) -> dict[str, Any]:
    """A column's values: an array's name, or, for objects, those of its bytes and of where each object ends.

    Texts are their UTF-8; other objects are plain data as JSON.

    Raises:
        CaptureError: A cell holds something that cannot be captured.
    """
    if values.dtype != np.object_:
        return {"values": arrays.add(values)}
    cells = values.ravel().tolist()
    nulls = np.array([cell is None for cell in cells], np.bool_)
    text = all(cell is None or isinstance(cell, str) for cell in cells)
    parts = [b"" if cell is None else _encoded(cell, text) for cell in cells]
    return {
        "kind": "text" if text else "plain",
        "bytes": arrays.add(np.frombuffer(b"".join(parts), np.uint8)),
        "ends": arrays.add(np.cumsum([len(part) for part in parts], dtype=np.int64)),
        "nulls": arrays.add(nulls),
    }


def _encoded(cell: Any, text: bool) -> bytes:
    if text:
        # A lone surrogate is no valid UTF-8, and a text may hold one all the same.
        return str(cell).encode("utf-8", "surrogatepass")
    return json.dumps(encode(cell, Any, None)).encode()


def decode_values(
    found: Mapping[str, Any], dtype: Any, shape: tuple[int, ...], arrays: Mapping[str, NDArray[Any]]
) -> NDArray[Any]:
    """What `encode_values` was given.

    Raises:
        CaptureError: It has another dtype or shape, or is not what `encode_values` gives.
    """
    if np.dtype(dtype) != np.object_:
        return member(arrays, found.get("values"), dtype, shape)
    count = int(np.prod(shape, dtype=np.int64))
    whole = member(arrays, found.get("bytes"), np.uint8, (None,)).tobytes()
    ends = member(arrays, found.get("ends"), np.int64, (count,))
    nulls = member(arrays, found.get("nulls"), np.bool_, (count,))
    starts = np.concatenate([[0], ends[:-1]])[:count]
    if (count and (starts > ends).any()) or (int(ends[-1]) if count else 0) != len(whole) or (ends < 0).any():
        raise CaptureError("the ends of its texts do not rise to their length")
    text = found.get("kind") == "text"
    if not text and found.get("kind") != "plain":
        raise CaptureError(f"wanted texts or plain data, found {found.get('kind')!r:.80}")
    values = np.empty(count, np.object_)
    for at, (start, end, null) in enumerate(zip(starts.tolist(), ends.tolist(), nulls.tolist(), strict=True)):
        if not null:
            values[at] = _decoded(whole[start:end], text)
    return values.reshape(shape)


def _decoded(part: bytes, text: bool) -> Any:
    try:
        if text:
            return part.decode("utf-8", "surrogatepass")
        return decode(json.loads(part.decode("utf-8")), Any, {})
    except (ValueError, RecursionError) as error:
        raise CaptureError(f"a cell cannot be read: {error}") from error


def encode_table(table: Candidates, arrays: Arrays) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A source's table: its columns, and why others cannot be captured."""
    columns, left = [], {}
    for column in table.columns:
        cells = table.cells(column)
        try:
            entry = {"column": column.name, "labels": list(cells.labels), **encode_values(cells.values, arrays)}
        except CaptureError as error:
            left[column.name] = str(error)
            continue
        if cells.state is not None:
            entry["state"] = arrays.add(cells.state)
        columns.append(entry)
    return columns, left


def decode_table(
    found: Sequence[Mapping[str, Any]], known: Mapping[str, Column[Any]], arrays: Mapping[str, NDArray[Any]]
) -> Candidates:
    """What `encode_table` was given.

    Args:
        found: What it gave.
        known: The columns that the source writes, by name.
        arrays: The arrays by name.

    Raises:
        CaptureError: It is not what `encode_table` gives for a table of these columns.
    """
    cells: dict[Column[Any], Cells] = {}
    known = {**known, ITEM_ID.name: ITEM_ID}
    rows: int | None = None
    for entry in sorted(found, key=lambda entry: entry.get("column") != ITEM_ID.name):
        column = _column(entry, known)
        if rows is None:
            if column is not ITEM_ID or "state" in entry:
                raise CaptureError(f"a table without whole {ITEM_ID.name}")
            rows = len(member(arrays, entry.get("values"), np.int64, (None,)))
        values, labels = _values(entry, column, rows, arrays)
        state = None
        if "state" in entry:
            state = member(arrays, entry["state"], np.uint8, (rows,))
            if rows and state.max() > FAILED:
                raise CaptureError(f"{column.name}: cells of an unknown state")
        if column in cells:
            raise CaptureError(f"{column.name} stands twice")
        cells[column] = Cells(values, state, NO_WRITER, labels)
    if rows is None:
        raise CaptureError(f"a table without {ITEM_ID.name}")
    order = [_column(entry, known) for entry in found]
    return Candidates({column: cells[column] for column in order})


def encode_updates(updates: Iterable[ColumnUpdate], rows: int, failed: NDArray[np.bool_] | None, arrays: Arrays) -> Any:
    """A patch's columns, and why others cannot be captured."""
    columns, left = [], {}
    for update in updates:
        column = update.column
        values, valid = update.checked(rows, failed)
        labels = column.labels if update.labels is None else update.labels
        try:
            entry = {"column": column.name, "labels": list(labels), **encode_values(values, arrays)}
        except CaptureError as error:
            left[column.name] = str(error)
            continue
        if valid is not None:
            entry["valid"] = arrays.add(valid)
        columns.append(entry)
    return columns, left


@attrs.frozen(eq=False)
class Written:
    """What a component wrote into one column.

    Args:
        values: `[n, ...]`.
        valid: `bool[n]`; `None`: all.
        labels: The names of the places of a labelled column.
    """

    values: NDArray[Any]
    valid: NDArray[np.bool_] | None
    labels: tuple[str, ...]

    def update(self, column: Column[Any]) -> ColumnUpdate:
        """The same as a part of a patch."""
        return column(self.values, valid=self.valid, labels=self.labels if column.labels else None)

    def all_valid(self) -> NDArray[np.bool_]:
        """`valid`, as an array in any case."""
        return np.ones(len(self.values), np.bool_) if self.valid is None else self.valid


def decode_updates(
    found: Sequence[Mapping[str, Any]],
    known: Mapping[str, Column[Any]],
    rows: int,
    arrays: Mapping[str, NDArray[Any]],
) -> dict[Column[Any], Written]:
    """What `encode_updates` was given, by column.

    Raises:
        CaptureError: It is not what `encode_updates` gives for a patch of these columns and rows.
    """
    written: dict[Column[Any], Written] = {}
    for entry in found:
        column = _column(entry, known)
        if column in written or column is ITEM_ID:
            raise CaptureError(f"{column.name} stands twice, or cannot be written")
        values, labels = _values(entry, column, rows, arrays)
        valid = member(arrays, entry["valid"], np.bool_, (rows,)) if "valid" in entry else None
        written[column] = Written(values, valid, labels)
    return written


def _column(entry: Mapping[str, Any], known: Mapping[str, Column[Any]]) -> Column[Any]:
    name = entry.get("column")
    column = known.get(name) if isinstance(name, str) else None
    if column is None:
        have = ", ".join(known) or "nothing"
        raise CaptureError(f"wrote the column {name!r:.80}, which it does not declare; it declares {have}")
    return column


def _values(
    entry: Mapping[str, Any], column: Column[Any], rows: int, arrays: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[Any], tuple[str, ...]]:
    given = entry.get("labels", [])
    labels = tuple(given) if isinstance(given, list) and all(isinstance(label, str) for label in given) else None
    if labels is None or len(set(labels)) != len(labels) or not set(labels) <= set(column.labels):
        raise CaptureError(f"{column.name}: wanted labels among {', '.join(column.labels)}, found {given!r:.80}")
    try:
        return decode_values(entry, column.dtype, (rows, *column.row_shape(labels)), arrays), labels
    except CaptureError as error:
        raise CaptureError(f"{column.name}: {error}") from error


# Digests


def query_digest(query: Query, features: Iterable[QueryFeature[Any]]) -> str:
    """A digest of a query's clock and seed and of some of its features; what cannot be captured counts as absent."""
    arrays = Arrays()
    given: dict[str, Any] = {}
    for feature in sorted(features, key=lambda feature: feature.name):
        if feature in query.features:
            try:
                given[feature.name] = encode(query.features[feature], feature.type, arrays)
            except CaptureError:
                continue
    hashed = hashlib.blake2b(digest_size=16)
    hashed.update(json.dumps([query.now_ms, query.seed, given], sort_keys=True).encode())
    for array in arrays.members:
        hashed.update(f"{array.dtype.str}{array.shape}".encode())
        hashed.update(array.tobytes())
    return hashed.hexdigest()


def row_digests(table: Candidates, columns: Iterable[Column[Any]]) -> NDArray[np.uint64]:
    """A digest of each row's id and of its cells in some columns, `uint64[n]`."""
    digests = _mixed(table[ITEM_ID].view(np.uint64))
    for column in sorted(columns, key=lambda column: column.name):
        if column not in table or column is ITEM_ID:
            continue
        cells = table.cells(column)
        salt = hashlib.blake2b("\0".join([column.name, *cells.labels]).encode(), digest_size=8).digest()
        part = _hashed(cells.values) ^ np.frombuffer(salt, np.uint64)
        if cells.state is not None:
            part = np.where(cells.state == VALID, part, cells.state.astype(np.uint64))
        digests = _mixed(digests * _GAMMA + part)
    return digests


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def _hashed(values: NDArray[Any]) -> NDArray[np.uint64]:
    """A hash of each row of values, `uint64[n]`."""
    rows = len(values)
    if values.dtype == np.object_:
        return np.frombuffer(b"".join(_hashed_cell(cell) for cell in values), np.uint64)
    if not values.size:
        return np.zeros(rows, np.uint64)
    flat = np.ascontiguousarray(values).reshape(rows, -1).view(np.uint8)
    missing = -flat.shape[1] % 8
    words = np.pad(flat, ((0, 0), (0, missing))).view(np.uint64)
    result = np.zeros(rows, np.uint64)
    for at in range(words.shape[1]):
        result = _mixed(result * _GAMMA + words[:, at] + np.uint64(at + 1))
    return result


def _hashed_cell(cell: Any) -> bytes:
    try:
        text = cell if isinstance(cell, str) else "\0" + repr(encode(cell, Any, None))
    except CaptureError:
        text = "\0"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
