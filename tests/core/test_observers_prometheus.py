"""Metrics, read back through the Prometheus client library."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import attrs
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from toys import CLOSED, INPUTS, REQUEST, TTL, best_first, broken, hanging, later_rows, rows, seconds, until
from watched import Heard, chaotic

from candidate_pipeline import (
    App,
    BreakerPolicy,
    MisconfigurationError,
    NestedPipeline,
    RequestError,
    RunPolicy,
    compose,
)
from candidate_pipeline.observers.prometheus import PrometheusObserver
from candidate_pipeline.testing import run_in_virtual_time

pytestmark = pytest.mark.filterwarnings("error")


@attrs.define
class Metrics:
    """An observer, and what a scrape of its registry reads."""

    registry: CollectorRegistry = attrs.field(factory=CollectorRegistry)
    observer: PrometheusObserver = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.observer = PrometheusObserver(self.registry)

    def read(self, name: str, by: tuple[str, ...] = ()) -> Counter[Any]:
        """The samples of a name, summed over all labels but some; a label's value, or the tuple of several."""
        found: Counter[Any] = Counter()
        for family in text_string_to_metric_families(generate_latest(self.registry).decode()):
            for sample in family.samples:
                if sample.name == f"candidate_pipeline_{name}":
                    key = tuple(sample.labels[label] for label in by)
                    found[key if len(by) > 1 else "".join(key)] += sample.value  # type: ignore[assignment]  # a float
        return found

    def served(self, make: Any, requests: int = 1, request: Any = None, **given: Any) -> list[Any]:
        """What came of requests to a toy pipeline, one after another, after all side effects."""
        stages = {"sources": [make("source", rows(1, 2, 3), "source")], "selector": make("selector", best_first, "top")}
        app = compose("toy", **(stages | given), observers=[self.observer])

        async def serve() -> list[Any]:
            async with app:
                return [
                    (await asyncio.gather(app["toy"].run(**(request or {})), return_exceptions=True))[0]
                    for _ in range(requests)
                ]

        return run_in_virtual_time(serve())


@pytest.fixture
def metrics() -> Metrics:
    """Metrics of the test."""
    return Metrics()


def test_metrics_are_what_the_traces_say() -> None:
    """Over requests that go wrong in every way, each metric is the sum over the traces."""
    metrics, heard = Metrics(), Heard()
    with capture_logs():
        _, app = chaotic([heard, metrics.observer], requests=300, seed=7)
    ends = [(request.info, *request.ends[0]) for request in heard.requests]
    assert metrics.read("requests_total", ("pipeline", "nested", "status")) == Counter(
        (info.pipeline, "true" if info.inside else "false", status) for info, status, _ in ends
    )
    assert metrics.read("request_seconds_count", ("pipeline",)) == Counter(info.pipeline for info, *_ in ends)
    calls = [(trace.pipeline, entry) for _, _, trace in ends for entry in trace]
    by = ("pipeline", "stage", "component", "status")
    assert metrics.read("component_calls_total", by) == Counter(
        (pipeline, entry.stage, entry.component, entry.status) for pipeline, entry in calls
    )

    def summed(value: Any) -> Counter[Any]:
        found: Counter[Any] = Counter()
        for pipeline, entry in calls:
            found[pipeline, entry.stage, entry.component] += value(entry)
        return found

    for name, value in {
        "component_seconds_count": lambda entry: 1,
        "component_rows_in_total": lambda entry: entry.rows_in,
        "component_rows_out_total": lambda entry: entry.rows_out,
        "filter_dropped_rows_total": lambda e: e.rows_in - e.rows_out if e.stage.endswith("filters") else 0,
        "cache_hits_total": lambda entry: entry.cache_hits,
        "cache_misses_total": lambda entry: entry.cache_misses,
    }.items():
        assert +metrics.read(name, by[:3]) == +summed(value), name
    took, spent = summed(lambda entry: entry.elapsed_ms / 1000), metrics.read("component_seconds_sum", by[:3])
    assert {key: pytest.approx(value) for key, value in took.items()} == spent
    refills = Counter(
        request.info.pipeline for request in heard.requests for event in request.events if event[0] == "refill"
    )
    assert metrics.read("refills_total", ("pipeline",)) == refills
    top_ups = Counter(entry.status for _, entry in calls if entry.stage == "top_up")
    assert metrics.read("top_ups_total", ("status",)) == top_ups
    short = Counter(trace.pipeline for _, status, trace in ends if status == "ok" and trace.why_short())
    assert +metrics.read("short_responses_total", ("pipeline",)) == short
    assert min(refills.total(), top_ups["ok"], short.total(), metrics.read("cache_hits_total").total()) > 0
    assert app["main"].plan.config_hash in metrics.read("config_info", ("config_hash",))


