"""The scorer: what a score is made of, what changes nothing, and what is left unscored or refused."""

from __future__ import annotations

import math
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from stakeholder_feed import LABELS, NAMES, WEIGHTS, predictions, scored, table

from candidate_pipeline import SCORE, Column, MisconfigurationError, Query, RequestError, rank_order
from candidate_pipeline.components import Context
from candidate_pipeline.testing import check_component
from candidate_pipeline_feed.actions import PREDICTABLE
from candidate_pipeline_feed.keys import PREDICTIONS
from candidate_pipeline_stakeholder.keys import RAW, STAKEHOLDER_MIX, TERM, UTILITY
from candidate_pipeline_stakeholder.scorer import StakeholderScorer
from candidate_pipeline_stakeholder.utilities import DECLARED, Utilities

MIX = {"user": 0.5, "platform": 0.2, "society": -0.3}
SCORER = StakeholderScorer(MIX, stakeholders=WEIGHTS)
MATRIX = np.array([[WEIGHTS[name].get(label, 0.0) for label in LABELS] for name in NAMES])
HALF_ULP = 2.0**-24


def column(found: Any, family: Any, names: Any = NAMES) -> Any:
    """The members of a family side by side, float64 [n, S]."""
    return np.column_stack([found[family[name]].astype(np.float64) for name in names])


# What a score is


@given(predictions(2))
def test_a_score_is_the_mix_of_standardised_utilities(cells: Any) -> None:
    """Raw utilities are weights times predictions; standardised and times the shares of the mix they are the score."""
    found = scored(SCORER, table(cells))
    raw = cells.astype(np.float64) @ MATRIX.T
    assume((raw.std(axis=0) > 1e-3).all())
    standard = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    parts = np.array([0.5, 0.2, -0.3])
    np.testing.assert_allclose(column(found, RAW), raw, atol=1e-6)
    np.testing.assert_allclose(column(found, UTILITY), standard, atol=1e-5)
    np.testing.assert_allclose(column(found, TERM), standard * parts, atol=1e-5)
    np.testing.assert_allclose(found[SCORE], standard @ parts, atol=1e-5)


@given(predictions())
def test_terms_add_up_exactly(cells: Any) -> None:
    """The stored terms, added up in their order, are the stored score to the last bit."""
    found = scored(SCORER, table(cells))
    total = np.zeros(len(found), np.float64)
    for terms in column(found, TERM).T:
        total += terms
    assert total.astype(np.float32).tobytes() == found[SCORE].tobytes()


def test_every_stakeholder_has_columns() -> None:
    """Those that the mix does not count have utilities too, and terms of 0."""
    found = scored(StakeholderScorer({"user": 2}, stakeholders=WEIGHTS), table(np.eye(5)))
    assert found.valid(UTILITY["society"]).all()
    assert found[UTILITY["society"]].any()
    assert found[TERM["society"]].tolist() == [0.0] * 5
    assert found[TERM["user"]].tolist() == found[UTILITY["user"]].tolist() == found[SCORE].tolist()


# What changes nothing


