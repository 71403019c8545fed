"""Plugins: found, isolated when broken, and refused where they clash."""

from __future__ import annotations

import sys
import types
from importlib import metadata
from typing import Any

import attrs
import numpy as np
import pytest
from toys import PRICE

from candidate_pipeline import (
    ITEM_ID,
    Candidates,
    Column,
    Command,
    Context,
    MisconfigurationError,
    Plugin,
    Query,
    QueryFeature,
    Registry,
    hookimpl,
    load_document,
    per_item,
)
from candidate_pipeline.cli import BUILTIN
from candidate_pipeline.plugin import BUILTIN_COMMANDS
from candidate_pipeline.registry import BrokenPlugin, ComponentRef, _load_installed
from candidate_pipeline.spec.document import Document


class FakeDistribution:
    """A distribution by name and version."""

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version


class FakeEntry:
    """An entry point that gives a module, or raises."""

    def __init__(self, name: str, load: Any, *, distribution: Any = None) -> None:
        self.name = name
        self.value = f"{name}.plugin"
        self.dist = distribution or FakeDistribution(f"{name}-dist", "1.0")
        self._load = load

    def load(self) -> Any:
        """The module."""
        return self._load()


def module_of(plugin: Any, hook: str = "candidate_pipeline_plugin") -> Any:
    """A module whose hook returns something."""
    module = types.ModuleType("fake")

    def candidate_pipeline_plugin() -> Any:
        return plugin

    setattr(module, hook, hookimpl(candidate_pipeline_plugin))
    return module


def raising(error: BaseException) -> Any:
    """A function that raises."""

    def load() -> Any:
        raise error

    return load


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A registry over fake entry points."""

    def installed(*entries: FakeEntry) -> Registry:
        monkeypatch.setattr(
            metadata, "entry_points", lambda group: list(entries) if group == "candidate_pipeline" else []
        )
        return _load_installed()

    return installed


GOOD = Plugin(
    namespace="good", components={"filter": {"age": "shop.filters:Age"}}, commands={"good do": Command("a:b", help="x")}
)


@pytest.mark.parametrize(
    ("load", "cause"),
    [
        (raising(ModuleNotFoundError("No module named 'jax'")), "ModuleNotFoundError: No module named 'jax'"),
        (raising(SystemExit(3)), "SystemExit: 3"),
        (lambda: module_of({"namespace": "x"}), "TypeError: wanted a Plugin, found {'namespace': 'x'}"),
        (lambda: module_of(None), "has no hook candidate_pipeline_plugin, or it returned None"),
        (lambda: types.ModuleType("empty"), "has no hook candidate_pipeline_plugin, or it returned None"),
        (lambda: module_of(GOOD, hook="candidate_pipeline_plugn"), "unknown hook 'candidate_pipeline_plugn'"),
        (
            lambda: module_of(Plugin(namespace="core")),
            "the namespace 'core' of bad-dist is taken by candidate-pipeline",
        ),
        (
            lambda: module_of(Plugin(namespace="bad", commands={"run": Command("a:b", help="x")})),
            "the command 'run' of bad-dist is taken by candidate-pipeline ('run')",
        ),
        (lambda: module_of(Plugin(namespace="Bad Name")), "a namespace is one lower-case word"),
    ],
)
def test_one_broken_plugin_is_reported_and_hurts_nobody(installed: Any, load: Any, cause: str) -> None:
    """A plugin that cannot be loaded is a record of distribution, version and cause; those before and after it work."""
    other = Plugin(namespace="zoo", components={"filter": {"age": "zoo.filters:Age"}})
    registry = installed(
        FakeEntry("zoo", lambda: module_of(other)),
        FakeEntry("bad", load, distribution=FakeDistribution("bad-dist", "0.3.1")),
        FakeEntry("good", lambda: module_of(GOOD)),
    )
    assert [ref.name for ref in registry.components()] == ["good.age", "zoo.age"]
    assert set(registry.commands) == {"good do"}
    (broken,) = registry.broken
    assert (broken.entry_point, broken.distribution, broken.version) == ("bad", "bad-dist", "0.3.1")
    assert cause in broken.cause
    assert registry.broken_for("bad.anything") is broken
    assert registry.broken_for("good.age") is None


def test_second_plugin_of_a_namespace_is_the_broken_one(installed: Any) -> None:
    """Of two plugins with one namespace the first, by entry-point name, stays."""
    registry = installed(
        FakeEntry("a", lambda: module_of(GOOD)),
        FakeEntry("b", lambda: module_of(Plugin(namespace="good")), distribution=FakeDistribution("late", "2")),
    )
    assert registry.broken == [
        BrokenPlugin("b", "late", "2", "MisconfigurationError: the namespace 'good' of late is taken by a-dist")
    ]
    ref = registry.find("filter", "good.age")
    assert ref is not None
    assert (ref.distribution, ref.version) == ("a-dist", "1.0")


def test_entry_points_of_one_name_are_both_loaded(installed: Any) -> None:
    """Two distributions may call their entry points alike; only namespaces must differ."""
    registry = installed(
        FakeEntry("plugin", lambda: module_of(GOOD)),
        FakeEntry("plugin", lambda: module_of(Plugin(namespace="zoo"))),
    )
    assert registry.broken == []


def test_entry_points_without_a_distribution(installed: Any) -> None:
    """An entry point whose distribution is unknown still loads."""
    entry = FakeEntry("good", lambda: module_of(GOOD))
    entry.dist = None
    ref = installed(entry).find("filter", "good.age")
    assert (ref.distribution, ref.version) == ("(unknown)", "-")


@pytest.mark.parametrize("words", sorted(BUILTIN_COMMANDS))
def test_no_plugin_takes_a_built_in_command(words: str) -> None:
    """A plugin's command cannot replace one of the program's own, nor make a group of it."""
    for name in (words, f"{words} more"):
        with pytest.raises(
            MisconfigurationError, match=rf"the command '{name}' of \(given\) is taken by candidate-pipeline"
        ):
            Registry([Plugin(namespace="toy", commands={name: Command("a:b", help="x")})])


def test_built_in_commands_are_the_reserved_ones() -> None:
    """The names that plugins cannot take are those of the program's own commands."""
    assert set(BUILTIN) == BUILTIN_COMMANDS


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("shop", "shop", True),
        ("shop", "shop import", True),
        ("shop import", "shop", True),
        ("shop import", "shop import", True),
        ("shop import", "shop export", False),
        ("shop", "shops", False),
    ],
)
def test_commands_that_hide_one_another_are_refused(first: str, second: str, clash: bool) -> None:
    """A command and a group of one name, or one command twice, cannot both be called."""
    plugins = [
        Plugin(namespace=name, commands={words: Command("a:b", help="x")})
        for name, words in (("one", first), ("two", second))
    ]
    if clash:
        with pytest.raises(MisconfigurationError, match=rf"the command '{second}' of \(given\) is taken by \(given\)"):
            Registry(plugins)
    else:
        assert set(Registry(plugins).commands) == {first, second}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"namespace": "a.b"}, "a namespace is one lower-case word, found 'a.b'"),
        ({"namespace": "a", "components": {"scorers": {}}}, "Plugin a: no kind 'scorers'; there are: query_hydrator"),
        ({"namespace": "a", "components": {"scorer": {"X": "a:b"}}}, "a name is one lower-case word, found 'X'"),
        (
            {"namespace": "a", "components": {"scorer": {"x": "a.b"}}},
            "Plugin a, scorer x: wanted 'module:name', found 'a.b'",
        ),
        (
            {"namespace": "a", "commands": {"one two three": Command("a:b", help="")}},
            "a command is one or two lower-case",
        ),
        (
            {"namespace": "a", "commands": {"Shout": Command("a:b", help="")}},
            "a command is one or two lower-case words",
        ),
    ],
)
def test_plugins_are_checked_when_made(given: Any, message: str) -> None:
    """A plugin with a wrong name, kind, target or command says which when it is made."""
    with pytest.raises(ValueError, match=message):
        Plugin(**given)
    with pytest.raises(ValueError, match="wanted 'module:name', found 'nothing'"):
        Command("nothing", help="")


