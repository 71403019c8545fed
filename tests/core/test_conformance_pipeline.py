"""The engine follows the published rules of May 2026, vector by vector; and the vectors are sound themselves."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from pipeline_model import expected
from pipeline_model_answers import plain

from candidate_pipeline.testing.conformance import Vector, check_vector, differences, vectors

VECTORS = vectors()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_engine_conforms(vector: Vector) -> None:
    """The engine's outcome is what the vector's rule demands."""
    assert check_vector(vector) == [], vector.rule


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_model_conforms(vector: Vector) -> None:
    """The plain model, written from the rules and not from the engine, comes to the same outcome."""
    if "warm_up" in vector.script:
        pytest.skip("the model has no caches: it answers one request")
    found = plain(expected(vector.script))
    expect = {name: wanted for name, wanted in vector.expect.items() if name != "calls"}
    assert differences(found, expect) == [], vector.rule


def test_file_says_what_it_is() -> None:
    """The file carries its format's version, the semantics and a description; names are unique, rules are sentences."""
    text = resources.files("candidate_pipeline.testing.conformance").joinpath("pipeline.json").read_text("utf-8")
    document = json.loads(text)
    assert document["format"] == 1
    assert document["semantics"] == "upstream"
    assert "docs/conformance.md" in document["about"]
    assert Counter(vector.name for vector in VECTORS).most_common(1)[0][1] == 1
    assert all(vector.rule.endswith(".") and len(vector.rule.split()) > 5 for vector in VECTORS)
    assert all(vector.script["semantics"] == "upstream" and vector.expect for vector in VECTORS)


def test_numbers_are_plain_json() -> None:
    """The file holds no NaN or Infinity, which JSON does not know."""
    text = resources.files("candidate_pipeline.testing.conformance").joinpath("pipeline.json").read_text("utf-8")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(text, parse_constant=refuse)


FOUND: dict[str, Any] = {
    "selected": [{"id": 1, "c1": 2.5, "c2": None}, {"id": 2, "c1": "NaN"}],
    "unselected": [],
    "dropped": [{"id": 3, "by": "f"}],
    "query": {"q1": 1},
    "trace": {"h": ["ok"]},
    "calls": {"h": [{"ids": [1, 2], "started_ms": 0.0}]},
    "elapsed_ms": 20.0,
}


@pytest.mark.parametrize(
    "expect",
    [
        {"selected": [1, 2], "unselected": [], "dropped": [3], "query": {"q1": 1}, "elapsed_ms": 20},
        {"selected": [{"id": 1, "c1": 2.5}, {"id": 2, "c1": "NaN"}]},
        {"selected": [{"id": 1, "c1": 2.5000001, "c3": None}, 2]},
        {"trace": {"h": "ok"}, "calls": {"h": [{"ids": [1, 2]}]}},
    ],
)
def test_comparison_finds_no_difference(expect: dict[str, Any]) -> None:
    """What is expected may be ids instead of rows, leaves out nulls, and is not compared where it is silent."""
    assert differences(FOUND, expect) == []


@pytest.mark.parametrize(
    ("expect", "line"),
    [
        ({"selected": [2, 1]}, "selected: wanted the ids [2, 1], found [1, 2]"),
        ({"selected": [{"id": 1}, 2]}, "selected[0] (id 1): wanted c1 = None, found 2.5"),
        ({"selected": [1, {"id": 2, "c1": 0.0}]}, "selected[1] (id 2): wanted c1 = 0.0, found 'NaN'"),
        ({"dropped": []}, "dropped: wanted the ids [], found [3]"),
        ({"query": {"q1": 2}}, "query: wanted {'q1': 2}, found {'q1': 1}"),
        ({"trace": {"h": "closed"}}, "trace: h: wanted ['closed'], found ['ok']"),
        ({"trace": {"g": "ok"}}, "trace: g: wanted ['ok'], found []"),
        ({"calls": {"h": []}}, "calls of h: wanted 0, found"),
        ({"calls": {"h": [{"ids": [1]}]}}, "call 1 of h: wanted ids = [1], found [1, 2]"),
        ({"elapsed_ms": 21}, "elapsed_ms: wanted 21, found 20.0"),
        ({"failed": "h"}, "failed: wanted 'h', found an outcome without it"),
    ],
)
def test_comparison_finds_the_difference(expect: dict[str, Any], line: str) -> None:
    """A difference is told in one line that names the place, what was wanted and what was found."""
    (found,) = differences(FOUND, expect)
    assert found.startswith(line)


def test_a_request_that_fails_differs_from_every_answer() -> None:
    """Where an answer was expected and the request failed, the failure is the one difference."""
    found = {"failed": "f", "error": "RequestError", "elapsed_ms": 0.0}
    assert differences(found, {"selected": [1]}) == ["wanted an answer, but f failed: RequestError"]


def words_of(value: Any) -> set[str]:
    """All names of fields in plain data, but not those of components, features and columns."""
    if isinstance(value, list):
        return set().union(*map(words_of, value))
    if not isinstance(value, dict):
        return set()
    return set(value).union(*map(words_of, value.values()))


def test_document_explains_every_field_and_group() -> None:
    """docs/conformance.md names every field that a script or an outcome uses, and every group of vectors."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "conformance.md").read_text("utf-8")
    own = {component for vector in VECTORS for component in vector.expect.get("trace", {})}
    own |= {component for vector in VECTORS for component in vector.expect.get("calls", {})}
    keys = {"id", "score", *(f"{letter}{n}" for letter in "qc" for n in range(1, 10))}
    used: set[str] = set().union(*(words_of(vector.script) | words_of(vector.expect) for vector in VECTORS))
    fields = {word for word in used - own - keys if not word.isdecimal()}
    missing = [word for word in sorted(fields) if f"{word}`" not in text and f'"{word}"' not in text]
    assert missing == ["run"]  # named as part of run.when
    groups = [prefix.removesuffix("…") for prefix in re.findall(r"`([a-z-]+-…)`", text)]
    assert [vector.name for vector in VECTORS if not vector.name.startswith(tuple(groups))] == []
