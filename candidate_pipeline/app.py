"""A loaded spec: open its resources, run its pipelines."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import attrs

from candidate_pipeline.build import Built, BuiltResource, build
from candidate_pipeline.components import Reporting, ReportValue
from candidate_pipeline.engine.plan import Plan
from candidate_pipeline.engine.recording import Recorder
from candidate_pipeline.engine.runtime import Runtime
from candidate_pipeline.engine.serve import serve
from candidate_pipeline.errors import (
    ContractError,
    MisconfigurationError,
    RequestError,
)
from candidate_pipeline.keys import QueryFeature
from candidate_pipeline.observe import Observer
from candidate_pipeline.outcome import Outcome
from candidate_pipeline.pool import ResourcePool
from candidate_pipeline.query import Query
from candidate_pipeline.registry import Registry, installed
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.loader import load_spec
from candidate_pipeline.spec.model import Dataset
from candidate_pipeline.spec.problems import nearest
from candidate_pipeline.what_if.capture import Captures
from candidate_pipeline.what_if.writer import CaptureCounts, CaptureWriter

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
    observers: Sequence[Observer] = (),
    captures: Captures | None = None,
) -> App:
    """Read, check and build the pipelines of a TOML file; nothing is opened yet.

    Args:
        config: The file.
        data: A data directory; its `dataset.toml` is applied. Default: the one the spec's resources read.
        sets: Overrides, `"components.age.max_age='7d'"` each.
        only: The pipelines whose resources will be opened; default: all.
        registry: Where names resolve; default: installed plugins.
        drain: How long closing waits for side effects.
        observers: What sees every request.
        captures: Where requests are recorded.

    Returns:
        The application: `async with load(...) as app: await app["for_you"].run(viewer=42)`.

    Raises:
        SpecError: The file or an override has mistakes; all are listed.
    """
    document = Document.read(Path(config))
    return load_document(
        document,
        data=data,
        sets=sets,
        only=only,
        registry=registry,
        drain=drain,
        observers=observers,
        captures=captures,
    )


def load_document(
    document: Document,
    *,
    data: str | Path | None = None,
    sets: Sequence[str] = (),
    only: Iterable[str] | None = None,
    registry: Registry | None = None,
    drain: dt.timedelta = DRAIN,
    observers: Sequence[Observer] = (),
    captures: Captures | None = None,
) -> App:
    """As `load`, from a document in memory: `load_document(Document(text))`."""
    where = None if data is None else Path(data)
    spec = load_spec(document, installed() if registry is None else registry, data=where, sets=sets)
    wanted = None if only is None else tuple(only)
    return App(build(spec), spec.dataset, only=wanted, drain=drain, observers=observers, captures=captures)


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
        observers: Sequence[Observer] = (),
        captures: Captures | None = None,
        pool: ResourcePool | None = None,
        generation: int = 0,
        captured: CaptureCounts | None = None,
    ) -> None:
        """Wrap a built spec; `load`, `compose` and `live` call this.

        `pool` opens the resources; by default nobody shares them. `generation` is how often it had been reloaded.
        `captured` counts what becomes of captures, by default of its own alone.
        """
        self.dataset = dataset
        self._built = built
        self._only = only
        self._pool = ResourcePool() if pool is None else pool
        self._opened: list[BuiltResource] = []
        self._generation = generation
        self._runtime: Runtime | None = None
        self._runner: asyncio.Runner | None = None
        self._drain = drain
        self._observers = tuple(observers)
        self.captures: CaptureWriter | None = None
        if captures is not None:
            name = "" if dataset is None else dataset.name
            self.captures = CaptureWriter(captures, built.secrets, captured or CaptureCounts(), name)
        self._opening = asyncio.Lock()
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
    def opened(self) -> tuple[BuiltResource, ...]:
        """The resources that are open for this application, each after those it needs."""
        return tuple(self._opened)

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
        self._runtime = Runtime(observers=self._observers, secrets=self._built.secrets, generation=self._generation)
        names = self._built.plans if self._only is None else self._only
        wanted = {resource for name in names for resource in self._built.uses[name]}
        try:
            for name, resource in self._built.resources.items():
                if name in wanted:
                    await self._pool.acquire(resource, self._drain.total_seconds())
                    self._opened.append(resource)
        except BaseException:
            await self._release()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for side effects, for as long as `drain` says, then close the resources in reverse order."""
        await self.close(self._drain)

    async def close(self, drain: dt.timedelta) -> None:
        """As leaving `async with app:`, with a time of its own for the side effects."""
        try:
            if self._runtime is not None:
                await self._runtime.close(drain.total_seconds())
        finally:  # whoever interrupts one leaves nothing of the others behind
            try:
                if self.captures is not None:
                    await self.captures.drain()
            finally:
                await self._release()

    async def open_for(self, components: Iterable[Any]) -> None:
        """Open the resources that some components of this application use and that are not open yet.

        For those who run parts of a pipeline that was left out of `only`, such as replays.

        Raises:
            MisconfigurationError: The application is not open, or a resource cannot be opened.
        """
        _ = self.runtime  # which says so if the application is not open
        known = {id(resource.instance): name for name, resource in self._built.resources.items()}
        used = [value for component in components for value in _field_values(component)]
        left, wanted = [known[id(value)] for value in used if id(value) in known], set()
        while left:
            name = left.pop()
            if name not in wanted:
                wanted.add(name)
                left += self._built.resources[name].needs
        async with self._opening:
            opened = {resource.name for resource in self._opened}
            for name, resource in self._built.resources.items():
                if name in wanted and name not in opened:
                    await self._pool.acquire(resource, self._drain.total_seconds())
                    self._opened.append(resource)

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

    async def _release(self) -> None:
        opened, self._opened = self._opened, []
        try:
            await self._pool.release(opened)
        finally:
            if self._runtime is not None:
                self._runtime.release()
                self._runtime = None

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


