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
    """A view that cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view


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
    state: NDArray[np.uint8] | None = attrs.field(converter=attrs.converters.optional(read_only))
    writer: int | NDArray[np.int16] = attrs.field(converter=_read_only_writer)
    labels: tuple[str, ...] = ()

    def take(self, index: NDArray[Any]) -> Cells:
        """The cells of some rows, by index or mask."""
        state = None if self.state is None else self.state[index]
        writer = self.writer if isinstance(self.writer, int) else self.writer[index]
        return Cells(self.values[index], state, writer, self.labels)

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


def new_cells(update: ColumnUpdate, rows: int, writer: int) -> Cells:
    """An update's cells, checked.

    Raises:
        ContractError: The update has the wrong length, shape or dtype.
    """
    values, valid = update.checked(rows)
    labels = update.given_labels
    if valid is None:
        return Cells(values, None, writer, labels)
    filled = update.column.blank(rows, labels)
    filled[valid] = values[valid]
    return Cells(filled, valid.astype(np.uint8), writer, labels)


def overlay(old: Cells | None, new: Cells, column: Column[Any]) -> Cells:
    """New cells over old ones: valid beats everything, failed beats null."""
    if old is None or new.state is None:
        return new
    old_state = old.states()
    use_new = (new.state == VALID) | ((old_state != VALID) & (new.state == FAILED)) | (old_state == NULL)
    if use_new.all():
        return new
    if not use_new.any():
        return old
    old, new = same_labels(old, new, column)
    shape = (-1,) + (1,) * (old.values.ndim - 1)
    return Cells(
        np.where(use_new.reshape(shape), new.values, old.values),
        np.where(use_new, new.states(), old_state),
        np.where(use_new, new.writers(), old.writers()),
        new.labels,
    )


def same_labels(old: Cells, new: Cells, column: Column[Any]) -> tuple[Cells, Cells]:
    """Two parts of a column with the labels of the part that has values.

    Raises:
        ContractError: Both have values, under different labels.
    """
    if old.labels == new.labels:
        return old, new
    if not (old.states() == VALID).any():
        return attrs.evolve(old, values=column.blank(len(old.values), new.labels), labels=new.labels), new
    if not (new.states() == VALID).any():
        return old, attrs.evolve(new, values=column.blank(len(new.values), old.labels), labels=old.labels)
    raise ContractError(f"{column.name}: some rows have the labels {old.labels}, others {new.labels}")
