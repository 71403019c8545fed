"""What happened to each component in one request."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from candidate_pipeline.engine.plan import Place

Status = Literal["ok", "skipped", "fallback", "closed"]


@attrs.define
class ComponentTrace:
    """One component's part in a request.

    Args:
        component: Its name.
        use: Its registered name.
        stage: Its stage.
        phase: Its phase within the stage, from 0.
        status: `ok`; `skipped` (it failed and was left out); `fallback` (another component took over); `closed` (its
            gate was closed, so it did not run).
        started_ms: When it started, from the start of the request, in milliseconds.
        elapsed_ms: How long it took, in milliseconds.
        rows_in: Rows it was given (0 for sources and query hydrators).
        rows_out: Rows it returned, kept or wrote.
        error: Why it was skipped, or which condition closed its gate.
        by: The component that took over.
        note: Anything else worth knowing, such as rows without a score.
        refill: The round of refilling after selection it ran in, from 1; 0 outside.
        cache_hits: Rows (of a source or query hydrator: 1) that came from the cache.
        cache_misses: Rows (or 1) that did not.
        breaker: `open` or `half-open` where its circuit was not closed.
        inner: What happened inside a nested pipeline.
    """

    component: str
    use: str
    stage: Place
    phase: int = 0
    status: Status = "ok"
    started_ms: float = 0.0
    elapsed_ms: float = 0.0
    rows_in: int = 0
    rows_out: int = 0
    error: str = ""
    by: str = ""
    note: str = ""
    refill: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    breaker: str = ""
    inner: tuple[ComponentTrace, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The record as plain data."""
        return attrs.asdict(self)
