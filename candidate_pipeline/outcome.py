"""The answer to a request, and everything needed to say why."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.cells import Cells
from candidate_pipeline.engine.trace import Trace
from candidate_pipeline.explain import Explanation, explain_item, lost_inside
from candidate_pipeline.keys import ITEM_ID, Column
from candidate_pipeline.merge import ids_meant
from candidate_pipeline.query import Query

if TYPE_CHECKING:
    from candidate_pipeline.engine.plan import Plan


@attrs.frozen(eq=False)
class ScoreStep:
    """What one scorer did to the score.

    Args:
        scorer: Its name.
        item_ids: The rows it scored, `int64[n]`.
        before: Their scores before, if there were any.
        after: Their scores after.
        by: The scorer's number in the plan.
        terms: The columns of score terms that it declares, as they were right after it.
        numbers: Which row of the sources' table each row is, where an item may have several, `intp[n]`.
    """

    scorer: str
    item_ids: NDArray[np.int64] = attrs.field(repr=False)
    before: Cells | None = attrs.field(repr=False)
    after: Cells = attrs.field(repr=False)
    by: int = -1
    terms: tuple[tuple[Column[Any], Cells], ...] = attrs.field(default=(), repr=False)
    numbers: NDArray[np.intp] | None = attrs.field(default=None, repr=False)


@attrs.frozen(eq=False)
class Outcome:
    """The answer to a request.

    Args:
        plan: The compiled pipeline that answered.
        query: The hydrated query.
        selected: The rows of the response, best first.
        unselected: Two tables of rows that were scored but not returned. Under the strict semantics: those past
            `result_size`, then those the selector left, in the table's order. Under the published one: those the
            selector left, by rank, then those past `result_size`.
        dropped: Tables of rows that filters dropped: one a stage, or, under the published semantics, one a filter.
        retrieved: The rows as the sources gave them; under the published semantics, after hydration.
        score_steps: What each scorer did, in order.
        trace: One record a component call, in running order, and which configuration answered.
        elapsed_ms: How long the request took, in milliseconds.
        inner: The outcomes of nested pipelines, by the name of their component (the second of a name that stands
            twice, as a source and as what tops up: `"name (2)"`).
        screened: For each of `dropped`, all rows that the stage (or filter) was given, the dropped ones marked.
        ranked: The rows that the selector was given first.
    """

    plan: Plan = attrs.field(repr=False)
    query: Query
    selected: Candidates
    unselected: tuple[Candidates, ...]
    dropped: tuple[Candidates, ...]
    retrieved: Candidates
    score_steps: tuple[ScoreStep, ...] = attrs.field(repr=False)
    trace: Trace = attrs.field(repr=False)
    elapsed_ms: float
    inner: Mapping[str, Outcome] = attrs.field(factory=dict, repr=False)
    screened: tuple[Candidates, ...] = attrs.field(default=(), repr=False)
    ranked: Candidates = attrs.field(factory=Candidates.empty, repr=False)

    @property
    def item_ids(self) -> NDArray[np.int64]:
        """The response's items, best first, `int64[k]`."""
        return self.selected[ITEM_ID]

    def explain(self, item: int | str) -> Explanation:
        """Why an item is where it is, or why it is not there: for selected, unselected and dropped rows alike.

        Args:
            item: The item's id; its text where ids are hashed texts; or its id as text.

        Raises:
            KeyError: No source returned it, not even one of a nested pipeline.
        """
        for item_id in ids_meant(item):
            found = explain_item(self, item_id)
            if found is not None:
                return found
            for name, outcome in self.inner.items():  # lost inside a nested pipeline
                try:
                    return lost_inside(self, name, outcome.explain(item_id))
                except KeyError:
                    continue
        named = repr(item) if isinstance(item, str) and not item.isalnum() else item
        sources = ", ".join(table_name for table_name in self.selected.source_names) or "none"
        raise KeyError(f"item {named} was not a candidate of this request: no source returned it (sources: {sources})")

    def why_short(self) -> str:
        """Why the response holds fewer rows than asked for, in a sentence; empty if it does not."""
        return self.trace.why_short()

    def to_dict(self) -> dict[str, Any]:
        """The response, its trace and its shown columns as plain data."""
        from candidate_pipeline.engine.shown import shown_rows

        return {
            "pipeline": self.plan.name,
            "request_id": self.query.request_id,
            "now": self.query.now.astimezone(dt.UTC).isoformat(),
            "seed": self.query.seed,
            "elapsed_ms": round(self.elapsed_ms, 3),
            "items": shown_rows(self),
            "config_hash": self.trace.config_hash,
            "plugins": dict(self.trace.plugins),
            "generation": self.trace.generation,
            "trace": [entry.as_dict() for entry in self.trace],
            "why_short": self.why_short(),
        }
