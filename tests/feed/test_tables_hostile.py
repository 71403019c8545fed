"""Bad files: every mistake is told with table, column, number of rows and an example, all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed import reading
from candidate_pipeline_feed.tables import InvalidTablesError, Users, read_tables, write_tables
from candidate_pipeline_feed.writing import to_arrow

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

UTC = pa.timestamp("ms", "UTC")
Change = Callable[[dict[str, dict[str, Any]]], object]


def _valid() -> dict[str, dict[str, Any]]:
    return {
        "users": {"user_id": [1, 2, 3], "name": ["a", "b", "c"]},
        "items": {
            "item_id": [10, 11],
            "author_id": [1, 2],
            "created_at": pa.array([1, 2], UTC),
            "text": ["x", "y"],
        },
        "edges": {"src": [1, 2], "dst": [2, 3], "kind": ["follow", "block"]},
        "events": {
            "user_id": [1, 2],
            "item_id": [10, 11],
            "time": pa.array([5, 6], UTC),
            "action": ["favorite", "dwell_time"],
            "value": pa.array([None, 2.0], pa.float32()),
        },
    }


def _written(directory: Path, columns: dict[str, dict[str, Any]]) -> Path:
    for name, table in columns.items():
        pq.write_table(pa.table(table), directory / f"{name}.parquet")
    return directory


def _set(table: str, column: str, values: Any) -> Change:
    def change(columns: dict[str, dict[str, Any]]) -> None:
        columns[table][column] = values

    return change


CASES: dict[str, tuple[Change, str]] = {
    "missing column": (
        lambda columns: columns["users"].pop("name"),
        r"users\.name: a required column is missing; the file has user_id",
    ),
    "float ids": (
        _set("users", "user_id", [1.0, 2.0, 3.0]),
        r"users\.user_id: wanted a 64-bit integer, found double; a column with nulls must stay an integer",
    ),
    "text ids": (_set("items", "author_id", ["1", "2"]), r"items\.author_id: wanted a 64-bit integer, found string"),
    "number as text": (_set("items", "text", [1, 2]), r"items\.text: wanted text, found int64"),
    "naive time": (
        _set("events", "time", pa.array([5, 6], pa.timestamp("ms"))),
        r"events\.time: wanted a timestamp with time zone UTC, found timestamp\[ms\]; it has no time zone",
    ),
    "other time zone": (
        _set("events", "time", pa.array([5, 6], pa.timestamp("ms", "Europe/Berlin"))),
        r"it is in Europe/Berlin, convert it to UTC",
    ),
    "time as integer": (_set("events", "time", [5, 6]), r"events\.time: wanted a timestamp .*, found int64"),
    "words as text": (
        _set("users", "muted_keywords", ["a", "b", "c"]),
        r"users\.muted_keywords: wanted a list of texts, found string",
    ),
    "number as flag": (_set("items", "subscriber_only", [0, 1]), r"items\.subscriber_only: wanted true or false"),
    "amount as integer": (_set("events", "value", [1, 2]), r"events\.value: wanted a floating-point number"),
    "null id": (
        _set("items", "author_id", pa.array([1, None])),
        r"items\.author_id: null where a value is needed \(1 of 2 rows; for example None in row 1\)",
    ),
    "null text": (_set("users", "name", ["a", None, None]), r"users\.name: null .* \(2 of 3 rows; .* row 1\)"),
    "null action": (_set("events", "action", ["reply", None]), r"events\.action: null where a value is needed"),
    "id zero": (_set("edges", "src", [1, 0]), r"edges\.src: 0 is not an id \(1 of 2 rows; for example 0 in row 1\)"),
    "duplicate users": (
        lambda columns: (columns["users"].update(user_id=[1, 2, 2]), columns["edges"].update(dst=[2, 1])),
        r"users\.user_id: repeats an earlier row; it must be unique \(1 of 3 rows; for example 2 in row 2\)",
    ),
    "duplicate edges": (
        lambda columns: columns["edges"].update(src=[1, 1], dst=[2, 2], kind=["mute", "mute"]),
        r"edges\.src, dst, kind: repeats .* \(1 of 2 rows; for example \(1, 2, 2\) in row 1\)",
    ),
    "unknown author": (
        _set("items", "author_id", [1, 77]),
        r"items\.author_id: names a row that users\.user_id does not have \(1 of 2 rows; for example 77 in row 1\)",
    ),
    "unknown item": (_set("events", "item_id", [10, 99]), r"events\.item_id: names a row that items\.item_id"),
    "unknown user": (_set("events", "user_id", [1, 99]), r"events\.user_id: names a row that users\.user_id"),
    "unknown friend": (_set("edges", "dst", [2, 99]), r"edges\.dst: names a row that users\.user_id .* 99 in row 1"),
    "unknown action": (
        _set("events", "action", ["like", "dwell_time"]),
        r"events\.action: not one of favorite, .* \(1 of 2 rows; for example 'like' in row 0\)",
    ),
    "unknown kind": (
        _set("edges", "kind", ["follow", "hate"]),
        r"edges\.kind: not one of follow, block, mute, subscribe \(1 of 2 rows; for example 'hate' in row 1\)",
    ),
    "negative video": (
        _set("items", "video_duration_ms", [None, -5]),
        r"items\.video_duration_ms: below 0 ms \(1 of 2 rows; for example -5 in row 1\)",
    ),
    "endless video": (_set("items", "video_duration_ms", [None, 10**12]), r"implausibly large: more than"),
    "negative followers": (_set("users", "followers_count", [1, -1, 2]), r"users\.followers_count: below 0 people"),
    "negative dwell": (_set("events", "value", pa.array([None, -1.0])), r"events\.value: below 0 s"),
    "dwell is NaN": (_set("events", "value", pa.array([None, float("nan")])), r"events\.value: not a finite number"),
    "dwell too large": (_set("events", "value", pa.array([None, 1e300])), r"events\.value: not a finite number"),
    "dwell missing": (
        _set("events", "value", pa.array([None, None], pa.float32())),
        r"events\.value: null for an action that has an amount \(1 of 2 rows; for example 'dwell_time' in row 1\)",
    ),
    "amount of a like": (_set("events", "value", pa.array([1.0, 2.0])), r"an amount for an action that has none"),
    "far future": (
        _set("events", "time", pa.array([5, 10**14], UTC)),
        r"events\.time: a time outside 1800 to 2200; is its unit right\?",
    ),
    "long text": (_set("items", "text", ["x" * 100_001, "y"]), r"items\.text: a text of more than 100,000 characters"),
    "null word": (
        _set("users", "muted_keywords", [["a"], [None], []]),
        r"users\.muted_keywords: a list with a null in it .* row 1",
    ),
    "bytes as text": (_set("items", "text", pa.array([b"x", b"y"])), r"items\.text: wanted text, found binary"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_told_in_full(case: str, tmp_path: Path) -> None:
    """Expect each mistake in a file to be told with table, column, rows and an example."""
    change, message = CASES[case]
    columns = _valid()
    change(columns)
    with pytest.raises(InvalidTablesError, match=message) as caught:
        read_tables(_written(tmp_path, columns))
    assert len(caught.value.problems) == 1, str(caught.value)


def test_the_files_without_mistakes_are_read(tmp_path: Path) -> None:
    """Expect the files that the cases start from to be fine."""
    assert len(read_tables(_written(tmp_path, _valid())).events) == 2


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Expect mistakes in several tables, a missing file among them, in one error that says where the rules are."""
    columns = _valid()
    columns["users"]["user_id"] = [1, 2, 2]
    columns["items"]["author_id"] = [1, 77]
    columns["events"]["action"] = ["like", "dwell_time"]
    del columns["edges"]
    with pytest.raises(InvalidTablesError) as caught:
        read_tables(_written(tmp_path, columns))
    assert [problem.table for problem in caught.value.problems] == ["edges", "events", "users", "items"]
    text = str(caught.value)
    assert "edges.parquet: no such file" in text
    assert "4 problems" in text
    assert "docs/data-format.md" in text


