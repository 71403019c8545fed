"""Jitted inference over ids: hashing, lookup and forward pass in one call, in a few padded shapes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from phoenix_recsys.actions import action_names
from phoenix_recsys.artifact import Artifact, load_artifact
from phoenix_recsys.config import Positions, RankerConfig, RetrievalConfig
from phoenix_recsys.hashing import Ids
from phoenix_recsys.inputs import Embeddings, RankerBatch, RetrievalBatch
from phoenix_recsys.ranker import DWELL_SLOT, RankerOutput
from phoenix_recsys.requests import Floats, History, Items, Scores
from phoenix_recsys.tables import EmbeddingTables
from phoenix_recsys.transforms import (
    Params,
    as_device,
    candidate_tower_transform,
    ranker_transform,
    user_tower_transform,
)

CANDIDATE_BUCKETS = (32, 256)
ITEM_BUCKETS = (256, 4096)

T = TypeVar("T", bound=np.generic)


def bucket_for(size: int, buckets: tuple[int, ...]) -> int:
    """The smallest bucket that holds ``size`` rows, or the largest there is."""
    return next((bucket for bucket in buckets if bucket >= size), buckets[-1])


def pad_rows(array: npt.NDArray[T], size: int) -> npt.NDArray[T]:
    """Append zero rows: [n, ...] to [size, ...]."""
    padded = np.zeros((size, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded


def _checked_buckets(name: str, buckets: tuple[int, ...], largest: int | None = None) -> tuple[int, ...]:
    ordered = tuple(sorted({min(bucket, largest) if largest else bucket for bucket in buckets}))
    if not ordered or ordered[0] < 1:
        raise ValueError(f"{name} must be positive sizes, at least one, found {buckets}")
    return ordered if largest is None or ordered[-1] == largest else (*ordered, largest)


class _Served:
    """What both served models share.

    Parameters on the device, history in padded shapes, a compile counter.
    """

    config: RankerConfig | RetrievalConfig

    def __init__(self, artifact: Artifact, history_buckets: tuple[int, ...] | None) -> None:
        self.hash_params = artifact.hash_params
        self.served_heads = artifact.served_heads
        self.metadata = artifact.metadata
        self.params = as_device(artifact.params)
        self.tables = EmbeddingTables(*(jnp.asarray(table, jnp.float32) for table in artifact.tables))
        longest = artifact.config.history_seq_len
        self.history_buckets = _checked_buckets("history_buckets", history_buckets or (longest,), longest)
        self.compilations = 0
        """How many programs were traced so far; constant once :meth:`warm_up` has run."""

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the A actions, in order."""
        return action_names(self.config)

    def _user_side(self, user_id: int, history: History) -> tuple[RetrievalBatch, Floats]:
        """Padded user and history fields of a batch of one, and dwell seconds [1, S]."""
        if history.actions.shape[1] != self.config.num_actions:
            raise ValueError(
                f"the model knows {self.config.num_actions} actions, the history has {history.actions.shape[1]}"
            )
        recent = history.newest(self.config.history_seq_len)
        size = bucket_for(len(recent), self.history_buckets)
        surfaces = np.zeros(len(recent), np.int32) if recent.surfaces is None else recent.surfaces
        dwell = np.zeros(len(recent), np.float32) if recent.dwell_seconds is None else recent.dwell_seconds
        batch = RetrievalBatch(
            self.hash_params.hash_users([user_id]),
            pad_rows(self.hash_params.hash_items(recent.item_ids), size)[None],
            pad_rows(self.hash_params.hash_authors(recent.author_ids), size)[None],
            pad_rows(recent.actions, size)[None],
            pad_rows(surfaces, size)[None],
        )
        return batch, pad_rows(dwell, size)[None]

    def _history_of(self, length: int) -> History:
        ids = np.arange(1, length + 1, dtype=np.uint64)
        return History(ids, ids, np.zeros((length, self.config.num_actions), np.float32))


def _gather_user_side(tables: EmbeddingTables, batch: RankerBatch | RetrievalBatch) -> Embeddings:
    return Embeddings(
        tables.lookup_users(batch.user_hashes),
        tables.lookup_items(batch.history_post_hashes),
        tables.lookup_authors(batch.history_author_hashes),
    )


