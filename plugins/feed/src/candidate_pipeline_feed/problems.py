"""What can be wrong with tables, found all at once and told in full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.actions import CONTINUOUS, EVENT_ACTIONS
from candidate_pipeline_feed.schema import ID_COLUMN, MAX_TEXT_CHARS, TABLES, ColumnSpec, TableSpec

Parts = Mapping[str, tuple[NDArray[Any], NDArray[np.bool_]]]
"""Values and validity of the columns of one table that could be read."""

# The first and last moment a timestamp may name, in ms: 1800 and 2200. Outside, somebody mixed up units.
_FIRST_MS = int(np.datetime64("1800-01-01", "ms").astype(np.int64))
_LAST_MS = int(np.datetime64("2200-01-01", "ms").astype(np.int64))
_SHOWN_CHARS = 60


def shown(value: object) -> str:
    """A value as it is printed in a message: short, on one line."""
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


@attrs.frozen
class Problem:
    """One thing that is wrong.

    Args:
        table: Name of the table.
        column: Name of the column, or "" where the whole file is at fault.
        message: What is wrong and what to do about it.
        rows: How many rows show it; 0 where that makes no sense.
        total: Rows of the table.
        example: An offending value, printed; "" for none.
        row: Row of the example, counted from 0; -1 for none.
    """

    table: str
    column: str
    message: str
    rows: int = 0
    total: int = 0
    example: str = ""
    row: int = -1

    def __str__(self) -> str:
        where = f"{self.table}.{self.column}" if self.column else f"{self.table}.parquet"
        text = f"{where}: {self.message}"
        if self.rows:
            text += f" ({self.rows:,} of {self.total:,} rows"
            text += f"; for example {self.example} in row {self.row}" if self.row >= 0 else ""
            text += ")"
        return text


class InvalidTablesError(DataError):
    """The tables break the format; `problems` lists how, `where` says in which place."""

    def __init__(self, where: str, problems: tuple[Problem, ...]) -> None:
        self.where = where
        self.problems = problems
        count = f"{len(problems)} problem" + ("s" if len(problems) != 1 else "")
        listed = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"{where}: {count} with the data\n{listed}\nThe columns are described in docs/data-format.md.")


def rows_problem(
    spec: TableSpec, column: str, bad: NDArray[np.bool_], values: NDArray[Any], message: str
) -> Iterator[Problem]:
    """A problem for the rows marked in `bad`, bool [rows], if any; `values` [rows] holds the example."""
    count = int(np.count_nonzero(bad))
    if count:
        row = int(np.argmax(bad))
        yield Problem(spec.name, column, message, count, len(bad), shown(values[row]), row)


def column_problems(
    spec: TableSpec, column: ColumnSpec, values: NDArray[Any], valid: NDArray[np.bool_]
) -> Iterator[Problem]:
    """What is wrong within one column of values and validity, both of shape [rows]."""
    name = column.name
    if not column.nullable:
        nulls = np.full(len(valid), None, dtype=object)
        yield from rows_problem(spec, name, ~valid, nulls, "null where a value is needed")
    if column.is_id:
        yield from rows_problem(spec, name, valid & (values == 0), values, "0 is not an id")
    if column.type == "timestamp":
        bad = valid & ((values < _FIRST_MS) | (values > _LAST_MS))
        stamps = values.astype("datetime64[ms]")
        yield from rows_problem(spec, name, bad, stamps, "a time outside 1800 to 2200; is its unit right?")
    if column.type == "text":
        bad = np.array([text is not None and len(text) > MAX_TEXT_CHARS for text in values], dtype=np.bool_)
        yield from rows_problem(spec, name, bad, values, f"a text of more than {MAX_TEXT_CHARS:,} characters")
    if column.type == "text list":
        bad = np.array([any(word is None for word in words) for words in values], dtype=np.bool_)
        yield from rows_problem(spec, name, bad, values, "a list with a null in it")
    if column.type == "float32":
        finite = np.isfinite(values)
        yield from rows_problem(spec, name, valid & ~finite, values, "not a finite number")
        valid = valid & finite
    unit = f" {column.unit}" if column.unit else ""
    if column.minimum is not None:
        low = valid & (values < column.minimum)
        yield from rows_problem(spec, name, low, values, f"below {column.minimum:g}{unit}")
    if column.maximum is not None:
        high = valid & (values > column.maximum)
        yield from rows_problem(spec, name, high, values, f"implausibly large: more than {column.maximum:,.0f}{unit}")


def _duplicate_problems(spec: TableSpec, parts: Parts) -> Iterator[Problem]:
    if not spec.unique or any(name not in parts for name in spec.unique):
        return
    columns = [parts[name][0] for name in spec.unique]
    rows = len(columns[0])
    order = np.lexsort((np.arange(rows), *reversed(columns)))
    same = np.ones(max(rows - 1, 0), dtype=np.bool_)
    for values in columns:
        same &= values[order][1:] == values[order][:-1]
    bad = np.zeros(rows, dtype=np.bool_)
    bad[order[1:]] = same
    for name in spec.unique:  # a null or unknown value is told elsewhere
        bad &= parts[name][1]
    examples = columns[0]
    if len(columns) > 1:
        examples = np.empty(rows, dtype=object)
        row = int(np.argmax(bad)) if rows else 0
        examples[row : row + 1] = [tuple(values[row].item() for values in columns)] if rows else []
    yield from rows_problem(spec, ", ".join(spec.unique), bad, examples, "repeats an earlier row; it must be unique")


def _reference_problems(spec: TableSpec, parts: Parts, all_parts: Mapping[str, Parts]) -> Iterator[Problem]:
    for column in spec.columns:
        known = all_parts.get(column.references, {}).get(ID_COLUMN.get(column.references, ""))
        if not column.references or column.name not in parts or known is None:
            continue
        values, valid = parts[column.name]
        bad = valid & (values != 0) & ~np.isin(values, known[0][known[1]])
        target = f"{column.references}.{ID_COLUMN[column.references]}"
        yield from rows_problem(spec, column.name, bad, values, f"names a row that {target} does not have")


def _value_problems(spec: TableSpec, parts: Parts) -> Iterator[Problem]:
    if "action" not in parts or "value" not in parts:
        return
    codes, known = parts["action"]
    values, valid = parts["value"]
    continuous = known & np.isin(codes, [EVENT_ACTIONS.index(name) for name in CONTINUOUS])
    actions = np.array([*EVENT_ACTIONS, None], dtype=object)[codes]
    yield from rows_problem(spec, "value", continuous & ~valid, actions, "null for an action that has an amount")
    yield from rows_problem(
        spec,
        "value",
        known & ~continuous & valid,
        values,
        "an amount for an action that has none; leave it null",
    )


def table_problems(all_parts: Mapping[str, Parts]) -> Iterator[Problem]:
    """What is wrong with tables, by table name; whatever could not be read is left out of them."""
    for name, spec in TABLES.items():
        parts = all_parts.get(name, {})
        for column in spec.columns:
            if column.name in parts:
                yield from column_problems(spec, column, *parts[column.name])
        yield from _duplicate_problems(spec, parts)
        yield from _reference_problems(spec, parts, all_parts)
        if name == "events":
            yield from _value_problems(spec, parts)
