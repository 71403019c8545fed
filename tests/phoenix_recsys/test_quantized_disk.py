"""Embedding tables in int8 on disk: written whole or not at all, mapped, and checked when opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from phoenix_recsys.artifact import Artifact, save_artifact
from phoenix_recsys.errors import ArtifactError
from phoenix_recsys.hashing import RESERVED_ROWS, HashParams
from phoenix_recsys.mmap_npy import ArrayDirectoryWriter, manifest_digest, npz_blocks, open_arrays
from phoenix_recsys.quantized_rows import quantize_rows
from phoenix_recsys.quantized_tables import (
    KIND,
    QuantizedTables,
    reserve_tables,
    verify_tables,
    write_tables,
    write_tables_from_npz,
)

SIZES, WIDTH = (40, 300, 50), 8
TOTAL = RESERVED_ROWS + sum(SIZES)
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FLOATS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 6)), elements=st.floats(width=32, allow_nan=False)
).filter(lambda block: bool(np.isfinite(block).all()))
ROWS = hnp.arrays(
    np.int64, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=12), elements=st.integers(0, TOTAL - 1)
)


def _edit_manifest(directory: Path, change: Any) -> None:
    """Change the manifest and give it a checksum that fits again."""
    path = directory / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    content["blake2b"] = manifest_digest(content)
    path.write_text(json.dumps(content))


# --- on disk ------------------------------------------------------------------------------------------------------


@given(
    blocks=st.tuples(*[st.integers(1, 20)] * 3),
    width=st.integers(1, 5),
    seed=st.integers(0, 99),
    chunk=st.integers(1, 9),
)
@FEW
def test_tables_survive_the_disk(
    blocks: tuple[int, int, int], width: int, seed: int, chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What is written in blocks is mapped as the same bytes, readable by numpy, and copied without another rounding."""
    rng, path = np.random.default_rng(seed), tmp_path_factory.mktemp("disk")
    user, item, author = (rng.standard_normal((size, width)).astype(np.float32) for size in blocks)
    wanted = QuantizedTables.quantize(user, item, author)
    write_tables(path / "a", user=user, item=item, author=author, chunk_rows=chunk)
    opened = QuantizedTables.open(path / "a")
    write_tables(path / "b", user=opened.user, item=opened.item, author=opened.author, chunk_rows=chunk)
    again = QuantizedTables.open(path / "b", preload=True)
    for one, other, third in zip(wanted.tables, opened.tables, again.tables, strict=True):
        for part in ("rows", "scales"):
            assert np.array_equal(getattr(one, part), getattr(other, part))
            assert np.array_equal(getattr(one, part), getattr(third, part))
            assert not getattr(other, part).flags.writeable
    assert np.array_equal(np.load(path / "a" / "item_rows.npy", allow_pickle=False), wanted.item.rows)
    assert verify_tables(path / "a") == 6
    assert sorted(entry.name for entry in path.iterdir()) == ["a", "b"]


def test_an_artifact_is_quantised_without_its_float_tables(published_ranker: Artifact, tmp_path: Path) -> None:
    """The tables of an artifact are read from its archive block after block, and fit its hashes."""
    save_artifact(tmp_path / "model", published_ranker)
    write_tables_from_npz(tmp_path / "q", tmp_path / "model" / "embedding_tables.npz", chunk_rows=64)
    found = QuantizedTables.open(tmp_path / "q", hash_params=published_ranker.hash_params)
    for mine, table in zip(found.tables, published_ranker.float_tables, strict=True):
        assert np.array_equal(mine.rows, quantize_rows(np.asarray(table))[0])
    other = HashParams.random(0, user_vocab_size=7, item_vocab_size=8, author_vocab_size=9)
    with pytest.raises(ArtifactError, match=r"wanted \[7, 8, 9\] rows for user, item, author"):
        QuantizedTables.open(tmp_path / "q", hash_params=other)


