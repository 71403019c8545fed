"""The modules: parameter paths, initialisation, pooling, and that a trainable model listens to its history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phoenix_recsys.actions import PUBLISHED_ACTION_NAMES, action_names
from phoenix_recsys.artifact import Artifact
from phoenix_recsys.config import RankerConfig, RetrievalConfig, TransformerConfig
from phoenix_recsys.inputs import Embeddings
from phoenix_recsys.ranker import PhoenixModel
from phoenix_recsys.retrieval import PhoenixRetrievalModel, top_k
from phoenix_recsys.transforms import init_params, parameter_shapes, ranker_transform
from phoenix_recsys.trunk import Transformer

TRUNK = TransformerConfig(16, 4, 2, 1, 1, 2.0, 0.125)
RANKER = RankerConfig(TRUNK, 3, fprop_dtype="float32")
RETRIEVAL = RetrievalConfig(TRUNK, 3, fprop_dtype="float32")
TINY = RankerConfig(TransformerConfig(32, 16, 2, 2, 2, 2.0, 0.125), 19, fprop_dtype="float32")
ROWS = np.ones((1, 2, 2, 16), np.float32)
KEY = jax.random.PRNGKey(0)


def _paths(forward: Callable[[], Any]) -> dict[str, tuple[int, ...]]:
    params = jax.eval_shape(hk.transform(forward).init, KEY)
    return {f"{m}/{n}": v.shape for m, entries in params.items() for n, v in entries.items()}


def _ranker_parts(model: PhoenixModel) -> list[Callable[[], Any]]:
    flags, surface = np.ones((1, 2, 3), np.float32), np.zeros((1, 2), np.int32)
    mask, places = np.ones((1, 2, 2), bool), np.zeros((1, 2), np.float32)
    return [
        lambda: model.unembed(jnp.ones((1, 2, 16))),
        lambda: model.candidate_block(ROWS, ROWS, surface),
        lambda: model.trunk(jnp.ones((1, 2, 16)), mask, places),
        lambda: model.history_block(ROWS, ROWS, flags, surface),
        lambda: model.user_block(ROWS[:, 0]),
    ]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 3]])
def test_ranker_paths_do_not_depend_on_the_order_of_calls(order: list[int]) -> None:
    """Parameters have their published paths and shapes whichever blocks run, in any order, any number of times."""

    def forward() -> None:
        parts = _ranker_parts(PhoenixModel(RANKER))
        for index in order + order:
            parts[index]()

    published, found = parameter_shapes(RANKER), _paths(forward)
    assert found.items() <= published.items()
    if len(order) == 5:
        assert found == published


def test_retrieval_paths_do_not_depend_on_the_order_of_calls() -> None:
    """The item tower keeps its odd published path when it runs first, alone, or not through the call."""

    def forward() -> None:
        PhoenixRetrievalModel(RETRIEVAL).candidate_tower(ROWS, ROWS)

    tower = "phoenix_retrieval_model/~build_candidate_representation/candidate_tower"
    assert _paths(forward) == {
        f"{tower}/candidate_tower_projection_1": (64, 32),
        f"{tower}/candidate_tower_projection_2": (32, 16),
    }
    assert _paths(forward).items() <= parameter_shapes(RETRIEVAL).items()


def test_published_parameter_counts() -> None:
    """The sizes of the published small checkpoint give its published numbers of parameters."""
    trunk = TransformerConfig(128, 32, 4, 4, 4, 2.0, 0.125)
    counts = [
        sum(int(np.prod(shape)) for shape in parameter_shapes(config).values())
        for config in (RankerConfig(trunk, 19), RetrievalConfig(trunk, 19))
    ]
    assert counts == [807_104, 833_920]


def test_published_initialisation_scores_nothing(tiny: Any) -> None:
    """A ranker as published starts with all logits 0, so with all probabilities one half."""
    params = init_params(TINY, KEY, "published")
    output = jax.jit(ranker_transform(TINY).apply)(params, tiny.batch, tiny.embeddings)
    assert not np.asarray(output.logits).any()


@pytest.fixture(scope="module")
def trainable() -> dict[str, Any]:
    """Trainable parameters in the sizes of the fixture ranker."""
    return init_params(TINY, KEY)


def test_trainable_initialisation(small_ranker: Artifact) -> None:
    """A trainable start has random linears, post-norm scales of 0.3, others of 1, and small unembeddings."""
    params = small_ranker.params
    layer = "transformer/decoder_layer_0"
    scales = {name: np.unique(params[f"{layer}/{name}"]["scale"]) for name in ("rms_norm", "rms_norm_1", "rms_norm_3")}
    assert scales["rms_norm"] == pytest.approx(1.0)
    assert scales["rms_norm_1"] == scales["rms_norm_3"] == pytest.approx(0.3)
    weights = np.asarray(params[f"{layer}/linear"]["w"])
    assert weights.std() == pytest.approx(np.sqrt(2 / sum(weights.shape)), rel=0.1)
    assert np.asarray(params["phoenix_model"]["unembeddings"]).std() == pytest.approx(0.02, rel=0.15)


def test_every_parameter_of_a_trainable_ranker_learns(tiny: Any, trainable: dict[str, Any]) -> None:
    """Under trainable initialisation a gradient reaches every parameter that the inputs touch."""
    forward = ranker_transform(TINY).apply

    @jax.jit
    def loss(params: Any) -> jax.Array:
        output = forward(params, tiny.batch, tiny.embeddings)
        return jnp.sum(jnp.square(output.logits - 1.0)) + jnp.sum(output.continuous_preds)

    gradient = jax.grad(loss)(trainable)
    for path, value in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(value).all(), path
        assert np.abs(value).max() > 0, path


def test_changing_the_history_changes_the_scores(tiny: Any, trainable: dict[str, Any]) -> None:
    """Under trainable initialisation scores listen to the actions, the items and the length of the history."""
    forward = jax.jit(ranker_transform(TINY).apply)
    batch, embeddings = tiny.batch, tiny.embeddings
    wanted = np.asarray(forward(trainable, batch, embeddings).logits)[0]
    shorter = np.array(batch.history_post_hashes)
    shorter[:, 4:] = 0
    changes = [
        (batch._replace(history_actions=1.0 - np.asarray(batch.history_actions)), embeddings),
        (batch, embeddings._replace(history_post_embeddings=-np.asarray(embeddings.history_post_embeddings))),
        (batch._replace(history_post_hashes=shorter), embeddings),
    ]
    for changed in changes:
        assert np.abs(np.asarray(forward(trainable, *changed).logits)[0] - wanted).max() > 1e-4


def test_dropout_is_random_and_off_by_default() -> None:
    """Dropout needs a key, changes the result from key to key, and is absent at rate 0."""
    x, mask, places = jnp.ones((1, 3, 16)), np.ones((1, 3, 3), bool), np.arange(3.0)[None]

    def forward(rate: float) -> jax.Array:
        return jnp.asarray(Transformer(TRUNK, "trainable")(x, mask, places, dropout_rate=rate))

    pure = hk.transform(forward)
    params = jax.jit(pure.init, static_argnums=1)(KEY, 0.0)
    apply = jax.jit(pure.apply, static_argnums=2)
    plain = apply(params, None, 0.0)
    first, second = (apply(params, jax.random.PRNGKey(seed), 0.5) for seed in (1, 2))
    assert not np.allclose(first, second)
    assert not np.allclose(first, plain)
    with pytest.raises(ValueError, match="RNG"):
        apply(params, None, 0.5)


def test_tokens_of_the_wrong_width_are_refused() -> None:
    """The trunk says which shape it wants."""
    with pytest.raises(ValueError, match=r"\[B, T, 16\]"):
        hk.transform(lambda: Transformer(TRUNK)(jnp.ones((1, 3, 8)), np.ones((3, 3), bool), np.zeros((1, 3)))).init(KEY)


def test_last_pooling_reads_the_last_valid_token() -> None:
    """With ``last`` the representation is the newest valid token's direction; with no token it is zero."""
    tokens = jax.random.normal(KEY, (2, 4, 16))
    valid = np.array([[True, True, False, False], [False] * 4])

    def forward() -> Any:
        return PhoenixRetrievalModel(attrs.evolve(RETRIEVAL, user_pooling="last")).pool(tokens, valid)

    found = hk.transform(forward).apply({}, None)
    np.testing.assert_allclose(found.representation[0], tokens[0, 1] / jnp.linalg.norm(tokens[0, 1]), rtol=1e-5)
    assert not np.asarray(found.representation[1]).any()


