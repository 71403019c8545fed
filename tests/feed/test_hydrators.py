"""Hydrators of posts: what the tables say of them, of their authors, and of the viewer's network."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.keys import ITEM_ID, Column
from candidate_pipeline.patches import patch
from candidate_pipeline.query import Query
from candidate_pipeline.testing import check_component
from candidate_pipeline_feed import keys
from candidate_pipeline_feed.hydrators import Authors, InNetwork, Items
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_feed.tables import Edges, Events, Tables, Users
from candidate_pipeline_feed.tables import Items as ItemsTable

CTX = Context("test")
NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
ORIGINAL, REPOST, REPLY, NESTED, QUOTE, LOST, QUOTE_REPOST = 10, 20, 30, 40, 50, 60, 70


@pytest.fixture(scope="module")
def data() -> FeedTables:
    """One original, and posts that repost, answer and quote it."""
    users = Users.build(
        user_id=[1, 2, 3], name=["Ann", "Bo", "Cy"], handle=["ann", None, "cy"], followers_count=[5, None, 0]
    )
    items = ItemsTable.build(
        item_id=[ORIGINAL, REPOST, REPLY, NESTED, QUOTE, LOST, QUOTE_REPOST],
        author_id=[1, 2, 3, 1, 2, 3, 3],
        created_at=[100, 200, 300, 400, 500, 600, 700],
        text=["the original", "RT: the orig", "no", "yes", "look", "RT gone", ""],
        topic=["tea", None, None, None, "milk", None, None],
        language=["en", "de", None, None, None, "fr", None],
        reply_to=[None, None, ORIGINAL, REPLY, None, None, None],
        conversation_id=[None, None, ORIGINAL, ORIGINAL, None, None, None],
        repost_of=[None, ORIGINAL, None, None, None, 999, QUOTE],
        quote_of=[None, None, None, None, ORIGINAL, None, None],
        video_duration_ms=[12_000, None, None, None, None, 3, None],
        subscriber_only=[True, None, None, False, None, None, None],
    )
    edges = Edges.build(
        src=[1, 3, 1, 2], dst=[2, 2, 3, 1], kind=["follow", "follow", "follow", "block"], created_at=[0, None, 0, 0]
    )
    events = Events.build(user_id=[], item_id=[], time=[], action=[])
    return FeedTables.of(Tables(users, items, edges, events), Path("data"))


def hydrated(component: Any, table: Candidates, **features: Any) -> Candidates:
    """A table with what a hydrator adds; query features by the names of their keys."""
    query = Query(now=NOW, features={getattr(keys, name): value for name, value in features.items()})
    return table.patched(component.hydrate(query, table, CTX))


def posts(*ids: int) -> Candidates:
    """A table of posts of which only the ids are known."""
    return Candidates.of(ITEM_ID(np.array(ids, np.int64)))


def cells(table: Candidates, column: Any) -> list[Any]:
    """A column as plain values, None for null."""
    return [row[column] for row in table]


def test_columns_of_an_original(data: FeedTables) -> None:
    """An original has its own cells, is no reply or repost, and begins its conversation."""
    (row,) = hydrated(Items(data), posts(ORIGINAL))
    assert row[keys.AUTHOR_ID] == 1
    assert row[keys.CREATED_AT] == 100
    assert row[keys.TEXT] == "the original"
    assert row[keys.TOPIC] == "tea"
    assert row[keys.LANGUAGE] == "en"
    assert row[keys.VIDEO_DURATION_MS] == 12_000
    assert row[keys.SUBSCRIBER_ONLY] is True
    assert row[keys.CONVERSATION_ID] == ORIGINAL
    absent = (keys.REPLY_TO, keys.ANCESTORS, keys.REPOST_OF, keys.REPOST_AUTHOR_ID, keys.QUOTE_OF, keys.QUOTE_AUTHOR_ID)
    assert [row[column] for column in absent] == [None] * 6


def test_a_repost_shows_its_original(data: FeedTables) -> None:
    """Text, topic, language, video and subscriber rule of a repost are the original's; author and time its own."""
    (row,) = hydrated(Items(data), posts(REPOST))
    assert (row[keys.AUTHOR_ID], row[keys.CREATED_AT]) == (2, 200)
    assert (row[keys.REPOST_OF], row[keys.REPOST_AUTHOR_ID]) == (ORIGINAL, 1)
    assert (row[keys.TEXT], row[keys.TOPIC], row[keys.LANGUAGE]) == ("the original", "tea", "en")
    assert (row[keys.VIDEO_DURATION_MS], row[keys.SUBSCRIBER_ONLY]) == (12_000, True)


