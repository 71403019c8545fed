"""`--set` and the data directory's `dataset.toml`: what they change, and where their mistakes are reported."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from candidate_pipeline import RequestError


def sizes(app: Any) -> int:
    """The size of the selector."""
    return int(next(node.component.size for node in app["shop"].plan.nodes if node.name == "top"))


def data_dir(tmp_path: Path, text: str) -> Path:
    """A data directory with a `dataset.toml`."""
    (tmp_path / "dataset.toml").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("override", "attribute", "value"),
    [
        ("components.affordable.slack=3", "slack", 3.0),
        ("components.affordable.slack = 3.5", "slack", 3.5),
        ("components.affordable.max_age=2m", "max_age", dt.timedelta(minutes=2)),
        ("components.affordable.max_age='2m'", "max_age", dt.timedelta(minutes=2)),
        ("components.affordable.names=['x', 'y']", "names", ("x", "y")),
        ("components.affordable.on=false", "on", False),
        ("components.affordable.weights.a=1", "weights", {"a": 1.0}),
        ("components.affordable.mode=loose", "mode", "loose"),
    ],
)
def test_set_changes_a_value(shop: Any, override: str, attribute: str, value: Any) -> None:
    """`--set a.b=v` takes TOML, or text where it is not TOML, and makes tables inside a named one."""
    app = shop.load(shop.spec, sets=[override])
    component = next(node.component for node in app["shop"].plan.nodes if node.name == "affordable")
    assert getattr(component, attribute) == value


def test_set_reaches_run_settings_and_lists(shop: Any) -> None:
    """The engine's settings and whole stage lists can be overridden, and later overrides win."""
    app = shop.load(
        shop.spec,
        sets=[
            "components.cheapest.run.timeout=4s",
            "pipelines.shop.filters=[]",
            "pipelines.shop.result_size=7",
            "pipelines.shop.result_size=8",
        ],
    )
    plan = app["shop"].plan
    assert next(node.timeout for node in plan.nodes if node.name == "cheapest") == 4.0
    assert plan.phases["filters"] == ()
    assert plan.result_size == 8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("components.top", "--set components.top: E107 wanted --set a.b=value"),
        ("=3", "--set =3: E107 wanted --set a.b=value"),
        ("components..size=3", "--set components..size=3: E107 wanted --set a.b=value"),
        (
            "components.topp.size=3",
            "--set components.topp.size=3: E107 the spec has no table [components.topp]\n       = did you mean 'top'?",
        ),
        (
            "component.top.size=3",
            "--set component.top.size=3: E107 the spec has no table [component]\n       = did you mean 'components'?",
        ),
        (
            "components.top.size.x=3",
            "--set components.top.size.x=3: E107 the spec has no table [components.top.size]\n"
            "       = name a table that it has",
        ),
        (
            "components.top.size=true",
            "--set components.top.size=true: E102 wanted integer, found the boolean true\n"
            "       = at components.top.size",
        ),
        (
            "components.top.sise=1",
            "--set components.top.sise=1: E101 unknown key 'sise' for shop.top\n       = did you mean 'size'?\n"
            "       = at components.top.sise",
        ),
        ("components.top.size=1\nschema = 2", "E102 wanted integer, found the string '1\\nschema = 2'"),
        ("schema=2", "--set schema=2: E106 schema: wanted 1, found 2\n       = at schema"),
        ("components.top=3", "--set components.top=3: E102 wanted a table [components.top], found the integer 3"),
        ("pipelines.shop.filters=[", "E102 filters: wanted a list of strings, found the string '['"),
        (f"components.top.size={'[' * 100_000}", "E102 wanted integer, found the string '[["),
    ],
)
def test_mistakes_of_set_name_the_option(shop: Any, override: str, message: str) -> None:
    """A mistake in an override names the override as it was typed."""
    assert message in shop.mistakes(shop.spec, sets=[override])


def test_mistakes_in_file_and_overrides_come_together(shop: Any, tmp_path: Path) -> None:
    """The spec's, the data directory's and the command line's mistakes are all in one report."""
    directory = data_dir(tmp_path, 'nam = "x"\nnow = 2026-01-01\n[set]\n"components.top.size" = "many"\n')
    message = shop.mistakes(
        shop.changed(("markup = 0.5", "markup = true")), sets=["components.no.x=1", "a"], data=directory
    )
    assert message.count("E1") == 6
    assert f"{directory}/dataset.toml:1:1: E101 unknown key 'nam' in dataset.toml" in message
    assert "did you mean 'name'?" in message
    assert (
        f"{directory}/dataset.toml:2:7: E102 now: wanted a date-time with a zone, found the date 2026-01-01" in message
    )
    assert f"{directory}/dataset.toml:4:25: E102 wanted integer, found the string 'many'" in message
    assert "shop.toml:21:10: E102 wanted number, found the boolean true" in message


@pytest.mark.parametrize(
    "text",
    [
        '[set]\n"components.top.size" = 1\n',
        "[set]\ncomponents.top.size = 1\n",
        "[set.components.top]\nsize = 1\n",
        "set = { components = { top = { size = 1 } } }\n",
        '[set."components.top"]\nsize = 1\n',
    ],
)
def test_dataset_overrides_in_every_spelling(shop: Any, tmp_path: Path, text: str) -> None:
    """Dotted, quoted and nested overrides of a data directory mean the same."""
    assert sizes(shop.load(shop.spec, data=data_dir(tmp_path, text))) == 1


