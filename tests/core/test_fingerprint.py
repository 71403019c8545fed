"""Fingerprints and config hashes: the same for the same final values, another for any other."""

from __future__ import annotations

import copy
import datetime as dt
import enum
import json
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import PRICE, TTL, best_first, priced, rows, seconds

from candidate_pipeline import App, NestedPipeline, Plugin, Registry, RunPolicy, compose, load_document
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.fingerprint import Canon, digest, identity_of_object

#: The toy spec as data.
BASE: dict[str, Any] = {
    "schema": 1,
    "pipelines": {
        "shop": {
            "result_size": 2,
            "deadline": "5s",
            "inputs": {"buyer": "shop.buyer"},
            "query_hydrators": ["shop.wallet"],
            "sources": ["shelf"],
            "hydrators": ["prices"],
            "filters": ["shop.banned", "affordable"],
            "scorers": ["cheapest"],
            "selector": "top",
            "show": ["shop.price"],
        }
    },
    "components": {
        "shelf": {"use": "shop.shelf", "run": {"timeout": "1s"}},
        "prices": {"use": "shop.prices", "markup": 0.5},
        "affordable": {"use": "shop.affordable", "weights": {"a": 1.0, "b": 2.0}, "names": ["x", "y"]},
        "cheapest": {"use": "shop.cheapest", "run": {"timeout": "2s", "on_error": "fallback:spare"}},
        "spare": {"use": "shop.cheapest"},
        "top": {"use": "shop.top", "size": 2},
    },
    "resources": {"store": {"use": "shop.store", "path": "data"}},
}

#: Changes of what decides how the pipeline ranks: a path, and values unlike the base's and each other.
CHANGES: dict[tuple[str, ...], tuple[Any, ...]] = {
    ("components", "prices", "markup"): (0.25, 0.0, 2.0),
    ("components", "affordable", "slack"): (1.5, 3.0),
    ("components", "affordable", "max_age"): ("2m", "3h"),
    ("components", "affordable", "mode"): ("loose",),
    ("components", "affordable", "nested"): ({"depth": 1}, {"depth": 2}, {"depth": 2, "names": ["q"]}),
    ("components", "affordable", "weights"): ({"a": 1.0}, {"a": 2.0, "b": 1.0}),
    ("components", "affordable", "since"): (dt.datetime(2026, 5, 1, tzinfo=dt.UTC),),
    ("components", "affordable", "on"): (False,),
    ("components", "affordable", "count"): (3, 9),
    ("components", "affordable", "names"): (["y", "x"], ["x"]),
    ("components", "top", "size"): (1, 7),
    ("components", "spare", "power"): (2,),
    ("components", "shelf", "run", "timeout"): ("900ms",),
    ("components", "shelf", "run", "cache"): ({"ttl": "5s"}, {"ttl": "6s"}, {"ttl": "5s", "max_items": 7}),
    ("components", "shelf", "run", "breaker"): ({"failure_rate": 0.25},),
    ("components", "shelf", "run", "when"): ({"shop.buyer": 3}, {"shop.buyer": 4}),
    ("components", "prices", "run", "on_error"): ("fail",),
    ("components", "affordable", "run", "safety"): (True,),
    ("pipelines", "shop", "result_size"): (1, 3),
    ("pipelines", "shop", "deadline"): ("4s", "6s"),
    ("pipelines", "shop", "max_refills"): (0, 9),
    ("pipelines", "shop", "inputs"): ({"customer": "shop.buyer"},),
    ("pipelines", "shop", "filters"): (["affordable", "shop.banned"], ["shop.banned"]),
    ("pipelines", "shop", "stages"): ({"hydrators": {"when": {"shop.buyer": 1}}}, {"sources": {"timeout": "1s"}}),
    ("resources", "store", "cache"): (1, 2),
}
CHANGED = [(path, value) for path, values in CHANGES.items() for value in values]


