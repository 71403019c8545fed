"""Observers: what watches requests, such as traces, metrics and logs.

An observer is any object with a method `request`, which is called when a request begins and returns what is to hear of
that request (or nothing)::

    class Slow(RequestObserver):
        def finished(self, outcome):
            if outcome.elapsed_ms > 100:
                print(outcome.query.request_id, outcome.trace.why_short())

    class SlowRequests:
        def request(self, request):
            return Slow()

    app = load("pipelines.toml", observers=[SlowRequests()])

`RequestObserver.component` is called before each call of a component and may return what is to hear of its end. It runs
in a context of the call's own (`contextvars`): a variable that it sets is what the component's code sees, whether that
is a plain def, a task, a thread, a fetch for a cache or a side effect after the response, and nobody else sees it.

All methods are plain defs, called on the event loop, and must be quick. What they raise is logged, once an observer,
and harms no request. A nested pipeline is a request of its own, whose `inside` says where; it begins within the context
of the component that it is. An observer that has a method `reloaded` is given what came of every reload of a live
application, a `Reload`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import attrs

from candidate_pipeline.engine.gates import without_values

if TYPE_CHECKING:
    from candidate_pipeline.engine.plan import Node, Plan
    from candidate_pipeline.engine.runtime import Runtime
    from candidate_pipeline.engine.trace import ComponentTrace, Trace
    from candidate_pipeline.outcome import Outcome
    from candidate_pipeline.query import Query

#: What of a component is called: the method that does its work, its `prepare`, or a side effect with all its tries.
What = Literal["call", "prepare", "side_effect"]


@attrs.frozen(eq=False)
class RequestInfo:
    """A request that begins.

    Args:
        plan: The pipeline that answers it.
        query: The query as it came, before hydration. It holds what may be private: look at nothing but its
            `request_id`, `now` and `seed` where what you keep leaves the process.
        generation: How often the application had been reloaded.
        inside: The components that the pipeline is nested in, outermost first; empty for a request of the caller's.
        runtime: What the application keeps between requests: breakers, caches, threads, side effects. Only to be read.
    """

    plan: Plan
    query: Query = attrs.field(repr=False)
    generation: int = 0
    inside: tuple[str, ...] = ()
    runtime: Runtime | None = attrs.field(default=None, repr=False)

    @property
    def pipeline(self) -> str:
        """The pipeline's name."""
        return self.plan.name

    def hide(self, text: str) -> str:
        """A text, such as that of an exception, as it may leave the process.

        The values are taken out that the spec takes from the environment, and those of features that closed a gate.
        """
        text = without_values(text)
        return text if self.runtime is None else self.runtime.secrets.hide(text)


@attrs.frozen(eq=False)
class CallInfo:
    """A call of a component that begins; one that a closed gate or an open circuit stops at once is one as well.

    Args:
        node: The component in its place.
        what: What of it is called.
        rows_in: The rows it is given.
        refill: The round of refilling after selection, from 1; 0 outside.
        instead_of: The component that it takes over from, if it does.
    """

    node: Node
    what: What = "call"
    rows_in: int = 0
    refill: int = 0
    instead_of: str = ""


class CallObserver:
    """Hears of one call. Override what you need; exactly one of the two methods is called, once."""

    def ended(self, entry: ComponentTrace, error: BaseException | None) -> None:
        """The call has ended.

        Args:
            entry: What happened: the record in the request's trace. The record of a `prepare`, or of a side effect that
                the response did not wait for, stands in no trace. A note may be added to it later.
            error: What the component raised, if it failed by itself.
        """

    def cancelled(self) -> None:
        """The call was cut off with its request, or because another component failed the request."""


class RequestObserver:
    """Hears of one request. Override what you need; exactly one of `finished`, `failed` and `cancelled` is called."""

    def component(self, call: CallInfo) -> CallObserver | None:
        """A call begins. A side effect may begin before the response is there and end after it."""
        return None

    def fallback(self, entry: ComponentTrace, by: str) -> None:
        """A component's call ended as `entry` says, and another one (`by`) takes over."""

    def refill(self, number: int, missing: int) -> None:
        """A round of refilling begins, because filters dropped rows after selection.

        Args:
            number: The round, from 1.
            missing: How many rows are missing.
        """

    def finished(self, outcome: Outcome) -> None:
        """The response is ready."""

    def failed(self, error: BaseException, trace: Trace) -> None:
        """The request failed; `trace` says what happened up to then."""

    def cancelled(self, trace: Trace) -> None:
        """Whoever made the request gave it up."""


class Observer(Protocol):
    """Sees every request of an application."""

    def request(self, request: RequestInfo) -> RequestObserver | None:
        """A request begins; what is to hear of it, if anything. Set no context variables here."""
