"""Regret of leaving a stakeholder out: equal points, one unit, and controls that are measured."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stakeholder_pools import SEEDS, action_pool, action_utilities, make_pool, make_scene, make_utilities

from candidate_pipeline_stakeholder.audit.frontier import one_more
from candidate_pipeline_stakeholder.audit.greedy import pick
from candidate_pipeline_stakeholder.audit.record import LeftOut, RegretPoint
from candidate_pipeline_stakeholder.audit.regret import regret
from candidate_pipeline_stakeholder.audit.slates import NotPossibleError, Scene
from candidate_pipeline_stakeholder.pool import Pool
from candidate_pipeline_stakeholder.utilities import Utilities

DELTAS = (0.0, 0.5, 1.0)


def points(left_out: LeftOut) -> dict[tuple[str, int], RegretPoint]:
    """Points by condition and number of pairs."""
    return {(point.condition, point.pairs): point for point in left_out.points}


@pytest.fixture(scope="module")
def scene() -> Scene:
    """User, platform and society on predicted actions."""
    return Scene.of(action_utilities(), action_pool(), size=8)


def test_every_control_is_there_and_ordered(scene: Scene) -> None:
    """Its true utility is best, leaving it out is worse, its own pairs close more of the gap than others' pairs."""
    found = regret(scene, sizes=(25, 200), deltas=DELTAS, seeds=4, draws=50)
    assert [each.name for each in found.stakeholders] == list(scene.names)
    assert found.sizes == (0, 25, 200)
    assert found.full_points == 6 * len(found.deltas)
    for each in found.stakeholders:
        by = points(each)
        assert set(by) == {
            ("true utility", 0),
            ("zero pairs", 0),
            ("no model", 0),
            ("untrained zero start", 0),
            ("untrained signed start", 0),
            ("pairs from the signed start", 25),
            *((condition, size) for condition in ("pairs", "wrong pairs") for size in (25, 200)),
        }
        for point in each.points:
            for estimate in (point.regret, point.at_mix):
                assert estimate.low is not None
                assert estimate.high is not None
                assert estimate.low <= (estimate.value or 0) <= estimate.high
        true, out = by["true utility", 0].regret.value, by["zero pairs", 0].regret.value
        many = by["pairs", 200].regret.value
        assert true is not None
        assert out is not None
        assert many is not None
        assert 0 <= true < many + 0.02
        assert many < out
        # A vector of zeros is measured, not assumed, to do as well as nothing.
        assert by["untrained zero start", 0] == attrs.evolve(by["zero pairs", 0], condition="untrained zero start")
        # Where the fit begins must not matter at convergence.
        assert by["pairs from the signed start", 25].regret.value == pytest.approx(
            by["pairs", 25].regret.value, abs=1e-6
        )
        assert (each.closed[200].value or 0) > (each.closed_wrong[200].value or 0)
        assert each.best > each.worst


def slow_regret(scene: Scene, who: int, stand_in: np.ndarray) -> float:
    """The definition, request by request, with the stand-in's weights in the stakeholder's place."""

    def value(mix: np.ndarray, weights: np.ndarray, delta: float) -> float:
        found = []
        for rows in scene.pool.requests():
            utility = scene.pool.values[rows] @ weights.T
            spread = utility.std(axis=0)
            z = (utility - utility.mean(axis=0)) / np.where(spread > 1e-12, spread, 1.0) * (spread > 1e-12)
            group = np.where(scene.pool.group[rows] < 0, 99, scene.pool.group[rows])
            slate = pick((z @ mix)[None], group, [delta], scene.size)[0, 0]
            found.append((scene.pool.values[rows] @ scene.weights[who])[slate].mean())
        return float(np.mean(found))

    mixes = [scene.mix, *(one_more(scene.mix, who, step / 4) for step in range(5))]
    full = [value(mix, scene.weights, delta) for mix in mixes for delta in DELTAS]
    weights = scene.weights.copy()
    weights[who] = stand_in
    mean = np.mean([value(scene.mix, weights, delta) for delta in DELTAS])
    return float((max(full) - mean) / (max(full) - min(full)))


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_regret_is_its_definition(seed: int) -> None:
    """With and without the true utility, regrets equal the definition evaluated request by request."""
    scene = make_scene(seed, rows=15)
    found = regret(scene, sizes=(0,), deltas=DELTAS, seeds=2, draws=10)
    for each in found.stakeholders:
        who = scene.names.index(each.name)
        by = points(each)
        assert by["true utility", 0].regret.value == pytest.approx(
            slow_regret(scene, who, scene.weights[who]), abs=1e-9
        )
        assert by["zero pairs", 0].regret.value == pytest.approx(slow_regret(scene, who, np.zeros(3)), abs=1e-9)


