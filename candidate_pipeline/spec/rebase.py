"""Writing the paths of a spec as its own folder would, wherever they were written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from candidate_pipeline.options import Option, is_list, is_table, optional_of, options_of, split
from candidate_pipeline.registry import Registry
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.environment import is_reference
from candidate_pipeline.spec.origins import copied
from candidate_pipeline.spec.positions import TomlPath


def options_used(registry: Registry, use: Any, group: str | int) -> dict[str, Option]:
    """The options of what a table uses; none where that cannot be loaded, which loading reports."""
    for kind in registry.kinds_of(use) if isinstance(use, str) else ():
        ref = registry.find(kind, use)
        if ref is not None and (kind == "resource") == (group == "resources"):
            try:
                return options_of(ref.load())
            except Exception:  # a plugin's module may raise anything
                return {}
    return {}


@attrs.frozen
class Rebase:
    """Copies a document's data with relative paths as its own folder would write them."""

    document: Document
    registry: Registry

    def spec(self, data: Path | None) -> tuple[dict[str, Any], set[TomlPath]]:
        """The data, and the places in it that a data directory fills."""
        plain: dict[str, Any] = copied(self.document.data)
        added: set[TomlPath] = set()
        for group in ("components", "resources"):
            tables = plain.get(group)
            for name, table in tables.items() if isinstance(tables, dict) else ():
                if not isinstance(table, dict):
                    continue
                path: TomlPath = (group, name)
                if data is None and not self._moved(table, path):
                    continue
                for option in options_used(self.registry, table.get("use"), group).values():
                    place = (*path, option.name)
                    if option.name in table:
                        table[option.name] = self._value(table[option.name], option.type, place)
                    elif option.data_dir and data is not None:
                        table[option.name] = str(Path.cwd() / data)
                        added.add(place)
        return plain, added

    def _moved(self, table: Mapping[str, Any], path: TomlPath) -> bool:
        """Whether anything in a table was written in another folder."""
        origins = self.document.origins(path, table)
        return any(origin.base != self.document.base for _, origin in origins)

    def _value(self, value: Any, hint: Any, path: TomlPath) -> Any:
        hint, _ = split(optional_of(split(hint)[0]))
        if hint is Path and isinstance(value, str):
            return self._path(value, path)
        if hint is Path and is_reference(value) and isinstance(value.get("default"), str):
            return {**value, "default": self._path(value["default"], (*path, "default"))}
        if is_list(hint) and isinstance(value, list):
            types = self._item_types(hint, len(value))
            return [self._value(item, types[at], (*path, at)) for at, item in enumerate(value)]
        if is_table(hint) and isinstance(value, dict) and len(_arguments(hint)) == 2:
            return {key: self._value(item, _arguments(hint)[1], (*path, key)) for key, item in value.items()}
        if attrs.has(hint) and isinstance(value, dict):
            inner = options_of(hint)
            return {
                key: self._value(item, inner[key].type, (*path, key)) if key in inner else item
                for key, item in value.items()
            }
        return value

    def _item_types(self, hint: Any, count: int) -> list[Any]:
        arguments = list(_arguments(hint)) or [Any]
        if Ellipsis in arguments or len(arguments) != count:
            return [arguments[0]] * count
        return arguments

    def _path(self, text: str, path: TomlPath) -> str:
        folder = self.document.base_of(path)
        if folder == self.document.base or text.startswith("~") or Path(text).is_absolute():
            return text
        if folder.is_relative_to(self.document.base):
            folder = folder.relative_to(self.document.base)
        return str(folder / text)


def _arguments(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__args__", ())
