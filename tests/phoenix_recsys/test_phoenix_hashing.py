"""Hash functions.

Equal to plain integer arithmetic for every 64-bit id, and well spread where chosen for a catalogue.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_recsys.hashing import RESERVED_ROWS, EntityHash, HashParams, as_uint64

ID = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1]))
INT64 = st.integers(-(2**63), 2**63 - 1)


def slow_bucket(identity: int, scale: int, bias: int, modulus: int, vocab_size: int) -> int:
    """The definition in unbounded integers: wrap to int64, floored modulus, 1 … V − 1, 0 for id 0."""
    if identity == 0:
        return 0
    wrapped = (identity * scale + bias + 2**63) % 2**64 - 2**63
    return wrapped % modulus % (vocab_size - 1) + 1


@given(
    ids=st.lists(ID, max_size=6),
    scale=INT64,
    bias=INT64,
    modulus=st.integers(1, 2**63 - 1),
    vocab_size=st.integers(2, 2**31 - 1),
)
def test_buckets_equal_plain_arithmetic(ids: list[int], scale: int, bias: int, modulus: int, vocab_size: int) -> None:
    """Vectorised wrapping arithmetic gives what unbounded integers give, for ids up to 2**64 − 1."""
    entity = EntityHash((scale, 3), (bias, 5), modulus, vocab_size)
    found = entity.buckets(np.array(ids, np.uint64))
    wanted = [[slow_bucket(i, s, b, modulus, vocab_size) for s, b in ((scale, bias), (3, 5))] for i in ids]
    assert found.tolist() == wanted


@given(ids=st.lists(ID, min_size=1, max_size=4))
def test_signed_and_unsigned_ids_hash_alike(ids: list[int]) -> None:
    """An id read as int64, as uint64 or as a Python integer lands in the same rows."""
    params = HashParams.random(0, user_vocab_size=50, item_vocab_size=60, author_vocab_size=70)
    unsigned = np.array(ids, np.uint64)
    assert np.array_equal(params.hash_items(unsigned), params.hash_items(unsigned.view(np.int64)))
    assert np.array_equal(params.hash_items(unsigned), params.hash_items(ids))


def test_rows_of_the_kinds_do_not_overlap(small_hashes: HashParams) -> None:
    """User, item and author rows lie in consecutive ranges behind the reserved ones; id 0 is row 0 everywhere."""
    ids = np.arange(1, 5000)
    ranges = {
        "users": (RESERVED_ROWS, 40),
        "items": (RESERVED_ROWS + 40, 300),
        "authors": (RESERVED_ROWS + 340, 50),
    }
    for kind, (start, size) in ranges.items():
        rows = getattr(small_hashes, f"hash_{kind}")(ids)
        assert rows.dtype == np.int32
        assert rows.shape == (len(ids), 2)
        assert rows.min() == start + 1
        assert rows.max() == start + size - 1
        assert not getattr(small_hashes, f"hash_{kind}")([0]).any()


def test_drawing_constants_is_deterministic() -> None:
    """One seed gives one set of constants, another seed another."""
    sizes = {"user_vocab_size": 50, "item_vocab_size": 60, "author_vocab_size": 70}
    assert HashParams.random(4, **sizes) == HashParams.random(4, **sizes)
    assert HashParams.random(4, **sizes) != HashParams.random(5, **sizes)


def test_constants_chosen_for_a_catalogue_avoid_collisions() -> None:
    """For 1,682 consecutive ids and 4,096 rows the chosen constants leave every row to one id."""
    ids = np.arange(1, 1683)
    entity = EntityHash.fitted(np.random.default_rng(0), ids, 4096)
    assert entity.collisions(ids) == (0.0, 0.0, 0.0)


@given(seed=st.integers(0, 1000), count=st.integers(1, 60))
def test_collisions_equal_a_direct_count(seed: int, count: int) -> None:
    """The shares of ids with shared rows are what comparing each id with each other gives."""
    rng = np.random.default_rng(seed)
    entity = EntityHash.random(rng, 40)
    ids = np.unique(rng.integers(1, 2**40, count))
    rows = [set(row) for row in entity.buckets(ids).tolist()]
    tuples = entity.buckets(ids).tolist()
    others = [set().union(*rows[:i], *rows[i + 1 :]) for i in range(len(rows))]
    wanted = (
        np.mean([bool(mine & rest) for mine, rest in zip(rows, others, strict=True)]),
        np.mean([mine <= rest for mine, rest in zip(rows, others, strict=True)]),
        np.mean([tuples.count(row) > 1 for row in tuples]),
    )
    assert entity.collisions(ids) == pytest.approx(wanted)


def test_collisions_of_nothing_are_none() -> None:
    """No ids, or padding alone, share nothing."""
    entity = EntityHash.random(np.random.default_rng(0), 40)
    assert entity.collisions([]) == (0.0, 0.0, 0.0)
    assert entity.collisions([0, 0]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": (1,), "biases": (1, 2)}, "as many scales as biases"),
        ({"modulus": 0}, "modulus"),
        ({"modulus": 2**63}, "modulus"),
        ({"vocab_size": 1}, "rows"),
    ],
)
def test_impossible_constants_are_refused(change: dict[str, object], message: str) -> None:
    """Constants that cannot hash say which is wrong."""
    good = {"scales": (3, 5), "biases": (7, 9), "modulus": 101, "vocab_size": 10}
    with pytest.raises(ValueError, match=message):
        EntityHash(**(good | change))  # type: ignore[arg-type]  # wrong on purpose


@given(ids=st.lists(st.integers(-(2**63), 2**64 - 1), max_size=20))
def test_every_kind_of_integers_becomes_the_same_ids(ids: list[int]) -> None:
    """Lists, arrays of objects and of numbers, and slices with steps give each id's 64 bits."""
    wanted = np.array([identity % 2**64 for identity in ids], np.uint64)
    objects = np.array(ids, object)
    stepped = np.repeat(wanted, 2)[::2]
    for given_ids in (ids, tuple(ids), objects, objects.reshape(-1, 1), wanted, wanted.view(np.int64), stepped):
        found = as_uint64(given_ids)
        assert found.dtype == np.uint64
        assert np.array_equal(found.reshape(-1), wanted)
    assert as_uint64(stepped.view(np.int64)).tolist() == wanted.tolist()
    assert as_uint64(np.array(list(wanted) + list(wanted.view(np.int64)), object)).tolist() == 2 * wanted.tolist()


