"""What a score's change comes from: the terms and factors that differ between two rankings, in units of the score.

A score is followed from scorer to scorer in both rankings at once. An addend contributes its own change; a factor that
went from f to g on a score that went from x to y contributes (x + y)/2 * (g - f), and what had contributed to the
score before counts (f + g)/2 times from then on. Both halves together are y*g - x*f exactly (for two factors it is
their Shapley value), and the same with the rankings exchanged, but for the sign. What terms do not account for, such as
rounding to float32 or a scorer without terms, is told apart.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.what_if.ranking import Ranking, StepScores, TermScores

#: How a scorer's terms make up its score `y` of the score before it, `x`, with A their sum and F their product:
#: y = A * F, y = (x + A) * F, y = x * F + A.
Form: TypeAlias = Literal["set", "add", "multiply"]
_FORMS: Final[tuple[Form, ...]] = ("set", "add", "multiply")
#: Who wrote a term, into which column, under which label.
_Key: TypeAlias = tuple[str, str, str]
#: What gives a score before the scorers do, and what changes it after them.
_FIRST: Final = ""
_LAST: Final = "after the scorers"


@attrs.frozen
class TermChange:
    """A term that changed a score, or a factor.

    Args:
        scorer: The component that wrote it; empty for a score that came with the item.
        column: The column that holds it; empty for a scorer that tells no terms.
        label: What it is called.
        factor: Whether it multiplies.
        before: Its value before; `None`: there was none.
        after: Its value after.
        effect: What the change did to the final score.
    """

    scorer: str
    column: str
    label: str
    factor: bool
    before: float | None
    after: float | None
    effect: float


@attrs.frozen
class ScoreDelta:
    """How an item's final score changed.

    Args:
        before: The score before; `None`: unscored, or no candidate.
        after: The score after.
        terms: What changed it, largest effect first; their effects and the remainder add up to the change.
        remainder: The part of the change that no term accounts for.
    """

    before: float | None
    after: float | None
    terms: tuple[TermChange, ...] = ()
    remainder: float = 0.0

    @property
    def change(self) -> float | None:
        """By how much; `None` where there is no score before or after, or an infinite one."""
        if self.before is None or self.after is None or not math.isfinite(self.before + self.after):
            return None
        return self.after - self.before


@attrs.frozen
class _Stage:
    """One scorer's work on one row: the score it found and left, its addends and factors, and how they fit together."""

    found: float | None
    left: float
    addends: dict[_Key, float]
    factors: dict[_Key, float]
    form: Form


@attrs.frozen(eq=False, slots=False)
class Account:
    """A ranking's scores, taken apart.

    Args:
        ranking: The ranking.
    """

    ranking: Ranking

    @cached_property
    def scorers(self) -> tuple[str, ...]:
        """Whose work is followed: what came with the items, the scorers, and what came after them."""
        return (_FIRST, *(step.scorer for step in self.ranking.steps), _LAST)

    @cached_property
    def _terms(self) -> dict[str, list[TermScores]]:
        steps = {step.scorer for step in self.ranking.steps}
        found: dict[str, list[TermScores]] = {}
        for part in self.ranking.terms:
            found.setdefault(part.scorer if part.scorer in steps else _FIRST, []).append(part)
        return found

    @cached_property
    def _forms(self) -> dict[str, Form]:
        """How each scorer's terms make up its score: the form that fits its rows best."""
        return {step.scorer: _form(step, self._terms.get(step.scorer, ())) for step in self.ranking.steps}

    def stages(self, row: int) -> dict[str, _Stage] | None:
        """What each of `scorers` did to a row; those that had no part in it are left out.

        `None`: the row has no finite score, now or on the way.
        """
        ranking, found = self.ranking, dict[str, _Stage]()
        score: float | None = None
        final = float(ranking.scores[row])
        begun = [step for step in ranking.steps if not math.isnan(step.after[row])]
        first = float(begun[0].before[row]) if begun else final
        if not math.isnan(first):
            found[_FIRST] = self._stage(_FIRST, row, None, first, "set")
            score = first
        for step in begun:
            after = float(step.after[row])
            found[step.scorer] = self._stage(step.scorer, row, score, after, self._forms[step.scorer])
            score = after
        if score is not None and score != final:
            found[_LAST] = self._stage(_LAST, row, score, final, "add")
        finite = all(math.isfinite(stage.left) for stage in found.values())
        return found if finite and math.isfinite(final) else None

    def _stage(self, scorer: str, row: int, found: float | None, left: float, form: Form) -> _Stage:
        addends: dict[_Key, float] = {}
        factors: dict[_Key, float] = {}
        for part in self._terms.get(scorer, ()):
            for label, value in zip(part.labels, part.values[row].tolist(), strict=True):
                if not math.isnan(value):
                    (factors if part.factor else addends)[part.scorer, part.column, label] = value
        if not addends and not factors:  # it tells no terms of this row
            addends = {(scorer, "", ""): left - (found or 0.0)}
            form = "set" if found is None else "add"
        return _Stage(found, left, addends, factors, form)


