"""Runs every analysis that a pool and its stakeholders allow, and says why the others were not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, get_args

import attrs
import numpy as np
from numpy.typing import ArrayLike

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.audit import recovery as recovering
from candidate_pipeline_stakeholder.audit import regret as regretting
from candidate_pipeline_stakeholder.audit import sensitivity as perturbing
from candidate_pipeline_stakeholder.audit.alignment import MIN_REQUESTS, alignment, cosines, within_covariances
from candidate_pipeline_stakeholder.audit.disagreement import disagreement
from candidate_pipeline_stakeholder.audit.document import share
from candidate_pipeline_stakeholder.audit.estimates import resampling
from candidate_pipeline_stakeholder.audit.frontier import DELTAS, frontier, served
from candidate_pipeline_stakeholder.audit.greedy import greedy
from candidate_pipeline_stakeholder.audit.record import Audit, PartName, StakeholderSummary, UtilitiesPart
from candidate_pipeline_stakeholder.audit.slates import NotPossibleError, Scene
from candidate_pipeline_stakeholder.audit.wording import percent, value
from candidate_pipeline_stakeholder.pairs import Pairs
from candidate_pipeline_stakeholder.pool import Pool
from candidate_pipeline_stakeholder.utilities import Utilities

PARTS: Final[tuple[PartName, ...]] = get_args(PartName)
MAX_CELLS: Final = 40_000_000
"""Values of features laid out at most, padding included; 320 MB."""
SIZE: Final = 10
INTERRUPTED: Final = "interrupted before it was done"
"""The reason of a part that Ctrl-C left out."""

Progress = Callable[[str, int, int], None]
"""Called with the name of a part, how many of its steps are done, and of how many."""


@attrs.frozen
class Effort:
    """How much an audit does. `Effort()` takes about 10 s for 50 requests of 1,000 rows, `QUICK` 2 s.

    Args:
        max_requests: Requests kept; more are sampled.
        max_rows: Rows of a request kept, those that were served first; more are sampled.
        draws: Bootstrap draws.
        seeds: Sets of pairs for recovery.
        regret_seeds: Sets of pairs for regret.
        perturbations: Draws of each simultaneous misspecification.
        factors: What single weights are multiplied by.
        sigmas: Sizes of simultaneous misspecification.
        sizes: Numbers of pairs for recovery.
        noises: Their (temperature, flips).
        regret_sizes: Numbers of pairs for regret.
        deltas: Diversity knobs of the frontier.
        regret_deltas: Those of regret.
        mix_steps: Steps of the sweep over mixes.
    """

    max_requests: int = 100
    max_rows: int = 1000
    draws: int = 400
    seeds: int = 10
    regret_seeds: int = 20
    perturbations: int = 20
    factors: tuple[float, ...] = perturbing.FACTORS
    sigmas: tuple[float, ...] = perturbing.SIGMAS
    sizes: tuple[int, ...] = recovering.SIZES
    noises: tuple[tuple[float, float], ...] = recovering.NOISES
    regret_sizes: tuple[int, ...] = regretting.SIZES
    deltas: tuple[float, ...] = DELTAS
    regret_deltas: tuple[float, ...] = regretting.DELTAS
    mix_steps: int = 10


FULL: Final = Effort()
QUICK: Final = Effort(
    max_requests=20,
    max_rows=300,
    draws=100,
    seeds=3,
    regret_seeds=3,
    perturbations=5,
    factors=(0.0, 0.5, 2.0),
    sigmas=(0.0, 0.3),
    sizes=(25, 100, 400, 1600),
    noises=((0.25, 0.0), (0.25, 0.2)),
    regret_sizes=(0, 25, 100),
    deltas=tuple(step / 10 for step in range(11)),
    regret_deltas=tuple(step / 5 for step in range(6)),
    mix_steps=5,
)


def run_audit(
    utilities: Utilities,
    pool: Pool,
    *,
    pairs: Pairs | None = None,
    mix: Mapping[str, float] | ArrayLike | None = None,
    size: int | None = None,
    normalise: str = "request",
    delta: float = 0.0,
    seed: int = 0,
    seeds: int | None = None,
    quick: bool = False,
    effort: Effort | None = None,
    parts: Collection[str] = PARTS,
    progress: Progress | None = None,
    keep_interrupted: bool = False,
) -> Audit:
    """Audit stakeholders on a pool.

    The same arguments give the same record, bit for bit, with the same versions of numpy and scipy and as many threads
    of linear algebra.

    Args:
        utilities: The stakeholders; their weights are taken by feature.
        pool: What requests could choose from.
        pairs: Preferences as they were collected, to see how well the utilities agree with them.
        mix: Mixing weights by name or in the stakeholders' order; `None`: equal ones.
        size: Rows of a slate; `None`: the median number that was served, or 10 where the pool does not know.
        normalise: How the score standardises utilities, as the scorer's option: "request", "pool" or "none".
        delta: The audited diversity knob, 0 to 1.
        seed: For everything random.
        seeds: Sets of pairs for recovery and regret; `None`: as the effort says.
        quick: A small version; intervals are wider and sweeps coarser.
        effort: Exactly how much, in place of `quick`.
        parts: Which parts to run; the others are left out with that reason.
        progress: Called as parts begin and get on.
        keep_interrupted: On Ctrl-C, return what is done, with that reason for the rest, instead of raising.

    Raises:
        DataError: Nothing can be audited: the pool has no feature with a weight, the mix or an option does not fit.
    """
    much = effort or (QUICK if quick else FULL)
    if seeds is not None:
        if seeds < 1:
            raise DataError(f"audit: wanted at least one seed, found {seeds}")
        much = attrs.evolve(much, seeds=seeds, regret_seeds=seeds)
    if not 0 <= delta <= 1:
        raise DataError(f"audit: wanted a diversity knob from 0 to 1, found {delta}")
    if seed < 0:
        raise DataError(f"audit: wanted a seed of at least 0, found {seed}")
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise DataError(f"audit: no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if not set(utilities.features) & set(pool.features):
        raise DataError(
            f"audit: no feature of the utilities ({_some(utilities.features)}) is in the pool ({_some(pool.features)})"
        )
    if size is None:
        shown = np.bincount(pool.request, weights=pool.selected)
        size = int(np.median(shown[shown > 0])) if shown.any() else SIZE
    kept, sampled = sample(pool, much.max_requests, much.max_rows, seed)
    scene = Scene.of(utilities, kept, mix=mix, size=size, how=normalise)
    config: dict[str, Any] = {
        "stakeholders": list(scene.names),
        "mix": dict(zip(scene.names, scene.mix.tolist(), strict=True)),
        "normalise": normalise,
        "delta": float(delta),
        "size": size,
        "requests": scene.requests,
        "rows": len(kept),
        "requests_given": pool.request_count,
        "rows_given": len(pool),
        "features": list(scene.features),
        "groups": list(kept.groups),
        "pairs_given": 0 if pairs is None else len(pairs),
        "seed": seed,
        **attrs.asdict(much),
    }
    tell: Progress = progress or (lambda _part, _done, _total: None)
    runs: dict[str, Callable[[], Any]] = {
        "utilities": lambda: summary(utilities, scene, float(delta), much.draws, seed),
        "cosines": lambda: cosines(scene),
        "disagreement": lambda: disagreement(scene, pairs=pairs, draws=much.draws, seed=seed),
        "alignment": lambda: alignment(scene, draws=much.draws, seed=seed),
        "sensitivity": lambda: perturbing.sensitivity(
            scene,
            factors=much.factors,
            sigmas=much.sigmas,
            perturbations=much.perturbations,
            draws=much.draws,
            seed=seed,
        ),
        "recovery": lambda: recovering.recovery(
            scene,
            sizes=much.sizes,
            noises=much.noises,
            seeds=much.seeds,
            seed=seed,
            draws=much.draws,
            progress=lambda done, total: tell("recovery", done, total),
        ),
        "frontier": lambda: frontier(
            scene, deltas=much.deltas, delta=delta, mix_steps=much.mix_steps, draws=much.draws, seed=seed
        ),
        "regret": lambda: regretting.regret(
            scene,
            sizes=much.regret_sizes,
            deltas=much.regret_deltas,
            delta=delta,
            seeds=much.regret_seeds,
            seed=seed,
            draws=much.draws,
            progress=lambda done, total: tell("regret", done, total),
        ),
    }
    found: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    interrupted = False
    for part in PARTS:
        if part not in parts:
            reasons[part] = "not asked for"
        elif interrupted:
            reasons[part] = INTERRUPTED
        else:
            tell(part, 0, 1)
            try:
                found[part] = runs[part]()
            except NotPossibleError as error:
                reasons[part] = str(error)
            except KeyboardInterrupt:
                if not keep_interrupted:
                    raise
                interrupted = True
                reasons[part] = INTERRUPTED
            else:
                tell(part, 1, 1)
    return Audit(config=config, reasons=reasons, warnings=_warnings(utilities, pool, scene, sampled), **found)


def sample(pool: Pool, max_requests: int, max_rows: int, seed: int) -> tuple[Pool, str]:
    """A pool within limits, and what was left out in a sentence; empty where nothing was.

    Requests are sampled first, then rows of the larger ones; rows that were served stay as long as there is room.
    """
    rng = np.random.default_rng([seed, 10])
    rows = list(pool.requests())
    kept = list(range(len(rows)))
    if len(rows) > max_requests:
        kept = sorted(rng.choice(len(rows), max_requests, replace=False).tolist())
    limit = min(max_rows, max(1, MAX_CELLS // (len(kept) * len(pool.features))))
    chosen = []
    for request in kept:
        at = rows[request]
        if len(at) > limit:
            # Served rows get a key below all others.
            keys = rng.random(len(at)) - pool.selected[at]
            at = np.sort(at[np.argsort(keys, kind="stable")[:limit]])
        chosen.append(at)
    count = sum(len(at) for at in chosen)
    if count == len(pool):
        return pool, ""
    told = (
        f"A sample was audited: {len(kept):,} of {len(rows):,} requests with at most {limit:,} rows each, "
        f"{count:,} of {len(pool):,} rows in all."
    )
    return pool.take(np.sort(np.concatenate(chosen))), told


def summary(utilities: Utilities, scene: Scene, delta: float, draws: int, seed: int) -> UtilitiesPart:
    """Each stakeholder on this pool, and what the audited mix and knob give it."""
    resample = None
    if scene.requests > 1:
        resample = resampling(scene.requests, draws, np.random.default_rng([seed, 8]))
    picked = greedy(scene, scene.score(scene.mix[None]), [delta])
    shares = scene.share_estimates(picked.raw[:, 0], resample)[0]
    shown = served(scene, resample)
    within = np.sqrt(np.diagonal(within_covariances(scene).mean(axis=0)))
    flat = scene.utilities[scene.there]
    made = []
    for who, name in enumerate(scene.names):
        given = utilities.vector(name)
        absent = tuple(
            feature
            for feature, weight in zip(utilities.features, given, strict=True)
            if weight and feature not in scene.features
        )
        made.append(
            StakeholderSummary(
                name=name,
                mix=float(scene.mix[who]),
                weights={feature: float(w) for feature, w in zip(scene.features, scene.weights[who], strict=True)},
                missing=absent,
                norm=float(np.linalg.norm(scene.weights[who])),
                mean=float(flat[:, who].mean()),
                sd=float(flat[:, who].std()),
                within_sd=float(within[who]),
                worst=float(scene.worst[:, who].mean()),
                best=float(scene.best[:, who].mean()),
                share=shares[who],
                served=None if shown is None else shown.share[who],
            )
        )
    return UtilitiesPart(tuple(made), _words(made))


def _words(made: list[StakeholderSummary]) -> tuple[str, ...]:
    told = []
    for each in made:
        if each.share.value is None:
            told.append(
                f"{each.name}'s utility is the same for all rows of a request: no slate is better than another."
            )
            continue
        served = value(each.served)
        was = f"; what was served gave {share(served)}" if served == served else ""  # noqa: PLR0124 - NaN
        told.append(f"The mix gives {each.name} {percent(each.share)} of what it could get{was}.")
    return tuple(told)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _warnings(utilities: Utilities, pool: Pool, scene: Scene, sampled: str) -> tuple[str, ...]:
    told = [sampled] if sampled else []
    used = (utilities.weights != 0).any(axis=0)
    absent = [name for name, there in zip(utilities.features, used, strict=True) if there and name not in pool.features]
    if absent:
        told.append(f"The pool lacks features that stakeholders weigh; they count as 0: {', '.join(absent)}.")
    ignored = [name for at, name in enumerate(scene.features) if not scene.weights[:, at].any()]
    if ignored:
        told.append(f"No stakeholder weighs {', '.join(ignored)}.")
    still = [name for name, varies in zip(scene.features, scene.varies, strict=True) if not varies]
    if still:
        told.append(f"Features that never vary in this pool, whose weights change nothing: {', '.join(still)}.")
    if scene.requests < MIN_REQUESTS:
        told.append(
            f"Only {scene.requests} request{'s' if scene.requests > 1 else ''}: intervals are too narrow for "
            "what other requests would say."
        )
    for name in scene.names:
        fit: Mapping[str, Any] = utilities.fits.get(name, {})
        if fit.get("separable") or fit.get("converged") is False:
            told.append(f"The fit of {name} did not converge or its pairs are separable; its weights are not settled.")
    return tuple(told)