def toml(value: Any) -> str:
    """An inline TOML value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{key}" = {toml(item)}' for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def written(spec: dict[str, Any], dice: random.Random | None = None) -> str:
    """A spec as TOML, its tables and keys in any order, with comments in between."""
    tables = [(kind, name, table) for kind in spec if kind != "schema" for name, table in spec[kind].items()]
    if dice is not None:
        dice.shuffle(tables)
    lines = [f"schema = {spec['schema']}"]
    for kind, name, table in tables:
        keys = list(table)
        if dice is not None:
            dice.shuffle(keys)
            lines.append(f"# {dice.random()}")
        lines.append(f"[{kind}.{name}]")
        lines += [f'"{key}" = {toml(table[key])}' + ("" if dice is None else f"  # {key}") for key in keys]
    return "\n".join(lines) + "\n"


def changed(spec: dict[str, Any], changes: Sequence[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    """A spec with values set at paths."""
    spec = copy.deepcopy(spec)
    for path, value in changes:
        table = spec
        for part in path[:-1]:
            table = table.setdefault(part, {})
        table[path[-1]] = value
    return spec


def hash_of(app: App, pipeline: str = "shop") -> str:
    """A pipeline's config hash."""
    return app[pipeline].plan.config_hash


def fingerprints(app: App, pipeline: str = "shop") -> dict[str, str]:
    """The components' fingerprints."""
    return {node.name: node.fingerprint for node in app[pipeline].plan.nodes}


def test_the_form(shop: Any) -> None:
    """A hash and a fingerprint are sixteen hexadecimal digits; the plan names the distributions and versions."""
    app = shop.load(written(BASE))
    plan = app["shop"].plan
    for text in [plan.config_hash, *fingerprints(app).values()]:
        assert re.fullmatch(r"[0-9a-f]{16}", text)
    assert set(plan.plugins) == {"(given)", "candidate-pipeline"}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(CHANGED), max_size=4, unique_by=lambda change: change[0]),
    st.integers(0, 1000),
)
def test_ways_to_a_value_do_not_count(shop: Any, changes: list[Any], seed: int) -> None:
    """Written plainly, in any order, with comments, by `--set` or by a data directory: the same values, one hash."""
    plainly = shop.load(written(changed(BASE, changes)))
    shuffled = shop.load(written(changed(BASE, changes), random.Random(seed)))  # noqa: S311  # nothing secret
    sets = [f"{'.'.join(path)}={toml(value)}" for path, value in changes if not any("." in part for part in path)]
    by_set = shop.load(written(BASE), sets=sets)
    assert hash_of(plainly) == hash_of(shuffled) == hash_of(by_set)
    assert fingerprints(plainly) == fingerprints(shuffled) == fingerprints(by_set)


def test_a_data_directorys_overrides_are_values_like_others(shop: Any, tmp_path: Path) -> None:
    """`[set]` of `dataset.toml` gives the hash of the same values written plainly."""
    (tmp_path / "dataset.toml").write_text('[set]\n"components.top.size" = 1\n"components.affordable.mode" = "loose"\n')
    over = shop.load(written(BASE), data=tmp_path)
    changes = [(("components", "top", "size"), 1), (("components", "affordable", "mode"), "loose")]
    assert hash_of(over) == hash_of(shop.load(written(changed(BASE, changes))))


