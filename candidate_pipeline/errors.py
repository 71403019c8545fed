"""Errors a user of the framework can meet.

Every message says what was wanted, what was found, where, and what to do next.
"""

from __future__ import annotations


class CandidatePipelineError(Exception):
    """Base class of every error this project raises on purpose."""


class DataError(CandidatePipelineError):
    """A data directory or table is missing or holds something it must not."""


class ContractError(CandidatePipelineError):
    """A component broke its contract: wrong length, dtype, an undeclared write, a NaN prediction."""


class AbsentFeatureError(CandidatePipelineError):
    """A query feature was read that nobody gave."""


class FailedFeatureError(CandidatePipelineError):
    """A query feature was read whose hydrator failed, and it declares no default."""


class MissingColumnError(CandidatePipelineError):
    """A column was read that no component wrote."""


class RequestError(CandidatePipelineError):
    """A request could not be served: an input is wrong, or a component that must not fail did."""


class SafetyError(RequestError):
    """A safety filter could not do its work, so the request fails closed."""


class MisconfigurationError(CandidatePipelineError):
    """Something is wired or built wrongly; never degraded, whatever the failure policy says."""
