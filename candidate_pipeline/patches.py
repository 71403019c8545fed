"""Patches: what a component returns instead of changing its input.

`patch(AUTHOR_ID(ids, valid=found), LANG(codes))` says which cells a hydrator or scorer writes;
`query_patch(FOLLOWS(ids))` does the same for the query. The engine checks and applies them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from candidate_pipeline.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import ArrayLike, NDArray

    from candidate_pipeline.keys import Column, QueryFeature


@attrs.frozen
class ColumnUpdate:
    """A column and the cells to write: `COLUMN(values, valid=mask)` makes one."""

    column: Column[Any]
    values: ArrayLike
    valid: ArrayLike | None = None
    labels: tuple[str, ...] | None = None

    @property
    def given_labels(self) -> tuple[str, ...]:
        """The labels of the places of `values`.

        Raises:
            ContractError: One is not a label of the column, or stands twice.
        """
        if self.labels is None:
            return self.column.labels
        unknown = [label for label in self.labels if label not in self.column.labels]
        if unknown:
            have = ", ".join(self.column.labels) or "none"
            raise ContractError(f"{self.column.name} has no label {unknown[0]!r}; it has: {have}")
        if len(set(self.labels)) != len(self.labels):
            raise ContractError(f"{self.column.name}: a label stands twice in {self.labels}")
        return self.labels

    def checked(self, rows: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """The cells as arrays of the column's dtype and shape, and the mask of valid ones (`None`: all).

        Raises:
            ContractError: Wrong length, shape or dtype, or NaN in a labelled column.
        """
        column = self.column
        want = (rows, *column.row_shape(self.given_labels))
        values = self._cast()
        if values.shape != want:
            raise ContractError(f"{column.name}: wanted an array of shape {want}, found {values.shape}")
        valid: NDArray[np.bool_] | None = None
        if self.valid is not None:
            mask = np.asarray(self.valid)
            if mask.dtype != np.bool_ or mask.shape != (rows,):
                raise ContractError(
                    f"{column.name}: wanted valid as bool[{rows}], found {mask.dtype}{list(mask.shape)}"
                )
            valid = None if mask.all() else mask
        if column.labels and values.dtype.kind == "f":
            bad = np.isnan(values).any(axis=1)
            if valid is not None:
                bad &= valid
            if bad.any():
                row = int(np.flatnonzero(bad)[0])
                names = [label for label, x in zip(self.given_labels, values[row], strict=True) if np.isnan(x)]
                raise ContractError(
                    f"{column.name}: NaN in {int(bad.sum())} of {rows} rows, first in row {row} ({', '.join(names)}); "
                    "mark rows without a value with valid=..."
                )
        return values, valid

    def _cast(self) -> NDArray[Any]:
        column = self.column
        dtype = np.dtype(column.dtype)
        if dtype == np.object_ and not isinstance(self.values, np.ndarray):
            items = list(self.values)  # type: ignore[arg-type]  # any iterable of Python objects
            boxed = np.empty(len(items), dtype=np.object_)
            boxed[:] = items
            return boxed
        values = np.asarray(self.values)
        if values.dtype == dtype:
            return values
        if values.dtype == np.uint64 and dtype == np.int64:
            return values.view(np.int64)
        if np.can_cast(values.dtype, dtype, "safe") or (values.dtype.kind == "f" and dtype.kind == "f"):
            return values.astype(dtype)
        raise ContractError(f"{column.name}: wanted dtype {dtype}, found {values.dtype}")


@attrs.frozen
class FeatureUpdate:
    """A query feature and its value: `FEATURE(value)` makes one."""

    feature: QueryFeature[Any]
    value: Any

    def __attrs_post_init__(self) -> None:
        want = self.feature.type
        good = isinstance(self.value, want) and not (want in {int, float} and isinstance(self.value, bool))
        if not good and not (want is float and isinstance(self.value, int) and not isinstance(self.value, bool)):
            raise ContractError(
                f"{self.feature.name}: wanted a {want.__name__}, found {type(self.value).__name__} {self.value!r:.80}"
            )


@attrs.frozen
class Patch:
    """Cells to write, by column."""

    updates: Mapping[Column[Any], ColumnUpdate]


@attrs.frozen
class QueryPatch:
    """Values to write, by query feature."""

    updates: Mapping[QueryFeature[Any], FeatureUpdate]


def patch(*updates: ColumnUpdate) -> Patch:
    """Collect column updates into a patch.

    Raises:
        ContractError: A column is written twice.
    """
    return Patch(_unique((update.column, update) for update in updates))


def query_patch(*updates: FeatureUpdate) -> QueryPatch:
    """Collect feature updates into a patch.

    Raises:
        ContractError: A feature is written twice.
    """
    return QueryPatch(_unique((update.feature, update) for update in updates))


def _unique(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for key, update in pairs:
        if key in result:
            raise ContractError(f"{key.name} is written twice in one patch")
        result[key] = update
    return result
