"""What is expected of a faulty component: worked out from its declared policy, by the documented rules.

`Case` holds the rules, `check` compares them with what came of a request.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
from faults import (
    AWAITED,
    FAR,
    FAULTS,
    FRIENDS,
    LIMIT_MS,
    MADE,
    NEAR,
    TIMES,
    Call,
    Fault,
    Mode,
    Place,
    Probe,
    Semantics,
    X,
    answer,
    pipeline,
)
from structlog.testing import capture_logs

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    App,
    BreakerPolicy,
    CachePolicy,
    MisconfigurationError,
    Outcome,
    RequestError,
    RunPolicy,
    SafetyError,
)
from candidate_pipeline.components import METHODS

THREADS = "candidate-pipeline "
#: Seconds that no request takes.
HOUR = 3600


@attrs.frozen
class Policy:
    """What the spec says of failures.

    Args:
        name: What it is called here.
        on_error: As in the spec.
        on_timeout: As in the spec.
        spare: The fallback's mode, if it has one.
        broken: Whether the fallback fails as well.
    """

    name: str
    on_error: str | None = None
    on_timeout: str | None = None
    spare: Mode | None = None
    broken: bool = False


SPARE = "fallback:spare"
PLAIN_POLICIES: tuple[Policy, ...] = (
    Policy("default"),
    Policy("fallback", SPARE, spare="plain"),
    Policy("skip", "skip"),
    Policy("fail", "fail"),
)
LATE_POLICIES: tuple[Policy, ...] = (
    Policy("broken fallback", SPARE, spare="plain", broken=True),
    Policy("skipped when late", "fail", "skip"),
    Policy("failing when late", "skip", "fail"),
    Policy("fallback when late", "fail", SPARE, spare="plain"),
    Policy("fallback in time", SPARE, "fail", spare="plain"),
    Policy("async fallback", SPARE, spare="async"),
)
#: What a failure does where the spec does not say, by kind and semantics.
DEFAULTS = {
    "query_hydrator": {"strict": "skip", "upstream": "skip"},
    "source": {"strict": "skip", "upstream": "skip"},
    "hydrator": {"strict": "skip", "upstream": "skip"},
    "filter": {"strict": "skip", "upstream": "fail"},
    "scorer": {"strict": "fail", "upstream": "skip"},
    "selector": {"strict": "fail", "upstream": "fail"},
    "side_effect": {"strict": "skip", "upstream": "skip"},
}


@attrs.frozen
class Case:
    """One fault in one component under one policy.

    Args:
        place: Where the component stands.
        mode: How it runs.
        fault: What goes wrong.
        policy: What is declared.
        semantics: Whose rules hold.
        limit: Whose limit ends what hangs: the component's own, the stage's or the request's.
    """

    place: Place
    mode: Mode
    fault: Fault
    policy: Policy = PLAIN_POLICIES[0]
    semantics: Semantics = "strict"
    limit: str = ""

    def __str__(self) -> str:
        words = [self.place.name, self.mode, self.fault.name, self.limit, self.policy.name, self.semantics]
        return "-".join(word for word in words if word).replace(" ", "_")

    @property
    def declared(self) -> str:
        """What the policy in force says: `skip`, `fail` or `fallback`."""
        late = self.fault.ends == "late"
        chosen = (self.policy.on_timeout if late else None) or self.policy.on_error
        return self.default if chosen is None else chosen.split(":")[0]

    @property
    def default(self) -> str:
        """What holds for the kind if nothing is said."""
        return "fail" if self.place.safety else DEFAULTS[self.place.kind][self.semantics]

    @property
    def spare_fails(self) -> bool:
        """Whether the fallback fails too: it is broken, or must wait where no time is left for it."""
        return self.policy.broken or (self.policy.spare == "async" and self.limit in {"stage", "deadline"})

    @property
    def answers(self) -> str:
        """Who answers in the place of the component: `x`, `spare` or `nobody`; or `fails`: the request does."""
        if self.fault.ends == "harmless":
            return "x"
        if self.place.background:
            return "nobody"
        if self.fault.ends == "loud":  # as published, what a side effect raises is ignored
            return "nobody" if self.place.kind == "side_effect" and self.semantics == "upstream" else "fails"
        declared = self.declared
        if declared == "fallback":
            if not self.spare_fails:
                return "spare"
            declared = self.default
        return {"skip": "nobody", "fail": "fails"}[declared]

    @property
    def error(self) -> type[Exception]:
        """What a request that fails raises."""
        if self.fault.ends == "loud":
            return RequestError if self.fault.name == "RequestError" else MisconfigurationError
        return SafetyError if self.place.safety else RequestError


def allowed(place: Place, mode: Mode, policy: Policy) -> bool:
    """Whether a spec may declare the policy for the component; the compiler refuses the others."""
    said = {policy.on_error, policy.on_timeout}
    if place.kind == "side_effect" and (SPARE in said or ("fail" in said and not place.sync)):
        return False
    if "skip" in said and (place.safety or place.kind == "selector"):
        return False
    if policy.spare == "async" and place.kind in {"filter", "selector"}:
        return False
    return policy.on_timeout is None or (mode != "plain" and place.kind not in {"filter", "selector"})


@attrs.define
class Result:
    """What came of a request.

    Args:
        outcome: The answer, if there is one.
        error: The error, if it failed.
        logs: What was logged.
        counts: What became of the side effects.
        left: Tasks that were left over after the application closed.
        elapsed_ms: How long the request took by the loop's clock.
    """

    outcome: Outcome | None = None
    error: Exception | None = None
    logs: list[Any] = attrs.field(factory=list)
    counts: Any = None
    left: list[Any] = attrs.field(factory=list)
    elapsed_ms: float = 0.0

    def entries(self, name: str) -> list[Any]:
        """The trace's records of a component."""
        trace = self.outcome.trace if self.outcome is not None else getattr(self.error, "trace", ())
        return [entry for entry in trace if entry.component == name]

    def logged(self, event: str) -> list[Any]:
        """The log's records of an event."""
        return [record for record in self.logs if record["event"] == event]


