"""How fast preferences are learned, and how exactly: `python benchmarks/stakeholder_fit.py`.

Everyone is given the same pairs of 18 actions, and minimises the same plain Bradley–Terry loss without any penalty:
ours, with and without what it finds out besides (standard errors, identifiability, and the proof that there is an
optimum); scikit-learn's logistic regression, where it is installed, without intercept; and Adam over shuffled batches
of 64 for 50 epochs, which is how published experiments with such pairs fitted them. The largest entry of the gradient
at the end is computed for all by the same lines here. They take turns in one process.

A second table has what else we fit to the same pairs: other losses, ties, raters, and a bootstrap.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import attrs
import numpy as np
import scipy
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import Progress
from scipy.special import expit

from candidate_pipeline_stakeholder.fitting import fit, fit_differences
from candidate_pipeline_stakeholder.losses import NEGATIVE, POSITIVE, Calibrated, Constrained, Loss, Margin
from candidate_pipeline_stakeholder.pairs import Pairs
from candidate_pipeline_stakeholder.raters import fit_raters
from candidate_pipeline_stakeholder.ties import fit_ties
from candidate_pipeline_stakeholder.uncertainty import bootstrap

README: Final = Path(__file__).resolve().parent / "README.md"
BEGIN: Final = "<!-- stakeholder-fit:begin -->"
END: Final = "<!-- stakeholder-fit:end -->"
SIZES: Final = (1_000, 10_000, 100_000)
GOAL_SECONDS: Final = 1.0
GOAL_GRADIENT: Final = 1e-8
NEUTRAL: Final = tuple(f"neutral_{place}" for place in range(9))
FEATURES: Final = (*POSITIVE, *NEGATIVE, *NEUTRAL)
RATERS: Final = 50
EPOCHS: Final = 50
BATCH: Final = 64

Floats: TypeAlias = NDArray[np.float64]

console = Console()


def preferences(count: int, seed: int, *, ties: float = 0.0) -> Pairs:
    """Pairs among 2,000 items of 18 action probabilities, judged with Bradley–Terry's noise (Davidson's with ties).

    Probabilities are uniform in .05 to .3 with a common factor of each item and group, so that actions of a group go
    together; utilities are +4 on the positive actions and -4 on the negative ones. Of 50 raters, a tenth toss a coin.
    """
    rng = np.random.default_rng(seed)
    items = rng.uniform(0.05, 0.3, (2000, len(FEATURES)))
    groups = np.repeat([0, 1, 2], [len(POSITIVE), len(NEGATIVE), len(NEUTRAL)])
    items = np.clip(items * rng.uniform(0.5, 2.0, (2000, 3))[:, groups], 0, 1)
    weights = np.repeat([4.0, -4.0, 0.0], [len(POSITIVE), len(NEGATIVE), len(NEUTRAL)])
    left = rng.integers(0, 2000, count)
    right = (left + rng.integers(1, 2000, count)) % 2000
    half = (items[left] - items[right]) @ weights / 2
    parts = np.exp(np.stack([half, -half], axis=1))
    total = parts.sum(axis=1) + ties
    drawn = rng.random(count) * total
    outcome = np.where(drawn < parts[:, 0], 1, np.where(drawn < parts.sum(axis=1), -1, 0))
    rater = rng.integers(0, RATERS, count)
    coin = np.where(rng.random(count) < 0.5, 1, -1)
    outcome = np.where((rater % 10 == 0) & (outcome != 0), coin, outcome)
    return Pairs.of(FEATURES, items[left], items[right], outcome, rater=[f"r{each}" for each in rater])


def largest_gradient(weights: Floats, differences: Floats) -> float:
    """The largest entry of the gradient of the mean of log(1 + e^-Δ)."""
    return float(np.abs(expit(-(differences @ weights)) @ differences / len(differences)).max())


def adam(differences: Floats) -> Floats:
    """Adam (Kingma and Ba, 2015) at .01 over shuffled batches of 64, 50 epochs, from zero."""
    rng = np.random.default_rng(42)
    weights, first, second = np.zeros((3, differences.shape[1]))
    step = 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(differences))
        for start in range(0, len(order), BATCH):
            batch = differences[order[start : start + BATCH]]
            gradient = -(expit(-(batch @ weights)) @ batch) / len(batch)
            step += 1
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            weights = weights - 0.01 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return weights


def scikit(solver: str, tolerance: float) -> Callable[[Floats], Floats]:
    """scikit-learn's logistic regression on differences, every other row turned round to have both classes."""
    model: Any = importlib.import_module("sklearn.linear_model").LogisticRegression

    def run(differences: Floats) -> Floats:
        sign = np.where(np.arange(len(differences)) % 2, -1.0, 1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a line search ended early shows in the gradient
            found = model(C=np.inf, fit_intercept=False, solver=solver, tol=tolerance, max_iter=10_000)
            found.fit(differences * sign[:, None], sign)
        return np.asarray(found.coef_[0], np.float64)

    return run


@attrs.frozen
class Times:
    """Seconds of several runs.

    Args:
        all: Each run's.
    """

    all: tuple[float, ...]

    @property
    def best(self) -> float:
        """The least."""
        return min(self.all)

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.all)


