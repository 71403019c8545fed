"""The table of preferences: what it refuses, and that its views say the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stakeholder_preferences import FEW, preferences

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.pairs import LARGEST, NO_TIME, Pairs
from candidate_pipeline_stakeholder.products import utilities_of, weighted_squares, weighted_sum


def table(**changes: Any) -> Pairs:
    """Three pairs of two features, with everything given."""
    columns: dict[str, Any] = {
        "features": ("reply", "share"),
        "left": [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]],
        "right": [[0.6, 0.5], [0.4, 0.3], [0.2, 0.1]],
        "outcome": [1, -1, 0],
        "weight": [1.0, 2.0, 0.5],
        "stakeholder": ["user", "platform", "user"],
        "rater": ["ann", None, "bob"],
        "time": [1, 2, 3],
        "left_item": [10, 11, 12],
        "right_item": [20, 21, 22],
    }
    columns |= changes
    return Pairs.of(
        columns.pop("features"), columns.pop("left"), columns.pop("right"), columns.pop("outcome"), **columns
    )


def test_names_become_codes_in_the_order_they_come() -> None:
    """Stakeholders and raters are coded by first use, and an unknown rater is -1."""
    pairs = table()
    assert pairs.stakeholders == ("user", "platform")
    assert pairs.stakeholder.tolist() == [0, 1, 0]
    assert pairs.raters == ("ann", "bob")
    assert pairs.rater.tolist() == [0, -1, 1]
    assert len(pairs) == 3


def test_what_is_not_given_has_a_value() -> None:
    """Weights are 1, times and raters unknown, the stakeholder is the user, and items are absent."""
    pairs = Pairs.of(["a"], [[1.0]], [[0.0]], [1])
    assert pairs.weight.tolist() == [1.0]
    assert pairs.time.tolist() == [NO_TIME]
    assert pairs.rater.tolist() == [-1]
    assert pairs.stakeholders == ("user",)
    assert pairs.left_item is None


def test_arrays_are_read_only_copies() -> None:
    """Neither the table nor what it was made from can change the other."""
    left = np.array([[1.0]])
    pairs = Pairs.of(["a"], left, [[0.0]], [1])
    left[0, 0] = 5
    assert pairs.left.tolist() == [[1.0]]
    for name in ("left", "right", "outcome", "weight", "stakeholder", "rater", "time"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(pairs, name)[0] = 0
        with pytest.raises(ValueError, match="read-only"):
            getattr(pairs.take([0]), name)[0] = 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"features": ("reply", "reply")}, "'reply' twice"),
        ({"features": ("reply", "")}, "not empty"),
        ({"features": ("reply",)}, "1 columns"),
        ({"left": [0.1, 0.2, 0.3]}, r"shape \(3,\)"),
        ({"left": [["a", "b"]] * 3}, "numbers in left"),
        ({"left": [[0.1, np.nan], [0, 0], [0, 0]]}, "row 0, feature 'share'"),
        ({"right": [[0, 0], [np.inf, 0], [0, 0]]}, "inf in row 1, feature 'reply'"),
        ({"right": [[0, 0], [0, 0], [0, 2e9]]}, "at most 1e\\+09 in right"),
        ({"right": [[0.1, 0.2]]}, "3 left and 1 right"),
        ({"outcome": [1, 2, 0]}, "found 2 in row 1"),
        ({"outcome": [1, 0.5, 0]}, "found 0.5 in row 1"),
        ({"outcome": [1, np.nan, 0]}, "found nan in row 1"),
        ({"outcome": [1, 300, 0]}, "found 300.0? in row 1|found 300 in row 1"),
        ({"outcome": [1, -1]}, "3 values of outcome"),
        ({"outcome": ["left", "right", "tie"]}, "numbers as outcome"),
        ({"weight": [1, 0, 1]}, "found 0.0 in row 1"),
        ({"weight": [1, 1, -2]}, "exchange the sides"),
        ({"weight": [1, np.nan, 1]}, "found nan in row 1"),
        ({"weight": [np.inf, 1, 1]}, "found inf in row 0"),
        ({"weight": [1, 1]}, "3 values of weight"),
        ({"stakeholder": ["user"]}, "3 names of a stakeholder"),
        ({"stakeholder": ["user", "", "user"]}, "found '' in row 1"),
        ({"stakeholder": ["user", None, "user"]}, "found none in row 1"),
        ({"rater": ["ann", 3, "bob"]}, "found 3 in row 1"),
        ({"time": [1, 2, 3.5]}, "whole numbers as time"),
        ({"left_item": None}, "both sides or of neither"),
        ({"right_item": [1, 2]}, "3 values of right_item"),
    ],
)
def test_a_mistake_is_refused_with_its_row(changes: dict[str, Any], said: str) -> None:
    """Every column that is not what it should be is refused, with the row at fault."""
    with pytest.raises(DataError, match=said):
        table(**changes)


def test_an_empty_table_is_one() -> None:
    """No pairs at all is a table like others, also after a selection."""
    pairs = Pairs.of(["a", "b"], np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, int))
    assert len(pairs) == 0
    assert pairs.differences().shape == (0, 2)
    assert len(pairs.take([])) == 0
    assert len(table().take([])) == 0


def test_pairs_without_features_are_a_table() -> None:
    """A table may have no features; its differences have no columns."""
    pairs = Pairs.of([], np.zeros((2, 0)), np.zeros((2, 0)), [1, -1])
    assert pairs.differences().shape == (2, 0)


def test_the_largest_value_is_allowed() -> None:
    """The bound itself is within it."""
    assert Pairs.of(["a"], [[LARGEST]], [[-LARGEST]], [1]).differences().tolist() == [[2 * LARGEST]]


def test_of_a_stakeholder_are_only_theirs() -> None:
    """A stakeholder's pairs are those with its code, and an unknown stakeholder is refused with the known ones."""
    assert table().of_stakeholder("user").time.tolist() == [1, 3]
    with pytest.raises(DataError, match="no stakeholder 'society' here, only user, platform"):
        table().of_stakeholder("society")


