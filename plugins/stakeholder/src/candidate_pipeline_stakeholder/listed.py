"""A source that returns the items that the request lists: for scoring items that are known beforehand."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.errors import RequestError
from candidate_pipeline.keys import ITEM_ID, Key
from candidate_pipeline.query import Query
from candidate_pipeline_stakeholder.keys import ITEM_IDS


@attrs.frozen
class ListedItems:
    """The items of the query feature `stakeholder.item_ids`, in its order, each once.

    It finds nothing and knows nothing of the items but their ids, so hydrators must say the rest. It makes a pipeline
    score what one wants scored: posts that somebody met at a past time, say, by the models as they see that time.
    """

    reads: ClassVar[tuple[Key, ...]] = (ITEM_IDS,)
    writes: ClassVar[tuple[Key, ...]] = ()

    def fetch(self, query: Query, ctx: Context) -> Candidates:
        """The listed items.

        Raises:
            RequestError: What is listed are not whole numbers of 64 bits.
        """
        listed = np.asarray(query[ITEM_IDS])
        if listed.size == 0:
            listed = np.zeros(0, np.int64)
        if listed.ndim != 1 or listed.dtype.kind not in "iu":
            raise RequestError(
                f"{ITEM_IDS.name}: wanted ids in a flat array of whole numbers, found {listed.dtype} of shape "
                f"{listed.shape}"
            )
        ids = listed.astype(np.int64)  # unsigned ids keep their bits
        _, first = np.unique(ids, return_index=True)
        return Candidates.of(ITEM_ID(ids[np.sort(first)]))
