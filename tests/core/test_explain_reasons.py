"""Why a row was dropped, left or chosen, in words: filters' own reasons, and the engine's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs
from toys import NOW, STOCK, best_by_rules

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    Column,
    Query,
    QueryFeature,
    RunPolicy,
    SpecError,
    compose,
    patch,
    per_item,
    rank_order,
)
from candidate_pipeline.candidates import Row
from candidate_pipeline.testing import check_component, run_in_virtual_time

FLAG = QueryFeature("toy.flag", bool)
PRICE = Column("toy.price", np.float32, default=-1)


def shelf(make: Any, *ids: int, name: str = "shelf") -> Any:
    """A source of items, each at the price of its id, which is its score as well."""
    rows = list(ids)
    given = {"name": name, "writes": [PRICE, SCORE]}
    return make("source", lambda q, ctx: Candidates.of(ITEM_ID(rows), PRICE(rows), SCORE(rows)), **given)


def top(make: Any, size: int | None = None) -> Any:
    """A selector of the best rows."""
    return make("selector", lambda q, c, ctx: rank_order(c, ctx.semantics)[:size], "top", reads=[SCORE])


def dropping(make: Any, *ids: int, name: str = "picky", **attributes: Any) -> Any:
    """A filter that drops items."""
    return make("filter", lambda q, c, ctx: ~np.isin(c[ITEM_ID], ids), name, **attributes)


def told(self: object, query: Query, row: Row) -> str:
    """A reason."""
    return f"costs {row[PRICE]:g} at {query.now:%Y}"


# Filters' own reasons


def test_a_filter_says_why(run: Any, make: Any) -> None:
    """The reason is asked with the query and the dropped row, and stands in text and data."""
    stages = {"sources": [shelf(make, 1, 2, 3)], "filters": [dropping(make, 2, reason=told)]}
    found = run(**stages, request={"now": NOW}).explain(2)
    assert found.reason == "costs 2 at 2026"
    assert str(found).splitlines()[:2] == ["item 2: dropped by picky (filters)", "  why: costs 2 at 2026"]
    assert found.as_dict()["reason"] == "costs 2 at 2026"


def test_reasons_are_asked_by_explain_only(run: Any, make: Any) -> None:
    """A request never calls `reason`."""
    asked = []

    def reason(self: object, query: Query, row: Row) -> str:
        asked.append(row[ITEM_ID])
        return "unwanted"

    outcome = run(sources=[shelf(make, 1, 2, 3)], filters=[dropping(make, 2, 3, reason=reason)])
    assert asked == []
    outcome.explain(3)
    assert asked == [3]


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (lambda self, query, row: 1 / 0, "no reason: ZeroDivisionError: division by zero"),
        (lambda self, query, row: 7, "no reason: ToyFilter.reason gave 7, not text"),
        (lambda self, query, row: " \n ", "no reason: ToyFilter.reason gave no text"),
        (lambda self, query, row: "over\n two  lines", "over two lines"),
        (None, "no reason: ToyFilter does not say why it drops a row"),
    ],
)
def test_a_reason_never_breaks_an_explanation(run: Any, make: Any, reason: Any, said: str) -> None:
    """One that raises, is not text, or is missing shows so; what is text becomes one line."""
    given = {} if reason is None else {"reason": reason}
    outcome = run(sources=[shelf(make, 1, 2)], filters=[dropping(make, 2, **given)])
    assert outcome.explain(2).reason == said


def test_a_reason_sees_the_rows_that_were_live(run: Any, make: Any) -> None:
    """`row.candidates` holds what the filter was given, without rows that filters before it had dropped."""

    def others(self: object, query: Query, row: Row) -> str:
        assert row.candidates[ITEM_ID][row.at] == row[ITEM_ID]
        return f"among {row.candidates[ITEM_ID].tolist()}"

    filters = [
        dropping(make, 1, name="first", reason=others),
        dropping(make, 2, 3, name="second", reason=others),
        dropping(make, 4, name="third", reason=others),
    ]
    for semantics in ("strict", "upstream"):
        outcome = run(sources=[shelf(make, 1, 2, 3, 4, 5)], filters=filters, semantics=semantics)
        assert outcome.explain(1).reason == "among [1, 2, 3, 4, 5]"
        assert outcome.explain(3).reason == "among [2, 3, 4, 5]"
        assert outcome.explain(4).reason == "among [4, 5]"


def test_the_fallback_of_a_filter_says_why(run: Any, make: Any) -> None:
    """A row that a filter's stand-in dropped names the stand-in, and its reason."""
    with capture_logs():
        outcome = run(
            sources=[shelf(make, 1, 2)],
            filters=[make("filter", lambda *_: 1 / 0, "main")],
            fallbacks=[dropping(make, 2, name="spare", reason=told)],
            policies={"main": RunPolicy(on_error="fallback:spare")},
            request={"now": NOW},
        )
    found = outcome.explain(2)
    assert (found.dropped_by, found.stage, found.reason) == ("spare", "filters", "costs 2 at 2026")


