"""An application that follows its files: what changes in them counts from the next request on."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import attrs
import structlog

from candidate_pipeline.app import DRAIN, App
from candidate_pipeline.build import BuiltResource
from candidate_pipeline.components import ReportValue
from candidate_pipeline.engine.plan import Plan
from candidate_pipeline.engine.runtime import Runtime
from candidate_pipeline.errors import CandidatePipelineError, MisconfigurationError
from candidate_pipeline.observe import Observer
from candidate_pipeline.outcome import Outcome
from candidate_pipeline.pool import ResourcePool
from candidate_pipeline.registry import Registry, installed
from candidate_pipeline.reloading.attempts import Attempts
from candidate_pipeline.reloading.file_changes import Files, Look
from candidate_pipeline.reloading.generation import Generation, Source, Wanted
from candidate_pipeline.secrecy import Secrets
from candidate_pipeline.spec.model import Dataset
from candidate_pipeline.spec.problems import Problem, SpecError
from candidate_pipeline.what_if.capture import Captures
from candidate_pipeline.what_if.writer import CaptureCounts

log = structlog.get_logger("candidate_pipeline")

#: How often a live application looks at its files.
POLL: Final = dt.timedelta(seconds=1)
#: Under this name `Live.reports` tells of the application itself; no component or resource can have it.
REPORT: Final = "(live)"


def live(
    config: str | Path = "pipelines.toml",
    *,
    data: str | Path | None = None,
    sets: Sequence[str] = (),
    only: Iterable[str] | None = None,
    registry: Registry | None = None,
    drain: dt.timedelta = DRAIN,
    observers: Sequence[Observer] = (),
    captures: Captures | None = None,
    poll: dt.timedelta | None = POLL,
) -> Live:
    """The pipelines of a TOML file, followed as the file changes; for a process that runs an event loop.

    Args:
        config: The file.
        data: A data directory; its `dataset.toml` is applied. Default: the one the spec's resources read.
        sets: Overrides, `"components.age.max_age='7d'"` each; they hold for every reload.
        only: The pipelines whose resources will be opened; default: all.
        registry: Where names resolve; default: installed plugins.
        drain: How long closing waits for requests and side effects.
        observers: What sees every request. One with a method `reloaded` gets every `Reload`.
        captures: Where requests are recorded.
        poll: How often the files are looked at; `None`: never, only `reload` counts.

    Returns:
        The application: `async with live(...) as app: await app["for_you"].run(viewer=42)`. Nothing is read before.
    """
    if poll is not None and poll <= dt.timedelta(0):
        raise MisconfigurationError(f"poll: wanted a time above 0, or None to reload by hand only, found {poll}")
    source = Source(
        Path(config).absolute(),
        str(config),
        None if data is None else Path(data).absolute(),
        tuple(sets),
        installed() if registry is None else registry,
    )
    wanted = Wanted(None if only is None else tuple(only), drain, tuple(observers), captures)
    return Live(source, wanted, poll)


@attrs.frozen
class Reload:
    """What came of a reload.

    Args:
        generation: The generation that serves after it.
        changed: Whether that is a new one.
        kept: The open resources that were the same, by name.
        opened: The resources that were opened.
        closing: The resources that close when the last request that uses them has ended.
        error: Why the generation before goes on, if the config could not be used.
    """

    generation: int
    changed: bool
    kept: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()
    closing: tuple[str, ...] = ()
    error: CandidatePipelineError | None = None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The mistakes in the config."""
        return tuple(self.error.problems) if isinstance(self.error, SpecError) else ()


