"""Who is shown what, and when: sessions over two days, filled from follows, popular posts and chance."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_feed.world.people import People, Relations
from candidate_pipeline_feed.world.posts import HOUR_MS, Posts, daylight
from candidate_pipeline_feed.world.tastes import Latents

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]

FOLLOWED, POPULAR, EXPLORED = 0.55, 0.30, 0.15
"""Shares of what a session shows: followed authors, what is popular, chance."""
_SLOT_MS = 20 * 60_000  # at most one session a person in each
_SESSION_POSTS = 12
_FOREIGN = 0.05


@attrs.frozen(eq=False)
class Exposures:
    """Posts shown to people, session by session in the order shown; all of shape [impressions].

    Args:
        user: Row of the person.
        post: Row of the post.
        session: Number of the session.
        opened: When the session began, ms.
        followed: Whether the person followed the author then.
    """

    user: Rows
    post: Rows
    session: Rows
    opened: Rows
    followed: NDArray[np.bool_]


def _mentions(posts: Posts, words: set[str]) -> dict[str, NDArray[np.bool_]]:
    tokens = [{token.strip("#@.,:;!?").lower() for token in text.split()} for text in posts.text]
    return {word: np.array([word in found for found in tokens], dtype=np.bool_) for word in sorted(words)}


def _session_starts(rng: np.random.Generator, wanted: float, start_ms: int, end_ms: int) -> Rows:
    slots = np.arange(start_ms, end_ms - _SLOT_MS + 1, _SLOT_MS)
    habit = rng.normal(scale=2.0)  # early birds and night owls
    busy = daylight((slots / HOUR_MS + habit) % 24)
    count = min(int(rng.poisson(wanted / _SESSION_POSTS)), len(slots))
    chosen = np.sort(rng.choice(slots, size=count, replace=False, p=busy / busy.sum()))
    return chosen + rng.integers(_SLOT_MS // 4, size=count)


def draw_exposures(
    rng: np.random.Generator,
    latents: Latents,
    people: People,
    relations: Relations,
    posts: Posts,
    per_user: float,
    start_ms: int,
    end_ms: int,
) -> Exposures:
    """Draw who sees what between two times (ms), `per_user` posts a person on average.

    Nobody is shown own posts, posts seen before (a repost counts as what it passes on), blocked or muted authors,
    posts with a muted word, or posts for subscribers of somebody else.
    """
    users, original = len(latents.taste), posts.original
    follows, blocks, mutes, subscribes = (relations.of(k, users) for k in ("follow", "block", "mute", "subscribe"))
    mentions = _mentions(posts, {word for words in people.muted_words for word in words})
    pull = np.exp(1.1 * posts.quality + 0.4 * latents.fame[posts.author])
    mean_activity = latents.activity.mean()
    parts: list[tuple[Rows, Rows, Rows, Rows, NDArray[np.bool_]]] = []
    session = 0
    for user in range(users):
        followed = np.zeros(users, dtype=np.bool_)
        followed[follows[user]] = True
        hidden = np.zeros(users, dtype=np.bool_)
        hidden[[*blocks[user], *mutes[user], user]] = True
        paid = np.zeros(users, dtype=np.bool_)
        paid[subscribes[user]] = True
        open_to = ~hidden[posts.author] & (~posts.subscriber_only | paid[posts.author])
        open_to &= original >= 0
        open_to &= ~hidden[posts.author[original]]
        for word in people.muted_words[user]:
            open_to &= ~mentions[word]
        known = followed[posts.author]
        speaks = np.where(posts.language == latents.language[user], 1.0, _FOREIGN)
        taste = np.exp(0.4 * latents.taste[user][posts.topic])
        seen = np.zeros(len(original), dtype=np.bool_)
        wanted = per_user * latents.activity[user] / mean_activity
        for opened in _session_starts(rng, wanted, start_ms, end_ms):
            recent = slice(
                int(np.searchsorted(posts.created_at, opened - 48 * HOUR_MS)),
                int(np.searchsorted(posts.created_at, opened)),
            )
            age = (opened - posts.created_at[recent]) / HOUR_MS
            free = open_to[recent] & ~seen[original[recent]]
            near = known[recent]
            weights = np.zeros(len(age))
            for share, weight in (
                (FOLLOWED, near * np.exp(-age / 6.0)),
                (POPULAR, ~near * (pull * speaks * taste)[recent] * np.exp(-age / 10.0)),
                (EXPLORED, ~near * speaks[recent] * np.exp(-age / 24.0)),
            ):
                total = float((weight * free).sum())
                weights += share * weight * free / total if total > 0 else 0.0
            chosen = np.flatnonzero(weights > 0)
            size = min(len(chosen), 4 + int(rng.poisson(_SESSION_POSTS - 4)))
            keys = np.log(weights[chosen]) + rng.gumbel(size=len(chosen))
            shown = chosen[np.argsort(-keys, kind="stable")[:size]] + recent.start
            _unique, first = np.unique(original[shown], return_index=True)
            shown = shown[np.sort(first)]
            if len(shown):
                seen[original[shown]] = True
                full = np.ones(len(shown), dtype=np.int64)
                parts.append((user * full, shown, session * full, int(opened) * full, known[shown]))
                session += 1
    if not parts:
        nothing = np.zeros(0, dtype=np.int64)
        return Exposures(nothing, nothing, nothing, nothing, nothing.astype(np.bool_))
    user_rows, post_rows, sessions, times, near_rows = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Exposures(user_rows, post_rows, sessions, times, near_rows)
