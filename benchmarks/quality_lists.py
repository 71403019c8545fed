"""Requests of a data set with lists to rank, as the pipeline's ranker sees them: what `ranker_quality.py` measures on.

Viewers and times are those of `candidate-pipeline evaluate`: each person's last favourite is to be found among posts
that existed then and that the person had not met, from what the person did strictly before. Every feature comes from
the pipeline's own hydrators, and every score from its own scorers.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline import ITEM_ID, SCORE, App, Candidates, Context, Query, load, rank_order
from candidate_pipeline.engine.plan import Node
from candidate_pipeline_feed.datadir import DataDirectory, bundled_world
from candidate_pipeline_feed.evaluation.cases import Cases, Originals
from candidate_pipeline_feed.evaluation.provenance import require_trained_on
from candidate_pipeline_feed.evaluation.splits import make_split
from candidate_pipeline_feed.scorers.weighted import Weighted
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_phoenix.heads import Heads
from candidate_pipeline_phoenix.ranker import PhoenixRanker
from phoenix_recsys.actions import action_names
from phoenix_recsys.artifact import Artifact, load_artifact
from phoenix_recsys.requests import History, Items, Scores

ROOT: Final = Path(__file__).resolve().parents[1]
PIPELINE: Final = "for_you"
MIN_HISTORY: Final = 5
"""Requests of people who had acted on fewer posts are left out."""

Float64 = NDArray[np.float64]
Index = NDArray[np.intp]


@attrs.frozen(eq=False)
class ListToRank:
    """Candidates of one request.

    Args:
        query: The request, hydrated.
        candidates: Hydrated, in random order.
        items: The same as a ranker takes them.
        target: The row that is to be found.
    """

    query: Query
    candidates: Candidates
    items: Items
    target: int


@attrs.frozen(eq=False)
class Request:
    """A viewer at a time.

    Args:
        viewer: Who.
        history: What they did before, as a ranker takes it.
        lists: What is to be ranked, by the number of candidates asked for.
    """

    viewer: int
    history: History
    lists: Mapping[int, ListToRank]


@attrs.define(eq=False)
class _Replay:
    """A ranker that notes what it is asked and answers what it was given: the scorer's model in this benchmark."""

    artifact: Artifact
    data: FeedTables
    heads: Heads
    answer: Scores | None = None
    asked: list[tuple[int, History, Items]] = attrs.field(factory=list)

    @property
    def served(self) -> _Replay:
        """What the scorer calls."""
        return self

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the action heads."""
        return action_names(self.artifact.config)

    def prepare_viewer(self, viewer_id: int, history: History) -> tuple[int, History]:
        """Nothing to do."""
        return viewer_id, history

    def score(self, viewer: tuple[int, History], items: Items, **_: object) -> Scores:
        """The given answer, or zeros."""
        self.asked.append((*viewer, items))
        if self.answer is not None:
            return self.answer
        logits = np.zeros((len(items), len(self.action_names)), np.float32)
        return Scores(logits, logits + np.float32(0.5), None)


class DataSet:
    """A data directory with a trained ranker, and the pipeline of the README over it.

    Args:
        path: The data directory; None for the bundled world.
        seed: The source of all draws.

    Raises:
        DataError: The ranker was trained on another split, so it may have learnt what is to be found.
    """

    def __init__(self, path: Path | None, seed: int) -> None:
        self.app: App = load(ROOT / "pipelines.toml", data=path, only=[PIPELINE])
        self.directory = DataDirectory(bundled_world() if path is None else path)
        self.name = self.directory.info().name
        self.artifact = load_artifact(self.directory.ranker_model, kind="ranker")
        plan = self.app[PIPELINE].plan
        self._nodes: tuple[Node, ...] = tuple(plan.nodes)
        self._data: FeedTables = self.app.resource("data")
        self._data.open()
        heads = Heads.of(action_names(self.artifact.config), self.artifact.served_heads)
        self._replay = _Replay(self.artifact, self._data, heads)
        # The scorer asks of its model what the replay gives.
        self._ranker: PhoenixRanker = attrs.evolve(self._component("ranker"), model=self._replay)
        self._weighted: Weighted = self._component("weighted")
        events, tables = self._data.events, self._data.tables
        self.split = make_split(events)
        require_trained_on(self.directory.models, self.split.info)
        self._originals = Originals.of(tables.items)
        self._in_tables = np.isin(self._originals.item_ids, tables.items.item_id)
        self._cases = Cases(self.split.targets, events, self._originals)
        self._rng = np.random.default_rng([seed, 7])

    def _component(self, name: str) -> Any:
        return next(node.component for node in self._nodes if node.name == name)

    @property
    def heads(self) -> Heads:
        """The heads that the pipeline weighs."""
        return self._replay.heads

    @property
    def weights(self) -> str:
        """What they weigh."""
        given = self._weighted.resolved.weights
        return ", ".join(f"{head} {given[head]:g}" for head in self.heads.labels if given.get(head))

    def requests(self, count: int, sizes: tuple[int, ...]) -> Iterator[Request]:
        """Up to `count` requests of different people, in random order.

        Args:
            count: How many.
            sizes: Candidates of each list; a catalogue with fewer gives what it has.
        """
        possible = np.flatnonzero(self._cases.possible())
        found = 0
        for number in self._rng.permutation(possible):
            case = self._cases[int(number)]
            if len(case.history) < MIN_HISTORY or not self._in_tables[case.item]:
                continue
            others = case.candidates & self._in_tables
            others[case.item] = False
            user, time = int(self.split.targets.user_id[number]), case.time
            yield self._request(user, time, case.item, np.flatnonzero(others), sizes)
            found += 1
            if found == count:
                return

    def _request(self, user: int, time_ms: int, target: int, others: Index, sizes: tuple[int, ...]) -> Request:
        now = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=time_ms)
        query = self.app[PIPELINE].query(now, 0, None, {"viewer": user})
        for node in self._nodes:
            if node.stage == "query_hydrators":
                component: Any = node.component
                query = query.patched(component.hydrate(query, Context(node.name)))
        self._replay.asked.clear()
        lists = {}
        for size in sizes:
            drawn = self._rng.choice(others, min(size - 1, len(others)), replace=False)
            chosen = self._rng.permutation(np.append(drawn, target))
            lists[size] = self._list(query, self._originals.item_ids[chosen], int(np.argmax(chosen == target)))
        viewer, history, _ = self._replay.asked[0]
        return Request(viewer, history, lists)

    def _list(self, query: Query, ids: NDArray[np.int64], target: int) -> ListToRank:
        candidates = Candidates.of(ITEM_ID(ids))
        for node in self._nodes:
            if node.stage == "hydrators":
                component: Any = node.component
                candidates = candidates.patched(component.hydrate(query, candidates, Context(node.name)))
        self._replay.answer = None
        self._ranker.score(query, candidates, Context("ranker"))
        return ListToRank(query, candidates, self._replay.asked[-1][2], target)

    def ranked(self, listed: ListToRank, scores: Scores) -> tuple[Float64, Index]:
        """What the pipeline's scorers make of a model's answer.

        Returns:
            The weighted score of each row, float64 [n], and all rows, best first.
        """
        self._replay.answer = scores
        table = listed.candidates.patched(self._ranker.score(listed.query, listed.candidates, Context("ranker")))
        table = table.patched(self._weighted.score(listed.query, table, Context("weighted")))
        if not table.valid(SCORE).all():
            raise AssertionError("the pipeline left candidates without a score")
        return table[SCORE].astype(np.float64), rank_order(table)