@pytest.mark.parametrize(
    "content",
    [b"", b"PAR1", b"user_id,name\n1,a\n", b"PAR1" + b"\x00" * 100 + b"PAR1"],
    ids=["empty", "stub", "csv", "zeros"],
)
def test_what_is_not_parquet_is_told(content: bytes, tmp_path: Path) -> None:
    """Expect a file that is not Parquet to be named."""
    _written(tmp_path, _valid())
    (tmp_path / "users.parquet").write_bytes(content)
    with pytest.raises(InvalidTablesError, match=r"users\.parquet: cannot be read as Parquet"):
        read_tables(tmp_path)


def test_a_truncated_or_damaged_file_is_told(tmp_path: Path) -> None:
    """Expect any cut and any flipped byte to give tables or an error of ours, never another exception."""
    _written(tmp_path, _valid())
    path = tmp_path / "items.parquet"
    whole = path.read_bytes()
    for place in range(0, len(whole), 23):
        flipped = bytearray(whole)
        flipped[place] ^= 0xFF
        for content in (whole[:place], bytes(flipped)):
            path.write_bytes(content)
            with suppress(InvalidTablesError):
                read_tables(tmp_path)


def test_text_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    """Expect a text column with broken UTF-8 in it to be named as damaged."""
    columns = _valid()
    offsets = pa.array([0, 1, 2], pa.int32()).buffers()[1]
    columns["items"]["text"] = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"x\xff")])
    with pytest.raises(InvalidTablesError, match=r"items\.text: damaged"):
        read_tables(_written(tmp_path, columns))


