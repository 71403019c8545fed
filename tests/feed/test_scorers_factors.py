"""Author diversity and the out-of-network factor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.keys import ITEM_ID, SCORE, Column
from candidate_pipeline.query import Query
from candidate_pipeline.testing import candidates, check_component
from candidate_pipeline_feed import keys
from candidate_pipeline_feed.scorers.author_diversity import AuthorDiversity, diversity_multiplier, occurrences
from candidate_pipeline_feed.scorers.out_of_network import OutOfNetwork

CTX = Context("test")
NAN, INF = float("nan"), float("inf")


def posts(scores: list[float | None], **columns: list[Any]) -> Candidates:
    """Posts with scores and columns by the names of their keys, None for null."""
    updates = [ITEM_ID(np.arange(1, len(scores) + 1))]
    for column, cells in [(SCORE, scores), *((getattr(keys, name), cells) for name, cells in columns.items())]:
        array = column.blank(len(cells))
        for row, cell in enumerate(cells):
            array[row] = 0 if cell is None else cell
        updates.append(column(array, valid=np.array([cell is not None for cell in cells], np.bool_)))
    return Candidates.of(*updates)


def scored(table: Candidates, *scorers: Any) -> Candidates:
    """A table after some scorers."""
    for scorer in scorers:
        table = table.patched(scorer.score(Query(), table, CTX))
    return table


def scores_of(table: Candidates) -> list[float | None]:
    """Scores as plain numbers, None for none."""
    return [row[SCORE] for row in table]


def test_published_multipliers() -> None:
    """The multipliers of an author's first six posts with decay .5 and floor .25."""
    values = diversity_multiplier(np.arange(6), 0.5, 0.25)
    assert values.tolist() == [1, 0.625, 0.4375, 0.34375, 0.296875, 0.2734375]


WEIGHTED = [0.10, 0.30, 0.20, 0.28, 0.25]
AUTHORS = [1, 2, 2, 1, 2]


def test_published_diversity() -> None:
    """Five posts by two authors: each author's posts count in the order of their scores, rows stay in place."""
    table = scored(posts(list(WEIGHTED), AUTHOR_ID=AUTHORS), AuthorDiversity())
    assert scores_of(table) == pytest.approx([0.0625, 0.30, 0.0875, 0.28, 0.15625])
    assert table[keys.DIVERSITY_FACTOR].tolist() == [0.625, 1, 0.4375, 1, 0.625]


def test_published_diversity_and_network() -> None:
    """The same with the factor for posts out of network; unknown is not out of network."""
    table = posts(list(WEIGHTED), AUTHOR_ID=AUTHORS, IN_NETWORK=[True, False, True, False, None])
    table = scored(table, AuthorDiversity(), OutOfNetwork())
    assert scores_of(table) == pytest.approx([0.0625, 0.225, 0.0875, 0.21, 0.15625])
    assert table[keys.OUT_OF_NETWORK_FACTOR].tolist() == [1, 0.75, 1, 0.75, 1]


class TestAuthorDiversity:
    def test_ties_count_in_the_order_of_the_table(self) -> None:
        """Of equal scores the earlier row is the author's first post."""
        assert scores_of(scored(posts([1.0, 1.0], AUTHOR_ID=[5, 5]), AuthorDiversity())) == [1.0, 0.625]

    def test_unscored_and_authorless_posts_are_not_counted(self) -> None:
        """A post without a score, with NaN, or without an author neither changes nor counts for others."""
        table = posts([None, NAN, 0.5, 0.4, 0.3], AUTHOR_ID=[1, 1, 1, None, None])
        result = scores_of(scored(table, AuthorDiversity()))
        assert result[0] is None
        assert np.isnan(result[1])  # type: ignore[arg-type]  # a float, as the row before shows
        assert result[2:] == pytest.approx([0.5, 0.4, 0.3])

    def test_infinite_scores_stay(self) -> None:
        """Infinite scores stay as they are, and count."""
        table = scored(posts([INF, INF, 1.0, -INF], AUTHOR_ID=[1, 1, 1, 1]), AuthorDiversity(floor=0, decay=0))
        assert scores_of(table) == [INF, INF, 0.0, -INF]

    def test_negative_scores_are_not_raised(self) -> None:
        """A repeat with a negative score moves down; the published rule, which raises it, can be had."""
        table = posts([-1.0, -2.0], AUTHOR_ID=[1, 1])
        assert scores_of(scored(table, AuthorDiversity())) == pytest.approx([-1.0, -3.2])
        assert scores_of(scored(table, AuthorDiversity(negative="multiply"))) == pytest.approx([-1.0, -1.25])

    def test_original_author(self) -> None:
        """A repost counts for who reposted it, or for who wrote it, as asked."""
        table = posts([0.4, 0.3, 0.2], AUTHOR_ID=[1, 2, 2], REPOST_AUTHOR_ID=[9, 9, None])
        by_poster, by_writer = AuthorDiversity(), AuthorDiversity(key="original_author")
        assert scored(table, by_poster)[keys.DIVERSITY_FACTOR].tolist() == [1, 1, 0.625]
        assert scored(table, by_writer)[keys.DIVERSITY_FACTOR].tolist() == [1, 0.625, 1]

    def test_decay_one_changes_nothing(self) -> None:
        """With decay 1, or floor 1, every factor is 1."""
        table = posts([0.4, 0.3, 0.2], AUTHOR_ID=[1, 1, 1])
        for scorer in (AuthorDiversity(decay=1.0), AuthorDiversity(floor=1.0)):
            assert scores_of(scored(table, scorer)) == pytest.approx([0.4, 0.3, 0.2])

    @settings(max_examples=80, deadline=None)
    @given(table=candidates(keys.AUTHOR_ID, SCORE), data=st.data())
    def test_permuting_distinct_scores(self, table: Candidates, data: st.DataObject) -> None:
        """Where no scores tie, the order of the rows does not matter."""
        distinct = np.unique(table[SCORE], return_index=True)[1]
        table = table.take(distinct)
        order = np.array(data.draw(st.permutations(range(len(table)))), np.intp)
        straight = scored(table, AuthorDiversity()).take(order)
        moved = scored(table.take(order), AuthorDiversity())
        assert scores_of(straight) == scores_of(moved)

    @settings(max_examples=80, deadline=None)
    @given(table=candidates(keys.AUTHOR_ID, SCORE, nulls=False))
    def test_never_gains(self, table: Candidates) -> None:
        """No score rises, and an author's posts keep their order."""
        after = scored(table, AuthorDiversity())
        assert (after[SCORE] <= table[SCORE]).all()
        for author in np.unique(table[keys.AUTHOR_ID]):
            own = table[keys.AUTHOR_ID] == author
            in_order = np.argsort(-table[SCORE][own], kind="stable")
            assert (np.diff(after[SCORE][own][in_order]) <= 0).all()


