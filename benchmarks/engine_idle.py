"""Pipelines for `engine.py` whose components do nothing, so that what they take is the engine's."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
from engine_ways import Keeper

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    App,
    Candidates,
    Column,
    Context,
    Query,
    QueryFeature,
    compose,
    patch,
    query_patch,
)


@attrs.frozen(eq=False)
class Idle:
    """A component of any kind that returns what it was made with.

    Args:
        answer: What it returns; for hydrators and scorers a column's cells, for a query hydrator a feature's value.
        key: What it writes, if anything.
    """

    answer: Any
    key: Any = None
    reads = ()

    @property
    def writes(self) -> tuple[Any, ...]:
        """The one key, if any."""
        return () if self.key is None else (self.key,)

    def hydrate(self, query: Query, *rest: Any) -> Any:
        """A patch of one column or feature."""
        return patch(self.key(self.answer)) if isinstance(self.key, Column) else query_patch(self.key(self.answer))

    def fetch(self, query: Query, ctx: Context) -> Any:
        """The table."""
        return self.answer

    def keep(self, query: Query, candidates: Candidates, ctx: Context) -> Any:
        """The mask."""
        return self.answer[: len(candidates)]

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Any:
        """A patch of one column."""
        return patch(self.key(self.answer[: len(candidates)]))

    def select(self, query: Query, candidates: Candidates, ctx: Context) -> Any:
        """The rows."""
        return self.answer


@attrs.frozen(eq=False)
class AsyncIdle(Idle):
    """A source or hydrator that is a coroutine and does nothing."""

    async def hydrate(self, query: Query, *rest: Any) -> Any:
        """A patch of one column."""
        return super().hydrate(query, *rest)

    async def fetch(self, query: Query, ctx: Context) -> Any:
        """The table."""
        return self.answer


@attrs.frozen(eq=False)
class ReadAll(Idle):
    """A selector that reads columns and chooses the same rows whatever they hold."""

    columns: tuple[Column[Any], ...] = ()

    @property
    def reads(self) -> tuple[Column[Any], ...]:  # type: ignore[override]  # a property stands for the tuple
        """The columns."""
        return self.columns

    def select(self, query: Query, candidates: Candidates, ctx: Context) -> Any:
        """Read, then choose."""
        for column in self.columns:
            candidates[column]
        return self.answer


@attrs.frozen(eq=False)
class Wide(Idle):
    """A source of many columns."""

    @property
    def writes(self) -> tuple[Any, ...]:
        """The columns."""
        return tuple(self.key or ())


def idle(rows: int, **stages: Any) -> App:
    """A pipeline of a source of `rows` items and a selector, with further stages."""
    whole = Candidates.of(ITEM_ID(np.arange(rows)))
    defaults = {"sources": [("source", Idle(whole))], "selector": ("selector", Idle(np.arange(10)))}
    return compose("bench", **{**defaults, **stages})


def idle_hydrators(rows: int, count: int, kind: type[Idle] = Idle) -> list[tuple[str, Idle]]:
    """Hydrators of one column each."""
    values = np.zeros(rows, np.float32)
    return [(f"hydrator_{at}", kind(values, Column(f"bench.idle_{at}", np.float32))) for at in range(count)]


def idle_filters(rows: int, count: int) -> list[tuple[str, Idle]]:
    """Filters that drop one row each."""
    return [(f"filter_{at}", Idle(np.arange(rows) != at)) for at in range(count)]


def idle_scorers(rows: int, count: int) -> list[tuple[str, Idle]]:
    """Scorers of one score for all."""
    return [(f"scorer_{at}", Idle(np.zeros(rows, np.float32), SCORE)) for at in range(count)]


def idle_forty(rows: int) -> App:
    """The pipeline of 40 components without their work."""
    whole = Candidates.of(ITEM_ID(np.arange(rows)))
    keys = [QueryFeature(f"bench.idle_feature_{at}", int) for at in range(3)]
    hydrators = idle_hydrators(rows, 8)
    hydrators += [(f"async_{name}", each) for name, each in idle_hydrators(rows, 12, AsyncIdle)[8:]]
    return idle(
        rows,
        query_hydrators=[(f"feature_{at}", Idle(at, key)) for at, key in enumerate(keys)],
        sources=[(f"source_{at}", (AsyncIdle if at else Idle)(whole)) for at in range(3)],
        hydrators=hydrators,
        filters=idle_filters(rows, 14),
        scorers=idle_scorers(rows, 5),
        post_selection_hydrators=[("after", Idle(np.zeros(10, np.float32), Column("bench.idle_after", np.float32)))],
        post_selection_filters=[("last", Idle(np.ones(rows, np.bool_)))],
    )


def filtering(rows: int, filters: int, *, read_all: bool) -> App:
    """A pipeline over a table of 54 columns with so many filters, after which one or all columns are read."""
    rng = np.random.default_rng(0)
    flags = [Column(f"bench.mask_{at}", np.bool_) for at in range(14)]
    others = [Column(f"bench.wide_{at}", np.float32) for at in range(39)]
    whole = Candidates.of(
        ITEM_ID(np.arange(rows)),
        *(flag(rng.random(rows) < 0.03) for flag in flags),
        *(column(rng.random(rows, dtype=np.float32)) for column in others),
    )
    read = whole.columns if read_all else (ITEM_ID,)
    return idle(
        rows,
        sources=[("source", Wide(whole, (*flags, *others)))],
        filters=[(f"filter_{at}", Keeper(flags[at], lambda mask, _: ~mask)) for at in range(filters)],
        selector=("selector", ReadAll(np.arange(10), columns=read)),
    )
