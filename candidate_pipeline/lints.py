"""Warnings about specs without mistakes: what runs for nothing, and what may not end.

Each is a fact about the wiring, not a matter of taste, and says how to mend it. What Python code reads from an outcome
cannot be seen here, so nothing is said of hydrators after selection, whose columns are for the response.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from candidate_pipeline.build import components_of, inner_pipelines
from candidate_pipeline.engine.phases import all_reads
from candidate_pipeline.engine.plan import Node, Plan
from candidate_pipeline.keys import SCORE, Column, Key, key_names
from candidate_pipeline.merge import ITEM_TEXT_ID
from candidate_pipeline.spec.model import FileSpec, PipelineSpec, Stage
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import Problem, in_order
from candidate_pipeline.spec.references import references

#: What the framework itself reads of a response.
_READ_BY_ALL: Final[frozenset[Key]] = frozenset({SCORE, ITEM_TEXT_ID})
_BEFORE_SELECTION: Final = frozenset({"hydrators", "filters", "scorers", "selector"})
_WAITING_KINDS: Final = frozenset({"query_hydrator", "source", "hydrator"})


def lint(spec: FileSpec, plans: Mapping[str, Plan]) -> list[Problem]:
    """The warnings about a spec, in the order of the text.

    Args:
        spec: A spec without mistakes.
        plans: Its compiled pipelines, by name.
    """
    found = list(_unused(spec))
    inner = {name for pipeline in spec.pipelines.values() for name, _ in inner_pipelines(pipeline)}
    for name, pipeline in spec.pipelines.items():
        if name in plans:
            found += _Linter(spec, pipeline, plans[name], name in inner).run()
    return in_order(dict.fromkeys(found))


def _unused(spec: FileSpec) -> Iterator[Problem]:
    """Tables that no pipeline leads to; those of a base serve other files as well and are passed over."""
    used = [component for pipeline in spec.pipelines.values() for component in components_of(pipeline)]
    names = {component.name for component in used}
    for name in spec.document.data.get("components", {}):
        if name not in names and _is_own(spec, ("components", name)):
            hint = "list it in a pipeline, or remove the table"
            yield _problem(spec, "W400", f"no pipeline uses the component {name!r}", ("components", name), hint, "key")
    reached = [reference.name for component in used for reference in references(component)]
    for name in reached:
        if name in spec.resources:
            reached += [each.name for each in references(spec.resources[name]) if each.name not in reached]
    for name in spec.resources:
        if name not in reached and _is_own(spec, ("resources", name)):
            message = f"no component of a pipeline uses the resource {name!r}, so it is never opened"
            hint = "remove the table, or name it in an option"
            yield _problem(spec, "W401", message, ("resources", name), hint, "key")


def _is_own(spec: FileSpec, path: TomlPath) -> bool:
    return spec.document.locate(path, "key").name == spec.document.name


def _problem(spec: FileSpec, code: str, message: str, path: TomlPath, hint: str, part: str = "value") -> Problem:
    return spec.document.problem(code, message, path, hint=hint, part=part)


@attrs.frozen(eq=False)
class _Linter:
    """Looks at one pipeline.

    Args:
        spec: The whole spec.
        pipeline: The pipeline's part of it.
        plan: The pipeline, compiled.
        is_inner: Whether it is part of another one, which gets its columns and whose limits hold for it.
    """

    spec: FileSpec
    pipeline: PipelineSpec
    plan: Plan
    is_inner: bool

    def run(self) -> Iterator[Problem]:
        for stage, node in self._listed():
            if stage in {"hydrators", "scorers"}:  # a query hydrator may be there to refuse requests
                yield from self._output(stage, node)
        yield from self._overwritten()
        if not self.is_inner:
            yield from self._waiting()
        yield from self._inputs()
        yield from self._settings()

    def _listed(self) -> list[tuple[Stage, Node]]:
        return [(stage, node) for stage, phases in self.plan.phases.items() for phase in phases for node in phase]

    def _place(self, stage: Stage, node: Node) -> TomlPath:
        return next(each.place for each in self.pipeline.stages[stage] if each.name == node.name)

    def _readers(self, node: Node, keys: Iterable[Key]) -> list[Stage]:
        """The stages in which others read one of some keys that a component writes."""
        wanted = set(keys)
        others = ((stage, other) for stage, other in self._listed() if other is not node)
        return [stage for stage, other in others if wanted & set(_reads(other))]

    def _output(self, stage: Stage, node: Node) -> Iterator[Problem]:
        """W402 and W403: what a component writes is read by nobody, or only when the choice is made."""
        written = sorted(node.writes, key=lambda key: key.name)
        if not written or _READ_BY_ALL & set(written) or any(_is_term(key) for key in written):
            return
        top_up = self.plan.top_up
        if top_up is not None and set(written) & set(_reads(top_up)):
            return
        readers, place = self._readers(node, written), self._place(stage, node)
        in_response = self.is_inner or bool(set(written) & set(self.plan.show))
        if not readers and not in_response:
            message = f"nothing reads what {node.name} writes: {key_names(written)}"
            yield _problem(self.spec, "W402", message, place, _ADVICE[stage])
        elif stage == "hydrators" and not _BEFORE_SELECTION & set(readers) and self.plan.semantics == "strict":
            message = f"{node.name} runs for every candidate, but nothing reads what it writes before selection"
            hint = "list it under post_selection_hydrators, where it runs for the selected ones"
            yield _problem(self.spec, "W403", message, place, hint)

    def _overwritten(self) -> Iterator[Problem]:
        """W404: a scorer's score is replaced by a later one that does not look at it."""
        scorers = [node for stage, node in self._listed() if stage == "scorers"]
        for at, node in enumerate(scorers):
            if SCORE not in node.writes:
                continue
            later = scorers[at + 1 :]
            successor = next((other for other in later if SCORE in other.writes or SCORE in _reads(other)), None)
            if successor is None or SCORE in _reads(successor) or not _always_answers(successor):
                continue
            besides = [key for key in node.writes if key is not SCORE and not _is_term(key)]
            if besides and (self.is_inner or set(besides) & set(self.plan.show) or self._readers(node, besides)):
                continue
            message = (
                f"{successor.name} writes the score anew without reading it, so that what {node.name} wrote counts "
                f"only where {successor.name} gives none"
            )
            yield _problem(self.spec, "W404", message, self._place("scorers", node), f"remove {node.name}")

    def _waiting(self) -> Iterator[Problem]:
        """W405: a component that waits for something, without any limit."""
        if self.plan.deadline is not None:
            return
        for stage, node in self._listed():
            waits = node.mode == "async" or (node.mode == "thread" and node.kind in _WAITING_KINDS)
            budget = self.plan.budgets.get(stage)
            limited = node.timeout is not None or (budget is not None and budget.timeout is not None)
            if waits and not limited and node.kind != "side_effect" and node.inner is None:
                message = f"{node.name} may wait for ever: neither it nor its stage nor the pipeline has a time limit"
                hint = f"add deadline to [pipelines.{self.plan.name}], or run.timeout"
                yield _problem(self.spec, "W405", message, self._place(stage, node), hint)

    def _inputs(self) -> Iterator[Problem]:
        """W406: a request parameter that changes nothing."""
        nodes = [*self.plan.nodes, *([self.plan.top_up] if self.plan.top_up is not None else [])]
        read = {key for node in nodes for key in _reads(node)}
        for name, feature in self.plan.inputs.items():
            if feature not in read:
                message = f"nothing reads the input {name!r}, the query feature {feature.name}"
                path: TomlPath = (*self.pipeline.path, "inputs", name)
                yield _problem(self.spec, "W406", message, path, "remove it", "key")

    def _settings(self) -> Iterator[Problem]:
        """W407: settings for what cannot happen."""
        path: TomlPath = (*self.pipeline.path, "max_refills")
        if self.spec.document.get(path) and not self.plan.phases.get("post_selection_filters"):
            message = "max_refills replaces rows that post-selection filters drop, and the pipeline has none"
            yield _problem(self.spec, "W407", message, path, "remove it")
        if self.is_inner or self.plan.deadline is not None:
            return
        for stage, components in self.pipeline.stages.items():
            budget = self.plan.budgets.get(stage)
            for each in components:
                limited = each.run.timeout is not None or (budget is not None and budget.timeout is not None)
                if each.run.on_timeout is not None and not limited and each.kind != "side_effect":
                    message = f"{each.name}: on_timeout, but neither it nor its stage nor the pipeline has a time limit"
                    hint = "add a timeout, or remove on_timeout"
                    yield _problem(self.spec, "W407", message, (*each.path, "run", "on_timeout"), hint)


_ADVICE: Final[Mapping[str, str]] = {
    "hydrators": "remove it; if the response needs it, list it under post_selection_hydrators",
    "scorers": "remove it, or list what it writes in show",
}


def _reads(node: Node) -> tuple[Key, ...]:
    """What a component reads, its fallbacks and gates included, and what a pipeline inside may take."""
    return (*all_reads(node), *(node.inner.inputs.values() if node.inner is not None else ()))


def _is_term(key: Any) -> bool:
    """Whether explanations show a key."""
    return isinstance(key, Column) and key.terms_of is not None


def _always_answers(node: Node) -> bool:
    """Whether a component runs for every request that is answered."""
    return not node.gates and not node.fallbacks and node.on_error == "fail" and node.on_timeout == "fail"
