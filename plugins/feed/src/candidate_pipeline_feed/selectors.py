"""The selector that takes the best rows."""

from __future__ import annotations

from typing import Annotated, ClassVar

import attrs
import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.keys import SCORE, Key
from candidate_pipeline.options import Doc
from candidate_pipeline.ordering import rank_order
from candidate_pipeline.query import Query


@attrs.frozen
class TopK:
    """The best rows by score.

    After the top-K selector of the x-algorithm releases of January and May 2026, with a total order where theirs left
    NaN undefined: scored rows by descending score, then rows without a score, then NaN; ties keep the table's order.
    Under upstream semantics the order is the published one: a stable descending sort in which a missing score is
    minus infinity and NaN equals everything, so that a NaN may hold a top place.

    Args:
        size: How many rows at most (published default 50, August 2026 release).
    """

    size: Annotated[int, Ge(1), Doc("How many rows at most.", unit="rows")] = 50

    reads: ClassVar[tuple[Key, ...]] = (SCORE,)

    def select(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.intp]:
        """Indices of the best rows, best first, `[min(size, n)]`."""
        return rank_order(candidates, semantics=ctx.semantics)[: self.size]
