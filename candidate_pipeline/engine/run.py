"""Running one request through a plan: the strict semantics, and what both semantics share."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.cells import FAILED, NULL, VALID, Cells, overlay
from candidate_pipeline.engine.calls import Calls
from candidate_pipeline.engine.checks import candidates_of, indices_of, mask_of, patch_of, query_patch_of
from candidate_pipeline.engine.inline import Answer
from candidate_pipeline.engine.phase import run_phase
from candidate_pipeline.engine.plan import Node, Phase, Plan
from candidate_pipeline.engine.trace import ComponentTrace
from candidate_pipeline.errors import ContractError, MisconfigurationError, RequestError
from candidate_pipeline.keys import ITEM_ID, SCORE, TOPPED_UP, Column, key_names
from candidate_pipeline.merge import merge
from candidate_pipeline.outcome import Outcome, ScoreStep
from candidate_pipeline.patches import QueryPatch
from candidate_pipeline.spec.model import Stage

#: A refill takes so many of the selector's next rows for each row that is missing.
REFILL_FACTOR = 2


@attrs.define(eq=False)
class Request:
    """One request under the strict semantics.

    Args:
        plan: The plan.
        calls: Makes the calls.
        dropped: What filters dropped, one table a stage.
        screened: For each of them, all rows that the stage was given, the dropped ones marked.
        ranked: The rows that the selector was given.
        scores: What each scorer did.
        retrieved: What the sources returned.
    """

    plan: Plan
    calls: Calls
    dropped: list[Candidates] = attrs.field(factory=list)
    screened: list[Candidates] = attrs.field(factory=list)
    ranked: Candidates = attrs.field(factory=Candidates.empty)
    scores: list[ScoreStep] = attrs.field(factory=list)
    retrieved: Candidates = attrs.field(factory=Candidates.empty)

    def stage(self, stage: Stage) -> tuple[Phase, ...]:
        """A stage's phases; its budget starts."""
        self.calls.begin(stage)
        return self.plan.phases[stage]

    async def run(self) -> Outcome:
        """Answer.

        Raises:
            RequestError: The request is wrong, or a component failed that must not.
        """
        try:
            await self.hydrate_query()
            self.calls.prepare()
            self.retrieved = await self.fetch()
            table = await self.hydrate("hydrators", self.retrieved)
            table = await self.filter("filters", table)
            self.ranked = table = await self.score(table)
            selected, unselected = await self.finish(table)
        except RequestError as error:
            error.trace = self.calls.traced()
            raise
        finally:
            await self.calls.close()
        trace = self.calls.traced(len(selected))
        return Outcome(
            plan=self.plan,
            query=self.calls.query,
            selected=selected,
            unselected=unselected,
            dropped=tuple(self.dropped),
            screened=tuple(self.screened),
            ranked=self.ranked,
            retrieved=self.retrieved,
            score_steps=tuple(self.scores),
            trace=trace,
            elapsed_ms=trace.elapsed_ms,
            inner=self._inner(),
        )

    def _inner(self) -> dict[str, Outcome]:
        """The outcomes of nested pipelines by component: sources in their order, then what stood in or topped up."""
        outcomes = self.calls.inner
        if not outcomes:
            return {}
        listed = [node.index for phase in self.plan.phases["sources"] for node in phase]
        found: dict[str, Outcome] = {}
        for index in sorted(outcomes, key=lambda index: (index not in listed, index)):
            name, again = self.plan.nodes[index].name, 2
            while name in found:
                name, again = f"{self.plan.nodes[index].name} ({again})", again + 1
            found[name] = outcomes[index]
        return found

    async def hydrate_query(self) -> None:
        """Run the query hydrators."""
        calls = self.calls
        for number, phase in enumerate(self.stage("query_hydrators")):
            for node, answer in zip(
                phase, await run_phase(calls, phase, (), query_patch_answer, number=number), strict=True
            ):
                self._apply_features(node, answer)

    def _apply_features(self, node: Node, answer: Answer[QueryPatch]) -> None:
        calls = self.calls
        if answer.status == "skipped":
            why = next(entry.error for entry in reversed(calls.trace) if entry.component == answer.by.name)
            calls.query = calls.query.with_failed(node.written_features, f"{answer.by.name}: {why}")
        if answer.value is None:
            return
        calls.query = calls.query.patched(answer.value)
        if answer.by is not node:
            left = [key for key in node.written_features if key not in answer.value.updates]
            why = f"{answer.by.name}, which stood in for {node.name}, gave none"
            calls.query = calls.query.with_failed(left, why)

    async def fetch(self) -> Candidates:
        """Run the sources and merge what they return."""
        nodes = [node for phase in self.stage("sources") for node in phase]
        answers = await run_phase(self.calls, nodes, (), candidates_answer)
        try:
            table = merge(
                [node.name for node in nodes],
                [answer.value for answer in answers],
                [answer.by.index for answer in answers],
            )
        except ContractError as error:
            raise RequestError(f"pipeline {self.plan.name!r}: the sources' rows do not merge: {error}") from error
        return _with_declared(table, answers, nodes)

    async def hydrate(self, stage: Stage, table: Candidates) -> Candidates:
        """Run a stage of hydrators."""
        for number, phase in enumerate(self.stage(stage)):
            base = table
            check = _patched(base)
            answers = await run_phase(self.calls, phase, (base,), check, number=number, rows_in=len(base))
            table = _applied(table, phase, answers)
        return table

    async def filter(self, stage: Stage, table: Candidates) -> Candidates:
        """Run a stage of filters; the rows they keep. Rows are marked as they drop and taken out once, at the end."""
        phases, rows = self.stage(stage), len(table)
        alive, count = np.ones(rows, np.bool_), rows
        dropped_by = np.full(rows, -1, np.int16)
        for number, (node,) in enumerate(phases):
            whole = count == rows or not node.listwise
            view = table if whole else table.take(alive)
            check = _mask(view, alive if whole and count < rows else None)
            (answer,) = await run_phase(
                self.calls, (node,), (view,), check, number=number, rows_in=count, rows_if_skipped=count
            )
            if answer.value is None:
                continue
            keep, kept = answer.value
            if kept == count:
                continue
            if not whole:
                keep = _spread(keep, alive)
            np.copyto(dropped_by, answer.by.index, where=alive > keep)
            alive, count = alive & keep, kept
        if count == rows:
            return table
        marked = table.dropped_as(dropped_by)
        self.screened.append(marked)
        self.dropped.append(marked.take(~alive))
        return table.take(alive)

    async def score(self, table: Candidates) -> Candidates:
        """Run the scorers."""
        calls, steps = self.calls, self.scores
        written: list[tuple[ScoreStep, ComponentTrace]] = []
        item_ids = table[ITEM_ID]
        before = table.cells(SCORE) if SCORE in table else None
        for number, phase in enumerate(self.stage("scorers")):
            check = self.scorer_check(table)
            (answer,) = await run_phase(calls, phase, (table,), check, number=number, rows_in=len(table))
            table = self.apply_scores(table, phase[0], answer)
            if answer.value is not None and SCORE in answer.by.writes:
                after = table.cells(SCORE)
                terms = terms_of_step(table, answer.by)
                steps.append(ScoreStep(answer.by.name, item_ids, before, after, answer.by.index, terms, table.numbers))
                written.append((steps[-1], calls.trace[-1]))
                before = after
        if before is not None and _score_note(before):  # only then is it worth knowing who began it
            for step, entry in written:
                entry.note = "; ".join(note for note in (entry.note, _score_note(step.after)) if note)
        return table

    def scorer_check(self, table: Candidates) -> Any:
        """Checks a scorer's answer."""
        return _patched(table)

    def apply_scores(self, table: Candidates, node: Node, answer: Answer[Any]) -> Candidates:
        """The table after a scorer."""
        return _applied(table, (node,), [answer])

    async def select(self, table: Candidates) -> NDArray[np.intp] | None:
        """The selector's choice; `None` if its gate was closed."""
        ((node,),) = self.stage("selector")

        def check(by: Node, value: Any) -> tuple[NDArray[np.intp], int, str]:
            index = indices_of(by, value, len(table))
            return index, len(index), ""

        (answer,) = await run_phase(
            self.calls, (node,), (table,), check, rows_in=len(table), rows_if_skipped=len(table)
        )
        if answer.status == "skipped":
            raise MisconfigurationError(f"the selector {node.name} was skipped")
        return answer.value

    async def finish(self, table: Candidates) -> tuple[Candidates, tuple[Candidates, Candidates]]:
        """Select, hydrate and filter what was selected, refill, cut and top up: the response and the rest."""
        chosen, rest = _split(table, await self.select(table))
        size = self.plan.result_size
        target = len(chosen) if size is None else min(size, len(chosen))
        chosen = await self.hydrate("post_selection_hydrators", chosen)
        chosen = await self.filter("post_selection_filters", chosen)
        for round_ in range(1, self.plan.max_refills + 1):
            if len(chosen) >= target or not len(rest):
                break
            self.calls.refill = round_
            if self.calls.watch is not None:
                self.calls.watch.refill(round_, target - len(chosen))
            chosen, rest = await self._refill(chosen, rest, target - len(chosen))
        self.calls.refill = 0
        selected, overflow = chosen, chosen.take(np.empty(0, np.intp))
        if size is not None and len(chosen) > size:
            selected, overflow = chosen.take(np.arange(size)), chosen.take(np.arange(size, len(chosen)))
        if self.plan.top_up is not None:
            selected = await self._top_up(selected, self.plan.top_up)
            rest = rest.take(~np.isin(rest[ITEM_ID], selected[ITEM_ID]))  # what the other pipeline brought back
        return selected, (overflow, rest)

    async def _refill(self, chosen: Candidates, rest: Candidates, missing: int) -> tuple[Candidates, Candidates]:
        """Replace rows that were dropped after selection by the selector's next ones."""
        index = await self.select(rest)
        index = np.arange(len(rest)) if index is None else index
        taken, rest = _split(rest, index[: missing * REFILL_FACTOR])
        if not len(taken):
            return chosen, rest
        taken = await self.hydrate("post_selection_hydrators", taken)
        try:
            joined = Candidates.concat([chosen, taken])
        except ContractError as error:
            what = f"pipeline {self.plan.name!r}: the rows of a refill do not fit those before"
            raise RequestError(f"{what}: {error}") from error
        return await self.filter("post_selection_filters", joined), rest

    async def _top_up(self, selected: Candidates, node: Node) -> Candidates:
        """Fill a response that is too short from another pipeline; which rows came from there is a column."""
        wanted, size = self.plan.min_results or 0, len(selected)
        if size < wanted:
            self.calls.begin("top_up")
            (answer,) = await run_phase(self.calls, (node,), (), candidates_answer)
            if answer.value is not None:
                selected = self._topped_up(selected, answer.value, node, self.plan.result_size or wanted)
        topped = np.arange(len(selected)) >= size
        return selected.with_cells({TOPPED_UP: Cells(topped, None, node.index)})

    def _topped_up(self, selected: Candidates, found: Candidates, node: Node, size: int) -> Candidates:
        """A response with rows of another pipeline behind its own, none of them there or dropped before."""
        ids = found[ITEM_ID]
        taken = np.concatenate([selected[ITEM_ID], *(table[ITEM_ID] for table in self.dropped)])
        first = np.zeros(len(ids), np.bool_)
        first[np.unique(ids, return_index=True)[1]] = True  # the published semantics may return an item twice
        fresh = np.flatnonzero(first & ~np.isin(ids, taken))
        more = found.take(fresh[: size - len(selected)]).written_by(node.index)
        note = f"{_rows(len(more))} of {len(found)} fill the response"
        clashing = [column for column in more.columns if column in selected and _clash(selected, more, column)]
        if clashing:
            more = more.limited_to([column for column in more.columns if column not in clashing])
            note += f", without {key_names(clashing)}, whose labels differ"
        self.calls.trace[-1].note = note
        names = (*selected.source_names, node.name)
        bits = np.full(len(more), 1 << len(selected.source_names), np.uint64)
        return Candidates.concat([selected.with_sources(selected.source_bits, names), more.with_sources(bits, names)])


