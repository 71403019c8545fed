"""Budgets: of a component, a stage, a request and the pipelines inside it. Time is virtual."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import attrs
import numpy as np
import pytest
from toys import (
    BLOCKED,
    BUDGET,
    DEADLINE_TEXT,
    LABEL,
    PRICE,
    best_first,
    entry_of,
    errors,
    hanging,
    hold,
    later_rows,
    prices,
    seconds,
)

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    RequestError,
    RunPolicy,
    SafetyError,
    StageOptions,
    compose,
    patch,
)
from candidate_pipeline.testing import run_in_virtual_time

pytestmark = pytest.mark.usefixtures("logs")


def stubborn(until: float, answer: Any = None) -> Any:
    """A coroutine function that goes on until a moment whoever cancels it, and then answers all the same."""

    async def work(*_: Any) -> Any:
        loop = asyncio.get_running_loop()
        while (left := until - loop.time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                continue
        return answer

    return work


BUDGET_TEXT = "(the budget of the stage)"


# A stage's end


@pytest.mark.parametrize(
    ("own", "stage", "deadline", "end", "why"),
    [
        (None, StageOptions(timeout=seconds(2)), None, 2, BUDGET_TEXT),
        (1, StageOptions(timeout=seconds(2)), None, 1, ""),
        (None, StageOptions(timeout=seconds(2)), 9, 2, BUDGET_TEXT),
        (None, StageOptions(reserve=seconds(6)), 9, 3, BUDGET_TEXT),
        (None, StageOptions(timeout=seconds(4), reserve=seconds(6)), 9, 3, BUDGET_TEXT),
        (None, StageOptions(timeout=seconds(2), reserve=seconds(6)), 9, 2, BUDGET_TEXT),
        (4, StageOptions(reserve=seconds(6)), 9, 3, BUDGET_TEXT),
        (None, StageOptions(), 9, 9, DEADLINE_TEXT),
        (0.3, StageOptions(), 0.7, 0.3, ""),
        (None, StageOptions(reserve=seconds(0.1)), 0.7, 0.6, BUDGET_TEXT),
    ],
)
def test_a_stage_ends_at_the_earliest_of_its_limits(
    run: Any, make: Any, own: float | None, stage: StageOptions, deadline: float | None, end: float, why: str
) -> None:
    """Own timeout, the stage's, what the stage leaves of the deadline: the first cuts, and the trace says which."""
    outcome = run(
        sources=[make("source", hanging, "slow"), make("source", later_rows(1, after=0.1), "good")],
        policies={"slow": RunPolicy(timeout=None if own is None else seconds(own))},
        stages={"sources": stage},
        deadline=None if deadline is None else seconds(deadline),
    )
    assert outcome.elapsed_ms == pytest.approx(end * 1000)
    assert outcome.item_ids.tolist() == [1]
    assert errors(outcome) == {"slow": f"timed out after {end * 1000:.0f} ms {why}".strip()}


@pytest.mark.parametrize(
    "answer", [None, Candidates.of(ITEM_ID([9]))], ids=["answers nothing", "answers after its time"]
)
def test_a_straggler_that_swallows_its_cancellation_holds_up_nobody(make: Any, answer: Any) -> None:
    """The stage returns at its budget with the other results; what the straggler answers later is dropped."""
    app = compose(
        "toy",
        sources=[make("source", stubborn(60, answer), "slow"), make("source", later_rows(1, 2, after=1), "good")],
        selector=make("selector", best_first, "top"),
        stages={"sources": StageOptions(timeout=seconds(2))},
    )

    async def main() -> None:
        async with app:
            outcome = await app["toy"].run()
            assert asyncio.get_running_loop().time() == 2
            assert outcome.item_ids.tolist() == [1, 2]
            assert errors(outcome) == {"slow": f"timed out after 2000 ms {BUDGET_TEXT}"}
            assert app.runtime.abandoned == 1
            await asyncio.sleep(100)
            assert app.runtime.abandoned == 0
            assert outcome.item_ids.tolist() == [1, 2]

    run_in_virtual_time(main())


