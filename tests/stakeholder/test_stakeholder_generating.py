"""Preferences from declared utilities: what is drawn, and what each kind of noise does to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.generating import Noise, copula_multipliers, correlate, generate
from candidate_pipeline_stakeholder.pool import Pool
from candidate_pipeline_stakeholder.utilities import DECLARED, NEGATIVE_ACTIONS, POSITIVE, Utilities

QUICK = settings(max_examples=40, deadline=None)
ITEMS = np.random.default_rng(5).random((60, 18))
ONE = Utilities.of({"user": {"a": 1.0, "b": -2.0}})


def pool(rows: int = 40, requests: int = 5, seed: int = 0) -> Pool:
    """Random items of several requests, under features of another order than the utilities have."""
    rng = np.random.default_rng(seed)
    return Pool.of(
        ("b", "other", "a"),
        rng.random((rows, 3)),
        item_ids=np.arange(rows) + 1000,
        request=rng.integers(0, requests, rows),
    )


def test_without_noise_the_better_item_is_preferred() -> None:
    """Every stakeholder states the sign of its own difference of utilities, over the same pairs."""
    made = generate(DECLARED, ITEMS, 500, seed=3)
    assert made.stakeholders == DECLARED.names
    first = made.of_stakeholder("user")
    for name in DECLARED.names:
        mine = made.of_stakeholder(name)
        assert len(mine) == 500
        assert np.array_equal(mine.left, first.left)
        assert np.array_equal(mine.outcome, np.sign((mine.left - mine.right) @ DECLARED.vector(name)))


def test_the_same_seed_gives_the_same_pairs() -> None:
    """Pairs depend on their seed alone."""
    noise = Noise(added=0.1, sharpness=3, flip=0.1)
    one, two, other = (generate(DECLARED, ITEMS, 200, noise=noise, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.left, two.left)
    assert np.array_equal(one.outcome, two.outcome)
    assert not np.array_equal(one.outcome, other.outcome)


def test_adding_one_noise_leaves_the_other_draws() -> None:
    """Items are the same whatever the noise, and flips turn round exactly the pairs that they would without it."""
    plain = generate(DECLARED, ITEMS, 400, seed=7)
    flipped = generate(DECLARED, ITEMS, 400, noise=Noise(flip=0.3), seed=7)
    judged = generate(DECLARED, ITEMS, 400, noise=Noise(sharpness=2.0), seed=7)
    both = generate(DECLARED, ITEMS, 400, noise=Noise(sharpness=2.0, flip=0.3), seed=7)
    assert np.array_equal(plain.left, both.left)
    assert np.array_equal(plain.outcome != flipped.outcome, judged.outcome != both.outcome)


def test_share_of_flips() -> None:
    """The asked share of labels is turned round, within four standard deviations."""
    plain, noisy = (generate(ONE, ITEMS[:, :2], 20_000, noise=Noise(flip=flip), seed=1) for flip in (0.0, 0.2))
    share = float((plain.outcome != noisy.outcome).mean())
    assert abs(share - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 20_000)


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 4.0])
def test_a_judge_follows_bradley_and_terry(sharpness: float) -> None:
    """Left is preferred as often as the logistic curve of the difference says, in every tenth of the differences."""
    made = generate(ONE, ITEMS[:, :2], 40_000, noise=Noise(sharpness=sharpness), seed=2)
    difference = (made.left - made.right) @ ONE.vector("user")
    expected = 1 / (1 + np.exp(-sharpness * difference))
    for part in np.array_split(np.argsort(difference), 10):
        found, mean = (made.outcome[part] > 0).mean(), expected[part].mean()
        assert abs(found - mean) < 4.5 * np.sqrt(0.25 / len(part))


def test_a_sharp_judge_never_errs() -> None:
    """A judge of any finite sharpness gives finite answers, and a very sharp one those without noise."""
    plain = generate(ONE, ITEMS[:, :2], 300, seed=2)
    sharp = generate(ONE, ITEMS[:, :2], 300, noise=Noise(sharpness=1e300), seed=2)
    assert np.array_equal(plain.outcome, sharp.outcome)


def test_added_noise_on_sides_is_wider() -> None:
    """Noise on both sides turns round more pairs than the same noise on the difference; none turns round none."""
    plain = generate(ONE, ITEMS[:, :2], 5000, seed=2)
    wrong = [
        float((plain.outcome != generate(ONE, ITEMS[:, :2], 5000, noise=noise, seed=2).outcome).mean())
        for noise in (Noise(), Noise(added=0.3), Noise(added=0.3, added_to="sides"))
    ]
    assert wrong[0] == 0 < wrong[1] < wrong[2]


def test_ties() -> None:
    """Differences within the threshold are ties and no others; ties are never flipped."""
    made = generate(ONE, ITEMS[:, :2], 3000, noise=Noise(tie=0.2, flip=0.5), seed=4)
    difference = np.abs((made.left - made.right) @ ONE.vector("user"))
    assert np.array_equal(made.outcome == 0, difference <= 0.2)


def test_equal_items_are_decided_by_a_coin() -> None:
    """Without ties, two items of one utility are left to chance: about half each way, and the same each time."""
    made, again = (generate(ONE, np.ones((4, 2)), 2000, seed=4) for _ in range(2))
    assert set(np.unique(made.outcome)) == {-1, 1}
    assert abs((made.outcome > 0).mean() - 0.5) < 0.06
    assert np.array_equal(made.outcome, again.outcome)


def test_shared_and_own_noise() -> None:
    """Shared noise spoils the same pairs of equal stakeholders, own noise others; own pairs are others altogether."""
    twins = Utilities.of({"one": {"a": 1.0}, "two": {"a": 1.0}})
    items = ITEMS[:, :1]

    def outcomes(**how: Any) -> list[Any]:
        made = generate(twins, items, 800, **how)
        return [made.of_stakeholder(name) for name in twins.names]

    one, two = outcomes(noise=Noise(flip=0.3))
    assert np.array_equal(one.outcome, two.outcome)
    one, two = outcomes(noise=Noise(flip=0.3, shared=False))
    assert np.array_equal(one.left, two.left)
    assert 0.3 < (one.outcome != two.outcome).mean() < 0.54
    one, two = outcomes(shared=False)
    assert not np.array_equal(one.left, two.left)


@QUICK
@given(rows=st.integers(2, 30), requests=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_pairs_of_a_pool(rows: int, requests: int, seed: int) -> None:
    """Both items of a pair are of one request and differ; ids and features are those of the pool's rows."""
    items = pool(rows, requests, seed)
    if np.bincount(items.request).max() < 2:
        with pytest.raises(DataError, match="wanted at least two in one request"):
            generate(ONE, items, 5, seed=seed)
        return
    made = generate(ONE, items, 50, seed=seed)
    assert made.left_item is not None
    assert made.right_item is not None
    left, right = made.left_item - 1000, made.right_item - 1000
    assert (left != right).all()
    assert np.array_equal(items.request[left], items.request[right])
    assert np.array_equal(made.left, items.values[left])
    assert np.array_equal(made.right, items.values[right])
    assert made.features == items.features


