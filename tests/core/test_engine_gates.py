"""Gates: the conditions on query features under which components run. Time is virtual."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import CLOSED, FLAG, LEVEL, PLAN, PRICE, best_first, broken, entry_of, priced, rows, silent

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    Outcome,
    QueryFeature,
    RunPolicy,
    SpecError,
    StageOptions,
    compose,
    query_patch,
)
from candidate_pipeline.engine.gates import OPERATORS

pytestmark = pytest.mark.usefixtures("logs")


BUYER = QueryFeature("toy.buyer", int, default=-1)
COUNTRY = QueryFeature("toy.country", str)
SHARE = QueryFeature("toy.share", float)
SEEN = QueryFeature("toy.seen", tuple)
VECTOR = QueryFeature("toy.vector", np.ndarray)

INPUTS = {"buyer": BUYER, "country": COUNTRY, "flag": FLAG, "share": SHARE, "seen": SEEN, "vector": VECTOR}
REQUEST: dict[str, Any] = {
    "buyer": 7,
    "country": "at",
    "flag": True,
    "share": 0.5,
    "seen": (1, 2, 3),
    "vector": np.zeros(2),
}


def when(**conditions: Any) -> RunPolicy:
    """A policy with conditions on features of the toy namespace."""
    return RunPolicy(when={f"toy.{name}": wanted for name, wanted in conditions.items()})


def gated(run: Any, make: Any, **conditions: Any) -> Any:
    """The record of a source under conditions."""
    outcome = run(
        sources=[make("source", rows(1), "x"), make("source", rows(2), "y")],
        inputs=INPUTS,
        request=REQUEST,
        policies={"x": when(**conditions)},
    )
    entry = entry_of(outcome, "x")
    assert outcome.item_ids.tolist() == ([1, 2] if entry.status == "ok" else [2])
    return entry


# Operators


@pytest.mark.parametrize(
    ("feature", "wanted", "why"),
    [
        ("buyer", 7, ""),
        ("buyer", 8, "toy.buyer is 7, wanted is 8"),
        ("flag", True, ""),
        ("flag", False, "toy.flag is True, wanted is False"),
        ("country", "at", ""),
        ("country", {"is": "de"}, "toy.country is 'at', wanted is 'de'"),
        ("country", {"not": "de"}, ""),
        ("country", {"not": "at"}, "toy.country is 'at', wanted not 'at'"),
        ("country", {"in": ["de", "at"]}, ""),
        ("country", {"in": ["de"]}, "toy.country is 'at', wanted in ('de',)"),
        ("country", {"in": []}, "toy.country is 'at', wanted in ()"),
        ("buyer", {"min": 7}, ""),
        ("buyer", {"min": 8}, "toy.buyer is 7, wanted min 8"),
        ("buyer", {"max": 7}, ""),
        ("buyer", {"max": 6}, "toy.buyer is 7, wanted max 6"),
        ("buyer", {"min": 6, "max": 8, "not": 7}, "toy.buyer is 7, wanted not 7"),
        ("share", {"min": 0.5, "max": 0.5}, ""),
        ("share", {"min": 1}, "toy.share is 0.5, wanted min 1"),
        ("seen", {"min_length": 3}, ""),
        ("seen", {"min_length": 4}, "toy.seen is 3 long, wanted min_length 4"),
        ("country", {"min_length": 3}, "toy.country is 2 long, wanted min_length 3"),
        ("vector", {"min_length": 2}, ""),
        ("vector", {"present": True}, ""),
        ("vector", {"present": False}, "toy.vector is present"),
    ],
)
def test_operators(run: Any, make: Any, feature: str, wanted: Any, why: str) -> None:
    """Each operator opens the gate where it holds; where not, the trace tells value and condition, and nothing ran."""
    entry = gated(run, make, **{feature: wanted})
    assert (entry.status, entry.error) == (("closed", why) if why else ("ok", ""))
    assert entry.elapsed_ms == 0


def test_every_operator_has_a_test() -> None:
    """The cases above cover the operators there are."""
    assert set(OPERATORS) == {"is", "not", "in", "min", "max", "min_length", "present"}


def test_all_conditions_must_hold(run: Any, make: Any) -> None:
    """Conditions on several features are joined by and; the first that does not hold is named."""
    assert gated(run, make, flag=True, buyer={"min": 1}, country={"in": ["at"]}).status == "ok"
    entry = gated(run, make, flag=True, buyer={"min": 9}, country="de")
    assert (entry.status, entry.error) == ("closed", "toy.buyer is 7, wanted min 9")


@given(
    value=st.integers(-3, 3),
    conditions=st.dictionaries(st.sampled_from(["is", "not", "min", "max"]), st.integers(-3, 3), min_size=1),
)
def test_conditions_mean_what_python_says(run: Any, make: Any, value: int, conditions: dict[str, int]) -> None:
    """Whatever the value and the operands, the gate is open where all comparisons hold."""
    tests = {"is": value.__eq__, "not": value.__ne__, "min": value.__ge__, "max": value.__le__}
    outcome = run(
        sources=[make("source", rows(1), "x")],
        inputs={"buyer": BUYER},
        request={"buyer": value},
        policies={"x": when(buyer=conditions)},
    )
    wanted = all(tests[operator](operand) for operator, operand in conditions.items())
    assert (entry_of(outcome, "x").status == "ok") is wanted


# Absent, failed and defaults


@pytest.mark.parametrize(
    ("condition", "status", "error"),
    [
        (1, "closed", "toy.level is absent"),
        ({"not": 1}, "closed", "toy.level is absent"),
        ({"max": 100}, "closed", "toy.level is absent"),
        ({"in": [1]}, "closed", "toy.level is absent"),
        ({"present": True}, "closed", "toy.level is absent"),
        ({"present": False}, "ok", ""),
    ],
)
@pytest.mark.parametrize("failed", [False, True])
def test_absent_closes_and_failed_fails(
    run: Any, make: Any, condition: Any, status: str, error: str, failed: bool
) -> None:
    """No condition holds on a feature that nobody gave; one whose hydrator failed fails what it would have let run."""
    outcome = run(
        query_hydrators=[make("query_hydrator", broken if failed else silent, "levels", writes=[LEVEL])],
        sources=[make("source", rows(1), "x"), make("source", rows(2), "y")],
        policies={"x": when(level=condition)},
    )
    entry = entry_of(outcome, "x")
    if failed:
        status, error = "skipped", "query feature toy.level failed: levels: ValueError: no"
    assert (entry.status, entry.error) == (status, error)


@pytest.mark.parametrize("failed", [False, True])
def test_a_default_stands_in(run: Any, make: Any, failed: bool) -> None:
    """A declared default counts for a feature that is absent or failed, as it does for any reader."""
    outcome = run(
        query_hydrators=[make("query_hydrator", broken if failed else silent, "plans", writes=[PLAN])],
        sources=[make("source", rows(1), "x"), make("source", rows(2), "y")],
        policies={"x": when(plan="free"), "y": when(plan="paid")},
    )
    assert entry_of(outcome, "x").status == "ok"
    assert (entry_of(outcome, "y").status, entry_of(outcome, "y").error) == (
        "closed",
        "toy.plan is 'free', wanted is 'paid'",
    )


@pytest.mark.parametrize("wanted", [True, False])
def test_a_default_says_nothing_about_presence(run: Any, make: Any, wanted: bool) -> None:
    """With a default, absent is absent; but of a failed feature nobody knows whether it would have been there."""

    def status(function: Any) -> tuple[str, str]:
        outcome = run(
            query_hydrators=[make("query_hydrator", function, "plans", writes=[PLAN])],
            sources=[make("source", rows(1), "x")],
            policies={"x": when(plan={"present": wanted})},
        )
        return entry_of(outcome, "x").status, entry_of(outcome, "x").error

    assert status(silent) == (("closed", "toy.plan is absent") if wanted else ("ok", ""))
    assert status(broken) == ("skipped", "query feature toy.plan failed: plans: ValueError: no")


def test_a_gate_that_cannot_be_tested_is_a_failure(run: Any, make: Any) -> None:
    """A value that a condition does not fit fails its component under its policy, beside others that run on."""

    async def slow(query: Any, ctx: Any) -> Candidates:
        await asyncio.sleep(1)
        return Candidates.of(ITEM_ID([1]))

    outcome = run(
        sources=[make("source", slow, "slow"), make("source", slow, "x")],
        hydrators=[make("hydrator", priced, "h", writes=[PRICE], prepare=lambda query, ctx: None)],
        inputs=INPUTS,
        request=REQUEST | {"vector": np.array(1.0)},
        policies={"x": when(vector={"min_length": 1}), "h": when(vector={"min_length": 1})},
    )
    assert outcome.item_ids.tolist() == [1]
    for name in "xh":
        assert entry_of(outcome, name).status == "skipped"
        assert entry_of(outcome, name).error == "its gate cannot be tested: TypeError: len() of unsized object"


# Kinds


WHY = "toy.flag is True, wanted is False"


def closed(run: Any, make: Any, kind: str, function: Any, **stages: Any) -> Outcome:
    """A request with a closed component of a kind, called `x`."""
    attributes = stages.pop("attributes", {})
    listed = stages.pop("beside", [])
    outcome: Outcome = run(
        **{f"{kind}s": [make(kind, function, "x", **attributes), *listed]},
        **stages,
        inputs=INPUTS,
        request=REQUEST,
        policies={"x": CLOSED},
    )
    return outcome


def test_closed_query_hydrator_leaves_its_features_absent(run: Any, make: Any) -> None:
    """Absent, not failed: what reads them with a default gets it, what reads them without finds nothing."""
    reader = make("source", lambda query, ctx: Candidates.of(ITEM_ID([query[LEVEL]])), "reader", reads=[LEVEL])
    outcome = closed(
        run,
        make,
        "query_hydrator",
        lambda *_: query_patch(LEVEL(1), PLAN("paid")),
        attributes={"writes": [LEVEL, PLAN]},
        sources=[make("source", rows(1), "y"), reader],
    )
    assert (entry_of(outcome, "x").status, entry_of(outcome, "x").error) == ("closed", WHY)
    assert not outcome.query.failed
    assert LEVEL not in outcome.query
    assert outcome.query[PLAN] == "free"
    assert entry_of(outcome, "reader").error.startswith("query feature toy.level is absent")


def test_closed_source_gives_no_rows_and_nulls(run: Any, make: Any) -> None:
    """A closed source has no rows, and the columns that only it declares are null, not failed."""
    outcome = closed(
        run, make, "source", rows(9), attributes={"writes": [PRICE]}, beside=[make("source", rows(1), "y")]
    )
    assert outcome.item_ids.tolist() == [1]
    assert not outcome.selected.valid(PRICE).any()
    assert not outcome.selected.failed(PRICE).any()


@pytest.mark.parametrize("kind", ["hydrator", "scorer"])
@pytest.mark.parametrize("fails", [False, True])
def test_closed_leaves_nulls_and_failed_leaves_failed_cells(run: Any, make: Any, kind: str, fails: bool) -> None:
    """Columns of a closed component are null where nobody wrote them; those of a failed one are failed."""
    source = make(
        "source",
        lambda query, ctx: Candidates.of(ITEM_ID([1, 2]), SCORE([4.0, 0.0], valid=[True, False])),
        "source",
        writes=[SCORE],
    )
    outcome = run(
        sources=[source],
        **{f"{kind}s": [make(kind, broken, "x", writes=[PRICE, SCORE])]},
        inputs=INPUTS,
        request=REQUEST,
        policies={"x": RunPolicy(on_error="skip", when={"toy.flag": fails})},
    )
    assert entry_of(outcome, "x").status == ("skipped" if fails else "closed")
    assert outcome.selected.failed(PRICE).tolist() == [fails, fails]
    assert not outcome.selected.valid(PRICE).any()
    assert outcome.selected.valid(SCORE).tolist() == [True, False]
    assert outcome.selected.failed(SCORE).tolist() == [False, fails]


def test_closed_filter_keeps_all(run: Any, make: Any) -> None:
    """A closed filter drops nothing, and the counts in the trace say so."""
    outcome = closed(run, make, "filter", broken)
    assert outcome.item_ids.tolist() == [1, 2, 3]
    assert (entry_of(outcome, "x").rows_in, entry_of(outcome, "x").rows_out) == (3, 3)


def test_closed_after_selection(run: Any, make: Any) -> None:
    """Hydrators and filters after selection have gates, too."""
    outcome = run(
        post_selection_hydrators=[make("hydrator", broken, "h", writes=[PRICE])],
        post_selection_filters=[make("filter", broken, "f")],
        inputs=INPUTS,
        request=REQUEST,
        policies={"h": CLOSED, "f": CLOSED},
    )
    assert outcome.item_ids.tolist() == [1, 2, 3]
    assert [entry_of(outcome, name).status for name in "hf"] == ["closed", "closed"]
    assert not outcome.selected.failed(PRICE).any()


def test_closed_component_does_not_prepare(run: Any, make: Any) -> None:
    """What will not run prepares nothing."""
    prepared = []
    scorer = make("scorer", broken, "x", writes=[SCORE], prepare=lambda query, ctx: prepared.append(1))
    assert (
        entry_of(run(scorers=[scorer], inputs=INPUTS, request=REQUEST, policies={"x": CLOSED}), "x").status == "closed"
    )
    assert prepared == []


@pytest.mark.parametrize("kind", ["selector", "filter"])
@pytest.mark.parametrize("whole", [False, True])
def test_what_must_run_has_no_gate(run: Any, make: Any, kind: str, whole: bool) -> None:
    """A selector or a safety filter with a gate, its own or its stage's, is refused when the pipeline is built."""
    what = {"selector": "a selector", "filter": "a safety filter"}[kind]
    component = make(kind, broken, "x", safety=True)
    stage = "selector" if kind == "selector" else "filters"
    given_: dict[str, Any] = {stage: component if kind == "selector" else [component]}
    if whole:
        given_["stages"] = {stage: StageOptions(when={"toy.flag": True})}
    else:
        given_["policies"] = {"x": when(flag=True)}
    with pytest.raises(SpecError, match=f"E306 x: {what} cannot have a gate, which would leave it out"):
        run(**given_, inputs=INPUTS, request=REQUEST)