def test_side_effects_are_what_the_engine_counted() -> None:
    """Done, failed, dropped and lost runs are those that the application counts, and none is pending in the end."""
    metrics = Metrics()
    kept: list[Any] = []

    class Keep:
        def request(self, request: Any) -> None:
            kept[:] = [request.runtime.background]

    with capture_logs():
        chaotic([metrics.observer, Keep()], requests=400, seed=3, at_once=16)
    found = metrics.read("side_effects_total", ("component", "status"))
    for name, counts in kept[0].counts().items():
        for status in ("done", "failed", "dropped", "lost"):
            assert found[name, status] == getattr(counts, status), (name, status)
        assert counts.pending == 0
    assert {status for _, status in found} >= {"done", "failed", "dropped"}
    assert not +metrics.read("side_effects_pending")


def test_pending_side_effects_are_seen(make: Any, metrics: Metrics) -> None:
    """While side effects run, the gauge says how many."""
    app = compose(
        "toy",
        sources=[make("source", rows(1), "source")],
        selector=make("selector", best_first, "top"),
        side_effects=[make("side_effect", lambda *_: asyncio.sleep(5), "tell")],
        observers=[metrics.observer],
    )

    async def main() -> Counter[Any]:
        async with app:
            for _ in range(3):
                await app["toy"].run()
            return metrics.read("side_effects_pending", ("component",))

    assert run_in_virtual_time(main()) == {"tell": 3}
    assert metrics.read("side_effects_pending", ("component",)) == {"tell": 0}
    assert metrics.read("side_effects_total", ("component", "status")) == {("tell", "done"): 3}


def test_failed_and_cancelled_requests(make: Any, metrics: Metrics) -> None:
    """They are counted by how they ended, and timed."""
    (error,) = metrics.served(make, selector=make("selector", broken, "top"))
    assert isinstance(error, RequestError)

    async def main() -> None:
        app = compose(
            "toy",
            sources=[make("source", hanging, "slow")],
            selector=make("selector", best_first, "top"),
            observers=[metrics.observer],
        )
        async with app:
            task = asyncio.create_task(app["toy"].run())
            await asyncio.sleep(2)
            task.cancel()
            await asyncio.wait([task])

    run_in_virtual_time(main())
    assert metrics.read("requests_total", ("status",)) == {"failed": 1, "cancelled": 1}
    assert metrics.read("request_seconds_sum")[""] == pytest.approx(2)


def test_caches_and_gates(make: Any, metrics: Metrics) -> None:
    """A closed gate is a call with that status; caches count hits and misses."""
    sources = [make("source", later_rows(1), "shelf"), make("source", rows(2), "gated")]
    run = {"shelf": RunPolicy(cache=TTL), "gated": CLOSED}
    metrics.served(make, 3, REQUEST, sources=sources, run=run, inputs=INPUTS)
    assert metrics.read("component_calls_total", ("component", "status"))["gated", "closed"] == 3
    assert metrics.read("cache_hits_total", ("component",)) == {"shelf": 2}
    assert metrics.read("cache_misses_total", ("component",)) == {"shelf": 1}


def test_breakers(make: Any, metrics: Metrics) -> None:
    """The gauge of a component with a breaker follows its circuit; others have none."""
    sources = [make("source", broken, "bad"), make("source", rows(1), "good")]
    run = {"bad": RunPolicy(breaker=BreakerPolicy(min_calls=2, failure_rate=0.5))}
    metrics.served(make, 1, sources=sources, run=run)
    assert metrics.read("breaker_state", ("component",)) == {"bad": 0}
    metrics.served(make, 2, sources=sources, run=run)
    assert metrics.read("breaker_state", ("component",)) == {"bad": 2}


