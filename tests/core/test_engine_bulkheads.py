"""Blocking components in a pipeline: bounded threads, calls left behind, contexts. Time is virtual, work is not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import structlog
from toys import LONG, WHO, best_first, errors, hold, rows, seconds

from candidate_pipeline import (
    ITEM_ID,
    App,
    Candidates,
    Outcome,
    RequestError,
    RunPolicy,
    StageOptions,
    compose,
    patch,
    query_patch,
)
from candidate_pipeline.engine.threads import ThreadCounts
from candidate_pipeline.testing import run_in_virtual_time

pytestmark = pytest.mark.usefixtures("logs")


class Stuck:
    """A blocking source that holds its thread until it is let go."""

    def __init__(self) -> None:
        """Start held."""
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.lock = threading.Lock()
        self.running = self.most = self.calls = 0

    def __call__(self, query: Any, ctx: Any) -> Candidates:
        """Wait, and give item 1."""
        with self.lock:
            self.calls += 1
            self.running += 1
            self.most = max(self.most, self.running)
        self.entered.release()
        assert self.go.wait(LONG)
        with self.lock:
            self.running -= 1
        return Candidates.of(ITEM_ID([1]))

    async def entries(self, count: int) -> None:
        """Wait until so many more calls are in their threads; the clock stands still meanwhile."""
        for _ in range(count):
            assert await asyncio.to_thread(self.entered.acquire, timeout=LONG)


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    """A source that is let go when the test ends."""
    source = Stuck()
    yield source
    source.go.set()


def toy(make: Any, stuck: Stuck, policy: RunPolicy, **given: Any) -> App:
    """An application with a stuck source among others."""
    sources = [
        make("source", stuck, "stuck", blocking=True),
        make("source", rows(2), "thread", blocking=True),
        make("source", rows(3), "plain"),
    ]
    return compose("toy", sources=sources, selector=make("selector", best_first, "top"), run={"stuck": policy}, **given)


def counts(app: App, name: str) -> ThreadCounts:
    """The calls of a blocking component."""
    plan = app["toy"].plan
    index = next(node.index for node in plan.nodes if node.name == name)
    pool = app.runtime.state(plan).pools[index]
    assert pool is not None
    return pool.counts


async def cut(app: App, stuck: Stuck, after: float = 1.0) -> Outcome:
    """A request whose stuck source is cut at its timeout."""
    request = asyncio.create_task(app["toy"].run())
    await asyncio.sleep(0)
    await stuck.entries(1)
    hold(after)
    return await request


def test_no_more_calls_than_threads(make: Any, stuck: Stuck) -> None:
    """Requests beyond a component's threads wait for their turn, and all are answered."""
    app = toy(make, stuck, RunPolicy(threads=2))

    async def main() -> None:
        async with app:
            requests = [asyncio.create_task(app["toy"].run()) for _ in range(5)]
            await asyncio.sleep(0)
            await stuck.entries(2)
            assert counts(app, "stuck") == ThreadCounts(queued=3, running=2)
            stuck.go.set()
            outcomes = await asyncio.gather(*requests)
            assert [outcome.item_ids.tolist() for outcome in outcomes] == [[1, 2, 3]] * 5
            assert counts(app, "stuck") == ThreadCounts()
        assert stuck.most == 2

    run_in_virtual_time(main())


def test_a_component_at_its_cap_is_skipped_and_the_others_are_not(make: Any, stuck: Stuck) -> None:
    """Calls that outlived their timeout hold their threads and are counted; with all held, no more are tried."""
    app = toy(make, stuck, RunPolicy(threads=2, timeout=seconds(1)))

    async def main() -> None:
        async with app:
            for held in (1, 2):
                outcome = await cut(app, stuck)
                assert outcome.item_ids.tolist() == [2, 3]
                assert errors(outcome) == {"stuck": "timed out after 1000 ms"}
                assert counts(app, "stuck") == ThreadCounts(running=held, abandoned=held, abandoned_total=held)
            for _ in range(3):
                before = asyncio.get_running_loop().time()
                outcome = await app["toy"].run()
                assert asyncio.get_running_loop().time() == before
                assert outcome.item_ids.tolist() == [2, 3]
                assert errors(outcome) == {
                    "stuck": "all 2 threads are held by calls that outlived their timeouts (abandoned 2)"
                }
            assert stuck.calls == 2
            assert counts(app, "thread") == ThreadCounts()
            stuck.go.set()
            while counts(app, "stuck").running:
                await asyncio.to_thread(lambda: None)
            assert counts(app, "stuck") == ThreadCounts(abandoned_total=2)
            assert (await app["toy"].run()).item_ids.tolist() == [1, 2, 3]

    run_in_virtual_time(main())


def test_a_full_component_fails_under_its_policy(make: Any, stuck: Stuck) -> None:
    """A component at its cap has failed: `on_error` says what then, and the circuit does not count it."""
    policy = RunPolicy(threads=1, timeout=seconds(1), on_error="fail", on_timeout="fallback:spare")
    app = toy(make, stuck, policy, fallbacks=[make("source", rows(9), "spare")])

    async def main() -> None:
        async with app:
            assert (await cut(app, stuck)).item_ids.tolist() == [9, 2, 3]
            with pytest.raises(RequestError) as caught:
                await app["toy"].run()
            assert str(caught.value) == (
                "pipeline 'toy': source stuck (ToySource) failed: its only thread is held by a call that outlived its "
                "timeout (abandoned 1)"
            )

    run_in_virtual_time(main())


