"""The published claims on labels, recovery, stress and sensitivity, at the sizes that decide them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from claim_labels import DEFAULT, EXTREMES, GRID, WHO, Study, across, gradient, loss, within
from claim_labels import experiment as labels_experiment
from claim_recovery import CASES, by_angle, drawn, plain
from claim_recovery import experiment as recovery_experiment
from claim_sensitivity import DECLARED, World, compared, hausdorff, matched, points, shown
from claim_sensitivity import experiment as sensitivity_experiment
from claim_stress import SWEEPS, Points, breaking, explained, fitted, sheppard
from claim_stress import experiment as stress_experiment
from claims import Estimate, Experiment, Settings, run
from hypothesis import given, settings
from hypothesis import strategies as st
from research_content import (
    ACTIONS,
    ALPHAS,
    L2,
    NEGATIVE,
    POSITIVE,
    TOPICS,
    Floats,
    adam,
    bradley_terry_gradient,
    content,
    cosines,
    draw,
    label_weights,
    rank_correlation,
    recovered_alpha,
    sign_start,
)
from research_population import engagement, population

from candidate_pipeline_stakeholder.losses import Comparisons

SEEDS = [42 + 100 * number for number in range(20)]
seeds = st.integers(0, 2**32 - 1)


def spearman(case: int, angle: bool = False) -> tuple[list[float], float]:
    """Rank correlations of 20 seeds from zero, and the share of fits without a plain solution."""
    found, without = [], []
    for seed in SEEDS:
        weights, missing = plain(drawn(seed, CASES[case]))
        found.append(rank_correlation(ALPHAS, by_angle(weights) if angle else recovered_alpha(weights)))
        without.append(missing.mean())
    return found, float(np.mean(without))


def test_recovery_5000_pairs() -> None:
    """From zero, 5,000 pairs without flips order the 13 costs in every one of 20 seeds."""
    found, without = spearman(0)

    assert min(found) >= 0.995
    assert without == 0


def test_recovery_2000_pairs_with_flips() -> None:
    """From zero, 2,000 pairs with 20 % flips order the costs at .94 in the mean of 20 seeds."""
    assert np.mean(spearman(1)[0]) >= 0.94


def test_recovery_250_pairs() -> None:
    """From zero, 250 pairs order the costs at .95 in the mean, though most plain fits have no solution."""
    found, without = spearman(2)

    assert np.mean(found) >= 0.95
    assert 0.4 < without < 0.9


def test_recovery_250_pairs_with_flips() -> None:
    """The joint case orders the costs badly by their ratio and well by the angle of the two means."""
    assert 0.4 < np.mean(spearman(3)[0]) < 0.9
    assert np.mean(spearman(3, angle=True)[0]) > 0.85


@pytest.fixture(scope="module")
def study() -> Study:
    """One seed's 50,000 pairs."""
    return Study.of(42)


def test_labels_disagree_as_published(study: Study) -> None:
    """Label disagreements are within their spread over seeds of the published ones."""
    assert study.disagreement() == pytest.approx([0.230, 0.120, 0.351], abs=0.015)


def test_labels_cosines_as_published(study: Study) -> None:
    """At the minimum of the published objective, cosines across and within stakeholders are the published ones."""
    weights, unfinished = study.fitted(DEFAULT)
    mean, least = within(weights)

    assert unfinished == 0
    assert across(weights) == pytest.approx([0.830, 0.884, 0.478], abs=0.02)
    assert mean == pytest.approx([0.990, 0.936, 0.975], abs=0.01)
    assert least == pytest.approx([0.986, 0.868, 0.951], abs=0.015)


def test_labels_declared_cosines_return_without_ridge(study: Study) -> None:
    """Without the ridge, the plain loss gives back the cosines of the declared weights."""
    weights, unfinished = study.fitted(DEFAULT[:1], 0.0)
    declared = cosines(np.array([label_weights(alpha) for alpha in (1.0, 0.3, 4.0)]))[np.triu_indices(3, 1)]

    assert unfinished == 0
    assert across(weights) == pytest.approx(declared, abs=0.02)


