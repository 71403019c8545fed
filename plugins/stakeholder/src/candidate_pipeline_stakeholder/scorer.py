"""The scorer that ranks by a declared mix of stakeholders."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.errors import DataError, MisconfigurationError, RequestError
from candidate_pipeline.keys import SCORE, Column, Key
from candidate_pipeline.options import ConfigFile, Doc
from candidate_pipeline.patches import ColumnUpdate, Patch, patch
from candidate_pipeline.query import Query
from candidate_pipeline.spec.problems import nearest
from candidate_pipeline_feed.actions import PREDICTABLE
from candidate_pipeline_feed.keys import PREDICTIONS
from candidate_pipeline_stakeholder.keys import RAW, STAKEHOLDER_MIX, TERM, UTILITY
from candidate_pipeline_stakeholder.mixing import (
    ROUNDING,
    Float64,
    Over,
    mix_problem,
    mixed,
    shares,
    standardised,
    utilities_of,
)
from candidate_pipeline_stakeholder.utilities import DECLARED, Utilities
from candidate_pipeline_stakeholder.utilities_file import content_of, parse_utilities

_LARGEST: Final = float(np.finfo(np.float32).max)


@attrs.frozen(eq=False)
class _Served:
    """The utilities over the actions that a model predicts.

    Args:
        places: Where the actions that somebody has a weight for stand among the predictions.
        weights: Their weights, float64 [S, k].
        unserved: Stakeholders with weights of which the model predicts none, bool [S].
        centre: Means of the utilities over the pool, float64 [S]; zeros where there is none.
        spread: Their standard deviations.
    """

    places: NDArray[np.intp]
    weights: Float64
    unserved: NDArray[np.bool_]
    centre: Float64
    spread: Float64


@attrs.frozen
class StakeholderScorer:
    """Scores an item with what it is worth to several stakeholders, each counted as the mix says.

    A stakeholder's utility u is the sum of its weights times the predictions. The score is the sum over stakeholders
    of share times z, where shares are the mix divided by the sum of its absolute values, and z is u standardised as
    `normalise` says. By default that is over the request's scored candidates: a mixing weight is then the price of one
    standard deviation of the stakeholder's utility among them, and in what units its utility is does not matter.

    Every stakeholder gets columns, those too that the mix does not count: `stakeholder.raw.<name>` (u),
    `stakeholder.utility.<name>` (z) and `stakeholder.term.<name>` (share times z, of which `explain` makes up the
    score). Rules:

    * An item without predictions, or with one that is not finite, stays without a score, and does not count among
      the candidates that utilities are standardised over.
    * A utility that is the same for all of them is 0 for all of them.
    * An action that the model does not predict is left out. If that leaves a stakeholder with nothing, its columns are
      null; that the mix counts it then is an error.
    * A weight below 0 in the mix is for a stakeholder whose loss is wanted.
    * Upstream semantics change nothing here; the published system has no such scorer.

    Args:
        mix: How much each stakeholder counts; one that is left out counts nothing. A request that gives
            `stakeholder.mix` is ranked by that one instead.
        utilities: A utilities file, such as `candidate-pipeline stakeholder learn` writes.
        stakeholders: Weights of predicted actions by stakeholder, over those of the file. Without a file and without
            these: the declared user, platform and society (`candidate_pipeline_stakeholder.utilities.DECLARED`).
        normalise: "request": over the request's candidates; "pool": over the pool that the file tells of, so that
            scores of different requests can be compared; "none": not at all.
    """

    mix: Annotated[Mapping[str, float], Doc("How much each stakeholder counts; one that is left out counts nothing.")]
    utilities: Annotated[ConfigFile, Doc("A utilities file, as `stakeholder learn` writes it.")] | None = None
    stakeholders: Annotated[
        Mapping[str, Mapping[str, float]],
        Doc("Weights of predicted actions by stakeholder, over the file's; default: the declared ones."),
    ] = attrs.field(factory=dict)
    normalise: Annotated[Over, Doc("Over what utilities are standardised before they are mixed.")] = "request"
    resolved: Utilities = attrs.field(init=False, repr=False, eq=False)
    _served: dict[tuple[str, ...], _Served] = attrs.field(init=False, repr=False, eq=False, factory=dict)

    @resolved.default
    def _resolve(self) -> Utilities:
        given = {name: dict(weights) for name, weights in self.stakeholders.items()}
        for name, weights in given.items():
            _check_actions(weights, f"stakeholders.{name}")
        base = DECLARED if not given else None
        if self.utilities is not None:
            base = _parsed(content_of(self.utilities), self.utilities)
            used = [feature for at, feature in enumerate(base.features) if base.weights[:, at].any()]
            _check_actions(used, str(self.utilities))
        try:
            found = Utilities.of(given) if base is None else _laid_over(base, given)
        except DataError as error:
            raise MisconfigurationError(f"stakeholders: {error}") from error
        if self.normalise == "pool":
            _check_pool(self.utilities, base, found)
        problem = mix_problem(self.mix, found.names)
        if problem:
            raise MisconfigurationError(f"mix: {problem}")
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The stakeholders."""
        return self.resolved.names

    @property
    def in_effect(self) -> Mapping[str, Any]:
        """The mix with those that it leaves out."""
        return {"mix": {name: float(self.mix.get(name, 0.0)) for name in self.names}}

    @property
    def listwise(self) -> bool:
        """Whether a row's score depends on the other rows."""
        return self.normalise == "request"

    @property
    def reads(self) -> tuple[Key, ...]:
        """Predictions, and the mix that the request may ask for."""
        return (PREDICTIONS, STAKEHOLDER_MIX)

    @property
    def writes(self) -> tuple[Key, ...]:
        """The score, and what it is to whom."""
        return (SCORE, *(family[name] for family in (RAW, UTILITY, TERM) for name in self.names))

    def with_mix(self, mix: Mapping[str, float]) -> StakeholderScorer:
        """The same scorer with another mix.

        Raises:
            MisconfigurationError: It is no mix of these stakeholders.
        """
        return attrs.evolve(self, mix=dict(mix))

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        """Weigh the predictions and mix what they are worth, in float64."""
        asked = query[STAKEHOLDER_MIX]
        if asked:
            problem = mix_problem(asked, self.names)
            if problem:
                raise RequestError(f"{STAKEHOLDER_MIX.name}: {problem}")
        parts = shares(asked or self.mix, self.names)
        labels, rows = candidates.labels(PREDICTIONS), candidates.valid(PREDICTIONS)
        served = self._over(labels)
        if rows.any():
            self._check_served(served, parts, labels, asked=bool(asked))
        values = candidates[PREDICTIONS][:, served.places].astype(np.float64)
        rows = rows & np.isfinite(values).all(axis=1)
        raw, sizes = utilities_of(values[rows], served.weights)
        rows, raw, sizes = _fitting(raw, rows, raw, sizes)
        standard = standardised(raw, self.normalise, sizes=sizes, centre=served.centre, spread=served.spread)
        rows, raw, standard = _fitting(standard, rows, raw, standard)
        terms, scores = mixed(standard, parts)
        updates = [_update(SCORE, scores, rows)]
        for at, name in enumerate(self.names):
            none = slice(0, 0 if served.unserved[at] else None)
            updates += [
                _update(RAW[name], raw[none, at], rows),
                _update(UTILITY[name], standard[none, at], rows),
                _update(TERM[name], terms[:, at], rows),
            ]
        return patch(*updates)

    def _over(self, labels: tuple[str, ...]) -> _Served:
        """The utilities over the actions that a model predicts."""
        found = self._served.get(labels)
        if found is None:
            pairs = zip(self.resolved.features, self.resolved.weights.T, strict=True)
            weighed = {feature for feature, column in pairs if column.any()}
            heads = [label for label in labels if label in weighed]
            over = self.resolved.select(heads) if heads else None
            count = len(self.names)
            weights = np.zeros((count, 0)) if over is None else over.weights
            centre, spread = np.zeros(count), np.zeros(count)
            if over is not None and over.pool is not None:
                centre, spread = weights @ over.pool.mean, over.pool.sd(weights)
                spread[spread <= ROUNDING * (np.abs(weights) @ np.sqrt(np.diag(over.pool.covariance)))] = 0
            found = self._served[labels] = _Served(
                np.array([labels.index(head) for head in heads], np.intp),
                np.ascontiguousarray(weights),
                np.asarray(self.resolved.weights.any(axis=1) & ~weights.any(axis=1)),
                centre,
                spread,
            )
        return found

    def _check_served(self, served: _Served, parts: Float64, labels: tuple[str, ...], *, asked: bool) -> None:
        """Refuse a mix that counts somebody for whom the model predicts nothing.

        Raises:
            RequestError: The request asks for it.
            MisconfigurationError: The spec does.
        """
        lost = np.flatnonzero(served.unserved & (parts != 0))
        if not lost.size:
            return
        at = int(lost[0])
        pairs = zip(self.resolved.features, self.resolved.weights[at], strict=True)
        wanted = ", ".join(feature for feature, weight in pairs if weight)
        message = (
            f"{STAKEHOLDER_MIX.name if asked else 'mix'}: {self.names[at]!r} counts, but the model predicts none of "
            f"the actions that it has weights for ({wanted}); it predicts: {', '.join(labels) or 'nothing'}"
        )
        raise RequestError(message) if asked else MisconfigurationError(message)


