"""The rules of the batcher against a model of them that counts everything anew."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from phoenix_recsys.batch_options import BatchOptions, Expired, Refused
from phoenix_recsys.batch_queue import BatchQueue, Ticket
from phoenix_recsys.batch_timing import CallTime

Entry = Ticket[None]


def turns(waiting: list[Entry], order: list[int]) -> list[Entry]:
    """Deal requests out by turns of their keys, one card at a time."""
    keys, lines = list(order), {key: [one for one in waiting if one.key == key] for key in order}
    dealt = []
    while keys:
        key = keys.pop(0)
        dealt.append(lines[key].pop(0))
        if lines[key]:
            keys.append(key)
    return dealt


class QueueMachine(RuleBasedStateMachine):
    """Random offers, cancellations, time, batches and their ends, checked at each step."""

    @initialize(
        max_size=st.integers(1, 10),
        most=st.none() | st.integers(1, 4),
        max_wait=st.integers(0, 5),
        room=st.integers(0, 30),
        buckets=st.sets(st.integers(1, 12), max_size=3).map(sorted),
        margin=st.integers(0, 2),
        own=st.booleans(),
        per_unit=st.sampled_from([0, 0.25, 1]),
        per_call=st.sampled_from([0, 2]),
    )
    def begin(
        self,
        max_size: int,
        most: int | None,
        max_wait: int,
        room: int,
        buckets: list[int],
        margin: int,
        own: bool,
        per_unit: float,
        per_call: float,
    ) -> None:
        """Start with an empty queue under some options."""
        self.options = BatchOptions(
            max_size=max_size,
            max_requests=most,
            max_wait=max_wait,
            max_queue=max_size + room,
            buckets=tuple(buckets),
            margin=margin,
            include_own_run=own,
            initial_seconds_per_unit=per_unit,
            initial_seconds_per_call=per_call,
        )
        self.queue: BatchQueue[None] = BatchQueue(self.options)
        self.now = 0.0
        self.waiting: list[Entry] = []
        self.order: list[int] = []
        self.running: list[Entry] = []
        self.busy_since: float | None = None
        self.expected_seconds = 0.0
        self.ends: Counter[int] = Counter()
        self.counts: Counter[str] = Counter()
        self.last_start: dict[Any, int] = {}
        self.owed: dict[Any, set[Any]] = {}

    @property
    def most(self) -> float:
        """How many requests a batch may hold."""
        return math.inf if self.options.max_requests is None else self.options.max_requests

    @rule(cost=st.integers(1, 12), key=st.integers(0, 3), deadline=st.none() | st.integers(0, 20))
    def offer(self, cost: int, key: int, deadline: int | None) -> None:
        """A request is admitted, refused or expired as the model says."""
        ends = None if deadline is None else self.now + deadline
        self.counts["submitted"] += 1
        if deadline == 0:
            self.counts["expired"] += 1
            with pytest.raises(Expired):
                self.queue.offer(None, self.now, cost=cost, key=key, deadline=ends)
            return
        full = bool(self.waiting) and sum(one.cost for one in self.waiting) + cost > self.options.max_queue
        late = deadline is not None and not full and self.estimate(cost, key) > deadline - self.options.margin
        if full or (late and (self.waiting or self.busy_since is not None)):
            self.counts["refused"] += 1
            with pytest.raises(Refused, match="queue is full" if full else "estimated wait"):
                self.queue.offer(None, self.now, cost=cost, key=key, deadline=ends)
            return
        self.waiting.append(self.queue.offer(None, self.now, cost=cost, key=key, deadline=ends))
        if key not in self.order:
            self.order.append(key)

    def estimate(self, cost: int, key: int) -> float:
        """The predicted wait of a request that is not queued yet."""
        new = Ticket(None, cost, key, None, self.now, -1)
        dealt = turns([*self.waiting, new], self.order if key in self.order else [*self.order, key])
        ahead, own = dealt.index(new), self.options.include_own_run
        work = sum(one.cost for one in dealt[:ahead]) + cost * own
        calls = max(math.ceil(work / self.options.max_size), math.ceil((ahead + own) / self.most))
        still = 0.0 if self.busy_since is None else abs(self.busy_since + self.expected_seconds - self.now)
        return still + calls * self.queue.timing.per_call + work * self.queue.timing.per_unit

    @rule(step=st.integers(0, 6))
    def advance(self, step: int) -> None:
        """What has expired leaves, and what is due starts, in order of turns."""
        self.now += step
        expired = [one for one in self.waiting if one.deadline is not None and one.deadline <= self.now]
        for one in expired:
            self.leave(one)
        due = self.busy_since is None and self.is_due()
        dealt = turns(self.waiting, self.order)
        step_taken = self.queue.advance(self.now)
        assert sorted(one.number for one in step_taken.expired) == sorted(one.number for one in expired)
        for one in expired:
            self.end(one, "expired")
        assert bool(step_taken.batch) == due
        if due:
            self.start(list(step_taken.batch), dealt)
        upcoming = self.queue.next_event()
        assert upcoming is None or upcoming > self.now

    def is_due(self) -> bool:
        """Whether a batch should start now."""
        if not self.waiting:
            return False
        size = sum(one.cost for one in self.waiting)
        near = min((one.deadline for one in self.waiting if one.deadline is not None), default=math.inf)
        run = self.seconds(size) if self.options.include_own_run else 0.0
        return (
            size >= self.options.max_size
            or len(self.waiting) >= self.most
            or self.waiting[0].arrived + self.options.max_wait <= self.now
            or near - self.options.margin - run <= self.now
        )

    def seconds(self, size: int) -> float:
        """Predicted seconds of a call."""
        timing = self.queue.timing
        return timing.per_call + timing.per_unit * self.options.padded(size)

    def start(self, batch: list[Entry], dealt: list[Entry]) -> None:
        """A batch is the longest that fits, or cut back to a bucket without loss."""
        fits = [dealt[0]]
        for one in dealt[1:]:
            if sum(other.cost for other in [*fits, one]) > self.options.max_size or len(fits) >= self.most:
                break
            fits.append(one)
        assert batch == fits[: len(batch)]
        size = sum(one.cost for one in batch)
        assert size <= self.options.max_size or len(batch) == 1
        if len(batch) < len(fits):
            rest = sum(one.cost for one in fits[len(batch) :])
            parts = [size, rest, size + rest]
            head, tail, whole = map(self.seconds, parts) if self.queue.timing.known else map(self.options.padded, parts)
            assert head + tail <= whole
        self.busy_since, self.expected_seconds = self.now, self.seconds(size)
        self.counts["batches"] += 1
        for one in batch:
            assert one.deadline is None or one.deadline > self.now
            assert one.number > self.last_start.get(one.key, -1), "first come, first served within a key"
            assert not self.owed.get(one.key), "every key that waited had its turn since this key's last"
            self.last_start[one.key] = one.number
            self.leave(one, served=True)
            self.owed[one.key] = {other for other in self.order if other != one.key}
            self.running.append(one)

    def leave(self, one: Entry, *, served: bool = False) -> None:
        """Take a request out of the model's queue."""
        self.waiting.remove(one)
        still = any(other.key == one.key for other in self.waiting)
        if served or not still:
            assert isinstance(one.key, int)
            self.order.remove(one.key)
            if still:
                self.order.append(one.key)
            for owed in self.owed.values():
                owed.discard(one.key)

    def end(self, one: Entry, state: str) -> None:
        """A request has come to its one end."""
        assert one.state == state
        self.ends[one.number] += 1
        self.counts[state] += 1

    @precondition(lambda self: self.waiting or self.running)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """A request that waits or runs can be taken back, once."""
        one = data.draw(st.sampled_from([*self.waiting, *self.running]))
        if one in self.waiting:
            self.leave(one)
        else:
            self.running.remove(one)
        assert self.queue.cancel(one)
        assert not self.queue.cancel(one)
        self.end(one, "cancelled")

    @precondition(lambda self: self.busy_since is not None)
    @rule(seconds=st.integers(0, 8), failed=st.booleans())
    def finish(self, seconds: int, failed: bool) -> None:
        """A batch ends, and its time is taken in."""
        assert self.busy_since is not None
        if self.running:
            with pytest.raises(RuntimeError, match="not settled"):
                self.queue.finish()
        for one in self.running:
            assert self.queue.settle(one, "failed" if failed else "done")
            assert not self.queue.settle(one, "done")
            self.end(one, "failed" if failed else "done")
        if not failed:
            self.queue.timing.observe(1 + seconds, seconds)
        self.running, self.busy_since = [], None
        self.queue.finish()

    @invariant()
    def counts_agree(self) -> None:
        """Nothing is lost and nothing ends twice."""
        if not hasattr(self, "queue"):
            return
        got = self.queue.metrics()
        for name in ("submitted", "done", "expired", "refused", "failed", "cancelled", "batches"):
            assert getattr(got, name) == self.counts[name], name
        ended = got.done + got.expired + got.refused + got.failed + got.cancelled
        assert got.submitted == ended + got.waiting + got.running
        assert (got.waiting, got.running) == (len(self.waiting), len(self.running))
        assert got.waiting_cost == sum(one.cost for one in self.waiting)
        assert set(self.ends.values()) <= {1}
        assert 0 <= got.mean_fill <= 1
        assert 0 <= got.mean_bucket_fill <= 1
        assert list(self.queue.in_turn()) == turns(self.waiting, self.order)
        assert self.queue.idle == (not self.waiting and self.busy_since is None)

    def teardown(self) -> None:
        """Whatever is left fails, once, and the queue is empty."""
        if hasattr(self, "queue"):
            left = [*self.running, *self.waiting]
            assert sorted(one.number for one in self.queue.fail_all()) == sorted(one.number for one in left)
            assert all(one.state == "failed" for one in left)
            assert (self.queue.metrics().waiting, self.queue.metrics().waiting_cost) == (0, 0)


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueueAgainstModel = QueueMachine.TestCase


