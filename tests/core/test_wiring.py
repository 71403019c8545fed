"""Compiling: wiring mistakes and phases."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    Column,
    QueryFeature,
    RunPolicy,
    SpecError,
    compose,
    patch,
    rank_order,
)

COLUMNS = [Column(f"toy.c{at}", np.float32) for at in range(6)]
FEATURES: list[QueryFeature[Any]] = [QueryFeature(f"toy.f{at}", int) for at in range(6)]
A, B, C = COLUMNS[:3]
F, G = FEATURES[:2]


def nothing(*_: Any) -> None:
    """Never called: these pipelines are only compiled."""


async def later(*_: Any) -> None:
    """Never called, but may be interrupted."""


def codes(make: Any, **stages: Any) -> list[str]:
    """The codes of the mistakes in a pipeline; none if it compiles."""
    try:
        pipeline(make, **stages)
    except SpecError as error:
        return [problem.code for problem in error.problems]
    return []


def pipeline(make: Any, **stages: Any) -> Any:
    """The plan of a pipeline with a source and a selector, unless they are given."""
    given = {
        "sources": [make("source", nothing, "source")],
        "selector": make("selector", nothing, "selector"),
    } | stages
    return compose("toy", **given)["toy"].plan


def message(make: Any, **stages: Any) -> str:
    """The messages of the mistakes in a pipeline."""
    with pytest.raises(SpecError) as caught:
        pipeline(make, **stages)
    return str(caught.value)


def phases(plan: Any, stage: str) -> list[list[str]]:
    """The names of a stage's components by phase."""
    return [[node.name for node in phase] for phase in plan.phases[stage]]


KEYS = st.frozensets(st.integers(0, 5), max_size=2)
NODES = st.lists(st.tuples(KEYS, KEYS), max_size=6)


def slow_phases(nodes: list[tuple[frozenset[int], frozenset[int]]], given: set[int]) -> list[list[int]] | str:
    """The phases of nodes (reads, writes), or the code of what is wrong, found by the definition."""
    needs = {
        at: {other for key in reads for other, (_, writes) in enumerate(nodes) if other != at and key in writes}
        for at, (reads, _) in enumerate(nodes)
    }
    for at, (reads, _) in enumerate(nodes):
        for key in reads:
            if key not in given and not any(key in writes for other, (_, writes) in enumerate(nodes) if other != at):
                return "E300"

    def depth(at: int, seen: tuple[int, ...]) -> int:
        if at in seen:
            raise RecursionError
        return 1 + max((depth(other, (*seen, at)) for other in needs[at]), default=-1)

    try:
        depths = [depth(at, ()) for at in range(len(nodes))]
    except RecursionError:
        return "E303"
    levels = [[at for at, found in enumerate(depths) if found == level] for level in range(max(depths, default=-1) + 1)]
    for level in levels:
        written = [key for at in level for key in nodes[at][1]]
        if len(written) != len(set(written)):
            return "E302"
    return levels


@settings(max_examples=400, deadline=None)
@given(nodes=NODES, given_keys=KEYS, kind=st.sampled_from(["hydrator", "query_hydrator"]))
def test_phases_agree_with_a_slow_model(make: Any, nodes: Any, given_keys: frozenset[int], kind: str) -> None:
    """Components run as soon as what they read is there, together with those that are ready too."""
    keys: list[Any] = COLUMNS if kind == "hydrator" else FEATURES
    stage = [
        make(kind, nothing, f"n{at}", reads=[keys[key] for key in sorted(reads)], writes=[keys[key] for key in writes])
        for at, (reads, writes) in enumerate(nodes)
    ]
    stages: dict[str, Any] = {f"{kind}s": stage}
    if kind == "hydrator":
        stages["sources"] = [make("source", nothing, "source", writes=[keys[key] for key in given_keys])]
    else:
        stages["inputs"] = {f"i{key}": keys[key] for key in given_keys}
    wanted = slow_phases(nodes, set(given_keys))
    if isinstance(wanted, str):
        # Of several mistakes the model names one; E300 hides nothing, the others exclude one another.
        assert wanted in codes(make, **stages)
    else:
        assert phases(pipeline(make, **stages), f"{kind}s") == [[f"n{at}" for at in level] for level in wanted]