class TestOutOfNetwork:
    def test_negative_scores(self) -> None:
        """A negative score out of network moves down; the published rule, which raises it, can be had."""
        table = posts([-3.0, 3.0], IN_NETWORK=[False, False])
        assert scores_of(scored(table, OutOfNetwork())) == pytest.approx([-4.0, 2.25])
        assert scores_of(scored(table, OutOfNetwork(negative="multiply"))) == pytest.approx([-2.25, 2.25])

    def test_failed_network_is_unknown(self) -> None:
        """Where the network hydrator failed, nothing is taken for out of network."""
        table = posts([1.0]).with_failed([keys.IN_NETWORK], 0)
        assert scores_of(scored(table, OutOfNetwork())) == [1.0]

    def test_replies_and_reposts(self) -> None:
        """On request the factor applies to replies and reposts in network too, once."""
        table = posts(
            [1.0] * 5,
            IN_NETWORK=[True, True, True, False, None],
            REPLY_TO=[None, 4, None, 4, 4],
            REPOST_OF=[None, None, 5, None, None],
        )
        assert scores_of(scored(table, OutOfNetwork(replies_and_reposts=True))) == [1.0, 0.75, 0.75, 0.75, 1.0]
        assert scores_of(scored(table, OutOfNetwork())) == [1.0, 1.0, 1.0, 0.75, 1.0]

    def test_nan_and_missing_scores_stay(self) -> None:
        """NaN, infinite and missing scores pass through."""
        result = scores_of(scored(posts([NAN, INF, None], IN_NETWORK=[False] * 3), OutOfNetwork()))
        assert np.isnan(result[0])  # type: ignore[arg-type]  # a float
        assert result[1:] == [INF, None]


SCORERS = [
    AuthorDiversity(),
    AuthorDiversity(key="original_author", negative="multiply"),
    AuthorDiversity(decay=0, floor=0),
    OutOfNetwork(),
    OutOfNetwork(factor=1.5, replies_and_reposts=True, negative="multiply"),
]


@pytest.mark.parametrize("scorer", SCORERS, ids=repr)
def test_contract(scorer: Any) -> None:
    """Each scorer keeps what its kind promises."""
    check_component(scorer, max_examples=40)


@settings(max_examples=60, deadline=None)
@given(table=candidates(SCORE, keys.IN_NETWORK, keys.AUTHOR_ID))
def test_factors_explain_the_change(table: Candidates) -> None:
    """Score before times factor is score after, for both scorers."""
    explained: list[tuple[Any, Column[np.float32]]] = [
        (AuthorDiversity(), keys.DIVERSITY_FACTOR),
        (OutOfNetwork(), keys.OUT_OF_NETWORK_FACTOR),
    ]
    for scorer, factor in explained:
        after = scored(table, scorer)
        product = np.multiply(table[SCORE], after[factor])
        np.testing.assert_allclose(product, after[SCORE], rtol=1e-5)


@given(st.lists(st.integers(0, 4), max_size=20))
def test_occurrences(keys_given: list[int]) -> None:
    """Counting in one go agrees with counting one by one."""
    wanted = [keys_given[:at].count(key) for at, key in enumerate(keys_given)]
    assert occurrences(np.array(keys_given, np.int64)).tolist() == wanted
