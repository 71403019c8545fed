"""What one viewer's request put into a cache must not reach another's: keys, and what cached components may see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import GUEST, KIND, NOW, TTL, VIEWER

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    CachePolicy,
    Candidates,
    Column,
    MisconfigurationError,
    NestedPipeline,
    QueryFeature,
    RunPolicy,
    SpecError,
    compose,
    patch,
    query_patch,
    rank_order,
)
from candidate_pipeline.testing import run_in_virtual_time

TASTES = QueryFeature("toy.tastes", np.ndarray)
MOOD = QueryFeature("toy.mood", str, default="none")
ANY = QueryFeature("toy.any", object)
NUMBER = Column("toy.number", np.float64)
FACE = Column("toy.face", np.object_)
TAGS = Column("toy.tags", np.object_)
INPUTS: dict[str, QueryFeature[Any]] = {"viewer": VIEWER, "tastes": TASTES, "mood": MOOD, "any": ANY, "guest": GUEST}


def serve(app: Any, *requests: dict[str, Any]) -> list[Any]:
    """The outcomes of requests one after another."""

    async def main() -> list[Any]:
        async with app:
            return [await app["toy"].run(**{"now": NOW, **request}) for request in requests]

    return run_in_virtual_time(main())


def hits(outcomes: list[Any], component: str) -> list[int]:
    """The hits of a component in each outcome."""
    return [entry.cache_hits for each in outcomes for entry in each.trace if entry.component == component]


@pytest.fixture(scope="module")
def toy(make: Any) -> Any:
    """Builds an application over items with kinds, with the inputs that its components read."""

    def toy(inputs: Any = "", **stages: Any) -> Any:
        rows = Candidates.of(ITEM_ID([1, 2, 3]), KIND([7, 7, 8]), TAGS([["a"], ["b"], None]))
        given = {
            "sources": [make("source", lambda q, ctx: rows, "source", writes=[KIND, TAGS])],
            "selector": make("selector", lambda q, c, ctx: rank_order(c), "top"),
        }
        return compose("toy", **(given | stages), inputs={name: INPUTS[name] for name in inputs.split()})

    return toy


# Two viewers never share


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(
        st.fixed_dictionaries(
            {
                "viewer": st.integers(0, 2),
                "tastes": st.lists(st.sampled_from([0.0, -0.0, 1.0, np.nan]), max_size=2).map(np.array),
            },
            optional={"mood": st.sampled_from(["", "none", "1"])},
        ),
        min_size=2,
        max_size=8,
    ),
    named=st.permutations(["toy.viewer", "toy.tastes", "toy.mood", "core.item_id"]),
    semantics=st.sampled_from(["strict", "upstream"]),
)
def test_two_viewers_never_share(toy: Any, make: Any, requests: Any, named: list[str], semantics: Any) -> None:
    """What cached components compute from a viewer's features is that viewer's own, whoever asked before."""
    keys = (VIEWER, TASTES, MOOD)
    secret = QueryFeature("toy.secret", str)

    def face(query: Any) -> str:
        return f"{query[VIEWER]} {query[TASTES].tobytes()!r} {query[MOOD]}"

    def fetch(query: Any, ctx: Any) -> Candidates:
        return Candidates.of(ITEM_ID([1, 2]), FACE([face(query)] * 2))

    def hydrate(query: Any, candidates: Candidates, ctx: Any) -> Any:
        return patch(TAGS([f"{item} {face(query)}" for item in candidates[ITEM_ID]]))

    policy = RunPolicy(cache=TTL)
    app = toy(
        "viewer tastes mood",
        query_hydrators=[
            make("query_hydrator", lambda q, ctx: query_patch(secret(face(q))), "q", reads=keys, writes=[secret])
        ],
        sources=[make("source", fetch, "s", reads=keys, writes=[FACE])],
        hydrators=[make("hydrator", hydrate, "h", reads=(*keys, ITEM_ID), writes=[TAGS])],
        run={"q": policy, "s": policy, "h": RunPolicy(cache=CachePolicy(ttl=TTL.ttl, key=tuple(named)))},
        semantics=semantics,
    )
    for request, outcome in zip(requests, serve(app, *requests), strict=True):
        own = f"{request['viewer']} {request['tastes'].tobytes()!r} {request.get('mood', 'none')}"
        assert outcome.query[secret] == own
        assert outcome.selected[FACE].tolist() == [own] * 2
        assert outcome.selected[TAGS].tolist() == [f"1 {own}", f"2 {own}"]


def test_arrays_count_by_content(toy: Any, make: Any) -> None:
    """Equal arrays are one key; another dtype, shape or number is another."""
    app = toy(
        "tastes",
        sources=[make("source", lambda q, ctx: Candidates.of(ITEM_ID([1])), "s", reads=[TASTES])],
        run={"s": RunPolicy(cache=TTL)},
    )
    same = np.array([[1.0, 2.0]])
    others = [same.astype(np.float32), same.ravel(), same + 1]
    outcomes = serve(app, *({"tastes": array} for array in (same, same.copy(), np.asfortranarray(same), *others)))
    assert hits(outcomes, "s") == [0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("kind", ["source", "hydrator"])
def test_what_cannot_be_a_key_is_a_misconfiguration(toy: Any, make: Any, kind: str) -> None:
    """A feature or cell that cannot be told from others fails the request, and is not quietly left out of the key."""
    if kind == "source":
        stages = {"sources": [make("source", lambda q, ctx: Candidates.empty(), "x", reads=[ANY])]}
        message = "x: toy.any cannot be part of a cache key: wanted a value"
    else:
        rows = Candidates.of(ITEM_ID([1]), TAGS([object()]))
        stages = {
            "sources": [make("source", lambda q, ctx: rows, "source", writes=[TAGS])],
            "hydrators": [make("hydrator", lambda *_: patch(NUMBER([1.0])), "x", reads=[TAGS], writes=[NUMBER])],
        }
        message = "x: the columns of its cache key: wanted a value"
    with pytest.raises(MisconfigurationError, match=message):
        serve(toy("any", **stages, run={"x": RunPolicy(cache=TTL)}), {"any": object()})


# What a cached component may see


@pytest.mark.parametrize("feature", [VIEWER, MOOD, GUEST])
def test_features_that_are_not_in_the_key_are_not_there(toy: Any, make: Any, feature: Any) -> None:
    """A cached component that reads a feature it does not declare is misconfigured, were it its own gate's."""

    def fetch(query: Any, ctx: Any) -> Candidates:
        return Candidates.of(ITEM_ID([1]), FACE([str(query[feature])]))

    app = toy(
        "viewer mood guest",
        sources=[make("source", fetch, "s", reads=[TASTES] if feature is None else [], writes=[FACE])],
        run={"s": RunPolicy(cache=TTL, when={"toy.guest": True})},
    )
    with pytest.raises(MisconfigurationError, match=f"s .* reads what its `reads` does not declare: .*{feature.name}"):
        serve(app, {"viewer": 1, "mood": "good", "guest": True})


