"""How fast and how exact the ranker's backends are, beside the published forward and other libraries.

`python benchmarks/ranker.py`. All variants of one size take turns in one process. Before anything is timed, its logits
are compared with those of the published forward in float32; what is too far off is not timed.
"""

from __future__ import annotations

import gc
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Final

import jax
import ranker_grid
import ranker_load
import ranker_rates
import ranker_report
import ranker_viewers
import typer
from ranker_models import QUICK, SEED, SIZES, Case, Size, case_of
from ranker_report import Found
from ranker_timing import Times
from ranker_variants import PEER_NAMES, PUBLISHED, REFERENCE, installed, variants_of

README: Final = Path(__file__).with_name("README.md")
PARTS: Final = ("padded", "second", "growth", "load")
PEERS: Final = {"torch": ("torch",), "onnxruntime": ("onnx", "onnxruntime")}
#: A quick run has one of each kind, and what costs much to compile only where `--only` names it.
QUICK_LABELS: Final = ("published jitted chunks of 32 float32", "kv_cache float32")


def chosen(only: str, *, quick: bool) -> Callable[[str], bool]:
    """Whether a variant's label is wanted; the references of the checks always are."""
    parts = [part.strip() for part in only.split(",") if part.strip()]

    def wanted(label: str) -> bool:
        if label == " ".join(REFERENCE) or (label == " ".join(PUBLISHED) and not quick):
            return True  # what the others are checked against
        if quick and not parts:
            return label in QUICK_LABELS
        return not parts or any(part in label for part in parts)

    return wanted


def measure(
    size: Size, wanted: Callable[[str], bool], parts: Iterable[str], seconds: float, say: Callable[[str], None]
) -> Found:
    """Everything about one model."""
    say(f"{size.name}: products alone")
    rates = ranker_rates.measure(size, seconds)
    say(f"{size.name}: making parameters and tables")
    case = case_of(size)
    variants = variants_of(case, wanted)
    found = Found(size, rates, ranker_grid.measure(case, variants, seconds, say))
    sound = [variant for variant in variants if found.grid.checks[variant.name, variant.precision].passed]
    # Anew, lest a disturbance at one time make the shares of another look larger.
    found.rates = ranker_rates.measure(size, seconds, rates)
    if "padded" in parts:
        say(f"{size.name}: padded histories")
        found.padded = ranker_viewers.padded(case, sound, seconds)
    if "second" in parts:
        say(f"{size.name}: second requests")
        found.second = ranker_viewers.second_request(case, sound, seconds)
    if "growth" in parts:
        say(f"{size.name}: growing histories")
        found.growth = ranker_viewers.growth(case, sound, seconds)
    return found


def free() -> None:
    """Let the next model have the memory of the last."""
    case_of.cache_clear()
    gc.unfreeze()
    gc.collect()
    jax.clear_caches()  # type: ignore[no-untyped-call]  # jax annotates no result


def heading(before: str, started: float) -> list[str]:
    """What the figures depend on."""
    settings = {
        **ranker_rates.configuration(),
        "seed": str(SEED),
        "load average before": before,
        "after": ranker_rates.load_average(),
        "minutes": f"{(time.monotonic() - started) / 60:.1f}",
    }
    missing = [name for name, packages in PEERS.items() if not installed(*packages)]
    lines = [", ".join(f"{name} {value}" for name, value in settings.items()) + "."]
    if missing:
        lines.append(f"Not installed, so without rows: {', '.join(missing)} (dependency group `peers`).")
    return [*lines, ""]


def sizes_line(found: list[Found]) -> list[str]:
    """The models, in words."""
    texts = [
        f"{each.size.name} ({each.size.layers} layers of {each.size.emb}, {each.size.heads[0]} query and "
        f"{each.size.heads[1]} key/value heads of {each.size.key}, {each.size.history:,} events, "
        f"{each.size.item_rows:,} item rows)"
        for each in found
    ]
    return [f"Models: {'; '.join(texts)}.", ""]


def as_json(found: list[Found]) -> dict[str, Any]:
    """Every time that was taken, in seconds."""

    def times(value: Times | None) -> list[float]:
        return [] if value is None else value.seconds

    return {
        each.size.name: {
            f"{name} {precision} {count}": {"cold": times(cell.cold), "warm": times(cell.warm)}
            for ((name, precision), count), cell in each.grid.cells.items()
        }
        for each in found
    }


def main(
    quick: Annotated[bool, typer.Option(help="A tiny model and few variants: to see that it runs.")] = False,
    sizes: Annotated[str, typer.Option(help="Which models, separated by commas.")] = ",".join(SIZES),
    only: Annotated[str, typer.Option(help="Variants whose label has one of these parts, separated by commas.")] = "",
    parts: Annotated[
        str, typer.Option(help="What to measure besides the grid of times; load is that of the first model.")
    ] = ",".join(PARTS),
    seconds: Annotated[float, typer.Option(min=0.001, help="Seconds given to each thing timed.")] = 0.3,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every single time to this file.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the tables into benchmarks/README.md.")] = False,
) -> None:
    """Measure the ranker's backends."""
    logging.getLogger().setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    unknown = sorted(set(sizes.split(",")) - set(SIZES)) + sorted(set(parts.split(",")) - set(PARTS))
    if unknown:
        raise typer.BadParameter(
            f"there is no {', '.join(unknown)}; sizes are {', '.join(SIZES)}, parts {', '.join(PARTS)}"
        )
    started, before = time.monotonic(), ranker_rates.load_average()
    seconds = 0.01 if quick else seconds
    models = [QUICK] if quick else [SIZES[name] for name in sizes.split(",")]
    found: list[Found] = []
    loads: list[ranker_load.Load] = []

    def say(text: str) -> None:
        typer.echo(f"[{time.monotonic() - started:6.1f} s] {text}", err=True)

    for size in models:
        found.append(measure(size, chosen(only, quick=quick), parts.split(","), seconds, say))
        if "load" in parts.split(",") and size is models[0]:
            say(f"{size.name}: many requests at once")
            loads = measure_load(case_of(size), quick=quick)
        lines = ranker_report.times_table(found[-1]) + ranker_report.rows_table(found[-1])
        typer.echo("\n".join(lines), err=True)  # at hand should a long run be cut off
        if size is not models[-1]:
            free()
    lines = heading(before, started) + sizes_line(found)
    lines += ranker_report.goals_table(ranker_report.goals(found, loads)) + ranker_report.rates_table(found)
    for each in found:
        lines += ranker_report.times_table(each) + ranker_report.rows_table(each)
    lines += ranker_report.viewers_tables(found)
    if loads:
        lines += ranker_report.load_table(loads, models[0].name)
    typer.echo("\n".join(lines))
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(found)), encoding="utf-8")
    if write:
        ranker_report.write(lines, README)
    wrong = [
        f"{each.size.name} {' '.join(key)}"
        for each in found
        for key, check in each.grid.checks.items()
        if not check.passed and key[0] not in PEER_NAMES  # what others lose is theirs
    ]
    if wrong:
        raise SystemExit(f"too far from the published forward: {', '.join(wrong)}")


def measure_load(case: Case, *, quick: bool) -> list[ranker_load.Load]:
    """Of many requests at once."""
    if quick:
        return ranker_load.measure(case, loads=((8, (1, 2)),), burst=20, seconds=0.05, viewers=2)
    return ranker_load.measure(case)


if __name__ == "__main__":
    typer.run(main)