def test_failing_closed_is_the_reason(run: Any, make: Any) -> None:
    """A safety filter that dropped a row because a cell had failed is not asked: the explanation says what failed."""

    def stock(query: Any, candidates: Candidates, ctx: Any) -> Any:
        raise OSError("warehouse is shut")

    def some(query: Any, candidates: Candidates, ctx: Any) -> Any:
        return patch(STOCK([1, 1, 1]), failed=np.array([False, True, False]))

    stages = {"sources": [shelf(make, 1, 2, 3)], "filters": [dropping(make, 1, safety=True, reads=[STOCK, PRICE])]}
    with capture_logs():
        outcome = run(hydrators=[make("hydrator", stock, "stock", writes=[STOCK])], **stages)
    assert outcome.explain(2).reason == "toy.stock failed (stock: OSError: warehouse is shut), and picky fails closed"
    outcome = run(hydrators=[make("hydrator", some, "stock", writes=[STOCK])], **stages)
    assert outcome.explain(2).reason == "toy.stock failed (stock), and picky fails closed"
    assert outcome.explain(1).reason == "no reason: ToyFilter does not say why it drops a row"


def test_a_row_dropped_in_a_refill(run: Any, make: Any) -> None:
    """A row that was chosen in a refill and dropped then says so, and so does one that stayed."""
    outcome = run(
        sources=[shelf(make, *range(1, 11))],
        selector=top(make, 3),
        post_selection_filters=[dropping(make, 9, 8, 7, reason=told)],
        result_size=3,
        max_refills=1,
        request={"now": NOW},
    )
    assert outcome.item_ids.tolist() == [10, 6, 5]
    assert str(outcome.explain(9)).startswith("item 9: dropped by picky (post_selection_filters)\n")
    assert str(outcome.explain(7)).startswith("item 7: dropped by picky (post_selection_filters) in refill 1\n")
    assert [outcome.explain(item).refill for item in (10, 9, 7, 6, 4)] == [0, 0, 1, 1, 0]
    assert outcome.explain(10).reason == "rank 1 of 10 by score; top chose 3"
    assert (
        outcome.explain(6).reason
        == "rank 5 of 10 by score; top chose it in refill 1, after rows were dropped from its first choice"
    )
    assert outcome.explain(4).reason == "rank 7 of 10 by score; top kept 3, and 1 refill took 3 more"


# Reasons that are wrong from the start


def test_an_option_called_reason_is_refused(make: Any) -> None:
    """What is called `reason` but cannot be asked is a mistake of the filter, seen when the pipeline is built."""

    async def later(self: object, query: Query, row: Row) -> str:
        return "later"

    for reason, said in (
        ("because", r"ToyFilter.reason must be a method that takes \(query, row\)"),
        (lambda self: "because", r"ToyFilter.reason must be a method that takes \(query, row\)"),
        (later, "ToyFilter.reason must be a plain def"),
    ):
        with pytest.raises(SpecError, match=said):
            compose("toy", sources=[shelf(make, 1)], filters=[dropping(make, 1, reason=reason)], selector=top(make))


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (lambda self, query, row: None, "as a reason, wanted text"),
        (lambda self, query, row: "", "empty reason"),
        (lambda self, query, row: "a\nb", "several lines"),
        (lambda self, query, row, asked=[]: asked.append(1) or str(len(asked)), "two reasons for the same row"),
    ],
)
def test_the_testing_kit_checks_reasons(make: Any, reason: Any, said: str) -> None:
    """`check_component` asks for the reason of every dropped row."""
    _, component = make("filter", lambda q, c, ctx: c[PRICE] > 0, reads=[PRICE], reason=reason)
    with pytest.raises(AssertionError, match=said):
        check_component(component, max_examples=20)


def test_per_item_filters_may_say_why(run: Any, make: Any) -> None:
    """`per_item` takes a reason beside its function."""

    @per_item(reads=[PRICE], reason=lambda query, row: f"costs {row[PRICE]:g}")
    def cheap(query: Query, row: Row) -> bool:
        return bool(row[PRICE] < 2)

    check_component(cheap())
    assert run(sources=[shelf(make, 1, 5)], filters=[cheap()]).explain(5).reason == "costs 5"


# Rows that were ranked


def test_what_is_not_selected_says_its_rank(run: Any, make: Any) -> None:
    """Left by the selector, cut at the response's size, or selected: each says rank, count, and who decided."""
    outcome = run(sources=[shelf(make, *range(1, 8))], selector=top(make, 4), result_size=3)
    assert outcome.explain(1).reason == "rank 7 of 7 by score; top kept 4"
    assert outcome.explain(4).reason == "rank 4 of 7 by score; top chose it, but the response holds at most 3"
    assert outcome.explain(6).reason == "rank 2 of 7 by score; top chose 4"


