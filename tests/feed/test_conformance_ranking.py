"""Ranking under upstream semantics: every published rule, and every vector of the file that ports can run."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Mapping
from importlib import resources
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.keys import ITEM_ID, SCORE, Column
from candidate_pipeline.options import options_of, parse_duration
from candidate_pipeline.patches import ColumnUpdate
from candidate_pipeline.query import Query
from candidate_pipeline.testing import candidates, check_component
from candidate_pipeline_feed import keys
from candidate_pipeline_feed.keys import PREDICTIONS, WEIGHTED_SCORE
from candidate_pipeline_feed.presets import preset
from candidate_pipeline_feed.scorers.author_diversity import AuthorDiversity, diversity_multiplier
from candidate_pipeline_feed.scorers.cold_start import ColdStart
from candidate_pipeline_feed.scorers.dwell_regret import DwellRegret
from candidate_pipeline_feed.scorers.mpn import MultipliedNet
from candidate_pipeline_feed.scorers.out_of_network import OutOfNetwork
from candidate_pipeline_feed.scorers.slate_context import SlateContext
from candidate_pipeline_feed.scorers.weighted import Weighted, offset_negatives
from candidate_pipeline_feed.selectors import TopK

FILE = resources.files("candidate_pipeline_feed") / "conformance" / "ranking.json"
DOCUMENT: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
VECTORS: dict[str, dict[str, Any]] = {vector["name"]: vector for vector in DOCUMENT["vectors"]}

CTX = Context("test", semantics="upstream")
SCORERS = {
    "feed.weighted": Weighted,
    "feed.author_diversity": AuthorDiversity,
    "feed.out_of_network": OutOfNetwork,
    "feed.cold_start": ColdStart,
    "feed.dwell_regret": DwellRegret,
    "feed.mpn": MultipliedNet,
    "feed.slate_context": SlateContext,
}
COLUMNS: dict[str, Column[Any]] = {
    "score": SCORE,
    "author": keys.AUTHOR_ID,
    "in_network": keys.IN_NETWORK,
    "video_duration_ms": keys.VIDEO_DURATION_MS,
    "mutual_follow": keys.MUTUAL_FOLLOW,
    "reply_to": keys.REPLY_TO,
    "repost_of": keys.REPOST_OF,
    "created_ms": keys.CREATED_AT,
    "author_followers": keys.AUTHOR_FOLLOWERS,
    "views": keys.VIEW_COUNT,
}
CONTEXT: dict[str, Column[Any]] = {
    "pool_rank": keys.SLATE_POOL_RANK,
    "author_rank": keys.SLATE_AUTHOR_RANK,
    "author_gap": keys.SLATE_AUTHOR_GAP,
    "score": keys.SLATE_SCORE,
    "semantic_counts": keys.SLATE_SEMANTIC_COUNTS,
    "semantic_gaps": keys.SLATE_SEMANTIC_GAPS,
}


def table_of(rows: list[dict[str, Any]]) -> Candidates:
    """Rows of a vector as a table with every column that a scorer may ask for."""
    unknown = {name for row in rows for name in row} - {*COLUMNS, "predictions", "semantic_id"}
    assert not unknown
    updates: list[ColumnUpdate] = [ITEM_ID(np.arange(1, len(rows) + 1))]
    for name, column in COLUMNS.items():
        cells = column.blank(len(rows))
        for at, row in enumerate(rows):
            if row.get(name) is not None:
                cells[at] = float(row[name]) if column is SCORE else row[name]
        updates.append(column(cells, valid=np.array([row.get(name) is not None for row in rows], np.bool_)))
    given = [row.get("predictions") for row in rows]
    heads = list(dict.fromkeys(head for one in given if one for head in one))
    chances = [[float((one or {}).get(head, 0)) for head in heads] for one in given]
    there = np.array([one is not None for one in given], np.bool_)
    updates.append(PREDICTIONS(np.array(chances, np.float32).reshape(len(rows), len(heads)), valid=there, labels=heads))
    codes = [(row.get("semantic_id") or []) for row in rows]
    there = np.array([row.get("semantic_id") is not None for row in rows], np.bool_)
    padded = np.array([[*code, -1, -1, -1][:3] for code in codes], np.int64).reshape(len(rows), 3)
    updates.append(keys.SEMANTIC_ID(padded, valid=there))
    return Candidates.of(*updates)


def query_of(request: Mapping[str, Any]) -> Query:
    """The query of a vector's request."""
    now = dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(milliseconds=request.get("now_ms", 1_790_000_000_000))
    features: dict[Any, Any] = {keys.FOLLOWS: np.arange(request.get("follows", 0))}
    for name, key in (("viewer_followers", keys.VIEWER_FOLLOWERS), ("viewer_since_ms", keys.VIEWER_SINCE)):
        if name in request:
            features[key] = request[name]
    if "topics" in request:
        features[keys.REQUESTED_TOPICS] = tuple(request["topics"])
    return Query(now=now, features=features)


