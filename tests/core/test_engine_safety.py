"""Safety filters fail closed, other filters open; and what a component returns is checked before it is used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from toys import AUTHOR, errors

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    Column,
    QueryFeature,
    RequestError,
    RunPolicy,
    SafetyError,
    patch,
    query_patch,
    rank_order,
)

PRICE = Column("toy.price", np.float32)
ODDS = Column("toy.odds", np.float32, labels=("buy", "look"))
VECTOR = Column("toy.vector", np.float32, width=2)
BLOCKED = QueryFeature("toy.blocked", tuple)
MUTED = QueryFeature("toy.muted", tuple, default=())


def broken(*_: Any) -> Any:
    """A component that raises."""
    raise OSError("table is gone")


def authors(query: Any, candidates: Candidates, ctx: Any) -> Any:
    """Item n is by author n; nobody knows who wrote item 3."""
    ids = candidates[ITEM_ID]
    return patch(AUTHOR(ids, valid=ids != 3))


def not_blocked(query: Any, candidates: Candidates, ctx: Any) -> Any:
    """Keep rows whose author is not blocked."""
    return ~np.isin(candidates[AUTHOR], query[BLOCKED])


def not_muted(query: Any, candidates: Candidates, ctx: Any) -> Any:
    """Keep rows whose author is not muted."""
    return ~np.isin(candidates[AUTHOR], query[MUTED])


def blocks(*ids: int) -> Any:
    """A query hydrator function that gives blocked authors."""
    return lambda query, ctx: query_patch(BLOCKED(ids))


def stages(make: Any, **changed: Any) -> dict[str, Any]:
    """A pipeline with a safety filter over a block list and authors."""
    given = {
        "query_hydrators": [make("query_hydrator", blocks(2), "blocks", writes=[BLOCKED])],
        "hydrators": [make("hydrator", authors, "authors", writes=[AUTHOR])],
        "filters": [make("filter", not_blocked, "blocked", reads=[BLOCKED, AUTHOR], safety=True)],
    }
    return given | changed


def test_safety_filter_at_work(run: Any, make: Any) -> None:
    """With everything in order a safety filter drops what it should."""
    assert run(**stages(make)).item_ids.tolist() == [1, 3]


def test_block_list_that_fails_to_load_fails_the_request(run: Any, make: Any) -> None:
    """A safety filter whose feature failed fails the request closed; the message tells the whole chain."""
    query_hydrators = [make("query_hydrator", broken, "blocks", writes=[BLOCKED])]
    with pytest.raises(SafetyError) as caught:
        run(**stages(make, query_hydrators=query_hydrators))
    assert str(caught.value) == (
        "pipeline 'toy': filter blocked (ToyFilter) failed: query feature toy.blocked failed: blocks: OSError: "
        "table is gone. It is a safety filter, so the request fails rather than skip it"
    )
    assert isinstance(caught.value, RequestError)


@pytest.mark.parametrize("safety", [True, False])
def test_a_default_does_not_open_a_safety_filter(run: Any, make: Any, safety: bool) -> None:
    """An empty default of a list that failed to load must not let everything pass; other filters may use it."""
    given = stages(
        make,
        query_hydrators=[make("query_hydrator", broken, "mutes", writes=[MUTED])],
        filters=[make("filter", not_muted, "muted", reads=[MUTED, AUTHOR], safety=safety)],
    )
    if safety:
        with pytest.raises(SafetyError, match=r"query feature toy\.muted failed: mutes: OSError: table is gone"):
            run(**given)
    else:
        assert run(**given).item_ids.tolist() == [1, 2, 3]


def test_absent_feature_with_a_default_is_fine_for_a_safety_filter(run: Any, make: Any) -> None:
    """A hydrator that ran and gave nothing is no failure: the default counts."""
    given = stages(
        make,
        query_hydrators=[make("query_hydrator", lambda q, ctx: query_patch(), "mutes", writes=[MUTED])],
        filters=[make("filter", not_muted, "muted", reads=[MUTED, AUTHOR], safety=True)],
    )
    assert run(**given).item_ids.tolist() == [1, 2, 3]


@pytest.mark.parametrize("safety", [True, False])
def test_exception_in_a_filter(run: Any, make: Any, safety: bool) -> None:
    """A safety filter that raises fails the request; another one keeps every row."""
    given = stages(make, filters=[make("filter", broken, "f", reads=[AUTHOR], safety=safety)])
    if safety:
        with pytest.raises(SafetyError, match=r"filter f .* failed: OSError: table is gone"):
            run(**given)
    else:
        outcome = run(**given)
        assert outcome.item_ids.tolist() == [1, 2, 3]
        trace = next(entry for entry in outcome.trace if entry.component == "f")
        assert (trace.status, trace.rows_in, trace.rows_out) == ("skipped", 3, 3)


@pytest.mark.parametrize("safety", [True, False])
@pytest.mark.parametrize("listwise", [True, False])
def test_failed_cells(run: Any, make: Any, safety: bool, listwise: bool) -> None:
    """A row whose cell failed is dropped by a safety filter and kept by another; the trace counts them."""

    def late(query: Any, candidates: Candidates, ctx: Any) -> Any:
        return patch(PRICE(candidates[ITEM_ID].astype(np.float32)))

    source = make(
        "source",
        lambda q, ctx: Candidates.of(ITEM_ID([1, 2, 3]), PRICE([1.0, 2.0, 0.0], valid=[True, True, False])),
        "source",
        writes=[PRICE],
    )
    outcome = run(
        sources=[source],
        hydrators=[make("hydrator", broken, "late", writes=[PRICE])],
        filters=[
            make("filter", lambda q, c, ctx: c[ITEM_ID] != 1, "other"),
            make("filter", lambda q, c, ctx: c[PRICE] > 1, "cheap", reads=[PRICE], safety=safety, listwise=listwise),
        ],
    )
    assert outcome.item_ids.tolist() == ([2] if safety else [2, 3])
    trace = next(entry for entry in outcome.trace if entry.component == "cheap")
    assert (trace.rows_in, trace.rows_out) == (2, 1 if safety else 2)
    assert trace.note == f"1 row {'dropped' if safety else 'kept'}: a column it reads failed there"
    explanation = outcome.explain(3)
    assert explanation.fate == ("dropped" if safety else "selected")


def test_failed_column_closes_a_safety_filter(run: Any, make: Any) -> None:
    """A safety filter whose column's hydrator was skipped drops every row, and the outcome says why it is empty."""
    outcome = run(**stages(make, hydrators=[make("hydrator", broken, "authors", writes=[AUTHOR])]))
    assert len(outcome.selected) == 0
    assert outcome.why_short() == (
        "0 rows out of 3 fetched: authors failed (OSError: table is gone); blocked dropped 3"
    )