def test_archives_that_are_not_rows_are_refused(tmp_path: Path) -> None:
    """Missing, pickled, column-ordered, truncated and corrupt entries are told apart."""
    path = tmp_path / "a.npz"
    with pytest.raises(ArtifactError, match="no such file"):
        list(npz_blocks(path, "x"))
    wide = np.asfortranarray(np.arange(600.0).reshape(30, 20))
    np.savez(
        path, x=np.arange(600.0).reshape(30, 20), pickled=np.array([print], object), columns=wide, scalar=np.array(1.0)
    )
    assert np.array_equal(np.concatenate(list(npz_blocks(path, "x", 7))), wide)
    for entry, message in (
        ("y", "wanted such an entry, found none"),
        ("pickled", "pickled Python objects"),
        ("columns", "in column order"),
        ("scalar", r"found float64 \[\]"),
    ):
        with pytest.raises(ArtifactError, match=message):
            list(npz_blocks(path, entry))
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="bytes that cannot be read"):
        list(npz_blocks(path, "x"))


def test_an_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    """A source that fails, or Ctrl-C, leaves neither a directory nor a temporary one, nor harms an older one."""
    table = np.ones((5, 3), np.float32)
    write_tables(tmp_path / "t", user=table, item=table, author=table)

    def interrupted() -> Iterator[npt.NDArray[np.float32]]:
        yield table
        raise KeyboardInterrupt

    for target in (tmp_path / "new", tmp_path / "t"):
        with pytest.raises(KeyboardInterrupt):
            write_tables(target, user=table, item=interrupted(), author=table, overwrite=True)
        with pytest.raises(ValueError, match="author: wanted width 3, as the user table has, found 4"):
            write_tables(target, user=table, item=table, author=np.ones((2, 4)), overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]
    assert np.array_equal(QuantizedTables.open(tmp_path / "t").lookup_users([66]), [[1, 1, 1]])


def test_older_tables_are_replaced_only_when_asked(tmp_path: Path) -> None:
    """Overwriting is explicit, keeps arrays mapped from the old tables valid, and never touches other directories."""
    one, two = np.ones((5, 3), np.float32), np.full((6, 3), 2, np.float32)
    target = tmp_path / "t"
    write_tables(target, user=one, item=one, author=one)
    old = QuantizedTables.open(target)
    with pytest.raises(ArtifactError, match="overwrite=True"):
        write_tables(target, user=two, item=two, author=two)
    write_tables(target, user=two, item=two, author=two, overwrite=True)
    assert old.lookup_users([66]).tolist() == [[1, 1, 1]]
    assert QuantizedTables.open(target).lookup_users([66]).tolist() == [[2, 2, 2]]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    with pytest.raises(ArtifactError, match="found something else"):
        write_tables(tmp_path / "home", user=one, item=one, author=one, overwrite=True)
    with pytest.raises(ArtifactError, match="wanted a writable directory"):
        write_tables(tmp_path / "no" / "t", user=one, item=one, author=one)
    assert (tmp_path / "home" / "letter").read_text() == "dear"


def test_reserved_tables_are_filled_in_place(tmp_path: Path) -> None:
    """Zero tables take rows through a writable map and keep them; sealed ones and read-only maps do not."""
    reserve_tables(tmp_path / "t", (10, 20, 30), 4)
    tables = QuantizedTables.open(tmp_path / "t", writable=True)
    assert not tables.lookup(np.arange(tables.num_rows)).any()
    tables.item.put([3, 19], np.array([[127, 1, 0, -127], [254, 2, 0, 0]], np.float32))
    again = QuantizedTables.open(tmp_path / "t")
    assert again.item.dequantize([19, 3]).tolist() == [[254, 2, 0, 0], [127, 1, 0, -127]]
    assert verify_tables(tmp_path / "t") == 0
    with pytest.raises(ValueError, match="read-only"):
        again.item.put([3], np.ones((1, 4)))
    with pytest.raises(IndexError, match="0 … 19"):
        tables.item.put([20], np.ones((1, 4)))
    with pytest.raises(ValueError, match=r"put wants rows \[n\] with values \[n, 4\]"):
        tables.item.put([1, 2], np.ones((1, 4)))
    device = tables.on_device()
    tables.item.put([3], np.zeros((1, 4)))
    assert np.asarray(device.lookup_items(np.array([RESERVED_ROWS + 13]))).tolist() == [[127, 1, 0, -127]]
    write_tables(tmp_path / "s", user=tables.user, item=tables.item, author=tables.author)
    with pytest.raises(ArtifactError, match="sealed by a checksum"):
        QuantizedTables.open(tmp_path / "s", writable=True)


