"""The models, requests and arithmetic of `ranker.py`: sizes, random parameters, and how many products they take."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Final

import attrs
import jax
import jax.numpy as jnp
import numpy as np

from phoenix_recsys.artifact import Artifact
from phoenix_recsys.config import RankerConfig, TransformerConfig
from phoenix_recsys.hashing import HashParams
from phoenix_recsys.quantized_tables import QuantizedTables
from phoenix_recsys.quantized_weights import quantize_params
from phoenix_recsys.requests import History, Items
from phoenix_recsys.tables import EmbeddingTables
from phoenix_recsys.transforms import init_params

ACTIONS: Final = 19
CHUNK: Final = 32
SEED: Final = 42


@attrs.frozen
class Size:
    """A model and what it is asked.

    Attributes:
        name: width x layers / history.
        emb: width D.
        layers: decoder layers L.
        heads: query and key/value heads H, G.
        key: width K of a head.
        history: places for events.
        candidates: how many are scored at once, one row of figures each.
        item_rows: rows of the item table; users and authors have a quarter each.
    """

    name: str
    emb: int
    layers: int
    heads: tuple[int, int]
    key: int
    history: int
    candidates: tuple[int, ...]
    item_rows: int = 200_000

    @property
    def config(self) -> RankerConfig:
        """Of the ranker; the chunked baselines score `CHUNK` candidates at a time."""
        heads, groups = self.heads
        model = TransformerConfig(self.emb, self.key, heads, groups, self.layers, 2.0, 0.125)
        return RankerConfig(model, ACTIONS, self.history, CHUNK, fprop_dtype="float32")


#: The sizes of the two published models, the second also with a long history, and one of a larger trunk.
SIZES: Final = {
    size.name: size
    for size in (
        Size("128x4/127", 128, 4, (4, 4), 32, 127, (64, 256, 1500)),
        Size("256x2/127", 256, 2, (4, 4), 64, 127, (64, 256, 1500)),
        Size("256x2/1023", 256, 2, (4, 4), 64, 1023, (64, 256, 1500)),
        Size("512x12/1022", 512, 12, (8, 4), 64, 1022, (64,), item_rows=100_000),
    )
}
QUICK: Final = Size("32x1/15", 32, 1, (4, 2), 16, 15, (40,), item_rows=1000)


@attrs.define(eq=False, slots=False)
class Case:
    """A model with its parameters, and requests to it.

    Attributes:
        size: of the model.
        artifact: float32 parameters and tables, on the device.
    """

    size: Size
    artifact: Artifact

    @functools.cached_property
    def quantized(self) -> Artifact:
        """The same in int8, made when first asked for."""
        tables = self.artifact.tables
        assert isinstance(tables, EmbeddingTables)
        quantized = QuantizedTables.quantize(*(np.asarray(table) for table in tables))
        return attrs.evolve(self.artifact, params=quantize_params(self.artifact.params), tables=quantized)

    @property
    def config(self) -> RankerConfig:
        """The ranker's."""
        return self.size.config

    def history(self, events: int | None = None, *, seed: int = 0) -> History:
        """Random events; as many as there are places for unless stated."""
        count = self.size.history if events is None else events
        rng = np.random.default_rng((SEED, 1, seed))
        return History(
            _ids(rng, count),
            _ids(rng, count),
            rng.random((count, ACTIONS)) > 0.8,
            rng.integers(0, 16, count),
            rng.exponential(10, count),
        )

    def items(self, count: int, *, seed: int = 0) -> Items:
        """Random items, posted in the last four days."""
        rng = np.random.default_rng((SEED, 2, seed))
        shown = np.full(count, 1_700_000_000)
        return Items(_ids(rng, count), _ids(rng, count), rng.integers(0, 16, count), shown, shown - _ages(rng, count))


