"""Calling one component: its timeout, its thread, and what its failure does."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

import attrs
import structlog

from candidate_pipeline.components import Context
from candidate_pipeline.engine.plan import Node
from candidate_pipeline.engine.trace import ComponentTrace
from candidate_pipeline.errors import (
    CandidatePipelineError,
    FailedFeatureError,
    MisconfigurationError,
    RequestError,
    SafetyError,
)
from candidate_pipeline.query import Query

T = TypeVar("T")
log = structlog.get_logger("candidate_pipeline.engine")


class _TimedOutError(Exception):
    """The engine's own limit ran out, as against a `TimeoutError` that a component met."""


@attrs.define(eq=False)
class Calls:
    """Makes the calls of one request and records them.

    Args:
        pipeline: The pipeline's name, for messages.
        executor: Where blocking components run.
        deadline: The request's deadline in the loop's time, if it has one.
        started: When the request started, in the loop's time.
        trace: One record a call, in the order of completion within a phase.
        prepared: What `prepare` runs or ran, by the component's number.
    """

    pipeline: str
    executor: Executor
    deadline: float | None
    started: float
    trace: list[ComponentTrace] = attrs.field(factory=list)
    prepared: dict[int, asyncio.Task[Any]] = attrs.field(factory=dict)

    def prepare(self, nodes: Sequence[Node], query: Query) -> None:
        """Start the `prepare` of every component that has one and whose query features did not fail."""
        for node in nodes:
            if node.prepare is not None and _failed_feature(node, query) is None:
                coroutine = _limited(node, self.deadline, self._prepare, node, query)
                self.prepared[node.index] = asyncio.create_task(coroutine, name=f"prepare {node.name}")

    async def call(
        self,
        node: Node,
        query: Query,
        args: tuple[Any, ...],
        check: Callable[[Node, Any], T],
        *,
        phase: int = 0,
        rows_in: int = 0,
        rows_out: Callable[[T], int] = lambda _: 0,
        rows_if_skipped: int = 0,
        instead_of: str = "",
    ) -> tuple[Node, T] | None:
        """Call a component; on failure its fallback; `None` if it is skipped.

        Args:
            node: The component.
            query: The query, its first argument.
            args: Its arguments between the query and the context.
            check: Turns what it returned into a result, or raises.
            phase: Its phase, for the trace.
            rows_in: Rows it is given, for the trace.
            rows_out: Counts the rows of a result, for the trace.
            rows_if_skipped: What the trace says of the rows where it fails.
            instead_of: What failed before, where the component is a fallback.

        Returns:
            The component that answered, and its checked answer.

        Raises:
            RequestError: It failed and may not be skipped, or said that the request is wrong.
            MisconfigurationError: It said that it is built wrongly.
        """
        loop = asyncio.get_running_loop()
        start = loop.time()
        record = ComponentTrace(
            node.name, node.use, node.stage, phase, started_ms=(start - self.started) * 1000, rows_in=rows_in
        )
        try:
            result = check(node, await self._attempt(node, query, args))
        except (RequestError, MisconfigurationError) as error:
            error.add_note(f"raised by {node.name} ({node.use}) in {node.stage} of pipeline {self.pipeline!r}")
            raise
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _request_is_cancelled():
                raise
            elapsed = loop.time() - start
            why = self._reason(error, elapsed)
            record = attrs.evolve(
                record, elapsed_ms=elapsed * 1000, rows_out=rows_if_skipped, error=why, status="skipped"
            )
            log.warning(
                "component failed",
                pipeline=self.pipeline,
                component=node.name,
                stage=node.stage,
                error=why,
                then=f"fallback {node.fallback.name}" if node.fallback else node.on_error,
            )
            if node.fallback is None and node.on_error != "skip":
                raise self._failure(node, why, instead_of) from error
        else:
            record = attrs.evolve(record, elapsed_ms=(loop.time() - start) * 1000, rows_out=rows_out(result))
            self.trace.append(record)
            return node, result
        if node.fallback is None:
            self.trace.append(record)
            return None
        self.trace.append(attrs.evolve(record, status="fallback", by=node.fallback.name))
        return await self.call(
            node.fallback,
            query,
            args,
            check,
            phase=phase,
            rows_in=rows_in,
            rows_out=rows_out,
            rows_if_skipped=rows_if_skipped,
            instead_of=f"{node.name}, which failed: {why}",
        )

    async def _attempt(self, node: Node, query: Query, args: tuple[Any, ...]) -> Any:
        feature = _failed_feature(node, query)
        if feature is not None:
            raise FailedFeatureError(feature)
        return await _limited(node, self.deadline, self._run, node, query, args)

    async def _run(self, node: Node, query: Query, args: tuple[Any, ...]) -> Any:
        prepared = None
        if node.index in self.prepared:
            prepared = await self.prepared[node.index]
        elif node.prepare is not None:
            prepared = await self._prepare(node, query)
        return await _invoke(node, node.method, (query, *args, self._context(node, query, prepared)), self.executor)

    async def _prepare(self, node: Node, query: Query) -> Any:
        if node.prepare is None:
            return None
        return await _invoke(node, node.prepare, (query, self._context(node, query)), self.executor)

    def _context(self, node: Node, query: Query, prepared: Any = None) -> Context:
        return Context(node.name, query.seed, self.deadline, prepared)

    def _failure(self, node: Node, why: str, instead_of: str) -> RequestError:
        """The error of a request that a component's failure ends."""
        what = f"{node.kind.replace('_', ' ')} {node.name} ({node.use}{', ' + node.origin if node.origin else ''})"
        message = f"pipeline {self.pipeline!r}: {what} failed: {why}"
        if instead_of:
            message += f"; it stood in for {instead_of}"
        if node.safety:
            return SafetyError(f"{message}. It is a safety filter, so the request fails rather than skip it")
        return RequestError(message)

    def _reason(self, error: BaseException, elapsed: float) -> str:
        """Why a call failed, in a line."""
        if isinstance(error, _TimedOutError):
            late = self.deadline is not None and asyncio.get_running_loop().time() >= self.deadline
            return f"timed out after {elapsed * 1000:.0f} ms{' (the deadline of the request)' if late else ''}"
        if isinstance(error, CandidatePipelineError):
            return str(error)
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

    async def close(self) -> None:
        """Cancel what `prepare` still runs."""
        for task in self.prepared.values():
            task.cancel()
        await asyncio.gather(*self.prepared.values(), return_exceptions=True)


