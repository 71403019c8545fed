"""A spec after loading: every name resolved, every option converted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import attrs
from annotated_types import Ge, Gt

from candidate_pipeline.keys import Column, QueryFeature
from candidate_pipeline.options import Doc
from candidate_pipeline.plugin import Kind
from candidate_pipeline.registry import ComponentRef
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import Problem

Stage = Literal[
    "query_hydrators",
    "sources",
    "hydrators",
    "filters",
    "scorers",
    "selector",
    "post_selection_hydrators",
    "post_selection_filters",
    "side_effects",
]

#: Stages in the order they run, with the kind of component each holds.
STAGES: Final[Mapping[Stage, Kind]] = {
    "query_hydrators": "query_hydrator",
    "sources": "source",
    "hydrators": "hydrator",
    "filters": "filter",
    "scorers": "scorer",
    "selector": "selector",
    "post_selection_hydrators": "hydrator",
    "post_selection_filters": "filter",
    "side_effects": "side_effect",
}

#: How `on_error` names a component that takes over.
FALLBACK: Final = "fallback:"

Timeout = Annotated[dt.timedelta, Gt(dt.timedelta(0))]


@attrs.frozen
class RunPolicy:
    """The engine's keys of a component: `run = { timeout = "40ms", on_error = "skip" }`."""

    timeout: Annotated[Timeout | None, Doc("How long one call may take.")] = None
    on_error: Annotated[
        str | None, Doc("What a failure or timeout does: 'skip', 'fail' or 'fallback:<component>'.")
    ] = None
    safety: Annotated[bool | None, Doc("true makes a filter fail closed; a class's true cannot be lowered.")] = None


@attrs.frozen
class PipelineOptions:
    """The settings of `[pipelines.*]` beside its stages."""

    result_size: Annotated[int | None, Ge(1), Doc("How many rows a response holds at most.")] = None
    deadline: Annotated[Timeout | None, Doc("How long a request may take in all.")] = None
    semantics: Annotated[Literal["strict"], Doc("Which semantics the engine follows.")] = "strict"
    inputs: Annotated[Mapping[str, str], Doc("Request parameters: name = the query feature each gives.")] = attrs.field(
        factory=dict
    )
    show: Annotated[tuple[str, ...], Doc("Columns that `run` prints, in order.")] = ()
    doc: Annotated[str, Doc("What the pipeline is for.")] = ""


@attrs.frozen
class ComponentSpec:
    """One use of a component, or of a resource.

    Args:
        name: Its name in the spec.
        kind: Its kind.
        ref: Its registration.
        cls: Its class.
        options: The options that the spec sets, converted.
        run: Its engine settings.
        path: Where its settings stand.
        place: Where it is listed.
        sound: Whether all its settings are right; those that are not were reported and are left out.
    """

    name: str
    kind: Kind
    ref: ComponentRef
    cls: type
    options: Mapping[str, Any]
    run: RunPolicy
    path: TomlPath
    place: TomlPath
    sound: bool = True


@attrs.frozen
class PipelineSpec:
    """One pipeline; `partial` if components are missing because of mistakes that were reported."""

    name: str
    options: PipelineOptions
    inputs: Mapping[str, QueryFeature[Any]]
    show: tuple[Column[Any], ...]
    stages: Mapping[Stage, tuple[ComponentSpec, ...]]
    fallbacks: Mapping[str, ComponentSpec]
    path: TomlPath
    partial: bool = False


@attrs.frozen
class Dataset:
    """What `dataset.toml` says about requests over a data directory."""

    path: Path
    name: str = ""
    now: dt.datetime | None = None
    defaults: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class FileSpec:
    """A whole spec, and the mistakes found so far; building finds the rest of them."""

    document: Document
    pipelines: Mapping[str, PipelineSpec]
    resources: Mapping[str, ComponentSpec]
    dataset: Dataset | None
    problems: tuple[Problem, ...] = ()
