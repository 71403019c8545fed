"""How values flow through a request: null, absent and failed, the order of scores, seeds and clocks."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import HEADS, NOW, STOCK, TITLE, best_first, later_rows, prices, rows, states
from toys import PRICE as CENTS

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    AbsentFeatureError,
    CachePolicy,
    Candidates,
    Column,
    FailedFeatureError,
    NestedPipeline,
    QueryFeature,
    RunPolicy,
    compose,
    patch,
    query_patch,
    rank_order,
)
from candidate_pipeline.testing import run_in_virtual_time

THERE = QueryFeature("toy.there", int)
ABSENT = QueryFeature("toy.absent", int)
BROKEN = QueryFeature("toy.broken", int)
SPARE = QueryFeature("toy.spare", int, default=7)
FEATURES = (THERE, ABSENT, BROKEN, SPARE)
PRICE = Column("toy.price", np.float64, default=-1)


# Null, absent and failed


@pytest.fixture(scope="module")
def seen(run: Any, make: Any) -> dict[str, Any]:
    """What each component of a request saw of the column PRICE: valid in row 1, null in 2, failed in 3."""
    seen: dict[str, Any] = {}

    def look(name: str, candidates: Candidates) -> None:
        seen[name] = (states(candidates, PRICE), candidates[PRICE].tolist(), candidates.failed(PRICE).tolist())

    def price(query: Any, candidates: Candidates, ctx: Any) -> Any:
        return patch(PRICE([5.0, 6.0, 7.0], valid=[True, False, True]), failed=[False, False, True])

    def hydrate(query: Any, candidates: Candidates, ctx: Any) -> Any:
        look(ctx.component, candidates)
        return patch(STOCK(candidates[ITEM_ID]))

    def keep(query: Any, candidates: Candidates, ctx: Any) -> Any:
        look(ctx.component, candidates)
        return candidates[PRICE] > 0

    def score(query: Any, candidates: Candidates, ctx: Any) -> Any:
        look(ctx.component, candidates)
        return patch(SCORE(candidates[PRICE], valid=candidates.valid(PRICE)))

    def select(query: Any, candidates: Candidates, ctx: Any) -> Any:
        look(ctx.component, candidates)
        return rank_order(candidates)

    def effect(query: Any, outcome: Any, ctx: Any) -> None:
        look(ctx.component, outcome.selected)

    first = {"reads": [PRICE], "writes": [STOCK]}
    seen["outcome"] = run(
        hydrators=[make("hydrator", price, "price", writes=[PRICE]), make("hydrator", hydrate, "later", **first)],
        scorers=[make("scorer", score, "scorer", reads=[PRICE], writes=[SCORE])],
        selector=make("selector", select, "selector", reads=[PRICE, SCORE]),
        post_selection_hydrators=[make("hydrator", hydrate, "post", **first)],
        post_selection_filters=[make("filter", keep, "filter", reads=[PRICE])],
        side_effects=[make("side_effect", effect, "effect", reads=[PRICE])],
        show=[PRICE],
    )
    return seen


@pytest.mark.parametrize("kind", ["later", "scorer", "selector", "post", "filter"])
def test_every_kind_tells_null_from_failed(seen: dict[str, Any], kind: str) -> None:
    """Hydrators, scorers, selectors and filters see which cells are null and which failed; both read as the default."""
    assert seen[kind] == (["valid", "null", "failed"], [5.0, -1.0, -1.0], [False, False, True])


def test_a_filter_that_reads_a_failed_cell_keeps_the_row(seen: dict[str, Any]) -> None:
    """The null is the filter's business, and is dropped by it; the row whose cell failed is kept and counted."""
    outcome = seen["outcome"]
    assert outcome.item_ids.tolist() == [1, 3]
    assert seen["effect"][0] == ["valid", "failed"]
    assert next(entry.note for entry in outcome.trace if entry.component == "filter") == (
        "1 row kept: a column it reads failed there"
    )


