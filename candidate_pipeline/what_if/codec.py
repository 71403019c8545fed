"""Values of query features as plain data and arrays, and back, without pickle and without names of classes.

Numbers, texts and truth values stand for themselves; everything else is a table with one tag: `{"tuple": [...]}`,
`{"array": "3"}`, `{"fields": {...}}`. Of what class the object of an attrs class or an enumeration is made, the file
does not say: that is the declared type of the query feature, or of the field it stands in.
"""

from __future__ import annotations

import base64
import datetime as dt
import enum
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.errors import CaptureError
from candidate_pipeline.what_if.archive import Arrays

#: How deep values may stand in one another.
MAX_DEPTH: Final = 32
#: The longest integers, in bits.
MAX_BITS: Final = 4096

_SEQUENCES: Final[Mapping[str, Callable[[list[Any]], Any]]] = {
    "tuple": tuple,
    "list": list,
    "set": set,
    "frozenset": frozenset,
}


def encode(value: Any, hint: Any, arrays: Arrays | None, depth: int = 0) -> Any:
    """A value as plain data.

    Args:
        value: The value.
        hint: Its declared type, or `Any`.
        arrays: Where numpy arrays go; `None`: there may be none.
        depth: How deep it stands.

    Raises:
        CaptureError: It holds something that cannot be captured.
    """
    if depth > MAX_DEPTH:
        raise CaptureError(f"values stand in one another more than {MAX_DEPTH} deep")
    kind = type(value)
    if value is None or kind in {bool, str}:
        return value
    if kind is int:
        if value.bit_length() > MAX_BITS:
            raise CaptureError(f"an integer of {value.bit_length()} bits is too long")
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind in {tuple, list, set, frozenset}:
        parts = [encode(each, _element(hint, at, len(value)), arrays, depth + 1) for at, each in enumerate(value)]
        if kind in {set, frozenset}:  # whose order differs from process to process
            parts.sort(key=repr)
        return {kind.__name__: parts}
    if kind is dict:
        keys, values = _of_dict(hint)
        pairs = value.items()
        return {"dict": [[encode(k, keys, arrays, depth + 1), encode(v, values, arrays, depth + 1)] for k, v in pairs]}
    plain = _encoded_plain(value)
    if plain is not None:
        return plain
    if isinstance(value, np.ndarray | np.generic):
        return _encoded_array(value, arrays, depth)
    return _encoded_object(value, hint, arrays, depth)


def _encoded_plain(value: Any) -> dict[str, Any] | None:
    kind = type(value)
    if kind is bytes:
        return {"bytes": base64.b64encode(value).decode()}
    if kind is dt.datetime:
        if value.tzinfo is not None and value.utcoffset() is None:
            raise CaptureError("a time whose zone has no offset cannot be captured")
        return {"datetime": value.isoformat()}
    if kind is dt.date:
        return {"date": value.isoformat()}
    if kind is dt.timedelta:
        return {"timedelta": [value.days, value.seconds, value.microseconds]}
    return None


def _encoded_array(value: NDArray[Any] | np.generic, arrays: Arrays | None, depth: int) -> dict[str, Any]:
    if isinstance(value, np.generic):
        if arrays is None:
            raise CaptureError("an array cannot be captured here")
        return {"scalar": arrays.add(np.asarray(value))}
    if type(value) is not np.ndarray or arrays is None:
        raise CaptureError(f"a {type(value).__name__} cannot be captured here")
    if value.dtype != np.object_:
        return {"array": arrays.add(value)}
    flat = [encode(each, Any, None, depth + 1) for each in value.ravel().tolist()]
    return {"objects": flat, "shape": list(value.shape)}


def _encoded_object(value: Any, hint: Any, arrays: Arrays | None, depth: int) -> dict[str, Any]:
    kind: Any = type(value)
    known = _classes(hint)
    if kind not in known:
        declared = ", ".join(cls.__name__ for cls in known) or "none here"
        raise CaptureError(
            f"a {kind.__name__} cannot be captured: of classes, those that the key or field declares are ({declared})"
        )
    which = {"class": known.index(kind)} if len(known) > 1 else {}
    if isinstance(value, enum.Enum):
        return {"enum": value.name, **which}
    hints = _hints(kind)
    fields = {
        field.alias: encode(getattr(value, field.name), hints.get(field.name, Any), arrays, depth + 1)
        for field in attrs.fields(kind)
        if field.init
    }
    return {"fields": fields, **which}


def decode(found: Any, hint: Any, arrays: Mapping[str, NDArray[Any]], depth: int = 0) -> Any:
    """What `encode` was given.

    Args:
        found: What it gave.
        hint: The declared type, or `Any`.
        arrays: The arrays by name.
        depth: How deep it stands.

    Raises:
        CaptureError: It is not what `encode` gives for a value of that type.
    """
    if depth > MAX_DEPTH:
        raise CaptureError(f"values stand in one another more than {MAX_DEPTH} deep")
    if found is None or type(found) in {bool, int, float, str}:
        return found
    if not isinstance(found, dict) or not found:
        raise CaptureError(f"wanted a value, found {_short(found)}")
    tag, content = next(iter(found.items()))
    if tag in {"fields", "enum"}:
        return _decoded_object(found, hint, arrays, depth)
    if len(found) != (2 if tag == "objects" else 1):
        raise CaptureError(f"wanted a value, found {_short(found)}")
    try:
        if tag in _SEQUENCES:
            items = _listed(content)
            parts = [decode(each, _element(hint, at, len(items)), arrays, depth + 1) for at, each in enumerate(items)]
            return _SEQUENCES[tag](parts)
        if tag == "dict":
            keys, values = _of_dict(hint)
            return {
                decode(key, keys, arrays, depth + 1): decode(value, values, arrays, depth + 1)
                for key, value in map(_listed, _listed(content))
            }
        if tag in _PLAIN:
            return _PLAIN[tag](content)
        if tag == "array":
            return member(arrays, content)
        if tag == "scalar":
            return member(arrays, content, shape=())[()]
        if tag == "objects":
            return _objects(content, found.get("shape"), arrays, depth)
    except CaptureError:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise CaptureError(f"wanted a {tag}, found {_short(content)}: {error}") from error
    raise CaptureError(f"no value has the tag {_short(tag)}")


