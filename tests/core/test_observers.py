"""Observers: what the engine tells them and when, and that nothing they do harms a request."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from structlog.testing import capture_logs
from toys import CLOSED, INPUTS, PRICE, REQUEST, best_first, broken, hanging, later_rows, prices, rows, seconds
from watched import Heard, HeardCall, HeardRequest, chaotic

from candidate_pipeline import (
    MisconfigurationError,
    NestedPipeline,
    Outcome,
    RequestError,
    RunPolicy,
    SafetyError,
    compose,
)
from candidate_pipeline.observe import CallInfo, CallObserver, Observer, RequestInfo, RequestObserver
from candidate_pipeline.testing import run_in_virtual_time

pytestmark = pytest.mark.filterwarnings("error")

#: A variable that observers set.
MARK: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="nobody")


@pytest.fixture(scope="module")
def stormy() -> tuple[Heard, list[Any]]:
    """What an observer heard of requests in which everything went wrong, and what came of them."""
    heard = Heard()
    with capture_logs():
        found, _ = chaotic([heard], requests=600)
    return heard, found


def served(make: Any, observers: list[Observer], request: Any = None, **given: Any) -> Outcome:
    """The outcome of one request to a toy pipeline, after all side effects."""
    stages = {"sources": [make("source", rows(1, 2, 3), "source")], "selector": make("selector", best_first, "top")}
    app = compose("toy", **(stages | given), observers=observers)

    async def serve() -> Outcome:
        async with app:
            return await app["toy"].run(request_id="r1", **(request or {}))

    return run_in_virtual_time(serve())


def test_each_request_and_each_call_has_one_end(stormy: tuple[Heard, list[Any]]) -> None:
    """Whatever happens, an observer hears of one end of each request and of each call that began."""
    heard, found = stormy
    assert {len(request.ends) for request in heard.requests} == {1}
    assert {len(call.ends) for call in heard.calls} == {1}
    assert sum(not request.info.inside for request in heard.requests) == len(found)
    ends = [request.ends[0][0] for request in heard.requests if not request.info.inside]
    kinds = {Outcome: "ok", RequestError: "failed", SafetyError: "failed", asyncio.CancelledError: "cancelled"}
    assert sorted(ends) == sorted(kinds[type(each)] for each in found)
    assert set(ends) == set(kinds.values())
    assert {call.info.what for call in heard.calls} == {"call", "prepare", "side_effect"}


def test_calls_are_the_records_of_the_trace(stormy: tuple[Heard, list[Any]]) -> None:
    """The records that calls ended with are those of the trace, each once; beside them stand only those documented."""
    heard, _ = stormy
    for request in heard.requests:
        ((_, trace),) = request.ends
        told = [call.ends[0] for call in request.calls if call.ends[0] is not None]
        listed = {id(entry) for entry in trace}
        assert listed <= {id(entry) for entry in told}
        extra = [call for call in request.calls if call.ends[0] is not None and id(call.ends[0]) not in listed]
        assert {call.info.what for call in extra} <= {"prepare", "side_effect"}
        fallbacks = [("fallback", entry.component, entry.by) for entry in trace if entry.status == "fallback"]
        assert [event for event in request.events if event[0] == "fallback"] == fallbacks
        rounds = {entry.refill for entry in trace if entry.refill}
        assert rounds <= {event[1] for event in request.events if event[0] == "refill"}


def test_observed_requests_are_answered_alike(stormy: tuple[Heard, list[Any]]) -> None:
    """With calm components, what a pipeline answers does not depend on whether it is observed."""
    with capture_logs():
        quiet, _ = chaotic([], calm=True, requests=60)
        loud, _ = chaotic([Heard()], calm=True, requests=60)
    answers = [
        {each.query.request_id: each.item_ids.tolist() for each in found if isinstance(each, Outcome)}
        for found in (quiet, loud)
    ]
    assert len(answers[0]) == 60
    assert answers[0] == answers[1]


def test_a_request_is_told_in_order(make: Any) -> None:
    """A call's information names the component, the rows it is given and whom it stands in for."""
    heard = Heard()
    outcome = served(
        make,
        [heard],
        request=REQUEST,
        inputs=INPUTS,
        hydrators=[make("hydrator", broken, "price", writes=[PRICE])],
        fallbacks=[make("hydrator", prices(1.0), "spare", writes=[PRICE])],
        filters=[make("filter", lambda query, rows, ctx: rows.valid(PRICE), "kept", reads=[PRICE])],
        post_selection_filters=[make("filter", broken, "closed")],
        run={"price": RunPolicy(on_error="fallback:spare"), "closed": CLOSED},
    )
    (request,) = heard.requests
    assert (request.info.pipeline, request.info.query.request_id, request.info.inside) == ("toy", "r1", ())
    told = [(c.info.node.name, c.info.what, c.info.rows_in, c.info.instead_of) for c in request.calls]
    assert told == [
        ("source", "call", 0, ""),
        ("price", "call", 3, ""),
        ("spare", "call", 3, "price"),
        ("kept", "call", 3, ""),
        ("top", "call", 3, ""),
        ("closed", "call", 3, ""),
    ]
    assert [getattr(call.ends[0], "status", None) for call in request.calls] == [
        "ok",
        "fallback",
        "ok",
        "ok",
        "ok",
        "closed",
    ]
    assert [type(call.error) for call in request.calls][:3] == [type(None), ValueError, type(None)]
    assert request.events == [("fallback", "price", "spare")]
    assert request.ends == [("ok", outcome.trace)]


