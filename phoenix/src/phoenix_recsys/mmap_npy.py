"""Directories of memory-mapped ``.npy`` files with a manifest: written atomically, opened without reading the data.

Arrays may be far larger than memory, both when they are written (block after block) and when they are opened
(mapped). Nothing is ever unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import mmap
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import attrs
import numpy as np
import numpy.typing as npt

from phoenix_recsys.errors import ArtifactError
from phoenix_recsys.whole_directory import WholeDirectory

MANIFEST_FILE = "manifest.json"
FORMAT = "phoenix-mapped-arrays"
FORMAT_VERSION = 1
HEADER_BYTES = 128
"""Length of every header written here, so that data starts at a cache line and the row count can be filled in last."""

DTYPES = frozenset({"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}) | {
    "float16",
    "float32",
    "float64",
}
LARGEST_MANIFEST = 1 << 20
REBUILD = "The directory is damaged: copy it again, or write it anew."

AnyArray = npt.NDArray[Any]


@attrs.frozen
class ArrayEntry:
    """What the manifest says of one array.

    Attributes:
        file: plain file name inside the directory.
        dtype: one of :data:`DTYPES`.
        shape: axis 0 are the rows.
        blake2b: hex digest (32 bytes) of the data behind the header; None for an array to be filled in place.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]
    blake2b: str | None

    @property
    def nbytes(self) -> int:
        """Bytes of the data, without the header."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@attrs.frozen(eq=False)
class MappedArrays:
    """An opened directory. Its files stay mapped for as long as an array refers to them.

    Attributes:
        path: the directory.
        checksum: the manifest's own; it covers the checksums of all sealed arrays, so that two directories with equal
            ones hold equal data.
        meta: what the writer recorded.
        entries: the manifest's description of each array.
        arrays: the arrays, backed by the files.
    """

    path: Path
    checksum: str
    meta: Mapping[str, Any]
    entries: Mapping[str, ArrayEntry]
    arrays: Mapping[str, AnyArray]


class ArraySink:
    """One ``.npy`` file being written block after block, of as many rows as are appended."""

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.path = path
        self.row_shape = row_shape
        self.dtype = np.dtype(dtype)
        if self.dtype.name not in DTYPES:
            raise TypeError(f"{path.name}: wanted plain numbers ({', '.join(sorted(DTYPES))}), found {self.dtype}")
        self.rows = 0
        self._digest: hashlib.blake2b | None = hashlib.blake2b(digest_size=32)
        self._stream: IO[bytes] = path.open("wb")
        self._stream.write(_header((0, *row_shape), self.dtype))

    def append(self, block: AnyArray) -> None:
        """Write a block [n, ...] behind the rows written so far.

        Raises:
            ValueError: if the block's rows have another shape or dtype.
            ArtifactError: if the disk is full.
        """
        if block.shape[1:] != self.row_shape or block.dtype != self.dtype:
            wanted = f"{self.dtype} rows of shape {list(self.row_shape)}"
            raise ValueError(f"{self.path.name}: wanted {wanted}, found {block.dtype} {list(block.shape[1:])}")
        data = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
        try:
            self._stream.write(data)
        except OSError as error:
            raise _disk_error(error, self.path, data.nbytes) from error
        if self._digest is not None:
            self._digest.update(data)
        self.rows += len(block)

    def append_zeros(self, count: int) -> None:
        """Add zero rows without writing them: a hole, where the filesystem has sparse files.

        The array then has no checksum and may be filled in place later.
        """
        self._digest = None
        self.rows += count
        self._stream.seek(count * math.prod(self.row_shape) * self.dtype.itemsize, os.SEEK_CUR)

    def finish(self) -> ArrayEntry:
        """Write the header with the final row count and flush everything to the disk."""
        shape = (self.rows, *self.row_shape)
        digest = None if self._digest is None else self._digest.hexdigest()
        entry = ArrayEntry(self.path.name, self.dtype.name, shape, digest)
        try:
            self._stream.truncate(HEADER_BYTES + entry.nbytes)
            self._stream.seek(0)
            self._stream.write(_header(shape, self.dtype))
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise _disk_error(error, self.path, entry.nbytes) from error
        finally:
            self.close()
        return entry

    def close(self) -> None:
        """Close the file as it is."""
        self._stream.close()


class ArrayDirectoryWriter:
    """Writes a directory of arrays so that others see it whole or not at all.

    Files go into a hidden directory beside the target, which :meth:`commit` renames. Leaving the ``with`` block
    without a commit, by an exception or an interrupt, removes it.

    Args:
        directory: the target; its parent must exist.
        kind: what the directory holds; readers ask for it.
        overwrite: replace a directory of arrays. The old one is moved aside just before the new one takes its
            place; arrays that are mapped from it stay valid.

    Raises:
        ArtifactError: if the target exists and may not, or must not, be replaced.
    """

    def __init__(self, directory: Path | str, kind: str, *, overwrite: bool = False) -> None:
        self.directory = Path(directory)
        self.kind = kind
        self._sinks: dict[str, ArraySink] = {}
        if self.directory.exists() or self.directory.is_symlink():
            if not overwrite:
                advice = "Choose another path, or say overwrite=True."
                raise ArtifactError(self.directory, None, "no such file or directory yet", "one that exists", advice)
            if self.directory.is_symlink() or not (self.directory / MANIFEST_FILE).is_file():
                advice = "Remove it yourself if it is not needed; only directories of arrays are replaced."
                raise ArtifactError(self.directory, None, "a directory of arrays", "something else", advice)
        self._whole = WholeDirectory(self.directory)

    def __enter__(self) -> ArrayDirectoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sink in self._sinks.values():
            sink.close()
        self._whole.__exit__(kind, error, trace)

    def create(self, name: str, row_shape: tuple[int, ...], dtype: npt.DTypeLike) -> ArraySink:
        """Begin the array ``name`` in ``name.npy``."""
        if name in self._sinks or _plain_file_name(f"{name}.npy") is None:
            raise ValueError(f"wanted a new array name that can be a file name, found {name!r}")
        self._sinks[name] = ArraySink(self._whole.path / f"{name}.npy", row_shape, dtype)
        return self._sinks[name]

    def commit(self, meta: Mapping[str, Any]) -> None:
        """Finish all arrays, write the manifest and put the directory in its place.

        Args:
            meta: plain JSON values for the readers.
        """
        arrays = {name: attrs.asdict(sink.finish()) for name, sink in self._sinks.items()}
        content = {"format": FORMAT, "version": FORMAT_VERSION, "kind": self.kind, "meta": dict(meta), "arrays": arrays}
        text = json.dumps(content | {"blake2b": manifest_digest(content)}, indent=1, sort_keys=True, allow_nan=False)
        with (self._whole.path / MANIFEST_FILE).open("w", encoding="utf-8") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._whole.commit()


def open_arrays(
    directory: Path | str, kind: str, *, writable: bool = False, preload: bool = False, random_access: bool = True
) -> MappedArrays:
    """Map all arrays of a directory; reads the manifest and the headers, no data.

    Args:
        directory: as written by :class:`ArrayDirectoryWriter`.
        kind: what the directory must hold.
        writable: writing to the arrays writes to the files; only for arrays without a checksum.
        preload: ask the system to read the files ahead, for arrays that fit in memory.
        random_access: tell the system that rows are read here and there, so that a row fetched from the disk
            does not drag its neighbourhood along.

    Raises:
        ArtifactError: if a file is missing, damaged, not what the manifest says, or outside the directory.
    """
    directory = Path(directory)
    checksum, meta, entries = _read_manifest(directory, kind)
    sealed = sorted(name for name, entry in entries.items() if entry.blake2b is not None)
    if writable and sealed:
        advice = "Open it read-only, or write a new directory."
        path = directory / MANIFEST_FILE
        raise ArtifactError(path, sealed[0], "an array to be filled in place", "one sealed by a checksum", advice)
    arrays = {}
    for name, entry in entries.items():
        with _open_checked(directory, name, entry, writable) as (stream, offset):
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            mapped = mmap.mmap(stream.fileno(), 0, access=access)
        # Not every system knows the advice, and none needs it.
        if random_access and hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)
        if preload and hasattr(mmap, "MADV_WILLNEED"):
            mapped.madvise(mmap.MADV_WILLNEED)
        dtype, count = np.dtype(entry.dtype), math.prod(entry.shape)
        flat = np.frombuffer(mapped, dtype, count, offset) if count else np.zeros(0, dtype)
        arrays[name] = flat.reshape(entry.shape)
    return MappedArrays(directory, checksum, meta, entries, arrays)


def verify_arrays(directory: Path | str, kind: str) -> int:
    """Read all data once and compare it with the checksums; returns how many arrays had one.

    Raises:
        ArtifactError: as :func:`open_arrays`, and for data that differs from what was written.
    """
    directory = Path(directory)
    _, _, entries = _read_manifest(directory, kind)
    checked = 0
    for name, entry in entries.items():
        with _open_checked(directory, name, entry, False) as (stream, offset):
            if entry.blake2b is None:
                continue
            stream.seek(offset)
            digest = hashlib.blake2b(digest_size=32)
            while block := stream.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != entry.blake2b:
            wanted, found = f"data with the checksum {entry.blake2b[:12]}…", f"{digest.hexdigest()[:12]}…"
            raise ArtifactError(directory / entry.file, name, wanted, found, REBUILD)
        checked += 1
    return checked


def manifest_digest(content: Mapping[str, Any]) -> str:
    """Checksum of a manifest: blake2b (32 bytes, hex) over its compact, key-sorted JSON without the checksum."""
    rest = {key: value for key, value in content.items() if key != "blake2b"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def npz_blocks(path: Path | str, entry: str, chunk_rows: int = 16_384) -> Iterator[AnyArray]:
    """Rows of one array of an ``.npz`` archive, in blocks [<= chunk_rows, ...], without reading it whole.

    Raises:
        ArtifactError: if the archive is missing or damaged, or the entry is missing, pickled, a scalar or in
            column order.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(path, None, "an .npz archive", "no such file", "Check the path, or rebuild the model.")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{entry}.npy") as stream:
            shape, fortran, dtype = _read_header(stream)
            _refuse_objects(path, entry, dtype)
            if fortran or not shape:
                found = f"{dtype} {list(shape)}" + (" in column order" if fortran else "")
                raise ArtifactError(path, entry, "rows one after the other", found, "Save it as a C-ordered array.")
            row_bytes = math.prod(shape[1:]) * dtype.itemsize
            for start in range(0, shape[0], chunk_rows):
                count = min(chunk_rows, shape[0] - start)
                # A truncated entry gives too few bytes, which frombuffer refuses.
                data = stream.read(count * row_bytes)
                yield np.frombuffer(data, dtype, count * math.prod(shape[1:])).reshape(count, *shape[1:])
            if stream.read(1):  # also makes zipfile compare the checksum of the entry
                raise ArtifactError(path, entry, f"{dtype} {list(shape)}", "more bytes than that", REBUILD)
    except ArtifactError:
        raise
    except KeyError as error:
        raise ArtifactError(path, entry, "such an entry", "none", "Check the name of the array.") from error
    except Exception as error:  # the parsers of zipfile and numpy let all kinds of errors out on damaged bytes
        found = f"bytes that cannot be read ({type(error).__name__}: {error})"
        raise ArtifactError(path, entry, "a complete array", found, REBUILD) from error


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    prefix = np.lib.format.magic(1, 0) + (HEADER_BYTES - 10).to_bytes(2, "little")
    text = repr(fields).encode("latin1")
    if len(text) > HEADER_BYTES - len(prefix) - 1:
        raise ValueError(f"the shape {shape} has too many axes for a header of {HEADER_BYTES} bytes")
    return prefix + text.ljust(HEADER_BYTES - len(prefix) - 1) + b"\n"


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    return tuple(shape), bool(fortran), dtype


