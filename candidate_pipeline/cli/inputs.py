"""The inputs of a pipeline as options of the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from candidate_pipeline.app import Pipeline
from candidate_pipeline.errors import RequestError
from candidate_pipeline.keys import QueryFeature
from candidate_pipeline.spec.problems import nearest


def parse_inputs(args: Sequence[str], pipeline: Pipeline) -> dict[str, Any]:
    """The pipeline's inputs from `--name value` or `--name=value` arguments.

    Raises:
        RequestError: An argument is no input of the pipeline, or its value is not of the input's type.
    """
    inputs: dict[str, Any] = {}
    rest: Iterator[str] = iter(args)
    for argument in rest:
        name, equals, value = argument.partition("=")
        key = name.removeprefix("--").replace("-", "_")
        feature = pipeline.plan.inputs.get(key)
        if not name.startswith("--") or feature is None:
            known = [f"--{other}" for other in pipeline.plan.inputs]
            hint = nearest(argument, known) or f"it takes {', '.join(known) or 'no inputs'}"
            raise RequestError(f"pipeline {pipeline.plan.name!r} has no option {argument!r}: {hint}")
        if not equals:
            try:
                value = next(rest)
            except StopIteration:
                raise RequestError(f"{name} needs a value") from None
        inputs[key] = _parsed(name, value, feature)
    return inputs


def _parsed(name: str, text: str, feature: QueryFeature[Any]) -> Any:
    if feature.type is str:
        return text
    if feature.type is bool and text in {"true", "false"}:
        return text == "true"
    if feature.type in {int, float}:
        try:
            return feature.type(text)
        except ValueError:
            pass
    if feature.type is dict:
        try:
            return parse_table(text)
        except ValueError as error:
            raise RequestError(f"{name}: {error} ({feature.doc})") from None
    raise RequestError(f"{name}: wanted {feature.type.__name__}, found {text!r} ({feature.doc})")


def parse_table(text: str) -> dict[str, Any]:
    """A table from `name=value,other=value` or a JSON object.

    Values that are written as numbers, or as `true` and `false`, are such; others are text.

    Raises:
        ValueError: It is neither, or a name stands twice.
    """
    wanted = "wanted name=value,name=value or a JSON object"
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
        except (json.JSONDecodeError, RecursionError) as error:
            said = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
            raise ValueError(f"{wanted}, found {text!r:.80}: {said}") from None
        if isinstance(found, dict):
            return found
        raise ValueError(f"{wanted}, found {text!r:.80}")
    pairs = []
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value):
            raise ValueError(f"{wanted}, found {part.strip()!r:.80} in {text!r:.80}")
        pairs.append((name, _value(value)))
    return _once(pairs)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r:.80} stands twice")
        found[name] = value
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number that JSON has")


def _value(text: str) -> Any:
    if text in {"true", "false"}:
        return text == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
