"""The golden checker: it passes the published fixtures, and notices what it should."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from phoenix_recsys.artifact import Artifact
from phoenix_recsys.backend import BackendOptions, RankerBackend
from phoenix_recsys.backend_registry import hookimpl, make_backend, manager
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


SERVED = (
    ("jan_ranker_tiny.npz", "eager", "float32"),
    ("jan_ranker_tiny_gqa.npz", "eager", "int8"),
    ("jan_ranker_tiny.npz", "jit", "bfloat16"),
    ("may_ranker_tiny_gqa.npz", "kv_cache", "float32"),
    ("may_ranker_tiny.npz", "kv_cache", "int8"),
    ("pipeline_tiny", "eager", "bfloat16"),
    ("pipeline_tiny", "jit", "int8"),
    ("pipeline_tiny", "kv_cache", "bfloat16"),
    ("pipeline_tiny", "kv_cache", "int8"),
)
"""Every backend, every precision and every kind of file at least once; the command of CI runs them all."""


@pytest.mark.parametrize(("name", "backend", "precision"), SERVED)
def test_backends_serve_what_was_published(
    name: str, backend: str, precision: str, fixtures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A backend in a precision lies within that precision's tolerance of the float32 fixture."""
    status = main([str(fixtures / name), "--backend", backend, "--precision", precision])
    out = capsys.readouterr().out
    assert status == 0, out
    assert f"{name}: {backend} {precision}" in out
    assert "ok" in out


def test_precisions_have_limits_of_their_own(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options may be repeated; each combination is checked, with the limits of its precision."""
    file = str(fixtures / "jan_ranker_tiny.npz")
    arguments = [file, "--backend", "jit", *(f"--precision={each}" for each in ("float32", "bfloat16", "int8"))]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    logits = [line for line in out.splitlines() if " logits " in line]
    assert [line.partition("(≤ ")[2].partition(")")[0] for line in logits] == ["0.0001", "0.6", "1"]
    assert [line.rpartition("(≤ ")[2].partition(")")[0] for line in logits] == ["0.0001", "0.03", "0.08"]
    assert "9 outputs compared, 0 beyond tolerance" in out


def test_what_no_backend_computes_is_named(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Functions, initial parameters and retrieval models are reported as not concerned, and nothing is compared."""
    names = ("units.npz", "init_tiny.npz", "may_retrieval_tiny.npz", "pipeline_tiny/retrieval")
    assert main([*(str(fixtures / name) for name in names), "--backend", "kv_cache"]) == 0
    out = capsys.readouterr().out
    assert out.count("not concerned") == len(names)
    assert "0 outputs compared, 0 beyond tolerance" in out


def test_a_wrong_weight_is_noticed_in_a_backend(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a backend, too, a parameter off by a thousandth makes the check fail with status 1."""
    name = "params/transformer/decoder_layer_1/linear/w"
    with np.load(fixtures / "jan_ranker_tiny.npz", allow_pickle=False) as archive:
        weights = archive[name] * 1.001
    _changed(fixtures / "jan_ranker_tiny.npz", tmp_path / "off.npz", **{name: weights})
    assert main([str(tmp_path / "off.npz"), "--backend", "jit"]) == 1
    assert "FAIL base           logits" in capsys.readouterr().out


@attrs.frozen
class ThirdParty:
    """A distribution with two backends: one like ``jit``, one whose probabilities are off."""

    @hookimpl
    def phoenix_ranker_backends(self) -> dict[str, Any]:
        """Both."""
        return {"theirs": self.right, "theirs_wrong": self.wrong}

    @staticmethod
    def right(artifact: Artifact, options: BackendOptions) -> RankerBackend:
        """The library's own under another name, without int8."""
        if options.precision == "int8":
            raise ValueError("there are no int8 kernels here")
        return make_backend("jit", artifact, options)

    @staticmethod
    def wrong(artifact: Artifact, options: BackendOptions) -> RankerBackend:
        """The same with another parameter."""
        params = {module: dict(entries) for module, entries in artifact.params.items()}
        params["phoenix_model"]["unembeddings"] = params["phoenix_model"]["unembeddings"] * 1.01
        return make_backend("jit", attrs.evolve(artifact, params=params), options)


@pytest.fixture
def third_party() -> Iterator[None]:
    """The distribution, installed."""
    plugin = ThirdParty()
    manager().register(plugin)
    yield
    manager().unregister(plugin)


@pytest.mark.usefixtures("third_party")
def test_registered_backends_are_checked_on_artifact_directories(
    fixtures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A third party's backend is served ids; one that computes something else is found out."""
    directory = str(fixtures / "pipeline_tiny")
    assert main([directory, str(fixtures / "jan_ranker_tiny.npz"), "--backend", "theirs"]) == 0
    assert "not applicable: a registered backend is checked on artifact directories" in capsys.readouterr().out
    assert main([directory, "--backend", "theirs_wrong"]) == 1
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.usefixtures("third_party")
def test_a_backend_that_refuses_gives_status_2(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options that a backend refuses are reported with its reason, and other combinations are still checked."""
    options = ["--backend", "theirs", "--precision", "int8", "--precision", "float32"]
    assert main([str(fixtures / "pipeline_tiny"), *options]) == 2
    told = capsys.readouterr()
    assert "refuses int8: there are no int8 kernels here" in told.err
    assert "0 beyond tolerance" in told.out
    assert "ok" in told.out


def test_a_directory_without_expectations_is_served(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a single ranker, or of a pair without expected results, a backend must at least serve finite numbers."""
    assert main([str(fixtures / "pipeline_tiny" / "ranker"), "--backend", "jit"]) == 0
    assert "loads and runs" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), "--backend", "jit"]) == 2
    assert "retrieval/ and ranker/" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "kv_cash"], "Did you mean 'kv_cache'?"),
        (["--backend", "jit", "--precision", "float8"], "float8"),
        (["--precision", "int8"], "--backend"),
    ],
)
def test_wrong_options_are_refused(
    options: list[str], message: str, fixtures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown backend, an unknown precision, and a precision without a backend end in status 2 before any check."""
    with pytest.raises(SystemExit) as stopped:
        main([str(fixtures / "jan_ranker_tiny.npz"), *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