@pytest.mark.parametrize("column", [ITEM_ID, TAGS])
def test_columns_that_are_not_declared_are_not_there(toy: Any, make: Any, column: Any) -> None:
    """A cached hydrator that reads a column it does not declare is misconfigured, were it the item id."""

    def hydrate(query: Any, candidates: Candidates, ctx: Any) -> Any:
        assert candidates.columns == (KIND,)
        return patch(NUMBER(np.arange(len(candidates[column])) * 1.0))

    app = toy(
        hydrators=[make("hydrator", hydrate, "h", reads=[KIND], writes=[NUMBER])], run={"h": RunPolicy(cache=TTL)}
    )
    with pytest.raises(MisconfigurationError, match=f"does not declare: column {column.name} is absent"):
        serve(app, {})


def test_item_ids_are_there_where_they_are_the_key(toy: Any, make: Any) -> None:
    """Without a declared column the item id is the key; it may also be named as one."""
    seen: list[Any] = []

    def hydrate(query: Any, candidates: Candidates, ctx: Any) -> Any:
        seen.append((ctx.component, candidates.columns, candidates[ITEM_ID].tolist()))
        return patch((NUMBER if ctx.component == "a" else SCORE)(candidates[ITEM_ID] * 1.0))

    app = toy(
        hydrators=[
            make("hydrator", hydrate, "a", writes=[NUMBER]),
            make("hydrator", hydrate, "b", reads=[KIND], writes=[SCORE]),
        ],
        run={"a": RunPolicy(cache=TTL), "b": RunPolicy(cache=CachePolicy(ttl=TTL.ttl, key=("core.item_id",)))},
    )
    serve(app, {})
    assert seen == [("a", (ITEM_ID,), [1, 2, 3]), ("b", (ITEM_ID, KIND), [1, 2, 3])]


