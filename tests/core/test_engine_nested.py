"""Pipelines inside pipelines: what goes in, what comes out, whose failure it is, and what is remembered."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from toys import BLOCKED, BUYER, NOW, PRICE, STOCK, best_by_rules, seconds

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    BreakerPolicy,
    CachePolicy,
    Candidates,
    MisconfigurationError,
    NestedPipeline,
    QueryFeature,
    RequestError,
    RunPolicy,
    SpecError,
    StageOptions,
    compose,
    patch,
    query_patch,
    rank_order,
)
from candidate_pipeline.testing import run_in_virtual_time


def prices(*ids: int, after: float = 0) -> Any:
    """A source function of items, each at the price of its id."""

    async def fetch(query: Any, ctx: Any) -> Candidates:
        await asyncio.sleep(after)
        return Candidates.of(ITEM_ID(list(ids)), PRICE([float(item) for item in ids]))

    return fetch


@pytest.fixture(scope="module")
def nest(make: Any) -> Any:
    """Builds a pipeline `inner` and one or more that contain it, and runs requests of the outermost."""

    def plan(name: str, **stages: Any) -> Any:
        given = {
            "sources": [make("source", prices(1, 2, 3, 4), "stall", writes=[PRICE])],
            "selector": make("selector", best_by_rules, "top"),
        }
        return compose(name, **(given | stages))[name].plan

    def nest(inner: Any, requests: Any = ({},), **outer: Any) -> Any:
        inner_plan = plan("inner", **inner)
        app = compose(
            "outer",
            **(
                {
                    "sources": [("market", NestedPipeline(inner_plan))],
                    "selector": make("selector", best_by_rules, "top"),
                }
                | outer
            ),
        )

        async def main() -> Any:
            async with app:
                outcomes = [await app["outer"].run(**{"now": NOW, "request_id": "r", **each}) for each in requests]
                return outcomes if len(outcomes) > 1 else outcomes[0]

        return run_in_virtual_time(main())

    nest.plan = plan  # type: ignore[attr-defined]  # for what is nested more deeply
    return nest


# What goes in and what comes out


@pytest.fixture(scope="module")
def outcome(nest: Any, make: Any) -> Any:
    """Items 1 to 4 in the inner pipeline, of which it drops 1 and leaves 2; the outer one drops 3."""
    return nest(
        {
            "filters": [make("filter", lambda q, c, ctx: c[ITEM_ID] != 1, "no_ones")],
            "scorers": [
                make("scorer", lambda q, c, ctx: patch(SCORE(c[PRICE])), "dear", reads=[PRICE], writes=[SCORE])
            ],
            "selector": make("selector", lambda q, c, ctx: rank_order(c)[:2], "top_two"),
        },
        filters=[make("filter", lambda q, c, ctx: c[ITEM_ID] != 3, "no_threes")],
        scorers=[make("scorer", lambda q, c, ctx: patch(SCORE(-c[PRICE])), "cheap", reads=[PRICE], writes=[SCORE])],
    )


def test_rows_come_out_as_the_sources_own(outcome: Any) -> None:
    """The inner pipeline's selected rows and columns are the source's rows; its sources and drops stay inside."""
    assert outcome.item_ids.tolist() == [4]
    assert outcome.retrieved[ITEM_ID].tolist() == [4, 3]
    assert outcome.retrieved[SCORE].tolist() == [4, 3]
    assert set(outcome.retrieved.columns) == {ITEM_ID, PRICE, SCORE}
    assert (outcome.selected.sources(0), outcome.selected.source_names) == (("market",), ("market",))
    assert outcome.retrieved.alive.all()


def test_the_inner_trace_and_outcome_are_kept(outcome: Any) -> None:
    """The source's record holds the inner trace, and the outcome the inner outcome, as plain data too."""
    record = outcome.trace[0]
    assert (record.component, record.status, record.rows_out) == ("market", "ok", 2)
    assert [entry.component for entry in record.inner] == ["stall", "no_ones", "dear", "top_two"]
    inside = outcome.inner["market"]
    assert record.inner == inside.trace
    assert (inside.plan.name, inside.query.request_id, inside.query.now) == ("inner", "r", NOW)
    data = json.loads(json.dumps(outcome.to_dict()))
    assert [entry["component"] for entry in data["trace"][0]["inner"]] == ["stall", "no_ones", "dear", "top_two"]


