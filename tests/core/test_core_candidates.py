"""The table of candidates: states, patches, rows, drop marks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import states

from candidate_pipeline import ITEM_ID, Candidates, Column, ContractError, MissingColumnError, patch
from candidate_pipeline.patches import Patch

PRICE = Column("shop.price", np.float32)
RANK = Column("shop.rank", np.int64, default=-1)
TITLE = Column("shop.title", np.object_)
ODDS = Column("shop.odds", np.float32, labels=("buy", "look", "leave"))
VECTOR = Column("shop.vector", np.float32, width=2)


def table(*prices: float | None) -> Candidates:
    """A table of prices, `None` for null, with ids 0, 1, ..."""
    return Candidates.of(
        ITEM_ID(list(range(len(prices)))),
        PRICE([price or 0.0 for price in prices], valid=[price is not None for price in prices]),
    )


def test_null_cells_hold_the_default_and_say_so() -> None:
    """A null cell reads as the column's default, or zero, and is not valid, not failed."""
    candidates = Candidates.of(
        ITEM_ID([1, 2]), PRICE([5.0, 7.0], valid=[True, False]), RANK([3, 4], valid=[False, True])
    )
    assert candidates[PRICE].tolist() == [5.0, 0.0]
    assert candidates[RANK].tolist() == [-1, 4]
    assert candidates.valid(PRICE).tolist() == [True, False]
    assert candidates.failed(PRICE).tolist() == [False, False]


def test_table_needs_item_ids() -> None:
    """A table without ids, with null ids or with one id for all is refused."""
    with pytest.raises(ContractError, match=r"candidates need core\.item_id, found columns: shop\.price"):
        Candidates.of(PRICE([1.0]))
    with pytest.raises(ContractError, match=r"core\.item_id may not be null"):
        Candidates.of(ITEM_ID([1, 2], valid=[True, False]))
    with pytest.raises(ContractError, match=r"core\.item_id: wanted one id a row, found an array of shape \(\)"):
        Candidates.of(ITEM_ID(7))
    with pytest.raises(ContractError, match=r"core\.item_id cannot be rewritten"):
        table(1.0).patched(patch(ITEM_ID([2])))


def test_nothing_in_a_table_can_be_written_to() -> None:
    """Values, states, writers, source bits and drop marks are read-only, in tables derived from others as well."""
    candidates = table(1.0, None).with_sources(np.array([1, 1], np.uint64), ("a",)).dropping(np.array([True, False]), 0)
    mixed = candidates.patched(patch(PRICE([9.0, 9.0], valid=[False, True])), writer=3)
    for each in (candidates, mixed, candidates.take([1, 0])):
        cells = each.cells(PRICE)
        arrays = [each[PRICE], cells.values, cells.states(), each.source_bits, each.dropped_by, each[ITEM_ID]]
        if not isinstance(cells.writer, int):
            arrays.append(cells.writer)
        for array in arrays:
            if array.flags.writeable:  # `states()` may hand out a copy
                before = each.cells(PRICE).states().tolist()
                array[:] = 0
                assert each.cells(PRICE).states().tolist() == before
            else:
                with pytest.raises(ValueError, match="read-only"):
                    array[0] = 0


def test_absent_column_names_those_there_are() -> None:
    """Reading a column that nobody wrote lists the columns there are."""
    with pytest.raises(
        MissingColumnError, match=r"column shop\.rank is absent: .* there are: core\.item_id, shop\.price"
    ):
        table(1.0)[RANK]
    assert RANK not in table(1.0)


def test_labels_are_chosen_by_name_and_absent_ones_raise() -> None:
    """A place of a labelled column is selected by label, whatever its index; an absent head is not zero."""
    candidates = Candidates.of(ITEM_ID([1, 2]), ODDS([[0.1, 0.9], [0.2, 0.8]], labels=["leave", "buy"]))
    assert candidates.labels(ODDS) == ("leave", "buy")
    assert candidates.label(ODDS, "buy").tolist() == pytest.approx([0.9, 0.8])
    with pytest.raises(KeyError, match=r"shop\.odds has no 'look' here; it has: leave, buy"):
        candidates.label(ODDS, "look")


CELL = st.one_of(st.none(), st.just("failed"), st.floats(0, 9, width=16))


def written(candidates: Candidates, cells: list[Any], writer: int) -> Candidates:
    """A table after one writer: a patch of the values and nulls, then a failure of the rows marked failed."""
    values = [cell if isinstance(cell, float) else 0.0 for cell in cells]
    candidates = candidates.patched(patch(PRICE(values, valid=[isinstance(cell, float) for cell in cells])), writer)
    if "failed" not in cells:
        return candidates
    # A failure marks whole columns; a table of the failed rows alone, laid over, marks some.
    failing = np.array([cell == "failed" for cell in cells])
    marked = candidates.with_failed([PRICE], writer).cells(PRICE)
    old = candidates.cells(PRICE)
    state = np.where(failing, marked.states(), old.states()).astype(np.uint8)
    return candidates.with_cells({PRICE: type(old)(old.values, state, old.writer)})


