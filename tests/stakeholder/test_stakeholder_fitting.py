"""Fitting: what it converges to, what must not change it, and what it says where there is no answer."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from stakeholder_preferences import ACTIONS, FEW, judged, preferences

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.existence import certainly_exists, separating
from candidate_pipeline_stakeholder.fitting import Prior, fit, fit_differences
from candidate_pipeline_stakeholder.losses import (
    NEGATIVE,
    BradleyTerry,
    Calibrated,
    Comparisons,
    Constrained,
    Loss,
    Margin,
)
from candidate_pipeline_stakeholder.pairs import Pairs

TRUE = np.array([1.0, -2.0, 0.5, 3.0, 1.0, -3.0, 2.0, 4.0, 5.0])
"""Weights of which some negative features are above their bound, so that hinges have something to do."""


def actions(seed: int = 0, count: int = 600) -> Pairs:
    """Pairs of the actions that all losses know."""
    return judged(seed, count, TRUE, features=ACTIONS)


def test_one_feature_has_a_closed_form() -> None:
    """Of items that differ by one, three of four preferring the larger gives log 3, to the last digits."""
    found = fit_differences([[1.0], [1.0], [1.0], [-1.0]])
    assert found.weights[0] == pytest.approx(math.log(3), abs=1e-14)
    assert found.standard_errors[0] == pytest.approx(1 / math.sqrt(4 * 0.75 * 0.25), rel=1e-12)
    assert found.objective == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert found.converged
    assert not found.separable
    assert found.gradient_norm < 1e-12


def test_true_weights_are_recovered() -> None:
    """From 20,000 pairs every weight is within four standard errors of the truth, and the errors are a tenth or so."""
    found = fit(actions(count=20_000))
    assert np.abs((found.weights - TRUE) / found.standard_errors).max() < 4
    assert found.standard_errors.max() < 0.2
    assert found.probability(np.ones((1, 9)), np.zeros((1, 9)))[0] == pytest.approx(
        1 / (1 + math.exp(-found.weights.sum()))
    )
    assert found.weight("reply") == found.weights[ACTIONS.index("reply")]


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_within_the_tolerance(seed: int) -> None:
    """What is called converged has a gradient of 1e-8 at most, recomputed here."""
    pairs = actions(seed)
    found = fit(pairs)
    gradient = BradleyTerry().value_and_gradient(found.weights, Comparisons.of(pairs))[1]
    assert found.converged
    assert np.abs(gradient).max() <= 1e-8
    assert found.gradient_norm == pytest.approx(np.abs(gradient).max(), abs=1e-15)


@FEW
@given(preferences(), st.data())
def test_swapped_sides_give_the_same_fit(pairs: Pairs, data: st.DataObject) -> None:
    """A pair told from the other side, outcome and all, changes no bit of the weights."""
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs))))
    np.testing.assert_array_equal(fit(pairs.swapped(mask)).weights, fit(pairs).weights)


def reverse(pairs: Pairs) -> Pairs:
    """The sides exchanged and the outcome left: the opposite preferences."""
    return attrs.evolve(pairs, left=pairs.right, right=pairs.left)


@FEW
@given(preferences(), st.integers(0, 2**32 - 1))
def test_exchanged_sides_alone_flip_the_gradient(pairs: Pairs, seed: int) -> None:
    """Sides exchanged under the same outcome: each pair's gradient at w is minus its gradient at -w.

    So at w = 0 it flips, bit for bit, and so do the weights that are learned.
    """
    point = np.random.default_rng(seed).normal(size=len(pairs.features))
    data, opposite = Comparisons.of(pairs), Comparisons.of(reverse(pairs))
    loss, nothing = BradleyTerry(), np.zeros(len(point))
    np.testing.assert_array_equal(loss.scores(nothing, opposite), -loss.scores(nothing, data))
    np.testing.assert_array_equal(loss.scores(point, opposite), -loss.scores(-point, data))
    np.testing.assert_allclose(fit(reverse(pairs)).weights, -fit(pairs).weights, rtol=1e-9, atol=1e-9)


@FEW
@given(preferences())
def test_a_doubled_pair_is_a_pair_of_weight_two(pairs: Pairs) -> None:
    """Having the first pairs twice and having them at twice the weight is the same, standard errors included."""
    first = np.arange(len(pairs)) < len(pairs) // 2
    twice = Pairs.concat([pairs, pairs.take(first)])
    heavier = attrs.evolve(pairs, weight=np.where(first, 2, 1) * pairs.weight)
    one, other = fit(twice), fit(heavier)
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(one.standard_errors, other.standard_errors, rtol=1e-7)


@FEW
@given(preferences(), st.randoms(use_true_random=False))
def test_order_does_not_matter(pairs: Pairs, random: Any) -> None:
    """Pairs in another order, and features in another order, give the same weights."""
    rows = list(range(len(pairs)))
    random.shuffle(rows)
    one = fit(pairs)
    np.testing.assert_allclose(fit(pairs.take(rows)).weights, one.weights, rtol=1e-9, atol=1e-10)
    columns = list(range(len(pairs.features)))
    random.shuffle(columns)
    turned = fit_differences(pairs.differences()[:, columns], weight=pairs.weight)
    np.testing.assert_allclose(turned.weights, one.weights[columns], rtol=1e-9, atol=1e-10)


@FEW
@given(preferences(), st.floats(-8, 8))
def test_scaled_features_scale_weights_back(pairs: Pairs, power: float) -> None:
    """Features times c have weights over c, where there is no ridge; converging does not depend on units."""
    scale = 10.0**power
    one, other = fit(pairs), fit_differences(pairs.differences() * scale, weight=pairs.weight)
    assert other.converged
    np.testing.assert_allclose(other.weights * scale, one.weights, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(other.standard_errors * scale, one.standard_errors, rtol=1e-6)


@FEW
@given(preferences(), st.floats(0.01, 100))
def test_the_unit_of_weights_of_pairs_does_not_matter(pairs: Pairs, factor: float) -> None:
    """Weights of pairs times c change no weight of a feature, and divide standard errors by √c: they are counts."""
    heavier = attrs.evolve(pairs, weight=pairs.weight * factor)
    one, other = fit(pairs), fit(heavier)
    np.testing.assert_allclose(other.weights, one.weights, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(other.standard_errors * math.sqrt(factor), one.standard_errors, rtol=1e-8)


@pytest.mark.parametrize(
    "loss", [BradleyTerry(), Margin(0.5), Constrained(5), Constrained(0.2)], ids=lambda loss: loss.name
)
@pytest.mark.parametrize("l2", [0.0, 1e-3])
def test_a_start_changes_nothing_for_convex_losses(loss: Loss, l2: float) -> None:
    """From zero, from near and from far a convex loss ends at the same weights."""
    pairs, rng = actions(), np.random.default_rng(1)
    ends = [fit(pairs, loss=loss, l2=l2, start=start).weights for start in (None, TRUE, 100 * rng.normal(size=9))]
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], rtol=1e-8, atol=1e-8)


def test_a_start_changes_nothing_where_weights_are_not_determined() -> None:
    """Where two features are the same, the smallest weights are given from any start."""
    pairs = actions()
    differences = pairs.differences()[:, [0, 1, 1, 3, 3]]
    ends = [fit_differences(differences, start=start).weights for start in (None, [9, -5, 7, 3, 1])]
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-9)
    assert ends[0][1] == pytest.approx(ends[0][2], rel=1e-12)


def test_a_constant_feature_has_weight_zero() -> None:
    """A feature that never differs has weight 0 and no standard error; the others are as without it."""
    differences = actions().differences()[:, :3]
    without, with_it = fit_differences(differences), fit_differences(np.insert(differences, 1, 0.0, axis=1))
    assert with_it.weights[1] == 0
    assert math.isnan(with_it.standard_errors[1])
    np.testing.assert_allclose(with_it.weights[[0, 2, 3]], without.weights, rtol=1e-9)
    np.testing.assert_allclose(with_it.standard_errors[[0, 2, 3]], without.standard_errors, rtol=1e-6)


def test_a_ridge_is_added_to_the_mean() -> None:
    """The ridge's objective is the mean loss plus l2·‖w‖², and weights shrink as it grows."""
    pairs = actions()
    ends = [fit(pairs, l2=l2) for l2 in (0.0, 1e-4, 1e-3, 1e-2, 1.0)]
    norms = [float(np.linalg.norm(each.weights)) for each in ends]
    assert norms == sorted(norms, reverse=True)
    mean = BradleyTerry().value_and_gradient(ends[2].weights, Comparisons.of(pairs))[0]
    assert ends[2].objective == pytest.approx(mean + 1e-3 * norms[2] ** 2, rel=1e-12)


