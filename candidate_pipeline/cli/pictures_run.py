"""What `run` draws below its rows: the funnel of candidates, and the waterfall of component times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

import attrs
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from candidate_pipeline.cli.bars import Axis, Canvas, Scale
from candidate_pipeline.engine.trace import ComponentTrace
from candidate_pipeline.outcome import Outcome

_FILTERS: Final = frozenset({"filters", "post_selection_filters"})
_FETCHING: Final = frozenset({"sources", "top_up"})
_HYDRATING: Final = frozenset({"hydrators", "post_selection_hydrators", "scorers"})
_INDENT: Final = 2
#: What bars are filled with, in Unicode and in ASCII, and their colour.
_FILLS: Final = {
    "ok": ("█", "#", "green"),
    "cached": ("▓", "=", "cyan"),
    "skipped": ("▒", "x", "red"),
    "fallback": ("▒", "x", "yellow"),
    "lost": ("░", ".", "dim"),
}


# The funnel


@attrs.frozen
class Step:
    """A line of the funnel.

    Args:
        name: What the line is about.
        depth: How far it is set in.
        count: The rows there are after it; `None` for a heading.
        before: The rows there were before it, if it can only lower their number.
        remark: What else is worth saying.
    """

    name: str
    depth: int
    count: int | None = None
    before: int | None = None
    remark: str = ""

    @property
    def lost(self) -> int:
        """How many rows it dropped or left."""
        return 0 if self.before is None or self.count is None else max(0, self.before - self.count)


def funnel(outcome: Outcome) -> list[Step]:
    """The funnel of a request, line by line; inner pipelines stand below their component."""
    size, stages = len(outcome.selected), _FILTERS | {"selector"}
    before = next((entry.rows_out for entry in reversed(outcome.trace) if entry.stage in stages), None)
    topped = before is not None and size > before
    said = f"{size - (before or 0):,} of them topped up" if topped else ""
    return [*_steps(outcome.trace, 0), Step("response", 0, size, None if topped else before, said)]


def _steps(trace: Sequence[ComponentTrace], depth: int) -> Iterator[Step]:
    groups = [(stage, list(entries)) for stage, entries in groupby(trace, _stage)]
    for at, (stage, entries) in enumerate(groups):
        if entries[0].stage in _FETCHING:
            yield Step(stage, depth)
            for entry in entries:
                yield Step(entry.component, depth + 1, entry.rows_out, None, _fate(entry))
                yield from _steps(entry.inner, depth + 2)
            fetched = sum(entry.rows_out for entry in entries)
            given = next((each[0].rows_in for _, each in groups[at + 1 :]), fetched)
            if entries[0].stage == "sources" and len(entries) > 1:
                again = f"{fetched - given:,} returned more than once" if fetched > given else ""
                yield Step("all sources", depth + 1, given, None, again)
        elif entries[0].stage in _FILTERS or entries[0].stage == "selector":
            yield Step(stage, depth)
            for entry in entries:
                yield Step(entry.component, depth + 1, entry.rows_out, entry.rows_in, _fate(entry))
        elif entries[0].stage == "scorers":
            yield Step("scored", depth, entries[-1].rows_out, entries[0].rows_in)


def _stage(entry: ComponentTrace) -> str:
    stage = entry.stage.replace("_", " ")
    return f"{stage} (refill {entry.refill})" if entry.refill else stage


def _fate(entry: ComponentTrace) -> str:
    """What became of a call, in a word; the waterfall says why."""
    return {"ok": "", "skipped": "skipped", "fallback": f"{entry.by} took over", "closed": "closed"}[entry.status]


def print_funnel(console: Console, outcome: Outcome) -> None:
    """Draw how the candidates became fewer: what sources returned, what each filter dropped, what was selected."""
    canvas, steps = Canvas.of(console), funnel(outcome)
    counts = [step.count for step in steps if step.count is not None]
    numbers = max(len(f"{count:,}") for count in counts)
    losses = max((len(_lost(step)) for step in steps), default=0)
    names = _name_width(canvas, [(step.name, step.depth) for step in steps if step.count is not None])
    room = canvas.width - names - numbers - losses - 4
    scale = Scale.fitting(counts, room if room >= 4 else 0)
    fetched = sum(entry.rows_out for entry in outcome.trace if entry.stage == "sources")
    size = outcome.plan.result_size
    wanted = "" if size is None or size == len(outcome.selected) else f" of at most {size:,}"
    ratio = " (logarithmic bars)" if scale.logarithmic and scale.width else ""
    _title(console, f"funnel: {fetched:,} rows fetched, {len(outcome.selected):,}{wanted} in the response{ratio}")
    for step in steps:
        if step.count is None:
            _heading(console, canvas, step.name, step.depth)
            continue
        name = canvas.fitted(" " * _INDENT * step.depth + step.name, names)
        line = Text(name, style="bold" if not step.depth else "")
        line.append(f" {step.count:>{numbers},} ", style="none")
        bar = scale.bar(step.count, ascii_only=canvas.ascii_only)
        whole = len(scale.bar(step.before or 0, ascii_only=canvas.ascii_only))
        line.append(bar, style=_FILLS["ok"][2])
        fill = _FILLS["lost"][1 if canvas.ascii_only else 0]
        line.append(fill * max(0, whole - len(bar)), style=_FILLS["lost"][2])
        if step.lost:
            line.append(" " * (names + numbers + 2 + scale.width - line.cell_len))
            line.append(f" {_lost(step):>{losses}}", style="none")
        room = canvas.width - line.cell_len - 2
        remark = canvas.text(step.remark)
        if remark and room >= cell_len(remark):
            line.append(f"  {remark}", style="dim")
            remark = ""
        _line(console, line)
        if remark:
            _below(console, canvas, remark, step.depth + 1, "dim")


def _lost(step: Step) -> str:
    return f"-{step.lost:,}" if step.lost else ""


# The waterfall


@attrs.frozen
class Row:
    """A line of the waterfall.

    Args:
        name: A stage, or a component.
        depth: How far it is set in.
        start: When the call began, from the start of the request, in milliseconds; `None` for a heading.
        elapsed: How long it took, in milliseconds.
        look: What its bar is filled with: `ok`, `cached`, `skipped`, `fallback`, or `closed`, which has none.
        remarks: What is worth saying, most important first.
    """

    name: str
    depth: int
    start: float | None = None
    elapsed: float = 0.0
    look: str = "ok"
    remarks: tuple[str, ...] = ()


def waterfall(outcome: Outcome) -> list[Row]:
    """The calls of a request by stage, those of inner pipelines below their component."""
    return list(_rows(outcome.trace, 0, 0.0))


def _rows(trace: Sequence[ComponentTrace], depth: int, offset: float) -> Iterator[Row]:
    for stage, entries in groupby(trace, _stage):
        yield Row(stage, depth)
        for entry in entries:
            start, asked = offset + entry.started_ms, entry.cache_hits + entry.cache_misses
            look = "cached" if entry.status == "ok" and asked and not entry.cache_misses else entry.status
            yield Row(entry.component, depth + 1, start, entry.elapsed_ms, look, tuple(remarks(entry)))
            yield from _rows(entry.inner, depth + 2, start)  # an inner pipeline's clock starts with its component


def remarks(entry: ComponentTrace) -> list[str]:
    """What is worth saying of a call: how it failed or why it did not run, its cache, its circuit, its note."""
    said = {
        "ok": "",
        "skipped": f"skipped: {entry.error}",
        "fallback": f"{entry.by} took over: {entry.error}",
        "closed": f"closed: {entry.error}",
    }
    found = [said[entry.status]]
    asked = entry.cache_hits + entry.cache_misses
    if asked:
        found.append(f"{entry.cache_hits:,} of {asked:,} from the cache")
    if entry.breaker and "circuit" not in entry.error:
        found.append(f"its circuit is {entry.breaker}")
    if entry.stage in _HYDRATING and entry.rows_out < entry.rows_in and (entry.rows_out or entry.status == "ok"):
        found.append(f"{entry.rows_out:,} of {entry.rows_in:,} rows")
    found.append(entry.note)
    return [remark for remark in found if remark]


def print_waterfall(console: Console, outcome: Outcome) -> None:
    """Draw when each call ran, what ran at once one below the other, and whatever is worth saying of it."""
    canvas, rows = Canvas.of(console), waterfall(outcome)
    took, deadline = outcome.elapsed_ms, outcome.plan.deadline
    limit = None if deadline is None else deadline * 1000
    end = max([took, *(row.start + row.elapsed for row in rows if row.start is not None)])
    near = limit is not None and limit <= 2 * end
    if near and limit is not None:
        end = max(end, limit)
    numbers = max(len(f"{row.elapsed:,.1f}") for row in [*rows, Row("", 0, 0, took)])
    names = _name_width(canvas, [(row.name, row.depth) for row in rows if row.start is not None])
    room = canvas.width - names - numbers - 2
    axis = Axis(end, room if room >= 4 else 0)
    of = "" if limit is None else f", {_share(took / limit)} of the deadline of {milliseconds(limit)}"
    _title(console, f"waterfall: {milliseconds(took)}{of}")
    if axis.width and end > 0:
        _line(console, Text(" " * (names + 1) + scale_text(axis, "deadline " if near and end == limit else ""), "dim"))
    for row in rows:
        if row.start is None:
            _heading(console, canvas, row.name, row.depth)
            continue
        name = canvas.fitted(" " * _INDENT * row.depth + row.name, names)
        line = Text(f"{name} ")
        if row.look != "closed":
            unicode, plain, style = _FILLS[row.look]
            fill = plain if canvas.ascii_only else unicode
            line.append(axis.span(row.start, row.start + row.elapsed, fill=fill, ascii_only=canvas.ascii_only), style)
            line.append(" " * (names + 1 + axis.width - line.cell_len))
            line.append(f" {row.elapsed:>{numbers},.1f}")
        _line(console, line)
        for remark in row.remarks:
            _below(console, canvas, canvas.text(remark), row.depth + 1, _FILLS.get(row.look, ("", "", "dim"))[2])
    line = Text(canvas.fitted("in all", names) + " ", style="bold")
    line.append(axis.span(0, took, fill="#" if canvas.ascii_only else "█", ascii_only=canvas.ascii_only), "dim")
    line.append(" " * (names + 1 + axis.width - line.cell_len))
    line.append(f" {took:>{numbers},.1f}", style="none")
    _line(console, line)


def scale_text(axis: Axis, last: str = "") -> str:
    """The times at the left end, the middle and the right end of an axis, as far as there is room for them."""
    right = f"{last}{milliseconds(axis.end)}"
    if axis.width < len(right) + 2:
        return right.rjust(axis.width)[-axis.width :] if axis.width >= len(right) else ""
    middle, at = f"{axis.end / 2:,.0f}" if axis.end >= 20 else f"{axis.end / 2:.1f}", axis.width // 2
    text = "0".ljust(axis.width - len(right)) + right
    if at >= 2 and at + len(middle) + 2 <= axis.width - len(right):
        text = text[:at] + middle + text[at + len(middle) :]
    return text


def _share(part: float) -> str:
    return f"{part:.0%}" if part >= 0.01 else "less than 1%"


def milliseconds(time: float) -> str:
    """A time in milliseconds, or in seconds if there are many of them."""
    if time >= 10_000:
        return f"{time / 1000:,.1f} s".replace(".0 s", " s")
    return f"{time:,.0f} ms" if time >= 10 else f"{time:.1f} ms"


# Lines


def _name_width(canvas: Canvas, names: Sequence[tuple[str, int]]) -> int:
    """How wide the names' column is: as wide as the names, but at most two fifths of the picture."""
    widest = max((cell_len(canvas.text(name)) + _INDENT * depth for name, depth in names), default=0)
    return max(1, min(widest, canvas.width * 2 // 5))


def _title(console: Console, text: str) -> None:
    console.print()
    for line in Text(text, style="italic").wrap(console, Canvas.of(console).width):
        _line(console, line)


def _heading(console: Console, canvas: Canvas, text: str, depth: int) -> None:
    _line(console, Text(canvas.fitted(" " * _INDENT * depth + text, canvas.width), style="bold"))


def _line(console: Console, text: Text) -> None:
    text.rstrip()
    console.print(text, no_wrap=True, overflow="crop", crop=True, highlight=False)


def _below(console: Console, canvas: Canvas, remark: str, depth: int, style: str) -> None:
    """A remark below its line, on as many lines as it needs."""
    indent = min(_INDENT * depth, canvas.width // 3)
    hook = "" if canvas.width < 20 else "- " if canvas.ascii_only else "└ "
    width = max(1, canvas.width - indent - len(hook))
    for number, part in enumerate(Text(remark, style=style).wrap(console, width)):
        lead = Text(" " * indent + (hook if not number else " " * len(hook)), style=style)
        _line(console, lead.append_text(part))
