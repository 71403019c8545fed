"""Artifact directories: config.json, model_params.npz and embedding_tables.npz of one model.

The layout is that of the published May 2026 artifacts, so an unchanged published directory loads. Each model
is read with its own configuration.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import numpy.typing as npt

from phoenix_recsys.config import Positions, RankerConfig, RetrievalConfig
from phoenix_recsys.config_json import CONFIG_FILE, ConfigReader, Kind, config_entries
from phoenix_recsys.errors import ArtifactError
from phoenix_recsys.hashing import HashParams
from phoenix_recsys.npz import Header, npz_bytes, read_npz, write_atomically
from phoenix_recsys.tables import EmbeddingTables
from phoenix_recsys.transforms import Params, parameter_shapes

PARAMS_FILE = "model_params.npz"
TABLES_FILE = "embedding_tables.npz"
LOG_TEMPERATURE = "~/log_temperature"
"""An entry of published retrieval artifacts that no forward pass reads."""

MODEL_PATHS: dict[Kind, str] = {"ranker": "phoenix_model", "retrieval": "phoenix_retrieval_model"}
WRONG_MODEL = "The parameters do not belong to this config.json: restore the matching file, or rebuild the model."
TABLE_DTYPES = (np.dtype(np.float32), np.dtype(np.float16))


@attrs.frozen(eq=False)
class Artifact:
    """One model with everything needed to use it.

    Attributes:
        config: the model's configuration.
        params: module path to name to float32 array, as haiku's ``apply`` takes it.
        tables: float32 embedding tables [V, D].
        hash_params: hash constants; their vocabulary sizes equal the tables' rows.
        served_heads: names of the action heads fit for serving, or None for all.
        metadata: anything else worth recording (training settings, data set); plain JSON values.
    """

    config: RankerConfig | RetrievalConfig
    params: Params
    tables: EmbeddingTables
    hash_params: HashParams
    served_heads: tuple[str, ...] | None = None
    metadata: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def kind(self) -> Kind:
        """``ranker`` or ``retrieval``."""
        return "ranker" if isinstance(self.config, RankerConfig) else "retrieval"


def load_artifact(
    directory: Path | str, *, kind: Kind | None = None, default_positions: Positions = "anchored"
) -> Artifact:
    """Read and check an artifact directory.

    Args:
        directory: holds the three files.
        kind: the model wanted; None takes whichever it is.
        default_positions: the ranker's positions where config.json names none (published files do not).

    Raises:
        ArtifactError: if a file is missing, damaged, or does not fit the others; names file and entry.
    """
    directory = Path(directory)
    reader = ConfigReader.read(directory / CONFIG_FILE)
    params_path, tables_path = directory / PARAMS_FILE, directory / TABLES_FILE
    found: list[RankerConfig | RetrievalConfig] = []

    def check_params(headers: Mapping[str, Header]) -> None:
        actual = _kind_of(params_path, headers)
        stated = reader.choice("kind", ("ranker", "retrieval"), actual)
        if stated != actual:
            raise reader.fail("kind", f"{actual}, as the parameters in {PARAMS_FILE} say", stated)
        if kind is not None and kind != actual:
            advice = f"Point to the {kind} directory of the model."
            raise ArtifactError(directory, None, f"a {kind} model", f"a {actual} model", advice)
        config = reader.config(actual, {name: header.shape for name, header in headers.items()}, default_positions)
        _check_parameters(params_path, config, headers)
        found.append(config)

    flat = read_npz(params_path, check_params)
    config = found[0]
    hash_params = reader.hash_params(config.hash_config)
    tables = _read_tables(tables_path, config, hash_params)
    _check_finite(params_path, flat)
    _check_content(reader, params_path, tables_path)
    served = reader.names("served_heads")
    unknown = sorted(set(served or ()) - set(config.action_names or served or ()))
    if unknown:
        raise reader.fail("served_heads", "names out of action_names", ", ".join(unknown))
    metadata = reader.entries.get("metadata", {})
    if not isinstance(metadata, dict):
        raise reader.fail("metadata", "an object", repr(metadata)[:80])
    return Artifact(config, _nested(flat), tables, hash_params, served, metadata)


def save_artifact(
    directory: Path | str, artifact: Artifact, *, table_dtype: Literal["float32", "float16"] = "float32"
) -> None:
    """Write an artifact directory; equal artifacts give equal bytes.

    Each file is replaced atomically, config.json last; it holds a checksum over the others, so that a
    directory caught between two versions is refused rather than misread. Other files in the directory are
    left alone.

    Args:
        directory: created where missing.
        artifact: parameters and tables may be JAX or numpy arrays.
        table_dtype: ``float16`` halves the tables; they are float32 again when loaded.

    Raises:
        ArtifactError: if the parts do not fit each other or hold NaN or infinite values; nothing is written
            then.
    """
    directory = Path(directory)
    flat: dict[str, npt.NDArray[Any]] = {
        f"{module}/{name}": np.asarray(value, np.float32)
        for module, entries in artifact.params.items()
        for name, value in entries.items()
    }
    params_path, tables_path = directory / PARAMS_FILE, directory / TABLES_FILE
    headers = {name: Header(value.shape, value.dtype) for name, value in flat.items()}
    _check_parameters(params_path, artifact.config, headers)
    _check_finite(params_path, flat)
    with np.errstate(over="ignore"):  # an overflow becomes infinite and is reported below, with its place
        tables = {name: np.asarray(value).astype(table_dtype) for name, value in _named(artifact.tables).items()}
    shapes = {name: Header(value.shape, value.dtype) for name, value in tables.items()}
    _check_tables(tables_path, artifact.config, artifact.hash_params, shapes)
    _check_finite(tables_path, tables)
    params_bytes, tables_bytes = npz_bytes(flat), npz_bytes(tables)
    entries = config_entries(artifact.config, artifact.hash_params)
    if artifact.served_heads is not None:
        entries["served_heads"] = list(artifact.served_heads)
    if artifact.metadata:
        entries["metadata"] = dict(artifact.metadata)
    entries["content_sha256"] = hashlib.sha256(params_bytes + tables_bytes).hexdigest()
    text = json.dumps(entries, indent=1, sort_keys=True, allow_nan=False) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(params_path, params_bytes)
    write_atomically(tables_path, tables_bytes)
    write_atomically(directory / CONFIG_FILE, text.encode())


def _named(tables: EmbeddingTables) -> dict[str, Any]:
    return {f"{name}_embeddings": table for name, table in tables._asdict().items()}


def _nested(flat: Mapping[str, npt.NDArray[Any]]) -> dict[str, dict[str, npt.NDArray[np.float32]]]:
    nested: dict[str, dict[str, npt.NDArray[np.float32]]] = {}
    for path, value in flat.items():
        module, _, name = path.rpartition("/")
        nested.setdefault(module, {})[name] = value.astype(np.float32, copy=False)
    return nested


def _kind_of(path: Path, headers: Mapping[str, Header]) -> Kind:
    for kind, module in MODEL_PATHS.items():
        if any(name.startswith(f"{module}/") for name in headers):
            return kind
    wanted = f"parameters under {' or '.join(MODEL_PATHS.values())}"
    raise ArtifactError(path, None, wanted, f"{len(headers)} entries, none of them there", WRONG_MODEL)


def _check_parameters(path: Path, config: RankerConfig | RetrievalConfig, headers: Mapping[str, Header]) -> None:
    wanted = parameter_shapes(config)
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


def _read_tables(path: Path, config: RankerConfig | RetrievalConfig, hashes: HashParams) -> EmbeddingTables:
    arrays = read_npz(path, lambda headers: _check_tables(path, config, hashes, headers))
    _check_finite(path, arrays)
    names = (f"{name}_embeddings" for name in EmbeddingTables._fields)
    return EmbeddingTables(*(arrays[name].astype(np.float32, copy=False) for name in names))


def _check_finite(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    for name, array in sorted(arrays.items()):
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            found = f"{len(bad)} NaN or infinite values, the first at {bad[0].tolist()}"
            advice = "The training run diverged or the file is damaged: rebuild the model."
            raise ArtifactError(path, name, "finite numbers", found, advice)


def _check_content(reader: ConfigReader, params_path: Path, tables_path: Path) -> None:
    stated = reader.entries.get("content_sha256")
    if stated is None:  # published directories have none
        return
    digest = hashlib.sha256()
    for path in (params_path, tables_path):
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    if stated != digest.hexdigest():
        wanted = f"the checksum of {PARAMS_FILE} and {TABLES_FILE}, {digest.hexdigest()[:12]}…"
        raise reader.fail("content_sha256", wanted, f"{str(stated)[:12]}…")
