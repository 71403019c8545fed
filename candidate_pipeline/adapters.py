"""Short ways to write short components."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates, Row
from candidate_pipeline.components import Context
from candidate_pipeline.keys import Key
from candidate_pipeline.query import Query


@attrs.frozen
class PerItemFilter:
    """A filter made from a function of one row; slower than one over columns."""

    function: Callable[[Query, Row], bool]
    reads: tuple[Key, ...] = ()
    safety: bool = False

    def keep(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.bool_]:
        """Ask the function about each row."""
        answers = (bool(self.function(query, row)) for row in candidates)
        return np.fromiter(answers, dtype=np.bool_, count=len(candidates))


def per_item(*, reads: Sequence[Key], safety: bool = False) -> Callable[[Callable[[Query, Row], bool]], Any]:
    """Turn `keep(query, row) -> bool` into a filter class, to register or to instantiate.

    Example::

        @per_item(reads=[PRICE, BUDGET])
        def affordable(query, row):
            return row[PRICE] <= query[BUDGET]
    """

    def decorate(function: Callable[[Query, Row], bool]) -> Any:
        asked, keys, closed = function, tuple(reads), safety

        @attrs.frozen
        class Filter(PerItemFilter):
            function: Callable[[Query, Row], bool] = attrs.field(default=asked, init=False)
            reads: tuple[Key, ...] = attrs.field(default=keys, init=False)
            safety: bool = attrs.field(default=closed, init=False)

        Filter.__name__ = Filter.__qualname__ = function.__name__
        Filter.__module__ = function.__module__
        Filter.__doc__ = function.__doc__
        return Filter

    return decorate
