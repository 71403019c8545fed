"""The weighted sum of predicted actions."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import attrs
import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.keys import SCORE, Key
from candidate_pipeline.options import Doc
from candidate_pipeline.patches import Patch, patch
from candidate_pipeline.query import Query
from candidate_pipeline_feed.actions import PREDICTABLE
from candidate_pipeline_feed.keys import (
    IN_NETWORK,
    MUTUAL_FOLLOW,
    PREDICTIONS,
    REPLY_TO,
    REPOST_OF,
    VIDEO_DURATION_MS,
    VIEWER_FOLLOWERS,
    WEIGHTED_SCORE,
    WEIGHTED_TERMS,
)
from candidate_pipeline_feed.presets import Preset, check_heads, preset, sums

Float64 = NDArray[np.float64]


def offset_negatives(net: Float64, positive: float, negative: float, offset: float) -> Float64:
    """The offset rule of the weighted sum: what is not negative comes above everything that is.

    With P and N the sums of the positive and of the negated negative weights of probabilities, and T = P + N: a
    negative sum s becomes (s + N) / T * offset, another s + offset; where T is 0, max(s, 0). There is a jump at 0.
    Source: x-algorithm, May 2026 release; the value of the offset, August 2026 release.

    Args:
        net: Weighted sums, float64 `[n]`.
        positive: P.
        negative: N.
        offset: What is added.
    """
    total = positive + negative
    if total == 0:
        return np.maximum(net, 0.0)
    return np.where(net < 0, (net + negative) / total * offset, net + offset)


@attrs.frozen
class Weighted:
    """Scores a post with the sum of weight times prediction over the actions a model predicts.

    After the weighted scorer of the x-algorithm, January and May 2026 releases, with the additions of August: the
    boost of replies between people who follow each other, and `post_unexplored` for posts in network only. Rules:

    * A quality view of a video counts only if the video is strictly longer than `min_video_duration`, and only for a
      viewer with fewer followers than `max_viewer_followers` (or an unknown number).
    * Negative sums go through `offset_negatives`, which leaves weights of continuous actions out of P and N.
    * An action the model has no head for is left out of the sum and of P and N.
    * A post without predictions, or with one that is not finite, stays without a score.
    * Under upstream semantics absent predictions are zeros: an action without a head counts in P and N, a post without
      predictions scores exactly the offset, above any post whose sum is negative, and what is not finite goes through
      (only the terms of such a post stay null).
    * The quality view of a quoted video always has its full weight: the duration check for it, off by default
      upstream, needs the quoted video's length.

    Args:
        preset: Weights as published at a date; `candidate_pipeline_feed.presets.names()` lists them. "none": all 0.
        weights: Weights by action, over those of the preset.
        offset: What is added to sums that are not negative; default: the preset's.
        min_video_duration: A video must be longer for its quality view to count; default: the preset's.
        max_viewer_followers: Quality views count for viewers with fewer followers; default: the preset's.
        mutual_reply_boost: Added to the weight of a reply to an original post whose author and viewer follow each
            other; default: the preset's.
    """

    preset: Annotated[str, Doc("Weights as published at a date, or 'none' for all zero.")] = "2026-08-12"
    weights: Annotated[Mapping[str, float], Doc("Weights by predicted action, over those of the preset.")] = (
        attrs.field(factory=dict)
    )
    offset: Annotated[float, Ge(0), Doc("Added to sums that are not negative; default: the preset's.")] | None = None
    min_video_duration: (
        Annotated[dt.timedelta, Ge(dt.timedelta(0)), Doc("A video must be longer for its quality view to count.")]
        | None
    ) = None
    max_viewer_followers: (
        Annotated[int, Ge(0), Doc("Quality views count for viewers with fewer followers.", unit="people")] | None
    ) = None
    mutual_reply_boost: (
        Annotated[float, Doc("Added to the weight of a reply where author and viewer follow each other.")] | None
    ) = None
    resolved: Preset = attrs.field(init=False, repr=False, eq=False)

    @resolved.default
    def _resolve(self) -> Preset:
        given = dict(self.weights)
        check_heads(given, "weights")
        base = attrs.evolve(preset("2026-08-12"), weights={}, mutual_reply_boost=0.0)
        if self.preset != "none":
            base = preset(self.preset)
        duration = self.min_video_duration
        changes = {
            "offset": self.offset,
            "min_video_duration_ms": None if duration is None else duration // dt.timedelta(milliseconds=1),
            "max_viewer_followers": self.max_viewer_followers,
            "mutual_reply_boost": self.mutual_reply_boost,
        }
        changed: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        result = attrs.evolve(base, weights={**base.weights, **given}, **changed)
        numbers = {**result.weights, "offset": result.offset, "mutual_reply_boost": result.mutual_reply_boost}
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise MisconfigurationError(f"{name}: wanted a finite number, found {value}")
        return result

    @property
    def in_effect(self) -> Mapping[str, Any]:
        """The numbers of the preset with those that are set over them."""
        return {
            "weights": {head: self.resolved.weights.get(head, 0.0) for head in PREDICTABLE},
            "offset": self.resolved.offset,
            "max_viewer_followers": self.resolved.max_viewer_followers,
            "mutual_reply_boost": self.resolved.mutual_reply_boost,
        }

    @property
    def reads(self) -> tuple[Key, ...]:
        """Predictions, and what the rules of actions with a weight ask for."""
        keys: list[Key] = [PREDICTIONS]
        weights = self.resolved.weights
        if weights.get("vqv"):
            keys += [VIDEO_DURATION_MS, VIEWER_FOLLOWERS]
        if weights.get("post_unexplored"):
            keys += [IN_NETWORK]
        if self.resolved.mutual_reply_boost:
            keys += [MUTUAL_FOLLOW, REPLY_TO, REPOST_OF]
        return tuple(keys)

    @property
    def writes(self) -> tuple[Key, ...]:
        """The score, and how it came about."""
        return (SCORE, WEIGHTED_SCORE, WEIGHTED_TERMS)

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Weigh the predictions, in float64."""
        upstream = ctx.semantics == "upstream"
        heads = [head for head in candidates.labels(PREDICTIONS) if self._weighs(head)]
        predicted = candidates.valid(PREDICTIONS)
        terms = np.zeros((len(candidates), len(heads)), np.float64)
        for place, head in enumerate(heads):
            cells = np.where(predicted, candidates.label(PREDICTIONS, head), 0).astype(np.float64)
            with np.errstate(invalid="ignore"):  # a weight of 0 times a prediction that is not finite
                terms[:, place] = cells * self._weight(head, query, candidates)
        with np.errstate(invalid="ignore", over="ignore"):
            net = terms.sum(axis=1)
            positive, negative = sums(self.resolved.weights, PREDICTABLE if upstream else heads)
            total = offset_negatives(net, positive, negative, self.resolved.offset)
            parts = np.column_stack([terms, total - net]).astype(np.float32)
            scores = total.astype(np.float32)
        if upstream:
            scored, explained = np.ones(len(scores), np.bool_), np.isfinite(parts).all(axis=1)
        else:
            scored = self._scorable(predicted, heads, candidates, ctx)
            scored = explained = scored & np.isfinite(scores) & np.isfinite(parts).all(axis=1)
        scores[~scored], parts[~explained] = 0, 0
        return patch(
            SCORE(scores, valid=scored),
            WEIGHTED_SCORE(scores, valid=scored),
            WEIGHTED_TERMS(parts, valid=explained, labels=(*heads, "offset")),
        )

    def _scorable(
        self, predicted: NDArray[np.bool_], heads: Collection[str], candidates: Candidates, ctx: Context
    ) -> NDArray[np.bool_]:
        """The posts with predictions; none where nothing that is predicted has a weight."""
        if heads or not predicted.any():
            return predicted
        ctx.log.warning(
            "no predicted action has a weight, so nothing is scored",
            preset=self.preset,
            predicted=candidates.labels(PREDICTIONS),
        )
        return np.zeros_like(predicted)

    def _weighs(self, head: str) -> bool:
        return bool(self.resolved.weights.get(head)) or (head == "reply" and bool(self.resolved.mutual_reply_boost))

    def _weight(self, head: str, query: Query, candidates: Candidates) -> Float64 | float:
        """The weight of an action on each post."""
        weight = self.resolved.weights.get(head, 0.0)
        if head == "vqv":
            return np.where(self._quality_view_counts(query, candidates), weight, 0.0)
        if head == "post_unexplored":
            return np.where(candidates.valid(IN_NETWORK) & candidates[IN_NETWORK], weight, 0.0)
        if head == "reply" and self.resolved.mutual_reply_boost:
            mutual = candidates.valid(MUTUAL_FOLLOW) & candidates[MUTUAL_FOLLOW]
            original = ~candidates.valid(REPLY_TO) & ~candidates.valid(REPOST_OF)
            return np.where(mutual & original, weight + self.resolved.mutual_reply_boost, weight)
        return weight

    def _quality_view_counts(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        followers = query[VIEWER_FOLLOWERS]
        if followers >= self.resolved.max_viewer_followers:  # an unknown number is negative
            return np.zeros(len(candidates), np.bool_)
        longer = candidates[VIDEO_DURATION_MS] > self.resolved.min_video_duration_ms
        return candidates.valid(VIDEO_DURATION_MS) & longer
