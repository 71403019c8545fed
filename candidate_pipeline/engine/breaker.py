"""A circuit breaker: a component that keeps failing is left alone for a while.

Closed, it counts the calls of a rolling window. When enough of them failed it opens and refuses calls; after a while it
is half-open and lets one call at a time through as a probe, whose success closes it and whose failure opens it again
(M. Nygard, "Release It!", 2nd ed. 2018, chapter 5).
"""

from __future__ import annotations

import math
from typing import Final, Literal

import attrs

from candidate_pipeline.options import format_duration
from candidate_pipeline.spec.model import BreakerPolicy

State = Literal["closed", "open", "half-open"]

#: The window moves on in steps of this part of it.
BUCKETS: Final = 10


class CircuitOpenError(Exception):
    """A call was refused; the message says why and until when. It is no result of a call, so it is not recorded."""


@attrs.frozen(eq=False)
class Admission:
    """The right to one call, to be given back with `Breaker.record` or `Breaker.release`.

    Args:
        generation: How often the circuit had changed its state; the result of a call from before a change is no news.
        kind: `"probe"` if the circuit waits for this call's result.
    """

    generation: int
    kind: Literal["closed", "probe"]


class Breaker:
    """The circuit breaker of one component, for use on one event loop; it has no clock and takes constant memory.

    The window covers the tenth of `policy.window` that `now` lies in and the nine before it, so a call counts for at
    least 9/10 of the window and never longer than the whole.

    Args:
        policy: When it opens, and for how long.

    Attributes:
        opened: How often it opened.
        refused: How many calls it refused.
    """

    def __init__(self, policy: BreakerPolicy) -> None:
        """Start closed, without calls."""
        self.opened = 0
        self.refused = 0
        self._policy = policy
        self._width = policy.window.total_seconds() / BUCKETS
        self._generation = 0
        self._until: float | None = None  # when an open circuit becomes half-open; None: it is closed
        self._why = ""
        self._probe: Admission | None = None
        self._calls = [0] * BUCKETS
        self._failures = [0] * BUCKETS
        self._latest = 0  # the number of the bucket in use, counted from time 0

    def state(self, now: float) -> State:
        """What the circuit is at a time, in the loop's seconds."""
        if self._until is None:
            return "closed"
        return "open" if now < self._until else "half-open"

    def admit(self, now: float) -> Admission:
        """Let a call through, or refuse it.

        Args:
            now: The loop's time, in seconds; here and elsewhere never earlier than at the call before.

        Raises:
            CircuitOpenError: The circuit is open, or half-open with a probe under way.
        """
        if self._until is None:
            return Admission(self._generation, "closed")
        if now < self._until:
            self.refused += 1
            raise CircuitOpenError(f"the circuit is open: {self._why}; the next probe is in {_wait(self._until - now)}")
        if self._probe is not None:
            self.refused += 1
            raise CircuitOpenError(f"the circuit is half-open: {self._why}; one call is under way as a probe")
        self._probe = Admission(self._generation, "probe")
        return self._probe

    def record(self, admission: Admission, ok: bool, now: float) -> None:
        """Count a call's result; one that was admitted before the circuit last changed its state changes nothing."""
        if admission.kind == "probe":
            if admission is self._probe:
                if ok:
                    self._close()
                else:
                    self._open(now, "the last probe failed")
        elif admission.generation == self._generation:
            self._count(ok, now)

    def release(self, admission: Admission) -> None:
        """Take back an admission whose call ended without a verdict; without effect after `record`."""
        if admission is self._probe:
            self._probe = None

    def _count(self, ok: bool, now: float) -> None:
        bucket = math.floor(now / self._width)
        for stale in range(max(self._latest, bucket - BUCKETS) + 1, bucket + 1):
            self._calls[stale % BUCKETS] = self._failures[stale % BUCKETS] = 0
        self._latest = max(self._latest, bucket)
        self._calls[self._latest % BUCKETS] += 1
        self._failures[self._latest % BUCKETS] += not ok
        calls, failures = sum(self._calls), sum(self._failures)
        if calls >= self._policy.min_calls and failures / calls >= self._policy.failure_rate:
            window = format_duration(self._policy.window)
            self._open(now, f"{failures} of {calls} calls failed in the last {window}")

    def _open(self, now: float, why: str) -> None:
        self.opened += 1
        self._until = now + self._policy.open_for.total_seconds()
        self._why = why
        self._change()

    def _close(self) -> None:
        self._until = None
        self._calls = [0] * BUCKETS
        self._failures = [0] * BUCKETS
        self._change()

    def _change(self) -> None:
        self._generation += 1
        self._probe = None


def _wait(seconds: float) -> str:
    """A wait for people, rounded up: never "0"."""
    return f"{math.ceil(seconds * 10) / 10:.1f}s" if seconds >= 1 else f"{max(1, math.ceil(seconds * 1000))}ms"
