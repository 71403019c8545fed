"""The ranker: one logit per candidate and action (x-algorithm Phoenix, January and May 2026 releases)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from phoenix_recsys import blocks
from phoenix_recsys.config import FpropDtype, Init, RankerConfig
from phoenix_recsys.inputs import Array, Embeddings, RankerBatch, post_age_bucket, ranker_valid
from phoenix_recsys.layers import RMSNorm, child_name, matrix, product
from phoenix_recsys.masks import candidate_isolation_mask, mask_padded_keys
from phoenix_recsys.positions import ranker_positions
from phoenix_recsys.trunk import Transformer

DWELL_SLOT = 1
"""Which continuous action holds the dwell time in seconds."""

TRAINABLE_UNEMBEDDING_STD = 0.02


Attention = Literal["dense", "split"]
"""How candidates are kept apart.

By the mask of one dense attention, or by never computing what it would hide.
"""


class RankerOutput(NamedTuple):
    """Raw outputs in the fprop dtype; values at padded candidates mean nothing.

    Attributes:
        logits: [B, C, A]; independent sigmoids, not a softmax.
        continuous_preds: [B, C, Nc] in (0, 1), or None in the January release.
    """

    logits: jax.Array
    continuous_preds: jax.Array | None


class PhoenixModel(hk.Module):
    """User, history and candidates through one trunk; each candidate sees the user, the history and itself.

    The blocks are public, so that a trainer can pack its own sequence: build tokens with :meth:`user_block`,
    :meth:`history_block` and :meth:`candidate_block`, run :attr:`trunk`, read tokens out with
    :meth:`unembed`. Parameters have their published paths whichever methods are called, in any order.

    Args:
        config: the ranker's configuration.
        init: ``published`` initialises as the release does (the trunk is the identity and cannot learn),
            ``trainable`` for training from scratch.
        attention_products: dtype of the inputs of attention products; default the fprop dtype.
    """

    def __init__(
        self,
        config: RankerConfig,
        init: Init = "published",
        name: str = "phoenix_model",
        *,
        attention_products: FpropDtype | None = None,
    ) -> None:
        super().__init__(name=hk.force_name(name))
        self.config = config
        self.init: Init = init
        self.dtype = jnp.dtype(config.fprop_dtype)
        self.trunk = Transformer(
            config.model, init, attention_products=jnp.dtype(attention_products or config.fprop_dtype)
        )

    def user_block(self, user_embeddings: Array, user_ip_embeddings: Array | None = None) -> jax.Array:
        """User rows [B, nu, D] (and address rows [B, n_ip, D]) to one token [B, 1, D]."""
        user = jnp.asarray(user_embeddings)[:, None]
        token = blocks.project("proj_mat_1", [blocks.flatten_hashes(user)], self.config.emb_size)
        if self._is_may and user_ip_embeddings is not None and self.config.hash_config.num_ip_hashes > 0:
            token = blocks.add_ip(token, user_ip_embeddings)
        return token

    def history_features(self, actions: Array, surface: Array, continuous: Array | None = None) -> list[jax.Array]:
        """The parts of a history token that are no hash lookups, each [..., D] in the fprop dtype.

        Args:
            actions: float32 [..., A].
            surface: int32 [...].
            continuous: float32 [..., Nc] or None (May).
        """
        size = self.config.emb_size
        surface_part = self._surface(surface)
        parts = [blocks.action_embedding(actions, size, self.dtype), surface_part]
        if self._is_may:
            seconds = jnp.zeros(jnp.shape(surface)) if continuous is None else continuous[..., DWELL_SLOT]
            normal = blocks.normalise_dwell(seconds, self.config.dwell_norm_scale, self.config.dwell_use_log)
            hidden = self.config.continuous_action_hidden_dim
            parts.append(blocks.dwell_embedding(normal, hidden, size, self.dtype))
        return parts

    def history_block(
        self,
        post_embeddings: Array,
        author_embeddings: Array,
        actions: Array,
        surface: Array,
        continuous: Array | None = None,
    ) -> jax.Array:
        """History rows [..., ni, D] and [..., na, D] with their features to tokens [..., D]."""
        features = self.history_features(actions, surface, continuous)
        return self._project_history(post_embeddings, author_embeddings, features)

    def candidate_block(
        self,
        post_embeddings: Array,
        author_embeddings: Array,
        surface: Array,
        impr_ts: Array | None = None,
        creation_ts: Array | None = None,
    ) -> jax.Array:
        """Candidate rows [..., ni, D] and [..., na, D], surface and times [...] to tokens [..., D]."""
        parts = [blocks.flatten_hashes(post_embeddings), blocks.flatten_hashes(author_embeddings)]
        parts.append(self._surface(surface))
        if self._is_may:
            if impr_ts is None or creation_ts is None:
                age = jnp.zeros(jnp.shape(surface), jnp.int32)
            else:
                age = post_age_bucket(impr_ts, creation_ts, self.config.post_age_granularity_mins)
            vocab = self.config.post_age_vocab_size
            parts.append(blocks.lookup("post_age_embedding_table", age, vocab, self.config.emb_size, self.dtype))
        return blocks.project("proj_mat_2", parts, self.config.emb_size)

    def unembed(self, tokens: jax.Array) -> RankerOutput:
        """Final norm and heads.

        Trunk outputs [..., D] to logits [..., A] and continuous predictions [..., Nc].
        """
        z = RMSNorm(self.init, child_name(self, "rms_norm"))(tokens)
        size, actions = self.config.emb_size, self.config.num_actions
        logits = product(z, matrix("unembeddings", (size, actions), self._head_init())).astype(self.dtype)
        if not self._is_may:
            return RankerOutput(logits, None)
        shape = (size, self.config.num_continuous_actions)
        continuous = product(z, matrix("continuous_unembeddings", shape, self._head_init()))
        return RankerOutput(logits, jax.nn.sigmoid(continuous).astype(self.dtype))

    def tokens(self, batch: RankerBatch, embeddings: Embeddings) -> jax.Array:
        """The whole sequence ``[user | history | candidates]``, [B, 1 + S + C, D] in the fprop dtype."""
        if embeddings.candidate_post_embeddings is None or embeddings.candidate_author_embeddings is None:
            raise ValueError("PhoenixModel wants candidate post and author embeddings, found None")
        # The features come first because the published initialisation draws their parameters first.
        features = self.history_features(
            batch.history_actions, batch.history_product_surface, batch.history_continuous_actions
        )
        user = self.user_block(embeddings.user_embeddings, embeddings.user_ip_embeddings)
        history = self._project_history(
            embeddings.history_post_embeddings, embeddings.history_author_embeddings, features
        )
        candidates = self.candidate_block(
            embeddings.candidate_post_embeddings,
            embeddings.candidate_author_embeddings,
            batch.candidate_product_surface,
            batch.candidate_impr_ts,
            batch.candidate_post_creation_ts,
        )
        return jnp.concatenate([user, history, candidates], axis=1).astype(self.dtype)

    def __call__(self, batch: RankerBatch, embeddings: Embeddings, *, attention: Attention = "dense") -> RankerOutput:
        """Score every candidate of every row; see :class:`RankerOutput`.

        ``dense`` is the published program; ``split`` gives the same values at valid candidates for less work.
        """
        x = self.tokens(batch, embeddings)
        valid = ranker_valid(batch)
        start = 1 + batch.history_post_hashes.shape[1]
        mask = mask_padded_keys(candidate_isolation_mask(x.shape[1], start), valid)
        positions = ranker_positions(self.config.positions, valid, self.config.history_seq_len, candidate_start=start)
        isolated_from = start if attention == "split" else None
        return self.unembed(self.trunk(x, mask, positions, isolated_from=isolated_from)[:, start:])

    @property
    def _is_may(self) -> bool:
        return self.config.release == "may"

    def _head_init(self) -> hk.initializers.Initializer:
        if self.init == "trainable":
            return hk.initializers.TruncatedNormal(TRAINABLE_UNEMBEDDING_STD)
        return blocks.scaled_by_columns()

    def _surface(self, surface: Array) -> jax.Array:
        vocab = self.config.product_surface_vocab_size
        return blocks.lookup("product_surface_embedding_table", surface, vocab, self.config.emb_size, self.dtype)

    def _project_history(self, posts: Array, authors: Array, features: list[jax.Array]) -> jax.Array:
        parts = [blocks.flatten_hashes(posts), blocks.flatten_hashes(authors), *features]
        return blocks.project("proj_mat_3", parts, self.config.emb_size)
