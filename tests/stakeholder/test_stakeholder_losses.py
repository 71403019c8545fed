"""The losses: their values by hand, their derivatives against differences, and what happens at kinks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from stakeholder_preferences import ACTIONS, FEW, judged

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.losses import (
    NEGATIVE,
    BradleyTerry,
    Calibrated,
    Comparisons,
    Constrained,
    Loss,
    Margin,
    logistic,
)
from candidate_pipeline_stakeholder.pairs import Pairs

LOSSES: list[Loss] = [
    BradleyTerry(),
    Margin(0.5),
    Margin(-0.2, temperature=1.0),
    Calibrated(0.7),
    Constrained(2.5),
    Constrained(2.5, penalty="spread", bound=5.0),
    Constrained(2.5, penalty="none"),
]
NAMES = [loss.name + str(place) for place, loss in enumerate(LOSSES)]

points = st.lists(st.floats(-3, 3), min_size=len(ACTIONS), max_size=len(ACTIONS)).map(np.array)


def comparisons(seed: int = 0, count: int = 30) -> Comparisons:
    """Pairs with weights, as a loss sees them."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=len(ACTIONS))
    return Comparisons.of(judged(seed, count, weights, features=ACTIONS, weight=rng.uniform(0.5, 2, count)))


def slopes_of(loss: Loss, point: NDArray[np.float64], data: Comparisons, step: float = 1e-6) -> NDArray[np.float64]:
    """The gradient by central differences."""
    ends = [point + step * each for each in np.eye(len(point))], [point - step * each for each in np.eye(len(point))]
    up, down = ([loss.value_and_gradient(end, data)[0] for end in side] for side in ends)
    return np.asarray((np.array(up) - np.array(down)) / (2 * step))


def away_from_kinks(point: NDArray[np.float64], loss: Loss) -> NDArray[np.float64]:
    """The same point, moved off what has no derivative."""
    if isinstance(loss, Constrained):
        near = np.abs(point + loss.bound) < 1e-3
        point = np.where(near, point + 0.01, point)
        if abs(point.std() - loss.bound) < 1e-3 or point.std() < 1e-2:
            point = point + np.linspace(-1, 1, len(point))
    return point


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@FEW
@given(point=points)
def test_gradients_are_exact(loss: Loss, point: NDArray[np.float64]) -> None:
    """Away from kinks every loss's gradient is what central differences of its value say."""
    data, point = comparisons(), away_from_kinks(point, loss)
    np.testing.assert_allclose(loss.value_and_gradient(point, data)[1], slopes_of(loss, point, data), atol=2e-7)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@FEW
@given(point=points)
def test_second_derivatives_are_exact(loss: Loss, point: NDArray[np.float64]) -> None:
    """Away from kinks every loss's Hessian is what central differences of its gradient say, and symmetric."""
    data, point, step = comparisons(), away_from_kinks(point, loss), 1e-5
    columns = [
        (loss.value_and_gradient(point + step * each, data)[1] - loss.value_and_gradient(point - step * each, data)[1])
        / (2 * step)
        for each in np.eye(len(point))
    ]
    hessian = loss.hessian(point, data)
    np.testing.assert_allclose(hessian, np.array(columns), atol=1e-5)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_scores_sum_to_the_gradient_of_the_pairs(loss: Loss) -> None:
    """The weighted sum of the pairs' own gradients is the whole gradient, less what a penalty adds."""
    data, point = comparisons(), np.linspace(-1, 1, len(ACTIONS))
    gradient = loss.value_and_gradient(point, data)[1]
    if isinstance(loss, Constrained):
        gradient = BradleyTerry().value_and_gradient(point, data)[1]
    np.testing.assert_allclose(data.weight @ loss.scores(point, data), gradient, atol=1e-12)


@pytest.mark.parametrize("loss", [each for each in LOSSES if each.convex], ids=lambda loss: loss.name)
@FEW
@given(first=points, second=points, share=st.floats(0, 1))
def test_convex_losses_lie_below_their_chords(
    loss: Loss, first: NDArray[np.float64], second: NDArray[np.float64], share: float
) -> None:
    """Between two points a convex loss is at most the line between their values."""
    data = comparisons()
    ends = share * loss.value_and_gradient(first, data)[0] + (1 - share) * loss.value_and_gradient(second, data)[0]
    assert loss.value_and_gradient(share * first + (1 - share) * second, data)[0] <= ends + 1e-9


def one(difference: float = 0.4) -> Comparisons:
    """A single pair of single features as a loss sees it."""
    return Comparisons.of(Pairs.of(["favorite"], [[0.5 + difference]], [[0.5]], [1]))


def test_values_by_hand() -> None:
    """Bradley–Terry, margin and calibrated of one pair are what their formulas say."""
    weights, delta = np.array([2.0]), 0.8
    assert BradleyTerry().value_and_gradient(weights, one())[0] == pytest.approx(math.log1p(math.exp(-delta)))
    softened = 0.1 * math.log1p(math.exp((1.0 - delta) / 0.1))
    assert Margin(1.0).value_and_gradient(weights, one())[0] == pytest.approx(softened)
    levels = [(1 / (1 + math.exp(-2 * p)) - min(1.0, p + 0.3)) ** 2 for p in (0.9, 0.5)]
    expected = math.log1p(math.exp(-delta)) + 3 * sum(levels)
    assert Calibrated(3, positive=("favorite",)).value_and_gradient(weights, one())[0] == pytest.approx(expected)


