"""The examples of `docs/insight.md` run, and its tables are complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import pytest
from prometheus_client import CollectorRegistry

from candidate_pipeline import App
from candidate_pipeline.engine.trace import ComponentTrace, Trace
from candidate_pipeline.observers.prometheus import PrometheusObserver

ROOT = Path(__file__).resolve().parents[2]
INSIGHT = (ROOT / "docs" / "insight.md").read_text(encoding="utf-8")


def ran(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a block of the document defines when it runs beside the shipped pipelines."""
    match = re.search(rf"<!-- checked: {name} -->\n```\w+\n(.*?)```", INSIGHT, re.DOTALL)
    assert match is not None, f"the document has no block {name!r}"
    monkeypatch.chdir(ROOT)
    found: dict[str, Any] = {}
    exec(match[1], found)  # noqa: S102 - the document's own code
    return found


def test_the_trace_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the configuration and a line a call."""
    trace = ran("trace", monkeypatch)["trace"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"for_you {trace.config_hash} ")
    assert len(lines) == 1 + len(trace)


@pytest.mark.parametrize("name", ["log", "opentelemetry", "prometheus"])
def test_observers_can_be_given_as_written(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each observer's example loads the shipped pipelines with it."""
    assert isinstance(ran(name, monkeypatch)["app"], App)


def test_the_observer_of_the_example_observes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The observer that the document writes hears of every component of the shipped pipeline."""
    found = ran("observer", monkeypatch)
    plan = found["app"]["for_you"].plan
    assert set(found["slowest"].found) == {node.name for node in plan.nodes}
    assert str(found["slowest"].found) in capsys.readouterr().out


@pytest.mark.parametrize("cls", [Trace, ComponentTrace])
def test_every_field_of_a_trace_is_documented(cls: type[Any]) -> None:
    """The tables name every field of a trace and of its records, but for what they are made of."""
    fields = [field.name for field in attrs.fields(cls) if field.name not in {"entries", "listed"}]
    assert not [name for name in fields if f"`{name}`" not in INSIGHT]


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    """The table of metrics is that of the observer."""
    registry = CollectorRegistry()
    PrometheusObserver(registry)
    there = {
        metric.name.removeprefix("candidate_pipeline_") + ("_total" if metric.type == "counter" else "")
        for metric in registry.collect()
    }
    table = INSIGHT.partition("| metric `candidate_pipeline_…`")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == there
