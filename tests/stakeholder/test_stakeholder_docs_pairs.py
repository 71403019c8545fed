"""What `docs/stakeholders.md` says of pairs, learning and utilities holds."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from candidate_pipeline_stakeholder import pairs_file, utilities
from candidate_pipeline_stakeholder.commands_learn import learn
from candidate_pipeline_stakeholder.commands_pairs import pairs
from candidate_pipeline_stakeholder.encounters import Rules
from candidate_pipeline_stakeholder.generating import generate
from candidate_pipeline_stakeholder.pairs_file import read_pairs, write_pairs
from candidate_pipeline_stakeholder.utilities import DECLARED, NEGATIVE_ACTIONS, POSITIVE, Utilities

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "stakeholders.md").read_text(encoding="utf-8")


def part(heading: str) -> str:
    """What stands under a heading of the second level."""
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert found is not None, f"docs/stakeholders.md has no section {heading!r}"
    return found[1]


def test_every_column_is_described(tmp_path: Path) -> None:
    """The table of columns has those that are written and no others."""
    import numpy as np
    import pyarrow.parquet as pq

    from candidate_pipeline_stakeholder.pool import Pool

    pool = Pool.of(DECLARED.features, np.random.default_rng(0).random((9, 18)))
    made = generate(DECLARED, pool, 5)
    whole = type(made).of(
        made.features,
        made.left,
        made.right,
        made.outcome,
        weight=np.full(15, 2.0),
        rater="me",
        time=np.ones(15),
        left_item=made.left_item,
        right_item=made.right_item,
    )
    write_pairs(tmp_path / "p.parquet", whole)
    assert len(read_pairs(tmp_path / "p.parquet")) == 15
    written = {re.sub(r"^(left|right)\..*", r"\1.NAME", name) for name in pq.read_schema(tmp_path / "p.parquet").names}
    described = set(re.findall(r"^\| `([\w.]+)` \|", part("The pairs table"), re.MULTILINE))
    assert described == written


def test_limits_are_those_of_the_reader() -> None:
    """The limits that the document names are the code's."""
    text = " ".join(part("The pairs table").split())
    assert f"at most {utilities.MAX_NAME_CHARS} characters" in text
    assert f"at most {utilities.MAX_FEATURES} of them, {utilities.MAX_STAKEHOLDERS} stakeholders" in text
    assert f"{pairs_file.MAX_ROWS:,} rows and {pairs_file.MAX_BYTES // 2**30} GiB" in text


def test_defaults_are_those_of_the_command() -> None:
    """The actions that count by default, and the numbers, are those that the document names."""
    text = part("Making pairs")
    rules = Rules()
    assert f"| `--positive` | `{','.join(POSITIVE)}` |" in text
    assert f"| `--negative` | `{','.join(NEGATIVE_ACTIONS)}` |" in text
    assert (rules.positive, rules.negative) == (POSITIVE, NEGATIVE_ACTIONS)
    assert f"| `--min-history` | `{rules.min_history}` |" in text
    assert f"| `--per-window` | `{rules.per_window}` |" in text
    assert rules.window.total_seconds() == 600


@pytest.mark.parametrize(("command", "heading"), [(pairs, "Making pairs"), (learn, "Learning")])
def test_options_exist(command: object, heading: str) -> None:
    """Every option that a table or a command line of the section names is an option of the command."""
    assert callable(command)
    source = inspect.getsource(command)
    for option in set(re.findall(r"`?(--[a-z][a-z0-9-]+)", part(heading))) - {"--bootstrap", "--split"}:
        name = option.removeprefix("--").removeprefix("no-").replace("-", "_")
        assert f'"{option}"' in source or re.search(rf"^    {name}: Annotated", source, re.MULTILINE), option


def test_the_utilities_file_of_the_document_is_one(tmp_path: Path) -> None:
    """The example is read as it stands."""
    found = re.search(r"<!-- checked: utilities -->\n```toml\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    (tmp_path / "u.toml").write_text(found[1], encoding="utf-8")
    made = Utilities.read(tmp_path / "u.toml")
    assert made.as_mapping() == {"user": {"favorite": 1.0, "reply": 0.5, "report": -2.5}}
    assert made.pool is not None
