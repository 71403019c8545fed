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
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from candidate_pipeline.keys import Column, QueryFeature


@attrs.frozen
class ColumnUpdate:
    """A column and the cells to write: `COLUMN(values, valid=mask)` makes one."""

    column: Column[Any]
    values: ArrayLike | Sequence[Any]
    valid: ArrayLike | None = None
    labels: tuple[str, ...] | None = None

    @property
    def given_labels(self) -> tuple[str, ...]:
        """The labels of the places of `values`.

        Raises:
            ContractError: One is not a label of the column, or stands twice.
        """
        if self.labels is None or self.labels == self.column.labels:
            return self.column.labels
        unknown = [label for label in self.labels if label not in self.column.labels]
        if unknown:
            have = ", ".join(self.column.labels) or "none"
            raise ContractError(f"{self.column.name} has no label {unknown[0]!r}; it has: {have}")
        if len(set(self.labels)) != len(self.labels):
            raise ContractError(f"{self.column.name}: a label stands twice in {self.labels}")
        return self.labels

    def checked(
        self, rows: int, failed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """The cells as arrays of the column's dtype and shape, and the mask of valid ones (`None`: all).

        Args:
            rows: How many there must be.
            failed: Rows whose lookup failed, `bool[rows]`: what they hold is of no interest.

        Raises:
            ContractError: Wrong length, shape or dtype, a number that the dtype cannot hold, or NaN in a labelled
                column.
        """
        column = self.column
        values = self.values
        plain = not column.labels and column.width is None and column.dtype is not np.object_
        if plain and self.valid is None and type(values) is np.ndarray and values.dtype == column.dtype:
            if values.shape != (rows,):
                raise ContractError(f"{column.name}: wanted an array of shape {(rows,)}, found {values.shape}")
            return values, None
        want = (rows, *column.row_shape(self.given_labels))
        values = self._cast(want)
        if values.shape != want:
            raise ContractError(f"{column.name}: wanted an array of shape {want}, found {values.shape}")
        valid = self._mask(rows)
        if values.dtype == np.object_ and values.ndim == 1:
            nulls = [value is None for value in values.tolist()]
            if True in nulls:  # `None` is how Python says null
                there = ~np.array(nulls, np.bool_)
                valid = there if valid is None else there & valid
        if column.labels and values.dtype.kind == "f":
            self._check_nan(values, valid, failed)
        return values, valid

    def _check_nan(
        self, values: NDArray[Any], valid: NDArray[np.bool_] | None, failed: NDArray[np.bool_] | None
    ) -> None:
        bad = np.isnan(values)
        if not bad.any():
            return
        bad = bad.any(axis=1)
        if valid is not None:
            bad &= valid
        if failed is not None:
            bad &= ~failed
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            names = [label for label, x in zip(self.given_labels, values[row], strict=True) if np.isnan(x)]
            raise ContractError(
                f"{self.column.name}: NaN in {int(bad.sum())} of {len(bad)} rows, first in row {row} "
                f"({', '.join(names)}); mark rows without a value with valid=..."
            )

    def _mask(self, rows: int) -> NDArray[np.bool_] | None:
        mask = None if self.valid is None else _mask_of(self.valid, rows, f"{self.column.name}: wanted valid")
        return None if mask is None or mask.all() else mask

    def _cast(self, want: tuple[int, ...]) -> NDArray[Any]:
        column = self.column
        dtype = np.dtype(column.dtype)
        given = isinstance(self.values, np.ndarray)
        if dtype == np.object_ and not given:
            return self._boxed()
        try:
            values = np.asarray(self.values)
        except ValueError as error:
            raise ContractError(f"{column.name}: wanted an array of shape {want}: {error}") from None
        if values.dtype == dtype:
            return values
        if values.shape[:1] == (0,) == want[:1]:  # no rows: neither a dtype nor a width to be seen
            return np.empty(want, dtype)
        if dtype == np.int64 and not given and values.dtype.kind == "f":
            values = _exact_ids(self.values, values)
        if values.dtype == np.uint64 and dtype == np.int64:
            return values.view(np.int64)
        if np.can_cast(values.dtype, dtype, "safe"):
            return values.astype(dtype)
        floats = values.dtype.kind == "f" and dtype.kind == "f"
        # Integers in a list have no width of their own, so what counts is whether the column can hold them.
        listed = not given and values.dtype.kind in "iu" and dtype.kind in "iuf"
        if not floats and not listed:
            raise ContractError(f"{column.name}: wanted dtype {dtype}, found {values.dtype}")
        with np.errstate(over="ignore"):
            converted = values.astype(dtype)
        lost = np.isfinite(values) & ~np.isfinite(converted) if floats else converted != values
        if lost.any():
            raise ContractError(f"{column.name}: {dtype} cannot hold {values[lost].flat[0]}")
        return converted

    def _boxed(self) -> NDArray[Any]:
        """Python objects as an object array, each in one cell whatever it is."""
        if isinstance(self.values, str | bytes):
            raise ContractError(f"{self.column.name}: wanted one value a row, found the text {self.values!r:.80}")
        items = list(self.values)  # type: ignore[arg-type]  # any iterable of Python objects
        if self.column.width is not None or self.column.labels:
            return np.array(items, dtype=np.object_)
        boxed = np.empty(len(items), dtype=np.object_)
        for at, item in enumerate(items):
            boxed[at] = item
        return boxed


def _exact_ids(items: object, values: NDArray[Any]) -> NDArray[Any]:
    """Ids of which only some need 64 unsigned bits: numpy would make them floats, and no longer exact."""
    listed = items if isinstance(items, list | tuple) else ()
    if listed and all(isinstance(item, int) and -(2**63) <= item < 2**64 for item in listed):
        return np.array([item % 2**64 for item in listed], np.uint64)
    return values


def _feature_value(feature: QueryFeature[Any], value: Any) -> Any:
    """A feature's value as its type: numpy's numbers become Python's, arrays read-only; nothing else is converted."""
    wanted = feature.type
    if isinstance(value, np.integer) and wanted in {int, float}:
        value = int(value)
    elif isinstance(value, np.bool_) and wanted is bool:
        value = bool(value)
    elif isinstance(value, np.floating) and wanted is float:
        value = float(value)
    if wanted is float and type(value) is int:
        value = float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted in {int, float}):
        raise ContractError(f"{feature.name}: wanted {wanted.__name__}, found {type(value).__name__} {value!r:.80}")
    if type(value) is np.ndarray:
        value = value.view()
        value.flags.writeable = False
    return value


