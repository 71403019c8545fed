"""What it costs a stakeholder to be left out, and how much of that a few of its pairs win back.

Regret is a stakeholder's utility at its best point of a full set of mixes and knobs, less its utility under the
condition, as a share of its range over that full set: a number without a unit, above 1 where the condition is worse
than every point of the set. Every condition is measured at the same points (the audited mixing weights at each knob),
with slates of the same size and on the same requests; conditions differ in one thing only, what stands in for the
stakeholder. So a difference between two of them cannot come from averaging over other points.

Controls. "zero pairs": the mix without the stakeholder. "wrong pairs": as many pairs of somebody else. "no model": no
scores at all. The vectors that fits could begin at are measured unfitted, zero and one with the signs of the actions'
meaning, as is a fit that begins at the latter: where a fit goes to convergence its start must not matter, and where the
unfitted start does as well as the fit, the pairs did nothing. Learned weights are rescaled to the spread of the true
ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs
import numpy as np

from candidate_pipeline_stakeholder.audit.alignment import within_covariances
from candidate_pipeline_stakeholder.audit.document import share
from candidate_pipeline_stakeholder.audit.estimates import Estimate, resampling
from candidate_pipeline_stakeholder.audit.frontier import EVERY_SLATE, one_more
from candidate_pipeline_stakeholder.audit.greedy import greedy
from candidate_pipeline_stakeholder.audit.learning import Questions, learn, signs
from candidate_pipeline_stakeholder.audit.record import Condition, LeftOut, Regret, RegretPoint
from candidate_pipeline_stakeholder.audit.sensitivity import matched
from candidate_pipeline_stakeholder.audit.slates import CONSTANT, Floats, NotPossibleError, Scene

DELTAS: Final = tuple(float(step) / 10 for step in range(11))
SIZES: Final = (0, 25, 100, 400)
NOISE: Final = 0.25
FULL_STEPS: Final = 4
"""Steps of the left-out stakeholder's mixing weight from 0 to 1 in the full set."""
GAP: Final = 0.01
"""Smallest gap, in shares of the range, of which a part can be said to be closed."""

Learned = Mapping[tuple[int, int], Floats]
"""Weights [seeds, k] by stakeholder and number of pairs."""


def regret(
    scene: Scene,
    *,
    sizes: Sequence[int] = SIZES,
    deltas: Sequence[float] = DELTAS,
    delta: float = 0.0,
    seeds: int = 20,
    noise: float = NOISE,
    seed: int = 0,
    draws: int = 400,
    progress: Callable[[int, int], None] | None = None,
) -> Regret:
    """Leave each stakeholder out in turn.

    Args:
        scene: The requests. A stakeholder that the mix leaves out gets an equal part for its own turn.
        sizes: Numbers of its pairs; 0 is always among them.
        deltas: Knobs of the point set.
        delta: The audited knob; it joins them.
        seeds: Sets of pairs, and of random orders for "no model".
        noise: Temperature of the choices behind pairs, in standard deviations of the utility's differences.
        seed: Of the first set; the others follow.
        draws: Bootstrap draws over seeds and requests together.
        progress: Called with how many stakeholders are done, and of how many.

    Raises:
        NotPossibleError: There is one stakeholder, nothing to select from, or no utility varies.
    """
    if len(scene.names) < 2:
        raise NotPossibleError("one stakeholder only: without it there is nothing to rank by")
    if scene.counts.max() < 2:
        raise NotPossibleError("no request has two rows: there is nothing to select from")
    varying = [int(who) for who in np.flatnonzero(np.diagonal(within_covariances(scene).mean(axis=0)) > 0)]
    if not varying or not scene.span.any():
        raise NotPossibleError(EVERY_SLATE)
    knobs = (
        np.array(sorted({float(delta), *(float(knob) for knob in deltas)})) if scene.groups > 1 else np.array([delta])
    )
    asked = sorted({int(size) for size in sizes} - {0})
    zero, signed = np.zeros(len(scene.features)), signs(scene.features)
    draw = [
        Questions.draw(scene, who, asked[-1], seed + 1000 + turn) for who in varying for turn in range(seeds) if asked
    ]
    questions = {who: draw[at * seeds : (at + 1) * seeds] for at, who in enumerate(varying)}
    learned = _learned(questions, asked, noise, zero)
    # The same pairs again, the fewest of them: only the start differs.
    from_signed = {} if signed is None else _learned(questions, asked[:1], noise, signed)
    rng = np.random.default_rng([seed, 9])
    resample = _Resample.of(scene, seeds, draws, rng)
    no_model = _no_model(scene, knobs, seeds, rng)
    found, flat = [], []
    for done, who in enumerate(varying):
        mix = scene.mix if scene.mix[who] else one_more(scene.mix, who, 1.0 / len(scene.names))
        turn = _Turn.of(scene, who, mix, knobs, float(delta), resample)
        if turn is None:
            flat.append(scene.names[who])
        else:
            found.append(_left_out(turn, varying, asked, learned, from_signed, signed, no_model))
        if progress is not None:
            progress(done + 1, len(varying))
    if not found:
        raise NotPossibleError("no mix or knob changes what any stakeholder gets: there is no range to measure in")
    return Regret(
        names=scene.names,
        stakeholders=tuple(found),
        deltas=tuple(knobs.tolist()),
        full_points=(FULL_STEPS + 2) * len(knobs),
        mix=tuple(scene.mix.tolist()),
        sizes=(0, *asked),
        seeds=seeds,
        noise=noise,
        size=scene.size,
        words=_words(found, flat),
    )


