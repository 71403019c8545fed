"""Which of two logged posts a person preferred: read off the events table, before any model is asked."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Sequence
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.actions import DISCRETE
from candidate_pipeline_feed.engagements import Engagements
from candidate_pipeline_stakeholder.utilities import NEGATIVE_ACTIONS, POSITIVE

Int64 = NDArray[np.int64]

OVER_NEGATIVE: Final = 0
OVER_IMPRESSION: Final = 1


@attrs.frozen
class Rules:
    """What of a log counts as a preference.

    Posts that a person met within `window` of each other are compared: one with a positive action (and no negative
    one) is preferred to one with a negative action (and no positive one), and to one that was shown and left alone.
    Posts with other actions only (a click, say) are compared with nothing: they say neither.

    Args:
        positive: Actions that say "more of this".
        negative: Actions that say "less of this".
        impressions: Whether a post that was only shown counts as passed over.
        window: How far apart two posts may be met. A person's events are cut into windows of this length from their
            first event on; the first event of a window stands for the request that showed its posts.
        min_history: How many events with an action a person must have before a window: without any a ranker has
            nothing to go by.
        per_window: Pairs of one window at most, so that no sitting outweighs the others.
        since: Only windows that begin at or after this time.
        until: Only windows that begin before this time.

    Raises:
        DataError: A value is out of range, or an action is none or stands on both sides.
    """

    positive: tuple[str, ...] = POSITIVE
    negative: tuple[str, ...] = NEGATIVE_ACTIONS
    impressions: bool = True
    window: dt.timedelta = dt.timedelta(minutes=10)
    min_history: int = 1
    per_window: int = 8
    since: dt.datetime | None = None
    until: dt.datetime | None = None

    def __attrs_post_init__(self) -> None:
        found = [
            f"{name}: not a discrete action; there are {', '.join(DISCRETE)}"
            for name in (*self.positive, *self.negative)
            if name not in DISCRETE
        ]
        found += [f"{name}: stands for both more and less" for name in self.positive if name in self.negative]
        if not self.positive:
            found.append("positive: wanted at least one action, found none")
        if not self.negative and not self.impressions:
            found.append("negative: wanted at least one action, or impressions, found neither")
        if self.window < dt.timedelta(milliseconds=1):
            found.append(f"window: wanted at least 1 ms, found {self.window}")
        if self.min_history < 0 or self.per_window < 1:
            found.append(f"wanted min_history >= 0 and per_window >= 1, found {self.min_history} and {self.per_window}")
        for name in ("since", "until"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                found.append(f"{name}: wanted a time with a zone, found {moment}")
        if found:
            raise DataError("preferences of a log: " + "; ".join(dict.fromkeys(found)))


@attrs.frozen(eq=False)
class Preferences:
    """Preferences that a log states; those of one window stand together.

    Args:
        user_id: Who, int64 [n].
        time: When the window began, milliseconds since 1970-01-01 UTC, int64 [n].
        preferred: The preferred post, int64 [n].
        other: The other one, int64 [n].
        kind: `OVER_NEGATIVE` or `OVER_IMPRESSION`, int8 [n].
        windows: How many windows there are that hold a preference, taken or not.
    """

    user_id: Int64
    time: Int64
    preferred: Int64
    other: Int64
    kind: NDArray[np.int8]
    windows: int

    def __len__(self) -> int:
        return len(self.user_id)

    def requests(self) -> list[slice]:
        """Which rows stand together: those of one window, in order."""
        if not len(self):
            return []
        new = (self.user_id[1:] != self.user_id[:-1]) | (self.time[1:] != self.time[:-1])
        edges = [0, *(np.flatnonzero(new) + 1).tolist(), len(self)]
        return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def preferences(events: Engagements, rules: Rules, limit: int, seed: int = 0) -> Preferences:
    """Preferences stated by a log, drawn at random.

    Windows come in random order until there are enough pairs. Of one window, pairs against a negative action come
    before those against an impression, as there are few of them and they say more; otherwise chance decides.

    Args:
        events: The log.
        rules: What counts.
        limit: At most so many pairs.
        seed: The source of the draws.
    """
    window = _windows(events, rules)
    met = _met(events, rules, window)
    rng = np.random.default_rng(seed)
    both = np.isin(met.window, met.window[met.good]) & np.isin(met.window, met.window[met.bad | met.passed])
    new = np.ones(len(met.window), np.bool_)
    new[1:] = met.window[1:] != met.window[:-1]
    starts = np.flatnonzero(new & both)
    ends = np.searchsorted(met.window, met.window[starts], side="right")
    chosen: list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int8]]] = []
    taken = 0
    for at in rng.permutation(len(starts)).tolist():
        if taken >= limit:
            break
        rows = np.arange(starts[at], ends[at])
        part = _pairs_of(met, rows, min(rules.per_window, limit - taken), rng)
        chosen.append(part)
        taken += len(part[0])
    better = np.concatenate([np.empty(0, np.intp), *(part[0] for part in chosen)])
    worse = np.concatenate([np.empty(0, np.intp), *(part[1] for part in chosen)])
    kind = np.concatenate([np.empty(0, np.int8), *(part[2] for part in chosen)])
    return Preferences(
        met.user_id[better],
        met.began[better],
        met.item_id[better],
        met.item_id[worse],
        kind,
        len(starts),
    )


@attrs.frozen(eq=False)
class _Met:
    """What each person did with each post in each window, windows together."""

    window: Int64
    user_id: Int64
    item_id: Int64
    began: Int64
    good: NDArray[np.bool_]
    bad: NDArray[np.bool_]
    passed: NDArray[np.bool_]


@attrs.frozen(eq=False)
class _Windows:
    """Of each event its window, when that began, and whether it is one that counts."""

    number: Int64
    began: Int64
    usable: NDArray[np.bool_]


def _windows(events: Engagements, rules: Rules) -> _Windows:
    count = len(events)
    order = np.lexsort((events.time, events.user_id))
    user, time = events.user_id[order], events.time[order]
    rows = np.arange(count)
    new_user = np.r_[True, user[1:] != user[:-1]] if count else np.zeros(0, np.bool_)
    first = np.maximum.accumulate(np.where(new_user, rows, 0))
    length = max(rules.window // dt.timedelta(milliseconds=1), 1)
    bins = (time - time[first]) // length
    new = new_user | np.r_[True, bins[1:] != bins[:-1]] if count else new_user
    start = np.maximum.accumulate(np.where(new, rows, 0))
    began = time[start]
    acted = (events.actions[order] != 0).any(axis=1)
    before = np.concatenate([[0], np.cumsum(acted)])
    # A window holds all events of its time span, so what stands before its first row came strictly before.
    usable = before[start] - before[first] >= rules.min_history
    for moment, inside in ((rules.since, np.greater_equal), (rules.until, np.less)):
        if moment is not None:
            usable &= inside(began, round(moment.timestamp() * 1000))
    number = np.empty(count, np.int64)
    number[order] = np.cumsum(new) - 1
    at = np.empty(count, np.int64)
    at[order] = began
    ok = np.empty(count, np.bool_)
    ok[order] = usable
    return _Windows(number, at, ok)


def _met(events: Engagements, rules: Rules, windows: _Windows) -> _Met:
    def any_of(names: Sequence[str]) -> NDArray[np.bool_]:
        columns = [events.labels.index(name) for name in names if name in events.labels]
        return np.asarray((events.actions[:, columns] != 0).any(axis=1))

    acted = (events.actions != 0).any(axis=1) | (events.seconds > 0).any(axis=1)
    order = np.lexsort((events.item_id, windows.number))
    order = order[windows.usable[order]]
    window, item = windows.number[order], events.item_id[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (window[1:] != window[:-1]) | (item[1:] != item[:-1])
    starts = np.flatnonzero(new)

    def any_in(mask: NDArray[np.bool_]) -> NDArray[Any]:
        return np.logical_or.reduceat(mask[order], starts) if len(starts) else np.zeros(0, np.bool_)

    positive, negative = any_in(any_of(rules.positive)), any_in(any_of(rules.negative))
    passed = any_in(events.impression) & ~any_in(acted) if rules.impressions else np.zeros(len(starts), np.bool_)
    rows = order[starts]
    return _Met(
        window[starts],
        events.user_id[rows],
        item[starts],
        windows.began[rows],
        positive & ~negative,
        negative & ~positive,
        passed,
    )


def _pairs_of(
    met: _Met, rows: NDArray[np.intp], limit: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int8]]:
    """Rows of the preferred and of the other posts of one window, and why."""
    good = rows[met.good[rows]]
    parts: list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int8]]] = []
    for kind, others in ((OVER_NEGATIVE, rows[met.bad[rows]]), (OVER_IMPRESSION, rows[met.passed[rows]])):
        room = limit - sum(len(part[0]) for part in parts)
        possible = len(good) * len(others)
        if room and possible:
            drawn = rng.choice(possible, min(room, possible), replace=False)
            parts.append((good[drawn // len(others)], others[drawn % len(others)], np.full(len(drawn), kind, np.int8)))
    return (
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([part[2] for part in parts]),
    )