def run_in(loop_factory: Callable[[], asyncio.AbstractEventLoop], coroutine: Any, complaints: list[Any]) -> Any:
    """Run a coroutine; afterwards no thread is left."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
        result = runner.run(coroutine)
    for thread in threading.enumerate():
        if thread.name.startswith(THREADS):
            thread.join(30)
            assert not thread.is_alive()
    return result


async def others() -> list[Any]:
    """The tasks that run beside this one, after those that end have had the time to."""
    for _ in range(5):
        await asyncio.sleep(0)
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def ask(app: App) -> Outcome:
    """One request."""
    return await app["faults"].run(friends=np.array([1, 2, 3]), request_id="r")


async def request(app: App, probe: Probe) -> Result:
    """One request, from opening the application to closing it."""
    result = Result()
    loop = asyncio.get_running_loop()
    loop.call_later(2 * HOUR, probe.released.set)  # so that a test that fails comes to an end
    with capture_logs() as result.logs:
        async with app:
            background = app.runtime.background
            started = loop.time()
            try:
                async with asyncio.timeout(HOUR):
                    result.outcome = await ask(app)
            except (RequestError, MisconfigurationError) as error:
                result.error = error
            result.elapsed_ms = (loop.time() - started) * 1000
        result.counts = background.counts()
        probe.released.set()
        probe.go.set()
        result.left = await others()
    return result


def component(place: Place, mode: Mode, probe: Probe, act: Callable[[Any], Any], *, prepare: bool = False) -> Any:
    """A component of a place's kind that does what `act` does, in its method or in its `prepare`."""
    work: Callable[[Any], Any] = (lambda call: answer(call, 1)) if prepare else act

    def call_of(args: tuple[Any, ...]) -> Any:
        query, *rows, ctx = args
        return Call(place, probe, query, rows[0] if rows else None, ctx)

    def plain(_self: object, *args: Any) -> Any:
        probe.calls += 1
        return answer(call_of(args), 1) if probe.calm else work(call_of(args))

    async def awaited(_self: object, *args: Any) -> Any:
        probe.calls += 1
        probe.entered.set()
        await asyncio.sleep(0)
        result = answer(call_of(args), 1) if probe.calm else work(call_of(args))
        return await result if asyncio.iscoroutine(result) else result

    async def prepared(_self: object, query: Any, ctx: Any) -> Any:
        probe.entered.set()
        await asyncio.sleep(0)
        result = None if probe.calm else act(Call(place, probe, query, None, ctx))
        return await result if asyncio.iscoroutine(result) else result

    waits = mode in AWAITED
    members: dict[str, Any] = {METHODS[place.kind]: awaited if waits else plain, "reads": (FRIENDS,)}
    members |= {"blocking": mode == "thread"} | ({"safety": True} if place.safety else {})
    members |= {"writes": place.writes} if place.writes else {}
    members |= {"prepare": prepared} if prepare else {}
    return type("Faulty", (), members)()


