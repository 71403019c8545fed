"""The viewer's own posts."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates, Row
from candidate_pipeline.components import Context
from candidate_pipeline.keys import Key
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import AUTHOR_ID, VIEWER_ID


@attrs.frozen
class OwnPosts:
    """Drops what the viewer posted; others' reposts of it stay. After the x-algorithm releases of 2026."""

    reads: ClassVar[tuple[Key, ...]] = (VIEWER_ID, AUTHOR_ID)

    def keep(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.bool_]:
        """Which rows to keep, bool `[n]`."""
        own: NDArray[np.bool_] = candidates.valid(AUTHOR_ID) & (candidates[AUTHOR_ID] == query[VIEWER_ID])
        return ~own

    def reason(self, query: Query, row: Row) -> str:
        """Whose it is."""
        return f"the viewer, {query[VIEWER_ID]}, posted it"
