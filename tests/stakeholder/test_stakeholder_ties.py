"""Davidson's model: recovery, derivatives, and what remains where there are no ties or only ties."""

from __future__ import annotations

import json
import math

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stakeholder_preferences import FEW, judged

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.fitting import fit
from candidate_pipeline_stakeholder.pairs import Pairs
from candidate_pipeline_stakeholder.ties import Davidson, fit_ties

TRUE = np.array([2.0, -1.0, 0.5])


def test_weights_and_ties_are_recovered() -> None:
    """From 20,000 pairs weights and ν are within four standard errors of the truth, which are small."""
    found = fit_ties(judged(0, 20_000, TRUE, nu=0.8))
    assert found.converged
    assert found.gradient_norm <= 1e-8
    assert np.abs((found.weights - TRUE) / found.standard_errors).max() < 4
    assert abs(found.nu - 0.8) < 4 * found.nu_error
    assert found.nu_error < 0.03
    assert found.standard_errors.max() < 0.1


def test_standard_errors_are_the_spread_over_new_pairs() -> None:
    """Over 150 tables of new pairs the weights and ν spread as their standard errors say."""
    fits = [fit_ties(judged(seed, 300, TRUE, nu=1.0)) for seed in range(150)]
    spread = np.std([each.weights for each in fits], axis=0, ddof=1)
    np.testing.assert_allclose(spread, np.mean([each.standard_errors for each in fits], axis=0), rtol=0.2)
    assert np.std([each.nu for each in fits], ddof=1) == pytest.approx(
        np.mean([each.nu_error for each in fits]), rel=0.2
    )


def test_pairs_without_ties_are_bradley_terrys() -> None:
    """Without a tie ν is 0 and all else is the plain fit's."""
    pairs = judged(0, 300, TRUE)
    found, plain = fit_ties(pairs), fit(pairs)
    assert found.nu == 0
    assert math.isnan(found.nu_error)
    np.testing.assert_array_equal(found.weights, plain.weights)
    np.testing.assert_array_equal(found.standard_errors, plain.standard_errors)
    np.testing.assert_allclose(
        found.probabilities(np.ones((2, 3)), np.zeros((2, 3)))[:, 0],
        plain.probability(np.ones((2, 3)), np.zeros((2, 3))),
    )


def test_one_tie_changes_little() -> None:
    """Among thousands of decided pairs one tie makes ν small and leaves the weights where they were."""
    pairs = judged(0, 4000, TRUE)
    outcome = pairs.outcome.copy()
    outcome[0] = 0
    found = fit_ties(attrs.evolve(pairs, outcome=outcome))
    assert 0 < found.nu < 2e-3
    np.testing.assert_allclose(found.weights, fit(pairs).weights, atol=5e-3)


@FEW
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.floats(-3, 2))
def test_derivatives_are_exact(weights: list[float], log_nu: float) -> None:
    """Gradient and Hessian are what central differences say."""
    pairs = judged(0, 40, TRUE, nu=1.0)
    model = Davidson((pairs.left - pairs.right) / 2, pairs.outcome.astype(float), np.full(40, 1 / 40), 0.01)
    point, step = np.array([*weights, log_nu]), 1e-6
    for place, each in enumerate(np.eye(4)):
        up, down = (model.value_and_gradient(point + sign * step * each) for sign in (1, -1))
        value, gradient = model.value_and_gradient(point)
        assert gradient[place] == pytest.approx((up[0] - down[0]) / (2 * step), abs=1e-7)
        np.testing.assert_allclose(model.hessian(point)[place], (up[1] - down[1]) / (2 * step), atol=1e-7)
        assert math.isfinite(value)


@FEW
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 3))
def test_probabilities_are_davidsons(seed: int, nu: float) -> None:
    """The three probabilities sum to one, exchange with the sides, and tie at ν/(2 + ν) where utilities are equal."""
    found = attrs.evolve(fit_ties(judged(0, 200, TRUE, nu=1.0)), nu=nu)
    left, right = np.random.default_rng(seed).uniform(size=(2, 5, 3))
    one, other = found.probabilities(left, right), found.probabilities(right, left)
    np.testing.assert_allclose(one.sum(axis=1), 1)
    np.testing.assert_allclose(one, other[:, ::-1])
    np.testing.assert_allclose(found.probabilities(left, left)[:, 1], nu / (2 + nu))
    delta = (left - right) @ found.weights
    np.testing.assert_allclose(np.log(one[:, 0] / one[:, 2]), delta, atol=1e-10)


