"""What many replays come to: how many requests changed, by how much, and what moved most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import attrs

from candidate_pipeline.what_if.diff import Diff, ItemChange

#: How many items and requests are named.
NAMED: Final = 10


@attrs.frozen
class MovedItem:
    """How often an item changed its place, over all requests.

    Args:
        name: The item.
        requests: In how many requests it moved, came in or fell out.
        added: In how many it came in.
        dropped: In how many it fell out.
        largest_move: The longest way it went, in ranks, among the requests that have it before and after.
    """

    name: str
    requests: int
    added: int
    dropped: int
    largest_move: int


@attrs.frozen
class ReplaySummary:
    """What many replays come to.

    Args:
        requests: How many there were.
        unchanged: In how many the response is the same, item for item.
        rescored: In how many of these some item has another score.
        overlap: The mean part of the responses that is in both.
        tau: The mean of Kendall's tau-b, over the requests that have one; `None`: none has.
        rbo: The mean rank-biased overlap with p = .9.
        moved: How many items moved.
        added: How many came in.
        dropped: How many fell out.
        items: The items that changed their place in most requests.
    """

    requests: int
    unchanged: int
    rescored: int
    overlap: float
    tau: float | None
    rbo: float
    moved: int
    added: int
    dropped: int
    items: tuple[MovedItem, ...]

    @classmethod
    def of(cls, diffs: Sequence[Diff]) -> ReplaySummary:
        """The summary of some differences; of none, all means are 1."""
        taus = [each.tau for each in diffs if each.tau is not None]
        same = [each for each in diffs if each.is_empty]
        return cls(
            requests=len(diffs),
            unchanged=len(same),
            rescored=sum(each.rescored > 0 for each in same),
            overlap=_mean([each.overlap for each in diffs]),
            tau=_mean(taus) if taus else None,
            rbo=_mean([each.rbo for each in diffs]),
            moved=sum(len(each.moved) for each in diffs),
            added=sum(len(each.added) for each in diffs),
            dropped=sum(len(each.dropped) for each in diffs),
            items=_most_moved(diffs),
        )

    def as_dict(self) -> dict[str, Any]:
        """The summary as plain data."""
        return attrs.asdict(self)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 1.0


def _most_moved(diffs: Sequence[Diff]) -> tuple[MovedItem, ...]:
    often: Counter[int] = Counter()
    names: dict[int, str] = {}
    added: Counter[int] = Counter()
    dropped: Counter[int] = Counter()
    furthest: dict[int, int] = {}
    for each in diffs:
        changes: tuple[ItemChange, ...] = (*each.moved, *each.added, *each.dropped)
        for item, name in {change.item_id: change.name for change in changes}.items():
            often[item] += 1
            names[item] = name
        added.update(change.item_id for change in each.added)
        dropped.update(change.item_id for change in each.dropped)
        for change in changes:
            if change.rise is not None:
                furthest[change.item_id] = max(furthest.get(change.item_id, 0), abs(change.rise))
    top = sorted(often, key=lambda item: (-often[item], -furthest.get(item, 0), item))[:NAMED]
    return tuple(MovedItem(names[item], often[item], added[item], dropped[item], furthest.get(item, 0)) for item in top)
