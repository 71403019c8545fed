"""The circuit breaker."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidate_pipeline.engine.breaker import BUCKETS, Admission, Breaker, CircuitOpenError
from candidate_pipeline.spec.model import BreakerPolicy


def policy(failure_rate: float = 0.5, window: float = 30, min_calls: int = 4, open_for: float = 10) -> BreakerPolicy:
    """A policy, its times in seconds."""
    return BreakerPolicy(failure_rate, dt.timedelta(seconds=window), min_calls, dt.timedelta(seconds=open_for))


def calls(breaker: Breaker, *results: bool, now: float = 0.0) -> None:
    """Make calls at one time."""
    for ok in results:
        breaker.record(breaker.admit(now), ok, now)


def opened(now: float = 0.0, **settings: Any) -> Breaker:
    """A breaker that opened at a time."""
    breaker = Breaker(policy(**settings))
    calls(breaker, True, True, False, False, now=now)
    assert breaker.state(now) == "open"
    return breaker


def refusal(breaker: Breaker, now: float) -> str:
    """What a person reads whose call is refused."""
    with pytest.raises(CircuitOpenError) as caught:
        breaker.admit(now)
    return str(caught.value)


def test_closed_until_enough_calls_failed() -> None:
    """It stays closed below the least number of calls and below the rate, and opens when both are reached."""
    breaker = Breaker(policy())
    calls(breaker, False, False, False)
    assert breaker.state(0) == "closed"
    breaker = Breaker(policy())
    calls(breaker, True, True, True, False, False)
    assert breaker.state(0) == "closed"
    calls(breaker, False)
    assert breaker.state(0) == "open"
    assert breaker.opened == 1


def test_rate_is_compared_exactly() -> None:
    """7 failures of 100 calls reach a rate of 0.07, whose product with 100 is more than 7."""
    assert 0.07 * 100 > 7
    breaker = Breaker(policy(failure_rate=0.07, min_calls=100))
    calls(breaker, *[True] * 93, *[False] * 6)
    assert breaker.state(0) == "closed"
    calls(breaker, False)
    assert breaker.state(0) == "open"


def test_refusal_says_why_and_until_when() -> None:
    """The reason names the failures, the window and the time to the next probe, rounded up."""
    breaker = opened(now=100.0)
    assert refusal(breaker, 105.85) == (
        "the circuit is open: 2 of 4 calls failed in the last 30s; the next probe is in 4.2s"
    )
    assert refusal(breaker, 109.9999).endswith("the next probe is in 1ms")
    assert breaker.refused == 2


def test_one_probe_at_a_time() -> None:
    """Half-open, it lets one call through and refuses the others until that one has ended."""
    breaker = opened()
    assert breaker.state(10.0) == "half-open"
    assert breaker.admit(10.0).kind == "probe"
    assert refusal(breaker, 11.0) == (
        "the circuit is half-open: 2 of 4 calls failed in the last 30s; one call is under way as a probe"
    )
    assert breaker.state(11.0) == "half-open"


def test_probe_that_succeeds_closes_the_circuit() -> None:
    """After it, the failures of before count no longer."""
    breaker = opened()
    breaker.record(breaker.admit(10.0), True, 10.5)
    assert breaker.state(10.5) == "closed"
    calls(breaker, False, False, False, now=10.5)
    assert breaker.state(10.5) == "closed"
    calls(breaker, False, now=10.5)
    assert breaker.state(10.5) == "open"
    assert breaker.opened == 2


def test_probe_that_fails_opens_the_circuit_again() -> None:
    """It stays open for the whole time again, counted from the probe's end."""
    breaker = opened()
    breaker.record(breaker.admit(10.0), False, 13.0)
    assert refusal(breaker, 22.0) == "the circuit is open: the last probe failed; the next probe is in 1.0s"
    assert breaker.state(23.0) == "half-open"
    assert breaker.opened == 2


def test_probe_without_a_verdict_is_given_back() -> None:
    """A probe whose request was cancelled makes room for the next, and its late result counts no longer."""
    breaker = opened()
    lost = breaker.admit(10.0)
    breaker.release(lost)
    probe = breaker.admit(11.0)
    breaker.record(lost, True, 11.0)
    breaker.release(lost)
    assert breaker.state(11.0) == "half-open"
    breaker.record(probe, True, 12.0)
    assert breaker.state(12.0) == "closed"


def test_release_after_a_result_changes_nothing() -> None:
    """A caller may release in any case, for instance in `finally`."""
    breaker = opened()
    probe = breaker.admit(10.0)
    breaker.record(probe, False, 10.0)
    breaker.release(probe)
    assert breaker.state(10.0) == "open"
    again = breaker.admit(20.0)
    breaker.release(probe)
    assert refusal(breaker, 20.0).endswith("one call is under way as a probe")
    breaker.record(again, True, 20.0)
    assert breaker.state(20.0) == "closed"


