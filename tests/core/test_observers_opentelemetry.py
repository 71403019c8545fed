"""Spans, read back through the OpenTelemetry SDK."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracerProvider, StatusCode
from structlog.testing import capture_logs
from toys import (
    BUYER,
    CLOSED,
    FLAG,
    PRICE,
    TTL,
    best_first,
    broken,
    hanging,
    later_rows,
    priced,
    rows,
    seconds,
    silent,
)
from watched import Heard, chaotic

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    App,
    BreakerPolicy,
    NestedPipeline,
    RequestError,
    RunPolicy,
    compose,
    patch,
)
from candidate_pipeline.observers.opentelemetry import OpenTelemetryObserver
from candidate_pipeline.testing import run_in_virtual_time

pytestmark = pytest.mark.filterwarnings("error")
NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
ID = "candidate_pipeline.request_id"


@attrs.define
class Spans:
    """The real SDK, and what it exported."""

    exporter: InMemorySpanExporter = attrs.field(factory=InMemorySpanExporter)
    provider: TracerProvider = attrs.field(factory=TracerProvider)

    def __attrs_post_init__(self) -> None:
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def observer(self) -> OpenTelemetryObserver:
        """An observer whose spans come here."""
        return OpenTelemetryObserver(self.provider)

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        """The spans that have ended."""
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """The spans of a name, in the order of their ends."""
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """The only span of a name."""
        (span,) = self.named(name)
        return span

    def above(self, span: ReadableSpan) -> list[str]:
        """The names of the spans around one, from the inside out."""
        known = {each.context.span_id: each for each in self.all if each.context is not None}
        names = []
        while span.parent is not None:
            span = known[span.parent.span_id]
            names.append(span.name)
        return names

    def root(self, span: ReadableSpan) -> ReadableSpan:
        """The outermost span around one."""
        known = {each.context.span_id: each for each in self.all if each.context is not None}
        while span.parent is not None:
            span = known[span.parent.span_id]
        return span

    def working(self, work: Callable[..., Any], name: str = "work") -> Callable[..., Any]:
        """A component's function that makes a span of its own around its work."""
        tracer = self.provider.get_tracer("library")

        if asyncio.iscoroutinefunction(work):

            async def later(query: Any, *args: Any) -> Any:
                with tracer.start_as_current_span(name, attributes={"seen": query.request_id}):
                    return await work(query, *args)

            return later

        def at_once(query: Any, *args: Any) -> Any:
            with tracer.start_as_current_span(name, attributes={"seen": query.request_id}):
                return work(query, *args)

        return at_once


@pytest.fixture
def spans() -> Spans:
    """Spans of the test."""
    return Spans()


def toy(make: Any, spans: Spans, **given: Any) -> App:
    """An observed application with a toy pipeline."""
    stages = {"sources": [make("source", rows(1, 2, 3), "source")], "selector": make("selector", best_first, "top")}
    return compose("toy", **(stages | given), observers=[spans.observer])


def serve(app: App, requests: Sequence[Any] = ({},), *, at_once: bool = True) -> list[Any]:
    """What came of requests; all side effects have ended."""

    async def run() -> list[Any]:
        async with app:
            made = [app["toy"].run(**{"request_id": f"r{at}", "now": NOW} | given) for at, given in enumerate(requests)]
            if at_once:
                return await asyncio.gather(*made, return_exceptions=True)
            return [await each for each in made]

    return run_in_virtual_time(run())


def told(span: ReadableSpan) -> dict[str, Any]:
    """A span's attributes, without their common prefix."""
    return {name.removeprefix("candidate_pipeline."): value for name, value in (span.attributes or {}).items()}


# Where spans belong


async def _slow_rows(query: Any, ctx: Any) -> Any:
    await asyncio.sleep(0.01)
    return rows(4, 5)(query, ctx)


async def _slow_prices(query: Any, candidates: Any, ctx: Any) -> Any:
    await asyncio.sleep(0.01)
    return priced(query, candidates, ctx)


async def _nothing(*_: Any) -> None:
    await asyncio.sleep(0.01)


