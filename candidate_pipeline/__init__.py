"""Typed, plugin-based candidate pipelines for ranked feeds.

Names are imported on first use, so that importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from candidate_pipeline.adapters import per_item
    from candidate_pipeline.app import App, Pipeline, compose, load, load_document
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
    from candidate_pipeline.engine.nested import NestedPipeline
    from candidate_pipeline.errors import (
        AbsentFeatureError,
        CandidatePipelineError,
        ContractError,
        DataError,
        FailedFeatureError,
        MisconfigurationError,
        MissingColumnError,
        RequestError,
        SafetyError,
    )
    from candidate_pipeline.explain import Explanation
    from candidate_pipeline.keys import ITEM_ID, SCORE, TOPPED_UP, Column, QueryFeature
    from candidate_pipeline.merge import ITEM_TEXT_ID, text_ids
    from candidate_pipeline.options import DataDir, Doc
    from candidate_pipeline.ordering import rank_order
    from candidate_pipeline.outcome import Outcome
    from candidate_pipeline.patches import Patch, QueryPatch, patch, query_patch
    from candidate_pipeline.plugin import Command, Plugin, hookimpl
    from candidate_pipeline.query import Query
    from candidate_pipeline.registry import Registry
    from candidate_pipeline.spec.model import BreakerPolicy, CachePolicy, RunPolicy, StageOptions
    from candidate_pipeline.spec.problems import SpecError

_HOME = {
    "adapters": ("per_item",),
    "app": ("App", "Pipeline", "compose", "load", "load_document"),
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
    "engine.nested": ("NestedPipeline",),
    "errors": (
        "AbsentFeatureError",
        "CandidatePipelineError",
        "ContractError",
        "DataError",
        "FailedFeatureError",
        "MisconfigurationError",
        "MissingColumnError",
        "RequestError",
        "SafetyError",
    ),
    "explain": ("Explanation",),
    "keys": ("ITEM_ID", "SCORE", "TOPPED_UP", "Column", "QueryFeature"),
    "merge": ("ITEM_TEXT_ID", "text_ids"),
    "options": ("DataDir", "Doc"),
    "ordering": ("rank_order",),
    "outcome": ("Outcome",),
    "patches": ("Patch", "QueryPatch", "patch", "query_patch"),
    "plugin": ("Command", "Plugin", "hookimpl"),
    "query": ("Query",),
    "registry": ("Registry",),
    "spec.model": ("BreakerPolicy", "CachePolicy", "RunPolicy", "StageOptions"),
    "spec.problems": ("SpecError",),
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
    "CandidatePipelineError",
    "Candidates",
    "Column",
    "Command",
    "Context",
    "ContractError",
    "DataDir",
    "DataError",
    "Doc",
    "Explanation",
    "FailedFeatureError",
    "Filter",
    "Hydrator",
    "MisconfigurationError",
    "MissingColumnError",
    "NestedPipeline",
    "Outcome",
    "Patch",
    "Pipeline",
    "Plugin",
    "Query",
    "QueryFeature",
    "QueryHydrator",
    "QueryPatch",
    "Registry",
    "RequestError",
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
    "compose",
    "hookimpl",
    "load",
    "load_document",
    "patch",
    "per_item",
    "query_patch",
    "rank_order",
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
