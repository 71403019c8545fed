"""The viewer's history in a model's terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from candidate_pipeline_feed.keys import History
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_phoenix.heads import feed_name
from candidate_pipeline_phoenix.originals import originals

if TYPE_CHECKING:
    from phoenix_recsys.requests import History as ModelHistory


def model_history(history: History, names: Sequence[str], data: FeedTables) -> ModelHistory:
    """A history as a model reads it: reposts as their originals, actions by name.

    Actions that the model does not know are left out, and so is an event that had no other: it was no history in
    training either.

    Args:
        history: What the viewer did, oldest first.
        names: The model's action names.
        data: The tables, for what reposts pass on.
    """
    from phoenix_recsys.requests import History as ModelHistory

    actions = np.zeros((len(history), len(names)), np.float32)
    for column, name in enumerate(names):
        label = feed_name(name)
        if label in history.labels:
            actions[:, column] = history.actions[:, history.labels.index(label)]
    known = actions.any(axis=1)
    posts = originals(data, history.item_ids[known], history.author_ids[known])
    return ModelHistory(posts.ids, posts.authors, actions[known], dwell_seconds=history.dwell_seconds[known])
