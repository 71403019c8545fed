"""The experiments on hidden stakeholders and on recovered parameters, against slow plain versions and what is known."""

from __future__ import annotations

import itertools
import math

import claim_hidden_pairs as hidden
import claim_parameters as parameters
import claim_regret as regret
import numpy as np
import pytest
import research_population as people
import research_twitter as twitter
from claims import Settings, silent
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from research_content import ACTIONS, INDEX
from research_mixture import choose_components, fit_mixture, match
from research_ranker import Ranked


def greedy(scores: list[float], topics: list[int], delta: float, size: int) -> list[int]:
    """One slate, one item after another, over all items each time."""
    picked: list[int] = []
    for _ in range(size):
        best, worth = -1, -math.inf
        for item, score in enumerate(scores):
            if item in picked:
                continue
            same = sum(topics[other] == topics[item] for other in picked)
            value = (1 - delta) * score + delta / (1 + same)
            if value > worth:
                best, worth = item, value
        picked.append(best)
    return picked


def plain_utilities(world: people.Population, slate: list[list[int]]) -> tuple[float, float, float]:
    """The three utilities by loops over people, items and actions."""
    rows = [(user, item) for user, items in enumerate(slate) for item in items]

    def mean(weights: dict[str, float]) -> float:
        total = 0.0
        for user, item in rows:
            for name, weight in weights.items():
                total += weight * world.values[user, item, INDEX[name]]
        return total / len(rows)

    harm = sum(mean({name: 1.0}) for name in ("block_author", "mute_author", "report"))
    joy = sum(mean({name: 1.0}) for name in ("favorite", "repost", "follow_author"))
    retention = min(max(0.8 * (1 - 0.5 * harm / (joy + 0.1)), 0.0), 1.0)
    variety, shares = [], []
    for user, items in enumerate(slate):
        topics = [int(world.topic[item]) for item in items]
        variety.append(len(set(topics)) / 6)
        side = int(world.archetype[user])
        political = [topic for topic in topics if topic in (people.LEFT, people.RIGHT)]
        if side in (people.LEFT, people.RIGHT) and political:
            shares.append(political.count(side) / len(political))
    society = sum(variety) / len(variety) - (sum(shares) / len(shares) if shares else 0.0)
    return mean(dict(people.USER_WEIGHTS)), mean(dict(people.PLATFORM_WEIGHTS)) + retention, society


SMALL = people.population(3, users=18, items=24)


