"""The ranker with a shared prefix: user and history are encoded once, candidates are scored against them.

A candidate sees the user, the history and itself (x-algorithm Phoenix, May 2026 release), and neither user
nor history see a candidate. So the keys and values of ``[user | history]`` serve any number of candidates,
and each candidate is a query of its own: there is no dense mask and no candidate-to-candidate block. M-FALCON
(Zhai et al. 2024) and prefix caching of language models share work in the same way.

Rotary positions enter attention through differences alone. So positions count from where candidates stand: under
``anchored`` and ``right`` positions every candidate is at 0, and nothing of it has to be rotated.

B rows, S = 1 + history places, C candidates, H query and G key/value heads of size K, D width of a token.
Activations are float32; products take their inputs in the precision of the weights
(:func:`phoenix_recsys.prefix_weights.arrange`) and accumulate in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from phoenix_recsys.blocks import normalise_dwell
from phoenix_recsys.config import RankerConfig
from phoenix_recsys.inputs import Array, Embeddings, RankerBatch, post_age_bucket
from phoenix_recsys.layers import gelu
from phoenix_recsys.positions import ranker_positions, slot_positions
from phoenix_recsys.prefix_inputs import Candidates, Events, Prefix, Users, split_batch
from phoenix_recsys.prefix_ops import (
    Own,
    Turn,
    after_attention,
    attend,
    masked_values,
    own_weights,
    product,
    project_rows,
    rms_norm,
    small_lookup,
    split_heads,
    turn_by,
    turn_to,
    turned,
)
from phoenix_recsys.prefix_weights import LayerWeights, Matrix, Weights
from phoenix_recsys.quantized_weights import QuantizedMatrix
from phoenix_recsys.ranker import RankerOutput

BLOCK_WEIGHTS = 1 << 19
"""Attention weights of one head that are computed at a time: 2 MiB of float32, about a core's cache."""


class FirstLayer(NamedTuple):
    """What a candidate is before it meets a prefix; depends on nothing but the candidate. A pytree.

    Attributes:
        token: float32 [B, C, D].
        query: of layer 0, rotated where candidates differ in position, [B, C, H·K] in the precision of attention.
        own: of layer 0.
    """

    token: jax.Array
    query: jax.Array
    own: Own


def forward(
    weights: Weights, config: RankerConfig, batch: RankerBatch, embeddings: Embeddings, *, block: int | None = None
) -> RankerOutput:
    """What the plain forward computes, through a prefix; equal at valid candidates."""
    users, events, candidates = split_batch(batch, embeddings)
    length = batch.history_post_hashes.shape[1]
    places = candidate_positions(config, candidates.surfaces.shape[1], history_places=length)
    return score(weights, config, encode(weights, config, users, events), candidates, places, block=block)


def origin(config: RankerConfig) -> int:
    """The position that others are counted from: one behind the longest history."""
    return 1 + config.history_seq_len


def candidate_positions(config: RankerConfig, count: int, *, history_places: int | None = None) -> jax.Array | None:
    """Positions of ``count`` candidates: float32 [1, C] under ``slot``, else None: all stand at the origin.

    ``history_places`` is the padded history length that ``slot`` counts from; default the configured one,
    which makes the bucket that the history really has invisible.
    """
    if config.positions != "slot":
        return None
    start = config.history_seq_len if history_places is None else history_places
    return slot_positions(count) + float(1 + start)


def encode(weights: Weights, config: RankerConfig, users: Users, events: Events) -> Prefix:
    """Encode users and their histories, [B] and [B, S−1]."""
    user = project_rows(users.rows, weights.user)
    if config.release == "may" and users.ip_rows is not None and config.hash_config.num_ip_hashes > 0:
        user += jnp.sum(jnp.asarray(users.ip_rows, jnp.float32), axis=1)
    h = jnp.concatenate([user[:, None], event_tokens(weights, config, events)], axis=1)
    valid = jnp.concatenate([jnp.asarray(users.valid)[:, None], jnp.asarray(events.valid)], axis=1)
    length = valid.shape[1]
    places = ranker_positions(config.positions, valid, config.history_seq_len, candidate_start=length)
    turn = turn_to(places, config.model.key_size, origin(config), origin(config) + length)
    keys, values = [], []
    for index, layer in enumerate(weights.layers):
        x = rms_norm(h, layer.norms[0])
        if index + 1 == len(weights.layers):  # of the last layer, nobody reads more than keys and values
            q, both = None, _project(layer, config, x, queries=False)[1]
        else:
            q, both = _project(layer, config, x)
        k, v = _keys_values(weights, config, turn, valid, both)
        keys.append(k)
        values.append(v)
        if q is not None:
            q = _turned_flat(q, turn, config)
            h = after_attention(layer, h, _attend_causally(config, q, k, v))
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
    positions = places
    if config.positions == "anchored":
        standing = jnp.sum(prefix.valid[:, 1:], axis=1, keepdims=True)
        positions = jnp.where(fresh, standing + jnp.cumsum(fresh, axis=1), 0)
    turn = turn_to(positions, config.model.key_size, origin(config), origin(config) + length)
    # Events see the keys up to their own place.
    seen = jnp.arange(length) <= places[..., None]
    h = event_tokens(weights, config, events)
    keys, values = [], []
    for index, layer in enumerate(weights.layers):
        x = rms_norm(h, layer.norms[0])
        q, both = _project(layer, config, x)
        k, v = _keys_values(weights, config, turn, fresh, both)
        k = prefix.keys[index].at[rows, :, :, places].set(jnp.moveaxis(k, 3, 1), mode="drop")
        v = prefix.values[index].at[rows, :, places].set(jnp.moveaxis(v, 2, 1), mode="drop")
        keys.append(k)
        values.append(v)
        if index + 1 < len(weights.layers):
            q = _turned_flat(q, turn, config)
            h = after_attention(layer, h, attend(config, q, k, v, seen=seen))
    return Prefix(tuple(keys), tuple(values), valid, _places_used(valid))


