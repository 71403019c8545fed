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
from candidate_pipeline.engine.trace import ComponentTrace
from candidate_pipeline.explain import Explanation, explain_row, lost_inside
from candidate_pipeline.keys import ITEM_ID
from candidate_pipeline.merge import text_ids
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
    """

    scorer: str
    item_ids: NDArray[np.int64] = attrs.field(repr=False)
    before: Cells | None = attrs.field(repr=False)
    after: Cells = attrs.field(repr=False)


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
        trace: One record a component call, in running order.
        elapsed_ms: How long the request took, in milliseconds.
        inner: The outcomes of nested pipelines, by the name of their component (the second of a name that stands
            twice, as a source and as what tops up: `"name (2)"`).
    """

    plan: Plan = attrs.field(repr=False)
    query: Query
    selected: Candidates
    unselected: tuple[Candidates, ...]
    dropped: tuple[Candidates, ...]
    retrieved: Candidates
    score_steps: tuple[ScoreStep, ...] = attrs.field(repr=False)
    trace: tuple[ComponentTrace, ...] = attrs.field(repr=False)
    elapsed_ms: float
    inner: Mapping[str, Outcome] = attrs.field(factory=dict, repr=False)

    @property
    def item_ids(self) -> NDArray[np.int64]:
        """The response's items, best first, `int64[k]`."""
        return self.selected[ITEM_ID]

    def explain(self, item: int | str) -> Explanation:
        """Why an item is where it is, or why it is not there: for selected, unselected and dropped rows alike.

        Args:
            item: The item's id, or its text where ids are hashed texts.

        Raises:
            KeyError: No source returned it, not even one of a nested pipeline.
        """
        item_id = int(text_ids([item])[0]) if isinstance(item, str) else int(item)
        tables = [("selected", self.selected)]
        tables += [("unselected", table) for table in self.unselected]
        tables += [("dropped", table) for table in self.dropped]
        for fate, table in tables:
            at = np.flatnonzero(table[ITEM_ID] == item_id)
            if len(at):
                return explain_row(self, fate, table, int(at[0]))
        for name, outcome in self.inner.items():  # lost inside a nested pipeline
            try:
                return lost_inside(self, name, outcome.explain(item_id))
            except KeyError:
                continue
        sources = ", ".join(table_name for table_name in self.selected.source_names) or "none"
        raise KeyError(f"item {item} was not a candidate of this request: no source returned it (sources: {sources})")

    def why_short(self) -> str:
        """Why the response holds fewer rows than asked for, in a sentence; empty if it does not."""
        size = self.plan.result_size
        if len(self.selected) and (size is None or len(self.selected) >= size):
            return ""
        reasons = [f"{entry.component} failed ({entry.error})" for entry in self.trace if entry.status == "skipped"]
        reasons += [
            f"the gate of {entry.component} was closed ({entry.error})"
            for entry in self.trace
            if entry.status == "closed" and entry.stage == "sources"
        ]
        answered = [entry for entry in self.trace if entry.status == "ok"]
        fetched = sum(entry.rows_out for entry in answered if entry.stage == "sources")
        if fetched == 0:
            sources = {entry.component: None for entry in self.trace if entry.stage == "sources"}
            reasons.append(f"the sources returned nothing ({', '.join(sources)})")
        cuts: dict[str, int] = {}  # over all rounds of refilling
        for entry in answered:
            if entry.stage.endswith("filters") and entry.rows_in > entry.rows_out:
                cuts[entry.component] = cuts.get(entry.component, 0) + entry.rows_in - entry.rows_out
        most = sorted(cuts, key=lambda name: -cuts[name])[:3]
        reasons += [f"{name} dropped {cuts[name]}" for name in most]
        reasons += [
            f"{entry.component} chose {entry.rows_out} of {entry.rows_in}"
            for entry in answered
            if entry.stage == "selector" and entry.rows_in > entry.rows_out and not entry.refill
        ]
        wanted = "" if size is None else f" of at most {size}"
        found = f"{len(self.selected)}{wanted} rows out of {fetched} fetched"
        return f"{found}: {'; '.join(reasons)}" if reasons else found

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
            "trace": [entry.as_dict() for entry in self.trace],
            "why_short": self.why_short(),
        }
