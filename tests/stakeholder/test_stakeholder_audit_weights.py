"""Disagreement, sensitivity and recovery: what hangs on the weights, against slow versions and known truths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stakeholder_pools import COARSE, SEEDS, action_pool, action_utilities, make_pool, make_scene, make_utilities

from candidate_pipeline_feed.actions import RUNNER_DISCRETE
from candidate_pipeline_stakeholder.audit.disagreement import disagreement, label_agreement
from candidate_pipeline_stakeholder.audit.learning import Questions, alpha, learn, signs
from candidate_pipeline_stakeholder.audit.recovery import recovery
from candidate_pipeline_stakeholder.audit.sensitivity import matched, sensitivity
from candidate_pipeline_stakeholder.audit.slates import NotPossibleError, Scene
from candidate_pipeline_stakeholder.generating import generate
from candidate_pipeline_stakeholder.pairs import Pairs
from candidate_pipeline_stakeholder.pool import Pool
from candidate_pipeline_stakeholder.utilities import Utilities, declared


@given(SEEDS, COARSE)
@settings(max_examples=30, deadline=None)
def test_disagreement_is_counted(seed: int, coarse: bool) -> None:
    """The share is that of pairs within requests which the two order strictly differently, request by request."""
    weights = np.array([[1.0, -1.0, 0.0], [1.0, 2.0, 0.0]])
    scene = Scene.of(Utilities(("f0", "f1", "f2"), ("anna", "bert"), weights), make_pool(seed, coarse=coarse))
    found = disagreement(scene, draws=20).pairs[0]
    rates, ties = [], []
    for rows in scene.pool.requests():
        utility = scene.pool.values[rows] @ weights.T
        one, other = (np.sign(np.round(column[:, None] - column[None, :], 9)) for column in utility.T)
        both = one * other != 0
        if both.any():
            rates.append((one * other < 0).sum() / both.sum())
        if len(rows) > 1:
            ties.append(1 - both.sum() / (len(rows) * (len(rows) - 1)))
    assert found.share.value == pytest.approx(np.mean(rates))
    assert found.tied == pytest.approx(np.mean(ties))


@given(SEEDS, st.floats(0.01, 50))
@settings(max_examples=20, deadline=None)
def test_disagreement_knows_equal_and_opposite(seed: int, factor: float) -> None:
    """A scaled copy never disagrees and a turned one always does, whatever the length of the weights."""
    pool = make_pool(seed)
    vector = np.random.default_rng(seed).normal(size=3)
    weights = np.array([vector, factor * vector, -factor * vector])
    found = disagreement(Scene.of(Utilities(pool.features, ("anna", "bert", "cleo"), weights), pool), draws=10)
    shares = {(pair.one, pair.other): pair.share.value for pair in found.pairs}
    assert shares["anna", "bert"] == 0
    assert shares["anna", "cleo"] == 1
    assert [pair.predicted for pair in found.pairs] == pytest.approx([0.0, 1.0, 1.0], abs=1e-6)


@pytest.mark.parametrize("requests", [1, 20])
def test_disagreement_of_normal_rows_is_the_angle(requests: int) -> None:
    """On jointly normal rows the share agrees with arccos(correlation) / pi, within its interval's width."""
    rng = np.random.default_rng(2)
    values = rng.normal(size=(12_000, 3)) @ rng.normal(size=(3, 3))
    pool = Pool.of(("f0", "f1", "f2"), values, request=np.arange(12_000) % requests)
    found = disagreement(Scene.of(make_utilities(4), pool), draws=100)
    assert not found.every
    assert found.bootstrap == ("rows" if requests == 1 else "requests")
    for pair in found.pairs:
        assert pair.share.value == pytest.approx(pair.predicted, abs=0.03)
        assert pair.pooled.value == pytest.approx(pair.pooled_predicted, abs=0.03)
        for each in (pair.share, pair.pooled):
            assert each.low is not None
            assert each.high is not None
            assert each.low <= (each.value or 0) <= each.high
            assert each.high - each.low < 0.1


def test_utilities_are_held_against_given_pairs() -> None:
    """A utility agrees with its own noiseless pairs always, with flipped ones never, and ties count half."""
    scene = Scene.of(make_utilities(1), make_pool(1, rows=30))
    pairs = generate(scene.given, scene.pool, 300, seed=1)
    found = {(each.labels, each.utility): each for each in label_agreement(scene, pairs)}
    for name in scene.names:
        assert found[name, name].agree.value == 1
        assert found[name, name].pairs == 300
    own = pairs.of_stakeholder("anna")
    turned = Pairs.of(own.features, own.left, own.right, -own.outcome, stakeholder="anna")
    assert {each.utility: each.agree.value for each in label_agreement(scene, turned)}["anna"] == 0
    same = Pairs.of(("f0", "f1", "f2"), np.ones((4, 3)), np.ones((4, 3)), np.ones(4), stakeholder="anna")
    assert all(each.agree.value == 0.5 for each in label_agreement(scene, same))
    wide = disagreement(scene, pairs=pairs, draws=20)
    assert len(wide.labels) == 9
    for each in wide.labels:
        assert each.agree.low is not None
        assert each.agree.high is not None
        assert 0 <= each.agree.low <= (each.agree.value or 0) <= each.agree.high <= 1


