"""Crowd-BT: good, random and adversarial raters are told apart, and do not spoil the weights."""

from __future__ import annotations

import json

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from stakeholder_preferences import FEW, judged

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.fitting import fit
from candidate_pipeline_stakeholder.losses import BradleyTerry, Comparisons
from candidate_pipeline_stakeholder.pairs import Pairs
from candidate_pipeline_stakeholder.raters import UNKNOWN, CrowdBradleyTerry, fit_raters

TRUE = np.array([6.0, -4.0, 3.0])


def crowd(seed: int, each: int, reliability: list[float]) -> Pairs:
    """Pairs that raters judge who turn their judgement round with probability 1 - η; rater r3 is the fourth."""
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(len(reliability)), each)
    pairs = judged(seed, len(code), TRUE, rater=[f"r{place}" for place in code])
    turned = rng.random(len(code)) > np.array(reliability)[code]
    return attrs.evolve(pairs, outcome=np.where(turned, -pairs.outcome, pairs.outcome).astype(np.int8))


def test_good_random_and_adversarial_raters_are_recovered() -> None:
    """Every reliability and every weight is within four standard errors of the truth, and the words name who is bad."""
    reliability = [0.95, 0.95, 0.9, 0.5, 0.1]
    found = fit_raters(crowd(0, 3000, reliability))
    assert found.converged
    assert found.gradient_norm <= 1e-8
    assert found.raters == ("r0", "r1", "r2", "r3", "r4")
    assert np.abs((found.reliability - reliability) / found.reliability_errors).max() < 4
    assert np.abs((found.weights - TRUE) / found.standard_errors).max() < 4
    assert found.reliability_errors.max() < 0.03
    words = found.in_words()
    assert words[1].startswith("raters who contradict the others: r4 (0.")
    assert words[2].startswith("raters who cannot be told from a coin: r3 (0.")
    assert found.judgements.tolist() == [3000] * 5


def test_adversaries_no_longer_spoil_the_weights() -> None:
    """With two of five raters against the rest the plain fit finds a fraction of the weights, this one all of them."""
    pairs = crowd(1, 2000, [1.0, 1.0, 1.0, 0.0, 0.0])
    assert np.linalg.norm(fit(pairs).weights) < 0.3 * np.linalg.norm(TRUE)
    found = fit_raters(pairs)
    assert np.linalg.norm(found.weights - TRUE) < 0.1 * np.linalg.norm(TRUE)
    np.testing.assert_allclose(found.reliability, [1, 1, 1, 0, 0], atol=0.05)


def test_perfect_raters_give_bradley_terry() -> None:
    """Where every reliability is 1 the model is Bradley–Terry: the same value, gradient, and weights."""
    pairs = crowd(2, 300, [1.0, 1.0])
    data, point = Comparisons.of(pairs), np.array([1.0, 2.0, -0.5])
    model = CrowdBradleyTerry(data.differences, data.weight, pairs.rater.astype(np.int64), 2)
    value, gradient = model.value_and_gradient(np.append(point, [1.0, 1.0]))
    expected, slope = BradleyTerry().value_and_gradient(point, data)
    assert value == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradient[:3], slope, atol=1e-14)
    sure = fit_raters(pairs, prior=(1e8, 1.0))
    np.testing.assert_allclose(sure.reliability, 1, atol=1e-5)
    np.testing.assert_allclose(sure.weights, fit(pairs).weights, rtol=1e-3)


def test_reliabilities_at_their_bound_give_bradley_terrys_fit() -> None:
    """Where the likelihood itself puts every rater at 1, the weights and standard errors are the plain fit's."""
    for seed in range(40):
        pairs = crowd(seed, 200, [1.0])
        found = fit_raters(pairs)
        if (found.reliability == 1).all():
            plain = fit(pairs)
            np.testing.assert_allclose(found.weights, plain.weights, rtol=1e-7)
            np.testing.assert_allclose(found.standard_errors, plain.standard_errors, rtol=1e-6)
            assert np.isnan(found.reliability_errors).all()
            return
    pytest.fail("no table of 40 had a perfect rater")