def _fitting(
    numbers: Float64, rows: NDArray[np.bool_], one: Float64, other: Float64
) -> tuple[NDArray[np.bool_], Float64, Float64]:
    """What is left of rows, and of two arrays with a line for each of them, without those that float32 cannot hold."""
    fits = (np.abs(numbers) <= _LARGEST).all(axis=1)
    if fits.all():
        return rows, one, other
    left = rows.copy()
    left[rows] = fits
    return left, one[fits], other[fits]


def _update(column: Column[Any], values: NDArray[Any], rows: NDArray[np.bool_]) -> ColumnUpdate:
    """A column with values for some rows, or for none, and null elsewhere."""
    cells = np.zeros(len(rows), np.float32)
    if not len(values):
        return column(cells, valid=np.zeros(len(rows), np.bool_))
    cells[rows] = values
    return column(cells, valid=rows)


def _check_actions(actions: Iterable[str], where: str) -> None:
    """Refuse weights for what no model predicts.

    Raises:
        MisconfigurationError: One of them is no predicted action.
    """
    for action in actions:
        if action not in PREDICTABLE:
            hint = nearest(action, PREDICTABLE) or f"there are: {', '.join(PREDICTABLE)}"
            raise MisconfigurationError(f"{where}: no predicted action is called {action!r:.80}: {hint}")


