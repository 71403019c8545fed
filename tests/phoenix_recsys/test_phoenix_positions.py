"""Masks, positions, buckets and padding, against their definitions token by token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_recsys.config import ffn_width, post_age_vocab_size
from phoenix_recsys.inputs import post_age_bucket, token_valid
from phoenix_recsys.masks import candidate_isolation_mask, causal_mask, mask_padded_keys
from phoenix_recsys.positions import anchored_positions, ranker_positions, right_positions, slot_positions

UNTIMED = settings(deadline=None, max_examples=30)  # the first example of a shape compiles
# Few shapes, since every new one compiles.
FLAGS = st.lists(st.booleans(), min_size=5, max_size=5)


@UNTIMED
@given(length=st.sampled_from([1, 4, 7]), start=st.sampled_from([0, 2, 3, 7]))
def test_who_sees_whom(length: int, start: int) -> None:
    """A token sees itself and earlier ones, but no candidate sees another."""
    found = np.asarray(candidate_isolation_mask(length, start))
    for t in range(length):
        for s in range(length):
            both = t >= start and s >= start
            assert found[t, s] == (s <= t and (s == t or not both))
    if start >= length:
        assert np.array_equal(found, np.asarray(causal_mask(length)))


def test_padding_hides_keys_not_queries() -> None:
    """A padded token is removed as a key from every row, and its own row stays."""
    found = np.asarray(mask_padded_keys(causal_mask(3), np.array([[True, False, True]])))
    assert found.tolist() == [[[True, False, False], [True, False, False], [True, False, True]]]


@UNTIMED
@given(history=FLAGS, candidates=FLAGS, spare=st.sampled_from([0, 3]), user=st.booleans())
def test_anchored_positions_count_the_history(
    history: list[bool], candidates: list[bool], spare: int, user: bool
) -> None:
    """Valid history tokens count 1, 2, …; candidates share one place, whatever the padded length."""
    configured = len(history) + spare
    valid = np.array([[user, *history, *candidates]])
    found = np.asarray(anchored_positions(valid, configured, candidate_start=1 + len(history)))[0]
    real = found[1 : 1 + len(history)][np.array(history)]
    assert real.tolist() == list(range(1, sum(history) + 1))
    assert found[0] == 0
    assert set(found[1 + len(history) :][np.array(candidates)]) <= {1 + configured}
    assert not found[~valid[0]].any()


@UNTIMED
@given(count=st.integers(0, 8))
def test_anchored_is_slot_for_a_lone_candidate(count: int) -> None:
    """With one candidate behind a full-length history, valid tokens stand where slot positions put them."""
    valid = np.array([[True] + [i < count for i in range(8)] + [True]])
    anchored = np.asarray(ranker_positions("anchored", valid, 8, candidate_start=9))
    slot = np.asarray(ranker_positions("slot", valid, 8, candidate_start=9))
    assert np.array_equal(anchored[valid], slot[valid])


@UNTIMED
@given(count=st.integers(0, 7))
def test_a_new_event_moves_no_earlier_token(count: int) -> None:
    """Anchored positions of existing tokens stay when the history grows, unlike right-anchored ones."""
    before = np.array([[True] + [i < count for i in range(8)] + [True]])
    after = np.array([[True] + [i <= count for i in range(8)] + [True]])
    found = [np.asarray(anchored_positions(valid, 8))[before] for valid in (before, after)]
    assert np.array_equal(*found)
    if count:
        moved = [np.asarray(right_positions(valid, 8))[before] for valid in (before, after)]
        assert not np.array_equal(*moved)


def test_right_positions_put_the_newest_next_to_the_candidates() -> None:
    """With two of four events valid, they stand just below the shared candidate place."""
    valid = np.array([[True, True, True, False, False, True, True]])
    assert np.asarray(right_positions(valid, 4)).tolist() == [[0, 3, 4, 0, 0, 5, 5]]


def test_slot_positions_are_indices() -> None:
    """Slot positions are the token indices for all rows."""
    assert np.asarray(slot_positions(4)).tolist() == [[0, 1, 2, 3]]


def test_only_the_first_hash_column_makes_padding() -> None:
    """A token with a first hash is valid though its others are 0, and the reverse is padding."""
    assert np.asarray(token_valid(np.array([[5, 0], [0, 5]]))).tolist() == [True, False]


@UNTIMED
@given(age=st.integers(-10_000, 400_000), created=st.integers(1, 2**30), granularity=st.sampled_from([7, 45, 60, 5000]))
def test_post_age_buckets(age: int, created: int, granularity: int) -> None:
    """Buckets count started intervals of whole minutes, the last one open, and 0 for a post from the future."""
    impression = max(created + age, 1)
    minutes = (impression - created) // 60
    last = post_age_vocab_size(granularity) - 1
    wanted = 0 if minutes < 0 else min(minutes // granularity + 1, last)
    assert int(post_age_bucket(np.array(impression), np.array(created), granularity)) == wanted


def test_unknown_times_are_bucket_0() -> None:
    """A missing impression or creation time gives the unknown bucket."""
    assert np.asarray(post_age_bucket(np.array([0, 9]), np.array([9, 0]), 60)).tolist() == [0, 0]


@pytest.mark.parametrize(("size", "width"), [(32, 48), (64, 88), (128, 176), (256, 344), (512, 688)])
def test_feed_forward_widths(size: int, width: int) -> None:
    """Widening by 2 gives the published widths."""
    assert ffn_width(size, 2.0) == width
