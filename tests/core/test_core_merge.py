"""Merging sources, against a slow model."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidate_pipeline import ITEM_ID, ITEM_TEXT_ID, Candidates, Column, ContractError, patch, text_ids
from candidate_pipeline.cells import FAILED, NULL, VALID
from candidate_pipeline.merge import MAX_SOURCES, merge

PRICE = Column("shop.price", np.float64)
TITLE = Column("shop.title", np.object_)
ODDS = Column("shop.odds", np.float32, labels=("buy", "look"))

ROW = st.fixed_dictionaries(
    {"id": st.integers(-2, 4)},
    optional={"price": st.one_of(st.none(), st.integers(0, 9)), "title": st.one_of(st.none(), st.sampled_from("abc"))},
)
TABLE = st.one_of(st.none(), st.lists(ROW, max_size=5))


def candidates_of(rows: list[dict[str, Any]]) -> Candidates:
    """A source's table: columns only where some row has the key."""
    keys: dict[str, Column[Any]] = {"id": ITEM_ID, "price": PRICE, "title": TITLE}
    return Candidates.from_rows([{keys[key]: value for key, value in row.items()} for row in rows])


@given(st.lists(TABLE, min_size=1, max_size=5))
def test_merge_agrees_with_a_slow_model(tables: list[list[dict[str, Any]] | None]) -> None:
    """One row an item, in order of first appearance; each cell the first value given; every source remembered."""
    model: dict[int, dict[str, Any]] = {}
    for source, rows in enumerate(tables):
        for row in rows or ():
            item = model.setdefault(row["id"], {"price": None, "title": None, "sources": [], "writers": {}})
            if source not in item["sources"]:
                item["sources"].append(source)
            for key in ("price", "title"):
                if item[key] is None and row.get(key) is not None:
                    item[key] = row[key]
                    item["writers"][key] = source + 10
    names = [f"s{at}" for at in range(len(tables))]
    given_tables = [None if rows is None else candidates_of(rows) for rows in tables]
    merged = merge(names, given_tables, [at + 10 for at in range(len(tables))])
    assert merged[ITEM_ID].tolist() == list(model)
    assert merged.source_names == tuple(names)
    for at, item in enumerate(model.values()):
        assert merged.sources(at) == tuple(f"s{source}" for source in item["sources"])
        for key, column in (("price", PRICE), ("title", TITLE)):
            if column not in merged:
                assert item[key] is None
                continue
            assert merged.row(at)[column] == item[key]
            assert merged.valid(column)[at] == (item[key] is not None)
            if item[key] is not None:
                assert merged.cells(column).writers()[at] == item["writers"][key]


STATES = ("null", "failed", "valid")


@st.composite
def sources(draw: Any, ids: list[int]) -> Candidates:
    """A source's table of some ids with cells in every state."""
    rows = len(ids)
    table = Candidates.of(ITEM_ID(np.array(ids, np.int64)))
    for column in draw(st.lists(st.sampled_from([PRICE, TITLE, ODDS]), unique=True)):
        states = draw(st.lists(st.sampled_from(STATES), min_size=rows, max_size=rows))
        values = np.empty((rows, *column.row_shape(column.labels)), column.dtype)
        for row in range(rows):
            values[row] = f"{draw(st.integers(0, 9))}" if column is TITLE else draw(st.integers(0, 9))
        valid = np.array([state == "valid" for state in states], np.bool_)
        failed = np.array([state == "failed" for state in states], np.bool_)
        table = table.patched(patch(column(values, valid=valid), failed=failed), 99)
    return table


def content(table: Candidates) -> list[Any]:
    """Everything a merged table says of each row."""
    found: list[Any] = []
    for row in range(len(table)):
        cells = {}
        for column in sorted(table.columns, key=lambda column: column.name):
            each = table.cells(column)
            held = each.values[row].tolist() if column is not TITLE else each.values[row]
            cells[column.name] = (int(each.states()[row]), int(each.writers()[row]), each.labels, held)
        found.append((table.sources(row), cells))
    return found


