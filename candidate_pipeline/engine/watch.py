"""Telling observers what happens in a request, so that nothing they do can harm it.

Without observers none of this exists: `Calls.watch` is `None`, and that is all that the engine looks at.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import structlog

from candidate_pipeline.engine.trace import ComponentTrace, Trace
from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.observe import CallInfo, CallObserver, Observer, RequestInfo, RequestObserver
from candidate_pipeline.secrecy import NO_SECRETS, Secrets

if TYPE_CHECKING:
    from candidate_pipeline.outcome import Outcome

T = TypeVar("T")
log = structlog.get_logger("candidate_pipeline.observe")


def checked_observers(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    """Observers as a tuple.

    Raises:
        MisconfigurationError: One of them is none, for example a class instead of an instance.
    """
    found = tuple(observers)
    for each in found:
        if isinstance(each, type) or not callable(getattr(each, "request", None)):
            hint = f"; did you mean {each.__name__}()?" if isinstance(each, type) else ""
            raise MisconfigurationError(f"observers: wanted an object with a method request, found {each!r:.80}{hint}")
    return found


@attrs.define(eq=False)
class Observers:
    """An application's observers.

    Args:
        observers: The observers.
        secrets: What no log may hold; an error that an observer raises may have a component's as its context.
    """

    observers: tuple[Observer, ...] = attrs.field(default=(), converter=checked_observers)
    secrets: Secrets = NO_SECRETS
    _complained: set[int] = attrs.field(factory=set, init=False)

    def watch(self, request: RequestInfo) -> Watch | None:
        """Tell them that a request begins; `None` if none of them wants to hear of it."""
        heard = []
        for observer in self.observers:
            one = self.safely(observer, observer.request, request)
            if one is not None:
                heard.append((observer, one))
        return Watch(self, tuple(heard)) if heard else None

    def safely(self, observer: Observer, hook: Callable[..., T], *args: Any) -> T | None:
        """Call an observer; what it raises is logged the first time that it does."""
        try:
            return hook(*args)
        except (Exception, asyncio.CancelledError) as error:
            if id(observer) not in self._complained:
                self._complained.add(id(observer))
                name, method = type(observer).__name__, getattr(hook, "__qualname__", repr(hook))
                log.error(  # noqa: TRY400
                    "an observer raised; the request goes on, and it will not be reported again",
                    observer=name,
                    method=method,
                    error=self.secrets.hide(f"{type(error).__name__}: {error}"),
                    **self.secrets.logged(error),
                )
            return None


@attrs.define(eq=False)
class Watch:
    """One request's observers.

    Args:
        observers: The application's.
        heard: Those that want to hear of the request, each with its observer.
    """

    observers: Observers
    heard: tuple[tuple[Observer, RequestObserver], ...]

    def begin(self, call: CallInfo) -> CallWatch:
        """A call begins; it is to run in the context of what this returns."""
        context = contextvars.copy_context()
        heard = []
        for observer, request in self.heard:
            one = context.run(self.observers.safely, observer, request.component, call)
            if one is not None:
                heard.append((observer, one))
        return CallWatch(self.observers, tuple(heard), context)

    def fallback(self, entry: ComponentTrace, by: str) -> None:
        """A component takes over from another."""
        for observer, request in self.heard:
            self.observers.safely(observer, request.fallback, entry, by)

    def refill(self, number: int, missing: int) -> None:
        """A round of refilling begins."""
        for observer, request in self.heard:
            self.observers.safely(observer, request.refill, number, missing)

    def finished(self, outcome: Outcome) -> None:
        """The response is ready."""
        for observer, request in self.heard:
            self.observers.safely(observer, request.finished, outcome)

    def failed(self, error: BaseException, trace: Trace) -> None:
        """The request failed, or was given up."""
        for observer, request in self.heard:
            if isinstance(error, asyncio.CancelledError | GeneratorExit):
                self.observers.safely(observer, request.cancelled, trace)
            else:
                self.observers.safely(observer, request.failed, error, trace)


@attrs.define(eq=False)
class CallWatch:
    """The observers of one call.

    Args:
        observers: The application's.
        heard: Those that want to hear of the call, each with its observer.
        context: What the call runs in.
    """

    observers: Observers
    heard: tuple[tuple[Observer, CallObserver], ...]
    context: contextvars.Context

    def ended(self, entry: ComponentTrace, error: BaseException | None = None) -> None:
        """The call has ended."""
        heard, self.heard = self.heard, ()
        for observer, call in heard:
            self.observers.safely(observer, call.ended, entry, error)

    def cancelled(self) -> None:
        """The call was cut off."""
        heard, self.heard = self.heard, ()
        for observer, call in heard:
            self.observers.safely(observer, call.cancelled)
