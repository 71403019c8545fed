"""Toy keys, component functions and small helpers that the tests of the engine share."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import attrs
import numpy as np

from candidate_pipeline import (
    ITEM_ID,
    App,
    CachePolicy,
    Candidates,
    Column,
    Outcome,
    QueryFeature,
    RunPolicy,
    compose,
    patch,
    query_patch,
    rank_order,
)
from candidate_pipeline.cells import FAILED, NULL, VALID
from candidate_pipeline.testing import VirtualTimeLoop, run_in_virtual_time

# Query features

BLOCKED = QueryFeature("toy.blocked", tuple, default=())
BUDGET = QueryFeature("toy.budget", float)
BUYER = QueryFeature("toy.buyer", int)
FLAG = QueryFeature("toy.flag", bool)
GUEST = QueryFeature("toy.guest", bool)
LEVEL = QueryFeature("toy.level", int)
PLAN = QueryFeature("toy.plan", str, default="free")
VIEWER = QueryFeature("toy.viewer", int)

# Columns

AUTHOR = Column("toy.author", np.int64)
HEADS = Column("toy.heads", np.float32, labels=("a", "b"))
THREE_HEADS = Column("toy.heads", np.float32, labels=("a", "b", "c"))
KIND = Column("toy.kind", np.int64)
LABEL = Column("toy.label", np.object_)
PRICE = Column("toy.price", np.float64)
RATED = Column("toy.rated", np.float64, default=3.0)
STOCK = Column("toy.stock", np.int64)
TITLE = Column("toy.title", np.object_)

# A pipeline with a flag as its only input, a request to it, and a component that this request's flag shuts out

INPUTS: Final = {"flag": FLAG}
REQUEST: Final = {"flag": True}
CLOSED: Final = RunPolicy(when={"toy.flag": False})

#: The clock of requests.
NOW: Final = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
#: A cache for ten seconds.
TTL: Final = CachePolicy(ttl=dt.timedelta(seconds=10))
#: Seconds of the real clock after which a test that hangs fails.
LONG: Final = 20.0
#: A variable of the caller's, for those who may see it.
WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
#: What a trace adds to the error of a component that the end of the request cut short.
DEADLINE_TEXT: Final = "(the deadline of the request)"


# Time


def seconds(number: float) -> dt.timedelta:
    """A duration."""
    return dt.timedelta(seconds=number)


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


def hold(time: float) -> None:
    """Let virtual time pass without a turn of the event loop, as what blocks it does, or a thread that works."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop._jumping.now += time


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event of the loop's
            await asyncio.sleep(0.001)


def serve(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test in virtual time."""
    run_in_virtual_time(main())


# What components do


def three_rows(query: Any, ctx: Any) -> Candidates:
    """A source of the items 1, 2 and 3."""
    return Candidates.of(ITEM_ID([1, 2, 3]))


def rows(*ids: int) -> Any:
    """A source function, as a plain def."""
    return lambda query, ctx: Candidates.of(ITEM_ID(list(ids)))


def later_rows(*ids: int, after: float = 0.0, updates: Sequence[Any] = ()) -> Any:
    """A source function that gives items, and columns of them, after some seconds."""

    async def fetch(query: Any, ctx: Any) -> Candidates:
        await asyncio.sleep(after)
        return Candidates.of(ITEM_ID(list(ids)), *updates)

    return fetch


def silent(query: Any, ctx: Any) -> Any:
    """A query hydrator that finds nothing."""
    return query_patch()


def priced(query: Any, candidates: Candidates, ctx: Any) -> Any:
    """A hydrator of prices."""
    return patch(PRICE(np.ones(len(candidates))))


def prices(after: float, price: float = 1.0) -> Any:
    """A hydrator function that gives prices after some seconds."""

    async def hydrate(query: Any, candidates: Candidates, ctx: Any) -> Any:
        await asyncio.sleep(after)
        return patch(PRICE(np.full(len(candidates), price)))

    return hydrate


def best_first(query: Any, candidates: Candidates, ctx: Any) -> Any:
    """Select all rows, best first."""
    return rank_order(candidates)


def best_by_rules(query: Any, candidates: Candidates, ctx: Any) -> Any:
    """Select all rows, best first by the rules of the pipeline's semantics."""
    return rank_order(candidates, ctx.semantics)


def broken(*_: Any) -> Any:
    """A component that raises."""
    raise ValueError("no")


def plain_failure(*_: Any) -> Any:
    """A plain def that raises what nobody expects of a component."""
    raise ZeroDivisionError("oops")


def raising(error: BaseException, after: float = 0.0) -> Any:
    """A coroutine function that raises."""

    async def fail(*_: Any) -> Any:
        await asyncio.sleep(after)
        raise error

    return fail


async def hanging(*_: Any) -> Any:
    """Never returns."""
    await asyncio.Event().wait()


@attrs.define(eq=False)
class Log:
    """A side effect's function that writes down its tries.

    Args:
        fails: What its tries raise, in order; it succeeds after that.
        takes: Seconds that a try takes.
        tries: When it was tried, and the idempotency key.
        done: The requests whose try succeeded.
    """

    fails: list[BaseException] = attrs.field(factory=list)
    takes: float = 0.0
    tries: list[tuple[float, str]] = attrs.field(factory=list)
    done: list[str] = attrs.field(factory=list)

    def component(self, make: Any, name: str = "log", **attributes: Any) -> Any:
        """The component."""

        async def run(query: Any, outcome: Outcome, ctx: Any) -> None:
            self.tries.append((now(), ctx.idempotency_key))
            await asyncio.sleep(self.takes)
            if self.fails:
                raise self.fails.pop(0)
            self.done.append(query.request_id)

        return make("side_effect", run, name, **attributes)


def toy(make: Any, *effects: Any, **stages: Any) -> App:
    """An application with side effects, and with a source and a selector unless they are given."""
    given = {"sources": [make("source", three_rows, "source")], "selector": make("selector", best_first, "top")}
    return compose("toy", **(given | {"side_effects": list(effects)} | stages))


# What came of it


def entry_of(outcome: Any, component: str) -> Any:
    """The last record of a component, in an outcome or in an error."""
    return next(entry for entry in reversed(outcome.trace) if entry.component == component)


def effect_entries(outcome: Any) -> list[tuple[str, str, str]]:
    """The records of side effects, in an outcome or an error."""
    entries = [entry for entry in outcome.trace if entry.stage == "side_effects"]
    return [(entry.component, entry.status, entry.error) for entry in entries]


def errors(outcome: Outcome) -> dict[str, str]:
    """Why components failed."""
    return {entry.component: entry.error for entry in outcome.trace if entry.error}


def states(candidates: Candidates, column: Column[Any]) -> list[str]:
    """Each row's state in a column: `null`, `valid` or `failed`."""
    names = {NULL: "null", VALID: "valid", FAILED: "failed"}
    return [names[state] for state in candidates.cells(column).states().tolist()]
