"""The table of candidates: read-only numpy columns, one row an item.

A cell is valid, null (looked up, no value) or failed (its writer broke). Components return patches; the engine
applies them, so nothing here is ever changed in place and arrays are shared instead of copied. Rows of a table are
gathered column by column, when a column is first read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import attrs
import numpy as np

from candidate_pipeline.cells import (
    FAILED,
    NO_WRITER,
    VALID,
    Cells,
    new_cells,
    null_cells,
    overlay,
    read_only,
    replace,
)
from candidate_pipeline.columns import Columns
from candidate_pipeline.errors import ContractError, MissingColumnError
from candidate_pipeline.keys import ITEM_ID, Column, key_names
from candidate_pipeline.patches import ColumnUpdate, Patch, patch
from candidate_pipeline.records import column_of_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

S = TypeVar("S", bound=np.generic)


class Candidates:
    """An immutable table of candidates.

    Make one from columns with `Candidates.of(ITEM_ID(ids), PRICE(prices, valid=known))`, or, slower, from rows with
    `Candidates.from_rows([{ITEM_ID: 7, PRICE: 2.5}, ...])`. `candidates[COLUMN]` is a read-only array; where
    `candidates.valid(COLUMN)` is false it holds the column's default.
    """

    __slots__ = ("_alive", "_columns", "_dropped_by", "_numbers", "_rows", "_source_bits", "_source_names")

    def __init__(
        self,
        cells: Mapping[Column[Any], Cells] | Columns,
        *,
        source_bits: Marks | None = None,
        source_names: tuple[str, ...] = (),
        dropped_by: Marks | None = None,
        numbers: Marks | None = None,
    ) -> None:
        """Wrap cells as they are; `of`, `from_rows` and `empty` check what they are given."""
        if not isinstance(cells, Columns):
            if ITEM_ID not in cells:
                raise ContractError(f"candidates need {ITEM_ID.name}, found columns: {key_names(list(cells))}")
            cells = Columns(len(cells[ITEM_ID].values), dict(cells))
        self._columns = cells
        self._rows = cells.rows
        self._source_bits = source_bits
        self._source_names = source_names
        self._dropped_by = dropped_by
        self._numbers = numbers
        self._alive: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, *updates: ColumnUpdate) -> Candidates:
        """A table from columns, `ITEM_ID` among them.

        Raises:
            ContractError: No item ids, null item ids, or columns of unequal length, wrong shape or dtype.
        """
        given = patch(*updates).updates
        if ITEM_ID not in given:
            raise ContractError(f"candidates need {ITEM_ID.name}, found columns: {key_names(list(given))}")
        shape = np.shape(given[ITEM_ID].values)
        if len(shape) != 1:
            raise ContractError(f"{ITEM_ID.name}: wanted one id a row, found an array of shape {shape}")
        (rows,) = shape
        cells = {column: new_cells(update, rows, NO_WRITER) for column, update in given.items()}
        if cells[ITEM_ID].state is not None:
            raise ContractError(f"{ITEM_ID.name} may not be null")
        return cls(cells)

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[Column[Any], Any]]) -> Candidates:
        """A table from one mapping a row; a missing key or `None` is a null, a labelled cell is itself a mapping.

        Raises:
            ContractError: A row has no item id, a value of the wrong type, or other labels than the rows before it.
        """
        records = list(rows)
        columns = list(dict.fromkeys(column for record in records for column in record)) or [ITEM_ID]
        return cls.of(*(column_of_rows(column, records) for column in columns))

    @classmethod
    def empty(cls) -> Candidates:
        """A table without rows."""
        return cls.of(ITEM_ID(np.empty(0, np.int64)))

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return f"<Candidates {self._rows} rows: {key_names(self.columns)}>"

    def __contains__(self, column: Column[Any]) -> bool:
        return column in self._columns

    def __getitem__(self, column: Column[S]) -> NDArray[S]:
        """The column's cells, read-only, `[n]` or `[n, width]`.

        Raises:
            MissingColumnError: Nobody wrote the column.
        """
        return self.cells(column).values

    @property
    def columns(self) -> tuple[Column[Any], ...]:
        """The columns there are."""
        return tuple(self._columns)

    def cells(self, column: Column[Any]) -> Cells:
        """A column's values, states and writers.

        Raises:
            MissingColumnError: Nobody wrote the column.
        """
        try:
            return self._columns.cells(column)
        except KeyError:
            have = key_names(self.columns)
            raise MissingColumnError(
                f"column {column.name} is absent: no component wrote it; there are: {have}", column
            ) from None

    def valid(self, column: Column[Any]) -> NDArray[np.bool_]:
        """Which cells hold a value, `bool[n]`."""
        state = self.cells(column).state
        return np.ones(self._rows, np.bool_) if state is None else state == VALID

    def failed(self, column: Column[Any]) -> NDArray[np.bool_]:
        """Which cells failed (their writer broke), `bool[n]`."""
        state = self.cells(column).state
        return np.zeros(self._rows, np.bool_) if state is None else state == FAILED

    def labels(self, column: Column[Any]) -> tuple[str, ...]:
        """The labels that a labelled column's cells have here; others are absent."""
        return self.cells(column).labels

    def label(self, column: Column[S], label: str) -> NDArray[S]:
        """One place of a labelled column, `[n]`, chosen by its label.

        Raises:
            KeyError: The label is absent; the message lists those there are.
        """
        cells = self.cells(column)
        if label not in cells.labels:
            have = ", ".join(cells.labels) or "none"
            raise KeyError(f"{column.name} has no {label!r} here; it has: {have}")
        return cells.values[:, cells.labels.index(label)]

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Rows that no filter dropped, `bool[n]`."""
        if self._alive is None:
            alive = np.ones(self._rows, np.bool_) if self._dropped_by is None else self.dropped_by < 0
            self._alive = read_only(alive)
        return self._alive

    @property
    def dropped_by(self) -> NDArray[np.int16]:
        """The number of the component that dropped each row, -1 for none, `int16[n]`."""
        if self._dropped_by is None:
            return np.full(self._rows, -1, np.int16)
        self._dropped_by = found = _gathered(self._dropped_by)
        return found

    @property
    def numbers(self) -> NDArray[np.intp] | None:
        """Which row of the table that was `numbered` each row is, `intp[n]`; `None` if none was."""
        if self._numbers is None:
            return None
        self._numbers = found = _gathered(self._numbers)
        return found

    def numbered(self) -> Candidates:
        """The table with its rows numbered, which tells rows of the same item apart in tables taken from it."""
        numbers = read_only(np.arange(self._rows))
        return Candidates(
            self._columns,
            source_bits=self._source_bits,
            source_names=self._source_names,
            dropped_by=self._dropped_by,
            numbers=numbers,
        )

    @property
    def source_names(self) -> tuple[str, ...]:
        """The sources of the request, in the order of their bits."""
        return self._source_names

    @property
    def source_bits(self) -> NDArray[np.uint64]:
        """Which sources returned each row, one bit a source, `uint64[n]`."""
        if self._source_bits is None:
            return np.zeros(self._rows, np.uint64)
        self._source_bits = found = _gathered(self._source_bits)
        return found

    def sources(self, row: int) -> tuple[str, ...]:
        """The names of the sources that returned a row."""
        bits = int(self.source_bits[row])
        return tuple(name for at, name in enumerate(self._source_names) if bits >> at & 1)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer[Any]] | Sequence[int]) -> Candidates:
        """The table of some rows, by mask or by index in the order given.

        Raises:
            IndexError: The mask is not `bool[n]`, or an index is not in the table.
        """
        index = _index_of(rows, self._rows)
        return Candidates(
            self._columns.take(index),
            source_bits=None if self._source_bits is None else _Gather(self._source_bits, index),
            source_names=self._source_names,
            dropped_by=None if self._dropped_by is None else _Gather(self._dropped_by, index),
            numbers=None if self._numbers is None else _Gather(self._numbers, index),
        )

    @classmethod
    def concat(cls, tables: Sequence[Candidates]) -> Candidates:
        """The rows of several tables, one below the other; a column is null where a table lacks it.

        Which sources returned a row is kept where all tables with rows name the same sources. What dropped a row is
        always kept.

        Raises:
            ContractError: Two tables have values of a labelled column under different labels.
        """
        if len(tables) < 2:
            return tables[0] if tables else cls.empty()
        names = {table.source_names for table in tables if len(table)} or {tables[0].source_names}
        sourced = len(names) == 1 and any(table._source_bits is not None for table in tables)
        dropped = any(table._dropped_by is not None for table in tables)
        return cls(
            Columns.joined([table._columns for table in tables]),
            source_bits=np.concatenate([table.source_bits for table in tables]) if sourced else None,
            source_names=names.pop() if len(names) == 1 else (),
            dropped_by=np.concatenate([table.dropped_by for table in tables]) if dropped else None,
        )

    def one_a_group(self, first: NDArray[np.intp], group: NDArray[np.intp]) -> Candidates:
        """One row a group of rows: column by column its first valid cell, else its first failed one, else its first.

        A row's sources are those of all rows of its group.

        Args:
            first: The first row of each group, `intp[groups]`.
            group: Each row's group, `intp[n]`.
        """
        bits = np.zeros(len(first), np.uint64)
        np.bitwise_or.at(bits, group, self.source_bits)
        columns = self._columns.one_a_group(first, group)
        return Candidates(columns, source_bits=bits, source_names=self._source_names)

    def limited_to(self, columns: Iterable[Column[Any]]) -> Candidates:
        """A table with no more than `ITEM_ID` and those of `columns` that there are.

        It tells neither sources nor drops: what is computed from it depends on these columns alone.
        """
        return Candidates(self._columns.only((ITEM_ID, *columns)))

    def patched(self, update: Patch, writer: int = NO_WRITER) -> Candidates:
        """A table with a patch applied. A null never erases a valid cell.

        Raises:
            ContractError: An update has the wrong length, shape or dtype, or rewrites `ITEM_ID`.
        """
        return self.with_cells(self.overlaid(update, writer))

    def overlaid(self, update: Patch, writer: int = NO_WRITER) -> dict[Column[Any], Cells]:
        """The columns of a patch as they are after `patched`.

        Raises:
            ContractError: As `patched`.
        """
        failed = update.failed_rows(self._rows)
        cells = {}
        for column, entry in update.updates.items():
            new = self._new_cells(entry, writer, failed)
            old = None if new.state is None or column not in self._columns else self._columns.cells(column)
            cells[column] = overlay(old, new, column)
        return cells

    def overwritten(self, update: Patch, columns: Iterable[Column[Any]], writer: int = NO_WRITER) -> Candidates:
        """A table where a patch is the last word, as the May 2026 release of the x-algorithm applies one.

        In rows that did not fail each of `columns` takes the patch's cell, null where the patch has none; a value
        that was there is erased. Rows that failed keep their cells. No cell becomes failed.

        Args:
            update: The patch.
            columns: What the component declares to write.
            writer: Its number.

        Raises:
            ContractError: As `patched`, or rows that failed and rows that did not have values of a labelled column
                under different labels.
        """
        failed = update.failed_rows(self._rows)
        cells = {}
        for column in dict.fromkeys((*columns, *update.updates)):
            entry = update.updates.get(column)
            if entry is not None:
                new = self._new_cells(entry, writer, failed)
            else:
                new = null_cells(column, self._rows, writer)
            if failed is not None:
                old = self._columns.cells(column) if column in self._columns else None
                new = replace(old, new, ~failed, column)
            cells[column] = new
        return self.with_cells(cells)

    def _new_cells(self, entry: ColumnUpdate, writer: int, failed: NDArray[np.bool_] | None) -> Cells:
        if entry.column is ITEM_ID:
            raise ContractError(f"{ITEM_ID.name} cannot be rewritten")
        return new_cells(entry, self._rows, writer, failed)

    def with_failed(self, columns: Iterable[Column[Any]], writer: int) -> Candidates:
        """A table where the cells of `columns` that hold no value yet are marked failed."""
        cells = {}
        for column in columns:
            new = Cells(column.blank(self._rows), np.full(self._rows, FAILED, np.uint8), writer)
            cells[column] = overlay(self._columns.cells(column) if column in self._columns else None, new, column)
        return self.with_cells(cells)

    def with_null(self, columns: Iterable[Column[Any]], writer: int) -> Candidates:
        """A table with further columns whose every cell is null."""
        return self.with_cells({column: null_cells(column, self._rows, writer) for column in columns})

    def with_cells(self, cells: Mapping[Column[Any], Cells]) -> Candidates:
        """A table with some columns' cells replaced by others for the same rows."""
        cells = cells if isinstance(cells, dict) else dict(cells)
        return self._with_columns(self._columns.replaced(cells)) if cells else self

    def dropping(self, drop: NDArray[np.bool_], component: int) -> Candidates:
        """A table where the rows of `drop` that were alive are marked as dropped by a component."""
        alive = self.alive
        dropped = self.dropped_by.copy()
        np.copyto(dropped, component, where=alive & drop)
        table = Candidates(
            self._columns,
            source_bits=self._source_bits,
            source_names=self._source_names,
            dropped_by=read_only(dropped),
            numbers=self._numbers,
        )
        table._alive = read_only(alive > drop)
        return table

    def dropped_as(self, dropped_by: NDArray[np.int16]) -> Candidates:
        """A table that says which component dropped each row, -1 for none, `int16[n]`."""
        return Candidates(
            self._columns,
            source_bits=self._source_bits,
            source_names=self._source_names,
            dropped_by=read_only(dropped_by),
            numbers=self._numbers,
        )

    def with_sources(self, bits: NDArray[np.uint64], names: tuple[str, ...]) -> Candidates:
        """A table that says which sources returned each row."""
        return Candidates(
            self._columns, source_bits=bits, source_names=names, dropped_by=self._dropped_by, numbers=self._numbers
        )

    def written_by(self, writer: int) -> Candidates:
        """A table whose every cell names `writer` as its writer."""
        return self._with_columns(self._columns.written_by(writer))

    def row(self, at: int) -> Row:
        """One row, for debugging and per-item components."""
        return Row(self, at)

    def __iter__(self) -> Iterator[Row]:
        return (Row(self, at) for at in range(self._rows))

    def to_records(self) -> list[dict[str, Any]]:
        """Rows as dictionaries of plain Python values by column name; nulls and failures are `None`."""
        names = sorted(self._columns, key=lambda column: column.name)
        columns = [(column, self._columns.cells(column)) for column in names]
        states = {column: cells.states() for column, cells in columns}
        return [
            {
                column.name: cells.plain(row, column) if states[column][row] == VALID else None
                for column, cells in columns
            }
            for row in range(self._rows)
        ]

    def _with_columns(self, columns: Columns) -> Candidates:
        table = Candidates(
            columns,
            source_bits=self._source_bits,
            source_names=self._source_names,
            dropped_by=self._dropped_by,
            numbers=self._numbers,
        )
        table._alive = self._alive
        return table


