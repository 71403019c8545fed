"""Compiling: from component instances in stages to a plan, with every wiring mistake reported."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from candidate_pipeline.components import METHODS
from candidate_pipeline.engine.contract import SYNC, contract_faults, declared
from candidate_pipeline.engine.plan import Node, Phase, Plan
from candidate_pipeline.keys import ITEM_ID, Column, Key, QueryFeature
from candidate_pipeline.merge import MAX_SOURCES
from candidate_pipeline.options import format_duration
from candidate_pipeline.plugin import Kind
from candidate_pipeline.spec.model import FALLBACK, STAGES, PipelineOptions, RunPolicy, Stage
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import nearest

#: What a failure does where the spec does not say.
DEFAULT_ON_ERROR: Final[Mapping[Kind, str]] = {
    "query_hydrator": "skip",
    "source": "skip",
    "hydrator": "skip",
    "filter": "skip",
    "scorer": "fail",
    "selector": "fail",
    "side_effect": "skip",
}

_CONCURRENT: Final = frozenset({"query_hydrators", "sources", "hydrators", "post_selection_hydrators", "side_effects"})

#: Called as `report(code, message, path, hint)`.
Report = Callable[[str, str, TomlPath, str], None]


@attrs.frozen(eq=False)
class Member:
    """A component instance in its stage, before compiling.

    Args:
        name: Its name in the spec.
        component: The instance.
        stage: Its stage.
        run: Its engine settings.
        use: Its registered name or class.
        origin: Distribution and version.
        path: Where its settings stand, for messages.
        place: Where it is listed, for messages.
    """

    name: str
    component: Any
    stage: Stage
    run: RunPolicy = attrs.field(factory=RunPolicy)
    use: str = ""
    origin: str = ""
    path: TomlPath = ()
    place: TomlPath = ()

    @property
    def kind(self) -> Kind:
        """The kind its stage holds."""
        return STAGES[self.stage]


@attrs.define(eq=False)
class Compiler:
    """Compiles one pipeline.

    Args:
        name: The pipeline's name.
        options: Its settings.
        inputs: Its request parameters.
        members: Its components, in order within each stage.
        fallbacks: Components that take over from others, by name.
        report: Where mistakes go.
        path: Where the pipeline stands, for messages.
        show: The columns that `run` prints.
        partial: Whether components are missing because of mistakes reported elsewhere. What nobody writes is then
            passed over, for they may be who does.
    """

    name: str
    options: PipelineOptions
    inputs: Mapping[str, QueryFeature[Any]]
    members: list[Member]
    fallbacks: Mapping[str, Member]
    report: Report
    path: TomlPath = ()
    show: tuple[Column[Any], ...] = ()
    partial: bool = False
    nodes: list[Node] = attrs.field(factory=list)
    places: dict[int, TomlPath] = attrs.field(factory=dict)

    def compile(self) -> Plan | None:
        """The plan, or `None` if a mistake was reported."""
        stages: dict[Stage, list[Node]] = {stage: [] for stage in STAGES}
        sound = not self.partial
        for member in self.members:
            if any(node.name == member.name for node in stages[member.stage]):
                hint = "give one of them a name of its own"
                self.report("E308", f"{member.name!r} stands twice in {member.stage}", member.place, hint)
                sound = False
                continue
            node = self._node(member)
            if node is not None:
                stages[member.stage].append(node)
            else:
                self.partial, sound = True, False
        sources = stages["sources"]
        if len(sources) > MAX_SOURCES:
            self.report("E104", f"at most {MAX_SOURCES} sources, found {len(sources)}", (*self.path, "sources"), "")
        phases = self._phases(stages)
        if phases is None or not sound:
            return None
        deadline = self.options.deadline
        return Plan(
            self.name,
            dict(self.inputs),
            phases,
            tuple(self.nodes),
            self.options.result_size,
            None if deadline is None else deadline.total_seconds(),
            self.show,
        )

    def _node(self, member: Member, chain: tuple[str, ...] = ()) -> Node | None:
        """A component's node and, before it, those of its fallbacks; `chain` names what it is a fallback of."""
        faults = contract_faults(member.component, member.kind)
        for fault in faults:
            self.report("E203", f"{member.name}: {fault}", member.place, "")
        if faults:
            return None
        component, kind, run = member.component, member.kind, member.run
        method = getattr(component, METHODS[kind])
        blocking = bool(getattr(component, "blocking", False))
        own_safety = bool(getattr(component, "safety", False))
        if own_safety and run.safety is False:
            self.report(
                "E306",
                f"{member.name} is a safety filter; a spec cannot lower that",
                (*member.path, "run", "safety"),
                "remove the key",
            )
        if run.safety is not None and kind != "filter":
            self.report("E306", "only a filter has safety", (*member.path, "run", "safety"), "remove the key")
        safety = kind == "filter" and (own_safety or bool(run.safety))
        self._check_timeout(member, method, blocking)
        on_error, fallback = self._policy(member, safety, (*chain, member.name))
        reads = declared(component, "reads")
        node = Node(
            index=len(self.nodes),
            name=member.name,
            use=member.use or type(component).__name__,
            origin=member.origin,
            kind=kind,
            stage=member.stage,
            component=component,
            method=method,
            prepare=getattr(component, "prepare", None) if kind in {"hydrator", "scorer"} else None,
            features=tuple(key for key in reads if isinstance(key, QueryFeature)),
            columns=tuple(key for key in reads if isinstance(key, Column)),
            writes=frozenset(declared(component, "writes")),
            timeout=None if run.timeout is None else run.timeout.total_seconds(),
            on_error=on_error,
            fallback=fallback,
            safety=safety,
            listwise=bool(getattr(component, "listwise", False)),
            blocking=blocking,
        )
        self.nodes.append(node)
        self.places[node.index] = member.place
        return node

    def _check_timeout(self, member: Member, method: Callable[..., Any], blocking: bool) -> None:
        timeout, path = member.run.timeout, (*member.path, "run", "timeout")
        if timeout is None:
            return
        what = f"{member.name}.{METHODS[member.kind]} is a plain def, which cannot be interrupted"
        if member.kind in SYNC:
            self.report("E304", what, path, f"remove the timeout: a {member.kind} is synchronous")
        elif not blocking and not inspect.iscoroutinefunction(method):
            self.report("E304", what, path, "make it async def, or set blocking = True on its class")
        deadline = self.options.deadline
        if deadline is not None and timeout > deadline and member.kind != "side_effect":
            message = f"the timeout {format_duration(timeout)} is longer than the deadline {format_duration(deadline)}"
            self.report("E305", f"{member.name}: {message}", path, "shorten the one or lengthen the other")

    def _policy(self, member: Member, safety: bool, chain: tuple[str, ...]) -> tuple[str, Node | None]:
        default = "fail" if safety else DEFAULT_ON_ERROR[member.kind]
        chosen, path = member.run.on_error, (*member.path, "run", "on_error")
        if chosen is None:
            return default, None
        if chosen not in {"skip", "fail"} and not chosen.startswith(FALLBACK):
            wanted = "wanted 'skip', 'fail' or 'fallback:<component>'"
            self.report("E104", f"on_error: {wanted}, found {chosen!r}", path, "")
        elif member.kind == "side_effect" and chosen != "skip":
            what = f"{member.name}: a side effect runs after the response, so its failure is only logged"
            self.report("E306", what, path, "remove the key")
        elif chosen == "skip" and (safety or member.kind == "selector"):
            what = "a safety filter" if safety else "a selector"
            self.report(
                "E306", f"{member.name}: {what} cannot be skipped", path, "use 'fail' or 'fallback:<component>'"
            )
        elif chosen.startswith(FALLBACK):
            return default, self._fallback(member, chosen.removeprefix(FALLBACK), safety, chain)
        else:
            return chosen, None
        return default, None

    def _fallback(self, member: Member, name: str, safety: bool, chain: tuple[str, ...]) -> Node | None:
        path = (*member.path, "run", "on_error")
        if name in chain:
            self.report("E307", f"the fallback leads back to {name!r}: {' -> '.join((*chain, name))}", path, "")
            return None
        target = self.fallbacks.get(name)
        if target is None:
            if not self.partial:
                hint = nearest(name, self.fallbacks)
                self.report("E307", f"{member.name}: no component {name!r} to fall back to", path, hint)
            return None
        node = self._node(attrs.evolve(target, stage=member.stage), chain)
        if node is not None and safety and not node.safety:
            self.report("E306", f"the fallback of a safety filter must be one too, {node.name} is not", path, "")
        return node

    def _phases(self, stages: Mapping[Stage, list[Node]]) -> dict[Stage, tuple[Phase, ...]] | None:
        producers: dict[Key, Stage] = {}
        for stage, nodes in stages.items():
            for node in nodes:
                for key in _writes(node):
                    producers.setdefault(key, stage)
        available: set[Key] = {*self.inputs.values(), ITEM_ID}
        phases: dict[Stage, tuple[Phase, ...]] = {}
        sound = True
        for stage, nodes in stages.items():
            ordered = self._stage_phases(stage, nodes, available, producers)
            sound = sound and ordered is not None
            phases[stage] = ordered or ()
            available.update(key for node in nodes for key in node.writes)
        for at, column in enumerate(self.show):
            if column not in available and not self.partial:
                self.report("E300", f"show: nobody writes the column {column.name}", (*self.path, "show", at), "")
                sound = False
        return phases if sound else None

    def _stage_phases(
        self, stage: Stage, nodes: list[Node], available: set[Key], producers: Mapping[Key, Stage]
    ) -> tuple[Phase, ...] | None:
        sound = True
        known = set(available)
        depends: dict[int, set[int]] = {}
        concurrent = stage in _CONCURRENT
        for node in nodes:
            depends[node.index] = set()
            for key in dict.fromkeys(_reads(node)):
                others = {other.index for other in nodes if other is not node and key in other.writes}
                if concurrent and others:
                    depends[node.index] |= others
                elif key not in known:
                    own = key in node.writes and not others
                    sound = self._report_missing(node, key, stage, producers, own) and sound
            if not concurrent:
                known |= node.writes
        if not concurrent:
            return tuple((node,) for node in nodes) if sound else None
        phases = self._levels(stage, nodes, depends)
        if phases is None:
            return None
        if stage != "sources" and not self._check_double_writes(phases):
            return None
        return phases if sound else None

    def _report_missing(self, node: Node, key: Key, stage: Stage, producers: Mapping[Key, Stage], own: bool) -> bool:
        """Report a key that a component reads and nobody wrote before it; true if that is no mistake after all."""
        what = "query feature" if isinstance(key, QueryFeature) else "column"
        later = producers.get(key)
        if self.partial and (later is None or later == stage):
            return True
        if later == stage and own:
            message = f"{node.name} reads the {what} {key.name}, which only it writes"
            self.report("E300", message, self.places[node.index], "add a component that writes it before")
            return False
        if later is None:
            hint = "add a component that writes it" + (" or an input" if isinstance(key, QueryFeature) else "")
            message = f"{node.name} reads the {what} {key.name}, which nobody writes"
            self.report("E300", message, self.places[node.index], hint)
            return False
        kind = "safety filter" if node.safety else node.kind.replace("_", " ")
        when = "later in the same stage" if later == stage else f"only in {later}"
        message = f"the {kind} {node.name} reads the {what} {key.name}, which is written {when}"
        self.report("E301", message, self.places[node.index], "move one of them")
        return False

    def _levels(self, stage: Stage, nodes: list[Node], depends: Mapping[int, set[int]]) -> tuple[Phase, ...] | None:
        done: set[int] = set()
        left = list(nodes)
        phases = []
        while left:
            ready = tuple(node for node in left if depends[node.index] <= done)
            if not ready:
                circle = _circle(left, depends)
                names = " -> ".join(node.name for node in [*circle, circle[0]])
                message = f"components of {stage} need each other's output: {names}"
                self.report("E303", message, self.places[circle[0].index], "split one of them in two")
                return None
            phases.append(ready)
            done.update(node.index for node in ready)
            left = [node for node in left if node.index not in done]
        return tuple(phases)

    def _check_double_writes(self, phases: Iterable[Phase]) -> bool:
        sound = True
        for phase in phases:
            owner: dict[Key, Node] = {}
            for node in phase:
                for key in sorted(_writes(node), key=lambda key: key.name):
                    if key in owner:
                        message = f"{owner[key].name} and {node.name} both write {key.name} at the same time"
                        hint = "remove one, or let the later one read what the earlier one writes"
                        self.report("E302", message, self.places[node.index], hint)
                        sound = False
                    owner.setdefault(key, node)
        return sound


def _circle(left: list[Node], depends: Mapping[int, set[int]]) -> list[Node]:
    """A circle among components none of which can run first, each before the one whose output it needs."""
    nodes = {node.index: node for node in left}
    walk = [left[0].index]
    while True:
        following = min(depends[walk[-1]] & nodes.keys())
        if following in walk:
            circle = walk[walk.index(following) :]
            start = circle.index(min(circle))
            return [nodes[index] for index in circle[start:] + circle[:start]]
        walk.append(following)


def _reads(node: Node) -> tuple[Key, ...]:
    """What a component and its fallbacks read."""
    own: tuple[Key, ...] = (*node.features, *node.columns)
    return own if node.fallback is None else (*own, *_reads(node.fallback))


def _writes(node: Node) -> frozenset[Key]:
    """What a component or one of its fallbacks writes."""
    return node.writes if node.fallback is None else node.writes | _writes(node.fallback)
