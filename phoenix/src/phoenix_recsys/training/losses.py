"""Losses, as plain functions of logits; everything float32.

A masked-out column holds ``MINUS_INFINITY`` (finite, so that gradients stay finite).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from phoenix_recsys.inputs import Array

MINUS_INFINITY = -1e9


def weighted_mean(values: jax.Array, weights: Array) -> jax.Array:
    """Σ w·v / Σ w, 0 where all weights are 0; any shape to a scalar."""
    weights = jnp.asarray(weights)
    total = jnp.sum(weights)
    return jnp.sum(values * weights) / jnp.where(total > 0, total, 1.0)


def full_softmax(logits: jax.Array, target: Array, excluded: Array | None = None) -> jax.Array:
    """Cross-entropy of one target among all columns.

    Args:
        logits: [..., N].
        target: column of the target, int [...].
        excluded: bool [..., N], columns left out of the sum; the target itself always counts.

    Returns:
        Nats, [...].
    """
    target = jnp.asarray(target)
    chosen = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
    if excluded is not None:
        is_target = jnp.arange(logits.shape[-1]) == target[..., None]
        logits = jnp.where(excluded & ~is_target, MINUS_INFINITY, logits)
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def sampled_softmax(
    target_logits: jax.Array, column_logits: jax.Array, log_expected: Array, excluded: Array
) -> jax.Array:
    """Cross-entropy over sampled columns with log-Q correction (Bengio & Senécal 2008; Yi et al. 2019).

    A column stands for its item divided by how often the item was expected among the columns, so that the sum estimates
    the sum over the whole catalogue without bias. Columns that hold the target itself must be excluded: the target
    counts once, exactly.

    Args:
        target_logits: [...].
        column_logits: [..., C]; an item may fill several columns.
        log_expected: log of the expected number of columns of each column's item, [C] or [..., C].
        excluded: bool [..., C], columns left out.

    Returns:
        Nats, [...].
    """
    corrected = jnp.where(jnp.asarray(excluded), MINUS_INFINITY, column_logits - jnp.asarray(log_expected))
    return jnp.logaddexp(target_logits, jax.nn.logsumexp(corrected, axis=-1)) - target_logits


def multi_task_bce(logits: jax.Array, labels: Array, head_weights: Array) -> jax.Array:
    """Sigmoid cross-entropy summed over heads: logits and labels [..., A], weights [A] to nats [...]."""
    return jnp.sum((jax.nn.softplus(logits) - jnp.asarray(labels) * logits) * jnp.asarray(head_weights), axis=-1)


def listwise(logits: jax.Array, positive: Array, valid: Array) -> jax.Array:
    """Cross-entropy of each positive against the negatives of its group (one positive at a time).

    Args:
        logits: [..., G], the candidates of a group along the last axis.
        positive: bool [..., G].
        valid: bool [..., G]; False is padding.

    Returns:
        Nats, [..., G]; 0 at places that are no valid positive.
    """
    valid, positive = jnp.asarray(valid), jnp.asarray(positive)
    negatives = jnp.where(valid & ~positive, logits, MINUS_INFINITY)
    rest = jax.nn.logsumexp(negatives, axis=-1, keepdims=True)
    return jnp.where(positive & valid, jnp.logaddexp(logits, rest) - logits, 0.0)


def distillation(logits: jax.Array, teacher: jax.Array, valid: Array) -> jax.Array:
    """Cross-entropy of softmax(logits) to softmax(teacher) within a group (Hinton et al. 2015): [..., G] to [...].

    The teacher's entropy is taken off, so that 0 means agreement; no gradient reaches the teacher.
    """
    valid = jnp.asarray(valid)
    student = jax.nn.log_softmax(jnp.where(valid, logits, MINUS_INFINITY), axis=-1)
    guide = jax.nn.log_softmax(jnp.where(valid, jax.lax.stop_gradient(teacher), MINUS_INFINITY), axis=-1)
    return jnp.sum(jnp.where(valid, jnp.exp(guide) * (guide - student), 0.0), axis=-1)
