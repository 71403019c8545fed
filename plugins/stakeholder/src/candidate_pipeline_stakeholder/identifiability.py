"""What pairs can tell about the weights at all: which features never differ, which always move together.

Everything here is about the differences d = preferred - other, each column over its root mean square, so that units do
not matter. No optimiser is involved: a weight that the differences do not determine stays undetermined however long one
fits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_stakeholder.pairs import Floats
from candidate_pipeline_stakeholder.products import weighted_squares

NEGLIGIBLE: Final = 1e-12
"""An eigenvalue of the standardised cross products this small, beside the largest, is zero but for rounding."""
TOGETHER: Final = 0.98
"""From this correlation on, two features count as moving together."""
WEAK: Final = 30.0
"""From this condition index on, a combination of weights is known poorly (Belsley, Kuh and Welsch, 1980)."""
LISTED: Final = 8


@attrs.frozen
class Group:
    """Features that move together.

    Args:
        features: Their names.
        signs: +1 or -1 each: whether it moves with the first or against it.
        ratios: How large each one's differences are, in those of the first.
        correlation: The smallest absolute correlation with the first.
        exact: Whether they move together but for rounding, so that only one combination of their weights is known.
    """

    features: tuple[str, ...]
    signs: tuple[int, ...]
    ratios: tuple[float, ...]
    correlation: float
    exact: bool

    def in_words(self) -> str:
        """One sentence."""
        names = self.features
        opposed = min(self.signs) < 0
        how = "move against each other" if opposed and len(names) == 2 else "move together"
        if all(abs(ratio - 1) < (5e-4 if self.exact else 0.05) for ratio in self.ratios):
            if not opposed:
                known = "the sum of their weights"
            elif len(names) == 2:
                known = "the difference of their weights"
            else:
                known = "the signed sum of their weights"
        elif len(names) > LISTED:
            known = "one combination of their weights"
        else:
            terms = [
                f"{'-' if sign < 0 else '+'} {ratio:.3g}·{name}"
                for name, sign, ratio in zip(names, self.signs, self.ratios, strict=True)
            ]
            known = "the combination " + " ".join([names[0], *terms[1:]]) + " of their weights"
        if self.exact:
            said = f"{_listed(names)} always {how} in these pairs (correlation {_correlation(self.correlation)}): "
            return said + f"only {known} is known"
        said = f"{_listed(names)} nearly always {how} in these pairs (correlation {_correlation(self.correlation)}): "
        return said + f"{known} is known much better than each alone"


@attrs.frozen
class Combination:
    """A combination of weights the pairs say little or nothing about.

    Args:
        features: The features in it, the largest part first.
        parts: Each one's part, in standardised units; empty where several combinations are told together.
        index: The condition index: the largest singular value over this one's; infinite where nothing is known.
    """

    features: tuple[str, ...]
    parts: tuple[float, ...]
    index: float

    def in_words(self) -> str:
        """One sentence."""
        names = _listed(self.features)
        if math.isinf(self.index):
            return (
                f"{names} determine each other in these pairs: their weights are known only up to changes that "
                "cancel each other; the smallest such weights are given"
            )
        return (
            f"{names} nearly determine each other in these pairs (condition index {self.index:,.0f}): "
            "their weights can trade against each other at little cost to the fit"
        )


@attrs.frozen
class Identifiability:
    """What pairs can tell.

    Args:
        features: Names of all features.
        rank: How many directions of the weights the pairs say anything about.
        condition: The largest over the smallest singular value of the standardised differences, over those directions.
        constant: Features that never differ between the two sides.
        unknown: Features whose own weight is not determined: they are constant or part of an exact combination.
        groups: Features that move together, in groups.
        combinations: Poorly known combinations that no group explains.
    """

    features: tuple[str, ...]
    rank: int
    condition: float
    constant: tuple[str, ...]
    unknown: tuple[str, ...]
    groups: tuple[Group, ...]
    combinations: tuple[Combination, ...]

    @property
    def identified(self) -> bool:
        """Whether the pairs determine every weight."""
        return self.rank == len(self.features)

    def in_words(self) -> tuple[str, ...]:
        """Sentences, the gravest first; none where all is well."""
        said = []
        if self.constant:
            verb = "never differs" if len(self.constant) == 1 else "never differ"
            weight = "its weight is" if len(self.constant) == 1 else "their weights are"
            said.append(
                f"{_listed(self.constant)} {verb} between the two sides of a pair: {weight} unknown, and 0 here"
            )
        said += [group.in_words() for group in self.groups if group.exact]
        said += [each.in_words() for each in self.combinations if math.isinf(each.index)]
        if not self.identified:
            total = len(self.features)
            said.append(f"these pairs determine {self.rank} of {total} directions of the weights")
        said += [group.in_words() for group in self.groups if not group.exact]
        said += [each.in_words() for each in self.combinations if not math.isinf(each.index)]
        return tuple(said)

    def as_dict(self) -> dict[str, Any]:
        """For JSON and TOML."""
        return {
            "rank": self.rank,
            "features": len(self.features),
            "condition": self.condition,
            "constant": list(self.constant),
            "unknown": list(self.unknown),
            "together": [list(group.features) for group in self.groups],
            "words": list(self.in_words()),
        }


def _listed(names: Sequence[str]) -> str:
    if len(names) > LISTED:
        return f"{', '.join(names[:LISTED])} and {len(names) - LISTED} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _correlation(value: float) -> str:
    digits = 3 if value < 0.9995 else 6
    return "1" if value >= 1 - 5e-7 else f"{value:.{digits}f}".lstrip("0")


@attrs.frozen(eq=False)
class Moments:
    """Second moments of differences and their spectrum, which fitting and identifiability both use.

    Args:
        features: Names of the k features.
        gram: float64 [k, k], the weighted mean of d dᵀ.
        scale: float64 [k], root mean square of each difference; 1 where it is zero.
        values: float64 [k], eigenvalues of the standardised `gram`, ascending, none below 0.
        vectors: float64 [k, k], the eigenvectors in columns.
    """

    features: tuple[str, ...]
    gram: Floats
    scale: Floats
    values: Floats
    vectors: Floats

    @classmethod
    def of(cls, features: Sequence[str], differences: Floats, weight: Floats) -> Moments:
        """Of differences [n, k] under weights [n] that sum to one."""
        gram = weighted_squares(differences, weight)
        gram = (gram + gram.T) / 2
        rms = np.sqrt(np.diag(gram))
        scale = np.where(rms > 0, rms, 1.0)
        values, vectors = (
            np.linalg.eigh(gram / np.outer(scale, scale)) if len(gram) else (np.zeros(0), np.zeros((0, 0)))
        )
        return cls(tuple(features), gram, scale, np.maximum(values, 0.0), vectors)

    @property
    def known(self) -> NDArray[np.bool_]:
        """[k], which eigenvectors the differences say something about."""
        return np.asarray(self.values > NEGLIGIBLE * max(float(self.values.max(initial=0.0)), np.finfo(float).tiny))

    def null_space(self) -> Floats:
        """An orthonormal basis [k, k - rank], in units of the weights, of directions that change no difference."""
        raw = self.vectors[:, ~self.known] / self.scale[:, None]
        if not raw.shape[1]:
            return raw
        return np.asarray(np.linalg.qr(raw / np.linalg.norm(raw, axis=0))[0])


def undetermined(null: Floats, scale: Floats) -> NDArray[np.bool_]:
    """Which weights have a part in directions [k, m] that change nothing, bool [k].

    In units of each feature's `scale` [k]: beside a feature a million times as large, the part of a weight is small in
    its own units and no smaller in the utility.
    """
    if not null.shape[1]:
        return np.zeros(len(null), np.bool_)
    return np.asarray(np.linalg.norm(np.linalg.qr(null * scale[:, None])[0], axis=1) > 1e-6)


def identify(moments: Moments) -> Identifiability:
    """What pairs with such second moments can tell about the weights."""
    names, known, values = moments.features, moments.known, moments.values
    count = len(names)
    correlations = moments.gram / np.outer(moments.scale, moments.scale)
    moving = np.diag(moments.gram) > 0
    largest = math.sqrt(float(values.max(initial=0.0)))
    constant = tuple(name for name, moves in zip(names, moving, strict=True) if not moves)
    loose = undetermined(moments.null_space(), moments.scale)
    groups, grouped = _groups(moments, correlations, moving)
    combinations = _combinations(moments, correlations, moving, groups, grouped)
    smallest = math.sqrt(float(values[known].min())) if known.any() else 0.0
    return Identifiability(
        features=names,
        rank=int(known.sum()),
        condition=largest / smallest if smallest else math.inf if count else 1.0,
        constant=constant,
        unknown=tuple(name for name, free in zip(names, loose, strict=True) if free),
        groups=groups,
        combinations=combinations,
    )


def _combinations(
    moments: Moments,
    correlations: Floats,
    moving: NDArray[np.bool_],
    groups: tuple[Group, ...],
    grouped: dict[int, int],
) -> tuple[Combination, ...]:
    """Poorly known combinations among one feature of each group and all that are in none."""
    names = moments.features
    first = {names.index(group.features[0]) for group in groups}
    kept = [place for place in np.flatnonzero(moving).tolist() if place not in grouped or place in first]
    if len(kept) < 2:
        return ()
    values, vectors = np.linalg.eigh(correlations[np.ix_(kept, kept)])
    found = []
    for value, parts in zip(values, vectors.T, strict=True):
        exact = value <= NEGLIGIBLE * values[-1]
        index = math.inf if exact else math.sqrt(float(values[-1] / value))
        if index < WEAK:
            break
        order = [int(each) for each in np.argsort(-np.abs(parts), kind="stable") if abs(parts[each]) > 0.1]
        found.append(
            Combination(tuple(names[kept[each]] for each in order), tuple(float(parts[each]) for each in order), index)
        )
    return _merged(found)


def _merged(found: list[Combination]) -> tuple[Combination, ...]:
    """Several exact combinations at once: any mixture of them is one too, so all their features are named together."""
    exact = [each for each in found if math.isinf(each.index)]
    if len(exact) < 2:
        return tuple(found)
    names = tuple(dict.fromkeys(name for each in exact for name in each.features))
    return (Combination(names, (), math.inf), *(each for each in found if not math.isinf(each.index)))


def _groups(
    moments: Moments, correlations: Floats, moving: NDArray[np.bool_]
) -> tuple[tuple[Group, ...], dict[int, int]]:
    """Features whose differences correlate by `TOGETHER` at least, and which group each is in."""
    names = moments.features
    found: list[Group] = []
    grouped: dict[int, int] = {}
    rms = np.sqrt(np.diag(moments.gram))
    for first in range(len(names)):
        if first in grouped or not moving[first]:
            continue
        near = np.abs(correlations[first]) >= TOGETHER
        members = [int(each) for each in np.flatnonzero(near & moving) if each not in grouped]
        if len(members) < 2:
            continue
        least = float(np.abs(correlations[first, members]).min())
        block = np.linalg.eigvalsh(correlations[np.ix_(members, members)])
        found.append(
            Group(
                tuple(names[each] for each in members),
                tuple(1 if correlations[first, each] >= 0 else -1 for each in members),
                tuple(float(rms[each] / rms[first]) for each in members),
                least,
                bool(block[-2] <= NEGLIGIBLE * block[-1]),
            )
        )
        grouped.update(dict.fromkeys(members, len(found) - 1))
    return tuple(found), grouped
