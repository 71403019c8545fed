"""What `run --explain` draws: why an item is where it is, and its score as a chart of the terms that made it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

import attrs
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from candidate_pipeline.cli.bars import Canvas
from candidate_pipeline.explain import Explanation, ScoreChange
from candidate_pipeline.explain_steps import UNEXPLAINED, Step

_INDENT: Final = 2
_AMOUNT: Final = 10
_LABEL: Final = 24
#: Bars narrower than this say nothing and are left out.
_NARROWEST: Final = 6
#: What bars are filled with, in Unicode and in ASCII, and their colour.
_UP: Final = ("█", "#", "green")
_DOWN: Final = ("▒", "-", "red")
_SET: Final = ("▓", "=", "cyan")


@attrs.frozen
class Waterfall:
    """The axis that all bars of a chart share: from the least to the largest total, with 0 on it.

    Args:
        low: The value at its left end.
        high: The value at its right end.
        width: Its width, in cells.
        ascii_only: Draw in ASCII.
    """

    low: float
    high: float
    width: int
    ascii_only: bool = False

    @classmethod
    def of(cls, steps: Iterable[Step], width: int, *, ascii_only: bool = False) -> Waterfall:
        """The axis on which all totals of some steps have a place."""
        totals = [step.total for step in steps if step.total is not None and math.isfinite(step.total)]
        return cls(min(0.0, *totals, 0.0), max(0.0, *totals, 0.0), width, ascii_only)

    def place(self, value: float) -> int:
        """Where a value is, in cells from the left, 0 to `width`."""
        # Halved, lest the length of an axis from -3e38 to 3e38 be infinite.
        length = self.high / 2 - self.low / 2
        part = (value / 2 - self.low / 2) / length if length > 0 else 0.0
        return min(self.width, max(0, round(part * self.width)))

    def bar(self, start: float | None, step: Step) -> Text:
        """The bar of a step from one total to the next, and the line at 0 where the bar leaves it free."""
        cells = [" "] * self.width
        cells[min(self.place(0.0), self.width - 1)] = "|" if self.ascii_only else "│"
        total = step.total
        begin = 0.0 if start is None or step.operation == "set" else start
        if total is None or not math.isfinite(total) or not math.isfinite(begin):
            return Text("".join(cells), style="dim")
        fill, plain, style = _SET if step.operation == "set" else _UP if total >= begin else _DOWN
        left, right = sorted((self.place(begin), self.place(total)))
        mark = plain if self.ascii_only else fill
        if left == right:
            left, mark = min(left, self.width - 1), "." if self.ascii_only else "▏"
            right = left + 1
        cells[left:right] = mark * (right - left)
        return Text.assemble(
            ("".join(cells[:left]), "dim"), ("".join(cells[left:right]), style), ("".join(cells[right:]), "dim")
        )


def draw_explanation(console: Console, explanation: Explanation) -> None:
    """Draw why an item is where it is: what became of it and why, its sources, and how its score came about."""
    for depth, line in _lines(explanation, Canvas.of(console), 0):
        margin = min(depth * _INDENT, max(0, console.width - 20))
        if margin + cell_len(line.plain) <= console.width:
            console.print(Text(" " * margin).append_text(line))
        else:
            console.print(Padding(line, (0, 0, 0, margin), expand=False))


def _lines(explanation: Explanation, canvas: Canvas, depth: int) -> Iterator[tuple[int, Text]]:
    """The lines of a drawing, each with how far it is set in."""
    if not depth:
        yield 0, Text(canvas.text(f"item {explanation.item_id}: {explanation.fate_text}"), style="bold")
    if explanation.reason:
        yield depth + 1, Text(canvas.text(f"why: {explanation.reason}"))
    yield depth + 1, Text(canvas.text(f"sources: {', '.join(explanation.sources) or 'none'}"))
    if explanation.copies > 1:
        yield depth + 1, Text(f"rows of it: {explanation.copies}, of which this one came furthest")
    for line in chart(explanation, attrs.evolve(canvas, width=canvas.width - (depth + 1) * _INDENT)):
        yield depth + 1, line
    for part in explanation.inner:
        yield depth + 1, Text(canvas.text(f"in {part.pipeline}: {part.fate_text}"), style="bold")
        yield from _lines(part, canvas, depth + 1)


def chart(explanation: Explanation, canvas: Canvas) -> Iterator[Text]:
    """The chart of a score: for each scorer what it did to score and rank, and a line for each of its steps."""
    steps = explanation.steps()
    changes = {change.scorer: change for change in explanation.scores}
    label = min(_LABEL, max([6, *(cell_len(step.label) for step in steps)]), max(6, canvas.width // 3))
    numbers = 2 * _AMOUNT if canvas.width >= 56 else _AMOUNT
    room = canvas.width - _INDENT - label - numbers - 2
    axis = Waterfall.of(steps, room, ascii_only=canvas.ascii_only) if room >= _NARROWEST else None
    total: float | None = None
    drawn = set()
    for scorer, group in groupby(steps, lambda step: step.scorer):
        drawn.add(scorer)
        # What left the score as it was before this scorer did its part.
        order = list(changes)
        if scorer in changes:
            for other in order[: order.index(scorer)]:
                if other not in drawn:
                    drawn.add(other)
                    yield _heading(other, changes[other], canvas)
        yield _heading(scorer, changes.get(scorer), canvas)
        for step in group:
            line = Text(" " * _INDENT + canvas.fitted(step.label, label))
            if step.label == UNEXPLAINED:
                line.stylize("yellow")
            line.append(_amount(step, canvas).rjust(_AMOUNT))
            if numbers > _AMOUNT:
                line.append(_number(step.total).rjust(_AMOUNT), style="dim")
            if axis is not None:
                line.append("  ").append_text(axis.bar(total, step))
            line.rstrip()
            yield line
            total = step.total
    for other, change in changes.items():
        if other not in drawn:
            yield _heading(other, change, canvas)


def _heading(name: str, change: ScoreChange | None, canvas: Canvas) -> Text:
    """A scorer's line: its score and rank before and after."""
    heading = Text(canvas.text(name), style="bold")
    if change is None:
        return heading
    arrow = "->" if canvas.ascii_only else "→"
    same = change.before == change.after
    said = f" {_number(change.after)}" if same else f" {_number(change.before)} {arrow} {_number(change.after)}"
    before = "-" if change.rank_before is None else str(change.rank_before)
    ranks = f", rank {before} {arrow} {change.rank_after}"
    return heading.append(f"{said}{ranks}", style="not bold")


def _amount(step: Step, canvas: Canvas) -> str:
    if step.amount is None:
        return "none"
    if step.operation == "multiply":
        return f"{'x' if canvas.ascii_only else '×'} {step.amount:.4g}"
    return f"{step.amount:+.4g}" if step.operation == "add" else f"= {step.amount:.4g}"


def _number(value: float | None) -> str:
    return "unscored" if value is None else f"{value:.4g}"