def test_a_key_nobody_writes(make: Any) -> None:
    """A column or feature that nothing gives is E300, with the component and the key."""
    text = message(make, filters=[make("filter", nothing, "f", reads=[A, F])])
    assert "E300 f reads the column toy.c0, which nobody writes" in text
    assert "E300 f reads the query feature toy.f0, which nobody writes" in text
    assert "add a component that writes it or an input" in text
    assert codes(make, show=[A]) == ["E300"]


def test_a_key_that_only_its_reader_writes(make: Any) -> None:
    """A component that reads what only it writes is told so."""
    text = message(make, hydrators=[make("hydrator", nothing, "h", reads=[A], writes=[A])])
    assert "E300 h reads the column toy.c0, which only it writes" in text
    text = message(make, scorers=[make("scorer", nothing, "s", reads=[SCORE], writes=[SCORE])])
    assert "E300 s reads the column core.score, which only it writes" in text


def test_a_key_written_later(make: Any) -> None:
    """What a later stage, or a later scorer, writes is E301 with where it is written."""
    reader, writer = make("scorer", nothing, "r", reads=[A], writes=[B]), make("scorer", nothing, "w", writes=[A])
    text = message(make, scorers=[reader, writer])
    assert "E301 the scorer r reads the column toy.c0, which is written later in the same stage" in text
    assert codes(make, scorers=[writer, reader]) == []
    text = message(
        make,
        filters=[make("filter", nothing, "f", reads=[A])],
        post_selection_hydrators=[make("hydrator", nothing, "h", writes=[A])],
    )
    assert "E301 the filter f reads the column toy.c0, which is written only in post_selection_hydrators" in text


def test_a_safety_filter_before_its_hydrator_is_called_one(make: Any) -> None:
    """The message for a safety filter says that it is one."""
    text = message(
        make,
        filters=[make("filter", nothing, "blocked", reads=[A], safety=True)],
        post_selection_hydrators=[make("hydrator", nothing, "h", writes=[A])],
    )
    assert "E301 the safety filter blocked reads the column toy.c0" in text


def test_overwriting_in_a_later_phase_or_stage_is_allowed(make: Any) -> None:
    """Two components may write one column if one clearly comes first."""
    first = make("hydrator", nothing, "first", writes=[A, B])
    second = make("hydrator", nothing, "second", reads=[B], writes=[A])
    assert phases(pipeline(make, hydrators=[second, first]), "hydrators") == [["first"], ["second"]]
    assert codes(make, hydrators=[first], scorers=[make("scorer", nothing, "s", writes=[A])]) == []


def test_sources_share_columns(make: Any) -> None:
    """Several sources may write the same columns; they all run together."""
    sources = [make("source", nothing, f"s{at}", writes=[A]) for at in range(3)]
    assert phases(pipeline(make, sources=sources), "sources") == [["s0", "s1", "s2"]]


def test_circle_names_only_its_members(make: Any) -> None:
    """Components that merely wait for a circle are not blamed for it."""
    text = message(
        make,
        hydrators=[
            make("hydrator", nothing, "waits", reads=[A], writes=[C]),
            make("hydrator", nothing, "x", reads=[B], writes=[A]),
            make("hydrator", nothing, "y", reads=[A], writes=[B]),
        ],
    )
    assert "E303 components of hydrators need each other's output: x -> y -> x" in text


def test_what_takes_over_is_wired_too(make: Any) -> None:
    """A fallback's reads must be there before the component it stands in for, and its writes must not clash."""
    policy = {"main": RunPolicy(on_error="fallback:spare")}
    main = make("hydrator", nothing, "main", writes=[A])
    spare = make("hydrator", nothing, "spare", reads=[B], writes=[A, C])
    writer = make("hydrator", nothing, "writer", writes=[B])
    plan = pipeline(make, hydrators=[main, writer], fallbacks=[spare], run=policy)
    assert phases(plan, "hydrators") == [["writer"], ["main"]]
    assert codes(make, hydrators=[main], fallbacks=[spare], run=policy) == ["E300"]
    clash = make("hydrator", nothing, "clash", reads=[B], writes=[C])
    assert codes(make, hydrators=[main, writer, clash], fallbacks=[spare], run=policy) == ["E302"]