def test_every_row_is_as_likely() -> None:
    """Rows come up evenly on both sides, and of a request every other row as the partner."""
    items = Pool.of(("a", "b"), ITEMS[:6, :2], request=[0, 0, 0, 0, 1, 1])
    made = generate(ONE, items, 60_000, seed=1)
    assert made.left_item is not None
    assert made.right_item is not None
    assert np.allclose(np.bincount(made.left_item) / 60_000, 1 / 6, atol=0.01)
    partners = made.right_item[made.left_item == 1]
    assert np.allclose(np.bincount(partners, minlength=4)[[0, 2, 3]] / len(partners), 1 / 3, atol=0.025)


def test_across_requests_when_asked() -> None:
    """Pairs over request borders are drawn when asked for."""
    items = Pool.of(("a", "b"), ITEMS[:6, :2], request=np.arange(6))
    assert len(generate(ONE, items, 10, within=False)) == 10


def test_utilities_that_a_pool_does_not_know() -> None:
    """A pool without a single valued feature is refused; one with some is judged by these."""
    with pytest.raises(DataError, match="the utilities value x, and the pool has only b, other, a"):
        generate(Utilities.of({"me": {"x": 1.0}}), pool(), 5)
    made = generate(Utilities.of({"me": {"x": 9.0, "a": 1.0}}), pool(), 50)
    assert np.array_equal(made.outcome, np.sign(made.left[:, 2] - made.right[:, 2]))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"added": -1.0}, "added: wanted a standard deviation"),
        ({"added": np.nan}, "added: wanted a standard deviation"),
        ({"flip": 1.5}, "flip: wanted a share"),
        ({"tie": -0.1}, "tie: wanted a difference"),
        ({"sharpness": np.inf}, "sharpness: wanted a number"),
        ({"added_to": "left"}, 'added_to: wanted "difference" or "sides"'),
    ],
)
def test_wrong_noise(changes: dict[str, Any], told: str) -> None:
    """Noise out of range is refused."""
    with pytest.raises(DataError, match=told):
        Noise(**changes)