def test_selected_items_are_explained_on_both_levels(outcome: Any) -> None:
    """What was selected or dropped outside also says how it fared inside."""
    selected = outcome.explain(4)
    assert (selected.fate, selected.rank, selected.pipeline, selected.within) == ("selected", 1, "outer", ())
    assert [(each.pipeline, each.fate, each.rank, each.sources) for each in selected.inner] == [
        ("inner", "selected", 1, ("stall",))
    ]
    assert str(selected).splitlines() == [
        "item 4: selected at rank 1",
        "  why: rank 1 of 1 by score; top chose 1",
        "  sources: market",
        "  cheap: 4 -> -4, rank 1 -> 1",
        "  in inner:",
        "      why: rank 1 of 3 by score; top_two chose 2",
        "      sources: stall",
        "      dear: unscored -> 4, rank - -> 1",
    ]
    dropped = outcome.explain(3)
    assert (dropped.fate, dropped.dropped_by, dropped.inner[0].rank) == ("dropped", "no_threes", 2)
    assert {cell.column: cell.writer for cell in dropped.cells} == dict.fromkeys(
        ["core.item_id", "core.score", "toy.price"], "market"
    )


@pytest.mark.parametrize(
    ("item", "fate", "line"),
    [(1, "dropped", "dropped by no_ones (filters) inside market"), (2, "unselected", "not selected inside market")],
)
def test_items_lost_inside_are_explained(outcome: Any, item: int, fate: str, line: str) -> None:
    """An item that never came out of the inner pipeline says where in it it was lost."""
    found = outcome.explain(item)
    assert (found.fate, found.pipeline, found.within) == (fate, "inner", ("market",))
    assert str(found).splitlines()[0] == f"item {item}: {line}"
    with pytest.raises(KeyError, match="item 9 was not a candidate of this request"):
        outcome.explain(9)


def test_pipelines_nest_more_than_once(nest: Any, make: Any) -> None:
    """An item lost two pipelines down names both; traces are inside one another."""
    middle = nest.plan(
        "middle", sources=[("cellar", NestedPipeline(nest.plan("deep", selector=make("selector", two, "two"))))]
    )
    outcome = nest({"sources": [("middle", NestedPipeline(middle))]})
    assert outcome.explain(3).within == ("market", "middle", "cellar")
    assert str(outcome.explain(3)).startswith("item 3: not selected inside market / middle / cellar\n")
    assert outcome.trace[0].inner[0].inner[0].inner[0].component == "stall"
    assert [each.pipeline for each in outcome.explain(1).inner] == ["inner"]


def two(query: Any, candidates: Candidates, ctx: Any) -> Any:
    """The first two rows."""
    return np.arange(min(2, len(candidates)))


def test_inputs_are_passed_by_feature(nest: Any, make: Any) -> None:
    """The inner pipeline gets, under whatever parameter name, what the outer one was given or hydrated, and no more."""
    seen = []

    def fetch(query: Any, ctx: Any) -> Candidates:
        seen.append((query[BUYER], query[BLOCKED], sorted(feature.name for feature in query.features), query.seed))
        return Candidates.of(ITEM_ID([1]))

    secret = QueryFeature("toy.secret", int)
    inner = {
        "inputs": {"who": BUYER, "blocked": BLOCKED},
        "sources": [make("source", fetch, "stall", reads=[BUYER, BLOCKED])],
    }

    def outer(*hydrators: Any) -> Any:
        return {"query_hydrators": hydrators, "inputs": {"secret": secret}}

    buyer = make("query_hydrator", lambda q, ctx: query_patch(BUYER(5)), "buyer", writes=[BUYER])
    blocked = make("query_hydrator", lambda q, ctx: query_patch(BLOCKED((7,))), "blocked", writes=[BLOCKED])
    nest(inner, [{"secret": 1, "seed": 3}], **outer(buyer, blocked))
    nest(inner, [{"secret": 1}], **outer(buyer))
    assert seen == [(5, (7,), ["toy.blocked", "toy.buyer"], 3), (5, (), ["toy.buyer"], 0)]


