"""Baselines against slow references, and on MovieLens-100K."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from candidate_pipeline_feed.engagements import Engagements, gather
from candidate_pipeline_feed.evaluation import baselines
from candidate_pipeline_feed.evaluation.cases import RECENT_MS, Case, Cases, Originals, TrainingPart
from candidate_pipeline_feed.evaluation.metrics import metric_table, rank_among
from candidate_pipeline_feed.evaluation.splits import make_split
from candidate_pipeline_feed.records import Events, Items

ML_100K = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "ml-100k"

# user, item, time, action; item 5 is a repost of item 1.
LOG = [
    (1, 1, 10, "favorite"),
    (1, 2, 20, "dwell"),
    (1, 3, 30, "favorite"),
    (1, 4, 30, "favorite"),
    (2, 1, 11, "favorite"),
    (2, 3, 21, "favorite"),
    (2, 4, 25, "impression"),
    (2, 2, 40, "favorite"),
    (3, 5, 12, "favorite"),
    (3, 3, 13, "dwell"),
    (3, 4, 50, "favorite"),
    (4, 3, 14, "dwell"),
]


def _items() -> Items:
    return Items.build(
        item_id=[1, 2, 3, 4, 5],
        author_id=[1] * 5,
        created_at=[0, 0, 0, 22_000, 5],
        text=["post"] * 5,
        repost_of=[None, None, None, None, 1],
    )


def _events() -> Engagements:
    user, item, time, action = zip(*LOG, strict=True)
    return gather(Events.build(user_id=user, item_id=item, time=[second * 1000 for second in time], action=action))


@pytest.fixture(scope="module")
def part() -> TrainingPart:
    """The training part of the log above: targets are (1, 4), (2, 2), (3, 4)."""
    events = _events()
    return TrainingPart.of(make_split(events), events, Originals.of(_items()))


def _case(history: list[int], time: int = 100_000) -> Case:
    return Case(0, 0, time, np.array(history, np.intp), np.ones(4, np.bool_))


def _matrix() -> NDArray[np.float64]:
    """Users by items of the training part, worked out by hand."""
    return np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0], [0, 0, 1, 0]], np.float64)


def test_a_repost_counts_as_its_original() -> None:
    """It expects four items, and favourites of the repost to be the original's."""
    originals = Originals.of(_items())
    assert originals.item_ids.tolist() == [1, 2, 3, 4]
    assert originals(np.array([5, 4, 1])).tolist() == [1, 4, 1]
    assert originals.created_at.tolist() == [0, 0, 0, 22_000]


def test_the_originals_of_reposts_may_lie_outside_the_table() -> None:
    """It expects such an original to take part from the time of its first repost."""
    items = Items.build(
        item_id=[7, 8, 9], author_id=[1] * 3, created_at=[30, 20, 10], text=["post"] * 3, repost_of=[3, 3, None]
    )
    originals = Originals.of(items)
    assert originals.item_ids.tolist() == [3, 9]
    assert originals.created_at.tolist() == [20, 10]


def test_posts_that_do_not_exist_yet_are_no_candidates() -> None:
    """It expects what is made after a target's time to take no part, though others favoured it."""
    events = _events()
    split = make_split(events)
    cases = Cases(split.targets, events, Originals.of(_items()))
    early = Cases(split.targets.take(np.array([0])), events, Originals.of(_items()))
    early.targets.time[0] = 15_000
    assert cases[0].candidates.tolist() == [False, False, True, True]
    assert early[0].candidates.tolist() == [False, True, True, True]  # item 4 itself is the target
    assert cases[1].candidates.tolist() == [False, True, False, False]


def test_a_target_whose_repost_was_met_is_impossible() -> None:
    """It expects the original of a repost that was seen before not to be a possible target."""
    events = gather(
        Events.build(
            user_id=[1, 1, 2], item_id=[5, 1, 1], time=[1, 2, 1], action=["impression", "favorite", "favorite"]
        )
    )
    cases = Cases(make_split(events).targets, events, Originals.of(_items()))
    assert cases.possible().tolist() == [False, True]


def test_popularity_counts_favourites_of_the_training_part(part: TrainingPart) -> None:
    """It expects no held-out favourite, no other action and no impression to count."""
    assert part.popularity().tolist() == [3, 0, 1, 0]


def test_recent_popularity_counts_a_window_that_ends_before_the_target(part: TrainingPart) -> None:
    """It expects favourites with window start <= time < target time."""
    recent = baselines.RecentPopularity.fit(part, 10_000)
    assert recent.scores(_case([], 21_000)).tolist() == [2, 0, 0, 0]
    assert recent.scores(_case([], 22_000)).tolist() == [1, 0, 1, 0]


