"""Keys, the patches they make, and the query."""

from __future__ import annotations

import datetime as dt
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    AbsentFeatureError,
    Candidates,
    Column,
    Context,
    ContractError,
    FailedFeatureError,
    Query,
    QueryFeature,
    patch,
    query_patch,
)

PRICE = Column("shop.price", np.float32, doc="What it costs.", unit="EUR")
STOCK = Column("shop.stock", np.int16)
TITLE = Column("shop.title", np.object_, default="?")
ODDS = Column("shop.odds", np.float32, labels=("buy", "look", "leave"))
VECTOR = Column("shop.vector", np.float32, width=3)
BUDGET = QueryFeature("shop.budget", float, doc="What the buyer would spend.")
COUNT = QueryFeature("shop.count", int)
ALLOWED = QueryFeature("shop.allowed", np.ndarray, default=np.empty(0, np.int64))
TAGS = QueryFeature("shop.tags", tuple, default=())


def checked(column: Column[Any], values: Any, rows: int, **given: Any) -> Any:
    """The cells that an update of `rows` rows would write."""
    return column(values, **given).checked(rows)


@pytest.mark.parametrize("name", ["price", "shop.", ".price", "Shop.price", "shop price", "shop.pri-ce", "", "1.a"])
def test_key_name_is_namespaced_lower_case(name: str) -> None:
    """A key's name that is not `namespace.name` in lower case is refused, and the message shows it."""
    for make in (lambda: QueryFeature(name, int), lambda: Column(name, np.int64)):
        with pytest.raises(ValueError, match=r"a key's name is 'namespace.name' in lower case, found"):
            make()


@pytest.mark.parametrize("dtype", [float, int, np.dtype(np.int64), "int64", object])
def test_column_wants_a_numpy_scalar_type(dtype: Any) -> None:
    """A column's dtype that is no numpy scalar type is refused."""
    with pytest.raises(TypeError, match=r"shop\.x: wanted a numpy scalar type such as np\.int64, found"):
        Column("shop.x", dtype)


@pytest.mark.parametrize("dtype", [np.str_, np.bytes_, np.void])
def test_column_of_text_is_an_object_column(dtype: Any) -> None:
    """Fixed-width text dtypes would cut texts short, so they are refused."""
    with pytest.raises(TypeError, match=r"wanted np\.object_ for text, found"):
        Column("shop.x", dtype)


def test_feature_type_is_a_class() -> None:
    """A feature's type that values cannot be tested against is refused when the key is made, not in a request."""
    with pytest.raises(TypeError, match=r"shop\.ids: wanted a class such as int, tuple or numpy\.ndarray, found list"):
        QueryFeature("shop.ids", list[int])


def test_column_options_that_contradict_are_refused() -> None:
    """Labels that repeat, labels beside a width, a width of 0 and terms that are no numbers are refused."""
    with pytest.raises(ValueError, match="labels must differ"):
        Column("shop.x", np.float32, labels=("a", "a"))
    with pytest.raises(ValueError, match="give labels or width, not both"):
        Column("shop.x", np.float32, labels=("a",), width=1)
    with pytest.raises(ValueError, match="a width is at least 1, found 0"):
        Column("shop.x", np.float32, width=0)
    with pytest.raises(ValueError, match="the terms of a score are numbers, found object_"):
        Column("shop.x", np.object_, terms_of=SCORE)


def test_keys_are_compared_by_identity_and_shown_by_name() -> None:
    """Two keys of one name are two keys, and a key's repr is short."""
    twin = Column("shop.price", np.float32)
    assert twin != PRICE
    assert len({twin, PRICE}) == 2
    assert repr(PRICE) == "<Column shop.price>"
    assert repr(BUDGET) == "<QueryFeature shop.budget>"


def test_blank_holds_the_default() -> None:
    """Blank cells hold the default, else zero, else `None` for objects, in the column's shape."""
    assert TITLE.blank(2).tolist() == ["?", "?"]
    assert STOCK.blank(2).tolist() == [0, 0]
    assert Column("shop.x", np.object_).blank(1).tolist() == [None]
    assert VECTOR.blank(2).shape == (2, 3)
    assert ODDS.blank(2, ("buy",)).shape == (2, 1)


