"""Training the ranker: started from the retrieval model, multi-task sigmoid plus listwise terms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import attrs
import jax
import jax.numpy as jnp

from phoenix_recsys.config import RankerConfig, RetrievalConfig
from phoenix_recsys.inputs import Array
from phoenix_recsys.training import losses
from phoenix_recsys.training.feeds import Feed, Feeder, excluded_columns
from phoenix_recsys.training.forward import Candidates, Rates, ranker_logits, retrieval_items, retrieval_users
from phoenix_recsys.training.recipe import RankerRecipe
from phoenix_recsys.training.retrieval import TEMPERATURE_MODULE, TEMPERATURE_NAME
from phoenix_recsys.training.trainer import Trainable
from phoenix_recsys.transforms import init_params

SMALLEST_LOG_RATIO, LARGEST_LOG_RATIO = -4.0, 4.5
"""Bounds of a drawn item's log probability relative to uniform, so that no single draw outweighs a batch."""

RANKER, RETRIEVAL = "phoenix_model", "phoenix_retrieval_model"


class RankerConstants(NamedTuple):
    """What the loss reads besides batches.

    Attributes:
        teacher: the trained retrieval model.
        first_seen: int32 [U, N], or None for large catalogues.
        head_weights: of the sigmoid loss, float32 [A]; 0 for a head without a positive example.
    """

    teacher: Trainable
    first_seen: Array | None
    head_weights: Array


class Groups(NamedTuple):
    """Candidates in B windows of M groups of G, [B, M, G] each.

    Attributes:
        item: catalogue index, int32.
        prefix: tokens that may be read, int32.
        seconds: time of the impression, int32.
        labels: float32 [B, M, G, A].
        valid: bool.
        log_ratio: log of the drawing probability over the uniform one; 0 for what was not drawn.
        teacher: retrieval logits.
    """

    item: jax.Array
    prefix: jax.Array
    seconds: jax.Array
    labels: jax.Array
    valid: jax.Array
    log_ratio: jax.Array
    teacher: jax.Array


def warm_start(config: RankerConfig, teacher: Trainable, seed: int) -> Trainable:
    """Ranker parameters that start from a trained retrieval model of the same shape.

    Tables, trunk, action and surface rows and the projections of user and history are copied; a candidate starts with
    the projection of a history token's item and surface. Final norm and heads are fresh. Dwell time and post age start
    without effect, and stay so until they are trained.
    """
    fresh = init_params(config, jax.random.PRNGKey(seed), "trainable")
    source, own = teacher.params[RETRIEVAL], dict(fresh[RANKER])
    size, hashes = config.emb_size, config.hash_config
    rows = (hashes.num_item_hashes + hashes.num_author_hashes) * size
    for name in ("product_surface_embedding_table", "action_projection", "proj_mat_1"):
        own[name] = source[name]
    history = source["proj_mat_3"]
    own["proj_mat_3"] = jnp.concatenate([history, own["proj_mat_3"][rows + 2 * size :]])
    surface = history[rows + size : rows + 2 * size]
    own["proj_mat_2"] = jnp.concatenate([history[:rows], surface, own["proj_mat_2"][rows + size :]])
    own["post_age_embedding_table"] = jnp.zeros_like(own["post_age_embedding_table"])
    own["history_dwell_time_proj2"] = jnp.zeros_like(own["history_dwell_time_proj2"])
    trunk = {module: dict(entries) for module, entries in teacher.params.items() if module.startswith("transformer/")}
    return Trainable({**fresh, **trunk, RANKER: own}, teacher.tables)


