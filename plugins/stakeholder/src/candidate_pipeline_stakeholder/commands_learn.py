"""The command `candidate-pipeline stakeholder learn`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from candidate_pipeline.cli.setup import print_json, quiet_logs
from candidate_pipeline.errors import DataError, RequestError
from candidate_pipeline_stakeholder.moments import Moments
from candidate_pipeline_stakeholder.pairs import Pairs
from candidate_pipeline_stakeholder.terminal import Format, check_free, output_console, read_pool, writing
from candidate_pipeline_stakeholder.utilities import NEGATIVE_ACTIONS, POSITIVE, Utilities

if TYPE_CHECKING:
    from candidate_pipeline_stakeholder.fitting import Fit
    from candidate_pipeline_stakeholder.losses import Loss
    from candidate_pipeline_stakeholder.raters import RatersFit
    from candidate_pipeline_stakeholder.ties import TiesFit

    Learned: TypeAlias = Fit | TiesFit | RatersFit

ENOUGH_RATERS: Final = 20
"""With fewer raters, drawing raters says little, and pairs are drawn instead."""
ENOUGH_DRAWS: Final = 20
ENOUGH_PAIRS: Final = 20
"""Fewer pairs drawn again are too much alike for an interval; one pair would have none at all."""


class LossChoice(StrEnum):
    """What is minimised."""

    bradley_terry = "bradley-terry"
    margin = "margin"
    calibrated = "calibrated"
    constrained = "constrained"


class Penalty(StrEnum):
    """What the constrained loss punishes."""

    negatives = "negatives"
    spread = "spread"


class Ties(StrEnum):
    """What becomes of pairs that are ties."""

    model = "model"
    leave_out = "leave-out"


def learn(
    sources: Annotated[
        list[Path], typer.Argument(metavar="PAIRS", help="Tables of pairs over the same features, Parquet.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The utilities file to write, TOML.")] = Path("stakeholders.toml"),
    loss: Annotated[LossChoice, typer.Option(help="What is minimised.")] = LossChoice.bradley_terry,
    margin: Annotated[float, typer.Option(help="Margin: how far ahead a preferred item should be.")] = 0.25,
    temperature: Annotated[float, typer.Option(min=1e-3, help="Margin: how softly that is asked for.")] = 0.1,
    strength: Annotated[float, typer.Option(min=0, help="Calibrated, constrained: what the extra part counts.")] = 1.0,
    penalty: Annotated[Penalty, typer.Option(help="Constrained: what is punished.")] = Penalty.negatives,
    l2: Annotated[float, typer.Option(min=0, help="Adds l2 times the squared weights to the mean loss.")] = 0.0,
    ties: Annotated[
        Ties, typer.Option(help="Model ties (Davidson, 1970; with the plain loss), or leave them out.")
    ] = Ties.model,
    raters: Annotated[
        bool, typer.Option("--raters", help="Learn how reliable each rater is as well (Crowd-BT; the plain loss).")
    ] = False,
    bootstrap: Annotated[
        int,
        typer.Option(min=0, help="Intervals from so many draws: of raters with their pairs, else of pairs. 0: normal."),
    ] = 0,
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="The source of the draws.")] = 0,
    pool: Annotated[
        Path | None,
        typer.Option(help="Captures, or a pool as Parquet, to take mean and covariance of. Default: the pairs' items."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
) -> None:
    """Learn the weights of each stakeholder from its pairs, to convergence, and say how well they are known.

    Pairs that leave no most likely weights are refused, with what to do; then nothing is written.
    """
    from candidate_pipeline_stakeholder.pairs_file import read_pairs

    quiet_logs()
    check_free("--out", out, force)
    if 0 < bootstrap < ENOUGH_DRAWS:
        raise RequestError(f"--bootstrap: wanted at least {ENOUGH_DRAWS} draws for an interval, found {bootstrap}")
    if raters and (bootstrap or loss is not LossChoice.bradley_terry):
        raise RequestError("--raters: goes with the plain loss and without --bootstrap")
    table = _one([(each, read_pairs(each)) for each in sources])
    source = ", ".join(str(each) for each in sources)
    if not len(table):
        raise DataError(f"{source}: wanted at least one pair, found none")
    chosen = _loss(loss, margin, temperature, strength, penalty, table.features)
    parts = {name: table.of_stakeholder(name) for name in table.stakeholders}
    moments = _moments(table, pool)
    fits: dict[str, Learned] = {}
    told: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        modelled = ties is Ties.model and loss is LossChoice.bradley_terry and not raters
        used = part if modelled else part.decided()
        fits[name] = found = _fit(source, name, used, chosen, l2, raters)
        interval = _interval(name, used, found, chosen, l2, bootstrap, level, seed)
        told[name] = {**found.as_dict(), "ties_left_out": len(part) - len(used), "interval": interval}
    weights = np.array([found.weights for found in fits.values()])
    utilities = Utilities(table.features, tuple(fits), weights, moments, told)
    with writing("--out", out):
        utilities.write(out)
    if output is Format.json:
        pooled = {"rows": moments.rows, "of": "the pairs' items" if pool is None else str(pool)}
        print_json({"pairs": [str(each) for each in sources], "out": str(out), "pool": pooled, "stakeholders": told})
        return
    shown = output_console()
    for name, found in fits.items():
        _print(shown, name, found, told[name])
    where = "the pairs' items; --pool takes those of requests instead" if pool is None else str(pool)
    for line in (f"mean and covariance of {moments.rows:,} rows: {where}", f"wrote {out}"):
        shown.print(line, markup=False, soft_wrap=True)


def _one(tables: list[tuple[Path, Pairs]]) -> Pairs:
    """All tables as one."""
    first, features = tables[0][0], tables[0][1].features
    for place, table in tables:
        if table.features != features:
            raise DataError(
                f"{place}: wanted pairs described by {', '.join(features)}, in the order of {first}, found "
                f"{', '.join(table.features)}; `stakeholder pairs --features` chooses"
            )
    return Pairs.concat([table for _, table in tables])


def _loss(
    choice: LossChoice,
    margin: float,
    temperature: float,
    strength: float,
    penalty: Penalty,
    features: tuple[str, ...],
) -> Loss:
    from candidate_pipeline_stakeholder.losses import BradleyTerry, Calibrated, Constrained, Margin

    match choice:
        case LossChoice.bradley_terry:
            return BradleyTerry()
        case LossChoice.margin:
            return Margin(margin, temperature)
        case LossChoice.calibrated:
            return Calibrated(strength, positive=_there("calibrated", POSITIVE, features))
        case LossChoice.constrained if penalty is Penalty.negatives:
            return Constrained(strength, "negatives", negative=_there("constrained", NEGATIVE_ACTIONS, features))
        case _:
            return Constrained(strength, "spread")


def _there(loss: str, names: tuple[str, ...], features: tuple[str, ...]) -> tuple[str, ...]:
    found = tuple(name for name in names if name in features)
    if not found:
        raise DataError(
            f"--loss {loss}: wanted pairs with at least one of {', '.join(names)} among their features, found "
            f"{', '.join(features)}"
        )
    return found


def _moments(table: Pairs, place: Path | None) -> Moments:
    if place is not None:
        pool = read_pool(place)
        if missing := [name for name in table.features if name not in pool.features]:
            raise DataError(f"--pool {place}: the pairs are described by {', '.join(missing)}, which the pool lacks")
        return pool.select(table.features).moments()
    rows = np.concatenate([table.left, table.right])
    centred = rows - rows.mean(axis=0)
    return Moments.of(rows.mean(axis=0), centred.T @ centred / len(rows), len(rows))


def _fit(source: str, name: str, part: Pairs, loss: Loss, l2: float, raters: bool) -> Learned:
    from candidate_pipeline_stakeholder.fitting import fit
    from candidate_pipeline_stakeholder.raters import fit_raters
    from candidate_pipeline_stakeholder.ties import fit_ties

    found: Learned
    try:
        if not len(part):
            raise DataError("all pairs are ties, which say nothing about what is preferred")
        if raters:
            found = fit_raters(part, l2=l2)
        elif (part.outcome == 0).any():
            found = fit_ties(part, l2=l2)
        else:
            found = fit(part, loss=loss, l2=l2)
    except DataError as error:
        raise DataError(f"{source}: {name}: {error}") from None
    if not found.converged:  # separable pairs among them
        words = "; ".join(found.in_words()[:2])
        raise DataError(
            f"{source}: {name}: {words}. Nothing was written. --l2 0.001 draws the weights towards 0 a little, which "
            "makes them finite"
        )
    return found


def _interval(
    name: str, part: Pairs, found: Learned, loss: Loss, l2: float, draws: int, level: float, seed: int
) -> dict[str, Any]:
    """How the intervals were made, and lower and upper ends by feature, NaN where the pairs do not tell."""
    if draws:
        from candidate_pipeline_stakeholder.uncertainty import bootstrap

        if (part.outcome == 0).any():
            raise RequestError("--bootstrap: not with a model of ties; --ties leave-out leaves them out")
        if len(part) < ENOUGH_PAIRS:
            raise RequestError(
                f"--bootstrap: wanted at least {ENOUGH_PAIRS} pairs of {name} to draw from, found {len(part)}; without "
                "--bootstrap intervals are normal"
            )
        known = bool((part.rater >= 0).all()) and len(np.unique(part.rater)) >= ENOUGH_RATERS
        unit: Literal["pair", "rater"] = "rater" if known else "pair"
        with Console(stderr=True).status("drawing pairs again"):
            drawn = bootstrap(part, draws=draws, seed=seed, unit=unit, loss=loss, l2=l2)
        low, high = drawn.interval(level)
        method = f"percentiles of {draws} bootstrap draws of {unit}s"
        method += f", {drawn.failed} of them without an optimum and left out" if drawn.failed else ""
    else:
        from scipy.special import ndtri

        reach = float(ndtri((1 + level) / 2)) * found.standard_errors
        low, high = found.weights - reach, found.weights + reach
        method = "normal, from the standard errors, which take pairs for independent of each other"
    ends = zip(found.features, low.tolist(), high.tolist(), strict=True)
    return {"level": level, "method": method, "ends": {feature: [start, stop] for feature, start, stop in ends}}


def _print(shown: Console, name: str, found: Learned, told: dict[str, Any]) -> None:
    left_out = f", {told['ties_left_out']:,} ties left out" if told["ties_left_out"] else ""
    model = told.get("loss") or told["model"]
    table = Table(
        title=f"{name}: {found.pairs:,} pair{'' if found.pairs == 1 else 's'}{left_out}, {model}, l2 {found.l2:g}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("feature")
    interval = told["interval"]
    for heading in ("weight", "standard error", f"{interval['level'] * 100:g} % from", "to"):
        table.add_column(heading, justify="right")
    for place in np.argsort(-np.abs(found.weights), kind="stable").tolist():
        feature = found.features[place]
        numbers = (float(found.weights[place]), float(found.standard_errors[place]), *interval["ends"][feature])
        table.add_row(feature, *map(_number, numbers))
    shown.print(table)
    for line in (*found.in_words(), f"intervals: {interval['method']}"):
        shown.print(f"- {line}", markup=False, soft_wrap=True)
    shown.print()


def _number(value: float) -> str:
    return "unknown" if np.isnan(value) else f"{value:.4g}"
