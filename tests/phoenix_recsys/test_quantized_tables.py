"""Embedding tables in int8: quantised within half a step, gathered at once, as many rows as a disk holds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from phoenix_recsys.errors import ArtifactError
from phoenix_recsys.hashing import RESERVED_ROWS, HashParams
from phoenix_recsys.inputs import RankerBatch, RetrievalBatch
from phoenix_recsys.quantized_rows import quantize_rows
from phoenix_recsys.quantized_tables import (
    QuantizedTable,
    QuantizedTables,
    reserve_tables,
    write_tables,
)
from phoenix_recsys.tables import EmbeddingTables

SIZES, WIDTH = (40, 300, 50), 8
TOTAL = RESERVED_ROWS + sum(SIZES)
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FLOATS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 6)), elements=st.floats(width=32, allow_nan=False)
).filter(lambda block: bool(np.isfinite(block).all()))
ROWS = hnp.arrays(
    np.int64, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=12), elements=st.integers(0, TOTAL - 1)
)


# --- quantising ---------------------------------------------------------------------------------------------------


@given(block=FLOATS)
@settings(max_examples=300, deadline=None)
def test_rows_come_back_within_half_a_step(block: npt.NDArray[np.float32]) -> None:
    """Every finite float32 row, subnormal or huge, is off by half its scale at most, up to float32 rounding."""
    rows, scales = quantize_rows(block)
    assert rows.dtype == np.int8
    assert scales.dtype == np.float32
    assert rows.min() >= -127
    back = rows.astype(np.float64) * scales[:, None].astype(np.float64)
    error = np.abs(block.astype(np.float64) - back)
    assert (error <= scales[:, None].astype(np.float64) * 0.5 * (1 + 2e-5)).all()
    largest = np.abs(block).max(axis=1)
    assert np.array_equal(scales == 0, largest == 0)
    normal = (largest > 1e-30) & (largest < 1e38)  # at both ends the scale gives way by its last digit
    assert np.array_equal(scales[normal], (largest / np.float32(127))[normal])
    assert (np.abs(rows).max(axis=1)[normal] == 127).all()


def test_ties_go_to_the_even_step() -> None:
    """With a scale of 1, halves round to the even neighbour on both sides of zero."""
    rows, scales = quantize_rows(np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]], np.float32))
    assert scales.tolist() == [1]
    assert rows.tolist() == [[127, 0, 2, 2, 0, -2, -2]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_row(value: float) -> None:
    """The message gives table, row and column, counted over all blocks."""
    table = np.ones((100, 4), np.float32)
    table[71, 2] = value
    with pytest.raises(ValueError, match=rf"item: .*found {value} in row 71, column 2"):
        QuantizedTable.quantize(table, chunk_rows=16, name="item")


def test_the_largest_float_stays_finite() -> None:
    """The scale of the largest float32 does not round so far up that the row overflows on its way back."""
    largest = np.finfo(np.float32).max
    table = QuantizedTable.quantize(np.array([[largest, -largest, 1]], np.float32))
    assert np.isfinite(table.dequantize([0])).all()


def test_values_beyond_float32_and_integers_are_refused() -> None:
    """A float64 that overflows is not made infinite, and integers are no embeddings."""
    with pytest.raises(ValueError, match=r"finite numbers in float32, found 1e\+39 in row 1"):
        quantize_rows(np.array([[1.0], [1e39]]))
    with pytest.raises(TypeError, match="floating point numbers, found int64"):
        quantize_rows(np.ones((2, 2), np.int64))


@given(block=FLOATS, chunk=st.integers(1, 10))
@FEW
def test_every_kind_of_source_gives_the_same(block: npt.NDArray[np.float32], chunk: int) -> None:
    """An array, an iterator of rows out of one buffer, blocks, and a mixture quantise to the same bytes."""

    def reused() -> Iterator[npt.NDArray[np.float32]]:
        buffer = np.empty_like(block[0])
        for row in block:
            buffer[:] = row
            yield buffer

    half = len(block) // 2
    wanted_rows, wanted_scales = quantize_rows(block)
    for source in (block, reused(), iter([block[:half], block[half:]]), [*block[:half], block[half:]]):
        found = QuantizedTable.quantize(source, chunk_rows=chunk)
        assert np.array_equal(found.rows, wanted_rows)
        assert np.array_equal(found.scales, wanted_scales)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16, "jax"])
def test_other_float_dtypes_are_taken(dtype: Any) -> None:
    """Half precision, double precision, bfloat16 and JAX arrays quantise as their float32 values do."""
    block = np.linspace(-1, 1, 60).reshape(10, 6).astype(np.float16)
    source = jnp.asarray(block) if dtype == "jax" else block.astype(dtype)
    found = QuantizedTable.quantize(source, chunk_rows=4)
    wanted = quantize_rows(np.asarray(source).astype(np.float32))
    assert np.array_equal(found.rows, wanted[0])
    assert np.array_equal(found.scales, wanted[1])


def test_rows_of_several_widths_and_no_rows_are_refused() -> None:
    """A width that changes on the way is reported with the row, and so is an empty source."""
    with pytest.raises(ValueError, match=r"item: wanted rows of shape \[3\], found \[4\] from row 2 on"):
        QuantizedTable.quantize([np.ones((2, 3)), np.ones((1, 4))], name="item")
    with pytest.raises(ValueError, match=r"wanted rows of shape \[3\], found \[4\] from row 1 on"):
        QuantizedTable.quantize([np.ones(3), np.ones(4)])
    with pytest.raises(ValueError, match="at least one row"):
        QuantizedTable.quantize(iter([]))
    with pytest.raises(ValueError, match="found a single float"):
        QuantizedTable.quantize([1.0])
    with pytest.raises(ValueError, match="chunk_rows must be positive"):
        QuantizedTable.quantize(np.ones((1, 1)), chunk_rows=0)


def test_only_one_block_of_floats_is_held(tmp_path: Path) -> None:
    """Writing asks its source for the next rows only when those before are on their way to the disk."""
    written: list[tuple[str, int]] = []

    def rows() -> Iterator[npt.NDArray[np.float32]]:
        for number in range(100):
            assert number - (written[-1][1] if written else 0) <= 16
            yield np.full(4, number, np.float32)

    table = np.ones((3, 4), np.float32)
    write_tables(
        tmp_path / "t",
        user=rows(),
        item=table,
        author=table,
        chunk_rows=16,
        progress=lambda name, count: written.append((name, count)),
    )
    assert [count for name, count in written if name == "user"] == [16, 32, 48, 64, 80, 96, 100]
    assert written[-2:] == [("item", 3), ("author", 3)]


# --- lookups ------------------------------------------------------------------------------------------------------


def test_lookup_of_all_rows_equals_the_float_tables(tables: QuantizedTables, floats: EmbeddingTables) -> None:
    """65 zero rows, then the three tables within half a step; the tables take a third of the space."""
    found, wanted = tables.lookup(np.arange(TOTAL)), floats.lookup(np.arange(TOTAL))
    assert tables.num_rows == TOTAL
    assert not found[:RESERVED_ROWS].any()
    step = np.abs(wanted).max(axis=1, keepdims=True) / 127
    assert (np.abs(found - wanted) <= step * 0.50001).all()
    assert tables.nbytes == sum(SIZES) * (WIDTH + 4)
    assert tables.emb_size == WIDTH


@given(rows=ROWS)
@FEW
def test_gather_with_and_without_repeats_removed_is_the_lookup(
    rows: npt.NDArray[np.int64], tables: QuantizedTables
) -> None:
    """Both ways of gathering give the same int8 rows and scales in the shape asked for; their product is the lookup."""
    (once, once_scales), (each, each_scales) = tables.gather(rows), tables.gather(rows, dedup=False)
    assert once.shape == (*rows.shape, WIDTH)
    assert once.dtype == np.dtype(np.int8)
    assert once_scales.dtype == np.dtype(np.float32)
    assert np.array_equal(once, each)
    assert np.array_equal(once_scales, each_scales)
    assert np.array_equal(once * once_scales[..., None], tables.lookup(rows))
    distinct, scales, places = tables.gather_distinct(rows)
    assert len(distinct) == len(scales) == np.unique(rows).size
    assert np.array_equal(distinct[places], once)
    assert np.array_equal(scales[places], once_scales)


@pytest.mark.parametrize("kind", ["users", "items", "authors"])
def test_lookups_by_kind_agree_on_host_and_device(kind: str, tables: QuantizedTables, small_hashes: HashParams) -> None:
    """Hashed ids give the same float32 rows from the map and inside a jitted function, and zeros for padding."""
    rows = getattr(small_hashes, f"hash_{kind}")(np.array([[1, 0], [2**64 - 1, 7]], np.uint64))
    found = getattr(tables, f"lookup_{kind}")(rows)
    assert found.dtype == np.float32
    assert found.shape == (2, 2, 2, WIDTH)
    assert not found[0, 1].any()
    assert np.array_equal(found, tables.lookup(rows))
    on_device = tables.on_device()
    assert (on_device.num_rows, on_device.emb_size) == (TOTAL, WIDTH)
    jitted = jax.jit(lambda given, places: getattr(given, f"lookup_{kind}")(places))
    assert np.array_equal(jitted(on_device, rows), found)
    half = getattr(on_device, f"lookup_{kind}")(rows, jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    assert np.array_equal(half, found.astype(ml_dtypes.bfloat16))


def test_rows_of_another_table_are_refused(tables: QuantizedTables) -> None:
    """On the host the lookup of a kind names the row and the range; on a device such a row gives NaN."""
    users, items, authors, end = tables.offsets
    on_device = tables.on_device()
    for kind, low, high in (("users", users, items), ("items", items, authors), ("authors", authors, end)):
        host, device = getattr(tables, f"lookup_{kind}"), getattr(on_device, f"lookup_{kind}")
        for row in {1, low - 1, high % end} - {0}:
            with pytest.raises(IndexError, match=rf"rows must be 0 or lie in {low} … {high - 1}, found {row}"):
                host([0, low, row])
            found = np.asarray(device(np.array([0, low, row])))
            assert not found[0].any()
            assert np.isfinite(found[:2]).all()
            assert np.isnan(found[2]).all()


@pytest.mark.parametrize("rows", [[TOTAL], [-1], [0, 2**40], np.array([2**64 - 1], np.uint64)])
def test_rows_outside_are_refused(rows: Any, tables: QuantizedTables) -> None:
    """A row below zero or past the end raises and tells the range, on every way in."""
    for call in (tables.gather, tables.lookup, tables.lookup_items, tables.gather_distinct):
        with pytest.raises(IndexError, match=f"unified rows must lie in 0 … {TOTAL - 1}"):
            call(rows)
    with pytest.raises(IndexError, match="must lie in 0 … 299"):
        tables.item.dequantize([300])
    with pytest.raises(IndexError, match="must be integers, found float64"):
        tables.lookup([0.5])


def test_a_batch_is_gathered_at_once(tables: QuantizedTables, small_hashes: HashParams) -> None:
    """All fields of a ranker or retrieval batch come from one gather and become its embeddings in compiled code."""
    rng = np.random.default_rng(0)
    users, history, candidates = rng.integers(0, 9, 2), rng.integers(0, 9, (2, 6)), rng.integers(0, 9, (2, 11))
    nothing = np.zeros((2, 6), np.int32)
    user_side = RetrievalBatch(
        small_hashes.hash_users(users),
        small_hashes.hash_items(history),
        small_hashes.hash_authors(history),
        np.zeros((2, 6, 5), np.float32),
        nothing,
    )
    posts, authors = small_hashes.hash_items(candidates), small_hashes.hash_authors(candidates)
    batch = RankerBatch(*user_side, posts, authors, np.zeros((2, 11), np.int32))
    gathered = tables.gather_batch(batch)
    assert gathered.rows.shape == (4 + 48 + 88, WIDTH)
    traced = []

    @jax.jit
    def embed(given: Any) -> Any:
        traced.append(1)
        return given.embeddings()

    found = embed(gathered)
    assert np.array_equal(found.user_embeddings, tables.lookup_users(batch.user_hashes))
    assert np.array_equal(found.history_post_embeddings, tables.lookup_items(batch.history_post_hashes))
    assert np.array_equal(found.history_author_embeddings, tables.lookup_authors(batch.history_author_hashes))
    assert np.array_equal(found.candidate_post_embeddings, tables.lookup_items(posts))
    assert np.array_equal(found.candidate_author_embeddings, tables.lookup_authors(authors))
    embed(tables.gather_batch(batch._replace(candidate_post_hashes=np.zeros_like(posts))))
    assert len(traced) == 1  # fewer distinct rows, same shapes
    assert tables.gather_batch(user_side).embeddings().candidate_post_embeddings is None
    with pytest.raises(IndexError, match="history_post_hashes: item rows"):
        tables.gather_batch(batch._replace(history_post_hashes=np.asarray(batch.history_author_hashes)))


def test_compiled_lookups_hold_no_float_table() -> None:
    """The compiled program of a lookup works on the gathered rows; no float array of the table's size appears."""
    table = QuantizedTable(np.ones((50_021, 16), np.int8), np.ones(50_021, np.float32))
    on_device = QuantizedTables(table, table, table).on_device()
    jitted = jax.jit(lambda tables, rows: tables.lookup_items(rows))
    text = jitted.lower(on_device, np.arange(7)).compile().as_text()
    assert text is not None
    assert "s8[50021,16]" in text
    assert "f32[50021,16]" not in text


