"""What candidates are before they meet a viewer, kept on the device between requests.

Up to its first look at a prefix, a candidate depends on nothing but its item, author, surface, age and the
parameters. Popular items are candidates of many viewers, so their embedding rows, projection and layer-0 queries,
keys and values need not be computed again for each of them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from phoenix_recsys.backend import CacheCounts
from phoenix_recsys.config import MAX_POST_AGE_MINUTES
from phoenix_recsys.prefix import FirstLayer

FILL_ROWS = 256
"""Items computed at a time, always: a row's bits could depend on how many are computed beside it."""

KEY = np.dtype([("item", "<u8"), ("author", "<u8"), ("surface", "<i4"), ("age", "<i4")])

Ints = npt.NDArray[np.int32]
T = TypeVar("T")
Fill = Callable[[FirstLayer, npt.NDArray[np.intp], Ints], FirstLayer]
"""Computes some items, by their numbers in the request, into rows of the slab, which it consumes."""


def item_keys(ids: npt.NDArray[np.uint64], authors: npt.NDArray[np.uint64], surfaces: Ints, ages: Ints) -> list[bytes]:
    """One key for each item: everything that its first layer depends on beside the parameters."""
    keys = np.empty(len(ids), KEY)
    keys["item"], keys["author"], keys["surface"], keys["age"] = ids, authors, surfaces, ages
    found: list[bytes] = keys.view(f"V{KEY.itemsize}").tolist()
    return found


def age_buckets(impression_ts: Ints, creation_ts: Ints, granularity_mins: int) -> Ints:
    """:func:`phoenix_recsys.inputs.post_age_bucket` on the host."""
    minutes = (impression_ts - creation_ts) // np.int32(60)
    most = MAX_POST_AGE_MINUTES // granularity_mins + 1
    bucket = np.clip(minutes // np.int32(granularity_mins) + 1, 0, most)
    unknown = (minutes < 0) | (impression_ts == 0) | (creation_ts == 0)
    return np.where(unknown, 0, bucket).astype(np.int32)


def stored(first: FirstLayer) -> FirstLayer:
    """As it lies in a slab: a bfloat16 query as its bits.

    XLA updates rows of a bfloat16 array on a CPU by way of a float32 copy of all of it.
    """
    if first.query.dtype != jnp.bfloat16:
        return first
    return first._replace(query=jax.lax.bitcast_convert_type(first.query, jnp.uint16))


def read_back(first: FirstLayer, dtype: jnp.dtype) -> FirstLayer:
    """What :func:`stored` was given."""
    if first.query.dtype == dtype:
        return first
    return first._replace(query=jax.lax.bitcast_convert_type(first.query, dtype))


class ItemCache:
    """First layers of items in a slab on the device, the least recently used dropped first.

    Safe to use from several threads; one request at a time is put together.

    Args:
        row: shapes and dtypes of one item's first layer, without a row axis.
        max_bytes: room for rows.
        most_items: items that one call can ask for; all of them must find room.

    Raises:
        ValueError: if the room does not suffice for one call.
    """

    def __init__(self, row: FirstLayer, max_bytes: int, most_items: int) -> None:
        leaves = jax.tree.leaves(row)
        self.row_bytes: int = sum(int(leaf.size) * leaf.dtype.itemsize for leaf in leaves)
        self.capacity = max_bytes // self.row_bytes
        self.max_bytes = max_bytes
        if self.capacity < most_items:
            raise ValueError(
                f"item_cache_bytes must hold the {most_items} items of one call, {self.row_bytes} bytes each: wanted "
                f"{most_items * self.row_bytes} or more, or 0 for no cache, found {max_bytes}"
            )
        self._row = row
        self._slab = self._empty()
        self._lock = threading.Lock()
        self._rows: OrderedDict[bytes, int] = OrderedDict()
        self._hits = self._misses = self._evicted = 0

    def use(self, keys: Sequence[bytes], fill: Fill, read: Callable[[FirstLayer, Ints], T]) -> T:
        """Have all items of a call in the slab, and read them.

        Args:
            keys: one for each item; an item may come several times.
            fill: computes missing items, at most :data:`FILL_ROWS` at a time.
            read: given the slab and each item's row in it, int32 [n]. It must not wait for the device, and the slab
                must not be kept: the next call changes it.
        """
        with self._lock:
            rows, missing = self._place(keys)
            try:
                for start in range(0, len(missing), FILL_ROWS):
                    part = missing[start : start + FILL_ROWS]
                    self._slab = fill(self._slab, part, rows[part])
            except BaseException:
                # The slab may have been consumed already, and the missing items have not arrived.
                self._rows.clear()
                self._slab = self._empty()
                raise
            return read(self._slab, rows)

    def clear(self) -> None:
        """Forget every item; the counts stay."""
        with self._lock:
            self._rows.clear()

    def stats(self) -> CacheCounts:
        """A consistent copy of the counts; items that come twice in a call count twice."""
        with self._lock:
            entries = len(self._rows)
            return CacheCounts(
                self._hits, 0, self._misses, self._evicted, entries, entries * self.row_bytes, self.max_bytes
            )

    def _empty(self) -> FirstLayer:
        slab: FirstLayer = jax.tree.map(lambda x: jnp.zeros((self.capacity, *x.shape), x.dtype), self._row)
        return slab

    def _place(self, keys: Sequence[bytes]) -> tuple[Ints, npt.NDArray[np.intp]]:
        """Each item's row, and the numbers of those that must be computed first."""
        rows, missing, known = np.empty(len(keys), np.int32), [], self._rows
        absent = []
        for number, key in enumerate(keys):
            row = known.get(key)
            if row is None:
                absent.append(number)
            else:
                known.move_to_end(key)
                rows[number] = row
        # Only now, when all that this call needs are the most recently used, may others make room.
        for number in absent:
            key = keys[number]
            row = known.get(key)  # the same item earlier in this call
            if row is None:
                if len(known) < self.capacity:
                    row = len(known)  # rows are taken in order, and given back all at once
                else:
                    row = known.popitem(last=False)[1]
                    self._evicted += 1
                known[key] = row
                missing.append(number)
            rows[number] = row
        self._misses += len(missing)
        self._hits += len(keys) - len(missing)
        return rows, np.array(missing, np.intp)
