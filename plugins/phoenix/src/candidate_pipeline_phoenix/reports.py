"""What a backend says about itself, in the words of a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from candidate_pipeline.components import ReportValue

if TYPE_CHECKING:
    from phoenix_recsys.backend import BackendStats

_SINGULAR: Final = {"prefixes": "prefix", "items": "item"}


def backend_report(stats: BackendStats) -> dict[str, ReportValue]:
    """Backend, precision and compiled programs, then the counts of each cache that has room.

    A hit rate is the share of look-ups that found what they wanted or a shorter history to extend.
    """
    said: dict[str, ReportValue] = {
        "backend": stats.backend,
        "precision": stats.precision,
        "programs": stats.compilations,
    }
    for name, counts in stats.caches.items():
        if not counts.max_bytes:
            continue
        cache = f"{_SINGULAR.get(name, name)}_cache"
        rate = counts.hit_rate
        said |= {
            f"{cache}_hits": counts.hits,
            f"{cache}_extended": counts.extended,
            f"{cache}_misses": counts.misses,
            f"{cache}_hit_rate": None if rate is None else round(rate, 4),
            f"{cache}_entries": counts.entries,
            f"{cache}_bytes": counts.nbytes,
            f"{cache}_max_bytes": counts.max_bytes,
        }
    return said
