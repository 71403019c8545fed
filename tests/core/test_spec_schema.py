"""The JSON Schema of specs, held against the loader with the `jsonschema` library."""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import attrs
import pytest
from annotated_types import Ge, Gt, Le, Len, Lt
from jsonschema import Draft7Validator
from toml_json import as_json

from candidate_pipeline import Doc, Plugin, Registry, SpecError
from candidate_pipeline.keys import Column, QueryFeature
from candidate_pipeline.options import (
    options_of,
)
from candidate_pipeline.registry import installed
from candidate_pipeline.spec.entries import nested_ref
from candidate_pipeline.spec.model import STAGES
from candidate_pipeline.spec.problems import CODES
from candidate_pipeline.spec.schema import json_schema

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = (ROOT / "pipelines.toml").read_text(encoding="utf-8")


def mistakes(validator: Draft7Validator, text: str) -> list[str]:
    """The paths at which a schema finds mistakes in a spec; `[]` if there are none."""
    return sorted({".".join(map(str, error.path)) for error in validator.iter_errors(as_json(tomllib.loads(text)))})


@pytest.fixture(scope="session")
def schema() -> dict[str, Any]:
    """The schema with installed plugins."""
    return json_schema(installed())


@pytest.fixture(scope="session")
def shipped(schema: dict[str, Any]) -> Draft7Validator:
    """Validates against installed plugins."""
    return Draft7Validator(schema)


@pytest.fixture(scope="session")
def shop_schema(shop: Any) -> Draft7Validator:
    """Validates against the toy plugin."""
    return Draft7Validator(json_schema(shop.registry))


def test_the_schema_is_one(schema: dict[str, Any], shop_schema: Draft7Validator) -> None:
    """Schemas are valid against the metaschema of draft 7, and JSON without NaN."""
    for each in (schema, shop_schema.schema):
        assert isinstance(each, dict)
        assert each["$schema"] == "http://json-schema.org/draft-07/schema#"
        Draft7Validator.check_schema(each)
        assert json.loads(json.dumps(each, allow_nan=False)) == each


def test_every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    """Every `$ref` names a definition, by a pointer that needs no escaping, and every definition has a use."""
    names = set(re.findall(r'"#/definitions/([^"]+)"', json.dumps(schema)))
    unused = set(schema["definitions"]) - names
    assert names <= set(schema["definitions"])
    assert all(name.startswith("run.") for name in unused)  # of kinds without an installed component
    assert all(re.fullmatch(r"[a-z0-9_.]+", name) for name in names)


def whole_specs() -> dict[str, str]:
    """Every whole spec that the documents and the codes' pages show as sound, by where it stands."""
    found = {"pipelines.toml": SHIPPED}
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        blocks = re.findall(r"^```toml\n(.*?)^```$", path.read_text(encoding="utf-8"), re.M | re.S)
        found |= {
            f"{path.name} {at}": block
            for at, block in enumerate(blocks)
            if re.search("^schema = 1", block, re.M) and re.search(r"^extends = |^\[pipelines\.", block, re.M)
        }
    for code in CODES:
        text = (ROOT / "candidate_pipeline" / "codes" / f"{code}.md").read_text(encoding="utf-8")
        match = re.search(r"^```toml mended\n(.*?)^```$", text, re.M | re.S)
        found |= {f"{code}.md": match[1]} if match else {}
    return found


@pytest.mark.parametrize("name", whole_specs())
def test_sound_specs_validate(shipped: Draft7Validator, name: str) -> None:
    """The shipped pipelines, the documents' specs and the mended examples of the codes have no mistakes."""
    assert mistakes(shipped, whole_specs()[name]) == []


def test_the_toy_spec_validates(shop: Any, shop_schema: Draft7Validator) -> None:
    """The spec over the toy plugin has no mistakes."""
    assert mistakes(shop_schema, shop.spec) == []


#: The codes whose example a schema can refuse, for what is wrong in it is wrong by itself.
EXPRESSIBLE = {"E101", "E102", "E104", "E105", "E106", "E202", "E205", "E311"}


