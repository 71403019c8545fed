"""From a compiled plan to its graph."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from candidate_pipeline.drawing.flow import Flow, Writers
from candidate_pipeline.drawing.resources import resource_name, resources_of
from candidate_pipeline.drawing.words import marks, notes, pipeline_notes, policy, stage_notes
from candidate_pipeline.engine.plan import Node as Member
from candidate_pipeline.engine.plan import Phase, Plan
from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.graph import Arrow, ArrowKind, Box, BoxKind, Graph, Node
from candidate_pipeline.keys import ITEM_ID, SCORE, TOPPED_UP, Key
from candidate_pipeline.spec.model import STAGES, Stage

_BEFORE_RESPONSE: Final[tuple[Stage, ...]] = tuple(stage for stage in STAGES if stage != "side_effects")


@attrs.frozen
class _Block:
    """What runs at one time: where arrows to it end, and where those from it start."""

    entry: str
    exits: tuple[str, ...]


@attrs.frozen
class _Scope:
    """One pipeline while it is drawn: its plan, its box, what names in drawings begin with, and its keys."""

    plan: Plan
    box: str
    prefix: str
    flow: Flow = attrs.field(factory=Flow)


@attrs.define
class Builder:
    """Draws up one graph.

    Args:
        names: Names of resource instances.
    """

    names: Mapping[str, Any]
    boxes: list[Box] = attrs.field(factory=list)
    nodes: dict[str, Node] = attrs.field(factory=dict)
    resources: dict[str, Node] = attrs.field(factory=dict)
    arrows: list[Arrow] = attrs.field(factory=list)
    data: dict[tuple[str, str], list[Key]] = attrs.field(factory=dict)
    taken: set[str] = attrs.field(factory=set)
    known: dict[int, str] = attrs.field(factory=dict)
    shelf: str = ""

    def graph(self, plan: Plan) -> Graph:
        """The graph of a plan."""
        box = self._box("pipeline", plan.name, "pipeline", None, pipeline_notes(plan))
        self._pipeline(_Scope(plan, box, ""), {}, None)
        flowing = [
            Arrow(start, end, "data", tuple(key.name for key in keys)) for (start, end), keys in self.data.items()
        ]
        nodes = (*self.resources.values(), *self.nodes.values())
        boxes = sorted(self.boxes, key=lambda box: box.kind != "resources")
        return Graph(plan.name, tuple(boxes), nodes, (*self.arrows, *flowing))

    # Parts

    def _id(self, wanted: str) -> str:
        """A name for drawings: letters, digits and underscores, and no other part's."""
        slug = re.sub(r"[^a-z0-9]+", "_", wanted.lower()).strip("_") or "unnamed"
        found, again = slug, 2
        while found in self.taken:
            found, again = f"{slug}_{again}", again + 1
        self.taken.add(found)
        return found

    def _box(self, wanted: str, name: str, kind: BoxKind, parent: str | None, said: Iterable[str] = ()) -> str:
        box = Box(self._id(wanted), name, kind, parent, tuple(said))
        self.boxes.append(box)
        return box.id

    def _join(self, starts: Iterable[str], end: str, kind: ArrowKind = "order", note: str = "") -> None:
        self.arrows += [Arrow(start, end, kind, (), note) for start in starts]

    def _receive(self, node: str, keys: Iterable[Key], writers: Writers) -> None:
        """Arrows to a node from those who wrote keys last."""
        for key in dict.fromkeys(keys):
            for writer in writers.get(key, ()):
                self.data.setdefault((writer, node), []).append(key)

    # Pipelines

    def _pipeline(self, scope: _Scope, outside: Writers, component: Member | None) -> str:
        """Draw a pipeline into its box; the node it ends in.

        Args:
            scope: The pipeline.
            outside: Who wrote the keys of the pipeline around it.
            component: The component that stands for it there.
        """
        plan, flow = scope.plan, scope.flow
        start = self._request(scope, outside)
        before: tuple[str, ...] = (start,)
        for stage in _BEFORE_RESPONSE:
            before = self._stage(scope, stage, before)
        if plan.top_up is not None:
            block = self._top_up(plan.top_up, scope)
            self._join(before, block.entry, "top_up", f"fewer than {plan.min_results} rows")
            before += block.exits
        end = self._response(scope) if component is None else self._passed_on(component, scope, outside)
        self._join(before, end)
        flow.next_step()
        self._stage(scope, "side_effects", (end,))
        for node, key in flow.unread():
            found = self.nodes[node]
            if node != start:
                self.nodes[node] = attrs.evolve(found, unread=(*found.unread, key.name))
        return end

    def _request(self, scope: _Scope, outside: Writers) -> str:
        """Where a pipeline starts."""
        node, inputs = self._id(f"{scope.prefix}request"), scope.plan.inputs
        features = tuple(inputs.values())
        self.nodes[node] = Node(
            node,
            "request",
            "request",
            scope.box,
            notes=tuple(f"{name} = {feature.name}" for name, feature in inputs.items()),
            reads=tuple(feature.name for feature in features if feature in outside),
            writes=tuple(feature.name for feature in features),
        )
        self._receive(node, features, outside)
        scope.flow.write(node, features)
        scope.flow.next_step()
        return node

    def _response(self, scope: _Scope) -> str:
        """Where the outermost pipeline ends."""
        plan, flow = scope.plan, scope.flow
        node = self._id(f"{scope.prefix}response")
        shown: tuple[Key, ...] = tuple(
            dict.fromkeys(column for column in (*plan.show, SCORE) if column in flow.writers)
        )
        rows = () if plan.result_size is None else (f"at most {plan.result_size} rows",)
        reads = tuple(column.name for column in shown)
        self.nodes[node] = Node(node, "response", "response", scope.box, notes=rows, reads=reads)
        self._receive(node, shown, flow.writers)
        flow.read(shown)
        return node

    def _passed_on(self, component: Member, scope: _Scope, outside: Writers) -> str:
        """Where an inner pipeline ends: the component that passes its columns on to the pipeline around it."""
        passed: list[Key] = [column for column in component.written_columns if column in scope.flow.writers]
        gates: list[Key] = [gate.feature for gate in component.gates]
        node = self._component(component, scope.box, scope.prefix, 0, (*gates, *passed))
        self._receive(node, gates, outside)
        self._receive(node, passed, scope.flow.writers)
        scope.flow.read(passed)
        return node

    def _stage(self, scope: _Scope, stage: Stage, before: tuple[str, ...]) -> tuple[str, ...]:
        """Draw a stage, after what ran before it; where arrows from it start."""
        phases = scope.plan.phases.get(stage, ())
        if stage == "sources":  # the engine asks them all at once
            phases = (tuple(member for phase in phases for member in phase),)
        phases = tuple(phase for phase in phases if phase)
        if not phases:
            return before
        box = self._box(f"{scope.prefix}{stage}", stage, "stage", scope.box, stage_notes(scope.plan, stage))
        for number, phase in enumerate(phases):
            inside = box
            if len(phases) > 1 and len(phase) > 1:
                inside = self._box(f"{scope.prefix}{stage}_together_{number + 1}", "together", "phase", box)
            block = self._phase(phase, number, inside, scope)
            self._join(before, block.entry)
            before = block.exits
        return before

    def _phase(self, phase: Phase, number: int, box: str, scope: _Scope) -> _Block:
        blocks = [self._place(member, number, box, scope) for member in phase]
        scope.flow.next_step()
        return blocks[0] if len(blocks) == 1 else _Block(box, (box,))

    # Components

    def _place(self, member: Member, number: int, box: str, scope: _Scope) -> _Block:
        """A component and what takes over from it."""
        block = self._member(member, number, box, scope)
        exits = block.exits
        for fallback in member.fallbacks:
            other = self._place(fallback, number, box, scope)
            late = None if member.mode == "plain" else member.late  # a plain def cannot be cut off
            whens = (("error", member.fallback), ("timeout", late))
            when = " or ".join(word for word, node in whens if node is fallback)
            self._join(block.exits, other.entry, "fallback", f"on {when}")
            stand_in = self.nodes[other.exits[0]]
            self.nodes[stand_in.id] = attrs.evolve(stand_in, marks=(*stand_in.marks, "fallback"))
            exits += other.exits
        return _Block(block.entry, exits)

    def _member(self, member: Member, number: int, box: str, scope: _Scope) -> _Block:
        """A component, or the pipeline that answers for it."""
        flow = scope.flow
        if member.inner is None:
            reads: tuple[Key, ...] = (*member.features, *member.columns)
            node = self._component(member, box, f"{scope.prefix}{member.stage}_{member.name}", number, reads)
            self._receive(node, reads, flow.writers)
            flow.read(reads)
            block = _Block(node, (node,))
        else:
            block = self._inner(member, member.inner, box, scope)
        given: tuple[Key, ...] = (ITEM_ID,) if member.kind == "source" else ()
        flow.write(block.exits[0], (*given, *member.written_features, *member.written_columns))
        return block

    def _inner(self, member: Member, plan: Plan, parent: str, scope: _Scope) -> _Block:
        """A pipeline inside another one, in a box of its own."""
        kind: BoxKind = "top_up" if member.stage == "top_up" else "nested"
        prefix = f"{scope.prefix}{member.stage}_{member.name}_"
        name = plan.name if kind == "top_up" else f"{member.name}: {plan.name}"
        box = self._box(f"{prefix}pipeline", name, kind, parent, pipeline_notes(plan))
        scope.flow.read((*member.features, *plan.inputs.values()))
        return _Block(box, (self._pipeline(_Scope(plan, box, prefix), scope.flow.writers, member),))

    def _top_up(self, member: Member, scope: _Scope) -> _Block:
        """The pipeline that fills short responses; its rows stand beside those there are."""
        if member.inner is None:
            raise MisconfigurationError(f"{member.name}: only a pipeline can top up a response")
        block = self._inner(member, member.inner, scope.box, scope)
        scope.flow.write(block.exits[0], (*member.written_columns, TOPPED_UP), beside=True)
        scope.flow.next_step()
        return block

    def _component(self, member: Member, box: str, wanted: str, number: int, reads: Sequence[Key]) -> str:
        """A component's node, with the arrows to it from resources."""
        engine: tuple[Key, ...] = (TOPPED_UP,) if member.stage == "top_up" else ()
        written = (*member.written_features, *member.written_columns, *engine)
        node = self._id(wanted)
        self.nodes[node] = Node(
            node,
            member.name,
            member.kind,
            box,
            use=member.use,
            stage=member.stage,
            phase=number,
            marks=marks(member),
            notes=notes(member),
            on_error=policy(member.on_error, member.fallback),
            on_timeout=policy(member.on_timeout, member.late),
            reads=tuple(dict.fromkeys(key.name for key in reads)),
            writes=tuple(dict.fromkeys(key.name for key in written)),
        )
        self._join([self._resource(each) for each in resources_of(member.component)], node, "resource")
        return node

    def _resource(self, instance: Any) -> str:
        """A resource's node, after those of the resources it uses itself."""
        if id(instance) in self.known:
            return self.known[id(instance)]
        needs = [self._resource(other) for other in resources_of(instance)]
        self.shelf = self.shelf or self._box("resources", "resources", "resources", None)
        name = resource_name(instance, self.names)
        node = self.known[id(instance)] = self._id(f"resource_{name}")
        self.resources[node] = Node(node, name, "resource", self.shelf, use=type(instance).__name__)
        self._join(needs, node, "resource")
        return node
