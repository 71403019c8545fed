"""`candidate-pipeline graph`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from candidate_pipeline.build import build
from candidate_pipeline.cli.bars import Canvas
from candidate_pipeline.cli.setup import console, quiet_logs, to_json, write
from candidate_pipeline.engine.plan import Plan
from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.graph import Graph
from candidate_pipeline.graph import graph as graph_of
from candidate_pipeline.registry import installed
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.loader import load_spec
from candidate_pipeline.spec.problems import nearest


class GraphFormat(StrEnum):
    """How a graph is drawn."""

    tree = "tree"
    mermaid = "mermaid"
    dot = "dot"
    json = "json"


#: What the ending of a file's name says about how to draw into it.
ENDINGS = {
    ".mmd": GraphFormat.mermaid,
    ".mermaid": GraphFormat.mermaid,
    ".dot": GraphFormat.dot,
    ".gv": GraphFormat.dot,
    ".json": GraphFormat.json,
}


def graph(
    pipeline: Annotated[
        str | None, typer.Argument(help="The pipeline's name in the spec. Default: the only one there is.")
    ] = None,
    config: Annotated[Path, typer.Option(help="The spec.")] = Path("pipelines.toml"),
    data: Annotated[Path | None, typer.Option(help="The data directory. Default: the bundled world.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Override a value: components.age.max_age=7d.")
    ] = None,
    form: Annotated[
        GraphFormat | None, typer.Option("--format", help="How to draw. Default: what --output ends in, else a tree.")
    ] = None,
    columns: Annotated[
        bool, typer.Option("--columns", help="Draw which columns and query features flow from whom to whom.")
    ] = False,
    resources: Annotated[bool, typer.Option("--resources", help="Draw the resources that components use.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write to a file instead of standard output.")] = None,
) -> None:
    """Draw a pipeline, without opening anything: what runs after what, what runs together, and how.

    Safety filters, caches, circuit breakers, gates, fallbacks and pipelines inside the pipeline are marked.
    """
    quiet_logs()
    built = build(load_spec(Document.read(config), installed(), data=data, sets=sets or ()))
    plan = _chosen(built.plans, pipeline, config)
    found = graph_of(plan, {name: resource.instance for name, resource in built.resources.items()})
    if form is None:
        form = GraphFormat.tree if output is None else ENDINGS.get(output.suffix.lower(), GraphFormat.tree)
    if output is None and form is GraphFormat.tree:
        out = console()
        out.print(found.tree(columns=columns, resources=resources, ascii_only=Canvas.of(out).ascii_only))
        return
    text = drawn(found, form, columns=columns, resources=resources)
    if output is None:
        write(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MisconfigurationError(f"cannot write {output}: {error.strerror}") from None
    typer.echo(f"{output}: {plan.name} as {form}", err=True)


def drawn(found: Graph, form: GraphFormat, *, columns: bool, resources: bool) -> str:
    """A graph as text."""
    if form is GraphFormat.mermaid:
        return found.mermaid(columns=columns, resources=resources)
    if form is GraphFormat.dot:
        return found.dot(columns=columns, resources=resources)
    if form is GraphFormat.json:
        return to_json(found.as_dict())
    file = io.StringIO()
    Console(file=file, width=120).print(found.tree(columns=columns, resources=resources))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _chosen(plans: Mapping[str, Plan], name: str | None, config: Path) -> Plan:
    """The pipeline to draw.

    Raises:
        MisconfigurationError: There is none of that name, or several and no name.
    """
    if name is None and len(plans) == 1:
        return next(iter(plans.values()))
    if name is None:
        raise MisconfigurationError(f"{config}: which pipeline? It has {', '.join(plans) or 'none'}")
    if name not in plans:
        hint = nearest(name, plans) or f"{config} has {', '.join(plans) or 'none'}"
        raise MisconfigurationError(f"no pipeline named {name!r}: {hint}")
    return plans[name]
