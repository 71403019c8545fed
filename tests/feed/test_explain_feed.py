"""Explanations of feeds: terms that add up to the score, whatever the scorers, and filters that say why."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from explain_model import Story, furthest
from explained_feeds import HOUR_MS, NOW, NOW_MS, Feed, Semantics
from structlog.testing import capture_logs

from candidate_pipeline import Candidates, Context, Query
from candidate_pipeline.explain import Explanation
from candidate_pipeline.explain_steps import GIVEN, UNEXPLAINED, Terms
from candidate_pipeline.keys import ITEM_ID, SCORE
from candidate_pipeline.testing import run_in_virtual_time
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
from candidate_pipeline_feed.scorers.weighted import Weighted
from candidate_pipeline_feed.words import span

#: Random pipelines, by semantics.
FEEDS = 600
#: Scorers that begin anew: they do not read the score.
BEGIN = ("Weighted", "DwellRegret")


def same(found: float | None, wanted: float | None) -> bool:
    """Whether two scores are the same."""
    if found is None or wanted is None:
        return found is wanted
    return found == wanted or (math.isnan(found) and math.isnan(wanted))


def added_up(before: float | None, scorer: str, terms: list[Terms]) -> tuple[float, float]:
    """What a scorer's terms make of a score, and how far rounding to float32 may put it off."""
    total = 0.0 if before is None or scorer.startswith(BEGIN) else before
    size = abs(total)
    for part in terms:
        for amount in part.values.values():
            total = total * amount if part.factor else total + amount
            size = size * abs(amount) if part.factor else size + abs(amount)
    return total, 1e-6 * size + 1e-37


def check(found: Explanation, wanted: Story, counts: Counter[str]) -> None:
    """An explanation says what happened to a post, and its terms make up its score."""
    fate = "unselected" if wanted.fate in {"cut", "left"} else wanted.fate
    assert (found.fate, found.dropped_by, found.stage) == (fate, wanted.by, wanted.stage)
    assert found.rank == (wanted.place + 1 if fate == "selected" else None)
    assert found.refill == wanted.refill
    assert not found.reason.startswith("no reason")
    if fate == "dropped":
        assert found.reason
    else:
        assert re.match(rf"rank {wanted.rank} of {wanted.ranked} by score", found.reason)
    assert len(found.scores) == len(wanted.changes)
    steps = list(found.steps())
    for change, other in zip(found.scores, wanted.changes, strict=True):
        assert change.scorer == other.scorer
        assert same(change.before, other.before)
        assert same(change.after, other.after)
        assert (change.rank_before, change.rank_after) == (other.rank_before, other.rank_after)
        mine = [step for step in steps if step.scorer == change.scorer]
        if change.after is None or same(change.before, change.after) or not math.isfinite(change.after):
            continue
        terms = [part for part in found.terms if part.scorer == change.scorer]
        total, tolerance = added_up(change.before, change.scorer, terms)
        assert abs(total - change.after) <= tolerance, (change, terms)
        assert UNEXPLAINED not in {step.label for step in mine}
        assert mine
        assert same(mine[-1].total, change.after)
        counts[f"{change.scorer.partition('_')[0]} explained"] += 1
    check_steps(found, wanted.score)
    counts[fate] += 1


def check_steps(found: Explanation, score: float | None) -> None:
    """Each step's total follows from the one before, to the rounding of a scorer's terms, and the last is the score."""
    total: float | None = None
    size = 0.0
    for step in found.steps():
        if step.operation == "set":
            assert same(step.total, step.amount)
            size = 0.0
        else:
            amount, start = step.amount or 0.0, total or 0.0
            with np.errstate(all="ignore"):
                wanted = float(np.float64(start) + amount if step.operation == "add" else np.float64(start) * amount)
                cast = float(np.float32(wanted))
            size = max(size, abs(start), abs(amount)) if step.operation == "add" else max(size, abs(wanted))
            close = step.total is not None and abs(step.total - wanted) <= 1e-5 * size + 1e-37
            assert close or same(step.total, cast), step
        total = step.total
    assert same(total, score)
    unexplained = {step.scorer for step in found.steps() if step.label == UNEXPLAINED}
    finite = all(change.after is None or math.isfinite(change.after) for change in found.scores)
    assert not (unexplained and finite)
    assert {step.label for step in found.steps()} >= ({GIVEN} if total is not None and not found.scores else set())


