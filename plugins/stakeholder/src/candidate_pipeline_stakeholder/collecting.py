"""Pools of what requests could choose from, with what the ranker predicted for it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline import ITEM_ID, SCORE, Candidates, Column, Outcome
from candidate_pipeline.app import Pipeline
from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.actions import CONTINUOUS
from candidate_pipeline_feed.evaluation.runs import viewer_input
from candidate_pipeline_feed.keys import AUTHOR_ID, PREDICTIONS, TOPIC
from candidate_pipeline_stakeholder.pool import UNKNOWN_AUTHOR, Pool

Float64 = NDArray[np.float64]

NO_PREDICTIONS: Final = (
    f"no candidate has {PREDICTIONS.name}: the pipeline needs a scorer that predicts, such as phoenix.ranker, and "
    "`candidate-pipeline phoenix train` makes its model"
)


class Track(Protocol):
    """Wraps a loop so that its progress shows."""

    def __call__(self, what: str, items: Iterable[Any], total: int | None = None) -> Iterable[Any]:
        """Go through items, showing how far."""


def silent(what: str, items: Iterable[Any], total: int | None = None) -> Iterable[Any]:  # noqa: ARG001 - a Track
    """A `Track` that shows nothing."""
    return items


@attrs.frozen(eq=False)
class Rows:
    """Candidates of one request that have predictions.

    Args:
        labels: The columns of `predictions`.
        predictions: float64 [n, len(labels)].
        item_ids: int64 [n].
        topics: One label or `None` a row, [n].
        authors: int64 [n], -1 where unknown.
        scores: float64 [n], NaN where there is none.
        selected: Whether it was in the response, bool [n].
    """

    labels: tuple[str, ...]
    predictions: Float64
    item_ids: NDArray[np.int64]
    topics: list[str | None]
    authors: NDArray[np.int64]
    scores: Float64
    selected: NDArray[np.bool_]


def probabilities(labels: Iterable[str], wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """Which of a ranker's heads are features.

    Args:
        labels: The heads that it serves.
        wanted: Names; `None`: every head that predicts a probability, not those that predict an amount of seconds.

    Raises:
        DataError: One that is wanted is not served.
    """
    served = tuple(labels)
    if wanted is None:
        return tuple(label for label in served if label not in CONTINUOUS)
    if missing := [label for label in wanted if label not in served]:
        raise DataError(f"the ranker does not serve {', '.join(missing)}; it serves {', '.join(served)}")
    return tuple(wanted)


def predicted(table: Candidates, features: Sequence[str] | None = None) -> tuple[tuple[str, ...], Float64, Any]:
    """A table's predictions: labels, float64 [n, k], and which rows have them, bool [n].

    Raises:
        DataError: A feature is not served.
    """
    if PREDICTIONS not in table or not len(table):
        return (), np.zeros((len(table), 0)), np.zeros(len(table), np.bool_)
    labels = probabilities(table.labels(PREDICTIONS), features)
    values = [table.label(PREDICTIONS, label).astype(np.float64) for label in labels]
    return labels, np.column_stack(values), np.asarray(table.valid(PREDICTIONS))


def pool_from_outcomes(outcomes: Iterable[Outcome], features: Sequence[str] | None = None) -> Pool:
    """The pool of answered requests: every candidate that was scored, chosen or not.

    That is what the filters before scoring left, with the ranker's predictions as features; rows that have none are
    left out. Request 0 is the first outcome, and so on.

    Args:
        outcomes: Answers, of one pipeline.
        features: Heads to take; `None`: every head that predicts a probability.

    Raises:
        DataError: No candidate has predictions, a feature is not served, or the outcomes differ in what is served.
    """
    return _pooled((_rows_of(outcome, features) for outcome in outcomes), "the requests")


def _rows_of(outcome: Outcome, features: Sequence[str] | None) -> Rows | None:
    table = outcome.ranked
    labels, values, valid = predicted(table, features)
    if not valid.any():
        return None
    table, values = table.take(valid), values[valid]
    chosen = np.isin(table[ITEM_ID], outcome.selected[ITEM_ID])
    return Rows(
        labels,
        values,
        table[ITEM_ID],
        [None if topic is None else str(topic) for topic in _cells(table, TOPIC, None)],
        np.asarray(_cells(table, AUTHOR_ID, UNKNOWN_AUTHOR), np.int64),
        np.asarray(_cells(table, SCORE, np.nan), np.float64),
        chosen,
    )


def _cells(table: Candidates, column: Column[Any], null: Any) -> NDArray[Any]:
    """A column's cells with `null` where there is no value, [n]."""
    if column not in table:
        return np.array([null] * len(table))
    return np.where(table.valid(column), table[column], null)


