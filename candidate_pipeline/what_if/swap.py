"""The smallest change of a single number in a pipeline after which two items change places."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias

import attrs

from candidate_pipeline.errors import CandidatePipelineError, MisconfigurationError
from candidate_pipeline.keys import ITEM_ID, SCORE
from candidate_pipeline.merge import ids_meant
from candidate_pipeline.outcome import Outcome
from candidate_pipeline.what_if.contributions import Account
from candidate_pipeline.what_if.ranking import DROPPED, SELECTED, Ranking
from candidate_pipeline.what_if.swap_options import NumericOption, numeric_options
from candidate_pipeline.what_if.swap_search import Found, OptionSearch, Refused, Tried

#: Values without a bound are searched as far as so many times what they are measured against.
REACH: Final = 1000.0
#: A search stops after so many replays.
MAX_REPLAYS: Final = 5000


class Replays(Protocol):
    """What ranks one request again with other components: a `Replayer`."""

    def run(self, components: Mapping[str, Any]) -> Awaitable[Outcome] | Outcome:
        """The request's answer, where components of those names stand in for the pipeline's own."""


@attrs.frozen
class SwapOption:
    """What an option can do about the order of two items.

    Args:
        option: The option: `weighted.weights.reply`.
        value: Its value in effect.
        new: The value that swaps them, of as few digits as one has that is at most a hundredth further off than need
            be; `None`: none was found.
        boundary: The value up to which they keep their places, to a millionth of the change.
        change: By how much the option changes.
        relative: The change's size, relative to the value (of a table's entries, to their median size if that is
            more; of a number that is 0, to 1).
        lowest: The least value that was tried.
        highest: The largest.
        override: What `--set` takes to change it; `None`: the component is not in the spec by a name of its own.
        note: Why it cannot swap them.
    """

    option: str
    value: float
    new: float | None = None
    boundary: float | None = None
    change: float | None = None
    relative: float | None = None
    lowest: float = math.nan
    highest: float = math.nan
    override: str | None = None
    note: str = ""

    @property
    def swaps(self) -> bool:
        """Whether it can swap them."""
        return self.new is not None


@attrs.frozen
class SwapResult:
    """Which single changes make two items change places.

    Args:
        ahead: The name of the item that stands before the other.
        behind: The name of the other.
        rank_ahead: The rank of the former, from 1.
        rank_behind: The rank of the latter; `None`: it is not in the response.
        found: The options that can swap them, least relative change first.
        failed: Those that cannot.
        replays: How often the request was ranked again.
        complete: Whether every option was searched.
        reason: Why none can, if that is known beforehand.
    """

    ahead: str
    behind: str
    rank_ahead: int
    rank_behind: int | None
    found: tuple[SwapOption, ...] = ()
    failed: tuple[SwapOption, ...] = ()
    replays: int = 0
    complete: bool = False
    reason: str = ""

    @property
    def best(self) -> SwapOption | None:
        """The smallest change, if there is one."""
        return self.found[0] if self.found else None

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return attrs.asdict(self)


#: Is told after every option: the result so far, how many options were searched, and how many there are.
Progress: TypeAlias = Callable[[SwapResult, int, int], None]


async def smallest_swap(
    replayer: Replays,
    item_a: int | str,
    item_b: int | str,
    *,
    reach: float = REACH,
    max_replays: int = MAX_REPLAYS,
    progress: Progress | None = None,
) -> SwapResult:
    """The smallest change of a single number after which two items stand in the response the other way round.

    Numbers are all options of scorers and the selector (see `numeric_options`), each within its declared constraints.
    Swapped means that of the two the item that was behind, or not in the response, is in the response now, and the
    other one is behind it, or no more in the response. The first guess is where the scores would meet if they were
    linear in the option, taken from their terms or from a trial; then values are tried outwards in both directions,
    and where the order changes the boundary is found by bisection. Every value that is returned was tried: the request
    was ranked again with it. Where an option swaps the items, swaps them back and so on, as scorers that look at
    several rows can make it do, a swap between two values that were tried may be missed.

    Args:
        replayer: What ranks the request again.
        item_a: An item, by id or by text id.
        item_b: Another one.
        reach: How far values without a bound are tried, in multiples of what they are measured against.
        max_replays: After how many replays to stop; what was found up to then is returned.
        progress: Is told of each option's result.

    Raises:
        MisconfigurationError: The two are one item, one was no candidate, or neither is in the response.
    """
    search = _Search(replayer, reach=reach, max_replays=max_replays)
    outcome = await search.replay({})
    ranking = Ranking.of(outcome)
    rows = [_row(ranking, item) for item in (item_a, item_b)]
    items = [int(ranking.item_ids[row]) for row in rows]
    if items[0] == items[1]:
        raise MisconfigurationError(f"item {item_a} cannot change places with itself: name two items")
    if all(ranking.fates[row] != SELECTED for row in rows):
        raise MisconfigurationError(
            f"neither {item_a} nor {item_b} is in the response, so they have no places to change: name one that is"
        )
    (ahead, first), (behind, second) = sorted(zip(items, rows, strict=True), key=lambda pair: pair[1])
    result = SwapResult(
        ahead=ranking.name(first),
        behind=ranking.name(second),
        rank_ahead=first + 1,
        rank_behind=second + 1 if ranking.fates[second] == SELECTED else None,
        replays=1,
    )
    if ranking.fates[second] == DROPPED and not _was_scored(ranking, second):
        by = ranking.filters[ranking.dropped_by[second]]
        return attrs.evolve(result, complete=True, reason=f"{by} drops {result.behind} before anything is scored")
    search.begin(ahead, behind, outcome, ranking, first, second)
    return await search.run(result, numeric_options(outcome.plan), progress)


def _row(ranking: Ranking, item: int | str) -> int:
    for meant in ids_meant(item):
        row = ranking.row(meant)
        if row is not None:
            return row
    raise MisconfigurationError(f"item {item} was not a candidate of this request; its response: {_some(ranking)}")


def _some(ranking: Ranking) -> str:
    names = [ranking.name(row) for row in range(min(ranking.selected, 5))]
    return ", ".join(names) + (", ..." if ranking.selected > len(names) else "") or "empty"


def _was_scored(ranking: Ranking, row: int) -> bool:
    return any(not math.isnan(step.after[row]) for step in ranking.steps)


class _ExhaustedError(Exception):
    """All replays were used."""


@attrs.define(eq=False)
class _Search:
    replayer: Replays
    reach: float
    max_replays: int
    replays: int = 0
    ahead: int = 0
    behind: int = 0
    base: Tried = attrs.field(init=False)
    account: Account = attrs.field(init=False)
    rows: tuple[int, int] = (0, 0)

    def begin(self, ahead: int, behind: int, outcome: Outcome, ranking: Ranking, first: int, second: int) -> None:
        self.ahead, self.behind, self.rows = ahead, behind, (first, second)
        self.account = Account(ranking)
        self.base = self._tried(outcome, math.nan)

    async def replay(self, components: Mapping[str, Any]) -> Outcome:
        if self.replays >= self.max_replays:
            raise _ExhaustedError
        self.replays += 1
        outcome = self.replayer.run(components)
        return await outcome if inspect.isawaitable(outcome) else outcome

    async def run(self, result: SwapResult, options: list[NumericOption], progress: Progress | None) -> SwapResult:
        found: list[SwapOption] = []
        failed: list[SwapOption] = []
        for done, option in enumerate(options, 1):
            try:
                answer = await OptionSearch(option, self, self.reach, self._guess(option)).run()
            except _ExhaustedError:
                rest = [SwapOption(each.name, each.value, note="not searched") for each in options[done - 1 :]]
                return attrs.evolve(result, failed=(*failed, *rest), replays=self.replays)
            entry = _entry(option, answer)
            (found if entry.swaps else failed).append(entry)
            found.sort(key=lambda each: (each.relative or 0.0, abs(each.change or 0.0), each.option))
            result = attrs.evolve(result, found=tuple(found), failed=tuple(failed), replays=self.replays)
            if progress is not None:
                progress(result, done, len(options))
        return attrs.evolve(result, complete=True)

    async def attempt(self, option: NumericOption, value: float) -> Tried | Refused:
        """Rank the request again with a value of an option."""
        try:
            component = option.changed(value)
        except Exception as error:  # a component's own validation may raise anything
            return Refused(value, str(error))
        try:
            outcome = await self.replay({option.component: component})
        except CandidatePipelineError as error:
            return Refused(value, str(error))
        return self._tried(outcome, value)

    def _tried(self, outcome: Outcome, value: float) -> Tried:
        selected = outcome.item_ids.tolist()
        places = [selected.index(item) if item in selected else math.inf for item in (self.ahead, self.behind)]
        scores = [_score(outcome, item) for item in (self.ahead, self.behind)]
        return Tried(
            value=value,
            swapped=places[1] < places[0],
            gap=None if scores[0] is None or scores[1] is None else scores[0] - scores[1],
            mark=hash(tuple(_marks(outcome))),
        )

    def _guess(self, option: NumericOption) -> float | None:
        """Where the scores would meet if they were linear in an entry of a table that has a term; `None`: no idea."""
        if not option.value or len(option.path) < 2 or not self.base.gap:
            return None
        slopes = [_slope(self.account, row, option) for row in self.rows]
        slope = None if slopes[0] is None or slopes[1] is None else slopes[0] - slopes[1]
        return None if not slope else -self.base.gap / slope


def _slope(account: Account, row: int, option: NumericOption) -> float | None:
    """By how much a row's score rises with an option that its term is proportional to."""
    slope: float | None = None
    for scorer, stage in (account.stages(row) or {}).items():
        terms = [value for (_, _, label), value in stage.addends.items() if label == option.path[-1]]
        if scorer == option.component and terms:
            slope = sum(terms) / option.value
        elif stage.form == "set":
            slope = None
        if slope is not None:
            slope *= math.prod(stage.factors.values())
    return slope


def _score(outcome: Outcome, item: int) -> float | None:
    for table in (outcome.selected, *outcome.unselected, *outcome.dropped):
        at = table[ITEM_ID].tolist()
        if item in at and SCORE in table:
            score = float(table[SCORE][at.index(item)])
            return score if math.isfinite(score) else None
    return None


def _marks(outcome: Outcome) -> list[bytes]:
    """What tells apart two answers to one request: items and scores."""
    tables = [table for table in (outcome.selected, *outcome.unselected) if len(table)]
    ids = [table[ITEM_ID].tobytes() for table in tables]
    return ids + [table[SCORE].tobytes() for table in tables if SCORE in table]


def _entry(option: NumericOption, answer: Found) -> SwapOption:
    entry = SwapOption(option.name, option.value, lowest=answer.lowest, highest=answer.highest, note=answer.note)
    if answer.new is None:
        return entry
    change = answer.new - option.value
    return attrs.evolve(
        entry,
        new=answer.new,
        boundary=answer.boundary,
        change=change,
        relative=abs(change) / option.unit,
        override=option.override(answer.new),
    )