# Whole stages


def test_stage_gates(run: Any, make: Any) -> None:
    """A stage's conditions hold for each of its components beside their own."""
    outcome = run(
        hydrators=[
            make("hydrator", broken, "a"),
            make("hydrator", priced, "b", writes=[PRICE]),
        ],
        filters=[make("filter", broken, "f")],
        inputs=INPUTS,
        request=REQUEST,
        policies={"a": CLOSED, "b": when(buyer={"min": 1})},
        stages={
            "hydrators": StageOptions(when={"toy.country": "at"}),
            "filters": StageOptions(when={"toy.country": {"not": "at"}}),
        },
    )
    found = {entry.component: (entry.status, entry.error) for entry in outcome.trace}
    assert found["a"] == ("closed", WHY)
    assert found["b"] == ("ok", "")
    assert found["f"] == ("closed", "toy.country is 'at', wanted not 'at'")


@pytest.mark.parametrize("buyer", [1, 7])
def test_gate_of_topping_up(run: Any, make: Any, buyer: int) -> None:
    """The pipeline that fills short responses has a gate: `stages.top_up.when`."""
    spare = compose("spare", sources=[make("source", rows(8), "s")], selector=make("selector", best_first, "top"))
    outcome = run(
        sources=[make("source", rows(1), "y")],
        inputs=INPUTS,
        request=REQUEST | {"buyer": buyer},
        min_results=2,
        top_up=spare["spare"],
        stages={"top_up": StageOptions(when={"toy.buyer": 7})},
    )
    assert outcome.item_ids.tolist() == ([1, 8] if buyer == 7 else [1])
    assert entry_of(outcome, "spare").status == ("ok" if buyer == 7 else "closed")