class Live:
    """Pipelines by name, as an `App`, of the newest config that could be used.

    Each config that takes effect is a *generation*, numbered from 0. A request is answered by the generation that it
    began in, wholly: nested pipelines and side effects too. What a generation has in common with the one before goes
    on: resources that are made of the same class and options stay open, components keep their caches, breakers and
    threads. The rest of the old generation closes after its last request and side effect.

    A config with mistakes, or with a resource that does not open, changes nothing: the generation before goes on, and
    `last_error` says why. Code is never reloaded.

    Attributes:
        last_error: Why the newest config is not the one that serves; `None`: it is.
        failed: How many reloads failed.
    """

    def __init__(self, source: Source, wanted: Wanted, poll: dt.timedelta | None) -> None:
        """`live` makes it."""
        self.last_error: CandidatePipelineError | None = None
        self.failed = 0
        self._source = source
        self._wanted = wanted
        self._poll = poll
        self._pool = ResourcePool()
        self._files = Files()
        self._paths: tuple[Path, ...] = (source.path,)
        self._seen: Look | None = None
        self._tried: Look | None = None
        self._told: tuple[Look | None, str] | None = None
        self._secrets = Secrets()
        self._generation = 0
        self._current: Generation | None = None
        self._older: set[Generation] = set()
        self._attempts = Attempts(self._attempt)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._entered = False

    # Reading

    def __getitem__(self, name: str) -> LivePipeline:
        """A pipeline by name; it stays good over reloads.

        Raises:
            MisconfigurationError: There is none of that name, or the application is not open.
        """
        _ = self.app[name]
        return LivePipeline(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.app)

    def __len__(self) -> int:
        return len(self.app)

    @property
    def is_open(self) -> bool:
        """Whether requests are answered."""
        return self._current is not None

    @property
    def generation(self) -> int:
        """The number of the generation that serves, from 0: how often a reload changed something."""
        return self._generation

    @property
    def app(self) -> App:
        """The generation that serves, to look at; for requests, `hold` it.

        Raises:
            MisconfigurationError: The application is not open.
        """
        return self._serving().app

    @property
    def dataset(self) -> Dataset | None:
        """What `dataset.toml` says."""
        return self.app.dataset

    @property
    def captures(self) -> CaptureCounts | None:
        """What became of captures, of all generations together; `None`: there is no folder for them."""
        return None if self._wanted.captures is None else self._wanted.captured

    @property
    def runtime(self) -> Runtime:
        """What the generation that serves keeps between requests."""
        return self.app.runtime

    def resource(self, name: str) -> Any:
        """A resource instance by name, of the generation that serves."""
        return self.app.resource(name)

    def reports(self) -> dict[str, dict[str, ReportValue]]:
        """As `App.reports`, and under `"(live)"` what became of reloads."""
        error = self.last_error
        own: dict[str, ReportValue] = {
            "generation": self.generation,
            "older_generations": len(self._older),
            "failed_reloads": self.failed,
            "last_error": None if error is None else self._shown(error).partition("\n")[0],
        }
        return {**self.app.reports(), REPORT: own}

    @contextlib.contextmanager
    def hold(self) -> Iterator[App]:
        """The generation that serves now, kept open for as long as the block runs; for requests that belong together.

        Raises:
            MisconfigurationError: The application is not open.
        """
        generation = self._serving()
        generation.enter()
        try:
            yield generation.app
        finally:
            generation.leave()

    def _serving(self) -> Generation:
        if self._current is None:
            raise MisconfigurationError("the application is not open: use `async with live(...) as app:`")
        return self._current

    # Opening and closing

    async def __aenter__(self) -> Self:
        """Read the config, open the resources and begin to watch the files.

        Raises:
            SpecError: The config has mistakes.
            MisconfigurationError: A resource cannot be opened, or the application is open already.
        """
        if self._entered:
            raise MisconfigurationError("the application is open already")
        self._entered = True
        self._generation = self.failed = 0
        self._attempts = Attempts(self._attempt)
        try:
            first = await self._attempts.ask()
            if first.error is not None:
                raise first.error
        except BaseException as error:  # cancelled, perhaps when the config had just taken effect
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        if self._poll is not None:
            self._watcher = asyncio.create_task(self._watch(self._poll.total_seconds()), name="watch config")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take no more requests, wait for those under way and for side effects, then close everything."""
        current, self._current = self._current, None
        watcher, self._watcher = self._watcher, None
        if current is not None:
            self._retire(current)
        if watcher is not None:
            watcher.cancel()
            self._tasks.add(watcher)
            watcher.add_done_callback(self._tasks.discard)
        hurry = asyncio.get_running_loop().call_later(self._wanted.drain.total_seconds(), self._hurry)
        try:
            await self._ended()
        except asyncio.CancelledError:
            for task in self._tasks:
                task.cancel()
            await self._ended(hurry=True)
            raise
        finally:
            hurry.cancel()
            self._entered = False

    async def _ended(self, *, hurry: bool = False) -> None:
        closed = MisconfigurationError("the application was closed while its config was reloaded")
        await self._attempts.close(closed, hurry=hurry)
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _hurry(self) -> None:
        for generation in self._older:
            if generation.requests:
                what = "requests are still running, and the application closes"
                log.error(what, generation=generation.number, requests=generation.requests)
            generation.free.set()

    def _start(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("closing an application failed", **self._secrets.logged(error))

    def _retire(self, generation: Generation) -> None:
        self._older.add(generation)
        self._start(self._close(generation), f"close generation {generation.number}")

    async def _close(self, generation: Generation) -> None:
        try:
            await generation.close(self._wanted.drain)
        finally:
            self._older.discard(generation)

    # Reloading

    async def reload(self) -> Reload:
        """Read the files now; the result is that of a reload that began after this call.

        Calls during a reload share the next one. When all who wait for a reload are cancelled, it is given up.

        Raises:
            SpecError: The config has mistakes; the generation before goes on.
            MisconfigurationError: A resource cannot be opened, or the application is not open.
        """
        self._serving()
        reload = await self._attempts.ask()
        if reload.error is not None:
            raise reload.error
        return reload

    async def check(self) -> Reload | None:
        """Look at the files, as is done every `poll`; reload if two looks in a row found the same new content.

        Returns:
            What came of the reload, its error included; `None`: there was nothing to do.
        """
        self._serving()
        return await self._attempts.ask(supersede=True) if await self._changed() else None

    async def _watch(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            try:
                if await self._changed():
                    # Not waited for: what comes next may mend a config whose resource hangs while it opens.
                    self._start(_quietly(self._attempts.ask(supersede=True)), "reload config")
            except Exception:
                log.exception("looking at the config failed", files=[str(path) for path in self._paths])

    async def _changed(self) -> bool:
        seen = await asyncio.to_thread(self._files.look, self._paths)
        settled, self._seen = seen == self._seen, seen
        if not settled or seen == self._tried:
            return False
        self._tried = seen
        return True

    async def _attempt(self) -> Reload:
        """Read, build, open, and let the new generation serve."""
        before = self._pool.share()
        try:
            reload = await self._tried_with(before)
            self._tell(reload)
            return reload
        finally:
            await self._pool.release(before)

    async def _tried_with(self, before: Sequence[BuiltResource]) -> Reload:
        current = self._current
        made = {} if current is None else current.built.made
        try:
            read, tried = await asyncio.to_thread(self._source.settled, self._files, self._paths, made, before)
            self._paths, self._tried = tuple(tried), tried
            if read.built is not None:
                self._secrets = read.built.secrets
            if read.error is not None:
                raise read.error
            return await self._replace(current, read.generation(self._wanted, self._pool, self._next), before)
        except CandidatePipelineError as error:
            return self._refused(error)
        except Exception as error:
            log.error("reloading the config failed", **self._secrets.logged(error))  # noqa: TRY400
            return self._refused(MisconfigurationError(f"reloading failed: {type(error).__name__}: {error}"))

    @property
    def _next(self) -> int:
        return self._generation if self._current is None else self._generation + 1

    async def _replace(self, current: Generation | None, new: Generation, before: Sequence[BuiltResource]) -> Reload:
        if current is not None and new.same_as(current):
            self._good()
            return Reload(self._generation, False, kept=tuple(each.name for each in current.app.opened))
        await new.app.__aenter__()
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # a resource swallowed the cancellation
            await new.close(dt.timedelta(0))
            raise asyncio.CancelledError
        # Nothing is awaited from here on, so that every request finds either the one generation or the other.
        known = {id(each.instance) for each in before}
        here = {id(each.instance) for each in new.app.opened}
        closing: tuple[str, ...] = ()
        if current is not None:
            new.take_over(current)
        self._generation, self._current = new.number, new
        self._good()
        if current is not None:
            self._retire(current)
            closing = tuple(each.name for each in current.app.opened if id(each.instance) not in here)
        kept = tuple(each.name for each in new.app.opened if id(each.instance) in known)
        opened = tuple(each.name for each in new.app.opened if id(each.instance) not in known)
        return Reload(new.number, True, kept, opened, closing)

    def _good(self) -> None:
        self.last_error = self._told = None

    def _refused(self, error: CandidatePipelineError) -> Reload:
        if self._current is not None:
            self.failed += 1
            self.last_error = error
        return Reload(self._generation, False, error=error)

    def _shown(self, error: CandidatePipelineError) -> str:
        """An error without what came from the environment, for a resource that does not open may tell of that."""
        return self._secrets.hide(str(error))

    def _tell(self, reload: Reload) -> None:
        """Log a reload, the same failure once, and pass it on."""
        if reload.error is not None:
            told = (self._tried, self._shown(reload.error))
            if self.is_open and told != self._told:
                what = "the config cannot be used; the one before goes on"
                log.error(what, generation=reload.generation, problems=len(reload.problems), error=told[1])
            self._told = told
        elif reload.changed:
            lists = {"kept": reload.kept, "opened": reload.opened, "closing": reload.closing}
            log.info("config loaded", generation=reload.generation, **{name: list(of) for name, of in lists.items()})
        for observer in self._wanted.observers:
            hears = getattr(observer, "reloaded", None)
            try:
                if hears is not None:
                    hears(reload)
            except (Exception, asyncio.CancelledError) as error:  # it must not spoil what it watches
                said = self._secrets.logged(error)
                log.error("an observer failed", observer=type(observer).__name__, **said)  # noqa: TRY400


async def _quietly(work: Coroutine[Any, Any, Reload]) -> None:
    """Wait for a reload whose result is told elsewhere."""
    with contextlib.suppress(asyncio.CancelledError, CandidatePipelineError):
        await work


@attrs.frozen(eq=False)
class LivePipeline:
    """A pipeline of a live application: each request is answered by the generation that serves when it begins."""

    live: Live = attrs.field(repr=False)
    name: str

    @property
    def plan(self) -> Plan:
        """The compiled pipeline of the generation that serves."""
        return self.live.app[self.name].plan

    async def run(
        self,
        *,
        now: dt.datetime | None = None,
        seed: int = 0,
        request_id: str | None = None,
        capture: bool = False,
        **inputs: Any,
    ) -> Outcome:
        """As `Pipeline.run`.

        Raises:
            RequestError: An input is wrong or missing, or a component failed that must not.
            MisconfigurationError: The config has no such pipeline any more, the application is not open, or a capture
                is asked for without a folder of captures.
        """
        with self.live.hold() as app:
            pipeline = app[self.name]
            return await pipeline.run(now=now, seed=seed, request_id=request_id, capture=capture, **inputs)
