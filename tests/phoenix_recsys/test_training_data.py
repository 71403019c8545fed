"""Interactions, sequences, windows and batches."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_recsys.training import Catalogue, Interactions, Recipe, RetrievalRecipe, TrainingError
from phoenix_recsys.training.batches import Sampler
from phoenix_recsys.training.plan import TrainingPlan
from phoenix_recsys.training.sequences import Sequences, plan_windows

NAMES = ("favorite", "hide")


def events(rows: list[tuple[int, int, int, tuple[int, int]]], items: int = 6) -> Interactions:
    """Interactions from (user, item, time, actions) rows."""
    ids = np.arange(1, items + 1)
    catalogue = Catalogue(ids, ids % 2 + 10, np.zeros(items, np.int64))
    users, what, when, actions = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Interactions(users, what, when, np.array(actions, np.float32).reshape(-1, 2), NAMES, catalogue)


@st.composite
def interactions(draw: st.DrawFn) -> Interactions:
    """Random events of two to four users, many of them at equal times, some without an action."""
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(1, 4),
                st.integers(1, 6),
                st.integers(0, 9).map(lambda second: second * 1000),
                st.tuples(st.integers(0, 1), st.integers(0, 1)),
            ),
            min_size=1,
            max_size=60,
        )
    )
    return events([*rows, (1, 1, 0, (1, 0)), (2, 2, 5000, (0, 1))])


@given(interactions(), st.integers(2, 6), st.integers(1, 4), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_every_target_reads_exactly_its_strictly_earlier_history(
    data: Interactions, history_len: int, slots: int, seed: int
) -> None:
    """A window gives each target the newest tokens strictly before its time, none of its own moment or later."""
    stride = max(1, history_len - 1)
    sequences = Sequences.build(data)
    sampler = Sampler(
        sequences=sequences,
        weights=np.ones(len(data), np.float32),
        history_len=history_len,
        stride=stride,
        window_targets=slots,
        slots=slots,
        batch_size=1,
        seed=seed,
    )
    served = []
    for batch in sampler.epoch(0):
        user = sequences.user_ids[batch.user[0]]
        acted = (data.actions != 0).any(axis=1) & (data.user_ids == user)
        past = np.flatnonzero(acted)[np.argsort(data.times[acted], kind="stable")]
        for slot in np.flatnonzero(batch.target_weight[0] > 0):
            second, prefix = batch.target_seconds[0, slot], batch.target_prefix[0, slot]
            earlier = past[data.times[past] < second * 1000]
            read = batch.token_item[0, :prefix]
            assert batch.target_seen[0, slot] == len(earlier)
            assert 0 <= prefix <= batch.token_count[0] <= history_len
            assert prefix >= min(len(earlier), history_len - stride)
            newest = data.item_ids[earlier[len(earlier) - prefix :]] - 1
            np.testing.assert_array_equal(read, newest)
            actions = sequences.patterns[batch.token_pattern[0, :prefix]]
            np.testing.assert_array_equal(actions, data.actions[earlier[len(earlier) - prefix :]])
            served.append((user, batch.target_item[0, slot], second))
    wanted = sorted(zip(data.user_ids, data.item_ids - 1, data.times // 1000, strict=True))
    assert sorted(served) == wanted


def test_epochs_repeat_under_a_seed_and_differ_from_each_other() -> None:
    """The batches of an epoch depend on seed and number alone."""
    rng = np.random.default_rng(0)
    rows = [(int(u), int(rng.integers(1, 7)), t * 1000, (1, 0)) for u in (1, 2, 3) for t in range(40)]
    sequences = Sequences.build(events(rows))

    def draw(epoch: int) -> list[np.ndarray[tuple[int, ...], np.dtype[np.int32]]]:
        weights = np.ones(len(rows), np.float32)
        sampler = Sampler(sequences, weights, 8, 4, 4, 2, 4, 7)
        assert sampler.steps_per_epoch == len(list(sampler.epoch(epoch)))
        return [np.asarray(batch.target_item) for batch in sampler.epoch(epoch)]

    assert all((a == b).all() for a, b in zip(draw(1), draw(1), strict=True))
    assert any((a != b).any() for a, b in zip(draw(1), draw(2), strict=True))


def test_windows_reach_a_full_history() -> None:
    """A target with more history than fits is given all S newest tokens in some epoch."""
    user, prefix = np.zeros(50, np.int32), np.arange(50, dtype=np.int32)
    windows = plan_windows(user, prefix, slots=4, history_len=8, stride=4, rng=np.random.default_rng(0))
    assert windows.count.max() == 8
    assert windows.last[-1] == 50
    assert (windows.first[1:] == windows.last[:-1]).all()


def test_ties_keep_the_order_of_the_file() -> None:
    """Tokens of one moment stand in file order, not in order of their ids."""
    data = events([(1, 5, 0, (1, 0)), (1, 2, 0, (1, 0)), (1, 4, 0, (1, 0)), (2, 1, 0, (1, 0))])
    np.testing.assert_array_equal(Sequences.build(data).token_item[:3], [4, 1, 3])


def test_first_seen_counts_tokens() -> None:
    """An item is seen from the prefix that holds its first occurrence."""
    data = events([(1, 5, 0, (1, 0)), (1, 2, 1, (1, 0)), (1, 5, 2, (1, 0)), (2, 1, 0, (1, 0))])
    seen = Sequences.build(data).first_seen(6)
    assert seen[0, 4] == 1
    assert seen[0, 1] == 2
    assert seen[0, 0] > 10**6


def test_a_cut_per_user_leaves_nothing_at_or_after_the_target() -> None:
    """``before`` removes a user's events from the target's moment on, ties included, and nobody else's."""
    data = events([(1, 1, 0, (1, 0)), (1, 2, 5, (1, 0)), (1, 3, 5, (1, 0)), (1, 4, 9, (1, 0)), (2, 1, 9, (1, 0))])
    left = data.before({1: 5})
    np.testing.assert_array_equal(left.item_ids, [1, 1])
    np.testing.assert_array_equal(data.before(9).item_ids, [1, 2, 3])
    assert len(left.catalogue.item_ids) == 6


