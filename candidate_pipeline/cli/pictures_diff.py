"""What `diff` and `replay` draw: where items stood and stand, and the terms that moved them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import attrs
import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from candidate_pipeline.cli.bars import Canvas
from candidate_pipeline.keys import ITEM_ID
from candidate_pipeline.outcome import Outcome
from candidate_pipeline.what_if.diff import Diff, ItemChange, Place, TermChange, term_name

#: How many terms are drawn for one item.
TERMS: Final = 3
#: Below these widths, in cells, there are no tracks, and no bars.
_TRACKS_FROM: Final = 60
_BARS_FROM: Final = 56
_LABEL: Final = 24
_INDENT: Final = 7
_MEAN: Final = "mean of all"


@attrs.frozen
class _Marks:
    rise: str = "▲"
    fall: str = "▼"
    come: str = "+"
    gone: str = "×"
    arrow: str = "→"
    now: str = "●"
    then: str = "○"
    line: str = "─"
    outside: str = "┄"
    more: str = "█"
    less: str = "▒"
    ellipsis: str = "…"


_UNICODE: Final = _Marks()
_ASCII: Final = _Marks("^", "v", "+", "x", "->", "*", "o", "-", ".", "#", "-", "...")


@attrs.frozen
class _Drawing:
    canvas: Canvas
    marks: _Marks
    ranks: int
    track: int
    largest: float

    @classmethod
    def of(cls, console: Console, diff: Diff, changes: Sequence[ItemChange]) -> _Drawing:
        canvas = Canvas.of(console)
        effects = [abs(term.effect) for change in changes for term in _told(change)]
        room = min(24, canvas.width // 4) if canvas.width >= _TRACKS_FROM else 0
        ranks = max(diff.size_before, diff.size_after, 1)
        marks = _ASCII if canvas.ascii_only else _UNICODE
        return cls(canvas, marks, ranks, min(room, max(ranks, 4)), max(effects, default=0.0))

    def lines(self, change: ItemChange, text: str) -> Iterator[Text]:
        """An item's line, and what moved it below."""
        mark, style = self._mark(change)
        before, after = self._place(change.before), self._place(change.after)
        move = "" if not _moved(change) else f"{change.rise:+d}"
        line = Text.assemble(f"{before:>5} ", (f"{mark} {after:>5}", style), f" {move:>4}  ")
        if self.track:
            line.append_text(self._track(change, style)).append("  ")
        name = self.canvas.text(change.name + (f" ({change.repeat})" if change.repeat > 1 else ""))
        line.append(name, style="bold")
        score = (
            f"  {change.score.before:.4g} {self.marks.arrow} {change.score.after:.4g}" if change.score.change else ""
        )
        if cell_len(line.plain) + len(score) <= self.canvas.width:
            line.append(score)
        yield _cut(line, self.canvas.width)
        if text:
            yield Text(" " * _INDENT + self._short(text, self.canvas.width - _INDENT), style="italic")
        yield from self._reasons(change)

    def _mark(self, change: ItemChange) -> tuple[str, str]:
        if change.after.fate != "selected":
            return self.marks.gone, "red"
        if change.before.fate != "selected":
            return self.marks.come, "cyan"
        return (self.marks.rise, "green") if (change.rise or 0) > 0 else (self.marks.fall, "red")

    def _place(self, place: Place) -> str:
        """A rank; in brackets, of what is not in the response."""
        if place.rank is None:
            return "-"
        return str(place.rank) if place.fate == "selected" else f"({place.rank})"

    def _track(self, change: ItemChange, style: str) -> Text:
        """The ranks from left to right, and the way from the one before to the one after."""
        places = [self._cell(change.before), self._cell(change.after)]
        cells = [" "] * self.track
        left, right = sorted(self.track - 1 if at is None else at for at in places)
        cells[left : right + 1] = [self.marks.line if None not in places else self.marks.outside] * (right + 1 - left)
        for at, mark in zip(places, (self.marks.then, self.marks.now), strict=True):
            if at is not None:
                cells[at] = mark
        return Text("".join(cells), style=style)

    def _cell(self, place: Place) -> int | None:
        """A rank's cell on a track; `None` for what is not in the response."""
        if place.fate != "selected" or place.rank is None:
            return None
        return (place.rank - 1) * (self.track - 1) // max(self.ranks - 1, 1)

    def _reasons(self, change: ItemChange) -> Iterator[Text]:
        """The terms that moved an item, with bars, or what else did."""
        terms = _told(change)
        label = max([6, *(cell_len(_label(term)) for term in terms)])
        label = min(label, _LABEL, max(6, self.canvas.width // 3))
        for term in terms:
            line = Text(" " * _INDENT + self.canvas.fitted(_label(term), label) + f" {term.effect:>+9.4g}")
            values = self._values(term)
            bars = self.canvas.width - cell_len(line.plain) - 1
            if self.canvas.width >= _BARS_FROM and self.largest:
                bars = min(bars // 2, 16)
                size = max(1, round(abs(term.effect) / self.largest * bars)) if bars > 0 else 0
                style = "green" if term.effect > 0 else "red"
                mark = self.marks.more if term.effect > 0 else self.marks.less
                line.append(" ").append((mark * size).ljust(bars), style=style)
            if cell_len(line.plain) + cell_len(values) + 2 <= self.canvas.width:
                line.append("  " + values, style="dim")
            yield line
        for part in self._words(change):
            yield Text(" " * _INDENT + self._short(part, self.canvas.width - _INDENT), style="dim")

    def _values(self, term: TermChange) -> str:
        """A term's values before and after."""
        before, after = ("none" if value is None else f"{value:.4g}" for value in (term.before, term.after))
        return f"{before} {self.marks.arrow} {after}"

    def _words(self, change: ItemChange) -> Iterator[str]:
        score, rest = change.score, change.score.terms[TERMS:]
        if rest:
            effect = math.fsum(term.effect for term in rest)
            yield f"{len(rest)} further {'term' if len(rest) == 1 else 'terms'} {effect:+.4g}"
        if abs(score.remainder) > 1e-5 * max(abs(score.before or 0.0), abs(score.after or 0.0)):
            yield f"no term accounts for {score.remainder:+.4g}"
        if change.after.fate in {"dropped", "absent"}:
            yield str(change.after)
        elif change.before.fate in {"dropped", "absent"}:
            yield f"was {change.before}"
        elif not score.terms or (score.change or 0.0) * (change.rise or 0) < 0:
            yield "; ".join(change.passes()) if score.terms else change.why()

    def _short(self, text: str, width: int) -> str:
        text = self.canvas.text(text)
        if cell_len(text) <= width:
            return text
        end = self.marks.ellipsis
        while text and cell_len(text) + cell_len(end) > width:
            text = text[:-1]
        return text + end


def print_diff(
    console: Console,
    diff: Diff,
    *,
    limit: int = 20,
    texts: Mapping[int, str] | None = None,
    title: str = "",
) -> None:
    """Draw what moved between two rankings of one request.

    Each item has its rank before and after (in brackets: what it would be, outside of the response), how far it rose,
    the way it went on a track of all ranks, and below it the terms that moved it.

    Args:
        console: Where to.
        diff: What moved.
        limit: How many items are drawn: those that came and went, and those that moved furthest.
        texts: A short text of items, by id.
        title: What is compared.
    """
    canvas = Canvas.of(console)
    marks = _ASCII if canvas.ascii_only else _UNICODE
    for line in _summary(diff, canvas.text(title or f"{diff.pipeline} {diff.request_id}"), marks):
        console.print(line)
    changes = _foremost(diff, limit)
    drawing = _Drawing.of(console, diff, changes)
    for change in changes:
        for line in drawing.lines(change, (texts or {}).get(change.item_id, "")):
            console.print(line, no_wrap=True, overflow="crop", crop=True)
    hidden = len(diff.changes) - len(changes)
    if hidden:
        console.print(f"{hidden} more changed; --limit shows more", style="dim")


def print_diffs(
    console: Console,
    diffs: Sequence[Diff],
    *,
    limit: int = 20,
    texts: Sequence[Mapping[int, str]] = (),
    title: str = "",
) -> None:
    """Draw what moved in several requests: one in full, of more a line each, and over all the terms that moved most.

    Args:
        console: Where to.
        diffs: What moved in each.
        limit: How many items, or requests, are drawn: those that changed most.
        texts: For each, a short text of items, by id.
        title: What is compared.
    """
    if len(diffs) == 1:
        print_diff(console, diffs[0], limit=limit, texts=texts[0] if texts else None, title=title)
        return
    canvas = Canvas.of(console)
    if title:
        console.print(Text(canvas.text(title), style="bold"))
    changed = sorted((diff for diff in diffs if not diff.is_empty), key=lambda diff: (diff.rbo, diff.overlap))
    console.print(f"{len(diffs)} requests: {len(changed)} changed, {len(diffs) - len(changed)} did not")
    if not changed:
        return
    for line in _table(canvas, changed[:limit], diffs):
        console.print(line, no_wrap=True, overflow="crop", crop=True)
    if len(changed) > limit:
        console.print(f"{len(changed) - limit} more changed; --limit shows more", style="dim")
    for line in _terms(canvas, diffs):
        console.print(line, no_wrap=True, overflow="crop", crop=True)


def shown_texts(outcome: Outcome) -> dict[int, str]:
    """A short text of each item: its texts among the columns that the pipeline shows."""
    columns = [column for column in outcome.plan.show if column.dtype is np.object_]
    texts: dict[int, str] = {}
    for table in (*outcome.dropped, *outcome.unselected, outcome.selected):
        known = [(table[column], table.valid(column)) for column in columns if column in table]
        for row, item in enumerate(table[ITEM_ID].tolist()):
            parts = [str(values[row]) for values, valid in known if valid[row] and isinstance(values[row], str)]
            texts[item] = " | ".join(parts)
    return texts


def _table(canvas: Canvas, shown: Sequence[Diff], diffs: Sequence[Diff]) -> Iterator[Text]:
    wide = canvas.width >= _TRACKS_FROM
    names = ("moved", "added", "left", "overlap", "tau", "rbo", "furthest") if wide else ("mov", "add", "left", "rbo")
    widths = [max(5, len(name)) for name in names]
    room = canvas.width - sum(widths) - 2 * len(names)
    first = max(
        8, min(room, max(cell_len(canvas.text(name)) for name in (_MEAN, *(diff.request_id for diff in shown))))
    )

    def row(name: str, cells: Sequence[str], style: str = "") -> Text:
        padded = "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        return _cut(Text(canvas.fitted(name, first) + padded, style=style), canvas.width)

    def cells(diff: Diff) -> list[str]:
        counts = [str(len(diff.moved)), str(len(diff.added)), str(len(diff.dropped))]
        tau = "-" if diff.tau is None else f"{diff.tau:.3f}"
        if not wide:
            return [*counts, f"{diff.rbo:.3f}"]
        return [*counts, f"{diff.overlap:.3f}", tau, f"{diff.rbo:.3f}", str(diff.largest_move)]

    yield row("request", names, "bold")
    for diff in shown:
        yield row(diff.request_id, cells(diff))
    taus = [diff.tau for diff in diffs if diff.tau is not None]
    means = [sum(len(part) for part in parts) / len(diffs) for parts in _parts(diffs)]
    rbo = f"{sum(diff.rbo for diff in diffs) / len(diffs):.3f}"
    counts = [f"{mean:.1f}" for mean in means]
    if wide:
        overlap = f"{sum(diff.overlap for diff in diffs) / len(diffs):.3f}"
        tau = f"{sum(taus) / len(taus):.3f}" if taus else "-"
        yield row(_MEAN, [*counts, overlap, tau, rbo, str(max(diff.largest_move for diff in diffs))], "bold")
    else:
        yield row(_MEAN, [*counts, rbo], "bold")


def _parts(diffs: Sequence[Diff]) -> list[list[tuple[ItemChange, ...]]]:
    return [[diff.moved for diff in diffs], [diff.added for diff in diffs], [diff.dropped for diff in diffs]]


def _terms(canvas: Canvas, diffs: Sequence[Diff]) -> Iterator[Text]:
    """The terms that changed scores most, over all requests."""
    sums: dict[str, tuple[float, int]] = {}
    for diff in diffs:
        for change in diff.changes:
            for term in change.score.terms:
                size, count = sums.get(_label(term), (0.0, 0))
                sums[_label(term)] = size + abs(term.effect), count + 1
    foremost = sorted(sums.items(), key=lambda pair: -pair[1][0])[:5]
    if not foremost:
        return
    wide = canvas.width >= _TRACKS_FROM
    yield Text("terms that moved them" + (": the sizes of their effects on scores" if wide else ""), style="bold")
    label = min(max(cell_len(name) for name, _ in foremost), _LABEL, max(6, canvas.width // 3))
    mark = (_ASCII if canvas.ascii_only else _UNICODE).more
    for name, (size, count) in foremost:
        line = Text("  " + canvas.fitted(name, label) + f" {size:>9.4g}")
        if canvas.width >= _BARS_FROM:
            bars = min(24, canvas.width - cell_len(line.plain) - 18)
            line.append(" " + (mark * max(1, round(size / foremost[0][1][0] * bars))).ljust(bars), style="cyan")
        line.append(f"  {count} {'item' if count == 1 else 'items'}", style="dim")
        yield line


def _summary(diff: Diff, title: str, marks: _Marks) -> Iterator[Text]:
    yield Text(title, style="bold")
    if diff.is_empty:
        rescored = f", {diff.rescored} of them with another score" if diff.rescored else ""
        yield Text(f"nothing moved: {diff.unchanged} items stand where they stood{rescored}")
        return
    counts = [(len(diff.moved), "moved"), (len(diff.added), "added"), (len(diff.dropped), "left")]
    said = ", ".join(f"{count} {what}" for count, what in counts if count)
    sizes = f"{diff.size_before} {marks.arrow} {diff.size_after}" if diff.size_before != diff.size_after else ""
    yield Text(f"{said}, {diff.unchanged} unchanged" + (f" (rows: {sizes})" if sizes else ""))
    tau = "" if diff.tau is None else f"  tau {diff.tau:.3f}"
    yield Text(f"overlap {diff.overlap:.3f}{tau}  rbo {diff.rbo:.3f}  largest move {diff.largest_move}", style="dim")


def _foremost(diff: Diff, limit: int) -> list[ItemChange]:
    """Those that came and went and those that moved furthest, in the order of `changes`."""
    changes = diff.changes
    order = sorted(
        range(len(changes)), key=lambda at: -abs(changes[at].rise or 0) if _moved(changes[at]) else -math.inf
    )
    return [changes[at] for at in sorted(order[:limit])]


def _moved(change: ItemChange) -> bool:
    return change.before.fate == change.after.fate == "selected"


def _told(change: ItemChange) -> tuple[TermChange, ...]:
    return change.score.terms[:TERMS]


def _label(term: TermChange) -> str:
    return term_name(term)


def _cut(line: Text, width: int) -> Text:
    if cell_len(line.plain) > width:
        line.truncate(width)
    return line
