"""A loaded spec: open its resources, run its pipelines."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import attrs
import structlog

from candidate_pipeline.build import Built, BuiltResource, build
from candidate_pipeline.components import Reporting, ReportValue, Resource
from candidate_pipeline.engine.plan import Plan
from candidate_pipeline.engine.policies import Member
from candidate_pipeline.engine.runtime import Runtime
from candidate_pipeline.engine.serve import serve
from candidate_pipeline.engine.wiring import Compiler
from candidate_pipeline.errors import (
    CandidatePipelineError,
    ContractError,
    MisconfigurationError,
    RequestError,
)
from candidate_pipeline.keys import Column, QueryFeature
from candidate_pipeline.outcome import Outcome
from candidate_pipeline.query import Query
from candidate_pipeline.registry import Registry, installed
from candidate_pipeline.spec.document import Document, dotted
from candidate_pipeline.spec.loader import load_spec
from candidate_pipeline.spec.model import STAGES, Dataset, PipelineOptions, RunPolicy, Semantics, Stage, StageOptions
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import Location, Problem, SpecError, nearest

log = structlog.get_logger("candidate_pipeline")

#: How long closing an application waits for side effects.
DRAIN: Final = dt.timedelta(seconds=30)


def load(
    config: str | Path = "pipelines.toml",
    *,
    data: str | Path | None = None,
    sets: Sequence[str] = (),
    only: Iterable[str] | None = None,
    registry: Registry | None = None,
    drain: dt.timedelta = DRAIN,
) -> App:
    """Read, check and build the pipelines of a TOML file; nothing is opened yet.

    Args:
        config: The file.
        data: A data directory; its `dataset.toml` is applied. Default: the one the spec's resources read.
        sets: Overrides, `"components.age.max_age='7d'"` each.
        only: The pipelines whose resources will be opened; default: all.
        registry: Where names resolve; default: installed plugins.
        drain: How long closing waits for side effects.

    Returns:
        The application: `async with load(...) as app: await app["for_you"].run(viewer=42)`.

    Raises:
        SpecError: The file or an override has mistakes; all are listed.
    """
    document = Document.read(Path(config))
    return load_document(document, data=data, sets=sets, only=only, registry=registry, drain=drain)


def load_document(
    document: Document,
    *,
    data: str | Path | None = None,
    sets: Sequence[str] = (),
    only: Iterable[str] | None = None,
    registry: Registry | None = None,
    drain: dt.timedelta = DRAIN,
) -> App:
    """As `load`, from a document in memory: `load_document(Document(text))`."""
    where = None if data is None else Path(data)
    spec = load_spec(document, installed() if registry is None else registry, data=where, sets=sets)
    return App(build(spec), spec.dataset, only=None if only is None else tuple(only), drain=drain)


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
    return App(Built({name: plan}, opened, {name: tuple(opened)}), None, drain=drain)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


class App:
    """Pipelines by name, and the resources they share.

    Use it as a context manager: `async with app:` inside an event loop, or `with app:` in a script, where
    `app["name"].run_sync(...)` then answers requests.
    """

    def __init__(
        self,
        built: Built,
        dataset: Dataset | None,
        only: tuple[str, ...] | None = None,
        drain: dt.timedelta = DRAIN,
    ) -> None:
        """Wrap a built spec; `load` and `compose` call this."""
        self.dataset = dataset
        self._built = built
        self._only = only
        self._opened: list[BuiltResource] = []
        self._runtime: Runtime | None = None
        self._runner: asyncio.Runner | None = None
        self._drain = drain
        for name in only or ():
            self[name]

    def __getitem__(self, name: str) -> Pipeline:
        """A pipeline by name.

        Raises:
            MisconfigurationError: There is none of that name.
        """
        plan = self._built.plans.get(name)
        if plan is None:
            hint = nearest(name, self._built.plans) or "the spec has no pipeline"
            raise MisconfigurationError(f"no pipeline named {name!r}: {hint}")
        return Pipeline(self, plan)

    def __iter__(self) -> Iterator[str]:
        return iter(self._built.plans)

    def __len__(self) -> int:
        return len(self._built.plans)

    def resource(self, name: str) -> Any:
        """A resource instance by name, for scripts and commands."""
        try:
            return self._built.resources[name].instance
        except KeyError:
            hint = nearest(name, self._built.resources)
            raise MisconfigurationError(f"no resource named {name!r}: {hint}") from None

    def reports(self) -> dict[str, dict[str, ReportValue]]:
        """What open resources say about themselves, by name, and components, by `pipeline.component`.

        Those without a `report` are left out. One whose report raises, or is no mapping of names to plain values, says
        `report_failed` and why.

        Raises:
            MisconfigurationError: The application is not open.
        """
        runtime = self.runtime
        asked = {resource.name: resource.instance for resource in self._opened}
        for plan in runtime.states():
            asked.update({f"{plan.name}.{node.name}": node.component for node in plan.nodes})
        return {name: _report(each) for name, each in asked.items() if callable(getattr(each, "report", None))}

    @property
    def is_open(self) -> bool:
        """Whether resources are open."""
        return self._runtime is not None

    @property
    def runtime(self) -> Runtime:
        """What the open application keeps between requests: breakers, caches, threads, side effects.

        Raises:
            MisconfigurationError: The application is not open.
        """
        if self._runtime is None:
            raise MisconfigurationError("the application is not open: use `async with app:` or `with app:`")
        return self._runtime

    async def __aenter__(self) -> Self:
        """Open the resources in dependency order; those already open are closed again if one fails.

        Raises:
            MisconfigurationError: A resource cannot be opened, or the application is open already.
        """
        if self.is_open:
            raise MisconfigurationError("the application is open already")
        self._runtime = Runtime()
        names = self._built.plans if self._only is None else self._only
        wanted = {resource for name in names for resource in self._built.uses[name]}
        try:
            for name, resource in self._built.resources.items():
                if name in wanted:
                    await self._open(resource)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for side effects, for as long as `drain` says, then close the resources in reverse order."""
        try:
            if self._runtime is not None:
                await self._runtime.close(self._drain.total_seconds())
        finally:
            await self._close()

    def __enter__(self) -> Self:
        """Open the resources on an event loop of the application's own.

        Raises:
            MisconfigurationError: A resource cannot be opened, or an event loop runs already.
        """
        if _in_event_loop():
            raise MisconfigurationError(
                "an event loop runs here already: use `async with app:` and `await ....run(...)`"
            )
        runner = asyncio.Runner()
        try:
            runner.run(self.__aenter__())
        except BaseException:
            runner.close()
            raise
        self._runner = runner
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the resources and the event loop."""
        runner, self._runner = self._runner, None
        if runner is not None:
            with runner:
                runner.run(self.__aexit__(kind, error, trace))

    async def _open(self, resource: BuiltResource) -> None:
        try:
            await _maybe_thread(resource.instance.open)
        except CandidatePipelineError as error:
            error.add_note(f"while opening the resource {resource.name!r} ({type(resource.instance).__name__})")
            raise
        except Exception as error:
            what = f"opening the resource {resource.name!r} ({type(resource.instance).__name__}) failed"
            raise MisconfigurationError(f"{what}: {type(error).__name__}: {error}") from error
        self._opened.append(resource)

    async def _close(self) -> None:
        stopped: BaseException | None = None
        while self._opened:
            resource = self._opened.pop()
            try:
                await _maybe_thread(resource.instance.close)
            except Exception:
                log.exception("closing a resource failed", resource=resource.name)
            except BaseException as error:  # cancelled: the others must be closed all the same
                stopped = error
        if self._runtime is not None:
            self._runtime.release()
            self._runtime = None
        if stopped is not None:
            raise stopped

    def run_coroutine(self, coroutine: Any) -> Any:
        """Run a coroutine on the event loop of `with app:`."""
        if self._runner is None:
            coroutine.close()
            raise MisconfigurationError("the application is not open: use `with app:` around run_sync")
        if _in_event_loop():
            coroutine.close()
            raise MisconfigurationError("an event loop runs here already: use `await ....run(...)`")
        return self._runner.run(coroutine)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _report(reporting: Reporting) -> dict[str, ReportValue]:
    try:
        report: dict[Any, Any] = dict(reporting.report())
        for name, value in report.items():
            if not isinstance(name, str) or not isinstance(value, ReportValue | None):
                raise TypeError(f"wanted text, a number or None under a text, found {name!r}: {value!r}")
    except Exception as error:  # it must not spoil what it tells about
        return {"report_failed": f"{type(error).__name__}: {error}"}
    return report


async def _maybe_thread(method: Any) -> None:
    """Call a resource's `open` or `close`; a plain def runs in a thread, for it may take long."""
    if inspect.iscoroutinefunction(method):
        await method()
    else:
        result = await asyncio.to_thread(method)
        if inspect.isawaitable(result):
            await result


