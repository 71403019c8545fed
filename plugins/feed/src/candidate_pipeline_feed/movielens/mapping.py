"""Turns MovieLens-100K into the four tables: films are posts, their rarest genres the channels that post them.

| MovieLens | tables |
|---|---|
| a film | an item: text = title, year and genres; topic = its rarest genre |
| its rarest genre (fewest films; ties: the earlier in the alphabet) | the channel, a user, that posted it |
| year of release | the item's creation time, 1 January; no later than the film's first rating |
| 5 stars | `favorite` and `share` |
| 4 stars | `favorite` |
| 3 stars | `dwell` |
| 1 or 2 stars | `not_interested` |
| a rater | a user; follows the channels it turns out to like, by the rule of `candidate_pipeline_feed.follows` |

There are no impressions: that somebody did not rate a film says nothing about whether it was shown.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping
from typing import Final

import numpy as np

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.datadir import DatasetInfo, Value, clock
from candidate_pipeline_feed.follows import follows_from
from candidate_pipeline_feed.movielens.layouts import Film, MovieLens
from candidate_pipeline_feed.records import Events, Items, Tables, Users

STARS_TO_ACTIONS: Final[Mapping[int, tuple[str, ...]]] = {
    5: ("favorite", "share"),
    4: ("favorite",),
    3: ("dwell",),
    2: ("not_interested",),
    1: ("not_interested",),
}
"""What a rating says, as actions."""

CHANNEL_IDS_FROM: Final = 1_000_001
"""User id of the first channel, far above any rater's; the others follow in alphabetical order."""

ML_100K_OVERRIDES: Final[Mapping[str, Value]] = {
    # Films are up to 76 years old.
    "components.age.max_age": "40000d",
    "resources.posts.retention": "40000d",
    # The published weights are made for rare negatives: "not interested" at -43 against a favourite at 0.5. Here it
    # stands for every rating of 1 or 2 stars, and the task is to find films that a person will like.
    "components.weighted.preset": "none",
    "components.weighted.weights.favorite": 1.0,
    "components.weighted.offset": 0.0,
    # A channel is a genre, not a person: no reason to keep it from standing twice, or below one that is followed.
    "components.diversity.decay": 1.0,
    "components.out_of_network.factor": 1.0,
}
"""Settings for pipelines over the data set: what suits posts of today does not suit films."""

_RICH: Final = 200


def channels(films: tuple[Film, ...]) -> dict[int, str]:
    """The rarest genre of each film, by film number; ties go to the earlier in the alphabet."""
    counts = Counter(genre for film in films for genre in film.genres)
    return {film.film: min(film.genres, key=lambda genre: (counts[genre], genre)) for film in films}


def film_text(film: Film) -> str:
    """What the film's post says: `Fargo (1996) · Crime, Drama, Thriller`."""
    year = f" ({film.year})" if film.year is not None else ""
    return f"{film.title}{year} · {', '.join(film.genres)}"


def _year_ms(year: int) -> int:
    return int(dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp()) * 1000


def to_tables(data: MovieLens) -> Tables:
    """The four tables of a MovieLens data set; events by time, those of one second in the order of the file.

    Raises:
        DataError: A rating names a film or a person that the other files do not have, or an id is out of range.
    """
    film_ids = {film.film for film in data.films}
    people_ids = {person.user for person in data.people}
    for rating in data.ratings:
        if rating.film not in film_ids or rating.user not in people_ids:
            raise DataError(f"a rating names person {rating.user} and film {rating.film}; one of them is not there")
    if max(people_ids) >= CHANNEL_IDS_FROM:
        raise DataError(f"person {max(people_ids)}: wanted a number below {CHANNEL_IDS_FROM}")
    channel_of = channels(data.films)
    names = sorted(set(channel_of.values()))
    channel_id = {name: CHANNEL_IDS_FROM + index for index, name in enumerate(names)}

    first_rated: dict[int, int] = {}
    for rating in data.ratings:
        first_rated[rating.film] = min(first_rated.get(rating.film, rating.time_s), rating.time_s)
    last_s = max(rating.time_s for rating in data.ratings)
    created = []
    for film in data.films:
        first_ms = first_rated.get(film.film, last_s) * 1000
        created.append(first_ms if film.year is None else min(_year_ms(film.year), first_ms))

    items = Items.build(
        item_id=[film.film for film in data.films],
        author_id=[channel_id[channel_of[film.film]] for film in data.films],
        created_at=created,
        text=[film_text(film) for film in data.films],
        topic=[channel_of[film.film] for film in data.films],
    )
    users = Users.build(
        user_id=[person.user for person in data.people] + list(channel_id.values()),
        name=[f"{person.occupation}, {person.age} (rater {person.user})" for person in data.people]
        + [f"{name} channel" for name in names],
        handle=[None] * len(data.people) + [name.lower().replace("'", "") for name in names],
    )
    ordered = sorted(data.ratings, key=lambda rating: rating.time_s)  # stable: ties keep the order of the file
    rows = [(rating, action) for rating in ordered for action in STARS_TO_ACTIONS[rating.stars]]
    events = Events.build(
        user_id=[rating.user for rating, _action in rows],
        item_id=[rating.film for rating, _action in rows],
        time=np.array([rating.time_s for rating, _action in rows], dtype=np.int64) * 1000,
        action=[action for _rating, action in rows],
    )
    return Tables(users, items, follows_from(items, events), events)


def default_viewer(data: MovieLens) -> int:
    """Whose feed is shown when nobody is named: of those with at most 200 ratings the one with the most."""
    counts = Counter(rating.user for rating in data.ratings)
    modest = {user: count for user, count in counts.items() if count <= _RICH} or counts
    return min(modest, key=lambda user: (-modest[user], user))


def dataset_info(data: MovieLens, tables: Tables) -> DatasetInfo:
    """What goes into `dataset.toml`: the clock is a second after the last rating."""
    return DatasetInfo(
        "MovieLens 100K",
        clock(DatasetInfo("MovieLens 100K"), tables),
        {"viewer": default_viewer(data)},
        ML_100K_OVERRIDES,
    )
