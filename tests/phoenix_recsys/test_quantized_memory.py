"""Quantised artifacts larger than one would hold as floats: what loading and serving them takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from phoenix_recsys.artifact import Artifact, load_artifact, save_artifact
from phoenix_recsys.config import RankerConfig, TransformerConfig
from phoenix_recsys.config_json import config_entries
from phoenix_recsys.errors import ArtifactError
from phoenix_recsys.hashing import HashParams
from phoenix_recsys.inputs import RankerBatch
from phoenix_recsys.quantized_artifact import PARAMS_DIRECTORY, TABLES_DIRECTORY, write_config, write_params
from phoenix_recsys.quantized_rows import quantize_rows
from phoenix_recsys.quantized_tables import QuantizedTable, QuantizedTables, reserve_tables
from phoenix_recsys.quantized_weights import quantize_matrix
from phoenix_recsys.transforms import parameter_shapes

MIB = 1 << 20
SERVE = """
import json, sys, tracemalloc
import numpy as np
from phoenix_recsys import BackendOptions, History, Items, load_ranker

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def serve(directory):
    ranker = load_ranker(directory, "kv_cache", BackendOptions("int8", candidate_buckets=(64,)))
    rng = np.random.default_rng(0)
    events, items = (rng.integers(1, 2**63, count, dtype=np.uint64) for count in (12, 64))
    found = ranker.score(7, History(events, events, np.ones((12, 5), np.float32)), Items(items, items))
    assert np.isfinite(found.logits).all()

serve(sys.argv[1])  # imports and compiles; what comes after is what the tables take
before = status("VmHWM")
tracemalloc.start()
serve(sys.argv[2])
print(json.dumps({"traced": tracemalloc.get_traced_memory()[1], "resident": status("VmHWM") - before}))
"""


def _config(emb_size: int) -> RankerConfig:
    trunk = TransformerConfig(emb_size, 16, 4, 2, 1, 2.0, 0.125)
    return RankerConfig(trunk, 5, history_seq_len=12, candidate_seq_len=8, fprop_dtype="float32")


def _params(config: RankerConfig) -> dict[str, object]:
    rng = np.random.default_rng(1)
    found: dict[str, object] = {}
    for path, shape in parameter_shapes(config).items():
        value = rng.standard_normal(shape).astype(np.float32) / 8
        found[path] = quantize_matrix(value) if path.endswith(("/w", "proj_mat_1", "unembeddings")) else value
    return found


def _hashes(items: int) -> HashParams:
    return HashParams.random(2, user_vocab_size=1000, item_vocab_size=items, author_vocab_size=1000)


def _write(directory: Path, items: int, emb_size: int) -> None:
    """A ranker with random int8 rows; there never was a float table."""
    config, rng = _config(emb_size), np.random.default_rng(3)

    def table(rows: int) -> QuantizedTable:
        values = rng.integers(-127, 128, (rows, emb_size), np.int8)
        return QuantizedTable(values, np.full(rows, 0.01, np.float32))

    params: dict[str, dict[str, object]] = {}
    for path, value in _params(config).items():
        module, _, name = path.rpartition("/")
        params.setdefault(module, {})[name] = value
    tables = QuantizedTables(table(1000), table(items), table(1000))
    save_artifact(directory, Artifact(config, params, tables, _hashes(items)))


def test_serving_a_mapped_artifact_never_takes_what_float_tables_would(tmp_path: Path) -> None:
    """A process that loads and serves 400,000 rows of 64 allocates next to nothing for them, and maps int8 at most."""
    if not Path("/proc/self/status").exists():
        pytest.skip("a process's peak memory is read from /proc, which this system lacks")
    rows, width = 400_000, 64
    _write(tmp_path / "small", 500, width)
    _write(tmp_path / "large", rows, width)
    command = [sys.executable, "-c", SERVE, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, floats = json.loads(done.stdout), rows * width * 4
    assert found["traced"] < floats / 10
    # The rows of the request, what the system maps around them, and compiling once more; not a byte for the others.
    assert found["resident"] < 0.6 * floats


def test_an_artifact_of_a_hundred_million_rows_opens_and_serves(tmp_path: Path) -> None:
    """12.8 GB of item rows open in megabytes, and a request's rows come hashed and gathered out of them."""
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
    directory, config, hashes = tmp_path / "model", _config(width), _hashes(count)
    directory.mkdir()
    try:
        reserve_tables(directory / TABLES_DIRECTORY, (1000, count, 1000), width)
    except ArtifactError as error:
        pytest.skip(f"the filesystem takes no file of 12.8 GB: {error}")
    write_params(directory / PARAMS_DIRECTORY, _params(config))
    write_config(directory, config_entries(config, hashes))
    parameter_shapes(config)  # so that what tracing takes is not counted below

    before = _resident_bytes()
    artifact = load_artifact(directory, kind="ranker")
    assert isinstance(artifact.tables, QuantizedTables)
    assert artifact.tables.num_rows == count + 2065
    assert _resident_bytes() - before < 48 * MIB

    rng = np.random.default_rng(4)
    items, events = (rng.integers(1, 2**64 - 1, shape, dtype=np.uint64) for shape in ((1, 1500), (1, 12)))
    posts = artifact.hash_params.hash_items(items)
    local = np.unique(posts) - artifact.hash_params.item_offset
    values = rng.standard_normal((local.size, width)).astype(np.float32)
    QuantizedTables.open(directory / TABLES_DIRECTORY, writable=True).item.put(local, values)
    batch = RankerBatch(
        artifact.hash_params.hash_users(np.array([3], np.uint64)),
        artifact.hash_params.hash_items(events),
        artifact.hash_params.hash_authors(events),
        np.zeros((1, 12, 5), np.float32),
        np.zeros((1, 12), np.int32),
        posts,
        artifact.hash_params.hash_authors(items),
        np.zeros((1, 1500), np.int32),
    )
    gathered = artifact.tables.gather_batch(batch)
    wanted, scales = quantize_rows(values)
    place = np.searchsorted(local, posts - artifact.hash_params.item_offset)
    assert np.array_equal(gathered.rows[gathered.candidate_post], wanted[place])
    assert np.array_equal(gathered.scales[gathered.candidate_post], scales[place])
    if jax.default_backend() == "cpu":  # which takes the map as it is; elsewhere the tables would have to fit
        on_device = artifact.tables.on_device().lookup_items(posts)
        assert np.array_equal(on_device, (wanted * scales[:, None])[place])
    assert _resident_bytes() - before < 256 * MIB


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
