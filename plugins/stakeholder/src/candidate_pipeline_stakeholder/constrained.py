"""The two penalties that are not smooth: what is guaranteed about each, and how it is reached.

Hinges, c/m·Σ max(0, w_j + b) over m features: convex. Each step minimises the exact second-order model plus the hinges
themselves, not a smoothed form of them (proximal Newton; Lee, Sun and Saunders, 2014), through its dual, a bounded
least-squares problem in m multipliers between 0 and c/m. At the end the smallest subgradient is the measure: where it
is zero is the global minimum. Weights at the kink are there exactly.

Spread, c·max(0, s - std(w)): not convex. If the plain optimum has at least that spread it is the global minimum of the
penalised loss too, for the penalty is nowhere below zero. Otherwise the answer is the best stationary point of several
searches, inside the bound or on it.
"""

from __future__ import annotations

from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_stakeholder.losses import Constrained
from candidate_pipeline_stakeholder.minimise import Objective, Solution, minimise
from candidate_pipeline_stakeholder.pairs import Floats
from candidate_pipeline_stakeholder.penalised import Penalised

HALVINGS: Final = 40
RANDOM_STARTS: Final = 2


def hinged(
    smooth: Penalised, loss: Constrained, start: Solution, scale: Floats, tolerance: float, limit: int
) -> Solution:
    """Minimise a smooth convex objective plus the hinges of a loss.

    Args:
        smooth: All but the hinges.
        loss: Where the hinges come from.
        start: The minimum without hinges.
        scale: [k], each feature's size, which steps are measured in.
        tolerance: The largest entry of the smallest subgradient to stop at, far below what is asked of the fit.
        limit: Steps at most.

    Returns:
        The point, with the smallest subgradient in place of a gradient.
    """
    from scipy.optimize import lsq_linear

    places = np.array(loss.hinges(smooth.data))
    price = loss.strength / len(places)

    def at(weights: Floats) -> tuple[float, Floats, Floats]:
        value, gradient = smooth.value_and_gradient(weights)
        value += price * float(np.maximum(weights[places] + loss.bound, 0.0).sum())
        return value, gradient, least_subgradient(gradient, weights, places, price, loss.bound)

    weights, steps = start.weights.copy(), start.iterations
    value, gradient, least = at(weights)
    hessian = smooth.hessian(weights)
    lifted = np.zeros((len(scale), len(places)))
    lifted[places, np.arange(len(places))] = 1.0 / scale[places]
    for _ in range(limit):
        size = float(np.abs(least / scale).max())
        if size <= min(1e-6 * tolerance, 1e-14):
            break
        standard = hessian / np.outer(scale, scale)
        standard = (standard + standard.T) / 2
        standard += np.eye(len(scale)) * 1e-12 * max(float(np.trace(standard)), np.finfo(float).tiny)
        root = np.linalg.cholesky(standard)
        ahead = np.linalg.solve(root, gradient / scale)
        pull = np.linalg.solve(root, lifted)
        # min over 0 ≤ θ ≤ price of ½‖ahead + pull·θ‖² - θ·(w + b): least squares, its linear term in the target
        target = np.linalg.lstsq(pull.T, weights[places] + loss.bound, rcond=None)[0] - ahead
        multipliers = np.asarray(lsq_linear(pull, target, bounds=(0.0, price), method="bvls", tol=1e-15).x)
        step = -np.linalg.solve(root.T, ahead + pull @ multipliers) / scale
        kinked = places[(multipliers > 0) & (multipliers < price)]
        nearer, length = weights, 1.0
        for _ in range(HALVINGS):
            nearer = weights + length * step
            if length == 1.0:
                nearer[kinked] = -loss.bound
            next_value, next_gradient, next_least = at(nearer)
            rounding = 1e-13 * max(1.0, abs(value))
            smaller = float(np.abs(next_least / scale).max()) < size
            if next_value < value - rounding or (smaller and next_value <= value + rounding):
                break
            length /= 2
        else:
            break
        weights, value, gradient, least = nearer, next_value, next_gradient, next_least
        hessian = smooth.hessian(weights)
        steps += 1
    return Solution(weights, value, least, hessian, steps)


def least_subgradient(
    gradient: Floats, weights: Floats, places: NDArray[np.intp], price: float, bound: float
) -> Floats:
    """The smallest element of the subdifferential: at a kink, the multiplier that best cancels the smooth gradient."""
    found = gradient.copy()
    excess = weights[places] + bound
    found[places] += np.where(excess > 0, price, np.where(excess < 0, 0.0, np.clip(-gradient[places], 0.0, price)))
    return found


