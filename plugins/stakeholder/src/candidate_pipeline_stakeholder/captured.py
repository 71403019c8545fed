"""What a capture holds of the candidates' columns, read without the pipeline that it was recorded of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from candidate_pipeline import Column
from candidate_pipeline.errors import CaptureError
from candidate_pipeline.keys import ITEM_ID
from candidate_pipeline.what_if.capture import Capture, RecordedCall, RecordedComponent, Recording
from candidate_pipeline.what_if.codec import member
from candidate_pipeline.what_if.ranking import DROPPED
from candidate_pipeline.what_if.tables import decode_table, decode_updates
from candidate_pipeline_feed.keys import AUTHOR_ID, PREDICTIONS, TOPIC
from candidate_pipeline_stakeholder.collecting import Rows, probabilities
from candidate_pipeline_stakeholder.pool import UNKNOWN_AUTHOR

_KNOWN: Final[dict[str, Column[Any]]] = {column.name: column for column in (AUTHOR_ID, PREDICTIONS, TOPIC)}

Columns = dict[str, dict[int, Any]]
"""By column and item, what was written last; null never replaces a value."""


def captured_rows(capture: Capture, features: Sequence[str] | None = None) -> Rows | None:
    """The candidates of a recorded request that have predictions; `None` if none has.

    Rows of nested pipelines are read with those of the request; of an item that a request had in several rows, what
    was written last counts.

    Args:
        capture: The request.
        features: Heads to take; `None`: every head that predicts a probability.

    Raises:
        DataError: A feature was not predicted, or the capture is damaged.
    """
    labels: tuple[str, ...] = ()
    found: Columns = {name: {} for name in _KNOWN}
    try:
        for component, call in _calls_of(capture.recording):
            labels = _read(component, call, capture.arrays, found, labels)
    except CaptureError as error:
        raise CaptureError(f"{capture.path or capture.request_id}: {error}") from error
    ranking = capture.ranking
    # What a filter after the selection dropped was scored and is a candidate; only earlier ones are not.
    scored = (ranking.fates != DROPPED) | ~np.isnan(ranking.scores)
    items, rows = np.unique(ranking.item_ids[scored], return_index=True)
    rows = np.flatnonzero(scored)[rows]
    known = np.array([item in found[PREDICTIONS.name] for item in items.tolist()], np.bool_)
    if not known.any():
        return None
    rows = np.sort(rows[known])
    ids = ranking.item_ids[rows]
    wanted = probabilities(labels, features)
    places = [labels.index(label) for label in wanted]
    values = np.array([found[PREDICTIONS.name][item][places] for item in ids.tolist()], np.float64)
    topics = [found[TOPIC.name].get(item) for item in ids.tolist()]
    return Rows(
        wanted,
        values,
        ids,
        [None if topic is None else str(topic) for topic in topics],
        np.array([found[AUTHOR_ID.name].get(item, UNKNOWN_AUTHOR) for item in ids.tolist()], np.int64),
        ranking.scores[rows].astype(np.float64),
        rows < ranking.selected,
    )


def _calls_of(recording: Recording) -> Iterator[tuple[RecordedComponent, RecordedCall]]:
    """The calls in the order in which they wrote: nested pipelines, which are sources, before everything else."""
    for inner in recording.inner.values():
        yield from _calls_of(inner)
    for kind in ("source", "hydrator", "scorer"):
        for component in recording.components.values():
            if component.kind == kind:
                yield from ((component, call) for call in component.calls)


def _read(
    component: RecordedComponent,
    call: RecordedCall,
    arrays: Mapping[str, NDArray[Any]],
    found: Columns,
    before: tuple[str, ...],
) -> tuple[str, ...]:
    """Note what one call wrote; the labels of all predictions that are noted."""
    columns = [entry for entry in call.columns or () if entry.get("column") in _KNOWN]
    if call.error is not None or not columns:
        return before
    if component.kind == "source":
        whole = [entry for entry in call.columns or () if entry.get("column") == ITEM_ID.name]
        table = decode_table([*whole, *columns], _KNOWN, arrays)
        written = {column: (table[column], table.valid(column)) for column in table.columns if column is not ITEM_ID}
        ids, labels = table[ITEM_ID], table.labels(PREDICTIONS) if PREDICTIONS in table else ()
    else:
        ids = member(arrays, call.ids, np.int64, (None,))
        updates = decode_updates(columns, _KNOWN, len(ids), arrays)
        written = {column: (each.values, each.all_valid()) for column, each in updates.items()}
        labels = updates[PREDICTIONS].labels if PREDICTIONS in updates else ()
    if labels and before and labels != before:
        found[PREDICTIONS.name].clear()  # another model, whose predictions are the ones that count
    for column, (values, valid) in written.items():
        cells = found[column.name]
        for row in np.flatnonzero(valid).tolist():
            cells[int(ids[row])] = values[row]
    return labels or before
