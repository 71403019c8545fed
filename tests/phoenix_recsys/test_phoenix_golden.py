"""The golden checker: it passes the published fixtures, and notices what it should."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phoenix_recsys.golden.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / ".." / "shared" / "golden"

SMALL = (
    "may_ranker_tiny.npz",
    "may_ranker_tiny_gqa.npz",
    "jan_ranker_tiny.npz",
    "jan_ranker_tiny_gqa.npz",
    "may_retrieval_tiny.npz",
    "may_retrieval_tiny_gqa.npz",
    "units.npz",
    "init_tiny.npz",
    "pipeline_tiny",
)


@pytest.mark.parametrize("name", SMALL)
def test_small_fixtures_pass(name: str, fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every fixture computed by the published implementation is reproduced within tolerance."""
    status = main([str(fixtures / name)])
    out = capsys.readouterr().out
    assert status == 0, out
    assert "ok" in out
    assert "FAIL" not in out


@pytest.mark.parametrize("name", ["may_ranker_mini.npz", "may_retrieval_mini.npz"])
def test_mini_fixtures_pass(name: str) -> None:
    """The larger fixtures pass too, where the checkout has them."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not in this checkout")
    assert main([str(path)]) == 0


def _changed(source: Path, target: Path, **changes: np.ndarray) -> None:
    with np.load(source, allow_pickle=False) as archive:
        arrays = dict(archive)
    merged: dict[str, Any] = arrays | changes
    np.savez(target, **merged)


def test_a_wrong_weight_is_noticed(fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A parameter off by a thousandth makes the check fail with status 1 and name the outputs."""
    source = fixtures / "jan_ranker_tiny.npz"
    name = "params/transformer/decoder_layer_1/linear/w"
    with np.load(source, allow_pickle=False) as archive:
        weights = archive[name] * 1.001
    _changed(source, tmp_path / "off.npz", **{name: weights})
    assert main([str(tmp_path / "off.npz")]) == 1
    assert "FAIL f32/base       logits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "group", "entry"),
    [
        ("units.npz", "rope/", "rope/out_f32_sequential"),
        ("init_tiny.npz", "jan/retrieval/", "jan/retrieval/params/phoenix_retrieval_model/proj_mat_1"),
    ],
)
def test_a_wrong_expectation_is_noticed(name: str, group: str, entry: str, fixtures: Path, tmp_path: Path) -> None:
    """A changed expected value in a file of functions or of initial parameters gives status 1."""
    with np.load(fixtures / name, allow_pickle=False) as archive:
        arrays: dict[str, Any] = {key: archive[key] for key in archive if key.startswith(group)}
    np.savez(tmp_path / "good.npz", **arrays)
    np.savez(tmp_path / "off.npz", **(arrays | {entry: arrays[entry] + 0.01}))
    assert [main([str(tmp_path / file)]) for file in ("good.npz", "off.npz")] == [0, 1]


def test_unusable_files_give_status_2(fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing, truncated, foreign and incomplete files are told apart, each with its path, and end in status 2."""
    whole = (fixtures / "units.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path / "foreign.npz", weights=np.zeros(3))
    incomplete: dict[str, Any] = {"meta/config_json": np.array('{"model": "ranker"}')}
    np.savez(tmp_path / "incomplete.npz", **incomplete)
    np.savez(tmp_path / "pickled.npz", things=np.array([{"a": 1}], dtype=object))
    (tmp_path / "empty").mkdir()
    expected = {
        "missing.npz": "no such file",
        "cut.npz": "cannot be read",
        "foreign.npz": "wanted a fixture",
        "incomplete.npz": "wanted an entry",
        "pickled.npz": "pickled Python objects",
        "empty": "retrieval/ and ranker/",
    }
    for name, message in expected.items():
        assert main([str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert name in error


def test_wrong_shapes_in_a_fixture_give_status_2(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parameters that do not fit the sizes in the file are an unusable file, not a failed comparison."""
    entry = "params/phoenix_model/proj_mat_1"
    _changed(fixtures / "jan_ranker_tiny.npz", tmp_path / "bent.npz", **{entry: np.zeros((3, 3), np.float32)})
    assert main([str(tmp_path / "bent.npz")]) == 2
    assert "do not fit" in capsys.readouterr().err


def test_a_single_model_directory_is_checked_alone(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory of one model, or of both without expected results, is loaded and run."""
    assert main([str(fixtures / "pipeline_tiny" / "ranker")]) == 0
    shutil.copytree(fixtures / "pipeline_tiny", tmp_path / "pair")
    (tmp_path / "pair" / "expected.npz").unlink()
    assert main([str(tmp_path / "pair")]) == 0
    assert "loads and runs" in capsys.readouterr().out


def test_module_runs_as_a_command(fixtures: Path, tmp_path: Path) -> None:
    """``python -m phoenix_recsys.golden`` checks the good file, reports the bad one, and exits 2."""
    good, bad = fixtures / "may_retrieval_tiny.npz", tmp_path / "absent.npz"
    command = [sys.executable, "-m", "phoenix_recsys.golden", str(good), str(bad)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "user_representation" in done.stdout
    assert "absent.npz" in done.stderr
    assert "Traceback" not in done.stderr
