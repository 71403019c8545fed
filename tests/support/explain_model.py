"""What the plain model of a request knows of every single row: the truth that explanations are held against."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
from pipeline_model import Model
from pipeline_model_answers import FAILED, Plain, Row, Settings, default_of, reads, run_of, writes

#: The key of a row's number, which tells rows of the same item apart.
NUMBER = "#"


@attrs.define
class Change:
    """What a scorer did to a row."""

    scorer: str
    before: float | None
    after: float | None
    rank_before: int | None
    rank_after: int


@attrs.define
class Story:
    """What became of a row.

    Args:
        item: Its id.
        number: Its number.
        fate: `selected`, `cut`, `left` or `dropped`.
        place: Where it stands among the rows of its fate; of dropped rows, the later dropped the smaller.
        by: The filter that dropped it.
        stage: The stage it was dropped in.
        closed: Whether that filter failed closed on a cell of it.
        refill: The round of refilling it was chosen or dropped in.
        changes: What scorers did to it.
        score: Its final score; None: it has none.
        rank: Its rank when the selector first ran.
        ranked: How many rows the selector was given.
    """

    item: int
    number: int
    fate: str = "left"
    place: int = 0
    by: str | None = None
    stage: str | None = None
    closed: bool = False
    refill: int = 0
    changes: list[Change] = attrs.field(factory=list)
    score: float | None = None
    rank: int | None = None
    ranked: int = 0


@attrs.define
class Stories(Model):
    """A request, told row by row."""

    rows: dict[int, Story] = attrs.field(factory=dict)
    round: int = 0
    drops: int = 0
    choosing: bool = False

    def tell(self) -> list[Story] | None:
        """All stories; None if the request fails."""
        found = self.run()
        if "failed" in found:
            return None
        size = self.script.get("result_size")
        shown = len(found["selected"])
        for fate, rows in (("selected", found["selected"]), ("left", found["unselected"])):
            for place, row in enumerate(rows):
                self.rows[row[NUMBER]].fate, self.rows[row[NUMBER]].place = fate, place
                self.rows[row[NUMBER]].score = score_of(row)
        if size is not None and self.cut:
            for place, row in enumerate(self.cut):
                self.rows[row[NUMBER]].fate, self.rows[row[NUMBER]].place = "cut", shown + place
        return list(self.rows.values())

    cut: list[Row] = attrs.field(factory=list)

    def fetch(self) -> list[Row]:
        """The sources' rows, numbered."""
        rows = super().fetch()
        for number, row in enumerate(rows):
            row[NUMBER] = number
            self.rows[number] = Story(row["id"], number)
        return rows

    def filter(self, stage: str, rows: list[Row]) -> list[Row]:
        """The rows that a stage's filters keep."""
        ends = self.ends(stage, self.clock)
        for component in self.stage(stage):
            answer = self.one(component, stage, ends, rows)
            if answer.status != "ok":
                continue
            by = answer.by
            self.drops += 1
            kept = []
            for at, (row, keep) in enumerate(zip(rows, answer.value, strict=True)):
                broken = any(row.get(name) == FAILED for name in reads(by))
                safety = run_of(by).get("safety", False)
                if (keep and not broken) or (broken and not safety):
                    kept.append(row)
                    continue
                story = self.rows[row[NUMBER]]
                story.fate, story.by, story.stage, story.place = "dropped", by["name"], stage, at - 1000 * self.drops
                story.closed, story.score = bool(broken and safety and self.strict), score_of(row)
                story.refill = self.round
                self.dropped.append({"id": row["id"], "by": by["name"]})
            rows = kept
        if stage == "post_selection_filters" and not self.strict:
            size = self.script.get("result_size")
            self.cut = [] if size is None else rows[size:]
        return rows

    def score(self, rows: list[Row]) -> list[Row]:
        """The rows with the columns of the scorers."""
        ends = self.ends("scorers", self.clock)
        known = bool(rows) and (not self.strict or "score" in rows[0])
        for component in self.stage("scorers"):
            answer = self.one(component, "scorers", ends, rows)
            before = [score_of(row) for row in rows]
            rows = [dict(row) for row in rows]
            self.write(component, answer, rows)
            if answer.status != "ok" or "score" not in writes(answer.by):
                continue
            after = [score_of(row) for row in rows]
            ranks = self.ranks(before), self.ranks(after)
            for at, row in enumerate(rows):
                was = self.ranks(before)[at] if known else None
                self.rows[row[NUMBER]].changes.append(
                    Change(answer.by["name"], before[at] if known else None, after[at], was, ranks[1][at])
                )
            known = True
        finals = self.ranks([score_of(row) for row in rows])
        for rank, row in zip(finals, rows, strict=True):
            self.rows[row[NUMBER]].rank, self.rows[row[NUMBER]].ranked = rank, len(rows)
        return rows

    def ranks(self, scores: Sequence[float | None]) -> list[int]:
        """Each row's rank from 1: scored rows by falling score, then unscored ones, then NaN; ties as they stand."""

        def key(at: int) -> tuple[int, float]:
            score = scores[at]
            if not self.strict:
                return 0, math.inf if score is None else -score
            if score is None:
                return 1, 0.0
            return (2, 0.0) if math.isnan(score) else (0, -score)

        order = sorted(range(len(scores)), key=key)
        return [order.index(at) + 1 for at in range(len(scores))]

    def refill(self, survivors: list[Row], rest: list[Row], first: int) -> tuple[list[Row], list[Row]]:
        """Replace rows that were dropped after selection, from the rest."""
        target = min(first, self.script.get("result_size", first))
        while len(survivors) < target and self.round < self.script.get("max_refills", 3) and rest:
            self.round += 1
            chosen, _ = self.select(rest)
            chosen = chosen[: 2 * (target - len(survivors))]
            rest = [row for row in rest if not any(row is other for other in chosen)]
            for row in chosen:
                self.rows[row[NUMBER]].refill = self.round
            chosen = self.hydrate("post_selection_hydrators", chosen)
            survivors = self.filter("post_selection_filters", survivors + chosen)
        size = self.script.get("result_size")
        self.cut = [] if size is None else survivors[size:]
        return survivors, rest


def furthest(stories: Sequence[Story]) -> Story:
    """The row of an item that came furthest."""
    fates = ("selected", "cut", "left", "dropped")
    return min(stories, key=lambda story: (fates.index(story.fate), story.place, story.number))


def score_of(row: Row) -> Plain:
    """A row's score; None for null and failed ones."""
    score = row.get("score")
    return None if score is None or score == FAILED else float(score)


__all__ = ["NUMBER", "Change", "Settings", "Stories", "Story", "default_of", "furthest", "score_of"]
