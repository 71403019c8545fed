"""What `docs/configuration.md` shows is what happens."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from candidate_pipeline import load
from candidate_pipeline.build import build
from candidate_pipeline.cli import BUILTIN
from candidate_pipeline.cli.commands import build_group
from candidate_pipeline.lints import lint
from candidate_pipeline.registry import installed
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.loader import load_spec
from candidate_pipeline.spec.model import STAGES
from candidate_pipeline.spec.schema import json_schema

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"<!-- checked: file=(\S+) -->\n```toml\n(.*?)```", TEXT, re.DOTALL))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the document's files beside the shipped pipelines."""
    (tmp_path / "pipelines.toml").write_text((ROOT / "pipelines.toml").read_text(encoding="utf-8"))
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_toml_block_is_toml() -> None:
    """Each block parses, and those that are whole files are known here."""
    blocks = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == len(FILES) + 1
    assert all(tomllib.loads(block) for block in blocks)
    assert set(FILES) == {"feed.toml", "mine.toml", "env.toml"}


@pytest.mark.parametrize("name", FILES)
def test_the_files_have_no_mistakes(folder: Path, name: str) -> None:
    """Every spec of the document loads as it stands, `check` has nothing to warn of, and an editor marks nothing."""
    spec = load_spec(Document.read(folder / name), installed())
    assert lint(spec, build(spec).plans) == []
    jsonschema.Draft7Validator(json_schema(installed())).validate(tomllib.loads(FILES[name]))


def test_the_example_of_extends_does_what_it_says(folder: Path) -> None:
    """The filters are the base's without one and with one more; tables merge, or are replaced with another `use`."""
    app = load("mine.toml")
    base, mine = app["for_you"].plan, app["mine"].plan

    def filters(plan: Any) -> list[str]:
        return [node.name for phase in plan.phases["filters"] for node in phase]

    assert filters(mine) == [*(name for name in filters(base) if name != "age"), "fresh"]
    assert (mine.result_size, base.result_size) == (10, 35)
    components = {node.name: node.component for node in mine.nodes}
    assert (components["diversity"].decay, components["diversity"].floor) == (0.3, 0.25)
    assert type(components["weighted"]).__name__ == "DwellRegret"


def test_the_environment_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's variables have defaults, and are read where they are set."""
    assert load("env.toml")["for_you"].plan.result_size == 35
    monkeypatch.setenv("FEED_RESULT_SIZE", "7")
    assert load("env.toml")["for_you"].plan.result_size == 7


def test_expand_prints_what_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command's example prints the lines that the document shows, but for line numbers."""
    arguments = ["expand", "mine.toml", "--pipeline", "mine", "--set", "components.age.max_age=7d"]
    build_group("candidate-pipeline", dict(BUILTIN)).main(arguments, standalone_mode=False)
    printed = re.sub(r"toml:\d+", "toml", capsys.readouterr().out)
    shown = re.search(r"( {4}\[components\.diversity\]\n(?: {4}.*\n)+)", TEXT)
    assert shown is not None
    for line in shown[1].splitlines():
        assert re.sub(r"toml:\d+", "toml", line.strip()) in printed


def test_the_python_lines_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The Python example prints the override with its origin."""
    monkeypatch.chdir(ROOT)
    block = re.search(r"<!-- checked: python -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    exec(block[1], {})  # noqa: S102 - the document's own code
    assert "('components', 'age', 'max_age') 7d --set components.age.max_age=7d" in capsys.readouterr().out


def test_every_stage_is_named() -> None:
    """The table of the file's shape has every stage that a pipeline of ours can have."""
    missing = [stage for stage in STAGES if f"`{stage}`" not in TEXT]
    assert missing == ["dependent_query_hydrators"]  # of the published semantics alone