def test_what_leaves_the_engine_tells_them_apart(seen: dict[str, Any]) -> None:
    """Rows as data say `None` for null and `failed` for failed; an explanation names the state and who wrote it."""
    outcome = seen["outcome"]
    assert [item["columns"]["toy.price"] for item in outcome.to_dict()["items"]] == [5.0, "failed"]
    cells = {item: next(cell for cell in outcome.explain(item).cells if cell.column == "toy.price") for item in (2, 3)}
    assert [(cell.state, cell.value, cell.writer) for cell in cells.values()] == [
        ("null", None, "price"),
        ("failed", None, "price"),
    ]


@pytest.mark.parametrize("kind", ["query_hydrator", "source", "hydrator", "filter", "scorer", "selector"])
@pytest.mark.parametrize("feature", FEATURES)
def test_features_in_every_kind(run: Any, make: Any, kind: str, feature: Any) -> None:
    """A feature is there, absent or failed for each kind alike: a default stands in, else reading it is a failure."""
    answers: dict[str, Any] = {
        "query_hydrator": lambda value, *_: query_patch(),
        "source": lambda value, *_: Candidates.of(ITEM_ID([value])),
        "hydrator": lambda value, q, c, ctx: patch(),
        "filter": lambda value, q, c, ctx: c[ITEM_ID] > 0,
        "scorer": lambda value, q, c, ctx: patch(),
        "selector": lambda value, q, c, ctx: rank_order(c),
    }
    seen = []

    def work(*args: Any) -> Any:
        query = args[0]
        seen.append((feature in query, feature in query.failed))
        seen.append(query[feature])
        return answers[kind](query[feature], *args)

    probe = make(kind, work, "probe", reads=[feature])
    stage = {"query_hydrator": "query_hydrators", "selector": "selector"}.get(kind, f"{kind}s")
    stages: dict[str, Any] = {
        "query_hydrators": [
            make("query_hydrator", lambda q, ctx: query_patch(THERE(1)), "there", writes=[THERE]),
            make("query_hydrator", lambda q, ctx: query_patch(), "absent", writes=[ABSENT]),
            make("query_hydrator", lambda *_: 1 / 0, "broken", writes=[BROKEN, SPARE]),
        ]
    }
    spare = make(kind, lambda *args: answers[kind](0, *args), "spare")
    stages[stage] = probe if kind == "selector" else [*stages.get(stage, ()), probe]
    outcome = run(**stages, fallbacks=[spare], policies={"probe": RunPolicy(on_error="fallback:spare")})
    record = next(entry for entry in outcome.trace if entry.component == "probe")
    if feature in {THERE, SPARE}:
        assert seen == [(feature is THERE, feature is SPARE), 1 if feature is THERE else 7]
        assert record.status == "ok"
    elif feature is ABSENT:
        assert seen == [(False, False)]
        assert record.error == "query feature toy.absent is absent: no component or input gave it"
    else:
        assert seen == []
        assert record.error == "query feature toy.broken failed: broken: ZeroDivisionError: division by zero"
    assert record.status == ("ok" if feature in {THERE, SPARE} else "fallback")


def test_reading_outside_a_component(run: Any, make: Any) -> None:
    """The outcome's query tells absent from failed to whoever reads it afterwards."""
    outcome = run(
        query_hydrators=[
            make("query_hydrator", lambda q, ctx: query_patch(), "absent", writes=[ABSENT]),
            make("query_hydrator", lambda *_: 1 / 0, "broken", writes=[BROKEN, SPARE]),
        ]
    )
    with pytest.raises(AbsentFeatureError):
        outcome.query[ABSENT]
    with pytest.raises(FailedFeatureError):
        outcome.query[BROKEN]
    assert outcome.query[SPARE] == 7
    assert set(outcome.query.failed) == {BROKEN, SPARE}


# Rows that fail