def _objects(content: Any, shape: Any, arrays: Mapping[str, NDArray[Any]], depth: int) -> NDArray[Any]:
    items = _listed(content)
    sides = tuple(_listed(shape))
    if not all(type(side) is int and side >= 0 for side in sides) or math.prod(sides) != len(items) or len(sides) > 8:
        raise CaptureError(f"wanted an array of shape {_short(sides)}, found {len(items)} values")
    array = np.empty(len(items), np.object_)
    for at, each in enumerate(items):
        array[at] = decode(each, Any, arrays, depth + 1)
    array = array.reshape(sides)
    array.setflags(write=False)
    return array


def _decoded_object(found: dict[str, Any], hint: Any, arrays: Mapping[str, NDArray[Any]], depth: int) -> Any:
    known = _classes(hint)
    which = found.get("class", 0)
    if type(which) is not int or not 0 <= which < len(known) or found.keys() - {"fields", "enum", "class"}:
        raise CaptureError(f"wanted a value of {hint!r}, found {_short(found)}")
    cls = known[which]
    if issubclass(cls, enum.Enum):
        try:
            return cls[found["enum"]]
        except (KeyError, TypeError):
            raise CaptureError(f"wanted a {cls.__name__}, found {_short(found)}") from None
    given = found.get("fields")
    fields = {field.alias: field for field in attrs.fields(cls) if field.init}
    if not isinstance(given, dict) or given.keys() != fields.keys():
        names = ", ".join(fields)
        raise CaptureError(f"wanted a {cls.__name__} with the fields {names}, found {_short(given)}")
    hints = _hints(cls)
    values = {
        alias: decode(given[alias], hints.get(field.name, Any), arrays, depth + 1) for alias, field in fields.items()
    }
    try:
        return cls(**values)
    except Exception as error:  # a class's own validation may raise anything
        raise CaptureError(f"a {cls.__name__} refuses what the capture holds: {error}") from error


def member(
    arrays: Mapping[str, NDArray[Any]],
    name: Any,
    dtype: Any = None,
    shape: tuple[int | None, ...] | None = None,
) -> NDArray[Any]:
    """An array by name, of a dtype and a shape (`None`: of any length).

    Raises:
        CaptureError: There is none of that name, dtype or shape.
    """
    array = arrays.get(name) if isinstance(name, str) else None
    if array is None:
        raise CaptureError(f"it has no array {_short(name)}")
    if dtype is not None and array.dtype != np.dtype(dtype):
        raise CaptureError(f"array {name}: wanted {np.dtype(dtype)}, found {array.dtype}")
    if shape is not None and (
        array.ndim != len(shape) or any(want not in {None, side} for want, side in zip(shape, array.shape, strict=True))
    ):
        raise CaptureError(f"array {name}: wanted the shape {list(shape)}, found {list(array.shape)}")
    return array


def _listed(found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise CaptureError(f"wanted a list, found {_short(found)}")
    return found


def _bytes(found: str) -> bytes:
    return base64.b64decode(found, validate=True)


def _float(found: str) -> float:
    if found not in {"nan", "inf", "-inf"}:
        raise ValueError("wanted nan, inf or -inf")
    return float(found)


def _timedelta(found: Any) -> dt.timedelta:
    days, seconds, microseconds = _listed(found)
    if not all(type(part) is int for part in found):
        raise ValueError("wanted whole days, seconds and microseconds")
    return dt.timedelta(days, seconds, microseconds)


_PLAIN: Final[Mapping[str, Callable[[Any], Any]]] = {
    "bytes": _bytes,
    "float": _float,
    "datetime": dt.datetime.fromisoformat,
    "date": dt.date.fromisoformat,
    "timedelta": _timedelta,
}


def _element(hint: Any, at: int, count: int) -> Any:
    """The declared type of an element of a sequence."""
    if isinstance(hint, type) or hint is Any:
        return Any
    for option in _options(hint):
        args = typing.get_args(option)
        if args and typing.get_origin(option) in {tuple, list, set, frozenset}:
            if len(args) == 1 or args[-1] is Ellipsis:
                return args[0]
            return args[at] if len(args) == count else Any
    return Any


def _of_dict(hint: Any) -> tuple[Any, Any]:
    for option in _options(hint):
        args = typing.get_args(option)
        if len(args) == 2 and typing.get_origin(option) is dict:
            return args[0], args[1]
    return Any, Any


def _options(hint: Any) -> tuple[Any, ...]:
    """What a union is of; another type alone."""
    if typing.get_origin(hint) is typing.Annotated:
        return _options(typing.get_args(hint)[0])
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        return tuple(each for part in typing.get_args(hint) for each in _options(part))
    return (hint,)


def _classes(hint: Any) -> list[Any]:
    """The attrs classes and enumerations that a declared type names."""
    named = [typing.get_origin(option) or option for option in _options(hint)]
    return [cls for cls in named if isinstance(cls, type) and (attrs.has(cls) or issubclass(cls, enum.Enum))]


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    """The declared types of a class's fields; of none where an annotation cannot be resolved."""
    try:
        return typing.get_type_hints(cls)
    except Exception:  # an annotation may be any text
        return {}


def _short(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= 80 else f"{text[:77]}..."
