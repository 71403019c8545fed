"""The four tables as the trainer reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from candidate_pipeline_feed.actions import DISCRETE
from candidate_pipeline_feed.evaluation.splits import make_split
from candidate_pipeline_feed.records import Edges, Events, Items, Tables, Users
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_phoenix.interactions import training_interactions

ROWS = [
    # person, post, time, action, seconds
    (1, 11, 1000, "favorite", None),
    (1, 11, 1000, "dwell_time", 4.0),
    (1, 13, 1000, "dwell", None),  # 13 passes on 11: the same encounter
    (1, 13, 1000, "dwell_time", 9.0),
    (1, 12, 2000, "impression", None),
    (2, 14, 1500, "reply", None),  # 14 passes on a post outside the table
    (2, 12, 2500, "favorite", None),
    (1, 12, 3000, "favorite", None),
    (2, 11, 4000, "favorite", None),
]


@pytest.fixture(scope="module")
def data() -> FeedTables:
    """Four posts, two of them reposts, and nine rows of events by two people."""
    columns = list(zip(*ROWS, strict=True))
    return FeedTables.of(
        Tables(
            Users.build(user_id=[1, 2, 3], name=["a", "b", "c"]),
            Items.build(
                item_id=[11, 12, 13, 14],
                author_id=[3, 3, 2, 2],
                created_at=[100, 2200, 300, 400],
                text=["x"] * 4,
                repost_of=[None, None, 11, 999],
            ),
            Edges.build(src=[], dst=[], kind=[]),
            Events.build(
                user_id=columns[0], item_id=columns[1], time=columns[2], action=columns[3], value=list(columns[4])
            ),
        ),
        Path(),
    )


def test_everything_without_a_split(data: FeedTables) -> None:
    """Encounters come in order; one on a repost counts as one on its original, and joins another of that time."""
    found = training_interactions(data)
    assert found.user_ids.tolist() == [1, 2, 1, 2, 1, 2]
    assert found.item_ids.tolist() == [11, 999, 12, 12, 12, 11]
    assert found.times.tolist() == [1000, 1500, 2000, 2500, 3000, 4000]
    assert found.action_names == ("favorite", "reply", "dwell")
    assert found.actions.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert found.dwell_seconds is not None
    assert found.dwell_seconds.tolist() == [9, 0, 0, 0, 0, 0]


def test_catalogue_holds_originals(data: FeedTables) -> None:
    """Reposts are no items; an original outside the table is one, without author and time."""
    catalogue = training_interactions(data).catalogue
    assert catalogue.item_ids.tolist() == [11, 12, 999]
    assert catalogue.author_ids.tolist() == [3, 3, 0]
    assert catalogue.created_at.tolist() == [100, 2200, 0]


def test_held_out_events_do_not_enter(data: FeedTables) -> None:
    """Nothing that a person did at or after their target is there, nor an action that happened only then."""
    split = make_split(data.events, "leave-last-out")
    found = training_interactions(data, split)
    cutoff = dict(zip(split.targets.user_id.tolist(), split.targets.time.tolist(), strict=True))
    assert cutoff
    assert all(
        time < cutoff.get(user, 2**62) for user, time in zip(found.user_ids.tolist(), found.times.tolist(), strict=True)
    )
    assert len(found) == split.info.training_events
    assert "dwell" not in found.action_names


def test_events_merge_whatever_their_order(data: FeedTables) -> None:
    """Training events are the same encounters as the tables' own, up to reposts, for every person."""
    found, events = training_interactions(data), data.events
    assert set(found.user_ids.tolist()) == set(events.user_id.tolist())
    assert len(found) == len(events) - 1
    assert found.actions.sum() == events.actions.sum()
    happened = np.flatnonzero(events.actions.any(axis=0))
    assert set(found.action_names) == {DISCRETE[column] for column in happened}


def test_time_split_leaves_later_posts_out(tiny: Any) -> None:
    """Models trained before a cut know no post that was made after it."""
    split = make_split(tiny.data.events, "time")
    cut = split.info.cutoff_ms
    assert cut is not None
    catalogue = training_interactions(tiny.data, split).catalogue
    posts = tiny.data.tables.items
    late = posts.item_id[posts.created_at >= cut]
    assert len(late)
    assert not np.isin(late, catalogue.item_ids).any()


def test_no_events_is_an_error_of_the_trainer(data: FeedTables) -> None:
    """Tables without events make empty interactions, not a crash."""
    none = Events.build(user_id=[], item_id=[], time=[], action=[])
    tables = data.tables
    empty = FeedTables.of(Tables(tables.users, tables.items, tables.edges, none), Path())
    found = training_interactions(empty)
    assert (len(found), found.action_names) == (0, ())
