"""Traces: what they hold beside the calls, and the published schema."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from toys import CLOSED, FLAG, INPUTS, NOW, PRICE, REQUEST, best_first, broken, later_rows, priced, rows
from watched import Heard, chaotic

from candidate_pipeline import ITEM_ID, NestedPipeline, Outcome, RequestError, RunPolicy, compose
from candidate_pipeline.cli import BUILTIN
from candidate_pipeline.cli.commands import build_group
from candidate_pipeline.engine.trace import ComponentTrace, Trace
from candidate_pipeline.testing import run_in_virtual_time

STAGE_KEYS = {"name", "total", "enabled", "offset_us", "latency_us", "size", "kept", "removed", "components", "nested"}
COMPONENT_KEYS = {"name", "type_name", "offset_us", "latency_us", "input_count", "fetched", "kept", "removed"}


def answered(make: Any, request: Any = None, **given: Any) -> Any:
    """What came of a request to a toy pipeline."""
    stages = {"sources": [make("source", rows(1, 2, 3), "source")], "selector": make("selector", best_first, "top")}

    async def serve() -> Any:
        async with compose("toy", **(stages | given)) as app:
            made = app["toy"].run(request_id="r1", now=NOW, seed=5, **(request or {}))
            return (await asyncio.gather(made, return_exceptions=True))[0]

    return run_in_virtual_time(serve())


@pytest.fixture(scope="module")
def storm() -> list[Trace]:
    """The traces of requests that go wrong in every way, nested ones too."""
    heard = Heard()
    with capture_logs():
        chaotic([heard], requests=200, seed=4)
    return [request.ends[0][1] for request in heard.requests]


def test_a_trace_is_a_sequence_of_records(make: Any) -> None:
    """It has a length, can be indexed, sliced and compared, and cannot be changed."""
    trace = answered(make).trace
    assert isinstance(trace, Trace)
    assert [entry.component for entry in trace] == ["source", "top"]
    assert (len(trace), trace[0].component, trace[-1].component) == (2, "source", "top")
    assert trace[:1] == (trace[0],)
    assert trace == tuple(trace)
    assert trace == list(trace)
    assert trace != ()
    assert trace != "trace"
    assert trace[0] in trace
    with pytest.raises(AttributeError):
        trace.pipeline = "other"  # type: ignore[misc]  # what this test is about
    with pytest.raises(TypeError, match="unhashable"):
        hash(trace)
    assert repr(trace).startswith("<Trace of toy r1: 2 calls, 3 rows, ")


def test_a_trace_names_the_configuration(make: Any) -> None:
    """It says which pipeline, request, clock, seed, configuration and versions answered, and how long it took."""
    outcome = answered(make, sources=[make("source", later_rows(1, after=2), "source")], result_size=9)
    trace = outcome.trace
    plan = outcome.plan
    assert (trace.pipeline, trace.request_id, trace.now, trace.seed) == ("toy", "r1", NOW, 5)
    assert (trace.config_hash, trace.plugins, trace.generation) == (plan.config_hash, plan.plugins, 0)
    assert (trace.elapsed_ms, trace.selected, trace.result_size) == (2000.0, 1, 9)
    assert trace.why_short() == outcome.why_short() == "1 of at most 9 rows out of 1 fetched"
    assert outcome.elapsed_ms == trace.elapsed_ms


def test_the_generation_is_the_runtimes(make: Any) -> None:
    """An application that was reloaded numbers its requests' traces."""

    async def serve() -> Any:
        stages = {"sources": [make("source", rows(1), "source")], "selector": make("selector", best_first, "top")}
        async with compose("toy", **stages) as app:
            app.runtime.generation = 3
            return await app["toy"].run()

    assert run_in_virtual_time(serve()).trace.generation == 3


def test_a_failed_request_has_a_trace(make: Any) -> None:
    """The error's trace says what happened up to then, and has no response."""
    error = answered(make, selector=make("selector", broken, "top"))
    assert isinstance(error, RequestError)
    assert isinstance(error.trace, Trace)
    assert [(entry.component, entry.status) for entry in error.trace] == [("source", "ok"), ("top", "skipped")]
    assert (error.trace.selected, error.trace.why_short()) == (None, "")
    assert repr(error.trace).startswith("<Trace of toy r1: 2 calls, failed, ")
    assert RequestError("wrong").trace == ()