def test_tables_of_other_kinds_are_refused() -> None:
    """Wrong dtypes, shapes and unequal widths say what was found."""
    rows, scales = np.zeros((3, 4), np.int8), np.zeros(3, np.float32)
    for bad in ((rows.astype(np.int16), scales), (rows, scales[:2]), (rows[0], scales), (rows, scales.astype(float))):
        with pytest.raises(ValueError, match=r"int8 rows \[V, D\] and float32 scales \[V\], found"):
            QuantizedTable(*bad)
    good = QuantizedTable(rows, scales)
    with pytest.raises(ValueError, match=r"one width, found \[4, 4, 2\]"):
        QuantizedTables(good, good, QuantizedTable(rows[:, :2], scales))


def test_scores_on_quantised_rows_stay_close(tiny: Any) -> None:
    """With every embedding row in int8 the fixture's logits move less than an int8 model's may."""

    def rounded(block: Any) -> Any:
        rows, scales = quantize_rows(np.asarray(block, np.float32).reshape(-1, block.shape[-1]))
        return (rows * scales[:, None]).reshape(block.shape)

    embeddings = jax.tree.map(rounded, tiny.embeddings)
    valid = np.asarray(tiny.batch.candidate_post_hashes)[..., 0] != 0
    wanted, found = (np.asarray(tiny.score(tiny.batch, e).logits)[valid] for e in (tiny.embeddings, embeddings))
    error = np.abs(found - wanted)
    assert 0 < error.mean() <= 0.04
    assert error.max() < 0.5


