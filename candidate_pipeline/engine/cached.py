"""Calling a component through its cache. From the outside in: cache, breaker, timeout, component.

What is kept must not depend on who asked. So the component sees a query of nothing but the features in the key, without
the request's id and seed; a hydrator sees nothing but the rows that are missing and the columns that it declares or
that are in the key. Its own timeout counts inside the cache, for the call that several requests may wait for.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.cells import FAILED, NULL, VALID, Cells
from candidate_pipeline.columns import Columns
from candidate_pipeline.components import Context
from candidate_pipeline.engine.cache import RowCache, ValueCache, freeze, row_keys
from candidate_pipeline.engine.failures import Degraded, TimedOutError, undeclared_read
from candidate_pipeline.engine.plan import CachePlan, Node
from candidate_pipeline.engine.threads import FullError
from candidate_pipeline.errors import AbsentFeatureError, MisconfigurationError, MissingColumnError, RequestError
from candidate_pipeline.keys import Column
from candidate_pipeline.patches import Patch, QueryPatch, patch
from candidate_pipeline.query import Query

if TYPE_CHECKING:
    from candidate_pipeline.engine.calls import Calls
    from candidate_pipeline.engine.inline import Check

T = TypeVar("T")


async def call_cached(calls: Calls, node: Node, args: tuple[Any, ...], check: Check[Any]) -> Degraded:
    """A cached component's answer, and how much of it came from the cache."""
    cache, kept = calls.state.caches[node.index], node.cache
    if kept is None or cache is None:
        raise MisconfigurationError(f"{node.name} has no cache")
    prefix = _frozen(node, kept, calls.query)
    try:
        if isinstance(cache, RowCache):
            return await _rows(calls, node, kept, cache, prefix, args[0])
        return await _value(calls, node, kept, cache, prefix, check)
    except (RequestError, MisconfigurationError) as error:
        raise _own(error) from error


def _own(error: RequestError | MisconfigurationError) -> BaseException:
    """An error that several requests may wait for as one's own: each request writes its trace and notes on it."""
    try:
        own = copy.copy(error)
    except Exception:  # a subclass whose `__init__` takes something else
        return error
    own.__notes__ = list(getattr(error, "__notes__", ()))
    return own


def _frozen(node: Node, kept: CachePlan, query: Query) -> tuple[Any, ...]:
    """The query's part of the key; an absent or failed feature has no value, which is a value of its own."""
    parts: list[Any] = []
    for feature in kept.features:
        try:
            parts.append((freeze(query.features[feature]),) if feature in query else ())
        except TypeError as error:
            raise MisconfigurationError(f"{node.name}: {feature.name} cannot be part of a cache key: {error}") from None
    return tuple(parts)


def shared_query(kept: CachePlan, query: Query) -> Query:
    """The query as a component sees it whose answer other requests will get: nothing but what is in the key."""
    features = {feature: query.features[feature] for feature in kept.features if feature in query}
    return Query(request_id="shared", now=query.now, features=features)


async def _guarded_call(
    calls: Calls, node: Node, query: Query, args: tuple[Any, ...], checked: Callable[[Any], T]
) -> T:
    """The component behind its breaker and its timeout, and what `checked` makes of its answer."""
    loop = calls.loop
    breaker = calls.state.breakers[node.index]
    admission = None if breaker is None else breaker.admit(loop.time())
    limit = None if node.timeout is None else loop.time() + node.timeout
    context = Context(node.name, 0, limit, None, calls.plan.semantics, shared=True)
    good: bool | None = False
    try:
        answer = checked(await _value_of(calls, node, (query, *args, context), limit))
    except (RequestError, MisconfigurationError, FullError):
        good = None
        raise
    except (MissingColumnError, AbsentFeatureError) as error:
        seen = () if node.cache is None else node.cache.features  # of the features, those of its gate are not there
        mistake = undeclared_read(attrs.evolve(node, features=seen), error)
        if mistake is None:
            raise
        good = None
        raise mistake from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        good = None if task is not None and task.cancelling() else False
        raise
    else:
        good = True
        return answer
    finally:
        if breaker is not None and admission is not None:
            if good is None:
                breaker.release(admission)
            else:
                breaker.record(admission, good, loop.time())


