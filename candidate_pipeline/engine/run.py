"""Running one request through a plan."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import FAILED, NULL, Candidates, Cells
from candidate_pipeline.engine.calls import Calls, together
from candidate_pipeline.engine.checks import candidates_of, indices_of, mask_of, patch_of, query_patch_of
from candidate_pipeline.engine.plan import Node, Phase, Plan
from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.keys import ITEM_ID, SCORE
from candidate_pipeline.merge import merge
from candidate_pipeline.outcome import Outcome, ScoreStep
from candidate_pipeline.patches import Patch
from candidate_pipeline.query import Query
from candidate_pipeline.spec.model import Stage


async def run_plan(plan: Plan, query: Query, executor: Executor) -> Outcome:
    """Answer a query.

    Raises:
        RequestError: The request is wrong, or a component failed that must not.
    """
    started = asyncio.get_running_loop().time()
    deadline = None if plan.deadline is None else started + plan.deadline
    request = _Request(plan, query, Calls(plan.name, executor, deadline, started))
    try:
        return await request.run()
    finally:
        await request.calls.close()


@attrs.define(eq=False)
class _Request:
    plan: Plan
    query: Query
    calls: Calls
    dropped: list[Candidates] = attrs.field(factory=list)
    scores: list[ScoreStep] = attrs.field(factory=list)

    def _stage(self, stage: Stage) -> tuple[Phase, ...]:
        return self.plan.phases[stage]

    async def run(self) -> Outcome:
        await self._hydrate_query()
        later = [node for stage in self.plan.phases.values() for phase in stage for node in phase]
        self.calls.prepare([node for node in later if node.prepare is not None], self.query)
        table = await self._fetch()
        table = await self._hydrate("hydrators", table)
        table = await self._filter("filters", table)
        table = await self._score(table)
        chosen, rest = await self._select(table)
        chosen = await self._hydrate("post_selection_hydrators", chosen)
        chosen = await self._filter("post_selection_filters", chosen)
        size = self.plan.result_size
        selected = chosen if size is None else chosen.take(np.arange(min(size, len(chosen))))
        overflow = chosen.take(np.arange(len(selected), len(chosen)))
        return Outcome(
            plan=self.plan,
            query=self.query,
            selected=selected,
            unselected=(overflow, rest),
            dropped=tuple(self.dropped),
            score_steps=tuple(self.scores),
            trace=tuple(self.calls.trace),
            elapsed_ms=(asyncio.get_running_loop().time() - self.calls.started) * 1000,
        )

    async def _hydrate_query(self) -> None:
        for number, phase in enumerate(self._stage("query_hydrators")):
            query = self.query
            results = await together(
                {
                    node.index: self.calls.call(
                        node,
                        query,
                        (),
                        query_patch_of,
                        phase=number,
                        rows_out=lambda patch: len(patch.updates),
                    )
                    for node in phase
                }
            )
            for node in phase:
                result = results[node.index]
                if result is None:
                    why = next(entry.error for entry in reversed(self.calls.trace) if entry.component == node.name)
                    self.query = self.query.with_failed(node.written_features, f"{node.name}: {why}")
                else:
                    self.query = self.query.patched(result[1])
                    missing = [key for key in node.written_features if key not in result[1].updates]
                    self.query = self.query.with_failed(
                        [key for key in missing if not key.has_default and result[0] is not node],
                        f"the fallback {result[0].name} did not give it",
                    )

    async def _fetch(self) -> Candidates:
        nodes = [node for phase in self._stage("sources") for node in phase]
        results = await together(
            {node.index: self.calls.call(node, self.query, (), candidates_of, rows_out=len) for node in nodes}
        )
        tables, writers = [], []
        for node in nodes:
            result = results[node.index]
            tables.append(None if result is None else result[1])
            writers.append(node.index if result is None else result[0].index)
        table = merge([node.name for node in nodes], tables, writers)
        return _with_declared(table, [node for node in nodes if results[node.index]], nodes)

    async def _hydrate(self, stage: Stage, table: Candidates) -> Candidates:
        for number, phase in enumerate(self._stage(stage)):
            results = await together({node.index: self._patch(node, table, number) for node in phase})
            for node in phase:
                table = _apply(table, node, results[node.index])
        return table

    async def _patch(self, node: Node, table: Candidates, phase: int) -> tuple[Node, Candidates] | None:
        """The table with a component's cells in place of its own old ones, so that they are checked in its call."""

        def check(writer: Node, value: Any) -> Candidates:
            patch: Patch = patch_of(writer, value)
            return Candidates.of(ITEM_ID(table[ITEM_ID])).patched(patch, writer.index)

        return await self.calls.call(
            node, self.query, (table,), check, phase=phase, rows_in=len(table), rows_out=lambda _: len(table)
        )

    async def _filter(self, stage: Stage, table: Candidates) -> Candidates:
        for number, phase in enumerate(self._stage(stage)):
            (node,) = phase
            alive = table.alive
            view = table.take(alive) if node.listwise and not alive.all() else table
            failing = self._rows_with_failed_cells(node, view)

            def check(by: Node, value: Any, view: Candidates = view) -> NDArray[np.bool_]:
                return mask_of(by, value, len(view))

            result = await self._keep(node, view, check, number, int(alive.sum()))
            if result is None:
                continue
            by, keep = result
            keep = keep & ~failing if by.safety else keep | failing
            drop = np.zeros(len(table), np.bool_)
            if view is table:
                drop = ~keep
            else:
                drop[np.flatnonzero(alive)] = ~keep
            table = table.dropping(drop, by.index)
            self._note_filter(by, alive, table, int(failing.sum()))
        alive = table.alive
        if not alive.all():
            self.dropped.append(table.take(~alive))
            table = table.take(alive)
        return table

    async def _keep(
        self, node: Node, view: Candidates, check: Any, phase: int, rows: int
    ) -> tuple[Node, NDArray[np.bool_]] | None:
        result: tuple[Node, NDArray[np.bool_]] | None = await self.calls.call(
            node, self.query, (view,), check, phase=phase, rows_in=rows, rows_out=lambda _: rows
        )
        return result

    def _note_filter(self, node: Node, before: NDArray[np.bool_], table: Candidates, failing: int) -> None:
        note = ""
        if failing:
            what = "dropped" if node.safety else "kept"
            note = f"{failing} rows {what}: a column it reads failed there"
        last = self.calls.trace[-1]
        self.calls.trace[-1] = attrs.evolve(last, rows_in=int(before.sum()), rows_out=int(table.alive.sum()), note=note)

    def _rows_with_failed_cells(self, node: Node, view: Candidates) -> NDArray[np.bool_]:
        failing = np.zeros(len(view), np.bool_)
        for column in node.columns:
            if view.cells(column).state is not None:
                failing |= view.failed(column)
        return failing

    async def _score(self, table: Candidates) -> Candidates:
        for number, phase in enumerate(self._stage("scorers")):
            (node,) = phase
            result = await self._patch(node, table, number)
            before = table.cells(SCORE) if SCORE in table else None
            table = _apply(table, node, result)
            if result is None or SCORE not in table or SCORE not in result[0].writes:
                continue
            by = result[0]
            after = table.cells(SCORE)
            self.scores.append(ScoreStep(by.name, table[ITEM_ID], before, after))
            note = _score_note(after)
            if note:
                self.calls.trace[-1] = attrs.evolve(self.calls.trace[-1], note=note)
        return table

    async def _select(self, table: Candidates) -> tuple[Candidates, Candidates]:
        ((node,),) = self._stage("selector")
        result = await self.calls.call(
            node,
            self.query,
            (table,),
            lambda by, value: indices_of(by, value, len(table)),
            rows_in=len(table),
            rows_out=len,
        )
        if result is None:
            raise MisconfigurationError(f"the selector {node.name} was skipped")
        index = result[1]
        rest = np.ones(len(table), np.bool_)
        rest[index] = False
        return table.take(index), table.take(rest)


