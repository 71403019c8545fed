"""`expand`: the final spec, where each value comes from, and that it reads as the same spec again."""

from __future__ import annotations

import datetime as dt
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from candidate_pipeline import MisconfigurationError, SpecError, load_document
from candidate_pipeline.cli import BUILTIN
from candidate_pipeline.cli.commands import build_group
from candidate_pipeline.registry import installed
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.expand import expanded, expanded_data
from candidate_pipeline.spec.loader import load_spec

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "pipelines.toml"

EXTENDING = """\
extends = "../base/base.toml"

[pipelines.mine]
extends = "shop"
result_size = { env = "SIZE", default = 3 }
filters = ["...", "-affordable"]
stages = { sources = { timeout = "1100ms" } }

[components.affordable]
names = ["...", "b"]
since = 2026-05-01T00:00:00Z
weights = { x = 0.5, "a b" = inf }
nested = { depth = 2 }
"""


@pytest.fixture
def folders(shop: Any, tmp_path: Path) -> Path:
    """A spec in `near` that extends one in `base`, which names a folder beside itself; the spec's path."""
    for name in ("near", "base", "data"):
        (tmp_path / name).mkdir()
    base = shop.changed(('use = "shop.affordable"', 'use = "shop.affordable"\nnames = ["a"]'))
    (tmp_path / "base" / "base.toml").write_text(base)
    (tmp_path / "near" / "near.toml").write_text(EXTENDING)
    (tmp_path / "data" / "dataset.toml").write_text('[set]\n"components.top.size" = 7\n')
    return tmp_path / "near" / "near.toml"


def finished(shop: Any, path: Path, **given: Any) -> Document:
    """The document of a spec as loading leaves it."""
    return load_spec(Document.read(path), shop.registry, **given).document


def again(shop: Any, text: str, path: Path) -> Any:
    """The application of an expanded text, read where the spec stands."""
    return load_document(Document(text, "again.toml", path.parent), registry=shop.registry)


def signature(app: Any) -> Any:
    """All that an application consists of, as text."""
    pipelines = {}
    for name in app:
        plan = app[name].plan
        pipelines[name] = (
            [(node.name, repr(node.component), node.timeout, node.kind) for node in plan.nodes],
            plan.result_size,
            plan.deadline,
            {stage: repr(budget) for stage, budget in plan.budgets.items()},
            [key.name for key in plan.show],
            sorted(plan.inputs),
        )
    return pipelines


def test_every_value_says_where_it_comes_from(shop: Any, folders: Path) -> None:
    """A value has the file and line that it was written in; `[set]`, `--set` and `--data` say so."""
    data = folders.parent.parent / "data"
    document = finished(shop, folders, data=data, sets=["components.cheapest.power=2"])
    text = expanded(document, shop.registry, data=data).toml().replace(f"{data.parent}/", "")
    lines = {line.partition(" = ")[0].strip(): " ".join(line.split()) for line in text.splitlines()}
    assert lines["size"] == "size = 7 # data/dataset.toml:2 [set]"
    assert lines["power"] == "power = 2 # --set components.cheapest.power=2"
    assert lines["markup"] == "markup = 0.5 # base/base.toml:21"
    assert lines["result_size"] == 'result_size = { env = "SIZE", default = 3 } # near/near.toml:5'
    assert lines["stages.sources.timeout"] == 'stages.sources.timeout = "1100ms" # near/near.toml:7'
    assert lines["since"] == "since = 2026-05-01T00:00:00Z # near/near.toml:11"
    assert lines['weights."a b"'] == 'weights."a b" = inf # near/near.toml:12'
    assert 'names = [\n    "a",' in text
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert '"a", # base/base.toml:25' in rows
    assert '"b", # near/near.toml:10' in rows
    assert "extends" not in text.replace("base", "")


def test_a_data_directory_is_written_where_it_is_left_open(shop: Any, tmp_path: Path) -> None:
    """`--data DIR` is part of the final spec: the expanded text needs no `--data`."""
    (tmp_path / "dataset.toml").write_text('[set]\n"components.top.size" = 7\n')
    document = Document(shop.changed(('path = "data"\n', "")), "shop.toml")
    spec = load_spec(document, shop.registry, data=tmp_path)
    found = expanded(spec.document, shop.registry, data=tmp_path)
    assert f'path = "{tmp_path}"' in found.toml()
    assert f"# --data {tmp_path}" in found.toml()
    app = load_document(Document(found.toml()), registry=shop.registry)
    assert app.resource("store").path == tmp_path
    assert app["shop"].plan.nodes[-1].component.size == 7
    assert "path" not in expanded(spec.document, shop.registry).data["resources"]["store"]


