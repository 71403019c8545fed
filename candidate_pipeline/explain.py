"""Why one candidate ended where it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import attrs
import numpy as np

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.cells import FAILED, NULL, VALID
from candidate_pipeline.explain_reasons import (
    chosen_round,
    drop_reason,
    drop_round,
    selected_reason,
    unselected_reason,
)
from candidate_pipeline.explain_steps import (
    UNEXPLAINED,
    Step,
    Terms,
    account,
    joined,
    place_in,
    score_at,
    step_terms,
    terms_at,
)
from candidate_pipeline.keys import ITEM_ID, SCORE, TOPPED_UP, Column
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
class Explanation:
    """Why an item is where it is.

    Args:
        item_id: The item.
        fate: `selected`, `unselected` (ranked, but not in the response) or `dropped`.
        rank: Its place in the response, from 1.
        sources: The sources that returned it.
        dropped_by: The filter that dropped it.
        stage: The stage it was dropped in.
        reason: Why, in words with the values that decided.
        scores: What each scorer did.
        terms: The parts of its score, in the order in which they were applied.
        account: What `steps` gives.
        cells: Every column's cell.
        pipeline: The pipeline in which this became of it.
        inner: Why nested pipelines that returned it did so.
        within: The nested pipelines, by component and from the outside in, that it was lost inside of.
        refill: The round of refilling in which it was chosen (or dropped after that); 0: at first.
        copies: How many rows the item had; this is about the one that came furthest. More than 1 only under the
            published semantics, which does not merge what several sources return.
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
    reason: str = ""
    account: tuple[Step, ...] = ()
    refill: int = 0
    copies: int = 1

    def steps(self) -> tuple[Step, ...]:
        """The score as an exact account, in order: each scorer's terms with running totals.

        What a scorer's terms do not account for is a step of its own, labelled `"not explained by terms"`. The last
        total of each scorer is the score that it wrote, so the last of all is the final score; within a scorer totals
        are sums and products of terms as they are stored, in float64.
        """
        return self.account

    def as_dict(self) -> dict[str, Any]:
        """The explanation as plain data."""
        data = attrs.asdict(self, filter=lambda attribute, _: attribute.name not in {"inner", "account"})
        data["steps"] = [attrs.asdict(step) for step in self.account]
        data["inner"] = [part.as_dict() for part in self.inner]
        return data

    @property
    def fate_text(self) -> str:
        """What became of it, in a few words."""
        where = {
            "selected": f"selected at rank {self.rank}",
            "unselected": "not selected",
            "dropped": f"dropped by {self.dropped_by} ({self.stage})",
        }[self.fate]
        inside = f" inside {' / '.join(self.within)}" if self.within else ""
        refill = f" in refill {self.refill}" if self.refill and self.fate == "dropped" else ""
        return where + refill + inside

    def __str__(self) -> str:
        """The explanation in a few lines of text."""
        lines = [f"item {self.item_id}: {self.fate_text}"]
        if self.reason:
            lines.append(f"  why: {self.reason}")
        lines.append(f"  sources: {', '.join(self.sources) or 'none'}")
        if self.copies > 1:
            lines.append(f"  rows of it: {self.copies}, of which this one came furthest")
        for change in self.scores:
            rank = f"rank {change.rank_before or '-'} -> {change.rank_after}"
            lines.append(f"  {change.scorer}: {_score(change.before)} -> {_score(change.after)}, {rank}")
        lines += [f"  {part.column} ({part.scorer}): {part}" for part in self.terms]
        termed = {part.scorer for part in self.terms}
        lines += [
            f"  {step.label} ({step.scorer}): {_score(step.amount)}"
            for step in self.account
            if step.label == UNEXPLAINED and step.scorer in termed
        ]
        for part in self.inner:
            lines += [f"  in {part.pipeline}:", *(f"    {line}" for line in str(part).splitlines()[1:])]
        return "\n".join(lines)


def _score(value: float | None) -> str:
    return "unscored" if value is None else f"{value:.6g}"


def explain_item(outcome: Outcome, item_id: int) -> Explanation | None:
    """The explanation of the row of an item that came furthest; `None` if the pipeline had none."""
    at = _first(outcome.selected, item_id)
    if at is not None:
        return explain_row(outcome, "selected", outcome.selected, at)
    strict = outcome.plan.semantics == "strict"
    # Those past the longest response came further than those that the selector left.
    for which in (0, 1) if strict else (1, 0):
        at = _first(outcome.unselected[which], item_id)
        if at is not None:
            cut = which == (0 if strict else 1)
            return explain_row(outcome, "unselected", outcome.unselected[which], at, cut=cut)
    for which in reversed(range(len(outcome.dropped))):
        at = _first(outcome.dropped[which], item_id)
        if at is not None:
            return explain_row(outcome, "dropped", outcome.dropped[which], at, drop=which)
    return None


