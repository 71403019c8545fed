"""A factor on posts from outside the viewer's network."""

from __future__ import annotations

from typing import Annotated, ClassVar

import attrs
import numpy as np
from annotated_types import Gt

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.keys import SCORE, Key
from candidate_pipeline.options import Doc
from candidate_pipeline.patches import Patch, patch
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import IN_NETWORK, OUT_OF_NETWORK_FACTOR, REPLY_TO, REPOST_OF
from candidate_pipeline_feed.scorers.penalties import Negative, effective, multiplied


@attrs.frozen
class OutOfNetwork:
    """Multiplies the score of a post by an author whom the viewer does not follow.

    After the out-of-network scorer of the x-algorithm releases of January and May 2026: only a post known to be out of
    network is touched, not one of which that is unknown. Upstream multiplies negative scores too, which moves them up;
    here they are divided by default, so that the factor works in one direction.

    Args:
        factor: What scores are multiplied with (published default .75, August 2026 release).
        replies_and_reposts: Whether it applies to replies and reposts in network too (default of the August release).
        negative: What happens to negative scores.
    """

    factor: Annotated[float, Gt(0), Doc("What scores of posts out of network are multiplied with.")] = 0.75
    replies_and_reposts: Annotated[bool, Doc("Whether it applies to replies and reposts in network too.")] = False
    negative: Annotated[Negative, Doc("What happens to negative scores: 'multiply' raises them.")] = "divide"

    writes: ClassVar[tuple[Key, ...]] = (SCORE, OUT_OF_NETWORK_FACTOR)

    @property
    def reads(self) -> tuple[Key, ...]:
        """Scores, the network, and for one option what kind of post it is."""
        return (SCORE, IN_NETWORK, REPLY_TO, REPOST_OF) if self.replies_and_reposts else (SCORE, IN_NETWORK)

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Multiply the scores."""
        scores, scored = candidates[SCORE], candidates.valid(SCORE)
        applies = candidates.valid(IN_NETWORK) & ~candidates[IN_NETWORK]
        if self.replies_and_reposts:
            within = candidates.valid(IN_NETWORK) & candidates[IN_NETWORK]
            applies |= within & (candidates.valid(REPLY_TO) | candidates.valid(REPOST_OF))
        factors = effective(scores, np.where(applies, self.factor, 1.0), self.negative)
        return patch(
            SCORE(multiplied(scores, factors), valid=scored),
            OUT_OF_NETWORK_FACTOR(factors.astype(np.float32), valid=scored),
        )
