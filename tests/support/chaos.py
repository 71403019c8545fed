"""A pipeline that uses everything the engine has, and whose components go wrong at random."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
import numpy as np

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    App,
    BreakerPolicy,
    CachePolicy,
    Candidates,
    Column,
    NestedPipeline,
    QueryFeature,
    RequestError,
    RunPolicy,
    StageOptions,
    compose,
    patch,
    query_patch,
    rank_order,
)
from candidate_pipeline.components import METHODS
from candidate_pipeline.observe import Observer

VIEWER = QueryFeature("chaos.viewer", int)
MOOD = QueryFeature("chaos.mood", str, default="calm")
NAME = QueryFeature("chaos.name", str)
HABITS = QueryFeature("chaos.habits", np.ndarray)
AUTHOR = Column("chaos.author", np.int64)
PRICE = Column("chaos.price", np.float32)
TOPIC = Column("chaos.topic", np.int64)
BOOST = Column("chaos.boost", np.float32)
MEDIA = Column("chaos.media", np.object_)

#: What can go wrong in a plain def or a thread, and what only where something is awaited.
SUDDEN: Final = ("raise", "stop", "cancel", "memory", "none", "list", "mutate", "request")
SLOW: Final = (*SUDDEN, "hang", "late", "swallow")
#: How often a component goes wrong, but those whose failure mostly ends the request.
RATE: Final = 0.05
FATAL_RATE: Final = 0.008

TIMEOUT: Final = dt.timedelta(milliseconds=10)


@attrs.define(eq=False)
class Chaos:
    """Decides who goes wrong, and counts.

    Args:
        seed: Of all that is random.
        calm: Whether everybody does their work.
        faults: How often what went wrong, by kind of fault.
        calls: How often side effects were called.
    """

    seed: int
    calm: bool = False
    faults: Counter[str] = attrs.field(factory=Counter)
    calls: Counter[str] = attrs.field(factory=Counter)

    def component(
        self, kind: Any, name: str, work: Callable[..., Any], mode: str = "plain", rate: float = RATE, **members: Any
    ) -> tuple[str, Any]:
        """A component that does its work, most of the time.

        Args:
            kind: Its kind.
            name: Its name.
            work: What it does.
            mode: `plain`, `async` or `thread`.
            rate: How often it goes wrong.
            members: Its further attributes.
        """
        dice = random.Random(f"{self.seed} {name}")  # noqa: S311  # nothing secret
        faults = SLOW if mode == "async" else SUDDEN

        def drawn() -> str:
            fault = "" if self.calm or dice.random() >= rate else dice.choice(faults)
            if fault:
                self.faults[fault] += 1
            return fault

        def plain(_self: object, *args: Any) -> Any:
            self.calls[name] += kind == "side_effect"
            fault = drawn()
            if mode == "thread" and dice.random() < 0.05:
                time.sleep(0.0005)
            return _sudden(fault, args) if fault else work(*args)

        async def awaited(_self: object, *args: Any) -> Any:
            self.calls[name] += kind == "side_effect"
            fault, delay = drawn(), dice.choice((0, 0, 0, 0.001, 0.004))
            if delay:
                await asyncio.sleep(delay)
            return await _slow(fault, args) if fault else work(*args)

        async def prepare(_self: object, query: Any, ctx: Any) -> Any:
            fault = drawn()
            await asyncio.sleep(0.001)
            return await _slow(fault, (query, ctx)) if fault else 1.0

        given: dict[str, Any] = {"reads": (), METHODS[kind]: awaited if mode == "async" else plain}
        given |= {"writes": ()} if kind == "source" else {}
        given |= {"blocking": True} if mode == "thread" else {}
        given |= {"prepare": prepare} if members.pop("prepares", False) else {}
        return name, type("Chaotic", (), given | members)()


def _sudden(fault: str, args: tuple[Any, ...]) -> Any:
    if fault in {"none", "list"}:
        return None if fault == "none" else ["wrong"]
    if fault == "mutate":
        if isinstance(args[1], Candidates):
            args[1][ITEM_ID][:] = 0
        args[0].features[VIEWER] = 0
    errors: dict[str, BaseException] = {
        "stop": StopIteration("chaos"),
        "cancel": asyncio.CancelledError("chaos"),
        "memory": MemoryError("chaos"),
        "request": RequestError("chaos"),
    }
    raise errors.get(fault) or ValueError("chaos")


async def _slow(fault: str, args: tuple[Any, ...]) -> Any:
    if fault == "hang":
        await asyncio.Event().wait()
    if fault == "late":
        await asyncio.sleep(0.015)
        return None
    if fault == "swallow":
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.005)
        return None
    return _sudden(fault, args)


@attrs.define(eq=False)
class Shelf:
    """A resource that counts how often it is opened and closed."""

    opened: int = 0
    closed: int = 0

    def open(self) -> None:
        """Open."""
        assert self.opened == 0
        self.opened += 1

    def close(self) -> None:
        """Close."""
        assert self.opened == 1
        self.closed += 1


def _items(base: int, count: int) -> Callable[..., Any]:
    def fetch(query: Any, ctx: Any) -> Candidates:
        first = base + query.features.get(VIEWER, 0)  # not everyone declares it
        return Candidates.of(ITEM_ID(np.arange(first, first + count)))

    return fetch


def _best(size: int) -> Callable[..., Any]:
    return lambda query, rows, ctx: rank_order(rows)[:size]


def _column(column: Column[Any], times: float) -> Callable[..., Any]:
    def hydrate(query: Any, rows: Any, ctx: Any) -> Any:
        return patch(column((rows[ITEM_ID] * times).astype(column.dtype)))

    return hydrate


def _score(query: Any, rows: Any, ctx: Any) -> Any:
    return patch(SCORE((rows[ITEM_ID] * 7919 % 101).astype(np.float32)))


def _boost(query: Any, rows: Any, ctx: Any) -> Any:
    return patch(BOOST(np.full(len(rows), ctx.prepared, np.float32)))


def _media(query: Any, rows: Any, ctx: Any) -> Any:
    return patch(MEDIA([None if item % 5 == 0 else f"media {item}" for item in rows[ITEM_ID].tolist()]))


def _nothing(query: Any, outcome: Any, ctx: Any) -> None:
    """What a side effect that does not matter does."""


def _keep(divisor: int, remainder: int) -> Callable[..., Any]:
    return lambda query, rows, ctx: rows[ITEM_ID] % divisor != remainder


def _inner(chaos: Chaos, name: str, base: int) -> Any:
    """A small pipeline for use inside another."""
    make = chaos.component
    return compose(
        name,
        sources=[make("source", f"{name}_shelf", _items(base, 6), "async", reads=(VIEWER,))],
        filters=[
            make("filter", f"{name}_safe", _keep(10, 9), rate=FATAL_RATE, safety=True),
        ],
        scorers=[make("scorer", f"{name}_score", _score, writes=(SCORE,))],
        selector=make("selector", f"{name}_top", _best(4), rate=FATAL_RATE),
        inputs={"viewer": VIEWER},
        run={f"{name}_shelf": RunPolicy(timeout=TIMEOUT)},
    )[name]


def pipeline(chaos: Chaos, resources: list[Shelf], observers: Sequence[Observer] = ()) -> App:
    """The application, with one pipeline called `main`."""
    make = chaos.component
    nested, spare = _inner(chaos, "nested", 500), _inner(chaos, "spare", 900)
    timed = RunPolicy(timeout=TIMEOUT)
    breaker = BreakerPolicy(
        failure_rate=0.12, window=dt.timedelta(seconds=1), min_calls=8, open_for=dt.timedelta(milliseconds=40)
    )
    cached = CachePolicy(ttl=dt.timedelta(seconds=2), max_items=30)
    rows = CachePolicy(ttl=dt.timedelta(seconds=2), max_items=60, key=("core.item_id",))
    effect = RunPolicy(timeout=TIMEOUT, retries=1, backoff=dt.timedelta(milliseconds=2), max_pending=12)
    return compose(
        "main",
        resources=resources,
        observers=observers,
        inputs={"viewer": VIEWER, "mood": MOOD},
        query_hydrators=[
            make(
                "query_hydrator",
                "name",
                lambda query, ctx: query_patch(NAME(f"viewer {query[VIEWER]}")),
                "async",
                reads=(VIEWER,),
                writes=(NAME,),
            ),
            make(
                "query_hydrator",
                "habits",
                lambda query, ctx: query_patch(HABITS(np.arange(query[VIEWER]))),
                "thread",
                reads=(VIEWER,),
                writes=(HABITS,),
            ),
        ],
        sources=[
            make("source", "fresh", _items(0, 8), "async", reads=(VIEWER,)),
            make("source", "liked", _items(20, 6), "async", reads=(VIEWER, NAME)),
            make("source", "moody", _items(60, 5), "plain"),
            ("nested", NestedPipeline(nested.plan)),
        ],
        hydrators=[
            make("hydrator", "author", _column(AUTHOR, 0.5), "async", writes=(AUTHOR,)),
            make("hydrator", "price", _column(PRICE, 2), reads=(HABITS,), writes=(PRICE,)),
            make("hydrator", "topic", _column(TOPIC, 3), "async", reads=(AUTHOR,), writes=(TOPIC,)),
        ],
        filters=[
            make("filter", "cheap", _keep(7, 3), reads=(PRICE,)),
            make("filter", "safe", _keep(10, 9), rate=FATAL_RATE, safety=True),
        ],
        scorers=[
            make("scorer", "rank", _score, "thread", writes=(SCORE,)),
            make("scorer", "boost", _boost, "async", writes=(BOOST,), prepares=True),
        ],
        selector=make("selector", "top", _best(7), rate=FATAL_RATE),
        post_selection_hydrators=[make("hydrator", "media", _media, "async", writes=(MEDIA,))],
        post_selection_filters=[make("filter", "playable", _keep(3, 1), rate=RATE)],
        side_effects=[
            make("side_effect", "tell", _nothing, "async"),
            make("side_effect", "store", _nothing, "thread", rate=FATAL_RATE),
            make("side_effect", "wait", _nothing, "async"),
        ],
        fallbacks=[make("scorer", "plain_rank", _score, "plain", writes=(SCORE,))],
        run={
            "name": RunPolicy(timeout=TIMEOUT, cache=cached),
            "habits": RunPolicy(timeout=TIMEOUT, threads=2, breaker=breaker),
            "fresh": RunPolicy(timeout=TIMEOUT, breaker=breaker),
            "liked": RunPolicy(timeout=TIMEOUT, cache=cached, breaker=breaker),
            "moody": RunPolicy(when={MOOD.name: "wild"}),
            "author": RunPolicy(timeout=TIMEOUT, cache=rows, breaker=breaker),
            "topic": timed,
            "rank": RunPolicy(timeout=TIMEOUT, on_error="fallback:plain_rank", threads=2),
            "boost": RunPolicy(timeout=TIMEOUT, on_error="skip"),
            "media": RunPolicy(timeout=TIMEOUT, cache=rows),
            "tell": attrs.evolve(effect, max_pending=2),
            "store": attrs.evolve(effect, threads=2),
            "wait": attrs.evolve(effect, sync=True, max_pending=None),
        },
        result_size=6,
        min_results=6,
        top_up=spare,
        max_refills=1,
        deadline=dt.timedelta(milliseconds=100),
        stages={"sources": StageOptions(timeout=dt.timedelta(milliseconds=12), reserve=dt.timedelta(milliseconds=20))},
    )
