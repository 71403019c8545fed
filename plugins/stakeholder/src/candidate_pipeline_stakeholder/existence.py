"""Whether a maximum-likelihood estimate exists: whether some direction of the weights puts no pair on the wrong side.

Along a direction u with u·d ≥ 0 for every difference d = preferred - other, and > 0 for some, every loss that falls in
Δ falls without end, so no finite weights are best: the pairs are separable (all > 0) or quasi-separable (Albert and
Anderson, 1984, for logistic regression). Any number of pairs can be so where the judgements hold no contradiction.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from candidate_pipeline_stakeholder.pairs import Floats
from candidate_pipeline_stakeholder.products import utilities_of

SLACK: Final = 1e-9
"""How far below zero a standardised row may be for rounding."""
AHEAD: Final = 1e-6
"""How far above zero the best row must be to count."""
FEASIBLE: Final = 1e-10
"""The tolerances of the linear program, the finest HiGHS takes."""
ROUNDS: Final = 50


def certainly_exists(rows: Floats, gram: Floats, scale: Floats, gradient: Floats, slopes: Floats) -> bool:
    """A proof, at the cost of one product, that no direction separates; `False` says nothing.

    At a stationary point Σ yᵢ dᵢ = 0 with all yᵢ > 0, and then u·dᵢ ≥ 0 for all i leaves only u·dᵢ = 0 for all i
    (Stiemke's lemma). A computed point leaves a gradient. Changing each slope by dᵢ·G⁺·gradient takes it away exactly,
    and as long as no slope changes by half of itself all stay over 0. Slopes so small that rounding in the gradient
    could matter prove nothing.

    Args:
        rows: [n, k] differences.
        gram: [k, k], the weighted mean of d dᵀ.
        scale: [k], root mean squares.
        gradient: [k], what is left of the weighted mean of -slopeᵢ dᵢ.
        slopes: [n], how fast each pair's loss falls, 0 or more.
    """
    if not len(slopes):
        return False
    standard = gram / np.outer(scale, scale)
    values, vectors = np.linalg.eigh((standard + standard.T) / 2)
    kept = values > 1e-12 * max(float(values[-1]), np.finfo(float).tiny)
    if not kept.any():
        return False
    reach = float(np.linalg.norm(np.abs(rows).max(axis=0) / scale))
    rounding = 4 * np.finfo(float).eps * len(scale) * reach / float(values[kept].min())
    if float(slopes.min()) <= max(rounding, 1e-13):
        return False
    part = vectors[:, kept]
    change = part @ ((part.T @ (gradient / scale)) / values[kept]) / scale
    return bool(np.all(np.abs(utilities_of(rows, change)) <= 0.5 * slopes))


def separating(
    rows: Floats, transform: Floats, guess: Floats | None = None, bounds: Floats | None = None
) -> Floats | None:
    """A direction along which no row falls and some rise, or `None` where there is none.

    A linear program, max c·u under rows·u ≥ 0 and |u| ≤ 1 with c the sum of the rows, solved by HiGHS over the rows
    that
    bind: it starts with few and adds those that its answer violates. Leaving rows out only widens what is feasible, so
    an optimum of zero is an answer at any time; an optimum over zero is one once no row is violated.

    Args:
        rows: [n, k].
        transform: [k, r], the coordinates to solve in (u = transform·z); standardised ones make tolerances mean
            something.
        guess: [k], a direction to try first, which costs no program.
        bounds: [r, 2] of z; all within ±1 if not given.

    Returns:
        float64 [k] of length one, or `None`.
    """
    from scipy import optimize

    solve: Any = optimize.linprog

    standard = rows @ transform
    length = np.linalg.norm(standard, axis=1)
    moving = length > SLACK * max(float(length.max(initial=0.0)), np.finfo(float).tiny)
    standard = standard[moving] / length[moving, None]
    if not standard.size:
        return None
    margins = np.zeros(len(standard))
    if guess is not None:
        start = np.linalg.lstsq(transform, guess, rcond=None)[0]
        size = float(np.abs(start).max(initial=0.0))
        if size > 0:
            margins = standard @ (start / size)
            if bounds is None and float(margins.min()) > AHEAD:
                return np.asarray(guess / np.linalg.norm(guess))
    limits = np.tile([-1.0, 1.0], (transform.shape[1], 1)) if bounds is None else bounds
    goal = standard.mean(axis=0)
    if not np.abs(goal).max() > 0:
        return None  # the rows cancel each other, which any direction that favours one would have to break
    goal = goal / np.abs(goal).max()
    portion = max(20 * transform.shape[1], 200)
    used = np.zeros(len(standard), bool)
    used[np.argsort(margins, kind="stable")[:portion]] = True
    for turn in range(ROUNDS + 1):
        if turn == ROUNDS:
            used[:] = True
        answer = solve(
            -goal,
            A_ub=-standard[used],
            b_ub=np.zeros(int(used.sum())),
            bounds=limits,
            method="highs",
            options={"primal_feasibility_tolerance": FEASIBLE, "dual_feasibility_tolerance": FEASIBLE},
        )
        if answer.x is None:
            return None
        direction = np.asarray(answer.x, np.float64)
        if float(goal @ direction) <= SLACK:
            return None
        margins = standard @ direction
        wrong = np.flatnonzero((margins < -SLACK) & ~used)
        if not len(wrong):
            break
        used[wrong[np.argsort(margins[wrong], kind="stable")][:portion]] = True
    if float(margins.max()) <= AHEAD:
        return None
    found = transform @ direction
    return np.asarray(found / np.linalg.norm(found))