class TestPopulation:
    def test_is_the_same_for_a_seed_and_another_for_another(self) -> None:
        """Everything random hangs on the seed."""
        again, other = people.population(3, users=18, items=24), people.population(4, users=18, items=24)
        assert (again.values == SMALL.values).all()
        assert (other.values != SMALL.values).any()

    def test_has_the_archetypes_and_topics_in_turn_and_probabilities(self) -> None:
        """600 people of six archetypes, 100 items of six topics, 18 probabilities each."""
        world = people.population(42)
        assert world.values.shape == (600, 100, 18)
        assert np.bincount(world.archetype).tolist() == [100] * 6
        assert np.bincount(world.topic).tolist() == [17, 17, 17, 17, 16, 16]
        assert world.values.min() >= 0
        assert world.values.max() <= 1

    def test_multiplies_for_own_and_opposite_topics(self) -> None:
        """Own topic: favorite × 1.5, repost × 1.3; the opposite side: favorite × .3, block × 2."""
        world = people.population(42)
        item = people.LEFT
        other_fan = people.population(42).values[0, item]
        own, opposed = world.values[people.LEFT, item], world.values[people.RIGHT, item]
        favorite, repost, block = (INDEX[name] for name in ("favorite", "repost", "block_author"))
        assert own[favorite] == pytest.approx(min(1.5 * other_fan[favorite], 1))
        assert own[repost] == pytest.approx(1.3 * other_fan[repost])
        assert opposed[favorite] == pytest.approx(0.3 * other_fan[favorite])
        assert opposed[block] == pytest.approx(2 * other_fan[block])

    def test_slates_are_those_of_the_slow_greedy_pick(self) -> None:
        """The vectorised pick gives the items of the plain one, in order, at every setting of the knob."""
        scores = people.engagement(SMALL)
        found = people.slates(scores, SMALL.topic)
        for place, delta in enumerate(people.DELTAS):
            for user in range(0, 18, 5):
                wanted = greedy(scores[user].tolist(), SMALL.topic.tolist(), float(delta), people.SLATE)
                assert found[place, user].tolist() == wanted

    @settings(max_examples=40, deadline=None)
    @given(
        scores=npst.arrays(np.float64, (2, 9), elements=st.integers(-3, 3).map(float)),
        topics=st.lists(st.integers(0, 2), min_size=9, max_size=9),
        delta=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    )
    def test_ties_and_scarce_topics_are_picked_as_by_the_slow_version(
        self, scores: npst.ArrayLike, topics: list[int], delta: float
    ) -> None:
        """Of equal items the first wins, and a topic that runs out stays out, also at the ends of the knob."""
        values = np.asarray(scores)
        found = people.slates(values, np.array(topics), [delta], 7)
        for user in range(2):
            assert found[0, user].tolist() == greedy(values[user].tolist(), topics, delta, 7)

    def test_utilities_are_those_of_the_plain_loops(self) -> None:
        """User, platform and society agree with loops over people, items and actions."""
        slate = people.slates(people.engagement(SMALL), SMALL.topic, [0.0, 0.4, 1.0], 5)
        found = people.utilities(SMALL, slate)
        for place in range(3):
            assert found[place] == pytest.approx(plain_utilities(SMALL, slate[place].tolist()))

    def test_utilities_do_not_depend_on_the_order_in_a_slate(self) -> None:
        """Equal sets of items have equal utilities to the last bit."""
        slate = people.slates(people.engagement(SMALL), SMALL.topic, [0.3], 6)
        assert (people.utilities(SMALL, slate) == people.utilities(SMALL, slate[..., ::-1])).all()

    def test_a_further_utility_is_the_mean_of_its_weights(self) -> None:
        """The user's own weights as a further utility give the user's utility."""
        slate = people.slates(people.engagement(SMALL), SMALL.topic, [0.3], 6)
        found = people.utilities(SMALL, slate, people.vector(people.USER_WEIGHTS)[None])
        assert found[..., 3] == pytest.approx(found[..., 0])

    def test_no_model_serves_every_topic(self) -> None:
        """Constant scores go round the topics, which is all that society's utility asks for."""
        points = people.frontier(SMALL, people.constant(SMALL))
        assert points[1:, 2] == pytest.approx(0.5, abs=0.05)

    @settings(max_examples=60, deadline=None)
    @given(points=npst.arrays(np.float64, (7, 3), elements=st.integers(0, 3).map(float)))
    def test_pareto_keeps_exactly_the_undominated(self, points: npst.ArrayLike) -> None:
        """A point stays unless another is as good everywhere and better somewhere."""
        rows = np.asarray(points).tolist()
        wanted = [
            not any(
                all(b >= a for a, b in zip(one, other, strict=True))
                and any(b > a for a, b in zip(one, other, strict=True))
                for other in rows
            )
            for one in rows
        ]
        assert people.pareto(points).tolist() == wanted


