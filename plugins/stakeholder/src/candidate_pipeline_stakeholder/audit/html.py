"""A report as one HTML file that loads nothing: no scripts, no fonts, no pictures from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from candidate_pipeline_stakeholder.audit.document import (
    Cell,
    Document,
    Figure,
    Missing,
    Part,
    Section,
    Table,
    Text,
    escaped,
)
from candidate_pipeline_stakeholder.audit.page_style import STYLE

SENTENCES: Final = 6
"""A section's first sentences; the others are folded."""
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What the page may load, enforced by the browser: nothing."""


def render_html(document: Document) -> str:
    """The whole page. The same document gives the same text.

    Args:
        document: What to show. All of its texts are shown as they are, whatever they look like.
    """
    with_parts = "".join(_section(section) for section in document.sections)
    links = "".join(
        f'<li><a href="#{_key(section.key)}">{escaped(section.title)}</a></li>' for section in document.sections
    )
    findings = "".join(f"<li>{escaped(finding)}</li>" for finding in document.findings)
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escaped(POLICY)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="robots" content="noindex">',
            f"<title>{escaped(document.title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            f"<h1>{escaped(document.title)}</h1>",
            f'<p class="about">{escaped(document.about)}</p>',
            f'<section class="findings" aria-labelledby="findings"><h2 id="findings">In short</h2>'
            f"<ol>{findings}</ol></section>"
            if findings
            else "",
            "".join(f'<p class="missing"><strong>Note.</strong> {escaped(each)}</p>' for each in document.warnings),
            f'<nav aria-label="Sections"><ul>{links}<li><a href="#provenance">How this was made</a></li></ul></nav>',
            with_parts,
            _provenance(document.provenance),
            "</main>",
            "</body>",
            "</html>",
            "",
        )
    )


def _key(key: str) -> str:
    return "".join(each if each.isascii() and each.isalnum() else "-" for each in key)


def _section(section: Section) -> str:
    key = _key(section.key)
    lead = _sentences(section.lead)
    parts = "".join(_part(part, f"{key}-{at}") for at, part in enumerate(section.parts))
    return (
        f'<section aria-labelledby="{key}"><h2 id="{key}">{escaped(section.title)}</h2>{lead}'
        f'<div class="parts">{parts}</div></section>\n'
    )


def _sentences(sentences: tuple[str, ...]) -> str:
    """What a section says: a paragraph, or a list whose end is folded."""
    if len(sentences) < 2:
        return "".join(f"<p>{escaped(each)}</p>" for each in sentences)
    shown, folded = sentences[:SENTENCES], sentences[SENTENCES:]
    more = f"<details><summary>{len(folded):,} more</summary>{_list(folded)}</details>" if folded else ""
    return _list(shown) + more


def _list(sentences: tuple[str, ...]) -> str:
    return '<ul class="lead">' + "".join(f"<li>{escaped(each)}</li>" for each in sentences) + "</ul>"


def _part(part: Part, key: str) -> str:
    if isinstance(part, Table):
        return _table(part, key)
    if isinstance(part, Figure):
        return _figure(part)
    if isinstance(part, Missing):
        return f'<p class="missing wide"><strong>Not done.</strong> {escaped(part.reason)}</p>'
    if isinstance(part, Text):
        return f"<p>{escaped(part.words)}</p>"
    raise TypeError(part)


def _figure(figure: Figure) -> str:
    key = _key(figure.key)
    drawn = figure.draw(key, figure.title, figure.description)
    control = f'<span class="control">{escaped(figure.control)}</span>' if figure.control else ""
    return (
        f"<figure><h3>{escaped(figure.title)}</h3>{drawn}"
        f"<figcaption>{escaped(figure.caption)}{control}</figcaption></figure>\n"
    )


def _table(table: Table, key: str) -> str:
    head = "".join(
        f'<th scope="col" class="{letter}{" long" if len(heading) > _LONG else ""}">{escaped(heading)}</th>'
        for heading, letter in zip(table.columns, table.align, strict=True)
    )
    shown, folded = table.rows[: table.shown], table.rows[table.shown :]
    wide = " wide" if _characters(table) > _NARROW else ""
    note = f'<p class="note">{escaped(table.note)}</p>' if table.note else ""
    more = ""
    if folded:
        more = (
            f"<details><summary>{len(folded):,} more</summary>"
            f"{_scrolled(table, f'{key}-more', head, folded, caption='')}</details>"
        )
    return f'<div class="table{wide}">{_scrolled(table, key, head, shown, caption=table.title)}{more}{note}</div>\n'


def _characters(table: Table) -> int:
    """How wide a table is, about."""
    return sum(
        max([max(map(len, heading.split() or [""])), *(len(row[at].text) for row in table.rows)]) + 3
        for at, heading in enumerate(table.columns)
    )


_LONG: Final = 18
"""A text of more characters may be broken anywhere where there is no room."""
_NARROW: Final = 62
"""A table of more characters takes the width of the page."""


def _scrolled(table: Table, key: str, head: str, rows: Iterable[tuple[Cell, ...]], caption: str) -> str:
    """A table that scrolls by itself where it is wider than the page."""
    body = "".join(f"<tr>{_row(row, table.align)}</tr>" for row in rows)
    title = f'<caption id="{key}">{escaped(caption)}</caption>' if caption else ""
    named = f'aria-labelledby="{key}"' if caption else f'aria-label="{escaped(table.title)}, continued"'
    return (
        f'<div class="scroll" role="region" tabindex="0" {named}>'
        f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(row: tuple[Cell, ...], align: str) -> str:
    cells = []
    for at, (cell, letter) in enumerate(zip(row, align, strict=True)):
        tone = "" if cell.tone == "plain" else f" {cell.tone}"
        long = " long" if letter == "l" and len(cell.text) > _LONG else ""
        tag, scope = ("th", ' scope="row"') if at == 0 else ("td", "")
        cells.append(f'<{tag}{scope} class="{letter}{tone}{long}">{escaped(cell.text)}</{tag}>')
    return "".join(cells)


def _json(value: Any, margin: str) -> str:
    """Plain data as JSON: an entry a line, lists of numbers and texts on one."""
    if isinstance(value, Mapping) and value:
        inner = margin + "  "
        rows = (f"{inner}{json.dumps(str(key), ensure_ascii=False)}: {_json(value[key], inner)}" for key in value)
        return "{\n" + ",\n".join(sorted(rows)) + f"\n{margin}}}"
    return json.dumps(value, ensure_ascii=False, default=str)


def _provenance(provenance: Any) -> str:
    shown = _json(provenance, "")
    return (
        '<section aria-labelledby="provenance"><h2 id="provenance">How this was made</h2>'
        "<p>What has to be the same for the same figures to come out again.</p>"
        f"<pre>{escaped(shown)}</pre></section>"
    )
