"""Bars and names that fit their place in a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import attrs
from rich.cells import cell_len, chop_cells
from rich.console import Console

from candidate_pipeline.drawing.labels import clean

#: A cell filled from the left by so many eighths.
_EIGHTHS: Final = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█")
#: Pictures are not wider than this, in cells: bars that end far from their numbers are hard to read.
WIDEST: Final = 110


@attrs.frozen
class Canvas:
    """What a terminal can show.

    Args:
        width: Its width in cells.
        encoding: Its encoding; without all of Unicode, pictures are drawn in ASCII.
    """

    width: int
    encoding: str = "utf-8"

    @classmethod
    def of(cls, console: Console) -> Canvas:
        """The part of a terminal that pictures are drawn on."""
        return cls(max(1, min(console.width, WIDEST)), console.encoding)

    @property
    def ascii_only(self) -> bool:
        """Whether there are no characters beyond ASCII."""
        return not self.encoding.lower().startswith("utf")

    def text(self, text: str) -> str:
        """Text on one line, with a mark in place of what cannot be shown."""
        try:
            return clean(text).encode(self.encoding, "replace").decode(self.encoding)
        except LookupError:
            return clean(text).encode("ascii", "replace").decode("ascii")

    def fitted(self, text: str, width: int) -> str:
        """Text in exactly so many cells: padded, or shortened in its middle, since names differ at both ends."""
        text = self.text(text)
        if cell_len(text) > width:
            gap = "…" if not self.ascii_only else ".." if width > 4 else "."
            room = max(0, width - cell_len(gap))
            text = _first(text, room - room // 2) + gap[:width] + _last(text, room // 2)
        return text + " " * (width - cell_len(text))


def _first(text: str, width: int) -> str:
    return next(iter(chop_cells(text, width)), "") if width > 1 else text[:width] if cell_len(text[:1]) < 2 else ""


def _last(text: str, width: int) -> str:
    while cell_len(text) > width:
        text = text[1:]
    return text


@attrs.frozen
class Scale:
    """How long the bars of counts are.

    Linear, unless the smallest count would not be seen beside the largest: then logarithmic.

    Args:
        largest: The count whose bar is as wide as there is room.
        width: The room, in cells.
        logarithmic: Whether bars grow with the logarithm.
    """

    largest: int
    width: int
    logarithmic: bool

    @classmethod
    def fitting(cls, counts: Iterable[int], width: int) -> Scale:
        """The scale on which all of these counts can be seen."""
        seen = [count for count in counts if count > 0]
        largest, smallest = max(seen, default=1), min(seen, default=1)
        return cls(largest, max(0, width), smallest * width * 8 < largest)

    def eighths(self, count: int) -> int:
        """The length of a count's bar, in eighths of a cell; what is not nothing has at least one."""
        if count <= 0 or not self.width:
            return 0
        part = math.log1p(count) / math.log1p(self.largest) if self.logarithmic else count / self.largest
        return min(self.width * 8, max(1, math.floor(part * self.width * 8)))

    def bar(self, count: int, *, ascii_only: bool = False) -> str:
        """A count's bar."""
        eighths = self.eighths(count)
        if ascii_only:
            return "#" * -(-eighths // 8)
        return "█" * (eighths // 8) + _EIGHTHS[eighths % 8]


@attrs.frozen
class Axis:
    """A time axis.

    Args:
        end: The time at its right end, in milliseconds; it starts at 0.
        width: Its width, in cells.
    """

    end: float
    width: int

    def half(self, time: float) -> int:
        """A time's place, in halves of a cell from the left."""
        part = time / self.end if self.end > 0 and math.isfinite(time) else 0.0
        return min(self.width * 2, max(0, math.floor(part * self.width * 2)))

    def span(self, start: float, end: float, *, fill: str = "█", ascii_only: bool = False) -> str:
        """A bar from one time to another; one too short to be seen is a thin line.

        Args:
            start: Where it starts, in milliseconds.
            end: Where it ends.
            fill: What it is filled with; only a solid one (`█`) has half cells.
            ascii_only: Draw in ASCII; `fill` is then to be an ASCII character.
        """
        if not self.width:
            return ""
        left, right = min(self.half(start), self.width * 2 - 1), self.half(end)
        margin = " " * (left // 2)
        if right <= self.half(start):
            return margin + ("|" if ascii_only else "▕" if left % 2 else "▏")
        if ascii_only or fill != "█":
            return margin + fill * (-(-right // 2) - left // 2)
        head, tail = "▐" * (left % 2), "▌" * (right % 2)
        return margin + head + "█" * ((right - left - len(head) - len(tail)) // 2) + tail
