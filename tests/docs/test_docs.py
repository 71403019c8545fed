"""The documents do what they say."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any

import pluggy
import pytest

from candidate_pipeline import BreakerPolicy, CachePolicy, RunPolicy, StageOptions
from candidate_pipeline.app import load_document
from candidate_pipeline.cli import BUILTIN
from candidate_pipeline.options import options_of
from candidate_pipeline.plugin import Plugin
from candidate_pipeline.registry import installed, resolve
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.model import PipelineOptions
from candidate_pipeline.testing import check_component
from phoenix_recsys.backend_registry import GROUP, HookSpecs, find_backend

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ENGINE = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    path for path in ROOT.rglob("*.md") if not {".venv", "data", ".pytest_cache"} & set(path.relative_to(ROOT).parts)
)


def block(name: str, text: str = README) -> str:
    """The code block of a document under the comment `<!-- checked: name -->`."""
    match = re.search(rf"<!-- checked: {name} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert match is not None, f"the document has no block {name!r}"
    return match[1]


def test_the_first_pipeline_has_no_mistakes() -> None:
    """The README's first pipeline loads and compiles as it stands."""
    app = load_document(Document(block("pipeline"), "README.md"))
    assert list(app) == ["following"]


def test_the_rankers_settings_have_no_mistakes() -> None:
    """The README's settings of the ranker's backend fit into the shipped pipelines."""
    text = (ROOT / "pipelines.toml").read_text(encoding="utf-8")
    for table in ("components.ranker", "resources.ranker_model"):
        text, count = re.subn(rf"^\[{re.escape(table)}\]\n(?:\w.*\n)+", "", text, flags=re.MULTILINE)
        assert count == 1, table
    assert list(load_document(Document(text + block("ranker"), "README.md"))) == ["for_you"]


def test_the_backend_hook_registers() -> None:
    """The README's hook is one that the library knows, and names a backend that can be chosen then."""
    plugins = pluggy.PluginManager(GROUP)
    plugins.add_hookspecs(HookSpecs)
    module = types.ModuleType("my_package")
    exec(block("backend"), vars(module))  # noqa: S102 - the README's own code
    plugins.register(module)
    plugins.check_pending()
    assert find_backend("my_kernel", plugins).target == "my_package.backend:MyKernelRanker"


def test_the_engines_example_has_no_mistakes() -> None:
    """The spec in `docs/engine.md`, which uses most engine settings, compiles."""
    app = load_document(Document(block("spec", ENGINE), "engine.md"))
    assert list(app) == ["feed", "simple"]


@pytest.mark.parametrize("options", [RunPolicy, CachePolicy, BreakerPolicy, StageOptions, PipelineOptions])
def test_every_engine_setting_is_documented(options: type) -> None:
    """`docs/engine.md` names every setting of the engine, save those of the pipeline's wiring."""
    elsewhere = {"inputs", "show", "doc", "cache", "stages"}
    missing = [name for name in options_of(options) if name not in elsewhere and not re.search(rf"\b{name}\b", ENGINE)]
    assert not missing


def test_the_first_plugin_keeps_a_components_promises() -> None:
    """The README's first plugin registers, and its scorer passes the test kit."""
    namespace: dict[str, Any] = {}
    exec(block("plugin"), namespace)  # noqa: S102 - the README's own code
    plugin = namespace["candidate_pipeline_plugin"]()
    assert isinstance(plugin, Plugin)
    check_component(namespace["Brevity"](), max_examples=20)


def test_the_python_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The README's Python lines print why the first post of the bundled world's feed is there."""
    monkeypatch.chdir(ROOT)
    exec(block("python"), {})  # noqa: S102 - the README's own code
    assert "selected at rank 1" in capsys.readouterr().out


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link of a document names a file of the repository."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist(document: Path) -> None:
    """Every `candidate-pipeline` command that a document names is a command, and can be imported."""
    commands = {**installed().commands, **BUILTIN}
    for words in re.findall(r"candidate-pipeline ([a-z-]+(?: [a-z-]+)?)", document.read_text(encoding="utf-8")):
        command = commands.get(words) or commands.get(words.split()[0])
        assert command is not None, f"{document.name} names the command {words!r}"
        assert callable(resolve(command.target, words))


def test_both_readme_commands_start_with_pip_install_uv() -> None:
    """The README has exactly the two commands for a fresh machine, ready to be copied."""
    assert re.findall(r"^ +(pip install uv .*)$", README, re.MULTILINE) == [
        "pip install uv && uv run candidate-pipeline run for_you",
        "pip install uv && uv run pytest -n auto",
    ]
