"""`candidate-pipeline components`."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from candidate_pipeline.cli.run import Format
from candidate_pipeline.cli.setup import console, print_json
from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.options import format_duration, options_of
from candidate_pipeline.plugin import KINDS
from candidate_pipeline.registry import ComponentRef, installed
from candidate_pipeline.spec.entries import nested_ref
from candidate_pipeline.spec.problems import nearest


def components(
    name: Annotated[str | None, typer.Argument(help="Show one component with its options.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only components of a kind.")] = None,
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
) -> None:
    """List what installed plugins offer; with a name, a component's options."""
    registry = installed()
    registry.keys()  # so that keys which cannot be loaded are among what is broken
    if kind is not None and kind not in KINDS:
        raise MisconfigurationError(f"no kind {kind!r}: {nearest(kind, KINDS) or ', '.join(KINDS)}")
    offered = [nested_ref(), *registry.components()]
    refs = [ref for ref in offered if kind in {None, ref.kind} and name in {None, ref.name}]
    if name is not None and not refs:
        hint = nearest(name, (ref.name for ref in offered))
        raise MisconfigurationError(f"no component named {name!r}: {hint}")
    described = [_describe(ref, with_options=name is not None) for ref in refs]
    broken = [
        {"distribution": plugin.distribution, "version": plugin.version, "cause": plugin.cause}
        for plugin in registry.broken
    ]
    if output is Format.json:
        print_json({"components": described, "broken": broken})
        return
    out = console()
    for distribution in sorted({entry["distribution"] for entry in described}) if name is None else ():
        table = Table(title=distribution, title_justify="left")
        table.add_column("kind", no_wrap=True)
        table.add_column("name", no_wrap=True)
        table.add_column("what it does", overflow="fold")
        for entry in described:
            if entry["distribution"] == distribution:
                table.add_row(entry["kind"], entry["name"], escape(entry["doc"]))
        out.print(table)
    for entry in described if name is not None else ():
        out.print(f"[bold]{entry['kind']} {entry['name']}[/bold] ({entry['distribution']})\n{escape(entry['doc'])}")
        table = Table("option", "type", "default", "meaning")
        for option in entry["options"]:
            table.add_row(option["name"], escape(option["type"]), escape(option["default"]), escape(option["doc"]))
        out.print(table)
    for plugin in broken:
        out.print(
            f"[red]{plugin['distribution']} {plugin['version']} could not be loaded: {escape(plugin['cause'])}[/red]"
        )


def _describe(ref: ComponentRef, *, with_options: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "kind": ref.kind,
        "name": ref.name,
        "distribution": f"{ref.distribution} {ref.version}",
        "doc": "",
    }
    try:
        cls = ref.load()
        doc = inspect.getdoc(cls) or ""
        entry["doc"] = doc if with_options else doc.partition("\n")[0]
        options = options_of(cls) if with_options else {}
    except (MisconfigurationError, TypeError, NameError) as error:
        entry["doc"] = f"cannot be loaded: {error}"
        options = {}
    entry["options"] = [
        {
            "name": option.name,
            "type": option.type_name,
            "default": "(required)" if option.required else _shown(option.default),
            "doc": option.doc + (f" [{option.unit}]" if option.unit else ""),
        }
        for option in options.values()
    ]
    return entry


def _shown(default: Any) -> str:
    return format_duration(default) if hasattr(default, "total_seconds") else repr(default)