@given(st.integers(0, 6).flatmap(lambda n: st.lists(st.lists(CELL, min_size=n, max_size=n), min_size=1, max_size=4)))
def test_later_writers_overwrite_but_never_erase(writes: list[list[Any]]) -> None:
    """Cell by cell: the last value stays; without one a failure beats a null, whatever the order."""
    candidates = Candidates.of(ITEM_ID(list(range(len(writes[0])))))
    for writer, cells in enumerate(writes):
        candidates = written(candidates, cells, writer)
    for row in range(len(writes[0])):
        column = [cells[row] for cells in writes]
        values = [cell for cell in column if isinstance(cell, float)]
        state = "valid" if values else "failed" if "failed" in column else "null"
        assert states(candidates, PRICE)[row] == state
        assert candidates[PRICE][row] == (values[-1] if values else 0.0)


def test_each_cell_remembers_its_writer() -> None:
    """After a partial overwrite each cell names the component whose value it is."""
    candidates = table(1.0, 2.0).written_by(4).patched(patch(PRICE([0.0, 9.0], valid=[False, True])), writer=7)
    assert candidates.cells(PRICE).writers().tolist() == [4, 7]
    assert candidates[PRICE].tolist() == [1.0, 9.0]


def test_failure_leaves_values_and_marks_the_rest() -> None:
    """A failed writer marks null and absent cells failed and leaves valid ones alone."""
    candidates = table(1.0, None).with_failed([PRICE, RANK, ODDS], writer=2)
    assert states(candidates, PRICE) == ["valid", "failed"]
    assert states(candidates, RANK) == ["failed", "failed"]
    assert candidates[RANK].tolist() == [-1, -1]
    assert candidates.failed(ODDS).all()
    assert candidates.labels(ODDS) == ()


@pytest.mark.parametrize("failed_first", [True, False])
def test_a_failed_labelled_column_takes_the_labels_of_later_values(failed_first: bool) -> None:
    """A failure has no labels of its own, so it does not clash with values, before or after it."""
    partly = ODDS([[0.1], [0.2]], labels=["buy"], valid=[True, False])
    base = Candidates.of(ITEM_ID([1, 2]))
    if failed_first:
        candidates = base.with_failed([ODDS], 0).patched(patch(partly), 1)
    else:
        candidates = base.patched(patch(partly), 1).with_failed([ODDS], 0)
    assert candidates.labels(ODDS) == ("buy",)
    assert states(candidates, ODDS) == ["valid", "failed"]
    assert candidates.label(ODDS, "buy")[0] == np.float32(0.1)


def test_values_under_different_labels_do_not_mix() -> None:
    """Rows of one labelled column cannot have different heads."""
    base = Candidates.of(ITEM_ID([1, 2]), ODDS([[0.1], [0.2]], labels=["buy"]))
    with pytest.raises(ContractError, match=r"shop\.odds: some rows have the labels \('buy',\), others \('look',\)"):
        base.patched(patch(ODDS([[0.5], [0.5]], labels=["look"], valid=[True, False])))
    assert base.patched(patch(ODDS([[0.5], [0.5]], labels=["look"]))).labels(ODDS) == ("look",)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (PRICE([1.0]), r"shop\.price: wanted an array of shape \(2,\), found \(1,\)"),
        (PRICE(["a", "b"]), r"shop\.price: wanted dtype float32, found"),
        (ODDS([[0.1, np.nan, 0.1]] * 2), r"shop\.odds: NaN in 2 of 2 rows"),
    ],
)
def test_patch_is_checked_against_the_table(update: Any, message: str) -> None:
    """A patch of the wrong length, dtype or with NaN odds does not get into the table."""
    with pytest.raises(ContractError, match=message):
        table(1.0, 2.0).patched(Patch({update.column: update}))


