"""Tables made of tables: rows taken, tables joined, columns left out, and the two ways to apply a patch."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidate_pipeline import ITEM_ID, Candidates, Column, ContractError, patch
from candidate_pipeline.cells import FAILED, NULL, VALID
from candidate_pipeline.patches import Patch

PRICE = Column("shop.price", np.float32)
STOCK = Column("shop.stock", np.int64, default=-1)
TITLE = Column("shop.title", np.object_)
ODDS = Column("shop.odds", np.float32, labels=("buy", "look"))
VECTOR = Column("shop.vector", np.float32, width=2)
COLUMNS: tuple[Column[Any], ...] = (PRICE, STOCK, TITLE, ODDS, VECTOR)
VALUES: dict[Column[Any], Any] = {PRICE: 2.5, STOCK: 7, TITLE: "x", ODDS: (0.25, 0.5), VECTOR: (1.0, 2.0)}


def full(column: Column[Any], rows: int, seed: int) -> Any:
    """A column of `rows` values that differ by row and seed."""
    values = np.empty((rows, *column.row_shape(column.labels)), column.dtype)
    for row in range(rows):
        values[row] = f"{seed}-{row}" if column is TITLE else np.asarray(VALUES[column]) + row + 10 * seed
    return values


@st.composite
def tables(draw: Any, rows: int | None = None, names: tuple[str, ...] | None = None) -> Candidates:
    """Tables of arbitrary columns with cells in every state by several writers, with sources and drops."""
    n = draw(st.integers(0, 5)) if rows is None else rows
    masks = st.lists(st.booleans(), min_size=n, max_size=n).map(lambda mask: np.array(mask, np.bool_))
    table = Candidates.of(ITEM_ID(np.array(draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)), np.int64)))
    chosen = draw(st.lists(st.sampled_from(COLUMNS), max_size=6))
    for writer, column in enumerate(chosen):
        update = column(full(column, n, writer), valid=draw(masks))
        table = table.patched(patch(update, failed=draw(masks)), writer)
    if names is not None or draw(st.booleans()):
        bits = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), np.uint64)
        table = table.with_sources(bits, names or draw(st.sampled_from([("a", "b"), ("c", "d")])))
    return table.dropping(draw(masks), draw(st.integers(0, 9))) if draw(st.booleans()) else table


def cell(table: Candidates, column: Column[Any], row: int) -> Any:
    """A cell's state, labels, writer and, as bytes or text, what it holds."""
    cells = table.cells(column)
    value = cells.values[row]
    held = value if column is TITLE else np.asarray(value).tobytes()
    return int(cells.states()[row]), cells.labels, int(cells.writers()[row]), held


def rows_of(table: Candidates) -> list[Any]:
    """Everything a table says of each row."""
    return [
        (
            {column.name: cell(table, column, row) for column in table.columns},
            table.sources(row),
            int(table.source_bits[row]),
            int(table.dropped_by[row]),
            bool(table.alive[row]),
        )
        for row in range(len(table))
    ]


def eager(table: Candidates, index: list[int]) -> Candidates:
    """Rows of a table, every column gathered at once."""
    at = np.array(index, np.intp)
    taken = Candidates(
        {column: table.cells(column).take(at) for column in table.columns}, dropped_by=table.dropped_by[at].copy()
    )
    return taken.with_sources(table.source_bits[at].copy(), table.source_names)


def indices(rows: int) -> st.SearchStrategy[list[int]]:
    """Rows of a table, with repeats."""
    return st.lists(st.sampled_from(range(rows)), max_size=6) if rows else st.just([])


# Rows


@given(tables(), st.data())
def test_lazy_take_equals_eager_take(table: Candidates, data: st.DataObject) -> None:
    """Whatever is read first, and however often rows are taken of rows, the cells are those of an eager take."""
    wanted, found = table, table
    for writer in range(data.draw(st.integers(1, 4))):
        index = data.draw(indices(len(found)))
        wanted, found = eager(wanted, index), found.take(index)
        for column in data.draw(st.lists(st.sampled_from(found.columns), max_size=2)):
            assert len(found[column]) == len(index)
        if data.draw(st.booleans()):
            column = data.draw(st.sampled_from(COLUMNS))
            update = patch(column(full(column, len(index), 20), valid=np.arange(len(index)) % 2 == 0))
            wanted, found = wanted.patched(update, writer), found.patched(update, writer)
        if data.draw(st.booleans()):
            drop = np.arange(len(index)) % 3 == 0
            wanted, found = wanted.dropping(drop, writer), found.dropping(drop, writer)
    assert found.columns == wanted.columns
    assert rows_of(found) == rows_of(wanted)