def test_the_expanded_text_is_the_same_spec(shop: Any, folders: Path) -> None:
    """Reading it again gives the same data and the same pipelines, with defaults written out too."""
    document = finished(shop, folders, sets=["components.cheapest.power=2"])
    app = load_document(Document.read(folders), registry=shop.registry, sets=["components.cheapest.power=2"])
    found = expanded(document, shop.registry)
    assert tomllib.loads(found.toml()) == tomllib.loads(found.toml(comments=False)) == found.data
    assert "#" not in found.toml(comments=False)
    assert signature(again(shop, found.toml(), folders)) == signature(app)
    full = expanded(document, shop.registry, defaults=True).toml()
    assert signature(again(shop, full, folders)) == signature(app)
    second = expanded(Document(found.toml(), "again.toml", folders.parent), shop.registry)
    assert second.data == found.data


def test_paths_mean_the_same_in_the_specs_own_folder(shop: Any, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path of a base elsewhere, or of `--set`, is rewritten; one of the spec's own stays."""
    document = finished(shop, folders)
    store = expanded_data(document, shop.registry)["resources"]["store"]
    assert store["path"] == str(folders.parent.parent / "base" / "data")
    monkeypatch.chdir(folders.parent.parent)
    document = finished(shop, folders, sets=["resources.store.path=near/here"])
    app = again(shop, expanded(document, shop.registry).toml(), folders)
    assert app.resource("store").path.resolve() == folders.parent / "here"
    document = finished(shop, folders, sets=["resources.store.path={env='DATA', default='near/x'}"])
    assert expanded_data(document, shop.registry)["resources"]["store"]["path"] == {
        "env": "DATA",
        "default": str(folders.parent / "x"),
    }


def test_a_base_in_a_folder_below_keeps_relative_paths(shop: Any, tmp_path: Path) -> None:
    """A path inside the spec's own folder stays relative, so that the folder can move."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "base.toml").write_text(shop.spec)
    (tmp_path / "near.toml").write_text('extends = "sub/base.toml"\n')
    document = Document.read(tmp_path / "near.toml")
    assert expanded_data(document, shop.registry)["resources"]["store"]["path"] == "sub/data"


def test_environment_is_never_resolved(shop: Any, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`{ env = ... }` stays as it is, in TOML, JSON and data, whether the variable is there or not."""
    monkeypatch.setenv("SIZE", "4711")
    document = finished(shop, folders)
    found = expanded(document, shop.registry, defaults=True)
    assert load_document(Document.read(folders), registry=shop.registry)["mine"].plan.result_size == 4711
    assert "4711" not in found.toml() + json.dumps(found.as_list(), default=str) + repr(found.data)
    assert found.data["pipelines"]["mine"]["result_size"] == {"env": "SIZE", "default": 3}


def test_values_as_data(shop: Any, folders: Path) -> None:
    """Each value has path, value, file, line, column and origin, entries of lists by themselves."""
    found = {each["path"]: each for each in expanded(finished(shop, folders), shop.registry).as_list()}
    assert found["components.affordable.names[1]"] == {
        "path": "components.affordable.names[1]",
        "value": "b",
        "file": str(folders),
        "line": 10,
        "column": 17,
        "origin": "file",
    }
    assert found["pipelines.mine.result_size"]["value"] == {"env": "SIZE", "default": 3}
    document = finished(shop, folders, sets=["components.top.size=5"])
    (value,) = [each for each in expanded(document, shop.registry).as_list() if each["path"] == "components.top.size"]
    assert (value["file"], value["line"], value["origin"]) == (None, None, "--set components.top.size=5")


def test_defaults_are_marked(shop: Any) -> None:
    """`defaults` adds what the spec leaves open, as a value where reading it gives the default, else as a comment."""
    found = expanded(Document(shop.spec, "shop.toml"), shop.registry, defaults=True)
    rows = [" ".join(line.split()) for line in found.toml().splitlines()]
    assert 'max_age = "1h" # default of shop.affordable' in rows
    assert "# since: not set # default of shop.affordable" in rows
    assert "weights = {} # default of shop.affordable" in rows
    assert 'semantics = "strict" # default of [pipelines.shop]' in rows
    assert "# shop.wallet, as it is listed:" in rows
    assert '# bank = "main" # default of shop.wallet' not in rows
    assert '# bank = "main" default of shop.wallet' in rows
    assert "max_age" not in found.data["components"]["affordable"]
    defaults = [each for each in found.as_list() if each["origin"] == "default of shop.cheapest"]
    assert {(each["path"], each["value"]) for each in defaults} == {
        ("components.cheapest.power", 1),
        ("components.spare.power", 1),
    }


def test_one_pipeline_and_what_it_needs(shop: Any) -> None:
    """With a name, only that pipeline stays, with its components, fallbacks, inner pipelines and resources."""
    text = shop.spec + (
        '[pipelines.outer]\ninputs = { buyer = "shop.buyer" }\nsources = ["inner"]\nselector = "shop.first"\n'
        'top_up = "spare"\nmin_results = 1\n'
        '[pipelines.spare]\nsources = ["alone"]\nselector = "shop.first"\ninputs = { buyer = "shop.buyer" }\n'
        '[components.inner]\nuse = "pipeline"\npipeline = "shop"\n'
        '[components.alone]\nuse = "shop.shelf"\nstore = "second"\n[components.unused]\nuse = "shop.top"\n'
        '[resources.second]\nuse = "shop.store"\npath = "x"\n[resources.third]\nuse = "shop.store"\npath = "y"\n'
    )
    text = text.replace(
        '[components.shelf]\nuse = "shop.shelf"', '[components.shelf]\nuse = "shop.shelf"\nstore = "store"'
    )
    document = Document(text, "shop.toml", Path("/base"))
    data = expanded(document, shop.registry, pipeline="outer").data
    assert list(data["pipelines"]) == ["shop", "outer", "spare"]
    assert "unused" not in data["components"]
    assert {"spare", "inner", "alone", "top"} <= set(data["components"])
    assert list(data["resources"]) == ["store", "second"]
    data = expanded(document, shop.registry, pipeline="spare").data
    assert (list(data["components"]), list(data["resources"])) == (["alone"], ["second"])
    whole = load_document(document, registry=shop.registry)
    part = load_document(
        Document(expanded(document, shop.registry, pipeline="outer").toml(), "x", Path("/base")), registry=shop.registry
    )
    assert signature(part) == {name: plan for name, plan in signature(whole).items() if name in list(part)}
    with pytest.raises(MisconfigurationError, match="no pipeline named 'oter': did you mean 'outer'"):
        expanded(document, shop.registry, pipeline="oter")


def test_a_document_as_read_is_resolved_first(shop: Any, folders: Path) -> None:
    """`expanded` merges bases itself; if one cannot be used, that is a `SpecError`."""
    assert expanded_data(Document.read(folders), shop.registry) == expanded_data(finished(shop, folders), shop.registry)
    with pytest.raises(SpecError, match="E108"):
        expanded(Document('extends = "none.toml"'), shop.registry)


# Any spec

TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    TEXTS,
    st.datetimes(timezones=st.just(dt.UTC)),
    st.dates(),
    st.times(),
)
VALUES = st.recursive(
    SCALARS | st.fixed_dictionaries({"env": TEXTS}, optional={"default": SCALARS}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)
GROUPS = st.sampled_from(["schema", "pipelines", "components", "resources"]) | TEXTS


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(GROUPS, VALUES, max_size=4), st.booleans())
def test_any_data_is_written_as_it_is(data: dict[str, Any], comments: bool) -> None:
    """Whatever a document holds, sound or not, its expanded text reads as the same data, in the same order."""
    document = Document("")
    document.data = data
    data.pop("extends", None)
    for table in data["pipelines"].values() if isinstance(data.get("pipelines"), dict) else ():
        if isinstance(table, dict):
            table.pop("extends", None)
    text = expanded(document).toml(comments=comments)
    assert tomllib.loads(text) == data