def test_wrong_items() -> None:
    """Items that do not fit the utilities, and a single one, are refused."""
    with pytest.raises(DataError, match=r"wanted an array \[n, 2\]"):
        generate(ONE, np.ones((4, 3)), 5)
    with pytest.raises(DataError, match="wanted at least two in one request"):
        generate(ONE, np.ones((1, 2)), 5)
    with pytest.raises(DataError, match="count: wanted at least 0"):
        generate(ONE, np.ones((4, 2)), -1)


@pytest.mark.parametrize("rho", [-0.9, 0.0, 0.3, 0.8, 1.0])
def test_copula(rho: float) -> None:
    """Multipliers are uniform on their range, and their rank correlation is that of the Gaussian copula."""
    made = copula_multipliers(20_000, rho, seed=1)
    assert made.shape == (20_000, 2)
    for column in made.T:
        assert np.allclose(np.quantile(column, [0, 0.25, 0.5, 0.75, 1]), [0.5, 0.875, 1.25, 1.625, 2.0], atol=0.02)
    # Spearman's rho of a Gaussian copula is 6 / pi * asin(rho / 2).
    assert abs(np.asarray(np.corrcoef(made.T))[0, 1] - 6 / np.pi * np.arcsin(rho / 2)) < 0.02


def test_correlated_content_moves_groups_together() -> None:
    """Positive and negative actions of an item rise together; everything stays a probability; the rest is untouched."""
    values = np.random.default_rng(1).uniform(0.1, 0.3, (4000, 18))
    made = correlate(values, DECLARED.features, (POSITIVE, NEGATIVE_ACTIONS), 0.8, seed=2)
    place = {name: column for column, name in enumerate(DECLARED.features)}
    good, bad = (made[:, [place[name] for name in group]].mean(axis=1) for group in (POSITIVE, NEGATIVE_ACTIONS))
    assert np.asarray(np.corrcoef(good, bad))[0, 1] > 0.6
    assert ((made >= 0) & (made <= 1)).all()
    assert np.array_equal(made[:, place["click"]], values[:, place["click"]])


@pytest.mark.parametrize(
    ("correlation", "told"),
    [
        ([[1.0, 0.5], [0.4, 1.0]], "wanted a symmetric matrix"),
        ([[2.0, 0.0], [0.0, 1.0]], "with 1 on the diagonal"),
        (1.5, "wanted no negative eigenvalue"),
        (np.nan, "wanted a symmetric matrix"),
        ([1.0, 2.0], "wanted a symmetric matrix"),
    ],
)
def test_wrong_correlation(correlation: Any, told: str) -> None:
    """What is no correlation matrix is refused."""
    with pytest.raises(DataError, match=told):
        copula_multipliers(3, correlation)


def test_wrong_groups() -> None:
    """Groups of unknown features, or of another number than the correlation is for, are refused."""
    with pytest.raises(DataError, match="x not among the features a"):
        correlate([[0.5]], ["a"], [["a"], ["x"]], 0.5)
    with pytest.raises(DataError, match="wanted one of 1 groups, found 2"):
        correlate([[0.5]], ["a"], [["a"]], 0.5)
