"""The loop: optimiser, checkpoints, resuming, and what stops it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from phoenix_recsys.tables import EmbeddingTables
from phoenix_recsys.training import (
    ModelRecipe,
    RankerRecipe,
    Recipe,
    RetrievalRecipe,
    TrainingError,
    TrainingInterrupted,
)
from phoenix_recsys.training.checkpoint import load_checkpoint, save_checkpoint
from phoenix_recsys.training.progress import progress_bars
from phoenix_recsys.training.recipe import StageRecipe
from phoenix_recsys.training.trainer import Fit, Trainable, fit


@attrs.frozen(eq=False)
class Line:
    """A stage that fits a matrix to noisy observations of another; its loss also draws random numbers."""

    recipe: StageRecipe = attrs.field(
        factory=lambda: RetrievalRecipe(epochs=4, learning_rate=0.05, warmup_steps=3, weight_decay=0.01)
    )
    broken_from: int | None = None
    name: str = "retrieval"
    steps_per_epoch: int = 5
    constants: Any = 1.0

    def initial(self) -> Trainable:
        """Zeros."""
        tables = EmbeddingTables(*(jnp.zeros((3, 2)) for _ in range(3)))
        return Trainable({"a": {"w": jnp.zeros((4, 2)), "b": jnp.zeros(2)}}, tables)

    def feeds(self, epoch: int) -> Iterator[Any]:
        """Noisy inputs, the same for the same epoch."""
        rng = np.random.default_rng(epoch)
        for step in range(self.steps_per_epoch):
            bad = self.broken_from is not None and epoch * self.steps_per_epoch + step >= self.broken_from
            yield rng.normal(size=(8, 4)).astype(np.float32) * (np.nan if bad else 1.0)

    def loss(self, trainable: Trainable, feed: Any, constants: Any, key: jax.Array) -> jax.Array:
        """Squared error with a little dropout."""
        kept = jax.random.bernoulli(key, 0.9, feed.shape)
        entries = trainable.params["a"]
        error = (feed * kept) @ entries["w"] + entries["b"] - feed @ jnp.ones((4, 2)) * constants
        return jnp.mean(error**2) + jnp.mean(trainable.tables.user**2)


def leaves(trainable: Trainable) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """All arrays of a result."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(trainable)]


