"""Recording a request: what every component was asked and answered, kept in memory until it is written down.

Tables and patches are immutable, so nothing is copied here; what a capture holds of them is worked out after the
response, in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import attrs

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.engine.plan import Node, Plan
from candidate_pipeline.query import Query

#: The kinds whose answers are recorded. The answers of the others follow from theirs.
ANSWERING: Final = frozenset({"query_hydrator", "source", "hydrator", "scorer"})


@attrs.frozen(eq=False)
class Call:
    """One call of a component.

    Args:
        query: The query it was given.
        table: The rows it was given, if its kind is given any.
        refill: The round of refilling after selection, from 1; 0 outside.
        value: What it returned, checked; `None` if it failed.
        error: Why it failed; `None` if it did not.
        late: Whether its time ran out.
        outside: Whether what it failed for was not its own doing: time, an open circuit, threads that were all taken.
    """

    query: Query
    table: Candidates | None
    refill: int
    value: Any = None
    error: str | None = None
    late: bool = False
    outside: bool = False


@attrs.define(eq=False)
class Recorder:
    """What is recorded of one request.

    Args:
        plan: The pipeline.
        query: The query as it came.
        calls: By the component's number, its calls in order.
        inner: By the component's number, what is recorded of nested pipelines.
    """

    plan: Plan
    query: Query
    calls: dict[int, list[Call]] = attrs.field(factory=dict)
    inner: dict[int, Recorder] = attrs.field(factory=dict)

    def answered(self, node: Node, query: Query, args: tuple[Any, ...], refill: int, value: Any) -> None:
        """Keep an answer that was found to be what the component's kind demands."""
        if node.kind in ANSWERING:
            self._add(node, Call(query, args[0] if args else None, refill, value))

    def failed(
        self,
        node: Node,
        query: Query,
        args: tuple[Any, ...],
        refill: int,
        error: str,
        *,
        late: bool = False,
        outside: bool = False,
    ) -> None:
        """Keep a failure."""
        if node.kind in ANSWERING or outside:
            self._add(node, Call(query, args[0] if args else None, refill, None, error, late, outside))

    def inside(self, node: Node, plan: Plan, query: Query) -> Recorder:
        """What records the nested pipeline of a component."""
        recorder = self.inner[node.index] = Recorder(plan, query)
        return recorder

    def _add(self, node: Node, call: Call) -> None:
        self.calls.setdefault(node.index, []).append(call)


def places_of(plan: Plan) -> dict[int, str]:
    """By its number, where a component stands: `"stage/name"`, what takes over from it `"stage/name>spare"`."""
    places: dict[int, str] = {}

    def walk(node: Node, place: str) -> None:
        if node.index not in places:
            places[node.index] = place
            for spare in node.fallbacks:
                walk(spare, f"{place}>{spare.name}")

    for node in listed(plan):
        walk(node, f"{node.stage}/{node.name}")
    return places


def listed(plan: Plan) -> Iterator[Node]:
    """The components of a plan's stages in running order, then what tops up; no fallbacks."""
    for phases in plan.phases.values():
        for phase in phases:
            yield from phase
    if plan.top_up is not None:
        yield plan.top_up
