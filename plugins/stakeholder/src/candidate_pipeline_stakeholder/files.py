"""Puts a finished file in its place in one step, so that a reader sees the old one or the new one, never a part."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def placed_file(path: str | Path) -> Iterator[Path]:
    """Yield the path of an empty file beside `path`; when the block ends well, it takes the place of `path`.

    When the block raises or is interrupted, the new file is removed and `path` is as it was.

    Raises:
        OSError: The place cannot be written.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    made = Path(name)
    try:
        yield made
        made.chmod(0o644)  # mkstemp leaves it to the owner alone
        made.replace(path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise
