"""Pairs of logged events and pools of requests, with a ranker whose predictions tell what it knew."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from stakeholder_sittings import ITEMS, NOW_MS, SPEC, USERS, registry, tables, write_data

from candidate_pipeline import ITEM_ID, Captures, Context, DataError, MisconfigurationError, Query, RequestError, load
from candidate_pipeline_feed.engagements import gather
from candidate_pipeline_feed.keys import PREDICTIONS
from candidate_pipeline_feed.records import Tables
from candidate_pipeline_stakeholder.collecting import (
    collect,
    pool_from_captures,
    pool_from_outcomes,
    probabilities,
)
from candidate_pipeline_stakeholder.encounters import OVER_NEGATIVE, Rules, preferences
from candidate_pipeline_stakeholder.keys import ITEM_IDS
from candidate_pipeline_stakeholder.listed import ListedItems
from candidate_pipeline_stakeholder.logged import Settings, listing, needed_for_predictions, pairs_from_events


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory."""
    return write_data(tmp_path_factory.mktemp("pairs") / "data")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec with a ranker."""
    path = tmp_path_factory.mktemp("spec") / "pipelines.toml"
    path.write_text(SPEC)
    return path


RULES = Rules(window=dt.timedelta(seconds=20))


def made(data: Path, spec: Path, **how: Any) -> Any:
    """Pairs of the log."""
    sets = how.pop("sets", ())
    given: dict[str, Any] = {"rules": RULES, "limit": 60} | how
    return pairs_from_events(Settings(data, spec, "feed", sets), registry(), **given)


def test_features_are_what_was_known_strictly_before(data: Path, spec: Path) -> None:
    """Of every pair the ranker saw exactly the events that came strictly before the sitting, to the last one."""
    found = made(data, spec)
    events = gather(tables().events)
    pairs = found.pairs
    assert len(pairs) == 60
    assert pairs.features == ("favorite", "reply", "share", "not_interested")  # seconds are no probability
    acted = (events.actions != 0).any(axis=1)
    for row in range(len(pairs)):
        user, began = int(pairs.raters[pairs.rater[row]]), int(pairs.time[row])
        before = (events.user_id == user) & (events.time < began) & acted
        for side in (pairs.left, pairs.right):
            assert side[row, 1] == np.float32(before.sum() / 1000)
            assert side[row, 2] == np.float32(events.time[before].max() / NOW_MS)


def test_pairs_are_preferences_of_the_log(data: Path, spec: Path) -> None:
    """The preferred item of each pair is the liked one, features are the item's own, and the left side says nothing."""
    found = made(data, spec)
    pairs = found.pairs
    stated = preferences(gather(tables().events), RULES, 60, 0)
    want = set(zip(stated.user_id.tolist(), stated.time.tolist(), stated.preferred.tolist(), stated.other.tolist()))  # noqa: B905 - equal by construction
    liked = np.where(pairs.outcome > 0, pairs.left_item, pairs.right_item)
    other = np.where(pairs.outcome > 0, pairs.right_item, pairs.left_item)
    users = [int(pairs.raters[code]) for code in pairs.rater]
    assert set(zip(users, pairs.time.tolist(), liked.tolist(), other.tolist())) == want  # noqa: B905
    assert np.array_equal(pairs.left[:, 0], (pairs.left_item / ITEMS).astype(np.float32))
    assert np.array_equal(pairs.right[:, 3], ((1 + pairs.right_item % USERS) / USERS).astype(np.float32))
    assert 0.25 < (pairs.outcome > 0).mean() < 0.75
    assert found.over_negative == int((stated.kind == OVER_NEGATIVE).sum()) > 0
    assert found.complete
    assert found.requests == len(stated.requests())


