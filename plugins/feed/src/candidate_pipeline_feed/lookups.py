"""Rows of a table found by id, and their cells."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_feed.records import Items, Users
from candidate_pipeline_feed.store import FeedTables


@attrs.frozen(eq=False)
class Found:
    """The rows of some ids in a table.

    Args:
        table: The table.
        rows: The row of each id, any row where there is none, intp `[n]`.
        found: Whether there is one, bool `[n]`.
    """

    table: Items | Users
    rows: NDArray[np.intp]
    found: NDArray[np.bool_]

    def cells(self, name: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """A column's values and whether each holds one, `[n]` each; zero or `None` where there is none."""
        column = self.table.column(name)
        values: NDArray[Any] = np.full(len(self.rows), None if column.dtype == object else 0, dtype=column.dtype)
        valid = self.found & self.table.is_valid(name)[self.rows] if len(column) else np.zeros(len(self.rows), np.bool_)
        values[valid] = column[self.rows[valid]]
        return values, valid

    def otherwise(self, other: Found) -> Found:
        """These rows where they were found, else another lookup's in the same table."""
        return Found(self.table, np.where(self.found, self.rows, other.rows), self.found | other.found)


def items_of(data: FeedTables, ids: NDArray[np.int64], known: NDArray[np.bool_] | None = None) -> Found:
    """The items of some ids; those that are not `known` are not looked for."""
    rows, found = data.item_rows(ids)
    return Found(data.tables.items, rows, found if known is None else found & known)


def users_of(data: FeedTables, ids: NDArray[np.int64], known: NDArray[np.bool_] | None = None) -> Found:
    """The users of some ids; those that are not `known` are not looked for."""
    rows, found = data.user_rows(ids)
    return Found(data.tables.users, rows, found if known is None else found & known)
