"""Responses that are too short, filled by another pipeline."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import BLOCKED, BUYER, NOW, PRICE, THREE_HEADS, best_by_rules

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    TOPPED_UP,
    Candidates,
    Column,
    MisconfigurationError,
    NestedPipeline,
    SpecError,
    StageOptions,
    compose,
    patch,
    query_patch,
    rank_order,
)
from candidate_pipeline.testing import run_in_virtual_time

SALES = Column("toy.sales", np.int64)


def source(make: Any, name: str, ids: Any, column: Any = PRICE) -> Any:
    """A source of items, with a column."""
    ids = list(ids)
    return make("source", lambda q, ctx: Candidates.of(ITEM_ID(ids), column(ids)), name, writes=[column])


@pytest.fixture(scope="module")
def short(make: Any) -> Any:
    """Runs a pipeline `main` that is topped up by one called `popular`."""

    def short(popular: Any, main: Any, requests: Any = ({},)) -> Any:
        top = make("selector", best_by_rules, "top")
        spare = compose("popular", **({"selector": top} | popular))
        app = compose("main", **({"selector": top, "min_results": 4} | main), top_up=spare["popular"])

        async def serve() -> Any:
            async with spare, app:
                outcomes = [await app["main"].run(**{"now": NOW, **request}) for request in requests]
                return outcomes if len(outcomes) > 1 else outcomes[0]

        return run_in_virtual_time(serve())

    return short


@pytest.fixture(scope="module")
def outcome(short: Any, make: Any) -> Any:
    """Of 1 to 6, the filter drops 1, the selector leaves 5 and 6, the later filter drops 2: 3 and 4 are left."""
    return short(
        {
            "sources": [source(make, "sold", (9, 4, 1, 2, 5, 8, 7, 6), SALES)],
            "filters": [make("filter", lambda q, c, ctx: c[ITEM_ID] != 8, "no_eights")],
        },
        {
            "sources": [source(make, "left", (1, 2, 3)), source(make, "right", (3, 4, 5, 6))],
            "filters": [make("filter", lambda q, c, ctx: c[ITEM_ID] != 1, "no_ones")],
            "selector": make("selector", lambda q, c, ctx: np.arange(min(3, len(c))), "three"),
            "post_selection_filters": [make("filter", lambda q, c, ctx: c[ITEM_ID] != 2, "no_twos")],
            "max_refills": 0,
            "result_size": 5,
            "show": [PRICE],
        },
    )


def test_rows_follow_behind_and_say_so(outcome: Any) -> None:
    """The other pipeline's rows stand behind the response's own, in its order, up to the size of the response."""
    assert outcome.item_ids.tolist() == [3, 4, 9, 5, 7]
    assert outcome.selected[TOPPED_UP].tolist() == [False, False, True, True, True]
    assert outcome.selected.valid(TOPPED_UP).all()
    assert [outcome.selected.sources(row) for row in range(3)] == [("left", "right"), ("right",), ("popular",)]
    assert outcome.selected[PRICE].tolist() == [3, 4, 0, 0, 0]
    assert outcome.selected.valid(PRICE).tolist() == [True, True, False, False, False]
    assert outcome.selected.valid(SALES).tolist() == [False, False, True, True, True]
    assert outcome.selected[SALES].tolist() == [0, 0, 9, 5, 7]


def test_the_trace_says_how_many(outcome: Any) -> None:
    """The last record is the other pipeline's, with its own trace inside."""
    record = outcome.trace[-1]
    assert (record.component, record.use, record.stage, record.status) == ("popular", "pipeline", "top_up", "ok")
    assert (record.rows_out, record.note) == (7, "3 rows of 7 fill the response")
    assert [entry.component for entry in record.inner] == ["sold", "no_eights", "top"]
    assert outcome.why_short() == ""


@pytest.mark.parametrize(
    ("item", "fate", "sources"),
    [
        (3, "selected", ("left", "right")),
        (9, "selected", ("popular",)),
        (5, "selected", ("popular",)),
        (1, "dropped", ("left",)),
        (2, "dropped", ("left",)),
        (6, "unselected", ("right",)),
        (8, "dropped", ("sold",)),
    ],
)
def test_every_item_is_explained(outcome: Any, item: int, fate: str, sources: Any) -> None:
    """Own rows, topped-up ones, those dropped on either side and those left have one fate each."""
    found = outcome.explain(item)
    assert (found.fate, found.sources) == (fate, sources)
    assert found.within == (("popular",) if item == 8 else ())
    if item == 9:
        assert found.rank == 3
        assert {cell.column: cell.writer for cell in found.cells if cell.state == "valid"} == dict.fromkeys(
            ["core.item_id", "core.topped_up", "toy.sales"], "popular"
        )
        assert [(each.pipeline, each.rank) for each in found.inner] == [("popular", 1)]
    tables = [outcome.selected, *outcome.unselected, *outcome.dropped]
    assert sum(int((table[ITEM_ID] == item).sum()) for table in tables) == (item != 8)


