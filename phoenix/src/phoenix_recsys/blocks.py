"""Input blocks: from looked-up rows and features to tokens.

Products run in the precision of their matrix, float32 in the published code. Every function here belongs inside a
module: it asks haiku for the parameters it needs under their published names, so the same parameter comes back
whichever block asks first.
"""

from __future__ import annotations

from collections.abc import Sequence

import haiku as hk
import jax
import jax.numpy as jnp

from phoenix_recsys.inputs import Array
from phoenix_recsys.layers import gelu, matrix, product, variance_scaling


def scaled_by_columns() -> hk.initializers.Initializer:
    """Truncated normal with standard deviation 1/sqrt(columns)."""
    return variance_scaling("fan_out")


def scaled_by_rows() -> hk.initializers.Initializer:
    """Truncated normal with standard deviation 1/sqrt(rows).

    Drawn in the transposed shape as the published code does.
    """
    transposed = variance_scaling("fan_out")
    return lambda shape, dtype: transposed(tuple(reversed(shape)), dtype).T


def float32_parameter(name: str, shape: Sequence[int], init: hk.initializers.Initializer) -> jax.Array:
    """The float32 parameter ``name`` of the current module."""
    return jnp.asarray(hk.get_parameter(name, tuple(shape), jnp.float32, init=init))


def lookup(name: str, index: Array, vocab_size: int, emb_size: int, dtype: jnp.dtype) -> jax.Array:
    """Row ``index`` of the table ``name``: int [...] to [..., D].

    An index outside the table gives the zero vector.
    """
    table = float32_parameter(name, (vocab_size, emb_size), scaled_by_columns())
    index = jnp.asarray(index)
    inside = (index >= 0) & (index < vocab_size)
    rows = jnp.take(table, jnp.where(inside, index, 0), axis=0)
    return jnp.where(inside[..., None], rows, 0.0).astype(dtype)


def action_embedding(actions: Array, emb_size: int, dtype: jnp.dtype) -> jax.Array:
    """Multi-hot actions [..., A] to [..., D]: ±1 per action times a matrix.

    A token without any action gives zero.
    """
    actions = jnp.asarray(actions, jnp.float32)
    signed = product(
        2.0 * actions - 1.0, matrix("action_projection", (actions.shape[-1], emb_size), scaled_by_columns())
    )
    taken = jnp.any(actions != 0.0, axis=-1, keepdims=True)
    return (signed * taken.astype(jnp.float32)).astype(dtype)


def normalise_dwell(seconds: Array, scale: float, use_log: bool) -> jax.Array:
    """Clip to [0, scale] and bring to [0, 1], linearly or on a log1p scale; float32, any shape."""
    clipped = jnp.clip(jnp.asarray(seconds, jnp.float32), 0.0, scale)
    return jnp.log1p(clipped) / jnp.log1p(jnp.float32(scale)) if use_log else clipped / scale


def dwell_embedding(normalised: jax.Array, hidden: int, emb_size: int, dtype: jnp.dtype) -> jax.Array:
    """Normalised dwell time [...] to [..., D] by a two-layer projection without bias: 0 stays 0."""
    first = float32_parameter("history_dwell_time_proj1", (1, hidden), scaled_by_rows())
    second = matrix("history_dwell_time_proj2", (hidden, emb_size), scaled_by_rows())
    return product(gelu(product(normalised[..., None], first)), second).astype(dtype)


def project(name: str, parts: Sequence[Array], emb_size: int) -> jax.Array:
    """Concatenate token parts [..., d_i] and project them with the matrix ``name`` to [..., D].

    The result has the dtype of the concatenation.
    """
    joined = jnp.concatenate([jnp.asarray(part) for part in parts], axis=-1)
    w = matrix(name, (joined.shape[-1], emb_size), scaled_by_rows())
    # Parts of very different size share a token here, and all layers see its error.
    return product(joined, w, sensitive=True).astype(joined.dtype)


def add_ip(token: jax.Array, ip_embeddings: Array) -> jax.Array:
    """Add the sum of address rows [B, n_ip, D] to the user token [B, 1, D]."""
    total = jnp.sum(jnp.asarray(ip_embeddings), axis=1, keepdims=True)
    return token + total.astype(token.dtype)


def flatten_hashes(embeddings: Array) -> jax.Array:
    """[..., n, D] to [..., n·D]."""
    rows = jnp.asarray(embeddings)
    return rows.reshape(*rows.shape[:-2], rows.shape[-2] * rows.shape[-1])
