"""A graph as a Mermaid flowchart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from candidate_pipeline.drawing.labels import arrow_lines, box_title, children, node_lines
from candidate_pipeline.graph import Arrow, Box, Graph, Node

#: How nodes look, by kind; every other kind is a plain box.
_SHAPES: Final = {"request": ('(["', '"])'), "response": ('(["', '"])'), "resource": ('[("', '")]')}
_ARROWS: Final = {"order": "-->", "data": "-->", "fallback": "-.->", "top_up": "-.->", "resource": "-.-"}
_STYLES: Final = {
    "safety": "stroke:#c0392b,stroke-width:3px",
    "fallback": "stroke-dasharray:6 4",
    "unread": "stroke:#d68910,stroke-width:2px",
    "resource": "stroke:#7f8c8d",
}
#: What stands for itself in a label. Everything else is written as a number, for Mermaid reads much as markup.
_PLAIN: Final = frozenset(" _.,/()+=·")
#: The beginnings of what is replaced in a label after its entities: line breaks, formulas, icons.
_LATE: Final = re.compile(r"(\\(?=n)|\$(?=\$)|:(?=fa-))")


def mermaid(graph: Graph) -> str:
    """The flowchart of what a graph shows."""
    inside = children(graph)
    flowing = any(arrow.kind == "data" for arrow in graph.arrows)
    lines = ["flowchart TB"]
    for part in inside[None]:
        lines += _part(part, inside, 1)
    lines += [f"    {_arrow(arrow, flowing)}" for arrow in graph.arrows]
    for name, style in _STYLES.items():
        members = [node.id for node in graph.nodes if name in _classes(node)]
        if members:
            lines += [f"    classDef {name} {style}", f"    class {','.join(members)} {name}"]
    return "\n".join(lines) + "\n"


def _part(part: Box | Node, inside: dict[str | None, list[Box | Node]], depth: int) -> Iterator[str]:
    margin = "    " * depth
    if isinstance(part, Node):
        begin, end = _SHAPES.get(part.kind, ('["', '"]'))
        yield f"{margin}{part.id}{begin}{'<br>'.join(escaped(line) for line in node_lines(part))}{end}"
        return
    yield f'{margin}subgraph {part.id}["{escaped(box_title(part))}"]'
    yield f"{margin}    direction TB"  # else Mermaid turns every other box on its side
    for each in inside[part.id]:
        yield from _part(each, inside, depth + 1)
    yield f"{margin}end"


def _arrow(arrow: Arrow, flowing: bool) -> str:
    """An arrow; where the keys are drawn, what only says the order is invisible and keeps the parts in their places."""
    line = "~~~" if flowing and arrow.kind == "order" else _ARROWS[arrow.kind]
    label = "<br>".join(escaped(text) for text in arrow_lines(arrow))
    return f'{arrow.start} {line}|"{label}"| {arrow.end}' if label else f"{arrow.start} {line} {arrow.end}"


def _classes(node: Node) -> list[str]:
    return [*node.marks, *(["unread"] if node.unread else []), node.kind]


def escaped(text: str) -> str:
    """Text as it stands between quotation marks: Mermaid's numbered entities for whatever might mean something.

    A line break, a formula and an icon mean something even so, for they are looked for in the finished label: a space
    without width keeps their signs apart.
    """
    text = _LATE.sub("\\1\u200b", text)
    found = [letter if letter.isalnum() or letter in _PLAIN else f"#{ord(letter)};" for letter in text]
    if text[:1].isdigit():  # a number and a point would begin a list
        found[0] = f"#{ord(text[0])};"
    return "".join(found) or " "
