"""The published claims on MovieLens: stakeholders of a catalogue, the direction of growth, NDCG beside baselines."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from claim_goodhart import experiment as goodhart_experiment
from claim_ndcg import PERSONAL, Known, baselines, gains, genre_models, linear_model, measure
from claim_ndcg import experiment as ndcg_experiment
from claims import Experiment, Settings, silent
from hypothesis import given, settings
from hypothesis import strategies as st
from research_goodhart import SLATE, agreement, fixed, policy, shuffled, slates, slope, study
from research_movielens import FILMS, STRONG, Catalogue, Parts, Ratings, catalogue, find, read, split
from research_movielens import experiment as movielens_experiment

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.evaluation.bootstrap import Bootstrap
from candidate_pipeline_feed.movielens.layouts import Film, MovieLens, Person, Rating
from candidate_pipeline_stakeholder.audit.alignment import alignment, cosine_matrix
from candidate_pipeline_stakeholder.audit.slates import Scene
from candidate_pipeline_stakeholder.pool import Pool
from candidate_pipeline_stakeholder.utilities import Utilities

ML_100K = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "ml-100k"


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    """MovieLens-100K."""
    if not (ML_100K / "u.data").is_file():
        pytest.skip("MovieLens-100K is not there")
    return read(ML_100K)


@pytest.fixture(scope="module")
def parts(ratings: Ratings) -> Parts:
    """Its published split."""
    return split(ratings)


@pytest.fixture(scope="module")
def films(ratings: Ratings, parts: Parts) -> Catalogue:
    """The catalogue and its stakeholders."""
    return catalogue(ratings, parts.training)


def small_world(rng: np.random.Generator, films: int = 12, features: int = 4) -> tuple[Any, Any]:
    """Random features and weights of three stakeholders."""
    return rng.random((films, features)), rng.normal(size=(3, features))


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 1.0, 10.0]))
def test_slope_is_the_derivative_of_what_the_softmax_gives(seed: int, temperature: float) -> None:
    """The slope equals the complex-step derivative of the expected utilities to rounding, wherever the policy is."""
    rng = np.random.default_rng(seed)
    values, others = small_world(rng)
    weights, direction = rng.normal(size=(2, values.shape[1]))
    step = 1e-100
    logits = values @ (weights + 1j * step * direction) / temperature
    chance = np.exp(logits - logits.real.max())
    expected = (chance / chance.sum()) @ values @ others.T
    found = slope(weights, direction, values, others, temperature)
    scale = np.linalg.norm(others, axis=1) * np.linalg.norm(direction) / temperature
    np.testing.assert_array_less(np.abs(found - expected.imag / step), 1e-13 * scale + 1e-300)


@given(st.integers(0, 2**32 - 1))
def test_slope_at_the_uniform_policy_is_the_covariance_of_the_pool(seed: int) -> None:
    """With no weights the slope along w_t is w_t' S w_h, S the population covariance of the features."""
    values, others = small_world(np.random.default_rng(seed))
    covariance = Pool.of([f"f{at}" for at in range(values.shape[1])], values).moments().covariance
    found = slope(np.zeros(values.shape[1]), others[0], values, others)
    np.testing.assert_allclose(found, others[0] @ covariance @ others.T, rtol=1e-10, atol=1e-14)


@given(st.integers(0, 2**32 - 1))
def test_slope_of_ones_own_utility_is_never_negative(seed: int) -> None:
    """Moving along one's own weights never lowers one's expected utility: the slope is a variance."""
    rng = np.random.default_rng(seed)
    values, others = small_world(rng)
    assert slope(rng.normal(size=values.shape[1]), others[1], values, others)[1] >= 0


def test_slope_agrees_with_finite_differences_of_the_policy() -> None:
    """The slope is that of `policy` itself, by central differences."""
    rng = np.random.default_rng(4)
    values, others = small_world(rng)
    weights, direction = rng.normal(size=(2, values.shape[1]))
    after, before = (policy(weights + step * direction, values) @ values @ others.T for step in (1e-5, -1e-5))
    np.testing.assert_allclose((after - before) / 2e-5, slope(weights, direction, values, others), atol=1e-8)


def test_policies_are_probabilities_and_fixed_weights_have_norm_one() -> None:
    """Probabilities sum to 1 however sharp; weights are scaled to norm 1, and nothing stays nothing."""
    values = np.random.default_rng(1).random((9, 3))
    chance = policy(np.array([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]]), values)
    np.testing.assert_allclose(chance.sum(axis=1), 1.0)
    np.testing.assert_allclose(chance[1], 1 / 9)
    np.testing.assert_allclose(np.linalg.norm(fixed(np.array([[3.0, 4.0], [0.0, 0.0]])), axis=1), [1.0, 0.0])


