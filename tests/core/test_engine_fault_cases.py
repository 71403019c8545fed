"""Faults that need a clock or a cancellation of their own, those inside a nested pipeline, and refused policies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import pytest
from fault_rules import (
    HOUR,
    LATE_POLICIES,
    PLAIN_POLICIES,
    SPARE,
    Case,
    Result,
    allowed,
    ask,
    build,
    check,
    check_answer,
    check_failed,
    component,
    others,
    request,
    run_in,
)
from faults import (
    DEPENDENT,
    FAULTS,
    FRIENDS,
    HANGING,
    HANGING_LATER,
    HANGING_THREAD,
    HOLDING,
    LIMIT_MS,
    PLACES,
    Call,
    Fault,
    Place,
    Probe,
    Semantics,
    answer,
)
from structlog.testing import capture_logs
from toys import best_first, until

from candidate_pipeline import (
    App,
    MisconfigurationError,
    NestedPipeline,
    RequestError,
    RunPolicy,
    SpecError,
    compose,
)
from candidate_pipeline.testing import StaticSource, VirtualTimeLoop

POLICIES = (*PLAIN_POLICIES, *LATE_POLICIES)
WORK = Fault("does its work", lambda call: answer(call, 1), "harmless")

pytestmark = pytest.mark.filterwarnings("error")


async def answered(app: App) -> Any:
    """What came of one request to an open application."""
    result = Result()
    with capture_logs() as result.logs:
        try:
            result.outcome = await ask(app)
        except (RequestError, MisconfigurationError) as error:
            result.error = error
    return result


def threads_of(app: App) -> Any:
    """The counters of the threads of `x`."""
    plan = app["faults"].plan
    (at,) = [node.index for node in plan.nodes if node.name == "x"]
    pool = app.runtime.state(plan).pools[at]
    assert pool is not None
    return pool.counts


def hung_threads() -> Iterator[Case]:
    """Blocking components whose thread hangs; those that have no timeout of their own meet their stage's."""
    for place in PLACES:
        limit = "stage" if place.kind in {"filter", "selector"} else "own"
        for policy in POLICIES[: 0 if place.kind == "side_effect" else 7]:
            if allowed(place, "thread", policy) and not policy.broken:
                yield Case(place, "thread", HANGING_THREAD, policy, limit=limit)


@pytest.mark.parametrize("case", list(hung_threads()), ids=str)
def test_thread_that_hangs(case: Case, complaints: list[Any]) -> None:
    """A call whose thread hangs is left alone at its limit; while it holds the only thread the next one is refused."""
    probe = Probe()
    refused = attrs.evolve(case, fault=Fault("held", WORK.act, "error", "its only thread is held"), limit="")

    async def scenario() -> None:
        app = build(case, probe, later=False)
        async with app:
            first = await answered(app)
            held = threads_of(app)
            second = await answered(app)
            probe.go.set()
        for each, result in ((attrs.evolve(case, limit=""), first), (refused, second)):
            check(each, result, probe)
        entry = first.entries("x")[0]
        assert entry.started_ms + entry.elapsed_ms >= LIMIT_MS  # a stage's limit counts from before the call
        assert (held.running, held.abandoned, probe.calls) == (1, 1, 1)
        assert await others() == []

    run_in(asyncio.new_event_loop, scenario(), complaints)


@pytest.mark.parametrize("place", [place for place in PLACES if place.kind == "side_effect"], ids=lambda p: p.name)
def test_side_effect_whose_thread_hangs(place: Place, complaints: list[Any]) -> None:
    """A side effect in a thread that hangs is given up at its timeout, and its second try finds no thread."""
    probe = Probe()
    case = Case(place, "thread", attrs.evolve(HANGING_THREAD, cause="its only thread is held"), limit="own")
    result = run_in(asyncio.new_event_loop, request(build(case, probe), probe), complaints)
    check(case, result, probe)
    assert result.counts["x"].retried == 1


@pytest.mark.parametrize("semantics", ["strict", "upstream"])
@pytest.mark.parametrize("place", [place for place in PLACES if not place.background], ids=lambda p: p.name)
def test_what_holds_the_event_loop(place: Place, semantics: Semantics, complaints: list[Any]) -> None:
    """A plain def that blocks the event loop has its answer, and a note in the trace that says what to do."""
    probe = Probe()
    case = Case(place, "plain", HOLDING, semantics=semantics)
    result = run_in(asyncio.new_event_loop, request(build(case, probe), probe), complaints)
    check(case, result, probe)
    (entry,) = result.entries("x")
    assert "held the event loop for " in entry.note
    assert "blocking = True" in entry.note