def test_an_input_that_is_not_there_is_the_sources_failure(nest: Any, make: Any) -> None:
    """A required input that is absent or failed keeps the inner pipeline from running."""
    inner = {"inputs": {"who": BUYER}}
    nothing = make("query_hydrator", lambda q, ctx: query_patch(), "buyer", writes=[BUYER])
    broken = make("query_hydrator", lambda *_: 1 / 0, "buyer", writes=[BUYER])
    record = nest(inner, query_hydrators=[nothing]).trace[-2]
    assert record.error == "pipeline 'inner' needs the query feature toy.buyer, which is absent"
    record = nest(inner, query_hydrators=[broken]).trace[-2]
    assert record.error == "query feature toy.buyer failed: buyer: ZeroDivisionError: division by zero"
    with pytest.raises(SpecError, match=r"market reads the query feature toy.buyer, which nobody writes"):
        nest(inner)


@pytest.mark.parametrize("safety", [True, False])
def test_a_failed_input_is_failed_inside(nest: Any, make: Any, safety: bool) -> None:
    """A block list that could not be read does not become an empty one for the safety filter of an inner pipeline."""
    keep = make(
        "filter",
        lambda q, c, ctx: ~np.isin(c[ITEM_ID], q[BLOCKED]),
        "blocked_items",
        reads=[BLOCKED],
        safety=safety,
    )
    outcome = nest(
        {"inputs": {"blocked": BLOCKED}, "filters": [keep]},
        query_hydrators=[make("query_hydrator", lambda *_: 1 / 0, "blocked", writes=[BLOCKED])],
    )
    assert outcome.item_ids.tolist() == ([] if safety else [1, 2, 3, 4])
    if safety:
        assert "blocked_items" in outcome.trace[1].error
        assert "query feature toy.blocked failed" in outcome.trace[1].error


# Failure and time


@pytest.mark.parametrize("policy", [None, "fail", "fallback:spare"])
def test_a_failure_inside_is_the_sources(nest: Any, make: Any, policy: Any) -> None:
    """The inner pipeline's failure falls under the source's own policy, and the message tells where it began."""
    inner = {"scorers": [make("scorer", lambda *_: 1 / 0, "dear", writes=[SCORE])]}
    outer = {
        "run": {"market": RunPolicy(on_error=policy)},
        "fallbacks": [make("source", prices(8), "spare", writes=[PRICE])] if policy == "fallback:spare" else [],
    }
    why = "pipeline 'inner': scorer dear (ToyScorer) failed: ZeroDivisionError: division by zero"
    if policy == "fail":
        with pytest.raises(RequestError, match=r"pipeline 'outer': source market .* failed: ") as caught:
            nest(inner, **outer)
        assert why in str(caught.value)
        return
    outcome = nest(inner, **outer)
    assert outcome.trace[0].error == why
    assert outcome.inner == {}
    assert outcome.item_ids.tolist() == ([8] if policy else [])
    assert outcome.selected.failed(SCORE).tolist() == ([True] if policy else [])


def test_a_misconfiguration_inside_ends_the_request(nest: Any, make: Any) -> None:
    """A component inside that reads what it does not declare is no failure that could be skipped."""
    inner = {"hydrators": [make("hydrator", lambda q, c, ctx: patch(STOCK(c[SCORE])), "stock", writes=[STOCK])]}
    with pytest.raises(MisconfigurationError, match=r"stock .* reads what its `reads` does not declare"):
        nest(inner, run={"market": RunPolicy(on_error="skip")})


@pytest.mark.parametrize(
    ("inner", "outer", "elapsed", "left"),
    [
        ({"deadline": seconds(2)}, {"deadline": seconds(5)}, 2000, [1]),
        ({"deadline": seconds(5)}, {"deadline": seconds(2)}, 2000, None),
        ({"deadline": seconds(5)}, {"run": {"market": RunPolicy(timeout=seconds(3))}}, 3000, None),
        ({}, {"stages": {"sources": StageOptions(timeout=seconds(4))}}, 4000, None),
        (
            {"stages": {"sources": StageOptions(reserve=seconds(1))}, "deadline": seconds(9)},
            {"deadline": seconds(3), "stages": {"sources": StageOptions(reserve=seconds(0.5))}},
            1500,
            [1],
        ),
    ],
)
def test_the_earlier_deadline_counts(nest: Any, make: Any, inner: Any, outer: Any, elapsed: int, left: Any) -> None:
    """Inside, a request ends at its own deadline or at the end of the source's time, reserves counting from there."""
    sources = [
        make("source", prices(1), "quick", writes=[PRICE]),
        make("source", prices(2, after=60), "slow", writes=[PRICE]),
    ]
    outcome = nest({"sources": sources, **inner}, **outer)
    assert outcome.elapsed_ms == elapsed
    if left is not None:
        assert outcome.item_ids.tolist() == left
        assert [entry.status for entry in outcome.trace[0].inner] == ["ok", "skipped", "ok"]


