"""Gini coefficient, coverage and entropy: their definitions, ends and invariances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidate_pipeline import DataError
from candidate_pipeline_stakeholder.exposure import coverage, entropy, exposure, gini

COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any)


@given(COUNTS)
def test_gini_is_half_the_relative_mean_difference(counts: list[int]) -> None:
    """The coefficient is the mean absolute difference of two counts over twice the mean, from 0 to (n - 1) / n."""
    x = np.array(counts, float)
    wanted = np.abs(x[:, None] - x).mean() / (2 * x.mean())
    assert math.isclose(gini(counts), wanted, abs_tol=1e-12)
    assert 0 <= gini(counts) <= (len(x) - 1) / len(x) + 1e-12


@given(COUNTS, st.integers(1, 9), st.randoms(use_true_random=False))
def test_gini_depends_on_shares_alone(counts: list[int], factor: int, random: Any) -> None:
    """Neither the order, nor the number of rows, nor everybody standing there twice changes the coefficient."""
    mixed = list(counts)
    random.shuffle(mixed)
    assert gini(mixed) == gini(counts)
    assert math.isclose(gini([count * factor for count in counts]), gini(counts), abs_tol=1e-12)
    assert math.isclose(gini(counts * factor), gini(counts), abs_tol=1e-12)


@given(COUNTS, st.data())
def test_giving_to_the_poorer_lowers_gini(counts: list[int], data: st.DataObject) -> None:
    """A row taken from one who has two more and given to another never raises the coefficient (Dalton's principle)."""
    rich = data.draw(st.sampled_from(range(len(counts))))
    poor = data.draw(st.sampled_from(range(len(counts))))
    if counts[rich] >= counts[poor] + 2:
        moved = list(counts)
        moved[rich] -= 1
        moved[poor] += 1
        assert gini(moved) < gini(counts)


def test_gini_at_its_ends() -> None:
    """Equal counts have 0 and not less; one who has all has (n - 1) / n; who was never shown counts."""
    assert gini([1 / 3] * 7) == 0
    assert gini([0, 0, 0, 9]) == 0.75
    assert gini([3]) == 0
    assert gini([1, 1]) < gini([1, 1, 0])
    assert math.isnan(gini([0, 0]))
    assert math.isnan(gini([]))


def test_coverage() -> None:
    """The part of the catalogue that was shown; repeats and what is not in the catalogue do not count."""
    assert coverage([1, 1, 2], [1, 2, 3, 4]) == 0.5
    assert coverage([1, 1, 2, 9], [1, 2, 3, 4]) == 0.5
    assert coverage([1, 1, 2], 4) == 0.5
    assert coverage([], [1]) == 0
    assert math.isnan(coverage([], 0))
    assert math.isnan(coverage([1], []))
    with pytest.raises(DataError, match="found 1 for 2"):
        coverage([1, 2], 1)


@given(COUNTS)
def test_entropy_is_between_one_kind_and_all_alike(counts: list[int]) -> None:
    """Entropy is that of the shares, at most log n, and 0 to 1 when it is normalised."""
    shares = np.array(counts) / np.sum(counts)
    wanted = -sum(p * math.log(p) for p in shares if p)
    assert math.isclose(entropy(counts, normalised=False), wanted, abs_tol=1e-12)
    assert 0 <= entropy(counts) <= 1
    if len(counts) > 1:
        assert math.isclose(entropy(counts) * math.log(len(counts)), wanted, abs_tol=1e-9)


def test_entropy_at_its_ends() -> None:
    """All alike is 1, one kind is 0, also where it is the only one there is; nothing at all is not known."""
    assert entropy([2, 2, 2, 2]) == 1
    assert entropy([0, 5, 0]) == 0
    assert entropy([5]) == 0
    assert entropy([2, 2], normalised=False) == pytest.approx(math.log(2))
    assert math.isnan(entropy([0, 0]))
    assert math.isnan(entropy([]))


@pytest.mark.parametrize("bad", [[-1, 2], [math.nan], [math.inf, 1], [[1, 2]]])
def test_counts_that_are_none(bad: Any) -> None:
    """Negative, infinite and unknown counts are refused."""
    for measure in (gini, entropy):
        with pytest.raises(DataError, match="wanted a list of finite numbers of at least 0"):
            measure(bad)


def test_exposure_of_responses() -> None:
    """All measures of some rows, over the authors and groups that there are; unknown ones are left out."""
    found = exposure([7, 7, 3, -1], [0, 2, 2, -1], authors=[3, 5, 7, 9], groups=4)
    assert (found.shown, found.authors, found.groups) == (4, 2, 2)
    assert found.author_gini == gini([1, 0, 2, 0])
    assert found.author_coverage == 0.5
    assert found.author_entropy == entropy([1, 0, 2, 0])
    assert found.group_entropy == entropy([1, 0, 2, 0])
    assert exposure([7, 7, 3], authors=4).as_dict() == {
        "shown": 3,
        "authors": 2,
        "author_gini": gini([1, 2, 0, 0]),
        "author_coverage": 0.5,
        "author_entropy": entropy([1, 2, 0, 0]),
        "groups": 0,
        "group_entropy": None,
    }
    assert exposure([3, 7]).author_coverage == 1
    nothing = exposure([])
    assert nothing.shown == 0
    assert math.isnan(nothing.author_gini)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"group": [1]}, "wanted an author and a group a row"),
        ({"authors": [3]}, "author 7 was shown and is not among the 1 authors"),
        ({"authors": 1}, "wanted at least the 2 authors that were shown, found 1"),
        ({"group": [0, 5], "groups": 5}, "wanted group numbers below 5, found 5"),
    ],
)
def test_exposure_that_cannot_be(settings: Any, said: str) -> None:
    """What does not fit together is told."""
    with pytest.raises(DataError, match=said):
        exposure([3, 7], **settings)
