"""`run.cache` as requests see it: what is kept, for whom, for how long, and what failures do to it."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import KIND, NOW, THREE_HEADS, TTL, VIEWER, seconds

from candidate_pipeline import (
    ITEM_ID,
    BreakerPolicy,
    CachePolicy,
    Candidates,
    Column,
    QueryFeature,
    RequestError,
    RunPolicy,
    StageOptions,
    compose,
    patch,
    query_patch,
    rank_order,
)
from candidate_pipeline.testing import candidates as tables
from candidate_pipeline.testing import run_in_virtual_time

TASTE = QueryFeature("toy.taste", object, default=None)
MOOD = QueryFeature("toy.mood", str)
NUMBER = Column("toy.number", np.float64, default=-1)
TEXT = Column("toy.text", np.object_, default="")
VECTOR = Column("toy.vector", np.float32, width=3)


def at(seconds: float) -> dt.datetime:
    """A request's clock."""
    return NOW + dt.timedelta(seconds=seconds)


def serve(app: Any, *requests: dict[str, Any]) -> list[Any]:
    """The outcomes, or errors, of requests one after another."""

    async def main() -> list[Any]:
        outcomes: list[Any] = []
        async with app:
            for request in requests:
                try:
                    outcomes.append(await app["toy"].run(**{"now": NOW, **request}))
                except Exception as error:
                    outcomes.append(error)
        return outcomes

    return run_in_virtual_time(main())


def counts(outcome: Any, component: str) -> tuple[int, int]:
    """The cache hits and misses of a component, summed over its calls."""
    entries = [entry for entry in outcome.trace if entry.component == component]
    assert entries
    return sum(entry.cache_hits for entry in entries), sum(entry.cache_misses for entry in entries)


@pytest.fixture(scope="module")
def toy(make: Any) -> Any:
    """Builds an application whose source gives the items of the input `items`."""
    items = QueryFeature("toy.items", tuple, default=(1, 2, 3))

    def source(query: Any, ctx: Any) -> Candidates:
        wanted = query[items]
        return Candidates.of(ITEM_ID(list(range(len(wanted)))), KIND(list(wanted)))

    def toy(**stages: Any) -> Any:
        given: dict[str, Any] = {
            "sources": [make("source", source, "source", reads=[items], writes=[KIND])],
            "selector": make("selector", lambda q, c, ctx: rank_order(c), "top"),
            "inputs": {"items": items},
        }
        inputs = given["inputs"] | stages.pop("inputs", {})
        return compose("toy", **(given | stages | {"inputs": inputs}))

    return toy


def number(asked: list[Any], fault: Any = None) -> Any:
    """A hydrator function that writes ten times the kind and notes which kinds it was asked for."""

    def hydrate(query: Any, candidates: Candidates, ctx: Any) -> Any:
        kinds = candidates[KIND].tolist()
        asked.append(kinds)
        if fault is not None and (answer := fault(kinds)) is not None:
            return answer
        return patch(NUMBER(candidates[KIND] * 10.0))

    return hydrate


def numbers(outcome: Any) -> list[Any]:
    """The NUMBER of each row of a response; `None` for null, `"failed"` for failed."""
    table = outcome.selected
    states = table.cells(NUMBER).states().tolist()
    return [(None, value, "failed")[state] for state, value in zip(states, table[NUMBER].tolist(), strict=True)]


# Hits and misses


def test_rows_are_kept_one_by_one(toy: Any, make: Any) -> None:
    """A hydrator is asked for the rows that no request had before; the trace counts both."""
    asked: list[Any] = []
    app = toy(
        hydrators=[make("hydrator", number(asked), "h", reads=[KIND], writes=[NUMBER])],
        run={"h": RunPolicy(cache=TTL)},
    )
    first, second, third, empty = serve(
        app, {"items": (1, 2, 2)}, {"items": (3, 2, 1)}, {"items": (1, 2, 3)}, {"items": ()}
    )
    assert asked == [[1, 2], [3]]
    assert [counts(each, "h") for each in (first, second, third, empty)] == [(0, 3), (2, 1), (3, 0), (0, 0)]
    assert [numbers(each) for each in (first, second, third)] == [[10, 20, 20], [30, 20, 10], [10, 20, 30]]
    assert third.explain(0).cells[-1].writer == "h"


