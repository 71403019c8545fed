"""Times of all variants for one model: every count of candidates, viewers never seen and viewers prepared."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import attrs
from ranker_models import CHUNK, Case, Work
from ranker_timing import Part, Program, Times, interleaved
from ranker_variants import (
    KNOWN,
    PUBLISHED,
    REFERENCE,
    Check,
    Variant,
    check,
    cold,
    histories,
    in_chunks,
    lists,
    logits_of,
    slack_of,
    warm,
)

from phoenix_recsys.requests import History, Items

#: About how long a timed part of a chunked baseline takes.
PART_SECONDS: Final = 0.3
#: Compiling for longer is worth a line.
SLOW: Final = 5.0
Say = Callable[[str], None]


@attrs.frozen
class Cell:
    """A variant at one count of candidates.

    Attributes:
        cold: from ids to probabilities for a viewer never seen before.
        warm: for a prepared viewer; None where preparing saves nothing.
        cold_flop, warm_flop: of its own products.
    """

    cold: Times
    warm: Times | None
    cold_flop: float
    warm_flop: float


Key = tuple[str, str]


@attrs.frozen
class Grid:
    """What was found for a model.

    Attributes:
        checks: by variant, the worst over the counts.
        cells: by variant and count of candidates.
    """

    checks: dict[Key, Check]
    cells: dict[tuple[Key, int], Cell]

    def best(self, name: str, count: int, *, warm: bool = False, precisions: tuple[str, ...] = ()) -> float | None:
        """Least seconds of a variant over its precisions; None where it was not timed."""
        found = []
        for (key, candidates), cell in self.cells.items():
            times = cell.warm if warm else cell.cold
            if key[0] == name and candidates == count and times and (not precisions or key[1] in precisions):
                found.append(times.best)
        return min(found, default=None)


def measure(case: Case, variants: list[Variant], seconds: float, say: Say) -> Grid:
    """Check all variants against the published forward in float32, then time those that passed."""
    size = case.size
    everybody = histories(case)
    checks: dict[Key, Check] = {}
    cells: dict[tuple[Key, int], Cell] = {}
    for count in sorted(size.candidates, reverse=True):  # the compiling peer sees the largest shape first
        say(f"{size.name}: {count} candidates")
        items = lists(case, count)
        reference = next(variant for variant in variants if (variant.name, variant.precision) == REFERENCE)
        wanted = logits_of(reference.server.score_prepared(reference.server.prepare(1, everybody[0]), items[0]))
        # Op by op, every new shape is compiled again for each operation: shown once.
        here = [variant for variant in variants if variant.name != "eager" or count == size.candidates[-1]]
        slack = 1.0
        for variant in here:
            key = (variant.name, variant.precision)
            start = time.perf_counter()
            found = check(variant, wanted, everybody[0], items[0], slack)
            if key == PUBLISHED:
                slack = slack_of(found)
                found = attrs.evolve(found, slack=slack)
            if (spent := time.perf_counter() - start) > SLOW:
                say(f"  {spent:.0f} s to compile {' '.join(key)}")
            if key not in checks or found.largest > checks[key].largest:
                checks[key] = found
        sound = [variant for variant in here if checks[variant.name, variant.precision].passed]
        for variant in sound:
            if variant.name == KNOWN:
                _make_known(variant, everybody, lists(case, count))
        programs: dict[str, Program] = {}
        for variant in sound:
            label = f"{variant.name} {variant.precision}"
            if variant.chunked:
                programs[f"{label} cold"] = _part(variant, everybody, items)
            else:
                programs[f"{label} cold"] = cold(variant, everybody, items)
            if variant.prepares:
                programs[f"{label} warm"] = warm(variant, everybody, items)
        say(f"  timing {len(programs)} programs")
        times = interleaved(programs, seconds)
        work = Work(case.config)
        for variant in sound:
            label = f"{variant.name} {variant.precision}"
            cells[(variant.name, variant.precision), count] = Cell(
                times[f"{label} cold"],
                times.get(f"{label} warm"),
                variant.flop(work, count, size.history, warm=False),
                variant.flop(work, count, size.history, warm=True),
            )
    return Grid(checks, cells)


def _make_known(variant: Variant, everybody: list[History], items: list[Items]) -> None:
    viewer = variant.server.prepare(1, everybody[0])
    for some in items:
        variant.server.score_prepared(viewer, some)


def _part(variant: Variant, everybody: list[History], items: list[Items]) -> Program:
    """As many chunks of the items as fit the time for a part; all of them, if they do."""
    chunks = -(-len(items[0]) // CHUNK)
    one = cold(variant, everybody, [in_chunks(some, 1) for some in items])
    one()
    start = time.perf_counter()
    one()
    fit = min(max(int(PART_SECONDS / (time.perf_counter() - start)), 1), chunks)
    run = cold(variant, everybody, [in_chunks(some, fit) for some in items])
    # The last chunk of all is padded and takes as long as the others.
    return Part(run, chunks / fit) if fit < chunks else run
