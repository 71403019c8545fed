"""The two-tower model ready to serve: hashing, lookup and towers in one jitted call, in a few padded shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from phoenix_recsys.artifact import Artifact, load_artifact
from phoenix_recsys.config import RetrievalConfig
from phoenix_recsys.hashing import Ids
from phoenix_recsys.inputs import RetrievalBatch
from phoenix_recsys.requests import Floats, History
from phoenix_recsys.served import Served, Tables, bucket_for, checked_buckets, gather_user_side, no_rows, pad_rows
from phoenix_recsys.transforms import Params, candidate_tower_transform, user_tower_transform

ITEM_BUCKETS = (256, 4096)


class Retrieval(Served):
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
        self.item_buckets = checked_buckets("item_buckets", item_buckets)
        user_tower, item_tower = user_tower_transform(self.config), candidate_tower_transform(self.config)

        def run_user(params: Params, tables: Tables, batch: RetrievalBatch) -> jax.Array:
            self.count_compilation()
            return jnp.asarray(
                user_tower.apply(params, batch, gather_user_side(tables, batch)).representation, jnp.float32
            )

        def run_items(params: Params, tables: Tables, posts: jax.Array, authors: jax.Array) -> jax.Array:
            self.count_compilation()
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
        batch, _ = self.user_side(user_id, history)
        vector: Floats = np.asarray(self._run_user(self.params, self.tables, batch))[0]
        return vector

    def encode_items(self, ids: Ids, author_ids: Ids) -> Floats:
        """Unit vectors of items, float32 [n, D]; zero for id 0 with author 0."""
        posts, authors = self.hash_params.hash_items(ids), self.hash_params.hash_authors(author_ids)
        if len(posts) != len(authors):
            raise ValueError(f"encode_items wants one author per item, found {len(posts)} and {len(authors)}")
        found = [no_rows(self.config.emb_size)]
        for start in range(0, len(posts), self.item_buckets[-1]):
            stop = min(start + self.item_buckets[-1], len(posts))
            size = bucket_for(stop - start, self.item_buckets)
            rows = (pad_rows(posts[start:stop], size), pad_rows(authors[start:stop], size))
            found.append(np.asarray(self._run_items(self.params, self.tables, *rows))[: stop - start])
        return np.concatenate(found)

    def warm_up(self) -> int:
        """Compile every bucket of both towers; returns how many programs there are."""
        for length in self.history_buckets:
            self.encode_user(1, self.history_of(length))
        for count in self.item_buckets:
            ids = np.arange(1, count + 1, dtype=np.uint64)
            self.encode_items(ids, ids)
        return self.compilations