# Order


def test_a_gates_feature_is_a_read(run: Any, make: Any) -> None:
    """A query hydrator whose gate tests another's feature runs after it, wherever it is listed."""
    outcome = run(
        query_hydrators=[
            make("query_hydrator", lambda *_: query_patch(PLAN("gold")), "plans", writes=[PLAN]),
            make("query_hydrator", lambda *_: query_patch(SEEN((1,))), "seen", writes=[SEEN]),
            make("query_hydrator", lambda *_: query_patch(LEVEL(3)), "levels", writes=[LEVEL]),
        ],
        policies={"plans": when(level={"min": 3}), "seen": when(plan="gold")},
    )
    assert [(entry.component, entry.phase, entry.status) for entry in outcome.trace[:3]] == [
        ("levels", 0, "ok"),
        ("plans", 1, "ok"),
        ("seen", 2, "ok"),
    ]


def test_gates_in_a_circle(run: Any, make: Any) -> None:
    """Two query hydrators whose gates wait for each other are refused."""
    with pytest.raises(SpecError, match="E303 components of query_hydrators need each other's output"):
        run(
            query_hydrators=[
                make("query_hydrator", silent, "plans", writes=[PLAN]),
                make("query_hydrator", silent, "levels", writes=[LEVEL]),
            ],
            policies={"plans": when(level=3), "levels": when(plan="gold")},
        )


def test_a_gate_on_what_only_it_writes(run: Any, make: Any) -> None:
    """A query hydrator cannot decide whether it runs by what it would find."""
    with pytest.raises(SpecError, match=r"E300 plans reads the query feature toy\.plan, which only it writes"):
        run(
            query_hydrators=[make("query_hydrator", silent, "plans", writes=[PLAN])], policies={"plans": when(plan="x")}
        )
