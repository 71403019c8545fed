"""The pairs table on disk: what is written is read back, and what is wrong is told with column and row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder import pairs_file
from candidate_pipeline_stakeholder.pairs import NO_TIME, Pairs
from candidate_pipeline_stakeholder.pairs_file import read_pairs, write_pairs

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
UTC = pa.timestamp("ms", "UTC")
COLUMNS = ("left", "right", "outcome", "weight", "stakeholder", "rater", "time", "left_item", "right_item")
FEATURES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)


@st.composite
def pairs(draw: st.DrawFn) -> Pairs:
    """Any pairs that may be written."""
    features = draw(st.lists(FEATURES | st.sampled_from(["a.b", "a", "left.a"]), min_size=1, max_size=4, unique=True))
    rows = draw(st.integers(0, 6))

    def each(strategy: st.SearchStrategy[Any]) -> list[Any]:
        return [draw(strategy) for _ in range(rows)]

    side = st.lists(st.floats(-1e9, 1e9), min_size=len(features), max_size=len(features))
    ids = st.integers(-(2**63), 2**63 - 1)
    with_items = draw(st.booleans())
    return Pairs.of(
        features,
        np.array(each(side)).reshape(rows, len(features)),
        np.array(each(side)).reshape(rows, len(features)),
        each(st.sampled_from([-1, 0, 1])),
        weight=each(st.floats(1e-6, 1e9)) if draw(st.booleans()) else None,
        stakeholder=each(st.sampled_from(["user", "society", "x1"])),
        rater=each(st.none() | st.sampled_from(["ann", "bo"])),
        time=each(st.just(NO_TIME) | st.integers(-(10**12), 10**12)),
        left_item=each(ids) if with_items else None,
        right_item=each(ids) if with_items else None,
    )


@QUICK
@given(made=pairs())
def test_round_trip(made: Pairs, tmp_path: Path) -> None:
    """What was written is read back to the last bit, unknown raters, times and items included."""
    path = tmp_path / "pairs.parquet"
    write_pairs(path, made)
    found = read_pairs(path)
    assert (found.features, found.stakeholders, found.raters) == (made.features, made.stakeholders, made.raters)
    for name in COLUMNS:
        before, after = getattr(made, name), getattr(found, name)
        assert (before is None) == (after is None), name
        if before is not None:
            assert before.dtype == after.dtype, name
            assert np.array_equal(before, after), name


def test_same_pairs_same_bytes(tmp_path: Path) -> None:
    """Two files of the same pairs are the same."""
    made = Pairs.of(["a"], [[1.0], [2.0]], [[0.0], [3.0]], [1, -1], rater=["x", None])
    for name in ("one", "two"):
        write_pairs(tmp_path / name, made)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def good() -> dict[str, Any]:
    """The columns of a file that is right."""
    return {
        "stakeholder": ["user", "user", "society"],
        "left.favorite": [0.1, 0.2, 0.3],
        "right.favorite": [0.3, 0.2, 0.1],
        "left.a.b": [1.0, 2.0, 3.0],
        "right.a.b": [0.0, 0.0, 0.0],
        "preferred": ["left", "right", "tie"],
        "weight": [1.0, 2.0, 0.5],
        "time": pa.array([1, None, 3], UTC),
        "rater": ["7", None, "8"],
        "left_item": [1, 2, 3],
        "right_item": [4, 5, 6],
        "what others know": ["kept", "but", "ignored"],
    }


def written(path: Path, columns: dict[str, Any]) -> Path:
    """A file of these columns."""
    pq.write_table(pa.table(columns), path)
    return path


def test_reads_what_others_write(tmp_path: Path) -> None:
    """Dictionaries, large texts, 32-bit numbers, finer times and features with a dot are read; others are ignored."""
    columns = good()
    columns["stakeholder"] = pa.array(columns["stakeholder"], pa.large_string()).dictionary_encode()
    columns["preferred"] = pa.array(columns["preferred"], pa.string()).dictionary_encode()
    columns["left.favorite"] = pa.array([0, 1, 0], pa.int8())
    columns["right.favorite"] = pa.array([0.5, 0.25, 1], pa.float32())
    columns["time"] = pa.array([1_000_001, None, 3_000_000], pa.timestamp("ns", "UTC"))
    columns["left_item"] = pa.array([2**64 - 1, 2, 3], pa.uint64())
    columns["left.a"] = [9.0, 9.0, 9.0]
    columns["right.a"] = [8.0, 8.0, 8.0]
    found = read_pairs(written(tmp_path / "p.parquet", columns))
    assert found.features == ("favorite", "a.b", "a")
    assert found.left.tolist() == [[0, 1, 9], [1, 2, 9], [0, 3, 9]]
    assert found.outcome.tolist() == [1, -1, 0]
    assert found.time.tolist() == [1, NO_TIME, 3]
    assert found.raters == ("7", "8")
    assert found.rater.tolist() == [0, -1, 1]
    assert found.left_item is not None
    assert found.left_item[0] == -1


def _set(name: str, values: Any) -> Callable[[dict[str, Any]], object]:
    def change(columns: dict[str, Any]) -> None:
        columns[name] = values

    return change


def _without(*names: str) -> Callable[[dict[str, Any]], object]:
    def change(columns: dict[str, Any]) -> None:
        for name in names:
            del columns[name]

    return change


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no stakeholder": (_without("stakeholder"), r"stakeholder: wanted text, found no such column"),
    "no preferred": (_without("preferred"), r"preferred: wanted text, found no such column"),
    "numbers as stakeholder": (_set("stakeholder", [1, 2, 3]), r"stakeholder: wanted text, found a column of int64"),
    "null stakeholder": (_set("stakeholder", ["user", None, "user"]), r"stakeholder, row 1: wanted text, found null"),
    "strange stakeholder": (_set("stakeholder", ["user", "Me", "Me"]), r"stakeholder, row 1: wanted a name .* 'Me'"),
    "unknown outcome": (
        _set("preferred", ["left", "LEFT", "tie"]),
        r"preferred, row 1: wanted left, right, tie, found 'L",
    ),
    "null outcome": (_set("preferred", ["left", "tie", None]), r"preferred, row 2: wanted text, found null"),
    "no features": (
        _without("left.favorite", "right.favorite", "left.a.b", "right.a.b"),
        r"wanted 1 to 256 columns left\.NAME, found 0 among stakeholder, preferred",
    ),
    "one side": (_without("right.favorite"), r"right\.favorite: wanted for left\.favorite, found no such column"),
    "other side": (_without("left.favorite"), r"left\.favorite: wanted for right\.favorite, found no such column"),
    "nan": (_set("left.favorite", [0.1, float("nan"), 0.2]), r"left\.favorite, row 1: wanted a number .* found nan"),
    "inf": (_set("right.favorite", [0.1, 0.1, float("inf")]), r"right\.favorite, row 2: wanted .* found inf"),
    "huge": (_set("right.favorite", [0.1, 0.1, 1e300]), r"right\.favorite, row 2: wanted a number from -1e\+09"),
    "null feature": (_set("left.favorite", [0.1, None, 0.2]), r"left\.favorite, row 1: wanted a number .* found null"),
    "text feature": (_set("left.favorite", ["a", "b", "c"]), r"left\.favorite: wanted a number .* a column of string"),
    "nested feature": (_set("left.favorite", [[0.1], [], []]), r"left\.favorite: wanted a number .* of list"),
    "decimal feature": (
        _set("left.favorite", pa.array([1, 2, 3], pa.decimal128(5))),
        r"left\.favorite: wanted a number .* found a column of decimal128",
    ),
    "weight 0": (_set("weight", [1.0, 0.0, 1.0]), r"weight, row 1: wanted a number over 0 and at most 1e\+09, found 0"),
    "negative weight": (_set("weight", [1.0, 1.0, -2.0]), r"weight, row 2: wanted a number over 0 .* found -2"),
    "naive time": (
        _set("time", pa.array([1, 2, 3], pa.timestamp("ms"))),
        r"time: wanted a timestamp with time zone UTC",
    ),
    "local time": (_set("time", pa.array([1, 2, 3], pa.timestamp("ms", "Asia/Tokyo"))), r"time: wanted a timestamp"),
    "time far off": (_set("time", pa.array([1, 2, 10**15], UTC)), r"time, row 2: wanted a time from 1800 to 2200"),
    "empty rater": (_set("rater", ["", "a", "b"]), r"rater, row 0: wanted 1 to 200 characters, found 0"),
    "long rater": (_set("rater", ["a", "b" * 201, "c"]), r"rater, row 1: wanted 1 to 200 characters, found 201"),
    "one item": (_without("right_item"), r"left_item, right_item: wanted both columns or neither"),
    "float item": (
        _set("left_item", [1.0, 2.0, 3.0]),
        r"left_item: wanted an id, a 64-bit integer, found a column of d",
    ),
    "null item": (_set("left_item", [1, None, 3]), r"left_item, row 1: wanted an id"),
    "strange feature name": (
        lambda columns: columns.update({"left. x": [1.0] * 3, "right. x": [1.0] * 3}),
        r"left\. x: wanted a printable name",
    ),
    "no feature name": (
        lambda columns: columns.update({"left.": [1.0] * 3, "right.": [1.0] * 3}),
        r"left\.: wanted a printable name",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_file(name: str, tmp_path: Path) -> None:
    """Each mistake is told with the file, the column, the row, what was wanted and what was found."""
    change, told = WRONG[name]
    columns = good()
    change(columns)
    path = written(tmp_path / "p.parquet", columns)
    with pytest.raises(DataError, match=told) as caught:
        read_pairs(path)
    assert str(caught.value).startswith(f"{path}: not a table of pairs\n")


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    """Mistakes in several columns are told together."""
    columns = good()
    columns |= {"weight": [1.0, -1.0, 1.0], "preferred": ["left", "x", "y"], "left.favorite": [0.1, None, 0.2]}
    with pytest.raises(DataError) as caught:
        read_pairs(written(tmp_path / "p.parquet", columns))
    assert str(caught.value).count("\n  - ") == 4


def test_a_column_that_stands_twice(tmp_path: Path) -> None:
    """Two columns of one name are refused: nobody knows which is meant."""
    columns = good()
    names = [*columns, "weight"]
    table = pa.Table.from_arrays([pa.array(columns[name]) for name in names], names=names)
    pq.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"weight: wanted a number .* found 2 columns of that name"):
        read_pairs(tmp_path / "p.parquet")
    doubled = pa.Table.from_arrays(
        [pa.array(columns[name]) for name in [*columns, "left.favorite"]], names=[*columns, "left.favorite"]
    )
    pq.write_table(doubled, tmp_path / "q.parquet")
    with pytest.raises(DataError, match=r"left\.favorite: wanted a number .* found 2 columns of that name"):
        read_pairs(tmp_path / "q.parquet")


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    """A text of broken bytes is told as damage of its column, and never reaches anybody."""
    broken = pa.array([b"user", b"\xff\xfe", b"user"], pa.binary()).view(pa.string())
    path = written(tmp_path / "p.parquet", good() | {"stakeholder": broken})
    with pytest.raises(DataError, match=r"stakeholder: damaged|cannot be read"):
        read_pairs(path)


@pytest.mark.parametrize("seed", range(12))
def test_damaged_bytes(seed: int, tmp_path: Path) -> None:
    """A file with flipped or missing bytes is read, or refused as this file's mistake."""
    path = written(tmp_path / "p.parquet", good())
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, len(content), 6):
        content[place] = rng.integers(256)
    path.write_bytes(content[: len(content) - int(rng.integers(0, 2)) * 40])
    found, refused = None, ""
    try:
        found = read_pairs(path)
    except DataError as error:
        refused = str(error)
    assert str(path) in refused if found is None else len(found) == 3


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1PAR1", b"x" * 1000, b"PAR1" + b"\xff" * 200 + b"PAR1"])
def test_no_parquet_at_all(content: bytes, tmp_path: Path) -> None:
    """What is no Parquet is refused by name."""
    path = tmp_path / "p.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"p\.parquet: cannot be read as Parquet"):
        read_pairs(path)


