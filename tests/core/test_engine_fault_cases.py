"""Faults that need a clock or a cancellation of their own, those inside a nested pipeline, and refused policies."""

from __future__ import annotations

import asyncio
import gc
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
from structlog.testing import capture_logs

from candidate_pipeline import (
    App,
    MisconfigurationError,
    NestedPipeline,
    RequestError,
    RunPolicy,
    SpecError,
    compose,
    rank_order,
)
from candidate_pipeline.testing import StaticSource, VirtualTimeLoop

RULES: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("fault_rules.py"))))
KIT, Case = RULES.KIT, RULES.Case
POLICIES = (*RULES.PLAIN_POLICIES, *RULES.LATE_POLICIES)
WORK = KIT.Fault("does its work", lambda call: KIT.answer(call, 1), "harmless")

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def complaints() -> Iterator[list[Any]]:
    """What event loops complain of, such as exceptions that nobody looked at; expects nothing of it."""
    found: list[Any] = []
    yield found
    gc.collect()
    assert found == []


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # threads set no event of the loop's
            await asyncio.sleep(0.001)


async def answered(app: App) -> Any:
    """What came of one request to an open application."""
    result = RULES.Result()
    with capture_logs() as result.logs:
        try:
            result.outcome = await RULES.ask(app)
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


def hung_threads() -> Iterator[Any]:
    """Blocking components whose thread hangs; those that have no timeout of their own meet their stage's."""
    for place in KIT.PLACES:
        limit = "stage" if place.kind in {"filter", "selector"} else "own"
        for policy in POLICIES[: 0 if place.kind == "side_effect" else 7]:
            if RULES.allowed(place, "thread", policy) and not policy.broken:
                yield Case(place, "thread", KIT.HANGING_THREAD, policy, limit=limit)


@pytest.mark.parametrize("case", list(hung_threads()), ids=str)
def test_thread_that_hangs(case: Any, complaints: list[Any]) -> None:
    """A call whose thread hangs is left alone at its limit; while it holds the only thread the next one is refused."""
    probe = KIT.Probe()
    refused = attrs.evolve(case, fault=KIT.Fault("held", WORK.act, "error", "its only thread is held"), limit="")

    async def scenario() -> None:
        app = RULES.build(case, probe, later=False)
        async with app:
            first = await answered(app)
            held = threads_of(app)
            second = await answered(app)
            probe.go.set()
        for each, result in ((attrs.evolve(case, limit=""), first), (refused, second)):
            RULES.check(each, result, probe)
        assert first.entries("x")[0].elapsed_ms >= KIT.LIMIT_MS
        assert (held.running, held.abandoned, probe.calls) == (1, 1, 1)
        assert await RULES.others() == []

    RULES.run_in(asyncio.new_event_loop, scenario(), complaints)


@pytest.mark.parametrize("place", [place for place in KIT.PLACES if place.kind == "side_effect"], ids=lambda p: p.name)
def test_side_effect_whose_thread_hangs(place: Any, complaints: list[Any]) -> None:
    """A side effect in a thread that hangs is given up at its timeout, and its second try finds no thread."""
    probe = KIT.Probe()
    case = Case(place, "thread", attrs.evolve(KIT.HANGING_THREAD, cause="its only thread is held"), limit="own")
    result = RULES.run_in(asyncio.new_event_loop, RULES.request(RULES.build(case, probe), probe), complaints)
    RULES.check(case, result, probe)
    assert result.counts["x"].retried == 1


@pytest.mark.parametrize("semantics", ["strict", "upstream"])
@pytest.mark.parametrize("place", [place for place in KIT.PLACES if not place.background], ids=lambda p: p.name)
def test_what_holds_the_event_loop(place: Any, semantics: str, complaints: list[Any]) -> None:
    """A plain def that blocks the event loop has its answer, and a note in the trace that says what to do."""
    probe = KIT.Probe()
    case = Case(place, "plain", KIT.HOLDING, semantics=semantics)
    result = RULES.run_in(asyncio.new_event_loop, RULES.request(RULES.build(case, probe), probe), complaints)
    RULES.check(case, result, probe)
    (entry,) = result.entries("x")
    assert "held the event loop for " in entry.note
    assert "blocking = True" in entry.note


def waiting() -> Iterator[Any]:
    """Every component that can be waiting when its request is cancelled."""
    faults = (*KIT.HANGING, KIT.HANGING_LATER)
    for semantics in ("strict", "upstream"):
        for place in (*KIT.PLACES, *([KIT.DEPENDENT] if semantics == "upstream" else [])):
            for mode in place.modes:
                if not place.background and not (semantics == "upstream" and mode == "breaker"):
                    fitting = (fault for fault in faults if fault.fits(place, mode))
                    yield from (Case(place, mode, fault, semantics=semantics) for fault in fitting)