def explain_row(
    outcome: Outcome, fate: Fate, table: Candidates, row: int, *, cut: bool = False, drop: int = 0
) -> Explanation:
    """The explanation of a row of one of an outcome's tables.

    Args:
        outcome: The outcome.
        fate: What became of the row.
        table: The table.
        row: Its place there.
        cut: Whether it was chosen and stood past the longest response.
        drop: Which of the `dropped` tables it is in, if it was dropped.
    """
    nodes = outcome.plan.nodes
    item_id = int(table[ITEM_ID][row])
    numbers = table.numbers
    number = None if numbers is None else int(numbers[row])
    by = nodes[int(table.dropped_by[row])] if fate == "dropped" else None
    refill = 0
    if fate == "dropped":
        reason, refill = drop_reason(outcome, drop, row), drop_round(outcome, drop)
    elif fate == "selected":
        reason = selected_reason(outcome, row, item_id, number)
    else:
        reason = unselected_reason(outcome, cut, item_id, number)
    if (fate == "selected" or cut) and not _is_topped_up(table, row):
        refill = chosen_round(outcome, item_id)
    return Explanation(
        item_id=item_id,
        fate=fate,
        rank=row + 1 if fate == "selected" else None,
        sources=table.sources(row),
        dropped_by=None if by is None else by.name,
        stage=None if by is None else by.stage,
        scores=tuple(_changes(outcome, item_id, number)),
        terms=tuple(_terms(outcome, table, row, item_id, number)),
        cells=tuple(
            _cell(outcome, table, column, row) for column in sorted(table.columns, key=lambda column: column.name)
        ),
        pipeline=outcome.plan.name,
        inner=tuple(
            explain_row(within, "selected", within.selected, at)
            for within in outcome.inner.values()
            if (at := _first(within.selected, item_id)) is not None
        ),
        reason=reason,
        account=account(outcome, table, row, item_id, number),
        refill=refill,
        copies=1 if numbers is None else int(np.count_nonzero(outcome.retrieved[ITEM_ID] == item_id)),
    )


def _first(table: Candidates, item_id: int) -> int | None:
    at = np.flatnonzero(table[ITEM_ID] == item_id)
    return int(at[0]) if len(at) else None


def _is_topped_up(table: Candidates, row: int) -> bool:
    return TOPPED_UP in table and bool(table[TOPPED_UP][row])


def lost_inside(outcome: Outcome, component: str, found: Explanation) -> Explanation:
    """The explanation of an item that a nested pipeline had and the outer one never saw.

    Args:
        outcome: The outer pipeline's.
        component: The nested pipeline's component.
        found: What the nested pipeline says.
    """
    if found.fate != "selected":
        return attrs.evolve(found, within=(component, *found.within))
    plan = outcome.plan
    inner = outcome.inner[component]
    topped = plan.top_up is not None and plan.top_up.inner is inner.plan and TOPPED_UP in outcome.selected
    if topped:
        filled = int(np.count_nonzero(outcome.selected[TOPPED_UP]))
        reason = f"{component} offered it to fill the response, at place {found.rank}; there was room for {filled}"
    else:
        names = {component, component.removesuffix(" (2)")}  # of a name that stands twice, as source and as top-up
        errors = (entry.error for entry in outcome.trace if entry.component in names and entry.error)
        reason = f"{component} returned it, but its answer was not used: {next(errors, 'it failed')}"
    return attrs.evolve(
        found,
        fate="unselected",
        rank=None,
        sources=(component,),
        scores=(),
        terms=(),
        account=(),
        pipeline=plan.name,
        inner=(found,),
        reason=reason,
        refill=0,
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


def _changes(outcome: Outcome, item_id: int, number: int | None) -> list[ScoreChange]:
    changes, semantics = [], outcome.plan.semantics
    for step in outcome.score_steps:
        row = place_in(step, item_id, number)
        if row is None:
            continue
        before, after = step.before, step.after
        changes.append(
            ScoreChange(
                scorer=step.scorer,
                before=score_at(before, row),
                after=score_at(after, row),
                rank_before=None if before is None else int(ranks_of(before, semantics)[row]),
                rank_after=int(ranks_of(after, semantics)[row]),
            )
        )
    return changes


def _terms(outcome: Outcome, table: Candidates, row: int, item_id: int, number: int | None) -> list[Terms]:
    """The terms that each scorer wrote for a row, and those of other columns and writers that it carries."""
    found: list[Terms] = []
    scorers = set()
    for step in outcome.score_steps:
        at = place_in(step, item_id, number)
        if at is not None:
            scorers.add(step.by)
            found += step_terms(outcome, step, at)
    order = {node.name: node.index for node in outcome.plan.nodes}
    others: list[tuple[Column[Any], Terms]] = []
    for column in table.columns:
        if column.terms_of is None or table.cells(column).states()[row] != VALID:
            continue
        if column.terms_of is not SCORE or int(table.cells(column).writers()[row]) not in scorers:
            others.append((column, terms_at(column, table.cells(column), row, _writer(outcome, table, column, row))))
    return found + joined(sorted(others, key=lambda pair: order.get(pair[1].scorer, -1)))
