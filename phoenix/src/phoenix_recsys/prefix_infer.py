"""Jitted prefix-shared inference over ids: encode a viewer once, score any number of items."""

from __future__ import annotations

import itertools
import uuid
from pathlib import Path
from typing import Any

import attrs
import jax
import numpy as np
import numpy.typing as npt

from phoenix_recsys.artifact import Artifact, load_artifact
from phoenix_recsys.config import Positions, RankerConfig
from phoenix_recsys.infer import _checked_buckets, _no_rows, _Served, _sigmoid, bucket_for, pad_rows
from phoenix_recsys.inputs import RetrievalBatch, token_valid
from phoenix_recsys.prefix import Candidates, Events, Prefix, Users, encode, extend, score
from phoenix_recsys.prefix_cache import PrefixCache, PrefixKey, history_digests
from phoenix_recsys.prefix_weights import Precision, Weights, arrange
from phoenix_recsys.ranker import RankerOutput
from phoenix_recsys.requests import Floats, History, Items, Scores
from phoenix_recsys.tables import EmbeddingTables

PREFIX_CANDIDATE_BUCKETS = (32, 128, 512, 1536)
MOST_NEW_EVENTS = 16


@attrs.frozen(eq=False)
class EncodedUser:
    """A viewer ready to be scored against: one row.

    Attributes:
        prefix: keys, values and mask.
        events: history events in it.
        bucket: history events it has places for.
    """

    prefix: Prefix
    events: int
    bucket: int

    @property
    def nbytes(self) -> int:
        """Bytes of the prefix."""
        return self.prefix.nbytes


