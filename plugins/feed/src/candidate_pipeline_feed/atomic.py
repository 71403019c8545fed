"""Puts a finished directory in its place in one step, so that a failure leaves what was there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.datadir import DATASET_FILE


def check_destination(out: str | Path, force: bool) -> Path:
    """The absolute destination, if a data directory may be put there.

    Raises:
        DataError: Something is there and `force` is false, or it is not a data directory.
    """
    out = Path(out).absolute()
    if not out.exists() and not out.is_symlink():
        return out
    if not out.is_dir() or out.is_symlink():
        raise DataError(f"{out}: wanted a directory to write to, found something else; choose another with --out")
    if any(out.iterdir()):
        if not (out / DATASET_FILE).is_file():
            raise DataError(f"{out}: holds something that is not a data directory; choose another with --out")
        if not force:
            raise DataError(
                f"{out}: there is a data directory already; "
                "--force replaces it, models included, or choose another with --out"
            )
    return out


@contextmanager
def placed_directory(out: str | Path, force: bool = False) -> Iterator[Path]:
    """Yield an empty directory beside `out`; when the block ends well, it takes the place of `out`.

    When the block raises or is interrupted, the new directory is removed and `out` is as it was.

    Raises:
        DataError: `out` holds something already; see `check_destination`.
        OSError: The place cannot be written.
    """
    out = check_destination(out, force)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.new-"))
    try:
        made = work / out.name
        made.mkdir()
        yield made
        check_destination(out, force)  # somebody else may have been faster
        old = work / "old"
        if out.exists():
            out.rename(old)
        try:
            made.rename(out)
        except BaseException:
            if old.exists():
                old.rename(out)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