def test_a_failed_side_effect_that_is_waited_for_is_in_the_trace(make: Any, logs: Any) -> None:
    """A synchronous side effect that fails the request stands in the error's trace, which has no response."""
    run = {"tell": RunPolicy(sync=True, on_error="fail", retries=0)}
    error = answered(make, side_effects=[make("side_effect", broken, "tell")], run=run)
    assert isinstance(error, RequestError)
    assert isinstance(error.trace, Trace)
    assert (error.trace[-1].component, error.trace[-1].status, error.trace.selected) == ("tell", "skipped", None)


def test_an_outcome_as_plain_data_names_the_configuration(make: Any) -> None:
    """`to_dict` keeps its keys and says hash, versions and generation as well."""
    outcome = answered(make)
    plain = outcome.to_dict()
    assert list(plain) == [
        "pipeline",
        "request_id",
        "now",
        "seed",
        "elapsed_ms",
        "items",
        "config_hash",
        "plugins",
        "generation",
        "trace",
        "why_short",
    ]
    assert plain["config_hash"] == outcome.plan.config_hash
    assert [entry["component"] for entry in plain["trace"]] == ["source", "top"]


def test_traces_as_plain_data(storm: list[Trace]) -> None:
    """Whatever happened, a trace as plain data survives JSON and keeps every record, nested ones too."""
    for trace in storm:
        plain = trace.as_dict()
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        assert dt.datetime.fromisoformat(plain["now"]) == trace.now
        for entry, told in zip(trace, plain["components"], strict=True):
            assert [told[name] for name in ("component", "status", "error")] == [
                entry.component,
                entry.status,
                entry.error,
            ]
            assert len(told["inner"]) == len(entry.inner)


# The published schema


def test_a_request_in_the_published_schema(make: Any) -> None:
    """Stages have counts, times in microseconds and components; counts that make no sense in a place are null."""
    outcome = answered(
        make,
        request=REQUEST,
        inputs=INPUTS,
        sources=[make("source", later_rows(1, 2, 3, after=0.25), "far"), make("source", rows(3, 4), "gated")],
        hydrators=[make("hydrator", priced, "price", writes=[PRICE])],
        filters=[
            make("filter", lambda query, rows, ctx: rows[ITEM_ID] != 2, "not_2"),
            make("filter", lambda query, rows, ctx: rows[ITEM_ID] != 9, "not_9"),
        ],
        run={"gated": CLOSED},
    )
    found = outcome.trace.as_upstream()
    kind = outcome.trace[0].use
    nothing = {"kept": None, "removed": None}
    assert found["pipeline"] == "toy"
    assert (found["latency_us"], found["size"]) == (250_000, 2)
    assert found["stages"][0] == {
        "name": "Source",
        "total": 2,
        "enabled": 1,
        "offset_us": 0,
        "latency_us": 250_000,
        "size": 3,
        **nothing,
        "components": [
            {
                "name": "far",
                "type_name": kind,
                "offset_us": 0,
                "latency_us": 250_000,
                "input_count": 0,
                "fetched": 3,
                **nothing,
            }
        ],
        "nested": [],
    }
    counts = [(s["name"], s["total"], s["enabled"], s["size"], s["kept"], s["removed"]) for s in found["stages"][1:]]
    assert counts == [
        ("Hydrator", 1, 1, 3, None, None),
        ("Filter", 2, 2, None, 2, 1),
        ("Selector", 1, 1, 2, None, None),
    ]
    filters = found["stages"][2]["components"]
    assert [(c["name"], c["input_count"], c["kept"], c["removed"], c["fetched"]) for c in filters] == [
        ("not_2", 3, 2, 1, None),
        ("not_9", 2, 2, 0, None),
    ]


def test_nested_pipelines_in_the_published_schema(make: Any) -> None:
    """A pipeline inside another stands under the stage that it ran in, with times from its own start."""
    shelf = make("source", later_rows(1, after=1), "shelf")
    inner = compose("inner", sources=[shelf], selector=make("selector", best_first, "pick"))["inner"]
    outcome = answered(make, sources=[("nest", NestedPipeline(inner.plan))])
    assert isinstance(outcome.trace[0].inner, Trace)
    (nested,) = outcome.trace.as_upstream()["stages"][0]["nested"]
    assert nested == outcome.inner["nest"].trace.as_upstream()
    assert (nested["pipeline"], nested["latency_us"]) == ("inner", 1_000_000)
    assert nested["stages"][0]["components"][0]["name"] == "shelf"


