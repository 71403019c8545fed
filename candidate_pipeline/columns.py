"""The columns of a table, each made when it is first read.

Taking rows, joining tables and naming a writer change every column of a table, of which the next component reads a
few. So such a table holds where its columns come from, and makes each on first reading. Which columns there are is
fixed from the start; what is made is kept. Two threads that read one column at once may both make it, to equal cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from candidate_pipeline.cells import FAILED, NO_WRITER, NULL, VALID, Cells, labels_clash

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from candidate_pipeline.keys import Column


class Columns:
    """Columns of one length by key; immutable.

    Args:
        rows: Their length.
        cells: The columns that are there already.
        origin: Where the others come from.
        names: The columns there are, in order, as keys; default: those of `cells`.
    """

    __slots__ = ("_cells", "_names", "origin", "rows")

    def __init__(
        self,
        rows: int,
        cells: dict[Column[Any], Cells],
        origin: Origin | None = None,
        names: dict[Column[Any], Any] | None = None,
    ) -> None:
        """Take over `cells` and `names`, which nobody may change afterwards."""
        self.rows = rows
        self._cells = cells
        self.origin = origin
        self._names: dict[Column[Any], Any] = cells if names is None else names

    def __contains__(self, column: Column[Any]) -> bool:
        return column in self._names

    def __iter__(self) -> Iterator[Column[Any]]:
        return iter(self._names)

    def cells(self, column: Column[Any]) -> Cells:
        """A column's cells.

        Raises:
            KeyError: There is no such column.
        """
        found = self._cells.get(column)
        if found is not None:
            return found
        if self.origin is None or column not in self._names:
            raise KeyError(column)
        return self.origin.cells(column)

    def has_made(self, column: Column[Any]) -> bool:
        """Whether a column's cells are there already."""
        return column in self._cells or (self.origin is not None and column in self.origin.made)

    def replaced(self, cells: dict[Column[Any], Cells]) -> Columns:
        """These columns with some replaced or added."""
        merged = self._cells | cells
        if self.origin is None:
            return Columns(self.rows, merged)
        names = self._names if cells.keys() <= self._names.keys() else self._names | cells
        return Columns(self.rows, merged, self.origin, names)

    def take(self, index: NDArray[np.intp]) -> Columns:
        """Some rows of these columns."""
        return Columns(len(index), {}, _Taken(self, index), self._names)

    def written_by(self, writer: int) -> Columns:
        """These columns, every cell naming `writer` as its writer."""
        return Columns(self.rows, {}, _Written(self, writer), self._names)

    def only(self, columns: Iterable[Column[Any]]) -> Columns:
        """The columns of `columns` that there are."""
        names = [column for column in columns if column in self._names]
        cells = {column: self._cells[column] for column in names if column in self._cells}
        return Columns(self.rows, cells, self.origin, dict.fromkeys(names))

    def one_a_group(self, first: NDArray[np.intp], group: NDArray[np.intp]) -> Columns:
        """One row a group: column by column its first valid cell, else its first failed one, else its first.

        Args:
            first: The first row of each group, `intp[groups]`.
            group: Each row's group, `intp[rows]`.
        """
        return Columns(len(first), {}, _Grouped(self, first, group), self._names)

    @staticmethod
    def joined(parts: Sequence[Columns]) -> Columns:
        """Rows of several tables one below the other; a column is null where a part lacks it.

        Raises:
            ContractError: Two parts have values of a labelled column under different labels.
        """
        names = dict.fromkeys(column for part in parts for column in part)
        labels = {column: _common_labels(column, parts) for column in names if column.labels}
        return Columns(sum(part.rows for part in parts), {}, _Joined(parts, labels), names)


class Origin:
    """Where columns come from that were not read yet."""

    __slots__ = ("made",)

    def __init__(self) -> None:
        """Start with nothing made."""
        self.made: dict[Column[Any], Cells] = {}

    def cells(self, column: Column[Any]) -> Cells:
        """The cells of a column, made once."""
        found = self.made.get(column)
        if found is None:
            found = self.made[column] = self._make(column)
        return found

    def _make(self, column: Column[Any]) -> Cells:
        raise NotImplementedError