@FEW
@given(
    st.lists(st.floats(-2, 2), min_size=3, max_size=3),
    st.lists(st.floats(0.05, 0.95), min_size=2, max_size=2),
    st.booleans(),
)
def test_derivatives_are_exact(weights: list[float], eta: list[float], with_prior: bool) -> None:
    """Gradient and all blocks of the Hessian are what central differences say."""
    pairs = crowd(3, 30, [0.9, 0.2])
    data, prior = Comparisons.of(pairs), (0.02, 0.01) if with_prior else (0.0, 0.0)
    model = CrowdBradleyTerry(data.differences, data.weight, pairs.rater.astype(np.int64), 2, 0.01, prior)
    point, step = np.array([*weights, *eta]), 1e-6
    of_w, both, of_eta = model.blocks(point)
    hessian = np.block([[of_w, both], [both.T, np.diag(of_eta)]])
    for place, each in enumerate(np.eye(5)):
        up, down = (model.value_and_gradient(point + sign * step * each) for sign in (1, -1))
        gradient = model.value_and_gradient(point)[1]
        assert gradient[place] == pytest.approx((up[0] - down[0]) / (2 * step), rel=1e-6, abs=1e-6)
        np.testing.assert_allclose(hessian[place], (up[1] - down[1]) / (2 * step), rtol=1e-5, atol=1e-5)


def test_turning_everything_round_changes_nothing() -> None:
    """The likelihood of (w, η) is that of (-w, 1 - η), and the one with the raters mostly right is given."""
    pairs = crowd(4, 500, [0.9, 0.8, 0.2])
    data = Comparisons.of(pairs)
    model = CrowdBradleyTerry(data.differences, data.weight, pairs.rater.astype(np.int64), 3)
    found = fit_raters(pairs)
    one = np.concatenate([found.weights, found.reliability])
    other = np.concatenate([-found.weights, 1 - found.reliability])
    assert model.value_and_gradient(one)[0] == pytest.approx(model.value_and_gradient(other)[0], rel=1e-12)
    turned = fit_raters(pairs, start=-found.weights)
    np.testing.assert_allclose(turned.weights, found.weights, rtol=1e-5)
    assert found.reliability.mean() > 0.5


def test_it_is_better_than_bradley_terry_and_than_the_truth() -> None:
    """On its pairs the likelihood is above that of plain weights with perfect raters, and of the true values."""
    reliability: NDArray[np.float64] = np.array([0.95, 0.9, 0.3])
    pairs = crowd(5, 800, reliability.tolist())
    data = Comparisons.of(pairs)
    model = CrowdBradleyTerry(data.differences, data.weight, pairs.rater.astype(np.int64), 3)
    found = fit_raters(pairs)
    assert found.objective < fit(pairs).objective
    assert found.objective <= model.value_and_gradient(np.concatenate([TRUE, reliability]))[0]


def test_order_and_sides_do_not_matter() -> None:
    """Pairs in another order and from the other side give the same weights and reliabilities."""
    pairs = crowd(6, 400, [0.95, 0.9, 0.2])
    one = fit_raters(pairs)
    order = np.random.default_rng(0).permutation(len(pairs))
    for other in (fit_raters(pairs.take(order)), fit_raters(pairs.swapped(order < 500))):
        np.testing.assert_allclose(other.weights, one.weights, rtol=1e-6)
        np.testing.assert_allclose(
            dict(zip(other.raters, other.reliability, strict=True))["r1"], one.reliability[1], rtol=1e-6
        )


def test_a_prior_counts_only_where_it_is_asked_for() -> None:
    """One who judged twice is at 0 or 1 or thereabouts without a prior, and near the prior's mean with one."""
    many, few = crowd(7, 800, [0.95, 0.95]), crowd(8, 3, [0.0])
    pairs = Pairs.concat([many, Pairs.of(few.features, few.left, few.right, few.outcome, rater="new")])
    free, held = fit_raters(pairs), fit_raters(pairs, prior=(8.0, 2.0))
    assert free.prior is None
    assert held.prior == (8.0, 2.0)
    place = held.raters.index("new")
    assert held.converged
    assert free.reliability[place] < held.reliability[place]
    assert 0.5 < held.reliability[place] < 0.85


