"""The keys of this plugin: the mix that a request asks for, and what each stakeholder makes of an item."""

from __future__ import annotations

from typing import Final

import numpy as np

from candidate_pipeline.keys import SCORE, ColumnFamily, QueryFeature

STAKEHOLDER_MIX: Final = QueryFeature(
    "stakeholder.mix",
    dict,
    default={},
    optional=True,
    doc="How much each stakeholder counts in this request, in place of the mix of the spec: user=0.5,society=0.5",
)

ITEM_IDS: Final = QueryFeature("stakeholder.item_ids", np.ndarray, doc="The items to score, in this order, int64.")

RAW: Final = ColumnFamily(
    "stakeholder.raw",
    np.float32,
    doc="What the item is worth to {member}: weights times predictions, in the units of the weights.",
)
UTILITY: Final = ColumnFamily(
    "stakeholder.utility",
    np.float32,
    doc="What the item is worth to {member} as the mix counts it: standard deviations from the mean, unless the scorer "
    "is told otherwise.",
)
TERM: Final = ColumnFamily(
    "stakeholder.term",
    np.float32,
    terms_of=SCORE,
    doc="What {member} adds to the score: its share of the mix times its utility.",
)
