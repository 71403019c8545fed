"""Second-order minimisation in round coordinates: scipy's exact trust region, then Newton's steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_stakeholder.pairs import Floats

COARSE: Final = 1e-7
"""Down to this gradient (standardised) the trust region decides by the objective's fall; below, rounding hides the fall
and Newton's steps decide by the gradient's."""
FINE: Final = 1e-14
"""At this gradient (standardised) another step of Newton's would only move rounding about."""
POLISHING: Final = 30
PARTS: Final = (1.0, 0.5, 0.25, 0.125)
"""Of Newton's steps while polishing."""


class Objective(Protocol):
    """What is minimised: twice differentiable, of weights float64 [k]."""

    def value_and_gradient(self, weights: Floats) -> tuple[float, Floats]:
        """The value and its gradient [k]."""
        ...

    def hessian(self, weights: Floats) -> Floats:
        """Second derivatives [k, k]."""
        ...


@attrs.frozen(eq=False)
class Solution:
    """Where a minimisation ended.

    Args:
        weights: float64 [k].
        value: The objective there.
        gradient: float64 [k], there.
        hessian: float64 [k, k], there.
        iterations: Steps taken.
    """

    weights: Floats
    value: float
    gradient: Floats
    hessian: Floats
    iterations: int


def round_coordinates(curvature: Floats, scale: Floats, floor: float = 1e-12) -> tuple[Floats, Floats]:
    """Coordinates in which a function is about equally curved everywhere.

    Args:
        curvature: [k, k], typical second derivatives, none negative.
        scale: [k], over 0, each feature's size.
        floor: Standardised eigenvalues this small beside the largest count as none.

    Returns:
        T [k, r] with Tᵀ·curvature·T = identity, for weights w = T·z; and an orthonormal basis [k, k - r] of the
        directions without curvature, which T leaves out.
    """
    if not len(scale):
        return np.zeros((0, 0)), np.zeros((0, 0))
    values, vectors = np.linalg.eigh(curvature / np.outer(scale, scale))
    curved = values > floor * max(float(values[-1]), np.finfo(float).tiny)
    flat = vectors[:, ~curved] / scale[:, None]
    if flat.shape[1]:
        flat = np.linalg.qr(flat / np.linalg.norm(flat, axis=0))[0]
    transform = (vectors[:, curved] / np.sqrt(values[curved])) / scale[:, None]
    moving = np.abs(curvature).max(axis=1) > 0
    return np.where(moving[:, None], transform, 0.0), flat


def minimise(
    objective: Objective,
    start: Floats,
    transform: Floats,
    *,
    done: Callable[[Floats], bool],
    max_iterations: int,
) -> Solution:
    """Minimise from a start, within the span of `transform` around 0.

    Args:
        objective: What to minimise; convex or not.
        start: [k]; its part outside the span of `transform` is dropped.
        transform: [k, r] from `round_coordinates`.
        done: Whether a gradient [k] is small enough to stop.
        max_iterations: Steps at most.

    Returns:
        A stationary point as far as rounding lets one be found; for a convex objective the minimum, if there is one.
    """
    from scipy.optimize import minimize

    if not transform.shape[1]:
        weights = np.zeros(transform.shape[0])
        return Solution(weights, *objective.value_and_gradient(weights), objective.hessian(weights), 0)

    def value_and_gradient(z: Floats) -> tuple[float, Floats]:
        value, gradient = objective.value_and_gradient(transform @ z)
        return value, transform.T @ gradient

    def hessian(z: Floats) -> Floats:
        return _symmetric(transform.T @ objective.hessian(transform @ z) @ transform)

    first = np.linalg.lstsq(transform, start, rcond=None)[0] if start.any() else np.zeros(transform.shape[1])
    result: Any = minimize(
        value_and_gradient,
        first,
        jac=True,
        hess=hessian,
        method="trust-exact",
        options={"gtol": COARSE, "maxiter": max_iterations},
    )
    z, iterations = np.asarray(result.x, np.float64), int(result.nit)
    value = float(result.fun)
    gradient: Floats | None = None
    outer: Floats | None = None
    inner, curvature = np.asarray(result.jac, np.float64), np.asarray(result.hess, np.float64)
    for _ in range(min(POLISHING, max_iterations - iterations)):
        size = float(np.linalg.norm(inner))
        step = _newton(curvature, inner) if size > 0 else None
        if step is None:
            break
        # Along Newton's step gradients shrink at first; where a whole one overshoots, a part may still do.
        small = gradient is not None and done(gradient)
        for part in (1.0,) if small else PARTS:
            nearer = z + part * step
            next_value, next_gradient = objective.value_and_gradient(transform @ nearer)
            shrunk = float(np.linalg.norm(transform.T @ next_gradient))
            if shrunk < (0.5 if part == 1.0 else 0.9) * size:
                break
        else:
            break
        z, value, gradient, inner = nearer, next_value, next_gradient, transform.T @ next_gradient
        outer = objective.hessian(transform @ z)
        curvature = _symmetric(transform.T @ outer @ transform)
        iterations += 1
        if done(gradient) and shrunk < FINE:
            break
    weights = transform @ z
    if gradient is None:
        value, gradient = objective.value_and_gradient(weights)
    return Solution(weights, value, gradient, objective.hessian(weights) if outer is None else outer, iterations)


def _symmetric(matrix: Floats) -> Floats:
    return np.asarray((matrix + matrix.T) / 2)


def _newton(curvature: Floats, gradient: Floats) -> NDArray[np.float64] | None:
    """Newton's step, where the curvature is positive definite."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    try:
        return np.asarray(-cho_solve(cho_factor(curvature), gradient))
    except LinAlgError:
        return None
