"""What moved between two rankings of the same request, and why."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.what_if.contributions import Account, ScoreDelta, TermChange, score_change
from candidate_pipeline.what_if.measures import kendall_tau_b, overlap, rank_biased_overlap
from candidate_pipeline.what_if.ranking import DROPPED, UNSELECTED, Ranking

__all__ = ["Diff", "ItemChange", "Place", "ScoreDelta", "TermChange", "diff"]

#: How many of those that passed an item are named.
NAMED: Final = 5

Fate: TypeAlias = Literal["selected", "unselected", "dropped", "absent"]


@attrs.frozen
class Place:
    """Where an item stood.

    Args:
        fate: `selected`, `unselected` (scored, but not in the response), `dropped` by a filter, or `absent`: no
            candidate.
        rank: Its rank from 1, the unselected counted on from the response; `None` unless it has one.
        filter: The filter that dropped it.
    """

    fate: Fate
    rank: int | None = None
    filter: str | None = None

    def __str__(self) -> str:
        """The place in words."""
        if self.fate == "selected":
            return f"rank {self.rank}"
        if self.fate == "unselected":
            return f"unselected at rank {self.rank}"
        return f"dropped by {self.filter}" if self.fate == "dropped" else "not a candidate"


@attrs.frozen
class ItemChange:
    """What became of one item.

    Args:
        item_id: The item.
        name: Its text id, or its id as text.
        repeat: Which of the item's rows it is, from 1; above 1 only where a response may hold an item twice.
        before: Where it stood.
        after: Where it stands.
        score: How its score changed, and which terms changed it.
        passed: How many items stand before it that did not.
        passed_by: The first of them, at most five, by their names.
        overtaken: How many items stood before it and do so no more.
    """

    item_id: int
    name: str
    repeat: int
    before: Place
    after: Place
    score: ScoreDelta
    passed: int = 0
    passed_by: tuple[str, ...] = ()
    overtaken: int = 0

    @property
    def rise(self) -> int | None:
        """By how many ranks it rose, below 0 if it fell; `None` if it has no rank before or after."""
        if self.before.rank is None or self.after.rank is None:
            return None
        return self.before.rank - self.after.rank

    def why(self) -> str:
        """What moved it, in a sentence."""
        if self.after.fate in {"dropped", "absent"}:
            return str(self.after)
        if self.before.fate in {"dropped", "absent"}:
            return f"it was {self.before}" if self.before.fate == "absent" else f"it was {self.before}, and is no more"
        parts = []
        if self.score.change:
            terms = ", ".join(f"{term_name(term)} {term.effect:+.4g}" for term in self.score.terms[:3])
            parts.append(f"score {self.score.change:+.4g}" + (f" ({terms})" if terms else ""))
        elif self.score.before is None and self.score.after is not None:
            parts.append("it has a score now")
        elif self.score.before is not None and self.score.after is None:
            parts.append("it has no score any more")
        else:
            parts.append("its score is the same" if self.score.before == self.score.after else "its score is infinite")
        return "; ".join([*parts, *self.passes()])

    def passes(self) -> list[str]:
        """Who passed it, and how many fell behind it."""
        parts = []
        if self.passed:
            more = ", ..." if self.passed > len(self.passed_by) else ""
            parts.append(f"{_items(self.passed)} passed it ({', '.join(self.passed_by)}{more})")
        if self.overtaken:
            parts.append(f"{_items(self.overtaken)} fell behind it")
        return parts

    def as_dict(self) -> dict[str, Any]:
        """The change as plain data."""
        return {
            **attrs.asdict(self),
            "rise": self.rise,
            "score": {**attrs.asdict(self.score), "change": self.score.change},
            "why": self.why(),
        }


@attrs.frozen
class Diff:
    """What moved between two rankings.

    Args:
        pipeline: The pipeline's name; both, where they differ.
        request_id: The request's id, as the first ranking has it.
        before_hash: The config hash of the first ranking.
        after_hash: That of the second.
        moved: What is in both responses at different ranks, by the rank after.
        added: What is in the second response only, by its rank.
        dropped: What was in the first response only, by its rank.
        unchanged: How many items stand where they stood.
        rescored: How many of these have another score.
        size_before: How many rows the first response has.
        size_after: How many rows the second has.
        overlap: The part of the longer response that is in both, 0 to 1.
        tau: Kendall's tau-b over the items in both, -1 to 1; `None` for fewer than two.
        rbo: Rank-biased overlap with p = .9, 0 to 1.
        largest_move: The longest way, in ranks, that an item in both responses went.
    """

    pipeline: str
    request_id: str
    before_hash: str
    after_hash: str
    moved: tuple[ItemChange, ...]
    added: tuple[ItemChange, ...]
    dropped: tuple[ItemChange, ...]
    unchanged: int
    rescored: int
    size_before: int
    size_after: int
    overlap: float
    tau: float | None
    rbo: float
    largest_move: int

    @property
    def is_empty(self) -> bool:
        """Whether the responses hold the same items at the same ranks."""
        return not (self.moved or self.added or self.dropped)

    @property
    def changes(self) -> tuple[ItemChange, ...]:
        """Everything that changed: what is in the second response by its rank, then what is not."""
        here = sorted((*self.moved, *self.added), key=lambda change: change.after.rank or 0)
        return (*here, *self.dropped)

    def as_dict(self) -> dict[str, Any]:
        """The difference as plain data."""
        listed = {name: [each.as_dict() for each in getattr(self, name)] for name in ("moved", "added", "dropped")}
        return {**attrs.asdict(self, recurse=False), **listed}


def diff(before: Ranking, after: Ranking, size: int | None = None) -> Diff:
    """What moved between two rankings of the same request, and why.

    Items that have several rows, which the published semantics allows, are compared row by row: the first with the
    first, and so on.

    Args:
        before: One ranking.
        after: Another one.
        size: Compare the first so many rows of the responses; default: all.

    Raises:
        ValueError: `size` is below 1.
    """
    if size is not None and size < 1:
        raise ValueError(f"size: wanted at least 1, found {size}")
    return _Comparison(before, after, size).diff()


_RowKey: TypeAlias = tuple[int, int]


@attrs.frozen(eq=False, slots=False)
class _Side:
    """One of the two rankings: its rows by item and repeat."""

    ranking: Ranking
    size: int | None
    account: Account = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "account", Account(self.ranking))

    @cached_property
    def keys(self) -> list[_RowKey]:
        ranking = self.ranking
        return list(zip(ranking.item_ids.tolist(), ranking.occurrences.tolist(), strict=True))

    @cached_property
    def rows(self) -> dict[_RowKey, int]:
        return {key: row for row, key in enumerate(self.keys)}

    @cached_property
    def selected(self) -> list[_RowKey]:
        return self.keys[: self.ranking.selected if self.size is None else min(self.size, self.ranking.selected)]

    def place(self, key: _RowKey) -> Place:
        row = self.rows.get(key)
        if row is None:
            return Place("absent")
        fate, ranking = int(self.ranking.fates[row]), self.ranking
        if fate == DROPPED:
            return Place("dropped", filter=ranking.filters[ranking.dropped_by[row]])
        return Place("unselected" if fate == UNSELECTED or row >= len(self.selected) else "selected", rank=row + 1)

    def ranks(self, keys: Iterable[_RowKey]) -> NDArray[np.float64]:
        """The ranks of rows, infinite for those without."""
        rows = [self.rows.get(key, len(self.keys)) for key in keys]
        return np.array([row if row < self.ranking.ranked else np.inf for row in rows], np.float64)


@attrs.frozen(eq=False)
class _Comparison:
    before: Ranking
    after: Ranking
    size: int | None

    def diff(self) -> Diff:
        one, other = _Side(self.before, self.size), _Side(self.after, self.size)
        first, second = one.selected, other.selected
        in_first, in_second = set(first), set(second)
        common = [key for key in second if key in in_first]
        moved = [key for key in common if one.rows[key] != other.rows[key]]
        added = [key for key in second if key not in in_first]
        dropped = [key for key in first if key not in in_second]
        changes = dict(
            zip([*moved, *added, *dropped], self._changes(one, other, [*moved, *added, *dropped]), strict=True)
        )
        still = [key for key in common if one.rows[key] == other.rows[key]]
        ranks = [(one.rows[key], other.rows[key]) for key in common]
        names = [self.before.pipeline, self.after.pipeline]
        return Diff(
            pipeline=" / ".join(dict.fromkeys(names)),
            request_id=self.before.request_id,
            before_hash=self.before.config_hash,
            after_hash=self.after.config_hash,
            moved=tuple(changes[key] for key in moved),
            added=tuple(changes[key] for key in added),
            dropped=tuple(changes[key] for key in dropped),
            unchanged=len(still),
            rescored=sum(_rescored(self.before, one.rows[key], self.after, other.rows[key]) for key in still),
            size_before=len(first),
            size_after=len(second),
            overlap=overlap(first, second),
            tau=kendall_tau_b([rank for rank, _ in ranks], [rank for _, rank in ranks]),
            rbo=rank_biased_overlap(first, second),
            largest_move=max((abs(rank - later) for rank, later in ranks), default=0),
        )

    def _changes(self, one: _Side, other: _Side, keys: list[_RowKey]) -> list[ItemChange]:
        everyone = list(dict.fromkeys((*other.keys, *one.keys)))  # in the order of the second ranking
        before, after = one.ranks(everyone), other.ranks(everyone)
        found = []
        for key, old, new in zip(keys, one.ranks(keys), other.ranks(keys), strict=True):
            row, now = one.rows.get(key), other.rows.get(key)
            change = ItemChange(
                item_id=key[0],
                name=self.after.name(now) if now is not None else self.before.name(one.rows[key]),
                repeat=key[1] + 1,
                before=one.place(key),
                after=other.place(key),
                score=score_change(one.account, row, other.account, now),
            )
            if np.isfinite(old + new):
                passed = (after < new) & ~(before < old)
                first = [other.rows[everyone[at]] for at in np.flatnonzero(passed)[:NAMED]]
                change = attrs.evolve(
                    change,
                    passed=int(np.count_nonzero(passed)),
                    passed_by=tuple(self.after.name(each) for each in first),
                    overtaken=int(np.count_nonzero((before < old) & ~(after < new))),
                )
            found.append(change)
        return found


def _rescored(before: Ranking, row: int, after: Ranking, now: int) -> bool:
    return not np.array_equal(before.scores[row : row + 1], after.scores[now : now + 1], equal_nan=True)


def term_name(term: TermChange) -> str:
    """What to call a term in a list: its label and whose it is."""
    if not term.column:
        return term.scorer or term.label or "the score it came with"
    return f"x {term.label}" if term.factor else term.label


def _items(count: int) -> str:
    return f"{count} {'item' if count == 1 else 'items'}"
