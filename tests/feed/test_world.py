"""The generated world: deterministic, readable, with the base rates it promises, and with something to learn."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from candidate_pipeline_feed.actions import ACTION_CODE, DWELL_MARK_S
from candidate_pipeline_feed.datadir import bundled_world
from candidate_pipeline_feed.engagements import Engagements, gather
from candidate_pipeline_feed.schema import EDGE_CODE
from candidate_pipeline_feed.tables import check_tables, read_tables
from candidate_pipeline_feed.world import NOW, World, build_world, generate
from candidate_pipeline_feed.world.behaviour import DRIVES, MIN_VIDEO_MS, calibrated
from candidate_pipeline_feed.world.posts import SNOWFLAKE_EPOCH_MS, snowflakes
from candidate_pipeline_feed.world.vocabulary import LANGUAGES, vocabulary

NOW_MS = int(NOW.timestamp() * 1000)
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def world() -> World:
    """A world of the bundled size."""
    return generate(seed=7)


@pytest.fixture(scope="module")
def log(world: World) -> Engagements:
    """Its events, gathered."""
    return gather(world.tables.events)


def auroc(score: NDArray[np.float64], happened: NDArray[np.bool_]) -> float:
    """Area under the ROC curve by mid-ranks; scores and labels of shape [n]."""
    values, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    assert len(values) > 1
    positives = int(happened.sum())
    return float((ranks[happened].sum() - positives * (positives + 1) / 2) / (positives * (len(score) - positives)))


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    """Expect two builds to agree in every byte, and another seed to give another world."""
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        build_world(tmp_path / name, seed=seed, users=80, posts=150, impressions_per_user=12)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "abc"]
    assert set(files[0]) == {"users.parquet", "items.parquet", "edges.parquet", "events.parquet", "dataset.toml"}
    assert files[0] == files[1]
    assert files[0]["events.parquet"] != files[2]["events.parquet"]


def test_the_bundled_world_is_what_the_generator_makes() -> None:
    """Expect the files that ship to hold the tables that the generator makes today."""
    from candidate_pipeline_feed.world.build import (
        BUNDLED_IMPRESSIONS_PER_USER,
        BUNDLED_POSTS,
        BUNDLED_SEED,
        BUNDLED_USERS,
    )

    made = generate(BUNDLED_SEED, BUNDLED_USERS, BUNDLED_POSTS, BUNDLED_IMPRESSIONS_PER_USER).tables
    found = read_tables(bundled_world())
    for ours, theirs in zip(found.all(), made.all(), strict=True):
        assert len(ours) == len(theirs), ours.spec.name
    assert found.equals(made)


@pytest.mark.parametrize("seed", range(4))
def test_a_world_of_any_seed_is_valid(seed: int) -> None:
    """Expect small worlds, those with the fewest people too, to keep every rule of the format."""
    check_tables(generate(seed, users=60 + 40 * seed, posts=100 + 90 * seed, impressions_per_user=8).tables)


def test_too_small_a_world_is_refused() -> None:
    """Expect sizes that make no sense to be named."""
    with pytest.raises(ValueError, match="users: a world needs at least 60, found 3"):
        generate(users=3)
    with pytest.raises(ValueError, match="impressions_per_user: wanted more than 0"):
        generate(users=60, posts=100, impressions_per_user=0)


@pytest.mark.parametrize("action", DRIVES)
def test_base_rates_are_as_promised(action: str, log: Engagements) -> None:
    """Expect each action on its share of impressions: within 10%, or four binomial standard errors where rare."""
    rate = DRIVES[action].rate
    found = float(log.actions[:, log.labels.index(action)].mean())
    assert abs(found - rate) <= max(0.1 * rate, 4 * np.sqrt(rate * (1 - rate) / len(log)))


def test_the_promised_rates_are_the_published_ones() -> None:
    """Expect the base rates of the August 2026 synthetic world, and ours for the negative actions."""
    rates = {name: drive.rate for name, drive in DRIVES.items()}
    published = {"favorite": 0.14, "click": 0.10, "vqv": 0.08, "repost": 0.045, "reply": 0.035, "bookmark": 0.02}
    ours = {"not_interested": 0.004, "mute_author": 0.001, "block_author": 0.001, "report": 0.0005}
    assert rates | published | ours | {"quote": 0.015, "share": 0.012} == rates


@settings(max_examples=50, deadline=None)
@given(rate=st.floats(0.001, 0.4), spread=st.floats(0.0, 4.0), possible=st.floats(0.5, 1.0), seed=st.integers(0, 2**32))
def test_calibration_meets_its_rate(rate: float, spread: float, possible: float, seed: int) -> None:
    """Expect the intercept to give the wanted mean probability, rows that cannot happen counted as zeros."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(scale=spread, size=200)
    odds[rng.random(200) > possible] = -np.inf
    if np.isfinite(odds).mean() > rate + 0.01:
        assert (1 / (1 + np.exp(-(odds + calibrated(odds, rate))))).mean() == pytest.approx(rate, abs=1e-9)


