"""The rows of a response as plain data, with the columns that the pipeline shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.cells import FAILED, VALID
from candidate_pipeline.keys import ITEM_ID, SCORE, Column

if TYPE_CHECKING:
    from candidate_pipeline.outcome import Outcome


def cell(table: Candidates, column: Column[Any], row: int) -> Any:
    """A cell as plain data: `None` for null, `"failed"` for failed, a dictionary for a labelled column."""
    cells = table.cells(column)
    if cells.state is not None and cells.state[row] != VALID:
        return "failed" if cells.state[row] == FAILED else None
    return cells.plain(row, column)


def shown_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """One dictionary a row: rank, item id, score, sources, and each shown column by name."""
    table = outcome.selected
    return [
        {
            "rank": row + 1,
            "item_id": int(table[ITEM_ID][row]),
            "score": cell(table, SCORE, row) if SCORE in table else None,
            "sources": list(table.sources(row)),
            "columns": {column.name: cell(table, column, row) for column in outcome.plan.show},
        }
        for row in range(len(table))
    ]
