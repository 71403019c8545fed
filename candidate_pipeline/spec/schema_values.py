"""The JSON Schema of an option's value, from its type, constraints, text and default."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args, get_origin

import annotated_types as at
import attrs

from candidate_pipeline.options import (
    Option,
    format_duration,
    is_list,
    is_resource_type,
    is_table,
    optional_of,
    options_of,
    parse_duration,
    split,
)

Schema: TypeAlias = dict[str, Any]
#: The classes whose tables a value stands in, for tables that may hold themselves.
Within: TypeAlias = tuple[type, ...]

#: The names of tables, components, resources and inputs.
NAME: Final = "^[a-z][a-z0-9_]*$"
#: What no value is valid against: options of a type that TOML cannot hold.
NOTHING: Final[Mapping[str, Any]] = {"not": {}}

#: The list entry that stands for those of a base.
REST: Final = "..."
_CHANGED: Final = 'The list of the base that `extends` names, changed: "..." stands for its entries, "-x" leaves out x.'
_OTHER_VARIABLE: Final[Mapping[str, Any]] = {"type": "object", "required": ["env"], "additionalProperties": True}
_DURATION: Final = "^[0-9]+(\\.[0-9]+)?(ms|s|m|h|d)$"
_MORE_THAN_ZERO: Final = "^(0*[1-9][0-9]*(\\.[0-9]+)?|0+\\.0*[1-9][0-9]*)(ms|s|m|h|d)$"
_BOUNDS: Final[Sequence[tuple[type, str, str]]] = (
    (at.Gt, "gt", "exclusiveMinimum"),
    (at.Ge, "ge", "minimum"),
    (at.Lt, "lt", "exclusiveMaximum"),
    (at.Le, "le", "maximum"),
    (at.MultipleOf, "multiple_of", "multipleOf"),
)
_SIZES: Final[Mapping[str, tuple[str, str]]] = {
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
}


def option_schema(option: Option, within: Within = ()) -> Schema:
    """The schema of one option, with its text and default; `within` are the classes whose tables it stands in."""
    found = value_schema(option.type, option.constraints, within)
    about: Schema = {}
    text = f"{option.doc} Unit: {option.unit}." if option.doc and option.unit else option.doc
    if text:
        about["description"] = text
    default = plain(option.default)
    if default is not None and not option.data_dir:
        about["default"] = default
    return {**about, **found}


def table_schema(cls: type, within: Within = ()) -> Schema:
    """The schema of a table that becomes an attrs class; what it needs is in `demands_of`."""
    if cls in within:
        return {"type": "object"}  # a table that may hold itself is described once
    options = options_of(cls)
    if any(is_resource_type(optional_of(option.type)) for option in options.values()):
        return dict(NOTHING)  # only a component itself can take a resource
    return {
        "type": "object",
        "properties": {name: option_schema(option, (*within, cls)) for name, option in options.items()},
        "additionalProperties": False,
    }


def demands_of(options: Mapping[str, Option], within: Within = ()) -> Schema:
    """A schema that only says which keys must be given, in a table and the tables inside it; empty if none must.

    Apart from the rest, because a table that overrides one of a base leaves out what the base gives. Resources and
    the data directory are filled in where the table leaves them out.
    """
    needed = [
        name
        for name, option in options.items()
        if option.required and not option.data_dir and not is_resource_type(option.type)
    ]
    inside = {name: _demands(option.type, within) for name, option in options.items()}
    inside = {name: schema for name, schema in inside.items() if schema}
    found: Schema = {"type": "object", "additionalProperties": True}
    if needed:
        found["required"] = needed
    if inside:
        found["properties"] = inside
    return found if needed or inside else {}


def _demands(hint: Any, within: Within = ()) -> Schema:
    """What a value of a type demands, where it is a table; a list is never merged, so it demands for itself."""
    hint = _bare(hint)
    if is_table(hint) and len(get_args(hint)) == 2:
        inner = _demands(get_args(hint)[1], within)
        return {"type": "object", "additionalProperties": inner} if inner else {}
    if _is_nested(hint) and hint not in within:
        return demands_of(options_of(hint), (*within, hint))
    return {}


def _bare(hint: Any) -> Any:
    return split(optional_of(split(hint)[0]))[0]


def _is_nested(hint: Any) -> bool:
    return isinstance(hint, type) and attrs.has(hint) and not is_resource_type(hint)


def value_schema(hint: Any, constraints: Iterable[Any] = (), within: Within = ()) -> Schema:
    """The schema of a value of a type; scalars may be read from the environment instead."""
    hint, metadata = split(hint)
    hint, more = split(optional_of(hint))
    marks = [*constraints, *metadata, *more]
    if is_table(hint):
        args = get_args(hint)
        inner = value_schema(args[1], (), within) if len(args) == 2 else {}
        return _constrained({"type": "object", "additionalProperties": inner or True}, marks)
    if is_list(hint):
        whole = _constrained(_list_schema(hint, within), marks)
        return {"anyOf": [whole, {"type": "array", "contains": {"const": REST}, "description": _CHANGED}]}
    if hint is Any:
        return {}
    if _is_nested(hint):
        return table_schema(hint, within)
    if is_resource_type(hint):
        return _resource_schema(hint)
    scalar = _scalar_schema(hint)
    return from_environment(_constrained(scalar, marks)) if scalar else dict(NOTHING)


def from_environment(scalar: Schema) -> Schema:
    """A scalar, or the name of the environment variable that holds it."""
    variable: Schema = {
        "type": "object",
        "properties": {
            "env": {"type": "string", "pattern": "^[^=]+$", "description": "The environment variable with the value."},
            "default": {"description": "The value where the variable is not set.", "anyOf": [scalar, _OTHER_VARIABLE]},
        },
        "required": ["env"],
        "additionalProperties": False,
    }
    return {"anyOf": [scalar, variable]}


def _resource_schema(hint: type) -> Schema:
    about = f"The name of a [resources.*] table, a {hint.__name__}. Default: the only one there is."
    return {"type": "string", "pattern": NAME, "description": about}


def _scalar_schema(hint: Any) -> Schema:
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    known: dict[Any, Schema] = {
        bool: {"type": "boolean"},
        int: {"type": "integer"},
        float: {"type": "number"},
        str: {"type": "string"},
        Path: {"type": "string", "description": "A path; a relative one starts from the folder of this file."},
        dt.timedelta: {"type": "string", "pattern": _DURATION, "description": "A duration: '40ms', '5s', '2m', '48h'."},
        dt.datetime: {"type": "string", "format": "date-time", "pattern": "([zZ]|[+-][0-9]{2}:[0-9]{2})$"},
    }
    return known.get(hint, {})


def _list_schema(hint: Any, within: Within) -> Schema:
    args: tuple[Any, ...] = get_args(hint)
    if get_origin(hint) is tuple and args and args[-1] is not Ellipsis:
        items = [_item_schema(arg, within) for arg in args]
        return {
            "type": "array",
            "items": items,
            "additionalItems": False,
            "minItems": len(items),
            "maxItems": len(items),
        }
    return {"type": "array", "items": _item_schema(args[0], within) if args else {}}


def _item_schema(hint: Any, within: Within) -> Schema:
    found, needed = value_schema(hint, (), within), _demands(hint, within)
    return {"allOf": [found, needed]} if needed else found


def _constrained(schema: Schema, marks: Iterable[Any]) -> Schema:
    """A schema with the constraints that JSON Schema can say; the others are the loader's business."""
    found = dict(schema)
    for mark in _flat(marks):
        if isinstance(mark, at.MinLen | at.MaxLen) and found.get("type") in _SIZES:
            least, most = _SIZES[found["type"]]
            key, size = (least, mark.min_length) if isinstance(mark, at.MinLen) else (most, mark.max_length)
            found[key] = _tighter(key, found.get(key), size)
        for kind, attribute, key in _BOUNDS:
            if isinstance(mark, kind):
                _bound(found, key, getattr(mark, attribute))
    return found