@pytest.mark.parametrize("kind", ["hydrator", "scorer"])
@pytest.mark.parametrize("semantics", ["strict", "upstream"])
def test_failed_rows(run: Any, make: Any, kind: str, semantics: str) -> None:
    """A failed row fails in all declared columns without a value; the published semantics keeps its cells."""

    def fetch(query: Any, ctx: Any) -> Candidates:
        return Candidates.of(
            ITEM_ID([1, 2, 3, 4]), PRICE([1, 2, 3, 4], valid=[True, False, True, False]), STOCK([1, 1, 1, 1])
        )

    def work(query: Any, candidates: Candidates, ctx: Any) -> Any:
        values = PRICE([10.0, 20.0, 30.0, np.nan], valid=[True, True, False, True])
        heads = HEADS([[1.0, np.nan]] * 2 + [[0.5, 0.5]] * 2)
        return patch(values, heads, failed=np.array([True, True, False, False]))

    outcome = run(
        sources=[make("source", fetch, "s", writes=[PRICE, STOCK])],
        semantics=semantics,
        **{f"{kind}s": [make(kind, work, "w", writes=[PRICE, STOCK, TITLE, HEADS])]},
    )
    table = outcome.selected
    strict = semantics == "strict"
    assert states(table, PRICE) == (
        ["valid", "failed", "valid", "valid"] if strict else ["valid", "null", "null", "valid"]
    )
    assert table[PRICE].tolist()[:3] == ([1, -1, 3] if strict else [1, -1, -1])
    assert np.isnan(table[PRICE][3])
    assert states(table, STOCK) == (["valid"] * 4 if strict else ["valid", "valid", "null", "null"])
    assert states(table, TITLE) == (["failed", "failed", "null", "null"] if strict else ["null"] * 4)
    assert states(table, HEADS) == (["failed", "failed"] if strict else ["null", "null"]) + ["valid"] * 2
    record = next(entry for entry in outcome.trace if entry.component == "w")
    assert (record.status, record.rows_out, record.note) == ("ok", 2, "2 rows failed")


@pytest.mark.parametrize("mask", [[True], [1, 0, 0], np.zeros((3, 1), np.bool_), "yes"])
def test_a_mask_of_failed_rows_that_is_none(run: Any, make: Any, mask: Any) -> None:
    """A wrong mask is a broken contract: the component failed, and nothing of its patch is applied."""
    outcome = run(
        hydrators=[make("hydrator", lambda *_: patch(PRICE([1.0] * 3), failed=mask), "h", writes=[PRICE])],
    )
    assert states(outcome.selected, PRICE) == ["failed"] * 3
    assert "patch: wanted failed as bool[3]" in outcome.trace[1].error


def test_no_rows_failed(run: Any, make: Any) -> None:
    """A mask without a failed row is as no mask, with no rows as well."""
    none = make(
        "hydrator", lambda q, c, ctx: patch(PRICE(c[ITEM_ID] * 1.0), failed=c[ITEM_ID] > 9), "h", writes=[PRICE]
    )
    outcome = run(hydrators=[none])
    assert (states(outcome.selected, PRICE), outcome.trace[1].note) == (["valid"] * 3, "")
    empty = run(sources=[make("source", lambda q, ctx: Candidates.empty(), "s")], hydrators=[none])
    assert (len(empty.selected), empty.trace[1].status) == (0, "ok")


# The order of scores


@settings(max_examples=100, deadline=None)
@given(
    scores=st.lists(
        st.sampled_from([1.0, 2.0, -0.0, 0.0, np.inf, -np.inf, np.nan, None, "failed"]), min_size=1, max_size=9
    )
)
def test_the_order_of_a_response(run: Any, make: Any, scores: list[Any]) -> None:
    """Scored rows by score, then those without one, then NaN; ties as the sources gave them; the trace counts both."""
    valid = [score is not None and score != "failed" for score in scores]
    values = np.array([score if there else 0 for score, there in zip(scores, valid, strict=True)], np.float32)
    failed = np.array([score == "failed" for score in scores])
    count = len(scores)
    half = count // 2
    outcome = run(
        sources=[
            make("source", lambda q, ctx: Candidates.of(ITEM_ID(list(range(half)))), "a"),
            make("source", lambda q, ctx: Candidates.of(ITEM_ID(list(range(count)))), "b"),
        ],
        scorers=[
            make("scorer", lambda *_: patch(SCORE(values, valid=np.array(valid)), failed=failed), "s", writes=[SCORE])
        ],
    )

    def place(item: int) -> Any:
        if not valid[item]:
            return 1, 0, item
        return (2, 0, item) if np.isnan(values[item]) else (0, -values[item], item)

    assert outcome.item_ids.tolist() == sorted(range(count), key=place)
    note = outcome.trace[2].note
    nan, unscored = int(np.isnan(values).sum()), valid.count(False)
    assert ("NaN" in note, "without a score" in note) == (nan > 0, unscored > 0)


