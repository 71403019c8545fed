"""A toy plugin for tests of reloading: resources that write down what happens to them, and components that stamp."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    Column,
    Context,
    DataDir,
    Live,
    Outcome,
    Patch,
    Plugin,
    Query,
    QueryFeature,
    QueryPatch,
    Registry,
    RequestError,
    live,
    patch,
    query_patch,
    rank_order,
)
from candidate_pipeline.testing import run_in_virtual_time

WHO = QueryFeature("toy.who", int)
Q = QueryFeature("toy.q", int)
#: What each component stamps: its option, and the tag of its resource.
SOURCE = Column("toy.source", np.int64)
HYDRATED = Column("toy.hydrated", np.int64)
SCORED = Column("toy.scored", np.int64)
FEATURE = Column("toy.feature", np.int64)
INNER = Column("toy.inner", np.int64)
TAG = Column("toy.tag", np.int64)


@attrs.define(eq=False)
class Ledger:
    """What happened, in order, and what is open.

    Attributes:
        events: `"open base 3"`: what, the class, the tag.
        open: The open resources.
        effects: What side effects saw: their option, the request's stamps.
        calls: How often components did what a cache could have spared them.
        gate: Resources tagged 70 to 79 open when it is set.
        going: How many wait for the gate now.
    """

    events: list[str] = attrs.field(factory=list)
    open: list[Base] = attrs.field(factory=list)
    effects: list[tuple[int, int, str]] = attrs.field(factory=list)
    calls: int = 0
    gate: threading.Event = attrs.field(factory=threading.Event)
    going: int = 0
    wrong: list[str] = attrs.field(factory=list)

    def tags(self) -> list[int]:
        """The tags of what is open."""
        return sorted(resource.tag for resource in self.open)


#: The ledger of the test that runs.
LEDGER = Ledger()
_NUMBERS = itertools.count()


def fresh_ledger() -> Iterator[Ledger]:
    """An empty ledger for a test, which must find nothing open at its end."""
    fresh = Ledger()
    for field in attrs.fields(Ledger):
        setattr(LEDGER, field.name, getattr(fresh, field.name))
    yield LEDGER
    LEDGER.gate.set()
    assert LEDGER.wrong == []
    assert LEDGER.tags() == [], LEDGER.events


@attrs.define(eq=False)
class Base:
    """A resource. Tags decide: 60 to 69 does not open, 70 to 79 opens when the gate does, 80 to 89 fails to close."""

    tag: int = 0
    words_of_error: str = ""
    number: int = attrs.field(factory=lambda: next(_NUMBERS), init=False)

    def open(self) -> None:
        """Open, in a thread."""
        if self.tag // 10 == 7:
            LEDGER.going += 1
            LEDGER.gate.wait(30)
            LEDGER.going -= 1
        self._opened()

    def close(self) -> None:
        """Close."""
        self._closed()

    def _opened(self) -> None:
        LEDGER.events.append(f"open {self.words}")
        if self.tag // 10 == 6:
            raise OSError(f"no such thing at {self.words_of_error}".removesuffix(" at "))
        if self in LEDGER.open:
            LEDGER.wrong.append(f"{self.words} was opened twice")
        LEDGER.open.append(self)

    def _closed(self) -> None:
        LEDGER.events.append(f"close {self.words}")
        if self not in LEDGER.open:
            LEDGER.wrong.append(f"{self.words} was closed while not open")
        LEDGER.open.remove(self)
        if self.tag // 10 == 8:
            raise OSError("stuck")

    @property
    def words(self) -> str:
        """What it is called in the ledger."""
        return f"{type(self).__name__.lower()} {self.tag}"

    def use(self) -> int:
        """Its tag; it must be open."""
        if self not in LEDGER.open:
            raise RequestError(f"{self.words} is not open")
        return self.tag


@attrs.define(eq=False)
class Above(Base):
    """A resource over another, opened on the event loop."""

    base: Base = attrs.field(kw_only=True)

    async def open(self) -> None:  # type: ignore[override]  # either is allowed of a resource
        """Open, in a while."""
        await asyncio.sleep(0.01)
        if self.tag // 10 == 7:
            LEDGER.going += 1
            try:
                while not LEDGER.gate.is_set():  # noqa: ASYNC110  # a test sets it from anywhere
                    await asyncio.sleep(0.01)
            finally:
                LEDGER.going -= 1
        self.base.use()
        self._opened()

    async def close(self) -> None:  # type: ignore[override]  # either is allowed of a resource
        """Close, while what it stands on is open."""
        await asyncio.sleep(0.01)
        if self.base not in LEDGER.open:
            LEDGER.wrong.append(f"{self.base.words} was closed before {self.words}")
        self._closed()


@attrs.define(eq=False)
class Table(Base):
    """A resource that reads the data directory."""

    path: DataDir = attrs.field(default=Path("data"), kw_only=True)


@attrs.frozen
class Featured:
    """A query hydrator that stamps a feature."""

    reads: ClassVar = ()
    writes: ClassVar = (Q,)
    stamp: int = 0

    async def hydrate(self, query: Query, ctx: Context) -> QueryPatch:
        await asyncio.sleep(0.003)
        return query_patch(Q(self.stamp))


@attrs.frozen
class Stamped:
    """A source that stamps its rows."""

    base: Base
    stamp: int = 0
    slow: float = 0.001
    reads: ClassVar = ()
    writes: ClassVar = (SOURCE, TAG)

    async def fetch(self, query: Query, ctx: Context) -> Candidates:
        LEDGER.calls += 1
        tag = self.base.use()
        await asyncio.sleep(self.slow)
        self.base.use()
        ids = np.arange(1, 6)
        return Candidates.of(ITEM_ID(ids), SOURCE(np.full(5, self.stamp)), TAG(np.full(5, tag)))


@attrs.frozen
class Inside:
    """The source of the pipeline inside."""

    reads: ClassVar = ()
    writes: ClassVar = (INNER,)
    stamp: int = 0

    async def fetch(self, query: Query, ctx: Context) -> Candidates:
        await asyncio.sleep(0.002)
        return Candidates.of(ITEM_ID(np.arange(1, 6)), INNER(np.full(5, self.stamp)))


@attrs.frozen
class Hydrated:
    """A hydrator that stamps, and may be cached."""

    reads: ClassVar = ()
    writes: ClassVar = (HYDRATED,)
    stamp: int = 0

    async def hydrate(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        LEDGER.calls += 1
        await asyncio.sleep(0.002)
        return patch(HYDRATED(np.full(len(candidates), self.stamp)))


@attrs.frozen
class Scored:
    """A blocking scorer that stamps; a weight turns the order round. At 13 it refuses, at 14 it fails its calls."""

    reads: ClassVar = (Q,)
    writes: ClassVar = (SCORED, FEATURE, SCORE)
    blocking: ClassVar = True
    stamp: int = attrs.field(default=0)
    weight: float = 1.0

    @stamp.validator
    def _lucky(self, _: object, stamp: int) -> None:
        if stamp == 13:
            raise ValueError("13 is unlucky")

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        n = len(candidates)
        if self.stamp == 14:
            raise ValueError("it cannot")
        score = self.weight * candidates[ITEM_ID]
        return patch(SCORED(np.full(n, self.stamp)), FEATURE(np.full(n, query[Q])), SCORE(score.astype(np.float32)))


@attrs.frozen
class Best:
    """A selector of everything, best first."""

    reads: ClassVar = (SCORE,)

    def select(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.intp]:
        return rank_order(candidates)


@attrs.frozen
class All:
    """A selector of everything."""

    reads: ClassVar = ()

    def select(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.intp]:
        return np.arange(len(candidates))


@attrs.frozen
class Effect:
    """A side effect that needs its resource for a while after the response."""

    base: Base
    stamp: int = 0
    takes: float = 0.02
    reads: ClassVar = ()

    async def run(self, query: Query, outcome: Outcome, ctx: Context) -> None:
        await asyncio.sleep(self.takes)
        if self.base not in LEDGER.open:
            LEDGER.wrong.append(f"a side effect found {self.base.words} closed")
        LEDGER.effects.append((self.stamp, int(outcome.selected[SOURCE][0]), query.request_id))


def toy_registry() -> Registry:
    """The toy plugin."""
    return Registry(
        [
            Plugin(
                namespace="toy",
                components={
                    "query_hydrator": {"featured": Featured},
                    "source": {"stamped": Stamped, "inside": Inside},
                    "hydrator": {"hydrated": Hydrated},
                    "scorer": {"scored": Scored},
                    "selector": {"best": Best, "all": All},
                    "side_effect": {"effect": Effect},
                    "resource": {"base": Base, "above": Above, "table": Table},
                },
                keys=[WHO, Q, SOURCE, HYDRATED, SCORED, FEATURE, INNER, TAG],
            )
        ]
    )


def spec(stamp: int = 0, *, base: int = 1, above: int = 2, **more: Any) -> str:
    """A config whose every component stamps the same number.

    Args:
        stamp: The number.
        base: The tag of the lower resource.
        above: The tag of the upper one.
        more: `source`, `hydrated`, `scored`, `effect`, `inside`: further lines of a table; `tail`: further tables.
    """
    lines = {name: more.get(name, "") for name in ("source", "hydrated", "scored", "effect", "inside")}
    return f"""\
