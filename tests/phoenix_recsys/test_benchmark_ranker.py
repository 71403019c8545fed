"""The ranker's benchmark runs without other libraries, checks before it times, and prints every table."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "ranker.py"


def benchmark(*options: str) -> subprocess.CompletedProcess[str]:
    """A run of the benchmark in a process of its own."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options], check=False, capture_output=True, text=True, timeout=180
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """A quick run: what it printed and what it wrote."""
    written = tmp_path_factory.mktemp("ranker") / "times.json"
    done = benchmark("--quick", "--json", str(written))
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(written.read_text(encoding="utf-8"))


def rows_below(printed: str, header: str) -> list[list[str]]:
    """The cells of the first table below a line that has these words."""
    lines = printed.splitlines()
    start = next(number for number, line in enumerate(lines) if header in line)
    first = next(number for number in range(start, len(lines)) if lines[number].startswith("|"))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_every_table_has_its_rows(quick: tuple[str, dict[str, Any]]) -> None:
    """Configuration, goals, rates, times, errors and speeds, viewers and load; rows are as wide as their head."""
    printed, _ = quick
    for word in (
        "processor",
        "flags",
        "cores",
        "jax",
        "torch",
        "onnxruntime",
        "seed 42",
        "load average",
    ):
        assert word in printed
    tables = {
        "Goals": 1,
        "Products alone": 8,
        "Milliseconds at 32x1/15": 3,
        "error of logits against": 3,
        "with a full history and a third": 2,
        "First and second request": 1,
        "whose history grew": 1,
        "Many viewers at once": 7,
    }
    for header, least in tables.items():
        head, ruler, *rows = rows_below(printed, header)
        assert len(rows) >= least, header
        assert len(ruler) == len(head)
        assert all(len(row) == len(head) for row in rows), header


def test_errors_stand_beside_times(quick: tuple[str, dict[str, Any]]) -> None:
    """Each variant states its error against the published forward, and the forward itself has none."""
    printed, _ = quick
    found = {row[0]: row[2] for row in rows_below(printed, "error of logits against")[2:]}
    assert found["published jitted one shot"] == "0.0e+00 / 0.0e+00"
    mean, largest = map(float, found["kv_cache"].split(" / "))
    assert 0 < mean <= largest < 5e-5


def test_the_baseline_of_the_ratios_is_one(quick: tuple[str, dict[str, Any]]) -> None:
    """Ratios are those of the jitted chunks' time, so that these have 1."""
    printed, _ = quick
    ratios = {row[0]: row[3] for row in rows_below(printed, "error of logits against")[2:]}
    assert ratios["published jitted chunks of 32"] == "1"
    assert float(ratios["kv_cache"]) > 0


def test_every_time_is_written(quick: tuple[str, dict[str, Any]]) -> None:
    """The file holds the seconds of every run; only what prepares viewers has warm ones."""
    _, times = quick
    cells = times["32x1/15"]
    assert all(second > 0 for cell in cells.values() for kind in ("cold", "warm") for second in cell[kind])
    assert cells["kv_cache float32 40"]["cold"]
    assert cells["kv_cache float32 40"]["warm"]
    assert cells["published jitted chunks of 32 float32 40"]["warm"] == []


def test_an_unknown_size_is_named() -> None:
    """A model that does not exist is an error that lists those that do."""
    done = benchmark("--sizes", "1x1/1")
    assert done.returncode != 0
    assert re.search(r"no 1x1/1", done.stderr)
    assert "256x2/127" in done.stderr
