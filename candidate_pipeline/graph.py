"""A compiled pipeline as a graph: what runs, in which order, and what flows from whom to whom.

Everything comes from the plan, so a graph is drawn without opening a resource:

    app = load("pipelines.toml")
    print(graph(app["for_you"].plan).mermaid(columns=True))

Nodes, boxes and arrows are plain data for tools of one's own; `mermaid`, `dot` and `tree` draw them. Names and order
depend on nothing but the plan, so that a drawing kept in a repository changes only where the pipeline does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs

from candidate_pipeline.engine.plan import Plan

if TYPE_CHECKING:
    from rich.tree import Tree

BoxKind = Literal["pipeline", "stage", "phase", "nested", "top_up", "resources"]
ArrowKind = Literal["order", "data", "fallback", "top_up", "resource"]


@attrs.frozen
class Box:
    """Nodes that belong together: a pipeline, a stage of it, or the components of a stage that run together.

    Args:
        id: Its name in drawings, unique in the graph.
        name: What it is called.
        kind: `pipeline`; `stage`; `phase` (what runs together, in a stage that has more than one of them); `nested` or
            `top_up` (a pipeline inside another); `resources`.
        parent: The box it stands in.
        notes: What else is worth knowing, such as a time budget.
    """

    id: str
    name: str
    kind: BoxKind
    parent: str | None = None
    notes: tuple[str, ...] = ()


@attrs.frozen
class Node:
    """A component, the request or the response of a pipeline, or a resource.

    Args:
        id: Its name in drawings, unique in the graph.
        name: What it is called in the spec.
        kind: The component's kind; `request`, `response` or `resource`.
        box: The box it stands in.
        use: Its registered name, or its class.
        stage: Its stage.
        phase: Its phase within the stage, from 0.
        marks: How it runs: `blocking`, `async`, `prepares`, `cached`, `breaker`, `gated`, `safety`, `listwise`,
            `sync`, `fallback`.
        notes: What else is worth knowing: times, conditions, request parameters.
        on_error: What its failure does.
        on_timeout: What its timeout does.
        reads: The keys it reads.
        writes: The keys it writes.
        unread: Those of them that nobody reads after it, and that explain no score.
    """

    id: str
    name: str
    kind: str
    box: str
    use: str = ""
    stage: str = ""
    phase: int = 0
    marks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    on_error: str = ""
    on_timeout: str = ""
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


@attrs.frozen
class Arrow:
    """What leads from one node to another.

    Args:
        start: A node, or a box all of whose nodes it starts from.
        end: A node, or a box.
        kind: `order` (one runs after the other), `data` (one reads what the other wrote last), `fallback` (one takes
            over from the other), `top_up` (one fills what the other left short), `resource` (one uses the other).
        keys: The columns and query features that flow.
        note: When a fallback or a top-up happens.
    """

    start: str
    end: str
    kind: ArrowKind
    keys: tuple[str, ...] = ()
    note: str = ""


@attrs.frozen
class Graph:
    """A pipeline to look at.

    Args:
        name: The pipeline's name.
        boxes: Every box, each after the one it stands in.
        nodes: Every node, each after all that arrows lead from to it.
        arrows: What leads from where to where.
    """

    name: str
    boxes: tuple[Box, ...]
    nodes: tuple[Node, ...]
    arrows: tuple[Arrow, ...]

    def as_dict(self) -> dict[str, Any]:
        """The graph as plain data."""
        return attrs.asdict(self)

    def mermaid(self, *, columns: bool = False, resources: bool = False) -> str:
        """The graph as a Mermaid flowchart, for Markdown that renders one.

        Args:
            columns: Draw who reads what of whom instead of only what runs after what.
            resources: Draw the resources that components use.
        """
        from candidate_pipeline.drawing.mermaid import mermaid

        return mermaid(self.shown(columns=columns, resources=resources))

    def dot(self, *, columns: bool = False, resources: bool = False) -> str:
        """The graph in Graphviz's language; the arguments are those of `mermaid`."""
        from candidate_pipeline.drawing.dot import dot

        return dot(self.shown(columns=columns, resources=resources))

    def tree(self, *, columns: bool = False, resources: bool = False, ascii_only: bool = False) -> Tree:
        """The graph for the terminal: `rich.print(graph.tree())`; the arguments are those of `mermaid`.

        Args:
            columns: Below each component, what it reads of whom, and what it writes.
            resources: Below each component, the resources it uses.
            ascii_only: Use no characters beyond ASCII.
        """
        from candidate_pipeline.drawing.terminal import tree

        return tree(self.shown(columns=columns, resources=resources), ascii_only=ascii_only)

    def shown(self, *, columns: bool, resources: bool) -> Graph:
        """The graph without the arrows and resources that are not asked for."""
        left_out = {"data"} if not columns else set()
        if resources:
            kept, boxes = self.nodes, self.boxes
        else:
            left_out.add("resource")
            kept = tuple(node for node in self.nodes if node.kind != "resource")
            boxes = tuple(box for box in self.boxes if box.kind != "resources")
        if not columns:
            kept = tuple(attrs.evolve(node, unread=()) for node in kept)
        arrows = tuple(arrow for arrow in self.arrows if arrow.kind not in left_out)
        return attrs.evolve(self, nodes=kept, boxes=boxes, arrows=arrows)


def graph(plan: Plan, resources: Mapping[str, Any] | None = None) -> Graph:
    """The graph of a compiled pipeline.

    Args:
        plan: The pipeline: `app["name"].plan`.
        resources: Names of resource instances; one that is not among them is called after its class.
    """
    from candidate_pipeline.drawing.build import Builder

    return Builder(resources or {}).graph(plan)