NUMBERS = st.integers(0, 12)
NAMES = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=2, unique=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_sound_spec_reads_as_the_same_pipelines(shop: Any, data: st.DataObject) -> None:
    """A spec of random settings, inherited and overridden at random, expands to the same pipelines."""
    draw = data.draw
    pipelines = ""
    for at in range(draw(st.integers(0, 3))):
        pipelines += (
            f'[pipelines.p{at}]\nextends = "{draw(st.sampled_from(["shop", *(f"p{n}" for n in range(at))]))}"\n'
        )
        if draw(st.booleans()):
            pipelines += f"result_size = {draw(st.integers(1, 9))}\n"
        if draw(st.booleans()):
            pipelines += (
                f'stages.{draw(st.sampled_from(["sources", "filters"]))}.timeout = "{draw(st.integers(1, 4))}s"\n'
            )
        if draw(st.booleans()):
            pipelines += f"show = {draw(st.sampled_from([['...'], [], ['shop.banned']]))}\n"
    text = shop.changed(
        ("markup = 0.5", f"markup = {draw(st.floats(0, 2))!r}"),
        (
            'use = "shop.affordable"',
            f'use = "shop.affordable"\nslack = {draw(st.floats(0.1, 1e20))!r}\nnames = {draw(NAMES)}\n'
            f"weights = {{ {draw(st.sampled_from(['a', '-', '1']))} = {draw(st.floats(allow_nan=False))!r} }}\n"
            f"nested = {{ depth = {draw(NUMBERS)} }}",
        ),
    )
    sets = draw(
        st.lists(
            st.sampled_from(
                [
                    "components.top.size=3",
                    "components.shelf.run.timeout=900ms",
                    "components.affordable.weights.z=1",
                    "components.affordable.nested.names=['q']",
                    "pipelines.shop.doc='#\\t\"é'",
                    "resources.store.path='other'",
                ]
            ),
            max_size=3,
        )
    )
    document = Document(text + pipelines, "shop.toml", Path("/base"))
    app = load_document(document, registry=shop.registry, sets=sets)
    final = load_spec(document, shop.registry, sets=sets).document
    for defaults in (False, True):
        found = expanded(final, shop.registry, defaults=defaults)
        back = Document(found.toml(), "again.toml", Path("/base"))
        other = load_document(back, registry=shop.registry)
        assert signature(other) == signature(app)
        assert other.resource("store").path == app.resource("store").path
        if not defaults:
            assert expanded_data(back, shop.registry) == found.data


