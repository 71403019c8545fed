"""Alignment in the geometry of the pool: the predicted direction, against derivatives and against selection."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stakeholder_pools import SEEDS, action_pool, action_utilities, make_pool, make_scene, make_utilities

from candidate_pipeline_stakeholder.audit.alignment import (
    SHARPEST,
    alignment,
    cosine_matrix,
    cosines,
    matching_sharpness,
    pooled_covariance,
    within_covariances,
)
from candidate_pipeline_stakeholder.audit.slates import NotPossibleError, Scene
from candidate_pipeline_stakeholder.pool import Pool
from candidate_pipeline_stakeholder.utilities import Utilities


def expectation(scene: Scene, target: int, other: int, sharpness: float) -> float:
    """Mean over requests of the other's expected utility where rows are drawn by softmax(sharpness * target)."""
    found = []
    for rows in scene.pool.requests():
        values = scene.pool.values[rows]
        power = sharpness * values @ scene.weights[target]
        chance = np.exp(power - power.max())
        found.append(chance @ (values @ scene.weights[other]) / chance.sum())
    return float(np.mean(found))


@given(SEEDS, st.integers(0, 2), st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_the_covariance_is_the_derivative_of_the_softmax_expectation(seed: int, target: int, other: int) -> None:
    """w_t' S w_o equals the central difference of E[u_other] at sharpness 0, for any pool and any two stakeholders."""
    scene = make_scene(seed)
    step = 1e-4
    slope = (expectation(scene, target, other, step) - expectation(scene, target, other, -step)) / (2 * step)
    found = within_covariances(scene).mean(axis=0)[target, other]
    assert found == pytest.approx(slope, abs=1e-6, rel=1e-5)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_utility_covariances_are_the_quadratic_forms(seed: int) -> None:
    """Covariances of utilities equal w_i' S w_j with the pool's covariance, within requests and pooled."""
    scene = make_scene(seed)
    for found, within in ((within_covariances(scene).mean(axis=0), True), (pooled_covariance(scene), False)):
        spread = scene.pool.moments(within=within).covariance
        np.testing.assert_allclose(found, scene.weights @ spread @ scene.weights.T, atol=1e-12)


@given(SEEDS, st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_cosines_do_not_know_the_length_of_weights(seed: int, factor: float) -> None:
    """Scaling a stakeholder's weights leaves its cosines; turning them round turns the signs."""
    rng = np.random.default_rng(seed)
    weights, root = rng.normal(size=(2, 4)), rng.normal(size=(4, 4))
    covariance = root @ root.T
    found = cosine_matrix(weights, covariance)
    scaled = cosine_matrix(weights * np.array([[factor], [1.0]]), covariance)
    turned = cosine_matrix(weights * np.array([[-1.0], [1.0]]), covariance)
    np.testing.assert_allclose(scaled, found, atol=1e-12)
    assert turned[0, 1] == pytest.approx(-found[0, 1])
    assert np.abs(found).max() <= 1
    np.testing.assert_allclose(np.diag(found), 1.0)
    np.testing.assert_allclose(found, found.T)


def test_a_feature_that_never_varies_does_not_align() -> None:
    """Weights that agree on a constant feature alone have a cosine, but no covariance to move anybody with."""
    values = np.column_stack([np.full(40, 0.7), np.tile([0.0, 1.0], 20)])
    utilities = Utilities.of({"anna": {"still": 1.0}, "bert": {"still": 1.0, "moves": 0.1}}, ("still", "moves"))
    found = alignment(Scene.of(utilities, Pool.of(("still", "moves"), values)))
    pair = found.pairs[0]
    assert pair.weight_cosine == pytest.approx(0.995, abs=1e-3)
    assert pair.cosine.value is None
    assert pair.verdict == "none"
    assert pair.covariance == 0
    assert pair.top_shift.value is None


def test_the_sign_says_where_simulated_selection_goes() -> None:
    """On jointly normal rows, draws from a softmax move the other stakeholder by about cosine times sharpness."""
    rng = np.random.default_rng(5)
    values = rng.normal(size=(20_000, 3)) @ rng.normal(size=(3, 3))
    scene = Scene.of(make_utilities(4), Pool.of(("f0", "f1", "f2"), values), size=200)
    found = alignment(scene, draws=50)
    for pair in found.pairs:
        target, other = scene.names.index(pair.target), scene.names.index(pair.other)
        sharpness = 0.5
        scaled = scene.pool.values @ scene.weights[target]
        power = sharpness * scaled / scaled.std()
        chance = np.exp(power - power.max())
        drawn = rng.choice(len(values), 200_000, p=chance / chance.sum())
        utility = scene.pool.values @ scene.weights[other]
        moved = (utility[drawn].mean() - utility.mean()) / utility.std()
        assert pair.cosine.value is not None
        # For normal rows the exponential tilt shifts the mean by exactly sharpness * correlation.
        assert moved == pytest.approx(sharpness * pair.cosine.value, abs=0.02)
    assert found.checked == found.agree > 0


def test_the_strong_directions_hold_for_slates_of_predicted_actions() -> None:
    """Every ordered pair with |cosine| of at least .2 moves as predicted when rows are hard-selected."""
    scene = Scene.of(action_utilities(), action_pool(), size=8)
    found = alignment(scene)
    assert found.bootstrap == "requests"
    assert found.checked >= 2
    assert found.agree == found.checked
    for pair in found.pairs:
        low, high = pair.cosine.low, pair.cosine.high
        assert low is not None
        assert high is not None
        assert low <= (pair.cosine.value or 0) <= high
        assert pair.verdict == ("helps" if low > 0 else "harms" if high < 0 else "cannot tell")
        twin = next(each for each in found.pairs if (each.target, each.other) == (pair.other, pair.target))
        assert twin.covariance == pytest.approx(pair.covariance)
    assert len(found.words) == 3 + 1


@given(SEEDS, st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_the_sharpness_gives_the_perplexity_of_the_slate(seed: int, size: int) -> None:
    """Bisection finds the sharpness at which a softmax is as spread as a slate is large."""
    scaled = np.random.default_rng(seed).normal(size=(3, 12))
    scaled -= scaled.max(axis=1, keepdims=True)
    found = matching_sharpness(scaled, np.full(3, size))
    power = np.exp(found[:, None] * scaled)
    chance = power / power.sum(axis=1, keepdims=True)
    perplexity = np.exp(-(chance * np.log(np.maximum(chance, 1e-300))).sum(axis=1))
    # Rows nearly tied for the best place keep a slate of one from being matched: then the sharpest tried is the result.
    assert (np.isclose(perplexity, size, rtol=1e-6) | (found > 0.999 * SHARPEST)).all()


def test_the_soft_shift_is_that_of_the_matched_softmax() -> None:
    """The shift and its slope at the matched sharpness are the softmax expectation and its derivative there."""
    scene = Scene.of(make_utilities(1), make_pool(1, requests=1, rows=30), size=5)
    found = alignment(scene, draws=20)
    pair = found.pairs[0]
    sd = np.sqrt(np.diagonal(within_covariances(scene)[0]))
    scaled = scene.utilities[:, :, 0] / sd[0]
    sharpness = float(matching_sharpness(scaled - scaled.max(), scene.sizes)[0]) / sd[0]
    shift = (expectation(scene, 0, 1, sharpness) - expectation(scene, 0, 1, 0.0)) / sd[1]
    assert pair.soft_shift == pytest.approx(shift)
    step = 1e-4 / sd[0]
    slope = (expectation(scene, 0, 1, sharpness + step) - expectation(scene, 0, 1, sharpness - step)) / 2e-4 / sd[1]
    assert pair.soft_slope == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_plain_cosines_name_what_is_the_same() -> None:
    """Equal proportions, opposite ones and empty weights are said in words."""
    utilities = Utilities.of({"anna": {"f0": 1.0}, "bert": {"f0": 2.0}, "cleo": {"f0": -1.0}, "dora": {"f1": 0.0}})
    found = cosines(Scene.of(utilities, make_pool(0)))
    assert found.matrix[0][1] == 1
    assert found.matrix[0][3] is None
    assert any("anna and bert" in line and "the same" in line for line in found.words)
    assert any("anna and cleo" in line and "opposite" in line for line in found.words)
    assert any("dora weighs no feature" in line for line in found.words)


def test_there_must_be_somebody_and_something() -> None:
    """One stakeholder, or requests of one row, are told as such."""
    with pytest.raises(NotPossibleError, match="one stakeholder"):
        alignment(make_scene(0, stakeholders=1))
    with pytest.raises(NotPossibleError, match="two rows"):
        alignment(make_scene(0, rows=1))