def test_tastes_explain_favourites_far_better_than_popularity(world: World) -> None:
    """Expect the hidden utility to order favourites well above what a post's popularity can."""
    truth = world.truth
    liked = truth.happened["favorite"]
    posts = len(world.tables.items)
    shown = np.bincount(truth.item_row, minlength=posts)[truth.item_row] - 1
    others = np.bincount(truth.item_row, weights=liked, minlength=posts)[truth.item_row] - liked
    popularity = auroc((others + 0.7) / (shown + 5.0), liked)  # the rate among everybody else, shrunk
    tastes = auroc(truth.utility, liked)
    best = auroc(truth.log_odds["favorite"], liked)
    assert tastes > 0.80
    assert best >= tastes - 0.01
    assert popularity < 0.68
    assert auroc(-truth.utility, truth.happened["not_interested"]) > 0.70


def test_authors_and_history_reveal_tastes(world: World, log: Engagements) -> None:
    """Expect what the tables show, topic shares of earlier favourites, to order later favourites above popularity."""
    items = world.tables.items
    topics = sorted(set(items.topic.tolist()))
    order = np.argsort(items.item_id)
    rows = order[np.searchsorted(items.item_id[order], log.item_id)]
    topic = np.array([topics.index(name) for name in items.topic])[rows]
    liked = log.actions[:, log.labels.index("favorite")] > 0
    early = log.time < NOW_MS - 16 * HOUR_MS
    users = len(world.tables.users)
    shape = (users + 1, len(topics))
    seen, likes = np.zeros(shape), np.zeros(shape)
    np.add.at(seen, (log.user_id[early], topic[early]), 1.0)
    np.add.at(likes, (log.user_id[early], topic[early]), liked[early])
    affinity = (likes + 0.5) / (seen + 4.0)
    later = ~early
    assert auroc(affinity[log.user_id[later], topic[later]], liked[later]) > 0.68


def test_ids_tell_the_time(world: World) -> None:
    """Expect unique ids whose upper bits are the time of creation, and posts in the order of time."""
    items = world.tables.items
    np.testing.assert_array_equal((items.item_id >> 22) + SNOWFLAKE_EPOCH_MS, items.created_at)
    assert (np.diff(items.created_at) >= 0).all()
    assert len(set(items.item_id.tolist())) == len(items)


@given(times=st.lists(st.integers(SNOWFLAKE_EPOCH_MS, SNOWFLAKE_EPOCH_MS + 9), min_size=1, max_size=40))
def test_ids_of_one_millisecond_differ(times: list[int]) -> None:
    """Expect posts of the same millisecond to get different ids with the same time in them."""
    made = snowflakes(np.random.default_rng(0), np.array(sorted(times), dtype=np.int64))
    assert len(set(made.tolist())) == len(times)
    assert ((made >> 22) + SNOWFLAKE_EPOCH_MS).tolist() == sorted(times)


def test_events_fill_two_days_before_the_clock(world: World, log: Engagements) -> None:
    """Expect the first event some two days before the clock, the last just before it, none before its post."""
    assert NOW_MS - 48 * HOUR_MS <= log.time.min() < NOW_MS - 46 * HOUR_MS
    assert NOW_MS - HOUR_MS // 4 < log.time.max() < NOW_MS
    items = world.tables.items
    created = dict(zip(items.item_id.tolist(), items.created_at.tolist(), strict=True))
    assert all(created[item] <= time for item, time in zip(log.item_id.tolist(), log.time.tolist(), strict=True))
    assert items.created_at.max() < NOW_MS
    assert log.impression.all()