@pytest.mark.parametrize("limit", ["stage", "deadline"])
def test_threads_end_with_the_stage(make: Any, stuck: Stuck, limit: str) -> None:
    """A thread without a timeout of its own is left behind at the end of its stage or of the request."""
    given: dict[str, dict[str, Any]] = {
        "stage": {"stages": {"sources": StageOptions(timeout=seconds(2))}},
        "deadline": {"deadline": seconds(2)},
    }
    app = toy(make, stuck, RunPolicy(), **given[limit])

    async def main() -> None:
        async with app:
            outcome = await cut(app, stuck, after=2)
            assert outcome.item_ids.tolist() == [2, 3]
            assert outcome.elapsed_ms == 2000
            assert counts(app, "stuck").abandoned == 1

    run_in_virtual_time(main())


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_threads_of_a_request_that_ended(make: Any, stuck: Stuck, how: str) -> None:
    """A request that is cancelled, or fails because of another component, leaves its threads behind, counted."""
    trigger = asyncio.Event()

    async def breaks(query: Any, ctx: Any) -> Any:
        await trigger.wait()
        raise RequestError("unknown viewer")

    app = compose(
        "toy",
        sources=[make("source", stuck, "stuck", blocking=True), make("source", breaks, "breaks")],
        selector=make("selector", best_first, "top"),
        run={"stuck": RunPolicy(threads=1)},
    )

    async def main() -> None:
        async with app:
            request = asyncio.create_task(app["toy"].run())
            queued = asyncio.create_task(app["toy"].run())
            await asyncio.sleep(0)
            await stuck.entries(1)
            assert counts(app, "stuck") == ThreadCounts(running=1, queued=1)
            if how == "cancelled":
                request.cancel()
                queued.cancel()
            else:
                trigger.set()
            ended = await asyncio.gather(request, queued, return_exceptions=True)
            assert {type(each) for each in ended} == {asyncio.CancelledError if how == "cancelled" else RequestError}
            assert counts(app, "stuck") == ThreadCounts(running=1, abandoned=1, abandoned_total=1)
        assert stuck.calls == 1

    run_in_virtual_time(main())


@pytest.mark.parametrize(
    "kind", ["query_hydrator", "source", "hydrator", "filter", "scorer", "selector", "side_effect"]
)
def test_contexts_survive_threads(make: Any, kind: str) -> None:
    """A component in a thread sees the request's context variables and log context, and cannot change them."""
    seen: list[Any] = []

    def work(query: Any, *args: Any) -> Any:
        seen.append(
            (
                threading.current_thread() is threading.main_thread(),
                WHO.get(),
                structlog.contextvars.get_contextvars().get("request_id"),
            )
        )
        WHO.set("thread")
        structlog.contextvars.bind_contextvars(request_id="thread")
        n = len(args[0]) if kind in {"filter", "selector"} else 0
        answers: dict[str, Any] = {
            "query_hydrator": query_patch(),
            "source": Candidates.of(ITEM_ID([1])),
            "filter": np.ones(n, np.bool_),
            "selector": np.arange(n),
            "side_effect": None,
        }
        return answers.get(kind, patch())

    component = make(kind, work, "x", blocking=True)
    stages: dict[str, Any] = {"sources": [make("source", rows(1), "s")], "selector": make("selector", best_first, "t")}
    stages |= {"selector": component} if kind == "selector" else {f"{kind}s": [component]}
    app = compose("toy", **stages)

    async def ask(who: str) -> None:
        with structlog.contextvars.bound_contextvars(request_id=f"request of {who}"):
            WHO.set(who)
            outcome = await app["toy"].run()
            assert errors(outcome) == {}
            assert WHO.get() == who
            assert structlog.contextvars.get_contextvars()["request_id"] == f"request of {who}"

    async def main() -> None:
        async with app:
            await asyncio.gather(ask("ann"), ask("bob"))

    run_in_virtual_time(main())
    assert sorted(seen) == [(False, "ann", "request of ann"), (False, "bob", "request of bob")]


@pytest.mark.parametrize("kind", ["source", "hydrator", "side_effect"])
def test_a_coroutine_out_of_a_thread_is_a_mistake(make: Any, logs: Any, kind: str) -> None:
    """What a thread cannot await has not run, so it is a failure of its component and never passes for success."""

    async def later(*_: Any) -> None:
        """Never runs."""

    def work(*args: Any) -> Any:
        return later(*args)

    stages: dict[str, Any] = {"sources": [make("source", rows(1), "s")]}
    stages[f"{kind}s"] = [*(stages.get(f"{kind}s") or []), make(kind, work, "x", blocking=True)]
    app = compose(
        "toy",
        **stages,
        selector=make("selector", best_first, "t"),
        run={"x": RunPolicy(sync=True, retries=0) if kind == "side_effect" else RunPolicy()},
    )

    async def main() -> None:
        async with app:
            outcome = await app["toy"].run()
            assert errors(outcome) == {
                "x": "x returned a coroutine; make its method async def, without blocking = True"
            }

    run_in_virtual_time(main())
