"""What a served ranker takes: peak memory of a process, and bytes on disk: `python benchmarks/ranker_memory.py`.

A random model of 256 x 2 layers with 2 million item rows is written once in float32 and once quantised. Each variant
then runs in a process of its own, which loads the model, serves one request, and says how far its memory ever went.
What a process takes that only imports JAX and compiles a product is subtracted. Of a mapped file those pages count that
the process has touched; where the file is in the page cache already, the system maps many more around each, which takes
nothing from anybody.

The parent imports nothing large: a process starts with the peak of the one that started it (getrusage, Linux).
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import attrs
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

ROWS: Final = 2_000_000
SIDE_ROWS: Final = 20_000
EMB: Final = 256
HISTORY: Final = 127
CANDIDATES: Final = 1500
ACTIONS: Final = 19
SEED: Final = 42
BLOCK: Final = 1 << 14
MIB: Final = 1 << 20
FLOAT, INT8 = "float32", "int8"


@attrs.frozen
class Variant:
    """One way to serve.

    Attributes:
        name: what the table calls it.
        artifact: which of the two directories.
        precision: of the backend kv_cache; empty for a process without a model.
        cached: whether the files are in the system's page cache beforehand.
        touch: read every row of the tables after the request.
    """

    name: str
    artifact: str = ""
    precision: str = ""
    cached: bool = True
    touch: bool = False


BASELINE: Final = Variant("JAX alone")
VARIANTS: Final = (
    Variant("float32", FLOAT, "float32"),
    Variant("bfloat16", FLOAT, "bfloat16"),
    Variant("int8, quantised at load", FLOAT, "int8"),
    Variant("int8, mapped", INT8, "int8", cached=False),
    Variant("int8, mapped, files in the page cache", INT8, "int8"),
    Variant("int8, mapped, all rows read", INT8, "int8", touch=True),
)

console = Console()


@attrs.frozen
class Peak:
    """How far the memory of a process ever went, bytes.

    Attributes:
        loaded: when the model was loaded.
        served: when the request was answered, and the rows touched.
    """

    loaded: int
    served: int


@attrs.frozen
class Disk:
    """Bytes of an artifact's files.

    Attributes:
        params: parameters.
        tables: embedding tables.
    """

    params: int
    tables: int

    @property
    def total(self) -> int:
        """Both."""
        return self.params + self.tables


def make_models(directory: Path, rows: int) -> dict[str, Disk]:
    """Write the float and the quantised artifact, block after block: no table is ever held whole."""
    import jax

    from phoenix_recsys.config import RankerConfig, TransformerConfig
    from phoenix_recsys.config_json import config_entries
    from phoenix_recsys.hashing import HashParams
    from phoenix_recsys.npz import npz_bytes
    from phoenix_recsys.quantize import artifact_sizes, quantize_artifact
    from phoenix_recsys.transforms import init_params

    config = RankerConfig(TransformerConfig(EMB, 64, 4, 4, 2, 2.0, 0.125), ACTIONS, HISTORY, 32)
    sizes = {"user_vocab_size": SIDE_ROWS, "item_vocab_size": rows, "author_vocab_size": SIDE_ROWS}
    hashes = HashParams.random(SEED, **sizes)
    params = init_params(config, jax.random.PRNGKey(SEED))
    flat = {f"{module}/{name}": np.asarray(value) for module, found in params.items() for name, value in found.items()}
    source = directory / FLOAT
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config_entries(config, hashes)), encoding="utf-8")
    (source / "model_params.npz").write_bytes(npz_bytes(flat))
    rng = np.random.default_rng(SEED)
    with zipfile.ZipFile(source / "embedding_tables.npz", "w") as archive:
        for name in ("user", "item", "author"):
            count = sizes[f"{name}_vocab_size"]
            with archive.open(f"{name}_embeddings.npy", "w", force_zip64=True) as stream:
                header = {"descr": "<f4", "fortran_order": False, "shape": (count, EMB)}
                np.lib.format.write_array_header_1_0(stream, header)
                for start in range(0, count, BLOCK):
                    block = rng.standard_normal((min(BLOCK, count - start), EMB), np.float32) / np.float32(16)
                    stream.write(block.tobytes())
    quantize_artifact(source, directory / INT8)
    sizes_of = {name: artifact_sizes(directory / name) for name in (FLOAT, INT8)}
    return {name: Disk(found.params, found.tables) for name, found in sizes_of.items()}


def serve(variant: Variant, directory: Path) -> Peak:
    """Load a model and answer one request; runs in a process of its own."""
    import jax
    import jax.numpy as jnp

    if not variant.precision:
        jax.jit(lambda a: a @ a)(jnp.ones((64, 64))).block_until_ready()
        return Peak(_peak(), _peak())
    from phoenix_recsys.artifact import load_artifact
    from phoenix_recsys.backend import BackendOptions
    from phoenix_recsys.backend_registry import make_backend
    from phoenix_recsys.quantized_tables import QuantizedTables
    from phoenix_recsys.requests import History, Items

    _cache(directory / variant.artifact, variant.cached)
    options = BackendOptions(variant.precision)  # type: ignore[arg-type]  # one of the precisions
    artifact = load_artifact(directory / variant.artifact, quantize_tables=variant.precision == INT8)
    ranker = make_backend("kv_cache", artifact, options)
    tables = artifact.tables if isinstance(artifact.tables, QuantizedTables) else None
    del artifact  # a served ranker has its own arrays
    loaded = _peak()
    rng = np.random.default_rng(SEED)
    events, items, authors = (rng.integers(1, 2**63, n, dtype=np.uint64) for n in (HISTORY, CANDIDATES, CANDIDATES))
    history = History(events, events, (rng.random((HISTORY, ACTIONS)) > 0.8).astype(np.float32))
    scores = ranker.score(7, history, Items(items, authors))
    assert np.isfinite(scores.logits).all()
    if variant.touch and tables is not None:
        for table in tables.tables:
            for start in range(0, table.num_rows, BLOCK):
                assert table.rows[start : start + BLOCK].any()
                assert table.scales[start : start + BLOCK].any()
    return Peak(loaded, _peak())


def _cache(directory: Path, cached: bool) -> None:
    """Bring the arrays of an artifact into the system's page cache, or out of it where that can be asked for."""
    for path in directory.rglob("*.npy"):
        with path.open("rb", buffering=0) as stream:
            while cached and stream.read(MIB):
                pass
            if not cached and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _peak() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def in_child(*options: str) -> Any:
    """What this file prints when it is run with these options.

    Raises:
        typer.Exit: It fails; what it said is printed.
    """
    done = subprocess.run([sys.executable, __file__, *options], check=False, capture_output=True, text=True)
    if done.returncode:
        console.print(
            f"{' '.join(options)} ended with {done.returncode}:\n{done.stderr}", markup=False, highlight=False
        )
        raise typer.Exit(1)
    return json.loads(done.stdout.splitlines()[-1])


