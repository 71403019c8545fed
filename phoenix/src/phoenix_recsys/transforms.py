"""The models as pure functions of parameters (``haiku.Transformed``), and their initial parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import haiku as hk
import jax
import numpy as np

from phoenix_recsys.config import FpropDtype, Init, RankerConfig, RetrievalConfig
from phoenix_recsys.inputs import Embeddings, RankerBatch, RetrievalBatch
from phoenix_recsys.ranker import Attention, PhoenixModel, RankerOutput
from phoenix_recsys.retrieval import PhoenixRetrievalModel, UserRepresentation

Params = Mapping[str, Mapping[str, Any]]
"""Module path to parameter name to array, or to a ``QuantizedMatrix`` (:mod:`phoenix_recsys.quantized_weights`)."""


def ranker_transform(
    config: RankerConfig,
    init: Init = "published",
    attention: Attention = "dense",
    *,
    attention_products: FpropDtype | None = None,
) -> hk.Transformed:
    """``apply(params, batch, embeddings) -> RankerOutput`` and ``init(key, batch, embeddings)``."""

    def forward(batch: RankerBatch, embeddings: Embeddings) -> RankerOutput:
        return PhoenixModel(config, init, attention_products=attention_products)(batch, embeddings, attention=attention)

    return hk.without_apply_rng(hk.transform(forward))


def retrieval_transform(config: RetrievalConfig, init: Init = "published") -> hk.Transformed:
    """``apply(params, batch, embeddings) -> (UserRepresentation, item vectors or None)``, and ``init``."""

    def forward(batch: RetrievalBatch, embeddings: Embeddings) -> tuple[UserRepresentation, jax.Array | None]:
        return PhoenixRetrievalModel(config, init)(batch, embeddings)

    return hk.without_apply_rng(hk.transform(forward))


def user_tower_transform(config: RetrievalConfig) -> hk.Transformed:
    """``apply(params, batch, embeddings) -> UserRepresentation``: the user tower alone."""

    def forward(batch: RetrievalBatch, embeddings: Embeddings) -> UserRepresentation:
        return PhoenixRetrievalModel(config).encode_user(batch, embeddings)

    return hk.without_apply_rng(hk.transform(forward))


def candidate_tower_transform(config: RetrievalConfig) -> hk.Transformed:
    """``apply(params, post_embeddings, author_embeddings) -> item vectors``: the item tower alone."""

    def forward(posts: jax.Array, authors: jax.Array) -> jax.Array:
        return PhoenixRetrievalModel(config).candidate_tower(posts, authors)

    return hk.without_apply_rng(hk.transform(forward))


def example_inputs(config: RankerConfig | RetrievalConfig) -> tuple[RankerBatch | RetrievalBatch, Embeddings]:
    """An all-zero batch of one row in the configured sizes, with one history token and one candidate."""
    hashes, size = config.hash_config, config.emb_size
    nu, ni, na = hashes.num_user_hashes, hashes.num_item_hashes, hashes.num_author_hashes
    ints, floats = np.int32, np.float32
    user_side = (
        np.zeros((1, nu), ints),
        np.zeros((1, 1, ni), ints),
        np.zeros((1, 1, na), ints),
        np.zeros((1, 1, config.num_actions), floats),
        np.zeros((1, 1), ints),
    )
    embeddings = Embeddings(
        np.zeros((1, nu, size), floats),
        np.zeros((1, 1, ni, size), floats),
        np.zeros((1, 1, na, size), floats),
        np.zeros((1, 1, ni, size), floats),
        np.zeros((1, 1, na, size), floats),
    )
    if isinstance(config, RetrievalConfig):
        return RetrievalBatch(*user_side), embeddings
    candidates = (np.zeros((1, 1, ni), ints), np.zeros((1, 1, na), ints), np.zeros((1, 1), ints))
    return RankerBatch(*user_side, *candidates), embeddings


def _transform(config: RankerConfig | RetrievalConfig, init: Init) -> hk.Transformed:
    if isinstance(config, RankerConfig):
        return ranker_transform(config, init)
    return retrieval_transform(config, init)


def init_params(
    config: RankerConfig | RetrievalConfig, key: jax.Array, init: Init = "trainable"
) -> dict[str, dict[str, jax.Array]]:
    """Fresh float32 parameters under their published paths.

    With ``published`` and the second half of ``jax.random.split(jax.random.PRNGKey(42))`` these are the
    parameters that the published runners start with.
    """
    fresh = jax.jit(_transform(config, init).init)(key, *example_inputs(config))
    return {module: dict(entries) for module, entries in fresh.items()}


def parameter_shapes(config: RankerConfig | RetrievalConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter, keyed ``module path/name`` as in ``model_params.npz``.

    Nothing is computed.
    """
    shapes = jax.eval_shape(_transform(config, "published").init, jax.random.PRNGKey(0), *example_inputs(config))
    return {
        f"{module}/{name}": tuple(entry.shape)
        for module, entries in sorted(shapes.items())
        for name, entry in sorted(entries.items())
    }
