"""A graph in Graphviz's language."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from candidate_pipeline.drawing.labels import arrow_lines, box_title, children, ends_of, node_lines
from candidate_pipeline.graph import Arrow, Box, Graph, Node

_GREY: Final = "#808b96"
_HEAD: Final = (
    '    graph [compound=true, newrank=true, fontname="Helvetica", fontsize=11, nodesep=0.25, ranksep=0.3]',
    '    node [shape=box, style="rounded,filled", fillcolor="#f8f9f9", color="#566573"]',
    '    node [fontname="Helvetica", fontsize=10]',
    '    edge [color="#566573", fontname="Helvetica", fontsize=8, arrowsize=0.7]',
)
#: How boxes look, by kind.
_BOXES: Final = {
    "pipeline": 'style=rounded, color="#aeb6bf"',
    "stage": 'style="rounded,filled", fillcolor="#eaf2f8", color="#a9cce3"',
    "phase": 'style="rounded,filled", fillcolor="#f4f9fc", color="#a9cce3"',
    "nested": 'style="rounded,filled", fillcolor="#fdfefe", color="#566573"',
    "top_up": 'style="rounded,filled,dashed", fillcolor="#fef9e7", color="#d4ac0d"',
    "resources": 'style="rounded,filled", fillcolor="#f2f3f4", color="#ccd1d1"',
}
_ARROWS: Final = {
    "order": "",
    "data": "",
    "fallback": "style=dashed",
    "top_up": "style=dashed",
    "resource": f'style=dotted, arrowhead=none, color="{_GREY}"',
}


def dot(graph: Graph) -> str:
    """The digraph of what a graph shows."""
    inside, ends = children(graph), ends_of(graph)
    boxes = {box.id for box in graph.boxes}
    flowing = any(arrow.kind == "data" for arrow in graph.arrows)
    lines = [f"digraph {quoted([graph.name])} {{", *_HEAD]
    for part in inside[None]:
        lines += _part(part, inside, 1)
    for arrow in graph.arrows:
        lines += [f"    {line}" for line in _arrow(arrow, ends, boxes, flowing)]
    return "\n".join([*lines, "}"]) + "\n"


def _part(part: Box | Node, inside: dict[str | None, list[Box | Node]], depth: int) -> Iterator[str]:
    margin = "    " * depth
    if isinstance(part, Node):
        look = "".join(f", {attribute}" for attribute in _look(part))
        yield f"{margin}{part.id} [label={quoted(node_lines(part))}{look}]"
        return
    yield f"{margin}subgraph cluster_{part.id} {{"
    yield f"{margin}    label={quoted([box_title(part)])}"
    yield f"{margin}    graph [{_BOXES[part.kind]}]"
    for each in inside[part.id]:
        yield from _part(each, inside, depth + 1)
    yield f"{margin}}}"


def _look(node: Node) -> Iterator[str]:
    if node.kind in {"request", "response"}:
        yield 'shape=oval, style=filled, fillcolor="#d5f5e3"'
    elif node.kind == "resource":
        yield f'shape=cylinder, style=filled, fillcolor="#ffffff", color="{_GREY}"'
    elif "fallback" in node.marks:
        yield 'style="rounded,filled,dashed"'
    if "safety" in node.marks:
        yield 'color="#c0392b", penwidth=2'
    elif node.unread:
        yield 'color="#d68910", penwidth=1.5'


def _arrow(arrow: Arrow, ends: dict[str, tuple[list[str], list[str]]], boxes: set[str], flowing: bool) -> Iterator[str]:
    """An arrow. One between boxes is drawn from and to a node of theirs; invisible ones hold the others in place."""
    *others, start = ends[arrow.start][1]
    end, *further = ends[arrow.end][0]
    looks = [_ARROWS[arrow.kind]]
    if flowing and arrow.kind == "order":
        looks = ["style=invis"]
    if arrow.start in boxes:
        looks.append(f"ltail=cluster_{arrow.start}")
    if arrow.end in boxes:
        looks.append(f"lhead=cluster_{arrow.end}")
    label = arrow_lines(arrow)
    if label:
        looks.append(f"label={quoted(label)}")
    if len(arrow.keys) > len(label):
        looks.append(f"labeltooltip={quoted([', '.join(arrow.keys)])}")
    said = ", ".join(look for look in looks if look)
    yield f"{start} -> {end} [{said}]" if said else f"{start} -> {end}"
    for other in others:
        yield f"{other} -> {end} [style=invis]"
    for other in further:
        yield f"{start} -> {other} [style=invis]"


def quoted(lines: Sequence[str]) -> str:
    r"""A quoted string of lines: `\\`, `\"` and `\n` are its escapes, and an ampersand begins an entity."""
    plain = (line.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;") for line in lines)
    return '"' + "\\n".join(plain) + '"'
