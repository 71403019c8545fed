"""The example of `docs/insight.md` about differences and swaps runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from candidate_pipeline.what_if.diff import Diff

ROOT = Path(__file__).resolve().parents[2]


def test_the_diff_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It finds an override that swaps the first two items of the shipped pipeline, and prints what moved with it."""
    text = (ROOT / "docs" / "insight.md").read_text(encoding="utf-8")
    match = re.search(r"<!-- checked: diff -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert match is not None
    shutil.copy(ROOT / "pipelines.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(match[1], found)  # noqa: S102 - the document's own code
    difference = found["found"]
    assert isinstance(difference, Diff)
    assert any(change.before.rank == 1 for change in difference.changes)
    printed = capsys.readouterr().out
    assert " -> " in printed.splitlines()[0]
    assert len(printed.splitlines()) == 1 + len(difference.changes)
