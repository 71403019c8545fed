"""Differences of rankings: what moved, which terms moved it, and how alike two lists are."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ranked import Boost, Diversity, Drop, Secret, Top, Weighted, answer, heads, ranked_app
from structlog.testing import capture_logs

from candidate_pipeline import ITEM_ID, SCORE, Candidates, RunPolicy, compose
from candidate_pipeline.testing import StaticSource
from candidate_pipeline.what_if.diff import Diff, ItemChange, Place, diff
from candidate_pipeline.what_if.measures import kendall_tau_b, overlap, rank_biased_overlap
from candidate_pipeline.what_if.ranking import Ranking

#: Typed as anything, so that it may stand where a number is expected.
approx: Any = pytest.approx

ROWS = {1: (0.9, 0.1), 2: (0.2, 0.3), 3: (0.5, 0.0), 4: (0.0, 0.08), 5: (0.3, 0.0)}


def ranking(table: Candidates, *scorers: Any, **stages: Any) -> Ranking:
    """The ranking of one request to a toy pipeline."""
    return Ranking.of(answer(ranked_app(table, *scorers, **stages)))


def plain(order: Sequence[int], selected: int | None = None) -> Ranking:
    """A ranking without scores: some items selected, the others not."""
    n = len(order)
    fates = np.array([0] * (n if selected is None else selected) + [1] * (0 if selected is None else n - selected))
    blank = np.full(n, np.nan, np.float32)
    return Ranking(
        "p", "r", "", np.array(order, np.int64), None, fates.astype(np.uint8), (), np.full(n, -1, np.int16), blank
    )


def by_item(found: Diff) -> dict[int, ItemChange]:
    """Everything that changed, by item."""
    return {change.item_id: change for change in found.changes}


@pytest.fixture(scope="module")
def found() -> Diff:
    """What a larger weight of replies changed."""
    table = heads(ROWS)
    before = ranking(table, ("weighted", Weighted({"reply": 0.5})), ("boost", Boost(2.0)), drop=5)
    after = ranking(table, ("weighted", Weighted({"reply": 5.0})), ("boost", Boost(1.5)), drop=3)
    return diff(before, after)


def test_what_moved_and_where_to(found: Diff) -> None:
    """Expects ranks before and after, and the filter that drops an item or did so before."""
    moved = {change.item_id: (change.before.rank, change.after.rank) for change in found.moved}
    assert moved == {1: (1, 2), 2: (2, 1)}
    assert [(str(change.before), str(change.after)) for change in found.added] == [("unselected at rank 4", "rank 3")]
    assert [(str(change.before), str(change.after)) for change in found.dropped] == [("rank 3", "dropped by drop")]
    assert [change.item_id for change in found.changes] == [2, 1, 4, 3]
    assert (found.unchanged, found.size_before, found.size_after, found.largest_move) == (0, 3, 3, 1)
    assert (found.overlap, found.tau) == (approx(2 / 3), -1.0)
    assert not found.is_empty


def test_which_terms_moved_it(found: Diff) -> None:
    """Expects the change of each term and factor in units of the score, largest first, in closed form."""
    change = by_item(found)[2]
    assert change.score.before == approx((0.2 + 0.5 * 0.3) * 2.0)
    assert change.score.after == approx((0.2 + 5.0 * 0.3) * 1.5)
    reply, factor = change.score.terms
    assert (reply.scorer, reply.label, reply.factor) == ("weighted", "reply", False)
    assert (reply.before, reply.after) == (approx(0.15), approx(1.5))
    assert reply.effect == approx((1.5 - 0.15) * (2.0 + 1.5) / 2)
    assert (factor.scorer, factor.factor, factor.before, factor.after) == ("boost", True, 2.0, 1.5)
    assert factor.effect == approx((0.35 + 1.7) / 2 * (1.5 - 2.0))
    assert change.score.remainder == approx(0.0, abs=1e-6)
    assert change.why() == "score +1.85 (reply +2.362, x boost -0.5125); 1 item fell behind it"


def test_items_that_others_passed() -> None:
    """Expects who passed an item whose own score is the same."""
    table = heads({1: (0.9, 0.0), 2: (0.8, 0.0), 3: (0.7, 0.2), 4: (0.6, 0.2)})
    before = ranking(table, ("weighted", Weighted({"reply": 0.0})), selector=("top", Top(4)))
    after = ranking(table, ("weighted", Weighted({"reply": 2.0})), selector=("top", Top(4)))
    change = by_item(diff(before, after))[1]
    assert (change.rise, change.passed, change.passed_by, change.overtaken) == (-2, 2, ("3", "4"), 0)
    assert change.why() == "its score is the same; 2 items passed it (3, 4)"


def test_a_gap_that_closed() -> None:
    """Expects that an item that rose because another one left the response says so."""
    table = heads(ROWS)
    before, after = (ranking(table, ("weighted", Weighted()), drop=item) for item in (-1, 2))
    change = by_item(diff(before, after))[3]
    assert (change.before, change.after) == (Place("selected", 3), Place("selected", 2))
    assert change.why() == "its score is the same; 1 item fell behind it"


def test_scorers_without_terms_and_scorers_that_only_one_pipeline_has() -> None:
    """Expects what a scorer added where it tells no terms, and factors against none."""
    table = heads(ROWS)
    before = ranking(table, ("weighted", Weighted({"reply": 1.0})), ("secret", Secret(0.1)))
    after = ranking(table, ("weighted", Weighted({"reply": 1.0})), ("boost", Boost(3.0)), ("secret", Secret(0.4)))
    change = by_item(diff(before, after))[2]
    factor, secret = change.score.terms
    assert (factor.scorer, factor.before, factor.after) == ("boost", None, 3.0)
    assert factor.effect == approx(0.5 * 2.0)
    assert (secret.scorer, secret.column, secret.label) == ("secret", "", "")
    assert secret.effect == approx(0.6)
    assert "secret +0.6" in change.why()


def test_another_scorer_that_starts_over() -> None:
    """Expects, where one scorer takes another's place, the terms of both."""
    table = heads(ROWS)
    before = ranking(table, ("old", Weighted()), selector=("top", Top(5)))
    after = ranking(table, ("new", Weighted({"reply": 1.0})), selector=("top", Top(5)))
    change = by_item(diff(before, after))[2]
    effects = {(term.scorer, term.label): term.effect for term in change.score.terms}
    assert effects == {
        ("old", "reply"): approx(-1.5),
        ("new", "reply"): approx(0.3),
        ("old", "like"): approx(-0.2),
        ("new", "like"): approx(0.2),
    }
    again = ranking(table, ("old", Weighted()), ("new", Weighted({"reply": 1.0})), selector=("top", Top(5)))
    effects = {(term.scorer, term.label): term.effect for term in by_item(diff(before, again))[2].score.terms}
    assert effects[("", "the score before")] == approx(-1.7)
    assert effects[("new", "reply")] == approx(0.3)


