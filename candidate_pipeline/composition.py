"""A pipeline from objects, without TOML."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import Any

from candidate_pipeline.app import DRAIN, App, Pipeline
from candidate_pipeline.build import Built, BuiltResource
from candidate_pipeline.components import Resource
from candidate_pipeline.engine.policies import Member
from candidate_pipeline.engine.wiring import Compiler
from candidate_pipeline.keys import Column, QueryFeature
from candidate_pipeline.observe import Observer
from candidate_pipeline.spec.document import dotted
from candidate_pipeline.spec.model import STAGES, PipelineOptions, RunPolicy, Semantics, Stage, StageOptions
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import Location, Problem, SpecError, nearest
from candidate_pipeline.what_if.capture import Captures


def compose(
    name: str,
    *,
    sources: Sequence[Any],
    selector: Any,
    query_hydrators: Sequence[Any] = (),
    dependent_query_hydrators: Sequence[Any] = (),
    hydrators: Sequence[Any] = (),
    filters: Sequence[Any] = (),
    scorers: Sequence[Any] = (),
    post_selection_hydrators: Sequence[Any] = (),
    post_selection_filters: Sequence[Any] = (),
    side_effects: Sequence[Any] = (),
    fallbacks: Sequence[Any] = (),
    inputs: Mapping[str, QueryFeature[Any]] | None = None,
    resources: Sequence[Resource] = (),
    run: Mapping[str, RunPolicy] | None = None,
    result_size: int | None = None,
    min_results: int | None = None,
    top_up: Pipeline | None = None,
    max_refills: int = 3,
    deadline: dt.timedelta | None = None,
    stages: Mapping[str, StageOptions] | None = None,
    semantics: Semantics = "strict",
    show: Sequence[Column[Any]] = (),
    drain: dt.timedelta = DRAIN,
    observers: Sequence[Observer] = (),
    captures: Captures | None = None,
) -> App:
    """An application with one pipeline, from objects instead of TOML.

    Args:
        name: The pipeline's name.
        sources: Components; a component is named after its class in snake case, or by a `(name, component)` pair.
        selector: As `sources`; so are the stages that follow.
        query_hydrators: A stage.
        dependent_query_hydrators: A stage of the published semantics.
        hydrators: A stage.
        filters: A stage.
        scorers: A stage.
        post_selection_hydrators: A stage.
        post_selection_filters: A stage.
        side_effects: A stage.
        fallbacks: Components that only take over from others (`on_error = "fallback:<name>"`).
        inputs: Request parameters and the features they give.
        resources: What to open before and close after, in this order.
        run: Engine settings by component name.
        result_size: How many rows a response holds at most.
        min_results: With fewer rows the pipeline of `top_up` fills the response.
        top_up: A pipeline of another application, which is to be opened beside this one.
        max_refills: How often rows that post-selection filters dropped are replaced from the rest.
        deadline: How long a request may take.
        stages: Time budgets and gates by stage.
        semantics: `"strict"`, or `"upstream"`: the x-algorithm as published in May 2026.
        show: Columns to print.
        drain: How long closing waits for side effects.
        observers: What sees every request.
        captures: Where requests are recorded.

    Raises:
        SpecError: The wiring is wrong.
    """
    given: dict[Stage, Sequence[Any]] = {
        "query_hydrators": query_hydrators,
        "dependent_query_hydrators": dependent_query_hydrators,
        "sources": sources,
        "hydrators": hydrators,
        "filters": filters,
        "scorers": scorers,
        "selector": [selector],
        "post_selection_hydrators": post_selection_hydrators,
        "post_selection_filters": post_selection_filters,
        "side_effects": side_effects,
    }
    policies = dict(run or {})
    problems: list[Problem] = []

    def report(code: str, message: str, path: TomlPath, hint: str) -> None:
        problems.append(Problem(code, message, Location(f"pipeline {name!r}"), hint, dotted(path)))

    def member(entry: Any, stage: Stage, place: TomlPath) -> Member:
        label, component = entry if isinstance(entry, tuple) else (_snake(type(entry).__name__), entry)
        return Member(label, component, stage, policies.get(label, RunPolicy()), path=place, place=place)

    members = [member(entry, stage, (stage, at)) for stage in STAGES for at, entry in enumerate(given[stage])]
    # The compiler gives a fallback the stage of the component that it takes over from.
    spare = [member(entry, "scorers", ("fallbacks", at)) for at, entry in enumerate(fallbacks)]
    named = {each.name: each for each in [*members, *spare]}
    for label in policies:
        if label not in named:
            report("E101", f"no component {label!r} to apply the policy to", ("run", label), nearest(label, named))
    options = PipelineOptions(
        result_size=result_size,
        min_results=min_results,
        top_up=None if top_up is None else top_up.plan.name,
        max_refills=max_refills,
        deadline=deadline,
        stages=dict(stages or {}),
        semantics=semantics,
    )
    short = None if top_up is None else top_up.plan
    plan = Compiler(name, options, dict(inputs or {}), members, named, report, show=tuple(show), top_up=short).compile()
    if problems or plan is None:
        raise SpecError(problems)
    opened = {f"resource {at}": BuiltResource(f"resource {at}", item, ()) for at, item in enumerate(resources)}
    return App(
        Built({name: plan}, opened, {name: tuple(opened)}), None, drain=drain, observers=observers, captures=captures
    )


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
