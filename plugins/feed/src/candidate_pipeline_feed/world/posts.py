"""The posts of the world: originals, replies, reposts and quotes over some two days."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_feed.world.people import People
from candidate_pipeline_feed.world.tastes import STYLES, Latents, post_factors
from candidate_pipeline_feed.world.text import write_post, write_quote, write_reply
from candidate_pipeline_feed.world.vocabulary import LANGUAGES, Vocabulary

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]

SNOWFLAKE_EPOCH_MS = 1_288_834_974_657
"""Start of the clock in X's ids: `(id >> 22) + 1288834974657` is the creation time in ms."""
HOUR_MS = 3_600_000
_REPLIES, _REPOSTS, _QUOTES, _VIDEOS = 0.17, 0.09, 0.04, 0.26


@attrs.frozen(eq=False)
class Posts:
    """The posts, by row of the items table, ordered by time; -1 stands for "none" in the columns of rows.

    Args:
        item_id: Snowflake ids, int64 [posts].
        author: Row of the author.
        created_at: ms, int64 [posts].
        text: What they say.
        topic: Index of the topic.
        language: Index into `LANGUAGES`.
        reply_to: Row of the post that it answers.
        root: Row of the first post of the conversation; its own row where it is no reply.
        repost_of: Row of the post that it passes on.
        quote_of: Row of the post that it quotes.
        video_ms: Length of the video, 0 for none.
        subscriber_only: Whether it is for subscribers, bool [posts].
        quality: How good it is, float64 [posts].
        factors: Post side of the utility, float64 [posts, factors].
    """

    item_id: Rows
    author: Rows
    created_at: Rows
    text: tuple[str, ...]
    topic: Rows
    language: Rows
    reply_to: Rows
    root: Rows
    repost_of: Rows
    quote_of: Rows
    video_ms: Rows
    subscriber_only: NDArray[np.bool_]
    quality: Floats
    factors: Floats

    @property
    def original(self) -> Rows:
        """Row of the post whose content it shows, int64 [posts]."""
        return np.where(self.repost_of >= 0, self.repost_of, np.arange(len(self.author)))


def daylight(hours: Floats) -> Floats:
    """How busy the network is at an hour of the day, between 0.15 and 1."""
    busy: Floats = 0.15 + 0.85 * np.clip(np.sin((hours - 7.0) / 16.0 * np.pi), 0.0, None)
    return busy