def policy_of(place: Place, mode: Mode, on_error: str | None, on_timeout: str | None, *, limited: bool) -> RunPolicy:
    """The engine's settings of `x`."""
    effect = place.kind == "side_effect"
    return RunPolicy(
        timeout=dt.timedelta(milliseconds=LIMIT_MS) if limited else None,
        on_error=on_error,
        on_timeout=on_timeout,
        cache=CachePolicy(dt.timedelta(hours=1)) if mode == "cached" else None,
        breaker=BreakerPolicy(min_calls=1, failure_rate=1.0) if mode == "breaker" else None,
        threads=1 if mode == "thread" else None,
        sync=True if place.sync else None,
        retries=1 if effect else None,
    )


def build(case: Case, probe: Probe, *, later: bool = True) -> App:
    """The application of a case; `later`: bystanders may take a moment."""
    fault, policy = case.fault, case.policy
    x = component(case.place, case.mode, probe, fault.act, prepare=fault.prepare)
    spare = None
    if policy.spare:
        broken = FAULTS[0].act
        spare = component(case.place, policy.spare, Probe(), broken if policy.broken else lambda call: answer(call, 2))
    run = policy_of(case.place, case.mode, policy.on_error, policy.on_timeout, limited=case.limit == "own")
    app: App = pipeline(
        case.place,
        x,
        run,
        probe,
        spare=spare,
        semantics=case.semantics,
        # When the deadline is over nobody may take a moment, nor the next scorer when the scorers' time is.
        later=later and case.limit != "deadline" and (case.limit, case.place.kind) != ("stage", "scorer"),
        stage_ms=LIMIT_MS if case.limit == "stage" else None,
        deadline_ms=LIMIT_MS if case.limit == "deadline" else None,
    )
    return app


def check(case: Case, result: Result, probe: Probe) -> None:
    """Expect of a result what the case declares."""
    assert result.left == []
    if case.answers == "fails":
        check_failed(case, result)
    else:
        assert result.error is None
        assert result.outcome is not None
        check_answer(case, result.outcome, probe)
    check_trace(case, result)
    check_logs(case, result)


def check_failed(case: Case, result: Result) -> None:
    """The request fails with the right error, which names the component and the cause."""
    error = result.error
    assert type(error) is case.error
    if case.fault.ends == "loud":
        assert case.fault.cause in str(error)
        assert any(note.startswith("raised by x (Faulty) in ") for note in getattr(error, "__notes__", ()))
        return
    kind = case.place.kind.replace("_", " ")
    if case.declared == "fallback":
        assert f"{kind} spare (Faulty) failed: " in str(error)
        assert "; it stood in for x, which failed: " in str(error)
        assert cause(case) in str(error)
    else:
        assert f"{kind} x (Faulty) failed: " in str(error)
        assert cause(case) in str(error)


def cause(case: Case) -> str:
    """What the trace says of the failure."""
    note = {"stage": " (the budget of the stage)", "deadline": " (the deadline of the request)"}.get(case.limit, "")
    text: str = case.fault.cause or ("timed out after 50 ms" if case.fault.ends == "late" else "wanted")
    if case.fault.name == "NaN":
        text = "NaN" if case.place.kind in {"source", "hydrator", "scorer"} else "wanted"
    return text if case.fault.prepare or case.place.kind == "side_effect" else text + note


def check_trace(case: Case, result: Result) -> None:
    """The trace tells of the component, its fallback and all the others."""
    if case.answers == "fails" and not isinstance(result.error, RequestError):
        return  # there is no trace of what is built wrongly
    if not case.place.background:
        check_own_trace(case, result)
    trace = result.outcome.trace if result.outcome is not None else getattr(result.error, "trace", ())
    harmed = {entry.component: entry.error for entry in trace if entry.status != "ok"}
    assert harmed.keys() <= {"x", "spare"}
    if result.outcome is not None:
        ran = [entry.component for entry in trace]
        assert len(ran) == len(set(ran))
        names = {node.name for phases in result.outcome.plan.phases.values() for phase in phases for node in phase}
        assert names - set(ran) <= {"x", "tell", "wait"}


