"""The index of posts and the retrieval source."""

from __future__ import annotations

import datetime as dt
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candidate_pipeline import Context
from candidate_pipeline.errors import DataError, FailedFeatureError
from candidate_pipeline.keys import ITEM_ID
from candidate_pipeline.query import Query
from candidate_pipeline.testing import check_component, run_component
from candidate_pipeline_feed.keys import AUTHOR_ID, CREATED_AT, HISTORY, SEEN_IDS, VIEWER_ID
from candidate_pipeline_feed.records import Items
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_phoenix.index import PostIndex
from candidate_pipeline_phoenix.keys import RETRIEVAL_SCORE
from candidate_pipeline_phoenix.retrieval import PhoenixRetrieval
from phoenix_recsys.requests import History

HOUR = dt.timedelta(hours=1)


def brute_force(tiny: Any, query: Query) -> list[int]:
    """All originals by inner product, the newer and then the larger id first among equals."""
    model, items = tiny.retrieval.served, tiny.data.tables.items
    history, known = query[HISTORY], model.action_names
    actions = np.zeros((len(history), len(known)), np.float32)
    for column, name in enumerate(known):
        label = {"dwelled": "dwell"}.get(name, name)
        if label in history.labels:
            actions[:, column] = history.actions[:, history.labels.index(label)]
    authors = items.author_id[history.item_ids - 1]
    vector = model.encode_user(query[VIEWER_ID], History(history.item_ids, authors, actions))
    originals = np.flatnonzero(~items.is_valid("repost_of"))
    scores = model.encode_items(items.item_id[originals], items.author_id[originals]) @ vector
    ranked = sorted(zip(-scores, -items.created_at[originals], -items.item_id[originals], strict=True))
    return [-int(item) for _, _, item in ranked]


def test_finds_what_brute_force_finds(tiny: Any) -> None:
    """The index returns every original in the order of exact inner products, with author, time and score."""
    query = tiny.query()
    found = run_component(PhoenixRetrieval(tiny.index), query)
    items = tiny.data.tables.items
    assert found[ITEM_ID].tolist() == brute_force(tiny, query)
    assert found[AUTHOR_ID].tolist() == items.author_id[found[ITEM_ID] - 1].tolist()
    assert found[CREATED_AT].tolist() == items.created_at[found[ITEM_ID] - 1].tolist()
    scores = found[RETRIEVAL_SCORE]
    assert (np.diff(scores) <= 0).all()
    assert (np.abs(scores) <= 1 + 1e-5).all()


def test_reposts_are_found_as_originals(tiny: Any) -> None:
    """Reposts are never results; every other post is in the index."""
    found = run_component(PhoenixRetrieval(tiny.index), tiny.query())
    assert sorted(found[ITEM_ID].tolist()) == list(range(1, 39))
    assert len(tiny.index) == 38


def test_posts_of_the_future_are_not_found(tiny: Any) -> None:
    """A post made at the request's clock is found, one made later is not, and age limits both ends inclusively."""
    now = tiny.query().now - 31 * HOUR  # when post 10 was made
    found = run_component(PhoenixRetrieval(tiny.index), tiny.query([], now=now))
    assert sorted(found[ITEM_ID].tolist()) == list(range(1, 11))
    found = run_component(PhoenixRetrieval(tiny.index, max_age=3 * HOUR), tiny.query([], now=now))
    assert sorted(found[ITEM_ID].tolist()) == [7, 8, 9, 10]
    long_ago = run_component(PhoenixRetrieval(tiny.index), tiny.query([], now=dt.datetime(1990, 1, 1, tzinfo=dt.UTC)))
    assert len(long_ago) == 0


def test_seen_posts_do_not_waste_the_top(tiny: Any) -> None:
    """Seen posts are left out before the best are counted, and seeing a repost is seeing its original."""
    query = tiny.query()
    best = brute_force(tiny, query)
    seen = [*best[:4], 12345]
    features = {**query.features, SEEN_IDS: np.array(sorted(seen), np.int64)}
    found = run_component(PhoenixRetrieval(tiny.index, max_results=5), attrs.evolve(query, features=features))
    assert found[ITEM_ID].tolist() == best[4:9]
    features = {**query.features, SEEN_IDS: np.array([tiny.repost], np.int64)}
    found = run_component(PhoenixRetrieval(tiny.index), attrs.evolve(query, features=features))
    assert found[ITEM_ID].tolist() == [item for item in best if item != tiny.original]
    source = PhoenixRetrieval(tiny.index, exclude_seen=False)
    assert SEEN_IDS not in source.reads
    assert len(run_component(source, attrs.evolve(query, features=features))) == 38


