"""Scripts: what they are made of, and how they tell what happened."""

from __future__ import annotations

import json
from typing import Any

import pytest

from candidate_pipeline import SpecError
from candidate_pipeline.testing.scripted import run_script, scripted_app

SCRIPT: dict[str, Any] = {
    "inputs": {"q1": 3},
    "sources": [{"name": "shelf", "rows": [{"id": 1, "c1": 2.5}, {"id": 2, "c1": None}, {"id": 3, "c1": "inf"}]}],
    "hydrators": [{"name": "prices", "set": {"c2": {"from": "c1", "mul": 2}}, "failed_rows": [3], "delay_ms": 20}],
    "scorers": [{"name": "rank", "set": {"score": {"from": "c1"}}}],
    "selector": {"name": "top", "size": 2},
    "side_effects": [{"name": "log", "delay_ms": 5}],
}


def test_what_happened_is_plain_data() -> None:
    """The outcome of a script survives JSON: values, nulls, failures and infinities have their own notation."""
    found = run_script(SCRIPT)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["selected"] == [
        {"id": 3, "score": "inf", "c1": "inf", "c2": "failed"},
        {"id": 1, "score": 2.5, "c1": 2.5, "c2": 5.0},
    ]
    assert found["unselected"] == [{"id": 2, "score": None, "c1": None, "c2": None}]
    assert found["query"] == {"q1": 3}
    assert found["trace"]["prices"] == ["ok"]
    assert found["elapsed_ms"] == 20.0
    assert found["calls"]["prices"] == [{"started_ms": 0.0, "ids": [1, 2, 3], "finished_ms": 20.0}]
    (call,) = found["calls"]["log"]
    assert (call["started_ms"], call["finished_ms"], call["selected"], call["unselected"]) == (20.0, 25.0, [3, 1], [2])


def test_an_application_answers_again() -> None:
    """An application made once answers a script any number of times, each time with the calls of that request only."""
    app = scripted_app(SCRIPT)
    assert run_script(SCRIPT, app) == run_script(SCRIPT, app) == run_script(SCRIPT)


@pytest.mark.parametrize(
    ("fault", "error"),
    [("raise", "RequestError"), ("request_error", "RequestError"), ("misconfigured", "MisconfigurationError")],
)
def test_a_failed_request_names_the_component(fault: str, error: str) -> None:
    """Whatever ends a request, the outcome names the component, the kind of error and when."""
    broken = {"name": "rank", "set": {"score": 1.0}, "delay_ms": 10, "fault": fault}
    found = run_script({**SCRIPT, "scorers": [broken]})
    assert (found["failed"], found["error"], found["elapsed_ms"]) == ("rank", error, 30.0)
    assert [len(calls) for calls in found["calls"].values()] == [1, 1, 1, 0, 0]


def test_unknown_keys_are_refused() -> None:
    """A script can only use the keys there are."""
    with pytest.raises(ValueError, match=r"no key 'c10': scripts have q1\.\.q9, c1\.\.c9, id and score"):
        scripted_app({**SCRIPT, "hydrators": [{"name": "h", "set": {"c10": 1}}]})


def test_wiring_mistakes_are_those_of_any_pipeline() -> None:
    """A script is compiled like any other pipeline: what nobody writes cannot be read."""
    with pytest.raises(SpecError, match=r"h reads the column script\.c5, which nobody writes"):
        scripted_app({**SCRIPT, "hydrators": [{"name": "h", "set": {"c2": {"from": "c5"}}}]})
