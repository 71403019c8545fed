"""Mean and covariance of a pool's features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray

from candidate_pipeline.errors import DataError


@attrs.frozen(eq=False)
class Moments:
    """First and second moments of the features of a pool.

    Args:
        mean: Of each feature, float64 [k].
        covariance: Of the features among the rows of the pool (population: divided by the number of rows, because
            the pool is all there is to choose from and no sample of something larger), float64 [k, k], symmetric.
        rows: How many rows it was taken over.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    rows: int

    @classmethod
    def of(cls, mean: ArrayLike, covariance: ArrayLike, rows: int) -> Moments:
        """Check and keep.

        Raises:
            DataError: Shapes do not fit, a number is not finite, the covariance is not symmetric or has a negative
                variance, or `rows` is below 1.
        """
        at = np.array(mean, np.float64)
        spread = np.array(covariance, np.float64)
        if at.ndim != 1 or spread.shape != (len(at), len(at)):
            raise DataError(
                f"moments: wanted k means and a covariance of k times k, found shapes {at.shape} and {spread.shape}"
            )
        if not (np.isfinite(at).all() and np.isfinite(spread).all()):
            raise DataError("moments: wanted finite numbers, found NaN or infinity")
        scale = float(np.abs(spread).max(initial=0.0))
        if not np.allclose(spread, spread.T, rtol=0.0, atol=1e-9 * scale) or (np.diag(spread) < -1e-9 * scale).any():
            raise DataError("moments: the covariance is not symmetric or has a negative variance")
        if rows < 1:
            raise DataError(f"moments: wanted at least one row, found {rows}")
        spread = (spread + spread.T) / 2
        at.flags.writeable = spread.flags.writeable = False
        return cls(at, spread, int(rows))

    def sd(self, weights: ArrayLike) -> NDArray[np.float64]:
        """Standard deviation of utilities over the pool, sqrt(w' covariance w).

        Args:
            weights: float64 [k] or [s, k].

        Returns:
            float64 [] or [s], 0 where the utility is constant.
        """
        vectors = np.asarray(weights, np.float64)
        squares = np.einsum("...i,ij,...j->...", vectors, self.covariance, vectors)
        return np.asarray(np.sqrt(np.maximum(squares, 0.0)), np.float64)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON and TOML."""
        return {"mean": self.mean.tolist(), "covariance": self.covariance.tolist(), "rows": self.rows}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Moments:
        """Read what `as_dict` wrote.

        Raises:
            DataError: A key is missing or a value does not fit.
        """
        missing = [key for key in ("mean", "covariance", "rows") if key not in data]
        if missing:
            raise DataError(f"moments: missing {', '.join(missing)}")
        try:
            return cls.of(data["mean"], data["covariance"], int(data["rows"]))
        except (TypeError, ValueError) as error:
            raise DataError(f"moments: wanted lists of numbers and a count, found something else ({error})") from None
