"""People who meet posts in sittings, and a ranker whose predictions tell what it knew: for tests of pairs and pools."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import attrs
import numpy as np

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    Context,
    Patch,
    Plugin,
    Query,
    QueryPatch,
    Registry,
    patch,
)
from candidate_pipeline.options import Doc
from candidate_pipeline.plugin import Kind
from candidate_pipeline_feed import plugin as feed_plugin
from candidate_pipeline_feed.datadir import DataDirectory, DatasetInfo
from candidate_pipeline_feed.keys import AUTHOR_ID, HISTORY, PREDICTIONS, VIEWER_ID
from candidate_pipeline_feed.records import Edges, Events, Items, Tables, Users
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_stakeholder import plugin as stakeholder_plugin

USERS, ITEMS, NOW_MS = 12, 40, 2_000_000_000


@attrs.frozen
class AllPosts:
    """Every post of the tables."""

    data: FeedTables

    reads = ()
    writes = (AUTHOR_ID,)

    def fetch(self, query: Query, ctx: Context) -> Candidates:
        items = self.data.tables.items
        return Candidates.of(ITEM_ID(items.item_id), AUTHOR_ID(items.author_id))


@attrs.frozen
class EvenPosts:
    """Drops posts of odd ids."""

    reads = ()

    def keep(self, query: Query, candidates: Candidates, ctx: Context) -> Any:
        return candidates[ITEM_ID] % 2 == 0


@attrs.frozen
class Telling:
    """Predicts what it knew: how many events came before, when the last was, and whose post it is."""

    drops: Annotated[int, Doc("Nothing is predicted of this post.")] = -1

    reads = (VIEWER_ID, HISTORY, AUTHOR_ID)
    writes = (PREDICTIONS,)

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        past, n = query[HISTORY], len(candidates)
        last = past.times[-1] / NOW_MS if len(past) else 0.0
        cells = np.column_stack(
            [
                candidates[ITEM_ID] / ITEMS,
                np.full(n, len(past) / 1000),
                np.full(n, last),
                candidates[AUTHOR_ID] / USERS,
                np.full(n, 30.0),
            ]
        )
        labels = ("favorite", "reply", "share", "not_interested", "dwell_time")
        valid = candidates[ITEM_ID] != self.drops
        return patch(PREDICTIONS(cells.astype(np.float32), valid=valid, labels=labels))


@attrs.frozen
class ById:
    """Scores by id."""

    reads = (PREDICTIONS,)
    writes = (SCORE,)

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        return patch(SCORE(candidates[ITEM_ID].astype(np.float32)))


@attrs.frozen
class Unneeded:
    """A query hydrator that predictions do not rest on, and that fails."""

    reads = ()
    writes = ()

    def hydrate(self, query: Query, ctx: Context) -> QueryPatch:
        raise AssertionError("nobody needs this")


@attrs.frozen
class Flat:
    """Scores all posts alike, without predictions."""

    reads = ()
    writes = (SCORE,)

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        return patch(SCORE(np.zeros(len(candidates), np.float32)))


def registry() -> Registry:
    """The feed plugin, this one and the toys."""
    components: dict[Kind, dict[str, str | type]] = {
        "query_hydrator": {"unneeded": Unneeded},
        "source": {"all": AllPosts},
        "filter": {"even": EvenPosts},
        "scorer": {"telling": Telling, "by_id": ById, "flat": Flat},
    }
    plugins = [feed_plugin.candidate_pipeline_plugin(), stakeholder_plugin.candidate_pipeline_plugin()]
    return Registry([*plugins, Plugin("toy", components=components)])


SPEC = """
schema = 1
[pipelines.feed]
result_size = 3
inputs = { viewer = "feed.viewer_id" }
query_hydrators = ["feed.viewer", "feed.history"]
sources = ["toy.all"]
hydrators = ["feed.items"]
filters = ["toy.even"]
scorers = ["ranker", "toy.by_id"]
selector = "feed.top_k"
[pipelines.unpredicted]
inputs = { viewer = "feed.viewer_id" }
sources = ["toy.all"]
scorers = ["toy.flat"]
selector = "feed.top_k"
[components.ranker]
use = "toy.telling"
[resources.data]
use = "feed.tables"
"""


def tables(seed: int = 0) -> Tables:
    """People who meet posts in sittings, like some and dislike some."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, str]] = []
    for user in range(1, USERS + 1):
        for sitting in range(4):
            start = int(rng.integers(1, 1000)) + sitting * 10_000_000
            for place, item in enumerate(rng.permutation(ITEMS)[:8].tolist()):
                actions = [["impression"], ["impression", "favorite"], ["not_interested"], ["click"]]
                chosen = actions[int(rng.choice(4, p=[0.4, 0.3, 0.2, 0.1]))]
                rows += [(user, item + 1, start + place * 1000, action) for action in chosen]
    ids = list(range(1, ITEMS + 1))
    return Tables(
        Users.build(user_id=list(range(1, USERS + 1)), name=[f"u{user}" for user in range(USERS)]),
        Items.build(
            item_id=ids,
            author_id=[1 + item % USERS for item in ids],
            created_at=[0] * ITEMS,
            text=["x"] * ITEMS,
            topic=[None if item % 7 == 0 else f"t{item % 3}" for item in ids],
        ),
        Edges.build(src=[], dst=[], kind=[]),
        Events.build(
            user_id=[row[0] for row in rows],
            item_id=[row[1] for row in rows],
            time=[row[2] for row in rows],
            action=[row[3] for row in rows],
        ),
    )


def write_data(path: Path, made: Tables | None = None) -> Path:
    """Write the sittings (or other tables) as a data directory."""
    now = dt.datetime.fromtimestamp(NOW_MS / 1000, dt.UTC)
    DataDirectory(path).write(tables() if made is None else made, DatasetInfo("sittings", now, {"viewer": 1}))
    return path
