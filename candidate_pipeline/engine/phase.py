"""A phase: components that run together, each with its fallbacks, until each place has an answer.

A plain `def` is called inline. An `async def` becomes a task and a blocking `def` a job in a thread; both report back
by callback, so that a phase waits once, whatever its size. Around a component stand, from the outside in: its cache,
its breaker, its timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Literal, TypeVar

import attrs
import structlog

from candidate_pipeline.engine.breaker import Admission, CircuitOpenError
from candidate_pipeline.engine.cached import call_cached
from candidate_pipeline.engine.calls import HELD_LOOP, Calls, held_note, without_coroutine
from candidate_pipeline.engine.failures import (
    Degraded,
    NestedError,
    TimedOutError,
    failure,
    obstacle,
    undeclared_read,
    why_failed,
)
from candidate_pipeline.engine.gates import without_values
from candidate_pipeline.engine.inline import Answer, Check, Unfinished, call_inline
from candidate_pipeline.engine.plan import Node
from candidate_pipeline.engine.threads import FullError, Job
from candidate_pipeline.engine.trace import ComponentTrace
from candidate_pipeline.engine.watch import CallWatch
from candidate_pipeline.errors import ContractError, FailedFeatureError, MisconfigurationError, RequestError
from candidate_pipeline.observe import CallInfo
from candidate_pipeline.query import READER

T = TypeVar("T")
log = structlog.get_logger("candidate_pipeline.engine")


async def run_phase(
    calls: Calls,
    nodes: Sequence[Node],
    args: tuple[Any, ...],
    check: Check[T],
    *,
    number: int = 0,
    rows_in: int = 0,
    rows_if_skipped: int = 0,
) -> list[Answer[T]]:
    """Run components together; the answer of each, in their order.

    Args:
        calls: The request's.
        nodes: The components.
        args: Their arguments between the query and the context.
        check: Makes results of what they return.
        number: The phase's number, for the trace.
        rows_in: The rows they are given, for the trace.
        rows_if_skipped: The rows the trace says of those that fail.

    Raises:
        RequestError: A component failed and may not be skipped, or said that the request is wrong.
        MisconfigurationError: A component said that it is built wrongly, or read what it does not declare.
    """
    met: Unfinished | None = None
    if len(nodes) == 1 and nodes[0].simple and not calls.query.failed:
        answer = call_inline(calls, nodes[0], args, check, number, rows_in)
        if isinstance(answer, Answer):
            return [answer]
        met = answer
    phase = _Phase(calls, args, check, number, rows_in, rows_if_skipped, [None] * len(nodes))
    if met is not None:
        phase.take_over(met, nodes[0], 0)
        return await phase.settled()
    try:
        for at, node in enumerate(nodes):
            if not node.inline and phase.error is None:
                phase.call(node, at).start()
        if phase.unsettled and phase.unsettled < len(nodes):
            await asyncio.sleep(0)  # lets the others send off what they wait for
        for at, node in enumerate(nodes):
            if node.inline and phase.error is None:
                phase.call_inline(node, at)
    except BaseException:  # cancelled, or a plain def met with something like KeyboardInterrupt
        await phase.stop()
        raise
    return await phase.settled()


@attrs.define(eq=False)
class _Phase:
    """Components that run together, until each has an answer."""

    calls: Calls
    args: tuple[Any, ...]
    check: Check[Any]
    number: int
    rows_in: int
    rows_if_skipped: int
    answers: list[Any]
    members: list[_Call] = attrs.field(factory=list)
    unsettled: int = 0
    error: BaseException | None = None
    waiter: asyncio.Future[None] | None = None

    def call(self, node: Node, at: int, started: float = 0.0) -> _Call:
        call = _Call(self.calls, self, at, node, started)
        self.members.append(call)
        self.unsettled += 1
        return call

    def call_inline(self, node: Node, at: int) -> None:
        """Call a plain def, without the machinery of waiting unless it turns out to be needed."""
        if not node.simple or self.calls.query.failed:
            self.call(node, at).start()
            return
        answer = call_inline(self.calls, node, self.args, self.check, self.number, self.rows_in)
        if isinstance(answer, Answer):
            self.answers[at] = answer
        else:
            self.take_over(answer, node, at)

    def take_over(self, met: Unfinished, node: Node, at: int) -> None:
        """Go on with a plain def that failed, or whose answer must be awaited."""
        call = self.call(node, at, met.started)
        call.watch = met.watch
        if met.error is not None:
            call.held = True
            call.fail(met.error)
        elif met.future is not None:
            call.wait(met.future, met.limit)

    def settle(self, at: int, answer: Answer[Any]) -> None:
        self.answers[at] = answer
        self.unsettled -= 1
        if not self.unsettled:
            self.wake()

    def abort(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
            self.wake()

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def settled(self) -> list[Any]:
        """Wait for all answers."""
        if self.unsettled and self.error is None:
            self.waiter = self.calls.loop.create_future()
            try:
                await self.waiter
            except asyncio.CancelledError:
                await self.stop()
                raise
        if self.error is not None:
            await self.stop()
            raise self.error
        self.members.clear()  # calls know their phase: without this the rows would live until garbage is collected
        return self.answers

    async def stop(self) -> None:
        """Cancel what still runs, and let it end if it does so at once."""
        running = [call for call in self.members if call.stop()]
        if running:
            await asyncio.sleep(0)
            await asyncio.sleep(0)


@attrs.define(eq=False)
class _Call:
    """One place in a phase: a component's call and those of its fallbacks."""

    calls: Calls
    phase: _Phase
    at: int
    node: Node
    started: float = 0.0
    future: asyncio.Future[Any] | None = None
    job: Job | None = None
    timer: asyncio.TimerHandle | None = None
    admission: Admission | None = None
    instead_of: str = ""
    hits: int = 0
    misses: int = 0
    held: bool = False
    watch: CallWatch | None = None

    def start(self) -> None:
        """Call the component; if it is a plain def, the place is settled when this returns."""
        calls, node, query = self.calls, self.node, self.calls.query
        self.started, self.held = calls.loop.time(), False
        if calls.watch is not None:
            rows_in, replaced = self.phase.rows_in, self.instead_of.partition(",")[0]
            self.watch = calls.watch.begin(CallInfo(node, "call", rows_in, calls.refill, replaced))
        if (query.failed or node.gates) and (met := obstacle(node, query)) is not None:
            how, why = met
            if how == "failed":
                self.fail(FailedFeatureError(why))
            else:
                self.closed(why)
            return
        limit = calls.limit(node, self.started)
        try:
            breaker = calls.state.breakers[node.index]
            if breaker is not None and node.cache is None:
                self.admission = breaker.admit(self.started)
            begun = self._begun(limit) if self.watch is None else self.watch.context.run(self._begun, limit)
        except (Exception, asyncio.CancelledError) as error:
            self.fail(error)
            return
        if asyncio.isfuture(begun):
            self.wait(begun, limit)
        else:
            self.finish(begun)

    def _begun(self, limit: float | None) -> Any:
        """What the component returned, or the future of it."""
        calls, node = self.calls, self.node
        if node.cache is not None or node.prepare is not None or node.inner is not None:
            return calls.loop.create_task(self._indirect(limit), name=node.name)
        args = (calls.query, *self.phase.args, calls.context(node, limit))
        if node.mode == "thread":
            self.job = calls.submit(node, node.method, args)
            return self.job.future
        return self._called(args)

    def _called(self, args: tuple[Any, ...]) -> Any:
        """What the component's method returns, called here; a future if it is to be awaited."""
        node = self.node
        reading = READER.set((args[0], node.features))
        try:
            if node.mode == "async":
                return self.calls.loop.create_task(node.method(*args), name=node.name)
            self.held = True
            value = node.method(*args)
            if hasattr(type(value), "__await__"):
                self.held = False
                return asyncio.ensure_future(value)
            return value
        finally:
            READER.reset(reading)

    def wait(self, future: asyncio.Future[Any], limit: float | None) -> None:
        """Wait for a call that has begun, until its limit."""
        self.future = future
        if limit is not None:
            self.timer = self.calls.loop.call_at(limit, self._late)
        future.add_done_callback(self._done)

    def _indirect(self, limit: float | None) -> Coroutine[Any, Any, Any]:
        """The call of a component with a cache, a nested pipeline or a `prepare`."""
        if self.node.cache is not None:
            return call_cached(self.calls, self.node, self.phase.args, self.phase.check)
        if self.node.inner is not None:
            return self.calls.nested(self.node, limit)
        return self.calls.call_prepared(self.node, self.phase.args, limit)

    def stop(self) -> bool:
        """Stop waiting for the component; whether it ran."""
        if self.timer is not None:
            self.timer.cancel()
        if self.admission is not None:
            self._verdict(None)
        watch, self.watch = self.watch, None
        if watch is not None:
            watch.cancelled()
        future, self.future = self.future, None
        job, self.job = self.job, None
        if job is not None:
            job.abandon()
        elif future is not None:
            self.calls.runtime.abandon(future)
        return future is not None

    def _late(self) -> None:
        """The limit of the call has come."""
        if self.future is None:
            return
        self.timer = None
        admission, self.admission = self.admission, None
        watch, self.watch = self.watch, None
        self.stop()
        self.admission, self.watch = admission, watch
        self._guarded(TimedOutError())

    def _done(self, future: asyncio.Future[Any]) -> None:
        """The call has ended by itself."""
        if future is not self.future:  # nobody waits for it any more
            if not future.cancelled():
                future.exception()
            return
        self.future = self.job = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if future.cancelled():
            self._guarded(asyncio.CancelledError())
            return
        error = future.exception()
        if error is not None:
            self._guarded(error)
            return
        try:
            self.finish(without_coroutine(self.node, future.result()))
        except ContractError as wrong:
            self._guarded(wrong)
        except BaseException as broken:  # a mistake of the engine must end the request, not hang it
            self.phase.abort(broken)

    def _guarded(self, error: BaseException) -> None:
        try:
            self.fail(error)
        except BaseException as broken:
            self.phase.abort(broken)

    def finish(self, value: Any) -> None:
        """Take what the component returned, if it is what its kind demands."""
        degraded = value if isinstance(value, Degraded) else None
        if degraded is not None:
            self.hits, self.misses, value = degraded.hits, degraded.misses, degraded.value
        try:
            result, rows, note = self.phase.check(self.node, value)
        except (Exception, asyncio.CancelledError) as error:
            self.fail(error)
            return
        if degraded is not None and degraded.error is not None and not self._partial(degraded):
            self.fail(degraded.error)
            return
        if self.calls.recorder is not None:
            self.calls.recorder.answered(self.node, self.calls.query, self.phase.args, self.calls.refill, value)
        self._verdict(True)
        status: Literal["ok", "skipped"] = "ok"
        error_text = ""
        if degraded is not None and degraded.error is not None:
            status, error_text = "skipped", why_failed(degraded.error, self.calls, self.started)
            kept = f"{degraded.kept} {'row' if degraded.kept == 1 else 'rows'} from the cache kept"
            note = f"{kept}; {note}" if note else kept
        self.record(status, rows, error=error_text, note=note, cause=None if degraded is None else degraded.error)
        self.phase.settle(self.at, Answer("ok", self.node, result))

    def _partial(self, degraded: Degraded) -> bool:
        """Whether rows from a cache are kept although the call for the others failed."""
        late = isinstance(degraded.error, TimedOutError)
        policy, fallback = (self.node.on_timeout, self.node.late) if late else (self.node.on_error, self.node.fallback)
        loud = isinstance(degraded.error, RequestError | MisconfigurationError)
        return policy == "skip" and fallback is None and degraded.kept > 0 and not loud

    def fail(self, error: BaseException) -> None:
        """Do what the component's policy says about a failure."""
        node, calls = self.node, self.calls
        error = undeclared_read(node, error) or error
        if isinstance(error, RequestError | MisconfigurationError):
            self._verdict(None)
            error.component = error.component or node.name
            note = f"raised by {node.name} ({node.use}) in {node.stage} of pipeline {calls.plan.name!r}"
            if note not in getattr(error, "__notes__", ()):  # requests that waited for one call share its error
                error.add_note(note)
            self.record(
                "skipped", self.phase.rows_if_skipped, error=why_failed(error, calls, self.started), cause=error
            )
            self.phase.abort(error)
            return
        late = isinstance(error, TimedOutError)
        self._verdict(None if isinstance(error, FailedFeatureError | CircuitOpenError | FullError) else False)
        policy, fallback = (node.on_timeout, node.late) if late else (node.on_error, node.fallback)
        why = why_failed(error, calls, self.started)
        log.warning(
            "component failed",
            pipeline=calls.plan.name,
            component=node.name,
            stage=node.stage,
            error=without_values(why),
            then=f"fallback {fallback.name}" if fallback else policy,
        )
        if calls.recorder is not None and not isinstance(error, FailedFeatureError):
            outside = late or isinstance(error, CircuitOpenError | FullError)
            args = self.phase.args
            calls.recorder.failed(node, calls.query, args, calls.refill, why, late=late, outside=outside)
        rows = self.phase.rows_if_skipped
        inner = error.trace if isinstance(error, NestedError) else ()
        if fallback is not None:
            self.record("fallback", rows, error=why, by=fallback.name, inner=inner, cause=error)
            self._fall_back(fallback, why)
            return
        self.record("skipped", rows, error=why, inner=inner, cause=error)
        self._give_up(policy, why, error)

    def closed(self, why: str) -> None:
        """The component's gate is closed. What was to stand in for a failed component has then failed as well."""
        node, rows = self.node, self.phase.rows_if_skipped
        fallback = node.fallback if self.instead_of else None
        self.record("closed", rows, error=why, by="" if fallback is None else fallback.name)
        if fallback is not None:
            self._fall_back(fallback, f"its gate was closed: {why}")
        elif self.instead_of:
            self._give_up(node.on_error, f"its gate was closed: {why}", None)
        else:
            self.phase.settle(self.at, Answer("closed", node))

    def _fall_back(self, fallback: Node, why: str) -> None:
        if self.calls.watch is not None:
            self.calls.watch.fallback(self.calls.trace[-1], fallback.name)
        self.instead_of = f"{self.node.name}, which failed: {why}"
        self.node, self.hits, self.misses = fallback, 0, 0
        self.start()

    def _give_up(self, policy: str, why: str, error: BaseException | None) -> None:
        if policy == "skip":
            self.phase.settle(self.at, Answer("skipped", self.node))
        else:
            cause = failure(self.node, self.calls.plan.name, why, self.instead_of)
            cause.__cause__ = error
            self.phase.abort(cause)

    def _verdict(self, good: bool | None) -> None:
        """Tell the breaker, if it let the call through, how it went; `None`: it did not come to an answer."""
        admission, self.admission = self.admission, None
        breaker = self.calls.state.breakers[self.node.index]
        if admission is None or breaker is None:
            return
        if good is None:
            breaker.release(admission)
        else:
            breaker.record(admission, good, self.calls.loop.time())

    def record(
        self,
        status: Literal["ok", "skipped", "fallback", "closed"],
        rows_out: int,
        *,
        error: str = "",
        by: str = "",
        note: str = "",
        inner: Sequence[ComponentTrace] = (),
        cause: BaseException | None = None,
    ) -> None:
        """Write the call into the trace."""
        calls, node = self.calls, self.node
        elapsed = calls.loop.time() - self.started
        if self.held and elapsed > HELD_LOOP:
            note = held_note(note, elapsed)
        elif calls.held and node.index in calls.held:
            note = held_note(note, calls.held[node.index])
        breaker = calls.state.breakers[node.index]
        state = "" if breaker is None else breaker.state(calls.loop.time())
        if calls.inner and node.index in calls.inner:
            inner = calls.inner[node.index].trace
        calls.trace.append(
            ComponentTrace(
                node.name,
                node.use,
                node.stage,
                self.phase.number,
                status,
                (self.started - calls.started) * 1000,
                elapsed * 1000,
                self.phase.rows_in,
                rows_out,
                error,
                by,
                note,
                calls.refill,
                self.hits,
                self.misses,
                "" if state == "closed" else state,
                inner,
            )
        )
        watch, self.watch = self.watch, None
        if watch is not None:
            watch.ended(calls.trace[-1], cause)