def test_rows_without_a_score_say_so(run: Any, make: Any) -> None:
    """Unscored and NaN rows rank last, and the reason says why; without any scores there are places only."""

    def odd(query: Any, candidates: Candidates, ctx: Any) -> Any:
        return patch(SCORE(np.array([np.nan, 1, 1], np.float32), valid=[True, False, True]))

    outcome = run(scorers=[make("scorer", odd, "odd", writes=[SCORE])], selector=top(make, 1))
    assert [outcome.explain(item).reason for item in (1, 2, 3)] == [
        "rank 3 of 3 by score (it is NaN); top kept 1",
        "rank 2 of 3 by score (it has none); top kept 1",
        "rank 1 of 3 by score; top chose 1",
    ]
    assert run().explain(2).reason == "place 2 of 3, none of them scored; top chose 3"


def test_a_closed_selector_chose_all(run: Any, make: Any) -> None:
    """Under the published semantics a selector that is not enabled lets everything through."""
    outcome = run(
        sources=[shelf(make, 1, 2)],
        selector=top(make, 1),
        policies={"top": RunPolicy(when={"toy.flag": True})},
        inputs={"flag": FLAG},
        request={"flag": False},
        semantics="upstream",
    )
    assert outcome.explain(1).reason == "rank 2 of 2 by score; no selector ran, so all were chosen"


def test_copies_of_an_item(run: Any, make: Any) -> None:
    """Of several rows of one item the one that came furthest is told, with what was done to that very row."""

    def rising(query: Any, candidates: Candidates, ctx: Any) -> Any:
        return patch(SCORE(np.arange(len(candidates), dtype=np.float32)))

    outcome = run(
        sources=[shelf(make, 1, 2, name="left"), shelf(make, 2, 1, name="right")],
        scorers=[make("scorer", rising, "rising", writes=[SCORE])],
        selector=top(make, 1),
        semantics="upstream",
    )
    found = outcome.explain(1)
    assert (found.fate, found.sources, found.copies) == ("selected", ("right",), 2)
    assert [(change.after, change.rank_after) for change in found.scores] == [(3.0, 1)]
    assert "  rows of it: 2, of which this one came furthest" in str(found)
    found = outcome.explain(2)
    assert (found.fate, found.sources, found.scores[0].after) == ("unselected", ("right",), 2.0)


# Rows of other pipelines


@pytest.fixture(scope="module")
def topped(make: Any) -> Any:
    """An outcome of a pipeline that another one, called `popular`, tops up."""
    select = make("selector", best_by_rules, "best", reads=[SCORE])
    spare = compose("popular", sources=[shelf(make, 3, 7, 8, 9)], selector=select)
    app = compose(
        "main",
        sources=[shelf(make, 1, 2, 3)],
        filters=[dropping(make, 1)],
        selector=top(make, 1),
        min_results=3,
        top_up=spare["popular"],
        result_size=3,
    )

    async def serve() -> Any:
        async with spare, app:
            return await app["main"].run(now=NOW)

    return run_in_virtual_time(serve())


def test_rows_that_fill_a_response(topped: Any) -> None:
    """What another pipeline filled a response with says so; what it offered without being taken, why it was not."""
    assert topped.item_ids.tolist() == [3, 9, 8]
    assert topped.explain(9).reason == "the pipeline popular filled the response with it"
    found = topped.explain(7)
    assert (found.fate, found.sources, found.pipeline) == ("unselected", ("popular",), "main")
    assert found.reason == "popular offered it to fill the response, at place 3; there was room for 2"
    assert found.inner[0].reason == "rank 3 of 4 by score; best chose 4"
    assert topped.explain(2).reason == "rank 2 of 2 by score; top kept 1"


def test_a_left_row_that_another_pipeline_brings_back(make: Any) -> None:
    """It says who brought it back, and how it fared at first; its score is the other pipeline's."""
    select = make("selector", best_by_rules, "best", reads=[SCORE])
    spare = compose("popular", sources=[shelf(make, 1)], selector=select)
    double = make("scorer", lambda q, c, ctx: patch(SCORE(c[SCORE] * 2)), "double", reads=[SCORE], writes=[SCORE])
    app = compose(
        "main",
        sources=[shelf(make, 1, 2)],
        scorers=[double],
        selector=top(make, 1),
        min_results=2,
        top_up=spare["popular"],
    )

    async def serve() -> Any:
        async with spare, app:
            return await app["main"].run(now=NOW)

    found = run_in_virtual_time(serve()).explain(1)
    assert (
        found.reason
        == "the pipeline popular filled the response with it; by its own score here it was rank 2 of 2 by score"
    )
    assert [(step.label, step.scorer, step.total) for step in found.steps()] == [
        ("given score", "shelf", 1.0),
        ("not explained by terms", "double", 2.0),
        ("given score", "popular", 1.0),
    ]
