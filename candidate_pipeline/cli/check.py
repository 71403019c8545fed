"""`candidate-pipeline check`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from candidate_pipeline.build import Built, build
from candidate_pipeline.cli.run import Format
from candidate_pipeline.cli.setup import console, print_json, quiet_logs
from candidate_pipeline.lints import lint
from candidate_pipeline.registry import installed
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.loader import load_spec
from candidate_pipeline.spec.pages import page
from candidate_pipeline.spec.problems import Problem, SpecError


def check(
    file: Annotated[Path, typer.Argument(help="The spec.")] = Path("pipelines.toml"),
    data: Annotated[Path | None, typer.Option(help="The data directory. Default: the bundled world.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Override a value: components.age.max_age=7d.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 2 on warnings as well.")] = False,
    explain: Annotated[
        str | None, typer.Option(metavar="CODE", help="Print what a code means and how to mend it, and check nothing.")
    ] = None,
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
) -> None:
    """Check a spec without opening anything: names, options, wiring. Exit status 2 if there are problems.

    A spec without problems is looked through for what runs for nothing or may not end; such warnings (W...) do not
    change the exit status, unless --strict is given.
    """
    quiet_logs()
    if explain is not None:
        _print_page(explain, output)
        return
    problems: Sequence[Problem] = ()
    warnings: Sequence[Problem] = ()
    try:
        built, warnings = _checked(file, data, sets or ())
    except SpecError as error:
        problems = error.problems
        if output is Format.table:
            typer.echo(str(error))
    else:
        if output is Format.table:
            _print_warnings(file, built, warnings)
    if output is Format.json:
        listed = [problem.as_dict() for problem in problems]
        print_json({"file": str(file), "problems": listed, "warnings": [warning.as_dict() for warning in warnings]})
    if problems or (strict and warnings):
        raise typer.Exit(2)


def _checked(file: Path, data: Path | None, sets: Sequence[str]) -> tuple[Built, list[Problem]]:
    """What the spec describes, and the warnings about it."""
    spec = load_spec(Document.read(file), installed(), data=data, sets=sets)
    built = build(spec)
    return built, lint(spec, built.plans)


def _print_warnings(file: Path, built: Built, warnings: Sequence[Problem]) -> None:
    for warning in warnings:
        typer.echo(warning.render())
    for name, plan in built.plans.items():
        count = sum(len(phase) for phases in plan.phases.values() for phase in phases)
        typer.echo(f"{file}: pipeline {name}: {count} component{'s' if count != 1 else ''}, no problems")
    if warnings:
        count = len(warnings)
        typer.echo(f"{count} warning{'s' if count != 1 else ''}; `--explain {warnings[0].code}` says more")


def _print_page(code: str, output: Format) -> None:
    text = page(code)
    if output is Format.json:
        title = text.partition("\n")[0].removeprefix("# ")
        print_json({"code": title.partition(":")[0], "title": title.partition(": ")[2], "page": text})
    elif console().is_terminal:
        from rich.markdown import Markdown

        console().print(Markdown(text))
    else:
        typer.echo(text.rstrip())
