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


@attrs.define(eq=False)
class Calls:
    """Makes the calls of one request and records them.

    Args:
        pipeline: The pipeline's name, for messages.
        executor: Where blocking components run.
        deadline: The request's deadline in the loop's time, if it has one.
        trace: One record a call, in the order of completion within a phase.
    """

    pipeline: str
    executor: Executor
    deadline: float | None
    started: float
    trace: list[ComponentTrace] = attrs.field(factory=list)
    prepared: dict[int, asyncio.Task[Any]] = attrs.field(factory=dict)

    def prepare(self, nodes: Sequence[Node], query: Query) -> None:
        """Start the `prepare` of every component that has one and whose query features are there."""
        for node in nodes:
            if node.prepare is not None:
                coroutine = self._invoke(node, node.prepare, (query, self._context(node, query)))
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
        except Exception as error:
            elapsed = loop.time() - start
            why = self.reason(error, elapsed)
            record = attrs.evolve(record, elapsed_ms=elapsed * 1000, error=why, status="skipped")
            log.warning(
                "component failed",
                pipeline=self.pipeline,
                component=node.name,
                stage=node.stage,
                error=why,
                then=f"fallback {node.fallback.name}" if node.fallback else node.on_error,
            )
            if node.fallback is not None:
                self.trace.append(attrs.evolve(record, status="fallback", by=node.fallback.name))
                return await self.call(
                    node.fallback, query, args, check, phase=phase, rows_in=rows_in, rows_out=rows_out
                )
            if node.on_error == "skip":
                self.trace.append(record)
                return None
            raise self.failure(node, why) from error
        record = attrs.evolve(record, elapsed_ms=(loop.time() - start) * 1000, rows_out=rows_out(result))
        self.trace.append(record)
        return node, result

    async def _attempt(self, node: Node, query: Query, args: tuple[Any, ...]) -> Any:
        for feature in node.features:
            if feature in query.failed and not feature.has_default:
                raise FailedFeatureError(f"query feature {feature.name} failed: {query.failed[feature]}")
        prepared = None
        if node.index in self.prepared:
            prepared = await self._within(node, self.prepared[node.index])
        return await self._invoke(node, node.method, (query, *args, self._context(node, query, prepared)))

    async def _invoke(self, node: Node, method: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if node.blocking and not inspect.iscoroutinefunction(method):
            run = contextvars.copy_context().run
            future = asyncio.get_running_loop().run_in_executor(self.executor, lambda: run(method, *args))
            return await self._within(node, future)
        value = method(*args)
        return await self._within(node, value) if inspect.isawaitable(value) else value

    async def _within(self, node: Node, awaitable: Any) -> Any:
        loop = asyncio.get_running_loop()
        limits = [self.deadline] if self.deadline is not None else []
        if node.timeout is not None:
            limits.append(loop.time() + node.timeout)
        async with asyncio.timeout_at(min(limits, default=None)):
            return await awaitable

    def _context(self, node: Node, query: Query, prepared: Any = None) -> Context:
        return Context(node.name, query.seed, self.deadline, prepared)

    def failure(self, node: Node, why: str) -> RequestError:
        """The error of a request that a component's failure ends."""
        what = f"{node.kind.replace('_', ' ')} {node.name} ({node.use}{', ' + node.origin if node.origin else ''})"
        message = f"pipeline {self.pipeline!r}: {what} failed: {why}"
        if node.safety:
            return SafetyError(f"{message}. It is a safety filter, so the request fails rather than skip it")
        return RequestError(message)

    def reason(self, error: Exception, elapsed: float) -> str:
        """Why a call failed, in a line."""
        if isinstance(error, TimeoutError):
            loop = asyncio.get_running_loop()
            late = self.deadline is not None and loop.time() >= self.deadline
            return f"timed out after {elapsed * 1000:.0f} ms{' (the deadline of the request)' if late else ''}"
        if isinstance(error, CandidatePipelineError):
            return str(error)
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

    async def close(self) -> None:
        """Cancel what `prepare` still runs."""
        left = [task for task in self.prepared.values() if not task.done()]
        for task in left:
            task.cancel()
        await asyncio.gather(*self.prepared.values(), return_exceptions=True)


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
