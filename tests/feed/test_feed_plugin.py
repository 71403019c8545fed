"""The plugin: what it registers, what it imports, and its rules together in a pipeline."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import pytest

from candidate_pipeline import (
    RequestError,
    SafetyError,
    SpecError,
    compose,
    load_document,
)
from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import METHODS, Context
from candidate_pipeline.keys import ITEM_ID, SCORE
from candidate_pipeline.options import options_of
from candidate_pipeline.patches import Patch, patch
from candidate_pipeline.plugin import Plugin
from candidate_pipeline.query import Query
from candidate_pipeline.registry import ComponentRef, Registry, installed, resolve
from candidate_pipeline.spec.document import Document
from candidate_pipeline.testing import StaticSource
from candidate_pipeline_feed import keys
from candidate_pipeline_feed.filters.age import Age
from candidate_pipeline_feed.filters.already_seen import AlreadySeen
from candidate_pipeline_feed.filters.blocked_authors import BlockedAuthors
from candidate_pipeline_feed.filters.conversations import DedupConversation
from candidate_pipeline_feed.filters.core_data import CoreData
from candidate_pipeline_feed.filters.duplicates import DropDuplicates
from candidate_pipeline_feed.filters.muted_keywords import MutedKeywords
from candidate_pipeline_feed.filters.own_posts import OwnPosts
from candidate_pipeline_feed.filters.subscriptions import SubscribersOnly
from candidate_pipeline_feed.graph import SocialGraph
from candidate_pipeline_feed.history import ViewerHistory
from candidate_pipeline_feed.hydrators import Authors, InNetwork, Items
from candidate_pipeline_feed.plugin import candidate_pipeline_plugin
from candidate_pipeline_feed.scorers.author_diversity import AuthorDiversity
from candidate_pipeline_feed.scorers.out_of_network import OutOfNetwork
from candidate_pipeline_feed.scorers.weighted import Weighted
from candidate_pipeline_feed.selectors import TopK
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_feed.viewer import Viewer

PLUGIN: Plugin = candidate_pipeline_plugin()
REFS = [
    ComponentRef(kind, name, target, "feed", "0")
    for kind, named in PLUGIN.components.items()
    for name, target in named.items()
]


@pytest.mark.parametrize("ref", REFS, ids=lambda ref: f"{ref.kind}-{ref.name}")
def test_every_component_is_what_it_is_registered_as(ref: ComponentRef) -> None:
    """Every registered string names an attrs class of its kind, with a docstring and a doc for each option."""
    cls = ref.load()
    assert attrs.has(cls)
    assert cls.__doc__
    if ref.kind == "resource":
        return
    assert callable(getattr(cls, METHODS[ref.kind]))
    for option in options_of(cls).values():
        assert option.doc or option.name == "data", f"{ref.name}.{option.name} has no Doc"


@pytest.mark.parametrize("words", sorted(PLUGIN.commands))
def test_every_command_exists(words: str) -> None:
    """Every registered command names a function."""
    assert callable(resolve(PLUGIN.commands[words].target, words))


def test_installed_keys() -> None:
    """The keys of the plugin are in the registry under their names."""
    registered = installed().keys()
    assert registered["feed.author_id"] is keys.AUTHOR_ID
    assert registered["feed.viewer_id"] is keys.VIEWER_ID


def test_imports_are_light() -> None:
    """Registering imports no numpy; importing every component imports no JAX, FAISS or pyarrow."""
    modules = sorted({str(ref.target).partition(":")[0] for ref in REFS})
    script = (
        "import sys, importlib\n"
        "import candidate_pipeline_feed.plugin\n"
        "assert 'numpy' not in sys.modules, 'numpy'\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "heavy = {'jax', 'faiss', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@attrs.frozen
class Guess:
    """A ranker of made-up predictions: a hash of the item."""

    reads = (ITEM_ID,)
    writes = (keys.PREDICTIONS,)

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Predict favourites and replies between 0 and 1."""
        ids = candidates[ITEM_ID]
        chance = np.stack([ids * 2654435761 % 1009 / 1009, ids * 40503 % 997 / 997], axis=1)
        return patch(keys.PREDICTIONS(chance.astype(np.float32), labels=["favorite", "reply"]))


@pytest.fixture(scope="module")
def world() -> Any:
    """The bundled world, open."""
    data = FeedTables()
    data.open()
    yield data
    data.close()


