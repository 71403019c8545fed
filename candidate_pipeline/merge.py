"""Merging what several sources return into one table."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.cells import FAILED, NO_WRITER, NULL, VALID, Cells, same_labels
from candidate_pipeline.errors import ContractError
from candidate_pipeline.keys import ITEM_ID, Column

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

#: The text of an id that was hashed with `text_ids`.
ITEM_TEXT_ID = Column("core.item_text_id", np.object_, doc="The text id that was hashed into core.item_id.")

MAX_SOURCES: Final = 64


def text_ids(texts: Iterable[str]) -> NDArray[np.int64]:
    """Stable 64-bit ids for text ids: the first 8 bytes of BLAKE2b, little-endian, as `int64[n]`.

    Write the texts to `ITEM_TEXT_ID` as well; merging then finds two texts that share an id.
    """
    digest = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digest, dtype="<i8").astype(np.int64)


def merge(
    names: Sequence[str], tables: Sequence[Candidates | None], writers: Sequence[int] | None = None
) -> Candidates:
    """One row an item over all sources' rows, in declaration order, then in each source's own order.

    A column's cell comes from the first source that has a valid value for it. A source that failed (`None`) gives no
    rows.

    Args:
        names: The sources, at most 64.
        tables: What each returned.
        writers: The component number of each source; its own cells carry it.

    Raises:
        ContractError: Two text ids share a hash, or two sources give a column different labels.
    """
    if len(names) > MAX_SOURCES:
        raise ContractError(f"a pipeline may have at most {MAX_SOURCES} sources, found {len(names)}")
    given = [
        (at, table if writers is None else table.written_by(writers[at]))
        for at, table in enumerate(tables)
        if table is not None
    ]
    if not given:
        return Candidates.empty().with_sources(np.empty(0, np.uint64), tuple(names))
    ids = np.concatenate([table[ITEM_ID] for _, table in given])
    unique, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    place_of = np.empty(len(unique), np.intp)
    place_of[order] = np.arange(len(unique))
    place = place_of[inverse]
    rows = len(unique)

    bits = np.zeros(rows, np.uint64)
    columns: dict[Column[Any], Cells] = {}
    start = 0
    for at, table in given:
        target = place[start : start + len(table)]
        start += len(table)
        bits[target] |= np.uint64(1 << at)
        for column in table.columns:
            columns[column] = _fill(columns.get(column), column, table.cells(column), target, rows)
    columns[ITEM_ID] = Cells(unique[order], None, columns[ITEM_ID].writer)
    return Candidates(columns, source_bits=bits, source_names=tuple(names))


def _fill(old: Cells | None, column: Column[Any], new: Cells, target: NDArray[np.intp], rows: int) -> Cells:
    if old is not None:
        old, new = same_labels(old, new, column)
    values = column.blank(rows, new.labels) if old is None else old.values.copy()
    state = np.full(rows, NULL, np.uint8) if old is None else old.states().copy()
    writer = np.full(rows, NO_WRITER, np.int16) if old is None else old.writers().copy()
    new_state = new.states()
    if column is ITEM_TEXT_ID:
        _check_texts(values, state, new, target)
    # Backwards, so that of several rows of one item in one source the first is the one that stays.
    for wanted in (FAILED, VALID):
        weaker = (FAILED, VALID) if wanted == FAILED else (VALID,)
        pick = np.flatnonzero((new_state == wanted) & ~np.isin(state[target], weaker))[::-1]
        values[target[pick]] = new.values[pick]
        state[target[pick]] = wanted
        writer[target[pick]] = new.writers()[pick]
    return Cells(values, None if (state == VALID).all() else state, writer, new.labels)


def _check_texts(values: NDArray[Any], state: NDArray[np.uint8], new: Cells, target: NDArray[np.intp]) -> None:
    known = {int(at): values[at] for at in target if state[at] == VALID}
    for text, valid, at in zip(new.values, new.states() == VALID, target.tolist(), strict=True):
        if valid and known.setdefault(at, text) != text:
            raise ContractError(f"the text ids {known[at]!r} and {text!r} share one hash; rename one of them")