def test_labels_grid_has_87() -> None:
    """29 settings for three stakeholders are 87 trainings."""
    assert len(GRID) * len(WHO) == 87


@settings(max_examples=10, deadline=None)
@given(seed=seeds, size=st.floats(0.01, 3.0))
def test_labels_batch_gradient_is_the_losses(seed: int, size: float) -> None:
    """The control's batch gradient over all rows is the gradient of the library's losses plus the ridge's."""
    small = Study.of(seed, pairs=40, items=30)
    chosen = (*DEFAULT, *EXTREMES)
    weights = size * np.random.default_rng(seed).normal(size=(len(WHO) * len(chosen), len(ACTIONS)))

    found = gradient(small, chosen)(weights, np.arange(40))

    for place, each in enumerate(weights):
        row, setting = place // len(chosen), chosen[place % len(chosen)]
        data = Comparisons.of(small.pairs(row))
        wanted = loss(setting, WHO[row]).value_and_gradient(each, data)[1] + 2 * L2 * each
        assert found[place] == pytest.approx(wanted, abs=1e-9)


def test_labels_spread_is_undefined_at_zero_as_written() -> None:
    """The published gradient is undefined at zero for society's penalty alone; the library's loss is finite there."""
    small = Study.of(1, pairs=64, items=30)
    found = gradient(small, DEFAULT)(np.zeros((12, 18)), np.arange(64))

    undefined = np.isnan(found).any(axis=1).reshape(3, 4)
    assert np.argwhere(undefined).tolist() == [[WHO.index("society"), 3]]
    ours = loss(DEFAULT[3], "society").value_and_gradient(np.zeros(18), Comparisons.of(small.pairs(2)))[1]
    assert np.isfinite(ours).all()


def test_coins_say_nothing() -> None:
    """On labels that are coins, stakeholders do not agree on half of them only by chance."""
    tossed = Study.of(3, pairs=20_000, items=100).coins(3)

    assert tossed.disagreement() == pytest.approx([0.5] * 3, abs=0.02)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, items=st.integers(2, 60), correlation=st.none() | st.floats(0.0, 1.0))
def test_content_is_probabilities(seed: int, items: int, correlation: float | None) -> None:
    """Every item has 18 probabilities and one of six topics, the same for the same seed."""
    one = content(np.random.default_rng(seed), items, correlation)
    again = content(np.random.default_rng(seed), items, correlation)

    assert one.values.shape == (items, len(ACTIONS)) == (items, 18)
    assert ((one.values >= 0) & (one.values <= 1)).all()
    assert set(one.topic) <= set(range(len(TOPICS)))
    assert np.array_equal(one.values, again.values)


def test_content_levels_follow_the_copula() -> None:
    """The correlation asked for shows between an item's positive and negative level, in order of its size."""
    found = []
    for correlation in (0.0, 0.5, 0.95):
        pool = content(np.random.default_rng(5), 20_000, correlation)
        plain_topic = pool.values[pool.topic == TOPICS.index("news")]
        sides = plain_topic[:, POSITIVE].mean(axis=1), plain_topic[:, NEGATIVE].mean(axis=1)
        found.append(np.corrcoef(*sides)[0, 1])

    assert abs(found[0]) < 0.05
    assert found[0] + 0.2 < found[1] < found[2] - 0.2


