"""How good is a ranking of films by genre, and what must its NDCG be compared with?

The published study trained a network on MovieLens-100K whose films are nothing but their 19 genre marks, and reported
+59 % NDCG@3 over the same network untrained, which is to say over a random order. Here the same lists (one film that
somebody rated among seven drawn uniformly from those the person had not rated) are ranked by what costs nothing:
popularity, the popularity of films with the same genres, how often a person rates a genre, mean stars. Models made with
this project stand beside them.

Run it: `python examples/stakeholders/claim_ndcg.py --movielens DIR`, DIR holding `u.data` and `u.item`; with
`--trained DATA`, a data directory on which `candidate-pipeline phoenix train` was run, Phoenix is measured too.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import numpy as np
from claims import Result, Row, Settings, Track, main
from numpy.typing import NDArray
from research_movielens import Ratings, find, not_run, read, split

from candidate_pipeline import ITEM_ID
from candidate_pipeline.app import load_document
from candidate_pipeline.spec.document import Document
from candidate_pipeline_feed.datadir import DataDirectory
from candidate_pipeline_feed.engagements import gather
from candidate_pipeline_feed.evaluation.baselines import EASE_LAMBDA, fit_ease
from candidate_pipeline_feed.evaluation.bootstrap import Bootstrap, Interval
from candidate_pipeline_feed.evaluation.cases import TrainingPart
from candidate_pipeline_feed.evaluation.provenance import require_trained_on
from candidate_pipeline_feed.evaluation.splits import make_split
from candidate_pipeline_feed.keys import PREDICTIONS
from candidate_pipeline_stakeholder.fitting import Prior, fit_differences

Floats = NDArray[np.float64]
Index = NDArray[np.intp]

NEGATIVES: Final = 7
EVALUATED: Final = 6400
"""Validation ratings that the published protocol evaluated, from the first."""
CUT: Final = 3
SEEDS: Final = 5
"""Draws of the negatives."""
PAIRS_A_RATING: Final = 4
PRIOR_PRECISION: Final = 12.0
"""Of a person's genre weights around everybody's; the best of 1.2, 4 and 12 on the validation part."""
PERSONAL: Final = "Bradley–Terry on genres, each person"

CLAIM: Final = ("training lifts NDCG@3 on MovieLens-100K by 59 %", "0.2585 untrained, 0.4112 validation, 0.4183 test")

_LISTS: Final = """
schema = 1

[pipelines.lists]
doc = "Ranks the items that the request lists."
result_size = 8
deadline = "60s"
inputs = { viewer = "feed.viewer_id", items = "stakeholder.item_ids" }
query_hydrators = ["feed.viewer", "feed.history"]
sources = ["stakeholder.listed"]
hydrators = ["feed.items"]
scorers = ["ranker", "weighted"]
selector = "feed.top_k"

[components.ranker]
use = "phoenix.ranker"
retrieval = "retrieval_model"

[components.weighted]
use = "feed.weighted"
preset = "none"
weights = { favorite = 1.0 }

[resources.data]
use = "feed.tables"

[resources.ranker_model]
use = "phoenix.ranker_model"
candidate_buckets = [8]