@pytest.mark.parametrize("normalise", ["request", "none"])
@given(cells=predictions(), order=st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(normalise: Any, cells: Any, order: Any) -> None:
    """Rows in another order get what they got, to the last bit."""
    at = list(range(len(cells)))
    order.shuffle(at)
    scorer = attrs.evolve(SCORER, normalise=normalise)
    one, other = scored(scorer, table(cells)), scored(scorer, table(cells[at]))
    for key in scorer.writes:
        assert isinstance(key, Column)
        assert one[key][at].tobytes() == other[key].tobytes(), key


@settings(max_examples=50)
@given(predictions(), st.integers(-10, 10), st.floats(0.01, 100), st.sampled_from(NAMES))
def test_the_units_of_a_utility_change_nothing(cells: Any, power: int, factor: float, name: str) -> None:
    """A stakeholder whose weights are all multiplied counts as before: to the last bit for a power of 2."""
    found = scored(SCORER, table(cells))

    def times(by: float) -> Any:
        weights = {**WEIGHTS, name: {action: weight * by for action, weight in WEIGHTS[name].items()}}
        return scored(attrs.evolve(SCORER, stakeholders=weights), table(cells))

    assert times(2.0**power)[SCORE].tobytes() == found[SCORE].tobytes()
    np.testing.assert_allclose(times(factor)[SCORE], found[SCORE], atol=1e-5)


@given(predictions(2), st.sampled_from([0.25, 0.5, 1.0]))
def test_what_all_rows_share_changes_nothing(cells: Any, add: float) -> None:
    """A utility shifted by what is certain of every row, such as a head that predicts the same for all, ranks alike."""
    raw = cells.astype(np.float64) @ MATRIX.T
    assume(((np.ptp(raw, axis=0) == 0) | (raw.std(axis=0) > 1e-3)).all())
    shifted = {**WEIGHTS, "user": {**WEIGHTS["user"], "share": 1.0}}
    labels = (*LABELS, "share")
    wide = np.column_stack([cells, np.full(len(cells), add, np.float32)])
    found = scored(attrs.evolve(SCORER, stakeholders=shifted), table(wide, labels=labels))
    np.testing.assert_allclose(found[SCORE], scored(SCORER, table(cells))[SCORE], atol=1e-5)


@given(predictions(), st.floats(0.01, 100), st.integers(-30, 30))
def test_the_scale_of_the_mix_changes_nothing(cells: Any, factor: float, power: int) -> None:
    """Weights of a mix count by their proportions."""
    found = scored(SCORER, table(cells))[SCORE]
    exact = SCORER.with_mix({name: weight * 2.0**power for name, weight in MIX.items()})
    assert scored(exact, table(cells))[SCORE].tobytes() == found.tobytes()
    near = SCORER.with_mix({name: weight * factor for name, weight in MIX.items()})
    np.testing.assert_allclose(scored(near, table(cells))[SCORE], found, atol=1e-6)


# More weight, more utility


@settings(max_examples=200)
@given(
    predictions(2),
    st.sampled_from(NAMES),
    st.lists(st.floats(-2, 2), min_size=2, max_size=2).filter(lambda others: abs(others[0]) + abs(others[1]) > 0.1),
    st.lists(st.floats(-4, 4), min_size=2, max_size=6),
    st.integers(1, 10),
    st.booleans(),
)
def test_more_weight_never_costs_a_stakeholder(
    cells: Any, name: str, others: list[float], weights: list[float], k: int, alone: bool
) -> None:
    """With a larger mixing weight and the others' as they are, what a stakeholder gets of the best k rows never falls.

    In exact arithmetic: with a its utility, b the sum of the others' terms, S the best k rows for t a + b and S' those
    for t' a + b, t < t': t A(S) + B(S) >= t A(S') + B(S') and t' A(S') + B(S') >= t' A(S) + B(S), whose sum is
    (t' - t) (A(S') - A(S)) >= 0, however ties fall. A score that is off by e at most makes that
    A(S') >= A(S) - 2 k (e N + e' N') / (t' - t), N being the sum of the mix's absolute values, which scores are divided
    by; e is half a unit in the last place of float32 for each of three terms and for the sum, of the largest utility.
    """
    rest = dict(zip((other for other in NAMES if other != name), others, strict=True))
    ladder = sorted({1e3, *weights}) if alone else sorted(set(weights))
    candidates = table(cells)
    before: tuple[float, float, float] | None = None
    for weight in ladder:
        found = scored(SCORER.with_mix({**rest, name: weight}), candidates)
        best = rank_order(found)[:k]
        utilities = column(found, UTILITY)
        got = float(utilities[best, NAMES.index(name)].sum())
        off = 4 * HALF_ULP * np.abs(utilities).max() * (abs(weight) + sum(map(abs, others)))
        if before is not None and weight - before[0] > 1e-3:
            tolerance = 2 * k * (off + before[2]) / (weight - before[0]) + 4 * k * HALF_ULP * np.abs(utilities).max()
            assert got >= before[1] - tolerance
        before = (weight, got, float(off))


# The mix


def test_a_request_may_give_its_own_mix() -> None:
    """The request's mix takes the place of the spec's as a whole; an empty one is none."""
    candidates = table(np.eye(5))
    alone = scored(SCORER.with_mix({"platform": 1}), candidates)
    asked = scored(SCORER, candidates, {"platform": 7})
    assert asked[SCORE].tobytes() == alone[SCORE].tobytes()
    assert scored(SCORER, candidates, {})[SCORE].tobytes() == scored(SCORER, candidates)[SCORE].tobytes()


def test_a_negative_weight_wants_a_loss() -> None:
    """With a negative weight what is worst for the stakeholder comes first."""
    for_user = rank_order(scored(SCORER.with_mix({"user": 1}), table(np.eye(5))))
    against = rank_order(scored(SCORER.with_mix({"user": -1}), table(np.eye(5))))
    assert LABELS[for_user[0]] == "favorite"
    assert LABELS[against[0]] == "block_author"


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        ({"soceity": 1.0}, "no stakeholder 'soceity': did you mean 'society'?"),
        ({"user": "much"}, "user: wanted a finite number, found 'much'"),
        ({"user": math.nan}, "user: wanted a finite number, found nan"),
        ({"user": 0}, "wanted a weight other than 0 for at least one of user, platform, society; found user = 0"),
    ],
)
def test_wrong_mixes(mix: Any, said: str) -> None:
    """A wrong mix of the spec is a misconfiguration; one of a request is the request's mistake, and names the input."""
    with pytest.raises(MisconfigurationError) as built:
        StakeholderScorer(mix, stakeholders=WEIGHTS)
    assert str(built.value) == f"mix: {built.value.args[0].removeprefix('mix: ')}"
    assert said in str(built.value)
    with pytest.raises(RequestError) as asked:
        scored(SCORER, table(np.eye(5)), mix)
    assert str(asked.value).startswith("stakeholder.mix: ")
    assert said in str(asked.value)
    with pytest.raises(MisconfigurationError):
        SCORER.with_mix(mix)


