"""One column's cells: values, states and writers, and how new cells are laid over old ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np

from candidate_pipeline.errors import ContractError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from candidate_pipeline.keys import Column
    from candidate_pipeline.patches import ColumnUpdate

NULL: Final = 0
VALID: Final = 1
FAILED: Final = 2

#: Writer number of cells whose writer is not recorded (tables made by hand).
NO_WRITER: Final = -1


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The array if nobody can write to it, else a view that nobody can write to."""
    if not array.flags.writeable:
        return array
    view = array.view()
    view.setflags(write=False)
    return view


def _read_only_state(state: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
    return None if state is None else read_only(state)


def _read_only_writer(writer: int | NDArray[np.int16]) -> int | NDArray[np.int16]:
    return writer if isinstance(writer, int) else read_only(writer)


@attrs.frozen(eq=False)
class Cells:
    """One column's cells.

    Args:
        values: `[n, ...]`; cells that are not valid hold the column's default.
        state: `uint8[n]` of `NULL`, `VALID`, `FAILED`, or `None` when every cell is valid.
        writer: The number of the component that wrote the cells, or `int16[n]` of them.
        labels: The names of the places of a labelled column.
    """

    values: NDArray[Any] = attrs.field(converter=read_only)
    state: NDArray[np.uint8] | None = attrs.field(converter=_read_only_state)
    writer: int | NDArray[np.int16] = attrs.field(converter=_read_only_writer)
    labels: tuple[str, ...] = ()

    def take(self, index: NDArray[np.intp]) -> Cells:
        """The cells of some rows, by index."""
        state = None if self.state is None else self.state.take(index)
        writer = self.writer if isinstance(self.writer, int) else self.writer.take(index)
        return Cells(self.values.take(index, axis=0), state, writer, self.labels)

    @property
    def has_values(self) -> bool:
        """Whether any cell is valid."""
        return len(self.values) > 0 if self.state is None else bool((self.state == VALID).any())

    def without_idle_state(self) -> Cells:
        """The same cells, with `None` for a state that says valid throughout."""
        if self.state is None or not (self.state == VALID).all():
            return self
        return Cells(self.values, None, self.writer, self.labels)

    def plain(self, row: int, column: Column[Any]) -> Any:
        """A valid cell as a plain Python value; a labelled cell as a dictionary, a vector as a list."""
        value = self.values[row]
        if column.labels:
            return dict(zip(self.labels, value.tolist(), strict=True))
        return value.tolist() if isinstance(value, np.generic | np.ndarray) else value

    def states(self) -> NDArray[np.uint8]:
        """The state of every cell, `uint8[n]`."""
        return np.full(len(self.values), VALID, np.uint8) if self.state is None else self.state

    def writers(self) -> NDArray[np.int16]:
        """The writer of every cell, `int16[n]`."""
        if isinstance(self.writer, int):
            return np.full(len(self.values), self.writer, np.int16)
        return self.writer


def new_cells(update: ColumnUpdate, rows: int, writer: int, failed: NDArray[np.bool_] | None = None) -> Cells:
    """An update's cells, checked; those of the rows of `failed` are failed, whatever the update holds there.

    Raises:
        ContractError: The update has the wrong length, shape or dtype.
    """
    values, valid = update.checked(rows, failed)
    labels = update.column.labels if update.labels is None else update.labels
    if valid is None and failed is None:
        # A view, so that who made the array cannot make it writeable again.
        return Cells(values.view(), None, writer, labels)
    if failed is not None:
        valid = ~failed if valid is None else valid > failed
    filled = update.column.blank(rows, labels)
    np.copyto(filled, values, where=_along(valid, filled))
    state = valid.astype(np.uint8)  # type: ignore[union-attr]  # one of the two is there
    if failed is not None:
        state[failed] = FAILED
    return Cells(filled, state, writer, labels)


def null_cells(column: Column[Any], rows: int, writer: int) -> Cells:
    """Cells without a value."""
    return Cells(column.blank(rows), np.full(rows, NULL, np.uint8), writer)


def overlay(old: Cells | None, new: Cells, column: Column[Any]) -> Cells:
    """New cells over old ones: valid beats everything, failed beats null."""
    if old is None or new.state is None:
        return new
    if old.state is None:
        use_new = new.state == VALID
    else:
        use_new = (new.state == VALID) | ((old.state != VALID) & (new.state == FAILED)) | (old.state == NULL)
    if use_new.all():
        return new
    if not use_new.any():
        return old
    return either(use_new, *same_labels(old, new, column))


def replace(old: Cells | None, new: Cells, where: NDArray[np.bool_], column: Column[Any]) -> Cells:
    """New cells in some rows, nulls included, and the old ones in the others; null there without old ones.

    Raises:
        ContractError: Rows that stay and rows that are new have values under different labels.
    """
    rows = len(where)
    nulls = np.full(rows, NULL, np.uint8)
    kept = null_cells(column, rows, _one_writer(new)) if old is None else old
    kept = attrs.evolve(kept, state=np.where(where, nulls, kept.states()))
    given = attrs.evolve(new, state=np.where(where, new.states(), nulls))
    return either(where, *same_labels(kept, given, column)).without_idle_state()


def _one_writer(cells: Cells) -> int:
    return cells.writer if isinstance(cells.writer, int) else NO_WRITER


def either(use_new: NDArray[np.bool_], old: Cells, new: Cells) -> Cells:
    """Row by row the new or the old cells, both under the same labels."""
    same = isinstance(old.writer, int) and isinstance(new.writer, int) and old.writer == new.writer
    writer = old.writer if same else np.where(use_new, np.int16(new.writer), np.int16(old.writer))
    return Cells(
        np.where(_along(use_new, old.values), new.values, old.values),
        np.where(use_new, new.states(), old.states()),
        writer,
        new.labels,
    )


def _along(rows: NDArray[np.bool_] | None, values: NDArray[Any]) -> Any:
    """A mask of rows, shaped to select whole cells of `values`."""
    return rows if rows is None or values.ndim == 1 else rows.reshape((-1,) + (1,) * (values.ndim - 1))


def same_labels(old: Cells, new: Cells, column: Column[Any]) -> tuple[Cells, Cells]:
    """Two parts of a column with the labels of the part that has values.

    Raises:
        ContractError: Both have values, under different labels.
    """
    if old.labels == new.labels:
        return old, new
    if not old.has_values:
        return attrs.evolve(old, values=column.blank(len(old.values), new.labels), labels=new.labels), new
    if not new.has_values:
        return old, attrs.evolve(new, values=column.blank(len(new.values), old.labels), labels=old.labels)
    raise labels_clash(column, old.labels, new.labels)


def labels_clash(column: Column[Any], some: tuple[str, ...], others: tuple[str, ...]) -> ContractError:
    """The error where rows of a labelled column have values under different labels."""
    return ContractError(f"{column.name}: some rows have the labels {some}, others {others}")
