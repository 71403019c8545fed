"""What an outcome says of itself: explanations, the trace, and why a response is short."""

from __future__ import annotations

import datetime as dt
import json
from math import isnan
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toys import STOCK, TITLE

from candidate_pipeline import (
    ITEM_ID,
    ITEM_TEXT_ID,
    SCORE,
    Candidates,
    Column,
    RunPolicy,
    compose,
    patch,
    rank_order,
    text_ids,
)
from candidate_pipeline.explain import Explanation, ScoreChange, lost_inside
from candidate_pipeline.explain_steps import Terms
from candidate_pipeline.testing import run_in_virtual_time

PRICE = Column("toy.price", np.float32, default=-1)
PARTS = Column("toy.parts", np.float32, labels=("price", "age", "luck"), terms_of=SCORE)
BOOST = Column("toy.boost", np.float32, terms_of=SCORE, factor=True)
WAYS = Column("toy.ways", np.float32, width=2, terms_of=SCORE)


def priced(*ids: int, **columns: Any) -> Any:
    """A source function of items, each at the price of its id."""

    def fetch(query: Any, ctx: Any) -> Candidates:
        return Candidates.of(ITEM_ID(list(ids)), PRICE([float(item) for item in ids]))

    return fetch


@pytest.fixture(scope="module")
def outcome(make: Any) -> Any:
    """An outcome with selected, overflowing, unselected and dropped rows, a failed and a null column."""

    def broken(*_: Any) -> Any:
        raise OSError("warehouse is shut")

    def parts(query: Any, candidates: Candidates, ctx: Any) -> Any:
        price = candidates[PRICE]
        return patch(
            PARTS(np.stack([price, np.zeros(len(price))], axis=1), labels=["price", "luck"]),
            SCORE(price, valid=price < 8),
        )

    def boost(query: Any, candidates: Candidates, ctx: Any) -> Any:
        factor = np.where(candidates[ITEM_ID] == 1, 10.0, 1.0)
        return patch(BOOST(factor), WAYS(np.ones((len(factor), 2))), SCORE(candidates[SCORE] * factor))

    app = compose(
        "toy",
        sources=[
            make("source", priced(1, 2, 3, 4), "left", writes=[PRICE]),
            make("source", priced(4, 5, 6, 7, 8), "right", writes=[PRICE]),
        ],
        hydrators=[
            make("hydrator", broken, "stock", writes=[STOCK]),
            make("hydrator", lambda q, c, ctx: patch(), "titles", writes=[TITLE]),
        ],
        filters=[make("filter", lambda q, c, ctx: c[ITEM_ID] != 3, "no_threes")],
        scorers=[
            make("scorer", parts, "parts", writes=[PARTS, SCORE]),
            make("scorer", boost, "boost", reads=[SCORE], writes=[BOOST, WAYS, SCORE]),
        ],
        selector=make("selector", lambda q, c, ctx: rank_order(c)[:5], "top_five"),
        post_selection_filters=[make("filter", lambda q, c, ctx: c[ITEM_ID] != 6, "no_sixes")],
        result_size=3,
        show=[PRICE, STOCK, TITLE],
    )

    async def serve() -> Any:
        async with app:
            return await app["toy"].run(
                request_id="r1", seed=5, now=dt.datetime(2026, 5, 1, tzinfo=dt.timezone(dt.timedelta(hours=2)))
            )

    return run_in_virtual_time(serve())


def test_selected_row_tells_its_whole_story(outcome: Any) -> None:
    """A returned row: rank, sources, what each scorer did, and every cell with its writer and state."""
    found = outcome.explain(1)
    assert (found.item_id, found.fate, found.rank, found.sources) == (1, "selected", 1, ("left",))
    assert (found.dropped_by, found.stage) == (None, None)
    assert found.scores == (
        ScoreChange("parts", before=None, after=1.0, rank_before=None, rank_after=6),
        ScoreChange("boost", before=1.0, after=10.0, rank_before=6, rank_after=1),
    )
    cells = {cell.column: (cell.value, cell.state, cell.writer) for cell in found.cells}
    assert cells == {
        "core.item_id": (1, "valid", "left"),
        "core.score": (10.0, "valid", "boost"),
        "toy.boost": (10.0, "valid", "boost"),
        "toy.parts": ({"price": 1.0, "luck": 0.0}, "valid", "parts"),
        "toy.price": (1.0, "valid", "left"),
        "toy.stock": (None, "failed", "stock"),
        "toy.title": (None, "null", "titles"),
        "toy.ways": ([1.0, 1.0], "valid", "boost"),
    }
    assert found.terms == (
        Terms("toy.parts", "parts", False, {"price": 1.0, "luck": 0.0}),
        Terms("toy.boost", "boost", True, {"boost": 10.0}),
        Terms("toy.ways", "boost", False, {"ways[0]": 1.0, "ways[1]": 1.0}),
    )


