"""What scripted components answer, in plain Python: the part of the model that knows no time and no failures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Plain = Any
Row = dict[str, Plain]
Settings = Mapping[str, Plain]

FAILED = "failed"


class OpenQuestionError(Exception):
    """The rules do not say what comes out."""


def number(value: Plain) -> Plain:
    """A number, which scripts may write as `"NaN"`, `"inf"` or `"-inf"`."""
    return float(value) if isinstance(value, str) else value


def default_of(feature: str) -> int | None:
    """The declared default of a query feature."""
    return 0 if feature in {"q7", "q8", "q9"} else None


def reads(component: Settings) -> list[str]:
    """The features and columns that a component reads by itself."""
    names = list(component.get("reads", []))
    names += [
        rule["from"] for rule in component.get("set", {}).values() if isinstance(rule, Mapping) and "from" in rule
    ]
    keep = component.get("keep")
    if isinstance(keep, Mapping):
        if "first_per" in keep:
            names.append(keep["first_per"])
        else:
            names.append(keep["column"])
            if isinstance(keep["value"], Mapping):
                names.append(keep["value"]["from"])
    return names


def writes(component: Settings) -> list[str]:
    """The features or columns that a component writes."""
    names = [*component.get("set", {}), *component.get("writes", [])]
    for row in component.get("rows", []):
        names += [name for name in row if name != "id"]
    return list(dict.fromkeys(names))


def run_of(component: Settings) -> Settings:
    """A component's settings for the engine."""
    found: Settings = component.get("run", {})
    return found


def lay(old: Plain, new: Plain) -> Plain:
    """A new cell over an old one: a value beats all, failed beats null."""
    if new is not None and new != FAILED:
        return new
    return old if old is not None else new


def holds(name: str, wanted: Plain, features: Mapping[str, int]) -> bool:
    """Whether a condition on a feature holds."""
    value = features.get(name, default_of(name))
    if isinstance(wanted, Mapping) and "present" in wanted:
        return bool(wanted["present"] == (name in features))
    if value is None:
        return False
    if not isinstance(wanted, Mapping):
        return bool(value == wanted)
    tests: dict[str, Callable[[Plain], bool]] = {
        "is": lambda operand: value == operand,
        "not": lambda operand: value != operand,
        "in": lambda operand: value in operand,
        "min": lambda operand: value >= operand,
        "max": lambda operand: value <= operand,
    }
    return all(tests[word](operand) for word, operand in wanted.items())


def fault_shows(fault: str | None, kind: str, rows: int) -> bool:
    """Whether a component that is not late fails by itself."""
    if fault == "wrong_dtype" and kind in {"hydrator", "scorer", "selector"}:
        return rows > 0  # no rows have no dtype
    return fault is not None


# What components answer


def features_of(component: Settings, features: Mapping[str, int], rows: list[Row]) -> dict[str, int]:
    """The features that a query hydrator gives."""
    given = {}
    for name, rule in component.get("set", {}).items():
        if isinstance(rule, Mapping):
            given[name] = formula(rule, features.get(rule["from"], default_of(rule["from"])))
        elif rule is not None:
            given[name] = rule
    return given


def rows_of(component: Settings, features: Mapping[str, int], rows: list[Row]) -> list[Row]:
    """The rows of a source; a column that one row has, all have."""
    given = component.get("rows", [])
    names = {name for row in given for name in row}
    return [{name: number(row.get(name)) for name in names} for row in given]


def cells_of(component: Settings, features: Mapping[str, int], rows: list[Row]) -> dict[str, list[Plain]]:
    """The cells that a hydrator or scorer gives, by column."""
    given: dict[str, list[Plain]] = {}
    for name, rule in component.get("set", {}).items():
        given[name] = [number(cell_of(rule, features, row)) for row in rows]
    return given


def cell_of(rule: Plain, features: Mapping[str, int], row: Row) -> Plain:
    """The cell that a rule gives to a row."""
    if not isinstance(rule, Mapping):
        return rule
    if "cells" in rule:
        return rule["cells"].get(str(row["id"]))
    origin = rule["from"]
    return formula(rule, features.get(origin, default_of(origin)) if origin[0] == "q" else row.get(origin))


def formula(rule: Settings, value: Plain) -> Plain:
    """A number, multiplied and added to; nothing comes of nothing."""
    if value is None or value == FAILED:
        return None
    return number(value) * rule.get("mul", 1) + rule.get("add", 0)


def mask_of(component: Settings, features: Mapping[str, int], rows: list[Row]) -> list[bool]:
    """Which rows a filter keeps."""
    keep = component.get("keep", True)
    if isinstance(keep, bool):
        return [keep for _ in rows]
    if "first_per" in keep:
        seen = set()
        mask = []
        for row in rows:
            cell = row.get(keep["first_per"])
            mask.append(cell is None or cell == FAILED or cell not in seen)
            seen.add(cell)
        return mask
    wanted = keep["value"]
    if isinstance(wanted, Mapping):
        wanted = features.get(wanted["from"], default_of(wanted["from"]))
    return [passes(row.get(keep["column"]), keep["op"], number(wanted), keep.get("null", "keep")) for row in rows]


def passes(cell: Plain, op: str, wanted: Plain, null: str) -> bool:
    """Whether a cell passes a filter."""
    if cell is None or cell == FAILED:
        return null == "keep"
    tests: dict[str, bool] = {
        "<": cell < wanted,
        "<=": cell <= wanted,
        ">": cell > wanted,
        ">=": cell >= wanted,
        "==": cell == wanted,
        "!=": cell != wanted,
    }
    return tests[op]


def places_of(strict: bool, component: Settings, rows: list[Row]) -> dict[str, list[int]]:
    """The rows that a selector chooses, and the order it sees all rows in."""

    def place(at: int) -> tuple[int, float]:
        score = rows[at].get("score")
        if not strict:
            return 0, math.inf if score is None else -score
        if score is None or score == FAILED:
            return 1, 0.0
        return (2, 0.0) if math.isnan(score) else (0, -score)

    scores = [-math.inf if row.get("score") in {None, FAILED} else row["score"] for row in rows]
    if not strict and any(math.isnan(score) for score in scores):
        if len({score for score in scores if not math.isnan(score)}) > 1:
            raise OpenQuestionError  # equal to the one and to the other, which differ
        order = list(range(len(rows)))
    else:
        order = sorted(range(len(rows)), key=place)
    return {"order": order, "chosen": order[: component.get("size")]}


ANSWERS: dict[str, Any] = {
    "query_hydrator": features_of,
    "source": rows_of,
    "hydrator": cells_of,
    "scorer": cells_of,
    "filter": mask_of,
    "side_effect": lambda component, features, rows: True,
}


def plain(found: Plain) -> Plain:
    """An outcome as `run_script` writes it: no infinities, and one name to be blamed."""
    if isinstance(found, float) and not math.isfinite(found):
        return "NaN" if math.isnan(found) else "inf" if found > 0 else "-inf"
    if isinstance(found, list):
        return [plain(entry) for entry in found]
    if isinstance(found, dict):
        return {
            name: entry[0] if name == FAILED and isinstance(entry, list) else plain(entry)
            for name, entry in found.items()
        }
    return found
