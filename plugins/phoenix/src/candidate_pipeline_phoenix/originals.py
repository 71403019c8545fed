"""Reposts stand for their originals: models are trained on, read and predict the post that is passed on."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_feed.store import FeedTables

Int64 = NDArray[np.int64]


@attrs.frozen(eq=False)
class Originals:
    """What posts are to a model, `[n]` each.

    Args:
        ids: The post, or the original of a repost, int64.
        authors: Who posted that, 0 where nobody knows, int64.
        created_at: When, milliseconds since 1970-01-01 UTC, 0 where nobody knows, int64.
    """

    ids: Int64
    authors: Int64
    created_at: Int64


def originals(data: FeedTables, ids: Int64, authors: Int64 | None = None) -> Originals:
    """What the posts of `ids` are to a model.

    Args:
        data: The tables; they say which posts are reposts, and who posted what when.
        ids: Posts, int64 [n], in the tables or not.
        authors: Who posted them, for posts outside the tables, int64 [n]; default: nobody knows.
    """
    items = data.tables.items
    given = np.zeros(len(ids), np.int64) if authors is None else authors
    if not len(items):
        return Originals(ids, given, np.zeros(len(ids), np.int64))
    rows, found = data.item_rows(ids)
    repost = found & items.is_valid("repost_of")[rows]
    original = np.where(repost, items.repost_of[rows], ids)
    rows, found = data.item_rows(original)
    return Originals(
        original,
        np.where(found, items.author_id[rows], np.where(repost, 0, given)),
        np.where(found, items.created_at[rows], 0),
    )
