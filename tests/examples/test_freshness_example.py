"""The example plugin, installed as a third party's would be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "freshness"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has the example installed, built and unpacked for real."""
    target = tmp_path_factory.mktemp("freshness")
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on the path")
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", str(target)]
    done = subprocess.run([*command, str(EXAMPLE)], capture_output=True, text=True, check=False)
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip(f"the build backend cannot be had here: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    return {**os.environ, "PYTHONPATH": str(target)}


def program(*arguments: str, env: dict[str, str]) -> Any:
    """The JSON that `candidate-pipeline ARGUMENTS --format json` prints."""
    command = [sys.executable, "-c", "from candidate_pipeline.cli import main; main()", *arguments, "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_source_is_under_40_lines() -> None:
    """A whole third-party plugin fits in 40 lines."""
    assert len((EXAMPLE / "src" / "freshness.py").read_text(encoding="utf-8").splitlines()) < 40


def test_an_installed_plugin_is_listed_with_its_options(installed: dict[str, str]) -> None:
    """`components` shows the installed scorer, its distribution and its option."""
    (component,) = program("components", "freshness.decay", env=installed)["components"]
    assert component["kind"] == "scorer"
    assert component["distribution"] == "candidate-pipeline-freshness 0.1.0"
    assert [option["name"] for option in component["options"]] == ["half_life"]


def test_an_installed_plugin_changes_the_ranking(installed: dict[str, str], tmp_path: Path) -> None:
    """Named in TOML, the scorer moves newer posts up, and `explain` shows its factor."""
    spec = (ROOT / "pipelines.toml").read_text(encoding="utf-8")
    spec = spec.replace('"out_of_network"]', '"out_of_network", "fresh"]')
    spec += '\n[components.fresh]\nuse = "freshness.decay"\nhalf_life = "20m"\n'
    config = tmp_path / "pipelines.toml"
    config.write_text(spec, encoding="utf-8")
    plain = program("run", "for_you", env=installed)
    before = [item["item_id"] for item in plain["items"]]
    fresh = program("run", "for_you", "--config", str(config), "--explain", str(before[0]), env=installed)
    assert [item["item_id"] for item in fresh["items"]] != before
    terms = {part["column"]: part for part in fresh["explanations"][0]["terms"]}
    assert terms["freshness.factor"]["scorer"] == "fresh"
    assert 0 < terms["freshness.factor"]["values"]["factor"] <= 1


def test_the_examples_own_tests_pass(installed: dict[str, str]) -> None:
    """The example's tests, as its author would run them, pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(EXAMPLE)]
    command += ["-c", os.devnull, str(EXAMPLE / "tests")]
    done = subprocess.run(command, capture_output=True, text=True, env=installed, cwd=EXAMPLE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
