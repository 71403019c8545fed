"""The four tables as the trainer reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from candidate_pipeline_feed.engagements import Engagements
from candidate_pipeline_feed.evaluation.splits import Split
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_phoenix.originals import Originals, originals

if TYPE_CHECKING:
    from phoenix_recsys.training import Interactions

_DWELL = "dwell_time"


def training_interactions(data: FeedTables, split: Split | None = None) -> Interactions:
    """What the models may learn from: one row a person, post and time, with everything that happened then.

    A repost counts as its original, as it does when the models are asked. Actions that never happen in the training
    events are left out, so that the models have no head or input without an example. An event without any action is
    kept: the post was shown and left alone.

    Args:
        data: The tables.
        split: What is held out; None trains on everything. The posts that a time split's models know are those made
            before its cut.
    """
    from phoenix_recsys.training import Catalogue, Interactions

    events = data.events
    if split is not None:
        events = events.take(split.training_mask(events))
    acted_on = originals(data, events.item_id)
    events, acted_on = _merged(events, acted_on)

    items = data.tables.items
    known = ~items.is_valid("repost_of")
    if split is not None and split.info.cutoff_ms is not None:
        known &= items.created_at < split.info.cutoff_ms
    # Originals of reposts may lie outside the table, and posts after the cut may have events all the same.
    ids, first = np.unique(np.concatenate([items.item_id[known], acted_on.ids]), return_index=True)
    authors = np.concatenate([items.author_id[known], acted_on.authors])[first]
    created = np.concatenate([items.created_at[known], acted_on.created_at])[first]

    happened = np.flatnonzero(events.actions.any(axis=0))
    names = tuple(events.labels[column] for column in happened)
    return Interactions(
        user_ids=events.user_id,
        item_ids=acted_on.ids,
        times=events.time,
        actions=events.actions[:, happened],
        action_names=names,
        catalogue=Catalogue(ids, authors, created),
        dwell_seconds=events.seconds[:, events.continuous_labels.index(_DWELL)],
    )


def _merged(events: Engagements, posts: Originals) -> tuple[Engagements, Originals]:
    """Events on a post and on a repost of it, by one person at one time, as one event; the order stays.

    The first of several gives everything but the actions, which are joined, and the seconds, of which the most count.
    """
    if not len(events):
        return events, posts
    key = np.stack([events.user_id, events.time, posts.ids])
    _, first, group = np.unique(key, axis=1, return_index=True, return_inverse=True)
    group = group.reshape(-1)
    if len(first) == len(events):
        return events, posts
    actions, seconds = events.actions.copy(), events.seconds.copy()
    np.maximum.at(actions, first[group], events.actions)
    np.maximum.at(seconds, first[group], events.seconds)
    rows = np.sort(first)
    joined = Engagements(
        events.user_id, events.item_id, events.time, actions, seconds, events.impression, events.labels
    )
    return joined.take(rows), Originals(posts.ids[rows], posts.authors[rows], posts.created_at[rows])