def waiting() -> Iterator[Case]:
    """Every component that can be waiting when its request is cancelled."""
    faults = (*HANGING, HANGING_LATER)
    for semantics in ("strict", "upstream"):
        for place in (*PLACES, *([DEPENDENT] if semantics == "upstream" else [])):
            for mode in place.modes:
                if not place.background and not (semantics == "upstream" and mode == "breaker"):
                    fitting = (fault for fault in faults if fault.fits(place, mode))
                    yield from (Case(place, mode, fault, semantics=semantics) for fault in fitting)


@pytest.mark.parametrize("case", list(waiting()), ids=str)
def test_request_cancelled_midway(case: Case, complaints: list[Any]) -> None:
    """A cancelled request ends at once, cancels what it waits for and spoils nothing for the next one."""
    probe = Probe()

    async def scenario() -> Any:
        app = build(case, probe)
        loop = asyncio.get_running_loop()
        loop.call_later(HOUR, probe.released.set)
        async with app:
            task = loop.create_task(ask(app))
            await (until(lambda: probe.calls == 1) if case.mode == "plain" else probe.entered.wait())
            await others()
            before = loop.time()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert loop.time() == before
            await others()
            assert probe.cancelled == 1
            probe.calm = True
            result = await answered(app)
            probe.released.set()
        assert await others() == []
        return result

    result = run_in(VirtualTimeLoop, scenario(), complaints)
    check_answer(attrs.evolve(case, fault=WORK), result.outcome, probe)
    assert [entry.status for entry in result.entries("x")] == ["ok"]


@pytest.mark.parametrize("place", [place for place in PLACES if not place.background], ids=lambda p: p.name)
def test_request_cancelled_while_a_thread_works(place: Place, complaints: list[Any]) -> None:
    """A cancelled request leaves its thread alone, which serves the next request when it has come to its end."""
    probe = Probe()

    async def scenario() -> Any:
        app = build(Case(place, "thread", HANGING_THREAD), probe)
        async with app:
            task = asyncio.create_task(ask(app))
            await until(lambda: probe.calls == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: threads_of(app).abandoned == 1)
            probe.calm = True
            probe.go.set()
            await until(lambda: threads_of(app).running == 0)
            result = await answered(app)
        assert await others() == []
        return result

    result = run_in(asyncio.new_event_loop, scenario(), complaints)
    check_answer(Case(place, "thread", WORK), result.outcome, probe)


def steps() -> Iterator[Case]:
    """Components that fail, and that do their work, in every mode in which the event loop has a say."""
    for semantics in ("strict", "upstream"):
        for place in (*PLACES, *([DEPENDENT] if semantics == "upstream" else [])):
            for mode in place.modes:
                if semantics == "strict" or mode != "breaker":
                    yield Case(place, mode, FAULTS[0], semantics=semantics)
                    yield Case(place, mode, WORK, semantics=semantics)


@pytest.mark.parametrize("case", list(steps()), ids=str)
def test_request_cancelled_at_any_step(case: Case, complaints: list[Any]) -> None:
    """Whatever happens in the moment of the cancellation, an error that nobody is left to see is not reported."""
    ends: list[str] = []

    async def scenario() -> None:
        app = build(case, Probe(), later=False)
        with capture_logs():
            async with app:
                while ends[-2:] != ["over", "over"] and len(ends) < 60:  # retries wait for the clock
                    task = asyncio.create_task(ask(app))
                    for _ in range(len(ends)):
                        await asyncio.sleep(0)
                    ends.append("over" if task.done() else "cancelled")
                    task.cancel()
                    await asyncio.wait([task])
                    failed = not task.cancelled() and task.exception() is not None
                    assert not failed or case.answers == "fails" or case.mode == "thread"  # none may be left
        assert await others() == []

    run_in(VirtualTimeLoop, scenario(), complaints)
    assert "cancelled" in ends


def test_cancelled_requests_do_not_feed_the_breaker(complaints: list[Any]) -> None:
    """A breaker that opens at the first failure stays closed when the request was cancelled, and opens at a timeout."""
    probe = Probe()
    case = Case(PLACES[1], "breaker", HANGING[0], limit="own")

    async def scenario() -> list[str]:
        errors = []
        app = build(case, probe)
        async with app:
            task = asyncio.create_task(ask(app))
            await probe.entered.wait()
            task.cancel()
            await asyncio.wait([task])
            for _ in range(2):
                errors += [entry.error for entry in (await answered(app)).entries("x")]
        return errors

    late, refused = run_in(VirtualTimeLoop, scenario(), complaints)
    assert late == "timed out after 50 ms"
    assert "the circuit is open" in refused


def unfit() -> Iterator[Case]:
    """Policies that make no sense for the component."""
    for place in PLACES:
        for mode in place.modes:
            for policy in POLICIES:
                if not allowed(place, mode, policy) and policy.spare != "async":
                    yield Case(place, mode, WORK, policy)