def _apply(table: Candidates, node: Node, result: tuple[Node, Candidates] | None) -> Candidates:
    """A table with a component's new cells, or with its columns marked failed."""
    if result is None:
        return table.with_failed(node.written_columns, node.index)
    by, new = result
    merged = table.overlaid(new, [column for column in new.columns if column is not ITEM_ID])
    missing = [column for column in node.written_columns if column not in merged]
    return merged.with_failed(missing, by.index) if missing and by is not node else merged.with_null(missing, by.index)


def _with_declared(table: Candidates, answered: list[Node], nodes: list[Node]) -> Candidates:
    """Columns that sources declare but nobody filled: failed where all their sources failed, else null."""
    good = {column for node in answered for column in node.written_columns}
    declared = list(dict.fromkeys(column for node in nodes for column in node.written_columns))
    missing = [column for column in declared if column not in table]
    first = nodes[0].index if nodes else -1
    return table.with_failed([column for column in missing if column not in good], first).with_null(
        [column for column in missing if column in good], first
    )


def _score_note(cells: Cells) -> str:
    nan = int(np.isnan(cells.values).sum())
    unscored = 0 if cells.state is None else int((cells.state == NULL).sum() + (cells.state == FAILED).sum())
    notes = [f"{nan} scores are NaN and rank last"] if nan else []
    return "; ".join(notes + ([f"{unscored} rows have no score"] if unscored else []))
