"""Budgets seen from inside: what holds the loop, what components are told, pipelines in pipelines, any delays."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import DEADLINE_TEXT, PRICE, best_first, entry_of, errors, hanging, hold, later_rows, prices, seconds

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    NestedPipeline,
    Outcome,
    RunPolicy,
    StageOptions,
    compose,
    patch,
    query_patch,
)
from candidate_pipeline.testing import run_in_virtual_time

pytestmark = pytest.mark.usefixtures("logs")


# Notes and what components see


@pytest.mark.parametrize("kind", ["source", "hydrator", "filter", "scorer"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_plain_def_that_holds_the_loop_is_noted(run: Any, make: Any, kind: str, fails: bool) -> None:
    """More than 50 ms on the event loop is written into the trace, whether the component then succeeds or not."""

    def work(query: Any, *args: Any) -> Any:
        hold(0.2)
        if fails:
            raise ValueError("no")
        n = len(args[0]) if kind != "source" else 1
        answers = {"source": Candidates.of(ITEM_ID([1])), "filter": np.ones(n, np.bool_)}
        return answers.get(kind, patch())

    outcome = run(**{f"{kind}s": [make(kind, work, "x")]}, policies={"x": RunPolicy(on_error="skip")})
    entry = entry_of(outcome, "x")
    assert entry.note == "held the event loop for 200 ms; set blocking = True on its class"
    assert entry.elapsed_ms == pytest.approx(200)
    assert entry.status == ("skipped" if fails else "ok")


def test_a_prepare_that_holds_the_loop_is_noted(run: Any, make: Any) -> None:
    """What a component prepares on the event loop is noted with its call."""

    def encode(query: Any, ctx: Any) -> None:
        hold(0.2)

    outcome = run(hydrators=[make("hydrator", prices(1), "h", writes=[PRICE], prepare=encode)])
    assert entry_of(outcome, "h").note == "held the event loop for 200 ms; set blocking = True on its class"


def test_what_waits_does_not_hold_the_loop(run: Any, make: Any) -> None:
    """A coroutine, a plain def that returns one, or a short plain def gets no such note."""

    def short(query: Any, candidates: Candidates, ctx: Any) -> Any:
        hold(0.04)
        return patch()

    def returning(*_: Any) -> Any:
        return asyncio.sleep(1, patch())

    outcome = run(
        hydrators=[
            make("hydrator", prices(1), "async", writes=[PRICE]),
            make("hydrator", returning, "returns a coroutine", reads=[PRICE]),
            make("hydrator", short, "short"),
        ],
        filters=[make("filter", lambda q, c, ctx: c[ITEM_ID] > 0, "f")],
    )
    assert [entry.note for entry in outcome.trace] == [""] * len(outcome.trace)


def test_components_know_what_is_left(run: Any, make: Any) -> None:
    """`ctx.remaining()` counts down to the earliest of the component's limits, wherever it stands."""
    seen: dict[str, Any] = {}

    def looking(name: str, answer: Any) -> Any:
        async def work(*args: Any) -> Any:
            seen[name] = args[-1].remaining()
            await asyncio.sleep(1)
            seen[f"{name} later"] = args[-1].remaining()
            return answer

        return work

    def keep(query: Any, candidates: Candidates, ctx: Any) -> Any:
        seen["filter"] = ctx.remaining()
        return np.ones(len(candidates), np.bool_)

    async def fail(*_: Any) -> Any:
        raise ValueError("no")

    run(
        query_hydrators=[make("query_hydrator", looking("query", query_patch()), "q")],
        sources=[make("source", looking("source", Candidates.of(ITEM_ID([1]))), "s")],
        hydrators=[make("hydrator", fail, "h")],
        filters=[make("filter", keep, "f")],
        scorers=[make("scorer", looking("scorer", patch()), "m")],
        fallbacks=[make("hydrator", looking("fallback", patch()), "spare")],
        policies={"s": RunPolicy(timeout=seconds(2)), "h": RunPolicy(on_error="fallback:spare")},
        stages={"hydrators": StageOptions(timeout=seconds(3)), "scorers": StageOptions(reserve=seconds(0.5))},
        deadline=seconds(10),
    )
    assert seen == {
        "query": 10,
        "query later": 9,
        "source": 2,
        "source later": 1,
        "fallback": 3,
        "fallback later": 2,
        "filter": 7,
        "scorer": 6.5,
        "scorer later": 5.5,
    }


# Pipelines inside pipelines


def nested(make: Any, sources: list[Any], **settings_: Any) -> Any:
    """An inner pipeline as a source."""
    inner = compose("inner", sources=sources, selector=make("selector", best_first, "top"), **settings_)
    return ("nested", NestedPipeline(inner["inner"].plan))


def test_an_inner_pipeline_keeps_what_it_had_in_time(run: Any, make: Any) -> None:
    """Inner budgets cut inside, so the outer pipeline gets the rest; the trace is kept inside the outer one's."""
    sources = [make("source", hanging, "slow"), make("source", later_rows(7), "good")]
    outcome = run(
        sources=[nested(make, sources, deadline=seconds(1)), make("source", later_rows(1, after=2), "own")],
        stages={"sources": StageOptions(timeout=seconds(3))},
    )
    assert outcome.item_ids.tolist() == [7, 1]
    inside = entry_of(outcome, "nested").inner
    assert {entry.component: entry.error for entry in inside if entry.error} == {
        "slow": f"timed out after 1000 ms {DEADLINE_TEXT}"
    }