def check_own_trace(case: Case, result: Result) -> None:
    """The trace tells of the component and its fallback."""
    (entry,) = result.entries("x")
    if case.answers == "x":
        assert (entry.status, entry.error) == ("ok", "")
        return
    assert cause(case) in entry.error
    falls = case.fault.ends != "loud" and case.declared == "fallback"
    assert (entry.status, entry.by) == (("fallback", "spare") if falls else ("skipped", ""))
    spare = [(each.status, bool(each.error)) for each in result.entries("spare")]
    assert spare == ([("skipped", True) if case.spare_fails else ("ok", False)] if falls else [])


def check_logs(case: Case, result: Result) -> None:
    """The log names the component that failed, and nobody else."""
    failed = [record["component"] for record in result.logged("component failed")]
    effects = result.logged("side effect failed")
    if case.place.kind == "side_effect":
        assert failed == []
        good = case.answers == "x"
        assert [record["component"] for record in effects] == ([] if good else ["x"])
        counts = result.counts["x"]
        assert (counts.done, counts.failed, counts.dropped, counts.lost) == (good, not good, 0, 0)
        assert counts.pending == (case.fault.name == "swallows its cancellation")
        if not good:
            assert cause(case) in effects[0]["error"] or case.fault.name == "undeclared feature"
        return
    assert effects == []
    silent = case.fault.ends in {"loud", "harmless"}
    spare = case.declared == "fallback" and case.spare_fails
    assert failed == ([] if silent else ["x", "spare"] if spare else ["x"])


def check_answer(case: Case, outcome: Outcome, probe: Probe) -> None:
    """The answer holds what everybody gave who did their work, and nothing else."""
    ids = outcome.item_ids.tolist()
    expected = expected_ids(case)
    nan = case.fault.name == "NaN allowed"
    assert sorted(ids) == sorted(expected) if nan and case.place.kind == "scorer" else ids == expected
    for column, times in TIMES.items():
        cells = outcome.selected
        if nan and case.place.kind == "scorer" and column is SCORE:
            continue
        assert cells[column].tolist() == [times * item for item in ids]
        assert cells.valid(column).all()
    query = outcome.query
    assert (query[NEAR], query[FAR], query[FRIENDS].tolist()) == (1, 2, [1, 2, 3])
    assert {outcome.selected.sources(row)[0] for row, item in enumerate(ids) if item <= 4} <= {"low"}
    assert {outcome.selected.sources(row)[0] for row, item in enumerate(ids) if 4 < item <= 8} <= {"high"}
    assert sorted(set(probe.effects) - {"x"}) == ["tell", "wait"]
    if case.place.kind == "query_hydrator":
        check_feature(case, outcome)
    elif case.place.kind in {"source", "hydrator", "scorer"}:
        check_column(case, outcome)


def expected_ids(case: Case) -> list[int]:
    """The response."""
    by, kind = {"x": 1, "spare": 2, "nobody": 0}[case.answers], case.place.kind
    items = list(range(8, 0, -1))
    if kind == "source" and by:
        items = [100 * by + 2, 100 * by + 1, *items]
    dropped = {2, 3} | ({3 + by} if kind == "filter" and by else set())
    items = [item for item in items if item not in dropped]
    if kind == "selector":
        items = items[: 6 - by]
    return [item for item in items if item not in {7, 8}]


def check_feature(case: Case, outcome: Outcome) -> None:
    """The query feature of `x` is there, or failed (as published: absent)."""
    query = outcome.query
    if case.answers == "nobody":
        assert MADE not in query
        assert (MADE in query.failed) is (case.semantics == "strict")
        if case.semantics == "strict":
            last = [entry for entry in outcome.trace if entry.component in {"x", "spare"}][-1]
            assert query.failed[MADE] == f"{last.component}: {last.error}"
    else:
        value = float("nan") if case.fault.name == "NaN allowed" else {"x": 1.0, "spare": 2.0}[case.answers]
        assert query[MADE] == pytest.approx(value, nan_ok=True)


def check_column(case: Case, outcome: Outcome) -> None:
    """The column of `x` is there, or failed (as published: null)."""
    table = outcome.selected
    own = table[ITEM_ID] > 100 if case.place.kind == "source" else np.ones(len(table), np.bool_)
    if case.answers == "nobody":
        assert not table.valid(X).any()
        assert table.failed(X).tolist() == [case.semantics == "strict"] * len(table)
        return
    value = float("nan") if case.fault.name == "NaN allowed" else {"x": 1.0, "spare": 2.0}[case.answers]
    assert table.valid(X).tolist() == own.tolist()
    assert not table.failed(X).any()
    assert table[X][own].tolist() == pytest.approx([value] * int(own.sum()), nan_ok=True)
