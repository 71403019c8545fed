"""Simple components for tests and first pipelines."""

from __future__ import annotations

import asyncio

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.keys import ITEM_ID, SCORE, Key
from candidate_pipeline.ordering import rank_order
from candidate_pipeline.query import Query


@attrs.frozen(eq=False)
class StaticSource:
    """A source that returns the same rows to every query.

    Args:
        rows: What it returns.
        delay: Seconds it takes, for tests of timeouts.
        error: What it raises instead, if anything.
    """

    rows: Candidates
    delay: float = 0.0
    error: Exception | None = None
    reads: tuple[Key, ...] = ()

    @property
    def writes(self) -> tuple[Key, ...]:
        """The columns of its rows."""
        return tuple(column for column in self.rows.columns if column is not ITEM_ID)

    async def fetch(self, query: Query, ctx: Context) -> Candidates:
        """The rows, after the delay."""
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        return self.rows


@attrs.frozen
class TopScore:
    """A selector of the best rows by score.

    Args:
        size: How many, at most.
    """

    size: int = 10
    reads: tuple[Key, ...] = (SCORE,)

    def select(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.intp]:
        """The first rows of `rank_order`."""
        return rank_order(candidates)[: self.size]