def test_sources_and_query_hydrators_keep_whole_answers(toy: Any, make: Any) -> None:
    """A source's rows and a query hydrator's features come from the cache for the same inputs only."""
    asked: list[Any] = []

    def mood(query: Any, ctx: Any) -> Any:
        asked.append(query[VIEWER])
        return query_patch(MOOD(f"mood {query[VIEWER]}"))

    def fetch(query: Any, ctx: Any) -> Candidates:
        asked.append(query[MOOD])
        return Candidates.of(ITEM_ID([7, 8]), TEXT([query[MOOD], None]))

    app = toy(
        inputs={"viewer": VIEWER},
        query_hydrators=[make("query_hydrator", mood, "q", reads=[VIEWER], writes=[MOOD])],
        sources=[make("source", fetch, "s", reads=[MOOD], writes=[TEXT])],
        run={"q": RunPolicy(cache=TTL), "s": RunPolicy(cache=TTL)},
    )
    outcomes = serve(app, {"viewer": 1}, {"viewer": 2}, {"viewer": 1})
    assert asked == [1, "mood 1", 2, "mood 2"]
    assert [(counts(each, "q"), counts(each, "s")) for each in outcomes] == [
        ((0, 1), (0, 1)),
        ((0, 1), (0, 1)),
        ((1, 0), (1, 0)),
    ]
    assert [each.selected[TEXT].tolist() for each in outcomes] == [["mood 1", ""], ["mood 2", ""], ["mood 1", ""]]
    assert outcomes[2].selected.valid(TEXT).tolist() == [True, False]
    assert outcomes[2].selected.sources(0) == ("s",)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), semantics=st.sampled_from(["strict", "upstream"]))
def test_a_hit_equals_a_miss_bit_for_bit(toy: Any, make: Any, data: Any, semantics: Any) -> None:
    """Whatever a hydrator writes, the cells from its cache are those that it wrote, and those without a cache."""
    columns = (NUMBER, TEXT, THREE_HEADS, VECTOR)
    book = data.draw(tables(*columns, min_size=1, max_size=5))
    left_out = data.draw(st.sets(st.sampled_from(columns)))
    broken = np.array(data.draw(st.lists(st.booleans(), min_size=len(book), max_size=len(book))))
    requests = data.draw(
        st.lists(st.lists(st.integers(0, len(book) - 1), max_size=6).map(tuple), min_size=1, max_size=4)
    )

    def hydrate(query: Any, candidates: Candidates, ctx: Any) -> Any:
        rows = candidates[KIND]
        found = book.take(rows)
        updates = [
            column(found[column], valid=found.valid(column), labels=found.labels(column) or None)
            for column in columns
            if column not in left_out
        ]
        return patch(*updates, failed=broken[rows])

    def outcomes(policy: RunPolicy) -> list[Any]:
        hydrator = make("hydrator", hydrate, "h", reads=[KIND], writes=columns)
        return serve(
            toy(hydrators=[hydrator], run={"h": policy}, semantics=semantics),
            *({"items": items} for items in requests + requests),
        )

    plain, cached = outcomes(RunPolicy()), outcomes(RunPolicy(cache=TTL))
    for one, other in zip(plain, cached, strict=True):
        for column in columns:
            first, second = one.selected.cells(column), other.selected.cells(column)
            valid = first.states() == 1
            assert first.states().tolist() == second.states().tolist()
            if valid.any():
                assert first.labels == second.labels
            if first.labels == second.labels:
                assert first.values.tolist() == second.values.tolist()
            assert first.values[valid].tobytes() == second.values[valid].tobytes() or column is TEXT
            assert first.writers()[valid].tolist() == second.writers()[valid].tolist()
    for items, outcome in zip(requests, cached[len(requests) :], strict=True):
        assert counts(outcome, "h")[1] == sum(bool(broken[item]) for item in items)  # those alone are asked for again


# Time


def test_entries_count_by_the_requests_clock(toy: Any, make: Any) -> None:
    """An entry counts for its time to live, never for an earlier clock, and the wall's clock has no say."""
    asked: list[Any] = []
    app = toy(
        hydrators=[make("hydrator", number(asked), "h", reads=[KIND], writes=[NUMBER])],
        run={"h": RunPolicy(cache=TTL)},
    )
    clocks = (5, 14.999, 15, 5, 5.001, 4.999)
    outcomes = serve(app, *({"items": (1,), "now": at(clock)} for clock in clocks))
    assert [counts(outcome, "h")[0] for outcome in outcomes] == [0, 1, 0, 0, 1, 0]

    async def main() -> int:
        async with app:
            await app["toy"].run(now=NOW)
            await asyncio.sleep(3600)
            return counts(await app["toy"].run(now=NOW), "h")[0]

    assert run_in_virtual_time(main()) == 3


