"""Faults, observers, captures and reloads all at once: every count agrees, and nothing is left."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections import Counter
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import structlog
from live_toys import FEATURE, HYDRATED, INNER, SCORED, SOURCE, Config, Ledger, fresh_ledger, spec, toy_registry
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from toys import until
from watched import Heard

from candidate_pipeline import (
    ITEM_ID,
    Candidates,
    Column,
    Context,
    MisconfigurationError,
    Outcome,
    Patch,
    Plugin,
    Query,
    Registry,
    RequestError,
    SpecError,
    live,
    patch,
)
from candidate_pipeline.observers.log import RequestLog
from candidate_pipeline.observers.opentelemetry import OpenTelemetryObserver
from candidate_pipeline.observers.prometheus import PrometheusObserver
from candidate_pipeline.testing import VirtualTimeLoop
from candidate_pipeline.what_if.capture import Captures, captures_in

REQUESTS = 800
AT_ONCE = 10
#: Requests between two reloads.
LOT = 40
SEED = 20_261_122
FLAKY = Column("soak.flaky", np.float32)
#: What a component can do, and how often.
FAULTS = {"well": 12, "raise": 2, "late": 2, "hang": 1, "wrong": 1}

pytestmark = pytest.mark.filterwarnings("error")


async def fault(query: Query, ctx: Context) -> str:
    """Do what the request's dice say; what they said."""
    dice = random.Random(f"{query.request_id} {ctx.component}")  # noqa: S311  # nothing secret
    (found,) = dice.choices(list(FAULTS), list(FAULTS.values()))
    await asyncio.sleep({"late": 0.02, "hang": 1e6}.get(found, 0.001))
    if found == "raise":
        raise ValueError("no luck")
    return found


