"""Where every key and value of a TOML text stands.

`tomllib` forgets positions. This scanner reads only texts that `tomllib` has accepted, so it may trust the grammar
(TOML 1.0) and merely has to keep count.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final

import attrs

#: Keys and list indices from the top of the document to a value.
TomlPath = tuple[str | int, ...]

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_BARE_VALUE: Final = re.compile(r"[^,\]}\n#]+")
_STRING: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\])*"|\'[^\']*\'',
    re.DOTALL,
)


@attrs.frozen
class Span:
    """Offsets into the text: of the key (equal for list items) and of the value."""

    key: tuple[int, int]
    value: tuple[int, int]


def scan(text: str) -> dict[TomlPath, Span]:
    """The span of every path in a valid TOML text with Unix line ends."""
    return _Scanner(text).run()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.spans: dict[TomlPath, Span] = {}
        self.list_sizes: dict[TomlPath, int] = {}

    def run(self) -> dict[TomlPath, Span]:
        table: TomlPath = ()
        self._skip(_BLANK)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)
        return self.spans

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()

    def _header(self) -> TomlPath:
        many = self.text.startswith("[[", self.at)
        start = self.at
        self.at += 2 if many else 1
        keys = self._dotted_key()
        self._skip(_SPACE)
        self.at += 2 if many else 1
        path: TomlPath = ()
        for place, (name, key_span) in enumerate(keys):
            path = (*path, name)
            span = Span(key_span, (start, self.at))
            last = place == len(keys) - 1
            if many and last:
                self.list_sizes[path] = self.list_sizes.get(path, 0) + 1
            if last and not many:
                self.spans[path] = span  # a table's own header, even where that of a table inside it came first
            self.spans.setdefault(path, span)
            if path in self.list_sizes:
                path = (*path, self.list_sizes[path] - 1)
                self.spans.setdefault(path, Span(key_span, (start, self.at)))
        return path

    def _pair(self, table: TomlPath) -> None:
        keys = self._dotted_key()
        self._skip(_SPACE)
        self.at += 1  # the equals sign
        self._skip(_SPACE)
        start = self.at
        path = (*table, *(name for name, _ in keys))
        self._value(path)
        for end in range(len(table) + 1, len(path) + 1):
            self.spans.setdefault(path[:end], Span(keys[end - len(table) - 1][1], (start, self.at)))

    def _dotted_key(self) -> list[tuple[str, tuple[int, int]]]:
        keys = []
        while True:
            self._skip(_SPACE)
            start = self.at
            match = _STRING.match(self.text, start) or _BARE_KEY.match(self.text, start)
            if match is None:  # cannot happen in a text that tomllib accepted
                raise ValueError(f"no key at offset {start}")
            self.at = match.end()
            raw = match.group()
            name = tomllib.loads(f"key = {raw}")["key"] if raw[0] in "\"'" else raw
            keys.append((name, (start, self.at)))
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return keys
            self.at += 1

    def _value(self, path: TomlPath) -> None:
        opener = self.text[self.at]
        if opener in "\"'":
            self._skip(_STRING)
        elif opener == "[":
            self._items(path)
        elif opener == "{":
            self._inline_table(path)
        else:
            match = _BARE_VALUE.match(self.text, self.at)
            if match is not None:
                self.at = self.at + len(match.group().rstrip())

    def _items(self, path: TomlPath) -> None:
        self.at += 1
        self._skip(_BLANK)
        count = 0
        while self.text[self.at] != "]":
            start = self.at
            self._value((*path, count))
            self.spans[*path, count] = Span((start, self.at), (start, self.at))
            count += 1
            self._skip(_BLANK)
            if self.text[self.at] == ",":
                self.at += 1
                self._skip(_BLANK)
        self.at += 1

    def _inline_table(self, path: TomlPath) -> None:
        self.at += 1
        self._skip(_BLANK)
        while self.text[self.at] != "}":
            self._pair(path)
            self._skip(_BLANK)
            if self.text[self.at] == ",":
                self.at += 1
                self._skip(_BLANK)
        self.at += 1
