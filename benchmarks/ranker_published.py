"""The published forward pass: history and a chunk of candidates in one sequence, under one dense mask."""

from __future__ import annotations

from typing import Any, Literal
from unittest import mock

import attrs
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from phoenix_recsys import layers
from phoenix_recsys.artifact import Artifact
from phoenix_recsys.config import RankerConfig
from phoenix_recsys.inputs import Embeddings, RankerBatch
from phoenix_recsys.ranker import DWELL_SLOT
from phoenix_recsys.requests import Floats, History, Items
from phoenix_recsys.tables import EmbeddingTables
from phoenix_recsys.transforms import Params, ranker_transform


class Published:
    """Scores chunk by chunk, with the history computed anew for each.

    Args:
        artifact: float parameters and tables.
        dtype: of activations; embedding rows, projections and heads are float32 as published. Products of bfloat16
            give bfloat16, as published: on a CPU XLA runs them in float32 between conversions.
        chunks: how many candidates are taken at a time: the least of these that holds all, else the largest.
        jitted: compile it, which the published runners do not.
    """

    def __init__(
        self, artifact: Artifact, dtype: Literal["float32", "bfloat16"], chunks: tuple[int, ...], *, jitted: bool
    ) -> None:
        assert isinstance(artifact.config, RankerConfig)
        assert isinstance(artifact.tables, EmbeddingTables)
        self.hashes, self.config, self.chunks = artifact.hash_params, artifact.config, chunks
        self.params, self.tables = artifact.params, artifact.tables
        model = ranker_transform(attrs.evolve(artifact.config, fprop_dtype=dtype), attention="dense")

        def run(params: Params, tables: EmbeddingTables, batch: RankerBatch) -> jax.Array:
            found = Embeddings(
                tables.lookup_users(batch.user_hashes),
                tables.lookup_items(batch.history_post_hashes),
                tables.lookup_authors(batch.history_author_hashes),
                tables.lookup_items(batch.candidate_post_hashes),
                tables.lookup_authors(batch.candidate_author_hashes),
            )
            with mock.patch.multiple(layers, product=_product, _logits=_logits, _mix=_mix):
                output = model.apply(params, batch, found)
            return jnp.stack([output.logits, jax.nn.sigmoid(output.logits)])

        self._run = jax.jit(run) if jitted else run

    def prepare(self, user_id: int, history: History) -> dict[str, Any]:
        """Hash and pad a viewer."""
        places = self.config.history_seq_len
        recent = history.newest(places)
        dwell = np.zeros((len(recent), DWELL_SLOT + 1), np.float32)
        if recent.dwell_seconds is not None:
            dwell[:, DWELL_SLOT] = recent.dwell_seconds
        return {
            "user_hashes": self.hashes.hash_users([user_id]),
            "history_post_hashes": _padded(self.hashes.hash_items(recent.item_ids), places),
            "history_author_hashes": _padded(self.hashes.hash_authors(recent.author_ids), places),
            "history_actions": _padded(recent.actions, places),
            "history_product_surface": _padded(_present(recent.surfaces, len(recent)), places),
            "history_continuous_actions": _padded(dwell, places),
        }

    def score_prepared(self, viewer: dict[str, Any], items: Items) -> Floats:
        """Logits [n, A], with probabilities computed on the way."""
        posts, authors = self.hashes.hash_items(items.ids), self.hashes.hash_authors(items.author_ids)
        fields = (items.surfaces, items.impression_ts, items.creation_ts)
        surfaces, shown, created = (_present(field, len(items)) for field in fields)
        chunk = next((size for size in self.chunks if size >= len(items)), self.chunks[-1])
        parts = []
        for start in range(0, len(items), chunk):
            rows = slice(start, min(start + chunk, len(items)))
            batch = RankerBatch(
                candidate_post_hashes=_padded(posts[rows], chunk),
                candidate_author_hashes=_padded(authors[rows], chunk),
                candidate_product_surface=_padded(surfaces[rows], chunk),
                candidate_impr_ts=_padded(shown[rows], chunk),
                candidate_post_creation_ts=_padded(created[rows], chunk),
                **viewer,
            )
            both = np.asarray(self._run(self.params, self.tables, batch), np.float32)
            parts.append(both[0, 0, : rows.stop - rows.start])
        return np.concatenate(parts)


def _product(x: jax.Array, w: jax.Array, *, sensitive: bool = False) -> jax.Array:
    """As in the published code, which does not ask for float32 sums of bfloat16 products; it has no int8."""
    assert not sensitive or w.dtype != jnp.int8
    return jnp.matmul(x.astype(w.dtype), w, precision=layers.HIGHEST)


def _logits(q: jax.Array, k: jax.Array) -> jax.Array:
    """As in the published code, one einsum over rows and heads: [B, T, H, K], [B, S, G, K] to [B, G, H/G, T, S]."""
    grouped = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[3])
    return jnp.einsum("btghk,bsgk->bghts", grouped, k, precision=layers.HIGHEST)


def _mix(weights: jax.Array, v: jax.Array) -> jax.Array:
    """Likewise: [B, G, H/G, T, S], [B, S, G, K] to [B, T, H, K]."""
    mixed = jnp.einsum("bghts,bsgk->btghk", weights, v, precision=layers.HIGHEST)
    return mixed.reshape(*mixed.shape[:2], -1, mixed.shape[-1])


def _padded(rows: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """A batch of one, with zero rows behind."""
    found = np.zeros((1, size, *rows.shape[1:]), rows.dtype)
    found[0, : len(rows)] = rows
    return found


def _present(values: npt.NDArray[np.int32] | None, count: int) -> npt.NDArray[np.int32]:
    return np.zeros(count, np.int32) if values is None else values
