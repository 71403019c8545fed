"""Building blocks of the trunk: linear, RMS norm, rotary positions, attention, gated feed-forward.

Parameters are float32. Activations keep the dtype they come in (float32 or bfloat16); every product
accumulates in float32 and is rounded once. Formulas: RMSNorm (Zhang & Sennrich 2019), RoPE (Su et al. 2021),
gated linear units (Shazeer 2020), grouped-query attention (Ainslie et al. 2023), as composed in the
x-algorithm May 2026 release.
"""

from __future__ import annotations

import math

import haiku as hk
import jax
import jax.numpy as jnp

from phoenix_recsys.config import Init, TransformerConfig

HIGHEST = jax.lax.Precision.HIGHEST
MASKED_LOGIT = -1e30
LOGIT_CAP = 30.0
ROPE_BASE = 10000.0
NORM_EPSILON = 1e-5


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


class Linear(hk.Module):
    """y = x · W without bias; W is float32 [in, out] and is cast to the dtype of x."""

    def __init__(self, output_size: int, init: Init, name: str) -> None:
        super().__init__(name=name)
        self.output_size = output_size
        self.init: Init = init

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] to [..., out]."""
        init = (
            hk.initializers.Constant(0.0)
            if self.init == "published"
            # Variance 1 / mean(in, out) = 2 / (in + out), the truncated normal of Glorot & Bengio 2010.
            else variance_scaling("fan_avg")
        )
        w = hk.get_parameter("w", (x.shape[-1], self.output_size), jnp.float32, init=init)
        return jnp.matmul(x, w.astype(x.dtype), precision=HIGHEST)


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


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, multiplier: float) -> jax.Array:
    """Capped softmax attention with grouped key/value heads.

    Args:
        q: [B, T, H, K]; query head h reads key/value head h // (H / G).
        k: [B, S, G, K].
        v: [B, S, G, K].
        mask: bool, broadcastable to [B, T, S]; False removes a key. A row without any key attends to all
            uniformly.
        multiplier: factor on q·k; the only temperature.

    Returns:
        [B, T, H·K] in the dtype of q, heads in order.
    """
    batch, length, heads, size = q.shape
    groups = k.shape[2]
    grouped = q.reshape(batch, length, groups, heads // groups, size)
    logits = jnp.einsum("btghk,bsgk->bghts", grouped, k, precision=HIGHEST)
    weights = _weights(logits, mask, multiplier, q.dtype)
    mixed = jnp.einsum("bghts,bsgk->btghk", weights, v, precision=HIGHEST)
    return mixed.reshape(batch, length, heads * size)


def attend_isolated(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, start: int, multiplier: float
) -> jax.Array:
    """:func:`attend` for a sequence whose tokens from ``start`` on see the prefix and themselves only.

    Equal to attending densely under such a mask at every valid token, without the quadratic part among
    candidates. Arguments and result as for :func:`attend`, with T = S.
    """
    batch, length, heads, size = q.shape
    groups, count = k.shape[2], length - start
    mask = jnp.broadcast_to(mask, (mask.shape[0], length, length))
    prefix = attend(q[:, :start], k[:, :start], v[:, :start], mask[:, :start, :start], multiplier)
    grouped = q[:, start:].reshape(batch, count, groups, heads // groups, size)
    own_k, own_v = k[:, start:], v[:, start:]
    logits = jnp.einsum("btghk,bsgk->bghts", grouped, k[:, :start], precision=HIGHEST)
    own = jnp.einsum("btghk,btgk->bght", grouped, own_k, precision=HIGHEST)[..., None]
    allowed = jnp.concatenate([mask[:, start:, :start], jnp.diagonal(mask, axis1=1, axis2=2)[:, start:, None]], axis=-1)
    weights = _weights(jnp.concatenate([logits, own], axis=-1), allowed, multiplier, q.dtype)
    wide = jnp.float32  # both parts are summed before the one rounding, as a single product would be
    mixed = jnp.einsum(
        "bghts,bsgk->btghk", weights[..., :-1], v[:, :start], precision=HIGHEST, preferred_element_type=wide
    )
    mixed += jnp.einsum("bght,btgk->btghk", weights[..., -1], own_v, precision=HIGHEST, preferred_element_type=wide)
    return jnp.concatenate([prefix, mixed.astype(q.dtype).reshape(batch, count, heads * size)], axis=1)


def _weights(logits: jax.Array, mask: jax.Array, multiplier: float, dtype: jnp.dtype) -> jax.Array:
    """Cap, mask and softmax in float32: logits [B, G, H/G, T, S] and mask [B or 1, T, S].

    Rounded to ``dtype``.
    """
    logits = LOGIT_CAP * jnp.tanh(logits.astype(jnp.float32) * jnp.float32(multiplier) / LOGIT_CAP)
    logits = jnp.where(mask[:, None, None, :, :], logits, MASKED_LOGIT)
    return jax.nn.softmax(logits, axis=-1).astype(dtype)


class MultiHeadAttention(hk.Module):
    """Grouped-query self-attention with rotary positions and a 30·tanh(·/30) cap on the logits."""

    def __init__(self, config: TransformerConfig, init: Init, name: str) -> None:
        super().__init__(name=name)
        self.config = config
        self.init: Init = init

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
        if isolated_from is None:
            mixed = attend(q, k, v, mask, multiplier)
        else:
            mixed = attend_isolated(q, k, v, mask, isolated_from, multiplier)
        return Linear(x.shape[-1], self.init, child_name(self, "linear"))(mixed)

    def _heads(self, x: jax.Array, name: str, heads: int) -> jax.Array:
        y = Linear(heads * self.config.key_size, self.init, child_name(self, name))(x)
        return y.reshape(*x.shape[:-1], heads, self.config.key_size)


def gelu(x: jax.Array) -> jax.Array:
    """0.5·x·(1 + tanh(sqrt(2/π)·(x + 0.044715·x³))), the tanh form of Hendrycks & Gimpel 2016."""
    root = jnp.asarray(math.sqrt(2.0 / math.pi), x.dtype)
    cubic = jnp.asarray(0.044715, x.dtype)
    return x * (0.5 * (1.0 + jnp.tanh(root * (x + cubic * (x * x * x)))))
