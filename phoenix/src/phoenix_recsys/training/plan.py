"""From data and recipe to two stages: hash constants, configurations, samplers, and tables for serving."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from phoenix_recsys.config import HashConfig, RankerConfig, RetrievalConfig, TransformerConfig
from phoenix_recsys.hashing import HashParams
from phoenix_recsys.tables import EmbeddingTables
from phoenix_recsys.training.batches import Sampler
from phoenix_recsys.training.errors import TrainingError
from phoenix_recsys.training.feeds import Feeder
from phoenix_recsys.training.forward import Hashes
from phoenix_recsys.training.interactions import Float32, Interactions
from phoenix_recsys.training.ranker import RankerConstants, RankerStage
from phoenix_recsys.training.recipe import Recipe
from phoenix_recsys.training.retrieval import RetrievalConstants, RetrievalStage
from phoenix_recsys.training.sequences import Int32, Sequences
from phoenix_recsys.training.trainer import Trainable

LARGEST_EXPOSURE_TABLE = 50_000_000
"""Items times periods of exposure."""

UNSHOWN = 0.1
"""Exposure of an item nobody met in a period, in events."""

LARGEST_SEEN_TABLE = 100_000_000
"""Users times items above which the trainer does not keep a table of who has seen what."""


@attrs.frozen(eq=False)
class TrainingPlan:
    """Data and recipe turned into the parts of both stages.

    Attributes:
        recipe: hyper-parameters.
        data: the training data.
        sequences: its events in order.
        hash_params: constants fitted to its ids.
        hashes: embedding rows of its users and items.
        retrieval_config: the retrieval model.
        ranker_config: the ranker.
        served_heads: actions with a positive example.
        target_weights: of events as retrieval targets, float32 [E].
        logged: whether events without an action are the ranker's negatives.
    """

    recipe: Recipe
    data: Interactions
    sequences: Sequences
    hash_params: HashParams
    hashes: Hashes
    retrieval_config: RetrievalConfig
    ranker_config: RankerConfig
    served_heads: tuple[str, ...]
    target_weights: Float32
    logged: bool

    @classmethod
    def make(cls, data: Interactions, recipe: Recipe) -> TrainingPlan:
        """Check that data and recipe fit, and prepare both stages.

        Raises:
            TrainingError: if they do not; says what is missing.
        """
        positive = data.columns_of([recipe.positive_head], "recipe.positive_head")[0]
        weights = recipe.retrieval.target_weights
        chosen = data.columns_of(weights or (), "recipe.retrieval.target_weights")
        data.columns_of(recipe.ranker.head_weights, "recipe.ranker.head_weights")
        sequences = Sequences.build(data)
        positives = data.actions.sum(axis=0)
        if not positives[positive]:
            raise TrainingError(
                f"the data has no example of {recipe.positive_head!r} (recipe.positive_head) in {len(data)} events; "
                "name an action that occurs"
            )
        served = tuple(name for name, count in zip(data.action_names, positives, strict=True) if count)
        acted = sequences.target_actions.any(axis=1)
        if weights is None:
            target_weights = np.asarray(acted, np.float32)
        else:
            values = np.array(list(weights.values()), np.float32)
            weighed: Float32 = np.asarray(sequences.target_actions[:, chosen] * values, np.float32)
            target_weights = np.max(weighed, axis=1, initial=0.0)
        silent = not acted.all()
        if recipe.ranker.impressions == "logged" and not silent:
            raise TrainingError(
                "recipe.ranker.impressions is 'logged', but every event has an action, so there are no "
                "negatives; use 'sampled'"
            )
        hash_params = _hash_params(data, sequences, recipe)
        created = np.clip(data.catalogue.created_at // 1000, 0, np.iinfo(np.int32).max).astype(np.int32)
        exposure = _exposure(sequences, len(created), recipe.retrieval.exposure_hours)
        hashes = Hashes(
            hash_params.hash_users(sequences.user_ids),
            hash_params.hash_items(data.catalogue.item_ids),
            hash_params.hash_authors(data.catalogue.author_ids),
            sequences.patterns,
            created,
            *exposure,
        )
        retrieval, ranker = _configs(data.action_names, recipe)
        return cls(
            recipe=recipe,
            data=data,
            sequences=sequences,
            hash_params=hash_params,
            hashes=hashes,
            retrieval_config=retrieval,
            ranker_config=ranker,
            served_heads=served,
            target_weights=target_weights,
            logged=silent and recipe.ranker.impressions != "sampled",
        )

    def retrieval_stage(self) -> RetrievalStage:
        """The first stage."""
        recipe, shape = self.recipe.retrieval, self.recipe.model
        sampler = Sampler(
            sequences=self.sequences,
            weights=self.target_weights,
            history_len=shape.history_len,
            stride=recipe.stride,
            window_targets=recipe.stride,
            slots=recipe.stride,
            batch_size=recipe.batch_size,
            seed=self.recipe.seed,
        )
        feeder = self._feeder(sampler, recipe.uniform_negatives, in_batch=True)
        tables = EmbeddingTables.random(self.recipe.seed, self.hash_params, shape.emb_size)
        constants = RetrievalConstants(self._first_seen(feeder))
        return RetrievalStage(self.retrieval_config, recipe, feeder, constants, tables, self.recipe.seed)

    def ranker_stage(self, teacher: Trainable) -> RankerStage:
        """The second stage, given the first one's result."""
        recipe, shape = self.recipe.ranker, self.recipe.model
        events = len(self.sequences.target_item)
        acted: Float32 = np.asarray(self.sequences.target_actions.any(axis=1), np.float32)
        every: Float32 = np.ones(events, np.float32)
        sampler = Sampler(
            sequences=self.sequences,
            weights=every if self.logged else acted,
            history_len=shape.history_len,
            stride=recipe.stride,
            window_targets=recipe.targets_per_window if self.logged else recipe.stride,
            slots=min(recipe.targets_per_window, recipe.stride) if not self.logged else recipe.targets_per_window,
            batch_size=recipe.batch_size,
            seed=self.recipe.seed + 1,
        )
        feeder = self._feeder(sampler, self.recipe.retrieval.uniform_negatives, in_batch=False)
        named = recipe.head_weights
        weights = [
            named.get(name, recipe.other_head_weight) if name in self.served_heads else 0.0
            for name in self.data.action_names
        ]
        return RankerStage(
            config=self.ranker_config,
            retrieval=self.retrieval_config,
            recipe=recipe,
            feeder=feeder,
            constants=RankerConstants(teacher, self._first_seen(feeder), np.array(weights, np.float32)),
            logged=self.logged,
            positive_head=self.data.action_names.index(self.recipe.positive_head),
            hide_unborn=self.recipe.retrieval.hide_unborn,
            seed=self.recipe.seed + 1,
        )

    def finished(self, tables: EmbeddingTables) -> EmbeddingTables:
        """Tables for serving: rows that no training example touched say nothing, rather than their random start."""
        items = np.arange(len(self.data.catalogue.item_ids)) if self._all_items else self._seen_items
        touched = (self.hashes.user, np.asarray(self.hashes.item)[items], np.asarray(self.hashes.author)[items])
        offsets = (self.hash_params.user_offset, self.hash_params.item_offset, self.hash_params.author_offset)
        found = []
        for table, rows, offset in zip(tables, touched, offsets, strict=True):
            local = np.unique(rows)
            kept = np.zeros(np.shape(table), np.float32)
            local = local[local != 0] - offset
            kept[local] = np.asarray(table)[local]
            found.append(kept)
        return EmbeddingTables(*found)

    def summary(self) -> dict[str, Any]:
        """The data in figures."""
        counts = self.data.actions.sum(axis=0).astype(int).tolist()
        return {
            "events": len(self.data),
            "users": len(self.sequences.user_ids),
            "items": len(self.data.catalogue.item_ids),
            "items_with_events": len(self._seen_items),
            "history_tokens": len(self.sequences.token_item),
            "positives": dict(zip(self.data.action_names, counts, strict=True)),
        }

    @property
    def _seen_items(self) -> npt.NDArray[np.int64]:
        return np.unique(self.sequences.target_item).astype(np.int64)

    @property
    def _all_items(self) -> bool:
        limit = self.recipe.retrieval.full_softmax_limit
        return self.recipe.retrieval.cold_items and len(self.data.catalogue.item_ids) <= limit

    def _feeder(self, sampler: Sampler, uniform: int, *, in_batch: bool) -> Feeder:
        items = np.arange(len(self.data.catalogue.item_ids)) if self._all_items else self._seen_items
        limit = self.recipe.retrieval.full_softmax_limit
        return Feeder(sampler, self.hashes, items, limit, uniform, in_batch, self.recipe.seed)

    def _first_seen(self, feeder: Feeder) -> npt.NDArray[np.int32] | None:
        users, items = len(self.sequences.user_ids), len(self.data.catalogue.item_ids)
        if not feeder.everything or users * items > LARGEST_SEEN_TABLE:
            return None
        return self.sequences.first_seen(items)