def test_leaving_the_inner_pipeline_leaves_no_task(nest: Any, make: Any) -> None:
    """A source cut at its timeout takes everything inside it along."""
    ended = []

    async def slow(query: Any, ctx: Any) -> Candidates:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(asyncio.get_running_loop().time())
        return Candidates.empty()

    nest({"sources": [make("source", slow, "slow")]}, run={"market": RunPolicy(timeout=seconds(3))})
    assert ended == [3]


def test_inner_side_effects_run_once(nest: Any, make: Any) -> None:
    """A side effect of the inner pipeline runs on its outcome, not on the outer one's."""
    ran = []

    def note(query: Any, outcome: Any, ctx: Any) -> None:
        ran.append((ctx.component, outcome.plan.name, len(outcome.selected), ctx.idempotency_key))

    nest(
        {"side_effects": [make("side_effect", note, "inside")]},
        side_effects=[make("side_effect", note, "outside")],
        filters=[make("filter", lambda q, c, ctx: c[ITEM_ID] > 2, "large")],
    )
    assert [each[:3] for each in ran] == [("inside", "inner", 4), ("outside", "outer", 2)]
    assert len({each[3] for each in ran}) == 2


def test_side_effects_of_one_name_have_keys_of_their_own(nest: Any, make: Any) -> None:
    """A side effect that the inner and the outer pipeline both list is told apart by its idempotency key."""
    keys = []

    def note(query: Any, outcome: Any, ctx: Any) -> None:
        keys.append(ctx.idempotency_key.removeprefix(query.request_id))

    nest({"side_effects": [make("side_effect", note, "note")]}, side_effects=[make("side_effect", note, "note")])
    assert keys == [":market:note", ":note"]


# One pipeline, several times


def test_the_same_pipeline_twice_shares_its_state(nest: Any, make: Any) -> None:
    """Two sources of one inner pipeline have outcomes of their own, one cache and one breaker."""
    asked = []

    def stock(query: Any, candidates: Candidates, ctx: Any) -> Any:
        asked.append(len(candidates))
        return patch(STOCK(candidates[ITEM_ID]))

    def broken(query: Any, candidates: Candidates, ctx: Any) -> Any:
        raise OSError("no line")

    inner = nest.plan(
        "inner",
        hydrators=[
            make("hydrator", stock, "stock", reads=[ITEM_ID], writes=[STOCK]),
            make("hydrator", broken, "broken", writes=[SCORE]),
        ],
        run={
            "stock": RunPolicy(cache=CachePolicy(ttl=seconds(10))),
            "broken": RunPolicy(breaker=BreakerPolicy(min_calls=3, open_for=seconds(60))),
        },
    )
    pair = [("left", NestedPipeline(inner)), ("right", NestedPipeline(inner))]
    first, second = nest({}, [{}, {}], sources=pair)
    assert asked == [4]
    assert list(first.inner) == ["left", "right"]
    assert first.item_ids.tolist() == [1, 2, 3, 4]
    assert first.selected.sources(0) == ("left", "right")
    assert [each.pipeline for each in first.explain(1).inner] == ["inner", "inner"]
    states = [entry.breaker for each in (first, second) for record in each.trace[:2] for entry in record.inner]
    assert sorted(states)[-2:] == ["open", "open"]
    errors = [entry.error for record in second.trace[:2] for entry in record.inner if entry.component == "broken"]
    assert errors[0] == "OSError: no line"
    assert errors[1].startswith("the circuit is open: 3 of 3 calls failed")


# Two semantics


@pytest.mark.parametrize("inside", ["upstream", "strict"])
def test_semantics_may_differ(nest: Any, make: Any, inside: Any) -> None:
    """Each pipeline follows its own rules: duplicates are merged by a strict one, failed cells null in the other."""

    def stock(query: Any, candidates: Candidates, ctx: Any) -> Any:
        return patch(STOCK(candidates[ITEM_ID]), failed=candidates[ITEM_ID] == 2)

    inner = {
        "semantics": inside,
        "sources": [
            make("source", prices(1, 2), "left", writes=[PRICE]),
            make("source", prices(2, 3), "right", writes=[PRICE]),
        ],
        "hydrators": [make("hydrator", stock, "stock", reads=[ITEM_ID], writes=[STOCK])],
    }
    outcome = nest(inner, semantics="strict" if inside == "upstream" else "upstream")
    assert outcome.inner["market"].item_ids.tolist() == ([1, 2, 2, 3] if inside == "upstream" else [1, 2, 3])
    assert outcome.inner["market"].selected.failed(STOCK).any() == (inside == "strict")
    assert outcome.item_ids.tolist() == [1, 2, 3]
    assert outcome.selected.cells(STOCK).states().tolist() == [1, 0, 1]
    assert outcome.selected[STOCK].tolist() == [1, 0, 3]