def test_scores_that_are_not_numbers() -> None:
    """Expects no terms where a score is missing or infinite, and a reason all the same."""

    def of(*scores: float, valid: Any = None) -> Ranking:
        table = Candidates.of(ITEM_ID([1, 2, 3]), SCORE(list(scores), valid=valid))
        return Ranking.of(answer(compose("ranked", sources=[("s", StaticSource(table))], selector=("top", Top()))))

    found = by_item(diff(of(3.0, 2.0, 1.0), of(1.0, math.inf, 2.0, valid=[False, True, True])))
    assert found[1].score == attrs.evolve(found[1].score, before=3.0, after=None, terms=(), remainder=0.0)
    assert found[1].why() == "it has no score any more; 2 items passed it (2, 3)"
    assert found[2].score.change is None
    assert found[2].why() == "its score is infinite; 1 item fell behind it"
    assert found[3].score.change == 1.0
    assert (
        by_item(diff(of(1.0, 2.0, 3.0, valid=[False, True, True]), of(3.0, 2.0, 1.0)))[1].why().startswith("it has a")
    )


def test_items_that_only_one_request_had() -> None:
    """Expects that what was no candidate is called so."""
    before, after = (ranking(heads({1: (0.9,), item: (0.5,)}), ("weighted", Weighted())) for item in (2, 3))
    found = diff(before, after)
    assert [str(change.before) for change in found.added] == ["not a candidate"]
    assert [change.why() for change in (*found.added, *found.dropped)] == ["it was not a candidate", "not a candidate"]
    assert found.added[0].score.before is None
    assert found.added[0].rise is None


