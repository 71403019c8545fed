"""People to ask a pipeline for: drawn from those who did something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.app import App
from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.datadir import DataDirectory, bundled_world


def draw_viewers(app: App, data: Path | None, count: int, seed: int) -> NDArray[np.int64]:
    """Distinct people with an event in the data directory, drawn with equal chances, int64 [at most count].

    A larger count holds those of a smaller one, in the same order.

    Args:
        app: The application, open or not; its data set is used if it has one.
        data: The data directory; `None`: the bundled world, where the application names none.
        count: How many; if there are fewer people, all.
        seed: The source of the draw.

    Raises:
        DataError: Nobody did anything, or the tables cannot be read.
    """
    path = app.dataset.path if app.dataset is not None else data or bundled_world()
    people = np.unique(DataDirectory(path).tables().events.user_id)
    if not len(people):
        raise DataError(f"{path}: nobody did anything there, so there is nobody to ask the pipeline for")
    return np.random.default_rng([seed, len(people)]).permutation(people)[:count]