@pytest.mark.parametrize(("negative", "hits"), [(None, [0, 1, 1, 1]), (2, [0, 1, 0, 1]), (0, [0, 0, 0, 0])])
def test_nothing_is_kept_for_a_time_of_its_own(toy: Any, make: Any, negative: Any, hits: list[int]) -> None:
    """A source without rows, a query hydrator without features and a row of nulls count for `negative_ttl`."""
    kept = CachePolicy(ttl=seconds(10), negative_ttl=None if negative is None else seconds(negative))

    def nothing(query: Any, candidates: Candidates, ctx: Any) -> Any:
        return patch(NUMBER([0.0] * len(candidates), valid=[False] * len(candidates)))

    app = toy(
        query_hydrators=[make("query_hydrator", lambda q, ctx: query_patch(), "q", writes=[MOOD])],
        sources=[
            make("source", lambda q, ctx: Candidates.of(ITEM_ID([5]), KIND([1])), "one", writes=[KIND]),
            make("source", lambda q, ctx: Candidates.empty(), "none"),
        ],
        hydrators=[make("hydrator", nothing, "h", reads=[KIND], writes=[NUMBER])],
        run=dict.fromkeys(["q", "none", "h"], RunPolicy(cache=kept)) | {"one": RunPolicy(cache=kept)},
    )
    outcomes = serve(app, *({"now": at(clock)} for clock in (0, 1, 2, 3)))
    for name in ("q", "none", "h"):
        assert [counts(each, name)[0] for each in outcomes] == hits
    assert [counts(each, "one")[0] for each in outcomes] == [0, 1, 1, 1]
    assert [numbers(each) for each in outcomes] == [[None]] * 4


# Requests beside one another


def gathered(app: Any, *requests: tuple[float, dict[str, Any]], cancel: float | None = None) -> list[Any]:
    """The outcomes, or errors, of requests that start at given times; the first may be cancelled at one."""

    async def one(delay: float, request: dict[str, Any]) -> Any:
        await asyncio.sleep(delay)
        return await app["toy"].run(**{"now": NOW, **request})

    async def main() -> list[Any]:
        async with app:
            tasks = [asyncio.create_task(one(*request)) for request in requests]
            if cancel is not None:
                asyncio.get_running_loop().call_later(cancel, tasks[0].cancel)
            return list(await asyncio.gather(*tasks, return_exceptions=True))

    return run_in_virtual_time(main())


def slow_number(asked: list[Any], takes: float) -> Any:
    """As `number`, after some time."""
    quick = number(asked)

    async def hydrate(query: Any, candidates: Candidates, ctx: Any) -> Any:
        await asyncio.sleep(takes)
        return quick(query, candidates, ctx)

    return hydrate


def test_what_is_being_fetched_is_not_fetched_again(toy: Any, make: Any) -> None:
    """Concurrent requests share one call for the rows that they have in common, and one call of a source."""
    asked: list[Any] = []
    fetched: list[int] = []

    async def fetch(query: Any, ctx: Any) -> Candidates:
        fetched.append(1)
        await asyncio.sleep(1)
        return Candidates.of(ITEM_ID([1, 2]), KIND([1, 2]))

    app = toy(
        sources=[make("source", fetch, "s", writes=[KIND])],
        hydrators=[make("hydrator", slow_number(asked, 5), "h", reads=[KIND], writes=[NUMBER])],
        run={"h": RunPolicy(cache=TTL), "s": RunPolicy(cache=TTL)},
    )
    outcomes = gathered(app, *((delay, {}) for delay in (0, 0, 0.5, 3)))
    assert [numbers(each) for each in outcomes] == [[10, 20]] * 4
    assert (fetched, asked) == ([1], [[1, 2]])
    assert [each.elapsed_ms for each in outcomes] == [6000, 6000, 5500, 3000]


