"""The ranker with a shared prefix: user and history are encoded once, candidates are scored against them.

A candidate sees the user, the history and itself (x-algorithm Phoenix, May 2026 release), and neither user
nor history see a candidate. So the keys and values of ``[user | history]`` serve any number of candidates,
and each candidate is a query of its own: there is no dense mask and no candidate-to-candidate block. M-FALCON
(Zhai et al. 2024) and prefix caching of language models share work in the same way.

B rows, S = 1 + history places, C candidates, H query and G key/value heads of size K, D width of a token.
Activations are float32; products take their inputs in the precision of the weights
(:func:`phoenix_recsys.prefix_weights.arrange`) and accumulate in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from phoenix_recsys.blocks import flatten_hashes, normalise_dwell
from phoenix_recsys.config import RankerConfig
from phoenix_recsys.inputs import Array, Embeddings, RankerBatch, post_age_bucket, token_valid
from phoenix_recsys.layers import HIGHEST, LOGIT_CAP, NORM_EPSILON, gelu, rotate
from phoenix_recsys.positions import ranker_positions, slot_positions
from phoenix_recsys.prefix_weights import LayerWeights, Weights
from phoenix_recsys.ranker import DWELL_SLOT, RankerOutput

BLOCK = 256
"""Candidates scored at a time, and prefix queries encoded at a time, where the prefix is long."""
LONG_PREFIX = 512
"""From so many places on, the logits of all candidates at once would not stay in a core's cache."""
NO_WEIGHT = 1e-30
"""Below any sum of weights (each is at least exp(−30)), above 0: a row that sees nothing attends to nothing."""


class Prefix(NamedTuple):
    """Encoded ``[user | history]``; a pytree.

    Attributes:
        keys: per layer, rotated, [B, G, K, S] in the precision of products.
        values: per layer, [B, G, S, K].
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
        rows: looked-up embedding rows [B, nu, D].
        ip_rows: rows [B, n_ip, D] of their addresses, or None.
    """

    valid: Array
    rows: Array
    ip_rows: Array | None = None


class Events(NamedTuple):
    """History events, oldest first, some of them padding.

    Attributes:
        valid: bool [B, E].
        post_rows: looked-up embedding rows [B, E, ni, D].
        author_rows: [B, E, na, D].
        actions: float32 [B, E, A].
        surfaces: int32 [B, E].
        dwell_seconds: float32 [B, E], or None for unknown (May).
    """

    valid: Array
    post_rows: Array
    author_rows: Array
    actions: Array
    surfaces: Array
    dwell_seconds: Array | None = None


class Candidates(NamedTuple):
    """Candidates to score; what stands at padded places shows in no other row.

    Attributes:
        post_rows: looked-up embedding rows [B, C, ni, D].
        author_rows: [B, C, na, D].
        surfaces: int32 [B, C].
        impression_ts: int32 seconds [B, C], 0 or None unknown (May).
        creation_ts: int32 seconds [B, C], 0 or None unknown (May).
    """

    post_rows: Array
    author_rows: Array
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
        Users(token_valid(batch.user_hashes), embeddings.user_embeddings, embeddings.user_ip_embeddings),
        Events(
            token_valid(batch.history_post_hashes),
            embeddings.history_post_embeddings,
            embeddings.history_author_embeddings,
            batch.history_actions,
            batch.history_product_surface,
            None if continuous is None else continuous[..., DWELL_SLOT],
        ),
        Candidates(
            embeddings.candidate_post_embeddings,
            embeddings.candidate_author_embeddings,
            batch.candidate_product_surface,
            batch.candidate_impr_ts,
            batch.candidate_post_creation_ts,
        ),
    )