class PrefixRanker(_Served):
    """A ranker that computes a viewer's part once.

    Scores are those of :class:`phoenix_recsys.infer.Ranker` up to rounding, slots included: under ``slot``
    positions item i stands in slot i modulo the configured candidate length, as if scored in turns of it.

    Args:
        artifact: a loaded ranker; its ``fprop_dtype`` is not read.
        precision: dtype of the inputs of products.
        candidate_buckets: candidate counts to compile for.
        history_buckets: history lengths to compile for; default the configured one alone.
        cache: where :meth:`prefix` keeps what it encoded; default nowhere. May be shared by rankers.
        version: names parameters and tables in cache keys. Default a name that no other instance has.
        most_new_events: a cached prefix is extended by up to so many events; 0 never extends.
    """

    config: RankerConfig

    def __init__(
        self,
        artifact: Artifact,
        *,
        precision: Precision = "float32",
        candidate_buckets: tuple[int, ...] = PREFIX_CANDIDATE_BUCKETS,
        history_buckets: tuple[int, ...] | None = None,
        cache: PrefixCache[EncodedUser] | None = None,
        version: str | None = None,
        most_new_events: int = MOST_NEW_EVENTS,
    ) -> None:
        if not isinstance(artifact.config, RankerConfig):
            raise TypeError("PrefixRanker wants a ranker artifact, found a retrieval one")
        if most_new_events < 0:
            raise ValueError(f"most_new_events must not be negative, found {most_new_events}")
        self.config = artifact.config
        super().__init__(artifact, history_buckets)
        self.precision: Precision = precision
        self.candidate_buckets = _checked_buckets("candidate_buckets", candidate_buckets)
        self.cache = cache
        self.version = version or uuid.uuid4().hex
        self.most_new_events = 0 if self.config.positions == "right" else most_new_events
        config = self.config
        self.weights = arrange(self.params, config, precision)

        def run_encode(weights: Weights, tables: EmbeddingTables, batch: RetrievalBatch, dwell: Floats) -> Prefix:
            self.compilations += 1  # runs while tracing only
            users = Users(token_valid(batch.user_hashes), tables.lookup_users(batch.user_hashes))
            return encode(weights, config, users, _events(tables, batch, dwell))

        def run_extend(
            weights: Weights, tables: EmbeddingTables, prefix: Prefix, batch: RetrievalBatch, dwell: Floats
        ) -> Prefix:
            self.compilations += 1
            return extend(weights, config, prefix, _events(tables, batch, dwell))

        def run_score(
            weights: Weights, tables: EmbeddingTables, prefix: Prefix, items: Candidates, positions: Floats
        ) -> RankerOutput:
            self.compilations += 1
            looked_up = items._replace(
                post_rows=tables.lookup_items(items.post_rows),
                author_rows=tables.lookup_authors(items.author_rows),
            )
            return score(weights, config, prefix, looked_up, positions)

        # Nothing is donated: a cached prefix may be in use by another request while it is extended.
        self._encode, self._extend, self._score = jax.jit(run_encode), jax.jit(run_extend), jax.jit(run_score)

    @classmethod
    def load(cls, directory: Path | str, *, default_positions: Positions = "anchored", **options: Any) -> PrefixRanker:
        """Load an artifact directory; arguments as for :meth:`phoenix_recsys.infer.Ranker.load`.

        Raises:
            ArtifactError: if the directory is no sound ranker.
        """
        artifact = load_artifact(directory, kind="ranker", default_positions=default_positions)
        return cls(artifact, **options)

    def encode(self, user_id: int, history: History) -> EncodedUser:
        """Encode a viewer, whatever the cache holds.

        Args:
            user_id: 64-bit id, 0 for nobody known.
            history: oldest first; the newest ``history_seq_len`` events are read.

        Raises:
            ValueError: if the history's actions do not fit the model.
        """
        batch, dwell = self._user_side(user_id, history)
        events = min(int(np.count_nonzero(history.item_ids)), self.config.history_seq_len)
        return EncodedUser(self._encode(self.weights, self.tables, batch, dwell), events, dwell.shape[1])

    def extend(self, user: EncodedUser, new: History) -> EncodedUser | None:
        """Append events to an encoded viewer.

        Returns:
            The longer viewer, equal to encoding the whole history up to rounding; or None where that cannot
            be: under ``right`` positions, with more than ``most_new_events``, or where the places left do not
            suffice. Encode the whole history then.
        """
        new = new.newest(max(len(new), 1))
        if not len(new):
            return user
        if len(new) > self.most_new_events or user.events + len(new) > user.bucket:
            return None
        batch, dwell = jax.tree.map(
            lambda rows: pad_rows(rows[0, : len(new)], self.most_new_events)[None], self._user_side(0, new)
        )
        prefix = self._extend(self.weights, self.tables, user.prefix, batch, dwell)
        return EncodedUser(prefix, user.events + len(new), user.bucket)

    def prefix(self, user_id: int, history: History) -> EncodedUser:
        """The viewer out of the cache where it is there, extended where that suffices, else encoded.

        Raises:
            ValueError: if the history's actions do not fit the model.
        """
        if self.cache is None:
            return self.encode(user_id, history)
        recent = history.newest(self.config.history_seq_len)
        keys = self.keys(user_id, recent)
        found = self.cache.lookup(keys)
        if found is not None and not found.missing:
            return found.value
        user = None if found is None else self.extend(found.value, recent.newest(found.missing))
        if user is None:
            user = self.encode(user_id, recent)
        self.cache.put(keys[0], user, replaces=None if found is None else found.key)
        return user

    def keys(self, user_id: int, history: History) -> list[PrefixKey]:
        """Cache keys of a viewer, and of the viewer some events ago in the same bucket, the present first."""
        recent = history.newest(self.config.history_seq_len)
        count = len(recent)
        bucket = bucket_for(count, self.history_buckets)
        surfaces = np.zeros(count, np.int32) if recent.surfaces is None else recent.surfaces
        dwell = np.zeros(count, np.float32) if recent.dwell_seconds is None else recent.dwell_seconds
        inputs = (recent.item_ids, recent.author_ids, recent.actions, surfaces, dwell)
        digests = history_digests(inputs, max(count - self.most_new_events, 0))
        model, precision, positions = self.version, self.precision, self.config.positions
        return [
            PrefixKey(user_id, model, precision, positions, bucket, count - ago, digest)
            for ago, digest in enumerate(digests)
        ]

    def score(self, user: EncodedUser, items: Items) -> Scores:
        """Score n items, in any order and number, for an encoded viewer."""
        logits, continuous = [_no_rows(self.config.num_actions)], [_no_rows(self.config.num_continuous_actions)]
        for start in range(0, len(items), self.candidate_buckets[-1]):
            rows = np.arange(start, min(start + self.candidate_buckets[-1], len(items)))
            output = self._score_rows(user, items, rows)
            logits.append(np.asarray(output.logits)[0, : len(rows)])
            if output.continuous_preds is not None:
                continuous.append(np.asarray(output.continuous_preds)[0, : len(rows)])
        joined = np.concatenate(logits)
        return Scores(joined, _sigmoid(joined), np.concatenate(continuous) if self.config.release == "may" else None)

    def warm_up(self) -> int:
        """Compile every combination of buckets; returns how many programs there are."""
        for length, count in itertools.product(self.history_buckets, self.candidate_buckets):
            user = self.encode(1, self._history_of(length))
            ids = np.arange(1, count + 1, dtype=np.uint64)
            self.score(user, Items(ids, ids))
        if self.most_new_events:
            for length in self.history_buckets:
                user = self.encode(1, self._history_of(length - 1))
                if user.bucket == length:  # else every history in this bucket fills it
                    self.extend(user, self._history_of(1))
        return self.compilations

    def _score_rows(self, user: EncodedUser, items: Items, rows: npt.NDArray[np.intp]) -> RankerOutput:
        size = bucket_for(len(rows), self.candidate_buckets)

        def ints(values: npt.NDArray[np.int32] | None) -> npt.NDArray[np.int32]:
            return pad_rows(np.zeros(len(rows), np.int32) if values is None else values[rows], size)[None]

        positions = np.full((1, 1), 1 + self.config.history_seq_len, np.float32)
        if self.config.positions == "slot":
            slots = np.arange(rows[0], rows[0] + size) % self.config.candidate_seq_len
            positions = positions + slots.astype(np.float32)
        may = self.config.release == "may"
        candidates = Candidates(
            pad_rows(self.hash_params.hash_items(items.ids[rows]), size)[None],
            pad_rows(self.hash_params.hash_authors(items.author_ids[rows]), size)[None],
            ints(items.surfaces),
            # Zeros mean unknown, so that a request with and one without times share one program.
            ints(items.impression_ts) if may else None,
            ints(items.creation_ts) if may else None,
        )
        output: RankerOutput = self._score(self.weights, self.tables, user.prefix, candidates, positions)
        return output


def _events(tables: EmbeddingTables, batch: RetrievalBatch, dwell: Floats) -> Events:
    return Events(
        token_valid(batch.history_post_hashes),
        tables.lookup_items(batch.history_post_hashes),
        tables.lookup_authors(batch.history_author_hashes),
        batch.history_actions,
        batch.history_product_surface,
        dwell,
    )
