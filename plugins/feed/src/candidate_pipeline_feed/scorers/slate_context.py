"""What stands above each post: for logs, and for models that are trained on them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.keys import SCORE, Column, Key
from candidate_pipeline.options import Doc
from candidate_pipeline.ordering import rank_order
from candidate_pipeline.patches import ColumnUpdate, Patch, patch
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import (
    AUTHOR_ID,
    SEMANTIC_ID,
    SEMANTIC_LEVELS,
    SLATE_AUTHOR_GAP,
    SLATE_AUTHOR_RANK,
    SLATE_POOL_RANK,
    SLATE_SCORE,
    SLATE_SEMANTIC_COUNTS,
    SLATE_SEMANTIC_GAPS,
)
from candidate_pipeline_feed.scorers.author_diversity import occurrences

LEVEL_BITS: Final = 20
"""Bits of one level of a semantic id."""

Bools: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int32]
CellsOf: TypeAlias = dict[Column[Any], tuple[NDArray[Any], Bools]]


def gaps(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many places before itself each key last stood in the array, int64 `[n]`; 0 where it stands first."""
    order = np.argsort(keys, kind="stable")
    repeats = np.zeros(len(keys), np.bool_)
    repeats[1:] = keys[order][1:] == keys[order][:-1]
    result = np.zeros(len(keys), np.int64)
    result[order[1:]] = np.diff(order)
    result[order[~repeats]] = 0
    return result


def prefixes(semantic_ids: NDArray[np.int64], level: int) -> tuple[NDArray[np.int64], Bools]:
    """The first `level` codes of semantic ids as one number each, int64 `[n]`, and which posts have them, bool `[n]`.

    Args:
        semantic_ids: Codes, int64 `[n, 3]`; what does not fit 20 bits is no code.
        level: 1, 2 or 3.
    """
    codes = semantic_ids[:, :level]
    there: Bools = np.logical_and.reduce((codes >= 0) & (codes < 1 << LEVEL_BITS), axis=1)
    packed = np.zeros(len(codes), np.int64)
    for place in range(level):
        packed = packed << LEVEL_BITS | np.where(there, codes[:, place], 0)
    return packed, there


@attrs.frozen
class SlateContext:
    """Writes where each post stands among the others just before diversity; changes no score.

    The slate contexts of the x-algorithm, August 2026 release: a post's place in the order of scores, how many posts
    by its author stand above it and how many places above the nearest of them stands, its score, and the same count
    and gap for posts that share the first one, two or three codes of its semantic id. It belongs right before
    `feed.author_diversity`. Places count from 0, and neighbours have a gap of 1: the release does not say from where
    it counts.

    A post without a score (or NaN) has no context; under upstream semantics every post has one, in the order of the
    published sort, and posts of unknown authors count as those of one author.

    Args:
        semantic: Whether shared semantic ids are counted.
        keep_stored: Whether posts that come with a context keep it, as upstream does for posts from its cache, while
            their diversity is computed anew. It needs a source that writes the contexts.
    """

    semantic: Annotated[bool, Doc("Whether shared prefixes of semantic ids are counted.")] = False
    keep_stored: Annotated[bool, Doc("Whether posts that come with a context keep it.")] = False

    listwise: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[Key, ...]:
        """Scores and authors, and what the options ask for."""
        keys: tuple[Key, ...] = (SCORE, AUTHOR_ID, SEMANTIC_ID) if self.semantic else (SCORE, AUTHOR_ID)
        return (*keys, *self.writes) if self.keep_stored else keys

    @property
    def writes(self) -> tuple[Key, ...]:
        """The contexts."""
        plain = (SLATE_POOL_RANK, SLATE_AUTHOR_RANK, SLATE_AUTHOR_GAP, SLATE_SCORE)
        return (*plain, SLATE_SEMANTIC_COUNTS, SLATE_SEMANTIC_GAPS) if self.semantic else plain

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Describe the slate."""
        scores, known = candidates[SCORE], candidates.valid(AUTHOR_ID)
        order, there = rank_order(candidates, semantics=ctx.semantics), np.ones(len(candidates), np.bool_)
        if ctx.semantics == "strict":
            there = candidates.valid(SCORE) & ~np.isnan(scores)
            order = order[there[order]]
        else:
            known = there
        places = np.zeros(len(candidates), np.int32)
        places[order] = np.arange(len(order))
        counts, distances = _repeats(candidates[AUTHOR_ID], there & known, order)
        cells: CellsOf = {
            SLATE_POOL_RANK: (places, there),
            SLATE_AUTHOR_RANK: (counts, counts >= 0),
            SLATE_AUTHOR_GAP: (distances, distances > 0),
            SLATE_SCORE: (scores, there & candidates.valid(SCORE)),
        }
        if self.semantic:
            by_level = [
                _repeats(keys, there & has, order)
                for keys, has in (prefixes(candidates[SEMANTIC_ID], level) for level in (1, 2, 3))
            ]
            has_any = there & candidates.valid(SEMANTIC_ID)
            for column, which in ((SLATE_SEMANTIC_COUNTS, 0), (SLATE_SEMANTIC_GAPS, 1)):
                levels = np.stack([pair[which] for pair in by_level], axis=1)
                cells[column] = (np.where(has_any[:, None], levels, -1), has_any)
        return patch(*(self._update(column, *new, candidates) for column, new in cells.items()))

    def _update(self, column: Column[Any], values: NDArray[Any], valid: Bools, candidates: Candidates) -> ColumnUpdate:
        """New cells, or those that came with the post."""
        if self.keep_stored:
            stored = candidates.valid(SLATE_POOL_RANK)
            old, mask = _stored(column, candidates), stored.reshape((-1,) + (1,) * (values.ndim - 1))
            values = np.where(mask, old, values)
            valid = np.where(stored, candidates.valid(column), valid)
        return column(values, valid=valid)


def _stored(column: Column[Any], candidates: Candidates) -> NDArray[Any]:
    """The cells a table has, with a place for every level."""
    if not column.labels:
        return candidates[column]
    have = candidates.labels(column)
    none = np.full(len(candidates), -1, np.int32)
    return np.stack([candidates.label(column, label) if label in have else none for label in SEMANTIC_LEVELS], axis=1)


def _repeats(keys: NDArray[np.int64], has: Bools, order: NDArray[np.intp]) -> tuple[Ints, Ints]:
    """How many posts of the same key stand above each, and how far above the nearest; -1 for none, int32 `[n]`."""
    kept = has[order]
    placed, rows = np.flatnonzero(kept), order[kept]
    count, distance = np.full(len(keys), -1, np.int32), np.full(len(keys), -1, np.int32)
    count[rows] = occurrences(keys[rows])
    # A gap counts places of the whole order, rows without the key included.
    before = gaps(keys[rows])
    repeat = before > 0
    at = np.flatnonzero(repeat)
    distance[rows[at]] = placed[at] - placed[at - before[at]]
    return count, distance
