"""What the experiments share: the settings they take, the rows they report, and the command that runs one of them."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol

import attrs
import numpy as np
import typer
from numpy.typing import ArrayLike
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from candidate_pipeline.errors import CandidatePipelineError

Verdict = Literal["holds", "holds in part", "does not hold", "artefact", "not run"]

WIDTH: Final = 150
"""Columns of the tables where standard output is no terminal."""
DRAWS: Final = 4000
LEVEL: Final = 0.95


@attrs.frozen
class Settings:
    """What an experiment is run with.

    Args:
        seeds: How many seeds; `None`: as many as the experiment says.
        quick: A small version, to see that it works; its figures are not to be quoted.
        movielens: The folder of MovieLens-100K as GroupLens ships it (`u.data`, `u.item`), where there is one.
        trained: A data directory of MovieLens-100K with models that `candidate-pipeline phoenix train` made.
    """

    seeds: int | None = None
    quick: bool = False
    movielens: Path | None = None
    trained: Path | None = None

    def count(self, full: int, quick: int) -> int:
        """How many seeds to run: what was asked for, else the experiment's own number."""
        return self.seeds if self.seeds is not None else quick if self.quick else full


@attrs.frozen
class Estimate:
    """A mean over seeds with its interval.

    Args:
        mean: The mean.
        low: Lower end of the percentile bootstrap over seeds, at 95 %.
        high: Upper end.
        worst: The smallest value.
        count: How many seeds.
    """

    mean: float
    low: float
    high: float
    worst: float
    count: int

    @classmethod
    def of(cls, values: ArrayLike, seed: int = 0) -> Estimate:
        """The mean of one value a seed, with a percentile bootstrap over seeds (Efron and Tibshirani, 1993)."""
        found = np.asarray(values, np.float64).ravel()
        if not len(found) or not np.isfinite(found).all():
            raise ValueError(f"wanted at least one finite value, found {found}")
        rng = np.random.default_rng([seed, len(found)])
        means = found[rng.integers(0, len(found), (DRAWS, len(found)))].mean(axis=1)
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return cls(float(found.mean()), float(low), float(high), float(found.min()), len(found))

    def __str__(self) -> str:
        return f"{_short(self.mean)} [{_short(self.low)}, {_short(self.high)}]"


def _short(number: float) -> str:
    """Three decimals without a leading zero: `.956`, `-.031`, `12.3`."""
    text = f"{number:.3f}" if abs(number) < 10 else f"{number:.4g}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


@attrs.frozen
class Row:
    """One line of the table of claims.

    Args:
        claim: What was claimed, in a few words.
        theirs: The figure that was published, or that their code gives.
        ours: What this implementation gives, with its interval.
        control: What the same measure gives where the claimed cause is absent.
        verdict: What is left of the claim.
        note: What one must know to read the line.
    """

    claim: str
    theirs: str
    ours: str
    control: str
    verdict: Verdict
    note: str = ""


@attrs.frozen
class Result:
    """What one experiment found.

    Args:
        name: The experiment.
        config: What it was run with: sizes, seeds, constants.
        rows: The lines for the table of claims.
        tables: Further figures: a title, headings and rows of texts.
        figures: The numbers behind the texts, plain data.
        seconds: How long it took.
    """

    name: str
    config: Mapping[str, Any]
    rows: Sequence[Row]
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = ()
    figures: Mapping[str, Any] = attrs.field(factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return attrs.asdict(self)


class Track(Protocol):
    """Wraps a loop so that its progress shows."""

    def __call__(self, what: str, items: Iterable[Any], total: int | None = None) -> Iterable[Any]:
        """Go through items, showing how far."""


Experiment = Callable[[Settings, Track], Result]


def silent(what: str, items: Iterable[Any], total: int | None = None) -> Iterable[Any]:
    """A `Track` that shows nothing, for tests."""
    return items


def run(experiment: Experiment, settings: Settings) -> Result:
    """Run one experiment with a progress bar on standard error, and time it."""
    began = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        def track(what: str, items: Iterable[Any], total: int | None = None) -> Iterable[Any]:
            return progress.track(items, total=total, description=what)

        result = experiment(settings, track)
    return attrs.evolve(result, seconds=time.perf_counter() - began)


def print_result(console: Console, result: Result) -> None:
    """The configuration, the table of claims and the further tables."""
    told = ", ".join(f"{key} {value}" for key, value in result.config.items())
    console.print(f"{result.name}: {told}; {result.seconds:.1f} s", markup=False, soft_wrap=True)
    table = Table("claim", "theirs", "ours", "control", "verdict", "note", show_lines=True)
    for row in result.rows:
        table.add_row(row.claim, row.theirs, row.ours, row.control, row.verdict, row.note)
    console.print(table)
    for title, headings, rows in result.tables:
        further = Table(*headings, title=title, title_justify="left")
        for cells in rows:
            further.add_row(*cells)
        console.print(further)


def main(experiment: Experiment) -> None:
    """The command line of one experiment; its module's docstring is the help."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=experiment.__doc__)(_command(experiment))
    app()


def _command(experiment: Experiment) -> Callable[..., None]:
    def command(
        seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds; default: as published.")] = None,
        quick: Annotated[bool, typer.Option("--quick", help="A small version, to see that it works.")] = False,
        movielens: Annotated[
            Path | None, typer.Option(help="Folder of MovieLens-100K as GroupLens ships it (u.data, u.item).")
        ] = None,
        trained: Annotated[
            Path | None, typer.Option(help="Data directory of MovieLens-100K with trained models.")
        ] = None,
        output: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    ) -> None:
        try:
            result = run(experiment, Settings(seeds, quick, movielens, trained))
        except CandidatePipelineError as error:
            Console(stderr=True).print(str(error), markup=False, soft_wrap=True)
            raise typer.Exit(2) from None
        console = Console(highlight=False)
        print_result(console if console.is_terminal else Console(highlight=False, width=WIDTH), result)
        if output is not None:
            written = {"machine": machine(), **result.as_dict()}
            output.write_text(json.dumps(written, indent=1, default=str) + "\n", encoding="utf-8")

    return command


def machine() -> dict[str, str]:
    """What the figures were made with, without names of people or places."""
    import scipy

    return {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
