"""Side effects: bounded, retried, and waited for when the application closes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import attrs
import structlog

from candidate_pipeline.engine.plan import EffectSettings, Node
from candidate_pipeline.errors import CandidatePipelineError, MisconfigurationError, RequestError
from candidate_pipeline.secrecy import NO_SECRETS, Secrets

#: One try of a side effect.
Run: TypeAlias = Callable[[], Awaitable[None]]
#: Hears of the end of a run.
Over: TypeAlias = Callable[[asyncio.Task[BaseException | None]], None]

#: Seconds that a cancelled try has to clean up before nobody waits for it any longer.
GRACE: Final = 1.0

log = structlog.get_logger("candidate_pipeline.engine")


class DroppedError(Exception):
    """A run of a side effect was never started; the message says why."""


class StuckError(TimeoutError):
    """A try outlived its time and goes on in spite of being cancelled."""


@attrs.frozen
class SideEffectCounts:
    """What became of the runs of one side effect.

    Args:
        done: Runs that succeeded.
        failed: Runs given up, after their last try failed or their deadline passed.
        retried: Failed tries after which the run went on to another.
        dropped: Runs that were never started, because too many were pending or the application was closing.
        pending: Runs that wait or run now, and tries that were given up but have not stopped yet.
        lost: Runs that were cancelled.
    """

    done: int = 0
    failed: int = 0
    retried: int = 0
    dropped: int = 0
    pending: int = 0
    lost: int = 0


@attrs.define(eq=False)
class _Tally:
    """The counters and tasks of one component."""

    done: int = 0
    failed: int = 0
    retried: int = 0
    dropped: int = 0
    lost: int = 0
    waited_for: int = 0
    runs: set[asyncio.Task[BaseException | None]] = attrs.field(factory=set)
    strays: set[asyncio.Task[None]] = attrs.field(factory=set)

    @property
    def pending(self) -> int:
        return len(self.runs) + len(self.strays) + self.waited_for

    def counts(self) -> SideEffectCounts:
        return SideEffectCounts(self.done, self.failed, self.retried, self.dropped, self.pending, self.lost)

    def start(self, task: asyncio.Task[BaseException | None]) -> None:
        self.runs.add(task)
        task.add_done_callback(self._ended)

    def leave(self, task: asyncio.Task[None]) -> None:
        """Keep a cancelled try that has not stopped: the loop itself does not keep its tasks alive."""
        self.strays.add(task)
        task.add_done_callback(self.strays.discard)

    def _ended(self, task: asyncio.Task[BaseException | None]) -> None:
        # Counted here and not in the run itself, which may be cancelled before its first step.
        self.runs.discard(task)
        self.lost += task.cancelled()


class Background:
    """Runs the side effects of one application, from its opening to its closing, on one event loop.

    Components are told apart by name. A failed try is repeated after `backoff` seconds, then after twice that, and so
    on, unless it raised `RequestError` or `MisconfigurationError` or did not stop when its time was up.
    """

    def __init__(self, secrets: Secrets = NO_SECRETS) -> None:
        """Start without side effects; no log is to hold the secrets."""
        self._secrets = secrets
        self._tallies: dict[str, _Tally] = {}
        self._closed = False

    def start(self, node: Node, run: Run, request_id: str, over: Over | None = None) -> bool:
        """Start a side effect that nobody waits for, or drop it, with a warning in the log.

        Args:
            node: The side effect.
            run: Makes one try.
            request_id: The request's name, for the log.
            over: Called with the run's task when it is over: it was cancelled, or returned its last error, if any.

        Returns:
            Whether it was started.
        """
        settings, tally = _settings(node), self._tally(node)
        if self._closed or tally.pending >= settings.max_pending:
            tally.dropped += 1
            why = "the application is closing" if self._closed else f"{tally.pending} are pending"
            log.warning("side effect dropped", component=node.name, request_id=request_id, why=why)
            return False
        tries = self._tries(node, settings, run, request_id, None, GRACE)
        task = asyncio.get_running_loop().create_task(tries, name=f"side effect {node.name}")
        tally.start(task)
        if over is not None:
            task.add_done_callback(over)
        return True

    async def run_now(self, node: Node, run: Run, request_id: str, until: float | None = None) -> BaseException | None:
        """Run a side effect that the response waits for; `max_pending` does not limit it.

        Args:
            node: The side effect.
            run: Makes one try.
            request_id: The request's name, for the log.
            until: When to give up, in the loop's time; a retry that could not start before is not waited for.

        Returns:
            The error of the last try, which was logged, or `None` on success. Nothing is raised but the caller's own
            cancellation.
        """
        settings, tally = _settings(node), self._tally(node)
        tally.waited_for += 1
        try:
            return await self._tries(node, settings, run, request_id, until, 0.0)  # a response waits for no clean-up
        except asyncio.CancelledError:
            tally.lost += 1
            raise
        finally:
            tally.waited_for -= 1

    async def drain(self, limit_s: float) -> None:
        """Wait for all side effects; after the limit cancel the rest and log how many that were. No more are started.

        What swallows its cancellation is left behind after a second, with an error in the log.

        Args:
            limit_s: How long to wait, in seconds.
        """
        try:
            await self._settle(limit_s)
        finally:
            self._closed = True
            before = {name: tally.lost for name, tally in self._tallies.items()}
            for task in self._tasks():
                task.cancel()
        await self._settle(GRACE)
        for name, tally in self._tallies.items():
            if lost := tally.lost - before.get(name, 0):
                log.error("side effects lost", component=name, lost=lost, limit_s=limit_s)
            if tally.strays:
                log.error("side effects do not stop when cancelled", component=name, left=len(tally.strays))

    def counts(self) -> Mapping[str, SideEffectCounts]:
        """The counters by component, as they are now."""
        return {name: tally.counts() for name, tally in self._tallies.items()}

    def _tally(self, node: Node) -> _Tally:
        return self._tallies.setdefault(node.name, _Tally())

    def _tasks(self) -> list[asyncio.Task[Any]]:
        return [task for tally in self._tallies.values() for task in (*tally.runs, *tally.strays)]

    async def _settle(self, seconds: float) -> None:
        """Wait until nothing runs, for no longer than a time."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (tasks := self._tasks()) and (left := end - loop.time()) > 0:
            await asyncio.wait(tasks, timeout=left)

    async def _tries(
        self, node: Node, settings: EffectSettings, run: Run, request_id: str, until: float | None, grace: float
    ) -> BaseException | None:
        loop = asyncio.get_running_loop()
        tally = self._tally(node)
        pause = settings.backoff
        attempts = 0
        error: BaseException = TimeoutError("there was no time left for it in the request")
        while until is None or loop.time() < until:
            attempts += 1
            failure = await _try(node, settings, run, until, grace, tally)
            if failure is None:
                tally.done += 1
                return None
            error = failure
            again = attempts <= settings.retries and _is_worth_another_try(error)
            if not again or (until is not None and loop.time() + pause >= until):
                break
            tally.retried += 1
            await asyncio.sleep(pause)
            pause *= 2
        tally.failed += 1
        log.error(
            "side effect failed",
            component=node.name,
            request_id=request_id,
            attempts=attempts,
            error=self._secrets.hide(_line(error)),
            **self._secrets.logged(error),
        )
        return error


