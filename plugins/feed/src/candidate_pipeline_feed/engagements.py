"""Rows of the events table gathered into multi-hot events: one row per person, post and time."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_feed.actions import ACTION_CODE, CONTINUOUS, DISCRETE, IMPRESSION
from candidate_pipeline_feed.records import Events


@attrs.frozen(eq=False)
class Engagements:
    """Multi-hot events, ordered by time; equal times keep the order of the file.

    Args:
        user_id: Who, int64 [n].
        item_id: On which post, int64 [n].
        time: When, milliseconds since 1970-01-01 UTC, int64 [n].
        actions: 1 where the action happened, float32 [n, len(labels)].
        seconds: Amounts of the continuous actions, 0 where none is known, float32 [n, 2].
        impression: Whether the post is known to have been shown, bool [n].
        labels: Names of the columns of `actions`.
        continuous_labels: Names of the columns of `seconds`.
    """

    user_id: NDArray[np.int64]
    item_id: NDArray[np.int64]
    time: NDArray[np.int64]
    actions: NDArray[np.float32]
    seconds: NDArray[np.float32]
    impression: NDArray[np.bool_]
    labels: tuple[str, ...]
    continuous_labels: tuple[str, ...] = CONTINUOUS

    def __len__(self) -> int:
        return len(self.user_id)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Engagements:
        """The rows given by index or by mask, in that order."""
        return Engagements(
            self.user_id[rows],
            self.item_id[rows],
            self.time[rows],
            self.actions[rows],
            self.seconds[rows],
            self.impression[rows],
            self.labels,
        )


def gather(events: Events, labels: Sequence[str] = DISCRETE) -> Engagements:
    """Gather the rows of the events table into multi-hot events.

    A repeated row counts once; of a repeated amount the largest counts. Actions outside `labels` are left out
    of `actions`, but their event stays, so a post that was only shown is a row of zeros.

    Args:
        events: The events table, in any order.
        labels: Discrete actions, the columns of the result.

    Raises:
        ValueError: A label is not a discrete action.
    """
    if wrong := [name for name in labels if name not in DISCRETE]:
        raise ValueError(f"{', '.join(wrong)}: not a discrete action; there are {', '.join(DISCRETE)}")
    rows = len(events)
    by_key = np.lexsort((np.arange(rows), events.item_id, events.user_id, events.time))
    keys = [column[by_key] for column in (events.time, events.user_id, events.item_id)]
    new = np.ones(rows, dtype=np.bool_)
    if rows:
        new[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    group_of = np.empty(rows, dtype=np.int64)
    group_of[by_key] = np.cumsum(new) - 1
    first_row = by_key[new]  # lexsort is stable on the row number, so this is the first row of each event
    order = np.lexsort((first_row, events.time[first_row]))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    row_event = rank[group_of]
    first_row = first_row[order]

    actions = np.zeros((len(order), len(labels)), dtype=np.float32)
    for column, name in enumerate(labels):
        actions[row_event[events.action == ACTION_CODE[name]], column] = 1.0
    seconds = np.zeros((len(order), len(CONTINUOUS)), dtype=np.float32)
    for column, name in enumerate(CONTINUOUS):
        chosen = events.action == ACTION_CODE[name]
        np.maximum.at(seconds[:, column], row_event[chosen], events.value[chosen])
    impression = np.zeros(len(order), dtype=np.bool_)
    impression[row_event[events.action == ACTION_CODE[IMPRESSION]]] = True
    return Engagements(
        events.user_id[first_row],
        events.item_id[first_row],
        events.time[first_row],
        actions,
        seconds,
        impression,
        tuple(labels),
    )
