"""Utilities on a common scale, and mixes: what changes nothing, what adds up, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from candidate_pipeline import DataError
from candidate_pipeline_stakeholder.mixing import (
    mix_problem,
    mixed,
    parse_mix,
    shares,
    standardised,
    utilities_of,
)

NAMES = ("user", "platform", "society")
ROWS = st.integers(1, 30)
NUMBERS = st.floats(-100, 100, width=32)
TABLES = ROWS.flatmap(lambda rows: hnp.arrays(np.float64, (rows, 3), elements=NUMBERS))
MIXES = st.dictionaries(st.sampled_from(NAMES), st.floats(-10, 10), min_size=1).filter(lambda mix: any(mix.values()))


def spread(table: Any) -> Any:
    """The largest difference within each column."""
    return table.max(axis=0) - table.min(axis=0)


@given(st.integers(0, 12), st.integers(1, 5), st.data())
def test_utilities_are_weighted_sums(rows: int, features: int, data: st.DataObject) -> None:
    """A utility is the sum of weight times value, and a row's is the same to the last bit whatever stands around it."""
    values = data.draw(hnp.arrays(np.float64, (rows, features), elements=NUMBERS))
    weights = data.draw(hnp.arrays(np.float64, (3, features), elements=NUMBERS))
    sums, sizes = utilities_of(values, weights)
    assert sums.shape == sizes.shape == (rows, 3)
    np.testing.assert_allclose(sums, values @ weights.T, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(sizes, np.abs(values) @ np.abs(weights.T), rtol=1e-12)
    for row in range(rows):
        assert utilities_of(values[row : row + 1], weights)[0].tobytes() == sums[row].tobytes()


@given(TABLES)
def test_standardised_over_the_request(table: Any) -> None:
    """Each utility has mean 0 and standard deviation 1 over the rows, or is 0 for all where it is constant."""
    found = standardised(table)
    constant = spread(table) == 0
    assert (found[:, constant] == 0).all()
    telling = spread(table) > 1e-6 * np.abs(table).max(axis=0)
    np.testing.assert_allclose(found[:, telling].mean(axis=0), 0, atol=1e-7)
    np.testing.assert_allclose(found[:, telling].std(axis=0), 1, atol=1e-7)
    assert np.abs(found).max() <= math.sqrt(len(table)) + 1e-6


@given(TABLES, st.integers(-60, 60), st.floats(0.01, 100))
def test_scaling_a_utility_changes_nothing(table: Any, power: int, factor: float) -> None:
    """A utility in other units comes out the same: to the last bit where they differ by a power of 2."""
    found = standardised(table)
    assert standardised(table * 2.0**power).tobytes() == found.tobytes()
    assume((spread(table) == 0).all() or (spread(table)[spread(table) > 0] > 1e-6 * np.abs(table).max()).all())
    np.testing.assert_allclose(standardised(table * factor), found, atol=1e-7)


@given(TABLES, st.floats(-1000, 1000))
def test_shifting_a_utility_changes_nothing(table: Any, shift: float) -> None:
    """A utility counted from elsewhere comes out the same, up to what the shift costs in digits."""
    apart = spread(table)
    assume(((apart == 0) | (apart > 1e-3)).all())
    np.testing.assert_allclose(standardised(table + shift), standardised(table), atol=1e-8)


@given(TABLES, st.randoms(use_true_random=False), st.sampled_from(["request", "pool", "none"]))
def test_the_order_of_rows_changes_nothing(table: Any, random: Any, how: Any) -> None:
    """Rows in another order come out in that order, to the last bit."""
    order = list(range(len(table)))
    random.shuffle(order)
    pool = {"centre": np.array([0.1, 0.2, 0.3]), "spread": np.array([3.0, 0.0, 0.7])}
    assert standardised(table[order], how, **pool).tobytes() == standardised(table, how, **pool)[order].tobytes()


@given(TABLES, st.integers(0, 29))
def test_a_pools_moments_make_rows_independent(table: Any, row: int) -> None:
    """Over a pool a row depends on no other row; a utility that is constant in the pool counts nothing."""
    centre, deviation = np.array([1.0, -2.0, 3.0]), np.array([2.0, 0.0, 0.5])
    found = standardised(table, "pool", centre=centre, spread=deviation)
    at = row % len(table)
    alone = standardised(table[at : at + 1], "pool", centre=centre, spread=deviation)
    assert alone.tobytes() == found[at : at + 1].tobytes()
    np.testing.assert_array_equal(found[:, 0], (table[:, 0] - 1) / 2)
    assert (found[:, 1] == 0).all()
    np.testing.assert_array_equal(standardised(table, "none"), table)


def test_over_a_pool_that_is_not_given() -> None:
    """A pool without moments is an error, not a division by nothing."""
    with pytest.raises(DataError, match="wanted the means and standard deviations of the pool, found none"):
        standardised(np.ones((2, 3)), "pool")


@pytest.mark.parametrize("how", ["request", "none"])
def test_no_rows(how: Any) -> None:
    """A table without rows, and one without stakeholders, stays as it is."""
    assert standardised(np.empty((0, 3)), how).shape == (0, 3)
    assert standardised(np.empty((4, 0)), how).shape == (4, 0)


def test_one_row_is_worth_nothing_to_anybody() -> None:
    """Of a single row there is no choice, so nobody gains by it."""
    assert standardised(np.array([[5.0, -3.0]])).tolist() == [[0.0, 0.0]]


def test_what_differs_by_rounding_is_constant() -> None:
    """Sums that are equal but for rounding are equal: noise is not blown up to standard deviations."""
    values = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.1, 0.3]])
    sums, sizes = utilities_of(values, np.array([[1.0, 1.0, 1.0]]))
    assert len(set(sums[:, 0].tolist())) > 1
    assert (standardised(sums, sizes=sizes) == 0).all()
    cancelled, sizes = utilities_of(np.array([[0.1, 0.2, 0.3], [0.2, 0.4, 0.6]]), np.array([[1.0, 1.0, -1.0]]))
    assert cancelled.any()
    assert (standardised(cancelled, sizes=sizes) == 0).all()


