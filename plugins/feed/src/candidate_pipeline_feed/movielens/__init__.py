"""MovieLens-100K as a data directory: fetched from where it can be reached, and mapped to the four tables."""

from __future__ import annotations

from candidate_pipeline_feed.movielens.fetch import TERMS, Fetched, fetch_ml_100k
from candidate_pipeline_feed.movielens.layouts import MovieLens, read_grouplens, read_recbole
from candidate_pipeline_feed.movielens.mapping import ML_100K_OVERRIDES, STARS_TO_ACTIONS, to_tables

__all__ = [
    "ML_100K_OVERRIDES",
    "STARS_TO_ACTIONS",
    "TERMS",
    "Fetched",
    "MovieLens",
    "fetch_ml_100k",
    "read_grouplens",
    "read_recbole",
    "to_tables",
]
