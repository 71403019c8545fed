"""The command `phoenix quantize`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.datadir import DataDirectory
from candidate_pipeline_phoenix.models import RetrievalModel
from candidate_pipeline_phoenix.quantize_command import quantize
from candidate_pipeline_phoenix.train_command import _check_destination
from phoenix_recsys import load_artifact, save_artifact
from phoenix_recsys.quantized_tables import QuantizedTables
from phoenix_recsys.quantized_weights import QuantizedMatrix


@pytest.fixture
def directory(tiny: Any, tmp_path: Path) -> Path:
    """A data directory with both models and nothing else."""
    found = DataDirectory(tmp_path / "data")
    save_artifact(found.retrieval_model, tiny.artifact("retrieval"))
    save_artifact(found.ranker_model, tiny.artifact("ranker"))
    return found.path


def test_both_models_of_a_data_directory_are_quantised(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Int8 versions stand beside the models or where --out says, and training may replace them with the models."""
    quantize(data=directory, verify=True)
    quantize(data=directory, out=tmp_path / "out")
    for models in (directory / "models", tmp_path / "out"):
        ranker = load_artifact(models / "ranker-int8", kind="ranker")
        retrieval = load_artifact(models / "retrieval-int8", kind="retrieval")
        assert isinstance(ranker.tables, QuantizedTables)
        assert isinstance(retrieval.tables, QuantizedTables)
        assert isinstance(ranker.params["phoenix_model"]["unembeddings"], QuantizedMatrix)
    said = capsys.readouterr()
    assert f"Wrote {directory / 'models' / 'ranker-int8'}" in said.out
    assert "verified" in said.err
    _check_destination(directory / "models")
    with pytest.raises(DataError, match="--overwrite"):
        quantize(data=directory)
    quantize(data=directory, overwrite=True)


def test_quantised_retrieval_serves(tiny: Any, directory: Path) -> None:
    """The retrieval resource takes the int8 version, keeps its temperature and gives nearly the same vectors."""
    quantize(data=directory)
    model = RetrievalModel(tiny.data, path=directory / "models" / "retrieval-int8")
    model.open()
    ids = np.arange(1, 40, dtype=np.uint64)
    found, wanted = (m.served.encode_items(ids, ids) for m in (model, tiny.retrieval))
    assert (found * wanted).sum(axis=1).min() > 0.999
    assert model.temperature == tiny.retrieval.temperature
    model.close()


def test_one_model_is_quantised_by_its_path(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path given alone is quantised beside itself, the current directory too."""
    source = directory / "models" / "ranker"
    quantize(source)
    quantize(source, tmp_path / "here")
    monkeypatch.chdir(source)
    quantize(Path(), overwrite=True)
    for place in (source.with_name("ranker-int8"), tmp_path / "here"):
        assert load_artifact(place).kind == "ranker"


def test_bad_input_says_what_to_do(directory: Path, tmp_path: Path) -> None:
    """No models, a damaged one, the installed package and two ways at once are told with the remedy."""
    with pytest.raises(DataError, match="Give --data DIR, or --out DIR"):
        quantize()
    with pytest.raises(DataError, match="phoenix train --data"):
        quantize(data=tmp_path)
    with pytest.raises(DataError, match="not both"):
        quantize(tmp_path, data=directory)
    (directory / "models" / "ranker" / "model_params.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"model_params\.npz: wanted a complete \.npz archive"):
        quantize(directory / "models" / "ranker")


def test_an_interrupt_ends_with_its_status(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves no directory and ends with status 130."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("phoenix_recsys.quantize.write_tables_from_npz", interrupted)
    shutil.rmtree(directory / "models" / "retrieval")
    with pytest.raises(typer.Exit) as stopped:
        quantize(data=directory)
    assert stopped.value.exit_code == 130
    assert [entry.name for entry in (directory / "models").iterdir()] == ["ranker"]
