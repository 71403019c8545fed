"""What a type checker sees of keys: mypy checks this file with the rest, and `test_key_types.py` runs it."""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    Column,
    ColumnFamily,
    Outcome,
    Pipeline,
    Query,
    QueryFeature,
    compose,
)
from candidate_pipeline.patches import ColumnUpdate, FeatureUpdate

BUDGET = QueryFeature("typed.budget", float)
NAME = QueryFeature("typed.name", str, default="nobody")
PRICE = Column("typed.price", np.float32)
IN_STOCK = Column("typed.in_stock", np.bool_)
ODDS = Column("typed.odds", np.float64, labels=("buy", "look"))
GAIN = ColumnFamily("typed.gain", np.float32)


def check(query: Query, candidates: Candidates) -> None:
    """The types of what keys give; never called with arguments of other types, so nothing here can fail."""
    assert_type(query[BUDGET], float)
    assert_type(query[NAME], str)
    assert_type(BUDGET in query, bool)
    assert_type(candidates[PRICE], NDArray[np.float32])
    assert_type(candidates[IN_STOCK], NDArray[np.bool[Any]])
    assert_type(candidates[ITEM_ID], NDArray[np.int64])
    assert_type(candidates[SCORE], NDArray[np.float32])
    assert_type(candidates.label(ODDS, "buy"), NDArray[np.float64])
    assert_type(candidates[GAIN["buyer"]], NDArray[np.float32])
    assert_type(candidates.valid(PRICE), NDArray[np.bool_])
    assert_type(candidates.take([0]), Candidates)
    assert_type(BUDGET(1.0), FeatureUpdate)
    assert_type(PRICE([1.0]), ColumnUpdate)
    NAME(3)  # type: ignore[arg-type]  # a feature takes values of its type only


def check_requests(source: Any, selector: Any) -> None:
    """The types of running a pipeline; never called."""
    with compose("typed", sources=[source], selector=selector) as app:
        assert_type(app["typed"], Pipeline)
        assert_type(app["typed"].run_sync(buyer=1), Outcome)
        assert_type(app["typed"].run_sync().item_ids, NDArray[np.int64])
