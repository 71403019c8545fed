"""A table of preferences: two items a row, what each is like, and which of them was preferred."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Self, TypeAlias

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray

from candidate_pipeline.errors import DataError

Floats: TypeAlias = NDArray[np.float64]

NO_TIME: Final = int(np.iinfo(np.int64).min)
"""The time of a pair whose time is unknown."""
NO_RATER: Final = -1
"""The code of a rater who is unknown."""
LARGEST: Final = 1e9
"""The largest absolute value of a feature, and of a weight: squares and their sums stay exact enough to fit with."""


def _sealed(values: ArrayLike, dtype: Any) -> NDArray[Any]:
    """A contiguous copy nobody can write to."""
    array = np.array(values, dtype=dtype, order="C")
    array.setflags(write=False)
    return array


def _first(bad: NDArray[np.bool_]) -> tuple[int, ...]:
    """The place of the first mistake."""
    return tuple(int(each) for each in np.argwhere(bad)[0])


def _side(name: str, values: ArrayLike, features: Sequence[str]) -> Floats:
    """One side of the pairs, checked."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"pairs: wanted numbers in {name}, found what numpy cannot read as such: {error}") from error
    if array.ndim != 2 or array.shape[1] != len(features):
        raise DataError(
            f"pairs: wanted {name} as one row a pair and {len(features)} columns, one a feature, "
            f"found an array of shape {array.shape}"
        )
    for wrong, wanted in ((~np.isfinite(array), "a finite number"), (np.abs(array) > LARGEST, f"at most {LARGEST:g}")):
        if wrong.any():
            row, column = _first(wrong)
            raise DataError(
                f"pairs: wanted {wanted} in {name}, found {array[row, column]} in row {row}, feature "
                f"{features[column]!r}. Drop or mend the row; rescale features that are this large"
            )
    return array


def _column(name: str, values: ArrayLike, count: int, dtype: Any) -> NDArray[Any]:
    """A column of one value a pair, whose numbers must fit its type exactly."""
    try:
        array = np.asarray(values)
        if array.shape != (count,):
            raise DataError(f"pairs: wanted {count} values of {name}, one a pair, found shape {array.shape}")
        if array.dtype.kind not in "iufb":
            raise DataError(f"pairs: wanted numbers as {name}, found {array.dtype}")
        with np.errstate(invalid="ignore"):
            cast = array.astype(dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"pairs: wanted numbers as {name}: {error}") from error
    wrong = cast != array
    if np.issubdtype(dtype, np.integer) and wrong.any():
        (row,) = _first(wrong)
        raise DataError(f"pairs: wanted whole numbers as {name}, found {array[row]} in row {row}")
    return cast


def _codes(what: str, names: str | Iterable[str | None], count: int) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Names in the order of their first use, and each pair's code; `None` is nobody, coded -1."""
    if isinstance(names, str):
        names = [names] * count if count else []
        if not count:
            return (), np.zeros(0, np.int32)
    known: dict[str, int] = {}
    codes = np.empty(count, np.int32)
    listed: list[Any] = list(names)
    if len(listed) != count:
        raise DataError(f"pairs: wanted {count} names of a {what}, one a pair, found {len(listed)}")
    for row, name in enumerate(listed):
        if name is None:
            codes[row] = NO_RATER
            continue
        if not isinstance(name, str) or not name:
            raise DataError(
                f"pairs: wanted the name of a {what} as a text that is not empty, found {name!r} in row {row}"
            )
        codes[row] = known.setdefault(str(name), len(known))
    return tuple(known), codes


