"""Policies at work: circuit breakers and fallbacks with gates. Time is virtual."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from toys import (
    BLOCKED,
    CLOSED,
    INPUTS,
    LEVEL,
    PLAN,
    PRICE,
    REQUEST,
    best_first,
    broken,
    entry_of,
    hanging,
    priced,
    rows,
    seconds,
    silent,
)

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    App,
    BreakerPolicy,
    Candidates,
    MisconfigurationError,
    Outcome,
    RequestError,
    RunPolicy,
    SafetyError,
    compose,
    query_patch,
)
from candidate_pipeline.testing import run_in_virtual_time

pytestmark = pytest.mark.usefixtures("logs")


# Breakers


class Flaky:
    """A source that does what it is told, with a breaker around it."""

    def __init__(self, make: Any, **policy: Any) -> None:
        """Start well."""
        self.does: Any = rows(1)
        self.calls = 0
        run: dict[str, Any] = {
            "timeout": seconds(1),
            "breaker": BreakerPolicy(min_calls=1, failure_rate=1, open_for=seconds(10)),
        }
        self.app: App = compose(
            "toy",
            query_hydrators=[make("query_hydrator", self.level, "levels", writes=[LEVEL])],
            sources=[make("source", self.fetch, "x", reads=[LEVEL]), make("source", rows(2), "y")],
            selector=make("selector", best_first, "top"),
            fallbacks=[make("source", rows(3), "spare")],
            inputs=INPUTS,
            run={"x": RunPolicy(**(run | policy))},
        )
        self.levels: Any = lambda: query_patch(LEVEL(1))

    def level(self, query: Any, ctx: Any) -> Any:
        """The query hydrator."""
        return self.levels()

    async def fetch(self, query: Any, ctx: Any) -> Any:
        """The source."""
        self.calls += 1
        answer = self.does(query, ctx)
        return await answer if asyncio.iscoroutine(answer) else answer

    async def ask(self, flag: bool = True) -> Any:
        """The source's record in one request."""
        return entry_of(await self.app["toy"].run(flag=flag), "x")


def serve(main: Any, flaky: Flaky) -> None:
    """Run a test in virtual time with the application open."""

    async def opened() -> None:
        async with flaky.app:
            await main()

    run_in_virtual_time(opened())


def test_circuit_opens_refuses_probes_and_closes(make: Any) -> None:
    """Failures open the circuit; it refuses at no cost, lets one call probe, opens again or closes; the trace says."""
    flaky = Flaky(make, breaker=BreakerPolicy(min_calls=4, failure_rate=0.5, window=seconds(30), open_for=seconds(10)))

    async def main() -> None:
        for good in (True, False, True):
            flaky.does = rows(1) if good else broken
            entry = await flaky.ask()
            assert (entry.status, entry.breaker) == ("ok" if good else "skipped", "")
        flaky.does = broken
        entry = await flaky.ask()
        assert (entry.error, entry.breaker) == ("ValueError: no", "open")
        await asyncio.sleep(4)
        entry = await flaky.ask()
        assert flaky.calls == 4
        assert (entry.status, entry.breaker, entry.elapsed_ms) == ("skipped", "open", 0)
        assert entry.error == ("the circuit is open: 2 of 4 calls failed in the last 30s; the next probe is in 6.0s")
        await asyncio.sleep(6)
        assert ((await flaky.ask()).error, flaky.calls) == ("ValueError: no", 5)
        assert (await flaky.ask()).error == "the circuit is open: the last probe failed; the next probe is in 10.0s"
        await asyncio.sleep(10)
        flaky.does = rows(1)
        assert [(entry.status, entry.breaker) for entry in (await flaky.ask(), await flaky.ask())] == [("ok", "")] * 2
        assert flaky.calls == 7

    serve(main, flaky)


def test_one_probe_at_a_time(make: Any) -> None:
    """While a probe is under way other requests go without the component; a probe that is cancelled is given back."""
    flaky = Flaky(make)

    async def slow(query: Any, ctx: Any) -> Candidates:
        await asyncio.sleep(0.5)
        return Candidates.of(ITEM_ID([1]))

    async def main() -> None:
        flaky.does = broken
        await flaky.ask()
        await asyncio.sleep(10)
        flaky.does = slow
        cancelled = asyncio.create_task(flaky.ask())
        await asyncio.sleep(0.1)
        refused = await flaky.ask()
        assert (refused.breaker, refused.error) == (
            "half-open",
            "the circuit is half-open: 1 of 1 calls failed in the last 30s; one call is under way as a probe",
        )
        cancelled.cancel()
        await asyncio.wait({cancelled})
        entry = await flaky.ask()
        assert (entry.status, entry.breaker) == ("ok", "")

    serve(main, flaky)


async def cancels_itself(*_: Any) -> Any:
    """Raise `CancelledError`."""
    raise asyncio.CancelledError


async def own_timeout(*_: Any) -> Any:
    """Raise a `TimeoutError` of its own."""
    raise TimeoutError("socket")


@pytest.mark.parametrize(
    "does",
    [broken, hanging, cancels_itself, own_timeout, lambda *_: [1], lambda *_: None],
    ids=["error", "timeout", "cancels itself", "own timeout", "wrong answer", "no answer"],
)
def test_what_opens_a_circuit(make: Any, does: Any) -> None:
    """Errors, timeouts and answers that break the contract count as failures of the component."""
    flaky = Flaky(make)

    async def main() -> None:
        flaky.does = does
        assert (await flaky.ask()).breaker == "open"
        assert (await flaky.ask()).error.startswith("the circuit is open: 1 of 1 calls failed")
        assert flaky.calls == 1

    serve(main, flaky)