def test_an_item_there_was_no_room_for(short: Any, make: Any) -> None:
    """What the other pipeline offered beyond the size of the response was not selected, whatever its rank there."""
    outcome = short({"sources": [source(make, "sold", (5, 6, 7))]}, {"sources": [source(make, "own", (1, 2, 3))]})
    assert outcome.item_ids.tolist() == [1, 2, 3, 5]
    found = outcome.explain(7)
    assert (found.fate, found.rank, found.sources, found.pipeline) == ("unselected", None, ("popular",), "main")
    assert (found.inner[0].fate, found.inner[0].rank) == ("selected", 3)
    assert str(found).splitlines()[0] == "item 7: not selected"


def test_outcome_as_data(outcome: Any) -> None:
    """A topped-up response is plain data like any other."""
    data = json.loads(json.dumps(outcome.to_dict()))
    assert [item["item_id"] for item in data["items"]] == [3, 4, 9, 5, 7]
    assert [item["columns"]["toy.price"] for item in data["items"]] == [3.0, 4.0, None, None, None]
    assert data["items"][4]["sources"] == ["popular"]
    assert [entry["component"] for entry in data["trace"][-1]["inner"]] == ["sold", "no_eights", "top"]


@pytest.mark.parametrize(("size", "filled"), [(None, [1, 5, 6, 7]), (4, [1, 5, 6, 7]), (6, [1, 5, 6, 7, 8, 9])])
def test_how_far_a_response_is_filled(short: Any, make: Any, size: Any, filled: list[int]) -> None:
    """Up to `result_size`; without one, up to `min_results`."""
    outcome = short(
        {"sources": [source(make, "sold", range(5, 12))]},
        {"sources": [source(make, "own", (1,))], "result_size": size},
    )
    assert outcome.item_ids.tolist() == filled


def test_a_response_that_is_long_enough_is_left_alone(short: Any, make: Any) -> None:
    """With `min_results` rows the other pipeline is not asked, and no row is marked."""
    outcome = short(
        {"sources": [source(make, "sold", (8,))]}, {"sources": [source(make, "own", range(4))], "result_size": 9}
    )
    assert outcome.item_ids.tolist() == [0, 1, 2, 3]
    assert [entry.stage for entry in outcome.trace] == ["sources", "selector"]
    assert outcome.selected[TOPPED_UP].tolist() == [False] * 4
    assert outcome.inner == {}


@pytest.mark.parametrize("broken", [True, False])
def test_when_the_other_pipeline_has_nothing(short: Any, make: Any, broken: bool) -> None:
    """A failing or empty pipeline leaves the response as it was, and the trace says why."""
    popular: dict[str, Any] = {"sources": [source(make, "sold", ())]}
    if broken:
        popular["scorers"] = [make("scorer", lambda *_: 1 / 0, "dear", writes=[SCORE])]
    outcome = short(popular, {"sources": [source(make, "own", (1, 2))], "result_size": 4})
    assert outcome.item_ids.tolist() == [1, 2]
    assert outcome.selected[TOPPED_UP].tolist() == [False, False]
    record = outcome.trace[-1]
    if broken:
        why = "pipeline 'popular': scorer dear (ToyScorer) failed: ZeroDivisionError: division by zero"
        assert (record.status, record.error) == ("skipped", why)
        assert outcome.why_short() == f"2 of at most 4 rows out of 2 fetched: popular failed ({why})"
    else:
        assert (record.status, record.note) == ("ok", "0 rows of 0 fill the response")
        assert outcome.why_short() == "2 of at most 4 rows out of 2 fetched"


def test_nothing_at_all_is_filled_too(short: Any, make: Any) -> None:
    """A response without a row of its own, whose sources failed, is the other pipeline's."""
    outcome = short(
        {"sources": [source(make, "sold", (8, 9), SALES)]},
        {"sources": [make("source", lambda *_: 1 / 0, "own", writes=[PRICE])], "show": [PRICE]},
    )
    assert outcome.item_ids.tolist() == [8, 9]
    assert outcome.selected[TOPPED_UP].tolist() == [True, True]
    assert [item["columns"] for item in outcome.to_dict()["items"]] == [{"toy.price": None}] * 2


def test_a_misconfiguration_there_ends_the_request(short: Any, make: Any) -> None:
    """Nothing hides a component of the other pipeline that reads what it does not declare."""
    spy = make("filter", lambda q, c, ctx: c[PRICE] > 0, "spy")
    with pytest.raises(MisconfigurationError, match="spy"):
        short(
            {"sources": [source(make, "sold", (8,), SALES)], "filters": [spy]},
            {"sources": [source(make, "own", (1,))]},
        )