def test_a_spare_that_stays_out_is_no_component_of_its_stage(make: Any) -> None:
    """A stage's component is enabled though what takes over from it is not."""
    outcome = answered(
        make,
        request={"flag": True},
        inputs={"flag": FLAG},
        hydrators=[make("hydrator", broken, "price", writes=[PRICE])],
        fallbacks=[make("hydrator", priced, "spare", writes=[PRICE])],
        run={"price": RunPolicy(on_error="fallback:spare"), "spare": CLOSED},
    )
    (stage,) = [each for each in outcome.trace.as_upstream()["stages"] if each["name"] == "Hydrator"]
    assert (stage["total"], stage["enabled"]) == (1, 1)
    assert [each["name"] for each in stage["components"]] == ["price"]


def check(trace: Trace, found: dict[str, Any]) -> None:
    """A trace in the published schema says what the trace says, in exactly the published fields."""
    assert set(found) == {"pipeline", "latency_us", "size", "stages"}
    ran = [entry for entry in trace if entry.status != "closed"]
    told = [component for stage in found["stages"] for component in stage["components"]]
    assert [component["name"] for component in told] == [entry.component for entry in ran]
    for entry, component in zip(ran, told, strict=True):
        assert set(component) == COMPONENT_KEYS
        assert component["input_count"] == entry.rows_in
        if entry.stage.endswith("filters"):
            assert component["kept"] + component["removed"] == entry.rows_in
    nested = [entry.inner for entry in trace if isinstance(entry.inner, Trace)]
    assert len(nested) == sum(len(stage["nested"]) for stage in found["stages"])
    for stage in found["stages"]:
        assert set(stage) == STAGE_KEYS
        assert 0 <= stage["enabled"] <= stage["total"]
        ends = [each["offset_us"] + each["latency_us"] for each in stage["components"]]
        assert all(end <= stage["offset_us"] + stage["latency_us"] for end in ends)
        if stage["kept"] is not None and stage["components"]:
            assert stage["removed"] == sum(each["removed"] for each in stage["components"])
            assert stage["kept"] == stage["components"][-1]["kept"]
        for inner in stage["nested"]:
            check(next(each for each in nested if each.as_upstream() == inner), inner)


def test_all_requests_fit_the_published_schema(storm: list[Trace]) -> None:
    """Fallbacks, refills, gates, timeouts, top-ups and failures too can be told in the published fields."""
    stages = set()
    for trace in storm:
        found = trace.as_upstream()
        check(trace, found)
        stages |= {stage["name"] for stage in found["stages"]}
    assert {"QueryHydrator", "Source", "PostSelectionFilter", "SideEffect", "TopUp"} <= stages


def test_the_published_semantics_has_a_trace_too(make: Any) -> None:
    """A pipeline with `semantics = "upstream"` gives traces of the same kind."""
    outcome = answered(make, semantics="upstream", scorers=[make("scorer", broken, "score", writes=[PRICE])])
    assert isinstance(outcome, Outcome)
    assert [stage["name"] for stage in outcome.trace.as_upstream()["stages"]] == ["Source", "Scorer", "Selector"]


def test_records_can_be_made_by_hand() -> None:
    """A record as plain data has all its fields, and those of what happened inside it."""
    inner = ComponentTrace("shelf", "shop.shelf", "sources")
    plain = ComponentTrace("nest", "pipeline", "sources", inner=(inner,)).as_dict()
    assert plain["inner"] == [inner.as_dict()]
    assert list(plain) == [name for name in ComponentTrace.__slots__ if name in plain]


def test_run_prints_the_published_schema(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run --format json --trace upstream` gives the trace in the published fields; without it, our own."""
    document = tmp_path / "shop.toml"
    document.write_text(shop.spec)
    (tmp_path / "data").mkdir()
    monkeypatch.setattr("candidate_pipeline.app.installed", lambda: shop.registry)
    program = build_group("candidate-pipeline", dict(BUILTIN))
    words = ["run", "shop", "--config", str(document), "--buyer", "3", "--format", "json"]
    program.main([*words, "--trace", "upstream"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert set(found["trace"]) == {"pipeline", "latency_us", "size", "stages"}
    assert found["config_hash"]
    program.main(words, standalone_mode=False)
    assert isinstance(json.loads(capsys.readouterr().out)["trace"], list)