class TestRegret:
    def test_published_figures_are_within_their_spread(self) -> None:
        """On the published number of seeds, regret and regret by range lie within two spreads of what was published."""
        found = [regret.regrets(regret.seed_of(number)) for number in range(5)]
        raw = np.stack([one[0][regret.HIDDEN] for one in found])
        shares = raw / np.stack([one[1] for one in found])
        for name, (mean, spread, share) in regret.PUBLISHED.items():
            code = people.STAKEHOLDERS.index(name)
            # Theirs and ours are both samples of seeds.
            allowed = 2 * math.hypot(spread, float(raw[:, code].std(ddof=1)))
            assert raw[:, code].mean() == pytest.approx(mean, abs=allowed)
            assert shares[:, code].mean() == pytest.approx(share, abs=0.15)
        user, society = (people.STAKEHOLDERS.index(name) for name in ("user", "society"))
        assert raw[:, society].mean() / raw[:, user].mean() == pytest.approx(9.7, abs=2)
        assert shares[:, society].mean() / shares[:, user].mean() == pytest.approx(3.3, abs=0.7)

    def test_nobody_hidden_still_has_regret(self) -> None:
        """A mean falls short of a maximum: the measure is not zero where nothing is hidden."""
        raw, span, points = regret.regrets(42)
        assert (raw[regret.NOBODY] > 0).all()
        assert raw[regret.CONSTANT] / span == pytest.approx([1, 1, 0], abs=0.05)
        assert points.shape == (21, 3)

    def test_kept_means_leave_each_one_out_in_turn(self) -> None:
        """The mean is taken over the points that the two others' Pareto set keeps."""
        points = np.array([[1.0, 0.0, 5.0], [0.0, 1.0, 3.0], [0.5, 0.5, 1.0], [0.4, 0.4, 9.0]])
        assert regret.kept_means(points)[2] == pytest.approx(3.0)

    def test_runs_as_an_experiment(self) -> None:
        """Three rows and two tables come out of a small run, with every seed's figures."""
        result = regret.experiment(Settings(seeds=3), silent)
        assert result.rows[0].verdict == "artefact"
        assert np.shape(result.figures["raw"]) == (3, len(regret.CONDITIONS), 3)


@pytest.fixture(scope="module")
def measured() -> dict[str, hidden.Series]:
    """Three seeds, fitted to the minimum and trained as published, scores as learned."""
    seeds = [regret.seed_of(number) for number in range(3)]
    weights = hidden.learned([hidden.Lessons.of(seed) for seed in seeds])
    worlds = [people.population(seed) for seed in seeds]
    found = {}
    for optimiser in (hidden.FIT, hidden.SIGNS):
        rows = [
            hidden.measure(world, one[optimiser], hidden.AS_LEARNED) for world, one in zip(worlds, weights, strict=True)
        ]
        found[optimiser] = hidden.Series(optimiser, hidden.AS_LEARNED, rows)
    return found


class TestHiddenPairs:
    def test_published_arithmetic_is_reproduced(self, measured: dict[str, hidden.Series]) -> None:
        """Two averages give about -40 %; the same points give less; the start alone does about as well."""
        series = measured[hidden.SIGNS]
        subset = np.mean([one.subset for one in series.measured])
        assert subset == pytest.approx(1.122, abs=0.05)
        assert series.raw(hidden.society(25)).mean() == pytest.approx(0.677, abs=0.15)
        assert series.raw(hidden.NONE).mean() == pytest.approx(0.823, abs=0.05)
        assert series.raw(hidden.START).mean() == pytest.approx(0.632, abs=0.05)
        assert series.raw("25 user pairs").mean() == pytest.approx(0.685, abs=0.12)

    def test_no_model_does_better_than_any_number_of_pairs(self, measured: dict[str, hidden.Series]) -> None:
        """The hidden stakeholder's utility is variety, which needs no model."""
        for series in measured.values():
            none = series.share(hidden.NO_MODEL).mean()
            assert all(none < series.share(hidden.society(count)).mean() for count in hidden.COUNTS)
            assert series.verdict() == "artefact"

    def test_zero_start_is_no_model(self, measured: dict[str, hidden.Series]) -> None:
        """Untrained from zero, every score is zero."""
        series = measured[hidden.FIT]
        assert (series.share(hidden.START) == series.share(hidden.NO_MODEL)).all()

    def test_pairs_help_in_what_they_are_labelled_by(self, measured: dict[str, hidden.Series]) -> None:
        """Regret in the labels' own utility falls from 25 to 1,000 pairs."""
        series = measured[hidden.FIT]
        less = series.share(hidden.society(1000), hidden.LABELS) - series.share(hidden.society(25), hidden.LABELS)
        assert less.mean() < 0

    def test_runs_as_an_experiment(self) -> None:
        """One seed gives all rows, a table for each judged training, and every seed's figures."""
        result = hidden.experiment(Settings(seeds=1), silent)
        assert [row.verdict for row in result.rows[:5]] == ["artefact"] * 5
        assert len(result.rows) == 7
        assert [len(rows) for _, _, rows in result.tables] == [len(hidden.CONDITIONS)] * 4
        assert len(result.figures["series"]) == 6

    def test_conditions_share_their_pairs(self) -> None:
        """Fewer pairs are the first of more, and the wrong stakeholders label the same ones."""
        lessons = hidden.Lessons.of(7).by_name
        full = lessons["society"]
        assert len(full) == hidden.ALL
        assert (lessons[hidden.society(25)] == full[:25]).all()
        for name in hidden.WRONG:
            assert (np.abs(lessons[name]) == np.abs(full[:25])).all()


