"""The `graph` command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from candidate_pipeline import MisconfigurationError
from candidate_pipeline.cli import BUILTIN
from candidate_pipeline.cli.commands import build_group


@pytest.fixture
def command(shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `graph` over the shop's spec and returns what it prints."""
    document = tmp_path / "shop.toml"
    document.write_text(shop.spec)
    monkeypatch.setattr("candidate_pipeline.cli.graph.installed", lambda: shop.registry)
    monkeypatch.setenv("COLUMNS", "100")

    def command(*arguments: str) -> str:
        words = ["graph", "--config", str(document), *arguments]
        build_group("candidate-pipeline", dict(BUILTIN)).main(words, standalone_mode=False)
        return capsys.readouterr().out

    return command


def test_the_only_pipeline_is_drawn_as_a_tree(command: Any) -> None:
    """Without a name and a format, the command draws the only pipeline as a tree."""
    text = command()
    assert text.startswith("shop")
    assert "shop.shelf" in text
    assert "uses" not in text
    assert "uses store" in command("--resources")


@pytest.mark.parametrize(
    ("form", "start"), [("mermaid", "flowchart TB\n"), ("dot", 'digraph "shop" {\n'), ("json", "{\n")]
)
def test_every_format_is_printed_or_written(command: Any, tmp_path: Path, form: str, start: str) -> None:
    """A format can be asked for, or is known by the ending of the file to write; the text is the same."""
    text = command("shop", "--format", form, "--columns")
    assert text.startswith(start)
    file = tmp_path / f"out.{'mmd' if form == 'mermaid' else form}"
    command("shop", "--output", str(file), "--columns")
    assert file.read_text(encoding="utf-8") == text


def test_a_tree_can_be_written(command: Any, tmp_path: Path) -> None:
    """Any other ending means a tree."""
    command("--output", str(tmp_path / "tree.txt"))
    assert (tmp_path / "tree.txt").read_text(encoding="utf-8").startswith("shop · deadline 5s\n├── request")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shup"], "no pipeline named 'shup': did you mean 'shop'?"),
        (["--output", "/nowhere/at/all.dot"], r"cannot write /nowhere/at/all.dot: No such file or directory"),
    ],
)
def test_mistakes_are_named(command: Any, arguments: list[str], message: str) -> None:
    """A pipeline that there is not, or a file that cannot be written, is told."""
    with pytest.raises(MisconfigurationError, match=re.escape(message)):
        command(*arguments)


def test_one_of_several_must_be_named(command: Any, shop: Any, tmp_path: Path) -> None:
    """Where a spec has several pipelines, the command says which there are."""
    other = (
        '\n[pipelines.other]\nsources = ["shop.shelf"]\nselector = "shop.first"\ninputs = { buyer = "shop.buyer" }\n'
    )
    (tmp_path / "shop.toml").write_text(shop.spec + other)
    with pytest.raises(MisconfigurationError, match=r"which pipeline\? It has shop, other"):
        command()
