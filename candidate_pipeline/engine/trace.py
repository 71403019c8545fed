"""What happened to each component in one request."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from candidate_pipeline.spec.model import Stage

Status = Literal["ok", "skipped", "fallback"]


@attrs.frozen
class ComponentTrace:
    """One component's part in a request.

    Args:
        component: Its name.
        use: Its registered name.
        stage: Its stage.
        phase: Its phase within the stage, from 0.
        status: `ok`; `skipped` (it failed and was left out); `fallback` (another component took over).
        started_ms: When it started, from the start of the request, in milliseconds.
        elapsed_ms: How long it took, in milliseconds.
        rows_in: Rows it was given (0 for sources and query hydrators).
        rows_out: Rows it returned, kept or wrote.
        error: Why it was skipped.
        by: The component that took over.
        note: Anything else worth knowing, such as rows without a score.
    """

    component: str
    use: str
    stage: Stage
    phase: int = 0
    status: Status = "ok"
    started_ms: float = 0.0
    elapsed_ms: float = 0.0
    rows_in: int = 0
    rows_out: int = 0
    error: str = ""
    by: str = ""
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The record as plain data."""
        return attrs.asdict(self)