@pytest.mark.parametrize("case", list(unfit()), ids=str)
def test_policy_that_does_not_fit(case: Case) -> None:
    """A policy that its component cannot have is refused before anything runs."""
    with pytest.raises(SpecError, match=r"E30[46]"):
        build(case, Probe())


@pytest.mark.parametrize("place", [place for place in PLACES if place.kind != "side_effect"], ids=lambda p: p.name)
def test_published_semantics_take_no_policy(place: Place) -> None:
    """As published, what a failure does is not for the spec to say."""
    other = {"skip": POLICIES[3], "fail": POLICIES[1]}[Case(place, "plain", WORK, semantics="upstream").default]
    for policy in (POLICIES[1], other):
        with pytest.raises(SpecError, match="E311"):
            build(Case(place, "plain", WORK, policy, semantics="upstream"), Probe())


def nesting(case: Case, probe: Probe, make: Any, on_error: str | None) -> App:
    """A pipeline with a source of its own and the pipeline of a case as another."""
    inner = build(case, probe)["faults"].plan
    rows = answer(Call(PLACES[1], probe, None, None, None), 2)
    return compose(
        "faults",
        sources=[("own", StaticSource(rows)), ("inner", NestedPipeline(inner))],
        selector=make("selector", best_first, "top"),
        fallbacks=[("spare", StaticSource(answer(Call(PLACES[1], probe, None, None, None), 1)))],
        inputs={"friends": FRIENDS},
        run={"inner": RunPolicy(on_error=on_error)},
    )


@pytest.mark.parametrize("on_error", [None, "skip", "fail", SPARE])
@pytest.mark.parametrize("place", [place for place in PLACES if place.kind != "side_effect"], ids=lambda p: p.name)
def test_fault_inside_a_nested_pipeline(place: Place, on_error: str | None, make: Any, complaints: list[Any]) -> None:
    """A nested pipeline that degrades answers with what it has; one that fails does what its source's policy says."""
    probe = Probe()
    case = Case(place, "plain", FAULTS[0])
    result = run_in(VirtualTimeLoop, request(nesting(case, probe, make, on_error), probe), complaints)
    assert result.left == []
    inner = {1, 4, 5, 6}
    if case.answers == "nobody":
        (entry,) = result.entries("inner")
        (fault,) = [each for each in entry.inner if each.component == "x"]
        assert (entry.status, fault.status, fault.error) == ("ok", "skipped", "ValueError: boom")
        assert set(result.outcome.item_ids.tolist()) == {*inner, 201, 202}
        return
    (entry,) = result.entries("inner")
    assert [each.error for each in entry.inner if each.component == "x"] == ["ValueError: boom"]
    assert "ValueError: boom" in entry.error
    assert " x (Faulty) failed" in entry.error
    assert entry.status == ("fallback" if on_error == SPARE else "skipped")
    if on_error == "fail":
        assert isinstance(result.error, RequestError)
        assert "source inner" in str(result.error)
    else:
        spare = {101, 102} if on_error == SPARE else set()
        assert set(result.outcome.item_ids.tolist()) == {*spare, 201, 202}


@pytest.mark.parametrize("fault", ["MisconfigurationError", "undeclared feature"])
def test_misconfiguration_inside_a_nested_pipeline(fault: str, make: Any, complaints: list[Any]) -> None:
    """What is built wrongly inside a nested pipeline ends the request, whatever its source's policy."""
    (found,) = [each for each in FAULTS if each.name == fault]
    probe = Probe()
    app = nesting(Case(PLACES[0], "plain", found), probe, make, "skip")
    result = run_in(VirtualTimeLoop, request(app, probe), complaints)
    assert type(result.error) is MisconfigurationError


@pytest.mark.parametrize("ends", [0, 6, 7])
def test_failure_cancels_who_runs_beside(ends: int, complaints: list[Any]) -> None:
    """When a source ends the request, another one that runs beside it is cancelled and nothing is left of it."""
    place = PLACES[1]
    case = Case(place, "async", FAULTS[ends], PLAIN_POLICIES[3])
    probe, other = Probe(), Probe()
    app = compose(
        "faults",
        sources=[
            ("x", component(place, "async", probe, case.fault.act)),
            ("waits", component(place, "async", other, HANGING[0].act)),
            ("swallows", component(place, "async", probe, HANGING[1].act)),
        ],
        selector=("top", type("Top", (), {"reads": (), "select": lambda _, query, rows, ctx: np.arange(len(rows))})()),
        inputs={"friends": FRIENDS},
        run={"x": RunPolicy(on_error="fail")},
    )
    result = run_in(VirtualTimeLoop, request(app, probe), complaints)
    check_failed(case, result)
    assert (other.cancelled, probe.cancelled > 0, result.elapsed_ms, result.left) == (1, True, 0.0, [])
