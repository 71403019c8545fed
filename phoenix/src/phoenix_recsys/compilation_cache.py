"""Compiled programs kept on disk, so that a second start compiles less. A convenience: nothing may rely on it.

XLA refuses or, worse, misreads programs of another version or processor, so each combination has a directory of its
own. A program out of the cache is code that runs: nobody else may write there.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
import threading
from importlib import metadata
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from phoenix_recsys.errors import ArtifactError

CPU_INFO = Path("/proc/cpuinfo")

_lock = threading.Lock()
_in_use: list[Path] = []


def use_compilation_cache(directory: Path | str) -> Path:
    """Keep compiled programs of this process below ``directory``, and take those that are there.

    Affects everything that JAX compiles in this process from now on. Programs that are damaged or do not fit are
    compiled anew, with a warning of JAX.

    Args:
        directory: created where missing, for this user alone.

    Returns:
        The directory of this version and processor.

    Raises:
        ArtifactError: if it cannot be written, others may write to it, or the process uses another one already.
    """
    root = Path(directory)
    chosen = root / f"jaxlib-{metadata.version('jaxlib')}-{_machine()}"
    with _lock:
        if _in_use and _in_use[0] != chosen.absolute():
            advice = "Name one directory for all models of a process."
            raise ArtifactError(root, None, f"{_in_use[0].parent}, which this process uses", "another one", advice)
        try:
            for path in (root, chosen):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                _check_private(path)
            if not os.access(chosen, os.W_OK | os.X_OK):
                raise PermissionError(f"{chosen} is not writable")
        except OSError as error:
            raise ArtifactError(root, None, "a writable directory", str(error), "Choose another path.") from error
        compilation_cache.reset_cache()  # JAX looks for its directory once, at the first compilation
        jax.config.update("jax_compilation_cache_dir", str(chosen.absolute()))  # type: ignore[no-untyped-call] # jax
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)  # type: ignore[no-untyped-call] # jax
        _in_use[:] = [chosen.absolute()]
    return chosen


def _check_private(path: Path) -> None:
    mode = path.stat().st_mode
    if os.name == "posix" and mode & (stat.S_IWGRP | stat.S_IWOTH):
        wanted = "a directory that only its owner may write to, for its programs are run"
        raise ArtifactError(path, None, wanted, f"mode {stat.S_IMODE(mode):o}", f"chmod go-w {path}")


def _machine() -> str:
    """A digest of what XLA compiles for: system, architecture, and the processor's model and features."""
    facts = [platform.system(), platform.machine(), platform.processor()]
    if CPU_INFO.is_file():
        lines = CPU_INFO.read_text("utf-8", errors="replace").splitlines()
        first = {line.split(":")[0].strip(): line for line in reversed(lines)}
        facts += [first.get(name, "") for name in ("model name", "flags", "Features", "CPU part")]
    return hashlib.blake2b("\n".join(facts).encode(), digest_size=6).hexdigest()
