"""The main job, as a newcomer runs it: the bundled world through the shipped pipeline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from candidate_pipeline import ITEM_ID, App, load
from candidate_pipeline_feed.datadir import bundled_world

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    """The shipped pipelines over the bundled world, opened once."""
    with load(ROOT / "pipelines.toml") as opened:
        yield opened


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    command = [sys.executable, "-c", "from candidate_pipeline.cli import main; main()", *arguments]
    env = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)


def test_run_prints_a_full_readable_feed_and_the_pictures() -> None:
    """`run for_you` prints ranked posts with text and author, the funnel of candidates, and when each component ran."""
    done = run("run", "for_you")
    assert done.returncode == 0, done.stderr
    places = [done.stdout.index(part) for part in ("for_you: viewer", "funnel:", "waterfall:", "reports")]
    assert places == sorted(places)
    assert all(len(line) <= 120 for line in done.stdout.splitlines())
    for name in ("thunder", "retrieval", "feed.blocked_authors", "ranker", "weighted", "diversity", "out_of_network"):
        assert name in done.stdout
    assert "favorite" in done.stdout


def test_run_prints_json() -> None:
    """`run --format json` prints the rows, the trace and nothing else on standard output."""
    done = run("run", "for_you", "--format", "json", "--viewer", "42")
    result = json.loads(done.stdout)
    assert [item["rank"] for item in result["items"]] == list(range(1, len(result["items"]) + 1))
    assert len(result["items"]) == 35
    assert {entry["status"] for entry in result["trace"]} == {"ok"}


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["run", "for_you", "--viewer", "999999999"], "999999999", 1),
        (["run", "for_you", "--viewer", "me"], "wanted int, found 'me'", 1),
        (["run", "for_you", "--veiwer", "42"], "did you mean '--viewer'?", 1),
        (["run", "for_me"], "did you mean 'for_you'?", 2),
        (["run", "for_you", "--config", "nowhere.toml"], "nowhere.toml", 2),
        (["run", "for_you", "--data", "nowhere"], "wanted the file dataset.toml, found no such directory", 2),
        (["run", "for_you", "--set", "components.aeg.max_age=1h"], "the spec has no table [components.aeg]", 2),
    ],
)
def test_mistakes_get_a_message_and_no_traceback(arguments: list[str], message: str, status: int) -> None:
    """A wrong viewer, option, pipeline, file, directory, override or item is named, with what to do."""
    done = run(*arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_feed_is_the_same_twice(app: App) -> None:
    """The same request gives the same rows and the same scores, bit for bit."""
    first, second = app["for_you"].run_sync(seed=3), app["for_you"].run_sync(seed=3)
    assert first.item_ids.tolist() == second.item_ids.tolist()
    assert [item["score"] for item in first.to_dict()["items"]] == [item["score"] for item in second.to_dict()["items"]]


def test_every_candidate_can_be_explained(app: App) -> None:
    """Selected, unselected and dropped posts all say where they came from and what became of them."""
    outcome = app["for_you"].run_sync()
    fates = set()
    for table in (outcome.selected, *outcome.unselected, *outcome.dropped):
        for item_id in table[ITEM_ID][:20]:
            explanation = outcome.explain(int(item_id))
            assert explanation.sources
            fates.add(explanation.fate)
    assert fates == {"selected", "unselected", "dropped"}


def test_an_item_that_nobody_fetched_cannot_be_explained(app: App) -> None:
    """Asking about an item that no source returned says so and names the sources."""
    with pytest.raises(KeyError, match=r"no source returned it \(sources: thunder, retrieval\)"):
        app["for_you"].run_sync().explain(17)


def test_the_bundled_files_stay_small() -> None:
    """World and models together stay under 8 MB, since they ship with the package."""
    assert sum(file.stat().st_size for file in bundled_world().rglob("*") if file.is_file()) < 8_000_000
