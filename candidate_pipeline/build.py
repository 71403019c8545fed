"""From a spec to instances: resources first, then components, then the compiled plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from candidate_pipeline.engine.plan import Plan
from candidate_pipeline.engine.wiring import Compiler, Member
from candidate_pipeline.spec.model import ComponentSpec, FileSpec, PipelineSpec, Stage
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import Problem, SpecError
from candidate_pipeline.spec.references import references, resolved


@attrs.frozen(eq=False)
class BuiltResource:
    """A resource instance and the names of the resources that must be open before it."""

    name: str
    instance: Any
    needs: tuple[str, ...]


@attrs.frozen(eq=False)
class Built:
    """Everything a spec describes, built but not open.

    Args:
        plans: Compiled pipelines by name.
        resources: Resource instances by name, each after those it needs.
        uses: By pipeline, the resources it needs, in opening order.
    """

    plans: Mapping[str, Plan]
    resources: Mapping[str, BuiltResource]
    uses: Mapping[str, tuple[str, ...]]


def build(spec: FileSpec) -> Built:
    """Build and compile every pipeline of a spec; nothing is opened.

    Raises:
        SpecError: A component refuses its options, or the wiring is wrong.
    """
    return _Builder(spec).build()


@attrs.define
class _Builder:
    spec: FileSpec
    problems: list[Problem] = attrs.field(factory=list)
    resources: dict[str, BuiltResource] = attrs.field(factory=dict)
    started: set[str] = attrs.field(factory=set)

    def build(self) -> Built:
        self.problems += self.spec.problems
        for name in self.spec.resources:
            self._resource(name)
        plans, uses = {}, {}
        for name, pipeline in self.spec.pipelines.items():
            plan = self._pipeline(pipeline)
            if plan is not None:
                plans[name] = plan
                uses[name] = self._uses(pipeline)
        if self.problems:
            raise SpecError(dict.fromkeys(self.problems))
        return Built(plans, self.resources, uses)

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
        instance = self._instance(spec)
        if instance is not None:
            self.resources[name] = BuiltResource(name, instance, needs)

    def _instance(self, spec: ComponentSpec) -> Any:
        instances = {name: resource.instance for name, resource in self.resources.items()}
        try:
            options = {name: resolved(value, instances) for name, value in spec.options.items()}
        except KeyError:  # a resource that failed to build, which was reported
            return None
        try:
            return spec.cls(**options)
        except Exception as error:  # a component's own validation may raise anything
            if spec.sound:  # else what was reported may well be the reason
                self._report("E204", f"{spec.name} ({spec.ref.name}) refused its options: {error}", spec.path)
            return None

    def _pipeline(self, spec: PipelineSpec) -> Plan | None:
        before = len(self.problems)
        members = [self._member(component, stage) for stage, listed in spec.stages.items() for component in listed]
        fallbacks = {name: self._member(component, "scorers") for name, component in spec.fallbacks.items()}
        compiler = Compiler(
            name=spec.name,
            options=spec.options,
            inputs=spec.inputs,
            members=[member for member in members if member is not None],
            fallbacks={name: member for name, member in fallbacks.items() if member is not None},
            report=self._report,
            path=spec.path,
            show=spec.show,
            partial=spec.partial or None in members or None in fallbacks.values(),
        )
        plan = compiler.compile()
        return plan if len(self.problems) == before else None

    def _member(self, spec: ComponentSpec, stage: Stage) -> Member | None:
        instance = self._instance(spec)
        if instance is None:
            return None
        origin = f"{spec.ref.distribution} {spec.ref.version}"
        return Member(spec.name, instance, stage, spec.run, spec.ref.name, origin, spec.path, spec.place)

    def _uses(self, pipeline: PipelineSpec) -> tuple[str, ...]:
        specs = [spec for stage in pipeline.stages.values() for spec in stage] + list(pipeline.fallbacks.values())
        wanted: set[str] = set()
        stack = [reference.name for spec in specs for reference in references(spec)]
        while stack:
            name = stack.pop()
            if name not in wanted:
                wanted.add(name)
                stack += self.resources[name].needs if name in self.resources else ()
        return tuple(name for name in self.resources if name in wanted)
