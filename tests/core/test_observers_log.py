"""One structured log line a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs
from toys import BUDGET, BUYER, PRICE, best_first, broken, hanging, later_rows, priced, rows
from watched import Heard, chaotic

from candidate_pipeline import NestedPipeline, Outcome, RequestError, RunPolicy, compose, query_patch
from candidate_pipeline.observers.log import RequestLog
from candidate_pipeline.observers.opentelemetry import OpenTelemetryObserver
from candidate_pipeline.testing import run_in_virtual_time


def served(
    make: Any, request: Any = None, observers: Sequence[Any] = (), **given: Any
) -> tuple[Any, list[MutableMapping[str, Any]]]:
    """What came of a request, and the lines of the log that are about requests."""
    stages = {"sources": [make("source", rows(1, 2, 3), "source")], "selector": make("selector", best_first, "top")}

    async def serve() -> Any:
        app = compose("toy", **(stages | given), observers=[RequestLog(), *observers])
        async with app:
            made = app["toy"].run(request_id="r1", **(request or {}))
            return (await asyncio.gather(made, return_exceptions=True))[0]

    with capture_logs() as entries:
        found = run_in_virtual_time(serve())
    return found, [entry for entry in entries if entry["event"] == "request"]


def test_a_line_says_what_happened(make: Any) -> None:
    """A healthy request has one line with its counts, its configuration and its slowest component."""
    odd = make("filter", lambda query, rows, ctx: rows[PRICE] > 1, "dear", reads=[PRICE])
    outcome, lines = served(
        make,
        sources=[make("source", later_rows(1, 2, 3, after=0.25), "source")],
        hydrators=[make("hydrator", priced, "price", writes=[PRICE])],
        filters=[odd],
    )
    assert lines == [
        {
            "event": "request",
            "log_level": "info",
            "pipeline": "toy",
            "request_id": "r1",
            "config_hash": outcome.plan.config_hash,
            "generation": 0,
            "status": "ok",
            "elapsed_ms": 250.0,
            "fetched": 3,
            "dropped": {"dear": 3},
            "selected": 0,
            "why_short": outcome.why_short(),
            "slowest": "source",
            "slowest_ms": 250.0,
        }
    ]


def test_degraded_requests_say_who_failed(make: Any) -> None:
    """Skipped components stand there with their error, and fallbacks with who took over."""
    _, (line,) = served(
        make,
        sources=[make("source", broken, "bad"), make("source", rows(1), "good")],
        hydrators=[make("hydrator", broken, "price", writes=[PRICE])],
        fallbacks=[make("hydrator", priced, "spare", writes=[PRICE])],
        run={"price": RunPolicy(on_error="fallback:spare")},
    )
    assert line["skipped"] == {"bad": "ValueError: no"}
    assert line["fallbacks"] == {"price": "spare"}
    assert line["status"] == "ok"


def test_failed_requests_say_why(make: Any) -> None:
    """A failure is one line at level error, with the error's text and type and the component."""
    error, (line,) = served(make, selector=make("selector", broken, "top"))
    assert isinstance(error, RequestError)
    assert (line["log_level"], line["status"], line["selected"]) == ("error", "failed", None)
    assert (line["error"], line["error_type"], line["component"]) == (str(error), "RequestError", "top")
    assert line["skipped"] == {"top": "ValueError: no"}


def test_cancelled_requests_have_a_line(make: Any) -> None:
    """Giving a request up is no error, but it is told."""

    async def main() -> None:
        app = compose(
            "toy",
            sources=[make("source", hanging, "slow")],
            selector=make("selector", best_first, "top"),
            observers=[RequestLog()],
        )
        async with app:
            task = asyncio.create_task(app["toy"].run())
            await asyncio.sleep(2)
            task.cancel()
            await asyncio.wait([task])

    with capture_logs() as entries:
        run_in_virtual_time(main())
    (line,) = entries
    assert (line["log_level"], line["status"], line["elapsed_ms"]) == ("info", "cancelled", 2000.0)
    assert "slowest" not in line


def test_lines_hold_no_features_and_no_cells(make: Any) -> None:
    """What a request asks and finds does not reach the log."""
    secret = 7_654_321
    hydrator = make("query_hydrator", lambda q, c: query_patch(BUDGET(float(secret))), "wallet", writes=[BUDGET])
    _, (line,) = served(
        make,
        {"buyer": secret},
        inputs={"buyer": BUYER},
        query_hydrators=[hydrator],
        sources=[make("source", rows(secret), "source")],
    )
    assert str(secret) not in json.dumps(line)


@pytest.mark.parametrize("policy", ["skip", "fail"])
def test_neither_do_lines_of_closed_gates(make: Any, policy: Any) -> None:
    """A gate that a feature closes is told, wherever it comes up, without what the feature holds; spans neither."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    wants_less = RunPolicy(when={"toy.buyer": {"max": 3}}, on_error=policy)
    answer, (line,) = served(
        make,
        {"buyer": 7_654_321},
        observers=[OpenTelemetryObserver(provider)],
        inputs={"buyer": BUYER},
        sources=[make("source", rows(1, 2), "source"), make("source", rows(3), "gated")],
        hydrators=[make("hydrator", broken, "price", writes=[PRICE])],
        fallbacks=[make("hydrator", priced, "spare", writes=[PRICE])],
        run={"price": RunPolicy(on_error="fallback:spare"), "spare": wants_less, "gated": wants_less},
        result_size=5,
    )
    told = json.dumps(line) + "".join(span.to_json() for span in spans.get_finished_spans())
    assert "7654321" not in told
    assert told.count("toy.buyer is ***, wanted max 3") >= 2
    trace = answer.trace
    assert "toy.buyer is 7654321, wanted max 3" in [entry.error for entry in trace]


def test_nested_pipelines_have_no_line_of_their_own(make: Any) -> None:
    """One request of the caller's is one line."""
    shelf = make("source", rows(1), "shelf")
    inner = compose("inner", sources=[shelf], selector=make("selector", best_first, "pick"))["inner"]
    _, lines = served(make, sources=[("nest", NestedPipeline(inner.plan))])
    assert [line["pipeline"] for line in lines] == ["toy"]


def test_every_request_has_one_line_that_json_can_hold() -> None:
    """Whatever goes wrong, there is one line a request, of plain data, that agrees with the trace."""
    heard = Heard()
    with capture_logs() as entries:
        found, _ = chaotic([RequestLog(), heard], requests=250, seed=9)
    lines = [entry for entry in entries if entry["event"] == "request"]
    assert len(lines) == len(found)
    told = {request.info.query.request_id: request.ends[0] for request in heard.requests if not request.info.inside}
    for line in lines:
        assert json.loads(json.dumps(line)) == line
        status, trace = told[line["request_id"]]
        assert (line["status"], line["dropped"]) == (status, trace.dropped)
        assert line.get("refills", 0) == max((entry.refill for entry in trace), default=0)
    assert sum(isinstance(each, Outcome) for each in found) == sum(line["status"] == "ok" for line in lines)


def test_the_logger_is_yours(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines go to the logger that is given, with what it has bound."""
    logger = structlog.wrap_logger(structlog.PrintLogger(), processors=[structlog.processors.JSONRenderer()])

    async def main() -> None:
        stages = {"sources": [make("source", rows(1), "source")], "selector": make("selector", best_first, "top")}
        app = compose("toy", **stages, observers=[RequestLog(logger.bind(host="a1"))])
        async with app:
            await app["toy"].run(request_id="r1")

    run_in_virtual_time(main())
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["host"], line["request_id"]) == ("request", "a1", "r1")