@pytest.mark.parametrize("code", sorted(EXPRESSIBLE))
def test_wrong_examples_are_refused(shipped: Draft7Validator, code: str) -> None:
    """The wrong examples of codes for what is wrong by itself are refused."""
    text = (ROOT / "candidate_pipeline" / "codes" / f"{code}.md").read_text(encoding="utf-8")
    match = re.search(r"^```toml wrong\n(.*?)^```$", text, re.M | re.S)
    assert match is not None
    assert mistakes(shipped, match[1]) != []


PLANTED: list[tuple[str, str, str]] = [
    # What is replaced, by what, and where the schema finds the mistake.
    ("schema = 1", "schema = 2", "schema"),
    ("schema = 1", 'schema = "1"', "schema"),
    ("schema = 1\n", "", ""),
    ("schema = 1", "schema = 1\ncomponent = 3", ""),
    ("schema = 1", 'schema = 1\nextends = "base.json"', "extends"),
    ("[pipelines.shop]", '[pipelines."Shop.x"]', "pipelines"),
    ("result_size = 2", "result_sise = 2", "pipelines.shop"),
    ("result_size = 2", 'result_size = "2"', "pipelines.shop.result_size"),
    ("result_size = 2", "result_size = true", "pipelines.shop.result_size"),
    ("result_size = 2", "result_size = 0", "pipelines.shop.result_size"),
    ("result_size = 2", "result_size = 2.5", "pipelines.shop.result_size"),
    ("result_size = 2", "result_size = { env = 3 }", "pipelines.shop.result_size"),
    ("result_size = 2", 'result_size = { env = "N", default = 0 }', "pipelines.shop.result_size"),
    ("result_size = 2", 'result_size = { env = "N", defualt = 1 }', "pipelines.shop.result_size"),
    ("result_size = 2", "result_size = 2\nmin_results = 1", "pipelines.shop"),
    ("result_size = 2", 'result_size = 2\nsemantics = "lax"', "pipelines.shop.semantics"),
    ("result_size = 2", "result_size = 2\nmax_refills = 101", "pipelines.shop.max_refills"),
    ("result_size = 2", "result_size = 2\nstages = { sauces = {} }", "pipelines.shop.stages"),
    (
        "result_size = 2",
        "result_size = 2\nstages = { sources = { timeout = 3 } }",
        "pipelines.shop.stages.sources.timeout",
    ),
    ('deadline = "5s"', 'deadline = "5 s"', "pipelines.shop.deadline"),
    ('deadline = "5s"', "deadline = 5", "pipelines.shop.deadline"),
    ('deadline = "5s"', 'deadline = "0.0s"', "pipelines.shop.deadline"),
    ('deadline = "5s"', 'deadline = "-5s"', "pipelines.shop.deadline"),
    ('buyer = "shop.buyer"', 'seed = "shop.buyer"', "pipelines.shop.inputs"),
    ('buyer = "shop.buyer"', 'Buyer = "shop.buyer"', "pipelines.shop.inputs"),
    ('buyer = "shop.buyer"', 'buyer = "shop.buyers"', "pipelines.shop.inputs.buyer"),
    ('buyer = "shop.buyer"', 'buyer = "shop.price"', "pipelines.shop.inputs.buyer"),
    ('show = ["shop.price"]', 'show = ["shop.prise"]', "pipelines.shop.show.0"),
    ('show = ["shop.price"]', 'show = "shop.price"', "pipelines.shop.show"),
    ('sources = ["shelf"]', 'sources = "shelf"', "pipelines.shop.sources"),
    ('sources = ["shelf"]', "sources = []", "pipelines.shop.sources"),
    ('sources = ["shelf"]\n', "", "pipelines.shop"),
    ('selector = "top"\n', "", "pipelines.shop"),
    ('selector = "top"', 'selector = ["top"]', "pipelines.shop.selector"),
    ('filters = ["shop.banned"', 'filters = ["shop.baned"', "pipelines.shop.filters.0"),
    ('filters = ["shop.banned"', 'filters = ["shop.top"', "pipelines.shop.filters.0"),
    ('filters = ["shop.banned"', 'filters = ["Banned"', "pipelines.shop.filters.0"),
    ('filters = ["shop.banned"', "filters = [3", "pipelines.shop.filters.0"),
    ('use = "shop.top"', 'use = "shop.tpo"', "components.top"),
    ('use = "shop.top"', "use = 7", "components.top"),
    ('use = "shop.top"\n', "", "components.top"),
    ('use = "shop.top"', 'use = "shop.store"', "components.top"),
    ('use = "shop.store"', 'use = "shop.top"', "resources.store"),
    ("\nsize = 2", "\nsize = true", "components.top"),
    ("\nsize = 2", "\nseize = 2", "components.top"),
    ("markup = 0.5", "markup = 3", "components.prices"),
    ("markup = 0.5", 'markup = "0.5"', "components.prices"),
    ('timeout = "1s"', 'time_out = "1s"', "components.shelf"),
    ('timeout = "1s"', "cache = { max_items = 5 }", "components.shelf.run.cache"),
    ('timeout = "1s"', "safety = true", "components.shelf"),
    ('timeout = "1s"', "retries = 3", "components.shelf"),
    ('timeout = "1s"', 'on_error = "skipp"', "components.shelf"),
    ('timeout = "1s"', 'when = { "shop.buyer" = { least = 3 } }', "components.shelf"),
    ('timeout = "1s"', 'when = { "shop.buyer" = {} }', "components.shelf"),
    ("\nsize = 2", '\nrun = { on_error = "skip" }', "components.top"),
    ('path = "data"', 'path = "data"\nrun = {}', "resources.store"),
    ('path = "data"', "path = 3", "resources.store"),
    *(
        ('use = "shop.affordable"', f'use = "shop.affordable"\n{line}', "components.affordable")
        for line in (
            "slack = 0",
            'max_age = "0s"',
            'max_age = "1 h"',
            'mode = "lose"',
            "nested = 3",
            'nested = { depth = "1" }',
            "nested = { depth = 1, deep = 2 }",
            "weights = { a = true }",
            "weights = [1]",
            "since = 2026-01-01",
            "since = 2026-01-01T00:00:00",
            "on = 1",
            "count = 4",
            "count = 12",
            "count = -3",
            "names = []",
            'names = ["a", "b", "c"]',
            "names = [1]",
        )
    ),
    ('use = "shop.affordable"', 'use = "shop.affordable"\nnested = { names = ["a"] }', "components.affordable.nested"),
]