def test_a_prior_weighs_less_with_more_pairs() -> None:
    """A prior counts once however many pairs there are; a sure one decides, a flat one says nothing."""
    few, many = actions(count=200), actions(count=5000)
    prior = Prior(0.0, 4.0)
    shrunk = [float(np.linalg.norm(fit(pairs, prior=prior).weights - fit(pairs).weights)) / 9 for pairs in (few, many)]
    assert shrunk[0] > 3 * shrunk[1]
    np.testing.assert_allclose(fit(few, prior=Prior(np.arange(9.0), 1e9)).weights, np.arange(9), atol=1e-5)
    np.testing.assert_allclose(fit(few, prior=Prior(5.0, 0.0)).weights, fit(few).weights, rtol=1e-9)
    ridge = fit(few, l2=2.0 / few.weight.sum())
    np.testing.assert_allclose(fit(few, prior=prior).weights, ridge.weights, rtol=1e-9)


def test_a_prior_on_some_features_leaves_the_rest_to_the_pairs() -> None:
    """Separable but for one feature: a prior on that one leaves no optimum, on the others it makes one."""
    rng = np.random.default_rng(0)
    ahead = np.column_stack([rng.uniform(0.1, 1, 50), rng.normal(size=50)])
    assert fit_differences(ahead).separable
    assert fit_differences(ahead, prior=Prior(0.0, [0.0, 1.0])).separable
    held = fit_differences(ahead, prior=Prior(0.0, [1.0, 0.0]))
    assert held.converged
    assert not held.separable


