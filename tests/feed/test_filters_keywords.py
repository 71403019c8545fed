"""Muted keywords: what matches what."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.keys import ITEM_ID
from candidate_pipeline.query import Query
from candidate_pipeline_feed.filters.muted_keywords import MutedKeywords
from candidate_pipeline_feed.keys import MUTED_KEYWORDS, TEXT
from candidate_pipeline_feed.text_match import KeywordMatcher, fold, tokens


def muted(keyword: str, text: str | None) -> bool:
    """Whether a keyword mutes a text."""
    return KeywordMatcher.of([keyword]).matches(text)


@pytest.mark.parametrize(
    ("keyword", "text"), [("Cats", "I like CATS"), ("STRASSE", "die Straße"), ("ΣΑΣ", "για σας"), ("ı", "I")]
)
def test_case_does_not_count(keyword: str, text: str) -> None:
    """Case is folded in keyword and text."""
    assert muted(keyword, text)


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("café", "the cafe is open"),
        ("cafe", "the Café is open"),
        ("cafe\u0301", "CAFÉ"),
        ("Lodz", "Łódź"),
        ("ｃａｔ", "cat"),
    ],
)
def test_accents_do_not_count(keyword: str, text: str) -> None:
    """Accents are folded in keyword and text, however they are encoded."""
    assert muted(keyword, text)


@pytest.mark.parametrize("text", ["(cats)!", "«cats»", "dogs,cats,birds", "cats…", "'cats'", "cats's", "one—cats—two"])
def test_punctuation_around_words_is_ignored(text: str) -> None:
    """A word is found between any punctuation."""
    assert muted("cats", text)
    assert muted("cats!", text)


@pytest.mark.parametrize(
    ("keyword", "text"),
    [("cat", "cats"), ("cat", "concatenate"), ("18", "2018"), ("18", "180"), ("art", "start"), ("cat", "cat_tree")],
)
def test_only_whole_tokens_match(keyword: str, text: str) -> None:
    """A part of a word, or of a number, is not the word."""
    assert not muted(keyword, text)
    assert muted(keyword, f"{text} {keyword}")


def test_a_phrase_is_a_contiguous_run() -> None:
    """A phrase matches where its words follow each other, whatever stands between as punctuation, and nowhere else."""
    assert muted("world cup", "the World  Cup!")
    assert muted("world cup", "world, cup")
    assert not muted("world cup", "the world of the cup")
    assert not muted("world cup", "cup world")
    assert not muted("world cup", "world cups")


@pytest.mark.parametrize("text", ["velo", "#velo", "@velo", "see #Vélo."])
def test_a_bare_word_matches_hashtag_and_mention(text: str) -> None:
    """A bare word matches the word, the hashtag and the mention."""
    assert muted("velo", text)


def test_a_hashtag_matches_the_hashtag_only() -> None:
    """A keyword with # does not match the plain word or the mention; one with @ only the mention."""
    assert muted("#velo", "my #Velo")
    assert not muted("#velo", "my velo")
    assert not muted("#velo", "my @velo")
    assert not muted("#velo", "#velodrome")
    assert muted("@velo", "thanks @velo!")
    assert not muted("@velo", "#velo velo")


@pytest.mark.parametrize("keyword", ["", " ", "!?", "#", "\u200d"])
def test_an_empty_keyword_never_matches(keyword: str) -> None:
    """A keyword without any word matches nothing, not even itself, and does not spoil the others."""
    assert not muted(keyword, "some text")
    assert not muted(keyword, keyword)
    assert KeywordMatcher.of([keyword, "text"]).matches("some text")


@pytest.mark.parametrize("text", ["", " ", "...", None])
def test_an_empty_text_never_matches(text: str | None) -> None:
    """A text without any word matches nothing."""
    assert not muted("cats", text)


def test_apostrophes_end_words() -> None:
    """Possessives and elisions hold the word; a keyword with an apostrophe matches as a phrase."""
    assert muted("saturn", "Saturn's rings")
    assert muted("homme", "l\u2019homme")
    assert muted("don't", "Don\u2019t do it")
    assert not muted("don't", "the don has a t-shirt")


def test_pictographs_are_words() -> None:
    """An emoji can be muted, whatever it touches."""
    assert muted("🎉", "party🎉🎉now")
    assert muted("👍", "👍🏽")
    assert not muted("🎉", "🎈")


def test_scripts_with_vowel_signs_keep_their_words() -> None:
    """A Hindi or Thai word is one word, so a piece of it is not found in it; kana voicing is no accent."""
    assert len(tokens("हिन्दी")) == 1
    assert muted("हिन्दी", "मैं हिन्दी बोलता हूँ")
    assert not muted("ह", "हिन्दी")
    assert not muted("か", "が")


def test_regular_expressions_are_plain_text() -> None:
    """Characters with a meaning in patterns have none in keywords."""
    assert not muted("c.t", "cat")
    assert not muted("(", "(")
    assert muted("c++", "c")


@given(st.lists(st.text("ab #@.'é", max_size=6), max_size=4), st.text("ab #@.'é", max_size=20))
def test_agrees_with_the_definition(keywords: list[str], text: str) -> None:
    """The compiled matcher finds what comparing token by token finds."""
    words = tokens(text)

    def occurs(keyword: str) -> bool:
        run = tokens(keyword)
        return bool(run) and any(
            all(
                token.word == word.word and token.sigil in {"", word.sigil}
                for token, word in zip(run, words[start : start + len(run)], strict=True)
            )
            for start in range(len(words) - len(run) + 1)
        )

    assert KeywordMatcher.of(keywords).matches(text) == any(map(occurs, keywords))


@given(st.text(max_size=12))
def test_a_text_with_a_word_matches_itself(text: str) -> None:
    """Any text in any script matches itself, if it has a word, and also in the middle of another."""
    if tokens(text):
        assert muted(text, text)
        assert muted(text, f"so. {text} .so")


@given(st.text(max_size=12))
def test_folding_twice_changes_nothing(text: str) -> None:
    """Folded words fold to themselves."""
    assert tokens(fold(text)) == tokens(text)


def test_filter() -> None:
    """The filter drops posts that hold any of the viewer's words; a null text holds none."""
    posts = Candidates.of(
        ITEM_ID([1, 2, 3, 4]), TEXT(np.array(["a cat", "a dog", "", None], object), valid=[True, True, True, False])
    )
    ctx = Context("muted")

    def keep(*keywords: str) -> list[bool]:
        answer: list[bool] = MutedKeywords().keep(Query(features={MUTED_KEYWORDS: keywords}), posts, ctx).tolist()
        return answer

    assert keep("cat") == [False, True, True, True]
    assert keep("cat", "dog") == [False, False, True, True]
    assert keep() == [True] * 4
    assert keep("", "!") == [True] * 4
