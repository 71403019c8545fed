"""Posts of which too little is known to show them."""

from __future__ import annotations

from typing import Annotated, ClassVar

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates, Row
from candidate_pipeline.components import Context
from candidate_pipeline.keys import Key
from candidate_pipeline.options import Doc
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import AUTHOR_ID, TEXT


@attrs.frozen
class CoreData:
    """Drops posts without a known author or without text.

    After the core-data filter of the x-algorithm, January 2026 release; the May release asks for the author only, as
    `require_text = false` does.

    Args:
        require_text: Whether a post with a blank text is dropped.
    """

    require_text: Annotated[bool, Doc("Whether a post with a blank text is dropped.")] = True

    reads: ClassVar[tuple[Key, ...]] = (AUTHOR_ID, TEXT)

    def keep(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.bool_]:
        """Which rows to keep, bool `[n]`."""
        known: NDArray[np.bool_] = candidates.valid(AUTHOR_ID) & (candidates[AUTHOR_ID] != 0)
        if not self.require_text:
            return known
        texts = (bool(text) and not text.isspace() for text in candidates[TEXT])
        return known & candidates.valid(TEXT) & np.fromiter(texts, np.bool_, len(candidates))

    def reason(self, query: Query, row: Row) -> str:
        """What is missing."""
        if not row[AUTHOR_ID]:
            return "nobody knows who posted it"
        return "it has no text" if row[TEXT] is None else "its text is blank"
