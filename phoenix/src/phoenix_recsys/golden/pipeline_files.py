"""Artifact directories: the published two-model pipeline run over them, compared with ``expected.npz``.

That pipeline (x-algorithm, May 2026 release) takes the first events of a sequence, retrieves with the user tower, and
ranks the posts in chunks of the configured candidate length, at slot positions, without surfaces, dwell or times.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from phoenix_recsys.artifact import Artifact, load_artifact
from phoenix_recsys.config import RankerConfig, RetrievalConfig
from phoenix_recsys.golden import tolerances as tol
from phoenix_recsys.golden.model_files import DTYPES
from phoenix_recsys.golden.report import Arrays, FixtureError, Result, compare, entry, equal, read_fixture
from phoenix_recsys.inputs import Embeddings, RankerBatch, RetrievalBatch
from phoenix_recsys.transforms import candidate_tower_transform, ranker_transform, user_tower_transform

CORPUS_FILE = "sports_corpus.npz"
EXPECTED_FILE = "expected.npz"
RETRIEVED = 200
WEIGHTS = {1: 1.0, 4: 0.5, 6: 0.3, 11: 0.2}
"""Favourite, reply, repost and dwell in the action enumeration, weighted as the published pipeline does."""

Array = npt.NDArray[Any]


class Sequence(NamedTuple):
    """One user of a sequence file: ids and the history's first events, padded to the history length."""

    user_id: Array
    post_ids: Array
    author_ids: Array
    actions: Array


def check_directory(path: Path) -> Iterator[Result]:
    """Check a pair of models in ``retrieval/`` and ``ranker/``, or a single one.

    Raises:
        ArtifactError: if a model cannot be loaded.
        FixtureError: if the directory holds no model, or its other files are incomplete.
    """
    if (path / "config.json").is_file():
        yield from _check_single(load_artifact(path, default_positions="slot"))
        return
    if not (path / "retrieval").is_dir() or not (path / "ranker").is_dir():
        raise FixtureError(
            f"{path}: wanted a directory with retrieval/ and ranker/, or with config.json, found neither. "
            "Name the artifact directory itself."
        )
    retrieval = load_artifact(path / "retrieval", kind="retrieval")
    ranker = load_artifact(path / "ranker", kind="ranker", default_positions="slot")
    expected = read_fixture(path / EXPECTED_FILE) if (path / EXPECTED_FILE).is_file() else None
    if expected is None:
        yield from _check_single(retrieval)
        yield from _check_single(ranker)
        return
    try:
        yield from _check_pair(path, retrieval, ranker, expected)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise FixtureError(f"{path}: the files do not fit each other: {error!r}") from error


def _check_single(artifact: Artifact) -> Iterator[Result]:
    """Without expected results all that can be said is that the model runs and gives finite numbers."""
    hashes = artifact.hash_params
    ids = np.arange(1, 5, dtype=np.uint64)
    sequence = Sequence(ids[:1], ids, ids, np.eye(4, artifact.config.num_actions, dtype=np.float32))
    if isinstance(artifact.config, RetrievalConfig):
        output = _user_vector(artifact, sequence)
    else:
        output = np.asarray(_probabilities(artifact, sequence, ids, ids, 4), np.float32)
    unusable = float(np.sum(~np.isfinite(output)))
    note = f"loads and runs ({hashes.item.vocab_size} item rows); no expected results to compare"
    yield Result("", artifact.kind, unusable, 0, note=note)


def _check_pair(path: Path, retrieval: Artifact, ranker: Artifact, expected: Arrays) -> Iterator[Result]:
    corpus = read_fixture(path / CORPUS_FILE)
    posts, authors = entry(path, corpus, "post_ids"), entry(path, corpus, "author_ids")
    vectors = entry(path, corpus, "candidate_representations")
    hashes = retrieval.hash_params
    yield equal("corpus", "item_hashes", hashes.hash_items(posts), entry(path, expected, "corpus/item_hashes"))
    wanted = entry(path, expected, "corpus/author_hashes")
    yield equal("corpus", "author_hashes", hashes.hash_authors(authors), wanted)
    yield compare(
        "corpus", "candidate_representations", _item_vectors(retrieval, posts, authors), vectors, tol.UNIT_F32
    )
    for artifact in (retrieval, ranker):
        name = f"unified_table_rowsum/{artifact.kind}"
        if name in expected:
            sums = artifact.tables.lookup(np.arange(artifact.tables.num_rows)).sum(axis=1)
            yield compare("tables", name, sums, expected[name], 1e-5)
    cases = sorted({tuple(name.split("/")[:2]) for name in expected if name.partition("/")[0] in DTYPES})
    if not cases:
        raise FixtureError(f"{path / EXPECTED_FILE}: wanted f32/… or bf16/… entries, found none")
    for dtype, name in cases:
        models = [
            attrs.evolve(artifact, config=attrs.evolve(artifact.config, fprop_dtype=DTYPES[dtype]))
            for artifact in (retrieval, ranker)
        ]
        yield from _check_sequence(path, dtype, name, models, expected, corpus)


