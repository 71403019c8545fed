"""The source of posts by followed authors."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from candidate_pipeline import Context, compose
from candidate_pipeline.candidates import Candidates
from candidate_pipeline.errors import FailedFeatureError
from candidate_pipeline.keys import ITEM_ID, SCORE, QueryFeature
from candidate_pipeline.patches import Patch, patch
from candidate_pipeline.query import Query
from candidate_pipeline.testing import TopScore, check_component, run_component
from candidate_pipeline_feed.keys import (
    ANCESTORS,
    AUTHOR_ID,
    CONVERSATION_ID,
    CREATED_AT,
    FOLLOWS,
    REPLY_TO,
    REPOST_AUTHOR_ID,
    REPOST_OF,
    SEEN_IDS,
    VIEWER_ID,
)
from candidate_pipeline_feed.records import Edges, Events, Items, Tables, Users
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_thunder.source import ThunderSource
from candidate_pipeline_thunder.store import PostStore

NOW = dt.datetime(2026, 10, 9, 18, tzinfo=dt.UTC)
NOW_MS = int(NOW.timestamp() * 1000)


@pytest.fixture(scope="module")
def store() -> PostStore:
    """Six posts: an original, a reply, a reply to that, a repost, one not yet made, and one by a stranger."""
    items = Items.build(
        item_id=[1, 2, 3, 4, 5, 6],
        author_id=[7, 8, 7, 8, 7, 9],
        created_at=[NOW_MS - 60, NOW_MS - 50, NOW_MS - 40, NOW_MS - 30, NOW_MS + 1, NOW_MS - 10],
        text=["first", "answer", "answer to it", "", "tomorrow", "stranger"],
        reply_to=[None, 1, 2, None, None, None],
        conversation_id=[None, 1, 1, None, None, None],
        repost_of=[None, None, None, 1, None, None],
    )
    tables = Tables(
        Users.build(user_id=[7, 8, 9, 42], name=["a", "b", "c", "d"]),
        items,
        Edges.build(src=[], dst=[], kind=[]),
        Events.build(user_id=[], item_id=[], time=[], action=[]),
    )
    opened = PostStore(FeedTables.of(tables, Path()))
    opened.open()
    return opened


def query(follows: list[int], seen: list[int] | None = None, viewer: int = 42) -> Query:
    """A request at the fixed clock."""
    features: dict[Any, Any] = {VIEWER_ID: viewer, FOLLOWS: np.array(follows, np.int64)}
    features[SEEN_IDS] = np.array(seen or [], np.int64)
    return Query(now=NOW, features=features)


def test_writes_what_the_store_knows(store: PostStore) -> None:
    """Rows come newest first with author, time and links; what a post has not is null."""
    found = run_component(ThunderSource(store), query([7, 8]))
    assert found[ITEM_ID].tolist() == [4, 3, 2, 1]
    assert found[AUTHOR_ID].tolist() == [8, 7, 8, 7]
    assert found[CREATED_AT].tolist() == [NOW_MS - 30, NOW_MS - 40, NOW_MS - 50, NOW_MS - 60]
    assert found.valid(REPLY_TO).tolist() == [False, True, True, False]
    assert found[REPLY_TO].tolist() == [0, 2, 1, 0]
    assert found[ANCESTORS].tolist() == [None, (2, 1), (1,), None]
    assert found[CONVERSATION_ID].tolist() == [4, 1, 1, 1]
    assert found.valid(REPOST_OF).tolist() == [True, False, False, False]
    assert found[REPOST_OF].tolist() == [1, 0, 0, 0]
    assert found[REPOST_AUTHOR_ID].tolist() == [7, 0, 0, 0]
    assert found.valid(REPOST_AUTHOR_ID).tolist() == [True, False, False, False]


def test_seen_posts_are_left_out_on_request(store: PostStore) -> None:
    """Seen posts are excluded by default; without the option the source does not even read what was seen."""
    assert run_component(ThunderSource(store), query([7, 8], [3, 4]))[ITEM_ID].tolist() == [2, 1]
    source = ThunderSource(store, exclude_seen=False)
    assert SEEN_IDS not in source.reads
    assert run_component(source, query([7, 8], [3, 4]))[ITEM_ID].tolist() == [4, 3, 2, 1]


def test_who_follows_nobody_gets_nothing(store: PostStore) -> None:
    """An empty follow list gives an empty table with all its columns."""
    found = run_component(ThunderSource(store), query([]))
    assert len(found) == 0
    assert set(found.columns) == {ITEM_ID, *ThunderSource(store).writes}


def test_max_results(store: PostStore) -> None:
    """Of more posts than asked for the newest stay."""
    assert run_component(ThunderSource(store, max_results=2), query([7, 8]))[ITEM_ID].tolist() == [4, 3]


def test_a_failed_follow_list_raises(store: PostStore) -> None:
    """A follow list that failed raises; it is never taken for an empty one."""
    broken = Query(now=NOW, features={VIEWER_ID: 42, SEEN_IDS: np.empty(0, np.int64)}, failed={FOLLOWS: "no graph"})
    with pytest.raises(FailedFeatureError, match="no graph"):
        ThunderSource(store).fetch(broken, Context("thunder"))


def test_keeps_the_promises_of_a_source(store: PostStore) -> None:
    """The test kit's checks pass: declared writes only, inputs unchanged, the same answer twice."""
    check_component(ThunderSource(store), max_examples=30)
    check_component(ThunderSource(store, exclude_seen=False, videos_only=True), max_examples=20)


@attrs.frozen
class NewestFirst:
    """Scores a row by its time."""

    reads = (CREATED_AT,)
    writes = (SCORE,)

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Milliseconds before the request, turned around."""
        return patch(SCORE((candidates[CREATED_AT] - query.now_ms).astype(np.float32)))


def test_runs_in_a_pipeline(store: PostStore) -> None:
    """In a pipeline the rows name the source that returned them."""
    inputs: dict[str, QueryFeature[Any]] = {"viewer": VIEWER_ID, "follows": FOLLOWS, "seen": SEEN_IDS}
    app = compose(
        "feed",
        sources=[("thunder", ThunderSource(store))],
        scorers=[NewestFirst()],
        selector=TopScore(10),
        inputs=inputs,
    )
    with app:
        outcome = app["feed"].run_sync(
            now=NOW, viewer=42, follows=np.array([7, 8], np.int64), seen=np.empty(0, np.int64)
        )
    assert outcome.selected[ITEM_ID].tolist() == [4, 3, 2, 1]
    assert outcome.selected.sources(0) == ("thunder",)


def test_component_modules_are_light() -> None:
    """Importing the plugin imports no numpy, and its components neither JAX, FAISS nor pyarrow."""
    code = (
        "import sys, candidate_pipeline_thunder.plugin as p; p.candidate_pipeline_plugin(); "
        "assert 'numpy' not in sys.modules; import candidate_pipeline_thunder.source; "
        "print([name for name in ('jax', 'faiss', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