@FEW
@given(st.integers(0, 2**32 - 1))
def test_invariances_hold_with_ties(seed: int) -> None:
    """Swapped sides, another order and doubled pairs as weight two give the same weights and ν."""
    pairs = judged(seed, 150, TRUE, nu=1.0)
    one = fit_ties(pairs)
    order = np.random.default_rng(seed).permutation(150)
    first = np.arange(150) < 40
    for other in (pairs.swapped(first), pairs.take(order)):
        found = fit_ties(other)
        np.testing.assert_allclose(found.weights, one.weights, rtol=1e-8, atol=1e-9)
        assert found.nu == pytest.approx(one.nu, rel=1e-8)
    twice = fit_ties(Pairs.concat([pairs, pairs.take(first)]))
    heavier = fit_ties(attrs.evolve(pairs, weight=np.where(first, 2.0, 1.0)))
    np.testing.assert_allclose(twice.weights, heavier.weights, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(twice.standard_errors, heavier.standard_errors, rtol=1e-6)


def test_a_start_changes_nothing() -> None:
    """The likelihood is convex in weights and log ν, so any start ends at the same place."""
    pairs = judged(0, 400, TRUE, nu=0.5)
    one, far = fit_ties(pairs), fit_ties(pairs, start=[30.0, -40.0, 50.0])
    np.testing.assert_allclose(far.weights, one.weights, rtol=1e-8)
    assert far.nu == pytest.approx(one.nu, rel=1e-8)


def test_ties_that_fit_a_direction_leave_no_optimum() -> None:
    """Where clear differences are all decided one way and none are ties, there is no optimum; a ridge helps."""
    left = np.array([[1.0], [0.8], [0.0], [0.0]])
    pairs = Pairs.of(["a"], left, np.zeros((4, 1)), [1, 1, 0, 0])
    found = fit_ties(pairs)
    assert found.separable
    assert not found.converged
    assert np.linalg.norm(found.weights) == pytest.approx(1)
    assert "ridge" in found.in_words()[0]
    assert json.dumps(found.as_dict(), allow_nan=False)
    assert fit_ties(pairs, l2=1e-2).converged
    # a tie in spite of a difference, and a preference without one, contradict it
    more = Pairs.of(["a"], [[0.9], [0.0]], [[0.0], [0.0]], [0, 1])
    assert fit_ties(Pairs.concat([pairs, more])).converged


def test_only_ties_say_nothing() -> None:
    """A table of ties, or of nothing, is refused."""
    with pytest.raises(DataError, match="all 3 pairs are ties"):
        fit_ties(Pairs.of(["a"], [[1.0]] * 3, [[0.0]] * 3, [0, 0, 0]))
    with pytest.raises(DataError, match="at least one pair"):
        fit_ties(judged(0, 5, TRUE).take([]))
    with pytest.raises(DataError, match="l2"):
        fit_ties(judged(0, 5, TRUE), l2=-1)


def test_features_that_move_together_and_constant_ones() -> None:
    """With ties, too, weights that pairs do not determine have no standard error, and the words name them."""
    pairs = judged(0, 500, TRUE, nu=1.0)
    left, right = pairs.left.copy(), pairs.right.copy()
    left[:, 1], right[:, 1] = left[:, 0], right[:, 0]
    left[:, 2] = right[:, 2]
    found = fit_ties(attrs.evolve(pairs, left=left, right=right))
    assert found.converged
    assert np.isnan(found.standard_errors).all()
    assert found.weights[0] == pytest.approx(found.weights[1])
    assert found.weights[2] == pytest.approx(0, abs=1e-12)
    assert any("only the sum" in each for each in found.in_words())
    assert json.dumps(found.as_dict(), allow_nan=False)