def test_explanation_in_words(outcome: Any) -> None:
    """The text names place, sources, each scorer and the parts of the score that change anything."""
    assert str(outcome.explain(1)).splitlines() == [
        "item 1: selected at rank 1",
        "  why: rank 1 of 7 by score; top_five chose 5",
        "  sources: left",
        "  parts: unscored -> 1, rank - -> 6",
        "  boost: 1 -> 10, rank 6 -> 1",
        "  toy.parts (parts): price +1",
        "  toy.boost (boost): x 10 boost",
        "  toy.ways (boost): ways[0] +1, ways[1] +1",
        "  not explained by terms (boost): -2",
    ]
    assert "x 1\n" in str(outcome.explain(7)) + "\n"


def test_a_factor_of_zero_is_shown() -> None:
    """The factor that explains a score of zero is not left out."""
    assert str(Terms("a.b", "s", True, {"x": 0.0, "y": 1.0, "z": 0.5})) == "x 0 x x 0.5 z"
    assert str(Terms("a.b", "s", False, {"x": 0.0, "y": 1.0, "z": -5.0})) == "z -5, y +1"


def test_row_of_several_sources_names_them_all(outcome: Any) -> None:
    """A row that two sources returned names both; its cells name the first with a value."""
    found = outcome.explain(4)
    assert found.sources == ("left", "right")
    assert next(cell.writer for cell in found.cells if cell.column == "toy.price") == "left"


@pytest.mark.parametrize(
    ("item", "fate", "dropped_by", "stage"),
    [
        (3, "dropped", "no_threes", "filters"),
        (6, "dropped", "no_sixes", "post_selection_filters"),
        (4, "unselected", None, None),
        (2, "unselected", None, None),
        (8, "unselected", None, None),
        (7, "selected", None, None),
    ],
)
def test_every_candidate_has_a_fate(outcome: Any, item: int, fate: str, dropped_by: Any, stage: Any) -> None:
    """Rows dropped before and after selection, cut by `result_size` or left by the selector are all explained."""
    found = outcome.explain(item)
    assert (found.fate, found.dropped_by, found.stage) == (fate, dropped_by, stage)
    if fate != "selected":
        assert found.rank is None
    text = str(found).splitlines()[0]
    assert text.startswith(f"item {item}: ")
    assert ("not selected" in text) == (fate == "unselected")
    assert (f"dropped by {dropped_by} ({stage})" in text) == (fate == "dropped")


def test_rows_of_the_outcome_are_accounted_for(outcome: Any) -> None:
    """Selected, unselected and dropped rows are all the candidates, each once."""
    tables = [outcome.selected, *outcome.unselected, *outcome.dropped]
    assert sorted(item for table in tables for item in table[ITEM_ID].tolist()) == list(range(1, 9))
    assert outcome.item_ids.tolist() == [1, 7, 5]


def test_unscored_row_is_explained_as_such(outcome: Any) -> None:
    """A row without a score has `None` for it, and the last rank."""
    found = outcome.explain(8)
    first, second = found.scores
    assert first == ScoreChange("parts", before=None, after=None, rank_before=None, rank_after=7)
    assert (second.before, second.rank_before, second.rank_after) == (None, 7, 7)
    assert second.after is not None
    assert isnan(second.after)  # what a careless scorer makes of no score


def test_item_that_nobody_returned(outcome: Any) -> None:
    """An item that was no candidate is a `KeyError` that names the sources."""
    with pytest.raises(
        KeyError, match=r"item 99 was not a candidate of this request: no source returned it \(sources: left, right\)"
    ):
        outcome.explain(99)


def test_trace_counts_rows_and_keeps_running_order(outcome: Any) -> None:
    """One record a call, in running order, with rows in and out."""
    assert [(entry.stage, entry.component, entry.status, entry.rows_in, entry.rows_out) for entry in outcome.trace] == [
        ("sources", "left", "ok", 0, 4),
        ("sources", "right", "ok", 0, 5),
        ("hydrators", "stock", "skipped", 8, 0),
        ("hydrators", "titles", "ok", 8, 8),
        ("filters", "no_threes", "ok", 8, 7),
        ("scorers", "parts", "ok", 7, 7),
        ("scorers", "boost", "ok", 7, 7),
        ("selector", "top_five", "ok", 7, 5),
        ("post_selection_filters", "no_sixes", "ok", 5, 4),
    ]
    assert outcome.trace[2].error == "OSError: warehouse is shut"
    assert outcome.trace[5].note == "1 row without a score"


def test_outcome_as_data(outcome: Any) -> None:
    """The outcome and its explanations are plain data that JSON can hold; null is `None`, failed says so."""
    data = json.loads(json.dumps(outcome.to_dict()))
    assert (data["pipeline"], data["request_id"], data["seed"]) == ("toy", "r1", 5)
    assert data["now"] == "2026-04-30T22:00:00+00:00"
    assert data["items"][0] == {
        "rank": 1,
        "item_id": 1,
        "score": 10.0,
        "sources": ["left"],
        "columns": {"toy.price": 1.0, "toy.stock": "failed", "toy.title": None},
    }
    assert [entry["component"] for entry in data["trace"]][:2] == ["left", "right"]
    assert data["why_short"] == ""
    assert json.loads(json.dumps(outcome.explain(1).as_dict()))["scores"][1]["rank_after"] == 1


# Text ids


