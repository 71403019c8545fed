"""The table of candidates: read-only numpy columns, one row an item.

A cell is valid, null (looked up, no value) or failed (its writer broke). Components return patches; the engine
applies them, so nothing here is ever changed in place and arrays are shared instead of copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import numpy as np

from candidate_pipeline.cells import FAILED, NO_WRITER, NULL, VALID, Cells, new_cells, overlay, read_only
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

    __slots__ = ("_cells", "_dropped_by", "_rows", "_source_bits", "_source_names")

    def __init__(
        self,
        cells: Mapping[Column[Any], Cells],
        *,
        source_bits: NDArray[np.uint64] | None = None,
        source_names: tuple[str, ...] = (),
        dropped_by: NDArray[np.int16] | None = None,
    ) -> None:
        """Wrap cells as they are; `of`, `from_rows` and `empty` check what they are given."""
        if ITEM_ID not in cells:
            raise ContractError(f"candidates need {ITEM_ID.name}, found columns: {key_names(list(cells))}")
        self._cells = dict(cells)
        self._rows = len(cells[ITEM_ID].values)
        self._source_bits = None if source_bits is None else read_only(source_bits)
        self._source_names = source_names
        self._dropped_by = None if dropped_by is None else read_only(dropped_by)

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
        return f"<Candidates {self._rows} rows: {key_names(list(self._cells))}>"

    def __contains__(self, column: Column[Any]) -> bool:
        return column in self._cells

    def __getitem__(self, column: Column[S]) -> NDArray[S]:
        """The column's cells, read-only, `[n]` or `[n, width]`.

        Raises:
            MissingColumnError: Nobody wrote the column.
        """
        return self.cells(column).values

    @property
    def columns(self) -> tuple[Column[Any], ...]:
        """The columns there are."""
        return tuple(self._cells)

    def cells(self, column: Column[Any]) -> Cells:
        """A column's values, states and writers.

        Raises:
            MissingColumnError: Nobody wrote the column.
        """
        try:
            return self._cells[column]
        except KeyError:
            have = key_names(list(self._cells))
            raise MissingColumnError(
                f"column {column.name} is absent: no component wrote it; there are: {have}"
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
        return np.ones(self._rows, np.bool_) if self._dropped_by is None else self._dropped_by < 0

    @property
    def dropped_by(self) -> NDArray[np.int16]:
        """The number of the component that dropped each row, -1 for none, `int16[n]`."""
        return np.full(self._rows, -1, np.int16) if self._dropped_by is None else self._dropped_by

    @property
    def source_names(self) -> tuple[str, ...]:
        """The sources of the request, in the order of their bits."""
        return self._source_names

    @property
    def source_bits(self) -> NDArray[np.uint64]:
        """Which sources returned each row, one bit a source, `uint64[n]`."""
        return np.zeros(self._rows, np.uint64) if self._source_bits is None else self._source_bits

    def sources(self, row: int) -> tuple[str, ...]:
        """The names of the sources that returned a row."""
        bits = int(self.source_bits[row])
        return tuple(name for at, name in enumerate(self._source_names) if bits >> at & 1)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer[Any]] | Sequence[int]) -> Candidates:
        """The table of some rows, by mask or by index in the order given."""
        index = np.asarray(rows) if len(rows) else np.empty(0, np.intp)
        return Candidates(
            {column: cells.take(index) for column, cells in self._cells.items()},
            source_bits=None if self._source_bits is None else self._source_bits[index],
            source_names=self._source_names,
            dropped_by=None if self._dropped_by is None else self._dropped_by[index],
        )

    def patched(self, update: Patch, writer: int = NO_WRITER) -> Candidates:
        """A table with a patch applied. A null never erases a valid cell.

        Raises:
            ContractError: An update has the wrong length, shape or dtype, or rewrites `ITEM_ID`.
        """
        cells = dict(self._cells)
        for column, entry in update.updates.items():
            if column is ITEM_ID:
                raise ContractError(f"{ITEM_ID.name} cannot be rewritten")
            cells[column] = overlay(cells.get(column), new_cells(entry, self._rows, writer), column)
        return self._evolve(cells=cells)

    def with_failed(self, columns: Iterable[Column[Any]], writer: int) -> Candidates:
        """A table where the cells of `columns` that hold no value yet are marked failed."""
        cells = dict(self._cells)
        for column in columns:
            state = np.full(self._rows, FAILED, np.uint8)
            new = Cells(column.blank(self._rows), state, writer)
            cells[column] = overlay(cells.get(column), new, column)
        return self._evolve(cells=cells)

    def with_null(self, columns: Iterable[Column[Any]], writer: int) -> Candidates:
        """A table with further columns whose every cell is null."""
        cells = {
            column: Cells(column.blank(self._rows), np.full(self._rows, NULL, np.uint8), writer) for column in columns
        }
        return self._evolve(cells={**self._cells, **cells}) if cells else self

    def with_cells(self, cells: Mapping[Column[Any], Cells]) -> Candidates:
        """A table with some columns' cells replaced by others for the same rows."""
        return self._evolve(cells={**self._cells, **cells})

    def dropping(self, drop: NDArray[np.bool_], component: int) -> Candidates:
        """A table where the rows of `drop` that were alive are marked as dropped by a component."""
        dropped = self.dropped_by.copy()
        dropped[drop & (dropped < 0)] = component
        return self._evolve(dropped_by=dropped)

    def with_sources(self, bits: NDArray[np.uint64], names: tuple[str, ...]) -> Candidates:
        """A table that says which sources returned each row."""
        return Candidates(self._cells, source_bits=bits, source_names=names, dropped_by=self._dropped_by)

    def written_by(self, writer: int) -> Candidates:
        """A table whose every cell names `writer` as its writer."""
        cells = {column: attrs.evolve(cell, writer=writer) for column, cell in self._cells.items()}
        return self._evolve(cells=cells)

    def row(self, at: int) -> Row:
        """One row, for debugging and per-item components."""
        return Row(self, at)

    def __iter__(self) -> Iterator[Row]:
        return (Row(self, at) for at in range(self._rows))

    def to_records(self) -> list[dict[str, Any]]:
        """Rows as dictionaries of plain Python values by column name; nulls and failures are `None`."""
        columns = sorted(self._cells.items(), key=lambda pair: pair[0].name)
        states = {column: cells.states() for column, cells in columns}
        return [
            {
                column.name: cells.plain(row, column) if states[column][row] == VALID else None
                for column, cells in columns
            }
            for row in range(self._rows)
        ]

    def _evolve(
        self, cells: dict[Column[Any], Cells] | None = None, dropped_by: NDArray[np.int16] | None = None
    ) -> Candidates:
        return Candidates(
            self._cells if cells is None else cells,
            source_bits=self._source_bits,
            source_names=self._source_names,
            dropped_by=self._dropped_by if dropped_by is None else dropped_by,
        )


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
