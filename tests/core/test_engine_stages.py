"""Running requests: what runs beside what, and what a failure or a timeout does in each stage. Time is virtual."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from toys import BUDGET, BUYER, LABEL, PRICE, errors, hanging, later_rows, plain_failure, raising, seconds

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    Column,
    Outcome,
    QueryFeature,
    RequestError,
    RunPolicy,
    patch,
    query_patch,
)
from candidate_pipeline.errors import MisconfigurationError

HINT = QueryFeature("toy.hint", str, default="none")


def status(outcome: Outcome) -> dict[str, str]:
    """What became of each component."""
    return {entry.component: entry.status for entry in outcome.trace}


# Concurrency and time


def test_sources_run_together(run: Any, make: Any) -> None:
    """Three sources of 2, 3 and 5 seconds take 5, and rows stand in the order the sources are listed in."""
    sources = [make("source", later_rows(at, after=after), f"s{at}") for at, after in enumerate((3.0, 5.0, 2.0))]
    outcome = run(sources=sources)
    assert outcome.elapsed_ms == 5000
    assert outcome.item_ids.tolist() == [0, 1, 2]
    assert [(entry.component, entry.elapsed_ms) for entry in outcome.trace[:3]] == [
        ("s2", 2000.0),
        ("s0", 3000.0),
        ("s1", 5000.0),
    ]


def test_straggler_is_cut_at_its_timeout_and_the_others_kept(run: Any, make: Any) -> None:
    """A source that hangs is cancelled at its timeout; the request goes on with the other rows."""
    cancelled = []

    async def straggler(query: Any, ctx: Any) -> Candidates:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(asyncio.get_running_loop().time())
            raise
        return Candidates.empty()

    outcome = run(
        sources=[make("source", later_rows(1, 2, after=0.5), "good"), make("source", straggler, "slow")],
        policies={"slow": RunPolicy(timeout=seconds(2))},
    )
    assert outcome.item_ids.tolist() == [1, 2]
    assert cancelled == [2.0]
    assert outcome.elapsed_ms == 2000
    assert errors(outcome) == {"slow": "timed out after 2000 ms"}
    assert outcome.selected.source_names == ("good", "slow")


def test_deadline_cuts_whatever_runs_then(run: Any, make: Any) -> None:
    """At the deadline a component without a timeout is cut as well, and the trace says why."""
    outcome = run(
        sources=[make("source", later_rows(1, after=1), "good"), make("source", hanging, "slow")], deadline=seconds(3)
    )
    assert outcome.elapsed_ms == 3000
    assert errors(outcome) == {"slow": "timed out after 3000 ms (the deadline of the request)"}


def test_deadline_fails_a_request_that_cannot_do_without(run: Any, make: Any) -> None:
    """A scorer that is not done at the deadline fails the request, which names it."""
    with pytest.raises(
        RequestError, match=r"pipeline 'toy': scorer model \(ToyScorer\) failed: timed out after 2000 ms"
    ):
        run(
            sources=[make("source", later_rows(1, after=1), "source")],
            scorers=[make("scorer", hanging, "model", writes=[SCORE])],
            deadline=seconds(3),
        )


def test_remaining_time_is_known_to_components(run: Any, make: Any) -> None:
    """`ctx.remaining()` counts down to the deadline and is `None` without one."""
    seen = []

    async def fetch(query: Any, ctx: Any) -> Candidates:
        await asyncio.sleep(1)
        seen.append(ctx.remaining())
        return Candidates.empty()

    run(sources=[make("source", fetch, "s")], deadline=seconds(3))
    run(sources=[make("source", fetch, "s")])
    assert seen == [2.0, None]


def test_a_components_own_timeout_error_is_not_the_engines(run: Any, make: Any) -> None:
    """A `TimeoutError` that a component raises is shown as its own, not as a limit of the engine."""
    outcome = run(sources=[make("source", raising(TimeoutError("socket")), "s")], deadline=seconds(9))
    assert errors(outcome) == {"s": "TimeoutError: socket"}


def test_hydrators_run_together_as_their_reads_allow(run: Any, make: Any) -> None:
    """Independent hydrators share a phase; one that reads another's column waits for it."""

    def hydrator(name: str, column: Any, after: float, reads: Any = ()) -> Any:
        async def hydrate(query: Any, candidates: Candidates, ctx: Any) -> Any:
            assert all(key in candidates for key in reads)
            await asyncio.sleep(after)
            return patch(column(np.full(len(candidates), after)))

        return make("hydrator", hydrate, name, reads=reads, writes=[column])

    first, second, third = (Column(f"toy.x{at}", np.float64) for at in range(3))
    stage = [hydrator("c", third, 1, [first]), hydrator("a", first, 2), hydrator("b", second, 3)]
    outcome = run(hydrators=stage)
    assert outcome.elapsed_ms == 4000
    assert [(entry.component, entry.phase) for entry in outcome.trace if entry.stage == "hydrators"] == [
        ("a", 0),
        ("b", 0),
        ("c", 1),
    ]