def test_the_published_semantics_inside_knows_no_failed_inputs(nest: Any, make: Any) -> None:
    """A feature with a default that failed outside is absent for an inner pipeline of the published semantics."""
    seen = []

    def keep(query: Any, candidates: Candidates, ctx: Any) -> Any:
        seen.append((query[BLOCKED], dict(query.failed)))
        return candidates[ITEM_ID] > 0

    nest(
        {
            "inputs": {"blocked": BLOCKED},
            "semantics": "upstream",
            "filters": [make("filter", keep, "keep", reads=[BLOCKED], safety=True)],
        },
        query_hydrators=[make("query_hydrator", lambda *_: 1 / 0, "blocked", writes=[BLOCKED])],
    )
    assert seen == [((), {})]


# In TOML

OUTER = """
[pipelines.outer]
inputs = { buyer = "shop.buyer" }
sources = ["market", "market_too"]
selector = "shop.first"
show = ["shop.price"]

[components.market]
use = "pipeline"
pipeline = "shop"
run = { timeout = "3s", on_error = "fail" }

[components.market_too]
use = "pipeline"
pipeline = "shop"
"""


def test_a_pipeline_of_the_same_spec(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`use = "pipeline"` in a table makes a source of a pipeline; its resources are opened with the outer one's."""
    app = shop.load(shop.spec + OUTER, only=["outer"])
    opened: list[str] = []
    monkeypatch.setattr(type(app.resource("store")), "open", lambda self: opened.append(str(self.path)))
    with app:
        outcome = app["outer"].run_sync(buyer=1, now=NOW)
    assert opened == ["/base/data"]
    assert outcome.item_ids.tolist() == [1]
    assert outcome.selected.sources(0) == ("market", "market_too")
    assert [entry.component for entry in outcome.trace[1].inner][:2] == ["shop.wallet", "shelf"]
    assert outcome.plan.phases["sources"][0][0].inner is app["shop"].plan


@pytest.mark.parametrize(
    ("old", "new", "mistake"),
    [
        ('sources = ["shelf"]', 'sources = ["shelf", "market"]', "E310 the pipeline 'shop' would contain itself"),
        ('use = "pipeline"\npipeline = "shop"', 'use = "pipeline"\npipeline = "outer"', "outer -> outer"),
        ('pipeline = "shop"', 'pipeline = "shup"', "E310 no pipeline 'shup'"),
        (
            "[components.market]",
            '[components.idle]\nuse = "pipeline"\npipeline = "no"\n\n[components.market]',
            "E310 no",
        ),
        ('pipeline = "shop"', "", "E103"),
        ('pipeline = "shop"', 'pipeline = "shop"\nsize = 3', "E101"),
        ('selector = "shop.first"', 'selector = "market"', "E202 'pipeline' is a source, wanted a selector"),
        ('{ buyer = "shop.buyer" }\nsources = ["market"', '{}\nsources = ["market"', "E300 market reads the query"),
        (
            'sources = ["market",',
            'min_results = 3\ntop_up = "outer"\nsources = ["market",',
            "E310 the pipeline 'outer'",
        ),
        ('on_error = "fail"', 'cache = { ttl = "1s" }', "E311 market: cache has no effect: a nested pipeline has no"),
        ('on_error = "fail"', 'on_error = "fallback:market_too"', ""),
    ],
)
def test_mistakes_in_the_document(shop: Any, old: str, new: str, mistake: str) -> None:
    """Circles, unknown pipelines, missing inputs and useless settings are found before anything runs."""
    text = shop.spec + OUTER
    assert old in text
    tried = shop.tried(text.replace(old, new, 1))
    if not mistake:
        assert sorted(tried) == ["outer", "shop"]
        return
    assert isinstance(tried, SpecError)
    found = [f"{problem.code} {problem.message}" for problem in tried.problems]
    assert any(mistake in each for each in found), found
    assert len({each[:4] for each in found}) == 1
