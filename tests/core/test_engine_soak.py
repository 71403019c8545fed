"""Ten thousand requests in which anything goes wrong leave nothing behind."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import gc
import random
import resource
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import attrs
import pytest
import structlog
from chaos import SLOW, Chaos, Shelf, pipeline
from toys import until

from candidate_pipeline import TOPPED_UP, Candidates, Outcome, Query, RequestError
from candidate_pipeline.engine.calls import Calls
from candidate_pipeline.engine.trace import ComponentTrace
from candidate_pipeline.testing import VirtualTimeLoop

REQUESTS = 10_000
#: Requests between two looks at what is left.
LOT = 2_000
AT_ONCE = 12
SEED = 20_260_515
START = dt.datetime(2026, 5, 15, tzinfo=dt.UTC)
#: What may not pile up.
KINDS = (Outcome, Query, Candidates, ComponentTrace, Calls, asyncio.Task, asyncio.Future)
#: How many more objects of a kind there may be after 10,000 requests than after 2,000: cached answers come and go.
SLACK = 20
#: How much more memory the process may have held at its peak, in KiB.
SLACK_KIB = 48 * 1024

pytestmark = pytest.mark.filterwarnings("error")


@attrs.define
class Soak:
    """What came of all requests.

    Args:
        ends: How requests ended.
        statuses: Statuses of components.
        seen: Things that happened.
        objects: Living objects by kind, after every lot.
        peaks: The process's greatest memory after every lot, in KiB.
        tasks: Names of the tasks that ran beside the test's after every lot, and after closing.
        effects: What became of side effects, by component.
        last: What a request's trace says when nothing goes wrong any more.
        complaints: What the event loop complained of.
    """

    ends: Counter[str] = attrs.field(factory=Counter)
    statuses: Counter[str] = attrs.field(factory=Counter)
    seen: Counter[str] = attrs.field(factory=Counter)
    objects: list[dict[str, int]] = attrs.field(factory=list)
    peaks: list[int] = attrs.field(factory=list)
    tasks: list[list[str]] = attrs.field(factory=list)
    effects: Mapping[str, Any] = attrs.field(factory=dict)
    last: list[Any] = attrs.field(factory=list)
    complaints: list[Any] = attrs.field(factory=list)

    def look(self, outcome: Outcome) -> None:
        """Count what an outcome shows; keep nothing of it."""
        for entry in outcome.trace:
            self.statuses[entry.status] += 1
            self.seen["refill"] += entry.refill > 0
            self.seen["cache hit"] += entry.cache_hits > 0
            self.seen["circuit open"] += entry.breaker == "open"
            self.seen["inner trace"] += bool(entry.inner)
            self.seen["timeout"] += "timed out" in entry.error
        self.seen["topped up"] += TOPPED_UP in outcome.selected and bool(outcome.selected[TOPPED_UP].any())
        ids = outcome.item_ids.tolist()
        assert len(ids) == len(set(ids)) <= 6


async def ask(app: Any, number: int, soak: Soak) -> None:
    """One request."""
    dice = random.Random(SEED + number)  # noqa: S311  # nothing secret
    request = app["main"].run(
        viewer=dice.randrange(40),
        mood=dice.choice(("calm", "wild")),
        seed=number,
        request_id=f"r{number}",
        now=START + dt.timedelta(milliseconds=5 * number),
    )
    task = asyncio.create_task(request)
    if dice.random() < 0.06:
        for _ in range(dice.randrange(12)):
            await asyncio.sleep(0)
        if dice.random() < 0.7:
            await asyncio.sleep(dice.random() * 0.01)
        task.cancel()
    try:
        soak.look(await task)
        soak.ends["answered"] += 1
    except RequestError:
        soak.ends["failed"] += 1
    except asyncio.CancelledError:
        soak.ends["cancelled"] += 1


async def lot(app: Any, numbers: range, soak: Soak) -> None:
    """A lot of requests, several at once."""
    left = iter(numbers)

    async def worker() -> None:
        for number in left:
            await ask(app, number, soak)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())


def pools(app: Any) -> list[Any]:
    """The threads of all blocking components."""
    return [pool for state in app.runtime.states().values() for pool in state.pools if pool is not None]


def is_idle(cache: Any) -> bool:
    """Whether a cache waits for nothing."""
    return not cache.flying


def at_rest(app: Any) -> bool:
    """Whether nothing runs any more that a request has started."""
    runtime = app.runtime
    counts = [pool.counts for pool in pools(app)]
    return (
        runtime.abandoned == 0
        and all(effect.pending == 0 for effect in runtime.background.counts().values())
        and all(each.queued == each.running == each.abandoned == 0 for each in counts)
    )


async def take_stock(app: Any, soak: Soak) -> None:
    """Let everything come to rest, and count what is left."""
    await until(lambda: at_rest(app))
    for state in app.runtime.states().values():
        for cache in state.caches:
            if cache is not None:
                await until(functools.partial(is_idle, cache))
                assert len(cache) <= 60
    count_tasks(soak)
    gc.collect()
    found = Counter(type(each) for each in gc.get_objects())
    soak.objects.append({kind.__name__: found[kind] for kind in KINDS})
    soak.peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def count_tasks(soak: Soak) -> None:
    """Note the tasks that run beside this one."""
    soak.tasks.append([task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()])


async def serve(chaos: Chaos, shelves: list[Shelf], soak: Soak) -> None:
    """All requests, through one application."""
    asyncio.get_running_loop().set_exception_handler(lambda _, context: soak.complaints.append(context))
    app = pipeline(chaos, shelves)
    async with app:
        for first in range(0, REQUESTS, LOT):
            await lot(app, range(first, first + LOT), soak)
            await take_stock(app, soak)
        chaos.calm = True
        await asyncio.sleep(3600)
        for _ in range(3):  # circuits close again
            outcome = await app["main"].run(viewer=3, mood="wild", request_id="last", now=START + dt.timedelta(days=1))
            soak.last = [(entry.component, entry.status, entry.error, entry.breaker) for entry in outcome.trace]
            await asyncio.sleep(1)
        chaos.calm = False
        background = app.runtime.background
        await until(lambda: at_rest(app))
        del outcome
    soak.effects = background.counts()
    for _ in range(3):
        await asyncio.sleep(0)
    count_tasks(soak)


@pytest.fixture
def silence() -> Iterator[Counter[str]]:
    """Counts what is logged, by event, instead of printing or keeping it."""
    counted: Counter[str] = Counter()
    before = structlog.get_config()

    def drop(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
        counted[f"{event['event']}: {event.get('component', '')}"] += 1
        raise structlog.DropEvent

    structlog.configure(processors=[drop])
    yield counted
    structlog.configure(**before)


@pytest.fixture
def soaked(silence: Counter[str]) -> tuple[Chaos, Soak]:
    """The components and what came of all requests."""
    chaos, soak = Chaos(SEED), Soak()
    shelves = [Shelf(), Shelf()]
    gc.collect()
    gc.freeze()  # what other tests left is not counted
    try:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(serve(chaos, shelves, soak))
        gc.collect()
    finally:
        gc.unfreeze()
    assert [(shelf.opened, shelf.closed) for shelf in shelves] == [(1, 1), (1, 1)]
    return chaos, soak


def test_soak(soaked: tuple[Chaos, Soak], silence: Counter[str]) -> None:
    """Every request ends in one way, and of all of them no task, thread, resource or object is left."""
    chaos, soak = soaked
    check_variety(chaos, soak)
    assert soak.ends.total() == REQUESTS
    assert soak.complaints == []
    assert soak.tasks == [[]] * (REQUESTS // LOT + 1)
    for thread in threading.enumerate():
        if thread.name.startswith("candidate-pipeline"):
            thread.join(30)
            assert not thread.is_alive()
    for objects in soak.objects[1:]:
        for kind, count in objects.items():
            assert count <= soak.objects[0][kind] + SLACK, kind
    assert soak.peaks[-1] - soak.peaks[0] <= SLACK_KIB
    assert {status for _, status, _, _ in soak.last} == {"ok"}
    assert {breaker for *_, breaker in soak.last} == {""}
    check_effects(chaos, soak, silence)


def check_variety(chaos: Chaos, soak: Soak) -> None:
    """Enough of everything happened for the rest to mean something."""
    assert min(chaos.faults[fault] for fault in SLOW) >= 100
    assert min(soak.ends[end] for end in ("answered", "failed", "cancelled")) >= 200
    assert min(soak.statuses[status] for status in ("ok", "skipped", "fallback", "closed")) >= 100
    for what in ("refill", "cache hit", "circuit open", "inner trace", "timeout", "topped up"):
        assert soak.seen[what] >= 50, what


def check_effects(chaos: Chaos, soak: Soak, silence: Counter[str]) -> None:
    """The counters of side effects add up, among one another, with the calls that were made, and with the log."""
    started = set()
    for name, counts in soak.effects.items():
        started.add(counts.done + counts.failed + counts.dropped + counts.lost)
        tries = counts.done + counts.failed + counts.retried
        assert tries <= chaos.calls[name] <= tries + counts.lost
        assert counts.pending == 0
        assert silence[f"side effect failed: {name}"] == counts.failed
        assert silence[f"side effect dropped: {name}"] == counts.dropped
    (runs,) = started  # all three follow every answer
    answered = soak.ends["answered"] + 3
    assert answered <= runs <= answered + soak.ends["failed"] + soak.ends["cancelled"]
    assert (soak.effects["tell"].lost, soak.effects["store"].lost) == (0, 0)
    assert soak.effects["tell"].dropped > 0
    assert soak.effects["wait"].lost > 0