def test_a_nested_pipeline_is_a_request_of_its_own(make: Any) -> None:
    """It begins after its component's call and ends before it, and says inside which component it is."""
    inner = compose("inner", sources=[make("source", rows(7), "shelf")], selector=make("selector", best_first, "pick"))[
        "inner"
    ]
    heard = Heard()
    served(make, [heard], sources=[("nest", NestedPipeline(inner.plan))])
    outer, nested = heard.requests
    assert (nested.info.pipeline, nested.info.inside) == ("inner", ("nest",))
    assert [call.info.node.name for call in nested.calls] == ["shelf", "pick"]
    entry = outer.calls[0].ends[0]
    assert entry is not None
    assert entry.inner == nested.ends[0][1]


def test_side_effects_end_after_the_response(make: Any, logs: Any) -> None:
    """A side effect is one call for all its tries, and those that are dropped are told as well."""
    tries = []

    async def tell(query: Any, outcome: Any, ctx: Any) -> None:
        tries.append(MARK.get())
        await asyncio.sleep(1)
        if len(tries) < 3:
            raise ValueError("again")

    heard = Heard()
    effects = [make("side_effect", tell, "tell"), make("side_effect", tell, "late")]
    served(make, [heard], side_effects=effects, run={"late": RunPolicy(max_pending=1, retries=0)})
    (request,) = heard.requests
    told = {call.info.node.name: call for call in request.calls if call.info.what == "side_effect"}
    entries = {name: call.ends[0] for name, call in told.items()}
    assert {name: entry.status for name, entry in entries.items() if entry is not None} == {
        "tell": "ok",
        "late": "skipped",
    }
    assert str(told["late"].error) == "again"


def test_cut_off_calls_are_cancelled(make: Any) -> None:
    """When one component fails the request, the others' calls end as cancelled, and the request as failed."""
    heard = Heard()
    stages = {"sources": [make("source", hanging, "slow"), make("source", later_rows(1, after=1), "quick")]}
    with pytest.raises(RequestError):
        served(
            make,
            [heard],
            **stages,
            hydrators=[make("hydrator", broken, "bad", writes=[PRICE]), make("hydrator", hanging, "wait")],
            run={"slow": RunPolicy(timeout=seconds(2)), "bad": RunPolicy(on_error="fail")},
        )
    (request,) = heard.requests
    ends = {call.info.node.name: call.ends[0] for call in request.calls}
    assert {name: None if entry is None else entry.status for name, entry in ends.items()} == {
        "slow": "skipped",
        "quick": "ok",
        "bad": "skipped",
        "wait": None,
    }
    assert request.ends[0][0] == "failed"
    assert [entry.component for entry in request.ends[0][1]] == ["quick", "slow", "bad"]


# What observers set and raise


@attrs.frozen
class Marks:
    """Sets a context variable in every call."""

    mark: str

    def request(self, request: RequestInfo) -> RequestObserver:
        return _Marking(self.mark)


@attrs.frozen
class _Marking(RequestObserver):
    mark: str

    def component(self, call: CallInfo) -> CallObserver | None:
        MARK.set(f"{MARK.get()} {self.mark} {call.node.name} {call.what}")
        return None


def test_a_call_sees_what_observers_set_and_nobody_else_does(make: Any) -> None:
    """A variable set for a call reaches its code however it is called, and no other component and not the caller."""
    seen: dict[str, str] = {}

    def note(name: str, result: Callable[..., Any]) -> Callable[..., Any]:
        def work(*args: Any) -> Any:
            seen[name] = MARK.get()
            return result(*args)

        return work

    async def prepare(query: Any, ctx: Any) -> None:
        seen["prepare"] = MARK.get()

    async def later(query: Any, ctx: Any) -> Any:
        await asyncio.sleep(1)
        return note("later", rows(3))(query, ctx)

    served(
        make,
        [Marks("one"), Marks("two")],
        sources=[
            make("source", note("plain", rows(1)), "plain"),
            make("source", note("thread", rows(2)), "thread", blocking=True),
            make("source", later, "later"),
        ],
        hydrators=[make("hydrator", note("hydrator", lambda *_: None), "quiet", prepare=prepare)],
        selector=make("selector", note("top", best_first), "top"),
        side_effects=[make("side_effect", note("effect", lambda *_: None), "effect")],
        run={"quiet": RunPolicy(on_error="skip")},
    )
    expected = {"plain": "plain", "thread": "thread", "later": "later", "top": "top"}
    wanted = {name: f"nobody one {each} call two {each} call" for name, each in expected.items()}
    wanted |= {"hydrator": "nobody one quiet call two quiet call"}
    wanted |= {"prepare": "nobody one quiet prepare two quiet prepare"}
    wanted |= {"effect": "nobody one effect side_effect two effect side_effect"}
    assert seen == wanted
    assert MARK.get() == "nobody"


