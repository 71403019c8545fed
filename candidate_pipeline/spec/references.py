"""References from options to resources: finding, checking and resolving them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from candidate_pipeline.spec.convert import ResourceName, fits
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.model import ComponentSpec
from candidate_pipeline.spec.problems import Problem, nearest


def references(spec: ComponentSpec) -> list[ResourceName]:
    """The resources that a component or resource takes."""
    return list(_names_in(spec.options.values()))


def resolved(value: Any, instances: Mapping[str, Any]) -> Any:
    """An option value with instances in place of references.

    Raises:
        KeyError: An instance is missing.
    """
    if isinstance(value, ResourceName):
        return instances[value.name]
    if isinstance(value, tuple | list):
        return type(value)(resolved(item, instances) for item in value)
    if isinstance(value, dict):
        return {name: resolved(item, instances) for name, item in value.items()}
    return value


def resource_problems(
    document: Document, specs: Iterable[ComponentSpec], resources: Mapping[str, ComponentSpec]
) -> list[Problem]:
    """References to resources of the wrong class, and resources that need each other."""
    problems = []
    for spec in specs:
        for reference in references(spec):
            target, wanted = resources.get(reference.name), reference.wanted.__name__
            if target is None or fits(target.cls, reference.wanted):
                continue
            fitting = [name for name, other in resources.items() if fits(other.cls, reference.wanted)]
            hint = nearest(reference.name, fitting) or f"add a resource of class {wanted}"
            message = f"wanted a resource of class {wanted}, found {reference.name!r} of class {target.cls.__name__}"
            problems.append(document.problem("E206", message, reference.path, hint=hint))
    for name, spec in resources.items():
        chain = _cycle(name, resources)
        if chain:
            message = f"resources need each other: {' -> '.join(chain)}"
            problems.append(document.problem("E206", message, spec.path, part="key"))
            break
    return problems


def _names_in(values: Iterable[Any]) -> Iterator[ResourceName]:
    for value in values:
        if isinstance(value, ResourceName):
            yield value
        elif isinstance(value, tuple | list):
            yield from _names_in(value)
        elif isinstance(value, dict):
            yield from _names_in(value.values())


def _cycle(name: str, resources: Mapping[str, ComponentSpec]) -> list[str]:
    """A chain of resources from `name` back to itself, or nothing."""
    stack = [[name]]
    seen: set[str] = set()
    while stack:
        chain = stack.pop()
        for reference in references(resources[chain[-1]]) if chain[-1] in resources else ():
            if reference.name == name:
                return [*chain, name]
            if reference.name not in seen:
                seen.add(reference.name)
                stack.append([*chain, reference.name])
    return []