def test_a_size_compares_the_first_rows() -> None:
    """Expects items beyond the size as unselected, with their ranks, and an error for a size that is none."""
    found = diff(plain([1, 2, 3, 4]), plain([1, 3, 2, 4]), size=2)
    assert [(str(change.before), str(change.after)) for change in (*found.added, *found.dropped)] == [
        ("unselected at rank 3", "rank 2"),
        ("rank 2", "unselected at rank 3"),
    ]
    assert (found.unchanged, found.overlap, found.size_before) == (1, 0.5, 2)
    with pytest.raises(ValueError, match="size: wanted at least 1, found 0"):
        diff(plain([1]), plain([1]), size=0)


def test_several_rows_of_one_item() -> None:
    """Expects the first compared with the first, and the second with the second."""
    found = diff(plain([1, 2, 1]), plain([2, 1, 1]))
    assert [(change.item_id, change.repeat, change.rise) for change in found.moved] == [(2, 1, 1), (1, 1, -1)]
    assert found.unchanged == 1


def test_a_diff_as_plain_data(found: Diff) -> None:
    """Expects what JSON can hold, with every item's places, terms and reason."""
    data = json.loads(json.dumps(found.as_dict()))
    assert data["moved"][0]["after"] == {"fate": "selected", "rank": 1, "filter": None}
    assert data["moved"][0]["score"]["terms"][0]["label"] == "reply"
    assert data["moved"][0]["rise"] == 1
    assert data["moved"][0]["why"] == found.moved[0].why()
    assert data["overlap"] == found.overlap


# Invariants

weights = st.floats(-4, 4, width=32)
values = st.floats(0, 1, width=32)


@st.composite
def pipelines(draw: Any, table: Candidates) -> Ranking:
    """A ranking of a table by some pipeline."""
    scorers: list[Any] = [("weighted", Weighted({"like": draw(weights), "reply": draw(weights)}, draw(weights)))]
    more = [("boost", Boost(draw(st.floats(0.25, 4, width=32)))), ("diversity", Diversity(draw(values)))]
    more += [("secret", Secret(draw(weights))), ("again", Weighted({"like": draw(weights)}))]
    scorers += draw(st.lists(st.sampled_from(more), unique_by=lambda pair: pair[0], max_size=3))
    stages: dict[str, Any] = {}
    if draw(st.booleans()):
        stages["post_selection_filters"] = [("late", Drop(draw(st.integers(0, 7))))]
    if draw(st.booleans()):
        stages["semantics"] = "upstream"
        stages["sources"] = [("one", StaticSource(table)), ("two", StaticSource(table.take([0, 0][: len(table)])))]
    top = ("top", Top(draw(st.integers(1, 7))))
    return ranking(table, *scorers, drop=draw(st.integers(0, 7)), selector=top, **stages)


@st.composite
def pairs(draw: Any) -> tuple[Ranking, Ranking]:
    """Two rankings of one table."""
    ids = draw(st.lists(st.integers(0, 7), unique=True, min_size=1, max_size=6))
    table = heads({item: (draw(values), draw(values)) for item in ids}, {item: draw(st.integers(0, 2)) for item in ids})
    return draw(pipelines(table)), draw(pipelines(table))


@settings(deadline=None, max_examples=150)
@given(pair=pairs())
def test_terms_add_up_to_the_change(pair: tuple[Ranking, Ranking]) -> None:
    """Expects effects and remainder that sum to the change, a remainder no larger than rounding, largest first."""
    for change in diff(*pair).changes:
        score = change.score
        if score.change is None:
            assert not score.terms
            continue
        effects = [term.effect for term in score.terms]
        assert math.fsum([*effects, score.remainder]) == approx(score.change, rel=1e-12, abs=1e-12)
        largest = max([1.0, *(abs(effect) for effect in effects)])
        assert abs(score.remainder) <= 1e-4 * largest
        assert [abs(effect) for effect in effects] == sorted((abs(effect) for effect in effects), reverse=True)
        assert all(effects)


@settings(deadline=None, max_examples=150)
@given(pair=pairs())
def test_counts_add_up(pair: tuple[Ranking, Ranking]) -> None:
    """Expects every selected item in one list, and that who passed an item makes up for how far it went."""
    found = diff(*pair)
    assert found.unchanged + len(found.moved) + len(found.dropped) == found.size_before
    assert found.unchanged + len(found.moved) + len(found.added) == found.size_after
    for change in found.changes:
        if change.rise is not None:
            assert change.overtaken - change.passed == change.rise
        assert len(change.passed_by) == min(change.passed, 5)
        assert change.why()