class Raising(RequestObserver, CallObserver):
    """An observer whose every hook raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.heard = 0

    def _raise(self, *_: Any) -> Any:
        self.heard += 1
        raise self.error

    finished = failed = fallback = refill = ended = _raise  # type: ignore[assignment]

    def cancelled(self, *_: Any) -> None:
        self._raise()

    def component(self, call: CallInfo) -> CallObserver:
        self.heard += 1
        return self

    def request(self, request: RequestInfo) -> RequestObserver:
        return self


@pytest.mark.parametrize("error", [ValueError("no"), StopIteration(), asyncio.CancelledError(), RequestError("mine")])
def test_an_observer_that_raises_harms_nothing(error: BaseException, make: Any) -> None:
    """Requests go on, other observers hear everything, and the log says once which observer raised what."""
    raising, heard = Raising(error), Heard()
    with capture_logs() as logs:
        found, _ = chaotic([raising, heard], calm=True, requests=30)
    assert all(isinstance(each, Outcome) for each in found)
    assert raising.heard > 500
    assert {len(call.ends) for call in heard.calls} == {1}
    complaints = [entry for entry in logs if "observer raised" in entry["event"]]
    assert [(entry["observer"], entry["log_level"]) for entry in complaints] == [("Raising", "error")]
    assert type(error).__name__ in complaints[0]["error"]


def test_failures_of_a_component_are_told_in_spite_of_a_raising_observer(make: Any) -> None:
    """A request that fails raises its own error, not an observer's."""
    raising = Raising(ValueError("not this"))
    with capture_logs(), pytest.raises(RequestError, match="selector top"):
        served(make, [raising], selector=make("selector", broken, "top"))


@pytest.mark.parametrize("observer", [Heard, object(), None, "log"])
def test_what_is_no_observer_is_refused(observer: Any, make: Any) -> None:
    """A class in place of an instance, or something else altogether, is named when the application opens."""
    with pytest.raises(MisconfigurationError, match="wanted an object with a method request, found") as caught:
        served(make, [observer])
    assert ("did you mean Heard()?" in str(caught.value)) == (observer is Heard)


def test_an_observer_may_pass_a_request_over(make: Any) -> None:
    """`None` for a request means that nothing of it is told."""

    @attrs.define
    class Sampling:
        asked: int = 0

        def request(self, request: RequestInfo) -> RequestObserver | None:
            self.asked += 1
            return None

    sampling = Sampling()
    assert len(served(make, [sampling]).selected) == 3
    assert sampling.asked == 1


def test_base_classes_hear_everything_and_do_nothing() -> None:
    """`RequestObserver` and `CallObserver` can be used as they are."""

    class Quiet(RequestObserver):
        def component(self, call: CallInfo) -> CallObserver:
            assert super().component(call) is None
            return CallObserver()

    class Quietly:
        def request(self, request: RequestInfo) -> RequestObserver:
            return Quiet()

    with capture_logs() as logs:
        chaotic([Quietly()], requests=100)
    assert [entry for entry in logs if "observer" in entry["event"]] == []


# What is imported


def run_python(code: str) -> str:
    """What a fresh interpreter prints."""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return found.stdout.strip()


def test_nothing_is_imported_without_observers() -> None:
    """The framework, and the log observer, import neither OpenTelemetry nor Prometheus."""
    code = (
        "import sys, candidate_pipeline, candidate_pipeline.app, candidate_pipeline.observe\n"
        "import candidate_pipeline.composition, candidate_pipeline.cli.run\n"
        "from candidate_pipeline.observers.log import RequestLog\n"
        "print(sorted(name for name in sys.modules if name.startswith(('opentelemetry', 'prometheus'))))"
    )
    assert run_python(code) == "[]"


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [("opentelemetry", "opentelemetry", "opentelemetry"), ("prometheus", "prometheus_client", "prometheus")],
)
def test_a_missing_client_library_names_the_extra(module: str, package: str, extra: str) -> None:
    """Without the client library the error says what to install."""
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from candidate_pipeline import MisconfigurationError\n"
        "try:\n"
        f"    import candidate_pipeline.observers.{module}\n"
        "except MisconfigurationError as error:\n"
        "    print(error)"
    )
    assert f"pip install 'candidate-pipeline[{extra}]'" in run_python(code)


def test_calls_of_a_healthy_request_are_counted(make: Any) -> None:
    """Each component of a plain pipeline is told of exactly once, and so is the request."""
    heard = Heard()
    served(make, [heard], hydrators=[make("hydrator", prices(1.0), "price", writes=[PRICE])])
    assert [type(each) for each in (heard.requests[0], heard.calls[0])] == [HeardRequest, HeardCall]
    assert [call.info.node.name for call in heard.calls] == ["source", "price", "top"]
