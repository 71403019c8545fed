"""From interactions to two artifact directories."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import attrs
import jax
import numpy as np
from rich.console import Console

from phoenix_recsys.artifact import Artifact, save_artifact
from phoenix_recsys.npz import write_atomically
from phoenix_recsys.training.interactions import Interactions
from phoenix_recsys.training.memory import keep_freed_memory
from phoenix_recsys.training.plan import TrainingPlan
from phoenix_recsys.training.progress import progress_bars
from phoenix_recsys.training.ranker import RankerStage
from phoenix_recsys.training.recipe import ML_100K, Recipe
from phoenix_recsys.training.retrieval import RetrievalStage
from phoenix_recsys.training.trainer import Fit, Progress, fit

RETRIEVAL_DIRECTORY, RANKER_DIRECTORY = "retrieval", "ranker"
CHECKPOINT_DIRECTORY, RECORD_FILE = "checkpoints", "training.json"
FORMAT = 1
"""Changes whenever the same recipe and data would train another model, so that old checkpoints are refused."""


@attrs.frozen(eq=False)
class TrainingReport:
    """What :func:`train_phoenix` did; ``record`` is also in ``training.json``.

    Attributes:
        directory: holds ``retrieval/``, ``ranker/`` and ``training.json``.
        served_heads: actions with a positive training example.
        retrieval: the first stage.
        ranker: the second stage.
        record: recipe, data, losses and durations, as plain JSON values.
    """

    directory: Path
    served_heads: tuple[str, ...]
    retrieval: Fit
    ranker: Fit
    record: Mapping[str, Any]


def train_phoenix(
    interactions: Interactions,
    out_dir: Path | str,
    recipe: Recipe = ML_100K,
    *,
    resume: bool = True,
    checkpoint_every: int = 200,
    progress: bool | Progress = True,
    console: Console | None = None,
    table_dtype: Literal["float32", "float16"] = "float32",
) -> TrainingReport:
    """Train retrieval, then a ranker that starts from it, and write both as artifact directories.

    Whatever is given is trained on: cut interactions by a split first (:meth:`Interactions.before`).

    Args:
        interactions: the training data.
        out_dir: gets ``retrieval/``, ``ranker/`` and ``training.json``; ``checkpoints/`` while training.
        recipe: hyper-parameters.
        resume: continue from checkpoints in ``out_dir``; False removes them first.
        checkpoint_every: steps between checkpoints.
        progress: whether to draw progress bars, or a function to tell instead.
        console: where bars go; standard error by default.
        table_dtype: how tables are stored.

    Raises:
        TrainingError: if data and recipe do not fit, the loss diverges, or a checkpoint belongs to another run.
        TrainingInterrupted: on Ctrl-C, after a checkpoint was written.
    """
    began = time.perf_counter()
    out_dir = Path(out_dir)
    plan = TrainingPlan.make(interactions, recipe)
    checkpoints = out_dir / CHECKPOINT_DIRECTORY
    if not resume and checkpoints.exists():
        shutil.rmtree(checkpoints)
    fingerprint = interactions.fingerprint()
    settings = json.dumps([FORMAT, recipe.to_json(), fingerprint], sort_keys=True)
    identity = hashlib.sha256(settings.encode()).hexdigest()
    keep_freed_memory()
    with ExitStack() as stack:
        report = progress if callable(progress) else None
        if progress is True:
            report = stack.enter_context(progress_bars(console))

        def run(stage: RetrievalStage | RankerStage) -> Fit:
            return fit(
                stage,
                seed=recipe.seed,
                checkpoint=checkpoints / f"{stage.name}.npz",
                checkpoint_every=checkpoint_every,
                identity=identity,
                progress=report,
            )

        retrieval = run(plan.retrieval_stage())
        ranker = run(plan.ranker_stage(retrieval.trainable))
    metadata = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "data_sha256": fingerprint,
        "uses_post_age": recipe.ranker.use_post_age,
        "uses_dwell": recipe.ranker.use_dwell,
    }
    parts = (
        (RETRIEVAL_DIRECTORY, plan.retrieval_config, retrieval.trainable),
        (RANKER_DIRECTORY, plan.ranker_config, ranker.trainable),
    )
    for name, config, trainable in parts:
        artifact = Artifact(
            config, trainable.params, plan.finished(trainable.tables), plan.hash_params, plan.served_heads, metadata
        )
        save_artifact(out_dir / name, artifact, table_dtype=table_dtype)
    record = {
        "recipe": recipe.to_json(),
        "data": plan.summary() | {"sha256": fingerprint},
        "served_heads": list(plan.served_heads),
        "retrieval": _summary(retrieval),
        "ranker": _summary(ranker) | {"negatives": "logged" if plan.logged else "sampled"},
        "seconds": round(time.perf_counter() - began, 3),
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__},
    }
    write_atomically(out_dir / RECORD_FILE, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())
    shutil.rmtree(checkpoints, ignore_errors=True)
    return TrainingReport(out_dir, plan.served_heads, retrieval, ranker, record)


def _summary(found: Fit) -> dict[str, Any]:
    return {
        "losses": [round(value, 6) for value in found.losses],
        "steps": found.steps,
        "seconds": round(found.seconds, 3),
        "resumed_at": found.resumed_at,
    }
