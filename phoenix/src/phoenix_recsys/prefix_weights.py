"""The ranker's parameters arranged for the prefix-shared program, in the precision it computes in."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from phoenix_recsys.backend import PRECISIONS, Precision
from phoenix_recsys.config import RankerConfig
from phoenix_recsys.layers import HIGHEST
from phoenix_recsys.quantized_weights import QuantizedMatrix, as_float, quantize_matrix
from phoenix_recsys.transforms import Params

MODEL = "phoenix_model"

Matrix: TypeAlias = jax.Array | QuantizedMatrix
"""A weight matrix [in, out]: float32, bfloat16, or int8 with scales."""


class LayerWeights(NamedTuple):
    """One decoder layer: matrices in the precision of products, norm scales float32 [D].

    Attributes:
        norms: before and after attention, before and after the feed-forward.
        query_key_value: [D, H·K + 2·G·K], in this order.
        attention_out: [H·K, D].
        gate_value: [D, 2·F], gate first.
        feed_forward_out: [F, D].
    """

    norms: tuple[jax.Array, jax.Array, jax.Array, jax.Array]
    query_key_value: Matrix
    attention_out: Matrix
    gate_value: Matrix
    feed_forward_out: Matrix


class Weights(NamedTuple):
    """Everything the program reads; its precision is that of the matrices.

    Projecting a concatenation is the sum of projecting its parts, so each looked-up row has a matrix of its own, and
    the small feature tables and matrices (surfaces, ages, actions, dwell) stand here already projected; rows of the
    large tables do not.

    Attributes:
        user: nu matrices [D, D].
        history: ni + na matrices [D, D], posts before authors.
        history_actions: [A, D], projected.
        history_surfaces: float32 [V_s, D], projected.
        dwell_in: float32 [1, hid] (May).
        dwell_out: [hid, D], projected (May).
        candidate: ni + na matrices [D, D], posts before authors.
        candidate_surfaces: float32 [V_s, D], projected.
        candidate_ages: float32 [V_age, D], projected (May).
        layers: one per decoder layer.
        final_norm: float32 [D].
        heads: [D, A].
        continuous_heads: [D, Nc] (May).
    """

    user: tuple[Matrix, ...]
    history: tuple[Matrix, ...]
    history_actions: Matrix
    history_surfaces: jax.Array
    dwell_in: jax.Array | None
    dwell_out: Matrix | None
    candidate: tuple[Matrix, ...]
    candidate_surfaces: jax.Array
    candidate_ages: jax.Array | None
    layers: tuple[LayerWeights, ...]
    final_norm: jax.Array
    heads: Matrix
    continuous_heads: Matrix | None

    @property
    def attention_dtype(self) -> jnp.dtype:
        """Of keys, values and attention's products: bfloat16 beside int8 matrices.

        Quantising the weights of attention for each query costs more than a faster product gives back, and keys and
        values in bfloat16 keep a prefix exact enough to serve either.
        """
        matrix = self.layers[0].query_key_value
        return jnp.dtype(jnp.bfloat16) if isinstance(matrix, QuantizedMatrix) else jnp.dtype(matrix.dtype)


def arrange(params: Params, config: RankerConfig, precision: Precision = "float32") -> Weights:
    """Arrange a ranker's parameter tree.

    Args:
        params: parameters under their published paths, float32 or (matrices) already quantised.
        config: the ranker's; ``fprop_dtype`` is not read, ``precision`` takes its place.
        precision: of the inputs of products; they sum in float32 (``int8``: exactly) under any.

    Raises:
        ValueError: if ``precision`` is no known one.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, found {precision!r}")
    model, size, hashes = params[MODEL], config.emb_size, config.hash_config
    per_item = hashes.num_item_hashes + hashes.num_author_hashes
    may = config.release == "may"

    def parts(name: str, count: int) -> tuple[Matrix, ...]:
        """The first ``count`` square blocks of a projection."""
        return tuple(_cast(_rows(model[name], i * size, (i + 1) * size), precision) for i in range(count))

    def projected(table: str, matrix: str, part: int) -> jax.Array:
        """Rows of a small table times the ``part``-th feature slice of a projection, float32."""
        start = (per_item + part) * size
        slice_ = jnp.asarray(as_float(_rows(model[matrix], start, start + size)))
        return jnp.matmul(jnp.asarray(as_float(model[table])), slice_, precision=HIGHEST)

    return Weights(
        user=parts("proj_mat_1", hashes.num_user_hashes),
        history=parts("proj_mat_3", per_item),
        history_actions=_cast(projected("action_projection", "proj_mat_3", 0), precision),
        history_surfaces=projected("product_surface_embedding_table", "proj_mat_3", 1),
        dwell_in=jnp.asarray(as_float(model["history_dwell_time_proj1"])) if may else None,
        dwell_out=_cast(projected("history_dwell_time_proj2", "proj_mat_3", 2), precision) if may else None,
        candidate=parts("proj_mat_2", per_item),
        candidate_surfaces=projected("product_surface_embedding_table", "proj_mat_2", 0),
        candidate_ages=projected("post_age_embedding_table", "proj_mat_2", 1) if may else None,
        layers=tuple(_layer(params, index, precision) for index in range(config.model.num_layers)),
        final_norm=jnp.asarray(params[f"{MODEL}/rms_norm"]["scale"], jnp.float32),
        heads=_cast(model["unembeddings"], precision),
        continuous_heads=_cast(model["continuous_unembeddings"], precision) if may else None,
    )


def _layer(params: Params, index: int, precision: Precision) -> LayerWeights:
    root = f"transformer/decoder_layer_{index}"

    def scale(name: str) -> jax.Array:
        return jnp.asarray(params[f"{root}/{name}"]["scale"], jnp.float32)

    def matrix(*names: str) -> Matrix:
        """Matrices side by side; each output channel keeps its scale."""
        found = [_cast(params[f"{root}/{name}"]["w"], precision) for name in names]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=-1), *found)  # type: ignore[no-any-return] # jax

    attention = "multi_head_attention"
    return LayerWeights(
        (scale("rms_norm"), scale("rms_norm_1"), scale("rms_norm_2"), scale("rms_norm_3")),
        matrix(f"{attention}/query", f"{attention}/key", f"{attention}/value"),
        matrix(f"{attention}/linear"),
        matrix("linear", "linear_v"),
        matrix("linear_1"),
    )


def _rows(matrix: Any, start: int, stop: int) -> Any:
    if isinstance(matrix, QuantizedMatrix):
        return QuantizedMatrix(matrix.values[start:stop], matrix.scales)
    return matrix[start:stop]


def _cast(matrix: Any, precision: Precision) -> Matrix:
    if precision != "int8":
        return jnp.asarray(as_float(matrix)).astype(precision)
    found = matrix if isinstance(matrix, QuantizedMatrix) else quantize_matrix(matrix)
    return QuantizedMatrix(jnp.asarray(found.values), jnp.asarray(found.scales))
