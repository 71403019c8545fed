"""Training the two towers: softmax over the catalogue, or over sampled columns with log-Q correction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import attrs
import jax
import jax.numpy as jnp

from phoenix_recsys.config import RetrievalConfig
from phoenix_recsys.inputs import Array
from phoenix_recsys.tables import EmbeddingTables
from phoenix_recsys.training.feeds import Feed, Feeder, excluded_columns, exposure
from phoenix_recsys.training.forward import Rates, retrieval_items, retrieval_users
from phoenix_recsys.training.losses import full_softmax, sampled_softmax, weighted_mean
from phoenix_recsys.training.recipe import RetrievalRecipe
from phoenix_recsys.training.trainer import Trainable
from phoenix_recsys.transforms import init_params

TEMPERATURE_MODULE, TEMPERATURE_NAME = "~", "log_temperature"


class RetrievalConstants(NamedTuple):
    """What the loss reads besides batches: ``first_seen`` int32 [U, N], or None for large catalogues."""

    first_seen: Array | None


@attrs.frozen(eq=False)
class RetrievalStage:
    """The first stage.

    Attributes:
        config: the model.
        recipe: settings.
        feeder: the batches.
        constants: see :class:`RetrievalConstants`.
        tables: initial tables.
        seed: of the initial parameters.
    """

    config: RetrievalConfig
    recipe: RetrievalRecipe
    feeder: Feeder
    constants: RetrievalConstants
    tables: EmbeddingTables
    seed: int
    name: str = "retrieval"

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return self.feeder.sampler.steps_per_epoch

    def initial(self) -> Trainable:
        """Fresh trainable parameters and the recipe's temperature."""
        params = init_params(self.config, jax.random.PRNGKey(self.seed), "trainable")
        start = jnp.log(jnp.asarray(self.recipe.temperature, jnp.float32))
        params[TEMPERATURE_MODULE] = {TEMPERATURE_NAME: start}
        return Trainable(params, EmbeddingTables(*(jnp.asarray(table) for table in self.tables)))

    def feeds(self, epoch: int) -> Iterator[Feed]:
        """The batches of an epoch."""
        return self.feeder.epoch(epoch)

    def loss(self, trainable: Trainable, feed: Feed, constants: RetrievalConstants, key: jax.Array) -> jax.Array:
        """Mean cross-entropy of the targets, weighted, in nats."""
        recipe = self.recipe
        rates = Rates(recipe.dropout, recipe.user_dropout, recipe.item_dropout)
        user_key, item_key = jax.random.split(key)
        params, tables = trainable
        users = retrieval_users(self.config, rates).apply(params, user_key, tables, feed.hashes, feed.batch)
        items = retrieval_items(self.config, recipe.item_dropout).apply(params, item_key, tables, feed.hashes)
        factor = jnp.exp(-params[TEMPERATURE_MODULE][TEMPERATURE_NAME])
        columns, target = jnp.asarray(feed.columns), jnp.asarray(feed.batch.target_item)
        # What everybody was shown explains itself: the vectors need only say who picks what out of it.
        shown, target_shown = exposure(feed)
        logits = jnp.einsum("bmd,cd->bmc", users, items[columns]) * factor + shown
        excluded = excluded_columns(feed, constants.first_seen, recipe.hide_unborn)
        if self.feeder.everything:
            # Columns are sorted, so a target's column is where it would be inserted.
            losses = full_softmax(logits, jnp.searchsorted(columns, target), excluded)
        else:
            chosen = jnp.einsum("bmd,bmd->bm", users, items[target]) * factor + target_shown
            excluded |= columns == target[..., None]
            losses = sampled_softmax(chosen, logits, feed.log_expected, excluded)
        return weighted_mean(losses, feed.batch.target_weight)
