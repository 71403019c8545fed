"""What a pipeline and its parts make of a target, all read from one run for its user at its time.

The request's clock is the target's time, so the pipeline knows what came strictly before and nothing else. One
outcome holds the columns of every candidate, chosen or not, and so gives the rankings of the parts as well:

- the pipeline: the response, then the rows past `result_size`, then those that the selector left, by score;
- retrieval alone: what retrieval returned and the filters before scoring kept, by `phoenix.retrieval_score`;
- retrieval + log popularity: the same rows by cosine / temperature + ln(favourites in the training part + 1);
- the ranker alone over retrieval: the best 200 of these rows by the predicted probability of a favourite;
- the ranker alone: every candidate of the pipeline by that probability.

A target that is not among the rows of a ranking is not found, and counts 0 in every metric.
"""

from __future__ import annotations

import datetime as dt
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline import ITEM_ID, SCORE, Candidates, Column, MisconfigurationError, Outcome, rank_order
from candidate_pipeline.app import Pipeline
from candidate_pipeline.registry import Registry
from candidate_pipeline_feed.evaluation.cases import Originals
from candidate_pipeline_feed.evaluation.metrics import NOT_FOUND, rank_among, rank_in_list
from candidate_pipeline_feed.evaluation.splits import POSITIVE
from candidate_pipeline_feed.keys import PREDICTIONS, VIEWER_ID

Float64 = NDArray[np.float64]

RETRIEVAL_SCORE: Final = "phoenix.retrieval_score"
"""The column of retrieval's cosines; looked up by name, as this distribution does not depend on the one that has it."""

PIPELINE: Final = "pipeline"
RETRIEVAL: Final = "retrieval alone"
RETRIEVAL_POPULARITY: Final = "retrieval + log popularity"
RANKER_RETRIEVED: Final = "ranker over retrieval's 200"
RANKER: Final = "ranker over all candidates"

RETRIEVED: Final = 200
DEFAULT_TEMPERATURE: Final = 0.07
"""Divides cosines where the model does not say what it was trained with; a usual starting value of learned ones."""
_AFTER_SCORING: Final = frozenset({"post_selection_filters"})
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def viewer_input(pipeline: Pipeline) -> str:
    """The request parameter that says whose feed it is.

    Raises:
        MisconfigurationError: The pipeline has none.
    """
    for name, feature in pipeline.plan.inputs.items():
        if feature is VIEWER_ID:
            return name
    found = ", ".join(f"{name} = {feature.name}" for name, feature in pipeline.plan.inputs.items()) or "none"
    raise MisconfigurationError(
        f"pipeline {pipeline.plan.name!r} cannot be evaluated: it needs an input that gives {VIEWER_ID.name}, "
        f'found {found}; add inputs = {{ viewer = "{VIEWER_ID.name}" }}'
    )


def retrieval_temperature(models: Path) -> float | None:
    """The temperature that the retrieval model learned, or None where its parameters do not say."""
    file = models / "retrieval" / "model_params.npz"
    try:
        with np.load(file, allow_pickle=False) as arrays:
            name = next((name for name in arrays.files if name.rpartition("/")[2] == "log_temperature"), None)
            return None if name is None else float(np.exp(np.float64(arrays[name].reshape(()))))
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


@attrs.frozen(eq=False)
class _Rows:
    """Every row that was scored.

    Args:
        item_ids: What each row stands for, int64 [n].
        cosine: Retrieval's score, NaN where there is none, float64 [n].
        favorite: Predicted probability of a favourite, NaN where there is none, float64 [n].
    """

    item_ids: NDArray[np.int64]
    cosine: Float64
    favorite: Float64


