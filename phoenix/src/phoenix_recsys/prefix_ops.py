"""Building blocks of the prefix-shared program: products, norms, rotations and attention to a prefix.

B rows, T tokens, S places of a prefix, H query and G key/value heads of size K, D width of a token. Activations are
float32; products take their inputs in the precision of the weights and sum in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from phoenix_recsys.config import RankerConfig
from phoenix_recsys.device_tables import QuantizedRows
from phoenix_recsys.inputs import Array
from phoenix_recsys.layers import HIGHEST, LOGIT_CAP, NORM_EPSILON, ROPE_BASE, gelu
from phoenix_recsys.prefix_inputs import Rows
from phoenix_recsys.prefix_weights import LayerWeights, Matrix
from phoenix_recsys.quantized_weights import QuantizedMatrix, int8_product, int8_weights_product, integer_product

NO_WEIGHT = 1e-30
"""Below any sum of weights (each is at least exp(−30)), above 0: a row that sees nothing attends to nothing."""
COLUMN_MULTIPLE = 8
"""Values get their mask as a further column, and zeros up to a multiple of this, which matrix units like better."""


class Turn(NamedTuple):
    """A rotation by position: sine and cosine, float32 [B or 1, T, K/2]."""

    sin: jax.Array
    cos: jax.Array


class Own(NamedTuple):
    """What a token attends to beside the prefix: itself.

    Attributes:
        weight: exp of its own capped logit, float32 [B, T, H].
        value: [B, T, G·K].
    """

    weight: jax.Array
    value: jax.Array


def product(x: jax.Array, w: Matrix, *, sensitive: bool = False) -> jax.Array:
    """X · w with X in the precision of w and a float32 sum: [..., in] and [..., in, out] to [..., out].

    With int8 weights tokens are int8 too, or bfloat16 where the product is said to be ``sensitive``: input
    projections, and queries and keys, whose errors attention enlarges.

    Naming the output's dtype matters on a CPU, where XLA runs a bfloat16 product with a bfloat16 output as a
    float32 one between two conversions.
    """
    if isinstance(w, QuantizedMatrix):
        return (int8_weights_product if sensitive else int8_product)(x, w)
    return jnp.matmul(x.astype(w.dtype), w, precision=HIGHEST, preferred_element_type=jnp.float32)


def project_rows(rows: Rows, matrices: tuple[Matrix, ...]) -> jax.Array:
    """Sum over hashes of their rows times their matrix: n times [..., D] to float32 [..., D].

    As if the rows were concatenated and the matrices stacked, without the copy. Int8 rows enter products as the
    integers they are, and their scales afterwards.

    Raises:
        ValueError: if there are not as many matrices as rows.
    """
    total = jnp.zeros(())
    for row, matrix in zip(rows, matrices, strict=True):
        if not isinstance(row, QuantizedRows):
            total += product(jnp.asarray(row), matrix, sensitive=True)
            continue
        scale = jnp.asarray(row.scales)[..., None]
        if isinstance(matrix, QuantizedMatrix):
            total += integer_product(row.values, matrix.values) * scale * matrix.scales
        else:
            total += product(jnp.asarray(row.values), matrix) * scale
    return total


def rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """As :class:`phoenix_recsys.layers.RMSNorm`, float32."""
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return scale * (x * jax.lax.rsqrt(mean_square + NORM_EPSILON))


def turn_by(positions: Array, size: int, origin: int) -> Turn:
    """The rotation of heads of size K to ``positions`` [B or 1, T], counted from ``origin`` (RoPE, Su et al. 2021).

    An angle is the difference of two that are rounded to float32 by themselves, as where positions are absolute: at
    a thousand radians that rounding is what separates two implementations most.
    """
    frequencies = jnp.asarray(_frequencies(size))
    phase = jnp.asarray(positions, jnp.float32)[..., None] * frequencies - np.float32(origin) * frequencies
    return Turn(jnp.sin(phase), jnp.cos(phase))


def turn_to(places: jax.Array, size: int, origin: int, places_end: int) -> Turn:
    """:func:`turn_by` for whole positions in 0 … ``places_end`` − 1, out of tables.

    Inside a fused loop XLA would compute a sine anew for every element that it turns; a look-up costs nothing.
    """
    phase = (np.arange(places_end, dtype=np.float32)[:, None] * _frequencies(size)).astype(np.float64)
    phase -= (np.float32(origin) * _frequencies(size)).astype(np.float64)
    index = places.astype(jnp.int32)
    return Turn(*(jnp.take(jnp.asarray(table(phase), jnp.float32), index, axis=0) for table in (np.sin, np.cos)))


def _frequencies(size: int) -> npt.NDArray[np.float32]:
    with jax.ensure_compile_time_eval():  # by XLA, whose powers differ from numpy's in the last bit
        exponent = jnp.arange(0, size, 2, dtype=jnp.float32) / size
        return np.asarray(1.0 / (ROPE_BASE**exponent), np.float32)


def turned(x: jax.Array, turn: Turn) -> jax.Array:
    """Rotate heads [B, T, heads, K], pairing element j with j + K/2."""
    half = x.shape[-1] // 2
    sin, cos = turn.sin[:, :, None], turn.cos[:, :, None]
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def split_heads(x: jax.Array, size: int) -> jax.Array:
    """[..., heads·K] to [..., heads, K]."""
    return x.reshape(*x.shape[:-1], -1, size)


def capped_exp(logits: jax.Array, multiplier: float) -> jax.Array:
    """Exp of the scaled, capped logits: the numerator of a softmax, whose maximum need not be subtracted.

    The cap holds logits within ±30, so the exponentials lie in [9.4e-14, 1.1e13]: normal float32 (and bfloat16,
    whose range is the same) even when summed over 10^24 keys. The quotient is the same, and one pass over the logits
    is saved.
    """
    return jnp.exp(LOGIT_CAP * jnp.tanh(logits * jnp.float32(multiplier / LOGIT_CAP)))


def masked_values(values: jax.Array, valid: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Values [B, T, G, K] with zeros at padding, and the mask as column K: [B, G, T, K'], K' > K.

    The product of attention's weights with this gives their weighted sum and, in column K, their total: no weight
    of padding has to be masked, and none summed apart.
    """
    batch, places, groups, size = values.shape
    mask = jnp.broadcast_to(valid[:, :, None, None], (batch, places, groups, 1)).astype(dtype)
    rest = jnp.zeros((batch, places, groups, -(size + 1) % COLUMN_MULTIPLE), dtype)
    return jnp.concatenate([values.astype(dtype) * mask, mask, rest], axis=-1).transpose(0, 2, 1, 3)


