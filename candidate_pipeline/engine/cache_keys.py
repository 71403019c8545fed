"""What cached answers are filed under: hashable stand-ins for query features and for rows of columns."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import types
from collections.abc import Hashable, Sequence
from typing import Any, Final
from weakref import WeakValueDictionary

import attrs
import numpy as np

from candidate_pipeline.cells import FAILED, NULL, Cells

_PLAIN: Final = {int, str, bytes, type(None)}
_SEQUENCES: Final = {tuple, list}
_SETS: Final = {set, frozenset}
_MAPPINGS: Final = {dict, types.MappingProxyType, collections.OrderedDict}


class _NullKey(enum.Enum):
    """The type of `NULL_KEY`."""

    NULL = "null"


#: Stands for a null cell in a row's key; no value equals it.
NULL_KEY: Final = _NullKey.NULL


class _Shared:
    """Stands for one prefix in the keys of all its rows: hashed and compared by identity, which takes no time."""

    __slots__ = ("__weakref__",)


#: A prefix may be a viewer's whole history; its stand-in lives as long as some key uses it.
_SHARED: WeakValueDictionary[Hashable, _Shared] = WeakValueDictionary()


def freeze(value: Any) -> Hashable:
    """A hashable stand-in for a value: equal for values of equal type and content, and for no others.

    Takes numbers, text, bytes, `None`, enumerations, dates and times, tuples (named ones too), lists, sets, mappings,
    attrs instances (by class and fields), and numpy's scalars and arrays. Floats count by their digits: NaN equals
    NaN, and -0.0 does not equal 0.0. Mappings and sets have no order.

    Raises:
        TypeError: The value, or one inside it, is of another type.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value  # type: ignore[no-any-return]  # one of the plain types
    if kind is bool or kind is dt.timedelta or kind is dt.date:
        return kind, value
    if kind is float:
        return kind, value.hex()
    if kind is complex:
        return kind, value.real.hex(), value.imag.hex()
    if kind in _SEQUENCES or (isinstance(value, tuple) and hasattr(kind, "_fields") and not hasattr(value, "__dict__")):
        return kind, *map(freeze, value)
    if kind in _SETS:
        return kind, frozenset(map(freeze, value))
    if kind in _MAPPINGS:
        return kind, frozenset((freeze(key), freeze(item)) for key, item in value.items())
    if kind is np.ndarray:
        return _freeze_array(value)
    if isinstance(value, np.generic):
        return kind, _freeze_array(np.asarray(value))
    if kind is dt.datetime or kind is dt.time:
        return kind, value.isoformat(), value.fold, repr(value.tzinfo)
    if isinstance(value, enum.Enum):
        return kind, value.name
    if attrs.has(kind):
        return kind, *(freeze(getattr(value, field.name, NULL_KEY)) for field in attrs.fields(kind))
    raise TypeError(
        f"wanted a value that can be part of a cache key (numbers, text, dates, containers, arrays, attrs classes), "
        f"found {kind.__module__}.{kind.__qualname__}: {value!r:.80}"
    )


def _freeze_array(array: np.ndarray[Any, Any]) -> Hashable:
    if array.dtype.kind in "OT":
        return np.ndarray, array.dtype, array.shape, *map(freeze, array.ravel().tolist())
    if array.dtype.hasobject:
        raise TypeError(f"wanted a value that can be part of a cache key, found an array of {array.dtype}")
    return np.ndarray, array.dtype, array.shape, array.tobytes()


def row_keys(columns: Sequence[Cells], prefix: Hashable = ()) -> list[Hashable | None]:
    """One key a row, from the cells of the columns that the row's answer depends on.

    Args:
        columns: The cells of at least one column, all of `n` rows. Keys are comparable only among calls with the
            same columns in the same order.
        prefix: The frozen query features that it depends on; `()` for none.

    Returns:
        `n` keys; a null cell counts as a value of its own, and `None`, for "do not cache", stands for a row where any
        of the cells failed.

    Raises:
        TypeError: A cell of an object column holds what `freeze` refuses.
    """
    parts = [_column_keys(cells) for cells in columns]
    labels = tuple(cells.labels for cells in columns)
    whole = prefix if not any(labels) else (prefix, labels)
    if whole == () and len(parts) == 1:
        keys = parts[0]
    else:
        shared = _SHARED.get(whole)
        if shared is None:
            shared = _SHARED[whole] = _Shared()
        keys = list(zip([shared] * len(parts[0]), *parts, strict=True))
    for cells in columns:
        if cells.state is not None:
            for row in np.flatnonzero(cells.state == FAILED).tolist():
                keys[row] = None
    return keys


def _column_keys(cells: Cells) -> list[Hashable | None]:
    values = cells.values
    kind = values.dtype.kind
    keys: list[Hashable | None]
    if kind in "biu" and values.ndim == 1:
        keys = values.tolist()
    elif kind in "fmM" and values.ndim == 1 and values.itemsize <= 8:
        keys = values.view(f"i{values.itemsize}").tolist()  # the bits: NaN is a value like others
    elif kind == "O":
        frozen = freeze if values.ndim == 1 else _freeze_array
        valid = [True] * len(values) if cells.state is None else (cells.states() != NULL).tolist()
        keys = [frozen(value) if there else None for value, there in zip(values, valid, strict=True)]
    else:
        keys = [row.tobytes() for row in values]
    if cells.state is not None:
        for row in np.flatnonzero(cells.state == NULL).tolist():
            keys[row] = NULL_KEY
    return keys