def built(entry: Mapping[str, Any]) -> Any:
    """The scorer of a vector's entry."""
    options = dict(entry.get("options", {}))
    for name, value in options.items():
        hint = str(options_of(SCORERS[entry["use"]])[name].type)
        if isinstance(value, str) and "timedelta" in hint:
            options[name] = parse_duration(value)
    return SCORERS[entry["use"]](**options)


def run(scorers: list[Any], table: Candidates, query: Query | None = None) -> Candidates:
    """The table after scorers, one after another."""
    for scorer in scorers:
        table = table.patched(scorer.score(query or Query(), table, CTX))
    return table


def scores_of(table: Candidates, column: Column[Any] = SCORE) -> list[float | None]:
    """Scores as numbers, None for none."""
    return [float(value) if there else None for value, there in zip(table[column], table.valid(column), strict=True)]


def agree(found: list[float | None], wanted: list[Any], tolerance: Mapping[str, float]) -> None:
    """Assert that figures agree; None with None only."""
    assert [value is None for value in found] == [value is None for value in wanted]
    left = [value for value in found if value is not None]
    right = [float(value) for value in wanted if value is not None]
    np.testing.assert_allclose(left, right, rtol=tolerance["relative"], atol=tolerance["absolute"])


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS.keys())
def test_vector(vector: dict[str, Any]) -> None:
    """The components give the scores, order and contexts that the vector's rule says."""
    tolerance = vector.get("tolerance", DOCUMENT["tolerance"])
    scorers = [built(entry) for entry in vector["scorers"]]
    table = run(scorers, table_of(vector["rows"]), query_of(vector.get("request", {})))
    if "expected" in vector:
        agree(scores_of(table), vector["expected"], tolerance)
    if "expected_weighted" in vector:
        agree(scores_of(table, WEIGHTED_SCORE), vector["expected_weighted"], tolerance)
    if "expected_order" in vector:
        chosen = TopK(size=vector["select"]).select(Query(), table, CTX)
        assert chosen.tolist() == vector["expected_order"]
    for name, wanted in vector.get("expected_context", {}).items():
        column = CONTEXT[name]
        if column.labels:
            found = [row[column] for row in table]
            plain = [None if one is None else [None if x < 0 else x for x in one.values()] for one in found]
            assert plain == wanted
        else:
            agree(scores_of(table, column), wanted, tolerance)


