"""What each stakeholder values: one weight per feature, declared by hand or learned from pairs, kept in a TOML file.

A utility is linear: `u(item) = sum over features of weight * value`. With a ranker's predictions as values, a weight
says how much one certain action is worth to the stakeholder, and the utility is what the item is expected to bring.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.actions import RUNNER_DISCRETE
from candidate_pipeline_stakeholder.files import placed_file
from candidate_pipeline_stakeholder.moments import Moments

MAX_FEATURES: Final = 256
MAX_STAKEHOLDERS: Final = 64
MAX_WEIGHT: Final = 1e9
"""A weight further from 0 than this is taken for a mistake."""
MAX_NAME_CHARS: Final = 100

_STAKEHOLDER: Final = re.compile(r"[a-z][a-z0-9_]*")


def stakeholder_problem(name: object) -> str:
    """Why this cannot be a stakeholder's name, or ""."""
    if isinstance(name, str) and _STAKEHOLDER.fullmatch(name) and len(name) <= MAX_NAME_CHARS:
        return ""
    return f"wanted a name of small letters, digits and _ such as user, found {_short(name)}"


def feature_problem(name: object) -> str:
    """Why this cannot be a feature's name, or ""."""
    if isinstance(name, str) and name.strip() == name != "" and name.isprintable() and len(name) <= MAX_NAME_CHARS:
        return ""
    return f"wanted a printable name of 1 to {MAX_NAME_CHARS} characters such as favorite, found {_short(name)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _tuple(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


def _read_only(fits: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    return MappingProxyType(dict(fits))


def _frozen(values: ArrayLike) -> NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)  # a copy: nobody else holds it
    array.flags.writeable = False
    return array


@attrs.frozen(eq=False)
class Utilities:
    """The weights of several stakeholders over the same features.

    Args:
        features: Names of the columns of `weights`: actions, genres, ….
        names: The stakeholders.
        weights: float64 [len(names), len(features)].
        pool: Moments of the pool that the weights were learned on, over `features`, if known.
        fits: How the weights of a learned stakeholder were found, plain data by name; a declared one has none.

    Raises:
        DataError: The shapes do not fit, a name is wrong or given twice, a value is not finite or far too large.
    """

    features: tuple[str, ...] = attrs.field(converter=_tuple)
    names: tuple[str, ...] = attrs.field(converter=_tuple)
    weights: NDArray[np.float64] = attrs.field(converter=_frozen)
    pool: Moments | None = None
    fits: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, converter=_read_only)

    def __attrs_post_init__(self) -> None:
        found = [f"feature: {told}" for name in self.features if (told := feature_problem(name))]
        found += [f"stakeholder: {told}" for name in self.names if (told := stakeholder_problem(name))]
        for what, names, limit in (
            ("features", self.features, MAX_FEATURES),
            ("stakeholders", self.names, MAX_STAKEHOLDERS),
        ):
            if not 1 <= len(names) <= limit:
                found.append(f"{what}: wanted 1 to {limit}, found {len(names)}")
            if repeated := sorted({str(name) for name in names if names.count(name) > 1}):
                found.append(f"{what}: named twice: {', '.join(repeated)}")
        if self.weights.shape != (wanted := (len(self.names), len(self.features))):
            found.append(f"weights: wanted shape {wanted}, found {self.weights.shape}")
        elif not (np.abs(self.weights) <= MAX_WEIGHT).all():
            row, column = np.argwhere(~(np.abs(self.weights) <= MAX_WEIGHT))[0]
            found.append(
                f"weights: wanted numbers from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}, found "
                f"{self.weights[row, column]:g} for {self.features[column]} of {self.names[row]}"
            )
        if self.pool is not None and len(self.pool.mean) != len(self.features):
            found.append(f"pool: wanted moments of {len(self.features)} features, found {len(self.pool.mean)}")
        found += [f"fits: {name} is not a stakeholder" for name in self.fits if name not in self.names]
        if found:
            raise DataError("the utilities cannot be used\n" + "\n".join(f"  - {line}" for line in found))

    @classmethod
    def of(
        cls, weights: Mapping[str, Mapping[str, float]], features: Sequence[str] | None = None, **more: Any
    ) -> Utilities:
        """Utilities from nested mappings: stakeholder, feature, weight; a feature that is not named weighs 0.

        Args:
            weights: `{"user": {"favorite": 1.0}}`.
            features: The features and their order; `None`: those named, in the order of appearance.
            **more: `pool` and `fits`.

        Raises:
            DataError: A weight is for a feature that `features` lacks, or the result cannot be used.
        """
        named = dict.fromkeys(feature for table in weights.values() for feature in table)
        features = tuple(named if features is None else features)
        if unknown := [name for name in named if name not in features]:
            raise DataError(f"weights for {', '.join(map(_short, unknown))}, which the features do not name")
        values = [[table.get(feature, 0.0) for feature in features] for table in weights.values()]
        shape = (len(weights), len(features))
        return cls(features, tuple(weights), np.asarray(values, np.float64).reshape(shape), **more)

    def __len__(self) -> int:
        return len(self.names)

    def vector(self, name: str) -> NDArray[np.float64]:
        """The weights of one stakeholder, float64 [k].

        Raises:
            DataError: There is none of that name.
        """
        if name not in self.names:
            raise DataError(f"no stakeholder {name!r}; there are {', '.join(self.names)}")
        found: NDArray[np.float64] = self.weights[self.names.index(name)]
        return found

    def as_mapping(self) -> dict[str, dict[str, float]]:
        """Stakeholder, feature, weight; features of weight 0 are left out."""
        return {
            name: {feature: float(weight) for feature, weight in zip(self.features, row, strict=True) if weight}
            for name, row in zip(self.names, self.weights, strict=True)
        }

    def select(self, features: Iterable[str]) -> Utilities:
        """The same utilities over other features, in that order.

        A feature that these utilities do not have weighs 0 (and has mean and covariance 0 in the pool); one that
        is not asked for is dropped with its weight. What was fitted is kept as it was told.

        Args:
            features: Names; a served model's heads, say.
        """
        features = tuple(features)
        place = {name: column for column, name in enumerate(self.features)}
        columns = np.array([place.get(name, -1) for name in features], dtype=np.intp)
        there = columns >= 0
        weights = np.where(there, self.weights[:, columns], 0.0)
        pool = self.pool
        if pool is not None:
            covariance = np.where(there[:, None] & there, pool.covariance[np.ix_(columns, columns)], 0.0)
            pool = Moments.of(np.where(there, pool.mean[columns], 0.0), covariance, pool.rows)
        return Utilities(features, self.names, weights, pool, self.fits)

    def only(self, names: Iterable[str]) -> Utilities:
        """The same utilities of some stakeholders, in that order.

        Raises:
            DataError: One of them is not there.
        """
        names = tuple(names)
        weights = np.array([self.vector(name) for name in names]).reshape(len(names), len(self.features))
        fits = {name: self.fits[name] for name in names if name in self.fits}
        return Utilities(self.features, names, weights, self.pool, fits)

    @classmethod
    def read(cls, path: str | Path) -> Utilities:
        """Read a utilities file; see docs/stakeholders.md for the format.

        Raises:
            DataError: It is missing, too large, not TOML, or holds something it must not; all mistakes at once.
        """
        from candidate_pipeline_stakeholder.utilities_file import read_utilities

        return read_utilities(Path(path))

    def write(self, path: str | Path) -> None:
        """Write a utilities file; a reader sees the old one or the new one, never a part.

        Raises:
            DataError: What `fits` holds is not plain data.
            OSError: The place cannot be written.
        """
        from candidate_pipeline_stakeholder.utilities_file import utilities_toml

        text = utilities_toml(self)
        with placed_file(path) as made:
            made.write_text(text, encoding="utf-8", newline="\n")


