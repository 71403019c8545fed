"""Scorers after the release of August 2026 under strict semantics, and how their terms explain scores."""

from __future__ import annotations

import datetime as dt
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candidate_pipeline import load_document
from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.keys import ITEM_ID, SCORE, Column
from candidate_pipeline.patches import ColumnUpdate
from candidate_pipeline.plugin import Plugin
from candidate_pipeline.query import Query
from candidate_pipeline.registry import Registry
from candidate_pipeline.spec.document import Document
from candidate_pipeline.testing import candidates, check_component
from candidate_pipeline_feed import keys
from candidate_pipeline_feed.keys import PREDICTIONS
from candidate_pipeline_feed.plugin import candidate_pipeline_plugin
from candidate_pipeline_feed.scorers.author_diversity import AuthorDiversity
from candidate_pipeline_feed.scorers.cold_start import ColdStart
from candidate_pipeline_feed.scorers.dwell_regret import DwellRegret
from candidate_pipeline_feed.scorers.mpn import MultipliedNet
from candidate_pipeline_feed.scorers.out_of_network import OutOfNetwork
from candidate_pipeline_feed.scorers.slate_context import SlateContext, gaps, prefixes
from candidate_pipeline_feed.scorers.weighted import Weighted

NAN = float("nan")
COLD_START_READS = [key for key in ColdStart().reads if isinstance(key, Column)]


def posts(rows: int, **columns: list[Any]) -> Candidates:
    """Posts with columns by the names of their keys, None for null; `score` and `favorite` are short names."""
    updates: list[ColumnUpdate] = [ITEM_ID(np.arange(1, rows + 1))]
    for name, cells in columns.items():
        there = np.array([cell is not None for cell in cells], np.bool_)
        if name == "favorite":
            chances = np.array([[0 if cell is None else cell] for cell in cells], np.float32).reshape(rows, 1)
            updates.append(PREDICTIONS(chances, valid=there, labels=[name]))
            continue
        column = SCORE if name == "score" else getattr(keys, name)
        array = column.blank(rows)
        for at, cell in enumerate(cells):
            if cell is not None:
                array[at] = cell
        updates.append(column(array, valid=there))
    return Candidates.of(*updates)


def run(table: Candidates, *scorers: Any, ctx: Context | None = None) -> Candidates:
    """The table after scorers, one after another."""
    for scorer in scorers:
        table = table.patched(scorer.score(Query(), table, ctx or Context("test")))
    return table


def cells_of(table: Candidates, column: Column[Any] = SCORE) -> list[Any]:
    """A column's cells, None for none."""
    return [row[column] for row in table]


class TestDwellRegret:
    """Seconds on screen, raised by engagement and lowered by regret."""

    def test_unscored_posts_are_out_of_the_means(self) -> None:
        """A post without predictions has no score and does not lower the means of the others."""
        both = posts(2, favorite=[0.3, 0.1])
        table = run(posts(3, favorite=[0.3, None, 0.1]), DwellRegret(temperature=1))
        assert table.valid(SCORE).tolist() == [True, False, True]
        assert table[SCORE][[0, 2]].tolist() == run(both, DwellRegret(temperature=1))[SCORE].tolist()

    def test_infinite_predictions_hurt_only_their_post(self) -> None:
        """An infinite prediction leaves its post without a score and the others with theirs."""
        table = run(posts(3, favorite=[0.3, np.inf, 0.1]), DwellRegret(temperature=1))
        assert table.valid(SCORE).tolist() == [True, False, True]
        assert table[SCORE][0] == pytest.approx(2 / (1 + np.exp(-0.5)))

    def test_parts_multiply_to_the_score(self) -> None:
        """Seconds times the two factors are the score."""
        table = run(posts(2, favorite=[0.3, 0.1]), DwellRegret())
        product = table[keys.DWELL_REGRET_SECONDS] * table[keys.DWELL_REGRET_FACTORS].prod(axis=1)
        np.testing.assert_allclose(product, table[SCORE], rtol=1e-6)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"alphas": {"favourite": 1.0}}, "alphas: no 'favourite' here .did you mean 'favorite'"),
            ({"weights": {"favorite": 1.0}}, "weights: no 'favorite' here.*not_interested"),
            ({"alphas": {"reply": NAN}}, "alphas.reply: wanted a finite number"),
        ],
    )
    def test_wrong_options(self, options: dict[str, Any], message: str) -> None:
        """An unknown action, or a weight that is no number, says what was wanted."""
        with pytest.raises(MisconfigurationError, match=message):
            DwellRegret(**options)


