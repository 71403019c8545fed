"""The scorer that lets the ranker predict what the viewer would do with each post."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import attrs
import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.errors import DataError, MisconfigurationError
from candidate_pipeline.keys import ITEM_ID
from candidate_pipeline.options import Doc
from candidate_pipeline.patches import Patch, patch
from candidate_pipeline.query import Query
from candidate_pipeline_feed.keys import (
    AUTHOR_ID,
    CREATED_AT,
    HISTORY,
    PREDICTIONS,
    REPOST_AUTHOR_ID,
    REPOST_OF,
    VIEWER_ID,
)
from candidate_pipeline_phoenix.models import RankerModel, RetrievalModel
from candidate_pipeline_phoenix.originals import originals
from candidate_pipeline_phoenix.requests import model_history

if TYPE_CHECKING:
    from phoenix_recsys.backend import Viewer
    from phoenix_recsys.requests import Items, Scores

FUSED: Final = "favorite"
"""The action that retrieval's logit is added to."""

_LATEST_SECOND = 2**31 - 1
_DWELL_PLACE = 1  # of the continuous outputs: where the May release keeps the dwell time


@attrs.frozen
class PhoenixRanker:
    """Probabilities of the actions that the model was trained for, one independent sigmoid each.

    A repost is predicted by its original: that is what the viewer would read. A post whose author nobody knows is
    predicted from the post alone. Heads are matched by name, and one that the model does not serve is absent, which is
    not zero.

    With `retrieval_weight` the log-odds of a favourite get that times the retrieval model's logit (inner product over
    its temperature) added. This late fusion may order posts better; the result orders posts by both models' opinion
    and is no longer a probability that either of them claims.
    """

    model: RankerModel
    dwell_time: Annotated[
        bool,
        Doc("Also give the dwell time that a May model's continuous head predicts; `phoenix train` does not train it."),
    ] = False
    retrieval: Annotated[RetrievalModel | None, Doc("The model that `retrieval_weight` is about.")] = None
    retrieval_weight: Annotated[float, Ge(0), Doc("Weight of retrieval's logit in the log-odds of a favourite.")] = 0.0

    reads = (VIEWER_ID, HISTORY, AUTHOR_ID, CREATED_AT, REPOST_OF, REPOST_AUTHOR_ID)
    writes = (PREDICTIONS,)
    blocking = True

    def __attrs_post_init__(self) -> None:
        if self.retrieval_weight and self.retrieval is None:
            raise ValueError('retrieval_weight needs a retrieval model: retrieval = "retrieval_model"')

    def prepare(self, query: Query, ctx: Context) -> Viewer:
        """The viewer, as far as the model can be run before candidates are known: beside the sources, in a thread."""
        history = model_history(query[HISTORY], self.model.served.action_names, self.model.data)
        return self.model.prepare_viewer(query[VIEWER_ID], history)

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Predict.

        Raises:
            DataError: The model predicts something that is not a finite number, or was asked for a head it lacks.
            CandidatePipelineError: Requests are batched, and this one's deadline cannot be kept or too much waits.
        """
        viewer = self.prepare(query, ctx) if ctx.prepared is None else ctx.prepared
        items, known = self._items(query, candidates)
        scores = self.model.score(viewer, items, viewer_id=query[VIEWER_ID], deadline=ctx.deadline)
        heads = self.model.heads
        values, labels = scores.probabilities[:, heads.columns], heads.labels
        if self.retrieval is not None and self.retrieval_weight and FUSED in labels:
            place = labels.index(FUSED)
            logits = scores.logits[:, heads.columns[place]]
            values[:, place] = _sigmoid(logits + self.retrieval_weight * self._retrieval_logits(query, items))
        if self.dwell_time:
            values = np.column_stack([values, self._seconds(scores)])
            labels = (*labels, "dwell_time")
        bad = ~np.isfinite(values)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            post = int(items.ids.view(np.int64)[row])
            raise DataError(
                f"the ranker predicts {values[row, column]} for {labels[column]} of post {post} (and is"
                f" not finite for {int(bad.any(axis=1).sum())} of {len(bad)} posts). Train it again: "
                f"candidate-pipeline phoenix train --data {self.model.data.path}"
            )
        cells = np.zeros((len(candidates), len(labels)), np.float32)
        cells[known] = values
        return patch(PREDICTIONS(cells, valid=known, labels=labels))

    def _items(self, query: Query, candidates: Candidates) -> tuple[Items, NDArray[np.bool_]]:
        """What to predict for, and which rows that leaves out: an id of 0 means nothing to a model."""
        from phoenix_recsys.requests import Items

        repost = candidates.valid(REPOST_OF)
        author, created = candidates[AUTHOR_ID], candidates[CREATED_AT]
        ids = np.where(repost, candidates[REPOST_OF], candidates[ITEM_ID])
        authors = np.where(repost, candidates[REPOST_AUTHOR_ID], np.where(candidates.valid(AUTHOR_ID), author, 0))
        created = np.where(repost | ~candidates.valid(CREATED_AT), 0, created)
        known = ids != 0
        posts = originals(self.model.data, ids[known], authors[known])
        # A caller may know of a post that the tables lack; what the tables say of one they hold comes first.
        made = np.where(posts.created_at != 0, posts.created_at, created[known])
        return Items(
            posts.ids,
            posts.authors,
            impression_ts=np.full(len(posts.ids), _seconds(query.now_ms)),
            creation_ts=_seconds(made),
        ), known

    def _retrieval_logits(self, query: Query, items: Items) -> NDArray[np.float32]:
        """The retrieval model's logits, float32 [n]."""
        if self.retrieval is None:
            raise MisconfigurationError("the ranker has no retrieval model")
        model = self.retrieval.served
        history = model_history(query[HISTORY], model.action_names, self.model.data)
        vectors = model.encode_items(items.ids, items.author_ids)
        logits: NDArray[np.float32] = vectors @ model.encode_user(query[VIEWER_ID], history)
        return np.asarray(logits / self.retrieval.temperature, np.float32)

    def _seconds(self, scores: Scores) -> NDArray[np.float32]:
        """Predicted seconds on screen, [n]: the model's output undone as it normalises the dwell time it reads."""
        config = self.model.served.config
        if scores.continuous is None or scores.continuous.shape[1] <= _DWELL_PLACE:
            raise DataError("dwell_time: this ranker has no continuous head for it; leave the option out")
        share = scores.continuous[:, _DWELL_PLACE]
        if config.dwell_use_log:
            return np.asarray(np.expm1(share * np.log1p(config.dwell_norm_scale)), np.float32)
        return np.asarray(share * config.dwell_norm_scale, np.float32)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    # tanh saturates where exp would overflow.
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits), np.float32)


def _seconds(milliseconds: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole seconds since 1970-01-01 UTC that fit int32; 0, which means unknown, for earlier times."""
    return np.asarray(np.clip(np.asarray(milliseconds) // 1000, 0, _LATEST_SECOND), np.int64)