class TestFile:
    """The file says what a port needs."""

    def test_describes_itself(self) -> None:
        """Every field of every vector is explained in the file's own words, and no name stands twice."""
        about = " ".join(DOCUMENT["about"])
        for vector in VECTORS.values():
            assert set(vector) >= {"name", "rule", "release", "scorers", "rows"}
            assert {"expected", "expected_order"} & set(vector)
            for name in (*vector, *(key for row in vector["rows"] for key in row), *vector.get("request", {})):
                assert name in about
        assert len(VECTORS) == len(DOCUMENT["vectors"])

    def test_is_plain_json(self) -> None:
        """No number that JSON does not have: NaN and infinities are text."""

        def refuse(name: str) -> None:
            raise AssertionError(name)

        json.loads(FILE.read_text(encoding="utf-8"), parse_constant=refuse)

    def test_weights_are_those_of_the_preset(self) -> None:
        """The weights in the file are those of the preset that the vectors name."""
        for name, figures in DOCUMENT["presets"].items():
            shipped = attrs.asdict(preset(name))
            assert {key: shipped[key] for key in figures} == figures

    def test_covers_every_scorer(self) -> None:
        """Each ranking scorer and the selector have vectors."""
        assert {entry["use"] for vector in VECTORS.values() for entry in vector["scorers"]} == set(SCORERS)
        assert any("expected_order" in vector for vector in VECTORS.values())


def favorites(*chances: float | None, **columns: list[Any]) -> Candidates:
    """Posts with a predicted favourite each, None for no predictions."""
    return table_of(
        [
            {
                "predictions": None if chance is None else {"favorite": chance},
                **{name: cells[at] for name, cells in columns.items()},
            }
            for at, chance in enumerate(chances)
        ]
    )


class TestWeightedSum:
    """The weighted sum and its offset."""

    def test_sum(self) -> None:
        """The sum of weight times prediction is .1848 for the published example, and its score .1858."""
        table = run([Weighted()], table_of(VECTORS["weighted-example"]["rows"]))
        terms = table.row(0)[keys.WEIGHTED_TERMS]
        assert sum(terms.values()) - terms["offset"] == pytest.approx(0.1848, abs=1e-6)
        assert scores_of(table) == [pytest.approx(0.1858, abs=1e-6)]

    def test_sums_of_weights(self) -> None:
        """P, N and T are 43.32, 367.22 and 410.54 with the weights of August 2026, seconds left out."""
        weights = preset("2026-08-12")
        sums = (weights.positive_sum, weights.negative_sum, weights.total)
        assert sums == pytest.approx((43.32, 367.22, 410.54), abs=1e-9)

    @pytest.mark.parametrize(("net", "wanted"), [(0, 0.001), (-1e-13, 0.00089448), (-1, 0.00089204), (-367.22, 0)])
    def test_offset(self, net: float, wanted: float) -> None:
        """The offset maps 0, just below 0, -1 and -N to the published figures: there is a jump at 0."""
        assert offset_negatives(np.array([float(net)]), 43.32, 367.22, 0.001)[0] == pytest.approx(wanted, abs=5e-9)

    @given(st.floats(-367.22, -1e-9))
    def test_negative_sums_stay_in_their_range(self, net: float) -> None:
        """A sum in [-N, 0) scores in [0, N / T * OFFSET), below the score of any sum that is not negative."""
        score = offset_negatives(np.array([net]), 43.32, 367.22, 0.001)[0]
        assert -1e-12 <= score <= 367.22 / 410.54 * 0.001

    def test_absent_head_counts_in_the_normalisers(self) -> None:
        """A model without a head scores as one that predicts 0 for it; strict semantics leave the head out."""
        alone = table_of([{"predictions": {"report": 0.001}}])
        full = table_of([{"predictions": dict.fromkeys(preset("2026-08-12").weights, 0) | {"report": 0.001}}])
        assert scores_of(run([Weighted()], alone)) == scores_of(run([Weighted()], full))
        strict = alone.patched(Weighted().score(Query(), alone, Context("test")))
        assert strict[SCORE][0] != run([Weighted()], alone)[SCORE][0]

    def test_no_predictions_score_exactly_the_offset(self) -> None:
        """A post without predictions scores the offset to the last bit, and its terms say so."""
        table = run([Weighted()], favorites(None, None, 0.5))
        assert table[SCORE][:2].tolist() == [np.float32(0.001)] * 2
        assert table.row(0)[keys.WEIGHTED_TERMS] == pytest.approx({"favorite": 0, "offset": 0.001})

    def test_no_predictions_at_all(self) -> None:
        """Where the ranker gave nothing to anybody, every post scores the offset."""
        table = run([Weighted()], favorites(None, None))
        assert table[SCORE].tolist() == [np.float32(0.001)] * 2

    def test_failed_predictions_are_absent(self) -> None:
        """Predictions that failed count as absent ones."""
        whole = favorites(0.5)
        bare = Candidates({column: whole.cells(column) for column in whole.columns if column is not PREDICTIONS})
        assert run([Weighted()], bare.with_failed([PREDICTIONS], 0))[SCORE].tolist() == [np.float32(0.001)]

    def test_not_finite_goes_through_without_terms(self) -> None:
        """A score that is not finite stays and takes part in the order; its post has no terms."""
        table = run([Weighted()], table_of(VECTORS["not-finite-goes-through"]["rows"]))
        assert table.valid(SCORE).all()
        assert table.valid(keys.WEIGHTED_TERMS).tolist() == [False, False, False, True]


