"""A pipeline as a source of another one: `use = "pipeline"`."""

from __future__ import annotations

from typing import Any

import attrs

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.engine.plan import Plan
from candidate_pipeline.errors import MisconfigurationError, RequestError
from candidate_pipeline.keys import ITEM_ID, Column, Key, QueryFeature
from candidate_pipeline.query import Query


@attrs.frozen(eq=False)
class NestedPipeline:
    """A source whose rows are what another pipeline selects.

    The inner pipeline gets the request's id, clock and seed, and of its features those that the inner pipeline
    declares as inputs. Its own trace and outcome are kept inside the outer one's.

    Args:
        plan: The inner pipeline: `app["name"].plan`.
    """

    plan: Plan

    @property
    def reads(self) -> tuple[QueryFeature[Any], ...]:
        """The inputs that the inner pipeline cannot do without."""
        return tuple(feature for feature in self.plan.inputs.values() if not feature.has_default)

    @property
    def writes(self) -> tuple[Key, ...]:
        """Every column that the inner pipeline writes."""
        return tuple(columns_of(self.plan))

    def inner_query(self, query: Query) -> Query:
        """The inner pipeline's query.

        A feature that failed is failed inside as well: its default must not reach a safety filter.

        Raises:
            RequestError: An input that the inner pipeline cannot do without is absent or failed.
        """
        inputs = self.plan.inputs.values()
        for feature in self.reads:
            if feature not in query:
                why = f"failed: {query.failed[feature]}" if feature in query.failed else "is absent"
                raise RequestError(f"pipeline {self.plan.name!r} needs the query feature {feature.name}, which {why}")
        given: dict[QueryFeature[Any], Any] = {
            feature: query.features[feature] for feature in inputs if feature in query
        }
        strict = self.plan.semantics == "strict"  # the published semantics knows no failed features
        failed = {feature: query.failed[feature] for feature in inputs if feature in query.failed and strict}
        return Query(request_id=query.request_id, now=query.now, seed=query.seed, features=given, failed=failed)

    async def fetch(self, query: Query, ctx: Context) -> Candidates:
        """The engine runs the inner pipeline itself; on its own this is a mistake."""
        raise MisconfigurationError(f"{ctx.component}: a nested pipeline runs inside an application only")


def columns_of(plan: Plan) -> list[Column[Any]]:
    """The columns that a plan's components write, in the order of first mention; not `ITEM_ID`."""
    written = (column for node in plan.nodes for column in node.written_columns if column is not ITEM_ID)
    return list(dict.fromkeys(written))
