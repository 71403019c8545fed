"""`prepare`, which runs beside the sources, and blocking components, which run in threads."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from toys import BUDGET, BUYER, WHO, best_first, errors, hanging, later_rows, plain_failure, raising, seconds

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    RequestError,
    RunPolicy,
    compose,
    patch,
)
from candidate_pipeline.testing import run_in_virtual_time

# prepare


def test_prepare_runs_beside_the_sources(run: Any, make: Any) -> None:
    """A scorer's `prepare` of 3 s beside sources of 2 s and a hydrator of 1 s costs nothing more."""

    async def encode(query: Any, ctx: Any) -> int:
        await asyncio.sleep(3)
        return int(query[BUYER]) + 1

    async def hydrate(query: Any, candidates: Candidates, ctx: Any) -> Any:
        await asyncio.sleep(1)
        return patch()

    seen = []

    async def score(query: Any, candidates: Candidates, ctx: Any) -> Any:
        seen.append((ctx.prepared, asyncio.get_running_loop().time()))
        return patch(SCORE(np.zeros(len(candidates))))

    run(
        sources=[make("source", later_rows(1, after=2), "s")],
        hydrators=[make("hydrator", hydrate, "h")],
        scorers=[make("scorer", score, "model", reads=[BUYER], writes=[SCORE], prepare=encode)],
        inputs={"buyer": BUYER},
        request={"buyer": 41},
    )
    assert seen == [(42, 3.0)]


@pytest.mark.parametrize("plain", [True, False])
def test_failure_of_prepare_is_the_components(run: Any, make: Any, plain: bool) -> None:
    """What `prepare` raises counts as the component's failure, under the component's policy."""
    function = plain_failure if plain else raising(ZeroDivisionError("oops"))
    stages = {"scorers": [make("scorer", plain_failure, "model", writes=[SCORE], prepare=function)]}
    assert errors(run(**stages, policies={"model": RunPolicy(on_error="skip")})) == {"model": "ZeroDivisionError: oops"}
    with pytest.raises(RequestError, match=r"scorer model .* failed: ZeroDivisionError: oops"):
        run(**stages)


def test_prepare_counts_towards_the_timeout(run: Any, make: Any) -> None:
    """Waiting for `prepare` and the call together take no longer than the timeout."""

    async def slow(query: Any, ctx: Any) -> None:
        await asyncio.sleep(3)

    async def score(query: Any, candidates: Candidates, ctx: Any) -> Any:
        await asyncio.sleep(3)
        return patch(SCORE(np.zeros(len(candidates))))

    policy = {"model": RunPolicy(on_error="skip", timeout=seconds(4))}
    stages = {"scorers": [make("scorer", score, "model", writes=[SCORE], prepare=slow)]}
    outcome = run(**stages, policies=policy)
    assert errors(outcome) == {"model": "timed out after 4000 ms"}
    assert outcome.elapsed_ms == 4000


def test_prepare_is_not_started_on_failed_features(run: Any, make: Any) -> None:
    """With a failed feature the component fails for that reason; its `prepare` never runs."""
    outcome = run(
        query_hydrators=[make("query_hydrator", plain_failure, "wallet", writes=[BUDGET])],
        scorers=[make("scorer", plain_failure, "model", reads=[BUDGET], writes=[SCORE], prepare=hanging)],
        policies={"model": RunPolicy(on_error="skip")},
    )
    assert errors(outcome)["model"].startswith("query feature toy.budget failed")


def test_prepare_that_nobody_waits_for_is_cancelled(run: Any, make: Any) -> None:
    """When the request ends early, a `prepare` that still runs is cancelled."""
    ended = []

    async def encode(query: Any, ctx: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(ctx.component)

    with pytest.raises(RequestError):
        run(
            hydrators=[make("hydrator", raising(ZeroDivisionError(), after=1), "h")],
            scorers=[make("scorer", plain_failure, "model", writes=[SCORE], prepare=encode)],
            policies={"h": RunPolicy(on_error="fail")},
        )
    assert ended == ["model"]


# Threads


def test_blocking_components_run_in_threads_with_the_requests_context(make: Any) -> None:
    """A blocking component runs beside the event loop, sees the request's context variables and cannot change them."""
    seen = []

    def fetch(query: Any, ctx: Any) -> Candidates:
        seen.append((threading.current_thread() is threading.main_thread(), WHO.get()))
        WHO.set("thread")
        return Candidates.of(ITEM_ID([1]))

    app = compose(
        "toy", sources=[make("source", fetch, "s", blocking=True)], selector=make("selector", best_first, "t")
    )

    async def serve() -> str:
        async with app:
            WHO.set("request")
            await app["toy"].run()
            return WHO.get()

    assert run_in_virtual_time(serve()) == "request"
    assert seen == [(False, "request")]


def test_blocking_components_do_not_block_one_another(make: Any) -> None:
    """Two blocking sources that wait for each other both finish: they run in two threads at once."""
    meeting = threading.Barrier(2, timeout=30)

    def fetch(query: Any, ctx: Any) -> Candidates:
        meeting.wait()
        return Candidates.of(ITEM_ID([1]))

    app = compose(
        "toy",
        sources=[make("source", fetch, name, blocking=True) for name in "ab"],
        selector=make("selector", best_first, "t"),
    )
    with app:
        assert app["toy"].run_sync().selected.sources(0) == ("a", "b")


def test_a_blocking_call_that_outlives_its_timeout_is_abandoned(make: Any) -> None:
    """The request goes on while the thread still works; what it returns later is dropped."""
    release = threading.Event()

    def fetch(query: Any, ctx: Any) -> Candidates:
        release.wait(30)
        return Candidates.of(ITEM_ID([9]))

    app = compose(
        "toy",
        sources=[make("source", fetch, "slow", blocking=True), make("source", later_rows(1), "good")],
        selector=make("selector", best_first, "t"),
        run={"slow": RunPolicy(timeout=seconds(0.02))},
    )
    with app:
        outcome = app["toy"].run_sync()
        release.set()
    assert outcome.item_ids.tolist() == [1]
    assert errors(outcome)["slow"].startswith("timed out after")


def test_stop_iteration_in_a_thread_does_not_hang(run: Any, make: Any) -> None:
    """`StopIteration`, which a future cannot carry, is a failure like any other."""

    def fetch(query: Any, ctx: Any) -> Any:
        return next(iter(()))

    outcome = run(sources=[make("source", fetch, "s", blocking=True), make("source", fetch, "t")])
    assert errors(outcome)["s"] == "RuntimeError: StopIteration left the component"
    assert "StopIteration" in errors(outcome)["t"]


def test_blocking_filters_and_selectors_run_in_threads_too(run: Any, make: Any) -> None:
    """A filter and a selector may be blocking."""
    main = []

    def keep(query: Any, candidates: Candidates, ctx: Any) -> Any:
        main.append(threading.current_thread() is threading.main_thread())
        return candidates[ITEM_ID] > 1

    def select(query: Any, candidates: Candidates, ctx: Any) -> Any:
        main.append(threading.current_thread() is threading.main_thread())
        return np.array([0])

    outcome = run(
        filters=[make("filter", keep, "f", blocking=True)], selector=make("selector", select, "t", blocking=True)
    )
    assert outcome.item_ids.tolist() == [2]
    assert main == [False, False]
