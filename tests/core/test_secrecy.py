"""Values that a spec takes from the environment stand in no trace, log or span."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

from candidate_pipeline import (
    ITEM_ID,
    App,
    Candidates,
    Context,
    DataError,
    MisconfigurationError,
    Outcome,
    Plugin,
    Query,
    Registry,
    RequestError,
    load_document,
    rank_order,
)
from candidate_pipeline.observe import RequestObserver
from candidate_pipeline.observers.log import RequestLog
from candidate_pipeline.observers.opentelemetry import OpenTelemetryObserver
from candidate_pipeline.secrecy import HIDDEN, Secrets
from candidate_pipeline.spec.document import Document

SECRET = "redis://user:hunter2@db"  # noqa: S105 - of a test


@attrs.frozen
class Store:
    """A resource that tells too much when it cannot be opened."""

    url: str
    broken: bool = False
    known: bool = False

    def open(self) -> None:
        if self.broken:
            raise (DataError if self.known else ConnectionError)(f"cannot reach {self.url}")

    def close(self) -> None:
        raise ConnectionError(f"cannot leave {self.url}")


@attrs.frozen
class Rows:
    """A source that answers."""

    reads: ClassVar = ()
    writes: ClassVar = (ITEM_ID,)

    def fetch(self, query: Query, ctx: Context) -> Candidates:
        return Candidates.of(ITEM_ID(np.arange(3)))


@attrs.frozen
class Told:
    """A source that tells too much when it fails."""

    store: Store

    reads: ClassVar = ()
    writes: ClassVar = (ITEM_ID,)

    def fetch(self, query: Query, ctx: Context) -> Candidates:
        raise ConnectionError(f"no answer from {self.store.url}")


@attrs.frozen
class Sent:
    """A side effect that tells too much when it fails."""

    store: Store

    reads: ClassVar = ()

    def run(self, query: Query, outcome: Outcome, ctx: Context) -> None:
        raise ConnectionError(f"no answer from {self.store.url}")


@attrs.frozen
class Best:
    """A selector that takes all."""

    reads: ClassVar = ()

    def select(self, query: Query, candidates: Candidates, ctx: Context) -> Any:
        return rank_order(candidates)


REGISTRY = Registry(
    [
        Plugin(
            "toy",
            components={
                "resource": {"store": Store},
                "source": {"rows": Rows, "told": Told},
                "selector": {"best": Best},
                "side_effect": {"sent": Sent},
            },
        )
    ]
)

SPEC = """
schema = 1
[pipelines.feed]
sources = ["toy.rows", "told"]
selector = "toy.best"
side_effects = ["sent"]
[components.told]
use = "toy.told"
run = { on_error = "skip" }
[components.sent]
use = "toy.sent"
run = { retries = 0 }
[resources.store]
use = "toy.store"
url = { env = "TOY_URL" }
"""


@pytest.fixture(autouse=True)
def _url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_URL", SECRET)


def app_of(*changes: tuple[str, str], observers: Any = ()) -> App:
    """The toy's application with parts of its spec replaced."""
    text = SPEC
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return load_document(Document(text), registry=REGISTRY, observers=observers)


def test_traces_logs_and_spans_hide_it() -> None:
    """What a failing component, side effect or closing resource tells of a secret is hidden wherever it is kept."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with capture_logs() as logged:
        with app_of(observers=[RequestLog(), OpenTelemetryObserver(provider)]) as app:
            outcome = app["feed"].run_sync()
        told = [entry.error for entry in outcome.trace if entry.component == "told"]
    assert told == [f"ConnectionError: no answer from {HIDDEN}"]
    assert {"component failed", "request", "side effect failed", "closing a resource failed"} <= {
        entry["event"] for entry in logged
    }
    assert SECRET not in repr(logged)
    assert HIDDEN in repr(logged)
    assert not any(isinstance(entry.get("exc_info"), BaseException) for entry in logged)
    spans = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert SECRET not in spans
    assert spans.count(f"no answer from {HIDDEN}") >= 4  # messages and tracebacks of both


def test_a_failed_request_hides_it() -> None:
    """A request that fails says why without the secret."""
    with capture_logs(), app_of(('"skip"', '"fail"')) as app, pytest.raises(RequestError) as raised:
        app["feed"].run_sync()
    assert SECRET not in str(raised.value)
    assert HIDDEN in str(raised.value)


@pytest.mark.parametrize(("known", "error"), [("false", MisconfigurationError), ("true", DataError)])
def test_a_resource_that_does_not_open_hides_it(known: str, error: type[Exception]) -> None:
    """The message of a resource that cannot be opened holds no secret, whether its error is the framework's or not."""
    with pytest.raises(error) as raised:
        app_of(("url =", f"broken = true\nknown = {known}\nurl =")).__enter__()
    assert f"cannot reach {HIDDEN}" in str(raised.value)
    assert SECRET not in str(raised.value)


def test_longer_secrets_are_hidden_first() -> None:
    """A secret that is part of another leaves nothing of the longer one; short texts are settings and stay."""
    secrets = Secrets(["token", "token-2", "abc", ""])
    assert secrets.hide("token-2, token, abc") == f"{HIDDEN}, {HIDDEN}, abc"


def test_an_observer_that_fails_on_a_failure_tells_no_secret() -> None:
    """What it raises has the component's error as its context, which is logged with it."""

    class Clumsy(RequestObserver):
        def failed(self, error: BaseException, trace: Any) -> None:
            raise ValueError(f"what is {error.__cause__}?")

    class Clumsies:
        def request(self, request: Any) -> RequestObserver:
            return Clumsy()

    async def main() -> None:
        app = load_document(
            Document(SPEC.replace('on_error = "skip"', 'on_error = "fail"')), registry=REGISTRY, observers=[Clumsies()]
        )
        async with app:
            with pytest.raises(RequestError):
                await app["feed"].run()

    with capture_logs() as logs:
        asyncio.run(main())
    (line,) = [each for each in logs if each["event"].startswith("an observer raised")]
    assert line["error"].startswith("ValueError: what is")
    assert "hunter2" not in repr(logs)
