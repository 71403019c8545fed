"""The query hydrator for what the viewer did and saw before the request."""

from __future__ import annotations

from typing import Annotated, ClassVar

import attrs
import numpy as np
from annotated_types import Ge

from candidate_pipeline.components import Context
from candidate_pipeline.keys import Key
from candidate_pipeline.options import Doc
from candidate_pipeline.patches import QueryPatch, query_patch
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import HISTORY, SEEN_IDS, VIEWER_ID, History
from candidate_pipeline_feed.lookups import items_of
from candidate_pipeline_feed.store import FeedTables


@attrs.frozen
class ViewerHistory:
    """The viewer's actions, oldest first, and the posts they have seen; all strictly before the request's clock.

    An event with at least one discrete action enters the history, the same events that the trainer makes history
    of. A post that was only shown, or only stayed on screen for a while, counts as seen and is no history.

    Args:
        data: The tables.
        max_events: The newest events kept, as the published sequence length (x-algorithm, August 2026 release).
    """

    data: FeedTables
    max_events: Annotated[int, Ge(1), Doc("The newest events that history holds.", unit="events")] = 1024

    reads: ClassVar[tuple[Key, ...]] = (VIEWER_ID,)
    writes: ClassVar[tuple[Key, ...]] = (HISTORY, SEEN_IDS)

    def hydrate(self, query: Query, ctx: Context) -> QueryPatch:
        """Look the events up."""
        events = self.data.events_of(query[VIEWER_ID], query.now_ms)
        acted = np.flatnonzero((events.actions != 0).any(axis=1))[-self.max_events :]
        past = events.take(acted)
        authors, _ = items_of(self.data, past.item_id).cells("author_id")
        history = History(
            item_ids=past.item_id,
            author_ids=authors,
            times=past.time,
            actions=past.actions,
            labels=past.labels,
            dwell_seconds=past.seconds[:, past.continuous_labels.index("dwell_time")],
        )
        return query_patch(HISTORY(history), SEEN_IDS(np.unique(events.item_id)))
