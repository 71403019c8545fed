"""A spec as it is in the end: bases merged, overrides applied, and where each value comes from.

What an environment variable holds is never part of it: `{ env = "NAME" }` stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.options import options_of
from candidate_pipeline.registry import Registry, installed
from candidate_pipeline.spec.defaults import written_default
from candidate_pipeline.spec.document import Document, dotted
from candidate_pipeline.spec.environment import is_placeholder
from candidate_pipeline.spec.extends import extended
from candidate_pipeline.spec.merging import KEY
from candidate_pipeline.spec.model import PipelineOptions
from candidate_pipeline.spec.origins import How
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import Location, Problem, SpecError, nearest
from candidate_pipeline.spec.reach import entries, reachable
from candidate_pipeline.spec.rebase import Rebase, options_used

#: Where a table of settings stands: `[pipelines.<name>]`, `[components.<name>]`, `[resources.<name>]`.
_NAMED: Final = 2


@attrs.frozen
class Value:
    """One value of an expanded spec.

    Args:
        path: Where it stands in the expanded spec.
        value: The value, as TOML data; `None` for a default that is no value.
        location: Where it was written.
        how: What gave it: a spec `file`, a `dataset`'s `[set]`, `set` and `data` on the command line, or a `default`.
        note: What to say of it where it cannot be written as TOML.
    """

    path: TomlPath
    value: Any
    location: Location
    how: How
    note: str = ""

    @property
    def origin(self) -> str:
        """Where it comes from, for a reader."""
        if self.how == "file":
            return f"{self.location.name}:{self.location.line}"
        return f"{self.location.name}:{self.location.line} [set]" if self.how == "dataset" else self.location.name

    def as_dict(self) -> dict[str, Any]:
        """The value as plain data, for scripts."""
        inside = self.location.line > 0
        return {
            "path": dotted(self.path),
            "value": self.value,
            "file": self.location.name if inside else None,
            "line": self.location.line if inside else None,
            "column": self.location.column if inside else None,
            "origin": self.how if inside else self.location.name,
        }


@attrs.frozen(eq=False)
class Expanded:
    """An expanded spec.

    Args:
        data: The spec as plain TOML data; without defaults.
        values: Each value below its tables, each entry of a list by itself, in the spec's order.
    """

    data: Mapping[str, Any]
    values: tuple[Value, ...]

    def toml(self, *, comments: bool = True) -> str:
        """The spec as TOML, which reads as the same spec from the same folder.

        Args:
            comments: Whether each value says where it comes from.
        """
        from candidate_pipeline.spec.write import written  # imports tomlkit, which only this needs

        return written(self.data, self.values, comments=comments)

    def as_list(self) -> list[dict[str, Any]]:
        """Path, value and origin of every value, as plain data."""
        return [value.as_dict() for value in self.values]


def expanded(
    document: Document,
    registry: Registry | None = None,
    *,
    data: Path | None = None,
    pipeline: str | None = None,
    defaults: bool = False,
) -> Expanded:
    """What a document comes to.

    Relative paths that were written elsewhere, in a base of another folder or in an override, are rewritten so that
    they mean the same in the document's own folder.

    Args:
        document: A spec as `load_spec` leaves it, overrides included, or as it was read.
        registry: Where names resolve; default: installed plugins.
        data: The data directory, which is written where resources leave it open; default: left open.
        pipeline: Only this pipeline and what it needs; default: all.
        defaults: Whether to add the options that the spec leaves at their defaults.

    Raises:
        SpecError: The document was not resolved yet, and a base that it extends cannot be used.
        MisconfigurationError: There is no such pipeline.
    """
    registry = installed() if registry is None else registry
    document = _resolved(document)
    plain, filled = Rebase(document, registry).spec(data)
    added = dict.fromkeys(filled, Location(f"--data {data}"))
    if pipeline is not None:
        tables = plain.get("pipelines")
        names = [name for name, table in tables.items() if isinstance(table, dict)] if isinstance(tables, dict) else []
        if pipeline not in names:
            hint = nearest(pipeline, names) or "the spec has no pipeline"
            raise MisconfigurationError(f"no pipeline named {pipeline!r}: {hint}")
        plain = reachable(document, plain, registry, pipeline)
    values: list[Value] = []
    for key, group in plain.items():
        named = isinstance(group, dict) and key in {"pipelines", "components", "resources"}
        for name, table in group.items() if named else ():
            values += _values(document, table, (key, name), added)
            if defaults and isinstance(table, dict):
                values += _defaults(document, registry, table, (key, name))
        if not named or not group:
            values += _values(document, group, (key,), added)
    for use in _registered(plain) if defaults else ():
        values += _defaults(document, registry, {"use": use}, ("components", use))
    return Expanded(plain, tuple(values))


def expanded_data(document: Document, registry: Registry | None = None) -> dict[str, Any]:
    """The plain data of `expanded`: what a document comes to, `{ env = ... }` kept."""
    return dict(expanded(document, registry).data)


def _resolved(document: Document) -> Document:
    tables = document.data.get("pipelines")
    named = tables.values() if isinstance(tables, dict) else ()
    if KEY not in document.data and not any(isinstance(table, dict) and KEY in table for table in named):
        return document
    problems: list[Problem] = []
    whole = extended(document, problems)
    if problems:
        raise SpecError(problems)
    return whole


def _values(document: Document, value: Any, path: TomlPath, added: Mapping[TomlPath, Location]) -> Iterator[Value]:
    """The values in one value, tables and lists taken apart."""
    if path in added:
        yield Value(path, value, added[path], "data")
    elif isinstance(value, dict) and value and not (is_placeholder(value) and len(path) > _NAMED):
        for key, item in value.items():
            yield from _values(document, item, (*path, key), added)
    elif isinstance(value, list) and value:
        for at, item in enumerate(value):
            yield _value(document, item, (*path, at))
    else:
        yield _value(document, value, path)


def _value(document: Document, value: Any, path: TomlPath) -> Value:
    origin = document.origin(path)
    return Value(path, value, document.locate(path), "file" if origin is None else origin.how)


def _defaults(document: Document, registry: Registry, table: Mapping[str, Any], path: TomlPath) -> Iterator[Value]:
    """The options that a table leaves at their defaults."""
    use = table.get("use") if path[0] != "pipelines" else f"[pipelines.{path[1]}]"
    options = options_of(PipelineOptions) if path[0] == "pipelines" else options_used(registry, use, path[0])
    for option in options.values():
        if option.name in table or option.required:
            continue
        value, note = written_default(option, document)
        for inner, item in _leaves(value, (*path, option.name)):
            yield Value(inner, item, Location(f"default of {use}"), "default", note)


def _registered(plain: Mapping[str, Any]) -> list[str]:
    """The components that pipelines list by their registered names, which have no table for their defaults."""
    tables = plain.get("pipelines")
    found: list[str] = []
    for table in tables.values() if isinstance(tables, dict) else ():
        if isinstance(table, dict):
            found += [entry for entry in entries(table) if "." in entry and entry not in found]
    return found


def _leaves(value: Any, path: TomlPath) -> Iterator[tuple[TomlPath, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    else:
        yield path, value