# Column updates


def test_lists_of_integers_fit_any_numeric_column_that_can_hold_them() -> None:
    """A list has no width of its own: integers go into narrow and floating columns if they fit exactly."""
    values, valid = checked(STOCK, [1, -2, 300], 3)
    assert values.dtype == np.int16
    assert values.tolist() == [1, -2, 300]
    assert valid is None
    assert checked(PRICE, [1, 2], 2)[0].dtype == np.float32


def test_numbers_that_do_not_fit_are_refused_not_cut() -> None:
    """An integer out of range, a float that overflows and a fraction in an integer column are errors."""
    with pytest.raises(ContractError, match=r"shop\.stock: int16 cannot hold 40000"):
        checked(STOCK, [1, 40000], 2)
    with pytest.raises(ContractError, match=r"shop\.price: float32 cannot hold 1e\+300"):
        checked(PRICE, np.array([1.0, 1e300]), 2)
    with pytest.raises(ContractError, match=r"shop\.stock: wanted dtype int16, found float64"):
        checked(STOCK, [1.5], 1)
    with pytest.raises(ContractError, match=r"shop\.price: float32 cannot hold 16777217"):
        checked(PRICE, [2**24 + 1], 1)


def test_arrays_keep_their_width() -> None:
    """An array of a wider dtype than the column's is refused, whatever it holds; floats are narrowed."""
    with pytest.raises(ContractError, match=r"shop\.stock: wanted dtype int16, found int64"):
        checked(STOCK, np.array([1], np.int64), 1)
    assert checked(PRICE, np.array([1.5], np.float64), 1)[0].dtype == np.float32
    assert np.isinf(checked(PRICE, np.array([np.inf]), 1)[0][0])


@given(st.lists(st.integers(0, 2**64 - 1), max_size=5))
def test_unsigned_ids_are_reinterpreted_as_signed(ids: list[int]) -> None:
    """Unsigned 64-bit ids keep their bits in a signed column."""
    array = np.array(ids, np.uint64)
    values, _ = checked(ITEM_ID, array, len(ids))
    assert values.dtype == np.int64
    assert values.view(np.uint64).tolist() == ids


@given(st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1, max_size=5))
def test_lists_of_ids_never_go_through_floats(ids: list[int]) -> None:
    """A list that mixes signed and unsigned 64-bit ids stays exact."""
    values, _ = checked(ITEM_ID, ids, len(ids))
    assert [value % 2**64 for value in values.tolist()] == [item % 2**64 for item in ids]


@pytest.mark.parametrize("column", [PRICE, STOCK, TITLE, ODDS, VECTOR, ITEM_ID])
@pytest.mark.parametrize("empty", [[], np.array([]), np.empty(0, np.float64)])
def test_no_rows_have_no_dtype(column: Column[Any], empty: Any) -> None:
    """An empty list, which numpy takes for floats, is no rows of any column."""
    values, valid = checked(column, empty, 0, valid=[])
    assert values.shape == (0, *column.row_shape(column.labels))
    assert values.dtype == column.dtype
    assert valid is None


def test_objects_stay_whole() -> None:
    """Tuples and lists are single cells of an object column, even where all are of one length."""
    values, _ = checked(TITLE, [(1, 2), (3, 4)], 2)
    assert values.shape == (2,)
    assert values.tolist() == [(1, 2), (3, 4)]
    assert checked(TITLE, [[1], [2, 3], {}], 3)[0].tolist() == [[1], [2, 3], {}]


def test_one_text_is_not_a_column_of_letters() -> None:
    """A text given where one value a row is wanted is refused, not split into letters."""
    with pytest.raises(ContractError, match=r"shop\.title: wanted one value a row, found the text 'abc'"):
        checked(TITLE, "abc", 3)


