"""The files of a quantised artifact: config.json, quantized_params/ and quantized_tables/, the latter two mapped.

config.json says ``quantized_format`` and, in ``content_sha256``, which two manifests belong together; these hold the
checksums of all data. So opening reads some kilobytes and the small float parameters, but no matrix and no table row.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import attrs
import numpy as np
import numpy.typing as npt

from phoenix_recsys.config_json import CONFIG_FILE, ConfigReader
from phoenix_recsys.errors import ArtifactError
from phoenix_recsys.hashing import HashParams
from phoenix_recsys.mmap_npy import MANIFEST_FILE, AnyArray, ArrayDirectoryWriter, open_arrays, verify_arrays
from phoenix_recsys.npz import write_atomically
from phoenix_recsys.quantized_tables import KIND as TABLES_KIND
from phoenix_recsys.quantized_tables import TABLES, QuantizedTables
from phoenix_recsys.quantized_weights import MATRICES, QuantizedMatrix
from phoenix_recsys.whole_directory import WholeDirectory

PARAMS_DIRECTORY = "quantized_params"
TABLES_DIRECTORY = "quantized_tables"
PARAMS_KIND = "quantized_params"
FORMAT_KEY = "quantized_format"
FORMAT_VERSION = 1
CONTENT_KEY = "content_sha256"

FILES = (CONFIG_FILE, PARAMS_DIRECTORY, TABLES_DIRECTORY)
QUANTISE_AGAIN = "Quantise the model anew: python -m phoenix_recsys.quantize."
VERIFY_ROWS = 1 << 16

Parameter: TypeAlias = "npt.NDArray[np.float32] | QuantizedMatrix"


@attrs.frozen
class Verified:
    """What :func:`phoenix_recsys.artifact.verify_artifact` has read.

    Attributes:
        arrays: how many.
        nbytes: bytes of their data.
        unsealed: names of those that have no checksum, since they may be filled in place.
    """

    arrays: int
    nbytes: int
    unsealed: tuple[str, ...] = ()


@attrs.frozen(eq=False)
class QuantizedParts:
    """What the two directories of a quantised artifact hold, mapped.

    Attributes:
        params: parameters by ``module path/name``.
        tables: the tables.
        checksum: of both manifests.
    """

    params: Mapping[str, Parameter]
    tables: QuantizedTables
    checksum: str


def is_quantized(directory: Path, reader: ConfigReader, others: tuple[str, ...]) -> bool:
    """Whether config.json announces the quantised format.

    Args:
        directory: the artifact.
        reader: its config.json.
        others: names of files of the float format.

    Raises:
        ArtifactError: if the format's version is unknown, or files of the format that was not announced are there.
    """
    version = reader.entries.get(FORMAT_KEY)
    if version is not None and (version != FORMAT_VERSION or not isinstance(version, int) or version is True):
        advice = "Read it with the version of the library that wrote it, or quantise the model anew."
        raise ArtifactError(reader.path, FORMAT_KEY, str(FORMAT_VERSION), repr(version)[:80], advice)
    foreign = others if version is not None else (PARAMS_DIRECTORY, TABLES_DIRECTORY)
    mixed = [name for name in foreign if (directory / name).exists()]
    if mixed:
        says = "says" if version is not None else "does not say"
        wanted = f"files of one format ({CONFIG_FILE} {says} {FORMAT_KEY})"
        advice = "Keep float and quantised models in directories of their own."
        raise ArtifactError(directory / mixed[0], None, wanted, "a file of the other one", advice)
    return version is not None


def open_parts(directory: Path, hash_params: Callable[[Mapping[str, Parameter]], HashParams]) -> QuantizedParts:
    """Map parameters and tables of an artifact.

    Args:
        directory: the artifact.
        hash_params: checks the parameters, and gives the hashes that the tables must fit.

    Raises:
        ArtifactError: if a file is missing, damaged or does not fit.
    """
    params, params_checksum = open_params(directory / PARAMS_DIRECTORY)
    hashes = hash_params(params)
    found = open_arrays(directory / TABLES_DIRECTORY, TABLES_KIND)
    return QuantizedParts(params, QuantizedTables.of(found, hashes), _joined(params_checksum, found.checksum))


def content_checksum(directory: Path) -> str:
    """What ``content_sha256`` of a directory with both parts must say; reads manifests and headers only.

    Raises:
        ArtifactError: if a part is missing or damaged.
    """
    kinds = ((PARAMS_DIRECTORY, PARAMS_KIND), (TABLES_DIRECTORY, TABLES_KIND))
    return _joined(*(open_arrays(directory / name, kind).checksum for name, kind in kinds))


def _joined(params: str, tables: str) -> str:
    return hashlib.sha256(f"{PARAMS_KIND} {params}\n{TABLES_KIND} {tables}\n".encode()).hexdigest()


def check_content(reader: ConfigReader, checksum: str) -> None:
    """Compare the checksum in config.json.

    Raises:
        ArtifactError: if it is missing or another.
    """
    stated = reader.entries.get(CONTENT_KEY)
    if stated != checksum:
        wanted = f"the checksum of the manifests of {PARAMS_DIRECTORY} and {TABLES_DIRECTORY}, {checksum[:12]}…"
        found = "no such entry" if stated is None else f"{str(stated)[:12]}…"
        advice = f"The parts are of several versions: copy the directory again. {QUANTISE_AGAIN}"
        raise ArtifactError(reader.path, CONTENT_KEY, wanted, found, advice)


def write_artifact(
    target: Path,
    entries: Mapping[str, Any],
    params: Mapping[str, Any],
    write_tables: Callable[[Path], None],
) -> None:
    """Write a quantised artifact, which appears whole or not at all; an older one in its place is replaced.

    Args:
        target: the directory; its parents are created.
        entries: of config.json, without format and checksum.
        params: parameters by ``module path/name``, quantised or not.
        write_tables: writes the tables into the directory given.

    Raises:
        ArtifactError: if something stands there that is no quantised artifact, or the disk is full.
    """
    target = Path(os.path.realpath(target))
    check_replaceable(target)
    try:
        json.dumps(dict(entries), allow_nan=False)  # before the work of writing tables
    except ValueError as error:
        wanted = "numbers that JSON knows, without NaN"
        raise ArtifactError(target / CONFIG_FILE, None, wanted, str(error), "Correct the entry.") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with WholeDirectory(target) as whole:
        write_params(whole.path / PARAMS_DIRECTORY, params)
        write_tables(whole.path / TABLES_DIRECTORY)
        write_config(whole.path, entries)
        whole.commit()


def write_config(directory: Path, entries: Mapping[str, Any]) -> None:
    """Write the config.json that makes an artifact of a directory with both parts.

    Raises:
        ArtifactError: if a part is missing or damaged.
        ValueError: if an entry is no plain JSON.
    """
    added = {FORMAT_KEY: FORMAT_VERSION, CONTENT_KEY: content_checksum(directory)}
    text = json.dumps({**entries, **added}, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_atomically(directory / CONFIG_FILE, text.encode())


def check_replaceable(target: Path) -> None:
    """Nothing is there, or an empty directory, or a quantised artifact and nothing else.

    Raises:
        ArtifactError: otherwise.
    """
    advice = "Choose another path, or remove it yourself if it is not needed."
    if not target.exists():
        return
    if not target.is_dir():
        raise ArtifactError(target, None, "a quantised artifact or nothing", "something else", advice)
    names = sorted(entry.name for entry in target.iterdir())
    others = [name for name in names if name not in FILES]
    if others:
        found = f"also {others[0]}, and the directory would be replaced as a whole"
        raise ArtifactError(target, None, "a quantised artifact or nothing", found, advice)
    if names and FORMAT_KEY not in ConfigReader.read(target / CONFIG_FILE).entries:
        raise ArtifactError(target, None, "a quantised artifact or nothing", f"another {CONFIG_FILE}", advice)


def write_params(directory: Path, params: Mapping[str, Any]) -> None:
    """Write parameters by ``module path/name`` as arrays: int8 values and scales of a quantised one, else float32."""
    with ArrayDirectoryWriter(directory, PARAMS_KIND) as writer:
        stored = {}
        for path, value in sorted(params.items()):
            if isinstance(value, QuantizedMatrix):
                stored[path] = "int8"
                _put(writer, f"{array_name(path)}+values", np.asarray(value.values))
                _put(writer, f"{array_name(path)}+scales", np.asarray(value.scales))
                continue
            array = np.asarray(value, np.float32)
            stored[path] = "float32" if array.ndim else "scalar"
            _put(writer, array_name(path), np.atleast_1d(array))
        writer.commit({"parameters": stored})


def _put(writer: ArrayDirectoryWriter, name: str, array: AnyArray) -> None:
    writer.create(name, array.shape[1:], array.dtype).append(array)


def array_name(path: str) -> str:
    """A plain file name for a parameter's path, another one for every path: dots for slashes, the rest escaped.

    A plus sign is always escaped, so that what follows one never belongs to the path.
    """
    return quote(path, safe="/~").replace(".", "%2E").replace("/", ".")


def open_params(directory: Path) -> tuple[dict[str, Parameter], str]:
    """Map parameters by ``module path/name``; also gives the checksum of their manifest.

    Raises:
        ArtifactError: if the directory is damaged, or an array is not what the manifest says it is for.
    """
    found = open_arrays(directory, PARAMS_KIND, random_access=False)
    manifest = directory / MANIFEST_FILE

    def fail(path: str | None, wanted: str, what: object) -> ArtifactError:
        return ArtifactError(manifest, path, wanted, str(what)[:200], QUANTISE_AGAIN)

    stored = found.meta.get("parameters")
    if not isinstance(stored, dict):
        raise fail("meta.parameters", "an object", repr(stored)[:80])
    params: dict[str, Parameter] = {}
    used: set[str] = set()

    def take(path: str, suffix: str, dtype: type[np.generic]) -> AnyArray:
        name = array_name(path) + suffix
        array = found.arrays.get(name)
        if array is None:
            raise fail(path, f"an array {name}", "no such array")
        if array.dtype != dtype:
            raise fail(path, f"an array {name} of {np.dtype(dtype)}", array.dtype)
        used.add(name)
        return array

    for path, form in stored.items():
        if form == "int8":
            values, scales = take(path, "+values", np.int8), take(path, "+scales", np.float32)
            if values.ndim != 2 or scales.shape != values.shape[1:]:
                shapes = f"{list(values.shape)} and {list(scales.shape)}"
                raise fail(path, "values [in, out] and scales [out]", shapes)
            if path.rpartition("/")[2] not in MATRICES:
                raise fail(path, "float32, as only matrices that activations are multiplied by may be int8", "int8")
            params[path] = QuantizedMatrix(values, scales)
        elif form == "float32":
            params[path] = take(path, "", np.float32)
        elif form == "scalar":
            array = take(path, "", np.float32)
            if array.shape != (1,):
                raise fail(path, "one number", list(array.shape))
            params[path] = array[0, ...]
        else:
            raise fail(path, "int8, float32 or scalar", repr(form)[:80])
    if extra := sorted(set(found.arrays) - used):
        raise fail("arrays", "arrays of the parameters listed only", extra[0])
    return params, found.checksum


def verify_parts(directory: Path, parts: QuantizedParts) -> Verified:
    """Read all data of an opened artifact and compare it with the checksums and with what quantising gives.

    Raises:
        ArtifactError: for data that differs from what was written, scales that are no finite positive numbers or
            zero, and the value −128, which quantising never gives.
    """
    arrays = nbytes = 0
    unsealed: list[str] = []
    for name, kind in ((PARAMS_DIRECTORY, PARAMS_KIND), (TABLES_DIRECTORY, TABLES_KIND)):
        verify_arrays(directory / name, kind)
        entries = open_arrays(directory / name, kind).entries
        arrays += len(entries)
        nbytes += sum(entry.nbytes for entry in entries.values())
        unsealed += sorted(f"{name}/{array}" for array, entry in entries.items() if entry.blake2b is None)
    for path, value in parts.params.items():
        if isinstance(value, QuantizedMatrix):
            _check_values(directory / PARAMS_DIRECTORY, path, np.asarray(value.values).T, np.asarray(value.scales))
    for name, table in zip(TABLES, parts.tables.tables, strict=True):
        for start in range(0, table.num_rows, VERIFY_ROWS):
            block = slice(start, start + VERIFY_ROWS)
            _check_values(directory / TABLES_DIRECTORY, name, table.rows[block], table.scales[block], start)
    return Verified(arrays, nbytes, tuple(unsealed))


def _check_values(path: Path, name: str, rows: AnyArray, scales: AnyArray, first: int = 0) -> None:
    bad = np.flatnonzero(~(np.isfinite(scales) & (scales >= 0)))
    if bad.size:
        found = f"{scales[bad[0]]} for row {first + bad[0]}"
        raise ArtifactError(path, name, "scales that are finite and not negative", found, QUANTISE_AGAIN)
    low = np.flatnonzero((rows == -128).any(axis=1))
    if low.size:
        found = f"-128 in row {first + low[0]}"
        raise ArtifactError(path, name, "values from -127 to 127", found, QUANTISE_AGAIN)
