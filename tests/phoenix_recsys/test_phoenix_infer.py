"""Inference over ids: buckets do not show, nothing recompiles, and it agrees with the published pipeline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import jax
import numpy as np
import pytest

import phoenix_recsys
from phoenix_recsys.artifact import Artifact, load_artifact, save_artifact
from phoenix_recsys.backend import BackendOptions
from phoenix_recsys.backend_registry import load_ranker
from phoenix_recsys.config import RankerConfig
from phoenix_recsys.errors import ArtifactError
from phoenix_recsys.golden.pipeline_files import read_sequence
from phoenix_recsys.infer import Retrieval
from phoenix_recsys.plain_backend import JitRanker
from phoenix_recsys.requests import History, Items
from phoenix_recsys.transforms import init_params

CLOSE: dict[str, Any] = {"rtol": 0, "atol": 2e-5}


def _history(rng: np.random.Generator, count: int, actions: int = 5) -> History:
    return History(
        rng.integers(1, 2**62, count),
        rng.integers(0, 2**62, count),
        rng.random((count, actions)) > 0.5,
        surfaces=rng.integers(0, 16, count),
        dwell_seconds=rng.exponential(10, count),
    )


def _items(rng: np.random.Generator, count: int) -> Items:
    created = rng.integers(1_700_000_000, 1_700_100_000, count)
    ids = rng.integers(1, 2**62, count)
    return Items(ids, rng.integers(0, 2**62, count), rng.integers(0, 16, count), created + 7200, created)


def _some(items: Items, rows: Any) -> Items:
    return Items(*(getattr(items, field.name)[rows] for field in attrs.fields(Items)))


@pytest.fixture(scope="module")
def ranker(small_ranker: Artifact) -> JitRanker:
    """A warm ranker with two buckets of each kind."""
    ranker = JitRanker(small_ranker, BackendOptions(candidate_buckets=(4, 16), history_buckets=(6, 12)))
    ranker.warm_up()
    return ranker


@pytest.fixture(scope="module")
def retrieval(small_retrieval: Artifact) -> Retrieval:
    """A warm retrieval model."""
    retrieval = Retrieval(small_retrieval, item_buckets=(8, 32), history_buckets=(6, 12))
    retrieval.warm_up()
    return retrieval


def test_nothing_recompiles_while_serving(ranker: JitRanker, rng: np.random.Generator) -> None:
    """After warm-up, requests of any size run the four compiled programs."""
    assert ranker.compilations == 4
    for events, count in ((0, 0), (0, 1), (3, 4), (6, 5), (7, 16), (12, 40), (30, 3)):
        scores = ranker.score(5, _history(rng, events), _items(rng, count))
        assert scores.logits.shape == scores.probabilities.shape == (count, 5)
        assert scores.logits.dtype == scores.probabilities.dtype == np.float32
    bare = Items([1, 2], [3, 4])
    ranker.score(0, History.empty(5), bare)
    assert ranker.compilations == 4


def test_retrieval_does_not_recompile_either(retrieval: Retrieval, rng: np.random.Generator) -> None:
    """Histories and catalogues of any size run the programs compiled at warm-up, and give unit vectors."""
    assert retrieval.compilations == 4
    for events, count in ((0, 0), (3, 5), (12, 8), (40, 100)):
        user = retrieval.encode_user(9, _history(rng, events))
        assert np.linalg.norm(user) == pytest.approx(1.0, abs=1e-5)
        ids = rng.integers(1, 2**62, count)
        items = retrieval.encode_items(ids, ids)
        assert items.shape == (count, 32)
        assert np.linalg.norm(items, axis=1) == pytest.approx(np.ones(count), abs=1e-5)
    assert retrieval.compilations == 4


def test_scores_do_not_depend_on_batching(ranker: JitRanker, rng: np.random.Generator) -> None:
    """Items score the same together in several turns, alone, and in another order."""
    history, items = _history(rng, 9), _items(rng, 37)
    together = ranker.score(5, history, items)
    order = rng.permutation(37)
    np.testing.assert_allclose(ranker.score(5, history, _some(items, order)).logits, together.logits[order], **CLOSE)
    for row in (0, 15, 16, 36):
        alone = ranker.score(5, history, _some(items, [row]))
        np.testing.assert_allclose(alone.logits[0], together.logits[row], **CLOSE)
        assert alone.continuous is not None
        assert together.continuous is not None
        np.testing.assert_allclose(alone.continuous[0], together.continuous[row], **CLOSE)


def test_the_history_bucket_does_not_show(small_ranker: Artifact, ranker: JitRanker, rng: np.random.Generator) -> None:
    """A short history scores the same padded to a short bucket and to the full length."""
    history, items = _history(rng, 5), _items(rng, 4)
    full = JitRanker(small_ranker, BackendOptions(candidate_buckets=(4,))).score(5, history, items)
    np.testing.assert_allclose(ranker.score(5, history, items).logits, full.logits, **CLOSE)


def test_the_newest_events_count(ranker: JitRanker, retrieval: Retrieval, rng: np.random.Generator) -> None:
    """Events older than the model's window, and events without an item, change nothing; newer ones do."""
    long, items = _history(rng, 20), _items(rng, 3)
    recent = long.newest(12)
    assert len(recent) == 12
    assert np.array_equal(recent.item_ids, long.item_ids[-12:])
    np.testing.assert_array_equal(ranker.score(5, long, items).logits, ranker.score(5, recent, items).logits)
    np.testing.assert_array_equal(retrieval.encode_user(5, long), retrieval.encode_user(5, recent))
    gap = attrs.evolve(recent, item_ids=np.where(np.arange(12) == 3, 0, recent.item_ids))
    assert len(gap.newest(12)) == 11
    changed = ranker.score(5, gap, items).logits
    assert np.abs(changed - ranker.score(5, recent, items).logits).max() > 1e-5