def test_none_in_an_object_column_is_null() -> None:
    """`None` among objects is a null, so that it can never pass for a value."""
    table = Candidates.of(ITEM_ID([1, 2]), TITLE(["a", None]))
    assert table.valid(TITLE).tolist() == [True, False]
    assert table[TITLE].tolist() == ["a", "?"]
    both = Candidates.of(ITEM_ID([1, 2, 3]), TITLE(["a", None, "c"], valid=[True, True, False]))
    assert both.valid(TITLE).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("column", "values", "found"),
    [
        (PRICE, [1.0], r"\(2,\), found \(1,\)"),
        (PRICE, [[1.0], [2.0]], r"\(2,\), found \(2, 1\)"),
        (PRICE, 1.0, r"\(2,\), found \(\)"),
        (VECTOR, [[1.0, 2.0]] * 2, r"\(2, 3\), found \(2, 2\)"),
        (ODDS, [[1.0, 2.0]] * 2, r"\(2, 3\), found \(2, 2\)"),
        (TITLE, ["a"], r"\(2,\), found \(1,\)"),
    ],
)
def test_wrong_shape_is_named(column: Column[Any], values: Any, found: str) -> None:
    """Cells of the wrong length or width are refused with the shape wanted and the shape found."""
    with pytest.raises(ContractError, match=f"{column.name}: wanted an array of shape {found}"):
        checked(column, values, 2)


def test_ragged_lists_are_a_contract_error() -> None:
    """Rows of unequal width give an error that names the column."""
    with pytest.raises(ContractError, match=r"shop\.vector: wanted an array of shape \(2, 3\)"):
        checked(VECTOR, [[1.0, 2.0, 3.0], [1.0]], 2)


@pytest.mark.parametrize("valid", [[1, 0], [True], np.array([1.0, 0.0]), [[True], [False]]])
def test_mask_is_one_boolean_a_row(valid: Any) -> None:
    """A mask of another dtype or length is refused."""
    with pytest.raises(ContractError, match=r"shop\.price: wanted valid as bool\[2\], found"):
        checked(PRICE, [1.0, 2.0], 2, valid=valid)


def test_nan_in_a_labelled_column_is_an_error_that_names_row_and_label() -> None:
    """NaN where a labelled cell claims a value is refused; in a null cell, or in a plain column, it is not."""
    cells = np.array([[0.1, 0.2, 0.3], [0.1, np.nan, np.nan]], np.float32)
    with pytest.raises(ContractError, match=r"shop\.odds: NaN in 1 of 2 rows, first in row 1 \(look, leave\)"):
        checked(ODDS, cells, 2)
    assert checked(ODDS, cells, 2, valid=[True, False])[1].tolist() == [True, False]
    assert np.isnan(checked(PRICE, [np.nan], 1)[0][0])


def test_labels_must_be_the_columns_own() -> None:
    """An unknown label, a label given twice, or labels for a plain column are refused."""
    with pytest.raises(ContractError, match=r"shop\.odds has no label 'sell'; it has: buy, look, leave"):
        checked(ODDS, [[1.0]], 1, labels=["sell"])
    with pytest.raises(ContractError, match=r"shop\.odds: a label stands twice"):
        checked(ODDS, [[1.0, 1.0]], 1, labels=["buy", "buy"])
    with pytest.raises(ContractError, match=r"shop\.price has no label 'buy'; it has: none"):
        checked(PRICE, [1.0], 1, labels=["buy"])


def test_writing_a_key_twice_in_one_patch_is_refused() -> None:
    """A patch that writes one key twice says which."""
    with pytest.raises(ContractError, match=r"shop\.price is written twice in one patch"):
        patch(PRICE([1.0]), PRICE([2.0]))
    with pytest.raises(ContractError, match=r"shop\.budget is written twice in one patch"):
        query_patch(BUDGET(1.0), BUDGET(2.0))


# Features and the query


@pytest.mark.parametrize("value", ["7", 7.0, True, None, np.float64(7.0), np.bool_(True), [7]])
def test_feature_values_are_not_coerced(value: Any) -> None:
    """A value of another type is refused with both types; `True` is no integer."""
    with pytest.raises(ContractError, match=r"shop\.count: wanted int, found \w+"):
        COUNT(value)


def numpy_number(number: Any) -> Any:
    """A number whose type a checker does not know, as those that arrays give."""
    return number


