"""The four tables: in memory, to disk and back, and gathered into multi-hot events."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from candidate_pipeline_feed import actions
from candidate_pipeline_feed.engagements import gather
from candidate_pipeline_feed.schema import EDGE_KINDS, TABLES
from candidate_pipeline_feed.schema_doc import data_format_page
from candidate_pipeline_feed.tables import Edges, Events, Items, Tables, Users, read_tables, write_tables

ROOT = Path(__file__).resolve().parents[2]

IDS = st.integers(-(2**63), 2**63 - 1).filter(bool)
TIMES = st.integers(-5_364_662_400_000, 7_258_118_400_000)  # 1800 to 2200
TEXTS = st.text(max_size=20)
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def tables(draw: st.DrawFn) -> Tables:
    """Small valid tables with every kind of null in them."""
    user_ids = draw(st.lists(IDS, min_size=1, max_size=5, unique=True))
    item_ids = draw(st.lists(IDS, max_size=5, unique=True))
    one_user = st.sampled_from(user_ids)

    def each(values: st.SearchStrategy[Any], rows: int) -> list[Any]:
        return draw(st.lists(values, min_size=rows, max_size=rows))

    count = len(user_ids)
    users = Users.build(
        user_id=user_ids,
        name=each(TEXTS, count),
        handle=each(st.none() | TEXTS, count),
        followers_count=each(st.none() | st.integers(0, 2**62), count),
        created_at=each(st.none() | TIMES, count),
        muted_keywords=each(st.none() | st.lists(TEXTS, max_size=3), count),
    )
    count = len(item_ids)
    items = Items.build(
        item_id=item_ids,
        author_id=each(one_user, count),
        created_at=each(TIMES, count),
        text=each(TEXTS, count),
        topic=each(st.none() | TEXTS, count),
        reply_to=each(st.none() | IDS, count),
        video_duration_ms=each(st.none() | st.integers(0, 10**9), count),
        subscriber_only=each(st.none() | st.booleans(), count),
    )
    relations = draw(st.lists(st.tuples(one_user, one_user, st.sampled_from(EDGE_KINDS)), max_size=6, unique=True))
    edges = Edges.build(
        src=[src for src, _dst, _kind in relations],
        dst=[dst for _src, dst, _kind in relations],
        kind=[kind for _src, _dst, kind in relations],
        created_at=each(st.none() | TIMES, len(relations)),
    )
    rows = draw(st.integers(0, 12)) if item_ids else 0
    names = each(st.sampled_from(actions.EVENT_ACTIONS), rows)
    amount = st.floats(0, 1000, width=32)
    events = Events.build(
        user_id=each(one_user, rows),
        item_id=each(st.sampled_from(item_ids or [1]), rows),
        time=each(TIMES, rows),
        action=names,
        value=[draw(amount) if name in actions.CONTINUOUS else None for name in names],
    )
    return Tables(users, items, edges, events)


@QUICK
@given(made=tables())
def test_reading_gives_back_what_was_written(made: Tables, tmp_path: Path) -> None:
    """Expect any valid tables to come back equal, nulls and order included."""
    write_tables(tmp_path, made)
    assert read_tables(tmp_path).equals(made)


@QUICK
@given(made=tables())
def test_the_same_tables_give_the_same_bytes(made: Tables, tmp_path: Path) -> None:
    """Expect two writes of the same tables to agree in every byte."""
    write_tables(tmp_path / "a", made)
    write_tables(tmp_path / "b", made)
    for spec in TABLES.values():
        assert (tmp_path / "a" / spec.file_name).read_bytes() == (tmp_path / "b" / spec.file_name).read_bytes()


def test_columns_are_read_only(tmp_path: Path) -> None:
    """Expect a column that was read to refuse changes, since everybody shares it."""
    users = Users.build(user_id=[1], name=["a"])
    write_tables(tmp_path, Tables(users, Items.build(**_none(Items)), _no_edges(), Events.build(**_none(Events))))
    with pytest.raises(ValueError, match="read-only"):
        read_tables(tmp_path).users.user_id[0] = 2


def test_columns_that_are_not_required_may_be_missing(tmp_path: Path) -> None:
    """Expect files with only the required columns to read, with nulls in the others and extra columns named."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    stamp = pa.timestamp("us", "UTC")
    files = {
        "users": pa.table({"user_id": pa.array([7], pa.uint32()), "name": ["g"], "shoe_size": [46]}),
        "items": pa.table(
            {
                "item_id": pa.array([2**63 + 5], pa.uint64()),
                "author_id": [7],
                "created_at": pa.array([1_234_567], stamp),
                "text": pa.array(["t"], pa.large_string()),
                "topic": pa.nulls(1),
            }
        ),
        "edges": pa.table({"src": [7], "dst": [7], "kind": pa.array(["mute"]).dictionary_encode()}),
        "events": pa.table(
            {
                "user_id": [7],
                "item_id": pa.array([2**63 + 5], pa.uint64()),
                "time": pa.array([1], pa.timestamp("s", "UTC")),
                "action": ["reply"],
            }
        ),
    }
    for name, table in files.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    found = read_tables(tmp_path)
    assert found.ignored == {"users": ("shoe_size",)}
    assert found.items.item_id[0] == 2**63 + 5 - 2**64  # the bits are kept
    assert (found.items.created_at[0], found.events.time[0]) == (1234, 1000)
    assert not found.items.is_valid("reply_to").any()
    assert found.items.topic[0] is None
    assert found.users.muted_keywords[0] == ()
    assert found.edges.kind[0] == EDGE_KINDS.index("mute")


