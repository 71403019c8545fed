"""The content pool of the published preference studies, the labels drawn on it, and the optimiser that was used.

18 action probabilities an item, six topics with their own habits, three stakeholders that differ in one number: what a
negative action costs them (`ALPHA`). A preference between two items is drawn from a stakeholder's utility under one of
several kinds of noise. `adam` is the optimiser of the published figures (Kingma and Ba, 2015), here over many fits at
once, so that a claim about a short or well started training can be set beside the same loss at its minimum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray

from candidate_pipeline_feed.actions import RUNNER_DISCRETE

Floats = NDArray[np.float64]

ACTIONS: Final = RUNNER_DISCRETE
"""The order of every vector and table here."""
INDEX: Final = {name: code for code, name in enumerate(ACTIONS)}
POSITIVE: Final = tuple(INDEX[name] for name in ("favorite", "repost", "follow_author", "share", "reply"))
NEGATIVE: Final = tuple(INDEX[name] for name in ("not_interested", "block_author", "mute_author", "report"))
ALPHA: Final = {"user": 1.0, "platform": 0.3, "society": 4.0}
"""What a negative action costs each stakeholder, in positive ones."""
ALPHAS: Final = (0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 8.0)
"""The costs that the recovery study goes through."""
TOPICS: Final = ("sports", "tech", "politics_left", "politics_right", "entertainment", "news")
NOISE: Final = 0.05
"""Standard deviation of the noise on a utility, in probabilities."""
L2: Final = 1e-3
"""Of the published objective: mean loss + `L2` * ||w||^2."""

_POLITICS: Final = {"favorite": 1.3, "repost": 1.8, "reply": 2.0, "block_author": 2.5, "report": 2.0}
_HABITS: Final[tuple[dict[str, float], ...]] = (
    {"favorite": 1.5, "repost": 1.3, **{ACTIONS[code]: 0.3 for code in NEGATIVE}},
    {"favorite": 1.2, "reply": 1.4},
    _POLITICS,
    _POLITICS,
    {"favorite": 1.8, "share": 1.5, **{ACTIONS[code]: 0.2 for code in NEGATIVE}},
    {"follow_author": 1.3, "reply": 1.2},
)


def label_weights(alpha: float) -> Floats:
    """The utility a label is drawn from: +1 on every positive action, `-alpha` on every negative one, else 0."""
    weights = np.zeros(len(ACTIONS))
    weights[list(POSITIVE)] = 1.0
    weights[list(NEGATIVE)] = -alpha
    return weights


def sign_start() -> Floats:
    """Where the published trainings began: the signs of the answer (+1 positive, -1 negative, 0 neutral)."""
    return label_weights(1.0)


@attrs.frozen(eq=False)
class Content:
    """Items and what happens to them.

    Args:
        values: Action probabilities, float64 [items, 18].
        topic: Code into `TOPICS`, int64 [items].
    """

    values: Floats
    topic: NDArray[np.int64]


def content(rng: np.random.Generator, items: int = 500, correlation: float | None = None) -> Content:
    """A pool of items.

    Args:
        rng: Where the randomness comes from.
        items: How many.
        correlation: Between an item's positive and negative level, through a Gaussian copula: both groups are
            multiplied by 0.5 + 1.5 Phi(z), z bivariate normal with this correlation. `None`: no such levels.
    """
    topic = rng.integers(0, len(TOPICS), items)
    base = rng.uniform(0.05, 0.3, (items, len(ACTIONS)))
    factors = np.ones((len(TOPICS), len(ACTIONS)))
    for row, habits in enumerate(_HABITS):
        for name, factor in habits.items():
            factors[row, INDEX[name]] = factor
    values = base * factors[topic]
    if correlation is not None:
        from scipy.special import ndtr

        normal = rng.normal(size=(items, 2))
        paired = correlation * normal[:, 0] + np.sqrt(1 - correlation**2) * normal[:, 1]
        values[:, POSITIVE] *= 0.5 + 1.5 * ndtr(normal[:, :1])
        values[:, NEGATIVE] *= 0.5 + 1.5 * ndtr(paired[:, None])
    return Content(np.clip(values, 0.0, 1.0), topic)


@attrs.frozen(eq=False)
class Drawn:
    """Labelled pairs of items.

    Args:
        first: Row of the one item, intp [n].
        second: Row of the other, never the same row, intp [n].
        prefers_first: Which one each stakeholder prefers, bool [stakeholders, n].
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    prefers_first: NDArray[np.bool_]

    def head(self, count: int) -> Drawn:
        """The first so many pairs: what a smaller study would have seen."""
        return Drawn(self.first[:count], self.second[:count], self.prefers_first[:, :count])

    def sides(self, stakeholder: int = 0) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows of the preferred and of the other item, intp [n] each."""
        first = self.prefers_first[stakeholder]
        return np.where(first, self.first, self.second), np.where(first, self.second, self.first)

    def differences(self, values: Floats, stakeholder: int = 0) -> Floats:
        """The preferred item's values minus the other's, float64 [n, 18]."""
        preferred, other = self.sides(stakeholder)
        return values[preferred] - values[other]


def draw(
    rng: np.random.Generator,
    values: Floats,
    weights: ArrayLike,
    count: int,
    *,
    noise: float = NOISE,
    noisy_sides: Literal[1, 2] = 1,
    flips: float = 0.0,
    temperature: float | None = None,
) -> Drawn:
    """Draw pairs of distinct items and label them; all stakeholders see the same pairs and the same noise.

    The same generator state gives the same pairs whatever the kind of noise, so conditions differ in their labels only.

    Args:
        rng: Where the randomness comes from.
        values: float64 [items, 18].
        weights: Each stakeholder's utility weights, float64 [stakeholders, 18] or [18].
        count: How many pairs.
        noise: Standard deviation of the normal noise.
        noisy_sides: 1: one draw on the difference; 2: one draw on either item's utility.
        flips: Share of labels turned around afterwards.
        temperature: Labels are drawn with P(first) = 1 / (1 + exp(-temperature * difference)) instead of adding
            normal noise: high is nearly noiseless, low is nearly a coin. `None`: normal noise.
    """
    table = np.atleast_2d(np.asarray(weights, np.float64))
    first = rng.integers(0, len(values), count)
    second = (first + rng.integers(1, len(values), count)) % len(values)
    shaken = noise * (rng.normal(size=(noisy_sides, count)) * np.array([[1.0], [-1.0]])[:noisy_sides]).sum(axis=0)
    chance = rng.random(count)
    turned = rng.random(count) < flips
    utility = table @ values.T
    gain = utility[:, first] - utility[:, second]
    if temperature is None:
        prefers = gain + shaken > 0
    else:
        from scipy.special import expit

        prefers = chance < expit(temperature * gain)
    return Drawn(first, second, prefers ^ turned)


def recovered_alpha(weights: Floats) -> Floats:
    """The cost that learned weights imply, -mean(negative) / mean(positive); float64 [...] from [..., 18]."""
    ratio: Floats = -weights[..., NEGATIVE].mean(axis=-1) / weights[..., POSITIVE].mean(axis=-1)
    return ratio


def rank_correlation(alphas: Sequence[float], estimates: Floats) -> float:
    """Spearman's rank correlation of declared and recovered costs."""
    from scipy.stats import spearmanr

    return float(spearmanr(alphas, estimates).statistic)


