"""Warnings: each is given where it is true and nowhere else, and mending it as it says ends it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    Column,
    Context,
    Patch,
    Plugin,
    Query,
    QueryFeature,
    Registry,
    patch,
)
from candidate_pipeline.build import build
from candidate_pipeline.lints import lint
from candidate_pipeline.registry import installed
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.loader import load_spec

ROOT = Path(__file__).resolve().parents[2]

WHO = QueryFeature("toy.who", int, default=0)
WHERE = QueryFeature("toy.where", int, default=0)
SIZE = Column("toy.size", np.float32)
COLOUR = Column("toy.colour", np.int64)
RAISE = Column("toy.raise", np.float32, terms_of=SCORE)


@attrs.frozen
class Base:
    reads: ClassVar[tuple[Any, ...]] = ()
    writes: ClassVar[tuple[Any, ...]] = ()


@attrs.frozen
class Rows(Base):
    async def fetch(self, query: Query, ctx: Context) -> Candidates:
        return Candidates.of(ITEM_ID([1, 2]))


@attrs.frozen
class Sizes(Base):
    writes: ClassVar = (SIZE,)

    def hydrate(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        return patch(SIZE(np.ones(len(candidates))))


@attrs.frozen
class Colours(Base):
    writes: ClassVar = (COLOUR,)

    def hydrate(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        return patch(COLOUR(np.ones(len(candidates), np.int64)))


@attrs.frozen
class ColoursOfSizes(Colours):
    reads: ClassVar = (SIZE,)


@attrs.frozen
class Large(Base):
    reads: ClassVar[tuple[Any, ...]] = (SIZE, WHO)

    def keep(self, query: Query, candidates: Candidates, ctx: Context) -> Any:
        return candidates[SIZE] > 0


@attrs.frozen
class Red(Large):
    reads: ClassVar = (COLOUR,)


@attrs.frozen
class Scores(Base):
    writes: ClassVar[tuple[Any, ...]] = (SCORE,)

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        return patch(SCORE(np.ones(len(candidates))))


@attrs.frozen
class Raises(Scores):
    reads: ClassVar = (SCORE,)
    writes: ClassVar = (SCORE, RAISE)


@attrs.frozen
class Guesses(Scores):
    writes: ClassVar = (COLOUR,)


@attrs.frozen
class ScoresAndGuesses(Scores):
    writes: ClassVar = (SCORE, COLOUR)


@attrs.frozen
class Waits(Scores):
    async def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:  # type: ignore[override]
        return patch(SCORE(np.ones(len(candidates))))


@attrs.frozen
class Best(Base):
    reads: ClassVar = (SCORE,)

    def select(self, query: Query, candidates: Candidates, ctx: Context) -> Any:
        return np.arange(1)


@attrs.define
class Shelf:
    def open(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""


@attrs.define
class Cellar(Shelf):
    shelf: Shelf | None = None


@attrs.frozen
class FromCellar(Rows):
    cellar: Cellar | None = None


REGISTRY = Registry(
    [
        Plugin(
            "toy",
            components={
                "source": {"rows": Rows, "cellar": FromCellar},
                "hydrator": {"sizes": Sizes, "colours": Colours, "colours_of_sizes": ColoursOfSizes},
                "filter": {"large": Large, "red": Red},
                "scorer": {
                    "scores": Scores,
                    "raises": Raises,
                    "guesses": Guesses,
                    "both": ScoresAndGuesses,
                    "waits": Waits,
                },
                "selector": {"best": Best},
                "resource": {"shelf": Shelf, "cellar": Cellar},
            },
            keys=[WHO, WHERE, SIZE, COLOUR, RAISE],
        )
    ]
)

PIPELINE: dict[str, Any] = {
    "deadline": "1s",
    "inputs": {"who": "toy.who"},
    "sources": ["toy.rows"],
    "hydrators": ["toy.sizes"],
    "filters": ["toy.large"],
    "scorers": ["toy.scores"],
    "selector": "toy.best",
}


def warnings(rest: str = "", **changes: Any) -> list[str]:
    """Code and place of each warning about the toy pipeline with some keys changed (`None`: left out)."""
    keys = {key: value for key, value in (PIPELINE | changes).items() if value is not None}
    lines = []
    for key, value in keys.items():
        shown = (
            "{" + ", ".join(f"{name} = {json.dumps(item)}" for name, item in value.items()) + "}"
            if isinstance(value, dict)
            else json.dumps(value)
        )
        lines.append(f"{key} = {shown}")
    text = "schema = 1\n[pipelines.toy]\n" + "\n".join(lines) + "\n" + rest
    spec = load_spec(Document(text), REGISTRY)
    return [f"{found.code} {found.path}" for found in lint(spec, build(spec).plans)]


def test_a_sound_pipeline_has_no_warnings() -> None:
    """What the other tests change is free of warnings."""
    assert warnings() == []


@pytest.mark.parametrize(
    ("rest", "changes", "found"),
    [
        ('[components.a]\nuse = "toy.large"\n', {}, ["W400 components.a"]),
        ('[components.a]\nuse = "toy.large"\n', {"filters": ["a"]}, []),
        # A fallback is used.
        (
            '[components.a]\nuse = "toy.scores"\nrun = { on_error = "fallback:b" }\n[components.b]\nuse = "toy.scores"',
            {"scorers": ["a"]},
            [],
        ),
        ('[resources.a]\nuse = "toy.cellar"\n', {}, ["W401 resources.a"]),
        # A resource that only an unused resource takes is unused as well; one that a used one takes is used.
        (
            '[resources.a]\nuse = "toy.cellar"\nshelf = "b"\n[resources.b]\nuse = "toy.shelf"\n',
            {},
            ["W401 resources.a", "W401 resources.b"],
        ),
        (
            '[components.c]\nuse = "toy.cellar"\ncellar = "a"\n'
            '[resources.a]\nuse = "toy.cellar"\nshelf = "b"\n[resources.b]\nuse = "toy.shelf"\n',
            {"sources": ["c"]},
            [],
        ),
        ("", {"hydrators": ["toy.sizes", "toy.colours"]}, ["W402 pipelines.toy.hydrators[1]"]),
        ("", {"post_selection_hydrators": ["toy.colours"]}, []),
        ("", {"scorers": ["toy.guesses", "toy.scores"]}, ["W402 pipelines.toy.scorers[0]"]),
        ("", {"scorers": ["toy.guesses", "toy.scores"], "show": ["toy.colour"]}, []),
        ("", {"hydrators": ["toy.sizes", "toy.colours"], "filters": ["toy.large", "toy.red"]}, []),
        ("", {"hydrators": ["toy.sizes", "toy.colours"], "show": ["toy.colour"]}, ["W403 pipelines.toy.hydrators[1]"]),
        (
            "",
            {"hydrators": ["toy.sizes", "toy.colours"], "post_selection_filters": ["toy.red"]},
            ["W403 pipelines.toy.hydrators[1]"],
        ),
        # Read by another hydrator only: that one is warned of, and it once that one is moved.
        (
            "",
            {"hydrators": ["toy.sizes", "toy.colours_of_sizes"], "filters": [], "show": ["toy.colour"], "inputs": None},
            ["W403 pipelines.toy.hydrators[1]"],
        ),
        (
            "",
            {
                "hydrators": ["toy.sizes"],
                "post_selection_hydrators": ["toy.colours_of_sizes"],
                "filters": [],
                "inputs": None,
            },
            ["W403 pipelines.toy.hydrators[0]"],
        ),
        ('[components.a]\nuse = "toy.scores"\n', {"scorers": ["toy.scores", "a"]}, ["W404 pipelines.toy.scorers[0]"]),
        ("", {"scorers": ["toy.scores", "toy.raises"]}, []),
        (
            "",
            {"scorers": ["toy.scores", "toy.raises", "toy.both"], "show": ["toy.colour"]},
            ["W404 pipelines.toy.scorers[1]"],
        ),
        # What it writes beside the score is used.
        ("", {"scorers": ["toy.both", "toy.scores"], "post_selection_filters": ["toy.red"]}, []),
        # The later one may leave requests to the earlier one.
        ('[components.a]\nuse = "toy.scores"\nrun = { on_error = "skip" }\n', {"scorers": ["toy.scores", "a"]}, []),
        (
            '[components.a]\nuse = "toy.scores"\nrun = { when = { "toy.who" = 1 } }\n',
            {"scorers": ["toy.scores", "a"]},
            [],
        ),
        ("", {"deadline": None}, ["W405 pipelines.toy.sources[0]"]),
        ("stages.sources.timeout = '1s'\n", {"deadline": None}, []),
        ('[components.a]\nuse = "toy.rows"\nrun = { timeout = "1s" }\n', {"deadline": None, "sources": ["a"]}, []),
        (
            "",
            {"deadline": None, "scorers": ["toy.waits"]},
            ["W405 pipelines.toy.sources[0]", "W405 pipelines.toy.scorers[0]"],
        ),
        ("", {"inputs": {"who": "toy.who", "where": "toy.where"}}, ["W406 pipelines.toy.inputs.where"]),
        # A gate reads a feature.
        (
            '[components.a]\nuse = "toy.scores"\nrun = { when = { "toy.where" = 1 } }\n',
            {"inputs": {"who": "toy.who", "where": "toy.where"}, "scorers": ["a"]},
            [],
        ),
        ("", {"max_refills": 4}, ["W407 pipelines.toy.max_refills"]),
        ("", {"max_refills": 0}, []),
        ("", {"max_refills": 4, "post_selection_filters": ["toy.large"]}, []),
        (
            '[components.a]\nuse = "toy.waits"\nrun = { on_timeout = "skip" }\n',
            {"deadline": None, "scorers": ["a"], "sources": ["b"], "stages": None},
            ["W405 pipelines.toy.scorers[0]", "W407 components.a.run.on_timeout"],
        ),
        ('[components.a]\nuse = "toy.waits"\nrun = { on_timeout = "skip" }\n', {"scorers": ["a"]}, []),
    ],
)
def test_a_warning_is_given_where_it_is_true(rest: str, changes: dict[str, Any], found: list[str]) -> None:
    """Each warning is given for what it says, and not for what is like it but sound."""
    if changes.get("sources") == ["b"]:
        rest += '[components.b]\nuse = "toy.rows"\nrun = { timeout = "1s" }\n'
    assert warnings(rest, **changes) == found


INNER = """
[pipelines.inner]
inputs = { who = "toy.who" }
sources = ["toy.rows"]
hydrators = ["toy.sizes", "toy.colours"]
filters = ["toy.large"]
scorers = ["toy.scores"]
selector = "toy.best"

