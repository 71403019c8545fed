"""What checking a spec takes: `python benchmarks/check.py`.

Three specs are checked as `candidate-pipeline check` does it: read, merged, resolved, converted, built, compiled and
looked through for warnings. Beside it the same text is only parsed, by `tomllib` and by `tomlkit`. What happens once a
process is timed apart: importing the plugins' classes, and the first check, which imports what the classes import when
they are built and resolves their annotations.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tomlkit
import typer
from rich.console import Console
from rich.table import Table

from candidate_pipeline import SpecError
from candidate_pipeline.build import build
from candidate_pipeline.lints import lint
from candidate_pipeline.registry import installed
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.loader import load_spec

ROOT: Final = Path(__file__).resolve().parents[1]
LINES: Final = 300
#: What is wrong in the spec with mistakes: text that stands in the sound one, and what replaces it.
MISTAKES: Final = (
    ("result_size = 35", "result_sise = 35"),
    ('deadline = "30s"', 'deadline = "30 s"'),
    ('inputs = { viewer = "feed.viewer_id" }', 'inputs = { viewer = "feed.viewer" }'),
    ('"feed.history"', '"feed.histroy"'),
    ('"feed.in_network"', '"feed.in_netwrok"'),
    ('"feed.core_data"', '"feed.weighted"'),
    ('"feed.text", ', '"feed.txt", '),
    ("max_results = 1200", 'max_results = "1200"'),
    ("max_results = 1000", "max_results = 0"),
    ('on_error = "skip"', 'on_errror = "skip"'),
    ('max_age = "48h"', 'max_age = "48"'),
    ('preset = "2026-08-12"', "preset = 2026"),
    ("decay = 0.5", "decay = 1.5"),
    ("floor = 0.25", 'floor = "low"'),
    ("factor = 0.75", "factor = 0"),
    ("size = 50", "size = true"),
    ('use = "thunder.store"', 'use = "thunder.stroe"'),
    ('precision = "float32"', 'precision = "float23"'),
    ("[resources.index]", '[resources."Index"]'),
    ('selector = "top"', 'selector = "topp"'),
)

#: The wall's clock, or the processor's time of the thread, which other processes do not add to.
CLOCKS: Final = {"wall": time.perf_counter_ns, "cpu": time.thread_time_ns}

console = Console()


def long_spec(lines: int) -> str:
    """The shipped pipelines, and variants of their pipeline and components until there are so many lines."""
    text = (ROOT / "pipelines.toml").read_text(encoding="utf-8")
    start = text.index("[pipelines.for_you]")
    pipeline = text[start : text.index("[components.thunder]")]
    parts = [text]
    number = 0
    while True:
        number += 1
        part = pipeline.replace("for_you", f"variant_{number}").replace('"age"', f'"age_{number}"')
        part = part.replace('"diversity"', f'"diversity_{number}"').rstrip() + "\n\n"
        part += f'[components.age_{number}]\nuse = "feed.age"\nmax_age = "{number + 1}h"\n\n'
        part += f'[components.diversity_{number}]\nuse = "feed.author_diversity"\ndecay = 0.{number}\n\n'
        if sum(each.count("\n") for each in (*parts, part)) > lines:
            break
        parts.append(part)
    whole = "".join(parts)
    return whole + "# The end.\n" * (lines - whole.count("\n"))


def checked(text: str) -> int:
    """Check a spec; how many problems and warnings it has."""
    spec = load_spec(Document(text, "pipelines.toml", ROOT), installed())
    try:
        return len(lint(spec, build(spec).plans))
    except SpecError as error:
        return len(error.problems)


def median_ms(work: Callable[[], Any], repeats: int, clock: Callable[[], int]) -> float:
    """The median time of some work in milliseconds, after one run that is not counted."""
    work()
    gc.collect()
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        times.append((clock() - start) / 1e6)
    return statistics.median(times)


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 50,
    clock: Annotated[Literal["wall", "cpu"], typer.Option(help="What a time is; cpu on a shared machine.")] = "wall",
    output: Annotated[Path | None, typer.Option("--json", help="Write the figures to a file as well.")] = None,
) -> None:
    """Print configuration, times and their ratios to bare parsing."""
    now = CLOCKS[clock]
    shipped = (ROOT / "pipelines.toml").read_text(encoding="utf-8")
    start = now()
    for ref in installed().components():
        ref.load()
    imported = now()
    checked(shipped)
    once = {"imports_ms": (imported - start) / 1e6, "first_check_ms": (now() - imported) / 1e6}
    sound = long_spec(LINES)
    wrong = sound
    for old, new in MISTAKES:
        if old not in wrong:
            raise typer.BadParameter(f"the shipped pipelines no longer hold {old!r}")
        wrong = wrong.replace(old, new, 1)
    texts = {
        "pipelines.toml": shipped,
        f"{LINES} lines": sound,
        f"{LINES} lines, {len(MISTAKES)} mistakes": wrong,
    }
    console.print(
        f"{os.cpu_count()} CPUs ({platform.machine()}), Python {platform.python_version()}, --clock {clock}, "
        f"medians of {repeats}. Once a process: importing the classes of {len(installed().components())} components "
        f"{once['imports_ms']:.0f} ms, the first check (of pipelines.toml) {once['first_check_ms']:.0f} ms"
    )
    table = Table("spec", "lines", "found", "check ms", "tomllib ms", "tomlkit ms", "check/tomllib", "check/tomlkit")
    figures = []
    for name, text in texts.items():
        found = checked(text)
        times = [
            median_ms(work, repeats, now)
            for work in (lambda: checked(text), lambda: tomllib.loads(text), lambda: tomlkit.parse(text))  # noqa: B023 - called at once
        ]
        figures.append({"spec": name, "lines": text.count("\n"), "found": found, "ms": times})
        table.add_row(
            name,
            str(text.count("\n")),
            str(found),
            *(f"{each:.3g}" for each in times),
            *(f"{times[0] / each:.2f}" for each in times[1:]),
        )
    console.print(table)
    if output is not None:
        output.write_text(json.dumps({"clock": clock, **once, "specs": figures}, indent=2) + "\n", encoding="utf-8")
    if "jax" in sys.modules:
        console.print("checking imported JAX, which it should not")


if __name__ == "__main__":
    typer.run(main)