@pytest.mark.parametrize("limit", ["component", "stage", "deadline"])
def test_outer_limits_hold_inside(run: Any, make: Any, limit: str) -> None:
    """An inner pipeline has no more time than its source in the outer one, and what it runs is told so."""
    seen = []

    async def look(query: Any, ctx: Any) -> Candidates:
        seen.append(ctx.remaining())
        await asyncio.Event().wait()
        return Candidates.empty()

    limits: dict[str, dict[str, Any]] = {
        "component": {"policies": {"nested": RunPolicy(timeout=seconds(2))}},
        "stage": {"stages": {"sources": StageOptions(timeout=seconds(2))}},
        "deadline": {"deadline": seconds(2)},
    }
    source = nested(make, [make("source", look, "slow")], deadline=seconds(60))
    outcome = run(sources=[source, make("source", later_rows(1), "own")], **limits[limit])
    assert outcome.elapsed_ms == 2000
    assert outcome.item_ids.tolist() == [1]
    assert seen == [2]
    assert errors(outcome)["nested"].startswith("timed out after 2000 ms")


def test_what_failed_inside_is_in_the_trace(run: Any, make: Any) -> None:
    """An inner pipeline that fails is a source that fails, and its trace tells why."""

    async def broken(*_: Any) -> Any:
        raise ValueError("no model")

    source = nested(
        make, [make("source", later_rows(1), "s")], scorers=[make("scorer", broken, "model", writes=[SCORE])]
    )
    entry = entry_of(run(sources=[source]), "nested")
    assert entry.status == "skipped"
    assert entry.error == "pipeline 'inner': scorer model (ToyScorer) failed: ValueError: no model"
    assert [(inside.component, inside.status) for inside in entry.inner] == [("s", "ok"), ("model", "skipped")]


# Whatever the delays

TIMES = st.integers(1, 40).map(lambda tenths: tenths / 10)
HANG = st.just(None)


@st.composite
def component(draw: Any) -> dict[str, Any]:
    """What a component does: wait, perhaps for ever, perhaps in spite of being cancelled, and perhaps raise."""
    return {
        "takes": draw(TIMES | HANG),
        "timeout": draw(st.none() | TIMES),
        "swallows": draw(st.booleans()),
        "raises": draw(st.integers(0, 3)) == 0,
        "spare": draw(st.none() | TIMES),
    }


@given(
    fetchers=st.lists(component(), min_size=1, max_size=5),
    budget=st.none() | TIMES,
    reserve=st.none() | TIMES,
    deadline=st.none() | st.integers(41, 60).map(lambda tenths: tenths / 10),
)
@settings(max_examples=150, deadline=None)
def test_a_stage_never_outlives_its_budget(
    make: Any, fetchers: list[dict[str, Any]], budget: float | None, reserve: float | None, deadline: float | None
) -> None:
    """Whatever its sources do, a stage ends in time, each of them has one last word, and who made it is kept."""
    reserve = None if deadline is None else reserve
    ends = min([end for end in (budget, deadline and deadline - (reserve or 0)) if end is not None], default=1e9)

    def fetching(at: int, takes: float | None, *, swallows: bool = False, raises: bool = False) -> Any:
        async def fetch(query: Any, ctx: Any) -> Candidates:
            loop = asyncio.get_running_loop()
            end = loop.time() + (50 if takes is None else takes)
            while (left := end - loop.time()) > 1e-9:
                try:
                    await asyncio.sleep(left)
                except asyncio.CancelledError:
                    if not swallows:
                        raise
            if raises:
                raise ValueError("no")
            return Candidates.of(ITEM_ID([at]))

        return fetch

    policies, sources, spares, wanted, slack = {}, [], [], set(), set()
    for at, one in enumerate(fetchers):
        name, timeout, spare = f"s{at}", one["timeout"], one["spare"]
        if timeout is not None and timeout > min(budget or 1e9, deadline or 1e9):
            timeout = None
        fetch = fetching(at, one["takes"], swallows=one["swallows"], raises=one["raises"])
        sources.append(make("source", fetch, name))
        limit = min(ends, timeout or 1e9)
        takes = 50 if one["takes"] is None else one["takes"]
        if abs(takes - limit) < 1e-6:
            slack |= {at, at + 100}  # at the same instant, either may be first
        elif takes < limit and not one["raises"]:
            wanted.add(at)
        if spare is not None:
            spares.append(make("source", fetching(at + 100, spare), f"spare{at}"))
            failed = min(takes, limit)
            if abs(failed + spare - ends) < 1e-6:
                slack.add(at + 100)
            elif at not in wanted and failed + spare < ends:
                wanted.add(at + 100)
        policies[name] = RunPolicy(
            timeout=None if timeout is None else seconds(timeout),
            on_error="skip" if spare is None else f"fallback:spare{at}",
        )
    options = StageOptions(
        timeout=None if budget is None or budget >= (deadline or 1e9) else seconds(budget),
        reserve=None if reserve is None else seconds(reserve),
    )
    app = compose(
        "toy",
        sources=sources,
        selector=make("selector", best_first, "top"),
        fallbacks=spares,
        run=policies,
        stages={"sources": options},
        deadline=None if deadline is None else seconds(deadline),
    )

    async def main() -> Outcome:
        async with app:
            return await app["toy"].run()

    outcome = run_in_virtual_time(main())
    assert outcome.elapsed_ms <= ends * 1000 + 1e-3
    assert set(outcome.item_ids.tolist()) - slack == wanted - slack
    final = [entry.component for entry in outcome.trace if entry.status != "fallback" and entry.stage == "sources"]
    answered = {at % 100 for at in range(len(fetchers))}
    assert sorted(int(name.removeprefix("spare").removeprefix("s")) for name in final) == sorted(answered)
    assert all(entry.started_ms + entry.elapsed_ms <= ends * 1000 + 1e-3 for entry in outcome.trace)
