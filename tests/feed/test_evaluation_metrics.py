"""Ranks, metrics and bootstrap intervals."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidate_pipeline_feed.evaluation.bootstrap import Bootstrap
from candidate_pipeline_feed.evaluation.metrics import METRICS, NOT_FOUND, metric_table, rank_among, rank_in_list

scores = st.lists(
    st.sampled_from([-1.0, 0.0, 0.5, 2.0, float("nan"), float("-inf"), float("inf")]), min_size=1, max_size=6
)


def _brute_force(values: list[float], target: int) -> float:
    """The mean rank over every way to break ties; NaN counts as lowest."""
    keys = [float("-inf") if math.isnan(value) else value for value in values]
    ranks = []
    for order in permutations(range(len(keys))):
        by_score = sorted(order, key=lambda at: -keys[at])  # stable, so `order` breaks the ties
        ranks.append(by_score.index(target) + 1)
    return float(np.mean(ranks))


@given(scores, st.data())
def test_rank_is_the_mean_over_all_ways_to_break_ties(values: list[float], data: st.DataObject) -> None:
    """It expects the rank to equal brute force over every order of tied items."""
    target = data.draw(st.integers(0, len(values) - 1))
    found = rank_among(np.array(values), target, np.ones(len(values), np.bool_))
    assert found == pytest.approx(_brute_force(values, target))


@given(scores, st.data())
def test_items_that_take_no_part_do_not_change_a_rank(values: list[float], data: st.DataObject) -> None:
    """It expects the rank among some items to be that in a list of only those."""
    among = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    target = data.draw(st.integers(0, len(values) - 1))
    found = rank_among(np.array(values), target, among)
    if not among[target]:
        assert found == NOT_FOUND
    else:
        kept = np.flatnonzero(among)
        assert found == _brute_force([values[at] for at in kept], int(np.flatnonzero(kept == target)[0]))


@given(st.lists(st.sampled_from([3.0, 2.0, 1.0, float("nan")]), min_size=1, max_size=6), st.data())
def test_a_sorted_list_gives_the_same_rank_as_its_scores(values: list[float], data: st.DataObject) -> None:
    """It expects a served list that falls in score to give tied neighbours the middle of their places."""
    ordered = np.array(sorted(values, key=lambda value: (math.isnan(value), -np.nan_to_num(value))))
    target = data.draw(st.integers(0, len(values) - 1))
    ids = np.arange(10, 10 + len(values))
    lowest = np.nan_to_num(ordered, nan=-99.0)
    assert rank_in_list(ids, ordered, 10 + target) == rank_among(lowest, target, np.ones(len(values), np.bool_))


def test_a_served_list_need_not_fall_in_score() -> None:
    """It expects the served order to count where neighbours differ in score, and absent items to be not found."""
    ids, values = np.array([4, 7, 9, 2]), np.array([1.0, 5.0, 5.0, 1.0])
    assert [rank_in_list(ids, values, item) for item in (4, 7, 9, 2)] == [1.0, 2.5, 2.5, 4.0]
    assert rank_in_list(ids, values, 5) == NOT_FOUND
    assert rank_in_list(ids[:0], values[:0], 5) == NOT_FOUND


def test_metrics_by_hand() -> None:
    """It expects NDCG, recall and reciprocal rank of single targets to be those worked out by hand."""
    table = metric_table(np.array([1.0, 3.0, 10.0, 10.5, 200.0, 201.0, NOT_FOUND]))
    assert METRICS == ("NDCG@10", "Recall@10", "Recall@200", "MRR")
    assert table[:, 0] == pytest.approx([1.0, 0.5, 1 / np.log2(11), 0, 0, 0, 0])
    assert table[:, 1].tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert table[:, 2].tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert table[:, 3] == pytest.approx([1, 1 / 3, 0.1, 1 / 10.5, 1 / 200, 1 / 201, 0])


def test_bootstrap_is_reproducible_and_follows_its_seed() -> None:
    """It expects equal seeds to give equal intervals and other seeds others."""
    users, values = np.arange(50), np.random.default_rng(1).random(50)
    first = Bootstrap(users, 3).interval(values)
    assert first == Bootstrap(users, 3).interval(values)
    assert first != Bootstrap(users, 4).interval(values)
    assert first.low < first.mean < first.high


def test_bootstrap_of_equal_values_has_no_width() -> None:
    """It expects a constant, and a constant paired difference, to have a degenerate interval."""
    interval = Bootstrap(np.arange(20)).interval(np.full(20, 0.25))
    assert (interval.mean, interval.low, interval.high, interval.sign) == (0.25, 0.25, 0.25, 1)
    assert Bootstrap(np.arange(20)).interval(np.zeros(20)).sign == 0


def test_bootstrap_covers_the_true_mean_about_as_often_as_it_says() -> None:
    """It expects 95% intervals of 300 samples to hold the mean of their population in 90 to 99% of cases."""
    rng = np.random.default_rng(0)
    users = np.arange(80)
    bootstrap = Bootstrap(users, 0, draws=500)
    held = 0
    for _ in range(300):
        interval = bootstrap.interval(rng.exponential(1.0, 80))
        held += interval.low <= 1.0 <= interval.high
    assert 270 <= held <= 297


def test_bootstrap_draws_people_and_not_targets() -> None:
    """It expects ten equal targets of each person to be worth no more than one, and weights to follow targets."""
    values = np.random.default_rng(2).random(30)
    one = Bootstrap(np.arange(30), 0).interval(values)
    ten = Bootstrap(np.repeat(np.arange(30), 10), 0).interval(np.repeat(values, 10))
    assert ten.mean == pytest.approx(one.mean)
    assert ten.high - ten.low == pytest.approx(one.high - one.low, rel=0.15)
    uneven = Bootstrap(np.array([1, 1, 1, 2]), 0).interval(np.array([1.0, 1.0, 1.0, 0.0]))
    assert (uneven.mean, uneven.low, uneven.high) == (0.75, 0.0, 1.0)


def test_a_bootstrap_of_nothing_is_refused() -> None:
    """It expects a clear error without targets."""
    with pytest.raises(ValueError, match="at least one target"):
        Bootstrap(np.zeros(0, np.int64))