def test_seeds_and_names_of_requests_are_hidden(toy: Any, make: Any) -> None:
    """Requests of all seeds share answers, so a cached component knows neither seed nor request; rng is refused."""
    seen: set[Any] = set()

    def fetch(query: Any, ctx: Any) -> Candidates:
        seen.add((query.seed, ctx.seed, query.request_id, ctx.prepared, ctx.component))
        return Candidates.of(ITEM_ID([1]))

    app = toy(sources=[make("source", fetch, "s")], run={"s": RunPolicy(cache=TTL)})
    outcomes = serve(app, {"seed": 1, "request_id": "a"}, {"seed": 2, "request_id": "b"})
    assert hits(outcomes, "s") == [0, 1]
    assert seen == {(0, 0, "shared", None, "s")}
    rolls = make("source", lambda q, ctx: Candidates.of(ITEM_ID(ctx.rng().integers(9, size=2))), "s")
    with pytest.raises(MisconfigurationError, match="s draws random numbers, but its answers are cached"):
        serve(toy(sources=[rolls], run={"s": RunPolicy(cache=TTL)}), {})


def test_published_semantics_throws_the_hits_away(toy: Any, make: Any) -> None:
    """Under the published semantics a failing call leaves every row as it was, cached or not."""
    calls: list[int] = []

    def hydrate(query: Any, candidates: Candidates, ctx: Any) -> Any:
        calls.append(len(candidates))
        if len(calls) > 1:
            raise OSError("no line")
        return patch(NUMBER([1.0, 2.0]), failed=candidates[KIND] == 8)

    app = toy(
        hydrators=[make("hydrator", hydrate, "h", reads=[KIND], writes=[NUMBER])],
        run={"h": RunPolicy(cache=TTL)},
        semantics="upstream",
    )
    first, second = serve(app, {}, {})
    assert calls == [2, 1]
    assert [each.selected.valid(NUMBER).tolist() for each in (first, second)] == [[True, True, False], [False] * 3]


# Mistakes that compiling finds


def mistakes(toy: Any, **given: Any) -> list[str]:
    """The messages of a spec's mistakes, with their codes."""
    with pytest.raises(SpecError) as caught:
        toy(**given)
    return [f"{problem.code} {problem.message}" for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("reads", "key", "wanted"),
    [
        ([VIEWER, KIND], ("toy.kind",), "E309 h reads toy.viewer, which the key of its cache leaves out"),
        ([VIEWER, MOOD], ("core.item_id", "toy.viewer"), "E309 h reads toy.mood, which the key of its cache leaves"),
        ([VIEWER], ("toy.viewer",), "E309 h: the key of a hydrator's cache needs a column"),
        ([KIND, TAGS], ("toy.kind",), "E309 h reads toy.tags, which the key of its cache leaves out; and core.item_id"),
        ([KIND], ("toy.kind", "toy.king"), "E205 h: 'toy.king' is not among what it reads"),
    ],
)
def test_keys_that_leave_something_out(toy: Any, make: Any, reads: Any, key: Any, wanted: str) -> None:
    """A key has all query features that are read, and all columns or the item id."""
    found = mistakes(
        toy,
        inputs="viewer mood",
        hydrators=[make("hydrator", lambda *_: patch(), "h", reads=reads, writes=[NUMBER])],
        run={"h": RunPolicy(cache=CachePolicy(ttl=TTL.ttl, key=key))},
    )
    assert any(message.startswith(wanted) for message in found)
    assert len(found) == 1


