"""What `swap` prints: the options that can make two items change places, and those that cannot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from candidate_pipeline.cli.bars import Canvas
from candidate_pipeline.what_if.swap import SwapOption, SwapResult

_NUMBER: Final = 10
#: Below this width, in cells, only the new value is printed beside an option's name.
_NUMBERS_FROM: Final = 64


def print_swap(console: Console, result: SwapResult, *, limit: int = 20) -> None:
    """Print which single changes make two items change places, the smallest first.

    Args:
        console: Where to.
        result: What was found.
        limit: How many options are printed of those that can.
    """
    canvas = Canvas.of(console)
    behind = "not in the response" if result.rank_behind is None else f"rank {result.rank_behind}"
    console.print(
        Text(canvas.text(f"{result.behind} ({behind}) ahead of {result.ahead} (rank {result.rank_ahead})")),
        style="bold",
    )
    if result.reason:
        console.print(Text(canvas.text(f"no weight can do it: {result.reason}")))
        return
    for line in _found(canvas, result, limit):
        console.print(line, no_wrap=True, overflow="crop", crop=True)
    best = result.best
    if best is not None and best.override is not None:
        console.print(Text.assemble("try it: ", (f"--set {best.override}", "green")))
    for words in _failed(canvas, result):
        console.print(Text(words), style="dim")
    stopped = "" if result.complete else "; the search was not finished"
    console.print(f"ranked again {result.replays} times{stopped}", style="dim")


def _found(canvas: Canvas, result: SwapResult, limit: int) -> Iterator[Text]:
    if not result.found:
        yield Text("no single change that was tried does it")
        return
    wide = canvas.width >= _NUMBERS_FROM
    numbers = ("now", "needed", "change", "relative") if wide else ("needed",)
    room = canvas.width - (_NUMBER + 1) * len(numbers)
    name = max(6, min(room, max(cell_len(option.option) for option in result.found)))
    yield Text(canvas.fitted("option", name) + "".join(f" {each:>{_NUMBER}}" for each in numbers), style="bold")
    for option in result.found[:limit]:
        cells = [_number(option.value), _number(option.new), f"{option.change:+.4g}", f"{option.relative:.1%}"]
        shown = cells if wide else cells[1:2]
        yield Text(canvas.fitted(option.option, name) + "".join(f" {cell:>{_NUMBER}}" for cell in shown))
    if len(result.found) > limit:
        yield Text(f"{len(result.found) - limit} more can; --limit shows more", style="dim")


def _failed(canvas: Canvas, result: SwapResult) -> Iterator[str]:
    """The options that cannot, those without any effect in one line."""
    idle = [option for option in result.failed if option.note in {"it changes nothing here", "not searched"}]
    for option in result.failed:
        if option not in idle:
            yield canvas.text(f"{option.option} cannot: {option.note} ({_range(option)})")
    for note, words in (("it changes nothing here", "change nothing here"), ("not searched", "were not searched")):
        names = [option.option for option in idle if option.note == note]
        if names:
            yield canvas.text(f"{words}: {', '.join(names)}")


def _range(option: SwapOption) -> str:
    return f"tried from {_number(option.lowest)} to {_number(option.highest)}"


def _number(value: float | None) -> str:
    # The least number above 0 is a bound that excludes 0, which 5e-324 would not say.
    return "" if value is None else "0" if abs(value) < 1e-300 else f"{value:.6g}"
