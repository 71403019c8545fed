"""Hypothesis strategies for queries and tables of candidates."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.keys import ITEM_ID, Column, Key, QueryFeature
from candidate_pipeline.query import Query

T = TypeVar("T")
Strategy = st.SearchStrategy[Any]

_INT64 = st.integers(-(2**63), 2**63 - 1)
_FINITE = st.floats(-1e6, 1e6, width=32)

_BY_TYPE: dict[type, Strategy] = {
    bool: st.booleans(),
    int: st.integers(0, 2**53),
    float: _FINITE,
    str: st.text(max_size=20),
    tuple: st.lists(st.text(max_size=10), max_size=4).map(tuple),
    np.ndarray: st.lists(st.integers(0, 50), max_size=8, unique=True).map(lambda ids: np.array(sorted(ids), np.int64)),
}


def _cell(column: Column[Any], labels: tuple[str, ...]) -> Strategy:
    kind = np.dtype(column.dtype).kind
    if column.labels:
        return st.lists(st.floats(0, 1, width=32), min_size=len(labels), max_size=len(labels))
    if column.width is not None:
        return st.lists(_FINITE, min_size=column.width, max_size=column.width)
    if kind == "b":
        return st.booleans()
    if kind in "iu":
        limits = np.iinfo(np.dtype(column.dtype))
        # Small numbers repeat, and repeats (of authors, of originals) are what components are about.
        return st.integers(0, 20) | st.integers(int(limits.min), int(limits.max))
    return st.text(max_size=20) if kind == "O" else _FINITE


def candidates(
    *columns: Column[Any],
    min_size: int = 0,
    max_size: int = 12,
    nulls: bool = True,
    values: Mapping[Key, Strategy] | None = None,
) -> st.SearchStrategy[Candidates]:
    """Tables with the given columns and distinct item ids.

    Args:
        columns: The columns beside `ITEM_ID`.
        min_size: Fewest rows.
        max_size: Most rows.
        nulls: Whether cells may be null.
        values: Strategies of single cells, for columns whose values are not arbitrary.
    """

    @st.composite
    def tables(draw: Callable[[Strategy], Any]) -> Candidates:
        ids = draw(st.lists(_INT64, min_size=min_size, max_size=max_size, unique=True))
        updates = [ITEM_ID(np.array(ids, np.int64))]
        for column in columns:
            if column is ITEM_ID:
                continue
            some = st.lists(st.sampled_from(column.labels), unique=True, min_size=1) if column.labels else st.just([])
            labels = tuple(draw(some))
            cell = (values or {}).get(column, _cell(column, labels))
            array = column.blank(len(ids), labels)
            for row in range(len(ids)):
                array[row] = draw(cell)
            valid = [not nulls or draw(st.booleans()) for _ in ids]
            given = labels if column.labels else None
            updates.append(column(array, valid=np.array(valid, np.bool_), labels=given))
        return Candidates.of(*updates)

    return tables()


def queries(*features: QueryFeature[Any], values: Mapping[Key, Strategy] | None = None) -> st.SearchStrategy[Query]:
    """Queries with the given features.

    Args:
        features: The features that are present.
        values: Strategies of single features; needed for types other than `bool`, `int`, `float`, `str`, `tuple` and
            `numpy.ndarray`.

    Raises:
        TypeError: A feature's type is none of these and `values` does not give it.
    """
    chosen: dict[QueryFeature[Any], Strategy] = {}
    for feature in features:
        strategy = (values or {}).get(feature, _BY_TYPE.get(feature.type))
        if strategy is None:
            raise TypeError(f"give a strategy for {feature.name} ({feature.type.__name__}) in values={{...}}")
        chosen[feature] = strategy
    moments = st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2040, 1, 1), timezones=st.just(dt.UTC))
    return st.builds(
        Query,
        request_id=st.just("test"),
        now=moments,
        seed=st.integers(0, 2**32),
        features=st.fixed_dictionaries(chosen),
    )