# The command


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `candidate-pipeline expand ...`; its status, output and standard error."""

    def command(*arguments: str) -> tuple[int, str, str]:
        status = build_group("candidate-pipeline", dict(BUILTIN)).main(["expand", *arguments], standalone_mode=False)
        printed = capsys.readouterr()
        return status or 0, printed.out, printed.err

    return command


def test_the_shipped_pipelines_expand(command: Any, tmp_path: Path) -> None:
    """`candidate-pipeline expand` prints the shipped spec so that it reads as the same pipelines."""
    status, out, err = command(str(SHIPPED), "--set", "components.age.max_age=7d", "--defaults")
    assert (status, err) == (0, "")
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert 'max_age = "7d" # --set components.age.max_age=7d' in rows
    (tmp_path / "again.toml").write_text(out)
    app = load_document(Document.read(tmp_path / "again.toml"))
    shipped = load_document(Document.read(SHIPPED), sets=["components.age.max_age=7d"])
    assert signature(app) == signature(shipped)
    assert expanded_data(Document.read(SHIPPED), installed()) == tomllib.loads(SHIPPED.read_text())


def test_the_command_prints_data(command: Any) -> None:
    """`--format json` prints the list of values."""
    status, out, _ = command(str(SHIPPED), "--pipeline", "for_you", "--format", "json")
    assert status == 0
    first, *_ = json.loads(out)
    assert first == {
        "path": "schema",
        "value": 1,
        "file": str(SHIPPED),
        "line": 2,
        "column": 10,
        "origin": "file",
    }


def test_mistakes_are_listed_beside_the_expansion(command: Any, tmp_path: Path) -> None:
    """A spec with mistakes is expanded all the same; they go to standard error, and the status is 2."""
    spec = tmp_path / "feed.toml"
    spec.write_text(SHIPPED.read_text().replace('max_age = "48h"', "max_age = 48"))
    status, out, err = command(str(spec))
    assert (status, "max_age = 48" in out) == (2, True)
    assert "E102 wanted duration" in err
    assert err.endswith("1 problem found\n")
    spec.write_text("extends = 'none.toml'\n[pipelines.x]\nresult_size = 3\n")
    status, out, err = command(str(spec))
    assert (status, "result_size = 3" in out) == (2, True)
    assert err.count(": E") == 1
    spec.write_text("schema = \n")
    with pytest.raises(SpecError, match="E100"):
        command(str(spec))