def test_targets_are_resolved_on_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing components imports none of them; loading one imports its module only."""
    loaded = []

    class Lazy(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name == "Age":
                loaded.append(name)
                return type("Age", (), {})
            raise AttributeError(name)

    monkeypatch.setitem(sys.modules, "lazy_shop", Lazy("lazy_shop"))
    registry = Registry(
        [Plugin(namespace="shop", components={"filter": {"age": "lazy_shop:Age", "no": "not_there:X"}})]
    )
    assert [ref.name for ref in registry.components("filter")] == ["shop.age", "shop.no"]
    assert loaded == []
    ref = registry.find("filter", "shop.age")
    assert ref is not None
    assert ref.load().__name__ == "Age"
    assert loaded == ["Age"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("not_there_at_all:X", "scorer toy.x of dist 1: importing not_there_at_all failed: ModuleNotFoundError"),
        ("math:nothing", "scorer toy.x of dist 1: math has no 'nothing'"),
        ("math:pi", "toy.x: math:pi is a float, wanted a class"),
        ("exits_at_import:X", "importing exits_at_import failed: SystemExit: 2"),
    ],
)
def test_targets_that_cannot_be_resolved(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, target: str, message: str
) -> None:
    """A component whose module or class is not there is a `MisconfigurationError` with distribution and cause."""
    (tmp_path / "exits_at_import.py").write_text("raise SystemExit(2)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MisconfigurationError) as caught:
        ComponentRef("scorer", "toy.x", target, "dist", "1").load()
    assert message in str(caught.value)


def keys_module(monkeypatch: pytest.MonkeyPatch, name: str, **keys: Any) -> str:
    """A module of keys."""
    module = types.ModuleType(name)
    vars(module).update(keys)
    monkeypatch.setitem(sys.modules, name, module)
    return name


def test_keys_are_collected_from_modules_and_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys come from a plugin's module or list; one that another plugin imports is the same key, not a second one."""
    own = QueryFeature("zoo.age", int)
    plugins = [
        Plugin(namespace="toy", keys=keys_module(monkeypatch, "toy_keys", PRICE=PRICE, other=3)),
        Plugin(namespace="zoo", keys=[own, PRICE]),
    ]
    registry = Registry(plugins)
    assert {"toy.price", "zoo.age", "core.item_id", "core.score", "core.item_text_id"} == set(registry.keys())
    assert registry.keys()["toy.price"] is PRICE
    assert registry.broken == []


