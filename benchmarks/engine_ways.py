"""The pipeline of `engine.py` written three times: for the engine, with numpy, and over objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    App,
    Candidates,
    Captures,
    Column,
    Context,
    Observer,
    Patch,
    Query,
    QueryFeature,
    QueryPatch,
    compose,
    patch,
    query_patch,
    rank_order,
)

HYDRATORS: Final = 12
COMPONENTS: Final = 40
CHOSEN: Final = 60
RESULTS: Final = 50
VIEWERS: Final = 100
CATALOGUE: Final = 8_000

VIEWER = QueryFeature("bench.viewer", int)
MUTED = QueryFeature("bench.muted", np.ndarray, doc="Authors, sorted.")
FLOOR = QueryFeature("bench.floor", float)
WEIGHTS = QueryFeature("bench.weights", np.ndarray)

RETRIEVAL = Column("bench.retrieval", np.float32)
#: What each hydrator writes: two amounts, a number and a flag.
AMOUNT = [Column(f"bench.amount_{at}", np.float32) for at in range(HYDRATORS)]
SHARE = [Column(f"bench.share_{at}", np.float32) for at in range(HYDRATORS)]
NUMBER = [Column(f"bench.number_{at}", np.int64) for at in range(HYDRATORS)]
FLAG = [Column(f"bench.flag_{at}", np.bool_) for at in range(HYDRATORS)]
CLICK = Column("bench.click", np.float32)
LIKE = Column("bench.like", np.float32)
ENDING = Column("bench.ending", np.int64)
COLUMNS: Final = (ITEM_ID, RETRIEVAL, *AMOUNT, *SHARE, *NUMBER, *FLAG, CLICK, LIKE, SCORE, ENDING)


@attrs.frozen(eq=False)
class World:
    """Items and viewers. Amounts are multiples of 1/64, so that sums are exact in any precision and order.

    Args:
        amount: `float32[12, items]`.
        share: `float32[12, items]`.
        number: `int64[12, items]`.
        flag: `bool[12, items]`.
        ending: `int64[items]`.
        muted: Each viewer's muted authors.
        floors: Each viewer's least share.
        weights: Each viewer's weights, `float32[viewers, 4]`.
        fetched: What each source finds: items and their retrieval scores.
        facts: The rows of `amount`, `share`, `number` and `flag` as Python values, by hydrator and item.
    """

    amount: NDArray[np.float32]
    share: NDArray[np.float32]
    number: NDArray[np.int64]
    flag: NDArray[np.bool_]
    ending: NDArray[np.int64]
    muted: list[NDArray[np.int64]]
    floors: list[float]
    weights: NDArray[np.float32]
    fetched: list[tuple[NDArray[np.int64], NDArray[np.float32]]]
    facts: list[list[tuple[float, float, int, bool]]]

    @classmethod
    def of(cls, candidates: int) -> World:
        """A world whose sources find `candidates` items, some of them twice."""
        rng = np.random.default_rng(0)
        shape = (HYDRATORS, CATALOGUE)
        amount = (rng.integers(0, 64, shape) / 64).astype(np.float32)
        share = (rng.integers(1, 64, shape) / 64).astype(np.float32)
        number = rng.integers(0, 1000, shape)
        flag = rng.random(shape) < 0.015
        items = rng.permutation(CATALOGUE)[:candidates]
        parts = [
            items[: candidates // 2],
            items[candidates * 2 // 5 : candidates * 4 // 5],
            items[candidates * 3 // 4 :],
        ]
        return cls(
            amount=amount,
            share=share,
            number=number,
            flag=flag,
            ending=rng.integers(0, 30, CATALOGUE),
            muted=[np.sort(rng.choice(1000, 15, replace=False)) for _ in range(VIEWERS)],
            floors=[1 / 32] * VIEWERS,
            weights=(rng.integers(1, 8, (VIEWERS, 4)) / 8).astype(np.float32),
            fetched=[(part, (rng.integers(0, 64, len(part)) / 64).astype(np.float32)) for part in parts],
            facts=[
                list(zip(amount[at].tolist(), share[at].tolist(), number[at].tolist(), flag[at].tolist(), strict=True))
                for at in range(HYDRATORS)
            ],
        )


# (a) For the engine


@attrs.frozen(eq=False)
class Lookup:
    """A query hydrator that looks one thing up by viewer."""

    feature: QueryFeature[Any]
    values: Sequence[Any]
    reads = (VIEWER,)

    @property
    def writes(self) -> tuple[QueryFeature[Any], ...]:
        """The one feature."""
        return (self.feature,)

    def hydrate(self, query: Query, ctx: Context) -> QueryPatch:
        """Look it up."""
        return query_patch(self.feature(self.values[query[VIEWER]]))


@attrs.frozen(eq=False)
class Finder:
    """A source."""

    world: World
    part: int
    reads = (VIEWER,)
    writes = (RETRIEVAL,)

    def fetch(self, query: Query, ctx: Context) -> Candidates:
        """Its items, best first."""
        items, scores = self.world.fetched[self.part]
        return Candidates.of(ITEM_ID(items), RETRIEVAL(scores))


@attrs.frozen(eq=False)
class AsyncFinder(Finder):
    """A source that is a coroutine."""

    async def fetch(self, query: Query, ctx: Context) -> Candidates:  # type: ignore[override]  # either is allowed
        """Its items, best first."""
        return super().fetch(query, ctx)


@attrs.frozen(eq=False)
class Facts:
    """A hydrator of four columns."""

    world: World
    at: int
    reads = (ITEM_ID,)

    @property
    def writes(self) -> tuple[Column[Any], ...]:
        """Its four columns."""
        return AMOUNT[self.at], SHARE[self.at], NUMBER[self.at], FLAG[self.at]

    def hydrate(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Gather them."""
        items, at, world = candidates[ITEM_ID], self.at, self.world
        return patch(
            AMOUNT[at](world.amount[at][items]),
            SHARE[at](world.share[at][items]),
            NUMBER[at](world.number[at][items]),
            FLAG[at](world.flag[at][items]),
        )