def test_null_cells_are_the_filters_business(run: Any, make: Any) -> None:
    """A null is no failure: the filter sees the row and decides."""
    assert 3 in run(**stages(make)).item_ids


def test_spec_may_raise_safety(run: Any, make: Any) -> None:
    """`safety = true` in a spec makes a filter fail closed."""
    given = stages(make, filters=[make("filter", broken, "f")])
    with pytest.raises(SafetyError):
        run(**given, policies={"f": RunPolicy(safety=True)})


def test_fallback_of_a_safety_filter_fails_closed_too(run: Any, make: Any) -> None:
    """The fallback decides; its own failed cells close it, and its failure fails the request."""
    spare = make("filter", not_blocked, "spare", reads=[BLOCKED, AUTHOR], safety=True)
    policies = {"f": RunPolicy(on_error="fallback:spare")}
    main = make("filter", broken, "f", safety=True)
    outcome = run(**stages(make, filters=[main]), fallbacks=[spare], policies=policies)
    assert outcome.item_ids.tolist() == [1, 3]
    assert outcome.explain(2).dropped_by == "spare"
    closed = stages(make, filters=[main], hydrators=[make("hydrator", broken, "authors", writes=[AUTHOR])])
    assert len(run(**closed, fallbacks=[spare], policies=policies).selected) == 0
    with pytest.raises(SafetyError, match=r"filter spare .* it stood in for f, which failed: OSError"):
        run(
            **stages(make, filters=[main]),
            fallbacks=[make("filter", broken, "spare", safety=True)],
            policies=policies,
        )


def test_safety_filters_after_selection_close_too(run: Any, make: Any) -> None:
    """The same holds for filters after selection."""
    given = stages(make, filters=[], post_selection_filters=[make("filter", broken, "f", safety=True)])
    with pytest.raises(SafetyError):
        run(**given)


def test_dropped_rows_stay_dropped(run: Any, make: Any) -> None:
    """A later filter cannot bring a row back, and the first to drop it is remembered."""
    filters = [
        make("filter", lambda q, c, ctx: c[ITEM_ID] != 1, "first"),
        make("filter", lambda q, c, ctx: np.ones(len(c), np.bool_), "lenient"),
        make("filter", lambda q, c, ctx: c[ITEM_ID] > 2, "second"),
    ]
    outcome = run(filters=filters)
    assert outcome.item_ids.tolist() == [3]
    assert (outcome.explain(1).dropped_by, outcome.explain(2).dropped_by) == ("first", "second")
    assert [(entry.rows_in, entry.rows_out) for entry in outcome.trace if entry.stage == "filters"] == [
        (3, 2),
        (2, 2),
        (2, 1),
    ]


