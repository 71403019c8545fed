"""Directories that others see whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from types import TracebackType

from phoenix_recsys.errors import ArtifactError


class WholeDirectory:
    """A directory that is made under a hidden name beside its place, and put there by :meth:`commit`.

    Leaving the ``with`` block without a commit, by an exception or an interrupt, removes it. What stands in its place
    is moved aside just before, comes back if that fails, and is removed afterwards; files that are mapped from it
    stay valid. Whether it may be replaced is for the caller to check.

    Args:
        target: its place; the parent must exist.

    Attributes:
        path: where to write until then.

    Raises:
        ArtifactError: if no directory can be made there.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._token = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.path = target.with_name(f".{target.name}.{self._token}.tmp")
        try:
            self.path.mkdir()
        except OSError as error:
            advice = "Create the parent directory, or check its permissions."
            raise ArtifactError(target.parent, None, "a writable directory", str(error), advice) from error

    def __enter__(self) -> WholeDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.path.exists():
            shutil.rmtree(self.path)

    def commit(self) -> None:
        """Put the directory in its place. Files must have been flushed to the disk."""
        sync_directory(self.path)
        old = self.target.with_name(f".{self.target.name}.{self._token}.old")
        try:
            if self.target.exists():
                self.target.rename(old)
            self.path.rename(self.target)
        except BaseException:
            if old.exists() and not self.target.exists():
                old.rename(self.target)
            raise
        sync_directory(self.target.parent)
        if old.exists():
            shutil.rmtree(old)


def sync_directory(directory: Path) -> None:
    """Flush a directory's list of files to the disk, where the system has such a thing."""
    if os.name != "posix":
        return  # elsewhere a directory cannot be opened
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