@pytest.mark.parametrize(
    ("kind", "stage", "attributes", "fault"),
    [
        ("source", "sources", {"reads": [A]}, "ToySource.reads holds the column toy.c0, but a source is given no rows"),
        ("hydrator", "hydrators", {"writes": [F]}, "writes holds toy.f0, but a hydrator writes columns"),
        ("query_hydrator", "query_hydrators", {"writes": [A]}, "but a query hydrator writes query features"),
        ("scorer", "scorers", {"writes": [ITEM_ID]}, "writes holds core.item_id, which cannot be rewritten"),
        ("hydrator", "hydrators", {"reads": "toy.c0"}, "reads must be a collection of keys, found 'toy.c0'"),
        ("hydrator", "hydrators", {"reads": ["toy.c0"]}, "reads holds 'toy.c0', wanted keys"),
    ],
)
def test_keys_that_a_kind_cannot_use(make: Any, kind: str, stage: str, attributes: Any, fault: str) -> None:
    """Reads and writes that make no sense for a kind are E203 when the pipeline is compiled."""
    text = message(make, **{stage: [make(kind, nothing, "x", **attributes)]})
    assert "E203 x: Toy" in text
    assert fault in text


def test_methods_that_cannot_be_called(make: Any) -> None:
    """A missing method, wrong arguments, an async filter and a blocking coroutine are E203 with what is wanted."""

    class Wrong:
        reads = ()
        writes = ()

        def hydrate(self, query: Any) -> None:
            """Too few arguments."""

    text = message(make, hydrators=[("w", Wrong())])
    assert "E203 w: Wrong.hydrate must take (query, candidates, ctx), found hydrate(query" in text
    text = message(make, hydrators=[("w", object())])
    assert "E203 w: a hydrator has a method hydrate(query, candidates, ctx); object has none" in text
    text = message(make, filters=[make("filter", later, "f")])
    assert "E203 f: ToyFilter.keep must be a plain def: a filter is synchronous" in text
    text = message(make, hydrators=[make("hydrator", later, "h", blocking=True)])
    assert "E203 h: ToyHydrator.hydrate is async def, which blocking = True cannot run in a thread" in text

    class Silent:
        def hydrate(self, query: Any, candidates: Any, ctx: Any) -> None:
            """Declares nothing."""

    text = message(make, hydrators=[("s", Silent())])
    assert "E203 s: Silent must declare reads: the keys it reads, () for none" in text
    assert "E203 s: Silent must declare writes: the keys it writes, () for none" in text


def second(seconds: float) -> dt.timedelta:
    """A duration."""
    return dt.timedelta(seconds=seconds)


def test_timeouts_that_cannot_work(make: Any) -> None:
    """A timeout on a plain def, or one beyond the deadline, is refused; on a coroutine or in a thread it is fine."""
    run = {"h": RunPolicy(timeout=second(1))}
    assert codes(make, hydrators=[make("hydrator", nothing, "h")], run=run) == ["E304"]
    assert codes(make, hydrators=[make("hydrator", later, "h")], run=run) == []
    assert codes(make, hydrators=[make("hydrator", nothing, "h", blocking=True)], run=run) == []
    assert codes(make, filters=[make("filter", nothing, "h", blocking=True)], run=run) == ["E304"]
    assert codes(make, hydrators=[make("hydrator", later, "h")], run=run, deadline=second(0.5)) == ["E305"]
    assert codes(make, hydrators=[make("hydrator", later, "h")], run=run, deadline=second(1)) == []
    effect = [make("side_effect", later, "h")]
    assert codes(make, side_effects=effect, run=run, deadline=second(0.5)) == []


@pytest.mark.parametrize(
    ("kind", "attributes", "policy", "found"),
    [
        ("filter", {"safety": True}, RunPolicy(on_error="skip"), ["E306"]),
        ("filter", {"safety": True}, RunPolicy(safety=False), ["E306"]),
        ("filter", {}, RunPolicy(safety=True, on_error="skip"), ["E306"]),
        ("filter", {}, RunPolicy(safety=True), []),
        ("filter", {}, RunPolicy(on_error="fail"), []),
        ("hydrator", {}, RunPolicy(safety=True), ["E306"]),
        ("scorer", {}, RunPolicy(on_error="skip"), []),
        ("side_effect", {}, RunPolicy(on_error="fail"), ["E306"]),
        ("side_effect", {}, RunPolicy(on_error="fallback:x"), ["E306"]),
        ("side_effect", {}, RunPolicy(on_error="skip"), []),
        ("hydrator", {}, RunPolicy(on_error="ignore"), ["E104"]),
        ("hydrator", {}, RunPolicy(on_error="fallback:"), ["E307"]),
        ("hydrator", {}, RunPolicy(on_error="fallback:x"), ["E307"]),
    ],
)
def test_policies_that_a_kind_forbids(
    make: Any, kind: str, attributes: Any, policy: RunPolicy, found: list[str]
) -> None:
    """Policies that would lower safety, or have no effect, are refused."""
    assert codes(make, **{f"{kind}s": [make(kind, nothing, "x", **attributes)]}, run={"x": policy}) == found