def test_take_gathers_no_column_that_nobody_reads() -> None:
    """Length, columns, sources and drops of taken rows need no column; reading one does not read another."""

    class Watched(np.ndarray[Any, Any]):
        """An array that counts what is taken of it."""

        taken = 0

        def take(self, *args: Any, **kwargs: Any) -> Any:
            """Count."""
            type(self).taken += 1
            return super().take(*args, **kwargs)

    table = Candidates.of(ITEM_ID([1, 2, 3]), PRICE([1.0, 2.0, 3.0]), STOCK([4, 5, 6]))
    prices = table.cells(PRICE)
    table = table.with_cells({PRICE: type(prices)(prices.values.view(Watched), None, 0)})
    taken = table.with_sources(np.array([1, 2, 3], np.uint64), ("a", "b")).take([2, 0]).take([1])
    assert (len(taken), taken.columns, PRICE in taken, TITLE in taken) == (1, (ITEM_ID, PRICE, STOCK), True, False)
    assert (taken.sources(0), taken.dropped_by.tolist(), taken[STOCK].tolist()) == (("a",), [-1], [4])
    assert Watched.taken == 0
    assert taken[PRICE].tolist() == [1.0]
    assert taken[PRICE] is taken[PRICE]
    assert Watched.taken == 1


def test_rows_taken_do_not_change_with_the_index_they_were_given() -> None:
    """An index that is written to after `take` changes nothing."""
    index = np.array([0, 1])
    taken = Candidates.of(ITEM_ID([1, 2, 3])).take(index)
    index[:] = 2
    assert taken[ITEM_ID].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([3], r"wanted rows in 0\.\.2, found 3\.\.3"),
        ([-4], r"wanted rows in 0\.\.2, found -4\.\.-4"),
        ([True, False], r"wanted a mask bool\[3\], found bool\[2\]"),
        ([0.5], r"wanted rows as bool\[3\] or int\[k\], found float64\[1\]"),
        ([[0]], r"found int64\[1, 1\]"),
    ],
)
def test_wrong_rows_are_refused_at_once(rows: Any, message: str) -> None:
    """Rows that are not there are an error of `take`, not of a later reader."""
    with pytest.raises(IndexError, match=message):
        Candidates.of(ITEM_ID([1, 2, 3])).take(rows)


def test_two_threads_may_read_one_table() -> None:
    """Readers in several threads see the same cells, and iterating over the columns is safe beside them."""
    columns = [Column(f"shop.c{at}", np.int64) for at in range(60)]
    table = Candidates.of(ITEM_ID(np.arange(50)), *(column(np.arange(50) + at) for at, column in enumerate(columns)))
    taken = table.take(np.arange(49, -1, -1)).take(np.arange(25))
    wrong: list[Any] = []

    def read() -> None:
        wrong.extend(
            column for column in taken.columns[1:] if taken[column].tolist() != table[column][::-1][:25].tolist()
        )

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@given(tables(), st.data())
def test_a_writer_is_named_without_touching_cells(table: Candidates, data: st.DataObject) -> None:
    """`written_by` works on any table, empty or taken, and changes nothing but the writers."""
    taken = table.take(data.draw(indices(len(table))))
    named = taken.written_by(3)
    assert named.columns == taken.columns
    for column in taken.columns:
        assert named.cells(column).writers().tolist() == [3] * len(taken)
        assert named.cells(column).states().tolist() == taken.cells(column).states().tolist()
        assert named[column].tolist() == taken[column].tolist()
    assert [row[1:] for row in rows_of(named)] == [row[1:] for row in rows_of(taken)]


@given(tables())
def test_a_limited_table_knows_only_its_columns(table: Candidates) -> None:
    """A limited table has the item ids, the chosen columns that there are, and neither sources nor drops."""
    limited = table.take(np.arange(len(table))).limited_to([PRICE, TITLE])
    assert set(limited.columns) == {ITEM_ID} | ({PRICE, TITLE} & set(table.columns))
    for column in limited.columns:
        assert [cell(limited, column, row) for row in range(len(table))] == [
            cell(table, column, row) for row in range(len(table))
        ]
    assert limited.source_names == ()
    assert limited.alive.all()
    assert not limited.source_bits.any()


