"""Whatever goes wrong in a component, the request ends as declared, the trace says so, and nobody else suffers."""

from __future__ import annotations

import gc
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from candidate_pipeline.testing import VirtualTimeLoop

RULES: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("fault_rules.py"))))
KIT, Case = RULES.KIT, RULES.Case

pytestmark = pytest.mark.filterwarnings("error")


def matrix() -> Iterator[Any]:
    """Every fault that ends at once in every component that can have it, under every policy that it may have."""
    for place in KIT.PLACES:
        for mode in place.modes:
            for fault in KIT.FAULTS:
                if fault.ends == "harmless":
                    policies = RULES.PLAIN_POLICIES[:1]
                elif fault.name in {"ValueError", "TimeoutError"}:  # neither is a timeout of the engine's
                    policies = (*RULES.PLAIN_POLICIES, *RULES.LATE_POLICIES)
                else:
                    policies = RULES.PLAIN_POLICIES[:2] if mode in {"cached", "breaker"} else RULES.PLAIN_POLICIES
                if fault.fits(place, mode):
                    yield from (Case(place, mode, fault, each) for each in policies if RULES.allowed(place, mode, each))
    for place in (*KIT.PLACES, KIT.DEPENDENT):
        for mode in place.modes:
            faults = [fault for fault in KIT.FAULTS if fault.fits(place, mode) and mode != "breaker"]
            yield from (Case(place, mode, fault, semantics="upstream") for fault in faults)


def hanging() -> Iterator[Any]:
    """Every component that never ends by itself, under every limit and policy that it may have."""
    for place in KIT.PLACES:
        for mode in place.modes:
            for fault in (*KIT.HANGING, KIT.HANGING_LATER):
                if not fault.fits(place, mode):
                    continue
                for limit in limits(place, mode):
                    policies = (
                        each
                        for each in (*RULES.PLAIN_POLICIES, *RULES.LATE_POLICIES)
                        if RULES.allowed(place, mode, each)
                    )
                    yield from (Case(place, mode, fault, policy, limit=limit) for policy in policies)
    for place in (*KIT.PLACES, KIT.DEPENDENT):
        for mode in place.modes:
            for fault in KIT.HANGING:
                if fault.fits(place, mode) and mode != "breaker":
                    yield from (
                        Case(place, mode, fault, semantics="upstream", limit=each) for each in limits(place, mode)
                    )


def limits(place: Any, mode: str) -> tuple[str, ...]:
    """What can end a component that hangs: a plain def has no timeout of its own, the background no request's."""
    if place.kind == "side_effect":
        return () if mode == "plain" else ("own", "stage", "deadline") if place.sync else ("own",)
    return ("stage", "deadline") if mode == "plain" else ("own", "stage", "deadline")


@pytest.fixture(scope="module")
def complaints() -> Iterator[list[Any]]:
    """What event loops complain of, such as exceptions that nobody looked at; expects nothing of it."""
    found: list[Any] = []
    yield found
    gc.collect()
    assert found == []


@pytest.mark.parametrize("case", list(matrix()), ids=str)
def test_fault(case: Any, complaints: list[Any]) -> None:
    """A component that goes wrong at once is skipped, replaced or fatal, as declared."""
    probe = KIT.Probe()
    result = RULES.run_in(VirtualTimeLoop, RULES.request(RULES.build(case, probe), probe), complaints)
    RULES.check(case, result, probe)


@pytest.mark.parametrize("case", list(hanging()), ids=str)
def test_hanging(case: Any, complaints: list[Any]) -> None:
    """A component that never ends is left alone at its limit, to the millisecond, whether it obeys or not."""
    probe = KIT.Probe()
    result = RULES.run_in(VirtualTimeLoop, RULES.request(RULES.build(case, probe), probe), complaints)
    RULES.check(case, result, probe)
    if case.place.kind != "side_effect":
        assert KIT.LIMIT_MS <= result.elapsed_ms + 1e-6 <= KIT.LIMIT_MS + 20
    if not case.place.background and not (case.limit == "own" and (case.fault.prepare or case.place.sync)):
        assert result.entries("x")[0].elapsed_ms == pytest.approx(KIT.LIMIT_MS)  # the exceptions start twice
    assert probe.cancelled > 0 or case.mode == "plain"
