"""Typed, plugin-based candidate pipelines for ranked feeds.

Names are imported on first use, so that importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from candidate_pipeline.adapters import per_item
    from candidate_pipeline.app import App, Pipeline, load, load_document
    from candidate_pipeline.candidates import Candidates, Row
    from candidate_pipeline.components import (
        Context,
        Filter,
        Hydrator,
        QueryHydrator,
        Resource,
        Scorer,
        Selector,
        SideEffect,
        Source,
    )
    from candidate_pipeline.composition import compose
    from candidate_pipeline.engine.nested import NestedPipeline
    from candidate_pipeline.engine.trace import ComponentTrace, Trace
    from candidate_pipeline.errors import (
        AbsentFeatureError,
        CandidatePipelineError,
        CaptureError,
        ContractError,
        DataError,
        FailedFeatureError,
        MisconfigurationError,
        MissingColumnError,
        RequestError,
        SafetyError,
    )
    from candidate_pipeline.explain import Explanation
    from candidate_pipeline.explain_steps import Step, Terms
    from candidate_pipeline.keys import ITEM_ID, SCORE, TOPPED_UP, Column, ColumnFamily, QueryFeature
    from candidate_pipeline.merge import ITEM_TEXT_ID, text_ids
    from candidate_pipeline.observe import CallInfo, CallObserver, Observer, RequestInfo, RequestObserver
    from candidate_pipeline.options import ConfigFile, DataDir, Doc
    from candidate_pipeline.ordering import rank_order
    from candidate_pipeline.outcome import Outcome
    from candidate_pipeline.patches import Patch, QueryPatch, patch, query_patch
    from candidate_pipeline.plugin import Command, Plugin, hookimpl
    from candidate_pipeline.query import Query
    from candidate_pipeline.registry import Registry
    from candidate_pipeline.reloading.live import Live, LivePipeline, Reload, live
    from candidate_pipeline.spec.model import BreakerPolicy, CachePolicy, RunPolicy, StageOptions
    from candidate_pipeline.spec.problems import SpecError
    from candidate_pipeline.what_if.capture import Capture, Captures, captures_in
    from candidate_pipeline.what_if.diff import Diff, diff
    from candidate_pipeline.what_if.ranking import Ranking
    from candidate_pipeline.what_if.replay import Replayed, Replayer, replay
    from candidate_pipeline.what_if.swap import SwapResult, smallest_swap

_HOME = {
    "adapters": ("per_item",),
    "app": ("App", "Pipeline", "load", "load_document"),
    "candidates": ("Candidates", "Row"),
    "components": (
        "Context",
        "Filter",
        "Hydrator",
        "QueryHydrator",
        "Resource",
        "Scorer",
        "Selector",
        "SideEffect",
        "Source",
    ),
    "composition": ("compose",),
    "engine.nested": ("NestedPipeline",),
    "engine.trace": ("ComponentTrace", "Trace"),
    "errors": (
        "AbsentFeatureError",
        "CandidatePipelineError",
        "CaptureError",
        "ContractError",
        "DataError",
        "FailedFeatureError",
        "MisconfigurationError",
        "MissingColumnError",
        "RequestError",
        "SafetyError",
    ),
    "explain": ("Explanation",),
    "explain_steps": ("Step", "Terms"),
    "keys": ("ITEM_ID", "SCORE", "TOPPED_UP", "Column", "ColumnFamily", "QueryFeature"),
    "merge": ("ITEM_TEXT_ID", "text_ids"),
    "observe": ("CallInfo", "CallObserver", "Observer", "RequestInfo", "RequestObserver"),
    "options": ("ConfigFile", "DataDir", "Doc"),
    "ordering": ("rank_order",),
    "outcome": ("Outcome",),
    "patches": ("Patch", "QueryPatch", "patch", "query_patch"),
    "plugin": ("Command", "Plugin", "hookimpl"),
    "query": ("Query",),
    "registry": ("Registry",),
    "reloading.live": ("Live", "LivePipeline", "Reload", "live"),
    "spec.model": ("BreakerPolicy", "CachePolicy", "RunPolicy", "StageOptions"),
    "spec.problems": ("SpecError",),
    "what_if.capture": ("Capture", "Captures", "captures_in"),
    "what_if.diff": ("Diff", "diff"),
    "what_if.ranking": ("Ranking",),
    "what_if.replay": ("Replayed", "Replayer", "replay"),
    "what_if.swap": ("SwapResult", "smallest_swap"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "ITEM_ID",
    "ITEM_TEXT_ID",
    "SCORE",
    "TOPPED_UP",
    "AbsentFeatureError",
    "App",
    "BreakerPolicy",
    "CachePolicy",
    "CallInfo",
    "CallObserver",
    "CandidatePipelineError",
    "Candidates",
    "Capture",
    "CaptureError",
    "Captures",
    "Column",
    "ColumnFamily",
    "Command",
    "ComponentTrace",
    "ConfigFile",
    "Context",
    "ContractError",
    "DataDir",
    "DataError",
    "Diff",
    "Doc",
    "Explanation",
    "FailedFeatureError",
    "Filter",
    "Hydrator",
    "Live",
    "LivePipeline",
    "MisconfigurationError",
    "MissingColumnError",
    "NestedPipeline",
    "Observer",
    "Outcome",
    "Patch",
    "Pipeline",
    "Plugin",
    "Query",
    "QueryFeature",
    "QueryHydrator",
    "QueryPatch",
    "Ranking",
    "Registry",
    "Reload",
    "Replayed",
    "Replayer",
    "RequestError",
    "RequestInfo",
    "RequestObserver",
    "Resource",
    "Row",
    "RunPolicy",
    "SafetyError",
    "Scorer",
    "Selector",
    "SideEffect",
    "Source",
    "SpecError",
    "StageOptions",
    "Step",
    "SwapResult",
    "Terms",
    "Trace",
    "captures_in",
    "compose",
    "diff",
    "hookimpl",
    "live",
    "load",
    "load_document",
    "patch",
    "per_item",
    "query_patch",
    "rank_order",
    "replay",
    "smallest_swap",
    "text_ids",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'candidate_pipeline' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"candidate_pipeline.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
