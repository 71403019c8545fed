"""The data directory of a run: its `dataset.toml`, and the overrides that come with it or with `--set`."""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from candidate_pipeline.options import options_of
from candidate_pipeline.registry import Registry
from candidate_pipeline.spec.convert import home
from candidate_pipeline.spec.document import MAX_DEPTH, Document, describe, dotted, is_file, is_folder, too_large
from candidate_pipeline.spec.environment import is_placeholder
from candidate_pipeline.spec.model import Dataset
from candidate_pipeline.spec.origins import places
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import Location, Problem, SpecError, nearest

FILE: Final = "dataset.toml"
_DEFAULT: Final = "default_"


def default_data_dir(document: Document, registry: Registry) -> Path | None:
    """The data directory of a spec that is run without `--data`: what its first resource with one reads."""
    resources = document.get(("resources",))
    for name, table in resources.items() if isinstance(resources, dict) else ():
        if not isinstance(table, dict):
            continue
        ref = registry.find("resource", str(table.get("use", "")))
        if ref is None:
            continue
        try:
            options = options_of(ref.load())
        except Exception:  # noqa: S112 - the loader reports the same class with a place and a code
            continue
        for option in options.values():
            if option.data_dir:
                given, folder = table.get(option.name), document.base_of(("resources", name, option.name))
                if isinstance(given, dict) and is_placeholder(given):
                    given, folder = _from_variable(document, given, ("resources", name, option.name), folder)
                if isinstance(given, str):
                    return folder / home(given)
                return option.default if isinstance(option.default, Path) else None
    return None


def _from_variable(
    document: Document, reference: dict[str, Any], path: TomlPath, folder: Path
) -> tuple[str | None, Path]:
    """The text of `{ env = ... }`, and the folder that it is relative to."""
    text = document.environment.read(reference["env"])
    if text is None:
        return reference.get("default"), folder
    document.environment.note(reference["env"], text, text, path, free=True)
    return text, Path.cwd()


def apply_dataset(document: Document, directory: Path, problems: list[Problem], *, required: bool) -> Dataset | None:
    """Read `dataset.toml` of a directory and apply its `[set]` to a spec.

    An override whose table the spec does not have is passed over: a data directory serves many specs.

    Args:
        document: The spec; overridden in place.
        directory: The data directory.
        problems: Mistakes are appended here.
        required: Whether a directory without the file is a mistake (`--data` named it).
    """
    file = directory / FILE
    if not is_file(file):
        if required:
            found = "a directory without it" if is_folder(directory) else "no such directory"
            hint = "give a data directory, such as one that `candidate-pipeline data fetch` makes"
            message = f"wanted the file {FILE}, found {found}"
            problems.append(Problem("E100", message, Location(str(directory)), hint))
        return None
    try:
        dataset = Document.read(file, document.environment.redacted(str(file), (), everywhere=True))
    except SpecError as error:
        problems += error.problems
        return None
    defaults = {}
    for key, value in dataset.data.items():
        if key in _WANTED:
            wanted, good = _WANTED[key]
            if not good(value):
                problems.append(dataset.problem("E102", f"{key}: wanted {wanted}, found {describe(value)}", (key,)))
        elif key.startswith(_DEFAULT):
            defaults[key.removeprefix(_DEFAULT)] = value
        else:
            hint = nearest(key, [*_WANTED, f"{_DEFAULT}<input>"])
            message = f"unknown key {key!r} in {FILE}"
            problems.append(dataset.problem("E101", message, (key,), part="key", hint=hint))
    overrides = dataset.get(("set",))
    for path, keys, value in _flat(overrides if isinstance(overrides, dict) else {}):
        document.override(path, value, dataset.locate(("set", *keys)), dataset.base, "dataset")
    document.files += dataset.files
    name, now = dataset.get(("name",)), dataset.get(("now",))
    return Dataset(
        directory,
        name if isinstance(name, str) else directory.name,
        now if _is_moment(now) else None,
        defaults,
    )


def _is_moment(value: Any) -> bool:
    return isinstance(value, dt.datetime) and value.tzinfo is not None


#: What `dataset.toml` may hold beside `default_<input>`: how a message calls it, and the test.
_WANTED: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "schema": ("the integer 1", lambda value: type(value) is int and value == 1),
    "name": ("a string", lambda value: isinstance(value, str)),
    "doc": ("a string", lambda value: isinstance(value, str)),
    "now": ("a date-time with a zone", _is_moment),
    "set": ("a table", lambda value: isinstance(value, dict)),
}


def _flat(overrides: dict[str, Any]) -> Iterable[tuple[TomlPath, TomlPath, Any]]:
    """Path, own path in `[set]` and value of overrides.

    `"a.b" = v`, `a.b = v` and `a = { b = v }` all override `a.b`; under a three-part path a table is a value.
    """
    stack: list[tuple[TomlPath, TomlPath, Any]] = [((), (), overrides)]
    while stack:
        path, keys, value = stack.pop()
        if isinstance(value, dict) and len(path) < 3:
            stack += [((*path, *_parts(name)), (*keys, name), item) for name, item in reversed(value.items())]
        else:
            yield path, keys, value


def apply_sets(document: Document, sets: Iterable[str]) -> list[Problem]:
    """Apply `--set a.b=value` overrides; a value is TOML, or text if it is not.

    Returns:
        Those that are not of that form, or name nothing in the spec.
    """
    problems = []
    for entry in sets:
        name, equals, text = entry.partition("=")
        location = Location(f"--set {entry}")
        path: TomlPath = _parts(name)
        if not equals or not all(path):
            problems.append(Problem("E107", "wanted --set a.b=value", location))
        elif not document.override(path, _set_value(text), location, Path.cwd()) and not document.incomplete:
            problems.append(Problem("E107", *_no_table(document, path, location)))
    return problems


def _parts(name: str) -> tuple[str, ...]:
    """The keys of `a.b."c.d"`."""
    if '"' in name or "'" in name:
        try:
            inner: Any = tomllib.loads(f"{name} = 0")
        except ValueError:
            return (name,)
        found: list[str] = []
        while isinstance(inner, dict):
            key, inner = next(iter(inner.items()))
            found.append(key)
        return tuple(found)
    return tuple(part.strip() for part in name.split("."))


def _set_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text.strip()
    deep = any(len(place) > MAX_DEPTH for place in places(parsed, ()))
    return text.strip() if len(parsed) > 1 or deep or too_large(parsed) else parsed["value"]


def _no_table(document: Document, path: TomlPath, location: Location) -> tuple[str, Location, str]:
    """The message, place and hint for an override of a table that is not there."""
    for end in range(1, len(path)):
        if not isinstance(document.get(path[:end]), dict):
            there = document.get(path[: end - 1])
            hint = nearest(str(path[end - 1]), [str(key) for key, value in there.items() if isinstance(value, dict)])
            return f"the spec has no table [{dotted(path[:end])}]", location, hint or "name a table that it has"
    return f"the spec has no place for {dotted(path)}", location, "name a table that it has"