@given(st.data())
def test_merging_distinct_items_equals_the_general_path(data: st.DataObject) -> None:
    """Where no item repeats, putting tables one below the other is what grouping their rows would give."""
    ids = data.draw(st.lists(st.integers(-9, 9), unique=True, max_size=9))
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=4))), len(ids)]
    parts = [data.draw(sources(ids[low:high])) for low, high in itertools.pairwise(cuts)]
    names = [f"s{at}" for at in range(len(parts))]
    merged = merge(names, parts, list(range(len(parts))))
    each = np.arange(len(ids))
    bits = [np.full(len(part), 1 << at, np.uint64) for at, part in enumerate(parts)]
    labelled = [part.written_by(at).with_sources(bits[at], tuple(names)) for at, part in enumerate(parts)]
    assert content(merged) == content(Candidates.concat(labelled).one_a_group(each, each))
    assert merged[ITEM_ID].tolist() == ids
    assert [merged.sources(row) for row in each.tolist()] == [
        (names[at],) for at, part in enumerate(parts) for _ in range(len(part))
    ]


@given(st.data())
def test_merging_picks_cell_by_cell(data: st.DataObject) -> None:
    """Of an item's cells the first valid one counts, else the first failed one, else the first null one."""
    count = data.draw(st.integers(1, 4))
    parts = [data.draw(sources(data.draw(st.lists(st.integers(0, 3), max_size=4)))) for _ in range(count)]
    names = [f"s{at}" for at in range(count)]
    merged = merge(names, parts, list(range(count)))
    rows = [(at, part, row) for at, part in enumerate(parts) for row in range(len(part))]
    for place, item in enumerate(merged[ITEM_ID].tolist()):
        own = [(at, part, row) for at, part, row in rows if part[ITEM_ID][row] == item]
        assert merged.source_bits[place] == sum({1 << at for at, _, _ in own})
        for column in merged.columns:
            by_state = {
                state: [
                    (at, part, row)
                    for at, part, row in own
                    if column in part and part.cells(column).states()[row] == state
                ]
                for state in (VALID, FAILED)
            }
            state = int(merged.cells(column).states()[place])
            assert state == (VALID if by_state[VALID] else FAILED if by_state[FAILED] else NULL)
            if by_state.get(state):
                at, part, row = by_state[state][0]
                assert merged.cells(column).writers()[place] == at
                if state == VALID:
                    assert np.array_equal(merged[column][place], part[column][row])


def test_one_source_of_distinct_items_is_not_copied() -> None:
    """A lone source's arrays are handed on, under the number of its component and without its drops."""
    table = Candidates.of(ITEM_ID([3, 1]), PRICE([1.0, 2.0])).dropping(np.array([True, False]), 5)
    merged = merge(["only"], [table], [7])
    assert np.shares_memory(merged[PRICE], table[PRICE])
    assert merged.cells(PRICE).writers().tolist() == [7, 7]
    assert merged.alive.all()
    assert [merged.sources(row) for row in range(2)] == [("only",), ("only",)]


def test_failed_cells_give_way_to_values_and_stay_over_nulls() -> None:
    """A source's failed cell loses to another's value and wins over another's null."""
    failed = Candidates.of(ITEM_ID([1, 2])).with_failed([PRICE], 0)
    nulls = Candidates.of(ITEM_ID([1, 2]), PRICE([5.0, 0.0], valid=[True, False]))
    for tables in ([failed, nulls], [nulls, failed]):
        merged = merge(["a", "b"], tables)
        assert merged[PRICE].tolist() == [5.0, 0.0]
        assert merged.valid(PRICE).tolist() == [True, False]
        assert merged.failed(PRICE).tolist() == [False, True]