def test_every_input_matters(ranker: JitRanker, rng: np.random.Generator) -> None:
    """User, actions, dwell times, authors, surfaces and age each move the scores."""
    history, items = _history(rng, 6), _items(rng, 3)
    wanted = ranker.score(5, history, items).logits
    changes = [
        (6, history, items),
        (5, attrs.evolve(history, actions=1 - history.actions), items),
        (5, attrs.evolve(history, dwell_seconds=None), items),
        (5, attrs.evolve(history, author_ids=history.author_ids + 1), items),
        (5, history, attrs.evolve(items, surfaces=None)),
        (5, history, attrs.evolve(items, creation_ts=None)),
    ]
    for user, events, candidates in changes:
        assert np.abs(ranker.score(user, events, candidates).logits - wanted).max() > 1e-6


def test_probabilities_are_sigmoids(ranker: JitRanker, rng: np.random.Generator) -> None:
    """Probabilities are the logistic function of the logits."""
    scores = ranker.score(5, _history(rng, 4), _items(rng, 4))
    np.testing.assert_allclose(scores.probabilities, 1 / (1 + np.exp(-scores.logits)), rtol=1e-5)


def test_load_from_a_directory(small_ranker: Artifact, small_retrieval: Artifact, tmp_path: Path) -> None:
    """Models saved to a directory serve from it; the wrong kind of directory is refused."""
    save_artifact(tmp_path / "ranker", small_ranker)
    save_artifact(tmp_path / "retrieval", small_retrieval)
    ranker = load_ranker(tmp_path / "ranker", "jit", BackendOptions(candidate_buckets=(4,)))
    assert isinstance(ranker, JitRanker)
    assert ranker.candidate_buckets == (4,)
    assert Retrieval.load(tmp_path / "retrieval").action_names[:2] == ("invalid", "favorite")
    with pytest.raises(ArtifactError, match="wanted a ranker model"):
        load_ranker(tmp_path / "retrieval", "jit")


