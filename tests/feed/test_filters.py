"""Filters: which posts each rule drops, and what all of them promise."""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.keys import ITEM_ID, SCORE
from candidate_pipeline.query import Query
from candidate_pipeline.testing import candidates, check_component
from candidate_pipeline_feed import keys
from candidate_pipeline_feed.filters.age import Age
from candidate_pipeline_feed.filters.already_seen import AlreadySeen
from candidate_pipeline_feed.filters.blocked_authors import BlockedAuthors
from candidate_pipeline_feed.filters.conversations import DedupConversation
from candidate_pipeline_feed.filters.core_data import CoreData
from candidate_pipeline_feed.filters.duplicates import DropDuplicates
from candidate_pipeline_feed.filters.muted_keywords import MutedKeywords
from candidate_pipeline_feed.filters.own_posts import OwnPosts
from candidate_pipeline_feed.filters.subscriptions import SubscribersOnly

CTX = Context("test")
NOW = dt.datetime(2026, 1, 10, tzinfo=dt.UTC)
NOW_MS = int(NOW.timestamp() * 1000)
HOUR_MS = 3_600_000
NAN = float("nan")


def table(**columns: list[Any]) -> Candidates:
    """Posts with ids from 1, or with `ids`; columns by the names of their keys, None for null."""
    rows = len(next(iter(columns.values())))
    ids = columns.pop("ids", list(range(1, rows + 1)))
    updates = [ITEM_ID(np.array(ids, np.int64))]
    for name, given_cells in columns.items():
        column = SCORE if name == "SCORE" else getattr(keys, name)
        values = column.blank(rows)
        for row, cell in enumerate(given_cells):
            if cell is not None:
                values[row] = cell
        updates.append(column(values, valid=np.array([cell is not None for cell in given_cells], np.bool_)))
    return Candidates.of(*updates)


def kept(component: Any, posts: Candidates, **features: Any) -> list[int]:
    """The ids a filter keeps; query features by the names of their keys, lists as sorted arrays."""
    given_features = {
        getattr(keys, name): np.array(value, np.int64) if isinstance(value, list) else value
        for name, value in features.items()
    }
    mask = component.keep(Query(now=NOW, features=given_features), posts, CTX)
    return [int(item) for item in posts[ITEM_ID][mask]]


class TestDropDuplicates:
    def test_first_of_an_original_and_its_reposts_wins(self) -> None:
        """Of an original and its reposts the first row stays, whichever it is."""
        posts = table(ids=[5, 6, 7, 8, 9], REPOST_OF=[None, 5, 8, None, 100])
        assert kept(DropDuplicates(), posts) == [5, 7, 9]

    def test_two_reposts_of_one_original(self) -> None:
        """Two reposts of one original are duplicates although neither is the original."""
        assert kept(DropDuplicates(), table(ids=[6, 7], REPOST_OF=[5, 5])) == [6]

    def test_different_posts_stay(self) -> None:
        """Posts that share nothing all stay; a null original is not an original."""
        assert kept(DropDuplicates(), table(ids=[0, 1, 2], REPOST_OF=[None, None, None])) == [0, 1, 2]


class TestCoreData:
    def test_author_and_text_are_needed(self) -> None:
        """A post needs an author that is not 0 and a text that is not blank."""
        posts = table(AUTHOR_ID=[7, None, 0, 7, 7, 7], TEXT=["a", "b", "c", None, " \n", ""])
        assert kept(CoreData(), posts) == [1]

    def test_text_may_be_waived(self) -> None:
        """With `require_text = false` the author suffices."""
        posts = table(AUTHOR_ID=[7, None, 0, 7, 7], TEXT=["a", "b", "c", None, " "])
        assert kept(CoreData(require_text=False), posts) == [1, 4, 5]


class TestAge:
    def test_the_limit_is_inclusive(self) -> None:
        """A post of exactly the age stays, one a millisecond older goes."""
        posts = table(CREATED_AT=[NOW_MS, NOW_MS - 48 * HOUR_MS, NOW_MS - 48 * HOUR_MS - 1])
        assert kept(Age(), posts) == [1, 2]

    def test_future_and_unknown_times_are_dropped(self) -> None:
        """A post from after the request's clock, and one without a time, are dropped."""
        assert kept(Age(), table(CREATED_AT=[NOW_MS + 1, None, NOW_MS - 1])) == [3]

    def test_largest_limit(self) -> None:
        """The longest duration there is does not overflow."""
        assert kept(Age(max_age=dt.timedelta.max), table(CREATED_AT=[-(2**63), 0, NOW_MS + 1])) == [2]

    @given(ages=st.lists(st.integers(0, 100), max_size=8), limits=st.tuples(st.integers(1, 100), st.integers(1, 100)))
    def test_a_longer_limit_keeps_more(self, ages: list[int], limits: tuple[int, int]) -> None:
        """What a limit keeps, a longer one keeps too."""
        posts = table(ids=list(range(len(ages))), CREATED_AT=[NOW_MS - age * HOUR_MS for age in ages])
        short, long = (set(kept(Age(max_age=dt.timedelta(hours=limit)), posts)) for limit in sorted(limits))
        assert short <= long