def _form(step: StepScores, parts: Sequence[TermScores]) -> Form:
    addends = [part.values for part in parts if not part.factor]
    if not addends:
        return "multiply"
    total = np.asarray(np.nansum(np.concatenate(addends, axis=1), axis=1, dtype=np.float64))
    factors = [part.values for part in parts if part.factor] or [np.ones((len(step.after), 1))]
    product = np.asarray(np.nanprod(np.concatenate(factors, axis=1), axis=1, dtype=np.float64))
    before = np.nan_to_num(step.before.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    fitting: dict[Form, NDArray[Any]] = {
        "set": total * product,
        "add": (before + total) * product,
        "multiply": before * product + total,
    }
    after = step.after.astype(np.float64)
    known = np.isfinite(after) & np.isfinite(total)
    errors = {form: float(np.abs(fitting[form] - after)[known].sum()) for form in _FORMS}
    return min(_FORMS, key=lambda form: errors[form])  # of equals the first


def score_change(before: Account, row_before: int | None, after: Account, row_after: int | None) -> ScoreDelta:
    """How the final score of one item changed between two rankings, and why.

    Args:
        before: One ranking's scores.
        row_before: The item's row in it; `None`: it was no candidate.
        after: The other's.
        row_after: The item's row there.
    """
    old = None if row_before is None else _plain(before.ranking.scores[row_before])
    new = None if row_after is None else _plain(after.ranking.scores[row_after])
    whole = ScoreDelta(old, new)
    change = whole.change
    if change is None or row_before is None or row_after is None:
        return whole
    left, right = before.stages(row_before), after.stages(row_after)
    if left is None or right is None:
        return attrs.evolve(whole, remainder=change)
    found = _walked(before.scorers, left, after.scorers, right)
    if before.scorers != after.scorers or not _alike(left, right):
        # What only one of them has can be gone through before what only the other has, or after it. The mean of both
        # ways adds up as each of them does, and is the same whichever ranking comes first.
        found = _mean(found, _walked(after.scorers, right, before.scorers, left))
    terms = sorted(
        (term for term in found if term.effect),
        key=lambda term: (-abs(term.effect), term.scorer, term.column, term.label),
    )
    if not all(math.isfinite(term.effect) for term in terms):
        return attrs.evolve(whole, remainder=change)
    return attrs.evolve(whole, terms=tuple(terms), remainder=math.fsum([change, *(-term.effect for term in terms)]))


def _walked(
    ones: tuple[str, ...], left: dict[str, _Stage], others: tuple[str, ...], right: dict[str, _Stage]
) -> list[TermChange]:
    walk = _Walk()
    for one, other in _paired(ones, others):
        walk.stage(left.get(one) if one is not None else None, right.get(other) if other is not None else None)
    return list(walk.changes())


def _mean(forth: list[TermChange], back: list[TermChange]) -> list[TermChange]:
    """The mean of the changes one way, and of those the other way turned around."""
    turned = [attrs.evolve(term, before=term.after, after=term.before, effect=-term.effect) for term in back]
    sums: dict[_Key, TermChange] = {}
    for term in (*forth, *turned):
        key = (term.scorer, term.column, term.label)
        other = sums.get(key, attrs.evolve(term, effect=0.0))
        sums[key] = attrs.evolve(
            other,
            before=term.before if other.before is None else other.before,
            after=term.after if other.after is None else other.after,
            effect=other.effect + term.effect / 2,
        )
    return list(sums.values())


def _alike(left: dict[str, _Stage], right: dict[str, _Stage]) -> bool:
    """Whether two rows went through the same steps."""
    return left.keys() == right.keys() and all(
        stage.form == right[scorer].form and list(stage.factors) == list(right[scorer].factors)
        for scorer, stage in left.items()
    )


def _plain(score: np.float32) -> float | None:
    return None if np.isnan(score) else float(score)


def _paired(ones: tuple[str, ...], others: tuple[str, ...]) -> Iterator[tuple[str | None, str | None]]:
    """The scorers of two pipelines in one order, those of one name that stand in the same order together."""
    if ones == others:
        yield from zip(ones, others, strict=True)
        return
    matcher = difflib.SequenceMatcher(None, ones, others, autojunk=False)
    for kind, start, end, begin, stop in matcher.get_opcodes():
        if kind == "equal":
            yield from zip(ones[start:end], others[begin:stop], strict=True)
        else:
            yield from ((one, None) for one in ones[start:end])
            yield from ((None, other) for other in others[begin:stop])


@attrs.define
class _Walk:
    """Two scores of one item on their way through the scorers, and what made them differ so far."""

    x: float = 0.0
    y: float = 0.0
    effects: dict[_Key, float] = attrs.field(factory=dict)
    values: dict[_Key, tuple[bool, float | None, float | None]] = attrs.field(factory=dict)

    def stage(self, one: _Stage | None, other: _Stage | None) -> None:
        """Go through one scorer in both rankings, or in the one that has it."""
        if one is not None and other is not None and one.form == other.form:
            self._apply(one.form, one, other)
        else:
            if one is not None:
                self._apply(one.form, one, None)
            if other is not None:
                self._apply(other.form, None, other)
        if one is not None:
            self.x = one.left
        if other is not None:
            self.y = other.left

    def _apply(self, form: Form, one: _Stage | None, other: _Stage | None) -> None:
        if form == "set":
            self._forget(one, other)
        if form == "multiply":
            self._multiply(one, other)
            self._add(one, other)
        else:
            self._add(one, other)
            self._multiply(one, other)

    def _forget(self, one: _Stage | None, other: _Stage | None) -> None:
        """The score before counts no more."""
        if one is not None and other is not None:
            self.effects.clear()
            self.values.clear()
            self.x = self.y = 0.0
        elif one is not None:
            self._note(("", "", "the score before"), self.x, False, self.x, None)
            self.x = 0.0
        else:
            self._note(("", "", "the score before"), -self.y, False, None, self.y)
            self.y = 0.0

    def _add(self, one: _Stage | None, other: _Stage | None) -> None:
        for key in dict.fromkeys((*(one.addends if one else ()), *(other.addends if other else ()))):
            old = one.addends.get(key) if one else None
            new = other.addends.get(key) if other else None
            self._note(key, (new or 0.0) - (old or 0.0), False, old, new)
            self.x += old or 0.0
            self.y += new or 0.0

    def _multiply(self, one: _Stage | None, other: _Stage | None) -> None:
        for key in dict.fromkeys((*(one.factors if one else ()), *(other.factors if other else ()))):
            old = one.factors.get(key) if one else None
            new = other.factors.get(key) if other else None
            f, g = 1.0 if old is None else old, 1.0 if new is None else new
            middle = (f + g) / 2
            self.effects = {each: effect * middle for each, effect in self.effects.items()}
            self._note(key, (self.x + self.y) / 2 * (g - f), True, old, new)
            self.x, self.y = self.x * f, self.y * g

    def _note(self, key: _Key, effect: float, factor: bool, old: float | None, new: float | None) -> None:
        self.effects[key] = self.effects.get(key, 0.0) + effect
        _, earlier, later = self.values.get(key, (factor, None, None))
        self.values[key] = (factor, earlier if old is None else old, later if new is None else new)

    def changes(self) -> Iterator[TermChange]:
        """What made the scores differ."""
        for key, effect in self.effects.items():
            yield TermChange(*key, *self.values[key], effect)
