"""Calling a plain `def` in place: what nearly every call comes to, so it takes no more steps than it must."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import attrs

from candidate_pipeline.engine.calls import HELD_LOOP, Calls, held_note
from candidate_pipeline.engine.plan import Node
from candidate_pipeline.engine.trace import ComponentTrace
from candidate_pipeline.engine.watch import CallWatch
from candidate_pipeline.observe import CallInfo
from candidate_pipeline.query import READER

T = TypeVar("T")

#: Turns what a component returned into a result, the rows it stands for and a note for the trace; or raises.
Check: TypeAlias = Callable[[Node, Any], tuple[T, int, str]]


@attrs.define
class Answer(Generic[T]):
    """What a place in a phase came to.

    Args:
        status: `ok`; `skipped`: its component failed; `closed`: its gate was closed.
        by: The component that answered.
        value: The checked result, if it is `ok`.
    """

    status: Literal["ok", "skipped", "closed"]
    by: Node
    value: T | None = None


@attrs.define(eq=False)
class Unfinished:
    """A call of a plain def that did not end in an answer."""

    started: float
    limit: float | None
    error: BaseException | None = None
    future: asyncio.Future[Any] | None = None
    watch: CallWatch | None = None


def call_inline(
    calls: Calls, node: Node, args: tuple[Any, ...], check: Check[Any], number: int, rows_in: int
) -> Answer[Any] | Unfinished:
    """Call a plain def and record it; what nearly every call comes to, and so as short as can be."""
    started = calls.loop.time()
    limit = calls.limit(node, started)
    watch: CallWatch | None = None
    reading = READER.set((calls.query, node.features))
    try:
        if calls.watch is None:
            value = node.method(calls.query, *args, calls.context(node, limit))
        else:
            watch = calls.watch.begin(CallInfo(node, "call", rows_in, calls.refill))
            value = watch.context.run(node.method, calls.query, *args, calls.context(node, limit))
        if hasattr(type(value), "__await__"):
            future = asyncio.ensure_future(value) if watch is None else watch.context.run(asyncio.ensure_future, value)
            return Unfinished(started, limit, future=future, watch=watch)
        result, rows, note = check(node, value)
    except (Exception, asyncio.CancelledError) as error:
        return Unfinished(started, limit, error, watch=watch)
    except BaseException:
        if watch is not None:
            watch.cancelled()
        raise
    finally:
        READER.reset(reading)
    if calls.recorder is not None:
        calls.recorder.answered(node, calls.query, args, calls.refill, value)
    elapsed = calls.loop.time() - started
    calls.trace.append(
        ComponentTrace(
            node.name,
            node.use,
            node.stage,
            number,
            "ok",
            (started - calls.started) * 1000,
            elapsed * 1000,
            rows_in,
            rows,
            "",
            "",
            note if elapsed <= HELD_LOOP else held_note(note, elapsed),
            calls.refill,
        )
    )
    if watch is not None:
        watch.ended(calls.trace[-1])
    return Answer("ok", node, result)
