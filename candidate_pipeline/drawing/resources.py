"""The resources that components hold, found in their fields."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from candidate_pipeline.options import is_resource_type


def resources_of(component: Any) -> list[Any]:
    """The resources in a component's or resource's init fields, each once, in the order of the fields."""
    if not attrs.has(type(component)):
        return []
    found: dict[int, Any] = {}
    for field in attrs.fields(type(component)):
        if field.init:
            for resource in _within(getattr(component, field.name, None)):
                found.setdefault(id(resource), resource)
    return list(found.values())


def _within(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for item in value:
            yield from _within(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _within(item)
    elif attrs.has(type(value)) and is_resource_type(type(value)):
        yield value


def resource_name(instance: Any, names: Mapping[str, Any]) -> str:
    """What a resource is called: its name in the spec, else its class's in snake case."""
    for name, other in names.items():
        if other is instance:
            return name
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(instance).__name__)
    return words.lower()
