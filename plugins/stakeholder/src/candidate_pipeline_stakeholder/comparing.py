"""Requests ranked under several mixes of stakeholders: what moved, who gained, who paid, and whom it exposes.

Recorded requests are replayed, so that the mixes are compared on the same candidates with the same predictions, and
nothing but the mix differs. What a stakeholder gets of a response is the mean of its raw utility over the response's
rows, as a share of what it could get: 0 is the worst response of that size that can be made of the scored candidates, 1
the best. The share needs no unit, so stakeholders can be set side by side; it does not depend on the scale or origin of
a utility.

Rows that are there to compare with: `recorded`, the response as it was given, and `random`, rows drawn from the scored
candidates with equal chances. The other mixes are compared with the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline import ITEM_ID, Candidates, Capture, Column, Diff, Outcome, Ranking, Replayer, diff
from candidate_pipeline.app import App
from candidate_pipeline.cli.pictures_diff import shown_texts
from candidate_pipeline.errors import DataError, MisconfigurationError
from candidate_pipeline_feed.evaluation.bootstrap import Bootstrap, Interval
from candidate_pipeline_feed.keys import AUTHOR_ID, IN_NETWORK, TOPIC
from candidate_pipeline_stakeholder.exposure import entropy, gini
from candidate_pipeline_stakeholder.keys import RAW, STAKEHOLDER_MIX
from candidate_pipeline_stakeholder.scorer import StakeholderScorer

Float64 = NDArray[np.float64]

RECORDED: Final = "recorded"
RANDOM: Final = "random"
RANDOM_DRAWS: Final = 20
"""Random responses drawn for each request."""
NORMAL_95: Final = 1.96
"""Half the width of a 95 % interval, in standard errors."""
MAX_MIXES: Final = 20
FEW: Final = 10
"""Of fewer requests a bootstrap's intervals are much too narrow."""
PER_REQUEST: Final = ("distinct authors", "distinct topics", "topic entropy", "in network")
"""Measures of single responses; distinct authors and topics as shares of the rows."""
POOLED: Final = ("author Gini", "author coverage", "author entropy")
"""Measures of all responses together, over the authors who were among the scored candidates."""


@attrs.frozen(eq=False)
class Response:
    """What one request's response under one mix holds.

    Args:
        shares: What each stakeholder gets of what it could, 0 to 1, float64 [S]; NaN where it cares about nothing here.
        authors: How often each author of the request's catalogue is shown, by author id; one table for each draw of
            the response, of which there are several where it is random.
        measures: `PER_REQUEST` by name; NaN where it is not known.
        change: What moved against the first mix; `None` for what is not replayed.
        texts: Short texts of the items, by id.
    """

    shares: Float64
    authors: tuple[Mapping[int, int], ...]
    measures: Mapping[str, float]
    change: Diff | None = None
    texts: Mapping[int, str] = attrs.field(factory=dict, repr=False)


@attrs.frozen
class Mixed:
    """What a mix does, over all requests.

    Args:
        name: What the mix is called.
        mix: The weights of the stakeholders; `None` for `recorded` and `random`.
        shares: What each stakeholder gets of what it could, with its interval.
        gains: How much more (less, below 0) than under the first mix, paired by request.
        exposure: The measures of `PER_REQUEST` and `POOLED`, with intervals; those that are not known are left out.
        overlap: Mean part of the first mix's response that is still there; `None` where nothing was replayed.
        tau: Mean Kendall tau-b against the first mix's response.
        rbo: Mean rank-biased overlap with it.
        changed: How many responses differ from the first mix's.
    """

    name: str
    mix: Mapping[str, float] | None
    shares: Mapping[str, Interval]
    gains: Mapping[str, Interval]
    exposure: Mapping[str, Interval]
    overlap: float | None = None
    tau: float | None = None
    rbo: float | None = None
    changed: int | None = None

    def gained(self) -> tuple[str, ...]:
        """Stakeholders whose share rises with the whole interval, the largest gain first."""
        return self._by(1)

    def paid(self) -> tuple[str, ...]:
        """Stakeholders whose share falls with the whole interval, the largest loss first."""
        return self._by(-1)

    def _by(self, sign: int) -> tuple[str, ...]:
        found = [name for name, gain in self.gains.items() if gain.sign == sign]
        return tuple(sorted(found, key=lambda name: -abs(self.gains[name].mean)))


