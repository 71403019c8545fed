"""How one request was ranked, in columns: what is compared when two rankings are, and what captures keep.

A ranking holds what became of every candidate, its scores before and after each scorer, and their terms; nothing of
the candidates' other columns. It turns into arrays and a header of plain data, and back, without losing a bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.cells import NO_WRITER, VALID, Cells, null_cells, read_only
from candidate_pipeline.errors import DataError
from candidate_pipeline.keys import ITEM_ID, SCORE, TOPPED_UP, Column
from candidate_pipeline.merge import ITEM_TEXT_ID
from candidate_pipeline.ordering import rank_order
from candidate_pipeline.what_if.ranking_record import check_record

if TYPE_CHECKING:
    from candidate_pipeline.candidates import Candidates
    from candidate_pipeline.outcome import Outcome

SELECTED: Final = 0
UNSELECTED: Final = 1
DROPPED: Final = 2

#: The version of `to_arrays`.
_VERSION: Final = 1


@attrs.frozen(eq=False)
class StepScores:
    """What one scorer did to the scores.

    Args:
        scorer: Its name.
        before: The scores before, `float32[n]`; NaN: the row had none, or was not there to be scored.
        after: The scores after, `float32[n]`; NaN as above.
    """

    scorer: str
    before: NDArray[np.float32] = attrs.field(converter=read_only, repr=False)
    after: NDArray[np.float32] = attrs.field(converter=read_only, repr=False)


@attrs.frozen(eq=False)
class TermScores:
    """The terms that one component wrote into one column.

    Args:
        column: The column's name.
        scorer: The component's name.
        factor: Whether the terms multiply; else they add up.
        labels: What each of them is called.
        values: `[n, labels]` of the column's float type (`float64` for integers); NaN where there is none.
    """

    column: str
    scorer: str
    factor: bool
    labels: tuple[str, ...]
    values: NDArray[np.floating[Any]] = attrs.field(converter=read_only, repr=False)


@attrs.frozen(eq=False, slots=False)
class Ranking:
    """How one request was ranked.

    One row a candidate: the selected ones, best first, then those that were not selected in the order in which they
    stand behind (what was cut off, then what the selector left, by score), then those that filters dropped, stage by
    stage. Under the published semantics several sources' rows of one item all stay, so an item may have several rows;
    in comparisons they are told apart by their order here, the item's first row being the first.

    Args:
        pipeline: The pipeline's name.
        request_id: The request's.
        config_hash: The hash of what decided how the pipeline ranks; empty if unknown.
        item_ids: The items, `int64[n]`.
        texts: Their text ids, empty where there is none; `None` if no item has one.
        fates: `uint8[n]` of `SELECTED`, `UNSELECTED` and `DROPPED`.
        filters: The names of the filters that dropped rows.
        dropped_by: The filter that dropped each row, an index into `filters`, -1 for none, `int16[n]`.
        scores: The final scores, `float32[n]`; NaN: unscored.
        steps: What each scorer did, in order.
        terms: The terms of the scores, in the order of the components that wrote them.
    """

    pipeline: str
    request_id: str
    config_hash: str
    item_ids: NDArray[np.int64] = attrs.field(converter=read_only, repr=False)
    texts: tuple[str, ...] | None = attrs.field(repr=False)
    fates: NDArray[np.uint8] = attrs.field(converter=read_only, repr=False)
    filters: tuple[str, ...]
    dropped_by: NDArray[np.int16] = attrs.field(converter=read_only, repr=False)
    scores: NDArray[np.float32] = attrs.field(converter=read_only, repr=False)
    steps: tuple[StepScores, ...] = ()
    terms: tuple[TermScores, ...] = ()

    @classmethod
    def of(cls, outcome: Outcome) -> Ranking:
        """How an answered request was ranked."""
        unselected = _behind(outcome)
        tables = [outcome.selected, *unselected, *outcome.dropped]
        counts = [
            len(outcome.selected),
            sum(len(table) for table in unselected),
            sum(len(table) for table in outcome.dropped),
        ]
        fates = np.repeat(np.array([SELECTED, UNSELECTED, DROPPED], np.uint8), counts)
        nodes = outcome.plan.nodes
        by = _joined([table.dropped_by for table in tables], np.int16)
        by = np.where(fates == DROPPED, by, np.int16(-1))
        droppers = np.unique(by[by >= 0]).tolist()
        names = tuple(dict.fromkeys(nodes[number].name for number in droppers))
        place = np.full(len(nodes) + 1, -1, np.int16)  # the last one is for -1
        for number in droppers:
            place[number] = names.index(nodes[number].name)
        item_ids = _joined([table[ITEM_ID] for table in tables], np.int64)
        scores = _joined([_values(table, SCORE) for table in tables], np.float32)
        row = _scored_rows(outcome, tables, item_ids, scores, by)
        return cls(
            pipeline=outcome.plan.name,
            request_id=outcome.query.request_id,
            config_hash=outcome.plan.config_hash,
            item_ids=item_ids,
            texts=_texts(tables),
            fates=fates,
            filters=names,
            dropped_by=place[by],
            scores=scores,
            steps=_steps(outcome, row),
            terms=_terms(outcome, tables, row),
        )

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def selected(self) -> int:
        """How many rows the response has; they are the first ones."""
        return int(np.count_nonzero(self.fates == SELECTED))

    @cached_property
    def ranked(self) -> int:
        """How many rows were not dropped; they come before those that were."""
        return int(np.count_nonzero(self.fates != DROPPED))

    @cached_property
    def occurrences(self) -> NDArray[np.intp]:
        """How often each row's item stood in rows before it, `intp[n]`."""
        order = np.argsort(self.item_ids, kind="stable")
        in_order = self.item_ids[order]
        count = np.empty(len(order), np.intp)
        count[order] = np.arange(len(order)) - np.searchsorted(in_order, in_order)
        return count

    @cached_property
    def _rows(self) -> dict[int, int]:
        """The first row of each item."""
        return {item: row for row, item in reversed(list(enumerate(self.item_ids.tolist())))}

    def row(self, item: int) -> int | None:
        """The first row of an item; `None` if it was no candidate."""
        return self._rows.get(item)

    def name(self, row: int) -> str:
        """What to call a row's item: its text id, or its id."""
        return (self.texts[row] if self.texts else "") or str(int(self.item_ids[row]))

    def identical(self, other: Ranking) -> bool:
        """Whether two rankings are the same to the last bit, NaNs included; which config ranked does not count."""
        header, arrays = self.to_arrays()
        headers, others = other.to_arrays()
        same = {**header, "config_hash": ""} == {**headers, "config_hash": ""} and arrays.keys() == others.keys()
        return same and all(
            array.dtype == others[name].dtype
            and array.shape == others[name].shape
            and array.tobytes() == others[name].tobytes()
            for name, array in arrays.items()
        )

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The ranking as a header of plain data, which JSON can hold, and named arrays, none of objects."""
        header: dict[str, Any] = {
            "version": _VERSION,
            "pipeline": self.pipeline,
            "request_id": self.request_id,
            "config_hash": self.config_hash,
            "filters": list(self.filters),
            "steps": [step.scorer for step in self.steps],
            "terms": [
                {"column": part.column, "scorer": part.scorer, "factor": part.factor, "labels": list(part.labels)}
                for part in self.terms
            ],
        }
        arrays: dict[str, NDArray[Any]] = {
            "item_ids": self.item_ids,
            "fates": self.fates,
            "dropped_by": self.dropped_by,
            "scores": self.scores,
        }
        if self.texts is not None:
            # A lone surrogate is no valid UTF-8, and an id may hold one all the same.
            parts = [text.encode("utf-8", "surrogatepass") for text in self.texts]
            arrays["texts"] = np.frombuffer(b"".join(parts), np.uint8)
            arrays["text_ends"] = np.cumsum([len(part) for part in parts], dtype=np.int64)
        for at, step in enumerate(self.steps):
            arrays[f"step{at}.before"], arrays[f"step{at}.after"] = step.before, step.after
        for at, part in enumerate(self.terms):
            arrays[f"terms{at}"] = part.values
        return header, arrays

    @classmethod
    def from_arrays(cls, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Ranking:
        """What `to_arrays` gave.

        Raises:
            DataError: The header or the arrays are not those of a ranking.
        """
        if header.get("version") != _VERSION:
            raise DataError(f"a ranking of version {_VERSION} was wanted, found {header.get('version')!r}")
        check_record(header, arrays, DROPPED)
        try:
            texts = _texts_of(arrays["texts"], arrays["text_ends"]) if "texts" in arrays else None
        except UnicodeDecodeError as error:
            raise DataError(f"the record of a ranking: texts: {error}") from error
        return cls(
            pipeline=header["pipeline"],
            request_id=header["request_id"],
            config_hash=header["config_hash"],
            item_ids=arrays["item_ids"],
            texts=texts,
            fates=arrays["fates"],
            filters=tuple(header["filters"]),
            dropped_by=arrays["dropped_by"],
            scores=arrays["scores"],
            steps=tuple(
                StepScores(scorer, arrays[f"step{at}.before"], arrays[f"step{at}.after"])
                for at, scorer in enumerate(header["steps"])
            ),
            terms=tuple(
                TermScores(part["column"], part["scorer"], part["factor"], tuple(part["labels"]), arrays[f"terms{at}"])
                for at, part in enumerate(header["terms"])
            ),
        )


def _behind(outcome: Outcome) -> list[Candidates]:
    """The tables of unselected rows, in the order in which they stand behind the selected ones."""
    first, second = outcome.unselected
    if outcome.plan.semantics == "upstream":  # the selector's tail by rank, and what was cut off before it
        return [second, first]
    return [first, second.take(rank_order(second))]


def _joined(parts: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *parts]).astype(dtype, copy=False)


def _values(table: Candidates, column: Column[Any]) -> NDArray[np.float32]:
    """A column of floats, NaN where it has no value."""
    if column not in table:
        return np.full(len(table), np.nan, np.float32)
    return _or_nan(table.cells(column))


def _or_nan(cells: Cells) -> NDArray[np.float32]:
    values = cells.values.astype(np.float32, copy=False)
    return values if cells.state is None else np.where(cells.state == VALID, values, np.float32(np.nan))


def _texts(tables: Sequence[Candidates]) -> tuple[str, ...] | None:
    texts: list[str] = []
    for table in tables:
        if ITEM_TEXT_ID not in table:
            texts += [""] * len(table)
            continue
        pairs = zip(table[ITEM_TEXT_ID], table.valid(ITEM_TEXT_ID), strict=True)
        texts += [str(text) if valid else "" for text, valid in pairs]
    return tuple(texts) if any(texts) else None


def _texts_of(encoded: NDArray[np.uint8], ends: NDArray[np.int64]) -> tuple[str, ...]:
    whole, starts = encoded.tobytes(), [0, *ends.tolist()]
    return tuple(whole[start:end].decode("utf-8", "surrogatepass") for start, end in itertools.pairwise(starts))


def _scored_rows(
    outcome: Outcome,
    tables: Sequence[Candidates],
    item_ids: NDArray[np.int64],
    scores: NDArray[np.float32],
    dropped_by: NDArray[np.int16],
) -> NDArray[np.intp]:
    """The row that each row of a ranking had when it was scored, -1 for none, `intp[n]`."""
    if not outcome.score_steps:
        return np.full(len(item_ids), -1, np.intp)
    nodes = outcome.plan.nodes
    # Not scored by this pipeline were the rows that fell before, and those that another one gave to top up.
    early = np.array([*(node.stage != "post_selection_filters" for node in nodes), False])[dropped_by]
    other = _joined([table[TOPPED_UP] if TOPPED_UP in table else np.zeros(len(table)) for table in tables], np.bool_)
    last = outcome.score_steps[-1]
    return _matched(item_ids, scores, ~early & ~other, last.item_ids, _or_nan(last.after))


def _steps(outcome: Outcome, row: NDArray[np.intp]) -> tuple[StepScores, ...]:
    """What each scorer did to the rows of a ranking."""
    names, steps = _scorer_names(outcome), []
    for step in outcome.score_steps:
        after = _or_nan(step.after)
        before = np.full(len(after), np.nan, np.float32) if step.before is None else _or_nan(step.before)
        steps.append(StepScores(names[step.by], _gathered(before, row), _gathered(after, row)))
    return tuple(steps)


def _scorer_names(outcome: Outcome) -> dict[int, str]:
    """The scorers' names by their numbers; the second of a name, which a shared fallback can be, is `"name (2)"`."""
    names: dict[int, str] = {}
    often: dict[str, int] = {}
    for step in outcome.score_steps:
        count = often[step.scorer] = often.get(step.scorer, 0) + 1
        names[step.by] = step.scorer if count == 1 else f"{step.scorer} ({count})"
    return names