def assert_same(one: Trainable, two: Trainable) -> None:
    """Equal bit for bit."""
    for a, b in zip(leaves(one), leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def interrupt_at(step: int) -> Any:
    """A progress function that presses Ctrl-C."""

    def report(_stage: str, done: int, _total: int, _loss: float) -> None:
        if done == step:
            raise KeyboardInterrupt

    return report


@pytest.fixture(scope="module")
def whole() -> Fit:
    """An uninterrupted run."""
    return fit(Line(), seed=1)


def test_the_loss_falls_and_epochs_are_averaged(whole: Fit) -> None:
    """Each epoch's mean loss is kept, and the last is below the first."""
    assert whole.steps == 20
    assert len(whole.losses) == 4
    assert whole.losses[-1] < whole.losses[0]


def test_the_same_seed_gives_the_same_bits(whole: Fit) -> None:
    """Two runs agree exactly; another seed differs."""
    assert_same(fit(Line(), seed=1).trainable, whole.trainable)
    other = leaves(fit(Line(), seed=2).trainable)
    assert any((a != b).any() for a, b in zip(leaves(whole.trainable), other, strict=True))


@pytest.mark.parametrize("step", [1, 5, 19])
def test_a_resumed_run_is_the_uninterrupted_one(whole: Fit, tmp_path: Path, step: int) -> None:
    """Ctrl-C writes a checkpoint and says so; going on from it gives the same bits and the same losses."""
    path = tmp_path / "deep" / "line.npz"
    with pytest.raises(TrainingInterrupted, match=f"stopped after step {step} of 20. .*run the same command again"):
        fit(Line(), seed=1, checkpoint=path, identity="x", progress=interrupt_at(step))
    resumed = fit(Line(), seed=1, checkpoint=path, identity="x")
    assert resumed.resumed_at == step
    assert_same(whole.trainable, resumed.trainable)
    assert resumed.losses == whole.losses


def test_a_finished_checkpoint_is_not_trained_again(tmp_path: Path) -> None:
    """A stage whose checkpoint is complete returns at once with the same result."""
    path = tmp_path / "line.npz"
    first = fit(Line(), seed=1, checkpoint=path)
    again = fit(Line(), seed=1, checkpoint=path, progress=interrupt_at(1))
    assert again.resumed_at == again.steps
    assert_same(first.trainable, again.trainable)


def test_regular_checkpoints_survive_a_crash(whole: Fit, tmp_path: Path) -> None:
    """After an error the last regular checkpoint is there to go on from."""
    path = tmp_path / "line.npz"

    def crash(_stage: str, done: int, _total: int, _loss: float) -> None:
        if done == 8:
            raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        fit(Line(), seed=1, checkpoint=path, checkpoint_every=3, progress=crash)
    resumed = fit(Line(), seed=1, checkpoint=path)
    assert resumed.resumed_at == 6
    assert_same(whole.trainable, resumed.trainable)


def test_ctrl_c_without_a_checkpoint_stays_ctrl_c() -> None:
    """Nothing is promised where nothing was written."""
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(Line(), seed=1, progress=interrupt_at(2))
    assert not isinstance(caught.value, TrainingInterrupted)


def test_a_loss_that_is_no_number_stops_training(tmp_path: Path) -> None:
    """The message names stage, step and advice, and the last checkpoint holds finite numbers only."""
    path = tmp_path / "line.npz"
    stage = Line(broken_from=7)
    with pytest.raises(
        TrainingError, match=r"retrieval: the loss became nan in step 8 of 20.*learning_rate \(now 0.05\)"
    ):
        fit(stage, seed=1, checkpoint=path, checkpoint_every=2)
    with np.load(path, allow_pickle=False) as saved:
        assert all(np.isfinite(saved[name]).all() for name in saved.files)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    """Another recipe or other data must not continue from it."""
    path = tmp_path / "line.npz"
    fit(Line(), seed=1, checkpoint=path, identity="one")
    with pytest.raises(TrainingError, match="belongs to another recipe or other data"):
        fit(Line(), seed=1, checkpoint=path, identity="two")


def test_a_damaged_checkpoint_is_reported(tmp_path: Path) -> None:
    """Truncated files, foreign trees and other shapes are refused with advice."""
    path = tmp_path / "line.npz"
    tree = {"w": jnp.arange(3.0)}
    save_checkpoint(path, tree, {"step": 3})
    back, record = load_checkpoint(path, tree)
    np.testing.assert_array_equal(back["w"], tree["w"])
    assert record == {"step": 3}
    with pytest.raises(TrainingError, match=r"wanted float32 \[4\], found float32 \[3\].*start over"):
        load_checkpoint(path, {"w": jnp.zeros(4)})
    with pytest.raises(TrainingError, match="belongs to another model"):
        load_checkpoint(path, {})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match="cannot be read"):
        load_checkpoint(path, tree)


def test_progress_is_drawn() -> None:
    """The bars name the stage, count the steps and show a loss."""
    console = Console(file=io.StringIO(), width=100)
    with progress_bars(console) as report:
        report("retrieval", 1, 4, 2.5)
        report("retrieval", 4, 4, 2.5)
    shown = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert "retrieval" in shown
    assert "4/4" in shown
    assert "loss 2.5000" in shown


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Recipe(model=ModelRecipe(history_len=1)), "model.history_len must lie between 2"),
        (lambda: Recipe(retrieval=RetrievalRecipe(stride=32)), "retrieval.stride must lie between 1 and 31, found 32"),
        (lambda: Recipe(ranker=RankerRecipe(dropout=1.0)), "ranker.dropout"),
        (lambda: Recipe(ranker=RankerRecipe(hard_share=1.5)), "ranker.hard_share"),
    ],
)
def test_a_senseless_recipe_is_refused(build: Any, message: str) -> None:
    """Values outside their range are named with the range."""
    with pytest.raises(TrainingError, match=message):
        build()