def test_scorers_and_filters_run_in_order(run: Any, make: Any) -> None:
    """Each scorer sees what the one before it wrote; filters see the rows in the order given."""

    def scorer(name: str, function: Any) -> Any:
        def score(query: Any, candidates: Candidates, ctx: Any) -> Any:
            old = candidates[SCORE] if SCORE in candidates else np.zeros(len(candidates), np.float32)
            return patch(SCORE(function(old)))

        return make("scorer", score, name, writes=[SCORE])

    outcome = run(scorers=[scorer("add", lambda x: x + 3), scorer("double", lambda x: x * 2)])
    assert outcome.selected[SCORE].tolist() == [6.0] * 3


# Query hydrators


def test_query_hydrators_feed_one_another(run: Any, make: Any) -> None:
    """A query hydrator that reads another's feature runs after it."""
    first = make("query_hydrator", lambda query, ctx: query_patch(BUDGET(query[BUYER] * 2)), "a", writes=[BUDGET])
    second = make(
        "query_hydrator", lambda query, ctx: query_patch(HINT(f"{query[BUDGET]:g}")), "b", reads=[BUDGET], writes=[HINT]
    )
    outcome = run(query_hydrators=[second, first], inputs={"buyer": BUYER}, request={"buyer": 21})
    assert outcome.query[HINT] == "42"


def test_skipped_query_hydrator_fails_its_features(run: Any, make: Any) -> None:
    """A feature whose hydrator failed is failed, with the reason; what reads it fails in turn, the rest runs."""
    wallet = make("query_hydrator", raising(ValueError("no bank")), "wallet", writes=[BUDGET])
    picky = make("source", later_rows(9), "picky", reads=[BUDGET])
    outcome = run(query_hydrators=[wallet], sources=[picky, make("source", later_rows(1), "plain")])
    assert outcome.item_ids.tolist() == [1]
    assert errors(outcome) == {
        "wallet": "ValueError: no bank",
        "picky": "query feature toy.budget failed: wallet: ValueError: no bank",
    }
    assert BUDGET in outcome.query.failed


def test_failed_feature_with_a_default_lets_its_readers_run(run: Any, make: Any) -> None:
    """A declared default stands in for a failed feature."""
    seen = []

    def fetch(query: Any, ctx: Any) -> Candidates:
        seen.append(query[HINT])
        return Candidates.of(ITEM_ID([1]))

    hinter = make("query_hydrator", raising(ValueError("x")), "hinter", writes=[HINT])
    run(query_hydrators=[hinter], sources=[make("source", fetch, "s", reads=[HINT])])
    assert seen == ["none"]


def test_feature_that_nobody_gave_is_absent_not_empty(run: Any, make: Any) -> None:
    """A hydrator that leaves out a feature it declares leaves it absent; reading it is an error of the reader."""
    silent = make("query_hydrator", lambda query, ctx: query_patch(), "silent", writes=[BUDGET])

    def fetch(query: Any, ctx: Any) -> Candidates:
        assert query[BUDGET]
        return Candidates.empty()

    outcome = run(query_hydrators=[silent], sources=[make("source", fetch, "s", reads=[BUDGET])])
    assert "query feature toy.budget is absent" in errors(outcome)["s"]


# Failure policies of each kind


@pytest.mark.parametrize("kind", ["query_hydrator", "source", "hydrator", "filter", "scorer"])
def test_skip_leaves_a_component_out(run: Any, make: Any, kind: str) -> None:
    """`on_error = "skip"` goes on without the component, whatever its kind, and the trace says so."""
    broken = make(kind, plain_failure, "broken")
    stages: dict[str, Any] = {f"{kind}s": [broken]}
    if kind == "source":
        stages["sources"] = [broken, make("source", later_rows(1, 2, 3), "good")]
    outcome = run(**stages, policies={"broken": RunPolicy(on_error="skip")})
    assert outcome.item_ids.tolist() == [1, 2, 3]
    assert status(outcome)["broken"] == "skipped"
    assert errors(outcome) == {"broken": "ZeroDivisionError: oops"}


