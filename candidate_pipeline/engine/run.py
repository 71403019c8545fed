"""Running one request through a plan."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Any, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.cells import VALID, Cells
from candidate_pipeline.engine.calls import Calls, together
from candidate_pipeline.engine.checks import candidates_of, indices_of, mask_of, patch_of, query_patch_of
from candidate_pipeline.engine.plan import Node, Phase, Plan
from candidate_pipeline.errors import ContractError, MisconfigurationError, RequestError
from candidate_pipeline.keys import ITEM_ID, SCORE, Column
from candidate_pipeline.merge import merge
from candidate_pipeline.outcome import Outcome, ScoreStep
from candidate_pipeline.query import Query
from candidate_pipeline.spec.model import Stage

#: A component's columns after it ran: its cells laid over those of the table.
NewCells: TypeAlias = dict[Column[Any], Cells]


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
        self.calls.prepare(
            [node for stage in self.plan.phases.values() for phase in stage for node in phase], self.query
        )
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
                    continue
                by, patch = result
                self.query = self.query.patched(patch)
                if by is not node:
                    left = [key for key in node.written_features if key not in patch.updates]
                    self.query = self.query.with_failed(left, f"{by.name}, which stood in for {node.name}, gave none")

    async def _fetch(self) -> Candidates:
        nodes = [node for phase in self._stage("sources") for node in phase]
        results = await together(
            {node.index: self.calls.call(node, self.query, (), candidates_of, rows_out=len) for node in nodes}
        )
        answers = [results[node.index] for node in nodes]
        try:
            table = merge(
                [node.name for node in nodes],
                [None if answer is None else answer[1] for answer in answers],
                [
                    node.index if answer is None else answer[0].index
                    for node, answer in zip(nodes, answers, strict=True)
                ],
            )
        except ContractError as error:
            raise RequestError(f"pipeline {self.plan.name!r}: the sources' rows do not merge: {error}") from error
        return _with_declared(table, [answer[0] for answer in answers if answer is not None], nodes)

    async def _hydrate(self, stage: Stage, table: Candidates) -> Candidates:
        for number, phase in enumerate(self._stage(stage)):
            results = await together({node.index: self._patch(node, table, number) for node in phase})
            for node in phase:
                table = _apply(table, node, results[node.index])
        return table

    async def _patch(self, node: Node, table: Candidates, phase: int) -> tuple[Node, NewCells] | None:
        """A component's cells laid over the table's, so that all that can be wrong with them is found in its call."""

        def check(writer: Node, value: Any) -> NewCells:
            patch = patch_of(writer, value)
            patched = table.patched(patch, writer.index)
            return {column: patched.cells(column) for column in patch.updates}

        return await self.calls.call(
            node, self.query, (table,), check, phase=phase, rows_in=len(table), rows_out=lambda _: len(table)
        )

    async def _filter(self, stage: Stage, table: Candidates) -> Candidates:
        for number, phase in enumerate(self._stage(stage)):
            (node,) = phase
            table = await self._drop(node, table, number)
        alive = table.alive
        if not alive.all():
            self.dropped.append(table.take(~alive))
            table = table.take(alive)
        return table

    async def _drop(self, node: Node, table: Candidates, phase: int) -> Candidates:
        """The table with one filter's drops marked."""
        alive = table.alive
        before = int(alive.sum())
        view = table.take(alive) if node.listwise and before < len(table) else table

        def check(by: Node, value: Any) -> NDArray[np.bool_]:
            return mask_of(by, value, len(view))

        result = await self.calls.call(
            node, self.query, (view,), check, phase=phase, rows_in=before, rows_if_skipped=before
        )
        if result is None:
            return table
        by, keep = result
        failing = _rows_with_failed_cells(by, view)
        keep = keep & ~failing if by.safety else keep | failing
        drop = ~alive
        drop[alive if view is not table else slice(None)] = ~keep
        table = table.dropping(drop, by.index)
        note = ""
        count = int((failing if view is not table else failing & alive).sum())
        if count:
            note = f"{_rows(count)} {'dropped' if by.safety else 'kept'}: a column it reads failed there"
        self.calls.trace[-1] = attrs.evolve(self.calls.trace[-1], rows_out=int(table.alive.sum()), note=note)
        return table

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


def _rows_with_failed_cells(node: Node, view: Candidates) -> NDArray[np.bool_]:
    failing = np.zeros(len(view), np.bool_)
    for column in node.columns:
        if view.cells(column).state is not None:
            failing |= view.failed(column)
    return failing


def _apply(table: Candidates, node: Node, result: tuple[Node, NewCells] | None) -> Candidates:
    """A table with a component's new cells, or with its columns marked failed."""
    if result is None:
        return table.with_failed(node.written_columns, node.index)
    by, cells = result
    table = table.with_cells(cells)
    missing = [column for column in node.written_columns if column not in table]
    return table.with_null(missing, by.index) if by is node else table.with_failed(missing, by.index)


def _with_declared(table: Candidates, answered: list[Node], nodes: list[Node]) -> Candidates:
    """Columns that sources declare but nobody filled: failed where all their sources failed, else null."""
    given = {column for node in answered for column in node.written_columns}
    for node in nodes:
        missing = [column for column in node.written_columns if column not in table]
        table = table.with_null([column for column in missing if column in given], node.index)
        table = table.with_failed([column for column in missing if column not in given], node.index)
    return table


def _score_note(cells: Cells) -> str:
    scored = cells.states() == VALID
    nan = int(np.isnan(cells.values[scored]).sum())
    unscored = int((~scored).sum())
    notes = [f"{_rows(nan)} with a NaN score, ranked last"] if nan else []
    return "; ".join(notes + ([f"{_rows(unscored)} without a score"] if unscored else []))


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"
