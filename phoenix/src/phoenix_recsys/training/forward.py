"""The two models over windows: every prefix of a history in one pass, with the published parameters.

Projections are linear in their parts, so item parts are projected once per step for the whole catalogue and
gathered, instead of once per token; the result is that of the plain forward up to rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from phoenix_recsys.config import RankerConfig, RetrievalConfig
from phoenix_recsys.inputs import Array, post_age_bucket
from phoenix_recsys.masks import causal_mask, mask_padded_keys
from phoenix_recsys.positions import anchored_positions, slot_positions
from phoenix_recsys.ranker import DWELL_SLOT, PhoenixModel
from phoenix_recsys.retrieval import PhoenixRetrievalModel, normalise
from phoenix_recsys.tables import EmbeddingTables
from phoenix_recsys.training.batches import Batch

NO_SURFACE = -1
"""An index outside the surface table, which adds nothing to a token."""


class Rates(NamedTuple):
    """Probabilities of leaving something out in training; all 0 when a model is only applied.

    Attributes:
        dropout: an element of an input token or of a branch of the trunk.
        user: the user token of a window.
        item: the item rows of a token, which leaves its author rows.
    """

    dropout: float = 0.0
    user: float = 0.0
    item: float = 0.0


NO_RATES = Rates()
"""For applying a model."""


class Hashes(NamedTuple):
    """Unified embedding rows and features of all users and items, as arguments of the jitted functions.

    Attributes:
        user: int32 [U, nu].
        item: int32 [N, ni].
        author: int32 [N, na].
        patterns: action vectors, float32 [P, A].
        created: when an item was made, seconds, int32 [N]; 0 unknown.
        log_exposure: log of how much an item was to be seen in each period, float32 [N, T].
        period_start: seconds at which period 0 begins, int32 [].
        period_length: seconds, int32 [].
    """

    user: Array
    item: Array
    author: Array
    patterns: Array
    created: Array
    log_exposure: Array
    period_start: Array
    period_length: Array


def _drop(x: jax.Array, rate: float) -> jax.Array:
    return hk.dropout(hk.next_rng_key(), rate, x) if rate > 0.0 else x


def _lost(shape: tuple[int, ...], rate: float) -> jax.Array | None:
    return jax.random.bernoulli(hk.next_rng_key(), rate, shape) if rate > 0.0 else None


def _pick(full: jax.Array, author_only: jax.Array, index: Array, rate: float) -> jax.Array:
    """Projected rows [N, D] at ``index`` [...]: now and then without the item's own part."""
    rows = full[index]
    lost = _lost(jnp.shape(index), rate)
    return rows if lost is None else jnp.where(lost[..., None], author_only[index], rows)


def _prefix_tokens(
    model: PhoenixModel | PhoenixRetrievalModel,
    tables: EmbeddingTables,
    hashes: Hashes,
    batch: Batch,
    rates: Rates,
) -> tuple[jax.Array, jax.Array]:
    """User and history tokens [B, 1 + S, D] and their validity [B, 1 + S]."""
    posts, authors = tables.lookup_items(hashes.item), tables.lookup_authors(hashes.author)
    items, actions = posts.shape[0], jnp.asarray(hashes.patterns)
    silent = jnp.zeros((items, actions.shape[1]))
    off = jnp.full((items,), NO_SURFACE)
    full = model.history_block(posts, authors, silent, jnp.zeros(items, jnp.int32))
    author_only = full - model.history_block(posts, jnp.zeros_like(authors), silent, off)
    tokens = _pick(full, author_only, batch.token_item, rates.item)

    def nothing(rows: jax.Array, *lead: int) -> jax.Array:
        return jnp.zeros((*lead, *rows.shape[1:]))

    count = actions.shape[0]
    acted = model.history_block(nothing(posts, count), nothing(authors, count), actions, jnp.full((count,), NO_SURFACE))
    tokens = tokens + acted[batch.token_pattern]
    if isinstance(model, PhoenixModel) and batch.token_dwell is not None:
        lead = jnp.shape(batch.token_item)
        seconds = jnp.asarray(batch.token_dwell)[..., None]
        width = model.config.num_continuous_actions
        continuous = jnp.pad(seconds, ((0, 0), (0, 0), (DWELL_SLOT, width - DWELL_SLOT - 1)))
        tokens = tokens + model.history_block(
            nothing(posts, *lead),
            nothing(authors, *lead),
            jnp.zeros((*lead, actions.shape[1])),
            jnp.full(lead, NO_SURFACE),
            continuous,
        )
    user = model.user_block(tables.lookup_users(jnp.asarray(hashes.user)[batch.user]))
    size = tokens.shape[1]
    lost = _lost((tokens.shape[0], 1), rates.user)
    present = jnp.ones((tokens.shape[0], 1), bool) if lost is None else ~lost
    in_history = jnp.arange(size) < jnp.asarray(batch.token_count)[:, None]
    return _drop(jnp.concatenate([user, tokens], axis=1), rates.dropout), jnp.concatenate([present, in_history], 1)