@attrs.frozen(eq=False)
class AsyncFacts(Facts):
    """A hydrator that is a coroutine, without I/O."""

    async def hydrate(  # type: ignore[override]  # either is allowed
        self, query: Query, candidates: Candidates, ctx: Context
    ) -> Patch:
        """Gather them."""
        return super().hydrate(query, candidates, ctx)


@attrs.frozen(eq=False)
class Keeper:
    """A filter of one column."""

    column: Column[Any]
    test: Callable[[NDArray[Any], Query], NDArray[np.bool_]]
    features: tuple[QueryFeature[Any], ...] = ()

    @property
    def reads(self) -> tuple[Any, ...]:
        """The column and the features."""
        return (self.column, *self.features)

    def keep(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.bool_]:
        """Test the column."""
        return self.test(candidates[self.column], query)


@attrs.frozen(eq=False)
class Mixer:
    """A scorer of one column."""

    column: Column[Any]
    inputs: tuple[Column[Any], ...]
    mix: Callable[..., NDArray[Any]]
    features: tuple[QueryFeature[Any], ...] = ()

    @property
    def reads(self) -> tuple[Any, ...]:
        """The inputs and the features."""
        return (*self.inputs, *self.features)

    @property
    def writes(self) -> tuple[Column[Any], ...]:
        """The one column."""
        return (self.column,)

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Mix the inputs."""
        return patch(self.column(self.mix(query, *(candidates[column] for column in self.inputs))))


@attrs.frozen(eq=False)
class Best:
    """The selector."""

    size: int
    reads = (SCORE,)

    def select(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.intp]:
        """The first rows by score."""
        return rank_order(candidates)[: self.size]


@attrs.frozen(eq=False)
class Endings:
    """The post-selection hydrator."""

    world: World
    reads = (ITEM_ID,)
    writes = (ENDING,)

    def hydrate(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Gather its column."""
        return patch(ENDING(self.world.ending[candidates[ITEM_ID]]))