def test_numpy_numbers_are_numbers() -> None:
    """A numpy integer is an integer, an integer is a float, and both arrive as Python's own type."""
    assert type(COUNT(numpy_number(np.int64(7))).value) is int
    assert type(BUDGET(7).value) is float
    assert type(BUDGET(numpy_number(np.float32(0.5))).value) is float
    with pytest.raises(ContractError, match=r"shop\.budget: wanted float, found bool True"):
        BUDGET(True)


def test_arrays_in_the_query_are_read_only() -> None:
    """An array given to a feature cannot be written to through the query; the giver's own array still can."""
    ids = np.array([1, 2])
    query = Query().patched(query_patch(ALLOWED(ids)))
    with pytest.raises(ValueError, match="read-only"):
        query[ALLOWED][0] = 9
    ids[0] = 3


def test_query_is_immutable() -> None:
    """Neither the query nor the mappings it holds can be changed."""
    query = Query(features={COUNT: 1})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        query.seed = 2  # type: ignore[misc]  # that it fails is the test
    with pytest.raises(TypeError):
        query.features[COUNT] = 2  # type: ignore[index]  # that it fails is the test
    with pytest.raises(TypeError):
        query.failed[COUNT] = "no"  # type: ignore[index]  # that it fails is the test


def test_features_given_as_a_mapping_are_copied() -> None:
    """Changing the mapping a query was made from does not change the query."""
    given: dict[Any, Any] = {COUNT: 1}
    query = Query(features=given)
    given[COUNT] = 2
    assert query[COUNT] == 1


def test_absent_feature_raises_unless_it_has_a_default() -> None:
    """Reading what nobody gave raises and names the feature; a declared default stands in."""
    query = Query()
    with pytest.raises(
        AbsentFeatureError, match=r"query feature shop\.budget is absent: no component or input gave it"
    ):
        query[BUDGET]
    assert query[TAGS] == ()
    assert BUDGET not in query
    assert TAGS not in query


def test_failed_feature_raises_with_the_reason_unless_it_has_a_default() -> None:
    """Reading a failed feature raises why it failed; it is never silently empty."""
    query = Query().with_failed([BUDGET, TAGS], "bank: timed out")
    with pytest.raises(FailedFeatureError, match=r"query feature shop\.budget failed: bank: timed out"):
        query[BUDGET]
    assert query[TAGS] == ()
    assert BUDGET not in query


def test_a_value_wins_over_a_failure_and_a_failure_never_erases_a_value() -> None:
    """A later value clears a failure; a later failure leaves a value alone."""
    failed = Query().with_failed([COUNT], "broke")
    healed = failed.patched(query_patch(COUNT(3)))
    assert healed[COUNT] == 3
    assert COUNT not in healed.failed
    assert healed.with_failed([COUNT], "again")[COUNT] == 3
    assert failed.failed == {COUNT: "broke"}


def test_naive_clock_is_refused() -> None:
    """A clock without a zone is refused."""
    with pytest.raises(ValueError, match="now: wanted a time with a zone, found the naive 2026-01-01"):
        Query(now=dt.datetime(2026, 1, 1))


@given(st.datetimes(dt.datetime(1960, 1, 1), dt.datetime(2100, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_now_ms_is_exact(moment: dt.datetime, minutes: int) -> None:
    """`now_ms` is the floor of the exact number of milliseconds, in any zone."""
    now = moment.replace(tzinfo=dt.timezone(dt.timedelta(minutes=minutes)))
    whole = now - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    micros = (whole.days * 86400 + whole.seconds) * 10**6 + whole.microseconds
    assert Query(now=now).now_ms == micros // 1000


def test_randomness_depends_on_seed_and_component_only() -> None:
    """Same seed and name: same numbers; another of either: others; a negative seed works."""
    first = Context("a", seed=1).rng().random(4).tolist()
    assert Context("a", seed=1, deadline=3.0).rng().random(4).tolist() == first
    assert Context("b", seed=1).rng().random(4).tolist() != first
    assert Context("a", seed=2).rng().random(4).tolist() != first
    assert Context("a", seed=-1).rng().random(4).tolist() != first
