"""The test kit finds what it promises to find, and lets sound components pass."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    AbsentFeatureError,
    Candidates,
    Column,
    Context,
    ContractError,
    MissingColumnError,
    Patch,
    Query,
    QueryFeature,
    patch,
    query_patch,
)
from candidate_pipeline.testing import (
    StaticSource,
    TopScore,
    VirtualTimeLoop,
    candidates,
    check_component,
    queries,
    run_component,
    run_in_virtual_time,
)

PRICE = Column("kit.price", np.float32, doc="A price.")
STOCK = Column("kit.stock", np.int64, doc="How many there are.")
TAGS = Column("kit.tags", np.object_, doc="A tuple of words.")
ODDS = Column("kit.odds", np.float32, labels=("buy", "look"), doc="Probabilities.")
BUDGET = QueryFeature("kit.budget", float, doc="What may be spent.")


@attrs.frozen
class Discount:
    """A sound scorer."""

    reads = (PRICE, BUDGET)
    writes = (SCORE,)

    async def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Cheaper is better."""
        known = candidates.valid(PRICE)
        return patch(SCORE(np.float32(query[BUDGET]) - candidates[PRICE], valid=known))


@attrs.frozen
class Broken:
    """A scorer whose answer is made by a function."""

    answer: Any
    reads: tuple[Any, ...] = (PRICE,)
    writes: tuple[Any, ...] = (SCORE,)
    listwise: bool = False

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Any:
        """What the function says."""
        return self.answer(query, candidates, ctx)


def test_a_sound_component_passes() -> None:
    """A scorer that keeps every promise passes."""
    check_component(Discount())


def test_the_fakes_are_sound() -> None:
    """The kit's own source and selector keep the promises of their kinds."""
    check_component(StaticSource(Candidates.of(ITEM_ID([1, 2]), PRICE([1.0, 2.0]))))
    check_component(TopScore(3))


def write_in_place(query: Query, table: Candidates, ctx: Context) -> Patch:
    """Tries to change its input."""
    table[PRICE][:] = 0
    return patch(SCORE(table[PRICE]))


COUNTER = iter(range(10**9))

