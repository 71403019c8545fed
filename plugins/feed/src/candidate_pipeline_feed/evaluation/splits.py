"""The split that training and evaluation share: which favourites are to be found, and what may be learnt from.

Leave-last-out (the default): a person's target is the last favourite; whatever that person did at or after its time is
held out, so nothing of it enters training, follows or popularity. Other people's events are kept whole, later ones
too, as is usual for this split; `time` is the split that is free of the future. Which of two events of one time came
first is not known: neither is history of the other, and both stay candidates.

Time: everything at or after one moment, the 80% quantile of all events, is held out. Targets are the first ten
favourites of each person from that moment on that have at least five earlier events, each with the person's whole
strictly earlier history, also where that lies after the cut. The model sees that history, but was not trained on it.

In both, a favourite of something that the person had met before (seen or acted on at a strictly earlier time) is no
target: it would be no candidate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.engagements import Engagements
from candidate_pipeline_feed.records import Edges, Events

Int64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

SplitName = Literal["leave-last-out", "time"]
HeldOut = Literal["test", "validation"]

SPLITS: Final[tuple[SplitName, ...]] = get_args(SplitName)
POSITIVE: Final = "favorite"
TRAINING_FILE: Final = "training.json"
"""What training leaves beside the models; its entry `split` is `SplitInfo.as_dict()`, or null: nothing held out."""
QUANTILE: Final[Mapping[HeldOut, float]] = {"test": 0.8, "validation": 0.6}
"""Share of events before the cut of the time split; validation targets lie between the two cuts."""
TARGETS_PER_USER: Final = 10
MIN_HISTORY: Final = 5
_FOREVER: Final = np.iinfo(np.int64).max


def split_name(text: str) -> SplitName:
    """The split of a name.

    Raises:
        DataError: There is none.
    """
    for name in SPLITS:
        if name == text:
            return name
    raise DataError(f"there is no split {text!r}; there are {', '.join(SPLITS)}")


def acted(events: Engagements) -> Mask:
    """Which events are more than an impression: some discrete action happened, bool [n]."""
    return np.asarray(events.actions.any(axis=1), np.bool_)


def favorites(events: Engagements) -> Mask:
    """Which events are favourites, bool [n].

    Raises:
        DataError: The events were gathered without that action.
    """
    if POSITIVE not in events.labels:
        raise DataError(f"a split needs events with the action {POSITIVE!r}, found {', '.join(events.labels)}")
    return np.asarray(events.actions[:, events.labels.index(POSITIVE)] > 0, np.bool_)


@attrs.frozen
class SplitInfo:
    """What identifies a split: equal infos, equal targets and equal training events.

    Args:
        name: "leave-last-out" or "time".
        held_out: "test", or "validation" (the second last favourite; or an earlier cut).
        cutoff_ms: The cut of the time split, milliseconds since 1970-01-01 UTC; None where each user has its own.
        users: People with a target.
        targets: Favourites to be found.
        training_events: Multi-hot events that may be learnt from.
        fingerprint: SHA-256 of the events and of what is held out of them.
    """

    name: SplitName
    held_out: HeldOut
    cutoff_ms: int | None
    users: int
    targets: int
    training_events: int
    fingerprint: str

    def as_dict(self) -> dict[str, Any]:
        """The split as plain data, for JSON."""
        return attrs.asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> SplitInfo:
        """The split that `as_dict` wrote.

        Raises:
            DataError: It is something else.
        """
        wanted = {field.name for field in attrs.fields(cls)}
        if not isinstance(data, Mapping) or set(data) != wanted:
            raise DataError(f"a split: wanted a table with {', '.join(sorted(wanted))}, found {data!r:.200}")
        if data["name"] not in SPLITS or data["held_out"] not in QUANTILE:
            raise DataError(f"a split: there are {', '.join(SPLITS)}; found {data['name']!r}, {data['held_out']!r}")
        return cls(**data)

    def __str__(self) -> str:
        text = f"{self.name}, {self.held_out}: {self.targets} targets of {self.users} users, fingerprint"
        return f"{text} {self.fingerprint[:12]}"


@attrs.frozen(eq=False)
class Targets:
    """Favourites to be found, each to be predicted from what its user did strictly before its time.

    Args:
        user_id: Who, int64 [n].
        item_id: What, int64 [n].
        time: When, milliseconds since 1970-01-01 UTC, int64 [n].
    """

    user_id: Int64
    item_id: Int64
    time: Int64

    def __len__(self) -> int:
        return len(self.user_id)

    def take(self, rows: NDArray[np.intp] | Mask) -> Targets:
        """The targets given by index or by mask, in that order."""
        return Targets(self.user_id[rows], self.item_id[rows], self.time[rows])


@attrs.frozen(eq=False)
class Split:
    """Targets, and from when on each person's events are held out.

    Args:
        info: What identifies it.
        targets: What is to be found, by user.
        cutoff_users: People with a moment of their own, int64 [u], rising.
        cutoff_times: From which moment on their events are held out, int64 [u].
        cutoff_others: The moment for everybody else.
    """

    info: SplitInfo
    targets: Targets
    cutoff_users: Int64
    cutoff_times: Int64
    cutoff_others: int

    @property
    def cutoff(self) -> int | dict[int, int]:
        """From when on events are held out, in milliseconds: for all, or by user (others: never)."""
        if self.info.cutoff_ms is not None:
            return self.info.cutoff_ms
        return dict(zip(self.cutoff_users.tolist(), self.cutoff_times.tolist(), strict=True))

    def cutoff_of(self, users: Int64) -> Int64:
        """From when on each user's events are held out, int64 [n], milliseconds since 1970-01-01 UTC."""
        if not len(self.cutoff_users):
            return np.full(len(users), self.cutoff_others, np.int64)
        at = np.minimum(np.searchsorted(self.cutoff_users, users), len(self.cutoff_users) - 1)
        return np.where(self.cutoff_users[at] == users, self.cutoff_times[at], self.cutoff_others)

    def training_mask(self, events: Engagements | Events) -> Mask:
        """Which events may be learnt from, bool [n]."""
        return np.asarray(events.time < self.cutoff_of(events.user_id), np.bool_)

    def edge_mask(self, edges: Edges) -> Mask:
        """Which relations may be learnt from, bool [n]: those without a time, and those made before the cut."""
        early = edges.created_at < self.cutoff_of(edges.src)
        return np.asarray(~edges.is_valid("created_at") | early, np.bool_)


