"""Slates picked one row at a time, with a knob for diversity.

For each pick the row with the largest (1 - delta) * score + delta / (1 + rows already picked from its group) is taken:
delta 0 ranks by score alone, delta 1 goes round the groups. Of equal values the higher score wins, then the earlier
row, so that delta 1 is the limit of knobs below it.

Within a group only the best row not yet picked can win, so a pick compares groups, not rows: the result is the same as
comparing all rows, and hundreds of scorings run at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray

from candidate_pipeline_stakeholder.audit.slates import Floats, Scene

PICKS: Final = 4_000_000
"""Heads of groups compared at once."""


@attrs.frozen(eq=False)
class Picked:
    """What greedy slates are worth.

    Args:
        raw: Mean raw utility of each stakeholder, float64 [c, d, r, s].
        groups: Distinct groups, float64 [c, d, r].
        entropy: Entropy of groups over the largest possible in the request at this size, 0 where that is 0, [c, d, r].
        authors: Distinct authors, each unknown one counting as another, [c, d, r].
    """

    raw: Floats
    groups: Floats
    entropy: Floats
    authors: Floats

    @classmethod
    def concat(cls, parts: Sequence[Picked]) -> Picked:
        """Conditions one after the other."""
        names = ("raw", "groups", "entropy", "authors")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def greedy(scene: Scene, scores: ArrayLike, deltas: ArrayLike, order: NDArray[np.intp] | None = None) -> Picked:
    """Pick slates.

    Args:
        scene: The requests.
        scores: Of their rows, float64 [c, r, m].
        deltas: Knobs, float64 [d].
        order: What "earlier" means among equal scores, a permutation of the cells of each request [r, m]; `None`: as
            they stand.

    Returns:
        What the slates are worth.
    """
    given = np.asarray(scores, np.float64)
    knobs = np.asarray(deltas, np.float64)
    shape = (len(given), len(knobs), scene.requests)
    made = Picked(np.empty((*shape, len(scene.names))), np.empty(shape), np.empty(shape), np.empty(shape))
    step = max(1, PICKS // max(1, len(knobs) * max(scene.groups, scene.size)))
    for request in range(scene.requests):
        rows = np.arange(scene.there.shape[1]) if order is None else order[request]
        rows = rows[scene.there[request, rows]]
        for start in range(0, len(given), step):
            part = slice(start, start + step)
            slates = pick(given[part, request][:, rows], scene.group[request, rows], knobs, scene.size)
            _measure(scene, request, rows[slates], made, part)
    return made


def pick(scores: ArrayLike, group: NDArray[np.intp], deltas: ArrayLike, size: int) -> NDArray[np.intp]:
    """Rows of greedy slates in the order they are picked, intp [c, d, min(size, n)], of one request's scores [c, n]."""
    given = np.asarray(scores, np.float64)
    knobs = np.asarray(deltas, np.float64)[None, :, None]
    conditions, count = given.shape
    size = min(size, count)
    names, codes = np.unique(group, return_inverse=True)
    # Row `size` of the heads is never reached by a group that has that many rows; a shorter group ends in -inf.
    head_scores = np.full((conditions, len(names), size + 1), -np.inf)
    head_rows = np.full((conditions, len(names), size + 1), count, np.intp)
    for code in range(len(names)):
        members = np.flatnonzero(codes == code)
        ranked = np.argsort(-given[:, members], axis=1, kind="stable")[:, :size]
        head_rows[:, code, : ranked.shape[1]] = members[ranked]
        head_scores[:, code, : ranked.shape[1]] = np.take_along_axis(given[:, members], ranked, axis=1)
    empty = np.isneginf(head_scores)
    finite = np.where(empty, 0.0, head_scores)
    each, groups = np.arange(conditions)[:, None, None], np.arange(len(names))
    taken = np.zeros((conditions, knobs.shape[1], len(names)), np.intp)
    slates = np.empty((conditions, knobs.shape[1], size), np.intp)
    for turn in range(size):
        # An empty group is -inf even where 1 - delta is 0.
        value = (1 - knobs) * finite[each, groups, taken] + knobs / (1 + taken)
        value[empty[each, groups, taken]] = -np.inf
        tied = value == value.max(axis=-1, keepdims=True)
        best = np.where(tied, head_scores[each, groups, taken], -np.inf)
        tied &= best == best.max(axis=-1, keepdims=True)
        rows = np.where(tied, head_rows[each, groups, taken], count)
        slates[:, :, turn] = rows.min(axis=-1)
        taken += (rows == slates[:, :, turn, None]) & tied
    return slates


def _measure(scene: Scene, request: int, slates: NDArray[np.intp], made: Picked, part: slice) -> None:
    made.raw[part, :, request] = scene.utilities[request][slates].mean(axis=2)
    group = scene.group[request]
    counts = (group[slates][..., None] == np.arange(scene.groups)).sum(axis=2)
    made.groups[part, :, request], made.entropy[part, :, request] = spread(
        counts, int(scene.sizes[request]), len(np.unique(group[scene.there[request]]))
    )
    authors = np.sort(scene.author[request][slates], axis=-1)
    known = authors >= 0
    fresh = np.ones(authors.shape, np.bool_)
    fresh[..., 1:] = (authors[..., 1:] != authors[..., :-1]) | ~known[..., 1:]
    made.authors[part, :, request] = fresh.sum(axis=-1)


def spread(counts: ArrayLike, size: int, available: int) -> tuple[Floats, Floats]:
    """Distinct groups and normalised entropy of slates, from rows of each group [..., g].

    The entropy is divided by the logarithm of the most groups the slate could show, min(size, available); 0 where that
    is one.
    """
    found = np.asarray(counts, np.float64)
    total = np.maximum(found.sum(axis=-1, keepdims=True), 1.0)
    part = found / total
    entropy = -np.sum(part * np.log(np.where(part > 0, part, 1.0)), axis=-1)
    most = np.log(max(min(size, available), 1))
    return np.asarray((found > 0).sum(axis=-1), np.float64), np.asarray(entropy / most if most > 0 else 0.0 * entropy)
