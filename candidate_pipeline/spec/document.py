"""A TOML document whose every value knows where it was written, overrides included."""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from candidate_pipeline.spec.environment import Environment
from candidate_pipeline.spec.origins import Given, How, Origin, Text, Written, copied, places, values
from candidate_pipeline.spec.positions import TomlPath, scan
from candidate_pipeline.spec.problems import Location, Problem, SpecError

#: The version of the format.
SCHEMA: Final = 1
MAX_BYTES: Final = 4 * 2**20
MAX_DEPTH: Final = 32
_INTEGERS: Final = range(-(2**63), 2**63)
_TOO_LARGE: Final = "not TOML: an integer has to fit into 64 bits"
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_TOML_ERROR: Final = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)")


def dotted(path: TomlPath) -> str:
    """`("pipelines", "a", "filters", 0)` as `pipelines.a.filters[0]`; names with dots and the like in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False)
            text += f".{name}" if text else name
    return text


def too_large(value: Any) -> list[TomlPath]:
    """Where in a value integers stand that do not have 64 bits, which TOML does not allow but Python reads."""
    return [path for path, item in values(value, ()) if type(item) is int and item not in _INTEGERS]


class Document:
    """Parsed TOML with positions.

    Args:
        text: The TOML.
        name: What to call it in messages, usually its path.
        base: The folder that relative paths in it start from.

    Attributes:
        data: The values; those of overrides, and of bases once `extends` is resolved, included.
        files: The files that the values come from, the spec's own first, and those that components read as settings
            once they are converted; none of its own for a text in memory.
        bases: By pipeline, the pipeline that it extends.
        incomplete: Whether a base file could not be read, so that what is missing may be there.
        lacking: The base file that could not be read.
        unsound: Pipelines whose base could not be found.

    Raises:
        SpecError: The text is not TOML.
    """

    def __init__(self, text: str, name: str = "<string>", base: Path | None = None) -> None:
        self.name = name
        self.base = base if base is not None else Path.cwd()
        self.files: tuple[Path, ...] = ()
        self.bases: dict[str, str] = {}
        self.incomplete = False
        self.lacking: Path | None = None
        self.unsound: frozenset[str] = frozenset()
        self.environment = Environment()
        text = text.replace("\r\n", "\n")
        self._text = Text.of(text, name, self.base)
        try:
            self.data: dict[str, Any] = tomllib.loads(text)
            spans = scan(text)
        except RecursionError:
            raise SpecError([self._too_deep(Location(name))]) from None
        except ValueError as error:  # a TOMLDecodeError, or a number with more digits than Python reads
            raise SpecError([self._syntax_problem(error)]) from None
        self._origins: dict[TomlPath, Origin] = {path: Written(self._text, span) for path, span in spans.items()}
        deepest = max(spans, key=len, default=())
        if len(deepest) > MAX_DEPTH:
            raise SpecError([self._too_deep(self.locate(deepest))])
        large = sorted((self.locate(path) for path in too_large(self.data)), key=lambda at: (at.line, at.column))
        if large:  # as with anything that is no TOML, the first
            raise SpecError([Problem("E100", _TOO_LARGE, large[0])])

    @classmethod
    def read(cls, path: Path, name: str | None = None) -> Document:
        """Read a file.

        Args:
            path: The file.
            name: What to call it in messages; default: its path as given.

        Raises:
            SpecError: It cannot be read, is too large, is not UTF-8 or is not TOML.
        """
        name = str(path) if name is None else name
        location = Location(name)
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise SpecError([Problem("E100", f"the file is larger than {MAX_BYTES} bytes", location)])
            text = content.decode("utf-8-sig")
        except OSError as error:
            hint = "name another with --config FILE"
            raise SpecError([Problem("E100", f"cannot read the file: {error.strerror}", location, hint)]) from None
        except UnicodeDecodeError as error:
            raise SpecError([Problem("E100", f"the file is not UTF-8: {error.reason}", location)]) from None
        resolved = path.resolve()
        document = cls(text, name, resolved.parent)
        document.files = (resolved,)
        return document

    def copy(self) -> Document:
        """A document that can be changed without changing this one."""
        twin = copy.copy(self)
        twin.data = copied(self.data)
        twin.bases = dict(self.bases)
        twin._origins = dict(self._origins)
        return twin

    def get(self, path: TomlPath) -> Any:
        """The value at a path, or `None`."""
        value: Any = self.data
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def lacks(self, group: str, name: str) -> bool:
        """Whether a group of tables has none of a name; not if the group is no table, which is a mistake of its own."""
        tables = self.data.get(group, {})
        return isinstance(tables, dict) and name not in tables

    def override(
        self, path: TomlPath, value: Any, location: Location, base: Path | None = None, how: How = "set"
    ) -> bool:
        """Set a value at a path of table keys; false if there is no such place.

        The named table (`components.age`) must be there; tables inside it (`components.age.run`) are made.
        """
        if len(path) > MAX_DEPTH:
            return False
        if not isinstance(self.get(path[: min(2, len(path) - 1)]), dict):
            return False
        parent: Any = self.data
        for part in path[:-1]:
            parent = parent.setdefault(part, {})
            if not isinstance(parent, dict):
                return False
        for place in places(parent.get(path[-1]), path):
            self._origins.pop(place, None)
        parent[path[-1]] = copied(value)
        self._origins[path] = Given(location, self.base if base is None else base, how)
        return True

    def origins(self, path: TomlPath, value: Any) -> list[tuple[TomlPath, Origin]]:
        """The origins of a value and of everything in it, by path from there."""
        found = ((place[len(path) :], self._origins.get(place)) for place in places(value, path))
        return [(place, origin) for place, origin in found if origin is not None]

    def forget(self, path: TomlPath, value: Any) -> None:
        """Drop the origins of a value and of everything in it."""
        for place in places(value, path):
            self._origins.pop(place, None)

    def plant(self, path: TomlPath, origins: Iterable[tuple[TomlPath, Origin]]) -> None:
        """Set origins, by path from a place."""
        for place, origin in origins:
            self._origins[(*path, *place)] = origin

    def origin(self, path: TomlPath) -> Origin | None:
        """Where a value was written, or the nearest table or list around it that was."""
        for end in range(len(path), 0, -1):
            found = self._origins.get(path[:end])
            if found is not None:
                return found
        return None

    def base_of(self, path: TomlPath) -> Path:
        """The folder that a relative path written at a place starts from."""
        origin = self.origin(path)
        return self.base if origin is None else origin.base

    def locate(self, path: TomlPath, part: str = "value") -> Location:
        """Where a key (`part="key"`) or value was written; the nearest parent's place if it was not."""
        for end in range(len(path), 0, -1):
            found = self._origins.get(path[:end])
            if found is not None:
                return found.locate(key=part == "key" or end < len(path))
        return Location(self.name, 1, 1, 1, self._text.lines[0])

    def problem(self, code: str, message: str, path: TomlPath, *, hint: str = "", part: str = "") -> Problem:
        """A problem at a path: at its `value` or `key`, by default the key if that is unknown.

        Values of environment variables do not appear in it.
        """
        part = part or ("key" if code == "E101" else "value")
        wiring = code.startswith("E3")  # where settings of several places meet
        message = self.environment.redacted(message, path, everywhere=wiring)
        hint = self.environment.redacted(hint, path, everywhere=wiring)
        return Problem(code, message, self.locate(path, part), hint, dotted(path))

    def secrets(self) -> frozenset[str]:
        """The values that were read from environment variables: never to be printed, logged, hashed or captured."""
        return self.environment.secrets()

    def _too_deep(self, location: Location) -> Problem:
        return Problem("E100", f"tables and lists may be nested {MAX_DEPTH} deep; these are nested deeper", location)

    def _syntax_problem(self, error: Exception) -> Problem:
        match = _TOML_ERROR.fullmatch(str(error))
        if match is None:
            what = _TOO_LARGE if "digits" in str(error) else f"not TOML: {error}"
            return Problem("E100", what, Location(self.name))
        line = int(match["line"]) if match["line"] else len(self._text.lines)
        column = int(match["column"]) if match["column"] else len(self._text.lines[-1]) + 1
        return Problem(
            "E100", f"not TOML: {match['what']}", Location(self.name, line, column, 1, self._text.lines[line - 1])
        )


def is_file(path: Path) -> bool:
    """Whether there is a file of a name, which may be no possible name at all."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder of a name, which may be no possible name at all."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def digest_of(path: Path) -> str | None:
    """A hash of a file's content; `None` where it cannot be read, and of what is no plain file, such as a pipe."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None


def describe(value: Any) -> str:
    """A TOML value as a message shows it: its kind and, cut short, the value."""
    kinds: dict[type, str] = {
        bool: "the boolean",
        int: "the integer",
        float: "the float",
        str: "the string",
        list: "a list",
        dict: "a table",
        dt.datetime: "the date-time",
        dt.date: "the date",
        dt.time: "the time",
    }
    kind = kinds.get(type(value), type(value).__name__)
    if isinstance(value, list | dict):
        return f"{kind} of {len(value)}" if isinstance(value, list) else kind
    shown = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)
    return f"{kind} {shown[:80]}"
