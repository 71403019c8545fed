"""Whether files hold something else than before."""

from __future__ import annotations

import hashlib
import stat
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, TypeAlias

from candidate_pipeline.spec.document import MAX_BYTES

#: By file, what stands for its content; `None`: there is no such file.
Look: TypeAlias = dict[Path, str | None]

#: Nanoseconds in which a file may change again without its times telling: some file systems count seconds.
_RECENT: Final = 2 * 10**9


class Files:
    """Looks at files. One whose size and times are as they were is not read again. Threads may share it."""

    def __init__(self) -> None:
        """Know no files yet."""
        self._known: dict[Path, tuple[tuple[int, ...], str]] = {}
        self._lock = threading.Lock()

    def look(self, paths: Iterable[Path]) -> Look:
        """What the files hold now."""
        with self._lock:
            before, self._known = self._known, {}
            return {path: self._digest(path, before.get(path)) for path in paths}

    def _digest(self, path: Path, before: tuple[tuple[int, ...], str] | None) -> str | None:
        try:
            found = path.stat()
            marks = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev)
            if before is not None and before[0] == marks:
                self._known[path] = before
                return before[1]
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
                return f"no spec: {marks}"  # whoever loads it says what is wrong
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except (OSError, ValueError):
            return None
        if time.time_ns() - max(marks[:2]) > _RECENT:
            self._known[path] = (marks, digest)
        return digest