#: The utilities of files by what they hold: a scorer is made often with other mixes, and files may change within one
#: tick of their times.
_parsed: Final = functools.lru_cache(maxsize=8)(parse_utilities)


def _laid_over(base: Utilities, given: Mapping[str, Mapping[str, float]]) -> Utilities:
    """Utilities with some weights set over them; the pool counts as unknown if it does not know one of the actions."""
    if not given:
        return base
    table = base.as_mapping()
    for name, weights in given.items():
        table[name] = {**table.get(name, {}), **weights}
    named = dict.fromkeys(action for weights in given.values() for action in weights)
    added = [action for action in named if action not in base.features]
    return Utilities.of(table, (*base.features, *added), pool=None if added else base.pool)


def _check_pool(path: Path | None, base: Utilities | None, found: Utilities) -> None:
    """Refuse to standardise over a pool that nobody knows.

    Raises:
        MisconfigurationError: There is none, or it lacks an action.
    """
    if found.pool is not None:
        return
    what = "normalise = 'pool' needs the moments of the pool that utilities were learned on"
    if path is None or base is None:
        raise MisconfigurationError(f"{what}: give a utilities file that has them")
    if base.pool is None:
        raise MisconfigurationError(f"{what}: {path} has no table [pool]; `stakeholder learn` writes one")
    lacking = ", ".join(action for action in found.features if action not in base.features)
    raise MisconfigurationError(f"{what}: that of {path} does not know {lacking}")
