"""Which of two logged posts was preferred: against a plain reading of the rules."""

from __future__ import annotations

import datetime as dt
import itertools
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.engagements import Engagements, gather
from candidate_pipeline_feed.records import Events
from candidate_pipeline_stakeholder.encounters import (
    OVER_IMPRESSION,
    OVER_NEGATIVE,
    Preferences,
    Rules,
    preferences,
)

QUICK = settings(max_examples=150, deadline=None)
ACTIONS = ("impression", "favorite", "not_interested", "click", "dwell_time", "report", "share")
Row = tuple[int, int, int, str]


def log(rows: list[Row]) -> Engagements:
    """Events of (user, item, ms, action)."""
    return gather(
        Events.build(
            user_id=[user for user, _, _, _ in rows],
            item_id=[item for _, item, _, _ in rows],
            time=[time for _, _, time, _ in rows],
            action=[action for _, _, _, action in rows],
            value=[1.0 if action == "dwell_time" else None for _, _, _, action in rows],
        )
    )


def stated(found: Preferences) -> set[tuple[int, int, int, int, int]]:
    """Preferences as a set of user, time, preferred, other, kind."""
    return set(
        zip(
            *(each.tolist() for each in (found.user_id, found.time, found.preferred, found.other, found.kind)),
            strict=True,
        )
    )


def expected(rows: list[Row], rules: Rules) -> set[tuple[int, int, int, int, int]]:
    """Every preference that the rules state, read off one person and one window at a time."""
    length = rules.window // dt.timedelta(milliseconds=1)
    found = set()
    for user in {row[0] for row in rows}:
        mine = [row for row in rows if row[0] == user]
        first = min(row[2] for row in mine)
        windows = defaultdict(list)
        for row in mine:
            windows[(row[2] - first) // length].append(row)
        for inside in windows.values():
            began = min(row[2] for row in inside)
            acted = {(r[1], r[2]) for r in mine if r[2] < began and r[3] not in {"impression", "dwell_time"}}
            since = None if rules.since is None else rules.since.timestamp() * 1000
            until = None if rules.until is None else rules.until.timestamp() * 1000
            if len(acted) < rules.min_history or (since and began < since) or (until and began >= until):
                continue
            did = defaultdict(set)
            for _, item, _, action in inside:
                did[item].add(action)
            for one, other in itertools.permutations(did, 2):
                if not did[one] & set(rules.positive) or did[one] & set(rules.negative):
                    continue
                if did[other] & set(rules.negative) and not did[other] & set(rules.positive):
                    found.add((user, began, one, other, OVER_NEGATIVE))
                elif rules.impressions and did[other] == {"impression"}:
                    found.add((user, began, one, other, OVER_IMPRESSION))
    return found


ROWS = st.lists(
    st.tuples(st.integers(1, 3), st.integers(10, 15), st.integers(1, 60), st.sampled_from(ACTIONS)), max_size=40
)


@QUICK
@given(
    rows=ROWS,
    window=st.integers(1, 30),
    min_history=st.integers(0, 2),
    impressions=st.booleans(),
    span=st.tuples(st.none() | st.integers(1, 60), st.none() | st.integers(1, 60)),
    seed=st.integers(0, 99),
)
def test_all_that_the_rules_state(
    rows: list[Row],
    window: int,
    min_history: int,
    impressions: bool,
    span: tuple[int | None, int | None],
    seed: int,
) -> None:
    """With room for all, every preference that a plain reading finds is found, once, and no other."""
    since, until = (None if at is None else dt.datetime.fromtimestamp(at / 1000, dt.UTC) for at in span)
    rules = Rules(
        window=dt.timedelta(milliseconds=window),
        min_history=min_history,
        impressions=impressions,
        per_window=10_000,
        since=since,
        until=until,
    )
    found = preferences(log(rows), rules, 100_000, seed)
    assert stated(found) == expected(rows, rules)
    assert len(stated(found)) == len(found)
    assert found.windows == len({(user, began) for user, began, *_ in stated(found)})


@QUICK
@given(rows=ROWS, limit=st.integers(0, 6), per_window=st.integers(1, 3), seed=st.integers(0, 99))
def test_bounds(rows: list[Row], limit: int, per_window: int, seed: int) -> None:
    """No more pairs than asked for, none that the rules do not state, none twice, and no more of a window."""
    rules = Rules(window=dt.timedelta(milliseconds=20), min_history=0, per_window=per_window)
    found = preferences(log(rows), rules, limit, seed)
    everything = expected(rows, rules)
    assert stated(found) <= everything
    assert len(stated(found)) == len(found) <= limit
    requests = found.requests()
    assert sum(rows.stop - rows.start for rows in requests) == len(found)
    for rows_of_one in requests:
        assert rows_of_one.stop - rows_of_one.start <= per_window
        assert len(set(found.user_id[rows_of_one].tolist())) == 1
        assert len(set(found.time[rows_of_one].tolist())) == 1
    room = sum(min(per_window, len(list(group))) for _, group in itertools.groupby(sorted(everything), lambda r: r[:2]))
    assert len(found) == min(limit, room)


def test_the_same_seed_draws_the_same() -> None:
    """Draws depend on their seed alone."""
    rows = [(1, item, 5 * item, action) for item, action in enumerate(ACTIONS * 6, 10)]
    rules = Rules(window=dt.timedelta(milliseconds=100), min_history=0, per_window=2)
    one, two, other = (stated(preferences(log(rows), rules, 4, seed)) for seed in (0, 0, 1))
    assert one == two != other


def test_negative_actions_come_first() -> None:
    """Of one window, pairs against a negative action come before those against an impression."""
    rows: list[Row] = [(1, 10, 1, "favorite"), (1, 11, 2, "report")]
    rows += [(1, item, item, "impression") for item in range(12, 60)]
    found = preferences(log(rows), Rules(min_history=0, per_window=3), 100)
    assert found.kind.tolist() == [OVER_NEGATIVE, OVER_IMPRESSION, OVER_IMPRESSION]
    assert found.other[0] == 11


def test_an_empty_log() -> None:
    """No events, no preferences."""
    found = preferences(log([]), Rules(), 10)
    assert len(found) == 0
    assert found.requests() == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"positive": ("like",)}, "like: not a discrete action"),
        ({"negative": ("dwell_time",)}, "dwell_time: not a discrete action"),
        ({"positive": ("report",)}, "report: stands for both more and less"),
        ({"positive": ()}, "positive: wanted at least one action"),
        ({"negative": (), "impressions": False}, "negative: wanted at least one action, or impressions"),
        ({"window": dt.timedelta(0)}, "window: wanted at least 1 ms"),
        ({"min_history": -1}, "wanted min_history >= 0"),
        ({"per_window": 0}, "per_window >= 1"),
        ({"since": dt.datetime(2026, 1, 1)}, "since: wanted a time with a zone"),
    ],
)
def test_wrong_rules(changes: dict[str, Any], told: str) -> None:
    """Rules that cannot be are refused."""
    with pytest.raises(DataError, match=told):
        Rules(**changes)


def test_many_events_at_once() -> None:
    """A large log is read in arrays: a hundred thousand events give what they state, each from one window."""
    rng = np.random.default_rng(0)
    count = 100_000
    events = gather(
        Events.build(
            user_id=rng.integers(1, 500, count),
            item_id=rng.integers(1, 2000, count),
            time=rng.integers(1, 10**8, count),
            action=np.array(["impression", "favorite", "report"], dtype=object)[rng.integers(0, 3, count)],
        )
    )
    found = preferences(events, Rules(per_window=4, window=dt.timedelta(hours=2)), 5000)
    assert len(found) == 5000
