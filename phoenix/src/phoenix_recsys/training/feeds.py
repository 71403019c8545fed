"""From batches to what a loss reads: which items take part in a step, and which of them a target has already seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import attrs
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from phoenix_recsys.inputs import Array
from phoenix_recsys.training.batches import Batch, Sampler
from phoenix_recsys.training.forward import Hashes
from phoenix_recsys.training.interactions import Float32

UNSEEN = np.iinfo(np.int32).max


class Feed(NamedTuple):
    """One step's input.

    Attributes:
        batch: item indices point into ``hashes``.
        hashes: the items of this step: the whole catalogue, or those the step mentions.
        columns: candidate items of the softmax, int32 [C].
        log_expected: log of how often each column's item was expected among the columns, float32 [C]; 0 where the
            columns are simply all items.
        column_valid: bool [C].
    """

    batch: Batch
    hashes: Hashes
    columns: Array
    log_expected: Array
    column_valid: Array


@attrs.frozen(eq=False)
class Feeder:
    """Turns a sampler's batches into feeds.

    Attributes:
        sampler: the batches.
        hashes: all users and items.
        columns: items that may be columns, int64 [C].
        limit: with at most this many columns all of them take part in every step.
        uniform: uniform draws per step beyond that.
        in_batch: whether the batch's targets are columns as well then.
        seed: of the draws.
    """

    sampler: Sampler
    hashes: Hashes
    columns: npt.NDArray[np.int64]
    limit: int
    uniform: int
    in_batch: bool
    seed: int
    _frequency: Float32 = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        data, weights = self.sampler.sequences, self.sampler.weights
        items = data.target_item[weights > 0]
        counts = np.bincount(items, minlength=len(np.asarray(self.hashes.item)))
        object.__setattr__(self, "_frequency", (counts / max(counts.sum(), 1)).astype(np.float32))

    @property
    def everything(self) -> bool:
        """Whether every step uses all columns."""
        return len(self.columns) <= self.limit

    def epoch(self, number: int) -> Iterator[Feed]:
        """The feeds of one epoch, the same for the same number."""
        if self.everything:
            hashes = Hashes(*(jnp.asarray(part) for part in self.hashes))
            columns = jnp.asarray(self.columns, jnp.int32)
            zeros, ones = jnp.zeros(len(self.columns)), jnp.ones(len(self.columns), bool)
            for batch in self.sampler.epoch(number):
                yield Feed(batch, hashes, columns, zeros, ones)
            return
        rng = np.random.default_rng([self.seed, number, 1])
        for batch in self.sampler.epoch(number):
            yield self._local(batch, rng)

    def _local(self, batch: Batch, rng: np.random.Generator) -> Feed:
        """Only the items of this step, renumbered, in arrays of a fixed size."""
        drawn = rng.choice(self.columns, self.uniform)
        target, token = np.asarray(batch.target_item), np.asarray(batch.token_item)
        filled = np.asarray(batch.target_weight) > 0
        columns, valid = drawn, np.ones(len(drawn), bool)
        expected = np.full(len(self._frequency), self.uniform / len(self.columns), np.float64)
        if self.in_batch:
            columns = np.concatenate([target.ravel(), drawn])
            valid = np.concatenate([filled.ravel(), valid])
            expected += filled.sum() * self._frequency.astype(np.float64)
        mentioned, index = np.unique(np.concatenate([token.ravel(), target.ravel(), columns]), return_inverse=True)
        tokens, targets = index[: token.size], index[token.size : token.size + target.size]
        local = index[token.size + target.size :]
        padded = np.resize(mentioned, token.size + target.size + len(drawn))
        hashes = self.hashes._replace(
            item=np.asarray(self.hashes.item)[padded],
            author=np.asarray(self.hashes.author)[padded],
            created=np.asarray(self.hashes.created)[padded],
            log_exposure=np.asarray(self.hashes.log_exposure)[padded],
        )
        renumbered = batch._replace(
            token_item=tokens.reshape(token.shape).astype(np.int32),
            target_item=targets.reshape(target.shape).astype(np.int32),
        )
        logs = np.log(np.maximum(expected[columns], 1e-30)).astype(np.float32)
        return Feed(renumbered, hashes, local.astype(np.int32), logs, valid)


def exposure(feed: Feed) -> tuple[jax.Array, jax.Array]:
    """Log exposure at each target's time: of the columns [B, M, C], and of the target [B, M]."""
    hashes, batch = feed.hashes, feed.batch
    table = jnp.asarray(hashes.log_exposure)
    since = jnp.asarray(batch.target_seconds) - jnp.asarray(hashes.period_start)
    period = jnp.clip(since // jnp.asarray(hashes.period_length), 0, table.shape[1] - 1)
    return table[jnp.asarray(feed.columns)].T[period], table[jnp.asarray(batch.target_item), period]


def excluded_columns(feed: Feed, first_seen: Array | None, hide_unborn: bool) -> jax.Array:
    """Columns that are no negatives for a target: padding, items its history holds, items not yet made; [B, M, C].

    Args:
        feed: the step.
        first_seen: int32 [U, N] over the whole catalogue where the feed's items are numbered like it; without it only
            the window's own tokens are known as seen.
        hide_unborn: leave out items made after the target's time.
    """
    batch = feed.batch
    columns = jnp.asarray(feed.columns)
    if first_seen is not None:
        since = jnp.asarray(first_seen)[jnp.asarray(batch.user)][:, columns]
        seen = since[:, None, :] <= jnp.asarray(batch.target_seen)[..., None]
    else:
        tokens = jnp.asarray(batch.token_item)
        place = jnp.arange(1, tokens.shape[1] + 1)
        real = place <= jnp.asarray(batch.token_count)[:, None]
        same = (tokens[..., None] == columns) & real[..., None]
        since = jnp.min(jnp.where(same, place[:, None], UNSEEN), axis=1, initial=UNSEEN)
        seen = since[:, None, :] <= jnp.asarray(batch.target_prefix)[..., None]
    excluded = seen | ~jnp.asarray(feed.column_valid)
    if hide_unborn:
        created = jnp.asarray(feed.hashes.created)[columns]
        excluded |= created > jnp.asarray(batch.target_seconds)[..., None]
    return excluded
