"""Baselines that a ranking model has to be compared with; numpy, fitted on the training part only.

- random: a seeded draw for each target.
- popularity: favourites of the training part.
- recent popularity: favourites of the training part in the window before the target's time.
- item-item: cosine between items over people, the 200 nearest of each item kept, summed over the history
  (Sarwar et al., Item-based collaborative filtering recommendation algorithms, WWW 2001).
- EASE with history decay: the closed-form linear item model (Steck, Embarrassingly Shallow Autoencoders for Sparse
  Data, WWW 2019) with lambda 500, where the history's item that is i-th from its end weighs 0.95^i.

Item-item and EASE take every action for interest, as is usual with ratings; what was only shown is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_feed.evaluation.cases import Case, TrainingPart

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Index = NDArray[np.intp]

NEIGHBOURS: Final = 200
EASE_LAMBDA: Final = 500.0
EASE_DECAY: Final = 0.95
MAX_DENSE_ITEMS: Final = 8_000
"""Item-item and EASE hold a square matrix: beyond this many items, only the most acted-on ones take part."""


class Baseline(Protocol):
    """Something that scores all items for a target."""

    def scores(self, case: Case) -> Float64:
        """The score of every item, float64 [N]; higher is better."""


@attrs.frozen(eq=False)
class Random:
    """Scores drawn anew for each target."""

    num_items: int
    seed: int

    def scores(self, case: Case) -> Float64:
        """The score of every item, float64 [N]."""
        return np.random.default_rng([self.seed, case.number]).random(self.num_items)


@attrs.frozen(eq=False)
class Popularity:
    """The same scores for everybody."""

    counts: Float64

    def scores(self, case: Case) -> Float64:
        """The score of every item, float64 [N]."""
        return self.counts


@attrs.frozen(eq=False)
class RecentPopularity:
    """Favourites within a window that ends right before the target's time."""

    item: Index
    time: Int64
    num_items: int
    window_ms: int

    @classmethod
    def fit(cls, part: TrainingPart, window_ms: int) -> RecentPopularity:
        """Count favourites of a training part in windows of a length."""
        return cls(part.item[part.favorite], part.time[part.favorite], part.num_items, window_ms)

    def scores(self, case: Case) -> Float64:
        """The score of every item, float64 [N]."""
        start, stop = np.searchsorted(self.time, [case.time - self.window_ms, case.time])
        return np.bincount(self.item[start:stop], minlength=self.num_items).astype(np.float64)


@attrs.frozen(eq=False)
class ItemWeights:
    """Scores that are sums over the history: row i of the weights is what item i of a history says of every item.

    Args:
        weights: float64 [n, n].
        position: Row of each item, -1 for those that take no part, intp [N].
        decay: Weight of an item relative to the one after it in the history.
    """

    weights: Float64
    position: Index
    decay: float

    def scores(self, case: Case) -> Float64:
        """The score of every item, float64 [N]; lowest for those that take no part."""
        ages = np.arange(len(case.history))[::-1]
        known = self.position[case.history] >= 0
        inside = (self.decay ** ages[known]) @ self.weights[self.position[case.history[known]]]
        found = np.full(len(self.position), inside.min() - 1.0 if len(inside) else 0.0)
        found[self.position >= 0] = inside
        return found


def _co_counts(part: TrainingPart) -> tuple[Float64, Index]:
    """How many people acted on both of two items, float64 [n, n], and the row of each item, intp [N]."""
    item, user = part.item[part.acted], part.user[part.acted]
    position = np.arange(part.num_items)
    if part.num_items > MAX_DENSE_ITEMS:
        most = np.argsort(-np.bincount(item, minlength=part.num_items), kind="stable")[:MAX_DENSE_ITEMS]
        position = np.full(part.num_items, -1)
        position[np.sort(most)] = np.arange(MAX_DENSE_ITEMS)
    inside = position[item] >= 0
    rows = min(part.num_items, MAX_DENSE_ITEMS)
    counts = np.zeros((rows, rows), np.float64)
    people, user = np.unique(user[inside], return_inverse=True)
    item = position[item[inside]]
    for start in range(0, len(people), 4096):  # in blocks of people, to bound memory
        mine = (user >= start) & (user < start + 4096)
        block = np.zeros((min(4096, len(people) - start), rows), np.float32)
        block[user[mine] - start, item[mine]] = 1.0
        counts += block.T @ block
    return counts, position


def fit_item_item(part: TrainingPart, neighbours: int = NEIGHBOURS) -> ItemWeights:
    """Cosine between items; each item listens to its nearest ones, ties at the border to all of them."""
    cosine, position = _co_counts(part)
    norms = np.sqrt(np.maximum(np.diag(cosine), 1e-12))
    cosine /= norms[:, None]
    cosine /= norms[None, :]
    np.fill_diagonal(cosine, 0.0)
    if len(cosine) > neighbours:
        border = np.partition(cosine, len(cosine) - neighbours, axis=0)[len(cosine) - neighbours]
        cosine[cosine < border[None, :]] = 0.0
    return ItemWeights(cosine, position, 1.0)


def fit_ease(part: TrainingPart, ridge: float = EASE_LAMBDA, decay: float = EASE_DECAY) -> ItemWeights:
    """EASE: `B = I - P diag(1 / diag P)` with `P = (X^T X + ridge I)^-1`."""
    gram, position = _co_counts(part)
    gram[np.diag_indices(len(gram))] += ridge
    inverse = np.linalg.inv(gram)
    weights = inverse / -np.diag(inverse)[None, :]
    np.fill_diagonal(weights, 0.0)
    return ItemWeights(weights, position, decay)


def fit_all(part: TrainingPart, seed: int, window_ms: int) -> Mapping[str, Baseline]:
    """Every baseline by name, fitted on a training part."""
    return {
        "random": Random(part.num_items, seed),
        "popularity": Popularity(part.popularity()),
        "recent popularity": RecentPopularity.fit(part, window_ms),
        "item-item": fit_item_item(part),
        "EASE with decay": fit_ease(part),
    }