async def _try(
    node: Node, settings: EffectSettings, run: Run, until: float | None, grace: float, tally: _Tally
) -> BaseException | None:
    """Make one try, as a task of its own: only that can be left alone when it swallows its cancellation."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    end = start + settings.timeout if until is None else min(start + settings.timeout, until)
    task = loop.create_task(_call(run), name=f"side effect {node.name}, one try")
    task.add_done_callback(_look)
    try:
        await asyncio.wait({task}, timeout=end - start)
        if task.done():
            return _error(task)
        late = f"timed out after {(loop.time() - start) * 1000:.0f} ms"
        if until is not None and loop.time() >= until:
            late += " (the end of the request's time)"
        task.cancel()
        await asyncio.wait({task}, timeout=grace)
    except asyncio.CancelledError:
        task.cancel()
        raise
    finally:
        if not task.done():
            tally.leave(task)
    if not task.done():
        return StuckError(f"{late}; it was cancelled and has not stopped yet")
    error = TimeoutError(late)
    error.__cause__ = None if task.cancelled() else task.exception()
    return error


async def _call(run: Run) -> None:
    await run()


def _look(task: asyncio.Task[None]) -> None:
    """Look at a try's exception, lest asyncio complain that nobody did."""
    if not task.cancelled():
        task.exception()


def _error(task: asyncio.Task[None]) -> BaseException | None:
    return RuntimeError("the side effect cancelled itself") if task.cancelled() else task.exception()


def _is_worth_another_try(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, RequestError | MisconfigurationError | StuckError)


def _line(error: BaseException) -> str:
    if isinstance(error, CandidatePipelineError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _settings(node: Node) -> EffectSettings:
    if node.effect is None:
        raise MisconfigurationError(f"{node.name} ({node.use}) is a {node.kind}, not a side effect")
    return node.effect