class TestDiversity:
    """Author diversity."""

    def test_multipliers(self) -> None:
        """The multiplier of the k-th repeat is (1 - floor) * decay^k + floor."""
        found = diversity_multiplier(np.arange(6), 0.5, 0.25)
        assert found.tolist() == [1, 0.625, 0.4375, 0.34375, 0.296875, 0.2734375]

    def test_rows_stay(self) -> None:
        """Scores are written back to their rows; the list is not reordered."""
        before = table_of(VECTORS["diversity-order"]["rows"])
        after = run([AuthorDiversity()], before)
        assert after[ITEM_ID].tolist() == before[ITEM_ID].tolist()
        assert scores_of(after) == pytest.approx([0.0625, 0.30, 0.0875, 0.28, 0.15625])

    def test_negative_scores_move_up(self) -> None:
        """Negative scores are multiplied, unless the option says divide."""
        table = table_of([{"score": score, "author": 1} for score in (-1, -2)])
        assert scores_of(run([AuthorDiversity()], table)) == [-1, -1.25]
        assert scores_of(run([AuthorDiversity(negative="divide")], table)) == pytest.approx([-1, -3.2])

    def test_state_is_of_one_request(self) -> None:
        """A second request counts anew."""
        table, scorer = table_of(VECTORS["diversity-order"]["rows"]), AuthorDiversity()
        assert scores_of(run([scorer], table)) == scores_of(run([scorer], table))

    @settings(max_examples=60, deadline=None)
    @given(table=candidates(keys.AUTHOR_ID, SCORE))
    def test_against_a_plain_count(self, table: Candidates) -> None:
        """Every score is its own times the multiplier of how many posts of its author come before it."""
        wanted: list[float | None] = [None] * len(table)
        values = [-math.inf if score is None else score for score in scores_of(table)]
        order = sorted(range(len(table)), key=lambda row: -values[row])
        authors = table[keys.AUTHOR_ID].tolist()
        for place, row in enumerate(order):
            repeats = sum(authors[other] == authors[row] for other in order[:place])
            if table.valid(SCORE)[row]:
                wanted[row] = values[row] * (0.75 * 0.5**repeats + 0.25)
        agree(scores_of(run([AuthorDiversity()], table)), wanted, {"relative": 1e-6, "absolute": 1e-30})