schema = 1

[pipelines.main]
inputs = {{ who = "toy.who" }}
query_hydrators = ["featured"]
sources = ["stamped", "nested"]
hydrators = ["hydrated"]
scorers = ["scored"]
selector = "toy.best"
side_effects = ["effect"]

[pipelines.inner]
sources = ["inside"]
selector = "toy.all"

[components.featured]
use = "toy.featured"
stamp = {stamp}

[components.stamped]
use = "toy.stamped"
base = "above"
stamp = {stamp}
{lines["source"]}

[components.nested]
use = "pipeline"
pipeline = "inner"

[components.inside]
use = "toy.inside"
stamp = {stamp}
{lines["inside"]}

[components.hydrated]
use = "toy.hydrated"
stamp = {stamp}
{lines["hydrated"]}

[components.scored]
use = "toy.scored"
stamp = {stamp}
{lines["scored"]}

[components.effect]
use = "toy.effect"
base = "base"
stamp = {stamp}
{lines["effect"]}

[resources.above]
use = "toy.above"
tag = {above}
base = "base"

[resources.base]
use = "toy.base"
tag = {base}
{more.get("tail", "")}
"""


def stamps(outcome: Outcome) -> set[int]:
    """What the components of one request stamped."""
    table = outcome.selected
    columns = (SOURCE, HYDRATED, SCORED, FEATURE, INNER)
    return {int(value) for column in columns for value in np.unique(table[column])}


def tag(outcome: Outcome) -> int:
    """The tag of the resource that the source used."""
    (found,) = set(outcome.selected[TAG].tolist())
    return int(found)


@attrs.define(eq=False)
class Config:
    """A config file in a folder."""

    path: Path

    def write(self, text: str) -> None:
        """Replace the file, as an editor does, so that no half of it can be read."""
        beside = self.path.with_suffix(".new")
        beside.write_text(text, encoding="utf-8")
        beside.replace(self.path)

    def live(self, **given: Any) -> Live:
        """The application that follows it, by hand unless `poll` is given."""
        return live(self.path, registry=toy_registry(), **{"poll": None, **given})


def in_virtual_time(main: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine; no task may be left at its end."""

    async def run() -> None:
        await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left

    run_in_virtual_time(run())