def test_command_line_wins_over_the_data_directory(shop: Any, tmp_path: Path) -> None:
    """`--set` has the last word."""
    directory = data_dir(tmp_path, "[set]\ncomponents.top.size = 1\n")
    assert sizes(shop.load(shop.spec, data=directory, sets=["components.top.size=9"])) == 9


def test_overrides_for_other_specs_are_passed_over(shop: Any, tmp_path: Path) -> None:
    """A data directory may override components that this spec does not have."""
    directory = data_dir(tmp_path, "[set]\ncomponents.elsewhere.size = 1\npipelines.other.result_size = 3\n")
    assert sizes(shop.load(shop.spec, data=directory)) == 2


def test_data_directory_fills_data_options(shop: Any, tmp_path: Path) -> None:
    """`--data DIR` is the path of a resource that leaves it open; one that the spec sets stays."""
    directory = data_dir(tmp_path, "")
    open_path = shop.changed(('path = "data"\n', ""))
    assert shop.load(open_path, data=directory).resource("store").path == directory
    assert shop.load(shop.spec, data=directory).resource("store").path == Path("/base/data")


def test_the_specs_own_data_directory_counts_too(shop: Any, tmp_path: Path) -> None:
    """Without `--data` the `dataset.toml` of the directory that the spec reads applies, `--set` included."""
    directory = data_dir(tmp_path, 'name = "toys"\n[set]\ncomponents.top.size = 1\n')
    app = shop.load(shop.changed(('path = "data"', f'path = "{directory}"')))
    assert sizes(app) == 1
    assert app.dataset.name == "toys"
    app = shop.load(shop.spec, sets=[f"resources.store.path='{directory}'"])
    assert sizes(app) == 1
    assert shop.load(shop.spec).dataset is None


def test_missing_data_directory_says_what_to_give(shop: Any, tmp_path: Path) -> None:
    """`--data` of a folder that is not there, or holds no `dataset.toml`, is an error that says so."""
    missing = shop.mistakes(shop.spec, data=tmp_path / "none")
    assert f"{tmp_path}/none: E100 wanted the file dataset.toml, found no such directory" in missing
    assert "candidate-pipeline data fetch" in missing
    empty = shop.mistakes(shop.spec, data=tmp_path)
    assert "found a directory without it" in empty


def test_broken_dataset_file_is_located(shop: Any, tmp_path: Path) -> None:
    """A `dataset.toml` that is not TOML, or of wrong types, is reported at its place."""
    assert "dataset.toml:1:8: E100 not TOML" in shop.mistakes(shop.spec, data=data_dir(tmp_path, "name = \n"))
    message = shop.mistakes(shop.spec, data=data_dir(tmp_path, "name = 3\nset = 4\nschema = 2\n"))
    assert "dataset.toml:1:8: E102 name: wanted a string, found the integer 3" in message
    assert "dataset.toml:2:7: E102 set: wanted a table, found the integer 4" in message
    assert "dataset.toml:3:10: E102 schema: wanted the integer 1, found the integer 2" in message


def test_clock_and_defaults_of_requests(shop: Any, tmp_path: Path) -> None:
    """The data directory's `now` and `default_<input>` serve requests that give none."""
    directory = data_dir(tmp_path, "now = 2026-02-03T04:05:06Z\ndefault_buyer = 7\n")
    with shop.load(shop.spec, data=directory) as app:
        outcome = app["shop"].run_sync()
        assert outcome.query.now == dt.datetime(2026, 2, 3, 4, 5, 6, tzinfo=dt.UTC)
        assert [outcome.query[key] for key in app["shop"].plan.inputs.values()] == [7]
        other = app["shop"].run_sync(buyer=8, now=dt.datetime(2030, 1, 1, tzinfo=dt.UTC))
        assert other.query.now.year == 2030
        assert [other.query[key] for key in app["shop"].plan.inputs.values()] == [8]


def test_default_of_the_wrong_type_names_its_file(shop: Any, tmp_path: Path) -> None:
    """A `default_<input>` of the wrong type fails the request and names where it stands."""
    directory = data_dir(tmp_path, 'default_buyer = "me"\n')
    with (
        shop.load(shop.spec, data=directory) as app,
        pytest.raises(RequestError, match=r"input 'buyer' \(default_buyer of .*\): shop\.buyer: wanted int, found str"),
    ):
        app["shop"].run_sync()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"pipeline 'shop' needs the input 'buyer' \(int\)"),
        ({"buyer": "7"}, r"input 'buyer': shop\.buyer: wanted int, found str '7'"),
        ({"buyer": True}, r"input 'buyer': shop\.buyer: wanted int, found bool True"),
        ({"buyer": 7, "byer": 7}, r"pipeline 'shop' has no input 'byer': did you mean 'buyer'\?"),
        ({"buyer": 7, "now": dt.datetime(2026, 1, 1)}, r"now: wanted a time with a zone, found 2026-01-01"),
    ],
)
def test_wrong_inputs_fail_the_request(shop: Any, inputs: dict[str, Any], message: str) -> None:
    """A missing, unknown or mistyped request parameter is a `RequestError` that names it."""
    with shop.load(shop.spec) as app, pytest.raises(RequestError, match=message):
        app["shop"].run_sync(**inputs)
