"""Values of query features in captures: what comes back is what went in, and classes come from declarations alone."""

from __future__ import annotations

import datetime as dt
import enum
import math
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from candidate_pipeline.errors import CaptureError
from candidate_pipeline.what_if.archive import Arrays, pack, unpack_bytes
from candidate_pipeline.what_if.codec import MAX_DEPTH, decode, encode


class Mood(enum.Enum):
    """How somebody feels."""

    GOOD = "good"
    BAD = "bad"


@attrs.frozen
class Visit:
    """One visit."""

    at: dt.datetime
    mood: Mood | None = None


@attrs.frozen
class Sale:
    """One sale."""

    price: float


@attrs.frozen
class Log:
    """What somebody did."""

    times: np.ndarray = attrs.field(eq=attrs.cmp_using(eq=np.array_equal))
    visits: tuple[Visit, ...]
    last: Visit | Sale | None = None
    _secret: int = 0
    count: int = attrs.field(init=False)

    @count.default
    def _count(self) -> int:
        return len(self.visits)


@attrs.frozen
class Picky:
    """Takes nothing but even numbers."""

    number: int = attrs.field()

    @number.validator
    def _even(self, _: object, value: int) -> None:
        if value % 2:
            raise ValueError("odd")


def there_and_back(value: Any, hint: Any = Any) -> Any:
    """A value after it has been a file."""
    arrays = Arrays()
    manifest, members = unpack_bytes(pack({"value": encode(value, hint, arrays)}, arrays))
    return decode(manifest["value"], hint, members)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters()),
    st.binary(),
    st.datetimes(
        timezones=st.one_of(st.none(), st.just(dt.UTC), st.just(dt.timezone(dt.timedelta(hours=-7, minutes=3))))
    ),
    st.dates(),
    st.timedeltas(),
)
KEYS = st.one_of(st.integers(), st.text(), st.tuples(st.integers(), st.booleans()))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.sets(st.integers(), max_size=4),
        st.frozensets(st.text(), max_size=4),
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """Whether two values are of one type and equal, NaN to itself and 0.0 not to -0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(map(repr, one)) == list(map(repr, other)) and all(map(same, one.values(), other.values()))
    return bool(one == other)


@given(VALUES)
def test_plain_values_come_back(value: Any) -> None:
    """Expect numbers, texts, times, bytes and collections of them to come back with their types."""
    assert same(there_and_back(value), value)


@given(
    hnp.arrays(
        st.one_of(hnp.scalar_dtypes(), hnp.byte_string_dtypes(min_len=1), hnp.unicode_string_dtypes(min_len=1)),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
def test_arrays_come_back(array: Any) -> None:
    """Expect dtype, shape and bytes of arrays of numbers, times and texts, read-only."""
    found = there_and_back(array)
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert not found.flags.writeable
    if array.size:
        element = array.reshape(-1)[0]
        assert type(there_and_back(element)) is type(element)


def test_objects_come_back_as_their_declared_class() -> None:
    """Expect attrs objects, enumerations and unions by the declared types of key and fields."""
    visit = Visit(dt.datetime(2026, 5, 1, tzinfo=dt.UTC), Mood.BAD)
    for last in (None, visit, Sale(2.5)):
        log = Log(np.arange(3), (visit, Visit(visit.at)), last, secret=4)
        found = there_and_back(log, Log)
        assert found == log
        assert (found._secret, found.count) == (4, 2)
    assert there_and_back(Mood.GOOD, Mood) is Mood.GOOD
    texts = np.array([["a", None], [("b", 1), 2.5]], object)
    assert there_and_back(texts).tolist() == texts.tolist()


class Odd:
    """Something else."""


class Number(int):
    """A number of a class of its own."""


@pytest.mark.parametrize(
    ("value", "hint", "why"),
    [
        (Odd(), Odd, "a Odd cannot be captured"),
        (Visit(dt.datetime.now()), Any, "of classes, those that the key or field declares are"),
        ((Sale(1.0),), tuple, "a Sale cannot be captured"),
        (Number(3), int, "a Number cannot be captured"),
        (Mood.GOOD, str, "a Mood cannot be captured"),
        (1 << 5000, int, "too long"),
        (np.zeros(2, [("a", int)]), np.ndarray, "cannot be captured"),
        (np.array([Odd()], object), np.ndarray, "a Odd cannot be captured"),
        (np.ma.array([1]), np.ndarray, "a MaskedArray cannot be captured"),
    ],
)
def test_what_cannot_be_captured_is_refused(value: Any, hint: Any, why: str) -> None:
    """Expect whatever could come back as something else to be refused by the name of its class."""
    with pytest.raises(CaptureError, match=why):
        encode(value, hint, Arrays())


def test_values_cannot_stand_too_deep() -> None:
    """Expect a list in a list in a list to end somewhere, when it is written and when it is read."""
    value: Any = 1
    for _ in range(MAX_DEPTH + 1):
        value = [value]
    with pytest.raises(CaptureError, match="deep"):
        encode(value, Any, Arrays())
    found: Any = 1
    for _ in range(MAX_DEPTH + 1):
        found = {"list": [found]}
    with pytest.raises(CaptureError, match="deep"):
        decode(found, Any, {})


TAGS = [
    *("tuple", "list", "dict", "set", "bytes", "float", "datetime", "date", "timedelta"),
    *("array", "scalar", "objects", "shape", "fields", "enum", "class"),
]
FIELDS = ["times", "visits", "last", "at", "x"]
JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from([*TAGS, *FIELDS]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(JUNK, st.sampled_from([Any, int, Log, Mood, Visit | Sale, tuple[Visit, ...], dict[str, Log], np.ndarray, Picky]))
def test_any_json_is_a_value_or_a_capture_error(found: Any, hint: Any) -> None:
    """Expect nothing but a value or a clear error from whatever a file may hold."""
    try:
        decode(found, hint, {"0": np.arange(3), "1": np.array(2.5)})
    except CaptureError:
        return


@pytest.mark.parametrize(
    ("found", "hint", "why"),
    [
        ({"fields": {"number": 3}}, Picky, "a Picky refuses what the capture holds: odd"),
        ({"fields": {"price": 1.0}}, Picky, "wanted a Picky with the fields number"),
        ({"fields": {"price": 1.0}}, Any, "wanted a value of"),
        ({"fields": {"price": 1.0}, "class": 2}, Visit | Sale, "wanted a value of"),
        ({"enum": "UGLY"}, Mood, "wanted a Mood"),
        ({"array": "7"}, np.ndarray, "it has no array '7'"),
        ({"scalar": "0"}, Any, "wanted the shape"),
        ({"pickle": "gASVBAAAAAA="}, Any, "no value has the tag 'pickle'"),
        ({"float": "1e400"}, float, "wanted nan, inf or -inf"),
        ({"dict": [[1, 2, 3]]}, dict, "wanted a dict"),
        ({"dict": [[{"list": []}, 2]]}, dict, "unhashable"),
        ({"objects": [1], "shape": [2, -1]}, np.ndarray, "wanted an array of shape"),
    ],
)
def test_wrong_values_are_named(found: Any, hint: Any, why: str) -> None:
    """Expect the error to say what was wanted and what stands there."""
    with pytest.raises(CaptureError, match=why):
        decode(found, hint, {"0": np.arange(3)})


def test_numbers_that_are_none_in_json_come_back() -> None:
    """Expect infinities, NaN and negative zero."""
    assert there_and_back(-math.inf) == -math.inf
    assert math.isnan(there_and_back(math.nan))
    assert math.copysign(1, there_and_back(-0.0)) == -1
