"""All claims about stakeholders, re-done: `python benchmarks/stakeholders.py --movielens DIR --trained DIR --write`.

Each claim is an experiment in examples/stakeholders, which can be run on its own; this runs all of them, one after the
other, and makes one table: the claim, the published figure, ours with its interval, the control, and the verdict.
What is done is kept in a folder (`--keep`), so that an interrupted run goes on where it stopped; other settings, or
other code, begin anew.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Final

import attrs
import typer
from rich.console import Console

# The fits are small and many: threads of one product wait for each other longer than they compute. Read on import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

ROOT: Final = Path(__file__).resolve().parents[1]
EXPERIMENTS: Final = ROOT / "examples" / "stakeholders"
RESULTS: Final = EXPERIMENTS / "RESULTS.md"
sys.path.insert(0, str(EXPERIMENTS))

from claims import Result, Row, Settings, machine, print_result, run  # noqa: E402 - found by the line above

NAMES: Final = (
    "claim_labels",
    "claim_recovery",
    "claim_stress",
    "claim_regret",
    "claim_hidden_pairs",
    "claim_sensitivity",
    "claim_ndcg",
    "claim_parameters",
    "claim_goodhart",
    "research_movielens",
)
"""The experiments, in the order of the claims."""
VERDICTS: Final = ("holds", "holds in part", "does not hold", "artefact", "not run")


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Run these only: {', '.join(NAMES)}.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds; default: each experiment's own.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small versions, to see that they work.")] = False,
    movielens: Annotated[
        Path | None, typer.Option(help="Folder of MovieLens-100K as GroupLens ships it (u.data, u.item).")
    ] = None,
    trained: Annotated[
        Path | None, typer.Option(help="Data directory of MovieLens-100K with trained models, to rank the same lists.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write examples/stakeholders/RESULTS.md.")] = False,
    output: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Keep what is done in this folder, and go on from there.")] = None,
) -> None:
    """Run the experiments and print their tables."""
    unknown = sorted(set(only or ()) - set(NAMES))
    if unknown:
        raise typer.BadParameter(f"there is no {', '.join(unknown)}; there are {', '.join(NAMES)}", param_hint="--only")
    if write and (quick or only or seeds):
        raise typer.BadParameter("the published table is that of a whole run, without --quick, --only and --seeds")
    settings = Settings(seeds, quick, movielens, trained)
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=150)
    load_before = os.getloadavg()
    results = []
    for name in only or NAMES:
        result = _kept(name, settings, keep)
        print_result(console, result)
        results.append(result)
    total = sum(result.seconds for result in results)
    about = {
        **machine(),
        "cores": str(os.cpu_count()),
        "load before": " ".join(f"{value:.2f}" for value in load_before[:2]),
        "minutes": f"{total / 60:.1f}",
    }
    console.print(", ".join(f"{key} {value}" for key, value in about.items()), markup=False, soft_wrap=True)
    if output is not None:
        figures = {"about": about, "results": [result.as_dict() for result in results]}
        output.write_text(json.dumps(figures, indent=1, default=str) + "\n", encoding="utf-8")
    if write:
        RESULTS.write_text(markdown(results, about), encoding="utf-8")
        console.print(f"wrote {RESULTS.relative_to(ROOT)}")


def _kept(name: str, settings: Settings, keep: Path | None) -> Result:
    """An experiment's result: the kept one, if it was made with the same settings and code."""
    if keep is None:
        return _run(name, settings)
    keep.mkdir(parents=True, exist_ok=True)
    file = keep / f"{name}-{_fingerprint(settings)}.json"
    if file.exists():
        return _read(json.loads(file.read_text(encoding="utf-8")))
    result = _run(name, settings)
    made = file.with_suffix(".part")
    made.write_text(json.dumps(result.as_dict(), default=str) + "\n", encoding="utf-8")
    made.replace(file)
    return result


def _run(name: str, settings: Settings) -> Result:
    """An experiment under its module's name, which is how it is started alone."""
    return attrs.evolve(run(importlib.import_module(name).experiment, settings), name=name)


def _fingerprint(settings: Settings) -> str:
    """A digest of the settings and of all code that an experiment may run."""
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=8)
    for folder in (EXPERIMENTS, ROOT / "plugins" / "stakeholder" / "src"):
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _read(found: dict[str, Any]) -> Result:
    return Result(**{**found, "rows": [Row(**row) for row in found["rows"]]})


def markdown(results: list[Result], about: dict[str, str]) -> str:
    """The page of results."""
    rows = [row for result in results for row in result.rows]
    lines = [
        "# What holds",
        "",
        "Claims about multi-stakeholder reward models that the public repository kar-ganap/x-algorithm-enhancements",
        "and its preprint on a directional Goodhart condition made in 2026 (theirs), re-done on this implementation",
        "(ours). Written by `python benchmarks/stakeholders.py --movielens DIR --trained DIR --write` in one run; each",
        "experiment is one command of its own. Brackets hold 95 % intervals, over seeds unless a line says otherwise.",
        "",
        ", ".join(f"{key} {value}" for key, value in about.items()) + ".",
        "",
        _verdicts(rows),
        "",
        "| | claim | theirs | ours | control | verdict |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        _line((number, row.claim, row.theirs, row.ours, row.control, f"**{row.verdict}**"))
        for number, row in enumerate(rows, start=1)
    ]
    lines += ["", "To read them by:", ""]
    lines += [f"* {number}: {row.note.rstrip('.')}." for number, row in enumerate(rows, start=1) if row.note]
    for result in results:
        told = ", ".join(f"{key} {value}" for key, value in result.config.items())
        command = f"python examples/stakeholders/{result.name}.py"
        lines += ["", f"## {result.name}", "", f"`{command}`: {told}; {result.seconds:.0f} s.", ""]
        for title, headings, cells in result.tables:
            lines += [f"**{title}**", "", _line(headings), "|" + "---|" * len(headings)]
            lines += [_line(row) for row in cells]
            lines.append("")
        while lines[-1] == "":
            lines.pop()
    return "\n".join(lines) + "\n"


def _verdicts(rows: list[Row]) -> str:
    """How many lines have which verdict, in words."""
    counts = Counter(row.verdict for row in rows)
    return (
        f"Verdicts of {len(rows)} lines: "
        + ", ".join(f"{name} {counts[name]}" for name in VERDICTS if counts[name])
        + "."
    )


def _line(cells: Any) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    typer.run(main)