async def _value_of(calls: Calls, node: Node, args: tuple[Any, ...], limit: float | None) -> Any:
    """What the component returns; it is left alone when its time is up or nobody waits for it any more."""
    if node.mode == "plain":
        return await calls.invoke(node, node.method, args)
    task = calls.loop.create_task(calls.invoke(node, node.method, args), name=node.name)
    try:
        await asyncio.wait([task], timeout=None if limit is None else limit - calls.loop.time())
    except asyncio.CancelledError:
        calls.runtime.abandon(task)
        raise
    if not task.done():
        calls.runtime.abandon(task)  # which it may ignore; nobody goes on waiting for that
        raise TimedOutError
    return task.result()


async def _value(
    calls: Calls, node: Node, kept: CachePlan, cache: ValueCache, prefix: tuple[Any, ...], check: Check[Any]
) -> Degraded:
    query = shared_query(kept, calls.query)

    async def fetch() -> Any:
        return await _guarded_call(calls, node, query, (), lambda value: check(node, value)[0])

    value, origin = await cache.get(prefix, query.now_ms, fetch, negative=_is_nothing)
    hit = origin == "hit"
    return Degraded(value, int(hit), int(not hit))


def _is_nothing(value: Any) -> bool:
    """Whether an answer says that there is none: no rows, no features."""
    return not value.updates if isinstance(value, QueryPatch) else len(value) == 0


async def _rows(
    calls: Calls, node: Node, kept: CachePlan, cache: RowCache, prefix: tuple[Any, ...], table: Candidates
) -> Degraded:
    upstream = calls.plan.semantics == "upstream"
    query = shared_query(kept, calls.query)
    try:
        keys = row_keys([table.cells(column) for column in kept.columns], prefix)
    except TypeError as refused:
        raise MisconfigurationError(f"{node.name}: the columns of its cache key: {refused}") from None
    visible = dict.fromkeys((*kept.columns, *node.columns))

    async def fetch(rows: NDArray[np.intp]) -> Mapping[Column[Any], Cells]:
        there = {column: table.cells(column).take(rows) for column in visible if column in table}
        some = Candidates(Columns(len(rows), there))  # even the item ids only where they are declared
        return await _guarded_call(calls, node, query, (some,), lambda value: _fresh_cells(node, value, some))

    answer = await cache.get(keys, query.now_ms, fetch)
    error = answer.errors[0] if answer.errors else None
    if error is not None and upstream:
        raise error  # as published, one wrong answer of the client invalidates the hits as well
    updates = [
        column(
            cells.values,
            valid=None if cells.state is None else cells.state == VALID,
            labels=cells.labels if column.labels else None,
        )
        for column, cells in answer.cells.items()
    ]
    found = len(table) - (0 if answer.failed is None else int(np.count_nonzero(answer.failed)))
    return Degraded(patch(*updates, failed=answer.failed), answer.hits, answer.misses + answer.joined, error, found)


def _fresh_cells(node: Node, value: Any, some: Candidates) -> Mapping[Column[Any], Cells]:
    """The cells of a hydrator's answer on their own, whatever the table held before; rows failed in all columns."""
    from candidate_pipeline.engine.checks import patch_of

    answer: Patch = patch_of(node, value)
    given = some.limited_to(()).overlaid(answer, node.index)
    failed = answer.failed_rows(len(some))
    state = np.full(len(some), NULL, np.uint8) if failed is None else np.where(failed, FAILED, NULL).astype(np.uint8)
    return {
        column: given.get(column) or Cells(column.blank(len(some)), state, node.index)
        for column in node.written_columns
    }
