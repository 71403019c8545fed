"""Fingerprints: which configuration answered, in sixteen hexadecimal digits.

Equal final values give equal fingerprints, however they came about: written plainly, through `extends`, by `--set` or
by a data directory's `[set]`, in whatever order, a default written out or left out. What does not decide how a pipeline
ranks does not count: comments, `doc`, `show`, and tables that it does not use.

Two kinds of values are left out on purpose. Where data lies differs from machine to machine, so of an option that takes
the data directory only its name counts, of a file of settings its content, and of any other path the text that was
written. And what an environment variable holds may be a secret, so `{ env = "NAME" }` counts as it is written.
"""

from __future__ import annotations

import datetime as dt
import enum
import functools
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence, Set
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any, Final

import attrs
import numpy as np

from candidate_pipeline.keys import Column, QueryFeature
from candidate_pipeline.options import files_of, options_of
from candidate_pipeline.spec.convert import ResourceName
from candidate_pipeline.spec.document import Document, digest_of
from candidate_pipeline.spec.environment import is_placeholder
from candidate_pipeline.spec.model import ComponentSpec
from candidate_pipeline.spec.positions import TomlPath

#: Goes into every fingerprint; another number where the way they are made changes.
_FORMAT: Final = 1
_CORE: Final = "candidate-pipeline"
_DEEPEST: Final = 32


