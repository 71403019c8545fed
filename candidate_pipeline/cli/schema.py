"""`candidate-pipeline schema`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from candidate_pipeline.cli.setup import print_json, quiet_logs, to_json
from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.registry import installed
from candidate_pipeline.spec.schema import json_schema


class SchemaFormat(StrEnum):
    """How a schema is printed."""

    json = "json"


def schema(
    output: Annotated[Path | None, typer.Option(help="Write to a file instead of standard output.")] = None,
    _form: Annotated[SchemaFormat, typer.Option("--format", help="How to print.")] = SchemaFormat.json,
) -> None:
    """Print the JSON Schema of specs, with the options of installed plugins, for editors.

    Taplo (Even Better TOML) and Tombi use it where the first line of a spec is `#:schema ./pipelines.schema.json`.
    """
    quiet_logs()
    found = json_schema(installed(), lambda why: typer.echo(f"left out: {why}", err=True))
    if output is None:
        print_json(found)
        return
    try:
        output.write_text(to_json(found), encoding="utf-8")
    except OSError as error:
        raise MisconfigurationError(f"cannot write {output}: {error.strerror}") from None
    typer.echo(f"{output}: the schema of specs; name it in the first line of one: #:schema {output.name}", err=True)