def test_closing_does_not_wait_for_what_never_stops(make: Any, logs: Any) -> None:
    """An application closes a moment after its last request, and the log names what goes on regardless."""
    app = compose(
        "toy",
        sources=[make("source", stubborn(60), "slow")],
        selector=make("selector", best_first, "top"),
        stages={"sources": StageOptions(timeout=seconds(2))},
    )

    async def main() -> None:
        async with app:
            await app["toy"].run()
        assert asyncio.get_running_loop().time() == 3
        assert logs[-1]["event"] == "a component ignores its cancellation"
        assert logs[-1]["task"] == "slow"

    run_in_virtual_time(main())


def test_every_stage_has_its_own_budget(run: Any, make: Any) -> None:
    """Each stage's budget starts with the stage; what the earlier ones left over or overran does not count."""
    limit = StageOptions(timeout=seconds(2))
    outcome = run(
        query_hydrators=[make("query_hydrator", hanging, "query", writes=[BUDGET])],
        sources=[make("source", hanging, "slow"), make("source", later_rows(1, 2, after=1), "good")],
        hydrators=[make("hydrator", hanging, "h", writes=[PRICE]), make("hydrator", hanging, "i", writes=[LABEL])],
        scorers=[make("scorer", hanging, "score", writes=[SCORE])],
        post_selection_hydrators=[make("hydrator", hanging, "late", writes=[LABEL])],
        policies={"score": RunPolicy(on_error="skip")},
        stages=dict.fromkeys(["query_hydrators", "sources", "hydrators", "scorers", "post_selection_hydrators"], limit),
        deadline=seconds(60),
    )
    assert outcome.item_ids.tolist() == [1, 2]
    assert outcome.elapsed_ms == 10_000
    assert set(errors(outcome).values()) == {f"timed out after 2000 ms {BUDGET_TEXT}"}
    assert len(errors(outcome)) == 6


def test_phases_of_a_stage_share_its_budget(run: Any, make: Any) -> None:
    """A hydrator that waits for another has what that one left of the stage's time."""
    outcome = run(
        hydrators=[
            make("hydrator", prices(1.5), "first", writes=[PRICE]),
            make("hydrator", hanging, "second", reads=[PRICE], writes=[LABEL]),
        ],
        stages={"hydrators": StageOptions(timeout=seconds(2))},
    )
    assert outcome.elapsed_ms == 2000
    assert errors(outcome) == {"second": f"timed out after 500 ms {BUDGET_TEXT}"}
    assert outcome.selected.valid(PRICE).all()
    assert outcome.selected.failed(LABEL).all()


def test_scorers_share_the_budget_of_their_stage(run: Any, make: Any) -> None:
    """Scorers run one after another, within one budget."""

    async def score(query: Any, candidates: Candidates, ctx: Any) -> Any:
        await asyncio.sleep(1.25)
        return patch(SCORE(np.ones(len(candidates))))

    outcome = run(
        scorers=[make("scorer", score, name, writes=[SCORE]) for name in ("a", "b", "c")],
        policies={name: RunPolicy(on_error="skip") for name in ("a", "b", "c")},
        stages={"scorers": StageOptions(timeout=seconds(2))},
    )
    assert outcome.elapsed_ms == 2000
    assert errors(outcome) == {
        "b": f"timed out after 750 ms {BUDGET_TEXT}",
        "c": f"timed out after 0 ms {BUDGET_TEXT}",
    }
    assert outcome.selected[SCORE].tolist() == [1.0] * 3


def test_reserve_leaves_time_to_later_stages(run: Any, make: Any) -> None:
    """What a stage must leave of the deadline is there for those that follow."""
    outcome = run(
        sources=[make("source", hanging, "slow"), make("source", later_rows(1), "good")],
        hydrators=[make("hydrator", prices(1.5), "h", writes=[PRICE])],
        stages={"sources": StageOptions(reserve=seconds(2))},
        deadline=seconds(5),
    )
    assert outcome.elapsed_ms == 4500
    assert errors(outcome) == {"slow": f"timed out after 3000 ms {BUDGET_TEXT}"}
    assert outcome.selected[PRICE].tolist() == [1.0]


