"""One request under the semantics of the x-algorithm as published in May 2026, for conformance tests and auditors.

What differs from the strict semantics: query hydrators and hydrators of one stage all see the stage's beginning, and
their results are laid over one another in the order of declaration, nulls included; rows of several sources stand one
below the other, whoever returned them twice; what fails leaves old values behind and nothing is marked as failed; an
exception in a filter ends the request; rows that post-selection filters drop are not replaced.
"""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.cells import FAILED, NULL
from candidate_pipeline.engine.checks import mask_of, patch_of
from candidate_pipeline.engine.inline import Answer
from candidate_pipeline.engine.phase import run_phase
from candidate_pipeline.engine.plan import Node
from candidate_pipeline.engine.run import Request, candidates_answer, query_patch_answer
from candidate_pipeline.errors import RequestError
from candidate_pipeline.keys import ITEM_ID
from candidate_pipeline.ordering import rank_order
from candidate_pipeline.patches import Patch, QueryPatch
from candidate_pipeline.spec.model import Stage


@attrs.define(eq=False)
class UpstreamRequest(Request):
    """One request under the published semantics."""

    async def hydrate_query(self) -> None:
        """Run the query hydrators on the raw query, then the dependent ones on the merged one."""
        calls = self.calls
        stages: tuple[Stage, ...] = ("query_hydrators", "dependent_query_hydrators")
        for stage in stages:
            for phase in self.stage(stage):
                answers: list[Answer[QueryPatch]] = await run_phase(calls, phase, (), query_patch_answer)
                for answer in answers:
                    if answer.value is not None:
                        calls.query = calls.query.patched(answer.value)

    async def fetch(self) -> Candidates:
        """Run the sources and put their rows one below the other; every column of the plan is there, if only null."""
        nodes = [node for phase in self.stage("sources") for node in phase]
        answers = await run_phase(self.calls, nodes, (), candidates_answer)
        names = tuple(node.name for node in nodes)
        tables = []
        for at, answer in enumerate(answers):
            if answer.value is not None:
                rows = answer.value if answer.by.inner is None else _nothing_failed(answer.value)
                bits = np.full(len(rows), 1 << at, np.uint64)
                tables.append(rows.written_by(answer.by.index).with_sources(bits, names))
        if not tables:
            tables = [Candidates.empty().with_sources(np.empty(0, np.uint64), names)]
        try:
            table = Candidates.concat(tables)
        except Exception as error:
            raise RequestError(f"pipeline {self.plan.name!r}: the sources' rows do not merge: {error}") from error
        for node in self.plan.nodes:
            missing = [column for column in node.written_columns if column not in table and column is not ITEM_ID]
            table = table.with_null(missing, node.index)
        return table.numbered()  # which tells an item's rows apart

    async def hydrate(self, stage: Stage, table: Candidates) -> Candidates:
        """Run hydrators on one snapshot of the rows."""
        snapshot = table
        for number, phase in enumerate(self.stage(stage)):
            answers: list[Answer[Patch]] = await run_phase(
                self.calls, phase, (snapshot,), _overwriting(snapshot), number=number, rows_in=len(snapshot)
            )
            for node, answer in zip(phase, answers, strict=True):
                table = self.apply_scores(table, node, answer)
        if stage == "hydrators":
            self.retrieved = table
        return table

    def scorer_check(self, table: Candidates) -> Any:
        """Checks a scorer's answer."""
        return _overwriting(table)

    def apply_scores(self, table: Candidates, node: Node, answer: Answer[Any]) -> Candidates:
        """Every row that did not fail takes the component's values, nulls included."""
        if answer.value is None:
            return table
        return table.overwritten(answer.value, node.written_columns, answer.by.index)

    async def filter(self, stage: Stage, table: Candidates) -> Candidates:
        """Run filters one after another on what is left."""
        for number, phase in enumerate(self.stage(stage)):
            rows = len(table)

            def check(by: Node, value: Any, rows: int = rows) -> tuple[NDArray[np.bool_], int, str]:
                keep = mask_of(by, value, rows)
                return keep, int(np.count_nonzero(keep)), ""

            (answer,) = await run_phase(
                self.calls, phase, (table,), check, number=number, rows_in=rows, rows_if_skipped=rows
            )
            if answer.value is not None and not answer.value.all():
                marked = table.dropping(~answer.value, answer.by.index)
                self.screened.append(marked)
                self.dropped.append(marked.take(~answer.value))
                table = table.take(answer.value)
        return table

    async def finish(self, table: Candidates) -> tuple[Candidates, tuple[Candidates, Candidates]]:
        """Select, hydrate and filter what was selected, and cut: the response, and the selector's tail and the cut."""
        index = await self.select(table)
        if index is None:  # a selector that is not enabled lets everything through
            chosen, tail = table, table.take(np.empty(0, np.intp))
        else:
            order = rank_order(table, "upstream")
            chosen, tail = table.take(index), table.take(order[~np.isin(order, index)])
        chosen = await self.hydrate("post_selection_hydrators", chosen)
        chosen = await self.filter("post_selection_filters", chosen)
        size = self.plan.result_size
        kept = len(chosen) if size is None else min(size, len(chosen))
        return chosen.take(np.arange(kept)), (tail, chosen.take(np.arange(kept, len(chosen))))


def _nothing_failed(table: Candidates) -> Candidates:
    """A table of a nested pipeline with nulls for its failed cells, which the published semantics does not know."""
    cells = {column: table.cells(column) for column in table.columns}
    return table.with_cells(
        {
            column: attrs.evolve(each, state=np.where(each.state == FAILED, np.uint8(NULL), each.state))
            for column, each in cells.items()
            if each.state is not None and (each.state == FAILED).any()
        }
    )


def _overwriting(table: Candidates) -> Any:
    """Tries a component's values on a table, so that all that can be wrong with them is found in its call."""

    def check(node: Node, value: Any) -> tuple[Patch, int, str]:
        patch = patch_of(node, value)
        table.overwritten(patch, node.written_columns, node.index)
        failed = 0 if patch.failed is None else int(np.count_nonzero(patch.failed))
        return patch, len(table) - failed, f"{failed} rows failed" if failed else ""

    return check
