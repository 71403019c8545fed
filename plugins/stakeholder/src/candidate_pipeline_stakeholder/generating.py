"""Preferences from declared utilities, with known noise under a seed: for experiments where the truth is to be known.

Two items are drawn, their utilities compared, and the answer is spoilt in the ways that answers are: added noise,
undecided judges (a Bradley-Terry temperature), near ties, and labels that are simply wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.pairs import Pairs
from candidate_pipeline_stakeholder.pool import Pool
from candidate_pipeline_stakeholder.utilities import Utilities

Float64 = NDArray[np.float64]

# Each kind of draw has a stream of its own, so that adding one kind of noise leaves the others' draws as they were.
_PAIRS: Final = 0
_ADDED: Final = 1
_JUDGED: Final = 2
_FLIPPED: Final = 3
_COIN: Final = 4


@attrs.frozen
class Noise:
    """What comes between a utility and a stated preference; by default nothing.

    In this order: noise is added to the utilities, differences within `tie` are called ties, a judge of the given
    `sharpness` decides the rest, and some of the decisions are turned round.

    Args:
        added: Standard deviation of normal noise, in units of the utility.
        added_to: "difference": one draw a pair; "sides": one a side (the difference then varies by sqrt(2) as much).
        tie: Differences up to this, after the added noise, are ties; `None`: there are no ties, and where the two
            sides are exactly as good a coin decides.
        sharpness: A judge prefers left with probability `1 / (1 + exp(-sharpness * difference))` (Bradley and Terry,
            1952); the inverse of a temperature. `None`: always the better one.
        flip: Share of decided pairs whose label is turned round, at random.
        shared: All stakeholders get the same draws, so that they differ in what they want alone; else each has its
            own.

    Raises:
        DataError: A value is out of range.
    """

    added: float = 0.0
    added_to: str = "difference"
    tie: float | None = None
    sharpness: float | None = None
    flip: float = 0.0
    shared: bool = True

    def __attrs_post_init__(self) -> None:
        found = []
        if not 0 <= self.added < np.inf:
            found.append(f"added: wanted a standard deviation of at least 0, found {self.added}")
        if self.added_to not in {"difference", "sides"}:
            found.append(f'added_to: wanted "difference" or "sides", found {self.added_to!r}')
        if self.tie is not None and not 0 <= self.tie < np.inf:
            found.append(f"tie: wanted a difference of at least 0, found {self.tie}")
        if self.sharpness is not None and not 0 <= self.sharpness < np.inf:
            found.append(f"sharpness: wanted a number of at least 0, found {self.sharpness}")
        if not 0 <= self.flip <= 1:
            found.append(f"flip: wanted a share from 0 to 1, found {self.flip}")
        if found:
            raise DataError("noise: " + "; ".join(found))

    def outcomes(self, left: Float64, right: Float64, seed: int, stakeholder: int = 0) -> NDArray[np.int8]:
        """Stated preferences for two columns of utilities.

        Args:
            left: float64 [n].
            right: float64 [n].
            seed: The source of all draws.
            stakeholder: Which stakeholder is asked; without effect where the noise is shared.

        Returns:
            int8 [n]: +1 left, -1 right, 0 tie.
        """
        who = 0 if self.shared else stakeholder
        count = len(left)
        difference = left - right
        if self.added:
            draws = _rng(seed, _ADDED, who).normal(0.0, self.added, (2, count))
            difference = difference + (draws[0] - draws[1] if self.added_to == "sides" else draws[0])
        if self.sharpness is None:
            better = np.sign(difference)
            coin = np.where(_rng(seed, _COIN, who).random(count) < 0.5, 1.0, -1.0)
            chosen = np.where(better == 0, coin, better)
        else:
            # log u - log(1 - u) is a logistic draw, and the same rule without an exponential that overflows.
            u = _rng(seed, _JUDGED, who).random(count)
            with np.errstate(divide="ignore"):
                chosen = np.where(self.sharpness * difference > np.log(u) - np.log1p(-u), 1.0, -1.0)
        if self.flip:
            chosen = np.where(_rng(seed, _FLIPPED, who).random(count) < self.flip, -chosen, chosen)
        if self.tie is not None:
            chosen = np.where(np.abs(difference) <= self.tie, 0.0, chosen)
        return chosen.astype(np.int8)


NO_NOISE: Final = Noise()


def _rng(seed: int, *stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, *stream])


def generate(
    utilities: Utilities,
    items: Pool | ArrayLike,
    count: int,
    *,
    noise: Noise = NO_NOISE,
    seed: int = 0,
    within: bool = True,
    shared: bool = True,
) -> Pairs:
    """Pairs that stakeholders of declared utilities would state.

    Args:
        utilities: Who values what.
        items: What there is to compare: a pool, or float64 [n, k] in the order of `utilities.features`. The features
            of a pool are kept; the utilities weigh those that they know.
        count: Pairs of each stakeholder.
        noise: What comes between utility and statement.
        seed: The source of all draws; the same seed gives the same pairs.
        within: Of a pool, compare rows of the same request, as a ranker does, where there are several.
        shared: All stakeholders judge the same pairs of items; else each has its own.

    Returns:
        Pairs, first all of the first stakeholder. Where the items are a pool, they carry its item ids.

    Raises:
        DataError: There is nothing to compare, the columns do not fit, or a pool has none of the features.
    """
    pool = items if isinstance(items, Pool) else None
    if pool is not None:
        features, values = pool.features, pool.values
        if not set(features) & set(utilities.features):
            raise DataError(
                f"the utilities value {', '.join(utilities.features)}, and the pool has only {', '.join(features)}"
            )
        utilities = utilities.select(features)
    else:
        features, values = utilities.features, np.asarray(items, np.float64)
        if values.ndim != 2 or values.shape[1] != len(features):
            raise DataError(f"items: wanted an array [n, {len(features)}], found shape {values.shape}")
    if count < 0:
        raise DataError(f"count: wanted at least 0 pairs, found {count}")
    requests = pool.request if pool is not None and within else np.zeros(len(values), np.int32)
    drawn = _draw(requests, count, _rng(seed, _PAIRS, 0))
    tables = []
    for number, name in enumerate(utilities.names):
        if number and not shared:
            drawn = _draw(requests, count, _rng(seed, _PAIRS, number))
        left, right = drawn
        utility = values @ utilities.vector(name)
        ids: dict[str, Any] = {}
        if pool is not None:
            ids = {"left_item": pool.item_ids[left], "right_item": pool.item_ids[right]}
        outcome = noise.outcomes(utility[left], utility[right], seed, number)
        tables.append(Pairs.of(features, values[left], values[right], outcome, stakeholder=name, **ids))
    return Pairs.concat(tables)


def _draw(
    requests: NDArray[np.int32], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Two different rows of one request for each pair, each row as likely as any other to be the left one."""
    order = np.argsort(requests, kind="stable")
    _, first, sizes = np.unique(requests[order], return_index=True, return_counts=True)
    start, size = np.repeat(first, sizes), np.repeat(sizes, sizes)  # of the request of each place in `order`
    useful = np.flatnonzero(size > 1)
    if not len(useful):
        raise DataError(
            f"items: wanted at least two in one request to compare, found {len(requests)} row(s) in "
            f"{len(first)} request(s)"
        )
    left = useful[rng.integers(0, len(useful), count)]
    step = 1 + (rng.random(count) * (size[left] - 1)).astype(np.intp)  # 1 to size - 1 places on, going round
    right = start[left] + (left - start[left] + step) % size[left]
    return order[left], order[right]