def _learned(
    questions: Mapping[int, Sequence[Questions]], sizes: Sequence[int], noise: float, start: Floats
) -> dict[tuple[int, int], Floats]:
    """Weights fitted on the first of each stakeholder's pairs."""
    made: dict[tuple[int, int], Floats] = {}
    for who, sets in questions.items():
        answers = [each.answered(noise, 0.0)[0] for each in sets]
        for size in sizes:
            made[who, size] = np.array([learn(differences[:size], start)[0] for differences in answers])
    return made


def _no_model(scene: Scene, knobs: Floats, seeds: int, rng: np.random.Generator) -> Floats:
    """What slates are worth where no row has a score and rows come in random order, [seeds, d, r, s]."""
    blank = np.zeros((1, *scene.there.shape))
    orders = [np.argsort(rng.random(scene.there.shape), axis=1, kind="stable") for _ in range(seeds)]
    return np.concatenate([greedy(scene, blank, knobs, order).raw for order in orders])


@attrs.frozen(eq=False)
class _Resample:
    """Bootstrap weights of requests and of seeds, [draws, r] and [draws, seeds]."""

    requests: Floats | None
    seeds: Floats

    @classmethod
    def of(cls, scene: Scene, seeds: int, draws: int, rng: np.random.Generator) -> _Resample:
        several = scene.requests > 1
        return cls(resampling(scene.requests, draws, rng) if several else None, resampling(seeds, draws, rng))

    def draws(self, values: Floats) -> Floats | None:
        """Means of values [seeds or 1, r] with both resampled, [draws]; `None` where neither can be."""
        over = values.mean(axis=1)[None] if self.requests is None else self.requests @ values.T
        if values.shape[0] > 1:
            return np.asarray((self.seeds * over).sum(axis=1), np.float64)
        return None if self.requests is None else over[:, 0]

    def units(self, values: Floats) -> int:
        """The fewest things that are resampled for values [seeds or 1, r]."""
        counts = [] if self.requests is None else [self.requests.shape[1]]
        return min([*counts, values.shape[0]] if values.shape[0] > 1 else counts, default=1)


@attrs.frozen(eq=False)
class _Turn:
    """One stakeholder's turn to be left out."""

    scene: Scene
    who: int
    mix: Floats
    knobs: Floats
    at: int
    rest: Floats
    best: Floats
    low: float
    wide: float
    resample: _Resample

    @classmethod
    def of(cls, scene: Scene, who: int, mix: Floats, knobs: Floats, delta: float, resample: _Resample) -> _Turn | None:
        """`None` where no point of the full set differs from another for it."""
        full = np.vstack([mix, *(one_more(mix, who, step / FULL_STEPS) for step in range(FULL_STEPS + 1))])
        points = greedy(scene, scene.score(full), knobs).raw[..., who].reshape(-1, scene.requests)
        means = points.mean(axis=1)
        wide = float(means.max() - means.min())
        if not wide > CONSTANT * float(scene.scale[:, who].max()):
            return None
        others = np.where(np.arange(len(mix)) == who, 0.0, mix)
        rest = scene.score(others[None])[0]
        at = int(np.flatnonzero(knobs == delta)[0])
        return cls(scene, who, mix, knobs, at, rest, points[int(means.argmax())], float(means.min()), wide, resample)

    def losses(self, weights: Floats) -> tuple[Floats, Floats]:
        """Regrets of requests with vectors [c, k] in the stakeholder's place, [c, r]: over all points, at the knob."""
        fitted = matched(weights, self.scene.weights[self.who], self.scene.moments.covariance)
        parts = [
            greedy(self.scene, self.rest + self.mix[self.who] * self.scene.standardised(fitted[part]), self.knobs).raw
            for part in self.scene.chunks(len(fitted))
        ]
        return self.of_raw(np.concatenate(parts))

    def of_raw(self, raw: Floats) -> tuple[Floats, Floats]:
        """Regrets [c, r] of slates worth [c, d, r, s]."""
        own = raw[..., self.who]
        return (self.best - own.mean(axis=1)) / self.wide, (self.best - own[:, self.at]) / self.wide

    def point(self, condition: Condition, pairs: int, losses: tuple[Floats, Floats]) -> RegretPoint:
        """A condition's record, of regrets [seeds or 1, r]."""
        over, at = (
            Estimate.of(values.mean(), self.resample.draws(values), self.resample.units(values)) for values in losses
        )
        return RegretPoint(condition, pairs, over, at)

    def closed(self, true: Floats, zero: Floats, found: Floats) -> Estimate:
        """Share of the gap between leaving out and its true utility that a condition closes."""
        gap = float(zero.mean() - true.mean())
        if not gap > GAP:
            return Estimate(None)
        value = (zero.mean() - found.mean()) / gap
        drawn = [self.resample.draws(each) for each in (true, zero, found)]
        if drawn[0] is None or drawn[1] is None or drawn[2] is None:
            return Estimate.of(value)
        with np.errstate(invalid="ignore", divide="ignore"):
            wide = drawn[1] - drawn[0]
            share = np.where(wide > GAP, (drawn[1] - drawn[2]) / wide, np.nan)
        return Estimate.of(value, share, self.resample.units(found))


