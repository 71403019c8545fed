"""Command line of the golden checker.

Without ``--backend`` this implementation's modules are compared with all that the files hold. With it, the ranker as a
backend serves it; parts of files that no ranker computes are then named and left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax

from phoenix_recsys.backend import PRECISIONS
from phoenix_recsys.errors import PhoenixError
from phoenix_recsys.golden.backend_files import Checked
from phoenix_recsys.golden.init_files import check_init
from phoenix_recsys.golden.model_files import check_model
from phoenix_recsys.golden.pipeline_files import check_directory
from phoenix_recsys.golden.report import FixtureError, Line, Result, Skipped, read_fixture
from phoenix_recsys.golden.unit_files import check_units

UNIT_MARKS = ("ffn_size/emb", "rope/x", "rms_norm/x", "attention/x", "hash/ids", "post_age/impr")


def check_file(path: Path, checked: Checked | None = None) -> Iterable[Line]:
    """Compare whatever ``path`` is, a fixture file or an artifact directory.

    Args:
        path: the file or directory.
        checked: the backend that serves the ranker; None for the modules themselves.

    Raises:
        FixtureError: if it is none.
        ArtifactError: if it is damaged.
        BackendError: if the backend cannot serve it.
    """
    if path.is_dir():
        return check_directory(path) if checked is None else checked.directory(path)
    arrays = read_fixture(path)
    if "meta/config_json" in arrays:
        return check_model(path, arrays) if checked is None else checked.model_file(path, arrays)
    if any(mark in arrays for mark in UNIT_MARKS):
        return check_units(path, arrays) if checked is None else [_without_ranker("single functions")]
    if any("/params/" in name for name in arrays):
        return check_init(path, arrays) if checked is None else [_without_ranker("initial parameters")]
    shown = ", ".join(sorted(arrays)[:4])
    raise FixtureError(
        f"{path}: wanted a fixture of a model (meta/config_json), of single functions, or of initial parameters; "
        f"found {len(arrays)} entries: {shown}…"
    )


def _without_ranker(what: str) -> Skipped:
    return Skipped("", what, "not concerned: no backend computes them")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m phoenix_recsys.golden", description="Compare this implementation with fixture files."
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".npz fixture or artifact directory")
    parser.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help="compare what a ranker backend serves: eager, jit, kv_cache or a registered one; may be repeated",
    )
    parser.add_argument(
        "--precision",
        action="append",
        choices=PRECISIONS,
        help="what the backend computes in (default: float32); may be repeated",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Check every file named; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.precision and not options.backend:
        parser.error("--precision says what a backend computes in: name one with --backend")
    checks: list[Checked | None] = [None]
    try:
        if options.backend:
            checks = [Checked(name, kind) for name in options.backend for kind in options.precision or ["float32"]]
    except PhoenixError as error:
        parser.error(str(error))
    status, checked, failed = 0, 0, 0
    with jax.default_matmul_precision("highest"):
        for path, check in ((path, check) for path in options.files for check in checks):
            started = time.monotonic()
            sys.stdout.write(f"{path}\n" if check is None else f"{path}: {check}\n")
            try:
                for line in check_file(path, check):
                    sys.stdout.write(line.line() + "\n")
                    if isinstance(line, Result):
                        checked, failed = checked + 1, failed + (not line.ok)
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
