"""What `docs/stakeholders.md` says of the scorer is what happens, on the bundled world."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from candidate_pipeline import SCORE, App, load
from candidate_pipeline.build import build
from candidate_pipeline.cli.inputs import parse_inputs
from candidate_pipeline.lints import lint
from candidate_pipeline.options import options_of
from candidate_pipeline.registry import installed
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.loader import load_spec
from candidate_pipeline.spec.schema import json_schema
from candidate_pipeline_stakeholder.keys import UTILITY
from candidate_pipeline_stakeholder.scorer import StakeholderScorer

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "stakeholders.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("\n## Ranking by a mix\n")[2].partition("\n## ")[0]
COMMAND = re.search(r"--explain (\d+) (--mix \S+)", SECTION)
#: The lines of the account: label, sign and amount, total.
ACCOUNT = re.findall(r"^ {8}(\w+) +([+×-]) ?([\d.]+) +([\d.]+)$", SECTION, re.MULTILINE)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document's spec, beside the shipped pipelines."""
    folder = tmp_path_factory.mktemp("mixed")
    block = re.search(r"<!-- checked: scorer -->\n```toml\n(.*?)```", SECTION, re.DOTALL)
    assert block is not None
    (folder / "pipelines.toml").write_text((ROOT / "pipelines.toml").read_text(encoding="utf-8"))
    (folder / "mixed.toml").write_text(block[1])
    return folder / "mixed.toml"


@pytest.fixture(scope="module")
def app(spec: Path) -> Iterator[App]:
    """Its pipelines over the bundled world."""
    with load(spec) as opened:
        yield opened


def test_the_spec_has_no_mistakes(spec: Path) -> None:
    """It loads as it stands, `check` has nothing to warn of, and an editor marks nothing."""
    found = load_spec(Document.read(spec), installed())
    assert lint(found, build(found).plans) == []
    jsonschema.Draft7Validator(json_schema(installed())).validate(tomllib.loads(spec.read_text()))


def test_the_account_is_the_one_that_is_printed(app: App) -> None:
    """The post stands where the document says under either mix, and its account has the document's numbers."""
    assert COMMAND is not None
    item, arguments = int(COMMAND[1]), COMMAND[2].split()
    outcome = app["for_you"].run_sync(**parse_inputs(arguments, app["for_you"]))
    found = outcome.explain(item)
    assert (found.fate, found.rank) == ("selected", 10)
    signs = {"+": 1.0, "-": -1.0, "×": 1.0}
    wanted = [(label, signs[sign] * float(amount), float(total)) for label, sign, amount, total in ACCOUNT]
    assert [label for label, _, _ in wanted] == ["user", "platform", "society", "out_of_network_factor"]
    steps = found.steps()
    assert [step.label for step in steps] == [label for label, _, _ in wanted]
    numbers = [(step.amount or 0.0, step.total or 0.0) for step in steps]
    assert np.allclose(numbers, [(amount, total) for _, amount, total in wanted], rtol=0, atol=2e-3)
    cells: dict[str, Any] = {cell.column: cell.value for cell in found.cells}
    shares = {"user": 0.2, "platform": 0.6, "society": 0.2}
    parts = [shares[name] * cells[f"stakeholder.utility.{name}"] for name in shares]
    assert np.allclose([amount for amount, _ in numbers[:3]], parts, rtol=1e-5)
    assert f"{cells['stakeholder.utility.platform']:.1f}" == "4.2"
    plain = app["for_you"].run_sync().explain(item)
    assert plain.fate == "unselected"
    assert "rank 121 of 809" in plain.reason


def test_a_stakeholder_alone_gets_most(app: App) -> None:
    """Before anything else changes the order, nobody gets more of the first rows than who counts alone."""
    got: dict[str, dict[str, float]] = {}
    names = ("user", "platform", "society")
    for mix in names:
        ranked = app["for_you"].run_sync(mix={mix: 1.0}).ranked
        first = np.argsort(-ranked[UTILITY[mix]], kind="stable")[:35]
        got[mix] = {name: float(ranked[UTILITY[name]][first].sum()) for name in names}
        assert ranked.valid(SCORE).all()
    for name in names:
        assert max(names, key=lambda mix: got[mix][name]) == name


def test_every_option_is_documented() -> None:
    """The table names every option of the scorer."""
    table = re.findall(r"^\| `(\w+)` \|", SECTION, re.MULTILINE)
    assert table == list(options_of(StakeholderScorer))