class TestOwnPosts:
    def test_own_posts_go(self) -> None:
        """The viewer's own posts go; those of unknown authors stay for others to judge."""
        assert kept(OwnPosts(), table(AUTHOR_ID=[7, 8, None]), VIEWER_ID=7) == [2, 3]

    def test_a_null_author_is_not_viewer_zero(self) -> None:
        """A null cell holds 0, which is not taken for the viewer with id 0."""
        assert kept(OwnPosts(), table(AUTHOR_ID=[None, 0]), VIEWER_ID=0) == [1]


class TestSubscribersOnly:
    def test_only_subscribers_see_them(self) -> None:
        """Subscriber-only posts stay for subscribers of the author, and public ones for all."""
        posts = table(
            SUBSCRIBER_ONLY=[True, True, False, None, True], AUTHOR_ID=[3, 4, 4, 4, 9], REPOST_AUTHOR_ID=[None] * 5
        )
        assert kept(SubscribersOnly(), posts, SUBSCRIPTIONS=[3], VIEWER_ID=9) == [1, 3, 4, 5]

    def test_of_a_repost_the_original_author_counts(self) -> None:
        """A subscription to the reposter does not open somebody else's post."""
        posts = table(SUBSCRIBER_ONLY=[True, True], AUTHOR_ID=[3, 4], REPOST_AUTHOR_ID=[4, 3])
        assert kept(SubscribersOnly(), posts, SUBSCRIPTIONS=[3], VIEWER_ID=9) == [2]

    def test_an_unknown_author_is_not_subscribed_to(self) -> None:
        """A subscriber-only post of an unknown author is dropped."""
        posts = table(SUBSCRIBER_ONLY=[True], AUTHOR_ID=[None], REPOST_AUTHOR_ID=[None])
        assert kept(SubscribersOnly(), posts, SUBSCRIPTIONS=[0], VIEWER_ID=0) == []


class TestAlreadySeen:
    def test_related_posts_count(self) -> None:
        """A post goes if it, the original it reposts, or the post it answers was seen."""
        posts = table(ids=[1, 2, 3, 4], REPOST_OF=[None, 50, None, None], REPLY_TO=[None, None, 60, None])
        assert kept(AlreadySeen(), posts, SEEN_IDS=[1, 50, 60]) == [4]
        assert kept(AlreadySeen(), posts, SEEN_IDS=[]) == [1, 2, 3, 4]

    def test_null_is_not_post_zero(self) -> None:
        """A post that answers nothing is not related to a post with id 0."""
        assert kept(AlreadySeen(), table(REPOST_OF=[None], REPLY_TO=[None]), SEEN_IDS=[0]) == [1]


class TestBlockedAuthors:
    LISTS: ClassVar[dict[str, list[int]]] = {"BLOCKS": [10], "BLOCKED_BY": [20], "MUTES": [30]}

    def keep_one(self, author: int | None, reposted: int | None = None, quoted: int | None = None) -> bool:
        posts = table(AUTHOR_ID=[author], REPOST_AUTHOR_ID=[reposted], QUOTE_AUTHOR_ID=[quoted])
        return bool(kept(BlockedAuthors(), posts, **self.LISTS))

    def test_authors(self) -> None:
        """Authors whom the viewer blocks or mutes, or who block the viewer, are dropped; others are not."""
        assert [self.keep_one(author) for author in (10, 20, 30, 40, None)] == [False, False, False, True, True]

    def test_quoted_authors(self) -> None:
        """A quoted author may not be blocked, either way; a mute does not concern quotes."""
        assert [self.keep_one(40, quoted=author) for author in (10, 20, 30, 40)] == [False, False, True, True]

    def test_reposted_authors(self) -> None:
        """A reposted author may not be blocked, either way; a mute does not concern reposts."""
        assert [self.keep_one(40, reposted=author) for author in (10, 20, 30, 40)] == [False, False, True, True]

    def test_empty_lists_drop_nobody(self) -> None:
        """Who blocks and mutes nobody loses nothing."""
        posts = table(AUTHOR_ID=[1, None], REPOST_AUTHOR_ID=[2, None], QUOTE_AUTHOR_ID=[3, None])
        assert kept(BlockedAuthors(), posts, BLOCKS=[], BLOCKED_BY=[], MUTES=[]) == [1, 2]


