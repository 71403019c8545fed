"""The pipeline of 40 components, watched: what a log line, metrics, spans and a capture of every request add."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog
from engine_ways import World, forty
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry

from candidate_pipeline import App, Captures
from candidate_pipeline.observers.log import RequestLog
from candidate_pipeline.observers.opentelemetry import OpenTelemetryObserver
from candidate_pipeline.observers.prometheus import PrometheusObserver


class _Nowhere(SpanExporter):
    """Takes spans and sends them nowhere: what sending costs is the exporter's business."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def _logger() -> structlog.typing.FilteringBoundLogger:
    """A logger that renders lines as JSON, as a service would, and drops them."""
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.ReturnLogger(),
        processors=[structlog.processors.TimeStamper(fmt="iso"), structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )
    return logger


def watched(world: World, folder: Path) -> dict[str, App]:
    """The pipeline by what watches it.

    Args:
        world: What it ranks.
        folder: Where captures go.
    """
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(_Nowhere()))
    return {
        "nothing": forty(world),
        "log line": forty(world, [RequestLog(_logger())]),
        "Prometheus": forty(world, [PrometheusObserver(CollectorRegistry())]),
        "OpenTelemetry": forty(world, [OpenTelemetryObserver(provider)]),
        "capture of every request": forty(world, captures=Captures(folder, sample=1.0, max_pending=1_000_000)),
    }