def test_selector_cannot_be_skipped(make: Any) -> None:
    """A selector that may be skipped is refused."""
    run = {"selector": RunPolicy(on_error="skip")}
    assert codes(make, run=run) == ["E306"]


def test_fallback_of_a_safety_filter_is_one(make: Any) -> None:
    """A safety filter may only fall back to another."""
    filters = [make("filter", nothing, "f", safety=True)]
    run = {"f": RunPolicy(on_error="fallback:g")}
    assert codes(make, filters=filters, fallbacks=[make("filter", nothing, "g")], run=run) == ["E306"]
    assert codes(make, filters=filters, fallbacks=[make("filter", nothing, "g", safety=True)], run=run) == []


def test_fallbacks_that_lead_back(make: Any) -> None:
    """A chain of fallbacks that returns to itself is E307, however long."""
    scorers = [make("scorer", nothing, "a", writes=[SCORE])]
    spare = [make("scorer", nothing, name, writes=[SCORE]) for name in ("b", "c")]
    run = {name: RunPolicy(on_error=f"fallback:{then}") for name, then in (("a", "b"), ("b", "c"), ("c", "a"))}
    text = message(make, scorers=scorers, fallbacks=spare, run=run)
    assert "E307 the fallback leads back to 'a': a -> b -> c -> a" in text
    assert codes(make, scorers=scorers, run={"a": RunPolicy(on_error="fallback:a")}) == ["E307"]


def test_fallback_of_another_kind(make: Any) -> None:
    """A fallback that lacks the method of its place is E203."""
    run = {"a": RunPolicy(on_error="fallback:f")}
    scorers = [make("scorer", nothing, "a", writes=[SCORE])]
    assert codes(make, scorers=scorers, filters=[make("filter", nothing, "f")], run=run) == ["E203"]


def test_names_must_differ_within_a_stage(make: Any) -> None:
    """Two components of one name in one stage could not be told apart."""
    filters = [make("filter", nothing, "f"), make("filter", nothing, "f")]
    assert codes(make, filters=filters) == ["E308"]
    assert codes(make, filters=filters[:1], post_selection_filters=filters[1:]) == []


def test_policy_for_nobody(make: Any) -> None:
    """A policy whose name no component has is reported, with the nearest name."""
    text = message(make, run={"sorce": RunPolicy(on_error="fail")})
    assert "E101 no component 'sorce' to apply the policy to" in text
    assert "did you mean 'source'?" in text


def test_too_many_sources(make: Any) -> None:
    """More sources than a row has bits for are refused."""
    assert codes(make, sources=[make("source", nothing, f"s{at}") for at in range(65)]) == ["E104"]
    assert codes(make, sources=[make("source", nothing, f"s{at}") for at in range(64)]) == []


def test_components_are_named_after_their_class(make: Any) -> None:
    """Without a name a component is called after its class in snake case."""

    class HTTPSource:
        reads = ()
        writes = ()

        def fetch(self, query: Any, ctx: Any) -> Candidates:
            """One row."""
            return Candidates.of(ITEM_ID([1]))

    class TopTen:
        reads = ()

        def select(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
            """All rows."""
            return rank_order(candidates)

    plan = compose("p", sources=[HTTPSource()], selector=TopTen())["p"].plan
    assert [node.name for node in plan.nodes] == ["http_source", "top_ten"]


def test_plan_numbers_its_nodes(make: Any) -> None:
    """Every node stands at its own number, fallbacks before what they stand in for."""
    plan = pipeline(
        make,
        scorers=[make("scorer", lambda *_: patch(), "a", writes=[SCORE])],
        fallbacks=[make("scorer", nothing, "b", writes=[SCORE])],
        run={"a": RunPolicy(on_error="fallback:b")},
    )
    assert [node.index for node in plan.nodes] == list(range(len(plan.nodes)))
    names = [node.name for node in plan.nodes]
    assert names == ["source", "b", "a", "selector"]
    assert plan.nodes[2].fallback is plan.nodes[1]
