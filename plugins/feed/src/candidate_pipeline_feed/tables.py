"""The four-table format: what is read from disk, held in memory, and written back.

`candidate_pipeline_feed.schema` describes every column; `docs/data-format.md` is made from it.
"""

from __future__ import annotations

from candidate_pipeline_feed.problems import InvalidTablesError, Problem
from candidate_pipeline_feed.reading import check_tables, read_tables
from candidate_pipeline_feed.records import Edges, Events, Items, Tables, Users
from candidate_pipeline_feed.writing import write_tables

__all__ = [
    "Edges",
    "Events",
    "InvalidTablesError",
    "Items",
    "Problem",
    "Tables",
    "Users",
    "check_tables",
    "read_tables",
    "write_tables",
]
