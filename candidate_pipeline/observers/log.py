"""One structured log line a request."""

from __future__ import annotations

from typing import Any

import attrs
import structlog

from candidate_pipeline.engine.trace import ComponentTrace, Trace
from candidate_pipeline.errors import CandidatePipelineError
from candidate_pipeline.observe import RequestInfo, RequestObserver
from candidate_pipeline.outcome import Outcome

#: The name of the logger, for filters.
LOGGER = "candidate_pipeline.requests"


@attrs.frozen
class RequestLog:
    """Logs one line a request with structlog: event `request`, at level `info`, and `error` if it failed.

    It says `pipeline`, `request_id`, `config_hash`, `generation`, `status` (`ok`, `failed`, `cancelled`), `elapsed_ms`,
    `fetched` (rows from sources), `dropped` (rows, by filter) and `selected` (rows). Where there is something to say it
    says `skipped` (components that failed, and why), `fallbacks` (what took over, by component), `refills`,
    `why_short`, `slowest` (the component that took longest) and its `slowest_ms`; and of failures `error`,
    `error_type` and `component`.

    No line holds a feature or a cell, but the messages of errors are what components made them, without values that the
    spec takes from the environment. A nested pipeline has no line of its own.

    Args:
        logger: Where to; default: structlog's logger `candidate_pipeline.requests`.
    """

    logger: Any = attrs.field(factory=lambda: structlog.get_logger(LOGGER), repr=False)

    def request(self, request: RequestInfo) -> RequestObserver | None:
        """A request begins."""
        return None if request.inside else _Line(self.logger, request)


@attrs.frozen(eq=False)
class _Line(RequestObserver):
    logger: Any
    request: RequestInfo

    def finished(self, outcome: Outcome) -> None:
        self.logger.info("request", status="ok", **facts(outcome.trace, self.request))

    def failed(self, error: BaseException, trace: Trace) -> None:
        message = self.request.hide(str(error) if isinstance(error, CandidatePipelineError) else repr(error))
        found = {"error": message, "error_type": type(error).__name__}
        if component := getattr(error, "component", ""):
            found["component"] = component
        self.logger.error("request", status="failed", **facts(trace, self.request), **found)

    def cancelled(self, trace: Trace) -> None:
        self.logger.info("request", status="cancelled", **facts(trace, self.request))


def facts(trace: Trace, request: RequestInfo) -> dict[str, Any]:
    """What a line says about a request's trace."""
    said: dict[str, Any] = {
        "pipeline": trace.pipeline,
        "request_id": trace.request_id,
        "config_hash": trace.config_hash,
        "generation": trace.generation,
        "elapsed_ms": round(trace.elapsed_ms, 3),
        "fetched": trace.fetched,
        "dropped": trace.dropped,
        "selected": trace.selected,
    }
    if skipped := {entry.component: request.hide(entry.error) for entry in trace if entry.status == "skipped"}:
        said["skipped"] = skipped
    if fallbacks := {entry.component: entry.by for entry in trace if entry.status == "fallback"}:
        said["fallbacks"] = fallbacks
    if refills := max((entry.refill for entry in trace), default=0):
        said["refills"] = refills
    if why := trace.why_short():
        said["why_short"] = request.hide(why)
    if len(trace):
        slowest = max(trace, key=_took)
        said |= {"slowest": slowest.component, "slowest_ms": round(slowest.elapsed_ms, 3)}
    return said


def _took(entry: ComponentTrace) -> float:
    return entry.elapsed_ms