@pytest.mark.parametrize(
    ("mean", "precision", "said"),
    [(0, -1, "0 or more"), (math.nan, 1, "finite"), (0, math.inf, "finite"), ([0, 0], 1, "2"), (0, [1, 1, 1], "3")],
)
def test_priors_are_checked(mean: Any, precision: Any, said: str) -> None:
    """A prior's numbers must be finite, its precisions not negative, and as many as features."""
    with pytest.raises(DataError, match=said):
        fit(actions(), prior=Prior(mean, precision))


def test_pairs_that_agree_have_no_optimum() -> None:
    """Of separable pairs the fit says so in words and gives a direction of length one, never a huge vector."""
    pairs = judged(0, 50, [200.0, -100.0, 50.0])
    found = fit(pairs)
    assert found.separable
    assert not found.converged
    assert np.linalg.norm(found.weights) == pytest.approx(1)
    assert (pairs.differences() @ found.weights > 0).all()
    assert np.isnan(found.standard_errors).all()
    assert math.isnan(found.objective)
    assert "--l2 0.001" in found.in_words()[0]
    assert "every preferred item ahead" in found.in_words()[1]
    with_ridge = fit(pairs, l2=1e-3)
    assert with_ridge.converged
    assert not with_ridge.separable
    assert json.dumps(found.as_dict(), allow_nan=False)


def test_quasi_separable_pairs_have_no_optimum() -> None:
    """One feature on which nobody disagrees is enough, however much they disagree on the others."""
    rng = np.random.default_rng(0)
    noisy = np.column_stack([np.zeros(400), rng.normal(size=400)])
    found = fit_differences(np.vstack([noisy, [1.0, 0.0]]))
    assert found.separable
    assert not found.converged
    assert "others level" in found.in_words()[1]
    assert not fit_differences(np.vstack([noisy, [1.0, 0.0], [-1.0, 0.1]])).separable


