"""Words in posts: the tokeniser that muted keywords are matched with.

What it promises is the contract that the unit tests of the x-algorithm, August 2026 release, pin down; the tokeniser
itself was never published, so this is one that keeps it:

* case and accents do not count, nor does punctuation around words;
* only whole tokens match, numbers too: "18" is not in "2018";
* a phrase matches where its words follow each other without a gap;
* a bare word matches the word, the hashtag and the mention; "#word" matches the hashtag only, "@word" the mention only;
* an empty keyword, and an empty text, never match.

Beyond the contract: a word is a run of letters, digits and underscores, and an apostrophe ends one, so "saturn" is in
"Saturn's" and "homme" in "l'homme"; a pictograph is a word of its own. Scripts that write no spaces are one run
between punctuation, so a keyword in them matches such a run as a whole.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import attrs

# Vowel signs of Indic and South-East Asian scripts are marks, which \w leaves out; without them words fall apart.
_VOWEL_SIGNS: Final = "\u0900-\u0963\u0966-\u0df3\u0e31-\u0e4e\u0eb1-\u0ece\u0f71-\u0f84\u102b-\u103e\u1780-\u17d3"
_PICTOGRAPHS: Final = "\u2600-\u27bf\U0001f000-\U0001faff"
_TOKEN: Final = re.compile(rf"([#@]?)([\w{_VOWEL_SIGNS}]+)|([{_PICTOGRAPHS}])")
_ACCENT_CLASS: Final = 10
"""Canonical combining classes below it (nukta, virama, kana voicing) make another letter, not an accented one."""
_LETTERS: Final = str.maketrans(
    {"ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ł": "l", "ŧ": "t", "ı": "i", "æ": "ae", "œ": "oe"}
)
"""Letters with a stroke and ligatures, which Unicode does not decompose."""


@attrs.frozen
class Token:
    """A word of a text, folded, and the sign that stood before it: "", "#" or "@"."""

    word: str
    sigil: str = ""


def fold(text: str) -> str:
    """A text without case and accents."""
    spread = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    if not spread.isascii():
        bare = "".join(char for char in spread if unicodedata.combining(char) < _ACCENT_CLASS)
        spread = unicodedata.normalize("NFC", bare.translate(_LETTERS))
    return spread


def tokens(text: str) -> tuple[Token, ...]:
    """The words of a text, in order."""
    return tuple(Token(word or pictograph, sigil) for sigil, word, pictograph in _TOKEN.findall(fold(text)))


@attrs.frozen
class KeywordMatcher:
    """Muted keywords, compiled once.

    Args:
        pattern: What finds one of them in an encoded text; None: there are none.
    """

    pattern: re.Pattern[str] | None

    @classmethod
    def of(cls, keywords: Iterable[str]) -> KeywordMatcher:
        """Compile keywords; those without any word are left out."""
        runs = sorted({_expression(tokens(keyword)) for keyword in keywords} - {""})
        return cls(re.compile(" (?:" + "|".join(runs) + ")(?= )") if runs else None)

    def matches(self, text: str | None) -> bool:
        """Whether one of the keywords stands in a text."""
        if self.pattern is None or not text:
            return False
        return self.pattern.search(_encoded(text)) is not None


def _expression(run: tuple[Token, ...]) -> str:
    return " ".join((re.escape(token.sigil) if token.sigil else "[#@]?") + re.escape(token.word) for token in run)


@lru_cache(maxsize=8192)
def _encoded(text: str) -> str:
    """The tokens of a text with one space around each."""
    return " " + "".join(f"{token.sigil}{token.word} " for token in tokens(text))


@lru_cache(maxsize=1024)
def matcher(keywords: tuple[str, ...]) -> KeywordMatcher:
    """The compiled form of a list of keywords, remembered between requests."""
    return KeywordMatcher.of(keywords)