@pytest.mark.parametrize("ok", [True, False])
def test_results_of_earlier_calls_change_nothing(ok: bool) -> None:
    """A call admitted before the circuit opened says nothing of the circuit when it ends after that."""
    breaker = Breaker(policy())
    slow = [breaker.admit(0.0) for _ in range(3)]
    calls(breaker, False, False, False, False)
    breaker.record(slow[0], ok, 5.0)
    assert breaker.state(5.0) == "open"
    assert breaker.state(10.0) == "half-open"
    breaker.record(slow[1], ok, 10.0)
    probe = breaker.admit(11.0)
    breaker.record(slow[2], ok, 11.0)
    assert breaker.state(11.0) == "half-open"
    breaker.record(probe, True, 12.0)
    assert breaker.state(12.0) == "closed"
    assert breaker.opened == 1


@given(age=st.floats(0, 100), start=st.floats(0, 1e6))
def test_how_long_a_call_counts(age: float, start: float) -> None:
    """A failure counts while it is younger than 9/10 of the window, and never when older than the whole."""
    breaker = Breaker(policy(failure_rate=1, min_calls=2))
    calls(breaker, False, now=start)
    calls(breaker, False, now=start + age)
    if age < 27 - 1e-6:
        assert breaker.state(start + age) == "open"
    if age > 30 + 1e-6:
        assert breaker.state(start + age) == "closed"


@attrs.define(eq=False)
class Naive:
    """The same rules, written down with every call's time."""

    policy: BreakerPolicy
    calls: list[tuple[float, bool]] = attrs.field(factory=list)
    opened_at: list[float] = attrs.field(factory=list)
    closed_at: list[float] = attrs.field(factory=list)
    probe: object = None
    refused: int = 0
    changes: int = 0

    def state(self, now: float) -> str:
        """What the circuit is."""
        if len(self.opened_at) == 0 or self.changes in self.closed_at:
            return "closed"
        return "open" if now < self.opened_at[-1] + self.policy.open_for.total_seconds() else "half-open"

    def admit(self, now: float) -> tuple[int, object] | None:
        """The change after which the call was admitted and, for a probe, its mark."""
        state = self.state(now)
        if state == "open" or (state == "half-open" and self.probe is not None):
            self.refused += 1
            return None
        if state == "half-open":
            self.probe = object()
        return self.changes, self.probe

    def record(self, call: tuple[int, object], ok: bool, now: float) -> None:
        """Count a result."""
        since, mark = call
        if since != self.changes or mark is not self.probe:
            return
        if mark is not None:
            self.changes += 1
            self.probe = None
            self.calls = []
            if ok:
                self.closed_at.append(self.changes)
            else:
                self.opened_at.append(now)
            return
        self.calls.append((now, ok))
        tenth = self.policy.window.total_seconds() / BUCKETS
        first = math.floor(now / tenth) - BUCKETS + 1
        inside = [each for time, each in self.calls if math.floor(time / tenth) >= first]
        if len(inside) >= self.policy.min_calls and inside.count(False) / len(inside) >= self.policy.failure_rate:
            self.changes += 1
            self.opened_at.append(now)

    def release(self, call: tuple[int, object]) -> None:
        """Forget a probe."""
        if call[1] is not None and call[1] is self.probe:
            self.probe = None


# Times are on a grid of eighths, so that they meet the limits exactly; calls often stay under way for a while.
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.0, 0.125, 0.5, 1.0, 2.0, 9.0]),
        st.sampled_from(["admit", "admit", "call", "fail", "fail", "record", "record", "release"]),
        st.booleans(),
        st.integers(0, 3),
    ),
    min_size=40,
    max_size=80,
)
POLICIES = st.builds(
    policy,
    failure_rate=st.sampled_from([0.1, 0.5, 0.75, 1.0]),
    window=st.sampled_from([1.25, 5.0, 30.0]),
    min_calls=st.integers(1, 5),
    open_for=st.sampled_from([0.125, 1.0, 2.0]),
)


@given(policy=POLICIES, start=st.sampled_from([0.0, 100_000.0]), steps=STEPS)
def test_agrees_with_a_model_that_keeps_every_call(
    policy: BreakerPolicy, start: float, steps: list[tuple[float, str, bool, int]]
) -> None:
    """Whatever happens in whatever order, states, admissions and counters are those of the written rules."""
    breaker, naive, now = Breaker(policy), Naive(policy), start
    under_way: list[tuple[Admission, tuple[int, object]]] = []
    for wait, action, ok, which in steps:
        now += wait
        if action in {"admit", "call", "fail"}:
            expected = naive.admit(now)
            try:
                admission = breaker.admit(now)
            except CircuitOpenError:
                assert expected is None
            else:
                assert expected is not None
                assert (admission.kind == "probe") == (breaker.state(now) == "half-open")
                under_way.append((admission, expected))
                if action != "admit":
                    breaker.record(admission, action == "call" and ok, now)
                    naive.record(expected, action == "call" and ok, now)
        elif under_way:
            admission, expected = under_way.pop(which % len(under_way))
            if action == "record":
                breaker.record(admission, ok, now)
                naive.record(expected, ok, now)
            else:
                breaker.release(admission)
                naive.release(expected)
        assert breaker.state(now) == naive.state(now)
        assert (breaker.opened, breaker.refused) == (len(naive.opened_at), naive.refused)
