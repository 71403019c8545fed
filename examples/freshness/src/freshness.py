"""Freshness: a scorer that lets posts fade with age, as a plugin of its own."""

from datetime import timedelta
from typing import Annotated

import attrs
import numpy as np
from annotated_types import Gt

from candidate_pipeline import SCORE, Candidates, Column, Context, Doc, Patch, Plugin, Query, hookimpl, patch
from candidate_pipeline_feed.keys import CREATED_AT

FRESHNESS = Column("freshness.factor", np.float32, terms_of=SCORE, factor=True, doc="What age left of the score.")


@attrs.frozen
class Decay:
    """Halves a positive score with every half-life of age."""

    half_life: Annotated[timedelta, Gt(timedelta(0)), Doc("Age at which half the score is left.")] = timedelta(hours=6)

    reads = (SCORE, CREATED_AT)
    writes = (SCORE, FRESHNESS)

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Multiply; a score that is not positive stays, since a factor below 1 would raise it."""
        age = np.maximum(query.now_ms - candidates[CREATED_AT].astype(np.float64), 0.0)
        factor = np.exp2(-age / (self.half_life.total_seconds() * 1000)).astype(np.float32)
        score = candidates[SCORE]
        factor[(score <= 0) | ~candidates.valid(CREATED_AT)] = 1.0
        return patch(SCORE(score * factor, valid=candidates.valid(SCORE)), FRESHNESS(factor))


@hookimpl
def candidate_pipeline_plugin() -> Plugin:
    """Offer the scorer as `freshness.decay`."""
    return Plugin("freshness", components={"scorer": {"decay": "freshness:Decay"}}, keys=[FRESHNESS])
