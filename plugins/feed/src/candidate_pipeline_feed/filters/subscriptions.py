"""Posts for subscribers."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates, Row
from candidate_pipeline.components import Context
from candidate_pipeline.keys import Key
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import AUTHOR_ID, REPOST_AUTHOR_ID, SUBSCRIBER_ONLY, SUBSCRIPTIONS, VIEWER_ID
from candidate_pipeline_feed.membership import member


@attrs.frozen
class SubscribersOnly:
    """Drops posts for subscribers of an author the viewer does not subscribe to.

    After the ineligible-subscription filter of the x-algorithm releases of 2026, which shows such posts to everybody
    when the look-up fails; this one is a safety filter, so it fails closed. Of a repost it is the original's author
    who must be subscribed to.
    """

    safety: ClassVar[bool] = True
    reads: ClassVar[tuple[Key, ...]] = (VIEWER_ID, SUBSCRIPTIONS, SUBSCRIBER_ONLY, AUTHOR_ID, REPOST_AUTHOR_ID)

    def keep(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.bool_]:
        """Which rows to keep, bool `[n]`."""
        reposted = candidates.valid(REPOST_AUTHOR_ID)
        sellers = np.where(reposted, candidates[REPOST_AUTHOR_ID], candidates[AUTHOR_ID])
        known = reposted | candidates.valid(AUTHOR_ID)
        may_read: NDArray[np.bool_] = known & (member(sellers, query[SUBSCRIPTIONS]) | (sellers == query[VIEWER_ID]))
        public: NDArray[np.bool_] = ~(candidates.valid(SUBSCRIBER_ONLY) & candidates[SUBSCRIBER_ONLY])
        return public | may_read

    def reason(self, query: Query, row: Row) -> str:
        """Whose subscribers it is for."""
        author = row[AUTHOR_ID] if row[REPOST_AUTHOR_ID] is None else row[REPOST_AUTHOR_ID]
        if author is None:
            return "it is for subscribers, and nobody knows of whom"
        return f"it is for subscribers of {author}, to whom the viewer does not subscribe"
