"""Reading and writing .npz archives of plain arrays, defensively and deterministically."""

from __future__ import annotations

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import attrs
import numpy as np
import numpy.typing as npt

from phoenix_recsys.errors import ArtifactError

FETCH_AGAIN = "The file is damaged: copy or download it again, or rebuild the model."
EARLIEST_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
LARGE_BYTES = 1 << 20
"""From so much data on, where it lies in memory is worth some care."""
CACHE_LINE = 64


@attrs.frozen
class Header:
    """Shape and dtype an archive announces for one array, read without its data."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def read_npz(
    path: Path,
    check: Callable[[Mapping[str, Header]], None],
) -> dict[str, npt.NDArray[Any]]:
    """Read all arrays of an archive without pickle.

    Shapes and dtypes are read first and given to ``check``, which raises when they are not what it wants: a
    file that announces absurd sizes is refused before memory is reserved for it.

    Args:
        path: the archive.
        check: called once with every entry's header.

    Raises:
        ArtifactError: if the file is missing, no archive, truncated, or holds Python objects.
    """
    with _opened(path) as archive:
        check(_headers(path, archive))
        return {_entry_name(info): _read_array(path, archive, info) for info in archive.infolist()}


def read_headers(path: Path) -> dict[str, Header]:
    """Shapes and dtypes of all arrays of an archive; reads no data.

    Raises:
        ArtifactError: as :func:`read_npz`.
    """
    with _opened(path) as archive:
        return _headers(path, archive)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    if not path.is_file():
        found = "a directory" if path.is_dir() else "no such file"
        raise ArtifactError(path, None, "an .npz archive", found, "Check the path, or rebuild the model.")
    with _damage_reported(path, None, "a complete .npz archive"), zipfile.ZipFile(path) as archive:
        yield archive


def _headers(path: Path, archive: zipfile.ZipFile) -> dict[str, Header]:
    return {_entry_name(info): _read_header(path, archive, info) for info in archive.infolist()}


@contextlib.contextmanager
def _damage_reported(path: Path, entry: str | None, wanted: str) -> Iterator[None]:
    """Whatever zipfile and numpy raise on damaged bytes becomes an ``ArtifactError``.

    Their parsers were not written for hostile input: beside their own errors they let those of ``struct``, ``zlib``
    and ``tokenize`` out, among others, so no list of them would be complete.
    """
    try:
        yield
    except ArtifactError:
        raise
    except Exception as error:
        found = f"{path.stat().st_size} bytes that cannot be read ({type(error).__name__}: {error})"
        raise ArtifactError(path, entry, wanted, found, FETCH_AGAIN) from error


def _entry_name(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


def _read_header(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        size = stream.tell() + math.prod(shape) * dtype.itemsize
    name = _entry_name(info)
    if dtype.hasobject:
        found = "pickled Python objects"
        advice = "Such a file could run code when read; convert it with numpy.savez from plain arrays."
        raise ArtifactError(path, name, "an array of plain numbers or text", found, advice)
    if size != info.file_size:
        wanted = f"{size} bytes for {dtype} {list(shape)}"
        raise ArtifactError(path, name, wanted, f"{info.file_size} bytes", FETCH_AGAIN)
    return Header(tuple(shape), dtype)


def _read_array(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> npt.NDArray[Any]:
    with _damage_reported(path, _entry_name(info), "readable data"):
        if info.file_size >= LARGE_BYTES:
            with archive.open(info) as stream:
                large = _read_aligned(stream, info.file_size)
            if large is not None:
                return large
        with archive.open(info) as stream:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _read_aligned(stream: IO[bytes], size: int) -> npt.NDArray[Any] | None:
    """An array whose data begins at a cache line, read in one pass; None where it is stored by columns.

    JAX on a CPU takes such an array over, where it would copy another: a large table is then held once.
    """
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(stream)
    if by_columns or dtype.hasobject:
        return None
    nbytes = size - stream.tell()
    room = np.empty(nbytes + CACHE_LINE, np.uint8)
    start = -room.ctypes.data % CACHE_LINE
    data, done = room[start : start + nbytes], 0
    while done < nbytes:
        part = stream.read(min(1 << 20, nbytes - done))
        if not part:
            raise EOFError(f"{done} of {nbytes} bytes")
        data[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)
    stream.read(1)  # has zipfile compare the checksum
    return data.view(dtype).reshape(shape)


def npz_bytes(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The archive of ``arrays`` as bytes.

    Equal arrays give equal bytes, whatever their order and the time of day.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in sorted(arrays):
            info = zipfile.ZipInfo(f"{name}.npy", EARLIEST_ZIP_TIME)
            info.external_attr = 0o600 << 16
            with archive.open(info, "w", force_zip64=True) as stream:
                array = np.asarray(arrays[name])
                # ascontiguousarray would turn a scalar into a vector.
                array = np.ascontiguousarray(array) if array.ndim else array
                np.lib.format.write_array(stream, array, allow_pickle=False)
    return buffer.getvalue()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
