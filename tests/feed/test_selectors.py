"""The selector."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.keys import ITEM_ID, SCORE
from candidate_pipeline.query import Query
from candidate_pipeline.testing import check_component
from candidate_pipeline_feed.selectors import TopK


def chosen(scores: list[float | None], size: int) -> list[int]:
    """The rows that are selected, None for no score."""
    table = Candidates.of(
        ITEM_ID(np.arange(len(scores))),
        SCORE(
            np.array([0 if score is None else score for score in scores], np.float32),
            valid=np.array([score is not None for score in scores], np.bool_),
        ),
    )
    return [int(row) for row in TopK(size=size).select(Query(), table, Context("top"))]


@pytest.mark.parametrize(("size", "wanted"), [(1, [2]), (2, [2, 0]), (3, [2, 0, 1]), (9, [2, 0, 1, 3, 4])])
def test_best_first(size: int, wanted: list[int]) -> None:
    """The best rows come first, ties in the table's order, then rows without a score, then NaN."""
    scores = [0.5, 0.5, float("inf"), None, float("nan")]
    assert chosen(scores, size) == wanted


@given(st.lists(st.none() | st.floats(width=32), max_size=12), st.integers(1, 12))
def test_a_larger_size_only_appends(scores: list[float | None], size: int) -> None:
    """The selection of a size is the beginning of the selection of a larger one."""
    assert chosen(scores, size + 3)[:size] == chosen(scores, size)


def test_contract() -> None:
    """The selector keeps what its kind promises."""
    check_component(TopK(size=3), max_examples=30)