@pytest.mark.parametrize(("old", "new", "place"), PLANTED)
def test_planted_mistakes_are_refused(shop: Any, shop_schema: Draft7Validator, old: str, new: str, place: str) -> None:
    """A schema finds each mistake that it can express, the loader finds it too, and the place is right."""
    text = shop.changed((old, new))
    found = mistakes(shop_schema, text)
    assert found[0] == place
    assert all(each.startswith(place) for each in found)  # a mistake in a table may be told of the table as well
    assert isinstance(shop.tried(text), SpecError)


@pytest.mark.parametrize(
    "line",
    [
        "slack = 3",
        'max_age = "0.5ms"',
        'mode = "loose"',
        'nested = { depth = 1, names = ["..."] }',
        "weights = { a = 1, b = 0.5 }",
        "since = 2026-01-01T00:00:00Z",
        "since = 2026-01-01T00:00:00.5+02:00",
        'since = { env = "TOY_SINCE", default = 2026-01-01T00:00:00Z }',
        "on = false",
        "count = 9",
        'slack = { env = "TOY_SLACK", default = 0.5 }',
        'nested = { depth = { env = "TOY_DEPTH", default = 2 } }',
        'weights = { a = { env = "TOY_A", default = 2 } }',
        "run = { safety = true }",
        'run = { on_error = "fail", when = { "shop.buyer" = { min = 3, present = true } } }',
        'run = { when = { "shop.budget" = 3.5 } }',
    ],
)
def test_what_the_loader_takes_validates(shop: Any, shop_schema: Draft7Validator, line: str) -> None:
    """Every form of value that the loader takes is valid."""
    text = shop.changed(('use = "shop.affordable"', f'use = "shop.affordable"\n{line}'))
    assert not isinstance(shop.tried(text), SpecError)
    assert mistakes(shop_schema, text) == []


