"""The command `phoenix train`."""

from __future__ import annotations

import json
import shutil
import types
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import typer

from candidate_pipeline.errors import DataError
from candidate_pipeline.testing import run_component
from candidate_pipeline_feed.datadir import DataDirectory, DatasetInfo, bundled_world
from candidate_pipeline_feed.evaluation.provenance import require_trained_on, trained_split
from candidate_pipeline_feed.evaluation.splits import make_split
from candidate_pipeline_feed.keys import PREDICTIONS
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_phoenix import train_command
from candidate_pipeline_phoenix.index import PostIndex
from candidate_pipeline_phoenix.interactions import training_interactions
from candidate_pipeline_phoenix.models import RankerModel, RetrievalModel
from candidate_pipeline_phoenix.ranker import PhoenixRanker
from candidate_pipeline_phoenix.retrieval import PhoenixRetrieval
from phoenix_recsys.training import ModelRecipe, RankerRecipe, Recipe, RetrievalRecipe, TrainingError
from phoenix_recsys.training import TrainingInterrupted as Interrupted

SMALL = Recipe(
    name="small",
    model=ModelRecipe(emb_size=8, num_layers=1, num_heads=1, key_size=4, history_len=6),
    retrieval=RetrievalRecipe(epochs=2, batch_size=4, stride=4, uniform_negatives=8),
    ranker=RankerRecipe(epochs=2, batch_size=4, stride=4, targets_per_window=2, negatives=3),
)


REAL_RECIPE_FOR = train_command.recipe_for


