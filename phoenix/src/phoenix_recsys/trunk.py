"""The transformer trunk shared by ranker and retrieval."""

from __future__ import annotations

import haiku as hk
import jax
import jax.numpy as jnp

from phoenix_recsys.config import Init, TransformerConfig
from phoenix_recsys.inputs import Array
from phoenix_recsys.layers import Linear, MultiHeadAttention, RMSNorm, child_name, gelu, round_to

POST_NORM_SCALE = 0.3
"""Trainable start of the norms behind each branch: small, so that the trunk begins near the identity."""


class DecoderLayer(hk.Module):
    """h + norm(attention(norm(h))), then h + norm(ffn(norm(h))): each branch is normed before and after."""

    def __init__(self, config: TransformerConfig, init: Init, name: str, products: jnp.dtype | None = None) -> None:
        super().__init__(name=name)
        self.config = config
        self.init: Init = init
        self.products = products

    def __call__(
        self,
        h: jax.Array,
        mask: jax.Array,
        positions: jax.Array,
        dropout_rate: float = 0.0,
        isolated_from: int | None = None,
    ) -> jax.Array:
        """[B, T, D] to [B, T, D] in the same dtype."""
        name = child_name(self, "multi_head_attention")
        attention = MultiHeadAttention(self.config, self.init, name, self.products)
        branch = attention(self._norm(h, "rms_norm"), mask, positions, isolated_from)
        h = self._add(h, self._norm(branch, "rms_norm_1", POST_NORM_SCALE), dropout_rate)
        branch = self.feed_forward(self._norm(h, "rms_norm_2"))
        return self._add(h, self._norm(branch, "rms_norm_3", POST_NORM_SCALE), dropout_rate)

    def _norm(self, x: jax.Array, name: str, initial_scale: float = 1.0) -> jax.Array:
        return RMSNorm(self.init, child_name(self, name), initial_scale)(x)

    def feed_forward(self, x: jax.Array) -> jax.Array:
        """Gated feed-forward without norms: W_out · (gelu(W_gate x) ⊙ W_value x), [..., D] to [..., D]."""
        width = self.config.ffn_size
        value = Linear(width, self.init, child_name(self, "linear_v"))(x)
        gate = gelu(Linear(width, self.init, child_name(self, "linear"))(x))
        return Linear(x.shape[-1], self.init, child_name(self, "linear_1"))(gate * value)

    @staticmethod
    def _add(h: jax.Array, branch: jax.Array, dropout_rate: float) -> jax.Array:
        if dropout_rate > 0.0:
            branch = hk.dropout(hk.next_rng_key(), dropout_rate, branch)
        return round_to(h + branch, h.dtype)


class Transformer(hk.Module):
    """A stack of decoder layers; no norm after the last.

    The module always lives at its own top-level path (``transformer/decoder_layer_0/…``), wherever it is
    built. ``attention_products`` is the dtype of the inputs of attention products; default that of the tokens.
    """

    def __init__(
        self,
        config: TransformerConfig,
        init: Init = "published",
        name: str = "transformer",
        *,
        attention_products: jnp.dtype | None = None,
    ) -> None:
        super().__init__(name=hk.force_name(name))
        self.config = config
        self.init: Init = init
        self.attention_products = attention_products

    def __call__(
        self,
        x: jax.Array,
        mask: Array,
        positions: Array,
        *,
        dropout_rate: float = 0.0,
        isolated_from: int | None = None,
    ) -> jax.Array:
        """Run the layers.

        Args:
            x: [B, T, D]; its dtype (float32 or bfloat16) is that of all activations.
            mask: bool, broadcastable to [B, T, T]; False removes a key for a query.
            positions: rotary positions, float32 [B, T] or [1, T].
            dropout_rate: probability of dropping an element of a branch after its second norm; needs an rng
                key.
            isolated_from: index from which tokens see only the tokens before it and themselves. The mask must
                say so too; naming the index spares the attention among those tokens.

        Returns:
            [B, T, D] in the dtype of x.

        Raises:
            ValueError: if x does not end in the configured width.
        """
        if x.ndim != 3 or x.shape[-1] != self.config.emb_size:
            raise ValueError(f"Transformer wants tokens [B, T, {self.config.emb_size}], found {x.shape}")
        keys = jnp.asarray(mask)
        keys = keys.reshape((1,) * (3 - keys.ndim) + keys.shape)
        places = jnp.asarray(positions, jnp.float32)
        for index in range(self.config.num_layers):
            name = child_name(self, f"decoder_layer_{index}")
            layer = DecoderLayer(self.config, self.init, name, self.attention_products)
            x = layer(x, keys, places, dropout_rate, isolated_from)
        return x
