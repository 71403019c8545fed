"""Pools and stakeholders for the tests of audits."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from candidate_pipeline_feed.actions import RUNNER_DISCRETE
from candidate_pipeline_stakeholder.audit.slates import Scene
from candidate_pipeline_stakeholder.pool import Pool
from candidate_pipeline_stakeholder.utilities import Utilities, declared

NAMES = ("anna", "bert", "cleo", "dora", "emil")


def make_pool(
    seed: int = 0, *, requests: int = 4, rows: int = 12, features: int = 3, groups: int = 3, coarse: bool = False
) -> Pool:
    """A random pool; requests differ in size; `coarse` features are whole numbers, so that many rows tie."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, rows + 1, requests)
    sizes[0] = rows
    request = np.repeat(np.arange(requests) * 7, sizes)
    order = rng.permutation(len(request))
    count = len(request)
    values = rng.integers(0, 3, (count, features)) if coarse else rng.normal(size=(count, features))
    labels = [f"group {code}" if code >= 0 else None for code in rng.integers(-1, groups, count)] if groups else None
    return Pool.of(
        [f"f{column}" for column in range(features)],
        values,
        request=request[order],
        group=labels,
        author=rng.integers(-1, 5, count),
        selected=rng.random(count) < 0.4,
    )


def make_utilities(seed: int = 0, *, stakeholders: int = 3, features: int = 3) -> Utilities:
    """Random stakeholders over the features of `make_pool`."""
    rng = np.random.default_rng([seed, 77])
    weights = rng.normal(size=(stakeholders, features))
    return Utilities(tuple(f"f{column}" for column in range(features)), NAMES[:stakeholders], weights)


def make_scene(
    seed: int = 0, *, size: int = 4, how: str = "request", stakeholders: int = 3, **more: int | bool
) -> Scene:
    """A random scene."""
    features = int(more.get("features", 3))
    pool = make_pool(seed, **more)  # type: ignore[arg-type]  # passed on by name
    return Scene.of(make_utilities(seed, stakeholders=stakeholders, features=features), pool, size=size, how=how)


def action_pool(seed: int = 0, requests: int = 12, rows: int = 60) -> Pool:
    """Probabilities of the 18 discrete actions, driven by a few hidden tastes, with topics."""
    rng = np.random.default_rng(seed)
    count = requests * rows
    taste = rng.normal(size=(count, 4))
    logits = taste @ rng.normal(size=(4, len(RUNNER_DISCRETE))) * 0.6 + rng.normal(size=(count, 18)) * 0.5 - 2
    topic = (taste @ rng.normal(size=(4, 5)) + rng.gumbel(size=(count, 5))).argmax(axis=1)
    return Pool.of(
        RUNNER_DISCRETE,
        1 / (1 + np.exp(-logits)),
        request=np.repeat(np.arange(requests), rows),
        group=[f"topic {code}" for code in topic],
        author=rng.integers(0, 40, count),
        selected=np.arange(count) % rows < 8,
    )


def action_utilities() -> Utilities:
    """User, platform and society with a weight for each action."""
    return declared("actions")


SEEDS = st.integers(0, 2**20)
COARSE = st.booleans()