def forty(world: World, observers: Sequence[Observer] = (), captures: Captures | None = None) -> App:
    """The pipeline of 40 components for the engine, and what watches it."""
    filters = [("muted", Keeper(NUMBER[0], lambda authors, query: ~np.isin(authors, query[MUTED]), (MUTED,)))]
    filters += [(f"number_{at}", Keeper(NUMBER[at], lambda numbers, _: numbers != 7)) for at in (1, 2)]
    filters += [(f"flag_{at}", Keeper(FLAG[at], lambda flags, _: ~flags)) for at in range(7)]
    filters += [
        (f"share_{at}", Keeper(SHARE[at], lambda shares, query: shares >= query[FLOOR], (FLOOR,))) for at in range(4)
    ]
    scorers = [
        ("click", Mixer(CLICK, (AMOUNT[0], AMOUNT[1]), lambda q, x, y: _weigh(q[WEIGHTS][:2], x, y), (WEIGHTS,))),
        ("like", Mixer(LIKE, (AMOUNT[2], AMOUNT[3]), lambda q, x, y: _weigh(q[WEIGHTS][2:], x, y), (WEIGHTS,))),
        ("sum", Mixer(SCORE, (CLICK, LIKE, RETRIEVAL), lambda _, c, k, r: c / 2 + k + r / 4)),
        ("fresh", Mixer(SCORE, (SCORE, NUMBER[3]), lambda _, s, n: np.where(n < 500, s, s / 2))),
        ("known", Mixer(SCORE, (SCORE, FLAG[7]), lambda _, s, f: np.where(f, s, s * np.float32(0.75)))),
    ]
    return compose(
        "bench",
        query_hydrators=[
            ("muted_authors", Lookup(MUTED, world.muted)),
            ("floor", Lookup(FLOOR, world.floors)),
            ("weights", Lookup(WEIGHTS, list(world.weights))),
        ],
        sources=[("near", Finder(world, 0)), ("far", AsyncFinder(world, 1)), ("new", AsyncFinder(world, 2))],
        hydrators=[(f"facts_{at}", (AsyncFacts if at % 3 == 0 else Facts)(world, at)) for at in range(HYDRATORS)],
        filters=filters,
        scorers=scorers,
        selector=("best", Best(CHOSEN)),
        post_selection_hydrators=[("endings", Endings(world))],
        post_selection_filters=[("ending", Keeper(ENDING, lambda endings, _: endings != 7))],
        inputs={"viewer": VIEWER},
        result_size=RESULTS,
        observers=observers,
        captures=captures,
    )