def test_rows_make_a_table_with_nulls_for_what_is_missing() -> None:
    """Rows of mappings become columns; a missing key and `None` are nulls; dtypes are the columns'."""
    candidates = Candidates.from_rows(
        [
            {ITEM_ID: 7, PRICE: 1, TITLE: ("a", "b"), ODDS: {"buy": 0.5, "leave": 0.25}, VECTOR: [1, 2]},
            {ITEM_ID: 2**63 + 5, PRICE: None},
        ]
    )
    assert candidates[ITEM_ID].view(np.uint64).tolist() == [7, 2**63 + 5]
    assert candidates[PRICE].dtype == np.float32
    assert candidates.to_records() == [
        {
            "core.item_id": 7,
            "shop.odds": {"buy": 0.5, "leave": 0.25},
            "shop.price": 1.0,
            "shop.title": ("a", "b"),
            "shop.vector": [1.0, 2.0],
        },
        {
            "core.item_id": 5 - 2**63,
            "shop.odds": None,
            "shop.price": None,
            "shop.title": None,
            "shop.vector": None,
        },
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{ITEM_ID: 1, RANK: 1}, {ITEM_ID: 2, RANK: 1.5}], r"row 1, value 1\.5: shop\.rank: wanted dtype int64"),
        ([{ITEM_ID: 1, PRICE: "7"}], r"row 0, value '7': shop\.price: wanted dtype float32"),
        ([{ITEM_ID: 1}, {PRICE: 1.0}], r"core\.item_id may not be null"),
        ([{PRICE: 1.0}], r"candidates need core\.item_id"),
        ([{ITEM_ID: 1, ODDS: 0.5}], r"row 0: shop\.odds wanted a mapping from label to value, found 0\.5"),
        ([{ITEM_ID: 1, ODDS: {"sell": 0.5}}], r"row 0: shop\.odds has no label 'sell'; it has: buy, look, leave"),
        (
            [{ITEM_ID: 1, ODDS: {"buy": 0.5}}, {ITEM_ID: 2, ODDS: {"buy": 0.5, "look": 0.1}}],
            r"row 1: shop\.odds has the labels \('buy', 'look'\), rows before it \('buy',\)",
        ),
        ([{ITEM_ID: 1, VECTOR: [1.0, 2.0]}, {ITEM_ID: 2, VECTOR: [1.0]}], r"row 1, value \[1\.0\]: shop\.vector"),
    ],
)
def test_wrong_rows_are_named(rows: Any, message: str) -> None:
    """A row that cannot become cells is named by its number and value; no label is lost in silence."""
    with pytest.raises(ContractError, match=message):
        Candidates.from_rows(rows)


def test_no_rows_make_an_empty_table() -> None:
    """No rows give a table without rows."""
    assert len(Candidates.from_rows([])) == 0
    assert len(Candidates.empty()) == 0
    assert len(Candidates.empty().take(np.empty(0, np.bool_))) == 0


def test_row_reads_like_the_columns() -> None:
    """A row gives Python values; a null or failed cell gives the column's default or `None`."""
    candidates = Candidates.of(
        ITEM_ID([1, 2]),
        PRICE([1.5, 0.0], valid=[True, False]),
        RANK([3, 0], valid=[True, False]),
        ODDS([[0.5], [0.25]], labels=["buy"]),
    ).with_failed([TITLE], 0)
    first, second = candidates
    assert (first[PRICE], first[RANK], first[ODDS]) == (1.5, 3, {"buy": 0.5})
    assert type(first[RANK]) is int
    assert (second[PRICE], second[RANK], second[TITLE]) == (None, -1, None)
    with pytest.raises(MissingColumnError):
        first[VECTOR]


def test_records_tell_nulls_from_defaults() -> None:
    """A null cell of a column with a default is `None` in records, not the default."""
    assert Candidates.of(ITEM_ID([1]), RANK([0], valid=[False])).to_records() == [
        {"core.item_id": 1, "shop.rank": None}
    ]


@given(st.lists(st.integers(-3, 3), max_size=8), st.data())
def test_take_is_take_of_every_column(prices: list[int], data: st.DataObject) -> None:
    """Taking rows by index, with repeats, or by mask takes values, states, writers, sources and marks alike."""
    rows = len(prices)
    valid = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    whole = Candidates.of(ITEM_ID(list(range(rows))), PRICE([float(p) for p in prices], valid=valid))
    whole = whole.with_sources(np.arange(rows, dtype=np.uint64), ("a", "b", "c"))
    whole = whole.dropping(np.array([p < 0 for p in prices], np.bool_), 5)
    index = data.draw(st.lists(st.sampled_from(range(rows)), max_size=10) if rows else st.just([]))
    taken = whole.take(index)
    assert taken.to_records() == [whole.to_records()[at] for at in index]
    assert taken.dropped_by.tolist() == [whole.dropped_by[at] for at in index]
    assert [taken.sources(at) for at in range(len(taken))] == [whole.sources(at) for at in index]
    mask = np.array(valid, np.bool_)
    assert whole.take(mask).to_records() == [
        record for record, good in zip(whole.to_records(), valid, strict=True) if good
    ]


def test_first_filter_to_drop_a_row_is_the_one_remembered() -> None:
    """A row dropped twice names the first filter; other rows stay alive."""
    candidates = table(1.0, 2.0, 3.0)
    assert candidates.alive.all()
    candidates = candidates.dropping(np.array([True, False, False]), 3).dropping(np.array([True, True, False]), 4)
    assert candidates.dropped_by.tolist() == [3, 4, -1]
    assert candidates.alive.tolist() == [False, False, True]


def test_cells_without_a_value_name_who_looked_last() -> None:
    """Of several writers without a value the last one is the cell's writer, unless its null met a failure."""
    base = Candidates.of(ITEM_ID([1]))
    null = patch(PRICE([0.0], valid=[False]))
    assert base.patched(null, 1).patched(null, 2).cells(PRICE).writers().tolist() == [2]
    assert base.with_failed([PRICE], 1).with_failed([PRICE], 2).cells(PRICE).writers().tolist() == [2]
    assert base.with_failed([PRICE], 1).patched(null, 2).cells(PRICE).writers().tolist() == [1]
