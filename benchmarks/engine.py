"""What the engine costs beside the work: `python benchmarks/engine.py`.

One pipeline of 40 components over 54 columns is written three times: for the engine, as a plain numpy function, and
as loops over a list of attrs objects. All three must return the same items. They run in turn, many times, in one
process, and medians are compared. The engine's own cost is measured with components that do nothing: the slope of a
request's time over their number.
"""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import functools
import gc
import io
import json
import os
import platform
import pstats
import statistics
import tempfile
import time
import timeit
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import typer
from engine_idle import AsyncIdle, filtering, idle, idle_filters, idle_forty, idle_hydrators, idle_scorers
from engine_observers import watched
from engine_ways import COLUMNS, COMPONENTS, World, by_hand, by_objects, forty
from rich.console import Console
from rich.table import Table

from candidate_pipeline import ITEM_ID, App, Candidates, Context, Query

SIZES: Final = (100, 500, 1500, 5000)
#: What a time is: on the wall's clock, or the processor's time of the thread, which other processes do not add to.
CLOCKS: Final = {"wall": time.perf_counter_ns, "cpu": time.thread_time_ns}

console = Console()


async def timed(
    runs: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[], int]
) -> dict[str, list[float]]:
    """Microseconds of every run. All take turns, so that what disturbs the machine disturbs all.

    Each runs once untimed at its turn, so that none pays for what the one before it did to the caches.
    """
    for run in runs.values():
        for _ in range(3):
            await _called(run)
    gc.collect()
    gc.freeze()  # the worlds of the benchmark are not garbage of the requests
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            await _called(run)
            start = clock()
            await _called(run)
            times[name].append((clock() - start) / 1000)
    return times


async def _called(run: Callable[[], Any]) -> Any:
    result = run()
    return await result if isinstance(result, Coroutine) else result


async def compare(sizes: Sequence[int], repeats: int, clock: Callable[[], int]) -> dict[int, dict[str, list[float]]]:
    """Times of the three ways by number of candidates.

    Raises:
        AssertionError: They do not return the same items.
    """
    found = {}
    for size in sizes:
        world = World.of(size)
        listed = [list(zip(items.tolist(), scores.tolist(), strict=True)) for items, scores in world.fetched]
        async with forty(world) as app:
            pipeline = app["bench"]
            for viewer in range(5):
                answers = [(await pipeline.run(viewer=viewer)).item_ids.tolist()]
                answers += [by_hand(world, viewer), by_objects(world, listed, viewer)]
                assert answers[0] == answers[1] == answers[2], f"{size} candidates, viewer {viewer}: {answers}"
            runs: dict[str, Callable[[], Any]] = {
                "engine": functools.partial(pipeline.run, viewer=7),
                "numpy": functools.partial(by_hand, world, 7),
                "objects": functools.partial(by_objects, world, listed, 7),
            }
            found[size] = await timed(runs, repeats, clock)
    return found


async def pipelines(apps: Mapping[str, App], repeats: int, clock: Callable[[], int]) -> dict[str, list[float]]:
    """Times of requests to several pipelines."""
    async with contextlib.AsyncExitStack() as opened:
        for app in apps.values():
            await opened.enter_async_context(app)
        return await timed({name: app["bench"].run for name, app in apps.items()}, repeats, clock)


async def overhead(rows: int, counts: Sequence[int], repeats: int, clock: Callable[[], int]) -> dict[str, list[float]]:
    """Times of requests to pipelines of components that do nothing, named `"kind count"`."""
    apps = {"request": idle(rows), "forty": idle_forty(rows)}
    for count in counts:
        apps[f"sync hydrator {count}"] = idle(rows, hydrators=idle_hydrators(rows, count))
        apps[f"async hydrator {count}"] = idle(rows, hydrators=idle_hydrators(rows, count, AsyncIdle))
        apps[f"filter {count}"] = idle(rows, filters=idle_filters(rows, count))
        apps[f"scorer {count}"] = idle(rows, scorers=idle_scorers(rows, count))
    for name, read_all in (("one", False), ("all", True)):
        apps[f"read {name} unfiltered"] = filtering(rows, 0, read_all=read_all)
        apps[f"read {name} filtered"] = filtering(rows, 14, read_all=read_all)
    return await pipelines(apps, repeats, clock)


async def watching(rows: int, repeats: int, clock: Callable[[], int]) -> dict[str, list[float]]:
    """Times of requests to the pipeline of 40 components by what watches it."""
    with tempfile.TemporaryDirectory() as folder:
        apps = watched(World.of(rows), Path(folder))
        async with contextlib.AsyncExitStack() as opened:
            for app in apps.values():
                await opened.enter_async_context(app)
            runs = {name: functools.partial(app["bench"].run, viewer=7) for name, app in apps.items()}
            return await timed(runs, repeats, clock)


def own_code(rows: int, repeats: int) -> dict[str, float]:
    """What the components that do nothing take by themselves, in CPU microseconds: they build their answer."""
    query, context, table = Query(), Context("bench"), Candidates.of(ITEM_ID(np.arange(rows)))
    ((_, hydrator),), ((_, filter_),), ((_, scorer),) = (
        kind(rows, 1) for kind in (idle_hydrators, idle_filters, idle_scorers)
    )
    methods = {"sync hydrator": hydrator.hydrate, "filter": filter_.keep, "scorer": scorer.score}
    calls = 10 * repeats
    return {
        name: min(timeit.repeat(lambda m=method: m(query, table, context), number=calls, timer=time.process_time))  # type: ignore[misc]  # bound per method
        / calls
        * 1e6
        for name, method in methods.items()
    }


