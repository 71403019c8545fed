"""Quantise an artifact on disk: ``python -m phoenix_recsys.quantize SOURCE TARGET [--verify]``.

A ranker's matrices and the tables of any model become int8. A retrieval model's parameters stay float32; they are
small beside its tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from phoenix_recsys.artifact import (
    PARAMS_FILE,
    TABLES_FILE,
    flat_params,
    load_float_model,
    verify_artifact,
)
from phoenix_recsys.config_json import CONFIG_FILE, ConfigReader
from phoenix_recsys.errors import ArtifactError, PhoenixError
from phoenix_recsys.quantized_artifact import CONTENT_KEY, PARAMS_DIRECTORY, TABLES_DIRECTORY, write_artifact
from phoenix_recsys.quantized_rows import CHUNK_ROWS
from phoenix_recsys.quantized_tables import write_tables_from_npz
from phoenix_recsys.quantized_weights import quantize_params

TableProgress = Callable[[str, int, int], None]
"""Called with a table's name, its rows written so far, and its rows in all."""

INTERRUPTED = 130


@attrs.frozen
class Sizes:
    """Bytes on disk.

    Attributes:
        params: of the parameters.
        tables: of the embedding tables.
    """

    params: int
    tables: int

    @property
    def total(self) -> int:
        """Both."""
        return self.params + self.tables


def artifact_sizes(directory: Path | str) -> Sizes:
    """What parameters and tables of an artifact of either format take on disk; files that are not there count 0."""
    directory = Path(directory)

    def size(*names: str) -> int:
        found = [directory / name for name in names]
        files = [file for path in found for file in ([path] if path.is_file() else path.glob("*"))]
        return sum(file.stat().st_size for file in files)

    return Sizes(size(PARAMS_FILE, PARAMS_DIRECTORY), size(TABLES_FILE, TABLES_DIRECTORY))


def quantize_artifact(
    source: Path | str,
    target: Path | str,
    *,
    progress: TableProgress | None = None,
    overwrite: bool = False,
    chunk_rows: int = CHUNK_ROWS,
) -> None:
    """Write the quantised artifact of a float one. At most ``chunk_rows`` float rows of a table are held at once.

    The target appears whole or not at all, whatever interrupts the work. Equal sources give equal bytes.

    Args:
        source: an artifact in the published format.
        target: the new directory; its parents are created.
        progress: told after each block.
        overwrite: replace an older quantised artifact.
        chunk_rows: positive.

    Raises:
        ArtifactError: if the source is damaged, quantised already, or holds values that are not finite; if the target
            exists and may not, or must not, be replaced; if the disk is full.
    """
    source, target = Path(source), Path(target)
    if target.exists() and not overwrite:
        advice = "Choose another path, or say overwrite=True (--overwrite)."
        raise ArtifactError(target, None, "no such file or directory yet", "one that exists", advice)
    model = load_float_model(source)
    params = quantize_params(model.params) if model.kind == "ranker" else model.params
    sizes = {name: getattr(model.hash_params, name).vocab_size for name in ("user", "item", "author")}
    tables_file = source / TABLES_FILE

    def report(table: str, rows: int) -> None:
        if progress is not None:
            progress(table, rows, sizes[table])

    def write_tables(directory: Path) -> None:
        try:
            write_tables_from_npz(directory, tables_file, chunk_rows=chunk_rows, progress=report)
        except ValueError as error:
            advice = "Rebuild the model."
            raise ArtifactError(tables_file, None, "rows that can be quantised", str(error), advice) from error

    # As they stand: what a published file leaves open (its positions) stays open.
    entries = {
        key: value for key, value in ConfigReader.read(source / CONFIG_FILE).entries.items() if key != CONTENT_KEY
    }
    write_artifact(target, entries, flat_params(params), write_tables)


def quantize_with_progress(source: Path, target: Path, console: Console, *, overwrite: bool, verify: bool) -> None:
    """Quantise, show how far it is and print sizes before and after; with ``verify``, read the result once more.

    Raises:
        ArtifactError: as :func:`quantize_artifact`.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        tasks = {name: shown.add_task(f"{name} rows", total=None) for name in ("user", "item", "author")}

        def advance(table: str, rows: int, total: int) -> None:
            shown.update(tasks[table], completed=rows, total=total)

        quantize_artifact(source, target, progress=advance, overwrite=overwrite)
    before, after = artifact_sizes(source), artifact_sizes(target)
    table = Table(title=str(target))
    for header in ("bytes on disk", "before", "after", "after / before"):
        table.add_column(header, justify="left" if header == "bytes on disk" else "right")
    for name in ("params", "tables", "total"):
        old, new = getattr(before, name), getattr(after, name)
        table.add_row(name, f"{old:,}", f"{new:,}", f"{new / old:.3f}" if old else "")
    console.print(table)
    if verify:
        found = verify_artifact(target)
        console.print(f"verified {found.arrays} arrays, {found.nbytes:,} bytes")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m phoenix_recsys.quantize",
        description="Write the int8 artifact of a float one; its tables are mapped when it is loaded.",
    )
    parser.add_argument("source", type=Path, help="directory of a model in the published format")
    parser.add_argument("target", type=Path, help="directory to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an older quantised model")
    parser.add_argument("--verify", action="store_true", help="read the result once more and compare its checksums")
    given = parser.parse_args(arguments)
    errors = Console(stderr=True, soft_wrap=True)
    try:
        quantize_with_progress(given.source, given.target, Console(), overwrite=given.overwrite, verify=given.verify)
    except KeyboardInterrupt:
        errors.print("Interrupted; nothing was written.", markup=False, highlight=False)
        return INTERRUPTED
    except (PhoenixError, OSError) as error:
        errors.print(str(error), markup=False, highlight=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
