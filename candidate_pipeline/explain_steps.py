"""The exact account of one row's score: what each scorer's terms made of it, and what they do not explain."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs
import numpy as np

from candidate_pipeline.cells import VALID, Cells
from candidate_pipeline.keys import SCORE, Column, ColumnFamily

if TYPE_CHECKING:
    from candidate_pipeline.candidates import Candidates
    from candidate_pipeline.outcome import Outcome, ScoreStep

#: The label of what a scorer did to a score beyond its terms.
UNEXPLAINED: Final = "not explained by terms"
#: The label of a score that no scorer made: a source's, a hydrator's, another pipeline's.
GIVEN: Final = "given score"
#: The label of the step in which a scorer that does not read the score begins anew.
ANEW: Final = "begins anew"
#: The label of the step in which a scorer takes a score away.
REMOVED: Final = "score removed"

#: Terms explain a change if what is left is within so many rounding errors of float32.
_ROUNDINGS: Final = 8
_HALF_ULP: Final = 2.0**-24
_SMALLEST: Final = 2.0**-149


@attrs.frozen
class Step:
    """One line of an account.

    Args:
        label: The term's name, `UNEXPLAINED`, `GIVEN`, `ANEW` or `REMOVED`.
        scorer: The scorer, or what else wrote the score.
        operation: What it does to the total: `"set"`, `"add"` or `"multiply"`.
        amount: With what; `None`: there is no score.
        total: The score after it; `None`: there is none. The last total of each scorer is the score that it wrote.
    """

    label: str
    scorer: str
    operation: Literal["set", "add", "multiply"]
    amount: float | None
    total: float | None


@attrs.frozen
class Terms:
    """The parts of a score: addends, or factors.

    Args:
        column: The column that holds them, or the family whose members do.
        scorer: Who wrote it.
        factor: Whether they multiply.
        values: By label; by the column's name for a single value, or the member's for that of a family's member.
    """

    column: str
    scorer: str
    factor: bool
    values: dict[str, float]

    def __str__(self) -> str:
        """The parts that change anything: addends largest first, factors in order."""
        if self.factor:
            return " ".join(f"x {value:.4g} {name}" for name, value in self.values.items() if value != 1) or "x 1"
        addends = sorted(self.values.items(), key=lambda pair: -abs(pair[1]))
        return ", ".join(f"{name} {value:+.4g}" for name, value in addends if value) or "0"


def terms_at(column: Column[Any], cells: Cells, row: int, scorer: str) -> Terms:
    """The terms in a row's cell of a column."""
    name = column.name.rpartition(".")[2]
    plain = (name,) if column.width is None else tuple(f"{name}[{at}]" for at in range(column.width))
    labels = cells.labels if column.labels else plain
    values = {label: float(x) for label, x in zip(labels, np.atleast_1d(cells.values[row]), strict=True)}
    return Terms(column.name, scorer, column.factor, values)


def score_at(cells: Cells | None, row: int) -> float | None:
    """A row's score; `None` if it has none."""
    if cells is None or (cells.state is not None and cells.state[row] != VALID):
        return None
    return float(cells.values[row])


def place_in(step: ScoreStep, item_id: int, number: int | None) -> int | None:
    """Where a row stands among those that a scorer was given; `None` if it was not there."""
    same = step.item_ids == item_id if number is None or step.numbers is None else step.numbers == number
    at = np.flatnonzero(same)
    return int(at[0]) if len(at) else None


def step_terms(outcome: Outcome, step: ScoreStep, row: int) -> list[Terms]:
    """The terms that a scorer wrote for a row, in the order of its `writes`."""
    found = [
        (column, terms_at(column, cells, row, step.scorer))
        for column, cells in step.terms
        if _is_valid(cells, row) and _writer(cells, row) == step.by
    ]
    order = list(getattr(outcome.plan.nodes[step.by].component, "writes", ()))
    found.sort(key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))
    return joined(found)


def joined(found: Iterable[tuple[Column[Any], Terms]]) -> list[Terms]:
    """Terms with those of members of one family, where they follow each other and each has one value, put together."""
    terms: list[Terms] = []
    last: tuple[ColumnFamily[Any] | None, str] = (None, "")
    for column, part in found:
        family = column.family if column.row_shape(column.labels) == () else None
        if family is not None and last == (family, part.scorer):
            terms[-1] = attrs.evolve(terms[-1], values={**terms[-1].values, **part.values})
        else:
            terms.append(part if family is None else attrs.evolve(part, column=family.name))
        last = (family, part.scorer)
    return terms


