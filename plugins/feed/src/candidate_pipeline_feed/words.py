"""Values in words, for the reasons that filters give."""

from __future__ import annotations

from typing import Final

_UNITS: Final = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1))
#: Up to here hours are counted on: a limit of 48 h is set in hours.
_DAYS_FROM: Final = 72 * 3_600_000


def span(milliseconds: int) -> str:
    """A length of time in its two largest units that are not 0: `"3 d 2 h"`, `"48 h"`, `"48 h 1 ms"`.

    Args:
        milliseconds: Not negative.
    """
    parts, left = [], milliseconds
    for unit, size in _UNITS:
        if unit == "d" and milliseconds < _DAYS_FROM:
            continue
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 ms"
