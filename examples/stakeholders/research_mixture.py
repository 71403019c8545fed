"""A mixture of independent Bernoulli actions by topic, fitted with EM: archetypes found from events alone.

Every user belongs to one unknown component; given the component and the topics of what a user was shown, each action
is a Bernoulli draw of its own (Dempster, Laird and Rubin, 1977; for counts that is the latent class model).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

FLOOR: Final = 1e-4
"""Smallest chance in the likelihood, so that one action does not rule a component out for good."""
BURN_IN: Final = 15
"""Iterations of each start before the best goes on."""


@attrs.frozen(eq=False)
class Mixture:
    """A fitted mixture.

    Attributes:
        shares: of the components, float64 [K].
        chances: expected actions over expected impressions, float64 [K, topics, actions]; NaN for a topic that a
            component was never shown.
        membership: probability of each component for each user, float64 [users, K].
        log_likelihood: in nats, of the actions given what was shown.
        iterations: EM steps of the best start.
        converged: whether the last step gained less than the tolerance.
    """

    shares: Float64
    chances: Float64
    membership: Float64
    log_likelihood: float
    iterations: int
    converged: bool

    def bic(self) -> float:
        """Bayes' information criterion, lower is better: a chance per component for each cell that ever happened."""
        free = len(self.shares) * int((np.nan_to_num(self.chances) > 0).any(axis=0).sum()) + len(self.shares) - 1
        return free * float(np.log(len(self.membership))) - 2 * self.log_likelihood


def fit_mixture(
    happened: Float64,
    shown: Float64,
    components: int,
    *,
    seed: int,
    starts: int = 12,
    tolerance: float = 1e-6,
    max_iterations: int = 300,
) -> Mixture:
    """Maximum likelihood from several starts, the best of which is run until it gains less than the tolerance.

    Args:
        happened: how often each user did what, float64 [users, topics, actions].
        shown: how often each user was shown each topic, float64 [users, topics].
        components: K.
        seed: of the starts.
        starts: each takes K users that differ as first components (k-means++, Arthur and Vassilvitskii, 2007).
        tolerance: gain of log-likelihood per user, in nats.
        max_iterations: of the best start.
    """
    users, topics, actions = happened.shape
    counts = happened.reshape(users, -1)
    misses = np.repeat(shown, actions, axis=1) - counts
    rng = np.random.default_rng(seed)
    overall = (counts.sum(axis=0) + 0.5) / (counts.sum(axis=0) + misses.sum(axis=0) + 1.0)

    def maximise(membership: Float64) -> tuple[Float64, Float64]:
        done, left = membership.T @ counts, membership.T @ misses
        total = done + left
        return membership.mean(axis=0), np.divide(done, total, out=np.full_like(done, np.nan), where=total > 0)

    def expect(shares: Float64, chances: Float64) -> tuple[Float64, float]:
        chance = np.clip(np.where(np.isnan(chances), overall, chances), FLOOR, 1 - FLOOR)
        joint = counts @ np.log(chance).T + misses @ np.log1p(-chance).T + np.log(np.maximum(shares, 1e-300))
        top = joint.max(axis=1, keepdims=True)
        weight = np.exp(joint - top)
        total = weight.sum(axis=1, keepdims=True)
        return weight / total, float((np.log(total) + top).sum())

    def run(membership: Float64, steps: int) -> tuple[Float64, float, int, bool]:
        before = -np.inf
        for step in range(1, steps + 1):
            membership, reached = expect(*maximise(membership))
            if reached - before < tolerance * users:
                return membership, reached, step, True
            before = reached
        return membership, before, steps, False

    best: tuple[Float64, float, int, bool] | None = None
    for _ in range(starts):
        first = _first_components(counts, misses, overall, components, rng)
        even = np.full(components, 1 / components)
        found = run(expect(even, first)[0], BURN_IN)
        if best is None or found[1] > best[1]:
            best = found
    assert best is not None
    membership, reached, steps, converged = run(best[0], max_iterations)
    shares, chances = maximise(membership)
    return Mixture(shares, chances.reshape(components, topics, actions), membership, reached, steps, converged)


def _first_components(
    counts: Float64, misses: Float64, overall: Float64, components: int, rng: np.random.Generator
) -> Float64:
    """Smoothed rates of users that are far apart: float64 [K, cells]."""
    # A few impressions' worth of everybody's rates, so that a single user's zeros are no certainties.
    rates = (counts + 3 * overall) / (counts + misses + 3)
    chosen = [int(rng.integers(len(rates)))]
    nearest = np.full(len(rates), np.inf)
    for _ in range(components - 1):
        nearest = np.minimum(nearest, ((rates - rates[chosen[-1]]) ** 2).sum(axis=1))
        total = nearest.sum()
        weight = nearest / total if total > 0 else np.full(len(rates), 1 / len(rates))
        chosen.append(int(rng.choice(len(rates), p=weight)))
    return np.asarray(rates[chosen], np.float64)


def choose_components(happened: Float64, shown: Float64, candidates: Sequence[int], *, seed: int) -> dict[int, float]:
    """Bayes' information criterion for each number of components."""
    return {count: fit_mixture(happened, shown, count, seed=seed, starts=6).bic() for count in candidates}


def match(estimate: Float64, truth: Float64, weight: Float64) -> Int64:
    """Which component stands for each archetype, so that the squared errors are smallest in sum (Kuhn, 1955).

    The truth is used for naming the components, which flatters an estimate that knows nothing, if anything.

    Args:
        estimate: float64 [K, topics, actions]; NaN counts as the largest error there can be.
        truth: float64 [archetypes, topics, actions], no more archetypes than components.
        weight: of the cells, float64 [archetypes, topics, actions].

    Returns:
        Component of each archetype, int64 [archetypes].
    """
    from scipy.optimize import linear_sum_assignment

    error = np.nan_to_num((estimate[None] - truth[:, None]) ** 2, nan=1.0)
    cost = (error * weight[:, None]).sum(axis=(2, 3))
    rows, columns = linear_sum_assignment(cost)
    return np.asarray(columns[np.argsort(rows)], np.int64)