@pytest.mark.parametrize("loss", [BradleyTerry(), Margin(0.3)], ids=lambda loss: loss.name)
@FEW
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 16), st.booleans())
def test_separability_is_what_a_full_linear_program_says(
    loss: Loss, seed: int, features: int, count: int, agreed: bool
) -> None:
    """With whole numbers, where quasi-separation is common, the verdict is that of a program over all pairs."""
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    differences = rng.integers(-2, 3, (count, features)).astype(float)
    if agreed:
        sign = np.sign(differences @ rng.integers(-2, 3, features))
        differences *= np.where(sign < 0, -1, 1)[:, None]
    whole = linprog(
        -differences.sum(axis=0), A_ub=-differences, b_ub=np.zeros(count), bounds=[(-1, 1)] * features, method="highs"
    )
    found = fit_differences(differences, loss=loss, errors="none")
    assert found.separable == (whole.fun is not None and whole.fun < -1e-6)
    assert found.converged != found.separable


def test_the_program_adds_the_rows_it_violates() -> None:
    """With many more rows than the program starts with, the direction violates none, and one flipped row ends it."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(5000, 4))
    truth = np.array([1.0, -1.0, 0.5, 0.2])
    rows *= np.sign(rows @ truth)[:, None]
    found = separating(rows, np.eye(4))
    assert found is not None
    assert (rows @ found >= -1e-9).all()
    rows[np.argmax(rows @ truth)] *= -1
    assert separating(rows, np.eye(4)) is None


def test_rows_that_cancel_do_not_separate() -> None:
    """Every row with its opposite leaves no direction, nor do no rows, nor rows of zeros."""
    rows = np.random.default_rng(0).normal(size=(10, 2))
    assert separating(np.vstack([rows, -rows]), np.eye(2)) is None
    assert separating(np.zeros((4, 2)), np.eye(2)) is None
    assert separating(np.zeros((0, 2)), np.eye(2)) is None


def test_the_proof_is_silent_where_there_is_nothing_to_prove() -> None:
    """Of no rows, of rows of zeros and of slopes within rounding the quick proof says nothing."""
    gram, scale, gradient = np.eye(2), np.ones(2), np.zeros(2)
    assert not certainly_exists(np.zeros((0, 2)), gram, scale, gradient, np.zeros(0))
    assert not certainly_exists(np.zeros((3, 2)), 0 * gram, scale, gradient, np.ones(3))
    assert not certainly_exists(np.ones((3, 2)), gram, scale, gradient, np.full(3, 1e-18))
    assert certainly_exists(np.ones((3, 2)), gram, scale, gradient, np.ones(3))
    assert not certainly_exists(np.ones((3, 2)), gram, scale, np.ones(2), np.full(3, 0.1))


def slow_hinges(pairs: Pairs, strength: float, l2: float) -> float:
    """The constrained minimum by splitting each negative weight into what is above the kink and what is below."""
    from scipy import optimize

    data, plain, count = Comparisons.of(pairs), BradleyTerry(), len(NEGATIVE)
    rest = len(pairs.features) - count

    def objective(parts: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        above, below = parts[rest : rest + count], parts[rest + count :]
        weights = np.concatenate([parts[:rest], above - below - 0.1])
        value, gradient = plain.value_and_gradient(weights, data)
        gradient = gradient + 2 * l2 * weights
        each = strength / count
        total = value + l2 * float(weights @ weights) + each * float(above.sum())
        return total, np.concatenate([gradient[:rest], gradient[rest:] + each, -gradient[rest:]])

    search: Any = optimize.minimize
    bounds = [(None, None)] * rest + [(0, None)] * (2 * count)
    options = {"maxiter": 20_000, "maxfun": 50_000, "ftol": 1e-15, "gtol": 1e-10}
    found = search(
        objective, np.full(rest + 2 * count, 0.1), jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    return float(found.fun)


@pytest.mark.parametrize("l2", [0.0, 1e-3])
@pytest.mark.parametrize("strength", [0.02, 0.2, 1.0, 5.0, 100.0])
def test_hinges_reach_the_global_minimum(strength: float, l2: float) -> None:
    """With the hinges the fit is at least as good as a slow search, and its smallest subgradient vanishes."""
    pairs = actions()
    found = fit(pairs, loss=Constrained(strength), l2=l2)
    assert found.converged
    assert found.convex
    assert found.gradient_norm <= 1e-8
    assert found.objective <= slow_hinges(pairs, strength, l2) + 1e-10


def test_a_strong_penalty_holds_weights_at_the_kink() -> None:
    """Under a penalty no pair outweighs, weights that wanted to be larger are -.1 exactly, without standard error."""
    found = fit(actions(), loss=Constrained(100))
    held = found.weights == -0.1
    assert [name for name, at in zip(ACTIONS, held, strict=True) if at] == ["mute_author", "report", "not_interested"]
    np.testing.assert_array_equal(np.isnan(found.standard_errors), held)
    assert found.errors == "sandwich"


def test_separable_pairs_under_hinges() -> None:
    """A direction that the penalty does not forbid leaves no optimum; one that it does forbid leaves one."""
    rng = np.random.default_rng(0)
    features = ("other", *NEGATIVE)
    ahead = rng.normal(size=(60, 5))
    ahead[:, 1] = rng.uniform(0.1, 1, 60)
    assert fit_differences(ahead, features=features, loss=Constrained(1)).converged
    ahead[:, 1] *= -1
    assert fit_differences(ahead, features=features, loss=Constrained(1)).separable


def test_a_spread_that_is_there_already_costs_nothing() -> None:
    """Where the plain weights spread enough, the penalised fit is the plain one, and says it is the global one."""
    plain, found = fit(actions()), fit(actions(), loss=Constrained(50, penalty="spread"))
    np.testing.assert_allclose(found.weights, plain.weights, rtol=1e-9)
    assert found.converged
    assert any("global optimum" in each for each in found.notes)


@pytest.mark.parametrize("strength", [0.001, 0.05, 50.0])
def test_a_spread_is_reached_or_paid_for(strength: float) -> None:
    """Where they do not, the weights end on the bound or pay within it, better than the plain ones, and say so."""
    pairs = judged(0, 400, 0.05 * TRUE, features=ACTIONS)
    loss = Constrained(strength, penalty="spread", bound=2.0)
    plain, found = fit(pairs), fit(pairs, loss=loss)
    data = Comparisons.of(pairs)
    assert found.converged
    assert not found.convex
    assert found.objective <= loss.value_and_gradient(plain.weights, data)[0] + 1e-12
    assert found.objective == pytest.approx(loss.value_and_gradient(found.weights, data)[0], abs=1e-9)
    assert float(found.weights.std()) <= 2.0 + 1e-9
    if strength == 50:
        assert float(found.weights.std()) == pytest.approx(2.0, abs=1e-9)
    assert any("not convex" in each for each in found.notes)
    assert np.isnan(found.standard_errors).all()


@pytest.mark.parametrize("penalty", ["negatives", "spread", "none"])
def test_penalties_do_not_hide_separable_pairs(penalty: Any) -> None:
    """Where no penalty stands against the direction, a constrained fit of separable pairs says so, with length one."""
    pairs = judged(0, 40, np.repeat([200.0, -200.0], [5, 4]), features=ACTIONS)
    found = fit(pairs, loss=Constrained(0.5, penalty=penalty))
    assert found.separable
    assert not found.converged
    assert np.linalg.norm(found.weights) == pytest.approx(1)
    assert fit(pairs, loss=Constrained(0.5, penalty=penalty), l2=1e-3).converged


def test_a_spread_from_weights_of_nothing() -> None:
    """Pairs whose plain optimum is w = 0, where the penalty has no gradient, still end with a number everywhere."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(40, 9))
    found = fit_differences(np.vstack([half, -half]), features=ACTIONS, loss=Constrained(5, penalty="spread"))
    assert np.isfinite(found.weights).all()
    assert math.isfinite(found.objective)
    assert found.converged
    assert float(found.weights.std()) == pytest.approx(0.3)