class TestPlatform:
    def test_table_has_the_stated_counts(self) -> None:
        """26 rules with 119 numbers fill 194 of 648 cells, of 14 actions."""
        truth = twitter.table()
        assert (len(twitter.RULES), sum(len(rule) for rule in twitter.RULES.values())) == (26, 119)
        assert (truth.size, int((truth > 0).sum())) == (648, 194)
        assert int((truth > 0).any(axis=(0, 1)).sum()) == 14
        assert np.allclose(twitter.SEEN.sum(axis=1), 1)

    def test_events_follow_posts_and_rates_follow_the_table(self) -> None:
        """No event is before its post, times rise, authors keep to a topic, and counts agree with the table."""
        world = twitter.platform(5, engagements=60_000)
        assert (world.post_time[world.post] <= world.time).all()
        assert (np.diff(world.time) >= 0).all()
        pairs = np.unique(np.stack([world.post_author, world.post_topic]), axis=1)
        assert pairs.shape[1] == sum(twitter.AUTHORS)
        assert np.bincount(world.archetype).tolist() == [150, 150, 150, 150, 200, 200]
        counted, shown = parameters.by_archetype(world)
        assert shown.sum() == 60_000
        found = parameters.assess(counted, world.truth, shown)
        assert 0.7 < found.per_cell < 1.3
        assert found.zero_within == (454, 454, 454)
        seen = shown / shown.sum(axis=1, keepdims=True)
        assert np.abs(seen - twitter.SEEN).max() < 0.02

    def test_cell_counts_are_plain_counts(self) -> None:
        """Counting by group and topic gives what a loop gives."""
        world = twitter.platform(1, users=12, posts=60, engagements=300)
        happened, shown = twitter.cell_counts(world.user, world.topic, world.actions, 12)
        for user, topic in itertools.product(range(12), range(6)):
            rows = [n for n in range(300) if world.user[n] == user and world.topic[n] == topic]
            assert shown[user, topic] == len(rows)
            assert happened[user, topic].tolist() == [sum(int(world.actions[n, a]) for n in rows) for a in range(18)]


