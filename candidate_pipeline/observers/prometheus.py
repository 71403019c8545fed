"""Requests and component calls as Prometheus metrics; needs the extra `prometheus`."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from candidate_pipeline.engine.background import DroppedError
from candidate_pipeline.engine.runtime import Runtime
from candidate_pipeline.engine.trace import ComponentTrace, Trace
from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.observe import CallInfo, CallObserver, RequestInfo, RequestObserver
from candidate_pipeline.outcome import Outcome
from candidate_pipeline.reloading.live import Reload

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.core import GaugeMetricFamily
except ImportError as missing:
    raise MisconfigurationError(
        f"PrometheusObserver needs the package prometheus-client ({missing}); "
        "install it with: pip install 'candidate-pipeline[prometheus]'"
    ) from missing

#: Upper bounds of the times that are told apart, in seconds: a component may take microseconds, a request seconds.
BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_BREAKER: Final = {"": 0, "half-open": 1, "open": 2}
_FILTERS: Final = ("filters", "post_selection_filters")


class PrometheusObserver:
    """Counts and times requests and component calls.

    All names begin with `candidate_pipeline_`; docs/insight.md lists them. Labels are names that the spec gives
    (pipelines, stages, components), statuses, the config hash and the generation: never an item, a viewer or a request.
    What concerns calls comes from the traces, so that the two agree. A nested pipeline counts as a request of its own,
    with `nested="true"`.
    """

    def __init__(self, registry: CollectorRegistry | None = None, buckets: Sequence[float] = BUCKETS) -> None:
        """Register the metrics.

        Args:
            registry: Where; default: the client library's own.
            buckets: Upper bounds of the histograms' times, in seconds.

        Raises:
            MisconfigurationError: The registry has the metrics of another observer already.
        """
        registry = REGISTRY if registry is None else registry
        try:
            self._metrics = _Metrics(registry, tuple(buckets))
        except ValueError as error:
            raise MisconfigurationError(
                f"PrometheusObserver: {error}; make one observer, and give it to all applications of the process"
            ) from error
        self._runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()
        self._served: dict[str, tuple[int, int, str]] = {}
        self._lock = threading.Lock()
        registry.register(self)

    def request(self, request: RequestInfo) -> RequestObserver:
        """A request begins."""
        if request.runtime is not None and request.runtime not in self._runtimes:
            with self._lock:  # a scrape reads them in another thread
                self._runtimes.add(request.runtime)
        made = -1 if request.runtime is None else request.runtime.number
        self._configured(request.pipeline, made, request.generation, request.plan.config_hash)
        return _Request(self._metrics, request)

    def reloaded(self, reload: Reload) -> None:
        """A live application has read its config."""
        status = "failed" if reload.error is not None else "changed" if reload.changed else "unchanged"
        self._metrics.reloads.labels(status).inc()
        self._metrics.refused.set(status == "failed")

    def _configured(self, pipeline: str, made: int, generation: int, config_hash: str) -> None:
        """Say which configuration a pipeline has; it changes when the application is reloaded, or opened anew."""
        serving = (made, generation, config_hash)
        if self._served.get(pipeline) == serving:
            return
        with self._lock:
            before = self._served.get(pipeline)
            if before is not None and before[:2] > serving[:2]:
                return  # a late request to what has been replaced
            self._served[pipeline] = serving
            if before is not None:
                self._metrics.config.remove(pipeline, before[2], str(before[1]))
            self._metrics.config.labels(pipeline, config_hash, str(generation)).set(1)
            self._metrics.generation.labels(pipeline).set(generation)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What is read when the metrics are: the threads that abandoned calls hold now."""
        family = GaugeMetricFamily(
            "candidate_pipeline_abandoned_calls",
            "Calls of blocking components that outlived their timeout and still hold a thread.",
            labels=("pipeline", "component"),
        )
        held: dict[tuple[str, str], dict[int, int]] = {}
        with self._lock:
            runtimes = list(self._runtimes)
        for runtime in runtimes:
            for plan, state in runtime.states().items():
                for node, pool in zip(plan.nodes, state.pools, strict=True):
                    if pool is not None:  # after a reload several runtimes may share it
                        held.setdefault((plan.name, node.name), {})[id(pool)] = pool.counts.abandoned
        for labels, counts in sorted(held.items()):
            family.add_metric(labels, sum(counts.values()))
        yield family
        tasks = sum(runtime.abandoned for runtime in runtimes)
        yield GaugeMetricFamily(
            "candidate_pipeline_abandoned_tasks", "Cancelled calls that have not ended yet.", value=tasks
        )


