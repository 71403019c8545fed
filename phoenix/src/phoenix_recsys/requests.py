"""What inference is asked about, in ids: one user's history, and the items to score."""

from __future__ import annotations

import attrs
import numpy as np
import numpy.typing as npt

from phoenix_recsys.hashing import as_uint64

UInts = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


def _ids(value: npt.ArrayLike) -> UInts:
    return as_uint64(value)


def _floats(value: npt.ArrayLike) -> Floats:
    return np.asarray(value, np.float32)


def _int32(value: npt.ArrayLike) -> Ints:
    wide = np.asarray(value)
    if wide.size and (wide.min() < -(2**31) or wide.max() >= 2**31):
        raise ValueError(f"surfaces and times must fit int32 (times are seconds, not milliseconds), found {wide.max()}")
    return wide.astype(np.int32)


def _optional_int32(value: npt.ArrayLike | None) -> Ints | None:
    return None if value is None else _int32(value)


def _optional_floats(value: npt.ArrayLike | None) -> Floats | None:
    return None if value is None else _floats(value)


def _check_lengths(owner: object, length: int, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(owner, name)
        if value is not None and value.shape[:1] != (length,):
            kind = type(owner).__name__
            raise ValueError(f"{kind}.{name} must have {length} rows as the ids have, found shape {value.shape}")


@attrs.frozen(eq=False)
class History:
    """What one user did, oldest first.

    Attributes:
        item_ids: uint64 [S]; rows with id 0 are ignored.
        author_ids: uint64 [S], 0 unknown.
        actions: float32 [S, A], 1 where the action was taken.
        surfaces: product surfaces, int32 [S], or None for 0.
        dwell_seconds: float32 [S], or None for unknown; read by the May ranker.
    """

    item_ids: UInts = attrs.field(converter=_ids)
    author_ids: UInts = attrs.field(converter=_ids)
    actions: Floats = attrs.field(converter=_floats)
    surfaces: Ints | None = attrs.field(default=None, converter=_optional_int32)
    dwell_seconds: Floats | None = attrs.field(default=None, converter=_optional_floats)

    def __attrs_post_init__(self) -> None:
        _check_lengths(self, len(self.item_ids), ("author_ids", "actions", "surfaces", "dwell_seconds"))
        if self.actions.ndim != 2:
            raise ValueError(f"History.actions must be [events, actions], found shape {self.actions.shape}")

    @classmethod
    def empty(cls, num_actions: int) -> History:
        """The history of somebody who did nothing yet."""
        return cls(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros((0, num_actions), np.float32))

    def __len__(self) -> int:
        return len(self.item_ids)

    def newest(self, count: int) -> History:
        """The last ``count`` events that name an item."""
        keep = np.flatnonzero(self.item_ids)[-count:]
        return History(
            self.item_ids[keep],
            self.author_ids[keep],
            self.actions[keep],
            None if self.surfaces is None else self.surfaces[keep],
            None if self.dwell_seconds is None else self.dwell_seconds[keep],
        )


@attrs.frozen(eq=False)
class Items:
    """Items to score.

    Attributes:
        ids: uint64 [n], none of them 0.
        author_ids: uint64 [n], 0 unknown.
        surfaces: product surfaces, int32 [n], or None for 0.
        impression_ts: when each would be shown, int32 seconds [n], or None for unknown; read by the May
            ranker.
        creation_ts: when each was posted, int32 seconds [n], or None for unknown; read by the May ranker.
    """

    ids: UInts = attrs.field(converter=_ids)
    author_ids: UInts = attrs.field(converter=_ids)
    surfaces: Ints | None = attrs.field(default=None, converter=_optional_int32)
    impression_ts: Ints | None = attrs.field(default=None, converter=_optional_int32)
    creation_ts: Ints | None = attrs.field(default=None, converter=_optional_int32)

    def __attrs_post_init__(self) -> None:
        _check_lengths(self, len(self.ids), ("author_ids", "surfaces", "impression_ts", "creation_ts"))
        if not self.ids.all():
            row = int(np.flatnonzero(self.ids == 0)[0])
            raise ValueError(f"item id 0 means padding and cannot be scored, found it at row {row}")

    def __len__(self) -> int:
        return len(self.ids)


@attrs.frozen(eq=False)
class Scores:
    """What the ranker says about n items.

    Attributes:
        logits: float32 [n, A].
        probabilities: float32 [n, A], the sigmoid of the logits.
        continuous: float32 [n, Nc] in (0, 1), or None in the January release.
    """

    logits: Floats
    probabilities: Floats
    continuous: Floats | None
