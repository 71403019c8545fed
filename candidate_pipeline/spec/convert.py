"""From TOML values to option values, never coercing, reporting every mistake."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import attrs

from candidate_pipeline.options import (
    Option,
    files_in,
    is_list,
    is_resource_type,
    is_table,
    optional_of,
    options_of,
    parse_duration,
    split,
    type_name,
    violation,
)
from candidate_pipeline.spec.document import Document, describe
from candidate_pipeline.spec.environment import (
    UNREADABLE,
    is_reference,
    parse,
    shown,
    takes_variable,
    unknown_keys,
)
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import Problem, nearest


class _Bad:
    """The type of `BAD`: "a problem was reported, there is no value"."""

    def __repr__(self) -> str:
        return "BAD"


BAD: Final = _Bad()

#: Mistakes that may not be any once a base file that could not be read is there.
_MAY_BE_IN_BASE: Final = frozenset({"E103", "E110", "E206", "E310"})


@attrs.frozen
class ResourceName:
    """A reference to a `[resources.*]` entry, resolved when the application is built."""

    name: str
    wanted: type
    path: TomlPath


@attrs.define
class Converter:
    """Converts values of one document.

    Args:
        document: Where the values stand.
        resources: The resources there are, by name, with their classes (`None` where that is not known).
        data: The data directory for options of type `DataDir` that are not set.
        problems: Mistakes are appended here.
    """

    document: Document
    resources: Mapping[str, type | None]
    data: Path | None
    problems: list[Problem] = attrs.field(factory=list)
    _found: dict[TomlPath, str] = attrs.field(factory=dict, init=False)

    def report(self, code: str, message: str, path: TomlPath, *, hint: str = "", part: str = "") -> _Bad:
        """Append a problem and return `BAD`."""
        if not (self.document.incomplete and code in _MAY_BE_IN_BASE):
            self.problems.append(self.document.problem(code, message, path, hint=hint, part=part))
        return BAD

    def table(self, given: Any, options: Mapping[str, Option], path: TomlPath, what: str) -> dict[str, Any]:
        """The option values of a table, by name; options that are wrong or left at their default are missing.

        Args:
            given: The TOML table.
            options: What may stand in it.
            path: Where it stands.
            what: What it configures, for messages.
        """
        values: dict[str, Any] = {}
        for name, value in given.items():
            option = options.get(name)
            if option is None:
                hint = nearest(name, options) or ("" if options else f"{what} takes no options")
                self.report("E101", f"unknown key {name!r} for {what}", (*path, name), hint=hint, part="key")
                continue
            converted = self.option(value, option, (*path, name))
            if not isinstance(converted, _Bad):
                values[name] = converted
                if option.config_file:
                    self.document.files += tuple(files_in(converted))
        for name, option in options.items():
            if name in given:
                continue
            if option.data_dir and self.data is not None:
                values[name] = self.data
            elif option.required and is_resource_type(option.type):
                self._only_resource(option, values, path, what)
            elif option.required:
                wanted = f"{name} = ... ({type_name(option.type)}){': ' + option.doc if option.doc else ''}"
                hint = f"give --data DIR, or add {wanted}" if option.data_dir else f"add {wanted}"
                self.report("E103", f"{what} needs the key {name!r}", path, hint=hint, part="key")
        return values

    def _only_resource(self, option: Option, values: dict[str, Any], path: TomlPath, what: str) -> None:
        """A resource that is not named is the only one of its class."""
        fitting = [name for name, cls in self.resources.items() if cls is not None and fits(cls, option.type)]
        if len(fitting) == 1:
            values[option.name] = ResourceName(fitting[0], option.type, path)
            return
        wanted = option.type.__name__
        if not fitting and None in self.resources.values():
            return  # its class could not be loaded, which is reported where it stands
        found = f"there are {', '.join(fitting)}" if fitting else f"the spec has no resource of class {wanted}"
        hint = "name one of them" if fitting else "add one under [resources.<name>]"
        self.report("E103", f"{what} needs the key {option.name!r}, a {wanted}; {found}", path, hint=hint, part="key")

    def option(self, value: Any, option: Option, path: TomlPath) -> Any:
        """One option's value, or `BAD`."""
        if is_reference(value) and takes_variable(option.type):
            return self._variable(value, option.type, path, lambda given, place: self.option(given, option, place))
        converted = self.value(value, option.type, path)
        if isinstance(converted, _Bad) or converted is None:
            return converted
        return self._constrained(value, converted, option.constraints, path, f"{option.name}: ")

    def value(self, value: Any, hint: Any, path: TomlPath) -> Any:
        """A value of a type, or `BAD`."""
        if is_reference(value) and takes_variable(hint):
            return self._variable(value, hint, path, lambda given, place: self.value(given, hint, place))
        hint, metadata = split(hint)
        hint = optional_of(hint)
        hint, more = split(hint)
        converted = self._plain(value, hint, path)
        if isinstance(converted, _Bad):
            return converted
        return self._constrained(value, converted, (*metadata, *more), path)

    def _variable(
        self, reference: Mapping[str, Any], hint: Any, path: TomlPath, convert: Callable[[Any, TomlPath], Any]
    ) -> Any:
        """The value of `{ env = "NAME", default = ... }`; a default is checked even where it is not needed."""
        name = reference["env"]
        for key in unknown_keys(reference):
            message = f"unknown key {key!r} beside env"
            self.report("E109", message, (*path, key), hint='wanted { env = "NAME", default = ... }', part="key")
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            wanted = "wanted the name of an environment variable"
            self.report("E109", f"env: {wanted}, found {describe(name)}", (*path, "env"))
            return BAD
        default = convert(reference["default"], (*path, "default")) if "default" in reference else BAD
        if unknown_keys(reference):
            return BAD
        text = self.document.environment.read(name)
        if text is None:
            hint_text = f'set it, or give a default: {{ env = "{name}", default = ... }}'
            missing = f"the environment has no variable {name}; wanted {type_name(hint)}"
            return default if "default" in reference else self.report("E109", missing, path, hint=hint_text)
        value = parse(text, hint)
        bare = split(optional_of(split(hint)[0]))[0]
        note = functools.partial(self.document.environment.note, name, text, path=path, free=bare in {str, Path})
        note(value=text if value is UNREADABLE else value)
        if value is UNREADABLE:
            message = f"wanted {type_name(hint)}, found {shown(name)}"
            return self.report("E109", message, path, hint=f"set {name} to such a value; it is read as it stands")
        if bare is Path:  # as everywhere, from the working directory
            value = str(Path.cwd() / home(value))
        self._found[path] = shown(name)
        converted = convert(value, path)
        if not isinstance(converted, _Bad):
            note(value=converted)
        return converted

    def _describe(self, value: Any, path: TomlPath) -> str:
        return self._found.get(path) or describe(value)

    def _constrained(
        self, value: Any, converted: Any, constraints: Iterable[Any], path: TomlPath, what: str = ""
    ) -> Any:
        for constraint in constraints:
            try:
                wanted = violation(converted, constraint)
            except TypeError as error:
                return self.report("E203", f"{what}{constraint!r} does not fit the option's type: {error}", path)
            if wanted is not None:
                return self.report("E104", f"{what}wanted {wanted}, found {self._describe(value, path)}", path)
        return converted

    def _plain(self, value: Any, hint: Any, path: TomlPath) -> Any:
        if hint is Any:
            return value
        if get_origin(hint) is Literal:
            choices = get_args(hint)
            if any(type(value) is type(choice) and value == choice for choice in choices):
                return value
            near = nearest(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
            return self._wrong(value, hint, path, near)
        if is_table(hint):
            return self._mapping(value, hint, path)
        if is_list(hint):
            return self._sequence(value, hint, path)
        if is_resource_type(hint):
            return self._resource(value, hint, path)
        if attrs.has(hint):
            return self._nested(value, hint, path)
        return self._scalar(value, hint, path)

    def _scalar(self, value: Any, hint: Any, path: TomlPath) -> Any:
        if hint is float and type(value) is int:
            return float(value)
        if hint in {bool, int, float, str}:
            # A name such as a preset's may look like a date, which TOML then takes it for.
            dated = hint is str and isinstance(value, dt.date | dt.time)
            quote = f'write it as text, in quotes: "{value}"' if dated else ""
            return value if type(value) is hint else self._wrong(value, hint, path, quote)
        if hint is dt.timedelta:
            duration = parse_duration(value) if isinstance(value, str) else None
            return self._wrong(value, hint, path) if duration is None else duration
        if hint is dt.datetime:
            return value if isinstance(value, dt.datetime) and value.tzinfo else self._wrong(value, hint, path)
        if hint is Path:
            if not isinstance(value, str):
                return self._wrong(value, hint, path)
            return self.document.base_of(path) / home(value)
        return self.report("E203", f"options of type {type_name(hint)} cannot be written in TOML", path)

    def _mapping(self, value: Any, hint: Any, path: TomlPath) -> Any:
        if not isinstance(value, dict):
            return self._wrong(value, hint, path)
        inner = get_args(hint)[1] if get_args(hint) else Any
        converted = {name: self.value(item, inner, (*path, name)) for name, item in value.items()}
        return BAD if any(isinstance(item, _Bad) for item in converted.values()) else converted

    def _sequence(self, value: Any, hint: Any, path: TomlPath) -> Any:
        if not isinstance(value, list):
            return self._wrong(value, hint, path)
        args: tuple[Any, ...] = get_args(hint) or (Any,)
        inner = [args[0]] * len(value)
        if get_origin(hint) is tuple and args[-1] is not Ellipsis:
            if len(value) != len(args):
                return self.report("E104", f"wanted a list of {len(args)}, found {describe(value)}", path)
            inner = list(args)
        converted = [self.value(item, inner[at], (*path, at)) for at, item in enumerate(value)]
        if any(isinstance(item, _Bad) for item in converted):
            return BAD
        return converted if get_origin(hint) is list or hint is list else tuple(converted)

    def _nested(self, value: Any, hint: type, path: TomlPath) -> Any:
        if not isinstance(value, dict):
            return self._wrong(value, hint, path)
        before, options = len(self.problems), options_of(hint)
        held = next((name for name, option in options.items() if is_resource_type(optional_of(option.type))), None)
        if held is not None:
            return self.report("E203", f"{hint.__name__}.{held}: only a component itself can take a resource", path)
        values = self.table(value, options, path, hint.__name__)
        if len(self.problems) > before:
            return BAD
        try:
            return hint(**values)
        except Exception as error:  # an attrs validator may raise anything
            return self.report("E204", f"{hint.__name__}: {error}", path)

    def _resource(self, value: Any, hint: type, path: TomlPath) -> Any:
        if not isinstance(value, str):
            return self._wrong(value, hint, path)
        if self.document.lacks("resources", value):
            add = nearest(value, self.resources) or f"add a table [resources.{value}]"
            return self.report("E206", f"no resource {value!r}", path, hint=add)
        return ResourceName(value, hint, path)

    def _wrong(self, value: Any, hint: Any, path: TomlPath, near: str = "") -> _Bad:
        return self.report("E102", f"wanted {type_name(hint)}, found {self._describe(value, path)}", path, hint=near)


def home(text: str) -> Path:
    """A path as written, with `~` for the home directory; as it stands where there is none."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def fits(cls: type, wanted: type) -> bool:
    """Whether a class is of a wanted one; a protocol that cannot be tested is the type checker's business."""
    try:
        return issubclass(cls, wanted)
    except TypeError:
        return True