def forward(
    weights: Weights, config: RankerConfig, batch: RankerBatch, embeddings: Embeddings, *, block: int | None = None
) -> RankerOutput:
    """What the plain forward computes, through a prefix; equal at valid candidates."""
    users, events, candidates = split_batch(batch, embeddings)
    length = batch.history_post_hashes.shape[1]
    places = candidate_positions(config, candidates.surfaces.shape[1], history_places=length)
    return score(weights, config, encode(weights, config, users, events), candidates, places, block=block)


def candidate_positions(config: RankerConfig, count: int, *, history_places: int | None = None) -> jax.Array:
    """Rotary positions of ``count`` candidates: float32 [1, C] under ``slot``, else the one they share, [1, 1].

    ``history_places`` is the padded history length that ``slot`` counts from; default the configured one,
    which makes the bucket that the history really has invisible.
    """
    if config.positions == "slot":
        start = config.history_seq_len if history_places is None else history_places
        return slot_positions(count) + (1.0 + start)
    return jnp.full((1, 1), 1.0 + config.history_seq_len, jnp.float32)


def encode(weights: Weights, config: RankerConfig, users: Users, events: Events) -> Prefix:
    """Encode users and their histories, [B] and [B, S−1]."""
    user = product(flatten_hashes(users.rows), weights.user)
    if config.release == "may" and users.ip_rows is not None and config.hash_config.num_ip_hashes > 0:
        user += jnp.sum(jnp.asarray(users.ip_rows, jnp.float32), axis=1)
    h = jnp.concatenate([user[:, None], event_tokens(weights, config, events)], axis=1)
    valid = jnp.concatenate([jnp.asarray(users.valid)[:, None], jnp.asarray(events.valid)], axis=1)
    length = valid.shape[1]
    places = ranker_positions(config.positions, valid, config.history_seq_len, candidate_start=length)
    keys, values = [], []
    for index, layer in enumerate(weights.layers):
        x = rms_norm(h, layer.norms[0])
        k, v = _keys_values(layer, config, x, places)
        keys.append(k)
        values.append(v)
        if index + 1 < len(weights.layers):  # of the last layer, nobody reads more than keys and values
            q = _queries(layer, config, x, places)
            h = _after_attention(layer, h, _attend_causally(config, q, k, v, valid))
    return Prefix(tuple(keys), tuple(values), valid, _places_used(valid))


def extend(weights: Weights, config: RankerConfig, prefix: Prefix, events: Events) -> Prefix:
    """Append events behind the last valid place, as if the longer history had been encoded.

    The history is causal, so no earlier token feels a later one, and under ``anchored`` and ``slot``
    positions none moves. Padding among the events [B, E] must be at their end. What does not fit into the
    prefix's places is dropped, which the caller has to rule out.

    Raises:
        ValueError: under ``right`` positions, where a new event moves all the others.
    """
    if config.positions == "right":
        raise ValueError("a prefix in right positions cannot be extended: every event moves; encode the history again")
    length = prefix.valid.shape[1]
    fresh = jnp.asarray(events.valid)
    places = prefix.used[:, None] + jnp.arange(fresh.shape[1])
    rows = jnp.arange(fresh.shape[0])[:, None]
    valid = prefix.valid.at[rows, places].set(fresh, mode="drop")
    positions = places.astype(jnp.float32)
    if config.positions == "anchored":
        standing = jnp.sum(prefix.valid[:, 1:], axis=1, keepdims=True)
        positions = jnp.where(fresh, standing + jnp.cumsum(fresh, axis=1), 0).astype(jnp.float32)
    # Events see the keys up to their own place.
    seen = valid[:, None, :] & (jnp.arange(length) <= places[..., None])
    h = event_tokens(weights, config, events)
    keys, values = [], []
    for index, layer in enumerate(weights.layers):
        x = rms_norm(h, layer.norms[0])
        k, v = _keys_values(layer, config, x, positions)
        k = prefix.keys[index].at[rows, :, :, places].set(jnp.moveaxis(k, 3, 1), mode="drop")
        v = prefix.values[index].at[rows, :, places].set(jnp.moveaxis(v, 2, 1), mode="drop")
        keys.append(k)
        values.append(v)
        if index + 1 < len(weights.layers):
            q = _queries(layer, config, x, positions)
            h = _after_attention(layer, h, _join_heads(_attend(config, q, k, v, seen)))
    return Prefix(tuple(keys), tuple(values), valid, _places_used(valid))


