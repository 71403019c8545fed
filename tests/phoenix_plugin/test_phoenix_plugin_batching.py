"""Concurrent requests of several viewers, scored in common calls of the ranker."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from candidate_pipeline import Context, Outcome, RequestError
from candidate_pipeline.errors import CandidatePipelineError, MisconfigurationError
from candidate_pipeline_feed.keys import PREDICTIONS
from candidate_pipeline_phoenix.batched import BatchedRanker, Batching
from candidate_pipeline_phoenix.models import RankerModel
from candidate_pipeline_phoenix.ranker import PhoenixRanker
from phoenix_recsys.backend_registry import hookimpl, manager
from phoenix_recsys.batching import Batcher, Closed, Expired, Refused
from phoenix_recsys.plain_backend import JitRanker

BATCHING = 'backend = "{}"\nbatching = {{ max_requests = 3, max_wait = "5ms" }}\n'


def until(condition: Callable[[], bool]) -> None:
    """Wait for what others are about to do."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def predictions(outcome: Outcome) -> Any:
    """What the ranker predicts, by item."""
    return outcome.selected[PREDICTIONS][np.argsort(outcome.item_ids)]


@pytest.mark.parametrize("backend", ["jit", "kv_cache"])
def test_batched_requests_get_their_own_answers(tiny_feed: Any, backend: str) -> None:
    """Many requests at once give each viewer the answer that the viewer gets alone, in fewer calls than requests."""
    with tiny_feed.load(f'backend = "{backend}"\n') as app:
        alone = {viewer: app["feed"].run_sync(viewer=viewer) for viewer in tiny_feed.viewers}
    asked = list(tiny_feed.viewers) * 4

    async def main() -> tuple[list[Outcome], dict[str, Any], int]:
        async with tiny_feed.load(BATCHING.format(backend)) as app:
            before = app.reports()["ranker_model"]["programs"]
            found = await asyncio.gather(*(app["feed"].run(viewer=viewer) for viewer in asked))
            return found, app.reports()["ranker_model"], before

    found, report, programs = asyncio.run(main())
    for viewer, outcome in zip(asked, found, strict=True):
        np.testing.assert_allclose(predictions(outcome), predictions(alone[viewer]), atol=2e-6)
    assert np.abs(predictions(alone[101]) - predictions(alone[102])).max() > 1e-3
    assert report["batches"] < len(asked)
    assert 1 < report["requests_per_batch"] <= 3
    assert (report["refused"], report["expired"]) == (0, 0)
    assert report["programs"] == programs, "nothing compiles while serving"


@pytest.fixture
def gate() -> Iterator[Any]:
    """A registered backend whose calls wait until the gate opens."""

    class Gate:
        def __init__(self) -> None:
            self.open = threading.Event()
            self.reached = threading.Event()

    gate = Gate()

    class Waiting(JitRanker):
        name = "waiting"

        def score_many(self, requests: Sequence[Any]) -> Any:
            if threading.current_thread().name.startswith("phoenix-batcher"):  # not while it warms up
                gate.reached.set()
                assert gate.open.wait(20)
            return super().score_many(requests)

    class Distribution:
        @hookimpl
        def phoenix_ranker_backends(self) -> Any:
            return {"waiting": Waiting}

    plugin = Distribution()
    manager().register(plugin)
    yield gate
    gate.open.set()
    manager().unregister(plugin)


ONE = 'backend = "waiting"\nbatching = { max_requests = 1, max_candidates = 40, max_queue = 40, max_wait = "0ms" }\n'


def test_what_would_wait_too_long_is_refused(tiny_feed: Any, gate: Any) -> None:
    """While one request runs and one fills the queue, a third fails with what to do; the others are answered."""

    async def main() -> list[Any]:
        async with tiny_feed.load(ONE) as app:
            batcher = app.resource("ranker_model")._batched._batcher
            first = asyncio.create_task(app["feed"].run(viewer=101))
            await asyncio.to_thread(gate.reached.wait, 20)
            second = asyncio.create_task(app["feed"].run(viewer=102))
            await asyncio.to_thread(until, lambda: batcher.metrics().waiting == 1)
            third = await asyncio.gather(app["feed"].run(viewer=103), return_exceptions=True)
            gate.open.set()
            return [await first, await second, *third]

    first, second, third = asyncio.run(main())
    assert len(first.item_ids) == len(second.item_ids) == 40
    assert isinstance(third, RequestError)
    assert third.component == "ranker"
    assert "the ranker is overloaded: the queue is full" in str(third)
    assert "Allow requests more time" in str(third)


