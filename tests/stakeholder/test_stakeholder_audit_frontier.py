"""Slates, the diversity knob and frontiers, against slow and obvious versions."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stakeholder_pools import COARSE, SEEDS, action_pool, action_utilities, make_pool, make_scene, make_utilities

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.audit.frontier import frontier, mixes_of, one_more, pareto, served
from candidate_pipeline_stakeholder.audit.greedy import greedy, pick, spread
from candidate_pipeline_stakeholder.audit.slates import NotPossibleError, Scene, mixing
from candidate_pipeline_stakeholder.mixing import standardised, utilities_of
from candidate_pipeline_stakeholder.moments import Moments
from candidate_pipeline_stakeholder.pool import Pool
from candidate_pipeline_stakeholder.utilities import Utilities

KNOBS = (0.0, 0.3, 0.75, 1.0)


def slow_pick(scores: NDArray[np.float64], group: NDArray[np.intp], delta: float, size: int) -> list[int]:
    """The greedy rule, row by row: value, then score, then place."""
    picked: list[int] = []
    while len(picked) < min(size, len(scores)):
        best = max(
            (row for row in range(len(scores)) if row not in picked),
            key=lambda row: (
                (1 - delta) * scores[row] + delta / (1 + sum(group[other] == group[row] for other in picked)),
                scores[row],
                -row,
            ),
        )
        picked.append(best)
    return picked


@given(SEEDS, st.booleans(), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_picking_groups_equals_picking_rows(seed: int, coarse: bool, size: int) -> None:
    """The fast pick gives the rows that comparing all rows gives, ties included, in their order."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 15))
    scores = rng.integers(-2, 3, (2, count)).astype(np.float64) if coarse else rng.normal(size=(2, count))
    group = rng.integers(0, 4, count)
    found = pick(scores, group, KNOBS, size)
    for condition in range(2):
        for place, delta in enumerate(KNOBS):
            assert found[condition, place].tolist() == slow_pick(scores[condition], group, delta, size)


@given(SEEDS, COARSE)
@settings(max_examples=30, deadline=None)
def test_slates_are_the_highest_scores(seed: int, coarse: bool) -> None:
    """Slates hold the rows a stable sort puts first, and knob 0 picks the same."""
    scene = make_scene(seed, coarse=coarse)
    scores = scene.score(scene.mix[None])
    chosen = scene.top(scores)[0]
    for request in range(scene.requests):
        count, size = int(scene.counts[request]), int(scene.sizes[request])
        expected = np.argsort(-scores[0, request, :count], kind="stable")[:size]
        assert sorted(np.flatnonzero(chosen[request]).tolist()) == sorted(expected.tolist())
    np.testing.assert_allclose(greedy(scene, scores, [0.0]).raw[0, 0], scene.slate_means(chosen[None])[0], atol=1e-12)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_the_score_is_the_scorers(seed: int) -> None:
    """Standardised utilities are those that the scorer computes for each request."""
    scene = make_scene(seed)
    own = scene.standardised(scene.weights)
    for request, rows in enumerate(scene.pool.requests()):
        sums, sizes = utilities_of(scene.pool.values[rows], scene.weights)
        expected = standardised(sums, "request", sizes=sizes)
        np.testing.assert_allclose(own[:, request, : len(rows)].T, expected, atol=1e-9)
        assert not own[:, request, len(rows) :].any()


@given(SEEDS, st.floats(0.01, 100), st.integers(0, 2))
@settings(max_examples=30, deadline=None)
def test_the_scale_of_a_utility_changes_nothing(seed: int, factor: float, who: int) -> None:
    """Multiplying one stakeholder's weights changes no score and no share."""
    scene = make_scene(seed)
    weights = scene.weights.copy()
    weights[who] *= factor
    scaled = Scene.of(Utilities(scene.features, scene.names, weights), scene.pool, size=scene.size)
    np.testing.assert_allclose(scaled.score(scene.mix[None]), scene.score(scene.mix[None]), atol=1e-9)
    slates = scene.top(scene.score(scene.mix[None]))
    np.testing.assert_allclose(
        scaled.shares(scaled.slate_means(slates)), scene.shares(scene.slate_means(slates)), atol=1e-9
    )


