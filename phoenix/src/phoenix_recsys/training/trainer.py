"""The training loop: AdamW with warm-up and cosine, checkpoints, resuming, progress."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import attrs
import jax
import optax

from phoenix_recsys.tables import EmbeddingTables
from phoenix_recsys.training.checkpoint import load_checkpoint, save_checkpoint
from phoenix_recsys.training.errors import TrainingError, TrainingInterrupted
from phoenix_recsys.training.recipe import StageRecipe


class Trainable(NamedTuple):
    """What training changes, a pytree.

    Attributes:
        params: module path to name to float32 array.
        tables: embedding tables.
    """

    params: dict[str, dict[str, jax.Array]]
    tables: EmbeddingTables


class Stage(Protocol):
    """One model to train."""

    @property
    def name(self) -> str:
        """``retrieval`` or ``ranker``."""

    @property
    def recipe(self) -> StageRecipe:
        """Optimiser settings and epochs."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, the same for all."""

    @property
    def constants(self) -> Any:
        """A pytree of arrays that the loss reads and nobody changes."""

    def initial(self) -> Trainable:
        """The start."""

    def feeds(self, epoch: int) -> Iterator[Any]:
        """The batches of an epoch, pytrees of equal shapes; the same for the same epoch."""

    def loss(self, trainable: Trainable, feed: Any, constants: Any, key: jax.Array) -> jax.Array:
        """The scalar to minimise; pure."""


Progress = Callable[[str, int, int, float], None]
"""Called after each step with the stage's name, the steps done, all steps, and the last known loss."""


@attrs.frozen(eq=False)
class Fit:
    """A finished stage.

    Attributes:
        trainable: the result.
        losses: mean loss of each epoch.
        steps: optimiser steps in all.
        seconds: wall time of this call, compilation included.
        resumed_at: the step a checkpoint continued from, 0 without one.
    """

    trainable: Trainable
    losses: tuple[float, ...]
    steps: int
    seconds: float
    resumed_at: int


class _State(NamedTuple):
    trainable: Trainable
    optimiser: Any


class _Safe(NamedTuple):
    """The last step whose loss is known to be finite."""

    step: int
    state: _State
    loss_sums: tuple[float, ...]


def optimiser(recipe: StageRecipe, steps: int) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019) over ``steps`` steps, after clipping by the global norm.

    Weight decay is on matrices and tables only.
    """
    warmup = min(recipe.warmup_steps, max(steps - 1, 0))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0 if warmup else recipe.learning_rate,
        recipe.learning_rate,
        warmup,
        max(steps, warmup + 1),
        recipe.final_rate * recipe.learning_rate,
    )
    return optax.chain(
        optax.clip_by_global_norm(recipe.clip_norm),
        optax.adamw(
            schedule,
            b2=recipe.beta2,
            weight_decay=recipe.weight_decay,
            mask=lambda tree: jax.tree.map(lambda leaf: leaf.ndim >= 2, tree),
        ),
    )


def fit(
    stage: Stage,
    *,
    seed: int,
    checkpoint: Path | None = None,
    checkpoint_every: int = 200,
    identity: str = "",
    progress: Progress | None = None,
) -> Fit:
    """Train one stage.

    The batches of step k follow from seed and k alone, so a resumed run is the uninterrupted one, bit for bit on the
    same machine.

    Args:
        stage: the model.
        seed: of dropout and sampling.
        checkpoint: file to continue from where it exists, and to write to.
        checkpoint_every: steps between checkpoints.
        identity: names recipe and data; a checkpoint with another one is refused.
        progress: told about every step.

    Raises:
        TrainingError: if the loss stops being a finite number, or the checkpoint belongs to another run.
        TrainingInterrupted: on Ctrl-C, after writing a checkpoint.
    """
    began = time.perf_counter()
    per_epoch, total = stage.steps_per_epoch, stage.steps_per_epoch * stage.recipe.epochs
    transform = optimiser(stage.recipe, total)

    def begin() -> _State:
        start = stage.initial()
        return _State(start, transform.init(start))

    if checkpoint is not None and checkpoint.exists():
        safe = _resume(checkpoint, jax.eval_shape(begin), identity)
    else:
        safe = _Safe(0, begin(), (0.0,) * stage.recipe.epochs)
    resumed_at, state = safe.step, safe.state

    @jax.jit
    def step(state: _State, feed: Any, constants: Any, key: jax.Array) -> tuple[_State, jax.Array]:
        loss, gradient = jax.value_and_grad(stage.loss)(state.trainable, feed, constants, key)
        updates, inner = transform.update(gradient, state.optimiser, state.trainable)
        return _State(optax.apply_updates(state.trainable, updates), inner), loss

    base = jax.random.PRNGKey(seed)
    # The loss of the step under way. It is read one step later, so that the next batch is put together meanwhile.
    pending: jax.Array | None = None

    def settle() -> None:
        nonlocal safe, pending
        if pending is None:
            return
        value = float(pending)
        if not math.isfinite(value):
            kept = f" The last checkpoint is {checkpoint}." if checkpoint is not None and checkpoint.exists() else ""
            raise TrainingError(
                f"{stage.name}: the loss became {value} in step {safe.step + 1} of {total}. No model was written."
                f"{kept} Lower {stage.name}.learning_rate (now {stage.recipe.learning_rate}), or look for broken "
                "values in the data."
            )
        epoch = safe.step // per_epoch
        sums = tuple(old + value * (number == epoch) for number, old in enumerate(safe.loss_sums))
        # One assignment, so that Ctrl-C finds the old or the new triple.
        safe, pending = _Safe(safe.step + 1, state, sums), None
        if progress is not None:
            progress(stage.name, safe.step, total, value)

    def save() -> None:
        if checkpoint is not None:
            record = {"identity": identity, "step": safe.step, "loss_sums": list(safe.loss_sums)}
            save_checkpoint(checkpoint, safe.state, record)

    try:
        while safe.step < total:
            feeds = stage.feeds(safe.step // per_epoch)
            for feed in itertools.islice(feeds, safe.step % per_epoch, None):
                settle()
                key = jax.random.fold_in(base, safe.step)
                state, pending = step(state, feed, stage.constants, key)
                if (safe.step + 1) % checkpoint_every == 0:
                    settle()
                    save()
            settle()
        save()
    except KeyboardInterrupt:
        if checkpoint is None:
            raise
        save()
        raise TrainingInterrupted(
            f"{stage.name}: stopped after step {safe.step} of {total}. The checkpoint is {checkpoint}; run the same "
            "command again to go on from there."
        ) from None
    losses = tuple(value / per_epoch for value in safe.loss_sums)
    return Fit(safe.state.trainable, losses, total, time.perf_counter() - began, resumed_at)


def _resume(checkpoint: Path, like: _State, identity: str) -> _Safe:
    state, record = load_checkpoint(checkpoint, like)
    if record.get("identity") != identity:
        raise TrainingError(
            f"{checkpoint}: this checkpoint belongs to another recipe or other data. Train without resuming to start "
            "over, or choose another output directory."
        )
    return _Safe(int(record["step"]), state, tuple(float(value) for value in record["loss_sums"]))