def test_a_cancelled_request_leaves_its_call_to_those_that_wait(toy: Any, make: Any) -> None:
    """The request that made the call goes; the one that joined it gets its answer, and no second call is made."""
    asked: list[Any] = []
    app = toy(
        hydrators=[make("hydrator", slow_number(asked, 5), "h", reads=[KIND], writes=[NUMBER])],
        run={"h": RunPolicy(cache=TTL)},
    )
    leader, joined = gathered(app, (0, {"seed": 1}), (1, {"seed": 2}), cancel=2)
    assert isinstance(leader, asyncio.CancelledError)
    assert numbers(joined) == [10, 20, 30]
    assert asked == [[1, 2, 3]]


def test_the_timeout_is_the_calls_and_the_budget_the_requests(toy: Any, make: Any) -> None:
    """A request leaves at its stage's end, while the call goes on for a later one until its own timeout."""
    asked: list[Any] = []
    app = toy(
        hydrators=[make("hydrator", slow_number(asked, 7), "h", reads=[KIND], writes=[NUMBER])],
        stages={"hydrators": StageOptions(timeout=seconds(5))},
        run={"h": RunPolicy(cache=TTL)},
    )
    first, second, third = gathered(app, (0, {}), (3, {}), (8, {}))
    assert (first.elapsed_ms, numbers(first)) == (5000, ["failed"] * 3)
    assert "timed out after 5000 ms (the budget of the stage)" in first.trace[1].error
    assert (second.elapsed_ms, numbers(second)) == (4000, [10, 20, 30])
    assert (third.elapsed_ms, counts(third, "h")) == (0, (3, 0))
    app = toy(
        hydrators=[make("hydrator", slow_number(asked, 7), "h", reads=[KIND], writes=[NUMBER])],
        run={"h": RunPolicy(cache=TTL, timeout=seconds(4))},
    )
    first, second = gathered(app, (0, {}), (3, {}))
    assert (first.elapsed_ms, second.elapsed_ms) == (4000, 1000)
    assert [each.trace[1].error for each in (first, second)] == ["timed out after 4000 ms", "timed out after 1000 ms"]