@given(SEEDS, COARSE)
@settings(max_examples=30, deadline=None)
def test_shares_lie_between_the_worst_and_the_best_slate(seed: int, coarse: bool) -> None:
    """Any slate is worth 0 to 1 of the range, a stakeholder's own best one 1 and its worst 0."""
    scene = make_scene(seed, coarse=coarse)
    rng = np.random.default_rng(seed)
    slates = scene.top(rng.normal(size=(5, *scene.there.shape)))
    shares = scene.shares(scene.slate_means(slates)).mean(axis=1)
    varying = scene.span > 0
    assert (shares[:, varying] > -1e-9).all()
    assert (shares[:, varying] < 1 + 1e-9).all()
    assert np.isnan(shares[:, ~varying]).all()
    own = scene.top(np.moveaxis(scene.utilities, 2, 0))
    best = scene.shares(scene.slate_means(own)).mean(axis=1)
    np.testing.assert_allclose(np.diag(best)[varying], 1.0)


@given(SEEDS, st.integers(0, 2), COARSE, st.floats(0.0, 4.0), st.floats(0.0, 4.0))
@settings(max_examples=80, deadline=None)
def test_a_stakeholder_gains_from_a_larger_mixing_weight(
    seed: int, who: int, coarse: bool, one: float, other: float
) -> None:
    """At knob 0, raising a stakeholder's weight and leaving the others' never lowers its utility in any request."""
    scene = make_scene(seed, coarse=coarse)
    mixes = np.tile(np.random.default_rng(seed).normal(size=3), (2, 1))
    mixes[0, who], mixes[1, who] = min(one, other), max(one, other)
    raw = greedy(scene, scene.score(mixes), [0.0]).raw[:, 0, :, who]
    assert (raw[1] >= raw[0] - 1e-9).all()


@given(SEEDS, st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_the_sweep_over_mixes_is_monotone(seed: int, stakeholders: int) -> None:
    """Along one stakeholder's weight with the others in proportion, its share never falls."""
    scene = make_scene(seed, stakeholders=stakeholders)
    for who in range(stakeholders):
        mixes = np.array([one_more(scene.mix, who, step / 6) for step in range(7)])
        raw = greedy(scene, scene.score(mixes), [0.0]).raw[:, 0, :, who].mean(axis=1)
        assert (np.diff(raw) >= -1e-9).all()
        np.testing.assert_allclose(np.abs(mixes).sum(axis=1), 1.0)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_the_full_knob_shows_every_group_it_can(seed: int) -> None:
    """At knob 1 a slate shows as many groups as its size and the request's groups allow, as evenly as they last."""
    scene = make_scene(seed, groups=4)
    found = greedy(scene, scene.score(scene.mix[None]), [1.0])
    for request, rows in enumerate(scene.pool.requests()):
        available = len(np.unique(scene.pool.group[rows]))
        assert found.groups[0, 0, request] == min(available, scene.sizes[request])


def test_spread_of_groups() -> None:
    """Entropy is 1 where groups share a slate evenly, 0 where there is one group, and divided by what was possible."""
    groups, entropy = spread([[2, 2], [4, 0]], size=4, available=2)
    assert groups.tolist() == [2.0, 1.0]
    assert entropy.tolist() == pytest.approx([1.0, 0.0])
    assert spread([3], size=3, available=1)[1] == 0


@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), min_size=1, max_size=8))
@settings(max_examples=80, deadline=None)
def test_pareto_points_are_those_nothing_dominates(points: list[list[int]]) -> None:
    """The flags are those of the definition, point by point; there is always one, and equal points share their flag."""
    found = pareto(points)
    for place, point in enumerate(points):
        dominated = any(
            all(a >= b for a, b in zip(other, point, strict=True))
            and any(a > b for a, b in zip(other, point, strict=True))
            for other in points
        )
        assert found[place] == (not dominated)
    assert found.any()


def test_sweeps_cover_the_simplex_or_go_one_at_a_time() -> None:
    """Two and three stakeholders get the whole grid, more of them one weight at a time; signs are kept."""
    grid, sweep = mixes_of(np.array([0.5, -0.25, 0.25]), 4)
    assert sweep == "simplex"
    assert len(grid) == 15
    assert (grid[:, 1] <= 0).all()
    np.testing.assert_allclose(np.abs(grid).sum(axis=1), 1.0)
    lines, sweep = mixes_of(np.array([0.4, 0.3, 0.2, 0.1]), 2)
    assert sweep == "one at a time"
    assert len(lines) == 12
    assert mixes_of(np.array([1.0]), 5)[1] == ""
    np.testing.assert_allclose(one_more(np.array([1.0, 0.0, 0.0]), 0, 0.5), [0.5, 0.25, 0.25])


