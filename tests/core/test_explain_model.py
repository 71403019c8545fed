"""Explanations of every item of random requests agree with a plain model of what happened to it."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from explain_model import Stories, Story, furthest
from hypothesis import HealthCheck, given, reject, settings
from pipeline_model_answers import OpenQuestionError
from pipeline_scripts import Script, scripts
from structlog.testing import capture_logs

from candidate_pipeline.explain import Explanation
from candidate_pipeline.explain_steps import GIVEN, REMOVED, UNEXPLAINED
from candidate_pipeline.testing import run_in_virtual_time
from candidate_pipeline.testing.scripted import NAME, NOW, scripted_app

#: Answered requests to explain, by semantics.
RUNS = 320


def outcome_of(script: Script) -> Any:
    """The outcome of a script's request."""
    app = scripted_app(script)

    async def serve() -> Any:
        async with app:
            return await app[NAME].run(now=NOW, request_id="scripted", **script["inputs"])

    return run_in_virtual_time(serve())


def same(found: float | None, wanted: float | None) -> bool:
    """Whether two scores are equal."""
    if found is None or wanted is None:
        return found is wanted
    return found == wanted or (math.isnan(found) and math.isnan(wanted)) or math.isclose(found, wanted, rel_tol=1e-6)


def check_account(found: Explanation, score: float | None) -> None:
    """The steps lead from one total to the next, and to the score."""
    total: float | None = None
    for step in found.steps():
        assert step.label in {UNEXPLAINED, GIVEN, REMOVED}, "scripted scorers declare no terms"
        if step.operation == "add":
            assert same(step.total, (total or 0.0) + (step.amount or 0.0))
        else:
            assert step.operation == "set"
            assert same(step.total, step.amount)
        total = step.total
    assert same(total, score)


def check(found: Explanation, wanted: Story, copies: int) -> None:
    """An explanation says what happened to the row."""
    fate = "unselected" if wanted.fate in {"cut", "left"} else wanted.fate
    assert (found.fate, found.dropped_by, found.stage) == (fate, wanted.by, wanted.stage)
    assert found.rank == (wanted.place + 1 if fate == "selected" else None)
    assert found.refill == wanted.refill
    assert found.copies == copies
    assert len(found.scores) == len(wanted.changes)
    for change, other in zip(found.scores, wanted.changes, strict=True):
        assert change.scorer == other.scorer
        assert same(change.before, other.before)
        assert same(change.after, other.after)
        assert (change.rank_before, change.rank_after) == (other.rank_before, other.rank_after)
    check_account(found, wanted.score)
    ranked = re.match(r"(?:rank|place) (\d+) of (\d+)", found.reason)
    if fate == "dropped":
        assert found.reason.endswith("fails closed" if wanted.closed else "does not say why it drops a row")
    else:
        assert ranked is not None
        assert (int(ranked[1]), int(ranked[2])) == (wanted.rank, wanted.ranked)
        assert ("holds at most" in found.reason) == (wanted.fate == "cut")
        assert ("kept" in found.reason) == (wanted.fate == "left")


@pytest.mark.parametrize("semantics", ["strict", "upstream"])
def test_every_item_is_explained_as_it_happened(semantics: str) -> None:
    """Fate, filter and stage, refill, ranks and scores around each scorer, and the account of the score are right."""
    explained = 0

    @settings(
        max_examples=RUNS, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(script=scripts(semantics))
    def agree(script: Script) -> None:
        nonlocal explained
        try:
            stories = Stories(script).tell()
        except OpenQuestionError:
            reject()
        if not stories:
            reject()
        with capture_logs():
            outcome = outcome_of(script)
        for item in {story.item for story in stories}:
            copies = [story for story in stories if story.item == item]
            check(outcome.explain(item), furthest(copies), len(copies))
            explained += 1

    agree()
    assert explained > RUNS
