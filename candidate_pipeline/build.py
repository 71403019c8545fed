"""From a spec to instances: resources first, then components, then the compiled plan."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import attrs

from candidate_pipeline.engine.nested import NestedPipeline
from candidate_pipeline.engine.plan import Plan
from candidate_pipeline.engine.policies import Member
from candidate_pipeline.engine.wiring import Compiler
from candidate_pipeline.reuse import Made, Place, Reuse, key_of_component, key_of_pipeline, place_of
from candidate_pipeline.secrecy import NO_SECRETS, Secrets
from candidate_pipeline.spec.fingerprint import Identity, identity_of_spec
from candidate_pipeline.spec.model import ComponentSpec, FileSpec, NestedOptions, PipelineSpec, Stage
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import Problem, SpecError, nearest
from candidate_pipeline.spec.references import references, resolved


@attrs.frozen(eq=False)
class BuiltResource:
    """A resource instance, the names of those that must be open before it, what it is and what it is made of."""

    name: str
    instance: Any
    needs: tuple[str, ...]
    identity: Identity = attrs.field(factory=lambda: Identity(""))
    key: Hashable = None
    secrets: Secrets = NO_SECRETS


@attrs.frozen(eq=False)
class Built:
    """Everything a spec describes, built but not open.

    Args:
        plans: Compiled pipelines by name.
        resources: Resource instances by name, each after those it needs.
        uses: By pipeline, the resources it needs, in opening order.
        made: Components and plans by their place, and what they are made of.
        secrets: What the spec takes from the environment, which is never to be written down.
    """

    plans: Mapping[str, Plan]
    resources: Mapping[str, BuiltResource]
    uses: Mapping[str, tuple[str, ...]]
    made: Mapping[Place, Made] = attrs.field(factory=dict)
    secrets: Secrets = NO_SECRETS


def build(spec: FileSpec, reuse: Reuse | None = None) -> Built:
    """Build and compile every pipeline of a spec; nothing is opened.

    Args:
        spec: The spec.
        reuse: What is taken over instead of being built, if it is the same; default: nothing.

    Raises:
        SpecError: A component refuses its options, or the wiring is wrong.
    """
    return _Builder(spec, Reuse() if reuse is None else reuse).build()


@attrs.define
class _Builder:
    spec: FileSpec
    reuse: Reuse
    problems: list[Problem] = attrs.field(factory=list)
    resources: dict[str, BuiltResource] = attrs.field(factory=dict)
    started: set[str] = attrs.field(factory=set)
    plans: dict[str, Plan | None] = attrs.field(factory=dict)
    made: dict[Place, Made] = attrs.field(factory=dict)
    secrets: Secrets = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.secrets = Secrets(self.spec.document.secrets())

    def build(self) -> Built:
        self.problems += self.spec.problems
        for name in self.spec.resources:
            self._resource(name)
        for name in self.spec.pipelines:
            self._plan(name, ())
        if self.problems:
            raise SpecError(dict.fromkeys(self.problems))
        plans = {name: plan for name, plan in self.plans.items() if plan is not None}
        uses = {name: self._uses(name) for name in self.spec.pipelines if name in plans}
        return Built({name: plans[name] for name in uses}, self.resources, uses, self.made, self.secrets)

    def _plan(self, name: str, chain: tuple[str, ...]) -> Plan | None:
        """A pipeline's plan, after those of the pipelines inside it; `chain` names those that it is inside of."""
        if name not in self.plans:
            self.plans[name] = None
            spec = self.spec.pipelines[name]
            inside = [self._inside(each, path, (*chain, name)) for each, path in inner_pipelines(spec)]
            self.plans[name] = self._pipeline(spec, whole=all(inside))
        return self.plans[name]

    def _inside(self, name: str, path: TomlPath, chain: tuple[str, ...]) -> bool:
        """Whether a pipeline can be part of another; if not, that is reported."""
        if name in chain:
            self._report("E310", f"the pipeline {name!r} would contain itself: {' -> '.join((*chain, name))}", path)
            return False
        if name not in self.spec.pipelines:
            if not self.spec.document.incomplete and self.spec.document.lacks("pipelines", name):  # else a base has it
                others = [other for other in self.spec.pipelines if other not in chain]
                self._report(
                    "E310", f"no pipeline {name!r}", path, nearest(name, others) or f"add a table [pipelines.{name}]"
                )
            return False
        return self._plan(name, chain) is not None

    def _report(self, code: str, message: str, path: TomlPath, hint: str = "") -> None:
        self.problems.append(self.spec.document.problem(code, message, path, hint=hint))

    def _resource(self, name: str) -> None:
        if name in self.started or name not in self.spec.resources:
            return
        self.started.add(name)
        spec = self.spec.resources[name]
        needs = tuple(reference.name for reference in references(spec))
        for need in needs:
            self._resource(need)
        made = self._instance(spec)
        if made is not None:
            self.resources[name] = BuiltResource(
                name, made.instance, needs, self._identity(spec), made.key, self.secrets
            )

    def _instance(self, spec: ComponentSpec, place: Place = ()) -> Made | None:
        """A component at a place, or a resource; one that is the same as before is taken over."""
        instances = {name: resource.instance for name, resource in self.resources.items()}
        try:
            options = {name: resolved(value, instances) for name, value in spec.options.items()}
        except KeyError:  # a resource that failed to build, which was reported
            return None
        plan = self.plans.get(options.get("pipeline", "")) if spec.cls is NestedOptions else None
        key = key_of_component(spec, instances, plan)
        resource = spec.kind == "resource"
        known = (
            self.reuse.resource(spec.name, key, self.spec.resources) if resource else self.reuse.instance(place, key)
        )
        if known is not None and spec.sound:
            return Made(key, known)
        if spec.cls is NestedOptions:
            return None if plan is None else Made(key, NestedPipeline(plan))
        try:
            return Made(key, spec.cls(**options))
        except Exception as error:  # a component's own validation may raise anything
            if spec.sound:  # else what was reported may well be the reason
                self._report("E204", f"{spec.name} ({spec.ref.name}) refused its options: {error}", spec.path)
            return None

    def _pipeline(self, spec: PipelineSpec, *, whole: bool) -> Plan | None:
        """A pipeline's plan; what is wrong with it is found even if a pipeline inside it is missing."""
        before = len(self.problems)
        members = [
            self._member(component, stage, place_of(spec, stage, component))
            for stage, listed in spec.stages.items()
            for component in listed
        ]
        fallbacks = {
            name: self._member(component, "scorers", place_of(spec, "fallbacks", component))
            for name, component in spec.fallbacks.items()
        }
        top_up = None if spec.options.top_up is None else self.plans.get(spec.options.top_up)
        compiler = Compiler(
            name=spec.name,
            options=spec.options,
            inputs=spec.inputs,
            members=[member for member in members if member is not None],
            fallbacks={name: member for name, member in fallbacks.items() if member is not None},
            report=self._report,
            path=spec.path,
            show=spec.show,
            top_up=top_up,
            partial=not whole or spec.partial or None in members or None in fallbacks.values(),
            document=self.spec.document,
        )
        plan = compiler.compile()
        if plan is None or len(self.problems) > before:
            return None
        if compiler.partial:  # components are missing because of mistakes reported before
            return plan
        place: Place = ("pipelines", spec.name)
        key = key_of_pipeline(spec, self.made, top_up)
        plan = self.reuse.plan(place, key, plan)
        self.made[place] = Made(key, plan)
        return plan

    def _member(self, spec: ComponentSpec, stage: Stage, place: Place) -> Member | None:
        component = self._instance(spec, place)
        if component is None:
            return None
        self.made[place] = component
        instance = component.instance
        origin = f"{spec.ref.distribution} {spec.ref.version}"
        made = {} if spec.cls is NestedOptions else {"identity": self._identity(spec)}
        return Member(spec.name, instance, stage, spec.run, spec.ref.name, origin, spec.path, spec.place, **made)

    def _identity(self, spec: ComponentSpec) -> Identity:
        known = {name: resource.identity for name, resource in self.resources.items()}
        return identity_of_spec(spec, self.spec.document, known)

    def _uses(self, name: str) -> tuple[str, ...]:
        """The resources that a pipeline and those inside it need."""
        wanted: set[str] = set()
        stack: list[str] = []
        pipelines = [name]
        for each in pipelines:
            spec = self.spec.pipelines[each]
            stack += [reference.name for component in components_of(spec) for reference in references(component)]
            pipelines += [inner for inner, _ in inner_pipelines(spec) if inner not in pipelines]
        while stack:
            resource = stack.pop()
            if resource not in wanted:
                wanted.add(resource)
                stack += self.resources[resource].needs if resource in self.resources else ()
        return tuple(resource for resource in self.resources if resource in wanted)


def components_of(spec: PipelineSpec) -> list[ComponentSpec]:
    """The components of a pipeline, fallbacks included."""
    return [component for stage in spec.stages.values() for component in stage] + list(spec.fallbacks.values())


def inner_pipelines(spec: PipelineSpec) -> list[tuple[str, TomlPath]]:
    """The names of the pipelines inside one, and where they are named."""
    found: list[tuple[str, TomlPath]] = [
        (component.options["pipeline"], (*component.path, "pipeline"))
        for component in components_of(spec)
        if component.cls is NestedOptions and "pipeline" in component.options
    ]
    if spec.options.top_up is not None:
        found.append((spec.options.top_up, (*spec.path, "top_up")))
    return found
