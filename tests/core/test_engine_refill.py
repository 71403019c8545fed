"""Rows that post-selection filters drop are replaced from the rest, within bounds."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import AUTHOR, HEADS, PRICE

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    RequestError,
    RunPolicy,
    SafetyError,
    patch,
    rank_order,
)


@pytest.fixture(scope="module")
def shelf(run: Any, make: Any) -> Any:
    """Runs one request over items 0 to n - 1, whose selector takes the first `chosen` of what it is given."""

    def shelf(n: int, chosen: int, bad: Any = (), **stages: Any) -> Any:
        given = {
            "sources": [make("source", lambda q, ctx: Candidates.of(ITEM_ID(list(range(n)))), "source")],
            "selector": make("selector", lambda q, c, ctx: np.arange(min(chosen, len(c))), "first"),
            "post_selection_filters": [make("filter", lambda q, c, ctx: ~np.isin(c[ITEM_ID], list(bad)), "good")],
        }
        return run(**(given | stages))

    return shelf


def calls(outcome: Any, component: str) -> list[tuple[int, int, int]]:
    """Of each call of a component: the round of refilling, rows in and rows out."""
    return [(entry.refill, entry.rows_in, entry.rows_out) for entry in outcome.trace if entry.component == component]


def test_dropped_rows_are_replaced(shelf: Any) -> None:
    """Twice as many rows as are missing are taken from the front of the rest and put behind the survivors."""
    outcome = shelf(20, 5, bad=(1, 3, 5))
    assert outcome.item_ids.tolist() == [0, 2, 4, 6, 7, 8]
    assert calls(outcome, "first") == [(0, 20, 5), (1, 15, 5)]
    assert calls(outcome, "good") == [(0, 5, 3), (1, 7, 6)]
    assert [table[ITEM_ID].tolist() for table in outcome.dropped] == [[1, 3], [5]]
    assert [table[ITEM_ID].tolist() for table in outcome.unselected] == [[], list(range(9, 20))]


def test_rows_too_many_go_behind_the_response(shelf: Any) -> None:
    """A refill that brings more than is missing is cut at `result_size`; what is cut is unselected, not dropped."""
    outcome = shelf(20, 5, bad=(1, 3), result_size=5)
    assert outcome.item_ids.tolist() == [0, 2, 4, 5, 6]
    assert [table[ITEM_ID].tolist() for table in outcome.unselected] == [[7, 8], list(range(9, 20))]
    assert outcome.explain(7).fate == "unselected"


@pytest.mark.parametrize(
    ("size", "refills", "left"),
    [(None, 0, [6, 7]), (2, 3, [6, 7]), (3, 3, [6, 7, 8]), (6, 3, [6, 7, 8, 9, 10, 11]), (None, 3, None)],
)
def test_the_target(shelf: Any, size: Any, refills: int, left: Any) -> None:
    """As many as the selector chose at first, or `result_size` if that is less; none at all with `max_refills` 0."""
    outcome = shelf(40, 8, bad=range(6), result_size=size, max_refills=refills)
    assert outcome.item_ids.tolist() == (left or list(range(6, 16)))
    rounds = max(entry.refill for entry in outcome.trace)
    assert rounds == (1 if size != 2 and refills else 0)


@pytest.mark.parametrize(("refills", "left", "rounds"), [(1, [], 1), (3, [], 3), (7, [0], 7), (9, [0], 7)])
def test_rounds_are_bounded(shelf: Any, make: Any, refills: int, left: list[int], rounds: int) -> None:
    """No more rounds than `max_refills`, and none after the target is met or the rest is used up."""
    reverse = make("selector", lambda q, c, ctx: np.arange(len(c))[::-1][:1], "last")
    outcome = shelf(8, 1, bad=range(1, 99), max_refills=refills, selector=reverse)
    assert outcome.item_ids.tolist() == left
    assert [entry[0] for entry in calls(outcome, "last")] == list(range(rounds + 1))
    assert outcome.why_short() == (
        "" if left else f"0 rows out of 8 fetched: good dropped {rounds + 1}; last chose 1 of 8"
    )


def test_a_selector_that_wants_no_more_is_left_alone(shelf: Any, make: Any) -> None:
    """Rounds in which the selector chooses nothing bring nothing, and the response stays short."""
    choosy = make("selector", lambda q, c, ctx: np.flatnonzero(c[ITEM_ID] < 3), "choosy")
    outcome = shelf(9, 0, bad=(1,), selector=choosy)
    assert outcome.item_ids.tolist() == [0, 2]
    assert [table[ITEM_ID].tolist() for table in outcome.unselected] == [[], [3, 4, 5, 6, 7, 8]]
    assert len(calls(outcome, "good")) == 1


def test_the_selectors_order_decides(shelf: Any, make: Any) -> None:
    """The rest is given in the table's order, rows left from earlier rounds included; the choice is the selector's."""
    seen = []

    def best(query: Any, candidates: Candidates, ctx: Any) -> Any:
        seen.append(candidates[ITEM_ID].tolist())
        return rank_order(candidates)[:2]

    scores = np.array([1, 9, 3, 8, 2, 7, 5, 6], np.float32)
    outcome = shelf(
        8,
        0,
        bad=(1, 3, 5, 7),
        scorers=[make("scorer", lambda q, c, ctx: patch(SCORE(scores[c[ITEM_ID]])), "s", writes=[SCORE])],
        selector=make("selector", best, "best"),
    )
    assert seen == [list(range(8)), [0, 2, 4, 5, 6, 7], [0, 2, 4, 6]]
    assert outcome.item_ids.tolist() == [6, 2]


def test_hydrators_see_new_rows_only(shelf: Any, make: Any) -> None:
    """Post-selection hydrators are asked for the rows of a round alone; later filters see all of them, hydrated."""
    asked, filtered = [], []

    async def price(query: Any, candidates: Candidates, ctx: Any) -> Any:
        asked.append(candidates[ITEM_ID].tolist())
        await asyncio.sleep(1)
        return patch(PRICE(candidates[ITEM_ID] * 1.0), failed=candidates[ITEM_ID] == 4)

    def cheap(query: Any, candidates: Candidates, ctx: Any) -> Any:
        filtered.append(candidates[ITEM_ID].tolist())
        return candidates[PRICE] != 1

    outcome = shelf(
        9,
        3,
        post_selection_hydrators=[make("hydrator", price, "price", reads=[ITEM_ID], writes=[PRICE])],
        post_selection_filters=[make("filter", cheap, "cheap", reads=[PRICE])],
    )
    assert asked == [[0, 1, 2], [3, 4]]
    assert filtered == [[0, 1, 2], [0, 2, 3, 4]]
    assert outcome.item_ids.tolist() == [0, 2, 3, 4]
    assert outcome.selected.cells(PRICE).states().tolist() == [1, 1, 1, 2]
    assert calls(outcome, "price") == [(0, 3, 3), (1, 2, 1)]
    assert outcome.elapsed_ms == 2000


def test_listwise_filters_judge_the_whole_response(shelf: Any, make: Any) -> None:
    """A filter that compares rows sees the survivors before the new rows, so that the new ones give way."""

    def one_an_author(query: Any, candidates: Candidates, ctx: Any) -> Any:
        keep = np.zeros(len(candidates), np.bool_)
        keep[np.unique(candidates[AUTHOR], return_index=True)[1]] = True
        return keep

    authors = np.array([0, 0, 1, 1, 2, 0, 3, 3])
    outcome = shelf(
        8,
        4,
        hydrators=[make("hydrator", lambda q, c, ctx: patch(AUTHOR(authors[c[ITEM_ID]])), "a", writes=[AUTHOR])],
        post_selection_filters=[make("filter", one_an_author, "one", reads=[AUTHOR], listwise=True)],
    )
    assert outcome.item_ids.tolist() == [0, 2, 4, 6]
    assert calls(outcome, "one") == [(0, 4, 2), (1, 6, 4)]


def test_failures_in_a_round(shelf: Any, make: Any) -> None:
    """A hydrator that fails in a round alone fails those rows; a safety filter drops them, or ends the request."""

    def price(query: Any, candidates: Candidates, ctx: Any) -> Any:
        if 3 in candidates[ITEM_ID]:
            raise OSError("no line")
        return patch(PRICE(candidates[ITEM_ID] * 1.0))

    def stages(fail: bool = False) -> Any:
        def keep(query: Any, candidates: Candidates, ctx: Any) -> Any:
            if fail and len(candidates) > 3:
                raise OSError("no line")
            return candidates[PRICE] != 1

        return {
            "post_selection_hydrators": [make("hydrator", price, "price", reads=[ITEM_ID], writes=[PRICE])],
            "post_selection_filters": [make("filter", keep, "safe", reads=[PRICE], safety=True)],
        }

    outcome = shelf(9, 3, **stages())
    assert outcome.item_ids.tolist() == [0, 2, 5, 6]
    assert [(entry.refill, entry.status) for entry in outcome.trace if entry.component == "price"] == [
        (0, "ok"),
        (1, "skipped"),
        (2, "ok"),
    ]
    assert outcome.explain(3).dropped_by == "safe"
    with pytest.raises(SafetyError, match=r"filter safe .* failed: OSError: no line"):
        shelf(9, 3, **stages(fail=True))


def test_rows_that_do_not_fit_end_the_request(shelf: Any, make: Any) -> None:
    """A hydrator that changes its labels from round to round is told so; nothing but a request error comes out."""

    def heads(query: Any, candidates: Candidates, ctx: Any) -> Any:
        label = "a" if 0 in candidates[ITEM_ID] else "b"
        return patch(HEADS(np.ones((len(candidates), 1)), labels=[label]))

    with pytest.raises(
        RequestError, match=r"pipeline 'toy': the rows of a refill do not fit .*: toy\.heads: some rows"
    ):
        shelf(9, 3, bad=(1,), post_selection_hydrators=[make("hydrator", heads, "heads", writes=[HEADS])])


def test_a_selector_that_fails_in_a_round(shelf: Any, make: Any) -> None:
    """Its policy counts in every round: a fallback takes over there."""

    def first(query: Any, candidates: Candidates, ctx: Any) -> Any:
        if len(candidates) < 9:
            raise OSError("no line")
        return np.arange(3)

    last = make("selector", lambda q, c, ctx: np.arange(len(c))[::-1][:2], "last")
    outcome = shelf(
        9,
        3,
        bad=(1,),
        selector=make("selector", first, "first"),
        fallbacks=[last],
        policies={"first": RunPolicy(on_error="fallback:last")},
    )
    assert outcome.item_ids.tolist() == [0, 2, 8, 7]


def test_published_semantics_replaces_nothing(shelf: Any) -> None:
    """Rows that are dropped after selection leave the response short."""
    outcome = shelf(9, 3, bad=(1,), semantics="upstream")
    assert outcome.item_ids.tolist() == [0, 2]
    assert {entry.refill for entry in outcome.trace} == {0}


@settings(max_examples=150, deadline=None)
@given(
    scores=st.lists(st.integers(0, 9), max_size=14),
    chosen=st.integers(0, 6),
    bad=st.sets(st.integers(0, 13)),
    early=st.sets(st.integers(0, 13), max_size=4),
    size=st.integers(1, 8) | st.none(),
    refills=st.integers(0, 4),
)
def test_refilling_by_the_book(
    shelf: Any,
    make: Any,
    scores: list[int],
    chosen: int,
    bad: set[int],
    early: set[int],
    size: int | None,
    refills: int,
) -> None:
    """No row twice, every candidate in one place, and as long a response as good rows and rounds allow."""
    values = np.array(scores, np.float32)
    outcome = shelf(
        len(scores),
        0,
        bad=bad,
        filters=[make("filter", lambda q, c, ctx: ~np.isin(c[ITEM_ID], sorted(early)), "early")],
        scorers=[make("scorer", lambda q, c, ctx: patch(SCORE(values[c[ITEM_ID]])), "s", writes=[SCORE])],
        selector=make("selector", lambda q, c, ctx: rank_order(c)[:chosen], "best"),
        result_size=size,
        max_refills=refills,
    )
    selected = outcome.item_ids.tolist()
    tables = (outcome.selected, *outcome.unselected, *outcome.dropped)
    assert sorted(item for table in tables for item in table[ITEM_ID].tolist()) == list(range(len(scores)))
    assert not {*selected} & (bad | early)

    ranked = sorted(set(range(len(scores))) - early, key=lambda item: (-scores[item], item))
    first = min(chosen, len(ranked))
    target = first if size is None else min(size, first)
    taken, rounds = ranked[:first], 0
    good = [item for item in taken if item not in bad]
    while len(good) < target and rounds < refills and len(taken) < len(ranked):
        taken = ranked[: len(taken) + min(chosen, 2 * (target - len(good)))]
        good = [item for item in taken if item not in bad]
        rounds += 1
    assert selected == (good if size is None else good[:size])
    assert max(entry.refill for entry in outcome.trace) == rounds
    assert (outcome.why_short() == "") == bool(selected and (size is None or len(selected) == size))