class TestDedupConversation:
    def test_one_post_a_conversation(self) -> None:
        """Of posts with the same smallest ancestor the best scored stays, and so does every other conversation."""
        posts = table(
            ids=[100, 101, 102, 103],
            ANCESTORS=[(90, 80), (80,), None, (85, 80)],
            REPOST_OF=[None] * 4,
            SCORE=[0.9, 0.8, 0.7, 0.6],
        )
        assert kept(DedupConversation(), posts) == [100, 102]

    def test_root_and_reply(self) -> None:
        """A post and an answer to it are one conversation."""
        posts = table(ids=[80, 101], ANCESTORS=[None, (80,)], REPOST_OF=[None, None], SCORE=[0.1, 0.2])
        assert kept(DedupConversation(), posts) == [101]

    def test_a_repost_stands_for_its_original(self) -> None:
        """Without ancestors a repost belongs to its original's conversation."""
        posts = table(ids=[101, 80], ANCESTORS=[None, None], REPOST_OF=[80, None], SCORE=[0.3, 0.2])
        assert kept(DedupConversation(), posts) == [101]

    def test_a_later_post_needs_a_strictly_greater_score(self) -> None:
        """Of equal scores the earlier row stays; a greater one wins wherever it stands."""
        equal = table(ids=[1, 2, 3], ANCESTORS=[(9,)] * 3, REPOST_OF=[None] * 3, SCORE=[0.5, 0.5, 0.5])
        assert kept(DedupConversation(), equal) == [1]
        greater = table(ids=[1, 2, 3], ANCESTORS=[(9,)] * 3, REPOST_OF=[None] * 3, SCORE=[0.5, 0.7, 0.6])
        assert kept(DedupConversation(), greater) == [2]

    @pytest.mark.parametrize("scores", [[NAN, 0.1], [0.1, NAN], [None, 0.1], [0.1, None], [None, -5.0], [NAN, None]])
    def test_nan_and_missing_scores_lose(self, scores: list[float | None]) -> None:
        """A number beats a missing score, even a negative one, and both beat NaN, in either order."""
        posts = table(ids=[1, 2], ANCESTORS=[(9,)] * 2, REPOST_OF=[None] * 2, SCORE=scores)
        rank = [2 if score is None else 3 if np.isnan(score) else 1 for score in scores]
        assert kept(DedupConversation(), posts) == [1 + int(np.argmin(rank))]

    def test_empty_ancestors_are_none(self) -> None:
        """An empty tuple of ancestors is as none."""
        posts = table(ids=[1, 2], ANCESTORS=[(), None], REPOST_OF=[None] * 2, SCORE=[0.1, 0.2])
        assert kept(DedupConversation(), posts) == [1, 2]


ANCESTOR_CELLS = st.lists(st.integers(1, 9), max_size=3).map(tuple)
FILTERS = [
    DropDuplicates(),
    CoreData(),
    Age(),
    OwnPosts(),
    SubscribersOnly(),
    AlreadySeen(),
    MutedKeywords(),
    BlockedAuthors(),
    DedupConversation(),
]


@pytest.mark.parametrize("component", FILTERS, ids=lambda component: type(component).__name__)
def test_contract(component: Any) -> None:
    """Each filter answers any table with a mask, purely, and row by row unless it says it is listwise."""
    check_component(component, values={keys.ANCESTORS: ANCESTOR_CELLS}, max_examples=30)


@pytest.mark.parametrize("component", [DropDuplicates(), DedupConversation()], ids=lambda one: type(one).__name__)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_listwise_filters_are_idempotent(component: Any, data: st.DataObject) -> None:
    """What a listwise filter kept, it keeps again, and it never drops a whole group."""
    posts = data.draw(candidates(*component.reads, values={keys.ANCESTORS: ANCESTOR_CELLS}))
    query = Query(now=NOW)
    once = posts.take(component.keep(query, posts, CTX))
    assert component.keep(query, once, CTX).all()
    assert (len(once) == 0) == (len(posts) == 0)


def test_safety() -> None:
    """The filters that protect people fail closed; the others say nothing of it."""
    safe = {type(component).__name__ for component in FILTERS if getattr(component, "safety", False)}
    assert safe == {"SubscribersOnly", "MutedKeywords", "BlockedAuthors"}