def _field_values(component: Any) -> list[Any]:
    """What the fields of a component hold, lists of resources taken apart."""
    if not attrs.has(type(component)):
        return []
    found: list[Any] = []
    for field in attrs.fields(type(component)):
        value = getattr(component, field.name, None)
        found += value if isinstance(value, list | tuple) else [value]
    return found


def _report(reporting: Reporting) -> dict[str, ReportValue]:
    try:
        report: dict[Any, Any] = dict(reporting.report())
        for name, value in report.items():
            if not isinstance(name, str) or not isinstance(value, ReportValue | None):
                raise TypeError(f"wanted text, a number or None under a text, found {name!r}: {value!r}")
    except Exception as error:  # it must not spoil what it tells about
        return {"report_failed": f"{type(error).__name__}: {error}"}
    return report


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
        capture: bool = False,
        **inputs: Any,
    ) -> Outcome:
        """Answer one request.

        Args:
            now: The request's clock; default: the data directory's, else the wall's.
            seed: The source of all randomness of the request.
            request_id: A name for logs and captures; default: random.
            capture: Record the request whether or not it is in the sample; it is written down when this returns. A
                request that fails is not recorded.
            inputs: The pipeline's request parameters.

        Raises:
            RequestError: An input is wrong or missing, or a component failed that must not.
            MisconfigurationError: A capture is asked for, but the application has no folder of captures.
        """
        query, writer = self.query(now, seed, request_id, inputs), self.app.captures
        if writer is None and capture:
            raise MisconfigurationError("no folder for captures: use load(..., captures=Captures(folder))")
        if writer is None or not writer.wanted(query.request_id, asked=capture):
            return await serve(self.app.runtime, self.plan, query)
        recorder = Recorder(self.plan, query)
        outcome = await serve(self.app.runtime, self.plan, query, recorder=recorder)
        written = writer.submit(recorder, outcome, asked=capture)
        if capture and written is not None:
            await asyncio.shield(written)  # it is written down even if nobody waits any more
        return outcome

    def run_sync(
        self,
        *,
        now: dt.datetime | None = None,
        seed: int = 0,
        request_id: str | None = None,
        capture: bool = False,
        **inputs: Any,
    ) -> Outcome:
        """As `run`, for scripts: inside `with app:`."""
        request = self.run(now=now, seed=seed, request_id=request_id, capture=capture, **inputs)
        outcome: Outcome = self.app.run_coroutine(request)
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
