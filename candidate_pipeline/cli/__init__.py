"""The `candidate-pipeline` program: its own commands and those of plugins, each imported when it runs."""

from __future__ import annotations

import os
import sys
from typing import Final

from candidate_pipeline.cli.commands import build_group
from candidate_pipeline.errors import CandidatePipelineError, MisconfigurationError
from candidate_pipeline.plugin import Command
from candidate_pipeline.registry import installed

#: By the names in `candidate_pipeline.plugin.BUILTIN_COMMANDS`, which plugins cannot take.
BUILTIN: Final = {
    "run": Command("candidate_pipeline.cli.run:run", help="Run a pipeline and print the ranked, explained result."),
    "check": Command("candidate_pipeline.cli.check:check", help="Check a spec: names, options, wiring."),
    "components": Command("candidate_pipeline.cli.components:components", help="List what installed plugins offer."),
    "expand": Command("candidate_pipeline.cli.expand:expand", help="Print a spec with the origin of every value."),
    "schema": Command(
        "candidate_pipeline.cli.schema:schema", help="Print the JSON Schema of specs, plugins' options included."
    ),
    "graph": Command("candidate_pipeline.cli.graph:graph", help="Draw a pipeline: terminal tree, Mermaid or DOT."),
    "replay": Command("candidate_pipeline.cli.replay:replay", help="Rank captured requests again under another spec."),
    "diff": Command("candidate_pipeline.cli.diff:diff", help="Compare how two specs rank the same captured requests."),
}

#: Set to anything to see where an error was raised.
TRACEBACK: Final = "CANDIDATE_PIPELINE_TRACEBACK"


def main() -> None:
    """Run the program. Exit status: 0 done, 1 the request or command failed, 2 a mistake in what was given."""
    group = build_group("candidate-pipeline", {**installed().commands, **BUILTIN})
    try:
        status = group.main(standalone_mode=True)
    except CandidatePipelineError as error:
        if os.environ.get(TRACEBACK):
            raise
        _print_error(error)
        status = 2 if isinstance(error, MisconfigurationError) else 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        status = 130
    sys.exit(status if isinstance(status, int) else 0)


def _print_error(error: CandidatePipelineError) -> None:
    lines = [str(error), *getattr(error, "__notes__", [])]
    sys.stderr.write("error: " + "\n  ".join("\n".join(lines).splitlines()) + "\n")