def test_the_calibrated_loss_says_that_it_is_not_convex() -> None:
    """The calibrated fit is stationary, no worse than from the plain optimum or from zero, and says what is unsure."""
    pairs, loss = judged(0, 800, np.repeat([1.0, -1.0], [5, 4]), features=ACTIONS), Calibrated(1.0)
    found = fit(pairs, loss=loss)
    data = Comparisons.of(pairs)
    assert found.converged
    assert not found.convex
    assert found.errors == "sandwich"
    assert any("not convex" in each for each in found.notes)
    assert np.abs(loss.value_and_gradient(found.weights, data)[1]).max() <= 1e-8
    assert found.objective <= loss.value_and_gradient(fit(pairs).weights, data)[0]
    assert found.objective <= loss.value_and_gradient(np.zeros(9), data)[0]
    np.testing.assert_allclose(fit(pairs, loss=Calibrated(0)).weights, fit(pairs).weights, rtol=1e-9)


def test_losses_point_the_same_way() -> None:
    """On pairs with a preference to find, all losses' weights have a cosine over .9 with Bradley–Terry's."""
    pairs = judged(0, 4000, np.repeat([2.0, -2.0], [5, 4]), features=ACTIONS)
    plain = fit(pairs).weights
    for loss in (Margin(0.5), Calibrated(0.5), Constrained(5), Constrained(5, penalty="spread")):
        weights = fit(pairs, loss=loss).weights
        assert weights @ plain / np.linalg.norm(weights) / np.linalg.norm(plain) > 0.9