def test_one_id_has_one_row_of_buckets() -> None:
    """An id without a list around it, signed or not, gives buckets [k]."""
    entity = EntityHash((3, 5), (7, 9), 101, 10)
    identities: tuple[Any, ...] = (2**64 - 1, -1, np.int64(-1), np.uint64(2**64 - 1))
    for identity in identities:
        assert entity.buckets(identity).tolist() == entity.buckets([identity])[0].tolist()
    assert entity.rows(0, 65).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([1.5], TypeError, "integers"),
        ([1.5, 2**64 - 1], TypeError, "integers, found float"),
        (np.array([True, 2**64 - 1], object), TypeError, "integers, found bool"),
        ([True], TypeError, "integers, found an array of bool"),
        (np.array(["1"], object), TypeError, "integers, found str"),
        (np.array([None, 1], object), TypeError, "integers, found NoneType"),
        (np.array([0.5]), TypeError, "integers"),
        ([2**64, 1], OverflowError, f"64 bits, found {2**64}"),
        ([-(2**63) - 1, 2**63], OverflowError, f"64 bits, found {-(2**63) - 1}"),
    ],
)
def test_ids_that_are_no_64_bit_integers_are_refused(ids: Any, error: type[Exception], message: str) -> None:
    """Fractions, truth values, text and integers of 65 bits raise instead of being rounded."""
    with pytest.raises(error, match=message):
        as_uint64(ids)


def test_tables_whose_rows_int32_cannot_number_are_refused() -> None:
    """Rows that would wrap around to negative numbers are an error when the hashes are made, not when they are used."""
    HashParams.random(1, user_vocab_size=2**29, item_vocab_size=2**29, author_vocab_size=2**29)
    with pytest.raises(ValueError, match="unified rows are int32: wanted at most 2147483648"):
        HashParams.random(1, user_vocab_size=2**30, item_vocab_size=2**30, author_vocab_size=2**10)
