"""What a batcher is told, what it reports, and the errors its callers get."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import attrs

from phoenix_recsys.errors import PhoenixError


class BatcherError(PhoenixError):
    """Base class of what a batcher raises on its own account; errors of ``run_batch`` pass through as they are."""


class Expired(BatcherError):  # noqa: N818  # the state of a request, as it is counted
    """The deadline passed before the request was started; it was never run."""


class Refused(BatcherError):  # noqa: N818  # the state of a request, as it is counted
    """The request was turned away at once, never queued.

    Attributes:
        estimate: the estimated seconds that it would have taken, or None if that was not the reason.
    """

    def __init__(self, message: str, estimate: float | None = None) -> None:
        super().__init__(message)
        self.estimate = estimate


class Closed(Refused):
    """The batcher is closed, or was before the request had a result."""


class WrongResultsError(BatcherError):
    """``run_batch`` did not return one result for each request."""


def _positive_int(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{attribute.name} must be a whole number of at least 1, found {value!r}")


def _positive_int_or_none(owner: object, attribute: attrs.Attribute[int | None], value: Any) -> None:
    if value is not None:
        _positive_int(owner, attribute, value)


def _seconds(_: object, attribute: attrs.Attribute[float], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"{attribute.name} must be a finite number of at least 0, found {value!r}")


def _fraction(_: object, attribute: attrs.Attribute[float], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ValueError(f"{attribute.name} must be above 0 and at most 1, found {value!r}")


def _as_tuple(sizes: Iterable[int]) -> tuple[int, ...]:
    return tuple(sizes)


def _increasing(_: object, attribute: attrs.Attribute[tuple[int, ...]], value: tuple[Any, ...]) -> None:
    if any(not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in value):
        raise ValueError(f"{attribute.name} must be whole numbers of at least 1, found {value}")
    if list(value) != sorted(set(value)):
        raise ValueError(f"{attribute.name} must increase, found {value}")


@attrs.frozen(kw_only=True)
class BatchOptions:
    """How requests are merged. Sizes are in cost units: whatever :meth:`Batcher.submit` is given as ``cost``.

    Attributes:
        max_size: cost of a batch at most; a single request of more runs alone.
        max_requests: requests of a batch at most, whatever their cost; None for no such limit.
        max_wait: seconds that the first request of a batch waits for others at most.
        max_queue: cost that may wait; what would exceed it is refused, unless nothing waits.
        buckets: sizes to which ``run_batch`` pads, increasing; beyond the largest, multiples of it. Empty: it does
            not pad. A batch is cut back to a bucket that it fills where the rest, in a call of its own, is expected
            to be ready no later than both would be in one call of the next bucket.
        margin: seconds kept in hand before a deadline, at admission and in starting a batch early for it. A timer is
            never exact: without a margin, a request that would have to start early expires instead.
        include_own_run: whether the time that the request itself needs counts at admission and in starting early,
            that is, whether a deadline is meant for the result (True) or for the start (False).
        alpha: weight of the newest call in the moving averages that predict the time of a call.
        initial_seconds_per_unit: prediction until the first call ends; 0 refuses nobody.
        initial_seconds_per_call: likewise, for the part that does not depend on size.
        split_on_error: whether a batch that failed is run again in halves, so that a request that makes it fail
            does so alone. At most ``4 * ceil(log2(n))`` further calls for n requests, enough to find two such.
    """

    max_size: int = attrs.field(validator=_positive_int)
    max_requests: int | None = attrs.field(default=None, validator=_positive_int_or_none)
    max_wait: float = attrs.field(default=0.002, validator=_seconds)
    max_queue: int = attrs.field(validator=_positive_int)
    buckets: tuple[int, ...] = attrs.field(default=(), converter=_as_tuple, validator=_increasing)
    margin: float = attrs.field(default=0.005, validator=_seconds)
    include_own_run: bool = False
    alpha: float = attrs.field(default=0.2, validator=_fraction)
    initial_seconds_per_unit: float = attrs.field(default=0.0, validator=_seconds)
    initial_seconds_per_call: float = attrs.field(default=0.0, validator=_seconds)
    split_on_error: bool = False

    @max_queue.default
    def _eight_batches(self) -> int:
        return 8 * self.max_size

    def __attrs_post_init__(self) -> None:
        if self.max_queue < self.max_size:
            raise ValueError(f"max_queue must hold a batch of max_size {self.max_size}, found {self.max_queue}")

    def calls(self, size: int, requests: int) -> int:
        """How many calls so many requests of this size together need at least."""
        by_size = -(-size // self.max_size)
        return by_size if self.max_requests is None else max(by_size, -(-requests // self.max_requests))

    def fills(self, size: int, requests: int) -> bool:
        """Whether requests fill a batch, by their size or their number."""
        return size >= self.max_size or (self.max_requests is not None and requests >= self.max_requests)

    def padded(self, size: int) -> int:
        """The size that ``run_batch`` computes for a batch of this size."""
        if not self.buckets:
            return size
        largest = self.buckets[-1]
        return next((bucket for bucket in self.buckets if bucket >= size), -(-size // largest) * largest)


@attrs.frozen(kw_only=True)
class BatchMetrics:
    """What a batcher has done so far, at one moment.

    ``submitted == done + expired + refused + failed + cancelled + waiting + running`` at all times.

    Attributes:
        submitted: requests received while open.
        done: requests that got a result.
        expired: requests dropped at their deadline.
        refused: requests turned away at once.
        failed: requests that got an error of ``run_batch``, or were left over at closing.
        cancelled: requests that their caller gave up, waiting or running.
        batches: batches started; retried halves belong to the batch that failed.
        waiting: requests in the queue now.
        waiting_cost: their cost.
        running: requests in the batch that is running now, without those given up.
        seconds_per_unit: predicted seconds for each further (padded) cost unit of a call.
        seconds_per_call: predicted seconds for a call, whatever its size.
        mean_fill: mean of a batch's cost over ``max_size``, or of its requests over ``max_requests`` where that is
            more; an oversized request counts as 1. 0 before any batch.
        mean_bucket_fill: mean of a batch's cost over its padded size. 0 before any batch.
        max_wait_seen: the longest that a started request had waited, in seconds.
    """

    submitted: int
    done: int
    expired: int
    refused: int
    failed: int
    cancelled: int
    batches: int
    waiting: int
    waiting_cost: int
    running: int
    seconds_per_unit: float
    seconds_per_call: float
    mean_fill: float
    mean_bucket_fill: float
    max_wait_seen: float