#: Stage, kind, function, attributes and engine settings of a component, for every way in which one is called.
WAYS: dict[str, tuple[str, str, Any, dict[str, Any], RunPolicy]] = {
    "plain": ("sources", "source", rows(9), {}, RunPolicy()),
    "async": ("sources", "source", _slow_rows, {}, RunPolicy()),
    "thread": ("sources", "source", rows(9), {"blocking": True}, RunPolicy()),
    "timed": ("sources", "source", _slow_rows, {}, RunPolicy(timeout=seconds(5))),
    "guarded": ("sources", "source", rows(9), {}, RunPolicy(breaker=BreakerPolicy())),
    "gated": ("sources", "source", rows(9), {}, RunPolicy(when={"toy.flag": True})),
    "cached plain": ("sources", "source", rows(9), {}, RunPolicy(cache=TTL)),
    "cached async": ("sources", "source", _slow_rows, {}, RunPolicy(cache=TTL, timeout=seconds(5))),
    "cached thread": ("sources", "source", rows(9), {"blocking": True}, RunPolicy(cache=TTL)),
    "query hydrator": ("query_hydrators", "query_hydrator", silent, {}, RunPolicy()),
    "plain hydrator": ("hydrators", "hydrator", priced, {"writes": [PRICE]}, RunPolicy()),
    "cached hydrator": ("hydrators", "hydrator", _slow_prices, {"writes": [PRICE]}, RunPolicy(cache=TTL)),
    "post hydrator": ("post_selection_hydrators", "hydrator", _slow_prices, {"writes": [PRICE]}, RunPolicy()),
    "filter": ("filters", "filter", lambda q, rows, ctx: rows.valid(SCORE) | True, {}, RunPolicy()),
    "scorer": ("scorers", "scorer", lambda q, r, c: patch(), {"blocking": True, "writes": [SCORE]}, RunPolicy()),
    "effect": ("side_effects", "side_effect", _nothing, {}, RunPolicy()),
    "effect in a thread": ("side_effects", "side_effect", lambda *_: None, {"blocking": True}, RunPolicy()),
    "effect waited for": ("side_effects", "side_effect", _nothing, {}, RunPolicy(sync=True)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_component_works_within_its_span(way: str, make: Any, spans: Spans) -> None:
    """A span made in a component's code is a child of the component's, however it is called."""
    stage, kind, work, members, run = WAYS[way]
    x = make(kind, spans.working(work), "x", **members)
    given = {stage: [x, *([make("source", rows(1), "other")] if stage == "sources" else [])]}
    if way == "filter":
        given = {stage: [make(kind, spans.working(lambda q, rows, ctx: rows.valid(PRICE) | True), "x")]}
        given |= {"hydrators": [make("hydrator", priced, "price", writes=[PRICE])]}
    app = toy(make, spans, **given, inputs={"flag": FLAG}, run={"x": run})
    serve(app, [{"flag": True}])
    assert spans.above(spans.one("work")) == [f"{stage}.x", "candidate_pipeline.request"]
    assert told(spans.one(f"{stage}.x"))["status"] == "ok"


def test_a_prepare_works_within_a_span_of_its_own(make: Any, spans: Spans) -> None:
    """What runs beside the sources has a span that says so; the call itself has another."""
    prepare = spans.working(_nothing, "encode")
    score = spans.working(lambda query, rows, ctx: patch(), "work")
    members = {"writes": [SCORE], "prepare": prepare}
    serve(toy(make, spans, scorers=[make("scorer", score, "model", **members)], run={"model": RunPolicy()}))
    assert spans.above(spans.one("encode")) == ["scorers.model.prepare", "candidate_pipeline.request"]
    assert spans.above(spans.one("work")) == ["scorers.model", "candidate_pipeline.request"]


def test_nested_requests_are_children_of_their_component(make: Any, spans: Spans) -> None:
    """A pipeline inside another has a request span of its own, within the component that it is."""
    shelf = make("source", spans.working(_slow_rows), "shelf")
    inner = compose("inner", sources=[shelf], selector=make("selector", best_first, "pick"))["inner"]
    serve(toy(make, spans, sources=[("nest", NestedPipeline(inner.plan))]))
    assert spans.above(spans.one("work")) == [
        "sources.shelf",
        "candidate_pipeline.request",
        "sources.nest",
        "candidate_pipeline.request",
    ]
    pipelines = [told(span)["pipeline"] for span in spans.named("candidate_pipeline.request")]
    assert pipelines == ["inner", "toy"]


def test_a_request_is_a_child_of_the_callers_span(make: Any, spans: Spans) -> None:
    """The caller's own span is around the request, and current again after it."""
    tracer = spans.provider.get_tracer("server")

    async def main() -> None:
        app = toy(make, spans)
        async with app:
            with tracer.start_as_current_span("POST /feed"):
                await app["toy"].run()
                with tracer.start_as_current_span("render"):
                    pass

    run_in_virtual_time(main())
    assert spans.above(spans.one("candidate_pipeline.request")) == ["POST /feed"]
    assert spans.above(spans.one("render")) == ["POST /feed"]


def test_requests_at_once_do_not_mix(make: Any, spans: Spans) -> None:
    """Of many requests that run at once, in tasks and threads, every span belongs to the request that made it."""

    async def fetch(query: Any, ctx: Any) -> Any:
        await asyncio.sleep((query[BUYER] * 7 % 5) / 100)
        return rows(1, 2)(query, ctx)

    async def tell(query: Any, outcome: Any, ctx: Any) -> None:
        await asyncio.sleep((query[BUYER] * 3 % 4) / 100)

    app = toy(
        make,
        spans,
        sources=[
            make("source", spans.working(fetch, "fetch"), "far", reads=[BUYER]),
            make("source", spans.working(rows(3), "thread"), "near", blocking=True),
        ],
        hydrators=[make("hydrator", spans.working(priced, "price"), "price", writes=[PRICE])],
        side_effects=[make("side_effect", spans.working(tell, "tell"), "tell", reads=[BUYER])],
        inputs={"buyer": BUYER},
    )
    serve(app, [{"buyer": at} for at in range(40)])
    works = [span for span in spans.all if "seen" in (span.attributes or {})]
    assert Counter(span.name for span in works) == {"fetch": 40, "thread": 40, "price": 40, "tell": 40}
    for span in works:
        root = spans.root(span)
        assert root.name == "candidate_pipeline.request"
        assert (root.attributes or {})[ID] == (span.attributes or {})["seen"]


def test_one_flight_has_one_span(make: Any, spans: Spans) -> None:
    """Requests that wait for one fetch share it: it is below the component of the one that began it."""
    source = make("source", spans.working(_slow_rows), "shelf")
    serve(toy(make, spans, sources=[source], run={"shelf": RunPolicy(cache=TTL)}), [{}] * 5)
    serve_later = spans.one("work")
    assert spans.above(serve_later) == ["sources.shelf", "candidate_pipeline.request"]
    shelves = spans.named("sources.shelf")
    assert len({spans.root(span).context.trace_id for span in shelves}) == 5
    assert [told(span)["cache_misses"] for span in shelves] == [1] * 5


def test_the_cache_is_told(make: Any, spans: Spans) -> None:
    """A hit and a miss are attributes of the component's span."""
    source = make("source", spans.working(_slow_rows), "shelf")
    serve(toy(make, spans, sources=[source], run={"shelf": RunPolicy(cache=TTL)}), [{}] * 2, at_once=False)
    found = [(told(span)["cache_hits"], told(span)["cache_misses"]) for span in spans.named("sources.shelf")]
    assert found == [(0, 1), (1, 0)]
    assert len(spans.named("work")) == 1


# What spans say


def test_attributes_of_a_healthy_request(make: Any, spans: Spans) -> None:
    """Spans say which pipeline, configuration, component and stage, and how many rows went in and out."""
    app = toy(make, spans, filters=[make("filter", lambda query, rows, ctx: _odd(rows), "odd")])
    (outcome,) = serve(app, [{"seed": 7}])
    request = told(spans.one("candidate_pipeline.request"))
    plan = outcome.plan
    assert request == {
        "pipeline": "toy",
        "request_id": "r0",
        "config_hash": plan.config_hash,
        "generation": 0,
        "seed": 7,
        "status": "ok",
        "selected": 2,
    }
    node = next(node for node in plan.nodes if node.name == "odd")
    assert told(spans.one("filters.odd")) == {
        "component": "odd",
        "use": node.use,
        "stage": "filters",
        "fingerprint": node.fingerprint,
        "status": "ok",
        "rows_in": 3,
        "rows_out": 2,
    }
    assert spans.one("candidate_pipeline.request").status.status_code is StatusCode.UNSET


def _odd(rows: Any) -> Any:
    return rows[ITEM_ID] % 2 == 1


def test_failures_and_fallbacks(make: Any, spans: Spans) -> None:
    """A component that failed is an error with its exception; what took over says for whom; the request goes on."""
    app = toy(
        make,
        spans,
        hydrators=[make("hydrator", broken, "price", writes=[PRICE])],
        fallbacks=[make("hydrator", spans.working(priced), "spare", writes=[PRICE])],
        run={"price": RunPolicy(on_error="fallback:spare")},
    )
    serve(app)
    failed = spans.one("hydrators.price")
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "ValueError: no")
    assert [(event.name, (event.attributes or {})["exception.type"]) for event in failed.events] == [
        ("exception", "ValueError")
    ]
    assert (told(failed)["status"], told(failed)["fallback"]) == ("fallback", "spare")
    assert told(spans.one("hydrators.spare"))["instead_of"] == "price"
    assert spans.above(spans.one("work"))[0] == "hydrators.spare"
    request = spans.one("candidate_pipeline.request")
    assert [event.name for event in request.events] == ["fallback"]
    assert request.status.status_code is StatusCode.UNSET


def test_timeouts_gates_and_breakers(make: Any, spans: Spans) -> None:
    """A timeout is an error of the span; a closed gate is none and says why; an open circuit is told."""
    breaker = BreakerPolicy(min_calls=1, failure_rate=0.1)
    app = toy(
        make,
        spans,
        sources=[
            make("source", hanging, "slow"),
            make("source", rows(1), "gated"),
            make("source", broken, "bad"),
            make("source", rows(2), "good"),
        ],
        inputs={"flag": FLAG},
        run={
            "slow": RunPolicy(timeout=seconds(1)),
            "gated": CLOSED,
            "bad": RunPolicy(breaker=breaker),
        },
    )
    serve(app, [{"flag": True}] * 2, at_once=False)
    slow = spans.named("sources.slow")[0]
    assert slow.status.description == "timed out after 1000 ms"
    gated = spans.named("sources.gated")[0]
    assert gated.status.status_code is StatusCode.UNSET
    assert told(gated)["status"] == "closed"
    assert "toy.flag" in told(gated)["closed_by"]
    assert [told(span).get("breaker") for span in spans.named("sources.bad")] == ["open", "open"]
    assert "the circuit is open" in str(spans.named("sources.bad")[1].status.description)


def test_a_failed_request(make: Any, spans: Spans) -> None:
    """It is an error with its exception, and names the component; cut-off calls end as cancelled."""
    app = toy(
        make,
        spans,
        hydrators=[make("hydrator", broken, "bad", writes=[PRICE]), make("hydrator", hanging, "wait")],
        run={"bad": RunPolicy(on_error="fail")},
    )
    (error,) = serve(app)
    assert isinstance(error, RequestError)
    request = spans.one("candidate_pipeline.request")
    assert request.status.status_code is StatusCode.ERROR
    assert request.status.description == str(error)
    assert (told(request)["status"], told(request)["component"]) == ("failed", "bad")
    assert told(spans.one("hydrators.wait"))["status"] == "cancelled"


def test_a_cancelled_request(make: Any, spans: Spans) -> None:
    """Its spans end, and say that it was cancelled, which is no error."""

    async def main() -> None:
        app = toy(make, spans, sources=[make("source", hanging, "slow")])
        async with app:
            task = asyncio.create_task(app["toy"].run())
            await asyncio.sleep(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run_in_virtual_time(main())
    assert {span.name: told(span)["status"] for span in spans.all} == {
        "sources.slow": "cancelled",
        "candidate_pipeline.request": "cancelled",
    }
    assert {span.status.status_code for span in spans.all} == {StatusCode.UNSET}


def test_side_effects_have_one_span_for_all_tries(make: Any, spans: Spans, logs: Any) -> None:
    """It ends after the request's, below which it is, and what the tries do is below it."""
    tries = []

    async def tell(query: Any, outcome: Any, ctx: Any) -> None:
        tries.append(1)
        await asyncio.sleep(1)
        if len(tries) < 3:
            raise ValueError("again")

    serve(toy(make, spans, side_effects=[make("side_effect", spans.working(tell, "try"), "tell")]))
    effect = spans.one("side_effects.tell")
    assert [spans.above(span) for span in spans.named("try")] == [
        ["side_effects.tell", "candidate_pipeline.request"]
    ] * 3
    assert told(effect)["status"] == "ok"
    names = [span.name for span in spans.all]
    assert names.index("candidate_pipeline.request") < names.index("side_effects.tell")


def test_refills_are_events(make: Any, spans: Spans) -> None:
    """A round of refilling is an event of the request, and a number on the calls it makes."""
    app = toy(
        make,
        spans,
        sources=[make("source", rows(*range(1, 9)), "source")],
        selector=make("selector", lambda q, rows, ctx: best_first(q, rows, ctx)[:3], "top"),
        post_selection_filters=[make("filter", lambda q, rows, ctx: _odd(rows), "odd")],
        result_size=3,
    )
    serve(app)
    events = [(event.name, dict(event.attributes or {})) for event in spans.one("candidate_pipeline.request").events]
    assert events[0] == ("refill", {"candidate_pipeline.round": 1, "candidate_pipeline.missing": 1})
    assert [told(span).get("refill") for span in spans.named("selector.top")][:2] == [None, 1]


# Everything at once


def test_every_span_ends_and_stands_in_its_request() -> None:
    """Of requests that go wrong in every way, each call has one span, ended, below its own request's."""
    spans, heard = Spans(), Heard()
    with capture_logs():
        chaotic([heard, spans.observer], requests=250, seed=5)
    requests = spans.named("candidate_pipeline.request")
    assert len(requests) == len(heard.requests)
    assert len(spans.all) == len(requests) + len(heard.calls)
    by_id = {span.context.span_id: span for span in spans.all if span.context is not None}
    found: Counter[str] = Counter()
    for span in spans.all:
        if span.name != "candidate_pipeline.request":
            assert span.parent is not None
            found[told(by_id[span.parent.span_id])[ID.removeprefix("candidate_pipeline.")]] += 1
    wanted: Counter[str] = Counter()
    for request in heard.requests:
        wanted[request.info.query.request_id] += len(request.calls)
    assert found == wanted
    statuses = Counter(told(span).get("status") for span in spans.all)
    assert set(statuses) == {"ok", "skipped", "fallback", "closed", "cancelled", "failed"}


def test_unsampled_requests_cost_no_attributes(make: Any) -> None:
    """With a provider that records nothing, requests are answered as ever."""
    stages = {"sources": [make("source", rows(1, 2), "source")], "selector": make("selector", best_first, "top")}
    app = compose("toy", **stages, observers=[OpenTelemetryObserver(NoOpTracerProvider())])
    (outcome,) = serve(app)
    assert len(outcome.selected) == 2


def test_the_global_provider_is_the_default(make: Any) -> None:
    """Without a provider the observer takes OpenTelemetry's own, which does nothing until it is configured."""
    stages = {"sources": [make("source", later_rows(1), "source")], "selector": make("selector", best_first, "top")}
    (outcome,) = serve(compose("toy", **stages, observers=[OpenTelemetryObserver()]))
    assert len(outcome.selected) == 1
