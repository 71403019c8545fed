"""Checkpoints: any tree of arrays with a JSON record beside it, in one .npz without pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from phoenix_recsys.errors import ArtifactError
from phoenix_recsys.npz import npz_bytes, read_npz, write_atomically
from phoenix_recsys.training.errors import TrainingError

RECORD = "record_json"
Tree = TypeVar("Tree")


def save_checkpoint(path: Path, tree: Any, record: dict[str, Any]) -> None:
    """Write ``tree`` and ``record``; a reader sees the old or the new file, never a part."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {f"leaf{jax.tree_util.keystr(where)}".replace("/", "|"): np.asarray(leaf) for where, leaf in leaves}
    text = json.dumps(record, sort_keys=True, allow_nan=False)
    arrays[RECORD] = np.frombuffer(text.encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, npz_bytes(arrays))


def load_checkpoint(path: Path, like: Tree) -> tuple[Tree, dict[str, Any]]:
    """Read a checkpoint into the structure, shapes and dtypes of ``like`` (arrays, or their ShapeDtypeStructs).

    Raises:
        TrainingError: if the file is damaged or holds another tree; says to start over.
    """
    advice = "Train without resuming to start over; the file is then replaced."
    try:
        arrays = read_npz(path, lambda _headers: None)
        record = json.loads(bytes(arrays.pop(RECORD)).decode())
    except (ArtifactError, KeyError, ValueError) as error:
        raise TrainingError(f"{path}: wanted a checkpoint, but it cannot be read ({error}). {advice}") from error
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    leaves = []
    for where, leaf in paths:
        name = f"leaf{jax.tree_util.keystr(where)}".replace("/", "|")
        found = arrays.pop(name, None)
        if found is None or found.shape != leaf.shape or found.dtype != leaf.dtype:
            what = "none" if found is None else f"{found.dtype} {list(found.shape)}"
            wants = f"{leaf.dtype} {list(leaf.shape)}"
            raise TrainingError(f"{path}: {name}: wanted {wants}, found {what}. {advice}")
        leaves.append(jax.numpy.asarray(found))
    if arrays:
        raise TrainingError(f"{path}: {sorted(arrays)[0]} belongs to another model. {advice}")
    return jax.tree_util.tree_unflatten(structure, leaves), record
