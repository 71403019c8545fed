"""Posts that are too old."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, ClassVar

import attrs
import numpy as np
from annotated_types import Gt
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates, Row
from candidate_pipeline.components import Context
from candidate_pipeline.keys import Key
from candidate_pipeline.options import Doc
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import CREATED_AT
from candidate_pipeline_feed.words import span


@attrs.frozen
class Age:
    """Keeps posts up to an age, inclusive, by the request's clock.

    After the age filter of the x-algorithm releases of 2026, which reads the time from the post's id; here it is
    `feed.created_at`. A repost has its own age. A post without a time is dropped, and so is one from after the
    request's clock: a request about the past must not see the future.

    Args:
        max_age: The oldest age kept (published default 48 h, August 2026 release).
    """

    max_age: Annotated[dt.timedelta, Gt(dt.timedelta(0)), Doc("The oldest age kept, inclusive.")] = dt.timedelta(
        hours=48
    )

    reads: ClassVar[tuple[Key, ...]] = (CREATED_AT,)

    def keep(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.bool_]:
        """Which rows to keep, bool `[n]`."""
        created, now = candidates[CREATED_AT], query.now_ms
        oldest = now - self.max_age // dt.timedelta(milliseconds=1)
        return candidates.valid(CREATED_AT) & (created >= oldest) & (created <= now)

    def reason(self, query: Query, row: Row) -> str:
        """How old the post is, and how old it may be."""
        created = row[CREATED_AT]
        if created is None:
            return "nobody knows when it was posted"
        age = query.now_ms - created
        if age < 0:
            return f"posted {span(-age)} after the request's clock"
        longest = span(self.max_age // dt.timedelta(milliseconds=1))
        return f"posted {span(age)} before the request; at most {longest} are kept"