@pytest.mark.parametrize("kind", ["query_hydrator", "source", "hydrator", "filter", "scorer", "selector"])
def test_fail_fails_the_request_with_the_cause(run: Any, make: Any, kind: str) -> None:
    """`on_error = "fail"` is a `RequestError` that names pipeline, kind, component and cause, and keeps the cause."""
    broken = make(kind, plain_failure, "broken")
    stages: dict[str, Any] = {"selector": broken} if kind == "selector" else {f"{kind}s": [broken]}
    with pytest.raises(RequestError) as caught:
        run(**stages, policies={"broken": RunPolicy(on_error="fail")})
    name = f"Toy{kind.title().replace('_', '')}"
    assert str(caught.value) == (
        f"pipeline 'toy': {kind.replace('_', ' ')} broken ({name}) failed: ZeroDivisionError: oops"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("kind", "fails"), [("scorer", True), ("selector", True), ("source", False), ("filter", False)]
)
def test_defaults_of_failure(run: Any, make: Any, kind: str, fails: bool) -> None:
    """Unless the spec says otherwise scorers and selectors fail the request, the others are skipped."""
    broken = make(kind, plain_failure, "broken")
    stages: dict[str, Any] = {"selector": broken} if kind == "selector" else {f"{kind}s": [broken]}
    if fails:
        with pytest.raises(RequestError):
            run(**stages)
    else:
        assert status(run(**stages))["broken"] == "skipped"


def test_fallback_takes_over(run: Any, make: Any) -> None:
    """A fallback answers in place of what failed; its cells, and the trace, name it."""
    main = make("scorer", raising(ValueError("no model"), after=1), "main", writes=[SCORE])
    spare = make("scorer", lambda q, c, ctx: patch(SCORE(np.ones(len(c)))), "spare", writes=[SCORE])
    outcome = run(scorers=[main], fallbacks=[spare], policies={"main": RunPolicy(on_error="fallback:spare")})
    assert outcome.selected[SCORE].tolist() == [1.0] * 3
    assert [(entry.component, entry.status, entry.by) for entry in outcome.trace if entry.stage == "scorers"] == [
        ("main", "fallback", "spare"),
        ("spare", "ok", ""),
    ]
    assert [step.scorer for step in outcome.score_steps] == ["spare"]
    assert next(cell.writer for cell in outcome.explain(1).cells if cell.column == "core.score") == "spare"


def test_failure_of_a_fallback_tells_the_whole_story(run: Any, make: Any) -> None:
    """When the fallback fails too, the error names both and both reasons."""
    with pytest.raises(RequestError) as caught:
        run(
            scorers=[make("scorer", raising(ValueError("no model")), "main", writes=[SCORE])],
            fallbacks=[make("scorer", plain_failure, "spare", writes=[SCORE])],
            policies={"main": RunPolicy(on_error="fallback:spare")},
        )
    assert str(caught.value) == (
        "pipeline 'toy': scorer spare (ToyScorer) failed: ZeroDivisionError: oops; "
        "it stood in for main, which failed: ValueError: no model"
    )


def test_fallback_that_may_be_skipped_is_skipped(run: Any, make: Any) -> None:
    """A fallback's own policy counts for its own failure."""
    outcome = run(
        scorers=[make("scorer", plain_failure, "main", writes=[SCORE])],
        fallbacks=[make("scorer", plain_failure, "spare", writes=[SCORE])],
        policies={"main": RunPolicy(on_error="fallback:spare"), "spare": RunPolicy(on_error="skip")},
    )
    assert status(outcome) == {"source": "ok", "main": "fallback", "spare": "skipped", "top": "ok"}
    assert outcome.selected.failed(SCORE).all()


def test_fallback_of_a_hydrator_that_writes_less_leaves_failures(run: Any, make: Any) -> None:
    """What the fallback does not write is failed, not null."""
    main = make("hydrator", plain_failure, "main", writes=[PRICE, LABEL])
    spare = make("hydrator", lambda q, c, ctx: patch(PRICE(np.ones(len(c)))), "spare", writes=[PRICE])
    outcome = run(hydrators=[main], fallbacks=[spare], policies={"main": RunPolicy(on_error="fallback:spare")})
    assert outcome.selected.valid(PRICE).all()
    assert outcome.selected.failed(LABEL).all()


def test_fallback_of_a_query_hydrator(run: Any, make: Any) -> None:
    """A fallback's features count; those it does not give are failed with the reason."""
    main = make("query_hydrator", plain_failure, "main", writes=[BUDGET, HINT])
    spare = make("query_hydrator", lambda q, ctx: query_patch(BUDGET(5.0)), "spare", writes=[BUDGET])
    outcome = run(query_hydrators=[main], fallbacks=[spare], policies={"main": RunPolicy(on_error="fallback:spare")})
    assert outcome.query[BUDGET] == 5.0
    assert outcome.query.failed == {HINT: "spare, which stood in for main, gave none"}