# --- at scale -----------------------------------------------------------------------------------------------------


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_hundred_million_rows_open_and_serve(tmp_path: Path) -> None:
    """12.8 GB of rows open without being read, take rows through the map, and give exactly those back."""
    count, width = 100_000_000, 128
    if not Path("/proc/self/statm").exists():
        pytest.skip("resident memory is read from /proc, which this system lacks")
    if shutil.disk_usage(tmp_path).free < 1 << 30:
        pytest.skip("less than 1 GiB of disk space is free")
    probe = tmp_path / "probe"
    with probe.open("wb") as stream:
        stream.truncate(1 << 26)
    if probe.stat().st_blocks * 512 > 1 << 20:
        pytest.skip("the filesystem has no sparse files")
    try:
        reserve_tables(tmp_path / "t", (1000, count, 1000), width)
    except ArtifactError as error:
        pytest.skip(f"the filesystem takes no file of 12.8 GB: {error}")
    assert (tmp_path / "t" / "item_rows.npy").stat().st_size == 128 + count * width

    before = _resident_bytes()
    tables = QuantizedTables.open(tmp_path / "t", writable=True)
    assert _resident_bytes() - before < 16 << 20
    assert tables.num_rows == RESERVED_ROWS + count + 2000
    assert tables.nbytes > count * (width + 4)

    rng = np.random.default_rng(0)
    local = np.unique(np.concatenate([[0, count - 1], rng.integers(0, count, 500)]))
    values = rng.standard_normal((local.size, width)).astype(np.float32)
    tables.item.put(local, values)
    wanted, scales = quantize_rows(values)
    served = QuantizedTables.open(tmp_path / "t")
    order = rng.permutation(np.repeat(np.arange(local.size), 2))
    found = served.gather(served.offsets[1] + local[order])
    assert np.array_equal(found[0], wanted[order])
    assert np.array_equal(found[1], scales[order])
    neighbours = np.setdiff1d(np.clip(local + 1, 0, count - 1), local)
    assert not served.lookup_items(served.offsets[1] + neighbours).any()
    assert _resident_bytes() - before < 64 << 20
    with pytest.raises(IndexError, match=f"0 … {served.num_rows - 1}, found {served.num_rows}"):
        served.lookup([served.num_rows])
    with pytest.raises(IndexError, match="item rows must be 0 or lie in 1065 … 100001064, found 100001065"):
        served.lookup_items([100_001_065])


def test_hashing_a_hundred_million_rows_stays_in_range() -> None:
    """Rows of hashed ids in tables of that size are the tables' own."""
    hashes = HashParams.random(0, user_vocab_size=1000, item_vocab_size=100_000_000, author_vocab_size=1000)
    rows = hashes.hash_items(np.arange(1, 10_000, dtype=np.uint64) * np.uint64(2**51 + 1))
    assert rows.min() > 1065
    assert rows.max() < 100_001_065
    assert np.unique(rows).size > 19_000