def test_closing_leaves_no_call(toy: Any, make: Any) -> None:
    """After the application is closed, nothing that filled a cache runs; who waited for it goes without."""
    ended: list[str] = []

    async def endless(query: Any, candidates: Candidates, ctx: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("h")

    app = toy(
        hydrators=[make("hydrator", endless, "h", reads=[KIND], writes=[NUMBER])],
        run={"h": RunPolicy(cache=TTL)},
    )

    async def main() -> None:
        async with app:
            task = asyncio.create_task(app["toy"].run(now=NOW))
            await asyncio.sleep(1)
        assert ended == ["h"]
        assert numbers(await task) == ["failed"] * 3
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_in_virtual_time(main())


def test_each_request_has_an_error_of_its_own(toy: Any, make: Any) -> None:
    """A wrong request that a shared call found out about has the trace of its own request, and one note."""

    async def refuse(query: Any, ctx: Any) -> Candidates:
        await asyncio.sleep(1)
        raise RequestError("no such shop")

    def mood(query: Any, ctx: Any) -> Any:
        return query_patch(MOOD("fine"))

    app = toy(
        inputs={"viewer": VIEWER},
        query_hydrators=[make("query_hydrator", mood, "q", writes=[MOOD])],
        sources=[make("source", refuse, "s")],
        run={"s": RunPolicy(cache=TTL), "q": RunPolicy(when={"toy.viewer": 1})},
    )
    first, second = gathered(app, (0, {"viewer": 1}), (0.5, {"viewer": 2}))
    assert [str(error) for error in (first, second)] == ["no such shop"] * 2
    assert [error.trace[0].status for error in (first, second)] == ["ok", "closed"]
    assert [len(error.__notes__) for error in (first, second)] == [1, 1]


# Failures


def test_failed_rows_are_asked_for_again(toy: Any, make: Any) -> None:
    """A row whose lookup failed is not kept, one without a value is."""
    asked: list[Any] = []

    def fault(kinds: list[int]) -> Any:
        return patch(NUMBER(np.array(kinds) * 10.0, valid=np.array(kinds) != 2), failed=np.array(kinds) == 3)

    app = toy(
        hydrators=[make("hydrator", number(asked, fault), "h", reads=[KIND], writes=[NUMBER])],
        run={"h": RunPolicy(cache=TTL)},
    )
    first, second = serve(app, {}, {})
    assert [numbers(each) for each in (first, second)] == [[10, None, "failed"]] * 2
    assert asked == [[1, 2, 3], [3]]
    assert (second.trace[1].note, second.trace[1].rows_out) == ("1 row failed", 2)


@pytest.mark.parametrize("policy", [None, "skip", "fail", "fallback:spare"])
def test_when_the_call_for_missing_rows_fails(toy: Any, make: Any, policy: Any) -> None:
    """Rows from the cache stay where failures are skipped; a fallback takes over for all rows."""
    asked: list[Any] = []
    spared: list[Any] = []

    def fault(kinds: list[int]) -> Any:
        if kinds != [1, 2, 3]:
            raise OSError("no line")

    app = toy(
        hydrators=[make("hydrator", number(asked, fault), "h", reads=[KIND], writes=[NUMBER])],
        fallbacks=[make("hydrator", number(spared), "spare", reads=[KIND], writes=[NUMBER])]
        if policy == "fallback:spare"
        else [],
        run={"h": RunPolicy(cache=TTL, on_error=policy)},
    )
    _, some, none, healthy = serve(app, {}, {"items": (2, 4)}, {"items": (4, 5)}, {"items": (1, 2, 3)})
    assert asked == [[1, 2, 3], [4], [4, 5]]
    if policy == "fail":
        assert [str(each) for each in (some, none)] == [
            "pipeline 'toy': hydrator h (ToyHydrator) failed: OSError: no line"
        ] * 2
    elif policy == "fallback:spare":
        assert [numbers(each) for each in (some, none)] == [[20, 40], [40, 50]]
        assert spared == [[2, 4], [4, 5]]
        entries = [(entry.component, entry.status, entry.cache_hits, entry.cache_misses) for entry in some.trace[1:3]]
        assert entries == [("h", "fallback", 1, 1), ("spare", "ok", 0, 0)]
    else:
        assert [numbers(each) for each in (some, none)] == [[20, "failed"], ["failed", "failed"]]
        assert [counts(each, "h") for each in (some, none)] == [(1, 1), (0, 2)]
        assert some.trace[1].note == "1 row from the cache kept; 1 row failed"
        assert {each.trace[1].status for each in (some, none)} == {"skipped"}
    assert (numbers(healthy), counts(healthy, "h")) == ([10, 20, 30], (3, 0))


def test_failures_are_not_kept(toy: Any, make: Any) -> None:
    """A source and a query hydrator that fail are called again by the next request."""
    calls: list[str] = []

    def broken(query: Any, ctx: Any) -> Any:
        calls.append(ctx.component)
        raise OSError("no line")

    app = toy(
        query_hydrators=[make("query_hydrator", broken, "q", writes=[MOOD])],
        sources=[make("source", broken, "s")],
        run={"q": RunPolicy(cache=TTL), "s": RunPolicy(cache=TTL)},
    )
    for outcome in serve(app, {}, {}):
        assert [entry.status for entry in outcome.trace[:2]] == ["skipped"] * 2
        assert MOOD in outcome.query.failed
    assert calls == ["q", "s"] * 2


@pytest.mark.parametrize("kind", ["raise", "wrong_length"])
def test_only_misses_reach_and_feed_the_breaker(toy: Any, make: Any, kind: str) -> None:
    """Hits neither need a closed circuit nor count as calls; an answer of the wrong length is a failure."""
    asked: list[Any] = []

    def fault(kinds: list[int]) -> Any:
        if kinds == [1]:
            return None
        if kind == "raise":
            raise OSError("no line")
        return patch(NUMBER([1.0, 2.0, 3.0]))

    breaker = BreakerPolicy(failure_rate=0.5, min_calls=3, open_for=seconds(60))
    app = toy(
        hydrators=[make("hydrator", number(asked, fault), "h", reads=[KIND], writes=[NUMBER])],
        run={"h": RunPolicy(cache=TTL, breaker=breaker)},
    )
    outcomes = serve(app, {"items": (1,)}, *[{"items": (1,)}] * 9, *[{"items": (1, 2)}] * 3, {"items": (1,)})
    assert asked == [[1], [2], [2]]
    last = outcomes[-2]
    assert last.trace[1].error.startswith("the circuit is open: 2 of 3 calls failed in the last 30s")
    assert (last.trace[1].breaker, numbers(last)) == ("open", [10, "failed"])
    assert (outcomes[-1].trace[1].status, numbers(outcomes[-1])) == ("ok", [10])
