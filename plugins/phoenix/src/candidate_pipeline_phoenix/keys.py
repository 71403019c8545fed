"""Keys of this plugin."""

from __future__ import annotations

from typing import Final

import numpy as np

from candidate_pipeline.keys import Column

RETRIEVAL_SCORE: Final = Column(
    "phoenix.retrieval_score",
    np.float32,
    doc="Inner product of the viewer's and the post's unit vectors, -1 to 1; null: not a result of retrieval.",
)
