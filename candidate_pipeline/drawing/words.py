"""What a drawing says of pipelines, stages and components.

Operands of conditions and values of options stay out: they may come from the environment, which nothing may print.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from candidate_pipeline.engine.plan import Node, Place, Plan
from candidate_pipeline.options import format_duration
from candidate_pipeline.spec.model import FALLBACK

#: What each mark means, for legends and documentation.
MARKS: Final = {
    "blocking": "runs in a thread",
    "async": "runs on the event loop and waits without holding it",
    "prepares": "begins beside the sources",
    "cached": "its answers are kept for later requests",
    "breaker": "left alone while it keeps failing",
    "gated": "runs under a condition on the query",
    "safety": "fails closed",
    "listwise": "sees live rows only, for its answer on one depends on the others",
    "sync": "the response waits for it",
    "fallback": "runs in place of another that failed",
}


def marks(member: Node) -> tuple[str, ...]:
    """How a component runs, in the words of `MARKS`; being a fallback is added by who finds it to be one."""
    found = {
        "blocking": member.mode == "thread",
        "async": member.mode == "async" and member.inner is None,
        "prepares": member.prepare is not None,
        "cached": member.cache is not None,
        "breaker": member.breaker is not None,
        "gated": bool(member.gates),
        "safety": member.safety,
        "listwise": member.listwise,
        "sync": member.sync,
    }
    return tuple(mark for mark, there in found.items() if there)


def notes(member: Node) -> tuple[str, ...]:
    """A component's times, and what its gate looks at."""
    found = []
    if member.timeout is not None:
        found.append(f"timeout {seconds_text(member.timeout)}")
    if member.cache is not None:
        found.append(f"kept for {seconds_text(member.cache.ttl_ms / 1000)}")
    if member.gates:
        found.append(f"depends on {', '.join(dict.fromkeys(gate.feature.name for gate in member.gates))}")
    return tuple(found)


def pipeline_notes(plan: Plan) -> tuple[str, ...]:
    """A pipeline's deadline and, unless they are the usual ones, its semantics."""
    deadline = () if plan.deadline is None else (f"deadline {seconds_text(plan.deadline)}",)
    return deadline if plan.semantics == "strict" else (*deadline, f"{plan.semantics} semantics")


def stage_notes(plan: Plan, stage: Place) -> tuple[str, ...]:
    """A stage's budget, and when it runs if that is not in its turn."""
    found, budget = [], plan.budgets.get(stage)
    if budget is not None and budget.timeout is not None:
        found.append(f"timeout {seconds_text(budget.timeout)}")
    if budget is not None and budget.reserve:
        found.append(f"ends {seconds_text(budget.reserve)} before the deadline")
    if stage == "post_selection_filters" and plan.max_refills and plan.semantics == "strict":
        found.append(f"refilled up to {plan.max_refills} times")
    if stage == "side_effects":
        found.append("after the response")
    return tuple(found)


def policy(otherwise: str, fallback: Node | None) -> str:
    """What a failure does, as a spec says it."""
    return otherwise if fallback is None else f"{FALLBACK}{fallback.name}"


def seconds_text(seconds: float) -> str:
    """A duration."""
    return format_duration(dt.timedelta(seconds=seconds))
