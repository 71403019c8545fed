"""A spec after loading: every name resolved, every option converted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import attrs
from annotated_types import Ge, Gt, Le

from candidate_pipeline.keys import Column, QueryFeature
from candidate_pipeline.options import Doc
from candidate_pipeline.plugin import Kind
from candidate_pipeline.registry import ComponentRef
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import Problem

Stage = Literal[
    "query_hydrators",
    "dependent_query_hydrators",
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
    "dependent_query_hydrators": "query_hydrator",
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
Semantics = Literal["strict", "upstream"]


@attrs.frozen
class CachePolicy:
    """`run.cache`: what a hydrator, query hydrator or source found is kept for later requests.

    Time is that of the request's clock, so that a replay finds what its request could have found.
    """

    ttl: Annotated[Timeout, Doc("How long an entry counts, by the request's clock.")]
    max_items: Annotated[int, Ge(1), Le(10_000_000), Doc("Entries kept; the least recently used go first.")] = 10_000
    key: Annotated[
        tuple[str, ...] | None, Doc("Query features and columns that an entry depends on; default: all that it reads.")
    ] = None
    negative_ttl: Annotated[
        Annotated[dt.timedelta, Ge(dt.timedelta(0))] | None,
        Doc("As ttl, for 'there is none': a row of nulls, a source without rows. '0s': not kept. Default: ttl."),
    ] = None


@attrs.frozen
class BreakerPolicy:
    """`run.breaker`: a component that keeps failing is left alone for a while."""

    failure_rate: Annotated[float, Gt(0), Le(1), Doc("The part of calls whose failure opens the circuit.")] = 0.5
    window: Annotated[Timeout, Doc("How far back calls count.")] = dt.timedelta(seconds=30)
    min_calls: Annotated[int, Ge(1), Doc("Calls in the window below which the circuit stays closed.")] = 20
    open_for: Annotated[Timeout, Doc("How long it stays open before one call is let through as a probe.")] = (
        dt.timedelta(seconds=10)
    )


@attrs.frozen
class RunPolicy:
    """The engine's keys of a component: `run = { timeout = "40ms", on_error = "skip" }`."""

    timeout: Annotated[Timeout | None, Doc("How long one call may take.")] = None
    on_error: Annotated[
        str | None, Doc("What a failure does: 'skip', 'fail' or 'fallback:<component>'. A timeout too, by default.")
    ] = None
    on_timeout: Annotated[
        str | None, Doc("What a timeout does: 'skip', 'fail' or 'fallback:<component>'; default: as on_error.")
    ] = None
    safety: Annotated[bool | None, Doc("true makes a filter fail closed; a class's true cannot be lowered.")] = None
    when: Annotated[
        Mapping[str, Any], Doc("Conditions on query features under which it runs: feature = value, or a table.")
    ] = attrs.field(factory=dict)
    cache: Annotated[CachePolicy | None, Doc("Keep what it found for later requests.")] = None
    breaker: Annotated[BreakerPolicy | None, Doc("Leave it alone for a while when it keeps failing.")] = None
    threads: Annotated[
        Annotated[int, Ge(1), Le(256)] | None, Doc("Threads that a blocking component may hold; default 4.")
    ] = None
    sync: Annotated[bool | None, Doc("true makes the response wait for a side effect.")] = None
    retries: Annotated[
        Annotated[int, Ge(0), Le(100)] | None, Doc("How often a failed side effect is tried again; default 2.")
    ] = None
    backoff: Annotated[
        Timeout | None, Doc("The wait before a side effect's first retry, doubled for each later one; default 100ms.")
    ] = None
    max_pending: Annotated[
        Annotated[int, Ge(1)] | None, Doc("Runs of a side effect that may wait or run at once; default 1000.")
    ] = None


@attrs.frozen
class StageOptions:
    """The settings of `[pipelines.*.stages.<stage>]`."""

    timeout: Annotated[Timeout | None, Doc("How long the stage may take.")] = None
    reserve: Annotated[Timeout | None, Doc("Time before the deadline that is kept back for later stages.")] = None
    when: Annotated[Mapping[str, Any], Doc("Conditions on query features under which the stage's components run.")] = (
        attrs.field(factory=dict)
    )


@attrs.frozen
class PipelineOptions:
    """The settings of `[pipelines.*]` beside its stages."""

    result_size: Annotated[int | None, Ge(1), Doc("How many rows a response holds at most.")] = None
    min_results: Annotated[int | None, Ge(1), Doc("With fewer rows the pipeline of top_up fills the response.")] = None
    top_up: Annotated[str | None, Doc("The pipeline that fills a response of fewer than min_results rows.")] = None
    max_refills: Annotated[
        int, Ge(0), Le(100), Doc("How often rows that post-selection filters dropped are replaced from the rest.")
    ] = 3
    deadline: Annotated[Timeout | None, Doc("How long a request may take in all.")] = None
    stages: Annotated[Mapping[str, StageOptions], Doc("Time budgets and conditions by stage.")] = attrs.field(
        factory=dict
    )
    semantics: Annotated[Semantics, Doc("'strict', or 'upstream': the x-algorithm as published in May 2026.")] = (
        "strict"
    )
    inputs: Annotated[Mapping[str, str], Doc("Request parameters: name = the query feature each gives.")] = attrs.field(
        factory=dict
    )
    show: Annotated[tuple[str, ...], Doc("Columns that `run` prints, in order.")] = ()
    doc: Annotated[str, Doc("What the pipeline is for.")] = ""


@attrs.frozen
class NestedOptions:
    """Returns what another pipeline of the spec selects, which answers with a trace and outcome of its own."""

    pipeline: Annotated[str, Doc("The pipeline whose selected rows the source returns.")]


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