@settings(max_examples=30, deadline=None)
@given(seed=seeds, items=st.integers(2, 30), count=st.integers(1, 200), sides=st.sampled_from([1, 2]))
def test_pairs_are_distinct_and_shared(seed: int, items: int, count: int, sides: int) -> None:
    """Pairs are of distinct items, the same whatever the noise, and turning all labels turns every difference."""
    values = content(np.random.default_rng(0), items).values
    weights = label_weights(1.0)

    def labelled(flips: float = 0.0, temperature: float | None = None) -> tuple[Floats, Floats]:
        rng = np.random.default_rng(seed)
        two: Literal[1, 2] = 2 if sides == 2 else 1
        found = draw(rng, values, weights, count, noisy_sides=two, flips=flips, temperature=temperature)
        assert (found.first != found.second).all()
        return found.differences(values), values[found.first] - values[found.second]

    straight, pairs = labelled()
    turned, same = labelled(flips=1.0)
    chance, also = labelled(temperature=2.0)
    assert np.array_equal(straight, -turned)
    assert np.array_equal(pairs, same)
    assert np.array_equal(np.abs(chance), np.abs(also))


def test_labels_without_noise_follow_the_utility() -> None:
    """Without noise, and at a very high temperature, the better item is preferred; flips turn their share."""
    values = content(np.random.default_rng(0), 200).values
    weights = label_weights(2.0)
    exact = draw(np.random.default_rng(1), values, weights, 5000, noise=0.0)
    sharp = draw(np.random.default_rng(1), values, weights, 5000, temperature=1e9)
    turned = draw(np.random.default_rng(1), values, weights, 5000, noise=0.0, flips=0.2)

    assert (exact.differences(values) @ weights >= 0).all()
    assert np.array_equal(exact.prefers_first, sharp.prefers_first)
    assert (exact.prefers_first != turned.prefers_first).mean() == pytest.approx(0.2, abs=0.02)


def test_temperature_is_a_logistic_chance() -> None:
    """Labels drawn at a temperature prefer the first item as often as the logistic function says."""
    values = np.zeros((2, 18))
    values[0, 0] = 1.0
    found = draw(np.random.default_rng(2), values, label_weights(1.0), 40_000, temperature=1.5)

    better_first = found.prefers_first[0][found.first == 0].mean()
    assert better_first == pytest.approx(1 / (1 + np.exp(-1.5)), abs=0.01)


def test_head_is_the_smaller_study() -> None:
    """The head of the pairs is what the first rows say."""
    values = content(np.random.default_rng(0), 50).values
    found = draw(np.random.default_rng(3), values, [label_weights(1.0), label_weights(4.0)], 100)

    assert np.array_equal(found.head(30).differences(values, 1), found.differences(values, 1)[:30])


@given(alpha=st.floats(0.01, 50.0), scale=st.floats(0.1, 100.0))
def test_alpha_is_read_back(alpha: float, scale: float) -> None:
    """Declared weights of any length give their own cost back."""
    assert recovered_alpha(scale * label_weights(alpha)) == pytest.approx(alpha)


def reference_adam(differences: Floats, start: Floats, epochs: int, batch: int, rate: float, seed: int) -> Floats:
    """Adam on one fit as the paper writes it, a row at a time."""
    rng = np.random.default_rng(seed)
    weights, mean, square, step = start.copy(), np.zeros(len(start)), np.zeros(len(start)), 0
    for _ in range(epochs):
        order = rng.permutation(len(differences))
        for at in range(0, len(order), batch):
            rows = order[at : at + batch]
            slope = 2 * L2 * weights
            for row in rows:
                slope = slope - differences[row] / (1 + np.exp(differences[row] @ weights)) / len(rows)
            step += 1
            mean = 0.9 * mean + 0.1 * slope
            square = 0.999 * square + 0.001 * slope**2
            weights = weights - rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return weights


def test_adam_is_the_reference() -> None:
    """Many fits at once take the steps that each would take alone, short last batch included."""
    rng = np.random.default_rng(4)
    differences = rng.normal(size=(3, 21, 5))
    start = rng.normal(size=(3, 5))
    seen: list[int] = []

    found = adam(
        bradley_terry_gradient(differences),
        start,
        21,
        epochs=4,
        batch=8,
        rate=0.05,
        seed=9,
        each_epoch=lambda epoch, _: seen.append(epoch),
    )

    for one, first, wanted in zip(differences, start, found, strict=True):
        assert reference_adam(one, first, 4, 8, 0.05, 9) == pytest.approx(wanted, abs=1e-12)
    assert seen == [1, 2, 3, 4]


