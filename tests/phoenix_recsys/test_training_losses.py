"""The losses, against direct computation and against each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_recsys.training import losses


@given(st.integers(0, 2**31), st.integers(2, 9))
@settings(max_examples=30, deadline=None)
def test_sampled_softmax_with_every_item_once_is_the_full_softmax(seed: int, items: int) -> None:
    """With each other item as one expected column nothing is left to estimate."""
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(rng.normal(size=(3, items)) * 3, jnp.float32)
    target = rng.integers(0, items, 3)
    full = losses.full_softmax(logits, target)
    chosen = jnp.take_along_axis(logits, target[:, None], 1)[:, 0]
    excluded = np.arange(items) == target[:, None]
    sampled = losses.sampled_softmax(jnp.asarray(chosen), logits, np.zeros(items, np.float32), excluded)
    np.testing.assert_allclose(sampled, full, atol=1e-5)


def test_the_log_q_correction_makes_the_estimate_unbiased() -> None:
    """Over many draws from a very uneven distribution the corrected sum meets the full one; the raw sum does not."""
    rng = np.random.default_rng(0)
    items, columns, draws = 40, 30, 20_000
    logits = rng.normal(size=items) + np.linspace(0, 2, items)
    chance = np.linspace(1, 30, items)
    chance /= chance.sum()
    picked = rng.choice(items, size=(draws, columns), p=chance)
    target = 0
    excluded = picked == target
    chosen = np.full(draws, logits[target], np.float32)
    column_logits = jnp.asarray(logits[picked], jnp.float32)

    def total(log_expected: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        nats = losses.sampled_softmax(
            jnp.asarray(chosen), column_logits, jnp.asarray(log_expected, jnp.float32), excluded
        )
        # exp(loss) is the estimated sum over the target's own exponential.
        return float(np.exp(np.asarray(nats, np.float64)).mean())

    exact = np.exp(logits).sum() / np.exp(logits[target])
    assert total(np.log(columns * chance)[picked]) == pytest.approx(exact, rel=0.01)
    assert abs(total(np.full(picked.shape, np.log(columns / items))) / exact - 1) > 0.2


@given(st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_padding_never_changes_a_group_loss(seed: int) -> None:
    """Whatever stands at invalid places, listwise and distillation losses and their gradients stay the same."""
    rng = np.random.default_rng(seed)
    logits, teacher = rng.normal(size=(2, 3, 6)).astype(np.float32), rng.normal(size=(2, 3, 6)).astype(np.float32)
    valid, positive = rng.random((2, 3, 6)) < 0.6, rng.random((2, 3, 6)) < 0.4
    other = np.where(valid, logits, rng.normal(size=logits.shape).astype(np.float32) * 50)
    other_positive = np.where(valid, positive, ~positive)

    def value(x: jax.Array, p: jax.Array) -> jax.Array:
        ranked = losses.listwise(x, p, valid)
        return jnp.sum(ranked * (p & valid)) + jnp.sum(losses.distillation(x, jnp.asarray(teacher), valid))

    grad = jax.value_and_grad(value)
    (one, one_grad), (two, two_grad) = grad(logits, positive), grad(other, other_positive)
    np.testing.assert_allclose(one, two, rtol=1e-5)
    np.testing.assert_allclose(np.where(valid, one_grad, 0), np.where(valid, two_grad, 0), atol=1e-5)
    assert np.isfinite(np.asarray(one_grad)).all()
    np.testing.assert_array_equal(np.where(valid, 0, two_grad), 0)


def test_listwise_is_a_softmax_against_the_negatives() -> None:
    """Each positive competes with the negatives, not with the other positives."""
    logits = jnp.array([2.0, 1.0, 0.5, -1.0])
    found = losses.listwise(logits, np.array([True, True, False, False]), np.ones(4, bool))
    for index in (0, 1):
        group = np.array([logits[index], 0.5, -1.0])
        assert float(found[index]) == pytest.approx(np.log(np.exp(group).sum()) - group[0], abs=1e-5)
    assert float(found[2]) == float(found[3]) == 0.0


def test_a_positive_without_negatives_costs_nothing() -> None:
    """A group without a single negative has loss 0 and a zero gradient."""

    def value(x: jax.Array) -> jax.Array:
        return losses.listwise(x, np.ones(3, bool), np.ones(3, bool)).sum()

    loss, gradient = jax.value_and_grad(value)(jnp.array([1.0, 2.0, 3.0]))
    assert float(loss) == 0.0
    np.testing.assert_array_equal(gradient, 0)


def test_distillation_is_zero_at_agreement_up_to_a_constant() -> None:
    """A student that equals its teacher but for a shift pays nothing; another one does."""
    teacher = jnp.array([[1.0, 2.0, -3.0]])
    valid = np.ones((1, 3), bool)
    assert float(losses.distillation(teacher + 5.0, teacher, valid)[0]) == pytest.approx(0.0, abs=1e-6)
    assert float(losses.distillation(-teacher, teacher, valid)[0]) > 1.0


def test_a_head_of_weight_zero_has_no_gradient() -> None:
    """The sigmoid loss leaves out heads that are not trained."""
    weights = np.array([1.0, 0.0], np.float32)
    gradient = jax.grad(lambda x: losses.multi_task_bce(x, np.array([1.0, 0.0]), weights))(jnp.array([0.3, 4.0]))
    assert float(gradient[0]) != 0.0
    assert float(gradient[1]) == 0.0


def test_a_mean_over_nothing_is_zero() -> None:
    """Weights that are all zero give 0 rather than NaN."""
    assert float(losses.weighted_mean(jnp.ones(3), np.zeros(3, np.float32))) == 0.0