# Joining


@given(tables(), st.data())
def test_concat_then_take_is_the_identity(table: Candidates, data: st.DataObject) -> None:
    """A table cut in pieces and joined is the table, and each piece is found again where it was put."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(table)), max_size=3)))
    bounds = [0, *cuts, len(table)]
    pieces = [table.take(np.arange(low, high)) for low, high in itertools.pairwise(bounds)]
    joined = Candidates.concat(pieces)
    assert joined.columns == table.columns
    assert rows_of(joined) == rows_of(table)
    for low, high, piece in zip(bounds, bounds[1:], pieces, strict=False):
        assert rows_of(joined.take(np.arange(low, high))) == rows_of(piece)


@given(st.lists(tables(names=("a", "b")), min_size=1, max_size=4))
def test_concat_unites_columns(parts: list[Candidates]) -> None:
    """The joined table has every part's columns; where a part lacks one its rows are null and written by nobody."""
    joined = Candidates.concat(parts)
    assert set(joined.columns) == {column for part in parts for column in part.columns}
    assert joined.source_names == ("a", "b")
    row = 0
    for part in parts:
        for at in range(len(part)):
            for column in joined.columns:
                if column in part:
                    assert cell(joined, column, row) == cell(part, column, at)
                else:
                    assert cell(joined, column, row)[::2] == (NULL, -1)
                    assert joined.row(row)[column] == (-1 if column is STOCK else None)
            assert joined.sources(row) == part.sources(at)
            assert joined.dropped_by[row] == part.dropped_by[at]
            row += 1
    assert row == len(joined)


def test_concat_of_nothing_and_of_one() -> None:
    """No tables give an empty one; one is returned as it is."""
    one = Candidates.of(ITEM_ID([1]))
    assert len(Candidates.concat([])) == 0
    assert Candidates.concat([one]) is one


def test_concat_keeps_sources_only_where_the_names_agree() -> None:
    """Bits of different lists of sources mean different things, so they are left out; empty tables do not count."""
    first = Candidates.of(ITEM_ID([1])).with_sources(np.array([2], np.uint64), ("a", "b"))
    other = Candidates.of(ITEM_ID([2])).with_sources(np.array([1], np.uint64), ("c",))
    mixed = Candidates.concat([first, other])
    assert (mixed.source_names, mixed.source_bits.tolist()) == ((), [0, 0])
    same = Candidates.concat([Candidates.empty(), first, first])
    assert [same.sources(row) for row in range(2)] == [("b",), ("b",)]


def test_concat_refuses_different_labels_at_once() -> None:
    """Values under different labels do not mix; a part without values takes the labels of the others."""
    buy = Candidates.of(ITEM_ID([1]), ODDS([[0.5]], labels=["buy"]))
    look = Candidates.of(ITEM_ID([2]), ODDS([[0.5]], labels=["look"]))
    with pytest.raises(ContractError, match=r"shop\.odds: some rows have the labels \('buy',\), others \('look',\)"):
        Candidates.concat([buy, look])
    nothing = Candidates.of(ITEM_ID([3])).with_failed([ODDS], 4)
    joined = Candidates.concat([nothing, buy, nothing])
    assert joined.labels(ODDS) == ("buy",)
    assert joined.cells(ODDS).states().tolist() == [FAILED, VALID, FAILED]
    assert joined[ODDS].tolist() == [[0.0], [0.5], [0.0]]


# Patches


@given(tables(rows=4), st.data())
def test_rows_whose_lookup_failed(table: Candidates, data: st.DataObject) -> None:
    """A failed row's cells are failed unless a value is there; other rows take the patch as without failures."""
    masks = st.lists(st.booleans(), min_size=4, max_size=4).map(lambda mask: np.array(mask, np.bool_))
    column = data.draw(st.sampled_from(COLUMNS))
    valid, failed = data.draw(masks), data.draw(masks)
    update = column(full(column, 4, 20), valid=valid)
    found = table.patched(patch(update, failed=failed), 30)
    plain = table.patched(patch(update), 30)
    for row in range(4):
        kept = column in table and table.valid(column)[row]
        if not failed[row]:
            assert cell(found, column, row) == cell(plain, column, row)
        elif kept:
            assert cell(found, column, row) == cell(table, column, row)
        else:
            assert cell(found, column, row)[::2] == (FAILED, 30)
            assert found.row(row)[column] == (-1 if column is STOCK else None)


