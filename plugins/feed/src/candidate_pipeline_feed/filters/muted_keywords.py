"""Posts with words that the viewer does not want to read."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates, Row
from candidate_pipeline.components import Context
from candidate_pipeline.keys import Key
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import MUTED_KEYWORDS, TEXT
from candidate_pipeline_feed.text_match import matcher, tokens


@attrs.frozen
class MutedKeywords:
    """Drops posts whose text holds one of the viewer's muted words or phrases.

    After the muted-keyword filter of the x-algorithm releases of 2026; `candidate_pipeline_feed.text_match` says what
    matches. Only the text shown is read, not that of quoted or answered posts. It is a safety filter: where the
    keywords or a text could not be looked up it fails closed.
    """

    safety: ClassVar[bool] = True
    reads: ClassVar[tuple[Key, ...]] = (MUTED_KEYWORDS, TEXT)

    def keep(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.bool_]:
        """Which rows to keep, bool `[n]`."""
        muted = matcher(query[MUTED_KEYWORDS])
        if muted.pattern is None:
            return np.ones(len(candidates), np.bool_)
        free = (not muted.matches(text) for text in candidates[TEXT])
        return np.fromiter(free, np.bool_, len(candidates))

    def reason(self, query: Query, row: Row) -> str:
        """The words that are in the text."""
        found = [keyword for keyword in query[MUTED_KEYWORDS] if matcher((keyword,)).matches(row[TEXT])]
        named = [f"muted {'phrase' if len(tokens(keyword)) > 1 else 'word'} '{keyword}'" for keyword in found]
        return f"the text holds the {' and the '.join(named)}".replace("\n", " ")