def test_listwise_filters_see_live_rows_only(run: Any, make: Any) -> None:
    """A listwise filter is given what earlier filters left; another one sees all rows of the stage."""
    seen: dict[str, list[int]] = {}

    def keeper(name: str) -> Any:
        def keep(query: Any, candidates: Candidates, ctx: Any) -> Any:
            seen[name] = candidates[ITEM_ID].tolist()
            return np.arange(len(candidates)) > 0

        return keep

    outcome = run(
        filters=[
            make("filter", lambda q, c, ctx: c[ITEM_ID] != 1, "first"),
            make("filter", keeper("listwise"), "listwise", listwise=True),
            make("filter", keeper("plain"), "plain"),
        ]
    )
    assert seen == {"listwise": [2, 3], "plain": [1, 2, 3]}
    assert outcome.item_ids.tolist() == [3]


# Contract violations


@pytest.mark.parametrize(
    ("kind", "answer", "message"),
    [
        ("query_hydrator", {"toy.blocked": ()}, "x.hydrate: wanted query_patch(...), found dict"),
        ("query_hydrator", query_patch(MUTED(())), "x wrote toy.muted, which its writes do not declare"),
        ("source", [1, 2], "x.fetch: wanted Candidates, found list"),
        ("source", None, "x.fetch: wanted Candidates, found NoneType"),
        (
            "source",
            Candidates.of(ITEM_ID([1]), AUTHOR([1])),
            "x wrote toy.author, which its writes do not declare",
        ),
        ("hydrator", np.ones(3), "x: wanted patch(...), found ndarray"),
        ("hydrator", patch(AUTHOR([1, 2, 3])), "x wrote toy.author, which its writes do not declare"),
        ("hydrator", patch(PRICE([1.0])), "toy.price: wanted an array of shape (3,), found (1,)"),
        ("hydrator", patch(PRICE(["a", "b", "c"])), "toy.price: wanted dtype float32, found <U1"),
        ("hydrator", patch(PRICE([1.0] * 3, valid=[1, 0, 1])), "toy.price: wanted valid as bool[3], found int64[3]"),
        ("hydrator", patch(VECTOR([[1.0, 2.0, 3.0]] * 3)), "toy.vector: wanted an array of shape (3, 2), found (3, 3)"),
        (
            "scorer",
            patch(ODDS([[0.5, np.nan]] * 3)),
            "toy.odds: NaN in 3 of 3 rows, first in row 0 (look); mark rows without a value with valid=...",
        ),
        ("scorer", patch(ODDS([[0.5]] * 3, labels=["sell"])), "toy.odds has no label 'sell'; it has: buy, look"),
        ("filter", [1, 0, 1], "x.keep: wanted bool[3], found int64[3]"),
        ("filter", [True], "x.keep: wanted bool[3], found bool[1]"),
        ("filter", None, "x.keep: wanted bool[3], found object[]"),
        ("selector", [0.0], "x.select: wanted int[k], found float64[1]"),
        ("selector", [True, False, True], "x.select: wanted int[k], found bool[3]"),
        ("selector", [3], "x.select: wanted indices in 0..2, found 3..3"),
        ("selector", [-1], "x.select: wanted indices in 0..2, found -1..-1"),
        ("selector", [1, 1], "x.select: a row was selected twice"),
        ("selector", [[0]], "x.select: wanted int[k], found int64[1, 1]"),
        ("selector", None, "x.select: wanted int[k], found object[]"),
    ],
)
def test_answers_that_break_the_contract(run: Any, make: Any, kind: str, answer: Any, message: str) -> None:
    """A wrong answer is a failure of the component that gave it; the message says what was wanted and found."""
    writes = [BLOCKED] if kind == "query_hydrator" else [PRICE, ODDS, VECTOR]
    declared = writes if kind in {"query_hydrator", "hydrator", "scorer"} else []
    component = make(kind, lambda *_: answer, "x", writes=declared)
    given: dict[str, Any] = {"selector": component} if kind == "selector" else {f"{kind}s": [component]}
    with pytest.raises(RequestError) as caught:
        run(**given, policies={"x": RunPolicy(on_error="fail")})
    assert str(caught.value).endswith(f" failed: {message}")