def summary(
    times: Mapping[str, list[float]], counts: Sequence[int], own: Mapping[str, float]
) -> list[tuple[str, float, str]]:
    """What the engine costs: a name, microseconds, and the goal."""
    median = {name: statistics.median(values) for name, values in times.items()}

    def slope(kind: str) -> float:
        return float(np.polyfit(counts, [median[f"{kind} {count}"] for count in counts], 1)[0])

    return [
        ("a request of a source and a selector", median["request"], ""),
        *(
            row
            for kind, name in (
                ("sync hydrator", "one more sync hydrator (one column)"),
                ("filter", "one more filter"),
                ("scorer", "one more scorer"),
            )
            for row in (
                (f"{name}, its own code included", slope(kind), ""),
                (f"{name}, less its own code", slope(kind) - own[kind], "8"),
            )
        ),
        ("one more async hydrator (one column)", slope("async hydrator"), "60"),
        (f"a request of {COMPONENTS} components", median["forty"], "1000"),
        ("14 filters over 54 columns, one column read after", _gap(median, "one"), "300"),
        ("14 filters over 54 columns, all columns read after", _gap(median, "all"), "300"),
    ]


def _gap(median: Mapping[str, float], what: str) -> float:
    return median[f"read {what} filtered"] - median[f"read {what} unfiltered"]


def configuration(rows: int, repeats: int, clock: str) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "components": COMPONENTS,
        "columns": len(COLUMNS),
        "overhead rows": rows,
        "repeats": repeats,
        "clock": clock,
    }


def show(
    settings: Mapping[str, Any],
    compared: Mapping[int, Mapping[str, list[float]]],
    costs: Sequence[tuple[str, float, str]],
    seen: Mapping[str, list[float]],
) -> None:
    """Print the tables."""
    console.print(", ".join(f"{name} {value}" for name, value in settings.items()))
    table = Table(title=f"A request of {COMPONENTS} components, median ms")
    for header in ("candidates", "engine", "numpy", "objects", "engine/numpy", "engine/objects"):
        table.add_column(header, justify="right")
    for size, times in compared.items():
        engine, plain, objects = (statistics.median(times[name]) / 1000 for name in ("engine", "numpy", "objects"))
        figures = [f"{ms:.3f}" for ms in (engine, plain, objects)]
        table.add_row(f"{size:,}", *figures, f"{engine / plain:.2f}", f"{engine / objects:.3f}")
    console.print(table)
    table = Table(title="What the engine costs, us")
    table.add_column("what")
    table.add_column("us", justify="right")
    table.add_column("goal below", justify="right")
    for name, cost, goal in costs:
        table.add_row(name, f"{cost:.1f}", goal)
    console.print(table)
    table = Table(title=f"A request of {COMPONENTS} components by what watches it")
    table.add_column("observer")
    table.add_column("us", justify="right")
    table.add_column("times unwatched", justify="right")
    plain = statistics.median(seen["nothing"])
    for name, taken in seen.items():
        cost = statistics.median(taken)
        table.add_row(name, f"{cost:.0f}", f"{cost / plain:.2f}")
    console.print(table)


async def profiled(size: int, runs: int) -> str:
    """Where the engine spends its time on the pipeline of 40 components."""
    async with forty(World.of(size)) as app:
        pipeline = app["bench"]
        await pipeline.run(viewer=7)
        profile = cProfile.Profile()
        profile.enable()
        for _ in range(runs):
            await pipeline.run(viewer=7)
        profile.disable()
    text = io.StringIO()
    pstats.Stats(profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(30)
    return text.getvalue()


def main(
    quick: Annotated[bool, typer.Option(help="Few sizes and repeats: to see that it runs.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each way.")] = 200,
    clock: Annotated[
        Literal["wall", "cpu"], typer.Option(help="What to time: cpu where other processes share the machine.")
    ] = "wall",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")] = None,
    profile: Annotated[bool, typer.Option(help="Print where the engine's time goes instead.")] = False,
) -> None:
    """Measure what the engine costs beside the work."""
    if profile:
        console.print(
            asyncio.run(profiled(100 if quick else 1500, 5 if quick else repeats)),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return
    sizes, counts, rows = ((100,), (0, 4), 100) if quick else (SIZES, (0, 10, 20, 40), 1500)
    settings = configuration(rows, repeats, clock)
    compared = asyncio.run(compare(sizes, repeats, CLOCKS[clock]))
    times = asyncio.run(overhead(rows, counts, repeats, CLOCKS[clock]))
    costs = summary(times, counts, own_code(rows, repeats))
    seen = asyncio.run(watching(rows, repeats, CLOCKS[clock]))
    show(settings, compared, costs, seen)
    if json_file is not None:
        raw = {
            "configuration": settings,
            "requests_us": compared,
            "overhead_us": times,
            "watched_us": seen,
            "costs_us": {name: cost for name, cost, _ in costs},
        }
        json_file.write_text(json.dumps(raw, indent=1), encoding="utf-8")
        console.print(f"wrote {json_file}")


if __name__ == "__main__":
    typer.run(main)
