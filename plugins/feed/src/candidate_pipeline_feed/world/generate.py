"""Makes a world: draws its people, posts and two days of events, and lays them out as the four tables."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_feed.actions import ACTION_CODE, CONTINUOUS, EVENT_ACTIONS, IMPRESSION
from candidate_pipeline_feed.records import Edges, Events, Items, Tables, Users
from candidate_pipeline_feed.schema import EDGE_CODE
from candidate_pipeline_feed.world.behaviour import Behaviour, act, utility
from candidate_pipeline_feed.world.exposure import Exposures, draw_exposures
from candidate_pipeline_feed.world.people import ROBIN, People, Relations, draw_people, draw_relations, settle_robin
from candidate_pipeline_feed.world.posts import HOUR_MS, Posts, draw_posts
from candidate_pipeline_feed.world.tastes import Latents, draw_latents
from candidate_pipeline_feed.world.vocabulary import LANGUAGES, vocabulary

Rows = NDArray[np.int64]

NOW: Final = dt.datetime(2026, 10, 9, 18, 0, tzinfo=dt.UTC)
"""The world's clock: a fixed evening. The last event is seconds before it."""
EVENT_HOURS: Final = 48
POST_HOURS: Final = 54
"""Posts start six hours before the first event, so that the first readers find some."""
MIN_USERS: Final = 60
MIN_POSTS: Final = 100
DWELL_RECORDED_S: Final = 2.0
"""Shorter stays leave no `dwell_time`."""


@attrs.frozen(eq=False)
class Truth:
    """What the tables were drawn from, for experiments: the best that any model could know.

    Args:
        user_factors: Reader side of the utility, by row of the users table, float64 [users, factors].
        item_factors: Post side, by row of the items table, float64 [items, factors].
        user_row: Row in the users table of each impression, int64 [impressions].
        item_row: Row in the items table of each impression, int64 [impressions].
        utility: Standardised utility of each impression, float64 [impressions].
        log_odds: Log-odds of each action on each impression, float64 [impressions].
        happened: Whether the action was drawn, bool [impressions].
    """

    user_factors: NDArray[np.float64]
    item_factors: NDArray[np.float64]
    user_row: Rows
    item_row: Rows
    utility: NDArray[np.float64]
    log_odds: Mapping[str, NDArray[np.float64]]
    happened: Mapping[str, NDArray[np.bool_]]


@attrs.frozen(eq=False)
class World:
    """A generated world.

    Args:
        tables: The four tables.
        now: Its clock.
        default_viewer: Id of the person whose feed is shown when nobody is named.
        truth: The latents behind it.
    """

    tables: Tables
    now: dt.datetime
    default_viewer: int
    truth: Truth


def generate(seed: int = 0, users: int = 1200, posts: int = 3000, impressions_per_user: float = 75.0) -> World:
    """Generate a world; the same arguments give the same world on one machine.

    Args:
        seed: Seed of everything.
        users: How many people, at least 60.
        posts: How many posts, at least 100.
        impressions_per_user: How many posts a person sees in the two days, on average.

    Raises:
        ValueError: An argument is too small.
    """
    for name, value, least in (("users", users, MIN_USERS), ("posts", posts, MIN_POSTS)):
        if value < least:
            raise ValueError(f"{name}: a world needs at least {least}, found {value}")
    if not 0 < impressions_per_user <= posts:
        raise ValueError(f"impressions_per_user: wanted more than 0 and at most {posts}, found {impressions_per_user}")
    words = vocabulary()
    now_ms = int(NOW.timestamp()) * 1000
    start_ms = now_ms - EVENT_HOURS * HOUR_MS
    # One generator a part: a change in one leaves the others' draws alone.
    streams = [np.random.default_rng([seed, part]) for part in range(6)]
    latents = draw_latents(streams[0], users, words)
    settle_robin(latents, words)
    people = draw_people(streams[1], latents, words, now_ms - POST_HOURS * HOUR_MS)
    relations = draw_relations(streams[2], latents, people, words, now_ms - POST_HOURS * HOUR_MS)
    items = draw_posts(streams[3], latents, people, words, posts, now_ms - POST_HOURS * HOUR_MS, now_ms - 60_000)
    shown = draw_exposures(streams[4], latents, people, relations, items, impressions_per_user, start_ms, now_ms)
    done = act(streams[5], latents, items, shown)
    times = _times(shown, done)
    kept = (times < now_ms - 1000) & ~_after_farewell(shown, items, done, times)
    late = _new_relations(shown, items, done, times, kept)
    tables = Tables(
        _users(people, latents, _joined(relations, late)),
        _items(items),
        _edges(_joined(relations, late)),
        _events(shown, items, done, times, kept),
    )
    truth = Truth(
        latents.reader_factors(),
        items.factors,
        shown.user[kept],
        shown.post[kept],
        utility(latents, items, shown)[kept],
        {name: odds[kept] for name, odds in done.log_odds.items()},
        {name: mask[kept] for name, mask in done.happened.items()},
    )
    return World(tables, NOW, (ROBIN if users > ROBIN else 0) + 1, truth)