@pytest.mark.parametrize(
    "text",
    [
        'schema = 1\nextends = "base.toml"',
        'schema = 1\nextends = "base.toml"\n[pipelines.shop]\nfilters = ["...", "-shop.banned", "cheap"]',
        'schema = 1\nextends = "base.toml"\n[components.top]\nsize = 3',
        'schema = 1\nextends = "base.toml"\n[components.affordable]\nnames = ["...", "-a", "b", "c"]',
        'schema = 1\nextends = "base.toml"\n[components.shelf]\nrun = { cache = { max_items = 3 } }',
        'schema = 1\nextends = "base.toml"\n[components.affordable]\nnested = { names = ["a"] }',
    ],
)
def test_a_spec_over_a_base_gives_less(shop_schema: Draft7Validator, text: str) -> None:
    """What the base gives may be left out of a spec that extends it, and lists may refer to the base's."""
    assert mistakes(shop_schema, text) == []


def test_a_pipeline_over_another_gives_less(shop: Any, shop_schema: Draft7Validator) -> None:
    """A pipeline that extends another needs neither sources nor a selector."""
    assert mistakes(shop_schema, shop.spec + '[pipelines.b]\nextends = "shop"\nshow = ["...", "-shop.price"]\n') == []
    assert mistakes(shop_schema, shop.spec + "[pipelines.b]\nshow = []\n") == ["pipelines.b"]


@attrs.frozen
class Tree:
    name: str
    leaves: tuple[Tree, ...] = ()


@attrs.frozen
class Many:
    """Does many things.

    At length.
    """

    reads: ClassVar = ()
    size: Annotated[int, Ge(2), Lt(9), Doc("How large.", unit="cm")] = 3
    wait: Annotated[dt.timedelta, Gt(dt.timedelta(seconds=2)), Doc("How long.")] = dt.timedelta(minutes=2)
    pair: tuple[int, str] = (1, "a")
    many: Annotated[list[Annotated[int, Le(3)]], Len(2, 4)] = attrs.field(factory=lambda: [1, 2])
    name: Annotated[str, Len(1, 3)] = "abc"
    table: Annotated[dict[str, Literal[1, "x", True]], Len(1)] = attrs.field(factory=lambda: {"a": 1})
    path: Path = Path("here")
    tree: Tree = Tree("root")
    anything: Any = None
    impossible: complex = 1j
    either: int | str = 1
    infinite: float = float("inf")
    needed: int = attrs.field(kw_only=True)

    def keep(self, query: Any, candidates: Any, ctx: Any) -> Any:
        """Nothing."""


def toy_registry() -> Registry:
    """A plugin with options of all sorts, and components that cannot be read."""
    bad: Any = "no_such_module_at_all:Thing"
    plugin = Plugin(
        "toy",
        components={"filter": {"many": Many, "gone": bad, "plain": object}, "selector": {"many": Many}},
        keys=[QueryFeature("toy.who", int, doc="Who asks."), Column("toy.size", float64())],
    )
    return Registry([plugin])


def float64() -> Any:
    """The dtype."""
    import numpy as np

    return np.float64


