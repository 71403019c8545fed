"""Errors a user of the framework can meet.

Every message says what was wanted, what was found, where, and what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from candidate_pipeline.engine.trace import Trace
    from candidate_pipeline.keys import Column, QueryFeature


class CandidatePipelineError(Exception):
    """Base class of every error this project raises on purpose."""


class DataError(CandidatePipelineError):
    """A data directory or table is missing or holds something it must not."""


class CaptureError(DataError):
    """A capture cannot be read, or does not hold what replaying it needs."""


class ContractError(CandidatePipelineError):
    """A component broke its contract: wrong length, dtype, an undeclared write, a NaN prediction."""


class AbsentFeatureError(CandidatePipelineError):
    """A query feature was read that nobody gave.

    Args:
        message: What happened.
        feature: The feature.
    """

    def __init__(self, message: str, feature: QueryFeature[Any] | None = None) -> None:
        super().__init__(message)
        self.feature = feature


class FailedFeatureError(CandidatePipelineError):
    """A query feature was read whose hydrator failed, and it declares no default.

    Args:
        message: What happened.
        feature: The feature.
    """

    def __init__(self, message: str, feature: QueryFeature[Any] | None = None) -> None:
        super().__init__(message)
        self.feature = feature


class MissingColumnError(CandidatePipelineError):
    """A column was read that no component wrote.

    Args:
        message: What happened.
        column: The column.
    """

    def __init__(self, message: str, column: Column[Any] | None = None) -> None:
        super().__init__(message)
        self.column = column


class RequestError(CandidatePipelineError):
    """A request could not be served: an input is wrong, or a component that must not fail did.

    `trace` says what happened up to then, empty if no pipeline began to answer; `component` names the one that failed
    or refused the request, if any.
    """

    trace: Trace | tuple[()] = ()
    component: str = ""


class SafetyError(RequestError):
    """A safety filter could not do its work, so the request fails closed."""


class MisconfigurationError(CandidatePipelineError):
    """Something is wired or built wrongly; never degraded, whatever the failure policy says.

    `component` names the component that met it in a request, if any.
    """

    component: str = ""
