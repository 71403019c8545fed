"""Options: the init fields of a component's attrs class, read from TOML without coercion.

A field says everything once: `max_age: Annotated[timedelta, Gt(timedelta(0)), Doc("Oldest post kept.")] = ...` gives
the type, the range, the text for help, and the default.

Types: `bool`, `int`, `float` (an integer is accepted), `str`, `Literal`, `datetime` (with a zone), `timedelta`
(written `"40ms"`, `"5s"`, `"2m"`, `"48h"`, `"7d"`), `Path`, `DataDir`, `ConfigFile`, `tuple[T, ...]`, `tuple[T, U]`,
`list[T]`, `Mapping[str, T]`, `T | None`, a nested attrs class (a table), and a resource class (the name of a
`[resources.*]` entry).
"""

from __future__ import annotations

import datetime as dt
import inspect
import re
import types
import typing
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin

import annotated_types as at
import attrs

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


#: The constraints that are tested, and those that only describe.
_UNDERSTOOD: Final = (at.Gt, at.Ge, at.Lt, at.Le, at.MultipleOf, at.Predicate, at.MinLen, at.MaxLen, at.Unit)


@attrs.frozen
class Doc:
    """What an option means, for help and schema: `Annotated[float, Doc("Half-life.", unit="h")]`."""

    text: str
    unit: str = ""


@attrs.frozen
class DataDirectory:
    """Marks an option that takes the request's data directory (`--data DIR`) unless the spec sets it."""


#: The type of an option that is the data directory: of resources that read tables or models from it.
DataDir: TypeAlias = Annotated[Path, DataDirectory()]


@attrs.frozen
class FileContent:
    """Marks an option that names a file whose content counts as what is set, because it is read when it is built."""


#: The type of an option that names a file of settings: of components that read it when they are made. Also inside other
#: types: `tuple[ConfigFile, ...]`.
ConfigFile: TypeAlias = Annotated[Path, FileContent()]


@attrs.frozen
class Option:
    """One option of a component."""

    name: str
    type: Any
    default: Any
    required: bool
    doc: str = ""
    unit: str = ""
    constraints: tuple[Any, ...] = ()
    data_dir: bool = False
    config_file: bool = False

    @property
    def type_name(self) -> str:
        """The type as a person would write it."""
        return type_name(self.type)


def parse_duration(text: str) -> dt.timedelta | None:
    """`"40ms"`, `"5s"`, `"2m"`, `"48h"` or `"7d"` as a duration, or `None` if it is none of these."""
    match = _DURATION.fullmatch(text)
    try:
        return dt.timedelta(seconds=float(match[1]) * _SECONDS[match[2]]) if match else None
    except OverflowError:
        return None


def format_duration(value: dt.timedelta) -> str:
    """A duration in the largest unit that keeps it whole."""
    milliseconds = round(value.total_seconds() * 1000)
    for unit in ("d", "h", "m", "s"):
        size = int(_SECONDS[unit] * 1000)
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def is_resource_type(hint: Any) -> bool:
    """Whether an option's type is a resource class: it has `open` and `close` and is no file-like built-in."""
    return (
        inspect.isclass(hint)
        and callable(getattr(hint, "open", None))
        and callable(getattr(hint, "close", None))
        and not issubclass(hint, Path)
    )


def split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type hint without its `Annotated` wrapper, and the wrapper's metadata."""
    if get_origin(hint) is Annotated:
        inner, *metadata = get_args(hint)
        return inner, tuple(metadata)
    return hint, ()


def optional_of(hint: Any) -> Any:
    """`T` for `T | None`, else the hint itself."""
    if get_origin(hint) in {Union, types.UnionType}:
        inner = [arg for arg in get_args(hint) if arg is not type(None)]
        if len(inner) == 1 and len(get_args(hint)) == 2:
            return inner[0]
    return hint


def options_of(cls: type) -> dict[str, Option]:
    """The options of a component class, by name.

    Raises:
        TypeError: It is not an attrs class, or an annotation cannot be resolved.
    """
    if cls not in _READ:
        _READ[cls] = _read_options(cls)
    return dict(_READ[cls])


#: The options of classes that were asked for, because resolving annotations takes long.
_READ: Final[weakref.WeakKeyDictionary[type, dict[str, Option]]] = weakref.WeakKeyDictionary()


