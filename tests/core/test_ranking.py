"""Rankings: what they say of an outcome, and that they come back from arrays as they were."""

from __future__ import annotations

import json
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ranked import BOOST, PARTS, Boost, Drop, Top, Weighted, answer, heads, ranked_app

from candidate_pipeline import (
    ITEM_ID,
    ITEM_TEXT_ID,
    SCORE,
    Candidates,
    Column,
    DataError,
    NestedPipeline,
    compose,
    patch,
    text_ids,
)
from candidate_pipeline.testing import StaticSource, run_in_virtual_time
from candidate_pipeline.what_if.ranking import DROPPED, SELECTED, UNSELECTED, Ranking, StepScores, TermScores

ROWS = {1: (1.0, 0.0), 2: (0.2, 0.3), 3: (0.9, 0.9), 4: (0.0, 0.1), 5: (0.5, 0.5), 6: (0.1, 0.1), 7: (0.0, 0.0)}


def again(ranking: Ranking) -> Ranking:
    """What comes back from arrays, by way of JSON and of bytes."""
    header, arrays = ranking.to_arrays()
    assert all(array.dtype != np.object_ for array in arrays.values())
    stored = {name: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape) for name, array in arrays.items()}
    return Ranking.from_arrays(json.loads(json.dumps(header)), stored)


@pytest.fixture(scope="module")
def outcome() -> Any:
    """An outcome with selected rows, rows beyond the response and the selection, and rows dropped by two filters."""
    app = ranked_app(
        heads(ROWS),
        ("weighted", Weighted()),
        ("boost", Boost(2.0)),
        drop=4,
        selector=("top", Top(4)),
        post_selection_filters=[("late", Drop(3))],
        result_size=2,
    )
    return answer(app)


def test_rows_stand_in_the_order_of_their_fates(outcome: Any) -> None:
    """Expects selected rows best first, then what was cut off, then the rest by score, then dropped rows."""
    ranking = Ranking.of(outcome)
    assert ranking.item_ids[: ranking.selected].tolist() == outcome.item_ids.tolist()
    assert ranking.fates.tolist() == sorted(ranking.fates.tolist())
    behind = ranking.scores[ranking.selected : ranking.ranked]
    assert behind.tolist() == sorted(behind.tolist(), reverse=True)
    assert sorted(ranking.item_ids.tolist()) == sorted(ROWS)
    dropped = {
        int(item): ranking.filters[by] for item, by in zip(ranking.item_ids, ranking.dropped_by, strict=True) if by >= 0
    }
    assert dropped == {3: "late", 4: "drop"}
    assert (ranking.dropped_by >= 0).tolist() == (ranking.fates == DROPPED).tolist()


def test_scores_steps_and_terms_are_those_of_the_explanation(outcome: Any) -> None:
    """Expects what `explain` says of an item, for every item and every scorer."""
    ranking = Ranking.of(outcome)
    for row, item in enumerate(ranking.item_ids.tolist()):
        explanation = outcome.explain(item)
        assert explanation.fate == ("selected", "unselected", "dropped")[ranking.fates[row]]
        changes = {change.scorer: change for change in explanation.scores}
        for step in ranking.steps:
            change = changes.get(step.scorer)
            wanted = (None, None) if change is None else (change.before, change.after)
            found = [None if np.isnan(each[row]) else float(each[row]) for each in (step.before, step.after)]
            assert tuple(found) == wanted
        told = {(terms.column, terms.scorer): terms.values for terms in explanation.terms}
        for part in ranking.terms:
            values = {
                label: float(x) for label, x in zip(part.labels, part.values[row], strict=True) if not np.isnan(x)
            }
            assert values == told.get((part.column, part.scorer), {})
    assert [(part.column, part.scorer, part.factor) for part in ranking.terms] == [
        (PARTS.name, "weighted", False),
        (BOOST.name, "boost", True),
    ]


def test_a_ranking_of_an_outcome_comes_back_from_arrays(outcome: Any) -> None:
    """Expects the same to the last bit."""
    ranking = Ranking.of(outcome)
    assert again(ranking).identical(ranking)
    assert again(ranking).config_hash == ranking.config_hash


def test_text_ids_are_kept() -> None:
    """Expects the texts of hashed ids, empty for rows that have none, whatever characters they hold."""
    texts = ["a", "é漢", "\ud800 alone", ""]
    ids = text_ids(["a", "é漢", "c", "d"])
    table = Candidates.of(ITEM_ID(ids), ITEM_TEXT_ID([*texts[:3], None]), SCORE([4.0, 3.0, 2.0, 1.0]))
    app = compose("ranked", sources=[("s", StaticSource(table))], selector=("top", Top(4)))
    ranking = Ranking.of(answer(app))
    assert ranking.texts == tuple(texts)
    assert again(ranking).texts == tuple(texts)
    assert [ranking.name(0), ranking.name(3)] == ["a", str(int(ids[3]))]