def _gathered(values: NDArray[np.float32], row: NDArray[np.intp]) -> NDArray[np.float32]:
    return np.append(values, np.float32(np.nan))[row]


def _matched(
    item_ids: NDArray[np.int64],
    scores: NDArray[np.float32],
    scored: NDArray[np.bool_],
    among: NDArray[np.int64],
    finals: NDArray[np.float32],
) -> NDArray[np.intp]:
    """The row that each row had when it was scored, -1 for none, `intp[n]`.

    Rows of one item are told apart by their final scores, and those with equal scores by their order, which sorting
    keeps.
    """
    waiting: dict[int, list[int]] = {}
    for row, item in enumerate(among.tolist()):
        waiting.setdefault(item, []).append(row)
    found = np.full(len(item_ids), -1, np.intp)
    for at in np.flatnonzero(scored).tolist():
        rows = waiting.get(int(item_ids[at]), ())
        if not rows:
            continue
        same = (row for row in rows if finals[row].tobytes() == scores[at].tobytes())
        row = rows[0] if len(rows) == 1 else next(same, rows[0])
        waiting[int(item_ids[at])].remove(row)
        found[at] = row
    return found


def _terms(outcome: Outcome, tables: Sequence[Candidates], row: NDArray[np.intp]) -> tuple[TermScores, ...]:
    """The terms of all rows, apart for each component that wrote them."""
    nodes, scorers, found = outcome.plan.nodes, _scorer_names(outcome), []
    columns = {
        column: None for table in tables if len(table) for column in table.columns if column.terms_of is not None
    }
    for column in columns:
        cells = [
            null_cells(column, len(table), NO_WRITER) if column not in table else table.cells(column)
            for table in tables
        ]
        writers = _joined([part.writers() for part in cells], np.int16)
        valid = _joined([part.states() == VALID for part in cells], np.bool_)
        labels = _labels(column, tables)
        dtype = column.dtype if issubclass(column.dtype, np.floating) else np.float64
        values = np.full((len(valid), len(labels)), np.nan, dtype)
        start = 0
        for part in cells:
            rows = slice(start, start := start + len(part.values))
            if part.has_values:
                into = [labels.index(label) for label in part.labels] if column.labels else list(range(len(labels)))
                values[rows, into] = part.values.reshape(-1, len(into))
        for writer in np.unique(writers[valid]).tolist():
            mine = valid & (writers == writer)
            name = scorers.get(writer, nodes[writer].name if 0 <= writer < len(nodes) else "")
            own = np.where(mine[:, None], values, np.array(np.nan, dtype))
            found.append((writer, TermScores(column.name, name, column.factor, labels, own)))
    found += _overwritten(outcome, {(writer, part.column) for writer, part in found}, row)
    return tuple(part for _, part in sorted(found, key=lambda pair: pair[0]))