@attrs.frozen
class Unlucky:
    """A hydrator that prepares, and goes wrong in every way."""

    reads: ClassVar = ()
    writes: ClassVar = (FLAKY,)

    async def prepare(self, query: Query, ctx: Context) -> str:
        return await fault(query, ctx)

    async def hydrate(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        return patch(FLAKY(np.ones(len(candidates) + (ctx.prepared == "wrong"), np.float32)))


@attrs.frozen
class Luckless:
    """A source that goes wrong in every way."""

    reads: ClassVar = ()
    writes: ClassVar = (FLAKY,)

    async def fetch(self, query: Query, ctx: Context) -> Candidates:
        found = await fault(query, ctx)
        return Candidates.of(ITEM_ID([7]), FLAKY(["no"] if found == "wrong" else [1.0]))


@attrs.frozen
class Wish:
    """A side effect that goes wrong in every way."""

    reads: ClassVar = ()

    async def run(self, query: Query, outcome: Outcome, ctx: Context) -> None:
        await fault(query, ctx)


def registry() -> Registry:
    """The toy plugin, and this one."""
    own = Plugin(
        namespace="soak",
        components={
            "hydrator": {"unlucky": Unlucky},
            "source": {"luckless": Luckless},
            "side_effect": {"wish": Wish},
        },
        keys=[FLAKY],
    )
    given = toy_registry()._key_sources
    return Registry([own, *(plugin for plugin, *_ in given)])


def config_of(number: int) -> str:
    """A config that stamps a number; every few it opens other resources, and what is cached or guarded changes."""
    cached = 'run = { cache = { ttl = "1h" } }' if number % 3 else ""
    text = spec(100 * number, base=number % 4, above=number % 2, hydrated=cached, effect="takes = 0.03")
    text = text.replace('"stamped", "nested"', '"stamped", "nested", "luckless"')
    text = text.replace('hydrators = ["hydrated"]', 'hydrators = ["hydrated", "unlucky"]')
    text = text.replace('side_effects = ["effect"]', 'side_effects = ["effect", "wish", "tell"]\ndeadline = "1s"')
    return (
        text
        + """
[components.luckless]
use = "soak.luckless"
run = { timeout = "10ms", on_error = "fallback:spare", breaker = { failure_rate = 0.9 } }
[components.spare]
use = "soak.luckless"
run = { timeout = "10ms" }
[components.unlucky]
use = "soak.unlucky"
run = { timeout = "10ms", on_error = "skip" }
[components.wish]
use = "soak.wish"
run = { timeout = "10ms", retries = 1, backoff = "5ms" }
[components.tell]
use = "soak.wish"
run = { timeout = "10ms", sync = true, on_error = "fail" }
"""
    )


@attrs.define
class Soak:
    """All that watches, and what came of it.

    Args:
        folder: Where captures go.
        served: By generation, the number that it stamps.
        ends: How requests ended.
        answered: The ids of those that were answered.
        reloads: How reloads ended.
        lines: What was logged.
    """

    folder: Path
    served: dict[int, int] = attrs.field(factory=dict)
    ends: Counter[str] = attrs.field(factory=Counter)
    answered: list[str] = attrs.field(factory=list)
    reloads: Counter[str] = attrs.field(factory=Counter)
    lines: list[dict[str, Any]] = attrs.field(factory=list)
    heard: Heard = attrs.field(factory=Heard)
    spans: InMemorySpanExporter = attrs.field(factory=InMemorySpanExporter)
    started: list[str] = attrs.field(factory=list)
    metrics: CollectorRegistry = attrs.field(factory=CollectorRegistry)
    captures: Captures = attrs.field(init=False)

    @captures.default
    def _captures(self) -> Captures:
        return Captures(self.folder, sample=0.25, max_pending=10_000)

    def observers(self) -> list[Any]:
        """All there are."""
        provider = TracerProvider()
        began = self.started

        class Starts(SimpleSpanProcessor):
            def on_start(self, span: Any, parent_context: Any = None) -> None:
                began.append(span.name)

        provider.add_span_processor(Starts(self.spans))
        return [RequestLog(), OpenTelemetryObserver(provider), PrometheusObserver(self.metrics), self.heard]

    def read(self, name: str, *labels: str) -> Counter[Any]:
        """A metric, summed over all but some labels."""
        found: Counter[Any] = Counter()
        for family in self.metrics.collect():
            for sample in family.samples:
                if sample.name == f"candidate_pipeline_{name}":
                    found[tuple(sample.labels[label] for label in labels)] += int(sample.value)
        return found


async def ask(app: Any, number: int, soak: Soak) -> None:
    """One request; a few are given up."""
    dice = random.Random(SEED + number)  # noqa: S311  # nothing secret
    name = f"r{number}"
    task = asyncio.create_task(app["main"].run(who=1, request_id=name))
    if dice.random() < 0.1:
        await asyncio.sleep(dice.random() * 0.02)
        task.cancel()
    try:
        outcome = await task
    except RequestError:
        soak.ends["failed"] += 1
    except asyncio.CancelledError:
        soak.ends["cancelled"] += 1
    else:
        soak.ends["ok"] += 1
        soak.answered.append(name)
        own = outcome.selected.take(outcome.selected[ITEM_ID] < 7)  # those that never fail
        found = {int(value) for column in (SOURCE, HYDRATED, SCORED, FEATURE, INNER) for value in own[column]}
        assert found == {soak.served[outcome.trace.generation]}


async def reload(app: Any, config: Config, number: int, soak: Soak) -> None:
    """Another config, every fourth of which is broken."""
    broken = number % 4 == 3
    text = config_of(number)
    if broken:
        text = "[" if number % 8 == 7 else text.replace("tag = ", "tag = 6")
    config.write(text)
    soak.served[app.generation + 1] = 100 * number
    try:
        found = await app.reload()
    except (SpecError, MisconfigurationError):
        soak.reloads["failed"] += 1
        assert broken
    else:
        soak.reloads["changed" if found.changed else "unchanged"] += 1
        assert not broken


async def serve(config: Config, soak: Soak, complaints: list[Any]) -> None:
    """All requests, while the config changes."""
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    soak.served[0] = 0
    app = live(config.path, registry=registry(), poll=None, observers=soak.observers(), captures=soak.captures)
    async with app:
        left = iter(range(REQUESTS))

        async def worker() -> None:
            for number in left:
                if number % LOT == LOT - 1:
                    await reload(app, config, 1 + number // LOT, soak)
                await ask(app, number, soak)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(worker())
    assert app.captures is not None
    sampled = [name for name in soak.answered if soak.captures.sampled(name)]
    assert (app.captures.saved, app.captures.failed) == (len(sampled), 0)
    assert (app.captures.left_out, app.captures.waiting) == (0, 0)
    assert sorted(each.request_id for each in captures_in(soak.folder)) == sorted(sampled)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
def soak(tmp_path: Path) -> Iterator[Soak]:
    """All that watches; what is logged goes to it."""
    found, before = Soak(tmp_path / "captures"), structlog.get_config()

    def keep(_logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        found.lines.append({"level": method, **event})
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    yield found
    structlog.configure(**before)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """An empty ledger, at whose end nothing is open."""
    yield from fresh_ledger()


def left_over() -> Counter[str]:
    """What the process holds."""
    gc.collect()
    kinds = {"Generation", "Runtime", "Plan", "Outcome", "Recorder", "Calls", "Live", "Task", "Span"}
    found = Counter(name for each in gc.get_objects() if (name := type(each).__name__) in kinds)
    found["files"] = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    return found


def test_everything_at_once(ledger: Ledger, tmp_path: Path, soak: Soak) -> None:
    """Whatever goes wrong, traces, spans, metrics, log lines and captures tell the same, and nothing is left."""
    config = Config(tmp_path / "pipelines.toml")
    config.write(config_of(0))
    complaints: list[Any] = []
    before = left_over()
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(serve(config, soak, complaints))
        runner.run(until(lambda: not [each for each in threading.enumerate() if "capture" in each.name]))
    assert complaints == []
    assert ledger.tags() == []
    assert min(soak.ends[end] for end in ("ok", "failed", "cancelled")) > 20
    assert soak.ends.total() == REQUESTS
    check_log(soak)
    check_metrics(soak)
    check_spans(soak)
    soak.heard.requests.clear()
    soak.spans.clear()
    soak.lines.clear()
    assert left_over() - before == Counter()


def check_log(soak: Soak) -> None:
    """One line a request, by how it ended; a line for each reload."""
    lines = [line for line in soak.lines if line["event"] == "request"]
    assert Counter(line["status"] for line in lines) == soak.ends
    assert len({line["request_id"] for line in lines}) == REQUESTS
    assert sum(line["event"] == "config loaded" for line in soak.lines) == 1 + soak.reloads["changed"]
    assert not [line for line in soak.lines if "observer" in line["event"]]


def check_metrics(soak: Soak) -> None:
    """They are the sums over what an observer heard."""
    outer = [each for each in soak.heard.requests if not each.info.inside]
    inner = Counter(each.ends[0][0] for each in soak.heard.requests if each.info.inside)
    told = soak.read("requests_total", "nested", "status")
    assert {status: count for (nested, status), count in told.items() if nested == "false"} == soak.ends
    assert {status: count for (nested, status), count in told.items() if nested == "true"} == inner
    assert all(len(each.ends) == 1 for each in soak.heard.requests)
    calls = Counter(
        (entry.component, entry.status) for each in soak.heard.requests for entry in each.ends[0][1].entries
    )
    assert soak.read("component_calls_total", "component", "status") == calls
    rows = Counter(len(each.ends[0][1]) for each in outer)
    assert rows.total() == REQUESTS
    effects = [call for call in soak.heard.calls if call.info.what == "side_effect"]
    assert soak.read("side_effects_total").total() == len(effects)
    assert soak.read("side_effects_pending").total() == 0
    reloads = {status: count for (status,), count in soak.read("reloads_total", "status").items()}
    assert reloads == soak.reloads + Counter(changed=1)
    assert soak.read("generation", "pipeline")["main",] == soak.reloads["changed"]
    assert soak.read("config_info", "pipeline") == {("main",): 1, ("inner",): 1}
    assert soak.read("abandoned_tasks").total() == 0


def check_spans(soak: Soak) -> None:
    """One for each request and each call, all ended, each below its own request's."""
    spans = soak.spans.get_finished_spans()
    assert Counter(span.name for span in spans) == Counter(soak.started)
    assert len(spans) == len(soak.heard.requests) + len(soak.heard.calls)
    assert all(len(call.ends) == 1 for call in soak.heard.calls)
    requests = {span.context.span_id: span for span in spans if span.name == "candidate_pipeline.request"}
    assert len(requests) == len(soak.heard.requests)
    roots = Counter(
        (span.attributes or {})["candidate_pipeline.request_id"] for span in requests.values() if not span.parent
    )
    assert set(roots.values()) == {1}
    assert len(roots) == REQUESTS
    for span in spans:
        if span.parent is not None and span.parent.span_id in requests:
            assert span.context.trace_id == requests[span.parent.span_id].context.trace_id