@pytest.mark.parametrize("case", list(waiting()), ids=str)
def test_request_cancelled_midway(case: Any, complaints: list[Any]) -> None:
    """A cancelled request ends at once, cancels what it waits for and spoils nothing for the next one."""
    probe = KIT.Probe()

    async def scenario() -> Any:
        app = RULES.build(case, probe)
        loop = asyncio.get_running_loop()
        loop.call_later(RULES.HOUR, probe.released.set)
        async with app:
            task = loop.create_task(RULES.ask(app))
            await (until(lambda: probe.calls == 1) if case.mode == "plain" else probe.entered.wait())
            await RULES.others()
            before = loop.time()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert loop.time() == before
            await RULES.others()
            assert probe.cancelled == 1
            probe.calm = True
            result = await answered(app)
            probe.released.set()
        assert await RULES.others() == []
        return result

    result = RULES.run_in(VirtualTimeLoop, scenario(), complaints)
    RULES.check_answer(attrs.evolve(case, fault=WORK), result.outcome, probe)
    assert [entry.status for entry in result.entries("x")] == ["ok"]


@pytest.mark.parametrize("place", [place for place in KIT.PLACES if not place.background], ids=lambda p: p.name)
def test_request_cancelled_while_a_thread_works(place: Any, complaints: list[Any]) -> None:
    """A cancelled request leaves its thread alone, which serves the next request when it has come to its end."""
    probe = KIT.Probe()

    async def scenario() -> Any:
        app = RULES.build(Case(place, "thread", KIT.HANGING_THREAD), probe)
        async with app:
            task = asyncio.create_task(RULES.ask(app))
            await until(lambda: probe.calls == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: threads_of(app).abandoned == 1)
            probe.calm = True
            probe.go.set()
            await until(lambda: threads_of(app).running == 0)
            result = await answered(app)
        assert await RULES.others() == []
        return result

    result = RULES.run_in(asyncio.new_event_loop, scenario(), complaints)
    RULES.check_answer(Case(place, "thread", WORK), result.outcome, probe)


def steps() -> Iterator[Any]:
    """Components that fail, and that do their work, in every mode in which the event loop has a say."""
    for semantics in ("strict", "upstream"):
        for place in (*KIT.PLACES, *([KIT.DEPENDENT] if semantics == "upstream" else [])):
            for mode in place.modes:
                if semantics == "strict" or mode != "breaker":
                    yield Case(place, mode, KIT.FAULTS[0], semantics=semantics)
                    yield Case(place, mode, WORK, semantics=semantics)


@pytest.mark.parametrize("case", list(steps()), ids=str)
def test_request_cancelled_at_any_step(case: Any, complaints: list[Any]) -> None:
    """Whatever happens in the moment of the cancellation, an error that nobody is left to see is not reported."""
    ends: list[str] = []

    async def scenario() -> None:
        app = RULES.build(case, KIT.Probe(), later=False)
        with capture_logs():
            async with app:
                while ends[-2:] != ["over", "over"] and len(ends) < 60:  # retries wait for the clock
                    task = asyncio.create_task(RULES.ask(app))
                    for _ in range(len(ends)):
                        await asyncio.sleep(0)
                    ends.append("over" if task.done() else "cancelled")
                    task.cancel()
                    await asyncio.wait([task])
                    failed = not task.cancelled() and task.exception() is not None
                    assert not failed or case.answers == "fails" or case.mode == "thread"  # none may be left
        assert await RULES.others() == []

    RULES.run_in(VirtualTimeLoop, scenario(), complaints)
    assert "cancelled" in ends


def test_cancelled_requests_do_not_feed_the_breaker(complaints: list[Any]) -> None:
    """A breaker that opens at the first failure stays closed when the request was cancelled, and opens at a timeout."""
    probe = KIT.Probe()
    case = Case(KIT.PLACES[1], "breaker", KIT.HANGING[0], limit="own")

    async def scenario() -> list[str]:
        errors = []
        app = RULES.build(case, probe)
        async with app:
            task = asyncio.create_task(RULES.ask(app))
            await probe.entered.wait()
            task.cancel()
            await asyncio.wait([task])
            for _ in range(2):
                errors += [entry.error for entry in (await answered(app)).entries("x")]
        return errors

    late, refused = RULES.run_in(VirtualTimeLoop, scenario(), complaints)
    assert late == "timed out after 50 ms"
    assert "the circuit is open" in refused


def unfit() -> Iterator[Any]:
    """Policies that make no sense for the component."""
    for place in KIT.PLACES:
        for mode in place.modes:
            for policy in POLICIES:
                if not RULES.allowed(place, mode, policy) and policy.spare != "async":
                    yield Case(place, mode, WORK, policy)


