"""Shared by the tests of the Phoenix plugin: small tables, and small untrained models that feel their inputs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from candidate_pipeline.app import App, load_document
from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.keys import ITEM_ID
from candidate_pipeline.plugin import Plugin
from candidate_pipeline.query import Query
from candidate_pipeline.registry import Registry
from candidate_pipeline.spec.document import Document
from candidate_pipeline_feed.actions import DISCRETE
from candidate_pipeline_feed.datadir import DataDirectory, DatasetInfo
from candidate_pipeline_feed.keys import (
    AUTHOR_ID,
    CREATED_AT,
    HISTORY,
    REPOST_AUTHOR_ID,
    REPOST_OF,
    SEEN_IDS,
    VIEWER_ID,
    History,
)
from candidate_pipeline_feed.plugin import candidate_pipeline_plugin as feed_plugin
from candidate_pipeline_feed.records import Edges, Events, Items, Tables, Users
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_phoenix.index import PostIndex
from candidate_pipeline_phoenix.models import RankerModel, RetrievalModel
from candidate_pipeline_phoenix.plugin import candidate_pipeline_plugin as phoenix_plugin
from phoenix_recsys.artifact import Artifact, save_artifact
from phoenix_recsys.config import RankerConfig, RetrievalConfig, TransformerConfig
from phoenix_recsys.hashing import HashParams
from phoenix_recsys.tables import EmbeddingTables
from phoenix_recsys.transforms import parameter_shapes

NOW = dt.datetime(2026, 10, 9, 18, tzinfo=dt.UTC)
NOW_MS = int(NOW.timestamp() * 1000)
HOUR = 3_600_000
HEADS = ("favorite", "reply", "dwelled", "unfavorite")
TRUNK = TransformerConfig(16, 8, 2, 2, 1, 2.0, 0.125)
REPOST, ORIGINAL, STRANGE_REPOST = 39, 3, 40


def build_tables() -> Tables:
    """Forty posts by six people, one an hour; 39 passes on 3, and 40 passes on something outside; some events."""
    ids = np.arange(1, 41)
    rng = np.random.default_rng(5)
    users = np.arange(101, 107)
    events = [
        (int(user), int(item), NOW_MS - HOUR * int(age))
        for user in users
        for item, age in enumerate(rng.integers(1, 30, 12), start=int(user) % 3 + 1)
    ]
    actions = [("favorite", "dwell", "reply")[at % 3] for at in range(len(events))]
    return Tables(
        Users.build(user_id=users, name=[f"person {user}" for user in users]),
        Items.build(
            item_id=ids,
            author_id=users[ids % 6],
            created_at=NOW_MS - HOUR * (41 - ids),
            text=[f"post {item}" for item in ids],
            repost_of=[*[None] * 38, ORIGINAL, 900],
        ),
        Edges.build(src=[101], dst=[102], kind=["follow"]),
        Events.build(
            user_id=[event[0] for event in events],
            item_id=[event[1] for event in events],
            time=[event[2] for event in events],
            action=actions,
        ),
    )


def artifact(kind: str, names: tuple[str, ...] | None = HEADS, **more: Any) -> Artifact:
    """An untrained model whose weights are large enough to feel every input."""
    common: dict[str, Any] = {
        "model": TRUNK,
        "num_actions": len(names) if names is not None else 19,
        "history_seq_len": 8,
        "candidate_seq_len": 4,
        "fprop_dtype": "float32",
        "action_names": names,
    }
    config = RankerConfig(**common) if kind == "ranker" else RetrievalConfig(**common)
    hashes = HashParams.random(3, user_vocab_size=64, item_vocab_size=128, author_vocab_size=64)
    rng = np.random.default_rng(11)
    params: dict[str, dict[str, Any]] = {}
    for path, shape in parameter_shapes(config).items():
        module, _, name = path.rpartition("/")
        params.setdefault(module, {})[name] = rng.normal(0, 0.4, shape).astype(np.float32)
    if kind == "retrieval":
        params["~"] = {"log_temperature": np.log(np.float32(0.25))}
    tables = EmbeddingTables.random(3, hashes, TRUNK.emb_size)
    return Artifact(config, params, tables, hashes, **more)


def history_of(items: list[int], actions: list[str] | None = None, authors: list[int] | None = None) -> History:
    """A history of one action an item, an hour apart, the last an hour before the request."""
    done = actions if actions is not None else ["favorite"] * len(items)
    hot = np.zeros((len(items), len(DISCRETE)), np.float32)
    for row, name in enumerate(done):
        hot[row, DISCRETE.index(name)] = 1.0
    count = len(items)
    return History(
        np.array(items, np.int64),
        np.array(authors if authors is not None else [101] * count, np.int64),
        NOW_MS - HOUR * np.arange(count, 0, -1),
        hot,
        DISCRETE,
        np.zeros(count, np.float32),
    )


def query_of(
    items: list[int] | None = None, seen: list[int] | None = None, viewer: int = 101, now: dt.datetime = NOW
) -> Query:
    """A request by somebody with a history."""
    features: dict[Any, Any] = {
        VIEWER_ID: viewer,
        HISTORY: history_of(items if items is not None else [1, 2, 5]),
        SEEN_IDS: np.array(sorted(seen or []), np.int64),
    }
    return Query(now=now, features=features)


@attrs.frozen(eq=False)
class Tiny:
    """A data directory with models, open, and what makes requests of it.

    Tests do not import this module (each test file stands alone), so everything they need hangs here.
    """

    data: FeedTables
    retrieval: RetrievalModel
    ranker: RankerModel
    index: PostIndex

    now_ms: int = NOW_MS
    repost: int = REPOST
    original: int = ORIGINAL
    strange_repost: int = STRANGE_REPOST
    heads: tuple[str, ...] = HEADS

    tables = staticmethod(build_tables)
    artifact = staticmethod(artifact)
    history = staticmethod(history_of)
    query = staticmethod(query_of)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    """The tables with both models and the index, open for the whole session."""
    directory: Path = tmp_path_factory.mktemp("tiny")
    data = FeedTables.of(build_tables(), directory)
    save_artifact(data.models / "retrieval", artifact("retrieval"))
    save_artifact(data.models / "ranker", artifact("ranker", served_heads=("favorite", "reply", "dwelled")))
    retrieval, ranker = RetrievalModel(data), RankerModel(data)
    retrieval.open()
    ranker.open()
    index = PostIndex(data, retrieval)
    index.open()
    yield Tiny(data, retrieval, ranker, index)
    for resource in (index, ranker, retrieval):
        resource.close()


FEED = """
schema = 1