@attrs.frozen(eq=False)
class Pipeline:
    """A compiled pipeline of an application."""

    app: App = attrs.field(repr=False)
    plan: Plan

    async def run(
        self,
        *,
        now: dt.datetime | None = None,
        seed: int = 0,
        request_id: str | None = None,
        **inputs: Any,
    ) -> Outcome:
        """Answer one request.

        Args:
            now: The request's clock; default: the data directory's, else the wall's.
            seed: The source of all randomness of the request.
            request_id: A name for logs; default: random.
            inputs: The pipeline's request parameters.

        Raises:
            RequestError: An input is wrong or missing, or a component failed that must not.
        """
        return await serve(self.app.runtime, self.plan, self.query(now, seed, request_id, inputs))

    def run_sync(
        self, *, now: dt.datetime | None = None, seed: int = 0, request_id: str | None = None, **inputs: Any
    ) -> Outcome:
        """As `run`, for scripts: inside `with app:`."""
        outcome: Outcome = self.app.run_coroutine(self.run(now=now, seed=seed, request_id=request_id, **inputs))
        return outcome

    def query(self, now: dt.datetime | None, seed: int, request_id: str | None, inputs: Mapping[str, Any]) -> Query:
        """The query of a request, its inputs checked.

        Raises:
            RequestError: An input is unknown, missing or of the wrong type.
        """
        known = self.plan.inputs
        for name in inputs:
            if name not in known:
                hint = nearest(name, known) or "it takes none"
                raise RequestError(f"pipeline {self.plan.name!r} has no input {name!r}: {hint}")
        dataset = self.app.dataset
        features: dict[QueryFeature[Any], Any] = {}
        for name, feature in known.items():
            if name in inputs:
                value = inputs[name]
            elif dataset is not None and name in dataset.defaults:
                value = dataset.defaults[name]
            elif feature.has_default:
                continue
            else:
                raise RequestError(f"pipeline {self.plan.name!r} needs the input {name!r} ({feature.type.__name__})")
            try:
                features[feature] = feature(value).value
            except ContractError as error:
                where = "" if name in inputs or dataset is None else f" (default_{name} of {dataset.path})"
                raise RequestError(f"input {name!r}{where}: {error}") from None
        given: dict[str, Any] = {} if request_id is None else {"request_id": request_id}
        clock = now if now is not None else (dataset.now if dataset is not None else None)
        if clock is not None and clock.tzinfo is None:
            raise RequestError(f"now: wanted a time with a zone, found {clock.isoformat()}")
        if clock is not None:
            given["now"] = clock
        return Query(seed=seed, features=features, **given)
