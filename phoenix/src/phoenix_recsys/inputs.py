"""What the models take: batches of hashes and features, and the embedding rows looked up for them.

B rows, S history length, C candidates, A actions, D embedding width; nu, ni, na hash functions for users,
items and authors. All are pytrees, so they pass through ``jax.jit``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from phoenix_recsys.config import MAX_POST_AGE_MINUTES

Array = jax.Array | np.ndarray


class RankerBatch(NamedTuple):
    """Integers are int32. A None field is absent: no dwell times, unknown ages.

    Attributes:
        user_hashes: [B, nu].
        history_post_hashes: [B, S, ni], oldest first.
        history_author_hashes: [B, S, na].
        history_actions: float32 [B, S, A], 1 where the action was taken.
        history_product_surface: [B, S].
        candidate_post_hashes: [B, C, ni].
        candidate_author_hashes: [B, C, na].
        candidate_product_surface: [B, C].
        history_continuous_actions: float32 [B, S, Nc]; slot 1 is the dwell time in seconds (May).
        candidate_impr_ts: [B, C] seconds, 0 unknown (May).
        candidate_post_creation_ts: [B, C] seconds, 0 unknown (May).
    """

    user_hashes: Array
    history_post_hashes: Array
    history_author_hashes: Array
    history_actions: Array
    history_product_surface: Array
    candidate_post_hashes: Array
    candidate_author_hashes: Array
    candidate_product_surface: Array
    history_continuous_actions: Array | None = None
    candidate_impr_ts: Array | None = None
    candidate_post_creation_ts: Array | None = None


class RetrievalBatch(NamedTuple):
    """User side of retrieval, fields as in :class:`RankerBatch`."""

    user_hashes: Array
    history_post_hashes: Array
    history_author_hashes: Array
    history_actions: Array
    history_product_surface: Array


class Embeddings(NamedTuple):
    """Looked-up rows, float32 (or bfloat16). Retrieval's user tower needs no candidate fields.

    Attributes:
        user_embeddings: [B, nu, D].
        history_post_embeddings: [B, S, ni, D].
        history_author_embeddings: [B, S, na, D].
        candidate_post_embeddings: [B, C, ni, D].
        candidate_author_embeddings: [B, C, na, D].
        user_ip_embeddings: [B, n_ip, D] (May, read only where the configuration has address hashes).
    """

    user_embeddings: Array
    history_post_embeddings: Array
    history_author_embeddings: Array
    candidate_post_embeddings: Array | None = None
    candidate_author_embeddings: Array | None = None
    user_ip_embeddings: Array | None = None


def token_valid(hashes: Array) -> jax.Array:
    """A token is padding when its first hash is 0; later columns never matter. [..., n] to bool [...]."""
    return jnp.asarray(hashes)[..., 0] != 0


def user_history_valid(batch: RankerBatch | RetrievalBatch) -> jax.Array:
    """Validity of ``[user | history]``, bool [B, 1 + S]."""
    return jnp.concatenate([token_valid(batch.user_hashes)[:, None], token_valid(batch.history_post_hashes)], axis=1)


def ranker_valid(batch: RankerBatch) -> jax.Array:
    """Validity of ``[user | history | candidates]``, bool [B, 1 + S + C]."""
    return jnp.concatenate([user_history_valid(batch), token_valid(batch.candidate_post_hashes)], axis=1)


def post_age_bucket(impr_ts: Array, creation_ts: Array, granularity_mins: int) -> jax.Array:
    """Age of a post when it was shown, in buckets (x-algorithm, May 2026 release); int32, any shape.

    0 means unknown (a time is 0, or the post is from the future), 1 the first ``granularity_mins`` minutes,
    and so on; 80 hours and more share the last bucket. Times are int32 seconds.
    """
    impr = jnp.asarray(impr_ts, jnp.int32)
    created = jnp.asarray(creation_ts, jnp.int32)
    minutes = (impr - created) // 60
    bucket = jnp.clip(minutes // granularity_mins + 1, 0, MAX_POST_AGE_MINUTES // granularity_mins + 1)
    unknown = (minutes < 0) | (impr == 0) | (created == 0)
    return jnp.where(unknown, 0, bucket).astype(jnp.int32)