@attrs.frozen
class Row:
    """One way to fit one number of pairs.

    Args:
        way: What was run.
        pairs: How many pairs.
        times: How long.
        gradient: The largest entry of the gradient where it ended; `None` where there is no such number.
        note: What else to know.
    """

    way: str
    pairs: int
    times: Times
    gradient: float | None
    note: str = ""


def ways(pairs: Pairs) -> dict[str, Callable[[], Floats]]:
    """All that minimise the plain loss on these pairs."""
    differences = pairs.differences()
    found: dict[str, Callable[[], Floats]] = {
        "ours, from the table, with everything": lambda: fit(pairs).weights,
        "ours, from differences, weights only": lambda: fit_differences(differences, errors="none").weights,
    }
    if importlib.util.find_spec("sklearn") is not None:
        for solver in ("lbfgs", "newton-cholesky"):
            for tolerance in (1e-4, 1e-10):
                run = scikit(solver, tolerance)
                found[f"scikit-learn, {solver}, tol={tolerance:g}"] = lambda run=run: run(differences)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    found[f"Adam, {EPOCHS} epochs"] = lambda: adam(differences)
    return found


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    gc.collect()
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def compared(pairs: Pairs, repeats: int) -> list[Row]:
    """Everyone in turn, `repeats` times after one run that does not count; Adam, which takes long, once."""
    differences = pairs.differences()
    everyone = ways(pairs)
    seconds: dict[str, list[float]] = {name: [] for name in everyone}
    ended: dict[str, Floats] = {}
    for turn in range(repeats + 1):
        for name, work in everyone.items():
            if name.startswith("Adam") and turn > 0:
                continue
            took, ended[name] = timed(work)
            if turn > 0 or name.startswith("Adam"):
                seconds[name].append(took)
    return [
        Row(name, len(pairs), Times(tuple(seconds[name])), largest_gradient(ended[name], differences))
        for name in everyone
    ]


def others(pairs: Pairs, tied: Pairs, repeats: int, draws: int) -> list[Row]:
    """What else we fit to as many pairs."""
    losses: list[Loss] = [Margin(0.5), Constrained(5), Constrained(5, penalty="spread"), Calibrated(1)]
    works: dict[str, Callable[[], Any]] = {loss.name: lambda loss=loss: fit(pairs, loss=loss) for loss in losses}  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    works["ties (Davidson)"] = lambda: fit_ties(tied)
    works[f"{RATERS} raters (Crowd-BT)"] = lambda: fit_raters(pairs)
    works[f"bootstrap, {draws} draws"] = lambda: bootstrap(pairs, draws=draws)
    rows = []
    for name, work in works.items():
        runs = [timed(work) for _ in range(repeats + 1)][1:]
        last = runs[-1][1]
        gradient = getattr(last, "gradient_norm", None)
        converged = getattr(last, "converged", True)
        note = "" if converged else "not converged"
        rows.append(Row(name, len(pairs), Times(tuple(took for took, _ in runs)), gradient, note))
    return rows


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else f"{value:.1e}"


