"""Random pipelines do on the engine what a plain model says they do, in both semantics."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, reject, settings
from pipeline_model import expected
from pipeline_model_answers import OpenQuestionError, Plain, plain
from pipeline_scripts import Script, scripts
from structlog.testing import capture_logs

from candidate_pipeline.testing.scripted import run_script

# Comparing


def same_cell(found: Plain, wanted: Plain) -> bool:
    """Whether two cells are equal, numbers within single precision."""
    if isinstance(found, int | float) and isinstance(wanted, int | float):
        return math.isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-6)
    return bool(found == wanted)


def same_rows(found: list[Script], wanted: list[Script]) -> bool:
    """Whether rows are equal; a column that a row lacks is null there."""
    return len(found) == len(wanted) and all(
        same_cell(row.get(name), other.get(name))
        for row, other in zip(found, wanted, strict=True)
        for name in {*row, *other}
    )


def disagreements(script: Script, found: Script, wanted: Script) -> list[str]:
    """Where the engine and the model disagree."""
    if "failed" in found or "failed" in wanted:
        same = found.get("failed") in wanted.get("failed", []) and same_cell(found["elapsed_ms"], wanted["elapsed_ms"])
        return [] if same else [f"found {found.get('failed')} at {found['elapsed_ms']}", f"wanted {wanted}"]
    lines = []
    if script["semantics"] == "strict":  # rows are dropped in the table's order there, not filter by filter
        found["dropped"].sort(key=lambda row: row["id"])
        wanted["dropped"].sort(key=lambda row: row["id"])
    for name in ("selected", "unselected", "retrieved", "dropped"):
        if not same_rows(found[name], plain(wanted[name])):
            lines += [f"{name} found  {found[name]}", f"{name} wanted {wanted[name]}"]
    effects = {effect["name"]: len(found["calls"][effect["name"]]) for effect in script["side_effects"]}
    found = {**found, "side_effects": effects}
    found["trace"] = {name: statuses for name, statuses in found["trace"].items() if name not in effects}
    for name in ("query", "trace", "side_effects"):
        if found[name] != wanted[name]:
            lines += [f"{name} found  {found[name]}", f"{name} wanted {wanted[name]}"]
    if not same_cell(found["elapsed_ms"], wanted["elapsed_ms"]):
        lines.append(f"elapsed found {found['elapsed_ms']}, wanted {wanted['elapsed_ms']}")
    return lines


@pytest.mark.parametrize("semantics", ["strict", "upstream"])
def test_engine_and_model_agree(semantics: str) -> None:
    """Whatever the pipeline, its faults and its delays: rows, cells, query, trace and time are what the model says."""

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    @given(script=scripts(semantics))
    def agree(script: Script) -> None:
        try:
            wanted = expected(script)
        except OpenQuestionError:
            reject()
        with capture_logs():  # failures by the thousand, told of at length
            found = run_script(script)
        assert not disagreements(script, found, wanted)

    agree()