@attrs.frozen
class Identity:
    """What a component, a resource or a pipeline is.

    Args:
        fingerprint: 16 hexadecimal digits.
        plugins: The versions of the distributions that it comes from, by name.
    """

    fingerprint: str
    plugins: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class Canon:
    """Brings values into a form that JSON can write and that is the same for equal values.

    Args:
        document: Where the values were written, if they were.
        resources: The resources that values may name.
    """

    document: Document | None = None
    resources: Mapping[str, Identity] = attrs.field(factory=dict)
    _inside: list[int] = attrs.field(factory=list, init=False)

    def of(self, value: Any, path: TomlPath = (), depth: int = 0) -> Any:
        """The form of a value.

        Args:
            value: An option's value, or part of one.
            path: Where it stands in the document.
            depth: How deep inside other values it stands.
        """
        written = None if self.document is None else self.document.get(path)
        if written is not None and is_placeholder(written):
            return ["@env", written["env"], self.of(written.get("default"), (), depth + 1)]
        if value is None or isinstance(value, bool | str) or type(value) in {int, float}:
            return value
        if isinstance(value, enum.Enum):
            return ["@enum", _name(type(value)), value.name]
        if isinstance(value, dt.timedelta):
            return ["@duration", value // dt.timedelta(microseconds=1)]
        if isinstance(value, dt.datetime):
            return ["@time", (value.astimezone(dt.UTC) if value.tzinfo else value).isoformat()]
        if isinstance(value, PurePath):
            if isinstance(written, str):
                return ["@path", written]
            # A default. An absolute one is of this machine, such as a folder for caches.
            return ["@path", None if self.document is not None and value.is_absolute() else value.as_posix()]
        if isinstance(value, ResourceName):
            known = self.resources.get(value.name)
            return ["@resource", None if known is None else known.fingerprint]
        if isinstance(value, QueryFeature | Column):
            return ["@key", value.name]
        return self._composed(value, path, depth) if depth < _DEEPEST else ["@object", _name(type(value))]

    def _composed(self, value: Any, path: TomlPath, depth: int) -> Any:
        if isinstance(value, Mapping):
            items = [[self.of(key), self.of(item, (*path, key), depth + 1)] for key, item in value.items()]
            return ["@table", sorted(items, key=lambda item: _text(item[0]))]
        if isinstance(value, Set):
            return ["@set", sorted((self.of(item, (), depth + 1) for item in value), key=_text)]
        if isinstance(value, bytes | bytearray):
            return ["@bytes", hashlib.sha256(value).hexdigest()]
        if isinstance(value, Sequence):
            return ["@list", [self.of(item, (*path, at), depth + 1) for at, item in enumerate(value)]]
        if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
            cells = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
            return ["@array", value.dtype.str, list(value.shape), cells]
        if inspect.isclass(value) or inspect.isroutine(value):
            return ["@code", _name(value)]
        if isinstance(found := getattr(value, "config_hash", None), str):  # a compiled pipeline
            return ["@pipeline", found]
        if attrs.has(type(value)) and id(value) not in self._inside:  # objects may hold each other
            fields = [field for field in attrs.fields(type(value)) if field.init]
            given = {str(field.alias): getattr(value, field.name, None) for field in fields}
            self._inside.append(id(value))
            try:
                return ["@options", _name(type(value)), self.table(type(value), given, path, depth + 1)]
            finally:
                self._inside.pop()
        return ["@object", _name(type(value))]

    def table(self, cls: type, given: Mapping[str, Any], path: TomlPath, depth: int = 0) -> Any:
        """The form of the options of a class, those that are not given at their defaults."""
        found: dict[str, Any] = {}
        for field in attrs.fields(cls):
            if not field.init or field.alias is None:
                continue
            name = field.alias
            value = given[name] if name in given else _default(field.default)
            contents = {path: digest_of(path) for path in files_of(cls, name, value)}
            if isinstance(value, PurePath) and _is_data(cls, name):
                found[name] = ["@data"]
            elif contents and None not in contents.values():
                found[name] = ["@files", self.of(_replaced(value, contents))]
            else:
                found[name] = self.of(value, (*path, name), depth)
        return found


def digest(form: Any) -> str:
    """The fingerprint of a form."""
    return hashlib.sha256(_text([_FORMAT, form]).encode()).hexdigest()[:16]


def core_plugin() -> dict[str, str]:
    """The framework's own distribution and version."""
    return {_CORE: _core_version()}


@functools.cache
def _core_version() -> str:
    return metadata.version(_CORE)  # read from a file, and asked once a pipeline


def identity_of_spec(spec: ComponentSpec, document: Document, resources: Mapping[str, Identity]) -> Identity:
    """What a component or resource of a spec is: its registered name, its version, its options, its resources.

    Args:
        spec: The component.
        document: The document it stands in, with all overrides applied.
        resources: The resources that it may take.
    """
    options = Canon(document, resources).table(spec.cls, dict(spec.options), spec.path)
    plugins = {spec.ref.distribution: spec.ref.version}
    for name in _resources_in(list(spec.options.values())):
        plugins |= resources[name].plugins if name in resources else {}
    return Identity(digest([spec.kind, spec.ref.name, spec.ref.distribution, spec.ref.version, options]), plugins)


def identity_of_object(component: Any) -> Identity:
    """What a component made without a spec is: its class and the plain values among its fields.

    A field that holds anything else counts as the name of its class. No version is known.
    """
    return Identity(digest(Canon().of(component)))


def _resources_in(values: Sequence[Any]) -> list[str]:
    found: list[str] = []
    for value in values:
        if isinstance(value, ResourceName):
            found.append(value.name)
        elif isinstance(value, tuple | list):
            found += _resources_in(value)
        elif isinstance(value, dict):
            found += _resources_in(list(value.values()))
    return found


def _replaced(value: Any, contents: Mapping[Path, str | None]) -> Any:
    """An option's value with what files hold in place of their paths."""
    if isinstance(value, Path):
        return contents[value]
    if isinstance(value, Mapping):
        return {name: _replaced(item, contents) for name, item in value.items()}
    return [_replaced(item, contents) for item in value] if isinstance(value, tuple | list) else value


def _is_data(cls: type, name: str) -> bool:
    try:
        return options_of(cls)[name].data_dir
    except TypeError:  # made by hand, without annotations
        return False


def _default(default: Any) -> Any:
    if default is attrs.NOTHING:
        return None
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # attrs types Factory as a function
        return None if default.takes_self else default.factory()
    return default


def _name(of: Any) -> str:
    return f"{getattr(of, '__module__', '')}.{getattr(of, '__qualname__', '')}"


def _text(form: Any) -> str:
    return json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