def test_two_columns_of_one_name_are_told(tmp_path: Path) -> None:
    """Expect a column that is there twice to be refused, since nobody knows which is meant."""
    _written(tmp_path, _valid())
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array(["a"])], names=["user_id", "user_id", "name"])
    pq.write_table(table, tmp_path / "users.parquet")
    with pytest.raises(InvalidTablesError, match=r"users\.user_id: the file has 2 columns of this name"):
        read_tables(tmp_path)


def test_absurd_sizes_are_refused_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect more rows or bytes than the limits to be refused from the file's footer alone."""
    _written(tmp_path, _valid())
    monkeypatch.setattr(reading, "MAX_ROWS", 2)
    with pytest.raises(InvalidTablesError, match=r"users\.parquet: claims 3 rows, wanted 0 to the limit of 2"):
        read_tables(tmp_path)
    monkeypatch.setattr(reading, "MAX_ROWS", 100)
    monkeypatch.setattr(reading, "MAX_TABLE_BYTES", 10)
    with pytest.raises(InvalidTablesError, match=r"bytes uncompressed, more than the limit of 10"):
        read_tables(tmp_path)


def test_a_missing_directory_says_what_to_do(tmp_path: Path) -> None:
    """Expect a directory that is not there to be named, with a command that makes one."""
    with pytest.raises(DataError, match="no such data directory; `candidate-pipeline data world"):
        read_tables(tmp_path / "nowhere")


def test_bad_tables_are_not_written(tmp_path: Path) -> None:
    """Expect writing to check first and to leave nothing behind."""
    good = read_tables(_written(tmp_path, _valid()))
    import attrs

    bad = attrs.evolve(good, users=Users.build(user_id=[1, 1], name=["a", "b"]))
    with pytest.raises(InvalidTablesError, match="the tables to write"):
        write_tables(tmp_path / "out", bad)
    assert not (tmp_path / "out").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect a disk that fails half-way to leave the tables that were there, and no litter."""
    good = read_tables(_written(tmp_path, _valid()))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_args: Any, **_options: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write_tables(tmp_path, good)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_arrow_types_are_those_of_the_format(tmp_path: Path) -> None:
    """Expect what is written to have the documented Arrow types and nullability."""
    good = read_tables(_written(tmp_path, _valid()))
    events = to_arrow(good.events).schema
    assert str(events.field("time").type) == "timestamp[ms, tz=UTC]"
    assert (str(events.field("action").type), str(events.field("value").type)) == ("string", "float")
    assert not events.field("user_id").nullable
    assert events.field("value").nullable
