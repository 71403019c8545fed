"""Requests side by side: utilities of their rows, and the slates that scores select from them.

Rows of all requests are laid out in one padded array [r, m, ...], so that hundreds of scorings are evaluated at once.
The score of a row is what `stakeholder.scorer` gives it: the sum over stakeholders of mixing weight times standardised
utility. Slates are the rows with the highest scores; of equal ones, the earlier row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.audit.estimates import Estimate
from candidate_pipeline_stakeholder.mixing import ROUNDING, mix_problem, shares
from candidate_pipeline_stakeholder.moments import Moments
from candidate_pipeline_stakeholder.pool import UNKNOWN_GROUP, Pool
from candidate_pipeline_stakeholder.utilities import Utilities

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CHUNK: Final = 2_000_000
"""Cells of an intermediate array; 16 MB."""
CONSTANT: Final = ROUNDING
"""Utilities that differ by less than this share of what they are summed from differ by rounding."""
HOW: Final = ("request", "pool", "none")


class NotPossibleError(DataError):
    """An analysis that this pool or these utilities do not allow; the message is the reason."""


@attrs.frozen(eq=False)
class Scene:
    """A pool under audit, laid out for many scorings at once.

    Args:
        pool: The pool.
        given: The stakeholders, over the pool's features.
        names: Stakeholders.
        features: Of the pool.
        weights: Given weights over the pool's features, float64 [s, k].
        mix: Mixing weights, absolute values summing to 1, float64 [s].
        how: Normalisation of utilities in the score: "request", "pool" or "none".
        moments: Of all rows of the pool.
        standard: What "pool" standardises over: the moments that come with the utilities, as the scorer does, else
            those of this pool.
        size: Rows of a slate at most.
        values: Features, 0 in padding, float64 [r, m, k].
        there: Whether a cell is a row, bool [r, m].
        counts: Rows of each request, float64 [r].
        sizes: Rows of each request's slate, float64 [r].
        groups: How many groups there are, the unknown one included.
        group: Group of each row, 0 in padding, intp [r, m].
        author: Author of each row, int64 [r, m], -1 where unknown.
        selected: What was served, bool [r, m].
        known_groups: Whether any group is known.
        utilities: Raw, 0 in padding, float64 [r, m, s].
        best: Mean raw utility over each stakeholder's own best slate, float64 [r, s].
        worst: Over its worst.
    """

    pool: Pool
    given: Utilities
    names: tuple[str, ...]
    features: tuple[str, ...]
    weights: Floats
    mix: Floats
    how: str
    moments: Moments
    standard: Moments
    size: int
    values: Floats
    there: Bools
    counts: Floats
    sizes: Floats
    groups: int
    group: NDArray[np.intp]
    author: NDArray[np.int64]
    selected: Bools
    known_groups: bool
    utilities: Floats
    best: Floats
    worst: Floats

    @classmethod
    def of(
        cls,
        utilities: Utilities,
        pool: Pool,
        *,
        mix: Mapping[str, float] | ArrayLike | None = None,
        size: int = 10,
        how: str = "request",
    ) -> Scene:
        """Lay out a pool.

        Args:
            utilities: The stakeholders; weights of features that the pool lacks do nothing here.
            pool: The rows.
            mix: Mixing weights by name or in order of the stakeholders; `None`: equal ones.
            size: Rows of a slate; a request with fewer rows shows all.
            how: How the score normalises utilities.

        Raises:
            DataError: The mix or an option does not fit.
        """
        if size < 1:
            raise DataError(f"audit: wanted a slate of at least one row, found {size}")
        if how not in HOW:
            raise DataError(f"audit: wanted a normalisation of {', '.join(HOW)}, found {how!r}")
        chosen = utilities.select(pool.features)
        weights = np.asarray(chosen.weights, np.float64)
        rows = list(pool.requests())
        longest = max(len(at) for at in rows)
        place = np.full((len(rows), longest), -1, np.intp)
        for request, at in enumerate(rows):
            place[request, : len(at)] = at
        there = place >= 0
        values = np.where(there[..., None], pool.values[place], 0.0)
        unknown = len(pool.groups)
        group = np.where(pool.group == UNKNOWN_GROUP, unknown, pool.group).astype(np.intp)
        counts = there.sum(axis=1).astype(np.float64)
        raw = values @ weights.T
        sizes = np.minimum(counts, size)
        made = cls(
            pool=pool,
            given=chosen,
            names=tuple(utilities.names),
            features=pool.features,
            weights=weights,
            mix=mixing(utilities.names, mix),
            how=how,
            moments=pool.moments(),
            standard=chosen.pool or pool.moments(),
            size=size,
            values=values,
            there=there,
            counts=counts,
            sizes=sizes,
            groups=unknown + bool((pool.group == UNKNOWN_GROUP).any()),
            group=np.where(there, group[place], 0),
            author=np.where(there, pool.author[place], -1),
            selected=there & pool.selected[place],
            known_groups=bool((pool.group != UNKNOWN_GROUP).any()),
            utilities=raw,
            best=np.zeros((len(rows), len(weights))),
            worst=np.zeros((len(rows), len(weights))),
        )
        own = np.moveaxis(raw, 2, 0)
        diagonal = np.arange(len(weights))
        best = made.slate_means(made.top(own))[diagonal, :, diagonal].T
        worst = made.slate_means(made.top(-own))[diagonal, :, diagonal].T
        return attrs.evolve(made, best=best, worst=worst)

    @property
    def requests(self) -> int:
        """How many there are."""
        return len(self.counts)

    @property
    def varies(self) -> Bools:
        """Whether a feature differs between rows by more than rounding, bool [k]."""
        rows = self.values[self.there]
        return np.asarray(np.ptp(rows, axis=0) > CONSTANT * np.abs(rows).max(axis=0), np.bool_)

    @property
    def scale(self) -> Floats:
        """Bound on what each stakeholder's utilities are summed from, in each request, float64 [r, s]."""
        return np.asarray(np.abs(self.values).max(axis=1) @ np.abs(self.weights).T, np.float64)

    @property
    def span(self) -> Floats:
        """Attainable range of each stakeholder: best less worst, means over requests, float64 [s]; 0 where nothing."""
        wide = (self.best - self.worst).mean(axis=0)
        return np.where(wide > CONSTANT * self.scale.max(axis=0), wide, 0.0)

    def shares(self, raw: ArrayLike) -> Floats:
        """Raw utilities [..., r, s] of slates as shares of the attainable range [..., r, s]; NaN where that is nothing.

        The mean over requests of the result is (mean utility - mean worst) / (mean best - mean worst).
        """
        wide = self.span
        with np.errstate(divide="ignore", invalid="ignore"):
            found = (np.asarray(raw, np.float64) - self.worst) / wide
        return np.where(wide > 0, found, np.nan)

    def share_estimates(self, raw: Floats, resample: Floats | None) -> list[tuple[Estimate, ...]]:
        """Shares of slates worth `raw` [c, r, s], with intervals over requests: s estimates for each of c.

        Args:
            raw: Mean raw utilities of a row of each request's slate; NaN in requests that do not count.
            resample: Bootstrap weights of requests, [draws, r]; `None`: no intervals.
        """
        there = np.isfinite(raw)
        gained = np.where(there, raw - self.worst, 0.0)
        could = np.where(there, self.best - self.worst, 0.0)
        wide = np.where(self.span > 0, could.mean(axis=1), np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = gained.mean(axis=1) / wide
            if resample is None:
                return [tuple(Estimate.of(share) for share in row) for row in value]
            drawn = np.tensordot(resample, gained, axes=(1, 1)) / np.tensordot(resample, could, axes=(1, 1))
        return [
            tuple(Estimate.of(share, drawn[:, row, who], resample.shape[1]) for who, share in enumerate(shares))
            for row, shares in enumerate(value)
        ]

    def raw(self, weights: ArrayLike) -> Floats:
        """Utilities [..., r, m] of weights [..., k], 0 in padding."""
        vectors = np.asarray(weights, np.float64)
        flat = vectors.reshape(-1, vectors.shape[-1]) @ self.values.reshape(-1, self.values.shape[-1]).T
        return np.asarray(flat.reshape(*vectors.shape[:-1], *self.there.shape), np.float64)

    def standardised(self, weights: ArrayLike) -> Floats:
        """Utilities as the score takes them, [..., r, m] of weights [..., k], 0 in padding."""
        vectors = np.asarray(weights, np.float64)
        raw = self.raw(vectors)
        if self.how == "none":
            return raw
        if self.how == "request":
            centre = raw.sum(axis=-1) / self.counts
            off = np.where(self.there, raw - centre[..., None], 0.0)
            spread = np.sqrt((off * off).sum(axis=-1) / self.counts)
        else:
            off = np.where(self.there, raw - (vectors @ self.standard.mean)[..., None, None], 0.0)
            spread = np.broadcast_to(self.standard.sd(vectors)[..., None], off.shape[:-1])
        scale = np.abs(vectors) @ np.abs(self.values).max(axis=1).T
        varies = spread > CONSTANT * scale
        factor = np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)
        return np.asarray(off * factor[..., None], np.float64)

    def score(self, mix: ArrayLike) -> Floats:
        """Score of mixes [c, s] of the given utilities, [c, r, m]."""
        return np.tensordot(np.asarray(mix, np.float64), self.standardised(self.weights), axes=1)

    def top(self, scores: ArrayLike) -> Bools:
        """Which rows make the slate under scores [..., r, m]; of equal scores the earlier row."""
        masked = np.where(self.there, np.asarray(scores, np.float64), -np.inf)
        longest = masked.shape[-1]
        at = min(self.size, longest)
        bar = np.partition(masked, longest - at, axis=-1)[..., longest - at, None]
        above = masked > bar
        level = masked == bar
        wanted = at - above.sum(axis=-1, keepdims=True)
        return np.asarray((above | (level & (np.cumsum(level, axis=-1) <= wanted))) & self.there, np.bool_)

    def slate_means(self, chosen: Bools) -> Floats:
        """Mean raw utilities [..., r, s] of slates given as masks [..., r, m]."""
        masks = chosen.reshape(-1, *self.there.shape).swapaxes(0, 1).astype(np.float64)
        sums = (masks @ self.utilities).swapaxes(0, 1).reshape(*chosen.shape[:-1], len(self.names))
        return np.asarray(sums / self.sizes[:, None], np.float64)

    def chunks(self, count: int) -> list[slice]:
        """Slices of `count` scorings that keep intermediate arrays small."""
        step = max(1, CHUNK // max(self.there.size, 1))
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def mixing(names: Sequence[str], mix: Mapping[str, float] | ArrayLike | None) -> Floats:
    """Mixing weights in the order of the stakeholders, absolute values summing to 1.

    Raises:
        DataError: A name is unknown, a number is not finite, or all are 0.
    """
    if mix is None:
        return np.full(len(names), 1.0 / len(names))
    if not isinstance(mix, Mapping):
        given = np.asarray(mix, np.float64)
        if given.shape != (len(names),):
            raise DataError(f"audit: wanted a mixing weight for each of {', '.join(names)}, found {mix}")
        mix = dict(zip(names, given.tolist(), strict=True))
    problem = mix_problem(mix, names)
    if problem:
        raise DataError(f"audit: the mix: {problem}")
    return shares(mix, names)