class Ranker(_Served):
    """A ranker ready to serve.

    Histories are cut to the newest ``history_seq_len`` events and padded to a bucket; items are padded to a
    bucket, and more than the largest bucket holds are scored in turns. Under ``anchored`` and ``right``
    positions neither shows in the scores. Under ``slot`` positions, where a score depends on the slot, there
    is one bucket of each: the configured history and candidate lengths, as in the published pipeline.

    Args:
        artifact: a loaded ranker.
        candidate_buckets: candidate counts to compile for.
        history_buckets: history lengths to compile for; default the configured one alone.
    """

    config: RankerConfig

    def __init__(
        self,
        artifact: Artifact,
        *,
        candidate_buckets: tuple[int, ...] = CANDIDATE_BUCKETS,
        history_buckets: tuple[int, ...] | None = None,
    ) -> None:
        if not isinstance(artifact.config, RankerConfig):
            raise TypeError("Ranker wants a ranker artifact, found a retrieval one")
        self.config = artifact.config
        slot = self.config.positions == "slot"
        super().__init__(artifact, None if slot else history_buckets)
        buckets = (self.config.candidate_seq_len,) if slot else candidate_buckets
        self.candidate_buckets = _checked_buckets("candidate_buckets", buckets)
        forward = ranker_transform(self.config, attention="split")

        def run(params: Params, tables: EmbeddingTables, batch: RankerBatch) -> RankerOutput:
            self.compilations += 1  # runs while tracing only
            embeddings = _gather_user_side(tables, batch)._replace(
                candidate_post_embeddings=tables.lookup_items(batch.candidate_post_hashes),
                candidate_author_embeddings=tables.lookup_authors(batch.candidate_author_hashes),
            )
            logits, continuous = forward.apply(params, batch, embeddings)
            return RankerOutput(
                logits.astype(jnp.float32), None if continuous is None else continuous.astype(jnp.float32)
            )

        self._run = jax.jit(run)

    @classmethod
    def load(cls, directory: Path | str, *, default_positions: Positions = "anchored", **options: Any) -> Ranker:
        """Load an artifact directory.

        Args:
            directory: the artifact.
            default_positions: where its config.json names no positions, as published ones do not.
            **options: those of the constructor.

        Raises:
            ArtifactError: if the directory is no sound ranker.
        """
        artifact = load_artifact(directory, kind="ranker", default_positions=default_positions)
        return cls(artifact, **options)

    def score(self, user_id: int, history: History, items: Items) -> Scores:
        """Score items for one user.

        Args:
            user_id: 64-bit id, 0 for nobody known.
            history: oldest first.
            items: n items, in any order.

        Raises:
            ValueError: if the history's actions do not fit the model.
        """
        user, dwell = self._user_side(user_id, history)
        logits, continuous = [_no_rows(self.config.num_actions)], [_no_rows(self.config.num_continuous_actions)]
        for start in range(0, len(items), self.candidate_buckets[-1]):
            rows = np.arange(start, min(start + self.candidate_buckets[-1], len(items)))
            output = self._score_chunk(user, dwell, items, rows)
            logits.append(np.asarray(output.logits)[0, : len(rows)])
            if output.continuous_preds is not None:
                continuous.append(np.asarray(output.continuous_preds)[0, : len(rows)])
        joined = np.concatenate(logits)
        return Scores(joined, _sigmoid(joined), np.concatenate(continuous) if self.config.release == "may" else None)

    def warm_up(self) -> int:
        """Compile every combination of buckets; returns how many programs there are."""
        for length, count in itertools.product(self.history_buckets, self.candidate_buckets):
            ids = np.arange(1, count + 1, dtype=np.uint64)
            self.score(1, self._history_of(length), Items(ids, ids))
        return self.compilations

    def _score_chunk(
        self, user: RetrievalBatch, dwell: Floats, items: Items, rows: npt.NDArray[np.intp]
    ) -> RankerOutput:
        size = bucket_for(len(rows), self.candidate_buckets)

        def ints(values: npt.NDArray[np.int32] | None) -> npt.NDArray[np.int32]:
            return pad_rows(np.zeros(len(rows), np.int32) if values is None else values[rows], size)[None]

        may: dict[str, Any] = {}
        if self.config.release == "may":
            # Zeros mean unknown, so that a request with and one without times share one program.
            continuous = np.zeros((*dwell.shape, DWELL_SLOT + 1), np.float32)
            continuous[..., DWELL_SLOT] = dwell
            may = {
                "history_continuous_actions": continuous,
                "candidate_impr_ts": ints(items.impression_ts),
                "candidate_post_creation_ts": ints(items.creation_ts),
            }
        batch = RankerBatch(
            user.user_hashes,
            user.history_post_hashes,
            user.history_author_hashes,
            user.history_actions,
            user.history_product_surface,
            pad_rows(self.hash_params.hash_items(items.ids[rows]), size)[None],
            pad_rows(self.hash_params.hash_authors(items.author_ids[rows]), size)[None],
            ints(items.surfaces),
            **may,
        )
        output: RankerOutput = self._run(self.params, self.tables, batch)
        return output


