"""Targets and the training part as baselines see them: by item index, reposts counted as their originals.

A repost shows its original, and pipelines take one for the other, so evaluation does too: favouring a repost is
favouring what it passes on, and a post of which the person had met a repost is no candidate.
"""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_feed.engagements import Engagements
from candidate_pipeline_feed.evaluation.splits import Split, Targets, acted, favorites
from candidate_pipeline_feed.records import Items

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Index = NDArray[np.intp]
Mask = NDArray[np.bool_]

RECENT_MS: Final = 30 * 86_400_000


@attrs.frozen(eq=False)
class Originals:
    """What posts stand for: the original of a repost, else the post itself.

    Args:
        item_ids: The posts that are no reposts, and originals outside the table, rising, int64 [N].
        created_at: Since when each exists, milliseconds since 1970-01-01 UTC, int64 [N]; for an original outside the
            table, the time of its first repost.
        repost_ids: Reposts, rising, int64 [r].
        repost_of: What each passes on, int64 [r].
    """

    item_ids: Int64
    created_at: Int64
    repost_ids: Int64
    repost_of: Int64

    @classmethod
    def of(cls, items: Items) -> Originals:
        """Those of an items table."""
        repost = items.is_valid("repost_of")
        order = np.argsort(items.item_id[repost])
        stands_for = np.where(repost, items.repost_of, items.item_id)
        item_ids, at = np.unique(stands_for, return_inverse=True)
        created = np.full(len(item_ids), np.iinfo(np.int64).max)
        np.minimum.at(created, at, items.created_at)
        return cls(item_ids, created, items.item_id[repost][order], items.repost_of[repost][order])

    def __call__(self, ids: Int64) -> Int64:
        """The original of each post, int64 [n]."""
        if not len(self.repost_ids):
            return ids
        at = np.minimum(np.searchsorted(self.repost_ids, ids), len(self.repost_ids) - 1)
        return np.where(self.repost_ids[at] == ids, self.repost_of[at], ids)

    def index(self, ids: Int64) -> Index:
        """The index of each post's original in `item_ids`, intp [n]; posts must be in the table."""
        return np.searchsorted(self.item_ids, self(ids))


@attrs.frozen(eq=False)
class Case:
    """One target as the baselines see it.

    Args:
        number: Its number among the targets.
        item: Index of what is to be found.
        time: When, milliseconds since 1970-01-01 UTC.
        history: Indices of what its user acted on strictly before, oldest first, intp [h].
        candidates: What takes part in the ranking: what exists then and the user had not met, bool [N].
    """

    number: int
    item: int
    time: int
    history: Index
    candidates: Mask


class Cases:
    """The targets of a split, with what came strictly before each.

    Args:
        targets: What is to be found.
        events: All events, ordered by time.
        originals: What their posts stand for.
    """

    def __init__(self, targets: Targets, events: Engagements, originals: Originals) -> None:
        self.targets = targets
        self._originals = originals
        self._item = originals.index(events.item_id)
        self._time = events.time
        self._acted = acted(events)
        self._order = np.argsort(events.user_id, kind="stable")
        self._user = events.user_id[self._order]
        self._target = originals.index(targets.item_id)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, number: int) -> Case:
        time, item = int(self.targets.time[number]), int(self._target[number])
        rows = self._before(number)
        candidates = self._originals.created_at <= time
        candidates[item] = True  # a post that was favoured exists, whatever the table says of its making
        candidates[self._item[rows]] = False
        return Case(number, item, time, self._item[rows[self._acted[rows]]], candidates)

    def _before(self, number: int) -> Index:
        """The events of a target's user strictly before it, oldest first."""
        user = int(self.targets.user_id[number])
        start, stop = np.searchsorted(self._user, [user, user + 1])
        rows = self._order[start:stop]
        return rows[: int(np.searchsorted(self._time[rows], self.targets.time[number]))]

    def possible(self) -> Mask:
        """Which targets are candidates: their user had met neither the post nor another showing of it, bool [n]."""
        return np.array([self._target[at] not in self._item[self._before(at)] for at in range(len(self))], np.bool_)


@attrs.frozen(eq=False)
class TrainingPart:
    """What baselines are fitted on, by item and user index, ordered by time.

    Args:
        num_items: N.
        item: intp [n].
        user: intp [n].
        time: Milliseconds since 1970-01-01 UTC, int64 [n].
        acted: Whether there was any action, bool [n].
        favorite: Whether it was a favourite, bool [n].
    """

    num_items: int
    item: Index
    user: Index
    time: Int64
    acted: Mask
    favorite: Mask

    @classmethod
    def of(cls, split: Split, events: Engagements, originals: Originals) -> TrainingPart:
        """The training part of a split.

        Args:
            split: It.
            events: All events.
            originals: What their posts stand for.
        """
        log = events.take(split.training_mask(events))
        return cls(
            len(originals.item_ids),
            originals.index(log.item_id),
            np.unique(log.user_id, return_inverse=True)[1],
            log.time,
            acted(log),
            favorites(log),
        )

    def popularity(self) -> Float64:
        """Favourites of each item, float64 [N]."""
        return np.bincount(self.item[self.favorite], minlength=self.num_items).astype(np.float64)

    def default_window_ms(self) -> int:
        """What counts as recent: 30 days, or an eighth of the time that the events span if they span less than 60."""
        span = int(self.time[-1] - self.time[0]) if len(self.time) else 0
        return RECENT_MS if span >= 2 * RECENT_MS else max(span // 8, 1)
