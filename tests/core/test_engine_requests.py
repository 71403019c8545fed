"""Side effects, and requests beside one another."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from typing import Any

import numpy as np
import pytest
import structlog
from toys import BUYER, PRICE, hanging, toy

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    QueryFeature,
    RunPolicy,
    patch,
    query_patch,
)
from candidate_pipeline.cli.setup import quiet_logs
from candidate_pipeline.testing import run_in_virtual_time

SECRET = QueryFeature("toy.secret", int)


# Side effects


def test_side_effects_run_after_the_response(make: Any) -> None:
    """The response does not wait for side effects; leaving the application does."""
    happened = []

    async def slow(query: Any, outcome: Any, ctx: Any) -> None:
        await asyncio.sleep(20)
        happened.append((ctx.component, outcome.item_ids.tolist(), query.request_id))

    app = toy(make, side_effects=[make("side_effect", slow, "a"), make("side_effect", slow, "b")])

    async def main() -> None:
        async with app:
            outcome = await app["toy"].run(request_id="r1")
            assert asyncio.get_running_loop().time() == 0
            assert happened == []
            assert outcome.elapsed_ms == 0
        assert asyncio.get_running_loop().time() == 20

    run_in_virtual_time(main())
    assert happened == [("a", [1, 2, 3], "r1"), ("b", [1, 2, 3], "r1")]


def test_side_effects_of_scripts_are_drained_too(make: Any) -> None:
    """After `with app:` the side effects of `run_sync` are done."""
    happened = []

    async def later(query: Any, outcome: Any, ctx: Any) -> None:
        await asyncio.sleep(0)
        happened.append(query.request_id)

    with toy(make, side_effects=[make("side_effect", later, "a")]) as app:
        app["toy"].run_sync(request_id="1")
        app["toy"].run_sync(request_id="2")
    assert happened == ["1", "2"]


def test_side_effects_that_fail_or_hang_hurt_nobody(make: Any) -> None:
    """A side effect that raises or outlives its timeout changes neither the response nor the other side effects."""
    happened = []

    def raises(query: Any, outcome: Any, ctx: Any) -> None:
        raise ValueError("no network")

    app = toy(
        make,
        side_effects=[
            make("side_effect", raises, "raises"),
            make("side_effect", hanging, "hangs"),
            make("side_effect", lambda query, outcome, ctx: happened.append(1), "fine"),
        ],
        run={"hangs": RunPolicy(timeout=dt.timedelta(seconds=5), retries=0)},
    )

    async def main() -> None:
        async with app:
            outcome = await app["toy"].run()
            assert len(outcome.selected) == 3
        assert asyncio.get_running_loop().time() == 5

    run_in_virtual_time(main())
    assert happened == [1]


def test_blocking_side_effects_run_in_threads(make: Any) -> None:
    """A blocking side effect does not hold up the event loop."""
    threads = []

    def work(query: Any, outcome: Any, ctx: Any) -> None:
        threads.append(threading.current_thread() is threading.main_thread())

    with toy(make, side_effects=[make("side_effect", work, "a", blocking=True)]) as app:
        app["toy"].run_sync()
    assert threads == [False]


# Requests beside one another


def test_interleaved_requests_do_not_mix(make: Any) -> None:
    """Two requests that take turns at every step each see their own query, rows and scores."""

    async def secret(query: Any, ctx: Any) -> Any:
        await asyncio.sleep(1 + query[BUYER] % 2)
        return query_patch(SECRET(query[BUYER] * 10))

    async def fetch(query: Any, ctx: Any) -> Candidates:
        await asyncio.sleep(1)
        return Candidates.of(ITEM_ID([query[SECRET], query[SECRET] + 1]))

    async def price(query: Any, candidates: Candidates, ctx: Any) -> Any:
        await asyncio.sleep(1)
        return patch(PRICE(candidates[ITEM_ID] * 1.0))

    async def encode(query: Any, ctx: Any) -> int:
        await asyncio.sleep(0.5)
        return int(query[SECRET])

    async def score(query: Any, candidates: Candidates, ctx: Any) -> Any:
        assert ctx.prepared == query[SECRET]
        await asyncio.sleep(1)
        return patch(SCORE(candidates[PRICE] - query[SECRET]))

    app = toy(
        make,
        inputs={"buyer": BUYER},
        query_hydrators=[make("query_hydrator", secret, "secret", reads=[BUYER], writes=[SECRET])],
        sources=[make("source", fetch, "s", reads=[SECRET])],
        hydrators=[make("hydrator", price, "p", writes=[PRICE])],
        scorers=[make("scorer", score, "m", reads=[PRICE, SECRET], writes=[SCORE], prepare=encode)],
    )

    async def main() -> None:
        async with app:
            outcomes = await asyncio.gather(*(app["toy"].run(buyer=buyer) for buyer in range(10)))
        for buyer, outcome in enumerate(outcomes):
            assert outcome.item_ids.tolist() == [buyer * 10 + 1, buyer * 10]
            assert outcome.selected[SCORE].tolist() == [1.0, 0.0]
            assert outcome.query[BUYER] == buyer
            assert len(outcome.trace) == 5
        assert len({outcome.query.request_id for outcome in outcomes}) == 10

    run_in_virtual_time(main())


def test_same_seed_same_answer(make: Any) -> None:
    """Randomness comes from the seed and the component's name, so a request can be repeated."""

    def score(query: Any, candidates: Candidates, ctx: Any) -> Any:
        return patch(SCORE(ctx.rng().random(len(candidates)).astype(np.float32)))

    scorers = [make("scorer", score, name, writes=[SCORE]) for name in ("first", "second")]
    with toy(make, scorers=scorers) as app:
        one, again, other = (app["toy"].run_sync(seed=seed) for seed in (1, 1, 2))
    steps = [[step.after.values.tolist() for step in outcome.score_steps] for outcome in (one, again, other)]
    assert steps[0] == steps[1] != steps[2]
    assert steps[0][0] != steps[0][1]
    assert one.item_ids.tolist() == again.item_ids.tolist()
    assert one.query.seed == 1


def test_logs_of_the_program_go_to_standard_error(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A failed component is logged on what standard error is at that moment, and never on standard output."""
    quiet_logs()
    try:
        with toy(make, sources=[make("source", lambda *_: 1 / 0, "down")]) as app:
            app["toy"].run_sync()
    finally:
        structlog.reset_defaults()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "component failed" in printed.err
    assert "ZeroDivisionError: division by zero" in printed.err