def _configs(names: tuple[str, ...], recipe: Recipe) -> tuple[RetrievalConfig, RankerConfig]:
    shape = recipe.model
    trunk = TransformerConfig(
        emb_size=shape.emb_size,
        key_size=shape.key_size,
        num_q_heads=shape.num_heads,
        num_kv_heads=shape.num_heads,
        num_layers=shape.num_layers,
        widening_factor=shape.widening_factor,
        attn_output_multiplier=shape.attn_output_multiplier,
    )
    common: dict[str, Any] = {
        "model": trunk,
        "num_actions": len(names),
        "history_seq_len": shape.history_len,
        "candidate_seq_len": shape.candidate_seq_len,
        "fprop_dtype": "float32",
        "hash_config": HashConfig(shape.hashes, shape.hashes, shape.hashes),
        "action_names": names,
    }
    retrieval = RetrievalConfig(**common, user_pooling=recipe.retrieval.user_pooling)
    return retrieval, RankerConfig(**common, positions="anchored")


def _exposure(sequences: Sequences, items: int, hours: float) -> tuple[Float32, Int32, Int32]:
    """Log exposure [N, T] with start and length of its periods in seconds; one period of zeros for ``hours`` 0."""
    seconds = sequences.target_seconds
    start = int(seconds.min())
    length = max(round(hours * 3600), 1)
    periods = (int(seconds.max()) - start) // length + 1 if hours > 0 else 1
    if items * periods > LARGEST_EXPOSURE_TABLE:
        raise TrainingError(
            f"recipe.retrieval.exposure_hours of {hours} gives {periods} periods for {items} items, more than the "
            f"trainer keeps ({LARGEST_EXPOSURE_TABLE} cells); take longer periods, or 0 for none"
        )
    table: Float32 = np.zeros((items, periods), np.float32)
    if hours > 0:
        np.add.at(table, (sequences.target_item, (seconds - start) // length), 1.0)
        table = np.asarray(np.log(table + UNSHOWN), np.float32)
    if hours <= 0:
        length = np.iinfo(np.int32).max
    return table, np.array(start, np.int32), np.array(length, np.int32)


def _hash_params(data: Interactions, sequences: Sequences, recipe: Recipe) -> HashParams:
    shape = recipe.model
    authors = np.unique(data.catalogue.author_ids)

    def rows(asked: int | None, ids: int) -> int:
        return asked if asked is not None else max(64, 1 << (2 * ids).bit_length())

    return HashParams.random(
        recipe.seed,
        user_vocab_size=rows(shape.user_rows, len(sequences.user_ids)),
        item_vocab_size=rows(shape.item_rows, len(data.catalogue.item_ids)),
        author_vocab_size=rows(shape.author_rows, len(authors)),
        num_user_hashes=shape.hashes,
        num_item_hashes=shape.hashes,
        num_author_hashes=shape.hashes,
        user_ids=sequences.user_ids,
        item_ids=data.catalogue.item_ids,
        author_ids=authors[authors != 0],
    )
