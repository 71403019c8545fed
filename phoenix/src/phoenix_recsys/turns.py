"""Requests cut and merged to fit compiled shapes: which rows of which requests share a device call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from phoenix_recsys.requests import Floats, Items, Scores
from phoenix_recsys.served import bucket_for, pad_rows, sigmoid

V = TypeVar("V")


@attrs.frozen(eq=False)
class Turn(Generic[V]):
    """Part of a request that fits one bucket.

    Attributes:
        request: number of the request.
        viewer: whose request it is.
        items: all items of the request.
        rows: which of them.
    """

    request: int
    viewer: V
    items: Items
    rows: slice

    def __len__(self) -> int:
        return int(self.rows.stop - self.rows.start)


def device_calls(
    requests: Sequence[tuple[V, Items]],
    places: Callable[[V], int],
    candidate_buckets: tuple[int, ...],
    batch_buckets: tuple[int, ...],
) -> list[list[Turn[V]]]:
    """The turns of each device call: of one history bucket and one candidate bucket.

    Args:
        requests: viewers and their items.
        places: a viewer's history bucket.
        candidate_buckets: ascending.
        batch_buckets: ascending.
    """
    alike: dict[tuple[int, int], list[Turn[V]]] = {}
    most = candidate_buckets[-1]
    for number, (viewer, items) in enumerate(requests):
        for start in range(0, len(items), most):
            turn = Turn(number, viewer, items, slice(start, min(start + most, len(items))))
            alike.setdefault((places(viewer), bucket_for(len(turn), candidate_buckets)), []).append(turn)
    rows = batch_buckets[-1]
    return [turns[start : start + rows] for turns in alike.values() for start in range(0, len(turns), rows)]


def stacked_ids(turns: Sequence[Turn[Any]], field: str, hashed: Callable[[Any], Any], size: int, rows: int) -> Any:
    """Hashes of ids of all turns in one go: int32 [rows, size, n], padded with zeros."""
    ids = np.concatenate([getattr(turn.items, field)[turn.rows] for turn in turns])
    ends = np.cumsum([len(turn) for turn in turns])[:-1]
    return pad_rows(np.stack([pad_rows(part, size) for part in np.split(hashed(ids), ends)]), rows)


def stacked_ints(turns: Sequence[Turn[Any]], field: str, size: int, rows: int) -> npt.NDArray[np.int32]:
    """An integer field of all turns: int32 [rows, size], zeros where it is None and at padding."""
    found = np.zeros((rows, size), np.int32)
    for place, turn in enumerate(turns):
        values = getattr(turn.items, field)
        if values is not None:
            found[place, : len(turn)] = values[turn.rows]
    return found


@attrs.frozen(eq=False)
class JoinedItems:
    """Items of several turns one behind the other; what was None is 0."""

    ids: npt.NDArray[np.uint64]
    author_ids: npt.NDArray[np.uint64]
    surfaces: npt.NDArray[np.int32]
    impression_ts: npt.NDArray[np.int32]
    creation_ts: npt.NDArray[np.int32]


def joined_items(items: Sequence[Items], rows: Sequence[slice]) -> JoinedItems:
    """Some rows of some items, one behind the other."""

    def ints(field: str) -> npt.NDArray[np.int32]:
        found = []
        for part, chosen in zip(items, rows, strict=True):
            values = getattr(part, field)
            found.append(np.zeros(chosen.stop - chosen.start, np.int32) if values is None else values[chosen])
        return np.concatenate(found)

    return JoinedItems(
        np.concatenate([part.ids[chosen] for part, chosen in zip(items, rows, strict=True)]),
        np.concatenate([part.author_ids[chosen] for part, chosen in zip(items, rows, strict=True)]),
        ints("surfaces"),
        ints("impression_ts"),
        ints("creation_ts"),
    )


class Collected:
    """Outputs of device calls, put together again by request.

    Args:
        lengths: items of each request.
        num_actions: heads A.
        num_continuous: continuous heads, or None where the model has none.
    """

    def __init__(self, lengths: Sequence[int], num_actions: int, num_continuous: int | None) -> None:
        self._logits = [np.empty((length, num_actions), np.float32) for length in lengths]
        self._continuous = (
            None if num_continuous is None else [np.empty((length, num_continuous), np.float32) for length in lengths]
        )

    def add(self, turns: Sequence[Turn[Any]], logits: Floats, continuous: Floats | None) -> None:
        """Rows of one call, [turns or more, size or more, ...]."""
        for place, turn in enumerate(turns):
            # Calls come in the order of their shapes, which is not that of a request's rows.
            self._logits[turn.request][turn.rows] = logits[place, : len(turn)]
            if self._continuous is not None and continuous is not None:
                self._continuous[turn.request][turn.rows] = continuous[place, : len(turn)]

    def scores(self) -> list[Scores]:
        """One for each request."""
        rest = [None] * len(self._logits) if self._continuous is None else self._continuous
        return [Scores(logits, sigmoid(logits), extra) for logits, extra in zip(self._logits, rest, strict=True)]
