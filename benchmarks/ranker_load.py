"""Many requests at once: merged by the batcher, or one by one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import attrs
import numpy as np
from ranker_models import Case
from ranker_variants import backend_of

from phoenix_recsys.backend import Precision, RankerBackend
from phoenix_recsys.batch_options import BatchOptions, Expired, Refused
from phoenix_recsys.batching import Batcher
from phoenix_recsys.requests import Items, Scores

DEADLINE: Final = 0.1
#: Candidates of a request, with how many requests a device call may hold.
LOADS: Final = ((16, (1, 8, 32)), (64, (1, 4, 16)), (512, (1, 2, 4)))
BURST: Final = 2000
OVERLOADS: Final = (0.7, 1.5)
Request = tuple[Any, Items]


@attrs.frozen
class Load:
    """How requests fared.

    Attributes:
        way: how they were served.
        candidates: items of each.
        offered: requests a second that arrived, or None for all at once.
        answered: results a second.
        p50, p99: seconds until a result, of those that got one.
        kept: share of all requests that had a result before their deadline; None without deadlines.
        refused, expired: share that was turned away at once, and that was dropped in the queue.
        fill: mean requests in a device call.
    """

    way: str
    candidates: int
    offered: float | None
    answered: float
    p50: float
    p99: float
    kept: float | None
    refused: float
    expired: float
    fill: float


def measure(
    case: Case,
    *,
    precision: Precision = "bfloat16",
    loads: Sequence[tuple[int, tuple[int, ...]]] = LOADS,
    burst: int = BURST,
    seconds: float = 3.0,
    viewers: int = 200,
) -> list[Load]:
    """A burst of requests, then random arrivals below and above what serving them one by one could bear."""
    found = []
    for candidates, buckets in loads:
        sizes = {"candidate_buckets": (candidates,), "batch_buckets": buckets}
        backend = backend_of(case, "kv_cache", precision, most_new_events=0, **sizes)
        backend.warm_up()
        ready = [backend.prepare(user, case.history(seed=user)) for user in range(1, viewers + 1)]
        lists = [case.items(candidates, seed=seed) for seed in range(64)]
        gc.collect()
        gc.freeze()  # lest a walk over everything imported stall requests for longer than their deadline
        requests = [
            (viewer, items)
            for viewer, items in zip(
                itertools.cycle(ready), itertools.islice(itertools.cycle(lists), burst), strict=False
            )
        ]
        ways = {
            "one by one": functools.partial(_one_by_one, backend, 1),
            "one by one, 2 threads": functools.partial(_one_by_one, backend, 2),
            "batcher": functools.partial(_batched, backend, buckets),
        }
        bursts = [asyncio.run(serve(way, requests, candidates, None, None)) for way, serve in ways.items()]
        found += bursts
        capacity = bursts[0].answered
        for factor in OVERLOADS:
            rate = factor * capacity
            some = [requests[index % len(requests)] for index in range(int(np.clip(rate * seconds, 50, 4 * burst)))]
            found += [
                asyncio.run(ways[way](way, some, candidates, rate, DEADLINE)) for way in ("one by one", "batcher")
            ]
    return found


async def _one_by_one(
    backend: RankerBackend,
    threads: int,
    way: str,
    requests: Sequence[Request],
    candidates: int,
    rate: float | None,
    deadline: float | None,
) -> Load:
    loop = asyncio.get_running_loop()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:

        async def submit(request: Request, _: float | None) -> Scores:
            return await loop.run_in_executor(pool, backend.score_prepared, *request)

        return await _driven(way, submit, requests, candidates, rate, deadline, lambda: 1.0)


async def _batched(
    backend: RankerBackend,
    buckets: tuple[int, ...],
    way: str,
    requests: Sequence[Request],
    candidates: int,
    rate: float | None,
    deadline: float | None,
) -> Load:
    options = BatchOptions(
        max_size=buckets[-1], buckets=buckets, max_queue=max(len(requests), buckets[-1]), include_own_run=True
    )
    async with Batcher[Request, Scores](backend.score_many, options) as batcher:

        async def submit(request: Request, until: float | None) -> Scores:
            return await batcher.submit(request, deadline=until, key=id(request[0]))

        return await _driven(
            way, submit, requests, candidates, rate, deadline, lambda: batcher.metrics().mean_fill * buckets[-1]
        )


async def _driven(
    way: str,
    submit: Callable[[Request, float | None], Awaitable[Scores]],
    requests: Sequence[Request],
    candidates: int,
    rate: float | None,
    deadline: float | None,
    fill: Callable[[], float],
) -> Load:
    """Submit all at once, or at random times at a mean rate whether earlier ones have ended or not."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    outcomes = {"refused": 0, "expired": 0, "kept": 0}

    async def one(request: Request, arrived: float) -> None:
        try:
            await submit(request, None if deadline is None else arrived + deadline)
        except Refused:
            outcomes["refused"] += 1
            return
        except Expired:
            outcomes["expired"] += 1
            return
        latencies.append(loop.time() - arrived)
        outcomes["kept"] += deadline is None or latencies[-1] <= deadline

    rng = np.random.default_rng(0)
    gaps = np.zeros(len(requests)) if rate is None else rng.exponential(1 / rate, len(requests))
    start = loop.time()
    tasks = []
    for request, arrival in zip(requests, start + np.cumsum(gaps), strict=True):
        if (left := arrival - loop.time()) > 0:
            await asyncio.sleep(left)
        # Latency counts from when a request was due, not from when a busy loop came to send it.
        tasks.append(loop.create_task(one(request, float(arrival))))
    await asyncio.gather(*tasks)
    elapsed = loop.time() - start
    total = len(requests)
    p50, p99 = np.percentile(latencies, (50, 99)) if latencies else (float("nan"), float("nan"))
    return Load(
        way,
        candidates,
        rate,
        len(latencies) / elapsed,
        float(p50),
        float(p99),
        None if deadline is None else outcomes["kept"] / total,
        outcomes["refused"] / total,
        outcomes["expired"] / total,
        fill(),
    )