def test_the_frontier_marks_what_was_asked_for() -> None:
    """The audited point is marked once in each sweep that holds it, with the knob's points ascending."""
    scene = Scene.of(action_utilities(), action_pool(), mix=[0.5, 0.2, 0.3], size=8)
    found = frontier(scene, delta=0.33, mix_steps=10)
    deltas = [point.delta for point in found.delta_points]
    assert deltas == sorted(deltas, key=float)  # type: ignore[arg-type]  # none is None here
    assert 0.33 in deltas
    assert [point.delta for point in found.delta_points if point.chosen] == [0.33]
    assert found.chosen in found.delta_points
    assert not any(point.chosen for point in found.mix_points)  # they are without the knob
    at_zero = frontier(scene, mix_steps=10)
    marked = [point for point in at_zero.mix_points if point.chosen]
    assert len(marked) == 1
    assert marked[0].mix == pytest.approx((0.5, 0.2, 0.3))
    assert marked[0].raw == pytest.approx(at_zero.chosen.raw)
    assert at_zero.mix_sweep == "simplex"
    assert any(point.pareto for point in at_zero.mix_points)
    groups = [point.groups.value for point in found.delta_points if point.groups is not None]
    assert groups[-1] == max(value for value in groups if value is not None)
    assert found.reasons == ()
    for point in (*found.delta_points, *found.mix_points):
        for share in point.share:
            assert share.low is not None
            assert share.high is not None
            assert share.low <= (share.value or 0) <= share.high


def test_what_was_served_is_measured() -> None:
    """The served point is the mean of the served rows; requests without any do not count."""
    pool = make_pool(8, requests=3, rows=6)
    mask = (pool.request != 1) & pool.selected
    pool = attrs.evolve(pool, selected=mask)
    scene = Scene.of(make_utilities(8), pool, size=3)
    found = served(scene)
    assert found is not None
    utility = pool.values @ scene.weights.T
    each = [utility[rows][mask[rows]].mean(axis=0) for rows in pool.requests() if mask[rows].any()]
    assert found.raw == pytest.approx(np.mean(each, axis=0))
    assert served(Scene.of(make_utilities(8), attrs.evolve(pool, selected=np.zeros_like(mask)))) is None


@pytest.mark.parametrize(("groups", "told"), [(0, "no row has a group"), (1, "one group")])
def test_without_groups_there_is_no_knob(groups: int, told: str) -> None:
    """Where diversity cannot change, the sweep is one point and says why; other mixes are still there."""
    pool = make_pool(0)
    labels = None if groups == 0 else ["only"] * len(pool)
    pool = Pool.of(pool.features, pool.values, request=pool.request_ids[pool.request], group=labels)
    found = frontier(Scene.of(make_utilities(0), pool))
    assert len(found.delta_points) == 1
    assert any(told in reason for reason in found.reasons)
    assert found.mix_points


def test_what_has_no_frontier_says_so() -> None:
    """Requests of one row, or utilities that are the same everywhere, have no frontier."""
    with pytest.raises(NotPossibleError, match="two rows"):
        frontier(make_scene(0, rows=1))
    flat = Pool.of(("f0",), np.ones((5, 1)))
    with pytest.raises(NotPossibleError, match="the same"):
        frontier(Scene.of(make_utilities(0, features=1), flat))


def test_mixes_are_checked() -> None:
    """A mix is normalised by absolute values; wrong names, lengths and all zeros are refused."""
    assert mixing(("anna", "bert"), {"anna": 3.0, "bert": -1.0}).tolist() == [0.75, -0.25]
    assert mixing(("anna", "bert"), None).tolist() == [0.5, 0.5]
    for bad in ({"who": 1.0}, {"anna": 0.0}, [1.0], [np.nan, 1.0]):
        with pytest.raises(DataError):
            mixing(("anna", "bert"), bad)
    with pytest.raises(DataError, match="at least one row"):
        make_scene(0, size=0)
    with pytest.raises(DataError, match="normalisation"):
        make_scene(0, how="rank")


def test_a_pool_that_comes_with_the_utilities_is_what_scores_are_standardised_over() -> None:
    """With "pool", a scene scores as the scorer does: by the moments of the utilities' file, not by its own rows."""
    pool, utilities = make_pool(2), make_utilities(2)
    moments = Moments.of([0.1, 0.2, 0.3], np.diag([4.0, 9.0, 0.25]), 100)
    learned = Utilities(utilities.features, utilities.names, utilities.weights, moments)
    scene = Scene.of(learned, pool, how="pool", mix=[0.5, 0.3, 0.2])
    raw, sizes = utilities_of(pool.values, utilities.weights)
    centre, spread = utilities.weights @ moments.mean, moments.sd(utilities.weights)
    expected = standardised(raw, "pool", sizes=sizes, centre=centre, spread=spread) @ scene.mix
    found = scene.score(scene.mix[None])[0]
    for request, rows in enumerate(pool.requests()):
        np.testing.assert_allclose(found[request, : len(rows)], expected[rows])
