"""The index of posts by what the retrieval model makes of them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.errors import DataError, MisconfigurationError
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_phoenix.models import RetrievalModel

Int64 = NDArray[np.int64]


@attrs.frozen(eq=False)
class Found:
    """Posts found by a search, best first, `[n]` each.

    Args:
        item_ids: The posts, int64.
        author_ids: Who posted them, int64.
        created_at: When, milliseconds since 1970-01-01 UTC, int64.
        scores: Inner products with the viewer's vector, float32.
    """

    item_ids: Int64
    author_ids: Int64
    created_at: Int64
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.item_ids)


@attrs.define(eq=False)
class PostIndex:
    """Every post of the tables but reposts (their originals stand for them), searched exactly.

    Args:
        data: The tables.
        model: The model whose item tower makes the vectors, and whose user tower makes the queries.
    """

    data: FeedTables
    model: RetrievalModel
    _index: Any = attrs.field(default=None, init=False, repr=False)
    _ids: Int64 = attrs.field(init=False, repr=False)
    _authors: Int64 = attrs.field(init=False, repr=False)
    _created: Int64 = attrs.field(init=False, repr=False)
    _by_id: NDArray[np.intp] = attrs.field(init=False, repr=False)

    def open(self) -> None:
        """Encode the posts and build the index.

        Raises:
            DataError: The model makes vectors that are not finite numbers.
        """
        faiss: Any = import_module("faiss")  # its stubs miss what its Python layer adds
        items = self.data.tables.items
        rows = np.flatnonzero(~items.is_valid("repost_of"))
        # The newest first, then the larger id: a position also decides between equal scores.
        rows = rows[np.lexsort((~items.item_id[rows], ~items.created_at[rows]))]
        self._ids, self._authors, self._created = items.item_id[rows], items.author_id[rows], items.created_at[rows]
        self._by_id = np.argsort(self._ids, kind="stable")
        vectors = self.model.served.encode_items(self._ids, self._authors)
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise DataError(
                f"the retrieval model gives {len(bad)} of {len(rows)} posts vectors that are not finite, the "
                f"first is post {self._ids[bad[0]]}. Train the model again: candidate-pipeline phoenix train "
                f"--data {self.data.path}"
            )
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(np.ascontiguousarray(vectors))
        self._index = index

    def close(self) -> None:
        """Let go of the vectors."""
        self._index = None

    def __len__(self) -> int:
        """How many posts are in the index."""
        return int(self._open_index().ntotal)

    def _open_index(self) -> Any:
        if self._index is None:
            raise MisconfigurationError("the index of posts is not open")
        return self._index

    def search(
        self,
        vector: NDArray[np.float32],
        count: int,
        *,
        now_ms: int,
        oldest_ms: int | None = None,
        exclude: Int64 | None = None,
    ) -> Found:
        """The posts with the largest inner products, best first; of equal ones the newer, then the larger id.

        What may not be found is left out before the best are counted, so `count` posts come back where there are as
        many.

        Args:
            vector: float32 [D].
            count: At most so many.
            now_ms: Posts made after this time are left out, milliseconds since 1970-01-01 UTC.
            oldest_ms: Posts made before this time are left out.
            exclude: Posts to leave out, int64 [k], in any order.
        """
        faiss: Any = import_module("faiss")
        index = self._open_index()
        allowed = self._created <= now_ms
        if oldest_ms is not None:
            allowed &= self._created >= oldest_ms
        if exclude is not None:
            allowed[self._positions(exclude)] = False
        count = min(count, int(allowed.sum()))
        bits = np.packbits(allowed, bitorder="little")
        only = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
        positions, scores = np.empty(0, np.int64), np.empty(0, np.float32)
        # Where equal scores straddle the end, which of them the index returns is up to it: ask for all of them.
        wanted = min(count + 1, int(allowed.sum()))
        while count:
            found = index.search(np.ascontiguousarray(vector[None]), wanted, params=only)
            scores, positions = found[0][0], found[1][0]
            if wanted >= allowed.sum() or scores[-1] < scores[count - 1]:
                break
            wanted = min(wanted * 2, int(allowed.sum()))
        order = np.lexsort((positions, -scores))[:count]
        at = positions[order]
        return Found(self._ids[at], self._authors[at], self._created[at], scores[order])

    def _positions(self, ids: Int64) -> NDArray[np.intp]:
        if not len(self._ids):
            return np.empty(0, np.intp)
        ordered = self._ids[self._by_id]
        at = np.minimum(np.searchsorted(ordered, ids), len(ordered) - 1)
        found: NDArray[np.intp] = self._by_id[at[ordered[at] == ids]]
        return found
