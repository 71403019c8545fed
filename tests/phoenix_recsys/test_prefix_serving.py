"""Serving through prefixes: int8, batches, full windows, and thousands of requests of random size."""

from __future__ import annotations

import re
import resource
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import attrs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_requests import random_history, random_items, rows_of

from phoenix_recsys import prefix
from phoenix_recsys.artifact import Artifact
from phoenix_recsys.backend import BackendOptions, FullWindow, Precision
from phoenix_recsys.config import Positions, RankerConfig
from phoenix_recsys.golden.model_files import ranker_config, read_meta
from phoenix_recsys.plain_backend import JitRanker
from phoenix_recsys.prefix_infer import EncodedUser, PrefixRanker
from phoenix_recsys.prefix_inputs import split_batch
from phoenix_recsys.prefix_weights import arrange
from phoenix_recsys.quantized_weights import QuantizedMatrix, quantize_params
from phoenix_recsys.requests import History

FIXTURE = Path(__file__).parent / "fixtures" / "may_ranker_tiny.npz"
ACTIONS = 5
SEED = st.integers(0, 2**16)


def _first(history: History, count: int) -> History:
    return rows_of(history, slice(count))


@pytest.fixture(scope="module")
def served(strong_ranker: Artifact) -> dict[Precision, PrefixRanker]:
    """Warmed-up rankers with a batch of three, two history buckets and a prefix cache, by precision."""
    options = BackendOptions(
        "float32", candidate_buckets=(4, 16), history_buckets=(6,), batch_buckets=(1, 3), most_new_events=4
    )
    made: dict[Precision, PrefixRanker] = {}
    precisions: tuple[Precision, ...] = ("float32", "int8")
    for precision in precisions:
        made[precision] = PrefixRanker(strong_ranker, attrs.evolve(options, precision=precision))
        made[precision].warm_up()
    return made


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(0, 14), st.integers(0, 20)), min_size=1, max_size=5), seed=SEED)
def test_merged_requests_score_as_alone(
    served: dict[Precision, PrefixRanker], sizes: list[tuple[int, int]], seed: int
) -> None:
    """Requests of several viewers in one call, whatever their sizes, score as one by one, in their own order."""
    rng, ranker = np.random.default_rng(seed), served["float32"]
    requests = [
        (ranker.encode(i, random_history(rng, events)), random_items(rng, count))
        for i, (events, count) in enumerate(sizes)
    ]
    programs = ranker.compilations
    found = ranker.score_many(requests)
    for request, scores in zip(requests, found, strict=True):
        wanted = ranker.score_prepared(*request)
        np.testing.assert_allclose(scores.logits, wanted.logits, rtol=0, atol=5e-5)
        assert len(scores.logits) == len(request[1])
    assert ranker.compilations == programs


def test_rows_of_a_batch_do_not_feel_each_other(served: dict[Precision, PrefixRanker]) -> None:
    """A request scores bit for bit the same beside whichever other viewers share its call."""
    rng, ranker = np.random.default_rng(0), served["float32"]
    mine = ranker.encode(1, random_history(rng, 9)), random_items(rng, 10)
    others = [(ranker.encode(i, random_history(rng, 8)), random_items(rng, 12)) for i in range(2, 6)]
    first = ranker.score_many([mine, *others[:2]])[0]
    second = ranker.score_many([mine, *others[2:]])[0]
    np.testing.assert_array_equal(first.logits, second.logits)


@settings(max_examples=15, deadline=None)
@given(events=st.integers(0, 14), count=st.integers(1, 20), seed=SEED)
def test_int8_scores_are_close(served: dict[Precision, PrefixRanker], events: int, count: int, seed: int) -> None:
    """Weights, tokens and table rows in int8 move logits by little, for any history and number of items."""
    rng = np.random.default_rng(seed)
    history, items = random_history(rng, events), random_items(rng, count)
    found = served["int8"].score(7, history, items).logits
    wanted = served["float32"].score(7, history, items).logits
    assert found.dtype == np.float32
    # The tolerance of int8: .08 in the mean and 1 at most, on logits of about this size.
    scale = max(1.0, float(np.sqrt(np.mean(np.square(wanted)))))
    assert np.abs(found - wanted).mean() <= 0.08 * scale
    assert np.abs(found - wanted).max() < 1.0 * scale


