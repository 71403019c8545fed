"""Building blocks of the trunk: linear, RMS norm, rotary positions, attention, gated feed-forward.

Parameters are float32, or matrices in bfloat16 or int8 where a server put them there. Activations keep the dtype they
come in (float32 or bfloat16); every product accumulates in float32, said explicitly, and is rounded once. Formulas:
RMSNorm (Zhang & Sennrich 2019), RoPE (Su et al. 2021), gated linear units (Shazeer 2020), grouped-query attention
(Ainslie et al. 2023), as composed in the x-algorithm May 2026 release.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias, cast

import haiku as hk
import jax
import jax.numpy as jnp

from phoenix_recsys.config import Init, TransformerConfig
from phoenix_recsys.quantized_weights import QuantizedMatrix, int8_product, int8_weights_product

HIGHEST = jax.lax.Precision.HIGHEST
MASKED_LOGIT = -1e30
LOGIT_CAP = 30.0
ROPE_BASE = 10000.0
NORM_EPSILON = 1e-5


Matrix: TypeAlias = jax.Array | QuantizedMatrix
"""A weight matrix [in, out]."""


def child_name(parent: hk.Module, name: str) -> str:
    """A parameter path below ``parent`` that does not depend on which method asks for it."""
    return str(hk.force_name(f"{parent.module_name}/{name}"))


def round_to(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Cast ``x``, keeping a bfloat16 rounding even where XLA would fuse it away."""
    x = x.astype(dtype)
    if dtype == jnp.bfloat16:
        return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    return x


def variance_scaling(mode: str) -> hk.initializers.Initializer:
    """Truncated normal with variance 1/n, n as ``mode`` says.

    Its standard deviation is that after the cut at 2σ.
    """
    return hk.initializers.VarianceScaling(1.0, mode)  # type: ignore[no-untyped-call] # haiku annotates no __init__


def matrix(name: str, shape: Sequence[int], init: hk.initializers.Initializer) -> Matrix:
    """The matrix ``name`` [in, out] of the current module: fresh ones are float32, given ones in any precision."""
    return cast("Matrix", hk.get_parameter(name, tuple(shape), jnp.float32, init=init))


def product(x: jax.Array, w: Matrix, *, sensitive: bool = False) -> jax.Array:
    """X · W in the precision of W, summed in float32: [..., in] and [in, out] to float32 [..., out].

    With an int8 W, tokens are int8 too, or bfloat16 where the product is said to be ``sensitive``.
    """
    if isinstance(w, QuantizedMatrix):
        return (int8_weights_product if sensitive else int8_product)(x.astype(jnp.float32), w)
    # Without the explicit dtype, a bfloat16 product gives bfloat16, which XLA runs in float32 on a CPU.
    return jnp.matmul(x.astype(w.dtype), w, precision=HIGHEST, preferred_element_type=jnp.float32)


class Linear(hk.Module):
    """y = x · W without bias; a float32 W is cast to the dtype of x. For ``sensitive`` see :func:`product`."""

    def __init__(self, output_size: int, init: Init, name: str, *, sensitive: bool = False) -> None:
        super().__init__(name=name)
        self.output_size = output_size
        self.sensitive = sensitive
        self.init: Init = init

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] to [..., out]."""
        init = (
            hk.initializers.Constant(0.0)
            if self.init == "published"
            # Variance 1 / mean(in, out) = 2 / (in + out), the truncated normal of Glorot & Bengio 2010.
            else variance_scaling("fan_avg")
        )
        w = matrix("w", (x.shape[-1], self.output_size), init)
        if not isinstance(w, QuantizedMatrix) and w.dtype == jnp.float32:
            w = w.astype(x.dtype)
        return product(x, w, sensitive=self.sensitive).astype(x.dtype)


class RMSNorm(hk.Module):
    """y = scale · x / sqrt(mean(x²) + 1e-5), computed in float32 and rounded to the dtype of x.

    ``initial_scale`` is what a trainable initialisation starts from; the published one is 0.
    """

    def __init__(self, init: Init, name: str, initial_scale: float = 1.0) -> None:
        super().__init__(name=name)
        self.initial_scale = 0.0 if init == "published" else initial_scale

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to [..., D]."""
        init = hk.initializers.Constant(self.initial_scale)
        scale = hk.get_parameter("scale", (x.shape[-1],), jnp.float32, init=init)
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        return (scale * (wide * jax.lax.rsqrt(mean_square + NORM_EPSILON))).astype(x.dtype)


def rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Rotary position embedding over the last axis, pairing element j with j + K/2.

    Args:
        x: [B, T, heads, K], K even.
        positions: float32 [B, T] or [1, T].

    Returns:
        The same shape and dtype; phases and products are float32.
    """
    half = x.shape[-1] // 2
    exponent = jnp.arange(0, 2 * half, 2, dtype=jnp.float32) / (2 * half)
    frequency = 1.0 / (ROPE_BASE**exponent)
    phase = (positions.astype(jnp.float32)[..., None] * frequency)[:, :, None, :]
    sin, cos = jnp.sin(phase), jnp.cos(phase)
    first, second = x[..., :half], x[..., half:]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    multiplier: float,
    *,
    dtype: jnp.dtype | None = None,
) -> jax.Array:
    """Capped softmax attention with grouped key/value heads.

    Args:
        q: [B, T, H, K]; query head h reads key/value head h // (H / G).
        k: [B, S, G, K].
        v: [B, S, G, K].
        mask: bool, broadcastable to [B, T, S]; False removes a key. A row without any key attends to all
            uniformly.
        multiplier: factor on q·k; the only temperature.
        dtype: what logits and results are rounded to; default the dtype of q.

    Returns:
        [B, T, H·K] in that dtype, heads in order.
    """
    dtype = dtype or q.dtype
    weights = _weights(_logits(q, k).astype(dtype), mask, multiplier, q.dtype)
    return _join_heads(_mix(weights, v)).astype(dtype)


def attend_isolated(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    start: int,
    multiplier: float,
    *,
    dtype: jnp.dtype | None = None,
) -> jax.Array:
    """:func:`attend` for a sequence whose tokens from ``start`` on see the prefix and themselves only.

    Equal to attending densely under such a mask at every valid token, without the quadratic part among
    candidates. Arguments and result as for :func:`attend`, with T = S.
    """
    dtype = dtype or q.dtype
    batch, length, heads, size = q.shape
    groups, count = k.shape[2], length - start
    mask = jnp.broadcast_to(mask, (mask.shape[0], length, length))
    prefix = attend(q[:, :start], k[:, :start], v[:, :start], mask[:, :start, :start], multiplier, dtype=dtype)
    logits = _logits(q[:, start:], k[:, :start])
    # A token and itself: one sum for each head, which as a product with three batch dimensions would be slow.
    grouped = q[:, start:].astype(jnp.float32).reshape(batch, count, groups, heads // groups, size)
    own = jnp.sum(grouped * k[:, start:, :, None].astype(jnp.float32), axis=-1)
    logits = jnp.concatenate([logits, own.transpose(0, 2, 3, 1)[..., None]], axis=-1).astype(dtype)
    allowed = jnp.concatenate([mask[:, start:, :start], jnp.diagonal(mask, axis1=1, axis2=2)[:, start:, None]], axis=-1)
    weights = _weights(logits, allowed, multiplier, q.dtype)
    # Both parts are summed before the one rounding, as a single product would be.
    own_weights = weights[..., -1].astype(jnp.float32).transpose(0, 3, 1, 2)[..., None]
    own_values = (own_weights * v[:, start:, :, None].astype(jnp.float32)).reshape(batch, count, heads, size)
    mixed = _join_heads(_mix(weights[..., :-1], v[:, :start]) + own_values).astype(dtype)
    return jnp.concatenate([prefix, mixed], axis=1)


def _logits(q: jax.Array, k: jax.Array) -> jax.Array:
    """Products of queries [B, T, H, K] and keys [B, S, G, K]: float32 [B, G, H/G, T, S]."""
    batch, length, heads, size = q.shape
    groups, share = k.shape[2], heads // k.shape[2]
    # Heads that share keys stand below one another, and rows and groups are one batch dimension: with two, XLA runs
    # a bfloat16 product in float32 on a CPU.
    stacked = q.reshape(batch, length, groups, share, size).transpose(0, 2, 3, 1, 4)
    stacked = stacked.reshape(batch * groups, share * length, size)
    keys = k.transpose(0, 2, 3, 1).reshape(batch * groups, size, -1)
    return product(stacked, keys).reshape(batch, groups, share, length, -1)


def _mix(weights: jax.Array, v: jax.Array) -> jax.Array:
    """Sums of values [B, S, G, K] with weights [B, G, H/G, T, S]: float32 [B, T, H, K]."""
    batch, groups, share, length, _ = weights.shape
    stacked = weights.reshape(batch * groups, share * length, -1)
    values = v.transpose(0, 2, 1, 3).reshape(batch * groups, *v.shape[1::2])
    mixed = product(stacked, values).reshape(batch, groups, share, length, -1)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, groups * share, -1)


def _join_heads(x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:2], -1)


def _weights(logits: jax.Array, mask: jax.Array, multiplier: float, dtype: jnp.dtype) -> jax.Array:
    """Cap, mask and softmax in float32: logits [B, G, H/G, T, S] and mask [B or 1, T, S].

    Rounded to ``dtype``.
    """
    logits = LOGIT_CAP * jnp.tanh(logits.astype(jnp.float32) * jnp.float32(multiplier) / LOGIT_CAP)
    logits = jnp.where(mask[:, None, None, :, :], logits, MASKED_LOGIT)
    return jax.nn.softmax(logits, axis=-1).astype(dtype)


class MultiHeadAttention(hk.Module):
    """Grouped-query self-attention with rotary positions and a 30·tanh(·/30) cap on the logits.

    ``products`` is the dtype of the inputs of its products; default that of its tokens.
    """

    def __init__(self, config: TransformerConfig, init: Init, name: str, products: jnp.dtype | None = None) -> None:
        super().__init__(name=name)
        self.config = config
        self.init: Init = init
        self.products = products

    def __call__(
        self, x: jax.Array, mask: jax.Array, positions: jax.Array, isolated_from: int | None = None
    ) -> jax.Array:
        """[B, T, D], bool mask [B or 1, T, T], positions [B or 1, T] to [B, T, D].

        See :func:`attend_isolated`.
        """
        q = rotate(self._heads(x, "query", self.config.num_q_heads), positions)
        k = rotate(self._heads(x, "key", self.config.num_kv_heads), positions)
        v = self._heads(x, "value", self.config.num_kv_heads)
        multiplier = self.config.attn_output_multiplier
        if self.products is not None:
            q, k, v = (part.astype(self.products) for part in (q, k, v))
        if isolated_from is None:
            mixed = attend(q, k, v, mask, multiplier, dtype=x.dtype)
        else:
            mixed = attend_isolated(q, k, v, mask, isolated_from, multiplier, dtype=x.dtype)
        return Linear(x.shape[-1], self.init, child_name(self, "linear"))(mixed)

    def _heads(self, x: jax.Array, name: str, heads: int) -> jax.Array:
        # Logits go through an exponential, which multiplies the errors of queries and keys.
        sensitive = name != "value"
        y = Linear(heads * self.config.key_size, self.init, child_name(self, name), sensitive=sensitive)(x)
        return y.reshape(*x.shape[:-1], heads, self.config.key_size)


def gelu(x: jax.Array) -> jax.Array:
    """0.5·x·(1 + tanh(sqrt(2/π)·(x + 0.044715·x³))), the tanh form of Hendrycks & Gimpel 2016."""
    root = jnp.asarray(math.sqrt(2.0 / math.pi), x.dtype)
    cubic = jnp.asarray(0.044715, x.dtype)
    return x * (0.5 * (1.0 + jnp.tanh(root * (x + cubic * (x * x * x)))))
