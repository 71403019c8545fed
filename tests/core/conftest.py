"""A toy plugin, and a spec over it, for tests of the TOML reader."""

from __future__ import annotations

import datetime as dt
import gc
import inspect
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import attrs
import numpy as np
import pytest
from annotated_types import Ge, Gt, Interval, Le, MaxLen, MinLen, MultipleOf, Predicate
from numpy.typing import NDArray
from structlog.testing import capture_logs
from toys import best_first, three_rows

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    App,
    Candidates,
    Column,
    Context,
    DataDir,
    Doc,
    Outcome,
    Patch,
    Plugin,
    Query,
    QueryFeature,
    QueryPatch,
    Registry,
    SpecError,
    compose,
    load_document,
    patch,
    query_patch,
    rank_order,
)
from candidate_pipeline.components import METHODS
from candidate_pipeline.registry import BrokenPlugin
from candidate_pipeline.spec.document import Document
from candidate_pipeline.testing import run_in_virtual_time

# What these modules assert is told as fully as what a test asserts.
pytest.register_assert_rewrite("cache_toys", "fault_rules")

BUYER = QueryFeature("shop.buyer", int, doc="Who looks.")
BUDGET = QueryFeature("shop.budget", float)
PRICE = Column("shop.price", np.float32)
EUROS = Column("shop.euros", np.float32)
DOLLARS = Column("shop.dollars", np.float32)
BANNED = Column("shop.banned", np.bool_)