def test_int8_is_the_same_whoever_quantises(strong_ranker: Artifact) -> None:
    """Parameters quantised beforehand are taken as they are and score bit for bit as those quantised at loading."""
    rng = np.random.default_rng(1)
    options = BackendOptions("int8", candidate_buckets=(4,))
    history, items = random_history(rng, 5), random_items(rng, 4)
    wanted = PrefixRanker(strong_ranker, options).score(7, history, items).logits
    quantised = attrs.evolve(strong_ranker, params=quantize_params(strong_ranker.params))
    np.testing.assert_array_equal(PrefixRanker(quantised, options).score(7, history, items).logits, wanted)
    assert isinstance(PrefixRanker(strong_ranker, options).weights.heads, QuantizedMatrix)


def test_int8_products_are_whole_numbers_on_a_fast_unit(tiny: Any) -> None:
    """Every product of the int8 program takes int8 or bfloat16 inputs, none of them float32."""
    config = ranker_config(read_meta(FIXTURE, tiny.arrays), "float32", "anchored")
    weights = arrange(tiny.params, config, "int8")
    users, events, candidates = split_batch(tiny.batch, tiny.embeddings)
    encoded = jax.jit(lambda w: prefix.encode(w, config, users, events)).lower(weights)
    text = str(encoded.as_text()) + str(
        jax.jit(lambda w, p: prefix.score(w, config, p, candidates, None))
        .lower(weights, jax.eval_shape(lambda w: prefix.encode(w, config, users, events), weights))
        .as_text()
    )
    kinds = set(re.findall(r"dot_general.*: \(tensor<[\dx]*(\w+)>, tensor<[\dx]*(\w+)>\)", text))
    assert kinds <= {("bf16", "bf16"), ("i8", "i8")}
    assert kinds


@pytest.mark.parametrize("positions", ["anchored", "slot"])
def test_a_full_window_drops_eighths(strong_ranker: Artifact, positions: Positions) -> None:
    """With ``eighths`` a long history is read from every so many events on, and a prefix is extended in between."""
    assert isinstance(strong_ranker.config, RankerConfig)
    window = 16
    config = attrs.evolve(strong_ranker.config, positions=positions, history_seq_len=window, candidate_seq_len=4)
    artifact = attrs.evolve(strong_ranker, config=config)
    options = BackendOptions(candidate_buckets=(4,), full_window="eighths", most_new_events=1)
    ranker, plain = PrefixRanker(artifact, options), JitRanker(artifact, options)
    rng = np.random.default_rng(2)
    history, items = random_history(rng, 30), random_items(rng, 4)
    for events in range(14, 31):
        so_far = _first(history, events)
        read = ranker.recent(so_far)
        dropped = events - len(read)
        assert dropped % 2 == 0, "an eighth of 16"
        assert min(events, window - 1) <= len(read) <= window
        np.testing.assert_array_equal(read.item_ids, so_far.item_ids[dropped:])
        np.testing.assert_array_equal(ranker.recent(read).item_ids, read.item_ids)
        scores = ranker.score(7, so_far, items)
        np.testing.assert_allclose(scores.logits, plain.score(7, so_far, items).logits, rtol=0, atol=5e-5)
    counts = ranker.stats().caches["prefixes"]
    # Encoded at 14, and at 17, 19, … 29, where the oldest two leave; extended at the others.
    assert (counts.hits, counts.misses, counts.extended) == (0, 8, 9)