def _bound(schema: Schema, key: str, bound: Any) -> None:
    if isinstance(bound, dt.timedelta) and schema.get("pattern") in {_DURATION, _MORE_THAN_ZERO}:
        if key == "exclusiveMinimum" and bound >= dt.timedelta(0):
            schema["pattern"] = _MORE_THAN_ZERO
        if bound or not key.endswith("inimum"):
            words = {"exclusiveMinimum": "More than", "minimum": "At least", "exclusiveMaximum": "Less than"}
            schema["description"] += f" {words.get(key, 'At most')} {format_duration(bound)}."
    elif schema.get("type") in {"integer", "number"} and type(bound) in {int, float} and math.isfinite(bound):
        schema[key] = _tighter(key, schema.get(key), bound)


def _tighter(key: str, one: Any, other: Any) -> Any:
    if one is None or key == "multipleOf":
        return other
    return min(one, other) if key.startswith(("max", "exclusiveMax")) else max(one, other)


def _flat(marks: Iterable[Any]) -> Iterable[Any]:
    for mark in marks:
        if isinstance(mark, at.GroupedMetadata):
            yield from mark
        else:
            yield mark


def plain(value: Any) -> Any:
    """A default as JSON, or `None` where it has no place in a schema."""
    if isinstance(value, dt.timedelta):
        text = format_duration(value)
        return text if parse_duration(text) == value else None
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return None if value.is_absolute() else value.as_posix()
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return _all({str(name): plain(item) for name, item in value.items()})
    if isinstance(value, tuple | list):
        items = [plain(item) for item in value]
        return None if None in items else items
    if attrs.has(type(value)):
        fields = {field.alias or field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
        return _all({name: plain(item) for name, item in fields.items() if item is not None})
    return None


def _all(values: dict[str, Any]) -> dict[str, Any] | None:
    return None if None in values.values() else values
