"""What other mixes, and more diversity, would give each stakeholder.

Every point is a selection done anew. At delta 0 a slate holds the largest weighted sums of standardised utilities, so a
stakeholder never gets less when its mixing weight is raised and the others are left as they are: of two maximisers of
f + a * g and f + b * g with b > a, the second has at least as much g. With the diversity knob on, picks are greedy, and
that need not hold.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from candidate_pipeline_stakeholder.audit.document import number, share
from candidate_pipeline_stakeholder.audit.estimates import Estimate, resampling
from candidate_pipeline_stakeholder.audit.greedy import Picked, greedy, spread
from candidate_pipeline_stakeholder.audit.record import Frontier, FrontierPoint
from candidate_pipeline_stakeholder.audit.slates import Floats, NotPossibleError, Scene
from candidate_pipeline_stakeholder.audit.wording import value

DELTAS: Final = tuple(float(step) / 20 for step in range(21))
MIX_STEPS: Final = 10
"""Steps of the sweep over mixes."""
EVERY_SLATE: Final = (
    "every slate is worth the same: utilities do not vary within requests, or a slate holds all rows of a request"
)
SAME: Final = 1e-12
"""Differences of shares below this are rounding."""


def frontier(
    scene: Scene,
    *,
    deltas: Sequence[float] = DELTAS,
    delta: float = 0.0,
    mix_steps: int = MIX_STEPS,
    draws: int = 200,
    seed: int = 0,
) -> Frontier:
    """Sweep the diversity knob at the audited mix, and the mixes without it.

    Args:
        scene: The requests.
        deltas: Knobs, from 0 to 1.
        delta: The audited knob; it joins `deltas`.
        mix_steps: Steps from 0 to 1 of a mixing weight.
        draws: Bootstrap draws over requests.
        seed: For them.

    Raises:
        NotPossibleError: No request has two rows, or no stakeholder's utility varies.
    """
    if scene.counts.max() < 2:
        raise NotPossibleError("no request has two rows: there is nothing to select from")
    if not scene.span.any():
        raise NotPossibleError(EVERY_SLATE)
    reasons = []
    diverse = scene.groups > 1
    knobs = sorted({float(delta), *(float(knob) for knob in deltas)}) if diverse else [float(delta)]
    if not scene.known_groups:
        reasons.append("no row has a group, so there is nothing to spread slates over")
    elif not diverse:
        reasons.append("all rows are of one group, so there is nothing to spread slates over")
    resample = None
    if scene.requests > 1:
        resample = resampling(scene.requests, draws, np.random.default_rng([seed, 8]))
    picked = greedy(scene, scene.score(scene.mix[None]), knobs)
    delta_points = _points(scene, picked, [(scene.mix, knob) for knob in knobs], resample, (scene.mix, float(delta)))
    mixes, sweep = mixes_of(scene.mix, mix_steps)
    if not len(mixes):
        reasons.append("one stakeholder only: there is no other mix")
    mix_points: list[FrontierPoint] = []
    if len(mixes):
        parts = [greedy(scene, scene.score(mixes[part]), [0.0]) for part in scene.chunks(len(mixes))]
        mix_points = _points(
            scene, Picked.concat(parts), [(mix, 0.0) for mix in mixes], resample, (scene.mix, float(delta))
        )
    chosen = next(point for point in delta_points if point.chosen)
    return Frontier(
        names=scene.names,
        size=scene.size,
        delta_points=tuple(delta_points),
        mix_points=tuple(mix_points),
        mix_sweep=sweep,
        served=served(scene, resample),
        chosen=chosen,
        reasons=tuple(reasons),
        words=_words(scene.names, delta_points, mix_points, chosen),
    )


def mixes_of(mix: Floats, steps: int) -> tuple[Floats, str]:
    """Mixes of a sweep, float64 [c, s], and which sweep it is; every weight keeps the sign that it has in `mix`.

    Two or three stakeholders: the grid over the simplex. More: each one's weight from 0 to 1, the others in proportion.
    """
    count = len(mix)
    sign = np.where(mix < 0, -1.0, 1.0)
    if count < 2:
        return np.zeros((0, count)), ""
    if count <= 3:
        grid = [each for each in itertools.product(range(steps + 1), repeat=count) if sum(each) == steps]
        return np.array(grid, np.float64) / steps * sign, "simplex"
    made = [one_more(mix, who, step / steps) for who in range(count) for step in range(steps + 1)]
    return np.array(made), "one at a time"


def one_more(mix: Floats, who: int, weight: float) -> Floats:
    """The mix in which one stakeholder has a weight in 0 to 1 and the others share the rest as they did."""
    others = np.delete(np.abs(mix), who)
    others = others / others.sum() if others.sum() > 0 else np.full(len(others), 1.0 / max(len(others), 1))
    made = np.insert(others * (1.0 - weight), who, weight)
    return np.asarray(made * np.where(mix < 0, -1.0, 1.0), np.float64)


def pareto(objectives: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates, bool [n] of objectives to be maximised [n, x].

    A point is dominated by one that is at least as good everywhere and better somewhere; equal points do not dominate
    each other. Differences up to 1e-12 are none.
    """
    found = np.asarray(objectives, np.float64)
    off = found[:, None, :] - found[None, :, :]
    dominated = np.asarray(((off >= -SAME).all(axis=2) & (off > SAME).any(axis=2)).any(axis=0))
    return np.asarray(~dominated, np.bool_)


