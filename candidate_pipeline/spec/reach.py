"""What one pipeline of a spec needs: the components, resources and pipelines that it leads to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from candidate_pipeline.registry import Registry
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.loader import resolve_names
from candidate_pipeline.spec.model import FALLBACK, STAGES
from candidate_pipeline.spec.references import references


def reachable(document: Document, data: Mapping[str, Any], registry: Registry, pipeline: str) -> dict[str, Any]:
    """The data of a spec with one pipeline and what it needs alone; all resources, where what it needs is unclear.

    Args:
        document: The spec, resolved.
        data: Its data.
        registry: Where names resolve.
        pipeline: The pipeline's name.
    """
    components = _tables(data, "components")
    pipelines, named = [pipeline], []
    for each in pipelines:
        table = _tables(data, "pipelines").get(each, {})
        if isinstance(table.get("top_up"), str):
            pipelines += [table["top_up"]] if table["top_up"] not in pipelines else []
        waiting = list(entries(table))
        while waiting:
            name = waiting.pop()
            component = components.get(name)
            if component is None or name in named:
                continue
            named.append(name)
            waiting += _fallbacks(component)
            inner = component.get("pipeline")
            if component.get("use") == "pipeline" and isinstance(inner, str) and inner not in pipelines:
                pipelines.append(inner)
    spec = resolve_names(document, registry)
    used: set[str] = set()
    listed = [spec.pipelines[name] for name in pipelines if name in spec.pipelines]
    stack = [each for found in listed for stage in found.stages.values() for each in stage]
    stack += [each for found in listed for each in found.fallbacks.values()]
    while stack:
        for reference in references(stack.pop()):
            if reference.name not in used:
                used.add(reference.name)
                stack += [spec.resources[reference.name]] if reference.name in spec.resources else []
    keep: dict[str, set[str]] = {"pipelines": set(pipelines), "components": set(named), "resources": used}
    if spec.problems:
        del keep["resources"]
    return {
        key: {name: item for name, item in value.items() if name in keep[key]}
        if key in keep and isinstance(value, dict)
        else value
        for key, value in data.items()
    }


def _tables(data: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    tables = data.get(key)
    found = tables.items() if isinstance(tables, dict) else ()
    return {name: table for name, table in found if isinstance(table, dict)}


def entries(table: Mapping[str, Any]) -> Iterator[str]:
    """What a pipeline's stages list."""
    for stage in STAGES:
        value = table.get(stage)
        yield from (entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, str))


def _fallbacks(component: Mapping[str, Any]) -> list[str]:
    run = component.get("run")
    policies = [run.get(key) for key in ("on_error", "on_timeout")] if isinstance(run, dict) else []
    return [
        policy.removeprefix(FALLBACK) for policy in policies if isinstance(policy, str) and policy.startswith(FALLBACK)
    ]