def test_changed_data_is_found_by_verification(copy: Path) -> None:
    """One flipped bit behind a header goes unseen by opening, which reads no data, and is found by verifying."""
    content = bytearray((copy / "item_rows.npy").read_bytes())
    content[-1] ^= 1
    (copy / "item_rows.npy").write_bytes(content)
    QuantizedTables.open(copy)
    with pytest.raises(ArtifactError, match=r"item_rows\.npy: item_rows: wanted data with the checksum"):
        verify_tables(copy)


# --- hostile input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 5, 100, 128, 500])
def test_truncated_files_are_refused(keep: int, copy: Path) -> None:
    """A file cut anywhere, inside its header or its data, is refused before it is mapped; so is a longer one."""
    path = copy / "item_rows.npy"
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    with pytest.raises(ArtifactError, match=r"item_rows\.npy: item_rows: wanted .*found"):
        QuantizedTables.open(copy)
    path.write_bytes(content + b"\0")
    with pytest.raises(ArtifactError, match=f"wanted {len(content)} bytes .*found {len(content) + 1} bytes"):
        QuantizedTables.open(copy)
    path.unlink()
    with pytest.raises(ArtifactError, match="no such file"):
        QuantizedTables.open(copy)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((300, 8), np.int16), r"int16 \[300, 8\]"),
        (np.zeros((301, 8), np.int8), r"int8 \[301, 8\]"),
        (np.zeros((8, 300), np.int8), r"int8 \[8, 300\]"),
        (np.asfortranarray(np.zeros((300, 8), np.int8)), "in column order"),
        (np.array([print], object), "pickled Python objects"),
    ],
)
def test_files_unlike_the_manifest_are_refused(array: npt.NDArray[Any], found: str, copy: Path) -> None:
    """Another dtype, shape or order, and pickled objects, are refused by their header; nothing is unpickled."""
    np.save(copy / "item_rows.npy", array, allow_pickle=True)
    with pytest.raises(ArtifactError, match=found):
        QuantizedTables.open(copy)


@pytest.mark.parametrize(
    "file",
    [
        "../secret.npy",
        "/etc/passwd",
        "sub/item_rows.npy",
        "..",
        "",
        "a\\b.npy",
        "c:item.npy",
        "a\0.npy",
        "manifest.json",
        3,
        None,
    ],
)
def test_paths_stay_in_the_directory(file: Any, copy: Path) -> None:
    """A manifest that points elsewhere is refused although its checksum fits."""
    shutil.copy(copy / "item_rows.npy", copy.parent / "secret.npy")
    _edit_manifest(copy, lambda content: content["arrays"]["item_rows"].update(file=file))
    with pytest.raises(ArtifactError, match=r"arrays\.item_rows\.file: wanted the plain name"):
        QuantizedTables.open(copy)


def test_links_out_of_the_directory_are_refused(copy: Path) -> None:
    """A link to a fitting file elsewhere is not followed."""
    (copy / "item_rows.npy").rename(copy.parent / "secret.npy")
    (copy / "item_rows.npy").symlink_to(copy.parent / "secret.npy")
    with pytest.raises(ArtifactError, match="wanted a file inside the directory, found a link to"):
        QuantizedTables.open(copy)


MANIFESTS: list[tuple[str, Any, str]] = [
    ("format", lambda c: c.update(format="other"), "format: wanted 'phoenix-mapped-arrays', found 'other'"),
    ("version", lambda c: c.update(version=2), "version: wanted 1, found 2"),
    ("version_bool", lambda c: c.update(version=True), "version: wanted 1, found True"),
    ("kind", lambda c: c.update(kind="weights"), "kind: wanted 'quantized_tables', found 'weights'"),
    ("meta", lambda c: c.update(meta=[]), "meta: wanted an object"),
    ("emb_size", lambda c: c["meta"].update(emb_size=9), "meta.emb_size: wanted 8, found 9"),
    ("arrays", lambda c: c.pop("arrays"), "arrays: wanted an object, found None"),
    ("missing", lambda c: c["arrays"].pop("user_rows"), "arrays: wanted author_rows, .*user_rows"),
    ("entry", lambda c: c["arrays"].update(user_rows=3), "arrays.user_rows: wanted an object"),
    ("object", lambda c: c["arrays"]["user_rows"].update(dtype="O"), "user_rows.dtype: wanted one of"),
    ("dtype", lambda c: c["arrays"]["user_rows"].update(dtype="int16"), r"user_rows: wanted int16 \[40, 8\], as"),
    ("negative", lambda c: c["arrays"]["user_rows"].update(shape=[-1, 8]), "user_rows.shape: wanted a list"),
    ("huge", lambda c: c["arrays"]["user_rows"].update(shape=[10**30]), "user_rows.shape: wanted a list"),
    ("fraction", lambda c: c["arrays"]["user_rows"].update(shape=[40.0, 8]), "user_rows.shape: wanted a list"),
    ("scalar", lambda c: c["arrays"]["user_rows"].update(shape=[]), "user_rows.shape: wanted a list"),
    (
        "shape",
        lambda c: c["arrays"]["user_rows"].update(shape=[41, 8]),
        r"wanted int8 \[41, 8\], as manifest.json says",
    ),
    ("swapped", lambda c: c["arrays"]["user_rows"].update(file="item_rows.npy"), r"found int8 \[300, 8\]"),
    ("digest", lambda c: c["arrays"]["user_rows"].update(blake2b=3), "user_rows.blake2b: wanted a checksum"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in MANIFESTS], ids=[case[0] for case in MANIFESTS])