@attrs.define
class Store:
    """A resource that reads a data directory."""

    path: DataDir
    cache: int = 0

    def open(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""


@attrs.define
class Index:
    """A resource that needs another."""

    store: Store
    other: Index | None = None

    def open(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""


@attrs.define
class NoResource:
    """A resource that lacks `close`."""

    def open(self) -> None:
        """Nothing to open."""


@attrs.frozen
class Wallet:
    reads: ClassVar = (BUYER,)
    writes: ClassVar = (BUDGET,)
    bank: str = "main"

    def hydrate(self, query: Query, ctx: Context) -> QueryPatch:
        return query_patch(BUDGET(10.0))


@attrs.frozen
class Shelf:
    store: Store
    reads: ClassVar = (BUYER,)
    writes: ClassVar = ()

    async def fetch(self, query: Query, ctx: Context) -> Candidates:
        return Candidates.of(ITEM_ID([1, 2, 3]))


@attrs.frozen
class Prices:
    reads: ClassVar = ()
    writes: ClassVar = (PRICE, BANNED)
    markup: Annotated[float, Ge(0), Le(2), Doc("What is added.")] = 0.5

    def hydrate(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        n = len(candidates)
        return patch(PRICE(np.ones(n)), BANNED(np.zeros(n, np.bool_)))


@attrs.frozen
class Sale:
    """A hydrator that writes a column of another's."""

    reads: ClassVar[tuple[Any, ...]] = ()
    writes: ClassVar[tuple[Any, ...]] = (PRICE,)

    def hydrate(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Everything costs 1."""
        return patch(PRICE(np.ones(len(candidates))))


@attrs.frozen
class ToEuro(Sale):
    """A hydrator that needs `ToDollar`."""

    reads: ClassVar = (DOLLARS,)
    writes: ClassVar = (EUROS,)


@attrs.frozen
class ToDollar(Sale):
    """A hydrator that needs `ToEuro`."""

    reads: ClassVar = (EUROS,)
    writes: ClassVar = (DOLLARS,)


@attrs.frozen
class Nested:
    depth: int
    names: tuple[str, ...] = ()


def is_even(value: int) -> bool:
    """Whether a number is even."""
    return value % 2 == 0


@attrs.frozen
class Affordable:
    reads: ClassVar = (PRICE, BUDGET)
    slack: Annotated[float, Gt(0)] = 1.0
    max_age: Annotated[dt.timedelta, Gt(dt.timedelta(0))] = dt.timedelta(hours=1)
    mode: Literal["strict", "loose"] = "strict"
    nested: Nested | None = None
    weights: Mapping[str, float] = attrs.field(factory=dict)
    since: dt.datetime | None = None
    on: bool = True
    count: Annotated[int, Interval(ge=0, le=9), MultipleOf(3)] = 0
    names: Annotated[tuple[str, ...], MinLen(1), MaxLen(2)] = ("a",)
    even: Annotated[int, Predicate(is_even)] = 0

    def keep(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.bool_]:
        return candidates[PRICE] <= query[BUDGET] * self.slack


@attrs.frozen
class Banned:
    reads: ClassVar = (BANNED,)
    safety: ClassVar = True

    def keep(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.bool_]:
        return ~candidates[BANNED]


@attrs.frozen
class Cheapest:
    reads: ClassVar = (PRICE,)
    writes: ClassVar = (SCORE,)
    power: int = attrs.field(default=1)

    @power.validator
    def _check(self, _attribute: object, power: int) -> None:
        if power == 13:
            raise ValueError("13 is unlucky")

    async def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        return patch(SCORE(-candidates[PRICE]))


@attrs.frozen
class Slow(Cheapest):
    """Cheapest, as a plain def."""

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:  # type: ignore[override]
        return patch(SCORE(-candidates[PRICE]))


@attrs.frozen
class Half:
    """A scorer that lacks its method."""

    reads: ClassVar = ()
    writes: ClassVar = ()


class NotAttrs:
    """Options of a plain class cannot be seen."""


@attrs.frozen
class Top:
    reads: ClassVar = (SCORE,)
    size: Annotated[int, Ge(1)] = 2

    def select(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.intp]:
        return rank_order(candidates)[: self.size]


@attrs.frozen
class First:
    """A selector that needs no score."""

    reads: ClassVar = ()

    def select(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.intp]:
        """The first row."""
        return np.arange(min(1, len(candidates)))


def shop_registry() -> Registry:
    """The toy plugin, and a broken one."""
    return Registry(
        [
            Plugin(
                namespace="shop",
                components={
                    "query_hydrator": {"wallet": Wallet},
                    "source": {"shelf": Shelf},
                    "hydrator": {"prices": Prices, "sale": Sale, "to_euro": ToEuro, "to_dollar": ToDollar},
                    "filter": {"affordable": Affordable, "banned": Banned},
                    "scorer": {
                        "cheapest": Cheapest,
                        "slow": Slow,
                        "half": Half,
                        "plain": NotAttrs,
                        "lost": "shop_that_is_not.scorers:Lost",
                    },
                    "selector": {"top": Top, "first": First},
                    "resource": {"store": Store, "index": Index, "no_resource": NoResource},
                },
                keys=[BUYER, BUDGET, PRICE, BANNED],
            )
        ],
        broken=[BrokenPlugin("pets", "pet-shop", "1.2", "ModuleNotFoundError: No module named 'fur'")],
    )


SPEC = """\
schema = 1

[pipelines.shop]
result_size = 2
deadline = "5s"
inputs = { buyer = "shop.buyer" }
query_hydrators = ["shop.wallet"]
sources = ["shelf"]
hydrators = ["prices"]
filters = ["shop.banned", "affordable"]
scorers = ["cheapest"]
selector = "top"
show = ["shop.price"]

[components.shelf]
use = "shop.shelf"
run = { timeout = "1s" }

[components.prices]
use = "shop.prices"
markup = 0.5

[components.affordable]
use = "shop.affordable"

[components.cheapest]
use = "shop.cheapest"
run = { timeout = "2s", on_error = "fallback:spare" }

[components.spare]
use = "shop.cheapest"

[components.top]
use = "shop.top"
size = 2

[resources.store]
use = "shop.store"
path = "data"
"""


@attrs.frozen
class Shop:
    """The toys."""

    registry: Registry
    spec: str = SPEC

    def changed(self, *changes: tuple[str, str]) -> str:
        """The spec with some text replaced."""
        text = self.spec
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        return text

    def load(self, text: str, **given: Any) -> App:
        """The application of a spec called `shop.toml`."""
        return load_document(Document(text, "shop.toml", Path("/base")), registry=self.registry, **given)

    def tried(self, text: str, **given: Any) -> App | SpecError:
        """The application of a spec, or the mistakes in it; no other error."""
        try:
            return self.load(text, **given)
        except SpecError as error:
            return error

    def mistakes(self, text: str, **given: Any) -> str:
        """What a person reads who loads a spec with mistakes."""
        with pytest.raises(SpecError) as caught:
            self.load(text, **given)
        return str(caught.value)


@pytest.fixture(scope="session")
def shop() -> Shop:
    """A toy plugin and a spec over it."""
    return Shop(shop_registry())


def make(kind: str, function: Any, name: str = "", **attributes: Any) -> tuple[str, Any]:
    """A named component of a kind from a function: `reads`, `writes`, `safety`, ... are its attributes."""
    method: Any
    if inspect.iscoroutinefunction(function):

        async def method(_self: object, *args: Any) -> Any:
            return await function(*args)

    else:

        def method(_self: object, *args: Any) -> Any:
            return function(*args)

    members = {"reads": (), "writes": (), **attributes, METHODS[kind]: method}
    if kind in {"filter", "selector", "side_effect"} and not members["writes"]:
        del members["writes"]
    prepare = members.get("prepare")
    if prepare is not None:
        members["prepare"] = _bound(prepare)
    return name or function.__name__, type(f"Toy{kind.title().replace('_', '')}", (), members)()


def _bound(function: Any) -> Any:
    if inspect.iscoroutinefunction(function):

        async def prepare(_self: object, query: Query, ctx: Context) -> Any:
            return await function(query, ctx)

        return prepare
    return lambda _self, query, ctx: function(query, ctx)


@pytest.fixture(name="make", scope="session")
def make_fixture() -> Any:
    """Makes components from functions."""
    return make


@pytest.fixture(scope="session")
def run() -> Any:
    """Runs one request through a pipeline of given stages, in virtual time."""

    def run(*, inputs: Any = None, request: Any = None, policies: Any = None, **stages: Any) -> Outcome:
        given = {"sources": [make("source", three_rows, "source")], "selector": make("selector", best_first, "top")}
        app = compose("toy", **(given | stages), inputs=inputs or {}, run=policies)

        async def serve() -> Outcome:
            async with app:
                return await app["toy"].run(**(request or {}))

        return run_in_virtual_time(serve())

    return run


@pytest.fixture
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture(scope="module")
def complaints() -> Iterator[list[Any]]:
    """What event loops complain of, such as exceptions that nobody looked at; expects nothing of it."""
    found: list[Any] = []
    yield found
    gc.collect()
    assert found == []


@pytest.fixture(scope="module", autouse=True)
def _short_collections() -> Iterator[None]:
    """Many tests collect garbage after each example, which takes long where other tests have left a large heap."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