def score(
    weights: Weights,
    config: RankerConfig,
    prefix: Prefix,
    candidates: Candidates,
    positions: Array,
    *,
    block: int | None = None,
) -> RankerOutput:
    """Score candidates against their row's prefix.

    Args:
        weights: those that encoded the prefix.
        config: the ranker's.
        prefix: of B rows.
        candidates: [B, C].
        positions: see :func:`candidate_positions`.
        block: candidates at a time; default all for a short prefix and :data:`BLOCK` for a long one.

    Returns:
        Float32 logits [B, C, A] and continuous predictions [B, C, Nc].
    """
    tokens = candidate_tokens(weights, config, candidates)
    count, places = tokens.shape[1], jnp.asarray(positions, jnp.float32)
    if block is None:
        block = BLOCK if prefix.valid.shape[1] >= LONG_PREFIX else count
    if count <= block:
        return unembed(weights, _candidate_trunk(weights, config, prefix, tokens, places))
    blocks = -(-count // block)
    padding = ((0, 0), (0, blocks * block - count))
    split = jnp.pad(tokens, (*padding, (0, 0))).reshape(tokens.shape[0], blocks, block, -1)
    if places.shape[1] == 1:
        apart = jax.lax.map(
            lambda x: _candidate_trunk(weights, config, prefix, x, places),
            jnp.moveaxis(split, 1, 0),
        )
    else:
        spread = jnp.pad(places, padding).reshape(places.shape[0], blocks, block)
        apart = jax.lax.map(
            lambda part: _candidate_trunk(weights, config, prefix, *part),
            (jnp.moveaxis(split, 1, 0), jnp.moveaxis(spread, 1, 0)),
        )
    joined = jnp.moveaxis(apart, 0, 1).reshape(tokens.shape[0], blocks * block, -1)
    return unembed(weights, joined[:, :count])


def event_tokens(weights: Weights, config: RankerConfig, events: Events) -> jax.Array:
    """History events to tokens, float32 [B, E, D]."""
    tokens = product(_looked_up(events.post_rows, events.author_rows), weights.history)
    actions = jnp.asarray(events.actions, jnp.float32)
    taken = jnp.any(actions != 0.0, axis=-1, keepdims=True)
    tokens += jnp.where(taken, product(2.0 * actions - 1.0, weights.history_actions), 0.0)
    tokens += _small_lookup(weights.history_surfaces, events.surfaces)
    if weights.dwell_in is not None and weights.dwell_out is not None and events.dwell_seconds is not None:
        normal = normalise_dwell(events.dwell_seconds, config.dwell_norm_scale, config.dwell_use_log)
        # One factor per hidden unit: a product of inner length 1, elementwise.
        tokens += product(gelu(normal[..., None] * weights.dwell_in[0]), weights.dwell_out)
    return tokens


def candidate_tokens(weights: Weights, config: RankerConfig, candidates: Candidates) -> jax.Array:
    """Candidates to tokens, float32 [B, C, D]."""
    tokens = product(_looked_up(candidates.post_rows, candidates.author_rows), weights.candidate)
    tokens += _small_lookup(weights.candidate_surfaces, candidates.surfaces)
    if weights.candidate_ages is not None:
        if candidates.impression_ts is None or candidates.creation_ts is None:
            ages = jnp.zeros(jnp.shape(candidates.surfaces), jnp.int32)
        else:
            ages = post_age_bucket(candidates.impression_ts, candidates.creation_ts, config.post_age_granularity_mins)
        tokens += _small_lookup(weights.candidate_ages, ages)
    return tokens


def unembed(weights: Weights, tokens: jax.Array) -> RankerOutput:
    """Final norm and heads: trunk outputs [..., D] to float32 [..., A] and [..., Nc]."""
    z = rms_norm(tokens, weights.final_norm)
    logits = product(z, weights.heads)
    if weights.continuous_heads is None:
        return RankerOutput(logits, None)
    return RankerOutput(logits, jax.nn.sigmoid(product(z, weights.continuous_heads)))


def product(x: jax.Array, w: jax.Array) -> jax.Array:
    """X · w with X in the precision of w and a float32 sum: [..., in] and [..., in, out] to [..., out].

    Naming the output's dtype matters on a CPU, where XLA runs a bfloat16 product with a bfloat16 output as a
    float32 one between two conversions.
    """
    return jnp.matmul(x.astype(w.dtype), w, precision=HIGHEST, preferred_element_type=jnp.float32)


def rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """As :class:`phoenix_recsys.layers.RMSNorm`, float32."""
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return scale * (x * jax.lax.rsqrt(mean_square + NORM_EPSILON))


def _looked_up(posts: Array, authors: Array) -> jax.Array:
    return jnp.concatenate([flatten_hashes(posts), flatten_hashes(authors)], axis=-1)


def _small_lookup(table: jax.Array, index: Array) -> jax.Array:
    """Rows of a table; an index outside it gives zeros."""
    index = jnp.asarray(index)
    inside = (index >= 0) & (index < table.shape[0])
    return jnp.where(inside[..., None], jnp.take(table, jnp.where(inside, index, 0), axis=0), 0.0)


def _places_used(valid: jax.Array) -> jax.Array:
    """One past the last valid place, int32 [B]; at least 1, for the user has a place, known or not."""
    return jnp.max(jnp.where(valid, jnp.arange(1, valid.shape[1] + 1), 1), axis=1).astype(jnp.int32)


def _queries(layer: LayerWeights, config: RankerConfig, x: jax.Array, positions: jax.Array) -> jax.Array:
    """Rotated queries [B, T, H, K]."""
    q = product(x, layer.query).reshape(*x.shape[:-1], config.model.num_q_heads, config.model.key_size)
    return rotate(q, positions)


def _split_key_value(layer: LayerWeights, config: RankerConfig, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys before their rotation, and values, both [B, T, G, K]."""
    both = product(x, layer.key_value)
    both = both.reshape(*x.shape[:-1], 2, config.model.num_kv_heads, config.model.key_size)
    return both[..., 0, :, :], both[..., 1, :, :]


def _keys_values(
    layer: LayerWeights, config: RankerConfig, x: jax.Array, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Rotated keys [B, G, K, T] and values [B, G, T, K], laid out for the products with queries and weights."""
    k, v = _split_key_value(layer, config, x)
    k, dtype = rotate(k, positions), layer.key_value.dtype
    return k.transpose(0, 2, 3, 1).astype(dtype), v.transpose(0, 2, 1, 3).astype(dtype)


def _capped_exp(logits: jax.Array, multiplier: float) -> jax.Array:
    # A softmax subtracts the largest logit lest exp overflow. The cap already holds logits within ±30, so the
    # exponentials lie in [9.4e-14, 1.1e13]: normal float32 (and bfloat16, whose range is the same) even when
    # summed over 10^24 keys. The quotient is the same, and one pass over the logits is saved.
    return jnp.exp(LOGIT_CAP * jnp.tanh(logits * jnp.float32(multiplier) / LOGIT_CAP))


def _attend(
    config: RankerConfig,
    q: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    seen: jax.Array,
    own: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """Capped softmax attention of queries to a prefix and, with ``own``, to themselves.

    Args:
        config: the ranker's.
        q: rotated, [B, T, H, K]; query head h reads key/value head h // (H / G).
        keys: [B, G, K, S].
        values: [B, G, S, K].
        seen: bool, broadcastable to [B, T, S].
        own: each query's own logit, before the cap, [B, T, H], and own value [B, T, G, K].

    Returns:
        Float32 [B, T, G, H/G, K].
    """
    batch, length, heads, size = q.shape
    groups = keys.shape[1]
    share = heads // groups
    # Heads that share keys stand below one another, so that each group is one large product.
    # Rows and groups are one batch axis: with two, XLA folds the transposition into the product and then, on a
    # CPU, runs a bfloat16 product in float32.
    stacked = q.reshape(batch, length, groups, share, size).transpose(0, 2, 3, 1, 4)
    logits = product(stacked.reshape(-1, share * length, size), keys.reshape(-1, *keys.shape[2:]))
    weights = _capped_exp(logits.reshape(batch, groups, share, length, -1), config.model.attn_output_multiplier)
    weights = jnp.where(seen[:, None, None], weights, 0.0)
    total = jnp.sum(weights, axis=-1)
    mixed = product(weights.reshape(batch * groups, share * length, -1), values.reshape(-1, *values.shape[2:]))
    mixed = mixed.reshape(batch, groups, share, length, size).transpose(0, 3, 1, 2, 4)
    total = total.transpose(0, 3, 1, 2)[..., None]
    if own is not None:
        weight = _capped_exp(own[0], config.model.attn_output_multiplier).reshape(batch, length, groups, share, 1)
        return (mixed + weight * own[1][:, :, :, None, :]) / (total + weight)
    return mixed / jnp.maximum(total, NO_WEIGHT)


def _attend_causally(
    config: RankerConfig, q: jax.Array, keys: jax.Array, values: jax.Array, valid: jax.Array
) -> jax.Array:
    """Attention within a prefix, [B, S, H·K]; a long one by blocks of queries, each with the keys it may see."""
    length = valid.shape[1]
    step = BLOCK if length >= LONG_PREFIX else length
    parts = []
    for start in range(0, length, step):
        stop = min(start + step, length)
        seen = valid[:, None, :stop] & (jnp.arange(stop) <= jnp.arange(start, stop)[:, None])
        part = _attend(config, q[:, start:stop], keys[..., :stop], values[:, :, :stop], seen)
        parts.append(_join_heads(part))
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def _join_heads(mixed: jax.Array) -> jax.Array:
    return mixed.reshape(*mixed.shape[:2], -1)


def _after_attention(layer: LayerWeights, h: jax.Array, mixed: jax.Array) -> jax.Array:
    """The rest of a layer: attention's outputs [B, T, H·K] into the residual stream [B, T, D]."""
    h = h + rms_norm(product(mixed, layer.attention_out), layer.norms[1])
    both = product(rms_norm(h, layer.norms[2]), layer.gate_value)
    gate, value = jnp.split(both, 2, axis=-1)
    return h + rms_norm(product(gelu(gate) * value, layer.feed_forward_out), layer.norms[3])


def _candidate_trunk(
    weights: Weights, config: RankerConfig, prefix: Prefix, h: jax.Array, positions: jax.Array
) -> jax.Array:
    """Candidate tokens [B, C, D] through all layers; rows do not see each other."""
    groups = config.model.num_kv_heads
    seen = prefix.valid[:, None, :]
    for layer, keys, values in zip(weights.layers, prefix.keys, prefix.values, strict=True):
        x = rms_norm(h, layer.norms[0])
        q = product(x, layer.query).reshape(*x.shape[:-1], groups, -1, config.model.key_size)
        k, v = _split_key_value(layer, config, x)
        # Turned by the same angle, a query and its own key have the product they had before.
        own = jnp.sum(q * k[:, :, :, None, :], axis=-1).reshape(*x.shape[:-1], -1)
        q = rotate(q.reshape(*x.shape[:-1], -1, config.model.key_size), positions)
        h = _after_attention(layer, h, _join_heads(_attend(config, q, keys, values, seen, (own, v))))
    return h
