"""A running estimate of how long a batch takes, from the batches before it."""

from __future__ import annotations

from typing import Final

import attrs

#: Spread of sizes, relative to their mean, below which the fit leans towards time proportional to size.
_SPREAD: Final = 0.1


@attrs.define
class CallTime:
    """Predicts the seconds of a call as ``per_call + per_unit * size``.

    Exponentially weighted means of size and seconds, their variance and covariance (West 1979, with weight ``alpha``
    on the newest call), and the least-squares line through them. Calls of one size only do not tell the two terms
    apart: a ridge of ``(0.1 * mean size)²`` pulls the slope towards time proportional to size. The slope is kept
    between 0 and that proportion, so that neither term is ever negative and the line passes through the means.

    Attributes:
        alpha: weight of the newest call.
        initial_per_unit: seconds a unit, until the first call is seen.
        initial_per_call: seconds a call, until the first call is seen.
    """

    alpha: float
    initial_per_unit: float = 0.0
    initial_per_call: float = 0.0
    _calls: int = attrs.field(default=0, init=False)
    _size: float = attrs.field(default=0.0, init=False)
    _seconds: float = attrs.field(default=0.0, init=False)
    _variance: float = attrs.field(default=0.0, init=False)
    _covariance: float = attrs.field(default=0.0, init=False)

    @property
    def known(self) -> bool:
        """Whether there is anything to go by: a call seen, or initial values given."""
        return self._calls > 0 or self.initial_per_unit + self.initial_per_call > 0

    def observe(self, size: int, seconds: float) -> None:
        """Take in a call that succeeded: its padded size, at least 1, and its seconds."""
        if self._calls == 0:
            self._size, self._seconds = float(size), seconds
        else:
            off_size, off_seconds = size - self._size, seconds - self._seconds
            self._size += self.alpha * off_size
            self._seconds += self.alpha * off_seconds
            self._variance = (1 - self.alpha) * (self._variance + self.alpha * off_size * off_size)
            self._covariance = (1 - self.alpha) * (self._covariance + self.alpha * off_size * off_seconds)
        self._calls += 1

    @property
    def per_unit(self) -> float:
        """Seconds for each further unit."""
        if self._calls == 0:
            return self.initial_per_unit
        proportion = self._seconds / self._size
        ridge = (_SPREAD * self._size) ** 2
        slope = (self._covariance + ridge * proportion) / (self._variance + ridge)
        return min(max(slope, 0.0), proportion)

    @property
    def per_call(self) -> float:
        """Seconds of a call, whatever its size."""
        if self._calls == 0:
            return self.initial_per_call
        return max(self._seconds - self.per_unit * self._size, 0.0)

    def seconds(self, size: float, calls: int = 1) -> float:
        """Predicted seconds for so many calls of this size together."""
        return calls * self.per_call + size * self.per_unit