class TestNetwork:
    """The out-of-network factor."""

    def test_unknown_is_not_out_of_network(self) -> None:
        """The factor applies where in-network is exactly false."""
        table = table_of([{"score": 1, "in_network": known} for known in (True, False, None)])
        assert scores_of(run([OutOfNetwork()], table)) == [1, 0.75, 1]

    def test_negative_scores_move_up(self) -> None:
        """Negative scores are multiplied, unless the option says divide."""
        table = table_of([{"score": -3, "in_network": False}])
        assert scores_of(run([OutOfNetwork()], table)) == [-2.25]
        assert scores_of(run([OutOfNetwork(negative="divide")], table)) == [-4]

    def test_options_that_are_off_ask_for_nothing(self) -> None:
        """Without the factors of topics and new users the request is not looked at."""
        assert OutOfNetwork().reads == (SCORE, keys.IN_NETWORK)
        both = OutOfNetwork(topic_factor=0.5, new_user_age=dt.timedelta(days=1))
        assert {keys.REQUESTED_TOPICS, keys.VIEWER_SINCE, keys.FOLLOWS} < set(both.reads)


class TestComposition:
    """How the parts are put together."""

    def test_january(self) -> None:
        """Three scorers: the weighted score stays as the first wrote it, and what is absent stays absent."""
        table = table_of([{"score": 0.4, "author": 1, "in_network": False}, {"author": 1, "in_network": False}])
        weighted = table.patched(AuthorDiversity().score(Query(), table, CTX))
        assert scores_of(run([OutOfNetwork()], weighted)) == [pytest.approx(0.3), None]

    def test_may(self) -> None:
        """Weighted sum, normalised by the identity, then diversity, then network; two scores are written."""
        vector = VECTORS["may-composition"]
        table = run([Weighted(), AuthorDiversity(), OutOfNetwork()], table_of(vector["rows"]))
        assert scores_of(table, WEIGHTED_SCORE) == pytest.approx(vector["expected_weighted"])
        ratio = table[SCORE] / table[WEIGHTED_SCORE]
        assert ratio.tolist() == pytest.approx([0.625, 0.75, 0.4375 * 0.75, 0.75, 0.625])

    def test_unscored_posts_outrank_negative_sums(self) -> None:
        """A post nobody scored ranks above any post whose sum is negative; in strict semantics it ranks last."""
        table = table_of([{"predictions": {"report": chance}} for chance in (0.5, 1e-6)] + [{"predictions": None}])
        after = run([Weighted()], table)
        assert TopK().select(Query(), after, CTX).tolist() == [2, 1, 0]
        strict = Context("test")
        after = table.patched(Weighted().score(Query(), table, strict))
        assert TopK().select(Query(), after, strict).tolist() == [1, 0, 2]

    def test_august_cached_posts(self) -> None:
        """Of posts with a stored context diversity is computed anew, and the context is the stored one."""
        table = table_of([{"score": score, "author": 1} for score in (0.5, 0.4, 0.3)])
        first = run([SlateContext(semantic=True), AuthorDiversity()], table)
        kept = first.take([2, 1, 0]).with_cells({SCORE: table.cells(SCORE).take(np.array([0, 2, 1]))})
        again = run([SlateContext(semantic=True, keep_stored=True), AuthorDiversity()], kept)
        assert again[keys.SLATE_POOL_RANK].tolist() == [2, 1, 0]
        assert again[keys.SLATE_AUTHOR_GAP].tolist() == [1, 1, 0]
        assert again[keys.DIVERSITY_FACTOR].tolist() == [1, 0.4375, 0.625]
        fresh = run([SlateContext(semantic=True)], kept)
        assert fresh[keys.SLATE_POOL_RANK].tolist() == [0, 2, 1]

    def test_august_cold_start_slot(self) -> None:
        """The place of the cold start is drawn evenly from its range, by the request's seed alone."""
        scores = [1 - 0.02 * at for at in range(40)]
        rows = [
            {"score": s, "author": at, "author_followers": 9, "views": 9 if at == 30 else 9999}
            for at, s in enumerate(scores)
        ]
        table, scorer = table_of(rows), ColdStart(first_slot=10, end_slot=15)
        raised = set()
        for seed in range(60):
            ctx = Context("cold_start", seed=seed, semantics="upstream")
            after = [table.patched(scorer.score(Query(), table, ctx))[SCORE][30].item() for _ in range(2)]
            assert after[0] == after[1]
            raised.add(round(after[0], 4))
        assert raised == {round(score, 4) for score in scores[10:15]}

    def test_august_dwell_regret(self) -> None:
        """Favourites of .3 and .1, ten seconds each, T = 1: 12.44918663 and 7.55081337, without an offset."""
        table = table_of(VECTORS["dwell-regret-published"]["rows"])
        scorer = DwellRegret(temperature=1, dwell_floor=1)
        assert scores_of(run([scorer], table)) == pytest.approx([12.44918663, 7.55081337], rel=1e-6)

    @given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.05), st.integers(1, 3), st.booleans()), max_size=8))
    @settings(max_examples=60, deadline=None)
    def test_august_mpn(self, posts: list[tuple[float, float, int, bool]]) -> None:
        """The score is offset(m * net) for a net that is not negative and offset(net) else, however posts are mixed."""
        rows = [
            {"predictions": {"favorite": fav, "report": report}, "author": author, "in_network": inside}
            for fav, report, author, inside in posts
        ]
        weighted = run([Weighted()], table_of(rows))
        after = run([MultipliedNet()], weighted)
        apart = run([AuthorDiversity(), OutOfNetwork()], weighted)
        m = apart[keys.DIVERSITY_FACTOR].astype(np.float64) * apart[keys.OUT_OF_NETWORK_FACTOR]
        net = weighted[keys.WEIGHTED_TERMS].astype(np.float64)[:, :-1].sum(axis=1)
        clear = np.abs(net) > 1e-6  # around 0 the sign of a rounded sum is anybody's
        wanted = offset_negatives(np.where(net >= 0, m * net, net), 43.32, 367.22, 0.001)
        np.testing.assert_allclose(after[SCORE][clear], wanted[clear], rtol=1e-5, atol=1e-7)