def test_a_spec_needs_a_mix() -> None:
    """An empty mix in the spec is refused: who counts how much is to be said."""
    with pytest.raises(MisconfigurationError, match="found an empty mix"):
        StakeholderScorer({}, stakeholders=WEIGHTS)


# Rows that are not scored


def test_rows_without_predictions_stay_unscored() -> None:
    """A row without predictions, or with one that is not finite, has no score and does not count for the others."""
    cells = np.array([[0.5, 0, 0, 0, 0], [0.1] * 5, [0, 0.25, 0, 0, 1], [np.inf, 0, 0, 0, 0]], np.float32)
    found = scored(SCORER, table(cells, valid=[True, False, True, True]))
    for key in SCORER.writes:
        assert isinstance(key, Column)
        assert found.valid(key).tolist() == [True, False, True, False], key
    alone = scored(SCORER, table(cells[[0, 2]]))
    assert found[SCORE][[0, 2]].tobytes() == alone[SCORE].tobytes()
    assert rank_order(found).tolist()[2:] == [1, 3]


def test_an_unused_prediction_may_be_anything() -> None:
    """An action that nobody has a weight for does not matter, even where it is not finite."""
    labels = (*LABELS, "dwell_time")
    cells = np.column_stack([np.eye(5), [np.inf, -np.inf, 3, 4, 5]])
    found = scored(SCORER, table(cells, labels=labels))
    assert found[SCORE].tobytes() == scored(SCORER, table(np.eye(5)))[SCORE].tobytes()


def test_what_float32_cannot_hold_is_not_scored() -> None:
    """A utility beyond float32 leaves its row without a score, and the others as if it were not there."""
    large = {"user": {"dwell_time": 1e6}, "society": {"report": -4.0}}
    cells = np.array([[3e38, 0.5], [2, 0.25], [1, 0.5]], np.float32)
    for normalise in ("request", "none"):
        scorer = StakeholderScorer({"user": 1, "society": 1}, stakeholders=large, normalise=normalise)
        found = scored(scorer, table(cells, labels=("dwell_time", "report")))
        assert found.valid(SCORE).tolist() == [False, True, True]
        alone = scored(scorer, table(cells[1:], labels=("dwell_time", "report")))
        assert found[SCORE][1:].tobytes() == alone[SCORE].tobytes()


def test_no_rows_and_one_row() -> None:
    """An empty table stays empty; of a single row there is no choice, so it is worth 0 to everybody."""
    assert len(scored(SCORER, table(np.empty((0, 5))))) == 0
    one = scored(SCORER, table([[0.5, 0.1, 0.2, 0.3, 0.4]]))
    assert [one[key].tolist() for key in (SCORE, UTILITY["user"], TERM["society"])] == [[0.0], [0.0], [0.0]]
    assert one[RAW["user"]].tolist() == pytest.approx([-0.55])


def test_nothing_predicted_at_all() -> None:
    """Where no row has predictions none is scored, and nobody is blamed for actions that are not there."""
    found = scored(SCORER, table(np.zeros((3, 5)), valid=[False] * 3))
    assert not any(found.valid(key).any() for key in SCORER.writes if isinstance(key, Column))


def test_a_constant_utility_is_worth_nothing() -> None:
    """A stakeholder to whom all rows are worth the same gains by no choice, and the others decide."""
    cells = np.array([[0.5, 0, 0.1, 0, 0], [0.5, 0, 0.2, 0, 0], [0.5, 0, 0.3, 0, 0]], np.float32)
    found = scored(SCORER.with_mix({"user": 1, "platform": 1}), table(cells))
    assert found[UTILITY["user"]].tolist() == [0.0, 0.0, 0.0]
    assert rank_order(found).tolist() == [2, 1, 0]


# Actions that the model does not predict


def test_an_absent_action_is_left_out() -> None:
    """A stakeholder's utility is made of the actions that are predicted."""
    found = scored(SCORER, table(np.eye(2), labels=("favorite", "repost")))
    assert found[RAW["user"]].tolist() == [1.0, 0.0]
    assert found[RAW["platform"]].tolist() == [1.0, 1.5]


PARTIAL = {"user": {"favorite": 1.0}, "safety": {"report": -1.0, "block_author": -2.0}}


