"""Which token may attend to which: boolean [T, T] structures combined with [B, T] validity.

The sequence is ``[user | history | candidates]``. User and history are causal; a candidate sees all of them
and itself.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from phoenix_recsys.inputs import Array


def causal_mask(length: int) -> jax.Array:
    """Lower triangle with the diagonal, bool [length, length]; rows are queries."""
    return jnp.tril(jnp.ones((length, length), dtype=bool))


def candidate_isolation_mask(length: int, candidate_start: int) -> jax.Array:
    """Causal, but no token at or after ``candidate_start`` sees another such token; bool [length, length]."""
    index = jnp.arange(length)
    is_candidate = index >= candidate_start
    among_candidates = is_candidate[:, None] & is_candidate[None, :]
    return causal_mask(length) & (~among_candidates | jnp.eye(length, dtype=bool))


def mask_padded_keys(structure: Array, valid: Array) -> jax.Array:
    """Remove padded tokens as keys: bool [T, T] and bool [B, T] give bool [B, T, T].

    Queries are never masked.
    """
    return jnp.asarray(structure)[None, :, :] & jnp.asarray(valid)[:, None, :]