def feed(data: FeedTables, *, graph: Any = None) -> Any:
    """All of the plugin's components over all posts of a data directory."""
    return compose(
        "feed",
        inputs={"viewer": keys.VIEWER_ID},
        query_hydrators=[Viewer(data), graph or SocialGraph(data), ViewerHistory(data)],
        sources=[StaticSource(Candidates.of(ITEM_ID(data.tables.items.item_id)))],
        hydrators=[Authors(data), InNetwork(), Items(data)],
        filters=[
            DropDuplicates(),
            CoreData(),
            Age(),
            OwnPosts(),
            SubscribersOnly(),
            AlreadySeen(),
            MutedKeywords(),
            BlockedAuthors(),
        ],
        scorers=[Guess(), Weighted(), AuthorDiversity(), OutOfNetwork()],
        selector=TopK(size=40),
        post_selection_filters=[DedupConversation()],
    )


def now_of(data: FeedTables) -> Any:
    """The clock of a data directory: a second after its last event."""
    return dt.datetime.fromtimestamp(int(data.tables.events.time.max()) // 1000 + 1, dt.UTC)


def test_a_feed_keeps_its_promises(world: FeedTables) -> None:
    """Over the bundled world, for several viewers: nothing blocked, muted, seen, own or double is shown."""
    app = feed(world)
    with app:
        for viewer in world.tables.users.user_id[:200:40].tolist():
            outcome = app["feed"].run_sync(viewer=viewer, now=now_of(world))
            shown, query = outcome.selected, outcome.query
            assert len(shown) > 0
            assert not np.isin(shown[ITEM_ID], query[keys.SEEN_IDS]).any()
            for unwanted in (query[keys.BLOCKS], query[keys.BLOCKED_BY], query[keys.MUTES], [viewer]):
                assert not np.isin(shown[keys.AUTHOR_ID], unwanted).any()
            originals = np.where(shown.valid(keys.REPOST_OF), shown[keys.REPOST_OF], shown[ITEM_ID])
            assert len(np.unique(originals)) == len(shown)
            assert (np.diff(shown[SCORE]) <= 0).all()


def test_unknown_viewer(world: FeedTables) -> None:
    """A request for somebody unknown fails with the id and what there is."""
    with feed(world) as app, pytest.raises(RequestError, match=r"no user 987654 in .*1,200 users"):
        app["feed"].run_sync(viewer=987_654)


@attrs.frozen
class BrokenGraph:
    """A social graph that cannot be reached."""

    reads = (keys.VIEWER_ID,)
    writes = SocialGraph.writes

    def hydrate(self, query: Query, ctx: Context) -> Any:
        """Fail."""
        raise ConnectionError("the block list is not to be reached")


def test_a_block_list_that_fails_to_load(world: FeedTables) -> None:
    """Without the lists that protect people the request fails, and says why."""
    with feed(world, graph=BrokenGraph()) as app, pytest.raises(SafetyError) as caught:
        app["feed"].run_sync(viewer=42, now=now_of(world))
    message = str(caught.value)
    assert "safety filter" in message
    assert "the block list is not to be reached" in message


SPEC = """
schema = 1
[pipelines.p]
inputs = { viewer = "feed.viewer_id" }
query_hydrators = ["feed.viewer"]
sources = ["static"]
scorers = ["weighted"]
selector = "feed.top_k"
[components.static]
use = "test.static"
[components.weighted]
use = "feed.weighted"
%s
[resources.data]
use = "feed.tables"
"""


@attrs.frozen
class Posts:
    """A source of one post with a prediction."""

    reads = ()
    writes = (keys.PREDICTIONS,)

    def fetch(self, query: Query, ctx: Context) -> Candidates:
        """One post."""
        return Candidates.of(ITEM_ID([1]), keys.PREDICTIONS(np.array([[0.5]], np.float32), labels=["favorite"]))


def registry() -> Registry:
    """The plugin and a source for tests."""
    static: Mapping[Any, Any] = {"source": {"static": Posts}}
    return Registry([PLUGIN, Plugin("test", components=static)])


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ('preset = "2026-8-12"', "there are: 2023-the-algorithm-ml, 2026-08-12"),
        ("weights = { favourite = 1 }", "did you mean 'favorite'?"),
        ('weights = { favorite = "1" }', "wanted number"),
        ("offset = -1", "at least 0"),
        ("weight = { favorite = 1 }", "weights"),
        ('preset = "2026-08-12"', "feed.video_duration_ms"),
    ],
)
def test_wrong_settings(settings: str, wanted: str) -> None:
    """A wrong preset, action, type, range, name or wiring in TOML is answered with what was wanted."""
    with pytest.raises(SpecError) as caught:
        load_document(Document(SPEC % settings), registry=registry())
    assert wanted in str(caught.value)


def test_settings_from_toml() -> None:
    """Weights, presets and durations come from TOML as they are written."""
    settings = 'preset = "none"\nweights = { favorite = 2 }\nmin_video_duration = "3s"'
    with load_document(Document(SPEC % settings), registry=registry()) as app:
        outcome = app["p"].run_sync(viewer=42)
    assert outcome.selected[SCORE].tolist() == pytest.approx([1.001])