def test_fallback_of_a_source_and_of_a_selector(run: Any, make: Any) -> None:
    """Sources and selectors have fallbacks too; what the source's fallback lacks is failed."""
    outcome = run(
        sources=[make("source", raising(OSError("down")), "main", writes=[PRICE, LABEL])],
        selector=make("selector", plain_failure, "choose"),
        fallbacks=[
            make("source", later_rows(5, 6, updates=[PRICE([1.0, 2.0])]), "spare", writes=[PRICE]),
            make("selector", lambda q, c, ctx: np.array([1]), "last"),
        ],
        policies={"main": RunPolicy(on_error="fallback:spare"), "choose": RunPolicy(on_error="fallback:last")},
    )
    assert outcome.item_ids.tolist() == [6]
    assert outcome.selected[PRICE].tolist() == [2.0]
    assert outcome.selected.failed(LABEL).all()


def test_fallback_prepares_itself(run: Any, make: Any) -> None:
    """A fallback with a `prepare` gets its result as if it had been first choice."""

    async def ready(query: Any, ctx: Any) -> str:
        return "ready"

    def score(query: Any, candidates: Candidates, ctx: Any) -> Any:
        assert ctx.prepared == "ready"
        return patch(SCORE(np.ones(len(candidates))))

    outcome = run(
        scorers=[make("scorer", plain_failure, "main", writes=[SCORE])],
        fallbacks=[make("scorer", score, "spare", writes=[SCORE], prepare=ready)],
        policies={"main": RunPolicy(on_error="fallback:spare")},
    )
    assert outcome.selected.valid(SCORE).all()


def test_skipped_hydrator_marks_its_cells_failed(run: Any, make: Any) -> None:
    """Cells whose hydrator was skipped are failed, not null; those a source gave stay."""
    source = make(
        "source", later_rows(1, 2, updates=[PRICE([5.0, 0.0], valid=[True, False])]), "source", writes=[PRICE]
    )
    outcome = run(sources=[source], hydrators=[make("hydrator", plain_failure, "h", writes=[PRICE, LABEL])])
    assert outcome.selected[PRICE].tolist() == [5.0, 0.0]
    assert outcome.selected.failed(PRICE).tolist() == [False, True]
    assert outcome.selected.failed(LABEL).all()


def test_columns_of_failed_sources_are_failed_where_nobody_else_gives_them(run: Any, make: Any) -> None:
    """A column that only a failed source declares is failed; one that another declares but leaves out is null."""
    outcome = run(
        sources=[
            make("source", plain_failure, "down", writes=[PRICE, LABEL]),
            make("source", later_rows(1), "up", writes=[LABEL]),
        ]
    )
    assert outcome.selected.failed(PRICE).all()
    assert not outcome.selected.failed(LABEL).any()
    assert not outcome.selected.valid(LABEL).any()


@pytest.mark.parametrize("policy", ["skip", "fail", "fallback:spare"])
@pytest.mark.parametrize("error", [RequestError("unknown viewer"), MisconfigurationError("no such table")])
def test_wrong_requests_and_misconfiguration_are_never_degraded(run: Any, make: Any, policy: str, error: Any) -> None:
    """Such errors end the request as they are under every policy, with a note of who raised them."""
    spare = make("source", later_rows(1), "spare")
    with pytest.raises(type(error), match=str(error)) as caught:
        run(
            sources=[make("source", raising(error), "strict"), make("source", hanging, "other")],
            fallbacks=[spare],
            policies={"strict": RunPolicy(on_error=policy)},
        )
    assert caught.value is error
    assert "raised by strict (ToySource) in sources of pipeline 'toy'" in caught.value.__notes__


def test_sources_that_do_not_merge_fail_the_request(run: Any, make: Any) -> None:
    """Two sources whose labelled columns differ are a `RequestError` that says so."""
    odds = Column("toy.odds", np.float32, labels=("a", "b"))
    with pytest.raises(RequestError, match=r"pipeline 'toy': the sources' rows do not merge: toy\.odds"):
        run(
            sources=[
                make("source", later_rows(at, updates=[odds([[0.5]], labels=[label])]), label, writes=[odds])
                for at, label in enumerate("ab")
            ]
        )


def test_a_component_that_cancels_itself_has_failed(run: Any, make: Any) -> None:
    """A `CancelledError` from inside a component is its failure, alone in its phase or not, not the request's."""
    broken = make("source", raising(asyncio.CancelledError()), "broken")
    outcome = run(sources=[broken, make("source", later_rows(1), "good")])
    assert errors(outcome) == {"broken": "CancelledError"}
    assert outcome.item_ids.tolist() == [1]
    assert errors(run(sources=[broken])) == {"broken": "CancelledError"}