def test_slates_without_the_knob_are_the_best_films_and_with_it_go_round_the_groups() -> None:
    """The knob at 0 shows the highest scores; at 1 the groups are equally many."""
    rng = np.random.default_rng(2)
    scores, group = rng.random((3, 40)), np.arange(40, dtype=np.int32) % 5
    best = np.sort(scores, axis=1)[:, -SLATE:].mean(axis=1)
    np.testing.assert_allclose([slates(row[None], group, row[:, None], (0.0,))[0, 0] for row in scores], best)
    shares = slates(scores, group, np.eye(5)[group], (1.0,))
    np.testing.assert_allclose(shares, 1 / 5)


def test_agreement_counts_strong_pairs_by_the_mean_and_by_seed() -> None:
    """The diagonal and weak predictions do not count; a pair whose seeds differ is not sure."""
    predicted = np.array([[1.0, 0.5, -0.5], [0.5, 1.0, 0.1], [-0.5, 0.1, 1.0]])
    always = np.array([[-1.0, 2.0, 3.0], [1.0, -1.0, -1.0], [-2.0, 1.0, -1.0]])
    change = np.array([always, always])
    change[1, 1, 0] = -0.5
    found = agreement(change, predicted, sd=np.ones(3))
    assert (found.strong, found.agree, found.every) == (4, 3, 4)
    assert found.by_seed.tolist() == [3, 2]
    assert (found.sure, found.against) == (2, 1)
    assert found.size == pytest.approx((2.0 - 3.0 + 0.25 + 2.0) / 4)
    mean, low, high = shuffled(change, predicted)
    assert low <= mean <= high


@settings(max_examples=30)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=4, max_size=6))
def test_gains_are_those_expected_over_orders_of_equal_scores(values: list[float]) -> None:
    """Both metrics are means over all ways of breaking ties."""
    scores = np.array([values])
    orders = [
        order
        for order in itertools.permutations(range(len(values)))
        if all(values[one] >= values[other] for one, other in itertools.pairwise(order))
    ]
    ranks = np.array([order.index(0) for order in orders])
    ndcg, hit = gains(scores)
    assert hit[0] == pytest.approx((ranks < 3).mean())
    assert ndcg[0] == pytest.approx(np.where(ranks < 3, 1 / np.log2(ranks + 2), 0).mean())


def test_the_split_takes_the_first_ten_ratings_of_each_person_in_the_order_of_the_file() -> None:
    """The test part holds them, the base part is cut by the seed, and each part is of different ratings."""
    rng = np.random.default_rng(0)
    lines = [Rating(person, film, 3, 0) for person in (1, 2, 3) for film in rng.permutation(20) + 1]
    data = MovieLens(
        tuple(lines[at] for at in rng.permutation(60)),
        tuple(Film(film, "", None, ("Drama",)) for film in range(1, 21)),
        tuple(Person(person, 30, "artist") for person in (1, 2, 3)),
    )
    made = Ratings.of(data)
    parts = split(made)
    assert sorted(np.concatenate([parts.training, parts.validation, parts.test])) == list(range(60))
    assert (len(parts.test), len(parts.validation)) == (30, 3)
    for person in (1, 2, 3):
        rows = np.flatnonzero(made.user == person)
        assert set(rows[:10]) == set(parts.test[made.user[parts.test] == person])


def test_a_folder_without_the_files_is_a_mistake_and_no_folder_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A named folder must hold the files; where none is named, experiments say how to get them."""
    with pytest.raises(DataError, match=r"u\.data"):
        find(Settings(movielens=tmp_path))
    monkeypatch.chdir(tmp_path)
    every: list[Experiment] = [goodhart_experiment, ndcg_experiment, movielens_experiment]
    for experiment in every:
        result = experiment(Settings(), silent)
        assert {row.verdict for row in result.rows} == {"not run"}
        assert all("--movielens" in row.note for row in result.rows)


def test_the_published_catalogue_is_rebuilt(ratings: Ratings, parts: Parts, films: Catalogue) -> None:
    """The parts have the published sizes and 1,305 films have five training ratings."""
    assert [len(part) for part in (parts.training, parts.validation, parts.test)] == [81_513, 9_057, 9_430]
    assert len(films.pool) == FILMS == 1305
    assert films.pool.features == ratings.genres
    assert len(ratings.genres) == 19
    first = ratings.film_ids[ratings.film[parts.test[:10]]]
    assert first.tolist() == [20, 33, 61, 117, 155, 160, 171, 189, 202, 265]  # the first ten lines of ua.test


def test_the_eight_stakeholders_have_the_published_cosines(films: Catalogue) -> None:
    """User and diversity have -0.087, and 44 raw and 54 pool-covariance cosines of 56 are above 0.2."""
    weights = films.utilities.weights
    raw, pooled = cosine_matrix(weights), cosine_matrix(weights, films.pool.moments().covariance)
    assert films.utilities.names[:3] == ("user", "platform", "diversity")
    assert raw[0, 2] == pytest.approx(-0.087, abs=0.0005)
    assert np.abs(weights).max(axis=1).tolist() == [1.0] * 8
    off = ~np.eye(8, dtype=np.bool_)
    assert int((np.abs(raw[off]) > STRONG).sum()) == 44
    assert int((np.abs(pooled[off]) > STRONG).sum()) == 54


def test_the_audit_gives_the_same_alignment(films: Catalogue) -> None:
    """The audit's pooled cosines are the correlations of the utilities, and 54 pairs are checked."""
    part = alignment(Scene.of(films.utilities, films.pool), draws=20)
    expected = np.asarray(np.corrcoef(films.pool.utilities(films.utilities.weights).T))
    found = np.array([pair.pooled_cosine.value for pair in part.pairs], np.float64)
    np.testing.assert_allclose(found, expected[~np.eye(8, dtype=np.bool_)], atol=1e-10)
    assert part.checked == 54