def test_rankings_without_texts_or_rows() -> None:
    """Expects no texts where nobody has one, and that a request without candidates has an empty ranking."""
    app = compose("ranked", sources=[("s", StaticSource(Candidates.of(ITEM_ID([]), SCORE([]))))], selector=("t", Top()))
    ranking = Ranking.of(answer(app))
    assert len(ranking) == ranking.selected == 0
    assert ranking.texts is None
    assert ranking.row(1) is None
    assert again(ranking).identical(ranking)


def test_an_item_may_have_several_rows_under_the_published_semantics() -> None:
    """Expects each row with the scores it had itself, best first."""
    one, other = heads({1: (0.2, 0.0), 2: (0.5, 0.0)}), heads({1: (0.9, 0.0), 3: (0.1, 0.0), 2: (0.5, 0.0)})
    app = ranked_app(
        one,
        ("weighted", Weighted()),
        sources=[("one", StaticSource(one)), ("other", StaticSource(other))],
        selector=("top", Top(4)),
        result_size=3,
        semantics="upstream",
    )
    ranking = Ranking.of(answer(app))
    assert ranking.item_ids.tolist() == [1, 2, 2, 1, 3]
    assert ranking.occurrences.tolist() == [0, 0, 1, 1, 0]
    assert ranking.fates.tolist() == [SELECTED] * 3 + [UNSELECTED] * 2
    assert ranking.steps[0].after.tolist() == ranking.scores.tolist()
    assert ranking.terms[0].values[:, 0].tolist() == ranking.scores.tolist()
    assert (ranking.row(1), ranking.row(3)) == (0, 4)


def test_rows_of_another_pipeline_have_no_steps_of_this_one() -> None:
    """Expects scores and terms, but no steps, of rows that topped the response up, and steps for refilled rows."""
    table, spare_table = heads(ROWS), heads({8: (0.1, 0.1), 9: (0.3, 0.1), 7: (0.9, 0.9)})
    top = ("top", Top(3))
    spare = compose(
        "spare", sources=[("s", StaticSource(spare_table))], scorers=[("popular", Weighted())], selector=top
    )
    app = ranked_app(
        table,
        ("weighted", Weighted()),
        selector=top,
        post_selection_filters=[("late", Drop(3)), ("later", Drop(5))],
        max_refills=1,
        min_results=5,
        top_up=spare["spare"],
    )

    async def serve() -> Any:
        async with spare, app:
            return await app["ranked"].run()

    outcome = run_in_virtual_time(serve())
    ranking = Ranking.of(outcome)
    assert ranking.item_ids[: ranking.selected].tolist() == outcome.item_ids.tolist()
    topped = {int(item): row for row, item in enumerate(ranking.item_ids) if item in {7, 8, 9}}
    others = [row for row in range(len(ranking)) if row not in topped.values()]
    assert np.isnan(ranking.steps[0].after[list(topped.values())]).all()
    assert not np.isnan(ranking.steps[0].after[others]).any()
    assert not np.isnan(ranking.scores).any()
    assert {part.scorer for part in ranking.terms} == {"weighted", "spare"}
    assert sorted(ranking.item_ids.tolist()) == sorted({*ROWS, *topped})
    assert again(ranking).identical(ranking)


def test_terms_of_a_nested_pipeline_are_its_components() -> None:
    """Expects terms that a nested pipeline's rows bring along under the name of its component."""
    inner = compose(
        "inner", sources=[("s", StaticSource(heads(ROWS)))], scorers=[("sum", Weighted())], selector=("t", Top(5))
    )
    app = compose(
        "ranked",
        sources=[("nested", NestedPipeline(inner["inner"].plan))],
        scorers=[("boost", Boost(3.0))],
        selector=("top", Top(2)),
    )
    ranking = Ranking.of(answer(app))
    assert {part.scorer: part.column for part in ranking.terms} == {"nested": PARTS.name, "boost": BOOST.name}
    sums = np.nansum(ranking.terms[0].values, axis=1)
    np.testing.assert_allclose(ranking.steps[0].before, sums, rtol=1e-6)


def test_sources_with_different_heads() -> None:
    """Expects NaN for labels that a row has no term for, and the column's own name for a term without labels."""
    plain = Column("ranked.plain", np.int64, terms_of=SCORE)
    wide = Column("ranked.wide", np.float64, width=2, terms_of=SCORE)
    table = Candidates.of(
        ITEM_ID([1, 2]),
        SCORE([2.0, 1.0]),
        plain([2, 1], valid=[True, False]),
        wide(np.array([[1.0, 1e-9], [0.5, 0.5]])),
    )
    app = compose("ranked", sources=[("s", StaticSource(table))], selector=("top", Top()))
    by_column = {part.column: part for part in Ranking.of(answer(app)).terms}
    assert by_column["ranked.plain"].labels == ("plain",)
    np.testing.assert_array_equal(by_column["ranked.plain"].values, [[2.0], [np.nan]])
    assert by_column["ranked.wide"].labels == ("wide[0]", "wide[1]")
    assert by_column["ranked.wide"].values[0, 1] == 1e-9