def _left_out(
    turn: _Turn,
    varying: Sequence[int],
    sizes: Sequence[int],
    learned: Learned,
    from_signed: Learned,
    signed: Floats | None,
    no_model: Floats,
) -> LeftOut:
    scene, who = turn.scene, turn.who
    zero = np.zeros((1, len(scene.features)))
    others = [one for one in varying if one != who]
    vectors: dict[tuple[Condition, int], Floats] = {
        ("true utility", 0): scene.weights[None, who],
        ("zero pairs", 0): zero,
    }
    for size in sizes:
        vectors["pairs", size] = learned[who, size]
        if others:
            # Each set of pairs is of another one of the others, in turn.
            sets = range(len(learned[who, size]))
            vectors["wrong pairs", size] = np.array([learned[others[at % len(others)], size][at] for at in sets])
        if (who, size) in from_signed:
            vectors["pairs from the signed start", size] = from_signed[who, size]
    vectors["untrained zero start", 0] = zero
    if signed is not None:
        vectors["untrained signed start", 0] = signed[None]
    over, at_knob = turn.losses(np.concatenate(list(vectors.values())))
    ends = np.cumsum([len(each) for each in vectors.values()])[:-1]
    split = list(zip(np.split(over, ends), np.split(at_knob, ends), strict=True))
    losses = dict(zip(vectors, split, strict=True))
    losses["no model", 0] = turn.of_raw(no_model)
    true, none = losses["true utility", 0][0], losses["zero pairs", 0][0]
    return LeftOut(
        name=scene.names[who],
        best=float(turn.best.mean()),
        worst=turn.low,
        points=tuple(turn.point(condition, size, found) for (condition, size), found in losses.items()),
        closed={size: turn.closed(true, none, losses["pairs", size][0]) for size in sizes},
        closed_wrong={size: turn.closed(true, none, losses["wrong pairs", size][0]) for size in sizes if others},
    )


def _words(found: Sequence[LeftOut], flat: Sequence[str]) -> tuple[str, ...]:
    told = []
    for each in found:
        by = {(point.condition, point.pairs): point.regret for point in each.points}
        out, true = by["zero pairs", 0].value or 0.0, by["true utility", 0].value or 0.0
        told.append(
            f"Left out, {each.name} has a regret of {share(out)} of its range; with its true utility in the mix "
            f"{share(true)}, with no model at all {share(by['no model', 0].value or 0.0)}."
        )
        few = min(each.closed, default=None)
        if few is None:
            continue
        value, wrong = each.closed[few].value, each.closed_wrong.get(few, Estimate(None)).value
        if value is None:
            told.append(f"{each.name} loses next to nothing by being left out: there is no gap for pairs to close.")
        else:
            than = "" if wrong is None else f"; {few} pairs of others {_gap(wrong)}"
            told.append(f"Of that gap {few} pairs of {each.name} {_gap(value)}{than}.")
        start = by.get(("untrained signed start", 0))
        pairs = by["pairs", few].value
        if start is not None and start.value is not None and pairs is not None and start.value <= pairs:
            told.append(
                f"For {each.name}, weights of plus and minus one by the actions' meaning, without any pairs, do at "
                f"least as well as {few} pairs (a regret of {share(start.value)} against {share(pairs)})."
            )
    if flat:
        told.append(f"No mix or knob changes what they get, so they have no regret: {', '.join(flat)}.")
    return tuple(told)


def _gap(closed: float) -> str:
    """What part of a gap is closed, in words."""
    return f"close {share(closed)}" if closed >= 0 else f"close nothing and add {share(-closed)}"