def cosines(rows: Floats, others: Floats | None = None) -> Floats:
    """Cosine between every row and every other row, float64 [n, m]."""
    left = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    right = left if others is None else others / np.linalg.norm(others, axis=1, keepdims=True)
    found: Floats = left @ right.T
    return found


Gradient = Callable[[Floats, Any], Floats]
"""Gradients of the mean loss over a batch: weights [fits, k] and the batch's rows -> [fits, k]."""


def adam(
    gradient: Gradient,
    start: ArrayLike,
    rows: int,
    *,
    epochs: int,
    batch: int = 64,
    rate: float = 0.01,
    seed: int = 42,
    each_epoch: Callable[[int, Floats], None] | None = None,
) -> Floats:
    """Minimise many losses at once with Adam, all over the same order of rows.

    b1 0.9, b2 0.999, eps 1e-8, no schedule; a new permutation every epoch; the short last batch is kept.

    Args:
        gradient: Called with the weights and the batch's rows, intp [at most `batch`].
        start: float64 [fits, k].
        rows: How many rows there are.
        epochs: How often to go through them.
        batch: Rows in a step.
        rate: Step size.
        seed: Of the permutations.
        each_epoch: Called with the number of epochs done and the weights.

    Returns:
        The weights after the last step, float64 [fits, k].
    """
    rng = np.random.default_rng(seed)
    weights = np.array(start, np.float64, ndmin=2)
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    step = 0
    for epoch in range(epochs):
        order = rng.permutation(rows)
        for at in range(0, rows, batch):
            step += 1
            slope = gradient(weights, order[at : at + batch])
            first += 0.1 * (slope - first)
            second += 0.001 * (slope * slope - second)
            weights -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        if each_epoch is not None:
            each_epoch(epoch + 1, weights.copy())
    return weights


def bradley_terry_gradient(differences: Floats, l2: float = L2) -> Gradient:
    """The plain loss of one fit per leading index.

    Args:
        differences: Preferred minus other, float64 [fits, n, k].
        l2: Weight of ||w||^2.
    """
    by_row = np.ascontiguousarray(differences.transpose(1, 0, 2))

    def gradient(weights: Floats, rows: Any) -> Floats:
        from scipy.special import expit

        batch = by_row[rows]
        pull = expit(-np.einsum("bfk,fk->bf", batch, weights))
        slope: Floats = 2 * l2 * weights - np.einsum("bf,bfk->fk", pull, batch) / len(batch)
        return slope

    return gradient