def test_abandoned_calls_are_seen_while_they_hold_a_thread(make: Any, metrics: Metrics) -> None:
    """A blocking call that outlives its timeout counts until it ends by itself."""
    ended = threading.Event()

    def stuck(query: Any, ctx: Any) -> Any:
        ended.wait(20)
        return rows(1)(query, ctx)

    app = compose(
        "toy",
        sources=[make("source", stuck, "stuck", blocking=True), make("source", rows(2), "good")],
        selector=make("selector", best_first, "top"),
        run={"stuck": RunPolicy(timeout=seconds(0.05))},
        observers=[metrics.observer],
    )

    async def main() -> None:
        async with app:
            await app["toy"].run()
            assert metrics.read("abandoned_calls", ("pipeline", "component")) == {("toy", "stuck"): 1}
            ended.set()
            await until(lambda: not metrics.read("abandoned_calls")[""])

    with capture_logs():
        asyncio.run(main())
    assert metrics.read("abandoned_tasks") == {"": 0}


def test_the_configuration_is_told(make: Any, metrics: Metrics) -> None:
    """The info metric names the hash and the generation that answer now; those before are gone."""
    first = metrics.served(make)[0].plan.config_hash
    assert metrics.read("config_info", ("config_hash", "generation")) == {(first, "0"): 1}
    app = compose(
        "toy",
        sources=[make("source", rows(1), "source")],
        selector=make("selector", best_first, "top"),
        result_size=1,
        observers=[metrics.observer],
    )

    async def main(generation: int, late: App | None = None) -> str:
        async with app:
            app.runtime.generation = generation
            found = (await app["toy"].run()).trace.config_hash
            if late is not None:
                await late["toy"].run()
            return found

    async def overtaken() -> str:
        stages = {"sources": [make("source", rows(1), "source")], "selector": make("selector", best_first, "top")}
        async with compose("toy", **stages, observers=[metrics.observer]) as before:
            return await main(2, before)

    second = run_in_virtual_time(overtaken())
    assert second != first
    assert metrics.read("config_info", ("config_hash", "generation")) == {(second, "2"): 1}
    assert metrics.read("generation", ("pipeline",)) == {"toy": 2}
    run_in_virtual_time(main(0))  # opened anew in the same process, as a live application may be
    assert metrics.read("config_info", ("config_hash", "generation")) == {(second, "0"): 1}
    assert metrics.read("generation", ("pipeline",)) == {"toy": 0}


def test_nested_pipelines_are_told_apart(make: Any, metrics: Metrics) -> None:
    """Their requests count under their own name, marked as nested."""
    shelf = make("source", rows(1), "shelf")
    inner = compose("inner", sources=[shelf], selector=make("selector", best_first, "pick"))["inner"]
    metrics.served(make, sources=[("nest", NestedPipeline(inner.plan))])
    assert metrics.read("requests_total", ("pipeline", "nested")) == {("toy", "false"): 1, ("inner", "true"): 1}
    assert metrics.read("component_calls_total", ("pipeline", "component"))["inner", "shelf"] == 1


def test_labels_are_names_of_the_spec(metrics: Metrics) -> None:
    """No label holds an item, a viewer, a request or a message: the number of series does not grow with requests."""
    series = []
    for requests in (200, 400):
        again = Metrics()
        with capture_logs():
            chaotic([again.observer], requests=requests, calm=True)
        families = list(text_string_to_metric_families(generate_latest(again.registry).decode()))
        assert all(sample.name.startswith("candidate_pipeline_") for family in families for sample in family.samples)
        labels = {label for family in families for sample in family.samples for label in sample.labels}
        known = {"pipeline", "stage", "component", "status", "nested", "config_hash", "generation", "le"}
        assert labels <= known
        series.append({(s.name, *s.labels.items()) for family in families for s in family.samples})
    assert series[0] == series[1]


def test_buckets_are_yours(make: Any) -> None:
    """The histograms have the bounds that they are given."""
    metrics = Metrics.__new__(Metrics)
    metrics.registry = CollectorRegistry()
    metrics.observer = PrometheusObserver(metrics.registry, buckets=(0.5, 2.0))
    metrics.served(make, sources=[make("source", later_rows(1, after=1), "source")])
    assert metrics.read("request_seconds_bucket", ("le",)) == {"0.5": 0, "2.0": 1, "+Inf": 1}


def test_a_second_observer_of_a_registry_is_refused(metrics: Metrics) -> None:
    """One observer a registry, because metrics have one owner; the error says what to do."""
    with pytest.raises(MisconfigurationError, match="make one observer, and give it to all applications"):
        PrometheusObserver(metrics.registry)


def test_the_default_registry_is_the_librarys(make: Any) -> None:
    """Without a registry the metrics stand in the client library's own."""
    PrometheusObserver()
    assert b"candidate_pipeline_requests_total" in generate_latest(REGISTRY)