@pytest.fixture(scope="module")
def small(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory on disk, without models."""
    directory: Path = tmp_path_factory.mktemp("small") / "data"
    directory.mkdir()
    DataDirectory(directory).write(tiny.tables(), DatasetInfo("small data"))
    return directory


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every preset is a small one."""
    monkeypatch.setattr(train_command, "recipe_for", lambda data, preset, epochs, seed: attrs.evolve(SMALL, seed=seed))


@pytest.fixture(scope="module")
def trained(small: Path) -> Path:
    """The data directory after training with the shared split."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_command, "recipe_for", lambda *_: SMALL)
        train_command.train(data=small)
    return small


def test_trained_models_serve(tiny: Any, trained: Path, candidates_of: Any) -> None:
    """What the command writes loads, retrieves and predicts the actions that happened."""
    data = FeedTables(trained)
    data.open()
    retrieval, ranker = RetrievalModel(data), RankerModel(data)
    retrieval.open()
    ranker.open()
    index = PostIndex(data, retrieval)
    index.open()
    assert len(run_component(PhoenixRetrieval(index, max_results=10), tiny.query())) == 10
    table = candidates_of([7, 8, tiny.repost])
    found = table.patched(run_component(PhoenixRanker(ranker), tiny.query(), table))
    assert found.labels(PREDICTIONS) == ("favorite", "reply", "dwell")
    assert np.isfinite(found[PREDICTIONS]).all()
    assert retrieval.temperature > 0


def test_the_split_is_recorded(trained: Path) -> None:
    """`training.json` names the split, so that evaluation can tell what the models have seen."""
    data = FeedTables(trained)
    data.open()
    info = make_split(data.events).info
    assert trained_split(trained / "models") == info
    assert require_trained_on(trained / "models", info) == info
    record = json.loads((trained / "models" / "training.json").read_text())
    assert record["dataset"] == "small data"
    assert record["recipe"]["name"] == "small"
    assert record["data"]["events"] < info.training_events + 1
    with pytest.raises(DataError, match="trained on another split"):
        require_trained_on(trained / "models", make_split(data.events, "time").info)


def test_training_again_gives_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    """The same data, settings and seed give the same files, the record included, and leave nothing else behind."""

    def files(models: Path) -> dict[str, bytes]:
        return {str(file.relative_to(models)): file.read_bytes() for file in models.rglob("*") if file.is_file()}

    train_command.train(data=trained, out=tmp_path / "again")
    assert files(tmp_path / "again") == files(trained / "models")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["again"]


def test_the_bundled_world_is_not_written_to() -> None:
    """Without --data and --out nothing is written: the bundled world belongs to the installed package."""
    before = sorted(bundled_world().rglob("*"))
    for given in (None, bundled_world()):
        with pytest.raises(DataError, match=r"--data DIR .*or --out DIR"):
            train_command.train(data=given)
    assert sorted(bundled_world().rglob("*")) == before


def test_a_directory_with_other_things_is_not_replaced(small: Path, tmp_path: Path) -> None:
    """A destination that holds anything but models, or is a file, is refused and stays as it is."""
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(DataError, match=r"holds thesis\.txt"):
        train_command.train(data=small, out=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "three years of work"
    with pytest.raises(DataError, match="found something else"):
        train_command.train(data=small, out=tmp_path / "thesis.txt")


def test_bad_input_says_what_is_wrong(small: Path, tmp_path: Path) -> None:
    """An unknown split, and a directory without tables, are refused with what there is."""
    with pytest.raises(DataError, match="leave-last-out, time"):
        train_command.train(data=small, split="monthly")
    with pytest.raises(DataError, match=str(tmp_path)):
        train_command.train(data=tmp_path)


def test_unknown_presets_are_named(small: Path) -> None:
    """A preset that does not exist is refused with those that do; epochs and seed replace the preset's."""
    data = FeedTables(small)
    data.open()
    with pytest.raises(DataError, match=r"no 'huge'; there are auto, ml-100k"):
        REAL_RECIPE_FOR(data, "huge", None, 0)
    recipe = REAL_RECIPE_FOR(data, "auto", 3, 7)
    assert (recipe.seed, recipe.retrieval.epochs, recipe.ranker.epochs) == (7, 3, 3)


def test_interrupted_training_leaves_the_old_models(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends with code 130 and how to go on; the models that were there stay."""
    before = (trained / "models" / "training.json").read_bytes()

    def stop(*_: Any, **__: Any) -> None:
        raise Interrupted("ranker: stopped after step 3 of 9")

    monkeypatch.setattr("phoenix_recsys.training.train_phoenix", stop)
    with pytest.raises(typer.Exit) as caught:
        train_command.train(data=trained, seed=4)
    assert caught.value.exit_code == 130
    assert "stopped after step 3 of 9" in capsys.readouterr().err
    assert (trained / "models" / "training.json").read_bytes() == before


def test_a_failure_of_the_trainer_is_told(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the trainer says is passed on as a data error, and the old models stay."""

    def fail(*_: Any, **__: Any) -> None:
        raise TrainingError("the loss became nan")

    monkeypatch.setattr("phoenix_recsys.training.train_phoenix", fail)
    with pytest.raises(DataError, match="the loss became nan"):
        train_command.train(data=trained, seed=4)
    assert (trained / "models" / "ranker").is_dir()


def test_models_come_back_when_the_swap_fails(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If the finished directory cannot be put in place, the old one is there again."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "training.json").write_text("old")
    with pytest.raises(FileNotFoundError):
        train_command._place(tmp_path / "missing", models)
    assert (models / "training.json").read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["models"]


def test_training_on_everything_is_marked(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--split none` gives the trainer every event, says so, and evaluation refuses the models."""
    seen: list[int] = []

    def note(interactions: Any, out: Path, recipe: Recipe, **how: Any) -> Any:
        seen.append(len(interactions))
        shutil.copytree(trained / "models", out)
        stage = {"losses": [2.0, 1.0], "seconds": 0.5}
        return types.SimpleNamespace(record={"retrieval": stage, "ranker": stage, "served_heads": ["favorite"]})

    monkeypatch.setattr("phoenix_recsys.training.train_phoenix", note)
    train_command.train(data=trained, out=tmp_path / "all", split="none")
    data = FeedTables(trained)
    data.open()
    assert seen == [len(training_interactions(data))]
    assert "nothing is held out" in capsys.readouterr().err
    assert "seconds" not in json.loads((tmp_path / "all" / "training.json").read_text())["ranker"]
    with pytest.raises(DataError, match="learnt everything"):
        trained_split(tmp_path / "all")
