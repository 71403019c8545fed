"""A toy plugin whose scorer has columns for each group that its options or a file of settings name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    ColumnFamily,
    ConfigFile,
    Plugin,
    QueryFeature,
    Registry,
    patch,
    rank_order,
)

WEIGHTS = QueryFeature("market.weights", dict, default={}, optional=True, doc="Weights of groups.")
GAIN = ColumnFamily("market.gain", np.float32, doc="What {member} gains.", unit="EUR")
PART = ColumnFamily("market.part", np.float32, terms_of=SCORE, doc="What {member} adds.")
FACTOR = ColumnFamily("market.factor", np.float32, terms_of=SCORE, factor=True)

#: How often a file of settings was read.
READ: list[Path] = []


@attrs.frozen
class Stall:
    """Items 1 to 4."""

    reads: ClassVar[Any] = ()
    writes: ClassVar[Any] = ()

    def fetch(self, query: Any, ctx: Any) -> Candidates:
        """Four rows."""
        return Candidates.of(ITEM_ID([1, 2, 3, 4]))


@attrs.frozen
class Gains:
    """Adds up what groups gain: item times a group's place times its weight."""

    groups: tuple[str, ...] = ()
    settings: ConfigFile | None = None
    weights: Mapping[str, float] = attrs.field(factory=dict)
    found: tuple[str, ...] = attrs.field(init=False, eq=False)

    @found.default
    def _found(self) -> tuple[str, ...]:
        if self.settings is None:
            return self.groups
        READ.append(self.settings)
        names = (*self.groups, *self.settings.read_text(encoding="utf-8").split())
        for name in names:
            GAIN[name]  # refuses what is no name
        return names

    @property
    def reads(self) -> Any:
        """The weights that the request may give."""
        return (WEIGHTS,)

    @property
    def writes(self) -> Any:
        """A score with its parts."""
        return (SCORE, *(GAIN[name] for name in self.found), *(PART[name] for name in self.found))

    def score(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """Sum the parts."""
        weights = {**self.weights, **query[WEIGHTS]}
        ids = candidates[ITEM_ID].astype(np.float32)
        gains = {name: ids * np.float32(at) for at, name in enumerate(self.found, 1)}
        parts = {name: gain * np.float32(weights.get(name, 1.0)) for name, gain in gains.items()}
        total = sum(parts.values(), np.zeros(len(ids), np.float32))
        return patch(
            SCORE(total),
            *(GAIN[name](gain, valid=candidates[ITEM_ID] != 3) for name, gain in gains.items()),
            *(PART[name](part) for name, part in parts.items()),
        )


@attrs.frozen
class Best:
    """All rows, best first."""

    reads: ClassVar[Any] = (SCORE,)

    def select(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """By score."""
        return rank_order(candidates)


PLUGIN = Plugin(
    namespace="market",
    components={"source": {"stall": Stall}, "scorer": {"gains": Gains}, "selector": {"best": Best}},
    keys=[WEIGHTS, GAIN, PART],
)
REGISTRY = Registry([PLUGIN])

SPEC = """
schema = 1

[pipelines.market]
inputs = { weights = "market.weights" }
sources = ["market.stall"]
scorers = ["gains"]
selector = "market.best"
show = ["market.gain.buyer"]

[components.gains]
use = "market.gains"
groups = ["buyer", "seller"]
"""
