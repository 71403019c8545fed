"""The pictures that `run` draws: bars that fit and do not lie, at any width, with any numbers and names."""

from __future__ import annotations

import datetime as dt
import io
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pipeline_scripts import Script, scripts
from rich.cells import cell_len
from rich.console import Console
from structlog.testing import capture_logs
from toys import NOW

from candidate_pipeline import ITEM_ID, CandidatePipelineError, Candidates, Outcome, Query
from candidate_pipeline.cli.bars import WIDEST, Axis, Canvas, Scale
from candidate_pipeline.cli.pictures_run import (
    funnel,
    milliseconds,
    print_funnel,
    print_waterfall,
    scale_text,
    waterfall,
)
from candidate_pipeline.cli.setup import console
from candidate_pipeline.engine.trace import ComponentTrace
from candidate_pipeline.testing import run_in_virtual_time
from candidate_pipeline.testing.scripted import NAME, scripted_app

PLENTY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
COUNTS = st.integers(0, 10**7)
TIMES = st.floats(0, 1e5, allow_nan=False)
WIDTHS = st.integers(0, 120)
NAMES = st.text(max_size=30) | st.sampled_from(["[red]", "[/red]", "a" * 300, "漢字" * 20, "\x1b[31m", "a\nb", "é", ""])


def bar_cells(text: str) -> float:
    """How long a bar is, in cells."""
    eighths = {"▏": 1, "▎": 2, "▍": 3, "▌": 4, "▋": 5, "▊": 6, "▉": 7, "█": 8, "#": 8}
    return sum(eighths[letter] for letter in text) / 8


# Bars


@PLENTY
@given(counts=st.lists(COUNTS, min_size=1, max_size=20), width=WIDTHS, ascii_only=st.booleans())
def test_bars_fit_grow_with_their_counts_and_can_be_seen(counts: list[int], width: int, ascii_only: bool) -> None:
    """No bar is wider than its room, a larger count has no shorter bar, and only nothing has none."""
    scale = Scale.fitting(counts, width)
    bars = [scale.bar(count, ascii_only=ascii_only) for count in sorted(counts)]
    lengths = [bar_cells(bar) for bar in bars]
    assert lengths == sorted(lengths)
    assert all(cell_len(bar) <= width for bar in bars)
    for count, bar in zip(sorted(counts), bars, strict=True):
        assert bool(bar) == (count > 0 and width > 0)
    if max(counts) and width:
        assert lengths[-1] == width


def test_the_scale_is_linear_where_small_counts_can_be_seen() -> None:
    """Bars are in proportion to counts, unless the smallest would not have an eighth of a cell."""
    linear, logarithmic = Scale.fitting([1000, 500, 4], 40), Scale.fitting([100_000, 1], 40)
    assert not linear.logarithmic
    assert linear.bar(500) == "█" * 20
    assert linear.bar(4) == "▏"
    assert logarithmic.logarithmic
    assert len(logarithmic.bar(300)) > 10


@PLENTY
@given(start=TIMES, short=TIMES, longer=TIMES, rest=TIMES, width=WIDTHS, ascii_only=st.booleans())
def test_spans_fit_and_grow_with_time(
    start: float, short: float, longer: float, rest: float, width: int, ascii_only: bool
) -> None:
    """A span ends within its axis; of two that start together, that of the longer call is not shorter."""
    short, longer = sorted([short, longer])
    axis, fill = Axis(start + longer + rest, width), "#" if ascii_only else "█"
    spans = [axis.span(start, start + took, fill=fill, ascii_only=ascii_only) for took in (short, longer)]
    assert all(len(span) <= width for span in spans)
    assert len(spans[0]) <= len(spans[1])
    if width:
        assert all(span.strip() for span in spans)
        margins = [len(span) - len(span.lstrip()) for span in spans]
        assert margins[0] == margins[1]
        earlier = axis.span(0, 0, fill=fill, ascii_only=ascii_only)
        assert len(earlier) - len(earlier.lstrip()) <= margins[0]


def test_spans_that_overlap_are_seen_to() -> None:
    """Calls at the same time have bars in the same columns, calls after one another do not."""
    axis = Axis(100, 20)
    assert axis.span(0, 50) == "██████████"
    assert axis.span(25, 75) == "     ██████████"
    assert axis.span(50, 50) == "          ▏"
    assert axis.span(52.5, 57.5) == "          ▐▌"
    assert axis.span(100, 100) == " " * 19 + "▕"
    assert axis.span(0, 52, fill="▒") == "▒▒▒▒▒▒▒▒▒▒"


