"""A TOML document whose every value knows where it was written, overrides included."""

from __future__ import annotations

import bisect
import copy
import datetime as dt
import re
import tomllib
from pathlib import Path
from typing import Any, Final

from candidate_pipeline.spec.positions import Span, TomlPath, scan
from candidate_pipeline.spec.problems import Location, Problem, SpecError

MAX_BYTES: Final = 4 * 2**20
MAX_DEPTH: Final = 32
_TOML_ERROR: Final = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)")


def dotted(path: TomlPath) -> str:
    """`("pipelines", "a", "filters", 0)` as `pipelines.a.filters[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class Document:
    """Parsed TOML with positions.

    Args:
        text: The TOML.
        name: What to call it in messages, usually its path.
        base: The folder that relative paths in it start from.

    Raises:
        SpecError: The text is not TOML.
    """

    def __init__(self, text: str, name: str = "<string>", base: Path | None = None) -> None:
        self.name = name
        self.base = base if base is not None else Path.cwd()
        self._text = text.replace("\r\n", "\n")
        self._lines = self._text.split("\n")
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line) + 1)
        self._overrides: dict[TomlPath, tuple[Location, Path]] = {}
        try:
            self.data: dict[str, Any] = tomllib.loads(self._text)
            self._spans: dict[TomlPath, Span] = scan(self._text)
        except RecursionError:
            raise SpecError([self._too_deep(Location(name))]) from None
        except ValueError as error:  # a TOMLDecodeError, or a number with more digits than Python reads
            raise SpecError([self._syntax_problem(error)]) from None
        deepest = max(self._spans, key=len, default=())
        if len(deepest) > MAX_DEPTH:
            raise SpecError([self._too_deep(self.locate(deepest))])

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a file.

        Raises:
            SpecError: It cannot be read, is too large, is not UTF-8 or is not TOML.
        """
        location = Location(str(path))
        try:
            if path.stat().st_size > MAX_BYTES:
                raise SpecError([Problem("E100", f"the file is larger than {MAX_BYTES} bytes", location)])
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            hint = "name another with --config FILE"
            raise SpecError([Problem("E100", f"cannot read the file: {error.strerror}", location, hint)]) from None
        except UnicodeDecodeError as error:
            raise SpecError([Problem("E100", f"the file is not UTF-8: {error.reason}", location)]) from None
        return cls(text, str(path), path.resolve().parent)

    def copy(self) -> Document:
        """A document that can be overridden without changing this one."""
        twin = copy.copy(self)
        twin.data = copy.deepcopy(self.data)
        twin._overrides = dict(self._overrides)
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

    def override(self, path: TomlPath, value: Any, location: Location, base: Path | None = None) -> bool:
        """Set a value at a path of table keys; false if there is no such place.

        The named table (`components.age`) must be there; tables inside it (`components.age.run`) are made.
        """
        if not isinstance(self.get(path[: min(2, len(path) - 1)]), dict):
            return False
        parent: Any = self.data
        for part in path[:-1]:
            parent = parent.setdefault(part, {})
            if not isinstance(parent, dict):
                return False
        parent[path[-1]] = value
        for known in [known for known in self._overrides if known[: len(path)] == path]:
            del self._overrides[known]
        self._overrides[path] = (location, self.base if base is None else base)
        return True

    def base_of(self, path: TomlPath) -> Path:
        """The folder that a relative path written at a place starts from."""
        for end in range(len(path), 0, -1):
            if path[:end] in self._overrides:
                return self._overrides[path[:end]][1]
        return self.base

    def locate(self, path: TomlPath, part: str = "value") -> Location:
        """Where a key (`part="key"`) or value was written; the nearest parent's place if it was not."""
        for end in range(len(path), 0, -1):
            if path[:end] in self._overrides:
                return self._overrides[path[:end]][0]
            span = self._spans.get(path[:end])
            if span is not None:
                return self._location(*(span.key if part == "key" or end < len(path) else span.value))
        return Location(self.name, 1, 1, 1, self._lines[0])

    def problem(self, code: str, message: str, path: TomlPath, *, hint: str = "", part: str = "value") -> Problem:
        """A problem at a path."""
        return Problem(code, message, self.locate(path, part), hint, dotted(path))

    def _location(self, start: int, end: int) -> Location:
        line = bisect.bisect_right(self._starts, start) - 1
        stop = min(end, self._starts[line + 1] - 1)
        return Location(self.name, line + 1, start - self._starts[line] + 1, stop - start, self._lines[line])

    def _too_deep(self, location: Location) -> Problem:
        return Problem("E100", f"tables and lists may be nested {MAX_DEPTH} deep; these are nested deeper", location)

    def _syntax_problem(self, error: Exception) -> Problem:
        match = _TOML_ERROR.fullmatch(str(error))
        if match is None:
            return Problem("E100", f"not TOML: {error}", Location(self.name))
        line = int(match["line"]) if match["line"] else len(self._lines)
        column = int(match["column"]) if match["column"] else len(self._lines[-1]) + 1
        return Problem(
            "E100", f"not TOML: {match['what']}", Location(self.name, line, column, 1, self._lines[line - 1])
        )


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
