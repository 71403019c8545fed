"""Encoded prefixes by what they were encoded from, the least recently used dropped first; imports no JAX."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from phoenix_recsys.backend import CacheCounts

DIGEST_BYTES = 16


class Sized(Protocol):
    """A value that knows its bytes."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""


V = TypeVar("V", bound=Sized)


@attrs.frozen
class PrefixKey:
    """Everything that an encoded prefix depends on.

    Attributes:
        user_id: the viewer.
        model: version of parameters and tables; equal only where both are.
        precision: of the products.
        positions: the scheme.
        bucket: padded history length.
        events: how many of its places are taken.
        history: digest of all history inputs, see :func:`history_digests`.
    """

    user_id: int
    model: str
    precision: str
    positions: str
    bucket: int
    events: int
    history: bytes


@attrs.frozen
class Found(Generic[V]):
    """A cached prefix.

    Attributes:
        key: of the prefix found.
        value: the prefix.
        missing: newest events that it lacks; 0 is a hit.
    """

    key: PrefixKey
    value: V
    missing: int


def history_digests(fields: Sequence[npt.NDArray[np.generic]], shortest: int) -> list[bytes]:
    """Digests of a history at several lengths, the whole first.

    A digest at length n covers the first n rows of every array, and every array's dtype and row shape; it
    does not depend on the rows that follow. So the digest of a history before it grew is among those of the
    grown one. BLAKE2b (RFC 7693), 16 bytes; rows are hashed once whatever the number of lengths.

    Args:
        fields: arrays of n rows each, oldest event first.
        shortest: the shortest length wanted, 0 … n.

    Raises:
        ValueError: if the arrays differ in rows, or ``shortest`` lies outside.
    """
    lengths = {len(field) for field in fields}
    if len(lengths) != 1:
        raise ValueError(f"history_digests wants arrays of equally many rows, found {sorted(lengths)}")
    (count,) = lengths
    if not 0 <= shortest <= count:
        raise ValueError(f"history_digests wants a shortest length in 0 … {count}, found {shortest}")
    header = repr([(field.dtype.str, field.shape[1:]) for field in fields]).encode()
    # One record of bytes per event, so that a longer history begins with the bytes of a shorter one.
    records = np.concatenate(
        [np.ascontiguousarray(field).reshape(count, -1).view(np.uint8).reshape(count, -1) for field in fields]
        if count
        else [np.zeros((0, 1), np.uint8)],
        axis=1,
    )
    state = hashlib.blake2b(header, digest_size=DIGEST_BYTES)
    state.update(records[:shortest].tobytes())
    digests = [state.digest()]
    for row in records[shortest:]:
        state.update(row.tobytes())
        digests.append(state.digest())
    return digests[::-1]


class PrefixCache(Generic[V]):
    """Prefixes in at most ``max_bytes``, safe to use from several threads.

    Values are shared, never copied: nobody may change one. A value larger than the cache is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ValueError(f"PrefixCache wants max_bytes of 0 or more, found {max_bytes}")
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[PrefixKey, tuple[V, int]] = OrderedDict()
        self._nbytes = self._hits = self._extended = self._misses = self._evicted = 0

    def lookup(self, keys: Sequence[PrefixKey]) -> Found[V] | None:
        """The first of ``keys`` that is here: those of one history at falling lengths, the whole first.

        Counts a hit, an extension, or a miss.
        """
        with self._lock:
            for key in keys:
                entry = self._entries.get(key)
                if entry is None:
                    continue
                self._entries.move_to_end(key)
                missing = keys[0].events - key.events
                if missing:
                    self._extended += 1
                else:
                    self._hits += 1
                return Found(key, entry[0], missing)
            self._misses += 1
            return None

    def put(self, key: PrefixKey, value: V, *, replaces: PrefixKey | None = None) -> None:
        """Keep ``value``, and drop the entry it ``replaces`` (not counted as evicted)."""
        size = value.nbytes
        with self._lock:
            for old in {key, key if replaces is None else replaces}:
                dropped = self._entries.pop(old, None)
                if dropped is not None:
                    self._nbytes -= dropped[1]
            if size > self.max_bytes:
                return
            self._entries[key] = (value, size)
            self._nbytes += size
            while self._nbytes > self.max_bytes:
                _, (_, freed) = self._entries.popitem(last=False)
                self._nbytes -= freed
                self._evicted += 1

    def clear(self) -> None:
        """Drop every prefix; the counts stay."""
        with self._lock:
            self._entries.clear()
            self._nbytes = 0

    def peek(self, key: PrefixKey) -> V | None:
        """What is kept under ``key``; neither counted nor taken for a use."""
        with self._lock:
            entry = self._entries.get(key)
            return None if entry is None else entry[0]

    def stats(self) -> CacheCounts:
        """A consistent copy of the counts."""
        with self._lock:
            return CacheCounts(
                self._hits,
                self._extended,
                self._misses,
                self._evicted,
                len(self._entries),
                self._nbytes,
                self.max_bytes,
            )