def test_closing_with_requests_in_flight_answers_or_fails_them(tiny_feed: Any, gate: Any) -> None:
    """Closing ends every request that is under way, one way or the other, and leaves no thread of the batcher."""

    async def main() -> list[Any]:
        async with tiny_feed.load(ONE.replace("max_requests = 1, ", "max_requests = 2, ")) as app:
            running = [asyncio.create_task(app["feed"].run(viewer=viewer)) for viewer in tiny_feed.viewers * 3]
            await asyncio.to_thread(gate.reached.wait, 20)
            asyncio.get_running_loop().call_later(0.05, gate.open.set)
        async with asyncio.timeout(20):
            return await asyncio.gather(*running, return_exceptions=True)

    ends = asyncio.run(main())
    assert all(isinstance(end, Outcome | CandidatePipelineError) for end in ends)
    assert any(isinstance(end, Outcome) for end in ends)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("phoenix-batcher")]


def test_one_request_that_cannot_be_scored_fails_alone() -> None:
    """A call that fails for one of its requests is made again without it."""

    class Picky:
        def score_many(self, requests: Sequence[Any]) -> list[str]:
            if any(viewer == "odd" for viewer, _ in requests):
                raise ValueError("odd viewer")
            return [f"scores of {viewer}" for viewer, _ in requests]

    async def main() -> list[Any]:
        ranker = BatchedRanker(Picky(), Batching(4, max_wait=dt.timedelta(seconds=1)))  # type: ignore[arg-type] # all it needs
        await ranker.open()
        viewers = ["a", "odd", "b", "c"]
        nothing: Any = []
        calls = (asyncio.to_thread(ranker.score, viewer, nothing, viewer, None) for viewer in viewers)
        found = await asyncio.gather(*calls, return_exceptions=True)
        await ranker.close()
        return found

    found = asyncio.run(main())
    assert isinstance(found.pop(1), ValueError)
    assert found == [f"scores of {viewer}" for viewer in "abc"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            Expired("the deadline passed after 0.100 s in the queue"),
            r"did not come to this request in time: the dead.*",
        ),
        (Refused("the estimated wait of 3.000 s exceeds the deadline"), r"the ranker is overloaded: the estimated .*"),
        (Closed("the batcher is closed"), r"takes no more requests: the batcher is closed$"),
    ],
)
def test_the_batchers_errors_fail_the_component(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    """Too late, too much or too soon closed is a failure of the component, not of the request or the set-up."""

    def submit_sync(*_: Any, **given: Any) -> None:
        assert given == {"cost": 1, "key": 101, "deadline": 7.5}
        raise error

    monkeypatch.setattr(Batcher, "submit_sync", submit_sync)

    async def main() -> None:
        ranker = BatchedRanker(JitRanker.__new__(JitRanker), Batching())
        await ranker.open()
        ranker.score("viewer", [], 101, 7.5)  # type: ignore[arg-type] # not looked at

    more = "" if isinstance(error, Closed) else r" \(the pipeline's deadline, the ranker's timeout\)"
    with pytest.raises(CandidatePipelineError, match=message + more) as caught:
        asyncio.run(main())
    assert not isinstance(caught.value, RequestError | MisconfigurationError)


def test_the_deadline_reaches_the_batcher(tiny: Any, candidates_of: Any) -> None:
    """The scorer hands on the deadline that the engine gives it, and whose request it is."""
    seen: list[Any] = []

    class Spy(RankerModel):
        def score(self, viewer: Any, items: Any, *, viewer_id: int, deadline: float | None = None) -> Any:
            seen.append((viewer_id, deadline))
            return self.served.score_prepared(viewer, items)

    model = Spy(tiny.data)
    model._served, model._heads = tiny.ranker.served, tiny.ranker.heads
    PhoenixRanker(model).score(tiny.query(viewer=103), candidates_of([1, 2]), Context("ranker", deadline=12.5))
    assert seen == [(103, 12.5)]


def test_buckets_are_powers_of_two_and_the_most_there_can_be() -> None:
    """Batches are compiled for powers of two below the largest, and for that."""
    assert [Batching(max_requests=most).buckets for most in (1, 2, 6, 8)] == [
        (1,),
        (1, 2),
        (1, 2, 4, 6),
        (1, 2, 4, 8),
    ]