def test_every_part_of_an_option_is_in_the_schema() -> None:
    """Types, ranges, texts, units and defaults of options stand in the schema, in the form that JSON has for them."""
    found = json_schema(toy_registry())["definitions"]["filter.toy.many"]
    assert found["title"] == "toy.many (filter)"
    assert found["description"] == "Does many things. ((given) -)"
    options = found["properties"]
    size = options["size"]
    assert (size["description"], size["default"]) == ("How large. Unit: cm.", 3)
    assert size["anyOf"][0] == {"type": "integer", "minimum": 2, "exclusiveMaximum": 9}
    assert options["wait"]["default"] == "2m"
    assert options["wait"]["anyOf"][0]["description"].endswith("More than 2s.")
    assert options["pair"]["anyOf"][0]["maxItems"] == 2
    assert options["pair"]["default"] == [1, "a"]
    assert {key: options["many"]["anyOf"][0][key] for key in ("minItems", "maxItems")} == {"minItems": 2, "maxItems": 4}
    assert options["name"]["anyOf"][0] == {"type": "string", "minLength": 1, "maxLength": 3}
    assert options["table"]["minProperties"] == 1
    assert options["table"]["additionalProperties"]["anyOf"][0] == {"enum": [1, "x", True]}
    assert options["path"]["default"] == "here"
    assert options["tree"]["default"] == {"name": "root", "leaves": []}
    assert options["tree"]["properties"]["leaves"]["anyOf"][0]["items"] == {"type": "object"}
    assert options["anything"] == {}
    assert options["impossible"] == {"not": {}}
    assert options["either"] == {"default": 1, "not": {}}
    assert "default" not in options["infinite"]
    assert found["additionalProperties"] is False


def test_components_that_cannot_be_read_are_left_out() -> None:
    """A component that does not import or is no attrs class is left out and named; the others stay."""
    left: list[str] = []
    found = json_schema(toy_registry(), left.append)
    assert [name for name in found["definitions"] if ".toy." in name] == ["filter.toy.many", "selector.toy.many"]
    assert len(left) == 2
    assert "importing no_such_module_at_all failed" in left[0]
    assert left[1].startswith("filter toy.plain of (given) -: object is not an attrs class")
    Draft7Validator.check_schema(found)


def test_broken_plugins_do_not_break_it(shop: Any) -> None:
    """Components of broken plugins, and the plugins themselves, are named as left out."""
    left: list[str] = []
    json_schema(shop.registry, left.append)
    text = "\n".join(left)
    assert "pet-shop 1.2 (pets) is broken: ModuleNotFoundError" in text
    assert "shop.lost" in text
    assert "shop.plain" in text


def test_every_option_of_installed_components_has_its_property(schema: dict[str, Any]) -> None:
    """Each component's definition has exactly its options, `use` and, save resources, `run`."""
    for ref in [nested_ref(), *installed().components()]:
        found = schema["definitions"][f"{ref.kind}.{ref.name}"]["properties"]
        extra = {"use"} if ref.kind == "resource" else {"use", "run"}
        assert set(found) == extra | set(options_of(ref.load()))


def test_completion_finds_registered_names(schema: dict[str, Any]) -> None:
    """Each stage's list offers the registered names of its kind, and `show` and `inputs` those of keys."""
    for stage, kind in STAGES.items():
        definition = schema["definitions"][stage]
        offered = definition.get("items", definition)["anyOf"][0]["enum"]
        assert offered == [ref.name for ref in installed().components(kind)]
    pipeline = schema["definitions"]["pipeline"]["properties"]
    assert "feed.text" in pipeline["show"]["items"]["anyOf"][0]["enum"]
    assert "feed.viewer_id" in json.dumps(pipeline["inputs"])


def program(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs `candidate-pipeline schema`."""
    code = "from candidate_pipeline.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, "schema", *words], capture_output=True, text=True, check=False)


def test_the_command_prints_the_schema(schema: dict[str, Any]) -> None:
    """`schema` prints what the function returns, and nothing else on standard output."""
    done = program("--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == schema


def test_the_command_writes_a_file(tmp_path: Path, schema: dict[str, Any]) -> None:
    """`schema --output FILE` writes it, and says how a spec names it; a file that cannot be written is a mistake."""
    file = tmp_path / "pipelines.schema.json"
    done = program("--output", str(file))
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads(file.read_text(encoding="utf-8")) == schema
    assert "#:schema pipelines.schema.json" in done.stderr
    failed = program("--output", str(tmp_path))
    assert failed.returncode == 2
    assert f"cannot write {tmp_path}" in failed.stderr