@attrs.frozen
class FeatureUpdate:
    """A query feature and its value: `FEATURE(value)` makes one."""

    feature: QueryFeature[Any]
    value: Any

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "value", _feature_value(self.feature, self.value))


@attrs.frozen
class Patch:
    """Cells to write, by column.

    Args:
        updates: The cells.
        failed: Rows whose lookup failed, `bool[n]`; `None`: none did.
    """

    updates: Mapping[Column[Any], ColumnUpdate]
    failed: ArrayLike | None = None

    def failed_rows(self, rows: int) -> NDArray[np.bool_] | None:
        """The rows that failed, `bool[rows]`, or `None` if none did.

        Raises:
            ContractError: `failed` has another length or dtype.
        """
        mask = None if self.failed is None else _mask_of(self.failed, rows, "patch: wanted failed")
        return mask if mask is not None and mask.any() else None


@attrs.frozen
class QueryPatch:
    """Values to write, by query feature."""

    updates: Mapping[QueryFeature[Any], FeatureUpdate]


def patch(*updates: ColumnUpdate, failed: ArrayLike | None = None) -> Patch:
    """Collect column updates into a patch.

    Args:
        updates: `COLUMN(values, valid=mask)` each.
        failed: `bool[n]`: rows whose lookup failed, as against those that have no value. Their cells of every column
            that the component declares become failed, except where a value is there already; what the updates hold
            there counts for nothing. Under upstream semantics such rows keep the cells they had.

    Raises:
        ContractError: A column is written twice.
    """
    by_column = {update.column: update for update in updates}
    if len(by_column) != len(updates):
        _unique((update.column, update) for update in updates)
    return Patch(by_column, failed)


def query_patch(*updates: FeatureUpdate) -> QueryPatch:
    """Collect feature updates into a patch.

    Raises:
        ContractError: A feature is written twice.
    """
    return QueryPatch(_unique((update.feature, update) for update in updates))


def _mask_of(given: ArrayLike, rows: int, wanted: str) -> NDArray[np.bool_] | None:
    """A mask of rows, or `None` where there are none."""
    mask = np.asarray(given)
    if mask.shape == (rows,) == (0,):  # an empty list has no dtype of its own
        return None
    if mask.dtype != np.bool_ or mask.shape != (rows,):
        raise ContractError(f"{wanted} as bool[{rows}], found {mask.dtype}{list(mask.shape)}")
    return mask


def _unique(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for key, update in pairs:
        if key in result:
            raise ContractError(f"{key.name} is written twice in one patch")
        result[key] = update
    return result
