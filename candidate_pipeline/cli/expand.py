"""`candidate-pipeline expand`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from candidate_pipeline.build import build
from candidate_pipeline.cli.run import Format
from candidate_pipeline.cli.setup import print_json, quiet_logs
from candidate_pipeline.registry import installed
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.expand import expanded
from candidate_pipeline.spec.loader import load_spec
from candidate_pipeline.spec.problems import SpecError


def expand(
    file: Annotated[Path, typer.Argument(help="The spec.")] = Path("pipelines.toml"),
    data: Annotated[Path | None, typer.Option(help="The data directory. Default: the bundled world.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Override a value: components.age.max_age=7d.")
    ] = None,
    pipeline: Annotated[str | None, typer.Option(help="Only this pipeline and what it needs.")] = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="Add the options that are left at defaults.")] = False,
    output: Annotated[Format, typer.Option("--format", help="How to print: TOML, or a list of values.")] = Format.table,
) -> None:
    """Print a spec as it is in the end, with the origin of every value: bases merged, overrides applied.

    Mistakes in the spec are listed on standard error, and the exit status is then 2. Values of environment variables
    are not shown.
    """
    quiet_logs()
    spec = load_spec(Document.read(file), installed(), data=data, sets=sets or ())
    try:
        build(spec)
        mistakes = None
    except SpecError as error:
        mistakes = error
    found = expanded(spec.document, data=data, pipeline=pipeline, defaults=defaults)
    if output is Format.json:
        print_json(found.as_list())
    else:
        sys.stdout.write(found.toml())
    if mistakes is not None:
        sys.stderr.write(f"{mistakes}\n")
        raise typer.Exit(2)
