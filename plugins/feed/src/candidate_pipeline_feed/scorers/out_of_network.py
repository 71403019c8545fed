"""A factor on posts from outside the viewer's network."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, ClassVar

import attrs
import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.keys import SCORE, Key
from candidate_pipeline.options import Doc
from candidate_pipeline.patches import Patch, patch
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import (
    FOLLOWS,
    IN_NETWORK,
    OUT_OF_NETWORK_FACTOR,
    REPLY_TO,
    REPOST_OF,
    REQUESTED_TOPICS,
    VIEWER_SINCE,
)
from candidate_pipeline_feed.scorers.penalties import Negative, effective, multiplied, rule_for


@attrs.frozen
class OutOfNetwork:
    """Multiplies the score of a post by an author whom the viewer does not follow.

    After the out-of-network rule of the x-algorithm releases of January and May 2026: only a post known to be out of
    network is touched, not one of which that is unknown. The factor is that of topic requests if the request names
    topics, else that of new users if the viewer is one, else `factor`; the first two are off unless set. Upstream
    multiplies negative scores too, which moves them up; here they are divided by default, so that the factor works in
    one direction.

    Args:
        factor: What scores are multiplied with (published default .75, August 2026 release).
        replies_and_reposts: Whether it applies to replies and reposts in network too (default of the August release).
        topic_factor: The factor of requests that name topics (published .5); default: `factor`.
        new_user_factor: The factor of new users (published default .00001).
        new_user_age: Viewers whose account is younger are new (published default 0: nobody is). One whose age is not
            known is not.
        new_user_min_following: New users with fewer follows take `factor` (published default 5).
        negative: What happens to negative scores; default: "divide", or "multiply" under upstream semantics. What is
            set here holds under either.
    """

    factor: Annotated[float, Gt(0), Doc("What scores of posts out of network are multiplied with.")] = 0.75
    replies_and_reposts: Annotated[bool, Doc("Whether it applies to replies and reposts in network too.")] = False
    topic_factor: Annotated[float, Gt(0), Doc("The factor of requests that name topics.")] | None = None
    new_user_factor: Annotated[float, Gt(0), Doc("The factor of new users.")] = 1e-5
    new_user_age: Annotated[
        dt.timedelta, Ge(dt.timedelta(0)), Doc("Viewers whose account is younger are new; 0: nobody.")
    ] = dt.timedelta(0)
    new_user_min_following: Annotated[int, Ge(0), Doc("From how many follows on.", unit="people")] = 5
    negative: (
        Annotated[Negative, Doc("What happens to negative scores: 'multiply' raises them; default: by semantics.")]
        | None
    ) = None

    writes: ClassVar[tuple[Key, ...]] = (SCORE, OUT_OF_NETWORK_FACTOR)

    @property
    def reads(self) -> tuple[Key, ...]:
        """Scores, the network, and what the options that are on ask for."""
        keys: list[Key] = [SCORE, IN_NETWORK]
        if self.replies_and_reposts:
            keys += [REPLY_TO, REPOST_OF]
        if self.topic_factor is not None:
            keys += [REQUESTED_TOPICS]
        if self.new_user_age:
            keys += [VIEWER_SINCE, FOLLOWS]
        return tuple(keys)

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Multiply the scores."""
        scores, scored = candidates[SCORE], candidates.valid(SCORE)
        factors = effective(scores, self.multipliers(query, candidates), rule_for(self.negative, ctx))
        return patch(
            SCORE(multiplied(scores, factors), valid=scored),
            OUT_OF_NETWORK_FACTOR(factors.astype(np.float32), valid=scored),
        )

    def multipliers(self, query: Query, candidates: Candidates) -> NDArray[np.float64]:
        """The factor of each post, float64 `[n]`; 1 where it does not apply."""
        known, inside = candidates.valid(IN_NETWORK), candidates[IN_NETWORK]
        applies = known & ~inside
        if self.replies_and_reposts:
            applies |= known & inside & (candidates.valid(REPLY_TO) | candidates.valid(REPOST_OF))
        return np.where(applies, self._factor(query), 1.0)

    def _factor(self, query: Query) -> float:
        """The factor of a request."""
        if self.topic_factor is not None and query[REQUESTED_TOPICS]:
            return self.topic_factor
        if self.new_user_age and query[VIEWER_SINCE] >= 0:
            age = dt.timedelta(milliseconds=query.now_ms - query[VIEWER_SINCE])
            if age < self.new_user_age and len(query[FOLLOWS]) >= self.new_user_min_following:
                return self.new_user_factor
        return self.factor
