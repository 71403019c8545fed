"""Preferences of logged events, each post described by what the ranker would have predicted then.

For the posts that a person met, the pipeline's own ranker is asked what it predicts for that person at the time of the
request that showed them: the pipeline's clock is that time, so it knows what came strictly before and nothing else.
What the model was trained on is another matter: events that were trained on are predicted better than new ones are.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline import Candidates, Context, Outcome, Query, compose, load
from candidate_pipeline.app import App, Pipeline
from candidate_pipeline.engine.plan import Node, Plan
from candidate_pipeline.errors import DataError, MisconfigurationError
from candidate_pipeline.keys import ITEM_ID, Key
from candidate_pipeline.registry import Registry
from candidate_pipeline_feed.datadir import DataDirectory, bundled_world
from candidate_pipeline_feed.engagements import gather
from candidate_pipeline_feed.keys import PREDICTIONS, VIEWER_ID
from candidate_pipeline_stakeholder.collecting import NO_PREDICTIONS, Track, predicted, silent
from candidate_pipeline_stakeholder.encounters import OVER_NEGATIVE, Preferences, Rules, preferences
from candidate_pipeline_stakeholder.keys import ITEM_IDS
from candidate_pipeline_stakeholder.listed import ListedItems
from candidate_pipeline_stakeholder.pairs import Pairs

Float64 = NDArray[np.float64]

LISTED: Final = "stakeholder_listed"
"""The name of the pipeline that is made of a ranker and listed items."""
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_STAGES: Final = ("query_hydrators", "dependent_query_hydrators", "hydrators", "scorers")


@attrs.frozen(eq=False)
class LoggedPairs:
    """Pairs of a log.

    Args:
        pairs: The pairs; a pair's time is when the request began that its features are of.
        requests: How many requests they come from.
        windows: How many windows of the log hold a preference.
        over_negative: Pairs against a post with a negative action; the rest are against one that was only shown.
        left_out: Pairs of which the ranker predicts nothing for a side.
        complete: Whether all was done; else somebody interrupted.
        troubles: Components that were skipped or replaced, with their message, and how often.
    """

    pairs: Pairs
    requests: int
    windows: int
    over_negative: int
    left_out: int
    complete: bool
    troubles: Counter[str]


@attrs.frozen
class _Everything:
    """The selector that takes every row."""

    reads = ()

    def select(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.intp]:
        """All rows, in their order."""
        return np.arange(len(candidates))


def needed_for_predictions(plan: Plan) -> list[Node]:
    """The components of a pipeline that its predictions rest on, in order: scorers that predict and what they read.

    Sources and filters are not among them: items that are listed need none.

    Raises:
        MisconfigurationError: None of its hydrators and scorers predicts.
    """
    stages = [node for node in plan.nodes if node.stage in _STAGES]
    chosen = {node.index: node for node in stages if PREDICTIONS in node.writes}
    if not chosen:
        raise MisconfigurationError(f"pipeline {plan.name!r}: {NO_PREDICTIONS}")
    waiting = list(chosen.values())
    while waiting:
        node = waiting.pop()
        wanted: set[Key] = {*node.features, *node.columns}
        for other in stages:
            if other.index not in chosen and other.index < node.index and wanted & other.writes:
                chosen[other.index] = other
                waiting.append(other)
    return [node for node in stages if node.index in chosen]


@attrs.frozen(eq=False)
class Listing:
    """A pipeline that scores listed items as another one does: its ranker and what that needs, without filters.

    Args:
        app: The application that owns the resources and the loop.
        pipeline: The pipeline; every row is selected.
    """

    app: App
    pipeline: Pipeline

    def run(self, viewer: int, item_ids: NDArray[np.int64], now: dt.datetime, seed: int = 0) -> Outcome:
        """What would have been predicted for a person and some items at a time; for scripts."""
        request = self.pipeline.run(now=now, seed=seed, viewer=viewer, item_ids=item_ids)
        outcome: Outcome = self.app.run_coroutine(request)
        return outcome


@contextmanager
def listing(app: App, name: str) -> Iterator[Listing]:
    """Score listed items as a pipeline of an open application does, on its resources.

    Args:
        app: An open application; resources that the ranker needs are opened.
        name: The pipeline with the ranker.

    Raises:
        MisconfigurationError: It does not predict, or a resource cannot be opened.
        SpecError: The ranker needs what its sources alone give.
    """
    nodes = needed_for_predictions(app[name].plan)

    def stage(*names: str) -> list[tuple[str, Any]]:
        return [(node.name, node.component) for node in nodes if node.stage in names]

    composed = compose(
        LISTED,
        inputs={"viewer": VIEWER_ID, "item_ids": ITEM_IDS},
        query_hydrators=stage("query_hydrators", "dependent_query_hydrators"),
        sources=[ListedItems()],
        hydrators=stage("hydrators"),
        scorers=stage("scorers"),
        selector=_Everything(),
    )
    # Both run on the loop of the application, to which its resources may be bound.
    app.run_coroutine(app.open_for([node.component for node in nodes]))
    app.run_coroutine(composed.__aenter__())
    try:
        yield Listing(app, composed[LISTED])
    finally:
        app.run_coroutine(composed.__aexit__(None, None, None))


@attrs.frozen
class Settings:
    """Where the events are and what ranks.

    Args:
        data: The data directory; None: the one that the spec reads without `--data`.
        config: The spec.
        pipeline: A pipeline's name in the spec.
        sets: Overrides of the spec, `"a.b=v"` each.
    """

    data: Path | None = None
    config: Path = Path("pipelines.toml")
    pipeline: str = "for_you"
    sets: tuple[str, ...] = ()


def pairs_from_events(
    settings: Settings,
    registry: Registry,
    *,
    rules: Rules | None = None,
    limit: int = 2000,
    features: Sequence[str] | None = None,
    stakeholder: str = "user",
    seed: int = 0,
    track: Track = silent,
) -> LoggedPairs:
    """Pairs of the events of a data directory.

    Args:
        settings: Where the events are and what ranks.
        registry: Where names resolve.
        rules: What counts as a preference; default: `Rules()`.
        limit: At most so many pairs.
        features: Heads to take; `None`: every head that predicts a probability.
        stakeholder: Whose preferences these are called.
        seed: The source of all draws.
        track: Shows how far it is.

    Raises:
        SpecError: The spec has mistakes.
        DataError: The log states no preference, or the ranker predicts nothing for what it is about.
        RequestError: The pipeline cannot answer.
        KeyboardInterrupt: Interrupted before the first request was done.
    """
    rules = Rules() if rules is None else rules
    app = load(settings.config, data=settings.data, sets=settings.sets, only=(), registry=registry)
    app[settings.pipeline]
    path = app.dataset.path if app.dataset is not None else settings.data or bundled_world()
    found = preferences(gather(DataDirectory(path).tables().events), rules, limit, seed)
    if not len(found):
        passed = " or with an impression only" if rules.impressions else ""
        raise DataError(
            f"{path}: the events state no preference: within {rules.window}, no person with {rules.min_history} "
            f"earlier action(s) met both a post with {', '.join(rules.positive)} and one with "
            f"{', '.join(rules.negative)}{passed}. Choose other actions or a longer window"
        )
    with app, listing(app, settings.pipeline) as listed:
        return ask(listed, found, features=features, stakeholder=stakeholder, seed=seed, track=track)


def ask(
    listed: Listing,
    found: Preferences,
    *,
    features: Sequence[str] | None = None,
    stakeholder: str = "user",
    seed: int = 0,
    track: Track = silent,
) -> LoggedPairs:
    """Ask a ranker about the posts of preferences, one request a window; see `pairs_from_events`."""
    requests = found.requests()
    troubles: Counter[str] = Counter()
    tables: list[Pairs] = []
    kinds: list[NDArray[np.int8]] = []
    left_out = done = 0
    try:
        for rows in track("asking the ranker", requests, len(requests)):
            outcome = _run(listed, found, rows, seed)
            troubles.update(_troubles(outcome))
            table, kept = _pairs(outcome, found, rows, features, stakeholder)
            done += 1
            left_out += int((~kept).sum())
            if table is not None:
                tables.append(table)
                kinds.append(found.kind[rows][kept])
    except KeyboardInterrupt:
        if not tables:
            raise
    if not tables:
        told = "; ".join(troubles) or "no component failed"
        raise DataError(f"the ranker predicts nothing for the posts of {done} requests ({told})")
    pairs = Pairs.concat(tables)
    # Which side stands left says nothing.
    swapped = np.random.default_rng([seed, 1]).random(len(pairs)) < 0.5
    over_negative = int((np.concatenate(kinds) == OVER_NEGATIVE).sum())
    return LoggedPairs(
        pairs.swapped(swapped), done, found.windows, over_negative, left_out, done == len(requests), troubles
    )


def _run(listed: Listing, found: Preferences, rows: slice, seed: int) -> Outcome:
    items = np.unique(np.concatenate([found.preferred[rows], found.other[rows]]))
    now = _EPOCH + dt.timedelta(milliseconds=int(found.time[rows.start]))
    return listed.run(int(found.user_id[rows.start]), items, now, seed)


def _troubles(outcome: Outcome) -> Iterable[str]:
    for entry in outcome.trace:
        if entry.status != "ok":
            yield f"{entry.component} {entry.status}: {entry.error or entry.by}"


def _pairs(
    outcome: Outcome, found: Preferences, rows: slice, features: Sequence[str] | None, stakeholder: str
) -> tuple[Pairs | None, NDArray[np.bool_]]:
    """The pairs of one request, preferred ones left, and which preferences they are."""
    table = outcome.ranked
    labels, values, valid = predicted(table, features)
    items = table[ITEM_ID]
    order = np.argsort(items)
    places = [order[np.searchsorted(items[order], side[rows])] for side in (found.preferred, found.other)]
    kept = np.asarray(valid[places[0]] & valid[places[1]])
    if not kept.any():
        return None, kept
    better, worse = (place[kept] for place in places)
    count = len(better)
    pairs = Pairs.of(
        labels,
        values[better],
        values[worse],
        np.ones(count, np.int8),
        stakeholder=stakeholder,
        rater=str(int(found.user_id[rows.start])),
        time=found.time[rows][kept],
        left_item=items[better],
        right_item=items[worse],
    )
    return pairs, kept
