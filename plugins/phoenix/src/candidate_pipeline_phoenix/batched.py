"""Scoring the candidates of concurrent requests in one call of the ranker."""

from __future__ import annotations

import datetime as dt
from collections.abc import Hashable
from typing import TYPE_CHECKING, Annotated, Final

import attrs
from annotated_types import Ge

from candidate_pipeline.components import ReportValue
from candidate_pipeline.errors import CandidatePipelineError
from candidate_pipeline.options import Doc

if TYPE_CHECKING:
    from phoenix_recsys.backend import RankerBackend, Viewer
    from phoenix_recsys.batching import Batcher, BatchOptions
    from phoenix_recsys.requests import Items, Scores

_QUEUED_BATCHES: Final = 8


MORE: Final = (
    "Allow requests more time (the pipeline's deadline, the ranker's timeout), run more worker processes, or send fewer"
)
"""What to do when there are more requests than time."""


@attrs.frozen
class Batching:
    """How concurrent requests are merged into calls of the ranker."""

    max_requests: Annotated[int, Ge(1), Doc("Requests in one call, at most.", unit="requests")] = 8
    max_candidates: Annotated[
        int, Ge(1), Doc("Candidates in one call, at most; a request of more has a call of its own.", unit="candidates")
    ] = 4096
    max_wait: Annotated[
        dt.timedelta, Ge(dt.timedelta(0)), Doc("How long the first request of a call waits for others, at most.")
    ] = dt.timedelta(milliseconds=2)
    max_queue: Annotated[
        int | None,
        Ge(1),
        Doc("Candidates that may wait; a request beyond that is refused. Default: eight calls.", unit="candidates"),
    ] = None
    margin: Annotated[dt.timedelta, Ge(dt.timedelta(0)), Doc("Time kept in hand before the deadline of a request.")] = (
        dt.timedelta(milliseconds=5)
    )

    def __attrs_post_init__(self) -> None:
        if self.max_queue is not None and self.max_queue < self.max_candidates:
            raise ValueError(
                f"max_queue must hold a call of max_candidates = {self.max_candidates}, found {self.max_queue}"
            )

    @property
    def buckets(self) -> tuple[int, ...]:
        """How many requests to compile calls for: powers of two, and the most there can be."""
        powers = [1 << power for power in range(self.max_requests.bit_length()) if 1 << power < self.max_requests]
        return (*powers, self.max_requests)

    def options(self) -> BatchOptions:
        """In the terms of the batcher, whose unit of cost is one candidate."""
        from phoenix_recsys.batching import BatchOptions

        return BatchOptions(
            max_size=self.max_candidates,
            max_requests=self.max_requests,
            max_wait=self.max_wait.total_seconds(),
            max_queue=_QUEUED_BATCHES * self.max_candidates if self.max_queue is None else self.max_queue,
            margin=self.margin.total_seconds(),
            include_own_run=True,  # a deadline is meant for the scores
            split_on_error=True,  # one request that cannot be scored fails alone
        )


@attrs.define(eq=False)
class BatchedRanker:
    """A backend behind a batcher. Opened and closed on the event loop, asked from the scorer's threads.

    Args:
        backend: What scores.
        batching: How requests are merged.
    """

    backend: RankerBackend
    batching: Batching
    _batcher: Batcher[tuple[Viewer, Items], Scores] = attrs.field(init=False, repr=False)

    async def open(self) -> None:
        """Start to take requests."""
        from phoenix_recsys.batching import Batcher

        self._batcher = Batcher(self.backend.score_many, self.batching.options())
        await self._batcher.open()

    async def close(self) -> None:
        """Take no more requests, and answer or fail those that are under way."""
        await self._batcher.close()

    def score(self, viewer: Viewer, items: Items, key: Hashable, deadline: float | None) -> Scores:
        """Score in a call with others; blocks until there is a result.

        Args:
            viewer: What the backend made of the viewer.
            items: What to score.
            key: Whose turn it takes.
            deadline: When the scores are worth nothing any more, in the event loop's time.

        Raises:
            CandidatePipelineError: There is no time left for it, too much waits, or the application closes.
        """
        from phoenix_recsys.batching import Closed, Expired, Refused

        try:
            return self._batcher.submit_sync((viewer, items), cost=max(len(items), 1), key=key, deadline=deadline)
        except Closed as error:
            raise CandidatePipelineError(f"the ranker takes no more requests: {error}") from error
        except Expired as error:
            raise CandidatePipelineError(f"the ranker did not come to this request in time: {error}. {MORE}") from error
        except Refused as error:
            raise CandidatePipelineError(f"the ranker is overloaded: {error}. {MORE}") from error

    def report(self) -> dict[str, ReportValue]:
        """What the batcher did so far."""
        counts = self._batcher.metrics()
        ran = counts.done + counts.failed
        return {
            "batches": counts.batches,
            "requests_per_batch": round(ran / counts.batches, 2) if counts.batches else None,
            "refused": counts.refused,
            "expired": counts.expired,
            "longest_wait_ms": round(counts.max_wait_seen * 1000, 2),
        }
