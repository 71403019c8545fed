"""Utilities on a common scale, and mixes of stakeholders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.errors import DataError
from candidate_pipeline.spec.problems import nearest

Float64 = NDArray[np.float64]
#: Over what utilities are standardised: a request's candidates, the pool they were learned on, or nothing.
Over: TypeAlias = Literal["request", "pool", "none"]

#: Utilities that differ by less than this part of what they are summed from differ by rounding.
ROUNDING: Final = 1e-12


def utilities_of(values: Float64, weights: Float64) -> tuple[Float64, Float64]:
    """Each stakeholder's utility of each row, and the sizes that they are sums of.

    A row's result depends on no other row, to the last bit.

    Args:
        values: Features, float64 [n, k], finite.
        weights: float64 [S, k].

    Returns:
        The sums of weight times value, float64 [n, S], and those of their absolute values.
    """
    sums = np.zeros((len(values), len(weights)))
    sizes = np.zeros_like(sums)
    for place in range(values.shape[1]):
        parts = values[:, place, None] * weights[:, place]
        sums += parts
        sizes += np.abs(parts)
    return sums, sizes


def standardised(
    utilities: Float64,
    how: Over = "request",
    *,
    sizes: Float64 | None = None,
    centre: Float64 | None = None,
    spread: Float64 | None = None,
) -> Float64:
    """Utilities on a scale on which they can be mixed.

    "request": z = (u - mean) / standard deviation over the rows (population), so that scaling or shifting a
    stakeholder's utility changes nothing. Exactly the same for rows in any order. A utility that is the same for all
    rows, up to rounding, is 0 for all: nobody gains by any choice among them.
    "pool": the same with a given mean and standard deviation, so that a row's value depends on no other row.
    "none": as they are.

    Args:
        utilities: float64 [n, S], finite.
        how: Which.
        sizes: What the utilities are sums of, [n, S], from `utilities_of`; default: their absolute values.
        centre: Means for "pool", float64 [S].
        spread: Standard deviations for "pool", float64 [S]; where one is 0, so is the result.

    Returns:
        float64 [n, S].
    """
    if how == "none" or not utilities.size:
        return utilities.copy()
    if how == "pool":
        if centre is None or spread is None:
            raise DataError("standardised: wanted the means and standard deviations of the pool, found none")
        safe = np.where(spread > 0, spread, 1.0)
        result: Float64 = np.where(spread > 0, (utilities - centre) / safe, 0.0)
        return result
    sizes = np.abs(utilities) if sizes is None else sizes
    return np.column_stack([_over_rows(utilities[:, at], sizes[:, at].max()) for at in range(utilities.shape[1])])


def _over_rows(utility: Float64, size: float) -> Float64:
    """One utility, standardised over its rows."""
    # Sums in sorted order are the same whatever the order of rows; a power of 2 keeps squares from overflow, exactly.
    power = math.frexp(size)[1]
    scaled = np.ldexp(utility, -power)
    in_order = np.sort(scaled)
    if not in_order[-1] - in_order[0] > ROUNDING:  # sizes are at most 1 here
        return np.zeros_like(utility)
    mean = in_order.mean()
    deviation = math.sqrt(np.square(in_order - mean).mean())
    result: Float64 = (scaled - mean) / deviation
    return result


def mix_problem(mix: Mapping[Any, Any], names: Sequence[str]) -> str:
    """Why this is no mix of these stakeholders; empty if it is one.

    Args:
        mix: Weights by stakeholder: numbers, of which not all are 0. One below 0 is for a stakeholder whose loss is
            wanted.
        names: The stakeholders.
    """
    for name, weight in mix.items():
        if name not in names:
            return f"no stakeholder {name!r:.80}: {nearest(str(name), names) or ', '.join(names)}"
        if not _is_finite(weight):
            long = isinstance(weight, int) and weight.bit_length() > 1024
            return f"{name}: wanted a finite number, found {'one of over 300 digits' if long else f'{weight!r:.80}'}"
    if not any(mix.values()):
        found = ", ".join(f"{name} = {weight:g}" for name, weight in mix.items()) or "an empty mix"
        return f"wanted a weight other than 0 for at least one of {', '.join(names)}; found {found}"
    return ""


def _is_finite(weight: object) -> bool:
    try:
        return not isinstance(weight, bool) and isinstance(weight, Real) and math.isfinite(weight)
    except OverflowError:
        return False


def shares(mix: Mapping[str, float], names: Sequence[str]) -> Float64:
    """A mix as parts of a whole: weights divided by the sum of their absolute values, 0 for who is left out.

    Args:
        mix: A mix in which `mix_problem` finds none.
        names: The stakeholders.

    Returns:
        float64 [S], in the order of `names`.
    """
    weights = np.array([float(mix.get(name, 0.0)) for name in names])
    weights = np.ldexp(weights, -math.frexp(float(np.abs(weights).max()))[1])  # exact, and their sum stays finite
    result: Float64 = weights / np.abs(weights).sum()
    return result


def mixed(standard: Float64, parts: Float64) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores, and the terms that add up to them.

    Args:
        standard: Utilities on a common scale, float64 [n, S].
        parts: The stakeholders' shares of the mix, float64 [S].

    Returns:
        Terms, float32 [n, S]: share times utility. Scores, float32 [n]: the sums of the terms as they are stored, in
        their order, rounded once.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        terms = (standard * parts).astype(np.float32) + np.float32(0)  # which makes 0 of -0
        total = np.zeros(len(terms))
        for column in terms.T:
            total += column
        return terms, total.astype(np.float32)


def parse_mix(text: str) -> dict[str, float]:
    """A mix as it is written on a command line: `user=1,society=0.5`, or JSON.

    Raises:
        DataError: It is not written so, or a weight is no finite number.
    """
    from candidate_pipeline.cli.inputs import parse_table

    try:
        found = parse_table(text)
    except ValueError as error:
        raise DataError(f"mix: {error}") from None
    problem = mix_problem(found, tuple(found))
    if problem:
        raise DataError(f"mix {text!r:.80}: {problem}")
    return {name: float(weight) for name, weight in found.items()}
