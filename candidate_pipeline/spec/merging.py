"""Merging tables by the rule of `extends`: the nearer one wins, key by key, and lists can take from the base's."""

from __future__ import annotations

from typing import Any, Final

import attrs

from candidate_pipeline.spec.document import Document, describe
from candidate_pipeline.spec.environment import is_reference
from candidate_pipeline.spec.origins import Origin, copied
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import Problem, nearest

KEY: Final = "extends"
#: The list entry that stands for the base's entries, and what begins one that leaves out one of them.
REST: Final = "..."
WITHOUT: Final = "-"
#: How many values a spec may inherit in all, so that a small file cannot ask for all memory.
MAX_INHERITED: Final = 200_000
_COMPONENTS: Final = ("components", "resources")


def is_special(entry: Any) -> bool:
    """Whether a list entry refers to a base's list."""
    return isinstance(entry, str) and (entry == REST or entry.startswith(WITHOUT))


@attrs.define
class Allowance:
    """How many values may still be inherited."""

    left: int = MAX_INHERITED

    def take(self, count: int) -> bool:
        """Whether so many values may be inherited still."""
        self.left -= count
        return self.left >= 0


@attrs.define
class Merge:
    """Merges tables of a base into nearer ones.

    Args:
        near: The document with the nearer tables; origins of what they inherit are added to it.
        base: The document with the base's.
        problems: Mistakes are appended here.
        allowance: How many values may still be taken over.
        files: Whether files are merged; lists of pipelines may then still wait for the pipeline that they extend.
    """

    near: Document
    base: Document
    problems: list[Problem]
    allowance: Allowance
    files: bool

    def tables(self, near: dict[str, Any], base: dict[str, Any], at: TomlPath, base_at: TomlPath) -> dict[str, Any]:
        """The merged table, in the base's order, what is only in the nearer one last."""
        merged: dict[str, Any] = {}
        for key, value in base.items():
            here, there = (*at, key), (*base_at, key)
            merged[key] = self._value(near[key], value, here, there) if key in near else self._taken(value, here, there)
        for key, value in near.items():
            if key not in base:
                merged[key] = self._alone(value, (*at, key))
        return merged

    def _value(self, near: Any, base: Any, at: TomlPath, base_at: TomlPath) -> Any:
        if isinstance(near, dict) and isinstance(base, dict) and not is_reference(near) and not is_reference(base):
            of_component = self.files and len(at) == 2 and at[0] in _COMPONENTS
            if of_component and "use" in near and "use" in base and near["use"] != base["use"]:
                return self._alone(near, at)
            return self.tables(near, base, at, base_at)
        if isinstance(near, list) and REST in near:
            return self._list(near, base, at, base_at)
        return self._alone(near, at)

    def _taken(self, value: Any, at: TomlPath, base_at: TomlPath) -> Any:
        """A value of the base; what is beyond the allowance is left out, which is reported once."""
        origins = self.base.origins(base_at, value)
        if self.allowance.take(1 + len(origins)):
            self.near.plant(at, origins)
            return copied(value)
        if self.allowance.left + 1 + len(origins) >= 0:
            extends = (*at[:2], KEY) if at[0] == "pipelines" and not self.files else (KEY,)
            message = f"extends: what is inherited comes to more than {MAX_INHERITED} values"
            self.problems.append(self.near.problem("E108", message, extends))
        return None

    def _alone(self, value: Any, at: TomlPath) -> Any:
        """A value without a base; lists of components in it cannot refer to one."""
        if not self.files or at[0] not in _COMPONENTS:
            return value
        if isinstance(value, dict):
            return {key: self._alone(item, (*at, key)) for key, item in value.items()}
        return self._list(value, None, at, at) if isinstance(value, list) and REST in value else value

    def _list(self, near: list[Any], base: Any, at: TomlPath, base_at: TomlPath) -> list[Any]:
        """A list with the base's entries in place of `"..."`, less those that it leaves out."""
        entries: list[Any] = base if isinstance(base, list) else []
        names = [entry for entry in entries if isinstance(entry, str) and not is_special(entry)]
        waits = self.files and at[0] == "pipelines" and REST in entries
        left_out: set[str] = set()
        merged: list[tuple[Any, list[tuple[TomlPath, Origin]]]] = []
        rest: int | None = None
        for place, entry in enumerate(near):
            own = self.near.origins((*at, place), entry)
            if entry == REST and rest is None:
                rest = len(merged)
                if not isinstance(base, list):
                    found = "the base has none" if base is None else f"that of the base is {describe(base)}"
                    self._report(f"{REST!r} stands for the entries of a base's list, and {found}", (*at, place))
            elif entry == REST:
                self._report(f"{REST!r} stands twice in {at[-1]}", (*at, place), "leave one of them out")
            elif is_special(entry) and entry[1:] in names:
                left_out.add(entry[1:])
            elif is_special(entry) and not waits:
                if isinstance(base, list):
                    self._report(f"the base has no entry {entry[1:]!r}", (*at, place), nearest(entry[1:], names))
            else:
                merged.append((entry, own))
        inherited = [
            (entry, self.base.origins((*base_at, place), entry))
            for place, entry in enumerate(entries)
            if not (isinstance(entry, str) and entry in left_out)
        ]
        if not self.allowance.take(sum(len(origins) for _, origins in inherited)):
            inherited = []
        merged[rest:rest] = inherited
        origin = self.near.origins(at, None)
        self.near.forget(at, near)
        self.near.plant(at, origin)
        for place, (_, origins) in enumerate(merged):
            self.near.plant((*at, place), origins)
        return [copied(entry) for entry, _ in merged]

    def _report(self, message: str, path: TomlPath, hint: str = "leave the entry out") -> None:
        if not self.near.incomplete:  # else the base may have it
            self.problems.append(self.near.problem("E110", message, path, hint=hint))
