"""Models as resources: what opening says when something is missing or broken, and that serving compiles nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from candidate_pipeline.errors import DataError, MisconfigurationError
from candidate_pipeline.testing import run_component
from candidate_pipeline_feed.keys import AUTHOR_ID, CREATED_AT, REPOST_AUTHOR_ID, REPOST_OF
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_phoenix.index import PostIndex
from candidate_pipeline_phoenix.models import RankerModel, RetrievalModel
from candidate_pipeline_phoenix.ranker import PhoenixRanker
from candidate_pipeline_phoenix.retrieval import PhoenixRetrieval
from phoenix_recsys.artifact import save_artifact


@pytest.mark.parametrize(("cls", "name"), [(RetrievalModel, "retrieval"), (RankerModel, "ranker")])
def test_a_missing_model_says_how_to_get_one(tiny: Any, tmp_path: Path, cls: Any, name: str) -> None:
    """Without a trained model the error names the directory and the command that trains one."""
    data = FeedTables.of(tiny.tables(), tmp_path / "films")
    with pytest.raises(DataError) as caught:
        cls(data).open()
    message = str(caught.value)
    assert str(tmp_path / "films" / "models" / name) in message
    assert f"candidate-pipeline phoenix train --data {tmp_path / 'films'}" in message


def test_a_path_that_is_no_directory(tiny: Any, tmp_path: Path) -> None:
    """A file where a directory is wanted is named as what it is."""
    (tmp_path / "model").write_text("x")
    with pytest.raises(DataError, match="something that is no directory"):
        RankerModel(tiny.data, tmp_path / "model").open()


def damage_params(directory: Path) -> None:
    """Cut the parameters short."""
    file = directory / "model_params.npz"
    file.write_bytes(file.read_bytes()[:200])


def damage_config(directory: Path) -> None:
    """Break the JSON."""
    (directory / "config.json").write_text("{ nonsense")


def mix_versions(directory: Path) -> None:
    """Change the tables after the configuration was written."""
    config = json.loads((directory / "config.json").read_text())
    config["content_sha256"] = "0" * 64
    (directory / "config.json").write_text(json.dumps(config))


def lose_tables(directory: Path) -> None:
    """Delete the tables."""
    (directory / "embedding_tables.npz").unlink()


@pytest.mark.parametrize("damage", [damage_params, damage_config, mix_versions, lose_tables])
def test_a_damaged_model_is_refused(tiny: Any, tmp_path: Path, damage: Any) -> None:
    """A damaged file is named, and the message says how to train a new model."""
    shutil.copytree(tiny.data.models / "ranker", tmp_path / "ranker")
    damage(tmp_path / "ranker")
    with pytest.raises(DataError) as caught:
        RankerModel(tiny.data, tmp_path / "ranker").open()
    assert str(tmp_path / "ranker") in str(caught.value)
    assert "candidate-pipeline phoenix train --data" in str(caught.value)


def test_the_wrong_model_is_refused(tiny: Any) -> None:
    """A retrieval model in the ranker's place is refused."""
    with pytest.raises(DataError, match="wanted a ranker model, found a retrieval model"):
        RankerModel(tiny.data, tiny.data.models / "retrieval").open()


def test_a_model_without_feed_actions_is_refused(tiny: Any, tmp_path: Path) -> None:
    """A ranker none of whose heads the feed knows is refused when it is opened, with the names it has."""
    save_artifact(tmp_path / "ranker", tiny.artifact("ranker", ("one", "two")))
    with pytest.raises(DataError, match=r"knows none of the actions .*one, two"):
        RankerModel(tiny.data, tmp_path / "ranker").open()


def test_vectors_that_are_not_finite_are_refused(tiny: Any) -> None:
    """An item tower that gives NaN is refused when the index is built, with the first post at fault."""

    class Broken:
        def encode_items(self, ids: Any, authors: Any) -> Any:
            vectors = np.zeros((len(ids), 4), np.float32)
            vectors[2] = np.nan
            return vectors

    model = RetrievalModel(tiny.data)
    model._served = Broken()
    with pytest.raises(DataError, match=r"1 of 38 posts vectors that are not finite, the first is post 36"):
        PostIndex(tiny.data, model).open()


def test_closed_resources_say_so(tiny: Any) -> None:
    """Using a resource before it is open is a misconfiguration."""
    for use in (
        lambda: RetrievalModel(tiny.data).served,
        lambda: RankerModel(tiny.data).served,
        lambda: RankerModel(tiny.data).heads,
        lambda: len(PostIndex(tiny.data, tiny.retrieval)),
    ):
        with pytest.raises(MisconfigurationError, match="not open"):
            use()


def test_nothing_compiles_while_serving(tiny: Any, candidates_of: Any) -> None:
    """Requests with histories and candidate lists of all sizes use programs compiled when the models were opened."""
    retrieval, ranker = tiny.retrieval.served, tiny.ranker.served
    before = retrieval.compilations, ranker.stats().compilations
    scorer, source = PhoenixRanker(tiny.ranker), PhoenixRetrieval(tiny.index)
    for length, rows in [(0, 0), (1, 1), (3, 31), (8, 32), (20, 33), (200, 300)]:
        query = tiny.query([1 + item % 38 for item in range(length)])
        assert len(run_component(scorer, query, candidates_of(range(1, rows + 1))).updates) == 1
        run_component(source, query)
    assert (retrieval.compilations, ranker.stats().compilations) == before


def test_resources_are_found_by_their_class(tiny: Any) -> None:
    """The options of the components are resource classes, so a spec need not name the only one of each."""
    from candidate_pipeline.options import is_resource_type, options_of

    assert is_resource_type(options_of(PhoenixRetrieval)["index"].type)
    assert is_resource_type(options_of(PhoenixRanker)["model"].type)
    assert {name for name, option in options_of(PostIndex).items() if option.required} == {"data", "model"}
    assert options_of(RankerModel)["path"].default is None


def test_component_modules_are_light() -> None:
    """Importing the plugin imports no numpy, and its components and command neither JAX, FAISS nor pyarrow."""
    code = (
        "import sys, candidate_pipeline_phoenix.plugin as p; found = p.candidate_pipeline_plugin(); "
        "assert 'numpy' not in sys.modules; import importlib; "
        "[importlib.import_module(t.split(':')[0]) for kind in found.components.values() for t in kind.values()]; "
        "importlib.import_module(found.keys); "
        "[importlib.import_module(c.target.split(':')[0]) for c in found.commands.values()]; "
        "print([name for name in ('jax', 'faiss', 'pyarrow', 'haiku') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_read_columns_exist(tiny: Any) -> None:
    """The ranker declares every column that it needs to find a repost's original."""
    assert {AUTHOR_ID, CREATED_AT, REPOST_OF, REPOST_AUTHOR_ID} <= set(PhoenixRanker(tiny.ranker).reads)
    assert attrs.has(PhoenixRanker)
