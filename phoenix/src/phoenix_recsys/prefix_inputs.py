"""What the prefix-shared program takes and keeps: users, events, candidates, and encoded prefixes."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from phoenix_recsys.device_tables import QuantizedRows
from phoenix_recsys.inputs import Array, Embeddings, RankerBatch, token_valid
from phoenix_recsys.ranker import DWELL_SLOT

Rows: TypeAlias = tuple[Array | QuantizedRows, ...]
"""Looked-up embedding rows, for each of n hashes [..., D], float or int8 with scales."""


class Prefix(NamedTuple):
    """Encoded ``[user | history]``; a pytree.

    Attributes:
        keys: per layer, rotated relative to the candidates' position, [B, G, K, S] in the precision of attention.
        values: per layer, with the mask, of :func:`phoenix_recsys.prefix_ops.masked_values`, [B, G, S, K'].
        valid: bool [B, S]; the padding mask, which belongs to the keys wherever they go.
        used: int32 [B]; places up to the last valid one, where the next event goes.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    valid: jax.Array
    used: jax.Array

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(int(leaf.nbytes) for leaf in jax.tree.leaves(self))


class Users(NamedTuple):
    """One user per row.

    Attributes:
        valid: bool [B].
        rows: looked-up embedding rows, for each hash [B, D].
        ip_rows: rows [B, n_ip, D] of their addresses, or None.
    """

    valid: Array
    rows: Rows
    ip_rows: Array | None = None


class Events(NamedTuple):
    """History events, oldest first, some of them padding.

    Attributes:
        valid: bool [B, E].
        post_rows: looked-up embedding rows, for each hash [B, E, D].
        author_rows: likewise.
        actions: float32 [B, E, A].
        surfaces: int32 [B, E].
        dwell_seconds: float32 [B, E], or None for unknown (May).
    """

    valid: Array
    post_rows: Rows
    author_rows: Rows
    actions: Array
    surfaces: Array
    dwell_seconds: Array | None = None


class Candidates(NamedTuple):
    """Candidates to score; what stands at padded places shows in no other row.

    Attributes:
        post_rows: looked-up embedding rows, for each hash [B, C, D].
        author_rows: likewise.
        surfaces: int32 [B, C].
        impression_ts: int32 seconds [B, C], 0 or None unknown (May).
        creation_ts: int32 seconds [B, C], 0 or None unknown (May).
    """

    post_rows: Rows
    author_rows: Rows
    surfaces: Array
    impression_ts: Array | None = None
    creation_ts: Array | None = None


def split_batch(batch: RankerBatch, embeddings: Embeddings) -> tuple[Users, Events, Candidates]:
    """The parts of what the plain forward takes.

    Raises:
        ValueError: if there are no candidate embeddings.
    """
    if embeddings.candidate_post_embeddings is None or embeddings.candidate_author_embeddings is None:
        raise ValueError("split_batch wants candidate post and author embeddings, found None")
    continuous = batch.history_continuous_actions
    return (
        Users(token_valid(batch.user_hashes), by_hash(embeddings.user_embeddings), embeddings.user_ip_embeddings),
        Events(
            token_valid(batch.history_post_hashes),
            by_hash(embeddings.history_post_embeddings),
            by_hash(embeddings.history_author_embeddings),
            batch.history_actions,
            batch.history_product_surface,
            None if continuous is None else continuous[..., DWELL_SLOT],
        ),
        Candidates(
            by_hash(embeddings.candidate_post_embeddings),
            by_hash(embeddings.candidate_author_embeddings),
            batch.candidate_product_surface,
            batch.candidate_impr_ts,
            batch.candidate_post_creation_ts,
        ),
    )


def by_hash(rows: Array) -> Rows:
    """Looked-up rows [..., n, D] apart: n times [..., D]."""
    return tuple(jnp.asarray(rows)[..., index, :] for index in range(rows.shape[-2]))
