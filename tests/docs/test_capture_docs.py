"""The examples of `docs/insight.md` about captures and replays run, and it lists the options there are."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest

from candidate_pipeline.cli.replay import replay as replay_command
from candidate_pipeline.what_if.capture import Capture, Captures
from candidate_pipeline.what_if.ranking import Ranking
from candidate_pipeline.what_if.replay import Replayed

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "insight.md").read_text(encoding="utf-8").partition("## Capture and replay")[2]


def _block(name: str) -> str:
    match = re.search(rf"<!-- checked: {name} -->\n```\w+\n(.*?)```", TEXT, re.DOTALL)
    assert match is not None
    return match[1]


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A request of the shipped pipeline is captured, listed, and replayed with a weight that changes its ranking."""
    shutil.copy(ROOT / "pipelines.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(_block("capture"), {})  # noqa: S102 - the document's own code
    assert "why for_you" in capsys.readouterr().out
    found: dict[str, Any] = {}
    exec(_block("replay"), found)  # noqa: S102 - the document's own code
    capture, outcome = found["capture"], found["outcome"]
    assert isinstance(capture, Capture)
    assert isinstance(outcome, Replayed)
    assert not Ranking.of(outcome).identical(capture.ranking)


def test_every_option_is_described() -> None:
    """The section names the settings of captures and the options of the command."""
    for field in attrs.fields(Captures):
        assert field.name in TEXT or field.name == "folder"
    for name in ("config", "data", "reuse", "live", "top", "swap", "limit"):
        assert name in inspect.signature(replay_command).parameters
        assert f"--{name}" in TEXT