class _Metrics:
    """All metrics of one observer."""

    def __init__(self, registry: CollectorRegistry, buckets: tuple[float, ...]) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"candidate_pipeline_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"candidate_pipeline_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"candidate_pipeline_{name}", text, labels, registry=registry, buckets=buckets)

        of_component, of_effect = ("pipeline", "stage", "component"), ("pipeline", "component")
        self.requests = counter("requests", "Requests by how they ended.", "pipeline", "nested", "status")
        self.seconds = histogram("request_seconds", "How long requests took.", "pipeline", "nested")
        self.short = counter("short_responses", "Responses with fewer rows than asked for.", "pipeline")
        self.refills = counter("refills", "Rounds of refilling after selection.", "pipeline")
        self.top_ups = counter("top_ups", "Requests to the pipeline that fills short responses.", "pipeline", "status")
        self.calls = counter("component_calls", "Calls of components by how they ended.", *of_component, "status")
        self.component_seconds = histogram("component_seconds", "How long calls of components took.", *of_component)
        self.rows_in = counter("component_rows_in", "Rows given to components.", *of_component)
        self.rows_out = counter("component_rows_out", "Rows that components returned, kept or wrote.", *of_component)
        self.dropped = counter("filter_dropped_rows", "Rows that filters dropped.", *of_component)
        self.hits = counter("cache_hits", "Rows, or whole answers, that came from a component's cache.", *of_component)
        self.misses = counter("cache_misses", "Rows, or whole answers, that did not.", *of_component)
        self.breaker = gauge("breaker_state", "At the last call: 0 closed, 1 half-open, 2 open.", *of_component)
        self.effects = counter("side_effects", "Runs of side effects by how they ended.", *of_effect, "status")
        self.pending = gauge("side_effects_pending", "Runs of side effects that wait or run.", *of_effect)
        self.config = gauge("config_info", "Which configuration answers.", "pipeline", "config_hash", "generation")
        self.generation = gauge("generation", "How often the application was reloaded.", "pipeline")
        self.reloads = counter("reloads", "Reads of the config of a live application by what came of them.", "status")
        self.refused = gauge("config_refused", "Whether the newest config cannot be used, so that an older one serves.")
        self._always: dict[tuple[str, str, str], tuple[Histogram, Counter, Counter]] = {}

    def called(self, pipeline: str, entry: ComponentTrace, *, breaker: bool) -> None:
        """Count a call of a component."""
        key = (pipeline, entry.stage, entry.component)
        always = self._always.get(key)
        if always is None:
            always = (self.component_seconds.labels(*key), self.rows_in.labels(*key), self.rows_out.labels(*key))
            self._always[key] = always
        seconds, rows_in, rows_out = always
        seconds.observe(entry.elapsed_ms / 1000)
        rows_in.inc(entry.rows_in)
        rows_out.inc(entry.rows_out)
        self.calls.labels(*key, entry.status).inc()
        if entry.stage in _FILTERS:
            self.dropped.labels(*key).inc(entry.rows_in - entry.rows_out)
        if entry.cache_hits or entry.cache_misses:
            self.hits.labels(*key).inc(entry.cache_hits)
            self.misses.labels(*key).inc(entry.cache_misses)
        if breaker:
            self.breaker.labels(*key).set(_BREAKER[entry.breaker])


@attrs.frozen(eq=False)
class _Request(RequestObserver):
    metrics: _Metrics
    info: RequestInfo

    def component(self, call: CallInfo) -> CallObserver | None:
        if call.what != "side_effect":
            return None
        key = (self.info.pipeline, call.node.name)
        self.metrics.pending.labels(*key).inc()
        return _Effect(self.metrics, key)

    def refill(self, number: int, missing: int) -> None:
        self.metrics.refills.labels(self.info.pipeline).inc()

    def finished(self, outcome: Outcome) -> None:
        if outcome.trace.why_short():
            self.metrics.short.labels(self.info.pipeline).inc()
        self._over("ok", outcome.trace)

    def failed(self, error: BaseException, trace: Trace) -> None:
        self._over("failed", trace)

    def cancelled(self, trace: Trace) -> None:
        self._over("cancelled", trace)

    def _over(self, status: str, trace: Trace) -> None:
        metrics, pipeline = self.metrics, self.info.pipeline
        nested = "true" if self.info.inside else "false"
        metrics.requests.labels(pipeline, nested, status).inc()
        metrics.seconds.labels(pipeline, nested).observe(trace.elapsed_ms / 1000)
        guarded = {(node.stage, node.name) for node in self.info.plan.nodes if node.breaker is not None}
        for entry in trace:
            metrics.called(pipeline, entry, breaker=(entry.stage, entry.component) in guarded)
            if entry.stage == "top_up":
                metrics.top_ups.labels(pipeline, entry.status).inc()


@attrs.define(eq=False)
class _Effect(CallObserver):
    metrics: _Metrics
    key: tuple[str, str]

    def ended(self, entry: ComponentTrace, error: BaseException | None) -> None:
        if isinstance(error, DroppedError):
            status = "dropped"
        else:
            status = {"ok": "done", "closed": "closed"}.get(entry.status, "failed")
        self._over(status)

    def cancelled(self) -> None:
        self._over("lost")

    def _over(self, status: str) -> None:
        self.metrics.pending.labels(*self.key).dec()
        self.metrics.effects.labels(*self.key, status).inc()