def test_nearly_separable_pairs_converge() -> None:
    """One pair against a thousand that agree is enough for an optimum, and it is found."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1000, 5))
    rows *= np.sign(rows @ np.arange(1, 6))[:, None]
    rows[17] *= -1
    found = fit_differences(rows)
    assert found.converged
    assert not found.separable
    assert np.linalg.norm(found.weights) > 10


def test_a_million_to_one_is_an_answer() -> None:
    """Weights of pairs far apart are no reason to fail: log of the odds it is."""
    found = fit_differences([[1.0], [-1.0]], weight=[1e6, 1.0])
    assert found.weights[0] == pytest.approx(math.log(1e6), rel=1e-10)


@pytest.mark.parametrize("shape", [(5, 0), (5, 3)])
def test_nothing_to_learn_is_zero(shape: tuple[int, int]) -> None:
    """Without features, or where no feature ever differs, the weights are zero and the loss log 2."""
    found = fit_differences(np.zeros(shape))
    assert found.weights.tolist() == [0.0] * shape[1]
    assert found.objective == pytest.approx(math.log(2))
    assert found.converged
    assert not found.separable
    assert np.isnan(found.standard_errors).all()


def test_one_pair_has_no_optimum() -> None:
    """A single preference is separable: any weights on its side can only be larger."""
    found = fit_differences([[0.3, -0.2]])
    assert found.separable
    np.testing.assert_allclose(found.weights, np.array([0.3, -0.2]) / np.hypot(0.3, 0.2))


@pytest.mark.parametrize(
    ("differences", "settings", "said"),
    [
        ([], {}, "at least one pair"),
        (np.zeros((0, 2)), {}, "at least one pair"),
        ([1.0, 2.0], {}, "shape"),
        ([["a"]], {}, "as numbers"),
        ([[1.0], [np.nan]], {}, "row 1"),
        ([[1.0], [np.inf]], {}, "row 1"),
        ([[3e9]], {}, "at most"),
        ([[1.0]], {"weight": [1, 1]}, "1 weights"),
        ([[1.0]], {"weight": [0]}, "over 0"),
        ([[1.0]], {"weight": [-1]}, "over 0"),
        ([[1.0]], {"weight": [np.nan]}, "over 0"),
        ([[1.0]], {"features": ["a", "b"]}, "1 different names"),
        ([[1.0, 2.0]], {"features": ["a", "a"]}, "2 different names"),
        ([[1.0]], {"l2": -1}, "l2"),
        ([[1.0]], {"l2": np.nan}, "l2"),
        ([[1.0]], {"tolerance": 0}, "tolerance"),
        ([[1.0]], {"max_iterations": 0}, "iteration"),
        ([[1.0]], {"start": [1, 2]}, "to start from"),
        ([[1.0]], {"start": [np.nan]}, "to start from"),
        ([[1.0]], {"loss": Calibrated(1)}, "differences only"),
        ([[1.0]], {"loss": Constrained(1)}, "negative features"),
    ],
)
def test_what_cannot_be_fitted_is_refused(differences: Any, settings: dict[str, Any], said: str) -> None:
    """Every argument out of range is refused by name."""
    with pytest.raises(DataError, match=said):
        fit_differences(differences, **settings)


def test_ties_and_empty_tables_are_refused() -> None:
    """Pairs with ties need their own model, and a fit needs pairs."""
    with pytest.raises(DataError, match="fit_ties"):
        fit(judged(0, 50, [1.0], nu=1.0))
    with pytest.raises(DataError, match="at least one pair"):
        fit(actions().take([]))
    with pytest.raises(DataError, match="no feature 'quote'"):
        fit(actions()).weight("quote")


def test_a_fit_can_be_written_down() -> None:
    """What a fit says of itself is JSON without NaN, with names beside numbers."""
    found = fit(actions(), l2=1e-3, prior=Prior(0.0, 1.0))
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told["weights"]["report"] == found.weight("report")
    assert told["converged"] is True
    assert told["gradient_norm"] <= 1e-8
    assert told["loss"] == "Bradley–Terry"
    assert told["prior"] == {"mean": 0.0, "precision": 1.0}
    assert told["words"][0].startswith("converged")


def test_too_few_steps_are_admitted() -> None:
    """A search cut short says that it did not converge, and how far it got."""
    found = fit(judged(0, 400, [6.0, -4.0]), max_iterations=1)
    assert found.gradient_norm > found.tolerance
    assert not found.converged
    assert found.in_words()[0].startswith("not converged")
    assert found.iterations == 1


@FEW
@given(st.integers(0, 2**32 - 1))
def test_every_fit_converges_or_says_why(seed: int) -> None:
    """Of any pairs, badly scaled and few, the fit converges or there is no optimum."""
    rng = np.random.default_rng(seed)
    count, features = int(rng.integers(1, 60)), int(rng.integers(1, 8))
    differences = rng.normal(size=(count, features)) * 10.0 ** rng.uniform(-6, 6, features)
    assume(np.abs(differences).max() < 1e9)
    found = fit_differences(differences, weight=10.0 ** rng.uniform(-3, 3, count))
    assert found.converged != found.separable
    assert np.isfinite(found.weights).all()


def test_importing_is_light() -> None:
    """The modules of fitting can be imported without scipy, which comes with the first fit."""
    code = (
        "import sys; from candidate_pipeline_stakeholder import pairs, losses, fitting, ties, raters, uncertainty; "
        "print([name for name in ('scipy', 'matplotlib', 'pyarrow', 'jax') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@FEW
@given(st.integers(0, 2**20), st.booleans())
def test_the_direction_of_separable_pairs_is_contradicted_nowhere(seed: int, scaled: bool) -> None:
    """Quasi-separable pairs too get a direction along which no preferred item falls behind and some come ahead."""
    rng = np.random.default_rng(seed)
    differences = rng.integers(-2, 3, (6, 3)).astype(float) * (np.array([1e-6, 1.0, 1e6]) if scaled else 1.0)
    found = fit_differences(differences)
    assume(found.separable)
    assert np.linalg.norm(found.weights) == pytest.approx(1)
    ahead = differences @ found.weights / (np.abs(differences).max(axis=0) @ np.abs(found.weights))
    assert ahead.min() > -1e-8
    assert ahead.max() > 1e-7


def test_weights_of_very_different_sizes_are_fitted_to_the_tolerance() -> None:
    """Pairs that count a billion times as much as others need more than whole steps of Newton's at the end."""
    differences = np.array([[0.0], [-1.0], [2.0], [0.0], [2.0], [0.004], [1.0], [2.0]])
    weight = np.array([0.01, 1e-5, 100, 100, 1e5, 1, 10, 1e4])
    found = fit_differences(differences, weight=weight)
    assert found.converged
    slopes = -weight / (1 + np.exp(differences[:, 0] * found.weights[0])) * differences[:, 0]
    assert abs(slopes.sum() / weight.sum()) < 2e-8  # the tolerance, times the size of the differences
