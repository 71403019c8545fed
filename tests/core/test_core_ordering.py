"""The one total order of scored rows."""

from __future__ import annotations

import functools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from candidate_pipeline import ITEM_ID, SCORE, Candidates, rank_order
from candidate_pipeline.ordering import ranks_of

SCORES = st.lists(
    st.one_of(
        st.none(),
        st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0]),
        st.floats(width=32, allow_nan=True, allow_infinity=True),
    ),
    max_size=12,
)


def scored(scores: list[float | None]) -> Candidates:
    """A table of scores, `None` for unscored."""
    return Candidates.of(
        ITEM_ID(list(range(len(scores)))),
        SCORE([0.0 if score is None else score for score in scores], valid=[score is not None for score in scores]),
    )


def before(left: tuple[int, float | None], right: tuple[int, float | None]) -> int:
    """Which of two rows stands first, written out case by case."""

    def group(score: float | None) -> int:
        return 1 if score is None else 2 if math.isnan(score) else 0

    if group(left[1]) != group(right[1]):
        return group(left[1]) - group(right[1])
    if left[1] is not None and right[1] is not None and group(left[1]) == 0 and left[1] != right[1]:
        return -1 if left[1] > right[1] else 1
    return left[0] - right[0]


@given(SCORES)
def test_order_agrees_with_a_slow_model(scores: list[float | None]) -> None:
    """Scored rows by falling score, then unscored ones, then NaN; ties keep the table's order."""
    wanted = sorted(enumerate(scores), key=functools.cmp_to_key(before))
    assert rank_order(scored(scores)).tolist() == [row for row, _ in wanted]


@given(SCORES)
def test_an_unscored_row_never_outranks_a_scored_one(scores: list[float | None]) -> None:
    """After the first row without a usable score there is none with one."""
    table = scored(scores)
    usable = (table.valid(SCORE) & ~np.isnan(table[SCORE]))[rank_order(table)]
    assert not (usable[1:] & ~usable[:-1]).any()


@given(SCORES)
def test_ranks_are_the_inverse_of_the_order(scores: list[float | None]) -> None:
    """The row at place k of the order has rank k + 1."""
    table = scored(scores)
    ranks = ranks_of(table.cells(SCORE))
    assert ranks[rank_order(table)].tolist() == list(range(1, len(scores) + 1))


def test_failed_scores_rank_as_unscored() -> None:
    """A row whose scorer failed ranks after the lowest score."""
    table = Candidates.of(ITEM_ID([1, 2]), SCORE([0.0, -math.inf], valid=[False, True])).with_failed([SCORE], 0)
    assert rank_order(table).tolist() == [1, 0]


def test_without_scores_the_order_is_the_tables() -> None:
    """A table that nobody scored keeps its order."""
    assert rank_order(Candidates.of(ITEM_ID([5, 3, 4]))).tolist() == [0, 1, 2]


# Upstream


def upstream(scores: list[float | None]) -> list[int]:
    """The order of upstream semantics."""
    return [int(row) for row in rank_order(scored(scores), "upstream")]


@given(SCORES)
def test_upstream_order_without_nan_is_a_stable_sort(scores: list[float | None]) -> None:
    """Rows sort by falling score, a missing one counting as minus infinity; ties keep the table's order."""
    scores = [None if score is not None and math.isnan(score) else score for score in scores]
    falling = [math.inf if score is None else -score for score in scores]
    assert upstream(scores) == sorted(range(len(scores)), key=falling.__getitem__)


@given(SCORES)
def test_upstream_order_loses_no_row(scores: list[float | None]) -> None:
    """With NaN, which is no order, every row still has one place, and so it has at every call."""
    assert sorted(upstream(scores)) == list(range(len(scores)))
    assert upstream(scores) == upstream(scores)


def test_upstream_nan_equals_everything() -> None:
    """A NaN stays where it stands, at the top if it stood there, and keeps its neighbours apart."""
    assert upstream([math.nan, 1.0, 2.0]) == [0, 2, 1]
    assert upstream([math.nan, 2.0, 1.0]) == [0, 1, 2]
    assert upstream([3.0, math.nan, 1.0]) == [0, 1, 2]
    assert upstream([math.nan] * 3) == [0, 1, 2]


def test_upstream_missing_and_failed_scores_tie_with_minus_infinity() -> None:
    """Null, failed and minus infinity are one rank, in the order of the table."""
    assert upstream([None, -math.inf, 1.0, None]) == [2, 0, 1, 3]
    table = Candidates.of(ITEM_ID([1, 2, 3])).with_failed([SCORE], 0)
    assert rank_order(table, "upstream").tolist() == [0, 1, 2]
    assert rank_order(Candidates.of(ITEM_ID([5, 3])), "upstream").tolist() == [0, 1]
