"""The command `candidate-pipeline stakeholder audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from candidate_pipeline.cli.setup import print_json, quiet_logs, to_json
from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline_stakeholder.audit.inputs import VIEWERS, Asked, gather
from candidate_pipeline_stakeholder.terminal import Format, Steps, check_place, output_console, writing

MAX_VIEWERS: Final = 5000
PAGE: Final = "audit.html"
DATA: Final = "audit.json"
POOL: Final = "pool.parquet"


def audit(
    config: Annotated[Path | None, typer.Option(help="The spec. Default: pipelines.toml.", show_default=False)] = None,
    data: Annotated[Path | None, typer.Option(help="The data directory. Default: the bundled world.")] = None,
    pipeline: Annotated[str, typer.Option(help="The pipeline that is run for the pool.")] = "for_you",
    utilities: Annotated[
        Path | None,
        typer.Option(help="A utilities file. Default: those of the pipeline's stakeholder scorer, else declared ones."),
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(
            metavar="A=1,B=.5", help="The mix. Default: that of the pipeline's stakeholder scorer, else equal parts."
        ),
    ] = None,
    viewers: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_VIEWERS, help=f"Run it for so many people, drawn by the seed. Default: {VIEWERS}."),
    ] = None,
    captures: Annotated[
        Path | None, typer.Option(help="Take the pool from recorded requests instead: a folder, or one file.")
    ] = None,
    pool: Annotated[Path | None, typer.Option(help="Take the pool from a file that --out wrote.")] = None,
    scorer: Annotated[
        str | None, typer.Option(help="The stakeholder scorer's name, where the pipeline has several.")
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="Preferences to hold the utilities against.")] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Rows of a slate. Default: as many as were served, else 10.")
    ] = None,
    delta: Annotated[float, typer.Option(min=0, max=1, help="The diversity knob that is in use.")] = 0.0,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Override a value of the spec: components.age.max_age=7d.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The source of all draws.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer people, seeds and draws, to see what it gives.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help=f"Write {PAGE}, {DATA} and {POOL} into this folder.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as a page with plots.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")] = None,
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
) -> None:
    """Show what a mix of stakeholders costs whom, with controls.

    Who is aligned with whom among the candidates (before anything is trained), how often they disagree, what other
    mixes and more diversity would give, what leaving a stakeholder out costs it, how much hangs on the exact weights,
    and how many pairs it takes to learn them. Ctrl-C stops early and reports what is done.
    """
    from candidate_pipeline_stakeholder.audit.report import build_document
    from candidate_pipeline_stakeholder.audit.run import INTERRUPTED, run_audit

    quiet_logs()
    sources = {"--viewers": viewers, "--captures": captures, "--pool": pool}
    given = [name for name, value in sources.items() if value is not None]
    if len(given) > 1:
        raise MisconfigurationError(f"the pool comes from one place, found {' and '.join(given)}: give one of them")
    page, figures = (html, json_file) if out is None else (html or out / PAGE, json_file or out / DATA)
    files = {"--html" if html else "--out": page, "--json" if json_file else "--out ": figures}
    for option, file in files.items():
        if file is not None:
            check_place(option.strip(), file)
    asked = Asked(
        config=config,
        data=data,
        pipeline=pipeline,
        utilities=utilities,
        mix=mix,
        viewers=viewers,
        captures=captures,
        pool=pool,
        pairs=pairs,
        scorer=scorer,
        sets=tuple(sets or ()),
        seed=seed,
        quick=quick,
    )
    with Steps() as steps:
        inputs = gather(asked, steps.track)
        found = run_audit(
            inputs.utilities,
            inputs.pool,
            pairs=inputs.pairs,
            mix=inputs.mix,
            size=size,
            normalise=inputs.normalise,
            delta=delta,
            seed=seed,
            quick=quick,
            progress=steps,
            keep_interrupted=True,
        )
        document = build_document(found, about=inputs.about, provenance=inputs.provenance)
        whole = {**found.as_dict(), "findings": list(document.findings), "provenance": dict(inputs.provenance)}
        if page is not None:
            from candidate_pipeline_stakeholder.audit.html import render_html

            steps("drawing the report", 0, 1)
            _write("--html", page, render_html(document))
        if figures is not None:
            _write("--json", figures, to_json(whole))
        if out is not None:
            with writing("--out", out / POOL):
                inputs.pool.write(out / POOL)
    if output is Format.json:
        print_json(whole)
    else:
        from candidate_pipeline_stakeholder.audit.table import print_document

        print_document(output_console(), document)
    told = Console(stderr=True, highlight=False)
    for written in (page, figures, out / POOL if out is not None else None):
        if written is not None:
            told.print(f"wrote {written}", markup=False, soft_wrap=True)
    if inputs.interrupted or INTERRUPTED in found.reasons.values():
        raise typer.Exit(130)


def _write(option: str, file: Path, text: str) -> None:
    """Put a text in its place in one step."""
    from candidate_pipeline_stakeholder.files import placed_file

    with writing(option, file), placed_file(file) as made:
        made.write_text(text, encoding="utf-8", newline="\n")
