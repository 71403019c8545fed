"""Writes the posts: a pattern of the topic, sometimes with an opener, a closer, a mention or a hashtag."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from candidate_pipeline_feed.world.vocabulary import Vocabulary

_SENTENCE = re.compile(r"(?:^|(?<=[.!?] ))\w")
_OPENER, _CLOSER, _MENTION, _HASHTAG, _ASIDE = 0.22, 0.25, 0.08, 0.4, 0.6


def pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    """One of the choices, each as likely."""
    return choices[int(rng.integers(len(choices)))]


def plain(name: str) -> str:
    """A name as lower-case ASCII letters, for a handle."""
    folded = unicodedata.normalize("NFKD", name.replace("ø", "o"))
    return "".join(letter for letter in folded.lower() if letter.isascii() and letter.isalnum())


def _capitalised(text: str) -> str:
    """The text with a capital at the start of each sentence, where a slot's filler may stand."""
    return _SENTENCE.sub(lambda start: start.group().upper(), text)


def _filled(rng: np.random.Generator, text: str, days: Sequence[str], handle: str = "") -> str:
    return (
        text.replace("{n}", str(int(rng.integers(2, 12)))).replace("{day}", pick(rng, days)).replace("{handle}", handle)
    )


def write_post(rng: np.random.Generator, words: Vocabulary, topic: int, language: str, someone: str | None) -> str:
    """The text of an original post.

    Args:
        rng: Where the choices come from.
        words: The vocabulary.
        topic: Index into `words.topics`.
        language: One of `LANGUAGES`.
        someone: Handle of a person who may be mentioned, or None.
    """
    about, around = words.topics[topic], words.phrases[language]
    pattern = pick(rng, about.patterns[language])
    body = pattern.replace("{a}", pick(rng, about.a)).replace("{b}", pick(rng, about.b))
    text = _capitalised(_filled(rng, body, around.days))
    chance = rng.random(4)
    if chance[0] < _OPENER:
        text = pick(rng, around.openers) + text
    if chance[1] < _CLOSER:
        text += pick(rng, around.closers)
    if chance[2] < _MENTION and someone is not None:
        text += pick(rng, around.mentions).replace("{handle}", someone)
    if chance[3] < _HASHTAG:
        count = 1 + int(rng.random() < 0.25)
        tags = rng.choice(len(about.hashtags), size=count, replace=False)
        text += "".join(f" #{about.hashtags[int(tag)]}" for tag in tags)
    return text


def write_reply(rng: np.random.Generator, words: Vocabulary, topic: int, language: str, handle: str) -> str:
    """The text of an answer, on a topic, to the person with that handle."""
    about, around = words.topics[topic], words.phrases[language]
    text = pick(rng, around.replies)
    if around.asides and rng.random() < _ASIDE:
        text += pick(rng, around.asides).replace("{a}", pick(rng, about.a))
    return _capitalised(_filled(rng, text, around.days, handle))


def write_quote(rng: np.random.Generator, words: Vocabulary, topic: int, language: str) -> str:
    """The text of a post that passes another one on with a comment."""
    around = words.phrases[language]
    text = _filled(rng, pick(rng, around.quotes), around.days)
    return f"{text} #{pick(rng, words.topics[topic].hashtags)}" if rng.random() < _HASHTAG else text