def _check_sequence(
    path: Path, dtype: str, name: str, models: list[Artifact], expected: Arrays, corpus: Arrays
) -> Iterator[Result]:
    retrieval, ranker = models
    label = f"{dtype}/{name.removesuffix('_sequence')}"

    def wanted(output: str, kind: str = dtype) -> Array:
        return entry(path / EXPECTED_FILE, expected, f"{kind}/{name}/{output}")

    # Both models take their lengths from the retrieval configuration, as published.
    sequence = read_sequence(path / f"{name}.json", retrieval.config)
    yield equal(label, "history_post_ids", sequence.post_ids, wanted("history_post_ids"))
    yield equal(label, "history_author_ids", sequence.author_ids, wanted("history_author_ids"))
    yield compare(label, "history_actions", sequence.actions, wanted("history_actions"), 0)
    for artifact, names in (
        (retrieval, ("user_hashes", "hist_post_h", "hist_author_h")),
        (ranker, ("rank_user_h", "rank_hist_post_h", "rank_hist_author_h")),
    ):
        hashes = artifact.hash_params
        rows = (
            hashes.hash_users(sequence.user_id),
            hashes.hash_items(sequence.post_ids)[None],
            hashes.hash_authors(sequence.author_ids)[None],
        )
        for output, found in zip(names, rows, strict=True):
            yield equal(label, output, found, wanted(output))
    exact = dtype == "f32"
    reference = "f32" if f"f32/{name}/user_repr" in expected else dtype
    user = _user_vector(retrieval, sequence)
    unit = tol.UNIT_F32 if exact else tol.UNIT_BF16
    yield compare(label, "user_repr", user, wanted("user_repr", reference), unit)
    scores = np.asarray(entry(path, corpus, "candidate_representations")) @ user[0]
    yield compare(label, "scores", scores, wanted("scores", reference), 2 * unit)
    top = wanted("top_idx")
    ours = np.argsort(-scores, kind="stable")[: min(RETRIEVED, len(scores), len(top))]
    # Where scores tie, any choice is right: compare the scores of what was chosen.
    yield compare(label, "top_idx (by score)", scores[ours], wanted("scores")[top], 2 * unit)
    posts, authors = wanted("ret_post_ids"), wanted("ret_author_ids")
    chunk = retrieval.config.candidate_seq_len
    probabilities = _probabilities(ranker, sequence, posts, authors, chunk)
    # The retrieved posts may differ between the dtypes, so compare those of the same dtype.
    limits = tol.LOGITS["float32" if exact else "bfloat16"]
    yield from compare_probabilities(label, probabilities, wanted, limits)


def compare_probabilities(
    label: str,
    probabilities: Array,
    wanted: Callable[[str], Array],
    limits: tol.LogitLimits,
    *,
    known: npt.NDArray[np.bool_] | None = None,
) -> Iterator[Result]:
    """Compare the ranker's part of a sequence: probabilities, their weighted sum, and the order by it.

    Args:
        label: see :class:`~phoenix_recsys.golden.report.Result`.
        probabilities: float32 [n, A].
        wanted: an expected output by name.
        limits: how far logits may lie from the expected ones.
        known: bool [n]; False leaves a post out.
    """
    keep = np.ones(len(probabilities), np.bool_) if known is None else known
    limit = limits.largest * tol.SIGMOID_SLOPE
    mean = None if limits.mean is None else limits.mean * tol.SIGMOID_SLOPE
    yield compare(label, "all_probs", probabilities, wanted("all_probs"), limit, mean_limit=mean, where=keep)
    weighted = sum(weight * probabilities[:, index] for index, weight in WEIGHTS.items())
    bound = limit * sum(WEIGHTS.values())
    yield compare(label, "weighted", weighted, wanted("weighted"), bound, where=keep)
    order = np.argsort(-np.asarray(weighted), kind="stable")
    theirs, ranked = wanted("weighted"), wanted("ranked")
    ours, best = theirs[order[keep[order]]], theirs[ranked[keep[ranked]]]
    yield compare(label, "ranked (by weighted)", ours, best, 2 * bound)