def _pooled(rows: Iterable[Rows | None], where: str) -> Pool:
    numbered = [(number, part) for number, part in enumerate(rows) if part is not None]
    if not numbered:
        raise DataError(f"{where}: {NO_PREDICTIONS}")
    parts = [part for _, part in numbered]
    labels = parts[0].labels
    for number, part in numbered:
        if part.labels != labels:
            raise DataError(
                f"{where}: the predictions of request {number} are {', '.join(part.labels)}, those of request "
                f"{numbered[0][0]} {', '.join(labels)}: take requests of one model"
            )
    return Pool.of(
        labels,
        np.concatenate([part.predictions for part in parts]),
        item_ids=np.concatenate([part.item_ids for part in parts]),
        request=np.concatenate([np.full(len(part.item_ids), number) for number, part in numbered]),
        group=[topic for part in parts for topic in part.topics],
        author=np.concatenate([part.authors for part in parts]),
        score=np.concatenate([part.scores for part in parts]),
        selected=np.concatenate([part.selected for part in parts]),
    )


def pool_from_captures(place: str | Path, features: Sequence[str] | None = None) -> Pool:
    """The pool of recorded requests; see `pool_from_outcomes`. No model runs: the captures hold what was predicted.

    Args:
        place: A folder of captures, or one capture.
        features: Heads to take; `None`: every head that predicts a probability.

    Raises:
        DataError: There are no captures, one cannot be read, or none has predictions.
    """
    from candidate_pipeline.what_if.capture import Capture, capture_paths
    from candidate_pipeline_stakeholder.captured import captured_rows

    paths = capture_paths(place)
    if not paths:
        raise DataError(
            f"{place}: wanted a folder of captures, found none in it; `candidate-pipeline run … --capture {place}` "
            "records a request"
        )
    return _pooled((captured_rows(Capture.read(path), features) for path in paths), str(place))


def collect(
    pipeline: Pipeline,
    viewers: Iterable[int],
    seed: int = 0,
    *,
    now: dt.datetime | None = None,
    features: Sequence[str] | None = None,
    track: Track = silent,
) -> Pool:
    """The pool of one request for each viewer, as `pool_from_outcomes`; its request ids are the viewers.

    Args:
        pipeline: A pipeline of an open application.
        viewers: Whose requests.
        seed: The seed of each request.
        now: The requests' clock; default: the data directory's.
        features: Heads to take; `None`: every head that predicts a probability.
        track: Shows how far it is.

    Raises:
        DataError: As for `pool_from_outcomes`.
        RequestError: The pipeline cannot answer.
        KeyboardInterrupt: Interrupted before the first request was answered; later, the pool is of those that were.
    """
    asked = [int(viewer) for viewer in viewers]
    if len(set(asked)) < len(asked):
        raise DataError("viewers: wanted each viewer once, found one twice")
    name = viewer_input(pipeline)
    rows: list[Rows | None] = []
    try:
        for viewer in track("running the pipeline", asked, len(asked)):
            inputs: dict[str, Any] = {name: viewer}
            outcome = pipeline.run_sync(now=now, seed=seed, **inputs)
            rows.append(_rows_of(outcome, features))
    except KeyboardInterrupt:
        if not any(part is not None for part in rows):
            raise
    pool = _pooled(rows, f"pipeline {pipeline.plan.name!r}")
    request_ids = np.array(asked, np.int64)[pool.request_ids]
    return Pool.of(
        pool.features,
        pool.values,
        item_ids=pool.item_ids,
        request=request_ids[pool.request],
        groups=pool.groups,
        group=pool.group,
        author=pool.author,
        score=pool.score,
        selected=pool.selected,
    )