def test_first_of_a_sources_own_duplicates_wins() -> None:
    """Of several rows of one item in one source the first with a value counts, cell by cell."""
    table = Candidates.of(
        ITEM_ID([7, 7, 7]), PRICE([0.0, 2.0, 3.0], valid=[False, True, True]), TITLE(["x", "y", None])
    )
    merged = merge(["only"], [table])
    assert merged.to_records() == [{"core.item_id": 7, "shop.price": 2.0, "shop.title": "x"}]


@pytest.mark.parametrize("tables", [[], [None], [None, None]])
def test_no_answer_at_all_is_an_empty_table_that_knows_its_sources(tables: list[None]) -> None:
    """Where every source failed there are no rows, and the sources' names are kept."""
    names = [f"s{at}" for at in range(len(tables))]
    merged = merge(names, tables)
    assert len(merged) == 0
    assert merged.source_names == tuple(names)


def test_sixty_four_sources_fit_and_no_more() -> None:
    """The last of 64 sources is remembered; 65 are refused."""
    tables = [Candidates.of(ITEM_ID([at % 2])) for at in range(MAX_SOURCES)]
    merged = merge([f"s{at}" for at in range(MAX_SOURCES)], tables)
    assert merged.sources(1)[-1] == "s63"
    assert len(merged.sources(0)) == 32
    with pytest.raises(ContractError, match="at most 64 sources, found 65"):
        merge(["x"] * 65, [None] * 65)


def test_sources_must_agree_on_labels() -> None:
    """Two sources with values under different labels are refused; one without values takes the other's labels."""
    first = Candidates.of(ITEM_ID([1]), ODDS([[0.5]], labels=["buy"]))
    with pytest.raises(ContractError, match=r"shop\.odds: some rows have the labels"):
        merge(["a", "b"], [first, Candidates.of(ITEM_ID([2]), ODDS([[0.5]], labels=["look"]))])
    nulls = Candidates.of(ITEM_ID([2]), ODDS([[0.0, 0.0]], valid=[False]))
    for tables in ([first, nulls], [nulls, first]):
        merged = merge(["a", "b"], tables)
        assert merged.labels(ODDS) == ("buy",)
        assert dict(zip(merged[ITEM_ID].tolist(), merged.valid(ODDS).tolist(), strict=True)) == {1: True, 2: False}


def test_merge_leaves_its_inputs_alone() -> None:
    """Merging changes no source's table."""
    first = Candidates.of(ITEM_ID([1]), PRICE([0.0], valid=[False]))
    second = Candidates.of(ITEM_ID([1]), PRICE([2.0]))
    merge(["a", "b"], [first, second])
    assert first.valid(PRICE).tolist() == [False]


# Text ids


@given(st.lists(st.text(), max_size=6))
def test_text_ids_depend_on_the_text_alone(texts: list[str]) -> None:
    """Each text has one id, alone or among others."""
    ids = text_ids(texts)
    assert ids.dtype == np.int64
    assert ids.tolist() == [int(text_ids([text])[0]) for text in texts]


def test_text_ids_are_stable() -> None:
    """The ids are the same on every machine and in every version."""
    assert text_ids(["", "apple", "ä"]).tolist() == [
        -5426141060434712860,
        -2328654269316264298,
        4152366542966443504,
    ]


def test_texts_that_share_an_id_are_found() -> None:
    """Two texts under one id are an error, in two sources or within one."""
    tables = [Candidates.of(ITEM_ID([1]), ITEM_TEXT_ID([text])) for text in ("apple", "pear")]
    with pytest.raises(ContractError, match="the text ids 'apple' and 'pear' share one hash; rename one of them"):
        merge(["a", "b"], tables)
    both = Candidates.of(ITEM_ID([1, 1]), ITEM_TEXT_ID(["apple", "pear"]))
    with pytest.raises(ContractError, match="the text ids 'apple' and 'pear' share one hash"):
        merge(["a"], [both])
    same = Candidates.of(ITEM_ID([1, 1]), ITEM_TEXT_ID(["apple", "apple"]))
    assert len(merge(["a"], [same])) == 1
