"""Command line of the golden checker."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from phoenix_recsys.errors import PhoenixError
from phoenix_recsys.golden.init_files import check_init
from phoenix_recsys.golden.model_files import check_model
from phoenix_recsys.golden.pipeline_files import check_directory
from phoenix_recsys.golden.report import FixtureError, Result, read_fixture
from phoenix_recsys.golden.unit_files import check_units

UNIT_MARKS = ("ffn_size/emb", "rope/x", "rms_norm/x", "attention/x", "hash/ids", "post_age/impr")


def check_file(path: Path) -> Iterator[Result]:
    """Compare whatever ``path`` is, a fixture file or an artifact directory.

    Raises:
        FixtureError: if it is none.
        ArtifactError: if it is damaged.
    """
    if path.is_dir():
        return check_directory(path)
    arrays = read_fixture(path)
    if "meta/config_json" in arrays:
        return check_model(path, arrays)
    if any(mark in arrays for mark in UNIT_MARKS):
        return check_units(path, arrays)
    if any("/params/" in name for name in arrays):
        return check_init(path, arrays)
    shown = ", ".join(sorted(arrays)[:4])
    raise FixtureError(
        f"{path}: wanted a fixture of a model (meta/config_json), of single functions, or of initial parameters; "
        f"found {len(arrays)} entries: {shown}…"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Check every file named; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m phoenix_recsys.golden", description="Compare this implementation with fixture files."
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".npz fixture or artifact directory")
    files: list[Path] = parser.parse_args(arguments).files
    status, checked, failed = 0, 0, 0
    with jax.default_matmul_precision("highest"):
        for path in files:
            started = time.monotonic()
            sys.stdout.write(f"{path}\n")
            try:
                for result in check_file(path):
                    sys.stdout.write(result.line() + "\n")
                    checked, failed = checked + 1, failed + (not result.ok)
            except PhoenixError as error:
                sys.stdout.flush()
                sys.stderr.write(f"error: {error}\n")
                status = 2
            sys.stdout.write(f"  {time.monotonic() - started:.1f} s\n")
            sys.stdout.flush()
    sys.stdout.write(f"{checked} outputs compared, {failed} beyond tolerance\n")
    return status or int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
