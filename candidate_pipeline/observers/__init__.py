"""Observers for OpenTelemetry, Prometheus and structured logs.

Each is a module of its own, so that nobody imports a client library that they do not use::

    from candidate_pipeline.observers.log import RequestLog
    from candidate_pipeline.observers.opentelemetry import OpenTelemetryObserver
    from candidate_pipeline.observers.prometheus import PrometheusObserver
"""
