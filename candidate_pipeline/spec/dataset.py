"""The data directory of a run: its `dataset.toml`, and the overrides that come with it or with `--set`."""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from candidate_pipeline.options import options_of
from candidate_pipeline.registry import Registry
from candidate_pipeline.spec.document import Document, describe
from candidate_pipeline.spec.model import Dataset
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import Location, Problem, SpecError

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
                given = table.get(option.name)
                if isinstance(given, str):
                    return document.base_of(("resources", name, option.name)) / given
                return option.default if isinstance(option.default, Path) else None
    return None


def apply_dataset(document: Document, directory: Path, *, required: bool) -> Dataset | None:
    """Read `dataset.toml` of a directory and apply its `[set]` to a spec.

    An override whose table the spec does not have is passed over: a data directory serves many specs.

    Args:
        document: The spec; overridden in place.
        directory: The data directory.
        required: Whether a directory without the file is an error (`--data` named it).

    Raises:
        SpecError: The directory or file is missing or wrong.
    """
    file = directory / FILE
    if not file.is_file():
        if not required:
            return None
        found = "a directory without it" if directory.is_dir() else "no such directory"
        hint = "give a data directory, such as one that `candidate-pipeline data fetch` makes"
        raise SpecError([Problem("E100", f"wanted the file {FILE}, found {found}", Location(str(directory)), hint)])
    dataset = Document.read(file)
    problems = []
    defaults = {}
    now: dt.datetime | None = None
    for key, value in dataset.data.items():
        if key == "now":
            if isinstance(value, dt.datetime) and value.tzinfo is not None:
                now = value
            else:
                problems.append(
                    dataset.problem("E102", f"now: wanted a date-time with a zone, found {describe(value)}", (key,))
                )
        elif key.startswith(_DEFAULT):
            defaults[key.removeprefix(_DEFAULT)] = value
        elif key not in {"name", "set", "schema", "doc"}:
            problems.append(
                dataset.problem(
                    "E101",
                    f"unknown key {key!r} in {FILE}",
                    (key,),
                    part="key",
                    hint="name, now, default_<input>, set",
                )
            )
    overrides = dataset.get(("set",)) or {}
    if not isinstance(overrides, dict):
        problems.append(dataset.problem("E102", f"set: wanted a table, found {describe(overrides)}", ("set",)))
        overrides = {}
    if problems:
        raise SpecError(problems)
    for path, keys, value in _flat(overrides):
        document.override(path, value, dataset.locate(("set", *keys)), dataset.base)
    return Dataset(directory, str(dataset.get(("name",)) or directory.name), now, defaults)


def _flat(overrides: dict[str, Any]) -> Iterable[tuple[TomlPath, TomlPath, Any]]:
    """Path, own path in `[set]` and value of overrides.

    `"a.b" = v`, `a.b = v` and `a = { b = v }` all override `a.b`; under a three-part path a table is a value.
    """
    stack: list[tuple[TomlPath, TomlPath, Any]] = [((), (), overrides)]
    while stack:
        path, keys, value = stack.pop()
        if isinstance(value, dict) and len(path) < 3:
            stack += [((*path, *name.split(".")), (*keys, name), item) for name, item in reversed(value.items())]
        else:
            yield path, keys, value


def apply_sets(document: Document, sets: Iterable[str]) -> None:
    """Apply `--set a.b=value` overrides; a value is TOML, or text if it is not.

    Raises:
        SpecError: One is not of that form, or names nothing in the spec.
    """
    problems = []
    for entry in sets:
        name, equals, text = entry.partition("=")
        location = Location(f"--set {entry}")
        path: TomlPath = tuple(name.strip().split("."))
        if not equals or not all(path):
            problems.append(Problem("E107", "wanted --set a.b=value", location))
            continue
        try:
            value: Any = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        if not document.override(path, value, location, Path.cwd()):
            parent = ".".join(str(part) for part in path[:-1])
            problems.append(Problem("E107", f"the spec has no table [{parent}]", location, "name a table that it has"))
    if problems:
        raise SpecError(problems)
