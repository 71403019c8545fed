"""The harness of the experiments, and the benchmark that runs all of them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from claims import Estimate, Result, Row, Settings, run
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "stakeholders.py"


def benchmark(*options: str) -> subprocess.CompletedProcess[str]:
    """What the benchmark does."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        timeout=120,
    )


@pytest.fixture(scope="module")
def suite() -> ModuleType:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("stakeholder_suite", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_experiment_is_among_those_that_run(suite: ModuleType) -> None:
    """Each claim_*.py is in the list, and each name in the list is a file."""
    names = set(suite.NAMES)
    assert {path.stem for path in (ROOT / "examples" / "stakeholders").glob("claim_*.py")} <= names
    assert all((ROOT / "examples" / "stakeholders" / f"{name}.py").is_file() for name in names)


def test_what_is_done_is_kept(tmp_path: Path) -> None:
    """A second run with the same settings reads what the first one kept, and prints the same."""
    keep, figures = tmp_path / "kept", tmp_path / "figures.json"
    options = ("--only", "claim_regret", "--quick", "--keep", str(keep), "--json", str(figures))
    first = benchmark(*options)
    assert first.returncode == 0, first.stderr
    results = json.loads(figures.read_text(encoding="utf-8"))["results"]
    kept = {path.name: path.stat().st_mtime_ns for path in keep.iterdir()}
    second = benchmark(*options)
    assert {path.name: path.stat().st_mtime_ns for path in keep.iterdir()} == kept
    assert json.loads(figures.read_text(encoding="utf-8"))["results"] == results
    assert second.stdout.splitlines()[:-1] == first.stdout.splitlines()[:-1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--only", "claim_nothing"), "claim_nothing"),
        (("--write", "--quick"), "whole run"),
        (("--seeds", "0"), "--seeds"),
    ],
)
def test_mistakes_in_options(options: tuple[str, ...], told: str) -> None:
    """An unknown experiment, a table of a partial run and no seeds are refused before anything runs."""
    done = benchmark(*options)
    assert done.returncode == 2
    assert told in done.stderr


def test_the_page_has_a_line_for_each_claim(suite: ModuleType) -> None:
    """The Markdown page numbers the claims, keeps pipes in cells apart, and puts notes below."""
    rows = [Row("a | b", "1", "2", "3", "holds", "said."), Row("c", "4", "5", "6", "artefact")]
    page = suite.markdown([Result("claim_x", {"seeds": 2}, rows, [("T", ("h",), (("x",),))])], {"python": "3"})
    assert "| 1 | a \\| b | 1 | 2 | 3 | **holds** |" in page
    assert "| 2 | c | 4 | 5 | 6 | **artefact** |" in page
    assert "* 1: said.\n" in page
    assert "* 2:" not in page
    assert "`python examples/stakeholders/claim_x.py`: seeds 2; 0 s." in page


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_an_estimate_holds_its_mean(values: list[float]) -> None:
    """The interval of a mean holds the mean and lies within the values; the same values give the same interval."""
    found = Estimate.of(values)
    slack = 1e-9 * (1 + max(abs(value) for value in values))
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack
    assert found.mean == pytest.approx(np.mean(values), abs=slack)
    assert found == Estimate.of(values)
    assert found.worst == min(values)


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_what_cannot_be_estimated(values: list[float]) -> None:
    """No values and values that are not finite are refused."""
    with pytest.raises(ValueError, match="finite"):
        Estimate.of(values)


def test_a_run_is_timed() -> None:
    """`run` fills in how long an experiment took and passes the settings on."""
    result = run(lambda settings, _: Result("x", {"quick": settings.quick}, ()), Settings(quick=True))
    assert result.config == {"quick": True}
    assert result.seconds > 0