def test_scores_rewritten_after_scoring() -> None:
    """Expects final scores as they are in the response, and steps as the scorers left them."""

    class Late:
        reads = ()
        writes = (SCORE,)

        def hydrate(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
            return patch(SCORE(np.full(len(candidates), 9.0)))

    app = ranked_app(heads(ROWS), ("weighted", Weighted()), post_selection_hydrators=[("late", Late())])
    ranking = Ranking.of(answer(app))
    assert ranking.scores[: ranking.selected].tolist() == [9.0] * 3
    assert ranking.steps[0].after[ranking.selected :].tolist() == ranking.scores[ranking.selected :].tolist()
    assert ranking.steps[0].after[0] == pytest.approx(5.4)


floats = st.floats(width=32) | st.sampled_from([float("nan"), -0.0, float("-inf")])


@st.composite
def rankings(draw: Any) -> Ranking:
    """Any rankings, sensible or not."""
    n = draw(st.integers(0, 5))

    def column() -> NDArray[np.float32]:
        return np.array(draw(st.lists(floats, min_size=n, max_size=n)), np.float32)

    labels = draw(st.lists(st.text(max_size=3), max_size=3, unique=True))
    text = st.text(st.characters(codec=None), max_size=5)
    filters = draw(st.lists(st.text(max_size=3), max_size=2))
    fates = np.array(sorted(draw(st.lists(st.integers(0, 2 if filters else 1), min_size=n, max_size=n))), np.uint8)
    return Ranking(
        pipeline=draw(st.text(max_size=3)),
        request_id=draw(st.text(max_size=3)),
        config_hash="f",
        item_ids=np.array(draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=n, max_size=n)), np.int64),
        texts=draw(st.none() | st.lists(text, min_size=n, max_size=n).map(tuple)),
        fates=fates,
        filters=tuple(filters),
        dropped_by=np.where(fates == 2, 0, -1).astype(np.int16),
        scores=column(),
        steps=tuple(StepScores(draw(st.text(max_size=3)), column(), column()) for _ in range(draw(st.integers(0, 2)))),
        terms=tuple(
            TermScores("c", "s", draw(st.booleans()), tuple(labels), np.stack([column() for _ in labels], axis=1))
            for _ in range(draw(st.integers(0, 2)))
            if labels
        ),
    )


@settings(deadline=None)
@given(ranking=rankings())
def test_any_ranking_comes_back_from_arrays(ranking: Ranking) -> None:
    """Expects the same to the last bit, NaNs, negative zeros, surrogates and all."""
    assert again(ranking).identical(ranking)
    assert again(ranking).texts == ranking.texts


def test_arrays_of_something_else_are_refused(outcome: Any) -> None:
    """Expects an error that says what is missing, or which version was found."""
    header, arrays = Ranking.of(outcome).to_arrays()
    with pytest.raises(DataError, match="version 1 was wanted, found 2"):
        Ranking.from_arrays({**header, "version": 2}, arrays)
    del arrays["step1.after"]
    with pytest.raises(DataError, match=r"lacks 'step1\.after'"):
        Ranking.from_arrays(header, arrays)


@pytest.mark.parametrize(
    ("name", "forge"),
    [
        ("item_ids", lambda array: array.reshape(-1, 1)),
        ("item_ids", lambda array: np.array(3)),
        ("fates", lambda array: array[:0]),
        ("fates", lambda array: array[::-1]),
        ("fates", lambda array: array + 1),
        ("dropped_by", lambda array: array + 50),
        ("dropped_by", lambda array: array * 0 - 1),
        ("scores", lambda array: array[:-1]),
        ("scores", lambda array: array.astype(np.float64)),
        ("step0.before", lambda array: array[1:]),
        ("terms0", lambda array: array[:, :0]),
    ],
)
def test_arrays_of_no_ranking_are_refused(outcome: Any, name: str, forge: Any) -> None:
    """Expects an error that names the array, before a comparison trips over it."""
    header, arrays = Ranking.of(outcome).to_arrays()
    with pytest.raises(DataError, match=f"ranking.*{name}"):
        Ranking.from_arrays(header, {**arrays, name: forge(arrays[name])})


@pytest.mark.parametrize("name", ["pipeline", "request_id", "config_hash", "filters", "steps", "terms"])
@pytest.mark.parametrize("junk", [None, 0, [1], {}, [{}]])
def test_headers_of_no_ranking_are_refused(outcome: Any, name: str, junk: Any) -> None:
    """Expects an error that names the entry."""
    header, arrays = Ranking.of(outcome).to_arrays()
    with pytest.raises(DataError, match=name):
        Ranking.from_arrays({**header, name: junk}, arrays)


def test_identical_sees_every_difference(outcome: Any) -> None:
    """Expects a difference for a changed bit, and none for another config that ranked the same."""
    ranking = Ranking.of(outcome)
    assert ranking.identical(attrs.evolve(ranking, config_hash="other"))
    assert not ranking.identical(attrs.evolve(ranking, scores=np.nextafter(ranking.scores, np.float32(99))))
    assert not ranking.identical(attrs.evolve(ranking, filters=("x", *ranking.filters[1:])))
    assert not ranking.identical(attrs.evolve(ranking, scores=ranking.scores.astype(np.float64)))