@attrs.frozen(eq=False)
class Comparison:
    """Requests under several mixes.

    Args:
        pipeline: The pipeline.
        scorer: The component whose mix was varied.
        requests: How many requests were compared.
        size: Mean rows of a response.
        candidates: Mean scored candidates of a request.
        rows: One a mix, in the order given, then `recorded` and `random`.
        changes: For each mix but the first, what moved in each request.
        texts: For each request, short texts of its items.
        notes: What else a reader must know, such as captures of another data set.
    """

    pipeline: str
    scorer: str
    requests: int
    size: float
    candidates: float
    rows: tuple[Mixed, ...]
    changes: Mapping[str, tuple[Diff, ...]] = attrs.field(repr=False)
    texts: tuple[Mapping[int, str], ...] = attrs.field(repr=False)
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; what moved in each request as counts."""
        result = attrs.asdict(self, filter=attrs.filters.exclude("changes", "texts"))
        for row, mixed in zip(result["rows"], self.rows, strict=True):
            row["gained"], row["paid"] = mixed.gained(), mixed.paid()
        return result


@attrs.frozen(eq=False)
class _Request:
    """One request under all mixes."""

    person: str
    size: int
    candidates: int
    responses: Mapping[str, Response]
    catalogue: NDArray[np.int64]
    notes: tuple[str, ...]


def stakeholder_scorers(app: App, pipeline: str) -> dict[str, StakeholderScorer]:
    """A pipeline's stakeholder scorers by name, in order."""
    nodes = [node for node in app[pipeline].plan.nodes if node.kind == "scorer"]
    return {node.name: node.component for node in nodes if isinstance(node.component, StakeholderScorer)}


def stakeholder_scorer(app: App, pipeline: str, name: str | None = None) -> tuple[str, StakeholderScorer]:
    """The name and the component of a pipeline's stakeholder scorer.

    Raises:
        MisconfigurationError: There is none, or several and none is named.
    """
    found = stakeholder_scorers(app, pipeline)
    if name is not None and name in found:
        return name, found[name]
    if name is None and len(found) == 1:
        return next(iter(found.items()))
    if not found:
        raise MisconfigurationError(
            f"pipeline {pipeline!r} has no scorer of the kind stakeholder.scorer, whose mix could be varied; give a "
            "spec that has one with --config (docs/stakeholders.md shows one)"
        )
    has = f"no stakeholder scorer {name!r}" if name is not None else f"{len(found)} stakeholder scorers"
    raise MisconfigurationError(f"pipeline {pipeline!r} has {has}; choose one with --scorer: {', '.join(found)}")


def check_mixes(component: StakeholderScorer, mixes: Mapping[str, Mapping[str, float]]) -> None:
    """Refuse mixes that cannot be compared.

    Raises:
        MisconfigurationError: A mix is not one that the scorer takes.
        DataError: There are none or too many, or one has a name that is taken.
    """
    if not mixes or len(mixes) > MAX_MIXES:
        raise DataError(f"wanted 1 to {MAX_MIXES} mixes, found {len(mixes)}; choose some with --mix")
    if taken := [called for called in (RECORDED, RANDOM) if called in mixes]:
        raise DataError(f"mix {taken[0]!r}: this name is taken by a row that mixes are compared with; choose another")
    for mix in mixes.values():
        component.with_mix(mix)


