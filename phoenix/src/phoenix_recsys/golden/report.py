"""One line of a check: how far a result lies from the expected one, and how far it may."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from phoenix_recsys.errors import PhoenixError
from phoenix_recsys.npz import read_npz

Arrays = Mapping[str, npt.NDArray[Any]]


class FixtureError(PhoenixError):
    """A file that is no fixture of a known kind, or not a complete one."""


@attrs.frozen
class Result:
    """The comparison of one output.

    Attributes:
        variant: dtype and variant, such as ``f32/full``.
        output: name of the output.
        error: largest absolute difference.
        limit: what it may be.
        mean: mean absolute difference, where that is limited too.
        mean_limit: what that may be.
        note: anything worth knowing beside the figures.
    """

    variant: str
    output: str
    error: float
    limit: float
    mean: float | None = None
    mean_limit: float | None = None
    note: str = ""

    @property
    def ok(self) -> bool:
        """Within both limits; NaN never is."""
        fine = self.error <= self.limit
        if self.mean is not None and self.mean_limit is not None:
            fine = fine and self.mean <= self.mean_limit
        return fine

    def line(self) -> str:
        """The result as one line of text."""
        figures = f"max {self.error:9.3g} (≤ {self.limit:.3g})"
        if self.mean is not None and self.mean_limit is not None:
            figures += f"  mean {self.mean:9.3g} (≤ {self.mean_limit:.3g})"
        note = f"  {self.note}" if self.note else ""
        return f"  {'ok  ' if self.ok else 'FAIL'} {self.variant:<14} {self.output:<34} {figures}{note}"


@attrs.frozen
class Skipped:
    """Something in a file that was not compared.

    Attributes:
        variant: see :class:`Result`.
        output: see :class:`Result`.
        reason: why not.
    """

    variant: str
    output: str
    reason: str

    def line(self) -> str:
        """The fact as one line of text."""
        return f"  --   {self.variant:<14} {self.output:<34} {self.reason}"


Line: TypeAlias = Result | Skipped


def compare(
    variant: str,
    output: str,
    found: npt.ArrayLike,
    wanted: npt.ArrayLike,
    limit: float,
    *,
    mean_limit: float | None = None,
    where: npt.NDArray[np.bool_] | None = None,
    note: str = "",
) -> Result:
    """Compare two arrays of one shape.

    Args:
        variant: see :class:`Result`.
        output: see :class:`Result`.
        found: what this implementation computes.
        wanted: what the fixture holds.
        limit: on the largest absolute difference.
        mean_limit: on the mean absolute difference.
        where: bool, a prefix of the shape; False leaves entries out.
        note: see :class:`Result`.
    """
    ours, theirs = _numbers(found), _numbers(wanted)
    if ours.shape != theirs.shape:
        return Result(variant, output, np.inf, limit, note=f"shape {ours.shape}, expected {theirs.shape}")
    # Equal values first, so that infinities and very large fill values of one sign do not give NaN.
    difference = np.where(ours == theirs, 0.0, np.abs(ours - theirs))
    difference = np.where(np.isnan(difference), np.inf, difference)
    if where is not None:
        difference = difference[where]
    if difference.size == 0:
        return Result(variant, output, 0.0, limit, note="nothing to compare")
    mean = float(difference.mean()) if mean_limit is not None else None
    return Result(variant, output, float(difference.max()), limit, mean, mean_limit, note)


def _numbers(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(values)
    # bfloat16 is no numpy kind of its own; float32 holds it exactly.
    return array.astype(np.float32 if array.dtype.kind == "V" else array.dtype).astype(np.float64)


def equal(variant: str, output: str, found: npt.ArrayLike, wanted: npt.ArrayLike) -> Result:
    """Compare integers or flags, which must be the same; the error is the number of differing entries."""
    ours, theirs = np.asarray(found), np.asarray(wanted)
    if ours.shape != theirs.shape:
        return Result(variant, output, np.inf, 0, note=f"shape {ours.shape}, expected {theirs.shape}")
    return Result(variant, output, float(np.sum(ours != theirs)), 0, note="differing entries")


def scale_of(values: npt.ArrayLike) -> float:
    """What a tolerance meant for values around 1 is multiplied by: their root mean square, at least 1."""
    numbers = _numbers(values)
    return max(1.0, float(np.sqrt(np.mean(np.square(numbers))))) if numbers.size else 1.0


def read_fixture(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of a fixture file; raises ArtifactError for a damaged one."""
    return read_npz(path, lambda _headers: None)


def entry(path: Path, arrays: Arrays, name: str) -> npt.NDArray[Any]:
    """One array of a fixture.

    Raises:
        FixtureError: if it is not there.
    """
    try:
        return arrays[name]
    except KeyError:
        raise FixtureError(
            f"{path}: wanted an entry {name!r}, found none among {len(arrays)}. The fixture is incomplete."
        ) from None


def params_under(arrays: Arrays, prefix: str) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """Parameters stored as ``<prefix><module path>/<name>``, nested as haiku takes them."""
    found: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for key, value in arrays.items():
        if key.startswith(prefix):
            module, _, name = key.removeprefix(prefix).rpartition("/")
            found.setdefault(module, {})[name] = value
    return found
