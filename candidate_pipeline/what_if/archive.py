"""The file of a capture: a zip archive of a JSON manifest and `.npy` members, read with nothing but suspicion.

Whatever a file says of itself is tested against what is there before memory is taken for it, names of members are
looked up and never become paths, and nothing in it is ever run: no pickle, no import path.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.errors import CaptureError

#: The longest file, in bytes, that is written or read.
MAX_FILE: Final = 64 * 2**20
#: What the members of a file may come to, unpacked, in bytes.
MAX_UNPACKED: Final = 256 * 2**20
MAX_MANIFEST: Final = 32 * 2**20
MAX_MEMBERS: Final = 20_000

MANIFEST: Final = "manifest.json"
_ARRAY: Final = re.compile(r"arrays/(0|[1-9][0-9]{0,5})\.npy")
#: Numbers, truth values, times, and texts and bytes of a fixed width.
_KINDS: Final = "biufcmMSU"
_MAX_HEADER: Final = 4096
#: The time that members carry, so that equal captures are equal files.
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


@attrs.define(eq=False)
class Arrays:
    """Collects the arrays of a capture that is being written; equal ones are kept once.

    Args:
        limit: How many bytes they may come to.
    """

    limit: int = MAX_UNPACKED
    members: list[NDArray[Any]] = attrs.field(factory=list)
    size: int = 0
    _names: dict[tuple[str, tuple[int, ...], bytes], str] = attrs.field(factory=dict)

    def add(self, array: NDArray[Any]) -> str:
        """Keep an array; its name in the manifest.

        Raises:
            CaptureError: It holds objects or records, or there is no room for it.
        """
        if array.dtype.kind not in _KINDS or not array.dtype.itemsize:
            raise CaptureError(f"an array of {array.dtype} cannot be captured: wanted numbers, truth values or times")
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (array.dtype.str, array.shape, hashlib.blake2b(array.tobytes(), digest_size=16).digest())
        name = self._names.get(key)
        if name is None:
            self.size += array.nbytes
            if self.size > self.limit or len(self.members) >= MAX_MEMBERS - 1:
                raise CaptureError(f"the request is too large to capture: over {self.limit} bytes of arrays")
            name = self._names[key] = str(len(self.members))
            self.members.append(array)
        return name


def pack(manifest: Mapping[str, Any], arrays: Arrays, max_bytes: int = MAX_FILE) -> bytes:
    """The bytes of a capture file.

    Raises:
        CaptureError: There would be more than `max_bytes` of them.
    """
    text = json.dumps(manifest, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()
    if len(text) > MAX_MANIFEST:
        raise CaptureError(f"the request is too large to capture: a manifest of {len(text)} bytes")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        _add(archive, MANIFEST, text)
        for number, array in enumerate(arrays.members):
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            _add(archive, f"arrays/{number}.npy", member.getvalue())
            if stream.tell() > max_bytes:
                break
    data = stream.getvalue()
    if len(data) > max_bytes:
        raise CaptureError(f"the request is too large to capture: over {max_bytes} bytes")
    return data


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o600 << 16
    archive.writestr(info, data)


def unpack(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The manifest of a file and its arrays by name.

    Raises:
        CaptureError: It cannot be read, or is not what `pack` makes.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise CaptureError(f"{path}: wanted a capture, found no plain file")
            if found.st_size > MAX_FILE:
                raise CaptureError(f"{path}: {found.st_size} bytes are more than a capture may have ({MAX_FILE})")
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise CaptureError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        return unpack_bytes(data)
    except CaptureError as error:
        raise CaptureError(f"{path}: {error}") from error


def unpack_bytes(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """As `unpack`, from the bytes of a file."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _members(archive)
            texts = {name: _read(archive, info) for name, info in members.items()}
    except CaptureError:
        raise
    # What zipfile and zlib raise on bytes that are no zip archive is a long list, and no promise.
    except (Exception, zlib.error) as error:
        raise CaptureError(f"not a capture, or a damaged one: {type(error).__name__}: {error}") from error
    manifest = _json(texts.pop(MANIFEST))
    arrays = {}
    for name, text in texts.items():
        match = _ARRAY.fullmatch(name)
        arrays["" if match is None else match[1]] = _array(text, name)
    return manifest, arrays


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise CaptureError(f"{len(infos)} members are more than a capture may have ({MAX_MEMBERS})")
    members: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for info in infos:
        name = info.filename
        if name != MANIFEST and not _ARRAY.fullmatch(name):
            raise CaptureError(f"member {name[:80]!r}: a capture holds {MANIFEST} and arrays/<number>.npy alone")
        if name in members:
            raise CaptureError(f"member {name!r} stands twice")
        if info.flag_bits & 0x1 or info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise CaptureError(f"member {name!r} is encrypted, or packed in a way that captures are not")
        total += info.file_size
        if total > MAX_UNPACKED or (name == MANIFEST and info.file_size > MAX_MANIFEST):
            raise CaptureError(f"its members claim to unpack to more than {MAX_UNPACKED} bytes")
        members[name] = info
    if MANIFEST not in members:
        raise CaptureError(f"it has no {MANIFEST}: not a capture")
    return members


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as member:
        data = member.read(info.file_size + 1)  # zipfile unpacks no more than is asked for
    if len(data) != info.file_size:
        raise CaptureError(f"member {info.filename!r} has {len(data)} bytes of {info.file_size}: it was cut short")
    return data


def _json(text: bytes) -> dict[str, Any]:
    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no number of JSON")

    try:
        manifest = json.loads(text.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise CaptureError(f"{MANIFEST} is not the JSON of a capture: {error}") from error
    if not isinstance(manifest, dict):
        raise CaptureError(f"{MANIFEST}: wanted a table, found {type(manifest).__name__}")
    return manifest


def _array(data: bytes, name: str) -> NDArray[Any]:
    """An array of a member, of which nothing is believed that its length does not bear out."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise CaptureError(f"member {name!r}: wanted version 1.0 of npy, found {version}")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_MAX_HEADER)
    except CaptureError:
        raise
    except Exception as error:  # the header is a Python literal, which can be wrong in any way
        raise CaptureError(f"member {name!r} is no npy array: {type(error).__name__}: {error}") from error
    if dtype.hasobject or dtype.kind not in _KINDS or not dtype.itemsize or dtype.subdtype is not None:
        raise CaptureError(f"member {name!r}: an array of {dtype} has no place in a capture")
    count = math.prod(shape)
    start = stream.tell()
    if any(side < 0 for side in shape) or len(shape) > 8 or count * dtype.itemsize != len(data) - start:
        raise CaptureError(f"member {name!r} claims to be {dtype}{list(shape)} in {len(data) - start} bytes")
    array = np.frombuffer(data, dtype, count, start) if count else np.empty(0, dtype)
    if dtype.kind == "b" and count and array.view(np.uint8).max() > 1:
        raise CaptureError(f"member {name!r} holds truth values other than true and false")
    array = array.reshape(shape, order="F" if by_columns else "C")
    array.setflags(write=False)
    return array
