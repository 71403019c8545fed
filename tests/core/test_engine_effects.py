"""Side effects of requests, through an application. Time is virtual."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FLAG, LEVEL, PLAN, Log, effect_entries, now, seconds, serve, three_rows, toy

from candidate_pipeline import (
    Candidates,
    RunPolicy,
    StageOptions,
    query_patch,
)
from candidate_pipeline.engine.background import SideEffectCounts
from candidate_pipeline.testing import VirtualTimeLoop

pytestmark = pytest.mark.usefixtures("logs")


# After the response


def test_retries_share_a_key(make: Any, logs: Any) -> None:
    """Every try of one run has the same key; components and requests have keys of their own."""
    first, second = Log([ValueError("a"), ValueError("b")]), Log()
    policy = RunPolicy(retries=2, backoff=seconds(1))
    app = toy(make, first.component(make, "first"), second.component(make, "second"), run={"first": policy})

    async def main() -> None:
        async with app:
            await app["toy"].run(request_id="r1")
            await asyncio.sleep(100)
            await app["toy"].run(request_id="r2")
            assert app.runtime.background.counts()["first"] == SideEffectCounts(done=1, retried=2, pending=1)

    serve(main)
    assert first.tries == [(0, "r1:first"), (1, "r1:first"), (3, "r1:first"), (100, "r2:first")]
    assert second.tries == [(0, "r1:second"), (100, "r2:second")]
    assert logs == []


def test_failures_are_counted_and_logged(make: Any, logs: Any) -> None:
    """A run that is given up is logged with its component and request; the response does not know of it."""
    log = Log([OSError("disk full")] * 3)
    app = toy(make, log.component(make))

    async def main() -> None:
        async with app:
            outcome = await app["toy"].run(request_id="r1")
            assert effect_entries(outcome) == []
            await asyncio.sleep(10)
            assert app.runtime.background.counts() == {"log": SideEffectCounts(failed=1, retried=2)}

    serve(main)
    [entry] = [entry for entry in logs if entry["event"] == "side effect failed"]
    assert (entry["component"], entry["request_id"], entry["error"]) == ("log", "r1", "OSError: disk full")


def test_too_many_pending_are_dropped(make: Any, logs: Any) -> None:
    """Requests beyond `max_pending` are answered, without the side effect."""
    log = Log(takes=10)
    app = toy(make, log.component(make), run={"log": RunPolicy(max_pending=2)})

    async def main() -> None:
        async with app:
            for number in range(4):
                assert len((await app["toy"].run(request_id=f"r{number}")).selected) == 3
            assert app.runtime.background.counts()["log"] == SideEffectCounts(pending=2, dropped=2)

    serve(main)
    assert log.done == ["r0", "r1"]
    assert [entry["request_id"] for entry in logs if entry["event"] == "side effect dropped"] == ["r2", "r3"]


@pytest.mark.parametrize(("drain", "done"), [(30, ["r1"]), (2, [])])
def test_closing_waits_for_as_long_as_it_may(make: Any, logs: Any, drain: float, done: list[str]) -> None:
    """Leaving the application waits for side effects up to its drain limit; what is lost is logged."""
    log = Log(takes=10)
    app = toy(make, log.component(make), drain=seconds(drain))

    async def main() -> None:
        async with app:
            await app["toy"].run(request_id="r1")
        assert now() == min(10, drain)

    serve(main)
    assert log.done == done
    lost = [(entry["component"], entry["lost"]) for entry in logs if entry["event"] == "side effects lost"]
    assert lost == ([] if done else [("log", 1)])


def test_cancelled_callers(make: Any) -> None:
    """A caller that is gone before the response has no side effects; what began after one goes on without it."""
    log, waited = Log(takes=5), Log(takes=60)

    async def slow(query: Any, ctx: Any) -> Candidates:
        await asyncio.sleep(3)
        return three_rows(query, ctx)

    app = toy(
        make,
        log.component(make),
        waited.component(make, "waited"),
        sources=[make("source", slow, "source")],
        run={"waited": RunPolicy(sync=True, timeout=seconds(100))},
    )

    async def main() -> None:
        async with app:
            early = asyncio.create_task(app["toy"].run(request_id="early"))
            late = asyncio.create_task(app["toy"].run(request_id="late"))
            await asyncio.sleep(1)
            early.cancel()
            await asyncio.sleep(3)
            late.cancel()
            await asyncio.wait({early, late})
            assert early.cancelled()
            assert late.cancelled()
            assert now() == 4
            counts = app.runtime.background.counts()
            assert counts == {"log": SideEffectCounts(pending=1), "waited": SideEffectCounts(lost=1)}

    serve(main)
    assert log.tries == [(3, "late:log")]
    assert log.done == ["late"]
    assert waited.tries == [(3, "late:waited")]
    assert waited.done == []


@pytest.mark.parametrize("sync", [False, True])
def test_gates_and_failed_features(make: Any, sync: bool) -> None:
    """A side effect whose gate is closed, or whose feature failed, does not run, and the trace says why."""

    def broken(query: Any, ctx: Any) -> Any:
        raise ValueError("no")

    logs = [Log() for _ in range(4)]
    app = toy(
        make,
        logs[0].component(make, "closed"),
        logs[1].component(make, "open"),
        logs[2].component(make, "failed", reads=[LEVEL]),
        logs[3].component(make, "failed gate"),
        query_hydrators=[make("query_hydrator", broken, "levels", writes=[LEVEL])],
        inputs={"flag": FLAG},
        run={
            "closed": RunPolicy(when={"toy.flag": False}, sync=sync or None),
            "open": RunPolicy(when={"toy.flag": True}, sync=sync or None),
            "failed gate": RunPolicy(when={"toy.level": {"present": False}}, sync=sync or None),
        },
    )

    async def main() -> None:
        async with app:
            outcome = await app["toy"].run(flag=True)
            wanted = [
                ("closed", "closed", "toy.flag is True, wanted is False"),
                ("open", "ok", ""),
                ("failed", "skipped", "query feature toy.level failed: levels: ValueError: no"),
                ("failed gate", "skipped", "query feature toy.level failed: levels: ValueError: no"),
            ]
            assert effect_entries(outcome) == [entry for entry in wanted if sync or entry[0] != "open"]

    serve(main)
    assert [len(log.done) for log in logs] == [0, 1, 0, 0]


def test_a_gate_of_the_whole_stage(make: Any) -> None:
    """`stages.side_effects.when` turns them all off."""
    log = Log()
    stages = {"side_effects": StageOptions(when={"toy.flag": False})}
    app = toy(make, log.component(make, "a"), log.component(make, "b"), inputs={"flag": FLAG}, stages=stages)
    with app:
        outcome = app["toy"].run_sync(flag=True)
    assert [entry[:2] for entry in effect_entries(outcome)] == [("a", "closed"), ("b", "closed")]
    assert log.tries == []


def test_blocking_side_effects_have_threads_of_their_own(make: Any) -> None:
    """They do not hold the loop; no more run at once than the component may have threads, and all are drained."""
    lock, meeting = threading.Lock(), threading.Barrier(2, timeout=20)
    running: list[int] = []
    most: list[int] = []

    def work(query: Any, outcome: Any, ctx: Any) -> None:
        assert threading.current_thread() is not threading.main_thread()
        with lock:
            running.append(1)
            most.append(len(running))
        meeting.wait()
        with lock:
            running.pop()

    app = toy(make, make("side_effect", work, "log", blocking=True), run={"log": RunPolicy(threads=2)})
    with app:
        for _ in range(6):
            app["toy"].run_sync()
        background = app.runtime.background
    assert max(most) == 2
    assert len(most) == 6
    assert background.counts()["log"] == SideEffectCounts(done=6)


@pytest.mark.parametrize("sync", [False, True])
def test_a_plain_side_effect_that_holds_the_loop(make: Any, logs: Any, sync: bool) -> None:
    """It holds up all requests, which the log says; and the trace, where there is a record of it."""

    def run(query: Any, outcome: Any, ctx: Any) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop._jumping.now += 0.2

    app = toy(make, make("side_effect", run, "log"), run={"log": RunPolicy(sync=sync or None)})

    async def main() -> None:
        async with app:
            outcome = await app["toy"].run()
            if sync:
                note = "held the event loop for 200 ms; set blocking = True on its class"
                assert outcome.trace[-1].note == note

    serve(main)
    assert [(entry["event"], entry["component"], entry["ms"]) for entry in logs] == [
        ("side effect held the event loop", "log", 200)
    ]


@pytest.mark.parametrize("how", ["plain", "async", "blocking"])
def test_undeclared_reads_are_not_tried_again(make: Any, logs: Any, how: str) -> None:
    """A side effect that reads what it does not declare is built wrongly, which no retry mends."""

    def run(query: Any, outcome: Any, ctx: Any) -> None:
        assert query[PLAN]

    async def later(*args: Any) -> None:
        run(*args)

    component = make("side_effect", later if how == "async" else run, "log", blocking=how == "blocking")
    silent = make("query_hydrator", lambda *_: query_patch(), "silent", writes=[PLAN])
    app = toy(make, component, query_hydrators=[silent])
    with app:
        app["toy"].run_sync()
    [entry] = logs
    assert entry["error"].startswith("log (ToySideEffect) reads what its `reads` does not declare: query feature toy")
    assert entry["attempts"] == 1


# Whatever they do


@given(
    effects=st.lists(
        st.tuples(st.integers(0, 4), st.floats(0, 4), st.booleans(), st.integers(0, 2)), min_size=1, max_size=4
    ),
    deadline=st.none() | st.floats(0.5, 6),
    requests=st.integers(1, 3),
)
@settings(max_examples=100, deadline=None)
def test_every_run_is_accounted_for(
    make: Any, effects: list[tuple[int, float, bool, int]], deadline: float | None, requests: int
) -> None:
    """Each request's run of each side effect is done or failed; a response waits for sync ones only, up to its end."""
    logs, components, policies = [], [], {}
    for at, (failures, takes, sync, retries) in enumerate(effects):
        log = Log([ValueError("no")] * failures, takes)
        logs.append(log)
        components.append(log.component(make, f"e{at}"))
        policies[f"e{at}"] = RunPolicy(sync=sync or None, retries=retries, backoff=seconds(0.5))
    limit = None if deadline is None else seconds(deadline)
    app = toy(make, *components, run=policies, deadline=limit, drain=seconds(600))
    waits = any(sync for _, _, sync, _ in effects)

    async def main() -> None:
        async with app:
            for number in range(requests):
                before = now()
                outcome = await app["toy"].run(request_id=f"r{number}")
                assert now() == before or waits
                assert limit is None or now() <= before + limit.total_seconds() + 1e-6
                listed = [name for name, _, _ in effect_entries(outcome)]
                assert listed == [f"e{at}" for at, effect in enumerate(effects) if effect[2]]
            background = app.runtime.background
        for at, log in enumerate(logs):
            counts = background.counts()[f"e{at}"]
            assert counts.done + counts.failed == requests
            assert counts.done == len(log.done)
            assert len({key for _, key in log.tries}) <= requests
        assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop)

    serve(main)