def _original_times(rng: np.random.Generator, count: int, start_ms: int, end_ms: int) -> Rows:
    bins = np.arange(start_ms, end_ms, HOUR_MS // 4)
    busy = daylight(bins / HOUR_MS % 24)
    chosen = rng.choice(len(bins), size=count, p=busy / busy.sum())
    times = bins[chosen] + (rng.random(count) * HOUR_MS / 4).astype(np.int64)
    return np.minimum(times, end_ms)


def snowflakes(rng: np.random.Generator, created_at: Rows) -> Rows:
    """Ids of 42 bits of creation time, 10 bits of machine and 12 bits that count up within a millisecond.

    Args:
        rng: Draws the machines.
        created_at: Creation times in ms, in order, int64 [posts].
    """
    sequence = np.zeros(len(created_at), dtype=np.int64)
    for row in range(1, len(created_at)):
        if created_at[row] == created_at[row - 1]:
            sequence[row] = sequence[row - 1] + 1
    machine = rng.integers(1024, size=len(created_at))
    return ((created_at - SNOWFLAKE_EPOCH_MS) << 22) | (machine << 12) | sequence


def draw_posts(
    rng: np.random.Generator,
    latents: Latents,
    people: People,
    words: Vocabulary,
    count: int,
    start_ms: int,
    end_ms: int,
) -> Posts:
    """Draw `count` posts between two times (ms)."""
    users = len(latents.taste)
    replies, reposts, quotes = (int(count * share) for share in (_REPLIES, _REPOSTS, _QUOTES))
    originals = count - replies - reposts - quotes
    kind = np.array(["original"] * originals + ["reply"] * replies + ["repost"] * reposts + ["quote"] * quotes)

    author = np.zeros(count, dtype=np.int64)
    created = np.zeros(count, dtype=np.int64)
    topic = np.zeros(count, dtype=np.int64)
    parent = np.full(count, -1, dtype=np.int64)
    quality = np.zeros(count)
    style = np.zeros((count, STYLES))

    posting = latents.posting / latents.posting.sum()
    author[:originals] = rng.choice(users, size=originals, p=posting)
    created[:originals] = np.sort(_original_times(rng, originals, start_ms, end_ms - 10 * 60_000))
    quality[:originals] = latents.skill[author[:originals]] + rng.normal(scale=0.8, size=originals)
    style[:originals] = latents.style[author[:originals]] + rng.normal(scale=0.5, size=(originals, STYLES))
    cumulative = latents.writes.cumsum(axis=1)[author[:originals]]
    topic[:originals] = (cumulative < rng.random((originals, 1))).sum(axis=1).clip(max=len(words.topics) - 1)

    readers = latents.reader_factors()
    attraction = np.exp(1.2 * quality[:originals])
    attraction /= attraction.sum()
    responses = np.arange(originals, count)
    for row in responses.tolist():
        target = int(rng.choice(originals, p=attraction))
        if kind[row] == "reply" and rng.random() < 0.3:  # an answer to an answer
            earlier = np.flatnonzero((parent[:row] >= 0) & (kind[:row] == "reply"))
            target = int(rng.choice(earlier)) if len(earlier) else target
        content = post_factors(
            topic[[target]], style[[target]], quality[[target]], latents.language[author[[target]]], len(words.topics)
        )
        crowd = rng.integers(users, size=60)
        crowd = crowd[crowd != author[target]]
        appeal = readers[crowd] @ content[0] + np.log(latents.activity[crowd] + 0.05) + rng.gumbel(size=len(crowd))
        author[row] = crowd[int(np.argmax(appeal))]
        wait = min(int(rng.exponential(1.5 * HOUR_MS)) + 20_000, int(0.9 * (end_ms - created[target])) + 1)
        created[row] = min(created[target] + max(wait, 1), end_ms)
        parent[row], topic[row] = target, topic[target]
        if kind[row] == "repost":
            quality[row], style[row] = quality[target], style[target]
        else:
            quality[row] = latents.skill[author[row]] - 0.3 + rng.normal(scale=0.7)
            style[row] = 0.5 * (style[target] + latents.style[author[row]])

    language = latents.language[author]
    language = np.where(kind == "repost", latents.language[author[np.maximum(parent, 0)]], language)
    length = np.clip(28_000 * rng.lognormal(sigma=0.9, size=count), 4_000, 900_000).astype(np.int64)
    video_ms = np.where((kind == "original") & (rng.random(count) < _VIDEOS), length, 0)
    video_ms = np.where(kind == "repost", video_ms[np.maximum(parent, 0)], video_ms)
    exclusive = (kind == "original") & people.sells[author] & (rng.random(count) < 0.25)
    exclusive &= ~np.isin(np.arange(count), parent)  # what others answer or pass on was public

    text: list[str] = []
    for row in range(count):
        speech = LANGUAGES[int(language[row])]
        if kind[row] == "original":
            someone = people.handles[int(rng.integers(users))]
            text.append(write_post(rng, words, int(topic[row]), speech, someone))
        elif kind[row] == "reply":
            text.append(write_reply(rng, words, int(topic[row]), speech, people.handles[author[parent[row]]]))
        elif kind[row] == "quote":
            text.append(write_quote(rng, words, int(topic[row]), speech))
        else:
            text.append(f"RT @{people.handles[author[parent[row]]]}: {text[int(parent[row])]}")

    root: Rows = np.arange(count, dtype=np.int64)
    for row in np.flatnonzero(kind == "reply").tolist():  # parents come before their answers
        root[row] = root[parent[row]]

    order = np.lexsort((np.arange(count), created))
    place = np.empty(count + 1, dtype=np.int64)
    place[order] = np.arange(count)
    place[-1] = -1  # what -1, "none", maps to
    created = created[order]
    return Posts(
        item_id=snowflakes(rng, created),
        author=author[order],
        created_at=created,
        text=tuple(text[row] for row in order),
        topic=topic[order],
        language=language[order],
        reply_to=place[np.where(kind == "reply", parent, -1)][order],
        root=place[root][order],
        repost_of=place[np.where(kind == "repost", parent, -1)][order],
        quote_of=place[np.where(kind == "quote", parent, -1)][order],
        video_ms=video_ms[order],
        subscriber_only=exclusive[order],
        quality=quality[order],
        factors=post_factors(topic, style, quality, language, len(words.topics))[order],
    )
