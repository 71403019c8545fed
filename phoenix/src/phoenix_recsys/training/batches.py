"""Batches of windows, reproducible from seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import attrs
import numpy as np
import numpy.typing as npt

from phoenix_recsys.inputs import Array
from phoenix_recsys.training.errors import TrainingError
from phoenix_recsys.training.interactions import Float32
from phoenix_recsys.training.sequences import Sequences, Windows, plan_windows


class Batch(NamedTuple):
    """B windows of S tokens with M target slots; indices are int32, padding is 0.

    Attributes:
        user: user index [B].
        token_item: catalogue index [B, S].
        token_pattern: action pattern [B, S].
        token_dwell: seconds, float32 [B, S], or None.
        token_count: valid tokens [B]; they come first.
        target_item: catalogue index [B, M].
        target_prefix: tokens of the window that the target may read [B, M].
        target_seen: tokens of the user that are strictly earlier [B, M].
        target_actions: float32 [B, M, A].
        target_seconds: time, seconds, int32 [B, M].
        target_weight: float32 [B, M], 0 in empty slots.
    """

    user: Array
    token_item: Array
    token_pattern: Array
    token_dwell: Array | None
    token_count: Array
    target_item: Array
    target_prefix: Array
    target_seen: Array
    target_actions: Array
    target_seconds: Array
    target_weight: Array


@attrs.frozen(eq=False)
class Sampler:
    """Draws the batches of each epoch.

    Attributes:
        sequences: the data.
        weights: of each event as a target, float32 [E]; events of weight 0 are none.
        history_len: tokens S in a window.
        stride: see :func:`~phoenix_recsys.training.sequences.plan_windows`.
        window_targets: most targets a window is planned for.
        slots: target slots M of a batch; where a window has more, each epoch takes other ones at random.
        batch_size: windows B in a batch; fewer where the data has fewer.
        seed: with the epoch it decides everything random here.
    """

    sequences: Sequences
    weights: Float32
    history_len: int
    stride: int
    window_targets: int
    slots: int
    batch_size: int
    seed: int
    _targets: npt.NDArray[np.int64] = attrs.field(init=False)
    _shape: tuple[int, int] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        targets = np.flatnonzero(self.weights > 0)
        if not len(targets):
            raise TrainingError("no event counts as a target of training; check the target weights of the recipe")
        object.__setattr__(self, "_targets", targets)
        windows = len(self._windows(self._rng(0)))
        batch = min(self.batch_size, windows)
        object.__setattr__(self, "_shape", (windows // batch, batch))

    @property
    def steps_per_epoch(self) -> int:
        """Batches in each epoch."""
        return self._shape[0]

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of one epoch, always the same for the same seed and number."""
        rng = self._rng(number)
        windows = self._windows(rng)
        steps, batch = self._shape
        order = np.resize(rng.permutation(len(windows)), steps * batch)
        for step in range(steps):
            yield self._batch(windows, order[step * batch : (step + 1) * batch], rng)

    def _rng(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch])

    def _windows(self, rng: np.random.Generator) -> Windows:
        data = self.sequences
        return plan_windows(
            data.target_user[self._targets],
            data.target_prefix[self._targets],
            slots=self.window_targets,
            history_len=self.history_len,
            stride=self.stride,
            rng=rng,
        )

    def _batch(self, windows: Windows, rows: npt.NDArray[np.int64], rng: np.random.Generator) -> Batch:
        data = self.sequences
        user, start, count = windows.user[rows], windows.start[rows], windows.count[rows]
        place = np.arange(self.history_len)
        real = place < count[:, None]
        token = np.where(real, (data.token_start[user] + start)[:, None] + place, 0)

        slot = windows.first[rows][:, None] + np.arange(self.window_targets)
        filled = slot < windows.last[rows][:, None]
        if self.slots < self.window_targets:
            lot = np.where(filled, rng.random(slot.shape), 2.0)
            chosen = np.sort(np.argsort(lot, axis=1, kind="stable")[:, : self.slots], axis=1)
            slot = np.take_along_axis(slot, chosen, 1)
            filled = np.take_along_axis(filled, chosen, 1)
        target = self._targets[np.where(filled, slot, windows.first[rows][:, None])]
        seen = data.target_prefix[target]
        dwell = data.token_dwell
        return Batch(
            user=user.astype(np.int32),
            token_item=np.where(real, data.token_item[token], 0),
            token_pattern=np.where(real, data.token_pattern[token], 0),
            token_dwell=None if dwell is None else np.where(real, dwell[token], np.float32(0.0)),
            token_count=count.astype(np.int32),
            target_item=data.target_item[target],
            target_prefix=(seen - start[:, None]).astype(np.int32),
            target_seen=seen,
            target_actions=data.target_actions[target] * filled[..., None],
            target_seconds=data.target_seconds[target].astype(np.int32),
            target_weight=(self.weights[target] * filled).astype(np.float32),
        )
