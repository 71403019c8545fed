"""Columns from rows: the convenient, slower door into a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from candidate_pipeline.errors import ContractError
from candidate_pipeline.keys import Column
from candidate_pipeline.patches import ColumnUpdate


def column_of_rows(column: Column[Any], records: Sequence[Mapping[Column[Any], Any]]) -> ColumnUpdate:
    """One column of rows given as mappings; a labelled cell is a mapping from label to value."""
    given = [record.get(column) for record in records]
    valid = np.array([value is not None for value in given], dtype=np.bool_)
    labels = _labels_of_rows(column, given) if column.labels else None
    cells = [value if labels is None else [value[label] for label in labels] for value in given if value is not None]
    try:
        packed, _ = column(cells, labels=labels).checked(len(cells))
    except ContractError:
        for at, cell in zip(np.flatnonzero(valid), cells, strict=True):
            try:
                column([cell], labels=labels).checked(1)
            except ContractError as error:
                raise ContractError(f"row {at}, value {cell!r:.80}: {error}") from None
        raise
    values = column.blank(len(records), labels or ())
    values[valid] = packed
    return column(values, valid=valid, labels=labels)


def _labels_of_rows(column: Column[Any], cells: Sequence[Any]) -> tuple[str, ...]:
    """The labels that every row gives, in the column's order."""
    labels: tuple[str, ...] | None = None
    for at, cell in enumerate(cells):
        if cell is None:
            continue
        if not isinstance(cell, Mapping):
            raise ContractError(f"row {at}: {column.name} wanted a mapping from label to value, found {cell!r:.80}")
        found = tuple(label for label in column.labels if label in cell)
        unknown = sorted(set(cell) - set(found))
        if unknown:
            raise ContractError(
                f"row {at}: {column.name} has no label {unknown[0]!r}; it has: {', '.join(column.labels)}"
            )
        if labels is None:
            labels = found
        elif found != labels:
            raise ContractError(f"row {at}: {column.name} has the labels {found}, rows before it {labels}")
    return column.labels if labels is None else labels