class TestColdStart:
    """One post that few have seen is raised."""

    def test_unscored_and_nan_have_no_place(self) -> None:
        """Posts without a score, or with NaN, are neither raised nor counted for the place."""
        table = posts(
            5,
            score=[None, NAN, 3.0, 2.0, 1.0],
            AUTHOR_FOLLOWERS=[1, 1, None, None, 1],
            VIEW_COUNT=[1] * 5,
            REPLY_TO=[None] * 5,
            REPOST_OF=[None] * 5,
        )
        after = run(table, ColdStart(first_slot=1, end_slot=2, share=1.0))
        assert cells_of(after)[2:] == [3, 2, 2]
        assert np.isnan(cells_of(after)[1])
        assert cells_of(after)[0] is None
        assert cells_of(after, keys.COLD_START_TERMS)[2:] == [0, 0, 1]
        beyond = run(table, ColdStart(first_slot=3, end_slot=4, share=1.0))
        assert cells_of(beyond)[2:] == [3, 2, 1]

    def test_an_empty_range_of_places(self) -> None:
        """The range of places must not be empty."""
        with pytest.raises(MisconfigurationError, match=r"end_slot: wanted more than first_slot \(15\), found 15"):
            ColdStart(end_slot=15)

    @settings(max_examples=80, deadline=None)
    @given(table=candidates(*COLD_START_READS), seed=st.integers(0, 9))
    def test_raises_at_most_one(self, table: Candidates, seed: int) -> None:
        """At most one score changes, and only upwards."""
        after = run(table, ColdStart(first_slot=0, end_slot=4), ctx=Context("test", seed=seed))
        scored = table.valid(SCORE)
        change = after[SCORE][scored] - table[SCORE][scored]
        assert (change >= 0).all()
        assert (change != 0).sum() <= 1


class TestMultipliedNet:
    """Multipliers on the weighted sum."""

    def test_unscored_posts_stay_unscored(self) -> None:
        """A post without predictions has no score before and after, and does not count for its author."""
        table = posts(3, favorite=[None, 0.4, 0.2], AUTHOR_ID=[1, 1, 1], IN_NETWORK=[True, True, False])
        after = run(table, Weighted(), MultipliedNet())
        assert cells_of(after) == [None, pytest.approx(0.201), pytest.approx(0.1 * 0.625 * 0.75 + 0.001)]
        assert cells_of(after, keys.MPN_MULTIPLIER) == [None, 1, pytest.approx(0.625 * 0.75)]

    def test_options(self) -> None:
        """Both rules take their own options."""
        scorer = MultipliedNet(AuthorDiversity(floor=1.0), OutOfNetwork(factor=0.5))
        table = posts(2, favorite=[0.4, 0.2], AUTHOR_ID=[1, 1], IN_NETWORK=[True, False])
        assert cells_of(run(table, Weighted(), scorer)) == pytest.approx([0.201, 0.051])

    def test_without_terms(self) -> None:
        """Posts whose terms nobody wrote keep their score."""
        table = posts(1, score=[0.4], AUTHOR_ID=[1], IN_NETWORK=[False]).with_null([keys.WEIGHTED_TERMS], 0)
        assert cells_of(run(table, MultipliedNet())) == pytest.approx([0.4])


class TestSlateContext:
    """Where posts stand before diversity."""

    def test_unscored_and_authorless_posts(self) -> None:
        """A post without a score has no context and takes no place; one without an author only a place."""
        table = posts(5, score=[0.1, None, 0.3, NAN, 0.2], AUTHOR_ID=[1, 1, 1, 1, None])
        after = run(table, SlateContext())
        assert cells_of(after, keys.SLATE_POOL_RANK) == [2, None, 0, None, 1]
        assert cells_of(after, keys.SLATE_AUTHOR_RANK) == [1, None, 0, None, None]
        assert cells_of(after, keys.SLATE_AUTHOR_GAP) == [2, None, None, None, None]
        assert cells_of(after, keys.SLATE_SCORE) == [
            pytest.approx(0.1),
            None,
            pytest.approx(0.3),
            None,
            pytest.approx(0.2),
        ]

    def test_changes_no_score(self) -> None:
        """Scores stay."""
        table = posts(2, score=[0.1, 0.2], AUTHOR_ID=[1, 1])
        assert SCORE not in SlateContext().writes
        assert cells_of(run(table, SlateContext())) == cells_of(table)

    def test_stored_contexts_stay(self) -> None:
        """Only posts that came without a context get one, and those that came with one keep their nulls."""
        table = posts(
            3,
            score=[0.3, 0.2, 0.1],
            AUTHOR_ID=[1, 1, 1],
            SLATE_POOL_RANK=[9, None, None],
            SLATE_AUTHOR_RANK=[7, None, None],
            SLATE_AUTHOR_GAP=[None] * 3,
            SLATE_SCORE=[0.9, None, None],
        )
        after = run(table, SlateContext(keep_stored=True))
        assert cells_of(after, keys.SLATE_POOL_RANK) == [9, 1, 2]
        assert cells_of(after, keys.SLATE_AUTHOR_RANK) == [7, 1, 2]
        assert cells_of(after, keys.SLATE_AUTHOR_GAP) == [None, 1, 1]

    @given(st.lists(st.integers(0, 3), max_size=20))
    def test_gaps(self, given_keys: list[int]) -> None:
        """Gaps found in one go agree with gaps found one by one."""
        wanted = []
        for at, key in enumerate(given_keys):
            before = [place for place in range(at) if given_keys[place] == key]
            wanted.append(at - before[-1] if before else 0)
        assert gaps(np.array(given_keys, np.int64)).tolist() == wanted

    def test_prefixes(self) -> None:
        """A prefix is made of 20 bits a level, and is there if every code of it is."""
        codes = np.array([[1, 2, 3], [1, 2, -1], [2**20, 0, 0], [2**20 - 1, 2**20 - 1, 2**20 - 1]], np.int64)
        packed, there = prefixes(codes, 3)
        assert there.tolist() == [True, False, False, True]
        assert packed[[0, 3]].tolist() == [(1 << 40) + (2 << 20) + 3, 2**60 - 1]
        assert prefixes(codes, 2)[1].tolist() == [True, True, False, True]