@settings(max_examples=60, deadline=None)
@given(
    levels=st.lists(st.integers(-2, 2), min_size=1, max_size=40),
    count=st.integers(1, 45),
    excluded=st.sets(st.integers(1, 45), max_size=20),
    hours=st.integers(0, 45),
)
def test_search_equals_sorting(levels: list[int], count: int, excluded: set[int], hours: int) -> None:
    """Among vectors with many equal scores, the search returns exactly what sorting and cutting would."""
    ids = np.arange(1, len(levels) + 1)
    created = 1_000 * (ids // 3)
    index = index_of(np.array(levels, np.float32)[:, None], ids, created)
    now, oldest = 1_000 * (len(levels) // 4 + 1), 1_000 * (hours // 10)
    found = index.search(
        np.ones(1, np.float32), count, now_ms=now, oldest_ms=oldest, exclude=np.array(sorted(excluded), np.int64)
    )
    allowed = [at for at in range(len(levels)) if oldest <= created[at] <= now and ids[at] not in excluded]
    allowed.sort(key=lambda at: (-levels[at], -created[at], -ids[at]))
    assert found.item_ids.tolist() == [int(ids[at]) for at in allowed[:count]]
    assert found.scores.tolist() == [levels[at] for at in allowed[:count]]


def index_of(vectors: Any, ids: Any, created: Any) -> PostIndex:
    """An index over given vectors, in any order."""

    class Towers:
        def encode_items(self, wanted: Any, authors: Any) -> Any:
            return vectors[wanted - 1]

    @attrs.frozen
    class Model:
        served: Any

    items = Items.build(item_id=ids, author_id=ids, created_at=created, text=[""] * len(ids))

    @attrs.frozen
    class JustItems:
        items: Any

    data: Any = FeedTables()
    data._tables = JustItems(items)
    model: Any = Model(Towers())
    index = PostIndex(data, model)
    index.open()
    return index


def test_an_empty_index(tiny: Any) -> None:
    """Without a single post the search returns nothing instead of failing."""
    none = np.empty(0, np.int64)
    index = index_of(np.empty((0, 3), np.float32), none, none)
    assert len(index) == 0
    found = index.search(np.ones(3, np.float32), 10, now_ms=5, exclude=np.array([1, 2]))
    assert len(found) == 0


def test_history_moves_the_results(tiny: Any) -> None:
    """Another history, or another viewer, gives another order."""
    source = PhoenixRetrieval(tiny.index)
    orders = [
        tuple(run_component(source, query)[ITEM_ID].tolist())
        for query in (tiny.query([1, 2, 5]), tiny.query([30, 31]), tiny.query([1, 2, 5], viewer=102))
    ]
    assert len(set(orders)) == 3


@pytest.mark.parametrize("viewer", [0, -1, 2**63 - 1, -(2**63)])
def test_strange_viewers(tiny: Any, viewer: int) -> None:
    """Ids at the ends of 64 bits, and nobody at all, get an answer."""
    assert len(run_component(PhoenixRetrieval(tiny.index), tiny.query([], viewer=viewer))) == 38


def test_a_viewer_vector_that_is_not_finite(tiny: Any) -> None:
    """A user tower that gives NaN is an error, not a random answer."""

    class Broken:
        action_names = ("favorite",)

        def encode_user(self, viewer: int, history: Any) -> Any:
            return np.full(4, np.nan, np.float32)

    model: Any = attrs.evolve(tiny.retrieval)
    model._served = Broken()
    index = attrs.evolve(tiny.index, model=model)
    with pytest.raises(DataError, match=r"viewer 101 a vector that is not finite.*phoenix train --data"):
        PhoenixRetrieval(index).fetch(tiny.query(), Context("retrieval"))


def test_a_failed_history_raises(tiny: Any) -> None:
    """A history that failed raises; it is never taken for an empty one."""
    query = tiny.query()
    features = {key: value for key, value in query.features.items() if key is not HISTORY}
    with pytest.raises(FailedFeatureError, match="lost"):
        PhoenixRetrieval(tiny.index).fetch(
            Query(now=query.now, features=features, failed={HISTORY: "lost"}), Context("retrieval")
        )


def test_keeps_the_promises_of_a_source(tiny: Any) -> None:
    """The test kit's checks pass: declared writes only, inputs unchanged, the same answer twice."""
    histories = st.lists(st.integers(1, 45), max_size=12).map(tiny.history)
    check_component(PhoenixRetrieval(tiny.index, max_results=7), values={HISTORY: histories}, max_examples=25)
