"""Every code has a page whose examples do what the page says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from candidate_pipeline import MisconfigurationError, Plugin, Registry, SpecError
from candidate_pipeline.build import build
from candidate_pipeline.lints import lint
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.loader import load_spec
from candidate_pipeline.spec.pages import page
from candidate_pipeline.spec.problems import CODES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "candidate_pipeline"
FILE = "feed.toml"


def blocks(text: str) -> dict[str, str]:
    """A page's code blocks by language and mark: `toml wrong`, `python mended`, `text`."""
    return {match[1].strip(): match[2] for match in re.finditer(r"^```(\w+[^\n]*)\n(.*?)^```$", text, re.M | re.S)}


def registry(python: str) -> Registry:
    """The project's own plugins, and the one that a page's Python block defines."""
    made = Registry()
    for name in ("feed", "phoenix", "thunder"):
        made.add(import_module(f"candidate_pipeline_{name}.plugin").candidate_pipeline_plugin())
    if python:
        namespace: dict[str, Any] = {}
        exec(python, namespace)  # noqa: S102 - the page's own code
        assert isinstance(namespace["plugin"], Plugin)
        made.add(namespace["plugin"], "shop-ranking", "1.0")
    return made


def printed(given: dict[str, str], which: str) -> str:
    """What `check` prints about the wrong or the mended example of a page, but for the counts of warnings."""
    text = given.get(f"toml {which}") or given["toml spec"]
    Path(FILE).write_text(text, encoding="utf-8")
    words = shlex.split(given.get(f"console {which}", ""))
    sets = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    try:
        spec = load_spec(Document.read(Path(FILE)), registry(given.get(f"python {which}", "")), sets=sets)
        warnings = lint(spec, build(spec).plans)
    except SpecError as error:
        return str(error)
    return "\n".join(warning.render() for warning in warnings)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the shipped pipelines, and without the variables that pages speak of."""
    (tmp_path / "pipelines.toml").write_text((ROOT / "pipelines.toml").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEED_RESULT_SIZE", raising=False)
    return tmp_path


@pytest.mark.parametrize("code", CODES)
def test_example_causes_the_code(folder: Path, code: str) -> None:
    """The wrong example of a page prints, word for word, what the page shows, and no other code."""
    given = blocks(page(code))
    found = printed(given, "wrong")
    assert found == given["text"].rstrip("\n")
    assert set(re.findall(r"^\S[^|]*?: ([EW]\d{3}) ", found, re.M)) == {code}


@pytest.mark.parametrize("code", CODES)
def test_mended_example_is_sound(folder: Path, code: str) -> None:
    """The mended example of a page has neither mistakes nor warnings."""
    assert printed(blocks(page(code)), "mended") == ""


@pytest.mark.parametrize("code", CODES)
def test_page_has_its_parts(code: str) -> None:
    """A page begins with its code and meaning, and has an example, what is printed, and the mended example."""
    text = page(code)
    assert text.startswith(f"# {code}: {CODES[code]}\n\n")
    marks = {mark.split()[-1] for mark in blocks(text)}
    assert {"wrong", "mended", "text"} <= marks


def test_every_page_is_of_a_code() -> None:
    """No page is left of a code that is no more."""
    assert {path.stem for path in (PACKAGE / "codes").iterdir()} == set(CODES)


def test_every_code_is_raised_somewhere() -> None:
    """Each code stands in the source of the package beside the table of codes."""
    source = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py") if path.name != "problems.py")
    assert [code for code in CODES if f'"{code}"' not in source] == []


def test_the_index_lists_every_code() -> None:
    """`docs/errors.md` names each code with its meaning and links its page, in order."""
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+)\]\(\.\./candidate_pipeline/codes/(\w+)\.md\) \| (.+) \|$", text, re.M)
    assert rows == [(code, code, meaning) for code, meaning in CODES.items()]


@pytest.mark.parametrize("name", ["e101", " E101 ", "E101"])
def test_case_does_not_matter(name: str) -> None:
    """A code is found however it is written."""
    assert page(name).startswith("# E101: ")


@pytest.mark.parametrize(
    ("name", "near"), [("E1011", "E101"), ("w399", "W400"), ("112", "E110"), ("E99", "E100"), ("", ""), ("E31l", "E31")]
)
def test_unknown_code_names_the_nearest(name: str, near: str) -> None:
    """A code that does not exist gives the nearest one, and the ranges that there are."""
    with pytest.raises(MisconfigurationError, match=rf"no code '{name}': did you mean {near}") as caught:
        page(name)
    assert "E100-E110, E200-E206, E300-E311, W400-W407" in str(caught.value)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs `candidate-pipeline check`."""
    program = "from candidate_pipeline.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program, "check", *words], capture_output=True, text=True, check=False)


def test_the_command_explains_a_code(folder: Path) -> None:
    """`check --explain` prints the page and looks at no file."""
    done = command("--explain", "w403", "missing.toml")
    assert (done.returncode, done.stdout, done.stderr) == (0, page("W403"), "")


def test_the_command_explains_as_json(folder: Path) -> None:
    """`check --explain --format json` gives code, title and page."""
    found = json.loads(command("--explain", "e104", "--format", "json").stdout)
    assert found == {"code": "E104", "title": CODES["E104"], "page": page("E104")}


def test_the_command_refuses_an_unknown_code(folder: Path) -> None:
    """`check --explain` of a code that does not exist says so and exits with status 2."""
    done = command("--explain", "E999")
    assert done.returncode == 2
    assert "error: no code 'E999': did you mean E311" in done.stderr