def widen(prefix: Prefix, places: int) -> Prefix:
    """The same prefix with padding up to ``places`` places in all."""
    more = places - prefix.valid.shape[1]
    return Prefix(
        tuple(jnp.pad(k, ((0, 0), (0, 0), (0, 0), (0, more))) for k in prefix.keys),
        tuple(jnp.pad(v, ((0, 0), (0, 0), (0, more), (0, 0))) for v in prefix.values),
        jnp.pad(prefix.valid, ((0, 0), (0, more))),
        prefix.used,
    )


def stacked(prefixes: Sequence[Prefix]) -> Prefix:
    """Prefixes of one shape, row below row."""
    if len(prefixes) == 1:
        return prefixes[0]
    joined: Prefix = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *prefixes)
    return joined


def score(
    weights: Weights,
    config: RankerConfig,
    prefix: Prefix,
    candidates: Candidates,
    positions: Array | None,
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
        block: candidates at a time; default as many as :data:`BLOCK_WEIGHTS` allows.

    Returns:
        Float32 logits [B, C, A] and continuous predictions [B, C, Nc].
    """
    tokens = candidate_tokens(weights, config, candidates)
    return score_first(weights, config, prefix, first_layer(weights, config, tokens, positions), positions, block=block)


def first_layer(weights: Weights, config: RankerConfig, tokens: jax.Array, positions: Array | None) -> FirstLayer:
    """Candidate tokens [B, C, D] up to the point where they look at a prefix."""
    query, own = _project_candidates(weights, config, 0, tokens, _turn_of(config, positions))
    return FirstLayer(tokens, query, own)


def score_first(
    weights: Weights,
    config: RankerConfig,
    prefix: Prefix,
    first: FirstLayer,
    positions: Array | None,
    *,
    block: int | None = None,
) -> RankerOutput:
    """:func:`score` from :func:`first_layer` on."""
    batch, count = first.token.shape[:2]
    turn = _turn_of(config, positions)

    def trunk(first: FirstLayer, turn: Turn | None) -> jax.Array:
        h, query, own = first
        for index, layer in enumerate(weights.layers):
            if index:
                query, own = _project_candidates(weights, config, index, h, turn)
            h = after_attention(
                layer,
                h,
                attend(
                    config,
                    query,
                    prefix.keys[index],
                    prefix.values[index],
                    own=own,
                    precise=isinstance(layer.attention_out, QuantizedMatrix),
                ),
            )
        return h

    if block is None:
        block = max(1, BLOCK_WEIGHTS // prefix.valid.shape[1])
    if count <= block:
        return unembed(weights, trunk(first, turn))
    blocks = -(-count // block)

    def split(x: jax.Array) -> jax.Array:
        """[B, C, …] to [blocks, B, block, …]."""
        padded = jnp.pad(x, ((0, 0), (0, blocks * block - count), *(((0, 0),) * (x.ndim - 2))))
        return jnp.moveaxis(padded.reshape(x.shape[0], blocks, block, *x.shape[2:]), 1, 0)

    apart = jax.lax.map(lambda part: trunk(*part), jax.tree.map(split, (first, turn)))
    joined = jnp.moveaxis(apart, 0, 1).reshape(batch, blocks * block, -1)
    return unembed(weights, joined[:, :count])


def event_tokens(weights: Weights, config: RankerConfig, events: Events) -> jax.Array:
    """History events to tokens, float32 [B, E, D]."""
    hashes = config.hash_config.num_item_hashes
    tokens = project_rows(events.post_rows, weights.history[:hashes])
    tokens += project_rows(events.author_rows, weights.history[hashes:])
    actions = jnp.asarray(events.actions, jnp.float32)
    taken = jnp.any(actions != 0.0, axis=-1, keepdims=True)
    tokens += jnp.where(taken, product(2.0 * actions - 1.0, weights.history_actions), 0.0)
    tokens += small_lookup(weights.history_surfaces, events.surfaces)
    if weights.dwell_in is not None and weights.dwell_out is not None and events.dwell_seconds is not None:
        normal = normalise_dwell(events.dwell_seconds, config.dwell_norm_scale, config.dwell_use_log)
        # One factor per hidden unit: a product of inner length 1, elementwise.
        tokens += product(gelu(normal[..., None] * weights.dwell_in[0]), weights.dwell_out)
    return tokens


def candidate_tokens(weights: Weights, config: RankerConfig, candidates: Candidates) -> jax.Array:
    """Candidates to tokens, float32 [B, C, D]."""
    hashes = config.hash_config.num_item_hashes
    tokens = project_rows(candidates.post_rows, weights.candidate[:hashes])
    tokens += project_rows(candidates.author_rows, weights.candidate[hashes:])
    tokens += small_lookup(weights.candidate_surfaces, candidates.surfaces)
    if weights.candidate_ages is not None:
        if candidates.impression_ts is None or candidates.creation_ts is None:
            ages = jnp.zeros(jnp.shape(candidates.surfaces), jnp.int32)
        else:
            ages = post_age_bucket(candidates.impression_ts, candidates.creation_ts, config.post_age_granularity_mins)
        tokens += small_lookup(weights.candidate_ages, ages)
    return tokens


def unembed(weights: Weights, tokens: jax.Array) -> RankerOutput:
    """Final norm and heads: trunk outputs [..., D] to float32 [..., A] and [..., Nc]."""
    z = rms_norm(tokens, weights.final_norm)
    logits = product(z, weights.heads)
    if weights.continuous_heads is None:
        return RankerOutput(logits, None)
    return RankerOutput(logits, jax.nn.sigmoid(product(z, weights.continuous_heads)))


def _turn_of(config: RankerConfig, positions: Array | None) -> Turn | None:
    return None if positions is None else turn_by(positions, config.model.key_size, origin(config))


def _places_used(valid: jax.Array) -> jax.Array:
    """One past the last valid place, int32 [B]; at least 1, for the user has a place, known or not."""
    return jnp.max(jnp.where(valid, jnp.arange(1, valid.shape[1] + 1), 1), axis=1).astype(jnp.int32)


def _columns(matrix: Matrix, start: int) -> Matrix:
    if isinstance(matrix, QuantizedMatrix):
        return QuantizedMatrix(matrix.values[:, start:], matrix.scales[start:])
    return matrix[:, start:]


def _project(
    layer: LayerWeights, config: RankerConfig, x: jax.Array, *, queries: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Queries [B, T, H·K] (empty if not wanted), and keys beside values [B, T, 2·G·K], none rotated."""
    width = config.model.num_q_heads * config.model.key_size
    if not queries:
        return x[..., :0], product(x, _columns(layer.query_key_value, width), sensitive=True)
    both = product(x, layer.query_key_value, sensitive=True)
    return both[..., :width], both[..., width:]


def _turned_flat(q: jax.Array, turn: Turn, config: RankerConfig) -> jax.Array:
    return turned(split_heads(q, config.model.key_size), turn).reshape(q.shape)


def _keys_values(
    weights: Weights, config: RankerConfig, turn: Turn, valid: jax.Array, both: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Rotated keys [B, G, K, T] and masked values [B, G, T, K'], laid out for the products with queries and weights."""
    both = both.reshape(*both.shape[:-1], 2, config.model.num_kv_heads, config.model.key_size)
    k, v, dtype = turned(both[..., 0, :, :], turn), both[..., 1, :, :], weights.attention_dtype
    return k.astype(dtype).transpose(0, 2, 3, 1), masked_values(v, valid, dtype)


def _project_candidates(
    weights: Weights, config: RankerConfig, index: int, h: jax.Array, turn: Turn | None
) -> tuple[jax.Array, Own]:
    """Queries of a layer, and what its candidates attend to beside the prefix."""
    layer = weights.layers[index]
    q, both = _project(layer, config, rms_norm(h, layer.norms[0]))
    k, v = jnp.split(both, 2, axis=-1)
    own = Own(own_weights(config, q, k, weights.attention_dtype), v)
    if turn is not None:
        q = _turned_flat(q, turn, config)
    return q.astype(weights.attention_dtype), own


def _attend_causally(config: RankerConfig, q: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    """Attention within a prefix, [B, S, H·K]; a long one by blocks of queries, each with the keys it may see."""
    length = q.shape[1]
    step = max(1, BLOCK_WEIGHTS // length)
    parts = []
    for start in range(0, length, step):
        stop = min(start + step, length)
        seen = (np.arange(stop) <= np.arange(start, stop)[:, None])[None]
        part = attend(config, q[:, start:stop], keys[..., :stop], values[:, :, :stop], seen=jnp.asarray(seen))
        parts.append(part)
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)