async def compare(
    app: App,
    captures: Sequence[Capture],
    mixes: Mapping[str, Mapping[str, float]],
    *,
    scorer: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Rank recorded requests under each mix.

    Args:
        app: An open application; the captures' pipeline has a stakeholder scorer.
        captures: The requests; all of one pipeline.
        mixes: Weights of stakeholders, by what the mix is called. The first is what the others are compared with.
        scorer: The name of the scorer, where the pipeline has several.
        progress: Told how many requests are done.

    Raises:
        MisconfigurationError: A mix is not one that the scorer takes, or there is no such scorer.
        DataError: There are no captures, they are of several pipelines, carry a mix of their own, which would hold
            over the ones to be compared, or no candidate of theirs is scored.
    """
    if not captures:
        raise DataError("there is no recorded request to compare mixes on")
    pipelines = sorted({capture.pipeline for capture in captures})
    if len(pipelines) > 1:
        raise DataError(f"wanted captures of one pipeline, found {', '.join(pipelines)}; keep them in separate folders")
    name, component = stakeholder_scorer(app, pipelines[0], scorer)
    check_mixes(component, mixes)
    variants = {called: component.with_mix(mix) for called, mix in mixes.items()}
    requests = []
    for capture in captures:
        requests.append(await _request(app, capture, name, variants))
        if progress is not None:
            progress(len(requests))
    notes = tuple(dict.fromkeys(note for request in requests for note in request.notes))
    if not any(request.candidates for request in requests):
        told = "".join(f"; {note}" for note in notes)
        raise DataError(f"no candidate of {len(requests)} recorded requests is scored by {name}{told}")
    return _summary(pipelines[0], name, component.names, mixes, requests, notes)


async def _request(app: App, capture: Capture, name: str, variants: Mapping[str, StakeholderScorer]) -> _Request:
    replayer = Replayer(app, capture)
    own = replayer.query[STAKEHOLDER_MIX]
    if own:
        raise DataError(
            f"request {capture.request_id}: it was made with a mix of its own ({STAKEHOLDER_MIX.name} = {dict(own)}), "
            "which holds over any other; record requests without one"
        )
    outcomes = {called: await replayer.run({name: variant}) for called, variant in variants.items()}
    notes = dict.fromkeys(note for outcome in outcomes.values() for note in outcome.notes)
    first = next(iter(outcomes.values()))
    before = Ranking.of(first)
    names = next(iter(variants.values())).names
    pool = _Pool(first, names)
    texts = shown_texts(first)
    responses = {
        called: attrs.evolve(pool.response(outcome.item_ids), change=diff(before, Ranking.of(outcome)), texts=texts)
        for called, outcome in outcomes.items()
    }
    recorded = capture.ranking
    responses[RECORDED] = pool.response(recorded.item_ids[: recorded.selected])
    responses[RANDOM] = pool.random(len(first.selected), replayer.query.seed)
    return _Request(capture.request_id, len(first.selected), len(pool), responses, pool.catalogue(), tuple(notes))


class _Pool:
    """The scored candidates of a request."""

    def __init__(self, outcome: Outcome, names: Sequence[str]) -> None:
        table = outcome.ranked
        raw = np.column_stack([_numbers(table, RAW[name]) for name in names])
        scored = np.isfinite(raw).all(axis=1)
        self.ids = table[ITEM_ID][scored]
        self.raw = raw[scored]
        has_authors = AUTHOR_ID in table
        self.authors = np.where(table.valid(AUTHOR_ID), table[AUTHOR_ID], -1)[scored] if has_authors else None
        self.topics = table[TOPIC][scored] if TOPIC in table else None
        known = IN_NETWORK in table
        self.in_network = np.where(table.valid(IN_NETWORK), table[IN_NETWORK], 0.0)[scored] if known else None
        self._sorted = np.sort(self.raw, axis=0)
        self._at = {int(item): at for at, item in reversed(list(enumerate(self.ids)))}

    def __len__(self) -> int:
        return len(self.ids)

    def catalogue(self) -> NDArray[np.int64]:
        """The authors who could be shown."""
        return np.empty(0, np.int64) if self.authors is None else np.unique(self.authors)

    def response(self, items: NDArray[np.int64]) -> Response:
        """What a response holds, of those of its rows that are scored candidates."""
        return self._measured([self._at[int(item)] for item in items if int(item) in self._at])

    def random(self, size: int, seed: int) -> Response:
        """Random responses of a size: the mean of their shares and measures, and whom each of them shows."""
        rng = np.random.default_rng([seed, len(self)])
        size = min(size, len(self))
        drawn = [self._measured(rng.choice(len(self), size, replace=False)) for _ in range(RANDOM_DRAWS)]
        authors = tuple(table for each in drawn for table in each.authors)
        measures = {name: float(np.mean([each.measures[name] for each in drawn])) for name in PER_REQUEST}
        return Response(np.mean([each.shares for each in drawn], axis=0), authors, measures)

    def _measured(self, rows: Sequence[int] | NDArray[np.intp]) -> Response:
        at = np.asarray(rows, np.intp)
        size = len(at)
        shares = np.full(self.raw.shape[1], np.nan)
        if size:
            worst, best = self._sorted[:size].mean(axis=0), self._sorted[-size:].mean(axis=0)
            span = best - worst
            known = span > 0
            shares[known] = (self.raw[at].mean(axis=0) - worst)[known] / span[known]
        measures = dict.fromkeys(PER_REQUEST, float("nan"))
        counts: dict[int, int] = {}
        if size and self.authors is not None:
            ids, shown = np.unique(self.authors[at], return_counts=True)
            counts = dict(zip(ids.tolist(), shown.tolist(), strict=True))
            measures["distinct authors"] = len(counts) / size
        if size and self.topics is not None:
            topics = [str(topic) for topic in self.topics[at]]
            _, shown = np.unique(topics, return_counts=True)
            measures["distinct topics"] = len(shown) / size
            measures["topic entropy"] = entropy(shown, normalised=False)
        if size and self.in_network is not None:
            measures["in network"] = float(self.in_network[at].mean())
        return Response(shares, (counts,), measures)


def _numbers(table: Candidates, column: Column[Any]) -> Float64:
    """A column's cells, NaN where there is none."""
    if column not in table:
        return np.full(len(table), np.nan)
    return np.where(table.valid(column), table[column], np.nan).astype(np.float64)


def _summary(
    pipeline: str,
    scorer: str,
    names: Sequence[str],
    mixes: Mapping[str, Mapping[str, float]],
    requests: Sequence[_Request],
    notes: tuple[str, ...],
) -> Comparison:
    """The figures over all requests; intervals draw requests with replacement, the same draws for every row."""
    first = next(iter(mixes))
    pooled = _Exposures(requests)
    rows = []
    for called in (*mixes, RECORDED, RANDOM):
        responses = [request.responses[called] for request in requests]
        baselines = [request.responses[first] for request in requests]
        diffs = [response.change for response in responses if response.change is not None]
        taus = [each.tau for each in diffs if each.tau is not None]
        exposure = {name: _interval([response.measures[name] for response in responses]) for name in PER_REQUEST}
        exposure |= pooled(called)
        shares = np.array([response.shares for response in responses])
        gains = shares - np.array([response.shares for response in baselines])
        rows.append(
            Mixed(
                called,
                mixes.get(called),
                _known({name: _interval(shares[:, at]) for at, name in enumerate(names)}),
                {} if called == first else _known({name: _interval(gains[:, at]) for at, name in enumerate(names)}),
                _known(exposure),
                *(
                    (
                        float(np.mean([each.overlap for each in diffs])),
                        float(np.mean(taus)) if taus else None,
                        float(np.mean([each.rbo for each in diffs])),
                        sum(not each.is_empty for each in diffs),
                    )
                    if diffs
                    else ()
                ),
            )
        )
    return Comparison(
        pipeline,
        scorer,
        len(requests),
        float(np.mean([request.size for request in requests])),
        float(np.mean([request.candidates for request in requests])),
        tuple(rows),
        {
            called: tuple(found for request in requests if (found := request.responses[called].change) is not None)
            for called in list(mixes)[1:]
        },
        tuple(request.responses[first].texts for request in requests),
        (*notes, *_few(len(requests))),
    )


def _few(count: int) -> tuple[str, ...]:
    """What is to be said of few requests."""
    if count >= FEW:
        return ()
    if count == 1:
        return ("one request says nothing about others: there are no intervals",)
    return (f"{count} requests are few: intervals of fewer than {FEW} are too narrow, so who gained is not settled",)


def _interval(values: Sequence[float] | Float64) -> Interval | None:
    """The mean of the values that are known, with its interval over requests; one value has none."""
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    if len(found) < 2:
        return Interval(float(found[0]), float("nan"), float("nan")) if len(found) else None
    return Bootstrap(np.arange(len(found))).interval(found)


def _known(found: Mapping[str, Interval | None]) -> dict[str, Interval]:
    return {name: interval for name, interval in found.items() if interval is not None}


class _Exposures:
    """How evenly all responses together show the authors who were candidates.

    The more responses, the more authors they show, so requests drawn with replacement would look narrower than those
    that there are. Intervals are therefore the jackknife's: 1.96 standard errors of leaving out one request at a time
    (J. W. Tukey, 1958). For the same reason random responses are measured draw by draw, and the mean is taken after.
    """

    def __init__(self, requests: Sequence[_Request]) -> None:
        self._requests = requests
        self._authors = np.unique(np.concatenate([request.catalogue for request in requests]))
        available = np.zeros((len(requests), len(self._authors)), np.bool_)
        for row, request in enumerate(requests):
            available[row, np.searchsorted(self._authors, request.catalogue)] = True
        self._available = available

    def __call__(self, called: str) -> dict[str, Interval | None]:
        if not len(self._authors):
            return dict.fromkeys(POOLED)
        draws = max(len(request.responses[called].authors) for request in self._requests)
        measured = np.mean([self._jackknifed(called, draw) for draw in range(draws)], axis=0)
        whole, left_out = measured[0], measured[1:]
        n = len(left_out)
        errors = np.full(len(POOLED), np.nan)
        if n > 1:
            errors = np.sqrt((n - 1) / n * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
        low, high = (np.clip(whole + sign * NORMAL_95 * errors, 0.0, 1.0) for sign in (-1, 1))
        ends = zip(POOLED, whole.tolist(), low.tolist(), high.tolist(), strict=True)
        return {name: Interval(*figures) for name, *figures in ends}

    def _jackknifed(self, called: str, draw: int) -> Float64:
        """The measures of one draw of all responses, then without each of them, [1 + n, len(POOLED)]."""
        counts = np.zeros(self._available.shape, np.int64)
        for row, request in enumerate(self._requests):
            shown = request.responses[called].authors[draw]
            if shown:
                counts[row, np.searchsorted(self._authors, list(shown))] = list(shown.values())
        total, available = counts.sum(axis=0), self._available.sum(axis=0)
        without = (_exposed(total - row, available - there) for row, there in zip(counts, self._available, strict=True))
        return np.array([_exposed(total, available), *without])


def _exposed(shown: NDArray[np.int64], available: NDArray[np.int64]) -> tuple[float, ...]:
    """`POOLED` of how often authors are shown, and in how many requests they could be."""
    shown = shown[available > 0]
    return gini(shown), float((shown > 0).mean()) if len(shown) else float("nan"), entropy(shown)