def test_one_stakeholder_has_nobody_to_disagree_with() -> None:
    """Without a second stakeholder there is no disagreement, unless pairs were given."""
    scene = make_scene(0, stakeholders=1)
    with pytest.raises(NotPossibleError, match="one stakeholder"):
        disagreement(scene)
    pairs = generate(scene.given, scene.pool, 10)
    assert len(disagreement(scene, pairs=pairs).labels) == 1
    with pytest.raises(NotPossibleError, match="two rows"):
        disagreement(make_scene(0, rows=1))


@given(SEEDS, COARSE, st.sampled_from(["request", "pool", "none"]))
@settings(max_examples=25, deadline=None)
def test_changing_nothing_changes_nothing(seed: int, coarse: bool, how: str) -> None:
    """A factor of 1 keeps every row, ranking and share; so does no noise, which is run like any other."""
    scene = make_scene(seed, coarse=coarse, how=how)
    found = sensitivity(scene, factors=(1.0, 0.5), sigmas=(0.0, 0.5), perturbations=3, draws=20)
    for change in found.single:
        if change.factor == 1:
            assert change.overlap.value == pytest.approx(1.0)
            assert [each.value for each in change.change if each.value is not None] == pytest.approx(
                [0.0] * sum(each.value is not None for each in change.change), abs=1e-9
            )
            assert change.tau.value is None or change.tau.value == pytest.approx(1.0)
    none = found.simultaneous[0]
    assert none.sigma == 0
    assert none.overlap.value == pytest.approx(1.0)
    assert none.cosine.value == pytest.approx(1.0)
    assert all(each.value is None or abs(each.value) < 1e-9 for each in none.change)


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_perturbed_weights_are_norm_matched(seed: int) -> None:
    """Whatever the noise, perturbed utilities vary over the pool as much as the given ones."""
    scene = make_scene(seed)
    weights = scene.weights[0] * (1 + np.random.default_rng(seed).normal(size=(6, 3)))
    covariance = scene.moments.covariance
    found = matched(weights, scene.weights[0], covariance)
    np.testing.assert_allclose(scene.moments.sd(found), scene.moments.sd(scene.weights[0]), rtol=1e-9)
    cosine = (found * weights).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(weights, axis=1)
    np.testing.assert_allclose(cosine, 1.0)
    np.testing.assert_array_equal(matched(np.zeros((1, 3)), scene.weights[0], covariance), np.zeros((1, 3)))
    done = sensitivity(scene, factors=(2.0,), sigmas=(0.4,), perturbations=4, draws=10)
    assert done.simultaneous[0].norm_ratio.value == pytest.approx(1.0)


def test_the_only_feature_cannot_be_wrong_by_a_factor() -> None:
    """A stakeholder of one feature keeps its slates under any positive factor, and loses them all at 0."""
    utilities = Utilities.of({"anna": {"f0": 2.0}, "bert": {"f1": 1.0}}, ("f0", "f1", "f2"))
    scene = Scene.of(utilities, make_pool(2, rows=40), size=3, mix=[1.0, 0.0])
    found = sensitivity(scene, factors=(0.0, 0.5, 3.0), sigmas=(0.2,), perturbations=2, draws=10)
    assert {change.stakeholder for change in found.single} == {"anna"}
    by = {change.factor: change for change in found.single}
    assert by[0.5].overlap.value == by[3.0].overlap.value == 1
    assert (by[0.0].change[0].value or 0) < -0.1
    assert any("Not in the mix" in line and "bert" in line for line in found.words)


def test_more_noise_is_worse() -> None:
    """On a pool of predicted actions, overlap and rank stability fall as sigma rises, from exactly 1."""
    scene = Scene.of(action_utilities(), action_pool(), size=8)
    found = sensitivity(scene, sigmas=(0.5, 0.0, 0.1), perturbations=10, draws=50)
    overlap = [each.overlap.value or 0.0 for each in found.simultaneous]
    assert [each.sigma for each in found.simultaneous] == [0.0, 0.1, 0.5]
    assert overlap[0] == 1
    assert overlap[0] > overlap[1] > overlap[2] > 0.2
    assert len(found.single) == sum(np.count_nonzero(row) for row in scene.weights) * 5


def test_there_must_be_weights_to_change() -> None:
    """Constant pools and requests of one row have no sensitivity."""
    flat = Pool.of(("f0",), np.ones((5, 1)))
    with pytest.raises(NotPossibleError, match="varies"):
        sensitivity(Scene.of(make_utilities(0, features=1), flat))
    with pytest.raises(NotPossibleError, match="two rows"):
        sensitivity(make_scene(0, rows=1))


