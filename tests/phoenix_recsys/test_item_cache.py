"""First layers kept between requests change no bit of any score, whatever is evicted, repeated or interrupted."""

from __future__ import annotations

import threading
from typing import Any

import attrs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_recsys import item_cache
from phoenix_recsys.artifact import Artifact
from phoenix_recsys.backend import BackendOptions, Precision
from phoenix_recsys.config import RankerConfig
from phoenix_recsys.inputs import post_age_bucket
from phoenix_recsys.item_cache import KEY, ItemCache, age_buckets, item_keys
from phoenix_recsys.prefix import FirstLayer
from phoenix_recsys.prefix_infer import PrefixRanker
from phoenix_recsys.prefix_ops import Own
from phoenix_recsys.requests import History, Items

ACTIONS = 5
ROW = FirstLayer(jnp.zeros(3), jnp.zeros(2), Own(jnp.zeros(1), jnp.zeros(2)))
ROW_BYTES = 32


def _history(rng: np.random.Generator, count: int) -> History:
    return History(rng.integers(1, 2**62, count), rng.integers(0, 2**62, count), rng.random((count, ACTIONS)) > 0.5)


def _items(rng: np.random.Generator, catalogue: int, count: int) -> Items:
    """Items out of a small catalogue, so that requests share some; their author, surface and age belong to the id."""
    ids = rng.integers(1, catalogue + 1, count)
    return Items(ids, ids * 7, ids % 16, np.full(count, 1_700_100_000), 1_700_100_000 - 1800 * (ids % 40))


def _row_bytes(artifact: Artifact, options: BackendOptions) -> int:
    kept = PrefixRanker(artifact, attrs.evolve(options, item_cache_bytes=2**20)).items
    assert kept is not None
    return kept.row_bytes


@pytest.fixture(scope="module")
def rankers(small_ranker: Artifact) -> dict[Precision, tuple[PrefixRanker, PrefixRanker]]:
    """Without and with a cache of 40 items, float32 and bfloat16."""
    made: dict[Precision, tuple[PrefixRanker, PrefixRanker]] = {}
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in precisions:
        options = BackendOptions(precision, (4, 16), batch_buckets=(2,), most_new_events=0)
        plain = PrefixRanker(small_ranker, options)
        room = 40 * _row_bytes(small_ranker, options)
        made[precision] = plain, PrefixRanker(small_ranker, attrs.evolve(options, item_cache_bytes=room))
    return made


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=4), seed=st.integers(0, 2**16))
def test_cached_items_score_as_fresh_ones(
    rankers: dict[Precision, tuple[PrefixRanker, PrefixRanker]], precision: Precision, counts: list[int], seed: int
) -> None:
    """Requests over shared items, more of them than there is room for, score as without a cache."""
    rng = np.random.default_rng(seed)
    plain, caching = rankers[precision]
    viewers = [_history(rng, int(rng.integers(0, 12))) for _ in counts]
    requests = [_items(rng, 60, count) for count in counts]
    wanted = plain.score_many(
        [(plain.prepare(i, h), r) for i, (h, r) in enumerate(zip(viewers, requests, strict=True))]
    )
    prepared = [(caching.prepare(i, h), r) for i, (h, r) in enumerate(zip(viewers, requests, strict=True))]
    first, again = caching.score_many(prepared), caching.score_many(prepared)
    for ours, theirs, repeated in zip(first, wanted, again, strict=True):
        np.testing.assert_allclose(ours.logits, theirs.logits, rtol=0, atol=2e-6 if precision == "float32" else 0.02)
        np.testing.assert_array_equal(repeated.logits, ours.logits)
        np.testing.assert_array_equal(np.asarray(repeated.continuous), np.asarray(ours.continuous))


def test_every_input_of_the_first_layer_is_in_the_key(small_ranker: Artifact) -> None:
    """Author, surface and age bucket each make another item of the same post; a second within a bucket does not."""
    ranker = PrefixRanker(small_ranker, BackendOptions(candidate_buckets=(4,), item_cache_bytes=2**16))
    viewer = ranker.prepare(7, _history(np.random.default_rng(0), 3))
    base = Items([9], [3], [1], [1_700_100_000], [1_700_050_000])
    changes: list[dict[str, Any]] = [
        {},
        {"author_ids": [4]},
        {"surfaces": [2]},
        {"creation_ts": [1_700_010_000]},
        {"impression_ts": [0]},
    ]
    plain = PrefixRanker(small_ranker, BackendOptions(candidate_buckets=(4,)))
    for change in changes:
        items = attrs.evolve(base, **change)
        wanted = plain.score_prepared(plain.prepare(7, _history(np.random.default_rng(0), 3)), items)
        np.testing.assert_allclose(ranker.score_prepared(viewer, items).logits, wanted.logits, rtol=0, atol=2e-6)
    ranker.score_prepared(viewer, attrs.evolve(base, impression_ts=[1_700_100_001]))
    counts = ranker.stats().caches["items"]
    assert (counts.misses, counts.hits) == (len(changes), 1)