def test_extends_is_a_way_to_values(shop: Any) -> None:
    """A pipeline that extends another has its hash if nothing is changed, and otherwise that of the values it has."""
    spec = copy.deepcopy(BASE)
    spec["pipelines"]["same"] = {"extends": "shop"}
    spec["pipelines"]["less"] = {"extends": "shop", "result_size": 1}
    app = shop.load(written(spec))
    assert hash_of(app, "same") == hash_of(app)
    assert hash_of(app, "less") == hash_of(
        shop.load(written(changed(BASE, [(("pipelines", "shop", "result_size"), 1)])))
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("components", "affordable", "slack"), 1.0),
        (("components", "affordable", "slack"), 1),
        (("components", "affordable", "mode"), "strict"),
        (("components", "prices", "markup"), 0.5),
        (("components", "affordable", "max_age"), "60m"),
        (("components", "shelf", "run", "timeout"), "1000ms"),
        (("components", "prices", "run"), {"on_error": "skip"}),
        (("components", "affordable", "run"), {"safety": False}),
        (("components", "shelf", "store"), "store"),
        (("pipelines", "shop", "max_refills"), 3),
        (("pipelines", "shop", "semantics"), "strict"),
        (("pipelines", "shop", "stages"), {"filters": {}}),
        (("pipelines", "shop", "doc"), "A shop."),
        (("pipelines", "shop", "show"), []),
        (("resources", "store", "path"), "elsewhere"),
        (("resources", "store", "path"), "/somewhere/else"),
        (("resources", "store", "cache"), 0),
        (("pipelines", "other"), {"inputs": {"b": "shop.buyer"}, "sources": ["shelf"], "selector": "shop.first"}),
        (("components", "unused"), {"use": "shop.prices", "markup": 1.5}),
        (("resources", "second"), {"use": "shop.index", "store": "store"}),
    ],
)
def test_what_does_not_count(shop: Any, path: tuple[str, ...], value: Any) -> None:
    """Defaults written out, the same value in another notation, where data lies, and what the pipeline does not use."""
    spec = BASE if path[-1] != "second" else changed(BASE, [(("components", "shelf", "store"), "store")])
    app = shop.load(written(changed(spec, [(path, value)])))
    assert hash_of(app) == hash_of(shop.load(written(BASE)))


def test_every_change_counts(shop: Any) -> None:
    """No two of the base and all single changes of it have the same hash."""
    hashes = {hash_of(shop.load(written(BASE))): "the base"}
    for path, value in CHANGED:
        found = hash_of(shop.load(written(changed(BASE, [(path, value)]))))
        assert found not in hashes, f"{path} = {value} has the hash of {hashes[found]}"
        hashes[found] = f"{path} = {value}"


@pytest.mark.parametrize(("path", "value"), CHANGED)
def test_fingerprints_are_of_options_alone(shop: Any, path: tuple[str, ...], value: Any) -> None:
    """A component's fingerprint changes with its options and its resources, not with its engine settings or others'."""
    before = fingerprints(shop.load(written(BASE)))
    after = fingerprints(shop.load(written(changed(BASE, [(path, value)]))))
    moved = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    if path[0] == "components" and path[2] != "run":
        assert moved == {path[1]}
    else:
        assert moved == ({"shelf"} if path[0] == "resources" else set())


def test_names_of_components_count_in_the_hash_alone(shop: Any) -> None:
    """A component's randomness depends on its name, so the hash does; what it is does not."""
    one = shop.load(written(BASE))
    other = shop.load(written(BASE).replace("prices", "tags").replace("shop.tags", "shop.prices"))
    assert hash_of(one) != hash_of(other)
    assert fingerprints(one)["prices"] == fingerprints(other)["tags"]


def test_the_names_of_resources_do_not_count(shop: Any) -> None:
    """What a component takes is what the resource is, whatever it is called."""
    other = written(BASE).replace("resources.store", "resources.depot")
    assert hash_of(shop.load(other)) == hash_of(shop.load(written(BASE)))


