"""Which requests run together, when, and which are turned away: rules only, without a clock, a loop or a thread."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, Literal, TypeVar

import attrs

from phoenix_recsys.batch_options import BatchMetrics, BatchOptions, Expired, Refused
from phoenix_recsys.batch_timing import CallTime

T = TypeVar("T")
State = Literal["waiting", "running", "done", "failed", "expired", "cancelled"]


@attrs.define(eq=False)
class Ticket(Generic[T]):
    """A request's place in the queue.

    Attributes:
        item: what the caller of the queue keeps with it.
        cost: its size, in units.
        key: whose turn it takes.
        deadline: when it expires, or None.
        arrived: when it was offered.
        number: counts up, and tells tickets apart.
        state: where it is; the last four are final.
    """

    item: T
    cost: int
    key: Hashable
    deadline: float | None
    arrived: float
    number: int
    state: State = "waiting"


@attrs.frozen
class Step(Generic[T]):
    """What a moment brought: requests that expired, and a batch to run, empty if there is none now."""

    expired: tuple[Ticket[T], ...]
    batch: tuple[Ticket[T], ...]


class BatchQueue(Generic[T]):
    """The rules of a batcher. Every method that depends on time is told it, in seconds of any one clock.

    Turns: keys take turns, a request a turn, in the order in which they began to wait; a key that had its turn goes
    behind all the others that wait. Within a key, first come, first served. A batch takes requests strictly in that
    order and ends before the first that does not fit, so a large one is never overtaken: between two starts of one
    key, every key that waits meanwhile has a start.

    Start: when enough waits to fill a batch, when the oldest request has waited ``max_wait``, or when a deadline
    is near, whichever is first; never while a batch runs.

    Admission: see :meth:`offer`.
    """

    def __init__(self, options: BatchOptions) -> None:
        self.options = options
        self.timing = CallTime(options.alpha, options.initial_seconds_per_unit, options.initial_seconds_per_call)
        self.draining = False
        """Set to start what waits without waiting for more."""
        self._lines: OrderedDict[Hashable, OrderedDict[int, Ticket[T]]] = OrderedDict()  # in order of turns
        self._waiting: OrderedDict[int, Ticket[T]] = OrderedDict()  # in order of arrival
        self._deadlines: list[tuple[float, int]] = []  # a heap, with numbers of tickets that wait no more
        self._running: dict[int, Ticket[T]] = {}
        self._waiting_cost = 0
        self._numbers = itertools.count()
        self._counts: Counter[str] = Counter()
        self._batch_started: float | None = None
        self._batch_seconds = 0.0
        self._fill = self._bucket_fill = self._max_wait_seen = 0.0

    def offer(
        self, item: T, now: float, *, cost: int = 1, key: Hashable = None, deadline: float | None = None
    ) -> Ticket[T]:
        """Queue a request.

        Refused is what would make more than ``max_queue`` wait, and what has a deadline sooner than the estimated
        wait and the margin. The wait is estimated as what the running batch still needs (or, once it is overdue, as
        long again as it is overdue), plus the predicted time of the work ahead: what has its turns before this
        request, in calls of ``max_size`` and ``max_requests``. Where nothing waits or runs, nobody is refused: a
        prediction that a slow call has spoilt mends only with further calls.

        Raises:
            Refused: for one of these reasons.
            Expired: if the deadline has passed already.
            ValueError: if cost or deadline is no sensible number.
        """
        if not isinstance(cost, int) or cost < 1:  # type: ignore[redundant-expr]  # not every caller has a type checker
            raise ValueError(f"cost must be a whole number of at least 1, found {cost!r}")
        if deadline is not None and math.isnan(deadline):
            raise ValueError("deadline must be a time or None, found nan")
        if deadline == math.inf:
            deadline = None
        self._counts["submitted"] += 1
        if deadline is not None and deadline <= now:
            self._counts["expired"] += 1
            raise Expired(f"the deadline passed {now - deadline:.3f} s before the request was submitted")
        if self._waiting and self._waiting_cost + cost > self.options.max_queue:
            self._counts["refused"] += 1
            raise Refused(
                f"the queue is full: {self._waiting_cost} units wait, the request has {cost}, and max_queue is "
                f"{self.options.max_queue}; come back later, or raise max_queue"
            )
        idle = not self._waiting and self._batch_started is None
        ticket = Ticket(item, cost, key, deadline, now, next(self._numbers))
        self._insert(ticket)
        if deadline is not None and not idle:
            left = deadline - now - self.options.margin
            # All that waits is at least what is ahead, and known without counting turns.
            estimate = self._estimate(self._waiting_cost - cost, len(self._waiting) - 1, cost, now)
            if estimate > left and len(self._lines) < len(self._waiting):
                estimate = self._estimate(*self._ahead(ticket), cost, now)
            if estimate > left:
                self._remove(ticket)
                self._counts["refused"] += 1
                raise Refused(
                    f"the estimated wait of {estimate:.3f} s exceeds the deadline, {deadline - now:.3f} s away "
                    f"(margin {self.options.margin:.3f} s, {len(self._waiting)} requests of {self._waiting_cost} "
                    f"units waiting); come back later, or allow more time",
                    estimate,
                )
        return ticket

    def cancel(self, ticket: Ticket[T]) -> bool:
        """Take a request back: from the queue, or mark it as given up in the running batch; False if it ended."""
        if ticket.state == "waiting":
            self._remove(ticket)
        elif ticket.state == "running":
            del self._running[ticket.number]
        else:
            return False
        self._end(ticket, "cancelled")
        return True

    def advance(self, now: float) -> Step[T]:
        """Drop what has expired by now and, if none runs and one is due, start a batch."""
        expired = []
        while (nearest := self._nearest_deadline()) is not None and nearest <= now:
            ticket = self._waiting[heapq.heappop(self._deadlines)[1]]
            self._remove(ticket)
            self._end(ticket, "expired")
            expired.append(ticket)
        due = self._due()
        ready = self._batch_started is None and due is not None and due <= now
        return Step(tuple(expired), self._start(now) if ready else ())

    def next_event(self) -> float | None:
        """When :meth:`advance` will have something to do if nothing else happens before; None if never."""
        due = self._due() if self._batch_started is None else None
        times = [time for time in (due, self._nearest_deadline()) if time is not None]
        return min(times, default=None)

    def settle(self, ticket: Ticket[T], outcome: Literal["done", "failed"]) -> bool:
        """Record how a request of the running batch ended; False if it was given up before."""
        if ticket.state != "running":
            return False
        del self._running[ticket.number]
        self._end(ticket, outcome)
        return True

    def finish(self) -> None:
        """The running batch is over, with all its requests settled."""
        if self._running:
            raise RuntimeError(f"{len(self._running)} requests of the batch are not settled")
        self._batch_started = None

    def fail_all(self) -> tuple[Ticket[T], ...]:
        """Fail everything that waits or runs, and return it. The batch still counts as running."""
        left = (*self._running.values(), *self._waiting.values())
        for ticket in left:
            if ticket.state == "waiting":
                self._remove(ticket)
            self._end(ticket, "failed")
        self._running.clear()
        return left

    @property
    def idle(self) -> bool:
        """Whether nothing waits and no batch runs."""
        return not self._waiting and self._batch_started is None

    def metrics(self) -> BatchMetrics:
        """Counts and summaries so far."""
        count, batches = self._counts, max(self._counts["batches"], 1)
        return BatchMetrics(
            submitted=count["submitted"],
            done=count["done"],
            expired=count["expired"],
            refused=count["refused"],
            failed=count["failed"],
            cancelled=count["cancelled"],
            batches=count["batches"],
            waiting=len(self._waiting),
            waiting_cost=self._waiting_cost,
            running=len(self._running),
            seconds_per_unit=self.timing.per_unit,
            seconds_per_call=self.timing.per_call,
            mean_fill=self._fill / batches,
            mean_bucket_fill=self._bucket_fill / batches,
            max_wait_seen=self._max_wait_seen,
        )

    def in_turn(self) -> Iterator[Ticket[T]]:
        """What waits, in the order in which it will start, as far as it is asked for."""
        lines: Iterator[Iterator[Ticket[T]]] = (iter(line.values()) for line in self._lines.values())
        while True:
            served = []
            for line in lines:
                if (ticket := next(line, None)) is not None:
                    yield ticket
                    served.append(line)
            if not served:
                return
            lines = iter(served)

    def _insert(self, ticket: Ticket[T]) -> None:
        self._lines.setdefault(ticket.key, OrderedDict())[ticket.number] = ticket
        self._waiting[ticket.number] = ticket
        self._waiting_cost += ticket.cost
        if ticket.deadline is not None:
            heapq.heappush(self._deadlines, (ticket.deadline, ticket.number))
            if len(self._deadlines) > 2 * len(self._waiting) + 64:
                # Mostly tickets that are gone, with deadlines too far off to come up soon.
                self._deadlines = [entry for entry in self._deadlines if entry[1] in self._waiting]
                heapq.heapify(self._deadlines)

    def _remove(self, ticket: Ticket[T]) -> None:
        line = self._lines[ticket.key]
        del line[ticket.number], self._waiting[ticket.number]
        if not line:
            del self._lines[ticket.key]
        self._waiting_cost -= ticket.cost

    def _end(self, ticket: Ticket[T], state: Literal["done", "failed", "expired", "cancelled"]) -> None:
        ticket.state = state
        self._counts[state] += 1

    def _ahead(self, ticket: Ticket[T]) -> tuple[int, int]:
        """The cost and the number of the requests that have their turns before this one."""
        costs = [other.cost for other in itertools.takewhile(lambda other: other is not ticket, self.in_turn())]
        return sum(costs), len(costs)

    def _estimate(self, ahead: int, requests: int, cost: int, now: float) -> float:
        own = self.options.include_own_run
        work, calls = ahead + own * cost, self.options.calls(ahead + own * cost, requests + own)
        running = 0.0 if self._batch_started is None else abs(self._batch_started + self._batch_seconds - now)
        return running + self.timing.seconds(work, calls)

    def _nearest_deadline(self) -> float | None:
        while self._deadlines and self._deadlines[0][1] not in self._waiting:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _due(self) -> float | None:
        if not self._waiting:
            return None
        if self.draining or self.options.fills(self._waiting_cost, len(self._waiting)):
            return -math.inf
        oldest = next(iter(self._waiting.values()))
        due = oldest.arrived + self.options.max_wait
        nearest = self._nearest_deadline()
        if nearest is None:
            return due
        run = self._predicted(self._waiting_cost) if self.options.include_own_run else 0.0
        return min(due, nearest - self.options.margin - run)

    def _predicted(self, size: int) -> float:
        return self.timing.seconds(self.options.padded(size))

    def _start(self, now: float) -> tuple[Ticket[T], ...]:
        chosen: list[Ticket[T]] = []
        size = 0
        for ticket in self.in_turn():
            if chosen and size + ticket.cost > self.options.max_size:
                break
            if len(chosen) == self.options.max_requests:
                break
            chosen.append(ticket)
            size += ticket.cost
        batch = tuple(chosen[: self._cut(chosen, size, now)])
        for ticket in batch:
            self._remove(ticket)
            if ticket.key in self._lines:
                self._lines.move_to_end(ticket.key)
            ticket.state = "running"
            self._running[ticket.number] = ticket
            self._max_wait_seen = max(self._max_wait_seen, now - ticket.arrived)
        size = sum(ticket.cost for ticket in batch)
        self._counts["batches"] += 1
        self._fill += min(max(size / self.options.max_size, len(batch) / (self.options.max_requests or math.inf)), 1.0)
        self._bucket_fill += size / self.options.padded(size)
        self._batch_started, self._batch_seconds = now, self._predicted(size)
        return batch

    def _cut(self, chosen: list[Ticket[T]], size: int, now: float) -> int:
        """How many of the chosen requests to run now, so that padding is not computed for nothing."""
        if self.options.padded(size) == size:
            return len(chosen)

        def seconds(part: int) -> float:
            # Without any measurement, only the padded sizes can be compared.
            return self._predicted(part) if self.timing.known else float(self.options.padded(part))

        best, best_seconds = len(chosen), seconds(size)
        sizes = list(itertools.accumulate(ticket.cost for ticket in chosen))
        for bucket in self.options.buckets:
            count = sum(part <= bucket for part in sizes)
            if not 0 < count < len(chosen):
                continue
            head = seconds(sizes[count - 1])
            ready = now + (head if self.timing.known else 0.0) + self.options.margin
            in_time = all(ticket.deadline is None or ticket.deadline > ready for ticket in chosen[count:])
            total = head + seconds(size - sizes[count - 1])
            if in_time and total <= best_seconds:
                best, best_seconds = count, total
        return best
