"""Short ways to write short components."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates, Row
from candidate_pipeline.components import Context
from candidate_pipeline.errors import ContractError
from candidate_pipeline.keys import Key
from candidate_pipeline.query import Query


def per_item(
    *, reads: Sequence[Key], safety: bool = False, reason: Callable[[Query, Row], str] | None = None
) -> Callable[[Callable[[Query, Row], bool]], type]:
    """Turn `keep(query, row) -> bool` into a filter class, to register or to instantiate.

    It asks the function about each row, so it is slower than a filter over columns.

    Example::

        @per_item(reads=[PRICE, BUDGET], reason=lambda query, row: f"costs {row[PRICE]} of {query[BUDGET]}")
        def affordable(query, row):
            return row[PRICE] <= query[BUDGET]

    Args:
        reads: The keys that the function uses.
        safety: Whether the filter fails closed.
        reason: Why the function dropped a row, for `Outcome.explain`.
    """

    def decorate(function: Callable[[Query, Row], bool]) -> type:
        def keep(self: object, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.bool_]:  # noqa: ARG001 - the protocol's signature
            """Ask the function about each row."""
            answers = np.empty(len(candidates), np.bool_)
            for at, row in enumerate(candidates):
                answer = function(query, row)
                if not isinstance(answer, bool | np.bool_):
                    raise ContractError(f"{function.__name__}: wanted True or False, found {answer!r:.80}")
                answers[at] = answer
            return answers

        members: dict[str, Any] = {
            "__doc__": function.__doc__,
            "__module__": function.__module__,
            "keep": keep,
            "reads": tuple(reads),
            "safety": safety,
        }
        if reason is not None:
            members["reason"] = staticmethod(reason)
        return attrs.frozen(type(function.__name__, (), members))

    return decorate
