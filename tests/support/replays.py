"""Recording requests in memory, and whether two outcomes are the same to the last bit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candidate_pipeline import App, Outcome
from candidate_pipeline.candidates import Candidates
from candidate_pipeline.cells import Cells
from candidate_pipeline.engine.recording import Recorder
from candidate_pipeline.engine.serve import serve
from candidate_pipeline.keys import ITEM_ID
from candidate_pipeline.query import Query
from candidate_pipeline.testing.scripted_components import FEATURES
from candidate_pipeline.what_if.archive import pack, unpack_bytes
from candidate_pipeline.what_if.capture import Capture, capture_of
from candidate_pipeline.what_if.writer import manifest_of


async def recorded(app: App, name: str, **request: Any) -> tuple[Outcome, Capture]:
    """A request's outcome and its capture, which has been a file's bytes in between."""
    pipeline = app[name]
    now, seed, request_id = (request.pop(key, None) for key in ("now", "seed", "request_id"))
    query = pipeline.query(now, seed or 0, request_id or "recorded", request)
    return await recorded_query(app, name, query)


async def recorded_query(app: App, name: str, query: Query) -> tuple[Outcome, Capture]:
    """As `recorded`, from a query."""
    plan = app[name].plan
    recorder = Recorder(plan, query)
    outcome = await serve(app.runtime, plan, query, recorder=recorder)
    await asyncio.sleep(0)
    name = "" if app.dataset is None else app.dataset.name
    manifest, arrays = unpack_bytes(pack(*manifest_of(recorder, outcome, dataset=name)))
    return outcome, capture_of(manifest, arrays)


def script_features(inputs: Iterable[str]) -> dict[str, Any]:
    """The inputs of a script as the inputs of a pipeline."""
    return {name: FEATURES[name] for name in inputs}


def differences(found: Outcome, wanted: Outcome, *, errors: bool = True) -> list[str]:
    """What of two outcomes is not the same to the last bit; nothing of how long things took.

    The texts of errors are left out with `errors=False`: a component that fails again whatever it is asked may tell of
    the rows that it was first asked about.
    """
    lines: list[str] = []
    for name in ("selected", "retrieved", "ranked"):
        lines += [f"{name}: {line}" for line in _tables(getattr(found, name), getattr(wanted, name))]
    for name in ("unselected", "dropped", "screened"):
        tables, others = getattr(found, name), getattr(wanted, name)
        if len(tables) != len(others):
            lines.append(f"{name}: {len(tables)} tables, not {len(others)}")
        for table, other in zip(tables, others, strict=False):
            lines += [f"{name}: {line}" for line in _tables(table, other)]
    steps, other_steps = found.score_steps, wanted.score_steps
    if [step.scorer for step in steps] != [step.scorer for step in other_steps]:
        lines.append(f"score steps: {steps}, not {other_steps}")
    for step, other in zip(steps, other_steps, strict=False):
        if not _same(step.item_ids, other.item_ids) or not _same_cells(step.after, other.after):
            lines.append(f"score step {step.scorer}")
        befores = [step.before, other.before]
        if (None in befores and befores != [None, None]) or (
            step.before is not None and other.before is not None and not _same_cells(step.before, other.before)
        ):
            lines.append(f"score step {step.scorer}: before")
    lines += _queries(found.query, wanted.query)
    if not lines:
        for item in _items(wanted):
            said, other_said = repr(found.explain(item)), repr(wanted.explain(item))
            if said != other_said:
                lines.append(f"explain {item}: {said}, not {other_said}")
    if found.inner.keys() != wanted.inner.keys():
        lines.append(f"inner: {list(found.inner)}, not {list(wanted.inner)}")
    for name in found.inner.keys() & wanted.inner.keys():
        lines += [f"{name}: {line}" for line in differences(found.inner[name], wanted.inner[name], errors=errors)]
    if not _partial(wanted):
        calls, other_calls = _calls(found, errors), _calls(wanted, errors)
        if calls != other_calls:
            lines.append(f"trace: {calls}, not {other_calls}")
    return lines


def _partial(outcome: Outcome) -> bool:
    """Whether a cache kept rows although its component failed, which a replay tells of as failed rows."""
    return any("from the cache kept" in entry.note for entry in outcome.trace)


def _calls(outcome: Outcome, errors: bool) -> list[tuple[Any, ...]]:
    entries = [entry for entry in outcome.trace if entry.stage != "side_effects"]
    return sorted(
        (entry.component, entry.stage, entry.refill, entry.status, entry.by, entry.error if errors else "")
        for entry in entries
    )


def _items(outcome: Outcome) -> list[int]:
    tables = [outcome.selected, *outcome.unselected, *outcome.dropped]
    return sorted({item for table in tables for item in table[ITEM_ID].tolist()})


def _queries(found: Query, wanted: Query) -> list[str]:
    lines = []
    if (found.request_id, found.now, found.seed) != (wanted.request_id, wanted.now, wanted.seed):
        lines.append(f"query: {found}, not {wanted}")
    if found.failed != wanted.failed:
        lines.append(f"failed: {dict(found.failed)}, not {dict(wanted.failed)}")
    if found.features.keys() != wanted.features.keys():
        lines.append(f"features: {list(found.features)}, not {list(wanted.features)}")
    lines += [
        f"feature {key.name}: {found.features[key]!r}, not {value!r}"
        for key, value in wanted.features.items()
        if key in found.features and not _same_value(found.features[key], value)
    ]
    return lines


def _same_value(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, np.ndarray):
        return isinstance(found, np.ndarray) and _same(found, wanted)
    fields = getattr(type(wanted), "__attrs_attrs__", None)
    if fields is not None:
        return type(found) is type(wanted) and all(
            _same_value(getattr(found, field.name), getattr(wanted, field.name)) for field in fields
        )
    return type(found) is type(wanted) and repr(found) == repr(wanted)


def _tables(found: Candidates, wanted: Candidates) -> list[str]:
    if len(found) != len(wanted) or set(found.columns) != set(wanted.columns):
        return [f"{found}, not {wanted}"]
    lines = [
        f"{column.name}: {found.cells(column)}, not {wanted.cells(column)}"
        for column in wanted.columns
        if not _same_cells(found.cells(column), wanted.cells(column))
    ]
    if not _same(found.dropped_by, wanted.dropped_by):
        lines.append("dropped_by")
    if not _same(found.source_bits, wanted.source_bits) or found.source_names != wanted.source_names:
        lines.append("sources")
    return lines


def _same_cells(found: Cells, wanted: Cells) -> bool:
    return (
        _same(found.values, wanted.values)
        and _same(found.states(), wanted.states())
        and _same(found.writers(), wanted.writers())
        and found.labels == wanted.labels
    )


def _same(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return False
    if found.dtype == np.object_:
        return repr(found.tolist()) == repr(wanted.tolist())
    return found.tobytes() == wanted.tobytes()