def test_a_failed_row_may_hold_anything() -> None:
    """NaN in a labelled column is refused, but not where the lookup failed."""
    table = Candidates.of(ITEM_ID([1, 2]))
    update = ODDS([[0.5, 0.5], [np.nan, 0.5]])
    with pytest.raises(ContractError, match="NaN in 1 of 2 rows"):
        table.patched(patch(update))
    for patched in (
        table.patched(patch(update, failed=[False, True])),
        table.overwritten(patch(update, failed=[False, True]), [ODDS], 0),
    ):
        assert patched.valid(ODDS).tolist() == [True, False]
        assert patched[ODDS][1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("failed", "found"), [([True], r"bool\[1\]"), ([0, 1], r"int64\[2\]"), (True, r"bool\[\]"), ([], r"float64\[0\]")]
)
def test_failed_is_a_mask_of_the_rows(failed: Any, found: str) -> None:
    """`failed` of another length or dtype is refused by both ways to apply a patch."""
    table = Candidates.of(ITEM_ID([1, 2]))
    update = patch(PRICE([1.0, 2.0]), failed=failed)
    message = rf"patch: wanted failed as bool\[2\], found {found}"
    with pytest.raises(ContractError, match=message):
        table.patched(update)
    with pytest.raises(ContractError, match=message):
        table.overwritten(update, [PRICE], 0)
    assert len(Candidates.empty().patched(patch(PRICE([]), failed=[]))) == 0


@given(tables(rows=4), st.data())
def test_overwriting_is_the_last_word_except_in_failed_rows(table: Candidates, data: st.DataObject) -> None:
    """Good rows hold the patch's cell or null in every declared column; failed rows hold what they held."""
    masks = st.lists(st.booleans(), min_size=4, max_size=4).map(lambda mask: np.array(mask, np.bool_))
    declared = data.draw(st.lists(st.sampled_from(COLUMNS), unique=True))
    written = [column for column in declared if data.draw(st.booleans())]
    valid = {column: data.draw(masks) for column in written}
    failed = data.draw(st.none() | masks)
    update = patch(*(column(full(column, 4, 20), valid=valid[column]) for column in written), failed=failed)
    found = table.take(np.arange(4)).overwritten(update, declared, 30)
    assert set(found.columns) == {*table.columns, *declared}
    for column in found.columns:
        for row in range(4):
            if column in table and (column not in declared or (failed is not None and failed[row])):
                before, after = cell(table, column, row), cell(found, column, row)
                if before[0] == VALID or column not in declared:
                    assert after == before
                else:  # a labelled null takes on the labels of its column
                    assert (after[0], after[2]) == (before[0], before[2])
            elif column in written and not (failed is not None and failed[row]):
                value = full(column, 4, 20)[row]
                assert found.cells(column).states()[row] == (VALID if valid[column][row] else NULL)
                assert found.cells(column).writers()[row] == 30
                if valid[column][row]:
                    assert np.array_equal(found[column][row], value)
            else:
                assert found.cells(column).states()[row] == NULL
                assert found.row(row)[column] == (-1 if column is STOCK else None)


def test_overwriting_refuses_what_patching_refuses() -> None:
    """Item ids cannot be rewritten, and kept values do not mix with values under other labels."""
    table = Candidates.of(ITEM_ID([1, 2]), ODDS([[0.5], [0.5]], labels=["buy"]))
    with pytest.raises(ContractError, match=r"core\.item_id cannot be rewritten"):
        table.overwritten(patch(ITEM_ID([3, 4])), [], 0)
    look = ODDS([[0.1], [0.1]], labels=["look"])
    with pytest.raises(ContractError, match=r"shop\.odds: some rows have the labels \('buy',\), others \('look',\)"):
        table.overwritten(patch(look, failed=[True, False]), [ODDS], 0)
    assert table.overwritten(patch(look), [ODDS], 0).labels(ODDS) == ("look",)
    assert table.overwritten(Patch({}), [ODDS], 0).cells(ODDS).states().tolist() == [NULL, NULL]


def test_an_array_made_writeable_again_does_not_open_the_table() -> None:
    """The table holds a view of its own, whatever its maker does with the flags of the array."""
    values = np.ones(2, np.float32)
    values.flags.writeable = False
    table = Candidates.of(ITEM_ID([1, 2])).patched(patch(PRICE(values)))
    values.flags.writeable = True
    with pytest.raises(ValueError, match="read-only"):
        table[PRICE][0] = 5