def _read_options(cls: type) -> dict[str, Option]:
    if not attrs.has(cls):
        raise TypeError(f"{cls.__qualname__} is not an attrs class; decorate it with @attrs.frozen or @attrs.define")
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {}
    for field in attrs.fields(cls):
        if not field.init or field.alias is None:
            continue
        if field.name not in hints:
            raise TypeError(f"{cls.__qualname__}.{field.name} has no type annotation, which an option needs")
        inner, metadata = split(hints[field.name])
        if get_origin(optional_of(inner)) is Annotated:  # Annotated[...] | None
            inner_type, more = split(optional_of(inner))
            inner, metadata = Union[inner_type, None], (*metadata, *more)  # noqa: UP007 - built at run time
        constraints = tuple(mark for mark in metadata if isinstance(mark, at.GroupedMetadata | at.BaseMetadata))
        for mark in _flat(constraints):
            if not isinstance(mark, _UNDERSTOOD):
                raise TypeError(f"{cls.__qualname__}.{field.name}: the constraint {mark!r} is not understood")
        doc = next((mark for mark in metadata if isinstance(mark, Doc)), Doc(""))
        default = field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # attrs types Factory as a function
            default = default.factory() if not default.takes_self else None
        found[field.alias] = Option(
            name=field.alias,
            type=inner,
            default=None if default is attrs.NOTHING else default,
            required=field.default is attrs.NOTHING,
            doc=doc.text,
            unit=doc.unit,
            constraints=constraints,
            data_dir=any(isinstance(mark, DataDirectory) for mark in metadata),
            config_file=any(isinstance(mark, FileContent) for mark in metadata) or _names_files(inner),
        )
    return found


def _names_files(hint: Any) -> bool:
    """Whether a type has files of settings in it: `tuple[ConfigFile, ...]`."""
    inner, metadata = split(hint)
    return any(isinstance(mark, FileContent) for mark in metadata) or any(map(_names_files, get_args(inner)))


def files_of(cls: type, name: str, value: Any) -> tuple[Path, ...]:
    """The files of settings that the value of an option names."""
    if not isinstance(value, Path | tuple | list | Mapping):
        return ()
    try:
        option = options_of(cls).get(name)
    except Exception:  # made by hand: it may have no annotations, or any
        return ()
    return tuple(files_in(value)) if option is not None and option.config_file else ()


def files_in(value: Any) -> Iterator[Path]:
    """The paths in an option's value."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, Mapping):
        yield from files_in(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from files_in(item)


def type_name(hint: Any) -> str:
    """A type as messages and help show it."""
    hint, _ = split(hint)
    inner = optional_of(hint)
    if inner is not hint:
        return type_name(inner)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(arg) for arg in args)
    if is_list(hint):
        inner = [type_name(arg) for arg in args if arg is not Ellipsis]
        return f"list of {', '.join(inner)}" if inner else "list"
    if is_table(hint):
        return f"table of {type_name(args[1])}" if args else "table"
    names: dict[Any, str] = {
        bool: "boolean",
        int: "integer",
        float: "number",
        str: "string",
        Path: "path",
        dt.timedelta: "duration such as '40ms', '5s' or '48h'",
        dt.datetime: "date-time with a zone",
    }
    if hint in names:
        return names[hint]
    if is_resource_type(hint):
        return f"name of a resource ({hint.__name__})"
    return f"table ({hint.__name__})" if attrs.has(hint) else str(getattr(hint, "__name__", hint))


def violation(value: Any, constraint: Any) -> str | None:
    """What a constraint of `annotated_types` wants, if a value breaks it.

    Raises:
        TypeError: The constraint does not fit the value's type.
    """
    for mark in _flat([constraint]):
        checks: list[tuple[bool, str]] = []
        if isinstance(mark, at.Gt):
            checks = [(value > mark.gt, f"more than {_shown(mark.gt)}")]
        elif isinstance(mark, at.Ge):
            checks = [(value >= mark.ge, f"at least {_shown(mark.ge)}")]
        elif isinstance(mark, at.Lt):
            checks = [(value < mark.lt, f"less than {_shown(mark.lt)}")]
        elif isinstance(mark, at.Le):
            checks = [(value <= mark.le, f"at most {_shown(mark.le)}")]
        elif isinstance(mark, at.MultipleOf):
            checks = [(value % mark.multiple_of == 0, f"a multiple of {_shown(mark.multiple_of)}")]
        elif isinstance(mark, at.Predicate):
            checks = [(bool(mark.func(value)), f"a value that passes {getattr(mark.func, '__name__', mark.func)}")]
        elif isinstance(mark, at.MinLen):
            checks = [(len(value) >= mark.min_length, f"at least {mark.min_length} long")]
        elif isinstance(mark, at.MaxLen):
            checks = [(len(value) <= mark.max_length, f"at most {mark.max_length} long")]
        for good, wanted in checks:
            if not good:
                return wanted
    return None


def _flat(constraints: Iterable[Any]) -> Iterator[Any]:
    """Constraints with groups such as `Interval` and `Len` taken apart."""
    for mark in constraints:
        if isinstance(mark, at.GroupedMetadata):
            yield from mark
        else:
            yield mark


def _shown(bound: Any) -> str:
    return format_duration(bound) if isinstance(bound, dt.timedelta) else str(bound)


def is_list(hint: Any) -> bool:
    """Whether a type is a sequence other than text."""
    origin = get_origin(hint) or hint
    return inspect.isclass(origin) and not issubclass(origin, str) and issubclass(origin, Sequence)


def is_table(hint: Any) -> bool:
    """Whether a type is a mapping."""
    origin = get_origin(hint) or hint
    return inspect.isclass(origin) and issubclass(origin, Mapping)