def test_a_broken_contract_may_be_skipped(run: Any, make: Any) -> None:
    """A wrong answer falls under the component's policy: the request goes on without it."""
    outcome = run(hydrators=[make("hydrator", lambda *_: patch(PRICE([1.0])), "h", writes=[PRICE])])
    assert outcome.item_ids.tolist() == [1, 2, 3]
    assert outcome.selected.failed(PRICE).all()
    assert errors(outcome)["h"] == "toy.price: wanted an array of shape (3,), found (1,)"


def test_labels_that_clash_with_earlier_ones_are_the_writers_failure(run: Any, make: Any) -> None:
    """A partial overwrite under other labels is a failure of the one who does it, under its policy."""
    first = make("scorer", lambda q, c, ctx: patch(ODDS([[0.5]] * len(c), labels=["buy"])), "first", writes=[ODDS])
    half = patch(ODDS([[0.1]] * 3, labels=["look"], valid=[True, False, False]))
    second = make("scorer", lambda *_: half, "second", writes=[ODDS])
    outcome = run(scorers=[first, second], policies={"second": RunPolicy(on_error="skip")})
    assert "some rows have the labels" in errors(outcome)["second"]
    assert outcome.selected.labels(ODDS) == ("buy",)


def test_a_column_that_is_declared_but_not_given_is_null(run: Any, make: Any) -> None:
    """A hydrator that leaves out a column leaves nulls, and what was there stays."""
    outcome = run(hydrators=[make("hydrator", lambda *_: patch(), "h", writes=[PRICE])])
    assert not outcome.selected.valid(PRICE).any()
    assert not outcome.selected.failed(PRICE).any()


def test_nan_scores_rank_last_and_are_counted(run: Any, make: Any) -> None:
    """NaN scores do not fail the request; they rank last, after rows without a score, and the trace counts them."""

    def score(query: Any, candidates: Candidates, ctx: Any) -> Any:
        return patch(SCORE([np.nan, 0.0, -5.0], valid=[True, False, True]))

    outcome = run(scorers=[make("scorer", score, "s", writes=[SCORE])])
    assert outcome.item_ids.tolist() == [3, 2, 1]
    trace = next(entry for entry in outcome.trace if entry.component == "s")
    assert trace.note == "1 row with a NaN score, ranked last; 1 row without a score"


def test_null_scores_do_not_erase_earlier_ones(run: Any, make: Any) -> None:
    """A scorer that has no score for a row leaves the earlier score."""
    first = make("scorer", lambda *_: patch(SCORE([1.0, 2.0, 3.0])), "first", writes=[SCORE])
    second = make(
        "scorer", lambda *_: patch(SCORE([9.0, 0.0, 0.0], valid=[True, False, False])), "second", writes=[SCORE]
    )
    outcome = run(scorers=[first, second])
    assert outcome.item_ids.tolist() == [1, 3, 2]
    assert outcome.selected[SCORE].tolist() == [9.0, 3.0, 2.0]


def test_components_cannot_change_what_they_are_given(run: Any, make: Any) -> None:
    """Writing into a column or a feature fails the component, not its neighbours."""

    def score(query: Any, candidates: Candidates, ctx: Any) -> Any:
        candidates[ITEM_ID][:] = 0
        return patch()

    outcome = run(scorers=[make("scorer", score, "s")], policies={"s": RunPolicy(on_error="skip")})
    assert "read-only" in errors(outcome)["s"]
    assert outcome.item_ids.tolist() == [1, 2, 3]


def test_no_rows_at_all(run: Any, make: Any) -> None:
    """With no candidates every stage still runs, and the outcome says why it is empty."""
    outcome = run(
        sources=[make("source", lambda q, ctx: Candidates.empty(), "none", writes=[AUTHOR])],
        hydrators=[make("hydrator", lambda q, c, ctx: patch(PRICE([])), "h", writes=[PRICE])],
        filters=[make("filter", lambda q, c, ctx: c[AUTHOR] != 1, "f", reads=[AUTHOR], safety=True)],
        scorers=[make("scorer", lambda q, c, ctx: patch(SCORE(-c[PRICE])), "s", reads=[PRICE], writes=[SCORE])],
        selector=make("selector", lambda q, c, ctx: rank_order(c), "top"),
    )
    assert len(outcome.selected) == 0
    assert all(entry.status == "ok" for entry in outcome.trace)
    assert outcome.why_short() == "0 rows out of 0 fetched: the sources returned nothing (none)"