FAULTS: dict[str, tuple[Any, type[Exception], str]] = {
    "wrong length": (lambda q, c, ctx: patch(SCORE(np.zeros(len(c) + 1, np.float32))), ContractError, "shape"),
    "wrong dtype": (lambda q, c, ctx: patch(SCORE(np.zeros(len(c), "U3"))), ContractError, "dtype"),
    "no patch": (lambda q, c, ctx: None, ContractError, "patch"),
    "undeclared write": (
        lambda q, c, ctx: patch(SCORE(c[PRICE]), STOCK(np.zeros(len(c), np.int64))),
        ContractError,
        "kit.stock",
    ),
    "undeclared column": (lambda q, c, ctx: patch(SCORE(c[STOCK])), MissingColumnError, "kit.stock"),
    "undeclared feature": (
        lambda q, c, ctx: patch(SCORE(c[PRICE] * np.float32(q[BUDGET]))),
        AbsentFeatureError,
        "kit.budget",
    ),
    "input changed": (write_in_place, ValueError, "read-only"),
    "two answers": (
        lambda q, c, ctx: patch(SCORE(np.full(len(c), next(COUNTER), np.float32))),
        AssertionError,
        "two answers",
    ),
    "order matters": (
        lambda q, c, ctx: patch(SCORE(np.arange(len(c), dtype=np.float32))),
        AssertionError,
        "listwise = True",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_promise_is_found(fault: str) -> None:
    """Each way of breaking a scorer's contract fails the check with words about it."""
    answer, error, words = FAULTS[fault]
    with pytest.raises(error, match=words):
        check_component(Broken(answer))


def test_a_listwise_component_may_depend_on_order() -> None:
    """A scorer that says it is listwise is not tried on reordered rows."""
    check_component(Broken(FAULTS["order matters"][0], listwise=True))


def test_randomness_from_the_context_is_repeatable() -> None:
    """A component that draws from `ctx.rng()` gives the same answer to the same query."""
    check_component(Broken(lambda q, c, ctx: patch(SCORE(ctx.rng().random(len(c)).astype(np.float32))), listwise=True))


def test_an_object_of_no_kind_is_refused() -> None:
    """Something without a component's method is refused before it is tried."""
    with pytest.raises(TypeError, match="no kind"):
        check_component(object())


def test_a_feature_of_unknown_type_needs_a_strategy() -> None:
    """A feature whose type has no strategy of its own says so, and takes one from `values`."""
    odd = QueryFeature("kit.odd", set, doc="A set.")
    with pytest.raises(TypeError, match=r"kit\.odd"):
        queries(odd)

    @given(query=queries(odd, values={odd: st.just({1})}))
    def check(query: Query) -> None:
        assert query[odd] == {1}

    check()


@given(table=candidates(PRICE, STOCK, ODDS, min_size=1))
def test_tables_have_the_columns_asked_for(table: Candidates) -> None:
    """Generated tables hold the columns asked for, distinct ids, and labels of the column."""
    assert set(table.columns) == {ITEM_ID, PRICE, STOCK, ODDS}
    assert len(np.unique(table[ITEM_ID])) == len(table) > 0
    assert set(table.labels(ODDS)) <= {"buy", "look"}


@given(table=candidates(PRICE, nulls=False))
def test_tables_without_nulls_have_none(table: Candidates) -> None:
    """`nulls=False` gives tables whose every cell is valid."""
    assert table.valid(PRICE).all()


def test_ragged_object_columns_are_compared() -> None:
    """A component that writes tuples of unequal length can be checked."""

    @attrs.frozen
    class Tagger:
        reads = (STOCK,)
        writes = (TAGS,)

        def hydrate(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
            return patch(TAGS([("x",) * int(abs(stock) % 3) for stock in candidates[STOCK]]))

    check_component(Tagger())


def test_prepare_runs_before_the_call() -> None:
    """`run_component` hands the component what its `prepare` returned."""

    @attrs.frozen
    class Prepared:
        reads = (BUDGET,)
        writes = (SCORE,)

        async def prepare(self, query: Query, ctx: Context) -> float:
            return query[BUDGET] * 2

        def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
            return patch(SCORE(np.full(len(candidates), ctx.prepared, np.float32)))

    answer = run_component(Prepared(), Query(features={BUDGET: 4.0}), Candidates.of(ITEM_ID([1])))
    assert np.asarray(answer.updates[SCORE].values).tolist() == [8.0]


def test_query_hydrators_and_hydrators_are_told_apart() -> None:
    """A `hydrate` of two arguments is a query hydrator's."""

    @attrs.frozen
    class Rich:
        reads = ()
        writes = (BUDGET,)

        def hydrate(self, query: Query, ctx: Context) -> Any:
            return query_patch(BUDGET(1e6))

    check_component(Rich())


def test_a_virtual_hour_passes_at_once() -> None:
    """An hour's sleep moves the virtual clock by an hour; were it real, this suite would never end."""

    async def nap() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert run_in_virtual_time(nap()) == pytest.approx(3600)


def test_virtual_timeouts_fire_in_order() -> None:
    """A timeout cuts a longer sleep and spares a shorter one."""

    async def race() -> list[str]:
        seen = []
        async with asyncio.timeout(2):
            await asyncio.sleep(1)
            seen.append("slept")
        try:
            async with asyncio.timeout(2):
                await asyncio.sleep(3)
        except TimeoutError:
            seen.append(f"cut at {asyncio.get_running_loop().time():.0f}")
        return seen

    assert run_in_virtual_time(race()) == ["slept", "cut at 3"]


def test_a_sleep_of_next_to_nothing_moves_the_virtual_clock() -> None:
    """Sleeping until a moment that is nearer than the clock resolves ends, however the rest is reckoned."""

    async def nap(start: float, rest: float) -> bool:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(start)
        end = loop.time() + rest
        for _ in range(5):
            if loop.time() >= end:
                return True
            await asyncio.sleep(end - loop.time())
        return False

    for start, rest in ((0.0, 1e-12), (0.1, 1e-10), (3600.0, 1e-9), (1e6, 1e-9), (0.3, 0.1)):
        assert run_in_virtual_time(nap(start, rest)), (start, rest)


def test_virtual_time_stands_still_while_a_thread_works() -> None:
    """A thread's work is waited for; a timer beside it does not fire before it is done."""
    release = threading.Event()

    async def work() -> tuple[str, float]:
        loop = asyncio.get_running_loop()
        threading.Timer(0.05, release.set).start()
        async with asyncio.timeout(1):
            done = await loop.run_in_executor(None, lambda: "done" if release.wait(30) else "late")
        return done, loop.time()

    assert run_in_virtual_time(work()) == ("done", 0.0)
    loop = VirtualTimeLoop()
    assert loop.time() == 0.0
    loop.close()
