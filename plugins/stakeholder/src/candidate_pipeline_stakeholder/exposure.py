"""Whom and what responses expose: Gini coefficient, coverage and entropy of what was shown."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray

from candidate_pipeline.errors import DataError

Float64 = NDArray[np.float64]


def gini(counts: ArrayLike) -> float:
    """How unevenly counts are spread, 0 (all alike) to (n - 1) / n (one has all).

    G = sum over i of (2 i - n - 1) x_i / (n sum x), with x in rising order and i from 1: half the mean absolute
    difference of two counts, divided by their mean (C. Gini, 1912). Who was never shown has to be among the counts,
    with 0: the coefficient is over all who could have been shown.

    Args:
        counts: How often each was shown, at least 0, [n].

    Returns:
        The coefficient; NaN where nothing was shown, or there is nobody.

    Raises:
        DataError: A count is negative or not finite.
    """
    found = np.sort(_counts(counts, "counts"))
    total = found.sum()
    if not total > 0:
        return float("nan")
    n = len(found)
    places = 2.0 * np.arange(1, n + 1) - n - 1
    # Of counts that are all alike the sum is 0 but for rounding, which may come out below it.
    return float(max(0.0, places @ (found / total) / n))


def coverage(shown: ArrayLike, catalogue: int | ArrayLike) -> float:
    """The part of a catalogue that was shown at least once, 0 to 1.

    Args:
        shown: What was shown, ids [m]; repeats count once.
        catalogue: All that could have been shown, ids; or how many they are, of whom all of `shown` are.

    Returns:
        The part; NaN of an empty catalogue.

    Raises:
        DataError: A size is negative, or smaller than what was shown.
    """
    seen = np.unique(np.asarray(shown))
    if isinstance(catalogue, int | np.integer):
        size = int(catalogue)
        if size < len(seen):
            raise DataError(f"coverage: wanted a catalogue that holds what was shown, found {size} for {len(seen)}")
        return len(seen) / size if size else float("nan")
    there = np.unique(np.asarray(catalogue))
    return float(np.isin(there, seen).mean()) if len(there) else float("nan")


def entropy(shares: ArrayLike, *, normalised: bool = True) -> float:
    """How evenly something is spread over n kinds: H = -sum of p log p (C. E. Shannon, 1948), p being shares.

    Args:
        shares: Shares or counts of the kinds, at least 0, [n]; they are divided by their sum. A kind of share 0 adds
            nothing to H, but counts for the normalisation.
        normalised: Divide by log n: 1 is the even spread, 0 a single kind. Otherwise in nats.

    Returns:
        The entropy; NaN where the sum is 0; 0 where there is one kind.

    Raises:
        DataError: A share is negative or not finite.
    """
    found = _counts(shares, "shares")
    total = found.sum()
    if not total > 0:
        return float("nan")
    parts = found[found > 0] / total
    whole = float(max(0.0, -(parts * np.log(parts)).sum()))
    if not normalised:
        return whole
    return min(1.0, whole / float(np.log(len(found)))) if len(found) > 1 else 0.0


@attrs.frozen
class Exposure:
    """Whom and what responses expose; what is not known is NaN.

    Args:
        shown: How many rows were shown.
        authors: How many different authors among them.
        author_gini: Gini coefficient of the rows over all authors of the catalogue.
        author_coverage: The part of these authors that was shown.
        author_entropy: Entropy of the rows over these authors, normalised, 0 to 1.
        groups: How many different groups (topics) among the rows.
        group_entropy: Entropy of the rows over all groups of the catalogue, normalised.
    """

    shown: int
    authors: int
    author_gini: float
    author_coverage: float
    author_entropy: float
    groups: int
    group_entropy: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data; `None` for what is not known."""
        return {name: None if value != value else value for name, value in attrs.asdict(self).items()}  # noqa: PLR0124 - NaN differs from itself


def exposure(
    author_ids: ArrayLike,
    group: ArrayLike | None = None,
    *,
    authors: int | ArrayLike | None = None,
    groups: int | None = None,
) -> Exposure:
    """What some responses, all together, expose.

    Args:
        author_ids: The author of each row that was shown, int [m]; below 0: unknown, which is left out.
        group: The group of each row, int [m], from 0; below 0: unknown, which is left out.
        authors: The authors who could have been shown, ids or how many; default: those who were.
        groups: How many groups there are; default: as many as the largest number tells.

    Raises:
        DataError: The arrays do not fit together, or a catalogue is smaller than what was shown.
    """
    rows = np.asarray(author_ids, np.int64)
    kinds = np.full(len(rows), -1) if group is None else np.asarray(group, np.int64)
    if rows.ndim != 1 or kinds.shape != rows.shape:
        raise DataError(f"exposure: wanted an author and a group a row, found shapes {rows.shape} and {kinds.shape}")
    there, counts = np.unique(rows[rows >= 0], return_counts=True)
    by_author = _over(there, counts, authors)
    kinds = kinds[kinds >= 0]
    most = int(kinds.max()) + 1 if len(kinds) else 0
    if groups is not None and groups < most:
        raise DataError(f"exposure: wanted group numbers below {groups}, found {most - 1}")
    by_group = np.bincount(kinds, minlength=most if groups is None else groups)
    return Exposure(
        shown=len(rows),
        authors=len(there),
        author_gini=gini(by_author),
        author_coverage=float(np.count_nonzero(by_author) / len(by_author)) if len(by_author) else float("nan"),
        author_entropy=entropy(by_author),
        groups=int(np.count_nonzero(by_group)),
        group_entropy=entropy(by_group),
    )


def _over(there: NDArray[np.int64], counts: NDArray[np.int64], catalogue: int | ArrayLike | None) -> NDArray[np.int64]:
    """How often each author of a catalogue was shown."""
    if catalogue is None:
        return counts
    if isinstance(catalogue, int | np.integer):
        if catalogue < len(there):
            raise DataError(f"exposure: wanted at least the {len(there)} authors that were shown, found {catalogue}")
        return np.concatenate([counts, np.zeros(int(catalogue) - len(there), counts.dtype)])
    ids = np.unique(np.asarray(catalogue, np.int64))
    missing = there[~np.isin(there, ids)]
    if len(missing):
        raise DataError(f"exposure: author {missing[0]} was shown and is not among the {len(ids)} authors of the pool")
    found = np.zeros(len(ids), counts.dtype)
    found[np.searchsorted(ids, there)] = counts
    return found


def _counts(values: ArrayLike, what: str) -> Float64:
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not (np.isfinite(found) & (found >= 0)).all():
        raise DataError(f"{what}: wanted a list of finite numbers of at least 0")
    return found
