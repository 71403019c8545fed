"""Whatever goes wrong in a component, the request ends as declared, the trace says so, and nobody else suffers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fault_rules import LATE_POLICIES, PLAIN_POLICIES, Case, allowed, build, check, request, run_in
from faults import DEPENDENT, FAULTS, HANGING, HANGING_LATER, LIMIT_MS, PLACES, Mode, Place, Probe

from candidate_pipeline.testing import VirtualTimeLoop

pytestmark = pytest.mark.filterwarnings("error")


def matrix() -> Iterator[Case]:
    """Every fault that ends at once in every component that can have it, under every policy that it may have."""
    for place in PLACES:
        for mode in place.modes:
            for fault in FAULTS:
                if fault.ends == "harmless":
                    policies = PLAIN_POLICIES[:1]
                elif fault.name in {"ValueError", "TimeoutError"}:  # neither is a timeout of the engine's
                    policies = (*PLAIN_POLICIES, *LATE_POLICIES)
                else:
                    policies = PLAIN_POLICIES[:2] if mode in {"cached", "breaker"} else PLAIN_POLICIES
                if fault.fits(place, mode):
                    yield from (Case(place, mode, fault, each) for each in policies if allowed(place, mode, each))
    for place in (*PLACES, DEPENDENT):
        for mode in place.modes:
            faults = [fault for fault in FAULTS if fault.fits(place, mode) and mode != "breaker"]
            yield from (Case(place, mode, fault, semantics="upstream") for fault in faults)


def hanging() -> Iterator[Case]:
    """Every component that never ends by itself, under every limit and policy that it may have."""
    for place in PLACES:
        for mode in place.modes:
            for fault in (*HANGING, HANGING_LATER):
                if not fault.fits(place, mode):
                    continue
                for limit in limits(place, mode):
                    policies = (each for each in (*PLAIN_POLICIES, *LATE_POLICIES) if allowed(place, mode, each))
                    yield from (Case(place, mode, fault, policy, limit=limit) for policy in policies)
    for place in (*PLACES, DEPENDENT):
        for mode in place.modes:
            for fault in HANGING:
                if fault.fits(place, mode) and mode != "breaker":
                    yield from (
                        Case(place, mode, fault, semantics="upstream", limit=each) for each in limits(place, mode)
                    )


def limits(place: Place, mode: Mode) -> tuple[str, ...]:
    """What can end a component that hangs: a plain def has no timeout of its own, the background no request's."""
    if place.kind == "side_effect":
        return () if mode == "plain" else ("own", "stage", "deadline") if place.sync else ("own",)
    return ("stage", "deadline") if mode == "plain" else ("own", "stage", "deadline")


@pytest.mark.parametrize("case", list(matrix()), ids=str)
def test_fault(case: Case, complaints: list[Any]) -> None:
    """A component that goes wrong at once is skipped, replaced or fatal, as declared."""
    probe = Probe()
    result = run_in(VirtualTimeLoop, request(build(case, probe), probe), complaints)
    check(case, result, probe)


@pytest.mark.parametrize("case", list(hanging()), ids=str)
def test_hanging(case: Case, complaints: list[Any]) -> None:
    """A component that never ends is left alone at its limit, to the millisecond, whether it obeys or not."""
    probe = Probe()
    result = run_in(VirtualTimeLoop, request(build(case, probe), probe), complaints)
    check(case, result, probe)
    if case.place.kind != "side_effect":
        assert LIMIT_MS <= result.elapsed_ms + 1e-6 <= LIMIT_MS + 20
    if not case.place.background and not (case.limit == "own" and (case.fault.prepare or case.place.sync)):
        assert result.entries("x")[0].elapsed_ms == pytest.approx(LIMIT_MS)  # the exceptions start twice
    assert probe.cancelled > 0 or case.mode == "plain"