@attrs.frozen(eq=False)
class Pairs:
    """Preferences between two items each; columnar, every array read-only. Made by `Pairs.of`, which checks.

    Args:
        features: What the k columns are: labels of actions, genres, whatever the items are described by.
        left: float64 [n, k], what the one item is like.
        right: float64 [n, k], what the other is like.
        outcome: int8 [n]: +1 the left one was preferred, -1 the right one, 0 neither (a tie).
        weight: float64 [n], over 0: how often the pair counts. A weight of 2 is the same as having the pair twice.
        stakeholders: The names of whose preferences these are.
        stakeholder: int32 [n], each pair's place in `stakeholders`.
        raters: The names of who gave the judgements, where known.
        rater: int32 [n], each pair's place in `raters`, -1 where unknown.
        time: int64 [n], milliseconds since 1970 (UTC), `NO_TIME` where unknown.
        left_item: int64 [n], the items' ids, or `None`.
        right_item: int64 [n], likewise.
    """

    features: tuple[str, ...]
    left: Floats
    right: Floats
    outcome: NDArray[np.int8]
    weight: Floats
    stakeholders: tuple[str, ...]
    stakeholder: NDArray[np.int32]
    raters: tuple[str, ...]
    rater: NDArray[np.int32]
    time: NDArray[np.int64]
    left_item: NDArray[np.int64] | None = None
    right_item: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls,
        features: Iterable[str],
        left: ArrayLike,
        right: ArrayLike,
        outcome: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        stakeholder: str | Iterable[str] = "user",
        rater: str | Iterable[str | None] | None = None,
        time: ArrayLike | None = None,
        left_item: ArrayLike | None = None,
        right_item: ArrayLike | None = None,
    ) -> Self:
        """Check everything and keep a copy of it.

        Args:
            features: The names of the k columns; no two alike.
            left: [n, k] finite numbers, at most 1e9 in size.
            right: [n, k], likewise.
            outcome: [n] of +1 (left preferred), -1 (right), 0 (tie).
            weight: [n] over 0 and finite; all 1 if not given.
            stakeholder: One name for all pairs, or one a pair.
            rater: One name for all pairs, or one a pair with `None` where unknown.
            time: [n] milliseconds since 1970 (UTC).
            left_item: [n] ids; both sides or neither.
            right_item: [n] ids.

        Raises:
            DataError: Something is not as above; the message names the first row at fault.
        """
        names = tuple(features)
        for name in names:
            if not str(name) or str(name) != name:
                raise DataError(f"pairs: wanted names of features that are not empty, found {name!r}")
        if len(set(names)) != len(names):
            double = next(name for name in names if names.count(name) > 1)
            raise DataError(f"pairs: wanted every feature once, found {double!r} twice")
        sides = [_side("left", left, names), _side("right", right, names)]
        count = len(sides[0])
        if len(sides[1]) != count:
            raise DataError(f"pairs: wanted as many rows right as left, found {count} left and {len(sides[1])} right")
        outcomes = _column("outcome", outcome, count, np.int8)
        wrong = np.abs(outcomes) > 1
        if wrong.any():
            (row,) = _first(wrong)
            raise DataError(
                f"pairs: wanted +1 (left), -1 (right) or 0 (tie) as outcome, found {outcomes[row]} in row {row}"
            )
        weights = np.ones(count) if weight is None else _column("weight", weight, count, np.float64)
        wrong = ~((weights > 0) & (weights <= LARGEST))
        if wrong.any():
            (row,) = _first(wrong)
            raise DataError(
                f"pairs: wanted weights over 0 and at most {LARGEST:g}, found {weights[row]} in row {row}. Leave out "
                "pairs that count for nothing; exchange the sides of a pair whose weight is negative"
            )
        stakeholders, stakeholder_codes = _codes("stakeholder", stakeholder, count)
        if (stakeholder_codes < 0).any():
            (row,) = _first(stakeholder_codes < 0)
            raise DataError(f"pairs: wanted the name of a stakeholder, found none in row {row}")
        raters, rater_codes = (
            ((), np.full(count, NO_RATER, np.int32)) if rater is None else _codes("rater", rater, count)
        )
        times = np.full(count, NO_TIME) if time is None else _column("time", time, count, np.int64)
        if (left_item is None) != (right_item is None):
            raise DataError("pairs: wanted the ids of the items of both sides or of neither, found one side's")
        return cls(
            names,
            _sealed(sides[0], np.float64),
            _sealed(sides[1], np.float64),
            _sealed(outcomes, np.int8),
            _sealed(weights, np.float64),
            stakeholders,
            _sealed(stakeholder_codes, np.int32),
            raters,
            _sealed(rater_codes, np.int32),
            _sealed(times, np.int64),
            None if left_item is None else _sealed(_column("left_item", left_item, count, np.int64), np.int64),
            None if right_item is None else _sealed(_column("right_item", right_item, count, np.int64), np.int64),
        )

    def __len__(self) -> int:
        return len(self.outcome)

    def take(self, index: ArrayLike) -> Self:
        """The pairs at some places, or where a mask is true, in that order; names stay as they are.

        Raises:
            DataError: The index is neither a mask of one value a pair nor whole numbers within the table.
        """
        where = np.asarray(index)
        if where.dtype == np.bool_:
            if where.shape != (len(self),):
                raise DataError(f"pairs: wanted a mask of {len(self)} values, found shape {where.shape}")
        elif where.size == 0:
            where = where.astype(np.intp)
        elif where.dtype.kind not in "iu" or where.ndim != 1 or where.min() < -len(self) or where.max() >= len(self):
            raise DataError(
                f"pairs: wanted places within {len(self)} pairs, found {where.dtype} of shape {where.shape}"
            )

        def taken(column: NDArray[Any]) -> NDArray[Any]:
            found = np.asarray(column[where])
            found.setflags(write=False)
            return found

        return attrs.evolve(
            self,
            left=taken(self.left),
            right=taken(self.right),
            outcome=taken(self.outcome),
            weight=taken(self.weight),
            stakeholder=taken(self.stakeholder),
            rater=taken(self.rater),
            time=taken(self.time),
            left_item=None if self.left_item is None else taken(self.left_item),
            right_item=None if self.right_item is None else taken(self.right_item),
        )

    def of_stakeholder(self, name: str) -> Self:
        """The pairs of one stakeholder.

        Raises:
            DataError: There is no such stakeholder here.
        """
        if name not in self.stakeholders:
            raise DataError(f"pairs: no stakeholder {name!r} here, only {', '.join(self.stakeholders) or 'nobody'}")
        return self.take(self.stakeholder == self.stakeholders.index(name))

    def decided(self) -> Self:
        """The pairs that are no ties."""
        return self if self.outcome.all() else self.take(self.outcome != 0)

    def swapped(self, mask: ArrayLike | None = None) -> Self:
        """The same preferences with the sides exchanged, the outcome with them: of all pairs or where a mask is true.

        Raises:
            DataError: The mask is not one boolean a pair.
        """
        where = np.ones(len(self), bool) if mask is None else np.asarray(mask)
        if where.dtype != np.bool_ or where.shape != (len(self),):
            raise DataError(f"pairs: wanted a mask of {len(self)} values, found {where.dtype} of shape {where.shape}")
        left_item, right_item = self.left_item, self.right_item
        if left_item is not None and right_item is not None:
            left_item, right_item = (
                _sealed(np.where(where, right_item, left_item), np.int64),
                _sealed(np.where(where, left_item, right_item), np.int64),
            )
        return attrs.evolve(
            self,
            left=_sealed(np.where(where[:, None], self.right, self.left), np.float64),
            right=_sealed(np.where(where[:, None], self.left, self.right), np.float64),
            outcome=_sealed(np.where(where, -self.outcome, self.outcome), np.int8),
            left_item=left_item,
            right_item=right_item,
        )

    @staticmethod
    def concat(tables: Sequence[Pairs]) -> Pairs:
        """Several tables one below the other; stakeholders and raters of the same name are the same.

        Raises:
            DataError: There is no table, or they differ in their features.
        """
        if not tables:
            raise DataError("pairs: wanted at least one table to put together, found none")
        features = tables[0].features
        for table in tables:
            if table.features != features:
                raise DataError(f"pairs: wanted the same features in all tables, found {features} and {table.features}")
        stakeholders = tuple(dict.fromkeys(name for table in tables for name in table.stakeholders))
        raters = tuple(dict.fromkeys(name for table in tables for name in table.raters))
        with_items = all(table.left_item is not None for table in tables)

        def joined(parts: Iterable[Any], dtype: Any) -> NDArray[Any]:
            return _sealed(np.concatenate([np.asarray(part) for part in parts]), dtype)

        def recoded(codes: NDArray[np.int32], old: tuple[str, ...], new: Mapping[str, int]) -> NDArray[np.int32]:
            places = np.array([*(new[name] for name in old), NO_RATER], np.int32)
            return np.asarray(places[codes])

        stakeholder_at = {name: at for at, name in enumerate(stakeholders)}
        rater_at = {name: at for at, name in enumerate(raters)}

        return Pairs(
            features,
            joined((table.left for table in tables), np.float64),
            joined((table.right for table in tables), np.float64),
            joined((table.outcome for table in tables), np.int8),
            joined((table.weight for table in tables), np.float64),
            stakeholders,
            joined((recoded(table.stakeholder, table.stakeholders, stakeholder_at) for table in tables), np.int32),
            raters,
            joined((recoded(table.rater, table.raters, rater_at) for table in tables), np.int32),
            joined((table.time for table in tables), np.int64),
            joined((table.left_item for table in tables), np.int64) if with_items else None,
            joined((table.right_item for table in tables), np.int64) if with_items else None,
        )

    def sides(self) -> tuple[Floats, Floats]:
        """What was preferred and what was not: two float64 [n, k].

        Raises:
            DataError: There are ties, which prefer neither.
        """
        ties = self.outcome == 0
        if ties.any():
            raise DataError(
                f"pairs: {int(ties.sum())} of {len(self)} are ties (the first in row {_first(ties)[0]}), which prefer "
                "neither side. Leave them out with `decided()`, or fit them with `fit_ties`"
            )
        left = (self.outcome > 0)[:, None]
        return np.where(left, self.left, self.right), np.where(left, self.right, self.left)

    def differences(self) -> Floats:
        """What was preferred minus what was not: float64 [n, k].

        Raises:
            DataError: There are ties.
        """
        preferred, other = self.sides()
        return preferred - other