def test_the_recent_window_follows_the_span_of_the_data(part: TrainingPart) -> None:
    """It expects an eighth of a short span, and thirty days of a long one."""
    assert part.default_window_ms() == (25_000 - 10_000) // 8
    log = Events.build(
        user_id=[1, 1, 2],
        item_id=[1, 2, 1],
        time=[0, 3 * RECENT_MS, 2 * RECENT_MS],
        action=["favorite", "favorite", "dwell"],
    )
    events = gather(log)
    assert TrainingPart.of(make_split(events), events, Originals.of(_items())).default_window_ms() == RECENT_MS


def _slow_cosine(neighbours: int) -> NDArray[np.float64]:
    matrix = _matrix()
    size = matrix.shape[1]
    found = np.zeros((size, size))
    for a in range(size):
        for b in range(size):
            norm = np.linalg.norm(matrix[:, a]) * np.linalg.norm(matrix[:, b])
            found[a, b] = matrix[:, a] @ matrix[:, b] / norm if a != b and norm else 0.0
    for b in range(size):
        for a in range(size):
            if found[a, b] < sorted(found[:, b])[::-1][neighbours - 1]:
                found[a, b] = 0.0
    return found


@pytest.mark.parametrize("neighbours", [1, 2, 200])
def test_item_item_against_a_slow_reference(part: TrainingPart, neighbours: int) -> None:
    """It expects sums of cosines of the nearest items over the history."""
    expected = _slow_cosine(min(neighbours, 4))
    fitted = baselines.fit_item_item(part, neighbours)
    for history in ([0], [1, 2], [2, 0, 1], []):
        assert fitted.scores(_case(history)) == pytest.approx(expected[history].sum(axis=0), abs=1e-6)


def test_ease_against_its_definition(part: TrainingPart) -> None:
    """It expects the ridge regression of each item on all others, weighted by the decayed history."""
    matrix, ridge = _matrix(), 0.5
    expected = np.zeros((4, 4))
    for item in range(4):
        others = [at for at in range(4) if at != item]
        design = matrix[:, others]
        expected[others, item] = np.linalg.solve(design.T @ design + ridge * np.eye(3), design.T @ matrix[:, item])
    fitted = baselines.fit_ease(part, ridge, decay=0.5)
    assert fitted.scores(_case([0, 2, 1])) == pytest.approx(expected.T @ np.array([0.25, 1.0, 0.5, 0.0]), abs=1e-6)


def test_only_the_most_acted_on_items_take_part_beyond_the_limit(
    part: TrainingPart, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It expects the others to score below all of them, and to count for nothing in a history."""
    monkeypatch.setattr(baselines, "MAX_DENSE_ITEMS", 2)
    fitted = baselines.fit_item_item(part)
    scores = fitted.scores(_case([0, 1, 3]))
    assert scores[[0, 2]] == pytest.approx([0.0, 2 / 3], abs=1e-6)
    assert max(scores[1], scores[3]) < 0.0
    assert fitted.scores(_case([])).tolist() == [0.0, -1.0, 0.0, -1.0]


def test_random_scores_are_reproducible(part: TrainingPart) -> None:
    """It expects equal seeds to draw equal scores for a target, and others for another."""
    draw = baselines.Random(4, 1).scores(_case([]))
    assert draw.tolist() == baselines.Random(4, 1).scores(_case([])).tolist()
    assert draw.tolist() != baselines.Random(4, 2).scores(_case([])).tolist()


@pytest.mark.skipif(not ML_100K.is_dir(), reason="MovieLens-100K is not beside the project")
def test_baselines_reach_their_known_figures_on_movielens() -> None:
    """It expects NDCG@10 of leave-last-out within noise of an independent implementation of each baseline."""
    from candidate_pipeline_feed.movielens import read_grouplens, to_tables

    tables = to_tables(read_grouplens(ML_100K))
    events, originals = gather(tables.events), Originals.of(tables.items)
    split = make_split(events)
    cases, part = Cases(split.targets, events, originals), TrainingPart.of(split, events, originals)
    fitted = baselines.fit_all(part, 0, part.default_window_ms())
    ranks: dict[str, list[float]] = {name: [] for name in fitted}
    for at in range(len(cases)):
        case = cases[at]
        for name, baseline in fitted.items():
            ranks[name].append(rank_among(baseline.scores(case), case.item, case.candidates))
    assert len(cases) == 942
    ndcg = {name: float(metric_table(np.array(found))[:, 0].mean()) for name, found in ranks.items()}
    assert ndcg["random"] < 0.01
    assert ndcg["popularity"] == pytest.approx(0.0468, abs=0.002)
    assert ndcg["recent popularity"] == pytest.approx(0.0544, abs=0.002)
    assert ndcg["item-item"] == pytest.approx(0.0815, abs=0.003)
    assert ndcg["EASE with decay"] == pytest.approx(0.1177, abs=0.002)