def test_items_with_text_ids_are_explained_by_text(run: Any, make: Any) -> None:
    """An item whose id is a hashed text can be asked for by the text."""

    def fetch(query: Any, ctx: Any) -> Candidates:
        texts = ["apple", "pear"]
        return Candidates.of(ITEM_ID(text_ids(texts)), ITEM_TEXT_ID(texts))

    outcome = run(sources=[make("source", fetch, "s", writes=[ITEM_TEXT_ID])])
    assert outcome.explain("pear").rank == 2
    with pytest.raises(KeyError, match="item plum was not a candidate"):
        outcome.explain("plum")


def test_an_item_named_on_a_command_line_is_an_id_or_a_text(run: Any, make: Any) -> None:
    """Expects a number written as text to be a text id where there is one and else an id, and any text to be safe."""

    def fetch(query: Any, ctx: Any) -> Candidates:
        texts = ["12", None]
        return Candidates.of(ITEM_ID([*text_ids(["12"]), 34]), ITEM_TEXT_ID(texts))

    outcome = run(sources=[make("source", fetch, "s", writes=[ITEM_TEXT_ID])])
    assert [outcome.explain(named).rank for named in ("12", "34", 34)] == [1, 2, 2]
    for named in ("\u00b2", "--5", "", "\udcff", "9" * 5000):
        with pytest.raises(KeyError, match="was not a candidate"):
            outcome.explain(named)


def test_an_error_of_a_namesake_is_not_told() -> None:
    """Expects the error of the nested pipeline itself, not that of one whose name begins its name."""
    inner = SimpleNamespace(plan="inner")
    entries = [
        SimpleNamespace(component="feed", error="OSError: shut"),
        SimpleNamespace(component="feed_b", error="late"),
    ]
    outer: Any = SimpleNamespace(
        plan=SimpleNamespace(top_up=None, name="outer"), inner={"feed_b": inner, "feed_b (2)": inner}, trace=entries
    )
    found = Explanation(1, "selected", 1, (), None, None, (), (), ())
    for name in ("feed_b", "feed_b (2)"):
        assert lost_inside(outer, name, found).reason == f"{name} returned it, but its answer was not used: late"


# Why a response is short


def test_full_response_needs_no_reason(run: Any, make: Any) -> None:
    """A response of the size asked for, or with any rows where no size was asked, has no reason to give."""
    assert run(result_size=3).why_short() == ""
    assert run().why_short() == ""
    assert run(result_size=2).why_short() == ""


def test_reasons_name_who_dropped_the_most(run: Any, make: Any) -> None:
    """A short response names failures, the filters that dropped most, and the selector."""
    filters = [
        make("filter", lambda q, c, ctx: c[ITEM_ID] > 10, "small"),
        make("filter", lambda q, c, ctx: c[ITEM_ID] < 95, "large"),
        make("filter", lambda *_: 1 / 0, "broken"),
    ]
    outcome = run(
        sources=[make("source", lambda q, ctx: Candidates.of(ITEM_ID(list(range(100)))), "s")],
        filters=filters,
        selector=make("selector", lambda q, c, ctx: rank_order(c)[:4], "top_four"),
        result_size=9,
    )
    assert outcome.why_short() == (
        "4 of at most 9 rows out of 100 fetched: broken failed (ZeroDivisionError: division by zero); "
        "small dropped 11; large dropped 5; top_four chose 4 of 84"
    )


def test_a_filter_that_failed_open_dropped_nothing(run: Any, make: Any) -> None:
    """A skipped filter is named for its failure, not for rows it never dropped; nor is one whose fallback ran."""
    outcome = run(filters=[make("filter", lambda *_: 1 / 0, "f")], result_size=9)
    assert outcome.why_short() == "3 of at most 9 rows out of 3 fetched: f failed (ZeroDivisionError: division by zero)"
    outcome = run(
        filters=[make("filter", lambda *_: 1 / 0, "f")],
        fallbacks=[make("filter", lambda q, c, ctx: c[ITEM_ID] > 1, "g")],
        policies={"f": RunPolicy(on_error="fallback:g")},
        result_size=9,
    )
    assert outcome.why_short() == "2 of at most 9 rows out of 3 fetched: g dropped 1"


def test_empty_response_always_says_why(run: Any, make: Any) -> None:
    """Sources that failed, or gave nothing, are named."""
    outcome = run(sources=[make("source", lambda *_: 1 / 0, "down"), make("source", priced(), "empty", writes=[PRICE])])
    assert outcome.why_short() == (
        "0 rows out of 0 fetched: down failed (ZeroDivisionError: division by zero); "
        "the sources returned nothing (down, empty)"
    )


def test_a_selector_that_failed_chose_nothing(run: Any, make: Any) -> None:
    """Only the selector that answered is named for what it left."""
    outcome = run(
        selector=make("selector", lambda *_: 1 / 0, "first"),
        fallbacks=[make("selector", lambda q, c, ctx: np.array([0]), "second")],
        policies={"first": RunPolicy(on_error="fallback:second")},
        result_size=3,
    )
    assert outcome.why_short() == "1 of at most 3 rows out of 3 fetched: second chose 1 of 3"
