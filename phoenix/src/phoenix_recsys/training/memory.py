"""Keeping freed memory in the process: a training step frees and asks for the same large blocks over and over."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEPT_BYTES = 2_000_000_000
STEP_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Tell glibc's allocator not to hand freed blocks back to the kernel; elsewhere do nothing.

    With glibc's defaults every step maps and unmaps its temporaries, and page faults take a good part of the CPU time.
    The setting holds for the rest of the process.

    Returns:
        Whether the setting was made.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEPT_BYTES), (M_TOP_PAD, STEP_BYTES))
    made = [mallopt(name, value) for name, value in settings]
    return all(result == 1 for result in made)