def test_a_newcomer_is_not_refused_for_what_another_key_has_waiting() -> None:
    """The estimate counts turns: a long line of one key is not ahead of another key's first request."""
    queue: BatchQueue[int] = BatchQueue(BatchOptions(max_size=4, max_queue=1000, initial_seconds_per_unit=1, margin=0))
    for number in range(100):
        queue.offer(number, 0, key="many")
    queue.offer(0, 0, key="one", deadline=3)
    with pytest.raises(Refused, match=r"estimated wait of 101\.000 s exceeds the deadline, 3\.000 s away") as refused:
        queue.offer(0, 0, key="many", deadline=3)
    assert refused.value.estimate == 101


def test_a_batch_of_as_many_requests_as_it_may_hold_starts_at_once() -> None:
    """The number of requests fills a batch as their size does, and counts in the estimate of a wait."""
    options = BatchOptions(max_size=100, max_requests=2, max_wait=60, margin=0, initial_seconds_per_call=1)
    queue: BatchQueue[int] = BatchQueue(options)
    for number in range(5):
        queue.offer(number, 0)
    assert [ticket.item for ticket in queue.advance(0).batch] == [0, 1]
    assert queue.metrics().mean_fill == 1
    with pytest.raises(Refused, match=r"estimated wait of 3\.000 s"):  # one call runs, two are ahead
        queue.offer(5, 0, deadline=2.5)


