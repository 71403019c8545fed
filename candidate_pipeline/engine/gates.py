"""Gates: conditions on query features under which a component runs (`when = {...}`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from candidate_pipeline.keys import QueryFeature
from candidate_pipeline.options import type_name
from candidate_pipeline.query import Query
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import nearest

#: Called as `report(code, message, hint, place)`, the place within the `when` table.
GateReport = Callable[[str, str, str, TomlPath], None]

#: The value that a condition met, in what `Condition.why_closed` says.
_VALUE: Final = re.compile(r"(?<= is )[^\n]{1,60}(?=, wanted (?:is|not|in|min|max|min_length) )")
_PLAIN: Final = (bool, int, float, str)


@attrs.frozen
class Condition:
    """One condition: the value of a query feature stands in a relation to an operand.

    Args:
        feature: The feature.
        operator: `is`, `not`, `in`, `min`, `max` (both inclusive), `min_length` or `present`.
        operand: What the value is compared with.
    """

    feature: QueryFeature[Any]
    operator: str
    operand: Any

    def why_closed(self, query: Query) -> str | None:
        """Why the condition does not hold for a query, or `None` if it does.

        An absent feature counts with its declared default; without one no condition on its value holds.
        """
        feature = self.feature
        if self.operator == "present":
            there = feature in query
            return None if there is self.operand else f"{feature.name} is {'present' if there else 'absent'}"
        if feature not in query and not feature.has_default:
            return f"{feature.name} is absent"
        value = query.features.get(feature, feature.default)  # not `query[feature]`, which looks at who reads
        if _TESTS[self.operator](value, self.operand):
            return None
        found = f"{len(value)} long" if self.operator == "min_length" else f"{value!r:.40}"
        return f"{feature.name} is {found}, wanted {self.operator} {self.operand!r:.80}"


_TESTS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "is": lambda value, operand: bool(value == operand),
    "not": lambda value, operand: bool(value != operand),
    "in": lambda value, operand: value in operand,
    "min": lambda value, operand: bool(value >= operand),
    "max": lambda value, operand: bool(value <= operand),
    "min_length": lambda value, operand: len(value) >= operand,
}
OPERATORS: Final = (*_TESTS, "present")


def why_closed(gates: Iterable[Condition], query: Query) -> str | None:
    """Why a gate is closed to a query: the first condition that does not hold; `None` if it is open."""
    for condition in gates:
        why = condition.why_closed(query)
        if why is not None:
            return why
    return None


def without_values(text: str) -> str:
    """A text that may tell why a gate is closed, without the values of query features: they may be private."""
    return _VALUE.sub("***", text) if ", wanted " in text else text


def conditions_of(
    when: Mapping[str, Any], features: Mapping[str, QueryFeature[Any]], report: GateReport
) -> tuple[Condition, ...]:
    """The conditions that a `when` table describes.

    Args:
        when: By feature name: a value that the feature must equal, or a table of operators.
        features: The features that are given or written in the pipeline, by name.
        report: Where mistakes go.
    """
    found: list[Condition] = []
    for name, wanted in when.items():
        feature = features.get(name)
        if feature is None:
            hint = nearest(name, features)
            if isinstance(wanted, Mapping) and not set(wanted) <= set(OPERATORS):
                hint = f'put names with dots in quotes: "{name}.{next(iter(wanted))}"'
            report("E205", f"when: no input or component gives the query feature {name!r}", hint, (name,))
            continue
        tests = wanted if isinstance(wanted, Mapping) else {"is": wanted}
        if not tests:
            report("E104", f"when: {name} has no condition", f"give one of {', '.join(OPERATORS)}", (name,))
        for operator, operand in tests.items():
            mistake = _mistake(feature, operator, operand)
            if mistake:
                report(*mistake, (name, operator) if isinstance(wanted, Mapping) else (name,))
                continue
            held = tuple(operand) if isinstance(operand, list) else operand
            found.append(Condition(feature, operator, held))
    return tuple(found)


def _mistake(feature: QueryFeature[Any], operator: str, operand: Any) -> tuple[str, str, str] | None:
    """What is wrong with a condition: code, message and hint."""
    what = f"when: {feature.name}" if operator == "is" else f"when: {feature.name} {operator}"
    if operator not in OPERATORS:
        return "E101", f"when: unknown condition {operator!r}", nearest(operator, OPERATORS) or ", ".join(OPERATORS)
    if operator == "present":
        return None if isinstance(operand, bool) else ("E102", f"{what}: wanted a boolean, found {operand!r}", "")
    if operator == "min_length":
        good = type(operand) is int and operand >= 0 and hasattr(feature.type, "__len__")
        return None if good else ("E102", f"{what}: wanted a count, of a feature that has a length", "")
    if feature.type not in _PLAIN:
        hint = "conditions on the value are for features that are booleans, numbers or text; use present or min_length"
        return "E102", f"{what}: the feature is a {feature.type.__name__}", hint
    if operator in {"min", "max"} and feature.type not in {int, float}:
        return "E102", f"{what}: wanted a feature that is a number, {feature.name} is a {feature.type.__name__}", ""
    operands = operand if operator == "in" else [operand]
    if not isinstance(operands, list | tuple):
        return "E102", f"{what}: wanted a list, found {operand!r}", ""
    for each in operands:
        if type(each) is not feature.type and not (feature.type is float and type(each) is int):
            return "E102", f"{what}: wanted {type_name(feature.type)}, found {each!r}", ""
    return None