def test_penalties_by_hand() -> None:
    """Hinges are averaged over the negative features, and the spread is the population's standard deviation."""
    data = comparisons()
    plain = BradleyTerry().value_and_gradient
    point = np.zeros(len(ACTIONS))
    point[len(ACTIONS) - 4 :] = [-0.5, -0.1, 0.0, 0.3]
    hinges = Constrained(2.0).value_and_gradient(point, data)[0] - plain(point, data)[0]
    assert hinges == pytest.approx(2.0 * (0.1 + 0.4) / 4)
    spread = Constrained(2.0, penalty="spread", bound=1.0).value_and_gradient(point, data)[0] - plain(point, data)[0]
    assert spread == pytest.approx(2.0 * (1.0 - point.std()))


def test_the_margin_of_one_tends_to_a_hinge() -> None:
    """As the temperature falls the margin loss tends to max(0, m - Δ)."""
    values = [Margin(1.0, temperature=t).value_and_gradient(np.array([2.0]), one())[0] for t in (1, 0.1, 0.01, 0.001)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(0.2, abs=1e-9)


def test_a_margin_of_nothing_is_bradley_terry() -> None:
    """With m = 0 and τ = 1 the margin loss is Bradley–Terry to the bit."""
    data, point = comparisons(), np.linspace(-2, 2, len(ACTIONS))
    (value, gradient), (other, slope) = (
        loss.value_and_gradient(point, data) for loss in (Margin(0, temperature=1), BradleyTerry())
    )
    assert value == other
    np.testing.assert_array_equal(gradient, slope)


@pytest.mark.parametrize("level", [0.0, 0.7, -2.0])
def test_the_spreads_gradient_is_defined_where_all_weights_are_equal(level: float) -> None:
    """Where std(w) has no derivative, at w = 0 above all, its part of the gradient is 0 and nothing is NaN."""
    data, point = comparisons(), np.full(len(ACTIONS), level)
    loss = Constrained(50, penalty="spread")
    value, gradient = loss.value_and_gradient(point, data)
    np.testing.assert_array_equal(gradient, BradleyTerry().value_and_gradient(point, data)[1])
    assert math.isfinite(value)
    assert np.isfinite(loss.hessian(point, data)).all()


def test_a_fulfilled_penalty_changes_nothing() -> None:
    """At its bound and beyond, a penalty adds neither value nor gradient."""
    data = comparisons()
    point = np.zeros(len(ACTIONS))
    point[len(ACTIONS) - 4 :] = [-0.1, -0.2, -3.0, -0.1]
    for loss in (Constrained(9), Constrained(9, penalty="spread", bound=float(point.std()))):
        value, gradient = loss.value_and_gradient(point, data)
        assert value == BradleyTerry().value_and_gradient(point, data)[0]
        np.testing.assert_array_equal(gradient, BradleyTerry().value_and_gradient(point, data)[1])


def test_the_sigmoid_never_overflows() -> None:
    """Softplus and σ are right from -1e300 to 1e300, without a warning."""
    with np.errstate(all="raise", under="ignore"):
        softplus, sigma = logistic(np.array([-1e300, -50.0, 0.0, 50.0, 1e300]))
    np.testing.assert_allclose(softplus, [0, math.exp(-50), math.log(2), 50, 1e300], rtol=1e-12, atol=1e-100)
    np.testing.assert_allclose(sigma, [0, math.exp(-50), 0.5, 1, 1], atol=1e-100)


def test_losses_say_what_they_are() -> None:
    """Which losses are convex and which are likelihoods is stated, for settings that turn them into another, too."""
    assert [loss.convex for loss in LOSSES] == [True, True, True, False, True, False, True]
    assert [loss.likelihood for loss in LOSSES] == [True, False, False, False, False, False, True]
    assert Calibrated(0).convex
    assert Constrained(0, penalty="spread").convex
    assert all(isinstance(loss, Loss) for loss in LOSSES)
    assert len({loss.name for loss in LOSSES}) == len(LOSSES)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_strengths_below_zero_are_refused(value: float) -> None:
    """A penalty's strength must be a number of 0 or more, and a temperature over 0."""
    for loss in (Calibrated, Constrained):
        with pytest.raises(ValueError, match="strength"):
            loss(value)
    with pytest.raises(ValueError, match=r"temperature|finite"):
        Margin(0.1, temperature=value)


def test_losses_need_their_features() -> None:
    """The calibrated and the constrained loss say which features they miss, and calibrated needs both items."""
    data = Comparisons.of(judged(0, 5, [1.0, 1.0]))
    with pytest.raises(DataError, match="found favorite, repost"):
        Calibrated(1).check(data)
    with pytest.raises(DataError, match=f"found {', '.join(NEGATIVE)}"):
        Constrained(1).check(data)
    with pytest.raises(DataError, match="differences only"):
        Calibrated(1).check(Comparisons(("favorite",), np.ones((1, 1)), np.ones(1)))


def test_targets_stay_between_zero_and_one() -> None:
    """A target is the mean of the positive features plus the shift, cut off at 0 and 1."""
    data = comparisons()
    values = np.zeros((3, len(ACTIONS)))
    values[1, :5], values[2, :5] = 0.2, 0.9
    np.testing.assert_allclose(Calibrated(1).targets(values, data), [0.3, 0.5, 1.0])
