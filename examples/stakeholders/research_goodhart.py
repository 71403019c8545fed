"""Policies over films, what they give each stakeholder, and how often a predicted direction was measured.

A study draws pairs of films for every stakeholder, labels them by its utility, and learns weights from them: to the
minimum of the loss, or as published. Weights become a policy, a softmax over the films or hard slates, and a policy
gives each stakeholder an expected utility.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import attrs
import numpy as np
from claims import DRAWS, LEVEL
from numpy.typing import NDArray
from research_content import adam, bradley_terry_gradient, draw
from research_movielens import STRONG, Catalogue

from candidate_pipeline_stakeholder.fitting import fit_differences

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

NOISE: Final = 0.05
MISSPECIFIED: Final = 0.3
"""Pairs are labelled by w_t * (1 + N(0, 0.3)), drawn anew with each seed, as published."""
L2: Final = 1e-3
"""As published; without it the first 25 pairs, not many more than there are genres, have no best fit."""
EPOCHS: Final = 50
START: Final = 0.1
BATCH: Final = 64
TRAINED: Final = 0.8
"""Share of the pairs that the published training sees; the rest is held out."""
DELTAS: Final = tuple(step / 20 for step in range(21))
SLATE: Final = 10
SHUFFLES: Final = 10_000

Norm = Literal["fixed", "own"]


def fixed(weights: Floats) -> Floats:
    """The weights at Euclidean norm 1; a zero vector stays."""
    norm = np.linalg.norm(weights, axis=-1, keepdims=True)
    found: Floats = weights / np.where(norm > 0, norm, 1.0)
    return found


def policy(weights: Floats, values: Floats, temperature: float = 1.0) -> Floats:
    """Probability of each film, softmax(w . p / T), float64 [..., n] from weights [..., k]."""
    logits = weights @ values.T / temperature
    logits -= logits.max(axis=-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
    found: Floats = logits
    return found


def slope(weights: Floats, direction: Floats, values: Floats, others: Floats, temperature: float = 1.0) -> Floats:
    """How fast the expected utilities of others change as the weights move: direction' S_w others / T.

    Args:
        weights: Where the policy stands, float64 [k].
        direction: Where it moves, float64 [k].
        values: Features of the films, float64 [n, k].
        others: Weights of those affected, float64 [h, k].
        temperature: Of the softmax.

    Returns:
        The derivative of `policy(weights + s * direction) @ values @ others.T` by s at s = 0, exactly, float64 [h].
    """
    chance = policy(weights, values, temperature)
    centred = values - chance @ values
    found: Floats = ((centred @ direction) * chance) @ centred @ others.T / temperature
    return found


def slates(scores: Floats, groups: NDArray[np.int32], utilities: Floats, deltas: Sequence[float] = DELTAS) -> Floats:
    """Mean utilities of a film in hard slates of ten, averaged over the diversity knob.

    Picks greedily by (1 - delta) * score + delta / (1 + films of the group picked before).

    Args:
        scores: float64 [m, n].
        groups: Group of each film, [n].
        utilities: float64 [n, h].
        deltas: The knob.

    Returns:
        float64 [m, h].
    """
    rows = np.arange(len(scores))
    found = np.zeros((len(scores), utilities.shape[1]))
    for delta in deltas:
        weighed = (1.0 - delta) * scores
        picked = np.zeros((len(scores), int(groups.max()) + 1))
        for _ in range(SLATE):
            best = np.argmax(weighed + (delta / (1.0 + picked))[:, groups], axis=1)
            found += utilities[best]
            picked[rows, groups[best]] += 1
            weighed[rows, best] = -np.inf
    return found / (len(deltas) * SLATE)


@attrs.frozen(eq=False)
class Agreement:
    """How a prediction fares against measured changes.

    Args:
        strong: How many ordered pairs have a prediction above the threshold.
        agree: In how many of them the mean change over seeds has its sign.
        every: The same of all ordered pairs, however weak the prediction.
        by_seed: `agree` by each seed's own change.
        size: Mean over strong pairs of the change towards the predicted side, in standard deviations of the other's
            utility among the films; 0 unless these were given.
        sure: Strong pairs whose bootstrap interval over seeds lies on the predicted side of 0.
        against: Strong pairs whose interval lies on the other side.
    """

    strong: int
    agree: int
    every: int
    by_seed: NDArray[np.int64]
    size: float
    sure: int
    against: int

    def __str__(self) -> str:
        return f"{self.agree}/{self.strong}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**attrs.asdict(self), "by_seed": self.by_seed.tolist()}


def others_mask(count: int) -> Mask:
    """Which entries of a table of stakeholders are of two different ones."""
    return ~np.eye(count, dtype=np.bool_)


def agreement(change: Floats, predicted: Floats, threshold: float = STRONG, sd: Floats | None = None) -> Agreement:
    """Compare.

    Args:
        change: Measured, float64 [seeds, targets, others].
        predicted: float64 [targets, others]; its sign is the prediction, its size how strong that is.
        threshold: Predictions at most this large are weak.
        sd: Standard deviation of each other's utility among the films, float64 [others].
    """
    off = others_mask(len(predicted))
    strong = off & (np.abs(predicted) > threshold)
    signs = np.sign(predicted)
    right = np.sign(change.mean(axis=0)) == signs
    by_seed = ((np.sign(change) == signs) & strong).sum(axis=(1, 2))
    rng = np.random.default_rng([len(change), 5])
    counts = rng.multinomial(len(change), np.full(len(change), 1.0 / len(change)), DRAWS) / len(change)
    means = counts @ change.reshape(len(change), -1)
    low, high = (end.reshape(predicted.shape) for end in np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0))
    moved = np.zeros_like(predicted) if sd is None else signs * change.mean(axis=0) / sd
    side = np.where(low > 0, 1, np.where(high < 0, -1, 0))
    return Agreement(
        int(strong.sum()),
        int((right & strong).sum()),
        int((right & off).sum()),
        by_seed,
        float(moved[strong].mean()) if strong.any() else 0.0,
        int(((side == signs) & strong).sum()),
        int(((side == -signs) & strong).sum()),
    )


def shuffled(change: Floats, predicted: Floats, seed: int = 0) -> tuple[float, float, float]:
    """What agreement comes by chance: predictions of the strong pairs dealt out at random among them.

    Returns:
        Mean, 2.5 % and 97.5 % quantile of the number that agree.
    """
    strong = others_mask(len(predicted)) & (np.abs(predicted) > STRONG)
    truth, signs = np.sign(change.mean(axis=0))[strong], np.sign(predicted)[strong]
    dealt = np.random.default_rng(seed).permuted(np.tile(signs, (SHUFFLES, 1)), axis=1)
    agree = (dealt == truth).sum(axis=1)
    low, high = np.quantile(agree, [0.025, 0.975])
    return float(agree.mean()), float(low), float(high)


@attrs.frozen(eq=False)
class Study:
    """Pairs of every target and seed, and what is learned from them.

    Args:
        catalogue: Films and stakeholders.
        targets: Whose pairs: weights by seed, float64 [seeds, targets, k], before misspecification.
        differences: Preferred minus other, float64 [seeds, targets, pairs, k].
    """

    catalogue: Catalogue
    targets: Floats
    differences: Floats

    @property
    def utilities(self) -> Floats:
        """Of every film for every stakeholder, float64 [n, h]."""
        return self.catalogue.pool.utilities(self.catalogue.utilities.weights)

    def at_minimum(self, size: int) -> Floats:
        """Weights fitted to the first pairs until the gradient vanishes, float64 [seeds, targets, k]."""
        shape = self.differences.shape
        flat = self.differences[:, :, :size].reshape(-1, size, shape[-1])
        return np.array([fit_differences(rows, l2=L2, errors="none").weights for rows in flat]).reshape(
            *shape[:2], shape[-1]
        )

    def published(self, size: int, epochs: int = EPOCHS) -> Floats:
        """Weights after so many epochs of Adam from 0.1 on 80 % of the first pairs, float64 [seeds, targets, k]."""
        shape = self.differences.shape
        rows = round(TRAINED * size)
        flat = self.differences[:, :, :rows].reshape(-1, rows, shape[-1])
        start = np.full((len(flat), shape[-1]), START)
        weights = adam(bradley_terry_gradient(flat, L2), start, rows, epochs=epochs, batch=BATCH)
        return weights.reshape(*shape[:2], shape[-1])

    def expected(self, weights: Floats, norm: Norm = "fixed", temperature: float = 1.0) -> Floats:
        """Expected utilities under the softmax, float64 [..., h]."""
        scaled = fixed(weights) if norm == "fixed" else weights
        found: Floats = policy(scaled, self.catalogue.pool.values, temperature) @ self.utilities
        return found

    def top(self, weights: Floats, norm: Norm = "fixed", deltas: Sequence[float] = DELTAS) -> Floats:
        """Mean utilities of hard slates, float64 [..., h]."""
        scaled = fixed(weights) if norm == "fixed" else weights
        scores = scaled.reshape(-1, weights.shape[-1]) @ self.catalogue.pool.values.T
        found = slates(scores, self.catalogue.pool.group, self.utilities, deltas)
        return found.reshape(*weights.shape[:-1], -1)

    def spread(self, weights: Floats, norm: Norm, temperature: float) -> float:
        """How many films the policy draws from, as the exponential of its entropy; mean over fits."""
        scaled = fixed(weights) if norm == "fixed" else weights
        chance = policy(scaled, self.catalogue.pool.values, temperature)
        entropy = -(chance * np.log(np.maximum(chance, 1e-300))).sum(axis=-1)
        return float(np.exp(entropy).mean())


def study(
    films: Catalogue, seeds: int, pairs: int, *, misspecified: float = MISSPECIFIED, random_targets: bool = False
) -> Study:
    """Draw pairs of films and let every target label its own.

    Args:
        films: Films and stakeholders.
        seeds: How many seeds.
        pairs: How many pairs of each target.
        misspecified: Standard deviation of the factors on the target's weights that the labels come from.
        random_targets: Let as many random vectors be the targets, others with each seed.
    """
    declared, values = films.utilities.weights, films.pool.values
    targets = np.tile(declared, (seeds, 1, 1))
    if random_targets:
        targets = np.array([np.random.default_rng([seed, 17]).normal(size=declared.shape) for seed in range(seeds)])
    found = np.empty((seeds, len(declared), pairs, declared.shape[1]))
    for seed in range(seeds):
        for number, weights in enumerate(targets[seed]):
            rng = np.random.default_rng([seed, number, 3])
            labelled = weights * (1.0 + misspecified * rng.normal(size=len(weights)))
            found[seed, number] = draw(rng, values, labelled, pairs, noise=NOISE).differences(values)
    return Study(films, targets, found)
