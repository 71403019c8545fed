"""From TOML values to options: no coercion, ranges, nested tables, and whatever text comes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import annotated_types as at
import attrs
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from candidate_pipeline import Candidates, Context, Plugin, Query, Registry, SpecError, load_document
from candidate_pipeline.options import format_duration, options_of, parse_duration
from candidate_pipeline.spec.document import Document


def option(shop: Any, line: str, use: str = "affordable") -> Any:
    """The built component `use`, with a line of settings added."""
    text = shop.changed((f'use = "shop.{use}"', f'use = "shop.{use}"\n{line}'))
    plan = shop.load(text)["shop"].plan
    return next(node.component for node in plan.nodes if node.name == use)


@pytest.mark.parametrize(
    ("line", "attribute", "value"),
    [
        ("slack = 2", "slack", 2.0),
        ("slack = 2.5", "slack", 2.5),
        ("slack = inf", "slack", float("inf")),
        ("on = false", "on", False),
        ('mode = "loose"', "mode", "loose"),
        ('max_age = "90m"', "max_age", dt.timedelta(minutes=90)),
        ('max_age = "1.5s"', "max_age", dt.timedelta(seconds=1.5)),
        ("since = 2026-05-01T00:00:00Z", "since", dt.datetime(2026, 5, 1, tzinfo=dt.UTC)),
        ('weights = { a = 1, "b c" = 0.5 }', "weights", {"a": 1.0, "b c": 0.5}),
        ('names = ["x", "y"]', "names", ("x", "y")),
        ("count = 6", "count", 6),
        ("even = 4", "even", 4),
    ],
)
def test_values_arrive_as_their_type(shop: Any, line: str, attribute: str, value: Any) -> None:
    """A right value arrives as the option's own type."""
    found = getattr(option(shop, line), attribute)
    assert found == value
    assert type(found) is type(value)


def test_nested_tables_become_their_class(shop: Any) -> None:
    """A table for an attrs class becomes an instance, inline or under a header."""
    nested = option(shop, 'nested = { depth = 3, names = ["a"] }').nested
    assert (type(nested).__name__, nested.depth, nested.names) == ("Nested", 3, ("a",))
    assert option(shop, "[components.affordable.nested]\ndepth = 4").nested.depth == 4


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("slack = true", "E102", "wanted number, found the boolean true"),
        ('slack = "2"', "E102", "wanted number, found the string '2'"),
        ("on = 1", "E102", "wanted boolean, found the integer 1"),
        ('on = "true"', "E102", "wanted boolean, found the string 'true'"),
        ("count = 3.0", "E102", "wanted integer, found the float 3.0"),
        ("count = true", "E102", "wanted integer, found the boolean true"),
        ("mode = 1", "E102", "wanted one of 'strict', 'loose', found the integer 1"),
        ("max_age = 5", "E102", "wanted duration such as '40ms', '5s' or '48h', found the integer 5"),
        ('max_age = "5"', "E102", "wanted duration"),
        ('max_age = "5 s"', "E102", "wanted duration"),
        ('max_age = "-5s"', "E102", "wanted duration"),
        ('max_age = "1e3s"', "E102", "wanted duration"),
        (f'max_age = "{"9" * 400}d"', "E102", "wanted duration"),
        ('max_age = "0s"', "E104", "max_age: wanted more than 0ms, found the string '0s'"),
        ("since = 2026-05-01T00:00:00", "E102", "wanted date-time with a zone, found the date-time 2026-05-01"),
        ("since = 2026-05-01", "E102", "wanted date-time with a zone, found the date 2026-05-01"),
        ("names = 'x'", "E102", "wanted list of string, found the string 'x'"),
        ("names = ['x', 2]", "E102", "wanted string, found the integer 2"),
        ("names = []", "E104", "names: wanted at least 1 long, found a list of 0"),
        ("names = ['a', 'b', 'c']", "E104", "names: wanted at most 2 long, found a list of 3"),
        ("count = 10", "E104", "count: wanted at most 9, found the integer 10"),
        ("count = 4", "E104", "count: wanted a multiple of 3, found the integer 4"),
        ("even = 3", "E104", "even: wanted a value that passes is_even, found the integer 3"),
        ("slack = 0", "E104", "slack: wanted more than 0, found the integer 0"),
        ("slack = nan", "E104", "slack: wanted more than 0, found the float nan"),
        ("weights = [1]", "E102", "wanted table of number, found a list of 1"),
        ("weights = { a = '1' }", "E102", "wanted number, found the string '1'"),
        ("nested = 3", "E102", "wanted table (Nested), found the integer 3"),
        ("nested = {}", "E103", "Nested needs the key 'depth'"),
        ("nested = { depth = 1, deep = 2 }", "E101", "unknown key 'deep' for Nested"),
        ("nested = { depth = '1' }", "E102", "wanted integer, found the string '1'"),
        ("reads = []", "E101", "unknown key 'reads' for shop.affordable"),
        ("run = { retry = 3 }", "E101", "unknown key 'retry' for run"),
        ("run = 3", "E102", "run: wanted a table, found the integer 3"),
        ("run = { timeout = '0s' }", "E104", "timeout: wanted more than 0ms, found the string '0s'"),
        ("run = { safety = 'yes' }", "E102", "wanted boolean, found the string 'yes'"),
    ],
)
def test_nothing_is_coerced(shop: Any, line: str, code: str, message: str) -> None:
    """A value of another type, or out of range, is reported as what it is and never made to fit."""
    text = shop.changed(('use = "shop.affordable"', f'use = "shop.affordable"\n{line}'))
    found = shop.mistakes(text)
    assert f"{code} {message}" in found
    assert found.endswith("\n1 problem found")


