"""Phoenix ranking and retrieval models in JAX and dm-haiku: inference, artifacts, training.

An independent implementation of the models that the x-algorithm releases of January and May 2026 describe; artifact
directories in the published layout load unchanged. The names below are loaded on first use, so that importing the
package alone does not import JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phoenix_recsys.artifact import Artifact, load_artifact, save_artifact
    from phoenix_recsys.backend import BackendOptions, RankerBackend
    from phoenix_recsys.backend_registry import load_ranker, make_backend
    from phoenix_recsys.config import HashConfig, RankerConfig, RetrievalConfig, TransformerConfig
    from phoenix_recsys.errors import ArtifactError, PhoenixError
    from phoenix_recsys.hashing import EntityHash, HashParams
    from phoenix_recsys.infer import Retrieval
    from phoenix_recsys.requests import History, Items, Scores
    from phoenix_recsys.tables import EmbeddingTables

__all__ = [
    "Artifact",
    "ArtifactError",
    "BackendOptions",
    "EmbeddingTables",
    "EntityHash",
    "HashConfig",
    "HashParams",
    "History",
    "Items",
    "PhoenixError",
    "RankerBackend",
    "RankerConfig",
    "Retrieval",
    "RetrievalConfig",
    "Scores",
    "TransformerConfig",
    "load_artifact",
    "load_ranker",
    "make_backend",
    "save_artifact",
]

_HOMES = {
    "artifact": ("Artifact", "load_artifact", "save_artifact"),
    "backend": ("BackendOptions", "RankerBackend"),
    "backend_registry": ("load_ranker", "make_backend"),
    "config": ("HashConfig", "RankerConfig", "RetrievalConfig", "TransformerConfig"),
    "errors": ("ArtifactError", "PhoenixError"),
    "hashing": ("EntityHash", "HashParams"),
    "infer": ("Retrieval",),
    "requests": ("History", "Items", "Scores"),
    "tables": ("EmbeddingTables",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"phoenix_recsys.{module}"), name)
    raise AttributeError(f"module 'phoenix_recsys' has no attribute {name!r}")