def mirrored(change: ItemChange) -> Any:
    """What a change is, seen from the other side; without what is told of the side it ends on."""
    effects = {
        (term.scorer, term.column, term.label): (term.after, term.before, approx(-term.effect, abs=1e-9))
        for term in change.score.terms
    }
    return change.item_id, change.repeat, change.after, change.before, change.overtaken, change.passed, effects


@settings(deadline=None, max_examples=150)
@given(pair=pairs())
def test_a_diff_mirrors_the_diff_the_other_way(pair: tuple[Ranking, Ranking]) -> None:
    """Expects the same items at exchanged places, what was added as dropped, and opposite effects."""
    forth, back = diff(*pair), diff(pair[1], pair[0])
    for there, here in ((forth.moved, back.moved), (forth.added, back.dropped), (forth.dropped, back.added)):
        expected = sorted((mirrored(change) for change in here), key=lambda each: each[:2])
        changes = sorted(there, key=lambda change: (change.item_id, change.repeat))
        for change, other in zip(changes, expected, strict=True):
            effects = {(term.scorer, term.column, term.label): term for term in change.score.terms}
            assert (change.item_id, change.repeat, change.before, change.after) == other[:4]
            assert (change.passed, change.overtaken) == other[4:6]
            for key in effects.keys() | other[6].keys():
                if key in effects and key in other[6]:
                    term = effects[key]
                    assert (term.before, term.after, term.effect) == other[6][key]
                else:  # what is zero on one side may be a rounding error on the other
                    assert (other[6][key][2] if key in other[6] else effects[key].effect) == approx(0.0, abs=1e-9)
    assert (forth.overlap, forth.unchanged, forth.rescored) == (back.overlap, back.unchanged, back.rescored)
    assert (forth.tau, forth.largest_move) == (back.tau, back.largest_move)
    assert forth.rbo == approx(back.rbo)


@settings(deadline=None)
@given(pair=pairs())
def test_equal_rankings_do_not_differ(pair: tuple[Ranking, Ranking]) -> None:
    """Expects nothing moved and full agreement."""
    one, _ = pair
    found = diff(one, Ranking.from_arrays(*one.to_arrays()))
    assert found.is_empty
    assert (found.unchanged, found.rescored) == (one.selected, 0)
    assert (found.overlap, found.largest_move, found.rbo) == (1.0, 0, approx(1.0))
    assert found.tau in {None, 1.0}


@given(before=st.permutations(range(6)), after=st.permutations(range(6)), size=st.integers(1, 7))
def test_permutations(before: list[int], after: list[int], size: int) -> None:
    """Expects, of two orders of the same items, that what left equals what came, and that ups and downs cancel."""
    found = diff(plain(before), plain(after), size)
    assert len(found.added) == len(found.dropped)
    whole = diff(plain(before), plain(after))
    assert not whole.added
    assert sum(change.rise or 0 for change in whole.moved) == 0
    assert whole.largest_move == max((abs(change.rise or 0) for change in whole.moved), default=0)
    assert {change.item_id for change in whole.moved} == {
        item for item in before if before.index(item) != after.index(item)
    }


# Measures


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8))
def test_kendalls_tau_counts_pairs(pairs: list[tuple[int, int]]) -> None:
    """Expects concordant less discordant pairs over the geometric mean of untied ones, as SciPy has it too."""
    x, y = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    signs = [(np.sign(a - c), np.sign(b - d)) for at, (a, b) in enumerate(pairs) for c, d in pairs[at + 1 :]]
    untied = math.sqrt(sum(1 for sign, _ in signs if sign) * sum(1 for _, sign in signs if sign))
    expected = sum(int(one * other) for one, other in signs) / untied if untied else None
    assert kendall_tau_b(x, y) == (None if expected is None else approx(expected))
    stats = pytest.importorskip("scipy.stats", reason="SciPy, which JAX brings, is not installed")
    if expected is not None:
        assert kendall_tau_b(x, y) == approx(stats.kendalltau(x, y).statistic)


def test_tau_of_unequal_samples_is_refused() -> None:
    """Expects an error that shows both shapes."""
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        kendall_tau_b([1, 2], [1, 2, 3])