def test_plain_defs_run_whatever_the_time(run: Any, make: Any) -> None:
    """A plain def is never left out for lack of time: filters and selectors work after the deadline as before."""
    outcome = run(
        sources=[make("source", hanging, "slow"), make("source", later_rows(1, 2), "good")],
        hydrators=[make("hydrator", hanging, "h", writes=[LABEL]), make("hydrator", plain_prices, "p", writes=[PRICE])],
        filters=[make("filter", lambda q, c, ctx: c[ITEM_ID] > 1, "f", safety=True)],
        deadline=seconds(1),
    )
    assert outcome.elapsed_ms == 1000
    assert outcome.item_ids.tolist() == [2]
    assert outcome.selected[PRICE].tolist() == [7.0]
    assert errors(outcome)["h"] == f"timed out after 0 ms {DEADLINE_TEXT}"


def plain_prices(query: Any, candidates: Candidates, ctx: Any) -> Any:
    """A plain hydrator."""
    return patch(PRICE(np.full(len(candidates), 7.0)))


# Fallbacks


def test_a_fallback_has_what_is_left_of_the_stage(run: Any, make: Any) -> None:
    """A fallback gets no budget of its own: it ends with the stage, though its own timeout is later."""
    outcome = run(
        hydrators=[make("hydrator", hanging, "main", writes=[PRICE])],
        fallbacks=[make("hydrator", hanging, "spare", writes=[PRICE])],
        policies={
            "main": RunPolicy(timeout=seconds(2), on_error="fallback:spare"),
            "spare": RunPolicy(timeout=seconds(3)),
        },
        stages={"hydrators": StageOptions(timeout=seconds(3))},
    )
    assert outcome.elapsed_ms == 3000
    assert errors(outcome) == {
        "main": "timed out after 2000 ms",
        "spare": f"timed out after 1000 ms {BUDGET_TEXT}",
    }
    assert [(entry.component, entry.status, entry.by) for entry in outcome.trace if entry.stage == "hydrators"] == [
        ("main", "fallback", "spare"),
        ("spare", "skipped", ""),
    ]


def test_a_fallbacks_own_timeout_counts_from_its_start(run: Any, make: Any) -> None:
    """The time of a fallback is its own; what it stands in for used up nothing of it."""
    outcome = run(
        hydrators=[make("hydrator", hanging, "main", writes=[PRICE])],
        fallbacks=[make("hydrator", hanging, "spare", writes=[PRICE])],
        policies={
            "main": RunPolicy(timeout=seconds(2), on_error="fallback:spare"),
            "spare": RunPolicy(timeout=seconds(1)),
        },
    )
    assert outcome.elapsed_ms == 3000
    assert errors(outcome)["spare"] == "timed out after 1000 ms"


def test_a_plain_fallback_runs_though_the_stage_is_over(run: Any, make: Any) -> None:
    """After a timeout at the stage's end there is no time left, which a plain def needs none of."""
    outcome = run(
        hydrators=[make("hydrator", hanging, "main", writes=[PRICE])],
        fallbacks=[make("hydrator", plain_prices, "spare", writes=[PRICE])],
        policies={"main": RunPolicy(on_error="fallback:spare")},
        stages={"hydrators": StageOptions(timeout=seconds(2))},
    )
    assert outcome.elapsed_ms == 2000
    assert outcome.selected[PRICE].tolist() == [7.0] * 3