def test_a_repost_of_a_post_outside_the_table(data: FeedTables) -> None:
    """Where the original is unknown, a repost keeps its own text, and the original's author is null."""
    (row,) = hydrated(Items(data), posts(LOST))
    assert (row[keys.TEXT], row[keys.LANGUAGE], row[keys.VIDEO_DURATION_MS]) == ("RT gone", "fr", 3)
    assert (row[keys.REPOST_OF], row[keys.REPOST_AUTHOR_ID]) == (999, None)


def test_a_repost_carries_the_quoted_author(data: FeedTables) -> None:
    """A repost of a post that quotes says whom it quotes, so that a block of the quoted person holds."""
    table = hydrated(Items(data), posts(QUOTE, QUOTE_REPOST))
    assert cells(table, keys.QUOTE_OF) == [ORIGINAL, ORIGINAL]
    assert cells(table, keys.QUOTE_AUTHOR_ID) == [1, 1]


def test_ancestors(data: FeedTables) -> None:
    """A reply's ancestors are its parent and, if that is another post, the first of the conversation."""
    table = hydrated(Items(data), posts(REPLY, NESTED))
    assert cells(table, keys.ANCESTORS) == [(ORIGINAL,), (REPLY, ORIGINAL)]
    assert cells(table, keys.REPLY_TO) == [ORIGINAL, REPLY]


def test_unknown_posts_get_nulls_and_hurt_nobody(data: FeedTables) -> None:
    """A post the tables do not know has null cells everywhere; the others keep theirs."""
    table = hydrated(Items(data), posts(12345, ORIGINAL))
    unknown, known = table
    assert all(unknown[column] is None for column in Items.writes if isinstance(column, Column))
    assert known[keys.TEXT] == "the original"


def test_no_rows(data: FeedTables) -> None:
    """An empty table gets empty columns."""
    table = hydrated(Items(data), Candidates.empty())
    assert len(table) == 0
    assert set(Items.writes) <= set(table.columns)


def test_empty_items_table() -> None:
    """Without any items every post is unknown."""
    tables = Tables(
        Users.build(user_id=[1], name=["a"]),
        ItemsTable.build(item_id=[], author_id=[], created_at=[], text=[]),
        Edges.build(src=[], dst=[], kind=[]),
        Events.build(user_id=[], item_id=[], time=[], action=[]),
    )
    table = hydrated(Items(FeedTables.of(tables, Path("x"))), posts(1, 2))
    assert cells(table, keys.TEXT) == [None, None]


def test_authors(data: FeedTables) -> None:
    """Name, handle and followers come by author; unknown authors are null, and missing counts are counted."""
    table = posts(1, 2, 3, 4, 5).patched(
        patch(keys.AUTHOR_ID(np.array([1, 2, 3, 44, 0]), valid=np.array([True, True, True, True, False])))
    )
    table = hydrated(Authors(data), table)
    assert cells(table, keys.AUTHOR_NAME) == ["Ann", "Bo", "Cy", None, None]
    assert cells(table, keys.AUTHOR_HANDLE) == ["ann", None, "cy", None, None]
    assert cells(table, keys.AUTHOR_FOLLOWERS) == [5, 2, 0, None, None]


def test_in_network() -> None:
    """In network are the viewer and whom they follow; an unknown author leaves it unknown."""
    table = Candidates.of(
        ITEM_ID(np.arange(1, 6)), keys.AUTHOR_ID([1, 2, 3, 4, 0], valid=np.array([True, True, True, True, False]))
    )
    lists = {"FOLLOWS": np.array([2, 3]), "FOLLOWED_BY": np.array([3, 4])}
    table = hydrated(InNetwork(), table, VIEWER_ID=1, **lists)
    assert cells(table, keys.IN_NETWORK) == [True, True, True, False, None]
    assert cells(table, keys.MUTUAL_FOLLOW) == [False, False, True, False, None]


@pytest.mark.parametrize("hydrator", [Items, Authors])
def test_contract(data: FeedTables, hydrator: Any) -> None:
    """Each keeps what its kind promises, among them that rows do not touch each other."""
    known = st.sampled_from([1, 2, 3, 10, 20, 30, 40, 999])
    check_component(hydrator(data), values={keys.AUTHOR_ID: known}, max_examples=30)


def test_in_network_contract() -> None:
    """The network hydrator keeps what its kind promises."""
    check_component(InNetwork(), max_examples=30)
