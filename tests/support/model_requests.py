"""Random requests to a ranker: histories and items in ids, and parts of them."""

from __future__ import annotations

from typing import Any, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from phoenix_recsys.requests import History, Items

ACTIONS = 5
T = TypeVar("T", History, Items)


def random_history(rng: np.random.Generator, count: int, actions: int = ACTIONS) -> History:
    """So many events with every input set."""
    return History(
        rng.integers(1, 2**62, count),
        rng.integers(0, 2**62, count),
        rng.random((count, actions)) > 0.5,
        surfaces=rng.integers(0, 16, count),
        dwell_seconds=rng.exponential(10, count),
    )


def random_items(rng: np.random.Generator, count: int) -> Items:
    """So many items with every input set, two hours old."""
    created = rng.integers(1_700_000_000, 1_700_100_000, count)
    ids, surfaces = rng.integers(1, 2**62, count), rng.integers(0, 16, count)
    return Items(ids, rng.integers(0, 2**62, count), surfaces, created + 7200, created)


def rows_of(thing: T, rows: slice | npt.NDArray[Any]) -> T:
    """Some rows of all fields."""
    fields: dict[str, Any] = {field.name: getattr(thing, field.name) for field in attrs.fields(type(thing))}
    chosen: dict[str, Any] = {name: None if value is None else value[rows] for name, value in fields.items()}
    return type(thing)(**chosen)
