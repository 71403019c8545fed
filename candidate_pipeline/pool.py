"""Open resources, counted by those who use them: opened for the first, closed after the last."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs
import structlog

from candidate_pipeline.build import BuiltResource
from candidate_pipeline.errors import CandidatePipelineError, MisconfigurationError

log = structlog.get_logger("candidate_pipeline")

#: Seconds to wait for a thread that closes a resource when whoever closes it is cancelled.
GRACE: Final = 1.0


@attrs.define(eq=False)
class _Held:
    resource: BuiltResource
    shares: int = 1


class ResourcePool:
    """The resources that are open. An application has a pool of its own; generations of one application share one.

    Whoever has a share of a resource has shares of those that it needs, and gives its shares back in reverse, so that
    nothing is closed before what depends on it. For one event loop.
    """

    def __init__(self) -> None:
        """Start with nothing open."""
        self._held: dict[int, _Held] = {}

    @property
    def open(self) -> tuple[BuiltResource, ...]:
        """What is open, each after those it needs."""
        return tuple(held.resource for held in self._held.values())

    def share(self) -> tuple[BuiltResource, ...]:
        """Take a share of all that is open, so that none of it closes meanwhile."""
        for held in self._held.values():
            held.shares += 1
        return self.open

    async def acquire(self, resource: BuiltResource, patience: float) -> None:
        """Take a share of a resource; open it if nobody has one.

        A plain `open` runs in a thread, which cannot be interrupted. Whoever is cancelled meanwhile waits for it for a
        while, to close what it has opened; if it takes longer, the thread will close it.

        Args:
            resource: What to open.
            patience: Seconds to wait for a thread when cancelled.

        Raises:
            MisconfigurationError: It cannot be opened. An error of this project's own keeps its class.
        """
        held = self._held.get(id(resource.instance))
        if held is not None:
            held.shares += 1
            return
        try:
            await _open(resource, patience)
        except CandidatePipelineError as error:
            error.args = tuple(resource.secrets.hide(each) if isinstance(each, str) else each for each in error.args)
            error.add_note(f"while opening the resource {resource.name!r} ({type(resource.instance).__name__})")
            raise
        except Exception as error:
            what = f"opening the resource {resource.name!r} ({type(resource.instance).__name__}) failed"
            raise MisconfigurationError(
                f"{what}: {type(error).__name__}: {resource.secrets.hide(str(error))}"
            ) from error
        self._held[id(resource.instance)] = _Held(resource)

    async def release(self, resources: Iterable[BuiltResource]) -> None:
        """Give shares back, in reverse; what nobody has a share of any more is closed, whatever happens meanwhile.

        Raises:
            CancelledError: The caller was cancelled; everything was closed all the same.
        """
        stopped: BaseException | None = None
        for resource in reversed(tuple(resources)):
            held = self._held[id(resource.instance)]
            held.shares -= 1
            if held.shares:
                continue
            del self._held[id(resource.instance)]
            try:
                await _close(resource)
            except BaseException as error:  # cancelled: the others must be closed all the same
                stopped = error
        if stopped is not None:
            raise stopped


async def _close(resource: BuiltResource) -> None:
    """Close a resource; a plain `close` runs in a thread, for it may take long, and goes on when this is cancelled."""
    close = resource.instance.close
    try:
        result = close() if inspect.iscoroutinefunction(close) else await _in_thread(close)
        if inspect.isawaitable(result):
            await result
    except Exception as error:
        log.error("closing a resource failed", resource=resource.name, **resource.secrets.logged(error))  # noqa: TRY400


async def _in_thread(function: Callable[[], Any]) -> Any:
    """Call a plain def in a thread. Whoever is cancelled waits a moment, so that what comes next comes after it."""
    context = contextvars.copy_context()
    future = asyncio.get_running_loop().run_in_executor(None, context.run, function)
    future.add_done_callback(_look)
    try:
        await asyncio.wait({future})
    except asyncio.CancelledError:
        await asyncio.wait({future}, timeout=GRACE)
        raise
    return future.result()


async def _open(resource: BuiltResource, patience: float) -> None:
    if inspect.iscoroutinefunction(resource.instance.open):
        await resource.instance.open()
        return
    thread = _Opening(resource)
    context = contextvars.copy_context()
    future = asyncio.get_running_loop().run_in_executor(None, context.run, thread.run)
    future.add_done_callback(_look)
    try:
        await asyncio.wait({future})
    except asyncio.CancelledError:
        if await thread.given_up(future, patience) and future.exception() is None:
            await _close(resource)
        raise
    result = future.result()
    if inspect.isawaitable(result):
        await result


class _Opening:
    """A plain `open` in a thread, which closes what it has opened itself when nobody waits for it any more."""

    def __init__(self, resource: BuiltResource) -> None:
        self._resource = resource
        self._lock = threading.Lock()
        self._over = self._left = False

    def run(self) -> Any:
        """Open it."""
        try:
            result = self._resource.instance.open()
        finally:
            with self._lock:
                self._over = True
        if self._left:
            if inspect.iscoroutine(result):
                result.close()
            self._close()
        return result

    async def given_up(self, future: asyncio.Future[Any], patience: float) -> bool:
        """Wait for the thread no longer than a while; whether it has ended."""
        with contextlib.suppress(asyncio.CancelledError):  # cancelled again: there is no time to wait
            await asyncio.wait({future}, timeout=patience)
        with self._lock:
            self._left = not self._over
        if self._left:
            what = "opening a resource cannot be interrupted; it will be closed when it has been opened"
            log.error(what, resource=self._resource.name)
            return False
        await asyncio.wait({future})
        return True

    def _close(self) -> None:
        close = self._resource.instance.close
        try:
            result = asyncio.run(close()) if inspect.iscoroutinefunction(close) else close()
            if inspect.iscoroutine(result):
                result.close()
        except Exception as error:
            found = self._resource.secrets.logged(error)
            log.error("closing a resource failed", resource=self._resource.name, **found)  # noqa: TRY400


def _look(future: asyncio.Future[Any]) -> None:
    """Look at the exception, lest asyncio complain that nobody did."""
    if not future.cancelled():
        future.exception()