def test_environment_variables_count_by_name(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a variable holds changes no hash; its name does, and so does writing the value instead."""
    place = ("components", "top", "size")
    hashes = []
    for text in ("4", "5"):
        monkeypatch.setenv("SIZE", text)
        monkeypatch.setenv("OTHER", text)
        for value in ({"env": "SIZE"}, {"env": "OTHER"}, {"env": "SIZE", "default": 3}):
            app = shop.load(written(changed(BASE, [(place, value)])))
            assert next(node.component.size for node in app["shop"].plan.nodes if node.name == "top") == int(text)
            hashes.append(hash_of(app))
        hashes.append(hash_of(shop.load(written(changed(BASE, [(place, int(text))])))))
    assert hashes[:3] == hashes[4:7]
    assert len(set(hashes)) == 5


def test_environment_variables_in_run_settings(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timeout from the environment counts by the variable's name as well."""
    spec = changed(BASE, [(("components", "shelf", "run", "timeout"), {"env": "WAIT"})])
    found = set()
    for text in ("1s", "2s"):
        monkeypatch.setenv("WAIT", text)
        found.add(hash_of(shop.load(written(spec))))
    assert len(found) == 1


def test_versions_count(shop: Any) -> None:
    """Another version of a plugin is another configuration."""
    found = []
    for version in ("1.0", "1.1"):
        registry = Registry()
        for plugin, *_ in shop.registry._key_sources:
            registry.add(plugin, "shop-plugin", version)
        plan = load_document(Document(written(BASE)), registry=registry)["shop"].plan
        assert plan.plugins["shop-plugin"] == version
        found.append((plan.config_hash, {node.fingerprint for node in plan.nodes}))
    assert found[0][0] != found[1][0]
    assert not found[0][1] & found[1][1]


def test_nested_pipelines_count(shop: Any) -> None:
    """A pipeline inside another, or one that tops it up, counts with all that it is."""
    nest = {"sources": ["inner"], "selector": "shop.first"}
    top_up = {"sources": ["shelf"], "selector": "shop.first", "top_up": "shop", "min_results": 1}
    top_up |= {"inputs": {"buyer": "shop.buyer"}, "filters": ["shop.banned"], "hydrators": ["prices"]}
    spec = changed(
        BASE,
        [
            (("pipelines", "nest"), nest | {"inputs": {"buyer": "shop.buyer"}}),
            (("components", "inner"), {"use": "pipeline", "pipeline": "shop"}),
            (("pipelines", "filled"), top_up),
        ],
    )
    before = shop.load(written(spec))
    after = shop.load(written(changed(spec, [(("components", "top", "size"), 1)])))
    for pipeline in ("nest", "filled"):
        assert hash_of(before, pipeline) != hash_of(after, pipeline)
        assert before[pipeline].plan.plugins == before["shop"].plan.plugins
    assert fingerprints(before, "nest")["inner"] != fingerprints(after, "nest")["inner"]


def test_hashes_are_the_same_in_every_process(shop: Any) -> None:
    """Nothing of a process, such as the seed of its hashes, gets into a fingerprint."""
    code = (
        "import sys; sys.path[:0] = ['tests/core', 'tests/support']\n"
        "import test_fingerprint, conftest\n"
        "app = conftest.Shop(conftest.shop_registry()).load(test_fingerprint.written(test_fingerprint.BASE))\n"
        "print(app['shop'].plan.config_hash)"
    )
    root = Path(__file__).parents[2]
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=root,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert len(found) == 1


# Pipelines made of objects


class Colour(enum.Enum):
    """A value that is no TOML."""

    RED = 1
    BLUE = 2


@attrs.frozen
class Part:
    depth: int = 1


@attrs.frozen(eq=False)
class Odd:
    """A hydrator with options of all sorts."""

    reads: ClassVar[tuple[Any, ...]] = ()
    writes: ClassVar[tuple[Any, ...]] = (PRICE,)
    value: Any = None
    other: int = 0

    def hydrate(self, query: Any, candidates: Any, ctx: Any) -> Any:
        """As `priced`."""
        return priced(query, candidates, ctx)


VALUES: list[Any] = [
    None,
    True,
    1,
    1.0,
    "1",
    b"1",
    float("nan"),
    float("inf"),
    (1, 2),
    (2, 1),
    {"a": 1, "b": 2},
    {"a": 2, "b": 1},
    {1: 2},
    frozenset({1, 2}),
    dt.timedelta(seconds=1),
    dt.timedelta(seconds=2),
    dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    dt.datetime(2026, 1, 1),  # a naive one is another
    Path("a"),
    Path("b"),
    Colour.RED,
    Colour.BLUE,
    Part(1),
    Part(2),
    np.arange(3),
    np.arange(4),
    np.arange(3.0),
    PRICE,
    len,
    sorted,
    int,
    ["@duration", 1_000_000],
    ["@env", "X", None],
]


#: What JSON can hold, and infinities.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_values_of_objects_count() -> None:
    """No two unlike values have one fingerprint, and equal ones that were made anew have."""
    found = [identity_of_object(Odd(value)).fingerprint for value in VALUES]
    assert len(set(found)) == len(VALUES)
    assert [identity_of_object(Odd(copy.deepcopy(value))).fingerprint for value in VALUES] == found


@given(JSON)
def test_equal_data_has_equal_forms(value: Any) -> None:
    """The order of keys does not count; anything that JSON can hold has a form."""

    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(item) for item in value] if isinstance(value, list) else value

    assert digest(Canon().of(value)) == digest(Canon().of(turned(value)))