def terms_of_step(table: Candidates, node: Node) -> tuple[tuple[Column[Any], Cells], ...]:
    """The columns of score terms that a scorer declares, as they are right after it."""
    return tuple((column, table.cells(column)) for column in node.written_columns if column.terms_of is SCORE)


def _clash(one: Candidates, other: Candidates, column: Column[Any]) -> bool:
    """Whether two tables have values of a labelled column under different labels."""
    cells, others = one.cells(column), other.cells(column)
    return cells.labels != others.labels and cells.has_values and others.has_values


def _split(table: Candidates, index: NDArray[np.intp] | None) -> tuple[Candidates, Candidates]:
    """The rows of an index, and the others in their order."""
    if index is None:
        index = np.arange(len(table))
    rest = np.ones(len(table), np.bool_)
    rest[index] = False
    return table.take(index), table.take(rest)


def query_patch_answer(node: Node, value: Any) -> tuple[QueryPatch, int, str]:
    """Checks a query hydrator's answer."""
    patch = query_patch_of(node, value)
    return patch, len(patch.updates), ""


def candidates_answer(node: Node, value: Any) -> tuple[Candidates, int, str]:
    """Checks a source's answer."""
    table = candidates_of(node, value)
    return table, len(table), ""


def _patched(table: Candidates) -> Any:
    """Lays a component's cells over a table's, so that all that can be wrong with them is found in its call."""

    def check(node: Node, value: Any) -> tuple[dict[Any, Cells], int, str]:
        patch = patch_of(node, value)
        cells = table.overlaid(patch, node.index)
        failed = patch.failed_rows(len(table))
        if failed is None:
            return cells, len(table), ""
        for column in node.written_columns:  # a row that failed has failed for all that it was looked up for
            if column not in cells:
                new = Cells(column.blank(len(table)), np.where(failed, FAILED, NULL).astype(np.uint8), node.index)
                cells[column] = overlay(table.cells(column) if column in table else None, new, column)
        count = int(np.count_nonzero(failed))
        return cells, len(table) - count, f"{_rows(count)} failed"

    return check


