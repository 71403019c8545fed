"""The ``kv_cache`` backend: encode a viewer once, score any number of items against the cached prefix."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import attrs
import jax
import numpy as np
import numpy.typing as npt

from phoenix_recsys.artifact import Artifact
from phoenix_recsys.backend import BackendOptions, BackendStats
from phoenix_recsys.config import RankerConfig
from phoenix_recsys.device_tables import DeviceTables
from phoenix_recsys.inputs import RetrievalBatch, token_valid
from phoenix_recsys.item_cache import FILL_ROWS, ItemCache, age_buckets, item_keys, read_back, stored
from phoenix_recsys.prefix import (
    FirstLayer,
    candidate_tokens,
    encode,
    extend,
    first_layer,
    origin,
    score,
    score_first,
    stacked,
    widen,
)
from phoenix_recsys.prefix_cache import PrefixCache, PrefixKey, history_digests
from phoenix_recsys.prefix_inputs import Candidates, Events, Prefix, Rows, Users
from phoenix_recsys.prefix_weights import Weights, arrange
from phoenix_recsys.ranker import RankerOutput
from phoenix_recsys.requests import Floats, History, Items, Scores
from phoenix_recsys.served import Served, Tables, bucket_for, checked_buckets, on_host, pad_rows
from phoenix_recsys.single_flight import SingleFlight
from phoenix_recsys.turns import Collected, Turn, device_calls, joined_items, stacked_ids, stacked_ints

CANDIDATE_BUCKETS = (32, 128, 512, 1536)


class HashedItems(NamedTuple):
    """Items as table rows, [B, C, ni] and [B, C, na], and the rest of :class:`Candidates`."""

    posts: npt.NDArray[np.int32]
    authors: npt.NDArray[np.int32]
    surfaces: npt.NDArray[np.int32]
    impression_ts: npt.NDArray[np.int32] | None
    creation_ts: npt.NDArray[np.int32] | None


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


class PrefixRanker(Served):
    """A ranker that computes a viewer's part once.

    Scores are those of the plain forward up to rounding, slots included: under ``slot`` positions item i stands in
    slot i modulo the configured candidate length, as if scored in turns of it.

    Args:
        artifact: a loaded ranker; its ``fprop_dtype`` is not read.
        options: precision, buckets, and what is kept between requests.
        cache: where :meth:`prepare` keeps what it encoded, in place of one of ``options.cache_bytes``. May be shared
            by rankers.
        version: names parameters and tables in cache keys. Default a name that no other instance has.

    Raises:
        TypeError: if the artifact is no ranker.
    """

    config: RankerConfig

    def __init__(
        self,
        artifact: Artifact,
        options: BackendOptions | None = None,
        *,
        cache: PrefixCache[EncodedUser] | None = None,
        version: str | None = None,
    ) -> None:
        if not isinstance(artifact.config, RankerConfig):
            raise TypeError("PrefixRanker wants a ranker artifact, found a retrieval one")
        options = options or BackendOptions()
        self.config = artifact.config
        super().__init__(artifact, options.history_buckets, options.precision)
        self.full_window = options.full_window
        self.precision = options.precision
        self.candidate_buckets = checked_buckets("candidate_buckets", options.candidate_buckets or CANDIDATE_BUCKETS)
        self.batch_buckets = checked_buckets("batch_buckets", options.batch_buckets)
        self.cache = cache
        if cache is None and options.cache_bytes:
            self.cache = PrefixCache(options.cache_bytes)
        self.version = version or uuid.uuid4().hex
        self.most_new_events = 0 if self.config.positions == "right" else options.most_new_events
        self._flights: SingleFlight[PrefixKey, EncodedUser] = SingleFlight()
        self.weights = arrange(self.params, self.config, self.precision)
        self.params = {}  # arranged anew; nobody reads them as they were
        self._compile()
        self.items: ItemCache | None = None
        if options.item_cache_bytes and self.config.positions != "slot":  # there, queries depend on the slot
            most = self.candidate_buckets[-1] * self.batch_buckets[-1]
            self.items = ItemCache(self._item_row(), options.item_cache_bytes, most)

    def _compile(self) -> None:
        config = self.config

        def looked_up(tables: Tables, items: HashedItems) -> Candidates:
            return Candidates(
                _items(tables, items.posts),
                _authors(tables, items.authors),
                items.surfaces,
                items.impression_ts,
                items.creation_ts,
            )

        def run_encode(weights: Weights, tables: Tables, batch: RetrievalBatch, dwell: Floats) -> Prefix:
            self.count_compilation()  # runs while tracing only
            users = Users(token_valid(batch.user_hashes), _users(tables, batch.user_hashes))
            return encode(weights, config, users, _events(tables, batch, dwell))

        def run_extend(
            weights: Weights, tables: Tables, prefix: Prefix, batch: RetrievalBatch, dwell: Floats, places: int
        ) -> Prefix:
            self.count_compilation()
            return extend(weights, config, widen(prefix, places), _events(tables, batch, dwell))

        def run_score(
            weights: Weights,
            tables: Tables,
            prefixes: tuple[Prefix, ...],
            items: HashedItems,
            positions: Floats | None,
        ) -> RankerOutput:
            self.count_compilation()
            return score(weights, config, stacked(prefixes), looked_up(tables, items), positions)

        def run_fill(
            weights: Weights, tables: Tables, slab: FirstLayer, items: HashedItems, rows: npt.NDArray[np.int32]
        ) -> FirstLayer:
            self.count_compilation()
            tokens = candidate_tokens(weights, config, looked_up(tables, items))
            first = stored(jax.tree.map(lambda x: x[0], first_layer(weights, config, tokens, None)))
            filled: FirstLayer = jax.tree.map(lambda kept, new: kept.at[rows].set(new, mode="drop"), slab, first)
            return filled

        def run_score_kept(
            weights: Weights, prefixes: tuple[Prefix, ...], slab: FirstLayer, rows: npt.NDArray[np.int32]
        ) -> RankerOutput:
            self.count_compilation()
            first = jax.tree.map(lambda kept: kept.at[rows].get(mode="promise_in_bounds"), slab)
            return score_first(weights, config, stacked(prefixes), read_back(first, weights.attention_dtype), None)

        # A slab is changed in place, which nobody else may read meanwhile. Nothing else is donated: a cached prefix
        # may be in use by another request while it is extended.
        self._fill, self._score_kept = jax.jit(run_fill, donate_argnames="slab"), jax.jit(run_score_kept)
        self._encode, self._score = jax.jit(run_encode), jax.jit(run_score)
        self._extend = jax.jit(run_extend, static_argnames="places")

    def prepare(self, user_id: int, history: History) -> EncodedUser:
        """The viewer out of the cache where it is there, extended where that suffices, else encoded.

        Threads that ask for one viewer at a time share one encoding.

        Raises:
            ValueError: if the history's actions do not fit the model.
        """
        if self.cache is None:
            return self.encode(user_id, history)
        recent = self.recent(history)
        keys, cache = self.keys(user_id, recent), self.cache
        found = cache.lookup(keys)
        if found is not None and not found.missing:
            return found.value

        def make() -> EncodedUser:
            made = cache.peek(keys[0])  # by another thread, since the look-up
            if made is not None:
                return made
            user = None if found is None else self.extend(found.value, recent.newest(found.missing))
            if user is None:
                user = self.encode(user_id, recent)
            cache.put(keys[0], user, replaces=None if found is None else found.key)
            return user

        return self._flights.run(keys[0], make)

    def encode(self, user_id: int, history: History) -> EncodedUser:
        """Encode a viewer, whatever the cache holds.

        Args:
            user_id: 64-bit id, 0 for nobody known.
            history: oldest first; the newest ``history_seq_len`` events are read.

        Raises:
            ValueError: if the history's actions do not fit the model.
        """
        recent = self.recent(history)
        batch, dwell = self.user_side(user_id, recent)
        return EncodedUser(self._encode(self.weights, self.tables, batch, dwell), len(recent), dwell.shape[1])

    def extend(self, user: EncodedUser, new: History) -> EncodedUser | None:
        """Append events to an encoded viewer.

        Returns:
            The longer viewer, equal to encoding the whole history up to rounding; or None where that cannot
            be: under ``right`` positions, with more than ``most_new_events``, beyond the next larger bucket, or where
            the window is full. Encode the whole history then.

        Raises:
            ValueError: if the events' actions do not fit the model.
        """
        new = new.newest(max(len(new), 1))
        if not len(new):
            return user
        events = user.events + len(new)
        if len(new) > self.most_new_events or events > self.config.history_seq_len:
            return None
        bucket = bucket_for(events, self.history_buckets)
        if self.history_buckets.index(bucket) - self.history_buckets.index(user.bucket) > 1:
            return None  # no program was compiled for that
        batch, dwell = jax.tree.map(
            lambda rows: pad_rows(rows[0, : len(new)], self.most_new_events)[None], self.user_side(0, new)
        )
        prefix = self._extend(self.weights, self.tables, user.prefix, batch, dwell, places=1 + bucket)
        return EncodedUser(prefix, events, bucket)

    def keys(self, user_id: int, history: History) -> list[PrefixKey]:
        """Cache keys of a viewer, and of the viewer some events ago, the present first."""
        recent = self.recent(history)
        count = len(recent)
        surfaces = np.zeros(count, np.int32) if recent.surfaces is None else recent.surfaces
        dwell = np.zeros(count, np.float32) if recent.dwell_seconds is None else recent.dwell_seconds
        inputs = (recent.item_ids, recent.author_ids, recent.actions, surfaces, dwell)
        digests = history_digests(inputs, max(count - self.most_new_events, 0))
        model, precision, positions = self.version, self.precision, self.config.positions
        return [
            PrefixKey(
                user_id, model, precision, positions, bucket_for(count - ago, self.history_buckets), count - ago, digest
            )
            for ago, digest in enumerate(digests)
        ]

    def score_prepared(self, viewer: EncodedUser, items: Items) -> Scores:
        """Score n items, in any order and number, for an encoded viewer."""
        return self.score_many([(viewer, items)])[0]

    def score(self, user_id: int, history: History, items: Items) -> Scores:
        """Prepare and score in one go.

        Raises:
            ValueError: if the history's actions do not fit the model.
        """
        return self.score_prepared(self.prepare(user_id, history), items)

    def score_many(self, requests: Sequence[tuple[EncodedUser, Items]]) -> list[Scores]:
        """Score several requests; those in the same buckets share a device call as far as ``batch_buckets`` allow."""
        may = self.config.release == "may"
        collected = Collected(
            [len(items) for _, items in requests],
            self.config.num_actions,
            self.config.num_continuous_actions if may else None,
        )
        for turns in device_calls(requests, lambda user: user.bucket, self.candidate_buckets, self.batch_buckets):
            output = self._score_turns(turns)
            continuous = None if output.continuous_preds is None else on_host(output.continuous_preds)
            collected.add(turns, on_host(output.logits), continuous)
        return collected.scores()

    def warm_up(self) -> int:
        """Compile every combination of buckets; returns how many programs there are."""
        users = [self.encode(1, self.history_of(length)) for length in self.history_buckets]
        for user, count, rows in itertools.product(users, self.candidate_buckets, self.batch_buckets):
            ids = np.arange(1, count + 1, dtype=np.uint64)
            self.score_many([(user, Items(ids, ids))] * rows)
        if self.items is not None:
            self.items.clear()
        if self.most_new_events:
            for shorter, longer in itertools.pairwise((0, *self.history_buckets)):
                # Within a bucket, and from the one below.
                for events in {longer - 1, shorter or longer - 1}:
                    self.extend(self.encode(1, self.history_of(events)), self.history_of(1))
        return self.compilations

    def stats(self) -> BackendStats:
        """The counts, and those of the caches ``prefixes`` and ``items``."""
        kept = {"prefixes": self.cache, "items": self.items}
        caches = {name: cache.stats() for name, cache in kept.items() if cache is not None}
        return BackendStats("kv_cache", self.precision, self.compilations, caches)

    def _score_turns(self, turns: Sequence[Turn[EncodedUser]]) -> RankerOutput:
        """One device call; padded with rows of the first viewer that nobody reads."""
        size = bucket_for(max(map(len, turns)), self.candidate_buckets)
        rows = bucket_for(len(turns), self.batch_buckets)
        prefixes = tuple(turn.viewer.prefix for turn in turns)
        prefixes += prefixes[:1] * (rows - len(turns))
        positions = None
        if self.config.positions == "slot":
            starts = np.array([turn.rows.start for turn in turns] + [0] * (rows - len(turns)))
            slots = (starts[:, None] + np.arange(size)) % self.config.candidate_seq_len
            positions = (origin(self.config) + slots).astype(np.float32)
        may = self.config.release == "may"
        if self.items is not None:
            return self._score_kept_items(self.items, turns, prefixes, size, rows)
        items = HashedItems(
            stacked_ids(turns, "ids", self.hash_params.hash_items, size, rows),
            stacked_ids(turns, "author_ids", self.hash_params.hash_authors, size, rows),
            stacked_ints(turns, "surfaces", size, rows),
            # Zeros mean unknown, so that a request with and one without times share one program.
            stacked_ints(turns, "impression_ts", size, rows) if may else None,
            stacked_ints(turns, "creation_ts", size, rows) if may else None,
        )
        output: RankerOutput = self._score(self.weights, self.tables, prefixes, items, positions)
        return output

    def _item_row(self) -> FirstLayer:
        """Shapes of one item's first layer."""
        token = np.zeros((1, 1, self.config.emb_size), np.float32)
        first = jax.eval_shape(
            lambda weights, token: stored(first_layer(weights, self.config, token, None)), self.weights, token
        )
        row: FirstLayer = jax.tree.map(lambda x: np.zeros(x.shape[2:], x.dtype), first)
        return row

    def _score_kept_items(
        self,
        kept: ItemCache,
        turns: Sequence[Turn[EncodedUser]],
        prefixes: tuple[Prefix, ...],
        size: int,
        rows: int,
    ) -> RankerOutput:
        """As :meth:`_score_turns`, with the first layer of known items out of the cache."""
        joined = joined_items([turn.items for turn in turns], [turn.rows for turn in turns])
        ages = age_buckets(joined.impression_ts, joined.creation_ts, self.config.post_age_granularity_mins)
        keys = item_keys(joined.ids, joined.author_ids, joined.surfaces, ages)
        may = self.config.release == "may"

        def fill(slab: FirstLayer, part: npt.NDArray[np.intp], places: npt.NDArray[np.int32]) -> FirstLayer:
            items = HashedItems(
                pad_rows(self.hash_params.hash_items(joined.ids[part]), FILL_ROWS)[None],
                pad_rows(self.hash_params.hash_authors(joined.author_ids[part]), FILL_ROWS)[None],
                pad_rows(joined.surfaces[part], FILL_ROWS)[None],
                pad_rows(joined.impression_ts[part], FILL_ROWS)[None] if may else None,
                pad_rows(joined.creation_ts[part], FILL_ROWS)[None] if may else None,
            )
            beyond = np.full(FILL_ROWS, kept.capacity, np.int32)  # where nothing is kept
            beyond[: len(places)] = places
            filled: FirstLayer = self._fill(self.weights, self.tables, slab, items, beyond)
            return filled

        def read(slab: FirstLayer, places: npt.NDArray[np.int32]) -> RankerOutput:
            index, start = np.zeros((rows, size), np.int32), 0
            for row, turn in enumerate(turns):
                index[row, : len(turn)] = places[start : start + len(turn)]
                start += len(turn)
            output: RankerOutput = self._score_kept(self.weights, prefixes, slab, index)
            return output

        return kept.use(keys, fill, read)


def _users(tables: Tables, hashes: Any) -> Rows:
    """Rows [B, n] of users, looked up hash by hash, so that each gather gives what a product reads."""
    take = tables.take_users if isinstance(tables, DeviceTables) else tables.lookup_users
    return tuple(take(hashes[..., index]) for index in range(hashes.shape[-1]))


def _items(tables: Tables, hashes: Any) -> Rows:
    take = tables.take_items if isinstance(tables, DeviceTables) else tables.lookup_items
    return tuple(take(hashes[..., index]) for index in range(hashes.shape[-1]))


def _authors(tables: Tables, hashes: Any) -> Rows:
    take = tables.take_authors if isinstance(tables, DeviceTables) else tables.lookup_authors
    return tuple(take(hashes[..., index]) for index in range(hashes.shape[-1]))


def _events(tables: Tables, batch: RetrievalBatch, dwell: Floats) -> Events:
    return Events(
        token_valid(batch.history_post_hashes),
        _items(tables, batch.history_post_hashes),
        _authors(tables, batch.history_author_hashes),
        batch.history_actions,
        batch.history_product_surface,
        dwell,
    )