POSITIVE: Final[tuple[str, ...]] = ("favorite", "reply", "repost", "share", "follow_author")
"""The positive actions of the label utility; quote is not one of them."""

NEGATIVE_ACTIONS: Final[tuple[str, ...]] = ("not_interested", "block_author", "mute_author", "report")
"""The negative actions of the label utility."""

LABEL_ALPHA: Final[Mapping[str, float]] = MappingProxyType({"user": 1.0, "platform": 0.3, "society": 4.0})
"""How much a negative action costs each stakeholder of the label utility, where a positive one brings 1."""


def label_weights(alpha: float, features: Sequence[str] = RUNNER_DISCRETE) -> NDArray[np.float64]:
    """The label utility `sum of POSITIVE - alpha * sum of NEGATIVE_ACTIONS` as weights, float64 [len(features)]."""
    values = dict.fromkeys(POSITIVE, 1.0) | dict.fromkeys(NEGATIVE_ACTIONS, -float(alpha))
    return np.array([values.get(feature, 0.0) for feature in features])


_USER_ACTIONS: Final = {
    "favorite": 1.0,
    "reply": 0.5,
    "repost": 0.8,
    "share": 0.9,
    "quote": 0.6,
    "follow_author": 1.2,
    "not_interested": -1.0,
    "block_author": -2.0,
    "mute_author": -1.5,
    "report": -2.5,
}
_PLATFORM_ACTIONS: Final = {
    "favorite": 1.0,
    "reply": 1.2,
    "repost": 1.5,
    "photo_expand": 0.3,
    "click": 0.5,
    "profile_click": 0.6,
    "vqv": 0.4,
    "share": 1.3,
    "share_via_dm": 1.4,
    "share_via_copy_link": 1.2,
    "dwell": 0.2,
    "quote": 1.3,
    "quoted_click": 0.4,
    "follow_author": 1.0,
    "not_interested": 0.1,
    "block_author": 0.1,
    "mute_author": 0.1,
    "report": 0.2,
}


def declared(kind: str = "label", alpha: Mapping[str, float] | None = None) -> Utilities:
    """The declared utilities of user, platform and society over the 18 discrete actions (`RUNNER_DISCRETE`).

    Two families, which answer different questions and must not be confused:

    - "label": positives count 1, negatives `-alpha`, everything else 0. The stakeholders differ in one number. It
      is what preference labels are made from where a known truth is to be found again.
    - "actions": a weight for each action. The platform gains a little even from a report, as any action is
      engagement to it; society counts a negative action four times a positive one, as in the label family.

    Args:
        kind: Which family: "label" or "actions".
        alpha: Stakeholder and its price of a negative action, for "label"; `None`: `LABEL_ALPHA`.

    Raises:
        DataError: `alpha` was given for "actions", or `kind` is neither.
    """
    if kind == "label":
        table = LABEL_ALPHA if alpha is None else alpha
        return Utilities(RUNNER_DISCRETE, tuple(table), np.array([label_weights(price) for price in table.values()]))
    if kind != "actions" or alpha is not None:
        raise DataError(f'wanted the family "label", or "actions" without alpha; found {kind!r} and alpha {alpha!r}')
    society = dict(zip(RUNNER_DISCRETE, label_weights(LABEL_ALPHA["society"]), strict=True))
    return Utilities.of(
        {"user": _USER_ACTIONS, "platform": _PLATFORM_ACTIONS, "society": society}, features=RUNNER_DISCRETE
    )


DECLARED: Final = declared("label")
"""The label utilities of user, platform and society."""

DECLARED_ACTIONS: Final = declared("actions")
"""The utilities of user, platform and society with a weight for each action."""
