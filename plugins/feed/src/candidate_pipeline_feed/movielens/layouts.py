"""Reads MovieLens-100K from either of the two layouts in which it is found.

The data set: Harper and Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import attrs

from candidate_pipeline.errors import DataError

UNKNOWN_GENRE: Final = "unknown"
_YEAR: Final = re.compile(r"\((\d{4})\)(?=(?: \(\w+\))?$)")  # "(1995)", also in "(1995) (V)"


@attrs.frozen
class Rating:
    """One rating.

    Args:
        user: Who rated.
        film: What.
        stars: 1 to 5.
        time_s: When, seconds since 1970-01-01 UTC.
    """

    user: int
    film: int
    stars: int
    time_s: int


@attrs.frozen
class Film:
    """One film.

    Args:
        film: Its number.
        title: Title without year.
        year: Year of release as the title gives it; None where it gives none.
        genres: Its genres, in the order of the source.
    """

    film: int
    title: str
    year: int | None
    genres: tuple[str, ...]


@attrs.frozen
class Person:
    """One rater.

    Args:
        user: Number.
        age: Age in years.
        occupation: Occupation.
    """

    user: int
    age: int
    occupation: str


@attrs.frozen
class MovieLens:
    """The data set, from either layout.

    Args:
        ratings: In the order of the file, which is not that of time.
        films: By number.
        people: By number.
    """

    ratings: tuple[Rating, ...]
    films: tuple[Film, ...]
    people: tuple[Person, ...]


@attrs.frozen
class Layout:
    """A layout of the files.

    Args:
        name: What it is called in messages.
        files: The files that are needed.
        checksums: SHA-256 of each of them.
        read: Reads a directory of them.
    """

    name: str
    files: tuple[str, ...]
    checksums: dict[str, str]
    read: Callable[[Path], MovieLens]


def _lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_bytes().decode(encoding)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not {encoding} text: {error}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def _fields(path: Path, number: int, line: str, separator: str, wanted: int) -> list[str]:
    fields = line.split(separator)
    if len(fields) != wanted:
        raise DataError(f"{path}, line {number}: wanted {wanted} fields, found {len(fields)}: {line[:80]!r}")
    return fields


def _whole(path: Path, number: int, what: str, text: str) -> int:
    try:
        value = float(text)
        if value != int(value):
            raise ValueError
    except (ValueError, OverflowError):
        raise DataError(f"{path}, line {number}: {what}: wanted a whole number, found {text!r}") from None
    return int(value)


def _rating(path: Path, number: int, fields: list[str]) -> Rating:
    user, film, stars, time_s = (
        _whole(path, number, what, text) for what, text in zip(("user", "film", "rating", "time"), fields, strict=True)
    )
    if not 1 <= stars <= 5:
        raise DataError(f"{path}, line {number}: rating: wanted 1 to 5, found {stars}")
    return Rating(user, film, stars, time_s)


def _title_and_year(text: str) -> tuple[str, int | None]:
    text = text.strip()
    match = _YEAR.search(text)
    if match is None:
        return text, None
    return f"{text[: match.start()].strip()}{text[match.end() :]}", int(match[1])


def read_grouplens(directory: Path) -> MovieLens:
    """Read GroupLens's own layout: `u.data`, `u.item`, `u.user` and `u.genre`.

    Raises:
        DataError: A file is missing or a line is not as it should be.
    """
    path = directory / "u.genre"
    genres = [_fields(path, number, line, "|", 2)[0] for number, line in _lines(path, "latin-1")]
    path = directory / "u.data"
    ratings = tuple(
        _rating(path, number, _fields(path, number, line, "\t", 4)) for number, line in _lines(path, "latin-1")
    )
    path = directory / "u.item"
    films = []
    for number, line in _lines(path, "latin-1"):
        fields = _fields(path, number, line, "|", 5 + len(genres))
        title, year = _title_and_year(fields[1])
        marks = tuple(genre for genre, mark in zip(genres, fields[5:], strict=True) if mark == "1")
        films.append(Film(_whole(path, number, "film", fields[0]), title, year, marks or (UNKNOWN_GENRE,)))
    path = directory / "u.user"
    people = []
    for number, line in _lines(path, "latin-1"):
        user, age, _gender, occupation, _zip = _fields(path, number, line, "|", 5)
        people.append(Person(_whole(path, number, "user", user), _whole(path, number, "age", age), occupation))
    return _checked(directory, ratings, tuple(films), tuple(people))


def _table(path: Path, header: str) -> Iterator[tuple[int, str]]:
    lines = _lines(path, "utf-8")
    number, first = next(lines, (1, ""))
    if first != header:
        raise DataError(f"{path}, line {number}: wanted the header {header!r}, found {first[:120]!r}")
    return lines


def read_recbole(directory: Path) -> MovieLens:
    """Read the layout of the `recbole` wheel: `ml-100k.inter`, `ml-100k.item` and `ml-100k.user`.

    Raises:
        DataError: A file is missing or a line is not as it should be.
    """
    path = directory / "ml-100k.inter"
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    ratings = tuple(
        _rating(path, number, _fields(path, number, line, "\t", 4)) for number, line in _table(path, header)
    )
    path = directory / "ml-100k.item"
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    films = []
    for number, line in _table(path, header):
        film, title, year, genres = _fields(path, number, line, "\t", 4)
        # The layout has split what GroupLens's titles have at their end; put it back and split it in one way.
        # One film has no title; it is spelt "unkonwn" there.
        full = UNKNOWN_GENRE if title == "unkonwn" else f"{title} ({year})"
        plain, released = _title_and_year(full)
        marks = tuple(genres.split()) or (UNKNOWN_GENRE,)
        films.append(Film(_whole(path, number, "film", film), plain, released, marks))
    path = directory / "ml-100k.user"
    header = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"
    people = []
    for number, line in _table(path, header):
        user, age, _gender, occupation, _zip = _fields(path, number, line, "\t", 5)
        people.append(Person(_whole(path, number, "user", user), _whole(path, number, "age", age), occupation))
    return _checked(directory, ratings, tuple(films), tuple(people))


def _checked(
    directory: Path, ratings: tuple[Rating, ...], films: tuple[Film, ...], people: tuple[Person, ...]
) -> MovieLens:
    if not ratings or not films or not people:
        raise DataError(f"{directory}: no ratings, films or people in the files")
    return MovieLens(
        ratings,
        tuple(sorted(films, key=lambda film: film.film)),
        tuple(sorted(people, key=lambda person: person.user)),
    )


GROUPLENS: Final = Layout(
    "GroupLens",
    ("u.data", "u.item", "u.user", "u.genre"),
    {
        "u.data": "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
        "u.item": "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701",
        "u.user": "f120e114da2e8cf314fd28f99417c94ae9ddf1cb6db8ce0e4b5995d40e90e62c",
        "u.genre": "9757e0d3e6b298159a80dd48eaf938114690e911e39af97a76949ef1663610bb",
    },
    read_grouplens,
)
"""The files of `ml-100k.zip`."""

RECBOLE: Final = Layout(
    "recbole",
    ("ml-100k.inter", "ml-100k.item", "ml-100k.user"),
    {
        "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
        "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
        "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
    },
    read_recbole,
)
"""The files in the `recbole` 1.2.1 wheel."""

LAYOUTS: Final = (GROUPLENS, RECBOLE)