def account(outcome: Outcome, table: Candidates, row: int, item_id: int, number: int | None) -> tuple[Step, ...]:
    """The steps by which a row came to its score.

    Args:
        outcome: The outcome.
        table: The outcome's table that the row is in.
        row: Its place there.
        item_id: Its item.
        number: Its number, where an item may have several rows.
    """
    steps: list[Step] = []
    total: float | None = None
    for each in outcome.score_steps:
        at = place_in(each, item_id, number)
        if at is None:
            continue
        before, after = score_at(each.before, at), score_at(each.after, at)
        if not _same(before, total):
            steps.append(_given(outcome, each.before, at, before))
        if _writer(each.after, at) == each.by:
            steps += _scored(outcome, each, at, before, after)
        total = after
    cells = table.cells(SCORE) if SCORE in table else None
    final = score_at(cells, row)
    if not _same(final, total):
        steps.append(_given(outcome, cells, row, final))
    return tuple(steps)


def _scored(outcome: Outcome, step: ScoreStep, row: int, before: float | None, after: float | None) -> Iterator[Step]:
    """What one scorer did to a row that it wrote a score for."""
    if after is None:
        if before is not None:
            yield Step(REMOVED, step.scorer, "set", None, None)
        return
    terms = step_terms(outcome, step, row)
    if not terms:
        yield from _unexplained(step.scorer, before, after)
        return
    total = before
    if before is None or SCORE not in outcome.plan.nodes[step.by].columns:
        total = 0.0
        if before is not None:
            yield Step(ANEW, step.scorer, "set", 0.0, 0.0)
    start = 0.0 if total is None else total
    steps, total, error = _applied(terms, start)
    done = [each for each in steps if each.amount != (1 if each.operation == "multiply" else 0)]
    if not _explains(total, after, error):
        yield from done
        yield from _unexplained(step.scorer, total, after)
    elif done:
        yield from done[:-1]
        yield attrs.evolve(done[-1], total=after)
    elif not _same(start, after) and steps:  # a factor that float32 rounds to 1
        yield attrs.evolve(steps[-1], total=after)
    elif before is None:
        yield Step(ANEW, step.scorer, "set", after, after)


def _applied(terms: list[Terms], total: float) -> tuple[list[Step], float, float]:
    """Terms applied to a score one after another; the last total, and how far rounding may have put it off."""
    steps, error = [], 0.0
    for part in terms:
        for label, amount in part.values.items():
            with np.errstate(all="ignore"):
                new = float(np.float64(total) * amount if part.factor else np.float64(total) + amount)
            if part.factor:
                error = error * abs(amount) + abs(new) * _HALF_ULP + abs(total) * _SMALLEST
            else:
                error += abs(amount) * _HALF_ULP
            total = new
            steps.append(Step(label, part.scorer, "multiply" if part.factor else "add", amount, total))
    return steps, total, error


def _unexplained(scorer: str, total: float | None, after: float) -> Iterator[Step]:
    """The step from a total to a score, if there is one to take."""
    if total is None or not math.isfinite(total) or not math.isfinite(after):
        if not _same(total, after):
            yield Step(UNEXPLAINED, scorer, "set", after, after)
    elif total != after:
        yield Step(UNEXPLAINED, scorer, "add", after - total, after)


def _explains(total: float, after: float, error: float) -> bool:
    """Whether a total is a score, to the rounding of its parts to float32."""
    with np.errstate(over="ignore"):
        if _same(float(np.float32(total)), after):
            return True
    if not (math.isfinite(total) and math.isfinite(after) and math.isfinite(error)):
        return False
    return abs(total - after) <= _ROUNDINGS * (error + abs(after) * _HALF_ULP + _SMALLEST)


def _same(one: float | None, other: float | None) -> bool:
    return one == other or (one is not None and other is not None and math.isnan(one) and math.isnan(other))


def _given(outcome: Outcome, cells: Cells | None, row: int, score: float | None) -> Step:
    """The step of a score that something other than a scorer wrote, or took away."""
    number = -1 if cells is None else _writer(cells, row)
    nodes = outcome.plan.nodes
    name = nodes[number].name if 0 <= number < len(nodes) else "nobody"
    return Step(REMOVED if score is None else GIVEN, name, "set", score, score)


def _is_valid(cells: Cells, row: int) -> bool:
    return cells.state is None or bool(cells.state[row] == VALID)


def _writer(cells: Cells, row: int) -> int:
    return cells.writer if isinstance(cells.writer, int) else int(cells.writer[row])
