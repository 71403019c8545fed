"""`{ env = "NAME" }`: option values from environment variables, read strictly and never shown."""

from __future__ import annotations

import datetime as dt
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import attrs

from candidate_pipeline.options import format_duration, optional_of, parse_duration, split
from candidate_pipeline.spec.positions import TomlPath

_KEYS: Final = frozenset({"env", "default"})
_SCALARS: Final = (bool, int, float, str, dt.timedelta, dt.datetime, Path)
_INTEGER: Final = re.compile(r"[+-]?(?:0|[1-9](?:_?[0-9])*)")
_NUMBER: Final = re.compile(
    r"[+-]?(?:inf|nan|(?:0|[1-9](?:_?[0-9])*)(?:\.[0-9](?:_?[0-9])*)?(?:[eE][+-]?[0-9](?:_?[0-9])*)?)"
)
_DATE_TIME: Final = re.compile(r"[0-9][0-9Tt:.+ Zz-]*")
#: Shorter texts are hidden only where they stand alone: the secret "7" is not a part of 17.
_SHORT: Final = 4


class _Unreadable:
    """The type of `UNREADABLE`: "the text is not of the type"."""


UNREADABLE: Final = _Unreadable()


def is_reference(value: Any) -> bool:
    """Whether a value is a table such as `{ env = "NAME", default = 7 }`, well formed or nearly so."""
    return isinstance(value, dict) and "env" in value


def is_placeholder(value: Any) -> bool:
    """Whether a value is `{ env = "NAME" }` or `{ env = "NAME", default = ... }` and nothing else."""
    return is_reference(value) and isinstance(value["env"], str) and value.keys() <= _KEYS


def unknown_keys(reference: Mapping[str, Any]) -> list[str]:
    """The keys of a reference that it cannot have."""
    return [key for key in reference if key not in _KEYS]


def takes_variable(hint: Any) -> bool:
    """Whether an option of a type can come from the environment: a single value can, a list or table cannot."""
    hint, _ = split(optional_of(split(hint)[0]))
    return hint in _SCALARS or get_origin(hint) is Literal


def parse(text: str, hint: Any) -> Any:
    """The TOML value that a text stands for, read as one type; `UNREADABLE` if it is not of that type.

    A text of type `str`, `Path` or a duration is the value itself. Others are written as in TOML: `true`, `-7`, `0.5`,
    `2026-05-01T00:00:00Z`; nothing is trimmed or converted.
    """
    hint, _ = split(optional_of(split(hint)[0]))
    if get_origin(hint) is Literal:
        found = (choice for choice in get_args(hint) if _same(parse(text, type(choice)), choice))
        return next(found, UNREADABLE)
    if hint is bool:
        return {"true": True, "false": False}.get(text, UNREADABLE)
    if hint is int:
        return _number(text, int) if _INTEGER.fullmatch(text) else UNREADABLE
    if hint is float:
        return _number(text, float) if _NUMBER.fullmatch(text) else UNREADABLE
    if hint is dt.timedelta:
        return UNREADABLE if parse_duration(text) is None else text
    if hint is dt.datetime:
        moment = _toml(text) if _DATE_TIME.fullmatch(text) else None
        return moment if isinstance(moment, dt.datetime) and moment.tzinfo is not None else UNREADABLE
    return text


def _same(value: Any, choice: Any) -> bool:
    return type(value) is type(choice) and value == choice


def _number(text: str, kind: type[int] | type[float]) -> Any:
    try:
        number = kind(text)
    except ValueError:  # more digits than Python reads
        return UNREADABLE
    return number if kind is float or -(2**63) <= number < 2**63 else UNREADABLE


def _toml(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return None


@attrs.frozen
class Reading:
    """One variable that an option took its value from.

    Args:
        name: The variable.
        text: What it holds.
        path: Where the option stands.
        forms: The ways in which a message may show the value.
        free: Whether the value is text, which may turn up anywhere: as a name that nothing has.
    """

    name: str
    text: str = attrs.field(repr=False)
    path: TomlPath
    forms: tuple[str, ...] = attrs.field(repr=False)
    free: bool

    def patterns(self, path: TomlPath, message: str, *, everywhere: bool) -> Iterator[tuple[str, str]]:
        """Each form to be hidden in a message about a place, and how to look for it.

        `7` and `true` are the variable's only near the option, unless a message is about several places.
        """
        near = everywhere or path[:2] == self.path[:2]
        for form in self.forms:
            anywhere = self.free and len(form) >= _SHORT
            if form and (near or anywhere) and form in message:
                yield form, re.escape(form) if anywhere else rf"(?<!\w){re.escape(form)}(?!\w)"


@attrs.define(eq=False)
class Environment:
    """Reads variables and remembers what must not be shown.

    Args:
        variables: The variables; default: those of the process, as they are when one is read.
    """

    variables: Mapping[str, str] | None = attrs.field(default=None, repr=False)
    readings: list[Reading] = attrs.field(factory=list, repr=False)

    def read(self, name: str) -> str | None:
        """A variable's text, or `None`."""
        try:
            return (os.environ if self.variables is None else self.variables).get(name)
        except ValueError:  # a name that the system cannot write
            return None

    def note(self, name: str, text: str, value: Any, path: TomlPath, *, free: bool) -> None:
        """Remember that an option took its value from a variable.

        Args:
            name: The variable.
            text: What it holds.
            value: The option's value, or what is known of it.
            path: Where the option stands.
            free: Whether the option takes any text.
        """
        # What stands behind a colon is looked up by itself: `fallback:<component>`.
        forms = [text, repr(text)[1:-1], str(value), repr(value), text.partition(":")[2]]
        if isinstance(value, dt.timedelta):
            forms.append(format_duration(value))
        reading = Reading(name, text, path, tuple(dict.fromkeys(forms)), free)
        if reading not in self.readings:
            self.readings.append(reading)

    def redacted(self, message: str, path: TomlPath, *, everywhere: bool = False) -> str:
        """A message about a place without the values that were read.

        Args:
            message: The message.
            path: The place.
            everywhere: Whether it may repeat options of other places as well.
        """
        names: dict[str, str] = {}
        patterns: dict[str, str] = {}
        for reading in self.readings if message else ():
            for form, pattern in reading.patterns(path, message, everywhere=everywhere):
                names.setdefault(form, reading.name)
                patterns.setdefault(form, pattern)
        if not patterns:
            return message
        longest_first = sorted(patterns, key=len, reverse=True)
        return re.sub("|".join(patterns[form] for form in longest_first), lambda hit: shown(names[hit[0]]), message)

    def secrets(self) -> frozenset[str]:
        """What was read."""
        return frozenset(reading.text for reading in self.readings if reading.text)


def shown(name: str) -> str:
    """What stands for a variable's value wherever it would be shown."""
    return f"<value of {name}>"