SPEC = """
schema = 1
[pipelines.p]
semantics = "%s"
inputs = { followers = "feed.viewer_followers" }
sources = ["static"]
scorers = ["feed.weighted", "mpn"]
selector = "feed.top_k"
[components.static]
use = "test.static"
[components.mpn]
use = "feed.mpn"
diversity = { decay = 0.8, floor = 0.1 }
out_of_network = { factor = 0.5, negative = "divide" }
"""


@attrs.frozen
class Static:
    """A source of three posts by one author, the last without predictions."""

    reads = ()
    writes = (
        PREDICTIONS,
        keys.AUTHOR_ID,
        keys.IN_NETWORK,
        keys.VIDEO_DURATION_MS,
        keys.MUTUAL_FOLLOW,
        keys.REPLY_TO,
        keys.REPOST_OF,
    )

    def fetch(self, query: Query, ctx: Context) -> Candidates:
        """The posts."""
        names = ("VIDEO_DURATION_MS", "MUTUAL_FOLLOW", "REPLY_TO", "REPOST_OF")
        columns: dict[str, list[Any]] = {name: [None] * 3 for name in names}
        return posts(3, favorite=[0.4, 0.2, None], AUTHOR_ID=[1, 1, 1], IN_NETWORK=[True, False, True], **columns)


@pytest.mark.parametrize(("semantics", "last"), [("strict", None), ("upstream", 0.001)])
def test_from_toml(semantics: str, last: float | None) -> None:
    """Nested options and the pipeline's semantics reach the scorers; an unscored post scores the offset upstream."""
    registry = Registry([candidate_pipeline_plugin(), Plugin("test", components={"source": {"static": Static}})])
    with load_document(Document(SPEC % semantics), registry=registry) as app:
        outcome = app["p"].run_sync(followers=3)
    second = 0.1 * (0.9 * 0.8 + 0.1) * 0.5 + 0.001
    assert cells_of(outcome.selected) == [pytest.approx(0.201), pytest.approx(second), last and pytest.approx(last)]


def explained(table: Candidates, row: int, scorers: list[Any]) -> float:
    """A score put together from its terms, scorer by scorer: addends add, factors multiply."""
    total = 0.0
    for scorer in scorers:
        for column in sorted((key for key in scorer.writes if isinstance(key, Column)), key=lambda key: key.factor):
            if column.terms_of is SCORE and table.valid(column)[row]:
                cell = np.atleast_1d(table[column][row]).astype(np.float64)
                total = total * float(cell.prod()) if column.factor else total + float(cell.sum())
    return total


CHAINS: list[list[Any]] = [
    [Weighted(), ColdStart(first_slot=1, end_slot=3, share=1.0), AuthorDiversity(), OutOfNetwork()],
    [Weighted(), MultipliedNet(), ColdStart(first_slot=1, end_slot=3, share=1.0)],
    [DwellRegret(), SlateContext(), AuthorDiversity(), OutOfNetwork(replies_and_reposts=True)],
]


@pytest.mark.parametrize("semantics", ["strict", "upstream"])
@pytest.mark.parametrize("chain", CHAINS, ids=["plain", "mpn", "dwell_regret"])
def test_terms_explain_scores(chain: list[Any], semantics: Any) -> None:
    """Addends summed and factors multiplied in the order of the scorers give the final score."""
    own = {key for scorer in chain for key in scorer.writes}
    columns = [key for scorer in chain for key in scorer.reads if isinstance(key, Column) and key not in own]

    @settings(max_examples=40, deadline=None)
    @given(table=candidates(*dict.fromkeys(columns)))
    def check(table: Candidates) -> None:
        after = run(table, *chain, ctx=Context("test", semantics=semantics))
        for row in np.flatnonzero(after.valid(SCORE)):
            assert explained(after, int(row), chain) == pytest.approx(float(after[SCORE][row]), rel=1e-4, abs=1e-4)

    check()


@pytest.mark.parametrize(
    "scorer",
    [
        ColdStart(first_slot=0, end_slot=3),
        ColdStart(first_slot=0, end_slot=1, share=1.0, max_age=dt.timedelta(hours=24)),
        DwellRegret(),
        DwellRegret(temperature=0.0, dwell_floor=-1.0),
        MultipliedNet(),
        SlateContext(),
        SlateContext(semantic=True, keep_stored=True),
    ],
    ids=repr,
)
def test_contract(scorer: Any) -> None:
    """Each scorer keeps what its kind promises."""
    check_component(scorer, max_examples=40)
