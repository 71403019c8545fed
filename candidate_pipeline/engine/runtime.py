"""What lives as long as an open application: breakers, caches, threads, and calls that nobody waits for any more."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import attrs
import structlog

from candidate_pipeline.engine.background import Background
from candidate_pipeline.engine.breaker import Breaker
from candidate_pipeline.engine.cache import RowCache, ValueCache
from candidate_pipeline.engine.plan import Node, Plan
from candidate_pipeline.engine.threads import Bulkhead

log = structlog.get_logger("candidate_pipeline.engine")

#: Seconds that cancelled calls have to end when the application closes.
GRACE: Final = 1.0


@attrs.frozen(eq=False)
class PlanState:
    """What a plan's components keep between requests, by the component's number.

    Args:
        breakers: Their circuit breakers.
        caches: Their caches.
        pools: Their threads.
    """

    breakers: tuple[Breaker | None, ...]
    caches: tuple[ValueCache | RowCache | None, ...]
    pools: tuple[Bulkhead | None, ...]

    @classmethod
    def of(cls, plan: Plan) -> PlanState:
        """The state of a plan that has not answered yet."""
        return cls(
            breakers=tuple(None if node.breaker is None else Breaker(node.breaker) for node in plan.nodes),
            caches=tuple(_cache(node) for node in plan.nodes),
            pools=tuple(Bulkhead(node.name, node.threads) if node.mode == "thread" else None for node in plan.nodes),
        )


def _cache(node: Node) -> ValueCache | RowCache | None:
    kept = node.cache
    if kept is None:
        return None
    limits: dict[str, Any] = {
        "ttl_ms": kept.ttl_ms,
        "negative_ttl_ms": kept.negative_ttl_ms,
        "max_items": kept.max_items,
    }
    return RowCache(node.written_columns, **limits) if node.kind == "hydrator" else ValueCache(**limits)


@attrs.define(eq=False)
class Runtime:
    """The mutable side of an open application.

    Args:
        background: Side effects after the response.
    """

    background: Background = attrs.field(factory=Background)
    _states: dict[Plan, PlanState] = attrs.field(factory=dict)
    _abandoned: set[asyncio.Future[Any]] = attrs.field(factory=set)

    def state(self, plan: Plan) -> PlanState:
        """A plan's state, made on its first request."""
        state = self._states.get(plan)
        if state is None:
            state = self._states[plan] = PlanState.of(plan)
        return state

    def states(self) -> dict[Plan, PlanState]:
        """The states of the plans that have answered."""
        return dict(self._states)

    def abandon(self, future: asyncio.Future[Any]) -> None:
        """Cancel a call and stop waiting for it; what it still does or raises is nobody's concern."""
        if not future.done():
            future.cancel()
            self._abandoned.add(future)
        future.add_done_callback(self._forget)

    def _forget(self, future: asyncio.Future[Any]) -> None:
        self._abandoned.discard(future)
        if not future.cancelled():
            future.exception()  # so that the event loop does not report it as never retrieved

    @property
    def abandoned(self) -> int:
        """Cancelled calls that have not ended yet; those that swallow their cancellation stay here."""
        return len(self._abandoned)

    async def close(self, drain: float) -> None:
        """Drain side effects, then end everything else.

        Args:
            drain: Seconds that side effects have to finish.
        """
        try:
            await self.background.drain(drain)
        finally:  # whoever interrupts the drain still leaves nothing behind
            for state in self._states.values():
                for cache in state.caches:
                    if cache is not None and (stuck_fetches := await cache.close(GRACE)):
                        log.error("fetches for a cache ignore their cancellation", left=stuck_fetches)
            for future in self._abandoned:
                future.cancel()
            if self._abandoned:
                _, stuck = await asyncio.wait(self._abandoned, timeout=GRACE)
                for task in stuck:
                    log.error("a component ignores its cancellation", task=getattr(task, "get_name", lambda: "")())
            self.release()

    def release(self) -> None:
        """Let go of the threads; idle ones end, and work that has not begun never will."""
        for state in self._states.values():
            for pool in state.pools:
                if pool is not None:
                    pool.close()
        self._states.clear()
