"""Standard errors and bootstrap, against each other, against repetition, and against resampling done slowly."""

from __future__ import annotations

import json

import attrs
import numpy as np
import pytest
from stakeholder_preferences import ACTIONS, judged

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.fitting import Prior, fit
from candidate_pipeline_stakeholder.losses import Constrained, Loss, Margin
from candidate_pipeline_stakeholder.pairs import Pairs
from candidate_pipeline_stakeholder.uncertainty import Bootstrap, bootstrap

TRUE = np.array([2.0, -1.0, 0.5])


def drawn_by_hand(pairs: Pairs, seed: int, count: int) -> list[Pairs]:
    """The first samples a seed gives, as tables."""
    rng = np.random.default_rng(seed)
    return [pairs.take(rng.integers(0, len(pairs), len(pairs))) for _ in range(count)]


@pytest.mark.parametrize("errors", ["information", "sandwich"])
def test_standard_errors_are_the_spread_over_new_pairs(errors: str) -> None:
    """Over 300 tables of new pairs the weights spread as the standard errors say, and are off by no more than that."""
    fits = [
        fit(judged(seed, 400, TRUE), errors="sandwich" if errors == "sandwich" else "information")
        for seed in range(300)
    ]
    weights, told = np.array([each.weights for each in fits]), np.array([each.standard_errors for each in fits])
    np.testing.assert_allclose(weights.std(axis=0, ddof=1), told.mean(axis=0), rtol=0.15)
    inside = np.abs(weights - TRUE) < 1.96 * told
    assert 0.92 < inside.mean() < 0.98


def test_the_information_is_the_hessian_of_the_sum() -> None:
    """The covariance is the inverse of the second derivatives of the whole negative log-likelihood."""
    pairs = judged(0, 300, TRUE)
    found, differences = fit(pairs), pairs.differences()
    sigma = 1 / (1 + np.exp(-differences @ found.weights))
    information = (differences * (sigma * (1 - sigma))[:, None]).T @ differences
    np.testing.assert_allclose(found.covariance, np.linalg.inv(information), rtol=1e-8)
    np.testing.assert_allclose(found.standard_errors, np.sqrt(np.diag(found.covariance)))


def test_the_sandwich_knows_importances_from_counts() -> None:
    """Weights times c leave the sandwich as it is; the information counts them, and doubts few heavy pairs less."""
    pairs = judged(0, 2000, TRUE)
    rng = np.random.default_rng(1)
    heavy = attrs.evolve(pairs, weight=np.where(rng.random(2000) < 0.05, 50.0, 1.0))
    sandwich = fit(heavy, errors="sandwich")
    scaled = fit(attrs.evolve(heavy, weight=heavy.weight * 7), errors="sandwich")
    np.testing.assert_allclose(scaled.standard_errors, sandwich.standard_errors, rtol=1e-8)
    assert (sandwich.standard_errors > 2 * fit(heavy).standard_errors).all()
    again = bootstrap(heavy, draws=200)
    np.testing.assert_allclose(again.standard_errors, sandwich.standard_errors, rtol=0.25)
    np.testing.assert_allclose(fit(pairs, errors="sandwich").standard_errors, fit(pairs).standard_errors, rtol=0.1)


def test_with_a_prior_the_covariance_is_the_posteriors() -> None:
    """Of a prior that outweighs the pairs the standard errors are the prior's own; "none" asks for none."""
    found = fit(judged(0, 50, TRUE), prior=Prior(0.0, 1e8))
    np.testing.assert_allclose(found.standard_errors, 1e-4, rtol=1e-4)
    assert np.isnan(fit(judged(0, 300, TRUE), errors="none").standard_errors).all()


@pytest.mark.parametrize("loss", [None, Margin(0.4, temperature=0.3)], ids=["plain", "margin"])
@pytest.mark.parametrize("l2", [0.0, 1e-2])
def test_all_draws_at_once_are_the_draws_one_by_one(loss: Loss | None, l2: float) -> None:
    """Each draw's weights are those of a fit to the table that was drawn, to eight digits."""
    pairs = judged(0, 300, TRUE, weight=np.random.default_rng(0).uniform(0.5, 2, 300))
    found = bootstrap(pairs, draws=30, seed=4, loss=loss, l2=l2)
    for weights, table in zip(found.weights, drawn_by_hand(pairs, 4, 30), strict=True):
        np.testing.assert_allclose(weights, fit(table, loss=loss, l2=l2).weights, rtol=1e-8, atol=1e-8)


def test_draws_with_a_prior() -> None:
    """A prior counts in every draw as in a fit to what was drawn."""
    pairs, prior = judged(0, 100, TRUE), Prior([1.0, 0.0, 0.0], [3.0, 1.0, 0.5])
    found = bootstrap(pairs, draws=5, prior=prior)
    for weights, table in zip(found.weights, drawn_by_hand(pairs, 0, 5), strict=True):
        np.testing.assert_allclose(weights, fit(table, prior=prior).weights, rtol=1e-8, atol=1e-8)