class _Taken(Origin):
    """Some rows of other columns; rows of rows are gathered once, from the nearest table that has the column."""

    __slots__ = ("columns", "index", "nearer")

    def __init__(self, columns: Columns, index: NDArray[np.intp]) -> None:
        super().__init__()
        self.columns = columns
        self.index = index
        self.nearer: _Taken | None = None

    def _make(self, column: Column[Any]) -> Cells:
        origin = self.columns.origin
        if isinstance(origin, _Taken) and not self.columns.has_made(column):
            if self.nearer is None:
                self.nearer = _Taken(origin.columns, origin.index.take(self.index))
            return self.nearer.cells(column)
        return self.columns.cells(column).take(self.index)


class _Written(Origin):
    """Other columns, written by somebody else."""

    __slots__ = ("columns", "writer")

    def __init__(self, columns: Columns, writer: int) -> None:
        super().__init__()
        self.columns = columns
        self.writer = writer

    def _make(self, column: Column[Any]) -> Cells:
        cells = self.columns.cells(column)
        return Cells(cells.values, cells.state, self.writer, cells.labels)


class _Joined(Origin):
    """Several tables one below the other."""

    __slots__ = ("labels", "parts")

    def __init__(self, parts: Sequence[Columns], labels: Mapping[Column[Any], tuple[str, ...]]) -> None:
        super().__init__()
        self.parts = parts
        self.labels = labels

    def _make(self, column: Column[Any]) -> Cells:
        labels = self.labels.get(column, ())
        cells = [_part(part, column, labels) for part in self.parts]
        if len(cells) == 1:
            return cells[0]
        writers = {each.writer for each in cells if isinstance(each.writer, int)}
        one_writer = len(writers) == 1 and all(isinstance(each.writer, int) for each in cells)
        return Cells(
            np.concatenate([each.values for each in cells]),
            None if all(each.state is None for each in cells) else np.concatenate([each.states() for each in cells]),
            writers.pop() if one_writer else np.concatenate([each.writers() for each in cells]),
            labels,
        )


class _Grouped(Origin):
    """One row a group of rows."""

    __slots__ = ("columns", "first", "group")

    def __init__(self, columns: Columns, first: NDArray[np.intp], group: NDArray[np.intp]) -> None:
        super().__init__()
        self.columns = columns
        self.first = first
        self.group = group

    def _make(self, column: Column[Any]) -> Cells:
        cells = self.columns.cells(column)
        if cells.state is None:
            return cells.take(self.first)
        rows = len(self.group)
        last_choice = np.zeros(3, np.intp)
        last_choice[[VALID, FAILED, NULL]] = 0, rows, 2 * rows
        best = np.full(len(self.first), 3 * rows)
        np.minimum.at(best, self.group, last_choice[cells.state] + np.arange(rows))
        return cells.take(best % rows).without_idle_state()


def _part(part: Columns, column: Column[Any], labels: tuple[str, ...]) -> Cells:
    if column not in part:
        return Cells(column.blank(part.rows, labels), np.full(part.rows, NULL, np.uint8), NO_WRITER, labels)
    cells = part.cells(column)
    if cells.labels == labels:
        return cells
    return Cells(column.blank(part.rows, labels), cells.states(), cells.writer, labels)


def _common_labels(column: Column[Any], parts: Sequence[Columns]) -> tuple[str, ...]:
    """The labels of the parts that have values; without values, those of the last part that has the column."""
    labels: tuple[str, ...] = ()
    certain = False
    for part in parts:
        if column not in part:
            continue
        cells = part.cells(column)
        if not certain:
            labels, certain = cells.labels, cells.has_values
        elif cells.labels != labels and cells.has_values:
            raise labels_clash(column, labels, cells.labels)
    return labels