def test_ties_have_no_differences() -> None:
    """A tie prefers neither side: differences are refused until ties are left out."""
    with pytest.raises(DataError, match="1 of 3 are ties \\(the first in row 2\\)"):
        table().differences()
    assert table().decided().differences().tolist() == pytest.approx(np.array([[-0.5, -0.3], [0.1, -0.1]]))


@pytest.mark.parametrize("index", [[3], [-4], [0.5], [[0]], [True, False]])
def test_places_outside_are_refused(index: list[Any]) -> None:
    """What does not point into the table is refused."""
    with pytest.raises(DataError, match="wanted"):
        table().take(index)


def test_masks_of_another_length_are_refused() -> None:
    """A mask to swap must have one value a pair."""
    with pytest.raises(DataError, match="mask of 3"):
        table().swapped([True])


@FEW
@given(preferences(), st.data())
def test_swapping_sides_keeps_every_preference(pairs: Pairs, data: st.DataObject) -> None:
    """With sides and outcome exchanged, wherever, what was preferred minus what was not stays the same bit for bit."""
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs))))
    swapped = pairs.swapped(mask)
    np.testing.assert_array_equal(swapped.differences(), pairs.differences())
    back = swapped.swapped(mask)
    np.testing.assert_array_equal(back.left, pairs.left)
    np.testing.assert_array_equal(back.outcome, pairs.outcome)


def test_swapping_takes_the_items_along() -> None:
    """The ids of the items change sides with what they are like."""
    swapped = table().swapped([True, False, True])
    assert swapped.left_item is not None
    assert swapped.right_item is not None
    assert swapped.left_item.tolist() == [20, 11, 22]
    assert swapped.right_item.tolist() == [10, 21, 12]
    assert swapped.outcome.tolist() == [-1, -1, 0]


def test_tables_are_put_together_by_name() -> None:
    """Stakeholders and raters of the same name are one, whatever their codes were."""
    first, second = table(), table(stakeholder=["society", "user", "user"], rater=["bob", "cyd", None])
    both = Pairs.concat([first, second])
    assert both.stakeholders == ("user", "platform", "society")
    assert both.stakeholder.tolist() == [0, 1, 0, 2, 0, 0]
    assert [both.raters[code] if code >= 0 else None for code in both.rater] == ["ann", None, "bob", "bob", "cyd", None]
    assert both.left_item is not None
    assert Pairs.concat([first, table(left_item=None, right_item=None)]).left_item is None


def test_tables_of_different_features_stay_apart() -> None:
    """Tables of other features, and no table at all, cannot be put together."""
    with pytest.raises(DataError, match="same features"):
        Pairs.concat([table(), table(features=("reply", "quote"))])
    with pytest.raises(DataError, match="at least one table"):
        Pairs.concat([])


@pytest.mark.parametrize("shape", [(0, 3), (1, 0), (7, 1), (9000, 3), (1300, 18), (100, 600)])
def test_products_in_parts_are_the_products_of_the_whole(shape: tuple[int, int]) -> None:
    """Sums over some rows at a time give what one product gives, for none, few and many rows and columns."""
    rng = np.random.default_rng(0)
    rows, weight, weights = rng.normal(size=shape), rng.random(shape[0]), rng.normal(size=shape[1])
    np.testing.assert_allclose(utilities_of(rows, weights), rows @ weights, atol=1e-11)
    np.testing.assert_allclose(weighted_sum(weight, rows), weight @ rows, atol=1e-11)
    np.testing.assert_allclose(weighted_squares(rows, weight), (rows * weight[:, None]).T @ rows, atol=1e-11)
