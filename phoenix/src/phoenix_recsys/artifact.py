"""Artifact directories of one model: published ones in float32 or float16, and quantised ones mapped from the disk.

The published layout (config.json, model_params.npz, embedding_tables.npz) is that of the May 2026 artifacts, so an
unchanged published directory loads. A quantised one (config.json, quantized_params/, quantized_tables/) holds int8
matrices and tables; see :mod:`phoenix_recsys.quantized_artifact`. Each model is read with its own configuration.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import numpy.typing as npt

from phoenix_recsys import quantized_artifact
from phoenix_recsys.config import Positions, RankerConfig, RetrievalConfig
from phoenix_recsys.config_json import CONFIG_FILE, ConfigReader, Kind, config_entries
from phoenix_recsys.errors import ArtifactError
from phoenix_recsys.hashing import HashParams
from phoenix_recsys.mmap_npy import MANIFEST_FILE, npz_blocks
from phoenix_recsys.npz import Header, npz_bytes, read_headers, read_npz, write_atomically
from phoenix_recsys.quantized_artifact import (
    CONTENT_KEY,
    PARAMS_DIRECTORY,
    TABLES_DIRECTORY,
    Parameter,
    QuantizedParts,
    Verified,
)
from phoenix_recsys.quantized_tables import QuantizedTable, QuantizedTables, write_tables
from phoenix_recsys.quantized_weights import QuantizedMatrix
from phoenix_recsys.tables import EmbeddingTables
from phoenix_recsys.transforms import Params, parameter_shapes

PARAMS_FILE = "model_params.npz"
TABLES_FILE = "embedding_tables.npz"
LOG_TEMPERATURE = "~/log_temperature"
"""An entry of published retrieval artifacts that no forward pass reads."""

MODEL_PATHS: dict[Kind, str] = {"ranker": "phoenix_model", "retrieval": "phoenix_retrieval_model"}
WRONG_MODEL = "The parameters do not belong to this config.json: restore the matching file, or rebuild the model."
REBUILD = "The training run diverged or the file is damaged: rebuild the model."
TABLE_DTYPES = (np.dtype(np.float32), np.dtype(np.float16))
CHECKED_ROWS = 1 << 14


@attrs.frozen(eq=False)
class Artifact:
    """One model with everything needed to use it.

    Attributes:
        config: the model's configuration.
        params: module path to name to float32 array, as haiku's ``apply`` takes it; of a quantised ranker the
            matrices are :class:`~phoenix_recsys.quantized_weights.QuantizedMatrix`.
        tables: float32 embedding tables [V, D], or quantised ones.
        hash_params: hash constants; their vocabulary sizes equal the tables' rows.
        served_heads: names of the action heads fit for serving, or None for all.
        metadata: anything else worth recording (training settings, data set); plain JSON values.
    """

    config: RankerConfig | RetrievalConfig
    params: Params
    tables: EmbeddingTables | QuantizedTables
    hash_params: HashParams
    served_heads: tuple[str, ...] | None = None
    metadata: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def kind(self) -> Kind:
        """``ranker`` or ``retrieval``."""
        return "ranker" if isinstance(self.config, RankerConfig) else "retrieval"

    @property
    def float_tables(self) -> EmbeddingTables:
        """The tables, where they are not quantised.

        Raises:
            TypeError: if they are.
        """
        if isinstance(self.tables, QuantizedTables):
            raise TypeError("wanted an artifact with float tables, found quantised ones; load the float artifact")
        return self.tables


def load_artifact(
    directory: Path | str,
    *,
    kind: Kind | None = None,
    default_positions: Positions = "anchored",
    quantize_tables: bool = False,
) -> Artifact:
    """Read and check an artifact directory.

    A published one is read whole. A quantised one is mapped: matrices and table rows are read where and when they are
    used, and what only reading them can tell, :func:`verify_artifact` does.

    Args:
        directory: the artifact, of either format.
        kind: the model wanted; None takes whichever it is.
        default_positions: the ranker's positions where config.json names none (published files do not).
        quantize_tables: quantise the tables of a published artifact while they are read, block after block, so that
            no float table is ever held.

    Raises:
        ArtifactError: if a file is missing, damaged, or does not fit the others; names file and entry.
    """
    directory = Path(directory)
    reader = _reader(directory)
    if _is_quantized(directory, reader):
        return _load_quantized(directory, reader, kind, default_positions)[0]
    model = _load_params(directory, reader, kind, default_positions)
    tables_path = directory / TABLES_FILE
    if quantize_tables:
        _check_tables(tables_path, model.config, model.hash_params, read_headers(tables_path))
        _check_content(reader, directory)
        return attrs.evolve(model, tables=_quantized_while_read(tables_path, model.hash_params))
    arrays = read_npz(tables_path, lambda headers: _check_tables(tables_path, model.config, model.hash_params, headers))
    _check_finite(tables_path, arrays)
    _check_content(reader, directory)
    names = (f"{name}_embeddings" for name in EmbeddingTables._fields)
    tables = [arrays[name].astype(np.float32, copy=False) for name in names]
    for table in tables:
        table.flags.writeable = False  # so that a device may share them
    return attrs.evolve(model, tables=EmbeddingTables(*tables))


def save_artifact(
    directory: Path | str, artifact: Artifact, *, table_dtype: Literal["float32", "float16"] = "float32"
) -> None:
    """Write an artifact directory; equal artifacts give equal bytes.

    In the published format each file is replaced atomically, config.json last; it holds a checksum over the others, so
    that a directory caught between two versions is refused rather than misread. Other files in the directory are left
    alone. With quantised tables the quantised format is written, and the directory is replaced as a whole.

    Args:
        directory: created where missing. A directory of the other format is not written to.
        artifact: parameters and tables may be JAX or numpy arrays.
        table_dtype: ``float16`` halves float tables; they are float32 again when loaded. Quantised ones stay as
            they are.

    Raises:
        ArtifactError: if the parts do not fit each other or hold NaN or infinite values, or something else is in the
            way; nothing is written then.
    """
    directory = Path(directory)
    entries = _entries(artifact)
    flat = flat_params(artifact.params)
    if isinstance(artifact.tables, QuantizedTables):
        _save_quantized(directory, artifact.config, artifact.hash_params, entries, flat, artifact.tables)
        return
    params_path, tables_path = directory / PARAMS_FILE, directory / TABLES_FILE
    quantized = sorted(name for name, value in flat.items() if isinstance(value, QuantizedMatrix))
    if quantized:
        advice = "Quantise the tables too (QuantizedTables.quantize), or save the model before quantising it."
        raise ArtifactError(params_path, quantized[0], "floating point numbers beside float tables", "int8", advice)
    _check_parameters(params_path, artifact.config, _param_headers(flat))
    _check_finite_params(params_path, flat)
    with np.errstate(over="ignore"):  # an overflow becomes infinite and is reported below, with its place
        tables = {name: np.asarray(value).astype(table_dtype) for name, value in _named(artifact.tables).items()}
    shapes = {name: Header(value.shape, value.dtype) for name, value in tables.items()}
    _check_tables(tables_path, artifact.config, artifact.hash_params, shapes)
    _check_finite(tables_path, tables)
    for name in (PARAMS_DIRECTORY, TABLES_DIRECTORY):
        if (directory / name).exists():
            advice = "Choose another directory, or remove it yourself if it is not needed."
            raise ArtifactError(directory / name, None, "no quantised artifact in the way", "one that is", advice)
    params_bytes, tables_bytes = npz_bytes({k: np.asarray(v) for k, v in flat.items()}), npz_bytes(tables)
    entries[CONTENT_KEY] = hashlib.sha256(params_bytes + tables_bytes).hexdigest()
    text = json.dumps(entries, indent=1, sort_keys=True, allow_nan=False) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(params_path, params_bytes)
    write_atomically(tables_path, tables_bytes)
    write_atomically(directory / CONFIG_FILE, text.encode())


def verify_artifact(directory: Path | str) -> Verified:
    """Read everything that an artifact directory of either format holds and compare all checksums.

    Tables are read block after block, so that they need not fit in memory.

    Raises:
        ArtifactError: if a file is missing, damaged, does not fit the others, or holds what it must not.
    """
    directory = Path(directory)
    reader = _reader(directory)
    if _is_quantized(directory, reader):
        return quantized_artifact.verify_parts(directory, _load_quantized(directory, reader, None, "anchored")[1])
    model = load_float_model(directory)
    params, tables_path = flat_params(model.params), directory / TABLES_FILE
    nbytes = sum(value.nbytes for value in params.values())
    for name in _named(model.tables):
        first = 0
        for block in npz_blocks(tables_path, name, CHECKED_ROWS):
            _check_finite(tables_path, {name: block}, first)
            first += len(block)
            nbytes += block.nbytes
    return Verified(len(params) + len(EmbeddingTables._fields), nbytes)


def load_float_model(directory: Path) -> Artifact:
    """A published artifact without its tables, of which shapes and checksum alone are looked at.

    Returns:
        the artifact, with tables of no rows.

    Raises:
        ArtifactError: as :func:`load_artifact`, and if the artifact is quantised.
    """
    reader = _reader(directory)
    if _is_quantized(directory, reader):
        advice = "It is quantised already: copy the directory, or start from the model that it was made of."
        raise ArtifactError(directory, None, "a float artifact", "a quantised one", advice)
    model = _load_params(directory, reader, None, "anchored")
    path = directory / TABLES_FILE
    _check_tables(path, model.config, model.hash_params, read_headers(path))
    _check_content(reader, directory)
    return model


def _entries(artifact: Artifact) -> dict[str, Any]:
    """What config.json says of an artifact, without format and checksum."""
    entries = config_entries(artifact.config, artifact.hash_params)
    if artifact.served_heads is not None:
        entries["served_heads"] = list(artifact.served_heads)
    if artifact.metadata:
        entries["metadata"] = dict(artifact.metadata)
    return entries


def flat_params(params: Params) -> dict[str, Parameter]:
    """Parameters by ``module path/name``, on the host: float32 arrays or quantised matrices."""
    return {
        f"{module}/{name}": QuantizedMatrix(np.asarray(value.values), np.asarray(value.scales))
        if isinstance(value, QuantizedMatrix)
        else np.asarray(value, np.float32)
        for module, entries in params.items()
        for name, value in entries.items()
    }


def _reader(directory: Path) -> ConfigReader:
    return ConfigReader.read(directory / CONFIG_FILE)


def _is_quantized(directory: Path, reader: ConfigReader) -> bool:
    return quantized_artifact.is_quantized(directory, reader, (PARAMS_FILE, TABLES_FILE))


def _load_params(directory: Path, reader: ConfigReader, kind: Kind | None, default_positions: Positions) -> Artifact:
    """A published artifact with tables of no rows."""
    path = directory / PARAMS_FILE
    found: list[RankerConfig | RetrievalConfig] = []
    flat = read_npz(path, lambda headers: found.append(_config(path, reader, headers, kind, default_positions)))
    _check_finite_params(path, flat)
    config = found[0]
    nothing = EmbeddingTables(*(np.zeros((0, config.emb_size), np.float32) for _ in EmbeddingTables._fields))
    params = {name: value.astype(np.float32, copy=False) for name, value in flat.items()}
    hash_params = reader.hash_params(config.hash_config)
    return Artifact(config, _nested(params), nothing, hash_params, *_described(reader, config))


def _quantized_while_read(path: Path, hash_params: HashParams) -> QuantizedTables:
    tables = []
    for name in EmbeddingTables._fields:
        blocks, rows = npz_blocks(path, f"{name}_embeddings"), getattr(hash_params, name).vocab_size
        try:
            table = QuantizedTable.quantize(blocks, name=name, num_rows=rows)
        except ValueError as error:
            raise ArtifactError(path, f"{name}_embeddings", "finite numbers", str(error), REBUILD) from error
        # Read-only arrays become a device's without a copy; nobody else holds these.
        table.rows.flags.writeable = table.scales.flags.writeable = False
        tables.append(table)
    return QuantizedTables(*tables)


def _load_quantized(
    directory: Path, reader: ConfigReader, kind: Kind | None, default_positions: Positions
) -> tuple[Artifact, QuantizedParts]:
    path = directory / PARAMS_DIRECTORY / MANIFEST_FILE
    found: list[tuple[RankerConfig | RetrievalConfig, HashParams]] = []

    def check(params: Mapping[str, Parameter]) -> HashParams:
        config = _config(path, reader, _param_headers(params), kind, default_positions)
        _check_finite_params(path, params)
        found.append((config, reader.hash_params(config.hash_config)))
        return found[0][1]

    parts = quantized_artifact.open_parts(directory, check)
    config, hash_params = found[0]
    tables_path = directory / TABLES_DIRECTORY / MANIFEST_FILE
    _check_width(tables_path, config, parts.tables)
    quantized_artifact.check_content(reader, parts.checksum)
    described = _described(reader, config)
    return Artifact(config, _nested(parts.params), parts.tables, hash_params, *described), parts


def _save_quantized(
    directory: Path,
    config: RankerConfig | RetrievalConfig,
    hash_params: HashParams,
    entries: Mapping[str, Any],
    flat: Mapping[str, Parameter],
    tables: QuantizedTables,
) -> None:
    path = directory / PARAMS_DIRECTORY
    _check_parameters(path, config, _param_headers(flat))
    _check_finite_params(path, flat)
    _check_width(directory / TABLES_DIRECTORY, config, tables)
    rows = [table.num_rows for table in tables.tables]
    wanted = [hash_params.user.vocab_size, hash_params.item.vocab_size, hash_params.author.vocab_size]
    if rows != wanted:
        wanted_text = f"{wanted} rows for user, item, author, the vocabulary sizes of the hashes"
        raise ArtifactError(directory / TABLES_DIRECTORY, None, wanted_text, str(rows), WRONG_MODEL)

    def copy_tables(target: Path) -> None:
        write_tables(target, user=tables.user, item=tables.item, author=tables.author)

    quantized_artifact.write_artifact(directory, entries, flat, copy_tables)


def _config(
    path: Path,
    reader: ConfigReader,
    headers: Mapping[str, Header],
    kind: Kind | None,
    default_positions: Positions,
) -> RankerConfig | RetrievalConfig:
    """The configuration, once the parameters are those of the model that it describes and that is wanted."""
    actual = _kind_of(path, headers)
    stated = reader.choice("kind", ("ranker", "retrieval"), actual)
    if stated != actual:
        raise reader.fail("kind", f"{actual}, as the parameters in {path.name} say", stated)
    if kind is not None and kind != actual:
        advice = f"Point to the {kind} directory of the model."
        raise ArtifactError(reader.path.parent, None, f"a {kind} model", f"a {actual} model", advice)
    config = reader.config(actual, {name: header.shape for name, header in headers.items()}, default_positions)
    _check_parameters(path, config, headers)
    return config


def _described(
    reader: ConfigReader, config: RankerConfig | RetrievalConfig
) -> tuple[tuple[str, ...] | None, dict[str, Any]]:
    served = reader.names("served_heads")
    unknown = sorted(set(served or ()) - set(config.action_names or served or ()))
    if unknown:
        raise reader.fail("served_heads", "names out of action_names", ", ".join(unknown))
    metadata = reader.entries.get("metadata", {})
    if not isinstance(metadata, dict):
        raise reader.fail("metadata", "an object", repr(metadata)[:80])
    return served, metadata


def _named(tables: EmbeddingTables | QuantizedTables) -> dict[str, Any]:
    return {f"{name}_embeddings": getattr(tables, name) for name in EmbeddingTables._fields}


def _nested(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    nested: dict[str, dict[str, Any]] = {}
    for path, value in flat.items():
        module, _, name = path.rpartition("/")
        nested.setdefault(module, {})[name] = value
    return nested


def _param_headers(flat: Mapping[str, Parameter]) -> dict[str, Header]:
    return {
        name: Header(value.shape, np.dtype(np.float32) if isinstance(value, QuantizedMatrix) else value.dtype)
        for name, value in flat.items()
    }


def _kind_of(path: Path, headers: Mapping[str, Header]) -> Kind:
    for kind, module in MODEL_PATHS.items():
        if any(name.startswith(f"{module}/") for name in headers):
            return kind
    wanted = f"parameters under {' or '.join(MODEL_PATHS.values())}"
    raise ArtifactError(path, None, wanted, f"{len(headers)} entries, none of them there", WRONG_MODEL)


@functools.lru_cache(maxsize=32)
def _shapes(config: RankerConfig | RetrievalConfig) -> Mapping[str, tuple[int, ...]]:
    return parameter_shapes(config)  # traces the model, which takes longer than reading a small artifact


def _check_parameters(path: Path, config: RankerConfig | RetrievalConfig, headers: Mapping[str, Header]) -> None:
    wanted = _shapes(config)
    for name, header in sorted(headers.items()):
        shape = () if name == LOG_TEMPERATURE else wanted.get(name)
        if shape is None:
            raise ArtifactError(path, name, "no such parameter in this model", str(header), WRONG_MODEL)
        if header.shape != shape:
            raise ArtifactError(path, name, f"shape {list(shape)}", str(list(header.shape)), WRONG_MODEL)
        if header.dtype.kind != "f":
            raise ArtifactError(path, name, "floating point numbers", str(header.dtype), WRONG_MODEL)
    missing = sorted(set(wanted) - set(headers))
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        wanted_text = f"a parameter of shape {list(wanted[missing[0]])}"
        raise ArtifactError(path, missing[0], wanted_text, f"no such entry{others}", WRONG_MODEL)


def _check_tables(
    path: Path, config: RankerConfig | RetrievalConfig, hashes: HashParams, headers: Mapping[str, Header]
) -> None:
    rows = (hashes.user.vocab_size, hashes.item.vocab_size, hashes.author.vocab_size)
    for name, size in zip(EmbeddingTables._fields, rows, strict=True):
        entry, shape = f"{name}_embeddings", (size, config.emb_size)
        header = headers.get(entry)
        if header is None or header.shape != shape or header.dtype not in TABLE_DTYPES:
            wanted = f"float32 or float16 {list(shape)} ({name}_vocab_size, emb_size of {CONFIG_FILE})"
            found = "no such entry" if header is None else str(header)
            raise ArtifactError(path, entry, wanted, found, WRONG_MODEL)
    extra = sorted(set(headers) - {f"{name}_embeddings" for name in EmbeddingTables._fields})
    if extra:
        raise ArtifactError(path, extra[0], "three tables only", "one more entry", WRONG_MODEL)


def _check_width(path: Path, config: RankerConfig | RetrievalConfig, tables: QuantizedTables) -> None:
    if tables.emb_size != config.emb_size:
        wanted = f"rows of width {config.emb_size} (emb_size of {CONFIG_FILE})"
        raise ArtifactError(path, "arrays", wanted, str(tables.emb_size), WRONG_MODEL)


def _check_finite_params(path: Path, flat: Mapping[str, Parameter]) -> None:
    """Float parameters and the scales of quantised ones."""
    parts = {name: value.scales if isinstance(value, QuantizedMatrix) else value for name, value in flat.items()}
    _check_finite(path, {name: np.asarray(value) for name, value in parts.items()})


def _check_finite(path: Path, arrays: Mapping[str, npt.NDArray[Any]], first_row: int = 0) -> None:
    for name, array in sorted(arrays.items()):
        # Block by block, so that the check of a large table takes no memory of its size.
        blocks = range(0, len(array), CHECKED_ROWS) if array.ndim else (0,)
        for start in blocks:
            block = array[start : start + CHECKED_ROWS] if array.ndim else array
            if np.isfinite(block).all():
                continue
            bad = np.argwhere(~np.isfinite(block))
            place = bad[0].tolist()
            if place:
                place[0] += first_row + start
            found = f"NaN or infinite values, the first at {place}"
            raise ArtifactError(path, name, "finite numbers", found, REBUILD)


def _check_content(reader: ConfigReader, directory: Path) -> None:
    stated = reader.entries.get(CONTENT_KEY)
    if stated is None:  # published directories have none
        return
    digest = hashlib.sha256()
    for name in (PARAMS_FILE, TABLES_FILE):
        with (directory / name).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    if stated != digest.hexdigest():
        wanted = f"the checksum of {PARAMS_FILE} and {TABLES_FILE}, {digest.hexdigest()[:12]}…"
        raise reader.fail(CONTENT_KEY, wanted, f"{str(stated)[:12]}…")