def test_losses_with_kinks_are_drawn_one_by_one() -> None:
    """A constrained loss is fitted draw by draw, to the same tables."""
    pairs, loss = judged(0, 400, np.linspace(-2, 2, 9), features=ACTIONS), Constrained(5)
    found = bootstrap(pairs, draws=3, loss=loss)
    for weights, table in zip(found.weights, drawn_by_hand(pairs, 0, 3), strict=True):
        np.testing.assert_allclose(weights, fit(table, loss=loss).weights, atol=1e-7)


def test_a_seed_is_the_same_bits() -> None:
    """The same seed gives the same draws bit for bit, another seed others, and more draws begin with the same."""
    pairs = judged(0, 200, TRUE)
    one, same, longer, other = (
        bootstrap(pairs, draws=draws, seed=seed) for draws, seed in ((25, 1), (25, 1), (50, 1), (25, 2))
    )
    np.testing.assert_array_equal(one.weights, same.weights)
    np.testing.assert_array_equal(longer.weights[:25], one.weights)
    assert not np.array_equal(one.weights, other.weights)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 100 tables about 95 have the true weight within the percentile interval of 95 %."""
    inside = []
    for seed in range(100):
        low, high = bootstrap(judged(seed, 300, TRUE), draws=100, seed=seed).interval(0.95)
        inside.append((low < TRUE) & (high > TRUE))
    assert 0.88 < np.mean(inside) < 0.99


def test_intervals_nest_and_reflect() -> None:
    """A higher level has a wider interval, and the basic interval is the percentile one reflected in the estimate."""
    found = bootstrap(judged(0, 300, TRUE), draws=100)
    (narrow, up), (wide, top) = found.interval(0.5), found.interval(0.95)
    assert (wide < narrow).all()
    assert (top > up).all()
    low, high = found.interval(0.95, method="basic")
    np.testing.assert_allclose(low, 2 * found.estimate - top)
    np.testing.assert_allclose(high, 2 * found.estimate - wide)
    with pytest.raises(DataError, match="between 0 and 1"):
        found.interval(1.0)


def test_draws_without_an_optimum_are_counted() -> None:
    """Few pairs, of which some draws agree throughout: those draws are NaN and counted, the rest is finite."""
    table = Pairs.of(["a"], [[1.0]] * 8, [[0.0]] * 8, [1, 1, 1, 1, 1, 1, -1, -1])
    found = bootstrap(table, draws=200)
    # no second thought in a draw: (6/8)^8 = .100 of the draws, and hardly ever nothing else
    assert 8 < found.failed < 36
    assert len(found.sound) == 200 - found.failed
    assert np.isfinite(found.standard_errors).all()
    assert found.as_dict()["failed"] == found.failed
    assert json.dumps(found.as_dict(), allow_nan=False)
    assert bootstrap(table, draws=50, l2=0.01).failed == 0


def test_draws_that_leave_a_feature_open_are_counted() -> None:
    """A feature that differs in two pairs of a hundred is open in the draws that hold neither."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 100, 2))
    left[:, 1] = right[:, 1] = 0.0
    left[:2, 1] = 1.0
    outcome = np.where(rng.random(100) < 0.5, 1, -1)
    outcome[:2] = [1, -1]
    left[:2, 0] = right[:2, 0]
    found = bootstrap(Pairs.of(["a", "b"], left, right, outcome), draws=60)
    assert found.failed > 20


def test_features_that_never_differ_have_no_spread() -> None:
    """Draws of pairs that differ in nothing are all zero, and fail nothing."""
    same = np.ones((6, 2))
    found = bootstrap(Pairs.of(["a", "b"], same, same, [1, 1, 1, -1, -1, 1]), draws=3)
    assert found.failed == 0
    assert not found.weights.any()


def test_too_few_sound_draws_have_no_interval() -> None:
    """Where most draws have no optimum an interval would mislead, and is refused with what to do."""
    weights = np.full((4, 1), np.nan)
    weights[0] = 1.0
    found = Bootstrap(("a",), np.ones(1), weights, "pair", 0)
    with pytest.raises(DataError, match=r"l2=0\.001"):
        found.interval()
    assert found.as_dict()["intervals"] is None
    assert np.isnan(found.standard_errors).all()


def test_raters_are_drawn_with_all_they_said() -> None:
    """Where each rater repeats one judgement twenty times, drawing raters shows the doubt that drawing pairs hides."""
    pairs = judged(0, 200, TRUE[:1], rater=[f"r{place}" for place in range(200)])
    same = Pairs.concat([pairs] * 20)
    by_pair = bootstrap(same, draws=100).standard_errors
    by_rater = bootstrap(same, draws=100, unit="rater").standard_errors
    assert by_rater[0] == pytest.approx(fit(pairs).standard_errors[0], rel=0.3)
    assert by_rater[0] > 3 * by_pair[0]
    with pytest.raises(DataError, match="a rater for every pair"):
        bootstrap(judged(0, 200, TRUE), unit="rater")


def test_what_cannot_be_fitted_cannot_be_drawn() -> None:
    """Separable pairs, and no draws at all, are refused."""
    with pytest.raises(DataError, match="cannot be fitted"):
        bootstrap(judged(0, 30, 200 * TRUE))
    with pytest.raises(DataError, match="at least one draw"):
        bootstrap(judged(0, 300, TRUE), draws=0)