def test_unknown_raters_count_as_one() -> None:
    """Pairs without a rater have one reliability together; a table without any rater is refused."""
    known, unknown = crowd(9, 400, [0.95]), judged(10, 400, TRUE)
    found = fit_raters(Pairs.concat([known, unknown]))
    assert set(found.raters) == {"r0", UNKNOWN}
    with pytest.raises(DataError, match="use `fit`"):
        fit_raters(unknown)


@pytest.mark.parametrize("prior", [(0.5, 1.0), (2.0, float("nan")), (float("inf"), 1.0)])
def test_priors_are_checked(prior: tuple[float, float]) -> None:
    """A prior below 1, or not a number, is refused."""
    with pytest.raises(DataError, match=r"Beta\(a, b\)"):
        fit_raters(crowd(0, 10, [0.9]), prior=prior)


def test_utilities_that_run_away_are_admitted() -> None:
    """Where raters flip but have no other noise, weights may grow for ever: it says so, and a ridge helps."""
    rng = np.random.default_rng(0)
    left, right = rng.uniform(size=(2, 600, 2))
    right_side = (left - right) @ np.array([1.0, -1.0]) > 0
    outcome = np.where(right_side ^ (rng.random(600) < 0.2), 1, -1)
    pairs = Pairs.of(["a", "b"], left, right, outcome, rater=[f"r{place % 3}" for place in range(600)])
    found, held = fit_raters(pairs), fit_raters(pairs, l2=1e-4)
    assert held.converged
    np.testing.assert_allclose(held.reliability, 0.8, atol=0.1)
    assert found.converged or any("ridge" in each for each in found.notes)


def test_it_can_be_written_down() -> None:
    """What it says of itself is JSON without NaN, also for features that never differ."""
    pairs = crowd(11, 300, [1.0, 0.9, 0.1])
    left, right = pairs.left.copy(), pairs.right.copy()
    left[:, 2] = right[:, 2]
    found = fit_raters(attrs.evolve(pairs, left=left, right=right))
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told["standard_errors"]["f2"] is None
    assert told["weights"]["f2"] == pytest.approx(0, abs=1e-12)
    assert set(told["reliability"]) == {"r0", "r1", "r2"}
    assert told["converged"] is True


def test_one_judgement_says_nothing_about_a_rater() -> None:
    """A rater with a single wrong judgement has an η of 0, and is told as a possible coin, not as an adversary."""
    rng = np.random.default_rng(0)
    differences = rng.normal(size=(301, 2))
    right = rng.random(301) < 1 / (1 + np.exp(-differences @ [1.0, -1.0]))
    right[300] = differences[300] @ [1.0, -1.0] < 0
    rater = ["main"] * 300 + ["once"]
    found = fit_raters(Pairs.of(("a", "b"), differences, 0 * differences, np.where(right, 1, -1), rater=rater))
    assert found.reliability[1] == 0
    assert found.evidence[1] < 3.84 < found.evidence[0]
    words = " ".join(found.in_words())
    assert "cannot be told from a coin: once (0.00)" in words
    assert "contradict" not in words


def test_reliabilities_that_stop_short_of_their_bound_converge() -> None:
    """No search ends beside a bound that an η is pushed against."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        code = rng.integers(0, 3, 145)
        pairs = judged(seed, 145, [-7.0], rater=[f"r{place}" for place in code])
        turned = rng.random(145) > np.array([0.5, 1.0, 0.95])[code]
        found = fit_raters(attrs.evolve(pairs, outcome=np.where(turned, -pairs.outcome, pairs.outcome).astype(np.int8)))
        assert found.gradient_norm <= 1e-8