@attrs.frozen(eq=False)
class RankerStage:
    """The second stage.

    Attributes:
        config: the ranker.
        retrieval: the retrieval model's configuration.
        recipe: settings.
        feeder: the batches.
        constants: see :class:`RankerConstants`.
        logged: whether events without an action are the negatives; otherwise negatives are drawn.
        positive_head: column of the head of the listwise term.
        hide_unborn: draw no items made after the target's time.
        seed: of fresh parameters.
    """

    config: RankerConfig
    retrieval: RetrievalConfig
    recipe: RankerRecipe
    feeder: Feeder
    constants: RankerConstants
    logged: bool
    positive_head: int
    hide_unborn: bool
    seed: int
    name: str = "ranker"

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return self.feeder.sampler.steps_per_epoch

    def initial(self) -> Trainable:
        """The warm start."""
        return warm_start(self.config, self.constants.teacher, self.seed)

    def feeds(self, epoch: int) -> Iterator[Feed]:
        """The batches of an epoch."""
        return self.feeder.epoch(epoch)

    def groups(self, feed: Feed, constants: RankerConstants, key: jax.Array) -> Groups:
        """The candidates of a step: the logged impressions of a window, or targets with drawn negatives."""
        batch, (params, tables) = feed.batch, constants.teacher
        users = retrieval_users(self.retrieval).apply(params, None, tables, feed.hashes, batch)
        items = retrieval_items(self.retrieval).apply(params, None, tables, feed.hashes)
        factor = jnp.exp(-params[TEMPERATURE_MODULE][TEMPERATURE_NAME])
        target = jnp.asarray(batch.target_item)
        own = (jnp.einsum("bmd,bmd->bm", users, items[target]) * factor)[..., None]
        filled = jnp.asarray(batch.target_weight)[..., None] > 0
        single = Groups(
            target[..., None],
            jnp.asarray(batch.target_prefix)[..., None],
            jnp.asarray(batch.target_seconds)[..., None],
            jnp.asarray(batch.target_actions)[:, :, None],
            filled,
            jnp.zeros_like(own),
            own,
        )
        if self.logged:
            return Groups(*(jnp.swapaxes(part, 1, 2) for part in single))
        columns = jnp.asarray(feed.columns)
        logits = jnp.einsum("bmd,cd->bmc", users, items[columns]) * factor
        excluded = excluded_columns(feed, constants.first_seen, self.hide_unborn)
        excluded |= columns == target[..., None]
        return self._with_negatives(single, columns, logits, excluded, key)

    def _with_negatives(
        self, single: Groups, columns: jax.Array, logits: jax.Array, excluded: jax.Array, key: jax.Array
    ) -> Groups:
        share, count = self.recipe.hard_share, min(self.recipe.negatives, columns.shape[0])
        open_columns = jnp.maximum(jnp.sum(~excluded, axis=-1, keepdims=True), 1)
        hard = jax.nn.softmax(jnp.where(excluded, losses.MINUS_INFINITY, logits), axis=-1)
        chance = jnp.where(excluded, 0.0, share * hard + (1.0 - share) / open_columns)
        # The largest of log chance + Gumbel noise are a draw without replacement (Kool et al. 2019).
        noisy = jnp.log(chance + 1e-20) + jax.random.gumbel(key, chance.shape)
        picked = jax.lax.top_k(jnp.where(excluded, losses.MINUS_INFINITY, noisy), count)[1]
        ratio = jnp.log(jnp.take_along_axis(chance, picked, axis=-1) * open_columns + 1e-20)
        drawn = Groups(
            columns[picked],
            jnp.broadcast_to(single.prefix, picked.shape),
            jnp.broadcast_to(single.seconds, picked.shape),
            jnp.zeros((*picked.shape, single.labels.shape[-1])),
            ~jnp.take_along_axis(excluded, picked, axis=-1) & single.valid,
            jnp.clip(ratio, SMALLEST_LOG_RATIO, LARGEST_LOG_RATIO),
            jnp.take_along_axis(logits, picked, axis=-1),
        )
        return Groups(*(jnp.concatenate(pair, axis=2) for pair in zip(single, drawn, strict=True)))

    def loss(self, trainable: Trainable, feed: Feed, constants: RankerConstants, key: jax.Array) -> jax.Array:
        """Sigmoid cross-entropy over heads + listwise cross-entropy + distillation, in nats."""
        recipe = self.recipe
        draw_key, model_key = jax.random.split(key)
        groups = self.groups(feed, constants, draw_key)
        shape = groups.item.shape
        seconds = groups.seconds if recipe.use_post_age else jnp.zeros_like(groups.seconds)
        flat = Candidates(*(part.reshape(shape[0], -1) for part in (groups.item, groups.prefix, seconds)))
        batch = feed.batch if recipe.use_dwell else feed.batch._replace(token_dwell=None)
        params = trainable.params
        if not recipe.use_post_age:
            held = {"post_age_embedding_table": jax.lax.stop_gradient(params[RANKER]["post_age_embedding_table"])}
            params = {**params, RANKER: {**params[RANKER], **held}}
        rates = Rates(recipe.dropout, recipe.user_dropout, recipe.item_dropout)
        forward = ranker_logits(self.config, rates)
        logits = forward.apply(params, model_key, trainable.tables, feed.hashes, batch, flat)
        # Relative to uniform: an absolute correction would ask a model without an output bias for a large one.
        logits = logits.reshape(*shape, -1) - groups.log_ratio[..., None]

        valid = groups.valid.astype(jnp.float32)
        bce = losses.multi_task_bce(logits, groups.labels, constants.head_weights)
        total = recipe.bce_weight * losses.weighted_mean(bce, valid)
        main = logits[..., self.positive_head]
        positive = (groups.labels[..., self.positive_head] > 0) & groups.valid
        ranked = losses.listwise(main, positive, groups.valid)
        total += recipe.listwise_weight * losses.weighted_mean(ranked, positive.astype(jnp.float32))
        if recipe.distillation_weight > 0:
            guide = groups.teacher / recipe.teacher_temperature - groups.log_ratio
            followed = losses.distillation(main, guide, groups.valid)
            whole = (jnp.sum(valid, axis=-1) > 1).astype(jnp.float32)
            total += recipe.distillation_weight * losses.weighted_mean(followed, whole)
        return total
