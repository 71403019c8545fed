"""Requests and component calls as OpenTelemetry spans; needs the extra `opentelemetry`."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Final

import attrs

from candidate_pipeline.engine.trace import ComponentTrace, Trace
from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.observe import CallInfo, CallObserver, RequestInfo, RequestObserver
from candidate_pipeline.outcome import Outcome

try:
    from opentelemetry import context as otel_context
    from opentelemetry import trace as otel
except ImportError as missing:
    raise MisconfigurationError(
        f"OpenTelemetryObserver needs the package opentelemetry-api ({missing}); "
        "install it with: pip install 'candidate-pipeline[opentelemetry]'"
    ) from missing

#: The name of a request's span; its attribute `candidate_pipeline.pipeline` says of which pipeline.
REQUEST_SPAN: Final = "candidate_pipeline.request"
_PREFIX: Final = "candidate_pipeline."


class OpenTelemetryObserver:
    """A span for each request, and one for each call of a component below it.

    A request's span, `candidate_pipeline.request`, is a child of the caller's current span. That of a component is
    named `stage.component`, that of its `prepare` `stage.component.prepare`; a request to a nested pipeline is a child
    of the component that it is. Within a component's own code its span is the current one, however it is called, so
    that spans which libraries make there become its children. A side effect's span begins with the request and covers
    all of its tries, after the response too.

    Attributes begin with `candidate_pipeline.`: `pipeline`, `request_id`, `config_hash`, `generation`, `seed`,
    `selected`, `why_short` of requests; `component`, `use`, `stage`, `fingerprint`, `status`, `rows_in`, `rows_out`,
    `cache_hits`, `cache_misses`, `breaker`, `refill`, `instead_of`, `fallback`, `note` of calls, without those that say
    nothing. A failure is recorded as an exception and marks the span as an error; so does a component that was skipped.
    No attribute holds a feature or a cell, but messages of exceptions are what components made them, without values
    that the spec takes from the environment.
    """

    def __init__(self, tracer_provider: otel.TracerProvider | None = None) -> None:
        """Make it.

        Args:
            tracer_provider: Where spans go; default: the global one.
        """
        self._tracer = otel.get_tracer("candidate_pipeline", tracer_provider=tracer_provider)

    def request(self, request: RequestInfo) -> RequestObserver:
        """A request begins."""
        plan, query = request.plan, request.query
        above = otel_context.get_current()
        span = self._tracer.start_span(
            REQUEST_SPAN,
            above,
            attributes=_attributes(
                pipeline=plan.name,
                request_id=query.request_id,
                config_hash=plan.config_hash,
                generation=request.generation,
                seed=query.seed,
            ),
        )
        return _RequestSpan(self._tracer, span, otel.set_span_in_context(span, above), request)


@attrs.frozen(eq=False)
class _RequestSpan(RequestObserver):
    tracer: otel.Tracer
    span: otel.Span
    context: otel_context.Context
    request: RequestInfo

    def component(self, call: CallInfo) -> CallObserver:
        node = call.node
        name = f"{node.stage}.{node.name}"
        span = self.tracer.start_span(
            f"{name}.prepare" if call.what == "prepare" else name,
            self.context,
            attributes=_attributes(
                component=node.name,
                use=node.use,
                stage=node.stage,
                fingerprint=node.fingerprint,
                refill=call.refill or None,
                instead_of=call.instead_of,
            ),
        )
        otel_context.attach(otel.set_span_in_context(span, self.context))  # of the call's own context, which ends
        return _CallSpan(span, self.request)

    def fallback(self, entry: ComponentTrace, by: str) -> None:
        self.span.add_event(
            "fallback", _attributes(component=entry.component, by=by, error=self.request.hide(entry.error))
        )

    def refill(self, number: int, missing: int) -> None:
        self.span.add_event("refill", {f"{_PREFIX}round": number, f"{_PREFIX}missing": missing})

    def finished(self, outcome: Outcome) -> None:
        self.span.set_attribute(f"{_PREFIX}status", "ok")
        self.span.set_attribute(f"{_PREFIX}selected", len(outcome.selected))
        self.span.set_attributes(_attributes(why_short=self.request.hide(outcome.trace.why_short())))
        self.span.end()

    def failed(self, error: BaseException, trace: Trace) -> None:
        self.span.set_attributes(_attributes(status="failed", component=getattr(error, "component", "")))
        _failed(self.request, self.span, error, self.request.hide(str(error)))
        self.span.end()

    def cancelled(self, trace: Trace) -> None:
        self.span.set_attribute(f"{_PREFIX}status", "cancelled")
        self.span.end()


@attrs.frozen(eq=False)
class _CallSpan(CallObserver):
    span: otel.Span
    request: RequestInfo

    def ended(self, entry: ComponentTrace, error: BaseException | None) -> None:
        span = self.span
        if span.is_recording():
            span.set_attributes(
                {
                    f"{_PREFIX}status": entry.status,
                    f"{_PREFIX}rows_in": entry.rows_in,
                    f"{_PREFIX}rows_out": entry.rows_out,
                }
            )
            span.set_attributes(_attributes(breaker=entry.breaker, fallback=entry.by, note=entry.note))
            if entry.cache_hits or entry.cache_misses:
                span.set_attribute(f"{_PREFIX}cache_hits", entry.cache_hits)
                span.set_attribute(f"{_PREFIX}cache_misses", entry.cache_misses)
            if entry.status == "closed":
                span.set_attribute(f"{_PREFIX}closed_by", self.request.hide(entry.error))
            elif entry.status != "ok":
                _failed(self.request, span, error, self.request.hide(entry.error))
        span.end()

    def cancelled(self) -> None:
        self.span.set_attribute(f"{_PREFIX}status", "cancelled")
        self.span.end()


def _failed(request: RequestInfo, span: otel.Span, error: BaseException | None, why: str) -> None:
    if error is not None:
        told = "".join(traceback.format_exception(error))
        # What is given here is taken instead of what the library would read off the exception.
        shown = {"exception.message": request.hide(str(error)), "exception.stacktrace": request.hide(told)}
        span.record_exception(error, shown)
    span.set_status(otel.Status(otel.StatusCode.ERROR, why))


def _attributes(**values: str | int | None) -> Mapping[str, str | int]:
    """Attributes with the common prefix, without those that say nothing."""
    return {_PREFIX + name: value for name, value in values.items() if value is not None and value != ""}