def test_wrong_manifests_are_named(change: Any, message: str, copy: Path) -> None:
    """Every wrong entry of a manifest is named with what was wanted and what to do."""
    _edit_manifest(copy, change)
    with pytest.raises(ArtifactError, match=message) as caught:
        QuantizedTables.open(copy)
    assert caught.value.advice


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "valid JSON"),
        ("[" * 100_000, "valid JSON"),
        ("\udcff", "valid JSON"),
        ("[1]", "one JSON object"),
        (" " * (1 << 20) + "{}", "at most 1048576 bytes"),
    ],
)
def test_manifests_that_are_no_object_are_refused(text: str, message: str, copy: Path) -> None:
    """Broken, deeply nested, wrongly encoded, other and oversized JSON are refused."""
    (copy / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ArtifactError, match=message):
        QuantizedTables.open(copy)


def test_an_edited_manifest_is_noticed(copy: Path) -> None:
    """A manifest changed without its checksum, a missing one and a missing directory are refused."""
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace('"emb_size": 8', '"emb_size": 9'))
    with pytest.raises(ArtifactError, match="blake2b: wanted the checksum of the manifest"):
        QuantizedTables.open(copy)
    path.unlink()
    with pytest.raises(ArtifactError, match="wanted a manifest of arrays, found no such file"):
        QuantizedTables.open(copy)
    with pytest.raises(ArtifactError, match="no such directory"):
        QuantizedTables.open(copy / "none")


def test_three_arrays_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    """A directory of the right kind and names whose arrays do not make tables says so."""
    with ArrayDirectoryWriter(tmp_path / "t", KIND) as writer:
        for name in ("user", "item", "author"):
            writer.create(f"{name}_rows", (2,), np.int8).append(np.zeros((3, 2), np.int8))
            writer.create(f"{name}_scales", (), np.float32).append(np.zeros(4, np.float32))
        writer.commit({"emb_size": 2})
    with pytest.raises(ArtifactError, match="wanted three quantised tables"):
        QuantizedTables.open(tmp_path / "t")


def test_the_directory_holds_any_plain_arrays(tmp_path: Path) -> None:
    """Other arrays, empty ones too, share the format; objects, wrong blocks and odd names do not get in."""
    with ArrayDirectoryWriter(tmp_path / "w", "weights") as writer:
        writer.create("empty", (3,), np.float16)
        sink = writer.create("flags", (2, 2), bool)
        sink.append(np.ones((2, 2, 2), bool))
        with pytest.raises(ValueError, match=r"wanted bool rows of shape \[2, 2\], found int64 \[2\]"):
            sink.append(np.ones((2, 2), np.int64))
        with pytest.raises(TypeError, match="wanted plain numbers"):
            writer.create("objects", (), object)
        for name in ("flags", "../x", "a/b"):
            with pytest.raises(ValueError, match="new array name"):
                writer.create(name, (), np.int8)
        writer.commit({"version": 3})
    found = open_arrays(tmp_path / "w", "weights")
    assert found.meta == {"version": 3}
    assert found.arrays["empty"].shape == (0, 3)
    assert found.arrays["flags"].tolist() == [[[True, True]] * 2] * 2
    with pytest.raises(ArtifactError, match="kind: wanted 'quantized_tables', found 'weights'"):
        QuantizedTables.open(tmp_path / "w")