def retrieval_users(config: RetrievalConfig, rates: Rates = NO_RATES) -> hk.Transformed:
    """``apply(params, key, tables, hashes, batch)``: unit user vectors at every target's prefix, [B, M, D]."""

    def forward(tables: EmbeddingTables, hashes: Hashes, batch: Batch) -> jax.Array:
        model = PhoenixRetrievalModel(config, "trainable")
        x, valid = _prefix_tokens(model, tables, hashes, batch, rates)
        length = x.shape[1]
        mask = mask_padded_keys(causal_mask(length), valid)
        y = model.trunk(x, mask, slot_positions(length), dropout_rate=rates.dropout)
        y = y * valid[..., None]
        if config.user_pooling == "mean":
            y = jnp.cumsum(y, axis=1) / jnp.maximum(jnp.cumsum(valid, axis=1), 1)[..., None]
        # Token 0 is the user, so the last of n history tokens has index n.
        return normalise(jnp.take_along_axis(y, jnp.asarray(batch.target_prefix)[..., None], axis=1))[0]

    return hk.transform(forward)


def retrieval_items(config: RetrievalConfig, item_rate: float = 0.0) -> hk.Transformed:
    """``apply(params, key, tables, hashes)``: unit vectors of all items, [N, D]."""

    def forward(tables: EmbeddingTables, hashes: Hashes) -> jax.Array:
        posts, authors = tables.lookup_items(hashes.item), tables.lookup_authors(hashes.author)
        lost = _lost((posts.shape[0], 1, 1), item_rate)
        if lost is not None:
            posts = jnp.where(lost, 0.0, posts)
        return PhoenixRetrievalModel(config, "trainable").candidate_tower(posts, authors)

    return hk.transform(forward)


class Candidates(NamedTuple):
    """C candidates for each of B windows, int32 [B, C].

    Attributes:
        item: catalogue index.
        prefix: how many tokens of the window the candidate may read.
        seconds: time of the impression, 0 where age is not to be used.
    """

    item: jax.Array
    prefix: jax.Array
    seconds: jax.Array


def ranker_logits(config: RankerConfig, rates: Rates = NO_RATES) -> hk.Transformed:
    """``apply(params, key, tables, hashes, batch, candidates)``: logits [B, C, A].

    Every candidate stands where ``anchored`` positions put it, behind a full history, and reads the user, its own
    prefix and itself: what serving computes for that prefix.
    """

    def forward(tables: EmbeddingTables, hashes: Hashes, batch: Batch, candidates: Candidates) -> jax.Array:
        model = PhoenixModel(config, "trainable")
        x, valid = _prefix_tokens(model, tables, hashes, batch, rates)
        posts, authors = tables.lookup_items(hashes.item), tables.lookup_authors(hashes.author)
        items = posts.shape[0]
        full = model.candidate_block(posts, authors, jnp.zeros(items, jnp.int32))
        # Both calls below carry age bucket 0, so it cancels in the author's part and is counted once.
        bare = model.candidate_block(posts, jnp.zeros_like(authors), jnp.full((items,), NO_SURFACE))
        buckets = config.post_age_vocab_size
        step = config.post_age_granularity_mins * 60
        # One made-up age per bucket, 0 for "unknown"; the candidates then gather their bucket's row.
        shown = jnp.concatenate([jnp.zeros(1, jnp.int32), 1 + step * jnp.arange(buckets - 1)])
        none = (jnp.zeros((buckets, *posts.shape[1:])), jnp.zeros((buckets, *authors.shape[1:])))
        ages = model.candidate_block(*none, jnp.full((buckets,), NO_SURFACE), shown, jnp.ones(buckets, jnp.int32))
        author_only = full - bare + ages[0]
        created = jnp.asarray(hashes.created)[candidates.item]
        bucket = post_age_bucket(candidates.seconds, created, config.post_age_granularity_mins)
        chosen = _pick(full, author_only, candidates.item, rates.item) + (ages - ages[0])[bucket]

        start = x.shape[1]
        count = chosen.shape[1]
        x = jnp.concatenate([x, _drop(chosen, rates.dropout)], axis=1)
        prefix_mask = mask_padded_keys(causal_mask(start), valid)
        readable = (jnp.arange(start) <= candidates.prefix[..., None]) & valid[:, None, :]
        top = jnp.pad(prefix_mask, ((0, 0), (0, 0), (0, count)))
        own = jnp.broadcast_to(jnp.eye(count, dtype=bool), (x.shape[0], count, count))
        mask = jnp.concatenate([top, jnp.concatenate([readable, own], axis=2)], axis=1)
        everyone = jnp.concatenate([valid, jnp.ones((x.shape[0], count), bool)], axis=1)
        positions = anchored_positions(everyone, config.history_seq_len, candidate_start=start)
        y = model.trunk(x, mask, positions, dropout_rate=rates.dropout, isolated_from=start)
        return model.unembed(y[:, start:]).logits

    return hk.transform(forward)
