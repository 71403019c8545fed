"""Timing several programs in turns, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

#: A program that takes less is run once untimed at its turn, to not pay for what the one before it did to caches
#: and to the other libraries' threads, which spin for a while.
SHORT: Final = 0.25
MOST_ROUNDS: Final = 200
#: Seconds that nobody is given more of.
LONG: Final = 20.0


@attrs.define
class Times:
    """How long a program took.

    Attributes:
        seconds: of every timed run, scaled to the whole where a run was a part of it.
        whole: how many parts make the whole; 1 unless extrapolated.
        spent: seconds given to it, untimed runs included.
    """

    seconds: list[float] = attrs.field(factory=list)
    whole: float = 1.0
    spent: float = 0.0

    @property
    def best(self) -> float:
        """The least."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    @property
    def extrapolated(self) -> bool:
        """Whether a run was only a part of the whole."""
        return self.whole > 1


@attrs.frozen
class Part:
    """A program of which only a part is timed.

    Attributes:
        run: the part.
        whole: how many times as long the whole takes.
    """

    run: Callable[[], Any]
    whole: float


Program = Callable[[], Any] | Part


def interleaved(
    programs: Mapping[str, Program],
    seconds: float,
    *,
    least_rounds: int = 3,
    most_rounds: int = MOST_ROUNDS,
    before: Mapping[str, Callable[[], Any]] | None = None,
) -> dict[str, Times]:
    """Time programs in rounds, a b c a b c, until all have had their share of time.

    Args:
        programs: by name.
        seconds: given to each, untimed runs included; whoever has used it up sits out the further rounds.
        least_rounds: timed at least, unless that takes longer than `LONG` seconds.
        most_rounds: timed at most.
        before: what to do, untimed, before each run of a program.
    """
    times = {
        name: Times(whole=program.whole if isinstance(program, Part) else 1.0) for name, program in programs.items()
    }
    for name, program in programs.items():
        _once(program, (before or {}).get(name), times[name])  # compiles and allocates; not counted
        times[name].spent = 0.0
    gc.collect()
    gc.freeze()  # what is loaded is not garbage of the requests
    for turn in range(most_rounds):
        going = [name for name, found in times.items() if _goes_on(found, turn, seconds, least_rounds)]
        if not going:
            break
        for name in going:
            found, program, prepare = times[name], programs[name], (before or {}).get(name)
            if not found.seconds or found.best / found.whole < SHORT:
                _once(program, prepare, found)
            found.seconds.append(_once(program, prepare, found) * found.whole)
    return times


def _goes_on(found: Times, turn: int, seconds: float, least: int) -> bool:
    if not found.seconds:
        return True
    return found.spent < (LONG if turn < least else seconds)


def _once(program: Program, prepare: Callable[[], Any] | None, found: Times) -> float:
    if prepare is not None:
        prepare()
    run = program.run if isinstance(program, Part) else program
    start = time.perf_counter()
    run()
    elapsed = time.perf_counter() - start
    found.spent += elapsed
    return elapsed
