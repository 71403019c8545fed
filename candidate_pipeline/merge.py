"""Merging what several sources return into one table."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

import numpy as np

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.cells import VALID, Cells
from candidate_pipeline.errors import ContractError
from candidate_pipeline.keys import ITEM_ID, Column

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

#: The text of an id that was hashed with `text_ids`.
ITEM_TEXT_ID = Column("core.item_text_id", np.object_, doc="The text id that was hashed into core.item_id.")

MAX_SOURCES: Final = 64
#: An id of 64 bits in decimal digits.
_NUMBER: Final = re.compile(r"-?[0-9]{1,19}")


def text_ids(texts: Iterable[str]) -> NDArray[np.int64]:
    """Stable 64-bit ids for text ids: the first 8 bytes of BLAKE2b, little-endian, as `int64[n]`.

    Write the texts to `ITEM_TEXT_ID` as well; merging then finds two texts that share an id.
    """
    # A lone surrogate is no valid UTF-8, and an id from JSON or a command line may hold one all the same.
    encoded = (text.encode("utf-8", "surrogatepass") for text in texts)
    digest = b"".join(hashlib.blake2b(each, digest_size=8).digest() for each in encoded)
    return np.frombuffer(digest, dtype="<i8").astype(np.int64)


def ids_meant(item: int | str) -> tuple[int, ...]:
    """The ids that may be meant by an item as somebody named it, likeliest first.

    A text is a text id; a number written as text, as on a command line, may be a text id as well as an id.
    """
    if not isinstance(item, str):
        return (int(item),)
    hashed = int(text_ids([item])[0])
    return (hashed, int(item)) if _NUMBER.fullmatch(item) else (hashed,)


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
    given = []
    for at, table in enumerate(tables):
        if table is not None:
            bits = np.full(len(table), 1 << at, np.uint64)
            own = table if table.alive.all() else table.limited_to(table.columns)  # drops are the source's affair
            own = own if writers is None else own.written_by(writers[at])
            given.append(own.with_sources(bits, tuple(names)))
    if not given:
        return Candidates.empty().with_sources(np.empty(0, np.uint64), tuple(names))
    rows = Candidates.concat(given)
    grouped = _groups(rows[ITEM_ID])
    if grouped is None:
        return rows
    first, group = grouped
    if ITEM_TEXT_ID in rows:
        _check_texts(rows.cells(ITEM_TEXT_ID), group)
    return rows.one_a_group(first, group)


def _groups(ids: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """The first row of each item and each row's place among them, in order of first rows; `None`: no item repeats."""
    ordered = np.sort(ids)
    if not (ordered[1:] == ordered[:-1]).any():
        return None
    order = np.argsort(ids)
    ordered = ids[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    first = np.minimum.reduceat(order, starts)
    by_place = np.argsort(first)
    place = np.empty(len(first), np.intp)
    place[by_place] = np.arange(len(first))
    group = np.empty(len(ids), np.intp)
    group[order] = np.repeat(place, np.diff(starts, append=len(ids)))
    return first[by_place], group


def _check_texts(texts: Cells, group: NDArray[np.intp]) -> None:
    known: dict[int, str] = {}
    for text, valid, at in zip(texts.values, texts.states() == VALID, group.tolist(), strict=True):
        if valid and known.setdefault(at, text) != text:
            raise ContractError(f"the text ids {known[at]!r} and {text!r} share one hash; rename one of them")
