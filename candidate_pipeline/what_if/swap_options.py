"""The numeric options of a pipeline's scorers and selector, and components with one of them changed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import annotated_types as at
import attrs

from candidate_pipeline.engine.plan import Node, Plan
from candidate_pipeline.options import is_resource_type, is_table, optional_of, options_of, split, violation


@attrs.frozen(eq=False)
class NumericOption:
    """One number among the options of a component.

    Args:
        component: The component's name in the spec.
        path: The option's name; for an entry of a table, or an option of an option, the names on the way to it.
        value: Its value in effect.
        integer: Whether it takes whole numbers only.
        lower: The least value that its constraints allow; infinite: there is none.
        upper: The largest.
        step: What its values are multiples of; `None`: any.
        scale: What a change is measured against where the value is smaller.
        constraints: What is declared of its values.
        instance: The component.
    """

    component: str
    path: tuple[str, ...]
    value: float
    integer: bool = False
    lower: float = -math.inf
    upper: float = math.inf
    step: float | None = None
    scale: float = 1.0
    constraints: tuple[Any, ...] = attrs.field(default=(), repr=False)
    instance: Any = attrs.field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The option as messages show it: `weighted.weights.reply`."""
        return ".".join((self.component, *self.path))

    def override(self, value: float) -> str | None:
        """What `--set` takes to give it a value; `None`: the spec has no table for the component."""
        if any("." in part for part in (self.component, *self.path)):
            return None
        number = int(value) if float(value).is_integer() and abs(value) < 2**53 else value
        return f"components.{self.name}={number!r}"

    @property
    def unit(self) -> float:
        """What a change of it is measured against: its value, or its scale if that is more."""
        return max(abs(self.value), self.scale)

    def changed(self, value: float) -> Any:
        """The component with another value of the option.

        Raises:
            ValueError: The value breaks a declared constraint.
            Exception: The component refuses the value, whatever it raises then.
        """
        number = int(value) if self.integer else float(value)
        for constraint in self.constraints:
            wanted = violation(number, constraint)
            if wanted is not None:
                raise ValueError(f"{self.name}: wanted {wanted}, found {number}")
        return _evolved(self.instance, self.path, number)


def numeric_options(plan: Plan) -> list[NumericOption]:
    """Every number among the options of a plan's scorers and selector, in running order.

    Numbers are fields of type `int` or `float`, entries of tables of them, and those of nested attrs classes. What is
    not set counts with its value in effect where the component tells it (`in_effect`); else it is left out.
    """
    nodes = [node for stage in ("scorers", "selector") for phase in plan.phases[stage] for node in phase]
    return [option for node in nodes for option in _of_node(node)]


def _of_node(node: Node) -> Iterator[NumericOption]:
    if attrs.has(type(node.component)):
        for option in _of_instance(node.component, ()):
            yield attrs.evolve(option, component=node.name, instance=node.component)


def _of_instance(instance: Any, path: tuple[str, ...]) -> Iterator[NumericOption]:
    fields = {field.alias: field.name for field in attrs.fields(type(instance))}
    given = getattr(instance, "in_effect", None)
    in_effect: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    for name, option in options_of(type(instance)).items():
        value = getattr(instance, fields[name])
        hint = optional_of(option.type)
        where = (*path, name)
        if hint in {int, float}:
            number = in_effect.get(name) if value is None else value
            if number is not None and _is_number(number):
                yield _numeric(where, number, hint is int, option.constraints, ())
        elif is_table(hint) and isinstance(value, Mapping):
            yield from _of_table(hint, where, {**value, **in_effect.get(name, {})})
        elif attrs.has(type(value)) and not is_resource_type(type(value)):
            yield from _of_instance(value, where)


def _of_table(hint: Any, path: tuple[str, ...], entries: Mapping[str, Any]) -> Iterator[NumericOption]:
    args = get_args(hint)
    inner, marks = split(args[1]) if len(args) == 2 else (None, ())
    if inner not in {int, float}:
        return
    constraints = tuple(mark for mark in marks if isinstance(mark, at.GroupedMetadata | at.BaseMetadata))
    numbers = {str(label): value for label, value in entries.items() if _is_number(value)}
    for label, value in numbers.items():
        yield _numeric((*path, label), value, inner is int, constraints, tuple(numbers.values()))


def _numeric(
    path: tuple[str, ...], value: float, integer: bool, constraints: tuple[Any, ...], beside: tuple[float, ...]
) -> NumericOption:
    lower, upper, step = -math.inf, math.inf, None
    for mark in _flat(constraints):
        if isinstance(mark, at.Ge):
            lower = max(lower, float(mark.ge))  # type: ignore[arg-type]  # of a number's option it is a number
        elif isinstance(mark, at.Gt):
            above = float(mark.gt)  # type: ignore[arg-type]
            lower = max(lower, math.floor(above) + 1 if integer else math.nextafter(above, math.inf))
        elif isinstance(mark, at.Le):
            upper = min(upper, float(mark.le))  # type: ignore[arg-type]
        elif isinstance(mark, at.Lt):
            below = float(mark.lt)  # type: ignore[arg-type]
            upper = min(upper, math.ceil(below) - 1 if integer else math.nextafter(below, -math.inf))
        elif isinstance(mark, at.MultipleOf):
            step = float(mark.multiple_of)  # type: ignore[arg-type]
    sizes = [abs(other) for other in beside if other]
    scale = statistics.median(sizes) if sizes else 1.0
    # A lone number is measured against itself, unless it is nothing.
    scale = scale if beside or not value else 0.0
    return NumericOption("", path, value, integer, lower, upper, step or (1.0 if integer else None), scale, constraints)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _flat(constraints: tuple[Any, ...]) -> Iterator[Any]:
    for mark in constraints:
        if isinstance(mark, at.GroupedMetadata):
            yield from mark
        else:
            yield mark


def _evolved(instance: Any, path: tuple[str, ...], value: float) -> Any:
    """A copy of an attrs instance or a table with one number changed, however deep."""
    name, *rest = path
    if isinstance(instance, Mapping):
        return {**instance, name: value}
    fields = {field.alias: field.name for field in attrs.fields(type(instance))}
    inner = getattr(instance, fields[name])
    return attrs.evolve(instance, **{name: _evolved(inner, tuple(rest), value) if rest else value})