def _points(
    scene: Scene,
    picked: Picked,
    settings: Sequence[tuple[Floats, float]],
    resample: Floats | None,
    chosen: tuple[Floats, float],
) -> list[FrontierPoint]:
    """One point for each setting; `picked` has as many conditions times knobs."""
    raw = picked.raw.reshape(-1, *picked.raw.shape[2:])
    groups, entropy, authors = (
        found.reshape(-1, scene.requests) for found in (picked.groups, picked.entropy, picked.authors)
    )
    shares = scene.share_estimates(raw, resample)
    means = raw.mean(axis=1)
    varying = scene.span > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        value = ((raw - scene.worst).mean(axis=1) / scene.span)[:, varying]
    if scene.known_groups:
        value = np.column_stack([value, groups.mean(axis=1)])
    front = pareto(value)
    made = []
    for row, (mix, delta) in enumerate(settings):
        drawn = None if resample is None else resample @ groups[row]
        made.append(
            FrontierPoint(
                mix=tuple(float(part) for part in mix),
                delta=delta,
                raw=tuple(float(one) for one in means[row]),
                share=shares[row],
                groups=Estimate.of(groups[row].mean(), drawn, scene.requests) if scene.known_groups else None,
                entropy=float(entropy[row].mean()) if scene.known_groups else None,
                authors=float(authors[row].mean()) if (scene.author >= 0).any() else None,
                pareto=bool(front[row]),
                chosen=bool(delta == chosen[1] and np.allclose(mix, chosen[0], rtol=0, atol=1e-12)),
            )
        )
    return made


def served(scene: Scene, resample: Floats | None = None) -> FrontierPoint | None:
    """What the rows that were served gave; `None` where none is marked. Requests without any do not count."""
    counts = scene.selected.sum(axis=1)
    some = counts > 0
    if not some.any():
        return None
    sums = np.einsum("rm,rms->rs", scene.selected.astype(np.float64), scene.utilities)
    raw = np.where(some[:, None], sums / np.maximum(counts, 1)[:, None], np.nan)
    groups, entropy = np.full(scene.requests, np.nan), np.full(scene.requests, np.nan)
    authors = np.full(scene.requests, np.nan)
    for request in np.flatnonzero(some):
        shown = scene.selected[request]
        tally = np.bincount(scene.group[request, shown], minlength=scene.groups)
        available = len(np.unique(scene.group[request, scene.there[request]]))
        groups[request], entropy[request] = spread(tally, int(counts[request]), available)
        writers = scene.author[request, shown]
        authors[request] = len(np.unique(writers[writers >= 0])) + int((writers < 0).sum())
    return FrontierPoint(
        mix=None,
        delta=None,
        raw=tuple(float(one) for one in raw[some].mean(axis=0)),
        share=scene.share_estimates(raw[None], resample)[0],
        groups=Estimate(float(groups[some].mean())) if scene.known_groups else None,
        entropy=float(entropy[some].mean()) if scene.known_groups else None,
        authors=float(authors[some].mean()) if (scene.author >= 0).any() else None,
        pareto=False,
        chosen=False,
    )


def _words(
    names: Sequence[str], deltas: Sequence[FrontierPoint], mixes: Sequence[FrontierPoint], chosen: FrontierPoint
) -> tuple[str, ...]:
    told = []
    if len(deltas) > 1 and chosen.groups is not None:
        known = [point for point in deltas if point.groups is not None and point.groups.value is not None]
        most = max(point.groups.value or 0.0 for point in known if point.groups is not None)
        have = chosen.groups.value or 0.0
        goal = have + 0.9 * (most - have)
        reach = next((p for p in known if p.groups is not None and (p.groups.value or 0.0) >= goal - SAME), chosen)
        if most - have > 0.01 and reach.groups is not None:
            told.append(
                f"The knob at {reach.delta:g} shows {reach.groups.value:.1f} groups a slate instead of {have:.1f}, and "
                f"changes shares by {_changes(names, chosen, reach)}."
            )
        else:
            told.append(f"The knob adds nothing: slates show {have:.1f} groups with or without it.")
    on = "on" if chosen.pareto else "inside"
    what = "shares and groups" if chosen.groups is not None else "shares"
    told.append(f"The audited point is {on} the front of its sweep over the knob, in {what}.")
    for who, name in enumerate(names):
        best = max(mixes, key=lambda point: point.share[who].value or 0.0, default=None)
        if best is not None and best.share[who].value is not None and chosen.share[who].value is not None:
            told.append(
                f"{name} gets {share(value(chosen.share[who]))} of its range; the mix best for it would give "
                f"{share(value(best.share[who]))} and change the others by {_changes(names, chosen, best, leave=who)}."
            )
    return tuple(told)


def _changes(names: Sequence[str], before: FrontierPoint, after: FrontierPoint, leave: int = -1) -> str:
    found = [
        f"{name} {number(100 * (value(after.share[who]) - value(before.share[who])), 1, True, tiny=False)}"
        for who, name in enumerate(names)
        if who != leave and before.share[who].value is not None
    ]
    return f"{', '.join(found)} points" if found else "nothing"
