"""Calling a component through its cache. From the outside in: cache, breaker, timeout, component.

What is kept must not depend on who asked. So the component sees a query of nothing but the features it declares, all
of which are in the key, without the request's id and seed; a hydrator sees nothing but the rows that are missing and
the columns it declares. Its own timeout counts inside the cache, for the call that several requests may wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.cells import NULL, VALID, Cells
from candidate_pipeline.components import Context
from candidate_pipeline.engine.cache import RowCache, ValueCache, freeze, row_keys
from candidate_pipeline.engine.failures import Degraded, TimedOutError
from candidate_pipeline.engine.plan import CachePlan, Node
from candidate_pipeline.errors import MisconfigurationError, RequestError
from candidate_pipeline.keys import Column
from candidate_pipeline.patches import Patch, QueryPatch, patch
from candidate_pipeline.query import Query

if TYPE_CHECKING:
    from candidate_pipeline.engine.calls import Calls
    from candidate_pipeline.engine.phase import Check


async def call_cached(calls: Calls, node: Node, args: tuple[Any, ...], check: Check[Any]) -> Degraded:
    """A cached component's answer, and how much of it came from the cache."""
    cache, kept = calls.state.caches[node.index], node.cache
    if kept is None or cache is None:
        raise MisconfigurationError(f"{node.name} has no cache")
    prefix = _frozen(node, kept, calls.query)
    if isinstance(cache, RowCache):
        return await _rows(calls, node, kept, cache, prefix, args[0])
    return await _value(calls, node, cache, prefix, check)


def _frozen(node: Node, kept: CachePlan, query: Query) -> tuple[Any, ...]:
    """The query's part of the key; an absent or failed feature has no value, which is a value of its own."""
    parts: list[Any] = []
    for feature in kept.features:
        try:
            parts.append((freeze(query.features[feature]),) if feature in query else ())
        except TypeError as error:
            raise MisconfigurationError(f"{node.name}: {feature.name} cannot be part of a cache key: {error}") from None
    return tuple(parts)


def _shared_query(node: Node, query: Query) -> Query:
    """The query as a component sees it whose answer other requests will get."""
    features = {feature: query.features[feature] for feature in node.features if feature in query}
    failed = {feature: query.failed[feature] for feature in node.features if feature in query.failed}
    return Query(request_id="shared", now=query.now, features=features, failed=failed)


async def _guarded_call(calls: Calls, node: Node, args: tuple[Any, ...]) -> Any:
    """The component behind its breaker and its timeout."""
    loop = calls.loop
    breaker = calls.state.breakers[node.index]
    admission = None if breaker is None else breaker.admit(loop.time())
    limit = None if node.timeout is None else loop.time() + node.timeout
    context = Context(node.name, 0, limit, None, calls.plan.semantics, shared=True)
    timer = asyncio.timeout_at(limit)
    good: bool | None = False
    try:
        async with timer:
            value = await calls.invoke(node, node.method, (_shared_query(node, calls.query), *args, context))
        good = True
    except TimeoutError as error:
        if timer.expired():
            raise TimedOutError from error
        raise
    except (RequestError, MisconfigurationError):
        good = None
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        good = None if task is not None and task.cancelling() else False
        raise
    finally:
        if breaker is not None and admission is not None:
            if good is None:
                breaker.release(admission)
            else:
                breaker.record(admission, good, loop.time())
    return value


async def _value(calls: Calls, node: Node, cache: ValueCache, prefix: tuple[Any, ...], check: Check[Any]) -> Degraded:
    async def fetch() -> Any:
        result, _, _ = check(node, await _guarded_call(calls, node, ()))
        return result

    value, origin = await cache.get(prefix, calls.query.now_ms, fetch, negative=_is_nothing)
    hit = origin != "miss"
    return Degraded(value, int(hit), int(not hit))


def _is_nothing(value: Any) -> bool:
    """Whether an answer says that there is none: no rows, no features."""
    return not value.updates if isinstance(value, QueryPatch) else len(value) == 0


async def _rows(
    calls: Calls, node: Node, kept: CachePlan, cache: RowCache, prefix: tuple[Any, ...], table: Candidates
) -> Degraded:
    upstream = calls.plan.semantics == "upstream"
    keys = row_keys([table.cells(column) for column in kept.columns], prefix)
    seen = table.limited_to(node.columns)

    async def fetch(rows: NDArray[np.intp]) -> Mapping[Column[Any], Cells]:
        some = seen.take(rows)
        value = await _guarded_call(calls, node, (some,))
        return _fresh_cells(node, value, some)

    answer = await cache.get(keys, calls.query.now_ms, fetch)
    error = answer.errors[0] if answer.errors else None
    if error is not None and (upstream or not answer.hits):
        raise error  # as published, one wrong answer of the client invalidates the hits as well
    updates = [
        column(cells.values, valid=None if cells.state is None else cells.state == VALID, labels=cells.labels or None)
        for column, cells in answer.cells.items()
    ]
    return Degraded(patch(*updates, failed=answer.failed), answer.hits, answer.misses + answer.joined, error)


def _fresh_cells(node: Node, value: Any, some: Candidates) -> Mapping[Column[Any], Cells]:
    """The cells of a hydrator's answer on their own, whatever the table held before."""
    from candidate_pipeline.engine.checks import patch_of

    answer: Patch = patch_of(node, value)
    bare = some.limited_to(()).patched(answer, node.index)
    null = np.full(len(some), NULL, np.uint8)
    return {
        column: bare.cells(column) if column in bare else Cells(column.blank(len(some)), null, node.index)
        for column in node.written_columns
    }
