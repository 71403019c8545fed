"""Heads by name, histories in a model's terms, and posts that stand for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from candidate_pipeline_feed.actions import DISCRETE
from candidate_pipeline_feed.records import Items
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_phoenix.heads import FEED_NAMES, Heads, feed_name
from candidate_pipeline_phoenix.originals import originals
from candidate_pipeline_phoenix.requests import model_history
from phoenix_recsys.actions import PUBLISHED_ACTION_NAMES


def test_published_heads_have_their_feed_names() -> None:
    """Of the published enumeration the heads that the feed weighs are served, the rest are dropped."""
    heads = Heads.of(PUBLISHED_ACTION_NAMES)
    served = dict(zip(heads.labels, heads.columns.tolist(), strict=True))
    assert served == {
        "favorite": 1,
        "reply": 4,
        "quote": 5,
        "repost": 6,
        "dwell": 11,
        "not_dwelled": 12,
        "vqv": 13,
        "photo_expand": 14,
        "report": 16,
        "not_interested": 17,
    }


@pytest.mark.parametrize("name", DISCRETE)
def test_feed_names_stay(name: str) -> None:
    """A head that is called as the feed calls it is that action."""
    assert feed_name(name) == name


def test_other_names_lead_into_the_feed() -> None:
    """Every alias names an action of the feed, and hides none of its own names."""
    assert set(FEED_NAMES.values()) <= set(DISCRETE)
    assert not set(FEED_NAMES) & set(DISCRETE)


@pytest.mark.parametrize("name", ["unfavorite", "invalid", "action_19", "dwell_time", "", "Favorite"])
def test_unknown_heads_are_dropped(name: str) -> None:
    """Heads that the feed has no action for, continuous ones among them, have no feed name."""
    assert feed_name(name) is None


def test_two_heads_of_one_action() -> None:
    """Of two heads that mean one action the first is served, and unserved heads are passed over."""
    assert Heads.of(("dwell", "dwelled", "reply")).columns.tolist() == [0, 2]
    heads = Heads.of(("dwell", "dwelled", "reply"), only=("dwelled", "reply"))
    assert (heads.labels, heads.columns.tolist()) == (("dwell", "reply"), [1, 2])


def test_history_is_matched_by_name(tiny: Any) -> None:
    """Actions go to the model's columns by name; events without a known action are no history."""
    history = tiny.history([5, 6, 7], ["dwell", "bookmark", "favorite"])
    found = model_history(history, ("favorite", "unfavorite", "dwelled"), tiny.data)
    assert found.item_ids.tolist() == [5, 7]
    assert found.actions.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert len(found.author_ids) == 2
    assert len(model_history(tiny.history([]), ("favorite",), tiny.data)) == 0


def test_history_reads_reposts_as_originals(tiny: Any) -> None:
    """A repost in the history is its original with that one's author; one from outside has no known author."""
    found = model_history(tiny.history([tiny.repost, tiny.strange_repost]), ("favorite",), tiny.data)
    author = int(tiny.data.tables.items.author_id[tiny.original - 1])
    assert found.item_ids.tolist() == [tiny.original, 900]
    assert found.author_ids.tolist() == [author, 0]


def test_originals_of_posts_outside_the_tables(tiny: Any) -> None:
    """A post that the tables lack stands for itself, with the author the caller gives and an unknown time."""
    found = originals(tiny.data, np.array([12345, tiny.repost]), np.array([77, 88]))
    assert found.ids.tolist() == [12345, tiny.original]
    assert found.authors[0] == 77
    assert found.created_at.tolist() == [0, int(tiny.data.tables.items.created_at[tiny.original - 1])]


def test_originals_without_any_items(tiny: Any) -> None:
    """Over an empty items table every post stands for itself."""
    nothing = Items.build(item_id=[], author_id=[], created_at=[], text=[])
    data = FeedTables.of(attrs.evolve(tiny.tables(), items=nothing), Path())
    found = originals(data, np.array([1, 2]))
    assert (found.ids.tolist(), found.authors.tolist(), found.created_at.tolist()) == ([1, 2], [0, 0], [0, 0])
