"""The keys that the framework's cache files answers under."""

from __future__ import annotations

import collections
import datetime as dt
import enum
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray

from candidate_pipeline.cells import FAILED, NULL, Cells
from candidate_pipeline.engine.cache import freeze, row_keys


class Colour(enum.Enum):
    """An enumeration of the test below."""

    RED = 1


class Point(NamedTuple):
    """A named tuple of the test below."""

    x: int


@attrs.frozen(eq=False)
class Filters:
    """An attrs class of the test below."""

    words: list[str]


BERLIN = ZoneInfo("Europe/Berlin")
NOON = dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC)
#: Makers of values that must all differ from one another.
DIFFERENT: list[Callable[[], Any]] = [
    *(lambda value=value: value for value in (1, True, 1.0, 0.0, -0.0, "1", b"1", None, 1 + 0j, float("nan"), 2**70)),
    *(lambda kind=kind: kind([1, 2]) for kind in (tuple, list, set, frozenset)),
    *(lambda kind=kind: kind({"a": [1]}) for kind in (dict, collections.OrderedDict)),
    lambda: MappingProxyType({"a": [1]}),
    lambda: Point(1),
    lambda: (1,),
    lambda: Colour.RED,
    lambda: Filters(["a"]),
    lambda: Filters(["b"]),
    lambda: np.int64(1),
    lambda: np.int32(1),
    lambda: np.array(1),
    lambda: np.array([1]),
    lambda: np.array([1], np.int32),
    lambda: np.array([[1]]),
    lambda: np.array([[1, "a"]], object),
    lambda: np.array([1, "a"], object),
    lambda: np.datetime64("2024-01-01"),
    lambda: NOON,
    lambda: NOON.astimezone(BERLIN),
    lambda: NOON.astimezone(dt.timezone(dt.timedelta(hours=1))),
    NOON.date,
    NOON.time,
    lambda: dt.timedelta(hours=12),
]


def test_freeze_tells_values_apart() -> None:
    """Equal values of equal type freeze alike, and all others differ, `True` and `1` among them."""
    frozen = [freeze(make()) for make in DIFFERENT]
    assert frozen == [freeze(make()) for make in DIFFERENT]
    assert len(set(frozen)) == len(DIFFERENT)
    assert freeze({"a": 1, "b": 2}) == freeze({"b": 2, "a": 1})


class Tagged(Point):
    """A named tuple that may carry more than its fields."""


@pytest.mark.parametrize(
    "value",
    [object(), [object()], np.ma.masked_array([1]), np.zeros(1, [("x", "O")]), Tagged(1), int, {1: lambda: 1}],
)
def test_freeze_refuses_what_it_does_not_know(value: Any) -> None:
    """A value whose content cannot be seen is refused by name, wherever it stands."""
    with pytest.raises(TypeError, match="cache key"):
        freeze(value)


def test_row_keys() -> None:
    """A row's key has all key cells and the prefix; a null is a value of its own, a failed cell none."""
    ids = Cells(np.array([5, 5, 0, 0], np.int64), np.array([1, 1, NULL, FAILED], np.uint8), 0)
    assert row_keys([Cells(np.array([5, 6]), None, 0)]) == [5, 6]
    keys = row_keys([ids])
    assert keys[:2] == [5, 5]
    assert keys[3] is None
    assert keys[2] not in {0, 5, None}
    words = Cells(np.array(["a", None, "a", "b"], object), np.array([1, NULL, 1, 1], np.uint8), 0)
    both = row_keys([ids, words])
    assert both[3] is None
    assert len(set(both)) == 4
    assert both == row_keys([ids, words])
    alice, bob = (row_keys([ids], prefix=freeze((name, np.arange(3)))) for name in ("alice", "bob"))
    assert alice == row_keys([ids], prefix=freeze(("alice", np.arange(3))))
    assert alice[0] == alice[1]
    assert not set(alice[:3]) & set(bob[:3])
    assert alice[3] is bob[3] is None


@pytest.mark.parametrize(
    "values",
    [
        np.array([0.0, -0.0, np.nan, 1.0], np.float32),
        np.array([0.5, 1.5, np.nan, np.inf])[::-1],
        np.array([[1.0, 2.0], [1.0, np.nan], [2.0, 1.0]]),
        np.array(["2024-01-01", "2024-01-02", "NaT"], "datetime64[D]"),
        np.array([1 + 2j, 2 + 1j]),
        np.array([1, True, "1", 1.0], object),
        np.array([[1, "a"], ["a", 1]], object),
    ],
)
def test_row_keys_of_every_kind_of_column(values: NDArray[Any]) -> None:
    """Rows have equal keys when their cells have equal bits, NaN included."""
    keys = row_keys([Cells(values, None, 0)])
    assert len(set(keys)) == len(values)
    assert keys == row_keys([Cells(values.copy(), None, 0)])


def test_labels_are_part_of_a_row_key() -> None:
    """The same numbers under other labels are another key."""
    values = np.ones((1, 1), np.float32)
    one, two = (row_keys([Cells(values, None, 0, labels)]) for labels in (("a",), ("b",)))
    assert one != two