def test_a_table_needs_its_required_columns_in_one_length() -> None:
    """Expect building a table to say which column is missing, unknown, or of another length."""
    with pytest.raises(TypeError, match="users needs a column name"):
        Users.build(user_id=[1])
    with pytest.raises(TypeError, match="users has no column nmae"):
        Users.build(user_id=[1], nmae=["a"])
    with pytest.raises(ValueError, match="columns differ in length"):
        Users.build(user_id=[1], name=["a", "b"])


def test_rows_of_one_moment_are_one_multi_hot_event() -> None:
    """Expect rows with the same person, post and time to become one row, ordered by time and then by the file."""
    events = Events.build(
        user_id=[1, 2, 1, 1, 1],
        item_id=[9, 9, 9, 8, 9],
        time=[50, 50, 50, 50, 10],
        action=["impression", "reply", "favorite", "click", "dwell_time"],
        value=[None, None, None, None, 2.5],
    )
    log = gather(events, ("favorite", "reply", "click"))
    assert list(zip(log.user_id, log.item_id, log.time, strict=True)) == [
        (1, 9, 10),
        (1, 9, 50),
        (2, 9, 50),
        (1, 8, 50),
    ]
    np.testing.assert_array_equal(log.actions, [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(log.seconds[:, 0], [2.5, 0, 0, 0])
    np.testing.assert_array_equal(log.impression, [False, True, False, False])


@QUICK
@given(made=tables())
def test_gathering_keeps_every_action_once(made: Tables) -> None:
    """Expect as many ones as there are distinct (person, post, time, discrete action) rows, and times in order."""
    events = made.events
    log = gather(events)
    discrete = events.action < len(actions.DISCRETE)
    rows = np.stack([events.user_id, events.item_id, events.time, events.action.astype(np.int64)])[:, discrete]
    assert log.actions.sum() == np.unique(rows, axis=1).shape[1]
    assert (np.diff(log.time) >= 0).all()


def test_gathering_refuses_labels_that_are_not_discrete() -> None:
    """Expect an amount asked for as a label to be refused by name."""
    with pytest.raises(ValueError, match="dwell_time: not a discrete action"):
        gather(Events.build(**_none(Events)), ("favorite", "dwell_time"))


def test_the_first_heads_are_those_of_the_runners() -> None:
    """Expect the 18 heads of the published runners first, in their order, and no name twice."""
    assert actions.DISCRETE[:18] == actions.RUNNER_DISCRETE
    assert (actions.DISCRETE[0], actions.DISCRETE[10], actions.DISCRETE[17]) == ("favorite", "dwell", "report")
    assert len(set(actions.EVENT_ACTIONS)) == len(actions.EVENT_ACTIONS)
    assert set(actions.DISCRETE) >= actions.NEGATIVE


def test_the_page_on_the_format_is_up_to_date() -> None:
    """Expect the committed page to be what the schema says."""
    assert (ROOT / "docs" / "data-format.md").read_text(encoding="utf-8") == data_format_page()


def test_importing_the_tables_loads_no_pyarrow() -> None:
    """Expect the modules of the format to import without pyarrow, which only reading and writing need."""
    code = (
        "import sys, candidate_pipeline_feed.tables, candidate_pipeline_feed.datadir, candidate_pipeline_feed.world, "
        "candidate_pipeline_feed.movielens, candidate_pipeline_feed.commands_data; "
        "sys.exit('pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _none(table: type[Any]) -> dict[str, list[Any]]:
    return {column.name: [] for column in table.spec.columns}


def _no_edges() -> Edges:
    return Edges.build(**_none(Edges))
