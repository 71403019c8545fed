"""What the trainer reads: who did what with which item when, as plain arrays."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from phoenix_recsys.training.errors import TrainingError

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


def _int64(values: npt.ArrayLike) -> Int64:
    array = np.asarray(values)
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.dtype.kind == "u":
        return np.ascontiguousarray(array, np.uint64).view(np.int64)
    if array.dtype.kind != "i":
        raise TrainingError(f"ids and times must be integers, found an array of {array.dtype}")
    return array.astype(np.int64)


def _float32(values: npt.ArrayLike) -> Float32:
    return np.asarray(values, np.float32)


def _optional_float32(values: npt.ArrayLike | None) -> Float32 | None:
    return None if values is None else _float32(values)


def _names(value: Iterable[str]) -> tuple[str, ...]:
    return tuple(value)


@attrs.frozen(eq=False)
class Catalogue:
    """The items that exist, in any order.

    Attributes:
        item_ids: int64 [N], distinct, none 0 (uint64 values are reinterpreted).
        author_ids: int64 [N]; 0 for none.
        created_at: milliseconds, int64 [N]; 0 for unknown.
    """

    item_ids: Int64 = attrs.field(converter=_int64)
    author_ids: Int64 = attrs.field(converter=_int64)
    created_at: Int64 = attrs.field(converter=_int64)

    def __attrs_post_init__(self) -> None:
        _same_length("catalogue", item_ids=self.item_ids, author_ids=self.author_ids, created_at=self.created_at)
        if len(np.unique(self.item_ids)) != len(self.item_ids):
            values, counts = np.unique(self.item_ids, return_counts=True)
            raise TrainingError(f"catalogue: item id {values[counts > 1][0]} stands there more than once; keep one row")
        if (self.item_ids == 0).any():
            raise TrainingError("catalogue: item id 0 means padding; give every item another id")


@attrs.frozen(eq=False)
class Interactions:
    """Events: one row a person, item and time, with everything that person did then (multi-hot).

    The order of the rows is the file order: it decides between events of equal time where an order is needed, and
    is never taken for time. A row without any action is an item that was shown and left alone; rows like it are the
    ranker's negatives. Where the data has none, the trainer draws unrated items instead.

    Attributes:
        user_ids: int64 [E], none 0.
        item_ids: int64 [E], all in the catalogue.
        times: milliseconds, int64 [E].
        actions: float32 [E, A], 1 where the action happened and 0 elsewhere.
        action_names: A distinct names, the heads of the models.
        catalogue: the items.
        dwell_seconds: float32 [E] or None: time on screen; used for history tokens only.
    """

    user_ids: Int64 = attrs.field(converter=_int64)
    item_ids: Int64 = attrs.field(converter=_int64)
    times: Int64 = attrs.field(converter=_int64)
    actions: Float32 = attrs.field(converter=_float32)
    action_names: tuple[str, ...] = attrs.field(converter=_names)
    catalogue: Catalogue
    dwell_seconds: Float32 | None = attrs.field(default=None, converter=_optional_float32)

    def __attrs_post_init__(self) -> None:
        columns: dict[str, npt.NDArray[Any]] = {
            "user_ids": self.user_ids,
            "item_ids": self.item_ids,
            "times": self.times,
            "actions": self.actions,
        }
        if self.dwell_seconds is not None:
            columns["dwell_seconds"] = self.dwell_seconds
        _same_length("events", **columns)
        if self.actions.ndim != 2 or self.actions.shape[1] != len(self.action_names):
            wanted = f"[{len(self.user_ids)}, {len(self.action_names)}], one column per name"
            raise TrainingError(f"events: actions must have shape {wanted}, found {list(self.actions.shape)}")
        if len(set(self.action_names)) != len(self.action_names):
            raise TrainingError(f"events: action names must be distinct, found {', '.join(self.action_names)}")
        for name in ("actions", "dwell_seconds"):
            values = columns.get(name)
            if values is not None and not np.isfinite(values).all():
                row = int(np.argwhere(~np.isfinite(values))[0, 0])
                raise TrainingError(f"events: {name} of row {row} is not a finite number; correct or leave out the row")
        if ((self.actions != 0.0) & (self.actions != 1.0)).any():
            row = int(np.argwhere((self.actions != 0.0) & (self.actions != 1.0))[0, 0])
            raise TrainingError(f"events: actions must be 0 or 1, found {self.actions[row].tolist()} in row {row}")
        if (self.user_ids == 0).any():
            row = int(np.argmax(self.user_ids == 0))
            raise TrainingError(f"events: user id 0 means padding, found in row {row}; give every person another id")
        unknown = ~np.isin(self.item_ids, self.catalogue.item_ids)
        if unknown.any():
            row = int(np.argmax(unknown))
            raise TrainingError(
                f"events: {int(unknown.sum())} rows name items that the catalogue lacks, the first is item "
                f"{self.item_ids[row]} in row {row}; add the items or leave out the rows"
            )

    def __len__(self) -> int:
        return len(self.user_ids)

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Interactions:
        """The events of a mask or of row numbers, with the whole catalogue."""
        dwell = None if self.dwell_seconds is None else self.dwell_seconds[rows]
        return attrs.evolve(
            self,
            user_ids=self.user_ids[rows],
            item_ids=self.item_ids[rows],
            times=self.times[rows],
            actions=self.actions[rows],
            dwell_seconds=dwell,
        )

    def before(self, cutoff: int | Mapping[int, int]) -> Interactions:
        """The events strictly before a time.

        Args:
            cutoff: milliseconds for all, or per user id; users outside the mapping keep all their events. For a
                leave-last-out split give each user the time of the target: nothing at or after it then enters training.
        """
        if not isinstance(cutoff, Mapping):
            return self.take(self.times < int(cutoff))
        limits = np.full(len(self), np.iinfo(np.int64).max)
        users, index = np.unique(self.user_ids, return_inverse=True)
        per_user = np.array([cutoff.get(int(user), np.iinfo(np.int64).max) for user in users], np.int64)
        if len(users):
            limits = per_user[index]
        return self.take(self.times < limits)

    def fingerprint(self) -> str:
        """A SHA-256 over all arrays and names: equal data, equal order, equal fingerprint."""
        digest = hashlib.sha256("\0".join(self.action_names).encode())
        arrays: list[npt.NDArray[Any]] = [self.user_ids, self.item_ids, self.times, self.actions]
        arrays += [self.catalogue.item_ids, self.catalogue.author_ids, self.catalogue.created_at]
        arrays += [] if self.dwell_seconds is None else [self.dwell_seconds]
        for array in arrays:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def columns_of(self, names: Iterable[str], asked_by: str) -> npt.NDArray[np.intp]:
        """Column numbers of action names.

        Raises:
            TrainingError: if the data has no such action; says who asked and the nearest name.
        """
        names = list(names)
        for name in names:
            if name not in self.action_names:
                near = difflib.get_close_matches(name, self.action_names, 1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                have = ", ".join(self.action_names)
                raise TrainingError(f"{asked_by} names the action {name!r}; {hint}The data has {have}")
        return np.array([self.action_names.index(name) for name in names], np.intp)


def _same_length(what: str, **columns: npt.NDArray[Any]) -> None:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise TrainingError(f"{what}: all columns must have one length, found {found}")
