"""A graph as a tree in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from rich.tree import Tree

from candidate_pipeline.drawing.labels import box_title, children, clean
from candidate_pipeline.graph import Arrow, Box, Graph, Node


def tree(graph: Graph, *, ascii_only: bool = False) -> Tree:
    """The tree of what a graph shows; without keys and resources, one line a component."""
    return _Drawing(graph, ascii_only).tree()


class _Drawing:
    def __init__(self, graph: Graph, ascii_only: bool) -> None:
        self.graph = graph
        self.inside = children(graph)
        self.nodes = {node.id: node for node in graph.nodes}
        self.columns = any(arrow.kind == "data" for arrow in graph.arrows)
        self.dot, self.left, self.right = (" - ", "<-", "->") if ascii_only else (" · ", "←", "→")
        self.arrows: dict[str, list[Arrow]] = {}
        for arrow in graph.arrows:
            self.arrows.setdefault(arrow.end, []).append(arrow)

    def tree(self) -> Tree:
        """The pipeline, and below it its stages."""
        root = next(box for box in self.graph.boxes if box.kind == "pipeline")
        tree = Tree(self._title(root), highlight=False)
        self._fill(tree, root)
        for shelf in (box for box in self.graph.boxes if box.kind == "resources"):
            self._fill(tree.add(self._title(shelf)), shelf)
        return tree

    def _title(self, box: Box, order: str = "") -> Text:
        said = box_title(box).replace(" · ", self.dot)
        text = Text(said, style="bold" if box.kind != "phase" else "dim")
        if order:
            text.append(f"{self.dot}{order}", style="dim not bold")
        return text

    def _fill(self, branch: Tree, box: Box) -> None:
        for part in self.inside[box.id]:
            if isinstance(part, Node):
                self._add(branch, part)
            else:
                self._fill(branch.add(self._title(part, self._order(part))), part)

    def _order(self, box: Box) -> str:
        """Whether what stands in a stage runs together or one after the other."""
        parts = [part for part in self.inside[box.id] if isinstance(part, Box) or "fallback" not in part.marks]
        if box.kind != "stage" or len(parts) < 2:
            return ""
        phases = {part.phase for part in parts if isinstance(part, Node)}
        return "in order" if len(phases) > 1 or any(_is_phase(part) for part in parts) else "together"

    def _add(self, branch: Tree, node: Node) -> None:
        text = Text(clean(node.name))
        if node.use and node.use != node.name:
            text.append(f"  {clean(node.use)}", style="blue")
        said = self.dot.join(clean(word) for word in (*node.marks, *node.notes))
        if said:
            text.append(f"  {said}", style="yellow" if "fallback" in node.marks else "dim")
        below = branch.add(text)
        arrows = self.arrows.get(node.id, [])
        for arrow in arrows:
            if arrow.kind == "fallback":
                text.append(f"{self.dot}{arrow.note} of {clean(self.nodes[arrow.start].name)}", style="yellow")
        for writers, keys in _given([arrow for arrow in arrows if arrow.kind == "data"]).items():
            names = ", ".join(clean(self.nodes[writer].name) for writer in writers)
            below.add(Text(f"{self.left} {', '.join(keys)}", style="green").append(f"  from {names}", style="dim"))
        if self.columns and node.kind != "response":
            self._writes(below, "", "cyan", [key for key in node.writes if key not in node.unread])
            self._writes(below, "unread ", "yellow", node.unread)
        used = [clean(self.nodes[arrow.start].name) for arrow in arrows if arrow.kind == "resource"]
        if used:
            below.add(Text(f"uses {', '.join(used)}", style="dim"))

    def _writes(self, below: Tree, words: str, style: str, keys: Sequence[str]) -> None:
        if keys:
            below.add(Text(f"{self.right} {words}{', '.join(keys)}", style=style))


def _given(arrows: list[Arrow]) -> dict[tuple[str, ...], list[str]]:
    """By who wrote them, the keys that arrows to one node bring."""
    writers: dict[str, tuple[str, ...]] = {}
    for arrow in arrows:
        for key in arrow.keys:
            writers[key] = (*writers.get(key, ()), arrow.start)
    found: dict[tuple[str, ...], list[str]] = {}
    for key, starts in writers.items():
        found.setdefault(starts, []).append(key)
    return found


def _is_phase(part: Box | Node) -> bool:
    return isinstance(part, Box) and part.kind == "phase"