def test_weights_come_back_from_enough_pairs() -> None:
    """Recovery rises with pairs, falls with noise, and says how many pairs are enough."""
    scene = Scene.of(declared("label"), action_pool(rows=100))
    found = recovery(scene, sizes=(50, 2000), noises=((0.25, 0.0), (0.25, 0.3)), seeds=3, draws=50)
    assert len(found.points) == 3 * 2 * 2
    by = {(point.stakeholder, point.flips, point.pairs): point for point in found.points}
    for name in found.names:
        best, few, noisy = by[name, 0.0, 2000], by[name, 0.0, 50], by[name, 0.3, 2000]
        assert (best.utility_correlation.value or 0) > 0.99
        assert (best.spearman.value or 0) > 0.98
        assert (best.cosine.value or 0) > 0.97
        assert (few.utility_correlation.value or 0) < (best.utility_correlation.value or 0)
        assert (noisy.utility_correlation.value or 0) < (best.utility_correlation.value or 0)
        assert best.errors < noisy.errors
        assert best.separable == 0
    for name, true in {"user": 1.0, "platform": 0.3, "society": 4.0}.items():
        assert found.true_alpha[name] == pytest.approx(true)
        estimate = by[name, 0.0, 2000].alpha
        assert estimate is not None
        assert estimate.value == pytest.approx(true, rel=0.25)
    assert {(each.stakeholder, each.flips): each.pairs for each in found.needed}["user", 0.0] == 2000
    assert any("Pairs needed" in line for line in found.words)


def test_separable_pairs_are_told_and_ridged() -> None:
    """Pairs without contradiction have no most likely weights: they get a ridge and are counted."""
    scene = Scene.of(make_utilities(0), make_pool(0, rows=30))
    questions = Questions.draw(scene, 0, 40, 0)
    differences, wrong = questions.answered(0.0, 0.0)
    weights, ridged = learn(differences)
    assert ridged
    assert wrong == 0
    assert np.isfinite(weights).all()
    assert (differences @ weights > 0).mean() > 0.9
    from_afar, _ = learn(differences, np.array([3.0, -3.0, 3.0]))
    np.testing.assert_allclose(from_afar, weights, rtol=1e-4, atol=1e-5)
    found = recovery(scene, sizes=(10,), noises=((0.0, 0.0),), seeds=2, draws=10)
    assert all(point.separable == 1 for point in found.points)


@given(SEEDS, st.floats(0.0, 1.0))
@settings(max_examples=20, deadline=None)
def test_answers_err_as_often_as_they_should(seed: int, flips: float) -> None:
    """A judge without temperature errs where labels are turned round only; utilities of any scale are judged alike."""
    scene = make_scene(seed % 50, rows=30)
    questions = Questions.draw(scene, 0, 400, seed)
    assert questions.answered(0.0, flips)[1] == pytest.approx(flips, abs=0.12)
    scaled = Scene.of(Utilities(scene.features, scene.names, scene.weights * 8.0), scene.pool)
    again = Questions.draw(scaled, 0, 400, seed)
    np.testing.assert_array_equal(again.answered(0.5, flips)[0], questions.answered(0.5, flips)[0])


def test_prices_of_negative_actions() -> None:
    """Alpha is the ratio of the mean weights, and is missing where a kind of action or its weight is."""
    for price in (0.3, 4.0):
        vector = declared("label", {"anna": price}).vector("anna")
        assert alpha(vector, RUNNER_DISCRETE) == pytest.approx(price)
        assert alpha(3 * vector, RUNNER_DISCRETE) == pytest.approx(price)
    assert alpha(np.ones(1), ("favorite",)) is None
    assert alpha(np.zeros(2), ("favorite", "report")) is None
    assert signs(("genre",)) is None
    found = signs(("favorite", "click", "report"))
    assert found is not None
    assert found.tolist() == [1.0, 0.0, -1.0]


def test_recovery_needs_something_that_varies() -> None:
    """Constant utilities are left out, and if all are constant the reason is told."""
    flat = Pool.of(("f0", "f1"), np.column_stack([np.ones(20), np.random.default_rng(0).normal(size=20)]))
    scene = Scene.of(Utilities.of({"anna": {"f0": 1.0}, "bert": {"f1": 1.0}}, ("f0", "f1")), flat)
    assert recovery(scene, sizes=(30,), seeds=2, draws=10).names == ("bert",)
    only = Scene.of(Utilities.of({"anna": {"f0": 1.0}}, ("f0", "f1")), flat)
    with pytest.raises(NotPossibleError, match="tie"):
        recovery(only)
    with pytest.raises(NotPossibleError, match="two rows"):
        recovery(make_scene(0, rows=1))


def test_recovery_does_not_depend_on_the_unit_of_a_utility() -> None:
    """Weights a trillion times smaller are recovered as well, in ranks too."""
    pool, given_ = make_pool(3, requests=3), make_utilities(3, stakeholders=1)
    small = Utilities(given_.features, given_.names, 1e-12 * given_.weights)
    one, other = (recovery(Scene.of(each, pool), sizes=(50,), seeds=2).points for each in (given_, small))
    for before, after in zip(one, other, strict=True):
        assert after.spearman.value == pytest.approx(before.spearman.value)
        assert after.utility_correlation.value == pytest.approx(before.utility_correlation.value)
