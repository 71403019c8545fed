"""A toy shop with a component of every kind that says when it is called, recorded and replayed."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any, ClassVar

import attrs
import numpy as np
from replays import recorded
from structlog.testing import capture_logs

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    App,
    Candidates,
    Column,
    QueryFeature,
    compose,
    patch,
    query_patch,
)
from candidate_pipeline.testing import TopScore, run_in_virtual_time
from candidate_pipeline.what_if.capture import Capture
from candidate_pipeline.what_if.replay import Replayed, replay

NOW = dt.datetime(2026, 5, 15, 12, tzinfo=dt.UTC)
WHO = QueryFeature("re.who", int)
TASTE = QueryFeature("re.taste", int)
PRICE = Column("re.price", np.float32)
STOCK = Column("re.stock", np.int64)
LABEL = Column("re.label", np.object_)

#: The components that were called, in order.
CALLED: list[str] = []


@attrs.define(eq=False)
class Shop:
    """A resource that says when it is opened and closed."""

    name: str = "shop"
    is_open: bool = False

    def open(self) -> None:
        """Open."""
        CALLED.append(f"open {self.name}")
        self.is_open = True

    def close(self) -> None:
        """Close."""
        self.is_open = False


@attrs.frozen
class Taste:
    """What the buyer likes."""

    add: int = 0
    shop: Shop | None = None
    reads = (WHO,)
    writes = (TASTE,)

    def hydrate(self, query: Any, ctx: Any) -> Any:
        """A number."""
        CALLED.append("taste")
        assert self.shop is None or self.shop.is_open
        return query_patch(TASTE(query[WHO] + self.add))


@attrs.frozen
class Items:
    """Items by number."""

    first: int = 1
    last: int = 6
    fails: bool = False
    reads = (TASTE,)
    writes = (PRICE,)

    async def fetch(self, query: Any, ctx: Any) -> Candidates:
        """With prices that taste changes."""
        CALLED.append("items")
        if self.fails:
            raise OSError("no line")
        ids = np.arange(self.first, self.last + 1)
        return Candidates.of(ITEM_ID(ids), PRICE((ids * query[TASTE]).astype(np.float32), valid=ids != 2))


@attrs.frozen
class Slow:
    """A source that takes its time."""

    seconds: float = 1.0
    reads = ()
    writes = (PRICE,)

    async def fetch(self, query: Any, ctx: Any) -> Candidates:
        """One item, later."""
        CALLED.append("slow")
        await asyncio.sleep(self.seconds)
        return Candidates.of(ITEM_ID([99]), PRICE(np.array([99], np.float32)))


@attrs.frozen
class Stock:
    """How many there are of an item."""

    add: int = 0
    shop: Shop | None = None
    blocking = True
    reads = (ITEM_ID,)
    writes = (STOCK, LABEL)

    def prepare(self, query: Any, ctx: Any) -> int:
        """Something to hand over."""
        return self.add

    def hydrate(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """Ten times the id; unknown of item 3, broken for item 4."""
        ids = candidates[ITEM_ID]
        CALLED.append(f"stock of {','.join(map(str, ids.tolist()))}")
        assert self.shop is None or self.shop.is_open
        labels = [f"no. {item}" for item in ids]
        return patch(STOCK(ids * 10 + ctx.prepared, valid=ids != 3), LABEL(labels), failed=ids == 4)


@attrs.frozen
class Scarce:
    """Keeps what there is enough of."""

    least: int = 0
    reads = (STOCK,)

    def keep(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """By stock; the unknown stays."""
        CALLED.append("scarce")
        return (candidates[STOCK] >= self.least) | ~candidates.valid(STOCK)


@attrs.frozen
class Weigh:
    """Scores by price."""

    weight: float = 1.0
    shop: Shop | None = None
    reads = (PRICE,)
    writes = (SCORE,)

    def score(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """Times a weight."""
        CALLED.append("weigh")
        assert self.shop is None or self.shop.is_open
        scores = (candidates[PRICE] * self.weight).astype(np.float32)
        return patch(SCORE(scores, valid=candidates.valid(PRICE)))


@attrs.frozen
class Push:
    """Adds to scores."""

    by: float = 1.0
    reads: ClassVar[tuple[Any, ...]] = (SCORE,)
    writes: ClassVar[tuple[Any, ...]] = (SCORE,)

    def score(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """A number, and a little chance."""
        CALLED.append("push")
        chance = ctx.rng().random(len(candidates))
        return patch(
            SCORE((candidates[SCORE] + self.by + chance / 10).astype(np.float32), valid=candidates.valid(SCORE))
        )


@attrs.frozen
class Odd(Push):
    """Writes something else."""

    writes: ClassVar[tuple[Any, ...]] = (SCORE, PRICE)


@attrs.frozen
class Tell:
    """A side effect."""

    reads = ()

    def run(self, query: Any, outcome: Any, ctx: Any) -> None:
        """Say so."""
        CALLED.append("tell")


def shop(**stages: Any) -> App:
    """A pipeline with a component of every kind."""
    given: dict[str, Any] = {
        "query_hydrators": [Taste()],
        "sources": [Items()],
        "scorers": [Weigh(), Push()],
        "selector": TopScore(3),
        "post_selection_hydrators": [Stock()],
        "side_effects": [Tell()],
        "inputs": {"who": WHO},
    }
    return compose("shop", **(given | stages))


def record(app: App, **request: Any) -> tuple[Any, Capture]:
    """A request and its capture, in virtual time; what was called for it is forgotten."""

    async def main() -> Any:
        async with app:
            return await recorded(app, "shop", now=NOW, who=2, **request)

    with capture_logs():
        found: tuple[Any, Capture] = run_in_virtual_time(main())
    CALLED.clear()
    return found


def again(app: App, capture: Capture, **options: Any) -> Replayed:
    """A replay, in virtual time."""

    async def main() -> Replayed:
        async with app:
            return await replay(app, capture, **options)

    with capture_logs():
        return run_in_virtual_time(main())