@pytest.mark.parametrize("semantics", ["strict", "upstream"])
def test_every_post_of_random_feeds_is_explained(semantics: Semantics) -> None:
    """Fates, ranks and drops are those worked out by hand, and every scorer's terms add up to what it did."""
    counts: Counter[str] = Counter()
    for seed in range(FEEDS):
        feed = Feed(np.random.default_rng(seed), semantics)

        with capture_logs():
            outcome = run_in_virtual_time(feed.serve())
        stories = feed.stories(outcome)
        if semantics == "upstream" and feed.has_nan(stories):
            continue
        for item in {story.item for story in stories}:
            try:
                check(outcome.explain(item), furthest([each for each in stories if each.item == item]), counts)
            except AssertionError as error:
                error.add_note(f"seed {seed}, item {item}")
                raise
    fates = ("selected", "unselected", "dropped")
    explained = ("Weighted", "DwellRegret", "AuthorDiversity", "OutOfNetwork", "ColdStart", "MultipliedNet")
    for what in (*fates, *(f"{scorer} explained" for scorer in explained)):
        assert counts[what] > 10, counts


# Why filters drop

VIEWER: dict[Any, Any] = {
    keys.VIEWER_ID: 1,
    keys.BLOCKS: np.array([7]),
    keys.BLOCKED_BY: np.array([8]),
    keys.MUTES: np.array([9]),
    keys.SEEN_IDS: np.array([100, 200]),
    keys.SUBSCRIPTIONS: np.array([3]),
    keys.MUTED_KEYWORDS: ("spoiler", "season finale", "football"),
}
BLANK: dict[Any, list[Any]] = {
    keys.AUTHOR_ID: [5],
    keys.REPOST_OF: [None],
    keys.REPOST_AUTHOR_ID: [None],
    keys.QUOTE_AUTHOR_ID: [None],
    keys.REPLY_TO: [None],
    keys.SUBSCRIBER_ONLY: [None],
    keys.CREATED_AT: [NOW_MS],
    keys.TEXT: ["hello"],
    keys.ANCESTORS: [None],
    SCORE: [1.0],
}


def posts(ids: list[int], **cells: list[Any]) -> Candidates:
    """Posts with columns by the names of their keys, None for null."""
    rows = [{ITEM_ID: item, **{column: values[0] for column, values in BLANK.items()}} for item in ids]
    for name, values in cells.items():
        for row, value in zip(rows, values, strict=True):
            row[SCORE if name == "SCORE" else getattr(keys, name)] = value
    return Candidates.from_rows(rows)