class TestMixture:
    def test_recovers_planted_parameters(self) -> None:
        """Three planted kinds are found from events alone, as exactly as counting with the kinds known."""
        rng = np.random.default_rng(0)
        truth = rng.uniform(0.05, 0.9, (3, 2, 4))
        kind = rng.integers(0, 3, 120)
        shown = rng.integers(5, 30, (120, 2)).astype(float)
        happened = rng.binomial(shown[..., None].astype(int), truth[kind]).astype(float)
        found = fit_mixture(happened, shown, 3, seed=1)
        names = match(found.chances, truth, np.ones_like(truth))
        known = np.stack([happened[kind == k].sum(axis=0) / shown[kind == k].sum(axis=0)[:, None] for k in range(3)])
        assert found.converged
        assert (names[kind] == found.membership.argmax(axis=1)).all()
        assert found.chances[names] == pytest.approx(known, abs=0.01)
        assert found.shares.sum() == pytest.approx(1)
        criterion = choose_components(happened, shown, range(1, 6), seed=1)
        assert min(criterion, key=lambda count: criterion[count]) == 3

    def test_is_counting_with_one_component(self) -> None:
        """A single component takes the overall rates, and nothing where nothing was shown."""
        happened = np.array([[[2.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
        shown = np.array([[4.0, 0.0], [2.0, 0.0]])
        found = fit_mixture(happened, shown, 1, seed=0)
        assert found.chances[0, 0] == pytest.approx([0.5, 1 / 6])
        assert np.isnan(found.chances[0, 1]).all()

    @settings(max_examples=20, deadline=None)
    @given(order=st.permutations(range(6)))
    def test_matching_undoes_any_order(self, order: list[int]) -> None:
        """Components in any order are named after the archetypes they stand for."""
        truth = twitter.table()
        found = match(truth[list(order)], truth, np.ones_like(truth))
        assert [order[component] for component in found] == list(range(6))


@pytest.fixture(scope="module")
def world() -> twitter.Platform:
    """A small platform."""
    return twitter.platform(42, users=200, posts=2_000, engagements=20_000)


class TestParameters:
    def test_mixture_does_as_well_as_knowing_the_archetypes(self, world: twitter.Platform) -> None:
        """With a hundred events a user the archetypes are found, and the cells with them; the controls are far off."""
        found = parameters.measure(world, 42)
        known, unknown = found[parameters.COUNTING], found[parameters.MIXTURE]
        assert known.within[1] >= 175
        assert unknown.within[1] >= known.within[1] - 5
        assert unknown.per_cell < 1.5
        for name in (parameters.GLOBAL, parameters.BY_TOPIC, parameters.SHUFFLED, parameters.LOST):
            assert found[name].within[1] < 60
            assert found[name].per_cell > 20

    def test_perfect_and_missing_estimates(self, world: twitter.Platform) -> None:
        """The table itself is right everywhere; no estimate is right nowhere."""
        _, shown = parameters.by_archetype(world)
        perfect = parameters.assess(world.truth, world.truth, shown)
        assert perfect.within == (194, 194, 194)
        assert (perfect.recovered, perfect.largest, perfect.per_cell) == (648, 0, 0)
        nothing = parameters.assess(np.full_like(world.truth, np.nan), world.truth, shown)
        assert (nothing.recovered, nothing.largest) == (0, 1)

    def test_standard_errors_are_those_of_counting(self) -> None:
        """A cell is judged by sqrt(p(1-p)/n), a zero cell by 1/n."""
        truth = np.array([[[0.5, 0.0, 0.2]]])
        shown = np.array([[100.0]])
        found = parameters.assess(np.array([[[0.59, 0.015, 0.2]]]), truth, shown)
        assert found.within == (1, 2, 2)
        assert found.zero_within == (0, 1, 1)
        assert found.chi_square == pytest.approx(1.8**2)
        assert found.mean == pytest.approx(0.045)

    def test_published_check_cannot_fail(self, world: twitter.Platform) -> None:
        """It passes with a classifier that reads no action, and for numbers that made no event."""
        classified = parameters.classify_by_topics(world)
        other = np.random.default_rng(1).random(world.truth.shape)
        for truth in (world.truth, other):
            assert parameters.published_check(truth, classified, world.archetype) == (1.0, 0.0)

    def test_fewer_events_lose_the_archetypes(self, world: twitter.Platform) -> None:
        """With two events a user the mixture places fewer users than with a hundred."""
        few, many = (parameters.measure_size(world, count, 42) for count in (400, 20_000))
        assert few.placed < many.placed
        assert many.placed > 0.97

    def test_runs_as_an_experiment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a ranker that says the truth its row holds; the check of the published claim is an artefact."""

        def told(world: twitter.Platform, *, epochs: int) -> Ranked:
            return Ranked(world.truth[world.archetype], epochs, 0.0, 0.0)

        monkeypatch.setattr(parameters, "train_ranker", told)
        monkeypatch.setattr(parameters, "SIZES", (2_000,))
        result = parameters.experiment(Settings(seeds=1, quick=True), silent)
        assert [row.verdict for row in result.rows[:4]] == ["artefact", "holds", "holds", "holds"]
        assert result.config["components by BIC"] == 6

    def test_actions_are_in_one_order(self) -> None:
        """The population and the platform use the order of the content pool."""
        assert len(ACTIONS) == people.vector(people.USER_WEIGHTS).shape[0] == twitter.table().shape[2]