@pytest.fixture(scope="module")
def tainted(make: Any) -> Any:
    """By name, stages in which the column NUMBER depends, in some way, on who asks."""
    rows = Candidates.of(ITEM_ID([1]), KIND([1]), NUMBER([1.0]))

    def numbers(**attributes: Any) -> Any:
        return make("hydrator", lambda *_: patch(NUMBER([1.0])), "n", **{"writes": [NUMBER], **attributes})

    inner = compose(
        "inner",
        sources=[make("source", lambda q, ctx: rows, "s", writes=[KIND, NUMBER])],
        selector=make("selector", lambda q, c, ctx: rank_order(c), "top"),
    )
    plain = make("source", lambda q, ctx: rows, "s", writes=[KIND])
    both = make("source", lambda q, ctx: rows, "s", writes=[KIND, NUMBER])
    return {
        "source": {"sources": [make("source", lambda q, ctx: rows, "s", reads=[VIEWER], writes=[KIND, NUMBER])]},
        "one of two sources": {
            "sources": [both, make("source", lambda q, ctx: rows, "t", reads=[VIEWER], writes=[NUMBER])]
        },
        "hydrator": {"sources": [plain], "hydrators": [numbers(reads=[VIEWER])]},
        "gate": {"sources": [plain], "hydrators": [numbers()], "run": {"n": RunPolicy(when={"toy.viewer": 1})}},
        "fallback": {
            "sources": [plain],
            "hydrators": [numbers()],
            "fallbacks": [make("hydrator", lambda *_: patch(NUMBER([2.0])), "spare", reads=[VIEWER], writes=[NUMBER])],
            "run": {"n": RunPolicy(on_error="fallback:spare")},
        },
        "column of a column": {
            "sources": [make("source", lambda q, ctx: rows, "s", reads=[VIEWER], writes=[KIND])],
            "hydrators": [numbers(reads=[KIND])],
        },
        "nested pipeline": {"sources": [("s", NestedPipeline(inner["inner"].plan))]},
        "list": {
            "sources": [plain],
            "scorers": [
                make("scorer", lambda *_: patch(NUMBER([1.0])), "n", reads=[KIND], writes=[NUMBER], listwise=True)
            ],
        },
        "nothing": {"sources": [both]},
    }


@pytest.mark.parametrize(
    "how",
    [
        "source",
        "one of two sources",
        "hydrator",
        "gate",
        "fallback",
        "column of a column",
        "nested pipeline",
        "list",
        "nothing",
    ],
)
def test_columns_that_depend_on_the_viewer_belong_into_the_key(toy: Any, make: Any, tainted: Any, how: str) -> None:
    """The item id stands for columns that are the item's own, not for what a viewer's query had a part in."""
    stages = dict(tainted[how])
    policies = stages.pop("run", {})
    reader = make("hydrator", lambda *_: patch(FACE(["x"])), "h", reads=[NUMBER], writes=[FACE])

    def tried(*key: str) -> list[str]:
        run = {"h": RunPolicy(cache=CachePolicy(ttl=TTL.ttl, key=key or None)), **policies}
        try:
            toy("viewer", **stages, post_selection_hydrators=[reader], run=run)
        except SpecError as error:
            return [f"{problem.code} {problem.message}" for problem in error.problems]
        return []

    assert tried() == tried("core.item_id", "toy.number") == []
    wanted = "E309 h reads toy.number, which the key of its cache leaves out; they may differ between viewers"
    assert tried("core.item_id") == ([] if how == "nothing" else [wanted])
