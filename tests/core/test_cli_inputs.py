"""Inputs on the command line, those that are tables among them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from family_market import GAIN, PART, REGISTRY, SPEC, WEIGHTS, Best, Gains, Stall
from hypothesis import given
from hypothesis import strategies as st

from candidate_pipeline import QueryFeature, RequestError, compose, load_document
from candidate_pipeline.cli.inputs import parse_inputs, parse_table
from candidate_pipeline.cli.render import print_outcome
from candidate_pipeline.spec.document import Document

NUMBER = QueryFeature("cli.number", int, default=0, optional=True, doc="A number.")
SHARE = QueryFeature("cli.share", float, default=0.0, optional=True)
TEXT = QueryFeature("cli.text", str, default="", optional=True)
FLAG = QueryFeature("cli.flag", bool, default=False, optional=True)
LIST = QueryFeature("cli.list", tuple, default=(), optional=True)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    """A pipeline with an input of each type."""
    inputs: dict[str, QueryFeature[Any]] = {
        "weights": WEIGHTS,
        "number": NUMBER,
        "share": SHARE,
        "text": TEXT,
        "flag": FLAG,
        "a_list": LIST,
    }
    app = compose("market", sources=[Stall()], scorers=[Gains(("buyer",))], selector=Best(), inputs=inputs)
    return app["market"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("user=0.5,society=0.5", {"user": 0.5, "society": 0.5}),
        (" user = .5 , society=-2 ", {"user": 0.5, "society": -2}),
        ("a=1e-3,b=x y,c=true,d=false,e=a=b", {"a": 0.001, "b": "x y", "c": True, "d": False, "e": "a=b"}),
        ('{"user": 0.5}', {"user": 0.5}),
        (' {"a": [1, {"b": null}], "c": "d,e=f"} ', {"a": [1, {"b": None}], "c": "d,e=f"}),
        ("{}", {}),
    ],
)
def test_tables(text: str, wanted: dict[str, Any]) -> None:
    """Pairs and JSON objects are tables; numbers and truth values are such."""
    found = parse_table(text)
    assert found == wanted
    assert [type(value) for value in found.values()] == [type(value) for value in wanted.values()]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "wanted name=value,name=value or a JSON object, found '' in ''"),
        ("user", "found 'user' in 'user'"),
        ("user=1,", "found '' in 'user=1,'"),
        ("user=1,=2", "found '=2' in 'user=1,=2'"),
        ("user=", "found 'user=' in"),
        ("user=1,user=2", "'user' stands twice"),
        ('{"user": 1, "user": 2}', "'user' stands twice"),
        ('{"user": 1', "wanted name=value,name=value or a JSON object, found"),
        ('{"user": NaN}', "NaN is not a number that JSON has"),
        ("[1]", "found '[1]' in"),
        ('{"a":' * 100_000, "nested too deep"),
    ],
)
def test_what_is_no_table(text: str, said: str) -> None:
    """What is neither pairs nor a JSON object is refused with what was wanted and found."""
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        parse_table(text)
    assert len(str(caught.value)) < 300


@given(st.dictionaries(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), st.floats(-9, 9)))
def test_both_ways_of_writing_agree(table: dict[str, float]) -> None:
    """A table of numbers is the same written either way."""
    assert parse_table(json.dumps(table)) == table
    if table:
        assert parse_table(",".join(f"{name}={value!r}" for name, value in table.items())) == table


def test_options_are_inputs(pipeline: Any) -> None:
    """Both ways of giving an option work, for every type."""
    args = ["--weights", "buyer=2", "--number=7", "--share", "1", "--text=a=b", "--flag", "true"]
    wanted = {"weights": {"buyer": 2}, "number": 7, "share": 1.0, "text": "a=b", "flag": True}
    assert parse_inputs(args, pipeline) == wanted
    assert parse_inputs(["--weights=buyer=2,x=3"], pipeline) == {"weights": {"buyer": 2, "x": 3}}
    assert parse_inputs(['--weights={"buyer": 2}'], pipeline) == {"weights": {"buyer": 2}}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--weights", "buyer"], r"--weights: wanted name=value.*found 'buyer' in 'buyer' \(Weights of groups\.\)"),
        (["--weights"], "--weights needs a value"),
        (["--wieghts", "a=1"], "no option '--wieghts': did you mean '--weights'"),
        (["--number", "x"], r"--number: wanted int, found 'x' \(A number\.\)"),
        (["--flag", "yes"], "--flag: wanted bool, found 'yes'"),
        (["--a-list", "1"], "--a-list: wanted tuple, found '1'"),
        (["weights=a=1"], "no option 'weights=a=1'"),
    ],
)
def test_wrong_options(pipeline: Any, args: list[str], said: str) -> None:
    """A wrong option or value is told with what was wanted."""
    with pytest.raises(RequestError, match=said):
        parse_inputs(args, pipeline)


def test_a_table_is_shown_as_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    """The printed heading of a response holds the table as the command line takes it."""
    from rich.console import Console

    with load_document(Document(SPEC), registry=REGISTRY) as app:
        outcome = app["market"].run_sync(**parse_inputs(["--weights", "buyer=0.5,seller=-1"], app["market"]))
    print_outcome(Console(width=100), outcome, 5)
    assert "market: weights buyer=0.5,seller=-1 at" in capsys.readouterr().out
    assert outcome.selected[PART["seller"]].tolist() == [-2.0, -4.0, -6.0, -8.0]
    assert outcome.selected[GAIN["buyer"]].tolist() == [1.0, 2.0, 0.0, 4.0]


@pytest.mark.parametrize(
    ("weights", "shown"),
    [
        ({"a": 1, "b": 0.5, "c": "x y"}, "a=1,b=0.5,c=x y"),
        ({}, "{}"),
        ({"a": {"b": [1]}}, '{"a": {"b": [1]}}'),
        ({"a": "1"}, '{"a": "1"}'),
        ({"a": "b,c=d"}, '{"a": "b,c=d"}'),
        ({"[red]": 1, "[/x]": 2}, "[red]=1,[/x]=2"),
    ],
)
def test_every_table_is_shown_so_that_it_can_be_given(
    weights: dict[str, Any], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed gives the same table again, and nothing in it is taken for a style of the terminal."""
    from rich.console import Console

    app = compose("market", sources=[Stall()], selector=Best(), scorers=[Gains()], inputs={"weights": WEIGHTS})
    with app:
        outcome = app["market"].run_sync(weights=weights)
    print_outcome(Console(width=100), outcome, 5)
    assert f"market: weights {shown} at" in capsys.readouterr().out
    assert parse_table(shown) == weights


def test_a_members_heading_names_its_family(capsys: pytest.CaptureFixture[str]) -> None:
    """Members of one name of two families have different headings."""
    from rich.console import Console

    text = SPEC.replace('show = ["market.gain.buyer"]', 'show = ["market.gain.buyer", "market.part.buyer"]')
    with load_document(Document(text), registry=REGISTRY) as app:
        print_outcome(Console(width=100), app["market"].run_sync(), 5)
    assert "gain buyer, part buyer" in capsys.readouterr().out