def _refuse_objects(path: Path, name: str, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        advice = "Such a file could run code when read; write the array anew from plain numbers."
        raise ArtifactError(path, name, "an array of plain numbers", "pickled Python objects", advice)


class _open_checked:  # noqa: N801  # used like a function in a with statement
    """Open an array's file and check name, place, header and length against the manifest, all on one descriptor."""

    def __init__(self, directory: Path, name: str, entry: ArrayEntry, writable: bool) -> None:
        self.path = directory / entry.file
        self.name, self.entry = name, entry
        if self.path.resolve().parent != directory.resolve():
            found = f"a link to {self.path.resolve()}"
            raise ArtifactError(self.path, name, "a file inside the directory", found, "Copy the file there.")
        if not self.path.is_file():
            found = "something else" if self.path.exists() else "no such file"
            raise ArtifactError(self.path, name, f"an .npy file with {entry}", found, REBUILD)
        try:
            self.stream: IO[bytes] = self.path.open("r+b" if writable else "rb")
        except OSError as error:
            advice = "Check the permissions of the file."
            raise ArtifactError(self.path, name, "a file that can be opened", str(error), advice) from error

    def __enter__(self) -> tuple[IO[bytes], int]:
        try:
            return self.stream, self._check()
        except BaseException:
            self.stream.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.close()

    def _check(self) -> int:
        length = os.fstat(self.stream.fileno()).st_size
        try:
            shape, fortran, dtype = _read_header(self.stream)
        except Exception as error:  # numpy's parser lets all kinds of errors out on damaged bytes
            found = f"{length} bytes without a readable header ({type(error).__name__}: {error})"
            raise ArtifactError(self.path, self.name, f"an .npy file with {self.entry}", found, REBUILD) from error
        _refuse_objects(self.path, self.name, dtype)
        if (dtype, shape, fortran) != (np.dtype(self.entry.dtype), self.entry.shape, False):
            wanted = f"{self.entry}, as {MANIFEST_FILE} says"
            found = f"{dtype} {list(shape)}" + (" in column order" if fortran else "")
            raise ArtifactError(self.path, self.name, wanted, found, REBUILD)
        offset = self.stream.tell()
        if length != offset + self.entry.nbytes:
            wanted = f"{offset + self.entry.nbytes} bytes for {self.entry}"
            raise ArtifactError(self.path, self.name, wanted, f"{length} bytes", REBUILD)
        return offset


def _read_manifest(directory: Path, kind: str) -> tuple[str, Mapping[str, Any], dict[str, ArrayEntry]]:
    path = directory / MANIFEST_FILE

    def fail(entry: str | None, wanted: str, found: object, advice: str = REBUILD) -> ArtifactError:
        return ArtifactError(path, entry, wanted, found if isinstance(found, str) else repr(found)[:80], advice)

    if not path.is_file():
        found = "no such file" if directory.is_dir() else "no such directory"
        raise fail(None, "a manifest of arrays", found, "Check the path, or write the directory.")
    with path.open("rb") as stream:
        text = stream.read(LARGEST_MANIFEST + 1)
    if len(text) > LARGEST_MANIFEST:
        raise fail(None, f"at most {LARGEST_MANIFEST} bytes", "more")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise fail(None, "valid JSON", f"{type(error).__name__}: {error}") from error
    if not isinstance(content, dict):
        raise fail(None, "one JSON object", content)
    for key, value in (("format", FORMAT), ("version", FORMAT_VERSION)):
        if content.get(key) != value or isinstance(content[key], bool):
            raise fail(
                key, repr(value), repr(content.get(key))[:80], "Write the directory with this version of the library."
            )
    digest = manifest_digest(content)
    if content.get("blake2b") != digest:
        stated = str(content.get("blake2b"))[:12]
        raise fail("blake2b", f"the checksum of the manifest, {digest[:12]}…", f"{stated}…")
    if content.get("kind") != kind:
        raise fail("kind", repr(kind), repr(content.get("kind"))[:80], f"Point to a directory of {kind}.")
    meta, arrays = content.get("meta"), content.get("arrays")
    if not isinstance(meta, dict):
        raise fail("meta", "an object", meta)
    if not isinstance(arrays, dict):
        raise fail("arrays", "an object", arrays)
    return digest, meta, {name: _entry(fail, name, fields) for name, fields in arrays.items()}


def _entry(fail: Any, name: str, fields: Any) -> ArrayEntry:
    place = f"arrays.{name}"
    if not isinstance(fields, dict):
        raise fail(place, "an object", fields)
    file, dtype, shape, digest = (fields.get(key) for key in ("file", "dtype", "shape", "blake2b"))
    if _plain_file_name(file) is None:
        raise fail(f"{place}.file", "the plain name of a file in the directory", file)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise fail(f"{place}.dtype", f"one of {', '.join(sorted(DTYPES))}", dtype)
    sizes: list[Any] = shape if isinstance(shape, list) else [None]
    if not 1 <= len(sizes) <= 8 or not all(type(size) is int and 0 <= size < 2**48 for size in sizes):
        raise fail(f"{place}.shape", "a list of one to eight sizes", shape)
    if digest is not None and not isinstance(digest, str):
        raise fail(f"{place}.blake2b", "a checksum or null", digest)
    return ArrayEntry(str(file), dtype, tuple(sizes), digest)


def _plain_file_name(name: Any) -> str | None:
    """``name`` where it names a file of its directory and nothing else; separators of any system are refused."""
    plain = isinstance(name, str) and 0 < len(name) <= 200 and not set(name) & set("/\\:\0") and name not in {".", ".."}
    return name if plain and name != MANIFEST_FILE else None


def _disk_error(error: OSError, path: Path, wanted: int) -> ArtifactError:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    advice = "Free some space or choose another disk, then write again." if full else "Check the disk."
    return ArtifactError(path, None, f"room for {wanted} more bytes", str(error), advice)
