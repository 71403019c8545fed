"""Follows for data that has none: people follow the authors whose posts they turn out to like.

The rule: a person follows an author from the moment at which the person has at least three favourites among the
author's posts, and these are at least 60% of the author's posts that the person has acted on. It looks at nothing but
the past, so a follow that the rule makes at time t holds for every later time and tells nothing of it: keeping the
edges with `created_at` < t is the same as applying the rule to the events before t.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_feed.engagements import gather
from candidate_pipeline_feed.records import Edges, Events, Items

MIN_FAVORITES: Final = 3
MIN_SHARE: Final = 0.6


def follows_from(
    items: Items,
    events: Events,
    before_ms: int | None = None,
    min_favorites: int = MIN_FAVORITES,
    min_share: float = MIN_SHARE,
) -> Edges:
    """The follow edges that events make.

    Events of one person at one time count together, so that their order in the file changes nothing. Events of items
    that are not in the table count for nobody.

    Args:
        items: The items table.
        events: The events table; for a training split, only its rows.
        before_ms: Use only events strictly before this time (ms); None for all.
        min_favorites: Least number of the author's posts that the person has favoured.
        min_share: Least share of these among the author's posts that the person has acted on.

    Returns:
        Edges of kind "follow", ordered by person and author, each with the time of the event that made it.
    """
    if before_ms is not None:
        events = events.take(events.time < before_ms)
    known = np.isin(events.item_id, items.item_id)
    log = gather(events.take(known), ("favorite",))
    # What was only shown was not acted on.
    acted = np.zeros(len(log), dtype=np.bool_)
    acted[:] = ~log.impression | log.actions.any(axis=1)
    log = log.take(acted)
    order = np.argsort(items.item_id, kind="stable")
    author = items.author_id[order[np.searchsorted(items.item_id[order], log.item_id)]]

    by_pair = np.lexsort((np.arange(len(log)), log.time, author, log.user_id))
    user, author, time = log.user_id[by_pair], author[by_pair], log.time[by_pair]
    liked = log.actions[by_pair, 0].astype(np.int64)
    starts = np.flatnonzero(_changes(user, author))
    run = np.cumsum(_changes(user, author)) - 1
    favorites = np.cumsum(liked)
    favorites -= (favorites[starts] - liked[starts])[run] if len(starts) else 0
    seen = np.arange(len(user)) - (starts[run] if len(starts) else 0) + 1
    # Judged at the last event of each moment, when all of that moment are counted.
    complete = np.append(_changes(user, author, time)[1:], True) if len(user) else np.zeros(0, dtype=np.bool_)
    follows = complete & (favorites >= min_favorites) & (favorites >= min_share * seen)
    rows = np.flatnonzero(follows)
    rows = rows[np.unique(run[rows], return_index=True)[1]]  # the first such moment of each pair
    rows = rows[user[rows] != author[rows]]
    return Edges.build(src=user[rows], dst=author[rows], kind=["follow"] * len(rows), created_at=time[rows])


def _changes(*columns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a row differs from the one before it, bool [rows]; the first always does."""
    changed = np.ones(len(columns[0]), dtype=np.bool_)
    if len(changed):
        changed[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return changed
