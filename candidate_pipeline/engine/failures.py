"""What failures are called, and which of them are whose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from candidate_pipeline.engine.breaker import CircuitOpenError
from candidate_pipeline.engine.gates import why_closed
from candidate_pipeline.engine.plan import Node
from candidate_pipeline.engine.threads import FullError
from candidate_pipeline.errors import (
    AbsentFeatureError,
    CandidatePipelineError,
    FailedFeatureError,
    MisconfigurationError,
    MissingColumnError,
    RequestError,
    SafetyError,
)
from candidate_pipeline.query import Query

if TYPE_CHECKING:
    from candidate_pipeline.engine.calls import Calls
    from candidate_pipeline.engine.trace import ComponentTrace

#: Two of the loop's instants nearer to each other than this are one, in seconds.
_SLACK: Final = 1e-6


class TimedOutError(Exception):
    """The engine's own limit ran out, as against a `TimeoutError` that a component met; its text says more, if any."""


class NestedError(Exception):
    """A nested pipeline failed, which is the failure of the source that it is in the outer one.

    Args:
        message: What happened.
        trace: What happened inside.
    """

    def __init__(self, message: str, trace: Sequence[ComponentTrace] = ()) -> None:
        super().__init__(message)
        self.trace = trace


@attrs.define
class Degraded:
    """A cached component's answer.

    Args:
        value: What it returned, from the cache or not.
        hits: Rows (or 1) that came from the cache.
        misses: Rows (or 1) that did not.
        error: What kept it from answering for the rows that are marked as failed.
        kept: Rows that were found in spite of the error, in the cache or by another request.
    """

    value: Any
    hits: int
    misses: int
    error: BaseException | None = None
    kept: int = 0


def failed_feature(node: Node, query: Query) -> str | None:
    """Why a component cannot run on a query: a feature it reads failed.

    A declared default stands in for a failed feature, but not in a safety filter: an empty default of a block list
    that could not be read would let everything pass.
    """
    for feature in node.features:
        if feature in query.failed and (node.safety or not feature.has_default):
            return f"query feature {feature.name} failed: {query.failed[feature]}"
    return None


def _failed_gate(node: Node, query: Query) -> str | None:
    """Why a component's gate cannot be tested: a feature failed. A default does not say whether one is present."""
    for gate in node.gates:
        feature = gate.feature
        if feature in query.failed and (node.safety or gate.operator == "present" or not feature.has_default):
            return f"query feature {feature.name} failed: {query.failed[feature]}"
    return None


def obstacle(node: Node, query: Query) -> tuple[Literal["failed", "closed"], str] | None:
    """What keeps a component from running on a query, and why: a closed gate, or a feature that failed.

    What does not run needs nothing, so features that a closed gate keeps from being read may have failed.
    """
    if node.gates:
        if query.failed and (why := _failed_gate(node, query)) is not None:
            return "failed", why
        try:
            closed = why_closed(node.gates, query)
        except Exception as error:  # a value of a plugin's own type may answer a comparison with anything
            return "failed", f"its gate cannot be tested: {type(error).__name__}: {error}"
        if closed is not None:
            return "closed", closed
    if query.failed and (why := failed_feature(node, query)) is not None:
        return "failed", why
    return None


def undeclared_read(node: Node, error: BaseException) -> MisconfigurationError | None:
    """The mistake behind a component's failure, if it read a key that is not there and that it does not declare.

    A declared default does not make a feature be there: see `Query.__getitem__`.
    """
    if isinstance(error, MissingColumnError):
        undeclared = error.column is not None and error.column not in node.columns
    elif isinstance(error, AbsentFeatureError | FailedFeatureError):
        undeclared = error.feature is not None and error.feature not in node.features
    else:
        return None
    if not undeclared:
        return None
    mistake = MisconfigurationError(f"{node.name} ({node.use}) reads what its `reads` does not declare: {error}")
    mistake.__cause__ = error
    return mistake


def why_failed(error: BaseException, calls: Calls, started: float) -> str:
    """Why a call failed, in a line without secrets."""
    return calls.runtime.secrets.hide(_why_failed(error, calls, started))


def _why_failed(error: BaseException, calls: Calls, started: float) -> str:
    if isinstance(error, TimedOutError):
        if str(error):
            return str(error)
        now = calls.loop.time()
        late = ""
        if calls.deadline is not None and now + _SLACK >= calls.deadline:
            late = " (the deadline of the request)"
        elif calls.stage_end is not None and now + _SLACK >= calls.stage_end:
            late = " (the budget of the stage)"
        return f"timed out after {(now - started) * 1000:.0f} ms{late}"
    if isinstance(error, CandidatePipelineError | CircuitOpenError | FullError | NestedError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def failure(node: Node, pipeline: str, why: str, instead_of: str) -> RequestError:
    """The error of a request that a component's failure ends."""
    what = f"{node.kind.replace('_', ' ')} {node.name} ({node.use}{', ' + node.origin if node.origin else ''})"
    message = f"pipeline {pipeline!r}: {what} failed: {why}"
    if instead_of:
        message += f"; it stood in for {instead_of}"
    error = RequestError(message)
    if node.safety:
        error = SafetyError(f"{message}. It is a safety filter, so the request fails rather than skip it")
    error.component = node.name
    return error
