"""Rotary positions of the ranker's tokens, float32.

The sequence is ``[prefix (user) | history | candidates]``. Three schemes:

``slot``
    The token index, as published by default: candidate j stands at its slot, so that its score depends
    on it.
``right``
    May's ``right_anchored_rope``: the newest history token stands just before the candidates, which share one
    place.
``anchored``
    Ours: the history counts 1, 2, … from its oldest valid token and every candidate stands where ``slot``
    puts a lone candidate behind a full history. A score depends on user, history and candidate only, and
    adding an event moves no earlier token.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from phoenix_recsys.config import Positions
from phoenix_recsys.inputs import Array


def slot_positions(length: int) -> jax.Array:
    """Token indices 0 … length−1, float32 [1, length]."""
    return jnp.arange(length, dtype=jnp.float32)[None, :]


def right_positions(
    valid: Array, history_seq_len: int, *, num_prefix: int = 1, candidate_start: int | None = None
) -> jax.Array:
    """Right-anchored positions (x-algorithm, May 2026 release), float32 [B, T].

    With e = num_prefix + history_seq_len and n valid history tokens, history token i (from 0) stands at e − n
    + i, candidates at e, padded tokens at 0.

    Args:
        valid: bool [B, T], all tokens.
        history_seq_len: the configured history length.
        num_prefix: tokens before the history.
        candidate_start: index of the first candidate; default num_prefix + history_seq_len.
    """
    valid = jnp.asarray(valid)
    end = num_prefix + history_seq_len
    start = end if candidate_start is None else candidate_start
    index = jnp.arange(valid.shape[1])
    in_history = (index >= num_prefix) & (index < start)
    count = jnp.sum(valid & in_history, axis=1, keepdims=True)
    history = end - count + (index - num_prefix)
    position = jnp.where(index < num_prefix, index, jnp.where(in_history, history, end))
    return jnp.where(valid, position, 0).astype(jnp.float32)


def anchored_positions(
    valid: Array, history_seq_len: int, *, num_prefix: int = 1, candidate_start: int | None = None
) -> jax.Array:
    """Anchored positions, float32 [B, T]; arguments as for :func:`right_positions`.

    The k-th valid history token (from 1) stands at num_prefix − 1 + k, every candidate at num_prefix +
    history_seq_len whatever the padded length is, padded tokens at 0.
    """
    valid = jnp.asarray(valid)
    end = num_prefix + history_seq_len
    start = end if candidate_start is None else candidate_start
    index = jnp.arange(valid.shape[1])
    in_history = (index >= num_prefix) & (index < start)
    history = num_prefix - 1 + jnp.cumsum(valid & in_history, axis=1)
    position = jnp.where(index < num_prefix, index, jnp.where(in_history, history, end))
    return jnp.where(valid, position, 0).astype(jnp.float32)


def ranker_positions(scheme: Positions, valid: Array, history_seq_len: int, *, candidate_start: int) -> jax.Array:
    """Positions of ``[user | history | candidates]`` under ``scheme``.

    Float32 [B, T] ([1, T] for ``slot``).
    """
    if scheme == "slot":
        return slot_positions(valid.shape[1])
    place = right_positions if scheme == "right" else anchored_positions
    return place(valid, history_seq_len, candidate_start=candidate_start)