def test_the_time_of_topping_up_is_bounded(short: Any, make: Any) -> None:
    """`top_up` has a budget like a stage."""

    async def slow(query: Any, ctx: Any) -> Candidates:
        await asyncio.sleep(60)
        return Candidates.empty()

    outcome = short(
        {"sources": [make("source", slow, "slow")]},
        {
            "sources": [source(make, "own", (1,))],
            "stages": {"top_up": StageOptions(timeout=dt.timedelta(seconds=2))},
        },
    )
    assert (outcome.elapsed_ms, outcome.item_ids.tolist()) == (2000, [1])
    assert outcome.trace[-1].error == "timed out after 2000 ms (the budget of the stage)"


def test_inputs_reach_the_other_pipeline(short: Any, make: Any) -> None:
    """It gets the features that it declares as inputs; one that failed is failed there, and its filter closes."""
    seen = []

    def fetch(query: Any, ctx: Any) -> Candidates:
        seen.append((query[BUYER], query[BLOCKED]))
        return Candidates.of(ITEM_ID([5, 6]))

    def popular(safety: bool) -> Any:
        keep = make(
            "filter", lambda q, c, ctx: ~np.isin(c[ITEM_ID], q[BLOCKED]), "block", reads=[BLOCKED], safety=safety
        )
        return {
            "inputs": {"who": BUYER, "blocked": BLOCKED},
            "sources": [make("source", fetch, "sold", reads=[BUYER, BLOCKED])],
            "filters": [keep],
        }

    def main(blocked: Any) -> Any:
        return {
            "inputs": {"buyer": BUYER},
            "query_hydrators": [make("query_hydrator", blocked, "blocked", writes=[BLOCKED])],
            "sources": [source(make, "own", (1,))],
        }

    fine = short(popular(True), main(lambda q, ctx: query_patch(BLOCKED((5,)))), [{"buyer": 3}])
    assert fine.item_ids.tolist() == [1, 6]
    closed = short(popular(True), main(lambda *_: 1 / 0), [{"buyer": 3}])
    assert closed.item_ids.tolist() == [1]
    assert "query feature toy.blocked failed" in closed.trace[-1].error
    opened = short(popular(False), main(lambda *_: 1 / 0), [{"buyer": 3}])
    assert opened.item_ids.tolist() == [1, 5, 6]
    assert seen == [(3, (5,)), (3, ()), (3, ())]


def test_other_labels_are_left_out(short: Any, make: Any) -> None:
    """A labelled column that the other pipeline gives under other labels is null in its rows, and the trace says so."""

    def heads(*labels: str) -> Any:
        def score(query: Any, candidates: Candidates, ctx: Any) -> Any:
            return patch(
                THREE_HEADS(np.ones((len(candidates), len(labels))), labels=labels), SCORE(candidates[ITEM_ID] * 1.0)
            )

        return [make("scorer", score, "ranker", writes=[THREE_HEADS, SCORE])]

    outcome = short(
        {"sources": [source(make, "sold", (8, 9))], "scorers": heads("b", "c")},
        {"sources": [source(make, "own", (1,))], "scorers": heads("a")},
    )
    assert outcome.item_ids.tolist() == [1, 9, 8]
    assert outcome.selected.labels(THREE_HEADS) == ("a",)
    assert outcome.selected.valid(THREE_HEADS).tolist() == [True, False, False]
    assert outcome.selected[SCORE].tolist() == [1, 9, 8]
    assert outcome.trace[-1].note == "2 rows of 2 fill the response, without toy.heads, whose labels differ"


def test_a_source_and_what_tops_up_may_have_one_name(short: Any, make: Any) -> None:
    """A pipeline that is a source and tops up as well has two outcomes, and both are kept."""
    inner = compose(
        "popular",
        sources=[source(make, "sold", (1, 2))],
        selector=make("selector", lambda q, c, ctx: rank_order(c), "top"),
    )
    outcome = short(
        {"sources": [source(make, "sold", (8, 9))]}, {"sources": [("popular", NestedPipeline(inner["popular"].plan))]}
    )
    assert outcome.item_ids.tolist() == [1, 2, 8, 9]
    assert {name: each.item_ids.tolist() for name, each in outcome.inner.items()} == {
        "popular": [1, 2],
        "popular (2)": [8, 9],
    }
    assert [len(entry.inner) for entry in outcome.trace] == [2, 0, 2]