def check_disk(directory: Path, rows: int) -> None:
    """Stop where the two artifacts would not fit.

    Raises:
        typer.Exit: They would not.
    """
    wanted = int((rows + 2 * SIDE_ROWS) * EMB * 5.2) + 64 * MIB
    free = shutil.disk_usage(directory).free
    if free < wanted:
        console.print(
            f"{directory}: wanted {wanted / MIB:,.0f} MiB of free disk space for the two models, found "
            f"{free / MIB:,.0f} MiB. Free some, set TMPDIR to another disk, or ask for fewer rows with --rows."
        )
        raise typer.Exit(1)


def show(settings: Mapping[str, Any], disk: Mapping[str, Disk], peaks: Mapping[str, Peak], base: int) -> None:
    """Print the tables."""
    console.print(", ".join(f"{name} {value}" for name, value in settings.items()))
    title = f"Ranker of {EMB} x 2, {settings['item rows']:,} item rows, MiB; peaks less those of JAX alone"
    table = Table(title=f"{title} ({base / MIB:,.0f})")
    table.add_column("kv_cache")
    for header in ("weights on disk", "tables on disk", "/ float32", "peak loading", "peak serving", "/ float32"):
        table.add_column(header, justify="right")
    first = VARIANTS[0]
    for variant in VARIANTS:
        size, peak = disk[variant.artifact], peaks[variant.name]
        reference = disk[first.artifact].total, peaks[first.name].served - base
        table.add_row(
            variant.name,
            f"{size.params / MIB:,.2f}",
            f"{size.tables / MIB:,.1f}",
            f"{size.total / reference[0]:.3f}",
            f"{(peak.loaded - base) / MIB:,.0f}",
            f"{(peak.served - base) / MIB:,.0f}",
            f"{(peak.served - base) / reference[1]:.3f}",
        )
    console.print(table)


def main(
    rows: Annotated[int, typer.Option(min=1000, help="Rows of the item table.")] = ROWS,
    quick: Annotated[bool, typer.Option(help="A twentieth of the rows: to see that it runs.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")] = None,
    child: Annotated[str | None, typer.Option(hidden=True)] = None,
    directory: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure the memory of a served ranker in float32, bfloat16 and int8."""
    rows = rows // 20 if quick else rows
    if child is not None and directory is not None:
        variant = next((found for found in (BASELINE, *VARIANTS) if found.name == child), None)
        if variant is None:
            print(json.dumps({name: attrs.asdict(found) for name, found in make_models(directory, rows).items()}))
        else:
            print(json.dumps(attrs.asdict(serve(variant, directory))))
        return
    with tempfile.TemporaryDirectory(prefix="ranker-memory-") as temporary:
        check_disk(Path(temporary), rows)
        options = ("--directory", temporary, "--rows", str(rows), "--child")
        disk = {name: Disk(**found) for name, found in in_child(*options, "make").items()}
        base = Peak(**in_child(*options, BASELINE.name)).served
        peaks = {variant.name: Peak(**in_child(*options, variant.name)) for variant in VARIANTS}
    settings = {
        "python": platform.python_version(),
        "jax": _version("jax"),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "item rows": rows,
        "user and author rows": SIDE_ROWS,
        "history": HISTORY,
        "candidates": CANDIDATES,
    }
    show(settings, disk, peaks, base)
    if json_file is not None:
        figures = {
            "configuration": settings,
            "disk_bytes": {name: attrs.asdict(size) for name, size in disk.items()},
            "baseline_peak_bytes": base,
            "peak_bytes": {name: attrs.asdict(peak) for name, peak in peaks.items()},
        }
        json_file.write_text(json.dumps(figures, indent=1), encoding="utf-8")
        console.print(f"wrote {json_file}")


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


if __name__ == "__main__":
    typer.run(main)
