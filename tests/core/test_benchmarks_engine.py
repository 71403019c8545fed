"""The engine's benchmark runs, compares what it says it compares, and writes its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "engine.py"


def benchmark(*options: str) -> str:
    """What the benchmark prints."""
    environment = {**os.environ, "COLUMNS": "160"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """A quick run: what it printed and what it wrote."""
    written = tmp_path_factory.mktemp("benchmark") / "figures.json"
    printed = benchmark("--quick", "--repeats", "2", "--json", str(written))
    return printed, json.loads(written.read_text(encoding="utf-8"))


def test_the_quick_run_prints_its_tables(quick: tuple[str, dict[str, Any]]) -> None:
    """Configuration, the comparison of the three ways, and the engine's own costs beside their goals."""
    printed, _ = quick
    for header in ("python", "numpy", "cpus", "components 40", "columns 54"):
        assert header in printed
    for header in ("candidates", "engine", "objects", "engine/numpy", "engine/objects"):
        assert header in printed
    for cost in ("one more sync hydrator", "one more async hydrator", "a request of 40 components", "14 filters"):
        assert cost in printed
    assert "goal below" in printed
    for observer in (
        "times unwatched",
        "nothing",
        "log line",
        "Prometheus",
        "OpenTelemetry",
        "capture of every request",
    ):
        assert observer in printed


def test_the_figures_are_written(quick: tuple[str, dict[str, Any]]) -> None:
    """The file holds every single time of every way, and the costs that the table shows."""
    _, figures = quick
    assert figures["configuration"]["repeats"] == 2
    assert {name: len(times) for name, times in figures["requests_us"]["100"].items()} == {
        "engine": 2,
        "numpy": 2,
        "objects": 2,
    }
    assert all(time > 0 for times in figures["overhead_us"].values() for time in times)
    assert len(figures["costs_us"]) == 11
    assert {name: len(times) for name, times in figures["watched_us"].items()}["OpenTelemetry"] == 2


def test_the_profile_names_functions() -> None:
    """`--profile` lists where the time goes instead of measuring."""
    printed = benchmark("--quick", "--profile")
    assert "tottime" in printed
    assert "candidates.py" in printed
