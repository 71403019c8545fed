"""The search for the least change of one number after which an order changes."""

from __future__ import annotations

import decimal
import math
from collections.abc import Iterator
from typing import Final, Protocol

import attrs

from candidate_pipeline.what_if.swap_options import NumericOption

#: The first change that is tried, in multiples of what the option is measured against, and how changes grow.
FIRST: Final = 0.01
GROWTH: Final = 4.0
#: How near a boundary is found: in parts of the change.
NEAR: Final = 1e-6
#: How much further than need be a rounded value may be off.
ROUNDING: Final = 0.01
#: How near to values that are refused others are tried, in parts of the change.
EDGE: Final = 1e-3
#: How near the true boundary a guess is taken to be.
TRUST: Final = 1e-4


@attrs.frozen
class Tried:
    """What came of a value.

    Args:
        value: The value.
        swapped: Whether the items changed places.
        gap: How far the score of the item ahead is above the other's; `None`: one has none.
        mark: Equal for equal answers.
    """

    value: float
    swapped: bool
    gap: float | None
    mark: int


@attrs.frozen
class Refused:
    """A value that could not be tried, and why."""

    value: float
    why: str

    def __str__(self) -> str:
        return f"{self.value:.6g} was refused: {self.why}"


class Trials(Protocol):
    """What tries values, and knows what comes of the present one."""

    base: Tried

    async def attempt(self, option: NumericOption, value: float) -> Tried | Refused:
        """Rank the request again with a value of an option."""


@attrs.frozen
class Found:
    """What a search found.

    Args:
        lowest: The least value within reach.
        highest: The largest.
        new: The value, of few digits, that swaps the items; `None`: there is none.
        boundary: The least change that does.
        note: Why there is none.
    """

    lowest: float
    highest: float
    new: float | None = None
    boundary: float | None = None
    note: str = ""


@attrs.define
class _Side:
    """One direction: its sign, the value it ends at, how far that is, and the largest change that swapped nothing."""

    sign: int
    end: float
    room: float
    kept: float = 0.0
    refused: str = ""


