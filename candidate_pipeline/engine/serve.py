"""From a query to its outcome and the side effects after it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Sequence

import attrs
import structlog

from candidate_pipeline.components import Context
from candidate_pipeline.engine.background import DroppedError
from candidate_pipeline.engine.calls import Calls, held_note
from candidate_pipeline.engine.failures import failure, obstacle, undeclared_read, why_failed
from candidate_pipeline.engine.plan import Node, Plan
from candidate_pipeline.engine.recording import Recorder
from candidate_pipeline.engine.run import Request
from candidate_pipeline.engine.runtime import Runtime
from candidate_pipeline.engine.trace import ComponentTrace, Trace
from candidate_pipeline.engine.upstream import UpstreamRequest
from candidate_pipeline.engine.watch import CallWatch
from candidate_pipeline.errors import MisconfigurationError, RequestError
from candidate_pipeline.observe import CallInfo, RequestInfo
from candidate_pipeline.outcome import Outcome
from candidate_pipeline.query import Query

log = structlog.get_logger("candidate_pipeline.engine")


async def serve(
    runtime: Runtime,
    plan: Plan,
    query: Query,
    limit: float | None = None,
    inside: tuple[str, ...] = (),
    recorder: Recorder | None = None,
) -> Outcome:
    """Answer a query.

    Args:
        runtime: The open application's.
        plan: The pipeline.
        query: The query.
        limit: When the answer must be there, in the loop's time; the plan's own deadline counts too.
        inside: The components that the plan is nested in, outermost first.
        recorder: Keeps what components answer, if the request is recorded.

    Raises:
        RequestError: The request is wrong, or a component failed that must not.
        MisconfigurationError: A component is built wrongly or reads what it does not declare.
    """
    own = None if plan.deadline is None else asyncio.get_running_loop().time() + plan.deadline
    deadline = min((end for end in (own, limit) if end is not None), default=None)
    calls = Calls(plan, runtime, runtime.state(plan), query, deadline, functools.partial(serve, runtime), inside)
    calls.recorder = recorder
    if runtime.watching is None:
        return await _answer(calls)
    watch = runtime.watching.watch(RequestInfo(plan, query, runtime.generation, inside, runtime))
    if watch is None:
        return await _answer(calls)
    calls.watch = watch
    try:
        outcome = await _answer(calls)
    except BaseException as error:
        watch.failed(error, calls.traced())
        raise
    watch.finished(outcome)
    return outcome


async def _answer(calls: Calls) -> Outcome:
    """Run a request and its side effects."""
    plan = calls.plan
    request = UpstreamRequest(plan, calls) if plan.semantics == "upstream" else Request(plan, calls)
    outcome = await request.run()
    effects = [node for phase in plan.phases["side_effects"] for node in phase]
    return await _start_effects(calls, effects, outcome) if effects else outcome


async def _start_effects(calls: Calls, nodes: Sequence[Node], outcome: Outcome) -> Outcome:
    """Run the side effects that the response waits for, and leave the others to the background."""
    query, loop, background = outcome.query, calls.loop, calls.runtime.background
    calls.begin("side_effects")
    waited_for: list[_Effect] = []
    recorded: list[_Effect] = []
    for node in nodes:
        started = (loop.time() - calls.started) * 1000
        entry = ComponentTrace(node.name, node.use, node.stage, started_ms=started, rows_in=len(outcome.selected))
        effect = _Effect(calls, node, outcome, entry)
        if calls.watch is not None:
            effect.watch = calls.watch.begin(CallInfo(node, "side_effect", entry.rows_in))
        met = obstacle(node, query)
        if met is not None:
            entry.status, entry.error = "closed" if met[0] == "closed" else "skipped", met[1]
            recorded.append(effect)
            effect.finish(None)
        elif node.sync:
            waited_for.append(effect)
            recorded.append(effect)
        elif effect.watch is None:
            background.start(node, effect, query.request_id)
        elif not effect.watch.context.run(background.start, node, effect, query.request_id, effect.over):
            dropped = DroppedError("it was dropped: too many are pending, or the application is closing")
            entry.status, entry.error = "skipped", str(dropped)
            effect.finish(dropped)
    if not recorded:
        return outcome
    try:
        errors = await asyncio.gather(*(effect.waited_for() for effect in waited_for))
    finally:
        calls.trace.extend(effect.entry for effect in recorded if effect.finished)
        for effect in waited_for:
            if effect.watch is not None and not effect.finished:
                effect.watch.cancelled()
    trace = calls.traced(len(outcome.selected))
    for effect, error in zip(waited_for, errors, strict=True):
        if error is not None:
            effect.judge(error, attrs.evolve(trace, selected=None))
    return attrs.evolve(outcome, trace=trace, elapsed_ms=trace.elapsed_ms)


@attrs.define(eq=False)
class _Effect:
    """One request's run of a side effect; called, it makes one try."""

    calls: Calls
    node: Node
    outcome: Outcome
    entry: ComponentTrace
    raised: BaseException | None = None
    watch: CallWatch | None = None
    finished: bool = False

    async def __call__(self) -> None:
        query, node = self.outcome.query, self.node
        key = ":".join((query.request_id, *self.calls.inside, node.name))
        context = Context(node.name, query.seed, semantics=self.calls.plan.semantics, idempotency_key=key)
        try:
            await self.calls.invoke(node, node.method, (query, self.outcome, context))
        except Exception as error:
            self.raised = undeclared_read(node, error) or error
            if self.raised is not error:
                raise self.raised from error
            raise
        finally:
            held = self.calls.held.pop(node.index, None)
            if held is not None:
                self.entry.note = held_note("", held)
                log.warning("side effect held the event loop", component=node.name, ms=round(held * 1000))

    def waited_for(self) -> Awaitable[BaseException | None]:
        """As `settled`, within the context of its call if that is watched."""
        if self.watch is None:
            return self.settled()
        return self.calls.loop.create_task(self.settled(), context=self.watch.context)

    async def settled(self) -> BaseException | None:
        """Run it until it has succeeded or is given up; its last error, which is in the trace then."""
        calls = self.calls
        run_now = calls.runtime.background.run_now
        error = await run_now(self.node, self, self.outcome.query.request_id, calls.stage_end)
        self.ended(error)
        return error

    def over(self, run: asyncio.Task[BaseException | None]) -> None:
        """The run that nobody waited for is over."""
        if not run.cancelled():
            self.ended(run.exception() or run.result())
        elif self.watch is not None:
            self.watch.cancelled()

    def ended(self, error: BaseException | None) -> None:
        """Write into the record how it went."""
        calls, entry = self.calls, self.entry
        entry.elapsed_ms = (calls.loop.time() - calls.started) * 1000 - entry.started_ms
        entry.rows_out = entry.rows_in
        if error is not None:
            entry.status = "skipped"
            entry.error = (
                why_failed(error, calls, 0.0) if error is self.raised else calls.runtime.secrets.hide(str(error))
            )
        self.finish(error)

    def finish(self, error: BaseException | None) -> None:
        """The record is complete."""
        self.finished = True
        if self.watch is not None:
            self.watch.ended(self.entry, error)

    def judge(self, error: BaseException, trace: Trace) -> None:
        """Do what the component's policy says about its failure.

        Raises:
            RequestError: The side effect may not fail, or said that the request is wrong.
            MisconfigurationError: It said that it is built wrongly, or read what it does not declare.
        """
        node, plan = self.node, self.calls.plan
        if isinstance(error, RequestError | MisconfigurationError) and plan.semantics == "strict":
            error.add_note(f"raised by {node.name} ({node.use}) in {node.stage} of pipeline {plan.name!r}")
            error.component = error.component or node.name
            if isinstance(error, RequestError):
                error.trace = trace
            raise error
        late = isinstance(error, TimeoutError) and error is not self.raised
        if (node.on_timeout if late else node.on_error) == "fail":
            cause = failure(node, plan.name, self.entry.error, "")
            cause.trace = trace
            raise cause from error
