"""`candidate-pipeline check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from candidate_pipeline.app import load
from candidate_pipeline.cli.run import Format
from candidate_pipeline.cli.setup import print_json, quiet_logs
from candidate_pipeline.spec.problems import SpecError


def check(
    file: Annotated[Path, typer.Argument(help="The spec.")] = Path("pipelines.toml"),
    data: Annotated[Path | None, typer.Option(help="The data directory. Default: the bundled world.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Override a value: components.age.max_age=7d.")
    ] = None,
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
) -> None:
    """Check a spec without opening anything: names, options, wiring. Exit status 2 if there are problems."""
    quiet_logs()
    try:
        app = load(file, data=data, sets=sets or ())
    except SpecError as error:
        if output is Format.json:
            print_json({"file": str(file), "problems": [problem.as_dict() for problem in error.problems]})
        else:
            typer.echo(str(error))
        raise typer.Exit(2) from None
    if output is Format.json:
        print_json({"file": str(file), "problems": []})
        return
    for name in app:
        plan = app[name].plan
        count = sum(len(phase) for phases in plan.phases.values() for phase in phases)
        typer.echo(f"{file}: pipeline {name}: {count} components, no problems")
