"""The text in nodes, in boxes and on arrows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from candidate_pipeline.graph import Arrow, Box, Graph, Node

#: So many keys stand on an arrow; the others are counted.
MOST_KEYS: Final = 3


def clean(text: str) -> str:
    """Text on one line, with a visible mark in place of what cannot be shown."""
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "\ufffd" for letter in text)


def node_lines(node: Node) -> list[str]:
    """What stands in a node, line by line: its name, what it is, how it runs, and what nobody reads."""
    lines = [node.name]
    if node.use and node.use != node.name:
        lines.append(node.use)
    if node.kind in {"request", "response"}:
        lines += node.notes
    elif node.marks or node.notes:
        lines.append(" · ".join((*node.marks, *node.notes)))
    if node.unread:
        lines.append(f"unread: {keys_text(node.unread)}")
    return [clean(line) for line in lines]


def box_title(box: Box) -> str:
    """What stands above a box."""
    name = box.name.replace("_", " ") if box.kind == "stage" else box.name
    said = f"tops up: {name}" if box.kind == "top_up" else name
    return clean(" · ".join((said, *box.notes)))


def arrow_lines(arrow: Arrow) -> list[str]:
    """What stands on an arrow, line by line."""
    if arrow.kind == "data":
        return [clean(line) for line in shortened(arrow.keys)]
    return [clean(arrow.note)] if arrow.note else []


def keys_text(keys: Sequence[str]) -> str:
    """Keys in a line, the first few by name."""
    return ", ".join(shortened(keys))


def shortened(keys: Sequence[str]) -> list[str]:
    """The first few keys, and how many more there are."""
    if len(keys) <= MOST_KEYS + 1:  # a count in place of a single name saves nothing
        return list(keys)
    return [*keys[:MOST_KEYS], f"+{len(keys) - MOST_KEYS} more"]


def children(graph: Graph) -> dict[str | None, list[Box | Node]]:
    """By box, what stands in it in running order: its own nodes and the boxes inside it, each at its first node."""
    places = {node.id: at for at, node in enumerate(graph.nodes)}
    first: dict[str, int] = {}
    parents = {box.id: box.parent for box in graph.boxes}
    for node in graph.nodes:
        box: str | None = node.box
        while box is not None:
            first.setdefault(box, places[node.id])
            box = parents[box]
    found: dict[str | None, list[tuple[int, Box | Node]]] = {}
    for inside in graph.boxes:
        if inside.id in first:
            found.setdefault(inside.parent, []).append((first[inside.id], inside))
    for node in graph.nodes:
        found.setdefault(node.box, []).append((places[node.id], node))
    return {box: [part for _, part in sorted(parts, key=lambda pair: pair[0])] for box, parts in found.items()}


def ends_of(graph: Graph) -> dict[str, tuple[list[str], list[str]]]:
    """By node or box, the nodes in it before which nothing runs there, and those after which nothing does."""
    parents = {box.id: box.parent for box in graph.boxes}
    homes: dict[str, list[str]] = {}
    for part, box in [*((node.id, node.box) for node in graph.nodes), *((box.id, box.id) for box in graph.boxes)]:
        homes[part] = [part] if part not in parents else []
        home: str | None = box
        while home is not None:
            homes[part].append(home)
            home = parents[home]
    begins, ends = dict[str, list[str]](), dict[str, list[str]]()
    order = [arrow for arrow in graph.arrows if arrow.kind in {"order", "fallback", "top_up"}]
    led_to = {(home, arrow.end) for arrow in order for home in homes[arrow.start]}
    led_from = {(home, arrow.start) for arrow in order for home in homes[arrow.end]}
    for node in graph.nodes:
        for home in homes[node.id]:
            around = homes[node.id][: homes[node.id].index(home)]  # the node, and the boxes between it and this one
            if not any((home, part) in led_to for part in around):
                begins.setdefault(home, []).append(node.id)
            if not any((home, part) in led_from for part in around):
                ends.setdefault(home, []).append(node.id)
    return {part: (begins[part], ends[part]) for part in homes if part in begins and part in ends}
