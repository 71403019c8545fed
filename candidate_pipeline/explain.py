"""Why one candidate ended where it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import attrs
import numpy as np

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.cells import FAILED, NULL, VALID
from candidate_pipeline.keys import ITEM_ID, Column
from candidate_pipeline.ordering import ranks_of

if TYPE_CHECKING:
    from candidate_pipeline.outcome import Outcome

Fate = Literal["selected", "unselected", "dropped"]


@attrs.frozen
class CellInfo:
    """One column's cell: its value (`None` unless valid), state, and the component that wrote it."""

    column: str
    value: Any
    state: Literal["valid", "null", "failed"]
    writer: str


@attrs.frozen
class ScoreChange:
    """What one scorer did to the item: score and rank (from 1) before and after; `None` means unscored."""

    scorer: str
    before: float | None
    after: float | None
    rank_before: int | None
    rank_after: int


@attrs.frozen
class Terms:
    """The parts of a score: addends, or factors.

    Args:
        column: The column that holds them.
        scorer: Who wrote it.
        factor: Whether they multiply.
        values: By label, or by the column's name for a single value.
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


@attrs.frozen
class Explanation:
    """Why an item is where it is.

    Args:
        item_id: The item.
        fate: `selected`, `unselected` (scored, but not among the chosen) or `dropped`.
        rank: Its place in the response, from 1.
        sources: The sources that returned it.
        dropped_by: The filter that dropped it.
        stage: The stage it was dropped in.
        scores: What each scorer did.
        terms: The parts of its score.
        cells: Every column's cell.
        pipeline: The pipeline in which this became of it.
        inner: Why nested pipelines that returned it did so.
        within: The nested pipelines, by component and from the outside in, that it was lost inside of.
    """

    item_id: int
    fate: Fate
    rank: int | None
    sources: tuple[str, ...]
    dropped_by: str | None
    stage: str | None
    scores: tuple[ScoreChange, ...]
    terms: tuple[Terms, ...]
    cells: tuple[CellInfo, ...]
    pipeline: str = ""
    inner: tuple[Explanation, ...] = ()
    within: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The explanation as plain data."""
        return attrs.asdict(self)

    def __str__(self) -> str:
        """The explanation in a few lines of text."""
        where = {
            "selected": f"selected at rank {self.rank}",
            "unselected": "not selected",
            "dropped": f"dropped by {self.dropped_by} ({self.stage})",
        }[self.fate]
        inside = f" inside {' / '.join(self.within)}" if self.within else ""
        lines = [f"item {self.item_id}: {where}{inside}", f"  sources: {', '.join(self.sources) or 'none'}"]
        for change in self.scores:
            rank = f"rank {change.rank_before or '-'} -> {change.rank_after}"
            lines.append(f"  {change.scorer}: {_score(change.before)} -> {_score(change.after)}, {rank}")
        lines += [f"  {part.column} ({part.scorer}): {part}" for part in self.terms]
        for part in self.inner:
            lines += [f"  in {part.pipeline}:", *(f"    {line}" for line in str(part).splitlines()[1:])]
        return "\n".join(lines)


def _score(value: float | None) -> str:
    return "unscored" if value is None else f"{value:.6g}"


def explain_row(outcome: Outcome, fate: str, table: Candidates, row: int) -> Explanation:
    """The explanation of a row of one of an outcome's tables."""
    nodes = outcome.plan.nodes
    item_id = int(table[ITEM_ID][row])
    dropper = int(table.dropped_by[row])
    by = nodes[dropper] if fate == "dropped" else None
    return Explanation(
        item_id=item_id,
        fate=fate,  # type: ignore[arg-type]  # the outcome passes one of the three
        rank=row + 1 if fate == "selected" else None,
        sources=table.sources(row),
        dropped_by=None if by is None else by.name,
        stage=None if by is None else by.stage,
        scores=tuple(_changes(outcome, item_id)),
        terms=tuple(_terms(outcome, table, row)),
        cells=tuple(
            _cell(outcome, table, column, row) for column in sorted(table.columns, key=lambda column: column.name)
        ),
        pipeline=outcome.plan.name,
        inner=tuple(
            explain_row(within, "selected", within.selected, int(at[0]))
            for within in outcome.inner.values()
            if len(at := np.flatnonzero(within.selected[ITEM_ID] == item_id))
        ),
    )


def lost_inside(outcome: Outcome, component: str, found: Explanation) -> Explanation:
    """The explanation of an item that a nested pipeline had and the outer one never saw.

    Args:
        outcome: The outer pipeline's.
        component: The nested pipeline's component.
        found: What the nested pipeline says.
    """
    if found.fate != "selected":
        return attrs.evolve(found, within=(component, *found.within))
    # It was among what a pipeline offered to top up with, and there was no room for it.
    plan = outcome.plan
    return attrs.evolve(
        found,
        fate="unselected",
        rank=None,
        sources=(component,),
        scores=(),
        terms=(),
        pipeline=plan.name,
        inner=(found,),
    )


def _writer(outcome: Outcome, table: Candidates, column: Column[Any], row: int) -> str:
    writer = table.cells(column).writer
    number = writer if isinstance(writer, int) else int(writer[row])
    return outcome.plan.nodes[number].name if 0 <= number < len(outcome.plan.nodes) else "nobody"


def _cell(outcome: Outcome, table: Candidates, column: Column[Any], row: int) -> CellInfo:
    states = table.cells(column).states()
    state: Literal["valid", "null", "failed"] = "valid"
    if states[row] == NULL:
        state = "null"
    elif states[row] == FAILED:
        state = "failed"
    value = table.cells(column).plain(row, column) if state == "valid" else None
    return CellInfo(column.name, value, state, _writer(outcome, table, column, row))


def _changes(outcome: Outcome, item_id: int) -> list[ScoreChange]:
    changes = []
    for step in outcome.score_steps:
        at = np.flatnonzero(step.item_ids == item_id)
        if not len(at):
            continue
        row = int(at[0])
        before, after = step.before, step.after
        changes.append(
            ScoreChange(
                scorer=step.scorer,
                before=None if before is None or before.states()[row] != VALID else float(before.values[row]),
                after=None if after.states()[row] != VALID else float(after.values[row]),
                rank_before=None if before is None else int(ranks_of(before)[row]),
                rank_after=int(ranks_of(after)[row]),
            )
        )
    return changes


def _terms(outcome: Outcome, table: Candidates, row: int) -> list[Terms]:
    found = []
    for column in table.columns:
        if column.terms_of is None or table.cells(column).states()[row] != VALID:
            continue
        value = table[column][row]
        name = column.name.rpartition(".")[2]
        plain = (name,) if column.width is None else tuple(f"{name}[{at}]" for at in range(column.width))
        labels = table.labels(column) if column.labels else plain
        values = {label: float(x) for label, x in zip(labels, np.atleast_1d(value), strict=True)}
        found.append(Terms(column.name, _writer(outcome, table, column, row), column.factor, values))
    order = {node.name: node.index for node in outcome.plan.nodes}
    return sorted(found, key=lambda terms: order.get(terms.scorer, -1))