def spread_out(
    objective: Penalised,
    smooth: Penalised,
    loss: Constrained,
    plain: Solution,
    transform: Floats,
    null: Floats,
    limit: int,
) -> tuple[Solution, int]:
    """Minimise with the spread penalty, from where it is without one.

    Args:
        objective: With the penalty.
        smooth: Without it.
        loss: For strength and bound.
        plain: The minimum without it.
        transform: [k, r], round coordinates.
        null: [k, k - r], directions that cost the pairs nothing, along which weights can spread all the same.
        limit: Steps at most, each search.

    Returns:
        The point, with the smallest generalised gradient in place of a gradient; and how many searches there were, 0
        where the plain optimum is the global one.
    """
    if float(plain.weights.std()) >= loss.bound:
        return plain, 0
    count = len(plain.weights)
    coordinates = np.hstack([transform, null * float(np.abs(transform).max(initial=1.0))])
    falling = -smooth.value_and_gradient(np.zeros(count))[1]
    directions = [plain.weights, falling, *np.random.default_rng(0).normal(size=(RANDOM_STARTS, count))]
    # inside the bound a stationary point needs a loss as steep as the penalty, and it is nowhere steeper than this
    steepest = float(smooth.data.weight @ np.linalg.norm(smooth.data.differences, axis=1))
    flat_inside = smooth.l2 == 0 and not smooth.precision.any() and loss.strength / np.sqrt(count) > steepest
    found: list[Solution] = []
    searches = 0
    for direction in directions:
        off = direction - direction.mean()
        if float(off.std()) <= 1e-12 * max(1.0, float(np.abs(direction).max())):
            continue
        start = plain.weights.mean() + off * (loss.bound / float(off.std()))
        found.append(_on_the_bound(smooth, start, loss, coordinates, limit))
        searches += 1
        if not flat_inside:
            half = plain.weights.mean() + off * (0.5 * loss.bound / float(off.std()))
            inner = minimise(objective, half, coordinates, done=lambda _: False, max_iterations=limit)
            if float(inner.weights.std()) < loss.bound:
                found.append(inner)
            searches += 1
    if not found:
        return plain, 1
    best = min(found, key=lambda each: each.value)
    return attrs.evolve(best, iterations=best.iterations + plain.iterations), searches


def _on_the_bound(smooth: Objective, start: Floats, loss: Constrained, coordinates: Floats, limit: int) -> Solution:
    """The best weights with std(w) = bound near a start: SLSQP, then Newton's steps on Lagrange's conditions."""
    from scipy import optimize

    search: Any = optimize.minimize
    count = len(start)
    centring = np.eye(count) - 1.0 / count

    def value_and_gradient(z: Floats) -> tuple[float, Floats]:
        value, gradient = smooth.value_and_gradient(coordinates @ z)
        return value, coordinates.T @ gradient

    result = search(
        value_and_gradient,
        np.linalg.solve(coordinates, start),
        jac=True,
        method="SLSQP",
        constraints={
            "type": "eq",
            "fun": lambda z: float((coordinates @ z).var()) / loss.bound**2 - 1,
            "jac": lambda z: coordinates.T @ (2 * centring @ (coordinates @ z) / (count * loss.bound**2)),
        },
        options={"ftol": 1e-10, "maxiter": min(limit, 100)},
    )
    weights, steps = coordinates @ np.asarray(result.x, np.float64), int(result.nit)
    gradient = smooth.value_and_gradient(weights)[1]
    slope = loss.spread_gradient(weights)
    multiplier = float(slope @ gradient) / max(float(slope @ slope), np.finfo(float).tiny)
    for _ in range(20):
        gap, off = gradient - multiplier * slope, float(weights.std()) - loss.bound
        bend = (centring / count - np.outer(slope, slope)) / max(float(weights.std()), np.finfo(float).tiny)
        system = np.block(
            [
                [smooth.hessian(weights) - multiplier * bend, -slope[:, None]],
                [slope[None, :], np.zeros((1, 1))],
            ]
        )
        try:
            step = np.linalg.solve(system, -np.append(gap, off))
        except np.linalg.LinAlgError:
            break
        nearer, pull = weights + step[:-1], multiplier + float(step[-1])
        next_gradient, next_slope = smooth.value_and_gradient(nearer)[1], loss.spread_gradient(nearer)
        rest = float(np.abs(next_gradient - pull * next_slope).max()) + abs(float(nearer.std()) - loss.bound)
        if not rest < float(np.abs(gap).max()) + abs(off):
            break
        weights, multiplier, gradient, slope = nearer, pull, next_gradient, next_slope
        steps += 1
    value, gradient = smooth.value_and_gradient(weights)
    value += loss.strength * max(0.0, loss.bound - float(weights.std()))
    paid = float(np.clip(multiplier, 0.0, loss.strength))
    return Solution(weights, value, gradient - paid * slope, smooth.hessian(weights), steps)
