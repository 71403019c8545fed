"""The ranker scorer."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candidate_pipeline import Context
from candidate_pipeline.candidates import Candidates
from candidate_pipeline.errors import DataError
from candidate_pipeline.keys import ITEM_ID
from candidate_pipeline.testing import check_component, run_component
from candidate_pipeline_feed.keys import AUTHOR_ID, CREATED_AT, HISTORY, PREDICTIONS, REPOST_AUTHOR_ID, REPOST_OF
from candidate_pipeline_phoenix.ranker import PhoenixRanker
from candidate_pipeline_phoenix.retrieval import PhoenixRetrieval
from phoenix_recsys.requests import History, Items


def predictions(scorer: PhoenixRanker, query: Any, table: Candidates) -> Candidates:
    """The table with what the scorer writes."""
    return table.patched(run_component(scorer, query, table))


def test_predicts_what_the_model_says(tiny: Any, candidates_of: Any) -> None:
    """Each served head is the sigmoid of the model's logit, under its feed name; unserved heads are absent."""
    table = predictions(PhoenixRanker(tiny.ranker), tiny.query([1, 2]), candidates_of([7, 8, 20]))
    assert table.labels(PREDICTIONS) == ("favorite", "reply", "dwell")
    items = tiny.data.tables.items
    history = History([1, 2], items.author_id[:2], [[1, 0, 0, 0], [1, 0, 0, 0]])
    rows = np.array([7, 8, 20]) - 1
    direct = tiny.ranker.served.score(
        101,
        history,
        Items(
            [7, 8, 20],
            items.author_id[rows],
            impression_ts=np.full(3, tiny.now_ms // 1000),
            creation_ts=items.created_at[rows] // 1000,
        ),
    )
    np.testing.assert_allclose(table[PREDICTIONS], 1 / (1 + np.exp(-direct.logits[:, :3])), rtol=1e-5)
    assert (table[PREDICTIONS] > 0).all()
    assert (table[PREDICTIONS] < 1).all()


def test_reposts_are_predicted_as_their_originals(tiny: Any, candidates_of: Any) -> None:
    """A repost and its original get the same predictions, whoever passed it on and whenever."""
    found = predictions(PhoenixRanker(tiny.ranker), tiny.query(), candidates_of([tiny.original, tiny.repost, 12]))
    values = found[PREDICTIONS]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)
    assert np.abs(values[0] - values[2]).max() > 1e-4


def test_a_post_without_author_is_predicted(tiny: Any, candidates_of: Any) -> None:
    """A post that nobody knows anything about is predicted from its id; its row is valid."""
    found = predictions(PhoenixRanker(tiny.ranker), tiny.query(), candidates_of([777, 778, tiny.strange_repost]))
    assert found.valid(PREDICTIONS).all()
    assert np.abs(np.diff(found[PREDICTIONS], axis=0)).max() > 1e-4


def test_id_zero_stays_unscored(tiny: Any, candidates_of: Any) -> None:
    """Id 0 means padding to the model: that row's predictions are null, the others as without it."""
    scorer, query = PhoenixRanker(tiny.ranker), tiny.query()
    with_zero = predictions(scorer, query, candidates_of([5, 0, 6]))
    without = predictions(scorer, query, candidates_of([5, 6]))
    assert with_zero.valid(PREDICTIONS).tolist() == [True, False, True]
    np.testing.assert_allclose(with_zero[PREDICTIONS][[0, 2]], without[PREDICTIONS], rtol=1e-5)


def test_no_candidates(tiny: Any, candidates_of: Any) -> None:
    """An empty table gets an empty column with the served labels."""
    found = predictions(PhoenixRanker(tiny.ranker), tiny.query(), candidates_of([]))
    assert found[PREDICTIONS].shape == (0, 3)
    assert found.labels(PREDICTIONS) == ("favorite", "reply", "dwell")


def test_history_and_viewer_move_predictions(tiny: Any, candidates_of: Any) -> None:
    """Another history, other actions in it, or another viewer give other predictions."""
    scorer, table = PhoenixRanker(tiny.ranker), candidates_of([7, 8])
    query = tiny.query([1, 2])
    other_actions = attrs.evolve(query, features={**query.features, HISTORY: tiny.history([1, 2], ["reply", "dwell"])})
    found = [
        predictions(scorer, asked, table)[PREDICTIONS]
        for asked in (query, tiny.query([30]), other_actions, tiny.query([1, 2], viewer=103), tiny.query([]))
    ]
    for one in range(len(found)):
        for other in range(one):
            assert np.abs(found[one] - found[other]).max() > 1e-4


@settings(max_examples=25, deadline=None)
@given(others=st.lists(st.integers(1, 60), unique=True, max_size=40), data=st.data())
def test_predictions_do_not_depend_on_other_candidates(
    tiny: Any, candidates_of: Any, others: list[int], data: st.DataObject
) -> None:
    """A post's predictions are those it gets alone, whatever stands beside it and where."""
    alone = predictions(PhoenixRanker(tiny.ranker), tiny.query(), candidates_of([100]))[PREDICTIONS]
    ids = data.draw(st.permutations([100, *others]))
    together = predictions(PhoenixRanker(tiny.ranker), tiny.query(), candidates_of(ids))[PREDICTIONS]
    np.testing.assert_allclose(together[ids.index(100)], alone[0], atol=2e-6)


def test_prepare_is_used_and_optional(tiny: Any, candidates_of: Any) -> None:
    """What `prepare` returned is used; called without it, the scorer prepares by itself."""
    scorer, query, table = PhoenixRanker(tiny.ranker), tiny.query([1, 2]), candidates_of([7])
    alone = table.patched(scorer.score(query, table, Context("ranker")))[PREDICTIONS]
    other = scorer.prepare(tiny.query([30]), Context("ranker"))
    prepared = table.patched(scorer.score(query, table, Context("ranker", prepared=other)))[PREDICTIONS]
    np.testing.assert_array_equal(alone, predictions(scorer, query, table)[PREDICTIONS])
    assert np.abs(alone - prepared).max() > 1e-4