def test_events_after_a_sitting_change_nothing(data: Path, spec: Path, tmp_path: Path) -> None:
    """Pairs of the first sittings are the same bits if nothing had happened since."""
    cut = 15_000_000
    until = attrs.evolve(RULES, until=dt.datetime.fromtimestamp(cut / 1000, dt.UTC))
    whole = tables()
    early = Tables(whole.users, whole.items, whole.edges, whole.events.take(whole.events.time < cut))
    one, two = (
        made(place, spec, rules=until, limit=500).pairs for place in (data, write_data(tmp_path / "early", early))
    )
    assert len(one) > 20
    for name in ("left", "right", "outcome", "time", "left_item", "right_item"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


def test_the_same_seed_gives_the_same_pairs(data: Path, spec: Path) -> None:
    """Pairs depend on data, spec and seed alone."""
    one, two, other = (made(data, spec, seed=seed, limit=20).pairs for seed in (0, 0, 1))
    assert np.array_equal(one.left, two.left)
    assert np.array_equal(one.outcome, two.outcome)
    assert not np.array_equal(one.left, other.left)


def test_chosen_features_and_stakeholder(data: Path, spec: Path) -> None:
    """Features are those asked for in that order, seconds too; one that is not served is told with those that are."""
    pairs = made(data, spec, features=("dwell_time", "favorite"), stakeholder="reader", limit=5).pairs
    assert pairs.features == ("dwell_time", "favorite")
    assert (pairs.left[:, 0] == 30).all()
    assert pairs.stakeholders == ("reader",)
    with pytest.raises(DataError, match="does not serve report; it serves favorite, reply, share"):
        made(data, spec, features=("report",))


def test_posts_without_predictions_are_left_out_and_counted(data: Path, spec: Path) -> None:
    """A pair of which a side has no prediction is left out and counted, and the others stay."""
    whole = made(data, spec, limit=500)
    item = int(whole.pairs.left_item[0])
    part = made(data, spec, limit=500, sets=(f"components.ranker.drops={item}",))
    assert part.left_out > 0
    assert len(part.pairs) + part.left_out == len(whole.pairs)
    assert item not in part.pairs.left_item
    assert item not in part.pairs.right_item


def test_interrupted(data: Path, spec: Path) -> None:
    """Ctrl-C keeps the requests that were answered; before the first one it is Ctrl-C."""

    def after(count: int) -> Any:
        def track(what: str, items: Iterable[Any], total: int | None = None) -> Iterable[Any]:
            for number, item in enumerate(items):
                if number == count:
                    raise KeyboardInterrupt
                yield item

        return track

    found = made(data, spec, track=after(3))
    assert (found.requests, found.complete) == (3, False)
    assert 0 < len(found.pairs) < 60
    with pytest.raises(KeyboardInterrupt):
        made(data, spec, track=after(0))


def test_a_log_without_preferences(data: Path, spec: Path) -> None:
    """A log that states nothing is refused with what was looked for."""
    rules = attrs.evolve(RULES, positive=("quote",))
    with pytest.raises(DataError, match=r"state no preference: within 0:00:20.* post with quote .* impression only"):
        made(data, spec, rules=rules)


def test_a_pipeline_that_predicts_nothing(data: Path, spec: Path) -> None:
    """A pipeline without a ranker is refused by name, with what it needs; an unknown pipeline too."""
    with pytest.raises(MisconfigurationError, match=r"pipeline 'unpredicted': no candidate has feed\.predictions"):
        pairs_from_events(Settings(data, spec, "unpredicted"), registry(), rules=RULES)
    with pytest.raises(MisconfigurationError, match="no pipeline named 'fed'"):
        pairs_from_events(Settings(data, spec, "fed"), registry(), rules=RULES)


def test_only_what_predictions_rest_on_runs(data: Path, spec: Path) -> None:
    """The ranker, the history that it reads and the hydrator of authors are taken; filters and the rest are not."""
    sets = ('pipelines.feed.query_hydrators=["feed.viewer", "toy.unneeded", "feed.history"]',)
    app = load(spec, data=data, sets=sets, only=(), registry=registry())
    assert [node.name for node in needed_for_predictions(app["feed"].plan)] == ["feed.history", "feed.items", "ranker"]
    assert len(made(data, spec, sets=sets, limit=5).pairs) == 5


def test_listing_scores_any_item_at_any_time(data: Path, spec: Path) -> None:
    """Listed items are scored in their order, once each, odd ones too; an item that nobody knows has no author."""
    app = load(spec, data=data, only=(), registry=registry())
    with app, listing(app, "feed") as listed:
        outcome = listed.run(1, np.array([7, 3, 7, 999]), dt.datetime.fromtimestamp(20_000, dt.UTC))
        assert outcome.item_ids.tolist() == [7, 3, 999]
        assert outcome.ranked.valid(PREDICTIONS).all()
        empty = listed.run(1, np.array([], np.int64), dt.datetime.fromtimestamp(20_000, dt.UTC))
        assert len(empty.ranked) == 0


@pytest.mark.parametrize("listed", [np.array([1.5]), np.array([[1, 2]]), np.array(["a"])])
def test_listed_items_must_be_ids(listed: Any) -> None:
    """What is no flat array of whole numbers fails the request."""
    with pytest.raises(RequestError, match="wanted ids in a flat array of whole numbers"):
        ListedItems().fetch(Query(features={ITEM_IDS: listed}), Context("listed"))


def test_unsigned_ids_keep_their_bits() -> None:
    """Ids of 64 bits without sign are the same items."""
    found = ListedItems().fetch(Query(features={ITEM_IDS: np.array([2**64 - 1], np.uint64)}), Context("listed"))
    assert found[ITEM_ID].tolist() == [-1]


def test_pool_of_outcomes_and_of_captures(data: Path, spec: Path, tmp_path: Path) -> None:
    """A pool holds every scored candidate with what was predicted, and captures give the same pool."""
    app = load(spec, data=data, registry=registry(), only=["feed"], captures=Captures(tmp_path / "caps"))
    with app:
        outcomes = [app["feed"].run_sync(viewer=viewer, request_id=f"r{viewer}", capture=True) for viewer in (3, 5)]
    pool = pool_from_outcomes(outcomes)
    assert pool.features == ("favorite", "reply", "share", "not_interested")
    assert len(pool) == ITEMS  # half of the posts, for two people
    assert (pool.item_ids % 2 == 0).all()
    assert np.array_equal(pool.values[:, 0], (pool.item_ids / ITEMS).astype(np.float32))
    assert np.array_equal(pool.author, 1 + pool.item_ids % USERS)
    assert np.array_equal(pool.score, pool.item_ids)
    for number, outcome in enumerate(outcomes):
        mine = pool.request == number
        assert set(pool.item_ids[mine & pool.selected].tolist()) == set(outcome.item_ids.tolist()) == {36, 38, 40}
    topics = [pool.groups[code] if code >= 0 else None for code in pool.group]
    assert topics == [None if item % 7 == 0 else f"t{item % 3}" for item in pool.item_ids]
    recorded = pool_from_captures(tmp_path / "caps")
    order, other = (np.lexsort((each.item_ids, each.request)) for each in (pool, recorded))
    for name in ("values", "item_ids", "request", "group", "author", "score", "selected"):
        assert np.array_equal(getattr(pool, name)[order], getattr(recorded, name)[other]), name
    assert pool_from_captures(tmp_path / "caps", ["share"]).features == ("share",)


def test_pool_needs_predictions(data: Path, spec: Path, tmp_path: Path) -> None:
    """Requests without predictions, and a folder without captures, are refused with what to do."""
    app = load(spec, data=data, registry=registry(), only=["unpredicted"], captures=Captures(tmp_path / "caps"))
    with app:
        outcome = app["unpredicted"].run_sync(viewer=3, capture=True)
    with pytest.raises(DataError, match="the pipeline needs a scorer that predicts"):
        pool_from_outcomes([outcome])
    with pytest.raises(DataError, match="the pipeline needs a scorer that predicts"):
        pool_from_captures(tmp_path / "caps")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="wanted a folder of captures, found none in it"):
        pool_from_captures(tmp_path / "empty")
    with pytest.raises(DataError, match="no such file or folder"):
        pool_from_captures(tmp_path / "nowhere")


def test_collect(data: Path, spec: Path) -> None:
    """Collected requests are named after their viewers, at the clock that is asked for; no viewer comes twice."""
    app = load(spec, data=data, registry=registry(), only=["feed"])
    with app:
        pool = collect(app["feed"], [5, 3])
        early = collect(app["feed"], [5, 3], now=dt.datetime.fromtimestamp(0, dt.UTC), features=["reply"])
        assert pool.request_ids.tolist() == [3, 5]
        assert (pool.values[:, 1] > 0).all()
        assert early.features == ("reply",)
        assert not early.values.any()
        with pytest.raises(DataError, match="wanted each viewer once"):
            collect(app["feed"], [3, 3])

        def interrupting(what: str, items: Iterable[Any], total: int | None = None) -> Iterable[Any]:
            yield 5
            raise KeyboardInterrupt

        assert collect(app["feed"], [5, 3], track=interrupting).request_ids.tolist() == [5]


def test_probabilities_are_the_default_features() -> None:
    """Heads that predict seconds are taken only where they are asked for."""
    assert probabilities(["favorite", "dwell_time", "report"]) == ("favorite", "report")
    assert probabilities(["favorite", "dwell_time"], ["dwell_time"]) == ("dwell_time",)
