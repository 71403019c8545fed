"""Pipelines as plain data: whole requests, faults and delays included, that JSON can hold.

A script is a mapping with the pipeline's settings and its stages, each a list of components that are mappings too:

    {
        "semantics": "strict",
        "inputs": {"q1": 3},
        "sources": [{"name": "shelf", "rows": [{"id": 1, "c1": 2.5}, {"id": 2, "c1": null}], "delay_ms": 20}],
        "hydrators": [{"name": "prices", "set": {"c2": {"from": "c1", "mul": 2}}, "run": {"timeout_ms": 15}}],
        "filters": [{"name": "cheap", "keep": {"column": "c2", "op": "<", "value": 9, "null": "drop"}}],
        "scorers": [{"name": "rank", "set": {"score": {"from": "c2"}}}],
        "selector": {"name": "top", "size": 5}
    }

`run_script` answers one request in virtual time, so that a script whose components sleep for an hour runs at once, and
gives what happened as plain data again. The format is described in full in docs/conformance.md.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from candidate_pipeline.app import App
from candidate_pipeline.candidates import Candidates
from candidate_pipeline.composition import compose
from candidate_pipeline.errors import CandidatePipelineError
from candidate_pipeline.outcome import Outcome
from candidate_pipeline.plugin import Kind
from candidate_pipeline.spec.model import STAGES, BreakerPolicy, CachePolicy, RunPolicy, StageOptions
from candidate_pipeline.testing.scripted_components import (
    COLUMNS,
    FEATURES,
    Plain,
    Scripted,
    Settings,
    key_of,
    reads_of,
    writes_of,
)
from candidate_pipeline.testing.virtual_time import run_in_virtual_time

__all__ = ["NAME", "run_script", "scripted_app"]

#: What the pipeline of a script is called.
NAME: Final = "scripted"
#: The clock of scripted requests.
NOW: Final = dt.datetime(2026, 5, 15, 12, tzinfo=dt.UTC)

_SAME: Final = ("on_error", "on_timeout", "safety", "sync", "retries", "max_pending", "threads")


def scripted_app(script: Settings) -> App:
    """The application with a script's pipeline, called `NAME`.

    Raises:
        SpecError: The wiring is wrong.
        ValueError: The script uses a key that there is not.
    """
    before = ("sources", "hydrators", "scorers")
    scored = any(COLUMNS["score"] in writes_of(settings) for stage in before for settings in script.get(stage, ()))
    stages: dict[str, Any] = {}
    for stage, kind in STAGES.items():
        given = script.get(stage, ())
        listed = [given] if stage == "selector" else given
        made = [_component(kind, settings, scored) for settings in listed]
        stages[stage] = made[0] if stage == "selector" else made
    stages["fallbacks"] = [_component(entry["kind"], entry, scored) for entry in script.get("fallbacks", ())]
    inputs = {
        name: FEATURES[name] for given in [*script.get("warm_up", ()), script.get("inputs", {})] for name in given
    }
    options: dict[str, Any] = {
        "semantics": script.get("semantics", "strict"),
        "result_size": script.get("result_size"),
        "deadline": _duration(script.get("deadline_ms")),
        "stages": {stage: _stage_options(settings) for stage, settings in script.get("stages", {}).items()},
    }
    if "max_refills" in script:
        options["max_refills"] = script["max_refills"]
    run = {settings["name"]: _policy(settings["run"]) for _, settings in _listed(script) if "run" in settings}
    # Side effects are waited for to their end: what they were given is part of what happened.
    return compose(NAME, **stages, **options, inputs=inputs, run=run, drain=dt.timedelta(days=1))


def run_script(script: Settings, app: App | None = None) -> dict[str, Plain]:
    """Answer a script's request in virtual time.

    Args:
        script: The script.
        app: What `scripted_app` made of it, to be used again; default: a new one.

    Returns:
        What happened, as plain data. Of a request that was answered: `selected`, `unselected` and `retrieved` rows,
        `dropped` ids with the filter's name, the `query`'s features, the `trace` (statuses by component) and
        `elapsed_ms`; of one that failed: `failed` (the component's name), `error` (the kind of error) and `elapsed_ms`.
        In both cases the `calls` by component. A cell is a number, `None` for null or `"failed"`.

    Raises:
        SpecError: The wiring is wrong.
    """
    return run_in_virtual_time(_serve(script, scripted_app(script) if app is None else app))


async def _serve(script: Settings, app: App) -> dict[str, Plain]:
    loop = asyncio.get_running_loop()
    pipeline = app[NAME]
    scripted = [node.component for node in pipeline.plan.nodes if isinstance(node.component, Scripted)]
    async with app:
        for inputs in script.get("warm_up", ()):
            try:
                await pipeline.run(now=NOW, request_id="warm-up", **inputs)
            except CandidatePipelineError:
                continue  # what it left behind is what matters
        earlier = {component.settings["name"]: len(component.calls) for component in scripted}
        started = loop.time() * 1000
        try:
            outcome = await pipeline.run(now=NOW, request_id="scripted", **script.get("inputs", {}))
        except CandidatePipelineError as error:
            found: dict[str, Plain] = {"failed": getattr(error, "component", ""), "error": type(error).__name__}
        else:
            found = _answer(outcome)
        found["elapsed_ms"] = _rounded(loop.time() * 1000 - started)
    found["calls"] = {
        component.settings["name"]: [
            _call(call, started) for call in component.calls[earlier[component.settings["name"]] :]
        ]
        for component in scripted
    }
    return found


def _answer(outcome: Outcome) -> dict[str, Plain]:
    trace: dict[str, list[str]] = {}
    for entry in outcome.trace:
        trace.setdefault(entry.component, []).append(entry.status)
    names = [node.name for node in outcome.plan.nodes]
    query = outcome.query
    return {
        "selected": _rows([outcome.selected]),
        "unselected": _rows(outcome.unselected),
        "retrieved": _rows([outcome.retrieved]),
        "dropped": [
            {"id": row["id"], "by": names[by]}
            for table in outcome.dropped
            for row, by in zip(_rows([table]), table.dropped_by.tolist(), strict=True)
        ],
        "query": {
            name: "failed" if feature in query.failed else query.features[feature]
            for name, feature in FEATURES.items()
            if feature in query.failed or feature in query.features
        },
        "trace": trace,
    }


def _rows(tables: Iterable[Candidates]) -> list[dict[str, Plain]]:
    rows = []
    for table in tables:
        for at in range(len(table)):
            row: dict[str, Plain] = {}
            for name, column in COLUMNS.items():
                if column in table:
                    row[name] = _cell(table, column, at)
            rows.append(row)
    return rows


def _cell(table: Candidates, column: Any, at: int) -> Plain:
    if table.failed(column)[at]:
        return "failed"
    if not table.valid(column)[at]:
        return None
    value = table[column][at].item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def _call(call: Mapping[str, Plain], started: float) -> dict[str, Plain]:
    return {
        name: _rounded(value - started) if name.endswith("_ms") and value is not None else value
        for name, value in call.items()
    }


def _rounded(milliseconds: float) -> float:
    return round(milliseconds, 3)


def _listed(script: Settings) -> list[tuple[Kind, Settings]]:
    """All components of a script with their kinds, fallbacks included."""
    listed: list[tuple[Kind, Settings]] = []
    for stage, kind in STAGES.items():
        given = script.get(stage, ())
        listed += [(kind, settings) for settings in ([given] if stage == "selector" else given)]
    return [*listed, *((entry["kind"], entry) for entry in script.get("fallbacks", ()))]


def _component(kind: Kind, settings: Settings, scored: bool) -> tuple[str, Scripted]:
    writes = () if kind in {"filter", "selector", "side_effect"} else writes_of(settings)
    return settings["name"], Scripted(kind, settings, reads_of(kind, settings, scored), writes)


def _policy(run: Settings) -> RunPolicy:
    given: dict[str, Any] = {name: run[name] for name in _SAME if name in run}
    if "cache" in run:
        cache = run["cache"]
        given["cache"] = CachePolicy(
            ttl=dt.timedelta(milliseconds=cache["ttl_ms"]),
            negative_ttl=None
            if "negative_ttl_ms" not in cache
            else dt.timedelta(milliseconds=cache["negative_ttl_ms"]),
            key=tuple(key_of(name).name for name in cache["key"]) if "key" in cache else None,
        )
    if "breaker" in run:
        breaker = run["breaker"]
        given["breaker"] = BreakerPolicy(
            failure_rate=breaker["failure_rate"],
            min_calls=breaker["min_calls"],
            window=dt.timedelta(milliseconds=breaker["window_ms"]),
            open_for=dt.timedelta(milliseconds=breaker["open_for_ms"]),
        )
    return RunPolicy(
        timeout=_duration(run.get("timeout_ms")),
        backoff=_duration(run.get("backoff_ms")),
        when=_when(run.get("when", {})),
        **given,
    )


def _stage_options(settings: Settings) -> StageOptions:
    return StageOptions(
        timeout=_duration(settings.get("timeout_ms")),
        reserve=_duration(settings.get("reserve_ms")),
        when=_when(settings.get("when", {})),
    )


def _when(conditions: Settings) -> dict[str, Plain]:
    return {FEATURES[name].name: condition for name, condition in conditions.items()}


def _duration(milliseconds: float | None) -> dt.timedelta | None:
    return None if milliseconds is None else dt.timedelta(milliseconds=milliseconds)
