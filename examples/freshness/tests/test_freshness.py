"""The plugin's own test: everything a scorer promises, and what this one means."""

import datetime as dt

import numpy as np
from freshness import FRESHNESS, Decay

from candidate_pipeline import ITEM_ID, SCORE, Candidates, Query
from candidate_pipeline.testing import check_component, run_component
from candidate_pipeline_feed.keys import CREATED_AT


def test_decay_keeps_the_promises_of_a_scorer() -> None:
    """Decay answers 0, 1 and many rows, changes no input, and treats rows independently."""
    check_component(Decay())


def test_a_post_of_one_half_life_keeps_half_its_score() -> None:
    """A post exactly one half-life old keeps half its score; a new one keeps all."""
    now = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    created = [int((now - age).timestamp() * 1000) for age in (dt.timedelta(0), dt.timedelta(hours=6))]
    table = Candidates.of(
        ITEM_ID(np.array([1, 2])), SCORE(np.float32([2.0, 2.0])), CREATED_AT(np.array(created, np.int64))
    )
    answer = run_component(Decay(), Query(now=now), table)
    assert np.allclose(answer.updates[SCORE].values, [2.0, 1.0])
    assert np.allclose(answer.updates[FRESHNESS].values, [1.0, 0.5])