[pipelines.feed]
result_size = 50
inputs = { viewer = "feed.viewer_id" }
query_hydrators = ["feed.viewer", "feed.history"]
sources = ["tiny.posts"]
hydrators = ["feed.items"]
scorers = ["ranker", "liked"]
selector = "feed.top_k"

[components.ranker]
use = "phoenix.ranker"
run = { threads = 16 }

[components.liked]
use = "feed.weighted"
preset = "none"
weights = { favorite = 1.0, reply = 2.0 }

[resources.data]
use = "feed.tables"

[resources.ranker_model]
use = "phoenix.ranker_model"
candidate_buckets = [40]
"""


@attrs.frozen
class Posts:
    """Every post of the tables."""

    data: FeedTables
    reads = ()
    writes = ()

    def fetch(self, query: Query, ctx: Context) -> Candidates:
        """All ids."""
        return Candidates.of(ITEM_ID(self.data.tables.items.item_id))


@attrs.frozen
class TinyFeed:
    """A pipeline in TOML over a data directory with the tables and a ranker."""

    directory: Path
    text: str = FEED
    viewers: tuple[int, ...] = (101, 102, 103, 104, 105, 106)

    def load(self, options: str = "") -> App:
        """The application with further options of the ranker model, as TOML lines."""
        plugins = [feed_plugin(), phoenix_plugin(), Plugin("tiny", components={"source": {"posts": Posts}})]
        return load_document(
            Document(self.text + options, "feed.toml"), data=self.directory, registry=Registry(plugins)
        )


@pytest.fixture(scope="session")
def tiny_feed(tmp_path_factory: pytest.TempPathFactory) -> TinyFeed:
    """The tables and the ranker on disk."""
    directory: Path = tmp_path_factory.mktemp("tiny_feed") / "data"
    directory.mkdir()
    DataDirectory(directory).write(build_tables(), DatasetInfo("tiny", now=NOW))
    save_artifact(directory / "models" / "ranker", artifact("ranker"))
    return TinyFeed(directory)


@pytest.fixture(scope="session")
def candidates_of() -> Any:
    """Makes candidates of the tables' posts by id, with what hydrators would say of them."""

    def make(ids: Any, authors: Any = None) -> Candidates:
        items = build_tables().items
        wanted = np.array(list(ids), np.int64)
        rows = np.clip(wanted - 1, 0, len(items) - 1)
        known = (wanted >= 1) & (wanted <= len(items))
        author = np.where(known, items.author_id[rows], 0) if authors is None else np.array(authors, np.int64)
        repost_of = np.where(known & items.is_valid("repost_of")[rows], items.repost_of[rows], 0)
        source = np.where(repost_of == ORIGINAL, items.author_id[ORIGINAL - 1], 0)
        return Candidates.of(
            ITEM_ID(wanted),
            AUTHOR_ID(author, valid=author != 0),
            CREATED_AT(items.created_at[rows], valid=known),
            REPOST_OF(repost_of, valid=repost_of != 0),
            REPOST_AUTHOR_ID(source, valid=source != 0),
        )

    return make