def test_a_stakeholder_with_nothing_predicted() -> None:
    """If no action of a stakeholder is predicted, its columns are null, and a mix that counts it is refused."""
    candidates = table(np.eye(2), labels=("favorite", "reply"))
    scorer = StakeholderScorer({"user": 1}, stakeholders=PARTIAL)
    found = scored(scorer, candidates)
    assert found.valid(SCORE).all()
    assert not found.valid(RAW["safety"]).any()
    assert not found.valid(UTILITY["safety"]).any()
    assert found[TERM["safety"]].tolist() == [0.0, 0.0]
    message = (
        r"'safety' counts, but the model predicts none of the actions that it has weights for "
        r"\(report, block_author\); it predicts: favorite, reply"
    )
    with pytest.raises(RequestError, match=f"stakeholder.mix: {message}"):
        scored(scorer, candidates, {"safety": -1})
    with pytest.raises(MisconfigurationError, match=f"mix: {message}"):
        scored(scorer.with_mix({"user": 1, "safety": 1e-9}), candidates)
    assert scored(scorer.with_mix({"safety": 1}), table(np.eye(1), labels=("report",)))[SCORE].tolist() == [0.0]


# Options


def test_without_utilities_the_declared_ones_count() -> None:
    """Neither a file nor inline weights: the declared label utilities of user, platform and society."""
    scorer = StakeholderScorer({"society": 1})
    assert scorer.resolved is DECLARED
    assert scorer.names == NAMES
    assert scored(scorer, table(np.eye(5)))[RAW["society"]].tolist() == [1.0, 1.0, 1.0, -4.0, -4.0]


@pytest.mark.parametrize(
    ("stakeholders", "said"),
    [
        (
            {"user": {"favourite": 1.0}},
            "stakeholders.user: no predicted action is called 'favourite': did you mean 'fav",
        ),
        ({"User": {"favorite": 1.0}}, "wanted a name of small letters, digits and _ such as user, found 'User'"),
        ({"user": {"favorite": math.inf}}, "wanted numbers from"),
        ({"user": {}}, "features: wanted 1 to"),
    ],
)
def test_wrong_stakeholders(stakeholders: Any, said: str) -> None:
    """Wrong inline utilities are told with what was wanted."""
    with pytest.raises(MisconfigurationError) as caught:
        StakeholderScorer({"user": 1}, stakeholders=stakeholders)
    assert said in str(caught.value)


def test_the_numbers_of_the_mix_can_be_varied() -> None:
    """What-if searches see every stakeholder's weight in the mix, those too that it leaves out."""
    scorer = StakeholderScorer({"user": 1}, stakeholders=WEIGHTS)
    assert scorer.in_effect == {"mix": {"user": 1.0, "platform": 0.0, "society": 0.0}}


def test_reads_and_writes() -> None:
    """It reads predictions and the request's mix, and is listwise only where the other rows count."""
    assert SCORER.reads == (PREDICTIONS, STAKEHOLDER_MIX)
    assert SCORER.writes[0] is SCORE
    assert set(SCORER.writes[1:]) == {family[name] for family in (RAW, UTILITY, TERM) for name in NAMES}
    assert SCORER.listwise
    assert not attrs.evolve(SCORER, normalise="none").listwise


@pytest.mark.parametrize("normalise", ["request", "none"])
def test_it_keeps_a_components_promises(normalise: Any) -> None:
    """The test kit finds nothing wrong, with any mix of the request."""
    mixes = st.dictionaries(st.sampled_from(NAMES), st.floats(-5, 5)).filter(lambda mix: not mix or any(mix.values()))
    weights = {
        name: {head: (at + 1) * place - 12.5 for place, head in enumerate(PREDICTABLE)} for at, name in enumerate(NAMES)
    }
    scorer = StakeholderScorer(MIX, stakeholders=weights, normalise=normalise)
    check_component(scorer, values={STAKEHOLDER_MIX: mixes}, max_examples=60)


def test_the_semantics_change_nothing() -> None:
    """The published system has no such scorer, so it scores alike under upstream semantics."""
    cells = table(np.eye(5), valid=[True, True, False, True, True])
    strict = SCORER.score(Query(), cells, Context("stakeholders"))
    upstream = SCORER.score(Query(), cells, Context("stakeholders", semantics="upstream"))
    for key, update in strict.updates.items():
        assert np.asarray(update.values).tobytes() == np.asarray(upstream.updates[key].values).tobytes()


def test_utilities_over_other_features_are_refused(tmp_path: Any) -> None:
    """A file of utilities over what no model predicts, such as genres, cannot rank predictions, and says so."""
    path = tmp_path / "genres.toml"
    Utilities.of({"user": {"Comedy": 1.0}}).write(path)
    with pytest.raises(MisconfigurationError, match=r"genres\.toml: no predicted action is called 'Comedy'"):
        StakeholderScorer({"user": 1}, utilities=path)
