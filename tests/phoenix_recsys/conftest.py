"""Shared by the tests of the model library: fixture files and small models, loaded once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import jax
import numpy as np
import pytest

from phoenix_recsys.artifact import Artifact, load_artifact
from phoenix_recsys.config import Positions, RankerConfig, RetrievalConfig, TransformerConfig
from phoenix_recsys.golden.model_files import fields, ranker_config, read_meta
from phoenix_recsys.golden.report import params_under, read_fixture
from phoenix_recsys.hashing import HashParams
from phoenix_recsys.inputs import Embeddings, RankerBatch
from phoenix_recsys.quantized_tables import QuantizedTables, write_tables
from phoenix_recsys.ranker import RankerOutput
from phoenix_recsys.tables import EmbeddingTables
from phoenix_recsys.transforms import init_params, ranker_transform

FIXTURES = Path(__file__).parent / "fixtures"
TRUNK = TransformerConfig(32, 16, 4, 2, 2, 2.0, 0.125)
ACTIONS = 5


@attrs.frozen(eq=False)
class TinyRanker:
    """The May ranker fixture: random weights large enough to feel every part of the model, float32."""

    params: dict[str, Any]
    batch: RankerBatch
    embeddings: Embeddings
    arrays: dict[str, Any]
    score: Callable[..., RankerOutput]


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of fixture files."""
    return FIXTURES


@pytest.fixture(scope="session")
def tiny() -> TinyRanker:
    """The fixture ranker with one jitted program per positions, attention and history length configured."""
    path = FIXTURES / "may_ranker_tiny.npz"
    arrays = read_fixture(path)
    meta = read_meta(path, arrays)
    programs: dict[tuple[Any, ...], Callable[..., RankerOutput]] = {}
    params = params_under(arrays, "params/")

    def score(
        batch: RankerBatch,
        embeddings: Embeddings,
        positions: Positions = "anchored",
        *,
        attention: Any = "dense",
        history_seq_len: int | None = None,
    ) -> RankerOutput:
        key = (positions, attention, history_seq_len)
        if key not in programs:
            config = ranker_config(meta, "float32", positions)
            if history_seq_len is not None:
                config = attrs.evolve(config, history_seq_len=history_seq_len)
            programs[key] = jax.jit(ranker_transform(config, attention=attention).apply)
        return programs[key](params, batch, embeddings)

    batch = fields(path, arrays, RankerBatch, "in/")
    return TinyRanker(params, batch, fields(path, arrays, Embeddings, "emb/"), arrays, score)


@pytest.fixture(scope="session")
def small_hashes() -> HashParams:
    """Hash constants for small vocabularies."""
    return HashParams.random(3, user_vocab_size=40, item_vocab_size=300, author_vocab_size=50)


@pytest.fixture(scope="session")
def small_ranker(small_hashes: HashParams) -> Artifact:
    """A freshly initialised trainable ranker, float32, anchored."""
    config = RankerConfig(TRUNK, ACTIONS, history_seq_len=12, candidate_seq_len=8, fprop_dtype="float32")
    params = init_params(config, jax.random.PRNGKey(1))
    return Artifact(config, params, EmbeddingTables.random(1, small_hashes, 32), small_hashes)


@pytest.fixture(scope="session")
def strong_ranker(small_ranker: Artifact) -> Artifact:
    """The small ranker with norms and weights far enough from their start to feel every part of the model."""
    rng = np.random.default_rng(5)
    params = {
        module: {
            name: np.asarray(value) + rng.normal(0, 0.15, np.shape(value)).astype(np.float32)
            for name, value in entries.items()
        }
        for module, entries in small_ranker.params.items()
    }
    return attrs.evolve(small_ranker, params=params)


@pytest.fixture(scope="session")
def small_retrieval(small_hashes: HashParams) -> Artifact:
    """A freshly initialised trainable retrieval model, float32."""
    config = RetrievalConfig(TRUNK, ACTIONS, history_seq_len=12, fprop_dtype="float32")
    params = init_params(config, jax.random.PRNGKey(2))
    return Artifact(config, params, EmbeddingTables.random(2, small_hashes, 32), small_hashes)


@pytest.fixture(scope="session")
def published_ranker() -> Artifact:
    """The ranker of the small published-layout directory."""
    return load_artifact(FIXTURES / "pipeline_tiny" / "ranker")


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded random numbers."""
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def floats(small_hashes: HashParams) -> EmbeddingTables:
    """Float tables with a zero row and rows of very different size."""
    tables = EmbeddingTables.random(5, small_hashes, 8)
    item = np.array(tables.item)
    item[17] = 0
    item[18] *= 1e-6
    item[19] *= 1e6
    return tables._replace(item=item)


@pytest.fixture(scope="module")
def stored(floats: EmbeddingTables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of quantised tables; not to be changed."""
    path = tmp_path_factory.mktemp("quantized") / "tables"
    write_tables(path, user=floats.user, item=floats.item, author=floats.author, chunk_rows=37)
    return path


@pytest.fixture(scope="module")
def tables(stored: Path) -> QuantizedTables:
    """The mapped tables."""
    return QuantizedTables.open(stored)


@pytest.fixture
def copy(stored: Path, tmp_path: Path) -> Path:
    """A directory to damage."""
    return Path(shutil.copytree(stored, tmp_path / "tables"))
