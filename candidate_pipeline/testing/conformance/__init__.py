"""Language-neutral test vectors: requests in plain data, and what must come of them.

`pipeline.json` states the rules of a candidate pipeline as published with the x-algorithm in May 2026, one or more
vectors a rule. docs/conformance.md describes the format, so that an engine in another language can run them too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import attrs

from candidate_pipeline.testing.scripted import run_script

__all__ = ["Vector", "check_vector", "differences", "vectors"]

#: By how much numbers may differ, relative to the expected one: single precision.
TOLERANCE = 1e-6


@attrs.frozen
class Vector:
    """One rule, as a request and its outcome.

    Args:
        name: A short name, unique in the file.
        rule: The rule, in a sentence.
        script: The pipeline and the request.
        expect: What must come out; what it does not mention is not compared.
    """

    name: str
    rule: str
    script: Mapping[str, Any] = attrs.field(repr=False)
    expect: Mapping[str, Any] = attrs.field(repr=False)


def vectors() -> tuple[Vector, ...]:
    """All vectors, in the order of the rules."""
    text = resources.files(__name__).joinpath("pipeline.json").read_text(encoding="utf-8")
    return tuple(Vector(**entry) for entry in json.loads(text)["vectors"])


def check_vector(vector: Vector) -> list[str]:
    """Run a vector on this engine.

    Returns:
        What differs from what is expected, one line each; nothing if the engine conforms.
    """
    return differences(run_script(vector.script), vector.expect)


def differences(found: Mapping[str, Any], expect: Mapping[str, Any]) -> list[str]:
    """What differs between what `run_script` found and what was expected, one line each."""
    lines: list[str] = []
    if "failed" in found and "failed" not in expect:
        return [f"wanted an answer, but {found['failed'] or 'the request'} failed: {found['error']}"]
    for name, wanted in expect.items():
        if name not in found:
            lines.append(f"{name}: wanted {wanted!r}, found an outcome without it: {found!r:.200}")
        elif name in {"selected", "unselected", "retrieved", "dropped"}:
            lines += _rows(name, found[name], wanted)
        elif name == "trace":
            lines += [f"{name}: {line}" for line in _trace(found[name], wanted)]
        elif name == "calls":
            lines += [line for component, calls in wanted.items() for line in _calls(component, found[name], calls)]
        elif not _same(found[name], wanted):
            lines.append(f"{name}: wanted {wanted!r}, found {found[name]!r}")
    return lines


def _rows(name: str, found: Sequence[Mapping[str, Any]], wanted: Sequence[Any]) -> list[str]:
    ids = [row["id"] for row in found]
    wanted_ids = [row["id"] if isinstance(row, Mapping) else row for row in wanted]
    if ids != wanted_ids:
        return [f"{name}: wanted the ids {wanted_ids}, found {ids}"]
    lines = []
    for at, (row, other) in enumerate(zip(found, wanted, strict=True)):
        if isinstance(other, Mapping):
            lines += [
                f"{name}[{at}] (id {row['id']}): wanted {column} = {other.get(column)!r}, found {row.get(column)!r}"
                for column in dict.fromkeys([*other, *row])
                if not _same(row.get(column), other.get(column))
            ]
    return lines


def _trace(found: Mapping[str, Sequence[str]], wanted: Mapping[str, Any]) -> list[str]:
    lines = []
    for component, statuses in wanted.items():
        expected = [statuses] if isinstance(statuses, str) else list(statuses)
        if list(found.get(component, ())) != expected:
            lines.append(f"{component}: wanted {expected}, found {list(found.get(component, ()))}")
    return lines


def _calls(
    component: str, found: Mapping[str, Sequence[Mapping[str, Any]]], wanted: Sequence[Mapping[str, Any]]
) -> list[str]:
    calls = found.get(component)
    if calls is None or len(calls) != len(wanted):
        return [f"calls of {component}: wanted {len(wanted)}, found {calls!r}"]
    return [
        f"call {at + 1} of {component}: wanted {field} = {value!r}, found {call.get(field)!r}"
        for at, (call, other) in enumerate(zip(calls, wanted, strict=True))
        for field, value in other.items()
        if not _same(call.get(field), value)
    ]


def _same(found: Any, wanted: Any) -> bool:
    """Whether two plain values are equal, numbers within single precision."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return found.keys() == wanted.keys() and all(_same(found[name], wanted[name]) for name in wanted)
    if _is_number(found) and _is_number(wanted):
        return math.isclose(found, wanted, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(found == wanted)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
