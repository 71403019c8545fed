"""One generation of a live application, and where the next one comes from."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import structlog

from candidate_pipeline.app import App
from candidate_pipeline.build import Built, BuiltResource, build
from candidate_pipeline.errors import CandidatePipelineError, MisconfigurationError
from candidate_pipeline.observe import Observer
from candidate_pipeline.pool import ResourcePool
from candidate_pipeline.registry import Registry
from candidate_pipeline.reloading.file_changes import Files, Look
from candidate_pipeline.reuse import Made, Place, Reuse
from candidate_pipeline.spec.dataset import FILE, default_data_dir
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.loader import load_spec
from candidate_pipeline.spec.model import Dataset
from candidate_pipeline.what_if.capture import Captures
from candidate_pipeline.what_if.writer import CaptureCounts

log = structlog.get_logger("candidate_pipeline")

#: How often files are read again that change while they are read.
_TRIES: Final = 5


@attrs.frozen(eq=False)
class Wanted:
    """What every generation of a live application has in common.

    Args:
        only: The pipelines whose resources are opened; `None`: all.
        drain: How long closing waits for requests and side effects.
        observers: What sees every request.
        captures: Where requests are recorded.
        captured: Counts what became of that, over all generations.
    """

    only: tuple[str, ...] | None
    drain: dt.timedelta
    observers: tuple[Observer, ...]
    captures: Captures | None
    captured: CaptureCounts = attrs.field(factory=CaptureCounts)


@attrs.define(eq=False)
class Generation:
    """A config that serves, or did.

    Args:
        number: Its number.
        app: Its application.
        built: What the application was made from.
        requests: How many requests it is answering.
        free: Set when it may close, after `close` was called.
    """

    number: int
    app: App
    built: Built
    requests: int = 0
    free: asyncio.Event = attrs.field(factory=asyncio.Event)
    _retired: bool = False

    def enter(self) -> None:
        """A request begins."""
        self.requests += 1

    def leave(self) -> None:
        """A request has ended."""
        self.requests -= 1
        if self._retired and not self.requests:
            self.free.set()

    def same_as(self, other: Generation) -> bool:
        """Whether every request would be answered by the same pipelines, over resources of the same names."""
        mine, theirs = self.built.plans, other.built.plans
        same = list(mine) == list(theirs) and all(mine[name] is theirs[name] for name in mine)
        named = self.built.uses == other.built.uses
        return same and named and self.app.dataset == other.app.dataset

    def take_over(self, before: Generation) -> None:
        """Go on with what the components of another generation keep, where they are the same."""
        there = before.built.plans
        plans = {plan: there[name] for name, plan in self.built.plans.items() if name in there}
        self.app.runtime.take_over(before.app.runtime, plans)

    async def close(self, drain: dt.timedelta) -> None:
        """Wait for the last request, then for side effects as long as `drain`, then close what nobody else uses."""
        self._retired = True
        try:
            if self.requests:
                await self._idle(drain.total_seconds())
        except asyncio.CancelledError:
            drain = dt.timedelta(0)
            raise
        finally:
            await self.app.close(drain)

    async def _idle(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.free.wait()
        except TimeoutError:
            log.warning("an older config still answers requests", generation=self.number, requests=self.requests)
            await self.free.wait()


@attrs.frozen(eq=False)
class Read:
    """What the files said.

    Args:
        files: Those that were read, or would be if they were there.
        built: What they describe.
        dataset: What `dataset.toml` says.
        error: Why there is nothing.
    """

    files: tuple[Path, ...]
    built: Built | None = None
    dataset: Dataset | None = None
    error: CandidatePipelineError | None = None

    def generation(self, wanted: Wanted, pool: ResourcePool, number: int) -> Generation:
        """The generation, not open yet.

        Raises:
            MisconfigurationError: A pipeline that is wanted is not there.
        """
        if self.built is None:
            raise MisconfigurationError("the config was not built")
        app = App(
            self.built,
            self.dataset,
            wanted.only,
            wanted.drain,
            wanted.observers,
            wanted.captures,
            pool=pool,
            generation=number,
            captured=wanted.captured,
        )
        return Generation(number, app, self.built)


@attrs.frozen(eq=False)
class Source:
    """Where a live application's config comes from.

    Args:
        path: The file.
        name: What messages call it.
        data: The data directory, if it is given.
        sets: Overrides.
        registry: Where names resolve.
    """

    path: Path
    name: str
    data: Path | None
    sets: tuple[str, ...]
    registry: Registry

    def settled(
        self, files: Files, known: Sequence[Path], made: Mapping[Place, Made], resources: Sequence[BuiltResource]
    ) -> tuple[Read, Look]:
        """What the files say, read once more when they changed meanwhile, and what they hold.

        Args:
            files: Looks at them.
            known: The files of before.
            made: Components and plans that may be taken over.
            resources: Open resources that may be taken over.
        """
        before = files.look(known)
        for _ in range(_TRIES):
            read = self.read(Reuse(made, resources), tuple(before))
            after = files.look(read.files)
            if after == before:
                break
            before = after
        return read, after

    def read(self, reuse: Reuse, known: tuple[Path, ...] = ()) -> Read:
        """What the files say now.

        Args:
            reuse: What may be taken over.
            known: The files of before, one of which may be missing now.
        """
        files = [self.path]
        try:
            document = Document.read(self.path, self.name)
            spec = load_spec(document, self.registry, data=self.data, sets=self.sets)
            files += spec.document.files
            if spec.document.lacking is not None:
                files.append(spec.document.lacking)
            directory = self.data
            if directory is None:
                directory = (
                    default_data_dir(spec.document, self.registry) if spec.dataset is None else spec.dataset.path
                )
            if directory is not None:
                files.append(directory / FILE)
            return Read(tuple(dict.fromkeys(files)), build(spec, reuse), spec.dataset)
        except CandidatePipelineError as error:
            failure = error
        except Exception as error:
            log.exception("reading the config failed", file=self.name)
            failure = MisconfigurationError(f"reading {self.name} failed: {type(error).__name__}: {error}")
        return Read(tuple(dict.fromkeys((*files, *known))), error=failure)