def test_nobody_sees_a_post_twice_nor_what_they_shut_out(world: World, log: Engagements) -> None:
    """Expect no repeated, own, blocked or muted posts, and posts for subscribers only with those who subscribe."""
    tables = world.tables
    pairs = np.stack([log.user_id, log.item_id])
    assert np.unique(pairs, axis=1).shape[1] == len(log)
    items = tables.items
    row_of = {item: row for row, item in enumerate(items.item_id.tolist())}
    rows = np.array([row_of[item] for item in log.item_id.tolist()])
    author = items.author_id[rows]
    assert (author != log.user_id).all()
    edges = tables.edges
    for kind in ("block", "mute"):
        shut = edges.kind == EDGE_CODE[kind]
        since = dict(
            zip(
                zip(edges.src[shut].tolist(), edges.dst[shut].tolist(), strict=True),
                edges.created_at[shut].tolist(),
                strict=True,
            )
        )
        for reader, writer, time in zip(log.user_id.tolist(), author.tolist(), log.time.tolist(), strict=True):
            assert time <= since.get((reader, writer), NOW_MS)
    paying = edges.kind == EDGE_CODE["subscribe"]
    subscribed = set(zip(edges.src[paying].tolist(), edges.dst[paying].tolist(), strict=True))
    exclusive = items.subscriber_only[rows]
    assert exclusive.any()
    readers = zip(log.user_id[exclusive].tolist(), author[exclusive].tolist(), strict=True)
    assert all(pair in subscribed for pair in readers)


def test_relations_made_by_events_are_edges(world: World, log: Engagements) -> None:
    """Expect whoever followed, blocked or muted from a post to have that edge from then on."""
    tables = world.tables
    author = dict(zip(tables.items.item_id.tolist(), tables.items.author_id.tolist(), strict=True))
    edges = {
        (src, dst, kind): since
        for src, dst, kind, since in zip(
            tables.edges.src.tolist(),
            tables.edges.dst.tolist(),
            tables.edges.kind.tolist(),
            tables.edges.created_at.tolist(),
            strict=True,
        )
    }
    for action, kind in (("follow_author", "follow"), ("block_author", "block"), ("mute_author", "mute")):
        done = np.flatnonzero(log.actions[:, log.labels.index(action)])
        assert len(done) > 20
        for row in done.tolist():
            key = (int(log.user_id[row]), author[int(log.item_id[row])], EDGE_CODE[kind])
            assert edges[key] <= log.time[row]


def test_conversations_reposts_and_quotes_hang_together(world: World) -> None:
    """Expect parents and originals in the table and earlier, one root a conversation, and the original's text."""
    items = world.tables.items
    row_of = {item: row for row, item in enumerate(items.item_id.tolist())}
    for column in ("reply_to", "repost_of", "quote_of", "conversation_id"):
        rows = np.flatnonzero(items.is_valid(column))
        targets = np.array([row_of[item] for item in items.column(column)[rows].tolist()])
        assert len(rows) > 50
        assert (items.created_at[targets] < items.created_at[rows]).all()
    np.testing.assert_array_equal(items.is_valid("reply_to"), items.is_valid("conversation_id"))
    deeper = 0
    for row in np.flatnonzero(items.is_valid("reply_to")).tolist():
        parent = row_of[int(items.reply_to[row])]
        root = int(items.conversation_id[parent]) if items.is_valid("reply_to")[parent] else int(items.reply_to[row])
        deeper += root != items.reply_to[row]
        assert items.conversation_id[row] == root
    assert deeper > 20
    for row in np.flatnonzero(items.is_valid("repost_of")).tolist():
        original = row_of[int(items.repost_of[row])]
        assert items.text[row].endswith(items.text[original])
        assert items.topic[row] == items.topic[original]


