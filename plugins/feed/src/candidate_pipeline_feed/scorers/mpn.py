"""Diversity and the network applied to the weighted sum before its offset."""

from __future__ import annotations

from typing import Annotated, ClassVar

import attrs
import numpy as np

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.keys import SCORE, Key
from candidate_pipeline.options import Doc
from candidate_pipeline.patches import Patch, patch
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import MPN_MULTIPLIER, MPN_TERMS, WEIGHTED_TERMS
from candidate_pipeline_feed.scorers.author_diversity import AuthorDiversity
from candidate_pipeline_feed.scorers.out_of_network import OutOfNetwork


@attrs.frozen
class MultipliedNet:
    """Multiplies the weighted sum, not the score, with author diversity and the out-of-network factor.

    The MPN mode of the x-algorithm, August 2026 release (off there by default). With the net sum s of the weighted
    terms, m = diversity multiplier x out-of-network factor, and f the offset for negatives: the score is f(m * s)
    where s is not negative, and f(s) otherwise. So a multiplier never raises a post with a negative sum, and never
    pushes another below the offset. It stands in place of the two scorers, right after `feed.weighted`; a post whose
    terms are not known keeps its score.

    Args:
        diversity: How authors are counted. Its `negative` has no bearing here.
        out_of_network: The factor of posts out of network. Its `negative` has no bearing here.
    """

    diversity: Annotated[AuthorDiversity, Doc("How authors are counted.")] = attrs.field(factory=AuthorDiversity)
    out_of_network: Annotated[OutOfNetwork, Doc("The factor of posts out of network.")] = attrs.field(
        factory=OutOfNetwork
    )

    listwise: ClassVar[bool] = True
    writes: ClassVar[tuple[Key, ...]] = (SCORE, MPN_TERMS, MPN_MULTIPLIER)

    @property
    def reads(self) -> tuple[Key, ...]:
        """Scores and their terms, and what the two rules ask for."""
        return tuple(dict.fromkeys((SCORE, WEIGHTED_TERMS, *self.diversity.reads, *self.out_of_network.reads)))

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Multiply the sums, in float64."""
        before, scored = candidates[SCORE].astype(np.float64), candidates.valid(SCORE)
        terms = candidates[WEIGHTED_TERMS].astype(np.float64)
        labels = candidates.labels(WEIGHTED_TERMS)
        added = terms[:, labels.index("offset")] if "offset" in labels else np.zeros(len(candidates))
        factors = self.diversity.multipliers(candidates, ctx) * self.out_of_network.multipliers(query, candidates)
        with np.errstate(invalid="ignore", over="ignore"):
            net = terms.sum(axis=1) - added
            applies = scored & candidates.valid(WEIGHTED_TERMS) & (net >= 0)
            scores = np.where(applies, factors * net + added, before).astype(np.float32)
            change = np.where(applies, scores - before, 0.0).astype(np.float32)
        explained = scored & np.isfinite(change)
        return patch(
            SCORE(scores, valid=scored),
            MPN_TERMS(change, valid=explained),
            MPN_MULTIPLIER(np.where(applies, factors, 1.0).astype(np.float32), valid=scored),
        )
