"""The ranker's parameters arranged for the prefix-shared program, in the precision it computes in."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from phoenix_recsys.config import RankerConfig
from phoenix_recsys.layers import HIGHEST
from phoenix_recsys.transforms import Params

Precision = Literal["float32", "bfloat16"]
MODEL = "phoenix_model"


class LayerWeights(NamedTuple):
    """One decoder layer: matrices in the precision of products, norm scales float32 [D].

    Attributes:
        norms: before and after attention, before and after the feed-forward.
        query: [D, H·K].
        key_value: [D, 2·G·K], keys first.
        attention_out: [H·K, D].
        gate_value: [D, 2·F], gate first.
        feed_forward_out: [F, D].
    """

    norms: tuple[jax.Array, jax.Array, jax.Array, jax.Array]
    query: jax.Array
    key_value: jax.Array
    attention_out: jax.Array
    gate_value: jax.Array
    feed_forward_out: jax.Array


class Weights(NamedTuple):
    """Everything the program reads; its precision is that of the matrices.

    Projecting a concatenation is the sum of projecting its parts, so the small feature tables and matrices
    (surfaces, ages, actions, dwell) stand here already projected; rows of the large tables do not.

    Attributes:
        user: [nu·D, D].
        history: [(ni+na)·D, D], posts before authors.
        history_actions: [A, D], projected.
        history_surfaces: float32 [V_s, D], projected.
        dwell_in: float32 [1, hid] (May).
        dwell_out: [hid, D], projected (May).
        candidate: [(ni+na)·D, D].
        candidate_surfaces: float32 [V_s, D], projected.
        candidate_ages: float32 [V_age, D], projected (May).
        layers: one per decoder layer.
        final_norm: float32 [D].
        heads: [D, A].
        continuous_heads: [D, Nc] (May).
    """

    user: jax.Array
    history: jax.Array
    history_actions: jax.Array
    history_surfaces: jax.Array
    dwell_in: jax.Array | None
    dwell_out: jax.Array | None
    candidate: jax.Array
    candidate_surfaces: jax.Array
    candidate_ages: jax.Array | None
    layers: tuple[LayerWeights, ...]
    final_norm: jax.Array
    heads: jax.Array
    continuous_heads: jax.Array | None


def arrange(params: Params, config: RankerConfig, precision: Precision = "float32") -> Weights:
    """Arrange a ranker's parameter tree; pure, so it may run inside ``jax.jit``.

    Args:
        params: float32 parameters under their published paths.
        config: the ranker's; ``fprop_dtype`` is not read, ``precision`` takes its place.
        precision: dtype of the inputs of products; they accumulate in float32 under either.

    Raises:
        ValueError: if ``precision`` is no known one.
    """
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision must be float32 or bfloat16, not {precision!r}")
    dtype = jnp.dtype(precision)
    model, size, hashes = params[MODEL], config.emb_size, config.hash_config
    looked_up = (hashes.num_item_hashes + hashes.num_author_hashes) * size
    may = config.release == "may"

    def entry(name: str) -> jax.Array:
        return jnp.asarray(model[name], jnp.float32)

    def projected(table: str, matrix: str, part: int) -> jax.Array:
        """Rows of a small table times the ``part``-th feature slice of a projection, float32."""
        start = looked_up + part * size
        return jnp.matmul(entry(table), entry(matrix)[start : start + size], precision=HIGHEST)

    return Weights(
        user=entry("proj_mat_1").astype(dtype),
        history=entry("proj_mat_3")[:looked_up].astype(dtype),
        history_actions=projected("action_projection", "proj_mat_3", 0).astype(dtype),
        history_surfaces=projected("product_surface_embedding_table", "proj_mat_3", 1),
        dwell_in=entry("history_dwell_time_proj1") if may else None,
        dwell_out=projected("history_dwell_time_proj2", "proj_mat_3", 2).astype(dtype) if may else None,
        candidate=entry("proj_mat_2")[:looked_up].astype(dtype),
        candidate_surfaces=projected("product_surface_embedding_table", "proj_mat_2", 0),
        candidate_ages=projected("post_age_embedding_table", "proj_mat_2", 1) if may else None,
        layers=tuple(_layer(params, index, dtype) for index in range(config.model.num_layers)),
        final_norm=jnp.asarray(params[f"{MODEL}/rms_norm"]["scale"], jnp.float32),
        heads=entry("unembeddings").astype(dtype),
        continuous_heads=entry("continuous_unembeddings").astype(dtype) if may else None,
    )


def _layer(params: Params, index: int, dtype: jnp.dtype) -> LayerWeights:
    root = f"transformer/decoder_layer_{index}"

    def scale(name: str) -> jax.Array:
        return jnp.asarray(params[f"{root}/{name}"]["scale"], jnp.float32)

    def matrix(*names: str) -> jax.Array:
        return jnp.concatenate([jnp.asarray(params[f"{root}/{name}"]["w"], dtype) for name in names], axis=1)

    attention = "multi_head_attention"
    return LayerWeights(
        (scale("rms_norm"), scale("rms_norm_1"), scale("rms_norm_2"), scale("rms_norm_3")),
        matrix(f"{attention}/query"),
        matrix(f"{attention}/key", f"{attention}/value"),
        matrix(f"{attention}/linear"),
        matrix("linear", "linear_v"),
        matrix("linear_1"),
    )
