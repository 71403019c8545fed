"""What the same algorithm needs in other libraries: the model's weights as plain arrays, and requests as table rows.

The peers score candidates against encoded keys and values as the `kv_cache` backend does, and are given every exact
saving that it has: no mask for candidates, the own logit apart, no softmax maximum below the cap, no work in the last
layer that nobody reads, blocks of 256 for long prefixes. Beyond that they take no padding at all: their shapes are
dynamic, so a short history is a short prefix.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import attrs
import numpy as np
import numpy.typing as npt

from phoenix_recsys.artifact import Artifact
from phoenix_recsys.config import RankerConfig
from phoenix_recsys.requests import History, Items
from phoenix_recsys.tables import EmbeddingTables

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
BLOCK: Final = 256
LONG_PREFIX: Final = 512
CAP: Final = 30.0
EPSILON: Final = 1e-5
ROPE_BASE: Final = 10000.0


class Peer(Protocol):
    """A library's version of the ranker."""

    def prepare(self, user_id: int, history: History) -> Any:
        """Encode a user and a history."""

    def score_prepared(self, viewer: Any, items: Items) -> Floats:
        """Logits [n, A]; probabilities are computed too, since a request wants them."""


@attrs.frozen(eq=False)
class Layer:
    """One layer's matrices [in, out], float32.

    Attributes:
        norms: four scales [4, D].
        qkv: queries, keys and values side by side; the factor on logits and the cap's divisor are within queries.
        out: behind the attention.
        gate_value: gate and value side by side.
        down: behind the gated product.
    """

    norms: Floats
    qkv: Floats
    out: Floats
    gate_value: Floats
    down: Floats


@attrs.frozen(eq=False)
class PeerWeights:
    """The model as plain float32 arrays; small tables are projected already, so that they are added to tokens.

    Attributes:
        user, history, actions, dwell_in, dwell_out, candidate: projections of what makes a token.
        history_surfaces, candidate_surfaces, ages: projected small tables.
        layers: of the trunk.
        final_norm: scale before the heads.
        heads: logits and continuous predictions side by side.
    """

    user: Floats
    history: Floats
    actions: Floats
    dwell_in: Floats
    dwell_out: Floats
    candidate: Floats
    history_surfaces: Floats
    candidate_surfaces: Floats
    ages: Floats
    layers: tuple[Layer, ...]
    final_norm: Floats
    heads: Floats


def arrange(artifact: Artifact) -> PeerWeights:
    """A May ranker's parameters for the peers."""
    config = artifact.config
    assert isinstance(config, RankerConfig)
    model = {name: np.asarray(value, np.float32) for name, value in artifact.params["phoenix_model"].items()}
    width, hashes = config.emb_size, config.hash_config
    looked_up = (hashes.num_item_hashes + hashes.num_author_hashes) * width

    def part(table: str, projection: str, index: int) -> Floats:
        start = looked_up + index * width
        return model[table] @ model[projection][start : start + width]

    return PeerWeights(
        user=model["proj_mat_1"],
        history=model["proj_mat_3"][:looked_up],
        actions=part("action_projection", "proj_mat_3", 0),
        dwell_in=model["history_dwell_time_proj1"][0],
        dwell_out=part("history_dwell_time_proj2", "proj_mat_3", 2),
        candidate=model["proj_mat_2"][:looked_up],
        history_surfaces=part("product_surface_embedding_table", "proj_mat_3", 1),
        candidate_surfaces=part("product_surface_embedding_table", "proj_mat_2", 0),
        ages=part("post_age_embedding_table", "proj_mat_2", 1),
        layers=tuple(_layer(artifact, config, index) for index in range(config.model.num_layers)),
        final_norm=np.asarray(artifact.params["phoenix_model/rms_norm"]["scale"], np.float32),
        heads=np.concatenate([model["unembeddings"], model["continuous_unembeddings"]], axis=1),
    )


def float_tables(artifact: Artifact) -> list[Floats]:
    """Copies of the user, item and author tables."""
    assert isinstance(artifact.tables, EmbeddingTables)
    return [np.array(table, np.float32) for table in artifact.tables]


def _layer(artifact: Artifact, config: RankerConfig, index: int) -> Layer:
    root, attention = f"transformer/decoder_layer_{index}", "multi_head_attention"

    def matrix(name: str) -> Floats:
        return np.asarray(artifact.params[f"{root}/{name}"]["w"], np.float32)

    names = ("rms_norm", "rms_norm_1", "rms_norm_2", "rms_norm_3")
    factor = np.float32(config.model.attn_output_multiplier / CAP)
    return Layer(
        np.stack([np.asarray(artifact.params[f"{root}/{name}"]["scale"], np.float32) for name in names]),
        np.concatenate(
            [factor * matrix(f"{attention}/query"), matrix(f"{attention}/key"), matrix(f"{attention}/value")], axis=1
        ),
        matrix(f"{attention}/linear"),
        np.concatenate([matrix("linear"), matrix("linear_v")], axis=1),
        matrix("linear_1"),
    )


def angles(size: int, positions: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Cosines and sines [positions, K/2] of rotary positions."""
    frequency = 1 / np.float32(ROPE_BASE) ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
    phase = np.asarray(positions, np.float32)[:, None] * frequency
    return np.cos(phase).astype(np.float32), np.sin(phase).astype(np.float32)


@attrs.frozen(eq=False)
class ViewerRows:
    """A user and a history as rows of the tables and features; no padding, and no author unknown."""

    user: Ints
    posts: Ints
    authors: Ints
    actions: Floats
    surfaces: Ints
    dwell: Floats


@attrs.frozen(eq=False)
class ItemRows:
    """Items as rows of the tables and features; no author unknown."""

    posts: Ints
    authors: Ints
    surfaces: Ints
    ages: Ints


def viewer_rows(artifact: Artifact, user_id: int, history: History) -> ViewerRows:
    """Hash a user and the newest events."""
    hashes, config = artifact.hash_params, artifact.config
    assert isinstance(config, RankerConfig)
    recent = history.newest(config.history_seq_len)
    assert user_id
    assert recent.author_ids.all()
    assert recent.surfaces is not None
    assert recent.dwell_seconds is not None
    dwell = np.clip(recent.dwell_seconds, 0, config.dwell_norm_scale) / np.float32(config.dwell_norm_scale)
    return ViewerRows(
        hashes.user.buckets([user_id])[0],
        hashes.item.buckets(recent.item_ids),
        hashes.author.buckets(recent.author_ids),
        recent.actions,
        recent.surfaces.astype(np.int64),
        dwell,
    )


def item_rows(artifact: Artifact, items: Items) -> ItemRows:
    """Hash items and find the buckets of their ages."""
    hashes, config = artifact.hash_params, artifact.config
    assert isinstance(config, RankerConfig)
    assert items.author_ids.all()
    assert items.surfaces is not None
    assert items.impression_ts is not None
    assert items.creation_ts is not None
    minutes = (items.impression_ts - items.creation_ts) // 60
    last = config.post_age_vocab_size - 1
    ages = np.clip(minutes // config.post_age_granularity_mins + 1, 0, last)
    ages[(minutes < 0) | (items.impression_ts == 0) | (items.creation_ts == 0)] = 0
    return ItemRows(
        hashes.item.buckets(items.ids),
        hashes.author.buckets(items.author_ids),
        items.surfaces.astype(np.int64),
        ages.astype(np.int64),
    )


def blocks_of(count: int, prefix: int) -> list[slice]:
    """Parts in which to take `count` queries against a prefix of so many tokens."""
    step = BLOCK if prefix >= LONG_PREFIX else max(count, 1)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]
