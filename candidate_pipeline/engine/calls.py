"""What the calls of one request share: its budgets, its trace, and the ways into a component."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import attrs

from candidate_pipeline.components import Context
from candidate_pipeline.engine.failures import NestedError, TimedOutError, obstacle, why_failed
from candidate_pipeline.engine.nested import NestedPipeline
from candidate_pipeline.engine.plan import Budget, Node, Place, Plan
from candidate_pipeline.engine.recording import Recorder
from candidate_pipeline.engine.runtime import PlanState, Runtime
from candidate_pipeline.engine.threads import Job
from candidate_pipeline.engine.trace import ComponentTrace, Trace
from candidate_pipeline.engine.watch import CallWatch, Watch
from candidate_pipeline.errors import ContractError, MisconfigurationError, RequestError
from candidate_pipeline.observe import CallInfo
from candidate_pipeline.outcome import Outcome
from candidate_pipeline.query import READER, Query

#: A plain def that holds the event loop for longer is noted in the trace, in seconds.
HELD_LOOP: Final = 0.05

_NO_BUDGET: Final = Budget()

#: Answers a query with a plan, within a limit in the loop's time, inside of some components, for a recorder or none.
Serve: TypeAlias = Callable[[Plan, Query, float | None, tuple[str, ...], Recorder | None], Awaitable[Outcome]]


@attrs.define(eq=False)
class Calls:
    """Makes the calls of one request and records them.

    Args:
        plan: The plan.
        runtime: The application's.
        state: The plan's.
        query: The query as hydrated so far.
        deadline: The request's deadline in the loop's time, if it has one.
        serve: Answers nested pipelines.
        inside: The components that the plan is nested in, outermost first.
        loop: The event loop.
        started: When the request started, in the loop's time.
        stage_end: When the current stage must end.
        trace: One record a call, in the order of completion within a phase.
        prepared: What `prepare` runs or ran, by the component's number.
        inner: The outcomes of nested pipelines, by the component's number.
        refill: The round of refilling.
        held: For how long a `prepare`, a cached component or a side effect held the loop, if it did for too long.
        recorder: Keeps what components answer, if the request is recorded.
        watch: Tells observers what happens, if there are any.
    """

    plan: Plan
    runtime: Runtime
    state: PlanState
    query: Query
    deadline: float | None
    serve: Serve
    inside: tuple[str, ...] = ()
    loop: asyncio.AbstractEventLoop = attrs.field(factory=asyncio.get_running_loop)
    started: float = attrs.field(init=False)
    stage_end: float | None = None
    trace: list[ComponentTrace] = attrs.field(factory=list)
    prepared: dict[int, asyncio.Future[Any]] = attrs.field(factory=dict)
    inner: dict[int, Outcome] = attrs.field(factory=dict)
    refill: int = 0
    held: dict[int, float] = attrs.field(factory=dict)
    recorder: Recorder | None = None
    watch: Watch | None = None

    def __attrs_post_init__(self) -> None:
        self.started = self.loop.time()

    def begin(self, place: Place) -> None:
        """Start a stage's budget."""
        budget = self.plan.budgets.get(place, _NO_BUDGET)
        end = self.deadline
        if end is not None:
            end -= budget.reserve
        if budget.timeout is not None:
            own = self.loop.time() + budget.timeout
            end = own if end is None or own < end else end
        self.stage_end = end

    def limit(self, node: Node, start: float) -> float | None:
        """When a call must end that starts now."""
        end = self.stage_end
        if node.timeout is None or node.cache is not None:  # a cached component's own timeout is inside its cache
            return end
        own = start + node.timeout
        return own if end is None or own < end else end

    def context(self, node: Node, limit: float | None, prepared: Any = None) -> Context:
        """What a component is given beside its arguments."""
        return Context(node.name, self.query.seed, limit, prepared, self.plan.semantics)

    def prepare(self) -> None:
        """Start the `prepare` of every component that has one, unless it will not run."""
        for node in self.plan.preparing:
            breaker = self.state.breakers[node.index]
            if breaker is not None and breaker.state(self.loop.time()) == "open":
                continue
            if obstacle(node, self.query) is not None:
                continue
            if self.watch is None:
                task = self.loop.create_task(self._prepare(node), name=f"prepare {node.name}")
            else:
                task = self._watched_prepare(node, self.watch.begin(CallInfo(node, "prepare")))
            self.prepared[node.index] = task

    def _watched_prepare(self, node: Node, watch: CallWatch) -> asyncio.Task[Any]:
        started = self.loop.time()
        work = self._prepare(node)
        task = self.loop.create_task(work, name=f"prepare {node.name}", context=watch.context)

        def ended(task: asyncio.Task[Any]) -> None:
            if task.cancelled():
                watch.cancelled()
                return
            error, now = task.exception(), self.loop.time()
            entry = ComponentTrace(node.name, node.use, node.stage, started_ms=(started - self.started) * 1000)
            entry.elapsed_ms = (now - started) * 1000
            if error is not None:
                entry.status, entry.error = "skipped", why_failed(error, self, started)
            watch.ended(entry, error)

        task.add_done_callback(ended)
        return task

    def traced(self, selected: int | None = None) -> Trace:
        """The request's trace as it is now.

        Args:
            selected: How many rows the response holds, if there is one.
        """
        return Trace.of(
            self.plan,
            self.query,
            self.trace,
            generation=self.runtime.generation,
            elapsed_ms=(self.loop.time() - self.started) * 1000,
            selected=selected,
        )

    async def _prepare(self, node: Node) -> Any:
        """Run a component's `prepare`, for no longer than its timeout."""
        if node.prepare is None:
            return None
        start = self.loop.time()
        ends = [end for end in (self.deadline, None if node.timeout is None else start + node.timeout) if end]
        limit = min(ends, default=None)
        timer = asyncio.timeout_at(limit)
        try:
            async with timer:
                return await self.invoke(node, node.prepare, (self.query, self.context(node, limit)))
        except TimeoutError as error:
            if timer.expired():
                raise TimedOutError(f"prepare timed out after {(self.loop.time() - start) * 1000:.0f} ms") from error
            raise

    async def call_prepared(self, node: Node, args: tuple[Any, ...], limit: float | None) -> Any:
        """Call a component with what its `prepare` returned."""
        future = self.prepared.get(node.index)
        if future is not None and future.cancelled():
            raise TimedOutError("prepare was cut off with an earlier call")
        prepared = await (self._prepare(node) if future is None else future)
        return await self.invoke(node, node.method, (self.query, *args, self.context(node, limit, prepared)))

    async def invoke(self, node: Node, method: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Await a method whose first argument is the query, in a thread if its component is blocking.

        Call it in a task of the engine's own, which is marked as the component's.
        """
        if node.mode == "thread" and not inspect.iscoroutinefunction(method):
            job = self.submit(node, method, args)
            try:
                return without_coroutine(node, await job.future)
            except asyncio.CancelledError:
                job.abandon()
                raise
        READER.set((args[0], node.features))
        began = self.loop.time()
        try:
            value = method(*args)
        finally:
            held = self.loop.time() - began
            if held > HELD_LOOP:
                self.held[node.index] = held
        return await value if hasattr(type(value), "__await__") else value

    def submit(self, node: Node, method: Callable[..., Any], args: tuple[Any, ...]) -> Job:
        """Run a method in one of its component's threads.

        Raises:
            FullError: Calls that nobody waits for any more hold all of them.
        """
        pool = self.state.pools[node.index]
        if pool is None:
            raise MisconfigurationError(f"{node.name} has no threads")
        token = READER.set((args[0], node.features))
        try:
            return pool.submit(self.loop, method, args)
        finally:
            READER.reset(token)

    async def nested(self, node: Node, limit: float | None) -> Any:
        """Answer with a nested pipeline; its failure is its component's, not the request's."""
        nested: NestedPipeline = node.component
        try:
            query = nested.inner_query(self.query)
            recorder = None if self.recorder is None else self.recorder.inside(node, nested.plan, query)
            outcome = await self.serve(nested.plan, query, limit, (*self.inside, node.name), recorder)
        except RequestError as error:
            raise NestedError(str(error), error.trace) from error
        self.inner[node.index] = outcome
        return outcome.selected.limited_to(node.written_columns)

    async def close(self) -> None:
        """Cancel what `prepare` still runs."""
        running = [task for task in self.prepared.values() if not task.done()]
        for task in self.prepared.values():
            self.runtime.abandon(task)
        if running:
            await asyncio.sleep(0)


def without_coroutine(node: Node, value: Any) -> Any:
    """What a component returned.

    Raises:
        ContractError: It is a coroutine, of which nothing has run.
    """
    if inspect.iscoroutine(value):
        value.close()
        raise ContractError(f"{node.name} returned a coroutine; make its method async def, without blocking = True")
    return value


def held_note(note: str, seconds: float) -> str:
    """A note with the warning that a plain def held up all other requests."""
    held = f"held the event loop for {seconds * 1000:.0f} ms; set blocking = True on its class"
    return f"{note}; {held}" if note else held