def test_the_fingerprint_follows_content_and_order() -> None:
    """Equal events have one fingerprint; another order or action has another."""
    rows = [(1, 1, 0, (1, 0)), (2, 2, 0, (0, 1))]
    one = events(rows).fingerprint()
    assert one == events(rows).fingerprint()
    assert one != events(rows[::-1]).fingerprint()
    assert one != events([rows[0], (2, 2, 0, (1, 1))]).fingerprint()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_ids": [0, 2]}, "user id 0 means padding, found in row 0"),
        ({"item_ids": [1, 77]}, "the first is item 77 in row 1"),
        ({"times": [1]}, "found user_ids 2, item_ids 2, times 1"),
        ({"actions": [[1.0, float("nan")], [0, 0]]}, "actions of row 0 is not a finite number"),
        ({"actions": [[1, 0], [0.5, 0]]}, "must be 0 or 1, found [0.5, 0.0] in row 1"),
        ({"actions": [[1], [0]]}, "must have shape [2, 2]"),
        ({"dwell_seconds": [1.0, float("inf")]}, "dwell_seconds of row 1"),
        ({"action_names": ("favorite", "favorite")}, "names must be distinct"),
        ({"user_ids": [1.5, 2.0]}, "must be integers"),
    ],
)
def test_broken_events_are_named(change: dict[str, Any], message: str) -> None:
    """Each mistake in the arrays is reported with its column, row and value."""
    data = events([(1, 1, 0, (1, 0)), (2, 2, 0, (0, 1))])
    with pytest.raises(TrainingError) as caught:
        attrs.evolve(data, **change)
    assert message in str(caught.value)


def test_a_broken_catalogue_is_named() -> None:
    """Doubled and zero item ids are refused."""
    with pytest.raises(TrainingError, match="item id 3 stands there more than once"):
        Catalogue([3, 3], [1, 1], [0, 0])
    with pytest.raises(TrainingError, match="item id 0 means padding"):
        Catalogue([0, 3], [1, 1], [0, 0])


def test_too_little_data_is_refused() -> None:
    """No events, one user, and no actions each have their own message."""
    with pytest.raises(TrainingError, match="found none; was everything cut off"):
        Sequences.build(events([]))
    with pytest.raises(TrainingError, match="found 1 events of user 1 only"):
        Sequences.build(events([(1, 1, 0, (1, 0))]))
    with pytest.raises(TrainingError, match="found none in 2 events"):
        Sequences.build(events([(1, 1, 0, (0, 0)), (2, 1, 0, (0, 0))]))


def test_a_misspelt_action_gets_the_nearest_name() -> None:
    """An unknown head is answered with who asked, a suggestion and what there is."""
    data = events([(1, 1, 0, (1, 0))])
    with pytest.raises(
        TrainingError, match=r"names the action 'favourite'; did you mean 'favorite'\? The data has favorite, hide"
    ):
        data.columns_of(["favourite"], "recipe.positive_head")


def test_unsigned_ids_are_reinterpreted() -> None:
    """Ids above 2**63 are accepted and stay apart."""
    catalogue = Catalogue(np.array([2**64 - 1, 1], np.uint64), [0, 0], [0, 0])
    np.testing.assert_array_equal(catalogue.item_ids, [-1, 1])


def test_too_many_exposure_periods_are_refused() -> None:
    """Exposure over absurdly short periods is answered with the number of cells and what to do."""
    data = events([(1, 1, 0, (1, 0)), (2, 2, 10**13, (1, 0))])
    recipe = Recipe(retrieval=RetrievalRecipe(exposure_hours=1e-3))
    with pytest.raises(TrainingError, match=r"for 6 items, more than the trainer keeps.*take longer periods"):
        TrainingPlan.make(data, recipe)
