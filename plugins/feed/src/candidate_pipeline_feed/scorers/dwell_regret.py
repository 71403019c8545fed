"""Scores by expected seconds on screen, raised by engagement and lowered by regret."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, Final

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
from candidate_pipeline_feed.keys import (
    DWELL_REGRET_FACTORS,
    DWELL_REGRET_SECONDS,
    PREDICTIONS,
    WEIGHTED_SCORE,
)

Float64 = NDArray[np.float64]

ENGAGEMENT: Final[Mapping[str, float]] = MappingProxyType(
    dict.fromkeys(("favorite", "reply", "repost", "quote", "share", "share_via_dm", "share_via_copy_link"), 1.0)
)
"""Actions that raise a score, with the published alphas."""

REGRET: Final[Mapping[str, float]] = MappingProxyType(
    {"not_interested": -10_000.0, "block_author": -8_000.0, "mute_author": -15_000.0, "report": -60_000.0}
)
"""Actions that lower a score, with the published weights."""

RARE: Final = 1e-9
"""An action whose mean prediction is smaller says nothing about a post."""


@attrs.frozen
class DwellRegret:
    """Scores a post by its expected seconds on screen, in place of `feed.weighted`.

    The dwell-regret mode of the x-algorithm, August 2026 release (off there by default)::

        z = sum over engagements of alpha * (p / mean of p over the posts - 1)
        n = sum over regrets of weight * p
        score = max(dwell, floor, 0) * 2 * sigmoid(z / T) * exp(min(n, 0) / T)

    with `dwell` the predicted `dwell_time` in seconds and T the temperature, at least .000001. An action with a mean
    below 1e-9 adds nothing to z; one without a head neither, nor to n. There is no offset. A post without predictions,
    or with one that is not finite, stays without a score and out of the means; under upstream semantics absent
    predictions are zeros and what is not finite goes through. The gated variant of that release, which decides by
    viewer, is not here: its coefficients are not public.

    Args:
        temperature: T (published default 10).
        dwell_floor: Fewest seconds that count (published default 1).
        alphas: Weight of each engagement, over 1 (as published).
        weights: Weight of each regret, over the published -10000, -8000, -15000 and -60000.
    """

    temperature: Annotated[float, Ge(0), Doc("How little engagement and regret matter.")] = 10.0
    dwell_floor: Annotated[float, Doc("Fewest seconds that count.", unit="s")] = 1.0
    alphas: Annotated[Mapping[str, float], Doc("Weight of each engagement, over 1.")] = attrs.field(factory=dict)
    weights: Annotated[Mapping[str, float], Doc("Weight of each regret, over the published ones.")] = attrs.field(
        factory=dict
    )

    listwise: ClassVar[bool] = True
    reads: ClassVar[tuple[Key, ...]] = (PREDICTIONS,)
    writes: ClassVar[tuple[Key, ...]] = (SCORE, WEIGHTED_SCORE, DWELL_REGRET_SECONDS, DWELL_REGRET_FACTORS)

    def __attrs_post_init__(self) -> None:
        for option, given, known in (("alphas", self.alphas, ENGAGEMENT), ("weights", self.weights, REGRET)):
            for head, value in given.items():
                if head not in known:
                    near = difflib.get_close_matches(head, known, 1)
                    hint = f" (did you mean {near[0]!r}?)" if near else ""
                    raise MisconfigurationError(f"{option}: no {head!r} here{hint}; there are: {', '.join(known)}")
                if not math.isfinite(value):
                    raise MisconfigurationError(f"{option}.{head}: wanted a finite number, found {value}")

    @property
    def in_effect(self) -> Mapping[str, Mapping[str, float]]:
        """The published alphas and weights with those that are set over them."""
        return {"alphas": {**ENGAGEMENT, **self.alphas}, "weights": {**REGRET, **self.weights}}

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Compute the scores, in float64."""
        heads = [head for head in ("dwell_time", *ENGAGEMENT, *REGRET) if head in candidates.labels(PREDICTIONS)]
        valid = candidates.valid(PREDICTIONS)
        predicted = {
            head: np.where(valid, candidates.label(PREDICTIONS, head), 0.0).astype(np.float64) for head in heads
        }
        upstream = ctx.semantics == "upstream"
        counted = np.ones_like(valid) if upstream else valid
        if not upstream:
            counted = np.logical_and.reduce([counted, *(np.isfinite(cells) for cells in predicted.values())])
            predicted = {head: np.where(counted, cells, 0.0) for head, cells in predicted.items()}
        temperature = max(self.temperature, 1e-6)
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            seconds = np.maximum(predicted.get("dwell_time", np.zeros(len(valid))), max(self.dwell_floor, 0.0))
            engagement = 2.0 / (1.0 + np.exp(-self._engagement(predicted, counted) / temperature))
            regret = np.exp(np.minimum(self._regret(predicted, len(valid)), 0.0) / temperature)
            scores = (seconds * engagement * regret).astype(np.float32)
            factors = np.column_stack([engagement, regret]).astype(np.float32)
            parts = seconds.astype(np.float32)
        if not upstream:
            counted = counted & np.isfinite(scores)
        explained = counted & np.isfinite(parts) & np.isfinite(factors).all(axis=1)
        factors[~explained] = 0
        return patch(
            SCORE(scores, valid=counted),
            WEIGHTED_SCORE(scores, valid=counted),
            DWELL_REGRET_SECONDS(parts, valid=explained),
            DWELL_REGRET_FACTORS(factors, valid=explained),
        )

    def _engagement(self, predicted: Mapping[str, Float64], counted: NDArray[np.bool_]) -> Float64:
        """The sum z of each post."""
        total = np.zeros(len(counted), np.float64)
        for head, alpha in {**ENGAGEMENT, **self.alphas}.items():
            if head in predicted and counted.any():
                mean = predicted[head][counted].mean()
                if not mean < RARE:  # a NaN goes through
                    total += alpha * (predicted[head] / mean - 1.0)
        return total

    def _regret(self, predicted: Mapping[str, Float64], rows: int) -> Float64:
        """The sum n of each post."""
        total = np.zeros(rows, np.float64)
        for head, weight in {**REGRET, **self.weights}.items():
            if head in predicted:
                total += weight * predicted[head]
        return total