def test_a_large_request_is_not_overtaken_by_small_ones() -> None:
    """A batch ends before a request that does not fit, which then leads the next."""
    queue: BatchQueue[str] = BatchQueue(BatchOptions(max_size=4))
    for name, cost in (("a", 1), ("large", 9), ("b", 1), ("c", 1)):
        queue.offer(name, 0, cost=cost, key=name)
    started = []
    for _ in range(2):
        batch = queue.advance(0).batch
        started.append([ticket.item for ticket in batch])
        for ticket in batch:
            queue.settle(ticket, "done")
        queue.finish()
    assert started == [["a"], ["large"]]


def test_a_spoilt_prediction_mends() -> None:
    """After a call that took very long, the next request with a deadline is admitted all the same if none is ahead."""
    queue: BatchQueue[None] = BatchQueue(BatchOptions(max_size=4, include_own_run=True))
    queue.timing.observe(1, 1000)
    queue.offer(None, 0, deadline=1)
    with pytest.raises(Refused):
        queue.offer(None, 0, deadline=1)


def test_an_overdue_batch_counts_as_long_again() -> None:
    """While a batch takes longer than predicted, the estimate grows instead of staying at nothing."""
    queue: BatchQueue[None] = BatchQueue(BatchOptions(max_size=1, margin=0))
    queue.offer(None, 0)
    assert queue.advance(0).batch
    queue.offer(None, 5, deadline=10)
    with pytest.raises(Refused, match=r"wait of 6\.000 s"):
        queue.offer(None, 6, deadline=10)