def test_moments_are_compared_as_moments() -> None:
    """The same moment in another zone is the same."""
    east = dt.datetime(2026, 1, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    assert Canon().of(east) == Canon().of(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))


def test_objects_that_hold_each_other_have_a_fingerprint() -> None:
    """What leads back to itself, or goes very deep, ends."""
    loop: list[Any] = []
    loop.append(loop)
    assert identity_of_object(Odd(loop)).fingerprint

    @attrs.define(eq=False)
    class Knot:
        other: Any = None

    knot = Knot()
    knot.other = Knot(knot)
    assert identity_of_object(knot).fingerprint


def composed(make: Any, **changes: Any) -> Any:
    """The plan of a composed pipeline."""
    given: dict[str, Any] = {
        "sources": [make("source", rows(1), "source")],
        "hydrators": [("odd", Odd("x"))],
        "selector": make("selector", best_first, "top"),
    }
    return compose("toy", **(given | changes))["toy"].plan


def test_composed_pipelines_have_hashes(make: Any) -> None:
    """They depend on the classes and plain values of the objects, on engine settings and on the pipeline's own."""
    changes: list[dict[str, Any]] = [
        {},
        {"hydrators": [("odd", Odd("y"))]},
        {"hydrators": [("even", Odd("x"))]},
        {"result_size": 3},
        {"run": {"odd": RunPolicy(cache=TTL)}},
        {"run": {"odd": RunPolicy(on_error="fail")}},
        {"semantics": "upstream"},
        {"deadline": seconds(1)},
    ]
    found = [composed(make, **change).config_hash for change in changes]
    assert len(set(found)) == len(changes)
    assert [composed(make, **change).config_hash for change in changes] == found
    assert set(composed(make).plugins) == {"candidate-pipeline"}


def test_a_composed_nested_pipeline_counts(make: Any) -> None:
    """What is nested counts with its own hash, in the hash and in the fingerprint."""
    inner = [composed(make), composed(make, result_size=1)]
    outer = [composed(make, sources=[("nest", NestedPipeline(plan))]) for plan in inner]
    assert outer[0].config_hash != outer[1].config_hash
    assert outer[0].nodes[0].fingerprint != outer[1].nodes[0].fingerprint


def test_a_plugin_of_a_class_is_the_class(shop: Any) -> None:
    """Two registered names of one class are two components."""
    cls = shop.registry.find("hydrator", "shop.prices").target
    plugin = Plugin(namespace="twin", components={"hydrator": {"prices": cls}})
    registry = Registry([plugin, *(plugin for plugin, *_ in shop.registry._key_sources)])
    text = written(BASE)
    one = load_document(Document(text), registry=registry)
    other = load_document(Document(text.replace('"shop.prices"', '"twin.prices"')), registry=registry)
    assert fingerprints(one)["prices"] != fingerprints(other)["prices"]


def test_a_path_left_at_its_default_is_the_path_written() -> None:
    """Which counts as its text, unless it is of this machine alone."""
    found = attrs.make_class("Reads", {"where": attrs.field(default=Path("x/y"))})
    document = Document('[written]\nwhere = "x/y"\n[left]\n')
    written = Canon(document).table(found, {"where": Path("x/y")}, ("written",))
    assert written == Canon(document).table(found, {}, ("left",)) == {"where": ["@path", "x/y"]}
