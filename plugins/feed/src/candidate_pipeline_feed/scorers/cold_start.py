"""A place on the page for one post that few people have seen."""

from __future__ import annotations

import datetime as dt
import math
from typing import Annotated, ClassVar

import attrs
import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.keys import SCORE, Key
from candidate_pipeline.options import Doc
from candidate_pipeline.ordering import rank_order
from candidate_pipeline.patches import Patch, patch
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import (
    AUTHOR_FOLLOWERS,
    COLD_START_TERMS,
    CREATED_AT,
    REPLY_TO,
    REPOST_OF,
    VIEW_COUNT,
)


@attrs.frozen
class ColdStart:
    """Raises the best post of a little-known author to the score at a place of the page.

    After the cold start of the x-algorithm, August 2026 release. The place is drawn from `first_slot` up to, and
    without, `end_slot` (from 0, by descending score); with fewer posts nothing is raised. Eligible is an original post
    whose author is known to have at most `max_followers` followers, that is known to have fewer than `max_views`
    views, and whose place among the scores that are not 0 is before `share` of their number, rounded down. The
    best-scored eligible post, the last row of equals, is raised to the score at the place if its own is lower.

    That release also splits viewers and authors into the arms of an experiment, with a group of authors that is not
    public, and can choose by Thompson sampling; neither is here. It belongs between `feed.weighted` (or `feed.mpn`)
    and the diversity scorer.

    Args:
        first_slot: First place that may be drawn (published default 15).
        end_slot: First place that may not (published default 16).
        max_followers: Most followers of the author (published default 1000).
        max_views: Views from which a post is no longer new (published default 1000).
        share: Part of the scored posts, from the best, among which an eligible post stands (published default .85).
        max_age: Oldest post, inclusive (published 24 hours, for one arm); default: any age.
    """

    first_slot: Annotated[int, Ge(0), Doc("First place that may be drawn, from 0.")] = 15
    end_slot: Annotated[int, Gt(0), Doc("First place that may not be drawn.")] = 16
    max_followers: Annotated[int, Ge(0), Doc("Most followers of the author.", unit="people")] = 1000
    max_views: Annotated[int, Ge(0), Doc("Views from which a post is no longer new.")] = 1000
    share: Annotated[float, Ge(0), Le(1), Doc("Part of the scored posts that it must be among.")] = 0.85
    max_age: Annotated[dt.timedelta, Ge(dt.timedelta(0)), Doc("Oldest post, inclusive.")] | None = None

    listwise: ClassVar[bool] = True
    writes: ClassVar[tuple[Key, ...]] = (SCORE, COLD_START_TERMS)

    def __attrs_post_init__(self) -> None:
        if self.end_slot <= self.first_slot:
            raise MisconfigurationError(
                f"end_slot: wanted more than first_slot ({self.first_slot}), found {self.end_slot}"
            )

    @property
    def reads(self) -> tuple[Key, ...]:
        """Scores, and what makes a post eligible."""
        keys: tuple[Key, ...] = (SCORE, REPLY_TO, REPOST_OF, AUTHOR_FOLLOWERS, VIEW_COUNT)
        return keys if self.max_age is None else (*keys, CREATED_AT)

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Raise one post, or none."""
        before, scored = candidates[SCORE], candidates.valid(SCORE)
        order = rank_order(candidates, semantics=ctx.semantics)
        order = order[(scored & ~np.isnan(before))[order]]
        slot = int(ctx.rng().integers(self.first_slot, self.end_slot))
        after = before.copy()
        eligible = np.flatnonzero(self._eligible(query, candidates, order))
        if slot < len(order) and len(eligible):
            best = before[eligible].max()
            chosen = eligible[before[eligible] == best][-1]
            after[chosen] = max(best, before[order[slot]])
        with np.errstate(invalid="ignore", over="ignore"):
            raised = np.where(after == before, 0, after - before)
        return patch(SCORE(after, valid=scored), COLD_START_TERMS(raised, valid=scored & np.isfinite(raised)))

    def _eligible(self, query: Query, candidates: Candidates, order: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which posts may be raised, `bool[n]`."""
        counted = order[candidates[SCORE][order] != 0]
        result = np.zeros(len(candidates), np.bool_)
        result[counted[: math.floor(self.share * len(counted))]] = True
        result &= ~candidates.valid(REPLY_TO) & ~candidates.valid(REPOST_OF)
        result &= candidates.valid(AUTHOR_FOLLOWERS) & (candidates[AUTHOR_FOLLOWERS] <= self.max_followers)
        result &= candidates.valid(VIEW_COUNT) & (candidates[VIEW_COUNT] < self.max_views)
        if self.max_age is not None:
            oldest = query.now_ms - self.max_age // dt.timedelta(milliseconds=1)
            result &= candidates.valid(CREATED_AT) & (candidates[CREATED_AT] >= oldest)
        return result