def test_text_that_looks_like_a_date_is_shown_in_quotes(shop: Any) -> None:
    """A name that TOML takes for a date is told with the quotes that make it text."""
    text = shop.changed(('use = "shop.affordable"', 'use = "shop.affordable"\nnames = [2026-08-12]'))
    assert 'write it as text, in quotes: "2026-08-12"' in shop.mistakes(text)


TOML_VALUES = st.recursive(
    st.sampled_from(["true", "false", "0", "1", "-7", "0.5", "nan", "'7'", "'5s'", "''", "'strict'"])
    | st.sampled_from(["1979-05-27", "07:32:00", "1979-05-27T07:32:00Z"]),
    lambda inner: (
        st.lists(inner, max_size=2).map(lambda items: "[" + ", ".join(items) + "]")
        | st.lists(inner, max_size=2).map(
            lambda items: "{" + ", ".join(f"{key} = {item}" for key, item in zip("ab", items, strict=False)) + "}"
        )
    ),
    max_leaves=4,
)
OPTIONS = st.sampled_from(
    ["slack", "max_age", "mode", "nested", "weights", "since", "on", "count", "names", "even", "run", "use", "nope"]
)


@settings(max_examples=300, deadline=None)
@given(OPTIONS, TOML_VALUES)
def test_any_value_gives_a_component_or_a_spec_error(shop: Any, name: str, value: str) -> None:
    """Whatever stands behind a key, the answer is a component whose options have their types, or a `SpecError`."""
    settings_line = f"{name} = {value}" if name != "use" else f"use = {value}\n#"
    text = shop.spec.replace(
        'use = "shop.affordable"', settings_line if name == "use" else f'use = "shop.affordable"\n{settings_line}'
    )
    found = shop.tried(text)
    if isinstance(found, SpecError):
        assert found.problems
        assert all(problem.location.line for problem in found.problems)
        return
    component = next(node.component for node in found["shop"].plan.nodes if node.name == "affordable")
    types = {"slack": float, "max_age": dt.timedelta, "on": bool, "count": int, "names": tuple, "even": int}
    for option_name, wanted in types.items():
        assert type(getattr(component, option_name)) is wanted


PIECES = st.one_of(
    st.sampled_from(list(" \n\t\\[]{}=,.\"'#1aé")),
    st.sampled_from(["[[", "]]", "'''", '"""', "true", "fallback:a"]),
    st.sampled_from(["schema", "pipelines", "shop", "components", "run", "use", "sources"]),
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_specs_never_crash(shop: Any, data: st.DataObject) -> None:
    """A spec with pieces cut out, doubled or put in loads or gives a `SpecError`, and nothing else."""
    text = shop.spec
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 20)))
        text = text[:start] + "".join(data.draw(st.lists(PIECES, max_size=4))) + text[end:]
    found = shop.tried(text)
    assert not isinstance(found, SpecError) or str(found).endswith("found")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_swapped_values_never_crash(shop: Any, data: st.DataObject) -> None:
    """A spec in which the values of two keys are swapped loads or gives a `SpecError`, and nothing else."""
    lines = shop.spec.splitlines()
    pairs = [place for place, line in enumerate(lines) if " = " in line]
    first, second = data.draw(st.sampled_from(pairs)), data.draw(st.sampled_from(pairs))
    values = [lines[place].partition(" = ")[2] for place in (first, second)]
    for place, value in ((first, values[1]), (second, values[0])):
        lines[place] = lines[place].partition(" = ")[0] + " = " + value
    found = shop.tried("\n".join(lines))
    assert not isinstance(found, SpecError) or all(problem.location.line for problem in found.problems)