@pytest.mark.parametrize("size", [1e-300, 1e300, 5e-324, 1.7e308])
def test_numbers_at_the_edge(size: float) -> None:
    """Neither the largest nor the smallest numbers overflow on the way."""
    with np.errstate(all="raise"):
        found = standardised(np.array([[-size], [0.0], [size]]))
    np.testing.assert_allclose(found[:, 0], [-math.sqrt(1.5), 0, math.sqrt(1.5)])


# Mixes


@given(MIXES, st.floats(1e-3, 1e3), st.integers(-200, 200))
def test_a_mix_is_parts_of_a_whole(mix: dict[str, float], factor: float, power: int) -> None:
    """Shares sum to 1 in absolute value, keep the signs, and do not depend on the mix's scale."""
    found = shares(mix, NAMES)
    assert math.isclose(np.abs(found).sum(), 1)
    assume(all(weight == 0 or abs(weight) > 1e-200 for weight in mix.values()))
    assert [np.sign(part) for part in found] == [np.sign(mix.get(name, 0.0)) for name in NAMES]
    scaled = {name: weight * factor for name, weight in mix.items()}
    np.testing.assert_allclose(shares(scaled, NAMES), found, atol=1e-12)
    scaled = {name: weight * 2.0**power for name, weight in mix.items()}
    assert shares(scaled, NAMES).tobytes() == found.tobytes()


def test_the_largest_mix_is_finite() -> None:
    """Weights whose sum no float holds still make parts of a whole."""
    assert shares({"user": 1.7e308, "platform": -1.7e308}, NAMES).tolist() == [0.5, -0.5, 0.0]
    assert shares({"user": 5e-324}, NAMES).tolist() == [1.0, 0.0, 0.0]


@given(TABLES, MIXES)
def test_terms_add_up_to_the_score(table: Any, mix: dict[str, float]) -> None:
    """Added up in order, the terms as they are stored give the score as it is stored, exactly; none is -0."""
    terms, scores = mixed(standardised(table), shares(mix, NAMES))
    assert terms.dtype == scores.dtype == np.dtype(np.float32)
    for row, score in zip(terms, scores, strict=True):
        total = 0.0
        for term in row:
            total += float(term)
        assert np.float32(total).tobytes() == score.tobytes()
    assert not np.signbit(terms[terms == 0]).any()


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        ({"soceity": 1.0}, "no stakeholder 'soceity': did you mean 'society'?"),
        ({"x": 1.0}, "no stakeholder 'x': one of: platform, society, user"),
        ({3: 1.0}, "no stakeholder 3"),
        ({"user": "1"}, "user: wanted a finite number, found '1'"),
        ({"user": True}, "user: wanted a finite number, found True"),
        ({"user": None}, "user: wanted a finite number, found None"),
        ({"user": math.nan}, "user: wanted a finite number, found nan"),
        ({"user": -math.inf}, "user: wanted a finite number, found -inf"),
        ({"user": 10**400}, "user: wanted a finite number, found one of over 300 digits"),
        ({"user": -(10**9000)}, "user: wanted a finite number, found one of over 300 digits"),
        ({}, "wanted a weight other than 0 for at least one of user, platform, society; found an empty mix"),
        ({"user": 0, "society": -0.0}, "for at least one of user, platform, society; found user = 0, society = -0"),
    ],
)
def test_what_is_no_mix(mix: Any, said: str) -> None:
    """A wrong mix is told with what was wanted and found."""
    found = mix_problem(mix, NAMES)
    assert said in found
    assert len(found) < 300


@pytest.mark.parametrize("mix", [{"user": 1}, {"user": 0.5, "society": -2.0}, {"user": np.float32(1), "platform": 0}])
def test_what_is_a_mix(mix: Any) -> None:
    """Integers, negative weights and numpy's numbers are weights."""
    assert mix_problem(mix, NAMES) == ""


def test_mixes_on_the_command_line() -> None:
    """A mix is written as pairs or JSON; what is no mix is told."""
    assert parse_mix("user=1,society=-.5") == {"user": 1.0, "society": -0.5}
    assert parse_mix('{"user": 2}') == {"user": 2.0}
    for text, said in [
        ("user", "mix: wanted name=value"),
        ("user=x", "mix 'user=x': user: wanted a finite number, found 'x'"),
        ("user=0", "found user = 0"),
        ("user=1,user=2", "'user' stands twice"),
    ]:
        with pytest.raises(DataError, match=said):
            parse_mix(text)