async def call_once(node: Node, args: tuple[Any, ...], executor: Executor) -> Any:
    """Call a component outside a request, as a side effect is: its timeout counts, its policy does not.

    Raises:
        TimeoutError: Its timeout ran out.
        Exception: Whatever it raised.
    """
    try:
        return await _limited(node, None, _invoke, node, node.method, args, executor)
    except _TimedOutError:
        raise TimeoutError(f"{node.name} timed out") from None


async def _limited(
    node: Node, deadline: float | None, function: Callable[..., Coroutine[Any, Any, T]], *args: Any
) -> T:
    """Await a function's coroutine for no longer than a component's timeout and the deadline (the loop's time)."""
    limits = [] if deadline is None else [deadline]
    if node.timeout is not None:
        limits.append(asyncio.get_running_loop().time() + node.timeout)
    timer = asyncio.timeout_at(min(limits, default=None))
    try:
        async with timer:
            return await function(*args)
    except TimeoutError as error:
        if timer.expired():
            raise _TimedOutError from error
        raise


async def _invoke(node: Node, method: Callable[..., Any], args: tuple[Any, ...], executor: Executor) -> Any:
    if node.blocking and not inspect.iscoroutinefunction(method):
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(executor, lambda: run(_in_thread, method, args))
    value = method(*args)
    return await value if inspect.isawaitable(value) else value


def _failed_feature(node: Node, query: Query) -> str | None:
    """Why a component cannot run on a query: a feature it reads failed.

    A declared default stands in for a failed feature, but not in a safety filter: an empty default of a block list
    that could not be read would let everything pass.
    """
    for feature in node.features:
        if feature in query.failed and (node.safety or not feature.has_default):
            return f"query feature {feature.name} failed: {query.failed[feature]}"
    return None


def _request_is_cancelled() -> bool:
    """Whether a `CancelledError` is meant for the request, as against one that a component let out of its own."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _in_thread(method: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        return method(*args)
    except StopIteration as error:  # a future cannot hold one, and its waiter would wait for ever
        raise RuntimeError("StopIteration left the component") from error


async def together(coroutines: Mapping[int, Coroutine[Any, Any, T]]) -> dict[int, T]:
    """Run coroutines concurrently; if one raises, cancel the others and raise what it raised."""
    if len(coroutines) == 1:
        [(index, coroutine)] = coroutines.items()
        return {index: await coroutine}
    tasks = {index: asyncio.create_task(coroutine) for index, coroutine in coroutines.items()}
    try:
        if tasks:
            await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks.values():
            if task.done() and (error := task.exception()) is not None:
                raise error
        return {index: task.result() for index, task in tasks.items()}
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
