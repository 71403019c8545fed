"""Compiling: from component instances in stages to a plan, with every wiring mistake reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from candidate_pipeline.engine.contract import contract_faults, declared
from candidate_pipeline.engine.gates import Condition, conditions_of
from candidate_pipeline.engine.identity import identity_of_pipeline
from candidate_pipeline.engine.nested import NestedPipeline
from candidate_pipeline.engine.phases import Phases, Report, viewer_columns
from candidate_pipeline.engine.plan import Budget, Node, Place, Plan
from candidate_pipeline.engine.policies import DEFAULT_ON_ERROR, UPSTREAM_ON_ERROR, Member, Policies
from candidate_pipeline.keys import ITEM_ID, TOPPED_UP, Column, QueryFeature, key_names
from candidate_pipeline.merge import MAX_SOURCES
from candidate_pipeline.options import format_duration
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.model import FALLBACK, STAGES, PipelineOptions, Stage
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import nearest


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
        top_up: The plan of the pipeline that fills short responses.
        document: Where the pipeline was written, if it was.
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
    top_up: Plan | None = None
    document: Document | None = None
    nodes: list[Node] = attrs.field(factory=list)
    places: dict[int, TomlPath] = attrs.field(factory=dict)
    made_from: dict[int, Member] = attrs.field(factory=dict)
    policies: Policies = attrs.field(init=False)

    def compile(self) -> Plan | None:
        """The plan, or `None` if a mistake was reported."""
        features = {feature.name: feature for feature in self.inputs.values()}
        for member in [*self.members, *self.fallbacks.values()]:
            written = getattr(member.component, "writes", ())
            if isinstance(written, tuple | list | frozenset | set):
                features |= {key.name: key for key in written if isinstance(key, QueryFeature)}
        self.policies = Policies(self.report, self.options, features, self._stage_gates(features))
        budgets = self._budgets()
        self._check_options()
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
        most = MAX_SOURCES if self.top_up is None else MAX_SOURCES - 1  # topped-up rows take a source's bit
        if len(stages["sources"]) > most:
            path = (*self.path, "sources")
            self.report("E104", f"at most {most} sources, found {len(stages['sources'])}", path, "")
        self._check_caches()
        phases = Phases(self.report, self.places, self.partial, self.options.semantics)
        ordered = phases.of(stages, self.inputs.values(), () if self.top_up is None else (TOPPED_UP,))
        if ordered is None or not sound:
            return None
        by_stage, available = ordered
        for at, column in enumerate(self.show):
            if column not in available:
                written = [key for key in available if isinstance(key, Column) and key.family is not None]
                hint = nearest(column.name, [key.name for key in written if key.family is column.family])
                self.report("E300", f"show: nobody writes the column {column.name}", (*self.path, "show", at), hint)
                sound = False
        top_up = None if self.top_up is None else self._top_up_node(self.top_up, available, stages)
        deadline = self.options.deadline
        whole = identity_of_pipeline(self, self.nodes, self.made_from)
        return Plan(
            name=self.name,
            inputs=dict(self.inputs),
            phases=by_stage,
            nodes=tuple(self.nodes),
            result_size=self.options.result_size,
            deadline=None if deadline is None else deadline.total_seconds(),
            show=self.show,
            semantics=self.options.semantics,
            budgets=budgets,
            max_refills=self.options.max_refills,
            min_results=self.options.min_results,
            top_up=top_up,
            config_hash=whole.fingerprint,
            plugins=whole.plugins,
        )

    def _check_options(self) -> None:
        options, semantics = self.options, self.options.semantics
        for one, other in (("min_results", "top_up"), ("top_up", "min_results")):
            if getattr(options, one) is not None and getattr(options, other) is None:
                self.report("E103", f"{one} needs the key {other!r} beside it", (*self.path, one), f"add {other}")
        if options.min_results and options.result_size and options.min_results > options.result_size:
            message = f"min_results {options.min_results} is more than result_size {options.result_size}"
            self.report("E104", message, (*self.path, "min_results"), "lower it")
        if semantics == "upstream" and options.top_up is not None:
            message = "top_up has no effect: the published semantics never fills a short response"
            self.report("E311", message, (*self.path, "top_up"), "remove it and min_results")
        if semantics == "strict":
            for member in self.members:
                if member.stage == "dependent_query_hydrators":
                    hint = "list it under query_hydrators: they run as what they read allows"
                    message = f"{member.name}: dependent_query_hydrators are for semantics = 'upstream'"
                    self.report("E311", message, member.place, hint)

    def _stage_gates(self, features: Mapping[str, QueryFeature[Any]]) -> dict[str, tuple[Condition, ...]]:
        def gates(stage: str, when: Mapping[str, Any]) -> tuple[Condition, ...]:
            path = (*self.path, "stages", stage, "when")
            return conditions_of(
                when, features, lambda code, message, hint, at: self.report(code, message, (*path, *at), hint)
            )

        return {stage: gates(stage, options.when) for stage, options in self.options.stages.items()}

    def _budgets(self) -> dict[Place, Budget]:
        budgets: dict[Place, Budget] = {}
        deadline = self.options.deadline
        known = (*STAGES, "top_up")
        for stage, options in self.options.stages.items():
            path: TomlPath = (*self.path, "stages", stage)
            if stage not in known:
                self.report("E101", f"stages: no stage {stage!r}", path, nearest(stage, known))
                continue
            for key in ("timeout", "reserve"):
                given = getattr(options, key)
                if given is None:
                    continue
                if key == "reserve" and deadline is None:
                    message = f"{stage}: time is kept back before the deadline, but the pipeline has none"
                    self.report("E305", message, (*path, key), "add deadline")
                elif deadline is not None and given >= deadline:
                    message = f"{stage}: {key} {format_duration(given)} leaves nothing of the deadline "
                    self.report("E305", message + format_duration(deadline), (*path, key), "shorten it")
            timeout, reserve = options.timeout, options.reserve
            budgets[stage] = Budget(  # type: ignore[index]  # tested against the stages there are
                None if timeout is None else timeout.total_seconds(),
                0.0 if reserve is None else reserve.total_seconds(),
            )
        return budgets

    def _node(self, member: Member, chain: tuple[str, ...] = ()) -> Node | None:
        """A component's node and, before it, those of its fallbacks; `chain` names what it is a fallback of."""
        faults = contract_faults(member.component, member.kind)
        for fault in faults:
            self.report("E203", f"{member.name}: {fault}", member.place, "")
        if faults:
            return None
        component, kind, run = member.component, member.kind, member.run
        own_safety = bool(getattr(component, "safety", False))
        if own_safety and run.safety is False:
            what = f"{member.name} is a safety filter; a spec cannot lower that"
            self.report("E306", what, member.at("safety"), "remove the key")
        safety = kind == "filter" and (own_safety or bool(run.safety))
        self.policies.check(member)
        chain = (*chain, member.name)
        made: dict[str, Node | None] = {}
        on_error, fallback = self._policy(member, "on_error", safety, chain, made)
        on_timeout, late = on_error, fallback
        if run.on_timeout is not None:
            on_timeout, late = self._policy(member, "on_timeout", safety, chain, made)
        gates = self.policies.gates(member, safety)
        reads = [*declared(component, "reads"), *(gate.feature for gate in gates)]
        node = Node(
            index=len(self.nodes),
            name=member.name,
            use=member.use or type(component).__name__,
            origin=member.origin,
            kind=kind,
            stage=member.stage,
            component=component,
            method=member.method,
            mode=member.mode,
            prepare=getattr(component, "prepare", None) if kind in {"hydrator", "scorer"} else None,
            features=tuple(dict.fromkeys(key for key in reads if isinstance(key, QueryFeature))),
            columns=tuple(key for key in reads if isinstance(key, Column)),
            writes=frozenset(declared(component, "writes")),
            timeout=None if run.timeout is None else run.timeout.total_seconds(),
            on_error=on_error,
            fallback=fallback,
            on_timeout=on_timeout,
            late=late,
            safety=safety,
            listwise=bool(getattr(component, "listwise", False)),
            gates=gates,
            cache=self.policies.cache(member),
            breaker=run.breaker,
            threads=4 if run.threads is None else run.threads,
            effect=self.policies.effect(member),
            sync=bool(run.sync),
            inner=component.plan if isinstance(component, NestedPipeline) else None,
            fingerprint=member.identity.fingerprint,
        )
        self.nodes.append(node)
        self.places[node.index] = member.place
        self.made_from[node.index] = member
        return node

    def _policy(
        self, member: Member, key: str, safety: bool, chain: tuple[str, ...], made: dict[str, Node | None]
    ) -> tuple[str, Node | None]:
        """What a failure (`on_error`) or a timeout (`on_timeout`) does."""
        defaults = UPSTREAM_ON_ERROR if self.options.semantics == "upstream" else DEFAULT_ON_ERROR
        default = "fail" if safety else defaults[member.kind]
        chosen, path = getattr(member.run, key), member.at(key)
        if chosen is None:
            return default, None
        if chosen not in {"skip", "fail"} and not chosen.startswith(FALLBACK):
            wanted = "wanted 'skip', 'fail' or 'fallback:<component>'"
            self.report("E104", f"{key}: {wanted}, found {chosen!r}", path, "")
        elif member.kind == "side_effect" and chosen != "skip":
            if chosen == "fail" and member.run.sync:
                return chosen, None
            what = f"{member.name}: a side effect runs after the response, so its failure is only logged"
            self.report("E306", what, path, "remove the key, or add sync = true to fail the request")
        elif chosen == "skip" and (safety or member.kind == "selector"):
            what = "a safety filter" if safety else "a selector"
            self.report(
                "E306", f"{member.name}: {what} cannot be skipped", path, "use 'fail' or 'fallback:<component>'"
            )
        elif chosen.startswith(FALLBACK):
            name = chosen.removeprefix(FALLBACK)
            if name not in made:
                made[name] = self._fallback(member, name, path, safety, chain)
            return default, made[name]
        else:
            return chosen, None
        return default, None

    def _fallback(self, member: Member, name: str, path: TomlPath, safety: bool, chain: tuple[str, ...]) -> Node | None:
        if name in chain:
            hint = "let one of them end the chain with 'skip' or 'fail'"
            self.report("E307", f"the fallback leads back to {name!r}: {' -> '.join((*chain, name))}", path, hint)
            return None
        target = self.fallbacks.get(name)
        if target is None:
            if not self.partial:
                hint = nearest(name, self.fallbacks)
                self.report("E307", f"{member.name}: no component {name!r} to fall back to", path, hint)
            return None
        node = self._node(attrs.evolve(target, stage=member.stage), chain)
        if node is not None and safety and not node.safety:
            message = f"{member.name}: the fallback of a safety filter must be one too, {node.name} is not"
            self.report("E306", message, path, "name a safety filter, or remove the key")
        return node

    def _check_caches(self) -> None:
        """Report caches whose key leaves out a column that may differ from viewer to viewer."""
        cached = [node for node in self.nodes if node.cache is not None and node.kind == "hydrator"]
        personal = viewer_columns(self.nodes) if cached else set()
        for node in cached:
            key = () if node.cache is None else node.cache.columns
            whole = ITEM_ID in key
            left = [column for column in node.columns if column not in key and (column in personal or not whole)]
            if left and key:  # without a column in the key, that was reported
                why = "they may differ between viewers" if whole else f"and {ITEM_ID.name} is not in it either"
                message = f"{node.name} reads {key_names(left)}, which the key of its cache leaves out; {why}"
                members = [*self.members, *self.fallbacks.values()]
                path = next(member.at("cache") for member in members if member.name == node.name)
                self.report("E309", message, (*path, "key"), "add them to key, or leave key out")

    def _top_up_node(self, plan: Plan, available: set[Any], stages: Mapping[Stage, list[Node]]) -> Node:
        """The node of the pipeline that fills short responses."""
        path: TomlPath = (*self.path, "top_up")
        gates = self.policies.stage_gates.get("top_up", ())
        nested = NestedPipeline(plan)
        missing = [feature for feature in nested.reads if feature not in available]
        if missing:
            message = (
                f"top_up: the pipeline {plan.name!r} takes {key_names(missing)}, which {self.name!r} does not have"
            )
            self.report("E310", message, path, "add an input, or a query hydrator that writes it")
        screened = {node.use for phases in plan.phases.values() for phase in phases for node in phase if node.safety}
        for nodes in stages.values():
            for node in nodes:
                if node.safety and node.use not in screened:
                    message = f"top_up: the pipeline {plan.name!r} lacks the safety filter {node.use} of {self.name!r}"
                    self.report("E310", message, path, f"add it to the filters of {plan.name}")
        node = Node(
            index=len(self.nodes),
            name=plan.name,
            use="pipeline",
            origin="",
            kind="source",
            stage="top_up",
            component=nested,
            method=nested.fetch,
            mode="async",
            features=tuple(dict.fromkeys(gate.feature for gate in gates)),
            writes=frozenset(nested.writes),
            on_error="skip",
            on_timeout="skip",
            gates=gates,
            inner=plan,
            fingerprint=plan.config_hash,
        )
        self.nodes.append(node)
        return node
