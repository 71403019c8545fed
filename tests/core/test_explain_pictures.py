"""`run --explain` in the terminal: the chart of a score, at any width, with and without colours and Unicode."""

from __future__ import annotations

import io
import math
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from candidate_pipeline.cli.pictures_explain import Waterfall, draw_explanation
from candidate_pipeline.explain import Explanation, ScoreChange
from candidate_pipeline.explain_steps import GIVEN, UNEXPLAINED, Step

PLAIN = Explanation(
    item_id=7,
    fate="selected",
    rank=3,
    sources=("shelf", "attic"),
    dropped_by=None,
    stage=None,
    scores=(
        ScoreChange("weigh", None, 2.0, None, 9),
        ScoreChange("idle", 2.0, 2.0, 9, 8),
        ScoreChange("fade", 2.0, 0.5, 8, 3),
        ScoreChange("last", 0.5, 0.5, 3, 3),
    ),
    terms=(),
    cells=(),
    reason="rank 3 of 10 by score; top chose 4",
    account=(
        Step("like", "weigh", "add", 3.0, 3.0),
        Step("report", "weigh", "add", -4.0, -1.0),
        Step("offset", "weigh", "add", 3.0, 2.0),
        Step("age", "fade", "multiply", 0.5, 1.0),
        Step(UNEXPLAINED, "fade", "add", -0.5, 0.5),
    ),
)


def drawn(explanation: Explanation, width: int = 80, **terminal: Any) -> str:
    """A drawing as text."""
    out = io.StringIO()
    draw_explanation(Console(file=out, width=width, **terminal), explanation)
    return out.getvalue()


def test_a_score_drawn_from_its_terms() -> None:
    """Each scorer says what it did to score and rank; each step has its amount, total and a bar from total to total."""
    assert drawn(PLAIN, 72).splitlines() == [
        "item 7: selected at rank 3",
        "  why: rank 3 of 10 by score; top chose 4",
        "  sources: shelf, attic",
        "  weigh unscored → 2, rank - → 9",
        "    like                          +3         3        ██████████████████",
        "    report                        -4        -1  ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒",
        "    offset                        +3         2  ██████████████████",
        "  idle 2, rank 9 → 8",
        "  fade 2 → 0.5, rank 8 → 3",
        "    age                        × 0.5         1        │     ▒▒▒▒▒▒",
        "    not explained by terms      -0.5       0.5        │  ▒▒▒",
        "  last 0.5, rank 3 → 3",
    ]


def test_up_and_down_have_colours_of_their_own() -> None:
    """In a terminal gains are green and losses red; without colours other characters tell them apart."""
    coloured = drawn(PLAIN, force_terminal=True, color_system="standard")
    assert "\x1b[32m█" in coloured
    assert "\x1b[31m▒" in coloured
    assert "\x1b" not in drawn(PLAIN)


def test_ascii_terminals_get_ascii() -> None:
    """Where the encoding lacks the characters, the drawing is plain ASCII."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    draw_explanation(Console(file=file, width=80), attrs.evolve(PLAIN, reason="größer als ▒"))
    file.flush()
    text = raw.getvalue().decode("ascii")
    assert "why: gr??er als ?" in text
    assert "rank 8 -> 3" in text
    assert "x 0.5" in text
    assert "#####" in text
    assert "-----" in text


@pytest.mark.parametrize("width", [1, 5, 12, 20, 33, 40, 56, 80, 200])
def test_it_fits_any_width(width: int) -> None:
    """No line is wider than the terminal, and from 40 columns on every step has its bar."""
    lines = drawn(attrs.evolve(PLAIN, inner=(PLAIN,), copies=2), width).splitlines()
    assert all(cell_len(line) <= width for line in lines)
    if width >= 40:
        assert sum("▒" in line for line in lines) == 6


def test_what_a_nested_pipeline_says_stands_below() -> None:
    """The nested pipeline's part is set in further, under its name."""
    lines = drawn(attrs.evolve(PLAIN, inner=(attrs.evolve(PLAIN, pipeline="market"),))).splitlines()
    at = lines.index("  in market: selected at rank 3")
    assert lines[at + 1 : at + 4] == [
        "    why: rank 3 of 10 by score; top chose 4",
        "    sources: shelf, attic",
        "    weigh unscored → 2, rank - → 9",
    ]


def test_a_dropped_item_says_why() -> None:
    """Without a score there is no chart; the reason stands below what became of it."""
    dropped = attrs.evolve(
        PLAIN, fate="dropped", rank=None, dropped_by="age", stage="filters", reason="too old", scores=(), account=()
    )
    assert drawn(dropped).splitlines() == [
        "item 7: dropped by age (filters)",
        "  why: too old",
        "  sources: shelf, attic",
    ]


NUMBERS = st.floats(width=32) | st.none()
STEPS = st.builds(
    Step,
    st.sampled_from(["like", GIVEN, "a very long name of a term", "名前"]),
    st.sampled_from(["weigh", "fade", "other"]),
    st.sampled_from(["add", "set", "multiply"]),
    NUMBERS,
    NUMBERS,
)


@given(st.lists(STEPS, max_size=6), st.integers(1, 100))
def test_any_account_can_be_drawn(steps: list[Step], width: int) -> None:
    """NaN, infinities, missing scores and the largest numbers are drawn, within the width."""
    lines = drawn(attrs.evolve(PLAIN, account=tuple(steps)), width).splitlines()
    assert all(cell_len(line) <= width for line in lines)


@given(st.lists(st.floats(-1e38, 1e38), min_size=1, max_size=5), st.integers(1, 60))
def test_bars_lead_from_total_to_total(totals: list[float], width: int) -> None:
    """A bar covers the cells between two totals, at least one, and the axis covers all totals and 0."""
    steps = [Step("x", "s", "add", total, total) for total in totals]
    axis = Waterfall.of(steps, width)
    assert axis.low <= 0 <= axis.high
    start = 0.0
    for step in steps:
        text = axis.bar(start, step).plain
        assert len(text) == width
        left, right = sorted((axis.place(start), axis.place(step.total or 0.0)))
        filled = [at for at, char in enumerate(text) if char in "█▒▏"]
        assert filled == (list(range(left, right)) or [min(left, width - 1)])
        start = step.total or 0.0
    assert math.isfinite(axis.high)
