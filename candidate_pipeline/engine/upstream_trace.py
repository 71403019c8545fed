"""A trace in the schema that the x-algorithm's October 2026 release gives its `PipelineTrace`.

A pipeline has stages, a stage has counts, times, components and the pipelines that ran nested in it; times are whole
microseconds, offsets count from the start of the pipeline that the stage or component belongs to. A count that makes no
sense in a place is null: `fetched` is for sources, `kept` and `removed` for filters, `size` for the stages that pass
rows on without dropping any.

What the published engine does not have appears in the nearest form that its schema allows. A component that took over
from another stands behind it. A round of refilling after selection makes the stages that it runs again appear again.
The pipeline that tops a response up is a stage `TopUp`. Everything else that a trace knows (why, caches, breakers,
notes, versions) is left out: `Trace.as_dict` has it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

from candidate_pipeline.engine.trace import ComponentTrace, Trace

#: The published names of the stages.
STAGE_NAMES: Final = {
    "query_hydrators": "QueryHydrator",
    "dependent_query_hydrators": "DependentQueryHydrator",
    "sources": "Source",
    "hydrators": "Hydrator",
    "filters": "Filter",
    "scorers": "Scorer",
    "selector": "Selector",
    "post_selection_hydrators": "PostSelectionHydrator",
    "post_selection_filters": "PostSelectionFilter",
    "side_effects": "SideEffect",
    "top_up": "TopUp",
}
_SOURCES: Final = ("sources", "top_up")
_FILTERS: Final = ("filters", "post_selection_filters")
_QUERY: Final = ("query_hydrators", "dependent_query_hydrators")


def upstream_trace(trace: Trace) -> dict[str, Any]:
    """The trace of a pipeline, those of nested ones inside it."""
    groups = itertools.groupby(trace, key=lambda entry: (entry.stage, entry.refill))
    return {
        "pipeline": trace.pipeline,
        "latency_us": _us(trace.elapsed_ms),
        "size": trace.selected,
        "stages": [_stage(trace, list(group)) for _, group in groups],
    }


def _stage(trace: Trace, entries: Sequence[ComponentTrace]) -> dict[str, Any]:
    stage = entries[0].stage
    spares = {entry.by for entry in entries if entry.by}  # which are not listed in the stage
    closed = {entry.component for entry in entries if entry.status == "closed"} - spares
    total = trace.listed.get(stage, len({entry.component for entry in entries}))
    start = min(entry.started_ms for entry in entries)
    end = max(entry.started_ms + entry.elapsed_ms for entry in entries)
    kept = removed = size = None
    if stage in _FILTERS:
        kept = entries[-1].rows_out
        removed = sum(entry.rows_in - entry.rows_out for entry in entries)
    elif stage in _SOURCES:
        size = sum(entry.rows_out for entry in entries if entry.status == "ok")
    elif stage == "selector":
        size = entries[-1].rows_out
    elif stage not in _QUERY:
        size = max(entry.rows_in for entry in entries)
    return {
        "name": STAGE_NAMES[stage],
        "total": total,
        "enabled": total - min(total, len(closed)),
        "offset_us": _us(start),
        "latency_us": _us(end) - _us(start),
        "size": size,
        "kept": kept,
        "removed": removed,
        "components": [_component(entry) for entry in entries if entry.status != "closed"],
        "nested": [upstream_trace(entry.inner) for entry in entries if isinstance(entry.inner, Trace)],
    }


def _component(entry: ComponentTrace) -> dict[str, Any]:
    filtering = entry.stage in _FILTERS
    return {
        "name": entry.component,
        "type_name": entry.use,
        "offset_us": _us(entry.started_ms),
        "latency_us": _us(entry.elapsed_ms),
        "input_count": entry.rows_in,
        "fetched": entry.rows_out if entry.stage in _SOURCES else None,
        "kept": entry.rows_out if filtering else None,
        "removed": entry.rows_in - entry.rows_out if filtering else None,
    }


def _us(milliseconds: float) -> int:
    return round(milliseconds * 1000)