def test_the_pool_covariance_tells_all_54_directions_from_no_data_on(films: Catalogue) -> None:
    """At norm 1 and T = 1 every strong pair moves as predicted in every seed, at the minimum; chance gives half."""
    at = study(films, 5, 400)  # what 2,000 pairs add moves none of them; the experiment goes that far
    predicted = cosine_matrix(films.utilities.weights, films.pool.moments().covariance)
    change = at.expected(at.at_minimum(400)) - at.utilities.mean(axis=0)
    found = agreement(change, predicted)
    assert (found.agree, found.strong) == (54, 54)
    assert found.by_seed.tolist() == [54] * 5
    mean, _, high = shuffled(change, predicted)
    assert 20 < mean < 34
    assert high < 40


def test_the_published_growth_has_the_direction_and_so_has_training_longer_on_the_same_pairs(films: Catalogue) -> None:
    """25 to 2,000 pairs by the published optimiser agree at norm 1; so do most with the same 25 pairs throughout."""
    at = study(films, 20, 2000)
    predicted = cosine_matrix(films.utilities.weights, films.pool.moments().covariance)
    before = at.expected(at.published(25))
    found = agreement(at.expected(at.published(2000)) - before, predicted)
    assert (found.agree, found.strong) == (54, 54)
    longer = agreement(at.expected(at.published(25, epochs=1250)) - before, predicted)
    assert longer.agree >= 44


def test_the_same_seed_gives_the_same_pairs(films: Catalogue) -> None:
    """A study is made of its seeds, and the first seeds of a longer one are the shorter one."""
    short, long = study(films, 1, 30), study(films, 2, 30)
    np.testing.assert_array_equal(short.differences[0], long.differences[0])


def test_baselines_reach_their_known_figures(ratings: Ratings, parts: Parts) -> None:
    """On the published lists popularity is near .70, and even counting genres beats the published .4112 and .4183."""
    known = Known.of(ratings, parts.training)
    people = np.unique(ratings.user)
    wanted = {
        "random": (0.2664, 0.2664, 0.0001),
        "popularity": (0.6975, 0.710, 0.015),
        "popularity of its genres": (0.494, 0.507, 0.02),
        "genre habit of the person": (0.435, 0.429, 0.02),
    }
    for at, (rows, published) in enumerate(((parts.validation[:6400], 0.4112), (parts.test, 0.4183))):
        person, film = np.searchsorted(people, ratings.user[rows]), ratings.film[rows]
        drawn = known.lists(person, film, seed=0)
        rated = known.rated()
        assert not rated[person[:, None], drawn.films[:, 1:]].any()
        assert not (drawn.films[:, 1:] == drawn.films[:, :1]).any()
        assert (np.diff(np.sort(drawn.films, axis=1), axis=1) > 0).all()
        found = measure(baselines(known), [drawn])
        bootstrap = Bootstrap(person.astype(np.int64))
        for name, figures in wanted.items():
            assert found[name].ndcg.mean() == pytest.approx(figures[at], abs=figures[2]), name
            if name != "random":
                assert bootstrap.interval(found[name].ndcg).low > published, name


def test_genre_models_learn_whose_genre_it_is() -> None:
    """Two people who rate one genre each: the shared model is indifferent, the personal ones and EASE are not."""
    marks = np.repeat(np.eye(2), 15, axis=0)
    film = np.concatenate([np.arange(10), 15 + np.arange(10)])
    known = Known(np.repeat([0, 1], 10), film, np.full(20, 4.0), marks, 2)
    lists = known.lists(np.array([0, 1]), np.array([12, 27]), seed=3)
    found = {name: scorer.table for name, scorer in {**genre_models(known), **linear_model(known)}.items()}
    own = found[PERSONAL]
    assert own[0, 12] > own[0, 27]
    assert own[1, 27] > own[1, 12]
    assert lists.films.shape == (2, 8)
    assert not np.isin(lists.films[0, 1:], np.arange(10)).any()
    ease = found["EASE, knows films apart"]
    assert ease[0, :10].mean() > ease[0, 15:25].mean()


def test_utilities_of_the_catalogue_can_be_written_and_read(films: Catalogue, tmp_path: Path) -> None:
    """Genres with apostrophes and all: the stakeholders are ordinary utilities."""
    file = tmp_path / "utilities.toml"
    films.utilities.write(file)
    again = Utilities.read(file)
    np.testing.assert_array_equal(again.weights, films.utilities.weights)
    assert again.pool is not None
    assert again.pool.rows == FILMS