def read_sequence(path: Path, config: RankerConfig | RetrievalConfig) -> Sequence:
    """The first events of a sequence file, as many as the configuration has history tokens.

    Raises:
        FixtureError: if the file is missing or not of that form.
    """
    length = config.history_seq_len
    posts, authors = np.zeros(length, np.uint64), np.zeros(length, np.uint64)
    actions = np.zeros((length, config.num_actions), np.float32)
    try:
        content = json.loads(path.read_text("utf-8"))
        user = np.array([content["user_id"]], np.uint64)
        for index, event in enumerate(content["history"][:length]):
            posts[index], authors[index] = event["post_id"], event["author_id"]
            for action, value in event["actions"].items():
                if int(action) < config.num_actions:
                    actions[index, int(action)] = value
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise FixtureError(
            f"{path}: wanted {{user_id, history: [{{post_id, author_id, actions}}]}}: {error!r}"
        ) from error
    return Sequence(user, posts, authors, actions)


def _user_side(artifact: Artifact, sequence: Sequence) -> tuple[RetrievalBatch, Embeddings]:
    hashes, tables = artifact.hash_params, artifact.tables
    batch = RetrievalBatch(
        hashes.hash_users(sequence.user_id),
        hashes.hash_items(sequence.post_ids)[None],
        hashes.hash_authors(sequence.author_ids)[None],
        sequence.actions[None],
        np.zeros((1, len(sequence.post_ids)), np.int32),
    )
    embeddings = Embeddings(
        tables.lookup(batch.user_hashes),
        tables.lookup(batch.history_post_hashes),
        tables.lookup(batch.history_author_hashes),
    )
    return batch, embeddings


@functools.lru_cache(maxsize=8)
def _compiled(transform: Callable[[Any], hk.Transformed], config: object) -> Callable[..., Any]:
    """One program per model and dtype, shared by all sequences."""
    return jax.jit(transform(config).apply)


def _user_vector(artifact: Artifact, sequence: Sequence) -> npt.NDArray[np.float32]:
    if not isinstance(artifact.config, RetrievalConfig):
        raise TypeError("wanted a retrieval model")
    apply = _compiled(user_tower_transform, artifact.config)
    return np.asarray(apply(artifact.params, *_user_side(artifact, sequence)).representation)


def _item_vectors(artifact: Artifact, posts: Array, authors: Array) -> Array:
    if not isinstance(artifact.config, RetrievalConfig):
        raise TypeError("wanted a retrieval model")
    rows = artifact.hash_params.hash_items(posts), artifact.hash_params.hash_authors(authors)
    embeddings = (artifact.tables.lookup(row) for row in rows)
    return np.asarray(_compiled(candidate_tower_transform, artifact.config)(artifact.params, *embeddings))


def _probabilities(
    artifact: Artifact, sequence: Sequence, posts: Array, authors: Array, chunk: int
) -> npt.NDArray[np.float32]:
    """Sigmoids of all heads, float32 [n, A], rounded in the model's dtype; scored in chunks padded with id 0."""
    if not isinstance(artifact.config, RankerConfig):
        raise TypeError("wanted a ranker")
    user, embeddings = _user_side(artifact, sequence)
    apply = _compiled(ranker_transform, artifact.config)
    found = [np.zeros((0, artifact.config.num_actions), np.float32)]
    for start in range(0, len(posts), chunk):
        ids, owners = np.zeros(chunk, np.uint64), np.zeros(chunk, np.uint64)
        part = posts[start : start + chunk]
        ids[: len(part)], owners[: len(part)] = part, authors[start : start + chunk]
        rows = artifact.hash_params.hash_items(ids)[None], artifact.hash_params.hash_authors(owners)[None]
        batch = RankerBatch(*user, *rows, np.zeros((1, chunk), np.int32))
        filled = embeddings._replace(
            candidate_post_embeddings=artifact.tables.lookup(rows[0]),
            candidate_author_embeddings=artifact.tables.lookup(rows[1]),
        )
        output = apply(artifact.params, batch, filled)
        found.append(np.asarray(jax.nn.sigmoid(output.logits).astype(jnp.float32))[0, : len(part)])
    return np.concatenate(found)
