"""Stakeholders of a film catalogue: who wants which genres, and what choosing for one gives the others.

MovieLens-100K (Harper and Konstan, ACM TiiS 5(4), 2015). A film is its 19 genre marks times its mean rating / 5, and a
stakeholder is a weight on each genre, computed from the ratings. Everything is made of the training part of the split
that the published experiments used, rebuilt from `u.data`: GroupLens's `ua` split (the first ten ratings of each person
in the order of the file are the test part; this is what its script `allbut.pl` does), and a tenth of the rest held out
for validation.

Run it: `python examples/stakeholders/research_movielens.py --movielens DIR`, DIR holding `u.data` and `u.item`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs
import numpy as np
from claims import Result, Row, Settings, Track, main
from numpy.typing import NDArray
from research_content import draw

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.movielens.layouts import UNKNOWN_GENRE, MovieLens
from candidate_pipeline_feed.movielens.mapping import channels
from candidate_pipeline_feed.movielens.sources import find_layout
from candidate_pipeline_stakeholder.audit.alignment import alignment, cosine_matrix
from candidate_pipeline_stakeholder.audit.estimates import Estimate
from candidate_pipeline_stakeholder.audit.frontier import frontier
from candidate_pipeline_stakeholder.audit.record import Alignment, Frontier, LeftOut, Regret
from candidate_pipeline_stakeholder.audit.regret import regret
from candidate_pipeline_stakeholder.audit.slates import Scene
from candidate_pipeline_stakeholder.fitting import fit_differences
from candidate_pipeline_stakeholder.pool import Pool
from candidate_pipeline_stakeholder.utilities import Utilities

Floats = NDArray[np.float64]
Index = NDArray[np.intp]
Mask = NDArray[np.bool_]

FIRST_OF_EACH: Final = 10
"""Ratings of each person, in the order of the file, that make the test part of the `ua` split."""
VALIDATION_SEED: Final = 42
MIN_RATINGS: Final = 5
"""Films with fewer training ratings are left out of the pool."""
FILMS: Final = 1305
"""How many that leaves, as published."""
BASE: Final = ("user", "platform", "diversity")
NAMED: Final = ("creator", "advertiser", "niche", "mainstream", "moderator")
MAINSTREAM: Final = 3
LOW_STARS: Final = 2
STRONG: Final = 0.2
"""A cosine below this is taken for no relation."""

REQUESTS: Final = 40
REQUEST_FILMS: Final = 100
"""Films that a request may choose from, drawn from the pool."""
SLATE: Final = 10
BUDGET: Final = (10, 25, 50, 100, 200, 500)
"""Numbers of hidden pairs that are tried."""
SEEDS: Final = 8
LEARNED_PAIRS: Final = 2000


def find(settings: Settings) -> Path | None:
    """The folder with the files, or `None`: the one that was named, else `data/ml-100k` if it holds them.

    Raises:
        DataError: A folder was named and the files are not in it.
    """
    if settings.movielens is not None:
        return find_layout(settings.movielens)[1]
    try:
        return find_layout(Path("data/ml-100k"))[1]
    except DataError:
        return None


def not_run(name: str, claims: Sequence[tuple[str, str]]) -> Result:
    """What an experiment reports that has no data: a row for each claim with its published figure."""
    how = (
        "needs the files of MovieLens-100K: unpack https://files.grouplens.org/datasets/movielens/ml-100k.zip and give "
        "--movielens DIR (`candidate-pipeline data fetch ml-100k` gets the same data, but what it writes are tables "
        "of actions, without the stars and their order)"
    )
    return Result(name, {}, [Row(claim, theirs, "-", "-", "not run", how) for claim, theirs in claims])


@attrs.frozen(eq=False)
class Ratings:
    """The data set as arrays.

    Args:
        user: Who rated, int64 [n], in the order of the file; so are all up to `time`.
        film: Row of the film, intp [n].
        stars: 1 to 5, int64 [n].
        time: Seconds since 1970-01-01 UTC, int64 [n].
        film_ids: Numbers of the films, rising, int64 [films].
        genres: Names of the 19 genres.
        marks: Which genres each film has, bool [films, 19].
        channel: The rarest genre of each film.
    """

    user: NDArray[np.int64]
    film: Index
    stars: NDArray[np.int64]
    time: NDArray[np.int64]
    film_ids: NDArray[np.int64]
    genres: tuple[str, ...]
    marks: Mask
    channel: tuple[str, ...]

    @classmethod
    def of(cls, data: MovieLens) -> Ratings:
        """The arrays of a data set that was read."""
        table = np.array([(line.user, line.film, line.stars, line.time_s) for line in data.ratings], np.int64)
        ids = np.array([film.film for film in data.films], np.int64)
        names = sorted({genre for film in data.films for genre in film.genres} - {UNKNOWN_GENRE})
        genres = (UNKNOWN_GENRE, *names)
        marks = np.array([[genre in film.genres for genre in genres] for film in data.films], np.bool_)
        rarest = channels(data.films)
        film = np.searchsorted(ids, table[:, 1])
        channel = tuple(rarest[film.film] for film in data.films)
        return cls(table[:, 0], film, table[:, 2], table[:, 3], ids, genres, marks, channel)

    def __len__(self) -> int:
        return len(self.user)


def read(folder: Path) -> Ratings:
    """Read the data set from a folder.

    Raises:
        DataError: The files are not there or not as they should be.
    """
    layout, folder = find_layout(folder)
    return Ratings.of(layout.read(folder))


@attrs.frozen(eq=False)
class Parts:
    """Rows of the ratings in each part of the split, intp; validation in the order in which it was evaluated."""

    training: Index
    validation: Index
    test: Index


def split(ratings: Ratings) -> Parts:
    """The published split: `ua`, and a tenth of its base part, drawn by the seed 42, for validation."""
    order = np.argsort(ratings.user, kind="stable")
    starts = np.searchsorted(ratings.user[order], ratings.user[order])
    place = np.empty(len(ratings), np.intp)
    place[order] = np.arange(len(ratings)) - starts
    early = place < FIRST_OF_EACH
    by_user = np.lexsort((ratings.film, ratings.user))  # the order of ua.base and ua.test
    base, test = by_user[~early[by_user]], by_user[early[by_user]]
    drawn = np.random.default_rng(VALIDATION_SEED).permutation(len(base))
    held = len(base) // 10
    return Parts(base[drawn[held:]], base[drawn[:held]], test)


@attrs.frozen(eq=False)
class Catalogue:
    """The films that can be chosen and what each stakeholder makes of them.

    Args:
        pool: One request with every film of at least five training ratings; groups are the rarest genres.
        utilities: The eight stakeholders over the 19 genres.
    """

    pool: Pool
    utilities: Utilities


def catalogue(ratings: Ratings, training: Index) -> Catalogue:
    """Features and stakeholders from the training part.

    With a genre's ratings counted once for each film that has the genre:

    - user: mean of (stars - 3);
    - platform: mean stars times log2(ratings + 1);
    - diversity: minus (the genre's share of ratings - 1/19);
    - creator: the genre's share of the catalogue (of genre marks);
    - advertiser: its share of ratings;
    - niche: +1 for genres with at most the median number of ratings, else -1;
    - mainstream: 1 for the three genres with the most ratings, else 0;
    - moderator: minus the share of ratings of one or two stars.

    All are divided by their largest magnitude, which no cosine depends on.
    """
    films = len(ratings.film_ids)
    film, stars = ratings.film[training], ratings.stars[training].astype(np.float64)
    count = np.bincount(film, minlength=films)
    total = np.bincount(film, weights=stars, minlength=films)
    kept = np.flatnonzero(count >= MIN_RATINGS)
    values = ratings.marks[kept] * (total[kept] / count[kept] / 5.0)[:, None]

    marked = ratings.marks[film].astype(np.float64)
    rated = marked.sum(axis=0)
    known = np.maximum(rated, 1.0)
    mean = stars @ marked / known
    low = (stars <= LOW_STARS).astype(np.float64) @ marked / known
    share = rated / rated.sum()
    shelf = ratings.marks[kept].sum(axis=0) / ratings.marks[kept].sum()
    top = np.zeros(len(rated))
    top[np.argsort(-rated, kind="stable")[:MAINSTREAM]] = 1.0
    vectors = {
        "user": mean - 3.0,
        "platform": mean * np.log2(rated + 1.0),
        "diversity": -(share - 1.0 / len(share)),
        "creator": shelf,
        "advertiser": share,
        "niche": np.where(rated <= np.median(rated), 1.0, -1.0),
        "mainstream": top,
        "moderator": -low,
    }
    weights = np.array([vector / np.abs(vector).max() for vector in vectors.values()])
    group = [ratings.channel[row] for row in kept]
    pool = Pool.of(ratings.genres, values, item_ids=ratings.film_ids[kept], group=group)
    return Catalogue(pool, Utilities(ratings.genres, tuple(vectors), weights, pool.moments()))


def load(folder: Path) -> Catalogue:
    """Read, split and describe.

    Raises:
        DataError: The files are not there or not as they should be.
    """
    ratings = read(folder)
    return catalogue(ratings, split(ratings).training)


def requests(pool: Pool, count: int, films: int, seed: int) -> Pool:
    """A pool of requests that each may choose from other films, drawn without replacement."""
    rng = np.random.default_rng([seed, count])
    rows = np.concatenate([rng.choice(len(pool), films, replace=False) for _ in range(count)])
    return Pool.of(
        pool.features,
        pool.values[rows],
        item_ids=pool.item_ids[rows],
        request=np.repeat(np.arange(count), films),
        groups=pool.groups,
        group=pool.group[rows],
    )


CLAIMS: Final = (
    ("cosines of raw weights are those of trained weights within .05", "±.05 (text); -.087 against -.33 (own figures)"),
    (
        "about 34 pairs of a hidden stakeholder close half of its regret, 137 close 80 %",
        "medians 34 and 137 (14 to 500)",
    ),
    (
        "the covariance tells what choosing for one gives another in hard slates",
        "29/32 in the text, 27/32 in its table",
    ),
)


def learned_cosines(films: Catalogue, seeds: int) -> Floats:
    """Cosines of weights learned at the minimum from 2,000 pairs, mean over seeds, float64 [s, s]."""
    found = []
    for seed in range(seeds):
        weights = []
        for number, vector in enumerate(films.utilities.weights):
            rng = np.random.default_rng([seed, number, 7])
            drawn = draw(rng, films.pool.values, vector, LEARNED_PAIRS)
            weights.append(fit_differences(drawn.differences(films.pool.values), l2=1e-3, errors="none").weights)
        found.append(cosine_matrix(np.array(weights)))
    mean: Floats = np.mean(found, axis=0)
    return mean


def subset(utilities: Utilities, names: Sequence[str]) -> Utilities:
    """Some of the stakeholders."""
    return Utilities(utilities.features, names, [utilities.vector(name) for name in names], utilities.pool)


def experiment(settings: Settings, track: Track) -> Result:
    """Frontier, regret and alignment of the stakeholders of a film catalogue."""
    folder = find(settings)
    if folder is None:
        return not_run("movielens", CLAIMS)
    films = load(folder)
    utilities = films.utilities
    seeds = settings.count(SEEDS, 2)
    pool = requests(films.pool, REQUESTS, REQUEST_FILMS, 0)
    base = Scene.of(subset(utilities, BASE), pool, size=SLATE)
    every = Scene.of(utilities, pool, size=SLATE)
    raw = cosine_matrix(utilities.weights)
    within = cosine_matrix(utilities.weights, films.pool.moments().covariance)
    learned = learned_cosines(films, seeds)
    swept = frontier(base)
    costs: dict[str, Regret] = {}
    for name, scene in track("regret", [("the three base stakeholders", base), ("all eight", every)]):
        costs[name] = regret(scene, sizes=BUDGET, seeds=seeds)
    aligned = alignment(every)

    upper = np.triu_indices(len(utilities), 1)
    off = np.abs(raw - learned)[upper]
    near = np.abs(within - learned)[upper]
    enough = {share: [_needed(one, share) for one in costs["all eight"].stakeholders] for share in (0.5, 0.8)}
    wrong = [_value(one.closed_wrong[25]) for one in costs["all eight"].stakeholders]
    right = [_value(one.closed[25]) for one in costs["all eight"].stakeholders]
    beaten = [
        one.name
        for one in costs["all eight"].stakeholders
        if _regret(one, "no model").value is not None
        and _value(_regret(one, "no model")) < _value(_regret(one, "true utility"))
    ]
    shuffled = _shuffled(aligned)
    rows = [
        Row(
            *CLAIMS[0],
            f"within .05 for {int((off <= 0.05).sum())} of {len(off)} pairs; largest difference {off.max():.2f}",
            f"pool-covariance cosine: largest difference {near.max():.2f}",
            "does not hold",
            f"user and diversity: raw {raw[0, 2]:.3f}, learned {learned[0, 2]:.3f}, pool covariance {within[0, 2]:.3f}",
        ),
        Row(
            *CLAIMS[1],
            f"half: {_counts(enough[0.5])}; 80 %: {_counts(enough[0.8])} (eight stakeholders, sizes {BUDGET[0]} to "
            f"{BUDGET[-1]}); 25 pairs close {np.median(right):.0%} (median)",
            f"25 pairs of other stakeholders close {np.median(wrong):.0%} (median)",
            "holds",
            "fitted from zero, normalised in the mix, equal point sets; fewer pairs than published. No model at all, "
            f"which goes round the genres, serves {', '.join(beaten) or 'nobody'} better than its own true utility in "
            "the mix does",
        ),
        Row(
            *CLAIMS[2],
            f"{aligned.agree}/{aligned.checked} ordered pairs, slates of {SLATE} of {REQUEST_FILMS} films",
            f"predictions shuffled {shuffled:.0f}/{aligned.checked}",
            "holds" if aligned.agree == aligned.checked else "holds in part",
            "within requests, no training on either side",
        ),
    ]
    tables = [
        ("Cosines: raw weights above the diagonal, pool covariance below", *_matrix(utilities.names, raw, within)),
        ("Diversity knob, equal mix of user, platform and diversity: shares of attainable ranges", *_knob(swept)),
        *((f"Regret of leaving one out: {name}", *_left_out(cost)) for name, cost in costs.items()),
    ]
    config = {
        "films": len(films.pool),
        "requests": REQUESTS,
        "films a request": REQUEST_FILMS,
        "slate": SLATE,
        "seeds": seeds,
        "interval": "95 % bootstrap over seeds and requests",
    }
    figures = {
        "names": utilities.names,
        "weights": utilities.weights.tolist(),
        "raw": raw.tolist(),
        "pool covariance": within.tolist(),
        "learned": learned.tolist(),
        "regret": {name: attrs.asdict(cost) for name, cost in costs.items()},
    }
    return Result("movielens", config, rows, tables, figures)


def _value(found: Estimate) -> float:
    return float("nan") if found.value is None else found.value


def _regret(one: LeftOut, condition: str, pairs: int = 0) -> Estimate:
    return next(point.regret for point in one.points if point.condition == condition and point.pairs == pairs)


def _needed(one: LeftOut, share: float) -> int | None:
    """The smallest number of pairs tried that closes this share of the gap, or `None`."""
    return next((size for size in BUDGET if _value(one.closed[size]) >= share), None)


def _counts(sizes: Sequence[int | None]) -> str:
    known = sorted(BUDGET[-1] + 1 if size is None else size for size in sizes)
    middle = float(np.median(known))
    most = f"over {BUDGET[-1]}" if known[-1] > BUDGET[-1] else str(known[-1])
    return f"median {middle:g} pairs ({known[0]} to {most})"


def _shuffled(aligned: Alignment) -> float:
    """How many slates agree when the predictions are dealt out at random among the strong pairs, on average."""
    strong = [pair for pair in aligned.pairs if abs(_value(pair.cosine)) > aligned.strong]
    said = np.sign([_value(pair.cosine) for pair in strong])
    seen = np.sign([_value(pair.top_shift) for pair in strong])
    return sum(float((said == sign).mean() * (seen == sign).sum()) for sign in (-1.0, 1.0))


def _matrix(names: Sequence[str], above: Floats, below: Floats) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    rows = []
    for one, name in enumerate(names):
        cells = ["" if one == other else f"{(above if other > one else below)[one, other]:.2f}" for other in range(8)]
        rows.append((name, *cells))
    return ("", *names), rows


def _cell(found: Estimate) -> str:
    if found.value is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.value:.2f}"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _knob(swept: Frontier) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    rows = []
    for point in swept.delta_points[::4]:
        groups = "-" if point.groups is None else _cell(point.groups)
        rows.append(
            (f"{point.delta:g}", *(_cell(share) for share in point.share), groups, "yes" if point.pareto else "")
        )
    return ("knob", *swept.names, "genres in a slate", "on the frontier"), rows


def _left_out(cost: Regret) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    headings = ("left out", "zero pairs", "25 pairs", "25 wrong pairs", "200 pairs", "true utility", "no model")
    rows = []
    for one in cost.stakeholders:
        cells = (
            _regret(one, "zero pairs"),
            _regret(one, "pairs", 25),
            _regret(one, "wrong pairs", 25),
            _regret(one, "pairs", 200),
            _regret(one, "true utility"),
            _regret(one, "no model"),
        )
        rows.append((one.name, *(_cell(cell) for cell in cells)))
    return headings, rows


if __name__ == "__main__":
    main(experiment)