class Stub:
    """A model that predicts what it is told."""

    def __init__(self, served: Any, probabilities: Any) -> None:
        self.action_names, self.config, self.probabilities = served.action_names, served.config, probabilities

    def prepare(self, user: int, history: Any) -> Any:
        """Nothing to do."""
        return "viewer"

    def score_prepared(self, viewer: Any, items: Any) -> Any:
        """Ignore everything."""

        @attrs.frozen
        class Scores:
            probabilities: Any
            logits: Any
            continuous: Any

        return Scores(self.probabilities, self.probabilities, None)


def stubbed(tiny: Any, probabilities: Any) -> Any:
    """The open ranker resource with a stub in place of its model."""
    model = attrs.evolve(tiny.ranker)
    model._served, model._heads = Stub(tiny.ranker.served, np.asarray(probabilities, np.float32)), tiny.ranker.heads
    return model


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_predictions_that_are_not_finite(tiny: Any, candidates_of: Any, bad: float) -> None:
    """NaN from the model fails the scorer, naming the head, the post and the way out; it never becomes a score."""
    values = np.full((3, 4), 0.5)
    values[1, 2] = bad
    with pytest.raises(DataError) as caught:
        predictions(PhoenixRanker(stubbed(tiny, values)), tiny.query(), candidates_of([4, 5, 6]))
    assert f"predicts {bad} for dwell of post 5 (and is not finite for 1 of 3 posts)" in str(caught.value)
    assert "candidate-pipeline phoenix train --data" in str(caught.value)


def test_nan_of_a_head_that_is_not_served(tiny: Any, candidates_of: Any) -> None:
    """What the model says of a head that is not served cannot hurt."""
    values = np.full((2, 4), 0.5)
    values[:, 3] = np.nan
    found = predictions(PhoenixRanker(stubbed(tiny, values)), tiny.query(), candidates_of([4, 5]))
    assert (found[PREDICTIONS] == 0.5).all()


def test_dwell_time_in_seconds(tiny: Any, candidates_of: Any) -> None:
    """On request the continuous head is given too, in seconds between 0 and the model's scale."""
    scorer = PhoenixRanker(tiny.ranker, dwell_time=True)
    found = predictions(scorer, tiny.query(), candidates_of([7, 8]))
    assert found.labels(PREDICTIONS) == ("favorite", "reply", "dwell", "dwell_time")
    seconds = found.label(PREDICTIONS, "dwell_time")
    assert ((seconds > 0) & (seconds < tiny.ranker.served.config.dwell_norm_scale)).all()
    with pytest.raises(DataError, match="no continuous head"):
        predictions(PhoenixRanker(stubbed(tiny, np.zeros((1, 4))), dwell_time=True), tiny.query(), candidates_of([1]))


def test_retrieval_weight_adds_log_odds(tiny: Any, candidates_of: Any) -> None:
    """Late fusion adds weight times inner product over temperature to the favourite's log-odds, and to no other."""
    query = tiny.query([1, 2])
    found = run_component(PhoenixRetrieval(tiny.index), query)
    table = candidates_of(found[ITEM_ID].tolist())
    plain = predictions(PhoenixRanker(tiny.ranker), query, table)[PREDICTIONS]
    fused = predictions(PhoenixRanker(tiny.ranker, retrieval=tiny.retrieval, retrieval_weight=0.5), query, table)
    cosine = found.cells(next(column for column in found.columns if column.name == "phoenix.retrieval_score")).values
    odds = np.log(plain[:, 0] / (1 - plain[:, 0])) + 0.5 * cosine / 0.25
    np.testing.assert_allclose(fused.label(PREDICTIONS, "favorite"), 1 / (1 + np.exp(-odds)), rtol=1e-3)
    np.testing.assert_array_equal(fused[PREDICTIONS][:, 1:], plain[:, 1:])


def test_retrieval_weight_needs_a_model(tiny: Any) -> None:
    """A weight without a retrieval model is refused when the scorer is built."""
    with pytest.raises(ValueError, match="retrieval_weight needs a retrieval model"):
        PhoenixRanker(tiny.ranker, retrieval_weight=1.0)


def test_times_far_off_are_unknown(tiny: Any) -> None:
    """Creation times outside what the model can hold are clipped and do not fail the request."""
    ids = np.array([501, 502, 503], np.int64)
    table = Candidates.of(
        ITEM_ID(ids),
        AUTHOR_ID(ids),
        CREATED_AT(np.array([-(2**62), 2**62, tiny.now_ms])),
        REPOST_OF(ids, valid=np.zeros(3, bool)),
        REPOST_AUTHOR_ID(ids, valid=np.zeros(3, bool)),
    )
    assert np.isfinite(predictions(PhoenixRanker(tiny.ranker), tiny.query(), table)[PREDICTIONS]).all()


def test_keeps_the_promises_of_a_scorer(tiny: Any) -> None:
    """The test kit's checks pass on arbitrary ids, authors and times, reordered and with nulls."""
    histories = st.lists(st.integers(1, 45), max_size=12).map(tiny.history)
    check_component(PhoenixRanker(tiny.ranker), values={HISTORY: histories}, max_examples=25)
    fused = PhoenixRanker(tiny.ranker, retrieval=tiny.retrieval, retrieval_weight=1.0, dwell_time=True)
    check_component(fused, values={HISTORY: histories}, max_examples=10)