def test_serving_agrees_with_the_published_pipeline(fixtures: Path) -> None:
    """At slot positions in float32, ids in give the probabilities and vectors of the published pipeline."""
    pipeline = fixtures / "pipeline_tiny"
    with np.load(pipeline / "expected.npz", allow_pickle=False) as archive:
        expected = {key.split("/")[-1]: archive[key] for key in archive if key.startswith("f32/example_sequence/")}
    models = [load_artifact(pipeline / kind, default_positions="slot") for kind in ("ranker", "retrieval")]
    models = [attrs.evolve(m, config=attrs.evolve(m.config, fprop_dtype="float32")) for m in models]
    sequence = read_sequence(pipeline / "example_sequence.json", models[1].config)
    count = int(np.count_nonzero(sequence.post_ids))
    history = History(sequence.post_ids[:count], sequence.author_ids[:count], sequence.actions[:count])
    user_id = int(sequence.user_id[0])
    vector = Retrieval(models[1]).encode_user(user_id, history)
    np.testing.assert_allclose(vector, expected["user_repr"][0], rtol=0, atol=5e-6)
    ranker = JitRanker(models[0])
    assert ranker.candidate_buckets == (8,)
    ids, authors = expected["ret_post_ids"], expected["ret_author_ids"]
    # The fixture's post with id 0 is padding; its place in the chunk must stay, so stop before it.
    known = int(np.argmax(ids == 0)) if (ids == 0).any() else len(ids)
    assert known >= 8
    found = ranker.score(user_id, history, Items(ids[:known], authors[:known]))
    np.testing.assert_allclose(found.probabilities, expected["all_probs"][:known], rtol=0, atol=2e-5)


def test_january_models_serve(small_ranker: Artifact, rng: np.random.Generator) -> None:
    """A January ranker takes the same requests and has no continuous outputs."""
    assert isinstance(small_ranker.config, RankerConfig)
    config = attrs.evolve(small_ranker.config, release="january")
    artifact = attrs.evolve(small_ranker, config=config, params=init_params(config, jax.random.PRNGKey(0)))
    scores = JitRanker(artifact, BackendOptions(candidate_buckets=(4,))).score(5, _history(rng, 5), _items(rng, 3))
    assert scores.continuous is None
    assert scores.logits.shape == (3, 5)


def test_unusable_requests_say_why(ranker: JitRanker, retrieval: Retrieval) -> None:
    """Wrong widths, lengths, ids and units are refused with what was wanted and found."""
    with pytest.raises(ValueError, match="knows 5 actions, the history has 3"):
        ranker.score(1, History.empty(3), Items([1], [1]))
    with pytest.raises(ValueError, match=r"id 0 means padding.*row 1"):
        Items([4, 0], [1, 1])
    with pytest.raises(ValueError, match=r"Items.author_ids must have 2 rows"):
        Items([4, 5], [1])
    with pytest.raises(ValueError, match=r"History.actions must be \[events, actions\]"):
        History([1], [1], [1.0])
    with pytest.raises(ValueError, match="seconds, not milliseconds"):
        Items([4], [1], creation_ts=[1_700_000_000_000])
    with pytest.raises(ValueError, match="one author per item"):
        retrieval.encode_items([1, 2], [1])
    with pytest.raises(TypeError, match="integers"):
        Items([1.5], [1])


def test_wrong_models_and_buckets_are_refused(small_ranker: Artifact, small_retrieval: Artifact) -> None:
    """A server given the other model, or no usable bucket, refuses."""
    with pytest.raises(TypeError, match="wants a ranker"):
        JitRanker(small_retrieval)
    with pytest.raises(TypeError, match="wants a retrieval"):
        Retrieval(small_ranker)
    with pytest.raises(ValueError, match="candidate_buckets"):
        JitRanker(small_ranker, BackendOptions(candidate_buckets=(0,)))


def test_importing_the_package_loads_no_jax() -> None:
    """The package's own import is light; names load what they need on first use."""
    code = (
        "import sys, phoenix_recsys; before = 'jax' in sys.modules; phoenix_recsys.Retrieval; "
        "sys.exit(before or 'jax' not in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert all(getattr(phoenix_recsys, name) is not None for name in phoenix_recsys.__all__)
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = phoenix_recsys.nothing_here
