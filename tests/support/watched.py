"""Requests that go wrong in every way, for tests of observers."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Sequence
from typing import Any

import attrs
from chaos import Chaos, pipeline
from toys import until

from candidate_pipeline import App, Outcome, RequestError
from candidate_pipeline.engine.trace import ComponentTrace, Trace
from candidate_pipeline.observe import CallInfo, CallObserver, Observer, RequestInfo, RequestObserver
from candidate_pipeline.testing import run_in_virtual_time

START = dt.datetime(2026, 5, 15, tzinfo=dt.UTC)


@attrs.define(eq=False)
class HeardCall(CallObserver):
    """What was told of a call.

    Args:
        info: What began.
        ends: How it ended: its record, or `None` if it was cut off; one, if all is well.
        error: What it raised.
    """

    info: CallInfo
    ends: list[ComponentTrace | None] = attrs.field(factory=list)
    error: BaseException | None = None

    def ended(self, entry: ComponentTrace, error: BaseException | None) -> None:
        """Note it."""
        self.ends.append(entry)
        self.error = error

    def cancelled(self) -> None:
        """Note it."""
        self.ends.append(None)


@attrs.define(eq=False)
class HeardRequest(RequestObserver):
    """What was told of a request.

    Args:
        info: What began.
        calls: Its calls.
        ends: How it ended, and its trace; one, if all is well.
        events: Fallbacks and refills.
    """

    info: RequestInfo
    calls: list[HeardCall] = attrs.field(factory=list)
    ends: list[tuple[str, Trace]] = attrs.field(factory=list)
    events: list[tuple[Any, ...]] = attrs.field(factory=list)

    def component(self, call: CallInfo) -> CallObserver:
        """Note it."""
        self.calls.append(HeardCall(call))
        return self.calls[-1]

    def fallback(self, entry: ComponentTrace, by: str) -> None:
        """Note it."""
        self.events.append(("fallback", entry.component, by))

    def refill(self, number: int, missing: int) -> None:
        """Note it."""
        self.events.append(("refill", number, missing))

    def finished(self, outcome: Outcome) -> None:
        """Note it."""
        self.ends.append(("ok", outcome.trace))

    def failed(self, error: BaseException, trace: Trace) -> None:
        """Note it."""
        self.ends.append(("failed", trace))

    def cancelled(self, trace: Trace) -> None:
        """Note it."""
        self.ends.append(("cancelled", trace))


@attrs.define(eq=False)
class Heard:
    """An observer that notes everything."""

    requests: list[HeardRequest] = attrs.field(factory=list)

    def request(self, request: RequestInfo) -> RequestObserver:
        """Note it."""
        self.requests.append(HeardRequest(request))
        return self.requests[-1]

    @property
    def calls(self) -> list[HeardCall]:
        """The calls of all requests."""
        return [call for request in self.requests for call in request.calls]


def chaotic(
    observers: Sequence[Observer], seed: int = 1, requests: int = 200, at_once: int = 8, calm: bool = False
) -> tuple[list[Outcome | BaseException], App]:
    """What came of requests to a pipeline that uses everything the engine has; some are cancelled.

    All side effects have ended when it returns.
    """
    found: list[Outcome | BaseException] = []
    app = pipeline(Chaos(seed, calm), [], observers)

    async def ask(number: int) -> None:
        dice = random.Random(f"{seed} {number}")  # noqa: S311  # nothing secret
        task = asyncio.create_task(
            app["main"].run(
                viewer=dice.randrange(12),
                mood=dice.choice(("calm", "wild")),
                seed=number,
                request_id=f"r{number}",
                now=START + dt.timedelta(milliseconds=5 * number),
            )
        )
        if not calm and dice.random() < 0.06:
            await asyncio.sleep(dice.random() * 0.01)
            task.cancel()
        try:
            found.append(await task)
        except (RequestError, asyncio.CancelledError) as error:
            found.append(error)

    async def serve() -> None:
        left = iter(range(requests))

        async def worker() -> None:
            for number in left:
                await ask(number)

        async with app:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(worker())
            runtime = app.runtime
            await until(lambda: not any(counts.pending for counts in runtime.background.counts().values()))
            await until(lambda: runtime.abandoned == 0)

    run_in_virtual_time(serve())
    return found, app