unique = st.lists(st.integers(0, 9), unique=True, max_size=8)


@given(one=unique, other=unique, p=st.floats(0.1, 0.95))
@example(one=[1, 2, 3], other=[1, 2, 3], p=0.9)
def test_rank_biased_overlap_is_its_formula(one: list[int], other: list[int], p: float) -> None:
    """Expects equation 32 of Webber, Moffat and Zobel, summed as it is written, and a number from 0 to 1."""
    found = rank_biased_overlap(one, other, p)
    assert 0 <= found <= 1
    assert found == approx(rank_biased_overlap(other, one, p))
    short, long = sorted((one, other), key=len)
    s, size = len(short), len(long)
    if s:
        x = [len(set(short[:depth]) & set(long[:depth])) for depth in range(size + 1)]
        first = sum(x[d] / d * p**d for d in range(1, size + 1))
        second = sum(x[s] * (d - s) / (s * d) * p**d for d in range(s + 1, size + 1))
        assert found == approx((1 - p) / p * (first + second) + ((x[size] - x[s]) / size + x[s] / s) * p**size)
    if one == other:
        assert found == approx(1.0)
    if not set(one) & set(other) and (one or other):
        assert found == 0.0


@pytest.mark.parametrize("p", [0.0, 1.0, -1.0])
def test_rank_biased_overlap_needs_a_patience_between(p: float) -> None:
    """Expects an error that shows the number."""
    with pytest.raises(ValueError, match=f"found {p}"):
        rank_biased_overlap([1], [1], p)


def test_rank_biased_overlap_refuses_repeats() -> None:
    """Expects an error for a list that holds something twice."""
    with pytest.raises(ValueError, match="twice"):
        rank_biased_overlap([1, 1], [1])


@given(one=unique, other=unique)
def test_overlap_is_a_share(one: list[int], other: list[int]) -> None:
    """Expects 1 for the same items in any order, 0 for none in common."""
    assert overlap(one, one[::-1]) == 1.0
    assert overlap(one, other) == overlap(other, one)
    assert (overlap(one, other) == 0.0) == (not set(one) & set(other) and bool(one or other))


def test_two_uses_of_one_class_keep_their_own_terms() -> None:
    """Expects the factor of the first use told as what it is, although the second one writes the same column."""
    rows = heads({1: (0.9, 0.1), 2: (0.2, 0.3)})

    def twice(reply: float, first: float, second: float) -> Ranking:
        scorers = (("weighted", Weighted({"reply": reply})), ("one", Boost(first)), ("two", Boost(second)))
        return Ranking.of(answer(ranked_app(rows, *scorers)))

    before, after = twice(0.5, 2.0, 1.0), twice(5.0, 1.5, 0.75)
    change = next(change for change in diff(before, after).changes if change.item_id == 2)
    factors = {term.scorer: (term.before, term.after) for term in change.score.terms if term.factor}
    assert factors == {"one": (2.0, 1.5), "two": (1.0, 0.75)}
    assert all(term.effect < 0 for term in change.score.terms if term.factor)
    assert abs(change.score.remainder) < 1e-6


@attrs.frozen
class Broken(Boost):
    """Fails."""

    def score(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """Raise."""
        raise ValueError("no")


def test_a_fallback_that_two_scorers_share() -> None:
    """Expects its two runs to be told apart, and their effects to add up to the change."""
    rows = heads({1: (0.9, 0.1), 2: (0.2, 0.3)})
    policy = RunPolicy(on_error="fallback:spare")

    def twice(factor: float) -> Ranking:
        scorers = (("weighted", Weighted()), ("a", Broken()), ("b", Broken()))
        spare = [("spare", Boost(factor))]
        app = ranked_app(rows, *scorers, fallbacks=spare, run={"a": policy, "b": policy})
        with capture_logs():
            return Ranking.of(answer(app))

    before, after = twice(0.5), twice(2.0)
    assert [step.scorer for step in after.steps] == ["weighted", "spare", "spare (2)"]
    change = next(change for change in diff(before, after).changes if change.item_id == 2)
    assert {term.scorer for term in change.score.terms} == {"spare", "spare (2)"}
    assert {(term.before, term.after) for term in change.score.terms} == {(0.5, 2.0)}
    assert abs(change.score.remainder) < 1e-6