@given(SEEDS, st.sampled_from([0.125, 8.0, 64.0]))
@settings(max_examples=10, deadline=None)
def test_regret_has_no_unit(seed: int, factor: float) -> None:
    """Multiplying the stakeholder's weights changes none of its regrets."""
    scene = make_scene(seed, rows=15)
    weights = scene.weights.copy()
    weights[1] *= factor
    scaled = Scene.of(Utilities(scene.features, scene.names, weights), scene.pool, size=scene.size)
    one, other = (regret(each, sizes=(20,), deltas=DELTAS, seeds=2, draws=10) for each in (scene, scaled))
    for before, after in zip(one.stakeholders, other.stakeholders, strict=True):
        assert before.name == after.name
        for left, right in zip(before.points, after.points, strict=True):
            assert left.condition == right.condition
            assert left.regret.value == pytest.approx(right.regret.value, abs=1e-6)


def test_a_twins_pairs_are_as_good() -> None:
    """Wrong pairs of a stakeholder who wants the same close the gap like its own: the control can tell."""
    vector = make_utilities(6).weights[0]
    scene = Scene.of(
        Utilities(("f0", "f1", "f2"), ("anna", "bert"), [vector, vector]), make_pool(6, rows=40), mix=[1, 0]
    )
    found = regret(scene, sizes=(400,), deltas=DELTAS, seeds=4, draws=20)
    by = points(found.stakeholders[1])
    assert by["wrong pairs", 400].regret.value == pytest.approx(by["pairs", 400].regret.value, abs=0.05)


def test_who_is_not_in_the_mix_gets_a_part_for_its_turn(scene: Scene) -> None:
    """A stakeholder with no weight still has a gap between being in and being out."""
    given_ = Scene.of(action_utilities(), scene.pool, mix={"user": 1.0}, size=8)
    found = regret(given_, sizes=(), deltas=DELTAS, seeds=2, draws=10)
    platform = points(next(each for each in found.stakeholders if each.name == "platform"))
    assert (platform["true utility", 0].regret.value or 0) < (platform["zero pairs", 0].regret.value or 0)
    assert found.sizes == (0,)


def test_unsigned_features_have_no_signed_start() -> None:
    """Features that are no actions give no informative start, so that control is left out."""
    found = regret(make_scene(3, rows=15), sizes=(10,), deltas=DELTAS, seeds=2, draws=10)
    conditions = {point.condition for each in found.stakeholders for point in each.points}
    assert not {"untrained signed start", "pairs from the signed start"} & conditions
    assert "untrained zero start" in conditions


def test_without_groups_points_are_one_knob() -> None:
    """Where the knob changes nothing it is not swept, and everything else is still measured."""
    scene = Scene.of(make_utilities(0), make_pool(0, groups=0))
    assert regret(scene, sizes=(10,), seeds=2, draws=10).deltas == (0.0,)


def test_a_utility_that_never_varies_is_left_out() -> None:
    """It has no range to be normalised by; the others are measured, and nobody is if there is none."""
    values = np.column_stack([np.ones(40), np.random.default_rng(0).normal(size=40)])
    pool = Pool.of(("f0", "f1"), values, request=np.arange(40) // 10)
    utilities = Utilities.of({"anna": {"f0": 1.0}, "bert": {"f1": 1.0}}, ("f0", "f1"))
    assert [each.name for each in regret(Scene.of(utilities, pool, size=4), sizes=(10,), seeds=2).stakeholders] == [
        "bert"
    ]
    still = Utilities.of({"anna": {"f0": 1.0}, "bert": {"f0": 2.0}}, ("f0", "f1"))
    with pytest.raises(NotPossibleError, match="every slate"):
        regret(Scene.of(still, pool))
    with pytest.raises(NotPossibleError, match="one stakeholder"):
        regret(make_scene(0, stakeholders=1))
    with pytest.raises(NotPossibleError, match="two rows"):
        regret(make_scene(0, rows=1))
