"""Posts from anywhere that the retrieval model thinks may interest the viewer."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Annotated

import attrs
import numpy as np
from annotated_types import Ge, Gt

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.errors import DataError
from candidate_pipeline.keys import ITEM_ID, Key
from candidate_pipeline.options import Doc
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import AUTHOR_ID, CREATED_AT, HISTORY, SEEN_IDS, VIEWER_ID
from candidate_pipeline_phoenix.index import PostIndex
from candidate_pipeline_phoenix.keys import RETRIEVAL_SCORE
from candidate_pipeline_phoenix.originals import originals
from candidate_pipeline_phoenix.requests import model_history


@attrs.frozen
class PhoenixRetrieval:
    """The posts nearest to the viewer's vector, nearest first; of equally near ones the newer, then the larger id.

    Posts made at or before the request's clock are searched. Reposts are never found: their originals are. A viewer
    without history is found posts by who they are, as far as the model knows them.
    """

    index: PostIndex
    max_results: Annotated[int, Ge(1), Doc("At most so many posts.", unit="posts")] = 1000
    max_age: Annotated[dt.timedelta | None, Gt(dt.timedelta(0)), Doc("Older posts are not searched.")] = None
    exclude_seen: Annotated[bool, Doc("Leave out posts that the viewer has seen before the best are counted.")] = True

    writes = (AUTHOR_ID, CREATED_AT, RETRIEVAL_SCORE)
    blocking = True

    @property
    def reads(self) -> Collection[Key]:
        """The viewer, the history and, if asked for, what was seen."""
        return (VIEWER_ID, HISTORY, SEEN_IDS) if self.exclude_seen else (VIEWER_ID, HISTORY)

    def fetch(self, query: Query, ctx: Context) -> Candidates:
        """The nearest posts.

        Raises:
            DataError: The model's vector of the viewer is not finite.
        """
        model, data = self.index.model.served, self.index.data
        viewer = query[VIEWER_ID]
        vector = model.encode_user(viewer, model_history(query[HISTORY], model.action_names, data))
        if not np.isfinite(vector).all():
            raise DataError(
                f"the retrieval model gives viewer {viewer} a vector that is not finite. Train the model again: "
                f"candidate-pipeline phoenix train --data {data.path}"
            )
        exclude = None
        if self.exclude_seen:
            seen = query[SEEN_IDS]
            exclude = np.union1d(seen, originals(data, seen).ids)
        age = None if self.max_age is None else self.max_age // dt.timedelta(milliseconds=1)
        found = self.index.search(
            vector,
            self.max_results,
            now_ms=query.now_ms,
            oldest_ms=None if age is None else query.now_ms - age,
            exclude=exclude,
        )
        return Candidates.of(
            ITEM_ID(found.item_ids),
            AUTHOR_ID(found.author_ids),
            CREATED_AT(found.created_at),
            RETRIEVAL_SCORE(found.scores),
        )