def attend(
    config: RankerConfig,
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    *,
    seen: jax.Array | None = None,
    own: Own | None = None,
    precise: bool = True,
) -> jax.Array:
    """Capped softmax attention of queries to a prefix and, with ``own``, to themselves.

    One head after the other: the weights of one, [T, S], stay in a core's cache between their two products, which
    those of all heads would not, and products of two dimensions need no transposition of what they read.

    Args:
        config: the ranker's.
        queries: rotated, [B, T, H·K]; query head h reads key/value head h // (H / G).
        keys: [B, G, K, S].
        values: of :func:`masked_values`, [B, G, S, K'].
        seen: bool [B or 1, T, S] where a query sees less than all valid places.
        own: each query's own weight and value.
        precise: give float32 whatever the precision of attention.

    Returns:
        [B, T, H·K], float32 or in the precision of the keys.
    """
    model, size = config.model, config.model.key_size
    mixed = []
    # What reads the result rounds it to this in any case.
    dtype = jnp.float32 if precise else keys.dtype
    for head in range(model.num_q_heads):
        group = head * model.num_kv_heads // model.num_q_heads
        query = queries[..., head * size : (head + 1) * size]
        weights = capped_exp(product(query, keys[:, group]), model.attn_output_multiplier)
        if seen is not None:
            weights = jnp.where(seen, weights, 0.0)
        both = product(weights, values[:, group])
        mix, total = both[..., :size], both[..., size : size + 1]
        if own is None:
            mix /= jnp.maximum(total, NO_WEIGHT)
        else:
            weight = own.weight[..., head : head + 1]
            mine = own.value[..., group * size : (group + 1) * size].astype(jnp.float32)
            mix = (mix + weight * mine) / (total + weight)
        mixed.append(mix.astype(dtype))
    return jnp.concatenate(mixed, axis=-1)


def own_weights(config: RankerConfig, q: jax.Array, k: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Each token's attention to itself, before normalising: [B, T, H·K] and [B, T, G·K] to [B, T, H].

    Neither is rotated: turned by the same angle, a query and its own key have the product they had before. The sums
    over a head's elements are a product with a matrix of zeros and ones, which is several times faster on a CPU than
    as many small reductions.
    """
    model, size = config.model, config.model.key_size
    share = model.num_q_heads // model.num_kv_heads
    if share > 1:
        k = jnp.repeat(split_heads(k, size), share, axis=-2).reshape(q.shape)
    summing = np.repeat(np.eye(model.num_q_heads, dtype=np.float32), size, axis=0)
    return capped_exp(product(q * k, jnp.asarray(summing, dtype)), model.attn_output_multiplier)


def after_attention(layer: LayerWeights, h: jax.Array, mixed: jax.Array) -> jax.Array:
    """The rest of a layer: attention's outputs [B, T, H·K] into the residual stream [B, T, D]."""
    h = h + rms_norm(product(mixed, layer.attention_out), layer.norms[1])
    both = product(rms_norm(h, layer.norms[2]), layer.gate_value)
    gate, value = jnp.split(both, 2, axis=-1)
    return h + rms_norm(product(gelu(gate) * value, layer.feed_forward_out), layer.norms[3])


def small_lookup(table: jax.Array, index: Array) -> jax.Array:
    """Rows of a table; an index outside it gives zeros."""
    index = jnp.asarray(index)
    inside = (index >= 0) & (index < table.shape[0])
    return jnp.where(inside[..., None], jnp.take(table, jnp.where(inside, index, 0), axis=0), 0.0)
