"""Tables with predictions, and a small feed whose predictions the request gives, for tests of the scorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from candidate_pipeline import ITEM_ID, Candidates, Context, Plugin, Query, QueryFeature, Registry
from candidate_pipeline_feed.keys import PREDICTIONS
from candidate_pipeline_feed.plugin import candidate_pipeline_plugin as feed
from candidate_pipeline_stakeholder.keys import STAKEHOLDER_MIX
from candidate_pipeline_stakeholder.plugin import candidate_pipeline_plugin as stakeholder

LABELS = ("favorite", "reply", "repost", "not_interested", "block_author")
NAMES = ("user", "platform", "society")
WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "user": {"favorite": 1.0, "reply": 0.5, "not_interested": -1.0, "block_author": -2.0},
    "platform": {"favorite": 1.0, "reply": 1.25, "repost": 1.5, "block_author": 0.25},
    "society": {"favorite": 0.5, "repost": 0.5, "not_interested": -4.0, "block_author": -4.0},
}
TABLE = QueryFeature("toy.table", np.ndarray, doc="Predictions of the rows.")


def table(predictions: Any, *, valid: Any = None, labels: Sequence[str] = LABELS) -> Candidates:
    """Candidates with predictions."""
    cells = np.asarray(predictions, np.float32).reshape(-1, len(labels))
    return Candidates.of(ITEM_ID(np.arange(1, len(cells) + 1)), PREDICTIONS(cells, valid=valid, labels=labels))


def scored(scorer: Any, candidates: Candidates, mix: Any = None) -> Candidates:
    """The candidates with what a scorer writes."""
    query = Query(features={} if mix is None else {STAKEHOLDER_MIX: mix})
    patch = scorer.score(query, candidates, Context("stakeholders"))
    assert set(patch.updates) == set(scorer.writes)
    return Candidates.of(
        ITEM_ID(candidates[ITEM_ID]),
        PREDICTIONS(
            candidates[PREDICTIONS], valid=candidates.valid(PREDICTIONS), labels=candidates.labels(PREDICTIONS)
        ),
        *patch.updates.values(),
    )


def predictions(least: int = 1, most: int = 24) -> Any:
    """Arrays of predictions, float32 [n, 5], of which some are equal."""
    cells = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1, width=32))
    return st.integers(least, most).flatmap(lambda n: hnp.arrays(np.float32, (n, len(LABELS)), elements=cells))


@attrs.frozen
class Given:
    """The rows that the request gives."""

    reads: ClassVar[Any] = (TABLE,)
    writes: ClassVar[Any] = (PREDICTIONS,)

    def fetch(self, query: Any, ctx: Any) -> Candidates:
        """Ids from 1."""
        return table(query[TABLE])


REGISTRY = Registry([feed(), stakeholder(), Plugin("toy", components={"source": {"given": Given}}, keys=[TABLE])])

SPEC = """
schema = 1

[pipelines.feed]
inputs = { table = "toy.table", mix = "stakeholder.mix" }
sources = ["toy.given"]
scorers = ["stakeholders"]
selector = "feed.top_k"
show = ["stakeholder.utility.user", "stakeholder.term.society"]

[components.stakeholders]
use = "stakeholder.scorer"
mix = { user = 0.5, society = 0.5 }

[components.stakeholders.stakeholders]
user = { favorite = 1.0, reply = 0.5, not_interested = -1.0, block_author = -2.0 }
platform = { favorite = 1.0, reply = 1.25, repost = 1.5, block_author = 0.25 }
society = { favorite = 0.5, repost = 0.5, not_interested = -4.0, block_author = -4.0 }
"""
