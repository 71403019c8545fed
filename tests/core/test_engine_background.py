"""Side effects after the response."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, MutableMapping
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from toys import now

from candidate_pipeline.engine.background import GRACE, Background, SideEffectCounts, StuckError
from candidate_pipeline.engine.plan import EffectSettings, Node
from candidate_pipeline.errors import MisconfigurationError, RequestError
from candidate_pipeline.testing import run_in_virtual_time

Log = list[MutableMapping[str, Any]]


def effect(
    name: str = "log", *, timeout: float = 30, retries: int = 2, backoff: float = 0.1, max_pending: int = 1000
) -> Node:
    """A side effect in its place."""
    return Node(
        index=0,
        name=name,
        use=f"toy.{name}",
        origin="",
        kind="side_effect",
        stage="side_effects",
        component=None,
        method=lambda: None,
        effect=EffectSettings(timeout, retries, backoff, max_pending),
    )


@attrs.define(eq=False)
class Toy:
    """A side effect that writes down when it was tried.

    Args:
        fails: What its tries raise, in order; it succeeds after that.
        takes: Seconds that a try takes.
        swallows: How often a try goes on when it is cancelled.
    """

    fails: list[BaseException] = attrs.field(factory=list)
    takes: float = 0.0
    swallows: int = 0
    tried: list[float] = attrs.field(factory=list)
    ended: list[float] = attrs.field(factory=list)

    async def __call__(self) -> None:
        """One try."""
        self.tried.append(now())
        left = self.swallows
        end = now() + self.takes
        while now() < end:
            try:
                await asyncio.sleep(end - now())
            except asyncio.CancelledError:
                if not left:
                    self.ended.append(now())
                    raise
                left -= 1
        self.ended.append(now())
        if self.fails:
            raise self.fails.pop(0)


def serve(main: Callable[[Background], Coroutine[Any, Any, Any]]) -> Any:
    """Run a test in virtual time; afterwards no task is left and asyncio has nothing to complain of."""

    async def run() -> Any:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        result = await main(Background())
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        gc.collect()
        assert complaints == []
        return result

    return run_in_virtual_time(run())


def test_runs_after_the_response(logs: Log) -> None:
    """Starting returns at once; the side effect runs later, once, and is counted."""
    toy = Toy(takes=3)

    async def main(background: Background) -> None:
        assert background.start(effect(), toy, "r1")
        assert toy.tried == []
        assert background.counts() == {"log": SideEffectCounts(pending=1)}
        await background.drain(10)
        assert now() == 3
        assert background.counts() == {"log": SideEffectCounts(done=1)}

    serve(main)
    assert toy.ended == [3]
    assert logs == []


def test_retries_with_doubling_waits(logs: Log) -> None:
    """A failed try is repeated after the backoff, then after twice that, until it succeeds."""
    toy = Toy([ValueError("a"), ValueError("b"), ValueError("c")])

    async def main(background: Background) -> None:
        background.start(effect(retries=3, backoff=1), toy, "r1")
        await background.drain(60)
        assert background.counts() == {"log": SideEffectCounts(done=1, retried=3)}

    serve(main)
    assert toy.tried == [0, 1, 3, 7]
    assert logs == []


def test_final_failure_is_logged(logs: Log) -> None:
    """After the last retry the log says which component failed at which request, how often, and why."""
    last = OSError("disk full")

    async def main(background: Background) -> None:
        background.start(effect("store"), Toy([OSError("busy"), OSError("busy"), last]), "r7")
        await background.drain(60)
        assert background.counts() == {"store": SideEffectCounts(failed=1, retried=2)}

    serve(main)
    [entry] = logs
    assert (entry["event"], entry["log_level"]) == ("side effect failed", "error")
    assert (entry["component"], entry["request_id"], entry["attempts"]) == ("store", "r7", 3)
    assert (entry["error"], entry["exc_info"]) == ("OSError: disk full", last)


@pytest.mark.parametrize("error", [RequestError("no such viewer"), MisconfigurationError("no such table")])
def test_some_errors_are_not_retried(error: Exception, logs: Log) -> None:
    """A request that is wrong and a component that is built wrongly are so at the next try, too."""
    toy = Toy([error])

    async def main(background: Background) -> None:
        background.start(effect(), toy, "r1")
        await background.drain(60)
        assert background.counts()["log"] == SideEffectCounts(failed=1)

    serve(main)
    assert toy.tried == [0]
    assert [(entry["attempts"], entry["error"]) for entry in logs] == [(1, str(error))]


def test_each_try_has_the_timeout(logs: Log) -> None:
    """A try that takes too long is cancelled and counts as failed."""
    toy = Toy(takes=60)

    async def main(background: Background) -> None:
        background.start(effect(timeout=5, retries=1, backoff=1), toy, "r1")
        await background.drain(60)

    serve(main)
    assert toy.tried == [0, 6]
    assert toy.ended == [5, 11]
    assert [entry["error"] for entry in logs] == ["TimeoutError: timed out after 5000 ms"]


def test_error_while_cancelled_is_kept(logs: Log) -> None:
    """What a try raises instead of its cancellation is the cause of its timeout."""
    broken = ValueError("broken cleanup")

    async def run() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise broken

    async def main(background: Background) -> None:
        background.start(effect(retries=0), run, "r1")
        await background.drain(60)

    serve(main)
    assert [entry["exc_info"].__cause__ for entry in logs] == [broken]


def test_side_effect_that_cancels_itself(logs: Log) -> None:
    """A `CancelledError` of its own is a failure like any other."""
    toy = Toy([asyncio.CancelledError(), asyncio.CancelledError()])

    async def main(background: Background) -> None:
        background.start(effect(retries=1), toy, "r1")
        await background.drain(60)
        assert background.counts()["log"] == SideEffectCounts(failed=1, retried=1)

    serve(main)
    assert [entry["error"] for entry in logs] == ["RuntimeError: the side effect cancelled itself"]


def test_what_does_not_stop_is_not_tried_again(logs: Log) -> None:
    """A try that goes on after its cancellation keeps its place until it ends, and no second one runs beside it."""
    toy = Toy(takes=60, swallows=1)

    async def main(background: Background) -> None:
        node = effect(timeout=5, max_pending=1)
        background.start(node, toy, "r1")
        await asyncio.sleep(5 + GRACE + 1)
        assert background.counts()["log"] == SideEffectCounts(failed=1, pending=1)
        assert not background.start(node, toy, "r2")
        await background.drain(100)
        assert now() == 60
        assert background.counts()["log"] == SideEffectCounts(failed=1, dropped=1)

    serve(main)
    assert toy.tried == [0]
    failed, dropped = logs
    assert failed["error"] == "StuckError: timed out after 5000 ms; it was cancelled and has not stopped yet"
    assert isinstance(failed["exc_info"], StuckError)
    assert dropped["event"] == "side effect dropped"


def test_too_many_are_dropped(logs: Log) -> None:
    """A component with as many pending runs as it may have gets no more until one ends; others are not concerned."""

    async def main(background: Background) -> None:
        node = effect(max_pending=2)
        assert [background.start(node, Toy(takes=1), f"r{at}") for at in range(4)] == [True, True, False, False]
        assert background.start(effect("other", max_pending=1), Toy(takes=1), "r4")
        assert background.counts() == {
            "log": SideEffectCounts(dropped=2, pending=2),
            "other": SideEffectCounts(pending=1),
        }
        await asyncio.sleep(1.5)
        assert background.start(node, Toy(), "r5")
        await background.drain(10)
        assert background.counts()["log"] == SideEffectCounts(done=3, dropped=2)

    serve(main)
    assert [(entry["log_level"], entry["event"], entry["component"], entry["request_id"]) for entry in logs] == [
        ("warning", "side effect dropped", "log", "r2"),
        ("warning", "side effect dropped", "log", "r3"),
    ]
    assert logs[0]["why"] == "2 are pending"


def test_drain_gives_up_after_its_limit(logs: Log) -> None:
    """What still runs, waits for a retry or has not begun is cancelled, counted and logged by component."""
    slow = Toy(takes=60)

    async def main(background: Background) -> None:
        background.start(effect("slow", timeout=100), slow, "r1")
        background.start(effect("retry", backoff=50), Toy([ValueError("no")]), "r2")
        background.start(effect("quick"), Toy(takes=1), "r3")
        await background.drain(10)
        assert now() == 10
        assert background.counts() == {
            "slow": SideEffectCounts(lost=1),
            "retry": SideEffectCounts(retried=1, lost=1),
            "quick": SideEffectCounts(done=1),
        }

    serve(main)
    assert slow.ended == [10]
    assert [(entry["event"], entry["component"], entry["lost"]) for entry in logs] == [
        ("side effects lost", "slow", 1),
        ("side effects lost", "retry", 1),
    ]


def test_drain_without_time_cancels_what_has_not_begun(logs: Log) -> None:
    """A run that is cancelled before its first step is lost, too."""
    toy = Toy()

    async def main(background: Background) -> None:
        background.start(effect(), toy, "r1")
        await background.drain(0)
        assert background.counts()["log"] == SideEffectCounts(lost=1)

    serve(main)
    assert toy.tried == []


def test_drain_is_not_held_up(logs: Log) -> None:
    """What drain cancels has a moment to clean up; what goes on after that is left behind, with an error in the log."""
    stubborn, tidy = Toy(takes=600, swallows=5), Toy(takes=10.5, swallows=1)

    async def main(background: Background) -> None:
        background.start(effect("stubborn", timeout=1000), stubborn, "r1")
        background.start(effect("tidy"), tidy, "r2")
        await background.drain(10)
        assert now() == 10 + GRACE
        assert background.counts()["stubborn"] == SideEffectCounts(pending=1, lost=1)
        await asyncio.sleep(600)
        assert background.counts()["stubborn"] == SideEffectCounts(lost=1)

    serve(main)
    assert tidy.ended == [10.5]
    assert [(entry["event"], entry["component"]) for entry in logs] == [
        ("side effects lost", "stubborn"),
        ("side effects do not stop when cancelled", "stubborn"),
        ("side effects lost", "tidy"),
    ]


def test_nothing_starts_after_drain(logs: Log) -> None:
    """What a late request starts is dropped: the resources it needs are closed."""
    toy = Toy()

    async def main(background: Background) -> None:
        await background.drain(10)
        assert now() == 0
        assert not background.start(effect(), toy, "r1")
        assert background.counts()["log"] == SideEffectCounts(dropped=1)

    serve(main)
    assert toy.tried == []
    assert [entry["why"] for entry in logs] == ["the application is closing"]


def test_runs_started_while_draining_are_waited_for(logs: Log) -> None:
    """A request that ends during drain has its side effects, too."""
    toy = Toy(takes=5)

    async def main(background: Background) -> None:
        background.start(effect(), Toy(takes=3), "r1")
        drain = asyncio.create_task(background.drain(60))
        await asyncio.sleep(2)
        background.start(effect(), toy, "r2")
        await drain
        assert now() == 7

    serve(main)
    assert toy.ended == [7]


def test_cancelled_drain_cancels_the_side_effects(logs: Log) -> None:
    """Whoever interrupts closing waits for nothing, and leaves nothing running."""
    toy = Toy(takes=60)

    async def main(background: Background) -> None:
        background.start(effect(timeout=100), toy, "r1")
        drain = asyncio.create_task(background.drain(50))
        await asyncio.sleep(2)
        drain.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drain
        await asyncio.sleep(0.001)
        assert background.counts()["log"] == SideEffectCounts(lost=1)

    serve(main)
    assert toy.ended == [2]


def test_run_now_waits_and_retries(logs: Log) -> None:
    """A side effect that the response waits for has the same retries, and nothing to report on success."""

    async def main(background: Background) -> None:
        toy = Toy([ValueError("no")], takes=2)
        assert await background.run_now(effect(backoff=1), toy, "r1") is None
        assert now() == 5
        assert background.counts()["log"] == SideEffectCounts(done=1, retried=1)

    serve(main)
    assert logs == []


def test_run_now_returns_its_error(logs: Log) -> None:
    """The last error comes back as a value, after it was logged."""
    last = ValueError("still not")

    async def main(background: Background) -> None:
        error = await background.run_now(effect(retries=1), Toy([ValueError("no"), last]), "r1")
        assert error is last
        assert background.counts()["log"] == SideEffectCounts(failed=1, retried=1)

    serve(main)
    assert [(entry["attempts"], entry["exc_info"]) for entry in logs] == [(2, last)]


def test_run_now_ends_at_its_deadline(logs: Log) -> None:
    """A side effect is cancelled at the deadline, though its own timeout is later."""

    async def main(background: Background) -> None:
        toy = Toy(takes=60)
        error = await background.run_now(effect(), toy, "r1", until=4.0)
        assert now() == 4
        assert toy.ended == [4]
        assert str(error) == "timed out after 4000 ms (the end of the request's time)"

    serve(main)


def test_run_now_is_not_held_up(logs: Log) -> None:
    """It returns at its deadline even if the side effect goes on; drain then waits for that."""

    async def main(background: Background) -> None:
        toy = Toy(takes=60, swallows=1)
        error = await background.run_now(effect(), toy, "r1", until=4.0)
        assert now() == 4
        assert isinstance(error, StuckError)
        assert background.counts()["log"] == SideEffectCounts(failed=1, pending=1)
        await background.drain(10)
        assert now() == 14
        assert background.counts()["log"] == SideEffectCounts(failed=1)

    serve(main)


def test_run_now_does_not_begin_in_vain(logs: Log) -> None:
    """A retry that could not start before the deadline is not waited for; after it nothing is tried at all."""

    async def main(background: Background) -> None:
        toy = Toy([ValueError("a"), ValueError("b"), ValueError("c")])
        error = await background.run_now(effect(retries=5, backoff=1), toy, "r1", until=3.0)
        assert now() == 1
        assert repr(error) == "ValueError('b')"
        error = await background.run_now(effect(), toy, "r2", until=1.0)
        assert str(error) == "there was no time left for it in the request"
        assert toy.tried == [0, 1]

    serve(main)
    assert [entry["attempts"] for entry in logs] == [2, 0]


def test_run_now_is_cancelled_with_its_caller(logs: Log) -> None:
    """A request that is cancelled takes the side effect it waits for with it."""

    async def main(background: Background) -> None:
        toy = Toy(takes=60)
        request = asyncio.create_task(background.run_now(effect(), toy, "r1"))
        await asyncio.sleep(2)
        assert background.counts()["log"] == SideEffectCounts(pending=1)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await background.drain(10)
        assert toy.ended == [2]
        assert background.counts()["log"] == SideEffectCounts(lost=1)

    serve(main)


def test_only_side_effects(logs: Log) -> None:
    """A component of another kind has no settings to run by."""

    async def main(background: Background) -> None:
        node = attrs.evolve(effect("age"), kind="filter", effect=None)
        with pytest.raises(MisconfigurationError, match=r"^age \(toy.age\) is a filter, not a side effect$"):
            background.start(node, Toy(), "r1")

    serve(main)


RUNS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.floats(0, 5),  # when it starts after the one before
        st.integers(0, 4),  # failures
        st.floats(0, 12),  # seconds a try takes
        st.integers(0, 2),  # cancellations swallowed
    ),
    max_size=12,
)


@given(runs=RUNS, limit=st.floats(0, 30), max_pending=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_every_run_is_counted_once(
    runs: list[tuple[str, float, int, float, int]], limit: float, max_pending: int
) -> None:
    """Whatever side effects do, each run is done, failed, dropped or lost, and drain ends in time."""

    async def main(background: Background) -> None:
        for name, wait, failures, takes, swallows in runs:
            await asyncio.sleep(wait)
            node = effect(name, timeout=6, backoff=1, max_pending=max_pending)
            background.start(node, Toy([ValueError("no")] * failures, takes, swallows), "r")
        begun = now()
        await background.drain(limit)
        assert now() <= begun + limit + GRACE + 1e-6
        for name, counts in background.counts().items():
            asked = sum(run[0] == name for run in runs)
            assert counts.done + counts.failed + counts.dropped + counts.lost == asked
        await asyncio.sleep(100)
        assert all(counts.pending == 0 for counts in background.counts().values())

    with capture_logs():
        serve(main)
