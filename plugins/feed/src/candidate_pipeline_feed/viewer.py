"""The query hydrator that knows whether the viewer exists."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np

from candidate_pipeline.components import Context
from candidate_pipeline.errors import RequestError
from candidate_pipeline.keys import Key
from candidate_pipeline.patches import QueryPatch, query_patch
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import VIEWER_FOLLOWERS, VIEWER_ID
from candidate_pipeline_feed.store import FeedTables


@attrs.frozen
class Viewer:
    """Checks that the viewer is a user of the tables, and says how many people follow them.

    Where the users table does not say, follow edges made before the request are counted.

    Args:
        data: The tables.
    """

    data: FeedTables

    reads: ClassVar[tuple[Key, ...]] = (VIEWER_ID,)
    writes: ClassVar[tuple[Key, ...]] = (VIEWER_FOLLOWERS,)

    def hydrate(self, query: Query, ctx: Context) -> QueryPatch:
        """Look the viewer up.

        Raises:
            RequestError: There is no such user.
        """
        viewer, users = query[VIEWER_ID], self.data.tables.users
        self._check_id(viewer)
        rows, found = self.data.user_rows(np.array([viewer], np.int64))
        if not found[0]:
            raise RequestError(self._unknown(viewer))
        row = rows[0]
        if users.is_valid("followers_count")[row]:
            followers = int(users.followers_count[row])
        else:
            followers = len(self.data.edges_to(viewer, "follow", query.now_ms))
        return query_patch(VIEWER_FOLLOWERS(followers))

    def _check_id(self, viewer: int) -> None:
        if not -(2**63) <= viewer < 2**63:
            raise RequestError(f"{viewer} cannot be a user id: ids are signed 64-bit integers. {self._advice(0)}")

    def _unknown(self, viewer: int) -> str:
        return f"there is no user {viewer} in {self.data.path}. {self._advice(viewer)}"

    def _advice(self, viewer: int) -> str:
        ids = self.data.tables.users.user_id
        if not len(ids):
            return "Its users table is empty; check it with: candidate-pipeline data check"
        distance = np.abs(ids.astype(np.float64) - float(viewer))
        nearest = int(ids[int(np.argmin(distance))])
        return f"It has {len(ids):,} users with ids from {ids.min()} to {ids.max()}; the nearest is {nearest}"