[resources.retrieval_model]
use = "phoenix.retrieval_model"
"""


@attrs.frozen(eq=False)
class Lists:
    """What is to be ranked.

    Args:
        person: Row of the person of each list, intp [n].
        films: Rows of the films, the one that was rated first, intp [n, 8].
    """

    person: Index
    films: Index

    def __len__(self) -> int:
        return len(self.person)


@attrs.frozen(eq=False)
class Known:
    """What may be learnt from: the training part, by rows of people and films.

    Args:
        person: intp [n].
        film: intp [n].
        stars: float64 [n].
        marks: Genres of each film, float64 [films, 19].
        people: How many people there are.
    """

    person: Index
    film: Index
    stars: Floats
    marks: Floats
    people: int

    @classmethod
    def of(cls, ratings: Ratings, rows: Index) -> Known:
        """The given ratings."""
        people, person = np.unique(ratings.user, return_inverse=True)
        marks = ratings.marks.astype(np.float64)
        return cls(person[rows], ratings.film[rows], ratings.stars[rows].astype(np.float64), marks, len(people))

    @property
    def films(self) -> int:
        """How many films there are."""
        return len(self.marks)

    def rated(self) -> NDArray[np.bool_]:
        """Who rated what, bool [people, films]."""
        found = np.zeros((self.people, self.films), np.bool_)
        found[self.person, self.film] = True
        return found

    def lists(self, person: Index, film: Index, seed: int) -> Lists:
        """Each film among seven that its person did not rate in the training part, drawn uniformly."""
        rng = np.random.default_rng([seed, len(person)])
        taken = self.rated()
        films = np.empty((len(person), 1 + NEGATIVES), np.intp)
        films[:, 0] = film
        for start in range(0, len(person), 1024):
            part = slice(start, start + 1024)
            draws = rng.random((len(person[part]), self.films), np.float32)
            draws[taken[person[part]]] = 2.0
            draws[np.arange(len(draws)), film[part]] = 2.0
            films[part, 1:] = np.argpartition(draws, NEGATIVES, axis=1)[:, :NEGATIVES]
        return Lists(person, films)


@attrs.frozen(eq=False)
class Scorer:
    """Something that scores films: the same for everybody, or by person.

    Args:
        table: float64 [films] or [people, films].
    """

    table: Floats

    def __call__(self, lists: Lists) -> Floats:
        """The score of each film of each list, float64 [n, 8]."""
        if self.table.ndim == 1:
            return self.table[lists.films]
        return self.table[lists.person[:, None], lists.films]


def baselines(known: Known) -> dict[str, Scorer]:
    """Rankings that learn nothing but counts.

    - random: every film alike;
    - popularity: ratings of the film;
    - favourites: ratings of four or five stars of the film;
    - popularity of its genres: mean number of ratings of the films with exactly the same genre marks;
    - genre habit: share of the person's ratings in a genre by the genre's share of the catalogue, the mean over the
      film's genres;
    - mean stars: of the film, the overall mean where it has none.
    """
    count = np.bincount(known.film, minlength=known.films).astype(np.float64)
    total = np.bincount(known.film, weights=known.stars, minlength=known.films)
    alike = np.unique(known.marks, axis=0, return_inverse=True)[1].ravel()
    of_set = np.bincount(alike, weights=count) / np.bincount(alike)
    habit = np.zeros((known.people, known.marks.shape[1]))
    np.add.at(habit, known.person, known.marks[known.film])
    habit /= np.maximum(np.bincount(known.person, minlength=known.people), 1)[:, None]
    lift = habit / np.maximum(known.marks.mean(axis=0), 1e-12)
    overall = float(known.stars.mean())
    return {
        "random": Scorer(np.zeros(known.films)),
        "popularity": Scorer(count),
        "favourites": Scorer(np.bincount(known.film[known.stars >= 4], minlength=known.films).astype(np.float64)),
        "popularity of its genres": Scorer(of_set[alike]),
        "genre habit of the person": Scorer(lift @ known.marks.T / known.marks.sum(axis=1)),
        "mean stars": Scorer(np.where(count > 0, total / np.maximum(count, 1.0), overall)),
    }


def genre_models(known: Known, *, each_person: bool = True, seed: int = 0) -> dict[str, Scorer]:
    """Bradley–Terry over genres, rated against unrated films: one for all, and one a person around it.

    The features are the genre marks, as of the published network, and everything is fitted to the minimum.
    """
    rng = np.random.default_rng([seed, 31])
    taken = known.rated()
    person = np.repeat(known.person, PAIRS_A_RATING)
    other = rng.integers(0, known.films, len(person))
    while (again := taken[person, other]).any():
        other[again] = rng.integers(0, known.films, int(again.sum()))
    differences = known.marks[np.repeat(known.film, PAIRS_A_RATING)] - known.marks[other]
    shared = fit_differences(differences, errors="none").weights
    found = {"Bradley–Terry on genres, one for all": Scorer(known.marks @ shared)}
    if each_person:
        prior = Prior(shared, PRIOR_PRECISION)
        own = np.tile(shared, (known.people, 1))
        order = np.argsort(person, kind="stable")
        ends = np.cumsum(np.bincount(person, minlength=known.people))
        for number, rows in enumerate(np.split(order, ends[:-1])):
            if len(rows):
                own[number] = fit_differences(differences[rows], prior=prior, errors="none").weights
        found[PERSONAL] = Scorer(own @ known.marks.T)
    return found


def linear_model(known: Known) -> dict[str, Scorer]:
    """EASE (Steck, WWW 2019), which knows films apart: what the same lists yield to a good plain model."""
    every = np.ones(len(known.film), np.bool_)
    time = np.zeros(len(known.film), np.int64)
    part = TrainingPart(known.films, known.film, known.person, time, every, every)
    return {"EASE, knows films apart": Scorer(known.rated().astype(np.float64) @ fit_ease(part, EASE_LAMBDA).weights)}


def gains(scores: Floats) -> tuple[Floats, Floats]:
    """NDCG@3 and hit@3 of the first column, expected over random orders of equal scores, float64 [n] each.

    Args:
        scores: float64 [n, m]; higher is better.
    """
    rank_gain = np.zeros(scores.shape[1])
    rank_gain[:CUT] = 1.0 / np.log2(np.arange(CUT) + 2.0)
    better = (scores[:, 1:] > scores[:, :1]).sum(axis=1)
    alike = (scores[:, 1:] == scores[:, :1]).sum(axis=1)

    def expected(values: Floats) -> Floats:
        sums = np.concatenate([[0.0], np.cumsum(values)])
        found: Floats = (sums[better + alike + 1] - sums[better]) / (alike + 1)
        return found

    return expected(rank_gain), expected((rank_gain > 0).astype(np.float64))


@attrs.frozen(eq=False)
class Measured:
    """Gains of each list, means over the draws of negatives; float64 [n]."""

    ndcg: Floats
    hit: Floats


def measure(scorers: Mapping[str, Scorer], drawn: Sequence[Lists]) -> dict[str, Measured]:
    """Every scorer on the same lists, drawn several times for the same people and films."""
    found = {}
    for name, scorer in scorers.items():
        each = [gains(scorer(lists)) for lists in drawn]
        found[name] = Measured(np.mean([one[0] for one in each], axis=0), np.mean([one[1] for one in each], axis=0))
    return found


@attrs.frozen(eq=False)
class Held:
    """Favourites that a trained model has not seen, and what it was trained on.

    Args:
        known: The training part of its split.
        person: intp [n].
        film: intp [n].
        time_ms: When each was favoured, int64 [n].
    """

    known: Known
    person: Index
    film: Index
    time_ms: NDArray[np.int64]


def held_out(ratings: Ratings, trained: Path) -> Held:
    """The split that the models of a data directory were trained with.

    Raises:
        DataError: It holds no models, or they were trained on another split than leave-last-out.
    """
    directory = DataDirectory(trained)
    made = make_split(gather(directory.tables().events))
    require_trained_on(directory.models, made.info)
    early = ratings.time * 1000 < made.cutoff_of(ratings.user)
    known = Known.of(ratings, np.flatnonzero(early))
    people = np.unique(ratings.user)
    person = np.searchsorted(people, made.targets.user_id)
    film = np.searchsorted(ratings.film_ids, made.targets.item_id)
    return Held(known, person, film, made.targets.time)


def phoenix_scores(
    ratings: Ratings, trained: Path, held: Held, drawn: Sequence[Lists], retrieval_weight: float
) -> list[Floats]:
    """The ranker's probability of a favourite, each list at the time of its favourite, float64 [n, 8] a draw.

    Args:
        ratings: Whose people and films the lists count.
        trained: A data directory with models.
        held: The favourites, in the order of the lists.
        drawn: What to rank.
        retrieval_weight: How much of the retrieval model's logit is added to the log-odds.
    """
    people = np.unique(ratings.user)
    made = [np.empty(lists.films.shape) for lists in drawn]
    app = load_document(Document(_LISTS), data=trained, sets=[f"components.ranker.retrieval_weight={retrieval_weight}"])
    with app:
        for number, (person, time_ms) in enumerate(zip(held.person, held.time_ms, strict=True)):
            now = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=int(time_ms))
            for lists, scores in zip(drawn, made, strict=True):
                ids = ratings.film_ids[lists.films[number]]
                outcome = app["lists"].run_sync(now=now, seed=0, viewer=int(people[person]), items=ids)
                chosen = outcome.selected
                place = {int(item): row for row, item in enumerate(chosen[ITEM_ID])}
                favorite = chosen.label(PREDICTIONS, "favorite")
                scores[number] = [favorite[place[int(item)]] for item in ids]
    return made


def experiment(settings: Settings, track: Track) -> Result:
    """What NDCG@3 means on lists of one rated film among seven drawn uniformly, with popularity beside it."""
    folder = find(settings)
    if folder is None:
        return not_run("ndcg", [CLAIM])
    ratings = read(folder)
    parts = split(ratings)
    seeds = settings.count(SEEDS, 2)
    known = Known.of(ratings, parts.training)
    scorers = {**baselines(known), **genre_models(known), **linear_model(known)}
    people = np.unique(ratings.user)
    tables, figures = [], {}
    means: dict[str, dict[str, Interval]] = {}
    for name, rows in track("lists", [("validation", parts.validation[:EVALUATED]), ("test", parts.test)]):
        person, film = np.searchsorted(people, ratings.user[rows]), ratings.film[rows]
        found = measure(scorers, [known.lists(person, film, seed) for seed in range(seeds)])
        cells, means[name] = _told(found, person)
        tables.append((f"{name}: {len(rows):,} ratings, the published protocol", _HEADINGS, cells))
    ours: dict[str, dict[str, Interval]] = {"": {}}
    if settings.trained is not None:
        held = held_out(ratings, settings.trained)
        drawn = [held.known.lists(held.person, held.film, seed) for seed in range(1 if settings.quick else 2)]
        found = measure(
            {**baselines(held.known), **genre_models(held.known, each_person=False), **linear_model(held.known)}, drawn
        )
        for name, weight in track("Phoenix", [("Phoenix ranker", 0.0), ("Phoenix ranker + retrieval", 1.0)]):
            each = [gains(scores) for scores in phoenix_scores(ratings, settings.trained, held, drawn, weight)]
            found[name] = Measured(np.mean([one[0] for one in each], axis=0), np.mean([one[1] for one in each], axis=0))
        cells, ours[""] = _told(found, held.person)
        title = f"{len(held.film)} last favourites, the split that Phoenix was trained with; {len(drawn)} draws"
        tables.append((title, _HEADINGS, cells))
    validation, test = means["validation"], means["test"]
    phoenix = ours[""].get("Phoenix ranker + retrieval")
    best = "; ".join(
        f"{name} {interval.mean:.3f}"
        for name, interval in validation.items()
        if name in ("popularity of its genres", "genre habit of the person", PERSONAL)
    )
    note = f"from genres alone, as theirs: {best}; EASE {validation['EASE, knows films apart'].mean:.3f}. "
    if phoenix is None:
        note += "Phoenix not run: --trained DATA"
    else:
        popular = ours[""]["popularity"]
        note += f"On another split's lists Phoenix {_cell(phoenix)}, popularity {_cell(popular)}"
    row = Row(
        *CLAIM,
        f"their network not run; popularity, untrained: {_cell(validation['popularity'])} validation, "
        f"{_cell(test['popularity'])} test",
        f"random order {validation['random'].mean:.4f}",
        "artefact",
        note,
    )
    figures = {
        name: {key: interval.as_dict() for key, interval in of.items()} for name, of in {**means, **ours}.items()
    }
    config = {
        "training": f"{len(parts.training):,}",
        "films": known.films,
        "negatives": NEGATIVES,
        "draws of negatives": seeds,
        "interval": "95 % bootstrap over people",
    }
    return Result("ndcg", config, [row], tables, figures)


_HEADINGS: Final = ("ranking", "NDCG@3", "hit@3", "over random")


def _told(found: Mapping[str, Measured], person: Index) -> tuple[list[tuple[str, ...]], dict[str, Interval]]:
    """Rows of texts, and the intervals of NDCG@3, by name."""
    bootstrap = Bootstrap(person.astype(np.int64))
    random = found["random"].ndcg.mean()
    rows: list[tuple[str, ...]] = []
    intervals = {}
    for name, measured in found.items():
        intervals[name] = bootstrap.interval(measured.ndcg)
        more = f"{intervals[name].mean / random - 1:+.0%}"
        rows.append((name, _cell(intervals[name]), _cell(bootstrap.interval(measured.hit)), more))
    return rows, intervals


def _cell(interval: Interval) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


if __name__ == "__main__":
    main(experiment)