@settings(max_examples=100, deadline=None)
@given(
    window=st.integers(1, 40),
    events=st.integers(0, 200),
    holes=st.integers(0, 5),
    how=st.sampled_from(["slide", "eighths"]),
)
def test_what_a_window_reads(strong_ranker: Artifact, window: int, events: int, holes: int, how: FullWindow) -> None:
    """Never more than the window, never less than seven eighths of a full one, always the newest."""
    ids = np.concatenate([np.zeros(holes, np.int64), np.arange(1, events + 1)])
    history = History(ids, ids, np.zeros((len(ids), ACTIONS)))
    served = PrefixRanker.__new__(PrefixRanker)
    assert isinstance(strong_ranker.config, RankerConfig)
    served.config, served.full_window = attrs.evolve(strong_ranker.config, history_seq_len=window), how
    read = served.recent(history)
    least = min(events, window if how == "slide" else window - max(1, window // 8) + 1)
    assert least <= len(read) <= min(events, window)
    np.testing.assert_array_equal(read.item_ids, np.arange(events - len(read) + 1, events + 1))


def test_one_viewer_is_encoded_once_for_many_threads(strong_ranker: Artifact) -> None:
    """Threads that ask for one viewer at a time get one and the same prefix, encoded once."""
    ranker = PrefixRanker(strong_ranker, BackendOptions(candidate_buckets=(4,)))
    encoded, barrier = [0], threading.Barrier(8)
    inner, history, found = ranker.encode, random_history(np.random.default_rng(3), 7), list[EncodedUser]()

    def encode(user_id: int, history: History) -> EncodedUser:
        encoded[0] += 1
        return inner(user_id, history)

    ranker.encode = encode  # type: ignore[method-assign] # to count calls

    def ask() -> None:
        barrier.wait()
        found.append(ranker.prepare(7, history))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert encoded == [1]
    assert len(found) == 8
    assert all(user is found[0] for user in found)


def test_5000_requests_compile_nothing_and_keep_memory_flat(strong_ranker: Artifact) -> None:
    """Random viewers, histories, numbers of items and batches: no program is added and memory stays where it was."""
    options = BackendOptions(
        "bfloat16",
        candidate_buckets=(4, 16),
        history_buckets=(6,),
        batch_buckets=(1, 2),
        cache_bytes=40_000,
        item_cache_bytes=40_000,
        most_new_events=4,
    )
    ranker, rng = PrefixRanker(strong_ranker, options), np.random.default_rng(6)
    programs = ranker.warm_up()
    histories = [random_history(rng, 20) for _ in range(40)]
    catalogue = random_items(rng, 400)

    def serve(requests: int) -> None:
        done = 0
        while done < requests:
            batch = []
            for _ in range(int(rng.integers(1, 4))):
                viewer, events = int(rng.integers(40)), int(rng.integers(0, 21))
                rows = rng.integers(0, 400, int(rng.integers(0, 40)))
                items = rows_of(catalogue, rows)
                batch.append((ranker.prepare(viewer, _first(histories[viewer], events)), items))
            assert [len(scores.logits) for scores in ranker.score_many(batch)] == [len(items) for _, items in batch]
            done += len(batch)

    serve(1000)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    arrays = len(jax.live_arrays())  # type: ignore[no-untyped-call] # jax
    tracemalloc.start()
    try:
        serve(200)
        before = tracemalloc.get_traced_memory()[0]
        serve(200)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    serve(3600)
    assert ranker.compilations == programs
    counts = ranker.stats().caches
    assert counts["prefixes"].evicted > 0
    assert counts["items"].evicted > 0
    assert min(counts["prefixes"].hits, counts["prefixes"].extended, counts["items"].hits) > 0
    live = len(jax.live_arrays())  # type: ignore[no-untyped-call] # jax
    assert abs(live - arrays) < 100, "a few prefixes more or less in the cache"
    assert grown < 200_000, "bytes of Python objects in 200 requests"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 50_000, "KiB"


def test_values_carry_their_mask(served: dict[Precision, PrefixRanker]) -> None:
    """Padding has neither value nor mask in what attention reads, so its weight counts for nothing."""
    user = served["float32"].encode(7, random_history(np.random.default_rng(8), 9))
    valid, size = np.asarray(user.prefix.valid)[0], 16
    assert valid.sum() == 10
    for values in map(np.asarray, user.prefix.values):
        assert (values[:, :, ~valid] == 0).all()
        assert (values[:, :, valid, size] == 1).all()
        assert (values[..., size + 1 :] == 0).all()
    assert jnp.dtype(user.prefix.keys[0].dtype) == jnp.float32