def test_threads_share_the_slab(rankers: dict[Precision, tuple[PrefixRanker, PrefixRanker]]) -> None:
    """Requests from several threads at once, evicting each other's items, score as alone."""
    plain, caching = rankers["float32"]
    rng = np.random.default_rng(4)
    requests = [(number, _history(rng, 5), _items(rng, 80, 16)) for number in range(24)]
    wanted = [plain.score(*request).logits for request in requests]
    found: dict[int, Any] = {}

    def serve(mine: list[int]) -> None:
        for number in mine:
            found[number] = caching.score(*requests[number]).logits

    threads = [threading.Thread(target=serve, args=(list(range(start, 24, 4)),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, logits in enumerate(wanted):
        np.testing.assert_allclose(found[number], logits, rtol=0, atol=2e-6)
    assert caching.stats().caches["items"].evicted > 0


def test_nothing_recompiles_with_a_cache(rankers: dict[Precision, tuple[PrefixRanker, PrefixRanker]]) -> None:
    """After a warm-up no number of known and unknown items makes another program."""
    ranker = rankers["float32"][1]
    programs = ranker.warm_up()
    rng = np.random.default_rng(1)
    for count in (0, 1, 4, 5, 16, 17, 33):
        ranker.score(3, _history(rng, 4), _items(rng, 500, count))
    assert ranker.compilations == programs


def test_slot_positions_keep_no_items(small_ranker: Artifact) -> None:
    """Where a query depends on its slot nothing is kept, and nothing is asked for."""
    assert isinstance(small_ranker.config, RankerConfig)
    config = attrs.evolve(small_ranker.config, positions="slot")
    ranker = PrefixRanker(attrs.evolve(small_ranker, config=config), BackendOptions(item_cache_bytes=2**20))
    assert "items" not in ranker.stats().caches


def test_a_cache_too_small_for_one_call_is_refused(small_ranker: Artifact) -> None:
    """The error says how many bytes one call needs."""
    with pytest.raises(ValueError, match=r"item_cache_bytes must hold the 16 items of one call, \d+ bytes each"):
        PrefixRanker(small_ranker, BackendOptions(candidate_buckets=(16,), item_cache_bytes=100))


def _cache(capacity: int, most: int = 4) -> ItemCache:
    return ItemCache(ROW, capacity * ROW_BYTES, most)


def _fill(keys: list[bytes], log: list[bytes]) -> Any:
    def fill(slab: FirstLayer, part: Any, rows: Any) -> FirstLayer:
        log.extend(keys[number] for number in part)
        values = np.array([[keys[number][0]] * 3 for number in part], np.float32)
        return slab._replace(token=slab.token.at[rows].set(values))

    return fill


@settings(max_examples=60, deadline=None)
@given(calls=st.lists(st.lists(st.integers(1, 9), max_size=4), max_size=12), capacity=st.integers(4, 7))
def test_it_is_a_least_recently_used_cache(calls: list[list[int]], capacity: int) -> None:
    """Against a plain model: which items are computed, in which order they leave, and that each row is its item's."""
    cache, model, computed = _cache(capacity), list[bytes](), 0
    for call in calls:
        keys, log = [bytes([number]) for number in call], list[bytes]()
        rows = cache.use(keys, _fill(keys, log), lambda slab, rows: np.asarray(slab.token)[rows, 0])
        assert rows.tolist() == call
        known = [key for key in keys if key in model]
        for key in known:
            model.remove(key)
            model.append(key)
        missing = list(dict.fromkeys(key for key in keys if key not in model))
        model.extend(missing)
        del model[: max(len(model) - capacity, 0)]
        assert log == missing
        computed += len(missing)
    counts = cache.stats()
    assert counts.misses == computed
    assert counts.hits == sum(map(len, calls)) - computed
    assert (counts.entries, counts.nbytes) == (len(model), len(model) * ROW_BYTES)
    assert counts.evicted == computed - len(model)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_computation_leaves_nothing_behind(error: type[BaseException]) -> None:
    """Items whose computation fails, or is interrupted, are computed again; the others too, for the slab is lost."""
    cache, keys, log = _cache(6), [b"a", b"b"], list[bytes]()

    def fail(slab: FirstLayer, part: Any, rows: Any) -> FirstLayer:
        for leaf in jax.tree.leaves(slab):
            leaf.delete()  # as a call that donates it does
        raise error

    cache.use(keys[:1], _fill(keys, log), lambda slab, rows: None)
    with pytest.raises(error):
        cache.use(keys, fail, lambda slab, rows: None)
    found = cache.use(keys, _fill(keys, log), lambda slab, rows: np.asarray(slab.token)[rows, 0])
    assert found.tolist() == [ord("a"), ord("b")]
    assert log == [b"a", b"a", b"b"]


def test_many_items_are_computed_in_equal_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are missing, at most so many are computed at a time, in the order they were asked for."""
    monkeypatch.setattr(item_cache, "FILL_ROWS", 2)
    cache, keys, log, parts = _cache(5, 5), [bytes([n]) for n in range(1, 6)], list[bytes](), list[int]()
    inner = _fill(keys, log)

    def fill(slab: FirstLayer, part: Any, rows: Any) -> FirstLayer:
        parts.append(len(part))
        filled: FirstLayer = inner(slab, part, rows)
        return filled

    cache.use(keys, fill, lambda slab, rows: None)
    assert (parts, log) == ([2, 2, 1], keys)


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1)), min_size=1),
    granularity=st.sampled_from([1, 45, 60, 4800, 10_000]),
)
def test_ages_on_the_host_are_those_of_the_device(times: list[tuple[int, int]], granularity: int) -> None:
    """The same bucket for any two int32 times, also those whose difference does not fit int32."""
    shown, made = (np.array(column, np.int32) for column in zip(*times, strict=True))
    with np.errstate(over="ignore"):
        found = age_buckets(shown, made, granularity)
    np.testing.assert_array_equal(found, np.asarray(post_age_bucket(shown, made, granularity)))


def test_keys_are_exact() -> None:
    """A key is the bytes of all four parts, so no two items share one."""
    ids = np.array([1, 2**64 - 1], np.uint64)
    found = item_keys(ids, ids[::-1].copy(), np.array([0, -1], np.int32), np.array([5, 81], np.int32))
    assert [len(key) for key in found] == [KEY.itemsize] * 2
    assert np.frombuffer(found[1], KEY)[0].tolist() == (2**64 - 1, 1, -1, 81)