@pytest.mark.parametrize(
    ("policy", "late", "wrong"),
    [
        (RunPolicy(on_error="fail", on_timeout="skip"), "skipped", "fail"),
        (RunPolicy(on_error="skip", on_timeout="fail"), "fail", "skipped"),
        (RunPolicy(on_error="fallback:a", on_timeout="skip"), "skipped", "a"),
        (RunPolicy(on_error="skip", on_timeout="fallback:b"), "b", "skipped"),
        (RunPolicy(on_error="fallback:a", on_timeout="fallback:b"), "b", "a"),
        (RunPolicy(on_error="fallback:a", on_timeout="fallback:a"), "a", "a"),
        (RunPolicy(on_error="fallback:a"), "a", "a"),
        (RunPolicy(on_timeout="fail"), "fail", "skipped"),
        (RunPolicy(on_timeout="fallback:b"), "b", "skipped"),
    ],
)
def test_a_timeout_may_do_other_than_an_error(run: Any, make: Any, policy: RunPolicy, late: str, wrong: str) -> None:
    """`on_timeout` decides for the engine's limits only; a component's own `TimeoutError` is an error."""

    async def broken(*_: Any) -> Any:
        raise TimeoutError("socket")

    for function, wanted in ((hanging, late), (broken, wrong)):
        stages: dict[str, Any] = {
            "sources": [make("source", later_rows(1), "good"), make("source", function, "main")],
            "fallbacks": [make("source", later_rows(2), "a"), make("source", later_rows(3), "b")],
            "policies": {"main": attrs.evolve(policy, timeout=seconds(1))},
        }
        if wanted == "fail":
            with pytest.raises(RequestError, match=r"source main .* failed: (timed out|TimeoutError)"):
                run(**stages)
            continue
        outcome = run(**stages)
        assert outcome.item_ids.tolist() == {"skipped": [1], "a": [1, 2], "b": [1, 3]}[wanted]
        assert entry_of(outcome, "main").by == ("" if wanted == "skipped" else wanted)


@pytest.mark.parametrize("kind", ["hydrator", "source"])
def test_a_fallback_after_an_abandoned_thread_is_cancelled_at_the_end(make: Any, kind: str) -> None:
    """An async fallback of a blocking component is cut as any other, and leaves no task behind."""
    release, cancelled = threading.Event(), []

    def stuck(*_: Any) -> Any:
        release.wait(20)

    async def spare(*_: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(asyncio.get_running_loop().time())

    async def clock(*_: Any) -> Any:  # while a thread works the clock stands still, unless somebody moves it
        hold(1)
        return Candidates.of(ITEM_ID([1])) if kind == "source" else patch()

    stages: dict[str, Any] = {"sources": [make("source", later_rows(1), "good")]}
    beside = [make(kind, stuck, "main", blocking=True), make(kind, clock, "clock")]
    stages[f"{kind}s"] = [*(stages["sources"] if kind == "source" else []), *beside]
    app = compose(
        "toy",
        **stages,
        selector=make("selector", best_first, "top"),
        fallbacks=[make(kind, spare, "spare")],
        run={"main": RunPolicy(timeout=seconds(1), on_error="fallback:spare")},
        stages={f"{kind}s": StageOptions(timeout=seconds(3))},
    )

    async def main() -> None:
        async with app:
            before = asyncio.all_tasks()
            outcome = await app["toy"].run()
            assert asyncio.get_running_loop().time() == 3
            assert outcome.item_ids.tolist() == [1]
            assert cancelled == [3]
            assert errors(outcome)["spare"] == f"timed out after 2000 ms {BUDGET_TEXT}"
            assert asyncio.all_tasks() == before
            release.set()

    run_in_virtual_time(main())


# What the deadline does to safety


def test_no_time_for_a_safety_filters_feature_fails_the_request(run: Any, make: Any) -> None:
    """A block list that came too late is a failed one, default or not."""
    with pytest.raises(SafetyError, match=r"query feature toy\.blocked failed: blocks: timed out after 1000 ms"):
        run(
            query_hydrators=[make("query_hydrator", hanging, "blocks", writes=[BLOCKED])],
            filters=[
                make("filter", lambda q, c, ctx: ~np.isin(c[ITEM_ID], q[BLOCKED]), "f", reads=[BLOCKED], safety=True)
            ],
            stages={"query_hydrators": StageOptions(timeout=seconds(1))},
        )