def _mask(view: Candidates, alive: NDArray[np.bool_] | None) -> Any:
    """Checks a filter's answer: which rows to keep, and how many of those that are alive (`None`: all) that are."""

    def check(node: Node, value: Any) -> tuple[tuple[NDArray[np.bool_], int], int, str]:
        keep, note = mask_of(node, value, len(view)), ""
        failing = _rows_with_failed_cells(node, view)
        if failing is not None:
            keep = keep & ~failing if node.safety else keep | failing
            count = int(np.count_nonzero(failing if alive is None else failing & alive))
            what = "dropped" if node.safety else "kept"
            note = f"{_rows(count)} {what}: a column it reads failed there" if count else ""
        kept = int(np.count_nonzero(keep if alive is None else keep & alive))
        return (keep, kept), kept, note

    return check


def _spread(keep: NDArray[np.bool_], alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask over the rows that are alive as one over all rows."""
    whole = np.zeros(len(alive), np.bool_)
    whole[alive] = keep
    return whole


def _applied(table: Candidates, phase: Phase, answers: list[Answer[dict[Any, Cells]]]) -> Candidates:
    """A table with the new cells of a phase, or with columns marked failed; null where a gate was closed."""
    cells: dict[Any, Cells] = {}
    for answer in answers:
        if answer.value:
            cells.update(answer.value)
    if cells:
        table = table.with_cells(cells)
    for node, answer in zip(phase, answers, strict=True):
        if answer.status == "skipped":
            table = table.with_failed(node.written_columns, node.index)
            continue
        if answer.by is node and answer.value is not None and len(answer.value) == len(node.written_columns):
            continue  # it wrote all that it declares
        missing = [column for column in node.written_columns if column not in table]
        if missing:
            stood_in = answer.by is not node and answer.status == "ok"
            table = (table.with_failed if stood_in else table.with_null)(missing, answer.by.index)
    return table


def _with_declared(table: Candidates, answers: list[Answer[Candidates]], nodes: list[Node]) -> Candidates:
    """Columns that sources declare but nobody filled: null where one of their sources answered, else failed.

    Where all of them stayed out because their gates were closed, nothing failed, so the cells are null as well.
    """
    answered = {column for answer in answers if answer.status == "ok" for column in answer.by.written_columns}
    broken = {
        column
        for node, answer in zip(nodes, answers, strict=True)
        if answer.status == "skipped" or answer.by is not node
        for column in node.written_columns
    }
    for node in nodes:
        missing = [column for column in node.written_columns if column not in table]
        if missing:
            failed = [column for column in missing if column in broken and column not in answered]
            table = table.with_failed(failed, node.index)
            table = table.with_null([column for column in missing if column not in failed], node.index)
    return table


def _rows_with_failed_cells(node: Node, view: Candidates) -> NDArray[np.bool_] | None:
    """The rows in which a cell failed that a component reads; `None` if there are none."""
    failing: NDArray[np.bool_] | None = None
    for column in node.columns:
        if view.cells(column).state is not None:
            failed = view.failed(column)
            failing = failed if failing is None else failing | failed
    return failing


def _score_note(cells: Cells) -> str:
    nan = np.isnan(cells.values)
    if cells.state is None:
        count = int(np.count_nonzero(nan))
        return f"{_rows(count)} with a NaN score, ranked last" if count else ""
    scored = cells.state == VALID
    count, unscored = int(np.count_nonzero(nan & scored)), int(np.count_nonzero(~scored))
    notes = [f"{_rows(count)} with a NaN score, ranked last"] if count else []
    return "; ".join(notes + ([f"{_rows(unscored)} without a score"] if unscored else []))


def _rows(count: int) -> str:
    return f"{count} {'row' if count == 1 else 'rows'}"
