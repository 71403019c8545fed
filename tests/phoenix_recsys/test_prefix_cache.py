"""The prefix cache keeps to its bytes, drops the longest unused, and finds what a history has grown from."""

from __future__ import annotations

import threading
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_recsys.prefix_cache import PrefixCache, PrefixKey, history_digests


@attrs.frozen
class Value:
    """A value of some bytes."""

    nbytes: int


def _key(user: int, events: int = 0, history: bytes = b"") -> PrefixKey:
    return PrefixKey(user, "v1", "float32", "anchored", 8, events, history)


def test_the_least_recently_used_goes_first() -> None:
    """A look-up keeps an entry; room is made by dropping the one unused for longest."""
    cache: PrefixCache[Value] = PrefixCache(30)
    for user in (1, 2, 3):
        cache.put(_key(user), Value(10))
    assert cache.lookup([_key(1)]) is not None
    cache.put(_key(4), Value(10))
    assert cache.lookup([_key(2)]) is None
    assert cache.lookup([_key(1)]) is not None
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.evicted, stats.entries, stats.nbytes) == (2, 1, 1, 3, 30)


def test_what_is_too_large_is_not_kept() -> None:
    """A value larger than the whole cache drops nothing else, and takes its own old entry with it."""
    cache: PrefixCache[Value] = PrefixCache(30)
    cache.put(_key(1), Value(10))
    cache.put(_key(2), Value(10))
    cache.put(_key(1), Value(31))
    assert cache.lookup([_key(1)]) is None
    assert cache.lookup([_key(2)]) is not None
    assert cache.stats().nbytes == 10


def test_the_longest_known_history_is_found() -> None:
    """Of a history's keys at falling lengths the longest one cached is found, and counted by what it lacks."""
    cache: PrefixCache[Value] = PrefixCache(100)
    cache.put(_key(1, 3, b"three"), Value(3))
    cache.put(_key(1, 5, b"five"), Value(5))
    keys = [_key(1, 6, b"six"), _key(1, 5, b"five"), _key(1, 4, b"four"), _key(1, 3, b"three")]
    found = cache.lookup(keys)
    assert found is not None
    assert (found.key, found.value, found.missing) == (keys[1], Value(5), 1)
    cache.put(keys[0], Value(6), replaces=found.key)
    hit = cache.lookup(keys)
    assert hit is not None
    assert hit.missing == 0
    stats = cache.stats()
    assert (stats.hits, stats.extended, stats.misses, stats.evicted, stats.entries, stats.nbytes) == (1, 1, 0, 0, 2, 9)
    cache.clear()
    assert cache.lookup(keys) is None
    assert cache.stats().nbytes == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 40)), max_size=60), st.integers(0, 100))
def test_bytes_are_what_is_held(operations: list[tuple[int, int]], room: int) -> None:
    """Whatever is put in whatever order, the count of bytes is that of the entries and never above the limit."""
    cache: PrefixCache[Value] = PrefixCache(room)
    sizes: dict[int, int] = {}
    for user, size in operations:
        cache.put(_key(user), Value(size))
        sizes[user] = size
        assert cache.stats().nbytes <= room
    kept = [user for user in sizes if cache.lookup([_key(user)]) is not None]
    assert cache.stats().nbytes == sum(sizes[user] for user in kept)
    assert cache.stats().entries == len(kept)


def test_threads_may_share_it() -> None:
    """Eight threads putting and looking up leave counts that add up."""
    cache: PrefixCache[Value] = PrefixCache(50)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for user in rng.integers(0, 20, 300):
            if cache.lookup([_key(int(user))]) is None:
                cache.put(_key(int(user)), Value(10))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = cache.stats()
    assert stats.hits + stats.misses == 2400
    assert stats.nbytes == 10 * stats.entries == 50


FIELDS = st.integers(0, 12).flatmap(
    lambda n: st.integers(0, 2**32 - 1).map(
        lambda seed: [
            np.random.default_rng(seed).integers(0, 2**62, n).astype(np.uint64),
            np.random.default_rng(seed + 1).random((n, 3)).astype(np.float32),
        ]
    )
)


@settings(deadline=None)
@given(fields=FIELDS, data=st.data())
def test_digests_chain(fields: list[Any], data: st.DataObject) -> None:
    """A history's digest is among those of the history grown from it, and all lengths differ."""
    count = len(fields[0])
    shortest = data.draw(st.integers(0, count))
    digests = history_digests(fields, shortest)
    assert len(digests) == len(set(digests)) == count - shortest + 1
    for ago, digest in enumerate(digests):
        assert history_digests([field[: count - ago] for field in fields], count - ago) == [digest]


def test_digests_tell_dtypes_and_shapes_apart() -> None:
    """The same bytes under another dtype, width or order of arrays have another digest."""
    a, b = np.zeros((4, 2), np.float32), np.zeros(4, np.int64)
    variants: list[list[Any]] = [[a, b], [b, a], [a, b.view(np.uint64)], [a.view(np.int32), b], [a.reshape(4, 2, 1), b]]
    assert len({history_digests(fields, 4)[0] for fields in variants}) == len(variants)
    assert len({history_digests([field[:0] for field in fields], 0)[0] for fields in variants}) == len(variants)


def test_unusable_arguments_say_why() -> None:
    """Negative room, ragged histories and impossible lengths are refused."""
    with pytest.raises(ValueError, match="max_bytes"):
        PrefixCache(-1)
    with pytest.raises(ValueError, match=r"equally many rows, found \[2, 3\]"):
        history_digests([np.zeros(2), np.zeros(3)], 0)
    with pytest.raises(ValueError, match=r"0 … 2, found 3"):
        history_digests([np.zeros(2)], 3)
