"""The account of a score: terms in order with running totals, and what they leave unexplained."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from candidate_pipeline import ITEM_ID, SCORE, Candidates, Column, patch
from candidate_pipeline.explain_steps import ANEW, GIVEN, REMOVED, UNEXPLAINED, Step

PARTS = Column("toy.parts", np.float32, labels=("price", "age", "luck"), terms_of=SCORE)
BOOST = Column("toy.boost", np.float32, terms_of=SCORE, factor=True)
EXTRA = Column("toy.extra", np.float32, terms_of=SCORE)
MARK = Column("toy.mark", np.float32)
MARK_PARTS = Column("toy.mark_parts", np.float32, terms_of=MARK)


@pytest.fixture
def account(run: Any, make: Any) -> Any:
    """The steps of the only item that a source gives a score to, after scorers."""

    def account(*scorers: Any, score: float | None = None, **stages: Any) -> list[tuple[Any, ...]]:
        def fetch(query: Any, ctx: Any) -> Candidates:
            if score is None:
                return Candidates.of(ITEM_ID([1]))
            return Candidates.of(ITEM_ID([1]), SCORE([score]))

        writes = [] if score is None else [SCORE]
        outcome = run(sources=[make("source", fetch, "shelf", writes=writes)], scorers=list(scorers), **stages)
        steps = outcome.explain(1).steps()
        assert all(isinstance(step, Step) for step in steps)
        return [(step.label, step.scorer, step.operation, step.amount, step.total) for step in steps]

    return account


def scorer(make: Any, name: str, *updates: Any, reads: Any = (), writes: Any = None) -> Any:
    """A scorer that writes cells, whatever there was; one of no updates leaves the row without a score."""
    writes = [SCORE, *(update.column for update in updates)] if writes is None else writes
    return make("scorer", lambda q, c, ctx: patch(*updates), name, reads=reads, writes=writes)


def test_addends_and_factors_in_the_order_of_writes(make: Any, account: Any) -> None:
    """Terms apply in the order in which `writes` names their columns; those that change nothing are no steps."""
    parts, boost, extra = PARTS([[2.0, 0.0, -0.5]]), BOOST([0.5]), EXTRA([1.0])
    steps = account(
        scorer(make, "all", parts, boost, extra, SCORE([1.75]), writes=[PARTS, BOOST, EXTRA, SCORE]),
        scorer(make, "none", SCORE([1.75]), reads=[SCORE], writes=[SCORE]),
    )
    assert steps == [
        ("price", "all", "add", 2.0, 2.0),
        ("luck", "all", "add", -0.5, 1.5),
        ("boost", "all", "multiply", 0.5, 0.75),
        ("extra", "all", "add", 1.0, 1.75),
    ]
    (first, *_) = account(scorer(make, "all", parts, boost, extra, SCORE([2.25]), writes=[EXTRA, PARTS, BOOST, SCORE]))
    assert first[0] == "extra"


def test_one_scorer_used_twice(make: Any, account: Any) -> None:
    """Each use has its own terms, although the second overwrites the column of the first."""
    steps = account(
        scorer(make, "one", BOOST([0.5]), SCORE([2.0]), reads=[SCORE]),
        scorer(make, "two", BOOST([0.25]), SCORE([0.5]), reads=[SCORE]),
        score=4.0,
    )
    assert steps == [
        (GIVEN, "shelf", "set", 4.0, 4.0),
        ("boost", "one", "multiply", 0.5, 2.0),
        ("boost", "two", "multiply", 0.25, 0.5),
    ]


def test_a_scorer_that_does_not_read_the_score_begins_anew(make: Any, account: Any) -> None:
    """Its terms add up from 0, and the score before it is set aside."""
    assert account(scorer(make, "fresh", EXTRA([3.0]), SCORE([3.0])), score=4.0) == [
        (GIVEN, "shelf", "set", 4.0, 4.0),
        (ANEW, "fresh", "set", 0.0, 0.0),
        ("extra", "fresh", "add", 3.0, 3.0),
    ]
    assert account(scorer(make, "fresh", EXTRA([0.0]), SCORE([0.0]))) == [(ANEW, "fresh", "set", 0.0, 0.0)]


def test_what_terms_do_not_explain_is_a_step(make: Any, account: Any) -> None:
    """The remainder is told, of scorers with terms that fall short and of those without any."""
    assert account(scorer(make, "short", EXTRA([1.0]), SCORE([7.0]), reads=[SCORE]), score=4.0) == [
        (GIVEN, "shelf", "set", 4.0, 4.0),
        ("extra", "short", "add", 1.0, 5.0),
        (UNEXPLAINED, "short", "add", 2.0, 7.0),
    ]
    assert account(scorer(make, "mute", SCORE([0.0]))) == [(UNEXPLAINED, "mute", "set", 0.0, 0.0)]
    assert account(scorer(make, "mute", SCORE([1.5]), reads=[SCORE]), score=4.0)[1:] == [
        (UNEXPLAINED, "mute", "add", -2.5, 1.5)
    ]


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
def test_scores_that_are_not_finite(make: Any, account: Any, odd: float) -> None:
    """There is no difference to tell: the step sets the score."""
    ((label, _, operation, amount, total),) = account(scorer(make, "odd", SCORE([odd])))
    assert (label, operation) == (UNEXPLAINED, "set")
    assert np.array_equal([amount, total], [odd, odd], equal_nan=True)
    steps = account(scorer(make, "odd", EXTRA([1.0]), SCORE([odd]), reads=[SCORE]), score=4.0)
    assert [step[2] for step in steps] == ["set", "add", "set"]
    (given, kept) = account(scorer(make, "kept", BOOST([2.0]), SCORE([odd]), reads=[SCORE]), score=odd)
    assert given[0] == GIVEN
    assert kept[:3] == ("boost", "kept", "multiply")
    assert account(scorer(make, "back", SCORE([1.0]), reads=[SCORE]), score=odd)[1:] == [
        (UNEXPLAINED, "back", "set", 1.0, 1.0)
    ]


def test_totals_end_on_the_score_itself(make: Any, account: Any) -> None:
    """What float32 rounds off terms is not told as a remainder: the last total is the score to the last bit."""
    third = float(np.float32(1 / 3))
    parts = np.full((1, 3), 1 / 3)
    steps = account(scorer(make, "thirds", PARTS(parts), SCORE([1.0])))
    assert [step[3] for step in steps] == [third] * 3
    assert steps[-1][4] == 1.0
    # A factor that float32 rounds to 1 still moved the score by one bit.
    after = float(np.nextafter(np.float32(1), np.float32(0)))
    assert account(scorer(make, "slight", BOOST([1.0]), SCORE([after]), reads=[SCORE]), score=1.0)[1:] == [
        ("boost", "slight", "multiply", 1.0, after)
    ]
    # Too large for float32, so infinite: the terms say why.
    steps = account(scorer(make, "huge", BOOST([1e38]), SCORE([np.inf]), reads=[SCORE]), score=1e30)
    assert steps[1:] == [("boost", "huge", "multiply", float(np.float32(1e38)), math.inf)]


def test_a_scorer_that_takes_a_score_away(run: Any, make: Any, account: Any) -> None:
    """Under the published semantics a null erases a score; under the strict one the score stays as it was."""
    erase = scorer(make, "erase", SCORE([0.0], valid=[False]), writes=[SCORE])
    assert account(erase, score=4.0) == [(GIVEN, "shelf", "set", 4.0, 4.0)]
    assert account(erase, score=4.0, semantics="upstream") == [
        (GIVEN, "shelf", "set", 4.0, 4.0),
        (REMOVED, "erase", "set", None, None),
    ]
    assert account(scorer(make, "erase", SCORE([0.0], valid=[False]), writes=[SCORE])) == []


def test_scores_of_hydrators(make: Any, account: Any) -> None:
    """A score that a hydrator writes, before the scorers or after selection, is given by it."""
    double = make("hydrator", lambda q, c, ctx: patch(SCORE([8.0])), "double", writes=[SCORE])
    assert account(scorer(make, "half", BOOST([0.5]), SCORE([4.0]), reads=[SCORE]), hydrators=[double]) == [
        (GIVEN, "double", "set", 8.0, 8.0),
        ("boost", "half", "multiply", 0.5, 4.0),
    ]
    assert account(score=1.0, post_selection_hydrators=[double])[-1] == (GIVEN, "double", "set", 8.0, 8.0)
    assert account() == []


def test_terms_of_other_columns_are_no_steps(run: Any, make: Any) -> None:
    """Terms that explain another column than the score are listed with the terms and take no part in the account."""
    marks = scorer(make, "marks", MARK([2.0]), MARK_PARTS([2.0]), SCORE([1.0]))
    outcome = run(sources=[make("source", lambda q, ctx: Candidates.of(ITEM_ID([1])), "shelf")], scorers=[marks])
    found = outcome.explain(1)
    assert [(part.column, part.scorer) for part in found.terms] == [("toy.mark_parts", "marks")]
    assert [step.label for step in found.steps()] == [UNEXPLAINED]
    assert json.loads(json.dumps(found.as_dict()))["steps"] == [
        {"label": UNEXPLAINED, "scorer": "marks", "operation": "set", "amount": 1.0, "total": 1.0}
    ]
