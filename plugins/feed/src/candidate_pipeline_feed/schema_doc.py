"""Writes the page on the data format from the schema.

`python -m candidate_pipeline_feed.schema_doc > docs/data-format.md`
"""

from __future__ import annotations

import sys

from candidate_pipeline_feed.actions import ACTIONS
from candidate_pipeline_feed.datadir import DatasetInfo, dataset_toml
from candidate_pipeline_feed.schema import MAX_ROWS, MAX_TEXT_CHARS, TABLES, ColumnSpec, TableSpec
from candidate_pipeline_feed.world.generate import NOW

_TYPES = {
    "int64": ("integer (any width that fits int64)", "int64"),
    "float32": ("float", "float32"),
    "bool": ("boolean", "bool"),
    "text": ("string", "object: str or None"),
    "text list": ("list of string", "object: tuple of str"),
    "timestamp": ("timestamp, time zone UTC", "int64, ms since 1970-01-01 UTC"),
    "choice": ("string", "int16, index into the list"),
}

_INTRODUCTION = """\
<!-- Made by `python -m candidate_pipeline_feed.schema_doc`; change the schema, not this page. -->
# The data format

Four tables in, a ranked feed out. A *data directory* holds

| file | holds |
|---|---|
| `users.parquet` | people and channels |
| `items.parquet` | posts |
| `edges.parquet` | who follows, blocks, mutes and subscribes to whom |
| `events.parquet` | what people did with posts |
| `dataset.toml` | name, clock, defaults, settings |
| `models/retrieval`, `models/ranker` | trained models, once there are any |

`candidate-pipeline data check DIR` checks all of it and tells every problem at once, with table, column, number of
rows and an example. `candidate_pipeline_feed.tables.read_tables` reads the tables, `write_tables` writes them.

A *required* column must be there. A column that is not required may be left out of a file, which is the same as null
in every row; other columns are ignored, and `data check` lists them. Ids are signed 64-bit integers other than 0
(an unsigned id is reinterpreted); users and items have number spaces of their own. Timestamps carry the time zone
UTC; anything finer than a millisecond is cut off. Text has at most {text:,} characters, a table at most {rows:,} rows.
"""


def _type(column: ColumnSpec) -> str:
    return _TYPES[column.type][0]


def _meaning(column: ColumnSpec) -> str:
    text = column.doc
    if column.unit:
        text += f" Unit: {column.unit}."
    if column.references:
        text += f" Must be in `{column.references}`."
    if column.choices and len(column.choices) < 10:
        text += f" One of {', '.join(f'`{choice}`' for choice in column.choices)}."
    elif column.choices:
        text += " See the list of actions below."
    return text


def _table(spec: TableSpec) -> list[str]:
    lines = [f"## {spec.name}", "", spec.doc]
    if spec.unique:
        lines += ["", f"Unique: {', '.join(f'`{name}`' for name in spec.unique)}."]
    lines += [
        "",
        "| column | type in Parquet | in memory | required | may be null | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for column in spec.columns:
        required, nullable = ("yes" if flag else "" for flag in (column.required, column.nullable))
        memory = _TYPES[column.type][1]
        lines.append(f"| `{column.name}` | {_type(column)} | {memory} | {required} | {nullable} | {_meaning(column)} |")
    return [*lines, ""]


def data_format_page() -> str:
    """The text of `docs/data-format.md`."""
    lines = [_INTRODUCTION.format(text=MAX_TEXT_CHARS, rows=MAX_ROWS)]
    for spec in TABLES.values():
        lines += _table(spec)
    lines += [
        "## Actions",
        "",
        "What `events.action` may hold. Continuous actions carry seconds in `events.value`; all others leave it null.",
        'Negative ones say "less of this".',
        "",
        "| action | kind | negative | the person… |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{action.name}` | {action.kind} | {'yes' if action.negative else ''} | {action.doc} |" for action in ACTIONS
    ]
    example = dataset_toml(DatasetInfo("my data", NOW, {"viewer": 42}, {"components.age.max_age": "30d"}))
    lines += [
        "",
        "## dataset.toml",
        "",
        "```toml",
        example.rstrip(),
        "```",
        "",
        "- `name`: what the data is called. Required.",
        "- `now`: the clock of requests that give none, a date and time with a zone. Left out: one second after the",
        "  last event. Components see nothing at or after the clock.",
        "- `default_<parameter>`: value of a request parameter that a request does not give.",
        "- `[set]`: dotted settings, in quotes, applied to any pipeline that is run over the data; here, a longer age",
        "  limit for posts.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(data_format_page())