class TestTopK:
    """The selector."""

    def test_missing_is_minus_infinity(self) -> None:
        """A missing score sorts as minus infinity, level with one that is, and not as 0."""
        table = table_of([{}, {"score": -5}, {"score": "-Infinity"}, {}, {"score": 0}])
        assert TopK().select(Query(), table, CTX).tolist() == [4, 1, 0, 2, 3]

    def test_nan_may_hold_the_top(self) -> None:
        """NaN equals every score, so it can hold the only slot; in strict semantics it is last."""
        table = table_of([{"score": "NaN"}, {"score": 1}])
        assert TopK(size=1).select(Query(), table, CTX).tolist() == [0]
        assert TopK(size=1).select(Query(), table, Context("test")).tolist() == [1]


@attrs.frozen
class Upstream:
    """A scorer under upstream semantics, whatever the context says."""

    inner: Any

    @property
    def reads(self) -> Any:
        """What the scorer reads."""
        return self.inner.reads

    @property
    def writes(self) -> Any:
        """What the scorer writes."""
        return self.inner.writes

    @property
    def listwise(self) -> bool:
        """Whether a row's answer depends on others."""
        return bool(getattr(self.inner, "listwise", False))

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Any:
        """What the scorer answers."""
        return self.inner.score(query, candidates, attrs.evolve(ctx, semantics="upstream"))


@pytest.mark.parametrize(
    "scorer",
    [
        Weighted(),
        Weighted("none"),
        AuthorDiversity(),
        OutOfNetwork(replies_and_reposts=True, topic_factor=0.5, new_user_age=dt.timedelta(days=3)),
        ColdStart(first_slot=0, end_slot=3),
        DwellRegret(),
        MultipliedNet(),
        SlateContext(),
        SlateContext(semantic=True),
        SlateContext(semantic=True, keep_stored=True),
    ],
    ids=repr,
)
def test_contract(scorer: Any) -> None:
    """Each scorer keeps what its kind promises under upstream semantics too."""
    check_component(Upstream(scorer), max_examples=25)
