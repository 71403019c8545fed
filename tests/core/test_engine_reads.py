"""Undeclared reads, which no policy excuses, and what the errors of requests carry. Time is virtual."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from toys import (
    BLOCKED,
    INPUTS,
    LEVEL,
    PLAN,
    PRICE,
    RATED,
    best_first,
    broken,
    entry_of,
    priced,
    rows,
    silent,
)

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    MisconfigurationError,
    QueryFeature,
    RequestError,
    RunPolicy,
    compose,
    patch,
    query_patch,
)
from candidate_pipeline.testing import run_in_virtual_time

pytestmark = pytest.mark.usefixtures("logs")


# Undeclared reads


def reading(kind: str, key: Any, how: str) -> Any:
    """A component function that reads a key: called here, awaited, or in a thread."""
    answers = {"query_hydrator": query_patch(), "source": Candidates.empty(), "filter": None}

    def read(query: Any, *args: Any) -> Any:
        value = query[key] if isinstance(key, QueryFeature) else args[0][key]
        assert value is not None
        return answers.get(kind, patch())

    async def later(query: Any, *args: Any) -> Any:
        await asyncio.sleep(1)
        return read(query, *args)

    return later if how == "async" else read


@pytest.mark.parametrize("policy", ["skip", "fail", "fallback:spare"])
@pytest.mark.parametrize("how", ["plain", "async", "blocking"])
@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("key", [LEVEL, PLAN], ids=["without default", "with default"])
def test_undeclared_feature(run: Any, make: Any, key: Any, failed: bool, how: str, policy: str) -> None:
    """A feature that is absent or failed and not declared ends the request, though a default could stand in for it."""
    extra = {"blocking": True} if how == "blocking" else {}
    with pytest.raises(MisconfigurationError) as caught:
        run(
            query_hydrators=[make("query_hydrator", broken if failed else silent, "gives", writes=[key])],
            sources=[make("source", reading("source", key, how), "x", **extra), make("source", rows(1), "y")],
            fallbacks=[make("source", rows(2), "spare")],
            policies={"x": RunPolicy(on_error=policy)},
        )
    state = "failed: gives: ValueError: no" if failed else "is absent: no component or input gave it"
    assert str(caught.value) == (
        f"x (ToySource) reads what its `reads` does not declare: query feature {key.name} {state}"
    )
    assert caught.value.__notes__ == ["raised by x (ToySource) in sources of pipeline 'toy'"]


@pytest.mark.parametrize("policy", ["skip", "fail"])
@pytest.mark.parametrize("kind", ["hydrator", "filter", "scorer", "selector"])
@pytest.mark.parametrize("key", [PRICE, RATED, LEVEL, PLAN], ids=lambda key: key.name)
def test_undeclared_key_in_every_kind(run: Any, make: Any, kind: str, key: Any, policy: str) -> None:
    """The same for columns, and for every kind of component."""
    component = make(kind, reading(kind, key, "plain"), "x")
    stages: dict[str, Any] = {"selector": component} if kind == "selector" else {f"{kind}s": [component]}
    on_error = "fail" if kind == "selector" else policy
    with pytest.raises(MisconfigurationError, match=rf"^x \(Toy\w+\) reads what its `reads` .* {key.name} is absent"):
        run(**stages, policies={"x": RunPolicy(on_error=on_error)})


@pytest.mark.parametrize("how", ["plain", "async"])
def test_undeclared_read_in_prepare(run: Any, make: Any, how: str) -> None:
    """What `prepare` reads must be declared, too."""
    scorer = make("scorer", lambda *_: patch(), "x", prepare=reading("source", PLAN, how))
    with pytest.raises(MisconfigurationError, match=r"query feature toy\.plan is absent"):
        run(scorers=[scorer], policies={"x": RunPolicy(on_error="skip")})


def test_undeclared_default_does_not_open_a_safety_filter(run: Any, make: Any) -> None:
    """A safety filter that forgot to declare its block list cannot run on the list's empty default."""
    with pytest.raises(MisconfigurationError, match=r"query feature toy\.blocked failed: blocks: ValueError: no"):
        run(
            query_hydrators=[make("query_hydrator", broken, "blocks", writes=[BLOCKED])],
            filters=[make("filter", lambda q, c, ctx: ~np.isin(c[ITEM_ID], q[BLOCKED]), "f", safety=True)],
        )