@pytest.mark.parametrize(("waiting", "started"), [(9, 8), (8, 8), (13, 8), (5, 5), (25, 24), (31, 24)])
def test_buckets_are_filled_rather_than_padded(waiting: int, started: int) -> None:
    """Without a measurement, a batch is cut back where two calls compute no more rows than one."""
    queue: BatchQueue[None] = BatchQueue(BatchOptions(max_size=32, max_wait=0, buckets=(8, 16, 24, 32)))
    for _ in range(waiting):
        queue.offer(None, 0)
    assert len(queue.advance(0).batch) == started


def test_a_costly_call_is_not_split_for_its_padding() -> None:
    """Where a call costs more than the padding it would save, the batch stays whole."""
    options = BatchOptions(
        max_size=32, max_wait=0, buckets=(8, 32), initial_seconds_per_unit=1, initial_seconds_per_call=20
    )
    queue: BatchQueue[None] = BatchQueue(options)
    for _ in range(9):
        queue.offer(None, 0)
    assert len(queue.advance(0).batch) == 9


def test_deadlines_that_are_gone_take_no_memory() -> None:
    """Cancelled requests with far deadlines do not pile up."""
    queue: BatchQueue[None] = BatchQueue(BatchOptions(max_size=1))
    for _ in range(1000):
        queue.cancel(queue.offer(None, 0, deadline=1e9))
    assert len(queue._deadlines) <= 100


@pytest.mark.parametrize("wrong", [{"cost": 0}, {"cost": 1.5}, {"deadline": math.nan}])
def test_bad_requests_are_told(wrong: dict[str, Any]) -> None:
    """A cost or deadline that is no sensible number is an error, and is not counted."""
    queue: BatchQueue[None] = BatchQueue(BatchOptions(max_size=1))
    with pytest.raises(ValueError, match=next(iter(wrong))):
        queue.offer(None, 0, **wrong)
    assert queue.metrics().submitted == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_size": 0},
        {"max_size": True},
        {"max_requests": 0},
        {"max_requests": 2.0},
        {"max_wait": -1},
        {"max_wait": math.nan},
        {"max_queue": 3},
        {"buckets": (4, 2)},
        {"buckets": (0,)},
        {"margin": math.inf},
        {"alpha": 0},
        {"initial_seconds_per_unit": "1"},
    ],
)
def test_bad_options_are_told(wrong: dict[str, Any]) -> None:
    """An option out of range is an error that names it."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BatchOptions(**{"max_size": 4, **wrong})


def test_sizes_round_up_to_buckets_and_their_multiples() -> None:
    """Beyond the largest bucket a batch runs in several of it, and without buckets nothing is padded."""
    options = BatchOptions(max_size=4, buckets=[2, 8])
    assert [options.padded(size) for size in (1, 2, 3, 8, 9, 17)] == [2, 2, 8, 8, 16, 24]
    assert attrs.evolve(options, buckets=()).padded(17) == 17


@given(
    per_unit=st.floats(0.001, 10),
    per_call=st.floats(0, 100),
    sizes=st.lists(st.integers(1, 1000), min_size=60, max_size=60),
)
def test_times_on_a_line_are_predicted_by_it(per_unit: float, per_call: float, sizes: list[int]) -> None:
    """Predictions on noiseless calls of spread sizes approach the line they come from."""
    timing = CallTime(0.2)
    for size in [*sizes, *[1, 1000] * 20]:
        timing.observe(size, per_call + per_unit * size)
    assert timing.per_unit == pytest.approx(per_unit, rel=0.05, abs=0.05 * per_call / 500)
    assert timing.seconds(500) == pytest.approx(per_call + 500 * per_unit, rel=0.05)


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 1e6)), min_size=1, max_size=30))
def test_predictions_are_never_negative(calls: list[tuple[int, float]]) -> None:
    """Whatever the calls took, neither term is negative."""
    timing = CallTime(0.2)
    for size, seconds in calls:
        timing.observe(size, seconds)
    assert timing.per_unit >= 0
    assert timing.per_call >= 0


def test_calls_of_one_size_are_taken_as_proportional() -> None:
    """Where size never varies, time is predicted in proportion; before any call, from the initial values."""
    timing = CallTime(0.2, 3, 5)
    assert (timing.seconds(2), timing.known) == (11, True)
    assert not CallTime(0.2).known
    for _ in range(5):
        timing.observe(10, 20)
    assert (timing.per_unit, timing.per_call) == (2, 0)