@given(st.integers(0, 10**9), st.sampled_from(["ms", "s", "m", "h", "d"]))
@example(0, "s")
def test_durations_round_trip(number: int, unit: str) -> None:
    """A whole number of a unit is that duration, and is shown so that it reads back as the same."""
    seconds = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    duration = parse_duration(f"{number}{unit}")
    if number * seconds >= 86400 * 999999999:
        return
    assert duration is not None
    assert abs(duration.total_seconds() - number * seconds) < 1e-3
    assert parse_duration(format_duration(duration)) == duration


@given(st.text(max_size=12))
def test_other_texts_are_no_durations(text: str) -> None:
    """Texts that are no duration give `None`, never an exception."""
    duration = parse_duration(text)
    assert duration is None or text[0].isdigit()


def test_resources_fill_themselves_in(shop: Any) -> None:
    """A resource that is not named is the only one of its class; of several one must be named."""
    app = shop.load(shop.spec)
    shelf = next(node.component for node in app["shop"].plan.nodes if node.name == "shelf")
    assert shelf.store is app.resource("store")
    two = '[resources.other]\nuse = "shop.store"\npath = "x"\n'
    text = shop.changed(('use = "shop.shelf"', 'use = "shop.shelf"\nstore = "other"')) + two
    app = shop.load(text)
    shelf = next(node.component for node in app["shop"].plan.nodes if node.name == "shelf")
    assert shelf.store is app.resource("other")
    assert shelf.store.path == Path("/base/x")


def test_optional_resources_are_not_filled_in(shop: Any) -> None:
    """A resource option that may be `None` stays `None` unless it is named."""
    app = shop.load(shop.spec + '\n[resources.i]\nuse = "shop.index"\n')
    assert app.resource("i").other is None
    assert app.resource("i").store is app.resource("store")


def test_resources_are_built_before_those_that_need_them(shop: Any) -> None:
    """A resource may name one that stands below it."""
    text = shop.spec + '\n[resources.a]\nuse = "shop.index"\nother = "b"\n[resources.b]\nuse = "shop.index"\n'
    app = shop.load(text)
    assert app.resource("a").other is app.resource("b")


def test_paths_start_from_the_file_that_names_them(shop: Any, tmp_path: Path) -> None:
    """A relative path starts at the folder of the spec, one in `--set` at the current folder, `~` at home."""
    assert shop.load(shop.spec).resource("store").path == Path("/base/data")
    assert shop.load(shop.changed(('path = "data"', 'path = "/abs"'))).resource("store").path == Path("/abs")
    assert shop.load(shop.changed(('path = "data"', 'path = "~/x"'))).resource("store").path == Path.home() / "x"
    assert shop.load(shop.spec, sets=["resources.store.path=here"]).resource("store").path == Path.cwd() / "here"


def test_loading_leaves_the_document_as_it_was(shop: Any, tmp_path: Path) -> None:
    """Overrides of one load do not show in the next load of the same document."""
    document = Document(shop.spec)
    first = load_document(document, registry=shop.registry, sets=["components.top.size=1"])
    second = load_document(document, registry=shop.registry)
    sizes = [
        next(node.component.size for node in app["shop"].plan.nodes if node.name == "top") for app in (first, second)
    ]
    assert sizes == [1, 2]


def test_options_of_a_class() -> None:
    """Options carry type, default, range and text; what attrs sets itself is no option."""

    @attrs.frozen
    class Sized:
        size: Annotated[int, at.Ge(1)] = 5
        needed: str = attrs.field(kw_only=True)
        _hidden: float = 0.5
        own: int = attrs.field(default=1, init=False)
        maybe: Annotated[int | None, at.Le(3)] = None
        inner: Annotated[int, at.Ge(2)] | None = None

    found = options_of(Sized)
    assert list(found) == ["size", "needed", "hidden", "maybe", "inner"]
    assert (found["size"].default, found["size"].required, found["needed"].required) == (5, False, True)
    assert found["hidden"].name == "hidden"
    assert found["inner"].constraints == (at.Ge(2),)
    assert found["maybe"].type_name == "integer"