def test_adam_leaves_its_start_alone() -> None:
    """The start is copied; no epochs return it."""
    start = sign_start()
    found = adam(bradley_terry_gradient(np.ones((1, 4, 18))), start, 4, epochs=0)

    assert np.array_equal(found, start[None])
    assert np.array_equal(start, label_weights(1.0))


@given(
    points_=st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=8),
    others=st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=8),
)
def test_hausdorff_is_a_distance(points_: list[tuple[float, float]], others: list[tuple[float, float]]) -> None:
    """It is symmetric, and 0 from a set to itself."""
    left, right = np.array(points_), np.array(others)

    assert hausdorff(left, right) == hausdorff(right, left)
    assert hausdorff(left, left) == 0


def test_sensitivity_six_people_stand_for_600() -> None:
    """All people of an archetype have the same probabilities, so one of each gives the means of all."""
    small, full = World.of(7), population(7)

    assert small.mean == pytest.approx(shown(full, engagement(full)))
    assert small.points == pytest.approx(points(small.mean, DECLARED))


def test_sensitivity_matched_sizes() -> None:
    """Both kinds of matched wrong weights change one stakeholder, by .3 of its length."""
    one, many = matched(np.random.default_rng(0))

    for wrong in (*one, *many):
        change = np.linalg.norm(wrong - DECLARED, axis=1) / np.linalg.norm(DECLARED, axis=1)
        assert np.sort(change) == pytest.approx([0.0, 0.0, 0.3])
    assert len(one) == len(many) == 2 * np.count_nonzero(DECLARED)


def test_sensitivity_nothing_wrong_changes_nothing() -> None:
    """With the declared weights everything stays on the frontier, at no distance."""
    world = World.of(1)

    assert compared(world.points, world.points) == (1.0, 0.0, 0.0)


def test_stress_line_is_found() -> None:
    """Points on a line give it back with all variance explained; normal utilities follow Sheppard's formula."""
    rng = np.random.default_rng(0)
    disagreement, margin = rng.uniform(0, 0.5, 20), rng.uniform(0, 1, 20)
    on_line = Points(1.0 - 1.2 * disagreement - 0.1 * margin, disagreement, margin, np.cos(np.pi * disagreement))

    coefficients, share = fitted(on_line)

    assert coefficients == pytest.approx([1.0, -1.2, -0.1])
    assert share == pytest.approx(1.0)
    assert explained(on_line.covariance, sheppard(on_line)) == pytest.approx(1.0)


def test_stress_breaking_point_is_the_first_low_value() -> None:
    """The breaking point is the first value with a mean under .95, or none."""
    sweep = SWEEPS[0]
    means = dict(zip(sweep.values, (1.0, 0.96, 0.94, 0.97, 0.5), strict=True))
    found = {value: {"ours": Estimate.of([mean]), "other": Estimate.of([1.0])} for value, mean in means.items()}

    assert breaking(sweep, found, "ours") == "0.1"
    assert breaking(sweep, found, "other") == "none"


@pytest.mark.parametrize(
    "experiment",
    [labels_experiment, recovery_experiment, stress_experiment, sensitivity_experiment],
    ids=["labels", "recovery", "stress", "sensitivity"],
)
def test_experiments_run(experiment: Experiment) -> None:
    """A quick run gives rows with figures, a control and a verdict, and plain data behind them."""
    result = run(experiment, Settings(quick=True, seeds=1))

    assert result.rows
    for row in result.rows:
        assert all((row.claim, row.theirs, row.ours, row.control))
        assert row.verdict in {"holds", "holds in part", "does not hold", "artefact"}
    assert result.as_dict()["figures"]
    for _, headings, rows in result.tables:
        assert all(len(cells) == len(headings) for cells in rows)