def _ids(rng: np.random.Generator, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return rng.integers(1, 2**63, count, dtype=np.uint64)


def _ages(rng: np.random.Generator, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return rng.integers(0, 96 * 3600, count)


@functools.lru_cache(maxsize=1)
def case_of(size: Size) -> Case:
    """A random model of this size; the last one is kept."""
    config, rows = size.config, (size.item_rows // 4, size.item_rows, size.item_rows // 4)
    hashes = HashParams.random(SEED, user_vocab_size=rows[0], item_vocab_size=rows[1], author_vocab_size=rows[2])
    tables = EmbeddingTables.random(SEED, hashes, size.emb)
    params = _felt(init_params(config, jax.random.PRNGKey(SEED)), size)
    on_device = EmbeddingTables(*(jnp.asarray(table) for table in tables))
    return Case(size, Artifact(config, params, on_device, hashes))


def _felt(params: Mapping[str, Mapping[str, jax.Array]], size: Size) -> dict[str, dict[str, jax.Array]]:
    """Parameters under which nothing is too small to matter.

    Queries and keys are enlarged until attention is far from uniform, norms differ by channel, and logits have a
    standard deviation near 1: what goes wrong with scores then shows in them.
    """
    rng = np.random.default_rng((SEED, 3))
    found = {module: dict(entries) for module, entries in params.items()}
    for module, entries in found.items():
        for name, value in entries.items():
            if name == "scale":
                entries[name] = jnp.asarray(1 + 0.3 * rng.standard_normal(value.shape), jnp.float32)
            elif module.endswith(("/query", "/key")):
                entries[name] = 2 * value
            elif name in {"unembeddings", "continuous_unembeddings"}:
                entries[name] = jnp.asarray(rng.standard_normal(value.shape) / np.sqrt(size.emb), jnp.float32)
    return found


@attrs.frozen
class Work:
    """How many products programs take; a multiplication and its addition are 2 FLOP.

    Attributes:
        config: the ranker's.
    """

    config: RankerConfig

    @property
    def _layer(self) -> int:
        model = self.config.model
        heads, groups, width = model.num_q_heads, model.num_kv_heads, model.emb_size
        return width * model.key_size * (2 * heads + 2 * groups) + 3 * width * model.ffn_size

    @property
    def _looked_up(self) -> int:
        hashes, width = self.config.hash_config, self.config.emb_size
        return (hashes.num_item_hashes + hashes.num_author_hashes) * width * width

    @property
    def _heads(self) -> int:
        return self.config.emb_size * (self.config.num_actions + self.config.num_continuous_actions)

    def _attention(self, keys: float) -> float:
        model = self.config.model
        return 2 * model.num_q_heads * model.key_size * keys

    def encode(self, events: int, *, whole: bool = False) -> float:
        """FLOP to encode a history of so many events; of the last layer keys and values only, unless whole."""
        config, model, tokens = self.config, self.config.model, 1 + events
        width = config.emb_size
        features = (config.num_actions + config.continuous_action_hidden_dim) * width
        inputs = config.hash_config.num_user_hashes * width * width + events * (self._looked_up + features)
        layer = tokens * (self._layer + self._attention(tokens / 2))
        last = layer if whole else tokens * width * 2 * model.num_kv_heads * model.key_size
        return 2 * (inputs + (model.num_layers - 1) * layer + last)

    def score(self, candidates: int, events: int, *, known: bool = False) -> float:
        """FLOP to score candidates against an encoded history of so many events.

        Of known items, the input and the first layer's queries, keys and values are at hand.
        """
        model = self.config.model
        each = self._looked_up + model.num_layers * (self._layer + self._attention(1 + events)) + self._heads
        if known:
            each -= self._looked_up + model.emb_size * model.key_size * (model.num_q_heads + 2 * model.num_kv_heads)
        return 2 * candidates * each

    def split(self, candidates: int, events: int) -> float:
        """FLOP of history and candidates in one pass, without products among candidates."""
        return self.encode(events, whole=True) + self.score(candidates, events)

    def dense(self, candidates: int, events: int) -> float:
        """FLOP of one pass of the published program over history and candidates: every token meets every other."""
        config, tokens = self.config, 1 + events + candidates
        width = config.emb_size
        inputs = config.hash_config.num_user_hashes * width * width
        inputs += events * (
            self._looked_up + (config.num_actions + config.continuous_action_hidden_dim + 2 * width) * width
        )
        inputs += candidates * (self._looked_up + 2 * width * width)
        layers = config.model.num_layers * tokens * (self._layer + self._attention(tokens))
        return 2 * (inputs + layers + candidates * self._heads)

    def chunked(self, candidates: int, events: int) -> float:
        """FLOP of the published program in chunks of `CHUNK`, the history anew in each."""
        return -(-candidates // CHUNK) * self.dense(CHUNK, events)


def gemm_shapes(config: RankerConfig, candidates: int) -> dict[str, tuple[int, int, int, int]]:
    """The products of scoring candidates: name to batch, rows, inner and columns. Layers repeat them."""
    model, hashes = config.model, config.hash_config
    groups, share, keys = model.num_kv_heads, model.num_q_heads // model.num_kv_heads, 1 + config.history_seq_len
    rows, width, inner = candidates, config.emb_size, model.num_q_heads * model.key_size
    return {
        "input": (1, rows, (hashes.num_item_hashes + hashes.num_author_hashes) * width, width),
        "query, key, value": (1, rows, width, inner + 2 * groups * model.key_size),
        "logits": (groups, share * rows, model.key_size, keys),
        "mix": (groups, share * rows, keys, model.key_size),
        "attention out": (1, rows, inner, width),
        "gate, value": (1, rows, width, 2 * model.ffn_size),
        "feed-forward out": (1, rows, model.ffn_size, width),
    }


def layer_repeats(config: RankerConfig, shape: str) -> int:
    """How often a shape of :func:`gemm_shapes` occurs in scoring."""
    return 1 if shape == "input" else config.model.num_layers
