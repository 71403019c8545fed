"""What lives as long as an open application: breakers, caches, threads, and calls that nobody waits for any more."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import attrs
import structlog

from candidate_pipeline.engine.background import Background
from candidate_pipeline.engine.breaker import Breaker
from candidate_pipeline.engine.cache import RowCache, ValueCache
from candidate_pipeline.engine.plan import Node, Plan
from candidate_pipeline.engine.threads import Bulkhead
from candidate_pipeline.engine.watch import Observers, checked_observers
from candidate_pipeline.observe import Observer
from candidate_pipeline.secrecy import NO_SECRETS, Secrets

log = structlog.get_logger("candidate_pipeline.engine")

#: Seconds that cancelled calls have to end when the application closes.
GRACE: Final = 1.0

#: What several applications may hold at once, when one has taken over from another.
_Part: TypeAlias = ValueCache | RowCache | Bulkhead


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

    @property
    def parts(self) -> list[_Part]:
        """What has to be closed: caches, then threads."""
        return [part for part in (*self.caches, *self.pools) if part is not None]

    def carried_over(self, before: Plan, after: Plan) -> PlanState:
        """The state of the plan that replaces another: a component that is the same object goes on with what it has.

        Of that, a breaker, a cache or threads whose settings have changed start anew.
        """
        fresh = PlanState.of(after)
        breakers, caches, pools = list(fresh.breakers), list(fresh.caches), list(fresh.pools)
        known = {(node.stage, node.name): node for node in before.nodes}
        for at, node in enumerate(after.nodes):
            old = known.get((node.stage, node.name))
            if old is None or old.component is not node.component:
                continue
            if old.breaker == node.breaker:
                breakers[at] = self.breakers[old.index]
            if old.cache == node.cache and before.semantics == after.semantics:
                caches[at] = self.caches[old.index]
            if old.threads == node.threads:
                pools[at] = self.pools[old.index]
        return PlanState(tuple(breakers), tuple(caches), tuple(pools))


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
        observers: What sees every request.
        secrets: What no trace and no log may hold.
        generation: How often the application had been reloaded.
        number: Tells which of two of this process was made later.
        background: Side effects after the response.
        watching: Tells the observers what happens, if there are any.
    """

    observers: tuple[Observer, ...] = attrs.field(default=(), converter=checked_observers)
    secrets: Secrets = NO_SECRETS
    generation: int = 0
    number: int = attrs.field(factory=itertools.count().__next__, init=False)
    background: Background = attrs.field(init=False)
    watching: Observers | None = attrs.field(init=False)
    _states: dict[Plan, PlanState] = attrs.field(factory=dict)
    _holders: Counter[_Part] = attrs.field(factory=Counter)
    _abandoned: set[asyncio.Future[Any]] = attrs.field(factory=set)

    @background.default
    def _background(self) -> Background:
        return Background(self.secrets)

    @watching.default
    def _watching(self) -> Observers | None:
        return Observers(self.observers, self.secrets) if self.observers else None

    def state(self, plan: Plan) -> PlanState:
        """A plan's state, made on its first request."""
        state = self._states.get(plan)
        if state is None:
            state = self._keep(plan, PlanState.of(plan))
        return state

    def _keep(self, plan: Plan, state: PlanState) -> PlanState:
        self._states[plan] = state
        self._holders.update(state.parts)
        return state

    def take_over(self, before: Runtime, plans: Mapping[Plan, Plan]) -> None:
        """Go on with what components keep that are the same as before; whoever lets go last will close it.

        Args:
            before: The runtime of the application that this one's replaces; it still answers its last requests.
            plans: By the new plan, the one that it replaces.
        """
        self._holders = before._holders
        for plan, old in plans.items():
            self._keep(plan, before.state(old).carried_over(old, plan))

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
            parts = self._let_go()
            try:
                await self._end_calls([part for part in parts if not isinstance(part, Bulkhead)])
            finally:
                _close_threads(parts)

    async def _end_calls(self, caches: Iterable[ValueCache | RowCache]) -> None:
        for cache in caches:
            if stuck_fetches := await cache.close(GRACE):
                log.error("fetches for a cache ignore their cancellation", left=stuck_fetches)
        for future in self._abandoned:
            future.cancel()
        if self._abandoned:
            _, stuck = await asyncio.wait(self._abandoned, timeout=GRACE)
            for task in stuck:
                log.error("a component ignores its cancellation", task=getattr(task, "get_name", lambda: "")())

    def release(self) -> None:
        """Let go of the threads; idle ones end, and work that has not begun never will."""
        _close_threads(self._let_go())

    def _let_go(self) -> list[_Part]:
        """What no other application holds."""
        parts = [part for state in self._states.values() for part in state.parts]
        self._states.clear()
        self._holders.subtract(parts)
        last = [part for part in dict.fromkeys(parts) if not self._holders[part]]
        for part in last:
            del self._holders[part]
        return last


def _close_threads(parts: Iterable[_Part]) -> None:
    for part in parts:
        if isinstance(part, Bulkhead):
            part.close()
