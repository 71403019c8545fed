"""Fewer posts in a row by one author."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import attrs
import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.keys import SCORE, Key
from candidate_pipeline.options import Doc
from candidate_pipeline.ordering import rank_order
from candidate_pipeline.patches import Patch, patch
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import AUTHOR_ID, DIVERSITY_FACTOR, REPOST_AUTHOR_ID
from candidate_pipeline_feed.scorers.penalties import Negative, effective, multiplied, rule_for


def diversity_multiplier(repeats: NDArray[np.intp], decay: float, floor: float) -> NDArray[np.float64]:
    """(1 - floor) * decay^k + floor for the k-th repeat of an author, float64 `[n]`.

    Source: x-algorithm, May 2026 release.

    Args:
        repeats: k, how many posts of the same author rank above, intp `[n]`.
        decay: What each repeat multiplies with.
        floor: What the multiplier approaches.
    """
    return (1.0 - floor) * np.power(float(decay), repeats) + floor


def occurrences(keys: NDArray[np.int64]) -> NDArray[np.intp]:
    """How often each key stood earlier in the array, intp `[n]`."""
    order = np.argsort(keys, kind="stable")
    in_order = keys[order]
    first = np.searchsorted(in_order, in_order)
    count = np.empty(len(keys), np.intp)
    count[order] = np.arange(len(keys)) - first
    return count


@attrs.frozen
class AuthorDiversity:
    """Multiplies the score of an author's second, third, ... post by less and less.

    After the author-diversity scorer of the x-algorithm releases of January and May 2026: posts are counted in the
    order of their scores (`rank_order`), and rows stay where they are. Posts without a score or an author are left
    alone and not counted. Negative scores are divided by default, so that a repeat never gains.

    Under upstream semantics the published rules hold: the order is the published sort, every post is counted (posts of
    unknown authors as those of one author), negative scores are multiplied unless `negative` says otherwise, and a
    post without a score stays without one.

    Args:
        decay: What each repeat multiplies with (published default .5, August 2026 release).
        floor: What the multiplier approaches (published default .25).
        key: Whose posts are counted: "author" is who posted (of a repost, who reposted; as published),
            "original_author" is who wrote it.
        negative: What happens to negative scores; default: "divide", or "multiply" under upstream semantics. What is
            set here holds under either.
    """

    decay: Annotated[float, Ge(0), Le(1), Doc("What each repeat multiplies with.")] = 0.5
    floor: Annotated[float, Ge(0), Le(1), Doc("What the multiplier approaches.")] = 0.25
    key: Annotated[
        Literal["author", "original_author"], Doc("Whose posts are counted: who posted it, or who wrote it.")
    ] = "author"
    negative: (
        Annotated[Negative, Doc("What happens to negative scores: 'multiply' raises them; default: by semantics.")]
        | None
    ) = None

    listwise: ClassVar[bool] = True
    writes: ClassVar[tuple[Key, ...]] = (SCORE, DIVERSITY_FACTOR)

    @property
    def reads(self) -> tuple[Key, ...]:
        """Scores and authors."""
        return (SCORE, AUTHOR_ID) if self.key == "author" else (SCORE, AUTHOR_ID, REPOST_AUTHOR_ID)

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Multiply the scores."""
        scores, scored = candidates[SCORE], candidates.valid(SCORE)
        factors = effective(scores, self.multipliers(candidates, ctx), rule_for(self.negative, ctx))
        return patch(
            SCORE(multiplied(scores, factors), valid=scored),
            DIVERSITY_FACTOR(factors.astype(np.float32), valid=scored),
        )

    def multipliers(self, candidates: Candidates, ctx: Context) -> NDArray[np.float64]:
        """The multiplier of each post by its author's posts above it, float64 `[n]`; 1 where it is not counted."""
        authors, known = self._authors(candidates)
        counted = rank_order(candidates, semantics=ctx.semantics)
        if ctx.semantics == "strict":
            counts = candidates.valid(SCORE) & known & ~np.isnan(candidates[SCORE])
            counted = counted[counts[counted]]
        factors = np.ones(len(candidates), np.float64)
        factors[counted] = diversity_multiplier(occurrences(authors[counted]), self.decay, self.floor)
        return factors

    def _authors(self, candidates: Candidates) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        authors, known = candidates[AUTHOR_ID], candidates.valid(AUTHOR_ID)
        if self.key == "author":
            return authors, known
        reposted = candidates.valid(REPOST_AUTHOR_ID)
        return np.where(reposted, candidates[REPOST_AUTHOR_ID], authors), known | reposted