def test_unannotated_options_are_refused() -> None:
    """A class whose option has no type gives an error that names the option."""
    plain = attrs.make_class("Plain", {"size": attrs.field(default=1)})
    with pytest.raises(TypeError, match=r"Plain\.size has no type annotation, which an option needs"):
        options_of(plain)


@attrs.define
class Holder:
    """A nested table that would hold a resource."""

    store: Store


@attrs.define
class Store:
    """A resource."""

    def open(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""


@attrs.frozen
class Odd:
    """A selector with options of unusual types."""

    reads = ()
    weights: Mapping[str, Annotated[float, at.Ge(0)]] = attrs.field(factory=dict)
    pair: tuple[int, str] = (0, "")
    listed: list[int] = attrs.field(factory=list)
    stores: list[Store] = attrs.field(factory=list)
    anything: Any = None
    holder: Holder | None = None
    misfit: Annotated[dt.timedelta, at.Ge(0)] = dt.timedelta(0)
    either: int | str = 0
    where: Path | None = None

    def select(self, query: Query, candidates: Candidates, ctx: Context) -> Any:
        """Nothing."""
        return np.empty(0, np.intp)


@attrs.frozen
class Few:
    """A source of nothing."""

    reads = ()
    writes = ()

    def fetch(self, query: Query, ctx: Context) -> Candidates:
        """No rows."""
        return Candidates.empty()


ODD = Registry(
    [
        Plugin(
            namespace="toy", components={"source": {"few": Few}, "selector": {"odd": Odd}, "resource": {"store": Store}}
        )
    ]
)


def odd(line: str) -> Any:
    """The selector with a line of settings."""
    text = (
        'schema = 1\n[pipelines.p]\nsources = ["toy.few"]\nselector = "s"\n'
        f'[components.s]\nuse = "toy.odd"\n{line}\n[resources.store]\nuse = "toy.store"\n'
    )
    app = load_document(Document(text), registry=ODD)
    return app, next(node.component for node in app["p"].plan.nodes if node.name == "s")


def test_lists_of_every_sort() -> None:
    """A list is a list or a tuple as its type says, of one type or one for each place, of resources too."""
    app, component = odd('pair = [3, "x"]\nlisted = [1, 2]\nstores = ["store"]\nanything = [1, { a = "b" }]')
    assert component.pair == (3, "x")
    assert component.listed == [1, 2]
    assert component.stores == [app.resource("store")]
    assert component.anything == [1, {"a": "b"}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("weights = { a = 1, b = -1 }", "E104 wanted at least 0, found the integer -1"),
        ("pair = [1]", "E104 wanted a list of 2, found a list of 1"),
        ('pair = ["x", 1]', "E102 wanted integer, found the string 'x'"),
        ("pair = 1", "E102 wanted list of integer, string, found the integer 1"),
        ('stores = ["stor"]', "E206 no resource 'stor'"),
        ("stores = [1]", "E102 wanted name of a resource (Store), found the integer 1"),
        ('holder = { store = "store" }', "E203 Holder.store: only a component itself can take a resource"),
        ('misfit = "1s"', "E203 misfit: Ge(ge=0) does not fit the option's type"),
        ("either = 1", "E203 options of type int | str cannot be written in TOML"),
        ("where = 1", "E102 wanted path, found the integer 1"),
    ],
)
def test_mistakes_in_unusual_options(line: str, message: str) -> None:
    """Mistakes inside lists and tables, and options that a class declares wrongly, are told with their place."""
    with pytest.raises(SpecError) as caught:
        odd(line)
    assert "<string>:7:" in str(caught.value)
    assert message in str(caught.value)


def test_constraints_that_would_not_be_tested_are_refused() -> None:
    """A constraint that the loader does not understand is an error of the class, not silence."""

    @attrs.frozen
    class Zoned:
        at_noon: Annotated[dt.datetime, at.Timezone("Europe/Paris")]

    with pytest.raises(TypeError, match=r"Zoned\.at_noon: the constraint Timezone\(.*\) is not understood"):
        options_of(Zoned)