def test_missing_file(tmp_path: Path) -> None:
    """A missing file is told with the command that makes one."""
    with pytest.raises(DataError, match="no such file; `candidate-pipeline stakeholder pairs"):
        read_pairs(tmp_path / "p.parquet")


@pytest.mark.parametrize(
    ("limit", "value", "told"),
    [
        ("MAX_ROWS", 2, "wanted 0 to 2 rows, found a claim of 3"),
        ("MAX_BYTES", 10, "wanted at most 10 bytes"),
        ("MAX_COLUMNS", 3, "wanted at most 3 columns, found 12"),
        ("MAX_FEATURES", 1, r"wanted 1 to 1 columns left\.NAME, found 2"),
        ("MAX_STAKEHOLDERS", 1, "wanted at most 1 stakeholders, found 2"),
    ],
)
def test_limits(limit: str, value: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beyond a limit is refused, by what it claims where that suffices."""
    path = written(tmp_path / "p.parquet", good())
    monkeypatch.setattr(pairs_file, limit, value)
    with pytest.raises(DataError, match=told):
        read_pairs(path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stakeholder": "The User"}, "stakeholder: wanted a name of small letters"),
        ({"time": [1, 10**17]}, "time: row 1: wanted milliseconds of a day from 1800 to 2200"),
        ({"rater": "x" * 300}, "rater: wanted at most 200 characters"),
        ({"features": ["a\nb"]}, "feature: wanted a printable name"),
    ],
)
def test_what_a_reader_would_refuse_is_not_written(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    """Pairs that could not be read back are refused before a file is made."""
    given: dict[str, Any] = {
        "features": ["a"],
        "left": [[1.0], [2.0]],
        "right": [[0.0], [0.0]],
        "outcome": [1, -1],
    } | changes
    with pytest.raises(DataError, match=told):
        write_pairs(tmp_path / "p.parquet", Pairs.of(**given))
    assert list(tmp_path.iterdir()) == []


def test_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while writing leaves what was there, and nothing beside it."""
    path = tmp_path / "p.parquet"
    made = Pairs.of(["a"], [[1.0]], [[0.0]], [1])
    write_pairs(path, made)
    before = path.read_bytes()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_pairs(path, made)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