def make_split(events: Engagements, name: str = "leave-last-out", *, validation: bool = False) -> Split:
    """Split a data set.

    Args:
        events: All of its events, as `candidate_pipeline_feed.engagements.gather` orders them.
        name: "leave-last-out" or "time".
        validation: Hold out the second last favourite (or use an earlier cut), to choose settings by.

    Raises:
        DataError: There is no such split, or nobody has a favourite that can be a target.
    """
    kind = split_name(name)
    held_out: HeldOut = "validation" if validation else "test"
    rows = np.flatnonzero(_can_be_targets(events))
    cutoff_ms: int | None = None
    if kind == "leave-last-out":
        rows = _last_of_each(events.user_id[rows], rows, skip=int(validation))
        users, times = events.user_id[rows], events.time[rows]
    else:
        cutoff_ms = int(np.quantile(events.time, QUANTILE[held_out], method="higher")) if len(events) else 0
        end = int(np.quantile(events.time, QUANTILE["test"], method="higher")) if validation and len(rows) else _FOREVER
        rows = _later_of_each(events, rows, cutoff_ms, end)
        users, times = np.zeros(0, np.int64), np.zeros(0, np.int64)
    if not len(rows):
        raise DataError(_nothing(events, name, held_out))
    targets = Targets(events.user_id[rows], events.item_id[rows], events.time[rows])
    info = SplitInfo(kind, held_out, cutoff_ms, len(np.unique(targets.user_id)), len(rows), 0, "")
    split = Split(info, targets, users, times, _FOREVER if cutoff_ms is None else cutoff_ms)
    mask = split.training_mask(events)
    fingerprint = _fingerprint(events, targets, mask)
    info = attrs.evolve(info, training_events=int(mask.sum()), fingerprint=fingerprint)
    return attrs.evolve(split, info=info)


def _can_be_targets(events: Engagements) -> Mask:
    """Favourites of what the user had not met at a strictly earlier time, bool [n]."""
    favorite = favorites(events)
    order = np.lexsort((events.time, events.item_id, events.user_id))
    user, item, time = events.user_id[order], events.item_id[order], events.time[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    first = np.empty(len(order), np.int64)
    first[order] = time[np.flatnonzero(new)[np.cumsum(new) - 1]] if len(order) else 0
    return np.asarray(favorite & (events.time == first), np.bool_)


def _last_of_each(users: Int64, rows: NDArray[np.intp], skip: int) -> NDArray[np.intp]:
    """The last row of each user, or with `skip` the one before it; users rising."""
    order = np.argsort(users, kind="stable")
    ordered = users[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(users) else np.zeros(0, np.intp)
    at = ends - skip
    same = (at >= 0) & (ordered[np.maximum(at, 0)] == ordered[ends])
    return np.asarray(rows[order[at[same]]], np.intp)


def _later_of_each(events: Engagements, rows: NDArray[np.intp], start: int, end: int) -> NDArray[np.intp]:
    """The first targets of each user from a moment on; users rising, then times."""
    rows = rows[(events.time[rows] >= start) & (events.time[rows] < end)]
    any_action = acted(events)
    found: list[NDArray[np.intp]] = []
    for user in np.unique(events.user_id[rows]):
        mine = rows[events.user_id[rows] == user]
        history = events.time[(events.user_id == user) & any_action]  # ordered, as all events are
        enough = np.searchsorted(history, events.time[mine]) >= MIN_HISTORY
        found.append(mine[enough][:TARGETS_PER_USER])
    return np.concatenate(found) if found else np.zeros(0, np.intp)


def _nothing(events: Engagements, name: str, held_out: str) -> str:
    count = int(favorites(events).sum())
    wanted = {
        ("leave-last-out", "test"): "a user with a favourite",
        ("leave-last-out", "validation"): "a user with two favourites",
    }.get((name, held_out), f"a favourite after the cut by a user with {MIN_HISTORY} earlier events")
    what = f"{count} favourites in {len(events)} events"
    return f"split {name} ({held_out}): wanted at least {wanted} of something new to that user, found {what}"


def _fingerprint(events: Engagements, targets: Targets, mask: Mask) -> str:
    digest = hashlib.sha256()
    favorite = favorites(events)
    for array in (events.user_id, events.item_id, events.time, targets.user_id, targets.item_id, targets.time):
        digest.update(len(array).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(array, "<i8").tobytes())
    digest.update(np.packbits(favorite).tobytes())
    digest.update(np.packbits(mask).tobytes())
    return digest.hexdigest()
