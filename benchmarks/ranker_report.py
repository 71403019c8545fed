"""The figures of `ranker.py` as markdown tables, and its goals beside what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
from ranker_grid import Cell, Grid, Key
from ranker_load import DEADLINE, Load
from ranker_models import Size
from ranker_rates import Rates, cores
from ranker_timing import Times
from ranker_variants import EAGER_CHUNKS, JITTED_CHUNKS, PEER_NAMES, TOLERANCES

BEGIN: Final = "<!-- ranker:begin -->"
END: Final = "<!-- ranker:end -->"
EXACT: Final = 5e-5


@attrs.define
class Found:
    """Everything measured for one model; parts that were not asked for are empty."""

    size: Size
    rates: Rates
    grid: Grid
    padded: Mapping[Key, tuple[Times, Times]] = attrs.field(factory=dict)
    second: Mapping[str, tuple[Times, Times]] = attrs.field(factory=dict)
    growth: Mapping[tuple[str, int], Times] = attrs.field(factory=dict)

    def rate(self, precision: str) -> float:
        """The best GFLOP/s of any library on these shapes: what is attainable."""
        return max(rate for kind, rate in self.rates.attainable.items() if kind.endswith(f" {precision}"))


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a markdown table."""
    lines = [f"| {' | '.join(headers)} |", f"|{'|'.join('---' for _ in headers)}|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 or value == 0 else f"{value:.1e}"


def milliseconds(times: Times | None) -> str:
    """Least and, in brackets, median; marked where extrapolated."""
    if times is None:
        return ""
    return f"{number(times.best * 1e3)} ({number(times.median * 1e3)}){' *' if times.extrapolated else ''}"


def rates_table(found: Sequence[Found]) -> list[str]:
    """GFLOP/s of products alone."""
    kinds = list(dict.fromkeys(kind for each in found for kind in each.rates.attainable))
    rows = []
    for each in found:
        rows.append([f"**{each.size.name}**, all", *(f"**{number(each.rates.attainable[kind])}**" for kind in kinds)])
        rows += [[name, *(number(shape[kind]) for kind in kinds)] for name, shape in each.rates.shapes.items()]
    return [
        "Products alone, GFLOP/s, in the shapes of scoring the most candidates. `all` weighs them as scoring does; its",
        "best figure of a precision is what the shares below are shares of.",
        "",
        *table(["product", *kinds], rows),
    ]


def times_table(found: Found) -> list[str]:
    """Milliseconds of every variant at every count of candidates."""
    size = found.size
    headers = ["", "products", *(f"{count:,} {kind}" for count in size.candidates for kind in ("cold", "warm"))]
    rows = []
    for key in found.grid.checks:
        cells = [found.grid.cells.get((key, count)) for count in size.candidates]
        if not any(cells):
            continue
        texts = [
            text
            for cell in cells
            for text in (("", "") if cell is None else (milliseconds(cell.cold), milliseconds(cell.warm)))
        ]
        rows.append([*key, *texts])
    return [
        f"Milliseconds at {size.name}, least (median); * extrapolated from the chunks done.",
        "",
        *table(headers, rows),
    ]


def rows_table(found: Found) -> list[str]:
    """Ratios, candidates per second and core, and share of the attainable rate, at the most candidates."""
    count = found.size.candidates[-1]
    chunks = found.grid.best(JITTED_CHUNKS, count)
    rows = []
    for key, check in found.grid.checks.items():
        cell = found.grid.cells.get((key, count))
        error = f"{check.mean:.1e} / {check.largest:.1e}"
        if cell is None:
            rows.append([*key, f"{error}, not timed", "", "", "", "", "", ""])
            continue
        ratio = "" if chunks is None else number(chunks / cell.cold.best)
        rows.append([*key, error, ratio, *_speeds(found, key[1], cell, count)])
    headers = [
        "",
        "products",
        "error, mean / largest",
        "x jitted chunks",
        "cand/s cold",
        "/core",
        "share",
        "cand/s warm",
        "share",
    ]
    intro = (
        f"{found.size.name}, {count:,} candidates: error of logits against the published forward in float32; the time "
        "of the published jitted chunks (their faster precision) over the cold time; candidates a second, and on each "
        "core; share of the attainable rate of products."
    )
    return [intro, "", *table(headers, rows)]


def _speeds(found: Found, precision: str, cell: Cell, count: int) -> list[str]:
    rate = found.rate(precision) * 1e9
    texts = [
        number(count / cell.cold.best),
        number(count / cell.cold.best / cores()),
        f"{cell.cold_flop / cell.cold.best / rate:.0%}",
    ]
    if cell.warm is None:
        return [*texts, "", ""]
    return [*texts, number(count / cell.warm.best), f"{cell.warm_flop / cell.warm.best / rate:.0%}"]


def viewers_tables(found: Sequence[Found]) -> list[str]:
    """Padded histories, second requests, and growth."""
    rows = [
        [each.size.name, *key, milliseconds(full), milliseconds(third), number(full.best / third.best)]
        for each in found
        for key, (full, third) in each.padded.items()
    ]
    headers = ["", "variant", "products", "full", "a third", "full / a third"]
    lines = (
        ["Cold requests for the most candidates with a full history and a third of one, ms:", "", *table(headers, rows)]
        if rows
        else []
    )
    rows = [
        [each.size.name, precision, milliseconds(first), milliseconds(second), number(first.best / second.best)]
        for each in found
        for precision, (first, second) in each.second.items()
    ]
    if rows:
        lines += ["First and second request of a viewer for 64 candidates each, `kv_cache`, ms:", ""]
        lines += table(["", "products", "first", "second", "first / second"], rows)
    new = sorted({events for each in found for _, events in each.growth} - {0})
    rows = [
        [each.size.name, precision, *(milliseconds(each.growth.get((precision, events))) for events in (0, *new))]
        for each in found
        for precision in dict.fromkeys(precision for precision, _ in each.growth)
    ]
    if rows:
        lines += ["Preparing a viewer whose history grew, `kv_cache`, ms:", ""]
        lines += table(["", "products", "anew", *(f"{events} new" for events in new)], rows)
    return lines


def load_table(loads: Sequence[Load], model: str) -> list[str]:
    """The batcher against one request after the other."""
    rows = [
        [
            f"{load.candidates:,}",
            "all at once" if load.offered is None else number(load.offered),
            load.way,
            number(load.answered),
            number(load.p50 * 1e3),
            number(load.p99 * 1e3),
            "" if load.kept is None else f"{load.kept:.1%}",
            f"{load.refused:.1%}",
            f"{load.expired:.1%}",
            f"{load.fill:.1f}",
        ]
        for load in loads
    ]
    headers = [
        "candidates",
        "offered/s",
        "served",
        "answered/s",
        "p50 ms",
        "p99 ms",
        "kept",
        "refused",
        "expired",
        "per call",
    ]
    intro = (
        f"Many viewers at once, {model}, prepared, `kv_cache` bfloat16; deadline {DEADLINE * 1e3:.0f} ms where "
        "requests arrive at random:"
    )
    return [intro, "", *table(headers, rows)]


@attrs.frozen
class Goal:
    """What was wanted, and what came out."""

    what: str
    wanted: str
    measured: str
    met: bool


def goals(found: Sequence[Found], loads: Sequence[Load]) -> list[Goal]:
    """The goals that this run has figures for."""
    by_name = {each.size.name: each for each in found}
    ends: list[Goal] = []

    def place(each: Found, *, warm: bool) -> str:
        return f"{each.size.name}, {each.size.candidates[-1]:,} {'warm' if warm else 'cold'}"

    for name, wanted, baseline in (
        ("256x2/127", 15.0, JITTED_CHUNKS),
        ("256x2/127", 100.0, EAGER_CHUNKS),
        ("256x2/1023", 80.0, JITTED_CHUNKS),
    ):
        if name in by_name:
            what = f"{name}, 1,500 cold: times faster than {baseline}"
            ends += _ratio(by_name[name], 1500, wanted, baseline, f"{what}, bfloat16", precisions=("bfloat16",))
            ends += _ratio(by_name[name], 1500, wanted, baseline, f"{what}, their faster precision")
    for each in found:
        count = each.size.candidates[-1]
        for peer in PEER_NAMES:
            for warm in (False, True):
                precisions = ("float32",) if peer == "onnxruntime" else ("bfloat16",)
                what = f"{place(each, warm=warm)}: times faster than {peer} {precisions[0]}"
                ends += _ratio(each, count, 1.0, peer, what, warm=warm, precisions=precisions)
        for other, wanted in (("float32", 1.3), ("bfloat16", 1.0)):
            for warm in (False, True):
                ours = each.grid.best("kv_cache", count, warm=warm, precisions=("int8",))
                theirs = each.grid.best("kv_cache", count, warm=warm, precisions=(other,))
                if ours and theirs:
                    what = f"{place(each, warm=warm)}: kv_cache int8 times faster than {other}"
                    ends.append(Goal(what, f"{wanted}", number(theirs / ours), theirs / ours >= wanted))
        for precision, (first, second) in each.second.items():
            if each.size.history > 1000:
                ratio = first.best / second.best
                what = f"{each.size.name}, 64: second request times faster than the first, {precision}"
                ends.append(Goal(what, "5", number(ratio), ratio >= 5))
    ends += _exactness(found)
    for load in loads:
        if load.way == "batcher" and load.offered is None:
            alone = max(
                other.answered
                for other in loads
                if other.candidates == load.candidates and other.offered is None and other.way != "batcher"
            )
            what = f"a burst for {load.candidates} candidates: batcher's requests/s over those of one by one"
            ends.append(Goal(what, "1", number(load.answered / alone), load.answered >= alone))
    return ends


def _ratio(
    found: Found,
    count: int,
    wanted: float,
    baseline: str,
    what: str,
    *,
    warm: bool = False,
    precisions: tuple[str, ...] = (),
) -> list[Goal]:
    """Our fastest precision over the baseline's fastest, unless it is to be one precision."""
    ours = found.grid.best("kv_cache", count, warm=warm)
    theirs = found.grid.best(baseline, count, warm=warm, precisions=precisions)
    if ours is None or theirs is None:
        return []
    return [Goal(what, number(wanted), number(theirs / ours), theirs / ours > wanted)]


def _exactness(found: Sequence[Found]) -> list[Goal]:
    """The worst of our variants, by model and precision."""
    ends = []
    for each in found:
        ours = [
            check
            for (name, _), check in each.grid.checks.items()
            if name in {"eager", "jit"} or name.startswith("kv_cache")
        ]
        for precision, (mean, largest) in TOLERANCES.items():
            some = [check for check in ours if check.precision == precision]
            if not some:
                continue
            what = f"{each.size.name}: error of our {precision} logits"
            worst = f"{max(check.mean for check in some):.1e}, {max(check.largest for check in some):.1e}"
            if precision == "float32":
                ends.append(Goal(what, f"{EXACT:g}", worst, all(check.largest <= EXACT for check in some)))
            else:
                wanted = f"mean {mean * some[0].slack:.2g}, largest {largest:g}"
                ends.append(Goal(what, wanted, worst, all(check.passed for check in some)))
    return ends


def goals_table(ends: Sequence[Goal]) -> list[str]:
    """Met or missed."""
    rows = [[goal.what, goal.wanted, goal.measured, "met" if goal.met else "**missed**"] for goal in ends]
    return ["Goals:", "", *table(["what", "goal", "measured", ""], rows)]


def write(lines: Sequence[str], path: Path) -> None:
    """Put lines between the marks of a file.

    Raises:
        SystemExit: if it has no marks.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path} has no lines {BEGIN} and {END} to write between")
    path.write_text("\n".join([before + BEGIN, "", *lines, END]) + after, encoding="utf-8")
