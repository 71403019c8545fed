"""The weighted sum: its figures, its gates, its offset, and what has no score."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.keys import ITEM_ID, SCORE, Column
from candidate_pipeline.query import Query
from candidate_pipeline.testing import candidates, check_component
from candidate_pipeline_feed import keys
from candidate_pipeline_feed.actions import NEGATIVE, PREDICTABLE
from candidate_pipeline_feed.keys import PREDICTIONS, WEIGHTED_SCORE, WEIGHTED_TERMS
from candidate_pipeline_feed.presets import preset
from candidate_pipeline_feed.scorers.weighted import Weighted, offset_negatives

CTX = Context("weighted")
COLUMNS = [key for key in Weighted().reads if isinstance(key, Column)]
GATES = ("VIDEO_DURATION_MS", "IN_NETWORK", "MUTUAL_FOLLOW", "REPLY_TO", "REPOST_OF")


def posts(predictions: list[dict[str, float] | None], **columns: list[Any]) -> Candidates:
    """Posts with predictions by action and gate columns by the names of their keys, None for null."""
    heads = list(dict.fromkeys(head for row in predictions if row for head in row))
    values = np.array([[(row or {}).get(head, 0.0) for head in heads] for row in predictions], np.float32)
    rows = len(predictions)
    updates = [
        ITEM_ID(np.arange(1, rows + 1)),
        PREDICTIONS(
            values.reshape(rows, len(heads)), valid=np.array([row is not None for row in predictions]), labels=heads
        ),
    ]
    for name in GATES:
        column = getattr(keys, name)
        cells = columns.get(name, [None] * rows)
        array = column.blank(rows)
        for row, cell in enumerate(cells):
            array[row] = 0 if cell is None else cell
        updates.append(column(array, valid=np.array([cell is not None for cell in cells], np.bool_)))
    return Candidates.of(*updates)


def scored(scorer: Weighted, table: Candidates, followers: int = -1) -> Candidates:
    """A table with what the scorer writes."""
    query = Query(features={keys.VIEWER_FOLLOWERS: followers})
    return table.patched(scorer.score(query, table, CTX))


def score_of(scorer: Weighted, predictions: dict[str, float], followers: int = -1, **columns: Any) -> float:
    """The score of one post."""
    table = posts([predictions], **{name: [cell] for name, cell in columns.items()})
    return float(scored(scorer, table, followers)[SCORE][0])


ALL_HEADS = dict.fromkeys(PREDICTABLE, 0.0)


def test_published_example() -> None:
    """The worked example: .1 favourite, .02 reply, .01 repost, .05 click, 12 s dwell, .001 not interested."""
    predictions = {
        "favorite": 0.1,
        "reply": 0.02,
        "repost": 0.01,
        "click": 0.05,
        "dwell_time": 12,
        "not_interested": 0.001,
    }
    table = scored(Weighted("2026-08-12"), posts([predictions]))
    assert table[SCORE][0] == pytest.approx(0.1858, abs=1e-6)
    assert table[WEIGHTED_SCORE][0] == table[SCORE][0]
    terms = table.row(0)[WEIGHTED_TERMS]
    assert sum(value for name, value in terms.items() if name != "offset") == pytest.approx(0.1848, abs=1e-6)
    assert terms["offset"] == pytest.approx(0.001, abs=1e-6)
    assert terms["dwell_time"] == pytest.approx(0.048)


@pytest.mark.parametrize(("net", "expected"), [(0.0, 0.001), (-1e-12, 0.00089448), (-1.0, 0.00089204), (-367.22, 0.0)])
def test_published_offsets(net: float, expected: float) -> None:
    """The offset at, just below, and far below 0, with the sums of 2026-08-12."""
    weights = preset("2026-08-12")
    value = offset_negatives(np.array([net]), weights.positive_sum, weights.negative_sum, weights.offset)
    assert value[0] == pytest.approx(expected, abs=5e-9)


def test_offset_without_any_weight() -> None:
    """Where no probability has a weight, negative sums become 0 and others stay."""
    assert offset_negatives(np.array([-1.0, 0.0, 2.0]), 0.0, 0.0, 0.001).tolist() == [0.0, 0.0, 2.0]


@given(st.lists(st.floats(-400, 400), min_size=2, max_size=20))
def test_offset_keeps_the_order(nets: list[float]) -> None:
    """The offset never swaps two sums, and puts every negative one below every other."""
    values = offset_negatives(np.sort(np.array(nets)), 43.32, 367.22, 0.001)
    assert (np.diff(values) >= 0).all()
    assert (values[np.sort(nets) < 0] < 0.001).all()


def test_negative_sums_in_a_score() -> None:
    """A post that is only likely to be reported has a small score, below that of a post with nothing predicted."""
    scorer = Weighted("2026-08-12")
    nothing = score_of(scorer, ALL_HEADS)
    reported = score_of(scorer, ALL_HEADS | {"report": 1 / 234})
    assert nothing == pytest.approx(0.001)
    assert reported == pytest.approx(0.00089204, abs=5e-9)


class TestVideoGate:
    """Quality views count for long enough videos and for viewers with fewer than 10,000 followers."""

    ONE = {"vqv": 1.0}  # noqa: RUF012 - a constant of the class

    @pytest.mark.parametrize(("duration", "counts"), [(10_000, False), (10_001, True), (0, False), (None, False)])
    def test_duration_is_strict(self, duration: int | None, counts: bool) -> None:
        """A video of exactly the minimum does not count, and neither does no video."""
        score = score_of(Weighted("2026-08-12"), self.ONE, VIDEO_DURATION_MS=duration)
        assert score == pytest.approx(0.051 if counts else 0.001)

    @pytest.mark.parametrize(("followers", "counts"), [(9_999, True), (10_000, False), (-1, True), (0, True)])
    def test_viewers_with_many_followers(self, followers: int, counts: bool) -> None:
        """From 10,000 followers on quality views do not count; an unknown number is no obstacle."""
        score = score_of(Weighted("2026-08-12"), self.ONE, followers, VIDEO_DURATION_MS=60_000)
        assert score == pytest.approx(0.051 if counts else 0.001)

    def test_options(self) -> None:
        """Both limits can be set."""
        scorer = Weighted(min_video_duration=dt.timedelta(seconds=2), max_viewer_followers=5)
        assert score_of(scorer, self.ONE, 4, VIDEO_DURATION_MS=2001) == pytest.approx(0.051)
        assert score_of(scorer, self.ONE, 4, VIDEO_DURATION_MS=2000) == pytest.approx(0.001)
        assert score_of(scorer, self.ONE, 5, VIDEO_DURATION_MS=2001) == pytest.approx(0.001)


@pytest.mark.parametrize(("in_network", "counts"), [(True, True), (False, False), (None, False)])
def test_unexplored_counts_in_network_only(in_network: bool | None, counts: bool) -> None:
    """`post_unexplored` weighs only where the post is known to be in network."""
    score = score_of(Weighted("2026-08-12"), {"post_unexplored": 1.0}, IN_NETWORK=in_network)
    assert score == pytest.approx(0.021 if counts else 0.001)


@pytest.mark.parametrize(
    ("gates", "boosted"),
    [
        ({"MUTUAL_FOLLOW": True}, True),
        ({"MUTUAL_FOLLOW": False}, False),
        ({}, False),
        ({"MUTUAL_FOLLOW": True, "REPLY_TO": 9}, False),
        ({"MUTUAL_FOLLOW": True, "REPOST_OF": 9}, False),
    ],
)
def test_mutual_reply_boost(gates: dict[str, Any], boosted: bool) -> None:
    """A reply weighs 15 more on an original post whose author and viewer follow each other."""
    score = score_of(Weighted("2026-08-12"), {"reply": 0.1}, **gates)
    assert score == pytest.approx((2.0 if boosted else 0.5) + 0.001)
    unboosted = Weighted("2026-08-12", mutual_reply_boost=0)
    assert score_of(unboosted, {"reply": 0.1}, **gates) == pytest.approx(0.501)


def test_a_missing_head_leaves_sum_and_normalisers() -> None:
    """Heads the model lacks change neither the sum nor P and N."""
    scorer = Weighted("2026-08-12")
    assert score_of(scorer, {"favorite": 0.5}) == pytest.approx(0.251)
    # With favourite and report alone: P = .5, N = 234; s = -23.4.
    expected = (-23.4 + 234) / 234.5 * 0.001
    assert score_of(scorer, {"favorite": 0.0, "report": 0.1}) == pytest.approx(expected, rel=1e-5)
    # With report alone, the same sum has other normalisers.
    assert score_of(scorer, {"report": 0.1}) == pytest.approx(0.0009, rel=1e-5)


def test_continuous_heads_are_no_normalisers() -> None:
    """Seconds enter the sum and not P or N."""
    scorer = Weighted(preset="none", weights={"favorite": 1.0, "report": -1.0, "dwell_time": 100.0})
    assert score_of(scorer, {"favorite": 0.0, "report": 0.5, "dwell_time": 0.0}) == pytest.approx(0.5 / 2 * 0.001)
    assert score_of(scorer, {"favorite": 0.0, "report": 0.0, "dwell_time": 0.25}) == pytest.approx(25.001)


def test_unscored_posts_stay_unscored() -> None:
    """A post without predictions has no score, not the offset, and the others have theirs."""
    table = scored(Weighted(), posts([{"favorite": 0.2}, None]))
    assert table.valid(SCORE).tolist() == [True, False]
    for column in (WEIGHTED_SCORE, WEIGHTED_TERMS):
        assert table.valid(column).tolist() == [True, False]


@pytest.mark.parametrize("bad", [np.inf, -np.inf, 3e38])
def test_predictions_that_are_not_finite_hurt_only_their_post(bad: float) -> None:
    """An infinite or overflowing prediction leaves its post without a score and the others with theirs."""
    table = scored(Weighted(), posts([{"favorite": 0.2, "share": bad, "quote": 0.0}, {"favorite": 0.2}]))
    assert table.valid(SCORE).tolist() == [False, True]
    assert table[SCORE][1] == pytest.approx(0.101)


def test_no_weighted_head() -> None:
    """Where nothing the model predicts has a weight, nothing is scored."""
    table = scored(Weighted("2026-08-12"), posts([{"bookmark": 0.9}]))
    assert table.valid(SCORE).tolist() == [False]


def test_failed_predictions() -> None:
    """Where the ranker failed, every post is unscored."""
    whole = posts([{"favorite": 0.1}])
    table = Candidates({column: whole.cells(column) for column in whole.columns if column is not PREDICTIONS})
    table = scored(Weighted(), table.with_failed([PREDICTIONS], 0))
    assert table.valid(SCORE).tolist() == [False]


def test_no_rows() -> None:
    """An empty table gets empty columns."""
    assert len(scored(Weighted(), posts([]))) == 0


def test_overrides() -> None:
    """Weights given go over those of the preset; the offset too."""
    scorer = Weighted("2026-08-12", weights={"favorite": 2.0, "bookmark": 1.0}, offset=0.5)
    assert score_of(scorer, {"favorite": 0.1, "bookmark": 0.3, "share": 0.1}) == pytest.approx(0.2 + 0.3 + 0.2 + 0.5)


def test_only_own_weights() -> None:
    """The preset "none" leaves only the weights given."""
    scorer = Weighted("none", weights={"favorite": 1.0})
    assert scorer.reads == (PREDICTIONS,)
    assert score_of(scorer, {"favorite": 0.1, "reply": 0.9}) == pytest.approx(0.101)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"weights": {"favourite": 1.0}},
            "weights: no predicted action is called 'favourite' .did you mean 'favorite'",
        ),
        ({"preset": "2026-08-13"}, "no weight preset '2026-08-13'.*2026-08-12"),
        ({"weights": {"favorite": float("nan")}}, "favorite: wanted a finite number, found nan"),
        ({"offset": float("inf")}, "offset: wanted a finite number"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    """An unknown action or preset, or a weight that is no number, says what was wanted."""
    with pytest.raises(MisconfigurationError, match=message):
        Weighted(**options)


def test_reads_follow_the_weights() -> None:
    """Only what a rule with a weight asks for is read."""
    full = {key.name for key in Weighted("2026-08-12").reads}
    assert full == {
        "feed.predictions",
        "feed.video_duration_ms",
        "feed.viewer_followers",
        "feed.in_network",
        "feed.mutual_follow",
        "feed.reply_to",
        "feed.repost_of",
    }
    assert "feed.video_duration_ms" not in {key.name for key in Weighted("2026-10-07").reads}


@pytest.mark.parametrize("name", ["2026-08-12", "2026-10-07", "2023-the-algorithm-ml"])
def test_contract(name: str) -> None:
    """The scorer keeps what its kind promises, with every set of heads a model may have."""
    check_component(Weighted(name), max_examples=40)


@settings(max_examples=80, deadline=None)
@given(table=candidates(*COLUMNS))
def test_terms_add_up(table: Candidates) -> None:
    """Terms and offset of a row sum to its score."""
    table = scored(Weighted(), table)
    valid = table.valid(SCORE)
    sums = table[WEIGHTED_TERMS].astype(np.float64).sum(axis=1)
    np.testing.assert_allclose(sums[valid], table[SCORE][valid], rtol=1e-5, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    table=candidates(*COLUMNS, nulls=False, min_size=1),
    data=st.data(),
)
def test_monotone(table: Candidates, data: st.DataObject) -> None:
    """A likelier wanted action never lowers a score, and a likelier unwanted one never raises it."""
    heads = table.labels(PREDICTIONS)
    head = data.draw(st.sampled_from(heads))
    raised = table[PREDICTIONS].copy()
    place = heads.index(head)
    raised[:, place] = np.minimum(1, raised[:, place] + np.float32(0.25))
    more = Candidates.of(
        *(column(table[column]) for column in table.columns if column is not PREDICTIONS),
        PREDICTIONS(raised, labels=heads),
    )
    before, after = (scored(Weighted(), one) for one in (table, more))
    both = before.valid(SCORE) & after.valid(SCORE)
    change = after[SCORE][both].astype(np.float64) - before[SCORE][both]
    assert (change <= 1e-9).all() if head in NEGATIVE else (change >= -1e-9).all()