@pytest.mark.parametrize(
    ("component", "table", "reasons"),
    [
        (
            Age(),
            posts([1, 2, 3, 4], CREATED_AT=[NOW_MS - 74 * HOUR_MS, NOW_MS - 48 * HOUR_MS - 1, None, NOW_MS + 61_000]),
            {
                1: "posted 3 d 2 h before the request; at most 48 h are kept",
                2: "posted 48 h 1 ms before the request; at most 48 h are kept",
                3: "nobody knows when it was posted",
                4: "posted 1 min 1 s after the request's clock",
            },
        ),
        (
            Age(max_age=dt.timedelta(days=7)),
            posts([1], CREATED_AT=[NOW_MS - 8 * 24 * HOUR_MS]),
            {1: "posted 8 d before the request; at most 7 d are kept"},
        ),
        (
            AlreadySeen(),
            posts([100, 2, 3, 4], REPOST_OF=[None, 200, 200, None], REPLY_TO=[None, None, 100, 100]),
            {
                100: "seen before",
                2: "it reposts post 200, which was seen before",
                3: "it reposts post 200, which was seen before",
                4: "it answers post 100, which was seen before",
            },
        ),
        (
            BlockedAuthors(),
            posts(
                [1, 2, 3, 4, 5],
                AUTHOR_ID=[7, 8, 9, 5, 9],
                REPOST_AUTHOR_ID=[None, None, None, 7, None],
                QUOTE_AUTHOR_ID=[None, None, None, None, 8],
            ),
            {
                1: "its author, 7, is blocked by the viewer",
                2: "its author, 8, blocks the viewer",
                3: "its author, 9, is muted by the viewer",
                4: "the author of the original that it reposts, 7, is blocked by the viewer",
                5: "the author of the post that it quotes, 8, blocks the viewer",
            },
        ),
        (
            CoreData(),
            posts([1, 2, 3, 4], AUTHOR_ID=[None, 0, 5, 5], TEXT=["a", "a", None, "  "]),
            {
                1: "nobody knows who posted it",
                2: "nobody knows who posted it",
                3: "it has no text",
                4: "its text is blank",
            },
        ),
        (
            DedupConversation(),
            posts([1, 2, 3], ANCESTORS=[(4,), (9, 4), None], SCORE=[1.0, 3.0, 2.0]),
            {1: "post 2 of the same conversation (4) ranked higher"},
        ),
        (
            DropDuplicates(),
            posts([1, 2, 3, 4, 5, 6, 6], REPOST_OF=[None, 1, 4, None, 4, None, None]),
            {
                2: "a repost of post 1, which came before it",
                4: "post 3, a repost of it, came before it",
                5: "a repost of post 4, as is post 3, which came before it",
                6: "the same post came before, from another source or twice from one",
            },
        ),
        (
            MutedKeywords(),
            posts([1, 2, 3], TEXT=["Spoiler!", "the SEASON finale, a spoiler", "fine"]),
            {
                1: "the text holds the muted word 'spoiler'",
                2: "the text holds the muted word 'spoiler' and the muted phrase 'season finale'",
            },
        ),
        (OwnPosts(), posts([1, 2], AUTHOR_ID=[1, 2]), {1: "the viewer, 1, posted it"}),
        (
            SubscribersOnly(),
            posts(
                [1, 2, 3, 4],
                AUTHOR_ID=[4, 3, 3, None],
                REPOST_AUTHOR_ID=[None, None, 6, None],
                SUBSCRIBER_ONLY=[True] * 4,
            ),
            {
                1: "it is for subscribers of 4, to whom the viewer does not subscribe",
                3: "it is for subscribers of 6, to whom the viewer does not subscribe",
                4: "it is for subscribers, and nobody knows of whom",
            },
        ),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "keep") else "",
)
def test_filters_say_why_with_the_values_that_decided(
    component: Any, table: Candidates, reasons: dict[int, str]
) -> None:
    """Each filter's reason names what it saw of the post and of the viewer."""
    query = Query(now=NOW, features=VIEWER)
    kept = component.keep(query, table, Context("filter"))
    said = {int(table[ITEM_ID][at]): component.reason(query, table.row(at)) for at in np.flatnonzero(~kept).tolist()}
    assert said == reasons


def test_spans_of_time() -> None:
    """The two largest units that are not 0; hours are counted on to 72, as limits are set in hours."""
    wanted = {0: "0 ms", 1: "1 ms", 1000: "1 s", 61_001: "1 min 1 s", 71 * HOUR_MS: "71 h", 72 * HOUR_MS: "3 d"}
    assert {time: span(time) for time in wanted} == wanted
    assert span(75 * HOUR_MS + 5) == "3 d 3 h"


def test_terms_that_do_not_fit_float32_are_left_out() -> None:
    """Under the published semantics a score may be infinite; its terms then stay null instead of adding up to NaN."""
    table = Candidates.of(
        ITEM_ID([1, 2]), keys.PREDICTIONS(np.array([[1e30, 1e30], [1, 1]]), labels=["favorite", "reply"])
    )
    scorer = Weighted(preset="none", weights={"favorite": 1e20, "reply": -1e20})
    update = scorer.score(Query(), table, Context("weighted", semantics="upstream"))
    table = table.patched(update)
    assert table.valid(keys.WEIGHTED_TERMS).tolist() == [False, True]