def _weigh(weights: NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    mixed: NDArray[np.float32] = weights[0] * x + weights[1] * y
    return mixed


# (b) By hand, with numpy


def by_hand(world: World, viewer: int) -> list[int]:
    """The same as one function over arrays, as one would write it without a framework."""
    muted, floor, weights = world.muted[viewer], world.floors[viewer], world.weights[viewer]
    found = np.concatenate([items for items, _ in world.fetched])
    _, first = np.unique(found, return_index=True)
    first.sort()
    items = found[first]
    retrieval = np.concatenate([scores for _, scores in world.fetched])[first]
    amount = [values[items] for values in world.amount]
    share = [values[items] for values in world.share]
    number = [values[items] for values in world.number]
    flag = [values[items] for values in world.flag]
    keep = ~np.isin(number[0], muted)
    for at in (1, 2):
        keep &= number[at] != 7
    for at in range(7):
        keep &= ~flag[at]
    for at in range(4):
        keep &= share[at] >= floor
    items = items[keep]
    click = weights[0] * amount[0][keep] + weights[1] * amount[1][keep]
    like = weights[2] * amount[2][keep] + weights[3] * amount[3][keep]
    score = click / 2 + like + retrieval[keep] / 4
    score = np.where(number[3][keep] < 500, score, score / 2)
    score = np.where(flag[7][keep], score, score * np.float32(0.75))
    chosen = items[np.argsort(-score, kind="stable")[:CHOSEN]]
    chosen = chosen[world.ending[chosen] != 7]
    result: list[int] = chosen[:RESULTS].tolist()
    return result


# (c) By hand, with objects

_FIELDS = [f"{kind}_{at}" for at in range(HYDRATORS) for kind in ("amount", "share", "number", "flag")]
#: One candidate as an object.
Row: Any = attrs.make_class(
    "Row",
    {
        "item": attrs.field(),
        "retrieval": attrs.field(),
        **{name: attrs.field(default=None) for name in (*_FIELDS, "click", "like", "score", "ending")},
    },
    slots=True,
)


def by_objects(world: World, listed: Sequence[Sequence[tuple[int, float]]], viewer: int) -> list[int]:
    """The same over a list of attrs objects, a loop a component."""
    muted, floor, weights = set(world.muted[viewer].tolist()), world.floors[viewer], world.weights[viewer].tolist()
    by_item: dict[int, Any] = {}
    for found in listed:
        for item, retrieval in found:
            if item not in by_item:
                by_item[item] = Row(item, retrieval)
    rows = list(by_item.values())
    facts = world.facts
    for row in rows:
        row.amount_0, row.share_0, row.number_0, row.flag_0 = facts[0][row.item]
    for row in rows:
        row.amount_1, row.share_1, row.number_1, row.flag_1 = facts[1][row.item]
    for row in rows:
        row.amount_2, row.share_2, row.number_2, row.flag_2 = facts[2][row.item]
    for row in rows:
        row.amount_3, row.share_3, row.number_3, row.flag_3 = facts[3][row.item]
    for row in rows:
        row.amount_4, row.share_4, row.number_4, row.flag_4 = facts[4][row.item]
    for row in rows:
        row.amount_5, row.share_5, row.number_5, row.flag_5 = facts[5][row.item]
    for row in rows:
        row.amount_6, row.share_6, row.number_6, row.flag_6 = facts[6][row.item]
    for row in rows:
        row.amount_7, row.share_7, row.number_7, row.flag_7 = facts[7][row.item]
    for row in rows:
        row.amount_8, row.share_8, row.number_8, row.flag_8 = facts[8][row.item]
    for row in rows:
        row.amount_9, row.share_9, row.number_9, row.flag_9 = facts[9][row.item]
    for row in rows:
        row.amount_10, row.share_10, row.number_10, row.flag_10 = facts[10][row.item]
    for row in rows:
        row.amount_11, row.share_11, row.number_11, row.flag_11 = facts[11][row.item]
    rows = [row for row in rows if row.number_0 not in muted]
    rows = [row for row in rows if row.number_1 != 7]
    rows = [row for row in rows if row.number_2 != 7]
    rows = [row for row in rows if not row.flag_0]
    rows = [row for row in rows if not row.flag_1]
    rows = [row for row in rows if not row.flag_2]
    rows = [row for row in rows if not row.flag_3]
    rows = [row for row in rows if not row.flag_4]
    rows = [row for row in rows if not row.flag_5]
    rows = [row for row in rows if not row.flag_6]
    rows = [row for row in rows if row.share_0 >= floor]
    rows = [row for row in rows if row.share_1 >= floor]
    rows = [row for row in rows if row.share_2 >= floor]
    rows = [row for row in rows if row.share_3 >= floor]
    for row in rows:
        row.click = weights[0] * row.amount_0 + weights[1] * row.amount_1
    for row in rows:
        row.like = weights[2] * row.amount_2 + weights[3] * row.amount_3
    for row in rows:
        row.score = row.click / 2 + row.like + row.retrieval / 4
    for row in rows:
        row.score = row.score if row.number_3 < 500 else row.score / 2
    for row in rows:
        row.score = row.score if row.flag_7 else row.score * 0.75
    rows = sorted(rows, key=lambda row: -row.score)[:CHOSEN]
    for row in rows:
        row.ending = int(world.ending[row.item])
    return [row.item for row in rows if row.ending != 7][:RESULTS]