def test_second_key_of_a_name_is_left_out_and_reported() -> None:
    """Two keys of one name cannot both be meant: the first stays and the second's plugin is reported."""
    twin = Column("toy.price", np.float64)
    registry = Registry([Plugin(namespace="toy", keys=[PRICE])])
    registry.add(Plugin(namespace="zoo", keys=[twin, Column("zoo.age", np.int64)]), "zoo-dist", "2")
    assert registry.keys()["toy.price"] is PRICE
    assert registry.keys()["zoo.age"].name == "zoo.age"
    cause = "a second key is named 'toy.price'; rename one of them"
    assert registry.broken == [BrokenPlugin("zoo", "zoo-dist", "2", cause)]
    registry.keys()
    assert len(registry.broken) == 1


def test_keys_that_do_not_import_hurt_only_their_own_plugin(shop: Any) -> None:
    """A spec that needs no key of the broken plugin loads; one that does gets E201 with the cause."""
    registry = Registry([Plugin(namespace="pets", keys="pet_keys_that_are_not")])
    assert registry.keys()["core.score"].name == "core.score"
    (broken,) = registry.broken
    assert broken.entry_point == "pets"
    assert "importing pet_keys_that_are_not failed: ModuleNotFoundError" in broken.cause
    text = shop.changed(('buyer = "shop.buyer"', 'buyer = "pets.owner"'))
    assert "E201 no query feature named 'pets.owner'" in shop.mistakes(text)
    assert "pet-shop 1.2 could not be loaded: ModuleNotFoundError: No module named 'fur'" in shop.mistakes(text)


# @per_item, which makes classes to register


@per_item(reads=[PRICE], safety=True)
def affordable(query: Query, row: Any) -> bool:
    """Keep what costs at most 2."""
    price = row[PRICE]
    return price is not None and price <= 2


def test_per_item_makes_a_filter_class() -> None:
    """The class has the function's name, module and text, and asks it about each row."""
    instance = affordable()
    assert (affordable.__name__, affordable.__module__) == ("affordable", __name__)
    assert affordable.__doc__ == "Keep what costs at most 2."
    assert (instance.reads, instance.safety) == ((PRICE,), True)
    table = Candidates.of(ITEM_ID([1, 2, 3]), PRICE([1.0, 3.0, 0.0], valid=[True, True, False]))
    assert instance.keep(Query(), table, Context("f")).tolist() == [True, False, False]
    assert instance.keep(Query(), Candidates.empty().with_null([PRICE], 0), Context("f")).dtype == np.bool_


def test_per_item_answers_are_booleans() -> None:
    """A function that forgets to return says so, rather than drop every row."""

    @per_item(reads=[])
    def forgetful(query: Query, row: Any) -> bool:
        """Forget."""
        return None  # type: ignore[return-value]  # that it is refused is the test

    with pytest.raises(Exception, match="forgetful: wanted True or False, found None"):
        forgetful().keep(Query(), Candidates.of(ITEM_ID([1])), Context("f"))


def test_per_item_filters_can_be_registered_and_used_from_toml() -> None:
    """A registered `@per_item` filter takes no options and runs from a spec."""

    @attrs.frozen
    class Items:
        reads = ()
        writes = (PRICE,)

        def fetch(self, query: Query, ctx: Context) -> Candidates:
            """Two items."""
            return Candidates.of(ITEM_ID([1, 2]), PRICE([1.0, 5.0]))

    @attrs.frozen
    class Everything:
        reads = ()

        def select(self, query: Query, candidates: Candidates, ctx: Context) -> Any:
            """All rows."""
            return np.arange(len(candidates))

    components: Any = {
        "source": {"items": Items},
        "filter": {"affordable": affordable},
        "selector": {"all": Everything},
    }
    registry = Registry([Plugin(namespace="toy", components=components, keys=[PRICE])])
    text = 'schema = 1\n[pipelines.p]\nsources = ["toy.items"]\nfilters = ["toy.affordable"]\nselector = "toy.all"\n'
    with load_document(Document(text), registry=registry) as app:
        outcome = app["p"].run_sync()
    assert outcome.item_ids.tolist() == [1]
    assert outcome.explain(2).dropped_by == "toy.affordable"
