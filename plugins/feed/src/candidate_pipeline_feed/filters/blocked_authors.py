"""Posts that blocks and mutes between people keep apart."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates, Row
from candidate_pipeline.components import Context
from candidate_pipeline.keys import Key
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import AUTHOR_ID, BLOCKED_BY, BLOCKS, MUTES, QUOTE_AUTHOR_ID, REPOST_AUTHOR_ID
from candidate_pipeline_feed.membership import member


@attrs.frozen
class BlockedAuthors:
    """Drops posts by, quoting or reposting people whom the viewer blocks or who block the viewer, and by muted people.

    After the author-socialgraph filter of the x-algorithm, May 2026 release. A mute concerns a person's own posts and
    reposts only, not those who quote or repost them. Two things are stricter here: the original's author of a repost
    may not block the viewer either (upstream leaves that to a service it did not publish), and it is a safety filter:
    a list that could not be loaded ends the request, where upstream goes on with an empty one.
    """

    safety: ClassVar[bool] = True
    reads: ClassVar[tuple[Key, ...]] = (BLOCKS, BLOCKED_BY, MUTES, AUTHOR_ID, REPOST_AUTHOR_ID, QUOTE_AUTHOR_ID)

    def keep(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.bool_]:
        """Which rows to keep, bool `[n]`."""
        apart = np.union1d(query[BLOCKS], query[BLOCKED_BY])
        drop = candidates.valid(AUTHOR_ID) & member(candidates[AUTHOR_ID], query[MUTES])
        for people in (AUTHOR_ID, REPOST_AUTHOR_ID, QUOTE_AUTHOR_ID):
            drop |= candidates.valid(people) & member(candidates[people], apart)
        return ~drop

    def reason(self, query: Query, row: Row) -> str:
        """Who keeps whom away."""
        people = {
            "its author": row[AUTHOR_ID],
            "the author of the original that it reposts": row[REPOST_AUTHOR_ID],
            "the author of the post that it quotes": row[QUOTE_AUTHOR_ID],
        }
        for who, person in people.items():
            if person in query[BLOCKS]:
                return f"{who}, {person}, is blocked by the viewer"
            if person in query[BLOCKED_BY]:
                return f"{who}, {person}, blocks the viewer"
        return f"its author, {row[AUTHOR_ID]}, is muted by the viewer"
