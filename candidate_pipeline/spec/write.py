"""Writing a spec as TOML, each value with a comment that says where it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs
import tomlkit

from candidate_pipeline.spec.environment import is_placeholder
from candidate_pipeline.spec.expand import Value
from candidate_pipeline.spec.positions import TomlPath

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
#: Comments of a table stand below each other, up to this column.
_WIDEST: Final = 60


def written(data: Mapping[str, Any], values: Iterable[Value], *, comments: bool) -> str:
    """TOML text of a spec.

    Settings of a named table are written as dotted keys, so that each has a line and they keep their order.

    Args:
        data: The spec.
        values: Its values with their origins, and defaults beside them.
        comments: Whether to write the origins.
    """
    by_path: dict[TomlPath, Value] = {}
    defaults: dict[TomlPath, list[Value]] = {}
    for value in values:
        if value.how == "default":
            defaults.setdefault(value.path[:2], []).append(value)
        else:
            by_path[value.path] = value
    writer = _Writer(by_path, defaults, comments)
    writer.table((), data)
    if comments:
        writer.registered(data)
    return "\n".join(writer.lines).strip("\n") + "\n"


@attrs.define
class _Writer:
    values: Mapping[TomlPath, Value]
    defaults: Mapping[TomlPath, list[Value]]
    comments: bool
    lines: list[str] = attrs.field(factory=list)

    def table(self, path: TomlPath, table: Mapping[str, Any]) -> None:
        """A table with its header; tables down to the named ones get headers of their own."""
        deep = len(path) >= 2
        tables = {} if deep else {key: item for key, item in table.items() if isinstance(item, dict)}
        rows: list[tuple[str, str]] = []
        for key, item in table.items():
            if key not in tables:
                self._rows(rows, (*path, key), item, (key,))
        for default in self.defaults.get(path, ()) if deep else ():
            self._default(rows, default)
        if path and (rows or not tables):
            self.lines += ["", f"[{'.'.join(_key(str(part)) for part in path)}]"]
        self._lay_out(rows, "# ")
        for key, item in tables.items():
            self.table((*path, key), item)

    def registered(self, data: Mapping[str, Any]) -> None:
        """The defaults of components that are listed by their registered names, as comments."""
        for (group, name), values in self.defaults.items():
            tables = data.get(str(group))
            if not (isinstance(tables, dict) and name in tables):
                rows: list[tuple[str, str]] = []
                for value in values:
                    self._default(rows, value)
                self.lines += ["", f"# {name}, as it is listed:"]
                self._lay_out([(f"# {text.removeprefix('# ')}", note) for text, note in rows], "")

    def _lay_out(self, rows: list[tuple[str, str]], mark: str) -> None:
        widths = [len(text) for text, note in rows if note and len(text) <= _WIDEST]
        width = max(widths, default=0)
        for text, note in rows:
            self.lines.append(f"{text.ljust(width)}  {mark}{_comment(note)}" if note and self.comments else text)

    def _rows(self, rows: list[tuple[str, str]], path: TomlPath, value: Any, keys: tuple[str, ...]) -> None:
        """The lines of one value: a dotted key each, and the entries of a list of mixed origin below each other."""
        if isinstance(value, dict) and value and not is_placeholder(value):
            for key, item in value.items():
                self._rows(rows, (*path, key), item, (*keys, key))
            return
        name = ".".join(_key(key) for key in keys)
        if isinstance(value, list) and value:
            notes = [self._note((*path, at)) for at in range(len(value))]
            if self.comments and len(set(notes)) > 1:
                rows.append((f"{name} = [", ""))
                rows += [(f"    {_inline(item)},", note) for item, note in zip(value, notes, strict=True)]
                rows.append(("]", ""))
            else:
                rows.append((f"{name} = {_inline(value)}", notes[0]))
        else:
            rows.append((f"{name} = {_inline(value)}", self._note(path)))

    def _note(self, path: TomlPath) -> str:
        value = self.values.get(path)
        return "" if value is None else value.origin

    def _default(self, rows: list[tuple[str, str]], default: Value) -> None:
        name = ".".join(_key(str(part)) for part in default.path[2:])
        if default.note:
            rows.append((f"# {name}: {_comment(default.note)}", default.origin))
        else:
            rows.append((f"{name} = {_inline(default.value)}", default.origin))


def _comment(text: str) -> str:
    """A text as a TOML comment can hold it."""
    return re.sub(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]", "?", text)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _inline(name)


def _inline(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        pairs = ", ".join(f"{_key(key)} = {_inline(item)}" for key, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list):
        return f"[{', '.join(_inline(item) for item in value)}]"
    return str(tomlkit.item(value).as_string())