def wrong_request(*_: Any) -> Any:
    """Raise what ends the request."""
    raise RequestError("unknown viewer")


def wrong_set_up(*_: Any) -> Any:
    """Raise what ends the request."""
    raise MisconfigurationError("no such table")


@pytest.mark.parametrize("what", ["request", "set-up", "cancelled", "gate", "feature", "undeclared"])
def test_what_does_not_open_a_circuit(make: Any, what: str) -> None:
    """What is not the component's failure leaves its circuit as it is."""
    flaky = Flaky(make, **({"when": {"toy.flag": True}} if what == "gate" else {}))

    async def main() -> None:
        if what == "cancelled":
            flaky.does = hanging
            request = asyncio.create_task(flaky.ask())
            await asyncio.sleep(0.5)
            request.cancel()
            await asyncio.wait({request})
        elif what == "gate":
            assert (await flaky.ask(flag=False)).status == "closed"
        elif what == "feature":
            flaky.levels = broken
            assert (await flaky.ask()).error == "query feature toy.level failed: levels: ValueError: no"
            flaky.levels = lambda: query_patch(LEVEL(1))
        else:
            undeclared = lambda query, ctx: query[PLAN]  # noqa: E731  # beside the other two
            flaky.does = {"request": wrong_request, "set-up": wrong_set_up, "undeclared": undeclared}[what]
            with pytest.raises((RequestError, MisconfigurationError)):
                await flaky.ask()
        flaky.does = rows(1)
        entry = await flaky.ask()
        assert (entry.status, entry.breaker) == ("ok", "")

    serve(main, flaky)


def test_an_open_circuit_falls_under_the_policy(make: Any) -> None:
    """What is refused is an error: `on_error` decides, not `on_timeout`, though timeouts opened the circuit."""
    flaky = Flaky(make, on_error="fallback:spare", on_timeout="skip")

    async def main() -> None:
        flaky.does = hanging
        first: Outcome = await flaky.app["toy"].run(flag=True)
        second: Outcome = await flaky.app["toy"].run(flag=True)
        assert first.item_ids.tolist() == [2]
        assert second.item_ids.tolist() == [3, 2]
        assert entry_of(second, "x").by == "spare"

    serve(main, flaky)


# Fallbacks


def test_a_fallback_has_its_own_gate(run: Any, make: Any) -> None:
    """What takes over is asked for its own conditions; the record of the failed one stays a failure."""
    spare = make("hydrator", priced, "spare", writes=[PRICE])
    policies = {"x": RunPolicy(on_error="fallback:spare"), "spare": RunPolicy(when={"toy.flag": True})}
    outcome = run(
        hydrators=[make("hydrator", broken, "x", writes=[PRICE])],
        fallbacks=[spare],
        inputs=INPUTS,
        request=REQUEST,
        policies=policies,
    )
    assert [(entry.component, entry.status) for entry in outcome.trace if entry.stage == "hydrators"] == [
        ("x", "fallback"),
        ("spare", "ok"),
    ]
    assert outcome.selected.valid(PRICE).all()


def test_a_closed_fallback_does_not_turn_a_failure_into_nothing(run: Any, make: Any) -> None:
    """When nobody could stand in, cells are failed, and features too: a default block list lets nobody pass."""
    stages: dict[str, Any] = {"inputs": INPUTS, "request": REQUEST}
    policies = {"x": RunPolicy(on_error="fallback:spare"), "spare": CLOSED}
    outcome = run(
        hydrators=[make("hydrator", broken, "x", writes=[PRICE])],
        fallbacks=[make("hydrator", priced, "spare", writes=[PRICE])],
        policies=policies,
        **stages,
    )
    assert [(entry.component, entry.status) for entry in outcome.trace if entry.stage == "hydrators"] == [
        ("x", "fallback"),
        ("spare", "closed"),
    ]
    assert outcome.selected.failed(PRICE).all()
    with pytest.raises(SafetyError, match=r"query feature toy\.blocked failed: spare: toy\.flag is True"):
        run(
            query_hydrators=[make("query_hydrator", broken, "x", writes=[BLOCKED])],
            fallbacks=[make("query_hydrator", silent, "spare", writes=[BLOCKED])],
            filters=[
                make("filter", lambda q, c, ctx: ~np.isin(c[ITEM_ID], q[BLOCKED]), "f", reads=[BLOCKED], safety=True)
            ],
            policies=policies,
            **stages,
        )
    with pytest.raises(RequestError) as caught:
        run(
            scorers=[make("scorer", broken, "x", writes=[SCORE])],
            fallbacks=[make("scorer", broken, "spare", writes=[SCORE])],
            policies=policies,
            **stages,
        )
    assert str(caught.value) == (
        "pipeline 'toy': scorer spare (ToyScorer) failed: its gate was closed: toy.flag is True, wanted is False; it "
        "stood in for x, which failed: ValueError: no"
    )


def test_a_closed_fallback_hands_on(run: Any, make: Any) -> None:
    """A closed fallback that has a fallback itself leaves the work to that one."""
    outcome = run(
        sources=[make("source", broken, "x")],
        fallbacks=[make("source", broken, "a"), make("source", rows(5), "b")],
        inputs=INPUTS,
        request=REQUEST,
        policies={
            "x": RunPolicy(on_error="fallback:a"),
            "a": RunPolicy(on_error="fallback:b", when={"toy.flag": False}),
        },
    )
    assert outcome.item_ids.tolist() == [5]
    assert [(entry.component, entry.status, entry.by) for entry in outcome.trace if entry.stage == "sources"] == [
        ("x", "fallback", "a"),
        ("a", "closed", "b"),
        ("b", "ok", ""),
    ]
