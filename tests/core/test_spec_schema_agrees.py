"""The JSON Schema of specs and the loader agree about random changes of the shipped pipelines."""

from __future__ import annotations

import copy
import datetime as dt
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import tomlkit
from annotated_types import BaseMetadata, GroupedMetadata
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from toml_json import as_json

from candidate_pipeline import SpecError
from candidate_pipeline.build import build
from candidate_pipeline.options import (
    Option,
    is_list,
    is_resource_type,
    is_table,
    optional_of,
    options_of,
    parse_duration,
    split,
    violation,
)
from candidate_pipeline.registry import installed
from candidate_pipeline.spec.convert import Converter
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.loader import load_spec
from candidate_pipeline.spec.schema import json_schema

SHIPPED = (Path(__file__).resolve().parents[2] / "pipelines.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def schema() -> dict[str, Any]:
    """The schema with installed plugins."""
    return json_schema(installed())


@pytest.fixture(scope="session")
def shipped(schema: dict[str, Any]) -> Draft7Validator:
    """Validates against installed plugins."""
    return Draft7Validator(schema)


MOMENT = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-3, 20),
    st.sampled_from([-0.5, 0.25, 0.5, 1.5, 7.25]),
    st.sampled_from(
        ["", "a", "skip", "fail", "fallback:b", "40ms", "0s", "5 s", "48h", "author", "float32", "data", "..."]
    ),
    st.sampled_from(
        ["feed.text", "feed.age", "feed.top_k", "feed.weighted", "phoenix.ranker", "-feed.age", "upstream"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "timeout", "ttl", "on_error", "present", "pipeline"]), inner, max_size=2),
        st.builds(lambda value: {"env": "TEST_NO_SUCH_VARIABLE", "default": value}, inner),
    ),
    max_leaves=4,
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value within some data."""
    found = [at] if at else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [path for key, item in items for path in paths(item, (*at, key))]


def extra_paths() -> list[tuple[Any, ...]]:
    """Where a key could stand that the shipped spec leaves out."""
    found: list[tuple[Any, ...]] = [("pipelines", "for_you", name) for name in ("max_refills", "semantics", "stages")]
    shipped = tomllib.loads(SHIPPED)
    refs = {ref.name: ref for ref in installed().components()}
    for group in ("components", "resources"):
        for name, table in shipped[group].items():
            options = options_of(refs[table["use"]].load())
            found += [(group, name, option) for option in options]
            if group == "components":
                keys = ("timeout", "on_error", "when", "cache", "breaker", "threads", "retries", "safety", "sync")
                found += [(group, name, "run", key) for key in keys]
    return found


PLACES = [*paths(tomllib.loads(SHIPPED)), *extra_paths()]
#: What a schema can tell, for it depends on nothing that stands elsewhere.
ALONE = {"E101", "E102", "E104", "E105", "E106", "E109", "E202"}


def changed(place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The shipped spec with another value at a place."""
    data: Any = copy.deepcopy(tomllib.loads(SHIPPED))
    parent = data
    for part in place[:-1]:
        parent = parent.setdefault(part, {}) if isinstance(parent, dict) else parent[part]
    parent[place[-1]] = value
    return data  # type: ignore[no-any-return]  # a TOML table


def loader_codes(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Code and path of each mistake that the loader finds."""
    spec = load_spec(Document(tomlkit.dumps(data)), installed())
    try:
        build(spec)
    except SpecError as error:
        return [(problem.code, problem.path) for problem in error.problems]
    return []


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(PLACES), VALUES)
def test_the_loader_and_the_schema_agree(shipped: Draft7Validator, place: Any, value: Any) -> None:
    """Whatever stands anywhere in the shipped pipelines: what loads is valid, what is wrong by itself is not."""
    data = changed(place, value)
    refused = [error.message for error in shipped.iter_errors(as_json(data))]
    codes = loader_codes(data)
    assert bool(codes) >= bool(refused), refused  # what loads is valid
    # Conditions depend on a feature's type, and a default that is another variable is the loader's business.
    if any(code in ALONE and ".when" not in path and "default.default" not in path for code, path in codes):
        assert refused != [], codes


def values_of(hint: Any, constraints: Iterable[Any] = ()) -> st.SearchStrategy[Any]:
    """TOML values of an option's type within its constraints."""
    hint, metadata = split(hint)
    hint, more = split(optional_of(hint))
    marks = [*constraints, *metadata, *more]
    plain: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(-5, 5000),
        float: st.one_of(st.integers(-5, 100), st.floats(-1, 1e6), st.floats(0, 1)),
        str: st.text(max_size=5),
        Path: st.sampled_from(["here", "/there", "a/b"]),
        dt.timedelta: st.builds("{}{}".format, st.integers(0, 999), st.sampled_from(["ms", "s", "m", "h", "d", ".5s"])),
        dt.datetime: st.datetimes(timezones=st.just(dt.UTC)),
    }
    found: st.SearchStrategy[Any]
    if get_origin(hint) is Literal:
        found = st.sampled_from(get_args(hint))
    elif is_table(hint):
        found = st.dictionaries(st.text(min_size=1, max_size=5), values_of(get_args(hint)[1]), max_size=3)
    elif is_list(hint):
        found = st.lists(values_of(get_args(hint)[0]), max_size=4)
    elif hint in plain:
        found = plain[hint]
    else:
        found = tables_of(options_of(hint))
    return found.filter(lambda value: all(fits(value, hint, mark) for mark in marks))


def fits(value: Any, hint: Any, mark: Any) -> bool:
    """Whether a TOML value of a type keeps a constraint."""
    if isinstance(mark, BaseMetadata | GroupedMetadata):
        return violation(parse_duration(value) if hint is dt.timedelta else value, mark) is None
    return True


def tables_of(options: Mapping[str, Option]) -> st.SearchStrategy[dict[str, Any]]:
    """Tables of some options; those that take resources are left out."""
    taken = {name: each for name, each in options.items() if not is_resource_type(optional_of(each.type))}
    drawn = {name: values_of(option.type, option.constraints) for name, option in taken.items()}
    return st.fixed_dictionaries(
        {name: drawn[name] for name in drawn if taken[name].required and not taken[name].data_dir},
        optional={name: drawn[name] for name in drawn if not taken[name].required or taken[name].data_dir},
    )


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_values_of_options_validate(schema: dict[str, Any], data: st.DataObject) -> None:
    """Random values of the options of every installed component are valid, and the loader takes them."""
    refs = {(ref.kind, ref.name): ref for ref in installed().components()}
    kind, name = data.draw(st.sampled_from(sorted(refs)))
    options = options_of(refs[kind, name].load())
    table = data.draw(tables_of(options))
    one = {"$ref": f"#/definitions/{kind}.{name}", "definitions": schema["definitions"]}
    assert list(Draft7Validator(one).iter_errors(as_json({"use": name, **table}))) == []
    known = {key: option for key, option in options.items() if key in table}
    converter = Converter(Document(""), {}, None)
    converter.table(table, known, (), name)
    assert [problem for problem in converter.problems if problem.code != "E204"] == []
