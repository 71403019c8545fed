"""Query hydrators: the viewer, their relations, and what they did and saw."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from candidate_pipeline.components import Context
from candidate_pipeline.errors import RequestError
from candidate_pipeline.query import Query
from candidate_pipeline.testing import check_component
from candidate_pipeline_feed.graph import SocialGraph
from candidate_pipeline_feed.history import ViewerHistory
from candidate_pipeline_feed.keys import (
    BLOCKED_BY,
    BLOCKS,
    FOLLOWED_BY,
    FOLLOWS,
    HISTORY,
    MUTED_KEYWORDS,
    MUTES,
    SEEN_IDS,
    SUBSCRIPTIONS,
    VIEWER_FOLLOWERS,
    VIEWER_ID,
)
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_feed.tables import Edges, Events, Items, Tables, Users
from candidate_pipeline_feed.viewer import Viewer

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
NOW_MS = int(NOW.timestamp() * 1000)
CTX = Context("test")


@pytest.fixture(scope="module")
def data() -> FeedTables:
    """Five people, four posts."""
    users = Users.build(
        user_id=[1, 2, 3, 4, 5],
        name=["Ann", "Bo", "Cy", "Di", "Ed"],
        followers_count=[None, 77, None, 0, 4],
        muted_keywords=[["cats", "new york"], None, None, None, None],
    )
    items = Items.build(
        item_id=[10, 20, 30, 40], author_id=[2, 3, 4, 2], created_at=[0, 0, 0, 0], text=["a", "b", "c", "d"]
    )
    edges = Edges.build(
        src=[1, 1, 1, 1, 3, 4, 2, 5, 1],
        dst=[2, 3, 4, 5, 1, 1, 1, 1, 3],
        kind=["follow", "follow", "block", "mute", "block", "follow", "follow", "follow", "subscribe"],
        created_at=[0, NOW_MS, None, 5, 6, 7, None, NOW_MS + 1, 0],
    )
    events = Events.build(
        user_id=[1, 1, 1, 1, 1, 1, 2],
        item_id=[20, 10, 10, 30, 30, 40, 40],
        time=[2000, 1000, 1000, 3000, 3000, NOW_MS, 5000],
        action=["favorite", "reply", "dwell_time", "impression", "dwell_time", "favorite", "favorite"],
        value=[None, None, 7.5, None, 2.0, None, None],
    )
    return FeedTables.of(Tables(users, items, edges, events), Path("my-data"))


def query(viewer: int, now: dt.datetime = NOW) -> Query:
    """A viewer's request."""
    return Query(now=now, features={VIEWER_ID: viewer})


def features(component: Any, asked: Query) -> dict[Any, Any]:
    """What a query hydrator gives, by feature."""
    return {key: update.value for key, update in component.hydrate(asked, CTX).updates.items()}


def test_viewer_followers_from_the_table(data: FeedTables) -> None:
    """A follower count of the users table is taken as it is."""
    assert features(Viewer(data), query(2)) == {VIEWER_FOLLOWERS: 77}


def test_viewer_followers_counted(data: FeedTables) -> None:
    """Without a count in the table, follows made before the request are counted."""
    assert features(Viewer(data), query(1)) == {VIEWER_FOLLOWERS: 2}
    assert features(Viewer(data), query(1, NOW + dt.timedelta(days=1))) == {VIEWER_FOLLOWERS: 3}


def test_unknown_viewer_says_who_there_is(data: FeedTables) -> None:
    """An unknown viewer is refused with the id, the data, the number of users and the nearest id."""
    with pytest.raises(RequestError) as caught:
        Viewer(data).hydrate(query(99), CTX)
    assert str(caught.value) == (
        "there is no user 99 in my-data. It has 5 users with ids from 1 to 5; the nearest is 5"
    )


def test_viewer_id_out_of_range(data: FeedTables) -> None:
    """An id beyond 64 bits is refused, not overflowed."""
    with pytest.raises(RequestError, match="signed 64-bit"):
        Viewer(data).hydrate(query(2**63), CTX)


def test_viewer_without_any_users() -> None:
    """An empty users table is named as the cause."""
    empty = Tables(
        Users.build(user_id=[], name=[]),
        Items.build(item_id=[], author_id=[], created_at=[], text=[]),
        Edges.build(src=[], dst=[], kind=[]),
        Events.build(user_id=[], item_id=[], time=[], action=[]),
    )
    data = FeedTables.of(empty, Path("nothing"))
    with pytest.raises(RequestError, match="users table is empty"):
        Viewer(data).hydrate(query(1), CTX)
    assert len(features(ViewerHistory(data), query(1))[HISTORY]) == 0
    assert features(SocialGraph(data), query(1))[MUTED_KEYWORDS] == ()


def test_graph(data: FeedTables) -> None:
    """Every relation is given, and those made at or after the request's clock are not."""
    found = features(SocialGraph(data), query(1))
    lists = {key.name: value.tolist() for key, value in found.items() if key is not MUTED_KEYWORDS}
    assert lists == {
        FOLLOWS.name: [2],
        FOLLOWED_BY.name: [2, 4],
        BLOCKS.name: [4],
        BLOCKED_BY.name: [3],
        MUTES.name: [5],
        SUBSCRIPTIONS.name: [3],
    }
    assert found[MUTED_KEYWORDS] == ("cats", "new york")


def test_graph_of_a_stranger(data: FeedTables) -> None:
    """Somebody the tables do not know has no relations and no muted words."""
    found = features(SocialGraph(data), query(1234))
    assert all(len(value) == 0 for value in found.values())


def test_history_is_strictly_before_now_and_oldest_first(data: FeedTables) -> None:
    """History holds events with an action before the request, in the order of time, multi-hot."""
    history = features(ViewerHistory(data), query(1))[HISTORY]
    assert history.item_ids.tolist() == [10, 20]
    assert history.author_ids.tolist() == [2, 3]
    assert history.times.tolist() == [1000, 2000]
    assert history.dwell_seconds.tolist() == [7.5, 0.0]
    taken = [[label for label, x in zip(history.labels, row, strict=True) if x] for row in history.actions]
    assert taken == [["reply"], ["favorite"]]


def test_seen_posts_include_those_only_shown(data: FeedTables) -> None:
    """What was only shown is seen and is no history; what is at the request's time is neither."""
    assert features(ViewerHistory(data), query(1))[SEEN_IDS].tolist() == [10, 20, 30]


def test_history_keeps_the_newest(data: FeedTables) -> None:
    """A limit cuts the oldest events and leaves the seen posts whole."""
    found = features(ViewerHistory(data, max_events=1), query(1))
    assert found[HISTORY].item_ids.tolist() == [20]
    assert found[SEEN_IDS].tolist() == [10, 20, 30]


@pytest.mark.parametrize("hydrator", [Viewer, SocialGraph, ViewerHistory])
def test_contract(data: FeedTables, hydrator: Any) -> None:
    """Each keeps what its kind promises, for any viewer there is."""
    check_component(hydrator(data), values={VIEWER_ID: st.integers(1, 5)}, max_examples=20)


def test_follower_counts_agree_with_the_edges(data: FeedTables) -> None:
    """Counting for many people at once gives what asking for each gives."""
    ids = np.array([5, 1, 99, 3, 1], np.int64)
    for before in (0, 7, 8, NOW_MS, NOW_MS + 2):
        one_by_one = [len(data.edges_to(int(user), "follow", before)) for user in ids]
        assert data.follower_counts(ids, before).tolist() == one_by_one