@attrs.define(eq=False)
class OptionSearch:
    """The search over one option.

    Args:
        option: The option.
        trials: What tries values.
        reach: How far to go without a bound, in multiples of what the option is measured against.
        guess: By how much to change it at a first guess.
    """

    option: NumericOption
    trials: Trials
    reach: float
    guess: float | None = None
    known: dict[float, Tried | Refused] = attrs.field(factory=dict)
    sides: list[_Side] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        option = self.option
        far = self.reach * option.unit
        ends = min(option.upper, option.value + far), max(option.lower, option.value - far)
        self.sides = []
        for sign, end in zip((1, -1), ends, strict=True):
            room = max(self._whole(sign * (end - option.value)), 0.0)
            self.sides.append(_Side(sign, end if option.step is None else option.value + sign * room, room))

    async def run(self) -> Found:
        """Search."""
        matters = await self._matters()
        best = None
        if matters:
            await self._guessed()
            best = await self._outwards()
        up, down = self.sides
        found = Found(lowest=min(down.end, self.option.value), highest=max(up.end, self.option.value))
        if best is None:
            none = "it does not swap them" if matters else "it changes nothing here"
            return attrs.evolve(found, note="; ".join(self._refusals(matters)) or none)
        side, change = best
        boundary = self._value(side, change)
        return attrs.evolve(found, new=await self._rounded(side, change), boundary=boundary)

    def _refusals(self, searched: bool) -> list[str]:
        """Where and why the search ended before its end, or what it was refused from the beginning."""
        if searched:
            return [side.refused for side in self.sides if side.refused]
        return [str(answer) for answer in self.known.values() if isinstance(answer, Refused)][:1]

    def _whole(self, change: float) -> float:
        """A change in whole steps."""
        step = self.option.step
        return change if step is None else math.floor(change / step + 1e-9) * step

    def _value(self, side: _Side, change: float) -> float:
        value = side.end if change == side.room else self.option.value + side.sign * change
        return float(round(value)) if self.option.integer else value

    async def _try(self, value: float) -> Tried | Refused:
        if value not in self.known:
            self.known[value] = await self.trials.attempt(self.option, value)
        return self.known[value]

    async def _matters(self) -> bool:
        """Whether any of a few values makes any difference."""
        matters = False
        for side in self.sides:
            for change in self._far_and_near(side):
                answer = await self._try(self._value(side, change))
                if isinstance(answer, Tried):
                    matters = matters or answer.mark != self.trials.base.mark
                    if change < side.room:
                        break
        return matters

    def _far_and_near(self, side: _Side) -> list[float]:
        """The furthest change on a side and smaller ones, none of them nothing."""
        unit = self.option.unit
        changes = [side.room, *(self._whole(min(size, side.room)) for size in (unit, unit * FIRST))]
        return [change for change in dict.fromkeys(changes) if change > 0]

    async def _guessed(self) -> None:
        """Where there is no guess, guess from how the scores' distance changes with a small step."""
        gap = self.trials.base.gap
        if self.guess is not None or not gap:
            return
        for side in self.sides:
            change = self._whole(min(self.option.unit * FIRST, side.room)) or self.option.step or 0.0
            if 0 < change <= side.room:
                answer = await self._try(self._value(side, change))
                if isinstance(answer, Tried) and answer.gap is not None and answer.gap != gap:
                    self.guess = -gap * side.sign * change / (answer.gap - gap)
                    return

    def _changes(self, side: _Side) -> Iterator[float]:
        """The changes to try on one side."""
        change = self.option.unit * FIRST
        while change < side.room:
            yield change
            change *= GROWTH
        if side.room:
            yield side.room
        if self.guess is not None and self.guess * side.sign > 0:
            for near in (1 - TRUST, 1 + TRUST):
                yield abs(self.guess) * near

    async def _outwards(self) -> tuple[_Side, float] | None:
        """Try larger and larger changes on both sides, and find the boundary where one swaps the items."""
        steps = sorted(
            {(self._whole(change), number) for number, side in enumerate(self.sides) for change in self._changes(side)}
        )
        for change, number in steps:
            side, other = self.sides[number], self.sides[1 - number]
            if not 0 < change <= side.room:
                continue
            answer = await self._try(self._value(side, change))
            if isinstance(answer, Tried) and not answer.swapped:
                side.kept = change
                continue
            swapping = change if isinstance(answer, Tried) else await self._before_refusal(side, answer)
            if swapping is not None:
                return await self._nearer(side, await self._bisected(side, swapping), other)
        return None

    async def _before_refusal(self, side: _Side, refused: Refused) -> float | None:
        """A change that swaps the items, short of one that is refused; if none does, the side ends there."""
        limit = abs(refused.value - self.option.value)
        while limit - side.kept > max(limit * EDGE, self.option.step or 0.0):
            middle = self._whole((side.kept + limit) / 2)
            answer = await self._try(self._value(side, middle))
            if isinstance(answer, Refused):
                limit, refused = middle, answer
            elif answer.swapped:
                return middle
            else:
                side.kept = middle
        side.room, side.end = side.kept, self._value(side, side.kept)
        side.refused = str(refused)
        return None

    async def _nearer(self, side: _Side, change: float, other: _Side) -> tuple[_Side, float]:
        """The lesser of a change that swaps the items on one side, and of what may do so on the other."""
        opposite = self._whole(min(change, other.room))
        if opposite > other.kept:
            answer = await self._try(self._value(other, opposite))
            if isinstance(answer, Tried) and answer.swapped:
                found = await self._bisected(other, opposite)
                if found < change:
                    return other, found
        return side, change

    async def _bisected(self, side: _Side, swapping: float) -> float:
        """The least change on a side that swaps the items, between one that does not and one that does."""
        kept, step = side.kept, self.option.step
        while swapping - kept > max(NEAR * swapping, 1e-12 * self.option.unit):
            middle = (kept + swapping) / 2
            if step is not None:
                middle = self._whole(middle)
                if middle <= kept:
                    break
            answer = await self._try(self._value(side, middle))
            if isinstance(answer, Tried) and answer.swapped:
                swapping = middle
            else:
                kept = middle
        return swapping

    async def _rounded(self, side: _Side, change: float) -> float:
        """A value of as few digits as swap the items and are hardly further off."""
        exact = self._value(side, change)
        if self.option.step is not None:
            return exact
        outwards = decimal.ROUND_CEILING if side.sign > 0 else decimal.ROUND_FLOOR
        context = decimal.Context(prec=50, rounding=outwards)
        for digits in range(-6, 16):
            value = float(decimal.Decimal(exact).quantize(decimal.Decimal(1).scaleb(-digits), context=context))
            off = abs(value - self.option.value)
            if change <= off <= min(change * (1 + ROUNDING), side.room):
                answer = await self._try(value)
                if isinstance(answer, Tried) and answer.swapped:
                    return value
        return exact
