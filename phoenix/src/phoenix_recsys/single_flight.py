"""What one thread is making, others that want the same wait for instead of making it again; imports no JAX."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, Literal, TypeVar, cast

import attrs

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@attrs.define(eq=False)
class _Flight(Generic[V]):
    """One call under way. What it gave is read only after `ended` is set.

    Attributes:
        leader: the thread that makes it.
        ended: set when there is a result, an error, or neither.
        state: how it ended; `interrupted` says that somebody else must make it.
    """

    leader: int = attrs.field(factory=threading.get_ident)
    ended: threading.Event = attrs.field(factory=threading.Event)
    state: Literal["interrupted", "done", "failed"] = "interrupted"
    result: V | None = None
    error: Exception | None = None
    followers: int = 0


class SingleFlight(Generic[K, V]):
    """Runs one call per key at a time; callers of the same key meanwhile share what it gives.

    Nothing is kept: once a call has ended, the next caller of its key makes it again. Beside a cache, `make` looks
    into the cache once more before it works, for a caller may have missed there just before another's call ended, and
    fills it before it returns::

        def make():
            if key not in cache:
                cache[key] = encode(...)
            return cache[key]

        value = cache[key] if key in cache else flights.run(key, make)

    Safe to use from several threads. It is the idea of Go's ``golang.org/x/sync/singleflight``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[K, _Flight[V]] = {}
        self._shared = 0

    def run(self, key: K, make: Callable[[], V]) -> V:
        """What `make` returns, called here or by a thread that is at it already.

        An ``Exception`` of `make` goes to all who wait for it, as one object. A thread that is stopped in the middle
        by anything else (``KeyboardInterrupt``, ``SystemExit``) keeps that to itself: one of those who wait makes the
        call anew.

        Args:
            key: what is made.
            make: makes it; it may run keys other than this one.

        Raises:
            RuntimeError: if `make` asks for its own key, for which it would wait for ever.
            Exception: what `make` raised.
        """
        while True:
            own: _Flight[V] = _Flight()
            try:
                with self._lock:
                    flight = self._flights.setdefault(key, own)
                    if flight.leader != own.leader:
                        self._shared += 1
                        flight.followers += 1
                if flight is own:
                    return _fly(own, make)
            finally:
                # Also where an interrupt came before the call: nobody may wait for a flight without a pilot.
                with self._lock:
                    if self._flights.get(key) is own:
                        del self._flights[key]
                own.ended.set()
            if flight.leader == own.leader:
                raise RuntimeError(f"making {key!r} asks for itself; make may only run other keys")
            try:
                flight.ended.wait()
            finally:
                with self._lock:
                    flight.followers -= 1
            if flight.error is not None:
                raise flight.error
            if flight.state == "done":
                return cast("V", flight.result)

    @property
    def shared(self) -> int:
        """How many callers so far waited for another's call."""
        with self._lock:
            return self._shared

    def waiting(self, key: K) -> int:
        """How many callers wait for the call of a key now."""
        with self._lock:
            flight = self._flights.get(key)
            return 0 if flight is None else flight.followers

    def __len__(self) -> int:
        """How many calls are under way."""
        with self._lock:
            return len(self._flights)


def _fly(flight: _Flight[V], make: Callable[[], V]) -> V:
    try:
        flight.result = result = make()
    except Exception as error:
        flight.error, flight.state = error, "failed"
        raise
    flight.state = "done"
    return result