# Seeds and clocks


def frozen(outcome: Any) -> Any:
    """Everything an outcome holds, bit for bit, but for its plan."""

    def table(candidates: Candidates) -> Any:
        cells = {column.name: candidates.cells(column) for column in candidates.columns}
        return (
            {
                name: (
                    each.values.tolist() if each.values.dtype == object else each.values.tobytes(),
                    each.states().tolist(),
                    each.writers().tolist(),
                    each.labels,
                )
                for name, each in cells.items()
            },
            list(cells),
            candidates.source_bits.tolist(),
            candidates.source_names,
            candidates.dropped_by.tolist(),
        )

    every = [outcome.selected, *outcome.unselected, *outcome.dropped, outcome.retrieved]
    return (
        [table(each) for each in every],
        dict(outcome.query.features),
        dict(outcome.query.failed),
        [entry.as_dict() for entry in outcome.trace],
        [(step.scorer, step.after.values.tobytes()) for step in outcome.score_steps],
        {name: frozen(inner) for name, inner in outcome.inner.items()},
        outcome.to_dict(),
    )


@pytest.fixture(scope="module")
def chancy(make: Any) -> Any:
    """An application in which every kind draws random numbers, reads the clock, and takes its time."""

    async def fetch(query: Any, ctx: Any) -> Candidates:
        rng = ctx.rng()
        await asyncio.sleep(float(rng.random()))
        ids = rng.integers(0, 30, size=12)
        ids = ids[np.sort(np.unique(ids, return_index=True)[1])]
        return Candidates.of(ITEM_ID(ids), PRICE(rng.random(len(ids)), valid=rng.random(len(ids)) < 0.8))

    async def hydrate(query: Any, candidates: Candidates, ctx: Any) -> Any:
        rng, n = ctx.rng(), len(candidates)
        await asyncio.sleep(float(rng.random()))
        if rng.random() < 0.2:
            raise OSError("no line")
        title = np.array([f"{query.now:%H:%M} {x}" for x in rng.integers(9, size=n)], np.object_)
        return patch(TITLE(title), failed=rng.random(n) < 0.2)

    def score(query: Any, candidates: Candidates, ctx: Any) -> Any:
        rng, n = ctx.rng(), len(candidates)
        return patch(
            HEADS(rng.random((n, 2))), SCORE(rng.integers(3, size=n).astype(np.float32), valid=rng.random(n) < 0.8)
        )

    def feature(query: Any, ctx: Any) -> Any:
        return query_patch(THERE(int(ctx.rng().integers(99)) + query.now_ms % 7))

    def keep(query: Any, candidates: Candidates, ctx: Any) -> Any:
        return ctx.rng().random(len(candidates)) < 0.8

    def select(query: Any, candidates: Candidates, ctx: Any) -> Any:
        return ctx.rng().permutation(rank_order(candidates))[:6]

    inner = compose(
        "inner",
        sources=[make("source", fetch, "deep", writes=[PRICE])],
        selector=make("selector", select, "pick"),
        filters=[make("filter", keep, "inside")],
    )
    return compose(
        "toy",
        query_hydrators=[make("query_hydrator", feature, "feature", writes=[THERE])],
        sources=[
            make("source", fetch, "a", writes=[PRICE]),
            make("source", fetch, "b", writes=[PRICE]),
            ("nested", NestedPipeline(inner["inner"].plan)),
            make("source", lambda q, ctx: Candidates.of(ITEM_ID([77]), PRICE([1])), "kept", writes=[PRICE]),
        ],
        hydrators=[make("hydrator", hydrate, "titles", writes=[TITLE])],
        filters=[make("filter", keep, "some")],
        scorers=[make("scorer", score, "scores", writes=[HEADS, SCORE])],
        selector=make("selector", select, "pick"),
        post_selection_filters=[make("filter", keep, "more")],
        result_size=5,
        run={"kept": RunPolicy(cache=CachePolicy(ttl=dt.timedelta(days=9)))},
        show=[TITLE, PRICE],
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(-(2**63), 2**64), minutes=st.integers(0, 10**6), others=st.lists(st.integers(0, 9), max_size=3))
def test_the_same_query_gives_the_same_outcome(chancy: Any, seed: int, minutes: int, others: list[int]) -> None:
    """Bit for bit and whatever else the application does: only the query's seed and clock count."""
    request = {"seed": seed, "now": NOW + dt.timedelta(minutes=minutes), "request_id": "r"}

    async def main(*before: int) -> Any:
        async with chancy as app:
            await app["toy"].run(now=request["now"])  # fills the cache, so that hits are in all traces
            beside = [asyncio.create_task(app["toy"].run(seed=other, now=NOW)) for other in before]
            outcome = await app["toy"].run(**request)
            await asyncio.gather(*beside)
            return outcome

    alone, again, crowded = (run_in_virtual_time(main(*before)) for before in ((), (), others))

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(each) for key, each in value.items() if not str(key).endswith("_ms")}
        return [timeless(each) for each in value] if isinstance(value, list | tuple) else value

    assert frozen(alone) == frozen(again)
    assert timeless(frozen(alone)) == timeless(frozen(crowded))


