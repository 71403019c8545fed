"""The two-tower retrieval model (x-algorithm Phoenix, January and May 2026 releases)."""

from __future__ import annotations

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from phoenix_recsys import blocks
from phoenix_recsys.config import Init, RetrievalConfig
from phoenix_recsys.inputs import Array, Embeddings, RetrievalBatch, user_history_valid
from phoenix_recsys.layers import HIGHEST, matrix, product
from phoenix_recsys.masks import causal_mask, mask_padded_keys
from phoenix_recsys.positions import slot_positions
from phoenix_recsys.trunk import Transformer

SQUARED_NORM_FLOOR = 1e-12
MASKED_SCORE = -1e12
TOWER_PATH = "phoenix_retrieval_model/~build_candidate_representation/candidate_tower"


class UserRepresentation(NamedTuple):
    """Output of the user tower, float32.

    Attributes:
        representation: unit vectors [B, D]; the zero vector for a row without any valid token.
        norm: length before normalisation, [B, 1].
    """

    representation: jax.Array
    norm: jax.Array


def normalise(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Unit vectors x / sqrt(max(Σ x², 1e-12)) over the last axis, and that root as [..., 1]."""
    norm = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), SQUARED_NORM_FLOOR))
    return x / norm, norm


class CandidateTower(hk.Module):
    """Item and author rows of one post to a unit vector, by a two-layer silu projection or a plain mean."""

    def __init__(self, emb_size: int, enable_linear_proj: bool = True, name: str = "candidate_tower") -> None:
        super().__init__(name=name)
        self.emb_size = emb_size
        self.enable_linear_proj = enable_linear_proj

    def __call__(self, embeddings: Array) -> jax.Array:
        """[..., n, D] (post rows first, then author rows) to [..., D] in the same dtype."""
        rows = jnp.asarray(embeddings)
        if not self.enable_linear_proj:
            return normalise(jnp.mean(rows, axis=-2))[0]
        flat = blocks.flatten_hashes(rows)
        hidden = 2 * self.emb_size
        init = blocks.scaled_by_columns()
        first = matrix("candidate_tower_projection_1", (flat.shape[-1], hidden), init)
        second = matrix("candidate_tower_projection_2", (hidden, self.emb_size), init)
        projected = product(jax.nn.silu(product(flat, first)), second)
        return normalise(projected)[0].astype(rows.dtype)


class PhoenixRetrievalModel(hk.Module):
    """User tower over ``[user | history]`` with a causal trunk, and an item tower; both give unit vectors.

    As in :class:`phoenix_recsys.ranker.PhoenixModel`, blocks are public and parameter paths fixed.

    Args:
        config: the model's configuration.
        init: ``published`` or ``trainable``.
    """

    def __init__(
        self, config: RetrievalConfig, init: Init = "published", name: str = "phoenix_retrieval_model"
    ) -> None:
        super().__init__(name=hk.force_name(name))
        self.config = config
        self.init: Init = init
        self.dtype = jnp.dtype(config.fprop_dtype)
        self.trunk = Transformer(config.model, init)

    def user_block(self, user_embeddings: Array) -> jax.Array:
        """User rows [B, nu, D] to one token [B, 1, D]."""
        user = jnp.asarray(user_embeddings)[:, None]
        return blocks.project("proj_mat_1", [blocks.flatten_hashes(user)], self.config.emb_size)

    def history_block(
        self, post_embeddings: Array, author_embeddings: Array, actions: Array, surface: Array
    ) -> jax.Array:
        """History rows [..., ni, D], [..., na, D], actions [..., A] and surfaces [...] to tokens [..., D]."""
        features = self.history_features(actions, surface)
        return self._project_history(post_embeddings, author_embeddings, features)

    def history_features(self, actions: Array, surface: Array) -> list[jax.Array]:
        """Action and surface parts of history tokens, each [..., D] in the fprop dtype."""
        size, vocab = self.config.emb_size, self.config.product_surface_vocab_size
        surface_part = blocks.lookup("product_surface_embedding_table", surface, vocab, size, self.dtype)
        return [blocks.action_embedding(actions, size, self.dtype), surface_part]

    def tokens(self, batch: RetrievalBatch, embeddings: Embeddings) -> jax.Array:
        """The sequence ``[user | history]``, [B, 1 + S, D] in the fprop dtype."""
        # The features come first because the published initialisation draws their parameters first.
        features = self.history_features(batch.history_actions, batch.history_product_surface)
        user = self.user_block(embeddings.user_embeddings)
        history = self._project_history(
            embeddings.history_post_embeddings, embeddings.history_author_embeddings, features
        )
        return jnp.concatenate([user, history], axis=1).astype(self.dtype)

    def pool(self, tokens: jax.Array, valid: Array) -> UserRepresentation:
        """Pool trunk outputs [B, T, D] over valid [B, T] tokens, as configured, in float32."""
        wide, valid = tokens.astype(jnp.float32), jnp.asarray(valid)
        if self.config.user_pooling == "last":
            index = jnp.arange(valid.shape[1])
            last = jnp.max(jnp.where(valid, index, -1), axis=1)
            weights = (index == last[:, None]).astype(jnp.float32)
        else:
            weights = valid.astype(jnp.float32)
        total = jnp.sum(wide * weights[..., None], axis=1)
        pooled = total / jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1.0)
        return UserRepresentation(*normalise(pooled))

    def candidate_tower(self, post_embeddings: Array, author_embeddings: Array) -> jax.Array:
        """Item tower: rows [..., ni, D] and [..., na, D] to unit vectors [..., D] in their dtype."""
        rows = jnp.concatenate([jnp.asarray(post_embeddings), jnp.asarray(author_embeddings)], axis=-2)
        tower = CandidateTower(
            self.config.emb_size, self.config.enable_linear_proj, name=str(hk.force_name(TOWER_PATH))
        )
        return tower(rows)

    def encode_user(self, batch: RetrievalBatch, embeddings: Embeddings) -> UserRepresentation:
        """The user tower."""
        x = self.tokens(batch, embeddings)
        valid = user_history_valid(batch)
        mask = mask_padded_keys(causal_mask(x.shape[1]), valid)
        return self.pool(self.trunk(x, mask, slot_positions(x.shape[1])), valid)

    def __call__(self, batch: RetrievalBatch, embeddings: Embeddings) -> tuple[UserRepresentation, jax.Array | None]:
        """Both towers: the user representation, and item vectors [B, C, D] where candidate rows are given."""
        user = self.encode_user(batch, embeddings)
        posts, authors = embeddings.candidate_post_embeddings, embeddings.candidate_author_embeddings
        if posts is None or authors is None:
            return user, None
        return user, self.candidate_tower(posts, authors)

    def _project_history(self, posts: Array, authors: Array, features: list[jax.Array]) -> jax.Array:
        parts = [blocks.flatten_hashes(posts), blocks.flatten_hashes(authors), *features]
        return blocks.project("proj_mat_3", parts, self.config.emb_size)


def top_k(
    users: jax.Array, corpus: jax.Array, k: int, corpus_mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The k corpus rows with the largest inner product, best first, ties to the lower index.

    Args:
        users: [B, D].
        corpus: [N, D].
        k: how many, at most N.
        corpus_mask: bool [N]; a row outside it scores −1e12, so it only fills up when valid rows run out.

    Returns:
        indices int32 [B, k] and scores float32 [B, k].
    """
    scores = jnp.matmul(users.astype(jnp.float32), corpus.astype(jnp.float32).T, precision=HIGHEST)
    if corpus_mask is not None:
        scores = jnp.where(corpus_mask[None, :], scores, MASKED_SCORE)
    values, indices = jax.lax.top_k(scores, k)
    return indices.astype(jnp.int32), values
