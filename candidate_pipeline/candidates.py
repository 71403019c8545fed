"""The table of candidates: read-only numpy columns, one row an item.

A cell is valid, null (looked up, no value) or failed (its writer broke). Components return patches; the engine
applies them, so nothing here is ever changed in place and arrays are shared instead of copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
import numpy as np

from candidate_pipeline.errors import ContractError, MissingColumnError
from candidate_pipeline.keys import ITEM_ID, Column, key_names
from candidate_pipeline.patches import ColumnUpdate, Patch, patch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

S = TypeVar("S", bound=np.generic)

NULL: Final = 0
VALID: Final = 1
FAILED: Final = 2

#: Writer number of cells whose writer is not recorded (tables made by hand).
NO_WRITER: Final = -1


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


@attrs.frozen(eq=False)
class Cells:
    """One column's cells.

    Args:
        values: `[n, ...]`; cells that are not valid hold the column's default.
        state: `uint8[n]` of `NULL`, `VALID`, `FAILED`, or `None` when every cell is valid.
        writer: The number of the component that wrote the cells, or `int16[n]` of them.
        labels: The names of the places of a labelled column.
    """

    values: NDArray[Any] = attrs.field(converter=_read_only)
    state: NDArray[np.uint8] | None
    writer: int | NDArray[np.int16]
    labels: tuple[str, ...] = ()

    def take(self, index: NDArray[Any]) -> Cells:
        """The cells of some rows, by index or mask."""
        state = None if self.state is None else self.state[index]
        writer = self.writer if isinstance(self.writer, int) else self.writer[index]
        return Cells(self.values[index], state, writer, self.labels)

    def states(self) -> NDArray[np.uint8]:
        """The state of every cell, `uint8[n]`."""
        return np.full(len(self.values), VALID, np.uint8) if self.state is None else self.state

    def writers(self) -> NDArray[np.int16]:
        """The writer of every cell, `int16[n]`."""
        if isinstance(self.writer, int):
            return np.full(len(self.values), self.writer, np.int16)
        return self.writer


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
        self._source_bits = source_bits
        self._source_names = source_names
        self._dropped_by = dropped_by

    @classmethod
    def of(cls, *updates: ColumnUpdate) -> Candidates:
        """A table from columns, `ITEM_ID` among them.

        Raises:
            ContractError: No item ids, null item ids, or columns of unequal length, wrong shape or dtype.
        """
        given = patch(*updates).updates
        if ITEM_ID not in given:
            raise ContractError(f"candidates need {ITEM_ID.name}, found columns: {key_names(list(given))}")
        rows = len(np.asarray(given[ITEM_ID].values))
        cells = {column: _new_cells(update, rows, NO_WRITER) for column, update in given.items()}
        if cells[ITEM_ID].state is not None:
            raise ContractError(f"{ITEM_ID.name} may not be null")
        return cls(cells)

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[Column[Any], Any]]) -> Candidates:
        """A table from one mapping a row; a missing key or `None` is a null."""
        records = list(rows)
        columns = list(dict.fromkeys(column for record in records for column in record)) or [ITEM_ID]
        return cls.of(*(_column_of_rows(column, records) for column in columns))

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
            cells[column] = _overlay(cells.get(column), _new_cells(entry, self._rows, writer), column)
        return self._evolve(cells=cells)

    def with_failed(self, columns: Iterable[Column[Any]], writer: int) -> Candidates:
        """A table where the cells of `columns` that hold no value yet are marked failed."""
        cells = dict(self._cells)
        for column in columns:
            state = np.full(self._rows, FAILED, np.uint8)
            new = Cells(column.blank(self._rows), state, writer)
            cells[column] = _overlay(cells.get(column), new, column)
        return self._evolve(cells=cells)

    def with_null(self, columns: Iterable[Column[Any]], writer: int) -> Candidates:
        """A table with further columns whose every cell is null."""
        cells = {
            column: Cells(column.blank(self._rows), np.full(self._rows, NULL, np.uint8), writer) for column in columns
        }
        return self._evolve(cells={**self._cells, **cells}) if cells else self

    def overlaid(self, other: Candidates, columns: Iterable[Column[Any]]) -> Candidates:
        """A table with the cells of another one's columns laid over its own; the rows are the same."""
        new = {column: _overlay(self._cells.get(column), other.cells(column), column) for column in columns}
        return self._evolve(cells={**self._cells, **new})

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

    def restricted(self, columns: Iterable[Column[Any]]) -> Candidates:
        """A table with only some columns (and `ITEM_ID`); those that are absent are left out."""
        wanted = {ITEM_ID, *columns}
        return self._evolve(cells={column: cells for column, cells in self._cells.items() if column in wanted})

    def row(self, at: int) -> Row:
        """One row, for debugging and per-item components."""
        return Row(self, at)

    def __iter__(self) -> Iterator[Row]:
        return (Row(self, at) for at in range(self._rows))

    def to_records(self) -> list[dict[str, Any]]:
        """Rows as dictionaries of plain Python values by column name; nulls and failures are `None`."""
        return [
            {column.name: row[column] for column in sorted(self._cells, key=lambda column: column.name)} for row in self
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
    """One candidate: `row[COLUMN]` is a plain Python value, or `None` for a null or failed cell."""

    candidates: Candidates
    at: int

    def __getitem__(self, column: Column[Any]) -> Any:
        """The cell as a Python value; a labelled cell as a dictionary, a vector as a list.

        Raises:
            MissingColumnError: Nobody wrote the column.
        """
        cells = self.candidates.cells(column)
        if cells.state is not None and cells.state[self.at] != VALID:
            return column.default if column.has_default else None
        value = cells.values[self.at]
        if column.labels:
            return dict(zip(cells.labels, value.tolist(), strict=True))
        return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _new_cells(update: ColumnUpdate, rows: int, writer: int) -> Cells:
    values, valid = update.checked(rows)
    labels = update.given_labels
    if valid is None:
        return Cells(values, None, writer, labels)
    filled = update.column.blank(rows, labels)
    filled[valid] = values[valid]
    return Cells(filled, valid.astype(np.uint8), writer, labels)


def _overlay(old: Cells | None, new: Cells, column: Column[Any]) -> Cells:
    """New cells over old ones: valid beats everything, failed beats null."""
    if old is None or new.state is None:
        return new
    old_state = old.states()
    use_new = (new.state == VALID) | ((old_state != VALID) & (new.state == FAILED)) | (old_state == NULL)
    if use_new.all():
        return new
    if not use_new.any():
        return old
    if old.labels != new.labels:
        raise ContractError(f"{column.name}: some rows have the labels {old.labels}, others {new.labels}")
    shape = (-1,) + (1,) * (old.values.ndim - 1)
    return Cells(
        np.where(use_new.reshape(shape), new.values, old.values),
        np.where(use_new, new.state, old_state),
        np.where(use_new, new.writers(), old.writers()),
        new.labels,
    )


def _column_of_rows(column: Column[Any], records: Sequence[Mapping[Column[Any], Any]]) -> ColumnUpdate:
    """One column of rows given as mappings; a labelled cell is a mapping from label to value."""
    given = [record.get(column) for record in records]
    valid = np.array([value is not None for value in given], dtype=np.bool_)
    labels = tuple(label for label in column.labels if all(value is None or label in value for value in given))
    values = column.blank(len(records), labels)
    for at, value in enumerate(given):
        if value is None:
            continue
        cell = [value[label] for label in labels] if column.labels else value
        if column.dtype is not np.object_ and not np.can_cast(np.asarray(cell).dtype, column.dtype, "same_kind"):
            raise ContractError(f"{column.name}: wanted {np.dtype(column.dtype)}, found {value!r:.80} in row {at}")
        values[at] = cell
    return column(values, valid=valid, labels=labels if column.labels else None)