class Retrieval(_Served):
    """A two-tower model ready to serve.

    Args:
        artifact: a loaded retrieval model.
        item_buckets: item counts to compile the item tower for.
        history_buckets: history lengths to compile the user tower for; default the configured one alone.
    """

    config: RetrievalConfig

    def __init__(
        self,
        artifact: Artifact,
        *,
        item_buckets: tuple[int, ...] = ITEM_BUCKETS,
        history_buckets: tuple[int, ...] | None = None,
    ) -> None:
        if not isinstance(artifact.config, RetrievalConfig):
            raise TypeError("Retrieval wants a retrieval artifact, found a ranker one")
        self.config = artifact.config
        super().__init__(artifact, history_buckets)
        self.item_buckets = _checked_buckets("item_buckets", item_buckets)
        user_tower, item_tower = user_tower_transform(self.config), candidate_tower_transform(self.config)

        def run_user(params: Params, tables: EmbeddingTables, batch: RetrievalBatch) -> jax.Array:
            self.compilations += 1  # runs while tracing only
            return jnp.asarray(
                user_tower.apply(params, batch, _gather_user_side(tables, batch)).representation, jnp.float32
            )

        def run_items(params: Params, tables: EmbeddingTables, posts: jax.Array, authors: jax.Array) -> jax.Array:
            self.compilations += 1
            return jnp.asarray(
                item_tower.apply(params, tables.lookup_items(posts), tables.lookup_authors(authors)),
                jnp.float32,
            )

        self._run_user, self._run_items = jax.jit(run_user), jax.jit(run_items)

    @classmethod
    def load(cls, directory: Path | str, **options: Any) -> Retrieval:
        """Load an artifact directory; options are those of the constructor.

        Raises:
            ArtifactError: if the directory is no sound retrieval model.
        """
        return cls(load_artifact(directory, kind="retrieval"), **options)

    def encode_user(self, user_id: int, history: History) -> Floats:
        """The user's unit vector, float32 [D]; zero for an unknown user (id 0) without history."""
        batch, _ = self._user_side(user_id, history)
        vector: Floats = np.asarray(self._run_user(self.params, self.tables, batch))[0]
        return vector

    def encode_items(self, ids: Ids, author_ids: Ids) -> Floats:
        """Unit vectors of items, float32 [n, D]; zero for id 0 with author 0."""
        posts, authors = self.hash_params.hash_items(ids), self.hash_params.hash_authors(author_ids)
        if len(posts) != len(authors):
            raise ValueError(f"encode_items wants one author per item, found {len(posts)} and {len(authors)}")
        found = [_no_rows(self.config.emb_size)]
        for start in range(0, len(posts), self.item_buckets[-1]):
            stop = min(start + self.item_buckets[-1], len(posts))
            size = bucket_for(stop - start, self.item_buckets)
            rows = (pad_rows(posts[start:stop], size), pad_rows(authors[start:stop], size))
            found.append(np.asarray(self._run_items(self.params, self.tables, *rows))[: stop - start])
        return np.concatenate(found)

    def warm_up(self) -> int:
        """Compile every bucket of both towers; returns how many programs there are."""
        for length in self.history_buckets:
            self.encode_user(1, self._history_of(length))
        for count in self.item_buckets:
            ids = np.arange(1, count + 1, dtype=np.uint64)
            self.encode_items(ids, ids)
        return self.compilations


def _no_rows(width: int) -> Floats:
    return np.zeros((0, width), np.float32)


def _sigmoid(logits: Floats) -> Floats:
    # exp of a negative number only, so that nothing overflows.
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