@PLENTY
@given(text=NAMES, width=st.integers(0, 60), encoding=st.sampled_from(["utf-8", "ascii", "cp1252", "no such thing"]))
def test_names_are_brought_to_a_width(text: str, width: int, encoding: str) -> None:
    """A name fills exactly its cells, in characters that the terminal has and that do nothing."""
    found = Canvas(80, encoding).fitted(text, width)
    assert cell_len(found) == width
    assert found.isprintable()
    if encoding in {"ascii", "no such thing"}:
        assert found.isascii()


@PLENTY
@given(end=TIMES, width=WIDTHS)
def test_the_axis_has_its_times_where_they_fit(end: float, width: int) -> None:
    """The text of an axis is as wide as it or absent, and ends in the last time."""
    text = scale_text(Axis(end, width), "deadline ")
    assert len(text) in {0, width}
    if len(text) > 20:
        assert text.startswith("0 ")
        assert text.endswith(milliseconds(end))


@pytest.mark.parametrize(
    ("time", "text"),
    [(0, "0.0 ms"), (9.94, "9.9 ms"), (30.4, "30 ms"), (1234, "1,234 ms"), (30_000, "30 s"), (12_345, "12.3 s")],
)
def test_times_are_written_shortly(time: float, text: str) -> None:
    """Small times have a decimal place, large ones are in seconds."""
    assert milliseconds(time) == text


# Pictures


@st.composite
def traces(draw: Any, depth: int = 0) -> list[ComponentTrace]:
    """The records of a request in which anything may have happened."""
    stages = ["query_hydrators", "sources", "hydrators", "filters", "scorers", "selector", "post_selection_filters"]
    found = []
    for stage in [*stages, "top_up", "side_effects"]:
        for _ in range(draw(st.integers(0, 2))):
            rows = draw(COUNTS)
            entry = ComponentTrace(
                component=draw(NAMES),
                use="toy",
                stage=stage,  # type: ignore[arg-type]  # one of the stages
                status=draw(st.sampled_from(["ok", "ok", "skipped", "fallback", "closed"])),
                started_ms=draw(TIMES),
                elapsed_ms=draw(TIMES),
                rows_in=rows,
                rows_out=min(rows, draw(COUNTS)),
                error=draw(NAMES),
                by=draw(NAMES),
                note=draw(NAMES),
                refill=draw(st.integers(0, 1)),
                cache_hits=draw(st.integers(0, 3)),
                cache_misses=draw(st.integers(0, 3)),
                breaker=draw(st.sampled_from(["", "open"])),
            )
            inside = stage == "sources" and depth < 2 and draw(st.booleans())
            found.append(attrs.evolve(entry, inner=tuple(draw(traces(depth + 1))) if inside else ()))
    return found


@pytest.fixture(scope="module")
def plan() -> Any:
    """The plan of a small pipeline with a deadline."""
    script = {"sources": [{"name": "s", "rows": []}], "selector": {"name": "top"}, "deadline_ms": 50}
    return scripted_app({**script, "result_size": 5})[NAME].plan


def outcome_of(plan: Any, trace: list[ComponentTrace], rows: int, elapsed: float) -> Outcome:
    """An outcome with some records."""
    table = Candidates.of(ITEM_ID(np.arange(rows)))
    return Outcome(
        plan=plan,
        query=Query(now=NOW),
        selected=table,
        unselected=(),
        dropped=(),
        retrieved=table,
        score_steps=(),
        trace=tuple(trace),  # type: ignore[arg-type]  # a trace is a sequence of records
        elapsed_ms=elapsed,
    )


class Lines(io.StringIO):
    """A terminal with an encoding of its own."""

    encoding = "utf-8"


def drawn(outcome: Outcome, width: int, encoding: str = "utf-8") -> list[str]:
    """The lines of both pictures."""
    file = Lines()
    file.encoding = encoding
    target = Console(file=file, width=width)
    print_funnel(target, outcome)
    print_waterfall(target, outcome)
    return file.getvalue().splitlines()


@PLENTY
@given(
    trace=traces(),
    rows=st.integers(0, 3),
    elapsed=TIMES,
    width=st.integers(1, 200),
    encoding=st.sampled_from(["utf-8", "ascii"]),
)
def test_nothing_is_too_much_for_the_pictures(
    plan: Any, trace: list[ComponentTrace], rows: int, elapsed: float, width: int, encoding: str
) -> None:
    """Whatever happened and whatever its names: both pictures are drawn, within the width, in what can be printed."""
    lines = drawn(outcome_of(plan, trace, rows, elapsed), width, encoding)
    assert all(cell_len(line) <= min(width, WIDEST) for line in lines)
    if encoding == "ascii":
        assert all(line.isascii() for line in lines)


