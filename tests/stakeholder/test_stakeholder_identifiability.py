"""What pairs cannot tell, in numbers and in words."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from stakeholder_preferences import FEW

from candidate_pipeline_stakeholder.fitting import fit_differences
from candidate_pipeline_stakeholder.identifiability import Identifiability, Moments, identify

NAMES = ("favorite", "reply", "share", "share_via_dm", "dwell")


def told(differences: NDArray[np.float64], names: tuple[str, ...] = NAMES) -> Identifiability:
    """What differences tell about as many features as they have columns."""
    count = len(differences)
    return identify(Moments.of(names[: differences.shape[1]], differences, np.full(count, 1 / count)))


def columns(count: int = 5, rows: int = 500) -> NDArray[np.float64]:
    """Differences of features that have nothing to do with each other."""
    return np.random.default_rng(0).normal(size=(rows, count))


def test_nothing_is_said_where_all_is_well() -> None:
    """Of independent features everything is identified, the condition is small, and there are no words."""
    found = told(columns())
    assert found.identified
    assert found.rank == 5
    assert found.condition < 1.3
    assert found.in_words() == ()
    assert found.unknown == ()


def test_features_that_move_together_are_named() -> None:
    """Two features with the same differences: only the sum of their weights is known, and the words say so."""
    differences = columns()
    differences[:, 3] = differences[:, 2]
    found = told(differences)
    assert found.rank == 4
    assert not found.identified
    assert found.unknown == ("share", "share_via_dm")
    assert found.in_words() == (
        "share and share_via_dm always move together in these pairs (correlation 1): "
        "only the sum of their weights is known",
        "these pairs determine 4 of 5 directions of the weights",
    )


def test_features_that_nearly_move_together_are_named() -> None:
    """At a correlation of .999 both weights are determined, but their sum much better, as standard errors show."""
    differences = columns(rows=4000)
    differences[:, 3] = differences[:, 2] + 0.045 * differences[:, 3]
    found = told(differences)
    assert found.identified
    assert found.groups[0].correlation == pytest.approx(0.999, abs=2e-4)
    assert found.in_words() == (
        "share and share_via_dm nearly always move together in these pairs (correlation .999): "
        "the sum of their weights is known much better than each alone",
    )
    flips = np.where(np.random.default_rng(1).random(4000) < 0.3, -1, 1)
    fitted = fit_differences(differences * flips[:, None], features=NAMES)
    of_sum = math.sqrt(fitted.covariance[2:4, 2:4].sum())
    assert fitted.standard_errors[2] > 10 * of_sum


@pytest.mark.parametrize(
    ("factor", "known"),
    [
        (-1.0, "only the difference of their weights is known"),
        (3.0, "only the combination share + 3·share_via_dm of their weights is known"),
        (-0.5, "only the combination share - 0.5·share_via_dm of their weights is known"),
    ],
)
def test_what_is_known_has_signs_and_sizes(factor: float, known: str) -> None:
    """Features that move against each other, or at another size, have another combination that is known."""
    differences = columns()
    differences[:, 3] = factor * differences[:, 2]
    assert known in told(differences).in_words()[0]


def test_constant_features_are_named() -> None:
    """Features that never differ are named, one or several, and counted as unknown."""
    differences = columns()
    differences[:, 1] = 0
    found = told(differences)
    assert found.constant == ("reply",)
    assert found.unknown == ("reply",)
    assert found.in_words()[0] == (
        "reply never differs between the two sides of a pair: its weight is unknown, and 0 here"
    )
    differences[:, 4] = 0
    assert told(differences).in_words()[0].startswith("reply and dwell never differ between")
    assert told(differences).rank == 3


def test_combinations_of_many_are_named() -> None:
    """Features that sum to nothing, such as shares of a whole, are told apart from pairs that move together."""
    differences = columns()
    differences[:, 2] = -differences[:, 0] - differences[:, 1]
    found = told(differences)
    assert found.groups == ()
    assert found.combinations[0].index == math.inf
    assert set(found.combinations[0].features) == {"favorite", "reply", "share"}
    assert "determine each other" in found.in_words()[0]
    differences[:, 2] += 0.01 * np.random.default_rng(1).normal(size=500)
    nearly = told(differences)
    assert nearly.identified
    assert 30 < nearly.combinations[0].index < 1000
    assert "nearly determine each other" in nearly.in_words()[0]


def test_several_exact_combinations_are_told_together() -> None:
    """Of two combinations at once any mixture is one too, so one sentence names all features."""
    rng = np.random.default_rng(0)
    hot = np.eye(4)[rng.integers(0, 4, 300)] - np.eye(4)[rng.integers(0, 4, 300)]
    more = np.eye(3)[rng.integers(0, 3, 300)] - np.eye(3)[rng.integers(0, 3, 300)]
    found = told(np.hstack([hot, more]), tuple("abcdefg"))
    assert found.rank == 5
    assert len([each for each in found.combinations if each.index == math.inf]) == 1
    assert set(found.combinations[0].features) == set("abcdefg")


def test_fewer_pairs_than_features() -> None:
    """Three pairs tell at most three directions of five."""
    found = told(columns(rows=3))
    assert found.rank == 3
    assert len(found.unknown) == 5


def test_one_pair_says_one_combination() -> None:
    """Of one pair all features move together, with names cut short where there are many."""
    found = told(columns(12, rows=1), tuple(f"x{place}" for place in range(12)))
    assert found.rank == 1
    assert "and 4 more always move together" in found.in_words()[0]
    assert "only one combination of their weights is known" in found.in_words()[0]


@pytest.mark.parametrize("width", [0, 3])
def test_no_information_at_all(width: int) -> None:
    """Without features all is identified; with features that never differ nothing is."""
    found = told(np.zeros((4, width)))
    assert found.rank == 0
    assert found.identified == (width == 0)
    assert json.dumps(found.as_dict())


@FEW
@given(st.integers(0, 2**32 - 1), st.lists(st.floats(-8, 8), min_size=5, max_size=5))
def test_units_do_not_matter(seed: int, powers: list[float]) -> None:
    """Features in other units have the same rank, condition and groups."""
    rng = np.random.default_rng(seed)
    differences = rng.normal(size=(60, 5))
    differences[:, 3] = differences[:, 2] + 1e-3 * rng.normal(size=60)
    one, other = told(differences), told(differences * 10.0 ** np.array(powers))
    assert one.rank == other.rank == 5
    assert other.condition == pytest.approx(one.condition, rel=1e-5)
    assert [each.features for each in one.groups] == [each.features for each in other.groups]


@FEW
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_the_rank_is_that_of_the_differences(seed: int, rank: int) -> None:
    """The rank is what a singular value decomposition says, and the null space moves no difference."""
    rng = np.random.default_rng(seed)
    differences = rng.normal(size=(40, rank)) @ rng.normal(size=(rank, 5))
    moments = Moments.of(NAMES, differences, np.full(40, 1 / 40))
    assert identify(moments).rank == np.linalg.matrix_rank(differences)
    null = moments.null_space()
    assert null.shape == (5, 5 - rank)
    np.testing.assert_allclose(differences @ null, 0, atol=1e-6)
    np.testing.assert_allclose(null.T @ null, np.eye(5 - rank), atol=1e-9)


def test_a_fit_carries_what_it_cannot_know() -> None:
    """The fit's words end with the identifiability's, and its standard errors are NaN for what is unknown."""
    differences = columns()
    differences[:, 3] = differences[:, 2]
    found = fit_differences(differences, features=NAMES)
    assert found.in_words()[1:] == found.identifiability.in_words()
    assert np.isnan(found.standard_errors).tolist() == [False, False, True, True, False]
    assert found.as_dict()["identifiability"]["unknown"] == ["share", "share_via_dm"]
    # the sum is known all the same, as well as if it were one feature
    one = fit_differences(differences[:, [0, 1, 2, 4]])
    assert found.weights[2] + found.weights[3] == pytest.approx(one.weights[2])
    assert math.sqrt(found.covariance[2:4, 2:4].sum()) == pytest.approx(one.standard_errors[2], rel=1e-6)


def test_what_is_undetermined_does_not_depend_on_units() -> None:
    """Of two features that are one, neither weight is known, nor has it an error, however far apart their units are."""
    rng = np.random.default_rng(1)
    first = rng.normal(size=300)
    differences = np.column_stack([first, 1e7 * first, rng.normal(size=300)])
    found = fit_differences(differences)
    assert found.converged
    assert found.identifiability.unknown == ("x0", "x1")
    assert np.isnan(found.standard_errors).tolist() == [True, True, False]


def test_a_known_combination_is_told_with_its_ratio() -> None:
    """Where one feature is 1.04 times another it is not the sum of their weights that is known."""
    first = np.random.default_rng(0).normal(size=100)
    (words,) = [line for line in told(np.column_stack([first, 1.04 * first])).in_words() if "always" in line]
    assert words.endswith("only the combination favorite + 1.04·reply of their weights is known")