def report(main: list[list[Row]], more: list[Row], header: str) -> str:
    """Markdown: both tables, and the goal."""
    lines = [
        header,
        "",
        "| pairs | what | ms, least (median) | times ours | largest gradient |",
        "|---|---|---|---|---|",
    ]
    for rows in main:
        ours = rows[0].times.best
        for row in rows:
            times = f"{number(row.times.best * 1e3)} ({number(row.times.median * 1e3)})"
            gradient = "" if row.gradient is None else f"{row.gradient:.1e}"
            ratio = number(row.times.best / ours)
            lines.append(f"| {row.pairs:,} | {row.way} | {times} | {ratio} | {gradient} |")
    plain = main[-1][0]
    lines += ["", f"Other fits of {more[0].pairs:,} pairs, in times of the plain one with everything:", ""]
    lines += ["| what | ms, least (median) | times the plain fit | largest gradient |", "|---|---|---|---|"]
    for row in more:
        times = f"{number(row.times.best * 1e3)} ({number(row.times.median * 1e3)})"
        gradient = "" if row.gradient is None else f"{row.gradient:.1e}{', ' + row.note if row.note else ''}"
        lines.append(f"| {row.way} | {times} | {number(row.times.best / plain.times.best)} | {gradient} |")
    fast = plain.times.median < GOAL_SECONDS and (plain.gradient or 0.0) <= GOAL_GRADIENT
    lines += [
        "",
        f"{'met' if fast else 'MISSED'}: {plain.pairs:,} pairs of {len(FEATURES)} actions to a gradient "
        f"of {plain.gradient:.1e} (goal {GOAL_GRADIENT:g}) in {plain.times.median:.3g} s at the median "
        f"(goal {GOAL_SECONDS:g}).",
    ]
    return "\n".join(lines)


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 7,
    draws: Annotated[int, typer.Option(min=1, help="Draws of the bootstrap.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the pairs.")] = 0,
    quick: Annotated[bool, typer.Option(help="A tenth of the pairs, few runs.")] = False,
    write: Annotated[bool, typer.Option(help="Put the tables into README.md beside this file.")] = False,
    output: Annotated[Path | None, typer.Option("--json", help="Write every time to a file as well.")] = None,
) -> None:
    """Print configuration, times, ratios and the gradients reached."""
    sizes = tuple(size // 10 for size in SIZES) if quick else SIZES
    repeats, draws = (2, 20) if quick else (repeats, draws)
    rows: list[list[Row]] = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("fitting", total=len(sizes) + 1)
        for size in sizes:
            rows.append(compared(preferences(size, seed), repeats))
            progress.advance(task)
        more = others(preferences(sizes[-1], seed), preferences(sizes[-1], seed, ties=0.5), min(repeats, 3), draws)
    peers = [f"numpy {np.__version__}", f"scipy {scipy.__version__}"]
    if importlib.util.find_spec("sklearn") is not None:
        peers.append(f"scikit-learn {importlib.import_module('sklearn').__version__}")
    else:
        peers.append("scikit-learn not installed")
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "not set")
    header = (
        f"{os.cpu_count()} CPUs ({platform.machine()}), Python {platform.python_version()}, {', '.join(peers)}; "
        f"OPENBLAS_NUM_THREADS: {threads}; {repeats} runs of each in turn (Adam once), seed {seed}."
    )
    text = report(rows, more, header)
    console.print(Markdown(text))
    if output is not None:
        told = [attrs.asdict(row) for row in [*(row for part in rows for row in part), *more]]
        output.write_text(json.dumps({"header": header, "rows": told}, indent=2) + "\n", encoding="utf-8")
    if write:
        page = README.read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        README.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