[components.more]
use = "pipeline"
pipeline = "inner"
"""


def test_a_pipeline_inside_another() -> None:
    """The columns of an inner pipeline are the outer one's to use, and the outer one's deadline holds for it."""
    assert warnings(INNER, sources=["more"]) == ["W403 pipelines.inner.hydrators[1]"]
    alone = warnings(INNER.partition("[components")[0])
    assert alone == ["W405 pipelines.inner.sources[0]", "W402 pipelines.inner.hydrators[1]"]


def test_inputs_of_an_inner_pipeline_are_read() -> None:
    """An input that only the pipeline inside takes is read, whether or not that one can do without it."""
    assert warnings(INNER, sources=["more"], filters=[], hydrators=[]) == ["W403 pipelines.inner.hydrators[1]"]


def test_tables_of_a_base_may_serve_other_files(tmp_path: Path) -> None:
    """A file is warned of its own unused tables, not of those of the file that it extends."""
    keys = "\n".join(("deadline = '1s'", "sources = ['toy.rows']", "scorers = ['toy.scores']", "selector = 'toy.best'"))
    unused = "[components.{0}]\nuse = 'toy.large'\n[resources.{0}]\nuse = 'toy.cellar'\n"
    (tmp_path / "base.toml").write_text(f"schema = 1\n[pipelines.toy]\n{keys}\n{unused.format('theirs')}")
    file = tmp_path / "near.toml"
    file.write_text(f'schema = 1\nextends = "base.toml"\n{unused.format("own")}')
    spec = load_spec(Document.read(file), REGISTRY)
    assert [found.path for found in lint(spec, build(spec).plans)] == ["components.own", "resources.own"]


def shipped() -> dict[str, str]:
    """The specs that the repository ships and shows, by name."""
    found = {"pipelines.toml": (ROOT / "pipelines.toml").read_text(encoding="utf-8")}
    for name, mark in (("README.md", "pipeline"), ("docs/engine.md", "spec")):
        text = (ROOT / name).read_text(encoding="utf-8")
        match = re.search(rf"<!-- checked: {mark} -->\n```\w+\n(.*?)```", text, re.DOTALL)
        assert match is not None
        found[name] = match[1]
    return found


@pytest.mark.parametrize("name", ["pipelines.toml", "README.md", "docs/engine.md"])
def test_shipped_specs_have_no_warnings(name: str) -> None:
    """What the repository ships and shows is free of warnings."""
    spec = load_spec(Document(shipped()[name], name), installed())
    assert [found.render() for found in lint(spec, build(spec).plans)] == []


def check(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs `candidate-pipeline check`."""
    program = "from candidate_pipeline.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program, "check", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def untidy(tmp_path: Path) -> Path:
    """A spec with one warning."""
    file = tmp_path / "feed.toml"
    base = (ROOT / "pipelines.toml").read_text(encoding="utf-8")
    file.write_text(base + '\n[components.fresh]\nuse = "feed.age"\n', encoding="utf-8")
    return file


def test_warnings_do_not_fail_the_check(untidy: Path) -> None:
    """`check` prints warnings and how many there are, and exits with status 0."""
    done = check(str(untidy))
    assert done.returncode == 0
    assert "W400 no pipeline uses the component 'fresh'" in done.stdout
    assert done.stdout.endswith("22 components, no problems\n1 warning; `--explain W400` says more\n")


def test_strict_fails_on_warnings(untidy: Path) -> None:
    """`check --strict` exits with status 2 where there is a warning, and prints the same."""
    assert check(str(untidy), "--strict").returncode == 2
    assert check(str(ROOT / "pipelines.toml"), "--strict").returncode == 0


def test_warnings_as_json(untidy: Path) -> None:
    """`--format json` holds problems and warnings apart, each with its severity."""
    found = json.loads(check(str(untidy), "--format", "json").stdout)
    assert found["problems"] == []
    assert [(each["code"], each["severity"], each["path"]) for each in found["warnings"]] == [
        ("W400", "warning", "components.fresh")
    ]