def test_declared_defaults_are_there(run: Any, make: Any) -> None:
    """What is declared reads its default, in the component, in its fallback, and in the outcome's query."""
    seen = []

    def read(query: Any, ctx: Any) -> Candidates:
        seen.append((ctx.component, query[PLAN]))
        if ctx.component == "x":
            raise ValueError("no")
        return Candidates.of(ITEM_ID([1]))

    outcome = run(
        query_hydrators=[make("query_hydrator", silent, "gives", writes=[PLAN])],
        sources=[make("source", read, "x", reads=[PLAN])],
        fallbacks=[make("source", read, "spare", reads=[PLAN])],
        policies={"x": RunPolicy(on_error="fallback:spare")},
    )
    assert seen == [("x", "free"), ("spare", "free")]
    assert outcome.query[PLAN] == "free"


def test_other_requests_inside_a_component_are_their_own(make: Any) -> None:
    """A component that asks another application reads that one's outcome as anybody would."""
    inner = compose(
        "inner",
        query_hydrators=[make("query_hydrator", silent, "gives", writes=[PLAN])],
        sources=[make("source", lambda q, ctx: Candidates.of(ITEM_ID([len(q[PLAN])])), "s", reads=[PLAN])],
        selector=make("selector", best_first, "top"),
        run={"s": RunPolicy(when={"toy.plan": "free"})},
    )

    async def ask(query: Any, ctx: Any) -> Candidates:
        outcome = await inner["inner"].run()
        assert outcome.query[PLAN] == "free"
        return Candidates.of(ITEM_ID(outcome.item_ids))

    app = compose("toy", sources=[make("source", ask, "ask")], selector=make("selector", best_first, "top"))

    async def main() -> list[int]:
        async with inner, app:
            outcome = await app["toy"].run()
            return list(outcome.item_ids.tolist())

    assert run_in_virtual_time(main()) == [4]


# What an error carries


def test_a_failed_request_tells_what_happened_until_then(run: Any, make: Any) -> None:
    """`RequestError.trace` has a record of each component that came to an end, the one to blame included."""
    with pytest.raises(RequestError) as caught:
        run(
            sources=[make("source", rows(1, 2), "good"), make("source", broken, "bad")],
            hydrators=[make("hydrator", priced, "h", writes=[PRICE])],
            scorers=[make("scorer", broken, "model", writes=[SCORE])],
        )
    assert [(entry.component, entry.status, entry.rows_out) for entry in caught.value.trace] == [
        ("good", "ok", 2),
        ("bad", "skipped", 0),
        ("h", "ok", 2),
        ("model", "skipped", 0),
    ]
    assert entry_of(caught.value, "model").error == "ValueError: no"


def test_a_wrong_request_has_no_trace(run: Any) -> None:
    """Where nothing ran there is nothing to tell."""
    with pytest.raises(RequestError) as caught:
        run(inputs=INPUTS)
    assert caught.value.trace == ()


def test_an_error_that_is_raised_again_is_noted_once(make: Any) -> None:
    """A component that raises one and the same error at every request does not pile up notes on it."""
    error = RequestError("unknown viewer")

    def fetch(query: Any, ctx: Any) -> Any:
        raise error

    app = compose("toy", sources=[make("source", fetch, "s")], selector=make("selector", best_first, "top"))
    with app:
        for _ in range(3):
            with pytest.raises(RequestError, match="unknown viewer"):
                app["toy"].run_sync()
    assert error.__notes__ == ["raised by s (ToySource) in sources of pipeline 'toy'"]


def test_an_interrupt_in_a_plain_def_leaves_no_task(make: Any) -> None:
    """Ctrl-C while a plain def computes cancels what runs beside it."""
    cancelled = []

    async def beside(query: Any, ctx: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(ctx.component)

    def interrupted(query: Any, ctx: Any) -> Any:
        raise KeyboardInterrupt

    app = compose(
        "toy",
        sources=[make("source", beside, "beside"), make("source", interrupted, "s")],
        selector=make("selector", best_first, "top"),
    )

    async def main() -> None:
        async with app:
            before = asyncio.all_tasks()
            coroutine = app["toy"].run()
            with pytest.raises(KeyboardInterrupt):
                await coroutine
            assert cancelled == ["beside"]
            assert asyncio.all_tasks() == before

    run_in_virtual_time(main())