@attrs.define(eq=False)
class TargetRuns:
    """Runs a pipeline for targets and ranks them.

    Args:
        pipeline: An open pipeline.
        registry: Where the column of retrieval's scores is looked up.
        originals: What posts stand for; a repost of a target is the target.
        popularity: Favourites of each original in the training part, float64 [N].
        temperature: What retrieval's cosines are divided by.
        seed: The seed of every request.
    """

    pipeline: Pipeline
    registry: Registry
    originals: Originals
    popularity: Float64
    temperature: float
    seed: int = 0
    troubles: Counter[str] = attrs.field(factory=Counter, init=False)
    """Components that were skipped or replaced, with their message, and how often."""
    candidates: list[int] = attrs.field(factory=list, init=False)
    """How many rows each request scored."""
    elapsed_ms: list[float] = attrs.field(factory=list, init=False)
    """How long each request took."""
    _viewer: str = attrs.field(init=False)
    _cosine: Column[Any] | None = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._viewer = viewer_input(self.pipeline)
        key = self.registry.keys().get(RETRIEVAL_SCORE)
        self._cosine = key if isinstance(key, Column) else None

    def ranks(self, user: int, item: int, time_ms: int) -> dict[str, float]:
        """The rank of a target in the pipeline's answer and in those of its parts that there are.

        Raises:
            RequestError: The pipeline cannot answer.
        """
        now = _EPOCH + dt.timedelta(milliseconds=time_ms)
        inputs: dict[str, Any] = {self._viewer: user}
        outcome = self.pipeline.run_sync(now=now, seed=self.seed, **inputs)
        self._note(outcome)
        item = int(self.originals(np.array([item]))[0])
        ids, scores = served(outcome)
        found = {PIPELINE: rank_in_list(self.originals(ids), scores, item)}
        rows = self._rows(outcome)
        self.candidates.append(len(rows.item_ids))
        showings = np.flatnonzero(rows.item_ids == item)

        def rank(values: Float64, among: NDArray[np.bool_]) -> float:
            """The rank of the best of the target's showings; the others do not compete with it."""
            mine = showings[among[showings]]
            if not len(mine):
                return NOT_FOUND
            best = int(mine[np.argmax(values[mine])])
            rivals = among.copy()
            rivals[showings] = False
            rivals[best] = True
            return rank_among(values, best, rivals)

        retrieved = ~np.isnan(rows.cosine)
        predicted = ~np.isnan(rows.favorite)
        if self._cosine is not None and self._writes(self._cosine):
            prior = np.log1p(self._popularity_of(rows.item_ids))
            found[RETRIEVAL] = rank(rows.cosine, retrieved)
            found[RETRIEVAL_POPULARITY] = rank(rows.cosine / self.temperature + prior, retrieved)
        if self._writes(PREDICTIONS):
            if RETRIEVAL in found:
                order = np.argsort(-np.where(retrieved, rows.cosine, -np.inf), kind="stable")[:RETRIEVED]
                best = np.zeros(len(retrieved), np.bool_)
                best[order] = True
                found[RANKER_RETRIEVED] = rank(rows.favorite, best & retrieved & predicted)
            found[RANKER] = rank(rows.favorite, predicted)
        return found

    def _writes(self, column: Column[Any]) -> bool:
        return any(column in node.writes for node in self.pipeline.plan.nodes)

    def _note(self, outcome: Outcome) -> None:
        self.elapsed_ms.append(outcome.elapsed_ms)
        for entry in outcome.trace:
            if entry.status != "ok":
                self.troubles[f"{entry.component} {entry.status}: {entry.error or entry.by}"] += 1

    def _popularity_of(self, ids: NDArray[np.int64]) -> Float64:
        known = self.originals.item_ids
        if not len(known):
            return np.zeros(len(ids))
        at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[at] == ids, self.popularity[at], 0.0)

    def _rows(self, outcome: Outcome) -> _Rows:
        tables = [outcome.selected, *outcome.unselected]
        # What was dropped after selection was scored, and another ranking might not have chosen its rivals.
        tables += [table for table in outcome.dropped if len(table) and _stage(outcome, table) in _AFTER_SCORING]
        return _Rows(
            self.originals(np.concatenate([table[ITEM_ID] for table in tables])),
            np.concatenate([_values(table, self._cosine) for table in tables]),
            np.concatenate([_values(table, PREDICTIONS, POSITIVE) for table in tables]),
        )


def _stage(outcome: Outcome, dropped: Candidates) -> str:
    """The stage whose filters dropped a table of rows."""
    return outcome.plan.nodes[int(dropped.dropped_by[0])].stage


def served(outcome: Outcome) -> tuple[NDArray[np.int64], Float64]:
    """A pipeline's whole ranking: ids, best first, int64 [n], and scores, NaN for none, float64 [n]."""
    overflow, rest = outcome.unselected
    tables = [outcome.selected, overflow, rest.take(rank_order(rest))]
    return (
        np.concatenate([table[ITEM_ID] for table in tables]),
        np.concatenate([_values(table, SCORE) for table in tables]),
    )


def _values(table: Candidates, column: Column[Any] | None, label: str | None = None) -> Float64:
    """A column's cells, or those of one of its labels, NaN where there is none, float64 [n]."""
    if column is None or column not in table or (label is not None and label not in table.labels(column)):
        return np.full(len(table), np.nan)
    values = table[column] if label is None else table.label(column, label)
    return np.where(table.valid(column), values, np.nan).astype(np.float64)