@PLENTY
@given(script=st.sampled_from(["strict", "upstream"]).flatmap(scripts), width=st.sampled_from([40, 80, 200]))
def test_real_requests_are_drawn_whole(script: Script, width: int) -> None:
    """Each call of a request has its line in the waterfall, and each filter its loss in the funnel, at any width."""

    async def main() -> Outcome:
        app = scripted_app(script)
        async with app:
            return await app[NAME].run(now=dt.datetime(2026, 5, 15, tzinfo=dt.UTC), **script["inputs"])

    with capture_logs():
        try:
            outcome = run_in_virtual_time(main())
        except CandidatePipelineError:
            assume(False)
    calls = [row.name for row in waterfall(outcome) if row.start is not None]
    assert calls == [entry.component for entry in outcome.trace]
    filters = [entry for entry in outcome.trace if entry.stage in {"filters", "post_selection_filters"}]
    losses = {(step.name, step.lost) for step in funnel(outcome)}
    assert {(entry.component, entry.rows_in - entry.rows_out) for entry in filters} <= losses
    response = funnel(outcome)[-1]
    assert (response.name, response.count) == ("response", len(outcome.selected))
    text = "\n".join(drawn(outcome, width))
    if width >= 80:
        assert all(name in text for name in calls)


def test_losses_are_drawn_behind_what_is_left(plan: Any) -> None:
    """A filter's bar shows what it kept and, lighter, what it dropped; the number stands beside."""
    trace = [
        ComponentTrace("shelf", "toy", "sources", rows_out=100, elapsed_ms=40),
        ComponentTrace("half", "toy", "filters", rows_in=100, rows_out=50, started_ms=40, elapsed_ms=5),
        ComponentTrace("top", "toy", "selector", rows_in=50, rows_out=5, started_ms=45),
    ]
    lines = drawn(outcome_of(plan, trace, 5, 45.0), 60)
    (half,) = [line for line in lines if line.startswith("  half") and "-" in line]
    assert half.count("█") == half.count("░")
    assert half.endswith("-50")
    lines = drawn(outcome_of(plan, trace, 5, 45.0), 60, "ascii")
    (half,) = [line for line in lines if line.startswith("  half") and "-" in line]
    assert half.count("#") == half.count(".")


def test_the_deadline_is_the_end_of_the_axis_when_it_is_near(plan: Any) -> None:
    """A request that used half of its deadline or more is drawn against it; else its own time fills the axis."""
    trace = [ComponentTrace("shelf", "toy", "sources", elapsed_ms=40)]
    lines = drawn(outcome_of(plan, trace, 0, 40.0), 80)
    assert "waterfall: 40 ms, 80% of the deadline of 50 ms" in lines
    assert any(line.endswith("deadline 50 ms") for line in lines)
    lines = drawn(outcome_of(plan, [attrs.evolve(trace[0], elapsed_ms=4)], 0, 4.0), 80)
    assert "waterfall: 4.0 ms, 8% of the deadline of 50 ms" in lines
    assert not any("deadline 50 ms" in line for line in lines)


def test_a_call_is_marked_by_what_became_of_it(plan: Any) -> None:
    """Bars of calls that failed, and of calls answered from a cache, look otherwise; a closed gate has none."""
    trace = [
        ComponentTrace("fine", "toy", "hydrators", elapsed_ms=40, rows_in=4, rows_out=4),
        ComponentTrace("lost", "toy", "hydrators", status="skipped", elapsed_ms=40, error="[b]no[/b]", rows_in=4),
        ComponentTrace("kept", "toy", "hydrators", elapsed_ms=40, cache_hits=4, rows_in=4, rows_out=3),
        ComponentTrace("shut", "toy", "hydrators", status="closed", error="no guest", rows_in=4),
    ]
    looks = {row.name: row.look for row in waterfall(outcome_of(plan, trace, 0, 40.0))}
    assert looks == {"hydrators": "ok", "fine": "ok", "lost": "skipped", "kept": "cached", "shut": "closed"}
    text = "\n".join(drawn(outcome_of(plan, trace, 0, 40.0), 80))
    for sign in ("█", "▒", "▓", "skipped: [b]no[/b]", "4 of 4 from the cache", "3 of 4 rows", "closed: no guest"):
        assert sign in text


def test_standard_output_replaces_what_it_cannot_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal with a small alphabet gets a mark in place of a letter, not an error."""
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", file)
    console().print("Qué [b]parada[/b]")
    file.flush()
    assert file.buffer.getvalue() == b"Qu? parada\n"