@pytest.mark.parametrize("case", list(unfit()), ids=str)
def test_policy_that_does_not_fit(case: Any) -> None:
    """A policy that its component cannot have is refused before anything runs."""
    with pytest.raises(SpecError, match=r"E30[46]"):
        RULES.build(case, KIT.Probe())


@pytest.mark.parametrize("place", [place for place in KIT.PLACES if place.kind != "side_effect"], ids=lambda p: p.name)
def test_published_semantics_take_no_policy(place: Any) -> None:
    """As published, what a failure does is not for the spec to say."""
    other = {"skip": POLICIES[3], "fail": POLICIES[1]}[Case(place, "plain", WORK, semantics="upstream").default]
    for policy in (POLICIES[1], other):
        with pytest.raises(SpecError, match="E311"):
            RULES.build(Case(place, "plain", WORK, policy, semantics="upstream"), KIT.Probe())


def best(query: Any, rows: Any, ctx: Any) -> Any:
    """Every row."""
    return rank_order(rows)


def nesting(case: Any, probe: Any, make: Any, on_error: str | None) -> App:
    """A pipeline with a source of its own and the pipeline of a case as another."""
    inner = RULES.build(case, probe)["faults"].plan
    rows = KIT.answer(KIT.Call(KIT.PLACES[1], probe, None, None, None), 2)
    return compose(
        "faults",
        sources=[("own", StaticSource(rows)), ("inner", NestedPipeline(inner))],
        selector=make("selector", best, "top"),
        fallbacks=[("spare", StaticSource(KIT.answer(KIT.Call(KIT.PLACES[1], probe, None, None, None), 1)))],
        inputs={"friends": KIT.FRIENDS},
        run={"inner": RunPolicy(on_error=on_error)},
    )


@pytest.mark.parametrize("on_error", [None, "skip", "fail", RULES.SPARE])
@pytest.mark.parametrize("place", [place for place in KIT.PLACES if place.kind != "side_effect"], ids=lambda p: p.name)
def test_fault_inside_a_nested_pipeline(place: Any, on_error: str | None, make: Any, complaints: list[Any]) -> None:
    """A nested pipeline that degrades answers with what it has; one that fails does what its source's policy says."""
    probe = KIT.Probe()
    case = Case(place, "plain", KIT.FAULTS[0])
    result = RULES.run_in(VirtualTimeLoop, RULES.request(nesting(case, probe, make, on_error), probe), complaints)
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
    assert entry.status == ("fallback" if on_error == RULES.SPARE else "skipped")
    if on_error == "fail":
        assert isinstance(result.error, RequestError)
        assert "source inner" in str(result.error)
    else:
        spare = {101, 102} if on_error == RULES.SPARE else set()
        assert set(result.outcome.item_ids.tolist()) == {*spare, 201, 202}


@pytest.mark.parametrize("fault", ["MisconfigurationError", "undeclared feature"])
def test_misconfiguration_inside_a_nested_pipeline(fault: str, make: Any, complaints: list[Any]) -> None:
    """What is built wrongly inside a nested pipeline ends the request, whatever its source's policy."""
    (found,) = [each for each in KIT.FAULTS if each.name == fault]
    probe = KIT.Probe()
    app = nesting(Case(KIT.PLACES[0], "plain", found), probe, make, "skip")
    result = RULES.run_in(VirtualTimeLoop, RULES.request(app, probe), complaints)
    assert type(result.error) is MisconfigurationError


@pytest.mark.parametrize("ends", [0, 6, 7])
def test_failure_cancels_who_runs_beside(ends: int, complaints: list[Any]) -> None:
    """When a source ends the request, another one that runs beside it is cancelled and nothing is left of it."""
    place = KIT.PLACES[1]
    case = Case(place, "async", KIT.FAULTS[ends], RULES.PLAIN_POLICIES[3])
    probe, other = KIT.Probe(), KIT.Probe()
    app = compose(
        "faults",
        sources=[
            ("x", RULES.component(place, "async", probe, case.fault.act)),
            ("waits", RULES.component(place, "async", other, KIT.HANGING[0].act)),
            ("swallows", RULES.component(place, "async", probe, KIT.HANGING[1].act)),
        ],
        selector=("top", type("Top", (), {"reads": (), "select": lambda _, query, rows, ctx: np.arange(len(rows))})()),
        inputs={"friends": KIT.FRIENDS},
        run={"x": RunPolicy(on_error="fail")},
    )
    result = RULES.run_in(VirtualTimeLoop, RULES.request(app, probe), complaints)
    RULES.check_failed(case, result)
    assert (other.cancelled, probe.cancelled > 0, result.elapsed_ms, result.left) == (1, True, 0.0, [])