@settings(max_examples=80, deadline=None)
@given(
    own=st.lists(st.integers(0, 9), unique=True, max_size=8),
    others=st.lists(st.integers(0, 9), max_size=12),
    bad=st.sets(st.integers(0, 9), max_size=4),
    worse=st.sets(st.integers(0, 9), max_size=4),
    chosen=st.integers(0, 6),
    least=st.integers(1, 6),
    more=st.integers(0, 3) | st.none(),
    refills=st.integers(0, 2),
    semantics=st.sampled_from(["strict", "upstream"]),
)
def test_topping_up_by_the_book(
    short: Any,
    make: Any,
    own: list[int],
    others: list[int],
    bad: set[int],
    worse: set[int],
    chosen: int,
    least: int,
    more: int | None,
    refills: int,
    semantics: Any,
) -> None:
    """No item twice, none that was dropped, no row too many, and every candidate in one place."""

    def without(items: set[int]) -> Any:
        return lambda q, c, ctx: ~np.isin(c[ITEM_ID], sorted(items))

    size = None if more is None else least + more
    popular = list(dict.fromkeys(others)) if semantics == "strict" else others
    outcome = short(
        {"sources": [source(make, "sold", popular)], "semantics": semantics},
        {
            "sources": [source(make, "own", own)],
            "filters": [make("filter", without(bad), "bad")],
            "selector": make("selector", lambda q, c, ctx: np.arange(min(chosen, len(c))), "first"),
            "post_selection_filters": [make("filter", without(worse), "worse")],
            "min_results": least,
            "result_size": size,
            "max_refills": refills,
        },
    )
    dropped = [item for table in outcome.dropped for item in table[ITEM_ID].tolist()]
    unselected = [item for table in outcome.unselected for item in table[ITEM_ID].tolist()]
    selected = outcome.item_ids.tolist()
    topped = outcome.selected[TOPPED_UP].tolist()
    mine = selected[: topped.count(False)]
    added = selected[len(mine) :]
    assert topped == [False] * len(mine) + [True] * len(added)
    fresh = [item for item in dict.fromkeys(others) if item not in {*mine, *dropped}]
    assert added == (fresh[: (size or least) - len(mine)] if len(mine) < least else [])
    assert len(selected) == len(set(selected))
    assert sorted([*selected, *dropped, *unselected]) == sorted({*own, *added})


# In TOML

POPULAR = """
[pipelines.popular]
inputs = { buyer = "shop.buyer" }
sources = ["shelf"]
hydrators = ["prices"]
filters = ["shop.banned"]
selector = "shop.first"
"""


def test_in_a_document(shop: Any) -> None:
    """`min_results` and `top_up` name what fills the response."""
    text = shop.changed(
        ("result_size = 2", 'result_size = 2\nmin_results = 2\ntop_up = "popular"'),
        ('filters = ["shop.banned", "affordable"]', 'filters = ["shop.banned"]'),
        ("size = 2\n\n", "size = 1\n\n"),
    )
    with shop.load(text + POPULAR, only=["shop"]) as app:
        outcome = app["shop"].run_sync(buyer=1, now=NOW)
    assert outcome.item_ids.tolist() == [1]
    assert outcome.trace[-1].note == "0 rows of 1 fill the response"


@pytest.mark.parametrize(
    ("settings", "popular", "mistake"),
    [
        ("min_results = 2", "", "E103 min_results needs the key 'top_up'"),
        ('top_up = "popular"', "", "E103 top_up needs the key 'min_results'"),
        ('min_results = 3\ntop_up = "popular"', "", "E104 min_results 3 is more than result_size 2"),
        ('min_results = 2\ntop_up = "popluar"', "", "E310 no pipeline 'popluar'"),
        ('min_results = 2\ntop_up = "shop"', "", "E310 the pipeline 'shop' would contain itself: shop -> shop"),
        ('min_results = 2\ntop_up = "popular"', "banned", "E310 top_up: the pipeline 'popular' lacks the safety"),
        ('min_results = 2\ntop_up = "popular"', "input", "E310 top_up: the pipeline 'popular' takes shop.budget"),
        ('min_results = 2\ntop_up = "popular"\nsemantics = "upstream"', "", "E311 top_up has no effect"),
    ],
)
def test_mistakes_in_the_document(shop: Any, settings: str, popular: str, mistake: str) -> None:
    """Settings that cannot work are found before anything runs."""
    text = shop.changed(("result_size = 2", f"result_size = 2\n{settings}"))
    if "upstream" in settings:
        text = text.replace(', on_error = "fallback:spare"', "")
    other = POPULAR.replace('filters = ["shop.banned"]\n', "") if popular == "banned" else POPULAR
    if popular == "input":
        text = text.replace('query_hydrators = ["shop.wallet"]\n', "").replace(
            '"shop.banned", "affordable"', '"shop.banned"'
        )
        other = other.replace('{ buyer = "shop.buyer" }', '{ buyer = "shop.buyer", budget = "shop.budget" }')
    found = shop.tried(text + other)
    assert isinstance(found, SpecError)
    messages = [f"{problem.code} {problem.message}" for problem in found.problems]
    assert len(messages) == 1, messages
    assert messages[0].startswith(mistake)
