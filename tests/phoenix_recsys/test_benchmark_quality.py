"""The quality benchmark measures what it says, and its quick run prints its tables."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidate_pipeline_feed.evaluation.bootstrap import Bootstrap

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SCORES = st.lists(st.integers(-4, 4), min_size=1, max_size=30)
PAIRED = st.integers(1, 30).flatmap(
    lambda size: st.tuples(*(st.lists(st.integers(-4, 4), min_size=size, max_size=size) for _ in range(2)))
)


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


metrics: Any = _module("quality_metrics")


def _tau_by_pairs(first: list[int], second: list[int]) -> float:
    pairs = list(combinations(range(len(first)), 2))
    signs = [(np.sign(first[i] - first[j]), np.sign(second[i] - second[j])) for i, j in pairs]
    agreement = sum(int(a * b) for a, b in signs)
    distinct = [sum(bool(sign[which]) for sign in signs) for which in (0, 1)]
    return agreement / math.sqrt(distinct[0] * distinct[1]) if all(distinct) else math.nan


@given(PAIRED)
def test_kendalls_tau_counts_pairs(scores: tuple[list[int], list[int]]) -> None:
    """Tau-b equals its definition over all pairs, ties and constant scores included."""
    found, wanted = metrics.kendall_tau(*map(np.array, scores)), _tau_by_pairs(*scores)
    assert (math.isnan(found) and math.isnan(wanted)) or found == pytest.approx(wanted, abs=1e-12)


def test_kendalls_tau_of_known_orders() -> None:
    """An order against itself gives 1, against its reverse −1, and one swapped neighbour in n costs 4 / (n (n − 1))."""
    scores = np.arange(1500.0)
    swapped = scores.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    assert metrics.kendall_tau(scores, scores) == 1.0
    assert metrics.kendall_tau(scores, -scores) == -1.0
    assert metrics.kendall_tau(scores, swapped) == pytest.approx(1 - 4 / (1500 * 1499), abs=1e-15)


@given(st.permutations(range(9)), st.integers(1, 12))
def test_overlap_counts_common_rows(order: list[int], count: int) -> None:
    """Overlap is the share of the first rows of one order that are among the first of the other."""
    size = min(count, 9)
    wanted = sum(row in order[:size] for row in range(size)) / size
    assert metrics.top_overlap(np.arange(9), np.array(order), count) == pytest.approx(wanted)


@given(SCORES, st.data())
def test_worth_is_that_of_one_target(scores: list[int], data: st.DataObject) -> None:
    """AUC is the share of other rows beaten, a tie half; NDCG@10 is 1 / log2(1 + rank) down to rank 10."""
    target = data.draw(st.integers(0, len(scores) - 1))
    others = [score for at, score in enumerate(scores) if at != target]
    beaten = sum((score < scores[target]) + 0.5 * (score == scores[target]) for score in others)
    rank = 1 + len(others) - beaten
    ndcg, auc = metrics.worth(np.array(scores, np.float64), target)
    assert auc == pytest.approx(beaten / max(len(others), 1))
    assert ndcg == pytest.approx(1 / math.log2(1 + rank) if rank <= 10 else 0.0)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=50))
def test_intervals_hold_the_mean(values: list[float]) -> None:
    """The bootstrap interval of distinct requests lies within the values and, but for skew, around their mean."""
    interval = Bootstrap(np.arange(len(values))).interval(np.array(values))
    spread = max(values) - min(values)
    assert interval.mean == pytest.approx(np.mean(values))
    assert min(values) - 1e-12 <= interval.low <= interval.high <= max(values) + 1e-12
    assert interval.low - 1e-12 <= interval.mean + 0.05 * spread
    assert interval.high + 1e-12 >= interval.mean - 0.05 * spread


def test_intervals_cover_the_truth() -> None:
    """Of 95 % intervals over samples of a known mean, about 95 in 100 hold it."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(100):
        interval = Bootstrap(np.arange(200), draws=400).interval(rng.exponential(1.0, 200))
        inside += interval.low <= 1.0 <= interval.high
    assert 88 <= inside <= 100


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """A quick run: what it printed and what it wrote."""
    written = tmp_path_factory.mktemp("quality") / "figures.json"
    command = [sys.executable, str(BENCHMARKS / "ranker_quality.py"), "--quick", "--json", str(written)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(written.read_text(encoding="utf-8"))


def test_the_quick_run_prints_its_tables(quick: tuple[str, dict[str, Any]]) -> None:
    """Configuration, what was measured on, the table with both controls, and the goals."""
    printed, _ = quick
    for part in ("jax", "seed 0", "requests of", "top-3 overlap", "Kendall τ-b", "change in NDCG@10", "in AUC"):
        assert part in printed
    for row in ("| float32, kv_cache |", "| int8, kv_cache |", "| random order |"):
        assert row in printed
    assert "met: int8, kv_cache" in printed


def test_the_controls_hold(quick: tuple[str, dict[str, Any]]) -> None:
    """Both float32 programs rank alike; a random order does not; every request is of another person."""
    _, written = quick
    overlap, tau = (written["measures"].index(name) for name in ("overlap", "tau"))
    (figures,) = written["figures"].values()
    assert len(set(figures["users"])) == len(figures["users"]) == 4
    same = np.array(figures["values"]["float32, kv_cache"])
    assert same[:, overlap].min() == 1.0
    assert same[:, tau].min() > 0.99
    assert np.array(figures["values"]["random order"])[:, tau].max() < 0.9
