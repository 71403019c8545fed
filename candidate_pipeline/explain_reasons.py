"""Why a row was selected, left or dropped, in words with the values that decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates, Row
from candidate_pipeline.cells import VALID
from candidate_pipeline.keys import ITEM_ID, SCORE, TOPPED_UP
from candidate_pipeline.ordering import ranks_of

if TYPE_CHECKING:
    from candidate_pipeline.engine.plan import Node
    from candidate_pipeline.engine.trace import ComponentTrace
    from candidate_pipeline.outcome import Outcome

#: How a drop is explained whose filter does not say why.
NO_REASON: Final = "no reason"


# Dropped rows


def drop_reason(outcome: Outcome, at: int, row: int) -> str:
    """Why a filter dropped a row, in its own words; or that it fails closed and a cell had failed.

    Args:
        outcome: The outcome.
        at: Which of its `dropped` tables the row is in.
        row: Its place there.
    """
    screened = outcome.screened[at]
    by = outcome.plan.nodes[int(outcome.dropped[at].dropped_by[row])]
    whole = int(np.flatnonzero(screened.dropped_by >= 0)[row])
    failed = [column for column in by.columns if by.safety and screened.failed(column)[whole]]
    if failed:
        column = failed[0]
        writer = int(screened.cells(column).writers()[whole])
        return f"{column.name} failed{_error_of(outcome, writer)}, and {by.name} fails closed"
    reason = getattr(by.component, "reason", None)
    if reason is None:
        return f"{NO_REASON}: {type(by.component).__name__} does not say why it drops a row"
    seen = _seen_by(outcome, by, screened)
    view = screened.take(seen)
    try:
        said = reason(outcome.query, Row(view, int(np.count_nonzero(seen[:whole]))))
    except Exception as error:
        return f"{NO_REASON}: {type(error).__name__}: {error}"
    if not isinstance(said, str):
        return f"{NO_REASON}: {type(by.component).__name__}.reason gave {said!r:.80}, not text"
    return " ".join(said.split()) or f"{NO_REASON}: {type(by.component).__name__}.reason gave no text"


def _seen_by(outcome: Outcome, by: Node, screened: Candidates) -> NDArray[np.bool_]:
    """The rows that were live when a filter ran: those that it or a later filter dropped, and those that all kept."""
    place: dict[int, int] = {}
    for at, (node,) in enumerate(outcome.plan.phases[by.stage]):  # type: ignore[index]  # a filter's place is a stage
        waiting = [node]
        while waiting:
            each = waiting.pop()
            place[each.index] = at
            waiting += each.fallbacks
    droppers = screened.dropped_by
    later = [number for number, at in place.items() if at >= place[by.index]]
    return (droppers < 0) | np.isin(droppers, later)


def _error_of(outcome: Outcome, writer: int) -> str:
    """What went wrong with the component that should have written a cell."""
    nodes = outcome.plan.nodes
    if not 0 <= writer < len(nodes):
        return ""
    name = nodes[writer].name
    error = next((entry.error for entry in outcome.trace if entry.component == name and entry.error), "")
    return f" ({name}: {error})" if error else f" ({name})"


def drop_round(outcome: Outcome, at: int) -> int:
    """In which round of refilling the rows of a `dropped` table were dropped, 0 for none."""
    stages = [_stage_of(outcome, table) for table in outcome.dropped[: at + 1]]
    if stages[-1] != "post_selection_filters" or outcome.plan.semantics == "upstream":
        return 0
    return stages.count("post_selection_filters") - 1


def _stage_of(outcome: Outcome, dropped: Candidates) -> str:
    return str(outcome.plan.nodes[int(dropped.dropped_by[0])].stage)


# Rows that were ranked


def chosen_round(outcome: Outcome, item_id: int) -> int:
    """In which round of refilling a row of the response, or one past its size, was chosen; 0: at first.

    There is a refill only after rows were dropped, so all rounds but the last have a table of what they screened.
    """
    last = max((entry.refill for entry in outcome.trace if entry.stage == "selector"), default=0)
    if not last:
        return 0
    stages = [_stage_of(outcome, table) for table in outcome.dropped]
    pairs = zip(outcome.screened, stages, strict=True)
    rounds = [screened for screened, stage in pairs if stage == "post_selection_filters"]
    found = (number for number, table in enumerate(rounds) if (table[ITEM_ID] == item_id).any())
    return next(found, last)


def selected_reason(outcome: Outcome, row: int, item_id: int, number: int | None) -> str:
    """How a row came into the response."""
    selected = outcome.selected
    if TOPPED_UP in selected and selected[TOPPED_UP][row] and outcome.plan.top_up is not None:
        filled = f"the pipeline {outcome.plan.top_up.name} filled the response with it"
        ranked = rank_text(outcome, item_id, number)
        return f"{filled}; by its own score here it was {ranked}" if ranked else filled
    ranked = rank_text(outcome, item_id, number)
    entry = _selector(outcome)
    if entry is None or entry.status == "closed":
        return f"{ranked}; no selector ran, so all were chosen"
    round_ = chosen_round(outcome, item_id)
    if round_:
        return f"{ranked}; {entry.component} chose it in refill {round_}, after rows were dropped from its first choice"
    return f"{ranked}; {entry.component} chose {entry.rows_out}"


def unselected_reason(outcome: Outcome, cut: bool, item_id: int, number: int | None) -> str:
    """Why a row that no filter dropped is not in the response.

    Args:
        outcome: The outcome.
        cut: Whether it was chosen and stood past the longest response.
        item_id: The item.
        number: The row's number, where an item may have several.
    """
    ranked = rank_text(outcome, item_id, number)
    entry = _selector(outcome)
    chooser = "the selector" if entry is None else entry.component
    if cut:
        return f"{ranked}; {chooser} chose it, but the response holds at most {outcome.plan.result_size}"
    kept = f"{ranked}; {chooser} kept {0 if entry is None else entry.rows_out}"
    refills = max((entry.refill for entry in outcome.trace if entry.stage == "selector"), default=0)
    if refills and entry is not None:
        taken = len(outcome.ranked) - entry.rows_out - len(outcome.unselected[1]) - _brought_back(outcome)
        kept += f", and {refills} {'refill' if refills == 1 else 'refills'} took {taken} more"
    return kept


def rank_text(outcome: Outcome, item_id: int, number: int | None) -> str:
    """`"rank 61 of 412 by score"`; empty for a row that the selector was not given."""
    table = outcome.ranked
    row = row_of(table, item_id, number)
    if row is None:
        return ""
    if SCORE not in table:
        return f"place {row + 1} of {len(table)}, none of them scored"
    cells = table.cells(SCORE)
    rank = int(ranks_of(cells, outcome.plan.semantics)[row])
    text = f"rank {rank} of {len(table)} by score"
    if cells.state is not None and cells.state[row] != VALID:
        return f"{text} (it has none)"
    return f"{text} (it is NaN)" if np.isnan(cells.values[row]) else text


def row_of(table: Candidates, item_id: int, number: int | None) -> int | None:
    """The row of an item, or the row with a number where an item may have several."""
    numbers = table.numbers
    same: Any = table[ITEM_ID] == item_id if number is None or numbers is None else numbers == number
    at = np.flatnonzero(same)
    return int(at[0]) if len(at) else None


def _selector(outcome: Outcome) -> ComponentTrace | None:
    """The call that made the first choice."""
    calls = [entry for entry in outcome.trace if entry.stage == "selector" and not entry.refill]
    return next((entry for entry in reversed(calls) if entry.status in {"ok", "closed"}), None)


def _brought_back(outcome: Outcome) -> int:
    """How many rows that were left another pipeline put into the response."""
    selected = outcome.selected
    if TOPPED_UP not in selected:
        return 0
    topped = selected[ITEM_ID][selected[TOPPED_UP]]
    return int(np.isin(topped, outcome.ranked[ITEM_ID]).sum())