@attrs.frozen(eq=False)
class _Gather:
    """Marks of some rows of a table, not gathered yet."""

    marks: Marks
    index: NDArray[np.intp]


#: One number a row, or where to gather it from.
Marks: TypeAlias = "NDArray[Any] | _Gather"


def _gathered(marks: Marks) -> NDArray[Any]:
    return read_only(_gathered(marks.marks).take(marks.index) if isinstance(marks, _Gather) else marks)


def _index_of(rows: NDArray[np.bool_] | NDArray[np.integer[Any]] | Sequence[int], count: int) -> NDArray[np.intp]:
    """Rows given by mask or index as an index of its own, for nobody may change it before the columns are read."""
    given = np.asarray(rows)
    if not given.size:
        return np.empty(0, np.intp)
    if given.dtype == np.bool_:
        if given.shape != (count,):
            raise IndexError(f"wanted a mask bool[{count}], found bool{list(given.shape)}")
        return given.nonzero()[0]
    if given.dtype.kind not in "iu" or given.ndim != 1:
        raise IndexError(f"wanted rows as bool[{count}] or int[k], found {given.dtype}{list(given.shape)}")
    if given.max() >= count or given.min() < -count:
        raise IndexError(f"wanted rows in 0..{count - 1}, found {given.min()}..{given.max()}")
    return given.astype(np.intp)


@attrs.frozen(eq=False)
class Row:
    """One candidate: `row[COLUMN]` is a plain Python value."""

    candidates: Candidates
    at: int

    def __getitem__(self, column: Column[Any]) -> Any:
        """The cell as a Python value; a labelled cell as a dictionary, a vector as a list.

        A null or failed cell gives the column's declared default, or `None` where that is missing or NaN.

        Raises:
            MissingColumnError: Nobody wrote the column.
        """
        cells = self.candidates.cells(column)
        if cells.state is not None and cells.state[self.at] != VALID:
            nothing = not column.has_default or (isinstance(column.default, float) and isnan(column.default))
            return None if nothing else column.default
        return cells.plain(self.at, column)
