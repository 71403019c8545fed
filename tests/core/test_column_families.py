"""Families of columns: one object a member, known wherever a column is named, told apart in accounts and captures."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from typing import Any

import numpy as np
import pytest
from family_market import FACTOR, GAIN, PART, PLUGIN, REGISTRY, SPEC, WEIGHTS, Best, Gains, Stall
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from replays import differences, recorded

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    Column,
    ColumnFamily,
    Context,
    Plugin,
    Query,
    QueryFeature,
    Ranking,
    Registry,
    SpecError,
    compose,
    diff,
    load_document,
    patch,
    replay,
)
from candidate_pipeline.engine.shown import shown_rows
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.schema import json_schema
from candidate_pipeline.testing import check_component

MEMBERS = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)


def problems_of(text: str, registry: Registry = REGISTRY) -> str:
    """The mistakes in a spec, as they are printed."""
    with pytest.raises(SpecError) as caught:
        load_document(Document(text), registry=registry)
    return str(caught.value)


# The family


@given(MEMBERS)
def test_a_member_is_one_column(member: str) -> None:
    """A member is the same object each time, named after family and member, with all that the family says."""
    family = ColumnFamily(
        "a.b", np.int16, labels=("x", "y"), default=3, terms_of=SCORE, factor=True, doc="Of {member}.", unit="m"
    )
    column = family[member]
    assert column is family[member]
    assert column.name == f"a.b.{member}"
    assert column.family is family
    found = (column.dtype, column.labels, column.default, column.terms_of, column.factor, column.doc, column.unit)
    assert found == (np.int16, ("x", "y"), 3, SCORE, True, f"Of {member}.", "m")
    assert ColumnFamily("a.b", np.int16)[member] is not column


def test_threads_get_one_column() -> None:
    """Many threads that ask for a new member at once all get the same object."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for round_ in range(20):
            family = ColumnFamily("a.b", np.float32)
            gate, found = threading.Barrier(8), list[Any]()

            def ask(family: Any = family, gate: Any = gate, found: Any = found) -> None:
                gate.wait()
                found.extend(family[f"m{number}"] for number in range(20))

            threads = [threading.Thread(target=ask) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(found) == 160, round_
            assert len({id(column) for column in found}) == 20
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize(
    ("member", "hint"),
    [
        ("Buyer", "; 'buyer' is one"),
        ("power user", "; 'power_user' is one"),
        (" x-1. ", "; 'x_1' is one"),
        ("a.b", "; 'a_b' is one"),
        ("", ""),
        ("7", ""),
        ("ü", ""),
        (3, ""),
        ("x" * 5 + "\n", "; 'xxxxx' is one"),
    ],
)
def test_a_name_that_is_none(member: Any, hint: str) -> None:
    """What cannot be a member's name is refused, with the wanted form, what was found and the nearest that can be."""
    wanted = "market.gain: a member's name is lower-case letters, digits and underscores, first a letter, found "
    with pytest.raises(ValueError, match=r"market\.gain") as caught:
        GAIN[member]
    assert str(caught.value) == f"{wanted}{member!r}{hint}"


def test_what_is_wrong_with_all_members_is_said_at_once() -> None:
    """A family whose columns cannot be is refused when it is declared."""
    with pytest.raises(ValueError, match="labels must differ"):
        ColumnFamily("a.b", np.float32, labels=("x", "x"))
    with pytest.raises(ValueError, match=r"a key's name is 'namespace.name' in lower case, found 'gain'"):
        ColumnFamily("gain", np.float32)
    with pytest.raises(TypeError, match="wanted a numpy scalar type"):
        ColumnFamily("a.b", float)  # type: ignore[type-var]  # that it fails is the test
    assert repr(GAIN) == "<ColumnFamily market.gain>"


def test_members_are_found_among_columns() -> None:
    """`members` tells which of some columns are the family's, in their order."""
    columns: list[Column[Any]] = [SCORE, GAIN["b"], PART["a"], GAIN["a"], Column("market.gain_x", np.int8)]
    assert GAIN.members(columns) == {"b": GAIN["b"], "a": GAIN["a"]}
    assert list(GAIN.members(columns)) == ["b", "a"]


# The registry


def test_the_registry_knows_members() -> None:
    """A member's name resolves to the column; a key is found as before; anything else is not there."""
    assert REGISTRY.key("market.gain.buyer") is GAIN["buyer"]
    assert REGISTRY.key("market.weights") is WEIGHTS
    assert REGISTRY.families() == {"market.gain": GAIN, "market.part": PART}
    for name in ("market.gain", "market.gain.Buyer", "market.gain.a.b", "gain.buyer", "", "market.gain."):
        assert REGISTRY.key(name) is None, name
    assert REGISTRY.keys().get("market.gain") is None


def test_a_modules_families_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Families are read from the module of keys, where members may have constants of their own too."""
    module: Any = type(sys)("market_keys")
    module.GAIN, module.BUYERS, module.OTHER = GAIN, GAIN["buyer"], "text"
    monkeypatch.setitem(sys.modules, "market_keys", module)
    registry = Registry([Plugin("market", keys="market_keys")])
    assert registry.families() == {"market.gain": GAIN}
    assert registry.key("market.gain.buyer") is registry.keys()["market.gain.buyer"] is GAIN["buyer"]
    assert registry.broken == []


ALIKE = Column("market.gain.buyer", np.int64)
TWIN = ColumnFamily("market.gain", np.float32)
INSIDE = ColumnFamily("market.gain.buyer", np.float32)
POSING = Column("market.gain.buyer", np.float32, family=GAIN)
_TAKEN = "'market.gain.buyer' is named like a member of the family 'market.gain'; rename one of them"


@pytest.mark.parametrize(
    ("keys", "cause"),
    [
        ([GAIN, ALIKE], _TAKEN),
        ([ALIKE, GAIN], _TAKEN),
        ([GAIN, INSIDE], _TAKEN),
        ([INSIDE, GAIN], _TAKEN),
        ([GAIN, POSING], _TAKEN),
        ([POSING, GAIN], _TAKEN),
        ([GAIN, TWIN], "a second key is named 'market.gain'; rename one of them"),
        ([GAIN, TWIN["buyer"]], _TAKEN),
        ([Column("market.gain", np.int8), GAIN], "a second key is named 'market.gain'; rename one of them"),
        ([GAIN, QueryFeature("market.gain", int)], "a second key is named 'market.gain'; rename one of them"),
    ],
)
def test_names_that_clash(keys: list[Any], cause: str) -> None:
    """Of two that would answer to one name the second is told as broken and left out."""
    registry = Registry([Plugin("market", keys=keys)])
    known = {**registry.keys(), **registry.families()}
    assert keys[0] in known.values()
    assert keys[1] not in known.values()
    (broken,) = registry.broken
    assert broken.cause.startswith(cause)


# Specs


def test_show_takes_members() -> None:
    """A member in `show` is the column that the component writes."""
    app = load_document(Document(SPEC), registry=REGISTRY)
    assert app["market"].plan.show == (GAIN["buyer"],)
    with app:
        shown = shown_rows(app["market"].run_sync())
    assert [row["columns"] for row in shown] == [
        {"market.gain.buyer": 4.0},
        {"market.gain.buyer": None},
        {"market.gain.buyer": 2.0},
        {"market.gain.buyer": 1.0},
    ]


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("market.gain.byuer", "show: nobody writes the column market.gain.byuer", "did you mean 'market.gain.buyer'?"),
        ("market.gain.x", "nobody writes the column", "one of: market.gain.buyer, market.gain.seller"),
        ("market.gian.buyer", "no column named 'market.gian.buyer'", "did you mean 'market.gain.buyer'?"),
        ("gain.buyer", "no column named 'gain.buyer'", "did you mean 'market.gain.buyer'?"),
        ("market.gain.Buyer", "no column named 'market.gain.Buyer'", "found 'Buyer'; 'buyer' is one"),
        ("market.gain", "'market.gain' is a family of columns, wanted a column", "'market.gain.<name>'"),
        ("market.weights", "'market.weights' is a query feature, wanted a column", ""),
        ("core.scoer", "no column named 'core.scoer'", "did you mean 'core.score'?"),
    ],
)
def test_show_of_what_is_not_there(name: str, message: str, hint: str) -> None:
    """A wrong name is told with the nearest right one."""
    found = problems_of(SPEC.replace("market.gain.buyer", name))
    assert message in found
    assert hint in found


def test_an_input_is_no_family() -> None:
    """A family or its member is no query feature, and says so."""
    assert "'market.gain' is a family of columns, wanted a query feature" in problems_of(
        SPEC.replace("market.weights", "market.gain")
    )
    assert "'market.gain.x' is a column, wanted a query feature" in problems_of(
        SPEC.replace("market.weights", "market.gain.x")
    )


def test_the_schema_takes_members() -> None:
    """In the JSON Schema `show` takes members of families, and completes from known columns first."""
    schema = json_schema(REGISTRY)
    shown = schema["definitions"]["pipeline"]["properties"]["show"]["items"]
    assert "core.score" in shown["anyOf"][0]["enum"]
    validator = Draft7Validator(shown)
    right: list[Any] = ["market.gain.buyer", "market.part.x_1", "core.score", "...", "-market.gain.buyer", {"env": "X"}]
    assert all(validator.is_valid(name) for name in right)
    wrong: list[Any] = ["market.gain", "market.gain.Buyer", "market.gainxbuyer", "market.gain.a.b", 3]
    assert not any(validator.is_valid(name) for name in wrong)
    json.dumps(schema, allow_nan=False)


def test_an_optional_feature_may_be_left_out() -> None:
    """A feature that may be left out needs no input; one that may not does, default or not."""
    text = SPEC.replace('inputs = { weights = "market.weights" }\n', "")
    with load_document(Document(text), registry=REGISTRY) as app:
        assert app["market"].run_sync().item_ids.tolist() == [4, 3, 2, 1]
    strict = QueryFeature("market.strict", dict, default={})

    class Reads(Gains):
        reads = (strict,)

    plugin = Plugin("market", components={**PLUGIN.components, "scorer": {"gains": Reads}}, keys=PLUGIN.keys)
    assert "reads the query feature market.strict, which nobody writes" in problems_of(text, Registry([plugin]))
    with pytest.raises(ValueError, match=r"market\.x: a feature that may be left out needs a default"):
        QueryFeature("market.x", int, optional=True)


# Accounts, captures, replays


def market(**options: Any) -> Any:
    """The toy pipeline from objects."""
    gains = Gains(("buyer", "seller"), **options)
    return compose("market", sources=[Stall()], scorers=[gains], selector=Best(), inputs={"weights": WEIGHTS})


def test_an_account_names_members() -> None:
    """Terms of members of one family are told as one account, each under its member's name, and add up."""
    with market() as app:
        outcome = app["market"].run_sync(weights={"seller": -1.5})
        found = outcome.explain(4)
    (terms,) = found.terms
    assert (terms.column, terms.values) == ("market.part", {"buyer": 4.0, "seller": -12.0})
    assert str(terms) == "seller -12, buyer +4"
    steps = [(step.label, step.amount, step.total) for step in found.steps()]
    assert steps == [("buyer", 4.0, 4.0), ("seller", -12.0, -8.0)]
    assert "  market.part (gains): seller -12, buyer +4" in str(found).splitlines()
    assert {cell.column for cell in found.cells} >= {"market.gain.buyer", "market.part.seller"}


class Mixed(Gains):
    """Writes addends and factors of families, with a plain term between them."""

    plain = Column("market.plain", np.float32, terms_of=SCORE)

    @property
    def writes(self) -> Any:
        """In this order."""
        return (SCORE, PART["a"], PART["b"], self.plain, PART["c"], FACTOR["a"], FACTOR["b"])

    def score(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """Make up (1 + 2 + 4 + 8) * 3 * 5."""
        names = [PART["a"], PART["b"], self.plain, PART["c"], FACTOR["a"], FACTOR["b"]]
        values = [np.full(len(candidates), value, np.float32) for value in (1, 2, 4, 8, 3, 5)]
        updates = [column(value) for column, value in zip(names, values, strict=True)]
        return patch(SCORE(np.full(len(candidates), 225, np.float32)), *updates)


class Flat(Mixed):
    """Reads nothing."""

    reads = ()


def test_terms_keep_the_order_of_writing() -> None:
    """Only members that follow each other are put together, so that addends and factors apply in their order."""
    with compose("market", sources=[Stall()], scorers=[Mixed()], selector=Best()) as app:
        found = app["market"].run_sync().explain(1)
    told = [(terms.column, terms.values, terms.factor) for terms in found.terms]
    assert told == [
        ("market.part", {"a": 1.0, "b": 2.0}, False),
        ("market.plain", {"plain": 4.0}, False),
        ("market.part", {"c": 8.0}, False),
        ("market.factor", {"a": 3.0, "b": 5.0}, True),
    ]
    assert [step.total for step in found.steps()] == [1, 3, 7, 15, 45, 225]


async def both(weights: dict[str, float]) -> Any:
    """A recorded request and its replay."""
    async with market() as app:
        outcome, capture = await recorded(app, "market", weights=weights)
    async with market() as app:
        return outcome, capture, await replay(app, capture)


@pytest.mark.parametrize("weights", [{}, {"seller": -1.5, "buyer": 1e-30}])
def test_captures_and_replays_are_the_same(weights: dict[str, float]) -> None:
    """A request with members of families is captured and replayed to the last bit, its table of weights too."""
    outcome, capture, again = asyncio.run(both(weights))
    assert differences(again, outcome) == []
    assert capture.ranking.identical(Ranking.of(outcome))
    assert Ranking.of(again).identical(capture.ranking)
    assert again.query[WEIGHTS] == weights
    assert again.selected[GAIN["buyer"]].tobytes() == outcome.selected[GAIN["buyer"]].tobytes()
    assert again.selected.valid(GAIN["buyer"]).tolist() == outcome.selected.valid(GAIN["buyer"]).tolist()
    columns = [(terms.column, terms.labels) for terms in capture.ranking.terms]
    assert columns == [("market.part.buyer", ("buyer",)), ("market.part.seller", ("seller",))]


def test_a_replay_tells_of_inputs_that_it_leaves_out() -> None:
    """An input of the recorded request counts where a component reads it; where none does, a note says so."""

    async def main() -> None:
        async with market() as app:
            _, capture = await recorded(app, "market", weights={"seller": -1.5})
            assert (await replay(app, capture)).notes == ()
        async with compose("market", sources=[Stall()], scorers=[Mixed()], selector=Best()) as app:
            assert (await replay(app, capture)).notes == ()
        async with compose("market", sources=[Stall()], scorers=[Flat()], selector=Best()) as app:
            note = "inputs of the recorded request that 'market' does not take: market.weights"
            assert (await replay(app, capture)).notes == (note,)

    asyncio.run(main())


def test_a_diff_names_members() -> None:
    """The change of a score is told by member, and adds up."""
    with market() as app:
        before = app["market"].run_sync()
        after = app["market"].run_sync(weights={"seller": -0.5})
    found = diff(Ranking.of(before), Ranking.of(after))
    change = next(each for each in found.changes if each.item_id == 4).score
    (term,) = change.terms
    assert (term.column, term.label, term.effect) == ("market.part.seller", "seller", -12.0)
    assert (change.change, change.remainder) == (-12.0, 0.0)


def test_the_kit_takes_members() -> None:
    """Components with members of families pass the test kit, and members are columns of tables like others."""
    weights = st.dictionaries(st.sampled_from(["buyer", "seller"]), st.floats(-2, 2))
    check_component(Gains(("buyer",)), values={WEIGHTS: weights}, max_examples=20)
    table = Candidates.of(ITEM_ID([1, 2]), GAIN["buyer"]([1.0, 2.0], valid=[True, False]))
    assert GAIN.members(table.columns) == {"buyer": GAIN["buyer"]}
    assert Gains(("buyer",)).score(Query(), table, Context("gains")).updates.keys() == {
        SCORE,
        GAIN["buyer"],
        PART["buyer"],
    }
