"""Toy components with numeric options, and pipelines of them, for tests of rankings, differences and swaps."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final

import attrs
import numpy as np
from annotated_types import Ge, Gt, Le, MultipleOf

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    App,
    Candidates,
    Column,
    Doc,
    Outcome,
    Plugin,
    Registry,
    compose,
    patch,
    rank_order,
)
from candidate_pipeline.testing import StaticSource, run_in_virtual_time

HEADS: Final = Column("ranked.heads", np.float32, labels=("like", "reply", "share"))
AUTHOR: Final = Column("ranked.author", np.int64)
PARTS: Final = Column("ranked.parts", np.float32, labels=("like", "reply", "share", "bias"), terms_of=SCORE)
TITLE: Final = Column("ranked.title", np.object_)
BOOST: Final = Column("ranked.boost", np.float32, terms_of=SCORE, factor=True)
FACTOR: Final = Column("ranked.repeat_factor", np.float32, terms_of=SCORE, factor=True)

PRESET: Final[Mapping[str, float]] = MappingProxyType({"like": 1.0, "reply": 5.0, "share": 2.0})


@attrs.frozen
class Weighted:
    """A weighted sum of heads."""

    weights: Annotated[Mapping[str, float], Doc("Over the preset.")] = attrs.field(factory=dict)
    bias: float = 0.0

    reads: ClassVar = (HEADS,)
    writes: ClassVar = (PARTS, SCORE)

    def all_weights(self) -> Mapping[str, float]:
        """The preset with what is set laid over it."""
        return {**PRESET, **self.weights}

    @property
    def in_effect(self) -> Mapping[str, Mapping[str, float]]:
        """Every weight in effect."""
        return {"weights": self.all_weights()}

    def score(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """Multiply and add."""
        labels = candidates.labels(HEADS)
        weights = np.array([self.all_weights()[label] for label in labels])
        terms = np.column_stack([candidates[HEADS].astype(np.float64) * weights, np.full(len(candidates), self.bias)])
        valid = candidates.valid(HEADS)
        return patch(
            PARTS(terms.astype(np.float32), labels=(*labels, "bias"), valid=valid),
            SCORE(terms.sum(axis=1).astype(np.float32), valid=valid),
        )


@attrs.frozen
class Boost:
    """Multiplies the scores of even items."""

    factor: Annotated[float, Gt(0), Le(4)] = 1.0

    reads: ClassVar = (SCORE,)
    writes: ClassVar = (SCORE, BOOST)

    def score(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """Multiply."""
        factors = np.where(candidates[ITEM_ID] % 2 == 0, self.factor, 1.0).astype(np.float32)
        valid = candidates.valid(SCORE)
        return patch(SCORE(candidates[SCORE] * factors, valid=valid), BOOST(factors, valid=valid))


@attrs.frozen
class Diversity:
    """Multiplies an author's second, third, ... item by less and less."""

    decay: Annotated[float, Ge(0), Le(1)] = 0.5

    listwise: ClassVar = True
    reads: ClassVar = (SCORE, AUTHOR)
    writes: ClassVar = (SCORE, FACTOR)

    def score(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """Count in the order of the scores."""
        seen: dict[int, int] = {}
        factors = np.ones(len(candidates), np.float32)
        for row in rank_order(candidates).tolist():
            author = int(candidates[AUTHOR][row])
            factors[row] = self.decay ** seen.get(author, 0)
            seen[author] = seen.get(author, 0) + 1
        return patch(SCORE(candidates[SCORE] * factors), FACTOR(factors))


@attrs.frozen
class Secret:
    """Adds what it does not explain."""

    amount: float = 0.0

    reads: ClassVar = (SCORE,)
    writes: ClassVar = (SCORE,)

    def score(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """Add by item."""
        return patch(SCORE(candidates[SCORE] + np.float32(self.amount) * (candidates[ITEM_ID] % 3)))


@attrs.frozen
class Drop:
    """Drops an item."""

    item: int = -1

    reads: ClassVar = ()

    def keep(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """All but the item."""
        return candidates[ITEM_ID] != self.item


@attrs.frozen
class Top:
    """The best rows."""

    size: Annotated[int, Ge(1), MultipleOf(1)] = 3

    reads: ClassVar = (SCORE,)

    def select(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """Best first."""
        return rank_order(candidates, ctx.semantics)[: self.size]


def heads(rows: Mapping[int, tuple[float, ...]], authors: Mapping[int, int] | None = None) -> Candidates:
    """A table of items with their heads and authors (default: each its own)."""
    ids = list(rows)
    values = np.array(list(rows.values()), np.float32).reshape(len(ids), -1)
    by = [(authors or {}).get(item, item) for item in ids]
    return Candidates.of(ITEM_ID(ids), HEADS(values, labels=HEADS.labels[: values.shape[1]]), AUTHOR(by))


def ranked_app(table: Candidates, *scorers: Any, drop: int = -1, **stages: Any) -> App:
    """A pipeline called `ranked`."""
    stages.setdefault("selector", ("top", Top()))
    stages.setdefault("sources", [("source", StaticSource(table))])
    stages.setdefault("filters", [("drop", Drop(drop))])
    return compose("ranked", scorers=list(scorers), **stages)


def answer(app: App, name: str = "ranked") -> Outcome:
    """One request, in virtual time."""

    async def serve() -> Outcome:
        async with app:
            return await app[name].run(request_id="r")

    return run_in_virtual_time(serve())


@attrs.frozen
class Shelf:
    """A source of five items."""

    reads: ClassVar = ()
    writes: ClassVar = (HEADS, AUTHOR, TITLE)

    def fetch(self, query: Any, ctx: Any) -> Candidates:
        """The items."""
        table = heads({1: (0.9, 0.1), 2: (0.2, 0.2), 3: (0.5, 0.05), 4: (0.3, 0.02), 5: (0.0, 0.01)})
        return table.patched(patch(TITLE(["one", "two", "three", None, "five"])))


REGISTRY: Final = Registry(
    [
        Plugin(
            namespace="ranked",
            components={
                "source": {"shelf": Shelf},
                "filter": {"drop": Drop},
                "scorer": {"weighted": Weighted, "boost": Boost, "diversity": Diversity, "secret": Secret},
                "selector": {"top": Top},
            },
            keys=[HEADS, AUTHOR, TITLE, PARTS, BOOST, FACTOR],
        )
    ]
)

SPEC: Final = """
schema = 1

[pipelines.ranked]
sources = ["ranked.shelf"]
filters = ["drop"]
scorers = ["weighted", "boost", "ranked.diversity"]
selector = "top"
show = ["ranked.title", "ranked.heads"]

[components.drop]
use = "ranked.drop"

[components.weighted]
use = "ranked.weighted"

[components.boost]
use = "ranked.boost"

[components.top]
use = "ranked.top"
"""


@attrs.define(eq=False)
class Again:
    """Ranks one request again with components replaced, as a replayer does, from scratch.

    Args:
        table: The source's rows.
        scorers: Names and scorers.
        selector: The selector.
        stages: Further stages.
        runs: How often it ran.
    """

    table: Candidates
    scorers: tuple[tuple[str, Any], ...]
    selector: Any = attrs.field(factory=Top)
    stages: Mapping[str, Any] = attrs.field(factory=dict)
    runs: int = 0

    async def run(self, components: Mapping[str, Any]) -> Outcome:
        """The answer."""
        self.runs += 1
        scorers = [(name, components.get(name, scorer)) for name, scorer in self.scorers]
        selector = ("top", components.get("top", self.selector))
        app = ranked_app(self.table, *scorers, selector=selector, **self.stages)
        async with app:
            return await app["ranked"].run(request_id="r")
