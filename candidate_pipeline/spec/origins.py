"""Where values were written: a text and a span of it, or the override that gave the value."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import attrs

from candidate_pipeline.spec.positions import Span, TomlPath
from candidate_pipeline.spec.problems import Location

#: What gives a value: a spec file, the `[set]` of a `dataset.toml`, `--set`, `--data`, or the option's own default.
How = Literal["file", "dataset", "set", "data", "default"]


@attrs.frozen(eq=False)
class Text:
    """A TOML text.

    Args:
        name: What to call it in messages, usually its path.
        base: The folder that relative paths in it start from.
        lines: Its lines.
        starts: The offset of each line, and one past the end.
    """

    name: str
    base: Path
    lines: list[str]
    starts: list[int]

    @classmethod
    def of(cls, text: str, name: str, base: Path) -> Text:
        """Split a text with Unix line ends."""
        lines = text.split("\n")
        starts = [0]
        for line in lines:
            starts.append(starts[-1] + len(line) + 1)
        return cls(name, base, lines, starts)

    def location(self, start: int, end: int) -> Location:
        """The place of a span, cut off at the end of its first line."""
        line = bisect.bisect_right(self.starts, start) - 1
        stop = min(end, self.starts[line + 1] - 1)
        return Location(self.name, line + 1, start - self.starts[line] + 1, stop - start, self.lines[line])


class Written(NamedTuple):
    """A value that stands in a text."""

    text: Text
    span: Span

    def locate(self, *, key: bool) -> Location:
        """The place of its key or of the value."""
        return self.text.location(*(self.span.key if key else self.span.value))

    @property
    def base(self) -> Path:
        """The folder that a relative path in it starts from."""
        return self.text.base

    @property
    def how(self) -> How:
        """What gives it."""
        return "file"


class Given(NamedTuple):
    """A value that an override gave, with everything in it."""

    location: Location
    base: Path
    how: How

    def locate(self, *, key: bool) -> Location:
        """The override's place."""
        return self.location


Origin = Written | Given


def places(value: Any, path: TomlPath) -> Iterator[TomlPath]:
    """The path of a value and of everything in it."""
    return (place for place, _ in values(value, path))


def values(value: Any, path: TomlPath) -> Iterator[tuple[TomlPath, Any]]:
    """A value and everything in it, each with its path."""
    stack: list[tuple[TomlPath, Any]] = [(path, value)]
    while stack:
        path, value = stack.pop()
        yield path, value
        if isinstance(value, dict):
            stack += [((*path, key), item) for key, item in value.items()]
        elif isinstance(value, list):
            stack += [((*path, at), item) for at, item in enumerate(value)]


def copied(value: Any) -> Any:
    """A copy of TOML data, whose tables and lists are its own."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value
