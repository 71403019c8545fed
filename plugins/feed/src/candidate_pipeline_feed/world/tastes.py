"""What nobody sees: who likes what, who writes about what and how well.

Everything observable is drawn from these latents, so a model that sees enough of it can recover them. The utility of
a post for a reader is a dot product of reader and post factors: taste for the topic, a match of style between reader
and author, the post's quality, and a penalty for a language that the reader does not read.
"""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_feed.world.vocabulary import LANGUAGES, Vocabulary

Floats = NDArray[np.float64]

STYLES = 8
TASTE_WEIGHT, STYLE_WEIGHT, QUALITY_WEIGHT, FOREIGN_PENALTY = 1.0, 0.8, 0.7, 1.5
_LANGUAGE_SHARES = (0.84, 0.09, 0.07)
_AUTHOR_SHARE = 0.35


@attrs.frozen(eq=False)
class Latents:
    """The hidden side of the people; all arrays are by row of the users table.

    Args:
        taste: Liking of each topic, standardised per person, float64 [users, topics].
        style: Style that a person likes and writes in, float64 [users, 8].
        writes: Shares of topics in what a person posts, float64 [users, topics].
        skill: Mean quality of what a person posts, float64 [users].
        posting: Relative rate of original posts, 0 for those who only read, float64 [users].
        fame: Log of how likely a person is to be followed, beside taste, float64 [users].
        activity: Relative number of posts that a person looks at, float64 [users].
        language: Index into `LANGUAGES`, int64 [users].
    """

    taste: Floats
    style: Floats
    writes: Floats
    skill: Floats
    posting: Floats
    fame: Floats
    activity: Floats
    language: NDArray[np.int64]

    def reader_factors(self) -> Floats:
        """Reader side of the utility, float64 [users, topics + 8 + 1 + languages]."""
        reads = np.eye(len(LANGUAGES))[self.language]
        return np.concatenate(
            [
                TASTE_WEIGHT * self.taste,
                STYLE_WEIGHT * self.style / np.sqrt(STYLES),
                np.full((len(self.taste), 1), QUALITY_WEIGHT),
                FOREIGN_PENALTY * (reads - 1.0),
            ],
            axis=1,
        )


def post_factors(
    topic: NDArray[np.int64], style: Floats, quality: Floats, language: NDArray[np.int64], topics: int
) -> Floats:
    """Post side of the utility, float64 [posts, topics + 8 + 1 + languages]."""
    return np.concatenate([np.eye(topics)[topic], style, quality[:, None], np.eye(len(LANGUAGES))[language]], axis=1)


def draw_latents(rng: np.random.Generator, users: int, words: Vocabulary) -> Latents:
    """Draw the hidden side of a number of people."""
    shares = np.array([topic.share for topic in words.topics])
    # Sparse Dirichlet: most people care for two to four topics and are cool about the rest.
    likes = rng.dirichlet(0.22 * shares / shares.mean(), size=users)
    taste = np.log(likes + 0.02)
    taste = (taste - taste.mean(axis=1, keepdims=True)) / taste.std(axis=1, keepdims=True)
    style = rng.normal(size=(users, STYLES))
    # People write about what they like, mostly about one thing.
    writes = np.exp(2.5 * taste)
    writes /= writes.sum(axis=1, keepdims=True)
    posting = rng.pareto(1.6, size=users) + 0.3
    posting[rng.random(users) > _AUTHOR_SHARE] = 0.0
    skill = rng.normal(scale=0.6, size=users)
    fame = 1.1 * rng.normal(size=users) + 0.5 * skill + 0.8 * np.log(posting + 0.05)
    activity = rng.lognormal(sigma=0.8, size=users)
    activity[rng.random(users) < 0.04] = 0.0
    language = rng.choice(len(LANGUAGES), size=users, p=_LANGUAGE_SHARES).astype(np.int64)
    return Latents(taste, style, writes, skill, posting, fame, np.minimum(activity, 6.0), language)
