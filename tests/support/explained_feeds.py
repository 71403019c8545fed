"""Random feed pipelines over the feed's own filters and scorers, and what must become of every post, worked by hand."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any, Literal

import attrs
import numpy as np
from explain_model import Change, Story

from candidate_pipeline import Candidates, Context, Outcome, Query, compose
from candidate_pipeline.keys import ITEM_ID, SCORE, Column, QueryFeature
from candidate_pipeline_feed import keys
from candidate_pipeline_feed.filters.age import Age
from candidate_pipeline_feed.filters.already_seen import AlreadySeen
from candidate_pipeline_feed.filters.blocked_authors import BlockedAuthors
from candidate_pipeline_feed.filters.conversations import DedupConversation
from candidate_pipeline_feed.filters.core_data import CoreData
from candidate_pipeline_feed.filters.duplicates import DropDuplicates
from candidate_pipeline_feed.filters.muted_keywords import MutedKeywords
from candidate_pipeline_feed.filters.own_posts import OwnPosts
from candidate_pipeline_feed.filters.subscriptions import SubscribersOnly
from candidate_pipeline_feed.presets import names
from candidate_pipeline_feed.scorers.author_diversity import AuthorDiversity
from candidate_pipeline_feed.scorers.cold_start import ColdStart
from candidate_pipeline_feed.scorers.dwell_regret import DwellRegret
from candidate_pipeline_feed.scorers.mpn import MultipliedNet
from candidate_pipeline_feed.scorers.out_of_network import OutOfNetwork
from candidate_pipeline_feed.scorers.slate_context import SlateContext
from candidate_pipeline_feed.scorers.weighted import Weighted
from candidate_pipeline_feed.selectors import TopK

Semantics = Literal["strict", "upstream"]

NOW = dt.datetime(2026, 5, 15, 12, tzinfo=dt.UTC)
NOW_MS = 1_778_846_400_000
HOUR_MS = 3_600_000
HEADS = ("favorite", "reply", "repost", "vqv", "dwell", "dwell_time", "not_interested", "report", "post_unexplored")
INPUTS: dict[str, QueryFeature[Any]] = {
    "viewer": keys.VIEWER_ID,
    "followers": keys.VIEWER_FOLLOWERS,
    "follows": keys.FOLLOWS,
    "seen": keys.SEEN_IDS,
    "blocks": keys.BLOCKS,
    "blocked_by": keys.BLOCKED_BY,
    "mutes": keys.MUTES,
    "subscriptions": keys.SUBSCRIPTIONS,
    "muted": keys.MUTED_KEYWORDS,
    "since": keys.VIEWER_SINCE,
    "topics": keys.REQUESTED_TOPICS,
}
FILTERS = (DropDuplicates, CoreData, Age, OwnPosts, SubscribersOnly, AlreadySeen, MutedKeywords, BlockedAuthors)


@attrs.frozen
class Posts:
    """A source of the same posts every time."""

    table: Candidates
    reads = ()

    @property
    def writes(self) -> tuple[Column[Any], ...]:
        return tuple(column for column in self.table.columns if column is not ITEM_ID)

    def fetch(self, query: Query, ctx: Context) -> Candidates:
        return self.table


@attrs.define
class Feed:
    """A random pipeline and request.

    Args:
        rng: What decides.
        semantics: The semantics.
    """

    rng: np.random.Generator
    semantics: Semantics
    table: Candidates = attrs.field(init=False)
    inputs: dict[str, Any] = attrs.field(init=False)
    filters: list[Any] = attrs.field(init=False)
    scorers: list[tuple[str, Any]] = attrs.field(init=False)
    size: int = attrs.field(init=False)
    shown: int = attrs.field(init=False)
    refills: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        rng = self.rng
        self.table = self._posts(int(rng.integers(1, 14)))
        self.inputs = {
            "viewer": 1,
            "followers": int(rng.integers(-1, 3)) * 1000,
            "follows": self._some(8),
            "seen": self._some(14, 0.1),
            "blocks": self._some(8, 0.1),
            "blocked_by": self._some(8, 0.1),
            "mutes": self._some(8, 0.1),
            "subscriptions": self._some(8),
            "muted": ("spoiler",) if self._maybe() else (),
            "since": NOW_MS - int(rng.integers(0, 20)) * 24 * HOUR_MS,
            "topics": ("cats",) if self._maybe(0.2) else (),
        }
        self.filters = [each() for each in FILTERS if self._maybe(0.25)]
        self.scorers = [(f"{type(each).__name__}_{at}", each) for at, each in enumerate(self._scorers())]
        self.size, self.shown = int(rng.integers(1, 8)), int(rng.integers(1, 6))
        self.refills = int(rng.integers(0, 3))

    def _maybe(self, chance: float = 0.5) -> bool:
        return bool(self.rng.random() < chance)

    def _pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def _some(self, below: int, share: float = 0.4) -> Any:
        return np.flatnonzero(self.rng.random(below) < share).astype(np.int64)

    def _posts(self, rows: int) -> Candidates:
        rng = self.rng
        ids = rng.permutation(np.arange(1, rows + 1))
        if self.semantics == "upstream" and self._maybe():  # which does not merge rows of one item
            ids = rng.integers(1, rows + 1, rows)

        def column(key: Column[Any], values: Any, valid: float = 0.8) -> Any:
            return key(np.asarray(values).astype(key.dtype), valid=rng.random(rows) < valid)

        heads = tuple(head for head in HEADS if self._maybe(0.7)) or ("favorite",)
        chances = rng.random((rows, len(heads))) * self._pick(1, 1, 1e-3)
        if self._maybe(0.1):
            chances[rng.integers(rows), rng.integers(len(heads))] = np.inf
        texts = np.empty(rows, np.object_)
        texts[:] = [self._pick("a cat", "Spoiler: it dies", "", "news") for _ in range(rows)]
        ancestors = np.empty(rows, np.object_)
        ancestors[:] = [tuple(rng.integers(1, 9, rng.integers(0, 3)).tolist()) for _ in range(rows)]
        start = [SCORE(rng.normal(0, 5, rows).astype(np.float32), valid=rng.random(rows) < 0.7)]
        return Candidates.of(
            ITEM_ID(ids),
            keys.PREDICTIONS(chances.astype(np.float32), valid=rng.random(rows) < 0.9, labels=heads),
            column(keys.AUTHOR_ID, rng.integers(0, 5, rows), 0.9),
            column(keys.IN_NETWORK, rng.random(rows) < 0.5),
            column(keys.CREATED_AT, NOW_MS - rng.integers(-2, 60, rows) * HOUR_MS, 0.95),
            column(keys.REPLY_TO, rng.integers(1, 14, rows), 0.3),
            column(keys.REPOST_OF, rng.integers(1, 14, rows), 0.3),
            column(keys.REPOST_AUTHOR_ID, rng.integers(0, 8, rows), 0.3),
            column(keys.QUOTE_AUTHOR_ID, rng.integers(0, 8, rows), 0.3),
            column(keys.VIDEO_DURATION_MS, rng.integers(0, 20_000, rows)),
            column(keys.AUTHOR_FOLLOWERS, rng.integers(0, 2000, rows)),
            column(keys.VIEW_COUNT, rng.integers(0, 2000, rows)),
            column(keys.SUBSCRIBER_ONLY, rng.random(rows) < 0.3),
            column(keys.MUTUAL_FOLLOW, rng.random(rows) < 0.5),
            keys.TEXT(texts, valid=rng.random(rows) < 0.9),
            keys.ANCESTORS(ancestors, valid=rng.random(rows) < 0.5),
            *(start if self._maybe(0.3) else []),
        )

    def _scorers(self) -> list[Any]:
        """Some scorers in an order that makes sense, and in some others."""
        made = [self._weighted() if self._maybe(0.8) else self._dwell_regret()]
        later: dict[str, Callable[[], Any]] = {
            "cold_start": self._cold_start,
            "again": self._cold_start,
            "slate": SlateContext,
            "diversity": self._diversity,
            "network": self._network,
            "mpn": self._mpn,
            "weighted": self._weighted,
            "dwell_regret": self._dwell_regret,
        }
        for name in self.rng.choice(list(later), self.rng.integers(0, 5)).tolist():
            if name != "mpn" or any(isinstance(each, Weighted) for each in made):
                made.append(later[name]())
        return made

    def _weighted(self) -> Weighted:
        weights = {
            head: float(self._pick(0.0, 0.5, 1.0, 13.5, -1.0, -74.0, -60_000.0))
            for head in HEADS
            if head != "dwell_time" and self._maybe()
        }
        return Weighted(
            preset=self._pick("none", *names()),
            weights=weights,
            offset=self._pick(None, 0.0, 0.1, 10.0),
            mutual_reply_boost=self._pick(None, 0.0, 3.0),
        )

    def _diversity(self) -> AuthorDiversity:
        return AuthorDiversity(
            decay=self._pick(0.0, 0.3, 0.5, 1.0),
            floor=self._pick(0.0, 0.25, 1.0),
            key=self._pick("author", "original_author"),
            negative=self._pick(None, "divide", "multiply"),
        )

    def _network(self) -> OutOfNetwork:
        return OutOfNetwork(
            factor=self._pick(1e-5, 0.5, 0.75, 1.0, 2.0),
            replies_and_reposts=self._maybe(),
            topic_factor=self._pick(None, 0.5),
            new_user_age=dt.timedelta(days=self._pick(0, 10)),
            new_user_min_following=self._pick(0, 5),
            negative=self._pick(None, "divide", "multiply"),
        )

    def _mpn(self) -> MultipliedNet:
        return MultipliedNet(diversity=self._diversity(), out_of_network=self._network())

    def _cold_start(self) -> ColdStart:
        first = int(self.rng.integers(0, 3))
        return ColdStart(first_slot=first, end_slot=first + 2, share=self._pick(0.85, 1.0), max_followers=1500)

    def _dwell_regret(self) -> DwellRegret:
        return DwellRegret(temperature=self._pick(0.0, 1.0, 10.0), dwell_floor=self._pick(-1.0, 0.0, 1.0))

    def app(self) -> Any:
        """The pipeline `feed`."""
        return compose(
            "feed",
            sources=[Posts(self.table)],
            filters=self.filters,
            scorers=self.scorers,
            selector=TopK(self.size),
            post_selection_filters=[DedupConversation()],
            inputs=INPUTS,
            result_size=self.shown,
            max_refills=self.refills,
            semantics=self.semantics,
        )

    async def serve(self) -> Outcome:
        """The outcome of the request."""
        async with self.app() as app:
            outcome: Outcome = await app["feed"].run(now=NOW, **self.inputs)
            return outcome

    def stories(self, outcome: Outcome) -> list[Story]:
        """What must become of every row, by calling the components one after another on plain tables."""
        strict, query = self.semantics == "strict", outcome.query
        table = self.table.numbered()
        stories = [Story(item, number) for number, item in enumerate(table[ITEM_ID].tolist())]
        drops = 0
        for each in self.filters:
            keep = each.keep(query, table, self._context("filter"))
            drops += 1
            self._drop(stories, table, keep, _snake(each), "filters", drops)
            table = table.take(keep)
        for name, each in self.scorers:
            known, before = SCORE in table or not strict, scores_of(table)
            update = each.score(query, table, self._context(name))
            table = table.patched(update) if strict else table.overwritten(update, each.writes)
            after = scores_of(table)
            if SCORE in each.writes:
                ranks = self._ranks(before), self._ranks(after)
                for at, number in enumerate(_numbers(table)):
                    rank = ranks[0][at] if known else None
                    change = Change(name, before[at] if known else None, after[at], rank, ranks[1][at])
                    stories[number].changes.append(change)
        for number, score, rank in zip(_numbers(table), scores_of(table), self._ranks(scores_of(table)), strict=True):
            stories[number].score, stories[number].rank, stories[number].ranked = score, rank, len(table)
        self._finish(stories, table, query, drops)
        return stories

    def _finish(self, stories: list[Story], table: Candidates, query: Query, drops: int) -> None:
        """Select, drop copies of conversations, refill, cut."""
        strict, top = self.semantics == "strict", TopK(self.size)

        def split(rows: Candidates, most: int | None) -> tuple[Candidates, Candidates]:
            index = top.select(query, rows, self._context("top_k"))[:most]
            left = np.ones(len(rows), np.bool_)
            left[index] = False
            return rows.take(index), rows.take(left)

        chosen, rest = split(table, None)
        target, round_ = min(self.shown, len(chosen)), 0
        while True:
            keep = DedupConversation().keep(query, chosen, self._context("dedup_conversation"))
            drops += 1
            self._drop(stories, chosen, keep, "dedup_conversation", "post_selection_filters", drops, round_)
            chosen = chosen.take(keep)
            if not strict or round_ == self.refills or len(chosen) >= target or not len(rest):
                break
            round_ += 1
            taken, rest = split(rest, 2 * (target - len(chosen)))
            for number in _numbers(taken):
                stories[number].refill = round_
            before = {number: at for at, number in enumerate([*_numbers(chosen), *_numbers(taken)])}
            chosen = table.take([_numbers(table).index(number) for number in before])
        for place, number in enumerate(_numbers(chosen)):
            stories[number].fate, stories[number].place = ("selected" if place < self.shown else "cut"), place
        order = self._order(scores_of(rest)) if not strict else range(len(rest))
        for place, at in enumerate(order):
            stories[_numbers(rest)[at]].place = place

    def _drop(
        self, stories: list[Story], table: Candidates, keep: Any, by: str, stage: str, drops: int, round_: int = 0
    ) -> None:
        for at, number in enumerate(_numbers(table)):
            if not keep[at]:
                story = stories[number]
                story.fate, story.by, story.stage, story.refill = "dropped", by, stage, round_
                story.place = at - 1000 * drops
                story.score = scores_of(table)[at]

    def _context(self, name: str) -> Context:
        return Context(name, 0, semantics=self.semantics)

    def _order(self, scores: Sequence[float | None]) -> list[int]:
        def key(at: int) -> tuple[int, float]:
            score = scores[at]
            if score is None:
                return (1, 0.0) if self.semantics == "strict" else (0, np.inf)
            return (2, 0.0) if np.isnan(score) else (0, -score)

        return sorted(range(len(scores)), key=key)

    def _ranks(self, scores: Sequence[float | None]) -> list[int]:
        order = self._order(scores)
        return [order.index(at) + 1 for at in range(len(scores))]

    def has_nan(self, stories: list[Story]) -> bool:
        """Whether a score is NaN, of which the published sort has no order."""
        return any(change.after is not None and np.isnan(change.after) for story in stories for change in story.changes)


def scores_of(table: Candidates) -> list[float | None]:
    """Each row's score; None: it has none."""
    if SCORE not in table:
        return [None] * len(table)
    pairs = zip(table[SCORE].tolist(), table.valid(SCORE).tolist(), strict=True)
    return [score if valid else None for score, valid in pairs]


def _numbers(table: Candidates) -> list[int]:
    assert table.numbers is not None
    return [int(number) for number in table.numbers]


def _snake(component: Any) -> str:
    name = type(component).__name__
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name).lstrip("_")