def _times(shown: Exposures, done: Behaviour) -> Rows:
    """When each post was shown, in ms on whole seconds: one after the other within a session."""
    spent = np.ceil(done.dwell_s + done.click_dwell_s).astype(np.int64) + 1
    before = np.cumsum(spent) - spent
    if not len(spent):
        return before
    first = np.searchsorted(shown.session, shown.session)
    times: Rows = (-(-shown.opened // 1000) + before - before[first]) * 1000
    return times


def _after_farewell(shown: Exposures, items: Posts, done: Behaviour, times: Rows) -> NDArray[np.bool_]:
    """Impressions of an author whom the reader has blocked or muted by then."""
    after = np.zeros(len(times), dtype=np.bool_)
    authors = items.author[shown.post]
    for row in np.flatnonzero(done.happened["block_author"] | done.happened["mute_author"]):
        same = (shown.user == shown.user[row]) & (authors == authors[row])
        after |= same & (times > times[row])
    return after


def _new_relations(shown: Exposures, items: Posts, done: Behaviour, times: Rows, kept: NDArray[np.bool_]) -> Relations:
    """Edges that events made: followed, blocked or muted from a post."""
    columns: list[NDArray[np.int64]] = []
    for action, kind in (("follow_author", "follow"), ("block_author", "block"), ("mute_author", "mute")):
        rows = np.flatnonzero(done.happened[action] & kept)
        rows = rows[np.argsort(times[rows], kind="stable")]
        pairs = np.stack([shown.user[rows], items.author[shown.post[rows]]])
        _pairs, first = np.unique(pairs, axis=1, return_index=True)
        rows = rows[np.sort(first)]
        code = np.full(len(rows), EDGE_CODE[kind], dtype=np.int64)
        columns.append(np.stack([shown.user[rows], items.author[shown.post[rows]], code, times[rows]]))
    src, dst, kinds, since = np.concatenate(columns, axis=1)
    return Relations(src, dst, kinds, since)


def _joined(old: Relations, new: Relations) -> Relations:
    """Old and new relations, by person and then kind; an old one is not made again."""
    stacked = np.concatenate(
        [np.stack([part.src, part.kind, part.dst, part.created_at]) for part in (old, new)], axis=1
    )
    _keys, first = np.unique(stacked[:3], axis=1, return_index=True)
    src, kind, dst, since = stacked[:, first]
    return Relations(src, dst, kind, since)


def _optional(rows: Rows, ids: Rows) -> Any:
    """Ids of rows, masked where the row is -1."""
    return np.ma.masked_array(ids[np.maximum(rows, 0)], mask=rows < 0)


def _users(people: People, latents: Latents, relations: Relations) -> Users:
    count = len(people.names)
    follows = relations.dst[relations.kind == EDGE_CODE["follow"]]
    return Users.build(
        user_id=np.arange(1, count + 1),
        name=people.names,
        handle=people.handles,
        language=[LANGUAGES[code] for code in latents.language],
        followers_count=np.bincount(follows, minlength=count),
        created_at=people.created_at,
        muted_keywords=[words or None for words in people.muted_words],
    )


def _items(items: Posts) -> Items:
    topics = [topic.name for topic in vocabulary().topics]
    own = np.arange(len(items.author))
    return Items.build(
        item_id=items.item_id,
        author_id=items.author + 1,
        created_at=items.created_at,
        text=items.text,
        topic=[topics[code] for code in items.topic],
        reply_to=_optional(items.reply_to, items.item_id),
        conversation_id=_optional(np.where(items.root == own, -1, items.root), items.item_id),
        repost_of=_optional(items.repost_of, items.item_id),
        quote_of=_optional(items.quote_of, items.item_id),
        video_duration_ms=np.ma.masked_array(items.video_ms, mask=items.video_ms == 0),
        language=[LANGUAGES[code] for code in items.language],
        subscriber_only=items.subscriber_only,
    )


def _edges(relations: Relations) -> Edges:
    return Edges.build(
        src=relations.src + 1, dst=relations.dst + 1, kind=relations.kind, created_at=relations.created_at
    )


def _events(shown: Exposures, items: Posts, done: Behaviour, times: Rows, kept: NDArray[np.bool_]) -> Events:
    """One row per impression and action, by time, then person, then action in the order of the vocabulary."""
    amounts = {"dwell_time": done.dwell_s, "click_dwell_time": done.click_dwell_s}
    recorded = {
        **done.happened,
        IMPRESSION: np.ones(len(times), dtype=np.bool_),
        "dwell_time": done.dwell_s >= DWELL_RECORDED_S,
        "click_dwell_time": done.click_dwell_s > 0,
    }
    rows_of = {name: np.flatnonzero(mask & kept) for name, mask in recorded.items()}
    # The impression comes first, then what followed from it.
    names = sorted(rows_of, key=lambda name: (name != IMPRESSION, EVENT_ACTIONS.index(name)))
    rows = np.concatenate([rows_of[name] for name in names])
    place = np.concatenate([np.full(len(rows_of[name]), index) for index, name in enumerate(names)])
    codes = np.array([ACTION_CODE[name] for name in names], dtype=np.int16)[place]
    values = np.ma.masked_array(np.zeros(len(rows), dtype=np.float32), mask=True)
    for name in CONTINUOUS:
        chosen = codes == ACTION_CODE[name]
        values[chosen] = np.round(amounts[name][rows[chosen]], 1).astype(np.float32)
    order = np.lexsort((place, shown.post[rows], shown.user[rows], times[rows]))
    rows = rows[order]
    return Events.build(
        user_id=shown.user[rows] + 1,
        item_id=items.item_id[shown.post[rows]],
        time=times[rows],
        action=codes[order],
        value=values[order],
    )