def _overwritten(outcome: Outcome, known: set[tuple[int, str]], row: NDArray[np.intp]) -> list[tuple[int, TermScores]]:
    """The terms of scorers after which another one wrote the same column, such as two uses of one class."""
    names, found = _scorer_names(outcome), []
    for step in outcome.score_steps:
        for column, cells in step.terms:
            mine = (cells.writers() == step.by) & (cells.states() == VALID)
            if (step.by, column.name) in known or column.terms_of is not SCORE or not mine.any():
                continue
            dtype = column.dtype if issubclass(column.dtype, np.floating) else np.float64
            labels = cells.labels if column.labels else _plain_labels(column)
            values = np.full((len(mine) + 1, len(labels)), np.nan, dtype)  # the last one is for -1
            values[:-1][mine] = cells.values.reshape(len(mine), -1)[mine]
            found.append((step.by, TermScores(column.name, names[step.by], column.factor, labels, values[row])))
    return found


def _labels(column: Column[Any], tables: Sequence[Candidates]) -> tuple[str, ...]:
    if column.labels:
        given = [table.labels(column) for table in tables if column in table and table.cells(column).has_values]
        return tuple(dict.fromkeys(label for labels in given for label in labels))
    return _plain_labels(column)


def _plain_labels(column: Column[Any]) -> tuple[str, ...]:
    """What to call the parts of a column that has no labels."""
    name = column.name.rpartition(".")[2]
    return (name,) if column.width is None else tuple(f"{name}[{at}]" for at in range(column.width))