def test_top_k_breaks_ties_by_index_and_fills_up_from_masked_rows() -> None:
    """Equal scores go to the lower index; masked rows come last with a finite score."""
    corpus = jnp.array([[1.0], [2.0], [2.0], [3.0]])
    indices, scores = top_k(jnp.array([[1.0]]), corpus, 3)
    assert indices.tolist() == [[3, 1, 2]]
    indices, scores = top_k(jnp.array([[1.0]]), corpus, 3, jnp.array([True, False, True, False]))
    assert indices.tolist() == [[2, 0, 1]]
    assert scores[0, 2] == pytest.approx(-1e12)


def test_embeddings_without_candidates_are_refused(tiny: Any) -> None:
    """The ranker says that candidate embeddings are missing."""
    bare = Embeddings(*tiny.embeddings[:3])
    with pytest.raises(ValueError, match="candidate"):
        ranker_transform(RANKER).init(KEY, tiny.batch, bare)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TransformerConfig(16, 3, 2, 1, 1), "key_size must be even"),
        (lambda: TransformerConfig(16, 4, 3, 2, 1), "multiple of num_kv_heads"),
        (lambda: TransformerConfig(16, 4, 2, 2, 0), "num_layers"),
        (lambda: RankerConfig(TRUNK, 0), "num_actions"),
        (lambda: RankerConfig(TRUNK, 3, positions="left"), "positions must be one of"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: RankerConfig(TRUNK, 2, action_names=("a", "a")), "distinct"),
        (lambda: RetrievalConfig(TRUNK, 3, user_pooling="max"), "user_pooling"),  # type: ignore[arg-type]  # wrong on purpose
    ],
)
def test_impossible_configurations_are_refused(build: Callable[[], object], message: str) -> None:
    """A configuration that cannot be a model says which field is wrong."""
    with pytest.raises(ValueError, match=message):
        build()


def test_heads_have_names() -> None:
    """Configured names win; otherwise the published enumeration applies, and numbers beyond it."""
    named = RankerConfig(TRUNK, 2, action_names=("like", "share"))
    assert action_names(named) == ("like", "share")
    assert action_names(RankerConfig(TRUNK, 19)) == PUBLISHED_ACTION_NAMES
    assert action_names(RankerConfig(TRUNK, 20))[-1] == "action_19"
