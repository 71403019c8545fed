"""Embedding tables as int8 rows with one float32 scale each, memory-mapped where they exceed memory.

How rows are quantised stands in :mod:`phoenix_recsys.quantized_rows`. V rows, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import jax
import numpy as np
import numpy.typing as npt

from phoenix_recsys.device_tables import DeviceTable, DeviceTables, RequestRows
from phoenix_recsys.errors import ArtifactError
from phoenix_recsys.hashing import RESERVED_ROWS, HashParams
from phoenix_recsys.inputs import RankerBatch, RetrievalBatch
from phoenix_recsys.mmap_npy import (
    MANIFEST_FILE,
    ArrayDirectoryWriter,
    MappedArrays,
    npz_blocks,
    open_arrays,
    verify_arrays,
)
from phoenix_recsys.quantized_rows import CHUNK_ROWS, Floats, Int8, dequantize, quantize_rows, quantized_blocks

KIND = "quantized_tables"
TABLES = ("user", "item", "author")
CACHE_LINE = 64
Progress = Callable[[str, int], None]
"""Called with a table's name and its rows written so far."""


@attrs.frozen(eq=False)
class QuantizedTable:
    """One table; both arrays may be mapped files.

    Attributes:
        rows: int8 [V, D], −127 … 127.
        scales: float32 [V].
    """

    rows: Int8
    scales: Floats

    def __attrs_post_init__(self) -> None:
        wanted = (np.dtype(np.int8), 2, np.dtype(np.float32), self.rows.shape[:1])
        if (self.rows.dtype, self.rows.ndim, self.scales.dtype, self.scales.shape) != wanted:
            raise ValueError(
                "a quantised table needs int8 rows [V, D] and float32 scales [V], found "
                f"{self.rows.dtype} {list(self.rows.shape)} and {self.scales.dtype} {list(self.scales.shape)}"
            )

    @property
    def num_rows(self) -> int:
        """V."""
        return int(self.rows.shape[0])

    @property
    def emb_size(self) -> int:
        """Width D."""
        return int(self.rows.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of rows and scales."""
        return int(self.rows.nbytes + self.scales.nbytes)

    @classmethod
    def quantize(
        cls, source: Any, *, chunk_rows: int = CHUNK_ROWS, name: str = "table", num_rows: int | None = None
    ) -> QuantizedTable:
        """Quantise a float array [V, D], or an iterable of rows [D] or blocks [n, D], ``chunk_rows`` at a time.

        Args:
            source: the rows.
            chunk_rows: positive.
            name: for messages.
            num_rows: V, where an iterable's is known: the result is then never held twice.

        Raises:
            TypeError: if the values are not floating point.
            ValueError: if a row is not finite or of another width, or there is no row, or another number than stated.
        """
        blocks = quantized_blocks(source, chunk_rows, name)
        count = len(source) if isinstance(source, np.ndarray) else num_rows
        if count is None:
            held = list(blocks)
            return cls(np.concatenate([rows for rows, _ in held]), np.concatenate([scales for _, scales in held]))
        table: QuantizedTable | None = None
        done = 0
        for rows, scales in blocks:
            if table is None:
                table = cls(_aligned((count, rows.shape[1]), np.int8), _aligned((count,), np.float32))
            if done + len(rows) <= count:
                table.rows[done : done + len(rows)], table.scales[done : done + len(rows)] = rows, scales
            done += len(rows)
        if table is None or done != count:
            raise ValueError(f"{name}: wanted {count} rows, found {done}")
        return table

    def dequantize(self, rows: npt.ArrayLike) -> Floats:
        """Local rows [...] to float32 [..., D].

        Raises:
            IndexError: if a row lies outside 0 … V − 1.
        """
        wanted = _row_numbers(rows, self.num_rows, "rows of the table")
        return dequantize(self.rows[wanted], self.scales[wanted])

    def put(self, rows: npt.ArrayLike, values: npt.ArrayLike) -> None:
        """Quantise float ``values`` [n, D] into local ``rows`` [n] in place.

        Raises:
            IndexError: if a row lies outside 0 … V − 1.
            ValueError: if values are not finite or misshapen, or the table is read-only.
        """
        wanted = _row_numbers(rows, self.num_rows, "rows of the table")
        block = np.asarray(values)
        if wanted.ndim != 1 or block.shape != (wanted.size, self.emb_size):
            raise ValueError(
                f"put wants rows [n] with values [n, {self.emb_size}], found rows {list(wanted.shape)} with values "
                f"{list(block.shape)}"
            )
        quantized, scales = quantize_rows(block, name="values")
        self.rows[wanted], self.scales[wanted] = quantized, scales


@attrs.frozen(eq=False)
class QuantizedTables:
    """User, item and author tables on the host, addressed by the unified rows of :class:`HashParams`.

    Rows 0 … 64 are zero; local row 0 of each table is never addressed by a hash.
    """

    user: QuantizedTable
    item: QuantizedTable
    author: QuantizedTable

    def __attrs_post_init__(self) -> None:
        widths = [table.emb_size for table in self.tables]
        if len(set(widths)) != 1:
            raise ValueError(f"user, item and author tables must be of one width, found {widths}")

    @property
    def tables(self) -> tuple[QuantizedTable, QuantizedTable, QuantizedTable]:
        """In the order of the unified numbering."""
        return self.user, self.item, self.author

    @property
    def emb_size(self) -> int:
        """Width D."""
        return self.user.emb_size

    @property
    def offsets(self) -> tuple[int, int, int, int]:
        """Unified row of local row 0 of each table, and the number of unified rows."""
        users = RESERVED_ROWS + self.user.num_rows
        items = users + self.item.num_rows
        return RESERVED_ROWS, users, items, items + self.author.num_rows

    @property
    def num_rows(self) -> int:
        """Rows of the unified numbering."""
        return self.offsets[3]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows and scales."""
        return sum(table.nbytes for table in self.tables)

    @classmethod
    def quantize(cls, user: Any, item: Any, author: Any, *, chunk_rows: int = CHUNK_ROWS) -> QuantizedTables:
        """Quantise three sources in memory, each as :meth:`QuantizedTable.quantize` takes it."""
        sources = zip(TABLES, (user, item, author), strict=True)
        return cls(*(QuantizedTable.quantize(source, chunk_rows=chunk_rows, name=name) for name, source in sources))

    @classmethod
    def open(
        cls,
        directory: Path | str,
        *,
        hash_params: HashParams | None = None,
        writable: bool = False,
        preload: bool = False,
    ) -> QuantizedTables:
        """Map the tables of a directory; reads no row.

        Args:
            directory: as written by :func:`write_tables` or :func:`reserve_tables`.
            hash_params: where given, the tables must have their vocabulary sizes.
            writable: for :meth:`QuantizedTable.put`; reserved tables only.
            preload: ask the system to read all rows ahead, for tables that fit in memory.

        Raises:
            ArtifactError: if the directory is missing, damaged or does not fit; nothing is mapped then.
        """
        return cls.of(open_arrays(directory, KIND, writable=writable, preload=preload), hash_params)

    @classmethod
    def of(cls, found: MappedArrays, hash_params: HashParams | None = None) -> QuantizedTables:
        """The tables of an opened directory of :data:`KIND`; raises as :meth:`open`."""
        manifest, advice = found.path / MANIFEST_FILE, "Write the tables anew."
        names = sorted(f"{table}_{part}" for table in TABLES for part in ("rows", "scales"))
        if sorted(found.arrays) != names:
            raise ArtifactError(manifest, "arrays", ", ".join(names), ", ".join(sorted(found.arrays)), advice)
        try:
            tables = cls(*(QuantizedTable(found.arrays[f"{n}_rows"], found.arrays[f"{n}_scales"]) for n in TABLES))
        except ValueError as error:
            raise ArtifactError(manifest, "arrays", "three quantised tables", str(error), advice) from error
        if found.meta.get("emb_size") != tables.emb_size:
            stated = repr(found.meta.get("emb_size"))[:80]
            raise ArtifactError(manifest, "meta.emb_size", str(tables.emb_size), stated, advice)
        if hash_params is not None:
            wanted = [getattr(hash_params, name).vocab_size for name in TABLES]
            sizes = [table.num_rows for table in tables.tables]
            if sizes != wanted:
                wanted_text = f"{wanted} rows for {', '.join(TABLES)}, the vocabulary sizes of the hashes"
                raise ArtifactError(manifest, "arrays", wanted_text, str(sizes), "Take the tables of the same model.")
        return tables

    def gather(self, rows: npt.ArrayLike, *, dedup: bool = True) -> tuple[Int8, Floats]:
        """Unified rows [...] of any of the tables to int8 [..., D] and float32 scales [...], in one pass.

        Args:
            rows: integers; rows below 65 give zeros.
            dedup: fetch a repeated row once, in ascending order; else take every row where it stands. The result is
                the same.

        Raises:
            IndexError: if a row lies outside the unified numbering.
        """
        wanted = self._checked(rows)
        if dedup:
            distinct, place = np.unique(wanted, return_inverse=True)
            found, scales = self._take(distinct, distinct.size)
            place = place.reshape(wanted.shape)
            return np.take(found, place, axis=0), np.take(scales, place)
        flat = wanted.reshape(-1)
        found, scales = np.zeros((flat.size, self.emb_size), np.int8), np.zeros(flat.size, np.float32)
        for table, start, stop in self._ranges():
            here = np.flatnonzero((flat >= start) & (flat < stop))
            local = flat[here] - start
            found[here], scales[here] = np.take(table.rows, local, axis=0), np.take(table.scales, local)
        return found.reshape(*wanted.shape, self.emb_size), scales.reshape(wanted.shape)

    def gather_distinct(self, rows: npt.ArrayLike) -> tuple[Int8, Floats, npt.NDArray[np.int32]]:
        """Distinct rows among unified rows [...]: int8 [u, D], float32 [u], and int32 places [...] among them.

        Raises:
            IndexError: if a row lies outside the unified numbering.
        """
        distinct, place = np.unique(self._checked(rows), return_inverse=True)
        found, scales = self._take(distinct, distinct.size)
        return found, scales, place.reshape(np.shape(rows)).astype(np.int32)

    def gather_batch(self, batch: RankerBatch | RetrievalBatch) -> RequestRows:
        """All rows of a batch (users, history and candidates) in one gather.

        The result's shapes depend on the batch's shapes alone, so that jitted code taking it compiles once.

        Raises:
            IndexError: if a field holds a row that is neither 0 nor one of its own table.
        """
        fields = [
            (0, "user_hashes", batch.user_hashes),
            (1, "history_post_hashes", batch.history_post_hashes),
            (2, "history_author_hashes", batch.history_author_hashes),
        ]
        if isinstance(batch, RankerBatch):
            fields.append((1, "candidate_post_hashes", batch.candidate_post_hashes))
            fields.append((2, "candidate_author_hashes", batch.candidate_author_hashes))
        checked = [self._of_table(table, rows, name) for table, name, rows in fields]
        wanted = np.concatenate([rows.reshape(-1) for rows in checked])
        distinct, places = np.unique(wanted, return_inverse=True)
        # One place for each row asked for bounds the distinct ones, whatever the request repeats.
        found, scales = self._take(distinct, wanted.size)
        ends = np.cumsum([rows.size for rows in checked])[:-1]
        split = [
            part.reshape(rows.shape)
            for part, rows in zip(np.split(places.astype(np.int32), ends), checked, strict=True)
        ]
        return RequestRows(found, scales, *split)

    def lookup(self, rows: npt.ArrayLike) -> Floats:
        """Any unified rows [...] to float32 [..., D]; raises as :meth:`gather`."""
        return dequantize(*self.gather(rows, dedup=False))

    def lookup_users(self, rows: npt.ArrayLike) -> Floats:
        """Unified user rows [...] to float32 [..., D]; row 0 gives zeros.

        Raises:
            IndexError: if a row is neither 0 nor one of the user table.
        """
        return self.lookup(self._of_table(0, rows, "lookup_users"))

    def lookup_items(self, rows: npt.ArrayLike) -> Floats:
        """Unified item rows [...] to float32 [..., D]; row 0 gives zeros, others raise as for users."""
        return self.lookup(self._of_table(1, rows, "lookup_items"))

    def lookup_authors(self, rows: npt.ArrayLike) -> Floats:
        """Unified author rows [...] to float32 [..., D]; row 0 gives zeros, others raise as for users."""
        return self.lookup(self._of_table(2, rows, "lookup_authors"))

    def on_device(self, device: Any = None) -> DeviceTables:
        """The tables as arrays of a JAX device.

        On a CPU, JAX uses read-only mapped rows in place, without a copy; elsewhere they must fit the device.
        """

        def put(array: npt.NDArray[Any]) -> jax.Array:
            # A device array must never change, so one that could is copied first.
            placed: jax.Array = jax.device_put(np.array(array) if array.flags.writeable else array, device)
            return placed

        return DeviceTables(*(DeviceTable(put(table.rows), put(table.scales)) for table in self.tables))

    def _ranges(self) -> Iterator[tuple[QuantizedTable, int, int]]:
        yield from zip(self.tables, self.offsets[:3], self.offsets[1:], strict=True)

    def _checked(self, rows: npt.ArrayLike) -> npt.NDArray[np.int64]:
        return _row_numbers(rows, self.num_rows, "unified rows")

    def _take(self, ascending: npt.NDArray[np.int64], size: int) -> tuple[Int8, Floats]:
        """Checked rows in ascending order, where each table's lie together, and zeros up to ``size`` rows."""
        found, scales = np.zeros((size, self.emb_size), np.int8), np.zeros(size, np.float32)
        cuts = [int(cut) for cut in np.searchsorted(ascending, self.offsets)]
        for (table, start, _), low, high in zip(self._ranges(), cuts[:3], cuts[1:], strict=True):
            if low < high:
                local = ascending[low:high] - start
                # "clip" lets numpy write to its destination at once; the rows have been checked.
                np.take(table.rows, local, axis=0, out=found[low:high], mode="clip")
                np.take(table.scales, local, out=scales[low:high], mode="clip")
        return found, scales

    def _of_table(self, table: int, rows: npt.ArrayLike, place: str) -> npt.NDArray[np.int64]:
        wanted = self._checked(rows)
        start, stop = self.offsets[table : table + 2]
        wrong = wanted[(wanted != 0) & ((wanted < start) | (wanted >= stop))]
        if wrong.size:
            raise IndexError(
                f"{place}: {TABLES[table]} rows must be 0 or lie in {start} … {stop - 1}, found {wrong[0]} and "
                f"{wrong.size - 1} more. Hash the ids with the parameters of the model that these tables belong to."
            )
        return wanted


def write_tables(
    directory: Path | str,
    *,
    user: Any,
    item: Any,
    author: Any,
    chunk_rows: int = CHUNK_ROWS,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> None:
    """Quantise three tables into a directory, which appears whole or not at all.

    Args:
        directory: the target; its parent must exist.
        user: a float source as :func:`quantized_blocks` takes it, or a :class:`QuantizedTable`, copied as it is.
        item: likewise.
        author: likewise.
        chunk_rows: rows held in memory at once.
        progress: told after each block.
        overwrite: replace an older directory of tables.

    Raises:
        TypeError: if a table's values are not floating point.
        ValueError: if a row is not finite or of another width than the others, or a table has no row.
        ArtifactError: if the directory cannot be written.
    """
    width: int | None = None
    with ArrayDirectoryWriter(directory, KIND, overwrite=overwrite) as writer:
        for name, source in zip(TABLES, (user, item, author), strict=True):
            rows = scales = None
            for quantized, block_scales in _blocks_of(source, chunk_rows, name):
                width = quantized.shape[1] if width is None else width
                if quantized.shape[1] != width:
                    raise ValueError(f"{name}: wanted width {width}, as the user table has, found {quantized.shape[1]}")
                if rows is None or scales is None:
                    rows = writer.create(f"{name}_rows", (width,), np.int8)
                    scales = writer.create(f"{name}_scales", (), np.float32)
                rows.append(quantized)
                scales.append(block_scales)
                if progress is not None:
                    progress(name, rows.rows)
        writer.commit({"emb_size": width})


def _blocks_of(source: Any, chunk_rows: int, name: str) -> Iterable[tuple[Int8, Floats]]:
    if not isinstance(source, QuantizedTable):
        return quantized_blocks(source, chunk_rows, name)
    starts = range(0, max(source.num_rows, 1), chunk_rows)
    return ((source.rows[i : i + chunk_rows], source.scales[i : i + chunk_rows]) for i in starts)


def write_tables_from_npz(
    directory: Path | str,
    tables_file: Path | str,
    *,
    chunk_rows: int = CHUNK_ROWS,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> None:
    """Quantise the ``embedding_tables.npz`` of an artifact without ever holding its float tables.

    Args:
        directory: the target.
        tables_file: holds ``user_embeddings``, ``item_embeddings`` and ``author_embeddings`` [V, D].
        chunk_rows: as for :func:`write_tables`.
        progress: likewise.
        overwrite: likewise.

    Raises:
        ArtifactError: if the archive is damaged or the directory cannot be written.
        TypeError: if the values are not floating point.
        ValueError: if a row is not finite.
    """
    user, item, author = (npz_blocks(tables_file, f"{name}_embeddings", chunk_rows) for name in TABLES)
    write_tables(
        directory,
        user=user,
        item=item,
        author=author,
        chunk_rows=chunk_rows,
        progress=progress,
        overwrite=overwrite,
    )


def reserve_tables(directory: Path | str, sizes: tuple[int, int, int], emb_size: int) -> None:
    """Make tables of zero rows, to be filled with :meth:`QuantizedTable.put` once opened ``writable``.

    Takes next to no disk space where the filesystem has sparse files.

    Args:
        directory: the target.
        sizes: rows of the user, item and author tables.
        emb_size: width D.

    Raises:
        ArtifactError: if the directory cannot be written.
    """
    with ArrayDirectoryWriter(directory, KIND) as writer:
        for name, size in zip(TABLES, sizes, strict=True):
            writer.create(f"{name}_rows", (emb_size,), np.int8).append_zeros(size)
            writer.create(f"{name}_scales", (), np.float32).append_zeros(size)
        writer.commit({"emb_size": emb_size})


def verify_tables(directory: Path | str) -> int:
    """Compare all data with the checksums, reading every byte once; returns how many files had one.

    Raises:
        ArtifactError: if the directory or its data is damaged.
    """
    return verify_arrays(directory, KIND)


def _aligned(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array at the start of a cache line, as a JAX device on the CPU must have it to use it without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + CACHE_LINE, np.uint8)
    start = -room.ctypes.data % CACHE_LINE
    return room[start : start + size].view(dtype).reshape(shape)


def _row_numbers(rows: npt.ArrayLike, count: int, what: str) -> npt.NDArray[np.int64]:
    given = np.asarray(rows)
    if given.dtype.kind not in "iu" and given.size:
        raise IndexError(f"{what} must be integers, found {given.dtype}")
    if given.size and (given.min() < 0 or given.max() >= count):
        raise IndexError(f"{what} must lie in 0 … {count - 1}, found {given.min()} … {given.max()}")
    return given.astype(np.int64)