def test_seeds_and_names_make_a_difference(run: Any, make: Any) -> None:
    """Another seed draws other numbers; so does another component, while adding one changes nothing for the others."""

    def drawn(seed: int, *names: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def fetch(query: Any, ctx: Any) -> Candidates:
            found[ctx.component] = ctx.rng().integers(10**9, size=3).tolist()
            assert ctx.rng().integers(10**9, size=3).tolist() == found[ctx.component]
            return Candidates.empty()

        run(sources=[make("source", fetch, name) for name in names], request={"seed": seed})
        return found

    one, two, other = drawn(1, "a"), drawn(1, "b", "a"), drawn(2, "a")
    assert one["a"] == two["a"] != two["b"]
    assert other["a"] != one["a"]


# The rows before anything was done to them


def test_retrieved(run: Any, make: Any) -> None:
    """`outcome.retrieved` are the merged rows as fetched; under the published semantics, all rows after hydration."""

    def stages() -> Any:
        return {
            "sources": [
                make("source", lambda q, ctx: Candidates.of(ITEM_ID([1, 2]), PRICE([1, 2])), "a", writes=[PRICE]),
                make("source", lambda q, ctx: Candidates.of(ITEM_ID([2, 3])), "b"),
            ],
            "hydrators": [make("hydrator", lambda q, c, ctx: patch(STOCK(c[ITEM_ID])), "h", writes=[STOCK])],
            "filters": [make("filter", lambda q, c, ctx: c[ITEM_ID] != 1, "f")],
            "post_selection_hydrators": [
                make("hydrator", lambda q, c, ctx: patch(TITLE(["t"] * len(c))), "p", writes=[TITLE])
            ],
        }

    strict = run(**stages()).retrieved
    assert strict[ITEM_ID].tolist() == [1, 2, 3]
    assert set(strict.columns) == {ITEM_ID, PRICE}
    assert states(strict, PRICE) == ["valid", "valid", "null"]
    assert [strict.sources(row) for row in range(3)] == [("a",), ("a", "b"), ("b",)]
    published = run(**stages(), semantics="upstream").retrieved
    assert published[ITEM_ID].tolist() == [1, 2, 2, 3]
    assert published[STOCK].tolist() == [1, 2, 2, 3]
    assert states(published, TITLE) == ["null"] * 4
    assert published.alive.all()


def test_a_request_leaves_no_cycles(make: Any) -> None:
    """What a request held is free when its outcome is: none of its rows waits for the garbage collector."""
    app = compose(
        "toy",
        sources=[make("source", rows(1, 2), "now"), make("source", later_rows(3, after=0.1), "later")],
        hydrators=[make("hydrator", prices(0.1), "prices", writes=[CENTS])],
        filters=[make("filter", lambda q, c, ctx: c[ITEM_ID] != 1, "f")],
        selector=make("selector", best_first, "top"),
        run={"later": RunPolicy(timeout=dt.timedelta(seconds=1))},
    )

    async def main() -> list[str]:
        async with app:
            await app["toy"].run()
            gc.collect()
            gc.disable()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                await app["toy"].run()
                await asyncio.sleep(0)
                gc.collect()
                return [type(each).__name__ for each in gc.garbage]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()

    assert not {"Candidates", "Cells", "Columns", "Outcome", "Query"} & set(run_in_virtual_time(main()))