def copula_multipliers(
    count: int, correlation: ArrayLike, *, seed: int = 0, low: float = 0.5, span: float = 1.5
) -> Float64:
    """Correlated multipliers with uniform margins: `low + span * Phi(z)`, z normal with the given correlation.

    A Gaussian copula (Nelsen, An Introduction to Copulas, 2006): each column alone is uniform on
    `[low, low + span]`, and the columns move together as their correlation says.

    Args:
        count: Rows.
        correlation: float64 [g, g], a correlation matrix; or one number for a pair of columns.
        seed: The source of the draws.
        low: Smallest multiplier.
        span: Largest less smallest.

    Returns:
        float64 [count, g].

    Raises:
        DataError: It is no correlation matrix.
    """
    from scipy.special import ndtr

    matrix = np.asarray(correlation, np.float64)
    if matrix.ndim == 0:
        matrix = np.array([[1.0, matrix], [matrix, 1.0]])
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] and np.isfinite(matrix).all()
    if not square or not np.array_equal(matrix, matrix.T) or (np.diag(matrix) != 1).any():
        raise DataError(f"correlation: wanted a symmetric matrix with 1 on the diagonal, found {matrix.tolist()}")
    values, vectors = np.linalg.eigh(matrix)
    if values[0] < -1e-9:
        raise DataError(
            f"correlation: wanted no negative eigenvalue, found {values[0]:.3g}; the columns cannot all be so"
        )
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    normal = np.random.default_rng(seed).normal(size=(count, len(matrix))) @ root.T
    return np.asarray(low + span * ndtr(normal), np.float64)


def correlate(
    values: ArrayLike,
    features: Sequence[str],
    groups: Sequence[Sequence[str]],
    correlation: ArrayLike,
    *,
    seed: int = 0,
) -> Float64:
    """Probabilities whose groups of actions rise and fall together from item to item.

    Every item gets one multiplier a group (`copula_multipliers`), which the actions of the group share; what results
    is cut to 0 to 1.

    Args:
        values: Probabilities, float64 [n, k].
        features: Names of the columns.
        groups: Names of the features of each group: those that please and those that repel, say.
        correlation: Between the groups: [g, g], or one number for two groups.
        seed: The source of the draws.

    Returns:
        float64 [n, k].

    Raises:
        DataError: A group names a feature that there is not, or the correlation does not fit.
    """
    changed = np.array(values, np.float64)
    multipliers = copula_multipliers(len(changed), correlation, seed=seed)
    if multipliers.shape[1] != len(groups):
        raise DataError(f"correlation: wanted one of {len(groups)} groups, found {multipliers.shape[1]}")
    place = {name: column for column, name in enumerate(features)}
    for number, group in enumerate(groups):
        if unknown := [name for name in group if name not in place]:
            raise DataError(f"groups: {', '.join(unknown)} not among the features {', '.join(features)}")
        columns = [place[name] for name in group]
        changed[:, columns] *= multipliers[:, number, None]
    return np.clip(changed, 0.0, 1.0)
