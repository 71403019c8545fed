"""What a reload may take over from the application that serves: whatever is made of the same class and options.

Two objects are the same if their keys are equal. A key is made of final values, defaults included, and of the very
objects that were taken over before: a component over a resource that was made anew is made anew too.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs

from candidate_pipeline.keys import Column, QueryFeature
from candidate_pipeline.options import files_of
from candidate_pipeline.spec.convert import ResourceName
from candidate_pipeline.spec.document import digest_of
from candidate_pipeline.spec.model import ComponentSpec, NestedOptions, PipelineSpec

if TYPE_CHECKING:
    from candidate_pipeline.build import BuiltResource
    from candidate_pipeline.engine.plan import Plan

#: Where something stands in a spec: `("components", "for_you", "scorers", "weighted")`.
Place: TypeAlias = tuple[str, ...]

#: Settings of a pipeline that decide nothing about its answers.
_NO_MATTER: Final = frozenset({"doc", "inputs", "show", "top_up"})


@attrs.frozen(eq=False)
class Same:
    """Equal to itself and to another of the same object."""

    of: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.of is self.of

    def __hash__(self) -> int:
        return id(self.of)


@attrs.frozen(eq=False)
class Made:
    """Something that was built, and what it was made of."""

    key: Hashable
    instance: Any


@attrs.frozen(eq=False)
class Reuse:
    """What may be taken over.

    Args:
        made: Components and plans of the application that serves, by their place.
        resources: Resources that are open, and stay so until the new application has shares of them.
    """

    made: Mapping[Place, Made] = attrs.field(factory=dict)
    resources: Sequence[BuiltResource] = ()
    _taken: set[int] = attrs.field(factory=set, init=False)

    def instance(self, place: Place, key: Hashable) -> Any:
        """The component at a place, if it is the same; else `None`."""
        made = self.made.get(place)
        return made.instance if made is not None and made.key == key else None

    def plan(self, place: Place, key: Hashable, fresh: Plan) -> Plan:
        """The plan at a place if it is the same, else the one that was just compiled."""
        made = self.made.get(place)
        same = made is not None and made.key == key and made.instance.config_hash == fresh.config_hash
        return made.instance if made is not None and same else fresh

    def resource(self, name: str, key: Hashable, names: Iterable[str]) -> Any:
        """The open resource that is the same; else `None`.

        Of several that are, the one of the same name; one of another name only if the new spec has none of that name.
        """
        others = frozenset(names)
        found = [each for each in self.resources if each.key == key and id(each.instance) not in self._taken]
        found.sort(key=lambda each: each.name != name)
        if not found or (found[0].name != name and found[0].name in others):
            return None
        self._taken.add(id(found[0].instance))
        return found[0].instance


def key_of_component(spec: ComponentSpec, instances: Mapping[str, Any], inner: Plan | None = None) -> Hashable:
    """What a component or resource is made of.

    Args:
        spec: The component.
        instances: The resources that it may take.
        inner: The pipeline, if it is a nested one.
    """
    if spec.cls is NestedOptions:
        return (spec.cls, Same(inner))
    given = {name: _frozen(value, instances) for name, value in spec.options.items()}
    for field in attrs.fields(spec.cls):
        if field.init and field.alias is not None and field.alias not in given:
            given[field.alias] = _frozen(_default(field.default), instances)
    given["(files)"] = _contents(spec.cls, spec.options)
    return (spec.ref.name, Same(spec.cls), frozenset(given.items()))


def key_of_pipeline(spec: PipelineSpec, made: Mapping[Place, Made], top_up: Plan | None) -> Hashable:
    """What a pipeline is made of: its settings, its components, and theirs."""
    options = {
        field.name: _frozen(getattr(spec.options, field.name), {})
        for field in attrs.fields(type(spec.options))
        if field.name not in _NO_MATTER
    }
    stages = tuple(
        (stage, tuple(_member(component, made[place_of(spec, stage, component)]) for component in listed))
        for stage, listed in spec.stages.items()
    )
    fallbacks = frozenset(
        _member(component, made[place_of(spec, "fallbacks", component)]) for component in spec.fallbacks.values()
    )
    inputs = tuple((name, Same(feature)) for name, feature in spec.inputs.items())
    show = tuple(Same(column) for column in spec.show)
    return (frozenset(options.items()), stages, fallbacks, inputs, show, Same(top_up))


def place_of(pipeline: PipelineSpec, stage: str, component: ComponentSpec) -> Place:
    """Where a component stands."""
    return ("components", pipeline.name, stage, component.name)


def _member(spec: ComponentSpec, made: Made) -> Hashable:
    return (spec.name, Same(made.instance), _frozen(spec.run, {}))


def _frozen(value: Any, instances: Mapping[str, Any]) -> Hashable:
    """A value in a form that is equal for equal values; one of an unknown kind is equal to itself only."""
    if isinstance(value, ResourceName):
        return Same(instances[value.name])
    if isinstance(value, float):
        return (float, repr(value))  # so that NaN is what it is
    if isinstance(value, enum.Enum | QueryFeature | Column):
        return Same(value)
    if isinstance(value, Mapping):
        return (dict, frozenset((_frozen(name, {}), _frozen(item, instances)) for name, item in value.items()))
    if isinstance(value, Set):
        return (set, frozenset(_frozen(item, instances) for item in value))
    if isinstance(value, tuple | list):
        return (type(value), tuple(_frozen(item, instances) for item in value))
    cls = type(value)
    if attrs.has(cls):
        fields = {field.alias: getattr(value, field.name) for field in attrs.fields(cls) if field.init}
        return (Same(cls), tuple(_frozen(item, instances) for item in fields.values()), _contents(cls, fields))
    try:
        hash(value)
    except TypeError:
        return Same(value)
    return (cls, value)


def _contents(cls: type, values: Mapping[Any, Any]) -> Hashable:
    """What the files of settings hold that options name."""
    return tuple(digest_of(path) for name, value in values.items() for path in files_of(cls, name, value))


def _default(default: Any) -> Any:
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # attrs types Factory as a function
        return None if default.takes_self else default.factory()
    return default
