"""Words of the bundled world, read from `topics.toml` and `phrases.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import attrs

LANGUAGES = ("en", "es", "de")
"""Languages of the world; their shares are in `tastes`."""


@attrs.frozen
class Topic:
    """What can be said about one topic.

    Args:
        name: Its label in `items.topic`.
        share: How much people like it on average, relative to the others.
        hashtags: Without the #.
        patterns: Sentences by language; the English ones have slots {a} and {b}.
        a: Fillers of slot {a}.
        b: Fillers of slot {b}.
    """

    name: str
    share: float
    hashtags: tuple[str, ...]
    patterns: Mapping[str, tuple[str, ...]]
    a: tuple[str, ...]
    b: tuple[str, ...]


@attrs.frozen
class Phrases:
    """Words around the topics in one language; slots are {day}, {n}, {handle} and, in asides, {a}."""

    days: tuple[str, ...]
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    mentions: tuple[str, ...]
    replies: tuple[str, ...]
    asides: tuple[str, ...]
    quotes: tuple[str, ...]


@attrs.frozen
class Vocabulary:
    """Everything the world's texts are made of.

    Args:
        topics: The topics, in a fixed order.
        phrases: The words around them, by language.
        first_names: First names.
        last_names: Last names.
    """

    topics: tuple[Topic, ...]
    phrases: Mapping[str, Phrases]
    first_names: tuple[str, ...]
    last_names: tuple[str, ...]


@cache
def vocabulary() -> Vocabulary:
    """The vocabulary that ships with the package."""
    folder = files(__package__ or "candidate_pipeline_feed.world")
    topics = tomllib.loads((folder / "topics.toml").read_text(encoding="utf-8"))
    phrases = tomllib.loads((folder / "phrases.toml").read_text(encoding="utf-8"))
    names = phrases.pop("names")
    return Vocabulary(
        topics=tuple(
            Topic(
                name,
                float(words["share"]),
                tuple(words["hashtags"]),
                {"en": tuple(words["patterns"]), "es": tuple(words["es"]), "de": tuple(words["de"])},
                tuple(words["a"]),
                tuple(words["b"]),
            )
            for name, words in topics.items()
        ),
        phrases={
            language: Phrases(**{key: tuple(lines) for key, lines in words.items()})
            for language, words in phrases.items()
        },
        first_names=tuple(names["first"]),
        last_names=tuple(names["last"]),
    )