def test_videos_and_dwell_are_consistent(world: World, log: Engagements) -> None:
    """Expect quality views only of long enough videos, and the dwell mark exactly from ten seconds on."""
    items = world.tables.items
    duration = dict(zip(items.item_id.tolist(), items.video_duration_ms.tolist(), strict=True))
    viewed = log.actions[:, log.labels.index("vqv")] > 0
    assert all(duration[item] >= MIN_VIDEO_MS for item in log.item_id[viewed].tolist())
    dwelled = log.actions[:, log.labels.index("dwell")] > 0
    stayed = log.seconds[:, 0]
    assert (stayed[dwelled] >= DWELL_MARK_S).all()
    assert (stayed[~dwelled] <= DWELL_MARK_S).all()
    assert 0.15 < dwelled.mean() < 0.4


def test_texts_are_readable_and_varied(world: World) -> None:
    """Expect sixteen topics, no open slots, capitals, hashtags, mentions of people, and mostly different texts."""
    items, users = world.tables.items, world.tables.users
    assert len(vocabulary().topics) == 16
    assert len(set(items.topic.tolist())) == 16
    handles = set(users.handle.tolist())
    assert len(handles) == len(users)
    assert len(set(items.text.tolist())) > 0.85 * len(items)
    assert set(items.language.tolist()) == set(LANGUAGES)
    tagged = 0
    for text in items.text:
        assert 8 <= len(text) <= 280
        assert not set("{}") & set(text)
        assert text[0].isupper() or text[0] in "@¿¡" or text[0].isdigit()
        assert set(re.findall(r"(?<=@)\w+", text)) <= handles
        tagged += "#" in text
    assert 0.2 < tagged / len(items) < 0.6


def test_people_follow_what_they_like(world: World) -> None:
    """Expect follows to go to authors with a higher mean utility than authors at large, and counts to be right."""
    tables, truth = world.tables, world.truth
    authors, rows = np.unique(tables.items.author_id, return_inverse=True)
    factors = np.zeros((len(authors), truth.item_factors.shape[1]))
    np.add.at(factors, rows, truth.item_factors)
    factors /= np.bincount(rows)[:, None]
    utility = truth.user_factors @ factors.T
    follows = tables.edges.kind == EDGE_CODE["follow"]
    known = follows & np.isin(tables.edges.dst, authors)
    chosen = utility[tables.edges.src[known] - 1, np.searchsorted(authors, tables.edges.dst[known])]
    assert chosen.mean() > utility.mean() + 0.5 * utility.std()
    counted = np.bincount(tables.edges.dst[follows], minlength=len(tables.users) + 1)[1:]
    np.testing.assert_array_equal(counted, tables.users.followers_count)


def test_the_default_viewer_has_something_of_everything(world: World, log: Engagements) -> None:
    """Expect a rich history, follows, blocks, mutes, and muted words that posts by others really hold."""
    tables, viewer = world.tables, world.default_viewer
    row = viewer - 1
    assert tables.users.user_id[row] == viewer
    assert tables.users.handle[row] == "robin"
    mine = log.user_id == viewer
    assert mine.sum() >= 100
    assert log.actions[mine, log.labels.index("favorite")].sum() >= 12
    own = tables.edges.src == viewer
    for kind, least in (("follow", 20), ("block", 1), ("mute", 1)):
        assert (own & (tables.edges.kind == EDGE_CODE[kind])).sum() >= least
    for word in tables.users.muted_keywords[row]:
        holding = [bool(re.search(rf"\b{word}\b", text, re.IGNORECASE)) for text in tables.items.text]
        assert sum(holding) >= 3
        assert not set(log.item_id[mine].tolist()) & set(tables.items.item_id[np.array(holding)].tolist())


def test_impressions_are_rows_of_their_own(world: World) -> None:
    """Expect one impression row per event, and amounts exactly on the continuous actions."""
    events = world.tables.events
    shown = events.action == ACTION_CODE["impression"]
    assert shown.sum() == len(world.truth.user_row)
    amounts = np.isin(events.action, [ACTION_CODE["dwell_time"], ACTION_CODE["click_dwell_time"]])
    np.testing.assert_array_equal(events.is_valid("value"), amounts)
    assert (np.diff(events.time) >= 0).all()
